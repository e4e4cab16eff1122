//! A real storage daemon, and `qemu-io` as a guest's disk driver. Skipped where they are not installed.
#![allow(clippy::unwrap_used)]

use crate::Serving;
use crate::tests::data::{FewImages, IMAGE};
use crate::tests::{ALICE, Cloud, SERVICE};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn tools_are_there() -> bool {
    ["qemu-storage-daemon", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok())
}

/// None of those that the system gives to whoever asks for any: nobody takes it before it is used, or while its server
/// is away.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = 20_000 + (next % 10_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn cloud(port: u16) -> Cloud {
    let change = |config: &mut crate::Config| {
        config.serving = Serving::Nbd;
        config.nbd_port = port;
    };
    Cloud::with(change, None).await
}

/// Connects as a host does, and runs one command of `qemu-io`.
async fn io(connection: &Value, command: &str, readonly: bool) -> bool {
    let data = &connection["data"];
    let url = format!(
        "nbd://{}:{}/{}",
        data["host"].as_str().unwrap(),
        data["port"],
        data["export"].as_str().unwrap()
    );
    let mut arguments = vec!["-f", "raw", "-c", command];
    if readonly {
        arguments.insert(0, "-r");
    }
    let mut child = tokio::process::Command::new("qemu-io");
    let done = child.args(arguments).arg(&url).output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    done.status.success() && !said.contains("failed") && !said.contains("error")
}

async fn connect(cloud: &Cloud, volume: &str, mode: &str) -> (String, Value) {
    let body = json!({"attachment": {
        "volume_uuid": volume, "instance_uuid": volume, "mode": mode, "connector": {"host": "h1"},
    }});
    let made = cloud
        .call(SERVICE, "POST", "/attachments", body)
        .await
        .is(200);
    let attachment = &made["attachment"];
    let path = format!("/attachments/{}", attachment["id"].as_str().unwrap());
    let act = format!("{path}/action");
    let complete = json!({"os-complete": {}});
    cloud.call(SERVICE, "POST", &act, complete).await.is(204);
    (path, attachment["connection_info"].clone())
}

fn pid(cloud: &Cloud) -> i32 {
    let path = cloud.folder.path().join("volumes/nbd/daemon.pid");
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still not: {what}");
}

#[tokio::test]
async fn guests_read_and_write_and_others_do_not() {
    if !tools_are_there() {
        return;
    }
    let port = free_port();
    let cloud = cloud(port).await;
    let volume = cloud.volume(ALICE, json!({})).await;
    assert!(!listens(port), "nothing is attached, nothing is served");
    let (path, info) = connect(&cloud, &volume, "rw").await;
    assert!(io(&info, "write -P 7 0 64k", false).await);
    let file = cloud.folder.path().join("volumes/volumes").join(&volume);
    assert_eq!(std::fs::read(&file).unwrap()[..8], [7; 8]);
    let mut wrong = info.clone();
    wrong["data"]["export"] = json!("0123456789abcdef0123456789abcdef");
    assert!(!io(&wrong, "read 0 64k", true).await);

    // A snapshot while the guest writes is of one moment, and as sparse as the volume.
    let snapshot = cloud.snapshot(ALICE, &volume).await;
    assert!(io(&info, "write -P 9 0 64k", false).await);
    let taken = cloud
        .folder
        .path()
        .join("volumes/snapshots")
        .join(&snapshot);
    assert_eq!(std::fs::read(&taken).unwrap()[..8], [7; 8]);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&taken).unwrap());
    assert!(blocks < 10_000, "{blocks} blocks");

    // It grows under the guest; who connects next sees the new size.
    let size = json!({"new_size": 2});
    cloud.act(ALICE, &volume, "os-extend", size).await.is(202);
    cloud.wait("volume", &volume, "in-use").await;
    cloud.service.serve_exports().await.unwrap();
    assert!(io(&info, "write -P 5 1536M 64k", false).await);

    // The service goes and comes back; the daemon stays, and so does the export.
    let before = pid(&cloud);
    let later = cloud.restarted(None).await;
    assert!(io(&info, "read -P 5 1536M 64k", true).await);
    assert_eq!(pid(&cloud), before);
    drop(later);

    // The daemon dies: it is started again with what is attached.
    let killed = rustix::process::Pid::from_raw(before).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    until("the port is free", || !listens(port)).await;
    cloud.service.serve_exports().await.unwrap();
    assert!(io(&info, "read -P 9 0 64k", true).await);

    cloud.delete(SERVICE, &path).await.is(200);
    assert!(!io(&info, "read 0 64k", true).await);
    until("the daemon has ended", || !listens(port)).await;
}

