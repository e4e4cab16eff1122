//! Request bodies: one schema for each range of versions, compiled when first used, and errors in the words of
//! python-jsonschema, which clients and people know from Nova.

mod bounds;
pub mod cloud;
pub mod consoles;
pub mod formats;
pub mod interfaces;
pub mod moves;
pub mod proxies;
pub mod python;
pub mod rebuild;
pub mod servers;
pub mod volumes;
mod words;

use crate::faults::Fault;
use jsonschema::Validator;
use serde_json::Value;
use std::num::IntErrorKind;
use std::sync::OnceLock;
use types::Microversion;

/// The schema of one range of versions.
pub struct Range {
    since: Microversion,
    build: fn() -> Value,
}

impl Range {
    /// A schema in force from `since` until the next range begins.
    pub const fn new(since: Microversion, build: fn() -> Value) -> Self {
        Self { since, build }
    }
}

/// The schemas of one request, oldest first, what `/v2` takes where that is another, and their compiled forms.
pub struct Schema {
    ranges: &'static [Range],
    legacy: Option<fn() -> Value>,
    compiled: OnceLock<Vec<OnceLock<Result<Validator, String>>>>,
    compiled_legacy: OnceLock<Result<(Value, Validator), String>>,
}

impl Schema {
    /// The schemas of one request.
    pub const fn new(ranges: &'static [Range]) -> Self {
        Self {
            ranges,
            legacy: None,
            compiled: OnceLock::new(),
            compiled_legacy: OnceLock::new(),
        }
    }

    /// With a schema of its own for `/v2`.
    #[must_use]
    pub const fn legacy(mut self, build: fn() -> Value) -> Self {
        self.legacy = Some(build);
        self
    }

    fn validator(&self, index: usize) -> Result<&Validator, Fault> {
        let compiled = self
            .compiled
            .get_or_init(|| self.ranges.iter().map(|_| OnceLock::new()).collect());
        compiled[index]
            .get_or_init(|| compile(&(self.ranges[index].build)()))
            .as_ref()
            .map_err(Fault::internal)
    }

    /// The versions at which the schema changes.
    #[cfg(test)]
    pub fn boundaries(&self) -> impl Iterator<Item = Microversion> {
        self.ranges.iter().map(|range| range.since)
    }

    /// The schema of a version, as a document.
    pub fn document(&self, version: Microversion) -> Option<Value> {
        let range = self.ranges.iter().rfind(|range| range.since <= version)?;
        Some((range.build)())
    }

    /// Checks a body at a version; an absent body is null.
    pub fn check(&self, version: Microversion, body: &Value) -> Result<(), Fault> {
        let Some(index) = self.ranges.iter().rposition(|range| range.since <= version) else {
            return Ok(());
        };
        match self.validator(index)?.validate(body) {
            Ok(()) => Ok(()),
            Err(error) => Err(Fault::bad_request(words::describe(&error))),
        }
    }

    /// Checks a body of `/v2`, which loses the keys that its schema does not know, at every depth, instead of being refused.
    pub fn check_legacy(&self, body: &mut Value) -> Result<(), Fault> {
        let compiled = self.compiled_legacy.get_or_init(|| {
            let schema = self.legacy_document();
            compile(&schema).map(|validator| (schema, validator))
        });
        let (schema, validator) = compiled.as_ref().map_err(Fault::internal)?;
        strip(schema, body);
        match validator.validate(body) {
            Ok(()) => Ok(()),
            Err(error) => Err(Fault::bad_request(words::describe(&error))),
        }
    }

    /// What `/v2` takes, as a document.
    pub fn legacy_document(&self) -> Value {
        match self.legacy {
            Some(build) => build(),
            None => self.document(Microversion::MIN).unwrap_or(true.into()),
        }
    }
}

/// A validator with Nova's formats and its bounds of numbers in texts.
pub fn compile(schema: &Value) -> Result<Validator, String> {
    compile_with(schema, formats::ALL)
}

