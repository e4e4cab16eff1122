#![allow(clippy::unwrap_used)]
use super::*;
use crate::conntrack::test_flow;
use types::network_wanted::{FloatingIp, Mac};

fn tuple(src: &str, dst: &str, protocol: u8, dport: u16) -> Tuple {
    Tuple {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        protocol,
        sport: 40000,
        dport,
    }
}

fn flow(zone: u16, src: &str, dst: &str, protocol: u8, dport: u16) -> Flow {
    let orig = tuple(src, dst, protocol, dport);
    test_flow(
        zone,
        orig,
        Tuple {
            src: orig.dst,
            dst: orig.src,
            ..orig
        },
    )
}

fn rule(direction: Direction, protocol: Option<u8>, port: Option<u16>) -> SecurityGroupRule {
    SecurityGroupRule {
        direction,
        ethertype: Ethertype::V4,
        protocol,
        port_min: port,
        port_max: port,
        remote_ip_prefix: None,
        remote_group_members: None,
    }
}

fn wanted(rules: Vec<SecurityGroupRule>) -> HostWanted {
    let port = Port {
        id: Uuid::from_u128(1),
        network_id: Uuid::from_u128(10),
        project_id: "p".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        fixed_ips: vec!["10.0.0.5".parse().unwrap()],
        device_id: String::new(),
        device_owner: String::new(),
        admin_state_up: true,
        port_security_enabled: true,
        allowed_address_pairs: vec![],
        security_group_ids: vec![Uuid::from_u128(20)],
        trunk: None,
    };
    let group = SecurityGroup {
        id: Uuid::from_u128(20),
        stateful: true,
        rules,
    };
    HostWanted {
        ports: vec![port],
        security_groups: vec![group],
        full: true,
        ..HostWanted::default()
    }
}

#[test]
fn connections_without_a_rule_are_forbidden() {
    let mut from_range = rule(Direction::Ingress, Some(6), Some(80));
    from_range.remote_ip_prefix = Some("192.0.2.0/24".parse().unwrap());
    let mut members = rule(Direction::Ingress, Some(17), None);
    members.remote_group_members = Some(vec!["10.0.0.6/32".parse().unwrap()]);
    let mut echo = rule(Direction::Ingress, Some(1), None);
    echo.port_min = Some(8);
    let state = wanted(vec![
        rule(Direction::Ingress, Some(6), Some(22)),
        from_range,
        members,
        echo,
    ]);
    let zones = BTreeMap::from([(Uuid::from_u128(10), 7)]);
    let rules = Rules::new(&state, &state, &zones);
    for (flow, forbidden) in [
        (flow(7, "203.0.113.1", "10.0.0.5", 6, 22), false),
        (flow(7, "203.0.113.1", "10.0.0.5", 6, 23), true),
        (flow(7, "192.0.2.9", "10.0.0.5", 6, 80), false),
        (flow(7, "203.0.113.1", "10.0.0.5", 6, 80), true),
        (flow(7, "10.0.0.6", "10.0.0.5", 17, 9), false),
        (flow(7, "10.0.0.7", "10.0.0.5", 17, 9), true),
        (flow(7, "10.0.0.7", "10.0.0.5", 1, 0x0800), false),
        (flow(7, "10.0.0.7", "10.0.0.5", 1, 0x0d00), true),
        // From the guest: no egress rule at all, but metadata always.
        (flow(7, "10.0.0.5", "203.0.113.1", 6, 22), true),
        (flow(7, "10.0.0.5", "169.254.169.254", 6, 80), false),
        // Somebody else's connections: another zone, other addresses.
        (flow(8, "203.0.113.1", "10.0.0.5", 6, 23), false),
        (flow(7, "10.0.0.8", "10.0.0.9", 6, 23), false),
    ] {
        assert_eq!(rules.forbids(&flow), forbidden, "{flow:?}");
    }
}

#[test]
fn connections_of_a_port_that_went_are_forbidden() {
    let before = wanted(vec![]);
    let now = HostWanted::default();
    let zones = BTreeMap::from([(Uuid::from_u128(10), 7)]);
    let rules = Rules::new(&now, &before, &zones);
    assert!(rules.forbids(&flow(7, "10.0.0.5", "10.0.0.9", 6, 1)));
    assert!(!rules.forbids(&flow(7, "10.0.0.6", "10.0.0.9", 6, 1)));
}

