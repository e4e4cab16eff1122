//! Validation errors in python-jsonschema's words, with the prefix Nova gives them.

use super::formats;
use super::python::{quoted, repr, string};
use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};

/// Longest value that is quoted back.
const QUOTED: usize = 4096;

/// The whole message.
pub fn describe(error: &ValidationError<'_>) -> String {
    if let Kind::Format { format } = error.kind()
        && let Some(message) = formats::whole_message(format)
    {
        return message.to_owned();
    }
    let path = error.instance_path().to_string();
    let message = clipped(reason(error));
    match path.rsplit('/').next().filter(|last| !last.is_empty()) {
        Some(last) => {
            let name = last.replace("~1", "/").replace("~0", "~");
            format!(
                "Invalid input for field/attribute {name}. Value: {}. {message}",
                clipped(string(error.instance()))
            )
        }
        None => message,
    }
}

fn clipped(mut text: String) -> String {
    if text.len() > QUOTED {
        let mut end = QUOTED;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn reason(error: &ValidationError<'_>) -> String {
    let value = repr(error.instance());
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => unexpected_keys(unexpected),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            format!("{value} is not valid under any of the given schemas")
        }
        Kind::OneOfMultipleValid { .. } => {
            format!("{value} is valid under each of the given schemas")
        }
        Kind::Enum { options } => format!("{value} is not one of {}", repr(options)),
        Kind::Constant { expected_value } => format!("{} was expected", repr(expected_value)),
        Kind::Format { format } => format!("{value} is not a {}", quoted(format)),
        Kind::MaxItems { .. } | Kind::MaxLength { .. } => format!("{value} is too long"),
        Kind::MinItems { limit: 1 } | Kind::MinLength { limit: 1 } => {
            format!("{value} should be non-empty")
        }
        Kind::MinItems { .. } | Kind::MinLength { .. } => format!("{value} is too short"),
        Kind::Maximum { limit } => {
            format!("{value} is greater than the maximum of {}", repr(limit))
        }
        Kind::Minimum { limit } => format!("{value} is less than the minimum of {}", repr(limit)),
        Kind::MaxProperties { .. } => format!("{value} has too many properties"),
        Kind::MinProperties { limit: 1 } => format!("{value} should be non-empty"),
        Kind::MinProperties { .. } => format!("{value} does not have enough properties"),
        Kind::Not { schema } => format!("{value} should not be valid under {}", repr(schema)),
        Kind::Pattern { pattern } => format!("{value} does not match {}", quoted(pattern)),
        Kind::Required { property } => format!("{} is a required property", repr(property)),
        Kind::Type { kind } => format!("{value} is not of type {}", kinds(kind)),
        Kind::UniqueItems => format!("{value} has non-unique elements"),
        _ => error.to_string(),
    }
}

fn kinds(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => quoted(&one.to_string()),
        TypeKind::Multiple(set) => {
            let names: Vec<String> = set.iter().map(|one| quoted(&one.to_string())).collect();
            names.join(", ")
        }
    }
}

fn unexpected_keys(keys: &[String]) -> String {
    let list: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
    let verb = if keys.len() == 1 { "was" } else { "were" };
    format!(
        "Additional properties are not allowed ({} {verb} unexpected)",
        list.join(", ")
    )
}
