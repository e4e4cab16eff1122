//! Volumes of a server: made or reserved, connected to its host, given back or removed when it goes.
//!
//! What the volume service holds for a server is found by asking it: attachments name the server, and a volume that was
//! made for a disk names that disk. So nothing depends on what a run that died could still write down.

use super::overtaken::{Standing, standing};
use crate::neighbours::{Neighbours, retry};
use clients::ClientError;
use clients::volumes::{AttachmentRecord, NewVolume, Refused, Scope, VolumeRecord};
use db::block_devices::{self, BlockDevice};
use db::instances::Instance;
use journal::{Context, Failure, StepError};
use serde_json::{Value, json};
use sql::Tx;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;
use types::device_names;
use types::disks::Source;
use types::{HostName, ServerId};

/// The pause before a volume that is being made is looked at again; doubles.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_secs(1);

fn fail(message: impl Into<String>) -> StepError {
    StepError::Fail(Failure::new(500, message))
}

fn refused(what: &str, refusal: &Refused) -> StepError {
    StepError::Fail(
        Failure::new(
            refusal.status.as_u16(),
            format!("{what}: {}", refusal.message),
        )
        .details(format!("{}", refusal.status)),
    )
}

impl Neighbours {
    /// The right to act in the project of a server.
    pub(super) async fn scope(&self, server: &Instance) -> Result<Scope, StepError> {
        let project = server.project_id.as_str();
        let token = self.tokens.token_in(project).await.map_err(retry)?;
        Ok(Scope::new(token, project))
    }
}

/// The disks of the server that this task works on.
pub(super) async fn devices(
    with: &Neighbours,
    server: ServerId,
) -> Result<Vec<BlockDevice>, StepError> {
    let found = with
        .store
        .look(move |tx| block_devices::of_server(tx, server));
    Ok(found.await?)
}

/// Makes the volumes that must be made, reserves all, and (with a host) connects them there. What is there already is
/// taken, so a repeat makes nothing twice.
///
/// Another may take over meanwhile. So this goes to its end even when the run is stopped, and when it finds then that it
/// was overtaken it takes back what it did and nobody uses.
pub(super) async fn connect(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    devices: Vec<BlockDevice>,
    host: Option<HostName>,
) -> Result<Vec<BlockDevice>, StepError> {
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let (with, server, cx) = (with.clone(), server.clone(), cx.clone());
    let working = tokio::spawn(async move {
        let scope = with.scope(&server).await?;
        let connected = connected(&with, &scope, &server, devices.clone(), host, cx.until).await;
        unless_overtaken(&with, &cx, &scope, &server, &devices, connected).await
    });
    working
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))
}

/// What a run has done to the volumes of these disks, if it was not overtaken meanwhile. Otherwise it takes back what it
/// did and nobody uses.
pub(super) async fn unless_overtaken<T>(
    with: &Neighbours,
    cx: &Context,
    scope: &Scope,
    server: &Instance,
    devices: &[BlockDevice],
    done: Result<T, StepError>,
) -> Result<T, StepError> {
    match standing(with, cx).await {
        Standing::Own => return done,
        Standing::Gone => {
            release(with, server, devices).await?;
            // One that was on record before is the deletion's, which knows whether it stays.
            remove_made(with, scope, devices, |device, volume| {
                device.volume_id.as_deref() != Some(volume)
            })
            .await?;
        }
        Standing::AtRest(_) => {
            release_strays(with, scope, server, devices).await?;
            complete_again(with, scope, server, devices).await?;
        }
    }
    Err(StepError::Fenced)
}

