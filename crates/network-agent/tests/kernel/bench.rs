//! A host in a namespace, an agent on it, guests to talk from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use network_agent::machine::{Machine, Space};
use network_agent::{Agent, CloudId, Config, Secret, SourceError, Vlans, WantedSource};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::network_wanted::*;
use uuid::Uuid;

use crate::tap::TapGuest;

const GROUP: Uuid = Uuid::from_u128(0x6700);

pub fn secret() -> Secret {
    Secret::new("kernel test")
}

/// A namespace to talk from.
pub struct Guest {
    pub space: String,
    pub port: Uuid,
    pub mac: Mac,
    pub ip: String,
    pub server: String,
    machine: Machine,
}

/// A source that a test feeds.
struct Feed {
    wanted: watch::Receiver<HostWanted>,
    reports: Mutex<mpsc::Sender<HostReport>>,
}

#[async_trait]
impl WantedSource for Feed {
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError> {
        let mut wanted = self.wanted.clone();
        let news = wanted.wait_for(|wanted| wanted.revision > since).await;
        Ok(news.ok().map(|news| news.clone()))
    }

    async fn report(&self, report: HostReport) -> Result<(), SourceError> {
        let _ = self.reports.lock().unwrap().send(report);
        Ok(())
    }
}

pub struct Bench {
    wanted: HostWanted,
    config: Config,
    machine: Machine,
    guests: Vec<String>,
    runtime: tokio::runtime::Runtime,
    feed: watch::Sender<HostWanted>,
    reports: mpsc::Receiver<HostReport>,
    agent: Option<(tokio::task::JoinHandle<()>, CancellationToken)>,
    metadata: Arc<Mutex<String>>,
    next: u128,
    outer: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    for tool in ["ip", "tc", "nft", "dnsmasq", "busybox", "python3"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(tool).exists());
        if !found {
            return Some(format!("{tool} is not installed"));
        }
    }
    None
}

impl Bench {
    /// None, with a word why, where the machine cannot do it.
    pub fn start(name: &str) -> Option<Self> {
        if let Some(why) = missing() {
            eprintln!("SKIPPED: network agent test '{name}' on a real kernel: {why}");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("t{}x{number}", std::process::id());
        let outer = format!("knthost-{tag}");
        let plain = Machine::new(None, Duration::from_secs(20));
        plain
            .run(&Space::Host, &["ip", "netns", "add", &outer], "")
            .unwrap();
        let root = PathBuf::from("/run/netns").join(&outer);
        let machine = Machine::new(Some(root), Duration::from_secs(20));
        machine
            .run(&Space::Host, &["ip", "link", "set", "lo", "up"], "")
            .unwrap();
        // The agent must not depend on the switches for all bridges of the machine.
        for family in ["iptables", "ip6tables", "arptables"] {
            let name = format!("bridge/bridge-nf-call-{family}");
            machine.sysctl(&Space::Host, &name, "0").unwrap();
        }
        Some(Self::on_host(&outer, number, &tag))
    }

    /// Another cloud on the same host.
    pub fn beside(&self) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::on_host(
            &self.outer,
            number,
            &format!("t{}x{number}", std::process::id()),
        )
    }

