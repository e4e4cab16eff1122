//! Answers next to Nova's schemas of answers: every answer that a test of this crate gets is held against the schema of its
//! route and version, by the harness.
//!
//! The schemas are no part of this repository: where `KILONOVA_ORACLE` names no folder, nothing is held.

use super::microversions::ask;
use super::policies::oracle;
use super::samples::storied;
use super::server_life::{finish, host_is_up};
use crate::route::{Route, Served, Table, Verb};
use crate::routes::ROUTES;
use crate::schemas::{self, formats};
use http::{HeaderMap, Method, StatusCode};
use jsonschema::Validator;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{LazyLock, Mutex, OnceLock};
use types::{Microversion, VmState};

/// The schema of an answer, in a range of versions.
struct Theirs {
    file: String,
    since: u16,
    until: u16,
    validator: OnceLock<Validator>,
}

/// A method, a path and an action.
type Row = (String, String, Option<String>);

struct Known {
    rows: HashMap<Row, Vec<Theirs>>,
    table: Table,
}

static KNOWN: LazyLock<Option<Known>> = LazyLock::new(|| {
    let folder = oracle()?;
    let index: Value = read(&folder.join("schemas/index.json"));
    let mut rows = HashMap::new();
    for route in index["routes"].as_array().unwrap() {
        let text = |name: &str| route[name].as_str().map(str::to_owned);
        let minor = |text: &Value, otherwise: u16| {
            let minor = text.as_str().and_then(|text| text.strip_prefix("2."));
            minor.map_or(otherwise, |minor| minor.parse().unwrap())
        };
        let ranges = route["response_body"].as_array().unwrap();
        let ranges = ranges.iter().map(|range| Theirs {
            file: range["file"].as_str().unwrap().to_owned(),
            since: minor(&range["min"], 0),
            until: minor(&range["max"], u16::MAX),
            validator: OnceLock::new(),
        });
        let row = (
            text("method").unwrap(),
            text("path").unwrap(),
            text("action"),
        );
        rows.insert(row, ranges.collect());
    }
    Some(Known {
        rows,
        table: Table::new(ROUTES),
    })
});

/// The schemas that an answer was held against, by their files.
static HELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The version that an answer is of, and the path below it.
pub fn version<'a>(path: &'a str, headers: &HeaderMap) -> Option<(u16, &'a str)> {
    let path = path.split('?').next()?;
    if let Some(below) = path.strip_prefix("/v2.1") {
        let named = headers.get("x-openstack-nova-api-version")?.to_str().ok()?;
        return Some((named.strip_prefix("2.")?.parse().ok()?, below));
    }
    Some((1, path.strip_prefix("/v2")?))
}

/// Where Nova's own answers are not as its schemas say: the beginning of the file, a part of the place, and why.
const EXCUSED: &[(&str, &str, &str)] = &[
    (
        "instance_usage_audit_log/",
        "/hosts_not_run/",
        "hosts have names",
    ),
    (
        "server_groups/",
        "/policies/",
        "groups that were made at a later version are shown as they are",
    ),
    ("keypairs/", "/user_id", "administrators name any user"),
    ("flavor_access/", "/tenant_id", "the tests know any project"),
    ("quota_sets/", "/id", "likewise"),
];

fn is_excused(file: &str, place: &str) -> bool {
    let mut all = EXCUSED.iter();
    all.any(|(of, at, _)| file.starts_with(of) && place.contains(at))
}

/// The formats of requests, and those of answers alone.
fn formats() -> Vec<(&'static str, formats::Check)> {
    let mut all = formats::ALL.to_vec();
    all.push(("cidr", |text| {
        let (address, bits) = text.split_once('/').unwrap_or((text, "0"));
        address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok()
    }));
    all.push(("mac-address", |text| {
        let parts: Vec<&str> = text.split(':').collect();
        parts.len() == 6
            && parts
                .iter()
                .all(|part| u8::from_str_radix(part, 16).is_ok())
    }));
    all
}

/// The row that answers a request.
fn row(known: &Known, method: &str, below: &str, sent: &str) -> Option<Row> {
    if below.is_empty() || below == "/" {
        return Some((method.to_owned(), "/".to_owned(), None));
    }
    let verb = Verb::of(&method.parse::<Method>().ok()?)?;
    let found = known.table.find(verb, below)?;
    let body: Value = serde_json::from_str(sent).unwrap_or_default();
    let named = |action: &str| body.get(action).is_some();
    let mut rows = found.rows.iter();
    let row = rows.find(|row| row.action.is_none_or(named))?;
    let action = row.action.map(str::to_owned);
    Some((method.to_owned(), row.path.to_owned(), action))
}

