//! PATCH: `application/openstack-images-v2.1-json-patch` and the older v2.0 (Image API v2, "Update image").

use crate::access::Access;
use crate::fault::Fault;
use crate::model::{Image, Status, Visibility};
use crate::schema;
use http::{HeaderName, StatusCode};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const V20: &str = "application/openstack-images-v2.0-json-patch";
const V21: &str = "application/openstack-images-v2.1-json-patch";

/// What to do with one attribute or property.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Sets it; `new`: it must not be there yet (v2.0 only).
    Add {
        /// Attribute or property.
        name: String,
        /// Its value.
        value: Value,
        /// Whether it must be new.
        new: bool,
    },
    /// Sets what is there.
    Replace {
        /// Attribute or property.
        name: String,
        /// Its value.
        value: Value,
    },
    /// Removes a property.
    Remove {
        /// The property.
        name: String,
    },
}

/// Which of the two forms the body has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V20,
    V21,
}

/// Reads the changes of a request and checks them as far as they do not depend on the image.
pub fn parse(content_type: Option<&str>, body: &Value) -> Result<Vec<Change>, Fault> {
    let form = match content_type.map(|text| text.split(';').next().unwrap_or_default().trim()) {
        Some(V20) => Form::V20,
        Some(V21) => Form::V21,
        _ => {
            let allowed = format!("{V20}, {V21}");
            return Err(Fault::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Image PATCH expects Content-Type one of: {allowed}"),
            )
            .with_header(HeaderName::from_static("accept-patch"), allowed));
        }
    };
    let operations = body.as_array().ok_or_else(|| {
        Fault::bad_request("Request body must be a JSON array of operation objects.")
    })?;
    operations
        .iter()
        .map(|operation| {
            let operation = operation
                .as_object()
                .ok_or_else(|| Fault::bad_request("Operations must be JSON objects."))?;
            change(form, operation)
        })
        .collect()
}

fn change(form: Form, operation: &Map<String, Value>) -> Result<Change, Fault> {
    let (verb, pointer) = match form {
        Form::V20 => verb_v20(operation)?,
        Form::V21 => verb_v21(operation)?,
    };
    let pointer = pointer
        .as_str()
        .ok_or_else(|| Fault::bad_request("The path must be a string."))?;
    let path = decode(pointer)?;
    let name = path[0].clone();
    let depth = if name == "locations" && verb != "replace" {
        2
    } else {
        1
    };
    if path.len() != depth {
        return Err(Fault::bad_request(format!(
            "Invalid JSON pointer for this resource: '/{}'",
            path.join("/")
        )));
    }
    let value = match (verb, operation.get("value")) {
        ("remove", _) => Value::Null,
        (_, Some(value)) => value.clone(),
        (verb, None) => {
            return Err(Fault::bad_request(format!(
                "Operation \"{verb}\" requires a member named \"value\"."
            )));
        }
    };
    check_name(&name)?;
    if verb == "remove" {
        return Ok(Change::Remove { name });
    }
    if depth == 1 {
        schema::validate(&name, &value)?;
    }
    Ok(if verb == "add" {
        Change::Add {
            name,
            value,
            new: form == Form::V20,
        }
    } else {
        Change::Replace { name, value }
    })
}

const VERBS: [&str; 3] = ["add", "remove", "replace"];

fn verb_v21(operation: &Map<String, Value>) -> Result<(&'static str, &Value), Fault> {
    let available = VERBS.join(", ");
    let Some(op) = operation.get("op") else {
        return Err(Fault::bad_request(format!(
            "Unable to find `op` in JSON Schema change. It must be one of the following: {available}."
        )));
    };
    let Some(verb) = VERBS.into_iter().find(|verb| op == verb) else {
        let op = op.as_str().map_or_else(|| op.to_string(), str::to_owned);
        return Err(Fault::bad_request(format!(
            "Invalid operation: `{op}`. It must be one of the following: {available}."
        )));
    };
    let path = operation.get("path");
    let path =
        path.ok_or_else(|| Fault::bad_request("Unable to find 'path' in JSON Schema change"))?;
    Ok((verb, path))
}

fn verb_v20(operation: &Map<String, Value>) -> Result<(&'static str, &Value), Fault> {
    let mut found = VERBS
        .into_iter()
        .filter_map(|verb| operation.get(verb).map(|path| (verb, path)));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Fault::bad_request(
            "Operation objects must contain only one member named \"add\", \"remove\", or \"replace\".",
        )),
        (None, _) => Err(Fault::bad_request(
            "Operation objects must contain exactly one member named \"add\", \"remove\", or \"replace\".",
        )),
    }
}

