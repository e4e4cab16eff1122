//! Guests that are put aside, leave for another host and land. Aside a guest is a folder of its own beside where it was,
//! moved there in one rename; what lands is made beside it, its specification last.

use super::folder::{self, GuestFolder};
use super::{Libvirt, blocking, disks, qcow2, tpm};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Luggage, Result};
use crate::spec::{GuestSpec, Power, RootDisk};
use std::path::{Path, PathBuf};
use types::ServerId;

const GIB: u64 = 1 << 30;

/// Files of disks beside the first one; see [`super::disks::local`].
const OTHERS: &[&str] = &["disk.swap", "disk.eph0", "disk.eph1", "disk.eph2"];

impl Libvirt {
    pub(super) async fn set_aside(&self, id: ServerId, root_gib: u64) -> Result<()> {
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        if files.aside.exists() {
            return Ok(());
        }
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if spec.root != RootDisk::Volume {
            let has = super::base_size(&files.disk, crate::spec::DiskFormat::Qcow2)?;
            if root_gib > 0 && root_gib.saturating_mul(GIB) < has {
                return Err(HypervisorError::DiskTooSmall);
            }
        }
        self.off(id).await?;
        self.keep_tpm_memory(&spec).await?;
        self.undefine(id).await?;
        // It says whose it is, for hosts that share it.
        files
            .create()
            .map_err(|error| HypervisorError::disk(files.folder.display(), &error))?;
        rename(&files.folder, &files.aside)
    }

