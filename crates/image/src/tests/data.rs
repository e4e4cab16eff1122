use super::*;
use crate::Registration;
use crate::model::Visibility;
use futures_util::stream;
use std::collections::BTreeMap;
use std::time::Duration;

fn qcow2(backing: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[8..16].copy_from_slice(&backing.to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[24..32].copy_from_slice(&(64u64 << 20).to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    bytes
}

#[tokio::test]
async fn upload_and_download() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let file = format!("/v2/images/{id}/file");
    cloud.get(ALICE, &file).await.is(204);
    cloud.call(ALICE, "PUT", &file, json!({})).await.is(415);
    cloud.put_file(ALICE, &id, "hello world").await.is(204);
    let image = cloud.get(ALICE, &format!("/v2/images/{id}")).await.json();
    assert_eq!(
        (&image["status"], &image["size"], &image["virtual_size"]),
        (&json!("active"), &json!(11), &json!(11))
    );
    assert_eq!(
        (&image["checksum"], &image["os_hash_algo"]),
        (&json!("5eb63bbbe01eeed093cb22bb8f5acdc3"), &json!("sha512"))
    );
    assert_eq!(image["os_hash_value"].as_str().unwrap().len(), 128);
    let answer = cloud.put_file(ALICE, &id, "other").await.is(409);
    assert!(
        answer
            .text()
            .contains("Image status transition from active to saving is not allowed")
    );
    let answer = cloud.get(ALICE, &file).await.is(200);
    assert_eq!(answer.text(), "hello world");
    assert_eq!(
        answer.header("content-md5"),
        "5eb63bbbe01eeed093cb22bb8f5acdc3"
    );
    assert_eq!(
        (
            answer.header("content-length"),
            answer.header("content-type")
        ),
        ("11", "application/octet-stream")
    );
    let ranged = |range: &'static str| {
        let request = Request::get(&file)
            .header("x-auth-token", ALICE)
            .header("range", range);
        cloud.send(request.body(Body::empty()).unwrap())
    };
    let answer = ranged("bytes=6-").await.is(206);
    assert_eq!(
        (answer.text().as_str(), answer.header("content-range")),
        ("world", "bytes 6-10/11")
    );
    assert_eq!(
        ranged("bytes=11-").await.is(416).header("content-range"),
        "bytes */11"
    );
    let change = json!([{"op": "replace", "path": "/disk_format", "value": "qcow2"}]);
    cloud
        .call(ALICE, "PATCH", &format!("/v2/images/{id}"), change)
        .await
        .is(403);
    cloud.get(READER, &file).await.is(403);
}

#[tokio::test]
async fn deactivated() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let action = |name: &str| format!("/v2/images/{id}/actions/{name}");
    cloud
        .call(ALICE, "POST", &action("deactivate"), Value::Null)
        .await
        .is(403);
    cloud.put_file(ALICE, &id, "data").await.is(204);
    cloud
        .call(ALICE, "POST", &action("deactivate"), Value::Null)
        .await
        .is(204);
    cloud
        .call(ALICE, "POST", &action("deactivate"), Value::Null)
        .await
        .is(204);
    assert_eq!(cloud.status(&id).await, "deactivated");
    cloud
        .get(ALICE, &format!("/v2/images/{id}/file"))
        .await
        .is(403);
    cloud
        .get(ADMIN, &format!("/v2/images/{id}/file"))
        .await
        .is(200);
    cloud
        .call(ALICE, "POST", &action("reactivate"), Value::Null)
        .await
        .is(204);
    cloud
        .get(ALICE, &format!("/v2/images/{id}/file"))
        .await
        .is(200);
}

