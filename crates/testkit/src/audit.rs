//! What must hold whenever nothing is going on.

use crate::cluster::{Cluster, PROJECT};
use db::block_devices::BlockDevice;
use db::instances::Instance;
use sql::{Error, Tx};
use std::collections::BTreeMap;
use types::{PowerState, ProjectId, ServerId, VmState};
use uuid::Uuid;

impl Cluster {
    /// Everything that is wrong; empty when all invariants hold. Call when the cluster is idle.
    pub async fn audit(&self) -> Vec<String> {
        self.look(true).await
    }

    /// The same without the guests: while an agent is away its guests are what they are.
    pub async fn audit_without_guests(&self) -> Vec<String> {
        self.look(false).await
    }

    /// Whether the newest action of a server that somebody asked for shows an error.
    pub async fn last_action_failed(&self, server: ServerId) -> bool {
        self.last_action_says(server).await.is_some()
    }

    /// Why it failed, as everyone is told.
    pub async fn last_action_says(&self, server: ServerId) -> Option<String> {
        let actions: Result<Vec<_>, Error> = self
            .store
            .read(move |tx| db::actions::of_server(tx, server))
            .await;
        actions
            .unwrap()
            .into_iter()
            .find(|action| action.request_id == crate::cluster::BY.request_id)
            .and_then(|newest| newest.message)
    }

