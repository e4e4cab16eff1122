//! Interfaces that come and go while a guest runs. What libvirt says of the domain is the truth about a running guest,
//! the stored specification about its next start.

use super::domain::interface_xml;
use super::{Libvirt, blocking};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{GuestSpec, Vif};
use types::ServerId;

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
            let device = xml(&spec, &vif)?;
            let left = |now: &str| names(now, &vif).then(|| device.clone());
            self.until_let_go(id, "interface", left).await?;
        }
        self.write_spec(spec).await?;
        Ok(guest)
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
