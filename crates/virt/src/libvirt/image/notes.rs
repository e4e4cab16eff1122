//! What is noted of a base image beside it: the digests of the file that it was made of, which is gone.

use super::{BaseImages, file_name, has_no_links};
use crate::hypervisor::{HypervisorError, Result};
use std::io;
use std::path::{Path, PathBuf};

/// How the name of a note ends. No base has a dot in its name.
const ENDS: &str = ".note";

impl BaseImages {
    /// What was noted of the base of an image.
    pub fn note(&self, image_id: &str) -> Option<String> {
        std::fs::read_to_string(self.note_path(image_id)).ok()
    }

    /// Notes something of the base of an image, in place of what was noted before.
    ///
    /// # Errors
    /// Disk errors.
    pub fn set_note(&self, image_id: &str, text: &str) -> Result<()> {
        self.write_note(image_id, text, |fresh, path| std::fs::rename(fresh, path))
    }

    /// Notes something of it, unless another host that shares the folder has noted something.
    pub(super) fn note_first(&self, image_id: &str, text: &str) -> Result<()> {
        self.write_note(image_id, text, |fresh, path| {
            match std::fs::hard_link(fresh, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if has_no_links(&error) => return std::fs::rename(fresh, path),
                linked => linked?,
            }
            std::fs::remove_file(fresh)
        })
    }

    fn write_note(
        &self,
        image_id: &str,
        text: &str,
        place: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.note_path(image_id);
        let unique = uuid::Uuid::new_v4().simple();
        let fresh = self
            .folder
            .join(format!("{}.{unique}.part", file_name(image_id)));
        let written = std::fs::write(&fresh, text).and_then(|()| place(&fresh, &path));
        written.map_err(|error| {
            std::fs::remove_file(&fresh).ok();
            HypervisorError::disk(path.display(), &error)
        })
    }

    /// What is noted of a base is not true of the next one.
    pub(super) fn forget_note(&self, image_id: &str) -> Result<()> {
        let path = self.note_path(image_id);
        remove(&path).map_err(|error| HypervisorError::disk(path.display(), &error))
    }

    fn note_path(&self, image_id: &str) -> PathBuf {
        self.folder.join(format!("{}{ENDS}", file_name(image_id)))
    }
}

/// The base that a file is the note of, if it is one.
pub(super) fn base_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDS)?;
    Some(path.with_file_name(name))
}

/// Removes the note of a base.
pub(super) fn forget(base: &Path) -> io::Result<()> {
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(ENDS);
    remove(&base.with_file_name(name))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
