//! The host's packet filter: anti-spoofing, security groups, conntrack zones, the way out.
//!
//! Not every kernel has connection tracking in the bridge family, so a frame is judged in two
//! places. The bridge family knows which tap it comes from and goes to: it drops forged frames
//! (chains `guard-<port>`) and notes the ports in the packet's mark (sender in the upper half,
//! receiver in the lower). With `nf_call_iptables` on the bridge the same packet then passes the inet
//! family, where `ct state` works: chain `egress` sends it by the upper half to `out-<port>` and
//! chain `ingress` by the lower half to `in-<port>`; an `accept` ends only one of the two.
//!
//! Each tenant network has its own conntrack zone, set by its bridge, so that equal addresses of
//! two tenants are different connections.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use types::network_wanted::{
    Direction, Ethertype, HostWanted, Mac, Network, Port, SecurityGroup, SecurityGroupRule,
    tap_name,
};
use uuid::Uuid;

use crate::names;
use crate::nft::{Chain, Ruleset, Table};

/// What the rules are made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// Name of the tables.
    pub table: &'a str,
    /// The host's wanted state.
    pub wanted: &'a HostWanted,
    /// Conntrack zone of each tenant network.
    pub zones: &'a BTreeMap<Uuid, u16>,
    /// Number of each port in packet marks, not 0.
    pub marks: &'a BTreeMap<Uuid, u16>,
    /// Whether external networks are masqueraded.
    pub nat_external: bool,
}

/// The whole rule set of the host.
#[must_use]
pub fn host_ruleset(input: &Input<'_>) -> Ruleset {
    let mut set = Ruleset::default();
    bridge_table(input, set.table("bridge", input.table));
    inet_table(input, set.table("inet", input.table));
    set
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn bridge_table(input: &Input<'_>, table: &mut Table) {
    // Before the bridge learns the sender's address (that comes after prerouting).
    table
        .base_chain(
            "prerouting",
            "type filter hook prerouting priority -300; policy accept;",
        )
        .rule("iifname vmap @guards");
    // Before br_netfilter hands the packet to the inet family (priority -1).
    table
        .base_chain(
            "forwarded",
            "type filter hook forward priority -200; policy accept;",
        )
        .rule("iifname vmap @senders")
        .rule("oifname vmap @receivers");
    // The host itself is no neighbour of tenant networks; without this it would answer ARP there.
    table
        .base_chain(
            "input",
            "type filter hook input priority -200; policy accept;",
        )
        .rule("iifname @tenant_links drop");
    table.map("guards", "type ifname : verdict;");
    table.map("senders", "type ifname : verdict;");
    table.map("receivers", "type ifname : verdict;");
    table.map("tenant_links", "type ifname;");

    let tenant = |network: &Uuid| {
        input
            .wanted
            .networks
            .iter()
            .any(|n| n.id == *network && !n.external)
    };
    for port in &input.wanted.ports {
        let tap = quoted(&tap_name(&port.id));
        if tenant(&port.network_id) {
            table
                .map("tenant_links", "type ifname;")
                .element(tap.clone(), "");
        }
        let Some(mark) = input
            .marks
            .get(&port.id)
            .filter(|_| port.port_security_enabled)
        else {
            continue;
        };
        guard(port, table.chain(format!("guard-{}", port.id)));
        let upper = u32::from(*mark) << 16;
        table.chain(format!("from-{}", port.id)).rule(format!(
            "meta mark set meta mark and 0x0000ffff or 0x{upper:08x}"
        ));
        table.chain(format!("to-{}", port.id)).rule(format!(
            "meta mark set meta mark and 0xffff0000 or 0x{mark:08x}"
        ));
        for (map, chain) in [
            ("guards", "guard"),
            ("senders", "from"),
            ("receivers", "to"),
        ] {
            let verdict = format!("jump {chain}-{}", port.id);
            table
                .map(map, "type ifname : verdict;")
                .element(tap.clone(), verdict);
        }
    }
    for network in input
        .wanted
        .networks
        .iter()
        .filter(|n| n.dhcp.is_some() && !n.external)
    {
        let veth = quoted(&names::dhcp_veth(&network.id));
        table.map("tenant_links", "type ifname;").element(veth, "");
    }
    for network in input.wanted.networks.iter().filter(|n| n.tunnel.is_some()) {
        let tunnel = quoted(&names::tunnel(&network.id));
        table
            .map("tenant_links", "type ifname;")
            .element(tunnel, "");
    }
    for interface in input.wanted.routers.iter().flat_map(|r| &r.interfaces) {
        if tenant(&interface.network_id) {
            let veth = quoted(&names::router_veth(&interface.port_id));
            table.map("tenant_links", "type ifname;").element(veth, "");
        }
    }
}

/// What a port may send from: for each MAC address its IPv4 and IPv6 ranges, merged so that no
/// two of them overlap (nft refuses overlapping ranges in one set).
fn sources(port: &Port) -> BTreeMap<Mac, (Vec<Ipv4Net>, Vec<Ipv6Net>)> {
    let own = port.fixed_ips.iter().map(|ip| (port.mac, IpNet::from(*ip)));
    let pairs = port
        .allowed_address_pairs
        .iter()
        .map(|pair| (pair.mac.unwrap_or(port.mac), pair.ip));
    let mut by_mac: BTreeMap<Mac, (Vec<Ipv4Net>, Vec<Ipv6Net>)> = BTreeMap::new();
    by_mac.entry(port.mac).or_default();
    for (mac, net) in own.chain(pairs) {
        let entry = by_mac.entry(mac).or_default();
        match net {
            IpNet::V4(net) => entry.0.push(net.trunc()),
            IpNet::V6(net) => entry.1.push(net.trunc()),
        }
    }
    for (mac, (v4, v6)) in &mut by_mac {
        v6.push(Ipv6Net::from(link_local(*mac)));
        *v4 = Ipv4Net::aggregate(v4);
        *v6 = Ipv6Net::aggregate(v6);
    }
    by_mac
}

/// The IPv6 link-local address made from a MAC address (RFC 4291, appendix A).
#[must_use]
pub fn link_local(mac: Mac) -> std::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    let word = |high: u16, low: u16| (high << 8) | low;
    std::net::Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xff),
        word(0xfe, d),
        word(e, f),
    )
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Host routes are written as plain addresses, so that the set stays a hash and not intervals.
fn net_text(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.trunc().to_string()
    }
}

