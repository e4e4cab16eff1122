//! From the wanted state to the objects that realise it: interfaces of the host and namespaces
//! with their interfaces, addresses, routes, rules and servers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use types::network_wanted::{HostWanted, Mac, Network, Port, Router, tap_name};
use uuid::Uuid;

use crate::config::{Config, Vlans};
use crate::dnsmasq::{self, Dnsmasq};
use crate::names;
use crate::nft::Ruleset;
use crate::router;

/// The address guests ask for metadata.
pub const METADATA_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// All objects of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Interfaces of the host by name.
    pub links: BTreeMap<String, Link>,
    /// Network namespaces by name.
    pub spaces: BTreeMap<String, Space>,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Bridge it is plugged into.
    pub master: Option<String>,
    /// Up or down.
    pub up: bool,
    /// Network (bridges) or port it belongs to; part of its alias.
    pub object: Uuid,
    /// Addresses of the host (bridges of external networks).
    pub addresses: BTreeSet<IpNet>,
}

/// Kinds of interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge with a fixed MAC address; the bridge of a tenant network has a conntrack zone.
    Bridge {
        /// Address of the bridge itself.
        mac: Mac,
        /// Whether connections of this network are tracked apart from all others.
        zoned: bool,
    },
    /// A guest's tap.
    Tap,
    /// A VLAN of a guest's tap: a port that a trunk carries.
    Vlan {
        /// The tap.
        parent: String,
        /// The VLAN's number.
        id: u16,
    },
    /// The same by a cable, where the kernel has no VLANs ([`crate::vlans`]).
    VlanCable {
        /// The tap.
        parent: String,
        /// The VLAN's number.
        id: u16,
        /// The end that is in no bridge.
        inner: String,
    },
    /// The end of a network's tunnel to other hosts (VXLAN). Which guest is where it learns from what they send.
    Vxlan {
        /// The segment.
        vni: u32,
        /// Where it ends on this host.
        local: IpAddr,
        /// The other ends, to which unknown and broadcast frames go.
        peers: BTreeSet<IpAddr>,
    },
    /// A cable into a namespace.
    Veth {
        /// Namespace of the other end.
        space: String,
        /// Name of the other end.
        peer: String,
    },
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Network or router it belongs to.
    pub object: Uuid,
    /// Its interfaces by name; the other ends are [`Desired::links`].
    pub links: BTreeMap<String, Inner>,
    /// Routes besides those that addresses bring.
    pub routes: BTreeSet<(IpNet, IpAddr)>,
    /// Files below `/proc/sys/net` and their contents.
    pub sysctls: Vec<(String, String)>,
    /// Packet rules.
    pub ruleset: Ruleset,
    /// DHCP and DNS server, or what speaks to the guests of IPv6 subnets for a router.
    pub dnsmasq: Option<Dnsmasq>,
    /// Where the metadata proxy listens.
    pub metadata: Option<SocketAddr>,
    /// Networks whose guests may ask for metadata here.
    pub networks: BTreeSet<Uuid>,
}

/// An interface in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Name of its other end on the host.
    pub outer: String,
    /// MAC address.
    pub mac: Mac,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Addresses.
    pub addresses: BTreeSet<IpNet>,
    /// Port it realises.
    pub port: Uuid,
}

/// Works out the objects of a host.
#[must_use]
pub fn desired(config: &Config, wanted: &HostWanted) -> Desired {
    let mut all = Desired::default();
    let networks: BTreeMap<Uuid, &Network> = wanted.networks.iter().map(|n| (n.id, n)).collect();
    for network in &wanted.networks {
        all.links
            .insert(names::bridge(&network.id), bridge(network));
        add_tunnel(config, network, &mut all);
        add_dhcp(config, network, &mut all);
    }
    for port in &wanted.ports {
        let Some(network) = networks.get(&port.network_id) else {
            continue;
        };
        let link = Link {
            kind: port_kind(config, port),
            mtu: network.mtu,
            master: Some(names::bridge(&network.id)),
            up: port.admin_state_up,
            object: port.id,
            addresses: BTreeSet::new(),
        };
        all.links.insert(tap_name(&port.id), link);
    }
    for router in &wanted.routers {
        add_router(config, router, &networks, &mut all);
    }
    all
}

fn port_kind(config: &Config, port: &Port) -> LinkKind {
    let Some(under) = &port.trunk else {
        return LinkKind::Tap;
    };
    let (parent, id) = (tap_name(&under.parent), under.vlan);
    match config.vlans {
        Some(Vlans::Programs) => LinkKind::VlanCable {
            parent,
            id,
            inner: names::vlan_inner(&port.id),
        },
        Some(Vlans::Links) | None => LinkKind::Vlan { parent, id },
    }
}

fn bridge(network: &Network) -> Link {
    let [_, _, a, b, c, d, e, ..] = *network.id.as_bytes();
    let addresses = network
        .subnets
        .iter()
        .filter(|_| network.external)
        .filter_map(|subnet| IpNet::new(subnet.gateway_ip?, subnet.cidr.prefix_len()).ok())
        .collect();
    Link {
        // A bridge without a MAC address of its own takes one of its ports and changes it with them.
        kind: LinkKind::Bridge {
            mac: Mac([0x0a, a, b, c, d, e]),
            zoned: !network.external,
        },
        mtu: network.mtu,
        master: None,
        up: true,
        object: network.id,
        addresses,
    }
}

