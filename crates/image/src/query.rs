//! The query of a list: filters, order, page (Image API v2, "List images").

use crate::db::{Comparison, Filter, Sort, SortKey};
use crate::fault::Fault;
use types::Timestamp;

/// A list request before its marker is looked up.
#[derive(Debug, Default, PartialEq)]
pub struct Query {
    /// At most so many images.
    pub limit: Option<usize>,
    /// Only images after this one.
    pub marker: Option<String>,
    /// `None`: any.
    pub member_status: Option<String>,
    /// `all` or one visibility.
    pub visibility: Option<String>,
    /// Conditions.
    pub filters: Vec<Filter>,
    /// Ends in the id.
    pub order: Vec<Sort>,
}

const SORT_KEYS: [(&str, SortKey); 8] = [
    ("name", SortKey::Name),
    ("status", SortKey::Status),
    ("container_format", SortKey::ContainerFormat),
    ("disk_format", SortKey::DiskFormat),
    ("size", SortKey::Size),
    ("id", SortKey::Id),
    ("created_at", SortKey::CreatedAt),
    ("updated_at", SortKey::UpdatedAt),
];

/// Reads the decoded pairs of a query string.
pub fn parse(pairs: &[(String, String)]) -> Result<Query, Fault> {
    let mut query = Query {
        member_status: Some("accepted".to_owned()),
        ..Query::default()
    };
    let mut hidden = false;
    let mut sorting = Sorting::default();
    for (name, content) in pairs {
        if name.contains('\0') || content.contains('\0') {
            return Err(Fault::bad_request("The query contains a null character."));
        }
        match name.as_str() {
            "limit" => query.limit = Some(limit(content)?),
            "marker" => query.marker = Some(content.clone()),
            "member_status" => query.member_status = member_status(content)?,
            "visibility" => query.visibility = visibility(content)?,
            "changes-since" => {
                return Err(Fault::bad_request(
                    "The \"changes-since\" filter is no longer available on v2.",
                ));
            }
            "os_hidden" => hidden = boolean(name, content)?,
            "sort" => sorting.new = Some(content.clone()),
            "sort_key" => sorting.keys.push(content.trim().to_owned()),
            "sort_dir" => sorting.directions.push(content.trim().to_owned()),
            _ => query.filters.push(filter(name, content)?),
        }
    }
    query.filters.push(Filter::Number(
        "os_hidden",
        Comparison::Eq,
        i64::from(hidden),
    ));
    query.order = sorting.order()?;
    Ok(query)
}

fn limit(text: &str) -> Result<usize, Fault> {
    let number: i64 = text
        .trim()
        .parse()
        .map_err(|_| Fault::bad_request("limit param must be an integer"))?;
    usize::try_from(number).map_err(|_| Fault::bad_request("limit param must be positive"))
}

fn member_status(text: &str) -> Result<Option<String>, Fault> {
    match text {
        "all" => Ok(None),
        "pending" | "accepted" | "rejected" => Ok(Some(text.to_owned())),
        _ => Err(Fault::bad_request(format!("Invalid status: {text}"))),
    }
}

fn visibility(text: &str) -> Result<Option<String>, Fault> {
    match text {
        "" => Ok(None),
        "community" | "public" | "private" | "shared" | "all" => Ok(Some(text.to_owned())),
        _ => Err(Fault::bad_request(format!(
            "Invalid visibility value: {text}"
        ))),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool, Fault> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::bad_request(format!(
            "Invalid value '{text}' for '{name}' filter. Valid values are 'true' or 'false'."
        ))),
    }
}

fn filter(name: &str, content: &str) -> Result<Filter, Fault> {
    Ok(match name {
        "tag" => Filter::Tag(content.trim().to_owned()),
        "name" => Filter::Text("name", texts(content)?),
        "id" => Filter::Text("id", texts(content)?),
        "status" => Filter::Text("status", texts(content)?),
        "container_format" => Filter::Text("container_format", texts(content)?),
        "disk_format" => Filter::Text("disk_format", texts(content)?),
        "owner" => Filter::Text("owner", vec![content.to_owned()]),
        "checksum" => Filter::Text("checksum", vec![content.to_owned()]),
        "os_hash_algo" => Filter::Text("os_hash_algo", vec![content.to_owned()]),
        "os_hash_value" => Filter::Text("os_hash_value", vec![content.to_owned()]),
        "protected" => Filter::Number(
            "protected",
            Comparison::Eq,
            i64::from(boolean(name, content)?),
        ),
        "created_at" => time("created_at", content)?,
        "updated_at" => time("updated_at", content)?,
        _ => match number(name, content)? {
            Some(filter) => filter,
            None => Filter::Property(name.to_owned(), content.to_owned()),
        },
    })
}

