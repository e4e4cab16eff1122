//! Which connections no longer have a rule. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use types::network_wanted::{
    Direction, Ethertype, HostWanted, Port, Router, SecurityGroup, SecurityGroupRule,
};
use uuid::Uuid;

use crate::conntrack::{Flow, Tuple};
use crate::desired::METADATA_IP;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What the packet filter of a host allows, for asking about single connections.
#[derive(Debug)]
pub struct Rules<'a> {
    ports: BTreeMap<(u16, IpAddr), &'a Port>,
    groups: BTreeMap<Uuid, &'a SecurityGroup>,
    /// Addresses that nobody has any more.
    gone: Vec<(u16, IpAddr)>,
}

impl<'a> Rules<'a> {
    /// The rules of `wanted`. Connections of ports that `before` had and `wanted` has not are
    /// unwanted too: the next owner of the address must not inherit them.
    #[must_use]
    pub fn new(wanted: &'a HostWanted, before: &HostWanted, zones: &BTreeMap<Uuid, u16>) -> Self {
        let zone = |network: &Uuid| zones.get(network).copied().unwrap_or(0);
        let mut ports = BTreeMap::new();
        for port in &wanted.ports {
            ports.extend(
                port.fixed_ips
                    .iter()
                    .map(|ip| ((zone(&port.network_id), *ip), port)),
            );
        }
        let left = |old: &&Port| !wanted.ports.iter().any(|new| new.id == old.id);
        let gone = before.ports.iter().filter(left);
        let gone = gone
            .flat_map(|port| {
                port.fixed_ips
                    .iter()
                    .map(move |ip| (zone(&port.network_id), *ip))
            })
            .collect();
        let groups = wanted
            .security_groups
            .iter()
            .map(|group| (group.id, group))
            .collect();
        Self {
            ports,
            groups,
            gone,
        }
    }

    /// Whether a connection is one that could not begin now.
    #[must_use]
    pub fn forbids(&self, flow: &Flow) -> bool {
        let at = |ip: IpAddr| (flow.zone, ip);
        if self
            .gone
            .iter()
            .any(|gone| *gone == at(flow.orig.src) || *gone == at(flow.orig.dst))
        {
            return true;
        }
        let refuses = |port: Option<&&Port>, direction| {
            port.is_some_and(|port| !self.allows(port, direction, &flow.orig))
        };
        refuses(self.ports.get(&at(flow.orig.src)), Direction::Egress)
            || refuses(self.ports.get(&at(flow.orig.dst)), Direction::Ingress)
    }

    fn allows(&self, port: &Port, direction: Direction, tuple: &Tuple) -> bool {
        if !port.port_security_enabled || always(direction, tuple) {
            return true;
        }
        let groups = port
            .security_group_ids
            .iter()
            .filter_map(|id| self.groups.get(id));
        groups
            .flat_map(|group| &group.rules)
            .any(|rule| rule.direction == direction && matches(rule, tuple))
    }
}

/// What the filter lets through without a rule.
fn always(direction: Direction, tuple: &Tuple) -> bool {
    let client = [(68, 67), (546, 547)].contains(&(tuple.sport, tuple.dport));
    let server = [(67, 68), (547, 546)].contains(&(tuple.sport, tuple.dport));
    match (tuple.protocol, direction) {
        (UDP, Direction::Egress) => client,
        (UDP, Direction::Ingress) => server,
        (TCP, Direction::Egress) => tuple.dst == METADATA_IP && tuple.dport == 80,
        // Neighbour discovery is not tracked; what is there may stay for its few seconds.
        (ICMPV6, _) => true,
        _ => false,
    }
}