    async fn look(&self, with_guests: bool) -> Vec<String> {
        let ids = self.created.lock().unwrap().clone();
        let read = move |tx: &mut Tx<'_>| -> Result<(Vec<Instance>, Vec<String>), Error> {
            let mut wrong = Vec::new();
            let mut servers = Vec::new();
            for id in &ids {
                let Some(server) = db::instances::find(tx, *id)? else {
                    wrong.push(format!("{id} has no record"));
                    continue;
                };
                states(&server, &mut wrong);
                allocations(tx, &server, &mut wrong)?;
                actions(tx, *id, &mut wrong)?;
                servers.push(server);
            }
            journal(tx, &mut wrong)?;
            counters(tx, &mut wrong)?;
            Ok((servers, wrong))
        };
        let (servers, mut wrong) = self.store.read(read).await.unwrap();
        let live: BTreeMap<ServerId, Instance> = servers
            .into_iter()
            .filter(|server| !server.deleted)
            .map(|server| (server.id, server))
            .collect();
        self.ports(&live, &mut wrong);
        let of_shelved = self.images.of_type("shelved");
        self.volumes(&live, &mut wrong).await;
        for (image, status) in self.images.all() {
            if status != "active" {
                wrong.push(format!("image {image} is left {status}"));
            }
            let has = |server: &Instance| {
                let shelved = server.kept.shelved.and_then(|shelved| shelved.image);
                shelved.is_some_and(|id| id.to_string() == image)
            };
            if of_shelved.contains(&image) && !live.values().any(has) {
                wrong.push(format!(
                    "image {image} is left of a server that has another"
                ));
            }
        }
        if with_guests {
            self.guests(&live, &mut wrong).await;
        }
        if self.hosts.iter().all(crate::Host::runs) {
            let debts = self.debts().await;
            wrong.extend(debts.iter().map(|debt| format!("unpaid: {debt:?}")));
        }
        wrong
    }

    fn ports(&self, live: &BTreeMap<ServerId, Instance>, wrong: &mut Vec<String>) {
        for (port, device) in self.network.ports() {
            let server = device.parse().ok().and_then(|id: ServerId| live.get(&id));
            let known =
                |server: &Instance| server.network_info.iter().any(|one| one.port_id == port);
            if !device.is_empty() && !server.is_some_and(known) {
                wrong.push(format!("port {port} of {device}, which does not know it"));
            }
        }
        for (port, host) in self.network.ready() {
            wrong.push(format!("port {port} is left ready on {host}"));
        }
        let ports = self.network.ports();
        for server in live.values() {
            for interface in &server.network_info {
                let its = (interface.port_id.clone(), server.id.to_string());
                let shown: Vec<&str> = interface
                    .addresses
                    .iter()
                    .map(|address| address.ip.as_str())
                    .collect();
                let has = self.network.addresses(&interface.port_id);
                if ports.contains(&its) && shown != has {
                    wrong.push(format!(
                        "{} shows {shown:?}, its port has {has:?}",
                        server.id
                    ));
                }
                if !ports.contains(&its) {
                    wrong.push(format!(
                        "{} shows a port it does not have: {its:?}",
                        server.id
                    ));
                }
            }
        }
    }

    /// What the volume service holds for servers is what they have on record.
    async fn volumes(&self, live: &BTreeMap<ServerId, Instance>, wrong: &mut Vec<String>) {
        let devices: Result<Vec<BlockDevice>, Error> =
            self.store.read(db::block_devices::all).await;
        let devices = devices.unwrap();
        let there = self.volumes.attachments();
        for (volume, server, status) in &there {
            let its = |device: &&BlockDevice| {
                device.server.to_string() == *server
                    && device.volume_id.as_ref() == Some(volume)
                    && device.attachment_id.is_some()
                    && live.contains_key(&device.server)
            };
            let holder = server.parse().ok().and_then(|id: ServerId| live.get(&id));
            let offloaded = holder.is_some_and(|one| one.vm_state == VmState::ShelvedOffloaded);
            let wanted = if offloaded { "reserved" } else { "attached" };
            if devices.iter().filter(its).count() != 1 || status != wanted {
                let known: Vec<&BlockDevice> = devices
                    .iter()
                    .filter(|one| one.server.to_string() == *server)
                    .collect();
                wrong.push(format!(
                    "volume {volume} is {status} to {server}, on record: {known:?}"
                ));
            }
        }
        for (volume, server, host) in self.volumes.hosts() {
            let holder = server.parse().ok().and_then(|id: ServerId| live.get(&id));
            let at = holder.and_then(|server| server.host.as_ref());
            if at.is_some_and(|at| at.0 != host) {
                wrong.push(format!(
                    "volume {volume} of {server} is said to be used on {host}, the server is on {at:?}"
                ));
            }
        }
        for (volume, status) in self.volumes.all() {
            let used = there.iter().find(|(one, ..)| *one == volume);
            let wanted = match used {
                Some((_, _, how)) if how == "reserved" => "reserved",
                Some(_) => "in-use",
                None => "available",
            };
            if status != wanted {
                wrong.push(format!("volume {volume} is left {status}"));
            }
        }
        let images = self.images.all();
        for image in self.volumes.snapshots() {
            if !images.iter().any(|(id, _)| *id == image) {
                wrong.push(format!(
                    "a snapshot was made for the image {image}, which is gone"
                ));
            }
        }
        for (volume, disk) in self.volumes.made() {
            let known = |device: &BlockDevice| {
                device.id.to_string() == disk && device.volume_id.as_ref() == Some(&volume)
            };
            if !devices.iter().any(known) {
                wrong.push(format!(
                    "volume {volume} was made for {disk}, which does not know it"
                ));
            }
        }
        for device in &devices {
            if !live.contains_key(&device.server) {
                wrong.push(format!("{device:?} is left of a server that is gone"));
            }
            if let (Some(_), Some(volume)) = (&device.attachment_id, &device.volume_id) {
                let its = (volume, device.server.to_string());
                if !there
                    .iter()
                    .any(|(one, holder, _)| (one, holder.clone()) == its)
                {
                    wrong.push(format!(
                        "{its:?} is on record and not at the volume service"
                    ));
                }
            }
        }
    }

    /// The volumes that a guest has, and those on record; and that the guest moves.
    async fn disks(&self, host: &crate::Host, server: ServerId, wrong: &mut Vec<String>) {
        if host.sim.stands_still(server) {
            wrong.push(format!("the guest of {server} stands still"));
        }
        let spec = virt::Hypervisor::stored_spec(&*host.sim, server).await;
        let disks = spec.unwrap().map(|spec| spec.disks).unwrap_or_default();
        let mut has: Vec<String> = disks
            .iter()
            .filter_map(|disk| disk.volume_id().map(str::to_owned))
            .collect();
        let read = move |tx: &mut Tx<'_>| db::block_devices::of_server(tx, server);
        let devices: Result<Vec<BlockDevice>, Error> = self.store.read(read).await;
        let mut wanted: Vec<String> = devices
            .unwrap()
            .into_iter()
            .filter(|device| device.attachment_id.is_some())
            .filter_map(|device| device.volume_id)
            .collect();
        has.sort();
        wanted.sort();
        if has != wanted {
            wrong.push(format!(
                "the guest of {server} has the volumes {has:?}, on record are {wanted:?}"
            ));
        }
    }

    /// Where hosts share disks: each is a server's, and its host's; a move that is not settled may have two.
    fn shared_disks(&self, live: &BTreeMap<ServerId, Instance>, wrong: &mut Vec<String>) {
        let Some(host) = self.hosts.first().filter(|_| self.shared) else {
            return;
        };
        let disks: BTreeMap<ServerId, String> = host.sim.shared_disks().into_iter().collect();
        for (id, owner) in &disks {
            match live.get(id) {
                None => wrong.push(format!("a disk of {id} is left")),
                Some(server) => {
                    let fits = server.host.as_ref().is_none_or(|host| host.0 == *owner);
                    if !fits && server.kept.unsettled.is_none() {
                        let host = &server.host;
                        wrong.push(format!("the disk of {id} on {host:?} is {owner}'s"));
                    }
                }
            }
        }
        for server in live.values().filter(|server| server.host.is_some()) {
            let built = server.launched_at.is_some();
            if built && !disks.contains_key(&server.id) {
                wrong.push(format!("the disk of {} is gone", server.id));
            }
        }
    }

    async fn guests(&self, live: &BTreeMap<ServerId, Instance>, wrong: &mut Vec<String>) {
        let mut found = BTreeMap::new();
        for host in &self.hosts {
            for id in host.sim.asides() {
                let moving = live
                    .get(&id)
                    .and_then(|server| server.kept.unsettled.as_ref());
                if moving.is_none_or(|moving| moving.source.host != host.name) {
                    wrong.push(format!("{id} is aside on {}", host.name));
                }
            }
            for (id, power) in host.guests().await {
                let server = live.get(&id);
                if server.and_then(|server| server.host.as_ref()) != Some(&host.name) {
                    wrong.push(format!("a guest of {id} on {}", host.name));
                }
                self.disks(host, id, wrong).await;
                found.insert(id, power);
            }
        }
        self.shared_disks(live, wrong);
        for server in live.values() {
            let wanted = match server.vm_state {
                VmState::Active | VmState::Rescued => Some(PowerState::Running),
                VmState::Stopped | VmState::Suspended | VmState::Shelved => {
                    Some(PowerState::Shutdown)
                }
                VmState::Paused => Some(PowerState::Paused),
                // Switched off, or on by a restoration that failed; as a rescue or rebuild that failed has left it.
                VmState::SoftDelete | VmState::Error | VmState::Resized => {
                    found.get(&server.id).copied()
                }
                _ => None,
            };
            let power = found.get(&server.id).copied();
            if power != wanted || wanted.is_some_and(|power| power != server.power_state) {
                let shown = (server.vm_state, server.power_state);
                wrong.push(format!(
                    "{} shows {shown:?}, its guest is {power:?}",
                    server.id
                ));
            }
        }
    }
}

