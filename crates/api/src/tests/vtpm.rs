//! Servers with emulated TPMs: the secrets of the key manager, and what such servers cannot do.

use super::harness::{Cloud, DEMO};
use super::resize::arrived;
use super::server_create::{body, cloud, cloud_with};
use super::server_life::{finish, host_is_up};
use db::instances::Instance;
use serde_json::{Value, json};
use types::{ServerId, VmState};

/// Flavors: `user`, `host` and `deployment` have a TPM, `crb` has one that cannot be meant.
async fn flavors(cloud: &Cloud) {
    for (id, specs) in [
        ("user", json!({"hw:tpm_version": "1.2"})),
        (
            "host",
            json!({"hw:tpm_version": "1.2", "hw:tpm_secret_security": "host"}),
        ),
        (
            "deployment",
            json!({"hw:tpm_version": "1.2", "hw:tpm_secret_security": "deployment"}),
        ),
        (
            "crb",
            json!({"hw:tpm_version": "1.2", "hw:tpm_model": "tpm-crb"}),
        ),
    ] {
        let flavor = json!({"flavor": {"name": id, "id": id, "ram": 512, "vcpus": 1, "disk": 1}});
        cloud.send("admin", 1, "POST", "/flavors", flavor).await;
        let specs = json!({ "extra_specs": specs });
        let path = format!("/flavors/{id}/os-extra_specs");
        let set = cloud.send("admin", 1, "POST", &path, specs).await;
        assert_eq!(set.status, 200, "{}", set.text);
    }
}

async fn with_flavors() -> Cloud {
    let cloud = cloud().await;
    flavors(&cloud).await;
    host_is_up(&cloud).await;
    cloud
}

async fn ask(cloud: &Cloud, token: &str, change: Value) -> (u16, Value, String) {
    let answer = cloud
        .send(token, 90, "POST", "/servers", body(change))
        .await;
    (answer.status.as_u16(), answer.json(), answer.fault().1)
}

/// A server of this flavor that runs.
async fn running(cloud: &Cloud, flavor: &str) -> String {
    let (status, made, words) = ask(
        cloud,
        "member",
        json!({"flavorRef": flavor, "networks": "none"}),
    )
    .await;
    assert_eq!(status, 202, "{words}");
    let id = made["server"]["id"].as_str().unwrap().to_owned();
    end(cloud, &id).await;
    finish(cloud, &id, VmState::Active).await;
    id
}

/// Nobody runs tasks here: the one that works on the server has ended.
async fn end(cloud: &Cloud, id: &str) {
    let task = stored(cloud, id).await.task_id;
    let ending = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        if let Some(task) = task {
            db::tasks::take_over(tx, task)?;
        }
        Ok(())
    });
    ending.await.unwrap();
}

async fn stored(cloud: &Cloud, id: &str) -> Instance {
    let id: ServerId = id.parse().unwrap();
    let found = cloud
        .store
        .read(move |tx| db::instances::find(tx, id))
        .await;
    let found: Result<_, sql::Error> = found;
    found.unwrap().unwrap()
}

/// What the task that works on the server has been handed.
async fn handed(cloud: &Cloud, id: &str) -> Option<String> {
    let task = stored(cloud, id).await.task_id.unwrap();
    let read = move |tx: &mut sql::Tx<'_>| -> Result<Option<String>, sql::Error> {
        let sql = "SELECT passphrase FROM tasks WHERE id = ?";
        tx.query_one(sql, &[task.into()])?.get(0)
    };
    cloud.store.read(read).await.unwrap()
}

async fn act(cloud: &Cloud, token: &str, id: &str, action: Value) -> (u16, String) {
    let path = format!("/servers/{id}/action");
    let answer = cloud.send(token, 95, "POST", &path, action).await;
    (answer.status.as_u16(), answer.fault().1)
}

fn secret_of(id: &str, token: &str) -> (String, String) {
    (token.to_owned(), format!("vTPM secret for instance {id}"))
}

