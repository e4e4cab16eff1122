//! Schemas of what is read, made of the table that the tests hold answers against (`tests/answers.txt`; `tests/answers.rs` says
//! how it is written). It has kinds that were seen: so nothing is required here, everything may be null, and what was never
//! seen but as null may be anything.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use types::Microversion;

const TABLE: &str = include_str!("../tests/answers.txt");

/// Objects in the table that can be a text too: the image of a server that has none.
const TEXTS_TOO: [&str; 1] = ["image"];

/// A place of a document, and a name there with its kind.
type Seen = (&'static str, &'static str);

/// What a path answers from a version on.
#[derive(Default)]
struct Since {
    version: u16,
    /// To administrators, and what users get instead.
    admin: BTreeSet<Seen>,
    plain: BTreeSet<Seen>,
}

/// The rows by path, each with its versions.
fn table() -> &'static BTreeMap<&'static str, Vec<Since>> {
    static READ: OnceLock<BTreeMap<&'static str, Vec<Since>>> = OnceLock::new();
    READ.get_or_init(|| read(TABLE))
}

fn read(text: &'static str) -> BTreeMap<&'static str, Vec<Since>> {
    let mut all: BTreeMap<&'static str, Vec<Since>> = BTreeMap::new();
    let (mut path, mut plain) = ("", false);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let rows = all.entry(path).or_default();
        if let Some(change) = line.strip_prefix("    ") {
            let Some(row) = rows.last_mut() else { continue };
            let (sign, rest) = change.split_at(2);
            let (place, names) = rest.split_once(": ").unwrap_or((rest, ""));
            for name in names.split(", ") {
                match (plain, sign) {
                    (true, "+ ") => drop(row.plain.insert((place, name))),
                    (true, _) => {}
                    (false, "+ ") => drop(row.admin.insert((place, name))),
                    (false, _) => drop(row.admin.remove(&(place, name))),
                }
            }
        } else if let Some(from) = line.strip_prefix("  ") {
            plain = from.starts_with("plain ");
            let number = from.trim_start_matches("plain ").trim_start_matches("2.");
            let admin = match (plain, rows.last()) {
                (false, Some(before)) => before.admin.clone(),
                _ => BTreeSet::new(),
            };
            rows.push(Since {
                version: number.parse().unwrap_or_default(),
                admin,
                ..Since::default()
            });
        } else {
            path = line.strip_prefix("GET ").unwrap_or(line);
            plain = false;
        }
    }
    all
}

/// The schema of the answer to a GET; none where only refusals were seen.
pub fn schema(path: &str, version: Microversion) -> Option<Value> {
    let rows = table().get(path)?.iter();
    let rows: Vec<&Since> = rows.filter(|row| row.version <= version.0).collect();
    let admin = rows.iter().rfind(|row| !row.admin.is_empty());
    let plain = rows.iter().rfind(|row| !row.plain.is_empty());
    let seen = admin.iter().flat_map(|row| &row.admin);
    let seen = seen.chain(plain.iter().flat_map(|row| &row.plain));
    let mut root = Node::default();
    for (place, name) in seen.filter(|(place, _)| *place != "fault") {
        root.insert(place, name);
    }
    (!root.fields.is_empty() || root.others.is_some()).then(|| root.schema(""))
}

/// A value in a document, with everything that was seen of it.
#[derive(Default)]
struct Node {
    types: BTreeSet<&'static str>,
    anything: bool,
    fields: BTreeMap<&'static str, Node>,
    /// The value of every other field, and the items of a list.
    others: Option<Box<Node>>,
    items: Option<Box<Node>>,
}

impl Node {
    fn insert(&mut self, place: &'static str, name: &'static str) {
        let steps = place.split('.').filter(|step| !step.is_empty());
        let node = steps.fold(self, Node::below);
        let (field, kind) = name.split_once(' ').unwrap_or((name, ""));
        node.below(field).see(kind);
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

    fn see(&mut self, kind: &str) {
        self.types.insert(match kind {
            "null" => {
                self.anything = true;
                return;
            }
            "boolean" => "boolean",
            "number" | "fraction" => "number",
            "list" => "array",
            "object" => "object",
            _ => "string",
        });
    }

    fn schema(&self, name: &str) -> Value {
        let mut types = self.types.clone();
        if self.items.is_some() {
            types.insert("array");
        }
        if !self.fields.is_empty() || self.others.is_some() {
            types.insert("object");
        }
        if TEXTS_TOO.contains(&name) {
            types.insert("string");
        }
        if types.is_empty() || self.anything {
            return json!({});
        }
        if !name.is_empty() {
            types.insert("null");
        }
        let mut schema = json!({ "type": types });
        if !self.fields.is_empty() {
            let fields = self.fields.iter();
            let fields = fields.map(|(name, node)| ((*name).to_owned(), node.schema(name)));
            schema["properties"] = fields.collect::<Map<String, Value>>().into();
        }
        if let Some(others) = &self.others {
            schema["additionalProperties"] = others.schema("*");
        }
        if let Some(items) = &self.items {
            schema["items"] = items.schema("[]");
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_seen_becomes_a_schema() {
        let at = |version| schema("/flavors", Microversion(version)).unwrap();
        let flavor =
            |version: u16| at(version)["properties"]["flavors"]["items"]["properties"].clone();
        assert_eq!(at(1)["type"], json!(["object"]));
        assert_eq!(flavor(1)["name"]["type"], json!(["null", "string"]));
        assert!(flavor(54).get("description").is_none());
        assert!(flavor(55).get("description").is_some());
        let link = &flavor(1)["links"]["items"]["properties"];
        assert!(link.get("href").is_some(), "{link}");
        let detail = |version| {
            schema("/flavors/detail", Microversion(version))
                .unwrap()
                .to_string()
        };
        assert!(detail(101).contains("rxtx_factor") && !detail(102).contains("rxtx_factor"));
        let validator = crate::schemas::compile(&at(1)).unwrap();
        let good = json!({ "flavors": [{ "id": "1", "name": null }] });
        assert!(validator.is_valid(&good));
        for wrong in [
            json!({ "flavors": [{ "name": 3 }] }),
            json!({ "flavors": 3 }),
            json!([]),
        ] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
        assert_eq!(
            schema("/servers/{server_id}/shares", Microversion::MAX),
            None
        );
    }
}
