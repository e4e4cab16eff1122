//! The agent on a real kernel, in a network namespace of its own: nothing touches the machine's
//! network. Guests are namespaces on cables named like taps. Needs root, iproute2, nftables,
//! dnsmasq, busybox and python3; without them the tests say so and pass.
#![allow(clippy::unwrap_used)]

extern crate kilonova_network_agent as network_agent;

mod bench;
mod talk;
mod tap;

use std::time::{Duration, Instant};

use bench::Bench;
use network_agent::Vlans;
use talk::{http_get, ping, resolve, tcp_echo, tcp_talk, udp_echo, udp_talk};
use types::network_wanted::{Direction, ObjectStatus, Port, Status, tap_name};
use uuid::Uuid;

/// Long enough for one answer on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Short enough to prove silence often.
const NEVER: Duration = Duration::from_millis(700);
/// For who asks until there is an answer.
const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_guest_gets_its_network() {
    let Some(mut bench) = Bench::start("lease") else {
        return;
    };
    let (network, router) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    let b = bench.guest(network, "10.0.0.12");
    let report = bench.apply();
    assert!(
        report
            .ports
            .iter()
            .all(|port| port.status == Status::Active),
        "{report:?}"
    );
    assert!(
        report
            .routers
            .iter()
            .all(|router| router.status == Status::Active),
        "{report:?}"
    );

    let lease = a.dhcp();
    assert_eq!(lease["ip"], "10.0.0.11");
    assert_eq!(lease["router"], "10.0.0.1");
    assert_eq!(lease["dns"], "10.0.0.2");
    assert_eq!(lease["mtu"], "1442");
    assert_eq!(lease["domain"], "openstacklocal");
    assert_eq!(
        lease["staticroutes"],
        "169.254.169.254/32 10.0.0.2 0.0.0.0/0 10.0.0.1"
    );
    // A guest that is added later is known to the running DHCP server.
    let c = bench.guest(network, "10.0.0.13");
    bench.apply();
    assert_eq!(c.dhcp()["ip"], "10.0.0.13");
    assert_eq!(
        resolve(&b, "10.0.0.2", "host-10-0-0-13.openstacklocal"),
        "10.0.0.13"
    );

    for guest in [&a, &b] {
        guest.configure("10.0.0.1");
    }
    assert!(ping(&a, "10.0.0.1", SOON), "its router");
    assert!(ping(&a, "10.0.0.12", SOON), "a member of its group");
    assert!(ping(&a, "203.0.113.1", SOON), "the outside");
    let _ = router;

    // SNAT: the outside sees the router.
    let outside = bench.host();
    let server = tcp_echo(&outside, "203.0.113.1:9000");
    let talk = tcp_talk(&b, "203.0.113.1:9000", SOON).unwrap();
    assert_eq!(talk, "203.0.113.10");
    drop(server);
}

