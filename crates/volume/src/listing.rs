//! Lists: filters, sorting, pages (Block Storage API, "Pagination", "Filtering").

use crate::check::truth_of;
use crate::edge::Call;
use crate::fault::{Fault, Result};
use serde_json::{Value, json};
use std::cmp::Ordering;

/// A query string, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes()).into_owned();
        Self {
            pairs: pairs.collect(),
        }
    }

    /// The last value of a parameter.
    pub fn last(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Leaves parameters out.
    pub fn forget(&mut self, names: &[&str]) {
        self.pairs
            .retain(|(name, _)| !names.contains(&name.as_str()));
    }

    /// A parameter that means yes; no when it is not there.
    ///
    /// # Errors
    /// 400 when it means neither.
    pub fn yes(&self, name: &str) -> Result<bool> {
        match self.last(name) {
            None => Ok(false),
            Some(text) => truth_of(text)
                .ok_or_else(|| Fault::input(format!("'{text}' is not a boolean value for {name}"))),
        }
    }

    /// Everything that is no page, order or scope.
    pub fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        const CONTROL: &[&str] = &[
            "limit",
            "offset",
            "marker",
            "sort",
            "sort_key",
            "sort_dir",
            "all_tenants",
            "with_count",
            "project_id",
        ];
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !CONTROL.contains(name))
    }
}

/// What a list of some kind of resource allows.
pub struct Rules {
    /// Where it is, for example `volumes`.
    pub path: &'static str,
    /// What a link is called, for example `volumes_links`.
    pub links: &'static str,
    /// What everybody may filter by.
    pub filters: &'static [&'static str],
    /// What may be sorted by.
    pub sorts: &'static [&'static str],
}

/// A resource as filters and orders see it.
pub struct Item<T> {
    /// The key of pages.
    pub id: String,
    /// Its fields.
    pub fields: Value,
    /// What is shown.
    pub item: T,
}

/// A page of a list.
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// How many there are on all pages.
    pub count: usize,
    /// Where the next one is, if there is one.
    pub links: Option<Value>,
}

impl<T> Page<T> {
    /// Adds links and, when it was asked for, the count to a list's body.
    pub fn complete(&self, body: &mut Value, call: &Call, rules: &Rules) -> Result<()> {
        if let Some(links) = &self.links {
            body[rules.links] = links.clone();
        }
        if call.version.0 >= 45 && call.query.yes("with_count")? {
            body["count"] = self.count.into();
        }
        Ok(())
    }
}

/// Filters, sorts and cuts a list.
pub fn page<T>(
    call: &Call,
    rules: &Rules,
    most: usize,
    mut items: Vec<Item<T>>,
) -> Result<Page<T>> {
    let admin = call.access.is_admin();
    for (name, value) in call.query.filters() {
        let (plain, like) = match name.strip_suffix('~') {
            Some(plain) if call.version.0 >= 34 => (plain, true),
            _ => (name, false),
        };
        // What is no filter is left out for those who are no administrators, as Cinder does.
        if !rules.filters.contains(&plain) {
            if admin && items.iter().any(|one| one.fields.get(plain).is_some()) {
                items.retain(|one| holds(&one.fields[plain], value, like));
            }
            continue;
        }
        items.retain(|one| holds(&one.fields[plain], value, like));
    }
    sort(call, rules, &mut items)?;
    let count = items.len();
    let start = start(call, &items)?;
    let limit = limit(call, most)?;
    let asked = call.query.last("limit").is_some();
    let more = count > start + limit && limit > 0;
    let page: Vec<Item<T>> = items.into_iter().skip(start).take(limit).collect();
    let full = more || (asked && limit > 0 && page.len() == limit);
    let links = page
        .last()
        .filter(|_| full)
        .map(|last| next(call, rules, &last.id));
    Ok(Page {
        items: page.into_iter().map(|one| one.item).collect(),
        count,
        links,
    })
}

fn holds(value: &Value, wanted: &str, like: bool) -> bool {
    match value {
        Value::String(text) if like => text.contains(wanted),
        Value::String(text) => text == wanted,
        Value::Bool(truth) => truth_of(wanted) == Some(*truth),
        Value::Number(number) => number.to_string() == wanted,
        Value::Null => wanted.is_empty() || wanted == "None",
        Value::Array(items) => items.iter().any(|item| holds(item, wanted, like)),
        Value::Object(object) => match pairs(wanted) {
            Some(pairs) => pairs
                .iter()
                .all(|(name, value)| object.get(name).and_then(Value::as_str) == Some(value)),
            None => false,
        },
    }
}

