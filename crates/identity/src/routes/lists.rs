//! Lists: filters, pages and links.

use super::call::{Call, ok};
use crate::db::kinds::Kind;
use crate::db::records::Record;
use axum::response::Response;
use serde_json::{Map, Value as Json, json};

/// Comparisons a filter may name after two underscores (Identity API, "Filters").
const COMPARISONS: [&str; 6] = [
    "contains",
    "icontains",
    "startswith",
    "istartswith",
    "endswith",
    "iendswith",
];

/// The `links` of a list; `next` is the query of the next page.
pub fn links(call: &Call, next: Option<String>) -> Json {
    let query = if call.raw_query.is_empty() {
        String::new()
    } else {
        format!("?{}", call.raw_query)
    };
    let here = format!("{}{}", call.base, call.path);
    let next = next.map(|query| format!("{here}?{query}"));
    json!({"next": next, "self": format!("{here}{query}"), "previous": null})
}

/// A list of records as the API shows it: filtered by the query, one page of it, each with its links.
pub fn answer(call: &Call, kind: &Kind, records: Vec<Record>) -> Response {
    let found: Vec<Record> = records
        .into_iter()
        .filter(|record| passes(call, record))
        .collect();
    let (page, next) = page(call, found);
    let shown: Vec<Json> = page
        .into_iter()
        .map(|record| shown(call, kind, record))
        .collect();
    let mut body = Map::new();
    body.insert(kind.plural.to_owned(), Json::Array(shown));
    body.insert("links".to_owned(), links(call, next));
    if call.asked("limit").is_some() {
        body.insert(
            "truncated".to_owned(),
            Json::Bool(body["links"]["next"].is_string()),
        );
    }
    ok(&Json::Object(body))
}

/// A record with the address of itself.
pub fn shown(call: &Call, kind: &Kind, mut record: Record) -> Json {
    let id = record
        .get("id")
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned();
    record.insert(
        "links".to_owned(),
        json!({"self": call.link(kind.plural, &id)}),
    );
    Json::Object(record)
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_true(value: &str) -> bool {
    !matches!(
        value.to_ascii_lowercase().as_str(),
        "0" | "false" | "no" | "off"
    )
}

/// Whether a record has what the query asks for. Parameters that name no attribute do not count.
fn passes(call: &Call, record: &Record) -> bool {
    call.query.iter().all(|(name, wanted)| {
        let (attribute, comparison) = match name.rsplit_once("__") {
            Some((attribute, comparison)) if COMPARISONS.contains(&comparison) => {
                (attribute, comparison)
            }
            _ => (name.as_str(), ""),
        };
        let Some(value) = record.get(attribute) else {
            return true;
        };
        match value {
            Json::Bool(held) => *held == is_true(wanted),
            Json::Array(_) | Json::Object(_) => true,
            // In a query there is no null; an empty text stands for it.
            Json::Null => wanted.is_empty() || wanted == "null" || wanted == "None",
            other => compare(&text(other), comparison, wanted),
        }
    })
}

fn compare(held: &str, comparison: &str, wanted: &str) -> bool {
    let (held, wanted) = match comparison.strip_prefix('i') {
        Some(_) => (held.to_lowercase(), wanted.to_lowercase()),
        None => (held.to_owned(), wanted.to_owned()),
    };
    match comparison.trim_start_matches('i') {
        "contains" => held.contains(&wanted),
        "startswith" => held.starts_with(&wanted),
        "endswith" => held.ends_with(&wanted),
        _ => held == wanted,
    }
}

/// The page that `limit` and `marker` name, and the query of the next one.
fn page(call: &Call, mut found: Vec<Record>) -> (Vec<Record>, Option<String>) {
    let id = |record: &Record| record.get("id").map(text).unwrap_or_default();
    if let Some(marker) = call.asked("marker") {
        found.retain(|record| id(record).as_str() > marker);
    }
    let Some(limit) = call
        .asked("limit")
        .and_then(|limit| limit.parse::<usize>().ok())
        .filter(|limit| *limit > 0)
    else {
        return (found, None);
    };
    if found.len() <= limit {
        return (found, None);
    }
    found.truncate(limit);
    let last = found.last().map(id).unwrap_or_default();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in call.query.iter().filter(|(name, _)| name != "marker") {
        query.append_pair(name, value);
    }
    query.append_pair("marker", &last);
    (found, Some(query.finish()))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn comparisons() {
        let cases = [
            ("Alpha", "", "Alpha", true),
            ("Alpha", "", "alpha", false),
            ("Alpha", "contains", "lph", true),
            ("Alpha", "icontains", "ALP", true),
            ("Alpha", "startswith", "al", false),
            ("Alpha", "istartswith", "al", true),
            ("Alpha", "endswith", "pha", true),
            ("Alpha", "iendswith", "PHB", false),
        ];
        for (held, comparison, wanted, passes) in cases {
            assert_eq!(
                compare(held, comparison, wanted),
                passes,
                "{held} {comparison} {wanted}"
            );
        }
    }
}
