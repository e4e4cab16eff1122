//! Every row of the routing table with bodies and queries made from its own schemas, broken ones and raw bytes: never a
//! 5xx, never a panic, never an answer that does not come, and nothing that grows.
//!
//! `KILONOVA_FUZZ_ROUNDS` says how many requests each row gets (a few by default), `KILONOVA_FUZZ_SEED` where it begins: the
//! same requests come with the same two.

use super::alone::{alone, resident};
use super::conformance::number_of;
use super::generate::{any, mutate, value};
use super::harness::{Answer, DEMO};
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

/// Answered by 501 on purpose, and in these words only.
const NOT_HERE: &[(&str, &str, &str)] = &[
    (
        "GET",
        "/os-baremetal-nodes",
        "This cloud has no bare metal service.",
    ),
    (
        "GET",
        "/os-baremetal-nodes/{id}",
        "This cloud has no bare metal service.",
    ),
    ("GET", "/os-hosts/{id}/reboot", SWITCHED),
    ("GET", "/os-hosts/{id}/shutdown", SWITCHED),
    ("GET", "/os-hosts/{id}/startup", SWITCHED),
    ("PUT", "/os-hosts/{id}", SWITCHED),
    ("GET", "/servers/{server_id}/shares", SHARES),
    ("POST", "/servers/{server_id}/shares", SHARES),
    ("GET", "/servers/{server_id}/shares/{id}", SHARES),
    ("DELETE", "/servers/{server_id}/shares/{id}", SHARES),
];
const SWITCHED: &str = "The requested functionality is not supported.";
const SHARES: &str = "This cloud has no shared file system service yet, so servers have no shares.";

/// Refused on purpose, as where consoles are switched off.
const CONSOLES: &[(&str, Option<&str>)] = &[
    ("/servers/{id}/action", Some("os-getVNCConsole")),
    ("/servers/{id}/action", Some("os-getSPICEConsole")),
    ("/servers/{id}/action", Some("os-getRDPConsole")),
    ("/servers/{id}/action", Some("os-getSerialConsole")),
    ("/servers/{server_id}/remote-consoles", None),
];

/// Not sent: it is answered when the host has given the server an interface, and here is no host.
const WAITS: &[(&str, &str)] = &[("POST", "/servers/{server_id}/os-interface")];

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

/// Where the API is: with the token's project in the path, or not, and in both versions.
fn mount(token: &str, rng: &mut StdRng) -> String {
    let project = match token {
        "admin" => "ad000000000000000000000000000000",
        _ => DEMO,
    };
    match rng.random_range(0..8) {
        0 => format!("/v2.1/{project}"),
        1 => "/v2".to_owned(),
        2 => format!("/v2/{project}"),
        _ => "/v2.1".to_owned(),
    }
}

/// Headers that mean something here, with values that mostly do not. No wait is long.
pub fn odd_header(rng: &mut StdRng) -> (&'static str, &'static str) {
    let names = [
        "prefer",
        "idempotency-key",
        "last-event-id",
        "openstack-api-version",
        "x-openstack-nova-api-version",
        "accept",
        "x-forwarded-proto",
        "traceparent",
        "x-openstack-request-id",
    ];
    let values = [
        "",
        " ",
        "\t",
        ",",
        ";;=",
        "wait",
        "wait=0",
        "wait=0; for=ACTIVE",
        "wait=1;for=\"\"",
        "wait=-1",
        "wait=99999999999999999999",
        "WAIT=0;for=\"ACTIVE",
        "-1",
        "0",
        "9223372036854775808",
        "compute",
        "compute 2.",
        "compute 2.1, compute 2.2",
        "compute 99999999999999999999.1",
        "compute latest",
        "latest",
        "2.1 compute",
        "application/json;version=2",
        "https",
        "00-00000000000000000000000000000000-0000000000000000-00",
        "req-",
        "'; DROP TABLE instances; --",
        "a b",
    ];
    (names.choose(rng).unwrap(), values.choose(rng).unwrap())
}

/// The words of the 501 that a row may answer.
fn not_here(row: &Route) -> Option<&'static str> {
    let mut all = NOT_HERE.iter();
    let found = all.find(|(verb, path, _)| (row.verb.as_str(), row.path) == (*verb, *path));
    found.map(|(_, _, words)| *words)
}

