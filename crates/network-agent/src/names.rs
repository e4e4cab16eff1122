//! How the agent names what it makes, and how it knows its own again.
//!
//! Interfaces carry an alias (`ip link set X alias ...`), namespaces a suffix, nft tables the
//! cloud's id. Only what is marked so is ever removed.

use types::network_wanted::short_name;
use uuid::Uuid;

use crate::config::CloudId;

/// The port in router namespaces that metadata requests are redirected to.
pub const METADATA_PORT: u16 = 9697;

/// The bridge of a network.
#[must_use]
pub fn bridge(network: &Uuid) -> String {
    short_name("kbr", network)
}

/// The end of a network's tunnel on a host.
#[must_use]
pub fn tunnel(network: &Uuid) -> String {
    short_name("kvx", network)
}

/// The host's end of the DHCP server's cable.
#[must_use]
pub fn dhcp_veth(network: &Uuid) -> String {
    short_name("kdh", network)
}

/// The host's end of the cable of a router's port.
#[must_use]
pub fn router_veth(port: &Uuid) -> String {
    short_name("kqr", port)
}

/// The inner end of the cable of a port that a trunk carries, where the kernel has no VLANs.
#[must_use]
pub fn vlan_inner(port: &Uuid) -> String {
    short_name("kvl", port)
}

/// A router's interface in a tenant network, inside the namespace.
#[must_use]
pub fn router_interface(port: &Uuid) -> String {
    short_name("qr-", port)
}

/// A router's interface in the external network, inside the namespace.
#[must_use]
pub fn router_gateway(port: &Uuid) -> String {
    short_name("qg-", port)
}

/// The DHCP server's interface inside its namespace.
pub const DHCP_INTERFACE: &str = "eth0";

/// The namespace of a network's DHCP server.
#[must_use]
pub fn dhcp_space(cloud: &CloudId, network: &Uuid) -> String {
    format!("kdhcp-{network}-{}", cloud.as_str())
}

/// The namespace of a router.
#[must_use]
pub fn router_space(cloud: &CloudId, router: &Uuid) -> String {
    format!("krouter-{router}-{}", cloud.as_str())
}

/// Whether a namespace is one of this cloud's.
#[must_use]
pub fn is_own_space(cloud: &CloudId, name: &str) -> bool {
    let Some(rest) = name
        .strip_prefix("kdhcp-")
        .or_else(|| name.strip_prefix("krouter-"))
    else {
        return false;
    };
    let Some((id, suffix)) = rest.split_at_checked(36) else {
        return false;
    };
    id.parse::<Uuid>().is_ok() && suffix.strip_prefix('-') == Some(cloud.as_str())
}

/// The nft table of this cloud, in each family.
#[must_use]
pub fn table(cloud: &CloudId) -> String {
    format!("kilonova_{}", cloud.as_str())
}

/// The alias of an interface. A bridge's alias also holds the conntrack zone of its network, so
/// that a restarted agent goes on with the same zones and established connections stay known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// Cloud that owns the interface.
    pub cloud: String,
    /// Network or port it belongs to.
    pub object: Uuid,
    /// Conntrack zone, on bridges of tenant networks.
    pub zone: Option<u16>,
}

impl Alias {
    /// The alias of an object of this cloud.
    #[must_use]
    pub fn new(cloud: &CloudId, object: Uuid, zone: Option<u16>) -> Self {
        Self {
            cloud: cloud.as_str().to_owned(),
            object,
            zone,
        }
    }

    /// Reads an alias; none if the interface is not of Kilonova.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("kilonova/")?.split('/');
        let cloud = parts.next()?.to_owned();
        let object = parts.next()?.parse().ok()?;
        let zone = match parts.next() {
            None => None,
            Some(part) => Some(part.strip_prefix("zone-")?.parse().ok()?),
        };
        Some(Self {
            cloud,
            object,
            zone,
        })
    }
}

impl std::fmt::Display for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kilonova/{}/{}", self.cloud, self.object)?;
        self.zone.map_or(Ok(()), |zone| write!(f, "/zone-{zone}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn own_namespaces_are_known_and_others_are_not() {
        let cloud = CloudId::new("c1").unwrap();
        let id = Uuid::from_u128(7);
        assert!(is_own_space(&cloud, &dhcp_space(&cloud, &id)));
        assert!(is_own_space(&cloud, &router_space(&cloud, &id)));
        for other in [
            format!("kdhcp-{id}"),
            format!("kdhcp-{id}-c2"),
            format!("kdhcp-{id}-c1x"),
            format!("qdhcp-{id}-c1"),
            "kdhcp-x-c1".to_owned(),
        ] {
            assert!(!is_own_space(&cloud, &other), "{other}");
        }
    }

    #[test]
    fn aliases_read_back() {
        let cloud = CloudId::new("c1").unwrap();
        for zone in [None, Some(12)] {
            let alias = Alias::new(&cloud, Uuid::from_u128(9), zone);
            assert_eq!(Alias::parse(&alias.to_string()), Some(alias));
        }
        for bad in ["", "kilonova/c1", "kilonova/c1/x", "uplink"] {
            assert_eq!(Alias::parse(bad), None, "{bad}");
        }
    }
}
