//! What is answered, from a table of answers that the tests got (`answers.txt`): each row's bodies by status and version, and
//! its refusals. `tests/recorded.rs` writes it, and every answer that a test gets is held against it.
//!
//! Below a row of the routing table stands for a status and a range of versions each place of the document, with the names
//! there: `?` is not always there, the kinds that were seen follow, `null` among them if it was one. `*` is any name, `[]`
//! an item of a list. `empty` is no body at all. What was never seen but as null may be anything.

use crate::route::Route;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;
use types::Microversion;

const TABLE: &str = include_str!("answers.txt");

/// What is known of a row.
#[derive(Default)]
struct Known {
    faults: Vec<u16>,
    lines: Vec<Line>,
}

/// A place of a document, from one version to another.
struct Line {
    status: u16,
    since: u16,
    until: u16,
    /// None: there is no document.
    place: Option<(&'static str, &'static str)>,
}

fn table() -> &'static HashMap<&'static str, Known> {
    static READ: OnceLock<HashMap<&'static str, Known>> = OnceLock::new();
    READ.get_or_init(|| read(TABLE))
}

fn read(text: &'static str) -> HashMap<&'static str, Known> {
    let mut all: HashMap<&'static str, Known> = HashMap::new();
    let mut row = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(told) = line.strip_prefix("  ") else {
            row = line;
            continue;
        };
        let known = all.entry(row).or_default();
        if let Some(faults) = told.strip_prefix("faults ") {
            known.faults = faults
                .split(' ')
                .filter_map(|one| one.parse().ok())
                .collect();
            continue;
        }
        let mut words = told.splitn(3, ' ');
        let (status, range, rest) = (words.next(), words.next(), words.next());
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let minor = |text: &str| number(text.strip_prefix("2."));
        let (since, until) = range
            .and_then(|range| range.split_once('-'))
            .unwrap_or_default();
        known.lines.push(Line {
            status: number(status).unwrap_or_default(),
            since: minor(since).unwrap_or_default(),
            until: minor(until).unwrap_or(u16::MAX),
            place: rest.and_then(|rest| rest.split_once(": ")),
        });
    }
    all
}

/// The row's name in the table. What is served at two paths is there once.
pub fn name(row: &Route) -> String {
    let path = match row.path.strip_prefix("/os-volumes_boot") {
        Some(rest) => format!("/servers{rest}"),
        None => row.path.to_owned(),
    };
    let action = row.action.map(|action| format!(" {action}"));
    format!("{} {path}{}", row.verb.as_str(), action.unwrap_or_default())
}

/// The statuses with which the row has refused something.
pub fn faults(row: &Route) -> &'static [u16] {
    table()
        .get(name(row).as_str())
        .map_or(&[], |known| &known.faults)
}

/// What is answered with a status.
#[derive(Debug, Default)]
pub struct Answer {
    /// Whether there may be no body.
    pub empty: bool,
    /// The schema of the body; none if there is never one.
    pub schema: Option<Value>,
}

/// What the row answers with this status at a version; none if that was never seen. `closed`: nothing else than what was
/// seen is right.
pub fn answer(row: &Route, status: u16, version: Microversion, closed: bool) -> Option<Answer> {
    let known = table().get(name(row).as_str())?;
    let lines = known
        .lines
        .iter()
        .filter(|line| line.status == status && line.since <= version.0 && version.0 <= line.until);
    let (mut answer, mut root, mut seen) = (Answer::default(), Node::default(), false);
    for line in lines {
        seen = true;
        match line.place {
            None => answer.empty = true,
            Some((place, names)) => {
                let names = names.split(", ");
                names.for_each(|name| root.insert(place, name));
            }
        }
    }
    let documented = !root.fields.is_empty() || root.others.is_some();
    answer.schema = documented.then(|| root.schema(closed));
    seen.then_some(answer)
}

/// A value in a document, with everything that was seen of it.
#[derive(Default)]
struct Node {
    types: BTreeSet<&'static str>,
    /// It is not always there.
    optional: bool,
    fields: BTreeMap<&'static str, Node>,
    /// The value of every other field, and the items of a list.
    others: Option<Box<Node>>,
    items: Option<Box<Node>>,
}

impl Node {
    fn insert(&mut self, place: &'static str, told: &'static str) {
        let steps = place.split('.').filter(|step| !step.is_empty());
        let node = steps.fold(self, Node::below);
        let (field, kinds) = told.split_once(' ').unwrap_or((told, ""));
        let node = node.below(field.trim_end_matches('?'));
        node.optional = field.ends_with('?');
        node.types.extend(kinds.split('|'));
    }

