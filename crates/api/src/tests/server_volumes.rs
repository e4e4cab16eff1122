//! Volumes of servers: what is taken, what is refused, and how each version shows it.

use super::harness::{Answer, Cloud};
use super::server_create::{cloud, cloud_with};
use super::server_life::{finish, make};
use crate::Config;
use serde_json::{Value, json};
use std::time::Duration;
use types::{Timestamp, VmState};

/// The attachment of a volume that is on record.
pub const ATTACHMENT: &str = "4b8d6a2e-5c3f-4a69-9d0e-0d5f8f2c9b11";

/// A server that runs, without anything working on it.
async fn server(cloud: &Cloud) -> String {
    let id = make(cloud, "member", "a").await;
    finish(cloud, &id, VmState::Active).await;
    let beat = |tx: &mut sql::Tx<'_>| {
        db::hosts::beat(tx, &"h1".into(), "nova-compute", None, Timestamp::now())
    };
    let beaten: Result<(), sql::Error> = cloud.store.write(beat).await;
    beaten.unwrap();
    id
}

async fn attach(cloud: &Cloud, version: u16, server: &str, body: Value) -> Answer {
    let path = format!("/servers/{server}/os-volume_attachments");
    let body = json!({ "volumeAttachment": body });
    cloud.send("member", version, "POST", &path, body).await
}

/// What the flow would write: the attachment.
pub async fn attached(cloud: &Cloud, server: &str, volume: &str) {
    let (id, volume) = (server.parse().unwrap(), volume.to_owned());
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut device = db::block_devices::of_volume(tx, id, &volume)?.unwrap();
        device.attachment_id = Some(ATTACHMENT.to_owned());
        db::block_devices::update(tx, &device)?;
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
    finish(cloud, server, VmState::Active).await;
}

/// The image that the accepted rebuild of a server writes onto its volume.
async fn reimages(cloud: &Cloud, server: &str) -> Value {
    let id = server.parse().unwrap();
    let read = move |tx: &mut sql::Tx<'_>| -> Result<String, sql::Error> {
        let task = db::instances::get(tx, id)?.unwrap().task_id.unwrap();
        Ok(db::tasks::get(tx, task)?.unwrap().state)
    };
    let state = cloud.store.read(read).await.unwrap();
    serde_json::from_str::<Value>(&state).unwrap()["reimage"].clone()
}

#[tokio::test]
async fn an_attachment_in_every_version() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    let volume = cloud.volumes.make();
    let made = attach(&cloud, 79, &id, json!({ "volumeId": volume, "tag": "t" })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let whole = json!({ "id": volume, "serverId": id, "volumeId": volume, "device": "/dev/vdb", "tag": "t",
        "delete_on_termination": false });
    assert_eq!(made.json(), json!({ "volumeAttachment": whole }));
    // Before there is an attachment the newest form has nothing to show.
    let path = format!("/servers/{id}/os-volume_attachments");
    let newest = cloud.get("reader", 89, &path).await;
    assert_eq!(newest.json(), json!({ "volumeAttachments": [] }));
    let one = format!("{path}/{volume}");
    assert_eq!(cloud.get("reader", 89, &one).await.status, 404);
    attached(&cloud, &id, &volume).await;
    let all = cloud.get("reader", 89, &format!("{path}?limit=0")).await;
    let all = all.json()["volumeAttachments"].clone();
    assert_eq!(all.as_array().unwrap().len(), 1, "0 is no limit");
    let fields = |version: u16| {
        let (cloud, path) = (&cloud, &one);
        async move {
            let shown = cloud.get("reader", version, path).await.json();
            let map = shown["volumeAttachment"].as_object().unwrap().clone();
            let mut names: Vec<String> = map.into_iter().map(|(name, _)| name).collect();
            names.sort();
            names.join(" ")
        }
    };
    assert_eq!(fields(1).await, "device id serverId volumeId");
    assert_eq!(fields(70).await, "device id serverId tag volumeId");
    let goes = "delete_on_termination device id serverId tag volumeId";
    assert_eq!(fields(79).await, goes);
    let ids = "attachment_id bdm_uuid delete_on_termination device serverId tag volumeId";
    assert_eq!(fields(89).await, ids);
    let shown = cloud
        .get("member", 3, &format!("/servers/{id}"))
        .await
        .json();
    let volumes = &shown["server"]["os-extended-volumes:volumes_attached"];
    assert_eq!(
        *volumes,
        json!([{ "id": volume, "delete_on_termination": false }])
    );
    let shown = cloud.get("member", 1, "/servers/detail").await.json();
    let volumes = &shown["servers"][0]["os-extended-volumes:volumes_attached"];
    assert_eq!(*volumes, json!([{ "id": volume }]));
    // From 2.101 on nothing is answered.
    let second = cloud.volumes.make();
    let made = attach(&cloud, 101, &id, json!({ "volumeId": second })).await;
    assert_eq!((made.status.as_u16(), &made.text[..]), (202, ""));
}

