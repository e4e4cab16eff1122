//! Volumes of servers that exist: `/servers/{id}/os-volume_attachments`.

use crate::call::{Call, Reply};
use crate::devices;
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow_and};
use crate::idempotency::Answer;
use crate::mv;
use crate::neighbours::unavailable;
use crate::schemas::is_true;
use crate::verdict;
use clients::volumes::{Scope, VolumeRecord};
use db::accept;
use db::block_devices::{self, BlockDevice};
use db::instances::Instance;
use db::tasks::{Phase, Task};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::time::Duration;
use types::disks::{Destination, Source};
use types::{ServerId, Timestamp, VmState};

const OUTER: &str = "volumeAttachment";
const SWAP: &str = "os_compute_api:os-volumes-attachments:swap";

impl Call {
    /// The caller's own right at the volume service.
    pub fn volume_scope(&self) -> Scope {
        Scope::new(self.token.as_str(), self.project())
    }

    /// A volume that the caller may see.
    pub async fn volume(&self, id: &str) -> Result<Option<VolumeRecord>, Fault> {
        let found = self.api.deps.volumes.volume(&self.volume_scope(), id).await;
        found.map_err(unavailable)
    }

    /// The disks of a server.
    pub async fn devices_of(&self, server: ServerId) -> Result<Vec<BlockDevice>, Fault> {
        let store = &self.api.deps.store;
        let found = store.read(move |tx| block_devices::of_server(tx, server));
        Ok(found.await?)
    }
}

fn no_volume(id: &str) -> Fault {
    Fault::not_found(format!("Volume {id} could not be found."))
}

fn not_attached(call: &Call, volume: &str) -> Fault {
    Fault::not_found(format!(
        "Instance {} is not attached to volume {volume}",
        call.param(0)
    ))
}

fn invalid(reason: impl std::fmt::Display) -> Fault {
    Fault::bad_request(format!("Invalid volume: {reason}"))
}

/// What a volume in the wrong state makes of an attachment, in the volume service's words.
pub fn must_be_free(volume: &VolumeRecord) -> Result<(), Fault> {
    let shared = volume.multiattach && volume.status == "in-use";
    if volume.status == "available" || shared {
        return Ok(());
    }
    Err(Fault::bad_request(format!(
        "Invalid input received: Invalid volume: Volume {} status must be available or downloading to reserve, but the \
         current status is {}.",
        volume.id, volume.status
    )))
}

/// Refuses what connects a server's volumes anew while one of them is not in use, in Nova's words.
pub async fn all_in_use(
    call: &Call,
    server: ServerId,
    refused: fn(String) -> Fault,
) -> Result<(), Fault> {
    let devices = call.devices_of(server).await?;
    for id in devices.into_iter().filter_map(|device| device.volume_id) {
        let volume = call.volume(&id).await?.ok_or_else(|| no_volume(&id))?;
        if volume.status != "in-use" {
            let status = &volume.status;
            return Err(refused(format!(
                "Invalid volume: volume '{id}' status must be 'in-use'. Currently in '{status}' status"
            )));
        }
    }
    Ok(())
}

/// A multiattach volume in a version that does not know such.
pub fn version_knows(call: &Call, volume: &VolumeRecord) -> Result<(), Fault> {
    if volume.multiattach && !call.at_least(mv::MULTIATTACH) {
        return Err(Fault::bad_request(
            "Multiattach volumes are only supported starting with compute API version 2.60.",
        ));
    }
    Ok(())
}

/// Refuses a volume that a server of ours has already.
pub fn must_not_be_attached(
    tx: &mut sql::Tx<'_>,
    server: ServerId,
    volume: &str,
    multiattach: bool,
) -> Result<(), Fault> {
    let holders = block_devices::holders(tx, volume)?;
    if holders.is_empty() {
        return Ok(());
    }
    if !multiattach {
        let ids: Vec<String> = holders.iter().map(ToString::to_string).collect();
        return Err(invalid(format!(
            "volume {volume} is already attached to instances: {}",
            ids.join(" ")
        )));
    }
    if holders.contains(&server) {
        return Err(invalid(format!("volume {volume} already attached")));
    }
    Ok(())
}

