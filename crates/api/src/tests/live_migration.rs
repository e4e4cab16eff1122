//! `os-migrateLive`, `force_complete` and abort.

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use db::instances::{Change, Expected};
use db::migrations::{self, Status};
use serde_json::{Value, json};
use types::{ServerId, TaskState, Timestamp, VmState};

async fn migrate(cloud: &Cloud, token: &str, version: u16, id: &str, how: Value) -> (u16, String) {
    let path = format!("/servers/{id}/action");
    let body = json!({ "os-migrateLive": how });
    let answer = cloud.send(token, version, "POST", &path, body).await;
    (answer.status.as_u16(), answer.fault().1)
}

#[tokio::test]
async fn what_a_request_may_say() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let auto = json!({"host": null, "block_migration": "auto"});
    let refused = [
        (
            24,
            json!({"host": null, "block_migration": false}),
            400,
            "'disk_over_commit' is a required property",
        ),
        (
            24,
            json!({"host": null, "block_migration": "auto", "disk_over_commit": false}),
            400,
            "'auto' is not one of",
        ),
        (
            25,
            json!({"host": null, "block_migration": "auto", "disk_over_commit": false}),
            400,
            "'disk_over_commit' was unexpected",
        ),
        (
            30,
            json!({"host": null, "block_migration": "auto", "force": true}),
            400,
            "Can't force to a non-provided destination",
        ),
        (
            68,
            json!({"host": "h2", "block_migration": "auto", "force": true}),
            400,
            "'force' was unexpected",
        ),
        (
            90,
            json!({"host": "h9", "block_migration": "auto"}),
            400,
            "Compute host h9 could not be found.",
        ),
        (
            90,
            json!({"block_migration": "auto"}),
            400,
            "'host' is a required property",
        ),
    ];
    for (version, how, status, words) in refused {
        let (got, message) = migrate(&cloud, "admin", version, &id, how.clone()).await;
        let shown = format!("2.{version} {how}: {message}");
        assert_eq!((got, message.contains(words)), (status, true), "{shown}");
    }
    let (status, words) = migrate(
        &cloud,
        "manager",
        90,
        &id,
        json!({"host": "h2", "block_migration": "auto"}),
    )
    .await;
    assert_eq!(status, 403);
    assert!(words.contains("migrate_live:host"), "{words}");
    assert_eq!(
        migrate(&cloud, "manager", 90, &id, auto).await,
        (202, String::new())
    );
    let shown = cloud
        .get("admin", 90, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(shown["server"]["status"], "MIGRATING");
    let path = format!("/servers/{id}/migrations");
    let listed = cloud.get("admin", 90, &path).await.json();
    let one = &listed["migrations"][0];
    assert_eq!(
        (&one["status"], &one["source_compute"]),
        (&json!("queued"), &json!("h1"))
    );
}

/// The flow's part.
async fn set(cloud: &Cloud, id: &str, task: Option<TaskState>, status: Status) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let server = db::instances::get(tx, id)?.unwrap();
        let change = Change {
            task_state: Some(task),
            ..Change::default()
        };
        let (expected, now) = (Expected::Generation(server.generation), Timestamp::now());
        assert!(db::instances::transition(tx, id, expected, &change, now)?);
        let migration = migrations::of_server_by_number(tx, id, 1)?.unwrap();
        migrations::set_status(tx, migration.id, status, now)?;
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

#[tokio::test]
async fn what_can_be_done_to_one_that_is_under_way() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let auto = json!({"host": null, "block_migration": "auto"});
    assert_eq!(migrate(&cloud, "admin", 90, &id, auto).await.0, 202);
    let (abort, force) = (
        format!("/servers/{id}/migrations/1"),
        format!("/servers/{id}/migrations/1/action"),
    );
    let body = json!({ "force_complete": null });
    let wrong_state = |state: &str, method: &str| {
        format!(
            "Migration 1 state of instance {id} is {state}. Cannot {method} while the migration is in this state."
        )
    };
    let answer = cloud
        .send("manager", 64, "DELETE", &abort, Value::Null)
        .await;
    let wanted = wrong_state("queued", "abort live migration");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (400, wanted));
    let answer = cloud
        .send("manager", 22, "POST", &force, body.clone())
        .await;
    let wanted = wrong_state("queued", "force complete");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (400, wanted));
    for (path, verb, body, status) in [
        (
            format!("/servers/{id}/migrations/9"),
            "DELETE",
            Value::Null,
            404,
        ),
        (
            format!("/servers/{id}/migrations/9/action"),
            "POST",
            body.clone(),
            400,
        ),
    ] {
        let answer = cloud.send("manager", 90, verb, &path, body).await;
        let wanted = format!("Migration 9 not found for instance {id}");
        assert_eq!((answer.status.as_u16(), answer.fault().1), (status, wanted));
    }
    // Whoever runs elsewhere already cannot be called back.
    let following = Status::RunningPostCopy;
    set(&cloud, &id, Some(TaskState::Migrating), following).await;
    let answer = cloud
        .send("manager", 90, "DELETE", &abort, Value::Null)
        .await;
    let wanted = wrong_state("running (post-copy)", "abort live migration");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (400, wanted));
    let answer = cloud
        .send("manager", 90, "POST", &force, body.clone())
        .await;
    let wanted = wrong_state("running (post-copy)", "force complete");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (400, wanted));
    set(&cloud, &id, Some(TaskState::Migrating), Status::Running).await;
    let answer = cloud
        .send("manager", 22, "POST", &force, body.clone())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let answer = cloud
        .send("manager", 24, "DELETE", &abort, Value::Null)
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    set(&cloud, &id, Some(TaskState::Migrating), Status::Preparing).await;
    let answer = cloud
        .send("manager", 65, "DELETE", &abort, Value::Null)
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let cancelled = cloud.get("admin", 59, "/os-migrations").await.json();
    assert_eq!(cancelled["migrations"][0]["status"], "cancelled");
    set(&cloud, &id, None, Status::Completed).await;
    let answer = cloud.send("manager", 22, "POST", &force, body).await;
    let wanted = format!("Cannot 'force_complete' instance {id} while it is in task_state None");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (409, wanted));
    let answer = cloud
        .send("manager", 24, "DELETE", &abort, Value::Null)
        .await;
    let wanted =
        format!("Cannot 'abort live migration' instance {id} while it is in task_state None");
    assert_eq!((answer.status.as_u16(), answer.fault().1), (409, wanted));
    let listed = cloud
        .get("member", 90, &format!("/servers/{id}/os-instance-actions"))
        .await
        .json();
    let actions: Vec<&str> = listed["instanceActions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    let wanted = [
        "live_migration_cancel",
        "live_migration_cancel",
        "live_migration_force_complete",
        "live-migration",
        "create",
    ];
    assert_eq!(actions, wanted);
    // Each is one event of the host that the server is on.
    for (index, event) in [
        (0, "compute_live_migration_abort"),
        (1, "compute_live_migration_abort"),
        (2, "compute_live_migration_force_complete"),
    ] {
        let request = &listed["instanceActions"][index]["request_id"];
        let path = format!(
            "/servers/{id}/os-instance-actions/{}",
            request.as_str().unwrap()
        );
        let shown = cloud.get("admin", 90, &path).await.json();
        let shown = &shown["instanceAction"];
        assert_eq!(shown["message"], Value::Null);
        let events = shown["events"].as_array().unwrap();
        assert_eq!(events.len(), 1, "{shown}");
        assert_eq!(events[0]["event"], event);
        assert_eq!(events[0]["result"], "Success");
        assert_eq!(events[0]["host"], "h1");
    }
}
