//! What a task had begun that another one took over, or that an operator gave up before: where something of its server may be,
//! and what an evacuation takes back of it. The host that would have had to do that is down, and owes the removal of all that
//! it has.

use super::{
    attach_volume, detach_volume, interfaces, ports, shelve, snapshot, snapshot_volumes,
    swap_volume, volumes,
};
use crate::neighbours::{Neighbours, retry};
use db::accept;
use db::block_devices::{self, BlockDevice};
use db::instances::{self, Instance};
use db::migrations::{self, Status};
use db::moves;
pub(super) use db::unfinished::Unfinished as Superseded;
use journal::{Context, StepError};
use serde::de::DeserializeOwned;
use sql::Tx;
use types::server::WantedInterface;
use types::{HostName, ImageId, Timestamp};

/// The state of a task, if it was of this flow.
fn state_of<S: DeserializeOwned>(task: &Superseded, flow: &str) -> Option<S> {
    if task.flow != flow {
        return None;
    }
    serde_json::from_str(&task.state).ok()
}

/// All that was begun with a server and has not come to its end, newest first: the task that was `taken` over just now, and
/// those that were abandoned before; each with what it had taken over itself.
pub(super) fn all(taken: Option<&Superseded>, server: Option<&Instance>) -> Vec<Superseded> {
    let mut all = Vec::new();
    let known = server.map(|server| server.kept.unfinished.as_slice());
    let known = known.unwrap_or_default().iter().rev();
    for task in taken.into_iter().chain(known) {
        let mut next = Some(task.clone());
        while let Some(task) = next {
            next = task.before();
            all.push(task);
        }
    }
    all
}

/// The image that a snapshot would have filled.
fn recorded_image(task: &Superseded) -> Option<ImageId> {
    if ![accept::SNAPSHOT, accept::BACKUP, accept::SNAPSHOT_VOLUMES].contains(&task.flow.as_str()) {
        return None;
    }
    let state: snapshot::State = serde_json::from_str(&task.state).ok()?;
    Some(state.image)
}

/// The image that a shelving would have filled.
pub(super) fn shelved_image(task: &Superseded) -> Option<ImageId> {
    let state: shelve::State = state_of(task, accept::SHELVE)?;
    state.image
}

/// The hosts on which something of a server may be: those that tasks had picked, and those that it was leaving. Each once.
pub(super) fn hosts(tasks: &[Superseded]) -> Vec<HostName> {
    let mut hosts = Vec::new();
    let picked = tasks.iter().filter_map(Superseded::place);
    let left = tasks.iter().filter_map(Superseded::source);
    for place in picked.chain(left) {
        if !hosts.contains(&place.host) {
            hosts.push(place.host);
        }
    }
    hosts
}

/// Those of them that the server is not on and cannot go back to.
pub(super) fn other_hosts(server: &Instance, tasks: &[Superseded]) -> Vec<HostName> {
    let aside = server
        .kept
        .unsettled
        .as_ref()
        .map(|moving| &moving.source.host);
    let mut hosts = hosts(tasks);
    hosts.retain(|host| server.host.as_ref() != Some(host) && aside != Some(host));
    hosts
}

/// Whether a host may have the server's guest on the files that the server's own host has, too.
pub(super) fn may_share(tasks: &[Superseded], host: &HostName) -> bool {
    let its = |task: &&Superseded| {
        let ends = [task.place(), task.source()];
        ends.into_iter().flatten().any(|end| end.host == *host)
    };
    tasks.iter().filter(its).any(Superseded::shares_files)
}

/// Takes back what other services have of a task that was `taken` over just now, or abandoned before. Repeatable.
pub(super) async fn take_back(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    task: &Superseded,
    taken: bool,
) -> Result<(), StepError> {
    images_back(with, server, task).await?;
    volumes_back(with, server, task, taken).await?;
    match task.flow.as_str() {
        accept::ATTACH_INTERFACE => ports::remove_strays(with, server).await,
        accept::LIVE_MIGRATION => bindings_back(with, server, task).await,
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

/// The ports of a server whose live migration did not come to its end are bound to where the server is, and ready on neither
/// of the two hosts else.
async fn bindings_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    let host = |place: Option<instances::Place>| place.map(|place| place.host);
    let (new, old) = (host(task.place()), host(task.source()));
    if let Some(new) = new
        .as_ref()
        .filter(|new| server.host.as_ref() == Some(*new))
    {
        // Given up between its arrival and that.
        return ports::activate(with, server, old.as_ref(), new).await;
    }
    for end in [new, old].into_iter().flatten() {
        if server.host.as_ref() != Some(&end) {
            ports::make_unready(with, server, &end).await?;
        }
    }
    Ok(())
}

/// Ports that the server was given and gives back are not to be ready where it was to move.
pub(super) async fn ports_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    if task.flow != accept::LIVE_MIGRATION || !server.network_info.iter().any(|one| one.preexisting)
    {
        return Ok(());
    }
    for end in [task.place(), task.source()].into_iter().flatten() {
        ports::make_unready(with, server, &end.host).await?;
    }
    Ok(())
}

