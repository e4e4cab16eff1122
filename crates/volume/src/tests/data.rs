//! What is in volumes: where it comes from, where it goes, and what a restart finds.

use super::*;
use crate::db;
use crate::model::{Job, Source, Status, Volume};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

impl Cloud {
    fn data(&self, id: &str) -> PathBuf {
        self.folder.path().join("volumes/volumes").join(id)
    }

    fn write(&self, id: &str, text: &str) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(self.data(id))
            .unwrap();
        file.write_all_at(text.as_bytes(), 4096).unwrap();
    }

    fn read(&self, id: &str, length: usize) -> String {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; length];
        std::fs::File::open(self.data(id))
            .unwrap()
            .read_exact_at(&mut bytes, 4096)
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn gib(&self, id: &str) -> u64 {
        std::fs::metadata(self.data(id)).unwrap().len() >> 30
    }

    async fn set_job(&self, id: &str, status: Status, job: Job) {
        let id = id.to_owned();
        let set = move |tx: &mut sql::Tx<'_>| {
            let mut volume = db::get::<Volume>(tx, &id)?.unwrap();
            volume.status = status;
            volume.job = Some(job.clone());
            db::save(tx, &volume)
        };
        self.store.write(set).await.unwrap();
    }
}

#[tokio::test]
async fn snapshots_and_copies_hold_what_was_there_then() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    cloud.write(&volume, "first");
    let snapshot = cloud.snapshot(ALICE, &volume).await;
    cloud.write(&volume, "later");
    let copy = cloud.volume(ALICE, json!({"source_volid": volume})).await;
    let old = cloud
        .volume(ALICE, json!({"snapshot_id": snapshot, "size": 3}))
        .await;
    assert_eq!(
        (cloud.read(&copy, 5), cloud.read(&old, 5)),
        ("later".into(), "first".into())
    );
    assert_eq!((cloud.gib(&copy), cloud.gib(&old)), (1, 3));
    let path = format!("/volumes/{volume}");
    cloud.delete(ALICE, &path).await.is(400);
    let revert = |id: &str| json!({"snapshot_id": id});
    cloud
        .act(ALICE, &volume, "revert", revert(&copy))
        .await
        .is(400);
    cloud
        .act(ALICE, &volume, "revert", revert(&snapshot))
        .await
        .is(202);
    cloud.wait("volume", &volume, "available").await;
    assert_eq!(cloud.read(&volume, 5), "first");
    for body in [
        json!({"source_volid": old, "size": 1}),
        json!({"snapshot_id": snapshot, "source_volid": old}),
    ] {
        cloud
            .call(ALICE, "POST", "/volumes", json!({"volume": body}))
            .await
            .is(400);
    }
    cloud
        .delete(ALICE, &format!("{path}?cascade=True"))
        .await
        .is(202);
    cloud.wait("volume", &volume, "gone").await;
    cloud.wait("snapshot", &snapshot, "gone").await;
    assert_eq!(
        (
            cloud.files("volumes"),
            cloud.files("snapshots"),
            cloud.files("staging")
        ),
        (2, 0, 0)
    );
    assert_eq!(cloud.read(&old, 5), "first");
}

#[tokio::test]
async fn volumes_grow() {
    let cloud = Cloud::with(|config| config.quota_gigabytes = 10, None).await;
    let volume = cloud.volume(ALICE, json!({})).await;
    cloud.write(&volume, "here");
    let to = |size: Value| json!({"new_size": size});
    for (size, status) in [
        (json!(1), 400),
        (json!(0), 400),
        (json!("x"), 400),
        (json!(null), 400),
        (json!(11), 413),
        (json!(2), 202),
    ] {
        cloud
            .act(ALICE, &volume, "os-extend", to(size))
            .await
            .is(status);
    }
    cloud.wait("volume", &volume, "available").await;
    assert_eq!(
        (cloud.gib(&volume), cloud.read(&volume, 4)),
        (2, "here".into())
    );
    // In use: only from 3.42.
    let body = json!({"attachment": {"volume_uuid": volume, "instance_uuid": volume, "connector": {"host": "h"}}});
    let made = cloud
        .call(SERVICE, "POST", "/attachments", body)
        .await
        .is(200);
    let path = format!(
        "/attachments/{}/action",
        made["attachment"]["id"].as_str().unwrap()
    );
    cloud
        .call(SERVICE, "POST", &path, json!({"os-complete": null}))
        .await
        .is(204);
    cloud
        .act("p1:member@3.41", &volume, "os-extend", to(json!(3)))
        .await
        .is(400);
    cloud
        .act(ALICE, &volume, "os-extend", to(json!(3)))
        .await
        .is(202);
    cloud.wait("volume", &volume, "in-use").await;
    assert_eq!(cloud.gib(&volume), 3);
}