fn v4_list(nets: &[Ipv4Net]) -> String {
    list(nets.iter().map(|net| net_text(&IpNet::V4(*net))))
}

fn v6_list(nets: &[Ipv6Net]) -> String {
    list(nets.iter().map(|net| net_text(&IpNet::V6(*net))))
}

/// Anti-spoofing of one port. `return` lets the frame go on.
fn guard(port: &Port, chain: &mut Chain) {
    let sources = sources(port);
    let macs = list(sources.keys());
    // First: the kernel has taken the tag out, so that `ip saddr` finds the packet behind it, but the
    // inet family is not shown tagged frames. Frames of a trunk's VLANs do not come by here.
    chain.rule("ether type { 8021q, 8021ad } drop");
    chain.rule(format!("ether saddr != {{ {macs} }} drop"));
    guard_ipv4(&sources, chain);
    guard_ipv6(&sources, chain);
    guard_arp(&sources, chain);
    // By a reverse ARP request QEMU says where a guest is that has come from another host.
    for mac in sources.keys() {
        chain.rule(format!("ether type 0x8035 ether saddr {mac} return"));
    }
    // Neither IP nor ARP: MPLS frames and the like could carry forged packets.
    chain.rule("drop");
}

type Sources = BTreeMap<Mac, (Vec<Ipv4Net>, Vec<Ipv6Net>)>;

fn guard_ipv4(sources: &Sources, chain: &mut Chain) {
    chain.rule("ether type ip udp sport 67 udp dport 68 drop comment \"DHCP server in a guest\"");
    chain.rule("ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 return");
    for (mac, (v4, _)) in sources.iter().filter(|(_, nets)| !nets.0.is_empty()) {
        chain.rule(format!(
            "ether saddr {mac} ip saddr {{ {} }} return",
            v4_list(v4)
        ));
    }
    chain.rule("ether type ip drop");
}

