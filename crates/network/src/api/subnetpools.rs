//! Subnet pools and address scopes.

use crate::api::addressing::{address, number};
use crate::api::request::Request;
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::Work;
use ipnet::IpNet;
use serde_json::Value;

/// Creates a pool.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    check(work, &mut doc)?;
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::SubnetPool, &doc)?;
    Ok(doc)
}

fn check(work: &mut Work<'_, '_>, doc: &mut Doc) -> Result<(), Fault> {
    let prefixes: Vec<IpNet> = doc
        .texts("prefixes")
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let Some(first) = prefixes.first() else {
        return Err(Fault::bad(
            "EmptySubnetPoolPrefixList",
            "Empty subnet pool prefix list.",
        ));
    };
    let four = first.addr().is_ipv4();
    if prefixes.iter().any(|net| net.addr().is_ipv4() != four) {
        return Err(Fault::bad(
            "PrefixVersionMismatch",
            "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.",
        ));
    }
    let merged = IpNet::aggregate(&prefixes);
    doc.set(
        "prefixes",
        merged.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    let (version, least, most) = if four { (4, 8, 32) } else { (6, 64, 128) };
    doc.set("ip_version", version);
    for (name, value) in [("min_prefixlen", least), ("max_prefixlen", most)] {
        if !doc.has(name) {
            doc.set(name, value);
        }
    }
    let (low, high) = (
        doc.int("min_prefixlen").unwrap_or(least),
        doc.int("max_prefixlen").unwrap_or(most),
    );
    if !doc.has("default_prefixlen") {
        doc.set("default_prefixlen", low);
    }
    let usual = doc.int("default_prefixlen").unwrap_or(low);
    if low > high || !(low..=high).contains(&usual) || high > most {
        let text = format!(
            "Illegal prefix bounds: min_prefixlen={low}, default_prefixlen={usual}, max_prefixlen={high}."
        );
        return Err(Fault::bad("IllegalSubnetPoolPrefixBounds", text));
    }
    if let Some(scope) = doc.text_opt("address_scope_id").map(str::to_owned) {
        let scope = work.visible(Kind::AddressScope, &scope)?;
        if scope.int("ip_version") != Some(version) {
            let text = format!(
                "Illegal subnetpool association: subnetpool {} cannot associate with address scope {} because subnetpool ip_version is not the scope's.",
                doc.text("name"),
                scope.id()
            );
            return Err(Fault::bad(
                "IllegalSubnetPoolIpVersionAssociationToAddressScope",
                text,
            ));
        }
    }
    if doc.flag("is_default") {
        let others = db::find(work.tx, Kind::SubnetPool, &[])?;
        if others.iter().any(|other| {
            other.flag("is_default")
                && other.int("ip_version") == Some(version)
                && other.id() != doc.id()
        }) {
            return Err(Fault::invalid(
                "A default subnetpool for this IP family has already been set. Only one default may exist per IP family",
            ));
        }
    }
    Ok(())
}

/// Changes a pool.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    check(work, &mut doc)?;
    let nets = |doc: &Doc| -> Vec<IpNet> {
        doc.texts("prefixes")
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    };
    let after = nets(&doc);
    if let Some(gone) = nets(old)
        .iter()
        .find(|net| !after.iter().any(|wide| wide.contains(*net)))
    {
        let text = format!(
            "Illegal update to prefixes: Existing prefixes must be a subset of the new prefixes ({gone} is missing)."
        );
        return Err(Fault::bad("IllegalSubnetPoolPrefixUpdate", text));
    }
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::SubnetPool, &doc)?;
    Ok(doc)
}

/// Removes a pool.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if db::count(work.tx, Kind::Subnet, &[db::is("subnetpool_id", doc.id())])? > 0 {
        let text = format!(
            "Unable to delete subnet pool: Subnet pool has existing allocations: {}.",
            doc.id()
        );
        return Err(Fault::conflict("SubnetPoolDeleteError", text));
    }
    db::delete(work.tx, Kind::SubnetPool, doc.id())
}

/// Creates an address scope.
pub fn create_scope(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::AddressScope, &doc)?;
    Ok(doc)
}

/// Changes an address scope.
pub fn update_scope(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    if old.flag("shared") && !doc.flag("shared") {
        let text = format!(
            "Unable to update address scope {}: Shared address scope can't be unshared.",
            doc.id()
        );
        return Err(Fault::bad("AddressScopeUpdateError", text));
    }
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::AddressScope, &doc)?;
    Ok(doc)
}

