#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{Config, Secret};
use crate::desired::desired;
use crate::names;
use std::net::IpAddr;
use types::network_wanted::*;

const NET: Uuid = Uuid::from_u128(0x11111111_2222_0000_0000_000000000001);
const EXT: Uuid = Uuid::from_u128(0x33333333_4444_0000_0000_000000000002);
const PORT: Uuid = Uuid::from_u128(0x55555555_6666_0000_0000_000000000003);
const ROUTER: Uuid = Uuid::from_u128(0x77777777_8888_0000_0000_000000000004);
const INSIDE: Uuid = Uuid::from_u128(0x99999999_aaaa_0000_0000_000000000005);
const OUTSIDE: Uuid = Uuid::from_u128(0xbbbbbbbb_cccc_0000_0000_000000000006);

fn cloud() -> CloudId {
    CloudId::new("c1").unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(id: Uuid, external: bool, cidr: &str, gateway: &str) -> Network {
    let subnet = Subnet {
        id: Uuid::from_u128(9),
        cidr: cidr.parse().unwrap(),
        gateway_ip: Some(ip(gateway)),
        enable_dhcp: !external,
        dns_nameservers: vec![],
        host_routes: vec![],
        advertised: None,
    };
    let dhcp = DhcpPort {
        port_id: Uuid::from_u128(8),
        mac: Mac([2, 0, 0, 0, 0, 8]),
        ips: vec![SubnetIp {
            subnet_id: subnet.id,
            ip: ip("10.0.0.2"),
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

fn wanted() -> HostWanted {
    let port = Port {
        id: PORT,
        network_id: NET,
        project_id: "p".into(),
        mac: Mac([2, 0, 0, 0, 0, 5]),
        fixed_ips: vec![ip("10.0.0.5")],
        device_id: "server".into(),
        device_owner: "compute:nova".into(),
        admin_state_up: true,
        port_security_enabled: true,
        allowed_address_pairs: vec![],
        security_group_ids: vec![],
        trunk: None,
    };
    let interface = RouterInterface {
        port_id: INSIDE,
        network_id: NET,
        ip: ip("10.0.0.1"),
        prefix: 24,
        mac: Mac([2, 0, 0, 0, 0, 1]),
    };
    let gateway = RouterGateway {
        port_id: OUTSIDE,
        network_id: EXT,
        ip: ip("203.0.113.10"),
        prefix: 24,
        mac: Mac([2, 0, 0, 0, 0, 2]),
        next_hop: Some(ip("203.0.113.1")),
        enable_snat: true,
    };
    let router = Router {
        id: ROUTER,
        project_id: "p".into(),
        admin_state_up: true,
        interfaces: vec![interface],
        gateway: Some(gateway),
        routes: vec![],
        floating_ips: vec![],
    };
    HostWanted {
        full: true,
        networks: vec![
            network(NET, false, "10.0.0.0/24", "10.0.0.1"),
            network(EXT, true, "203.0.113.0/24", "203.0.113.1"),
        ],
        ports: vec![port],
        routers: vec![router],
        ..HostWanted::default()
    }
}

fn objects(wanted: &HostWanted) -> Desired {
    desired(&Config::new(cloud(), "h1", Secret::new("s")), wanted)
}

/// The machine as it is after everything was done.
fn realised(desired: &Desired) -> Observed {
    let zones = zones(&cloud(), desired, &Observed::default());
    let mut observed = Observed::default();
    for (name, link) in &desired.links {
        let (kind, mac) = match &link.kind {
            LinkKind::Bridge { mac, .. } => ("bridge", Some(*mac)),
            LinkKind::Tap => ("tun", None),
            LinkKind::Vlan { .. } => ("vlan", None),
            LinkKind::Veth { .. } | LinkKind::VlanCable { .. } => ("veth", None),
            LinkKind::Vxlan { .. } => ("vxlan", None),
        };
        let tunnel = match &link.kind {
            LinkKind::Vxlan { vni, local, peers } => {
                observed.floods.insert(name.clone(), peers.clone());
                Some((*vni, *local))
            }
            _ => None,
        };
        let seen = SeenLink {
            kind: kind.into(),
            tunnel,
            vlan: match &link.kind {
                LinkKind::Vlan { parent, id } => Some((parent.clone(), *id)),
                _ => None,
            },
            peer: match &link.kind {
                LinkKind::VlanCable { inner, .. } => Some(inner.clone()),
                _ => None,
            },
            index: 0,
            mtu: link.mtu,
            mac,
            master: link.master.clone(),
            up: link.up,
            alias: Some(Alias::new(
                &cloud(),
                link.object,
                zones.get(&link.object).copied(),
            )),
            addresses: link.addresses.clone(),
        };
        observed.links.insert(name.clone(), seen);
    }
    for (name, space) in &desired.spaces {
        let inner = |inner: &Inner| SeenLink {
            kind: "veth".into(),
            mtu: inner.mtu,
            mac: Some(inner.mac),
            up: true,
            addresses: inner.addresses.clone(),
            ..SeenLink::default()
        };
        let seen = SeenSpace {
            links: space
                .links
                .iter()
                .map(|(name, link)| (name.clone(), inner(link)))
                .collect(),
            loopback_up: true,
            routes: space.routes.clone(),
        };
        observed.spaces.insert(name.clone(), Some(seen));
    }
    observed
}

fn make(desired: &Desired, observed: &Observed) -> Plan {
    plan(
        &cloud(),
        desired,
        &zones(&cloud(), desired, observed),
        observed,
    )
}

fn lines(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|step| step.line.as_str()).collect()
}

#[test]
fn from_nothing() {
    let desired = objects(&wanted());
    let plan = make(&desired, &Observed::default());
    assert!(plan.conflicts.is_empty() && plan.spaces_gone.is_empty());
    let dhcp = names::dhcp_space(&cloud(), &NET);
    let router = names::router_space(&cloud(), &ROUTER);
    let root = lines(&plan.root);
    assert_eq!(
        root[..2],
        [format!("netns add {dhcp}"), format!("netns add {router}")]
    );
    for line in [
        "link add name kbr11111111-22 address 0a:11:11:22:22:00 mtu 1450 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 nf_call_iptables 1 nf_call_ip6tables 1",
        &format!("link set dev kbr11111111-22 alias kilonova/c1/{NET}/zone-1 addrgenmode none up"),
        "addr add 203.0.113.1/24 dev kbr33333333-44",
        "tuntap add dev tap55555555-66 mode tap",
        &format!(
            "link set dev tap55555555-66 alias kilonova/c1/{PORT} mtu 1450 addrgenmode none master kbr11111111-22 up"
        ),
        &format!(
            "link add name kqrbbbbbbbb-cc mtu 1450 type veth peer name qg-bbbbbbbb-cc address 02:00:00:00:00:02 mtu 1450 netns {router}"
        ),
    ] {
        assert!(root.contains(&line), "{line} is missing in {root:#?}");
    }
    assert_eq!(
        lines(&plan.spaces[&dhcp]),
        [
            "link set dev lo up",
            "addr add 10.0.0.2/24 dev eth0",
            "addr add 169.254.169.254/32 dev eth0",
            "link set dev eth0 up",
        ]
    );
    assert_eq!(
        lines(&plan.spaces[&router]).last(),
        Some(&"route replace 0.0.0.0/0 via 203.0.113.1 proto static")
    );
}

#[test]
fn what_is_there_stays_untouched() {
    let desired = objects(&wanted());
    let observed = realised(&desired);
    let plan = make(&desired, &observed);
    assert!(plan.is_empty(), "{plan:#?}");
}

#[test]
fn everything_of_this_cloud_goes_and_nothing_else() {
    let desired = objects(&wanted());
    let mut observed = realised(&desired);
    let foreign = SeenLink {
        kind: "bridge".into(),
        ..SeenLink::default()
    };
    observed.links.insert("br0".into(), foreign.clone());
    let other = Alias {
        cloud: "c2".into(),
        object: NET,
        zone: Some(2),
    };
    observed.links.insert(
        "kbrother".into(),
        SeenLink {
            alias: Some(other),
            ..foreign
        },
    );
    let plan = make(&Desired::default(), &observed);
    assert_eq!(plan.spaces_gone.len(), 2);
    let removed = lines(&plan.root);
    assert_eq!(removed.len(), desired.links.len() + 2, "{removed:?}");
    assert!(
        !removed
            .iter()
            .any(|line| line.contains("br0") || line.contains("kbrother"))
    );
    // Interfaces first: removing a namespace frees its cables only some time later.
    assert!(removed[desired.links.len()].starts_with("netns del "));
}

#[test]
fn names_that_others_hold_are_conflicts() {
    let desired = objects(&wanted());
    let alias = |cloud: &str, object| {
        Some(Alias {
            cloud: cloud.into(),
            object,
            zone: None,
        })
    };
    for (kind, alias, good) in [
        ("tun", None, true),
        ("veth", None, true),
        ("bridge", None, false),
        ("tun", alias("c2", PORT), false),
        ("tun", alias("c1", NET), false),
        ("tun", alias("c1", PORT), true),
    ] {
        let mut observed = realised(&desired);
        let tap = observed.links.get_mut("tap55555555-66").unwrap();
        tap.kind = kind.into();
        tap.alias = alias.clone();
        let plan = make(&desired, &observed);
        let conflicts: Vec<Uuid> = plan.conflicts.iter().map(|(object, _)| *object).collect();
        assert_eq!(conflicts.is_empty(), good, "{kind} {alias:?}: {plan:?}");
        assert!(good || conflicts == [PORT]);
    }
}

#[test]
fn a_broken_cable_is_made_anew_with_all_that_hangs_on_it() {
    let desired = objects(&wanted());
    let router = names::router_space(&cloud(), &ROUTER);
    let mut observed = realised(&desired);
    observed
        .spaces
        .get_mut(&router)
        .unwrap()
        .as_mut()
        .unwrap()
        .links
        .remove("qg-bbbbbbbb-cc");
    let plan = make(&desired, &observed);
    let root = lines(&plan.root);
    assert_eq!(root[0], "link del dev kqrbbbbbbbb-cc");
    assert!(root[1].starts_with("link add name kqrbbbbbbbb-cc "));
    assert_eq!(
        lines(&plan.spaces[&router]),
        [
            "addr add 203.0.113.10/24 dev qg-bbbbbbbb-cc",
            "link set dev qg-bbbbbbbb-cc up",
            "route replace 0.0.0.0/0 via 203.0.113.1 proto static",
        ]
    );
}

#[test]
fn a_new_floating_ip_is_announced_and_an_old_one_removed() {
    let before = objects(&wanted());
    let mut state = wanted();
    let fip = |last: u8| FloatingIp {
        id: Uuid::from_u128(last.into()),
        floating_ip: IpAddr::from([203, 0, 113, last]),
        fixed_ip: ip("10.0.0.5"),
    };
    state.routers[0].floating_ips.push(fip(50));
    let with = objects(&state);
    let router = names::router_space(&cloud(), &ROUTER);
    let added = make(&with, &realised(&before));
    assert!(added.root.is_empty(), "{added:?}");
    assert_eq!(
        lines(&added.spaces[&router])[..2],
        [
            "addr add 203.0.113.50/32 dev qg-bbbbbbbb-cc",
            "link set dev qg-bbbbbbbb-cc address 02:00:00:00:00:02"
        ]
    );
    let removed = make(&before, &realised(&with));
    assert_eq!(
        lines(&removed.spaces[&router])[0],
        "addr del 203.0.113.50/32 dev qg-bbbbbbbb-cc"
    );
}

#[test]
fn routes_come_and_go() {
    let before = objects(&wanted());
    let mut state = wanted();
    state.routers[0].routes.push(Route {
        destination: "192.0.2.0/24".parse().unwrap(),
        nexthop: ip("10.0.0.9"),
    });
    let with = objects(&state);
    let router = names::router_space(&cloud(), &ROUTER);
    let added = make(&with, &realised(&before));
    assert_eq!(
        lines(&added.spaces[&router]),
        ["route replace 192.0.2.0/24 via 10.0.0.9 proto static"]
    );
    let removed = make(&before, &realised(&with));
    assert_eq!(
        lines(&removed.spaces[&router]),
        ["route del 192.0.2.0/24 via 10.0.0.9 proto static"]
    );
}

#[test]
fn zones_stay_and_are_never_shared() {
    let desired = objects(&wanted());
    let alias = |cloud: &str, object, zone| {
        Some(Alias {
            cloud: cloud.into(),
            object,
            zone: Some(zone),
        })
    };
    let bridge = |alias| SeenLink {
        kind: "bridge".into(),
        alias,
        ..SeenLink::default()
    };
    let mut observed = Observed::default();
    observed
        .links
        .insert("kbrother".into(), bridge(alias("c2", NET, 1)));
    assert_eq!(
        zones(&cloud(), &desired, &observed),
        BTreeMap::from([(NET, 2)]),
        "another cloud's is taken"
    );
    observed
        .links
        .insert("kbr11111111-22".into(), bridge(alias("c1", NET, 9)));
    assert_eq!(
        zones(&cloud(), &desired, &observed),
        BTreeMap::from([(NET, 9)]),
        "its own stays"
    );
}

#[test]
fn a_port_that_is_off_is_down() {
    let mut state = wanted();
    state.ports[0].admin_state_up = false;
    let plan = make(&objects(&state), &realised(&objects(&wanted())));
    assert_eq!(lines(&plan.root), ["link set dev tap55555555-66 down"]);
}

fn joined(peers: &[&str]) -> HostWanted {
    let mut wanted = wanted();
    wanted.networks[0].tunnel = Some(Tunnel {
        vni: 77,
        peers: peers.iter().map(|peer| ip(peer)).collect(),
    });
    wanted
}

fn with_tunnels(wanted: &HostWanted, local: &str) -> Desired {
    let mut config = Config::new(cloud(), "h1", Secret::new("s"));
    config.tunnel_ip = Some(ip(local));
    desired(&config, wanted)
}

fn planned(desired: &Desired, observed: &Observed) -> Plan {
    let zones = zones(&cloud(), desired, observed);
    plan(&cloud(), desired, &zones, observed)
}

#[test]
fn a_network_that_leaves_its_host_has_a_tunnel() {
    let name = names::tunnel(&NET);
    let wanted = with_tunnels(
        &joined(&["192.0.2.2", "192.0.2.3", "2001:db8::1"]),
        "192.0.2.1",
    );
    let fresh = planned(&wanted, &Observed::default());
    let made =
        format!("link add name {name} mtu 1450 type vxlan id 77 local 192.0.2.1 dstport 4789");
    assert!(lines(&fresh.root).contains(&&made[..]), "{:?}", fresh.root);
    let master = format!("master {}", names::bridge(&NET));
    assert!(
        lines(&fresh.root).iter().any(
            |line| line.starts_with(&format!("link set dev {name} ")) && line.contains(&master)
        )
    );
    assert_eq!(
        lines(&fresh.floods),
        ["192.0.2.2", "192.0.2.3"].map(|peer| format!(
            "fdb append 00:00:00:00:00:00 dev {name} dst {peer} self permanent"
        ))
    );
    assert!(planned(&wanted, &realised(&wanted)).is_empty());
    // Without an address for tunnels, or for a network that stays, there is none.
    assert!(!objects(&joined(&[])).links.contains_key(&name));
    assert!(
        !with_tunnels(&super::tests::wanted(), "192.0.2.1")
            .links
            .contains_key(&name)
    );
}

#[test]
fn a_tunnel_follows_the_hosts_of_its_network() {
    let name = names::tunnel(&NET);
    let before = with_tunnels(&joined(&["192.0.2.2", "192.0.2.3"]), "192.0.2.1");
    let after = with_tunnels(&joined(&["192.0.2.3", "192.0.2.4"]), "192.0.2.1");
    let changed = planned(&after, &realised(&before));
    assert!(changed.root.is_empty(), "{:?}", changed.root);
    assert_eq!(
        lines(&changed.floods),
        [
            format!("fdb del 00:00:00:00:00:00 dev {name} dst 192.0.2.2 self"),
            format!("fdb append 00:00:00:00:00:00 dev {name} dst 192.0.2.4 self permanent"),
        ]
    );
    // From another address it is made anew, with all that it needs.
    let elsewhere = with_tunnels(&joined(&["192.0.2.3"]), "192.0.2.9");
    let changed = planned(&elsewhere, &realised(&before));
    assert_eq!(lines(&changed.root)[0], format!("link del dev {name}"));
    assert_eq!(changed.floods.len(), 1);
    // Where the network does not leave the host any more, it goes.
    let gone = planned(
        &with_tunnels(&super::tests::wanted(), "192.0.2.1"),
        &realised(&before),
    );
    assert_eq!(lines(&gone.root), [format!("link del dev {name}")]);
}

#[test]
fn a_port_under_a_trunk_is_a_vlan_of_its_tap() {
    let under = Uuid::from_u128(0x01010101_6666_0000_0000_000000000007);
    let mut wanted = wanted();
    let mut port = wanted.ports[0].clone();
    port.id = under;
    port.trunk = Some(UnderTrunk {
        parent: PORT,
        vlan: 42,
    });
    wanted.ports.push(port.clone());
    let objects = |wanted: &HostWanted| super::tests::objects(wanted);
    let (tap, name) = (tap_name(&PORT), tap_name(&under));
    let desired = objects(&wanted);
    let made = planned(&desired, &Observed::default());
    let root = lines(&made.root);
    let at = |line: &str| root.iter().position(|one| one.starts_with(line)).unwrap();
    // By name it would be before its tap.
    assert!(name < tap);
    let made_at = at(&format!(
        "link add link {tap} name {name} mtu 1450 type vlan id 42"
    ));
    assert!(at(&format!("tuntap add dev {tap} ")) < made_at);
    assert!(planned(&desired, &realised(&desired)).is_empty());
    // Another number is another interface.
    let mut other = wanted.clone();
    other.ports[1].trunk = Some(UnderTrunk {
        parent: PORT,
        vlan: 43,
    });
    let changed = planned(&objects(&other), &realised(&desired));
    assert_eq!(
        lines(&changed.root)[..2],
        [
            format!("link del dev {name}"),
            format!("link add link {tap} name {name} mtu 1450 type vlan id 43"),
        ]
    );
    // It goes before its tap, which would take it along.
    wanted.ports.clear();
    let gone = planned(&objects(&wanted), &realised(&desired));
    assert_eq!(
        lines(&gone.root),
        [
            format!("link del dev {name}"),
            format!("link del dev {tap}")
        ]
    );
}

/// A port under the trunk of [`PORT`], as programs make it.
fn carried_by_programs(vlan: u16) -> (HostWanted, Desired, String) {
    let mut wanted = wanted();
    let mut port = wanted.ports[0].clone();
    port.id = Uuid::from_u128(0x01010101_6666_0000_0000_000000000007);
    port.trunk = Some(UnderTrunk { parent: PORT, vlan });
    let name = tap_name(&port.id);
    wanted.ports.push(port);
    let mut config = Config::new(cloud(), "h1", Secret::new("s"));
    config.vlans = Some(crate::Vlans::Programs);
    let desired = desired(&config, &wanted);
    (wanted, desired, name)
}

#[test]
fn without_vlans_a_port_under_a_trunk_is_a_cable() {
    let (wanted, desired, name) = carried_by_programs(42);
    let inner = name.replace("tap", "kvl");
    let made = format!("link add name {name} mtu 1450 type veth peer name {inner} mtu 1450");
    let bridge = names::bridge(&NET);
    let root = planned(&desired, &Observed::default()).root;
    let root = lines(&root);
    let at = root.iter().position(|line| **line == made).unwrap();
    assert!(root[at + 1].starts_with(&format!("link set dev {name} alias ")));
    assert!(root[at + 1].ends_with(&format!("master {bridge} up")));
    let there = realised(&desired);
    assert!(planned(&desired, &there).is_empty());
    // Another number is the programs' business.
    assert!(planned(&carried_by_programs(43).1, &there).is_empty());
    // The other end is gone, or a machine that has VLANs now.
    let mut broken = there.clone();
    broken.links.get_mut(&name).unwrap().peer = None;
    for (desired, observed) in [(&desired, &broken), (&objects(&wanted), &there)] {
        let first = &planned(desired, observed).root[0];
        assert_eq!(first.line, format!("link del dev {name}"));
    }
    // No longer under a trunk: a cable that the agent laid is no tap.
    let mut free = wanted.clone();
    free.ports[1].trunk = None;
    let root = planned(&objects(&free), &there).root;
    assert_eq!(
        lines(&root)[..2],
        [
            format!("link del dev {name}"),
            format!("tuntap add dev {name} mode tap")
        ]
    );
}

#[test]
fn a_plan_in_words() {
    let wanted = with_tunnels(&joined(&["192.0.2.2"]), "192.0.2.1");
    let there = realised(&wanted);
    let words = |observed: &Observed| planned(&wanted, observed).words();
    assert!(words(&there).is_empty());

    // Left over: a tap, a bridge, a tunnel, a namespace.
    let stray = |kind: &str, object: u128| SeenLink {
        kind: kind.into(),
        alias: Some(Alias::new(&cloud(), Uuid::from_u128(object), None)),
        ..SeenLink::default()
    };
    let mut more = there.clone();
    for (name, kind) in [
        ("tapstray", "tun"),
        ("kbrstray", "bridge"),
        ("kvxstray", "vxlan"),
    ] {
        more.links.insert(name.into(), stray(kind, 70));
    }
    let space = names::router_space(&cloud(), &Uuid::from_u128(71));
    more.spaces.insert(space.clone(), None);
    assert_eq!(
        words(&more),
        [
            "ip link del dev kbrstray".to_owned(),
            "ip link del dev kvxstray".to_owned(),
            "ip link del dev tapstray".to_owned(),
            format!("namespace {space} is not wanted"),
        ]
    );

    // Lost: a tap, the way of a tunnel, a namespace, a route.
    let (dhcp, router) = (
        names::dhcp_space(&cloud(), &NET),
        names::router_space(&cloud(), &ROUTER),
    );
    let mut less = there.clone();
    less.links.remove("tap55555555-66");
    less.floods.clear();
    less.spaces.remove(&dhcp);
    let seen = less.spaces.get_mut(&router).unwrap();
    seen.as_mut().unwrap().routes.clear();
    let words = words(&less);
    let tunnel = names::tunnel(&NET);
    for line in [
        format!("namespace {dhcp} is missing"),
        "ip tuntap add dev tap55555555-66 mode tap".to_owned(),
        format!("bridge fdb append 00:00:00:00:00:00 dev {tunnel} dst 192.0.2.2 self permanent"),
        format!("ip -n {dhcp} link set dev lo up"),
        format!("ip -n {router} route replace 0.0.0.0/0 via 203.0.113.1 proto static"),
    ] {
        assert!(words.contains(&line), "{line} is missing in {words:#?}");
    }

    // Others' interfaces are in the way.
    let mut taken = there;
    taken.links.get_mut("tap55555555-66").unwrap().alias =
        Some(Alias::new(&CloudId::new("c2").unwrap(), PORT, None));
    assert_eq!(
        planned(&wanted, &taken).words(),
        [format!(
            "interface tap55555555-66 belongs to {PORT} of cloud 'c2', wanted for {PORT}"
        )]
    );
}
