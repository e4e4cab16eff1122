//! Guests that go to another host while they run.
//!
//! libvirt moves them itself, from daemon to daemon (`VIR_MIGRATE_PEER2PEER`), and copies the disks that are files of this
//! host. All three streams between the hosts (the daemons', the memory's, the disks') go through unix sockets in a folder
//! that has the same path on both: here they are this agent's, which sends on what comes to the other host's agent, and
//! there QEMU and the daemon listen. So nothing of libvirt or QEMU is open to a network. When the agent dies the streams
//! break, libvirt gives up, and the guest goes on here.

use super::calls::{self, Parameter, error_code, stats};
use super::rpc::{Connection, RpcError};
use super::{Libvirt, blocking, disks, explain};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::passage::{Berth, Channel, Door, Passage};
use crate::spec::{GuestSpec, RootDisk};
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use types::agent::Moving;
use types::{PowerState, ServerId};

/// How long a host that expects a guest waits for its taps.
const TAPS: Duration = Duration::from_secs(60);
/// The same of a guest that starts.
const TAPS_OF_START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// How long somebody who calls a move off waits for libvirt to have begun with it.
const BEGINNING: Duration = Duration::from_secs(5);
/// How long a guest that runs on the other host already is waited for when libvirt has lost sight of it.
const FOLLOWING: Duration = Duration::from_secs(600);

/// A guest on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    aborted: bool,
    /// It may go on there before all of it is there.
    may_follow: bool,
    /// It does so.
    follows: bool,
}

/// A guest is on its way until this is dropped, also by whoever waits no longer until it has gone.
struct OnItsWay<'a> {
    all: &'a std::sync::Mutex<HashMap<ServerId, UnderWay>>,
    id: ServerId,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.id);
    }
}

/// Where a guest that was sent is, by libvirt's state and reason of its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// Here, as it was.
    Here,
    /// On the other host, and all of it.
    Gone,
    /// On the other host, and its memory still follows.
    Follows,
    /// Nowhere: what is there lacks memory that is here.
    Torn,
}

impl Whereabouts {
    fn read(domain: &calls::DomainStats) -> Self {
        let state = domain.number("state.state");
        match (state, domain.number("state.reason")) {
            (Some(5), Some(4)) => Self::Gone,
            (Some(3), Some(12)) => Self::Follows,
            (Some(3), Some(13)) => Self::Torn,
            _ => Self::Here,
        }
    }
}

impl Libvirt {
    /// The guest's definition and disks are here; its taps will be soon.
    pub(super) async fn expect(&self, id: ServerId) -> Result<Berth> {
        let _lock = self.exclusive(id).await;
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if self.must_look(id).await?.active {
            return Err(HypervisorError::Rejected(
                "the guest runs here already".into(),
            ));
        }
        wait_for_taps(&spec, TAPS).await?;
        let files = self.instances.guest(id);
        let instances = self.instances.for_qemu(self.instances.path());
        let sockets = self.ways.join(uuid::Uuid::new_v4().simple().to_string());
        let berth = Berth {
            instances: instances.unwrap_or_else(|| self.instances.path().to_owned()),
            sockets,
            drive: files.config_drive,
        };
        // QEMU makes its sockets there. Only whoever knows the name finds the folder.
        make_folder(&self.ways, &berth.sockets, 0o1733)?;
        let old = self.change(&self.berths, |all| all.insert(id, berth.clone()));
        if let Some(old) = old {
            remove(&old.sockets);
        }
        Ok(berth)
    }

    /// Before a guest starts: its taps may be on their way, as when the machine came up. It is no part of what is started
    /// that is late, so that is no reason to start it otherwise.
    pub(super) async fn taps_are_there(&self, spec: &GuestSpec) -> Result<()> {
        let there = wait_for_taps(spec, TAPS_OF_START).await;
        there.map_err(|error| match error {
            HypervisorError::Timeout(what) => {
                HypervisorError::Unavailable(format!("{what} took too long"))
            }
            other => other,
        })
    }

    pub(super) fn berth_of(&self, id: ServerId) -> Option<Berth> {
        self.change(&self.berths, |all| all.get(&id).cloned())
    }

    pub(super) fn withdraw(&self, id: ServerId) {
        if let Some(old) = self.change(&self.berths, |all| all.remove(&id)) {
            remove(&old.sockets);
        }
    }

