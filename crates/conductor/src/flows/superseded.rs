//! What a task had begun that another one took over: where something of its server may be, and what an evacuation takes
//! back of it. The host that would have had to do that is down, and owes the removal of all that it has.

use super::{
    attach_volume, build, detach_volume, evacuate, interfaces, live_migration, ports, resize,
    shelve, snapshot, snapshot_volumes, swap_volume, unshelve, volumes,
};
use crate::neighbours::{Neighbours, retry};
use db::accept;
use db::block_devices::{self, BlockDevice};
use db::instances::Instance;
use db::migrations::{self, Status};
use db::moves;
use journal::{Context, StepError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sql::Tx;
use types::server::WantedInterface;
use types::{HostName, ImageId, Timestamp};

/// The task that was taken over, as it stood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Superseded {
    pub(super) flow: String,
    pub(super) state: String,
}

impl Superseded {
    /// Its state, if it was of this flow.
    fn of<S: DeserializeOwned>(&self, flow: &str) -> Option<S> {
        if self.flow != flow {
            return None;
        }
        serde_json::from_str(&self.state).ok()
    }
}

/// The image that a snapshot would have filled.
pub(super) fn recorded_image(task: &Superseded) -> Option<ImageId> {
    if ![accept::SNAPSHOT, accept::BACKUP, accept::SNAPSHOT_VOLUMES].contains(&task.flow.as_str()) {
        return None;
    }
    let state: snapshot::State = serde_json::from_str(&task.state).ok()?;
    Some(state.image)
}

/// The host that a live migration was leaving.
pub(super) fn recorded_source(task: &Superseded) -> Option<HostName> {
    if task.flow != accept::LIVE_MIGRATION {
        return None;
    }
    let state: live_migration::State = serde_json::from_str(&task.state).ok()?;
    state.from.map(|place| place.host)
}

/// The host that a build, an unshelving, an evacuation or a resize had claimed.
pub(super) fn recorded_host(task: &Superseded) -> Option<HostName> {
    let choice = match task.flow.as_str() {
        accept::BUILD => {
            let state: build::State = serde_json::from_str(&task.state).ok()?;
            state.choice
        }
        accept::UNSHELVE => {
            let state: unshelve::State = serde_json::from_str(&task.state).ok()?;
            state.choice
        }
        accept::EVACUATE => {
            let state: evacuate::State = serde_json::from_str(&task.state).ok()?;
            state.choice
        }
        accept::LIVE_MIGRATION => {
            let state: live_migration::State = serde_json::from_str(&task.state).ok()?;
            state.choice
        }
        accept::RESIZE => {
            let state: resize::State = serde_json::from_str(&task.state).ok()?;
            state.choice
        }
        _ => return None,
    };
    choice.place.map(|place| place.host)
}

/// The host beside the server's own on which something of it may be.
pub(super) fn other_host(server: &Instance, task: &Superseded) -> Option<HostName> {
    let hosts = [recorded_host(task), recorded_source(task)];
    let mut hosts = hosts.into_iter().flatten();
    hosts.find(|host| server.host.as_ref() != Some(host))
}

