//! Where guests' files live, and how QEMU's user gets at them.
//!
//! QEMU does not run as root, so every folder above a disk must let it pass. When one does not (a home only root may
//! enter), the instances folder is bind-mounted below `/run/kilonova`, and QEMU gets paths there. The mount holds the
//! folder itself, so what is above it no longer matters.

use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use types::{HostName, ServerId};
use uuid::Uuid;

/// The file in a guest's folder that says whose it is.
const OWNER: &str = "host";
/// How copies of disks end.
const COPY: &str = "snapshot";
/// The file that names the file system.
const STORAGE: &str = ".storage-id";

/// The instances folder of a host, with the path by which QEMU sees it.
#[derive(Clone, Debug)]
pub struct Instances {
    real: PathBuf,
    exposed: PathBuf,
    /// The host's name; empty is none.
    host: String,
}

/// The paths of one guest, as this process sees them.
#[derive(Clone, Debug)]
pub struct GuestFolder {
    /// The guest's folder.
    pub folder: PathBuf,
    /// The root disk.
    pub disk: PathBuf,
    /// The config drive.
    pub config_drive: PathBuf,
    /// The console log.
    pub console: PathBuf,
    /// The disk it boots from while it is rescued.
    pub rescue: PathBuf,
    /// The config drive it has then.
    pub rescue_drive: PathBuf,
    /// There while its file systems may stand still.
    pub still: PathBuf,
    /// The guest's memory, while it is suspended.
    pub memory: PathBuf,
    /// The stored specification.
    pub spec: PathBuf,
    /// The folder while the guest is put aside.
    pub aside: PathBuf,
    /// Where its files arrive when it comes from another host.
    pub inbox: PathBuf,
    /// This host's name; empty is none.
    host: String,
}

impl Instances {
    /// Makes the folder and a way to it. `run` is where bind mounts go (`/run/kilonova`).
    ///
    /// # Errors
    /// The folder cannot be made, or a needed bind mount is refused.
    pub fn open(folder: &Path, run: &Path) -> Result<Self> {
        let fail = |error: std::io::Error| HypervisorError::disk(folder.display(), &error);
        make_folder(folder, 0o711).map_err(fail)?;
        let real = folder.canonicalize().map_err(fail)?;
        let exposed = reachable(&real, run, usize::MAX).map_err(|error| {
            HypervisorError::disk(
                format!("a way to {} for QEMU's user", real.display()),
                &error,
            )
        })?;
        let host = String::new();
        Ok(Self {
            real,
            exposed,
            host,
        })
    }

    /// Folders of guests say whose they are, so that hosts that share them leave each other's alone.
    #[must_use]
    pub fn of_host(self, host: &HostName) -> Self {
        Self {
            host: host.0.clone(),
            ..self
        }
    }

