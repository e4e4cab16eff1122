//! Request bodies against what they may hold. The words are those that clients see from Cinder where they matter.

use crate::fault::{Fault, Result};
use crate::model::Map;
use serde_json::{Map as Object, Value};

/// What a field may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text of at most 255 characters, or null.
    Name,
    /// The same, not empty.
    FullName,
    /// A text, or null.
    OptionalText,
    /// An id, or null.
    OptionalId,
    /// An id.
    Id,
    /// A whole number above zero, also as a text.
    Size,
    /// The same, or null.
    OptionalSize,
    /// True, false, or a text that means one of them.
    Bool,
    /// The same, or null.
    OptionalBool,
    /// Texts by names.
    Texts,
    /// The same, or null.
    OptionalTexts,
    /// An object.
    Object,
    /// An object, or null.
    OptionalObject,
    /// A text of any length, or null.
    OptionalLongText,
    /// A list.
    List,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// One field of a request.
pub type Field = (&'static str, Kind, Need);

/// Whether a field must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must.
    Must,
    /// It may.
    May,
}

/// The object under a name in the body, its fields checked; other fields are refused unless `open`.
pub fn object<'a>(
    body: &'a Value,
    name: &str,
    fields: &[Field],
    open: bool,
) -> Result<&'a Object<String, Value>> {
    let Some(outer) = body.as_object() else {
        return Err(Fault::bad(format!(
            "Missing required element '{name}' in request body."
        )));
    };
    let Some(inner) = outer.get(name) else {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute body. Value: {body}. '{name}' is a required property"
        )));
    };
    let Some(inner) = inner.as_object() else {
        return Err(wrong(name, inner, "is not of type 'object'"));
    };
    fields_of(inner, name, fields, open)?;
    Ok(inner)
}

/// Checks the fields of an object.
pub fn fields_of(
    object: &Object<String, Value>,
    name: &str,
    fields: &[Field],
    open: bool,
) -> Result<()> {
    for (field, kind, need) in fields {
        match object.get(*field) {
            Some(value) => check(field, value, *kind)?,
            None if *need == Need::Must => {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute {name}. '{field}' is a required property"
                )));
            }
            None => {}
        }
    }
    if open {
        return Ok(());
    }
    let unknown = object
        .keys()
        .find(|key| !fields.iter().any(|(field, ..)| field == key));
    match unknown {
        Some(key) => Err(Fault::bad(format!(
            "Additional properties are not allowed ('{key}' was unexpected)"
        ))),
        None => Ok(()),
    }
}

fn wrong(field: &str, value: &Value, why: &str) -> Fault {
    Fault::bad(format!(
        "Invalid input for field/attribute {field}. Value: {value}. {value} {why}"
    ))
}

fn check(field: &str, value: &Value, kind: Kind) -> Result<()> {
    let text = value.as_str();
    let long = |text: &str| text.chars().count() > 255 || text.contains('\0');
    match kind {
        Kind::OptionalText
        | Kind::OptionalId
        | Kind::OptionalSize
        | Kind::OptionalBool
        | Kind::OptionalTexts
        | Kind::OptionalObject
        | Kind::OptionalLongText
        | Kind::Name
            if value.is_null() =>
        {
            Ok(())
        }
        Kind::Name | Kind::FullName | Kind::OptionalText => match text {
            None => Err(wrong(field, value, "is not of type 'string'")),
            Some(text) if long(text) => Err(wrong(field, value, "is too long")),
            Some(text) if matches!(kind, Kind::FullName) && text.trim().is_empty() => {
                Err(wrong(field, value, "is too short"))
            }
            Some(_) => Ok(()),
        },
        Kind::Id | Kind::OptionalId => match text.map(uuid::Uuid::parse_str) {
            Some(Ok(_)) => Ok(()),
            _ => Err(wrong(field, value, "is not a 'uuid'")),
        },
        Kind::Size | Kind::OptionalSize => match whole(value) {
            Some(size) if (1..=i64::from(i32::MAX)).contains(&size) => Ok(()),
            _ => Err(wrong(
                field,
                value,
                "is not a whole number between 1 and 2147483647",
            )),
        },
        Kind::Bool | Kind::OptionalBool => match truth(value) {
            Some(_) => Ok(()),
            None => Err(wrong(field, value, "is not a 'boolean'")),
        },
        Kind::Texts | Kind::OptionalTexts => texts(field, value).map(drop),
        Kind::Object | Kind::OptionalObject => match value.is_object() {
            true => Ok(()),
            false => Err(wrong(field, value, "is not of type 'object'")),
        },
        Kind::OptionalLongText => match text {
            Some(text) if !text.contains('\0') => Ok(()),
            _ => Err(wrong(field, value, "is not of type 'string'")),
        },
        Kind::List => match value.is_array() {
            true => Ok(()),
            false => Err(wrong(field, value, "is not of type 'array'")),
        },
        Kind::OneOf(known) => match text {
            Some(text) if known.contains(&text) => Ok(()),
            _ => Err(wrong(field, value, &format!("is not one of {known:?}"))),
        },
    }
}