/// Takes back what other services have of it. Repeatable.
pub(super) async fn take_back(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    images_back(with, server, task).await?;
    volumes_back(with, server, task).await?;
    match task.flow.as_str() {
        accept::ATTACH_INTERFACE => ports::remove_strays(with, server).await,
        accept::LIVE_MIGRATION => match other_host(server, task) {
            Some(host) => ports::make_unready(with, server, &host).await,
            None => Ok(()),
        },
        accept::RESIZE => match &server.host {
            Some(host) => {
                ports::follow(with, cx, host).await?;
                volumes::follow(with, cx, host).await
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Images that got no data.
async fn images_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    if let Some(image) = recorded_image(task) {
        snapshot::forget(with, image).await?;
        if task.flow == accept::SNAPSHOT_VOLUMES {
            snapshot_volumes::forget(with, server, image).await?;
        }
    }
    let shelving = task.of::<shelve::State>(accept::SHELVE);
    if let Some(image) = shelving.and_then(|state| state.image) {
        let token = with.token().await?;
        with.images.delete(&token, image).await.map_err(retry)?;
    }
    Ok(())
}

/// Volumes that would have come or gone.
async fn volumes_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    if let Some(state) = task.of::<attach_volume::State>(accept::ATTACH_VOLUME) {
        let device = device(with, server, &state.volume).await?;
        return volumes::release(with, server, device.as_slice()).await;
    }
    if let Some(state) = task.of::<detach_volume::State>(accept::DETACH_VOLUME) {
        return volumes::roll_detaching(with, server, &state.volume).await;
    }
    if let Some(state) = task.of::<swap_volume::State>(accept::SWAP_VOLUME) {
        if let Some(device) = device(with, server, &state.old).await? {
            let new = swap_volume::Swap::new_device(&device, &state);
            volumes::release(with, server, &[new]).await?;
        }
        return volumes::roll_detaching(with, server, &state.old).await;
    }
    Ok(())
}

async fn device(
    with: &Neighbours,
    server: &Instance,
    volume: &str,
) -> Result<Option<BlockDevice>, StepError> {
    let devices = volumes::devices(with, server.id).await?;
    let mut its = devices.into_iter();
    Ok(its.find(|device| device.volume_id.as_deref() == Some(volume)))
}

/// Takes back what is on record of it: claims, flavors, disks.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    server: &Instance,
    task: &Superseded,
    now: Timestamp,
) -> Result<(), sql::Error> {
    if let Some(state) = task.of::<live_migration::State>(accept::LIVE_MIGRATION) {
        for place in [&state.from, &state.choice.place].into_iter().flatten() {
            if server.node_id != Some(place.node_id) {
                db::placement::release_on(tx, server.id, place.node_id, now)?;
            }
        }
        migrations::set_status(tx, state.migration, Status::Error, now)?;
    }
    if let Some(state) = task.of::<attach_volume::State>(accept::ATTACH_VOLUME)
        && let Some(device) = block_devices::of_volume(tx, server.id, &state.volume)?
    {
        block_devices::remove(tx, device.id)?;
    }
    if let Some(state) = task.of::<interfaces::AttachState>(accept::ATTACH_INTERFACE)
        && let WantedInterface::Port { port_id, .. } = &state.wanted
    {
        interfaces::forget_wish(tx, server.id, port_id)?;
    }
    Ok(())
}

/// A resize that did not arrive, as it was taken over (`superseded`) or abandoned before: the server has its old flavor and
/// claim. What it has put aside on the host that is down stays known until the server is elsewhere: without that nobody could
/// bring it back.
pub(super) fn stay(
    tx: &mut Tx<'_>,
    server: &Instance,
    superseded: bool,
    now: Timestamp,
) -> Result<(), sql::Error> {
    let Some(moving) = never_left(server) else {
        return Ok(());
    };
    let record = migrations::get(tx, moving.migration)?;
    if superseded || record.is_some_and(|record| record.status == Status::Error) {
        moves::take_claim_back(tx, server.id, moving.migration, now)?;
        moves::stay(tx, server, moving, now)?;
        migrations::set_status(tx, moving.migration, Status::Error, now)?;
    }
    Ok(())
}

/// The server is elsewhere: nobody brings back any more what such a move has put aside.
pub(super) fn forget_move(tx: &mut Tx<'_>, server: &Instance) -> Result<(), sql::Error> {
    let Some(moving) = never_left(server) else {
        return Ok(());
    };
    let record = migrations::get(tx, moving.migration)?;
    if record.is_some_and(|record| record.status == Status::Error) {
        moves::forget(tx, server)?;
    }
    Ok(())
}

/// The move of a server that is still where it began. One that was on its way back has all that there is of it on
/// another host than its own.
fn never_left(server: &Instance) -> Option<&moves::Unsettled> {
    let moving = server.kept.unsettled.as_ref()?;
    (server.host.as_ref() == Some(&moving.source.host)).then_some(moving)
}
