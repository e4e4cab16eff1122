//! Aggregates of hosts that have servers.

use super::harness::{Answer, Cloud};
use super::samples::facts;
use super::server_create::cloud;
use super::server_life::{finish, make};
use db::hosts::Ratios;
use serde_json::{Value, json};
use types::{NodeId, ServerId, Timestamp, VmState};

async fn host(cloud: &Cloud, name: &'static str) -> NodeId {
    let node = NodeId::random();
    let write = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let (now, host) = (Timestamp::now(), name.into());
        let mut facts = facts();
        facts.hypervisor_hostname = format!("{name}.node");
        db::hosts::beat(tx, &host, "nova-compute", None, now)?;
        db::hosts::put_node(tx, &host, node, &facts, &Ratios::default(), now)
    });
    write.await.unwrap();
    node
}

/// Aggregates by name and zone; their numbers count from one.
async fn aggregates(cloud: &Cloud, named: &[(&str, Option<&str>)]) {
    for (name, zone) in named {
        let body = json!({"aggregate": {"name": name, "availability_zone": zone}});
        let made = cloud.send("admin", 1, "POST", "/os-aggregates", body).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
}

async fn act(cloud: &Cloud, aggregate: u8, action: Value) -> Answer {
    let path = format!("/os-aggregates/{aggregate}/action");
    cloud.send("admin", 1, "POST", &path, action).await
}

async fn put(cloud: &Cloud, aggregate: u8, change: Value) -> Answer {
    let path = format!("/os-aggregates/{aggregate}");
    let body = json!({ "aggregate": change });
    cloud.send("admin", 1, "PUT", &path, body).await
}

fn zone(name: Value) -> Value {
    json!({"set_metadata": {"metadata": {"availability_zone": name}}})
}

fn refused(answer: &Answer, status: u16, words: &str) {
    let (_, message) = answer.fault();
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert!(message.contains(words), "{message}");
}

/// A server of the demo project on `h1`.
async fn server(cloud: &Cloud) -> String {
    let id = make(cloud, "member", "a").await;
    finish(cloud, &id, VmState::Active).await;
    id
}

#[tokio::test]
async fn hosts_with_servers_stay_in_their_zone() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    aggregates(
        &cloud,
        &[
            ("a", Some("z1")),
            ("b", Some("z2")),
            ("c", None),
            ("d", None),
        ],
    )
    .await;
    let add = json!({"add_host": {"host": "h1"}});
    let remove = json!({"remove_host": {"host": "h1"}});
    let id = server(&cloud).await;
    let moved = act(&cloud, 1, add.clone()).await;
    let words = "Cannot add host to aggregate 1. Reason: The host cannot be added to the aggregate as the \
                 availability zone of the host would change from 'None' to 'z1' but the host already has 1 instance(s).";
    refused(&moved, 409, words);
    let shown = cloud.get("admin", 1, "/os-aggregates/1").await.json();
    assert_eq!(shown["aggregate"]["hosts"], json!([]), "all or nothing");
    // Without a zone nothing changes.
    assert_eq!(act(&cloud, 3, add.clone()).await.status, 200);
    let words = "Reason: One or more hosts contain instances in this zone.";
    let set = act(&cloud, 3, zone("z1".into())).await;
    refused(
        &set,
        400,
        &format!("Cannot update metadata of aggregate 3. {words}"),
    );
    let set = put(&cloud, 3, json!({"availability_zone": "z1"})).await;
    refused(&set, 400, &format!("Cannot update aggregate 3. {words}"));
    assert_eq!(put(&cloud, 3, json!({"name": "other"})).await.status, 200);

    let path = format!("/servers/{id}");
    let gone: ServerId = id.parse().unwrap();
    let delete =
        move |tx: &mut sql::Tx<'_>| db::instances::mark_deleted(tx, gone, Timestamp::now());
    assert!(cloud.store.write(delete).await.unwrap(), "{path}");
    assert_eq!(act(&cloud, 3, zone("z1".into())).await.status, 200);
    assert_eq!(
        act(&cloud, 1, add.clone()).await.status,
        200,
        "the same zone"
    );
    server(&cloud).await;
    let again = act(&cloud, 3, zone("z1".into())).await;
    assert_eq!(again.status, 200, "no change: {}", again.text);
    // The other aggregate keeps it there.
    assert_eq!(act(&cloud, 3, remove.clone()).await.status, 200);
    let removed = act(&cloud, 1, remove).await;
    let words = "Cannot remove host from aggregate 1. Reason: The host cannot be removed from the aggregate as the \
                 availability zone of the host would change from 'z1' to 'None' but the host already has 1 instance(s).";
    refused(&removed, 409, words);
}

#[tokio::test]
async fn a_host_is_in_one_zone_and_a_zone_has_a_name() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    aggregates(&cloud, &[("a", Some("z1")), ("b", Some("z2")), ("c", None)]).await;
    let add = json!({"add_host": {"host": "h1"}});
    for aggregate in [1, 3] {
        assert_eq!(act(&cloud, aggregate, add.clone()).await.status, 200);
    }
    let words = "Reason: One or more hosts already in availability zone(s) ['z1'].";
    let added = act(&cloud, 2, add).await;
    refused(
        &added,
        409,
        &format!("Cannot add host to aggregate 2. {words}"),
    );
    let set = act(&cloud, 3, zone("z2".into())).await;
    refused(
        &set,
        400,
        &format!("Cannot update metadata of aggregate 3. {words}"),
    );
    let set = put(&cloud, 3, json!({"availability_zone": "z2"})).await;
    refused(&set, 400, &format!("Cannot update aggregate 3. {words}"));

    let words = "Aggregate a does not support empty named availability zone";
    for name in [Value::Null, "".into()] {
        refused(&act(&cloud, 1, zone(name)).await, 400, words);
    }
    let set = put(&cloud, 1, json!({"availability_zone": null})).await;
    refused(&set, 400, words);
    let gone = cloud
        .send("admin", 1, "DELETE", "/os-aggregates/1", Value::Null)
        .await;
    let words = "Cannot remove host from aggregate 1. Reason: Host aggregate is not empty.";
    refused(&gone, 400, words);
}
