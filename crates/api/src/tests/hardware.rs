//! Flavors and images that ask for hardware that no host has: refused where they cannot be meant, and else not placed, with the
//! reason. Every combination is in the scheduler's own tests; here is where it is looked at.

use super::harness::{Answer, Cloud, IMAGE, UEFI};
use super::samples::facts;
use super::server_create::{body, cloud_with};
use super::server_life::{finish, make};
use db::hosts::Ratios;
use serde_json::{Value, json};
use types::{HostName, NodeId, Timestamp, VmState};

/// A cloud with a host that has room.
async fn roomy() -> Cloud {
    let cloud = cloud_with(super::harness::config()).await;
    let host = cloud.store.write(|tx| -> Result<(), sql::Error> {
        let (now, h1) = (Timestamp::now(), HostName::from("h1"));
        db::hosts::beat(tx, &h1, "nova-compute", None, now)?;
        let facts = facts();
        db::hosts::put_node(tx, &h1, NodeId::random(), &facts, &Ratios::default(), now)
    });
    host.await.unwrap();
    cloud
}

async fn flavor(cloud: &Cloud, id: &str, specs: Value) {
    let wanted = json!({ "flavor": { "name": id, "id": id, "ram": 64, "vcpus": 2, "disk": 1 } });
    let made = cloud.send("admin", 1, "POST", "/flavors", wanted).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let path = format!("/flavors/{id}/os-extra_specs");
    let specs = json!({ "extra_specs": specs });
    let made = cloud.send("admin", 1, "POST", &path, specs).await;
    assert_eq!(made.status, 200, "{}", made.text);
}

async fn create(cloud: &Cloud, query: &str, flavor: &str, image: &str) -> Answer {
    let new = body(json!({ "flavorRef": flavor, "imageRef": image, "networks": "none" }));
    cloud
        .send("member", 74, "POST", &format!("/servers{query}"), new)
        .await
}

fn refused(answer: &Answer, words: &str) {
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.fault().1.starts_with(words), "{}", answer.text);
}

fn placed(answer: &Answer) -> (bool, String) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let said = &answer.json()["dry_run"];
    let message = said["message"].as_str().unwrap_or_default().to_owned();
    (said["would_be_placed"] == true, message)
}

#[tokio::test]
async fn new_servers() {
    let cloud = roomy().await;
    flavor(&cloud, "own", json!({ "hw:cpu_policy": "dedicated" })).await;
    flavor(&cloud, "plain", json!({ "hw:cpu_policy": "shared" })).await;
    flavor(&cloud, "gpu", json!({ "pci_passthrough:alias": "gpu:1" })).await;
    flavor(&cloud, "nodes", json!({ "hw:numa_nodes": "0" })).await;
    let dry = "?dry_run=true";
    for query in [dry, ""] {
        let words = "PCI alias gpu is not defined";
        refused(&create(&cloud, query, "gpu", IMAGE).await, words);
        let words = "The property 'numa_nodes' cannot be '0'.";
        refused(&create(&cloud, query, "nodes", IMAGE).await, words);
    }
    assert_eq!(
        placed(&create(&cloud, dry, "plain", IMAGE).await),
        (true, String::new())
    );
    for (flavor, image, spec) in [
        ("own", IMAGE, "hw:cpu_policy=dedicated"),
        ("plain", UEFI, "hw_firmware_type=uefi"),
    ] {
        let (fits, words) = placed(&create(&cloud, dry, flavor, image).await);
        assert!(
            !fits && words.starts_with("No valid host was found."),
            "{words}"
        );
        assert!(
            words.contains("1 without ") && words.contains(spec),
            "{words}"
        );
        // What can be meant is taken in; that no host has it is the scheduler's word.
        assert_eq!(create(&cloud, "", flavor, image).await.status, 202);
    }
}

#[tokio::test]
async fn resizes_and_rebuilds() {
    let cloud = roomy().await;
    flavor(&cloud, "gpu", json!({ "pci_passthrough:alias": "gpu:1" })).await;
    flavor(
        &cloud,
        "real",
        json!({ "hw:cpu_realtime": "yes", "hw:cpu_realtime_mask": "^0" }),
    )
    .await;
    flavor(&cloud, "own", json!({ "hw:cpu_policy": "dedicated" })).await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let action = format!("/servers/{id}/action");
    let act = async |wanted: Value| cloud.send("member", 40, "POST", &action, wanted).await;
    let resize = |flavor: &str| json!({ "resize": { "flavorRef": flavor } });
    refused(&act(resize("gpu")).await, "PCI alias gpu is not defined");
    refused(
        &act(resize("real")).await,
        "Cannot set realtime policy in a non dedicated",
    );
    let rebuild = |image: &str| json!({ "rebuild": { "imageRef": image } });
    let words =
        "No valid host was found. 1 host considered: 1 without UEFI (hw_firmware_type=uefi)";
    refused(&act(rebuild(UEFI)).await, words);
    let server = cloud.get("member", 40, &format!("/servers/{id}")).await;
    assert_eq!(server.json()["server"]["status"], "ACTIVE");
    assert_eq!(act(rebuild(IMAGE)).await.status, 202);
    finish(&cloud, &id, VmState::Active).await;
    assert_eq!(
        act(resize("own")).await.status,
        202,
        "the scheduler says no"
    );
}