    /// A field by its name, `*` for any, with `[]` for each list that it is in.
    fn below(&mut self, step: &'static str) -> &mut Node {
        let name = step.trim_end_matches("[]");
        let lists = (step.len() - name.len()) / 2;
        let mut node = match name {
            "*" => &mut **self.others.get_or_insert_default(),
            _ => self.fields.entry(name).or_default(),
        };
        for _ in 0..lists {
            node = &mut **node.items.get_or_insert_default();
        }
        node
    }

    fn schema(&self, closed: bool) -> Value {
        let mut types = self.types.clone();
        if self.items.is_some() {
            types.insert("array");
        }
        if !self.fields.is_empty() || self.others.is_some() {
            types.insert("object");
        }
        if types.contains("number") {
            types.remove("integer");
        }
        let mut schema = match types.iter().copied().collect::<Vec<_>>()[..] {
            [] | ["null"] => return json!({}),
            [only] => json!({ "type": only }),
            _ => json!({ "type": types }),
        };
        if !self.fields.is_empty() {
            let fields = self.fields.iter();
            let fields = fields.map(|(name, node)| ((*name).to_owned(), node.schema(closed)));
            schema["properties"] = fields.collect::<Map<String, Value>>().into();
            let required = self.fields.iter().filter(|(_, node)| !node.optional);
            let required: Vec<&str> = required.map(|(name, _)| *name).collect();
            if !required.is_empty() {
                schema["required"] = required.into();
            }
            if closed {
                schema["additionalProperties"] = false.into();
            }
        }
        if let Some(others) = &self.others {
            schema["additionalProperties"] = others.schema(closed);
        }
        if let Some(items) = &self.items {
            schema["items"] = items.schema(closed);
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::route::Verb;

    fn schema(row: &Route, status: u16, version: u16) -> Option<Value> {
        answer(row, status, Microversion(version), false)?.schema
    }

    #[test]
    fn what_was_seen_becomes_a_schema() {
        let flavors = Route::new(Verb::Get, "/flavors");
        let at = |version| schema(&flavors, 200, version).unwrap();
        let flavor = |version: u16| at(version)["properties"]["flavors"]["items"].clone();
        assert_eq!(at(1)["type"], "object");
        assert_eq!(at(1)["required"], json!(["flavors"]));
        assert_eq!(flavor(1)["properties"]["name"]["type"], "string");
        assert_eq!(flavor(54)["required"], json!(["id", "links", "name"]));
        assert_eq!(
            flavor(55)["properties"]["description"]["type"],
            json!(["null", "string"])
        );
        let link = &flavor(1)["properties"]["links"]["items"]["properties"];
        assert_eq!(link["href"]["type"], "string");
        let detail = Route::new(Verb::Get, "/flavors/detail");
        let detail = |version| schema(&detail, 200, version).unwrap().to_string();
        assert!(detail(101).contains("rxtx_factor") && !detail(102).contains("rxtx_factor"));
        let validator = crate::schemas::compile(&at(1)).unwrap();
        let link = json!([{ "href": "h", "rel": "self" }]);
        let good = json!({ "flavors": [{ "id": "1", "name": "n", "links": link }] });
        assert!(validator.is_valid(&good));
        for wrong in [
            json!({ "flavors": [{ "id": "1", "name": 3, "links": link }] }),
            json!({ "flavors": [{ "id": "1", "name": null, "links": link }] }),
            json!({ "flavors": [{ "id": "1", "links": link }] }),
            json!({ "flavors": 3 }),
            json!({}),
            json!([]),
        ] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
    }

    #[test]
    fn answers_are_those_of_the_status_the_version_and_the_action() {
        let made = Route::new(Verb::Post, "/os-keypairs");
        assert!(schema(&made, 200, 1).is_some() && schema(&made, 200, 2).is_none());
        assert!(schema(&made, 201, 1).is_none() && schema(&made, 201, 2).is_some());
        let action = |name| Route::action("/servers/{id}/action", name);
        let image = |version| answer(&action("createImage"), 202, Microversion(version), false);
        assert!(image(44).unwrap().empty && image(44).unwrap().schema.is_none());
        let named = image(45).unwrap();
        assert_eq!(named.schema.unwrap()["required"], json!(["image_id"]));
        assert!(!named.empty);
        let reboot = answer(&action("reboot"), 202, Microversion::MAX, false).unwrap();
        assert!(reboot.empty && reboot.schema.is_none());
        assert!(schema(&action("rebuild"), 202, 90).is_some());
        let other = Route::new(Verb::Get, "/servers/{server_id}/shares");
        assert!(answer(&other, 200, Microversion::MAX, false).is_none());
        assert!(faults(&other).contains(&501));
        let at_boot = Route::new(Verb::Post, "/os-volumes_boot");
        let usual = Route::new(Verb::Post, "/servers");
        assert_eq!(schema(&at_boot, 202, 50), schema(&usual, 202, 50));
    }
}