#[tokio::test]
async fn refused_attachments() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    let other = server(&cloud).await;
    let (held, shared) = (
        cloud.volumes.make(),
        cloud.volumes.make_with(&json!({ "multiattach": true })),
    );
    let reserved = cloud.volumes.make_with(&json!({ "status": "reserved" }));
    let made = attach(&cloud, 90, &other, json!({ "volumeId": held })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    attached(&cloud, &other, &held).await;
    let gone = "11111111-2222-4333-8444-555555555555";
    let table = [
        (
            90,
            json!({ "volumeId": gone }),
            404,
            format!("Volume {gone} could not be found."),
        ),
        (
            90,
            json!({ "volumeId": held }),
            400,
            format!("Invalid volume: volume {held} is already attached to instances: {other}"),
        ),
        (
            59,
            json!({ "volumeId": shared }),
            400,
            "Multiattach volumes are only supported starting with compute API version 2.60."
                .to_owned(),
        ),
        (
            90,
            json!({ "volumeId": reserved }),
            400,
            format!(
                "Invalid input received: Invalid volume: Volume {reserved} status must be available or downloading to reserve, but the current status is reserved."
            ),
        ),
    ];
    for (version, body, status, message) in table {
        let answer = attach(&cloud, version, &id, body).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        assert_eq!(answer.fault().1, message);
    }
    for (version, body) in [
        (48, json!({ "volumeId": shared, "tag": "t" })),
        (
            78,
            json!({ "volumeId": shared, "delete_on_termination": true }),
        ),
        (90, json!({ "volumeId": "x" })),
        (90, json!({ "volumeId": shared, "device": "vdb" })),
    ] {
        assert_eq!(attach(&cloud, version, &id, body).await.status, 400);
    }
    finish(&cloud, &id, VmState::Shelved).await;
    let answer = attach(&cloud, 19, &id, json!({ "volumeId": shared })).await;
    let words = format!("Cannot 'attach_volume' instance {id} while it is in vm_state shelved");
    assert_eq!(answer.fault(), ("conflictingRequest".to_owned(), words));
    finish(&cloud, &id, VmState::ShelvedOffloaded).await;
    let answer = attach(&cloud, 90, &id, json!({ "volumeId": shared })).await;
    let words = "Attaching multiattach volumes is not supported for shelved-offloaded instances.";
    assert_eq!(answer.fault().1, words);
}