fn guard_ipv6(sources: &Sources, chain: &mut Chain) {
    chain.rule("icmpv6 type { nd-router-advert, nd-redirect } drop comment \"router in a guest\"");
    chain.rule(
        "ether type ip6 udp sport 547 udp dport 546 drop comment \"DHCPv6 server in a guest\"",
    );
    // The target of a neighbour advertisement stands 8 bytes into the ICMPv6 message (RFC 4861, 4.4).
    let all: Vec<Ipv6Net> = sources.values().flat_map(|nets| nets.1.clone()).collect();
    let targets = Ipv6Net::aggregate(&all);
    if !targets.iter().any(|net| net.prefix_len() == 0) {
        let ranges = targets.iter().map(|net| {
            let (low, high) = (u128::from(net.network()), u128::from(net.broadcast()));
            if low == high {
                format!("0x{low:032x}")
            } else {
                format!("0x{low:032x}-0x{high:032x}")
            }
        });
        chain.rule(format!(
            "icmpv6 type nd-neighbor-advert @th,64,128 != {{ {} }} drop",
            list(ranges)
        ));
    }
    // Duplicate address detection and joining multicast groups happen before there is an address.
    chain.rule("ip6 saddr :: icmpv6 type { 131, 133, 135, 143 } return");
    for (mac, (_, v6)) in sources {
        chain.rule(format!(
            "ether saddr {mac} ip6 saddr {{ {} }} return",
            v6_list(v6)
        ));
    }
    chain.rule("ether type ip6 drop");
}

fn guard_arp(sources: &Sources, chain: &mut Chain) {
    for (mac, (v4, _)) in sources {
        // 0.0.0.0 is the sender of an address probe (RFC 5227).
        let probe = Ipv4Net::from(std::net::Ipv4Addr::UNSPECIFIED);
        let whole = v4.iter().any(|net| net.prefix_len() == 0);
        let mut nets = v4.clone();
        if !whole {
            nets.push(probe);
        }
        let nets = v4_list(&Ipv4Net::aggregate(&nets));
        chain.rule(format!(
            "ether saddr {mac} arp saddr ether {mac} arp saddr ip {{ {nets} }} return"
        ));
    }
}

fn inet_table(input: &Input<'_>, table: &mut Table) {
    zones(input, table);
    table
        .base_chain(
            "egress",
            "type filter hook forward priority 0; policy accept;",
        )
        .rule("meta mark & 0xffff0000 vmap @senders");
    table
        .base_chain(
            "ingress",
            "type filter hook forward priority 1; policy accept;",
        )
        .rule("meta mark & 0x0000ffff vmap @receivers");
    table.map("senders", "type mark : verdict;");
    table.map("receivers", "type mark : verdict;");
    let groups: BTreeMap<Uuid, &SecurityGroup> = input
        .wanted
        .security_groups
        .iter()
        .map(|g| (g.id, g))
        .collect();
    for port in input
        .wanted
        .ports
        .iter()
        .filter(|p| p.port_security_enabled)
    {
        let Some(mark) = input.marks.get(&port.id) else {
            continue;
        };
        let network = input
            .wanted
            .networks
            .iter()
            .find(|n| n.id == port.network_id);
        port_chains(port, network, &groups, table);
        let upper = u32::from(*mark) << 16;
        table
            .map("senders", "type mark : verdict;")
            .element(format!("0x{upper:08x}"), format!("goto out-{}", port.id));
        table
            .map("receivers", "type mark : verdict;")
            .element(format!("0x{mark:08x}"), format!("goto in-{}", port.id));
    }
    for group in &input.wanted.security_groups {
        for (direction, prefix) in [(Direction::Ingress, "sgin"), (Direction::Egress, "sgout")] {
            let chain = table.chain(format!("{prefix}-{}", group.id));
            for rule in group
                .rules
                .iter()
                .filter(|rule| rule.direction == direction)
            {
                if let Some(text) = rule_text(rule) {
                    chain.rule(text);
                }
            }
        }
    }
    host_traffic(input, table);
    if input.nat_external {
        masquerade(input, table);
    }
}

fn zones(input: &Input<'_>, table: &mut Table) {
    table
        .base_chain(
            "prerouting",
            "type filter hook prerouting priority raw; policy accept;",
        )
        .rule("iifname vmap @zones");
    table.map("zones", "type ifname : verdict;");
    for (network, zone) in input.zones {
        table
            .chain(format!("zone-{zone}"))
            .rule(format!("ct zone set {zone}"));
        let bridge = quoted(&names::bridge(network));
        table
            .map("zones", "type ifname : verdict;")
            .element(bridge, format!("goto zone-{zone}"));
    }
}

