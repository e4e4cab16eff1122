//! What our schemas and query keys take, next to what Nova's take, on values made from both.
//!
//! Nova's schemas are no part of this repository: where `KILONOVA_ORACLE` names no folder, the tests say so and pass.
//! `KILONOVA_CONFORMANCE_ROUNDS` says how many values each row and version gets (a few by default),
//! `KILONOVA_CONFORMANCE_SEED` where it begins: the same values come with the same two.

use super::generate::{mutate, shrink, value};
use super::policies::oracle;
use crate::query::Query;
use crate::route::{Route, Served};
use crate::routes::ROUTES;
use crate::schemas;
use jsonschema::Validator;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use types::Microversion;

const NEWEST: u16 = 104;
/// How many of Nova's 171 schemas of bodies and 170 of queries are of rows that are served here; the others are of rows
/// that are gone, or of `/v2` alone.
const BODIES: usize = 140;
const QUERIES: usize = 150;

/// What one row has in a range of versions, in Nova's words.
struct Theirs {
    file: String,
    since: u16,
    until: u16,
    schema: Value,
    compiled: OnceCell<Validator>,
}

impl Theirs {
    fn accepts(&self, value: &Value) -> bool {
        self.compiled
            .get_or_init(|| schemas::compile(&self.schema).unwrap())
            .is_valid(value)
    }
}

/// One row at one version at which something changes.
struct Case {
    row: &'static Route,
    version: u16,
    /// Nova's schema; none takes everything.
    theirs: Option<usize>,
    /// Our schema of a body, as a document to make values from.
    ours: Option<Value>,
}

fn minor(text: &Value, otherwise: u16) -> u16 {
    text.as_str()
        .and_then(|text| text.strip_prefix("2.")?.parse().ok())
        .unwrap_or(otherwise)
}

fn row(route: &Value) -> Option<&'static Route> {
    ROUTES.iter().find(|row| {
        row.verb.as_str() == route["method"]
            && row.path == route["path"]
            && row.action == route["action"].as_str()
            && matches!(row.served, Served::By(_))
    })
}

/// Every row with every version at which Nova's or our verdict may change.
fn cases(folder: &Path, part: &str, ours: impl Fn(&Route) -> Vec<u16>) -> (Vec<Theirs>, Vec<Case>) {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("schemas").join(name)).unwrap()).unwrap()
    };
    let (mut schemas, mut cases) = (Vec::new(), Vec::new());
    for route in read("index.json")["routes"].as_array().unwrap() {
        let Some(row) = row(route) else { continue };
        let first = schemas.len();
        for range in route[part].as_array().unwrap() {
            if range["legacy_v2_only"] == true {
                continue;
            }
            schemas.push(Theirs {
                file: range["file"].as_str().unwrap().to_owned(),
                since: minor(&range["min"], 1).max(1),
                until: minor(&range["max"], NEWEST),
                schema: read(range["file"].as_str().unwrap()),
                compiled: OnceCell::new(),
            });
        }
        let mut versions = ours(row);
        versions.extend(schemas[first..].iter().map(|one| one.since));
        versions.extend([1, NEWEST]);
        versions.extend(
            versions
                .clone()
                .into_iter()
                .map(|version| version.saturating_sub(1)),
        );
        versions.sort_unstable();
        versions.dedup();
        for version in versions {
            if version == 0 || !row.exists_at(Microversion(version)) {
                continue;
            }
            let theirs = (first..schemas.len())
                .find(|index| schemas[*index].since <= version && version <= schemas[*index].until);
            let ours = row
                .body
                .and_then(|schema| schema.document(Microversion(version)));
            cases.push(Case {
                row,
                version,
                theirs,
                ours,
            });
        }
    }
    (schemas, cases)
}

/// A number from the environment.
pub fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Values for each row and version, unless the environment says more.
const ROUNDS: u64 = 6;

