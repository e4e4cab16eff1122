//! Lists of moves: who sees what of them, filters, pages, and the live ones below their server.

use super::harness::{Cloud, DEMO};
use super::server_create::cloud;
use super::server_life::{finish, make};
use db::migrations::{Bytes, End, Kind, NewMigration, Status};
use serde_json::{Value, json};
use types::{FlavorId, MigrationId, ServerId, Timestamp, VmState};

fn end(host: &str) -> End {
    End {
        compute: Some(host.into()),
        node: Some(format!("{host}.node")),
    }
}

/// A move of a server of the demo project, at this time.
async fn moved(cloud: &Cloud, server: &str, kind: Kind, status: Status, at: i64) -> MigrationId {
    let (id, server): (_, ServerId) = (MigrationId::random(), server.parse().unwrap());
    cloud
        .store
        .write(move |tx| {
            let flavor = FlavorId("1".to_owned());
            let new = NewMigration {
                id,
                server,
                kind,
                status,
                source: end("h1"),
                dest: end("h2"),
                old_flavor: &flavor,
                new_flavor: &flavor,
                project_id: DEMO,
                user_id: "demo-user",
            };
            db::migrations::insert(tx, &new, Timestamp::from_seconds(at))
        })
        .await
        .unwrap();
    id
}