/// A whole number, also as a text.
pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// What means yes or no (oslo's strict `bool_from_string`).
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => truth_of(text),
        _ => None,
    }
}

/// What text means yes or no.
pub fn truth_of(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// Texts by names, as metadata must be: names of 1 to 255 characters, values of at most 255.
pub fn texts(field: &str, value: &Value) -> Result<Map> {
    if value.is_null() {
        return Ok(Map::new());
    }
    let Some(object) = value.as_object() else {
        return Err(wrong(field, value, "is not of type 'object'"));
    };
    let mut map = Map::new();
    for (name, value) in object {
        let allowed = |c: char| c.is_alphanumeric() || "-_:. ".contains(c);
        let count = name.chars().count();
        if count == 0 || count > 255 || !name.chars().all(allowed) {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute {field}. '{name}' is not a valid key"
            )));
        }
        let Some(text) = value.as_str() else {
            return Err(wrong(name, value, "is not of type 'string'"));
        };
        if text.chars().count() > 255 || text.contains('\0') {
            return Err(wrong(name, value, "is too long"));
        }
        map.insert(name.clone(), text.to_owned());
    }
    Ok(map)
}

/// A text field without blanks around it; `None` for null.
pub fn trimmed(object: &Object<String, Value>, name: &str) -> Option<String> {
    Some(object.get(name)?.as_str()?.trim().to_owned())
}

/// A text field.
pub fn text(object: &Object<String, Value>, name: &str) -> Option<String> {
    Some(object.get(name)?.as_str()?.to_owned())
}

/// A field that means yes; no when it is not there.
pub fn yes(object: &Object<String, Value>, name: &str) -> bool {
    object.get(name).and_then(truth).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_checked() {
        let long = "x".repeat(256);
        let id = "6edbc2f4-1507-44f8-ac0d-eed1d2608d38";
        for (kind, good, bad) in [
            (
                Kind::Name,
                vec![json!(null), json!(""), json!("a")],
                vec![json!(1), json!(long)],
            ),
            (
                Kind::FullName,
                vec![json!("a")],
                vec![json!(null), json!(" "), json!(long)],
            ),
            (
                Kind::Id,
                vec![json!(id)],
                vec![json!(null), json!("x"), json!(5)],
            ),
            (
                Kind::OptionalId,
                vec![json!(null), json!(id)],
                vec![json!("")],
            ),
            (
                Kind::Size,
                vec![json!(1), json!("2")],
                vec![json!(0), json!(-1), json!("#$%"), json!(null), json!(1.5)],
            ),
            (
                Kind::Bool,
                vec![json!(true), json!("False"), json!(1)],
                vec![json!("maybe"), json!(2), json!(null)],
            ),
            (
                Kind::Texts,
                vec![json!({"a": "b"}), json!(null)],
                vec![json!({"": "b"}), json!({"a": 1}), json!([])],
            ),
            (
                Kind::OneOf(&["rw", "ro"]),
                vec![json!("rw")],
                vec![json!("x"), json!(null)],
            ),
        ] {
            for value in good {
                assert!(check("f", &value, kind).is_ok(), "{kind:?} {value}");
            }
            for value in bad {
                assert!(check("f", &value, kind).is_err(), "{kind:?} {value}");
            }
        }
        let fields: &[Field] = &[
            ("a", Kind::OptionalSize, Need::Must),
            ("b", Kind::OptionalSize, Need::May),
        ];
        assert!(object(&json!({"x": {"a": 1}}), "x", fields, false).is_ok());
        assert!(object(&json!({"x": {"a": 1, "c": 2}}), "x", fields, true).is_ok());
        for body in [
            json!({"x": {"a": 1, "c": 2}}),
            json!({"x": {"b": 1}}),
            json!({"x": []}),
            json!({}),
            json!(null),
        ] {
            assert_eq!(object(&body, "x", fields, false).unwrap_err().status, 400);
        }
    }
}