/// A small image service: one raw image with some data; takes any upload.
#[derive(Clone, Default)]
pub struct FewImages {
    uploaded: Arc<Mutex<Vec<u8>>>,
    fail: bool,
    /// What the new image shows before it is `queued`, look by look.
    first: Arc<Mutex<Vec<&'static str>>>,
    /// Whether it shows that for ever.
    stays: bool,
    /// Uploads that are refused because it does not wait for data.
    conflicts: Arc<AtomicU32>,
    /// Requests that are answered with 503.
    away: Arc<AtomicU32>,
    removed: Arc<AtomicBool>,
}

/// Whether something was left of a number that is one less now.
fn one_less(number: &AtomicU32) -> bool {
    let fewer = |left: u32| left.checked_sub(1);
    let counted = number.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
    counted.is_ok()
}

pub const IMAGE: &str = "7d5c3a0f-2f3e-4f6c-9c2f-0123456789ab";

impl FewImages {
    pub fn router(&self) -> axum::Router {
        let state = self.clone();
        axum::Router::new().fallback(move |request: axum::extract::Request| {
            let state = state.clone();
            async move { state.answer(request).await }
        })
    }

    fn status(&self) -> &'static str {
        let mut first = self.first.lock().unwrap();
        match first.first() {
            Some(status) if self.stays => status,
            Some(_) => first.remove(0),
            None => "queued",
        }
    }

    fn refuses(&self) -> bool {
        one_less(&self.conflicts)
    }

    async fn answer(&self, request: axum::extract::Request) -> axum::response::Response {
        use axum::response::IntoResponse;
        let path = request.uri().path().to_owned();
        if one_less(&self.away) {
            return http::StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        match (request.method().as_str(), path.as_str()) {
            ("GET", p) if p == format!("/v2/images/{IMAGE}/file") => {
                let mut data = vec![0; 8192];
                data[4096..4101].copy_from_slice(b"image");
                data.into_response()
            }
            ("GET", p) if p == format!("/v2/images/{IMAGE}") => axum::Json(json!({
                "id": IMAGE, "name": "img", "status": "active", "disk_format": "raw", "container_format": "bare",
                "size": 8192, "min_disk": 1, "min_ram": 0, "checksum": "c", "hw_disk_bus": "scsi",
            }))
            .into_response(),
            ("GET", "/v2/images/new") => axum::Json(json!({"id": "new", "status": self.status()})).into_response(),
            ("DELETE", "/v2/images/new") => {
                self.removed.store(true, Ordering::SeqCst);
                http::StatusCode::NO_CONTENT.into_response()
            }
            ("PUT", "/v2/images/new/file") if self.refuses() => http::StatusCode::CONFLICT.into_response(),
            ("GET", "/v2/images") => axum::Json(json!({"images": []})).into_response(),
            ("POST", "/v2/images") => {
                (http::StatusCode::CREATED, axum::Json(json!({"id": "new", "status": "queued"}))).into_response()
            }
            ("PUT", "/v2/images/new/file") if !self.fail => {
                let bytes = web::body::bytes(request.into_body(), usize::MAX).await.unwrap();
                *self.uploaded.lock().unwrap() = bytes[..8192].to_vec();
                http::StatusCode::NO_CONTENT.into_response()
            }
            _ => http::StatusCode::NOT_FOUND.into_response(),
        }
    }
}