/// A JSON pointer (RFC 6901), a little stricter, as Glance.
fn decode(pointer: &str) -> Result<Vec<String>, Fault> {
    let bad = |why: &str| Err(Fault::bad_request(format!("Pointer `{pointer}` {why}")));
    let Some(inner) = pointer.strip_prefix('/') else {
        return bad("does not start with \"/\".");
    };
    let parts: Vec<&str> = inner.split('/').collect();
    if !inner.is_empty() && inner.ends_with('/') {
        return bad("end with \"/\".");
    }
    if parts.len() > 1 && parts.iter().any(|part| part.trim().is_empty()) {
        return bad("contains adjacent \"/\".");
    }
    let escapes_known = pointer
        .split('~')
        .skip(1)
        .all(|rest| rest.starts_with(['0', '1']));
    if !escapes_known {
        return bad("contains \"~\" not part of a recognized escape sequence.");
    }
    Ok(parts
        .into_iter()
        .map(|part| part.replace("~1", "/").replace("~0", "~").trim().to_owned())
        .collect())
}

fn check_name(name: &str) -> Result<(), Fault> {
    let read_only =
        schema::READ_ONLY.contains(&name) || schema::DERIVED.contains(&name) || name == "id";
    if read_only {
        return Err(Fault::forbidden(format!(
            "Attribute '{name}' is read-only."
        )));
    }
    if is_reserved(name) {
        return Err(Fault::forbidden(format!("Attribute '{name}' is reserved.")));
    }
    if name.chars().count() > 255 {
        return Err(Fault::bad_request(
            "Custom property should not be greater than 255 characters.",
        ));
    }
    Ok(())
}

/// Whether no property may have this name.
pub fn is_reserved(name: &str) -> bool {
    schema::RESERVED.contains(&name) || name.starts_with(schema::RESERVED_PREFIX)
}

/// Makes the changes. `image` is untouched on disk until the caller saves it.
pub fn apply(
    image: &mut Image,
    changes: &[Change],
    access: &Access,
    member: bool,
) -> Result<(), Fault> {
    for change in changes {
        let (Change::Add { name, .. } | Change::Replace { name, .. } | Change::Remove { name }) =
            change;
        if name == "locations" {
            return Err(Fault::forbidden(
                "It's not allowed to change locations if locations are invisible.",
            ));
        }
        access.require("modify_image", image, member)?;
        let base = schema::BASE.contains(&name.as_str());
        match change {
            Change::Remove { name } if base => {
                return Err(Fault::forbidden(format!(
                    "Property {name} may not be removed."
                )));
            }
            Change::Remove { name } if image.properties.remove(name).is_none() => {
                return Err(missing(name));
            }
            Change::Remove { .. } => {}
            Change::Add {
                name, new: true, ..
            } if base || image.properties.contains_key(name) => {
                return Err(Fault::conflict(format!("Property {name} already present.")));
            }
            Change::Replace { name, .. } if !base && !image.properties.contains_key(name) => {
                return Err(missing(name));
            }
            Change::Replace { name, .. } if name == "owner" && !access.is_admin() => {
                return Err(Fault::forbidden("Owner can't be updated by non admin."));
            }
            Change::Add { name, value, .. } | Change::Replace { name, value } => {
                set(image, name, value, access)?
            }
        }
    }
    Ok(())
}

fn missing(name: &str) -> Fault {
    Fault::conflict(format!("Property {name} does not exist."))
}

/// Sets an attribute or a property to a value that [`schema::validate`] accepted.
pub fn set(image: &mut Image, name: &str, value: &Value, access: &Access) -> Result<(), Fault> {
    let text = || value.as_str().map(str::to_owned);
    match name {
        "name" => image.name = text(),
        "owner" => {
            if image.owner != text() && !access.is_admin() {
                return Err(Fault::forbidden("Owner can't be updated by non admin."));
            }
            image.owner = text();
        }
        "visibility" => {
            let visibility = value.as_str().and_then(Visibility::parse);
            let visibility =
                visibility.ok_or_else(|| Fault::bad_request("The visibility is not known."))?;
            access.require_visibility(visibility, image)?;
            image.visibility = visibility;
        }
        "protected" => image.protected = value == true,
        "os_hidden" => image.os_hidden = value == true,
        "min_disk" => image.min_disk = not_negative(name, value)?,
        "min_ram" => image.min_ram = not_negative(name, value)?,
        "disk_format" | "container_format" => {
            if image.status != Status::Queued {
                return Err(Fault::forbidden(format!(
                    "Attribute {name} can be only replaced for a queued image."
                )));
            }
            *(if name == "disk_format" {
                &mut image.disk_format
            } else {
                &mut image.container_format
            }) = text();
        }
        "tags" => {
            let tags = value.as_array().map(Vec::as_slice).unwrap_or_default();
            image.tags = tags
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<BTreeSet<_>>();
        }
        property => match value {
            Value::String(text) => {
                image.properties.insert(property.to_owned(), text.clone());
            }
            _ => {
                image.properties.remove(property);
            }
        },
    }
    Ok(())
}

