//! What is on the machine now, read from `ip -j` output. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use types::network_wanted::Mac;

use crate::names::Alias;

/// The machine as the planner sees it.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All interfaces of the host.
    pub links: BTreeMap<String, SeenLink>,
    /// Where the tunnels of the host send unknown and broadcast frames, by interface.
    pub floods: BTreeMap<String, BTreeSet<IpAddr>>,
    /// This cloud's namespaces; `None`: there, but not looked into.
    pub spaces: BTreeMap<String, Option<SeenSpace>>,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenLink {
    /// `bridge`, `tun`, `veth`...; empty for devices.
    pub kind: String,
    /// Segment and own end of a tunnel.
    pub tunnel: Option<(u32, IpAddr)>,
    /// The interface that a VLAN is a part of, and its number.
    pub vlan: Option<(String, u16)>,
    /// The other end of a cable, if it is in the same namespace.
    pub peer: Option<String>,
    /// Its number in the kernel.
    pub index: u32,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// MAC address, if it has one.
    pub mac: Option<Mac>,
    /// Bridge it is plugged into.
    pub master: Option<String>,
    /// Administratively up.
    pub up: bool,
    /// Its alias, if that is one of Kilonova's.
    pub alias: Option<Alias>,
    /// Addresses, without IPv6 link-local ones.
    pub addresses: BTreeSet<IpNet>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenSpace {
    /// Interfaces besides `lo`.
    pub links: BTreeMap<String, SeenLink>,
    /// Whether `lo` is up.
    pub loopback_up: bool,
    /// Routes that were added, not brought by addresses.
    pub routes: BTreeSet<(IpNet, IpAddr)>,
}

/// Output of `ip` that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the output of ip -j: {0}")]
pub struct BadOutput(#[from] serde_json::Error);

#[derive(Deserialize)]
struct RawLink {
    ifname: String,
    #[serde(default)]
    ifindex: u32,
    #[serde(default)]
    flags: Vec<String>,
    mtu: u32,
    link: Option<String>,
    master: Option<String>,
    ifalias: Option<String>,
    address: Option<String>,
    linkinfo: Option<RawInfo>,
    #[serde(default)]
    addr_info: Vec<RawAddress>,
}

#[derive(Deserialize)]
struct RawInfo {
    info_kind: Option<String>,
    info_data: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawNeighbour {
    mac: Option<String>,
    ifname: Option<String>,
    dst: Option<IpAddr>,
}

#[derive(Deserialize)]
struct RawAddress {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
}

#[derive(Deserialize)]
struct RawRoute {
    dst: Option<String>,
    gateway: Option<IpAddr>,
    protocol: Option<String>,
}

/// `ip` prints nothing at all where there is nothing to list, and `[{},...]` for filtered entries.
fn parse_list<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<Vec<T>, BadOutput> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<serde_json::Value> = serde_json::from_slice(json)?;
    let entries = values
        .into_iter()
        .filter(|value| value.as_object().is_none_or(|o| !o.is_empty()));
    entries
        .map(|value| Ok(serde_json::from_value(value)?))
        .collect()
}

/// Reads `ip -j -d addr show`.
///
/// # Errors
/// When the text is not what `ip` prints.
pub fn links(json: &[u8]) -> Result<BTreeMap<String, SeenLink>, BadOutput> {
    let raw: Vec<RawLink> = parse_list(json)?;
    Ok(raw
        .into_iter()
        .map(|link| (link.ifname.clone(), seen(link)))
        .collect())
}

fn seen(raw: RawLink) -> SeenLink {
    let addresses = raw
        .addr_info
        .iter()
        .filter_map(|a| IpNet::new(a.local?, a.prefixlen?).ok())
        .filter(|net| !matches!(net, IpNet::V6(v6) if v6.addr().is_unicast_link_local()))
        .collect();
    let tunnel = raw.linkinfo.as_ref().and_then(|info| {
        let data = info.info_data.as_ref()?;
        let vni = u32::try_from(data["id"].as_u64()?).ok()?;
        let local = data["local"].as_str().or(data["local6"].as_str())?;
        Some((vni, local.parse().ok()?))
    });
    let vlan = raw.linkinfo.as_ref().and_then(|info| {
        let data = info.info_data.as_ref()?;
        let is_vlan = info.info_kind.as_deref() == Some("vlan");
        let id = u16::try_from(data["id"].as_u64()?).ok()?;
        raw.link.clone().filter(|_| is_vlan).zip(Some(id))
    });
    let kind = raw
        .linkinfo
        .and_then(|info| info.info_kind)
        .unwrap_or_default();
    SeenLink {
        tunnel,
        vlan,
        peer: raw.link.filter(|_| kind == "veth"),
        index: raw.ifindex,
        kind,
        mtu: raw.mtu,
        mac: raw.address.and_then(|mac| mac.parse().ok()),
        master: raw.master,
        up: raw.flags.iter().any(|flag| flag == "UP"),
        alias: raw.ifalias.as_deref().and_then(Alias::parse),
        addresses,
    }
}

/// Reads `bridge -j fdb show`: where frames without a known receiver go.
///
/// # Errors
/// When the text is not what `bridge` prints.
pub fn floods(json: &[u8]) -> Result<BTreeMap<String, BTreeSet<IpAddr>>, BadOutput> {
    let mut all: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for entry in parse_list::<RawNeighbour>(json)? {
        if entry.mac.as_deref() != Some("00:00:00:00:00:00") {
            continue;
        }
        if let (Some(link), Some(dst)) = (entry.ifname, entry.dst) {
            all.entry(link).or_default().insert(dst);
        }
    }
    Ok(all)
}

/// Reads `ip -j -d addr show` and `ip -j route show` (both families) of a namespace.
///
/// # Errors
/// When a text is not what `ip` prints.
pub fn space(addr_json: &[u8], route_json: [&[u8]; 2]) -> Result<SeenSpace, BadOutput> {
    let mut links = links(addr_json)?;
    let loopback_up = links.remove("lo").is_some_and(|lo| lo.up);
    let mut routes = BTreeSet::new();
    for (json, default) in route_json.into_iter().zip(["0.0.0.0/0", "::/0"]) {
        let raw: Vec<RawRoute> = parse_list(json)?;
        for route in raw
            .into_iter()
            .filter(|r| r.protocol.as_deref() == Some("static"))
        {
            let dst = route.dst.unwrap_or_default();
            let dst = if dst == "default" { default } else { &dst };
            let net = dst
                .parse::<IpNet>()
                .ok()
                .or_else(|| dst.parse::<IpAddr>().ok().map(IpNet::from));
            routes.extend(net.zip(route.gateway));
        }
    }
    Ok(SeenSpace {
        links,
        loopback_up,
        routes,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn interfaces_with_and_without_alias() {
        let json = br#"[{},{"ifindex":2,"ifname":"kbr1","flags":["BROADCAST","UP"],"mtu":1450,"address":"0a:00:00:00:00:01",
            "ifalias":"kilonova/c1/00000000-0000-0000-0000-000000000007/zone-3","linkinfo":{"info_kind":"bridge"},
            "addr_info":[{"family":"inet","local":"203.0.113.1","prefixlen":24},{"family":"inet6","local":"fe80::1","prefixlen":64}]},
            {"ifindex":4,"link":"tapa","ifname":"tapb","flags":["UP"],"mtu":1450,"address":"02:00:00:00:00:02",
            "linkinfo":{"info_kind":"vlan","info_data":{"protocol":"802.1Q","id":42,"flags":["REORDER_HDR"]}},"addr_info":[]},
            {"ifindex":5,"link":"kvlc","ifname":"tapc","flags":[],"mtu":1450,"linkinfo":{"info_kind":"veth"},"addr_info":[]},
            {"ifindex":6,"link_index":2,"link_netnsid":1,"ifname":"kdha","flags":[],"mtu":1450,"linkinfo":{"info_kind":"veth"},"addr_info":[]},
            {"ifindex":3,"ifname":"eth0","flags":[],"mtu":1500,"address":"02:00:00:00:00:01","addr_info":[]}]"#;
        let links = links(json).unwrap();
        let bridge = &links["kbr1"];
        assert_eq!(
            (bridge.kind.as_str(), bridge.mtu, bridge.up),
            ("bridge", 1450, true)
        );
        assert_eq!(bridge.alias.as_ref().unwrap().zone, Some(3));
        assert_eq!(
            bridge.addresses,
            BTreeSet::from(["203.0.113.1/24".parse().unwrap()])
        );
        assert_eq!(links["tapb"].vlan, Some(("tapa".to_owned(), 42)));
        assert_eq!(
            (links["tapb"].peer.as_deref(), links["tapb"].index),
            (None, 4)
        );
        assert_eq!(links["tapc"].peer.as_deref(), Some("kvlc"));
        assert_eq!(links["kdha"].peer, None);
        assert_eq!((links["eth0"].kind.as_str(), links["eth0"].up), ("", false));
    }

    #[test]
    fn only_added_routes_count() {
        let v4 = br#"[{"dst":"default","gateway":"10.0.0.1","protocol":"static"},{"dst":"10.9.9.9","gateway":"10.0.0.2","protocol":"static"},
            {"dst":"10.0.0.0/24","dev":"eth0","protocol":"kernel"}]"#;
        let space = space(
            br#"[{"ifname":"lo","flags":["LOOPBACK","UP"],"mtu":65536}]"#,
            [v4, b""],
        )
        .unwrap();
        assert!(space.loopback_up && space.links.is_empty());
        let expected = [("0.0.0.0/0", "10.0.0.1"), ("10.9.9.9/32", "10.0.0.2")];
        let expected = expected.map(|(net, via)| (net.parse().unwrap(), via.parse().unwrap()));
        assert_eq!(space.routes, BTreeSet::from(expected));
    }
}