async fn connected(
    with: &Neighbours,
    scope: &Scope,
    server: &Instance,
    mut devices: Vec<BlockDevice>,
    host: Option<HostName>,
    until: Instant,
) -> Result<Vec<BlockDevice>, StepError> {
    let host = match host {
        Some(host) => Some((address_of(with, &host).await?, host)),
        None => None,
    };
    if host.is_some() {
        name(server, &mut devices)?;
    }
    // The database is not asked between this and what is done with it: a run that stood still there would take a volume
    // that is in use for one that is not.
    let mut there = with
        .volumes
        .attachments_of(scope, server.id)
        .await
        .map_err(retry)?;
    for device in devices.iter_mut().filter(|device| device.is_volume()) {
        if device.makes_volume() {
            let made = made(with, scope, server, device).await?;
            let ready = ready(with, scope, made, until).await?;
            device.volume_size = Some(ready.size);
            device.volume_id = Some(ready.id);
        }
        let volume = device.volume_id.clone().unwrap_or_default();
        let attachment = match there.iter().position(|one| one.volume_id == volume) {
            Some(place) => there.swap_remove(place),
            None => with
                .volumes
                .reserve(scope, &volume, server.id)
                .await
                .map_err(retry)?
                .map_err(|reason| refused("The volume could not be reserved", &reason))?,
        };
        if is_in_use(&attachment) {
            // An earlier run of this task came so far.
            let told = attachment.connection_info.clone();
            device.connection_info = Some(with_sharing(with, scope, &volume, told).await?);
        } else if let Some((address, host)) = &host {
            let connector = connector(host, address.as_deref(), device);
            let connected = with.volumes.connect(scope, &attachment.id, &connector);
            let connected = connected
                .await
                .map_err(retry)?
                .map_err(|reason| refused("The volume could not be connected", &reason))?;
            let told = connected.connection_info;
            device.connection_info = Some(with_sharing(with, scope, &volume, told).await?);
        }
        device.attachment_id = Some(attachment.id);
    }
    Ok(devices)
}

/// How a volume is reached, and whether several guests may have it (`multiattach`): as Nova keeps it with the volume's
/// connection, for their hosts have to know.
async fn with_sharing(
    with: &Neighbours,
    scope: &Scope,
    volume: &str,
    mut told: Value,
) -> Result<String, StepError> {
    let found = with.volumes.volume(scope, volume).await.map_err(retry)?;
    if found.is_some_and(|found| found.multiattach)
        && let Some(told) = told.as_object_mut()
    {
        told.insert("multiattach".to_owned(), true.into());
    }
    Ok(told.to_string())
}

/// Whether a volume is connected to a host, and its service was told that it is in use.
fn is_in_use(attachment: &AttachmentRecord) -> bool {
    let info = attachment.connection_info.as_object();
    attachment.status == "attached" && info.is_some_and(|info| !info.is_empty())
}

/// Names the volumes that have no name yet: those that were given to a server without a host.
fn name(server: &Instance, devices: &mut [BlockDevice]) -> Result<(), StepError> {
    for place in 0..devices.len() {
        if devices[place].device_name.is_some() || !devices[place].is_volume() {
            continue;
        }
        let taken = devices.iter().filter_map(|one| one.device_name.as_deref());
        let root = server.root_device_name.as_deref();
        let free = device_names::name(root, taken, None);
        devices[place].device_name = Some(free.map_err(|reason| fail(reason.to_string()))?);
    }
    Ok(())
}

/// What the volume service is told of a host that uses a volume.
fn connector(host: &HostName, address: Option<&str>, device: &BlockDevice) -> Value {
    json!({
        "host": host.as_str(), "ip": address, "platform": std::env::consts::ARCH, "os_type": "linux",
        "multipath": false, "do_local_attach": false, "mountpoint": device.device_name,
    })
}

/// Where a host is reached.
async fn address_of(with: &Neighbours, host: &HostName) -> Result<Option<String>, StepError> {
    let nodes: Result<_, sql::Error> = with.store.read(db::hosts::nodes).await;
    let mut nodes = nodes?.into_iter();
    let found = nodes.find(|node| node.host == *host);
    Ok(found.map(|node| node.facts.host_ip))
}