/// An answer, while a host that is not there does at once what a request may wait for.
async fn answered(fixture: &Fixture, asked: impl Future<Output = Answer>) -> Answer {
    let mut asked = std::pin::pin!(asked);
    loop {
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(200), &mut asked).await {
            return answer;
        }
        let id: types::ServerId = fixture.server.parse().unwrap();
        let end = fixture
            .cloud
            .store
            .write(move |tx| -> Result<(), sql::Error> {
                let server = [id.into()];
                tx.execute(
                    "UPDATE instances SET task_id = NULL, task_state = NULL WHERE uuid = ?",
                    &server,
                )?;
                tx.execute(
                    "UPDATE migrations SET status = 'running' WHERE instance_uuid = ?",
                    &server,
                )?;
                Ok(())
            });
        end.await.unwrap();
    }
}

/// MiB by which the process may grow while it is asked, after it was warm: caches of the database fill.
const GROWS: u64 = 32;

#[tokio::test]
async fn whatever_is_sent() {
    if !alone("tests::fuzz::whatever_is_sent") {
        return;
    }
    let seed = number_of("KILONOVA_FUZZ_SEED", 1);
    let rounds = number_of("KILONOVA_FUZZ_ROUNDS", ROUNDS);
    let mut rng = StdRng::seed_from_u64(seed);
    let served: Vec<&Route> = ROUTES
        .iter()
        .filter(|row| {
            matches!(row.served, Served::By(_)) && !WAITS.contains(&(row.verb.as_str(), row.path))
        })
        .collect();
    let (mut wrong, mut statuses, mut good) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut fixture = fixture().await;
    let (mut sent, mut refused, mut warm) = (0_u64, BTreeSet::new(), 0);
    for round in 0..rounds {
        if round == rounds / 3 {
            warm = resident();
        }
        if round % 20 == 19 {
            fixture = super::samples::fixture().await;
        }
        // What has one good answer only is sent more often, to hear that.
        let times = |row: &Route| if not_here(row).is_some() { 8 } else { 1 };
        let all = served
            .iter()
            .flat_map(|row| std::iter::repeat_n(row, times(row)));
        for row in all {
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
            let mut headers = vec![
                ("x-auth-token", token),
                ("openstack-api-version", microversion.as_str()),
                ("content-type", "application/json"),
            ];
            if rng.random_bool(0.1) {
                headers.push(odd_header(&mut rng));
            }
            let whole = mount(token, &mut rng) + &path;
            let asked = fixture
                .cloud
                .raw(row.verb.as_str(), &whole, &headers, &body);
            sent += 1;
            let asked = answered(&fixture, asked);
            let Ok(answer) = tokio::time::timeout(HANGS, asked).await else {
                let body: String = body.chars().take(500).collect();
                panic!(
                    "seed {seed}: no answer to {} {whole} at 2.{version} by {token}, {headers:?}: {body}",
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
            let is_known = answer.status == 501 && not_here(row) == Some(&answer.fault().1);
            if is_known {
                refused.insert((row.verb.as_str(), row.path));
            }
            let bad = answer.status.is_server_error() && !is_known;
            if bad {
                let body: String = body.chars().take(500).collect();
                let key = (row.verb.as_str(), row.path, row.action);
                wrong.entry(key).or_insert_with(|| {
                    format!(
                        "{} {whole} at 2.{version} by {token}, {headers:?}: {}: {}\n    {body}",
                        row.verb.as_str(),
                        answer.status,
                        answer.text
                    )
                });
            }
        }
    }
    let grown = resident().saturating_sub(warm);
    println!(
        "{sent} requests, {warm} MiB grew by {grown}, {} of {} rows had a good answer, {statuses:?}",
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
    let unheard: Vec<_> = NOT_HERE
        .iter()
        .filter(|(verb, path, _)| !refused.contains(&(*verb, *path)))
        .collect();
    assert!(unheard.is_empty(), "never answered so: {unheard:?}");
    assert!(grown < GROWS, "{warm} MiB grew by {grown}");
    let able = served
        .iter()
        .filter(|row| !CONSOLES.contains(&(row.path, row.action)));
    assert!(
        good.len() * 2 > able.count(),
        "hardly anything was understood"
    );
}
