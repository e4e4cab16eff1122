//! Attachments, the newer and the older way.

use super::*;

async fn attach(cloud: &Cloud, who: &str, volume: &str, server: &str) -> Value {
    let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": server}});
    let made = cloud.call(who, "POST", "/attachments", body).await.is(200);
    made["attachment"].clone()
}

fn server() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn connector(host: &str) -> Value {
    json!({"attachment": {"connector": {"host": host, "ip": "10.0.0.1", "mode": "rw", "mountpoint": "/dev/vdb"}}})
}

#[tokio::test]
async fn a_volume_is_reserved_connected_completed_and_released() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let server = server();
    let attachment = attach(&cloud, SERVICE, &volume, &server).await;
    assert_eq!(
        (&attachment["status"], &attachment["connection_info"]),
        (&json!("reserved"), &json!({}))
    );
    assert_eq!(cloud.status("volume", &volume).await, "reserved");
    let id = attachment["id"].as_str().unwrap();
    let path = format!("/attachments/{id}");
    let twice =
        json!({"attachment": {"volume_uuid": volume, "instance_uuid": super::attaching::server()}});
    cloud
        .call(ALICE, "POST", "/attachments", twice)
        .await
        .is(400);
    cloud
        .delete(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(400);
    let updated = cloud
        .call(SERVICE, "PUT", &path, connector("h1"))
        .await
        .is(200);
    let data = &updated["attachment"]["connection_info"]["data"];
    assert_eq!(
        updated["attachment"]["connection_info"]["driver_volume_type"],
        "nbd"
    );
    assert_eq!(
        (&data["access_mode"], &data["host"], &data["port"]),
        (&json!("rw"), &json!("127.0.0.1"), &json!(10809))
    );
    assert_eq!(data["export"].as_str().unwrap().len(), 32);
    assert_eq!(cloud.status("volume", &volume).await, "attaching");
    let again = cloud
        .call(SERVICE, "PUT", &path, connector("h1"))
        .await
        .is(200);
    assert_eq!(
        again["attachment"]["connection_info"]["data"]["export"],
        data["export"]
    );
    let complete = json!({"os-complete": {}});
    cloud
        .call(
            "service:admin,service@3.43",
            "POST",
            &format!("{path}/action"),
            complete.clone(),
        )
        .await
        .is(404);
    cloud
        .call(SERVICE, "POST", &format!("{path}/action"), complete)
        .await
        .is(204);
    let shown = cloud
        .get(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(200);
    let shown = &shown["volume"];
    assert_eq!(
        (&shown["status"], &shown["attachments"][0]["server_id"]),
        (&json!("in-use"), &json!(server))
    );
    assert_eq!(shown["attachments"][0]["device"], "/dev/vdb");
    assert_eq!(shown["attachments"][0]["host_name"], Value::Null);
    cloud.get(BOB, &path).await.is(404);
    // Only the compute service takes a disk away from a server.
    cloud.delete(ALICE, &path).await.is(409);
    for connector in [json!({}), json!({"host": "h1"})] {
        let body = json!({"connector": connector});
        cloud
            .act(ALICE, &volume, "os-terminate_connection", body)
            .await
            .is(409);
    }
    cloud
        .act(ALICE, &volume, "os-detach", json!({}))
        .await
        .is(409);
    let other = cloud.volume(ALICE, json!({})).await;
    for (named, code) in [(id, 400), (&*super::attaching::server(), 404)] {
        let body = json!({"attachment_id": named});
        cloud.act(ALICE, &other, "os-detach", body).await.is(code);
    }
    assert_eq!(cloud.status("volume", &volume).await, "in-use");
    let rest = cloud.delete(SERVICE, &path).await.is(200);
    assert_eq!(rest["attachments"], json!([]));
    assert_eq!(cloud.status("volume", &volume).await, "available");
    cloud.get(ALICE, &path).await.is(404);
}

#[tokio::test]
async fn reservations_go_without_the_compute_service_and_restarts_keep_exports() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let reserved = attach(&cloud, ALICE, &volume, &server()).await;
    let path = format!("/attachments/{}", reserved["id"].as_str().unwrap());
    cloud.delete(ALICE, &path).await.is(200);
    let body = json!({"attachment": {
        "volume_uuid": volume, "instance_uuid": server(), "mode": "ro", "connector": {"host": "h"},
    }});
    let made = cloud
        .call(ALICE, "POST", "/attachments", body)
        .await
        .is(200);
    assert_eq!(
        made["attachment"]["connection_info"]["data"]["access_mode"],
        "ro"
    );
    let path = format!(
        "/attachments/{}",
        made["attachment"]["id"].as_str().unwrap()
    );
    let later = cloud.restarted(None).await;
    let shown = later.get(ALICE, &path).await.is(200);
    assert_eq!(
        shown["attachment"]["connection_info"],
        made["attachment"]["connection_info"]
    );
}