/// The volume of a disk that has none yet.
async fn made(
    with: &Neighbours,
    scope: &Scope,
    server: &Instance,
    device: &BlockDevice,
) -> Result<VolumeRecord, StepError> {
    let mark = device.id.to_string();
    let mut found = with.volumes.made_for(scope, &mark).await.map_err(retry)?;
    if let Some(found) = found.pop() {
        return Ok(found);
    }
    let blank = format!("{}-blank-vol", server.id);
    let new = NewVolume {
        size: device.volume_size.filter(|size| *size > 0),
        name: if device.source == Source::Blank {
            &blank
        } else {
            ""
        },
        image: device.image_id.as_deref(),
        snapshot: device.snapshot_id.as_deref(),
        volume_type: device.volume_type.as_deref(),
        availability_zone: None,
        block_device: &mark,
    };
    let made = with.volumes.create(scope, &new).await.map_err(retry)?;
    made.map_err(|reason| refused("A volume could not be made", &reason))
}

/// Waits until a volume can be used.
async fn ready(
    with: &Neighbours,
    scope: &Scope,
    mut volume: VolumeRecord,
    until: Instant,
) -> Result<VolumeRecord, StepError> {
    let mut pause = LOOK;
    loop {
        match volume.status.as_str() {
            "creating" | "downloading" => {}
            "available" | "reserved" | "in-use" | "attaching" => return Ok(volume),
            other => {
                return Err(fail(format!(
                    "Volume {} did not finish being created: its status is {other}.",
                    volume.id
                )));
            }
        }
        if Instant::now() + pause >= until {
            return Err(fail(format!(
                "Volume {} was not created in time.",
                volume.id
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MOST);
        let found = with.volumes.volume(scope, &volume.id).await;
        volume = found
            .map_err(retry)?
            .ok_or_else(|| fail("A volume that was being created is gone."))?;
    }
}

/// Says that the volumes are in use now.
pub(super) async fn complete(
    with: &Neighbours,
    server: &Instance,
    devices: &[BlockDevice],
) -> Result<(), StepError> {
    let attachments = devices
        .iter()
        .filter(|device| device.is_volume())
        .filter_map(|device| device.attachment_id.as_deref());
    let mut scope = None;
    for attachment in attachments {
        let scope = match &scope {
            Some(scope) => scope,
            None => scope.insert(with.scope(server).await?),
        };
        let done = with.volumes.complete(scope, attachment).await;
        done.map_err(retry)?
            .map_err(|reason| refused("The volume could not be taken into use", &reason))?;
    }
    Ok(())
}

/// Gives back the volumes of these disks. Repeatable.
pub(super) async fn release(
    with: &Neighbours,
    server: &Instance,
    devices: &[BlockDevice],
) -> Result<(), StepError> {
    if !devices.iter().any(BlockDevice::is_volume) {
        return Ok(());
    }
    let scope = with.scope(server).await?;
    let volumes = volumes_of(with, &scope, devices).await?;
    let there = with.volumes.attachments_of(&scope, server.id).await;
    for attachment in there.map_err(retry)? {
        if !volumes.contains(&attachment.volume_id) {
            continue;
        }
        let gone = with.volumes.release(&scope, &attachment.id).await;
        if let Err(reason) = gone.map_err(retry)? {
            return Err(StepError::Retry(reason.message));
        }
    }
    Ok(())
}

/// Gives back what the volume service holds of these disks for a server and is not on record.
async fn release_strays(
    with: &Neighbours,
    scope: &Scope,
    server: &Instance,
    worked_on: &[BlockDevice],
) -> Result<(), StepError> {
    let volumes = volumes_of(with, scope, worked_on).await?;
    let known = devices(with, server.id).await?;
    let on_record = |id: &str| {
        let mut its = known
            .iter()
            .filter_map(|device| device.attachment_id.as_deref());
        its.any(|known| known == id)
    };
    let there = with.volumes.attachments_of(scope, server.id).await;
    let there = there.map_err(retry)?;
    // Where a rebuild was overtaken that had only a reservation left, that one keeps the volume for the server.
    let mut bare: HashSet<&str> = known
        .iter()
        .filter(|device| {
            let its = device.attachment_id.as_deref();
            its.is_some_and(|its| there.iter().all(|one| one.id != its))
        })
        .filter_map(|device| device.volume_id.as_deref())
        .collect();
    for attachment in &there {
        let volume = attachment.volume_id.as_str();
        let stray = volumes.iter().any(|one| one == volume) && !on_record(&attachment.id);
        if stray && !bare.remove(volume) {
            let gone = with.volumes.release(scope, &attachment.id).await;
            if let Err(reason) = gone.map_err(retry)? {
                return Err(StepError::Retry(reason.message));
            }
        }
    }
    remove_made(with, scope, worked_on, |_, volume| {
        let mut its = known
            .iter()
            .filter_map(|device| device.volume_id.as_deref());
        !its.any(|known| known == volume)
    })
    .await
}

/// Says once more that volumes are in use: a late run that connected what was connected already has made the volume
/// service wait for that.
async fn complete_again(
    with: &Neighbours,
    scope: &Scope,
    server: &Instance,
    worked_on: &[BlockDevice],
) -> Result<(), StepError> {
    let connected: Vec<BlockDevice> = devices(with, server.id)
        .await?
        .into_iter()
        .filter(|device| worked_on.iter().any(|one| one.id == device.id))
        .filter(|device| device.connection_info.is_some())
        .collect();
    let there = with.volumes.attachments_of(scope, server.id).await;
    for attachment in there.map_err(retry)? {
        let its = |device: &BlockDevice| device.attachment_id.as_ref() == Some(&attachment.id);
        if attachment.status == "attaching" && connected.iter().any(its) {
            let done = with.volumes.complete(scope, &attachment.id).await;
            if let Err(reason) = done.map_err(retry)? {
                return Err(StepError::Retry(reason.message));
            }
        }
    }
    Ok(())
}

/// The volumes of these disks, those included that were made for them and are not on record.
async fn volumes_of(
    with: &Neighbours,
    scope: &Scope,
    devices: &[BlockDevice],
) -> Result<Vec<String>, StepError> {
    let mut all: Vec<String> = Vec::new();
    for device in devices.iter().filter(|device| device.is_volume()) {
        all.extend(device.volume_id.clone());
        if device.makes_volume() && device.attachment_id.is_none() {
            let made = with.volumes.made_for(scope, &device.id.to_string()).await;
            all.extend(made.map_err(retry)?.into_iter().map(|volume| volume.id));
        }
    }
    Ok(all)
}

/// Gives back everything that the volume service holds for a server. Repeatable.
async fn release_all(with: &Neighbours, scope: &Scope, server: ServerId) -> Result<(), StepError> {
    let there = with.volumes.attachments_of(scope, server).await;
    for attachment in there.map_err(retry)? {
        let gone = with.volumes.release(scope, &attachment.id).await;
        if let Err(reason) = gone.map_err(retry)? {
            return Err(StepError::Retry(reason.message));
        }
    }
    Ok(())
}

/// Keeps the volumes for a server that leaves its host: what connected them becomes a mere reservation. Repeatable.
pub(super) async fn disconnect(
    with: &Neighbours,
    server: &Instance,
) -> Result<Vec<BlockDevice>, StepError> {
    let mut devices = devices(with, server.id).await?;
    devices.retain(|device| device.is_volume() && device.volume_id.is_some());
    if devices.is_empty() {
        return Ok(devices);
    }
    let scope = with.scope(server).await?;
    let there = with.volumes.attachments_of(&scope, server.id).await;
    let there = there.map_err(retry)?;
    for device in &mut devices {
        let volume = device.volume_id.clone().unwrap_or_default();
        let its = there.iter().filter(|one| one.volume_id == volume);
        let (reserved, connected): (Vec<_>, Vec<_>) = its.partition(|one| one.status == "reserved");
        let reserved = match reserved.first() {
            Some(kept) => Some((*kept).clone()),
            // A server may have a volume twice, so that nobody else gets it meanwhile.
            None => with
                .volumes
                .reserve(&scope, &volume, server.id)
                .await
                .map_err(retry)?
                .ok(),
        };
        for one in connected {
            let gone = with.volumes.release(&scope, &one.id).await;
            if let Err(reason) = gone.map_err(retry)? {
                return Err(StepError::Retry(reason.message));
            }
        }
        let kept = match reserved {
            Some(kept) => kept,
            None => with
                .volumes
                .reserve(&scope, &volume, server.id)
                .await
                .map_err(retry)?
                .map_err(|reason| StepError::Retry(reason.message))?,
        };
        device.attachment_id = Some(kept.id);
        device.connection_info = None;
    }
    Ok(devices)
}

/// Says on which host the server uses its volumes now; how it reaches them stays as it is. A service that does not want to
/// hear that keeps no server from where it goes. Repeatable.
///
/// Another may take over meanwhile. So this goes to its end even when the run is stopped, and when it finds then that the
/// server is somewhere else, it says that.
pub(super) async fn follow(
    with: &Neighbours,
    cx: &Context,
    host: &HostName,
) -> Result<(), StepError> {
    let server = super::instance(with, cx).await?;
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let used = in_use(with, server.id).await?;
    if used.is_empty() {
        return Ok(());
    }
    let (with, cx, host) = (with.clone(), cx.clone(), host.clone());
    let working = tokio::spawn(async move {
        let scope = with.scope(&server).await?;
        let said = say_host(&with, &scope, &used, &host).await;
        match standing(&with, &cx).await {
            Standing::Own => return said,
            Standing::Gone => release(&with, &server, &used).await?,
            Standing::AtRest(now) => {
                if let Some(host) = &now.host {
                    let used = in_use(&with, now.id).await?;
                    say_host(&with, &scope, &used, host).await?;
                }
            }
        }
        Err(StepError::Fenced)
    });
    working
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))
}

/// The disks of a server that are volumes in use.
async fn in_use(with: &Neighbours, server: ServerId) -> Result<Vec<BlockDevice>, StepError> {
    let mut used = devices(with, server).await?;
    used.retain(|device| device.is_volume() && device.connection_info.is_some());
    Ok(used)
}

async fn say_host(
    with: &Neighbours,
    scope: &Scope,
    used: &[BlockDevice],
    host: &HostName,
) -> Result<(), StepError> {
    let address = address_of(with, host).await?;
    for device in used {
        let Some(attachment) = device.attachment_id.as_deref() else {
            continue;
        };
        let connector = connector(host, address.as_deref(), device);
        let connected = with.volumes.connect(scope, attachment, &connector).await;
        let heard = match connected.map_err(retry)? {
            Ok(_) => with
                .volumes
                .complete(scope, attachment)
                .await
                .map_err(retry)?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = heard {
            tracing::warn!(
                attachment,
                %host,
                reason = reason.message,
                "the volume service does not take note of the host"
            );
        }
    }
    Ok(())
}

/// Connects the volumes of a server to another host, each by a new attachment, and ends those that were: whoever still
/// runs the server's guest on the old host cannot reach them any more. What an earlier run has made is taken. Repeatable.
///
/// As in [`connect`], when this finds that it was overtaken it takes back what it did and nobody uses.
pub(super) async fn take_over(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    host: &HostName,
) -> Result<Vec<BlockDevice>, StepError> {
    change_hosts(with, cx, server, host, false).await
}

/// Undoes [`take_over`], as far as it came: a volume whose old attachment is there keeps that, others are connected to the
/// old host anew. Repeatable.
pub(super) async fn hand_back(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    host: &HostName,
) -> Result<Vec<BlockDevice>, StepError> {
    change_hosts(with, cx, server, host, true).await
}

async fn change_hosts(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    host: &HostName,
    back: bool,
) -> Result<Vec<BlockDevice>, StepError> {
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let mut devices = devices(with, server.id).await?;
    devices.retain(|device| device.is_volume() && device.volume_id.is_some());
    if devices.is_empty() {
        return Ok(devices);
    }
    let (with, server, cx, host) = (with.clone(), server.clone(), cx.clone(), host.clone());
    let working = tokio::spawn(async move {
        let scope = with.scope(&server).await?;
        let changing = HostChange {
            with: &with,
            cx: &cx,
            scope: &scope,
            server: &server,
            host: &host,
            back,
        };
        let changed = changing.of(devices.clone()).await;
        unless_overtaken(&with, &cx, &scope, &server, &devices, changed).await
    });
    working
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))
}

