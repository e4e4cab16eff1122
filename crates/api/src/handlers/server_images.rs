//! `createImage` and `createBackup`: the image is made here, so that it is there when the request is answered; its data
//! comes later.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow};
use crate::handlers::server_metadata::within_quota;
use crate::idempotency::Answer;
use crate::mv;
use crate::neighbours::unavailable;
use crate::schemas::number;
use crate::verdict::{self, Rule};
use db::accept;
use db::instances::Instance;
use http::StatusCode;
use serde_json::{Value, json};
use types::{ImageId, TaskState};

/// Properties that belong to the image a server was made from and not to its disk (Nova's
/// `non_inheritable_image_properties` and those that are never inherited).
const NOT_INHERITED: &[&str] = &[
    "cache_in_nova",
    "bittorrent",
    "cinder_encryption_key_id",
    "cinder_encryption_key_deletion_policy",
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
];
const NOT_INHERITED_NAMESPACE: &str = "os_glance";

/// The image as the Image API wants it. Pure.
fn document(call: &Call, server: &Instance, kind: &str, name: &str, metadata: &Value) -> Value {
    let mut image = json!({
        "name": name,
        "disk_format": if server.is_volume_backed() { "raw" } else { "qcow2" },
        "container_format": "bare",
        "visibility": if server.project_id.as_str() == call.project() { "private" } else { "shared" },
        "min_disk": server.flavor.root_gb,
        "min_ram": server.image.as_ref().map_or(0, |image| image.min_ram),
    });
    if let Some(base) = &server.image {
        let inherited = base.properties.iter().filter(|(name, _)| {
            !NOT_INHERITED.contains(&name.as_str()) && !name.starts_with(NOT_INHERITED_NAMESPACE)
        });
        for (name, value) in inherited {
            image[name] = value.as_str().into();
        }
        image["base_image_ref"] = base.id.to_string().into();
    }
    image["instance_uuid"] = server.id.to_string().into();
    image["user_id"] = call.caller.user_id.as_str().into();
    image["image_type"] = kind.into();
    image["owner_user_name"] = call.caller.user_name.as_str().into();
    if let Some(project) = &call.caller.project_name {
        image["owner_project_name"] = project.as_str().into();
    }
    if server.project_id.as_str() != call.project() {
        image["instance_owner"] = server.project_id.as_str().into();
    }
    for (name, value) in metadata.as_object().into_iter().flatten() {
        image[name] = value.clone();
    }
    image
}

/// Makes the image, then accepts the flow that fills it; when that is refused the image goes.
async fn begin(
    call: &Call,
    wanted: impl FnOnce(ImageId) -> Result<Wanted, Fault>,
    rule: &Rule,
    kind: &str,
    action: &str,
    more: &[(&str, &str)],
) -> Result<Reply, Fault> {
    let server = call.server().await?;
    rule.check(call, &server)?;
    let mut metadata = call
        .field(action, "metadata")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if !call.at_least(mv::NO_IMAGE_METADATA) {
        let (project, count) = (
            call.project().to_owned(),
            metadata.as_object().map_or(0, |all| all.len()),
        );
        let store = &call.api.deps.store;
        store
            .read(move |tx| within_quota(tx, &project, count))
            .await?;
    }
    for (name, value) in more {
        metadata[*name] = (*value).into();
    }
    let name = call.text(action, "name").unwrap_or_default().trim();
    let id = make(call, &server, kind, name, &metadata).await?;
    fill(call, id, wanted(id)?).await
}

/// Makes the image of a server, which waits for its data.
async fn make(
    call: &Call,
    server: &Instance,
    kind: &str,
    name: &str,
    metadata: &Value,
) -> Result<ImageId, Fault> {
    let images = &call.api.deps.images;
    let document = document(call, server, kind, name, metadata);
    let made = images.create(&call.token, &document).await;
    let id = made.map_err(unavailable)?.map_err(Fault::bad_request)?;
    if server.project_id.as_str() != call.project() {
        let shared = images
            .add_member(&call.token, id, server.project_id.as_str())
            .await;
        if let Err(error) = shared {
            tracing::warn!(image = %id, %error, "the server's owner cannot see the image of it");
        }
    }
    Ok(id)
}