#[tokio::test]
async fn several_servers_share_a_multiattach_volume() {
    let cloud = Cloud::new().await;
    let volume = cloud
        .volume(ALICE, json!({"volume_type": "multiattach", "size": 1}))
        .await;
    let mut exports = Vec::new();
    let mut paths = Vec::new();
    for host in ["h1", "h2"] {
        let attachment = attach(&cloud, SERVICE, &volume, &server()).await;
        let path = format!("/attachments/{}", attachment["id"].as_str().unwrap());
        let updated = cloud
            .call(SERVICE, "PUT", &path, connector(host))
            .await
            .is(200);
        exports.push(updated["attachment"]["connection_info"]["data"]["export"].clone());
        let complete = json!({"os-complete": {}});
        cloud
            .call(SERVICE, "POST", &format!("{path}/action"), complete)
            .await
            .is(204);
        assert_eq!(cloud.status("volume", &volume).await, "in-use");
        paths.push(path);
    }
    assert_ne!(exports[0], exports[1]);
    let rest = cloud.delete(SERVICE, &paths[0]).await.is(200);
    assert_eq!(rest["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(cloud.status("volume", &volume).await, "in-use");
    cloud.delete(SERVICE, &paths[1]).await.is(200);
    assert_eq!(cloud.status("volume", &volume).await, "available");
    // An ordinary volume may only be with the same server twice: on its way to another host.
    let volume = cloud.volume(ALICE, json!({})).await;
    let mover = server();
    attach(&cloud, SERVICE, &volume, &mover).await;
    attach(&cloud, SERVICE, &volume, &mover).await;
    let stranger = json!({"attachment": {"volume_uuid": volume, "instance_uuid": server()}});
    cloud
        .call(SERVICE, "POST", "/attachments", stranger)
        .await
        .is(400);
}

#[tokio::test]
async fn attachments_are_listed_and_checked() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let holder = server();
    attach(&cloud, ALICE, &volume, &holder).await;
    let count = |body: &Value| body["attachments"].as_array().unwrap().len();
    assert_eq!(
        count(
            &cloud
                .get(ALICE, &format!("/attachments?volume_id={volume}"))
                .await
                .is(200)
        ),
        1
    );
    assert_eq!(
        count(
            &cloud
                .get(ALICE, "/attachments?status=attached")
                .await
                .is(200)
        ),
        0
    );
    assert_eq!(count(&cloud.get(BOB, "/attachments").await.is(200)), 0);
    assert_eq!(
        count(
            &cloud
                .get(ADMIN, "/attachments/detail?all_tenants=1")
                .await
                .is(200)
        ),
        1
    );
    for (server, found) in [(&holder, 1), (&server(), 0)] {
        let path = format!("/attachments/detail?all_tenants=1&instance_id={server}");
        assert_eq!(count(&cloud.get(ADMIN, &path).await.is(200)), found);
        assert_eq!(count(&cloud.get(BOB, &path).await.is(200)), 0);
    }
    for body in [
        json!({"attachment": {"volume_uuid": "x"}}),
        json!({"attachment": {"instance_uuid": server()}}),
        json!({"attachment": {"volume_uuid": volume, "mode": "rwx"}}),
        json!({"attachment": {"volume_uuid": volume, "extra": 1}}),
        json!({}),
    ] {
        cloud
            .call(ALICE, "POST", "/attachments", body)
            .await
            .is(400);
    }
    let absent = json!({"attachment": {"volume_uuid": server()}});
    cloud
        .call(ALICE, "POST", "/attachments", absent)
        .await
        .is(404);
    let body = json!({"attachment": {"volume_uuid": volume}});
    cloud.call(BOB, "POST", "/attachments", body).await.is(404);
}

#[tokio::test]
async fn the_older_way() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let connector = || json!({"connector": {"host": "h1"}});
    cloud
        .act(ALICE, &volume, "os-reserve", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "attaching");
    cloud
        .act(ALICE, &volume, "os-reserve", json!({}))
        .await
        .is(400);
    cloud
        .act(ALICE, &volume, "os-unreserve", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "available");
    cloud
        .act(ALICE, &volume, "os-reserve", json!({}))
        .await
        .is(202);
    let info = cloud
        .act(ALICE, &volume, "os-initialize_connection", connector())
        .await
        .is(200);
    assert_eq!(info["connection_info"]["driver_volume_type"], "nbd");
    let server = server();
    let attach = json!({"instance_uuid": server, "mountpoint": "/dev/vdc"});
    cloud
        .act(
            ALICE,
            &volume,
            "os-attach",
            json!({"mountpoint": "/dev/vdc"}),
        )
        .await
        .is(400);
    cloud.act(ALICE, &volume, "os-attach", attach).await.is(202);
    let shown = cloud
        .get(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(200);
    assert_eq!(shown["volume"]["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(
        shown["volume"]["attachments"][0]["server_id"],
        json!(server)
    );
    cloud
        .act(ALICE, &volume, "os-begin_detaching", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "detaching");
    cloud
        .act(ALICE, &volume, "os-roll_detaching", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "in-use");
    cloud
        .act(ALICE, &volume, "os-begin_detaching", json!({}))
        .await
        .is(202);
    cloud
        .act(SERVICE, &volume, "os-terminate_connection", connector())
        .await
        .is(202);
    cloud
        .act(ALICE, &volume, "os-detach", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "available");
}

/// As compute does it for a server whose volume becomes another one.
#[tokio::test]
async fn a_volume_becomes_another_one() {
    let cloud = Cloud::new().await;
    let (old, new) = (
        cloud.volume(ALICE, json!({})).await,
        cloud.volume(ALICE, json!({})).await,
    );
    let server = server();
    let mut attachments = Vec::new();
    for volume in [&old, &new] {
        let made = attach(&cloud, SERVICE, volume, &server).await;
        let id = made["id"].as_str().unwrap().to_owned();
        let path = format!("/attachments/{id}");
        cloud
            .call(SERVICE, "PUT", &path, connector("h"))
            .await
            .is(200);
        attachments.push(id);
    }
    let complete = async |id: &str| {
        let path = format!("/attachments/{id}/action");
        let body = json!({"os-complete": {}});
        cloud.call(SERVICE, "POST", &path, body).await.is(204);
    };
    complete(attachments[0].as_str()).await;
    let moves = json!({"migration_status": "migrating"});
    cloud
        .act(ADMIN, &old, "os-reset_status", moves)
        .await
        .is(202);
    // Nobody sees the move.
    cloud
        .act(SERVICE, &old, "os-begin_detaching", json!({}))
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &old).await, "in-use");
    complete(attachments[1].as_str()).await;
    cloud
        .delete(SERVICE, &format!("/attachments/{}", attachments[0]))
        .await
        .is(200);
    let done = cloud
        .act(
            ADMIN,
            &old,
            "os-migrate_volume_completion",
            json!({"new_volume": new, "error": false}),
        )
        .await
        .is(200);
    assert_eq!(done["save_volume_id"], json!(new));
    assert_eq!(cloud.status("volume", &old).await, "available");
    assert_eq!(cloud.status("volume", &new).await, "in-use");
    let shown = cloud.get(ADMIN, &format!("/volumes/{old}")).await.is(200);
    assert_eq!(shown["volume"]["migration_status"], json!("success"));
}

