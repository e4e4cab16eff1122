//! Choosing addresses for ports.

use crate::db::ipam;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::work::Work;
use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use types::network_wanted::Mac;

/// An address of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The subnet.
    pub subnet_id: String,
    /// The address.
    pub ip: IpAddr,
}

/// An address as a number.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// A number as an address of the family of `like`.
pub fn address(number: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The range of a subnet.
pub fn cidr(subnet: &Doc) -> Result<IpNet, Fault> {
    let wrong = || {
        Fault::from(sql::Error::Column(format!(
            "subnet {} has no range",
            subnet.id()
        )))
    };
    subnet.text("cidr").parse().map_err(|_| wrong())
}

/// First and last address that a host can have: without the network's and the broadcast address of IPv4, without the
/// subnet-router anycast address of IPv6 (RFC 4291, section 2.6.1); both are hosts in /31, /32, /127 and /128.
pub fn host_range(net: &IpNet) -> (u128, u128) {
    let (first, last) = (number(net.network()), number(net.broadcast()));
    match net {
        _ if net.max_prefix_len() - net.prefix_len() <= 1 => (first, last),
        IpNet::V4(_) => (first + 1, last - 1),
        IpNet::V6(_) => (first + 1, last),
    }
}

/// The allocation pools of a subnet as numbers.
pub fn pools(subnet: &Doc) -> Vec<(u128, u128)> {
    let end =
        |pool: &Value, name: &str| pool.get(name)?.as_str()?.parse::<IpAddr>().ok().map(number);
    subnet
        .list("allocation_pools")
        .iter()
        .filter_map(|pool| Some((end(pool, "start")?, end(pool, "end")?)))
        .collect()
}

/// Whether ports make their own address in a subnet from their MAC address.
pub fn is_automatic(subnet: &Doc) -> bool {
    matches!(
        subnet.text("ipv6_address_mode"),
        "slaac" | "dhcpv6-stateless"
    )
}

/// The address that stateless autoconfiguration makes (RFC 4862, RFC 4291 appendix A).
pub fn eui64(net: &IpNet, mac: Mac) -> IpAddr {
    let [a, b, c, d, e, f] = mac.0;
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    IpAddr::V6(Ipv6Addr::from(number(net.network()) | u128::from(low)))
}

/// Takes addresses for a port. `requested` is the `fixed_ips` of the request; `None` lets the service choose. Addresses
/// in `keep` are the port's already.
pub fn take(
    work: &mut Work<'_, '_>,
    subnets: &[Doc],
    port: &Doc,
    requested: Option<&[Value]>,
    keep: &[Fixed],
) -> Result<Vec<Fixed>, Fault> {
    let Some(requested) = requested else {
        return take_any(work, subnets, port);
    };
    let most = work.cx.config.max_fixed_ips;
    if requested.len() > most && !port.text("device_owner").starts_with("network:") {
        return Err(Fault::bad(
            "InvalidInput",
            "Invalid input for operation: Exceeded maximum amount of fixed ips per port.",
        ));
    }
    let mut taken = Vec::new();
    let mut by_subnet = Vec::new();
    for wish in requested {
        match wish
            .get("ip_address")
            .and_then(Value::as_str)
            .and_then(|ip| ip.parse::<IpAddr>().ok())
        {
            Some(ip) => taken.push(take_this(work, subnets, port, wish, ip, keep)?),
            None => by_subnet.push(wish),
        }
    }
    // Named addresses go first, so that a chosen one never is one that is named further down.
    for wish in by_subnet {
        let id = wish
            .get("subnet_id")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if id.is_empty() {
            return Err(Fault::invalid(
                "IP allocation requires subnet_id or ip_address",
            ));
        }
        let subnet = subnet_of(subnets, port, id)?;
        let kept = keep
            .iter()
            .find(|old| old.subnet_id == id && !taken.contains(old));
        let fixed = match kept {
            Some(old) => old.clone(),
            None => take_from(work, subnet, port)?.ok_or_else(|| full(port))?,
        };
        taken.push(fixed);
    }
    Ok(taken)
}

fn full(port: &Doc) -> Fault {
    let text = format!(
        "No more IP addresses available on network {}.",
        port.text("network_id")
    );
    Fault::conflict("IpAddressGenerationFailure", text)
}

fn subnet_of<'s>(subnets: &'s [Doc], port: &Doc, id: &str) -> Result<&'s Doc, Fault> {
    subnets.iter().find(|subnet| subnet.id() == id).ok_or_else(|| {
        let network = port.text("network_id");
        Fault::invalid(format!("Failed to create port on network {network}, because fixed_ips included invalid subnet {id}"))
    })
}