/// Volumes that another host gets.
struct HostChange<'a> {
    with: &'a Neighbours,
    cx: &'a Context,
    scope: &'a Scope,
    server: &'a Instance,
    host: &'a HostName,
    /// To the host that had them: what is on record is as good as new.
    back: bool,
}

impl HostChange<'_> {
    async fn of(&self, mut devices: Vec<BlockDevice>) -> Result<Vec<BlockDevice>, StepError> {
        let volumes = &self.with.volumes;
        let there = volumes.attachments_of(self.scope, self.server.id).await;
        let there = there.map_err(retry)?;
        let address = address_of(self.with, self.host).await?;
        for device in &mut devices {
            let volume = device.volume_id.clone().unwrap_or_default();
            let its = there.iter().filter(|one| one.volume_id == volume);
            // Only what is on record may be what the old host has.
            let (known, made): (Vec<_>, Vec<_>) =
                its.partition(|one| device.attachment_id.as_ref() == Some(&one.id));
            if self.back && !known.is_empty() {
                self.release(&made).await?;
                say_host(
                    self.with,
                    self.scope,
                    std::slice::from_ref(device),
                    self.host,
                )
                .await?;
                continue;
            }
            let new = match made.first() {
                Some(made) => made.id.clone(),
                None => self.reserve(&volume).await?,
            };
            let connector = connector(self.host, address.as_deref(), device);
            let connected = volumes.connect(self.scope, &new, &connector).await;
            let connected = connected
                .map_err(retry)?
                .map_err(|reason| refused("The volume could not be connected", &reason))?;
            let rest = made.into_iter().filter(|one| one.id != new);
            let old: Vec<_> = known.into_iter().chain(rest).collect();
            self.release(&old).await?;
            device.attachment_id = Some(new);
            let told = connected.connection_info;
            let told = with_sharing(self.with, self.scope, &volume, told).await?;
            device.connection_info = Some(told);
        }
        complete(self.with, self.server, &devices).await?;
        Ok(devices)
    }

    async fn reserve(&self, volume: &str) -> Result<String, StepError> {
        let volumes = &self.with.volumes;
        let reserved = volumes.reserve(self.scope, volume, self.server.id).await;
        let reserved = reserved.map_err(retry)?;
        let reserved =
            reserved.map_err(|reason| refused("The volume could not be reserved", &reason))?;
        Ok(reserved.id)
    }

    /// Ends attachments, unless they are another's by now.
    async fn release(&self, ended: &[&AttachmentRecord]) -> Result<(), StepError> {
        if ended.is_empty() {
            return Ok(());
        }
        if !matches!(standing(self.with, self.cx).await, Standing::Own) {
            return Err(StepError::Fenced);
        }
        for one in ended {
            let gone = self.with.volumes.release(self.scope, &one.id).await;
            if let Err(reason) = gone.map_err(retry)? {
                return Err(StepError::Retry(reason.message));
            }
        }
        Ok(())
    }
}

