//! What an owner may edit of a server, at its creation, with PUT and by a rebuild.

use super::harness::{Cloud, IMAGE};
use super::server_create::{body, cloud};
use super::server_life::finish;
use serde_json::{Value, json};
use types::{ServerId, VmState};

async fn made(cloud: &Cloud, change: Value) -> String {
    let answer = cloud
        .send("member", 40, "POST", "/servers", body(change))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let id = answer.json()["server"]["id"].as_str().unwrap().to_owned();
    finish(cloud, &id, VmState::Active).await;
    id
}

async fn put(cloud: &Cloud, version: u16, id: &str, change: Value) -> super::harness::Answer {
    let path = format!("/servers/{id}");
    cloud
        .send("member", version, "PUT", &path, json!({ "server": change }))
        .await
}

#[tokio::test]
async fn disk_config_is_kept() {
    let cloud = cloud().await;
    // The image of the tests says `auto_disk_config`, which counts where the request says nothing.
    for (wish, shown) in [
        (None, "AUTO"),
        (Some("AUTO"), "AUTO"),
        (Some("MANUAL"), "MANUAL"),
    ] {
        let mut change = json!({ "networks": "none" });
        if let Some(wish) = wish {
            change["OS-DCF:diskConfig"] = wish.into();
        }
        let id = made(&cloud, change).await;
        let seen = cloud
            .get("member", 40, &format!("/servers/{id}"))
            .await
            .json();
        assert_eq!(seen["server"]["OS-DCF:diskConfig"], shown);
    }
    let id = made(&cloud, json!({ "networks": "none" })).await;
    let manual = put(&cloud, 40, &id, json!({ "OS-DCF:diskConfig": "MANUAL" })).await;
    assert_eq!(manual.json()["server"]["OS-DCF:diskConfig"], "MANUAL");
    let rebuild = json!({ "rebuild": { "imageRef": IMAGE, "OS-DCF:diskConfig": "AUTO" } });
    let answer = cloud
        .send(
            "member",
            40,
            "POST",
            &format!("/servers/{id}/action"),
            rebuild,
        )
        .await;
    assert_eq!(
        answer.json()["server"]["OS-DCF:diskConfig"],
        "AUTO",
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn addresses_are_shown_in_one_form() {
    let cloud = cloud().await;
    let long = "0000:0000:0000:0000:0000:babe:220.12.22.2";
    let id = made(&cloud, json!({ "networks": "none", "accessIPv6": long })).await;
    let seen = cloud
        .get("member", 40, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(seen["server"]["accessIPv6"], "::babe:dc0c:1602");
    let changed = put(&cloud, 40, &id, json!({ "accessIPv6": "2001:DB8:0::1" })).await;
    assert_eq!(changed.json()["server"]["accessIPv6"], "2001:db8::1");
}

#[tokio::test]
async fn the_pinned_zone_changes_without_a_move() {
    let cloud = cloud().await;
    let id = made(&cloud, json!({ "networks": "none" })).await;
    let pin = |zone: Value| json!({ "pinned_availability_zone": zone });
    let pinned = |answer: &super::harness::Answer| {
        answer.json()["server"]["pinned_availability_zone"].clone()
    };
    let here = put(&cloud, 104, &id, pin(json!("nova"))).await;
    assert_eq!(
        (here.status.as_u16(), pinned(&here)),
        (200, json!("nova")),
        "{}",
        here.text
    );
    for _ in 0..2 {
        let free = put(&cloud, 104, &id, pin(Value::Null)).await;
        assert_eq!((free.status.as_u16(), pinned(&free)), (200, Value::Null));
    }
    assert_eq!(
        put(&cloud, 104, &id, pin(json!("elsewhere"))).await.status,
        409
    );
    assert_eq!(put(&cloud, 103, &id, pin(Value::Null)).await.status, 400);
}

#[tokio::test]
async fn a_rebuild_brings_other_files() {
    let cloud = cloud().await;
    let files = |path: &str| json!([{ "path": path, "contents": "aGFsbG8=" }]);
    let id = made(
        &cloud,
        json!({ "networks": "none", "personality": files("/a") }),
    )
    .await;
    let server: ServerId = id.parse().unwrap();
    let stored = async || {
        let sealed = cloud
            .store
            .read(move |tx| db::injected_files::get(tx, server))
            .await
            .unwrap();
        // The sealing of the tests turns texts around.
        sealed.map(|sealed| sealed.chars().rev().collect::<String>())
    };
    assert!(stored().await.unwrap().contains("/a"));
    let action = format!("/servers/{id}/action");
    let rebuild = |files: Value| json!({ "rebuild": { "imageRef": IMAGE, "personality": files } });
    let many: Vec<Value> = (0..6)
        .map(|n| json!({ "path": format!("/{n}"), "contents": "" }))
        .collect();
    let refused = cloud
        .send("member", 40, "POST", &action, rebuild(json!(many)))
        .await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let taken = cloud
        .send("member", 40, "POST", &action, rebuild(files("/b")))
        .await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let kept = stored().await.unwrap();
    assert!(kept.contains("/b") && !kept.contains("/a"), "{kept}");
}

/// They would not reach the guest without one.
#[tokio::test]
async fn files_bring_a_config_drive() {
    let cloud = cloud().await;
    let files = json!([{ "path": "/a", "contents": "aGFsbG8=" }]);
    let drive = async |id: &str| {
        let shown = cloud.get("member", 40, &format!("/servers/{id}")).await;
        shown.json()["server"]["config_drive"].clone()
    };
    let new = json!({ "networks": "none", "personality": files });
    assert_eq!(drive(&made(&cloud, new).await).await, "True");
    let id = made(&cloud, json!({ "networks": "none" })).await;
    assert_eq!(drive(&id).await, "");
    let rebuild = json!({ "rebuild": { "imageRef": IMAGE, "personality": files } });
    let action = format!("/servers/{id}/action");
    let taken = cloud.send("member", 40, "POST", &action, rebuild).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    assert_eq!(drive(&id).await, "True");
}

#[tokio::test]
async fn certificates_are_kept_and_shown() {
    let cloud = cloud().await;
    let ids = json!(["b8d0a7a5-1d8c-4d6e-9d0f-000000000001", "trusted"]);
    let new = body(json!({ "networks": "none", "trusted_image_certificates": ids }));
    let made = cloud.send("member", 63, "POST", "/servers", new).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
    let path = format!("/servers/{id}");
    let shown = async |version| {
        let server = cloud.get("member", version, &path).await.json()["server"].clone();
        server.get("trusted_image_certificates").cloned()
    };
    assert_eq!(shown(63).await, Some(ids));
    assert_eq!(shown(62).await, None);
    let action = format!("{path}/action");
    for (rebuild, kept) in [
        (
            json!({ "imageRef": IMAGE, "trusted_image_certificates": ["other"] }),
            json!(["other"]),
        ),
        (json!({ "imageRef": IMAGE }), json!(["other"])),
        (
            json!({ "imageRef": IMAGE, "trusted_image_certificates": null }),
            Value::Null,
        ),
    ] {
        finish(&cloud, &id, VmState::Active).await;
        let taken = cloud
            .send("member", 63, "POST", &action, json!({ "rebuild": rebuild }))
            .await;
        assert_eq!(taken.status, 202, "{}", taken.text);
        assert_eq!(taken.json()["server"]["trusted_image_certificates"], kept);
        assert_eq!(shown(104).await, Some(kept));
    }
    let device = json!([{ "boot_index": 0, "uuid": IMAGE, "source_type": "image", "destination_type": "volume", "volume_size": 1 }]);
    let volume = json!({ "server": { "name": "v", "flavorRef": "1", "networks": "none", "block_device_mapping_v2": device,
        "trusted_image_certificates": ["a"] } });
    let refused = cloud.send("member", 63, "POST", "/servers", volume).await;
    assert_eq!(
        (refused.status.as_u16(), refused.fault().1.as_str()),
        (
            400,
            "Image certificate validation is not supported when booting from volume"
        )
    );
}