#[test]
fn floating_ips_and_rules_that_change() {
    let Some(mut bench) = Bench::start("float") else {
        return;
    };
    let (network, router) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    let b = bench.guest(network, "10.0.0.12");
    bench.floating(router, "203.0.113.50", "10.0.0.11");
    let report = bench.apply();
    assert_eq!(report.floating_ips.len(), 1);
    assert_eq!(report.floating_ips[0].status, Status::Active);
    for guest in [&a, &b] {
        guest.configure("10.0.0.1");
    }
    let outside = bench.host();
    let _ssh = tcp_echo(&a, "0.0.0.0:22");
    let _web = tcp_echo(&outside, "203.0.113.1:9000");
    assert_eq!(
        tcp_talk(&a, "203.0.113.1:9000", SOON).unwrap(),
        "203.0.113.50",
        "its own address outside"
    );
    assert!(
        tcp_talk(&outside, "203.0.113.50:22", NEVER).is_err(),
        "no rule lets it in"
    );

    bench.allow_tcp(22);
    bench.apply();
    assert_eq!(
        tcp_talk(&outside, "203.0.113.50:22", SOON).unwrap(),
        "203.0.113.1",
        "at once"
    );
    // Hairpin: a neighbour by the floating IP, and the guest itself.
    assert_eq!(
        tcp_talk(&b, "203.0.113.50:22", SOON).unwrap(),
        "203.0.113.10"
    );
    assert_eq!(
        tcp_talk(&a, "203.0.113.50:22", SOON).unwrap(),
        "203.0.113.50"
    );

    // A connection that is open when its rule goes is cut.
    let mut open = talk::connect(&outside, "203.0.113.50:22", SOON).unwrap();
    assert!(talk::still_talks(&mut open));
    bench.restart();
    assert!(
        talk::still_talks(&mut open),
        "an agent that restarts disturbs nobody"
    );
    bench.forbid_tcp(22);
    bench.apply();
    assert!(
        tcp_talk(&outside, "203.0.113.50:22", NEVER).is_err(),
        "no new connection"
    );
    assert!(!talk::still_talks(&mut open), "and the old one is cut");

    // Moved to the other guest: the outside learns it at once, the router announces the address.
    bench.allow_tcp(22);
    let _ssh_b = tcp_echo(&b, "0.0.0.0:22");
    bench.move_floating(router, "203.0.113.50", "10.0.0.12");
    bench.apply();
    assert!(tcp_talk(&outside, "203.0.113.50:22", SOON).is_ok());
    assert_eq!(
        tcp_talk(&b, "203.0.113.1:9000", SOON).unwrap(),
        "203.0.113.50"
    );
    assert_eq!(
        tcp_talk(&a, "203.0.113.1:9000", SOON).unwrap(),
        "203.0.113.10"
    );
}

#[test]
fn forged_packets_are_dropped() {
    let Some(mut bench) = Bench::start("spoof") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    let b = bench.guest(network, "10.0.0.12");
    bench.apply();
    for guest in [&a, &b] {
        guest.configure("10.0.0.1");
    }
    let _echo = udp_echo(&b, "0.0.0.0:7");
    bench.allow_udp(7);
    bench.apply();
    assert!(udp_talk(&a, "10.0.0.11:5000", "10.0.0.12:7", SOON));
    a.ip(&["addr", "add", "10.0.0.99/24", "dev", "eth0"]);
    assert!(
        !udp_talk(&a, "10.0.0.99:5000", "10.0.0.12:7", NEVER),
        "another IP address"
    );
    // ARP in its name fails too, so the neighbour cannot be poisoned.
    assert!(!b.neighbours().contains("10.0.0.99"), "{}", b.neighbours());
    bench.allow_pair(&a, "10.0.0.99/32");
    bench.apply();
    assert!(
        udp_talk(&a, "10.0.0.99:5000", "10.0.0.12:7", SOON),
        "an allowed address pair"
    );

    a.ip(&["link", "set", "dev", "eth0", "address", "02:00:00:00:00:99"]);
    a.ip(&["neigh", "flush", "dev", "eth0"]);
    assert!(
        !udp_talk(&a, "10.0.0.11:5000", "10.0.0.12:7", NEVER),
        "another MAC address"
    );
    bench.port_security(&a, false);
    bench.apply();
    a.ip(&["route", "replace", "default", "via", "10.0.0.1"]);
    b.ip(&["neigh", "flush", "dev", "eth0"]);
    assert!(
        udp_talk(&a, "10.0.0.11:5001", "10.0.0.12:7", SOON),
        "port security off"
    );
    // Everything allowed, which nft wants to be told in another way than a range.
    bench.allow_pair(&a, "0.0.0.0/0");
    bench.allow_pair(&a, "::/0");
    bench.port_security(&a, true);
    bench.apply();
    // A guest is no DHCP server, and the host no neighbour.
    bench.port_security(&a, true);
    a.ip(&["link", "set", "dev", "eth0", "address", &a.mac.to_string()]);
    bench.apply();
    a.ip(&["addr", "add", "203.0.113.77/24", "dev", "eth0"]);
    assert!(
        !ping(&a, "203.0.113.1", NEVER),
        "the host does not answer in a tenant network"
    );
}