/// Panics unless the answer is as Nova's schema says.
pub fn hold(
    method: &str,
    path: &str,
    sent: &str,
    status: StatusCode,
    headers: &HeaderMap,
    bytes: &[u8],
) {
    // What Nova does not have, and what is not text.
    let other = path.contains("dry_run=") || headers.contains_key("content-encoding");
    if other || !status.is_success() {
        return;
    }
    let Some((version, below)) = version(path, headers) else {
        return;
    };
    let answer: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let Some(known) = &*KNOWN else { return };
    let Some(key) = row(known, method, below, sent) else {
        return;
    };
    let ranges = known.rows.get(&key).map_or(&[][..], Vec::as_slice);
    let Some(theirs) = ranges
        .iter()
        .find(|one| one.since <= version && version <= one.until)
    else {
        return;
    };
    let validator = theirs.validator.get_or_init(|| {
        let schema = read(&oracle().unwrap().join("schemas").join(&theirs.file));
        schemas::compile_with(&schema, &formats()).unwrap()
    });
    let wrong: Vec<String> = validator
        .iter_errors(&answer)
        .filter(|error| !is_excused(&theirs.file, &error.instance_path().to_string()))
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    HELD.lock().unwrap().insert(theirs.file.clone());
    assert!(
        wrong.is_empty(),
        "{method} {path} at 2.{version} is not as {}: {}\n{answer}",
        theirs.file,
        wrong.join("; ")
    );
}

