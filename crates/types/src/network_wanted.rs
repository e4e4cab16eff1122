//! The contract between the network service and the agent on each host.
//!
//! The agent asks `GET /v2.0/agent/hosts/{host}/wanted?since=<revision>&wait=<seconds>` and gets a
//! [`HostWanted`]: everything the host shall realise. The service holds the request open until its
//! revision for that host is above `since`, or `wait` is over (then it answers 304 without a body).
//! What the host has done goes back as a [`HostReport`] with `PUT /v2.0/agent/hosts/{host}/report`.
//!
//! The agent runs as root while the service parses hostile requests, so everything that ends up in
//! a command line or a rule set is a checked type here (ids, MAC addresses, IP networks), never
//! free text; where text is unavoidable (host names, DHCP option values) the agent checks it again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The name of the tap device of a port: `tap` and the first 11 characters of the port's id
/// (Linux interface names have at most 15 bytes). The agent makes the tap, the hypervisor opens it.
#[must_use]
pub fn tap_name(port_id: &Uuid) -> String {
    short_name("tap", port_id)
}

/// An interface name of `prefix` (at most 4 bytes) and the first 11 characters of `id`.
#[must_use]
pub fn short_name(prefix: &str, id: &Uuid) -> String {
    let id = id.hyphenated().to_string();
    format!("{prefix}{}", &id[..11])
}

/// Everything one host shall realise, or (with `full == false`) what changed in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostWanted {
    /// Counts up with every change that matters to this host; 0 is "nothing known".
    pub revision: u64,
    /// The host this is for, as the compute service names it.
    pub host: String,
    /// True: the lists are complete and whatever they do not name shall go. False: the lists hold
    /// only objects that were added or changed after the revision named in `since`, and `removed`
    /// the ids that went. A service may always answer with complete lists, and must do so when
    /// `since` is 0 or not known to it.
    #[serde(default = "yes")]
    pub full: bool,
    /// Networks that have a port, a DHCP server or a router interface on this host.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Ports bound to this host that need a tap (not the DHCP and router ports).
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The security groups which the ports name.
    #[serde(default)]
    pub security_groups: Vec<SecurityGroup>,
    /// Routers that live on this host.
    #[serde(default)]
    pub routers: Vec<Router>,
    /// What went since then; only read when `full` is false.
    #[serde(default)]
    pub removed: Removed,
    /// The newest look that was asked of this host, until it was answered. Agents that do not know of looks go on without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<Look>,
}

/// Agents that answer a [`Look`] have this among the figures of their [`AgentStatus`], as 1.
pub const LOOKS: &str = "looks";

/// Somebody wants to know where the host is not as it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Counts up; comes back in [`Looked::number`].
    pub number: u64,
    /// True: what differs is made right after it was told. False: nothing on the host is changed.
    pub mend: bool,
}

/// Ids of objects that a partial [`HostWanted`] takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Networks without any use on this host.
    #[serde(default)]
    pub networks: Vec<Uuid>,
    /// Ports deleted or bound elsewhere.
    #[serde(default)]
    pub ports: Vec<Uuid>,
    /// Security groups no port here uses.
    #[serde(default)]
    pub security_groups: Vec<Uuid>,
    /// Routers deleted or moved.
    #[serde(default)]
    pub routers: Vec<Uuid>,
}

/// A network: one layer-2 segment, a bridge on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Network id.
    pub id: Uuid,
    /// Owner.
    pub project_id: String,
    /// Largest IP packet in bytes; given to taps and, by DHCP option 26, to guests.
    pub mtu: u32,
    /// True for `router:external`: the host itself holds the gateway addresses of its subnets, so
    /// that floating IPs can be reached from the host.
    #[serde(default)]
    pub external: bool,
    /// All subnets.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// The DHCP port, when this host serves DHCP, DNS and metadata for the network.
    #[serde(default)]
    pub dhcp: Option<DhcpPort>,
    /// Domain handed to guests and answered by the network's DNS; empty or absent: `openstacklocal`.
    #[serde(default)]
    pub dns_domain: Option<String>,
    /// Every port of the network with a fixed IP, on whichever host: who gets which address.
    #[serde(default)]
    pub dhcp_hosts: Vec<DhcpHost>,
    /// What joins the network's bridges on all hosts; absent where the network does not leave its host.
    #[serde(default)]
    pub tunnel: Option<Tunnel>,
}