#[tokio::test]
async fn changes_and_detachments() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    let volume = cloud.volumes.make();
    attach(&cloud, 90, &id, json!({ "volumeId": volume })).await;
    attached(&cloud, &id, &volume).await;
    let path = format!("/servers/{id}/os-volume_attachments/{volume}");
    let put = |version: u16, token: &'static str, body: Value| {
        let (cloud, path) = (&cloud, &path);
        let body = json!({ "volumeAttachment": body });
        async move { cloud.send(token, version, "PUT", path, body).await }
    };
    let goes = json!({ "volumeId": volume, "delete_on_termination": true });
    assert_eq!(put(85, "member", goes.clone()).await.status, 202);
    let shown = cloud.get("member", 90, &path).await.json();
    assert_eq!(shown["volumeAttachment"]["delete_on_termination"], true);
    assert_eq!(put(84, "admin", goes).await.status, 400);
    let fixed = json!({ "volumeId": volume, "device": "/dev/vdx" });
    let answer = put(85, "member", fixed).await;
    assert_eq!(answer.fault().1, "The device property is not mutable");
    // Another volume is for the volume service, while it moves the volume.
    let new = cloud.volumes.make();
    let denied = put(85, "member", json!({ "volumeId": new })).await;
    let words = "Policy doesn't allow os_compute_api:os-volumes-attachments:swap to be performed.";
    assert_eq!(denied.fault(), ("forbidden".to_owned(), words.to_owned()));
    let answer = put(1, "admin", json!({ "volumeId": new })).await;
    let words =
        format!("volume {volume} is not migrating; this API should only be called by Cinder");
    assert_eq!(answer.fault().1, words);
    cloud
        .volumes
        .set(&volume, "migration_status", json!("migrating"));
    let answer = put(1, "admin", json!({ "volumeId": new })).await;
    assert_eq!(
        answer.fault().1,
        "Invalid volume: Old volume is attached to a different instance."
    );
    cloud.volumes.set(
        &volume,
        "attachments",
        json!([{ "server_id": id, "attachment_id": "a" }]),
    );
    assert_eq!(
        put(1, "admin", json!({ "volumeId": new })).await.status,
        202
    );
    finish(&cloud, &id, VmState::Active).await;

    let answer = cloud.send("member", 90, "DELETE", &path, Value::Null).await;
    assert_eq!(answer.status, 400, "it is not in use: {}", answer.text);
    let other = format!("/servers/{id}/os-volume_attachments/{new}");
    let answer = cloud
        .send("member", 90, "DELETE", &other, Value::Null)
        .await;
    assert_eq!(
        answer.fault().1,
        format!("Instance {id} is not attached to volume {new}")
    );
    cloud.volumes.set(&volume, "status", json!("in-use"));
    let answer = cloud.send("member", 90, "DELETE", &path, Value::Null).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
}

/// Somebody reset its state and deleted it: the server must not keep it for ever.
#[tokio::test]
async fn a_volume_that_is_gone_is_detached_from_the_server_that_has_it_on_record() {
    let cloud = cloud().await;
    let (id, other) = (server(&cloud).await, server(&cloud).await);
    let volume = cloud.volumes.make();
    attach(&cloud, 90, &id, json!({ "volumeId": volume })).await;
    attached(&cloud, &id, &volume).await;
    cloud.volumes.lose(&volume);
    let detach = |server: &str| {
        let path = format!("/servers/{server}/os-volume_attachments/{volume}");
        let cloud = &cloud;
        async move { cloud.send("member", 90, "DELETE", &path, Value::Null).await }
    };
    assert_eq!(
        detach(&other).await.fault().1,
        format!("Volume {volume} could not be found.")
    );
    let answer = detach(&id).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
}

/// A request for a server with these disks.
fn with_disks(image: bool, disks: Value) -> Value {
    let mut server = json!({ "name": "a", "flavorRef": "1", "networks": "none", "block_device_mapping_v2": disks });
    if image {
        server["imageRef"] = json!(super::harness::IMAGE);
    }
    json!({ "server": server })
}