/// Metadata filters are written as Python or JSON objects: `{'a': 'b'}`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parsed: Value = serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&text.replace("u'", "'").replace('\'', "\"")))
        .ok()?;
    let object = parsed.as_object()?;
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(
        object
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
    )
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// The order that is asked for: `sort=key:dir,...`, or `sort_key` and `sort_dir`.
fn order<'a>(call: &'a Call, rules: &Rules) -> Result<Vec<(&'a str, bool)>> {
    let mut keys = Vec::new();
    if let Some(sort) = call.query.last("sort") {
        if call.query.last("sort_key").is_some() || call.query.last("sort_dir").is_some() {
            return Err(Fault::bad(
                "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.",
            ));
        }
        for one in sort.split(',').filter(|one| !one.trim().is_empty()) {
            let (key, direction) = one.split_once(':').unwrap_or((one, "desc"));
            keys.push((key.trim(), direction.trim()));
        }
    } else if let Some(key) = call.query.last("sort_key") {
        keys.push((key.trim(), call.query.last("sort_dir").unwrap_or("desc")));
    } else if let Some(direction) = call.query.last("sort_dir") {
        keys.push(("created_at", direction));
    }
    if keys.is_empty() {
        keys.push(("created_at", "desc"));
    }
    keys.into_iter()
        .map(|(key, direction)| {
            if !rules.sorts.contains(&key) {
                return Err(Fault::input(format!("Sort key is invalid: {key}")));
            }
            match direction {
                "asc" => Ok((key, false)),
                "desc" => Ok((key, true)),
                other => Err(Fault::input(format!(
                    "Unknown sort direction, must be 'desc' or 'asc': {other}"
                ))),
            }
        })
        .collect()
}

fn sort<T>(call: &Call, rules: &Rules, items: &mut [Item<T>]) -> Result<()> {
    let order = order(call, rules)?;
    let last = order.last().is_some_and(|(_, descending)| *descending);
    items.sort_by(|a, b| {
        for (key, descending) in &order {
            let found = compare(&a.fields[*key], &b.fields[*key]);
            let found = if *descending { found.reverse() } else { found };
            if found != Ordering::Equal {
                return found;
            }
        }
        let found = a.id.cmp(&b.id);
        if last { found.reverse() } else { found }
    });
    Ok(())
}

fn number(call: &Call, name: &str) -> Result<Option<usize>> {
    let Some(text) = call.query.last(name) else {
        return Ok(None);
    };
    match text.trim().parse::<i64>() {
        Ok(found) if found < 0 => Err(Fault::bad(format!("{name} param must be positive"))),
        Ok(found) if found > i64::from(i32::MAX) => Err(Fault::bad(format!(
            "{name} param must be less than 2147483647"
        ))),
        Ok(found) => Ok(usize::try_from(found).ok()),
        Err(_) => Err(Fault::bad(format!("{name} param must be an integer"))),
    }
}

fn limit(call: &Call, most: usize) -> Result<usize> {
    Ok(number(call, "limit")?.unwrap_or(most).min(most))
}

fn start<T>(call: &Call, items: &[Item<T>]) -> Result<usize> {
    let offset = number(call, "offset")?.unwrap_or(0);
    let Some(marker) = call.query.last("marker") else {
        return Ok(offset);
    };
    let at = items.iter().position(|one| one.id == marker);
    match at {
        Some(at) => Ok(at + 1 + offset),
        None => Err(Fault::not_found(format!("marker [{marker}] not found"))),
    }
}

fn next(call: &Call, rules: &Rules, marker: &str) -> Value {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in &call.query.pairs {
        if name != "marker" && name != "offset" {
            pairs.append_pair(name, value);
        }
    }
    pairs.append_pair("marker", marker);
    let path = call.path.join("/");
    let path = if path.is_empty() { rules.path } else { &path };
    json!([{"rel": "next", "href": format!("{}/{path}?{}", call.base, pairs.finish())}])
}
