//! Nova's own samples of requests, sent: they get the status that they got there, and what is answered has the shape of
//! the sample of the answer.
//!
//! The samples are no part of this repository: where `KILONOVA_ORACLE` names no folder, the test says so and passes.

use super::harness::{DEMO, FLOATING, GROUPS, IMAGE, NETWORK, PORT};
use super::microversions::{migrating, resized};
use super::policies::oracle;
use super::samples::{Fixture, Has, facts, fixture_with, has, usual};
use super::server_life::finish;
use super::shape::{Comparison, Unlike, has_location, table, wrong_headers};
use crate::route::Served;
use crate::routes::ROUTES;
use db::hosts::Ratios;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use types::{NodeId, ServerId, Timestamp, VmState};

const NO_PROXIES: &str = "there are no console proxies";

/// Samples that are answered differently on purpose, or that need what is not there; each with its reason.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "os-hosts/host-put-maintenance",
        "maintenance mode is XenAPI's",
    ),
    ("os-server-shares/", "there is no share service"),
    (
        "update-volume-req",
        "only the volume service may: see server_volumes",
    ),
    (
        "os-migrate-server/live-migrate-server.json",
        "there is no second host in Nova's test",
    ),
    ("vnc-console", NO_PROXIES),
    ("spice-console", NO_PROXIES),
    ("spice-direct-console", NO_PROXIES),
    ("serial-console", NO_PROXIES),
    ("mks-console", NO_PROXIES),
    (
        "os-server-external-events/event-create",
        "an event of Nova's own tests",
    ),
    (
        "os-keypairs/v2.2/keypairs-import",
        "its status is that of a broken body",
    ),
    (
        "os-volumes/os-volumes-post",
        "Nova's test volume is attached from the first",
    ),
    (
        "server-create-req-v2",
        "for later versions than its folder says",
    ),
    ("v2.67/server-create", "there is no such type of volumes"),
    ("v2.90/server-create", "names files, which ended with 2.57"),
    ("v2.94/server-create", "names files, which ended with 2.57"),
];

/// Where answers differ on purpose, or because the test's cloud has something else; each with its reason.
const EXCUSED: &str = "samples_sent.txt";

/// In which state a server must be for an action.
fn state_for(action: Option<&str>) -> VmState {
    match action.unwrap_or_default() {
        "os-start" => VmState::Stopped,
        "unpause" => VmState::Paused,
        "resume" => VmState::Suspended,
        "unrescue" => VmState::Rescued,
        "unshelve" => VmState::ShelvedOffloaded,
        "shelveOffload" => VmState::Shelved,
        "restore" => VmState::SoftDelete,
        _ => VmState::Active,
    }
}

/// The body with what is there in place of what was there for the sample.
fn adapted(value: &Value, fixture: &Fixture, host: &str) -> Value {
    // An attachment with all that it has.
    let whole = value.get("serverId").is_some();
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, inner)| {
                let other = match (name.as_str(), inner) {
                    ("imageRef" | "rescue_image_ref", Value::String(text)) if !text.is_empty() => {
                        Some(IMAGE.into())
                    }
                    ("flavorRef", Value::String(_)) => Some("3".into()),
                    ("host" | "hypervisor_hostname", Value::String(_)) => Some(host.into()),
                    ("availability_zone", Value::String(_)) => Some("z".into()),
                    ("key_name", Value::String(_)) => Some("k".into()),
                    ("net_id", Value::String(_)) => Some(NETWORK.into()),
                    ("port_id" | "port", Value::String(_)) => Some(PORT.into()),
                    ("parent_group_id", Value::String(_)) => Some(GROUPS[0].into()),
                    ("address", Value::String(_)) => Some(FLOATING.1.into()),
                    ("addSecurityGroup", _) => Some(json!({ "name": "web" })),
                    ("removeSecurityGroup", _) => Some(json!({ "name": "default" })),
                    ("tenant", Value::String(_)) => Some(DEMO.into()),
                    ("user_id", Value::String(_)) => Some("admin-user".into()),
                    ("group", Value::String(_)) => Some(fixture.group.clone().into()),
                    ("networks", Value::Array(_)) => Some(json!([{ "uuid": NETWORK }])),
                    ("networks", Value::String(_)) => Some("none".into()),
                    ("volume_id", Value::String(_)) if map.contains_key("create_info") => {
                        Some(fixture.volume.clone().into())
                    }
                    // What cannot be changed is sent as it is.
                    ("id", _) if whole => Some(fixture.volume.clone().into()),
                    ("serverId", _) if whole => Some(fixture.server.clone().into()),
                    ("device", _) if whole => Some("/dev/vdb".into()),
                    ("tag", _) if whole => Some("t".into()),
                    // Whoever changes an attachment names its volume.
                    ("volumeId", Value::String(_))
                        if whole
                            || (map.contains_key("delete_on_termination")
                                && !map.contains_key("tag")) =>
                    {
                        Some(fixture.volume.clone().into())
                    }
                    ("volumeId" | "volume_id", Value::String(_)) => {
                        Some(fixture.cloud.volumes.make().into())
                    }
                    _ => None,
                };
                (
                    name.clone(),
                    other.unwrap_or_else(|| adapted(inner, fixture, host)),
                )
            })
            .collect::<serde_json::Map<String, Value>>()
            .into(),
        Value::Array(list) => list.iter().map(|one| adapted(one, fixture, host)).collect(),
        other => other.clone(),
    }
}

