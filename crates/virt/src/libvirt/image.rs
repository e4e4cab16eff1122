//! Images from users are hostile until checked ([`formats`]); checked ones are kept as base images that guests share.

mod notes;
mod unused;

use super::folder::sync_folder_of;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::DiskFormat;
use formats::qemu::{self, Checked, QemuError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A base image, ready for overlays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Size of the disk in bytes.
    pub virtual_bytes: u64,
}

const GIB: u64 = 1 << 30;

/// Checks an image file against the format it claims (Glance's `disk_format`) and a largest disk size.
///
/// # Errors
/// [`HypervisorError::Image`] when it is not what it claims, refers to other files, or is too large.
pub async fn check(path: &Path, claimed_format: &str, max_virtual_gib: u64) -> Result<Checked> {
    let checked = qemu::check(path, claimed_format).await?;
    if checked.virtual_bytes > max_virtual_gib.saturating_mul(GIB) {
        let gib = checked.virtual_bytes.div_ceil(GIB);
        return Err(HypervisorError::Image(format!(
            "the disk of {gib} GiB is larger than {max_virtual_gib} GiB"
        )));
    }
    Ok(checked)
}

impl From<QemuError> for HypervisorError {
    fn from(error: QemuError) -> Self {
        match error {
            QemuError::Io { path, error } => Self::disk(path.display(), &error),
            QemuError::NoTool(_) => Self::Rejected(error.to_string()),
            QemuError::TooLong => Self::Timeout("qemu-img".into()),
            QemuError::Full(reason) => Self::Disk { reason, full: true },
            image => Self::Image(image.to_string()),
        }
    }
}

/// Copies a guest's disk with all it stands on into one qcow2 file. Nobody may write it meanwhile. The disk is ours: its
/// header was written here and no guest can change it.
///
/// # Errors
/// The disk cannot be read, or there is no space.
pub async fn flatten(disk: &Path, copy: &Path) -> Result<()> {
    Ok(qemu::convert((disk, "qcow2"), (copy, "qcow2"), None).await?)
}

/// The folder of base images, `_base` in the instances folder. Files are named by image id; a file that is there is
/// checked, whole and never written again.
#[derive(Clone, Debug)]
pub struct BaseImages {
    folder: PathBuf,
}

impl BaseImages {
    /// Uses `<instances>/_base`, made if missing.
    pub fn open(instances: &Path) -> Result<Self> {
        let folder = instances.join("_base");
        std::fs::create_dir_all(&folder)
            .and_then(|()| {
                std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))
            })
            .map_err(|error| HypervisorError::disk(folder.display(), &error))?;
        Ok(Self { folder })
    }

    /// Where a download of this image should go, so that [`BaseImages::adopt`] need not copy it. The caller makes and
    /// removes the file; `unique` keeps two downloads apart.
    pub fn download_path(&self, image_id: &str, unique: &str) -> PathBuf {
        self.folder
            .join(format!("{}.{unique}.part", file_name(image_id)))
    }

    /// The base of an image that was adopted before.
    pub fn cached(&self, image_id: &str) -> Option<BaseImage> {
        let path = self.folder.join(file_name(image_id));
        let virtual_bytes = std::fs::metadata(&path).ok()?.len();
        Self::touch(&path);
        Some(BaseImage {
            path,
            format: DiskFormat::Raw,
            virtual_bytes,
        })
    }

    /// Makes a file the base `name` that another host's base of this name was copied into. It was checked there, and is
    /// used as raw whatever is in it. `note` says that nobody here knows what it was made of.
    ///
    /// # Errors
    /// Disk errors.
    pub fn take_over(&self, name: &str, copy: &Path, note: &str) -> Result<BaseImage> {
        let target = self.folder.join(file_name(name));
        if !target.exists() {
            self.forget_note(name)?;
        }
        // Before the base is there: one without a note counts as made of its image.
        self.note_first(name, note)?;
        finish(copy, &target).map_err(|error| HypervisorError::disk(target.display(), &error))?;
        self.cached(name)
            .ok_or_else(|| HypervisorError::Image("the base image vanished".into()))
    }

    /// Checks a downloaded file and makes it the base of `image_id`, converted to raw when it is something else.
    /// The download is used up or removed in any case. Where another host that shares the folder has made the base meanwhile,
    /// it is that one's, of which this host knows nothing (`false`).
    ///
    /// # Errors
    /// As [`check`]; disk errors.
    pub async fn adopt(
        &self,
        image_id: &str,
        download: &Path,
        claimed_format: &str,
        max_virtual_gib: u64,
    ) -> Result<(BaseImage, bool)> {
        let result = self
            .adopt_checked(image_id, download, claimed_format, max_virtual_gib)
            .await;
        std::fs::remove_file(download).ok();
        result
    }

    async fn adopt_checked(
        &self,
        image_id: &str,
        download: &Path,
        claimed: &str,
        max_gib: u64,
    ) -> Result<(BaseImage, bool)> {
        let checked = check(download, claimed, max_gib).await?;
        let target = self.folder.join(file_name(image_id));
        let ready = download.with_extension("ready");
        let made = self.make_raw(&checked, download, &ready).await;
        let finished = made.and_then(|()| {
            finish(&ready, &target).map_err(|error| HypervisorError::disk(target.display(), &error))
        });
        std::fs::remove_file(&ready).ok();
        let ours = finished?;
        let base = self.cached(image_id);
        let base = base.ok_or_else(|| HypervisorError::Image("the base image vanished".into()))?;
        Ok((base, ours))
    }

    async fn make_raw(&self, checked: &Checked, download: &Path, ready: &Path) -> Result<()> {
        if checked.driver == "raw" && download.parent() == Some(self.folder.as_path()) {
            return std::fs::rename(download, ready)
                .map_err(|error| HypervisorError::disk(ready.display(), &error));
        }
        let most = Some(checked.virtual_bytes + (1 << 20));
        Ok(qemu::convert((download, checked.driver), (ready, "raw"), most).await?)
    }

    /// Removes the base of an image; overlays on it must be gone.
    pub fn remove(&self, image_id: &str) -> Result<()> {
        let path = self.folder.join(file_name(image_id));
        self.forget_note(image_id)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HypervisorError::disk(path.display(), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Readable for QEMU's user, durable, and only then under its name: a base that is there is whole. `false`: another host, with
/// which this one shares the folder, was faster, and guests may have its file open.
fn finish(ready: &Path, target: &Path) -> std::io::Result<bool> {
    let file = std::fs::OpenOptions::new().write(true).open(ready)?;
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(512))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    let ours = match std::fs::hard_link(ready, target) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        // A file system without links is hardly shared.
        Err(error) if has_no_links(&error) => std::fs::rename(ready, target).map(|()| true)?,
        Err(error) => return Err(error),
    };
    if ready.exists() {
        std::fs::remove_file(ready)?;
    }
    sync_folder_of(target)?;
    Ok(ours)
}

/// Whether a file could not be linked because its file system knows no links.
fn has_no_links(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, TooManyLinks, Unsupported};
    [PermissionDenied, TooManyLinks, Unsupported].contains(&error.kind())
}

/// Image ids are UUIDs; anything else is encoded so that it cannot leave the folder.
fn file_name(image_id: &str) -> String {
    image_id
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
