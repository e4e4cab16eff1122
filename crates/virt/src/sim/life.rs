//! What simulated guests do between on and off.

use super::{Sim, Verb};
use crate::disks::Disk;
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Result};
use crate::libvirt::qcow2;
use crate::spec::{GuestSpec, Vif};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use types::agent::Quiesce;
use types::{PowerState, ServerId};

impl Sim {
    /// The guest, if a process holds it.
    pub(super) fn active(&self, id: ServerId) -> Result<GuestInfo> {
        let info = self.info(id)?;
        if info.active {
            return Ok(info);
        }
        Err(HypervisorError::Guest("the guest is not running".into()))
    }

    pub(super) fn stand_still(&self, id: ServerId) -> Result<GuestInfo> {
        self.active(id)?;
        self.change_power(id, PowerState::Paused, GuestEventKind::Paused)?;
        self.info(id)
    }

    pub(super) fn go_on(&self, id: ServerId) -> Result<GuestInfo> {
        self.active(id)?;
        if self.is_torn(id) {
            return Err(HypervisorError::PostCopyBroke);
        }
        self.change_power(id, PowerState::Running, GuestEventKind::Resumed)?;
        self.info(id)
    }

    /// A guest that is off with its memory saved is kept as suspended.
    pub(super) fn save(&self, id: ServerId) -> Result<GuestInfo> {
        if self.kept_power(id)? != PowerState::Suspended {
            self.active(id)?;
            self.change_power(id, PowerState::Suspended, GuestEventKind::Suspended)?;
        }
        self.info(id)
    }

    pub(super) fn leave_rescue(&self, id: ServerId) -> Result<GuestInfo> {
        let kept = {
            let guests = self.lock();
            let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
            guest.spec.clone()
        };
        if kept.rescue.is_none() {
            return self.switch_on(id);
        }
        self.recreate(&GuestSpec {
            rescue: None,
            ..(*kept).clone()
        })
    }

    /// A real image file of the disk's size, without any data.
    pub(super) fn copy_disk(&self, id: ServerId, name: &str) -> Result<PathBuf> {
        self.info(id)?;
        let gib = {
            let guests = self.lock();
            guests.get(&id).map_or(1, super::Guest::disk_gib)
        };
        let path = self
            .config
            .folder
            .join(format!("{name}.{}", super::SNAPSHOT));
        qcow2::create(&path, gib.max(1) << 30, None)
            .map_err(|error| HypervisorError::disk(path.display(), &error))?;
        Ok(path)
    }

    /// Nothing but whether it can be done.
    pub(super) async fn quiet(&self, id: ServerId, quiesce: Quiesce) -> Result<bool> {
        if quiesce == Quiesce::No || !self.info(id)?.active {
            return Ok(false);
        }
        let has_agent = {
            let guests = self.lock();
            let guest = guests.get(&id);
            guest.is_some_and(|guest| guest.spec.hardware.guest_agent == Some(true))
        };
        let quiet = match self.enter(Verb::Freeze, id).await {
            Ok(()) if !has_agent => Err(HypervisorError::NoAgent),
            other => other,
        };
        match (quiet, quiesce) {
            (Ok(()), _) => Ok(true),
            (Err(error), Quiesce::Must) => Err(error),
            (Err(_), _) => Ok(false),
        }
    }

    /// Remembers that the guest stands still; it goes on by itself after a time.
    pub(super) async fn hold_still(
        &self,
        id: ServerId,
        quiesce: Quiesce,
        most: Duration,
    ) -> Result<()> {
        if self.quiet(id, quiesce).await? {
            self.still().insert(id, Instant::now() + most);
        }
        Ok(())
    }

    /// Whether the guest's file systems stand still.
    pub fn stands_still(&self, id: ServerId) -> bool {
        let until = self.still().get(&id).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn still(&self) -> MutexGuard<'_, HashMap<ServerId, Instant>> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every simulated guest has an agent, unless its image says that it has none.
    pub(super) fn take_password(
        &self,
        id: ServerId,
        user: &str,
        password: &str,
    ) -> Result<GuestInfo> {
        let info = self.active(id)?;
        let without = {
            let guests = self.lock();
            let spec = guests.get(&id).map(|guest| Arc::clone(&guest.spec));
            spec.is_some_and(|spec| spec.hardware.guest_agent == Some(false))
        };
        if without {
            return Err(HypervisorError::NoAgent);
        }
        self.controls.note_password(id, user, password);
        Ok(info)
    }

    /// The guest has the interface given, or none of this port.
    pub(super) fn change_vifs(
        &self,
        id: ServerId,
        port_id: &str,
        wanted: Option<&Vif>,
    ) -> Result<GuestInfo> {
        let mut guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        let mut spec = (*guest.spec).clone();
        spec.vifs.retain(|vif| vif.port_id != port_id);
        spec.vifs.extend(wanted.cloned());
        let changed = super::Guest {
            spec: Arc::new(spec),
            ..guest.clone()
        };
        self.store(&mut guests, changed)
    }

    /// Changes the guest's disks, running or not.
    pub(super) fn change_disks(
        &self,
        id: ServerId,
        how: impl FnOnce(&mut Vec<Disk>) -> Result<()>,
    ) -> Result<GuestInfo> {
        let mut guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        let mut spec = (*guest.spec).clone();
        how(&mut spec.disks)?;
        let changed = super::Guest {
            spec: Arc::new(spec),
            ..guest.clone()
        };
        self.store(&mut guests, changed)
    }

    fn kept_power(&self, id: ServerId) -> Result<PowerState> {
        let guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        Ok(guest.power)
    }
}
