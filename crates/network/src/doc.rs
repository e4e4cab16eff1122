//! A resource as the API shows it: a JSON object. Attributes whose names begin with `_` are never shown.

use serde_json::{Map, Value};
use std::ops::{Deref, DerefMut};

/// A resource document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doc(pub Map<String, Value>);

impl Deref for Doc {
    type Target = Map<String, Value>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Doc {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Doc {
    /// A text attribute; what is absent, null or no text is empty.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A text attribute that may be null.
    pub fn text_opt(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A boolean; what is absent is false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// An integer, if there is one.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::as_i64)
    }

    /// A list; what is absent is empty.
    pub fn list(&self, name: &str) -> &[Value] {
        self.get(name)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.list(name)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Whether the attribute is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }

    /// The id.
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// The owner.
    pub fn project(&self) -> &str {
        self.text("project_id")
    }

    /// The fixed IPs of a port as (subnet id, address).
    pub fn fixed_ips(&self) -> Vec<(String, String)> {
        let member = |ip: &Value, name: &str| {
            ip.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        self.list("fixed_ips")
            .iter()
            .map(|ip| (member(ip, "subnet_id"), member(ip, "ip_address")))
            .collect()
    }
}
