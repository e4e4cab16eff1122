//! Query strings: which keys a route knows, what their values look like, and from when unknown keys are refused.

use crate::faults::Fault;
use crate::schemas::{formats, python};
use std::collections::HashSet;
use types::{Microversion, Timestamp};

/// What the values of a key look like.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Any text.
    Any,
    /// Digits: `limit` and `offset`.
    Digits,
    /// Digits of a number above zero.
    Positive,
    /// A part of a host's name.
    Host,
    /// A time in ISO 8601.
    Time,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A regular expression.
    Regex,
}

/// One key.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub kind: Kind,
    /// The version that brought it; before it is an unknown key.
    pub since: Microversion,
    /// The version that no longer knows it.
    pub until: Microversion,
    /// Whether it may be given more than once.
    pub many: bool,
    /// Whether each value counts where several are given; else the last one does.
    pub each: bool,
}

/// A key of any version, given any number of times.
pub const fn key(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        since: Microversion::MIN,
        until: Microversion(u16::MAX),
        many: true,
        each: false,
    }
}

impl Key {
    /// Known only from this version on.
    #[must_use]
    pub const fn since(mut self, since: Microversion) -> Self {
        self.since = since;
        self
    }

    /// Known only before this version.
    #[must_use]
    pub const fn until(mut self, until: Microversion) -> Self {
        self.until = until;
        self
    }

    /// Each of several values counts.
    #[must_use]
    pub const fn each(mut self) -> Self {
        self.each = true;
        self
    }

    /// Given once at most.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.many = false;
        self
    }
}

/// The keys of a route.
pub struct Keys {
    /// The keys.
    pub keys: &'static [Key],
    /// From when unknown keys are refused; `None` is never.
    pub strict: Option<Microversion>,
    /// What else passes: keys that begin with this.
    pub prefix: Option<&'static str>,
}

impl Keys {
    fn has_prefix(&self, name: &str) -> bool {
        self.prefix.is_some_and(|prefix| name.starts_with(prefix))
    }

    /// The minor versions at which the keys change.
    #[cfg(test)]
    pub fn boundaries(&self) -> Vec<u16> {
        let keys = self.keys.iter().flat_map(|key| [key.since, key.until]);
        let all = keys.chain(self.strict).map(|version| version.0);
        all.filter(|minor| *minor <= Microversion::MAX.0).collect()
    }
}

/// A checked query: the known keys, in the order given. Of a key that is given several times only the last value counts, as
/// in Nova; so the link to the next page has only that one, too.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes())
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        Self { pairs }
    }

    /// The last value of a key.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .rfind(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of a key.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every pair that is known.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// Checks the query against a route's keys, and drops what the route does not know.
    pub fn check(&mut self, keys: &Keys, version: Microversion) -> Result<(), Fault> {
        let known = |name: &str| {
            keys.keys
                .iter()
                .find(|key| key.name == name && key.since <= version && version < key.until)
        };
        let strict = keys.strict.is_some_and(|strict| strict <= version);
        for (name, value) in &self.pairs {
            let Some(key) = known(name) else {
                if strict && !keys.has_prefix(name) {
                    return Err(Fault::bad_request(unexpected(name, keys.prefix)));
                }
                continue;
            };
            check_value(key, value)?;
            if !key.many && self.pairs.iter().filter(|(other, _)| other == name).count() > 1 {
                let values: Vec<serde_json::Value> = self
                    .pairs
                    .iter()
                    .filter(|(other, _)| other == name)
                    .map(|(_, value)| value.clone().into())
                    .collect();
                let list = python::repr(&values.into());
                return Err(Fault::bad_request(format!(
                    "Invalid input for query parameters {name}. Value: {list}. {list} is too long"
                )));
            }
        }
        let mut seen = HashSet::new();
        let mut counting: Vec<(String, String)> = std::mem::take(&mut self.pairs)
            .into_iter()
            .rev()
            .filter(|(name, _)| {
                let key = known(name);
                let last = seen.insert(name.clone());
                (key.is_some() || keys.has_prefix(name))
                    && (last || key.is_some_and(|key| key.each))
            })
            .collect();
        counting.reverse();
        self.pairs = counting;
        Ok(())
    }
}