/// `size`, `size_min`, `size_max` and the same for the other numbers.
fn number(name: &str, content: &str) -> Result<Option<Filter>, Fault> {
    let (base, comparison) = if let Some(base) = name.strip_suffix("_min") {
        (base, Comparison::Gte)
    } else if let Some(base) = name.strip_suffix("_max") {
        (base, Comparison::Lte)
    } else {
        (name, Comparison::Eq)
    };
    let column = match base {
        "size" => "size_bytes",
        "virtual_size" => "virtual_size",
        "min_disk" => "min_disk",
        "min_ram" => "min_ram",
        _ => return Ok(None),
    };
    let number = content.trim().parse();
    let number = number
        .map_err(|_| Fault::bad_request("Unable to filter on a range with a non-numeric value."))?;
    Ok(Some(Filter::Number(column, comparison, number)))
}

/// `value`, `eq:value` or `in:a,b,"c,d"`.
fn texts(content: &str) -> Result<Vec<String>, Fault> {
    match content.split_once(':') {
        None => Ok(vec![content.to_owned()]),
        Some(("eq", text)) => Ok(vec![text.to_owned()]),
        Some(("in", list)) => split_list(list),
        Some((operator, _)) => Err(Fault::bad_request(format!(
            "Unable to filter by unknown operator '{operator}'."
        ))),
    }
}

/// Values between commas; quoted ones may contain commas.
fn split_list(list: &str) -> Result<Vec<String>, Fault> {
    let bad = || {
        Fault::bad_request(format!(
            "Invalid filter value {list}. There is no comma between or after a quotation mark."
        ))
    };
    let mut values = Vec::new();
    let mut rest = list;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (value, after) = quoted.split_once('"').ok_or_else(bad)?;
            values.push(value.to_owned());
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None if after.is_empty() => return Ok(values),
                None => return Err(bad()),
            }
        } else {
            match rest.split_once(',') {
                Some((value, after)) => {
                    values.push(value.to_owned());
                    rest = after;
                }
                None => {
                    values.push(rest.to_owned());
                    return Ok(values);
                }
            }
        }
    }
}

/// `2026-01-01T00:00:00Z`, or with `gt:`, `gte:`, `lt:`, `lte:`, `eq:`, `neq:` before it.
fn time(column: &'static str, content: &str) -> Result<Filter, Fault> {
    let (comparison, text) = match content.split_once(':') {
        Some(("eq", text)) => (Comparison::Eq, text),
        Some(("neq", text)) => (Comparison::Neq, text),
        Some(("gt", text)) => (Comparison::Gt, text),
        Some(("gte", text)) => (Comparison::Gte, text),
        Some(("lt", text)) => (Comparison::Lt, text),
        Some(("lte", text)) => (Comparison::Lte, text),
        _ => (Comparison::Eq, content),
    };
    let at = Timestamp::parse(text).ok_or_else(|| {
        Fault::bad_request(format!(
            "Bad \"{column}\" query filter format. Use ISO 8601 DateTime notation."
        ))
    })?;
    // What users see has whole seconds, so a second is a span: `gt` is after its end, `gte` from its beginning.
    let second = Timestamp::from_seconds(at.seconds());
    let whole = second == at;
    let last = second.plus(std::time::Duration::from_micros(999_999));
    Ok(match comparison {
        Comparison::Gt | Comparison::Lte if whole => {
            Filter::Number(column, comparison, last.micros())
        }
        Comparison::Eq | Comparison::Neq if whole => {
            Filter::Second(column, comparison == Comparison::Eq, at.seconds())
        }
        _ => Filter::Number(column, comparison, at.micros()),
    })
}

#[derive(Default)]
struct Sorting {
    new: Option<String>,
    keys: Vec<String>,
    directions: Vec<String>,
}

