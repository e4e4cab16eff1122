//! Every row of the routing table with bodies and queries made from its own schemas, broken ones and raw bytes: never a
//! 5xx, never a panic, never an answer that does not come.
//!
//! `KILONOVA_FUZZ_ROUNDS` says how many requests each row gets (a few by default), `KILONOVA_FUZZ_SEED` where it begins: the
//! same requests come with the same two.

use super::conformance::number_of;
use super::generate::{any, mutate, value};
use super::samples::{Fixture, fixture};
use super::server_life::finish;
use crate::route::{Route, Served};
use crate::routes::ROUTES;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::{Microversion, VmState};

/// Answer 501 on purpose: path, action or nothing, and why.
const NOT_HERE: &[(&str, Option<&str>, &str)] = &[
    (
        "/os-assisted-volume-snapshots",
        None,
        "disks of guests are no volumes of a file system",
    ),
    (
        "/os-assisted-volume-snapshots/{id}",
        None,
        "disks of guests are no volumes of a file system",
    ),
    (
        "/os-baremetal-nodes",
        None,
        "there is no bare metal service",
    ),
    (
        "/os-baremetal-nodes/{id}",
        None,
        "there is no bare metal service",
    ),
    (
        "/os-hosts/{id}/reboot",
        None,
        "hosts are not switched from here",
    ),
    (
        "/os-hosts/{id}/shutdown",
        None,
        "hosts are not switched from here",
    ),
    (
        "/os-hosts/{id}/startup",
        None,
        "hosts are not switched from here",
    ),
    ("/os-hosts/{id}", None, "maintenance mode is XenAPI's"),
    (
        "/os-console-auth-tokens/{id}",
        None,
        "there are no console proxies yet",
    ),
    (
        "/servers/{server_id}/shares",
        None,
        "there is no share service",
    ),
    (
        "/servers/{server_id}/shares/{id}",
        None,
        "there is no share service",
    ),
];

/// Refused on purpose, as where consoles are switched off.
const CONSOLES: &[(&str, Option<&str>)] = &[
    ("/servers/{id}/action", Some("os-getVNCConsole")),
    ("/servers/{id}/action", Some("os-getSPICEConsole")),
    ("/servers/{id}/action", Some("os-getRDPConsole")),
    ("/servers/{id}/action", Some("os-getSerialConsole")),
    ("/servers/{server_id}/remote-consoles", None),
];

/// What needs volumes, which not every cloud has.
const VOLUMES: &[&str] = &[
    "/os-volumes",
    "/os-snapshots",
    "/servers/{server_id}/os-volume_attachments",
];

/// Requests that Nova's own drivers refuse by 501 too, for what is asked.
const BY_CONTENT: &[(&str, &str)] = &[
    ("PUT", "/servers/{id}"),
    ("PUT", "/os-volumes_boot/{id}"),
    ("POST", "/servers"),
    ("POST", "/os-volumes_boot"),
    ("POST", "/servers/{id}/action"),
    ("POST", "/os-volumes_boot/{id}/action"),
];

/// Answered only when the host has done it, and here is no host.
const WAITS: &[(&str, Option<&str>)] = &[
    ("/servers/{server_id}/os-interface", None),
    ("/servers/{id}/action", Some("changePassword")),
    ("/servers/{id}/action", Some("addFixedIp")),
    ("/servers/{id}/action", Some("removeFixedIp")),
    ("/servers/{id}/action", Some("os-migrateLive")),
    ("/servers/{server_id}/diagnostics", None),
];

/// Requests to each row, unless the environment says more.
const ROUNDS: u64 = 12;
/// After how long an answer does not come any more, on the slowest of machines.
const HANGS: Duration = Duration::from_secs(60);

const JUNK: &[&str] = &[
    "",
    "x",
    "%00",
    "..",
    "%2e%2e%2f",
    "70a599e0-31e7-49b7-b260-868f441e862b",
    "-1",
    "99999999999999999999",
    "%F0%9F%98%80",
    "a%20b",
    "%ff%fe",
    "'%20OR%201=1",
    "%25s%25n",
    "a,b",
];

fn junk(rng: &mut StdRng) -> String {
    if rng.random_bool(0.05) {
        return "a".repeat(3000);
    }
    (*JUNK.choose(rng).unwrap()).to_owned()
}

fn path(fixture: &Fixture, row: &Route, version: u16, rng: &mut StdRng) -> String {
    let known = if row.verb.as_str() == "DELETE" {
        0.1
    } else {
        0.7
    };
    if rng.random_bool(known) {
        return fixture.path(row.path, version);
    }
    let segments: Vec<String> = row
        .path
        .split('/')
        .map(|segment| {
            if segment.starts_with('{') {
                junk(rng)
            } else {
                segment.to_owned()
            }
        })
        .collect();
    segments.join("/")
}

