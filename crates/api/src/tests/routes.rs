//! Every row of the table on every mount and at the edges of its versions; and the table itself next to Nova's.

use super::harness::{Cloud, DEMO};
use super::policies::oracle;
use crate::route::{Route, Served};
use crate::routes::ROUTES;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use types::Microversion;

const NEWEST: u16 = 104;
const GONE: &str = "This resource is no longer available. No forwarding address is given.";
const NO_SUCH: &str = "The resource could not be found.";

/// A row in words.
fn name(row: &Route) -> String {
    let action = row.action.unwrap_or_default();
    format!("{} {} {action}", row.verb.as_str(), row.path)
}

#[test]
fn held_against_nova() {
    let Some(folder) = oracle() else {
        eprintln!("KILONOVA_ORACLE is not set: routes are not compared with Nova's");
        return;
    };
    let text = std::fs::read(folder.join("routes.json")).unwrap();
    let document: Value = serde_json::from_slice(&text).unwrap();
    let minor = |version: &Value| -> Option<u16> { version.as_str()?[2..].parse().ok() };
    let mut theirs = BTreeSet::new();
    let mut gone = 0;
    for row in document["routes"].as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        // The redirect and the document of a version are no rows: see `edge`.
        if ["", "/"].contains(&text("path")) {
            continue;
        }
        let named = format!("{} {} {}", text("method"), text("path"), text("action"));
        // What is gone is gone at every version.
        let range = if text("status") == "gone" {
            gone += 1;
            None
        } else {
            let since = minor(&row["min_microversion"]).unwrap();
            Some((since, minor(&row["404_from_microversion"])))
        };
        theirs.insert((named, range));
    }
    let ours: BTreeSet<_> = ROUTES
        .iter()
        .map(|row| {
            let range = match row.served {
                Served::Gone => None,
                _ => Some((row.since.0, row.until.map(|until| until.0))),
            };
            (name(row), range)
        })
        .collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let more: Vec<_> = ours.difference(&theirs).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "missing: {missing:?}\nmore: {more:?}"
    );
    let mut wrong = Vec::new();
    for row in document["routes"].as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let named = format!("{} {} {}", text("method"), text("path"), text("action"));
        let Some(ours) = ROUTES.iter().find(|row| name(row) == named) else {
            continue;
        };
        // What this cloud has not is always refused.
        if matches!(ours.served, Served::Gone) || ours.success.is_empty() {
            continue;
        }
        for version in (1..=NEWEST).map(Microversion) {
            let codes = row["success_codes"].as_array().unwrap().iter();
            let codes = codes.filter(|code| {
                minor(&code["min"]).is_none_or(|min| min <= version.0)
                    && minor(&code["max"]).is_none_or(|max| version.0 <= max)
            });
            let codes: Vec<u64> = codes.map(|code| code["code"].as_u64().unwrap()).collect();
            let told: Vec<u64> = ours.successes(version).map(u64::from).collect();
            if ours.exists_at(version) && codes != told {
                wrong.push(format!("{named} at {version}: {told:?}, Nova {codes:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gone, 53);
    assert!(theirs.len() > 250, "only {} rows", theirs.len());
}

fn path(row: &Route) -> String {
    let segments = row.path.split('/').map(|segment| {
        if segment.starts_with('{') && row.path.starts_with("/extensions") {
            "os-agents"
        } else if segment.starts_with('{') && row.path.starts_with("/versions") {
            "v2.1"
        } else if segment.starts_with('{') {
            "x"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_row_on_every_mount() {
    let cloud = Cloud::new().await;
    let mut wrong = Vec::new();
    for row in ROUTES {
        let body = match row.action {
            Some(action) => json!({ action: null }).to_string(),
            None => String::new(),
        };
        let last = row.until.map_or(NEWEST, |until| until.0 - 1);
        let versions = [
            Some(row.since.0),
            Some(last),
            row.since.0.checked_sub(1),
            row.until.map(|until| until.0),
        ];
        let mut tried: BTreeSet<u16> = versions
            .into_iter()
            .flatten()
            .filter(|version| *version > 0)
            .collect();
        if matches!(row.served, Served::Gone) {
            tried.insert(NEWEST);
        }
        let mut requests = Vec::new();
        for project in ["", "/0de30000000000000000000000000001"] {
            for version in &tried {
                requests.push((format!("/v2.1{project}{}", path(row)), Some(*version)));
            }
            // Headers do not matter below /v2, which is 2.1.
            requests.push((format!("/v2{project}{}", path(row)), None));
        }
        for (path, version) in requests {
            let header = format!("compute 2.{}", version.unwrap_or(NEWEST));
            // Who has no role is refused by nearly every handler, after the row was found.
            let headers = [
                ("x-auth-token", "nobody"),
                ("openstack-api-version", header.as_str()),
            ];
            let answer = cloud.raw(row.verb.as_str(), &path, &headers, &body).await;
            let (kind, message) = answer.fault();
            let exists = version.unwrap_or(1) >= row.since.0
                && row.until.is_none_or(|until| version.unwrap_or(1) < until.0);
            let right = match row.served {
                Served::Gone => answer.status == 410 && message == GONE,
                _ if exists => {
                    message != NO_SUCH && !message.is_empty() || answer.status.is_success()
                }
                _ => answer.status == 404 && kind == "itemNotFound" && message == NO_SUCH,
            };
            let echoed = answer
                .headers
                .get("openstack-api-version")
                .map(|value| value.to_str().unwrap().to_owned());
            if !right || echoed != version.map(|_| header.clone()) {
                wrong.push(format!(
                    "{} {path} at {version:?}: {} {}",
                    name(row),
                    answer.status,
                    answer.text
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(DEMO, "0de30000000000000000000000000001");
}
