//! What each microversion changed, before and after: the lines of `microversions.txt`.

use super::harness::{Answer, DEMO, FLOATING, GROUPS, IMAGE, NETWORK, PORT};
use super::resize::arrived;
use super::samples::{Fixture, fixture};
use super::server_life::finish;
use db::migrations::{End, Kind, NewMigration, Status};
use serde_json::{Value, json};
use std::path::Path;
use types::{FlavorId, Microversion, MigrationId, ServerId, Timestamp, VmState};

const TABLE: &str = include_str!("microversions.txt");

/// A request with what it gets below a version and from it on.
struct Probe<'a> {
    version: u16,
    request: &'a str,
    before: &'a str,
    after: &'a str,
}

/// The lines: a probe, or the name of a test, or a reason.
fn lines() -> Vec<(u16, Vec<&'static str>)> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let version = cells.remove(0).strip_prefix("2.").unwrap().parse().unwrap();
            if let Some(test) = cells[0].strip_prefix("see ") {
                cells = vec!["see", test];
            }
            (version, cells)
        })
        .collect()
}

#[test]
fn every_microversion_has_a_line() {
    let lines = lines();
    let mut versions: Vec<u16> = lines.iter().map(|(version, _)| *version).collect();
    versions.dedup();
    let all: Vec<u16> = (Microversion::MIN.0 + 1..=Microversion::MAX.0).collect();
    assert_eq!(versions, all);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (version, cells) in lines {
        let named = cells
            .iter()
            .find_map(|cell| cell.split_whitespace().find(|word| word.contains(".rs::")));
        if let Some(test) = named {
            let (file, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(
                source.contains(&format!("fn {name}(")),
                "2.{version}: {test} is not there"
            );
        }
        assert!(
            named.is_some() || cells[0] == "none" || cells.len() == 4,
            "2.{version}: {cells:?}"
        );
    }
}

/// What more the probes look at: an event that failed, and a move.
pub async fn prepared() -> Fixture {
    let fixture = fixture().await;
    let id: ServerId = fixture.server.parse().unwrap();
    let write = fixture
        .cloud
        .store
        .write(move |tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            let action = db::actions::of_server(tx, id)?[0].id;
            let event = db::actions::start_event(tx, action, "compute_x", Some("h1"), now)?;
            db::actions::finish_event(tx, event, Some("why"), now)?;
            let end = || End {
                compute: Some("h1".into()),
                node: Some("h1".to_owned()),
            };
            let flavor = FlavorId("1".to_owned());
            let new = NewMigration {
                id: MigrationId::random(),
                server: id,
                kind: Kind::Resize,
                status: Status::Confirmed,
                source: end(),
                dest: end(),
                old_flavor: &flavor,
                new_flavor: &flavor,
                project_id: DEMO,
                user_id: "u",
            };
            db::migrations::insert(tx, &new, now)?;
            db::migrations::set_status(tx, new.id, new.status, now).map(|_| ())
        });
    write.await.unwrap();
    fixture
}

/// The server has another flavor, and waits until that is confirmed.
pub async fn resized(fixture: &Fixture, id: ServerId) {
    let settle = move |tx: &mut sql::Tx<'_>| -> Result<bool, sql::Error> {
        let server = db::instances::get(tx, id)?.unwrap();
        let kept = db::instances::Kept {
            unsettled: None,
            ..server.kept
        };
        db::instances::set_kept(tx, id, &kept)?;
        Ok(server.flavor.id.as_str() == "1")
    };
    let first = fixture.cloud.store.write(settle).await.unwrap();
    let other = json!({"resize": {"flavorRef": if first { "2" } else { "1" }}});
    let path = format!("/servers/{id}/action");
    let moved = fixture.cloud.send("admin", 50, "POST", &path, other).await;
    assert_eq!(moved.status, 202, "{}", moved.text);
    arrived(&fixture.cloud, &fixture.server).await;
}

/// The server shows that it is on its way.
pub async fn migrating(fixture: &Fixture, id: ServerId) {
    let write = move |tx: &mut sql::Tx<'_>| {
        let sql = "UPDATE instances SET task_state = 'migrating' WHERE uuid = ?";
        tx.execute(sql, &[id.into()])
    };
    let set: Result<u64, sql::Error> = fixture.cloud.store.write(write).await;
    assert_eq!(set.unwrap(), 1);
}