/// Starts the flow that fills an image; when that is refused the image goes.
async fn fill(call: &Call, id: ImageId, wanted: Wanted) -> Result<Reply, Fault> {
    let reply = match &wanted.answer {
        Answer::Now(reply) => reply.clone(),
        Answer::Later => Reply::empty(StatusCode::ACCEPTED),
    };
    match start_flow(call, wanted).await {
        Ok(_) => Ok(reply),
        // It may have been taken in all the same.
        Err(doubtful) if doubtful.in_doubt => Err(doubtful),
        Err(refused) => {
            if let Err(error) = call.api.deps.images.delete(&call.token, id).await {
                tracing::warn!(image = %id, %error, "an image that gets no data cannot be deleted");
            }
            Err(refused)
        }
    }
}

/// Makes the image that a server which is shelved leaves behind, and starts the flow that fills it.
pub async fn shelve_into(
    call: &Call,
    server: &Instance,
    wanted: impl FnOnce(ImageId) -> Wanted,
) -> Result<(), Fault> {
    let name = format!("{}-shelved", server.display_name);
    let id = make(call, server, "snapshot", &name, &json!({})).await?;
    fill(call, id, wanted(id)).await.map(drop)
}

fn answer(call: &Call, id: ImageId, location: Option<String>) -> Result<Reply, Fault> {
    if call.at_least(mv::IMAGE_ID_IN_BODY) {
        return Reply::json(StatusCode::ACCEPTED, &json!({ "image_id": id }));
    }
    let reply = Reply::empty(StatusCode::ACCEPTED);
    Ok(match location {
        Some(location) => reply.at(location),
        None => reply,
    })
}

/// Refuses an image whose snapshots of volumes would be over the quota.
async fn room_for_snapshots(call: &Call, server: &Instance) -> Result<(), Fault> {
    let devices = call.devices_of(server.id).await?;
    let wanted = devices.iter().filter(|device| device.is_volume()).count();
    let limits = call
        .api
        .deps
        .volumes
        .snapshot_limits(&call.volume_scope())
        .await;
    let (used, most) = limits.map_err(unavailable)?;
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    if most >= 0 && used.saturating_add(wanted) > most {
        return Err(Fault::forbidden("Quota exceeded for resources: snapshots"));
    }
    Ok(())
}

/// `createImage`.
pub async fn create_image(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let of_volumes = server.is_volume_backed();
    if of_volumes {
        call.require_for(
            "os_compute_api:servers:create_image:allow_volume_backed",
            server.project_id.as_str(),
            server.user_id.as_str(),
        )?;
        verdict::CREATE_IMAGE.check(&call, &server)?;
        room_for_snapshots(&call, &server).await?;
    }
    let wanted = |id| {
        let url = call.api.config.image_url.trim_end_matches('/');
        Ok(Wanted {
            rule: verdict::CREATE_IMAGE,
            action: "createImage",
            flow: if of_volumes {
                accept::SNAPSHOT_VOLUMES
            } else {
                accept::SNAPSHOT
            },
            state: json!({ "image": id }),
            task_state: Some(TaskState::ImageSnapshotPending),
            answer: Answer::Now(answer(&call, id, Some(format!("{url}/images/{id}")))?),
        })
    };
    begin(
        &call,
        wanted,
        &verdict::CREATE_IMAGE,
        "snapshot",
        "createImage",
        &[],
    )
    .await
}

/// `createBackup`: a snapshot, after which only the newest few of its kind are kept.
pub async fn create_backup(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    if server.is_volume_backed() {
        verdict::CREATE_BACKUP.check(&call, &server)?;
        return Err(Fault::bad_request(
            "Backup is not supported for volume-backed instances.",
        ));
    }
    let kind = call
        .text("createBackup", "backup_type")
        .unwrap_or_default()
        .to_owned();
    let keep = call
        .field("createBackup", "rotation")
        .and_then(number)
        .unwrap_or(0);
    let wanted = |id| {
        let location = (keep > 0).then(|| call.links.own(&format!("/images/{id}")));
        Ok(Wanted {
            rule: verdict::CREATE_BACKUP,
            action: "createBackup",
            flow: accept::BACKUP,
            state: json!({ "image": id, "rotation": { "kind": kind, "keep": keep, "owner": call.project() } }),
            task_state: Some(TaskState::ImageBackup),
            answer: Answer::Now(answer(&call, id, location)?),
        })
    };
    let more = [("backup_type", &kind[..])];
    begin(
        &call,
        wanted,
        &verdict::CREATE_BACKUP,
        "backup",
        "createBackup",
        &more,
    )
    .await
}