/// One attachment at the version asked for; none where the version wants what is not known yet.
fn shown(call: &Call, device: &BlockDevice) -> Option<Value> {
    let volume = device.volume_id.as_deref()?;
    let with_ids = call.at_least(mv::ATTACHMENT_IDS);
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    if !with_ids {
        put("id", volume.into());
    }
    put("volumeId", volume.into());
    put("serverId", device.server.to_string().into());
    if let Some(name) = &device.device_name {
        put("device", name.as_str().into());
    }
    if call.at_least(mv::INTERFACE_TAGS) {
        put("tag", device.tag.clone().into());
    }
    if call.at_least(mv::ATTACHED_GOES) {
        put("delete_on_termination", device.delete_on_termination.into());
    }
    if with_ids {
        put("attachment_id", device.attachment_id.clone()?.into());
        put("bdm_uuid", device.id.to_string().into());
    }
    Some(map.into())
}

/// `GET /servers/{id}/os-volume_attachments`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let devices = call.devices_of(server.id).await?;
    let page = devices
        .iter()
        .skip(call.offset())
        .take(call.limit_or_most()?);
    let all: Vec<Value> = page.filter_map(|device| shown(&call, device)).collect();
    Reply::ok(&json!({ "volumeAttachments": all }))
}

/// The disk of the server that is the volume in the path.
async fn device(call: &Call, server: &Instance) -> Result<BlockDevice, Fault> {
    let volume = call.param(1).to_owned();
    let mut devices = call.devices_of(server.id).await?;
    devices.retain(|device| device.volume_id.as_deref() == Some(&volume));
    devices.pop().ok_or_else(|| not_attached(call, &volume))
}

/// `GET /servers/{id}/os-volume_attachments/{volume}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let device = device(&call, &server).await?;
    let document = shown(&call, &device).ok_or_else(|| not_attached(&call, call.param(1)))?;
    Reply::ok(&json!({ OUTER: document }))
}

/// Servers on a shelf can have volumes since 2.20.
fn version_knows_shelf(call: &Call, server: &Instance, method: &str) -> Result<(), Fault> {
    let shelved = matches!(
        server.vm_state,
        VmState::Shelved | VmState::ShelvedOffloaded
    );
    if shelved && !call.at_least(mv::VOLUMES_ON_SHELF) {
        return Err(Fault::conflict(format!(
            "Cannot '{method}' instance {} while it is in vm_state {}",
            server.id,
            server.vm_state.as_str()
        )));
    }
    Ok(())
}

/// `POST /servers/{id}/os-volume_attachments`.
pub async fn attach(call: Call) -> Result<Reply, Fault> {
    let text = |name: &str| call.text(OUTER, name).map(str::to_owned);
    let volume_id = text("volumeId").unwrap_or_default();
    let (wish, tag) = (text("device"), text("tag"));
    let goes = call
        .field(OUTER, "delete_on_termination")
        .is_some_and(is_true);
    let server = call.server().await?;
    version_knows_shelf(&call, &server, "attach_volume")?;
    verdict::ATTACH_VOLUME.check(&call, &server)?;
    let volume = call
        .volume(&volume_id)
        .await?
        .ok_or_else(|| no_volume(&volume_id))?;
    if server.vm_state == VmState::ShelvedOffloaded {
        fit_for_shelf(tag.is_some(), &volume)?;
    }
    {
        let (id, volume) = (volume.id.clone(), volume.multiattach);
        let server = server.id;
        let store = &call.api.deps.store;
        store
            .read(move |tx| must_not_be_attached(tx, server, &id, volume))
            .await?;
    }
    version_knows(&call, &volume)?;
    must_be_free(&volume)?;
    let new = BlockDevice {
        volume_id: Some(volume.id.clone()),
        volume_size: Some(volume.size),
        delete_on_termination: goes,
        tag: tag.clone(),
        ..BlockDevice::new(server.id, Source::Volume, Destination::Volume)
    };
    let action = Wanted {
        rule: verdict::ATTACH_VOLUME,
        action: "attach_volume",
        flow: accept::ATTACH_VOLUME,
        state: json!({ "volume": volume.id }),
        task_state: None,
        answer: Answer::Later,
    };
    let (multiattach, id) = (volume.multiattach, new.id);
    start_flow_and(&call, action, move |tx, server| {
        must_not_be_attached(tx, server.id, &volume.id, multiattach)?;
        let mut new = new.clone();
        if server.vm_state != VmState::ShelvedOffloaded {
            let there = block_devices::of_server(tx, server.id)?;
            let taken = there.iter().filter_map(|one| one.device_name.as_deref());
            let root = server.root_device_name.as_deref();
            new.device_name = Some(devices::name(root, taken, wish.as_deref())?);
        }
        Ok(block_devices::insert(tx, &new, Timestamp::now())?)
    })
    .await?;
    if call.at_least(mv::ATTACH_ANSWERS_NOTHING) {
        until_past(&call, &server, &["locate", "connect"]).await?;
        return Ok(Reply::empty(StatusCode::ACCEPTED));
    }
    // Before it is waited: a volume that cannot be connected takes the disk off the record again.
    let all = call.devices_of(server.id).await?;
    until_past(&call, &server, &["locate", "connect"]).await?;
    let name = all
        .into_iter()
        .find(|one| one.id == id)
        .and_then(|one| one.device_name);
    let mut answer =
        json!({ "id": volume_id, "serverId": server.id, "volumeId": volume_id, "device": name });
    if call.at_least(mv::INTERFACE_TAGS) {
        answer["tag"] = tag.into();
    }
    if call.at_least(mv::ATTACHED_GOES) {
        answer["delete_on_termination"] = goes.into();
    }
    Reply::ok(&json!({ OUTER: answer }))
}