/// Ports and volumes of a server whose live migration was given up are where the guest is: if it was on the new host already, they
/// follow it there. A service that does not do its part keeps no server from being started.
pub(super) async fn follow(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
) -> Result<(), StepError> {
    let mut moves = all(None, Some(server));
    moves.retain(|task| task.flow == accept::LIVE_MIGRATION);
    for task in moves {
        let ports = bindings_back(with, server, &task).await;
        let here = task.place().map(|place| place.host);
        let arrived = here.filter(|here| server.host.as_ref() == Some(here));
        let volumes = match &arrived {
            Some(here) => volumes::follow(with, cx, here).await,
            None => Ok(()),
        };
        for followed in [ports, volumes] {
            match followed {
                Err(error @ (StepError::Retry(_) | StepError::Fail(_))) => {
                    tracing::warn!(server = %cx.server, %error, "what a server has in other services stays on the host that it has left");
                }
                other => other?,
            }
        }
    }
    Ok(())
}

/// Images that are no use to anybody: what keeps the disk of a shelved server is.
pub(super) async fn images_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
) -> Result<(), StepError> {
    if let Some(image) = recorded_image(task)
        && snapshot::forget(with, image).await?
        && task.flow == accept::SNAPSHOT_VOLUMES
    {
        snapshot_volumes::forget(with, server, image).await?;
    }
    let kept = server.kept.shelved.and_then(|shelved| shelved.image);
    if let Some(image) = shelved_image(task).filter(|image| kept != Some(*image)) {
        let token = with.token().await?;
        with.images.delete(&token, image).await.map_err(retry)?;
    }
    Ok(())
}

/// Volumes that would have come or gone. One that is on record since an attachment was abandoned comes with the server: its
/// owner may use it by now.
async fn volumes_back(
    with: &Neighbours,
    server: &Instance,
    task: &Superseded,
    taken: bool,
) -> Result<(), StepError> {
    if let Some(state) = state_of::<attach_volume::State>(task, accept::ATTACH_VOLUME) {
        let device = device(with, server, &state.volume).await?;
        let device = device.filter(|_| taken);
        return volumes::release(with, server, device.as_slice()).await;
    }
    if let Some(state) = state_of::<detach_volume::State>(task, accept::DETACH_VOLUME) {
        return still_there(with, server, &state.volume).await;
    }
    if let Some(state) = state_of::<swap_volume::State>(task, accept::SWAP_VOLUME) {
        // One that is on record came by another way.
        if let Some(old) = device(with, server, &state.old).await?
            && device(with, server, &state.new).await?.is_none()
        {
            let new = swap_volume::Swap::new_device(&old, &state);
            volumes::release(with, server, &[new]).await?;
        }
        return still_there(with, server, &state.old).await;
    }
    Ok(())
}

/// A volume that the server has does not go. It may be somebody else's since.
async fn still_there(with: &Neighbours, server: &Instance, volume: &str) -> Result<(), StepError> {
    match device(with, server, volume).await? {
        Some(_) => volumes::roll_detaching(with, server, volume).await,
        None => Ok(()),
    }
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
    taken: bool,
    now: Timestamp,
) -> Result<(), sql::Error> {
    if let Some(migration) = task.migration() {
        for place in [task.source(), task.place()].into_iter().flatten() {
            if server.node_id != Some(place.node_id) {
                db::placement::release_on(tx, server.id, place.node_id, now)?;
            }
        }
        if taken {
            migrations::set_status(tx, migration, Status::Error, now)?;
        }
    }
    if let Some(state) = state_of::<attach_volume::State>(task, accept::ATTACH_VOLUME)
        && let Some(device) = block_devices::of_volume(tx, server.id, &state.volume)?
        && taken
    {
        block_devices::remove(tx, device.id)?;
    }
    if let Some(state) = state_of::<interfaces::AttachState>(task, accept::ATTACH_INTERFACE)
        && let WantedInterface::Port { port_id, .. } = &state.wanted
        && !server
            .network_info
            .iter()
            .any(|one| one.port_id == *port_id)
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
        moves::take_back(tx, server, moving, true, now)?;
        migrations::set_status(tx, moving.migration, Status::Error, now)?;
    }
    Ok(())
}

/// The server is elsewhere, and all that was begun with it before is taken back: nobody needs to know of it any more, nor
/// brings back what such a move has put aside.
pub(super) fn forget(tx: &mut Tx<'_>, server: &Instance) -> Result<(), sql::Error> {
    let mut server = server.clone();
    if !server.kept.unfinished.is_empty() {
        server.kept.unfinished.clear();
        instances::set_kept(tx, server.id, &server.kept)?;
    }
    let Some(moving) = never_left(&server) else {
        return Ok(());
    };
    let record = migrations::get(tx, moving.migration)?;
    if record.is_some_and(|record| record.status == Status::Error) {
        moves::forget(tx, &server)?;
    }
    Ok(())
}

/// The move of a server that is still where it began. One that was on its way back has all that there is of it on
/// another host than its own.
fn never_left(server: &Instance) -> Option<&moves::Unsettled> {
    let moving = server.kept.unsettled.as_ref()?;
    (server.host.as_ref() == Some(&moving.source.host)).then_some(moving)
}