/// A VXLAN segment (RFC 7348) between the hosts that have a part of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The tunnel addresses of the other hosts that have a part of the network, to which unknown and broadcast frames go.
    pub peers: Vec<IpAddr>,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Subnet id.
    pub id: Uuid,
    /// Address range.
    pub cidr: IpNet,
    /// The default router of guests, if there is one.
    #[serde(default)]
    pub gateway_ip: Option<IpAddr>,
    /// Whether guests get their addresses by DHCP.
    #[serde(default)]
    pub enable_dhcp: bool,
    /// Name servers handed to guests; empty: the network's own.
    #[serde(default)]
    pub dns_nameservers: Vec<IpAddr>,
    /// Further routes handed to guests.
    #[serde(default)]
    pub host_routes: Vec<Route>,
    /// What routers say of the subnet to its guests (`ipv6_ra_mode`); absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised: Option<Advertised>,
}

/// How guests of an IPv6 subnet get what they need (RFC 4861, 4862). Addresses by DHCPv6 are not here: nobody gives any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advertised {
    /// They make their addresses themselves.
    Slaac,
    /// So they do, and ask by DHCPv6 for the rest.
    SlaacAndDhcp,
}

/// A route to `destination` through `nexthop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through which neighbour.
    pub nexthop: IpAddr,
}

/// The port of a network's DHCP server (`device_owner` `network:dhcp`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpPort {
    /// Port id; its status comes back in [`HostReport::ports`].
    pub port_id: Uuid,
    /// MAC address of the DHCP server.
    pub mac: Mac,
    /// One address in each subnet that has DHCP.
    pub ips: Vec<SubnetIp>,
}

/// An address in a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetIp {
    /// The subnet.
    pub subnet_id: Uuid,
    /// The address.
    pub ip: IpAddr,
    /// Length of the subnet's prefix in bits.
    pub prefix: u8,
}

/// What DHCP and DNS know of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpHost {
    /// Port id.
    pub port_id: Uuid,
    /// The client's MAC address.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<SubnetIp>,
    /// Host name (the port's `dns_name`); absent: made from the address, as `host-10-0-0-5`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Server that owns the port (`device_id`), named in the metadata proxy's headers.
    #[serde(default)]
    pub device_id: String,
    /// Project that owns the port, named in the metadata proxy's headers.
    #[serde(default)]
    pub project_id: String,
    /// The port's `extra_dhcp_opts`.
    #[serde(default)]
    pub extra_dhcp_opts: Vec<ExtraDhcpOpt>,
}

/// One extra DHCP option of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraDhcpOpt {
    /// Option name (`bootfile-name`) or number.
    pub opt_name: String,
    /// Its value.
    pub opt_value: String,
    /// 4 or 6.
    #[serde(default = "four")]
    pub ip_version: u8,
}

/// A port that is a tap on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Port id; the tap's name follows from it ([`tap_name`]).
    pub id: Uuid,
    /// Its network.
    pub network_id: Uuid,
    /// Owner.
    pub project_id: String,
    /// MAC address of the guest's device.
    pub mac: Mac,
    /// Addresses of the guest.
    #[serde(default)]
    pub fixed_ips: Vec<IpAddr>,
    /// Server id.
    #[serde(default)]
    pub device_id: String,
    /// `compute:<zone>` for servers.
    #[serde(default)]
    pub device_owner: String,
    /// False: the tap is down and the port reported DOWN.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// False: neither anti-spoofing nor security groups.
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
    /// What the port may send from besides its own addresses.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Security groups; empty with port security on: only DHCP, metadata and neighbour discovery.
    #[serde(default)]
    pub security_group_ids: Vec<Uuid>,
    /// The trunk that carries it; absent: it has a tap of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<UnderTrunk>,
}

/// Where a port is that a trunk carries: no tap, but a VLAN on that of another port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderTrunk {
    /// The port with the tap.
    pub parent: Uuid,
    /// The VLAN's number, 1 to 4094.
    pub vlan: u16,
}

/// A further source address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPair {
    /// Address or range.
    pub ip: IpNet,
    /// MAC address; absent: the port's own.
    #[serde(default)]
    pub mac: Option<Mac>,
}

/// A security group with its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Group id.
    pub id: Uuid,
    /// False: answers to allowed traffic need rules of their own.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// What is allowed; everything else is not.
    #[serde(default)]
    pub rules: Vec<SecurityGroupRule>,
}

/// One thing a security group allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    /// Seen from the guest.
    pub direction: Direction,
    /// IPv4 or IPv6.
    pub ethertype: Ethertype,
    /// IP protocol number (6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6...); absent: any.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// Lowest port; for ICMP the type.
    #[serde(default)]
    pub port_min: Option<u16>,
    /// Highest port; for ICMP the code.
    #[serde(default)]
    pub port_max: Option<u16>,
    /// The other side's addresses; absent: any.
    #[serde(default)]
    pub remote_ip_prefix: Option<IpNet>,
    /// Addresses of the members of the remote group (allowed address pairs included); absent: the
    /// rule names no group; empty: the group has no member, so the rule allows nothing.
    #[serde(default)]
    pub remote_group_members: Option<Vec<IpNet>>,
}

