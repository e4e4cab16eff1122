//! What a host shall realise: from stored resources to [`HostWanted`], whole or only what changed. The number of queries
//! does not depend on how much there is.

use crate::api::addressing;
use crate::api::ports::DHCP;
use crate::api::routers::{GATEWAY, INTERFACE};
use crate::api::security_groups::rule_protocol;
use crate::api::trunks::OWNER;
use crate::db::{self, Match, changes};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;
use types::network_wanted as w;
use uuid::Uuid;

/// An agent further behind than this gets a new revision even when nothing matters to it.
pub const LAG: u64 = 1000;

/// The host that serves DHCP and routers: what the database says, so that network services with other settings answer the same.
pub fn gateway_host(work: &mut Work<'_, '_>) -> Result<Option<String>, Fault> {
    db::agents::first_host(work.tx)
}

/// What the log says to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nothing, up to this revision.
    None(u64),
    /// Only who has which address elsewhere: many such changes make one answer.
    Soon,
    /// Something of its own.
    Now,
}

/// Whether a host has to do with what changed after revision `since`. Cheap: it is asked for every host at every change.
pub fn urgency(work: &mut Work<'_, '_>, host: &str, since: u64) -> Result<Urgency, Fault> {
    let revision = changes::revision(work.tx)?;
    if since == revision {
        return Ok(Urgency::None(revision));
    }
    let Some(changed) = changes::since(work.tx, since)? else {
        return Ok(Urgency::Now);
    };
    let gateway = gateway_host(work)?.as_deref() == Some(host);
    let mut urgency = Urgency::None(revision);
    for (what, _, of) in &changed {
        match what {
            What::Port | What::Look if of == host => return Ok(Urgency::Now),
            What::Network | What::Group => return Ok(Urgency::Now),
            What::Router if gateway => return Ok(Urgency::Now),
            What::Members => urgency = Urgency::Soon,
            What::Addresses if gateway => urgency = Urgency::Soon,
            _ => {}
        }
    }
    Ok(urgency)
}

/// What is news for `host` after revision `since`; the newest revision when nothing is.
pub fn news(
    work: &mut Work<'_, '_>,
    host: &str,
    since: u64,
) -> Result<Result<w::HostWanted, u64>, Fault> {
    let revision = changes::revision(work.tx)?;
    if since == revision {
        return Ok(Err(revision));
    }
    let changed = changes::since(work.tx, since)?;
    let gateway = gateway_host(work)?.as_deref() == Some(host);
    let present = Present::find(work, host, gateway)?;
    let mut wanted = w::HostWanted {
        revision,
        host: host.to_owned(),
        full: changed.is_none(),
        look: db::looks::pending(work.tx, host)?,
        ..w::HostWanted::default()
    };
    let Some(changed) = changed else {
        let ports: Vec<&str> = present.ports.keys().map(String::as_str).collect();
        let ports = load_ports(work, ports)?;
        present.fill(work, &mut wanted, &ports, gateway, |_, _| true)?;
        return Ok(Ok(wanted));
    };
    let own = changed
        .iter()
        .filter(|(what, id, _)| *what == What::Port && present.ports.contains_key(id));
    let own = load_ports(work, own.map(|(_, id, _)| id.as_str()).collect())?;
    let ids: BTreeSet<(What, &str)> = changed
        .iter()
        .map(|(what, id, _)| (*what, id.as_str()))
        .collect();
    // Where a port of this host came, its network and groups may be new to the host.
    let networks: BTreeSet<&str> = own.iter().map(|port| port.text("network_id")).collect();
    let groups: BTreeSet<String> = own
        .iter()
        .flat_map(|port| port.texts("security_groups"))
        .collect();
    let chosen = |what: What, id: &str| match what {
        What::Network => {
            ids.contains(&(What::Network, id))
                || gateway && ids.contains(&(What::Addresses, id))
                || networks.contains(id)
        }
        What::Group => {
            ids.contains(&(What::Group, id))
                || ids.contains(&(What::Members, id))
                || groups.contains(id)
        }
        what => ids.contains(&(what, id)),
    };
    present.fill(work, &mut wanted, &own, gateway, chosen)?;
    wanted.removed = present.gone(&changed, host, gateway);
    let nothing = wanted.changes_nothing() && wanted.look.is_none();
    if nothing && revision - since < LAG {
        return Ok(Err(revision));
    }
    Ok(Ok(wanted))
}

fn load_ports(work: &mut Work<'_, '_>, ids: Vec<&str>) -> Result<Vec<Doc>, Fault> {
    let mut docs = db::find(work.tx, Kind::Port, &[db::one_of("id", ids)])?;
    docs.retain(|port| port.text("binding:vif_type") == "bridge");
    Ok(docs)
}