/// The disks on record of a server.
async fn on_record(cloud: &Cloud, id: &str) -> Vec<String> {
    let id = id.parse().unwrap();
    let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_server(tx, id);
    let devices: Result<Vec<_>, sql::Error> = cloud.store.read(read).await;
    let told = |d: &db::block_devices::BlockDevice| {
        let (from, to) = (d.source.as_str(), d.destination.as_str());
        let size = d
            .volume_size
            .map_or("-".to_owned(), |size| size.to_string());
        format!(
            "{from}>{to} {} {size}",
            d.device_name.as_deref().unwrap_or("-")
        )
    };
    devices.unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn servers_with_volumes() {
    let cloud = cloud().await;
    let data = cloud.volumes.make_with(&json!({ "size": 7 }));
    let image = json!({ "source_type": "image", "uuid": super::harness::IMAGE, "destination_type": "local", "boot_index": 0 });
    let volume = json!({ "source_type": "volume", "uuid": data, "destination_type": "volume", "tag": "data" });
    let blank = json!({ "source_type": "blank", "destination_type": "volume", "volume_size": 2, "delete_on_termination": true });
    let body = with_disks(true, json!([image, volume, blank]));
    let made = cloud.send("member", 90, "POST", "/servers", body).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        on_record(&cloud, &id).await,
        [
            "image>local /dev/vda -",
            "volume>volume /dev/vdb 7",
            "blank>volume /dev/vdc 2"
        ]
    );
    let shown = cloud
        .get("member", 90, &format!("/servers/{id}"))
        .await
        .json();
    let volumes = &shown["server"]["os-extended-volumes:volumes_attached"];
    assert_eq!(
        *volumes,
        json!([{ "id": data, "delete_on_termination": false }])
    );
    assert_eq!(shown["server"]["image"]["id"], super::harness::IMAGE);

    // Another server cannot have the volume that this one is about to get.
    let root = json!({ "source_type": "volume", "uuid": data, "destination_type": "volume", "boot_index": 0 });
    cloud.volumes.set(&data, "bootable", json!("true"));
    let second = with_disks(false, json!([root]));
    let refused = cloud
        .send("member", 90, "POST", "/servers", second.clone())
        .await;
    assert_eq!(refused.status, 400);
    let words = format!("Invalid volume: volume {data} is already attached to instances: {id}");
    assert_eq!(refused.fault().1, words);

    let boot = cloud
        .volumes
        .make_with(&json!({ "bootable": "true", "volume_image_metadata": {
        "hw_disk_bus": "scsi", "min_ram": "64", "image_id": super::harness::IMAGE } }));
    let root = json!({ "source_type": "volume", "uuid": boot, "destination_type": "volume", "boot_index": 0 });
    let body = with_disks(false, json!([root]));
    let made = cloud.send("member", 90, "POST", "/servers", body).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
    let shown = cloud
        .get("admin", 90, &format!("/servers/{id}"))
        .await
        .json();
    assert_eq!(shown["server"]["image"], "");
    assert_eq!(
        shown["server"]["OS-EXT-SRV-ATTR:root_device_name"],
        "/dev/vda"
    );
    finish(&cloud, &id, VmState::Active).await;
    cloud.volumes.set(&boot, "status", json!("in-use"));
    let path = format!("/servers/{id}/action");
    let backup = json!({ "createBackup": { "name": "b", "backup_type": "daily", "rotation": 1 } });
    let answer = cloud.send("member", 90, "POST", &path, backup).await;
    let words = "Backup is not supported for volume-backed instances.";
    assert_eq!(answer.fault(), ("badRequest".to_owned(), words.to_owned()));
    // A rebuild is on the volume as it is.
    let image = super::harness::IMAGE;
    let rebuild = json!({ "rebuild": { "imageRef": image } });
    let of = |image: &str| json!({ "image_id": image });
    let other = "11111111-2222-4333-8444-555555555555";
    cloud.volumes.set(&boot, "volume_image_metadata", of(other));
    let answer = cloud
        .send("member", 92, "POST", &path, rebuild.clone())
        .await;
    let words = format!(
        "Image {image} is unacceptable: Unable to rebuild with a different image for a volume-backed server."
    );
    assert_eq!(answer.fault(), ("badRequest".to_owned(), words));
    let answer = cloud
        .send("member", 93, "POST", &path, rebuild.clone())
        .await;
    // Since 2.93 the image goes onto the volume.
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.json()["server"]["image"], "");
    assert_eq!(reimages(&cloud, &id).await, image);
    finish(&cloud, &id, VmState::Active).await;
    cloud.volumes.set(&boot, "volume_image_metadata", of(image));
    let answer = cloud
        .send("member", 92, "POST", &path, rebuild.clone())
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(reimages(&cloud, &id).await, Value::Null);
    finish(&cloud, &id, VmState::Active).await;
    let shared = json!([{ "server_id": other, "attachment_id": "a" }]);
    cloud.volumes.set(&boot, "attachments", shared);
    let answer = cloud.send("member", 93, "POST", &path, rebuild).await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("other servers"), "{}", answer.text);
    let rescue = json!({ "rescue": null });
    let answer = cloud
        .send("member", 86, "POST", &path, rescue.clone())
        .await;
    let words = format!("Instance {id} cannot be rescued: Cannot rescue a volume-backed instance");
    assert_eq!(answer.fault(), ("badRequest".to_owned(), words));
    let detach = format!("/servers/{id}/os-volume_attachments/{boot}");
    let answer = cloud
        .send("member", 90, "DELETE", &detach, Value::Null)
        .await;
    assert_eq!(answer.fault().1, "Cannot detach a root device volume");
    // From an image that says where its disk goes, and while the volume is in use.
    let words = format!("Instance {id} cannot be rescued: Cannot rescue a volume-backed instance");
    let answer = cloud.send("member", 87, "POST", &path, rescue).await;
    assert_eq!(
        answer.fault(),
        ("badRequest".to_owned(), words.clone()),
        "{}",
        answer.text
    );
    let named = json!({ "rescue": { "rescue_image_ref": super::harness::ODD } });
    let rescued = async |version: u16, says: Value| {
        *cloud.odd.lock().unwrap() = says;
        let answer = cloud.send("member", version, "POST", &path, named.clone());
        let answer = answer.await;
        (answer.status.as_u16(), answer.fault().1)
    };
    let half = json!({ "hw_rescue_device": "disk" });
    assert_eq!(rescued(87, half).await, (400, words.clone()));
    let both = || json!({ "hw_rescue_device": "disk", "hw_rescue_bus": "virtio" });
    assert_eq!(rescued(86, both()).await, (400, words));
    cloud.volumes.set(&boot, "status", json!("detaching"));
    let words = format!(
        "Invalid volume: volume '{boot}' status must be 'in-use'. Currently in 'detaching' status"
    );
    assert_eq!(rescued(87, both()).await, (409, words.clone()));
    cloud.volumes.set(&boot, "attachments", json!([]));
    let rebuild = json!({ "rebuild": { "imageRef": image } });
    let answer = cloud.send("member", 93, "POST", &path, rebuild).await;
    assert_eq!(answer.fault(), ("badRequest".to_owned(), words));
    cloud.volumes.set(&boot, "status", json!("in-use"));
    assert_eq!(rescued(87, both()).await.0, 200);
}