/// Direction of a rule, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the guest.
    Ingress,
    /// From the guest.
    Egress,
}

/// Address family of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ethertype {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// A router: a namespace on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Router id.
    pub id: Uuid,
    /// Owner.
    pub project_id: String,
    /// False: it forwards nothing.
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// Interfaces in tenant networks.
    #[serde(default)]
    pub interfaces: Vec<RouterInterface>,
    /// Its way out, if it has one.
    #[serde(default)]
    pub gateway: Option<RouterGateway>,
    /// Extra routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Floating IPs that end here.
    #[serde(default)]
    pub floating_ips: Vec<FloatingIp>,
}

/// An interface of a router in a tenant network (one address each; a port with two fixed IPs is
/// two of these with the same `port_id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInterface {
    /// Port id; its status comes back in [`HostReport::ports`].
    pub port_id: Uuid,
    /// The network it stands in.
    pub network_id: Uuid,
    /// Its address.
    pub ip: IpAddr,
    /// Length of the subnet's prefix in bits.
    pub prefix: u8,
    /// MAC address.
    pub mac: Mac,
}

/// The external gateway of a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterGateway {
    /// Port id; its status comes back in [`HostReport::ports`].
    pub port_id: Uuid,
    /// The external network.
    pub network_id: Uuid,
    /// The router's address there; also the source of SNAT.
    pub ip: IpAddr,
    /// Length of the subnet's prefix in bits.
    pub prefix: u8,
    /// MAC address.
    pub mac: Mac,
    /// Default route, the subnet's gateway.
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    /// Whether guests without a floating IP reach the outside from the router's address.
    #[serde(default = "yes")]
    pub enable_snat: bool,
}

/// A floating IP that is bound to a fixed IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingIp {
    /// Floating IP id.
    pub id: Uuid,
    /// The outer address.
    pub floating_ip: IpAddr,
    /// The guest's address behind the router.
    pub fixed_ip: IpAddr,
}

/// What a host has realised. Each report is complete for the lists it holds unless `partial`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The [`HostWanted::revision`] that was applied.
    pub revision: u64,
    /// True: only what changed since the last report is listed (an empty one is a heartbeat).
    #[serde(default)]
    pub partial: bool,
    /// Ports, with those of DHCP servers, router interfaces and gateways.
    #[serde(default)]
    pub ports: Vec<ObjectStatus>,
    /// Routers.
    #[serde(default)]
    pub routers: Vec<ObjectStatus>,
    /// Floating IPs.
    #[serde(default)]
    pub floating_ips: Vec<ObjectStatus>,
    /// The agents on the host that are alive; a report is also their heartbeat.
    #[serde(default)]
    pub agents: Vec<AgentStatus>,
    /// What a look has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<Looked>,
}

/// The answer to a [`Look`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Which look.
    pub number: u64,
    /// What differs, each as the command that would make it right or in words; one line that says why where the machine
    /// could not be looked at.
    pub differences: Vec<String>,
}

/// State of one object on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Its id.
    pub id: Uuid,
    /// What became of it.
    pub status: Status,
    /// Why, when it is ERROR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Neutron's status words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Realised.
    Active,
    /// Realised, but administratively off.
    Down,
    /// Could not be realised.
    Error,
}

/// One agent, as `GET /v2.0/agents` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// What kind of agent.
    pub kind: AgentKind,
    /// Figures for `configurations` (counts of networks, ports, routers...).
    #[serde(default)]
    pub configurations: BTreeMap<String, u64>,
}

/// The kinds of agent on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// Bridges, taps and security groups.
    Bridge,
    /// DHCP and DNS servers.
    Dhcp,
    /// Routers and floating IPs.
    L3,
    /// The guests' way to metadata.
    Metadata,
}

impl AgentKind {
    /// `agent_type` in Neutron's API.
    #[must_use]
    pub fn agent_type(self) -> &'static str {
        match self {
            Self::Bridge => "Linux bridge agent",
            Self::Dhcp => "DHCP agent",
            Self::L3 => "L3 agent",
            Self::Metadata => "Metadata agent",
        }
    }

    /// `binary` in Neutron's API.
    #[must_use]
    pub fn binary(self) -> &'static str {
        match self {
            Self::Bridge => "neutron-linuxbridge-agent",
            Self::Dhcp => "neutron-dhcp-agent",
            Self::L3 => "neutron-l3-agent",
            Self::Metadata => "neutron-metadata-agent",
        }
    }

    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Dhcp, Self::L3, Self::Metadata];
}

