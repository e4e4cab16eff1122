#![allow(clippy::unwrap_used)]
use super::*;
use types::network_wanted::{AddressPair, DhcpPort, Subnet, SubnetIp};

const NET: Uuid = Uuid::from_u128(0x11111111_2222_0000_0000_000000000001);
const EXT: Uuid = Uuid::from_u128(0x33333333_4444_0000_0000_000000000002);
const GROUP: Uuid = Uuid::from_u128(0x55555555_6666_0000_0000_000000000003);
const PORT: Uuid = Uuid::from_u128(0x77777777_8888_0000_0000_000000000004);

fn port() -> Port {
    Port {
        id: PORT,
        network_id: NET,
        project_id: "p".into(),
        mac: Mac([0xfa, 0x16, 0x3e, 0, 0, 5]),
        fixed_ips: vec!["10.0.0.5".parse().unwrap()],
        device_id: "server".into(),
        device_owner: "compute:nova".into(),
        admin_state_up: true,
        port_security_enabled: true,
        allowed_address_pairs: vec![],
        security_group_ids: vec![GROUP],
        trunk: None,
    }
}

fn network(id: Uuid, external: bool, cidr: &str) -> Network {
    let subnet = Subnet {
        id: Uuid::from_u128(9),
        cidr: cidr.parse().unwrap(),
        gateway_ip: None,
        enable_dhcp: true,
        dns_nameservers: vec![],
        host_routes: vec![],
        advertised: None,
    };
    let dhcp = DhcpPort {
        port_id: Uuid::from_u128(8),
        mac: Mac([2; 6]),
        ips: vec![SubnetIp {
            subnet_id: subnet.id,
            ip: "10.0.0.2".parse().unwrap(),
            prefix: 24,
        }],
    };
    Network {
        id,
        project_id: "p".into(),
        mtu: 1450,
        external,
        subnets: vec![subnet],
        dhcp: (!external).then_some(dhcp),
        dns_domain: None,
        dhcp_hosts: vec![],
        tunnel: None,
    }
}

fn rules(wanted: &HostWanted) -> Ruleset {
    let zones = BTreeMap::from([(NET, 3)]);
    let marks = wanted
        .ports
        .iter()
        .zip(1..)
        .map(|(port, mark)| (port.id, mark))
        .collect();
    host_ruleset(&Input {
        table: "k",
        wanted,
        zones: &zones,
        marks: &marks,
        nat_external: true,
    })
}

fn wanted(port: Port) -> HostWanted {
    let group = SecurityGroup {
        id: GROUP,
        stateful: true,
        rules: vec![],
    };
    HostWanted {
        full: true,
        networks: vec![
            network(NET, false, "10.0.0.0/24"),
            network(EXT, true, "203.0.113.0/24"),
        ],
        ports: vec![port],
        security_groups: vec![group],
        ..HostWanted::default()
    }
}

fn chain(set: &Ruleset, family: &'static str, name: &str) -> Vec<String> {
    let chain = set
        .get_table(family, "k")
        .and_then(|table| table.get_chain(name));
    chain
        .map(|chain| chain.rules().to_vec())
        .unwrap_or_default()
}

#[test]
fn each_shape_of_rule() {
    use Direction::{Egress, Ingress};
    use Ethertype::{V4, V6};
    let rule = |direction, ethertype, protocol, min, max| SecurityGroupRule {
        direction,
        ethertype,
        protocol,
        port_min: min,
        port_max: max,
        remote_ip_prefix: None,
        remote_group_members: None,
    };
    for (rule, text) in [
        (
            rule(Ingress, V4, None, None, None),
            "meta nfproto ipv4 accept",
        ),
        (
            rule(Ingress, V4, Some(6), Some(22), Some(22)),
            "meta nfproto ipv4 meta l4proto 6 th dport 22 accept",
        ),
        (
            rule(Egress, V6, Some(17), Some(1), Some(99)),
            "meta nfproto ipv6 meta l4proto 17 th dport 1-99 accept",
        ),
        (
            rule(Ingress, V4, Some(1), Some(8), None),
            "meta nfproto ipv4 meta l4proto 1 icmp type 8 accept",
        ),
        (
            rule(Ingress, V4, Some(1), Some(3), Some(4)),
            "meta nfproto ipv4 meta l4proto 1 icmp type 3 icmp code 4 accept",
        ),
        (
            rule(Ingress, V6, Some(1), Some(128), None),
            "meta nfproto ipv6 meta l4proto 58 icmpv6 type 128 accept",
        ),
        (
            rule(Ingress, V4, Some(47), Some(1), Some(2)),
            "meta nfproto ipv4 meta l4proto 47 accept",
        ),
    ] {
        assert_eq!(rule_text(&rule).as_deref(), Some(text));
    }
}

