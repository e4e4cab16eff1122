//! Volumes and snapshots as sparse raw files. A file appears under its name whole or not at all.

pub mod copy;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Bytes of a GiB.
pub const GIB: u64 = 1 << 30;

/// The service's folder.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

/// The right to change what is in the folder, until this is dropped or its process ends, however that ends.
#[derive(Debug)]
pub struct Held {
    /// Closing it unlocks it.
    _file: File,
}

/// Whether the folder could be taken.
#[derive(Debug)]
pub enum Taken {
    /// Nobody else has it now.
    Held(Held),
    /// Somebody has it: who, as far as they have said.
    By(String),
}

/// The disk that the folder is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub total: u64,
    /// Bytes that this service may still write.
    pub free: u64,
}

impl Files {
    /// The folder, made when it is missing.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        for name in ["volumes", "snapshots", "staging", "nbd"] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root.join(name))?;
        }
        Ok(Self { root })
    }

    /// Takes the folder for this process, unless another one has it. All that see the folder see the lock, on other machines
    /// too where the file system's locks count on all of them.
    pub fn take(&self, host: &str) -> io::Result<Taken> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // It only makes the message better.
                let said = fs::read_to_string(&path).unwrap_or_default();
                return Ok(Taken::By(match said.trim() {
                    "" => "a process that has not said which it is".to_owned(),
                    said => said.to_owned(),
                }));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever owns the folder opens it later, also where root was first.
        if let Ok(folder) = self.root.metadata() {
            let _ = fchown(&file, Some(folder.uid()), Some(folder.gid()));
        }
        // A full disk is no reason not to serve volumes.
        let _ = file.set_len(0);
        let _ = writeln!(file, "process {} on host {host}", std::process::id());
        Ok(Taken::Held(Held { _file: file }))
    }

    /// The data of a volume.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.root.join("volumes").join(id)
    }

    /// The data of a snapshot.
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    /// A file that no row knows; a start removes it.
    pub fn staging(&self) -> Staged {
        let name = uuid::Uuid::new_v4().to_string();
        Staged {
            path: self.root.join("staging").join(name),
        }
    }

    /// Where the storage daemon has its sockets.
    pub fn nbd(&self) -> PathBuf {
        self.root.join("nbd")
    }

    /// How much room there is.
    pub fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.root)?;
        Ok(Space {
            total: found.f_blocks * found.f_frsize,
            free: found.f_bavail * found.f_frsize,
        })
    }

    /// Removes what no row knows.
    pub fn clean(&self, volumes: &[String], snapshots: &[String]) -> io::Result<()> {
        for (folder, known) in [
            ("volumes", volumes),
            ("snapshots", snapshots),
            ("staging", &[]),
        ] {
            for entry in fs::read_dir(self.root.join(folder))? {
                let entry = entry?;
                let name = entry.file_name();
                if !known.iter().any(|id| name.to_str() == Some(id)) {
                    tracing::info!(path = %entry.path().display(), "a file that belongs to nothing is removed");
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// A file in the making; it goes with this unless it was finished.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
}

impl Staged {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file there.
    pub fn create(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)
    }

    /// Gives it its size, brings it to the disk, and then to its place.
    pub fn finish(self, place: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(bytes)?;
        file.sync_all()?;
        fs::rename(&self.path, place)?;
        sync_folder(place)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It was finished, or never made.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(place: &Path) -> io::Result<()> {
    match place.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a file of zeros.
pub fn blank(files: &Files, place: &Path, bytes: u64) -> io::Result<()> {
    let staged = files.staging();
    staged.create()?;
    staged.finish(place, bytes)
}

/// Makes a file longer; what is there already stays.
pub fn grow(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Removes a file that may be gone already. A big file gives its room back first, in pieces, so that the removal does
/// not hold up the disk's journal.
pub fn remove(path: &Path) -> io::Result<()> {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = file.metadata()?.len();
        let mut at = 0;
        while at < length {
            if fallocate(&file, flags, at, GIB.min(length - at)).is_err() {
                break;
            }
            at += GIB;
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_sparse_and_grow_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let place = files.volume("a");
        blank(&files, &place, 3 * GIB).unwrap();
        let found = fs::metadata(&place).unwrap();
        assert_eq!(found.len(), 3 * GIB);
        assert!(found.blocks() < 100 && found.mode() & 0o077 == 0);
        grow(&place, 4 * GIB).unwrap();
        grow(&place, 2 * GIB).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().len(), 4 * GIB);
        remove(&place).unwrap();
        remove(&place).unwrap();
        assert!(!place.exists());
        assert!(files.space().unwrap().total > 0);
    }

    #[test]
    fn one_at_a_time_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let Taken::Held(first) = files.take("h1").unwrap() else {
            panic!("nobody else has it");
        };
        let ours = format!("process {} on host h1", std::process::id());
        // Not even by another way to the same folder.
        let again = Files::open(folder.path()).unwrap();
        for files in [&files, &again] {
            match files.take("h2").unwrap() {
                Taken::By(said) => assert_eq!(said, ours),
                Taken::Held(_) => panic!("two have it"),
            }
        }
        drop(first);
        crate::tests::until_free(|| matches!(again.take("h2").unwrap(), Taken::Held(_)));
    }

    #[test]
    fn a_start_removes_what_no_row_knows() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        for id in ["known", "orphan"] {
            fs::write(files.volume(id), "x").unwrap();
            fs::write(files.snapshot(id), "x").unwrap();
        }
        let staged = files.staging();
        staged.create().unwrap();
        let left = staged.path().to_owned();
        std::mem::forget(staged);
        files.clean(&["known".into()], &["known".into()]).unwrap();
        assert!(files.volume("known").exists() && files.snapshot("known").exists());
        assert!(!files.volume("orphan").exists() && !files.snapshot("orphan").exists());
        assert!(!left.exists());
    }
}
