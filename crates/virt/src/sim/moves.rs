//! Simulated guests that are aside, leave and land.

use super::{Guest, Sim, StoredGuest, root_gib};
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Luggage, Result};
use crate::spec::{GuestSpec, Power};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use types::{PowerState, ServerId};

/// What a guest that is aside is called.
const ASIDE: &str = "aside";
/// What the folder is called in which the files of one that comes arrive.
const INBOX: &str = "incoming";

impl Sim {
    fn aside(&self, id: ServerId) -> PathBuf {
        self.path(id).with_extension(ASIDE)
    }

    /// Is there when the guest was sent to another host.
    pub(super) fn sent(&self, id: ServerId) -> PathBuf {
        self.path(id).with_extension("sent")
    }

    /// It runs here again.
    pub(super) fn is_here(&self, id: ServerId) -> Result<()> {
        remove_file(&self.sent(id))
    }

    fn inbox_of(&self, id: ServerId) -> PathBuf {
        self.path(id).with_extension(INBOX)
    }

    pub(super) fn set_aside(&self, id: ServerId, root: u64) -> Result<()> {
        let mut guests = self.lock();
        let aside = self.aside(id);
        if aside.exists() {
            return Ok(());
        }
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        if root > 0 && root < root_gib(&guest.spec) {
            return Err(HypervisorError::DiskTooSmall);
        }
        let ran = guest.info().active;
        let off = Guest {
            power: PowerState::Shutdown,
            ..guest.clone()
        };
        self.store(&mut guests, off)?;
        rename(&self.path(id), &aside)?;
        guests.remove(&id);
        drop(guests);
        if ran {
            self.announce(id, GuestEventKind::Stopped);
        }
        Ok(())
    }

    pub(super) fn bring_back(&self, id: ServerId, power: Power) -> Result<GuestInfo> {
        let aside = self.aside(id);
        if aside.exists() {
            let mut guests = self.lock();
            let stored = read(&aside)?;
            rename(&aside, &self.path(id))?;
            guests.insert(id, stored);
            self.make_shared_disk(id)?;
            self.claim_disk(id)?;
        }
        match power {
            Power::On => self.switch_on(id),
            Power::Off => self.info(id),
        }
    }

    pub(super) fn forget(&self, id: ServerId) -> Result<()> {
        remove_file(&self.aside(id))
    }

    /// What is left of moves, whatever becomes of the guest.
    pub(super) fn forget_moves(&self, id: ServerId) -> Result<()> {
        self.forget(id)?;
        remove_file(&self.sent(id))?;
        remove_folder(&self.inbox_of(id))
    }

    pub(super) fn luggage(&self, id: ServerId) -> Result<Vec<PathBuf>> {
        let aside = self.aside(id);
        if aside.exists() {
            return Ok(vec![aside]);
        }
        Err(HypervisorError::NotFound(id))
    }

    pub(super) fn empty_inbox(&self, id: ServerId) -> Result<PathBuf> {
        let inbox = self.inbox_of(id);
        remove_folder(&inbox)?;
        std::fs::create_dir_all(&inbox)
            .map_err(|error| HypervisorError::disk(inbox.display(), &error))?;
        if self.is_full() {
            // What is written of the guest's file finds no space, as on a disk that fills up meanwhile.
            let file = inbox.join(format!("{id}.{ASIDE}"));
            std::os::unix::fs::symlink("/dev/full", &file)
                .map_err(|error| HypervisorError::disk(file.display(), &error))?;
        }
        Ok(inbox)
    }

    pub(super) fn unpack(
        &self,
        spec: &GuestSpec,
        luggage: Luggage,
        power: Power,
    ) -> Result<GuestInfo> {
        let id = spec.id;
        let inbox = self.inbox_of(id);
        if self.info(id).is_err() {
            let brought = match luggage {
                Luggage::Aside => self.aside(id),
                Luggage::Inbox => inbox.join(format!("{id}.{ASIDE}")),
            };
            let mut had = read(&brought)?;
            if luggage == Luggage::Inbox {
                had.tpm = had.tpm.moved();
            }
            let mut guests = self.lock();
            let root = root_gib(spec);
            if root > 0 && root < root_gib(&had.spec) {
                return Err(HypervisorError::DiskTooSmall);
            }
            self.check_room(&guests, spec)?;
            let landed = Guest {
                spec: Arc::new(spec.for_storage()),
                power: PowerState::Shutdown,
                tpm: self.resting(spec, had.tpm),
            };
            self.store(&mut guests, landed)?;
            self.make_shared_disk(id)?;
            self.claim_disk(id)?;
        }
        remove_folder(&inbox)?;
        match power {
            Power::On => self.switch_on(id),
            Power::Off => self.info(id),
        }
    }
}

fn read(path: &Path) -> Result<Guest> {
    let read = || -> std::io::Result<StoredGuest<GuestSpec>> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(std::io::Error::other)
    };
    let stored = read().map_err(|error| HypervisorError::disk(path.display(), &error))?;
    Ok(Guest {
        spec: Arc::new(stored.spec),
        power: stored.power,
        tpm: stored.tpm,
    })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| HypervisorError::disk(from.display(), &error))
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HypervisorError::disk(path.display(), &error))
        }
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HypervisorError::disk(path.display(), &error))
        }
        _ => Ok(()),
    }
}

impl Sim {
    /// The guests that are aside here; for audits.
    pub fn asides(&self) -> Vec<ServerId> {
        let left = self.left().into_iter().map(|(id, _)| id);
        left.collect()
    }

    pub(super) fn strays(&self, age: Duration) -> Result<Vec<ServerId>> {
        let guests = self.lock();
        let now = SystemTime::now();
        let old = |path: &Path| {
            let modified = std::fs::metadata(path).and_then(|file| file.modified());
            modified.is_ok_and(|at| now.duration_since(at).unwrap_or_default() >= age)
        };
        let left = self.left().into_iter();
        let strays = left.filter(|(id, path)| !guests.contains_key(id) && old(path));
        Ok(strays.map(|(id, _)| id).collect())
    }

    /// What moves have here.
    fn left(&self) -> Vec<(ServerId, PathBuf)> {
        let entries = std::fs::read_dir(&self.config.folder).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut left: Vec<(ServerId, PathBuf)> = paths
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                [Some(ASIDE), Some(INBOX)].contains(&extension)
            })
            .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
            .collect();
        left.sort();
        left
    }
}