fn query(row: &Route, rng: &mut StdRng) -> String {
    let mut names: Vec<&str> = row
        .query
        .map(|keys| keys.keys.iter().map(|key| key.name).collect())
        .unwrap_or_default();
    names.extend(["bogus", "_x", "limit", "marker", "%00"]);
    let mut pairs = Vec::new();
    for _ in 0..rng.random_range(0..3) {
        let plain = match any(rng) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let value: String = url::form_urlencoded::byte_serialize(plain.as_bytes()).collect();
        let value = if rng.random_bool(0.3) {
            junk(rng)
        } else {
            value
        };
        pairs.push(format!("{}={value}", names.choose(rng).unwrap()));
    }
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

fn body(row: &Route, version: u16, rng: &mut StdRng) -> String {
    let schema = row
        .body
        .and_then(|schema| schema.document(Microversion(version)));
    let mut made = match (&schema, row.action) {
        (Some(schema), _) => value(schema, rng),
        (None, Some(action)) => json!({ action: any(rng) }),
        (None, None) => any(rng),
    };
    if rng.random_bool(0.2) {
        mutate(&mut made, rng);
    }
    let mut text = if made.is_null() {
        String::new()
    } else {
        made.to_string()
    };
    if rng.random_bool(0.05) && !text.is_empty() {
        // Raw bytes: cut off, doubled, nested deeply, or with something in the middle.
        let mut at = rng.random_range(0..text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        match rng.random_range(0..4) {
            0 => text.truncate(at),
            1 => text = text.repeat(2),
            2 => text = "[".repeat(20_000),
            _ => text.insert_str(
                at,
                ["\u{0}", "\"", "{", "1e999", "\\ud800", "\u{feff}"]
                    .choose(rng)
                    .unwrap(),
            ),
        }
    }
    text
}

fn may_be_501(row: &Route) -> bool {
    let volumes = VOLUMES.iter().any(|path| row.path.starts_with(path));
    let listed = NOT_HERE
        .iter()
        .any(|(path, ..)| row.path == *path || row.path.starts_with("/os-baremetal-nodes"));
    volumes || listed || BY_CONTENT.contains(&(row.verb.as_str(), row.path))
}

#[tokio::test]
async fn whatever_is_sent() {
    let seed = number_of("KILONOVA_FUZZ_SEED", 1);
    let rounds = number_of("KILONOVA_FUZZ_ROUNDS", ROUNDS);
    let mut rng = StdRng::seed_from_u64(seed);
    let served: Vec<&Route> = ROUTES
        .iter()
        .filter(|row| {
            matches!(row.served, Served::By(_)) && !WAITS.contains(&(row.path, row.action))
        })
        .collect();
    let (mut wrong, mut statuses, mut good) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut fixture = fixture().await;
    let mut sent = 0_u64;
    for round in 0..rounds {
        if round % 20 == 19 {
            fixture = super::samples::fixture().await;
        }
        for row in &served {
            let last = row.until.map_or(Microversion::MAX.0, |until| until.0 - 1);
            let version = if rng.random_bool(0.5) {
                last
            } else {
                rng.random_range(row.since.0..=last)
            };
            let path = path(&fixture, row, version, &mut rng) + &query(row, &mut rng);
            let body = body(row, version, &mut rng);
            let token = *["admin", "admin", "member", "reader"]
                .choose(&mut rng)
                .unwrap();
            let microversion = format!("compute 2.{version}");
            let headers = [
                ("x-auth-token", token),
                ("openstack-api-version", microversion.as_str()),
                ("content-type", "application/json"),
            ];
            let whole = format!("/v2.1{path}");
            let asked = fixture
                .cloud
                .raw(row.verb.as_str(), &whole, &headers, &body);
            sent += 1;
            let Ok(answer) = tokio::time::timeout(HANGS, asked).await else {
                let body: String = body.chars().take(500).collect();
                panic!(
                    "seed {seed}: no answer to {} {path} at 2.{version} by {token}: {body}",
                    row.verb.as_str()
                );
            };
            *statuses.entry(answer.status.as_u16()).or_insert(0_u64) += 1;
            if answer.status.is_success() {
                good.insert((row.verb.as_str(), row.path, row.action));
            }
            let about_servers =
                row.path.starts_with("/servers") || row.path.starts_with("/os-volumes_boot");
            if answer.status == 202 && about_servers {
                // Nobody works on flows here, and what comes next would wait for them.
                finish(&fixture.cloud, &fixture.server, VmState::Active).await;
            }
            let bad = answer.status.is_server_error() && !(answer.status == 501 && may_be_501(row));
            if bad {
                let body: String = body.chars().take(500).collect();
                let key = (row.verb.as_str(), row.path, row.action);
                wrong.entry(key).or_insert_with(|| {
                    format!(
                        "{} {path} at 2.{version} by {token}: {}: {}\n    {body}",
                        row.verb.as_str(),
                        answer.status,
                        answer.text
                    )
                });
            }
        }
    }
    println!(
        "{sent} requests, {} of {} rows had a good answer, {statuses:?}",
        good.len(),
        served.len()
    );
    let lines: Vec<String> = wrong.into_values().collect();
    assert!(
        lines.is_empty(),
        "seed {seed}: {} rows:\n{}",
        lines.len(),
        lines.join("\n")
    );
    let able = served
        .iter()
        .filter(|row| !CONSOLES.contains(&(row.path, row.action)));
    assert!(
        good.len() * 2 > able.count(),
        "hardly anything was understood"
    );
}
