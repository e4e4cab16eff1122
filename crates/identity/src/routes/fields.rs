//! Checking bodies: which fields a record may have and what they must look like.

use crate::fault::Fault;
use serde_json::{Map, Value as Json};

/// What a field must look like.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text of 1 to this many characters.
    Name(usize),
    /// Any text, or null.
    MaybeText,
    /// An id or null.
    MaybeId,
    /// An id.
    Id,
    /// true or false.
    Bool,
    /// public, internal or admin.
    Interface,
    /// An address.
    Url,
    /// A list of project tags.
    Tags,
}

/// A field of a record.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// How it looks.
    pub shape: Shape,
    /// Whether a new record must have it.
    pub required: bool,
}

/// A field that may be missing.
pub const fn may(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: false,
    }
}

/// A field that a new record must have.
pub const fn must(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        required: true,
    }
}

/// Checks a body's record; `new` when required fields must be there.
pub fn check(body: &Map<String, Json>, fields: &[Field], new: bool) -> Result<(), Fault> {
    for field in fields {
        match body.get(field.name) {
            Some(value) => check_one(field, value)?,
            None if new && field.required => return Err(Fault::required(field.name)),
            None => {}
        }
    }
    Ok(())
}

fn check_one(field: &Field, value: &Json) -> Result<(), Fault> {
    let wrong = |kind: &str| {
        Err(Fault::field(
            field.name,
            format!("{value} is not of type '{kind}'"),
        ))
    };
    match (field.shape, value) {
        (Shape::MaybeText | Shape::MaybeId, Json::Null) | (Shape::Bool, Json::Bool(_)) => Ok(()),
        (Shape::Bool, _) => wrong("boolean"),
        (Shape::Tags, _) => super::projects::checked_tags(value).map(drop),
        (shape, Json::String(text)) => check_text(field.name, shape, text),
        (Shape::MaybeText | Shape::MaybeId, _) => wrong("string', 'null"),
        _ => wrong("string"),
    }
}

fn check_text(name: &str, shape: Shape, text: &str) -> Result<(), Fault> {
    let length = text.chars().count();
    match shape {
        Shape::Name(_) if text.trim().is_empty() => {
            Err(Fault::field(name, format!("'{text}' is too short")))
        }
        Shape::Name(longest) if length > longest => {
            Err(Fault::field(name, format!("'{text}' is too long")))
        }
        Shape::Id | Shape::MaybeId
            if text.is_empty() || length > 64 || !text.bytes().all(is_id_byte) =>
        {
            Err(Fault::field(
                name,
                format!("'{text}' does not match '^[a-zA-Z0-9-]+$'"),
            ))
        }
        Shape::Interface if !matches!(text, "public" | "internal" | "admin") => Err(Fault::field(
            name,
            format!("'{text}' is not one of ['admin', 'internal', 'public']"),
        )),
        Shape::Url if !text.contains("://") || length > 2048 => {
            Err(Fault::field(name, format!("'{text}' is not a valid URL")))
        }
        _ => Ok(()),
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        let fields = [
            must("name", Shape::Name(8)),
            may("enabled", Shape::Bool),
            may("parent_id", Shape::MaybeId),
            may("url", Shape::Url),
        ];
        let cases = [
            (json!({"name": "a"}), true, None),
            (json!({}), false, None),
            (json!({}), true, Some("'name' is a required property")),
            (
                json!({"name": ""}),
                true,
                Some("Invalid input for field 'name': '' is too short"),
            ),
            (
                json!({"name": "123456789"}),
                true,
                Some("Invalid input for field 'name': '123456789' is too long"),
            ),
            (
                json!({"name": 5}),
                true,
                Some("Invalid input for field 'name': 5 is not of type 'string'"),
            ),
            (
                json!({"enabled": "yes"}),
                false,
                Some("Invalid input for field 'enabled': \"yes\" is not of type 'boolean'"),
            ),
            (json!({"parent_id": null}), false, None),
            (
                json!({"parent_id": "a b"}),
                false,
                Some("Invalid input for field 'parent_id': 'a b' does not match '^[a-zA-Z0-9-]+$'"),
            ),
            (
                json!({"url": "nowhere"}),
                false,
                Some("Invalid input for field 'url': 'nowhere' is not a valid URL"),
            ),
        ];
        for (body, new, wanted) in cases {
            let fault = body
                .as_object()
                .and_then(|body| check(body, &fields, new).err());
            assert_eq!(
                fault.map(|fault| fault.to_string()).as_deref(),
                wanted,
                "{body}"
            );
        }
    }
}