/// The host that a request names.
fn host_for(pattern: &str) -> &'static str {
    if pattern.starts_with("/os-services") {
        "h1"
    } else {
        "h2"
    }
}

/// A cloud with a second host, another flavor, and the server in a state that the action wants.
pub async fn prepared(name: &str, action: Option<&str>, has: &Has) -> Fixture {
    let mut fixture = fixture_with(has).await;
    let cloud = &fixture.cloud;
    let second = cloud.store.write(|tx| -> Result<(), sql::Error> {
        let now = Timestamp::now();
        let mut facts = facts();
        facts.hypervisor_hostname = "h2".into();
        db::hosts::beat(tx, &"h2".into(), "nova-compute", None, now)?;
        db::hosts::put_node(
            tx,
            &"h2".into(),
            NodeId::random(),
            &facts,
            &Ratios::default(),
            now,
        )
    });
    second.await.unwrap();
    let flavor = json!({"flavor": {"name": "other", "id": "3", "ram": 512, "vcpus": 1, "disk": 1}});
    let mut requests = vec![("POST", "/flavors".to_owned(), flavor)];
    if action == Some("evacuate") {
        let down = json!({ "host": "h1", "binary": "nova-compute", "forced_down": true });
        requests.push(("PUT", "/os-services/force-down".to_owned(), down));
    }
    if action == Some("remove_host") {
        // The first one has a server, and stays.
        let add = json!({ "add_host": { "host": "h2" } });
        requests.push(("POST", fixture.path("/os-aggregates/{id}/action", 50), add));
    }
    for (method, path, body) in requests {
        let done = cloud.send("admin", 50, method, &path, body).await;
        assert_eq!(done.status, 200, "{name}: {}", done.text);
    }
    if action == Some("removeFloatingIp") {
        fixture
            .server
            .clone_into(&mut cloud.leads_to.lock().unwrap());
    }
    finish(cloud, &fixture.server, state_for(action)).await;
    let id: ServerId = fixture.server.parse().unwrap();
    if name.contains("os-assisted") || name.contains("update-volume") {
        fixture.attach().await;
    }
    if name.contains("os-attach-interfaces") {
        fixture.unplug().await;
    }
    match action {
        Some("confirmResize" | "revertResize") => resized(&fixture, id).await,
        Some("force_complete") => {
            fixture.set_out().await;
            migrating(&fixture, id).await;
        }
        _ => {}
    }
    fixture
}

/// The path, for what the sample was sent to.
async fn path_for(
    fixture: &Fixture,
    name: &str,
    pattern: &str,
    version: u16,
    body: &Value,
) -> String {
    if name.contains("remove-tenant") {
        return "/flavors/2/action".to_owned();
    }
    let key = body["meta"].as_object().and_then(|meta| meta.keys().next());
    if let Some(key) = key {
        let whole = fixture.path(pattern, version);
        return format!("{}/{key}", whole.rsplit_once('/').unwrap().0);
    }
    if pattern != "/os-services/{id}" {
        return fixture.path(pattern, version);
    }
    if version >= 53 {
        let services = fixture
            .cloud
            .get("admin", version, "/os-services?binary=nova-compute")
            .await;
        return format!(
            "/os-services/{}",
            services.json()["services"][0]["id"].as_str().unwrap()
        );
    }
    let verbs = [
        ("disable-log", "disable-log-reason"),
        ("disable", "disable"),
        ("enable", "enable"),
        ("force-down", "force-down"),
    ];
    let verb = verbs
        .iter()
        .find(|(part, _)| name.contains(&format!("service-{part}")))
        .unwrap();
    format!("/os-services/{}", verb.1)
}

