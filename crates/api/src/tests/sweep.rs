//! What is answered at every version: the answers that say from when to when a document has what (`recorded.rs`), and that
//! each version's document is held against. While they are recorded, every version is asked; otherwise those at which a
//! document changes, and the ones before.

use super::documented::{record, sweep};
use super::harness::{Answer, FOREIGN};
use super::microversions::{ask, prepared};
use super::odd;
use super::samples::{Fixture, Has, fixture_with, optional, storied, usual};
use super::samples_sent;
use super::server_life::{finish, host_is_up};
use crate::openapi::{name_of, of_answer};
use crate::route::{Route, Served, Verb};
use crate::routes::ROUTES;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use types::{Microversion, VmState};

const PERIOD: &str = "start=2026-01-01T00:00:00&end=2099-01-01T00:00:00";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";

/// More that a query can ask of what is read.
const QUERIES: &[(&str, &str)] = &[
    ("/servers", "limit=1"),
    ("/servers/detail", "limit=1"),
    ("/flavors", "limit=1"),
    ("/flavors/detail", "limit=1"),
    ("/images", "limit=1"),
    ("/images/detail", "limit=1"),
    ("/os-keypairs", "limit=1"),
    ("/os-hypervisors", "limit=1&with_servers=1"),
    ("/os-hypervisors", "with_servers=1"),
    ("/os-hypervisors/detail", "limit=1&with_servers=1"),
    ("/os-hypervisors/{id}", "with_servers=1"),
    ("/os-migrations", "limit=1"),
    ("/servers/{server_id}/os-instance-actions", "limit=1"),
    ("/os-server-groups", "all_projects=1"),
    ("/os-simple-tenant-usage", PERIOD),
    ("/os-simple-tenant-usage/{id}", PERIOD),
];

