#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{CloudId, Secret};
use types::network_wanted::{Mac, Route, RouterInterface, SubnetIp};

const SUBNET: Uuid = Uuid::from_u128(7);

fn host() -> DhcpHost {
    DhcpHost {
        port_id: Uuid::from_u128(5),
        mac: Mac([2, 0, 0, 0, 0, 5]),
        ips: vec![SubnetIp {
            subnet_id: SUBNET,
            ip: "10.0.0.5".parse().unwrap(),
            prefix: 24,
        }],
        hostname: None,
        device_id: "server".into(),
        project_id: "p".into(),
        extra_dhcp_opts: vec![],
    }
}

fn network() -> Network {
    let subnet = Subnet {
        id: SUBNET,
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway_ip: Some("10.0.0.1".parse().unwrap()),
        enable_dhcp: true,
        dns_nameservers: vec![],
        host_routes: vec![],
        advertised: None,
    };
    let own = SubnetIp {
        subnet_id: SUBNET,
        ip: "10.0.0.2".parse().unwrap(),
        prefix: 24,
    };
    Network {
        id: Uuid::from_u128(1),
        project_id: "p".into(),
        mtu: 1450,
        external: false,
        subnets: vec![subnet],
        dhcp: Some(DhcpPort {
            port_id: Uuid::from_u128(2),
            mac: Mac([2; 6]),
            ips: vec![own],
        }),
        dns_domain: None,
        dhcp_hosts: vec![host()],
        tunnel: None,
    }
}

fn server(network: &Network) -> Dnsmasq {
    let config = Config::new(CloudId::new("c1").unwrap(), "h1", Secret::new("s"));
    desired(&config, network, network.dhcp.as_ref().unwrap())
}

fn has(network: &Network, line: &str) -> bool {
    server(network).config.lines().any(|have| have == line)
}

#[test]
fn what_a_subnet_tells_its_guests() {
    let tag = "s00000000000000000000000000000007";
    let mut network = network();
    for line in [
        "dhcp-option=26,1450".to_owned(),
        "domain=openstacklocal".to_owned(),
        format!("dhcp-range=set:{tag},10.0.0.0,static,255.255.255.0,86400"),
        format!("dhcp-option=tag:{tag},3,10.0.0.1"),
        format!("dhcp-option=tag:{tag},6,10.0.0.2"),
        format!("dhcp-option=tag:{tag},121,169.254.169.254/32,10.0.0.2,0.0.0.0/0,10.0.0.1"),
    ] {
        assert!(
            has(&network, &line),
            "{line} is missing in\n{}",
            server(&network).config
        );
    }
    let subnet = &mut network.subnets[0];
    subnet.gateway_ip = None;
    subnet.dns_nameservers = vec!["192.0.2.53".parse().unwrap(), "192.0.2.54".parse().unwrap()];
    subnet.host_routes = vec![Route {
        destination: "192.0.2.0/24".parse().unwrap(),
        nexthop: "10.0.0.9".parse().unwrap(),
    }];
    network.dns_domain = Some("cloud.example.".into());
    for line in [
        "domain=cloud.example".to_owned(),
        // Named without a value: or dnsmasq would name itself.
        format!("dhcp-option=tag:{tag},3"),
        format!("dhcp-option=tag:{tag},6,192.0.2.53,192.0.2.54"),
        format!("dhcp-option=tag:{tag},121,169.254.169.254/32,10.0.0.2,192.0.2.0/24,10.0.0.9"),
    ] {
        assert!(
            has(&network, &line),
            "{line} is missing in\n{}",
            server(&network).config
        );
    }
    network.subnets[0].enable_dhcp = false;
    assert!(!server(&network).config.contains("dhcp-range"));
    assert_eq!(server(&network).files.len(), 1, "a name, but no lease");
}

#[test]
fn what_is_known_of_a_guest() {
    let mut network = network();
    let id = host().port_id;
    let line = "02:00:00:00:00:05,id:*,set:p00000000000000000000000000000005,10.0.0.5,host-10-0-0-5,86400\n";
    assert_eq!(server(&network).files[&format!("hosts/{id}")], line);
    assert_eq!(
        server(&network).files[&format!("names/{id}")],
        "10.0.0.5 host-10-0-0-5.openstacklocal host-10-0-0-5\n"
    );
    network.dhcp_hosts[0].hostname = Some("Web1".into());
    assert_eq!(
        server(&network).files[&format!("names/{id}")],
        "10.0.0.5 web1.openstacklocal web1\n"
    );
}

