//! Guests that boot from another image, for a while or from now on, and those of which nobody knows any more what they were.

use super::{Agent, Failure, failure, power, wanted_power, with_its_drive};
use types::agent::{FailureKind, GuestPlan};
use types::{PowerState, ServerId};
use virt::{GuestSpec, Power, RescueDisk, StableRescue};

impl Agent {
    pub(super) async fn ensure_rescued(
        &self,
        id: ServerId,
        plan: &GuestPlan,
        grace_seconds: u64,
    ) -> Result<PowerState, Failure> {
        let bad = |error: virt::spec::BadProperty| (FailureKind::Request, error.to_string());
        let stable = StableRescue::from_properties(&plan.hardware).map_err(bad)?;
        // The guest keeps the disks it has. With them in the plan one that boots from a volume would get that for its
        // rescue disk.
        let of_image = GuestPlan {
            disks: Vec::new(),
            ..plan.clone()
        };
        let from_image = self.spec(id, &of_image).await?;
        let mut spec = self.stored(id).await?;
        if spec.rescue.is_none() {
            self.ensure_stopped(id, grace_seconds).await?;
        }
        spec.rescue = Some(RescueDisk {
            root: from_image.root,
            stable,
        });
        if spec.config_drive.is_some() {
            spec.config_drive = from_image.config_drive.or(spec.config_drive);
        }
        self.hypervisor
            .rescue(&spec)
            .await
            .map(power)
            .map_err(failure)
    }

    /// As its host remembers the guest. One that does not know it any more, or cannot read that, takes the plan, on the disks
    /// that are there: none is made anew.
    pub(super) async fn reboot_hard(
        &self,
        id: ServerId,
        plan: &GuestPlan,
    ) -> Result<PowerState, Failure> {
        let stored = self.hypervisor.stored_spec(id).await;
        if !matches!(stored, Ok(Some(_))) {
            let error = stored.err().map(|error| error.to_string());
            tracing::warn!(server = %id, error, "what the guest was is not known here any more; it is made as it is on record");
            if self.hypervisor.aside_files(id).await.is_ok() {
                // What is aside must not be taken for its disks.
                let words = "what the guest was is not known here any more, and a move of it is not settled: revert that first";
                return Err((FailureKind::Host, words.to_owned()));
            }
            let spec = self.spec_of_present(id, &with_its_drive(plan)).await?;
            let here = &self.settings.host;
            let known = self.hypervisor.adopt(&spec, Power::Off, here, true).await;
            known.map_err(failure)?;
        }
        self.reboot(id, true, 0).await
    }

    /// Its image is here already: when that cannot be had, what was there is untouched. A guest that is gone needs not go down.
    pub(super) async fn rebuild(
        &self,
        spec: &GuestSpec,
        on: bool,
        grace_seconds: u64,
    ) -> Result<PowerState, Failure> {
        let id = spec.id;
        let guest = self.hypervisor.guest(id).await.map_err(failure)?;
        if guest.is_some_and(|guest| guest.power == PowerState::Running) {
            self.ensure_stopped(id, grace_seconds).await?;
        }
        self.hypervisor.ensure_absent(id).await.map_err(failure)?;
        self.hypervisor
            .ensure_guest(spec, wanted_power(on))
            .await
            .map(power)
            .map_err(failure)
    }
}