/// Requests that have a body in their answer, each with the versions that take it: from one, below another. `{n}` is another
/// word each time.
const WRITES: &[(u16, u16, &str)] = &[
    (
        55,
        999,
        r#"PUT /flavors/7 {"flavor": {"description": "x"}}"#,
    ),
    (
        1,
        999,
        r#"POST /flavors {"flavor": {"name": "{n}", "ram": 1, "vcpus": 1, "disk": 1, "swap": 0}}"#,
    ),
    (
        1,
        999,
        r#"POST /flavors {"flavor": {"name": "{n}x", "ram": 1, "vcpus": 1, "disk": 1, "swap": 512}}"#,
    ),
    (
        55,
        999,
        r#"PUT /flavors/1 {"flavor": {"description": "x"}}"#,
    ),
    (
        55,
        999,
        r#"PUT /flavors/1 {"flavor": {"description": null}}"#,
    ),
    (
        1,
        999,
        r#"POST /flavors/2/action {"addTenantAccess": {"tenant": "{n}"}}"#,
    ),
    (
        1,
        999,
        r#"POST /flavors/2/action {"removeTenantAccess": {"tenant": "{n}"}}"#,
    ),
    (
        1,
        999,
        r#"POST /flavors/1/os-extra_specs {"extra_specs": {"hw:numa_nodes": "1"}}"#,
    ),
    (
        1,
        999,
        r#"PUT /flavors/1/os-extra_specs/hw:numa_nodes {"hw:numa_nodes": "1"}"#,
    ),
    (
        1,
        39,
        r#"POST /images/{image}/metadata {"metadata": {"a": "b"}}"#,
    ),
    (
        1,
        39,
        r#"PUT /images/{image}/metadata {"metadata": {"a": "b"}}"#,
    ),
    (
        1,
        39,
        r#"PUT /images/{image}/metadata/os_distro {"meta": {"os_distro": "b"}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-aggregates {"aggregate": {"name": "{n}"}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-aggregates {"aggregate": {"name": "{n}z", "availability_zone": "y"}}"#,
    ),
    (
        1,
        999,
        r#"PUT /os-aggregates/{aggregate} {"aggregate": {"name": "{n}a"}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-aggregates/{aggregate}/action {"set_metadata": {"metadata": {"{n}": "b"}}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-aggregates/{aggregate}/action {"add_host": {"host": "h2"}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-aggregates/{aggregate}/action {"remove_host": {"host": "h2"}}"#,
    ),
    (1, 36, "POST /os-floating-ips {}"),
    (1, 43, r#"PUT /os-hosts/h1 {"status": "enable"}"#),
    (1, 92, r#"POST /os-keypairs {"keypair": {"name": "{n}"}}"#),
    (
        1,
        999,
        r#"POST /os-keypairs {"keypair": {"name": "{n}k", "public_key": "{key}"}}"#,
    ),
    (
        1,
        999,
        r#"PUT /os-quota-class-sets/default {"quota_class_set": {"instances": 10}}"#,
    ),
    (
        1,
        999,
        r#"PUT /os-quota-sets/x {"quota_set": {"instances": 10}}"#,
    ),
    (
        1,
        36,
        r#"POST /os-security-groups {"security_group": {"name": "n", "description": "d"}}"#,
    ),
    (
        1,
        36,
        r#"PUT /os-security-groups/{security_group} {"security_group": {"name": "n", "description": "d"}}"#,
    ),
    (
        1,
        36,
        r#"POST /os-security-group-rules {"security_group_rule": {"parent_group_id": "{security_group}", "ip_protocol": "tcp", "from_port": 22, "to_port": 22, "cidr": "10.0.0.0/24"}}"#,
    ),
    (
        1,
        36,
        r#"POST /os-security-group-rules {"security_group_rule": {"parent_group_id": "{security_group}", "ip_protocol": "tcp", "from_port": 22, "to_port": 22, "group_id": "{security_group}"}}"#,
    ),
    (
        1,
        999,
        r#"POST /os-server-external-events {"events": [{"name": "network-changed", "server_uuid": "{server}"}]}"#,
    ),
    (
        1,
        64,
        r#"POST /os-server-groups {"server_group": {"name": "n", "policies": ["affinity"]}}"#,
    ),
    (
        64,
        999,
        r#"POST /os-server-groups {"server_group": {"name": "n", "policy": "anti-affinity", "rules": {"max_server_per_host": 3}}}"#,
    ),
    (
        64,
        999,
        r#"POST /os-server-groups {"server_group": {"name": "n", "policy": "affinity"}}"#,
    ),
    (
        1,
        53,
        r#"PUT /os-services/enable {"host": "h1", "binary": "nova-compute"}"#,
    ),
    (
        1,
        53,
        r#"PUT /os-services/disable {"host": "h2", "binary": "nova-compute"}"#,
    ),
    (
        1,
        53,
        r#"PUT /os-services/disable-log-reason {"host": "h2", "binary": "nova-compute", "disabled_reason": "d"}"#,
    ),
    (
        11,
        53,
        r#"PUT /os-services/force-down {"host": "h2", "binary": "nova-compute", "forced_down": true}"#,
    ),
    (
        53,
        999,
        r#"PUT /os-services/{service} {"status": "disabled", "disabled_reason": "d"}"#,
    ),
    (
        53,
        999,
        r#"PUT /os-services/{service} {"status": "enabled"}"#,
    ),
    (
        1,
        36,
        r#"POST /os-snapshots {"snapshot": {"volume_id": "{volume}"}}"#,
    ),
    (
        1,
        36,
        r#"POST /os-volumes {"volume": {"display_name": "n", "size": 1}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers {"server": {"name": "a", "flavorRef": "1", "imageRef": "{image}", "networks": [{"uuid": "{network}"}]}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers {"server": {"name": "a", "flavorRef": "1", "imageRef": "{image}", "return_reservation_id": true, "networks": [{"uuid": "{network}"}]}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers/{server}/metadata {"metadata": {"a": "b"}}"#,
    ),
    (
        1,
        999,
        r#"PUT /servers/{server}/metadata {"metadata": {"a": "b"}}"#,
    ),
    (
        1,
        999,
        r#"PUT /servers/{server}/metadata/a {"meta": {"a": "b"}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers/{server}/os-volume_attachments {"volumeAttachment": {"volumeId": "{volume}"}}"#,
    ),
    (
        49,
        999,
        r#"POST /servers/{server}/os-volume_attachments {"volumeAttachment": {"volumeId": "{volume}", "tag": "t"}}"#,
    ),
    (
        26,
        999,
        r#"PUT /servers/{server}/tags {"tags": ["a", "b"]}"#,
    ),
    (
        1,
        999,
        r#"POST /servers/{server}/action {"createImage": {"name": "i"}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers/{server}/action {"createBackup": {"name": "b", "backup_type": "daily", "rotation": 1}}"#,
    ),
    (
        1,
        999,
        r#"POST /servers/{server}/action {"os-getConsoleOutput": {}}"#,
    ),
    (1, 999, r#"POST /servers/{server}/action {"rescue": null}"#),
];

/// Requests whose answers have servers, which are of many kinds.
const SERVERS: &[(u16, u16, &str)] = &[
    (1, 999, r#"PUT /servers/{server} {"server": {"name": "n"}}"#),
    (
        1,
        999,
        r#"POST /servers/{server}/action {"rebuild": {"imageRef": "{image}"}}"#,
    ),
];

/// Those that are only done when the server's host is down.
const DOWN: &[(u16, u16, &str)] = &[
    (
        1,
        14,
        r#"POST /servers/{server}/action {"evacuate": {"onSharedStorage": false}}"#,
    ),
    (14, 999, r#"POST /servers/{server}/action {"evacuate": {}}"#),
];

/// Those that are answered when the host has done it.
const AWAITED: &[(u16, u16, &str)] = &[(
    1,
    999,
    r#"POST /servers/{server}/os-interface {"interfaceAttachment": {"net_id": "{network}"}}"#,
)];

/// The versions to ask at: all, or those at which what is documented of a row changes, with the ones before.
fn versions(row: &Route) -> Vec<u16> {
    let last = row.until.map_or(Microversion::MAX.0, |until| until.0 - 1);
    let all = row.since.0..=last;
    if record().is_some() {
        return all.collect();
    }
    let told = |version: u16| -> BTreeMap<u16, String> {
        let version = Microversion(version);
        let statuses = row.successes(version);
        statuses
            .map(|status| {
                (
                    status,
                    format!("{:?}", of_answer(row, status, version, false)),
                )
            })
            .collect()
    };
    let mut some = BTreeSet::from([row.since.0, last]);
    let mut before = told(row.since.0);
    for version in all {
        let now = told(version);
        if now != before {
            some.extend([version - 1, version]);
        }
        before = now;
    }
    some.into_iter().collect()
}

/// Everything that a server can have.
fn everything() -> Has {
    optional("", "").into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn what_is_read_is_as_documented_at_every_version() {
    sweep();
    let mut fixtures = vec![
        prepared().await,
        storied().await,
        fixture_with(&everything()).await,
        fixture_with(&Has::new()).await,
    ];
    let usual = fixtures.len();
    fixtures.extend(odd::all().await);
    let built = |row: &&Route| row.verb == Verb::Get && matches!(row.served, Served::By(_));
    let mut asked = 0;
    for row in ROUTES.iter().filter(built) {
        let more = QUERIES.iter().filter(|(path, _)| *path == row.path);
        let queries: Vec<String> = std::iter::once(String::new())
            .chain(more.map(|(_, query)| format!("?{query}")))
            .collect();
        for version in versions(row) {
            for (number, fixture) in fixtures.iter().enumerate() {
                host_is_up(&fixture.cloud).await;
                let path = fixture.path(row.path, version);
                let mut paths: Vec<String> = queries
                    .iter()
                    .map(|query| format!("{path}{query}"))
                    .collect();
                if number >= usual {
                    let more = odd::MORE
                        .iter()
                        .filter(|path| of_path("GET", path, &Value::Null).path == row.path);
                    paths.extend(more.map(|path| (*path).to_owned()));
                }
                if row.path == "/images/{id}" {
                    paths.push(format!("/images/{FOREIGN}"));
                }
                for path in &paths {
                    for token in ["admin", "plain", "nobody", "other"] {
                        fixture.cloud.get(token, version, path).await;
                        asked += 1;
                    }
                }
            }
        }
    }
    assert!(asked > 1000, "{asked}");
}

/// Sends each at the versions that matter.
async fn send(requests: &[(u16, u16, &str)], action: Option<&str>, has: &Has, awaited: bool) {
    let fixture = samples_sent::prepared("", action, has).await;
    let cloud = &fixture.cloud;
    let unlimited = json!({ "quota_set": { "instances": -1, "cores": -1, "ram": -1, "key_pairs": -1, "server_groups": -1 } });
    let set = cloud.send(
        "admin",
        1,
        "PUT",
        "/os-quota-sets/ad000000000000000000000000000000",
        unlimited,
    );
    assert_eq!(set.await.status, 200);
    // Of the sequences of requests that belong together each is sent at once.
    let swap = json!({ "flavor": { "name": "s", "id": "7", "ram": 1, "vcpus": 1, "disk": 1, "swap": 512 } });
    assert_eq!(
        cloud
            .send("admin", 1, "POST", "/flavors", swap)
            .await
            .status,
        200
    );
    let rows: Vec<&Route> = requests
        .iter()
        .map(|(_, _, request)| row(request))
        .collect();
    let mut at: BTreeSet<u16> = BTreeSet::new();
    rows.iter().for_each(|row| at.extend(versions(row)));
    for version in at {
        for ((since, until, request), row) in requests.iter().zip(&rows) {
            if version < *since || version >= *until || !row.exists_at(Microversion(version)) {
                continue;
            }
            let request = request
                .replace("{n}", &format!("n{version}"))
                .replace("{key}", KEY);
            let answer = sent(&fixture, version, &request, awaited).await;
            let status = answer.status;
            assert!(
                status.is_success(),
                "2.{version} {request}: {status} {}",
                answer.text
            );
        }
    }
}

async fn sent(fixture: &Fixture, version: u16, request: &str, awaited: bool) -> Answer {
    finish(&fixture.cloud, &fixture.server, VmState::Active).await;
    if !awaited {
        return ask(fixture, version, request).await;
    }
    fixture.unplug().await;
    fixture.with_host(ask(fixture, version, request)).await
}

/// The row that a request with names in it leads to.
fn row(request: &str) -> &'static Route {
    let mut parts = request.splitn(3, ' ');
    let (verb, path) = (parts.next().unwrap(), parts.next().unwrap());
    let body: Value = serde_json::from_str(parts.next().unwrap_or_default()).unwrap_or_default();
    of_path(verb, path, &body)
}

fn of_path(verb: &str, path: &str, body: &Value) -> &'static Route {
    let rows = ROUTES.iter().filter(|row| {
        let named = row.action.is_none_or(|action| body.get(action).is_some());
        let (theirs, ours) = (path.split('/'), row.path.split('/'));
        let same = theirs.clone().count() == ours.clone().count();
        let fits = same
            && theirs
                .zip(ours)
                .all(|(given, own)| own.starts_with('{') || given == own);
        row.verb.as_str() == verb && named && fits
    });
    let found = rows.min_by_key(|row| row.path.matches('{').count());
    found.unwrap_or_else(|| panic!("{verb} {path} leads nowhere"))
}

#[tokio::test]
async fn what_is_written_is_as_documented_at_every_version() {
    sweep();
    send(WRITES, None, &usual(), false).await;
}

#[tokio::test]
async fn servers_that_are_written_are_as_documented_at_every_version() {
    sweep();
    for has in [usual(), everything(), Has::new()] {
        send(SERVERS, None, &has, false).await;
    }
}

#[tokio::test]
async fn odd_servers_that_are_written_are_as_documented_at_every_version() {
    sweep();
    for fixture in odd::all().await {
        let (since, _, request) = SERVERS[0];
        for version in versions(row(request)) {
            assert!(version >= since);
            let answer = ask(&fixture, version, request).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    // Without a zone, and not changed.
    let fixture = prepared().await;
    let path = "/os-aggregates/2";
    let made = json!({ "aggregate": { "name": "plain" } });
    let made = fixture
        .cloud
        .send("admin", 1, "POST", "/os-aggregates", made)
        .await;
    assert_eq!(made.status, 200, "{}", made.text);
    for version in versions(of_path("PUT", path, &Value::Null)) {
        for (verb, path, body) in [
            ("PUT", path, json!({ "aggregate": { "name": "plain" } })),
            (
                "POST",
                "/os-aggregates/2/action",
                json!({ "add_host": { "host": "h1" } }),
            ),
            (
                "POST",
                "/os-aggregates/2/action",
                json!({ "remove_host": { "host": "h1" } }),
            ),
        ] {
            let answer = fixture.cloud.send("admin", version, verb, path, body).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
}

/// What no other test gets, each with its status: refusals above all.
const RARE: &[(u16, u16, &str)] = &[
    (1, 404, "DELETE /images/nope"),
    (
        1,
        404,
        r#"PUT /images/nope/metadata/a {"meta": {"a": "b"}}"#,
    ),
    (
        1,
        404,
        r#"PUT /flavors/nope/os-extra_specs/hw:numa_nodes {"hw:numa_nodes": "1"}"#,
    ),
    (
        1,
        409,
        r#"PUT /os-aggregates/{aggregate} {"aggregate": {"name": "taken"}}"#,
    ),
    (
        1,
        404,
        "GET /os-security-groups/99999999-31e7-49b7-b260-868f441e862c",
    ),
    (
        1,
        404,
        r#"PUT /os-security-groups/99999999-31e7-49b7-b260-868f441e862c {"security_group": {"name": "n", "description": "d"}}"#,
    ),
    (1, 409, "plain: DELETE /servers/{server}"),
    // One that is not refused, at a version at which no other test deletes one.
    (2, 204, "DELETE /os-keypairs/k"),
];

#[tokio::test]
async fn rare_answers_are_documented() {
    let fixture = prepared().await;
    let taken = json!({ "aggregate": { "name": "taken" } });
    let made = fixture
        .cloud
        .send("admin", 1, "POST", "/os-aggregates", taken)
        .await;
    assert_eq!(made.status, 200, "{}", made.text);
    let lock = r#"POST /servers/{server}/action {"lock": null}"#;
    assert_eq!(ask(&fixture, 1, lock).await.status, 202);
    let mut wrong = Vec::new();
    for (version, status, request) in RARE {
        let answer = ask(&fixture, *version, request).await;
        if answer.status != *status {
            wrong.push(format!("{request}: {} {}", answer.status, answer.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_needs_a_host_is_as_documented_at_every_version() {
    sweep();
    send(DOWN, Some("evacuate"), &usual(), false).await;
    send(AWAITED, None, &usual(), true).await;
}

/// Every row that can succeed is told with its statuses, and with a body unless it never has one.
#[test]
fn every_row_has_its_answers_in_the_document() {
    let mut wrong = Vec::new();
    for version in 1..=Microversion::MAX.0 {
        let document = crate::openapi(&format!("2.{version}")).unwrap();
        let version = Microversion(version);
        for row in ROUTES {
            if matches!(row.served, Served::Gone) || !row.exists_at(version) {
                continue;
            }
            let verb = row.verb.as_str().to_lowercase();
            let responses = &document["paths"][row.path][&verb]["responses"];
            let at = format!("{} at {version}", name_of(row));
            let mut told: Vec<&String> = responses.as_object().unwrap().keys().collect();
            told.retain(|status| status.starts_with('2'));
            let own: Vec<u16> = row.successes(version).collect();
            if row.action.is_none() && verb != "post" && told.len() != own.len() {
                wrong.push(format!("{at}: {told:?}"));
            }
            for status in own {
                let response = &responses[status.to_string()];
                let Some(answer) = of_answer(row, status, version, false) else {
                    wrong.push(format!("{at}: no answer with {status} was ever seen"));
                    continue;
                };
                let schema = &response["content"]["application/json"]["schema"];
                let mut all = vec![schema];
                all.extend(schema["anyOf"].as_array().into_iter().flatten());
                let own = answer.schema.map(|mut own| {
                    if let Some(action) = row.action {
                        own["title"] = action.into();
                    }
                    own
                });
                let right = match &own {
                    Some(own) => all.contains(&own),
                    None => answer.empty && response["description"].is_string(),
                };
                if !right {
                    wrong.push(format!("{at}: {status} {response}"));
                }
            }
            for status in ["400", "401", "413", "default"] {
                if responses.get(status).is_none() {
                    wrong.push(format!("{at}: nothing of {status}"));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