    fn on_host(outer: &str, number: u32, tag: &str) -> Self {
        let root = PathBuf::from("/run/netns").join(outer);
        let machine = Machine::new(Some(root.clone()), Duration::from_secs(20));
        let (url, metadata) = metadata_server();
        let mut config = Config::new(CloudId::new(tag).unwrap(), "h1", secret());
        config.root_netns = Some(root);
        config.state_dir = PathBuf::from(format!("/tmp/kilonova-network-{tag}"));
        config.metadata_url = url;
        let external = Network {
            id: Uuid::from_u128((u128::from(number) + 1) << 100 | 0xe),
            project_id: "admin".into(),
            mtu: 1500,
            external: true,
            subnets: vec![Subnet {
                id: Uuid::from_u128(0xe5),
                cidr: "203.0.113.0/24".parse().unwrap(),
                gateway_ip: Some("203.0.113.1".parse().unwrap()),
                enable_dhcp: false,
                dns_nameservers: vec![],
                host_routes: vec![],
                advertised: None,
            }],
            dhcp: None,
            dns_domain: None,
            dhcp_hosts: vec![],
            tunnel: None,
        };
        let group = SecurityGroup {
            id: GROUP,
            stateful: true,
            rules: vec![],
        };
        let wanted = HostWanted {
            revision: 0,
            host: "h1".into(),
            full: true,
            networks: vec![external],
            security_groups: vec![group],
            ..HostWanted::default()
        };
        let (feed, _) = watch::channel(wanted.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut bench = Self {
            wanted,
            config,
            machine,
            guests: vec![],
            runtime,
            feed,
            reports: mpsc::channel().1,
            agent: None,
            metadata,
            next: 500 * u128::from(number),
            outer: outer.to_owned(),
        };
        for ethertype in [Ethertype::V4, Ethertype::V6] {
            bench.add_rule(rule(Direction::Egress, ethertype, None));
        }
        // As in the default group: members may talk to each other.
        let mut members = rule(Direction::Ingress, Ethertype::V4, None);
        members.protocol = Some(1);
        members.remote_group_members = Some(vec![]);
        bench.add_rule(members);
        bench.run_agent();
        bench
    }

    fn run_agent(&mut self) {
        let (sender, reports) = mpsc::channel();
        let source = Arc::new(Feed {
            wanted: self.feed.subscribe(),
            reports: Mutex::new(sender),
        });
        let stop = CancellationToken::new();
        let (config, stopped) = (self.config.clone(), stop.clone());
        let task = self
            .runtime
            .spawn(async move { Agent::run(config, source, stopped).await.unwrap() });
        self.reports = reports;
        self.agent = Some((task, stop));
    }

    /// Gives the host a network card to another one, and ends of tunnels on both.
    pub fn join(&mut self, other: &mut Self) {
        let cable = format!(
            "link add name u0 netns {} type veth peer name u0 netns {}\n",
            self.outer, other.outer
        );
        let plain = Machine::new(None, Duration::from_secs(20));
        plain
            .run(&Space::Host, &["ip", "-batch", "-"], &cable)
            .unwrap();
        for (host, address) in [(&mut *self, "192.0.2.1"), (other, "192.0.2.2")] {
            let card = format!("addr add {address}/24 dev u0\nlink set dev u0 up\n");
            host.host_input(&["ip", "-batch", "-"], &card);
            host.config.tunnel_ip = Some(address.parse().unwrap());
            host.stop();
            host.run_agent();
        }
    }

    /// Joins a network to the part of it that the host at this address has.
    pub fn tunnel(&mut self, network: Uuid, peers: &[&str]) {
        let found = self.wanted.networks.iter_mut().find(|n| n.id == network);
        found.unwrap().tunnel = Some(Tunnel {
            vni: 4242,
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        });
    }

    /// A network as it is on a host that serves neither DHCP nor routers for it.
    pub fn part_of(&mut self, other: &Self, network: Uuid) {
        let found = other.wanted.networks.iter().find(|n| n.id == network);
        self.wanted.networks.push(Network {
            dhcp: None,
            ..found.unwrap().clone()
        });
    }

    /// Tells of a guest of the same network and group on another host.
    pub fn neighbour(&mut self, other: &Self, guest: &Guest) {
        let port = other.wanted.ports.iter().find(|port| port.id == guest.port);
        let of_network = other.wanted.networks.iter();
        let mut known = of_network.flat_map(|network| &network.dhcp_hosts);
        let known = known.find(|host| host.port_id == guest.port).unwrap();
        let network = port.unwrap().network_id;
        let found = self.wanted.networks.iter_mut().find(|n| n.id == network);
        found.unwrap().dhcp_hosts.push(known.clone());
        for rule in &mut self.wanted.security_groups[0].rules {
            if let Some(members) = &mut rule.remote_group_members {
                members.push(IpNet::from(port.unwrap().fixed_ips[0]));
            }
        }
    }

    fn id(&mut self) -> Uuid {
        self.next += 1;
        // The first 11 characters name interfaces, so the counting happens there.
        Uuid::from_u128((u128::from(std::process::id()) << 108) | (self.next << 92) | self.next)
    }

    fn mac(&self) -> Mac {
        let [high, low] = u16::try_from(self.next).unwrap().to_be_bytes();
        Mac([0xfa, 0x16, 0x3e, 0, high, low])
    }

    /// A network with a router to the outside: their ids.
    pub fn tenant(&mut self, cidr: &str, gateway: &str) -> (Uuid, Uuid) {
        let cidr: ipnet::Ipv4Net = cidr.parse().unwrap();
        let mut hosts = cidr.hosts();
        let (first, second) = (hosts.next().unwrap().into(), hosts.next().unwrap().into());
        let (id, subnet, dhcp_port) = (self.id(), self.id(), self.id());
        let dhcp = DhcpPort {
            port_id: dhcp_port,
            mac: self.mac(),
            ips: vec![SubnetIp {
                subnet_id: subnet,
                ip: second,
                prefix: cidr.prefix_len(),
            }],
        };
        self.wanted.networks.push(Network {
            id,
            project_id: "project".into(),
            mtu: 1442,
            external: false,
            subnets: vec![Subnet {
                id: subnet,
                cidr: cidr.into(),
                gateway_ip: Some(first),
                enable_dhcp: true,
                dns_nameservers: vec![],
                host_routes: vec![],
                advertised: None,
            }],
            dhcp: Some(dhcp),
            dns_domain: None,
            dhcp_hosts: vec![],
            tunnel: None,
        });
        let (router, inside) = (self.id(), self.id());
        let interface = RouterInterface {
            port_id: inside,
            network_id: id,
            ip: first,
            prefix: cidr.prefix_len(),
            mac: self.mac(),
        };
        let outside = self.id();
        let gateway = RouterGateway {
            port_id: outside,
            network_id: self.wanted.networks[0].id,
            ip: gateway.parse().unwrap(),
            prefix: 24,
            mac: self.mac(),
            next_hop: Some("203.0.113.1".parse().unwrap()),
            enable_snat: true,
        };
        self.wanted.routers.push(Router {
            id: router,
            project_id: "project".into(),
            admin_state_up: true,
            interfaces: vec![interface],
            gateway: Some(gateway),
            routes: vec![],
            floating_ips: vec![],
        });
        (id, router)
    }

    pub fn add_port(&mut self, network: Uuid, ip: &str) -> Port {
        let id = self.id();
        let port = Port {
            id,
            network_id: network,
            project_id: "project".into(),
            mac: self.mac(),
            fixed_ips: vec![ip.parse().unwrap()],
            device_id: self.id().to_string(),
            device_owner: "compute:nova".into(),
            admin_state_up: true,
            port_security_enabled: true,
            allowed_address_pairs: vec![],
            security_group_ids: vec![GROUP],
            trunk: None,
        };
        let net = self
            .wanted
            .networks
            .iter_mut()
            .find(|n| n.id == network)
            .unwrap();
        let subnet = &net.subnets[0];
        net.dhcp_hosts.push(DhcpHost {
            port_id: id,
            mac: port.mac,
            ips: vec![SubnetIp {
                subnet_id: subnet.id,
                ip: port.fixed_ips[0],
                prefix: subnet.cidr.prefix_len(),
            }],
            hostname: None,
            device_id: port.device_id.clone(),
            project_id: port.project_id.clone(),
            extra_dhcp_opts: vec![],
        });
        self.wanted.ports.push(port.clone());
        for rule in &mut self.wanted.security_groups[0].rules {
            if let Some(members) = &mut rule.remote_group_members {
                members.push(IpNet::from(port.fixed_ips[0]));
            }
        }
        port
    }

    /// A guest on a cable.
    pub fn guest(&mut self, network: Uuid, ip: &str) -> Guest {
        let port = self.add_port(network, ip);
        let space = format!("kntguest-{}-{}", self.config.cloud.as_str(), port.id);
        let tap = tap_name(&port.id);
        let mac = port.mac.to_string();
        self.machine
            .run(&Space::Host, &["ip", "netns", "add", &space], "")
            .unwrap();
        self.guests.push(space.clone());
        let cable =
            format!("link add name {tap} type veth peer name eth0 address {mac} netns {space}\n");
        self.machine
            .run(&Space::Host, &["ip", "-batch", "-"], &cable)
            .unwrap();
        let guest = Guest {
            space,
            port: port.id,
            mac: port.mac,
            ip: ip.to_owned(),
            server: port.device_id,
            machine: self.machine.clone(),
        };
        guest.ip(&["link", "set", "lo", "up"]);
        guest.ip(&["link", "set", "eth0", "up"]);
        guest
    }

    /// A port that the trunk of another one carries.
    pub fn under_trunk(&mut self, network: Uuid, ip: &str, parent: &Port, vlan: u16) -> Port {
        let port = self.add_port(network, ip);
        let last = self.wanted.ports.last_mut().unwrap();
        last.trunk = Some(UnderTrunk {
            parent: parent.id,
            vlan,
        });
        port
    }

    /// Says how the agent makes the VLANs of trunks.
    pub fn make_vlans(&mut self, how: Option<Vlans>) {
        self.config.vlans = how;
        self.stop();
        self.run_agent();
    }

    /// A guest on the tap of a port, which is there.
    pub fn on_tap(&self, port: &Port) -> TapGuest {
        TapGuest::start(&self.machine, port)
    }

    /// A port whose tap the agent makes: the tap's name.
    pub fn tap_port(&mut self, network: Uuid, ip: &str) -> String {
        tap_name(&self.add_port(network, ip).id)
    }

    pub fn external_port(&mut self, ip: &str) {
        let network = self.wanted.networks[0].id;
        self.add_port(network, ip);
    }

    pub fn drop_port(&mut self, ip: &str) {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        self.wanted.ports.retain(|port| port.fixed_ips != [ip]);
        for network in &mut self.wanted.networks {
            network.dhcp_hosts.retain(|host| host.ips[0].ip != ip);
        }
    }

    pub fn drop_router(&mut self, id: Uuid) {
        self.wanted.routers.retain(|router| router.id != id);
    }

    fn router(&mut self, id: Uuid) -> &mut Router {
        self.wanted
            .routers
            .iter_mut()
            .find(|router| router.id == id)
            .unwrap()
    }

    pub fn floating(&mut self, router: Uuid, floating: &str, fixed: &str) {
        let id = self.id();
        let fip = FloatingIp {
            id,
            floating_ip: floating.parse().unwrap(),
            fixed_ip: fixed.parse().unwrap(),
        };
        self.router(router).floating_ips.push(fip);
    }

    pub fn drop_floating(&mut self, router: Uuid) {
        self.router(router).floating_ips.clear();
    }

    pub fn move_floating(&mut self, router: Uuid, floating: &str, fixed: &str) {
        let floating: std::net::IpAddr = floating.parse().unwrap();
        let fip = self
            .router(router)
            .floating_ips
            .iter_mut()
            .find(|f| f.floating_ip == floating)
            .unwrap();
        fip.fixed_ip = fixed.parse().unwrap();
    }

    pub fn add_rule(&mut self, rule: SecurityGroupRule) {
        self.wanted.security_groups[0].rules.push(rule);
    }

    pub fn clear_rules(&mut self) {
        self.wanted.security_groups[0].rules.truncate(3);
    }

    pub fn allow_tcp(&mut self, port: u16) {
        self.allow(6, port);
    }

    pub fn allow_udp(&mut self, port: u16) {
        self.allow(17, port);
    }

    fn allow(&mut self, protocol: u8, port: u16) {
        let mut rule = rule(Direction::Ingress, Ethertype::V4, Some(protocol));
        (rule.port_min, rule.port_max) = (Some(port), Some(port));
        self.add_rule(rule);
    }

    pub fn forbid_tcp(&mut self, port: u16) {
        self.wanted.security_groups[0]
            .rules
            .retain(|rule| rule.port_min != Some(port));
    }

    fn port(&mut self, guest: &Guest) -> &mut Port {
        self.wanted
            .ports
            .iter_mut()
            .find(|port| port.id == guest.port)
            .unwrap()
    }

    pub fn allow_pair(&mut self, guest: &Guest, net: &str) {
        let pair = AddressPair {
            ip: net.parse().unwrap(),
            mac: None,
        };
        self.port(guest).allowed_address_pairs.push(pair);
    }

    pub fn no_groups(&mut self, guest: &Guest) {
        self.port(guest).security_group_ids.clear();
    }

    pub fn groups(&mut self, guest: &Guest) {
        self.port(guest).security_group_ids = vec![GROUP];
    }

    pub fn port_security(&mut self, guest: &Guest, on: bool) {
        self.port(guest).port_security_enabled = on;
    }

    /// Hands the wanted state to the agent and waits until it was done.
    pub fn apply(&mut self) -> HostReport {
        self.wanted.revision += 1;
        let started = Instant::now();
        self.feed.send_replace(self.wanted.clone());
        let report = self.wait_report();
        println!(
            "revision {} applied in {:?}",
            report.revision,
            started.elapsed()
        );
        report
    }

    pub fn wait_report(&self) -> HostReport {
        loop {
            let report = self
                .reports
                .recv_timeout(Duration::from_secs(30))
                .expect("a report of the agent");
            if report.revision == self.wanted.revision {
                return report;
            }
        }
    }

    /// Has the agent look; what it found. What it mends it reports afterwards.
    pub fn look(&mut self, mend: bool) -> Vec<String> {
        self.wanted.revision += 1;
        let number = self.wanted.revision;
        let news = HostWanted {
            revision: number,
            look: Some(Look { number, mend }),
            ..HostWanted::default()
        };
        self.feed.send_replace(news);
        // What failed before is tried again meanwhile, and told.
        loop {
            if let Some(looked) = self.wait_report().look {
                return looked.differences;
            }
        }
    }

    /// Ends the agent as a crash would (nothing is cleaned up) and starts another one.
    pub fn restart(&mut self) {
        self.stop();
        self.run_agent();
        self.wait_report();
    }

    pub fn stop(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            self.runtime.block_on(task).unwrap();
        }
    }

