//! Subnets.

use crate::api::addressing::{address, cidr, host_range, number, pools};
use crate::api::request::Request;
use crate::db::{self, ipam};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Creates a subnet.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    let network = work.get(Kind::Network, doc.text("network_id"))?;
    doc.set("project_id", network.project());
    if request.given.has("project_id") || request.given.has("tenant_id") {
        doc.set(
            "project_id",
            request
                .given
                .text_opt("project_id")
                .unwrap_or(request.given.text("tenant_id")),
        );
    }
    super::subnetpools::choose(work, &mut doc)?;
    let net = range(&doc)?;
    doc.set("cidr", net.to_string());
    check_modes(&doc)?;
    refuse_overlap(work, &doc, &net)?;
    if !request.given.contains_key("gateway_ip") {
        let (first, _) = host_range(&net);
        doc.set("gateway_ip", address(first, &net).to_string());
    }
    let gateway = doc
        .text_opt("gateway_ip")
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    check_gateway(&net, gateway)?;
    if !doc.has("allocation_pools") {
        doc.set("allocation_pools", default_pools(&net, gateway));
    }
    check_pools(&doc, &net, gateway)?;
    check_families(&doc)?;
    for name in ["prefixlen", "use_default_subnetpool"] {
        doc.remove(name);
    }
    doc.set("service_types", json!([]));
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::Subnet, &doc)?;
    work.changed(What::Network, network.id());
    super::ports::ensure_dhcp_port(work, &network)?;
    Ok(doc)
}

fn range(doc: &Doc) -> Result<IpNet, Fault> {
    let net = doc
        .text_opt("cidr")
        .and_then(|text| text.parse::<IpNet>().ok());
    let net = net.ok_or_else(|| {
        Fault::bad(
            "BadRequest",
            "Bad subnets request: a subnetpool must be specified in the absence of a cidr.",
        )
    })?;
    let version = if net.addr().is_ipv4() { 4 } else { 6 };
    match doc.int("ip_version") {
        Some(wanted) if wanted != version => Err(Fault::invalid(format!(
            "cidr {net} does not match the ip_version '{wanted}'"
        ))),
        None => Err(Fault::invalid(
            "ip_version must be specified in the absence of subnetpool_id",
        )),
        _ if net.prefix_len() == 0 => Err(Fault::invalid("0 is not allowed as CIDR prefix length")),
        _ if net.addr().is_multicast() || net.addr().is_loopback() => Err(Fault::invalid(format!(
            "CIDR {net} is a multicast or loopback range"
        ))),
        _ => Ok(net.trunc()),
    }
}

fn check_modes(doc: &Doc) -> Result<(), Fault> {
    let (ra, mode) = (doc.text("ipv6_ra_mode"), doc.text("ipv6_address_mode"));
    if ra.is_empty() && mode.is_empty() {
        return Ok(());
    }
    if doc.int("ip_version") == Some(4) {
        return Err(Fault::invalid(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when ip_version is 4",
        ));
    }
    if !ra.is_empty() && !mode.is_empty() && ra != mode {
        return Err(Fault::invalid(format!(
            "ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{mode}' is not valid. If both attributes are set, they must be the same value"
        )));
    }
    if super::addressing::is_automatic(doc) && !doc.text("cidr").ends_with("/64") {
        return Err(Fault::invalid(format!(
            "Invalid CIDR {} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64",
            doc.text("cidr")
        )));
    }
    Ok(())
}

fn refuse_overlap(work: &mut Work<'_, '_>, doc: &Doc, net: &IpNet) -> Result<(), Fault> {
    for other in db::find(
        work.tx,
        Kind::Subnet,
        &[db::is("network_id", doc.text("network_id"))],
    )? {
        let range = cidr(&other)?;
        if range.contains(net) || net.contains(&range) {
            let network = doc.text("network_id");
            return Err(Fault::invalid(format!(
                "Requested subnet with cidr: {net} for network: {network} overlaps with another subnet"
            )));
        }
    }
    Ok(())
}

fn check_gateway(net: &IpNet, gateway: Option<IpAddr>) -> Result<(), Fault> {
    let Some(gateway) = gateway else {
        return Ok(());
    };
    let (first, last) = host_range(net);
    let link_local = matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if link_local || net.contains(&gateway) && (first..=last).contains(&number(gateway)) {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "Gateway is not valid on subnet: {gateway} is not a host address of {net}"
    )))
}

/// Everything but the gateway.
fn default_pools(net: &IpNet, gateway: Option<IpAddr>) -> Value {
    let (first, last) = host_range(net);
    let mut ranges = vec![(first, last)];
    if let Some(at) = gateway.map(number).filter(|at| (first..=last).contains(at)) {
        ranges = vec![(first, at.saturating_sub(1)), (at + 1, last)];
        ranges.retain(|(low, high)| low <= high && *low >= first);
        if at == first {
            ranges.retain(|(low, _)| *low > at);
        }
    }
    let show = |(low, high): (u128, u128)| json!({"start": address(low, net).to_string(), "end": address(high, net).to_string()});
    ranges.into_iter().map(show).collect()
}