/// Writes what [`connect`], [`disconnect`] or [`take_over`] changed.
pub(super) fn keep(tx: &mut Tx<'_>, devices: &mut Vec<BlockDevice>) -> Result<(), sql::Error> {
    for device in devices.drain(..) {
        block_devices::update(tx, &device)?;
    }
    Ok(())
}

/// Undoes [`connect`]: volumes that were made for the server go, others are given back. Repeatable.
pub(super) async fn give_back(
    with: &Neighbours,
    server: &Instance,
    devices: &[BlockDevice],
) -> Result<(), StepError> {
    release(with, server, devices).await?;
    if !devices.iter().any(BlockDevice::makes_volume) {
        return Ok(());
    }
    let scope = with.scope(server).await?;
    remove_made(with, &scope, devices, |_, _| true).await
}

/// What is on record of disks whose volumes were given back.
pub(super) fn forget_connections(
    tx: &mut Tx<'_>,
    devices: &mut [BlockDevice],
) -> Result<(), sql::Error> {
    for device in devices.iter_mut().filter(|device| device.is_volume()) {
        device.attachment_id = None;
        device.connection_info = None;
        if device.makes_volume() {
            device.volume_id = None;
        }
        block_devices::update(tx, device)?;
    }
    Ok(())
}

/// Removes the volumes of a server that goes: given ones are given back, and those that are to go with it are deleted.
/// What was made for a server that never ran goes, too. Repeatable.
pub(super) async fn remove(with: &Neighbours, server: &Instance) -> Result<(), StepError> {
    let devices = devices(with, server.id).await?;
    if !devices.iter().any(BlockDevice::is_volume) {
        return Ok(());
    }
    let scope = with.scope(server).await?;
    release_all(with, &scope, server.id).await?;
    let unused = server.launched_at.is_none();
    remove_made(with, &scope, &devices, |device, volume| {
        let stray = device.volume_id.as_deref() != Some(volume);
        unused || stray || device.delete_on_termination
    })
    .await?;
    let given = devices
        .iter()
        .filter(|device| device.is_volume() && !device.makes_volume())
        .filter(|device| device.delete_on_termination)
        .filter_map(|device| device.volume_id.as_deref());
    for volume in given {
        delete(with, &scope, volume).await?;
    }
    Ok(())
}