impl HostWanted {
    /// Brings `self` up to date with an answer of the service, complete or partial.
    pub fn update(&mut self, news: HostWanted) {
        if news.full {
            *self = news;
            return;
        }
        self.revision = news.revision;
        self.look = news.look;
        let gone = &news.removed;
        merge(&mut self.networks, news.networks, &gone.networks, |n| n.id);
        merge(&mut self.ports, news.ports, &gone.ports, |p| p.id);
        merge(
            &mut self.security_groups,
            news.security_groups,
            &gone.security_groups,
            |g| g.id,
        );
        merge(&mut self.routers, news.routers, &gone.routers, |r| r.id);
    }

    /// Whether this is an answer that changes nothing of what the host shall be.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        !self.full
            && self.networks.is_empty()
            && self.ports.is_empty()
            && self.security_groups.is_empty()
            && self.routers.is_empty()
            && self.removed == Removed::default()
    }
}

fn merge<T>(have: &mut Vec<T>, news: Vec<T>, gone: &[Uuid], id: fn(&T) -> Uuid) {
    have.retain(|item| !gone.contains(&id(item)) && !news.iter().any(|n| id(n) == id(item)));
    have.extend(news);
}

fn yes() -> bool {
    true
}

fn four() -> u8 {
    4
}

/// A 48-bit MAC address, written `fa:16:3e:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn macs() {
        for (text, good) in [
            ("fa:16:3e:00:00:01", true),
            ("FA-16-3E-00-00-01", true),
            ("fa:16:3e:00:00", false),
            ("fa:16:3e:00:00:01:02", false),
            ("fa:16:3e:00:00:+1", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Mac>().is_ok(), good, "{text}");
        }
        assert_eq!(
            "FA-16-3E-00-00-01".parse::<Mac>().unwrap().to_string(),
            "fa:16:3e:00:00:01"
        );
    }

    #[test]
    fn a_partial_answer_changes_only_what_it_names() {
        let group = |n: u128, stateful| SecurityGroup {
            id: Uuid::from_u128(n),
            stateful,
            rules: vec![],
        };
        let mut have = HostWanted {
            revision: 1,
            full: true,
            ..HostWanted::default()
        };
        have.security_groups = vec![group(1, true), group(2, true), group(3, true)];
        have.update(HostWanted {
            revision: 2,
            security_groups: vec![group(2, false), group(4, true)],
            removed: Removed {
                security_groups: vec![Uuid::from_u128(1)],
                ..Removed::default()
            },
            ..HostWanted::default()
        });
        assert_eq!(have.revision, 2);
        assert_eq!(
            have.security_groups,
            vec![group(3, true), group(2, false), group(4, true)]
        );
        have.update(HostWanted {
            revision: 3,
            full: true,
            ..HostWanted::default()
        });
        assert!(have.security_groups.is_empty());
    }

    #[test]
    fn a_look_is_news_and_is_left_out_where_there_is_none() {
        let look = Look {
            number: 7,
            mend: true,
        };
        let news = HostWanted {
            revision: 2,
            look: Some(look),
            ..HostWanted::default()
        };
        assert!(news.changes_nothing());
        let mut have = HostWanted::default();
        have.update(news);
        assert_eq!((have.revision, have.look), (2, Some(look)));
        let next = HostWanted {
            revision: 3,
            removed: Removed {
                ports: vec![Uuid::from_u128(1)],
                ..Removed::default()
            },
            ..HostWanted::default()
        };
        assert!(!next.changes_nothing());
        have.update(next);
        assert_eq!(have.look, None, "it was answered");
        let whole = HostWanted {
            full: true,
            ..HostWanted::default()
        };
        assert!(!whole.changes_nothing(), "what it does not name goes");

        let text = serde_json::to_string(&have).unwrap();
        assert!(!text.contains("look"), "{text}");
        let text = serde_json::to_string(&HostReport::default()).unwrap();
        assert!(!text.contains("look"), "{text}");
        let old: HostReport = serde_json::from_str(r#"{"revision": 1}"#).unwrap();
        assert_eq!(old.look, None);
    }

    #[test]
    fn names_fit_an_interface() {
        let id: Uuid = "3f2504e0-4f89-41d3-9a0c-0305e82c3301".parse().unwrap();
        assert_eq!(tap_name(&id), "tap3f2504e0-4f");
        assert!(short_name("kbrx", &id).len() <= 15);
    }
}
