//! What guests do between on and off: pause, suspend to disk, rescue, interrupts.

use super::calls::error_code;
use super::folder::GuestFolder;
use super::rpc::RpcError;
use super::{Libvirt, blocking, explain, make_disk, make_drive};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{GuestSpec, Power};
use std::sync::PoisonError;
use types::{PowerState, ServerId};

impl Libvirt {
    /// The guest, if a process holds it.
    async fn must_be_active(&self, id: ServerId) -> Result<GuestInfo> {
        let guest = self.must_look(id).await?;
        if guest.active {
            return Ok(guest);
        }
        Err(HypervisorError::Guest("the guest is not running".into()))
    }

    pub(super) async fn stand_still(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        if self.must_be_active(id).await?.power != PowerState::Paused {
            self.jobs
                .pause(&self.reference(id))
                .await
                .map_err(explain)?;
        }
        self.must_look(id).await
    }

    pub(super) async fn go_on(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        if self.must_be_active(id).await?.power == PowerState::Paused {
            self.must_be_whole(id).await?;
            self.jobs
                .unpause(&self.reference(id))
                .await
                .map_err(explain)?;
        }
        self.must_look(id).await
    }

    /// As in Nova, an image must say that it has the agent.
    pub(super) async fn tell_agent_password(
        &self,
        id: ServerId,
        user: &str,
        password: &str,
    ) -> Result<GuestInfo> {
        let guest = self.must_be_active(id).await?;
        let spec = crate::Hypervisor::stored_spec(self, id).await?;
        if spec.is_none_or(|spec| spec.hardware.guest_agent != Some(true)) {
            return Err(HypervisorError::NoAgent);
        }
        let domain = self.reference(id);
        match self.agents.set_user_password(&domain, user, password).await {
            Ok(()) => Ok(guest),
            Err(RpcError::Refused {
                code: error_code::AGENT_UNRESPONSIVE,
                message,
                ..
            }) => Err(HypervisorError::AgentSilent(message)),
            Err(error) => Err(explain(error)),
        }
    }

    /// The file is the truth: libvirt removes one that it could not finish.
    pub(super) async fn save_memory(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let memory = self.instances.guest(id).memory;
        let guest = self.must_look(id).await?;
        if !guest.active && memory.exists() {
            return Ok(guest);
        }
        self.must_be_active(id).await?;
        let path = memory.to_string_lossy();
        match self.memory.save(&self.reference(id), &path).await {
            Ok(()) => {}
            // Off already: the repeat of a call whose answer was lost.
            Err(RpcError::Refused {
                code: error_code::OPERATION_INVALID,
                ..
            }) if memory.exists() => {}
            Err(error) => return Err(explain(error)),
        }
        self.must_look(id).await
    }

    pub(super) async fn restore_memory(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        let forget = || {
            files
                .forget_memory()
                .map_err(|error| HypervisorError::disk(files.memory.display(), &error))
        };
        if let Some(guest) = self.look(id).await?.filter(|guest| guest.active) {
            forget()?;
            return Ok(guest);
        }
        if !files.memory.exists() {
            return self.start_stored(id).await;
        }
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        self.check_disk(&spec)?;
        // Defined before, so that it lasts when it is switched off; what the file says of it counts until then.
        self.define(&spec, Power::Off).await?;
        self.taps_are_there(&spec).await?;
        let path = files.memory.to_string_lossy();
        self.unlock(&spec).await?;
        let restored = self.memory.restore(&path).await;
        self.lock_again(&spec).await;
        match restored {
            Ok(()) => {}
            Err(error) => {
                let running = self.look(id).await?.is_some_and(|guest| guest.active);
                if !running {
                    return Err(explain(error));
                }
            }
        }
        forget()?;
        self.must_look(id).await
    }

    /// A stored specification with a rescue disk was written after the guest was off: what runs then is rescued.
    pub(super) async fn enter_rescue(&self, spec: &GuestSpec) -> Result<GuestInfo> {
        let _lock = self.exclusive(spec.id).await;
        let rescue = spec.rescue.as_ref().ok_or_else(|| {
            HypervisorError::Rejected("there is no disk to rescue the guest with".into())
        })?;
        self.check_disk(spec)?;
        let stored = self.read_spec(spec.id)?;
        let guest = self.look(spec.id).await?.filter(|guest| guest.active);
        if let (Some(guest), true) = (guest, stored.is_some_and(|stored| stored.rescue.is_some())) {
            return Ok(guest);
        }
        self.off(spec.id).await?;
        let files = self.instances.guest(spec.id);
        let base_name = self.backing_name(&rescue.root)?;
        let (root, wanted) = (rescue.root.clone(), spec.clone());
        blocking(move || {
            make_disk(&files.rescue, &root, base_name.as_deref())?;
            if let Some(drive) = wanted
                .config_drive
                .as_ref()
                .filter(|drive| !drive.is_empty())
            {
                make_drive(&files.rescue_drive, drive)?;
            }
            files
                .write_spec(&wanted)
                .map_err(|error| HypervisorError::disk(files.spec.display(), &error))
        })
        .await?;
        self.define(spec, Power::On).await
    }

    pub(super) async fn leave_rescue(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let stored = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if stored.rescue.is_some() {
            self.off(id).await?;
            let files = self.instances.guest(id);
            let own = GuestSpec {
                rescue: None,
                ..stored
            };
            blocking(move || {
                files
                    .write_spec(&own)
                    .and_then(|()| files.forget_rescue())
                    .map_err(|error| HypervisorError::disk(files.folder.display(), &error))
            })
            .await?;
        } else if let Some(guest) = self.look(id).await?.filter(|guest| guest.active) {
            return Ok(guest);
        }
        self.start_stored(id).await
    }

    /// Switched off, if it is there.
    pub(super) async fn off(&self, id: ServerId) -> Result<()> {
        match self.destroy(id).await {
            Err(HypervisorError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Undefines the guest and removes of its files what `remove` does.
    pub(super) async fn forget_guest(
        &self,
        id: ServerId,
        remove: fn(&GuestFolder) -> std::io::Result<()>,
    ) -> Result<()> {
        let _lock = self.exclusive(id).await;
        self.off(id).await?;
        self.undefine(id).await?;
        self.forget_tpm(id).await?;
        let files = self.instances.guest(id);
        blocking(move || {
            remove(&files).map_err(|error| HypervisorError::disk(files.folder.display(), &error))
        })
        .await?;
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        Ok(())
    }

    pub(super) async fn send_interrupt(&self, id: ServerId) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let guest = self.must_be_active(id).await?;
        self.jobs
            .interrupt(&self.reference(id))
            .await
            .map_err(explain)?;
        Ok(guest)
    }
}
