//! Who may lock and unlock a server, and what a lock says (Nova's `compute.api`, `lock` and `is_expected_locked_by`).

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::{finish, make};
use serde_json::{Value, json};
use types::VmState;

/// A server of the demo project that runs.
struct Case {
    cloud: Cloud,
    id: String,
}

impl Case {
    async fn new() -> Self {
        let cloud = cloud().await;
        let id = make(&cloud, "member", "a").await;
        finish(&cloud, &id, VmState::Active).await;
        Self { cloud, id }
    }

    async fn act(&self, token: &str, version: u16, action: Value) -> u16 {
        let path = format!("/servers/{}/action", self.id);
        let answer = self.cloud.send(token, version, "POST", &path, action).await;
        answer.status.as_u16()
    }

    async fn lock(&self, token: &str, version: u16, reason: Option<&str>) {
        let wish = reason.map(|reason| json!({ "locked_reason": reason }));
        let status = self.act(token, version, json!({ "lock": wish })).await;
        assert_eq!(status, 202, "{token} {reason:?}");
    }

    async fn unlock(&self, token: &str) -> u16 {
        self.act(token, 73, json!({ "unlock": null })).await
    }

    /// Whether it is locked, and why.
    async fn shown(&self) -> Value {
        let path = format!("/servers/{}", self.id);
        let server = self.cloud.get("member", 73, &path).await.json()["server"].clone();
        json!([server["locked"], server["locked_reason"]])
    }

    /// How often somebody locked it, as the record says.
    async fn times(&self) -> usize {
        let path = format!("/servers/{}/os-instance-actions", self.id);
        let list = self.cloud.get("member", 73, &path).await.json();
        let list = list["instanceActions"].as_array().unwrap().clone();
        list.iter().filter(|one| one["action"] == "lock").count()
    }
}

#[tokio::test]
async fn an_administrators_lock_does_not_become_the_owners() {
    let case = Case::new().await;
    case.lock("admin", 73, Some("why")).await;
    assert_eq!(case.shown().await, json!([true, "why"]));
    for (token, reason) in [
        ("member", None),
        ("member", Some("mine")),
        ("manager", None),
    ] {
        case.lock(token, 73, reason).await;
        assert_eq!(case.shown().await, json!([true, "why"]), "{token}");
        assert_eq!(case.unlock(token).await, 403, "{token}");
    }
    assert_eq!(
        case.act("member", 73, json!({ "os-stop": null })).await,
        409
    );
    assert_eq!(case.times().await, 1);
    assert_eq!(case.unlock("admin").await, 202);
    assert_eq!(case.shown().await, json!([false, null]));
}

#[tokio::test]
async fn what_is_done_at_once_is_shown_as_done() {
    let case = Case::new().await;
    case.lock("member", 73, None).await;
    assert_eq!(case.unlock("member").await, 202);
    let reset = json!({ "os-resetState": { "state": "error" } });
    assert_eq!(case.act("admin", 73, reset).await, 202);
    let path = format!("/servers/{}/os-instance-actions", case.id);
    let list = case.cloud.get("member", 51, &path).await.json();
    let mut shown = Vec::new();
    for action in list["instanceActions"].as_array().unwrap() {
        let request = action["request_id"].as_str().unwrap();
        let path = format!("{path}/{request}");
        let one = case.cloud.get("member", 51, &path).await.json();
        for event in one["instanceAction"]["events"].as_array().unwrap() {
            shown.push(json!([event["event"], event["result"]]));
        }
    }
    let wanted = [
        json!(["api_unlock", "Success"]),
        json!(["api_lock", "Success"]),
    ];
    assert_eq!(shown, wanted);
    let told = case
        .cloud
        .store
        .read(|tx| db::outbox::of_project_after(tx, super::harness::DEMO, 0, 100));
    let told: Result<Vec<db::outbox::Entry>, sql::Error> = told.await;
    let ended: Vec<String> = told
        .unwrap()
        .into_iter()
        .filter(|one| one.kind == db::outbox::Kind::ActionEnd)
        .filter_map(|one| one.action)
        .collect();
    assert_eq!(ended, ["lock", "unlock", "resetState"]);
}

#[tokio::test]
async fn an_owners_lock_can_become_an_administrators() {
    let case = Case::new().await;
    case.lock("member", 73, Some("mine")).await;
    case.lock("member", 73, Some("other")).await;
    assert_eq!(case.shown().await, json!([true, "mine"]));
    assert_eq!(case.times().await, 1);
    // Without a reason, or where the version knows none, the one that is there stays.
    case.lock("admin", 73, None).await;
    case.lock("admin", 72, Some("unknown")).await;
    assert_eq!(case.shown().await, json!([true, "mine"]));
    assert_eq!(case.times().await, 3);
    assert_eq!(case.unlock("member").await, 403);
    case.lock("admin", 73, Some("ours")).await;
    assert_eq!(case.shown().await, json!([true, "ours"]));
    assert_eq!(case.unlock("admin").await, 202);
    // What the owner locks the owner unlocks.
    case.lock("member", 73, None).await;
    assert_eq!(case.shown().await, json!([true, null]));
    assert_eq!(case.unlock("member").await, 202);
}

#[tokio::test]
async fn a_locked_server_can_be_renamed() {
    let case = Case::new().await;
    let path = format!("/servers/{}", case.id);
    let name = json!({ "server": { "name": "b" } });
    for token in ["member", "admin"] {
        case.lock(token, 73, None).await;
        let named = case
            .cloud
            .send("member", 73, "PUT", &path, name.clone())
            .await;
        assert_eq!(named.status, 200, "{}", named.text);
        assert_eq!(named.json()["server"]["name"], "b");
    }
}
