//! `/os-volumes` and `/os-snapshots`: what older clients ask compute about volumes, answered by the volume service (until
//! 2.36).

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::neighbours::unavailable;
use crate::schemas::{is_true, number};
use clients::volumes::{Refused, SnapshotRecord, VolumeRecord};
use clients::{ClientError, Volumes};
use http::StatusCode;
use serde_json::{Value, json};

fn volumes(call: &Call) -> &Volumes {
    &call.api.deps.volumes
}

fn no_volume(id: &str) -> Fault {
    Fault::not_found(format!("Volume {id} could not be found."))
}

fn no_snapshot(id: &str) -> Fault {
    Fault::not_found(format!("Snapshot {id} could not be found."))
}

/// A refusal as Nova passes it on: quotas are forbidden here, everything else that is wrong is bad input.
fn refused(reason: &Refused) -> Fault {
    match reason.status {
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::FORBIDDEN => {
            Fault::forbidden(reason.message.as_str())
        }
        StatusCode::NOT_FOUND => Fault::not_found(reason.message.as_str()),
        _ => Fault::bad_request(format!("Invalid input received: {}", reason.message)),
    }
}

fn volume_view(volume: &VolumeRecord) -> Value {
    let document = &volume.document;
    let attachments = document["attachments"].as_array();
    let first = attachments.and_then(|list| list.first());
    let attachment = match first {
        Some(first) => {
            let mut shown =
                json!({ "id": volume.id, "volumeId": volume.id, "serverId": first["server_id"] });
            if first["device"]
                .as_str()
                .is_some_and(|name| !name.is_empty())
            {
                shown["device"] = first["device"].clone();
            }
            shown
        }
        None => json!({}),
    };
    let metadata = match &document["metadata"] {
        Value::Object(map) => Value::from(map.clone()),
        _ => json!({}),
    };
    json!({
        "id": volume.id,
        "status": volume.status,
        "size": volume.size,
        "availabilityZone": volume.availability_zone,
        "createdAt": document["created_at"],
        "attachments": [attachment],
        "displayName": document["name"],
        "displayDescription": document["description"],
        "volumeType": document["volume_type"],
        "snapshotId": document["snapshot_id"],
        "metadata": metadata,
    })
}

fn snapshot_view(snapshot: &SnapshotRecord) -> Value {
    let document = &snapshot.document;
    json!({
        "id": snapshot.id,
        "volumeId": snapshot.volume_id,
        "status": snapshot.status,
        "size": snapshot.size,
        "createdAt": document["created_at"],
        "displayName": document["name"],
        "displayDescription": document["description"],
    })
}

/// The part of a list that the query asks for.
fn page<T>(call: &Call, all: &[T], view: impl Fn(&T) -> Value) -> Result<Vec<Value>, Fault> {
    let page = all.iter().skip(call.offset()).take(call.limit_or_most()?);
    Ok(page.map(view).collect())
}

/// `GET /os-volumes` and `GET /os-volumes/detail`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let all = volumes(&call).volumes(&call.volume_scope()).await;
    let shown = page(&call, &all.map_err(unavailable)?, volume_view)?;
    Reply::ok(&json!({ "volumes": shown }))
}

/// `GET /os-volumes/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let found = call.volume(call.param(0)).await?;
    let volume = found.ok_or_else(|| no_volume(call.param(0)))?;
    Reply::ok(&json!({ "volume": volume_view(&volume) }))
}

/// `POST /os-volumes`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let scope = call.volume_scope();
    let text = |name: &str| call.text("volume", name);
    let mut size = call.field("volume", "size").and_then(number);
    if let Some(id) = text("snapshot_id") {
        let found = volumes(&call).snapshot(&scope, id).await;
        let snapshot = found.map_err(unavailable)?.ok_or_else(|| no_snapshot(id))?;
        size = size.or(i64::try_from(snapshot.size).ok());
    }
    let mut wanted = json!({
        "size": size, "name": text("display_name"), "description": text("display_description"),
        "volume_type": text("volume_type"), "snapshot_id": text("snapshot_id"),
        "availability_zone": text("availability_zone"), "metadata": call.field("volume", "metadata"),
    });
    if let Some(fields) = wanted.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let body = json!({ "volume": wanted });
    let made = volumes(&call).make(&scope, &body).await;
    let volume = made
        .map_err(unavailable)?
        .map_err(|reason| refused(&reason))?;
    let location = call.links.own(&format!("/os-volumes/{}", volume.id));
    Ok(Reply::ok(&json!({ "volume": volume_view(&volume) }))?.at(location))
}

/// `DELETE /os-volumes/{id}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let id = call.param(0);
    call.volume(id).await?.ok_or_else(|| no_volume(id))?;
    let gone = volumes(&call).delete_volume(&call.volume_scope(), id).await;
    ended(gone)
}

fn ended(gone: Result<Result<(), Refused>, ClientError>) -> Result<Reply, Fault> {
    gone.map_err(unavailable)?
        .map_err(|reason| refused(&reason))?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `GET /os-snapshots` and `GET /os-snapshots/detail`.
pub async fn snapshots(call: Call) -> Result<Reply, Fault> {
    let all = volumes(&call).snapshots(&call.volume_scope()).await;
    let shown = page(&call, &all.map_err(unavailable)?, snapshot_view)?;
    Reply::ok(&json!({ "snapshots": shown }))
}

/// `GET /os-snapshots/{id}`.
pub async fn snapshot(call: Call) -> Result<Reply, Fault> {
    let id = call.param(0);
    let found = volumes(&call).snapshot(&call.volume_scope(), id).await;
    let found = found.map_err(unavailable)?.ok_or_else(|| no_snapshot(id))?;
    Reply::ok(&json!({ "snapshot": snapshot_view(&found) }))
}

/// `POST /os-snapshots`.
pub async fn create_snapshot(call: Call) -> Result<Reply, Fault> {
    let text = |name: &str| call.text("snapshot", name);
    let volume = text("volume_id").unwrap_or_default();
    let force = call.field("snapshot", "force").is_some_and(is_true);
    let made = volumes(&call)
        .create_snapshot(
            &call.volume_scope(),
            volume,
            text("display_name"),
            text("display_description"),
            force,
        )
        .await;
    let made = made
        .map_err(unavailable)?
        .map_err(|reason| refused(&reason))?;
    Reply::ok(&json!({ "snapshot": snapshot_view(&made) }))
}

/// `DELETE /os-snapshots/{id}`.
pub async fn delete_snapshot(call: Call) -> Result<Reply, Fault> {
    let (id, scope) = (call.param(0), call.volume_scope());
    let found = volumes(&call).snapshot(&scope, id).await;
    found.map_err(unavailable)?.ok_or_else(|| no_snapshot(id))?;
    ended(volumes(&call).delete_snapshot(&scope, id).await)
}