#[tokio::test]
async fn images_become_volumes_and_volumes_images() {
    let images = FewImages::default();
    let cloud = Cloud::with(|_| (), Some(images.router())).await;
    let body = |image: &str| json!({"volume": {"size": 1, "imageRef": image}});
    cloud
        .call(ALICE, "POST", "/volumes", body("nothing"))
        .await
        .is(400);
    let volume = cloud
        .volume(ALICE, json!({"size": 1, "imageRef": IMAGE}))
        .await;
    assert_eq!(
        (cloud.read(&volume, 5), cloud.gib(&volume)),
        ("image".into(), 1)
    );
    let shown = cloud
        .get(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(200);
    assert_eq!(shown["volume"]["bootable"], "true");
    assert_eq!(
        shown["volume"]["volume_image_metadata"]["hw_disk_bus"],
        "scsi"
    );
    assert_eq!(shown["volume"]["volume_image_metadata"]["image_id"], IMAGE);
    cloud.write(&volume, "mine!");
    let upload = json!({"image_name": "up", "disk_format": "raw"});
    let answer = cloud
        .act(ALICE, &volume, "os-volume_upload_image", upload.clone())
        .await
        .is(202);
    assert_eq!(answer["os-volume_upload_image"]["status"], "uploading");
    cloud.wait("volume", &volume, "available").await;
    assert_eq!(&images.uploaded.lock().unwrap()[4096..4101], b"mine!");
    let meta = json!({"metadata": {"a": "b"}});
    cloud
        .act(ALICE, &volume, "os-set_image_metadata", meta)
        .await
        .is(200);
    cloud
        .act(
            ALICE,
            &volume,
            "os-unset_image_metadata",
            json!({"key": "a"}),
        )
        .await
        .is(200);
    cloud
        .act(
            ALICE,
            &volume,
            "os-unset_image_metadata",
            json!({"key": "a"}),
        )
        .await
        .is(404);
    cloud
        .act(ALICE, &volume, "os-reimage", json!({"image_id": IMAGE}))
        .await
        .is(202);
    cloud.wait("volume", &volume, "available").await;
    assert_eq!(cloud.read(&volume, 5), "image");
    // An upload that fails leaves the volume as it was, and a message.
    let broken = FewImages {
        fail: true,
        ..FewImages::default()
    };
    let cloud = Cloud::with(|_| (), Some(broken.router())).await;
    let volume = cloud.volume(ALICE, json!({})).await;
    cloud
        .act(ALICE, &volume, "os-volume_upload_image", upload)
        .await
        .is(202);
    cloud.wait("volume", &volume, "available").await;
    let messages = cloud.get(ALICE, "/messages").await.is(200);
    assert_eq!(messages["messages"][0]["resource_uuid"], json!(volume));
}

#[tokio::test]
async fn a_restart_goes_on_with_everything() {
    let images = FewImages::default();
    let cloud = Cloud::with(|_| (), Some(images.router())).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(cloud.volume(ALICE, json!({})).await);
    }
    let snapshot = cloud.snapshot(ALICE, &ids[4]).await;
    cloud.write(&ids[4], "later");
    cloud.write(&ids[0], "junk!");
    // As a process leaves it that is killed in the middle of each.
    cloud
        .set_job(
            &ids[0],
            Status::Creating,
            Job::Create(crate::model::Source::Image(IMAGE.into())),
        )
        .await;
    cloud.set_job(&ids[1], Status::Deleting, Job::Delete).await;
    cloud
        .set_job(
            &ids[2],
            Status::Extending,
            Job::Extend(4, Status::Available),
        )
        .await;
    cloud
        .set_job(
            &ids[3],
            Status::Uploading,
            Job::Upload("new".into(), "raw".into(), Status::Available),
        )
        .await;
    cloud
        .set_job(
            &ids[4],
            Status::Reverting,
            Job::Revert(snapshot, Status::Available),
        )
        .await;
    cloud
        .set_job(
            &ids[5],
            Status::Creating,
            Job::Create(crate::model::Source::Snapshot("gone".into())),
        )
        .await;
    std::fs::write(cloud.data("orphan"), "x").unwrap();
    std::fs::write(cloud.folder.path().join("volumes/staging/half"), "x").unwrap();
    let later = cloud.restarted(Some(images.router())).await;
    later.wait("volume", &ids[0], "available").await;
    assert_eq!(cloud.read(&ids[0], 5), "image");
    later.wait("volume", &ids[1], "gone").await;
    later.wait("volume", &ids[2], "available").await;
    assert_eq!(cloud.gib(&ids[2]), 4);
    later.wait("volume", &ids[3], "available").await;
    assert_eq!(images.uploaded.lock().unwrap().len(), 8192);
    later.wait("volume", &ids[4], "available").await;
    assert_eq!(cloud.read(&ids[4], 5), "\0\0\0\0\0");
    later.wait("volume", &ids[5], "error").await;
    assert_eq!((cloud.files("volumes"), cloud.files("staging")), (5, 0));
    assert!(!cloud.data("orphan").exists());
}