/// Every schema of a part is held against ours, but for those of rows that are gone or not built, and those of `/v2`
/// alone, which drops what it does not know. How many there are.
fn all_are_used(folder: &Path, part: &str, schemas: &[Theirs], cases: &[Case]) -> usize {
    let used = cases.iter().filter_map(|case| case.theirs);
    let used: BTreeSet<&str> = used.map(|index| schemas[index].file.as_str()).collect();
    let text = std::fs::read(folder.join("schemas/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&text).unwrap();
    let mut all = BTreeSet::new();
    let mut forgotten = BTreeSet::new();
    for route in index["routes"].as_array().unwrap() {
        for range in route[part].as_array().unwrap() {
            let file = range["file"].as_str().unwrap();
            all.insert(file.to_owned());
            if row(route).is_some() && range["legacy_v2_only"] != true && !used.contains(file) {
                forgotten.insert(file.to_owned());
            }
        }
    }
    assert!(forgotten.is_empty(), "held against nothing: {forgotten:?}");
    println!("{} of {} schemas", used.len(), all.len());
    used.len()
}

/// Tries values; the differences, one for each row and version.
fn differences(
    cases: &[Case],
    mut make: impl FnMut(&Case, &mut StdRng) -> Value,
    theirs: impl Fn(&Case, &Value) -> bool,
    ours: impl Fn(&Case, &Value) -> Result<(), String>,
) -> Vec<String> {
    let seed = number_of("KILONOVA_CONFORMANCE_SEED", 1);
    let rounds = number_of("KILONOVA_CONFORMANCE_ROUNDS", ROUNDS);
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut found, mut tried, mut accepted) = (BTreeMap::new(), 0_u64, 0_u64);
    for _ in 0..rounds {
        for case in cases {
            let sent = make(case, &mut rng);
            tried += 1;
            let good = theirs(case, &sent);
            accepted += u64::from(good);
            if good == ours(case, &sent).is_ok() {
                continue;
            }
            let row = case.row;
            let small = shrink(&sent, &|one| {
                theirs(case, one) == good && ours(case, one).is_ok() != good
            });
            let key = format!(
                "{} {} {}",
                row.verb.as_str(),
                row.path,
                row.action.unwrap_or_default()
            );
            let shown: String = small.to_string().chars().take(400).collect();
            let verdict = if good { "refused" } else { "accepted" };
            let reason = ours(case, &small).err().unwrap_or_default();
            let reason: String = reason.chars().take(300).collect();
            found
                .entry((key, verdict, reason.clone()))
                .or_insert_with(|| {
                    format!("2.{}: {shown} is {verdict} here: {reason}", case.version)
                });
        }
        if found.len() > 400 {
            break;
        }
    }
    println!(
        "{tried} values in {} cases, {accepted} of them good",
        cases.len()
    );
    assert!(accepted > tried / 20, "hardly anything good was tried");
    assert!(
        accepted < tried - tried / 20,
        "hardly anything bad was tried"
    );
    found
        .into_iter()
        .map(|((key, ..), text)| format!("{key} {text}"))
        .collect()
}

fn folder() -> Option<std::path::PathBuf> {
    let folder = oracle();
    if folder.is_none() {
        eprintln!("KILONOVA_ORACLE is not set: requests are not compared with Nova's schemas");
    }
    folder
}

/// Before any schema, an action's body must have its name as the only key.
fn names_the_action(row: &Route, body: &Value) -> bool {
    row.action.is_none_or(|action| {
        body.as_object()
            .is_some_and(|map| map.len() == 1 && map.contains_key(action))
    })
}

#[test]
fn bodies_get_the_verdict_of_novas_schemas() {
    let Some(folder) = folder() else { return };
    let (schemas, cases) = cases(&folder, "request_body", |row| {
        row.body
            .map(|schema| schema.boundaries().map(|since| since.0).collect())
            .unwrap_or_default()
    });
    // Rows without a schema on either side take everything: there is nothing to compare.
    let cases: Vec<Case> = cases
        .into_iter()
        .filter(|case| case.theirs.is_some() || case.row.body.is_some())
        .collect();
    let used = all_are_used(&folder, "request_body", &schemas, &cases);
    assert_eq!(used, BODIES, "schemas of bodies");
    let wrong = differences(
        &cases,
        |case, rng| {
            let theirs = case.theirs.map(|index| &schemas[index].schema);
            let from = match (theirs, case.ours.as_ref()) {
                (Some(theirs), Some(ours)) => {
                    if rand::Rng::random_bool(rng, 0.5) {
                        theirs
                    } else {
                        ours
                    }
                }
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Value::Null,
            };
            let mut made = value(from, rng);
            if rand::Rng::random_bool(rng, 0.4) {
                mutate(&mut made, rng);
            }
            made
        },
        |case, body| {
            names_the_action(case.row, body)
                && case.theirs.is_none_or(|index| schemas[index].accepts(body))
        },
        |case, body| match case.row.body {
            _ if !names_the_action(case.row, body) => Err("no action".to_owned()),
            Some(schema) => schema
                .check(Microversion(case.version), body)
                .map_err(|fault| fault.message),
            None => Ok(()),
        },
    );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// `/v2` has schemas of its own for a few rows; they count after what they do not know is taken away.
#[test]
fn bodies_of_v2_get_the_verdict_of_novas_schemas() {
    let Some(folder) = folder() else { return };
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join("schemas").join(name)).unwrap()).unwrap()
    };
    let (mut schemas, mut cases) = (Vec::new(), Vec::new());
    for route in read("index.json")["routes"].as_array().unwrap() {
        let ranges = route["request_body"].as_array().unwrap();
        // Without one for `/v2` alone it takes what the first version takes.
        let own = ranges.iter().find(|range| range["legacy_v2_only"] == true);
        let first = ranges.first().filter(|range| minor(&range["min"], 0) == 0);
        let (Some(range), Some(row)) = (own.or(first), row(route)) else {
            continue;
        };
        schemas.push(Theirs {
            file: range["file"].as_str().unwrap().to_owned(),
            since: u16::from(own.is_none()),
            until: 1,
            schema: read(range["file"].as_str().unwrap()),
            compiled: OnceCell::new(),
        });
        cases.push(Case {
            row,
            version: 1,
            theirs: Some(schemas.len() - 1),
            ours: row.body.map(schemas::Schema::legacy_document),
        });
    }
    let own = schemas.iter().filter(|one| one.since == 0).count();
    assert_eq!((own, schemas.len()), (13, 88), "rows with a schema");
    let wrong = differences(
        &cases,
        |case, rng| {
            let theirs = &schemas[case.theirs.unwrap()].schema;
            let from = match &case.ours {
                Some(ours) if rand::Rng::random_bool(rng, 0.5) => ours,
                _ => theirs,
            };
            let mut made = value(from, rng);
            if rand::Rng::random_bool(rng, 0.4) {
                mutate(&mut made, rng);
            }
            made
        },
        |case, body| {
            let theirs = &schemas[case.theirs.unwrap()];
            let mut body = body.clone();
            names_the_action(case.row, &body) && {
                schemas::strip(&theirs.schema, &mut body);
                theirs.accepts(&body)
            }
        },
        |case, body| match case.row.body {
            _ if !names_the_action(case.row, body) => Err("no action".to_owned()),
            Some(schema) => schema
                .check_legacy(&mut body.clone())
                .map_err(|fault| fault.message),
            None => Ok(()),
        },
    );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The query string of `{key: [values]}`.