#[tokio::test]
async fn read_only_attachments_and_two_at_once() {
    if !tools_are_there() {
        return;
    }
    let cloud = cloud(free_port()).await;
    let volume = cloud
        .volume(ALICE, json!({"size": 1, "volume_type": "multiattach"}))
        .await;
    let (_, writer) = connect(&cloud, &volume, "rw").await;
    let (path, reader) = connect(&cloud, &volume, "ro").await;
    assert!(io(&writer, "write -P 3 0 64k", false).await);
    assert!(io(&reader, "read -P 3 0 64k", true).await);
    assert!(!io(&reader, "write -P 4 0 64k", false).await);
    cloud.delete(SERVICE, &path).await.is(200);
    assert!(!io(&reader, "read 0 64k", true).await);
    assert!(io(&writer, "read -P 3 0 64k", true).await);
    let attachments = cloud
        .get(SERVICE, "/attachments?all_tenants=1")
        .await
        .is(200);
    for one in attachments["attachments"].as_array().unwrap() {
        let path = format!("/attachments/{}", one["id"].as_str().unwrap());
        cloud.delete(SERVICE, &path).await.is(200);
    }
}

/// The file of the volume is another one afterwards; the daemon must not go on with the old one.
#[tokio::test]
async fn a_volume_with_another_image_is_served_with_it() {
    if !tools_are_there() {
        return;
    }
    let port = free_port();
    let change = |config: &mut crate::Config| {
        config.serving = Serving::Nbd;
        config.nbd_port = port;
    };
    let images = FewImages::default();
    let cloud = Cloud::with(change, Some(images.router())).await;
    // The daemon goes on for another one's sake.
    let other = cloud.volume(ALICE, json!({})).await;
    let (other_path, _) = connect(&cloud, &other, "rw").await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let (path, info) = connect(&cloud, &volume, "rw").await;
    assert!(io(&info, "write -P 7 0 64k", false).await);
    let reserve = json!({"attachment": {
        "volume_uuid": volume, "instance_uuid": volume, "connector": null,
    }});
    let kept = cloud
        .call(SERVICE, "POST", "/attachments", reserve)
        .await
        .is(200);
    let kept = format!(
        "/attachments/{}",
        kept["attachment"]["id"].as_str().unwrap()
    );
    let reimage = json!({"image_id": IMAGE, "reimage_reserved": true});
    cloud
        .act(ALICE, &volume, "os-reimage", reimage.clone())
        .await
        .is(409);
    cloud.delete(SERVICE, &path).await.is(200);
    cloud
        .act(ALICE, &volume, "os-reimage", reimage)
        .await
        .is(202);
    cloud.wait("volume", &volume, "reserved").await;
    let connector = json!({"attachment": {"connector": {"host": "h1"}}});
    let connected = cloud.call(SERVICE, "PUT", &kept, connector).await.is(200);
    let info = &connected["attachment"]["connection_info"];
    let first = format!("read -P {} 4096 1", b'i');
    assert!(io(info, &first, true).await, "the image is there");
    assert!(
        io(info, "read -P 0 0 4k", true).await,
        "what was there is gone"
    );
    for path in [kept, other_path] {
        cloud.delete(SERVICE, &path).await.is(200);
    }
}
