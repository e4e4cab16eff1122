//! Simulated disks that several hosts share: a file each, which says whose it is.

use super::{Guest, Sim};
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{GuestSpec, Power};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use types::{HostName, PowerState, ServerId};

impl Sim {
    /// Names the storage.
    pub(super) fn storage(&self) -> Option<String> {
        let folder = self.config.storage.as_ref()?;
        Some(folder.display().to_string())
    }

    /// The disks that hosts share, and whose they are; for audits.
    pub fn shared_disks(&self) -> Vec<(ServerId, String)> {
        let folder = self.config.storage.iter();
        let entries = folder.filter_map(|folder| std::fs::read_dir(folder).ok());
        let paths = entries
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "disk"))
            .filter_map(|path| {
                let id = path.file_stem()?.to_str()?.parse().ok()?;
                Some((id, std::fs::read_to_string(&path).ok()?))
            })
            .collect()
    }

    fn shared_disk(&self, id: ServerId) -> Option<PathBuf> {
        let folder = self.config.storage.as_ref()?;
        Some(folder.join(format!("{id}.disk")))
    }

    pub(super) fn make_shared_disk(&self, id: ServerId) -> Result<()> {
        match self.shared_disk(id) {
            Some(path) if !path.exists() => write(&path, &self.config.hostname),
            _ => Ok(()),
        }
    }

    /// One that is another host's stays.
    pub(super) fn remove_shared_disk(&self, id: ServerId) -> Result<()> {
        let Some(path) = self.shared_disk(id) else {
            return Ok(());
        };
        match std::fs::read_to_string(&path) {
            Ok(owner) if owner == self.config.hostname => std::fs::remove_file(&path)
                .map_err(|error| HypervisorError::disk(path.display(), &error)),
            _ => Ok(()),
        }
    }

    pub(super) fn must_have_disk(&self, id: ServerId) -> Result<()> {
        let Some(path) = self.shared_disk(id) else {
            return Ok(());
        };
        std::fs::metadata(&path)
            .map(drop)
            .map_err(|error| HypervisorError::disk(path.display(), &error))
    }

    pub(super) fn give_disk(&self, id: ServerId, to: &HostName) -> Result<()> {
        match self.shared_disk(id) {
            Some(path) if path.exists() => write(&path, &to.0),
            _ => Ok(()),
        }
    }

    pub(super) fn claim_disk(&self, id: ServerId) -> Result<()> {
        self.give_disk(id, &HostName(self.config.hostname.clone()))
    }

    pub(super) fn take_up(&self, spec: &GuestSpec, power: Power, take: bool) -> Result<GuestInfo> {
        self.must_have_disk(spec.id)?;
        if take {
            self.claim_disk(spec.id)?;
        }
        let mut guests = self.lock();
        let was = guests.get(&spec.id);
        let memory = was.map(|guest| guest.tpm.clone()).unwrap_or_default();
        if was.is_none_or(|guest| !guest.info().active) {
            self.check_room(&guests, spec)?;
            let guest = Guest {
                spec: Arc::new(spec.for_storage()),
                power: PowerState::Shutdown,
                tpm: self.resting(spec, memory),
            };
            self.store(&mut guests, guest)?;
        }
        drop(guests);
        if power == Power::On {
            self.change_power(spec.id, PowerState::Running, GuestEventKind::Started)?;
        }
        self.info(spec.id)
    }
}

/// Whole or as before.
fn write(path: &Path, owner: &str) -> Result<()> {
    let part = path.with_extension(format!("{owner}.part"));
    std::fs::write(&part, owner)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| HypervisorError::disk(path.display(), &error))
}