/// Deletes volumes that were made for these disks, as far as they shall go.
async fn remove_made(
    with: &Neighbours,
    scope: &Scope,
    devices: &[BlockDevice],
    goes: impl Fn(&BlockDevice, &str) -> bool,
) -> Result<(), StepError> {
    for device in devices.iter().filter(|device| device.makes_volume()) {
        let made = with.volumes.made_for(scope, &device.id.to_string()).await;
        for volume in made.map_err(retry)? {
            if goes(device, &volume.id) {
                delete(with, scope, &volume.id).await?;
            }
        }
    }
    Ok(())
}

/// Deletes a volume. One that the service wants to keep (somebody else uses it, it has snapshots) stays.
async fn delete(with: &Neighbours, scope: &Scope, volume: &str) -> Result<(), StepError> {
    let gone = with.volumes.delete_volume(scope, volume).await;
    let Err(reason) = gone.map_err(retry)? else {
        return Ok(());
    };
    let found = with.volumes.volume(scope, volume).await.map_err(retry)?;
    let status = found.map(|found| found.status).unwrap_or_default();
    // Somebody works on it: it can be deleted in a moment.
    if ["creating", "downloading", "attaching", "detaching"].contains(&&status[..]) {
        return Err(StepError::Retry(reason.message));
    }
    tracing::warn!(
        volume,
        status,
        reason = reason.message,
        "a volume that should go with its server stays"
    );
    Ok(())
}