fn ids(document: &Value) -> Vec<i64> {
    let list = document["migrations"].as_array().unwrap();
    list.iter().map(|one| one["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn filters_and_pages() {
    let cloud = cloud().await;
    let (a, b) = (
        make(&cloud, "member", "a").await,
        make(&cloud, "member", "b").await,
    );
    moved(&cloud, &a, Kind::Resize, Status::Confirmed, 100).await;
    let second = moved(&cloud, &b, Kind::Migration, Status::Finished, 200).await;
    moved(&cloud, &b, Kind::LiveMigration, Status::Running, 200).await;
    let list = async |version: u16, query: &str| {
        let path = format!("/os-migrations{query}");
        let answer = cloud.get("admin", version, &path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    };
    let cases: &[(u16, &str, &[i64])] = &[
        (1, "", &[1, 2, 3]),
        (59, "", &[3, 2, 1]),
        (59, "?status=finished", &[2]),
        (59, "?migration_type=live-migration", &[3]),
        (59, "?host=h2", &[3, 2, 1]),
        (59, "?source_compute=h2", &[]),
        (59, "?source_compute=nowhere&host=h1", &[3, 2, 1]),
        (59, "?hidden=1", &[]),
        (59, "?limit=0", &[]),
        (1, "?limit=1&status=none&status=finished", &[2]),
        (59, "?changes-since=1970-01-01T00:03:00", &[3, 2]),
        (66, "?changes-before=1970-01-01T00:03:00", &[1]),
        (80, "?user_id=demo-user", &[3, 2, 1]),
        (80, "?project_id=nobody", &[]),
    ];
    for (version, query, wanted) in cases {
        assert_eq!(
            ids(&list(*version, query).await),
            *wanted,
            "{version} {query}"
        );
    }
    let page = list(59, "?limit=2").await;
    assert_eq!(ids(&page), [3, 2], "equal times are told apart by number");
    assert_eq!(
        page["migrations_links"],
        json!([{"rel": "next", "href": format!("http://cloud:8774/v2.1/os-migrations?limit=2&marker={second}")}])
    );
    let rest = list(59, &format!("?limit=2&marker={second}")).await;
    assert_eq!(ids(&rest), [1]);
    assert!(rest.get("migrations_links").is_none());
    let bad = [
        (59, "?marker=none", "Marker none could not be found."),
        (
            59,
            "?limit=x",
            "Invalid input for query parameters limit. Value: x. 'x' does not match '^[0-9]*$'",
        ),
        (
            66,
            "?changes-since=2026-01-02T00:00:00&changes-before=2026-01-01T00:00:00",
            "The value of changes-since must be less than or equal to changes-before.",
        ),
        (
            59,
            "?project_id=x",
            "Additional properties are not allowed ('project_id' was unexpected)",
        ),
    ];
    for (version, query, message) in bad {
        let path = format!("/os-migrations{query}");
        let answer = cloud.get("admin", version, &path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fault().1.as_str()),
            (400, message)
        );
    }
}

#[tokio::test]
async fn hosts_and_foreign_projects_are_for_administrators() {
    let cloud = cloud().await;
    let server = make(&cloud, "member", "a").await;
    moved(&cloud, &server, Kind::Resize, Status::Finished, 100).await;
    let all = cloud.get("manager", 80, "/os-migrations").await;
    assert_eq!(
        (all.status.as_u16(), all.fault().1.as_str()),
        (
            403,
            "Policy doesn't allow os_compute_api:os-migrations:index:all_projects to be performed."
        )
    );
    let own = format!("/os-migrations?project_id={DEMO}");
    let shown = cloud.get("manager", 80, &own).await.json()["migrations"][0].clone();
    for name in [
        "source_compute",
        "source_node",
        "dest_compute",
        "dest_node",
        "dest_host",
    ] {
        assert_eq!(shown.get(name), Some(&Value::Null), "{name}");
    }
    let shown = cloud.get("admin", 80, &own).await.json()["migrations"][0].clone();
    assert_eq!(
        (
            &shown["source_compute"],
            &shown["dest_node"],
            &shown["old_instance_type_id"]
        ),
        (&json!("h1"), &json!("h2.node"), &json!(1))
    );
}

#[tokio::test]
async fn fields_by_version() {
    let cloud = cloud().await;
    let server = make(&cloud, "member", "a").await;
    moved(&cloud, &server, Kind::LiveMigration, Status::Running, 100).await;
    let fields = async |version: u16| {
        let document = cloud.get("admin", version, "/os-migrations").await.json();
        let map = document["migrations"][0].as_object().unwrap().clone();
        map.keys().cloned().collect::<Vec<_>>()
    };
    let mut before = fields(22).await;
    assert_eq!(before.len(), 12, "{before:?}");
    for (version, came) in [
        (23, vec!["links", "migration_type"]),
        (59, vec!["uuid"]),
        (80, vec!["project_id", "user_id"]),
    ] {
        let now = fields(version).await;
        let mut new: Vec<&String> = now.iter().filter(|name| !before.contains(name)).collect();
        new.sort();
        assert_eq!(new, came, "2.{version}");
        before = now;
    }
}

#[tokio::test]
async fn live_migrations_in_progress() {
    let cloud = cloud().await;
    let server = make(&cloud, "member", "a").await;
    finish(&cloud, &server, VmState::Active).await;
    moved(&cloud, &server, Kind::Resize, Status::Finished, 100).await;
    let live = moved(&cloud, &server, Kind::LiveMigration, Status::Running, 200).await;
    moved(&cloud, &server, Kind::LiveMigration, Status::Completed, 300).await;
    cloud
        .store
        .write(move |tx| {
            let memory = Bytes {
                total: Some(10),
                processed: Some(4),
                remaining: Some(6),
            };
            db::migrations::set_progress(tx, live, memory, Bytes::default(), Timestamp::now())
        })
        .await
        .unwrap();
    let path = format!("/servers/{server}/migrations");
    let list = cloud.get("admin", 80, &path).await.json();
    assert_eq!(ids(&list), [2]);
    let shown = cloud.get("admin", 80, &format!("{path}/2")).await.json();
    assert_eq!(shown["migration"], list["migrations"][0]);
    let shown = &shown["migration"];
    assert_eq!(
        (
            &shown["memory_remaining_bytes"],
            &shown["disk_total_bytes"],
            &shown["server_uuid"]
        ),
        (&json!(6), &Value::Null, &json!(server))
    );
    assert_eq!(shown.as_object().unwrap().len(), 19);
    for (number, message) in [
        (
            "1",
            format!("Migration 1 for server {server} is not live-migration."),
        ),
        (
            "3",
            format!("Live migration 3 for server {server} is not in progress."),
        ),
        (
            "9",
            format!("In-progress live migration 9 is not found for server {server}."),
        ),
        (
            "x",
            format!("In-progress live migration x is not found for server {server}."),
        ),
    ] {
        let answer = cloud.get("admin", 80, &format!("{path}/{number}")).await;
        assert_eq!((answer.status.as_u16(), answer.fault().1), (404, message));
    }
}
