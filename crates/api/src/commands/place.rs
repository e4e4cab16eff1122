//! Whether the zone and host asked for exist.

use super::create_server::CreateServer;
use crate::Config;
use crate::faults::Fault;

impl CreateServer {
    /// Refuses zones and hosts that are not there.
    pub fn check_place(&self, tx: &mut sql::Tx<'_>, config: &Config) -> Result<(), Fault> {
        self.check_node(tx)?;
        let Some(zone) = &self.zone else {
            return Ok(());
        };
        match self.destination() {
            // Whoever names the host may name one that takes nothing new.
            Some(_) => zone_with_hosts(tx, config, zone),
            None => available_zone(tx, config, zone),
        }
    }

    /// The host or hypervisor by which the scheduler finds the place.
    pub fn destination(&self) -> Option<&str> {
        self.host.as_deref().or(self.node.as_deref())
    }

    fn check_node(&self, tx: &mut sql::Tx<'_>) -> Result<(), Fault> {
        let Some(name) = self.destination() else {
            return Ok(());
        };
        let nodes = db::hosts::nodes(tx)?;
        let found = nodes
            .iter()
            .find(|node| node.host.as_str() == name || node.hypervisor_hostname == name);
        let missing = format!("Compute host {name} could not be found.");
        let found = found.ok_or_else(|| Fault::bad_request(&missing))?;
        match &self.node {
            Some(node) if found.hypervisor_hostname != *node && self.host.is_some() => {
                let there = &found.hypervisor_hostname;
                Err(Fault::bad_request(format!(
                    "{missing} Its hypervisor is {there}, not {node}."
                )))
            }
            _ => Ok(()),
        }
    }
}

fn not_available() -> Fault {
    Fault::bad_request("The requested availability zone is not available")
}

/// Refuses a zone in which no host is enabled, as Nova does.
pub fn available_zone(tx: &mut sql::Tx<'_>, config: &Config, zone: &str) -> Result<(), Fault> {
    let zones = db::aggregates::zones(tx)?;
    let default = &config.scheduling.default_zone;
    let available = db::hosts::services(tx)?.into_iter().any(|service| {
        let enabled = service.binary == "nova-compute" && !service.disabled;
        enabled && zones.get(service.host.as_str()).unwrap_or(default) == zone
    });
    available.then_some(()).ok_or_else(not_available)
}

/// Refuses a zone that no host is in.
fn zone_with_hosts(tx: &mut sql::Tx<'_>, config: &Config, zone: &str) -> Result<(), Fault> {
    let zones = db::aggregates::zones(tx)?;
    let default = &config.scheduling.default_zone;
    let has_hosts = zone == default
        || db::hosts::nodes(tx)?
            .into_iter()
            .any(|node| zones.get(node.host.as_str()).unwrap_or(default) == zone);
    has_hosts.then_some(()).ok_or_else(not_available)
}

/// The zone of a host.
pub fn zone_of(tx: &mut sql::Tx<'_>, config: &Config, host: &str) -> Result<String, Fault> {
    let zones = db::aggregates::zones(tx)?;
    Ok(zones
        .get(host)
        .unwrap_or(&config.scheduling.default_zone)
        .clone())
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
