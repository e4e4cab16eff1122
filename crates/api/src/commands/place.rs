//! Whether the zone and host asked for exist.

use super::create_server::CreateServer;
use crate::Config;
use crate::faults::Fault;

impl CreateServer {
    /// Refuses zones and hosts that are not there.
    pub fn check_place(&self, tx: &mut sql::Tx<'_>, config: &Config) -> Result<(), Fault> {
        if self.zone.is_none() && self.host.is_none() {
            return Ok(());
        }
        let nodes = db::hosts::nodes(tx)?;
        let node = self.host.as_ref().map(|host| {
            let found = nodes
                .iter()
                .find(|node| node.host.as_str() == host || node.hypervisor_hostname == *host);
            found.ok_or_else(|| {
                Fault::bad_request(format!("Compute host {host} could not be found."))
            })
        });
        node.transpose()?;
        let Some(zone) = &self.zone else {
            return Ok(());
        };
        let zones = db::aggregates::zones(tx)?;
        let zone_of = |host: &str| zones.get(host).unwrap_or(&config.default_zone).clone();
        let known = nodes
            .iter()
            .any(|node| zone_of(node.host.as_str()) == *zone)
            || *zone == config.default_zone;
        if known {
            Ok(())
        } else {
            Err(Fault::bad_request(
                "The requested availability zone is not available",
            ))
        }
    }
}