fn matches(rule: &SecurityGroupRule, tuple: &Tuple) -> bool {
    let remote = match rule.direction {
        Direction::Ingress => tuple.src,
        Direction::Egress => tuple.dst,
    };
    if remote.is_ipv4() != (rule.ethertype == Ethertype::V4) {
        return false;
    }
    if rule
        .remote_ip_prefix
        .is_some_and(|prefix| !prefix.contains(&remote))
    {
        return false;
    }
    if rule
        .remote_group_members
        .as_ref()
        .is_some_and(|members| !members.iter().any(|net| net.contains(&remote)))
    {
        return false;
    }
    let Some(protocol) = rule.protocol else {
        return true;
    };
    let protocol = if protocol == ICMP && rule.ethertype == Ethertype::V6 {
        ICMPV6
    } else {
        protocol
    };
    if protocol != tuple.protocol {
        return false;
    }
    if protocol == ICMP {
        let [kind, code] = tuple.dport.to_be_bytes().map(u16::from);
        return rule.port_min.is_none_or(|min| min == kind)
            && rule.port_max.is_none_or(|max| max == code);
    }
    let (min, max) = (
        rule.port_min.or(rule.port_max),
        rule.port_max.or(rule.port_min),
    );
    min.is_none_or(|min| tuple.dport >= min) && max.is_none_or(|max| tuple.dport <= max)
}

/// Whether everything that `old` allowed is allowed by `new` too, so that no connection can have
/// lost its rule. May say no too often, never yes.
#[must_use]
pub fn only_grew(old: &HostWanted, new: &HostWanted) -> bool {
    let ports: BTreeMap<Uuid, &Port> = new.ports.iter().map(|port| (port.id, port)).collect();
    let groups: BTreeMap<Uuid, &SecurityGroup> = new
        .security_groups
        .iter()
        .map(|group| (group.id, group))
        .collect();
    let port_grew = |old: &Port| {
        ports.get(&old.id).is_some_and(|new| {
            old.network_id == new.network_id
                && old.port_security_enabled >= new.port_security_enabled
                && old.fixed_ips.iter().all(|ip| new.fixed_ips.contains(ip))
                && old
                    .security_group_ids
                    .iter()
                    .all(|id| new.security_group_ids.contains(id))
        })
    };
    let group_grew = |old: &SecurityGroup| {
        groups.get(&old.id).is_none_or(|new| {
            old.rules == new.rules
                || old
                    .rules
                    .iter()
                    .all(|rule| new.rules.iter().any(|wider| rule_grew(rule, wider)))
        })
    };
    old.ports.iter().all(port_grew) && old.security_groups.iter().all(group_grew)
}

fn rule_grew(old: &SecurityGroupRule, new: &SecurityGroupRule) -> bool {
    let same_but_members = |rule: &SecurityGroupRule| {
        (
            rule.direction,
            rule.ethertype,
            rule.protocol,
            rule.port_min,
            rule.port_max,
            rule.remote_ip_prefix,
        )
    };
    if same_but_members(old) != same_but_members(new) {
        return false;
    }
    match (&old.remote_group_members, &new.remote_group_members) {
        (old, new) if old == new => true,
        (Some(old), Some(new)) => old.iter().all(|net| new.contains(net)),
        _ => false,
    }
}

/// Whether a router translates a connection as it would not now: to or from a floating IP that
/// has gone or moved, or from a gateway address that is another one now.
#[must_use]
pub fn router_forbids(router: &Router, flow: &Flow) -> bool {
    if flow.orig.dst == METADATA_IP {
        return false;
    }
    let fixed = |floating: IpAddr| {
        router
            .floating_ips
            .iter()
            .find(|f| f.floating_ip == floating)
            .map(|f| f.fixed_ip)
    };
    let (wanted_dst, real_dst) = (flow.orig.dst, flow.reply.src);
    if wanted_dst != real_dst && fixed(wanted_dst) != Some(real_dst) {
        return true;
    }
    let (real_src, shown_src) = (flow.orig.src, flow.reply.dst);
    if real_src == shown_src {
        // A connection to a floating IP from before it was one is not translated.
        return wanted_dst == real_dst && fixed(wanted_dst).is_some();
    }
    let by_gateway = router
        .gateway
        .as_ref()
        .is_some_and(|gateway| gateway.ip == shown_src);
    !by_gateway && fixed(shown_src) != Some(real_src)
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