fn not_negative(name: &str, value: &Value) -> Result<u64, Fault> {
    value.as_u64().ok_or_else(|| {
        Fault::bad_request(format!(
            "Invalid value '{value}' for parameter '{name}': Cannot be a negative value"
        ))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_read_or_refused() {
        let cases = [
            (json!([{"op": "add", "path": "/a", "value": "x"}]), 200, ""),
            (
                json!([{"op": "replace", "path": "/a~1b", "value": "x"}]),
                200,
                "",
            ),
            (json!([{"op": "remove", "path": "/a"}]), 200, ""),
            (json!({}), 400, "must be a JSON array"),
            (json!([1]), 400, "must be JSON objects"),
            (json!([{"path": "/a"}]), 400, "Unable to find `op`"),
            (
                json!([{"op": "test", "path": "/a"}]),
                400,
                "Invalid operation: `test`",
            ),
            (
                json!([{"op": "add", "value": ""}]),
                400,
                "Unable to find 'path'",
            ),
            (
                json!([{"op": "add", "path": "/a"}]),
                400,
                "requires a member named \"value\"",
            ),
            (
                json!([{"op": "add", "path": "a", "value": ""}]),
                400,
                "does not start with",
            ),
            (
                json!([{"op": "add", "path": "/a/", "value": ""}]),
                400,
                "end with",
            ),
            (
                json!([{"op": "add", "path": "/a//b", "value": ""}]),
                400,
                "adjacent",
            ),
            (
                json!([{"op": "add", "path": "/a~2", "value": ""}]),
                400,
                "escape",
            ),
            (
                json!([{"op": "add", "path": "/a/b", "value": ""}]),
                400,
                "Invalid JSON pointer",
            ),
            (
                json!([{"op": "add", "path": "/a", "value": 1}]),
                400,
                "is not of type 'string'",
            ),
            (
                json!([{"op": "replace", "path": "/name", "value": 1}]),
                400,
                "'null', 'string'",
            ),
            (
                json!([{"op": "replace", "path": "/visibility", "value": "all"}]),
                400,
                "is not one of",
            ),
            (
                json!([{"op": "replace", "path": "/status", "value": "active"}]),
                403,
                "read-only",
            ),
            (
                json!([{"op": "replace", "path": "/id", "value": "active"}]),
                403,
                "read-only",
            ),
            (json!([{"op": "remove", "path": "/self"}]), 403, "read-only"),
            (
                json!([{"op": "add", "path": "/deleted", "value": "x"}]),
                403,
                "reserved",
            ),
            (
                json!([{"op": "add", "path": "/os_glance_x", "value": "x"}]),
                403,
                "reserved",
            ),
        ];
        for (body, status, message) in cases {
            match parse(Some(V21), &body) {
                Ok(_) => assert_eq!(status, 200, "{body}"),
                Err(fault) => {
                    assert_eq!(fault.status.as_u16(), status, "{body}");
                    assert!(
                        fault.explanation.contains(message),
                        "{body}: {}",
                        fault.explanation
                    );
                }
            }
        }
        assert_eq!(
            parse(Some("application/json"), &json!([]))
                .unwrap_err()
                .status,
            415
        );
        assert_eq!(parse(None, &json!([])).unwrap_err().status, 415);
        let old = parse(Some(V20), &json!([{"add": "/a~1b", "value": "x"}])).unwrap();
        assert_eq!(
            old,
            [Change::Add {
                name: "a/b".into(),
                value: json!("x"),
                new: true
            }]
        );
        assert!(
            parse(
                Some(V20),
                &json!([{"add": "/a", "remove": "/b", "value": "x"}])
            )
            .is_err()
        );
    }
}
