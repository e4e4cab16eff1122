//! The folder with the data: uploads are written beside the store, checked, and renamed into it.

use crate::model::Written;
use formats::inspect::{self, Refusal};
use md5::Md5;
use sha2::{Digest, Sha512};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Why data were not taken.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// More bytes than allowed.
    #[error("the image is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// There is no room in the store.
    #[error("the image store is full: {0}")]
    Full(io::Error),
    /// The content is not what was claimed, or not safe.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The client went away, or sent less than it said.
    #[error("the upload broke off: {0}")]
    Broken(String),
    /// The disk failed.
    #[error("the image store failed: {0}")]
    Io(io::Error),
}

impl From<inspect::Error> for DataError {
    fn from(error: inspect::Error) -> Self {
        match error {
            inspect::Error::Refused(refusal) => refusal.into(),
            inspect::Error::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for DataError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full(error),
            _ => Self::Io(error),
        }
    }
}

/// What users say that the data are.
#[derive(Clone, Debug)]
pub struct Claim {
    /// For example `qcow2`.
    pub disk_format: String,
    /// For example `bare`.
    pub container_format: String,
}

/// What an image has in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Data that wait for their import.
    Staged,
    /// Its data.
    Data,
}

/// The folder of an image service, which all its processes share. Nobody else writes there, and they write only what they
/// [work](crate::work::Work) on.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folders that are missing; only this user may enter them.
    pub fn open(root: &Path) -> io::Result<Self> {
        let folder = Self {
            root: root.to_owned(),
        };
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
        };
        make(root)?;
        let owner = root.metadata()?;
        for path in [folder.uploads(), folder.staging(), folder.locks()] {
            make(&path)?;
            // Also where root was first.
            let _ = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
        }
        Ok(folder)
    }

    fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where the locks are.
    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// The lock of whoever works on an image.
    pub(crate) fn lock(&self, id: &str) -> PathBuf {
        self.locks().join(id)
    }

    /// Where the data of an image are.
    pub fn path(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Where the staged data of an image are.
    pub fn staged(&self, id: &str) -> PathBuf {
        self.staging().join(id)
    }

    /// Begins to write the data of an image.
    pub fn writer(&self, id: &str, limit: u64, claim: Option<Claim>) -> Result<Writer, DataError> {
        let path = self.uploads().join(id);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            // What a process that was killed has left.
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Writer {
            unfinished: Unfinished(path),
            file,
            limit,
            claim,
            md5: Md5::new(),
            sha512: Sha512::new(),
            size: 0,
            head: Vec::new(),
        })
    }

    /// Removes the data of an image, staged ones too.
    pub fn remove(&self, id: &str) {
        remove(&self.path(id));
        remove(&self.staged(id));
    }

    /// Removes what an image has besides this; whether that is there. For whoever works on it.
    pub fn leave(&self, id: &str, left: Left) -> bool {
        let (data, staged) = (self.path(id), self.staged(id));
        let mut gone = remove(&self.uploads().join(id));
        if left != Left::Data {
            gone |= remove(&data);
        }
        if left != Left::Staged {
            gone |= remove(&staged);
        }
        if gone {
            tracing::info!(image = id, "removed data that no image has");
        }
        match left {
            Left::Nothing => true,
            Left::Staged => staged.is_file(),
            Left::Data => data.is_file(),
        }
    }

    /// The images with something that was begun: whose work was not given back, or who have unfinished data.
    pub fn begun(&self) -> io::Result<Vec<String>> {
        let mut found = names(&self.locks())?;
        found.extend(names(&self.uploads())?);
        Ok(found)
    }

    /// The images with data, whole or staged.
    pub fn data(&self) -> io::Result<Vec<String>> {
        let mut found = names(&self.root)?;
        found.extend(names(&self.staging())?);
        Ok(found)
    }
}

/// Removes a file that may be there; whether it was.
fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "image data could not be removed");
        }
    }
    false
}

