//! `network_data.json`: links (interfaces), networks (one IPv4 and one IPv6 network of each at most, as in Nova) and
//! services (name servers).
//!
//! A link is named after its tap device (`tap` and the first eleven characters of the port's id). It tells its MTU only
//! when no subnet has DHCP, which would tell it otherwise. A network with DHCP says no more than that; one without
//! has address, netmask, routes and name servers. An IPv6 network whose subnet has an address mode is
//! `ipv6_slaac`, `ipv6_dhcpv6-stateful` or `ipv6_dhcpv6-stateless`.

use crate::Guest;
use clients::Subnet;
use db::instances::Interface;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The network service's word for how ports are plugged.
const LINK_TYPE: &str = "bridge";
/// Linux's limit for an interface's name, as Nova counts it.
const DEVICE_NAME: usize = 14;

impl Guest {
    pub(crate) fn network_data(&self) -> Value {
        let interfaces = &self.instance.network_info;
        if interfaces.is_empty() {
            return json!({});
        }
        let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
        for vif in interfaces {
            let known = self.subnets.get(&vif.network_id).map(Vec::as_slice);
            let places = places(vif, known.unwrap_or_default());
            if places.is_empty() {
                continue;
            }
            let link = device_name(vif);
            let dhcp = places.iter().any(|place| place.subnet.enable_dhcp);
            links.push(json!({
                "id": link,
                "vif_id": vif.port_id,
                "type": LINK_TYPE,
                "mtu": (!dhcp).then_some(vif.mtu),
                "ethernet_mac_address": vif.mac,
            }));
            for version in [4, 6] {
                let first = places
                    .iter()
                    .find(|place| place.subnet.ip_version == version);
                let Some(place) = first else { continue };
                let id = format!("network{}", networks.len());
                networks.push(network(place, &id, &link, &vif.network_id));
                for service in name_servers(place.subnet) {
                    if !services.contains(&service) {
                        services.push(service);
                    }
                }
            }
        }
        json!({ "links": links, "networks": networks, "services": services })
    }
}

/// A fixed address and the subnet it is of.
struct Place<'a> {
    address: &'a str,
    subnet: &'a Subnet,
    range: IpNet,
}

fn places<'a>(vif: &'a Interface, subnets: &'a [Subnet]) -> Vec<Place<'a>> {
    let fixed = vif
        .addresses
        .iter()
        .filter(|address| address.kind == "fixed");
    let found = fixed.filter_map(|address| {
        let ip: IpAddr = address.ip.parse().ok()?;
        subnets.iter().find_map(|subnet| {
            let range: IpNet = subnet.cidr.parse().ok()?;
            range.contains(&ip).then_some(Place {
                address: &address.ip,
                subnet,
                range,
            })
        })
    });
    found.collect()
}

fn device_name(vif: &Interface) -> String {
    format!("tap{}", vif.port_id)
        .chars()
        .take(DEVICE_NAME)
        .collect()
}

fn network(place: &Place<'_>, id: &str, link: &str, network_id: &str) -> Value {
    let subnet = place.subnet;
    let family = format!("ipv{}", subnet.ip_version);
    let kind = match &subnet.ipv6_address_mode {
        Some(mode) => format!("{family}_{mode}"),
        None if subnet.enable_dhcp => {
            return json!({
                "id": id, "type": format!("{family}_dhcp"), "link": link, "network_id": network_id,
            });
        }
        None => family,
    };
    json!({
        "id": id,
        "type": kind,
        "link": link,
        "ip_address": place.address,
        "netmask": place.range.netmask().to_string(),
        "routes": routes(subnet),
        "network_id": network_id,
        "services": name_servers(subnet),
    })
}

fn routes(subnet: &Subnet) -> Vec<Value> {
    let any = if subnet.ip_version == 4 {
        "0.0.0.0"
    } else {
        "::"
    };
    let default = subnet
        .gateway_ip
        .iter()
        .map(|gateway| json!({ "network": any, "netmask": any, "gateway": gateway }));
    let more = subnet.host_routes.iter().filter_map(|(to, gateway)| {
        let to: IpNet = to.parse().ok()?;
        Some(json!({
            "network": to.network().to_string(),
            "netmask": to.netmask().to_string(),
            "gateway": gateway,
        }))
    });
    default.chain(more).collect()
}

fn name_servers(subnet: &Subnet) -> Vec<Value> {
    let servers = subnet.dns_nameservers.iter();
    servers
        .map(|address| json!({ "type": "dns", "address": address }))
        .collect()
}
