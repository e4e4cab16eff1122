//! Bodies of creations and updates, checked against the attribute tables.

use crate::check::plain;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::{Access, Initial, Kind};
use crate::work::Context;
use serde_json::{Map, Value};

/// A checked body.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Every attribute, with defaults when it is a creation.
    pub doc: Doc,
    /// Only what the body named.
    pub given: Doc,
}

/// Most resources in one bulk creation.
const MOST: usize = 1000;

/// The resources of a creation, and whether it was a bulk creation.
pub fn creations(cx: &Context, kind: Kind, body: &Value) -> Result<(Vec<Request>, bool), Fault> {
    let object = body
        .as_object()
        .ok_or_else(|| Fault::request("Resource body required"))?;
    if let Some(one) = object.get(kind.singular()) {
        return Ok((vec![creation(cx, kind, one)?], false));
    }
    let Some(many) = object.get(kind.plural()) else {
        return Err(Fault::request(format!(
            "Unable to find '{}' in request body",
            kind.singular()
        )));
    };
    let items = many
        .as_array()
        .filter(|items| !items.is_empty() && items.len() <= MOST);
    let items = items.ok_or_else(|| Fault::request("Resources required"))?;
    Ok((
        items
            .iter()
            .map(|item| creation(cx, kind, item))
            .collect::<Result<_, _>>()?,
        true,
    ))
}

fn creation(cx: &Context, kind: Kind, item: &Value) -> Result<Request, Fault> {
    let given = checked(kind, item, true)?;
    let mut doc = given.clone();
    for attribute in kind.attributes() {
        match attribute.initial {
            Initial::Required if !given.contains_key(attribute.name) => {
                let text = format!(
                    "Failed to parse request. Required attribute '{}' not specified",
                    attribute.name
                );
                return Err(Fault::request(text));
            }
            Initial::Json(text) if !given.contains_key(attribute.name) => {
                doc.set(
                    attribute.name,
                    serde_json::from_str::<Value>(text).unwrap_or_default(),
                );
            }
            _ => {}
        }
    }
    set_project(cx, &given, &mut doc)?;
    Ok(Request { doc, given })
}

fn set_project(cx: &Context, given: &Doc, doc: &mut Doc) -> Result<(), Fault> {
    let named = given
        .text_opt("project_id")
        .or(given.text_opt("tenant_id"))
        .filter(|project| !project.is_empty());
    let project = named.unwrap_or(cx.project()).to_owned();
    if project != cx.project() && !cx.sees_all() {
        let text = "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges";
        return Err(Fault::request(text));
    }
    if project.is_empty() && !cx.sees_all() {
        return Err(Fault::request(
            "Running without keystone AuthN requires that tenant_id is specified",
        ));
    }
    doc.remove("tenant_id");
    doc.set("project_id", project);
    Ok(())
}

/// The attributes of an update.
pub fn update(kind: Kind, body: &Value) -> Result<Doc, Fault> {
    let object = body
        .as_object()
        .ok_or_else(|| Fault::request("Resource body required"))?;
    let Some(item) = object.get(kind.singular()) else {
        return Err(Fault::request(format!(
            "Unable to find '{}' in request body",
            kind.singular()
        )));
    };
    checked(kind, item, false)
}

fn checked(kind: Kind, item: &Value, create: bool) -> Result<Doc, Fault> {
    let object: &Map<String, Value> = item
        .as_object()
        .ok_or_else(|| Fault::request("Resource body required"))?;
    let unknown: Vec<&str> = object
        .keys()
        .map(String::as_str)
        .filter(|name| kind.attribute(name).is_none())
        .collect();
    if !unknown.is_empty() {
        return Err(Fault::request(format!(
            "Unrecognized attribute(s) '{}'",
            unknown.join(", ")
        )));
    }
    let mut doc = Doc::default();
    for (name, value) in object {
        let Some(attribute) = kind.attribute(name) else {
            continue;
        };
        match attribute.access {
            Access::Read if create => {
                return Err(Fault::request(format!(
                    "Attribute '{name}' not allowed in POST"
                )));
            }
            Access::Read | Access::Create if !create => {
                return Err(Fault::request(format!(
                    "Cannot update read-only attribute {name}"
                )));
            }
            _ => {}
        }
        let value = attribute.check.run(value);
        doc.set(
            name,
            value.map_err(|reason| {
                Fault::request(format!("Invalid input for {name}. Reason: {reason}."))
            })?,
        );
    }
    Ok(doc)
}

/// A text member of a body object that is not a resource, for example of `add_router_interface`.
pub fn member(body: &Value, name: &str) -> Option<String> {
    body.get(name).filter(|value| !value.is_null()).map(plain)
}