fn take_this(
    work: &mut Work<'_, '_>,
    subnets: &[Doc],
    port: &Doc,
    wish: &Value,
    ip: IpAddr,
    keep: &[Fixed],
) -> Result<Fixed, Fault> {
    let subnet = match wish.get("subnet_id").and_then(Value::as_str) {
        Some(id) => {
            let subnet = subnet_of(subnets, port, id)?;
            if !usable(subnet, ip)? {
                return Err(Fault::bad(
                    "InvalidIpForSubnet",
                    format!("IP address {ip} is not a valid IP for the specified subnet."),
                ));
            }
            subnet
        }
        None => {
            let mut found = None;
            for subnet in subnets {
                if usable(subnet, ip)? {
                    found = Some(subnet);
                }
            }
            let text = format!(
                "IP address {ip} is not a valid IP for any of the subnets on the specified network."
            );
            found.ok_or_else(|| Fault::bad("InvalidIpForNetwork", text))?
        }
    };
    let fixed = Fixed {
        subnet_id: subnet.id().to_owned(),
        ip,
    };
    if keep.contains(&fixed) {
        return Ok(fixed);
    }
    if ipam::holder(work.tx, subnet.id(), ip)?.is_some() {
        let text = format!(
            "IP address {ip} already allocated in subnet {}",
            subnet.id()
        );
        return Err(Fault::conflict("IpAddressAlreadyAllocated", text));
    }
    ipam::take(work.tx, subnet.id(), ip, port.id())?;
    Ok(fixed)
}

fn usable(subnet: &Doc, ip: IpAddr) -> Result<bool, Fault> {
    let net = cidr(subnet)?;
    let (first, last) = host_range(&net);
    Ok(net.contains(&ip) && (first..=last).contains(&number(ip)))
}

/// One IPv4 address, one IPv6 address from a pool, and one in each subnet with autoconfiguration, as far as there are such subnets.
fn take_any(work: &mut Work<'_, '_>, subnets: &[Doc], port: &Doc) -> Result<Vec<Fixed>, Fault> {
    let mut taken = Vec::new();
    for version in [4, 6] {
        let pooled: Vec<&Doc> = subnets
            .iter()
            .filter(|subnet| subnet.int("ip_version") == Some(version) && !is_automatic(subnet))
            .collect();
        if pooled.is_empty() {
            continue;
        }
        let mut found = None;
        for subnet in pooled {
            found = take_from(work, subnet, port)?;
            if found.is_some() {
                break;
            }
        }
        taken.push(found.ok_or_else(|| full(port))?);
    }
    let router = port.text("device_owner").starts_with("network:router");
    for subnet in subnets
        .iter()
        .filter(|subnet| is_automatic(subnet) && !router)
    {
        taken.extend(take_from(work, subnet, port)?);
    }
    Ok(taken)
}

/// Takes one address of a subnet; `None` when all are taken.
fn take_from(work: &mut Work<'_, '_>, subnet: &Doc, port: &Doc) -> Result<Option<Fixed>, Fault> {
    let net = cidr(subnet)?;
    let free = if is_automatic(subnet) {
        port.text("mac_address")
            .parse()
            .ok()
            .map(|mac| eui64(&net, mac))
    } else {
        free_address(
            work,
            subnet,
            &net,
            port.text("device_owner").starts_with("network:"),
        )?
    };
    let Some(ip) = free else { return Ok(None) };
    ipam::take(work.tx, subnet.id(), ip, port.id())?;
    Ok(Some(Fixed {
        subnet_id: subnet.id().to_owned(),
        ip,
    }))
}

/// The cloud's own ports get the lowest free address. Guests get a random one: an address is not used again at once
/// (other guests may still know the old owner), and requests at the same time seldom want the same.
fn free_address(
    work: &mut Work<'_, '_>,
    subnet: &Doc,
    net: &IpNet,
    lowest: bool,
) -> Result<Option<IpAddr>, Fault> {
    let pools = pools(subnet);
    if !lowest && !pools.is_empty() {
        let mut tries: Vec<IpAddr> = (0..8).map(|_| address(random_in(&pools), net)).collect();
        let taken = ipam::taken_of(work.tx, subnet.id(), &tries)?;
        tries.retain(|ip| !taken.contains(&ipam::stored(*ip)));
        if let Some(ip) = tries.first() {
            return Ok(Some(*ip));
        }
    }
    for (first, last) in pools {
        let mut free = first;
        for taken in ipam::taken_between(
            work.tx,
            subnet.id(),
            address(first, net),
            address(last, net),
        )? {
            if taken != free {
                break;
            }
            free += 1;
        }
        if free <= last {
            return Ok(Some(address(free, net)));
        }
    }
    Ok(None)
}

fn random_in(pools: &[(u128, u128)]) -> u128 {
    let mut random = rand::rng();
    let (first, last) = pools[random.random_range(0..pools.len())];
    random.random_range(first..=last)
}

/// Addresses as `fixed_ips`.
pub fn shown(all: &[Fixed]) -> Value {
    all.iter()
        .map(|fixed| json!({"subnet_id": fixed.subnet_id, "ip_address": fixed.ip.to_string()}))
        .collect()
}

/// The `fixed_ips` of a port.
pub fn held(port: &Doc) -> Vec<Fixed> {
    let parse = |(subnet_id, ip): (String, String)| {
        Some(Fixed {
            subnet_id,
            ip: ip.parse().ok()?,
        })
    };
    port.fixed_ips().into_iter().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_of_hosts() {
        for (net, first, last) in [
            ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
            ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
            ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ] {
            let net: IpNet = net.parse().unwrap();
            let (low, high) = host_range(&net);
            assert_eq!(
                (address(low, &net), address(high, &net)),
                (first.parse().unwrap(), last.parse().unwrap()),
                "{net}"
            );
        }
    }

    #[test]
    fn autoconfigured_address() {
        let ip = eui64(
            &"2001:db8::/64".parse().unwrap(),
            "fa:16:3e:00:00:01".parse().unwrap(),
        );
        assert_eq!(ip.to_string(), "2001:db8::f816:3eff:fe00:1");
    }
}