    pub fn teardown(&self) -> network_agent::Removed {
        network_agent::teardown(&self.config).unwrap()
    }

    pub fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    /// The host itself, as someone to talk from.
    pub fn host(&self) -> Guest {
        Guest {
            space: self.outer.clone(),
            port: Uuid::nil(),
            mac: Mac([0; 6]),
            ip: String::new(),
            server: String::new(),
            machine: self.machine.clone(),
        }
    }

    pub fn host_output(&self, argv: &[&str]) -> String {
        String::from_utf8(self.machine.run(&Space::Host, argv, "").unwrap()).unwrap()
    }

    pub fn host_input(&self, argv: &[&str], text: &str) {
        self.machine.run(&Space::Host, argv, text).unwrap();
    }

    /// Does damage in one of this cloud's namespaces.
    pub fn in_space(&self, prefix: &str, argv: &[&str]) {
        let space = self
            .spaces()
            .into_iter()
            .find(|name| name.starts_with(prefix))
            .unwrap();
        self.machine.run(&Space::Named(space), argv, "").unwrap();
    }

    pub fn delete_space(&self, prefix: &str) {
        let space = self
            .spaces()
            .into_iter()
            .find(|name| name.starts_with(prefix))
            .unwrap();
        self.machine
            .run(&Space::Host, &["ip", "netns", "del", &space], "")
            .unwrap();
    }