/// The same with these formats.
pub fn compile_with(
    schema: &Value,
    all: &[(&'static str, formats::Check)],
) -> Result<Validator, String> {
    let mut options = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_keyword("minimum", bounds::minimum)
        .with_keyword("maximum", bounds::maximum)
        .should_validate_formats(true);
    for (name, check) in all {
        options = options.with_format(*name, *check);
    }
    options
        .build(schema)
        .map_err(|error| format!("a request schema is wrong: {error}"))
}

/// Takes away what a schema does not know, where it takes nothing unknown.
pub fn strip(schema: &Value, body: &mut Value) {
    match body {
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return;
            };
            let closed = schema.get("additionalProperties") == Some(&Value::Bool(false))
                && schema.get("patternProperties").is_none();
            if closed {
                map.retain(|key, _| properties.contains_key(key));
            }
            for (key, value) in map.iter_mut() {
                if let Some(inner) = properties.get(key) {
                    strip(inner, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                items.iter_mut().for_each(|item| strip(inner, item));
            }
        }
        _ => {}
    }
}

/// The same schema for `/v2`, where names may have blanks around them.
pub fn loose(mut schema: Value) -> Value {
    loosen(&mut schema);
    schema
}

fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(format)) = map.get_mut("format") {
                match format.as_str() {
                    "name" | "keypair_name_20" => {
                        "name_with_leading_trailing_spaces".clone_into(format);
                    }
                    "az_name" => "az_name_with_leading_trailing_spaces".clone_into(format),
                    _ => {}
                }
            }
            map.values_mut().for_each(loosen);
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

/// An object with these properties and no others.
pub fn object(required: &[&str], properties: Value) -> Value {
    let mut schema = serde_json::json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema["additionalProperties"] = false.into();
    schema
}

/// `{name: inner}` as a whole body.
pub fn wrapped(name: &str, inner: Value) -> Value {
    let mut properties = serde_json::Map::new();
    properties.insert(name.to_owned(), inner);
    object(&[name], properties.into())
}

/// An action without arguments: `{name: null}`.
pub fn null_action(name: &str) -> Value {
    wrapped(name, serde_json::json!({ "type": "null" }))
}

/// An action whose argument nobody looks at.
pub fn any_action(name: &str) -> Value {
    let mut properties = serde_json::Map::new();
    properties.insert(name.to_owned(), serde_json::json!({}));
    object(&[name], properties.into())
}

/// A text of `min` to `max` characters.
pub fn text(min: u32, max: u32) -> Value {
    serde_json::json!({ "type": "string", "minLength": min, "maxLength": max })
}

/// A number, or digits in a text, as Nova takes them.
pub fn integer(min: i64, max: i64) -> Value {
    serde_json::json!({ "type": ["integer", "string"], "pattern": if min < 0 { "^-?[0-9]+$" } else { "^[0-9]+$" }, "minimum": min, "maximum": max })
}

/// One or more, without a limit.
pub fn positive() -> Value {
    serde_json::json!({ "type": ["integer", "string"], "pattern": "^[0-9]*$", "minLength": 1, "minimum": 1 })
}

/// A boolean, or one of the texts that mean one.
pub fn boolean() -> Value {
    serde_json::json!({ "type": ["boolean", "string"], "enum": BOOLEANS.iter().map(|text| match *text {
        "\u{1}true" => Value::Bool(true),
        "\u{1}false" => Value::Bool(false),
        text => Value::from(text),
    }).collect::<Vec<_>>() })
}

const BOOLEANS: [&str; 22] = [
    "\u{1}true",
    "True",
    "TRUE",
    "true",
    "1",
    "ON",
    "On",
    "on",
    "YES",
    "Yes",
    "yes",
    "\u{1}false",
    "False",
    "FALSE",
    "false",
    "0",
    "OFF",
    "Off",
    "off",
    "NO",
    "No",
    "no",
];

/// What a boolean of a checked body means.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(value) => *value,
        Value::String(text) => matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "1" | "on" | "yes"
        ),
        _ => false,
    }
}

/// The number of a checked body, whether it came as number or text.
pub fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => match text.trim().parse::<i64>() {
            Ok(number) => Some(number),
            Err(error) => beyond(error.kind()),
        },
        _ => None,
    }
}

/// JSON does not tell 1.0 from 1.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0).then_some(number as i64)
}

/// A number that no 64 bits hold is the largest or the smallest there is.
fn beyond(kind: &IntErrorKind) -> Option<i64> {
    match kind {
        IntErrorKind::PosOverflow => Some(i64::MAX),
        IntErrorKind::NegOverflow => Some(i64::MIN),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
