//! The directory of a cloud: who runs it, its secrets, its ids.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
        let path = self.path.join(name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A secret that is made once and kept.
    pub(crate) fn secret(&self, name: &str, make: impl FnOnce() -> String) -> Result<String> {
        let path = self.private_folder("secrets")?.join(name);
        if let Ok(text) = std::fs::read_to_string(&path) {
            return Ok(text.trim().to_owned());
        }
        let text = make();
        write_private(&path, &text)?;
        Ok(text)
    }

    /// A short name of this cloud, different for each home.
    pub(crate) fn cloud_id(&self) -> String {
        hex::encode(Sha256::digest(self.path.as_os_str().as_encoded_bytes()))[..8].to_owned()
    }

    /// The socket that host agents connect to. A unix socket's path has 107 bytes at most, so a deep home has it
    /// elsewhere.
    pub(crate) fn agents_socket(&self) -> Result<PathBuf> {
        let path = self.private_folder("run")?.join("agents.sock");
        if path.as_os_str().len() <= 100 {
            return Ok(path);
        }
        let folder = std::env::temp_dir().join(format!("kilonova-{}", self.cloud_id()));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(folder.join("agents.sock"))
    }
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

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
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