/// The files in a folder with names that this service gives: nothing of others is touched.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok();
        let Some(name) = name.filter(|name| Uuid::parse_str(name).is_ok()) else {
            continue;
        };
        match entry.file_type() {
            Ok(kind) if kind.is_file() => found.push(name),
            Ok(_) => {}
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A file that is removed unless it is renamed in time.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Data on their way into the store: hashed and looked at while they are written.
pub struct Writer {
    unfinished: Unfinished,
    file: File,
    limit: u64,
    claim: Option<Claim>,
    md5: Md5,
    sha512: Sha512,
    size: u64,
    head: Vec<u8>,
}

impl Writer {
    /// Writes a piece. Content that is already seen to be wrong is refused here, not after the last byte.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), DataError> {
        self.size += piece.len() as u64;
        if self.size > self.limit {
            return Err(DataError::TooLarge { limit: self.limit });
        }
        self.look(piece)?;
        self.file.write_all(piece)?;
        self.md5.update(piece);
        self.sha512.update(piece);
        Ok(())
    }

    fn look(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        if self.head.len() >= inspect::HEAD {
            return Ok(());
        }
        let room = inspect::HEAD - self.head.len();
        self.head.extend_from_slice(&piece[..piece.len().min(room)]);
        match &self.claim {
            Some(claim) if self.head.len() >= inspect::HEAD => {
                inspect::check_head(&self.head, &claim.disk_format, &claim.container_format)
            }
            _ => Ok(()),
        }
    }

    /// Checks the whole, puts it on the disk for good and renames it to `target`.
    pub fn finish(mut self, target: &Path) -> Result<Written, DataError> {
        self.file.flush()?;
        let virtual_size = match &self.claim {
            Some(claim) => inspect::check(&self.file, &claim.disk_format, &claim.container_format)?,
            None => self.size,
        };
        self.file.sync_all()?;
        fs::rename(&self.unfinished.0, target)?;
        sync_folder(target)?;
        Ok(Written {
            size: self.size,
            virtual_size,
            md5: hex::encode(self.md5.finalize()),
            sha512: hex::encode(self.sha512.finalize()),
        })
    }
}

/// A rename is durable when its folder is on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn raw() -> Option<Claim> {
        Some(Claim {
            disk_format: "raw".into(),
            container_format: "bare".into(),
        })
    }

    #[test]
    fn data_are_hashed_and_renamed() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let mut writer = folder.writer("x", 100, raw()).unwrap();
        writer.write(b"hello ").unwrap();
        writer.write(b"world").unwrap();
        let written = writer.finish(&folder.path("x")).unwrap();
        assert_eq!((written.size, written.virtual_size), (11, 11));
        assert_eq!(written.md5, "5eb63bbbe01eeed093cb22bb8f5acdc3");
        assert!(
            written
                .sha512
                .starts_with("309ecc489c12d6eb4cc40f50c902f2b4")
        );
        assert_eq!(fs::read(folder.path("x")).unwrap(), b"hello world");
        assert_eq!(fs::read_dir(folder.uploads()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_finished_goes() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let mut writer = folder.writer("x", 4, raw()).unwrap();
        writer.write(b"1234").unwrap();
        assert!(matches!(
            writer.write(b"5"),
            Err(DataError::TooLarge { limit: 4 })
        ));
        drop(writer);
        assert_eq!(fs::read_dir(folder.uploads()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let mut writer = folder.writer("x", 1 << 20, raw()).unwrap();
        // Every write to this device fails with ENOSPC.
        writer.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(matches!(writer.write(&[0; 4096]), Err(DataError::Full(_))));
    }

    #[test]
    fn an_image_keeps_what_it_has() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let id = Uuid::new_v4().to_string();
        let fill = || {
            for path in [
                folder.path(&id),
                folder.staged(&id),
                folder.uploads().join(&id),
            ] {
                fs::write(path, "x").unwrap();
            }
        };
        let there = || (folder.path(&id).exists(), folder.staged(&id).exists());
        for (left, wanted) in [
            (Left::Nothing, (false, false)),
            (Left::Staged, (false, true)),
            (Left::Data, (true, false)),
        ] {
            fill();
            assert!(folder.leave(&id, left));
            assert_eq!(there(), wanted, "{left:?}");
            assert!(folder.begun().unwrap().is_empty());
        }
        folder.remove(&id);
        assert!(!folder.leave(&id, Left::Staged) && !folder.leave(&id, Left::Data));
    }

    #[test]
    fn only_names_of_images_are_listed() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let ids: Vec<String> = (0..4).map(|_| Uuid::new_v4().to_string()).collect();
        fs::write(folder.path(&ids[0]), "data").unwrap();
        fs::write(folder.staged(&ids[1]), "staged").unwrap();
        fs::write(folder.uploads().join(&ids[2]), "half").unwrap();
        fs::write(folder.lock(&ids[3]), "").unwrap();
        fs::write(temp.path().join("README"), "not ours").unwrap();
        fs::create_dir(folder.path(&Uuid::new_v4().to_string())).unwrap();
        assert_eq!(folder.data().unwrap(), ids[..2]);
        assert_eq!(folder.begun().unwrap(), [ids[3].clone(), ids[2].clone()]);
    }
}