impl Sorting {
    fn order(self) -> Result<Vec<Sort>, Fault> {
        let pairs = self.pairs()?;
        let mut order = Vec::new();
        for (name, direction) in &pairs {
            let key = SORT_KEYS
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, key)| *key)
                .ok_or_else(|| {
                    let available = SORT_KEYS.map(|(name, _)| name).join(", ");
                    Fault::bad_request(format!(
                        "Invalid sort key: {name}. It must be one of the following: {available}."
                    ))
                })?;
            let descending = match direction.as_str() {
                "desc" => true,
                "asc" => false,
                other => {
                    return Err(Fault::bad_request(format!(
                        "Invalid sort direction: {other}"
                    )));
                }
            };
            order.push(Sort { key, descending });
        }
        // A total order, so that pages neither repeat nor skip.
        let descending = order.first().is_none_or(|first| first.descending);
        for key in [SortKey::CreatedAt, SortKey::Id] {
            if !order.iter().any(|sort| sort.key == key) {
                order.push(Sort { key, descending });
            }
        }
        Ok(order)
    }

    fn pairs(self) -> Result<Vec<(String, String)>, Fault> {
        if let Some(new) = self.new {
            if !self.keys.is_empty() || !self.directions.is_empty() {
                return Err(Fault::bad_request(
                    "Old and new sorting syntax cannot be combined",
                ));
            }
            return Ok(new
                .trim()
                .split(',')
                .map(|pair| {
                    let (key, direction) = pair.split_once(':').unwrap_or((pair, ""));
                    let direction = if direction.is_empty() {
                        "desc"
                    } else {
                        direction
                    };
                    (key.trim().to_owned(), direction.trim().to_owned())
                })
                .collect());
        }
        if self.directions.len() > 1 && self.directions.len() != self.keys.len() {
            return Err(Fault::bad_request(
                "Number of sort dirs does not match the number of sort keys",
            ));
        }
        let keys = if self.keys.is_empty() {
            vec!["created_at".to_owned()]
        } else {
            self.keys
        };
        let first = self
            .directions
            .first()
            .cloned()
            .unwrap_or_else(|| "desc".to_owned());
        let directions = self.directions.into_iter().chain(std::iter::repeat(first));
        Ok(keys.into_iter().zip(directions).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Query, Fault> {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect();
        parse(&pairs)
    }

    #[test]
    fn filters() {
        let first = |text: &str| read(text).unwrap().filters.remove(0);
        let texts = |column, all: &[&str]| {
            Filter::Text(column, all.iter().map(|one| (*one).to_owned()).collect())
        };
        assert_eq!(first("name=a"), texts("name", &["a"]));
        assert_eq!(
            first("name=in:a,%22b,c%22,d"),
            texts("name", &["a", "b,c", "d"])
        );
        assert_eq!(first("status=eq:active"), texts("status", &["active"]));
        assert_eq!(first("tag=x"), Filter::Tag("x".into()));
        assert_eq!(
            first("size_min=5"),
            Filter::Number("size_bytes", Comparison::Gte, 5)
        );
        assert_eq!(
            first("min_ram=5"),
            Filter::Number("min_ram", Comparison::Eq, 5)
        );
        assert_eq!(
            first("os_distro=debian"),
            Filter::Property("os_distro".into(), "debian".into())
        );
        assert_eq!(first(""), Filter::Number("os_hidden", Comparison::Eq, 0));
        assert_eq!(
            first("created_at=gte:1970-01-01T00:00:01Z"),
            Filter::Number("created_at", Comparison::Gte, 1_000_000)
        );
        assert_eq!(
            first("created_at=gt:1970-01-01T00:00:01Z"),
            Filter::Number("created_at", Comparison::Gt, 1_999_999)
        );
        assert_eq!(
            first("updated_at=1970-01-01T00:00:01Z"),
            Filter::Second("updated_at", true, 1)
        );
    }

    #[test]
    fn orders() {
        let keys = |text: &str| -> Vec<(SortKey, bool)> {
            read(text)
                .unwrap()
                .order
                .into_iter()
                .map(|sort| (sort.key, sort.descending))
                .collect()
        };
        use SortKey::{CreatedAt, Id, Name, Size};
        assert_eq!(keys(""), [(CreatedAt, true), (Id, true)]);
        assert_eq!(
            keys("sort=name:asc,size"),
            [(Name, false), (Size, true), (CreatedAt, false), (Id, false)]
        );
        assert_eq!(
            keys("sort_key=name&sort_dir=asc&sort_key=id&sort_dir=desc"),
            [(Name, false), (Id, true), (CreatedAt, false)]
        );
        assert_eq!(
            keys("sort_key=name&sort_key=size&sort_dir=asc")[1],
            (Size, false)
        );
    }

    #[test]
    fn refusals() {
        let cases = [
            ("name=%00", "null character"),
            ("limit=x", "must be an integer"),
            ("limit=-1", "must be positive"),
            ("visibility=mine", "Invalid visibility value: mine"),
            ("member_status=x", "Invalid status: x"),
            ("os_hidden=maybe", "'os_hidden' filter"),
            ("protected=1", "'protected' filter"),
            ("changes-since=x", "no longer available"),
            ("sort=name:up", "Invalid sort direction: up"),
            ("sort_key=owner", "Invalid sort key: owner"),
            ("sort=name&sort_key=name", "cannot be combined"),
            (
                "sort_dir=asc&sort_dir=asc&sort_key=name",
                "Number of sort dirs",
            ),
            ("size_max=big", "non-numeric"),
            ("name=like:x", "unknown operator 'like'"),
            ("name=in:%22a", "quotation mark"),
            ("created_at=yesterday", "ISO 8601"),
        ];
        for (text, message) in cases {
            let fault = read(text).unwrap_err();
            assert_eq!(fault.status, 400, "{text}");
            assert!(
                fault.explanation.contains(message),
                "{text}: {}",
                fault.explanation
            );
        }
    }
}
