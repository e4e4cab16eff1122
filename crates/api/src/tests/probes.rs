//! Nova's answers to odd requests (`probes.jsonl`), asked of this API in the same order: status, name of the fault, version in
//! the headers. Without `KILONOVA_ORACLE` nothing is compared.

use super::harness::{Answer, Cloud, DEMO};
use super::policies::oracle;
use super::server_create::cloud;
use super::server_life::{finish, make};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use types::{ServerId, Timestamp, VmState};

/// Ids that the requests name: the project, a server of the administrator, one of the user, one of another project.
const PROJECT: &str = "6f70656e737461636b20342065766572";
const OF_ADMIN: &str = "871211c2-4b4c-4eae-b501-07a1cd618594";
const OF_USER: &str = "3ec7392f-c543-4d82-ac67-7919ed6b0bca";
const OF_OTHER: &str = "7d451493-21d5-415f-aeea-dd2bea80a84d";

/// Answered otherwise, each with the reason.
const OTHERWISE: &[(&str, &str)] = &[
    ("rebuild 2.104", OWN_ANSWER),
    ("server show 2.104", OWN_ANSWER),
    ("user show", OWN_ANSWER),
    ("attach vol 2.100", "there is no such volume here"),
    (
        "bad marker",
        "a warning was taken for an error when it was recorded; Nova says 400",
    ),
    ("volumes_boot POST", VOLUMES_BOOT),
    ("volumes_boot POST 2.1", VOLUMES_BOOT),
    ("volumes_boot PUT", VOLUMES_BOOT),
    ("volumes_boot action", VOLUMES_BOOT),
    ("other project, admin role", ROLES),
    ("reader only create", ROLES),
    ("reader pause", ROLES),
    ("manager migrate", ROLES),
    ("os-volumes 2.1", NO_SERVICE),
    ("security groups 2.1", NO_SERVICE),
];
const OWN_ANSWER: &str =
    "answers were held against the schemas when it was recorded, and this one did not fit";
const VOLUMES_BOOT: &str = "500 of the recording; here it is another name of /servers";
const ROLES: &str = "roles were not heeded when it was recorded";
const NO_SERVICE: &str = "there was no such service when it was recorded";

/// Bodies that the file leaves out.
fn body_of(label: &str) -> &'static str {
    match label {
        "other project action" | "reader pause" => r#"{"pause": null}"#,
        "manager migrate" => r#"{"migrate": null}"#,
        "reader only create" => {
            r#"{"server": {"name": "a", "flavorRef": "1", "imageRef": "70a599e0-31e7-49b7-b260-868f441e862b"}}"#
        }
        _ => "",
    }
}

/// What the file does not tell of a request: its headers.
fn headers_of(label: &str) -> &'static [(&'static str, &'static str)] {
    match label {
        "mv bad" => &[("openstack-api-version", "compute abc")],
        "mv other service" => &[("openstack-api-version", "volume 3.0")],
        "mv legacy header" => &[("x-openstack-nova-api-version", "2.50")],
        "mv both headers" => &[
            ("openstack-api-version", "compute 2.60"),
            ("x-openstack-nova-api-version", "2.50"),
        ],
        _ => &[],
    }
}

/// Who asks.
fn token(probe: &Value) -> &'static str {
    let label = probe["label"].as_str().unwrap();
    match probe["roles"].as_str() {
        Some("member,reader") => "member",
        Some("reader") => "reader",
        Some("manager,member,reader") => "manager",
        Some(_) => "padmin",
        None if label.starts_with("user ") || label == "over quota user" => "member",
        None => "padmin",
    }
}