/// What the journal says of a flow that panicked.
const PANICKED: &str = "Unexpected error.";

fn states(server: &Instance, wrong: &mut Vec<String>) {
    let id = server.id;
    let fault = server.fault.as_ref();
    if fault.is_some_and(|fault| fault.message == PANICKED) {
        wrong.push(format!("a flow of {id} panicked: {fault:?}"));
    }
    if server.task_state.is_some() || server.task_id.is_some() {
        wrong.push(format!(
            "{id} stays in {:?}, task {:?}",
            server.task_state, server.task_id
        ));
    }
    if server.deleted {
        return;
    }
    if server.vm_state == VmState::Error && server.fault.is_none() {
        wrong.push(format!(
            "{id} is {} with fault {:?}",
            server.vm_state, server.fault
        ));
    }
    let placed = (
        server.host.is_some(),
        server.node.is_some(),
        server.node_id.is_some(),
    );
    if placed.0 != placed.1 || placed.0 != placed.2 {
        wrong.push(format!("{id} has half a place: {placed:?}"));
    }
}

/// A server holds its flavor on its host, and nothing without a host.
fn allocations(tx: &mut Tx<'_>, server: &Instance, wrong: &mut Vec<String>) -> Result<(), Error> {
    let held: Vec<(Uuid, String, u64)> = db::placement::allocations_of(tx, server.id.0)?
        .into_iter()
        .map(|one| (one.provider, one.resource_class, one.amount))
        .collect();
    let mut wanted = Vec::new();
    if let (Some(node), false) = (server.node_id, server.deleted) {
        let request = scheduler::Request::of(server).unwrap();
        for (class, amount) in request.resources {
            wanted.push((node.0, class, amount));
        }
    }
    wanted.sort();
    if held != wanted {
        wrong.push(format!(
            "{} holds {held:?} instead of {wanted:?}",
            server.id
        ));
    }
    left_claim(tx, server, wrong)?;
    let consumes = db::placement::consumer(tx, server.id.0)?.is_some();
    if consumes == held.is_empty() {
        wrong.push(format!(
            "{} is a consumer: {consumes}, holds {held:?}",
            server.id
        ));
    }
    Ok(())
}

