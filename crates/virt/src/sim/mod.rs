//! A simulated hypervisor whose guests are files: a restart finds them as they were, a `kill -9` costs nothing.
//!
//! One file per guest, replaced whole by rename and not synced: the database is the truth about servers, a guest lost
//! in a power cut is what a real host loses too. No task runs and nothing polls, so thousands of guests cost their
//! files and about a kilobyte of memory each. [`Controls`] lets tests delay, fail and crash verbs and play the guest.

mod faults;
mod life;
mod live;
mod moves;
mod shared;
mod switches;
#[cfg(test)]
pub(crate) mod tests;
mod tpm;

pub use faults::{Controls, Hook, Moment, Verb};

use crate::disks::Disk;
use crate::facts::{
    CpuDiagnostics, CpuInfo, CpuTopology, Diagnostics, DiskDiagnostics, GuestEvent, GuestEventKind,
    GuestInfo, HostFacts, NicDiagnostics, TpmKinds,
};
use crate::hypervisor::{Hypervisor, HypervisorError, Luggage, Result};
use crate::passage::{Berth, Channel, Door, LiveChoices, Passage};
use crate::spec::{GuestSpec, Power, RootDisk, Vif};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};
use types::agent::{Moving, Quiesce};
use types::tpm::Passphrase;
use types::{HostName, PowerState, ServerId};

/// The ending of a copy of a disk on its way to the image service.
const SNAPSHOT: &str = "snapshot";

/// What a simulated host has.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Where the guests are kept; one folder per host.
    pub folder: PathBuf,
    /// The host's name.
    pub hostname: String,
    /// Physical CPUs.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GiB of disk.
    pub disk_gib: u64,
    /// Feature flags of the CPUs, sorted.
    pub cpu_features: Vec<String>,
    /// The hypervisor's version, as [`HostFacts::hypervisor_version`].
    pub version: u64,
    /// How guests go to other hosts while they run.
    pub live: LiveChoices,
    /// The folder of disks that several hosts share; none: nobody sees a disk, and no host shares any.
    pub storage: Option<PathBuf>,
}

impl SimConfig {
    /// A large host: 64 CPUs, 256 GiB of memory, 10 TiB of disk.
    pub fn large(folder: impl Into<PathBuf>, hostname: impl Into<String>) -> Self {
        Self {
            folder: folder.into(),
            hostname: hostname.into(),
            vcpus: 64,
            memory_mib: 256 * 1024,
            disk_gib: 10 * 1024,
            cpu_features: vec!["clflush".into(), "pge".into()],
            version: 1_000,
            live: LiveChoices::default(),
            storage: None,
        }
    }
}

/// The simulated hypervisor of one host.
pub struct Sim {
    config: SimConfig,
    guests: Mutex<HashMap<ServerId, Guest>>,
    controls: Controls,
    switches: switches::SwitchFile,
    events: broadcast::Sender<GuestEvent>,
    changed: Notify,
    live: Mutex<HashMap<ServerId, live::Live>>,
    /// Guests whose memory was lost on the way.
    torn: Mutex<HashSet<ServerId>>,
    /// Guests that stand still, and until when.
    still: Mutex<HashMap<ServerId, tokio::time::Instant>>,
    /// Passphrases of TPMs, while something is done with their guests.
    lent: Mutex<HashMap<ServerId, Passphrase>>,
}

#[derive(Clone)]
struct Guest {
    spec: Arc<GuestSpec>,
    power: PowerState,
    tpm: tpm::Memory,
}

#[derive(Serialize, Deserialize)]
struct StoredGuest<S> {
    power: PowerState,
    spec: S,
    #[serde(default)]
    tpm: tpm::Memory,
}