fn check_pools(doc: &Doc, net: &IpNet, gateway: Option<IpAddr>) -> Result<(), Fault> {
    let mut ranges = pools(doc);
    let family = |pool: &Value, name: &str| {
        pool.get(name)
            .and_then(Value::as_str)
            .and_then(|ip| ip.parse().ok())
            .is_some_and(|ip: IpAddr| net.contains(&ip))
    };
    for pool in doc.list("allocation_pools") {
        if !family(pool, "start") || !family(pool, "end") {
            let text = format!(
                "The allocation pool {}-{} spans beyond the subnet cidr {net}.",
                pool["start"].as_str().unwrap_or_default(),
                pool["end"].as_str().unwrap_or_default()
            );
            return Err(Fault::bad("OutOfBoundsAllocationPool", text));
        }
    }
    ranges.sort_unstable();
    if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
        let text = format!(
            "The allocation pool {}-{} is not valid.",
            address(*first, net),
            address(*last, net)
        );
        return Err(Fault::bad("InvalidAllocationPool", text));
    }
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        let show =
            |(low, high): (u128, u128)| format!("{}-{}", address(low, net), address(high, net));
        let text = format!(
            "Found overlapping allocation pools: {} {} for subnet {net}.",
            show(pair[0]),
            show(pair[1])
        );
        return Err(Fault::conflict("OverlappingAllocationPools", text));
    }
    let taken = gateway.filter(|ip| {
        ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number(*ip)) && net.contains(ip))
    });
    if let Some(ip) = taken {
        let text = format!(
            "Gateway ip {ip} conflicts with allocation pool {}.",
            doc.list("allocation_pools")
                .iter()
                .map(|pool| format!(
                    "{}-{}",
                    pool["start"].as_str().unwrap_or_default(),
                    pool["end"].as_str().unwrap_or_default()
                ))
                .collect::<Vec<_>>()
                .join(", ")
        );
        return Err(Fault::conflict("GatewayConflictWithAllocationPools", text));
    }
    Ok(())
}

/// Name servers and routes are of the subnet's family.
fn check_families(doc: &Doc) -> Result<(), Fault> {
    let four = doc.int("ip_version") == Some(4);
    let fits = |text: &str| text.contains(':') != four;
    let servers = doc.texts("dns_nameservers");
    if let Some(other) = servers.iter().find(|text| !fits(text)) {
        return Err(Fault::invalid(format!(
            "dns_nameserver '{other}' does not match the ip_version '{}'",
            if four { 4 } else { 6 }
        )));
    }
    for route in doc.list("host_routes") {
        if !["destination", "nexthop"]
            .iter()
            .all(|name| route[*name].as_str().is_some_and(fits))
        {
            return Err(Fault::invalid(format!(
                "host_route '{route}' does not match the ip_version '{}'",
                if four { 4 } else { 6 }
            )));
        }
    }
    Ok(())
}

/// Changes a subnet.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    let net = cidr(&doc)?;
    let gateway = doc
        .text_opt("gateway_ip")
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    if old.get("gateway_ip") != doc.get("gateway_ip") {
        check_gateway(&net, gateway)?;
        refuse_if_router_gateway(work, old)?;
    }
    check_pools(&doc, &net, gateway)?;
    check_families(&doc)?;
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Subnet, &doc)?;
    work.changed(What::Network, doc.text("network_id"));
    let network = work.get(Kind::Network, doc.text("network_id"))?;
    super::ports::ensure_dhcp_port(work, &network)?;
    for router in super::routers::with_gateway_on(work, network.id())? {
        work.changed(What::Router, &router);
    }
    Ok(doc)
}

fn refuse_if_router_gateway(work: &mut Work<'_, '_>, old: &Doc) -> Result<(), Fault> {
    let Some(ip) = old.text_opt("gateway_ip").and_then(|ip| ip.parse().ok()) else {
        return Ok(());
    };
    let Some(holder) = ipam::holder(work.tx, old.id(), ip)? else {
        return Ok(());
    };
    let port = db::get(work.tx, Kind::Port, &holder)?.unwrap_or_default();
    if port.text("device_owner") != "network:router_interface" {
        return Ok(());
    }
    let text =
        format!("Current gateway ip {ip} already in use by port {holder}. Unable to update.");
    Err(Fault::conflict("GatewayIpInUse", text))
}

/// Removes a subnet.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    let holders = ipam::ports(work.tx, doc.id())?;
    let ports = db::find(
        work.tx,
        Kind::Port,
        &[db::one_of("id", holders.iter().map(String::as_str))],
    )?;
    let automatic = super::addressing::is_automatic(doc);
    for port in &ports {
        let owner = port.text("device_owner");
        // An address that the port made itself goes with the subnet; a router's was given to it.
        let goes = owner == "network:dhcp" || automatic && !owner.starts_with("network:router");
        if !goes {
            let text = format!(
                "Unable to complete operation on subnet {}: One or more ports have an IP allocation from this subnet.",
                doc.id()
            );
            return Err(Fault::conflict("SubnetInUse", text));
        }
    }
    for port in ports {
        if automatic && port.text("device_owner") != "network:dhcp" {
            super::ports::leave_subnet(work, port, doc.id())?;
        }
    }
    db::delete(work.tx, Kind::Subnet, doc.id())?;
    let network = work.get(Kind::Network, doc.text("network_id"))?;
    work.changed(What::Network, network.id());
    super::ports::ensure_dhcp_port(work, &network)
}