#[tokio::test]
async fn servers_with_volumes_that_do_not_fit() {
    let cloud = cloud().await;
    let gone = "11111111-2222-4333-8444-555555555555";
    let (plain, held) = (
        cloud.volumes.make(),
        cloud
            .volumes
            .make_with(&json!({ "status": "in-use", "bootable": "true" })),
    );
    let shared = cloud
        .volumes
        .make_with(&json!({ "multiattach": true, "bootable": "true" }));
    let volume = |id: &str| json!([{ "source_type": "volume", "uuid": id, "destination_type": "volume", "boot_index": 0 }]);
    let invalid = "Block Device Mapping is Invalid: ";
    let image = |size: u64| {
        json!([{ "source_type": "image", "uuid": super::harness::IMAGE, "destination_type": "volume",
        "boot_index": 0, "volume_size": size, "volume_type": "none" }])
    };
    let table = [
        (
            volume(gone),
            90,
            format!("{invalid}failed to get volume {gone}."),
        ),
        (
            volume(&plain),
            90,
            format!("Block Device {plain} is not bootable."),
        ),
        (
            volume(&held),
            90,
            format!(
                "Invalid volume: Invalid input received: Invalid volume: Volume {held} status must be available or downloading to reserve, but the current status is in-use."
            ),
        ),
        (
            volume(&shared),
            59,
            "Multiattach volumes are only supported starting with compute API version 2.60."
                .to_owned(),
        ),
        (
            json!([{ "source_type": "snapshot", "uuid": gone, "destination_type": "volume", "boot_index": 0 }]),
            90,
            format!("{invalid}failed to get snapshot {gone}."),
        ),
        (
            image(1),
            67,
            "Volume type none could not be found.".to_owned(),
        ),
        (
            json!([{ "source_type": "volume", "uuid": plain, "destination_type": "volume" }]),
            90,
            format!(
                "{invalid}Boot sequence for the instance and image/block device mapping combination is not valid."
            ),
        ),
    ];
    for (disks, version, words) in table {
        let body = with_disks(false, disks.clone());
        let mut body = body;
        if version < 37 {
            body["server"].as_object_mut().unwrap().remove("networks");
        }
        let answer = cloud
            .send("member", version, "POST", "/servers", body)
            .await;
        assert_eq!(answer.status, 400, "{disks}: {}", answer.text);
        assert_eq!(answer.fault().1, words, "{disks}");
    }
    let mut both = with_disks(true, volume(&plain));
    both["server"]["block_device_mapping"] = json!([{ "volume_id": plain, "device_name": "vdb" }]);
    let answer = cloud.send("member", 90, "POST", "/servers", both).await;
    let words = "Using different block_device_mapping syntaxes is not allowed in the same request.";
    assert_eq!(answer.fault().1, words);
    let none = json!({ "server": { "name": "a", "flavorRef": "1", "networks": "none" } });
    let answer = cloud.send("member", 90, "POST", "/servers", none).await;
    assert_eq!(answer.fault().1, "Missing imageRef attribute");
    let answer = cloud
        .send(
            "member",
            35,
            "POST",
            "/os-volumes",
            json!({ "volume": { "size": 1, "display_name": "v" } }),
        )
        .await;
    assert_eq!(
        (
            answer.status.as_u16(),
            &answer.json()["volume"]["displayName"]
        ),
        (200, &json!("v"))
    );
    let id = answer.json()["volume"]["id"].as_str().unwrap().to_owned();
    assert!(
        answer.headers["location"]
            .to_str()
            .unwrap()
            .ends_with(&format!("/os-volumes/{id}"))
    );
    let path = format!("/os-volumes/{id}");
    assert_eq!(
        cloud.get("member", 35, &path).await.json()["volume"]["attachments"],
        json!([{}])
    );
    assert_eq!(
        cloud
            .send("member", 35, "DELETE", &path, Value::Null)
            .await
            .status,
        202
    );
    assert_eq!(
        cloud.get("member", 35, &path).await.fault().1,
        format!("Volume {id} could not be found.")
    );
    assert_eq!(cloud.get("member", 36, &path).await.status, 404);
}

