//! Real guests: QEMU through libvirt.
//!
//! libvirt is spoken to by its own wire protocol over the unix socket, on four connections: questions, long jobs, memory
//! on its way to disks, events. All of them come back by themselves when the daemon restarts; guests do not notice.
//!
//! A guest's folder holds `disk`, `disk.config`, `console.log`, `guest.json`, and `memory.save` while the guest is
//! suspended. The specification is written once the others are there, so what exists is whole; removal goes the other
//! way: domain first, folder last. A guest that moves is kept in a second folder of the same kind, see [`moves`].

mod acceleration;
mod calls;
mod capabilities;
pub mod daemon;
mod described;
mod diagnostics;
mod disks;
mod domain;
mod events;
mod exchange;
mod files;
pub mod folder;
mod host;
pub mod image;
mod interfaces;
mod letting_go;
mod life;
mod live;
mod moves;
mod plugging;
mod processor;
pub(crate) mod qcow2;
mod quiesce;
mod rpc;
mod shared;
mod snapshot;
mod tpm;
mod xdr;

use crate::disks::Disk;
use crate::facts::{Diagnostics, GuestEvent, GuestInfo, HostFacts, TpmKinds};
use crate::hypervisor::{Hypervisor, HypervisorError, Luggage, Result};
use crate::kvm::Kvm;
use crate::passage::{Berth, Channel, Door, LiveChoices, Passage};
use crate::spec::{BootFile, GuestSpec, Power, RootDisk, Vif};
pub use acceleration::Acceleration;
use async_trait::async_trait;
use calls::{DomainRef, Link, error_code, stats};
use capabilities::Capabilities;
use domain::{BootFiles, GuestFiles, HostChoices, domain_xml};
use files::{base_size, make_disk, make_drive, make_files};
use folder::{GuestFolder, Instances};
pub use letting_go::Detaching;
pub use processor::{CpuChoice, CpuMode};
use rpc::RpcError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OnceCell, OwnedMutexGuard, broadcast};
use tokio::task::AbortHandle;
use types::agent::{Moving, Quiesce};
use types::tpm::Passphrase;
use types::{HostName, PowerState, ServerId};

/// What the driver needs to know.
#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    /// The folder of guests' files; made if missing.
    pub instances: PathBuf,
    /// Where a bind mount of it goes when QEMU's user cannot reach it.
    pub run: PathBuf,
    /// The daemon's sockets.
    pub sockets: Vec<PathBuf>,
    /// The hypervisor's address.
    pub uri: String,
    /// How guests run.
    pub acceleration: Acceleration,
    /// How they go to other hosts while they run.
    pub live: LiveChoices,
    /// The host's name in the cloud, for folders that several hosts share; empty: nobody shares them.
    pub host: HostName,
    /// Guests may have emulated TPMs (`[libvirt] swtpm_enabled`).
    pub swtpm: bool,
    /// The processors that guests get.
    pub cpu: CpuChoice,
    /// How long guests get to let go of disks and interfaces.
    pub detaching: Detaching,
}

impl LibvirtConfig {
    /// A system-wide libvirt with QEMU.
    pub fn system(instances: impl Into<PathBuf>) -> Self {
        let daemon = daemon::DaemonConfig::system("");
        Self {
            instances: instances.into(),
            run: "/run/kilonova".into(),
            sockets: daemon.sockets,
            uri: daemon.uri,
            acceleration: Acceleration::Probe,
            live: LiveChoices::default(),
            host: HostName(String::new()),
            swtpm: false,
            cpu: CpuChoice::default(),
            detaching: Detaching::default(),
        }
    }
}

/// The driver.
pub struct Libvirt {
    instances: Instances,
    choices: HostChoices,
    kvm: Kvm,
    acceleration: Acceleration,
    questions: Link,
    jobs: Arc<Link>,
    /// For memory on its way to and from disks: libvirt works on a few calls of a connection at once, and these take long.
    memory: Link,
    /// For the agents in guests, which answer when they like.
    agents: Arc<Link>,
    events: broadcast::Sender<GuestEvent>,
    watcher: AbortHandle,
    capabilities: OnceCell<Capabilities>,
    known: Mutex<HashMap<ServerId, Known>>,
    sockets: Vec<PathBuf>,
    uri: String,
    /// Where the folders of sockets are by which guests come and go.
    ways: PathBuf,
    berths: Mutex<HashMap<ServerId, Berth>>,
    under_way: Mutex<HashMap<ServerId, live::UnderWay>>,
    live: LiveChoices,
    /// Names the file system of the instances folder.
    storage: Option<String>,
    locks: Mutex<HashMap<ServerId, Weak<tokio::sync::Mutex<()>>>>,
    still: Arc<quiesce::Still>,
    swtpm: bool,
    detaching: Detaching,
    /// Models of processors that guests can have here, as libvirt writes them.
    cpu_models: OnceCell<Vec<String>>,
    tpm_kinds: OnceCell<TpmKinds>,
    /// Passphrases of TPMs, while something is done with their guests.
    lent: Mutex<HashMap<ServerId, Passphrase>>,
}

