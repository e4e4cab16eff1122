//! Another image for the volume that a server boots from (`os-reimage`). The volume service writes onto a volume that is
//! only reserved: it is taken from the host, keeping a reservation so that nobody else gets it, and comes back.

use super::overtaken::{Standing, standing};
use super::volumes;
use crate::neighbours::{Neighbours, retry};
use clients::volumes::{Scope, VolumeRecord};
use db::block_devices::BlockDevice;
use db::instances::Instance;
use journal::{Context, Failure, StepError};
use std::time::Duration;
use tokio::time::Instant;
use types::{HostName, ImageId};

/// The pause before a volume that is being written is looked at again; doubles.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_secs(2);

fn fail(message: impl Into<String>) -> StepError {
    StepError::Fail(Failure::new(500, message))
}

/// Writes an image onto the volume of this disk. The guest is off. Repeatable: another run writes it once more.
pub(super) async fn write(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    root: BlockDevice,
    host: HostName,
    image: ImageId,
) -> Result<Vec<BlockDevice>, StepError> {
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let (neighbours, run, holder, disk) = (with.clone(), cx.clone(), server.clone(), root.clone());
    // To its end even when this run is stopped, so that what it reserves late is given back.
    let working = tokio::spawn(async move {
        let scope = neighbours.scope(&holder).await?;
        let written = written(&neighbours, &run, &scope, &holder, &disk, image).await;
        volumes::unless_overtaken(&neighbours, &run, &scope, &holder, &[disk], written).await
    });
    working
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))?;
    let connected = volumes::connect(with, cx, server, vec![root], Some(host)).await?;
    volumes::complete(with, server, &connected).await?;
    Ok(connected)
}

async fn written(
    with: &Neighbours,
    cx: &Context,
    scope: &Scope,
    server: &Instance,
    root: &BlockDevice,
    image: ImageId,
) -> Result<(), StepError> {
    let id = root.volume_id.clone().unwrap_or_default();
    // A run before this one may have begun.
    at_rest(with, scope, &id, cx.until).await?;
    reserve_only(with, cx, scope, server, &id).await?;
    must_own(with, cx).await?;
    let accepted = with.volumes.reimage(scope, &id, &image.to_string()).await;
    accepted.map_err(retry)?.map_err(|reason| {
        let words = format!(
            "The image could not be written onto the volume: {}",
            reason.message
        );
        StepError::Fail(Failure::new(reason.status.as_u16(), words))
    })?;
    let volume = at_rest(with, scope, &id, cx.until).await?;
    if volume.status == "reserved" {
        return Ok(());
    }
    Err(fail(format!(
        "The image could not be written onto volume {id}, which is {} now: its messages say why. Rebuild the server with \
         another image.",
        volume.status
    )))
}

/// Somebody who takes over connects the volume again; what is done to it late would be done to a volume in use.
async fn must_own(with: &Neighbours, cx: &Context) -> Result<(), StepError> {
    match standing(with, cx).await {
        Standing::Own => Ok(()),
        Standing::Gone | Standing::AtRest(_) => Err(StepError::Fenced),
    }
}

/// What connects the volume to a host becomes a mere reservation.
async fn reserve_only(
    with: &Neighbours,
    cx: &Context,
    scope: &Scope,
    server: &Instance,
    id: &str,
) -> Result<(), StepError> {
    let there = with.volumes.attachments_of(scope, server.id).await;
    let mut its = there.map_err(retry)?;
    its.retain(|one| one.volume_id == id);
    must_own(with, cx).await?;
    if !its.iter().any(|one| one.status == "reserved") {
        let reserved = with.volumes.reserve(scope, id, server.id).await;
        reserved.map_err(retry)?.map_err(|reason| {
            let words = format!("The volume could not be reserved: {}", reason.message);
            StepError::Fail(Failure::new(reason.status.as_u16(), words))
        })?;
    }
    for one in its.iter().filter(|one| one.status != "reserved") {
        let gone = with.volumes.release(scope, &one.id).await;
        if let Err(reason) = gone.map_err(retry)? {
            return Err(StepError::Retry(reason.message));
        }
    }
    Ok(())
}

/// Waits until nobody writes onto a volume.
async fn at_rest(
    with: &Neighbours,
    scope: &Scope,
    id: &str,
    until: Instant,
) -> Result<VolumeRecord, StepError> {
    let mut pause = LOOK;
    loop {
        let found = with.volumes.volume(scope, id).await.map_err(retry)?;
        let found = found.ok_or_else(|| {
            fail(format!(
                "Volume {id}, which the server boots from, is gone."
            ))
        })?;
        if found.status != "downloading" {
            return Ok(found);
        }
        if Instant::now() + pause >= until {
            let words = format!("The image was not written onto volume {id} in time.");
            return Err(fail(words));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MOST);
    }
}

/// Connects the volume to the server's host again after a failure. One that is broken is only kept for the server: a
/// rebuild mends it.
pub(super) async fn reconnect(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    root: BlockDevice,
    host: HostName,
) -> Result<Vec<BlockDevice>, StepError> {
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let id = root.volume_id.clone().unwrap_or_default();
    let scope = with.scope(server).await?;
    // What was begun is not broken off; a write that takes longer than anybody waits has the volume.
    let writing = match at_rest(with, &scope, &id, cx.until).await {
        Ok(volume) => volume.status == "error",
        Err(StepError::Fail(_)) => true,
        Err(other) => return Err(other),
    };
    if writing {
        return kept(with, &scope, server, root).await;
    }
    match volumes::connect(with, cx, server, vec![root.clone()], Some(host)).await {
        Ok(connected) => {
            volumes::complete(with, server, &connected).await?;
            Ok(connected)
        }
        Err(StepError::Fail(failure)) => {
            tracing::warn!(server = %server.id, volume = id, reason = failure.message,
                "the volume that a server boots from cannot be connected again");
            kept(with, &scope, server, root).await
        }
        Err(other) => Err(other),
    }
}

/// The disk with what the volume service still holds of its volume for the server.
async fn kept(
    with: &Neighbours,
    scope: &Scope,
    server: &Instance,
    root: BlockDevice,
) -> Result<Vec<BlockDevice>, StepError> {
    let there = with.volumes.attachments_of(scope, server.id).await;
    let its = there
        .map_err(retry)?
        .into_iter()
        .find(|one| Some(&one.volume_id) == root.volume_id.as_ref());
    let connected = its.as_ref().is_some_and(|one| one.status != "reserved");
    Ok(vec![BlockDevice {
        attachment_id: its.map(|one| one.id),
        connection_info: root.connection_info.clone().filter(|_| connected),
        ..root
    }])
}