#[tokio::test]
async fn the_volume_service_asks_for_a_snapshot() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    let (volume, shared) = (
        cloud.volumes.make(),
        cloud.volumes.make_with(&json!({ "multiattach": true })),
    );
    let take = |volume: &str| {
        json!({ "snapshot": { "volume_id": volume, "create_info": {
            "snapshot_id": "s", "type": "qcow2", "new_file": "n", "id": ATTACHMENT,
        } } })
    };
    let post = |volume: String| {
        let (cloud, body) = (&cloud, take(&volume));
        async move {
            let path = "/os-assisted-volume-snapshots";
            cloud.send("admin", 90, "POST", path, body).await
        }
    };
    let refused = post(volume.clone()).await;
    assert_eq!(refused.status, 400);
    let words = format!("No volume Block Device Mapping with id {volume}.");
    assert!(refused.text.contains(&words), "{}", refused.text);
    attach(&cloud, 90, &id, json!({ "volumeId": volume })).await;
    attached(&cloud, &id, &volume).await;
    let taken = post(volume.clone()).await;
    assert_eq!(taken.status, 200, "{}", taken.text);
    let snapshot = json!({ "snapshot": { "id": ATTACHMENT, "volumeId": volume } });
    assert_eq!(taken.json(), snapshot);
    let other = server(&cloud).await;
    for server in [&id, &other] {
        attach(&cloud, 90, server, json!({ "volumeId": shared })).await;
        attached(&cloud, server, &shared).await;
    }
    assert_eq!(post(shared.clone()).await.status, 400);
    let delete = |volume: String| {
        let (cloud, info) = (&cloud, json!({ "volume_id": volume }).to_string());
        async move {
            let info: String = url::form_urlencoded::byte_serialize(info.as_bytes()).collect();
            let path = format!("/os-assisted-volume-snapshots/i?delete_info={info}");
            cloud.send("admin", 90, "DELETE", &path, Value::Null).await
        }
    };
    assert_eq!(delete(volume).await.status, 204);
    assert_eq!(delete(shared).await.status, 400);
    assert_eq!(
        cloud.volumes.told(),
        [
            ("s".to_owned(), "error".to_owned()),
            ("i".to_owned(), "error_deleting".to_owned())
        ]
    );
}