#[test]
fn growth_is_told_from_loss() {
    let ssh = rule(Direction::Ingress, Some(6), Some(22));
    let mut few = rule(Direction::Ingress, None, None);
    few.remote_group_members = Some(vec!["10.0.0.6/32".parse().unwrap()]);
    let mut many = few.clone();
    many.remote_group_members = Some(vec![
        "10.0.0.7/32".parse().unwrap(),
        "10.0.0.6/32".parse().unwrap(),
    ]);
    let both = wanted(vec![ssh.clone(), few.clone()]);
    assert!(only_grew(&both, &both));
    assert!(only_grew(&wanted(vec![ssh.clone()]), &both));
    assert!(!only_grew(&both, &wanted(vec![ssh])));
    assert!(only_grew(
        &wanted(vec![few.clone()]),
        &wanted(vec![many.clone()])
    ));
    assert!(!only_grew(&wanted(vec![many]), &wanted(vec![few])));
    assert!(!only_grew(&both, &HostWanted::default()), "a port went");
    assert!(only_grew(&HostWanted::default(), &both));
    let mut without_group = both.clone();
    without_group.ports[0].security_group_ids.clear();
    assert!(!only_grew(&both, &without_group));
    let mut open = both.clone();
    open.ports[0].port_security_enabled = false;
    assert!(only_grew(&both, &open));
    assert!(!only_grew(&open, &both));
}

#[test]
fn translations_of_a_router() {
    let gateway = types::network_wanted::RouterGateway {
        port_id: Uuid::from_u128(3),
        network_id: Uuid::from_u128(4),
        ip: "203.0.113.10".parse().unwrap(),
        prefix: 24,
        mac: Mac([2, 0, 0, 0, 0, 2]),
        next_hop: None,
        enable_snat: true,
    };
    let fip = FloatingIp {
        id: Uuid::from_u128(5),
        floating_ip: "203.0.113.50".parse().unwrap(),
        fixed_ip: "10.0.0.5".parse().unwrap(),
    };
    let router = Router {
        id: Uuid::from_u128(2),
        project_id: "p".into(),
        admin_state_up: true,
        interfaces: vec![],
        gateway: Some(gateway),
        routes: vec![],
        floating_ips: vec![fip],
    };
    let translated = |src: &str, dst: &str, real_dst: &str, shown_src: &str| {
        test_flow(0, tuple(src, dst, 6, 22), tuple(real_dst, shown_src, 6, 22))
    };
    for (flow, forbidden) in [
        (
            translated("192.0.2.1", "203.0.113.50", "10.0.0.5", "192.0.2.1"),
            false,
        ),
        (
            translated("192.0.2.1", "203.0.113.50", "10.0.0.6", "192.0.2.1"),
            true,
        ),
        (
            translated("192.0.2.1", "203.0.113.51", "10.0.0.5", "192.0.2.1"),
            true,
        ),
        (
            translated("10.0.0.5", "192.0.2.1", "192.0.2.1", "203.0.113.50"),
            false,
        ),
        (
            translated("10.0.0.6", "192.0.2.1", "192.0.2.1", "203.0.113.50"),
            true,
        ),
        (
            translated("10.0.0.6", "192.0.2.1", "192.0.2.1", "203.0.113.10"),
            false,
        ),
        (
            translated("10.0.0.6", "192.0.2.1", "192.0.2.1", "203.0.113.11"),
            true,
        ),
        (
            translated("10.0.0.6", "10.1.0.7", "10.1.0.7", "10.0.0.6"),
            false,
        ),
        (
            translated("10.0.0.6", "169.254.169.254", "10.0.0.1", "10.0.0.6"),
            false,
        ),
        (
            translated("192.0.2.1", "203.0.113.50", "203.0.113.50", "192.0.2.1"),
            true,
        ),
    ] {
        assert_eq!(router_forbids(&router, &flow), forbidden, "{flow:?}");
    }
}