#[tokio::test]
async fn a_secret_is_made_with_a_server_handed_over_sealed_and_goes_with_it() {
    for (flavor, owner, left) in [
        ("user", "member", 0),
        ("host", "member", 0),
        ("deployment", "service", 1),
    ] {
        let cloud = with_flavors().await;
        let wanted = json!({"flavorRef": flavor, "networks": "none"});
        let (status, made, words) = ask(&cloud, "member", wanted).await;
        assert_eq!(status, 202, "{words}");
        let id = made["server"]["id"].as_str().unwrap();
        assert_eq!(cloud.keys.stored(), [secret_of(id, owner)]);
        let secret = stored(&cloud, id).await.kept.vtpm_secret.unwrap();
        assert_eq!(secret.of_cloud, owner == "service");
        // 384 random bytes, as base64, sealed.
        let sealed = handed(&cloud, id).await.unwrap();
        assert_eq!(sealed.chars().filter(char::is_ascii).count(), sealed.len());
        assert!(sealed.len() >= 512, "{}", sealed.len());
        end(&cloud, id).await;
        finish(&cloud, id, VmState::Active).await;
        let gone = cloud
            .send("member", 90, "DELETE", &format!("/servers/{id}"), json!({}))
            .await;
        assert_eq!(gone.status, 204);
        // The cloud's own is deleted by the flow.
        assert_eq!(cloud.keys.stored().len(), left, "{flavor}");
    }
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_is_refused() {
    let cloud = with_flavors().await;
    let (status, _, words) = ask(&cloud, "member", json!({"flavorRef": "crb"})).await;
    assert_eq!(
        (status, &words[..]),
        (400, "TPM model CRB is only valid with TPM version 2.0.")
    );
    let quota = json!({"quota_set": {"instances": 2}});
    let path = format!("/os-quota-sets/{DEMO}");
    cloud.send("admin", 57, "PUT", &path, quota).await;
    let many = json!({"flavorRef": "user", "networks": "none", "min_count": 3, "max_count": 3});
    assert_eq!(ask(&cloud, "member", many).await.0, 403);
    assert_eq!(cloud.keys.stored(), []);
    // As many as the quota allows.
    let many = json!({"flavorRef": "user", "networks": "none", "min_count": 1, "max_count": 3});
    assert_eq!(ask(&cloud, "member", many).await.0, 202);
    assert_eq!(cloud.keys.stored().len(), 2);
    cloud.keys.set_down(true);
    let (status, _, words) = ask(
        &cloud,
        "other",
        json!({"flavorRef": "user", "networks": "none"}),
    )
    .await;
    assert_eq!(status, 503, "{words}");
    assert!(words.contains("the key manager"), "{words}");
    // Only servers with a TPM need it.
    let plain = json!({"networks": "none"});
    assert_eq!(ask(&cloud, "other", plain).await.0, 202);
}

#[tokio::test]
async fn what_starts_the_guest_needs_the_owners_token() {
    let cloud = with_flavors().await;
    let stopped = async |id: &str| {
        end(&cloud, id).await;
        finish(&cloud, id, VmState::Stopped).await;
    };
    let start = || json!({"os-start": null});
    let reboot = || json!({"reboot": {"type": "HARD"}});
    let secret = "Secret payload retrieval attempt not allowed";
    for (flavor, token, status, gets) in [
        ("user", "admin", 403, false),
        ("user", "member", 202, true),
        ("deployment", "admin", 202, true),
        // The host has kept it, but may have lost it.
        ("host", "admin", 202, false),
        ("host", "member", 202, true),
    ] {
        let id = running(&cloud, flavor).await;
        for action in [start(), reboot()] {
            stopped(&id).await;
            let (got, words) = act(&cloud, token, &id, action.clone()).await;
            let shown = format!("{flavor} {token} {action}: {words}");
            assert_eq!(got, status, "{shown}");
            if status == 202 {
                assert_eq!(handed(&cloud, &id).await.is_some(), gets, "{shown}");
            } else {
                assert!(words.contains(secret), "{shown}");
                assert_eq!(stored(&cloud, &id).await.task_id, None, "{shown}");
            }
        }
    }
    // What does not start it needs nothing, and a wrong state is told first.
    let id = running(&cloud, "user").await;
    cloud.keys.set_down(true);
    assert_eq!(act(&cloud, "member", &id, start()).await.0, 409);
    assert_eq!(act(&cloud, "member", &id, reboot()).await.0, 503);
    assert_eq!(
        act(&cloud, "member", &id, json!({"os-stop": null})).await.0,
        202
    );
    assert_eq!(handed(&cloud, &id).await, None);
}

#[tokio::test]
async fn what_servers_with_a_tpm_cannot_do() {
    let cloud = with_flavors().await;
    let live = || json!({"os-migrateLive": {"host": null, "block_migration": "auto"}});
    let image = super::harness::IMAGE;
    let table = |id: &str| {
        let told = |name: &str| {
            format!("Operation '{name}' not supported for vTPM-enabled instance ({id}).")
        };
        [
            (json!({"rescue": null}), told("rescue")),
            (json!({"shelve": null}), told("shelve")),
            (json!({"rebuild": {"imageRef": image}}), told("rebuild")),
            (json!({"evacuate": {}}), told("evacuate")),
            (live(), told("live-migration")),
        ]
    };
    for flavor in ["user", "deployment", "host"] {
        let id = running(&cloud, flavor).await;
        for (action, wanted) in table(&id) {
            let (status, words) = act(&cloud, "admin", &id, action.clone()).await;
            if flavor == "host" && action == live() {
                assert_eq!(status, 202, "{words}");
                assert_eq!(handed(&cloud, &id).await, None);
            } else {
                assert_eq!((status, words), (400, wanted), "{flavor} {action}");
            }
        }
    }
}

#[tokio::test]
async fn a_resize_keeps_the_secret_or_makes_one() {
    let cloud = with_flavors().await;
    let resize = |flavor: &str| json!({"resize": {"flavorRef": flavor}});
    let id = running(&cloud, "user").await;
    let secret = stored(&cloud, &id).await.kept.vtpm_secret;
    let refused = (
        400,
        "Resize between 'deployment' TPM secret security and other TPM secret security modes is not supported.".to_owned(),
    );
    assert_eq!(
        act(&cloud, "member", &id, resize("deployment")).await,
        refused
    );
    assert_eq!(act(&cloud, "admin", &id, resize("host")).await.0, 403);
    assert_eq!(act(&cloud, "member", &id, resize("host")).await.0, 202);
    assert!(handed(&cloud, &id).await.is_some());
    arrived(&cloud, &id).await;
    let revert = || json!({"revertResize": null});
    assert_eq!(act(&cloud, "admin", &id, revert()).await.0, 403);
    assert_eq!(act(&cloud, "member", &id, revert()).await.0, 202);
    assert!(handed(&cloud, &id).await.is_some());
    assert_eq!(stored(&cloud, &id).await.kept.vtpm_secret, secret);
    assert_eq!(cloud.keys.stored().len(), 1);

    let plain = running(&cloud, "1").await;
    assert_eq!(act(&cloud, "member", &plain, resize("user")).await.0, 202);
    assert!(handed(&cloud, &plain).await.is_some());
    assert!(stored(&cloud, &plain).await.kept.vtpm_secret.is_some());
    assert_eq!(cloud.keys.stored().len(), 2);
    // None is made for what is refused.
    let huge =
        json!({"flavor": {"name": "huge", "id": "huge", "ram": 512, "vcpus": 200, "disk": 1}});
    cloud.send("admin", 1, "POST", "/flavors", huge).await;
    let specs = json!({"extra_specs": {"hw:tpm_version": "2.0"}});
    let path = "/flavors/huge/os-extra_specs";
    cloud.send("admin", 1, "POST", path, specs).await;
    let other = running(&cloud, "1").await;
    assert_eq!(act(&cloud, "member", &other, resize("huge")).await.0, 403);
    assert_eq!(stored(&cloud, &other).await.kept.vtpm_secret, None);
    assert_eq!(cloud.keys.stored().len(), 2);
}

#[tokio::test]
async fn a_server_that_can_be_restored_keeps_its_secret() {
    let cloud = cloud_with(crate::Config {
        reclaim_seconds: 600,
        ..super::harness::config()
    })
    .await;
    flavors(&cloud).await;
    let id = running(&cloud, "user").await;
    let path = format!("/servers/{id}");
    cloud.send("member", 90, "DELETE", &path, json!({})).await;
    assert_eq!(cloud.keys.stored().len(), 1);
    end(&cloud, &id).await;
    finish(&cloud, &id, VmState::SoftDelete).await;
    let forced = act(&cloud, "admin", &id, json!({"forceDelete": null})).await;
    assert_eq!(forced.0, 202);
    // Who may not delete it leaves it to its owner.
    assert_eq!(cloud.keys.stored().len(), 1);
    // Deleted again by its owner, it goes.
    cloud.send("member", 90, "DELETE", &path, json!({})).await;
    assert_eq!(cloud.keys.stored().len(), 0);
}