#[tokio::test]
async fn refused_data_leave_the_image_queued() {
    let cloud = Cloud::with(|config| config.max_size = 100_000).await;
    let big = vec![0; 100_001];
    let mut early = qcow2(0);
    early.resize(70_000, 0);
    let cases = [
        (
            "raw",
            qcow2(0),
            415,
            "disk_format raw does not match its content, which is qcow2",
        ),
        (
            "raw",
            early,
            415,
            "disk_format raw does not match its content, which is qcow2",
        ),
        (
            "qcow2",
            b"hello".to_vec(),
            415,
            "disk_format qcow2 does not match its content, which is raw",
        ),
        ("qcow2", qcow2(512), 415, "backing file"),
        ("raw", big, 413, "too large"),
    ];
    for (format, data, status, message) in cases {
        let id = cloud.create(ALICE, json!({"disk_format": format})).await;
        let answer = cloud.put_file(ALICE, &id, data).await.is(status);
        assert!(answer.text().contains(message), "{}", answer.text());
        assert_eq!(cloud.status(&id).await, "queued");
        assert!(cloud.files().is_empty());
        if format == "raw" {
            cloud.put_file(ALICE, &id, "good").await.is(204);
            cloud
                .call(ALICE, "DELETE", &format!("/v2/images/{id}"), Value::Null)
                .await
                .is(204);
        }
    }
    let none = cloud
        .call(ALICE, "POST", "/v2/images", json!({}))
        .await
        .is(201)
        .json();
    let answer = cloud
        .put_file(ALICE, none["id"].as_str().unwrap(), "x")
        .await
        .is(400);
    assert!(
        answer
            .text()
            .contains("Properties disk_format, container_format must be set prior to saving data.")
    );
    let id = cloud.create(ALICE, json!({"disk_format": "qcow2"})).await;
    cloud.put_file(ALICE, &id, qcow2(0)).await.is(204);
    let image = cloud.get(ALICE, &format!("/v2/images/{id}")).await.json();
    assert_eq!(
        (&image["size"], &image["virtual_size"]),
        (&json!(512), &json!(64 << 20))
    );
}

