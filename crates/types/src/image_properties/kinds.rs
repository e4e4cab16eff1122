//! What values a property can have, and the words for those that it cannot, which are Nova's.

use super::Said;
use regex::Regex;
use serde_json::Value as Json;
use std::sync::LazyLock;

/// What a property says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Anything.
    Text,
    /// Yes or no. What is not known for a yes is a no, so that nothing is wrong.
    Flag,
    /// A whole number.
    Number,
    /// One of these.
    Choice(&'static [&'static str], Names),
    /// What a hypervisor's version must be.
    Version,
    /// A list of documents without depth, in JSON. Only under its name of old: under the one of today Nova takes it for
    /// a text, which it cannot be.
    Documents,
}

/// How the choices may be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// Like that.
    Exact,
    /// In small or large letters, or by another name.
    Folded(&'static [(&'static str, &'static str)]),
    /// The same, and what is none of them is told in these words.
    Said(&'static str, &'static [(&'static str, &'static str)]),
}

/// What oslo takes for a yes.
pub fn says_yes(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    matches!(text.as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

impl Kind {
    /// What the property `now` says, which the image calls `name`; or why it cannot.
    pub(super) fn read(self, now: &str, name: &str, value: &str) -> Result<Said, String> {
        match self {
            Self::Text => Ok(Said::Text(value.to_owned())),
            Self::Flag => Ok(Said::Flag(says_yes(value))),
            Self::Number => integer(value).map(Said::Number),
            Self::Choice(values, names) => choice(values, names, value).map(Said::Text),
            Self::Version if is_predicate(value) => Ok(Said::Text(value.to_owned())),
            Self::Version => Err(format!(
                "Version {value} is not a valid predicate in field {now}"
            )),
            Self::Documents => {
                let json = serde_json::from_str(value).ok();
                let json = json.filter(|_| now != name);
                documents(now, json.unwrap_or_else(|| value.into())).map(Said::List)
            }
        }
    }
}

/// A whole number as Python reads it; one that is too large for a computer is as large as can be.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    let problem = || format!("invalid literal for int() with base 10: {}", quoted(text));
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.strip_prefix(['+', '-']) {
        Some(rest) => (trimmed.starts_with('-'), rest),
        None => (false, trimmed),
    };
    let mut sum = 0_i64;
    // Between two digits there may be one underscore.
    for group in digits.split('_') {
        if group.is_empty() || !group.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(problem());
        }
        for digit in group.bytes() {
            sum = sum
                .saturating_mul(10)
                .saturating_add(i64::from(digit - b'0'));
        }
    }
    Ok(if negative { -sum } else { sum })
}

/// A text as Python quotes it.
fn quoted(text: &str) -> String {
    if text.contains('\'') && !text.contains('"') {
        format!("\"{text}\"")
    } else {
        format!("'{text}'")
    }
}

fn choice(values: &[&str], names: Names, value: &str) -> Result<String, String> {
    let aliases = match names {
        Names::Exact => None,
        Names::Folded(aliases) | Names::Said(_, aliases) => Some(aliases),
    };
    let meant = match aliases {
        None => value.to_owned(),
        Some(aliases) => {
            let folded = value.to_lowercase();
            let known = aliases.iter().find(|(alias, _)| *alias == folded);
            known.map_or(folded, |(_, meant)| (*meant).to_owned())
        }
    };
    match names {
        _ if values.contains(&meant.as_str()) => Ok(meant),
        Names::Said(what, _) => Err(format!("{what} '{value}' is not valid")),
        Names::Exact | Names::Folded(_) => Err(format!("Field value {meant} is invalid")),
    }
}

/// Whether a text is conditions such as `>=2.6, <3`, with versions of PEP 440.
fn is_predicate(text: &str) -> bool {
    static CONDITION: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?ix)^\s* (<=|>=|<|>|!=|==) \s*
              v? (\d+!)? \d+ (\.\d+)*
              ([-_.]? (a|b|c|rc|alpha|beta|pre|preview) [-_.]? \d*)?
              (-\d+ | [-_.]? (post|rev|r) [-_.]? \d*)?
              ([-_.]? dev [-_.]? \d*)?
              (\+ [a-z0-9]+ ([-_.] [a-z0-9]+)*)? \s*$",
        )
        .ok()
    });
    let matches = |part: &str| CONDITION.as_ref().is_some_and(|regex| regex.is_match(part));
    text.split(',').all(matches)
}

fn documents(field: &str, json: Json) -> Result<Vec<Json>, String> {
    let kind = kind_of(&json);
    if json.is_null() {
        return Err(format!("Field `{field}' cannot be None"));
    }
    let Json::Array(list) = json else {
        return Err(format!("A list is required in field {field}, not a {kind}"));
    };
    for (index, one) in list.iter().enumerate() {
        let Json::Object(members) = one else {
            return Err(if one.is_null() {
                format!("Field `{field}[{index}]' cannot be None")
            } else {
                let kind = kind_of(one);
                format!("A dict is required in field {field}[{index}], not a {kind}")
            });
        };
        let deep = members
            .iter()
            .find(|(_, value)| value.is_array() || value.is_object());
        if let Some((name, value)) = deep {
            let kind = kind_of(value);
            return Err(format!(
                "A string is required in field {field}[{index}][{name}], not a {kind}"
            ));
        }
    }
    Ok(list)
}

/// What Python calls it.
fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float",
        Json::Number(_) => "int",
        Json::String(_) => "str",
        Json::Array(_) => "list",
        Json::Object(_) => "dict",
    }
}