    pub fn bridge_of(&self, network: Uuid) -> String {
        short_name("kbr", &network)
    }

    /// Interfaces of the host, sorted, without those of test guests.
    pub fn links(&self) -> Vec<String> {
        let text = self.host_output(&["ip", "-o", "link", "show"]);
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        names
            .map(|name| name.split('@').next().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Namespaces of this cloud.
    pub fn spaces(&self) -> Vec<String> {
        let suffix = format!("-{}", self.config.cloud.as_str());
        let all = self.machine.spaces().unwrap().into_iter();
        all.filter(|name| name.ends_with(&suffix) && !name.starts_with("knt"))
            .collect()
    }

    pub fn zones(&self) -> BTreeSet<String> {
        let text = self.host_output(&["ip", "-d", "link", "show", "type", "bridge"]);
        text.split("/zone-")
            .skip(1)
            .map(|rest| rest.split_whitespace().next().unwrap().to_owned())
            .collect()
    }

    pub fn dnsmasq_pid(&self, network: Uuid) -> u32 {
        let file = self
            .config
            .state_dir
            .join("dhcp")
            .join(network.to_string())
            .join("pid");
        std::fs::read_to_string(file)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    pub fn last_metadata_request(&self) -> String {
        std::mem::take(&mut self.metadata.lock().unwrap())
    }

    /// Boots a machine without a disk on a tap and gives its console up to the line with `until`;
    /// none where there is no QEMU for it.
    pub fn boot_rom(&self, tap: &str, patience: Duration, until: &str) -> Option<String> {
        use std::process::{Command, Stdio};
        let rom = [
            "/usr/share/qemu/pxe-virtio.rom",
            "/usr/lib/ipxe/qemu/pxe-virtio.rom",
        ];
        if !rom.iter().any(|file| Path::new(file).exists())
            || !Path::new("/usr/bin/qemu-system-x86_64").exists()
        {
            return None;
        }
        let port = self
            .wanted
            .ports
            .iter()
            .find(|port| tap_name(&port.id) == tap)
            .unwrap();
        let (netdev, device) = (
            format!("tap,id=n0,ifname={tap},script=no,downscript=no"),
            format!("virtio-net-pci,netdev=n0,mac={}", port.mac),
        );
        let argv = [
            "-accel",
            "tcg",
            "-m",
            "64",
            "-nodefaults",
            "-display",
            "none",
            "-boot",
            "n",
        ];
        let spawned = self.machine.within(&Space::Host, || {
            Command::new("qemu-system-x86_64")
                .args(argv)
                .args(["-serial", "stdio", "-machine", "graphics=off"])
                .args(["-netdev", &netdev, "-device", &device])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut qemu = spawned.unwrap().unwrap();
        let mut output = qemu.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
        });
        let deadline = Instant::now() + patience;
        let mut console = String::new();
        while let Ok(more) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            console += &more;
            if console
                .split_once(until)
                .is_some_and(|(_, rest)| rest.contains('\n'))
            {
                break;
            }
        }
        let _ = qemu.kill();
        let _ = qemu.wait();
        Some(console)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((task, stop)) = self.agent.take() {
            stop.cancel();
            task.abort();
        }
        if std::env::var_os("KEEP").is_some() {
            return;
        }
        let _ = network_agent::teardown(&self.config);
        for space in self.guests.iter().chain([&self.outer]) {
            let _ = Machine::new(None, Duration::from_secs(20)).run(
                &Space::Host,
                &["ip", "netns", "del", space],
                "",
            );
        }
    }
}

impl Guest {
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine
            .within(&Space::Named(self.space.clone()), work)
            .unwrap()
    }

    /// Whether a command succeeds here.
    pub fn succeeds(&self, argv: &[&str]) -> bool {
        self.machine
            .try_run(&Space::Named(self.space.clone()), argv, "")
            .unwrap()
            .success
    }

    pub fn ip(&self, args: &[&str]) -> String {
        let mut argv = vec!["ip"];
        argv.extend(args);
        let output = self
            .machine
            .run(&Space::Named(self.space.clone()), &argv, "")
            .unwrap();
        String::from_utf8(output).unwrap()
    }

    /// The MAC address known for an IP address.
    pub fn neighbour(&self, ip: &str) -> String {
        let text = self.ip(&["neigh", "show", ip]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        words.nth(1).unwrap_or_default().to_owned()
    }

    pub fn neighbours(&self) -> String {
        self.ip(&["neigh", "show"])
    }

    /// Takes its address without DHCP.
    pub fn configure(&self, gateway: &str) {
        self.ip(&["addr", "replace", &format!("{}/24", self.ip), "dev", "eth0"]);
        self.ip(&["route", "replace", "default", "via", gateway]);
    }

    /// Asks for a lease and gives what the client was told.
    pub fn dhcp(&self) -> BTreeMap<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let out = dir.path().join("env");
        std::fs::write(
            &script,
            format!(
                "#!/bin/sh\n[ \"$1\" = bound ] && env > {}\nexit 0\n",
                out.display()
            ),
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let script = script.to_str().unwrap();
        let argv = [
            "busybox",
            "udhcpc",
            "-i",
            "eth0",
            "-n",
            "-q",
            "-f",
            "-t",
            "10",
            "-T",
            "1",
            "-s",
            script,
            "-O",
            "mtu",
            "-O",
            "staticroutes",
        ];
        self.machine
            .run(&Space::Named(self.space.clone()), &argv, "")
            .unwrap();
        let text = std::fs::read_to_string(out).expect("a lease");
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }
}

pub fn rule(direction: Direction, ethertype: Ethertype, protocol: Option<u8>) -> SecurityGroupRule {
    SecurityGroupRule {
        direction,
        ethertype,
        protocol,
        port_min: None,
        port_max: None,
        remote_ip_prefix: None,
        remote_group_members: None,
    }
}

/// Rules of all shapes that the API lets through.
pub fn many_rules() -> Vec<SecurityGroupRule> {
    use Direction::{Egress, Ingress};
    use Ethertype::{V4, V6};
    let mut all = Vec::new();
    for direction in [Ingress, Egress] {
        for (ethertype, prefix, group) in [
            (
                V4,
                "192.0.2.0/24",
                vec![
                    "10.0.0.1/32",
                    "10.0.0.2/32",
                    "10.1.0.0/16",
                    "10.1.2.3/32",
                    "fd00::1/128",
                ],
            ),
            (
                V6,
                "2001:db8::/32",
                vec!["fd00::1/128", "fd01::/64", "fd01::5/128"],
            ),
        ] {
            for (protocol, min, max) in [
                (None, None, None),
                (Some(6), Some(1), Some(65535)),
                (Some(6), Some(80), Some(80)),
                (Some(17), None, None),
                (Some(132), Some(5), Some(9)),
                (Some(1), Some(8), None),
                (Some(1), Some(3), Some(4)),
                (Some(47), None, None),
                (Some(58), Some(128), Some(0)),
                (Some(89), Some(1), Some(2)),
            ] {
                for remote in [0, 1, 2, 3] {
                    let mut rule = rule(direction, ethertype, protocol);
                    (rule.port_min, rule.port_max) = (min, max);
                    match remote {
                        1 => rule.remote_ip_prefix = Some(prefix.parse().unwrap()),
                        2 => {
                            rule.remote_group_members =
                                Some(group.iter().map(|net| net.parse().unwrap()).collect());
                        }
                        3 => {
                            rule.remote_ip_prefix = Some(
                                if ethertype == V4 { "0.0.0.0/0" } else { "::/0" }
                                    .parse()
                                    .unwrap(),
                            )
                        }
                        _ => {}
                    }
                    all.push(rule);
                }
            }
        }
    }
    // Enough variety without an hour of single steps.
    all.into_iter().step_by(3).collect()
}

/// A metadata API that remembers the last request it got.
fn metadata_server() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let last = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&last);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.push(byte[0]);
            }
            *seen.lock().unwrap() = String::from_utf8_lossy(&request).into_owned();
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        }
    });
    (url, last)
}

pub fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
