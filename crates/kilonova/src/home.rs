//! The directory of a cloud: who runs it, its secrets, its ids.

use crate::part::{Secrets, lock_path};
use anyhow::{Context, Result, bail};
use edge::secrets::SecretBox;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where bind mounts go, for users who may not enter the home.
pub(crate) const RUN: &str = "/run/kilonova";
/// Bytes of the path of a folder that can hold a socket.
pub(crate) const LONGEST_FOLDER: usize = 80;

/// The file with the key manager's master keys.
const KEY_MANAGER_KEYS: &str = "key-manager-keys";

/// A cloud's directory.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// The directory, absolute.
    pub(crate) path: PathBuf,
}

/// Held while a cloud runs; the system frees it however the process ends.
pub(crate) struct Running {
    _file: File,
}

impl Home {
    /// The directory, made when it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot use {} as the cloud's home", path.display()))?;
        Ok(Self { path })
    }

    /// Takes the home for this process.
    pub(crate) fn take(&self) -> Result<Running> {
        let mut file = self.lock_file()?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = read_pid(&mut file);
            bail!(
                "a cloud runs in {} already, with pid {pid}; stop it with `kill {pid}` or choose another --home",
                self.path.display()
            );
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(Running { _file: file })
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.path.join("kilonova.pid");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        opened.with_context(|| format!("cannot open {}", path.display()))
    }

    /// The process that runs this cloud, if one does.
    pub(crate) fn running(&self) -> Result<Option<i32>> {
        let mut file = self.lock_file()?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(None);
        }
        Ok(read_pid(&mut file).parse().ok())
    }

    /// A directory inside, readable by its owner only, made when it is missing.
    pub(crate) fn private_folder(&self, name: &str) -> Result<PathBuf> {
        private_folder(&self.path, name)
    }

    /// A folder inside that a system user owns, with all that is in it, and that only this user can enter.
    pub(crate) fn folder_of_user(&self, name: &str, uid: u32, gid: u32) -> Result<PathBuf> {
        let path = self.private_folder(name)?;
        // What the user owns already is left alone: it could hold links to anything.
        if std::fs::metadata(&path)?.uid() != uid {
            give(&path, uid, gid)
                .with_context(|| format!("cannot give {} away", path.display()))?;
        }
        Ok(path)
    }

    /// A random secret that is made once and kept.
    pub(crate) fn secret(&self, name: &str) -> Result<String> {
        self.kept(name, random_text)
    }

    /// What the control part must know, made once and kept.
    pub(crate) fn secrets(&self) -> Result<Secrets> {
        Ok(Secrets {
            admin_password: self.secret("admin-password")?,
            demo_password: self.secret("demo-password")?,
            seal_key: self.kept("seal-key", SecretBox::generate_key)?,
            key_manager_keys: self.kept(KEY_MANAGER_KEYS, SecretBox::generate_key)?,
        })
    }

    /// What a process that opens sealed texts must know; made by `kilonova db sync`, or copied from where that ran.
    pub(crate) fn known_secrets(&self) -> Result<Secrets> {
        Ok(Secrets {
            admin_password: String::new(),
            demo_password: String::new(),
            seal_key: self.known_secret("seal-key")?,
            key_manager_keys: String::new(),
        })
    }

    /// What a key manager of its own must know, likewise.
    pub(crate) fn known_master_keys(&self) -> Result<Secrets> {
        Ok(Secrets {
            admin_password: String::new(),
            demo_password: String::new(),
            seal_key: String::new(),
            key_manager_keys: self.known_secret(KEY_MANAGER_KEYS)?,
        })
    }

    /// A secret that must be there.
    pub(crate) fn known_secret(&self, name: &str) -> Result<String> {
        let path = self.path.join("secrets").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}: run `kilonova db sync` first, or copy the folder from the machine where it ran",
                path.display()
            )
        })?;
        Ok(text.trim().to_owned())
    }

    fn kept(&self, name: &str, make: impl FnOnce() -> String) -> Result<String> {
        let folder = self.private_folder("secrets")?;
        let path = folder.join(name);
        if let Some(text) = read_kept(&path)? {
            return Ok(text);
        }
        // Programs that start at once make it once.
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("lock"))?;
        lock.lock()?;
        if let Some(text) = read_kept(&path)? {
            return Ok(text);
        }
        let text = make();
        write_private(&path, &text)?;
        Ok(text)
    }

    /// A short name of this cloud, different for each home.
    pub(crate) fn cloud_id(&self) -> String {
        hex::encode(Sha256::digest(self.path.as_os_str().as_encoded_bytes()))[..8].to_owned()
    }

    /// The socket that host agents connect to, in the folder of the control part. A unix socket's path has 107 bytes
    /// at most, so a deep home has it elsewhere.
    pub(crate) fn agents_socket(&self, folder: &Path) -> Result<PathBuf> {
        if folder.as_os_str().len() <= LONGEST_FOLDER {
            return Ok(folder.join("run").join("agents.sock"));
        }
        let short = std::env::temp_dir().join(format!("kilonova-{}", self.cloud_id()));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&short)?;
        let found = std::fs::symlink_metadata(&short)?;
        let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if !ours || found.mode() & 0o077 != 0 {
            bail!("{} belongs to somebody else; remove it", short.display());
        }
        Ok(short.join("agents.sock"))
    }

    /// Waits until the parts of an earlier run have ended; they follow the process that started them.
    pub(crate) async fn wait_for_parts(&self, patience: Duration) -> Result<()> {
        let until = tokio::time::Instant::now() + patience;
        for folder in [self.path.clone(), self.path.join("control")] {
            // Whoever runs the part without privileges owns its folder: nothing there may be followed or waited for.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(lock) = open(lock_path(&folder), flags, Mode::empty()) else {
                continue;
            };
            while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                if tokio::time::Instant::now() > until {
                    bail!(
                        "a part of the cloud in {} does not end",
                        self.path.display()
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

/// A secret that was made before. One that cannot be read is not made anew: what it has sealed would be lost.
fn read_kept(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Gives a folder and all that is in it to a user; links are given, not followed.
fn give(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// A directory in another, readable by its owner only, made when it is missing.
pub(crate) fn private_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    // An unreadable pid only makes the message poorer.
    let _ = file.read_to_string(&mut text);
    if text.is_empty() {
        "unknown".to_owned()
    } else {
        text
    }
}

/// Writes a file that only its owner may read, whole or not at all. Of those who do so at once the last one counts.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
        fresh.write_all(text.as_bytes())?;
        fresh.as_file().sync_all()?;
        fresh.persist(path)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

/// A random text of letters and digits.
pub(crate) fn random_text() -> String {
    let bytes: [u8; 24] = rand::random();
    hex::encode(bytes)
}

/// Says whether a cloud runs and is ready.
pub(crate) fn status(path: &Path) -> Result<()> {
    if !path.is_dir() {
        bail!("there is no cloud in {}", path.display());
    }
    let home = Home::open(path)?;
    let Some(pid) = home.running()? else {
        bail!(
            "the cloud in {} does not run; start it with `kilonova up`",
            path.display()
        )
    };
    if !home.path.join("openrc").exists() {
        bail!(
            "the cloud in {} is starting, with pid {pid}",
            path.display()
        );
    }
    println!("the cloud in {} runs, with pid {pid}", home.path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_that_start_at_once_make_a_secret_once() {
        for _ in 0..20 {
            let temporary = tempfile::tempdir().unwrap();
            let home = Home::open(temporary.path()).unwrap();
            let together = std::sync::Barrier::new(8);
            let made: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
                let one = || {
                    together.wait();
                    home.secret("admin-password").unwrap()
                };
                let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(made.len(), 1);
            assert_eq!(
                made.first(),
                Some(&home.known_secret("admin-password").unwrap())
            );
            let kept = home.path.join("secrets").join("admin-password");
            let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            // What cannot be read is not replaced.
            std::fs::write(&kept, [0xff]).unwrap();
            assert!(home.secret("admin-password").is_err());
        }
    }

    /// OSSA-2013-010: what somebody else has prepared in the folder that all share is not used.
    #[test]
    fn a_socket_is_not_put_into_a_folder_of_somebody_else() {
        let temporary = tempfile::tempdir().unwrap();
        let deep = temporary.path().join("d".repeat(LONGEST_FOLDER));
        let home = Home::open(&deep).unwrap();
        let shared = std::env::temp_dir().join(format!("kilonova-{}", home.cloud_id()));
        std::fs::create_dir(&shared).unwrap();
        let mode =
            |bits| std::fs::set_permissions(&shared, PermissionsExt::from_mode(bits)).unwrap();
        mode(0o777);
        assert!(home.agents_socket(&deep).is_err());
        mode(0o700);
        assert_eq!(home.agents_socket(&deep).unwrap().parent(), Some(&*shared));
        std::fs::remove_dir(&shared).unwrap();
        // Nor is a link followed to where somebody else wants it.
        std::os::unix::fs::symlink(temporary.path(), &shared).unwrap();
        let followed = home.agents_socket(&deep);
        std::fs::remove_file(&shared).unwrap();
        assert!(followed.is_err());
    }
}