    pub(super) async fn enter(&self, id: ServerId, door: Door) -> Result<Box<dyn Channel>> {
        let berth = self.berth_of(id).ok_or(HypervisorError::NotFound(id))?;
        let places = match door {
            Door::Hypervisor => self.sockets.clone(),
            _ => vec![door.socket(&berth.sockets)],
        };
        let mut problem = None;
        for place in places {
            match UnixStream::connect(&place).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        let reason = problem.map_or_else(String::new, |error| error.to_string());
        Err(HypervisorError::Unavailable(format!(
            "the {} of the guest that is expected: {reason}",
            door.name()
        )))
    }

    pub(super) async fn send(
        &self,
        id: ServerId,
        way: Arc<dyn Passage>,
        shared: bool,
    ) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let guest = self.must_look(id).await?;
        match self.whereabouts(id).await? {
            Whereabouts::Gone => return Ok(guest),
            Whereabouts::Here if !guest.active => {
                return Err(HypervisorError::Rejected(
                    "the domain is not running".into(),
                ));
            }
            Whereabouts::Here => {}
            // An earlier process has sent it.
            Whereabouts::Follows | Whereabouts::Torn => {
                let broke = HypervisorError::PostCopyBroke;
                return self.after(id).await?.ok_or(broke);
            }
        }
        let under_way = UnderWay {
            may_follow: self.live.post_copy && guest.power != PowerState::Paused,
            ..UnderWay::default()
        };
        self.change(&self.under_way, |all| {
            all.insert(id, under_way);
        });
        let _on_its_way = OnItsWay {
            all: &self.under_way,
            id,
        };
        let sent = self.send_by(id, &guest, &way, shared).await;
        let was = self.change(&self.under_way, |all| all.remove(&id));
        let was = was.unwrap_or_default();
        let ended = match sent {
            Ok(()) => self.must_look(id).await,
            Err(error) if was.follows => {
                tracing::error!(server = %id, %error, "a live migration failed in post-copy mode");
                match self.after(id).await {
                    Ok(Some(gone)) => Ok(gone),
                    Ok(None) => Err(error),
                    Err(broke) => Err(broke),
                }
            }
            Err(error) => match self.whereabouts(id).await {
                // The answer was lost, the guest was not.
                Ok(Whereabouts::Gone) => self.must_look(id).await,
                _ if was.aborted => Err(HypervisorError::Cancelled),
                _ => Err(error),
            },
        };
        way.close().await;
        ended
    }

    async fn whereabouts(&self, id: ServerId) -> Result<Whereabouts> {
        let asked = [self.reference(id)];
        let all = self.questions.stats(&asked, stats::STATE).await;
        let all = all.map_err(explain)?;
        Ok(all.first().map_or(Whereabouts::Here, Whereabouts::read))
    }