/// Two services in one folder would remove each other's files and end each other's exports.
#[tokio::test]
async fn a_folder_has_one_service_at_a_time() {
    let cloud = Cloud::new().await;
    let config = (*cloud.service.inner.config).clone();
    // What a copy, an upload or a conversion is at.
    let making = cloud.service.inner.files.staging();
    making.create().unwrap();
    let second = Service::open(config, deps(&cloud.store, None))
        .await
        .unwrap();
    let refused = second.begin().await.unwrap_err();
    let folder = cloud.folder.path().join("volumes");
    assert!(making.path().exists(), "it is the first one's");
    let told = refused.to_string();
    let holder = format!("process {} on host kilonova", std::process::id());
    for words in [folder.to_str().unwrap(), holder.as_str(), "stop that one"] {
        assert!(told.contains(words), "{told}");
    }
    // The first one goes on, and takes its own folder as often as it likes.
    cloud.service.begin().await.unwrap();
    cloud.volume(ALICE, json!({})).await;
    // Nothing is left of one that has ended, however it did.
    drop(cloud.service.held().take());
    begun(&second).await;
}

#[tokio::test]
async fn what_cannot_be_made_is_in_error_and_can_be_removed() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    std::fs::remove_file(cloud.data(&volume)).unwrap();
    let body = json!({"volume": {"source_volid": volume}});
    let made = cloud.call(ALICE, "POST", "/volumes", body).await.is(202);
    let id = made["volume"]["id"].as_str().unwrap();
    cloud.wait("volume", id, "error").await;
    assert_eq!(
        cloud.get(ALICE, "/messages").await.is(200)["messages"][0]["resource_uuid"],
        json!(id)
    );
    cloud.delete(ALICE, &format!("/volumes/{id}")).await.is(202);
    cloud.wait("volume", id, "gone").await;
    // Administrators force what is stuck.
    cloud
        .act(
            ADMIN,
            &volume,
            "os-reset_status",
            json!({"status": "creating"}),
        )
        .await
        .is(202);
    cloud
        .delete(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(400);
    cloud
        .act(ALICE, &volume, "os-force_delete", json!({}))
        .await
        .is(403);
    cloud
        .act(ADMIN, &volume, "os-force_delete", json!({}))
        .await
        .is(202);
    cloud.wait("volume", &volume, "gone").await;
}

#[tokio::test]
async fn snapshots_are_changed_and_removed() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let snapshot = cloud.snapshot(ALICE, &volume).await;
    let path = format!("/snapshots/{snapshot}");
    let shown = cloud.get(READER, &path).await.is(200);
    assert_eq!(
        shown["snapshot"]["os-extended-snapshot-attributes:progress"],
        "100%"
    );
    let body = json!({"snapshot": {"name": "n", "description": "d"}});
    assert_eq!(
        cloud.call(ALICE, "PUT", &path, body).await.is(200)["snapshot"]["name"],
        "n"
    );
    let listed = cloud
        .get(
            ALICE,
            &format!("/snapshots/detail?volume_id={volume}&name=n"),
        )
        .await
        .is(200);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1);
    let act = format!("{path}/action");
    cloud
        .call(
            ALICE,
            "POST",
            &act,
            json!({"os-reset_status": {"status": "error"}}),
        )
        .await
        .is(403);
    cloud
        .call(
            ADMIN,
            "POST",
            &act,
            json!({"os-reset_status": {"status": "creating"}}),
        )
        .await
        .is(202);
    cloud.delete(ALICE, &path).await.is(400);
    let update = json!({"os-update_snapshot_status": {"status": "error", "progress": "80%"}});
    cloud.call(ALICE, "POST", &act, update).await.is(202);
    cloud.delete(BOB, &path).await.is(404);
    cloud.delete(ALICE, &path).await.is(202);
    cloud.wait("snapshot", &snapshot, "gone").await;
    assert_eq!(cloud.files("snapshots"), 0);
    for body in [
        json!({"snapshot": {}}),
        json!({"snapshot": {"volume_id": "x"}}),
        json!({"snapshot": {"volume_id": volume, "force": false}}),
    ] {
        cloud.call(ALICE, "POST", "/snapshots", body).await.is(400);
    }
    let of_none = json!({"snapshot": {"volume_id": null}});
    let refused = cloud.call(ALICE, "POST", "/snapshots", of_none).await;
    refused.is(404);
}

