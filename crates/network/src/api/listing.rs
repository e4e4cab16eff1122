//! Lists: filters, sorting, pages, chosen fields (Networking API, "Filtering and Column Selection", "Pagination", "Sorting").

use crate::db::{self, Match};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::Work;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A query string, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All pairs as they came.
    pairs: Vec<(String, String)>,
    /// `fields`.
    pub fields: Vec<String>,
}

const CONTROL: &[&str] = &[
    "fields",
    "sort_key",
    "sort_dir",
    "limit",
    "marker",
    "page_reverse",
];
const TAG_FILTERS: &[&str] = &["tags", "tags-any", "not-tags", "not-tags-any"];

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
            .into_owned()
            .collect();
        let fields = pairs
            .iter()
            .filter(|(name, value)| name == "fields" && !value.is_empty())
            .map(|(_, value)| value.clone())
            .collect();
        Self { pairs, fields }
    }

    /// The values of a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.pairs
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The last value of a parameter.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.all(name).pop()
    }

    /// The filters by attribute.
    fn filters(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in self
            .pairs
            .iter()
            .filter(|(name, _)| !CONTROL.contains(&name.as_str()))
        {
            let name = if name == "tenant_id" {
                "project_id"
            } else {
                name.as_str()
            };
            filters.entry(name).or_default().push(value);
        }
        filters
    }
}

/// The answer to a list: the body with its links.
pub fn list(
    work: &mut Work<'_, '_>,
    kind: Kind,
    query: &Query,
    path: &str,
) -> Result<Value, Fault> {
    let filters = query.filters();
    check_filters(kind, &filters)?;
    let matches = conditions(work, kind, &filters);
    let mut docs = db::find(work.tx, kind, &matches)?;
    let computed: &[&str] = match kind {
        Kind::Trunk => &["status", "sub_ports"],
        _ => &["subnets", "security_group_rules", "availability_zones"],
    };
    if filters.keys().any(|name| computed.contains(name)) {
        super::view::complete(work, kind, &mut docs)?;
    }
    docs.retain(|doc| {
        filters
            .iter()
            .all(|(name, values)| holds(doc, name, values))
    });
    sort(&mut docs, query, kind)?;
    let (docs, links) = page(work, docs, query, path)?;
    let shown = super::view::show(work, kind, docs, &query.fields)?;
    let mut body = json!({kind.plural(): shown});
    if !links.is_empty() {
        body[format!("{}_links", kind.plural())] = links.into();
    }
    Ok(body)
}

fn check_filters(kind: Kind, filters: &BTreeMap<&str, Vec<&str>>) -> Result<(), Fault> {
    let special = |name: &str| {
        TAG_FILTERS.contains(&name)
            || name == "changed_since"
            || (kind == Kind::Port && name == "ip_address")
    };
    let unknown: Vec<&str> = filters
        .keys()
        .copied()
        .filter(|name| kind.attribute(name).is_none() && !special(name))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Fault::request(
        format!("{unknown:?} is invalid attribute for filtering").replace('"', "'"),
    ))
}

/// What the database can decide by its indexes; everything is decided again on the documents.
fn conditions(work: &Work<'_, '_>, kind: Kind, filters: &BTreeMap<&str, Vec<&str>>) -> Vec<Match> {
    let mut matches = Vec::new();
    if !work.cx.sees_all() {
        matches.push(Match::Visible(work.cx.project().to_owned()));
    }
    let own = [("id", "id"), ("project_id", "project_id")];
    for (column, attribute) in own.iter().chain(kind.columns()) {
        let Some(values) = filters.get(attribute) else {
            continue;
        };
        let text = !matches!(*column, "shared" | "external" | "segment");
        // An empty value also means null, which no index finds.
        if text && values.iter().all(|value| !value.is_empty()) {
            matches.push(db::one_of(column, values.iter().copied()));
        }
    }
    matches
}

fn holds(doc: &Doc, name: &str, values: &[&str]) -> bool {
    let tags = doc.texts("tags");
    let listed = || {
        values
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::to_owned)
    };
    match name {
        "tags" => return listed().all(|tag| tags.contains(&tag)),
        "tags-any" => return listed().any(|tag| tags.contains(&tag)),
        "not-tags" => return !listed().all(|tag| tags.contains(&tag)),
        "not-tags-any" => return !listed().any(|tag| tags.contains(&tag)),
        "changed_since" => return values.iter().all(|since| doc.text("updated_at") >= *since),
        "fixed_ips" => return fixed_ips_hold(doc, values),
        "ip_address" => {
            return doc
                .fixed_ips()
                .iter()
                .any(|(_, ip)| values.contains(&ip.as_str()));
        }
        _ => {}
    }
    let value = doc.get(name).unwrap_or(&Value::Null);
    values.iter().any(|wanted| is(value, wanted))
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Null => wanted.is_empty() || wanted == "None" || wanted == "null",
        Value::Bool(truth) => match wanted.to_ascii_lowercase().as_str() {
            "true" | "1" => *truth,
            "false" | "0" => !*truth,
            _ => false,
        },
        Value::Number(number) => number.to_string() == wanted,
        Value::Array(items) => items.iter().any(|item| is(item, wanted)),
        Value::Object(_) => false,
    }
}

