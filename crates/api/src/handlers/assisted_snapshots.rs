//! Snapshots that the volume service asks compute to take of a volume that a guest uses
//! (`/os-assisted-volume-snapshots`).
//!
//! Nova takes such a snapshot of a volume that is a file on its host, and tells the volume service later whether it
//! could. Volumes here are exports of the volume service, which takes their snapshots itself, so the end is always that
//! the snapshot is in error. The requests and their refusals are Nova's.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::verdict::{self, Rule};
use db::block_devices;
use db::instances::{self, Instance};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use types::ServerId;

/// The server that uses a volume; all refusals are 400.
async fn user(call: &Call, volume: &str, rule: Rule) -> Result<Instance, Fault> {
    let wanted = volume.to_owned();
    let read = move |tx: &mut sql::Tx<'_>| {
        let devices = block_devices::server_with(tx, &wanted)?;
        let servers: Vec<ServerId> = devices.iter().map(|device| device.server).collect();
        let first = servers.first().copied();
        let server = first.map(|id| instances::get(tx, id)).transpose()?;
        Ok((servers.len(), server.flatten()))
    };
    let found: Result<_, sql::Error> = call.api.deps.store.read(read).await;
    let (count, server) = found?;
    if count > 1 {
        return Err(Fault::bad_request(format!(
            "Block Device Mapping {volume} is a multi-attach volume and is not valid for this operation."
        )));
    }
    let server = server.ok_or_else(|| {
        Fault::bad_request(format!("No volume Block Device Mapping with id {volume}."))
    })?;
    match rule.check_as(&server, true) {
        Ok(()) => Ok(server),
        Err(refusal) => Err(Fault::bad_request(refusal.message)),
    }
}

/// Tells the volume service how it ended, as the caller. Nobody waits for it.
async fn report(call: &Call, snapshot: &str, status: &str, server: ServerId) {
    let path = format!(
        "/snapshots/{}/action",
        url::form_urlencoded::byte_serialize(snapshot.as_bytes()).collect::<String>()
    );
    let body = json!({ "os-update_snapshot_status": { "status": status, "progress": "90%" } });
    let scope = call.volume_scope();
    let volumes = &call.api.deps.volumes;
    let told = volumes
        .request(&scope, Method::POST, &path, Some(&body))
        .await;
    let told = told.map(|answer| answer.status.as_u16());
    tracing::warn!(%server, snapshot, status, ?told, "no host here can take the snapshot of a volume");
}

/// `POST /os-assisted-volume-snapshots`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let volume = call.text("snapshot", "volume_id").unwrap_or_default();
    let server = user(&call, volume, verdict::VOLUME_SNAPSHOT_CREATE).await?;
    let info = call.field("snapshot", "create_info");
    let text = |name: &str| info.and_then(|info| info[name].as_str());
    report(
        &call,
        text("snapshot_id").unwrap_or_default(),
        "error",
        server.id,
    )
    .await;
    Reply::ok(&json!({ "snapshot": { "id": text("id"), "volumeId": volume } }))
}

/// `DELETE /os-assisted-volume-snapshots/{id}?delete_info={"volume_id": ...}`.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let missing = |key: &str| Fault::bad_request(format!("'{key}'"));
    let info = call.query.get("delete_info");
    let info = info.ok_or_else(|| missing("delete_info"))?;
    let info: Value = serde_json::from_str(info)
        .map_err(|error| Fault::bad_request(format!("delete_info is not JSON: {error}")))?;
    let volume = info.get("volume_id").ok_or_else(|| missing("volume_id"))?;
    let volume = crate::schemas::python::string(volume);
    let server = user(&call, &volume, verdict::VOLUME_SNAPSHOT_DELETE).await?;
    report(&call, call.param(0), "error_deleting", server.id).await;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
