//! The table of answers of which the OpenAPI documents are made (`openapi/answers.txt`), and the answers of all versions that
//! it needs.
//!
//! To write it anew run the tests of this crate with `KILONOVA_TEST_RECORD_ANSWERS=FILE`, then this one again with
//! `KILONOVA_TEST_WRITE_ANSWERS=1` as well: `the_table_is_made_of_answers`. Some answers depend on who is faster, so record more
//! than once into the same file. Read what changed.

use super::documented::{Record, record};
use crate::openapi::name_of;
use crate::route::Route;
use crate::routes::ROUTES;
use std::collections::{BTreeMap, BTreeSet};
use types::Microversion;

/// What is said of a place in a range of versions.
#[derive(Clone, PartialEq)]
struct Claim {
    since: u16,
    until: u16,
    optional: bool,
    kinds: BTreeSet<String>,
}

/// The versions of a row, first and last.
fn versions(name: &str) -> (u16, u16) {
    let rows = ROUTES.iter().filter(|row| name_of(row) == name);
    let last = |row: &Route| row.until.map_or(Microversion::MAX.0, |until| until.0 - 1);
    let each = rows.map(|row| (row.since.0, last(row)));
    each.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap()
}

impl Record {
    fn kinds_at(&self, place: &str) -> BTreeSet<String> {
        if place == "empty" {
            return self.empty.then(|| "empty".to_owned()).into_iter().collect();
        }
        self.kinds.get(place).cloned().unwrap_or_default()
    }

    /// Whether there is an object that has not what others have at this place.
    fn lacks(&self, place: &str) -> bool {
        let Some((parent, name)) = place.rsplit_once('.') else {
            return false;
        };
        let objects = self.objects.get(parent);
        !name.ends_with("[]")
            && name != "*"
            && objects
                .is_some_and(|all| all.iter().any(|names| !names.iter().any(|one| one == name)))
    }
}

/// What is at a place, from version to version. Where it changes say the answers that were asked for at every version;
/// the others add to what is said between the changes.
fn claims(place: &str, records: &[&Record], (first, last): (u16, u16)) -> Vec<Claim> {
    // Whether it is there, what it is but for nulls, and whether an object has it not.
    let mut swept: BTreeMap<u16, (bool, BTreeSet<String>, bool)> = BTreeMap::new();
    for record in records.iter().filter(|record| record.swept) {
        let (there, kinds, lacks) = swept.entry(record.version).or_default();
        let all = record.kinds_at(place);
        *there |= !all.is_empty();
        kinds.extend(all.into_iter().filter(|kind| kind != "null"));
        *lacks |= record.lacks(place);
    }
    let at = |version: u16| {
        let before = swept.range(..=version).next_back();
        before.or_else(|| swept.iter().next()).map(|(_, told)| told)
    };
    let never = swept.values().all(|(there, ..)| !there);
    let seen = records.iter().filter(|one| !one.kinds_at(place).is_empty());
    let lowest = seen.map(|one| one.version).min().unwrap_or(first);
    let has_null = records
        .iter()
        .any(|one| one.kinds_at(place).contains("null"));
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for version in first..=last {
        match runs.last_mut() {
            Some(run) if at(run.1) == at(version) => run.1 = version,
            _ => runs.push((version, version)),
        }
    }
    let mut claims: Vec<Claim> = Vec::new();
    for (since, until) in runs {
        let within = records
            .iter()
            .filter(|one| (since..=until).contains(&one.version));
        let (mut kinds, mut optional) = (BTreeSet::new(), false);
        for record in within {
            kinds.extend(record.kinds_at(place));
            optional |= record.lacks(place);
        }
        if kinds.is_empty() {
            continue;
        }
        if has_null {
            kinds.insert("null".to_owned());
        }
        // Answers that have it are rare.
        optional |= never && !swept.is_empty() && !place.ends_with("[]");
        let since = if never && !swept.is_empty() {
            since.max(lowest)
        } else {
            since
        };
        match claims.last_mut() {
            Some(before)
                if before.until + 1 == since
                    && before.kinds == kinds
                    && before.optional == optional =>
            {
                before.until = until;
            }
            _ => claims.push(Claim {
                since,
                until,
                optional,
                kinds,
            }),
        }
    }
    claims
}

