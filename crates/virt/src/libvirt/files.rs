//! The files of a guest: disks, the config drive, the stored specification.

use super::folder::{self, GuestFolder};
use super::{disks, qcow2};
use crate::config_drive;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{ConfigFile, DiskFormat, GuestSpec, RootDisk};
use std::path::Path;

pub(super) fn make_files(
    files: &GuestFolder,
    spec: &GuestSpec,
    base_name: Option<&str>,
) -> Result<()> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| HypervisorError::disk(path.display(), &error)
    };
    if files.read_spec().map_err(fail(&files.spec))?.is_some() {
        if spec.root != RootDisk::Volume {
            std::fs::metadata(&files.disk).map_err(fail(&files.disk))?;
        }
    } else {
        files.create().map_err(fail(&files.folder))?;
        if spec.root != RootDisk::Volume {
            make_disk(&files.disk, &spec.root, base_name)?;
        }
        disks::make_local(spec, files)?;
    }
    if let Some(drive) = spec
        .config_drive
        .as_ref()
        .filter(|drive| !drive.is_empty() || !files.config_drive.exists())
    {
        make_drive(&files.config_drive, drive)?;
    }
    files.write_spec(spec).map_err(fail(&files.spec))
}

pub(super) fn make_drive(path: &Path, files: &[ConfigFile]) -> Result<()> {
    let image =
        config_drive::build(files).map_err(|error| HypervisorError::Rejected(error.to_string()))?;
    folder::write_whole(path, &image).map_err(|error| HypervisorError::disk(path.display(), &error))
}

pub(super) fn make_disk(path: &Path, root: &RootDisk, base_name: Option<&str>) -> Result<()> {
    const GIB: u64 = 1 << 30;
    let (bytes, backing) = match (root, base_name) {
        (
            RootDisk::Image {
                base,
                format,
                size_gib,
            },
            Some(name),
        ) => {
            let image_bytes = base_size(base, *format)?;
            let wanted = size_gib.saturating_mul(GIB);
            if wanted != 0 && image_bytes > wanted {
                let gib = image_bytes.div_ceil(GIB);
                return Err(HypervisorError::Image(format!(
                    "the image needs {gib} GiB, the flavor's disk has {size_gib}"
                )));
            }
            (
                wanted.max(image_bytes),
                Some(qcow2::Backing {
                    name,
                    format: *format,
                }),
            )
        }
        (root, _) => (root.local_gib().saturating_mul(GIB), None),
    };
    let part = path.with_extension("new");
    qcow2::create(&part, bytes, backing)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| HypervisorError::disk(path.display(), &error))
}

/// Size of a base's disk: a raw file's length, or what the qcow2 header says at offset 24.
pub(super) fn base_size(base: &Path, format: DiskFormat) -> Result<u64> {
    let read = || -> std::io::Result<u64> {
        if format == DiskFormat::Raw {
            return Ok(std::fs::metadata(base)?.len());
        }
        let mut head = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open(base)?, &mut head)?;
        let mut size = [0; 8];
        size.copy_from_slice(&head[24..]);
        Ok(u64::from_be_bytes(size))
    };
    read().map_err(|error| HypervisorError::disk(base.display(), &error))
}