/// What a host has now.
struct Present {
    /// Ports and their networks.
    ports: BTreeMap<String, String>,
    routers: BTreeSet<String>,
    networks: BTreeSet<String>,
    groups: BTreeSet<String>,
}

fn uuid(text: &str) -> Uuid {
    Uuid::parse_str(text).unwrap_or_default()
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

impl Present {
    fn find(work: &mut Work<'_, '_>, host: &str, gateway: bool) -> Result<Self, Fault> {
        let ports: BTreeMap<String, String> =
            db::ports_on_host(work.tx, host)?.into_iter().collect();
        let groups = db::groups_on_host(work.tx, host)?.into_iter().collect();
        let mut networks: BTreeSet<String> = ports.values().cloned().collect();
        let mut routers = BTreeSet::new();
        if gateway {
            let owners = db::one_of("device_owner", [DHCP, INTERFACE, GATEWAY]);
            networks.extend(db::column(work.tx, Kind::Port, "network_id", &[owners])?);
            routers.extend(db::column(work.tx, Kind::Router, "id", &[])?);
        }
        Ok(Self {
            ports,
            routers,
            networks,
            groups,
        })
    }

    /// What changed and is not here. Networks and groups can only have left with a port of this host.
    fn gone(&self, changed: &BTreeSet<changes::Change>, host: &str, gateway: bool) -> w::Removed {
        let own = changed
            .iter()
            .any(|(what, _, of)| *what == What::Port && of == host);
        let (mut ports, mut networks) = (BTreeSet::new(), BTreeSet::new());
        let (mut groups, mut routers) = (BTreeSet::new(), BTreeSet::new());
        for (what, id, of) in changed {
            match what {
                What::Port if of == host && !self.ports.contains_key(id) => {
                    ports.insert(uuid(id));
                }
                What::Network | What::Addresses
                    if (own || gateway) && !self.networks.contains(id) =>
                {
                    networks.insert(uuid(id));
                }
                What::Group | What::Members if own && !self.groups.contains(id) => {
                    groups.insert(uuid(id));
                }
                What::Router if gateway && !self.routers.contains(id) => {
                    routers.insert(uuid(id));
                }
                _ => {}
            }
        }
        w::Removed {
            networks: networks.into_iter().collect(),
            ports: ports.into_iter().collect(),
            security_groups: groups.into_iter().collect(),
            routers: routers.into_iter().collect(),
        }
    }

    fn fill(
        &self,
        work: &mut Work<'_, '_>,
        wanted: &mut w::HostWanted,
        ports: &[Doc],
        gateway: bool,
        chosen: impl Fn(What, &str) -> bool,
    ) -> Result<(), Fault> {
        let pick = |what: What, all: &BTreeSet<String>| -> Vec<String> {
            all.iter().filter(|id| chosen(what, id)).cloned().collect()
        };
        wanted.ports = ports.iter().filter_map(port).collect();
        under_trunks(work, ports, &mut wanted.ports)?;
        wanted.networks = networks(work, &pick(What::Network, &self.networks), gateway)?;
        join(work, wanted)?;
        wanted.security_groups = groups(work, &pick(What::Group, &self.groups))?;
        wanted.routers = routers(work, &pick(What::Router, &self.routers))?;
        Ok(())
    }
}

fn route(value: &Value) -> Option<w::Route> {
    Some(w::Route {
        destination: parse(value["destination"].as_str()?)?,
        nexthop: parse(value["nexthop"].as_str()?)?,
    })
}

fn port(doc: &Doc) -> Option<w::Port> {
    let pair = |pair: &Value| {
        let text = pair["ip_address"].as_str()?;
        let ip = parse::<IpNet>(text).or_else(|| parse::<IpAddr>(text).map(IpNet::from))?;
        Some(w::AddressPair {
            ip,
            mac: pair["mac_address"].as_str().and_then(parse),
        })
    };
    Some(w::Port {
        id: uuid(doc.id()),
        network_id: uuid(doc.text("network_id")),
        project_id: doc.project().to_owned(),
        mac: parse(doc.text("mac_address"))?,
        fixed_ips: addressing::held(doc)
            .into_iter()
            .map(|fixed| fixed.ip)
            .collect(),
        device_id: doc.text("device_id").to_owned(),
        device_owner: doc.text("device_owner").to_owned(),
        admin_state_up: doc.flag("admin_state_up"),
        port_security_enabled: doc.flag("port_security_enabled"),
        allowed_address_pairs: doc
            .list("allowed_address_pairs")
            .iter()
            .filter_map(pair)
            .collect(),
        security_group_ids: doc
            .texts("security_groups")
            .iter()
            .map(|id| uuid(id))
            .collect(),
        trunk: None,
    })
}

/// Says of ports that a trunk carries which one leads to them.
fn under_trunks(work: &mut Work<'_, '_>, docs: &[Doc], ports: &mut [w::Port]) -> Result<(), Fault> {
    let carried = docs
        .iter()
        .filter(|port| port.text("device_owner") == OWNER);
    let carried: Vec<&str> = carried.map(Doc::id).collect();
    for (port, parent, vlan) in db::trunks::parents(work.tx, &carried)? {
        let id = uuid(&port);
        if let Some(port) = ports.iter_mut().find(|port| port.id == id) {
            port.trunk = u16::try_from(vlan).ok().map(|vlan| w::UnderTrunk {
                parent: uuid(&parent),
                vlan,
            });
        }
    }
    Ok(())
}

fn subnet(doc: &Doc) -> Option<w::Subnet> {
    Some(w::Subnet {
        id: uuid(doc.id()),
        cidr: parse(doc.text("cidr"))?,
        gateway_ip: parse(doc.text("gateway_ip")),
        enable_dhcp: doc.flag("enable_dhcp"),
        dns_nameservers: doc
            .texts("dns_nameservers")
            .iter()
            .filter_map(|ip| parse(ip))
            .collect(),
        host_routes: doc.list("host_routes").iter().filter_map(route).collect(),
        advertised: match doc.text("ipv6_ra_mode") {
            "slaac" => Some(w::Advertised::Slaac),
            "dhcpv6-stateless" => Some(w::Advertised::SlaacAndDhcp),
            _ => None,
        },
    })
}

fn subnet_ips(port: &Doc, prefixes: &BTreeMap<String, IpNet>) -> Vec<w::SubnetIp> {
    let one = |fixed: addressing::Fixed| {
        let prefix = prefixes.get(&fixed.subnet_id)?.prefix_len();
        Some(w::SubnetIp {
            subnet_id: uuid(&fixed.subnet_id),
            ip: fixed.ip,
            prefix,
        })
    };
    addressing::held(port).into_iter().filter_map(one).collect()
}

fn dhcp_host(port: &Doc, prefixes: &BTreeMap<String, IpNet>) -> Option<w::DhcpHost> {
    let option = |option: &Value| {
        Some(w::ExtraDhcpOpt {
            opt_name: option["opt_name"].as_str()?.to_owned(),
            opt_value: option["opt_value"].as_str()?.to_owned(),
            ip_version: u8::try_from(option["ip_version"].as_i64()?).ok()?,
        })
    };
    Some(w::DhcpHost {
        port_id: uuid(port.id()),
        mac: parse(port.text("mac_address"))?,
        ips: subnet_ips(port, prefixes),
        hostname: port
            .text_opt("dns_name")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        device_id: port.text("device_id").to_owned(),
        project_id: port.project().to_owned(),
        extra_dhcp_opts: port
            .list("extra_dhcp_opts")
            .iter()
            .filter_map(option)
            .collect(),
    })
}

/// Networks; only the gateway host hears who has which address, because it alone serves DHCP.
fn networks(
    work: &mut Work<'_, '_>,
    ids: &[String],
    gateway: bool,
) -> Result<Vec<w::Network>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let docs = db::find(
        work.tx,
        Kind::Network,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    let mut subnets = db::find(
        work.tx,
        Kind::Subnet,
        &[db::one_of("network_id", ids.iter().map(String::as_str))],
    )?;
    subnets.sort_by(|a, b| (a.text("created_at"), a.id()).cmp(&(b.text("created_at"), b.id())));
    let prefixes: BTreeMap<String, IpNet> = subnets
        .iter()
        .filter_map(|doc| Some((doc.id().to_owned(), parse(doc.text("cidr"))?)))
        .collect();
    let ports = if gateway {
        db::find(
            work.tx,
            Kind::Port,
            &[db::one_of("network_id", ids.iter().map(String::as_str))],
        )?
    } else {
        Vec::new()
    };
    let mut by_network: BTreeMap<&str, Vec<&Doc>> = BTreeMap::new();
    for port in &ports {
        by_network
            .entry(port.text("network_id"))
            .or_default()
            .push(port);
    }
    let one = |doc: &Doc| {
        let own = by_network
            .get(doc.id())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let server = own.iter().find(|port| port.text("device_owner") == DHCP);
        let server = server.and_then(|port| {
            Some(w::DhcpPort {
                port_id: uuid(port.id()),
                mac: parse(port.text("mac_address"))?,
                ips: subnet_ips(port, &prefixes),
            })
        });
        let hosts = own.iter().filter(|port| !port.list("fixed_ips").is_empty());
        w::Network {
            id: uuid(doc.id()),
            project_id: doc.project().to_owned(),
            mtu: doc
                .int("mtu")
                .and_then(|mtu| u32::try_from(mtu).ok())
                .unwrap_or(1500),
            external: doc.flag("router:external"),
            subnets: subnets
                .iter()
                .filter(|subnet| subnet.text("network_id") == doc.id())
                .filter_map(subnet)
                .collect(),
            dhcp: server,
            dns_domain: domain(doc, &work.cx.config.dns_domain),
            dhcp_hosts: hosts
                .filter_map(|port| dhcp_host(port, &prefixes))
                .collect(),
            tunnel: None,
        }
    };
    Ok(docs.iter().map(one).collect())
}

/// Where the parts of networks on other hosts are.
fn join(work: &mut Work<'_, '_>, wanted: &mut w::HostWanted) -> Result<(), Fault> {
    let mut tunnels = db::agents::tunnels(work.tx)?;
    if tunnels.remove(&wanted.host).is_none() || wanted.networks.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = wanted.networks.iter().map(|n| n.id.to_string()).collect();
    let mut hosts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (network, host) in db::hosts_of_networks(work.tx, &ids)? {
        hosts.entry(network).or_default().insert(host);
    }
    if let Some(gateway) = gateway_host(work)? {
        // DHCP servers and routers are there.
        let owners = db::one_of("device_owner", [DHCP, INTERFACE, GATEWAY]);
        for network in db::column(work.tx, Kind::Port, "network_id", &[owners])? {
            hosts.entry(network).or_default().insert(gateway.clone());
        }
    }
    let docs = db::find(
        work.tx,
        Kind::Network,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    for doc in &docs {
        let segment = doc
            .int("provider:segmentation_id")
            .and_then(|segment| u32::try_from(segment).ok());
        let found = wanted.networks.iter_mut().find(|n| n.id == uuid(doc.id()));
        let (Some(vni), Some(network)) = (segment, found) else {
            continue;
        };
        let at = hosts.get(doc.id()).into_iter().flatten();
        network.tunnel = Some(w::Tunnel {
            vni,
            peers: at.filter_map(|host| tunnels.get(host).copied()).collect(),
        });
    }
    Ok(())
}

fn domain(network: &Doc, usual: &str) -> Option<String> {
    let own = network.text("dns_domain").trim_end_matches('.');
    let domain = if own.is_empty() {
        usual.trim_matches('.')
    } else {
        own
    };
    (!domain.is_empty()).then(|| domain.to_owned())
}

fn groups(work: &mut Work<'_, '_>, ids: &[String]) -> Result<Vec<w::SecurityGroup>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let docs = db::find(
        work.tx,
        Kind::Group,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    let rules = db::find(
        work.tx,
        Kind::Rule,
        &[db::one_of(
            "security_group_id",
            ids.iter().map(String::as_str),
        )],
    )?;
    let remote: BTreeSet<String> = rules
        .iter()
        .filter_map(|rule| rule.text_opt("remote_group_id"))
        .map(str::to_owned)
        .collect();
    let mut members: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    for (group, addresses) in db::members(work.tx, &remote.into_iter().collect::<Vec<_>>())? {
        let nets = addresses.split(' ').filter_map(|text| {
            parse::<IpNet>(text).or_else(|| parse::<IpAddr>(text).map(IpNet::from))
        });
        members.entry(group).or_default().extend(nets);
    }
    for nets in members.values_mut() {
        nets.sort_unstable();
        nets.dedup();
    }
    let one = |doc: &Doc| w::SecurityGroup {
        id: uuid(doc.id()),
        stateful: doc.flag("stateful"),
        rules: rules
            .iter()
            .filter(|rule| rule.text("security_group_id") == doc.id())
            .map(|doc| rule(doc, &members))
            .collect(),
    };
    Ok(docs.iter().map(one).collect())
}

fn rule(doc: &Doc, members: &BTreeMap<String, Vec<IpNet>>) -> w::SecurityGroupRule {
    let six = doc.text("ethertype") == "IPv6";
    let number = |name| doc.int(name).and_then(|port| u16::try_from(port).ok());
    // Everything of the other family is of no use to the rule.
    let fits = |net: &&IpNet| net.addr().is_ipv6() == six;
    let of = |group: &str| {
        members
            .get(group)
            .map(|nets| nets.iter().filter(fits).copied().collect())
            .unwrap_or_default()
    };
    w::SecurityGroupRule {
        direction: if doc.text("direction") == "egress" {
            w::Direction::Egress
        } else {
            w::Direction::Ingress
        },
        ethertype: if six {
            w::Ethertype::V6
        } else {
            w::Ethertype::V4
        },
        // Protocol 0 is what OpenStack calls "any".
        protocol: doc
            .text_opt("protocol")
            .and_then(|name| rule_protocol(name, doc.text("ethertype")))
            .filter(|number| *number != 0),
        port_min: number("port_range_min"),
        port_max: number("port_range_max"),
        remote_ip_prefix: parse::<IpNet>(doc.text("normalized_cidr")),
        remote_group_members: doc.text_opt("remote_group_id").map(of),
    }
}

fn routers(work: &mut Work<'_, '_>, ids: &[String]) -> Result<Vec<w::Router>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let docs = db::find(
        work.tx,
        Kind::Router,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    let devices = db::one_of("device_id", ids.iter().map(String::as_str));
    let ports = db::find(
        work.tx,
        Kind::Port,
        &[devices, Match::Begins("device_owner", "network:router")],
    )?;
    let subnet_ids: BTreeSet<String> = ports
        .iter()
        .flat_map(Doc::fixed_ips)
        .map(|(subnet, _)| subnet)
        .collect();
    let subnets = db::find(
        work.tx,
        Kind::Subnet,
        &[db::one_of("id", subnet_ids.iter().map(String::as_str))],
    )?;
    let floating = db::find(
        work.tx,
        Kind::FloatingIp,
        &[db::one_of("router_id", ids.iter().map(String::as_str))],
    )?;
    let one = |doc: &Doc| {
        let own = |owner: &'static str| {
            ports.iter().filter(move |port| {
                port.text("device_id") == doc.id() && port.text("device_owner") == owner
            })
        };
        let address = |floating: &Doc| {
            Some(w::FloatingIp {
                id: uuid(floating.id()),
                floating_ip: parse(floating.text("floating_ip_address"))?,
                fixed_ip: parse(floating.text("fixed_ip_address"))?,
            })
        };
        w::Router {
            id: uuid(doc.id()),
            project_id: doc.project().to_owned(),
            admin_state_up: doc.flag("admin_state_up"),
            interfaces: own(INTERFACE)
                .flat_map(|port| interfaces(port, &subnets))
                .collect(),
            gateway: own(GATEWAY).find_map(|port| gateway(doc, port, &subnets)),
            routes: doc.list("routes").iter().filter_map(route).collect(),
            floating_ips: floating
                .iter()
                .filter(|floating| floating.text("router_id") == doc.id())
                .filter_map(address)
                .collect(),
        }
    };
    Ok(docs.iter().map(one).collect())
}

fn prefix(subnets: &[Doc], id: &str) -> Option<u8> {
    let subnet = subnets.iter().find(|subnet| subnet.id() == id)?;
    parse::<IpNet>(subnet.text("cidr")).map(|net| net.prefix_len())
}

fn interfaces(port: &Doc, subnets: &[Doc]) -> Vec<w::RouterInterface> {
    let one = |fixed: addressing::Fixed| {
        Some(w::RouterInterface {
            port_id: uuid(port.id()),
            network_id: uuid(port.text("network_id")),
            ip: fixed.ip,
            prefix: prefix(subnets, &fixed.subnet_id)?,
            mac: parse(port.text("mac_address"))?,
        })
    };
    addressing::held(port).into_iter().filter_map(one).collect()
}

fn gateway(router: &Doc, port: &Doc, subnets: &[Doc]) -> Option<w::RouterGateway> {
    let all = addressing::held(port);
    let fixed = all
        .iter()
        .find(|fixed| fixed.ip.is_ipv4())
        .or(all.first())?;
    let subnet = subnets
        .iter()
        .find(|subnet| subnet.id() == fixed.subnet_id)?;
    let snat = router
        .get("external_gateway_info")
        .and_then(|info| info.get("enable_snat"))
        .and_then(Value::as_bool);
    Some(w::RouterGateway {
        port_id: uuid(port.id()),
        network_id: uuid(port.text("network_id")),
        ip: fixed.ip,
        prefix: prefix(subnets, &fixed.subnet_id)?,
        mac: parse(port.text("mac_address"))?,
        next_hop: parse(subnet.text("gateway_ip")),
        enable_snat: snat.unwrap_or(true),
    })
}