/// What a list of guests needs of a stored specification.
#[derive(Clone, Debug)]
struct Known {
    instance_name: String,
    vcpus: u32,
    memory_mib: u64,
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Libvirt {
    /// Prepares the folder, decides how guests run, and starts following events. The daemon need not be there yet.
    ///
    /// # Errors
    /// The instances folder cannot be used.
    pub async fn open(config: LibvirtConfig) -> Result<Arc<Self>> {
        let (instances_path, run) = (config.instances.clone(), config.run.clone());
        let opened = blocking(move || Instances::open(&instances_path, &run)).await?;
        let opened = opened.of_host(&config.host);
        let storage = opened.storage().inspect_err(|error| {
            tracing::warn!(%error, "it cannot be told which hosts share the instances folder: none");
        });
        let kvm = acceleration::decide(config.acceleration).await?;
        let direct_io = folder::supports_direct_io(opened.path());
        let stored = opened
            .stored()
            .map_err(|error| HypervisorError::disk(config.instances.display(), &error))?;
        let (events, _) = broadcast::channel(1024);
        let watcher = events::watch(config.sockets.clone(), config.uri.clone(), events.clone());
        Ok(Arc::new(Self {
            choices: HostChoices {
                kvm: kvm.is_usable() || config.acceleration == Acceleration::Kvm,
                direct_io,
                cpu: config.cpu,
            },
            kvm,
            acceleration: config.acceleration,
            instances: opened,
            questions: Link::new(config.sockets.clone(), config.uri.clone()),
            jobs: Arc::new(Link::new(config.sockets.clone(), config.uri.clone())),
            memory: Link::new(config.sockets.clone(), config.uri.clone()),
            agents: Arc::new(Link::new(config.sockets.clone(), config.uri.clone())),
            sockets: config.sockets,
            uri: config.uri,
            ways: config.run.join("live"),
            berths: Mutex::default(),
            under_way: Mutex::default(),
            live: config.live,
            storage: storage.ok().filter(|_| !config.host.0.is_empty()),
            events,
            watcher,
            capabilities: OnceCell::new(),
            known: Mutex::new(
                stored
                    .iter()
                    .map(|spec| (spec.id, Known::of(spec)))
                    .collect(),
            ),
            locks: Mutex::new(HashMap::new()),
            still: Arc::default(),
            swtpm: config.swtpm,
            detaching: config.detaching,
            cpu_models: OnceCell::new(),
            tpm_kinds: OnceCell::new(),
            lent: Mutex::default(),
        }))
    }

    /// Whether guests run on hardware, and why not.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The folder of base images.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn base_images(&self) -> Result<image::BaseImages> {
        image::BaseImages::open(self.instances.path())
    }

    /// Switches a guest off and takes it off the hypervisor's list; its disks and its specification stay, and
    /// [`Hypervisor::start`] brings it back.
    ///
    /// # Errors
    /// The hypervisor does not answer or refuses.
    pub async fn put_away(&self, id: ServerId) -> Result<()> {
        let _lock = self.exclusive(id).await;
        self.off(id).await?;
        if let Some(spec) = self.read_spec(id)? {
            self.keep_tpm_memory(&spec).await?;
        }
        self.undefine(id).await
    }

    async fn undefine(&self, id: ServerId) -> Result<()> {
        match self.jobs.undefine(&self.reference(id)).await {
            Ok(())
            | Err(RpcError::Refused {
                code: error_code::NO_DOMAIN,
                ..
            }) => Ok(()),
            Err(error) => Err(explain(error)),
        }
    }