    /// What became of a guest that was to go on on the other host: it did, or it is here, all of it (none). One of which a
    /// part ran elsewhere is never let go on here.
    async fn after(&self, id: ServerId) -> Result<Option<GuestInfo>> {
        let until = tokio::time::Instant::now() + FOLLOWING;
        loop {
            match self.whereabouts(id).await? {
                Whereabouts::Gone => return self.must_look(id).await.map(Some),
                Whereabouts::Here => return Ok(None),
                Whereabouts::Follows if tokio::time::Instant::now() < until => {}
                _ => return Err(HypervisorError::PostCopyBroke),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Refuses to let a guest go on here of which a part ran elsewhere.
    pub(super) async fn must_be_whole(&self, id: ServerId) -> Result<()> {
        match self.whereabouts(id).await? {
            Whereabouts::Follows | Whereabouts::Torn => Err(HypervisorError::PostCopyBroke),
            Whereabouts::Here | Whereabouts::Gone => Ok(()),
        }
    }

    async fn send_by(
        &self,
        id: ServerId,
        guest: &GuestInfo,
        way: &Arc<dyn Passage>,
        shared: bool,
    ) -> Result<()> {
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let berth = way.berth().await?;
        self.send_passphrase(&spec, way).await?;
        let drive = self.instances.guest(id).config_drive;
        if !shared && spec.config_drive.is_some() && drive.exists() {
            way.carry_drive(&drive).await?;
        }
        let _relays = Relays::open(&self.ways, &berth.sockets, way)?;
        let reference = self.reference(id);
        let now = self.questions.for_another_host(&reference);
        let now = now.await.map_err(explain)?;
        let here = self.instances.for_qemu(self.instances.path());
        let here = here.unwrap_or_else(|| self.instances.path().to_owned());
        let xml = moved(&now, &here, &berth.instances);
        let copied = if shared {
            Vec::new()
        } else {
            copied(&now, &spec)
        };
        let socket = |door: Door| format!("unix://{}", door.socket(&berth.sockets).display());
        let (memory, disks_at) = (socket(Door::Memory), socket(Door::Disks));
        let mut parameters = vec![
            ("destination_xml", Parameter::Text(&xml)),
            ("migrate_uri", Parameter::Text(&memory)),
        ];
        if !copied.is_empty() {
            parameters.push(("disks_uri", Parameter::Text(&disks_at)));
            let names = copied.iter().map(|name| Parameter::Text(name));
            parameters.extend(names.map(|name| ("migrate_disks", name)));
        }
        let uri = format!(
            "qemu+unix:///system?socket={}",
            Door::Hypervisor.socket(&berth.sockets).display()
        );
        let is_called_off = || {
            let known = self.change(&self.under_way, |all| all.get(&id).copied());
            known.is_some_and(|known| known.aborted)
        };
        if is_called_off() {
            return Err(HypervisorError::Cancelled);
        }
        // A connection of its own: a move takes long, and others must not wait for it.
        let connection = Connection::open(&self.sockets, None).await;
        let connection = connection.map_err(explain)?;
        calls::greet(&connection, &self.uri)
            .await
            .map_err(explain)?;
        let paused = guest.power == PowerState::Paused;
        let flags = calls::migration::flags(!copied.is_empty(), paused, self.live);
        calls::migrate(&connection, &reference, &uri, &parameters, flags)
            .await
            .map_err(|error| match error {
                RpcError::Refused {
                    code: error_code::OPERATION_ABORTED,
                    ..
                } if is_called_off() => HypervisorError::Cancelled,
                RpcError::Refused { message, .. } if message.contains("ostcopy is not supported") => {
                    HypervisorError::Rejected(format!(
                        "[libvirt] live_migration_permit_post_copy is set, but QEMU cannot do it on both hosts: \
                         the kernel has to let it (sysctl vm.unprivileged_userfaultfd=1): {message}"
                    ))
                }
                other => explain(other),
            })
    }

    /// libvirt may not have begun yet, or be about to end.
    pub(super) async fn call_off(&self, id: ServerId) -> Result<bool> {
        let note = |all: &mut HashMap<ServerId, UnderWay>| {
            let known = all.get_mut(&id)?;
            known.aborted |= !known.follows;
            Some(*known)
        };
        match self.change(&self.under_way, note) {
            None => return Ok(false),
            Some(known) if known.follows => return Err(HypervisorError::InPostCopy),
            Some(_) => {}
        }
        let until = tokio::time::Instant::now() + BEGINNING;
        loop {
            match self.questions.abort_job(&self.reference(id)).await {
                Ok(()) => return Ok(true),
                Err(RpcError::Refused {
                    code: error_code::OPERATION_INVALID,
                    ..
                }) if tokio::time::Instant::now() < until => {}
                Err(error) => return Err(explain(error)),
            }
            tokio::time::sleep(LOOK).await;
            if !self.change(&self.under_way, |all| all.contains_key(&id)) {
                return Ok(true);
            }
        }
    }

    /// A guest that stands still changes no memory: what is left is sent, and then it goes on on the other host. With
    /// post-copy it goes on there at once.
    pub(super) async fn hurry(&self, id: ServerId) -> Result<bool> {
        match self.change(&self.under_way, |all| all.get(&id).copied()) {
            None => return Ok(false),
            Some(known) if known.follows => return Ok(true),
            Some(known) if known.may_follow => return self.let_follow(id).await,
            Some(_) => {}
        }
        match self.questions.pause(&self.reference(id)).await {
            Ok(()) => Ok(true),
            // It stands still for the last time.
            Err(RpcError::Refused {
                code: error_code::OPERATION_INVALID,
                ..
            }) => Ok(true),
            Err(error) => Err(explain(error)),
        }
    }

    /// libvirt may not have begun to send memory yet, or be about to end.
    async fn let_follow(&self, id: ServerId) -> Result<bool> {
        let until = tokio::time::Instant::now() + BEGINNING;
        loop {
            // Noted before: when the call's answer is lost, nothing must go on here.
            self.note_following(id, true);
            match self.questions.start_post_copy(&self.reference(id)).await {
                Ok(()) => return Ok(true),
                Err(error @ RpcError::Refused { .. }) => {
                    let refused = self.whereabouts(id).await? == Whereabouts::Here;
                    if !refused {
                        return Ok(true);
                    }
                    self.note_following(id, false);
                    if tokio::time::Instant::now() >= until {
                        return Err(explain(error));
                    }
                }
                Err(error) => return Err(explain(error)),
            }
            tokio::time::sleep(LOOK).await;
            if !self.change(&self.under_way, |all| all.contains_key(&id)) {
                return Ok(true);
            }
        }
    }

    fn note_following(&self, id: ServerId, follows: bool) {
        self.change(&self.under_way, |all| {
            if let Some(known) = all.get_mut(&id) {
                known.follows = follows;
            }
        });
    }

    pub(super) async fn progress(&self) -> Vec<Moving> {
        let known: Vec<(ServerId, UnderWay)> = self.change(&self.under_way, |all| {
            all.iter().map(|(id, known)| (*id, *known)).collect()
        });
        let mut all = Vec::new();
        for (server, known) in known {
            if let Ok(Some(job)) = self.questions.job(&self.reference(server)).await {
                all.push(Moving {
                    server,
                    memory: job.memory,
                    disk: job.disk,
                    post_copy: known.follows,
                });
            }
        }
        all
    }

    fn change<M, T>(&self, map: &std::sync::Mutex<M>, how: impl FnOnce(&mut M) -> T) -> T {
        how(&mut map.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The taps of a guest, by the names that the kernel tells this process.
async fn wait_for_taps(spec: &GuestSpec, most: Duration) -> Result<()> {
    const DEVICES: &str = "/proc/self/net/dev";
    let until = tokio::time::Instant::now() + most;
    loop {
        let text = blocking(|| {
            std::fs::read_to_string(DEVICES).map_err(|error| HypervisorError::disk(DEVICES, &error))
        })
        .await?;
        let known = |tap: &str| {
            text.lines().any(|line| {
                let name = line.split_once(':').map(|(name, _)| name.trim());
                name == Some(tap)
            })
        };
        let Some(missing) = spec.vifs.iter().find(|vif| !known(&vif.tap)) else {
            return Ok(());
        };
        if tokio::time::Instant::now() >= until {
            return Err(HypervisorError::Timeout(format!(
                "making the network of port {} ready",
                missing.port_id
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn make_folder(ways: &Path, folder: &Path, mode: u32) -> Result<()> {
    let make = || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(ways)?;
        std::fs::DirBuilder::new().create(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode))
    };
    make().map_err(|error| HypervisorError::disk(folder.display(), &error))
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::debug!(folder = %folder.display(), %error, "a folder of sockets cannot be removed");
    }
}

/// A domain's description with the other host's paths.
fn moved(description: &str, here: &Path, there: &Path) -> String {
    let with_end = |path: &Path| format!("{}/", path.display().to_string().trim_end_matches('/'));
    description.replace(&with_end(here), &with_end(there))
}

/// The names of the disks that are files of this host and not read-only.
fn copied(description: &str, spec: &GuestSpec) -> Vec<String> {
    let own =
        spec.root != RootDisk::Volume || spec.disks.iter().any(|disk| disk.volume_id().is_none());
    if !own {
        return Vec::new();
    }
    disks::own_names(description)
}

/// The ends of the streams on the host that sends.
struct Relays {
    folder: PathBuf,
    _tasks: JoinSet<()>,
}

impl Drop for Relays {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

impl Relays {
    fn open(ways: &Path, folder: &Path, way: &Arc<dyn Passage>) -> Result<Self> {
        let proper = folder.parent() == Some(ways);
        if !proper {
            return Err(HypervisorError::Rejected(format!(
                "the other host expects the guest at {}, which is not in {}",
                folder.display(),
                ways.display()
            )));
        }
        make_folder(ways, folder, 0o711)?;
        let mut relays = Self {
            folder: folder.to_owned(),
            _tasks: JoinSet::new(),
        };
        for door in Door::ALL {
            let path = door.socket(folder);
            let fail = |error: std::io::Error| HypervisorError::disk(path.display(), &error);
            let listener = UnixListener::bind(&path).map_err(fail)?;
            // QEMU, which is not root, connects by itself.
            let open = std::fs::Permissions::from_mode(match door {
                Door::Hypervisor => 0o600,
                Door::Memory | Door::Disks => 0o666,
            });
            std::fs::set_permissions(&path, open).map_err(fail)?;
            relays._tasks.spawn(relay(listener, door, Arc::clone(way)));
        }
        Ok(relays)
    }
}

/// Each connection here is a stream to the other host; all end with this.
async fn relay(listener: UnixListener, door: Door, way: Arc<dyn Passage>) {
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = streams.join_next() => continue,
        };
        let Ok((mut here, _)) = accepted else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let way = Arc::clone(&way);
        streams.spawn(async move {
            match way.open(door).await {
                Ok(mut there) => {
                    // How it ends is seen by those who speak through it.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
                Err(error) => {
                    tracing::warn!(door = door.name(), %error, "no stream to the other host");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::libvirt::plugging::tests::{Guest, Host};
    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use types::tpm::Passphrase;

    #[test]
    fn paths_become_the_other_hosts() {
        let here = "<source file='/a/instances/1/disk'/><log file='/a/instances/1/console.log'/>";
        assert_eq!(
            moved(here, Path::new("/a/instances"), Path::new("/b/c")),
            "<source file='/b/c/1/disk'/><log file='/b/c/1/console.log'/>"
        );
        assert_eq!(
            moved(here, Path::new("/a/instances/"), Path::new("/b/")),
            "<source file='/b/1/disk'/><log file='/b/1/console.log'/>"
        );
        assert_eq!(moved(here, Path::new("/a/inst"), Path::new("/b")), here);
    }

    /// The way to a host that does not say where it expects the guest.
    struct Silent(Arc<tokio::sync::Notify>);

    #[async_trait]
    impl Passage for Silent {
        async fn berth(&self) -> Result<Berth> {
            self.0.notify_one();
            std::future::pending().await
        }

        async fn carry_drive(&self, _file: &Path) -> Result<()> {
            Err(HypervisorError::Cancelled)
        }

        async fn carry_passphrase(&self, _passphrase: &Passphrase) -> Result<()> {
            Err(HypervisorError::Cancelled)
        }

        async fn open(&self, _door: Door) -> Result<Box<dyn Channel>> {
            Err(HypervisorError::Cancelled)
        }

        async fn close(&self) {}
    }

    #[tokio::test]
    async fn a_guest_for_which_nobody_waits_any_more_is_not_on_its_way() {
        let host = Host::of(Guest::new(true, 0)).await;
        let asked = Arc::new(tokio::sync::Notify::new());
        let (libvirt, id) = (Arc::clone(&host.libvirt), host.id);
        let way: Arc<dyn Passage> = Arc::new(Silent(Arc::clone(&asked)));
        let sending = tokio::spawn(async move { libvirt.send(id, way, true).await });
        asked.notified().await;
        let on_their_way = || {
            let all = host.libvirt.under_way.lock().unwrap();
            all.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(on_their_way(), [id]);
        sending.abort();
        assert!(sending.await.unwrap_err().is_cancelled());
        assert!(on_their_way().is_empty());
        assert!(!host.libvirt.call_off(id).await.unwrap());
    }

    /// Answers with the door's name.
    struct Named;

    #[async_trait]
    impl Passage for Named {
        async fn berth(&self) -> Result<Berth> {
            Err(HypervisorError::Cancelled)
        }

        async fn carry_drive(&self, _file: &Path) -> Result<()> {
            Ok(())
        }

        async fn carry_passphrase(&self, _passphrase: &Passphrase) -> Result<()> {
            Ok(())
        }

        async fn open(&self, door: Door) -> Result<Box<dyn Channel>> {
            let (mine, mut theirs) = tokio::io::duplex(64);
            tokio::spawn(async move { theirs.write_all(door.name().as_bytes()).await });
            Ok(Box::new(mine))
        }

        async fn close(&self) {}
    }

    #[tokio::test]
    async fn each_socket_leads_to_its_door_and_goes_with_the_move() {
        let home = tempfile::tempdir().unwrap();
        let ways = home.path().join("live");
        let way: Arc<dyn Passage> = Arc::new(Named);
        assert!(Relays::open(&ways, &home.path().join("else"), &way).is_err());
        let folder = ways.join("one");
        let relays = Relays::open(&ways, &folder, &way).unwrap();
        for door in Door::ALL {
            let mut stream = UnixStream::connect(door.socket(&folder)).await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, door.name());
        }
        drop(relays);
        assert!(!folder.exists());
    }
}