/// `fixed_ips=subnet_id=X&fixed_ips=ip_address=Y`: every kind that is named must fit.
fn fixed_ips_hold(doc: &Doc, values: &[&str]) -> bool {
    let ips = doc.fixed_ips();
    let named = |name: &str| -> Vec<&str> {
        values
            .iter()
            .filter_map(|value| value.strip_prefix(name)?.strip_prefix('='))
            .collect()
    };
    let (subnets, addresses, parts) = (
        named("subnet_id"),
        named("ip_address"),
        named("ip_address_substr"),
    );
    let fits = |(subnet, ip): &(String, String)| {
        (subnets.is_empty() || subnets.contains(&subnet.as_str()))
            && (addresses.is_empty() || addresses.contains(&ip.as_str()))
            && (parts.is_empty() || parts.iter().any(|part| ip.contains(part)))
    };
    ips.iter().any(fits)
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        _ => a.to_string().cmp(&b.to_string()),
    }
}

fn sort(docs: &mut [Doc], query: &Query, kind: Kind) -> Result<(), Fault> {
    let (keys, directions) = (query.all("sort_key"), query.all("sort_dir"));
    if let Some(key) = keys.iter().find(|key| kind.attribute(key).is_none()) {
        return Err(Fault::request(format!(
            "'{key}' is an invalid attribute for sort key"
        )));
    }
    if let Some(wrong) = directions
        .iter()
        .find(|direction| !matches!(**direction, "asc" | "desc"))
    {
        return Err(Fault::request(format!(
            "'{wrong}' is an invalid value for sort direction"
        )));
    }
    if !directions.is_empty() && directions.len() != keys.len() {
        return Err(Fault::request(
            "The number of sort_keys and sort_dirs must be same",
        ));
    }
    let order = |a: &Doc, b: &Doc| {
        for (at, key) in keys.iter().enumerate() {
            let ordering = compare(
                a.get(*key).unwrap_or(&Value::Null),
                b.get(*key).unwrap_or(&Value::Null),
            );
            let ordering = if directions.get(at) == Some(&"desc") {
                ordering.reverse()
            } else {
                ordering
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        a.id().cmp(b.id())
    };
    docs.sort_by(order);
    Ok(())
}

fn page(
    work: &Work<'_, '_>,
    docs: Vec<Doc>,
    query: &Query,
    path: &str,
) -> Result<(Vec<Doc>, Vec<Value>), Fault> {
    let limit = match query.last("limit") {
        None | Some("") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(limit) if limit >= 0 => usize::try_from(limit).ok().filter(|limit| *limit > 0),
            _ => {
                return Err(Fault::request(format!(
                    "Limit must be an integer 0 or greater and not '{text}'"
                )));
            }
        },
    };
    let limit = [limit, work.cx.config.page_limit]
        .into_iter()
        .flatten()
        .min();
    let reverse = query
        .last("page_reverse")
        .is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let marker = query.last("marker").filter(|marker| !marker.is_empty());
    let at = match marker {
        None => None,
        Some(id) => {
            let at = docs.iter().position(|doc| doc.id() == id);
            Some(at.ok_or_else(|| {
                Fault::bad(
                    "HTTPBadRequest",
                    format!("Invalid pagination marker '{id}'"),
                )
            })?)
        }
    };
    let all = docs.len();
    let (first, last) = match (reverse, at) {
        (false, at) => {
            let first = at.map_or(0, |at| at + 1);
            (first, limit.map_or(all, |limit| all.min(first + limit)))
        }
        (true, at) => {
            let last = at.unwrap_or(all);
            (limit.map_or(0, |limit| last.saturating_sub(limit)), last)
        }
    };
    let page: Vec<Doc> = docs.into_iter().skip(first).take(last - first).collect();
    let mut links = Vec::new();
    if limit.is_some() {
        if last < all
            && let Some(end) = page.last()
        {
            links.push(link(query, path, "next", end.id(), false));
        }
        if first > 0
            && let Some(start) = page.first()
        {
            links.push(link(query, path, "previous", start.id(), true));
        }
    }
    Ok((page, links))
}

fn link(query: &Query, path: &str, rel: &str, marker: &str, reverse: bool) -> Value {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in query
        .pairs
        .iter()
        .filter(|(name, _)| name != "marker" && name != "page_reverse")
    {
        pairs.append_pair(name, value);
    }
    pairs.append_pair("marker", marker);
    if reverse {
        pairs.append_pair("page_reverse", "True");
    }
    json!({"rel": rel, "href": format!("{path}?{}", pairs.finish())})
}