/// Says that a volume is about to be detached; one that is so already is fine.
pub(super) async fn begin_detaching(
    with: &Neighbours,
    cx: &Context,
    server: &Instance,
    volume: &str,
) -> Result<(), StepError> {
    // A run that was stopped for long would say it of a volume that is in use again.
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let scope = with.scope(server).await?;
    let begun = with.volumes.begin_detaching(&scope, volume).await;
    let Err(reason) = begun.map_err(retry)? else {
        return Ok(());
    };
    let found = with.volumes.volume(&scope, volume).await.map_err(retry)?;
    // One that is only reserved, for a server without a host, or gone has nothing to begin with.
    match found.map(|found| found.status) {
        Some(status) if status == "in-use" || status.starts_with("error") => {
            Err(refused("The volume cannot be detached", &reason))
        }
        _ => Ok(()),
    }
}

/// Takes that back.
pub(super) async fn roll_detaching(
    with: &Neighbours,
    server: &Instance,
    volume: &str,
) -> Result<(), StepError> {
    let scope = with.scope(server).await?;
    let found: Result<Option<VolumeRecord>, ClientError> =
        with.volumes.volume(&scope, volume).await;
    if found
        .map_err(retry)?
        .is_some_and(|found| found.status == "detaching")
    {
        let rolled = with.volumes.roll_detaching(&scope, volume).await;
        if let Err(reason) = rolled.map_err(retry)? {
            return Err(StepError::Retry(reason.message));
        }
    }
    Ok(())
}