    /// Names the file system: hosts that see the same folder read the same name. One that is copied has another.
    ///
    /// # Errors
    /// The name can be neither read nor written.
    pub fn storage(&self) -> std::io::Result<String> {
        let path = self.real.join(STORAGE);
        if !path.exists() {
            // Whole or not there, and whoever is first wins.
            let own = self.real.join(format!("{STORAGE}.{}", Uuid::new_v4()));
            std::fs::write(&own, Uuid::new_v4().to_string())?;
            let linked = std::fs::hard_link(&own, &path);
            std::fs::remove_file(&own)?;
            match linked {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error);
                }
                _ => {}
            }
        }
        let name = std::fs::read_to_string(&path)?;
        let inode = std::fs::metadata(&path)?.ino();
        Ok(format!("{}:{inode}", name.trim()))
    }

    /// Takes a bind mount away again, when there is one. Running guests keep their open files, but cannot be started
    /// again before the next [`Instances::open`].
    pub fn withdraw(folder: &Path, run: &Path) -> std::io::Result<()> {
        let Ok(real) = folder.canonicalize() else {
            return Ok(());
        };
        let target = mount_point(&real, run);
        while is_same(&target, &real)? {
            unmount(&target, UnmountFlags::DETACH)?;
        }
        match std::fs::remove_dir(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.real
    }

    /// The same file by the path that QEMU can use. `None` for a file outside of the folder.
    pub fn for_qemu(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(&self.real).ok()?;
        Some(self.exposed.join(inside))
    }

    /// The paths of one guest.
    pub fn guest(&self, id: ServerId) -> GuestFolder {
        let folder = self.real.join(id.to_string());
        GuestFolder {
            disk: folder.join("disk"),
            config_drive: folder.join("disk.config"),
            console: folder.join("console.log"),
            rescue: folder.join("disk.rescue"),
            rescue_drive: folder.join("disk.config.rescue"),
            memory: folder.join("memory.save"),
            still: folder.join("standing-still"),
            spec: folder.join("guest.json"),
            aside: self.real.join(format!("{id}.aside")),
            inbox: self.real.join(format!("{id}.incoming")),
            host: self.host.clone(),
            folder,
        }
    }

    /// The servers that have folders here, though none of `guests`, in which nothing has changed for `age`. Only folders
    /// that are named as this program names them count.
    pub fn strays(
        &self,
        guests: &BTreeSet<ServerId>,
        age: Duration,
    ) -> std::io::Result<Vec<ServerId>> {
        let now = SystemTime::now();
        let (mut old, mut young) = (BTreeSet::new(), BTreeSet::new());
        for entry in std::fs::read_dir(&self.real)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let id = name.and_then(|name| {
                let ends = [".aside", ".incoming"];
                let end = ends.into_iter().find_map(|end| name.strip_suffix(end));
                end.unwrap_or(name).parse::<ServerId>().ok()
            });
            let Some(id) = id.filter(|id| path.is_dir() && !guests.contains(id)) else {
                continue;
            };
            // Another host's guest, or gone just now.
            if !self.guest(id).is_own(&path)? {
                continue;
            }
            match last_change(&path)? {
                Some(at) if now.duration_since(at).unwrap_or_default() >= age => old.insert(id),
                // One that goes just now is young, too.
                _ => young.insert(id),
            };
        }
        Ok(old.difference(&young).copied().collect())
    }

    /// Specifications of all guests that have a folder here. Unreadable ones are reported in the log.
    pub fn stored(&self) -> std::io::Result<Vec<GuestSpec>> {
        let mut specs = Vec::new();
        for entry in std::fs::read_dir(&self.real)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<ServerId>().ok()) else {
                continue;
            };
            match self.guest(id).read_spec() {
                Ok(spec) => specs.extend(spec),
                Err(error) => {
                    tracing::error!(guest = %id, %error, "stored specification cannot be read")
                }
            }
        }
        Ok(specs)
    }
}

impl GuestFolder {
    /// Makes the folder: passable for QEMU's user, readable for root.
    pub fn create(&self) -> std::io::Result<()> {
        make_folder(&self.folder, 0o711)?;
        if self.owner(&self.folder)?.is_none() {
            self.give(&self.host)?;
        }
        Ok(())
    }

    /// From now on the folder is a host's.
    pub fn give(&self, host: &str) -> std::io::Result<()> {
        if host.is_empty() {
            return Ok(());
        }
        write_whole(&self.folder.join(OWNER), host.as_bytes())
    }

    /// From now on the folder is this host's.
    pub fn claim(&self) -> std::io::Result<()> {
        if self.is_own(&self.folder)? {
            return Ok(());
        }
        self.give(&self.host)
    }