/// The flow of a request leaves its first step, as a conductor would have it.
async fn pass(cloud: &Cloud, flow: &'static str, step: &'static str) {
    loop {
        let moved = cloud
            .store
            .write(move |tx| {
                let sql = "UPDATE tasks SET step = ? WHERE flow = ? AND step IS NULL";
                tx.execute(sql, &[step.into(), flow.into()])
            })
            .await
            .unwrap();
        if moved > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_answer_comes_when_the_volume_shows_it() {
    let cloud = cloud_with(Config {
        seen_within: Duration::from_secs(600),
        ..Config::default()
    })
    .await;
    let id = server(&cloud).await;
    let volume = cloud.volumes.make();
    let body = json!({ "volumeAttachment": { "volumeId": volume } });
    let path = format!("/servers/{id}/os-volume_attachments");
    let (answer, ()) = tokio::join!(
        cloud.send("member", 90, "POST", &path, body),
        pass(&cloud, "attach_volume", "attach")
    );
    assert_eq!(answer.status, 200, "{}", answer.text);
    attached(&cloud, &id, &volume).await;
    cloud.volumes.set(&volume, "status", json!("in-use"));
    let path = format!("{path}/{volume}");
    // It stays in the first step until it is let go.
    let sent = cloud.send("member", 90, "DELETE", &path, Value::Null);
    let mut sent = std::pin::pin!(sent);
    tokio::select! {
        answer = &mut sent => panic!("answered before anybody saw it: {}", answer.text),
        () = pass(&cloud, "detach_volume", "locate") => {}
    }
    let begun = "UPDATE tasks SET step = 'detach' WHERE step = 'locate'";
    let moved: Result<u64, sql::Error> = cloud.store.write(move |tx| tx.execute(begun, &[])).await;
    assert_eq!(moved.unwrap(), 1);
    assert_eq!(sent.await.status, 202);
}

/// A flow may be writing the rest of it at that moment.
#[tokio::test]
async fn changing_an_attachment_writes_what_changes_alone() {
    let notes = sql::testing::Notes::default();
    let store = sql::Store::temporary().await.unwrap().noting(&notes);
    let cloud = Cloud::on(store, super::harness::config()).await;
    let flavor =
        json!({"flavor": {"name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 1, "disk": 1}});
    cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    let id = server(&cloud).await;
    let volume = cloud.volumes.make();
    let made = attach(&cloud, 79, &id, json!({ "volumeId": volume })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    attached(&cloud, &id, &volume).await;
    notes.take();
    let path = format!("/servers/{id}/os-volume_attachments/{volume}");
    let body = json!({ "volumeAttachment": { "volumeId": volume, "delete_on_termination": true } });
    let changed = cloud.send("member", 85, "PUT", &path, body).await;
    assert_eq!(changed.status, 202, "{}", changed.text);
    let written: Vec<String> = notes
        .take()
        .into_iter()
        .map(|(sql, _)| sql)
        .filter(|sql| sql.starts_with("UPDATE block_device_mappings"))
        .collect();
    assert_eq!(
        written,
        ["UPDATE block_device_mappings SET delete_on_termination = ? WHERE uuid = ?"]
    );
    let shown = cloud.get("member", 85, &path).await.json();
    assert_eq!(shown["volumeAttachment"]["delete_on_termination"], true);
}

#[tokio::test]
async fn a_volume_that_has_grown_is_on_record_before_the_event_is_answered() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    let volume = cloud.volumes.make();
    let made = attach(&cloud, 79, &id, json!({ "volumeId": volume })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    attached(&cloud, &id, &volume).await;
    let event = json!({ "name": "volume-extended", "server_uuid": id, "tag": volume });
    let events = json!({ "events": [event] });
    let shown = async || {
        let path = format!("/servers/{id}/os-instance-actions");
        let answer = cloud.get("member", 90, &path).await.json();
        let actions = answer["instanceActions"].as_array().unwrap();
        let extended = actions
            .iter()
            .filter(|one| one["action"] == "extend_volume");
        extended.count()
    };
    let waiting = async || {
        let found: Result<_, sql::Error> = cloud.store.read(db::grown::waiting).await;
        let found: Vec<db::grown::Grown> = found.unwrap();
        found.into_iter().map(|one| one.volume).collect::<Vec<_>>()
    };
    let tell = async || {
        let path = "/os-server-external-events";
        let told = cloud.send("admin", 90, "POST", path, events.clone()).await;
        assert_eq!(told.status, 200, "{}", told.text);
    };
    let path = format!("/servers/{id}/action");
    let stop = json!({ "os-stop": null });
    let stopping = cloud.send("member", 90, "POST", &path, stop).await;
    assert_eq!(stopping.status, 202, "{}", stopping.text);
    tell().await;
    assert_eq!(shown().await, 1);
    assert_eq!(waiting().await, [""; 0], "somebody works on the server");
    finish(&cloud, &id, VmState::Active).await;
    assert_eq!(waiting().await, [volume.as_str()]);
    // Where nobody works on the server the task is there at once.
    tell().await;
    assert_eq!(shown().await, 2);
    let server = id.parse().unwrap();
    let read = move |tx: &mut sql::Tx<'_>| -> Result<String, sql::Error> {
        let task = db::instances::get(tx, server)?.unwrap().task_id.unwrap();
        Ok(db::tasks::get(tx, task)?.unwrap().flow)
    };
    assert_eq!(cloud.store.read(read).await.unwrap(), "extend_volume");
}

#[tokio::test]
async fn a_name_that_is_taken_is_passed_over() {
    let cloud = cloud().await;
    let id = server(&cloud).await;
    for (wish, given) in [
        ("/dev/vda", "/dev/vdb"),
        ("/dev/vdd", "/dev/vdd"),
        ("/dev/vdb", "/dev/vdc"),
    ] {
        let volume = cloud.volumes.make();
        let wanted = json!({ "volumeId": volume, "device": wish });
        let answer = attach(&cloud, 90, &id, wanted).await;
        assert_eq!(answer.status, 200, "{wish}: {}", answer.text);
        let device = &answer.json()["volumeAttachment"]["device"];
        assert_eq!(device, given, "{wish}");
        attached(&cloud, &id, &volume).await;
    }
}