#[test]
fn what_no_packet_can_be_is_no_rule() {
    let rule = |protocol, min, max| SecurityGroupRule {
        direction: Direction::Ingress,
        ethertype: Ethertype::V4,
        protocol: Some(protocol),
        port_min: Some(min),
        port_max: Some(max),
        remote_ip_prefix: None,
        remote_group_members: None,
    };
    for (rule, good) in [
        (rule(1, 255, 255), true),
        (rule(1, 256, 0), false),
        (rule(1, 8, 256), false),
        (rule(6, 0, 65535), true),
        (rule(6, 2, 1), false),
    ] {
        assert_eq!(rule_text(&rule).is_some(), good, "{rule:?}");
    }
}

#[test]
fn the_other_side_of_a_rule() {
    let base = SecurityGroupRule {
        direction: Direction::Ingress,
        ethertype: Ethertype::V4,
        protocol: None,
        port_min: None,
        port_max: None,
        remote_ip_prefix: None,
        remote_group_members: None,
    };
    let prefix = |text: &str| SecurityGroupRule {
        remote_ip_prefix: Some(text.parse().unwrap()),
        ..base.clone()
    };
    let group = |members: &[&str]| SecurityGroupRule {
        remote_group_members: Some(members.iter().map(|net| net.parse().unwrap()).collect()),
        ..base.clone()
    };
    let egress = |rule: SecurityGroupRule| SecurityGroupRule {
        direction: Direction::Egress,
        ..rule
    };
    for (rule, text) in [
        (
            prefix("10.0.0.9/24"),
            Some("meta nfproto ipv4 ip saddr 10.0.0.0/24 accept"),
        ),
        (
            egress(prefix("10.0.0.9/32")),
            Some("meta nfproto ipv4 ip daddr 10.0.0.9 accept"),
        ),
        (prefix("0.0.0.0/0"), Some("meta nfproto ipv4 accept")),
        (prefix("fd00::/8"), None),
        (group(&[]), None),
        (group(&["fd00::1/128"]), None),
        (
            group(&["10.0.0.6/32", "fd00::1/128", "10.0.0.5/32", "10.0.0.6/32"]),
            Some("meta nfproto ipv4 ip saddr { 10.0.0.5, 10.0.0.6 } accept"),
        ),
        // A range that holds the others: nft refuses sets whose parts overlap.
        (
            group(&["10.0.0.6/32", "10.0.0.0/24"]),
            Some("meta nfproto ipv4 ip saddr { 10.0.0.0/24 } accept"),
        ),
    ] {
        assert_eq!(rule_text(&rule).as_deref(), text, "{rule:?}");
    }
}