impl Sim {
    /// Opens the folder and finds the guests of earlier runs.
    ///
    /// # Errors
    /// The folder cannot be made or read. A file that is not a guest is reported in the log and left alone.
    pub fn open(config: SimConfig) -> Result<Arc<Self>> {
        std::fs::create_dir_all(&config.folder)
            .map_err(|e| HypervisorError::disk(config.folder.display(), &e))?;
        let guests =
            load(&config.folder).map_err(|e| HypervisorError::disk(config.folder.display(), &e))?;
        let (events, _) = broadcast::channel(1024);
        Ok(Arc::new(Self {
            switches: switches::SwitchFile::in_folder(&config.folder),
            config,
            guests: Mutex::new(guests),
            controls: Controls::default(),
            events,
            changed: Notify::new(),
            live: Mutex::default(),
            torn: Mutex::default(),
            still: Mutex::default(),
            lent: Mutex::default(),
        }))
    }

    /// The switches for tests.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// The guest's own doing: it powers off.
    pub fn guest_powers_off(&self, id: ServerId) -> Result<()> {
        self.change_power(id, PowerState::Shutdown, GuestEventKind::Stopped)
    }

    /// The guest's process dies.
    pub fn guest_crashes(&self, id: ServerId) -> Result<()> {
        self.change_power(id, PowerState::Crashed, GuestEventKind::Crashed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: ServerId) -> PathBuf {
        self.config.folder.join(format!("{id}.json"))
    }

    /// Writes first, remembers second: memory never holds what a restart would not find.
    fn store(&self, guests: &mut HashMap<ServerId, Guest>, guest: Guest) -> Result<GuestInfo> {
        let id = guest.spec.id;
        let text = serde_json::to_vec(&StoredGuest {
            power: guest.power,
            spec: &*guest.spec,
            tpm: guest.tpm.clone(),
        })
        .map_err(|error| HypervisorError::Rejected(error.to_string()))?;
        let path = self.path(id);
        let part = path.with_extension("part");
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| HypervisorError::disk(path.display(), &error))?;
        let info = guest.info();
        guests.insert(id, guest);
        Ok(info)
    }

    fn change_power(&self, id: ServerId, power: PowerState, kind: GuestEventKind) -> Result<()> {
        let mut guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        if guest.power == power {
            return Ok(());
        }
        let starts = power == PowerState::Running && !guest.info().active;
        let guest = Guest {
            power,
            tpm: match starts {
                true => self.unlock(&guest.spec, &guest.tpm)?,
                false => guest.tpm.clone(),
            },
            ..guest.clone()
        };
        self.store(&mut guests, guest)?;
        drop(guests);
        if starts {
            self.is_here(id)?;
        }
        self.announce(id, kind);
        Ok(())
    }

    fn announce(&self, id: ServerId, kind: GuestEventKind) {
        self.events.send(GuestEvent { id, kind }).ok();
        self.changed.notify_waiters();
    }

    /// Everything around a verb: the daemon is up, the delay passes, faults and crash points apply.
    async fn perform<T>(
        &self,
        verb: Verb,
        id: ServerId,
        effect: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.enter(verb, id).await?;
        let result = effect()?;
        self.leave(verb, id).await?;
        Ok(result)
    }

    async fn enter(&self, verb: Verb, id: ServerId) -> Result<()> {
        let switches = self.switches.now();
        if let Some(delay) = self.controls.delay(verb).or(switches.delay(verb)) {
            tokio::time::sleep(delay).await;
        }
        if self.is_down() {
            return Err(HypervisorError::Unavailable(
                "the simulated hypervisor is switched off".into(),
            ));
        }
        self.controls.fail(verb)?;
        if let Some(failure) = switches.failure(verb) {
            return Err(failure);
        }
        self.controls.meet(verb, Moment::Before, id)
    }

    /// The effect is there; the caller hears of it afterwards.
    async fn leave(&self, verb: Verb, id: ServerId) -> Result<()> {
        if let Some(delay) = self.switches.now().delay_after(verb) {
            tokio::time::sleep(delay).await;
        }
        self.controls.meet(verb, Moment::After, id)
    }