#[tokio::test]
async fn a_client_that_goes_away() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let broken = stream::iter([
        Ok(bytes::Bytes::from("half")),
        Err(std::io::Error::other("reset")),
    ]);
    cloud
        .put_file(ALICE, &id, Body::from_stream(broken))
        .await
        .is(400);
    assert_eq!(cloud.status(&id).await, "queued");
    let request = Request::put(format!("/v2/images/{id}/file"))
        .header("x-auth-token", ALICE)
        .header("content-type", "application/octet-stream")
        .header("content-length", "10");
    cloud
        .send(request.body(Body::from("short")).unwrap())
        .await
        .is(400);
    assert_eq!(cloud.status(&id).await, "queued");
    // The handler is dropped in the middle, as when the connection dies.
    let (sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let pieces = stream::unfold(body, |mut body| async move {
        body.recv().await.map(|piece| (piece, body))
    });
    let upload = cloud.put_file(ALICE, &id, Body::from_stream(pieces));
    sender.send(Ok("part".into())).await.unwrap();
    let begun = async {
        while cloud.status(&id).await != "saving" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = upload => panic!("the upload ended"),
        () = begun => {}
    }
    assert_eq!(cloud.status(&id).await, "saving");
    sender
        .send(Err(std::io::Error::other("connection reset")))
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    while cloud.status(&id).await != "queued" {
        assert!(begun.elapsed() < Duration::from_secs(60), "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(cloud.files().is_empty());
}

#[tokio::test]
async fn deleted_while_it_is_uploaded() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let (sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let pieces = stream::unfold(body, |mut body| async move {
        body.recv().await.map(|piece| (piece, body))
    });
    let path = format!("/v2/images/{id}");
    let others = async {
        sender.send(Ok("part".into())).await.unwrap();
        while cloud.status(&id).await != "saving" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cloud.put_file(ALICE, &id, "second").await.is(409);
        cloud
            .call(ALICE, "DELETE", &path, Value::Null)
            .await
            .is(204);
        drop(sender);
    };
    let (upload, ()) = tokio::join!(
        cloud.put_file(ALICE, &id, Body::from_stream(pieces)),
        others
    );
    upload.is(410);
    assert!(cloud.files().is_empty());
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_behind() {
    let cloud = Cloud::new().await;
    let kept = cloud.create(ALICE, json!({})).await;
    cloud.put_file(ALICE, &kept, "kept").await.is(204);
    let id = cloud.create(ALICE, json!({})).await;
    // What a kill -9 in the middle of an upload leaves, after the rename but before the commit.
    cloud
        .service
        .change_status(
            &id,
            crate::model::Status::Queued,
            crate::model::Status::Saving,
        )
        .await
        .unwrap();
    let root = cloud.folder.path().join("images");
    std::fs::write(root.join(&id), "whole").unwrap();
    let staging = cloud.create(ALICE, json!({})).await;
    cloud
        .service
        .change_status(
            &staging,
            crate::model::Status::Queued,
            crate::model::Status::Uploading,
        )
        .await
        .unwrap();
    let unknown = uuid::Uuid::new_v4().to_string();
    for half in [&id, &unknown] {
        std::fs::write(root.join("uploads").join(half), "half of what was to come").unwrap();
        std::fs::write(root.join("locks").join(half), "").unwrap();
    }
    std::fs::write(root.join(&unknown), "no image has it").unwrap();
    let service = cloud.restarted().await;
    let cloud = Cloud { service, ..cloud };
    assert_eq!(cloud.status(&id).await, "queued");
    assert_eq!(cloud.status(&staging).await, "queued");
    assert_eq!(cloud.status(&kept).await, "active");
    assert_eq!(cloud.files(), [kept]);
    assert_eq!(cloud.locks(), Vec::<String>::new());
    cloud.put_file(ALICE, &id, "again").await.is(204);
}

/// Several processes serve with one folder, and `kilonova db sync` opens it as well.
#[tokio::test]
async fn another_process_leaves_an_upload_alone() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let (sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let pieces = stream::unfold(body, |mut body| async move {
        body.recv().await.map(|piece| (piece, body))
    });
    let root = cloud.folder.path().join("images");
    let others = async {
        sender.send(Ok("first ".into())).await.unwrap();
        while std::fs::read(root.join("uploads").join(&id)).ok() != Some(b"first ".into()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let other = cloud.restarted().await;
        other.recover().await.unwrap();
        assert_eq!(cloud.status(&id).await, "saving");
        assert_eq!(cloud.locks(), std::slice::from_ref(&id));
        sender.send(Ok("second".into())).await.unwrap();
        drop(sender);
    };
    let (upload, ()) = tokio::join!(
        cloud.put_file(ALICE, &id, Body::from_stream(pieces)),
        others
    );
    upload.is(204);
    let file = cloud.get(ALICE, &format!("/v2/images/{id}/file")).await;
    assert_eq!(file.is(200).text(), "first second");
    assert_eq!(cloud.files(), [id]);
}

#[tokio::test]
async fn import() {
    let cloud = Cloud::new().await;
    let stage = |id: &str, data: Vec<u8>| {
        let request = Request::put(format!("/v2/images/{id}/stage"))
            .header("x-auth-token", ALICE)
            .header("content-type", "application/octet-stream");
        cloud.send(request.body(Body::from(data)).unwrap())
    };
    let direct = json!({"method": {"name": "glance-direct"}});
    for (data, wanted) in [
        (qcow2(0), "active"),
        (qcow2(8), "queued"),
        (b"raw".to_vec(), "queued"),
    ] {
        let id = cloud.create(ALICE, json!({"disk_format": "qcow2"})).await;
        let path = format!("/v2/images/{id}/import");
        cloud
            .call(ALICE, "POST", &path, direct.clone())
            .await
            .is(409);
        stage(&id, data).await.is(204);
        assert_eq!(cloud.status(&id).await, "uploading");
        stage(&id, b"again".to_vec()).await.is(409);
        cloud
            .call(
                ALICE,
                "POST",
                &path,
                json!({"method": {"name": "web-download"}}),
            )
            .await
            .is(400);
        cloud.call(ALICE, "POST", &path, json!({})).await.is(400);
        // A restart in between loses nothing that was staged.
        cloud
            .service
            .change_status(
                &id,
                crate::model::Status::Uploading,
                crate::model::Status::Importing,
            )
            .await
            .unwrap();
        cloud.restarted().await;
        cloud
            .call(ALICE, "POST", &path, direct.clone())
            .await
            .is(202);
        for _ in 0..6000 {
            if cloud.status(&id).await == wanted
                && !cloud
                    .folder
                    .path()
                    .join("images/staging")
                    .join(&id)
                    .exists()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(cloud.status(&id).await, wanted);
        assert_eq!(cloud.files().contains(&id), wanted == "active");
    }
}

#[tokio::test]
async fn registered_files() {
    let cloud = Cloud::new().await;
    let path = cloud.folder.path().join("guest.qcow2");
    std::fs::write(&path, qcow2(0)).unwrap();
    let registration = Registration {
        name: "cirros-test-disk".to_owned(),
        owner: "adm".to_owned(),
        disk_format: "qcow2".to_owned(),
        visibility: Visibility::Public,
        min_disk: 0,
        min_ram: 64,
        properties: BTreeMap::from([("os_distro".to_owned(), "linux".to_owned())]),
    };
    let id = cloud
        .service
        .register_file(registration.clone(), &path)
        .await
        .unwrap();
    assert_eq!(
        cloud
            .service
            .register_file(registration.clone(), &path)
            .await
            .unwrap(),
        id
    );
    let image = cloud
        .get(BOB, &format!("/v2/images/{id}"))
        .await
        .is(200)
        .json();
    assert_eq!(
        (&image["status"], &image["os_distro"], &image["visibility"]),
        (&json!("active"), &json!("linux"), &json!("public"))
    );
    std::fs::write(&path, "not what it says").unwrap();
    let other = Registration {
        name: "other".to_owned(),
        ..registration
    };
    let error = cloud
        .service
        .register_file(other.clone(), &path)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("other") && error.contains("qcow2"),
        "{error}"
    );
    std::fs::write(&path, qcow2(0)).unwrap();
    cloud.service.register_file(other, &path).await.unwrap();
}

/// By several processes at once, where one was killed before.
#[tokio::test]
async fn a_file_is_registered_once() {
    let cloud = Cloud::new().await;
    let path = cloud.folder.path().join("guest.raw");
    std::fs::write(&path, vec![0; 4 << 20]).unwrap();
    let registration = Registration {
        name: "guest".to_owned(),
        owner: "adm".to_owned(),
        disk_format: "raw".to_owned(),
        visibility: Visibility::Public,
        min_disk: 0,
        min_ram: 0,
        properties: BTreeMap::new(),
    };
    let killed = json!({"name": "guest"});
    let id = cloud.create("adm:member", killed).await;
    let (queued, saving) = (crate::model::Status::Queued, crate::model::Status::Saving);
    cloud
        .service
        .change_status(&id, queued, saving)
        .await
        .unwrap();
    let other = cloud.restarted().await;
    let once = |service: &Service| {
        let (service, registration, path) = (service.clone(), registration.clone(), path.clone());
        async move { service.register_file(registration, &path).await.unwrap() }
    };
    let ids = tokio::join!(
        once(&cloud.service),
        once(&other),
        once(&cloud.service),
        once(&other)
    );
    assert_eq!(ids, (id.clone(), id.clone(), id.clone(), id.clone()));
    assert_eq!(cloud.status(&id).await, "active");
    assert_eq!(cloud.files(), [id]);
}

/// Over real connections: with a length and in chunks.
#[tokio::test]
async fn a_connection_that_dies() {
    use tokio::io::AsyncWriteExt;
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({})).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(web::serve(
        web::Listener::Tcp(listener),
        cloud.service.router(),
        stop.clone(),
    ));
    for framing in [
        "Content-Length: 100\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "PUT /v2/images/{id}/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {ALICE}\r\n\
             Content-Type: application/octet-stream\r\n{framing}"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        for wanted in ["saving", "queued"] {
            for _ in 0..6000 {
                if cloud.status(&id).await == wanted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(cloud.status(&id).await, wanted, "{framing}");
            client.shutdown().await.unwrap();
        }
        assert!(cloud.files().is_empty());
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// OSSA-2011-001: an archive stays what it is, wherever its names point.
#[tokio::test]
async fn archives_are_not_unpacked() {
    let cloud = Cloud::new().await;
    // One entry of a tar: name, mode, owner, group, size, time, checksum, kind.
    let mut archive = vec![0_u8; 512];
    let name = b"../../../escaped";
    archive[..name.len()].copy_from_slice(name);
    archive[100..107].copy_from_slice(b"0000644");
    archive[124..135].copy_from_slice(b"00000000003");
    archive[148..156].copy_from_slice(b"        ");
    archive[156] = b'0';
    archive[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = archive.iter().map(|byte| u32::from(*byte)).sum();
    archive[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    archive.extend(b"hi\n");
    archive.resize(1024 + 1024, 0);
    let id = cloud.create(ALICE, json!({})).await;
    let sent = String::from_utf8(archive).unwrap();
    cloud.put_file(ALICE, &id, sent.clone()).await.is(204);
    let file = format!("/v2/images/{id}/file");
    assert_eq!(cloud.get(ALICE, &file).await.is(200).text(), sent);
    let mut files = Vec::new();
    let mut folders = vec![cloud.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    assert_eq!(files, [id], "one file, under a name of our own");
}

/// The request that deleted an image may not come to remove its data: nobody waits for a restart.
#[tokio::test]
async fn data_of_no_image_go() {
    let cloud = Cloud::new().await;
    let (kept, gone) = (
        cloud.create(ALICE, json!({})).await,
        cloud.create(ALICE, json!({})).await,
    );
    for id in [&kept, &gone] {
        cloud.put_file(ALICE, id, "hello world").await.is(204);
    }
    let image = gone.clone();
    let deleting = cloud.store.write(move |tx| crate::db::delete(tx, &image));
    deleting.await.unwrap();
    let data = |id: &str| cloud.service.inner.folder.path(id);
    assert!(data(&gone).is_file());
    let stop = tokio_util::sync::CancellationToken::new();
    let (service, stopped) = (cloud.service.clone(), stop.clone());
    let keeping = tokio::spawn(async move { service.keep(stopped).await });
    let begun = std::time::Instant::now();
    while data(&gone).is_file() {
        assert!(begun.elapsed() < Duration::from_secs(60), "they stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(data(&kept).is_file());
    stop.cancel();
    keeping.await.unwrap();
}