/// Requests whose answers no sample has: the version, and the request as in `microversions.txt`.
const MORE: &[(u16, &str)] = &[
    (1, "GET /"),
    (
        61,
        r#"POST /flavors {"flavor": {"name": "n", "ram": 1, "vcpus": 1, "disk": 1}}"#,
    ),
    (61, r#"PUT /flavors/1 {"flavor": {"description": "x"}}"#),
    (9, r#"PUT /servers/{server} {"server": {"name": "n"}}"#),
    (
        9,
        r#"POST /servers/{server}/action {"rebuild": {"imageRef": "{image}"}}"#,
    ),
    (51, EVENT),
    (26, r#"PUT /servers/{server}/tags {"tags": ["a", "b"]}"#),
    (26, "GET /servers/{server}/tags/a"),
    (26, "DELETE /servers/{server}/tags/a"),
    (26, "DELETE /servers/{server}/tags"),
    (1, "DELETE /images/{image}/metadata/os_distro"),
    (
        1,
        r#"POST /servers/{server}/action {"addFloatingIp": {"address": "{address}"}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/action {"removeFloatingIp": {"address": "{address}"}}"#,
    ),
    (1, "DELETE /os-floating-ips/{floating}"),
    (
        1,
        r#"POST /servers/{server}/action {"addSecurityGroup": {"name": "web"}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/action {"removeSecurityGroup": {"name": "default"}}"#,
    ),
    (
        1,
        r#"PUT /os-security-groups/{security_group} {"security_group": {"name": "n", "description": "d"}}"#,
    ),
    (1, "DELETE /os-security-groups/{security_group}"),
    (
        1,
        r#"POST /os-security-group-rules {"security_group_rule": {"parent_group_id": "{security_group}", "ip_protocol": "tcp", "from_port": 22, "to_port": 22, "cidr": "10.0.0.0/24"}}"#,
    ),
    (1, "DELETE /os-security-group-rules/{port}"),
    (1, "DELETE /servers/{server}/os-interface/{port}"),
    (1, EVENT),
    (1, "DELETE /servers/{server}/metadata/a"),
    (26, "PUT /servers/{server}/tags/c"),
    (26, r#"PUT /servers/{server} {"server": {"name": "n"}}"#),
    (1, "DELETE /os-volumes/{volume}"),
    (
        1,
        r#"POST /os-assisted-volume-snapshots {"snapshot": {"volume_id": "{attached}", "create_info": {"snapshot_id": "{snapshot}", "type": "qcow2", "new_file": "n", "id": "{snapshot}"}}}"#,
    ),
    (
        1,
        "DELETE /os-assisted-volume-snapshots/{snapshot}?delete_info=%7B%22volume_id%22%3A%22{attached}%22%7D",
    ),
    (69, r#"PUT /os-services/{service} {"status": "enabled"}"#),
    (
        85,
        r#"PUT /servers/{server}/os-volume_attachments/{attached} {"volumeAttachment": {"volumeId": "{attached}", "delete_on_termination": false}}"#,
    ),
    (1, "DELETE /os-snapshots/{snapshot}"),
    (
        1,
        "DELETE /servers/{server}/os-volume_attachments/{attached}",
    ),
];

/// Those that come last: what they are about is gone or on its way then.
const LAST: &[(u16, &str)] = &[
    (76, EVENT),
    (82, EVENT),
    (93, EVENT),
    (
        15,
        r#"POST /os-server-groups {"server_group": {"name": "n", "policies": ["soft-affinity"]}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/metadata {"metadata": {"b": "c"}}"#,
    ),
    (
        1,
        r#"POST /os-volumes {"volume": {"display_name": "n", "size": 1}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/action {"addFixedIp": {"networkId": "{network}"}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/action {"removeFixedIp": {"address": "192.168.1.30"}}"#,
    ),
    (
        65,
        r#"[migrating] POST /servers/{server}/migrations/{migration}/action {"force_complete": null}"#,
    ),
    (
        65,
        "[migrating] DELETE /servers/{server}/migrations/{migration}",
    ),
    (
        34,
        r#"POST /servers/{server}/action {"os-migrateLive": {"host": null, "block_migration": "auto"}}"#,
    ),
    (
        1,
        r#"[resized] POST /servers/{server}/action {"confirmResize": null}"#,
    ),
    (
        1,
        r#"[resized] POST /servers/{server}/action {"revertResize": null}"#,
    ),
    (1, "DELETE /servers/{server}/os-server-password"),
    (1, "DELETE /flavors/1/os-extra_specs/hw:numa_nodes"),
    (1, "DELETE /flavors/2"),
    (1, "DELETE /os-keypairs/k"),
    (1, "DELETE /images/{image}"),
    (1, "DELETE /os-quota-sets/x"),
    (1, "DELETE /os-server-groups/{group}"),
    (1, r#"POST /os-aggregates {"aggregate": {"name": "n"}}"#),
    (1, "DELETE /os-aggregates/2"),
    (1, "GET /os-instance_usage_audit_log/2026-01-01%2000:00:00"),
    (53, "DELETE /os-services/{scheduler}"),
    (1, "DELETE /servers/{server}"),
];
const EVENT: &str = r#"POST /os-server-external-events {"events": [{"name": "network-changed", "server_uuid": "{server}"}]}"#;

/// Those that are answered when the host has done it.
const AWAITED: &[(u16, &str)] = &[
    (
        1,
        r#"POST /servers/{server}/action {"changePassword": {"adminPass": "x"}}"#,
    ),
    (
        1,
        r#"POST /servers/{server}/os-interface {"interfaceAttachment": {"net_id": "{network}"}}"#,
    ),
    (
        70,
        r#"POST /servers/{server}/os-interface {"interfaceAttachment": {"net_id": "{network}"}}"#,
    ),
];

/// Schemas of what this cloud has not: bare metal, shares, consoles, hosts that are switched from here.
const NOT_HERE: &[&str] = &[
    "baremetal_nodes/",
    "server_shares/",
    "remote_consoles/",
    "console_auth_tokens/",
    "hosts/reboot_response",
    "hosts/shutdown_response",
    "hosts/startup_response",
    "hosts/update_response",
];

/// Asks for what has no sample, at each version at which Nova's schema becomes another; then all schemas must have been
/// held, but for those of what is not here.
pub async fn all_are_held() {
    let known = KNOWN.as_ref().unwrap();
    let fixture = storied().await;
    for ((method, path, _), ranges) in &known.rows {
        let mut rows = ROUTES.iter();
        let row = rows.find(|row| row.verb.as_str() == method && row.path == path);
        let Some(row) = row.filter(|_| method == "GET") else {
            continue;
        };
        for range in ranges {
            let version = range.since.max(row.since.0);
            if row.exists_at(Microversion(version)) {
                host_is_up(&fixture.cloud).await;
                let path = fixture.path(path, version);
                fixture.cloud.get("admin", version, &path).await;
            }
        }
    }
    for (version, request) in MORE {
        let answer = ask(&fixture, *version, request).await;
        let status = answer.status;
        assert!(status.is_success(), "{request}: {status} {}", answer.text);
        finish(&fixture.cloud, &fixture.server, VmState::Active).await;
    }
    for (version, request) in AWAITED {
        fixture.unplug().await;
        let answer = fixture.with_host(ask(&fixture, *version, request)).await;
        let status = answer.status;
        assert!(status.is_success(), "{request}: {status} {}", answer.text);
    }
    for (version, request) in LAST {
        finish(&fixture.cloud, &fixture.server, VmState::Active).await;
        host_is_up(&fixture.cloud).await;
        let answer = ask(&fixture, *version, request).await;
        let status = answer.status;
        assert!(status.is_success(), "{request}: {status} {}", answer.text);
    }
    let held = HELD.lock().unwrap().clone();
    let is_served = |(method, path, action): &Row| {
        let same = |row: &&Route| {
            (row.verb.as_str(), row.path, row.action) == (method, path, action.as_deref())
        };
        let row = ROUTES.iter().find(same);
        path == "/" || row.is_some_and(|row| matches!(row.served, Served::By(_)))
    };
    let alive = known.rows.iter().filter(|(row, _)| is_served(row));
    let files = alive
        .flat_map(|(_, ranges)| ranges)
        .map(|one| one.file.as_str());
    let all: BTreeSet<&str> = files.collect();
    println!(
        "{} of {} schemas of answers were held",
        held.len(),
        all.len()
    );
    let is_here = |file: &str| !NOT_HERE.iter().any(|other| file.starts_with(other));
    let missing: Vec<&str> = all
        .into_iter()
        .filter(|file| !held.contains(*file) && is_here(file))
        .collect();
    assert!(missing.is_empty(), "held against nothing: {missing:?}");
}
