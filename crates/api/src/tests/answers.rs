//! What each answer has at each version, in a table of our own: `answers.txt`, which needs nothing from outside.
//!
//! Below each path are the versions at which the answer to an administrator gets another shape, with what came (`+`) and
//! what went (`-`): a place in the document, and there the names, each with its kind. Below those is what a user has
//! otherwise than an administrator. `KILONOVA_TEST_WRITE_ANSWERS=1` asks at every version and writes the table anew: read
//! what changed.

use super::microversions::prepared;
use super::samples::Fixture;
use super::server_life::host_is_up;
use super::shape::{FREE, kind, table, way, wrong_headers};
use crate::route::{Route, Served, Verb};
use crate::routes::ROUTES;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use types::Microversion;

const TABLE: &str = "answers.txt";

/// The document itself.
const TOP: &str = ".";

/// Places in a document, each with a name and its kind.
type Shape = BTreeSet<(String, String)>;

/// What a user is answered otherwise: places that are gone, places that are there instead.
#[derive(Clone, Default, PartialEq)]
struct Otherwise {
    gone: Shape,
    come: Shape,
}

/// A row of the table: shapes for administrators and what differs for users, each from a version on.
#[derive(Clone, Default)]
struct Told {
    admin: BTreeMap<u16, Shape>,
    plain: BTreeMap<u16, Otherwise>,
}

/// Asked of a host, which this cloud has not.
const HOSTS: &[&str] = &["/servers/{server_id}/diagnostics"];

/// Rows that are read.
fn rows() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|row| {
        row.verb == Verb::Get && matches!(row.served, Served::By(_)) && !HOSTS.contains(&row.path)
    })
}

fn places(at: &str, value: &Value, found: &mut Shape) {
    let kind = match value {
        Value::Object(map) if !map.is_empty() => {
            let free = FREE.iter().any(|free| at.ends_with(free));
            for (name, inner) in map {
                let name = if free { "*" } else { name };
                let dot = if at == TOP { "" } else { "." };
                places(&format!("{at}{dot}{name}"), inner, found);
            }
            return;
        }
        Value::Array(list) if !list.is_empty() => {
            for inner in list {
                places(&format!("{at}[]"), inner, found);
            }
            return;
        }
        Value::String(text) if kind(value) == "link" => format!("link to {}", way(text)),
        _ => kind(value).to_owned(),
    };
    let (place, name) = at.rsplit_once('.').unwrap_or_default();
    let place = if place.is_empty() { TOP } else { place };
    found.insert((place.to_owned(), format!("{name} {kind}")));
}

async fn shape(fixture: &Fixture, token: &str, row: &Route, version: u16) -> Shape {
    let path = fixture.path(row.path, version);
    host_is_up(&fixture.cloud).await;
    let answer = fixture.cloud.get(token, version, &path).await;
    let headers = wrong_headers(&answer, Some(version));
    assert!(headers.is_empty(), "{path} at 2.{version}: {headers:?}");
    let mut found = Shape::new();
    if answer.status == 200 {
        places(TOP, &answer.json(), &mut found);
    } else {
        let said = format!("{} {}", answer.status.as_u16(), answer.fault().0);
        found.insert(("fault".to_owned(), said));
    }
    found
}

fn otherwise(admin: &Shape, plain: &Shape) -> Otherwise {
    let refused = plain.iter().any(|(place, _)| place == "fault");
    Otherwise {
        gone: if refused { Shape::new() } else { admin - plain },
        come: plain - admin,
    }
}

fn last(row: &Route) -> u16 {
    row.until.map_or(Microversion::MAX.0, |until| until.0 - 1)
}

/// The latest that a table says of a version.
fn at<T: Clone + Default>(told: &BTreeMap<u16, T>, version: u16) -> T {
    let latest = told.range(..=version).next_back();
    latest.map(|(_, one)| one.clone()).unwrap_or_default()
}