#[test]
fn hostile_words_never_reach_a_file() {
    let mut network = network();
    network.dns_domain = Some("x\nserver=192.0.2.66".into());
    network.dhcp_hosts[0].hostname = Some("a,ignore\n02:00:00:00:00:06".into());
    let opt = |name: &str, value: &str, ip_version| ExtraDhcpOpt {
        opt_name: name.into(),
        opt_value: value.into(),
        ip_version,
    };
    network.dhcp_hosts[0].extra_dhcp_opts = vec![
        opt("bootfile-name", "pxelinux.0", 4),
        opt("66", "192.0.2.9", 4),
        opt("server,x", "1", 4),
        opt("tftp-server", "a\ndhcp-ignore=tag:x", 4),
        opt("bootfile-name", "v6", 6),
    ];
    let server = server(&network);
    assert!(!server.config.contains("192.0.2.66"), "{}", server.config);
    let tag = "p00000000000000000000000000000005";
    let opts = format!("tag:{tag},option:bootfile-name,pxelinux.0\ntag:{tag},66,192.0.2.9\n");
    assert_eq!(server.files[&format!("opts/{}", host().port_id)], opts);
    assert!(
        server
            .files
            .values()
            .all(|text| !text.contains("ignore") && !text.contains(":06")),
        "{:?}",
        server.files
    );
}

#[test]
fn what_a_router_tells_the_guests_of_ipv6_subnets() {
    let config = Config::new(CloudId::new("c1").unwrap(), "h1", Secret::new("s"));
    let mut network = network();
    let six = |number: u128, advertised: Option<Advertised>| Subnet {
        id: Uuid::from_u128(number),
        cidr: format!("2001:db8:0:{number:x}::/64").parse().unwrap(),
        gateway_ip: None,
        enable_dhcp: true,
        dns_nameservers: vec![
            "192.0.2.53".parse().unwrap(),
            "2001:db8::53".parse().unwrap(),
        ],
        host_routes: vec![],
        advertised,
    };
    network.subnets.extend([
        six(8, Some(Advertised::Slaac)),
        six(9, Some(Advertised::SlaacAndDhcp)),
        six(10, None),
    ]);
    let interface = |port: u128, ip: &str, prefix: u8| RouterInterface {
        port_id: Uuid::from_u128(port << 96),
        network_id: network.id,
        ip: ip.parse().unwrap(),
        prefix,
        mac: Mac([2; 6]),
    };
    let mut router = Router {
        id: Uuid::from_u128(3),
        project_id: "p".into(),
        admin_state_up: true,
        interfaces: vec![
            interface(1, "10.0.0.1", 24),
            interface(2, "2001:db8:0:8::1", 64),
            interface(2, "2001:db8:0:9::1", 64),
            interface(3, "2001:db8:0:a::1", 64),
        ],
        gateway: None,
        routes: vec![],
        floating_ips: vec![],
    };
    let networks = BTreeMap::from([(network.id, &network)]);
    let server = advertiser(&config, &router, &networks).unwrap();
    let text = &server.config;
    let wanted = [
        "dhcp-option=tag:s00000000000000000000000000000008,option6:dns-server,[2001:db8::53]",
        "dhcp-option=tag:s00000000000000000000000000000009,option6:dns-server,[2001:db8::53]",
        "dhcp-range=set:s00000000000000000000000000000008,2001:db8:0:8::,ra-only,64",
        "dhcp-range=set:s00000000000000000000000000000009,2001:db8:0:9::,ra-stateless,64",
        "interface=qr-00000002-00",
    ];
    let said: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "enable-ra")
        .collect();
    assert_eq!(said[1..], wanted, "{text}");
    assert!(text.contains("\nport=0\n"), "names are not its business");

    router.admin_state_up = false;
    assert_eq!(advertiser(&config, &router, &networks), None);
    router.admin_state_up = true;
    router.interfaces.truncate(1);
    assert_eq!(advertiser(&config, &router, &networks), None);
}
