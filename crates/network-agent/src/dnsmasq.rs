//! The DHCP and DNS server of a network, and what speaks to the guests of IPv6 subnets for a router: configuration and
//! host files, as text. Pure.
//!
//! New guests are files dropped into folders that dnsmasq watches (`dhcp-hostsdir`,
//! `dhcp-optsdir`, `hostsdir`); a changed configuration, or a guest that went, restarts it. It
//! keeps no lease file: every lease is static, so a fresh server confirms what guests hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use types::network_wanted::{
    Advertised, DhcpHost, DhcpPort, ExtraDhcpOpt, Network, Router, Subnet,
};
use uuid::Uuid;

use crate::config::Config;
use crate::desired::METADATA_IP;
use crate::names;

/// Domain of guests where the network names none, as in Neutron.
const DEFAULT_DOMAIN: &str = "openstacklocal";
/// How long a guest may hold its address, in seconds.
const LEASE_SECONDS: u32 = 86_400;

/// One dnsmasq: its folder and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnsmasq {
    /// The server's folder.
    pub dir: PathBuf,
    /// Text of `dnsmasq.conf`.
    pub config: String,
    /// Watched files by path below the folder (`hosts/<port>`, `opts/<port>`, `names/<port>`).
    pub files: BTreeMap<String, String>,
}

/// The folders dnsmasq watches.
pub const FOLDERS: [&str; 3] = ["hosts", "opts", "names"];

/// The folder of a network's server.
#[must_use]
pub fn folder(config: &Config, network: &Uuid) -> PathBuf {
    config.state_dir.join("dhcp").join(network.to_string())
}

/// Works out the server of a network.
#[must_use]
pub fn desired(config: &Config, network: &Network, dhcp: &DhcpPort) -> Dnsmasq {
    let dir = folder(config, &network.id);
    let domain = network
        .dns_domain
        .as_deref()
        .map(|d| d.trim_end_matches('.'))
        .filter(|d| is_domain(d));
    let domain = domain.unwrap_or(DEFAULT_DOMAIN);
    let mut files = BTreeMap::new();
    for host in &network.dhcp_hosts {
        host_files(network, host, domain, &mut files);
    }
    Dnsmasq {
        config: config_text(config, network, dhcp, domain, &dir),
        dir,
        files,
    }
}

/// Works out the server of a router: it tells guests of IPv6 subnets that the router is there and how they get their
/// addresses. None where no subnet wants that.
#[must_use]
pub fn advertiser(
    config: &Config,
    router: &Router,
    networks: &BTreeMap<Uuid, &Network>,
) -> Option<Dnsmasq> {
    let dir = folder(config, &router.id);
    let mut text = format!(
        "pid-file={}/pid\nport=0\nexcept-interface=lo\nbind-interfaces\nleasefile-ro\nenable-ra\n",
        dir.display()
    );
    let mut lines = BTreeSet::new();
    for interface in &router.interfaces {
        let subnets = networks.get(&interface.network_id);
        let subnet = subnets.and_then(|network| {
            let mut subnets = network.subnets.iter();
            subnets.find(|subnet| subnet.cidr.contains(&interface.ip))
        });
        if let Some(subnet) = subnet
            && router.admin_state_up
            && advertised_text(subnet, &mut lines)
        {
            let name = names::router_interface(&interface.port_id);
            lines.insert(format!("interface={name}"));
        }
    }
    for one in &lines {
        line(&mut text, format_args!("{one}"));
    }
    (!lines.is_empty()).then_some(Dnsmasq {
        dir,
        config: text,
        files: BTreeMap::new(),
    })
}

/// What a router says of a subnet; false if it says nothing.
fn advertised_text(subnet: &Subnet, lines: &mut BTreeSet<String>) -> bool {
    let (Some(advertised), ipnet::IpNet::V6(cidr)) = (subnet.advertised, subnet.cidr) else {
        return false;
    };
    // Half of an address that a guest makes is its own.
    if cidr.prefix_len() != 64 {
        return false;
    }
    let (tag, network) = (subnet_tag(&subnet.id), cidr.network());
    let mode = match advertised {
        Advertised::Slaac => "ra-only",
        Advertised::SlaacAndDhcp => "ra-stateless",
    };
    lines.insert(format!("dhcp-range=set:{tag},{network},{mode},64"));
    let servers = subnet.dns_nameservers.iter().filter(|ip| ip.is_ipv6());
    let servers: Vec<String> = servers.map(|ip| format!("[{ip}]")).collect();
    if !servers.is_empty() {
        let servers = servers.join(",");
        lines.insert(format!(
            "dhcp-option=tag:{tag},option6:dns-server,{servers}"
        ));
    }
    true
}

fn subnet_tag(subnet: &Uuid) -> String {
    format!("s{}", subnet.simple())
}

fn config_text(
    config: &Config,
    network: &Network,
    dhcp: &DhcpPort,
    domain: &str,
    dir: &Path,
) -> String {
    let dir = dir.display();
    let mut text = format!(
        "pid-file={dir}/pid\n\
         interface={}\nexcept-interface=lo\nbind-interfaces\n\
         no-resolv\nno-hosts\n\
         domain={domain}\nlocal=/{domain}/\n\
         dhcp-authoritative\nleasefile-ro\ndhcp-lease-max=65536\n\
         dhcp-hostsdir={dir}/hosts\ndhcp-optsdir={dir}/opts\nhostsdir={dir}/names\n\
         dhcp-option=26,{}\n",
        names::DHCP_INTERFACE,
        network.mtu,
    );
    for server in &config.dns_forwarders {
        line(&mut text, format_args!("server={server}"));
    }
    for subnet in network.subnets.iter().filter(|subnet| subnet.enable_dhcp) {
        subnet_text(subnet, dhcp, &mut text);
    }
    text
}