/// The sample of the answer to a request's sample: of the same folder, route and status, by its name if there are several.
fn answer_to<'a>(request: &Value, all: &'a [Value]) -> Option<&'a Value> {
    let text = |sample: &Value, name: &str| sample[name].as_str().unwrap_or_default().to_owned();
    let folder = |sample: &Value| {
        text(sample, "sample")
            .rsplit_once('/')
            .map(|(folder, _)| folder.to_owned())
    };
    let stem = |sample: &Value| {
        let name = text(sample, "sample");
        name.replace("-req.json", "")
            .replace("-resp.json", "")
            .replace(".json", "")
    };
    let fits = |sample: &&Value| {
        let same = ["method", "path", "action", "status", "microversion"];
        sample["kind"] == "response"
            && folder(sample) == folder(request)
            && same.iter().all(|name| sample[*name] == request[*name])
    };
    let mut fitting = all.iter().filter(fits);
    let by_name = all
        .iter()
        .filter(fits)
        .find(|sample| stem(sample) == stem(request));
    by_name.or_else(|| fitting.next().filter(|_| fitting.next().is_none()))
}

#[tokio::test]
async fn requests_of_the_samples_are_answered_alike() {
    let Some(folder) = oracle() else {
        eprintln!("KILONOVA_ORACLE is not set: Nova's samples of requests are not sent");
        return;
    };
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap()
    };
    let index = read("samples-index.json");
    let samples = index["samples"].as_array().unwrap();
    let (mut wrong, mut sent, mut compared) = (BTreeMap::new(), 0, 0);
    let mut comparison = Comparison::new(&table(EXCUSED));
    let mut skipped = BTreeSet::new();
    for sample in samples {
        let text = |name: &str| sample[name].as_str().unwrap_or_default();
        let (name, pattern, action) = (text("sample"), text("path"), sample["action"].as_str());
        let served = ROUTES.iter().any(|row| {
            row.path == pattern
                && row.verb.as_str() == text("method")
                && row.action == action
                && matches!(row.served, Served::By(_))
        });
        let functional = text("source") == "functional test run" && text("kind") == "request";
        if !served || !functional {
            continue;
        }
        let different = DIFFERENT.iter().find(|(part, _)| name.contains(part));
        if let Some((part, _)) = different {
            skipped.insert(*part);
            continue;
        }
        let version: u16 = text("microversion")[2..].parse().unwrap();
        let theirs = answer_to(sample, samples);
        let theirs =
            theirs.map(|one| read(&format!("samples/{}", one["sample"].as_str().unwrap())));
        let wanted = theirs.as_ref().map_or_else(usual, has);
        let mut answers = Vec::new();
        // Some samples are an administrator's, some are not.
        for token in ["plain", "admin"] {
            let fixture = prepared(name, action, &wanted).await;
            let host = host_for(pattern);
            let body = adapted(&read(&format!("samples/{name}")), &fixture, host);
            let path = path_for(&fixture, name, pattern, version, &body).await;
            let cloud = &fixture.cloud;
            let asked = cloud.send(token, version, text("method"), &path, body.clone());
            let answer = fixture.with_host(asked).await;
            if sample["status"] != answer.status.as_u16() {
                answers.push(Unlike::refused(format!(
                    "{} instead of {}: {} to {path} {body}",
                    answer.status, sample["status"], answer.text
                )));
                continue;
            }
            let mut said = wrong_headers(&answer, Some(version));
            let there = answer.headers.contains_key("location");
            if there != has_location(text("method"), pattern, action, version, &answer) {
                said.push(format!("Location: {:?}", answer.headers.get("location")));
            }
            let ours = theirs.as_ref().map_or(Value::Null, |_| answer.json());
            let unlike = Unlike::answered(said, theirs.as_ref().unwrap_or(&Value::Null), &ours);
            let enough = comparison.left(name, &unlike).is_empty();
            answers.push(unlike);
            if enough {
                break;
            }
        }
        let found = comparison.best(name, &answers);
        sent += 1;
        compared += u32::from(theirs.is_some());
        if !found.is_empty() {
            wrong.insert(name.to_owned(), found);
        }
    }
    println!("{sent} requests of samples, {compared} answers compared");
    let lines: Vec<String> = wrong
        .iter()
        .map(|(name, found)| format!("{name}: {}", found.join("; ")))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {sent} differ:\n{}",
        wrong.len(),
        lines.join("\n")
    );
    let unused = comparison.unused();
    assert!(unused.is_empty(), "excuse nothing: {unused:?}");
    let stale: Vec<_> = DIFFERENT
        .iter()
        .filter(|(part, _)| !skipped.contains(part))
        .collect();
    assert!(stale.is_empty(), "skip nothing: {stale:?}");
    assert!(sent >= 216 && compared >= 141, "only {sent} and {compared}");
    super::answer_schemas::all_are_held().await;
}