    /// Whose one of the guest's folders is; none is that of a guest from before they said so.
    pub fn owner(&self, folder: &Path) -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(folder.join(OWNER)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether one of the guest's folders is this host's.
    pub fn is_own(&self, folder: &Path) -> std::io::Result<bool> {
        let owner = self.owner(folder)?;
        Ok(self.host.is_empty() || owner.is_none_or(|owner| owner == self.host))
    }

    /// Removes it with everything in it.
    pub fn remove(&self) -> std::io::Result<()> {
        remove_folder(&self.folder)
    }

    /// Removes it with what moves have left of the guest beside it, except what is another host's.
    pub fn remove_all(&self) -> std::io::Result<()> {
        self.remove_own(&[&self.folder, &self.aside, &self.inbox])
    }

    /// Removes only what moves have left beside it, except what is another host's.
    pub fn remove_of_moves(&self) -> std::io::Result<()> {
        self.remove_own(&[&self.aside, &self.inbox])
    }

    fn remove_own(&self, folders: &[&Path]) -> std::io::Result<()> {
        for folder in folders {
            if self.is_own(folder)? {
                remove_folder(folder)?;
            }
        }
        Ok(())
    }

    /// Forgets saved memory, if there is any.
    pub fn forget_memory(&self) -> std::io::Result<()> {
        remove_if_there(&self.memory)
    }

    /// Forgets what a rescue was made of.
    pub fn forget_rescue(&self) -> std::io::Result<()> {
        remove_if_there(&self.rescue)?;
        remove_if_there(&self.rescue_drive)
    }

    /// The stored specification, if there is one.
    pub fn read_spec(&self) -> std::io::Result<Option<GuestSpec>> {
        match std::fs::read(&self.spec) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the specification, without secrets.
    pub fn write_spec(&self, spec: &GuestSpec) -> std::io::Result<()> {
        let text = serde_json::to_vec(&spec.for_storage()).map_err(std::io::Error::other)?;
        write_whole(&self.spec, &text)
    }

    /// Where a copy of the disk of this name is made.
    pub fn copy(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{COPY}"))
    }

    /// Copies of the disk, whole or not; none where there is no folder.
    pub fn copies(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == COPY) {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// The last `max_bytes` of the console, from the log rolled over last too when the present one is short.
    pub fn console_tail(&self, max_bytes: usize) -> std::io::Result<Vec<u8>> {
        let present = tail(&self.console, max_bytes)?;
        if present.len() >= max_bytes {
            return Ok(present);
        }
        let mut text = tail(
            &self.console.with_extension("log.0"),
            max_bytes - present.len(),
        )?;
        text.extend(present);
        Ok(text)
    }
}

/// When a folder or a file in it was changed last; `None`: it is gone.
fn last_change(folder: &Path) -> std::io::Result<Option<SystemTime>> {
    let there = |found: std::io::Result<std::fs::Metadata>| match found {
        Ok(found) => found.modified().map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let mut last = there(std::fs::metadata(folder))?;
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        last = last.max(there(entry?.metadata())?);
    }
    Ok(last)
}

/// Removes a folder with everything in it; none is fine.
pub fn remove_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all, readable for its owner only; it outlasts a loss of power.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    std::io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    sync_folder_of(path)
}

/// What was made or renamed in the folder of this file is there after a loss of power, too.
pub fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn tail(path: &Path, max_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes as u64)))?;
    let mut text = Vec::new();
    file.take(max_bytes as u64).read_to_end(&mut text)?;
    Ok(text)
}