/// The lines of one status of a row that has it at these versions, and goes on to `end`.
fn lines(status: u16, records: &[&Record], alive: (u16, u16), end: u16, text: &mut String) {
    const WIDTH: usize = 118;
    let mut places: BTreeSet<&str> = records
        .iter()
        .flat_map(|one| one.kinds.keys())
        .map(String::as_str)
        .collect();
    places.insert("empty");
    let mut all: BTreeMap<(u16, u16, &str), Vec<String>> = BTreeMap::new();
    for place in places {
        for claim in claims(place, records, alive) {
            let (parent, name) = place.rsplit_once('.').unwrap_or(("empty", ""));
            let mark = if claim.optional { "?" } else { "" };
            let kinds: Vec<String> = claim.kinds.into_iter().collect();
            let told = format!("{name}{mark} {}", kinds.join("|"));
            let parent = if parent.is_empty() { "." } else { parent };
            all.entry((claim.since, claim.until, parent))
                .or_default()
                .push(told);
        }
    }
    for ((since, until, parent), names) in all {
        let until = if until == end {
            String::new()
        } else {
            format!("2.{until}")
        };
        let begin = format!("\n  {status} 2.{since}-{until} {parent}");
        if parent == "empty" {
            text.push_str(&begin);
            continue;
        }
        let mut line = String::new();
        for name in names {
            if line.is_empty() || line.len() + name.len() + 2 > WIDTH {
                text.push_str(&line);
                line = format!("{begin}: {name}");
            } else {
                line.push_str(&format!(", {name}"));
            }
        }
        text.push_str(&line);
    }
}

fn table(records: &[Record]) -> String {
    let mut rows: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        rows.entry(&record.row).or_default().push(record);
    }
    let mut text = "# Written by tests/recorded.rs; answers.rs says what it means.".to_owned();
    for (row, records) in rows {
        text.push_str(&format!("\n{row}"));
        let faults: BTreeSet<u16> = records
            .iter()
            .map(|one| one.status)
            .filter(|status| *status >= 400)
            .collect();
        // Any request can get these, or none should.
        let faults: Vec<String> = faults
            .iter()
            .filter(|status| ![400, 401, 406, 408, 413, 415, 429, 500, 503].contains(*status))
            .map(u16::to_string)
            .collect();
        if !faults.is_empty() {
            text.push_str(&format!("\n  faults {}", faults.join(" ")));
        }
        let statuses: BTreeSet<u16> = records
            .iter()
            .map(|one| one.status)
            .filter(|status| *status < 300)
            .collect();
        for status in statuses {
            let of_status: Vec<&Record> = records
                .iter()
                .copied()
                .filter(|one| one.status == status)
                .collect();
            let end = versions(row).1;
            lines(status, &of_status, alive(row, status), end, &mut text);
        }
    }
    text.push('\n');
    text
}

/// The versions at which a row has a status, first and last.
fn alive(name: &str, status: u16) -> (u16, u16) {
    let (first, last) = versions(name);
    let row = ROUTES.iter().find(|row| name_of(row) == name).unwrap();
    let has = |version: &u16| {
        row.successes(Microversion(*version))
            .any(|one| one == status)
    };
    let all: Vec<u16> = (first..=last).filter(has).collect();
    (*all.first().unwrap(), *all.last().unwrap())
}

#[test]
fn the_table_is_made_of_answers() {
    let written = std::env::var_os("KILONOVA_TEST_WRITE_ANSWERS").and_then(|_| record());
    let Some(file) = written else {
        return;
    };
    let text = std::fs::read_to_string(file).unwrap();
    let records: Vec<Record> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/openapi/answers.txt");
    std::fs::write(path, table(&records)).unwrap();
}

#[test]
fn what_is_said_follows_from_what_was_answered() {
    let record = |version: u16, swept: bool, answer: serde_json::Value| {
        let mut record = Record {
            row: "GET /flavors".to_owned(),
            version,
            status: 200,
            swept,
            ..Record::default()
        };
        record.see("", &answer, false);
        record
    };
    use serde_json::json;
    let records = [
        record(
            1,
            true,
            json!({ "a": "x", "list": [{ "b": 1 }, { "b": 2, "c": null }] }),
        ),
        record(
            54,
            true,
            json!({ "a": "x", "list": [{ "b": 1 }, { "b": 2, "c": null }] }),
        ),
        record(55, true, json!({ "a": "x", "list": [], "new": true })),
        record(104, true, json!({ "a": "x", "list": [], "new": true })),
        record(
            60,
            false,
            json!({ "a": null, "list": [{ "b": 1.5, "rare": {} }], "new": true }),
        ),
    ];
    let all: Vec<&Record> = records.iter().collect();
    let mut text = String::new();
    lines(200, &all, (1, 104), 104, &mut text);
    let wanted = [
        "",
        "  200 2.1-2.54 .list[]: b integer, c? null",
        "  200 2.1- .: a null|string, list array, list[] object",
    ];
    for line in wanted {
        assert!(text.lines().any(|one| one == line), "{line:?} in {text}");
    }
    assert!(text.contains("2.55- .: new boolean"), "{text}");
    assert!(text.contains("rare? object"), "{text}");
    assert!(text.contains("number"), "{text}");
}