fn port_chains(
    port: &Port,
    network: Option<&Network>,
    groups: &BTreeMap<Uuid, &SecurityGroup>,
    table: &mut Table,
) {
    let own: Vec<&SecurityGroup> = port
        .security_group_ids
        .iter()
        .filter_map(|id| groups.get(id).copied())
        .collect();
    let stateful = own.is_empty() || own.iter().any(|group| group.stateful);

    let out = table.chain(format!("out-{}", port.id));
    if stateful {
        out.rule("ct state established,related accept");
    }
    out.rule("udp sport 68 udp dport 67 accept comment \"DHCP\"");
    out.rule("meta nfproto ipv6 udp sport 546 udp dport 547 accept comment \"DHCPv6\"");
    out.rule("ip daddr 169.254.169.254 tcp dport 80 accept comment \"metadata\"");
    out.rule("icmpv6 type { 131, 132, 133, 135, 136, 143 } accept");
    if stateful {
        out.rule("ct state invalid drop");
    }
    for group in &own {
        out.rule(format!("jump sgout-{}", group.id));
    }
    out.rule("drop");

    let dhcp: Vec<IpAddr> = network
        .and_then(|n| n.dhcp.as_ref())
        .map(|dhcp| {
            dhcp.ips
                .iter()
                .map(|ip| ip.ip)
                .filter(IpAddr::is_ipv4)
                .collect()
        })
        .unwrap_or_default();
    let into = table.chain(format!("in-{}", port.id));
    if stateful {
        into.rule("ct state established,related accept");
    } else {
        into.rule("ip saddr 169.254.169.254 tcp sport 80 accept comment \"metadata\"");
    }
    let from = if dhcp.is_empty() {
        String::new()
    } else {
        format!("ip saddr {{ {} }} ", list(dhcp))
    };
    into.rule(format!(
        "{from}udp sport 67 udp dport 68 accept comment \"DHCP\""
    ));
    into.rule("meta nfproto ipv6 udp sport 547 udp dport 546 accept comment \"DHCPv6\"");
    into.rule("icmpv6 type { 130, 134, 135, 136 } accept");
    if stateful {
        into.rule("ct state invalid drop");
    }
    for group in &own {
        into.rule(format!("jump sgin-{}", group.id));
    }
    into.rule("drop");
}

/// The text of one security group rule; none if it can match nothing.
fn rule_text(rule: &SecurityGroupRule) -> Option<String> {
    let (family, saddr, daddr) = match rule.ethertype {
        Ethertype::V4 => ("ipv4", "ip saddr", "ip daddr"),
        Ethertype::V6 => ("ipv6", "ip6 saddr", "ip6 daddr"),
    };
    let remote = match rule.direction {
        Direction::Ingress => saddr,
        Direction::Egress => daddr,
    };
    let of_family = |net: &IpNet| matches!(net, IpNet::V4(_)) == (rule.ethertype == Ethertype::V4);
    let mut parts = vec![format!("meta nfproto {family}")];
    if let Some(prefix) = &rule.remote_ip_prefix {
        if !of_family(prefix) {
            return None;
        }
        if prefix.prefix_len() > 0 {
            parts.push(format!("{remote} {}", net_text(prefix)));
        }
    }
    if let Some(members) = &rule.remote_group_members {
        let nets: Vec<IpNet> = members
            .iter()
            .filter(|net| of_family(net))
            .map(IpNet::trunc)
            .collect();
        let nets = merged(&nets);
        if nets.is_empty() {
            return None;
        }
        if nets.iter().all(|net| net.prefix_len() > 0) {
            parts.push(format!(
                "{remote} {{ {} }}",
                list(nets.iter().map(net_text))
            ));
        }
    }
    parts.extend(protocol_text(rule)?);
    parts.push("accept".into());
    Some(parts.join(" "))
}

/// Drops duplicates and what lies within another range, without joining neighbours (a thousand
/// single addresses stay a hash set).
fn merged(nets: &[IpNet]) -> Vec<IpNet> {
    let mut sorted = nets.to_vec();
    sorted.sort_by_key(|net| (net.prefix_len(), *net));
    sorted.dedup();
    let wide: Vec<IpNet> = sorted
        .iter()
        .copied()
        .filter(|net| net.prefix_len() < net.max_prefix_len())
        .collect();
    sorted.retain(|net| !wide.iter().any(|other| other != net && other.contains(net)));
    sorted
}

