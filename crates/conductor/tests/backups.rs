#![allow(clippy::unwrap_used)]
//! Stories of backups: which of them are too old, and whose.

use serde_json::json;
use testkit::{Cluster, Options, PROJECT};
use types::{ServerId, VmState};

/// A backup of the server as it would be there, of this project.
fn backup_of(cluster: &Cluster, server: ServerId, owner: &str) -> String {
    let properties = json!({ "instance_uuid": server.to_string(), "image_type": "backup",
        "backup_type": "daily", "owner": owner });
    let id = cluster.images.make(&properties);
    cluster.images.long_ago(&id, "active");
    id
}

#[tokio::test]
async fn images_of_other_projects_are_neither_counted_nor_deleted() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    // A task of an older release does not say whose backups it means.
    for says_owner in [true, false] {
        let foreign = backup_of(&cluster, server, "another");
        let old = backup_of(&cluster, server, PROJECT);
        let mut state = cluster.first_state("backup", server);
        let new = state["image"].as_str().unwrap().to_owned();
        if !says_owner {
            state["rotation"].as_object_mut().unwrap().remove("owner");
        }
        // The newest, so that one which counts it keeps it instead of the server's own.
        let newest = backup_of(&cluster, server, "another");
        cluster.act(server, "backup", state).await;
        cluster.idle().await;
        assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
        let there = cluster.images.of_type("backup");
        assert!(!there.contains(&old), "it is too old: {there:?}");
        for kept in [&foreign, &new, &newest] {
            assert!(there.contains(kept), "{says_owner} {there:?}");
            cluster.images.lose(kept);
        }
        assert_eq!(cluster.images.all(), []);
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
