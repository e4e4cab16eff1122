//! Clouds with things as they rarely are: servers that are nowhere yet, that failed or boot from a volume, and what has no
//! name, no time and no answer. With them is seen what of an answer can be missing or null.

use super::samples::{Fixture, Has, fixture_with, interface};
use super::server_life::{finish, make};
use db::instances::{Change, Expected, Fault, Interface};
use db::migrations::{End, Kind, NewMigration, Status};
use serde_json::{Value, json};
use types::{FlavorId, MigrationId, ServerId, Timestamp, VmState};

/// What else there is to be read in these clouds.
pub const MORE: &[&str] = &["/flavors/7", "/os-aggregates/2"];

async fn post(fixture: &Fixture, path: &str, body: Value) -> Value {
    let answer = fixture.cloud.send("admin", 30, "POST", path, body).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
    answer.json()
}

/// What is shown of actions is that of this server.
async fn turn_to(fixture: &mut Fixture, server: String) {
    let path = format!("/servers/{server}/os-instance-actions");
    let actions = fixture.cloud.get("admin", 90, &path).await.json();
    let request = actions["instanceActions"][0]["request_id"].as_str();
    request.unwrap().clone_into(&mut fixture.request);
    fixture.server = server;
}

async fn bare() -> Fixture {
    let mut fixture = fixture_with(&Has::new()).await;
    let swap = json!({ "name": "s", "id": "7", "ram": 1, "vcpus": 1, "disk": 1, "swap": 512 });
    post(&fixture, "/flavors", json!({ "flavor": swap })).await;
    post(
        &fixture,
        "/os-aggregates",
        json!({ "aggregate": { "name": "plain" } }),
    )
    .await;
    for name in ["name", "description", "volume_type", "availability_zone"] {
        fixture
            .cloud
            .volumes
            .set(&fixture.volume, name, Value::Null);
    }
    let snapshot = json!({ "snapshot": { "volume_id": fixture.volume } });
    let made = post(&fixture, "/os-snapshots", snapshot).await;
    let snapshot = made["snapshot"]["id"].as_str().unwrap();
    snapshot.clone_into(&mut fixture.snapshot);
    let unseen = |tx: &mut sql::Tx<'_>| tx.execute("UPDATE services SET updated_at = NULL", &[]);
    let done: Result<u64, sql::Error> = fixture.cloud.store.write(unseen).await;
    done.unwrap();
    fixture
}

/// A server that is nowhere yet, with a migration and an event of which nothing is known; its host does not answer.
async fn nowhere() -> Fixture {
    let mut fixture = bare().await;
    let server = make(&fixture.cloud, "admin", "nowhere").await;
    turn_to(&mut fixture, server).await;
    let id: ServerId = fixture.server.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<i64, sql::Error> {
        let now = Timestamp::now();
        let action = db::actions::of_server(tx, id)?[0].id;
        db::actions::start_event(tx, action, "compute_x", None, now)?;
        let end = || End {
            compute: None,
            node: None,
        };
        let flavor = FlavorId("1".to_owned());
        let new = NewMigration {
            id: MigrationId::random(),
            server: id,
            kind: Kind::LiveMigration,
            status: Status::Running,
            source: end(),
            dest: end(),
            old_flavor: &flavor,
            new_flavor: &flavor,
            project_id: "p",
            user_id: "u",
        };
        db::migrations::insert(tx, &new, now)
    };
    fixture.migration = Some(fixture.cloud.store.write(write).await.unwrap());
    let down = json!({ "host": "h1", "binary": "nova-compute", "forced_down": true });
    let path = "/os-services/force-down";
    let done = fixture.cloud.send("admin", 30, "PUT", path, down).await;
    assert_eq!(done.status, 200, "{}", done.text);
    fixture
}

/// A server that failed.
async fn failed() -> Fixture {
    let mut fixture = bare().await;
    let server = make(&fixture.cloud, "admin", "failed").await;
    turn_to(&mut fixture, server).await;
    let id: ServerId = fixture.server.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<bool, sql::Error> {
        let now = Timestamp::now();
        let server = db::instances::get(tx, id)?.unwrap();
        let fault = Fault {
            code: 500,
            message: "why".to_owned(),
            details: Some("in short".to_owned()),
            created: now,
        };
        let change = Change {
            vm_state: Some(VmState::Error),
            task_state: Some(None),
            task_id: Some(None),
            fault: Some(Some(fault)),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        db::instances::transition(tx, id, expected, &change, now)
    };
    assert!(fixture.cloud.store.write(write).await.unwrap());
    fixture
}

/// A server without an image that boots from a volume, whose interface has no tag and whose host counts little.
async fn from_volume() -> Fixture {
    let mut fixture = bare().await;
    let volume = fixture
        .cloud
        .volumes
        .make_with(&json!({ "bootable": "true" }));
    let mapping = json!([{ "boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume" }]);
    let wanted = json!({ "name": "v", "flavorRef": "1", "networks": [], "block_device_mapping_v2": mapping });
    let made = post(&fixture, "/servers", json!({ "server": wanted })).await;
    let server = made["server"]["id"].as_str().unwrap().to_owned();
    turn_to(&mut fixture, server).await;
    finish(&fixture.cloud, &fixture.server, VmState::Active).await;
    let id: ServerId = fixture.server.parse().unwrap();
    let plain = Interface {
        tag: None,
        ..interface()
    };
    let plug = move |tx: &mut sql::Tx<'_>| {
        db::instances::set_network_info(tx, id, std::slice::from_ref(&plain))
    };
    fixture.cloud.store.write(plug).await.unwrap();
    let away = move |tx: &mut sql::Tx<'_>| {
        let sql = "UPDATE instances SET host = 'h2', launched_at = NULL WHERE uuid = ?";
        tx.execute(sql, &[id.into()])
    };
    let done: Result<u64, sql::Error> = fixture.cloud.store.write(away).await;
    assert_eq!(done.unwrap(), 1);
    fixture
}

/// All of them.
pub async fn all() -> Vec<Fixture> {
    vec![nowhere().await, failed().await, from_volume().await]
}