fn told() -> BTreeMap<String, Told> {
    let mut all: BTreeMap<String, Told> = BTreeMap::new();
    let (mut row, mut version, mut plain) = (Told::default(), 0, false);
    let mut path = String::new();
    for line in table(TABLE).lines().filter(|line| !line.starts_with('#')) {
        if let Some(change) = line.strip_prefix("    ") {
            let (sign, rest) = change.split_at(2);
            let (place, names) = rest.split_once(": ").unwrap();
            for name in names.split(", ") {
                let one = (place.to_owned(), name.to_owned());
                let fits = if plain {
                    let other = row.plain.entry(version).or_default();
                    let shape = if sign == "+ " {
                        &mut other.come
                    } else {
                        &mut other.gone
                    };
                    shape.insert(one)
                } else {
                    let shape = row.admin.entry(version).or_default();
                    if sign == "+ " {
                        shape.insert(one)
                    } else {
                        shape.remove(&one)
                    }
                };
                assert!(fits, "{path} 2.{version}: {line}");
            }
        } else if let Some(from) = line.strip_prefix("  ") {
            let from = from
                .strip_prefix("plain ")
                .inspect(|_| plain = true)
                .unwrap_or(from);
            version = from.strip_prefix("2.").unwrap().parse().unwrap();
            let before = at(&row.admin, version);
            if plain {
                row.plain.insert(version, Otherwise::default());
            } else {
                row.admin.insert(version, before);
            }
        } else {
            all.insert(
                std::mem::replace(&mut path, line.to_owned()),
                std::mem::take(&mut row),
            );
            plain = false;
        }
    }
    all.insert(path, row);
    all.remove("");
    all
}

/// Lines of the table for what came or went.
fn lines(sign: &str, shape: &Shape, text: &mut String) {
    const WIDTH: usize = 118;
    let mut line = String::new();
    let mut current = "";
    for (place, name) in shape {
        if place == current && line.len() + name.len() + 2 <= WIDTH {
            line.push_str(&format!(", {name}"));
            continue;
        }
        text.push_str(&line);
        current = place;
        line = format!("\n    {sign} {place}: {name}");
    }
    text.push_str(&line);
}

fn change(gone: &Shape, come: &Shape) -> String {
    let mut text = String::new();
    lines("-", gone, &mut text);
    lines("+", come, &mut text);
    text
}

#[tokio::test]
async fn answers_are_those_of_the_table() {
    let fixture = prepared().await;
    let mut told = told();
    let writes = std::env::var_os("KILONOVA_TEST_WRITE_ANSWERS").is_some();
    let mut text = "# Written by answers.rs, which says what it means.".to_owned();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for row in rows() {
        let name = format!("GET {}", row.path);
        let told = told.remove(&name).unwrap_or_default();
        let changes = told.admin.keys().chain(told.plain.keys());
        // Nothing comes before its version, and nothing changes after the last one.
        let mut versions: BTreeSet<u16> = changes.flat_map(|one| [*one, one - 1]).collect();
        versions.extend([row.since.0, last(row)]);
        if writes {
            versions = (row.since.0..=last(row)).collect();
        }
        let mut before = (Shape::new(), Otherwise::default());
        let (mut of_admin, mut of_plain) = (String::new(), String::new());
        for version in versions {
            if !row.exists_at(Microversion(version)) {
                continue;
            }
            let admin = shape(&fixture, "admin", row, version).await;
            let plain = shape(&fixture, "plain", row, version).await;
            let plain = otherwise(&admin, &plain);
            asked += 2;
            let expected = at(&told.admin, version);
            if admin != expected {
                let change = change(&(&expected - &admin), &(&admin - &expected));
                wrong.push(format!("{name} 2.{version}{change}"));
            }
            let expected = at(&told.plain, version);
            if plain != expected {
                let before = change(&expected.gone, &expected.come);
                let after = change(&plain.gone, &plain.come);
                wrong.push(format!(
                    "{name} plain 2.{version}{before}\n    is now{after}"
                ));
            }
            if admin != before.0 {
                let change = change(&(&before.0 - &admin), &(&admin - &before.0));
                of_admin.push_str(&format!("\n  2.{version}{change}"));
            }
            if plain != before.1 {
                let change = change(&plain.gone, &plain.come);
                of_plain.push_str(&format!("\n  plain 2.{version}{change}"));
            }
            before = (admin, plain);
        }
        text.push_str(&format!("\n{name}{of_admin}{of_plain}"));
    }
    if writes {
        text.push('\n');
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/answers.txt");
        std::fs::write(path, text).unwrap();
        return;
    }
    println!("{asked} answers");
    let lines = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "{} differ from the table:\n{lines}",
        wrong.len()
    );
    let known: Vec<&String> = told.keys().collect();
    assert!(
        known.is_empty(),
        "the table has rows that are not read: {known:?}"
    );
}
