//! What simulated guests do between on and off.

use super::Sim;
use crate::facts::{GuestEventKind, GuestInfo};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use types::{PowerState, ServerId};

impl Sim {
    /// The guest, if a process holds it.
    pub(super) fn active(&self, id: ServerId) -> Result<GuestInfo> {
        let info = self.info(id)?;
        if info.active {
            return Ok(info);
        }
        Err(HypervisorError::Rejected(
            "the domain is not running".into(),
        ))
    }

    pub(super) fn stand_still(&self, id: ServerId) -> Result<GuestInfo> {
        self.active(id)?;
        self.change_power(id, PowerState::Paused, GuestEventKind::Paused)?;
        self.info(id)
    }

    pub(super) fn go_on(&self, id: ServerId) -> Result<GuestInfo> {
        self.active(id)?;
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

    fn kept_power(&self, id: ServerId) -> Result<PowerState> {
        let guests = self.lock();
        let guest = guests.get(&id).ok_or(HypervisorError::NotFound(id))?;
        Ok(guest.power)
    }
}
