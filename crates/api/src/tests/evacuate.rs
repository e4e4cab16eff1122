//! `evacuate`.

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use serde_json::{Value, json};
use types::{Timestamp, VmState};

async fn beat(cloud: &Cloud, host: &'static str, at: Timestamp) {
    let beating = cloud
        .store
        .write(move |tx| db::hosts::beat(tx, &host.into(), "nova-compute", None, at));
    let beaten: Result<(), sql::Error> = beating.await;
    beaten.unwrap();
}

async fn act(cloud: &Cloud, version: u16, id: &str, how: Value) -> (u16, String, Value) {
    let path = format!("/servers/{id}/action");
    let body = json!({ "evacuate": how });
    let answer = cloud.send("admin", version, "POST", &path, body).await;
    (answer.status.as_u16(), answer.fault().1, answer.json())
}

#[tokio::test]
async fn only_from_a_host_that_is_gone_and_to_one_that_is_there() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    beat(&cloud, "h1", Timestamp::now()).await;
    beat(&cloud, "h2", Timestamp::now()).await;
    let unexpected = "Additional properties are not allowed ('force' was unexpected)";
    let forced = json!({"host": "h2", "force": true});
    let refused = [
        (
            13,
            json!({}),
            400,
            "'onSharedStorage' is a required property",
        ),
        (
            13,
            json!({"onSharedStorage": true, "adminPass": "p"}),
            400,
            "admin password can't be changed on existing disk",
        ),
        (14, json!({"host": "h9"}), 404, "Compute host h9 not found."),
        (
            14,
            json!({"host": "h1"}),
            400,
            "The target host can't be the same one.",
        ),
        (28, forced.clone(), 400, unexpected),
        (
            29,
            json!({"force": true}),
            400,
            "Can't force to a non-provided destination",
        ),
        (68, forced, 400, unexpected),
        (
            95,
            json!({"host": "h2"}),
            400,
            "Compute service of h1 is still in use.",
        ),
    ];
    for (version, how, status, words) in refused {
        let (got, message, _) = act(&cloud, version, &id, how.clone()).await;
        let shown = format!("2.{version} {how}: {message}");
        assert_eq!((got, message.contains(words)), (status, true), "{shown}");
    }
    beat(&cloud, "h1", Timestamp(1)).await;
    let (status, _, body) = act(&cloud, 13, &id, json!({"onSharedStorage": "False"})).await;
    let pass = body["adminPass"].as_str().unwrap_or_default();
    assert_eq!((status, pass.len()), (200, 12), "{body}");
    let listed = cloud.get("admin", 23, "/os-migrations").await.json();
    let migration = &listed["migrations"][0];
    let shown = ["migration_type", "status", "source_compute"].map(|name| &migration[name]);
    assert_eq!(shown, ["evacuation", "accepted", "h1"]);

    finish(&cloud, &id, VmState::Error).await;
    let given = json!({"host": "h2", "adminPass": "p"});
    let answer = act(&cloud, 14, &id, given).await;
    assert_eq!(answer, (200, String::new(), Value::Null));
    finish(&cloud, &id, VmState::Paused).await;
    let (status, message, _) = act(&cloud, 14, &id, json!({})).await;
    let words = format!("Cannot 'evacuate' instance {id} while it is in vm_state paused");
    assert_eq!((status, message), (409, words));
}

#[tokio::test]
async fn who_must_wait_is_told_for_what() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    beat(&cloud, "h1", Timestamp(1)).await;
    assert_eq!(act(&cloud, 14, &id, json!({})).await.0, 200);
    let (status, message, _) = act(&cloud, 14, &id, json!({})).await;
    let server: types::ServerId = id.parse().unwrap();
    let reading = cloud
        .store
        .read(move |tx| db::instances::get(tx, server))
        .await;
    let task = reading.unwrap().unwrap().task_id.unwrap();
    let start = format!(
        "Instance {id} is still being worked on by 'evacuate', whose step '-' is under way; "
    );
    assert!(status == 409 && message.starts_with(&start), "{message}");
    let how = format!("`kilonova manage task abandon {task}`");
    assert!(message.contains(&how), "{message}");
}