/// What cannot be given to a server without a host.
fn fit_for_shelf(tagged: bool, volume: &VolumeRecord) -> Result<(), Fault> {
    let what = if tagged {
        "Tagged volume attachment is not supported for shelved-offloaded instances."
    } else if volume.multiattach {
        "Attaching multiattach volumes is not supported for shelved-offloaded instances."
    } else {
        return Ok(());
    };
    Err(Fault::bad_request(what))
}

/// `DELETE /servers/{id}/os-volume_attachments/{volume}`.
pub async fn detach(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    version_knows_shelf(&call, &server, "detach_volume")?;
    let volume_id = call.param(1).to_owned();
    // A volume that is gone is taken from a server that has it on record; else the server would show it for ever.
    let volume = call.volume(&volume_id).await?;
    let device = match (device(&call, &server).await, &volume) {
        (Err(_), None) => return Err(no_volume(&volume_id)),
        (found, _) => found?,
    };
    if device.is_root() {
        return Err(Fault::bad_request("Cannot detach a root device volume"));
    }
    verdict::DETACH_VOLUME.check(&call, &server)?;
    if server.vm_state != VmState::ShelvedOffloaded {
        host_must_be_up(&call, &server).await?;
        if let Some(volume) = &volume {
            must_be_in_use(volume)?;
        }
    }
    let action = Wanted {
        rule: verdict::DETACH_VOLUME,
        action: "detach_volume",
        flow: accept::DETACH_VOLUME,
        state: json!({ "volume": volume_id }),
        task_state: None,
        answer: Answer::Later,
    };
    let gone = not_attached(&call, &volume_id);
    start_flow_and(&call, action, move |tx, server| {
        let there = block_devices::of_volume(tx, server.id, &volume_id)?;
        there.map(drop).ok_or_else(|| gone.clone())
    })
    .await?;
    until_past(&call, &server, &["locate"]).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Waits until the task of this request has left its first steps: when the request is answered, others see at the volume
/// what is going on with it. A few short looks into the database; a task that takes longer goes on all the same.
async fn until_past(call: &Call, server: &Instance, steps: &[&str]) -> Result<(), Fault> {
    let until = tokio::time::Instant::now() + call.api.config.seen_within;
    let mut pause = Duration::from_millis(5);
    while tokio::time::Instant::now() < until {
        let (id, request) = (server.id, call.request_id.to_string());
        let store = &call.api.deps.store;
        let read = store.read(move |tx| db::tasks::of_request(tx, id, &request));
        let found: Result<Option<Task>, sql::Error> = read.await;
        let ahead = found?.is_some_and(|task| {
            let at = task.step.as_deref();
            task.phase == Phase::Running && at.is_none_or(|at| steps.contains(&at))
        });
        if !ahead {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
    Ok(())
}

fn must_be_in_use(volume: &VolumeRecord) -> Result<(), Fault> {
    if volume.status == "in-use" {
        return Ok(());
    }
    Err(invalid(
        "Invalid input received: Invalid volume: Unable to detach volume. Volume status must be 'in-use' and \
         attach_status must be 'attached' to detach.",
    ))
}

async fn host_must_be_up(call: &Call, server: &Instance) -> Result<(), Fault> {
    let Some(host) = server.host.clone() else {
        return Err(Fault::conflict(format!(
            "Instance {} is not ready",
            server.id
        )));
    };
    let services = call.api.deps.store.read(db::hosts::services);
    let services: Vec<db::hosts::Service> = services.await?;
    let (now, most) = (Timestamp::now(), call.api.config.service_down_micros);
    let up = services
        .iter()
        .any(|one| one.host == host && one.binary == "nova-compute" && one.is_up(now, most));
    if up {
        Ok(())
    } else {
        Err(Fault::conflict("Service is unavailable at this time."))
    }
}

/// `PUT /servers/{id}/os-volume_attachments/{volume}`: whether the volume goes with the server (2.85), and another volume
/// instead of it, which only a volume service that moves the volume may ask for.
pub async fn update(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let old = call.param(1).to_owned();
    let new = call.text(OUTER, "volumeId").unwrap_or_default().to_owned();
    let only_swap = !call.at_least(mv::CHANGE_ATTACHMENT);
    let swaps = only_swap || old != new;
    if swaps {
        call.require_for(SWAP, "", "")?;
    }
    if !only_swap {
        change(&call, &server, &old).await?;
    }
    if swaps {
        swap(&call, &server, &old, &new).await?;
    }
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// Writes `delete_on_termination`; nothing else may differ.
async fn change(call: &Call, server: &Instance, volume: &str) -> Result<(), Fault> {
    let unknown = || Fault::not_found(format!("No volume Block Device Mapping with id {volume}."));
    let found = device(call, server).await.map_err(|_| unknown())?;
    let said = |name: &str| call.field(OUTER, name).map(|value| value.as_str());
    let server_id = server.id.to_string();
    let changed = [
        ("id", Some(volume)),
        ("serverId", Some(&server_id[..])),
        ("device", found.device_name.as_deref()),
        ("tag", found.tag.as_deref()),
    ]
    .into_iter()
    .find(|(name, value)| said(name).is_some_and(|said| said != *value));
    if let Some((name, _)) = changed {
        return Err(Fault::bad_request(format!(
            "The {name} property is not mutable"
        )));
    }
    let Some(goes) = call.field(OUTER, "delete_on_termination").map(is_true) else {
        return Ok(());
    };
    let id = found.id;
    let write = move |tx: &mut sql::Tx<'_>| block_devices::set_delete_on_termination(tx, id, goes);
    let there: Result<bool, sql::Error> = call.api.deps.store.write(write).await;
    if there? { Ok(()) } else { Err(unknown()) }
}

async fn swap(call: &Call, server: &Instance, old: &str, new: &str) -> Result<(), Fault> {
    let old_volume = call.volume(old).await?.ok_or_else(|| no_volume(old))?;
    if old_volume.migration_status.is_empty() {
        return Err(Fault::conflict(format!(
            "volume {old} is not migrating; this API should only be called by Cinder"
        )));
    }
    let new_volume = call.volume(new).await?;
    let new_volume = new_volume
        .ok_or_else(|| Fault::bad_request(format!("Volume {new} could not be found.")))?;
    verdict::SWAP_VOLUME.check(call, server)?;
    let of_server = server.id.to_string();
    if !old_volume
        .attachments
        .iter()
        .any(|(holder, _)| *holder == of_server)
    {
        return Err(invalid("Old volume is attached to a different instance."));
    }
    if new_volume.status == "in-use" {
        return Err(invalid("New volume must be detached in order to swap."));
    }
    if new_volume.size < old_volume.size {
        return Err(invalid("New volume must be the same size or larger."));
    }
    if old_volume.attachments.len() > 1 {
        return Err(Fault::bad_request(
            "Swapping multi-attach volumes with more than one read/write attachment is not supported.",
        ));
    }
    device(call, server)
        .await
        .map_err(|_| Fault::not_found(format!("No volume Block Device Mapping with id {old}.")))?;
    let action = Wanted {
        rule: verdict::SWAP_VOLUME,
        action: "swap_volume",
        flow: accept::SWAP_VOLUME,
        state: json!({ "old": old, "new": new }),
        task_state: None,
        answer: Answer::Later,
    };
    let multiattach = new_volume.multiattach;
    start_flow_and(call, action, move |tx, server| {
        must_not_be_attached(tx, server.id, &new_volume.id, multiattach)
    })
    .await?;
    Ok(())
}