fn unexpected(name: &str, prefix: Option<&str>) -> String {
    let name = python::quoted(name);
    if let Some(prefix) = prefix {
        format!("{name} does not match any of the regexes: '^{prefix}'")
    } else {
        format!("Additional properties are not allowed ({name} was unexpected)")
    }
}

fn check_value(key: &Key, value: &str) -> Result<(), Fault> {
    let quoted = || python::quoted(value);
    let mismatch = |pattern: &str| Some(format!("{} does not match '{pattern}'", quoted()));
    let complaint = match key.kind {
        Kind::Digits | Kind::Positive | Kind::Host if value.is_empty() => {
            Some(format!("{} should be non-empty", quoted()))
        }
        Kind::Digits | Kind::Positive if !value.bytes().all(|b| b.is_ascii_digit()) => {
            mismatch("^[0-9]*$")
        }
        Kind::Positive if value.bytes().all(|b| b == b'0') => {
            Some(format!("{value} is less than the minimum of 1"))
        }
        Kind::Host if value.len() > 255 => Some(format!("{} is too long", quoted())),
        Kind::Host
            if !value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) =>
        {
            mismatch("^[a-zA-Z0-9-._]*$")
        }
        Kind::Any | Kind::Digits | Kind::Positive | Kind::Host => None,
        Kind::Time => Timestamp::parse(value)
            .is_none()
            .then(|| format!("{} is not a 'date-time'", quoted())),
        Kind::Regex => (!formats::pattern(value)).then(|| format!("{} is not a 'regex'", quoted())),
        Kind::OneOf(list) => (!list.contains(&value)).then(|| {
            let list: Vec<serde_json::Value> = list.iter().map(|text| (*text).into()).collect();
            format!("{} is not one of {}", quoted(), python::repr(&list.into()))
        }),
    };
    match complaint {
        None => Ok(()),
        Some(complaint) => Err(Fault::bad_request(format!(
            "Invalid input for query parameters {}. Value: {value}. {complaint}",
            key.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    static KEYS: Keys = Keys {
        keys: &[
            key("limit", Kind::Digits),
            key("sort_key", Kind::OneOf(&["a", "b"])).each(),
            key("changes-since", Kind::Time),
            key("new", Kind::Any).since(Microversion(10)),
            key("single", Kind::Any).once(),
        ],
        strict: Some(Microversion(75)),
        prefix: None,
    };

    fn check(text: &str, version: u16) -> Result<Vec<String>, String> {
        let mut query = Query::parse(text);
        query
            .check(&KEYS, Microversion(version))
            .map_err(|fault| fault.message)?;
        Ok(query.pairs().iter().map(|(key, _)| key.clone()).collect())
    }

    #[test]
    fn keys_and_values() {
        assert_eq!(check("limit=1&bogus=2&new=3", 1).unwrap(), ["limit"]);
        assert_eq!(check("new=3", 10).unwrap(), ["new"]);
        assert_eq!(
            check("limit=1&sort_key=b&limit=2&sort_key=a", 1).unwrap(),
            ["sort_key", "limit", "sort_key"]
        );
        let table = [
            (
                "limit=abc",
                1,
                "Invalid input for query parameters limit. Value: abc. 'abc' does not match '^[0-9]*$'",
            ),
            (
                "limit=-1",
                1,
                "Invalid input for query parameters limit. Value: -1. '-1' does not match '^[0-9]*$'",
            ),
            (
                "sort_key=c",
                1,
                "Invalid input for query parameters sort_key. Value: c. 'c' is not one of ['a', 'b']",
            ),
            (
                "changes-since=no",
                1,
                "Invalid input for query parameters changes-since. Value: no. 'no' is not a 'date-time'",
            ),
            (
                "bogus=1",
                75,
                "Additional properties are not allowed ('bogus' was unexpected)",
            ),
            (
                "single=1&single=2",
                1,
                "Invalid input for query parameters single. Value: ['1', '2']. ['1', '2'] is too long",
            ),
        ];
        for (text, version, wanted) in table {
            assert_eq!(check(text, version).unwrap_err(), wanted, "{text}");
        }
    }
}