/// The protocol part of a rule; none if no packet can be so (one text that nft refuses would keep
/// the rules of all ports from loading).
fn protocol_text(rule: &SecurityGroupRule) -> Option<Vec<String>> {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    /// TCP, UDP, DCCP, SCTP, UDP-Lite: protocols whose header begins with two ports.
    const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
    let Some(given) = rule.protocol else {
        return Some(vec![]);
    };
    // "icmp" in an IPv6 rule means ICMPv6, as in Neutron.
    let protocol = if given == ICMP && rule.ethertype == Ethertype::V6 {
        ICMPV6
    } else {
        given
    };
    let mut parts = vec![format!("meta l4proto {protocol}")];
    if protocol == ICMP || protocol == ICMPV6 {
        let word = if protocol == ICMP { "icmp" } else { "icmpv6" };
        for (field, value) in [("type", rule.port_min), ("code", rule.port_max)] {
            let Some(value) = value else { continue };
            let value = u8::try_from(value).ok()?;
            parts.push(format!("{word} {field} {value}"));
        }
    } else if WITH_PORTS.contains(&protocol) {
        let (min, max) = (
            rule.port_min.or(rule.port_max),
            rule.port_max.or(rule.port_min),
        );
        match min.zip(max) {
            Some((min, max)) if min == max => parts.push(format!("th dport {min}")),
            Some((min, max)) if min < max => parts.push(format!("th dport {min}-{max}")),
            Some(_) => return None,
            None => {}
        }
    }
    Some(parts)
}

/// Ports directly in an external network: the host holds an address there, and what it sends or
/// gets itself does not pass the forward hook.
fn host_traffic(input: &Input<'_>, table: &mut Table) {
    let external = |id: &Uuid| {
        input
            .wanted
            .networks
            .iter()
            .any(|n| n.id == *id && n.external)
    };
    let families = [
        ("host_v4", "ip", "ipv4_addr"),
        ("host_v6", "ip6", "ipv6_addr"),
    ];
    for (name, _, kind) in families {
        table.map(
            &format!("{name}_to"),
            &format!("type ifname . {kind} : verdict;"),
        );
        table.map(
            &format!("{name}_from"),
            &format!("type ifname . {kind} : verdict;"),
        );
    }
    let output = table.base_chain(
        "output",
        "type filter hook output priority 0; policy accept;",
    );
    for (name, family, _) in families {
        output.rule(format!("oifname . {family} daddr vmap @{name}_to"));
    }
    let into = table.base_chain("input", "type filter hook input priority 0; policy accept;");
    for (name, family, _) in families {
        into.rule(format!("iifname . {family} saddr vmap @{name}_from"));
    }
    for port in input
        .wanted
        .ports
        .iter()
        .filter(|p| p.port_security_enabled && external(&p.network_id))
    {
        let bridge = quoted(&names::bridge(&port.network_id));
        for ip in &port.fixed_ips {
            let (name, _, kind) = families[usize::from(ip.is_ipv6())];
            for (suffix, chain) in [("to", "in"), ("from", "out")] {
                table
                    .map(
                        &format!("{name}_{suffix}"),
                        &format!("type ifname . {kind} : verdict;"),
                    )
                    .element(
                        format!("{bridge} . {ip}"),
                        format!("goto {chain}-{}", port.id),
                    );
            }
        }
    }
}

/// Lets external networks out through the host's own address.
fn masquerade(input: &Input<'_>, table: &mut Table) {
    let cidrs: Vec<IpNet> = input
        .wanted
        .networks
        .iter()
        .filter(|network| network.external)
        .flat_map(|network| network.subnets.iter().map(|subnet| subnet.cidr.trunc()))
        .filter(|cidr| matches!(cidr, IpNet::V4(_)))
        .collect();
    let chain = table.base_chain(
        "postrouting",
        "type nat hook postrouting priority srcnat; policy accept;",
    );
    // Frames that are only bridged pass this hook too.
    chain.rule("oifname \"kbr*\" return");
    for cidr in cidrs {
        chain.rule(format!("ip saddr {cidr} ip daddr != {cidr} masquerade"));
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
