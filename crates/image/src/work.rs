//! Who works on the data of an image: a lock on a file beside them. All processes with the folder see it, and the system
//! frees it however its process ends.

use crate::files::Folder;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The right to change an image's data, and the status that says what becomes of them. It is held from before the status
/// says that something is under way until after it says that it is over: who can take it knows that nobody is at work.
pub(crate) struct Work {
    /// Closed with this, and with that unlocked.
    _file: File,
    path: PathBuf,
    image: String,
}

impl Work {
    /// Takes it, unless somebody has it.
    pub(crate) fn take(folder: &Folder, image: &str) -> io::Result<Option<Self>> {
        let path = folder.lock(image);
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have removed the file between the two.
            if is_at(&file, &path)? {
                return Ok(Some(Self {
                    _file: file,
                    path,
                    image: image.to_owned(),
                }));
            }
        }
    }

    /// Of which image.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Still locked, so it is nobody else's. One that stays is found and removed later.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_at_a_time_and_nothing_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path()).unwrap();
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 400 {
                        let Some(work) = Work::take(&folder, "x").unwrap() else {
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        drop(work);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.locks()).unwrap().count(), 0);
        // Of one image only.
        let _one = Work::take(&folder, "x").unwrap().unwrap();
        assert!(Work::take(&folder, "x").unwrap().is_none());
        assert!(Work::take(&folder, "y").unwrap().is_some());
    }
}