#[tokio::test]
async fn read_only_volumes_and_statuses_set_by_hand() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let flag = json!({"readonly": true});
    cloud
        .act(ALICE, &volume, "os-update_readonly_flag", flag)
        .await
        .is(202);
    let shown = cloud
        .get(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(200);
    assert_eq!(shown["volume"]["metadata"]["readonly"], "True");
    let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": server(), "connector": {"host": "h"}}});
    let made = cloud
        .call(SERVICE, "POST", "/attachments", body)
        .await
        .is(200);
    assert_eq!(made["attachment"]["attach_mode"], "ro");
    cloud
        .act(
            ALICE,
            &volume,
            "os-reset_status",
            json!({"status": "error"}),
        )
        .await
        .is(403);
    for (body, status) in [
        (json!({}), 400),
        (json!({"status": "sleepy"}), 400),
        (json!({"attach_status": "maybe"}), 400),
        (json!({"status": "error"}), 202),
        (
            json!({"status": "available", "attach_status": "detached"}),
            202,
        ),
    ] {
        cloud
            .act(ADMIN, &volume, "os-reset_status", body)
            .await
            .is(status);
    }
    assert_eq!(cloud.status("volume", &volume).await, "available");
    assert_eq!(
        cloud.get(ADMIN, "/attachments?all_tenants=1").await.is(200)["attachments"],
        json!([])
    );
    cloud
        .act(ALICE, &volume, "os-dance", json!({}))
        .await
        .is(400);
    let attach = json!({"instance_uuid": server(), "mountpoint": "/dev/vdc", "mode": "ro"});
    cloud.act(ALICE, &volume, "os-attach", attach).await.is(202);
    cloud
        .act(
            ADMIN,
            &volume,
            "os-reset_status",
            json!({"status": "error"}),
        )
        .await
        .is(202);
    cloud
        .act(ALICE, &volume, "os-force_detach", json!({}))
        .await
        .is(403);
    cloud
        .act(
            ADMIN,
            &volume,
            "os-force_detach",
            json!({"connector": null}),
        )
        .await
        .is(202);
    assert_eq!(cloud.status("volume", &volume).await, "available");
}