    fn is_down(&self) -> bool {
        self.controls.is_down() || self.switches.now().down
    }

    fn guests_ignore_shutdown(&self) -> bool {
        self.controls.guests_ignore_shutdown() || self.switches.now().ignore_shutdown
    }

    fn switch_on(&self, id: ServerId) -> Result<GuestInfo> {
        self.must_have_disk(id)?;
        self.change_power(id, PowerState::Running, GuestEventKind::Started)?;
        self.info(id)
    }

    fn info(&self, id: ServerId) -> Result<GuestInfo> {
        self.lock()
            .get(&id)
            .map(Guest::info)
            .ok_or(HypervisorError::NotFound(id))
    }

    fn is_full(&self) -> bool {
        self.controls.disk_is_full() || self.switches.now().disk_full
    }

    fn check_room(&self, guests: &HashMap<ServerId, Guest>, spec: &GuestSpec) -> Result<()> {
        let used: u64 = guests.values().map(|guest| guest.disk_gib()).sum();
        if self.is_full() || used + local_gib(spec) > self.config.disk_gib {
            let reason = "no space left on the simulated disk".to_owned();
            return Err(HypervisorError::Disk { reason, full: true });
        }
        Ok(())
    }

    fn create(&self, spec: &GuestSpec, power: Power) -> Result<GuestInfo> {
        let mut guests = self.lock();
        let known = guests.get(&spec.id).map(|guest| guest.power);
        let memory = guests.get(&spec.id).map(|guest| guest.tpm.clone());
        let memory = memory.unwrap_or_default();
        if known == Some(PowerState::Running) {
            drop(guests);
            return self.info(spec.id);
        }
        if known.is_none() {
            self.check_room(&guests, spec)?;
            self.make_shared_disk(spec.id)?;
        }
        let state = match power {
            Power::On => PowerState::Running,
            Power::Off => known.unwrap_or(PowerState::Shutdown),
        };
        let info = self.store(
            &mut guests,
            Guest {
                spec: Arc::new(spec.for_storage()),
                power: state,
                tpm: match power {
                    Power::On => self.unlock(spec, &memory)?,
                    Power::Off => self.resting(spec, memory),
                },
            },
        )?;
        drop(guests);
        if state == PowerState::Running {
            self.announce(spec.id, GuestEventKind::Started);
        }
        Ok(info)
    }

    fn recreate(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        let mut guests = self.lock();
        let was = guests.get(&spec.id);
        let was = was.ok_or(HypervisorError::NotFound(spec.id))?;
        let guest = Guest {
            spec: Arc::new(spec.for_storage()),
            power: PowerState::Running,
            tpm: self.unlock(spec, &was.tpm)?,
        };
        let info = self.store(&mut guests, guest)?;
        drop(guests);
        self.announce(spec.id, GuestEventKind::Stopped);
        self.announce(spec.id, GuestEventKind::Started);
        Ok(info)
    }

    fn remove(&self, id: ServerId) -> Result<()> {
        self.remove_shared_disk(id)?;
        self.undefine(id)
    }

    fn undefine(&self, id: ServerId) -> Result<()> {
        self.forget_moves(id)?;
        let mut guests = self.lock();
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(HypervisorError::disk(self.path(id).display(), &error));
            }
            _ => {}
        }
        let gone = guests.remove(&id);
        drop(guests);
        self.torn().remove(&id);
        if gone.is_some_and(|guest| guest.power != PowerState::Shutdown) {
            self.announce(id, GuestEventKind::Stopped);
        }
        Ok(())
    }

    async fn until_stopped(&self, id: ServerId, timeout: Duration) -> Result<()> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if !self.info(id)?.active {
                    return Ok(());
                }
                changed.await;
            }
        };
        let late = HypervisorError::Timeout("shutting the guest down".into());
        tokio::time::timeout(timeout, wait)
            .await
            .unwrap_or(Err(late))
    }
}

