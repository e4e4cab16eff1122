//! `shelve`, `shelveOffload`, `unshelve`.

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use crate::Config;
use serde_json::{Value, json};
use types::{ServerId, VmState};

async fn act(cloud: &Cloud, token: &str, version: u16, id: &str, body: Value) -> (u16, String) {
    let path = format!("/servers/{id}/action");
    let answer = cloud.send(token, version, "POST", &path, body).await;
    (answer.status.as_u16(), answer.fault().1)
}

/// The flow that works on a server, and its state.
async fn flow(cloud: &Cloud, id: &str) -> (String, Value) {
    let id: ServerId = id.parse().unwrap();
    let task = cloud.store.read(move |tx| {
        let server = db::instances::get(tx, id)?.unwrap();
        db::tasks::get(tx, server.task_id.unwrap())
    });
    let task: Option<db::tasks::Task> = task.await.unwrap();
    let task = task.unwrap();
    (task.flow, serde_json::from_str(&task.state).unwrap())
}

#[tokio::test]
async fn shelving_makes_an_image_and_offloads_at_once_or_not() {
    for (config, offload) in [
        (Config::default(), true),
        (
            Config {
                offload_at_once: false,
                ..Config::default()
            },
            false,
        ),
    ] {
        let cloud = super::server_create::cloud_with(config).await;
        let id = make(&cloud, "member", "a").await;
        finish(&cloud, &id, VmState::Active).await;
        let answer = act(&cloud, "member", 1, &id, json!({"shelve": null})).await;
        assert_eq!(answer, (202, String::new()));
        let (name, state) = flow(&cloud, &id).await;
        assert_eq!(name, "shelve");
        assert!(
            state["image"].is_string() && state["offload"] == offload,
            "{state}"
        );
        let shown = cloud
            .get("member", 90, &format!("/servers/{id}"))
            .await
            .json();
        assert_eq!(shown["server"]["OS-EXT-STS:task_state"], "shelving");
    }
}

#[tokio::test]
async fn where_to_unshelve() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let unshelve = |place: Value| json!({ "unshelve": place });
    let zone = |zone: &str| json!({ "availability_zone": zone });
    finish(&cloud, &id, VmState::Shelved).await;
    let only_offloaded = format!(
        "Specifying an availability zone or a host when unshelving server \"{id}\" with status \"shelved\" is not \
         supported. The server status must be SHELVED_OFFLOADED."
    );
    let refused = [
        (77, json!({}), 400),
        (77, json!({ "availability_zone": null }), 400),
        (77, json!({ "host": "h1" }), 400),
        (
            90,
            json!({ "availability_zone": "nova", "host": "h1" }),
            400,
        ),
        (91, json!({ "host": null }), 400),
        (91, json!({ "place": "h1" }), 400),
    ];
    for (version, place, status) in refused {
        let (got, words) = act(&cloud, "admin", version, &id, unshelve(place.clone())).await;
        assert_eq!(got, status, "2.{version} {place}: {words}");
    }
    let answer = act(&cloud, "member", 77, &id, unshelve(zone("nova"))).await;
    assert_eq!(answer, (409, only_offloaded));

    finish(&cloud, &id, VmState::ShelvedOffloaded).await;
    let missing = "The requested availability zone is not available".to_owned();
    for unavailable in ["moon", "nova"] {
        let answer = act(&cloud, "member", 77, &id, unshelve(zone(unavailable))).await;
        assert_eq!(answer, (400, missing.clone()), "{unavailable}");
    }
    super::server_create::enabled_host(&cloud).await;
    let host = || unshelve(json!({ "host": "h9" }));
    let (status, words) = act(&cloud, "member", 91, &id, host()).await;
    assert_eq!(status, 403);
    assert!(words.contains("os-shelve:unshelve_to_host"), "{words}");
    let missing = "Compute host h9 could not be found.".to_owned();
    assert_eq!(act(&cloud, "admin", 91, &id, host()).await, (400, missing));
    // Before 2.77 nobody looks at what it says.
    let answer = act(&cloud, "member", 76, &id, unshelve(zone("moon"))).await;
    assert_eq!(answer, (202, String::new()));
    let (name, state) = flow(&cloud, &id).await;
    assert_eq!((&name[..], &state), ("unshelve", &json!({})));

    finish(&cloud, &id, VmState::ShelvedOffloaded).await;
    let answer = act(&cloud, "member", 77, &id, unshelve(zone("nova"))).await;
    assert_eq!(answer, (202, String::new()));
    assert_eq!(pinned(&cloud, &id).await, Some("nova".to_owned()));
    finish(&cloud, &id, VmState::ShelvedOffloaded).await;
    let unpin = unshelve(json!({ "availability_zone": null }));
    assert_eq!(act(&cloud, "member", 91, &id, unpin).await.0, 202);
    assert_eq!(pinned(&cloud, &id).await, None);
    finish(&cloud, &id, VmState::Shelved).await;
    assert_eq!(
        act(&cloud, "member", 91, &id, unshelve(Value::Null))
            .await
            .0,
        202
    );
    assert_eq!(flow(&cloud, &id).await.0, "unshelve_in_place");
}

async fn pinned(cloud: &Cloud, id: &str) -> Option<String> {
    let id: ServerId = id.parse().unwrap();
    let server = cloud.store.read(move |tx| db::instances::get(tx, id));
    let server: Option<db::instances::Instance> = server.await.unwrap();
    server.unwrap().pinned_zone
}