#[tokio::test]
async fn a_shared_volume_shows_that_one_of_its_servers_gives_it_back() {
    let cloud = Cloud::new().await;
    let volume = cloud
        .volume(ALICE, json!({"volume_type": "multiattach"}))
        .await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": server(), "connector": {"host": "h"}}});
        let made = cloud
            .call(SERVICE, "POST", "/attachments", body)
            .await
            .is(200);
        ids.push(made["attachment"]["id"].as_str().unwrap().to_owned());
        let complete = json!({"os-complete": null});
        let path = format!("/attachments/{}/action", ids[ids.len() - 1]);
        cloud.call(SERVICE, "POST", &path, complete).await.is(204);
    }
    assert_eq!(cloud.status("volume", &volume).await, "in-use");
    for left in [1, 0] {
        cloud
            .act(ALICE, &volume, "os-begin_detaching", json!({}))
            .await
            .is(202);
        assert_eq!(cloud.status("volume", &volume).await, "detaching");
        cloud
            .act(ALICE, &volume, "os-begin_detaching", json!({}))
            .await
            .is(400);
        let path = format!("/attachments/{}", ids[1 - left]);
        cloud
            .call(SERVICE, "DELETE", &path, Value::Null)
            .await
            .is(200);
        let now = if left > 0 { "in-use" } else { "available" };
        assert_eq!(cloud.status("volume", &volume).await, now);
    }
}