    pub(super) async fn bring_back(&self, id: ServerId, power: Power) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        if files.aside.exists() {
            self.off(id).await?;
            self.undefine(id).await?;
            let files = files.clone();
            blocking(move || {
                files
                    .remove()
                    .map_err(|error| HypervisorError::disk(files.folder.display(), &error))?;
                rename(&files.aside, &files.folder)
            })
            .await?;
        }
        if let Some(guest) = self.look(id).await?
            && (guest.active || power == Power::Off)
        {
            return Ok(guest);
        }
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.check_disk(&spec)?;
        self.define(&spec, power).await
    }

    pub(super) async fn forget(&self, id: ServerId) -> Result<()> {
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        if self.look(id).await?.is_none() {
            // It is elsewhere for good.
            self.forget_tpm(id).await?;
        }
        blocking(move || remove_folder(&files.aside)).await
    }

    pub(super) fn luggage(&self, id: ServerId) -> Result<Vec<PathBuf>> {
        let files = self.instances.guest(id);
        let kept = [&files.disk, &files.config_drive, &files.spec];
        let names = kept.iter().filter_map(|path| path.file_name());
        let found: Vec<PathBuf> = names
            .map(PathBuf::from)
            .chain(OTHERS.iter().chain(&tpm::FILES).map(PathBuf::from))
            .map(|name| files.aside.join(name))
            .filter(|path| path.exists())
            .collect();
        if found.is_empty() {
            return Err(HypervisorError::NotFound(id));
        }
        Ok(found)
    }

    pub(super) fn empty_inbox(&self, id: ServerId) -> Result<PathBuf> {
        let inbox = self.instances.guest(id).inbox;
        remove_folder(&inbox)?;
        // Nobody but this process may look at what arrives.
        let fail = |error| HypervisorError::disk(inbox.display(), &error);
        std::fs::create_dir_all(&inbox).map_err(fail)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&inbox, mode).map_err(fail)?;
        Ok(inbox)
    }

    pub(super) async fn unpack(
        &self,
        spec: &GuestSpec,
        luggage: Luggage,
        power: Power,
    ) -> Result<GuestInfo> {
        let id = spec.id;
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        if self.read_spec(id)?.is_none() {
            self.backing_name(&spec.root)?;
            let (files, luggage) = (files.clone(), luggage);
            let from_volume = spec.root == RootDisk::Volume;
            blocking(move || carry_in(&files, luggage, from_volume)).await?;
            self.check_base(spec)?;
            self.grow(id, spec).await?;
            let (files, spec) = (self.instances.guest(id), spec.clone());
            blocking(move || {
                disks::fit_swap(&spec, &files)?;
                files
                    .write_spec(&spec)
                    .map_err(|error| HypervisorError::disk(files.spec.display(), &error))
            })
            .await?;
        }
        remove_folder(&files.inbox)?;
        if let Some(guest) = self.look(id).await?.filter(|guest| guest.active) {
            self.remember(spec);
            return Ok(guest);
        }
        self.define(spec, power).await
    }

    /// What the header of a guest's disk names, which no guest can write.
    pub(super) fn base_of_disk(&self, id: ServerId) -> Result<Option<PathBuf>> {
        let files = self.instances.guest(id);
        let aside = files.aside.join(files.disk.file_name().unwrap_or_default());
        // What is aside is whole; a copy of it may not be yet.
        for disk in [&aside, &files.disk] {
            match qcow2::backing_name(disk) {
                Ok(name) => return Ok(name.map(|name| self.base_named(&name))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(HypervisorError::disk(disk.display(), &error)),
            }
        }
        Ok(None)
    }

    /// Disks name their bases by the way from their own folders.
    fn base_named(&self, name: &str) -> PathBuf {
        let file = Path::new(name).file_name().unwrap_or_default();
        self.instances.path().join("_base").join(file)
    }

    /// The files of the guest's own disks are there, and what they should be.
    pub(super) fn check_disk(&self, spec: &GuestSpec) -> Result<()> {
        let files = self.instances.guest(spec.id);
        for (_, path) in disks::local(spec, &files) {
            std::fs::metadata(&path)
                .map_err(|error| HypervisorError::disk(path.display(), &error))?;
        }
        self.check_base(spec)
    }

    /// The first disk stands on what the specification says: on another base it would be another disk.
    fn check_base(&self, spec: &GuestSpec) -> Result<()> {
        if spec.root == RootDisk::Volume {
            return Ok(());
        }
        let files = self.instances.guest(spec.id);
        let named = qcow2::backing_name(&files.disk)
            .map_err(|error| HypervisorError::disk(files.disk.display(), &error))?;
        let has = named.map(|name| self.base_named(&name));
        let wanted = match &spec.root {
            RootDisk::Image { base, .. } => base.file_name(),
            RootDisk::Blank { .. } | RootDisk::Volume => None,
        };
        if has.as_deref().and_then(Path::file_name) == wanted {
            return Ok(());
        }
        let file = |name: Option<&std::ffi::OsStr>| {
            name.map_or_else(|| "none".to_owned(), |name| name.display().to_string())
        };
        Err(HypervisorError::Rejected(format!(
            "the guest's disk stands on the base {}, and would have been used as one on {}: resize or migrate the server, which \
             puts that right",
            file(has.as_deref().and_then(Path::file_name)),
            file(wanted)
        )))
    }

    /// Makes the root disk as large as the flavor's, never smaller.
    async fn grow(&self, id: ServerId, spec: &GuestSpec) -> Result<()> {
        if spec.root == RootDisk::Volume {
            return Ok(());
        }
        let disk = self.instances.guest(id).disk;
        let has = super::base_size(&disk, crate::spec::DiskFormat::Qcow2)?;
        let wanted = spec.root.local_gib().saturating_mul(GIB);
        if wanted > 0 && wanted < has {
            return Err(HypervisorError::DiskTooSmall);
        }
        if wanted > has {
            formats::qemu::grow(&disk, wanted).await?;
        }
        Ok(())
    }
}

/// Copies what is aside, moves what has arrived.
fn carry_in(files: &GuestFolder, luggage: Luggage, from_volume: bool) -> Result<()> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| HypervisorError::disk(path.display(), &error)
    };
    files.remove().map_err(fail(&files.folder))?;
    files.create().map_err(fail(&files.folder))?;
    let others = OTHERS.iter().chain(&tpm::FILES);
    let others = others.map(|name| files.folder.join(name));
    for to in [files.disk.clone(), files.config_drive.clone()]
        .into_iter()
        .chain(others)
    {
        let to = &to;
        let name = to.file_name().unwrap_or_default();
        let from = match luggage {
            Luggage::Aside => files.aside.join(name),
            Luggage::Inbox => files.inbox.join(name),
        };
        if !from.exists() && (from_volume || *to != files.disk) {
            continue;
        }
        match luggage {
            Luggage::Aside => std::fs::copy(&from, to).map(drop).map_err(|error| {
                let size = from.metadata().map_or(0, |from| from.len());
                HypervisorError::writing(to, size, &error)
            })?,
            Luggage::Inbox => std::fs::rename(&from, to).map_err(fail(&from))?,
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| HypervisorError::disk(from.display(), &error))
}

fn remove_folder(path: &Path) -> Result<()> {
    folder::remove_folder(path).map_err(|error| HypervisorError::disk(path.display(), &error))
}