/// Removes an address scope.
pub fn remove_scope(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if db::count(
        work.tx,
        Kind::SubnetPool,
        &[db::is("address_scope_id", doc.id())],
    )? > 0
    {
        let text = format!(
            "Unable to complete operation on address scope {}. There are one or more subnet pools in use on the address scope.",
            doc.id()
        );
        return Err(Fault::conflict("AddressScopeInUse", text));
    }
    db::delete(work.tx, Kind::AddressScope, doc.id())
}

/// Gives a new subnet its range from a pool, when it names one.
pub fn choose(work: &mut Work<'_, '_>, subnet: &mut Doc) -> Result<(), Fault> {
    if subnet.flag("use_default_subnetpool") && !subnet.has("subnetpool_id") {
        let version = subnet.int("ip_version");
        let pools = db::find(work.tx, Kind::SubnetPool, &[])?;
        let usual = pools
            .iter()
            .find(|pool| pool.flag("is_default") && pool.int("ip_version") == version);
        let usual = usual.ok_or_else(|| Fault::not_found(Kind::SubnetPool, "default"))?;
        subnet.set("subnetpool_id", usual.id());
    }
    let Some(pool) = subnet.text_opt("subnetpool_id").map(str::to_owned) else {
        subnet.set("subnetpool_id", Value::Null);
        return Ok(());
    };
    if pool == "prefix_delegation" {
        return Err(Fault::invalid("prefix delegation is not supported"));
    }
    let pool = work.visible(Kind::SubnetPool, &pool)?;
    let version = pool.int("ip_version").unwrap_or(4);
    if subnet
        .int("ip_version")
        .is_some_and(|wanted| wanted != version)
    {
        return Err(Fault::invalid(
            "Cannot allocate requested subnet from a pool of the other IP version",
        ));
    }
    subnet.set("ip_version", version);
    let siblings = db::find(work.tx, Kind::Subnet, &[db::is("subnetpool_id", pool.id())])?;
    let mut taken: Vec<IpNet> = siblings
        .iter()
        .filter_map(|other| other.text("cidr").parse().ok())
        .collect();
    taken.sort_by_key(|net| number(net.network()));
    let net = pick(&pool, subnet, &taken)?;
    subnet.set("cidr", net.to_string());
    Ok(())
}

fn pick(pool: &Doc, subnet: &Doc, taken: &[IpNet]) -> Result<IpNet, Fault> {
    let none = || {
        let text = format!(
            "Failed to allocate subnet: Insufficient prefix space to allocate subnet size /{}.",
            subnet
                .int("prefixlen")
                .or(pool.int("default_prefixlen"))
                .unwrap_or(0)
        );
        Fault::conflict("SubnetAllocationError", text)
    };
    let prefixes: Vec<IpNet> = pool
        .texts("prefixes")
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let overlaps = |net: &IpNet| {
        taken
            .iter()
            .find(|other| other.contains(net) || net.contains(*other))
    };
    if let Some(wanted) = subnet
        .text_opt("cidr")
        .and_then(|text| text.parse::<IpNet>().ok())
    {
        check_length(pool, i64::from(wanted.prefix_len()))?;
        let free =
            prefixes.iter().any(|wide| wide.contains(&wanted)) && overlaps(&wanted).is_none();
        return if free {
            Ok(wanted)
        } else {
            Err(Fault::conflict(
                "SubnetAllocationError",
                "Failed to allocate subnet: Cannot allocate requested subnet from the available set of prefixes.",
            ))
        };
    }
    let length = subnet
        .int("prefixlen")
        .or(pool.int("default_prefixlen"))
        .unwrap_or(64);
    check_length(pool, length)?;
    let length = u8::try_from(length).map_err(|_| none())?;
    for wide in prefixes.iter().filter(|wide| wide.prefix_len() <= length) {
        let last = number(wide.broadcast());
        let mut at = number(wide.network());
        while at <= last {
            let net = IpNet::new(address(at, wide), length)
                .map_err(|_| none())?
                .trunc();
            match overlaps(&net) {
                None => return Ok(net),
                Some(other) => {
                    at = number(other.broadcast())
                        .max(number(net.broadcast()))
                        .saturating_add(1)
                }
            }
        }
    }
    Err(none())
}

fn check_length(pool: &Doc, length: i64) -> Result<(), Fault> {
    let (low, high) = (
        pool.int("min_prefixlen").unwrap_or(0),
        pool.int("max_prefixlen").unwrap_or(128),
    );
    if length < low {
        let text = format!(
            "Unable to allocate subnet with prefix length {length}, minimum allowed prefix is {low}."
        );
        return Err(Fault::bad("MinPrefixSubnetAllocationError", text));
    }
    if length > high {
        let text = format!(
            "Unable to allocate subnet with prefix length {length}, maximum allowed prefix is {high}."
        );
        return Err(Fault::bad("MaxPrefixSubnetAllocationError", text));
    }
    Ok(())
}
