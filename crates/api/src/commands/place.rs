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
        known_zone(tx, config, zone)
    }
}

/// Refuses a zone that no host is in.
pub fn known_zone(tx: &mut sql::Tx<'_>, config: &Config, zone: &str) -> Result<(), Fault> {
    if *zone == config.default_zone {
        return Ok(());
    }
    for node in db::hosts::nodes(tx)? {
        if zone_of(tx, config, node.host.as_str())? == zone {
            return Ok(());
        }
    }
    Err(Fault::bad_request(
        "The requested availability zone is not available",
    ))
}

/// The zone of a host.
pub fn zone_of(tx: &mut sql::Tx<'_>, config: &Config, host: &str) -> Result<String, Fault> {
    let zones = db::aggregates::zones(tx)?;
    Ok(zones.get(host).unwrap_or(&config.default_zone).clone())
}

/// Refuses a host that is not there.
pub fn known_host(tx: &mut sql::Tx<'_>, host: &str) -> Result<(), Fault> {
    let nodes = db::hosts::nodes(tx)?;
    if nodes.iter().any(|node| node.host.as_str() == host) {
        return Ok(());
    }
    Err(Fault::bad_request(format!(
        "Compute host {host} could not be found."
    )))
}