fn make_folder(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)?;
    let folder = std::fs::metadata(path)?;
    if folder.permissions().mode() & 0o777 != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn everybody_may_pass(path: &Path) -> std::io::Result<bool> {
    for folder in path.ancestors() {
        if std::fs::metadata(folder)?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A path of at most `longest` bytes to this folder that any user may walk, if need be by a bind mount below `run`.
/// [`Instances::withdraw`] takes the mount away.
///
/// # Errors
/// A folder above cannot be looked at, or the bind mount is refused.
pub fn reachable(folder: &Path, run: &Path, longest: usize) -> std::io::Result<PathBuf> {
    let real = folder.canonicalize()?;
    let above = real.parent().unwrap_or(&real);
    if real.as_os_str().len() <= longest && everybody_may_pass(above)? {
        return Ok(real);
    }
    expose(&real, run)
}

/// Stable for a folder, short, and different for different folders (FNV-1a over the path).
fn mount_point(real: &Path, run: &Path) -> PathBuf {
    let bytes = real.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    run.join(format!("{name}-{hash:016x}"))
}

fn expose(real: &Path, run: &Path) -> std::io::Result<PathBuf> {
    make_folder(run, 0o711)?;
    forget_removed_homes(run)?;
    let target = mount_point(real, run);
    if is_same(&target, real)? {
        return Ok(target);
    }
    // A folder of that name from before a removed and newly made home: its old mount goes first.
    while unmount(&target, UnmountFlags::DETACH).is_ok() {}
    make_folder(&target, 0o711)?;
    mount_bind(real, &target)?;
    tracing::info!(folder = %real.display(), mount = %target.display(), "instances folder mounted where QEMU may enter");
    Ok(target)
}

/// Mounts of folders that were deleted keep their space and are of no use: a deleted folder has no links left.
fn forget_removed_homes(run: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(run)? {
        let path = entry?.path();
        if std::fs::metadata(&path).is_ok_and(|folder| folder.nlink() == 0) {
            unmount(&path, UnmountFlags::DETACH)?;
            std::fs::remove_dir(&path)?;
        }
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> std::io::Result<bool> {
    match std::fs::metadata(one) {
        Ok(one) => {
            let other = std::fs::metadata(other)?;
            Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether files in this folder can be opened past the page cache.
pub fn supports_direct_io(folder: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    let probe = folder.join(format!(".direct-io-{}", std::process::id()));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let opened = open(&probe, flags, Mode::RUSR | Mode::WUSR);
    std::fs::remove_file(&probe).ok();
    opened.is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn open_folders_are_used_as_they_are() {
        let home = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let folder = home.path().join("instances");
        let instances = Instances::open(&folder, &home.path().join("run")).unwrap();
        assert_eq!(
            instances.for_qemu(&folder.join("x/disk")),
            Some(folder.canonicalize().unwrap().join("x/disk"))
        );
        assert_eq!(instances.for_qemu(Path::new("/etc/shadow")), None);
        assert!(supports_direct_io(&folder) || !folder.join(".direct-io").exists());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_closed_home_is_reached_through_a_mount() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let outer = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let home = outer.path().join("home");
        make_folder(&home, 0o700).unwrap();
        let (folder, run) = (home.join("instances"), outer.path().join("run"));
        let instances = match Instances::open(&folder, &run) {
            Ok(instances) => instances,
            Err(error) => return eprintln!("skipped: mounts are not allowed here: {error}"),
        };
        let again = Instances::open(&folder, &run).unwrap();
        assert_eq!(
            instances.exposed, again.exposed,
            "opened twice, mounted once"
        );
        std::fs::write(folder.join("file"), "seen").unwrap();
        let exposed = instances.for_qemu(&instances.path().join("file")).unwrap();
        assert!(!exposed.starts_with(&home));
        let nobody = |path: &Path| {
            let mut command = std::process::Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
                .arg(path);
            command
                .output()
                .map(|output| output.stdout == b"seen")
                .unwrap_or(false)
        };
        assert!(
            nobody(&exposed),
            "an unprivileged user reads through the mount"
        );
        assert!(!nobody(&folder.join("file")), "and not through the home");
        Instances::withdraw(&folder, &run).unwrap();
        Instances::withdraw(&folder, &run).unwrap();
        assert!(!exposed.exists());
        assert!(folder.join("file").exists());

        Instances::open(&folder, &run).unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        let other = outer.path().join("other");
        make_folder(&other, 0o700).unwrap();
        Instances::open(&other.join("instances"), &run).unwrap();
        assert_eq!(
            std::fs::read_dir(&run).unwrap().count(),
            1,
            "a deleted home's mount is gone"
        );
        Instances::withdraw(&other.join("instances"), &run).unwrap();
    }

    #[test]
    fn folders_without_a_guest_are_strays_when_they_are_old() {
        let home = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let folder = home.path().join("instances");
        let instances = Instances::open(&folder, &home.path().join("run")).unwrap();
        let [guest, left, aside, coming, written] = [0; 5].map(|_: u8| ServerId::random());
        let hour = Duration::from_secs(3600);
        let past = SystemTime::now() - 2 * hour;
        let age = |path: &Path, at| std::fs::File::open(path).unwrap().set_modified(at).unwrap();
        let others = [folder.join("_base"), folder.join("backup-of-something")];
        let of = |id| instances.guest(id);
        for made in [
            of(guest).folder,
            of(left).folder,
            of(aside).aside,
            of(coming).inbox,
            of(written).folder,
        ]
        .iter()
        .chain(&others)
        {
            std::fs::create_dir(made).unwrap();
            std::fs::write(made.join("disk"), "x").unwrap();
            age(&made.join("disk"), past);
            age(made, past);
        }
        // A file that is named like a server is nobody's folder.
        let file = folder.join(ServerId::random().to_string());
        std::fs::write(&file, "").unwrap();
        age(&file, past);
        // Something is still written here.
        age(&of(written).disk, SystemTime::now());
        let guests = BTreeSet::from([guest]);
        let mut wanted = vec![left, aside, coming];
        wanted.sort();
        assert_eq!(instances.strays(&guests, hour).unwrap(), wanted);
        assert_eq!(instances.strays(&guests, 3 * hour).unwrap(), []);
        // One of its folders is young, so all of it stays.
        std::fs::create_dir(of(left).inbox).unwrap();
        wanted.retain(|id| *id != left);
        assert_eq!(instances.strays(&guests, hour).unwrap(), wanted);
    }

    #[test]
    fn hosts_that_share_folders_leave_each_others_alone() {
        let home = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let open = |folder: &str, host: &str| {
            let (folder, run) = (home.path().join(folder), home.path().join("run"));
            let opened = Instances::open(&folder, &run).unwrap();
            opened.of_host(&HostName(host.to_owned()))
        };
        let (one, other, apart) = (open("i", "h1"), open("i", "h2"), open("j", "h3"));
        assert_eq!(one.storage().unwrap(), other.storage().unwrap());
        assert_ne!(one.storage().unwrap(), apart.storage().unwrap());
        let copy = home.path().join("j").join(STORAGE);
        std::fs::remove_file(&copy).unwrap();
        std::fs::copy(home.path().join("i").join(STORAGE), copy).unwrap();
        assert_ne!(one.storage().unwrap(), apart.storage().unwrap(), "a copy");

        let id = ServerId::random();
        let (here, there) = (one.guest(id), other.guest(id));
        here.create().unwrap();
        there.create().unwrap();
        assert!(!there.is_own(&there.folder).unwrap());
        let strays = |instances: &Instances| instances.strays(&BTreeSet::new(), Duration::ZERO);
        assert_eq!(strays(&one).unwrap(), [id]);
        assert_eq!(strays(&other).unwrap(), []);
        there.remove_all().unwrap();
        assert!(here.folder.exists());
        // What was put aside stays whose it was.
        std::fs::rename(&here.folder, &here.aside).unwrap();
        there.create().unwrap();
        here.remove_all().unwrap();
        assert!(!here.aside.exists() && there.folder.exists());
        here.claim().unwrap();
        there.remove_all().unwrap();
        assert!(here.folder.exists());
        here.give("h2").unwrap();
        there.remove_all().unwrap();
        assert!(!here.folder.exists());
    }

    #[test]
    fn console_tails_reach_into_the_rolled_over_log() {
        let home = tempfile::tempdir().unwrap();
        let instances = Instances::open(&home.path().join("i"), &home.path().join("run"));
        let Ok(instances) = instances else {
            return eprintln!("skipped: mounts are not allowed here");
        };
        let guest = instances.guest(ServerId::random());
        assert_eq!(guest.console_tail(10).unwrap(), b"");
        guest.create().unwrap();
        std::fs::write(guest.console.with_extension("log.0"), "0123456789").unwrap();
        std::fs::write(&guest.console, "abcdef").unwrap();
        for (wanted, expected) in [
            (3, "def"),
            (6, "abcdef"),
            (8, "89abcdef"),
            (100, "0123456789abcdef"),
        ] {
            assert_eq!(guest.console_tail(wanted).unwrap(), expected.as_bytes());
        }
        let spec = GuestSpec {
            id: ServerId::random(),
            ..crate::sim::tests::spec(1)
        };
        let folder = instances.guest(spec.id);
        assert_eq!(folder.read_spec().unwrap(), None);
        folder.create().unwrap();
        folder.write_spec(&spec).unwrap();
        assert_eq!(instances.stored().unwrap(), [spec]);
        folder.remove().unwrap();
        folder.remove().unwrap();
        Instances::withdraw(&home.path().join("i"), &home.path().join("run")).unwrap();
    }
}