fn add_tunnel(config: &Config, network: &Network, all: &mut Desired) {
    let (Some(local), Some(tunnel)) = (config.tunnel_ip, &network.tunnel) else {
        return;
    };
    let same_family = |peer: &&IpAddr| peer.is_ipv4() == local.is_ipv4();
    let link = Link {
        kind: LinkKind::Vxlan {
            vni: tunnel.vni,
            local,
            peers: tunnel.peers.iter().filter(same_family).copied().collect(),
        },
        mtu: network.mtu,
        master: Some(names::bridge(&network.id)),
        up: true,
        object: network.id,
        addresses: BTreeSet::new(),
    };
    all.links.insert(names::tunnel(&network.id), link);
}

fn veth(network: &Network, space: &str, peer: &str, port: Uuid) -> Link {
    Link {
        kind: LinkKind::Veth {
            space: space.to_owned(),
            peer: peer.to_owned(),
        },
        mtu: network.mtu,
        master: Some(names::bridge(&network.id)),
        up: true,
        object: port,
        addresses: BTreeSet::new(),
    }
}

fn metadata_net() -> IpNet {
    IpNet::from(IpAddr::V4(METADATA_IP))
}

fn any_v4() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}

fn add_dhcp(config: &Config, network: &Network, all: &mut Desired) {
    let Some(dhcp) = &network.dhcp else { return };
    let space = names::dhcp_space(&config.cloud, &network.id);
    let outer = names::dhcp_veth(&network.id);
    let mut addresses: BTreeSet<IpNet> = dhcp
        .ips
        .iter()
        .filter_map(|ip| IpNet::new(ip.ip, ip.prefix).ok())
        .collect();
    let dnsmasq = dnsmasq::desired(config, network, dhcp);
    addresses.insert(metadata_net());
    // Only needed to reach foreign name servers, by way of the guests' own router.
    let gateway = network
        .subnets
        .iter()
        .filter_map(|s| s.gateway_ip)
        .find(IpAddr::is_ipv4);
    let routes = gateway
        .filter(|_| !config.dns_forwarders.is_empty())
        .map(|gateway| (any_v4(), gateway));
    all.links.insert(
        outer.clone(),
        veth(network, &space, names::DHCP_INTERFACE, dhcp.port_id),
    );
    let inner = Inner {
        outer,
        mac: dhcp.mac,
        mtu: network.mtu,
        addresses,
        port: dhcp.port_id,
    };
    let space_wanted = Space {
        object: network.id,
        links: BTreeMap::from([(names::DHCP_INTERFACE.to_owned(), inner)]),
        routes: routes.into_iter().collect(),
        sysctls: vec![("ipv4/ip_forward".into(), "0".into())],
        ruleset: Ruleset::default(),
        dnsmasq: Some(dnsmasq),
        metadata: Some(SocketAddr::from((METADATA_IP, 80))),
        networks: BTreeSet::from([network.id]),
    };
    all.spaces.insert(space, space_wanted);
}

fn add_router(
    config: &Config,
    router: &Router,
    networks: &BTreeMap<Uuid, &Network>,
    all: &mut Desired,
) {
    let name = names::router_space(&config.cloud, &router.id);
    let mut space = Space {
        object: router.id,
        links: BTreeMap::new(),
        routes: router
            .routes
            .iter()
            .map(|r| (r.destination.trunc(), r.nexthop))
            .collect(),
        sysctls: router::sysctls(router),
        ruleset: router::ruleset(router),
        dnsmasq: dnsmasq::advertiser(config, router, networks),
        metadata: Some(SocketAddr::from((
            Ipv4Addr::UNSPECIFIED,
            names::METADATA_PORT,
        ))),
        networks: router.interfaces.iter().map(|i| i.network_id).collect(),
    };
    for interface in &router.interfaces {
        let Some(network) = networks.get(&interface.network_id) else {
            continue;
        };
        let Ok(address) = IpNet::new(interface.ip, interface.prefix) else {
            continue;
        };
        let (inner, outer) = (
            names::router_interface(&interface.port_id),
            names::router_veth(&interface.port_id),
        );
        all.links.insert(
            outer.clone(),
            veth(network, &name, &inner, interface.port_id),
        );
        let link = space.links.entry(inner).or_insert_with(|| Inner {
            outer,
            mac: interface.mac,
            mtu: network.mtu,
            addresses: BTreeSet::new(),
            port: interface.port_id,
        });
        link.addresses.insert(address);
    }
    if let Some(gateway) = &router.gateway
        && let Some(network) = networks.get(&gateway.network_id)
        && let Ok(address) = IpNet::new(gateway.ip, gateway.prefix)
    {
        let (inner, outer) = (
            names::router_gateway(&gateway.port_id),
            names::router_veth(&gateway.port_id),
        );
        all.links
            .insert(outer.clone(), veth(network, &name, &inner, gateway.port_id));
        let mut addresses = BTreeSet::from([address]);
        // The router answers ARP for its floating IPs because it holds them.
        addresses.extend(
            router
                .floating_ips
                .iter()
                .map(|fip| IpNet::from(fip.floating_ip)),
        );
        space.links.insert(
            inner,
            Inner {
                outer,
                mac: gateway.mac,
                mtu: network.mtu,
                addresses,
                port: gateway.port_id,
            },
        );
        if let Some(next_hop) = gateway.next_hop {
            let any = if next_hop.is_ipv4() {
                any_v4()
            } else {
                IpNet::V6(ipnet::Ipv6Net::default())
            };
            space.routes.insert((any, next_hop));
        }
    }
    all.spaces.insert(name, space);
}