impl Guest {
    fn info(&self) -> GuestInfo {
        GuestInfo {
            id: self.spec.id,
            instance_name: self.spec.instance_name.clone(),
            // As libvirt shows it: a guest whose memory is on disk is off.
            power: match self.power {
                PowerState::Suspended => PowerState::Shutdown,
                power => power,
            },
            active: matches!(self.power, PowerState::Running | PowerState::Paused),
            vcpus: self.spec.vcpus,
            memory_mib: self.spec.memory_mib,
        }
    }

    fn disk_gib(&self) -> u64 {
        local_gib(&self.spec)
    }
}

/// The disks as the guest would name them.
fn devices(spec: &GuestSpec) -> Vec<DiskDiagnostics> {
    let of_host = (spec.root != RootDisk::Volume).then(|| "vda".to_owned());
    let others = spec.disks.iter();
    let others = others.map(|disk| disk.device.clone().unwrap_or_default());
    of_host
        .into_iter()
        .chain(others)
        .map(|device| DiskDiagnostics {
            device,
            ..DiskDiagnostics::default()
        })
        .collect()
}

fn root_gib(spec: &GuestSpec) -> u64 {
    spec.root.local_gib()
}

fn local_gib(spec: &GuestSpec) -> u64 {
    let others: u64 = spec.disks.iter().map(Disk::local_gib).sum();
    root_gib(spec) + others
}

fn load(folder: &Path) -> std::io::Result<HashMap<ServerId, Guest>> {
    let mut guests = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == SNAPSHOT) {
            // Whoever was about to send it was killed; work that is still wanted makes it anew.
            std::fs::remove_file(&path)?;
            continue;
        }
        let other = path.file_name().is_some_and(|name| name == switches::NAME);
        if other || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match serde_json::from_slice::<StoredGuest<GuestSpec>>(&std::fs::read(&path)?) {
            Ok(stored) => {
                let guest = Guest {
                    spec: Arc::new(stored.spec),
                    power: stored.power,
                    tpm: stored.tpm,
                };
                guests.insert(guest.spec.id, guest);
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "not a simulated guest, left alone")
            }
        }
    }
    Ok(guests)
}

#[async_trait]
impl Hypervisor for Sim {
    async fn host(&self) -> Result<HostFacts> {
        self.enter(Verb::Host, ServerId::from(uuid::Uuid::nil()))
            .await?;
        let guests = self.lock();
        let running = || guests.values().filter(|guest| guest.info().active);
        let disk_used: u64 = guests.values().map(Guest::disk_gib).sum();
        Ok(HostFacts {
            hypervisor_type: "fake".into(),
            hypervisor_version: self.config.version,
            hypervisor_hostname: self.config.hostname.clone(),
            vcpus: self.config.vcpus,
            memory_mib: self.config.memory_mib,
            memory_used_mib: running().map(|guest| guest.spec.memory_mib).sum(),
            disk_gib: self.config.disk_gib,
            disk_free_gib: self.config.disk_gib.saturating_sub(disk_used),
            cpu_info: CpuInfo {
                arch: "x86_64".into(),
                model: "Nehalem".into(),
                vendor: "Intel".into(),
                topology: CpuTopology {
                    cells: 1,
                    sockets: 1,
                    cores: self.config.vcpus,
                    threads: 1,
                },
                features: self.config.cpu_features.clone(),
                for_guests: Vec::new(),
            },
            supported: vec![("x86_64".into(), "fake".into(), "hvm".into())],
            running_guests: running().count().try_into().unwrap_or(u32::MAX),
            storage: self.storage(),
            tpm: TpmKinds::all(),
        })
    }

    async fn ensure_guest(&self, spec: &GuestSpec, power: Power) -> Result<GuestInfo> {
        self.perform(Verb::EnsureGuest, spec.id, || self.create(spec, power))
            .await
    }