fn query_string(pairs: &Value) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, values) in pairs.as_object().into_iter().flatten() {
        for value in values.as_array().into_iter().flatten() {
            text.append_pair(name, value.as_str().unwrap_or_default());
        }
    }
    text.finish()
}

/// Only what a query string can say: keys with one or more texts.
fn as_query(value: Value) -> Value {
    let Value::Object(map) = value else {
        return json!({});
    };
    map.into_iter()
        .map(|(name, values)| {
            let list = match values {
                Value::Array(list) if !list.is_empty() => list,
                Value::Array(_) => vec!["".into()],
                one => vec![one],
            };
            let texts: Vec<Value> = list
                .into_iter()
                .map(|one| match one {
                    Value::String(text) => text.into(),
                    other => other.to_string().into(),
                })
                .collect();
            (name, texts.into())
        })
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

#[test]
fn queries_get_the_verdict_of_novas_schemas() {
    let Some(folder) = folder() else { return };
    let (schemas, cases) = cases(&folder, "query", |row| {
        row.query.map(|keys| keys.boundaries()).unwrap_or_default()
    });
    let cases: Vec<Case> = cases
        .into_iter()
        .filter(|case| case.theirs.is_some() || case.row.query.is_some())
        .collect();
    let used = all_are_used(&folder, "query", &schemas, &cases);
    assert_eq!(used, QUERIES, "schemas of queries");
    let wrong =
        differences(
            &cases,
            |case, rng| {
                let ours: Option<Value> = case.row.query.map(|keys| {
                let keys = keys.keys.iter().map(|key| {
                    (key.name.to_owned(), json!({ "type": "array", "items": { "type": "string" } }))
                });
                json!({ "type": "object", "properties": keys.collect::<serde_json::Map<_, _>>() })
            });
                let theirs = case.theirs.map(|index| &schemas[index].schema);
                let from = match (theirs, ours.as_ref()) {
                    (Some(theirs), Some(ours)) => {
                        if rand::Rng::random_bool(rng, 0.8) {
                            theirs
                        } else {
                            ours
                        }
                    }
                    (Some(one), None) | (None, Some(one)) => one,
                    (None, None) => return json!({}),
                };
                let mut made = value(from, rng);
                if rand::Rng::random_bool(rng, 0.2) {
                    mutate(&mut made, rng);
                }
                as_query(made)
            },
            |case, query| {
                case.theirs
                    .is_none_or(|index| schemas[index].accepts(&as_query(query.clone())))
            },
            |case, query| match case.row.query {
                Some(keys) => Query::parse(&query_string(&as_query(query.clone())))
                    .check(keys, Microversion(case.version))
                    .map_err(|fault| fault.message),
                None => Ok(()),
            },
        );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