/// As a process leaves it that is killed while it sends: the image service may not have noticed yet.
#[tokio::test]
async fn an_upload_that_was_broken_off_is_repeated_or_taken_back() {
    for (first, conflicts, stays, repeated) in [
        (vec![], 0, false, true),
        (vec!["saving"], 0, false, true),
        (vec!["saving", "saving"], 1, false, true),
        (vec!["saving"], 0, true, false),
        (vec![], u32::MAX, false, false),
        (vec!["killed"], 0, true, false),
    ] {
        let case = format!("{first:?} {conflicts} {stays}");
        let images = FewImages {
            first: Arc::new(Mutex::new(first)),
            conflicts: Arc::new(AtomicU32::new(conflicts)),
            stays,
            ..FewImages::default()
        };
        let patience = if repeated { 60 } else { 0 };
        let change = |config: &mut crate::Config| {
            config.broken_upload = Duration::from_secs(patience);
        };
        let cloud = Cloud::with(change, Some(images.router())).await;
        let volume = cloud.volume(ALICE, json!({})).await;
        cloud.write(&volume, "whole");
        let job = Job::Upload("new".into(), "raw".into(), Status::Available);
        cloud.set_job(&volume, Status::Uploading, job).await;
        let later = cloud.restarted(Some(images.router())).await;
        later.wait("volume", &volume, "available").await;
        let sent = images.uploaded.lock().unwrap().clone();
        let whole = sent.get(4096..4101) == Some(b"whole");
        assert_eq!(whole, repeated, "{case}");
        assert_eq!(images.removed.load(Ordering::SeqCst), !repeated, "{case}");
        let messages = later.get(ALICE, "/messages").await.is(200);
        let told = messages["messages"].as_array().map_or(0, Vec::len);
        assert_eq!(told, usize::from(!repeated), "{case}: {messages}");
    }
}

/// An image service that is restarted is waited for; what the owner is told of other troubles names nothing of this machine.
#[tokio::test]
async fn a_volume_waits_for_the_image_service() {
    for (away, patience, image, status, words) in [
        (3, 60, IMAGE, "available", None),
        (
            u32::MAX,
            0,
            IMAGE,
            "error",
            Some("copy image to volume:An unknown error occurred."),
        ),
        (
            0,
            60,
            "gone",
            "error",
            Some("copy image to volume:image gone is gone."),
        ),
    ] {
        let images = FewImages {
            away: Arc::new(AtomicU32::new(away)),
            ..FewImages::default()
        };
        let change = |config: &mut crate::Config| {
            config.broken_upload = Duration::from_secs(patience);
        };
        let cloud = Cloud::with(change, Some(images.router())).await;
        let volume = cloud.volume(ALICE, json!({})).await;
        let job = Job::Create(Source::Image(image.to_owned()));
        cloud.set_job(&volume, Status::Creating, job).await;
        let later = cloud.restarted(Some(images.router())).await;
        later.wait("volume", &volume, status).await;
        let messages = later.get(ALICE, "/messages").await.is(200);
        assert_eq!(messages["messages"][0]["user_message"].as_str(), words);
    }
}

/// The request that wrote a job may not come to begin it, and its outcome may not be written: nobody waits for a restart.
#[tokio::test]
async fn a_job_that_nobody_has_begun_is_done() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    cloud
        .set_job(
            &volume,
            Status::Extending,
            Job::Extend(2, Status::Available),
        )
        .await;
    let stop = tokio_util::sync::CancellationToken::new();
    let (service, stopped) = (cloud.service.clone(), stop.clone());
    let keeping = tokio::spawn(async move { service.keep(stopped).await });
    cloud.wait("volume", &volume, "available").await;
    assert_eq!(cloud.gib(&volume), 2);
    stop.cancel();
    keeping.await.unwrap();
}
