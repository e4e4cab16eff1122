//! The inside of a router namespace: address translation and kernel settings. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use types::network_wanted::Router;

use crate::desired::METADATA_IP;
use crate::names;
use crate::nft::Ruleset;

/// Name of the nft table in router namespaces.
const TABLE: &str = "kilonova";

/// The rules of a router.
///
/// Floating IPs are translated both ways. A guest that speaks to a floating IP of its own router
/// ("hairpin") gets its source translated too, or the answer would go straight back to it.
#[must_use]
pub fn ruleset(router: &Router) -> Ruleset {
    let mut set = Ruleset::default();
    let table = set.table("inet", TABLE);
    let inside: Vec<String> = inside(router).iter().map(ToString::to_string).collect();
    table.map("floating", "type ipv4_addr : ipv4_addr;");
    table.map("fixed", "type ipv4_addr : ipv4_addr;");
    for fip in &router.floating_ips {
        if fip.floating_ip.is_ipv4() && fip.fixed_ip.is_ipv4() {
            let (floating, fixed) = (fip.floating_ip.to_string(), fip.fixed_ip.to_string());
            table
                .map("floating", "type ipv4_addr : ipv4_addr;")
                .element(floating.clone(), fixed.clone());
            table
                .map("fixed", "type ipv4_addr : ipv4_addr;")
                .element(fixed, floating);
        }
    }
    let port = names::METADATA_PORT;
    table
        .base_chain(
            "prerouting",
            "type nat hook prerouting priority dstnat; policy accept;",
        )
        .rule(format!(
            "iifname \"qr-*\" ip daddr {METADATA_IP} tcp dport 80 redirect to :{port}"
        ))
        .rule("dnat ip to ip daddr map @floating");
    // The proxy is for guests, not for the outside.
    table
        .base_chain("input", "type filter hook input priority 0; policy accept;")
        .rule(format!("iifname \"qg-*\" tcp dport {port} drop"));

    let post = table.base_chain(
        "postrouting",
        "type nat hook postrouting priority srcnat; policy accept;",
    );
    post.rule("oifname \"qg-*\" snat ip to ip saddr map @fixed");
    if inside.is_empty() {
        return set;
    }
    let inside = inside.join(", ");
    let hairpin = format!("oifname \"qr-*\" ct status dnat ip saddr {{ {inside} }}");
    post.rule(format!("{hairpin} snat ip to ip saddr map @fixed"));
    let Some(gateway) = router
        .gateway
        .as_ref()
        .filter(|gateway| gateway.ip.is_ipv4())
    else {
        return set;
    };
    post.rule(format!("{hairpin} snat ip to {}", gateway.ip));
    if gateway.enable_snat {
        post.rule(format!(
            "oifname \"qg-*\" ip saddr {{ {inside} }} snat ip to {}",
            gateway.ip
        ));
    }
    set
}

/// The IPv4 ranges behind the router.
fn inside(router: &Router) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = router
        .interfaces
        .iter()
        .filter(|interface| interface.ip.is_ipv4())
        .filter_map(|interface| IpNet::new(interface.ip, interface.prefix).ok())
        .map(|net| net.trunc())
        .collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}

/// Kernel settings of a router.
#[must_use]
pub fn sysctls(router: &Router) -> Vec<(String, String)> {
    let forward = if router.admin_state_up { "1" } else { "0" };
    let mut settings = vec![
        ("ipv4/ip_forward", forward),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // Answer ARP only where the address is, and announce addresses when told to.
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv4/conf/all/arp_announce", "2"),
        ("ipv4/conf/all/arp_notify", "1"),
        // Hairpin traffic leaves where it came in; guests must not be told to go around.
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ];
    let has_v6 = router
        .interfaces
        .iter()
        .map(|i| i.ip)
        .chain(router.gateway.iter().map(|g| g.ip))
        .any(|ip: IpAddr| ip.is_ipv6());
    if has_v6 {
        settings.push(("ipv6/conf/all/forwarding", forward));
    }
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