    async fn ensure_absent(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::EnsureAbsent, id, || self.remove(id))
            .await
    }

    async fn ensure_undefined(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::EnsureAbsent, id, || self.undefine(id))
            .await
    }

    async fn start(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Start, id, || self.switch_on(id)).await
    }

    async fn stop_hard(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::StopHard, id, || self.guest_powers_off(id))
            .await
    }

    async fn request_shutdown(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::RequestShutdown, id, || {
            self.info(id)?;
            if self.guests_ignore_shutdown() {
                Ok(())
            } else {
                self.guest_powers_off(id)
            }
        })
        .await
    }

    async fn wait_stopped(&self, id: ServerId, timeout: Duration) -> Result<()> {
        self.enter(Verb::WaitStopped, id).await?;
        self.until_stopped(id, timeout).await?;
        self.leave(Verb::WaitStopped, id).await
    }

    async fn reboot_soft(&self, id: ServerId, timeout: Duration) -> Result<GuestInfo> {
        self.enter(Verb::RebootSoft, id).await?;
        if self.info(id)?.active {
            if !self.guests_ignore_shutdown() {
                self.guest_powers_off(id)?;
            }
            self.until_stopped(id, timeout).await?;
        }
        let info = self.switch_on(id)?;
        self.leave(Verb::RebootSoft, id).await?;
        Ok(info)
    }

    async fn reboot_hard(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        self.perform(Verb::RebootHard, spec.id, || self.recreate(spec))
            .await
    }

    async fn pause(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Pause, id, || self.stand_still(id)).await
    }

    async fn unpause(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Unpause, id, || self.go_on(id)).await
    }

    async fn suspend(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Suspend, id, || self.save(id)).await
    }

    async fn resume(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Resume, id, || self.switch_on(id)).await
    }

    async fn rescue(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        self.perform(Verb::Rescue, spec.id, || self.recreate(spec))
            .await
    }

    async fn unrescue(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Unrescue, id, || self.leave_rescue(id))
            .await
    }

    async fn stand_still(&self, id: ServerId, quiesce: Quiesce, most: Duration) -> Result<()> {
        self.hold_still(id, quiesce, most).await
    }

    async fn go_on(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::Thaw, id, || {
            self.still().remove(&id);
            Ok(())
        })
        .await
    }

    async fn recover(&self) {
        self.still().clear();
    }

    async fn snapshot(&self, id: ServerId, name: &str, quiesce: Quiesce) -> Result<PathBuf> {
        self.quiet(id, quiesce).await?;
        self.perform(Verb::Snapshot, id, || self.copy_disk(id, name))
            .await
    }

    async fn attach(&self, id: ServerId, vif: &Vif) -> Result<GuestInfo> {
        self.perform(Verb::Attach, id, || {
            self.change_vifs(id, &vif.port_id, Some(vif))
        })
        .await
    }

    async fn detach(&self, id: ServerId, port_id: &str) -> Result<GuestInfo> {
        self.perform(Verb::Detach, id, || self.change_vifs(id, port_id, None))
            .await
    }

    async fn migrate_live(
        &self,
        id: ServerId,
        to: &HostName,
        way: Option<Arc<dyn Passage>>,
        shared: bool,
    ) -> Result<GuestInfo> {
        self.enter(Verb::MigrateLive, id).await?;
        self.send_passphrase(id, way).await?;
        let gone = self.send_away(id).await;
        if shared && matches!(gone, Ok(_) | Err(HypervisorError::PostCopyBroke)) {
            self.give_disk(id, to)?;
        }
        self.leave(Verb::MigrateLive, id).await?;
        gone
    }

    async fn adopt(
        &self,
        spec: &GuestSpec,
        power: Power,
        _from: &HostName,
        take: bool,
    ) -> Result<GuestInfo> {
        self.perform(Verb::Adopt, spec.id, || self.take_up(spec, power, take))
            .await
    }

    async fn claim(&self, id: ServerId) -> Result<()> {
        self.claim_disk(id)
    }

    async fn is_aside_of(&self, _id: ServerId, _host: &HostName) -> bool {
        false
    }

    async fn expect_live(&self, _id: ServerId) -> Result<Berth> {
        Err(HypervisorError::Rejected(
            "simulated guests need no way to another host".into(),
        ))
    }

    async fn berth(&self, _id: ServerId) -> Option<Berth> {
        None
    }

    async fn enter_door(&self, id: ServerId, _door: Door) -> Result<Box<dyn Channel>> {
        Err(HypervisorError::NotFound(id))
    }

    async fn expect_no_more(&self, _id: ServerId) {}

    async fn abort_live(&self, id: ServerId) -> Result<bool> {
        self.call_off(id)
    }

    async fn force_live(&self, id: ServerId) -> Result<bool> {
        Ok(self.hurry(id))
    }

    async fn guest_cpu(&self, id: ServerId) -> Result<Option<String>> {
        self.enter(Verb::GuestCpu, id).await?;
        self.active(id)?;
        self.leave(Verb::GuestCpu, id).await?;
        Ok(Some(self.config.cpu_features.join(" ")))
    }

    async fn lacks_cpu(&self, cpu: &str) -> Result<Option<String>> {
        let here = &self.config.cpu_features;
        let missing = cpu
            .split(' ')
            .filter(|flag| !here.iter().any(|has| has == flag));
        let missing: Vec<&str> = missing.collect();
        Ok((!missing.is_empty()).then(|| format!("no {}", missing.join(", "))))
    }

    async fn moving(&self) -> Vec<Moving> {
        self.under_way()
    }

    async fn set_password(&self, id: ServerId, user: &str, password: &str) -> Result<GuestInfo> {
        self.perform(Verb::SetPassword, id, || {
            self.take_password(id, user, password)
        })
        .await
    }

    async fn attach_disk(&self, id: ServerId, disk: &Disk) -> Result<GuestInfo> {
        self.perform(Verb::AttachDisk, id, || {
            self.change_disks(id, |disks| {
                disks.retain(|one| one.volume_id() != disk.volume_id());
                disks.push(disk.clone());
                Ok(())
            })
        })
        .await
    }

    async fn detach_disk(&self, id: ServerId, volume_id: &str) -> Result<GuestInfo> {
        self.perform(Verb::DetachDisk, id, || {
            self.change_disks(id, |disks| {
                disks.retain(|one| one.volume_id() != Some(volume_id));
                Ok(())
            })
        })
        .await
    }

    async fn swap_disk(&self, id: ServerId, old: &str, disk: &Disk) -> Result<GuestInfo> {
        self.perform(Verb::SwapDisk, id, || {
            self.change_disks(id, |disks| {
                let place = |volume: &str| {
                    let has = |one: &Disk| one.volume_id() == Some(volume);
                    disks.iter().position(has)
                };
                let new = disk.volume_id().unwrap_or_default();
                let own = disks.iter().position(|one| one.id == disk.id);
                let Some(at) = place(old).or_else(|| place(new)).or(own) else {
                    let words = format!("the guest does not have the volume {old}");
                    return Err(HypervisorError::Guest(words));
                };
                disks[at] = disk.clone();
                Ok(())
            })
        })
        .await
    }

    async fn resize_disk(&self, id: ServerId, volume_id: &str, _: u64) -> Result<GuestInfo> {
        self.perform(Verb::ResizeDisk, id, || {
            self.change_disks(id, |disks| {
                if disks.iter().any(|one| one.volume_id() == Some(volume_id)) {
                    return Ok(());
                }
                let words = format!("the guest does not have the volume {volume_id}");
                Err(HypervisorError::Guest(words))
            })
        })
        .await
    }

    async fn interrupt(&self, id: ServerId) -> Result<GuestInfo> {
        self.perform(Verb::Interrupt, id, || self.active(id)).await
    }

    async fn put_aside(&self, id: ServerId, root_gib: u64) -> Result<()> {
        self.perform(Verb::PutAside, id, || self.set_aside(id, root_gib))
            .await
    }

    async fn put_back(&self, id: ServerId, power: Power) -> Result<GuestInfo> {
        self.perform(Verb::PutBack, id, || self.bring_back(id, power))
            .await
    }

    async fn forget_aside(&self, id: ServerId) -> Result<()> {
        self.perform(Verb::ForgetAside, id, || self.forget(id))
            .await
    }

    async fn aside_files(&self, id: ServerId) -> Result<Vec<PathBuf>> {
        self.luggage(id)
    }

    async fn disk_base(&self, _id: ServerId) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    async fn inbox(&self, id: ServerId) -> Result<PathBuf> {
        self.empty_inbox(id)
    }

    async fn land(&self, spec: &GuestSpec, luggage: Luggage, power: Power) -> Result<GuestInfo> {
        self.perform(Verb::Land, spec.id, || self.unpack(spec, luggage, power))
            .await
    }

    fn lend_passphrase(&self, id: ServerId, passphrase: Option<Passphrase>) {
        match passphrase {
            Some(passphrase) => self.lent().insert(id, passphrase),
            None => self.lent().remove(&id),
        };
    }

    async fn keep_passphrase(&self, id: ServerId, passphrase: &Passphrase) -> Result<()> {
        self.keep(id, passphrase)
    }

    async fn guest(&self, id: ServerId) -> Result<Option<GuestInfo>> {
        self.perform(Verb::Guest, id, || {
            Ok(self.lock().get(&id).map(Guest::info))
        })
        .await
    }

    async fn guests(&self) -> Result<Vec<GuestInfo>> {
        self.enter(Verb::Guests, ServerId::from(uuid::Uuid::nil()))
            .await?;
        Ok(self.lock().values().map(Guest::info).collect())
    }

    async fn stray_files(&self, age: Duration) -> Result<Vec<ServerId>> {
        self.strays(age)
    }

    async fn stored_spec(&self, id: ServerId) -> Result<Option<GuestSpec>> {
        Ok(self.lock().get(&id).map(|guest| (*guest.spec).clone()))
    }

    async fn console_log(&self, id: ServerId, max_bytes: usize) -> Result<Vec<u8>> {
        self.perform(Verb::ConsoleLog, id, || {
            let name = self
                .lock()
                .get(&id)
                .map(|guest| guest.spec.instance_name.clone());
            let name = name.ok_or(HypervisorError::NotFound(id))?;
            let text = self.controls.console_text(id).unwrap_or_else(|| {
                format!(
                    "simulated guest {name}\nfirmware: none\nloader: none\nno kernel was started\n\n{name} login: "
                )
                .into_bytes()
            });
            Ok(text[text.len().saturating_sub(max_bytes)..].to_vec())
        })
        .await
    }

    async fn diagnostics(&self, id: ServerId) -> Result<Diagnostics> {
        self.perform(Verb::Diagnostics, id, || {
            let guests = self.lock();
            let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
            let nic = |vif: &crate::spec::Vif| NicDiagnostics {
                device: vif.tap.clone(),
                mac: vif.mac.clone(),
                ..NicDiagnostics::default()
            };
            Ok(Diagnostics {
                power: guest.power,
                // Clients know a closed list of drivers.
                driver: "libvirt".into(),
                hypervisor: "fake".into(),
                memory_maximum_mib: guest.spec.memory_mib,
                memory_used_mib: None,
                cpus: (0..guest.spec.vcpus)
                    .map(|id| CpuDiagnostics { id, time_ns: 0 })
                    .collect(),
                nics: guest.spec.vifs.iter().map(nic).collect(),
                disks: devices(&guest.spec),
            })
        })
        .await
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.events.subscribe()
    }

    fn needs_image_files(&self) -> bool {
        false
    }

    async fn alive(&self) -> bool {
        !self.is_down()
    }
}