#[test]
fn a_secured_port_is_in_every_map_and_an_open_one_in_none() {
    let text = rules(&wanted(port())).replace_text();
    for line in [
        format!("add element bridge k guards {{ \"tap77777777-88\" : jump guard-{PORT} }}"),
        format!("add element bridge k senders {{ \"tap77777777-88\" : jump from-{PORT} }}"),
        format!("add element bridge k receivers {{ \"tap77777777-88\" : jump to-{PORT} }}"),
        format!("add element inet k senders {{ 0x00010000 : goto out-{PORT} }}"),
        format!("add element inet k receivers {{ 0x00000001 : goto in-{PORT} }}"),
        "add element bridge k tenant_links { \"tap77777777-88\" }".to_owned(),
        "add element inet k zones { \"kbr11111111-22\" : goto zone-3 }".to_owned(),
        "add rule inet k zone-3 ct zone set 3".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    let open = rules(&wanted(Port {
        port_security_enabled: false,
        ..port()
    }))
    .replace_text();
    assert!(
        !open.contains("guard-") && !open.contains("goto in-"),
        "{open}"
    );
    // Still not a way to the host.
    assert!(open.contains("tenant_links { \"tap77777777-88\" }"));
}

#[test]
fn sources_follow_addresses_and_pairs() {
    let mut port = port();
    let other = Mac([2, 0, 0, 0, 0, 9]);
    port.allowed_address_pairs = vec![
        AddressPair {
            ip: "10.0.0.0/28".parse().unwrap(),
            mac: None,
        },
        AddressPair {
            ip: "10.0.0.77/32".parse().unwrap(),
            mac: Some(other),
        },
        AddressPair {
            ip: "fd00::5/128".parse().unwrap(),
            mac: None,
        },
    ];
    let set = rules(&wanted(port));
    let guard = chain(&set, "bridge", &format!("guard-{PORT}"));
    for rule in [
        "ether saddr != { 02:00:00:00:00:09, fa:16:3e:00:00:05 } drop",
        "ether saddr fa:16:3e:00:00:05 ip saddr { 10.0.0.0/28 } return",
        "ether saddr 02:00:00:00:00:09 ip saddr { 10.0.0.77 } return",
        "ether saddr fa:16:3e:00:00:05 ip6 saddr { fd00::5, fe80::f816:3eff:fe00:5 } return",
        "ether saddr 02:00:00:00:00:09 arp saddr ether 02:00:00:00:00:09 arp saddr ip { 0.0.0.0, 10.0.0.77 } return",
    ] {
        assert!(
            guard.iter().any(|line| line == rule),
            "{rule} is missing in {guard:#?}"
        );
    }
    assert_eq!(guard.last().map(String::as_str), Some("drop"));
}

#[test]
fn stateless_groups_do_not_look_at_connections() {
    let mut state = wanted(port());
    let with = rules(&state);
    assert!(
        chain(&with, "inet", &format!("in-{PORT}"))
            .iter()
            .any(|rule| rule.contains("established"))
    );
    state.security_groups[0].stateful = false;
    let without = rules(&state);
    for direction in ["in", "out"] {
        let rules = chain(&without, "inet", &format!("{direction}-{PORT}"));
        assert!(
            rules.iter().all(|rule| !rule.contains("ct state")),
            "{rules:?}"
        );
    }
}

#[test]
fn the_way_out_is_for_external_networks_only() {
    let set = rules(&wanted(port()));
    let post = chain(&set, "inet", "postrouting");
    assert_eq!(
        post,
        [
            "oifname \"kbr*\" return",
            "ip saddr 203.0.113.0/24 ip daddr != 203.0.113.0/24 masquerade"
        ]
    );
    // A port in the external network is guarded against the host too.
    let text = rules(&wanted(Port {
        network_id: EXT,
        ..port()
    }))
    .replace_text();
    assert!(
        text.contains(&format!(
            "host_v4_to {{ \"kbr33333333-44\" . 10.0.0.5 : goto in-{PORT} }}"
        )),
        "{text}"
    );
    assert!(
        !text.contains("tenant_links { \"tap"),
        "the external network may speak to the host"
    );
}

#[test]
fn link_local_addresses() {
    assert_eq!(
        link_local(Mac([0xfa, 0x16, 0x3e, 0, 0, 5])).to_string(),
        "fe80::f816:3eff:fe00:5"
    );
    assert_eq!(
        link_local(Mac([2, 0, 0, 0, 0, 1])).to_string(),
        "fe80::ff:fe00:1"
    );
}

/// OSSA-2013-020: the members of a group stand in its rules once, not once for each port that has the group.
#[test]
fn rules_grow_with_the_ports_not_with_their_square() {
    let size = |ports: u8| {
        let mut wanted = wanted(port());
        wanted.ports = (1..=ports)
            .map(|number| Port {
                id: Uuid::from_u128(PORT.as_u128() + u128::from(number)),
                mac: Mac([0xfa, 0x16, 0x3e, 0, 1, number]),
                fixed_ips: vec![format!("10.0.0.{number}").parse().unwrap()],
                ..port()
            })
            .collect();
        let members = wanted
            .ports
            .iter()
            .map(|port| IpNet::from(port.fixed_ips[0]));
        wanted.security_groups[0].rules = vec![SecurityGroupRule {
            direction: Direction::Ingress,
            ethertype: Ethertype::V4,
            protocol: None,
            port_min: None,
            port_max: None,
            remote_ip_prefix: None,
            remote_group_members: Some(members.collect()),
        }];
        format!("{:?}", rules(&wanted)).len()
    };
    let (few, many) = (size(20), size(200));
    assert!(many < few * 11, "{few} bytes for 20 ports, {many} for 200");
}
