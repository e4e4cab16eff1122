//! `minimum` and `maximum` that also look at numbers in texts, as Nova's do: `"11"` is greater than 10.

use super::python::repr;
use jsonschema::paths::Location;
use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value};

/// A keyword that bounds a number from one side.
pub struct Bound {
    limit: Value,
    is_maximum: bool,
}

/// What a keyword's factory gives back.
type Made<'a> = Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>>;

/// `minimum`.
pub fn minimum<'a>(_: &'a Map<String, Value>, limit: &'a Value, _: Location) -> Made<'a> {
    Ok(Box::new(Bound {
        limit: limit.clone(),
        is_maximum: false,
    }))
}

/// `maximum`.
pub fn maximum<'a>(_: &'a Map<String, Value>, limit: &'a Value, _: Location) -> Made<'a> {
    Ok(Box::new(Bound {
        limit: limit.clone(),
        is_maximum: true,
    }))
}

/// The number in a value; nothing else is bounded.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// As it stands in the message: without the quotes of the text it came in.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        other => repr(other),
    }
}

impl<'i> Keyword<'i> for Bound {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            return Ok(());
        }
        let relation = if self.is_maximum {
            "greater than the maximum"
        } else {
            "less than the minimum"
        };
        let (value, limit) = (shown(instance), repr(&self.limit));
        Err(ValidationError::custom(format!(
            "{value} is {relation} of {limit}"
        )))
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let (Some(number), Some(limit)) = (number(instance), self.limit.as_f64()) else {
            return true;
        };
        if self.is_maximum {
            number <= limit
        } else {
            number >= limit
        }
    }
}
