//! Interfaces that come and go while a guest runs. What libvirt says of the domain is the truth about a running guest,
//! the stored specification about its next start.

use super::domain::interface_xml;
use super::{Libvirt, blocking, explain};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{GuestSpec, Vif};
use std::time::Duration;
use tokio::time::Instant;
use types::ServerId;

/// How long a guest gets to let go of an interface; it is asked again in between.
const LETTING_GO: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

impl Libvirt {
    pub(super) async fn plug_in(&self, id: ServerId, vif: &Vif) -> Result<GuestInfo> {
        let lock = self.exclusive(id).await;
        let before = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let guest = self.must_look(id).await?;
        let mut spec = before.clone();
        spec.vifs.retain(|one| one.port_id != vif.port_id);
        spec.vifs.push(vif.clone());
        let has = |now: &str| names(now, vif);
        if guest.active && !has(&self.describe(id).await?) {
            let device = xml(&before, vif)?;
            let plugged = self.plug_device(lock, (before, spec), device, has).await;
            return plugged.map(|()| guest);
        }
        self.write_spec(spec).await?;
        Ok(guest)
    }

    pub(super) async fn pull_out(&self, id: ServerId, port_id: &str) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let mut spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let guest = self.must_look(id).await?;
        let Some(place) = spec.vifs.iter().position(|vif| vif.port_id == port_id) else {
            return Ok(guest);
        };
        let vif = spec.vifs.remove(place);
        if guest.active {
            self.let_go(id, &vif, &xml(&spec, &vif)?).await?;
        }
        self.write_spec(spec).await?;
        Ok(guest)
    }

    async fn let_go(&self, id: ServerId, vif: &Vif, device: &str) -> Result<()> {
        let until = Instant::now() + LETTING_GO;
        let mut asked: Option<Instant> = None;
        while self.has(id, vif).await? {
            if Instant::now() >= until {
                return Err(HypervisorError::Guest(
                    "the guest does not let go of the interface; stop the server, and try again"
                        .into(),
                ));
            }
            if asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
                let again = asked.replace(Instant::now()).is_some();
                let unplugged = self.jobs.unplug(&self.reference(id), device).await;
                // A second request while the guest thinks about the first one may be refused.
                if !again {
                    unplugged.map_err(explain)?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Whether the running guest has the interface.
    async fn has(&self, id: ServerId, vif: &Vif) -> Result<bool> {
        Ok(names(&self.describe(id).await?, vif))
    }

    pub(super) async fn write_spec(&self, spec: GuestSpec) -> Result<()> {
        let files = self.instances.guest(spec.id);
        blocking(move || {
            files
                .write_spec(&spec)
                .map_err(|error| HypervisorError::disk(files.spec.display(), &error))
        })
        .await
    }
}

/// Whether a guest that is described so has the interface.
fn names(description: &str, vif: &Vif) -> bool {
    let by = |quote: char| format!("<target dev={quote}{}{quote}", vif.tap);
    description.contains(&by('\'')) || description.contains(&by('"'))
}

fn xml(spec: &GuestSpec, vif: &Vif) -> Result<String> {
    interface_xml(spec, vif).map_err(|error| HypervisorError::Rejected(error.to_string()))
}