#[test]
fn equal_ranges_of_two_tenants() {
    let Some(mut bench) = Bench::start("twins") else {
        return;
    };
    let (one, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let (two, _) = bench.tenant("10.0.0.0/24", "203.0.113.20");
    let guests = [
        (bench.guest(one, "10.0.0.11"), bench.guest(one, "10.0.0.12")),
        (bench.guest(two, "10.0.0.11"), bench.guest(two, "10.0.0.12")),
    ];
    let alone = bench.guest(two, "10.0.0.13");
    bench.allow_udp(7);
    bench.apply();
    for guest in guests.iter().flat_map(|(a, b)| [a, b]).chain([&alone]) {
        guest.configure("10.0.0.1");
    }
    // The same five-tuple in both networks: only zones keep the connections apart.
    let _servers = guests
        .each_ref()
        .map(|(server, _)| udp_echo(server, "0.0.0.0:7"));
    for (_, client) in &guests {
        assert!(udp_talk(client, "10.0.0.12:5555", "10.0.0.11:7", SOON));
    }
    assert!(
        !ping(&guests[0].0, "10.0.0.13", NEVER),
        "an address that only the other tenant has"
    );
    assert!(ping(&guests[1].0, "10.0.0.13", SOON));
    // The server of one tenant takes nothing any more; the other's equal connection goes on.
    bench.no_groups(&guests[0].0);
    bench.apply();
    assert!(udp_talk(
        &guests[1].1,
        "10.0.0.12:5555",
        "10.0.0.11:7",
        SOON
    ));
    assert!(!udp_talk(
        &guests[0].1,
        "10.0.0.12:5555",
        "10.0.0.11:7",
        NEVER
    ));
    assert!(udp_talk(
        &guests[1].1,
        "10.0.0.12:5555",
        "10.0.0.11:7",
        SOON
    ));
    assert_eq!(bench.zones().len(), 2);
}

#[test]
fn two_clouds_on_one_machine() {
    let Some(mut one) = Bench::start("clouds") else {
        return;
    };
    let mut two = one.beside();
    let mut pairs = Vec::new();
    for bench in [&mut one, &mut two] {
        let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
        pairs.push((
            bench.guest(network, "10.0.0.11"),
            bench.guest(network, "10.0.0.12"),
        ));
        let report = bench.apply();
        assert!(
            report
                .ports
                .iter()
                .all(|port| port.status == Status::Active),
            "{report:?}"
        );
    }
    for guest in pairs.iter().flat_map(|(a, b)| [a, b]) {
        guest.configure("10.0.0.1");
    }
    assert_eq!(
        one.zones().len(),
        2,
        "each network has its own zone: {:?}",
        one.zones()
    );
    for (a, _) in &pairs {
        assert!(ping(a, "10.0.0.12", SOON));
    }
    // One cloud looks at everything again, then goes; the other does not notice.
    one.restart();
    one.stop();
    assert_eq!(one.teardown().spaces.len(), 2);
    assert!(ping(&pairs[1].0, "10.0.0.12", SOON));
    assert_eq!(two.spaces().len(), 2);
    assert_eq!(pairs[1].0.dhcp()["ip"], "10.0.0.11");
}

/// The outside knows a floating IP by the MAC address of one router; another takes it over.
#[test]
fn a_floating_ip_that_changes_routers() {
    let Some(mut bench) = Bench::start("garp") else {
        return;
    };
    let (one, first) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let (two, second) = bench.tenant("10.0.0.0/24", "203.0.113.20");
    let (a, b) = (bench.guest(one, "10.0.0.11"), bench.guest(two, "10.0.0.11"));
    bench.allow_tcp(22);
    bench.floating(first, "203.0.113.50", "10.0.0.11");
    bench.apply();
    let mut servers = Vec::new();
    for guest in [&a, &b] {
        guest.configure("10.0.0.1");
        servers.push(tcp_echo(guest, "0.0.0.0:22"));
    }
    let outside = bench.host();
    assert!(tcp_talk(&outside, "203.0.113.50:22", SOON).is_ok());
    let before = outside.neighbour("203.0.113.50");
    bench.drop_floating(first);
    bench.floating(second, "203.0.113.50", "10.0.0.11");
    bench.apply();
    let after = outside.neighbour("203.0.113.50");
    assert_ne!(before, after, "announced");
    assert!(tcp_talk(&outside, "203.0.113.50:22", SOON).is_ok());
}

#[test]
fn metadata_by_both_ways() {
    let Some(mut bench) = Bench::start("meta") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    bench.apply();
    a.configure("10.0.0.1");
    for (way, via) in [("DHCP namespace", "10.0.0.2"), ("router", "10.0.0.1")] {
        a.ip(&["route", "replace", "169.254.169.254/32", "via", via]);
        let answer = http_get(
            &a,
            "169.254.169.254:80",
            "/openstack/latest/meta_data.json?x=1",
        );
        assert!(answer.starts_with("HTTP/1.1 200"), "{way}: {answer}");
        let seen = bench.last_metadata_request();
        assert!(
            seen.starts_with("GET /openstack/latest/meta_data.json?x=1 HTTP/1.1"),
            "{way}: {seen}"
        );
        let lines: Vec<&str> = seen.lines().collect();
        let signature = network_agent::metadata::sign(&bench::secret(), &a.server);
        for expected in [
            format!("x-instance-id: {}", a.server),
            "x-tenant-id: project".to_owned(),
            "x-forwarded-for: 10.0.0.11".to_owned(),
            format!("x-instance-id-signature: {signature}"),
        ] {
            let name = expected.split(':').next().unwrap();
            let same: Vec<_> = lines
                .iter()
                .filter(|line| line.starts_with(name) && line[name.len()..].starts_with(':'))
                .collect();
            assert_eq!(same, [&expected.as_str()], "{way}: {seen}");
        }
    }
    // Someone the network does not know.
    bench.allow_pair(&a, "10.0.0.66/32");
    bench.apply();
    a.ip(&["addr", "add", "10.0.0.66/24", "dev", "eth0"]);
    a.ip(&[
        "route",
        "replace",
        "169.254.169.254/32",
        "via",
        "10.0.0.2",
        "src",
        "10.0.0.66",
    ]);
    let answer = http_get(&a, "169.254.169.254:80", "/");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[test]
fn nothing_is_left_behind() {
    let Some(mut bench) = Bench::start("clean") else {
        return;
    };
    let (network, router) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    let tap = bench.tap_port(network, "10.0.0.14");
    bench.apply();
    a.configure("10.0.0.1");
    assert!(bench.links().contains(&tap), "the agent makes taps");
    // A foreign interface and a foreign namespace stay.
    bench
        .host()
        .ip(&["link", "add", "name", "kbrforeign", "type", "bridge"]);
    let pid = bench.dnsmasq_pid(network);
    let started = Instant::now();
    bench.tap_port(network, "10.0.0.15");
    bench.apply();
    println!("a new port was wired in {:?}", started.elapsed());
    assert_eq!(
        bench.dnsmasq_pid(network),
        pid,
        "a new guest does not restart the server"
    );

    bench.drop_port("10.0.0.14");
    bench.apply();
    assert!(!bench.links().contains(&tap));
    bench.drop_router(router);
    bench.apply();
    assert_eq!(bench.spaces().len(), 1, "{:?}", bench.spaces());

    bench.stop();
    let first = bench.teardown();
    assert_eq!(first.spaces.len(), 1);
    assert_eq!(
        bench.teardown(),
        network_agent::Removed::default(),
        "nothing left for a second time"
    );
    assert_eq!(bench.links(), ["kbrforeign", "lo"]);
    assert!(bench.spaces().is_empty());
    assert_eq!(bench.host_output(&["nft", "list", "tables"]), "");
    assert!(!bench.state_dir().exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}/comm")).exists() || bench::is_zombie(pid));
}

#[test]
fn an_address_that_changes_hands() {
    let Some(mut bench) = Bench::start("reuse") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let first = bench.guest(network, "10.0.0.11");
    bench.apply();
    assert_eq!(first.dhcp()["ip"], "10.0.0.11");
    // The lease is not over, but the port is gone; a new one has its address at once.
    bench.drop_port("10.0.0.11");
    let second = bench.guest(network, "10.0.0.11");
    bench.apply();
    assert_eq!(second.dhcp()["ip"], "10.0.0.11");
    assert_ne!(first.mac, second.mac);
}

type Damage<'a> = &'a dyn Fn(&Bench);

#[test]
fn what_breaks_is_mended() {
    let Some(mut bench) = Bench::start("mend") else {
        return;
    };
    let (network, router) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    bench.floating(router, "203.0.113.50", "10.0.0.11");
    bench.allow_tcp(22);
    bench.apply();
    a.configure("10.0.0.1");
    let _ssh = tcp_echo(&a, "0.0.0.0:22");
    let outside = bench.host();
    let works = |bench: &Bench| {
        let outside = bench.host();
        assert!(
            tcp_talk(&outside, "203.0.113.50:22", SOON).is_ok(),
            "the way in"
        );
        assert_eq!(a.dhcp()["ip"], "10.0.0.11", "DHCP");
        a.configure("10.0.0.1");
        let answer = http_get(&a, "169.254.169.254:80", "/");
        assert!(answer.starts_with("HTTP/1.1 200"), "metadata: {answer}");
        assert!(
            tcp_talk(&outside, "203.0.113.50:23", NEVER).is_err(),
            "the filter"
        );
    };
    works(&bench);
    let table = bench.host_output(&["nft", "list", "tables"]);
    let table = table
        .lines()
        .find(|line| line.contains("inet"))
        .unwrap()
        .replace("table ", "");
    let [family, name] = table.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{table}")
    };
    let dnsmasq = bench.dnsmasq_pid(network).to_string();
    let damages: [(&str, Damage<'_>); 6] = [
        ("rules", &|_| {
            assert!(outside.succeeds(&["nft", "delete", "table", family, name]))
        }),
        ("DHCP server", &|_| {
            assert!(outside.succeeds(&["kill", "-9", &dnsmasq]))
        }),
        ("address", &|bench| {
            bench.in_space("krouter", &["ip", "addr", "flush", "scope", "global"])
        }),
        ("bridge", &|bench| {
            drop(outside.ip(&["link", "del", &bench.bridge_of(network)]))
        }),
        ("router namespace", &|bench| bench.delete_space("krouter")),
        ("DHCP namespace", &|bench| bench.delete_space("kdhcp")),
    ];
    for (what, damage) in damages {
        println!("without its {what}");
        damage(&bench);
        bench.restart();
        works(&bench);
    }
}

/// What differs is told without a change, and made right at once where that is asked for.
#[test]
fn a_look_tells_what_would_be_mended() {
    let Some(mut bench) = Bench::start("look") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    bench.guest(network, "10.0.0.11");
    bench.tap_port(network, "10.0.0.12");
    bench.apply();
    assert_eq!(bench.look(false), Vec::<String>::new());
    let dhcp = format!("kdhcp-{network}-");
    let spaces = bench.spaces();
    let cloud = spaces.iter().find_map(|name| name.strip_prefix(&dhcp));
    let alias = format!("kilonova/{}/{network}", cloud.unwrap());
    bench.delete_space("kdhcp");
    let host = bench.host();
    host.ip(&["link", "add", "name", "kbrstray", "type", "bridge"]);
    host.ip(&["link", "set", "dev", "kbrstray", "alias", &alias]);
    let found = bench.look(false);
    let missing =
        |line: &String| line.starts_with("namespace kdhcp-") && line.ends_with(" is missing");
    assert!(found.iter().any(missing), "{found:#?}");
    let stray = "ip link del dev kbrstray".to_owned();
    assert!(found.contains(&stray), "{found:#?}");
    // Nothing was changed, but for the cable that the namespace takes with it.
    assert!(bench.look(false).contains(&stray));
    assert!(bench.look(true).contains(&stray));
    bench.wait_report();
    // The cable of a namespace goes some time after it, and then it is tried again.
    let until = Instant::now() + LONG;
    while !bench.look(false).is_empty() {
        assert!(Instant::now() < until, "{:?}", bench.look(false));
    }
    assert!(!bench.links().contains(&"kbrstray".to_owned()));
    assert_eq!(bench.spaces().len(), 2);
}

/// A host that is full already takes one more guest as fast as an empty one, or nearly.
#[test]
fn a_crowded_host() {
    let Some(mut bench) = Bench::start("crowd") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/16", "203.0.113.10");
    bench.apply();
    let alone = one_more(&mut bench, network, "10.0.0");
    for n in 0..100 {
        bench.tap_port(network, &format!("10.0.1.{n}"));
    }
    bench.apply();
    let among_100 = one_more(&mut bench, network, "10.0.2");
    println!("one more: {alone:?}, among 100: {among_100:?}");
    assert!(
        among_100 < alone * 20,
        "{alone:?}, among 100: {among_100:?}"
    );
}

/// How long one more guest takes: the best of nine, for machines do other work at the same time.
fn one_more(bench: &mut Bench, network: Uuid, range: &str) -> Duration {
    let times = (100..109).map(|n| {
        bench.tap_port(network, &format!("{range}.{n}"));
        let started = Instant::now();
        let report = bench.apply();
        let active = |port: &ObjectStatus| port.status == Status::Active;
        assert!(report.ports.iter().all(active), "{report:?}");
        started.elapsed()
    });
    times.min().unwrap()
}

/// A real virtual machine on a tap of the agent: its boot ROM asks for a lease.
#[test]
fn a_virtual_machine_on_a_tap() {
    let Some(mut bench) = Bench::start("qemu") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let tap = bench.tap_port(network, "10.0.0.11");
    bench.apply();
    let Some(console) = bench.boot_rom(&tap, Duration::from_secs(180), "10.0.0.11") else {
        eprintln!("SKIPPED: no qemu-system-x86_64 with a network boot ROM");
        return;
    };
    assert!(
        console.contains("net0: 10.0.0.11/255.255.255.0 gw 10.0.0.1"),
        "{console}"
    );
}

#[test]
fn a_host_firewall_that_drops() {
    let Some(mut bench) = Bench::start("docker") else {
        return;
    };
    // As Docker leaves it.
    let docker = "add table ip filter\n\
        add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\n";
    bench.host_input(&["nft", "-f", "-"], docker);
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let a = bench.guest(network, "10.0.0.11");
    let b = bench.guest(network, "10.0.0.12");
    bench.apply();
    for guest in [&a, &b] {
        guest.configure("10.0.0.1");
    }
    assert!(ping(&a, "10.0.0.12", SOON));
    assert!(ping(&a, "203.0.113.1", SOON));
    bench.stop();
    bench.teardown();
    let left = bench.host_output(&["nft", "list", "ruleset"]);
    assert!(
        left.contains("policy drop") && !left.contains("kbr"),
        "{left}"
    );
}

#[test]
fn rules_of_every_kind_load() {
    let Some(mut bench) = Bench::start("kinds") else {
        return;
    };
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    bench.tap_port(network, "10.0.0.11");
    bench.external_port("203.0.113.99");
    for rule in bench::many_rules() {
        bench.add_rule(rule);
    }
    let report = bench.apply();
    assert!(
        report
            .ports
            .iter()
            .all(|port| port.status == Status::Active),
        "{report:?}"
    );
    let rules = bench.host_output(&["nft", "list", "ruleset"]);
    let expected = bench::many_rules()
        .iter()
        .filter(|rule| rule.direction == Direction::Ingress)
        .count();
    assert!(rules.matches("accept").count() > expected, "{rules}");
    // Everything again and in pieces, as the agent does when something changes.
    bench.clear_rules();
    bench.apply();
    for rule in bench::many_rules() {
        bench.add_rule(rule);
        bench.apply();
    }
    let again = bench.host_output(&["nft", "list", "ruleset"]);
    let different: Vec<_> = rules
        .lines()
        .zip(again.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert!(rules == again, "{different:?}");
}

/// A guest reaches other networks by its trunk, as this kernel makes VLANs.
#[test]
fn a_port_under_a_trunk() {
    let Some(mut bench) = Bench::start("trunk") else {
        return;
    };
    talk_by_a_trunk(&mut bench);
    bench.stop();
    bench.teardown();
    assert_eq!(bench.links(), ["lo"]);
    assert!(!bench.state_dir().exists());
}

/// The same where the kernel has no VLANs, or as if it had none.
#[test]
fn a_port_under_a_trunk_without_vlans() {
    let Some(mut bench) = Bench::start("novlan") else {
        return;
    };
    bench.make_vlans(Some(Vlans::Programs));
    let (parent, [one, two]) = talk_by_a_trunk(&mut bench);
    let tap = tap_name(&parent.id);
    let inner = |port: &Port| tap_name(&port.id).replace("tap", "kvl");
    let programs = |bench: &Bench| {
        let shown = bench.host_output(&["tc", "filter", "show", "dev", &tap, "ingress"]);
        let lines = shown.lines().filter(|line| line.contains(" id "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };

    // An agent that starts again finds all as it should be; what someone took away it makes again.
    let before = programs(&bench);
    assert_eq!(before.len(), 2, "{before:?}");
    bench.restart();
    assert_eq!(programs(&bench), before);
    bench.host_output(&["tc", "qdisc", "del", "dev", &inner(&one), "clsact"]);
    bench.host_output(&["ip", "link", "del", &inner(&two)]);
    bench.host_output(&["ip", "link", "del", &tap]);
    bench.restart();
    assert_eq!(programs(&bench).len(), 2);
    let mut guest = bench.on_tap(&parent);
    for (vlan, port, to) in [(42, &one, "10.1.0.12"), (43, &two, "10.2.0.12")] {
        guest.have(vlan, port);
        assert!(guest.ping(vlan, &port.fixed_ips[0].to_string(), to, LONG));
    }

    // The host is no neighbour by the inner end, whose frames all have a receiver.
    let shown = bench.host_output(&["ip", "addr", "show", "dev", &inner(&one)]);
    assert!(
        shown.contains("NOARP") && !shown.contains("inet"),
        "{shown}"
    );

    // They leave one after the other.
    bench.drop_port("10.2.0.11");
    bench.apply();
    let left = programs(&bench);
    assert!(left.len() == 1 && left[0].contains("-42-to-"), "{left:?}");
    assert!(!bench.links().contains(&inner(&two)));
    assert!(guest.ping(42, "10.1.0.11", "10.1.0.12", LONG));
    bench.drop_port("10.1.0.11");
    bench.apply();
    assert!(!bench.links().iter().any(|link| link.starts_with("kvl")));
    assert_eq!(
        bench.host_output(&["tc", "filter", "show", "dev", &tap, "ingress"]),
        ""
    );
    assert!(
        !bench
            .host_output(&["tc", "qdisc", "show"])
            .contains("clsact")
    );
    assert!(!bench.state_dir().join("vlans").exists());
    assert!(
        guest.ping(0, "10.0.0.11", "10.0.0.1", LONG),
        "its own network"
    );
}

/// Two ports under the trunk of a guest on a tap: the guest's port, and theirs (VLANs 42, 43).
fn talk_by_a_trunk(bench: &mut Bench) -> (Port, [Port; 2]) {
    let (network, _) = bench.tenant("10.0.0.0/24", "203.0.113.10");
    let parent = bench.add_port(network, "10.0.0.11");
    let near = bench.add_port(network, "10.0.0.12");
    let carried = [(42, "10.1.0"), (43, "10.2.0")].map(|(vlan, net)| {
        let (other, _) = bench.tenant(&format!("{net}.0/24"), &format!("203.0.113.{vlan}"));
        let far = bench.guest(other, &format!("{net}.12"));
        let port = bench.under_trunk(other, &format!("{net}.11"), &parent, vlan);
        (vlan, port, far)
    });
    let report = bench.apply();
    let active = |port: &ObjectStatus| port.status == Status::Active;
    assert!(report.ports.iter().all(active), "{report:?}");
    let mut guest = bench.on_tap(&parent);
    assert!(
        guest.ping(0, "10.0.0.11", "10.0.0.1", LONG),
        "its own network"
    );
    for (vlan, port, far) in &carried {
        far.configure(&far.ip.replace(".12", ".1"));
        guest.have(*vlan, port);
        let own = port.fixed_ips[0].to_string();
        assert!(guest.ping(*vlan, &own, &far.ip, LONG), "out, VLAN {vlan}");
        assert!(ping(far, &own, SOON), "in, VLAN {vlan}");
        // What the port may not send.
        guest.have_address(*vlan, port.mac, &own.replace(".11", ".99"));
        assert!(!guest.ping(*vlan, &own.replace(".11", ".99"), &far.ip, NEVER));
        guest.have_address(*vlan, parent.mac, &own);
        assert!(
            !guest.ping(*vlan, &own, &far.ip, NEVER),
            "another MAC address"
        );
        guest.have(*vlan, port);
        // What may not reach it.
        bench.no_groups(far);
        bench.apply();
        assert!(!guest.ping(*vlan, &own, &far.ip, NEVER), "a security group");
        bench.groups(far);
        bench.apply();
        assert!(guest.ping(*vlan, &own, &far.ip, LONG));
    }
    let [(_, one, _), (_, two, _)] = carried;
    guest.have_address(43, one.mac, "10.1.0.11");
    assert!(
        !guest.ping(43, "10.1.0.11", "10.1.0.12", NEVER),
        "another VLAN"
    );
    // Frames of a VLAN that no port has go nowhere, though they are from the guest's own addresses.
    let mut listener = bench.on_tap(&near);
    // A tap that has just come forwards nothing for a while.
    let until = Instant::now() + LONG;
    let heard = loop {
        for vlan in [44, 0] {
            guest.shout(vlan, "10.0.0.11");
        }
        let heard = listener.heard(Duration::from_millis(200), 0);
        if !heard.is_empty() || Instant::now() > until {
            break heard;
        }
    };
    assert!(heard.split(' ').all(|vlan| vlan == "0"), "{heard}");
    (parent, [one, two])
}

#[test]
fn a_network_spans_two_hosts() {
    let (Some(mut left), Some(mut right)) = (Bench::start("left"), Bench::start("right")) else {
        return;
    };
    left.join(&mut right);
    let (network, _) = left.tenant("10.0.0.0/24", "203.0.113.10");
    right.part_of(&left, network);
    left.tunnel(network, &["192.0.2.2"]);
    right.tunnel(network, &["192.0.2.1"]);
    let a = left.guest(network, "10.0.0.11");
    let b = right.guest(network, "10.0.0.12");
    left.neighbour(&right, &b);
    right.neighbour(&left, &a);
    for host in [&mut left, &mut right] {
        let report = host.apply();
        assert!(
            report
                .ports
                .iter()
                .all(|port| port.status == Status::Active),
            "{report:?}"
        );
    }
    // DHCP, the router and the way out are on the other host.
    let lease = b.dhcp();
    assert_eq!(lease["ip"], "10.0.0.12");
    assert_eq!(lease["mtu"], "1442");
    a.configure("10.0.0.1");
    b.configure("10.0.0.1");
    assert!(ping(&b, "10.0.0.1", SOON), "its router");
    assert!(ping(&b, "203.0.113.1", SOON), "the outside");
    assert!(ping(&a, "10.0.0.12", SOON), "a guest on the other host");
    assert!(ping(&b, "10.0.0.11", SOON), "and back");
    // Whole packets fit: the tunnel leaves them room.
    let _echo = tcp_echo(&b, "0.0.0.0:9000");
    assert!(
        tcp_talk(&a, "10.0.0.12:9000", NEVER).is_err(),
        "no rule lets it in, wherever it comes from"
    );
    right.allow_tcp(9000);
    right.apply();
    assert_eq!(tcp_talk(&a, "10.0.0.12:9000", SOON).unwrap(), "10.0.0.11");

    // An agent that starts again finds its tunnel as it was.
    let tunnel = types::network_wanted::short_name("kvx", &network);
    let shown = |host: &Bench| host.host_output(&["bridge", "fdb", "show", "dev", &tunnel]);
    let before = shown(&left);
    assert!(before.contains("dst 192.0.2.2"), "{before}");
    left.restart();
    assert!(ping(&a, "10.0.0.12", SOON), "nobody was disturbed");
    assert_eq!(
        shown(&left).matches("00:00:00:00:00:00 dst").count(),
        1,
        "{}",
        shown(&left)
    );
    // The last guest of the other host goes.
    left.tunnel(network, &[]);
    left.apply();
    assert!(!shown(&left).contains("00:00:00:00:00:00 dst"));
    left.stop();
    left.teardown();
    assert!(!left.links().contains(&tunnel));
}