    /// What an earlier process left in the middle, guest by guest. An exchange of volumes is left as it is: the work for it,
    /// or its undo, comes again, and goes on with the copy.
    async fn end_what_was_left(&self) {
        let stored = match self.instances.stored() {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(%error, "guests that may stand still, and copies of disks, are not found");
                return;
            }
        };
        for spec in stored {
            let id = spec.id;
            let files = self.instances.guest(id);
            // Of hosts that share the folder each looks after its own.
            if !files.is_own(&files.folder).unwrap_or(true) {
                continue;
            }
            if files.still.exists()
                && let Err(error) = self.let_go_on(id).await
            {
                tracing::error!(guest = %id, %error, "the guest's file systems may stand still");
            }
            if let Err(error) = self.forget_copies(id).await {
                tracing::error!(guest = %id, %error, "a copy of the guest's disk may be left");
            }
            // A start that was cut off has not taken it back.
            self.lock_again(&spec).await;
        }
    }

    /// One verb at a time per guest.
    async fn exclusive(&self, id: ServerId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            match locks.get(&id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    locks.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(id, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    fn remember(&self, spec: &GuestSpec) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(spec.id, Known::of(spec));
    }

    fn recall(&self, id: ServerId) -> Option<Known> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    fn reference(&self, id: ServerId) -> DomainRef {
        let name = self
            .recall(id)
            .map_or_else(|| "unknown".to_owned(), |known| known.instance_name);
        DomainRef { id, name }
    }

    async fn look(&self, id: ServerId) -> Result<Option<GuestInfo>> {
        let reference = self.reference(id);
        match self.questions.info(&reference).await {
            Ok(info) => Ok(Some(GuestInfo {
                id,
                instance_name: reference.name,
                power: info.state.power(),
                active: info.state.is_active(),
                vcpus: info.vcpus,
                memory_mib: info.memory_kib / 1024,
            })),
            Err(RpcError::Refused {
                code: error_code::NO_DOMAIN,
                ..
            }) => Ok(None),
            Err(error) => Err(explain(error)),
        }
    }

    async fn must_look(&self, id: ServerId) -> Result<GuestInfo> {
        self.look(id).await?.ok_or(HypervisorError::NotFound(id))
    }

    /// Makes the files, unless the stored specification says they were made. Files that were made and are gone are an
    /// error: making them anew would hide a loss of data.
    async fn make_files(&self, spec: &GuestSpec) -> Result<()> {
        let files = self.instances.guest(spec.id);
        let base_name = self.backing_name(&spec.root)?;
        let spec = spec.clone();
        blocking(move || make_files(&files, &spec, base_name.as_deref())).await
    }

    /// How the overlay names its base: relative, so that the whole folder may be moved.
    fn backing_name(&self, root: &RootDisk) -> Result<Option<String>> {
        let RootDisk::Image { base, .. } = root else {
            return Ok(None);
        };
        let outside =
            || HypervisorError::Image(format!("{} is not in the instances folder", base.display()));
        let base = base
            .canonicalize()
            .map_err(|error| HypervisorError::disk(base.display(), &error))?;
        let inside = base
            .strip_prefix(self.instances.path())
            .map_err(|_| outside())?;
        Ok(Some(format!("../{}", inside.to_str().ok_or_else(outside)?)))
    }

    fn xml(&self, spec: &GuestSpec, choices: &HostChoices) -> Result<String> {
        let files = self.instances.guest(spec.id);
        let outside = || {
            HypervisorError::Rejected(
                "a file of the guest is outside of the instances folder".into(),
            )
        };
        let seen = |path: &Path| self.instances.for_qemu(path).ok_or_else(outside);
        let base_of = |root: &RootDisk| -> Result<_> {
            match root {
                RootDisk::Image { base, format, .. } => {
                    let base = base
                        .canonicalize()
                        .map_err(|error| HypervisorError::disk(base.display(), &error))?;
                    Ok(Some((seen(&base)?, *format)))
                }
                RootDisk::Blank { .. } | RootDisk::Volume => Ok(None),
            }
        };
        let boot_file = |file: &BootFile| {
            let base = file.base.canonicalize();
            seen(&base.map_err(|error| HypervisorError::disk(file.base.display(), &error))?)
        };
        let kernel = match &spec.kernel {
            Some(kernel) => {
                let ramdisk = kernel.ramdisk.as_ref().map(boot_file);
                Some((boot_file(&kernel.image)?, ramdisk.transpose()?))
            }
            None => None,
        };
        let base = base_of(&spec.root)?;
        let rescue = match &spec.rescue {
            Some(rescue) => Some((seen(&files.rescue)?, base_of(&rescue.root)?)),
            None => None,
        };
        let drive = if spec.rescue.is_some() && files.rescue_drive.exists() {
            &files.rescue_drive
        } else {
            &files.config_drive
        };
        let drive = spec
            .config_drive
            .as_ref()
            .map(|_| seen(drive))
            .transpose()?;
        spec.disks.iter().try_for_each(disks::reachable)?;
        let own = (spec.root != RootDisk::Volume).then_some(&files.disk);
        let (disk, console) = (
            own.map(|disk| seen(disk)).transpose()?,
            seen(&files.console)?,
        );
        let local = disks::local(spec, &files);
        let local: Vec<(String, PathBuf)> = local
            .into_iter()
            .map(|(id, path)| Ok((id, seen(&path)?)))
            .collect::<Result<_>>()?;
        let files = GuestFiles {
            disk: disk.as_deref(),
            local: &local,
            base: base
                .as_ref()
                .map(|(path, format)| (path.as_path(), *format)),
            rescue: rescue.as_ref().map(|(disk, base)| {
                let base = base.as_ref();
                (
                    disk.as_path(),
                    base.map(|(path, format)| (path.as_path(), *format)),
                )
            }),
            config_drive: drive.as_deref(),
            console: &console,
            kernel: kernel.as_ref().map(|(kernel, ramdisk)| BootFiles {
                kernel,
                ramdisk: ramdisk.as_deref(),
            }),
        };
        domain_xml(spec, &files, choices)
            .map_err(|error| HypervisorError::Rejected(error.to_string()))
    }

    /// Defines the domain from `spec` and starts it if wanted. The guest is off.
    async fn define(&self, spec: &GuestSpec, power: Power) -> Result<GuestInfo> {
        self.bring_tpm_memory(spec).await?;
        let xml = self.xml(spec, &self.choices().await?)?;
        let domain = self.jobs.define(&xml).await.map_err(explain)?;
        self.remember(spec);
        let off = GuestInfo {
            id: spec.id,
            instance_name: spec.instance_name.clone(),
            power: PowerState::Shutdown,
            active: false,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
        };
        if power == Power::Off {
            return self.keep_if_lent(spec).await.map(|()| off);
        }
        let files = self.instances.guest(spec.id);
        files
            .forget_memory()
            .map_err(|error| HypervisorError::disk(files.memory.display(), &error))?;
        // After the machine came up they may still be on their way.
        self.taps_are_there(spec).await?;
        self.unlock(spec).await?;
        let created = self.jobs.create(&domain).await;
        self.lock_again(spec).await;
        match created {
            Ok(()) => Ok(GuestInfo {
                power: PowerState::Running,
                active: true,
                ..off
            }),
            // Running already: the repeat of a call whose answer was lost.
            Err(
                error @ RpcError::Refused {
                    code: error_code::OPERATION_INVALID,
                    ..
                },
            ) => {
                let now = self.must_look(spec.id).await?;
                if now.active {
                    Ok(now)
                } else {
                    Err(explain(error))
                }
            }
            Err(error) => Err(explain(error)),
        }
    }

    async fn destroy(&self, id: ServerId) -> Result<()> {
        match self.jobs.destroy(&self.reference(id)).await {
            Ok(())
            | Err(RpcError::Refused {
                code: error_code::OPERATION_INVALID,
                ..
            }) => Ok(()),
            Err(RpcError::Refused {
                code: error_code::NO_DOMAIN,
                ..
            }) => Err(HypervisorError::NotFound(id)),
            Err(error) => Err(explain(error)),
        }
    }

    async fn press_button(&self, id: ServerId) -> Result<()> {
        match self.jobs.power_button(&self.reference(id)).await {
            Ok(())
            | Err(RpcError::Refused {
                code: error_code::OPERATION_INVALID,
                ..
            }) => Ok(()),
            Err(RpcError::Refused {
                code: error_code::NO_DOMAIN,
                ..
            }) => Err(HypervisorError::NotFound(id)),
            Err(error) => Err(explain(error)),
        }
    }

    /// Starts a guest that is off from its stored specification.
    async fn start_stored(&self, id: ServerId) -> Result<GuestInfo> {
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.check_disk(&spec)?;
        self.define(&spec, Power::On).await
    }

    fn read_spec(&self, id: ServerId) -> Result<Option<GuestSpec>> {
        let files = self.instances.guest(id);
        let spec = files
            .read_spec()
            .map_err(|error| HypervisorError::disk(files.spec.display(), &error))?;
        Ok(spec.map(|spec| shared::relocated(spec, self.instances.path())))
    }

    async fn until_stopped(&self, id: ServerId, timeout: Duration) -> Result<()> {
        // An event wakes at once; the question every second covers a daemon that restarts meanwhile.
        const ASK_AGAIN: Duration = Duration::from_secs(1);
        let mut events = self.events.subscribe();
        let wait = async {
            while self.must_look(id).await?.active {
                tokio::time::timeout(ASK_AGAIN, async {
                    while events.recv().await.is_ok_and(|event| event.id != id) {}
                })
                .await
                .ok();
            }
            Ok(())
        };
        let late = HypervisorError::Timeout("shutting the guest down".into());
        tokio::time::timeout(timeout, wait)
            .await
            .unwrap_or(Err(late))
    }

    /// Nova's rule for a guest that is asked to go down: guests early in their boot miss the button, so it is pressed
    /// again every ten seconds.
    async fn shut_down(&self, id: ServerId, timeout: Duration) -> Result<()> {
        const PRESS_AGAIN: Duration = Duration::from_secs(10);
        let until = tokio::time::Instant::now() + timeout;
        loop {
            self.press_button(id).await?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.until_stopped(id, left.min(PRESS_AGAIN)).await {
                Err(HypervisorError::Timeout(_)) if left > PRESS_AGAIN => {}
                result => return result,
            }
        }
    }

    async fn capabilities(&self) -> Result<&Capabilities> {
        self.capabilities
            .get_or_try_init(|| async {
                let xml = self.questions.capabilities().await.map_err(explain)?;
                let unreadable =
                    |error| HypervisorError::Rejected(format!("capabilities of the host: {error}"));
                capabilities::parse(&xml, self.choices.kvm).map_err(unreadable)
            })
            .await
    }
}

impl Known {
    fn of(spec: &GuestSpec) -> Self {
        Self {
            instance_name: spec.instance_name.clone(),
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed =
        |error: tokio::task::JoinError| HypervisorError::Rejected(format!("internal: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn explain(error: RpcError) -> HypervisorError {
    match error {
        RpcError::Closed(reason) => HypervisorError::Unavailable(reason),
        RpcError::Late(after) => {
            HypervisorError::Timeout(format!("an answer of libvirt ({after:?})"))
        }
        RpcError::Refused { message, .. } if message.contains("No space left") => {
            HypervisorError::Disk {
                reason: message,
                full: true,
            }
        }
        RpcError::Refused { message, .. } => HypervisorError::Rejected(message),
        RpcError::Malformed(_) => HypervisorError::Rejected(error.to_string()),
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn host(&self) -> Result<HostFacts> {
        self.facts().await
    }

    async fn ensure_guest(&self, spec: &GuestSpec, power: Power) -> Result<GuestInfo> {
        let _lock = self.exclusive(spec.id).await;
        if let Some(guest) = self.look(spec.id).await?.filter(|guest| guest.active) {
            self.remember(spec);
            return Ok(guest);
        }
        // Files that another task has left are used only as what they are.
        if self.read_spec(spec.id)?.is_some() {
            self.check_disk(spec)?;
        }
        self.make_files(spec).await?;
        self.define(spec, power).await
    }

    async fn ensure_absent(&self, id: ServerId) -> Result<()> {
        self.forget_guest(id, GuestFolder::remove_all).await
    }

    async fn ensure_undefined(&self, id: ServerId) -> Result<()> {
        self.forget_guest(id, GuestFolder::remove_of_moves).await
    }

    async fn start(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        match self.look(id).await? {
            Some(guest) if guest.active => Ok(guest),
            _ => self.start_stored(id).await,
        }
    }

    async fn stop_hard(&self, id: ServerId) -> Result<()> {
        let _lock = self.exclusive(id).await;
        self.destroy(id).await
    }

    async fn request_shutdown(&self, id: ServerId) -> Result<()> {
        self.press_button(id).await
    }

    async fn wait_stopped(&self, id: ServerId, timeout: Duration) -> Result<()> {
        self.until_stopped(id, timeout).await
    }

    async fn reboot_soft(&self, id: ServerId, timeout: Duration) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        if self.must_look(id).await?.active {
            self.shut_down(id, timeout).await?;
        }
        self.start_stored(id).await
    }

    async fn reboot_hard(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        let _lock = self.exclusive(spec.id).await;
        self.check_disk(spec)?;
        self.off(spec.id).await?;
        self.make_files(spec).await?;
        self.define(spec, Power::On).await
    }

    async fn pause(&self, id: ServerId) -> Result<GuestInfo> {
        self.stand_still(id).await
    }

    async fn unpause(&self, id: ServerId) -> Result<GuestInfo> {
        self.go_on(id).await
    }

    async fn suspend(&self, id: ServerId) -> Result<GuestInfo> {
        self.save_memory(id).await
    }

    async fn resume(&self, id: ServerId) -> Result<GuestInfo> {
        self.restore_memory(id).await
    }

    async fn rescue(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        self.enter_rescue(spec).await
    }

    async fn unrescue(&self, id: ServerId) -> Result<GuestInfo> {
        self.leave_rescue(id).await
    }

    async fn stand_still(&self, id: ServerId, quiesce: Quiesce, most: Duration) -> Result<()> {
        self.hold_still(id, quiesce, most).await
    }

    async fn go_on(&self, id: ServerId) -> Result<()> {
        self.let_go_on(id).await
    }

    async fn recover(&self) {
        self.end_what_was_left().await;
    }

    async fn snapshot(&self, id: ServerId, name: &str, quiesce: Quiesce) -> Result<PathBuf> {
        self.take_snapshot(id, name, quiesce).await
    }

    async fn attach(&self, id: ServerId, vif: &Vif) -> Result<GuestInfo> {
        self.plug_in(id, vif).await
    }

    async fn detach(&self, id: ServerId, port_id: &str) -> Result<GuestInfo> {
        self.pull_out(id, port_id).await
    }

    async fn migrate_live(
        &self,
        id: ServerId,
        to: &HostName,
        way: Option<Arc<dyn Passage>>,
        shared: bool,
    ) -> Result<GuestInfo> {
        let no_way = || HypervisorError::Rejected(format!("this host knows no way to {to}"));
        let sent = self.send(id, way.ok_or_else(no_way)?, shared).await;
        if shared && matches!(sent, Ok(_) | Err(HypervisorError::PostCopyBroke)) {
            self.give(id, to)?;
        }
        sent
    }

    async fn expect_live(&self, id: ServerId) -> Result<Berth> {
        self.expect(id).await
    }

    async fn berth(&self, id: ServerId) -> Option<Berth> {
        self.berth_of(id)
    }

    async fn enter_door(&self, id: ServerId, door: Door) -> Result<Box<dyn Channel>> {
        self.enter(id, door).await
    }

    async fn expect_no_more(&self, id: ServerId) {
        self.withdraw(id);
    }

    async fn abort_live(&self, id: ServerId) -> Result<bool> {
        self.call_off(id).await
    }

    async fn force_live(&self, id: ServerId) -> Result<bool> {
        self.hurry(id).await
    }

    async fn guest_cpu(&self, id: ServerId) -> Result<Option<String>> {
        self.cpu_of(id).await
    }

    async fn lacks_cpu(&self, cpu: &str) -> Result<Option<String>> {
        self.lacks(cpu).await
    }

    async fn moving(&self) -> Vec<Moving> {
        self.progress().await
    }

    async fn set_password(&self, id: ServerId, user: &str, password: &str) -> Result<GuestInfo> {
        self.tell_agent_password(id, user, password).await
    }

    async fn attach_disk(&self, id: ServerId, disk: &Disk) -> Result<GuestInfo> {
        self.plug_disk(id, disk).await
    }

    async fn detach_disk(&self, id: ServerId, volume_id: &str) -> Result<GuestInfo> {
        self.pull_disk(id, volume_id).await
    }

    async fn swap_disk(&self, id: ServerId, old: &str, disk: &Disk) -> Result<GuestInfo> {
        self.exchange_disk(id, old, disk).await
    }

    async fn resize_disk(&self, id: ServerId, volume_id: &str, size_gib: u64) -> Result<GuestInfo> {
        self.grow_disk(id, volume_id, size_gib).await
    }

    async fn interrupt(&self, id: ServerId) -> Result<GuestInfo> {
        self.send_interrupt(id).await
    }

    async fn put_aside(&self, id: ServerId, root_gib: u64) -> Result<()> {
        self.set_aside(id, root_gib).await
    }

    async fn put_back(&self, id: ServerId, power: Power) -> Result<GuestInfo> {
        self.bring_back(id, power).await
    }

    async fn forget_aside(&self, id: ServerId) -> Result<()> {
        self.forget(id).await
    }

    async fn aside_files(&self, id: ServerId) -> Result<Vec<PathBuf>> {
        self.luggage(id)
    }

    async fn disk_base(&self, id: ServerId) -> Result<Option<PathBuf>> {
        self.base_of_disk(id)
    }

    async fn inbox(&self, id: ServerId) -> Result<PathBuf> {
        self.empty_inbox(id)
    }

    async fn land(&self, spec: &GuestSpec, luggage: Luggage, power: Power) -> Result<GuestInfo> {
        self.unpack(spec, luggage, power).await
    }

    async fn adopt(
        &self,
        spec: &GuestSpec,
        power: Power,
        from: &HostName,
        take: bool,
    ) -> Result<GuestInfo> {
        self.take_up(spec, power, from, take).await
    }

    async fn claim(&self, id: ServerId) -> Result<()> {
        self.claim_files(id)
    }

    async fn is_aside_of(&self, id: ServerId, host: &HostName) -> bool {
        self.was_put_aside_by(id, host)
    }

    fn lend_passphrase(&self, id: ServerId, passphrase: Option<Passphrase>) {
        match passphrase {
            Some(passphrase) => self.lent().insert(id, passphrase),
            None => self.lent().remove(&id),
        };
    }

    async fn keep_passphrase(&self, id: ServerId, passphrase: &Passphrase) -> Result<()> {
        self.keep(id, passphrase).await
    }

    async fn guest(&self, id: ServerId) -> Result<Option<GuestInfo>> {
        self.look(id).await
    }

    /// Domains of others on the same libvirt have no folder here and are left out.
    async fn guests(&self) -> Result<Vec<GuestInfo>> {
        let domains = self
            .questions
            .stats(&[], stats::STATE)
            .await
            .map_err(explain)?;
        let guest = |domain: &calls::DomainStats| {
            let known = self.recall(domain.domain.id)?;
            Some(GuestInfo {
                id: domain.domain.id,
                instance_name: domain.domain.name.clone(),
                power: domain.state().power(),
                active: domain.state().is_active(),
                vcpus: known.vcpus,
                memory_mib: known.memory_mib,
            })
        };
        Ok(domains.iter().filter_map(guest).collect())
    }

    async fn stray_files(&self, age: Duration) -> Result<Vec<ServerId>> {
        let domains = self.questions.stats(&[], stats::STATE).await;
        let domains = domains.map_err(explain)?.into_iter();
        let guests = domains.map(|one| one.domain.id).collect();
        let instances = self.instances.clone();
        blocking(move || {
            let strays = instances.strays(&guests, age);
            strays.map_err(|error| HypervisorError::disk(instances.path().display(), &error))
        })
        .await
    }

    async fn stored_spec(&self, id: ServerId) -> Result<Option<GuestSpec>> {
        self.read_spec(id)
    }

    async fn console_log(&self, id: ServerId, max_bytes: usize) -> Result<Vec<u8>> {
        let files = self.instances.guest(id);
        if !files.folder.exists() {
            return Err(HypervisorError::NotFound(id));
        }
        blocking(move || {
            files
                .console_tail(max_bytes)
                .map_err(|error| HypervisorError::disk(files.console.display(), &error))
        })
        .await
    }

    async fn diagnostics(&self, id: ServerId) -> Result<Diagnostics> {
        let spec = self.read_spec(id)?;
        match self
            .questions
            .stats(&[self.reference(id)], stats::ALL)
            .await
        {
            Ok(all) => {
                let stats = all.first().ok_or(HypervisorError::NotFound(id))?;
                Ok(diagnostics::read(stats, spec.as_ref(), self.choices.kvm))
            }
            Err(RpcError::Refused {
                code: error_code::NO_DOMAIN,
                ..
            }) => Err(HypervisorError::NotFound(id)),
            Err(error) => Err(explain(error)),
        }
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.events.subscribe()
    }

    fn needs_image_files(&self) -> bool {
        true
    }

    async fn alive(&self) -> bool {
        self.questions.ping(Duration::from_secs(5)).await.is_ok()
    }
}