/// What a server left behind when it moved is held by its migration until that is settled, and by nobody afterwards.
fn left_claim(tx: &mut Tx<'_>, server: &Instance, wrong: &mut Vec<String>) -> Result<(), Error> {
    let moving = server.kept.unsettled.as_ref().filter(|_| !server.deleted);
    let settled = matches!(server.vm_state, VmState::Resized | VmState::SoftDelete);
    if moving.is_some() && !settled {
        wrong.push(format!(
            "{} is {} and still moves",
            server.id, server.vm_state
        ));
    }
    let filter = db::migrations::Filter {
        server: Some(server.id.to_string()),
        ..db::migrations::Filter::default()
    };
    for migration in db::migrations::list(tx, &filter, None)?.unwrap_or_default() {
        let held = db::placement::allocations_of(tx, migration.id.0)?;
        let mut held: Vec<(Uuid, String, u64)> = held
            .into_iter()
            .map(|one| (one.provider, one.resource_class, one.amount))
            .collect();
        let mut wanted = Vec::new();
        let moving = moving.filter(|moving| moving.migration == migration.id);
        if let Some(moving) = moving {
            let image = server.image.as_ref();
            let request = scheduler::Request::new(&moving.old_flavor, image).unwrap();
            for (class, amount) in request.resources {
                wanted.push((moving.source.node_id.0, class, amount));
            }
        }
        held.sort();
        wanted.sort();
        if held != wanted {
            wrong.push(format!(
                "{migration:?} holds {held:?} instead of {wanted:?}"
            ));
        }
        let open = !matches!(
            migration.status.as_str(),
            "finished"
                | "confirmed"
                | "reverted"
                | "error"
                | "failed"
                | "done"
                | "completed"
                | "cancelled"
        );
        if open || (migration.status.as_str() == "finished") != moving.is_some() {
            let status = migration.status;
            wrong.push(format!("{} has a migration in {status:?}", server.id));
        }
    }
    Ok(())
}

fn actions(tx: &mut Tx<'_>, server: ServerId, wrong: &mut Vec<String>) -> Result<(), Error> {
    for action in db::actions::of_server(tx, server)? {
        if action.message.as_deref() == Some(PANICKED) {
            wrong.push(format!("{server}: {} panicked", action.action));
        }
        for event in db::actions::events(tx, action.id)? {
            if event.finish_time.is_none() || event.result.is_none() {
                wrong.push(format!(
                    "{server}: {} of {} has not ended",
                    event.event, action.action
                ));
            }
            if event.traceback.as_deref() == Some(PANICKED) {
                wrong.push(format!("{server}: {} panicked", event.event));
            }
            let failed = event.result.as_deref() == Some("Error");
            if failed != event.traceback.is_some() {
                wrong.push(format!("{server}: {event:?} says two things"));
            }
        }
    }
    Ok(())
}

fn journal(tx: &mut Tx<'_>, wrong: &mut Vec<String>) -> Result<(), Error> {
    for task in db::tasks::open(tx)? {
        wrong.push(format!(
            "task {} of {} is left at {:?}",
            task.flow, task.server, task.step
        ));
    }
    let work = db::work::count(tx)?;
    if work > 0 {
        wrong.push(format!("{work} pieces of host work are left"));
    }
    Ok(())
}

/// Counters are what a recount gives.
fn counters(tx: &mut Tx<'_>, wrong: &mut Vec<String>) -> Result<(), Error> {
    let project = ProjectId::from(PROJECT);
    let (held, counted) = (
        db::usages::of_project(tx, &project)?,
        db::usages::recount(tx, &project)?,
    );
    if held != counted {
        wrong.push(format!("the quota counts {held:?}, there is {counted:?}"));
    }
    for (provider, inventory) in db::placement::all_inventories(tx)? {
        let class = &inventory.resource_class;
        let given: u64 = db::placement::allocations_on(tx, provider)?
            .iter()
            .filter(|one| one.resource_class == *class)
            .map(|one| one.amount)
            .sum();
        if given != inventory.used || given > inventory.capacity() {
            let shown = (inventory.used, inventory.capacity());
            wrong.push(format!(
                "{class} of {provider}: {shown:?} shown, {given} given out"
            ));
        }
    }
    Ok(())
}