fn line(text: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{args}");
}

fn subnet_text(subnet: &Subnet, dhcp: &DhcpPort, text: &mut String) {
    let ipnet::IpNet::V4(cidr) = subnet.cidr else {
        return;
    };
    let Some(own) = dhcp
        .ips
        .iter()
        .find(|ip| ip.subnet_id == subnet.id)
        .map(|ip| ip.ip)
    else {
        return;
    };
    let tag = subnet_tag(&subnet.id);
    let (network, mask) = (cidr.network(), cidr.netmask());
    line(
        text,
        format_args!("dhcp-range=set:{tag},{network},static,{mask},{LEASE_SECONDS}"),
    );
    let servers: Vec<String> = if subnet.dns_nameservers.is_empty() {
        vec![own.to_string()]
    } else {
        subnet
            .dns_nameservers
            .iter()
            .filter(|ip| ip.is_ipv4())
            .map(ToString::to_string)
            .collect()
    };
    if !servers.is_empty() {
        line(
            text,
            format_args!("dhcp-option=tag:{tag},6,{}", servers.join(",")),
        );
    }
    let gateway = subnet.gateway_ip.filter(IpAddr::is_ipv4);
    match gateway {
        Some(gateway) => line(text, format_args!("dhcp-option=tag:{tag},3,{gateway}")),
        // Without a value dnsmasq keeps quiet instead of naming itself.
        None => line(text, format_args!("dhcp-option=tag:{tag},3")),
    }
    let mut routes = vec![format!("{METADATA_IP}/32,{own}")];
    for route in subnet
        .host_routes
        .iter()
        .filter(|r| r.nexthop.is_ipv4() && r.destination.addr().is_ipv4())
    {
        routes.push(format!("{},{}", route.destination.trunc(), route.nexthop));
    }
    // A client that obeys option 121 ignores option 3 (RFC 3442), so the default route is in both.
    routes.extend(gateway.map(|gateway| format!("0.0.0.0/0,{gateway}")));
    let routes = routes.join(",");
    line(text, format_args!("dhcp-option=tag:{tag},121,{routes}"));
    line(text, format_args!("dhcp-option=tag:{tag},249,{routes}"));
}

fn host_files(
    network: &Network,
    host: &DhcpHost,
    domain: &str,
    files: &mut BTreeMap<String, String>,
) {
    let mut names_text = String::new();
    for ip in &host.ips {
        let name = host_name(host, ip.ip);
        line(
            &mut names_text,
            format_args!("{} {name}.{domain} {name}", ip.ip),
        );
    }
    if !names_text.is_empty() {
        files.insert(format!("names/{}", host.port_id), names_text);
    }
    let served = |id: &Uuid| network.subnets.iter().any(|s| s.id == *id && s.enable_dhcp);
    // dnsmasq gives a client one address; a second one on the same network is the guest's business.
    let Some(ip) = host
        .ips
        .iter()
        .find(|ip| ip.ip.is_ipv4() && served(&ip.subnet_id))
    else {
        return;
    };
    let (mac, name, tag) = (
        host.mac,
        host_name(host, ip.ip),
        format!("p{}", host.port_id.simple()),
    );
    // "id:*": firmware and system of one guest show different client ids; only the MAC counts.
    files.insert(
        format!("hosts/{}", host.port_id),
        format!("{mac},id:*,set:{tag},{},{name},{LEASE_SECONDS}\n", ip.ip),
    );
    let opts: String = host
        .extra_dhcp_opts
        .iter()
        .filter_map(|opt| option_text(&tag, opt))
        .collect();
    if !opts.is_empty() {
        files.insert(format!("opts/{}", host.port_id), opts);
    }
}

/// A guest's name on its network: its own if it has a proper one, else made from the address.
fn host_name(host: &DhcpHost, ip: IpAddr) -> String {
    match host
        .hostname
        .as_deref()
        .and_then(|name| name.split('.').next())
        .filter(|name| is_label(name))
    {
        Some(name) => name.to_ascii_lowercase(),
        None => format!("host-{}", ip.to_string().replace(['.', ':'], "-")),
    }
}

fn is_label(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=63).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-')
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// One extra option; none if it is not for IPv4 or could be read as anything but one option.
fn option_text(tag: &str, opt: &ExtraDhcpOpt) -> Option<String> {
    let name_fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let value_fits = |c: char| !c.is_control() && c != '"';
    let name = opt.opt_name.as_str();
    let proper = (1..=64).contains(&name.len())
        && name.bytes().all(name_fits)
        && opt.opt_value.len() <= 255
        && opt.opt_value.chars().all(value_fits);
    if opt.ip_version != 4 || !proper {
        return None;
    }
    let number = name.bytes().all(|b| b.is_ascii_digit());
    let name = if number {
        name.to_owned()
    } else {
        format!("option:{name}")
    };
    Some(format!("tag:{tag},{name},{}\n", opt.opt_value))
}

#[cfg(test)]
#[path = "dnsmasq_tests.rs"]
mod tests;