async fn ask(cloud: &Cloud, probe: &Value, ids: &[(&str, String)]) -> Answer {
    let text = |name: &str| probe[name].as_str().unwrap_or_default();
    let mut path = text("url").to_owned();
    if !path.starts_with('/') {
        path = format!("/v2.1/{PROJECT}/{path}");
    }
    for (theirs, ours) in ids {
        path = path.replace(theirs, ours);
    }
    let label = text("label");
    let version = format!("compute {}", text("mv"));
    let kind = match label {
        "xml content type" => "application/xml",
        "text/plain content type" => "text/plain",
        _ => "application/json",
    };
    let mut headers = vec![("x-auth-token", token(probe)), ("content-type", kind)];
    if label != "unknown route, no accept" {
        headers.push(("accept", "application/json"));
    }
    if !text("mv").is_empty() {
        headers.push(("openstack-api-version", &version));
    }
    headers.extend(headers_of(label));
    let sent = match text("req") {
        "" => body_of(label),
        told => told,
    };
    cloud.raw(text("method"), &path, &headers, sent).await
}

/// Status, name of the fault, version.
type Said = (u16, String, String);

fn theirs(probe: &Value) -> Said {
    let text = probe["body"].as_str().unwrap_or_default();
    let status = probe["status"].as_u64().unwrap() as u16;
    let version = &probe["headers"]["OpenStack-API-Version"];
    let version = version.as_str().unwrap_or_default().to_owned();
    (status, fault(status, text), version)
}

fn ours(answer: &Answer) -> Said {
    let version = answer.headers.get("openstack-api-version");
    let version = version.map_or("", |value| value.to_str().unwrap());
    let status = answer.status.as_u16();
    (status, fault(status, &answer.text), version.to_owned())
}

fn fault(status: u16, text: &str) -> String {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let name = document.as_object().and_then(|map| map.keys().next());
    name.filter(|_| status >= 400).cloned().unwrap_or_default()
}

/// Nobody works on flows here: a server that was deleted goes at once.
async fn gone(cloud: &Cloud, id: &str) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let now = Timestamp::now();
        let sql = "UPDATE instances SET deleted = 1, vm_state = 'deleted', task_state = NULL, terminated_at = ? WHERE uuid = ?";
        tx.execute(sql, &[now.into(), id.into()])?;
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

#[tokio::test]
async fn novas_answers_to_odd_requests() {
    let Some(folder) = oracle() else {
        eprintln!(
            "KILONOVA_ORACLE is not set: answers to odd requests are not compared with Nova's"
        );
        return;
    };
    let text = std::fs::read_to_string(folder.join("probes.jsonl")).unwrap();
    let cloud = cloud().await;
    let second =
        json!({"flavor": {"name": "m1.small", "id": "2", "ram": 512, "vcpus": 1, "disk": 1}});
    let made = cloud.send("admin", 1, "POST", "/flavors", second).await;
    assert_eq!(made.status, 200);
    let mut ids = vec![(PROJECT, DEMO.to_owned())];
    for (theirs, token) in [
        (OF_ADMIN, "padmin"),
        (OF_USER, "member"),
        (OF_OTHER, "other"),
    ] {
        let id = make(&cloud, token, "new-server-test").await;
        finish(&cloud, &id, VmState::Active).await;
        ids.push((theirs, id));
    }
    let (mut wrong, mut otherwise, mut count) = (Vec::new(), BTreeSet::new(), 0);
    for line in text.lines() {
        let probe: Value = serde_json::from_str(line).unwrap();
        let label = probe["label"].as_str().unwrap();
        let answer = ask(&cloud, &probe, &ids).await;
        count += 1;
        let (theirs, ours) = (theirs(&probe), ours(&answer));
        if label == "delete" {
            gone(&cloud, &ids[1].1).await;
        }
        if theirs == ours {
            continue;
        }
        otherwise.insert(label.to_owned());
        if !OTHERWISE.iter().any(|(known, _)| *known == label) {
            wrong.push(format!(
                "{label}: {theirs:?}, here {ours:?}: {}",
                answer.text
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let alike: Vec<_> = OTHERWISE
        .iter()
        .filter(|(label, _)| !otherwise.contains(*label))
        .collect();
    assert!(alike.is_empty(), "answered as by Nova: {alike:?}");
    assert!(count > 150, "only {count} requests");
}