/// Sends a request as the lines have them.
pub async fn ask(fixture: &Fixture, version: u16, request: &str) -> Answer {
    let (token, request) = match request.strip_prefix("plain: ") {
        Some(rest) => ("plain", rest),
        None => ("admin", request),
    };
    let request = match request.strip_prefix('[') {
        Some(rest) => {
            let (state, rest) = rest.split_once("] ").unwrap();
            let id: ServerId = fixture.server.parse().unwrap();
            match state {
                "shelved" => finish(&fixture.cloud, &fixture.server, VmState::Shelved).await,
                "shelved_offloaded" => {
                    finish(&fixture.cloud, &fixture.server, VmState::ShelvedOffloaded).await
                }
                "migrating" => migrating(fixture, id).await,
                "resized" => resized(fixture, id).await,
                "deleted" => {
                    let gone = move |tx: &mut sql::Tx<'_>| {
                        db::instances::mark_deleted(tx, id, Timestamp::now())
                    };
                    assert!(fixture.cloud.store.write(gone).await.unwrap());
                }
                other => panic!("{other}"),
            }
            rest
        }
        None => request,
    };
    let volumes = &fixture.cloud.volumes;
    let mut text = request.to_owned();
    for (name, value) in [
        ("{server}", fixture.server.clone()),
        ("{image}", IMAGE.to_owned()),
        ("{network}", NETWORK.to_owned()),
        ("{group}", fixture.group.clone()),
        (
            "{aggregate}",
            fixture.path("/os-aggregates/{id}", version)["/os-aggregates/".len()..].to_owned(),
        ),
        (
            "{node}",
            fixture.path("/os-hypervisors/{id}", version)["/os-hypervisors/".len()..].to_owned(),
        ),
        ("{request}", fixture.request.clone()),
        (
            "{migration}",
            fixture.migration.unwrap_or_default().to_string(),
        ),
        ("{attached}", fixture.volume.clone()),
        (
            "{snapshot}",
            fixture.path("/os-snapshots/{id}", version)["/os-snapshots/".len()..].to_owned(),
        ),
        ("{floating}", FLOATING.0.to_owned()),
        ("{address}", FLOATING.1.to_owned()),
        ("{security_group}", GROUPS[0].to_owned()),
        ("{port}", PORT.to_owned()),
    ] {
        text = text.replace(name, &value);
    }
    let mut made = Vec::new();
    for (name, fields) in [
        ("{volume}", json!({})),
        ("{multiattach}", json!({ "multiattach": true })),
    ] {
        if text.contains(name) {
            let volume = volumes.make_with(&fields);
            text = text.replace(name, &volume);
            made.push(volume);
        }
    }
    for (name, binary) in [
        ("{service}", "nova-compute"),
        ("{scheduler}", "nova-scheduler"),
    ] {
        if text.contains(name) {
            let path = format!("/os-services?binary={binary}");
            let found = fixture.cloud.get("admin", 53, &path).await.json();
            let id = found["services"][0]["id"].as_str().unwrap();
            text = text.replace(name, id);
        }
    }
    if text.contains("removeFloatingIp") {
        fixture
            .server
            .clone_into(&mut fixture.cloud.leads_to.lock().unwrap());
    }
    let mut parts = text.splitn(3, ' ');
    let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
    let body = parts
        .next()
        .map_or(Value::Null, |body| serde_json::from_str(body).unwrap());
    let answer = fixture.cloud.send(token, version, method, path, body).await;
    if answer.status.is_success() && path.ends_with("/os-volume_attachments") {
        // As the flow would leave it.
        for volume in &made {
            volumes.set(volume, "status", json!("in-use"));
        }
    }
    answer
}

/// Why the answer is not as wanted.
fn differs(answer: &Answer, wanted: &str) -> Option<String> {
    let document = answer.json();
    // Words have blanks: each word of the line that begins with no sign goes on with the one before.
    let mut items: Vec<String> = Vec::new();
    for word in wanted.split(' ') {
        let begins = word.starts_with(['+', '-', '~', '!']) || word.parse::<u16>().is_ok();
        match items.last_mut() {
            Some(last) if !begins => *last = format!("{last} {word}"),
            _ => items.push(word.to_owned()),
        }
    }
    let wrong = items.iter().find(|item| {
        if let Some(words) = item.strip_prefix("!~") {
            answer.text.contains(words)
        } else if let Some(words) = item.strip_prefix('~') {
            !answer.text.contains(words)
        } else if let Some(status) = item.strip_prefix('!') {
            answer.status.as_str() == status
        } else if let Some(pointer) = item.strip_prefix('+') {
            document.pointer(pointer).is_none()
        } else if let Some(pointer) = item.strip_prefix('-') {
            document.pointer(pointer).is_some()
        } else {
            answer.status.as_str() != item.as_str()
        }
    });
    wrong.map(|item| format!("not {item}: {} {}", answer.status, answer.text))
}

#[tokio::test]
async fn before_and_after_each_microversion() {
    let lines = lines();
    let probes = lines.iter().filter_map(|(version, cells)| match cells[..] {
        [request, before, after, _] => Some(Probe {
            version: *version,
            request,
            before,
            after,
        }),
        _ => None,
    });
    let (mut wrong, mut tried) = (Vec::new(), 0);
    let reading = prepared().await;
    for probe in probes {
        for (version, wanted) in [
            (probe.version - 1, probe.before),
            (probe.version, probe.after),
        ] {
            let changes = !probe.request.contains("GET ") || probe.request.starts_with('[');
            let own = if changes {
                Some(prepared().await)
            } else {
                None
            };
            let answer = ask(own.as_ref().unwrap_or(&reading), version, probe.request).await;
            tried += 1;
            if let Some(why) = differs(&answer, wanted) {
                wrong.push(format!("{} at 2.{version}: {why}", probe.request));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {tried} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
