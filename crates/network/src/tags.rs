//! Tags (`standard-attr-tag`).

use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{Work, touched};
use http::StatusCode;
use serde_json::{Value, json};

/// Most tags of a resource.
const MOST: usize = 50;

fn check(tag: &str) -> Result<(), Fault> {
    if tag.is_empty() || tag.chars().count() > 255 || tag.contains(',') {
        return Err(Fault::request(format!(
            "Invalid input for tag. Reason: '{tag}' is not a valid tag."
        )));
    }
    Ok(())
}

fn not_found(tag: &str) -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        "TagNotFound",
        format!("Tag {tag} could not be found."),
    )
}

/// `/v2.0/{collection}/{id}/tags[/{tag}]`
pub fn handle(
    work: &mut Work<'_, '_>,
    kind: Kind,
    method: &str,
    id: &str,
    tag: &[&str],
    body: &Value,
) -> Result<(StatusCode, Value), Fault> {
    let doc = work.visible(kind, id)?;
    let mut tags = doc.texts("tags");
    match (method, tag) {
        ("GET", []) => return Ok((StatusCode::OK, json!({"tags": tags}))),
        ("GET", [tag]) if tags.iter().any(|known| known == tag) => {
            return Ok((StatusCode::NO_CONTENT, Value::Null));
        }
        ("GET", [tag]) => return Err(not_found(tag)),
        ("PUT", []) => {
            tags = body
                .get("tags")
                .and_then(Value::as_array)
                .ok_or_else(|| Fault::request("Invalid tags body"))?
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            tags.sort();
            tags.dedup();
            save(work, kind, doc, &tags)?;
            return Ok((StatusCode::OK, json!({"tags": tags})));
        }
        ("POST", []) => {
            let more = body
                .get("tags")
                .and_then(Value::as_array)
                .ok_or_else(|| Fault::request("Invalid tags body"))?;
            tags.extend(more.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        ("PUT", [tag]) => tags.push((*tag).to_owned()),
        ("DELETE", []) => tags.clear(),
        ("DELETE", [tag]) => {
            if !tags.iter().any(|known| known == tag) {
                return Err(not_found(tag));
            }
            tags.retain(|known| known != tag);
        }
        _ => return Err(Fault::no_route()),
    }
    tags.sort();
    tags.dedup();
    save(work, kind, doc, &tags)?;
    let status = if method == "DELETE" {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CREATED
    };
    Ok((status, Value::Null))
}

fn save(work: &mut Work<'_, '_>, kind: Kind, mut doc: Doc, tags: &[String]) -> Result<(), Fault> {
    tags.iter().try_for_each(|tag| check(tag))?;
    if tags.len() > MOST {
        return Err(Fault::request(format!(
            "The number of tags exceeds the maximum {MOST}"
        )));
    }
    work.permit("update", kind, &doc, &Doc::default())?;
    doc.set("tags", tags);
    touched(&mut doc);
    db::save(work.tx, kind, &doc)
}
