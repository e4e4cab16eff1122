//! Ports.

use crate::api::addressing::{self, Fixed};
use crate::api::request::Request;
use crate::api::{security_groups, trunks};
use crate::db::{self, ipam};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use rand::RngCore;
use serde_json::{Value, json};
use types::network_wanted::Mac;

/// The owner of the port of a DHCP server.
pub const DHCP: &str = "network:dhcp";

/// Most allowed address pairs of a port (Neutron's `max_allowed_address_pair`).
const ADDRESS_PAIRS: usize = 10;

/// Creates a port.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let network = work.visible(Kind::Network, request.doc.text("network_id"))?;
    let project = request.doc.project();
    let usable = work.cx.sees_all() || network.flag("shared") || network.project() == project;
    if !usable {
        return Err(Fault::forbidden("rule:create_port"));
    }
    create_on(work, &network, request)
}

/// Creates a port on a network that was looked up already.
pub fn create_on(work: &mut Work<'_, '_>, network: &Doc, request: Request) -> Result<Doc, Fault> {
    let Request { mut doc, given } = request;
    crate::work::born(&mut doc);
    if !doc.has("mac_address") {
        doc.set("mac_address", new_mac());
    } else if db::count(
        work.tx,
        Kind::Port,
        &[
            db::is("network_id", network.id()),
            db::is("mac_address", doc.text("mac_address")),
        ],
    )? > 0
    {
        return Err(mac_in_use(&doc));
    }
    if !doc.has("port_security_enabled") {
        let trusted = doc.text("device_owner").starts_with("network:");
        doc.set(
            "port_security_enabled",
            network.flag("port_security_enabled") && !trusted,
        );
    }
    let subnets = db::find(work.tx, Kind::Subnet, &[db::is("network_id", network.id())])?;
    let subnets = in_order(subnets);
    let wanted = given.has("fixed_ips").then(|| given.list("fixed_ips"));
    let fixed = addressing::take(work, &subnets, &doc, wanted, &[])?;
    doc.set("fixed_ips", addressing::shown(&fixed));
    // Whether it is meant to have no address: a server may use it all the same then.
    let none = wanted.is_some_and(|wanted| wanted.is_empty());
    doc.set("ip_allocation", if none { "none" } else { "immediate" });
    choose_groups(work, &mut doc, given.has("security_groups"))?;
    check_security(&doc)?;
    // Nobody realises the port of a floating IP: the address is the router's.
    let floating = doc.text("device_owner") == "network:floatingip";
    doc.set("status", if floating { "N/A" } else { "DOWN" });
    bind(&mut doc);
    index_addresses(&mut doc);
    db::insert(work.tx, Kind::Port, &doc)?;
    let groups = doc.texts("security_groups");
    db::set_port_groups(work.tx, doc.id(), &groups)?;
    tell(work, &doc)?;
    Ok(doc)
}

/// Oldest first.
fn in_order(mut subnets: Vec<Doc>) -> Vec<Doc> {
    subnets.sort_by(|a, b| (a.text("created_at"), a.id()).cmp(&(b.text("created_at"), b.id())));
    subnets
}

fn mac_in_use(doc: &Doc) -> Fault {
    let text = format!(
        "Unable to complete operation for network {}. The mac address {} is in use.",
        doc.text("network_id"),
        doc.text("mac_address")
    );
    Fault::conflict("MacAddressInUse", text)
}

/// A random address with the prefix that OpenStack uses; a clash is refused by the database and tried again.
fn new_mac() -> String {
    let mut low = [0; 3];
    rand::rng().fill_bytes(&mut low);
    Mac([0xfa, 0x16, 0x3e, low[0], low[1], low[2]]).to_string()
}

fn choose_groups(work: &mut Work<'_, '_>, doc: &mut Doc, named: bool) -> Result<(), Fault> {
    let trusted = doc.text("device_owner").starts_with("network:");
    if named {
        security_groups::demand_usable(work, &doc.texts("security_groups"), doc.project())?;
    } else if trusted
        || !doc.flag("port_security_enabled")
        || doc.list("fixed_ips").is_empty() && doc.project().is_empty()
    {
        doc.set("security_groups", json!([]));
    } else {
        let group = security_groups::ensure_default(work, doc.project())?;
        doc.set("security_groups", json!([group]));
    }
    Ok(())
}

fn check_security(doc: &Doc) -> Result<(), Fault> {
    if !doc.flag("port_security_enabled") {
        if !doc.list("security_groups").is_empty() {
            let text = "Port security must be enabled and port must have an IP address in order to use security groups.";
            return Err(Fault::bad(
                "PortSecurityAndIPRequiredForSecurityGroups",
                text,
            ));
        }
        if !doc.list("allowed_address_pairs").is_empty() {
            return Err(Fault::conflict(
                "AddressPairAndPortSecurityRequired",
                "Port Security must be enabled in order to have allowed address pairs on a port.",
            ));
        }
    }
    if doc.list("allowed_address_pairs").len() > ADDRESS_PAIRS {
        let text =
            format!("The number of allowed address pair exceeds the maximum {ADDRESS_PAIRS}.");
        return Err(Fault::bad("AllowedAddressPairExhausted", text));
    }
    Ok(())
}

/// What the binding says.
fn bind(doc: &mut Doc) {
    if doc.text("binding:host_id").is_empty() {
        doc.set("binding:host_id", "");
    }
    let (vif_type, details) = realised_as(
        doc.text("binding:host_id"),
        doc.text("binding:vnic_type"),
        doc.text("network_id"),
    );
    doc.set("binding:vif_type", vif_type);
    doc.set("binding:vif_details", details);
}

/// How a port is realised on a host, `vif_type` and `vif_details`: the only mechanism here is a tap on a Linux bridge.
pub fn realised_as(host: &str, vnic_type: &str, network: &str) -> (&'static str, Value) {
    if host.is_empty() {
        return ("unbound", json!({}));
    }
    if vnic_type != "normal" {
        return ("binding_failed", json!({}));
    }
    let bridge: String = network.chars().take(11).collect();
    (
        "bridge",
        json!({"port_filter": true, "connectivity": "l2", "bridge_name": format!("kbr{bridge}"), "bound_drivers": {"0": "linuxbridge"}}),
    )
}

/// What rules that name the port's groups match: its addresses and allowed pairs.
fn index_addresses(doc: &mut Doc) {
    let mut all: Vec<String> = doc.fixed_ips().into_iter().map(|(_, ip)| ip).collect();
    all.extend(
        doc.list("allowed_address_pairs")
            .iter()
            .filter_map(|pair| pair["ip_address"].as_str())
            .map(str::to_owned),
    );
    doc.set("_addresses", all.join(" "));
}

/// Notes that the hosts which a network joins have changed, when this port is the only one of the network there.
fn tell_tunnels(work: &mut Work<'_, '_>, doc: &Doc, host: &str) -> Result<(), Fault> {
    let network = doc.text("network_id");
    let counts = !host.is_empty()
        && !doc.text("device_owner").starts_with("network:")
        && db::agents::any_tunnel(work.tx)?
        && !db::has_other_port(work.tx, host, network, doc.id())?;
    if counts {
        work.changed(What::Network, network);
    }
    Ok(())
}

/// Notes for the agents that a port is new, changed or gone.
fn tell(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    work.port_changed(doc.id(), doc.text("binding:host_id"));
    work.changed(What::Addresses, doc.text("network_id"));
    if doc.text("device_owner").starts_with("network:router") {
        work.changed(What::Router, doc.text("device_id"));
    }
    tell_tunnels(work, doc, doc.text("binding:host_id"))?;
    for ready in db::bindings::of_port(work.tx, doc.id())? {
        tell_host(work, doc, &ready.host)?;
    }
    work.members_changed(&doc.texts("security_groups"))
}

/// Notes for one host that it begins or ceases to make a port ready, or that the port has changed.
pub fn tell_host(work: &mut Work<'_, '_>, doc: &Doc, host: &str) -> Result<(), Fault> {
    work.port_changed(doc.id(), host);
    tell_tunnels(work, doc, host)
}

/// Makes a binding the active one of a port.
pub fn bind_actively(
    work: &mut Work<'_, '_>,
    old: &Doc,
    binding: &db::bindings::Binding,
) -> Result<Doc, Fault> {
    let mut doc = old.clone();
    doc.set("binding:host_id", binding.host.as_str());
    doc.set("binding:vnic_type", binding.vnic_type.as_str());
    doc.set("binding:profile", binding.profile.clone());
    rebind(work, old, doc)
}

/// Changes a port.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc, given: &Doc) -> Result<Doc, Fault> {
    if given.contains_key("mac_address") && old.text("mac_address") != doc.text("mac_address") {
        change_mac(work, old, &doc)?;
    }
    if given.contains_key("fixed_ips") {
        change_addresses(work, old, &mut doc, given)?;
    }
    if given.contains_key("security_groups") {
        security_groups::demand_usable(work, &doc.texts("security_groups"), doc.project())?;
    }
    check_security(&doc)?;
    check_owner(old, &doc)?;
    change_host(work, old, &doc)?;
    rebind(work, old, doc)
}

/// What becomes of the bindings that wait when a port is bound elsewhere.
fn change_host(work: &mut Work<'_, '_>, old: &Doc, doc: &Doc) -> Result<(), Fault> {
    let host = doc.text("binding:host_id");
    if old.text("binding:host_id") == host {
        return Ok(());
    }
    if host.is_empty() {
        return forget_bindings(work, old);
    }
    // It is active there now.
    db::bindings::delete(work.tx, doc.id(), host)
}

/// Writes a port that a trunk carries, or no longer, bound to a host or (empty) to none.
pub fn rebind_to(
    work: &mut Work<'_, '_>,
    old: &Doc,
    mut doc: Doc,
    host: &str,
) -> Result<(), Fault> {
    doc.set("binding:host_id", host);
    change_host(work, old, &doc)?;
    rebind(work, old, doc).map(drop)
}

/// Nobody makes the port ready any more.
fn forget_bindings(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    for ready in db::bindings::of_port(work.tx, doc.id())? {
        tell_host(work, doc, &ready.host)?;
    }
    db::bindings::delete_all(work.tx, doc.id())
}

/// Writes a changed port, and tells those whom it concerns.
fn rebind(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    bind(&mut doc);
    if old.text("binding:host_id") != doc.text("binding:host_id") || !doc.flag("admin_state_up") {
        doc.set("status", "DOWN");
    }
    index_addresses(&mut doc);
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Port, &doc)?;
    let moved = old.text("binding:host_id") != doc.text("binding:host_id");
    if moved && doc.text("device_owner") != trunks::OWNER {
        trunks::follow(work, &doc)?;
    }
    let groups = doc.texts("security_groups");
    if groups != old.texts("security_groups") {
        db::set_port_groups(work.tx, doc.id(), &groups)?;
        work.members_changed(&old.texts("security_groups"))?;
    }
    if moved {
        work.port_changed(old.id(), old.text("binding:host_id"));
        tell_tunnels(work, old, old.text("binding:host_id"))?;
    }
    tell(work, &doc)?;
    Ok(doc)
}

fn change_mac(work: &mut Work<'_, '_>, old: &Doc, doc: &Doc) -> Result<(), Fault> {
    let bound =
        !old.text("binding:host_id").is_empty() && old.text("device_owner").starts_with("compute:");
    if bound && doc.text("binding:host_id") == old.text("binding:host_id") {
        let text = format!(
            "Unable to complete operation on port {} for network {}. Port already has an attached device {}.",
            old.id(),
            old.text("network_id"),
            old.text("device_id")
        );
        return Err(Fault::conflict("PortBound", text));
    }
    let matches = [
        db::is("network_id", doc.text("network_id")),
        db::is("mac_address", doc.text("mac_address")),
    ];
    if db::count(work.tx, Kind::Port, &matches)? > 0 {
        return Err(mac_in_use(doc));
    }
    Ok(())
}

fn check_owner(old: &Doc, doc: &Doc) -> Result<(), Fault> {
    let moved = old.text("device_id") != doc.text("device_id")
        || old.text("device_owner") != doc.text("device_owner");
    if old.text("device_owner").starts_with("network:router") && moved {
        let text = format!(
            "Port {} cannot be updated: device_owner or device_id of a router's port",
            old.id()
        );
        return Err(Fault::invalid(text));
    }
    Ok(())
}

fn change_addresses(
    work: &mut Work<'_, '_>,
    old: &Doc,
    doc: &mut Doc,
    given: &Doc,
) -> Result<(), Fault> {
    let subnets = in_order(db::find(
        work.tx,
        Kind::Subnet,
        &[db::is("network_id", doc.text("network_id"))],
    )?);
    let before = addressing::held(old);
    let wishes = given.list("fixed_ips").to_vec();
    let after = addressing::take(work, &subnets, doc, Some(&wishes), &before)?;
    for gone in before.iter().filter(|fixed| !after.contains(fixed)) {
        ipam::give_back(work.tx, &gone.subnet_id, gone.ip)?;
        super::floatingips::address_gone(work, old.id(), &gone.ip.to_string())?;
    }
    doc.set("fixed_ips", addressing::shown(&after));
    Ok(())
}

/// Removes a port on request.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if doc.text("device_owner").starts_with("network:router")
        || doc.text("device_owner") == "network:floatingip"
    {
        let text = format!(
            "Port {} cannot be deleted directly via the port API: has device owner {}.",
            doc.id(),
            doc.text("device_owner")
        );
        return Err(Fault::conflict("ServicePortInUse", text));
    }
    trunks::refuse_trunked(work, doc.id())?;
    erase(work, doc)
}

/// Removes a port, whatever it is.
pub fn erase(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    super::floatingips::port_gone(work, doc.id())?;
    forget_bindings(work, doc)?;
    ipam::give_back_all(work.tx, doc.id())?;
    db::set_port_groups(work.tx, doc.id(), &[])?;
    db::delete(work.tx, Kind::Port, doc.id())?;
    tell(work, doc)
}

/// Takes away a port's addresses of a subnet that goes.
pub fn leave_subnet(work: &mut Work<'_, '_>, mut doc: Doc, subnet: &str) -> Result<(), Fault> {
    let (gone, kept): (Vec<_>, Vec<_>) = addressing::held(&doc)
        .into_iter()
        .partition(|fixed| fixed.subnet_id == subnet);
    for fixed in gone {
        super::floatingips::address_gone(work, doc.id(), &fixed.ip.to_string())?;
        ipam::give_back(work.tx, subnet, fixed.ip)?;
    }
    doc.set("fixed_ips", addressing::shown(&kept));
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Port, &doc)?;
    tell(work, &doc)
}

/// Gives a network the port of its DHCP server with an address in each IPv4 subnet that has DHCP, or takes it away.
pub fn ensure_dhcp_port(work: &mut Work<'_, '_>, network: &Doc) -> Result<(), Fault> {
    let subnets = in_order(db::find(
        work.tx,
        Kind::Subnet,
        &[db::is("network_id", network.id())],
    )?);
    let served: Vec<&Doc> = subnets
        .iter()
        .filter(|s| s.flag("enable_dhcp") && s.int("ip_version") == Some(4))
        .collect();
    let existing = db::find_one(
        work.tx,
        Kind::Port,
        &[
            db::is("network_id", network.id()),
            db::is("device_owner", DHCP),
        ],
    )?;
    let Some(port) = existing else {
        if served.is_empty() {
            return Ok(());
        }
        return new_dhcp_port(work, network, &served);
    };
    if served.is_empty() {
        return erase(work, &port);
    }
    let before = addressing::held(&port);
    let mut after: Vec<Fixed> = Vec::new();
    for subnet in &served {
        match before.iter().find(|fixed| fixed.subnet_id == subnet.id()) {
            Some(fixed) => after.push(fixed.clone()),
            None => {
                let wish = [json!({"subnet_id": subnet.id()})];
                after.extend(addressing::take(work, &subnets, &port, Some(&wish), &[])?);
            }
        }
    }
    if after == before {
        return Ok(());
    }
    for gone in before.iter().filter(|fixed| !after.contains(fixed)) {
        ipam::give_back(work.tx, &gone.subnet_id, gone.ip)?;
    }
    let mut port = port;
    port.set("fixed_ips", addressing::shown(&after));
    index_addresses(&mut port);
    crate::work::touched(&mut port);
    db::save(work.tx, Kind::Port, &port)?;
    tell(work, &port)
}

fn new_dhcp_port(work: &mut Work<'_, '_>, network: &Doc, served: &[&Doc]) -> Result<(), Fault> {
    let wishes: Value = served
        .iter()
        .map(|subnet| json!({"subnet_id": subnet.id()}))
        .collect();
    let mut request = own_port(
        network,
        DHCP,
        &format!("dhcp-{}", network.id()),
        network.project(),
    );
    request.given.set("fixed_ips", wishes);
    match create_on(work, network, request) {
        // A subnet with no address left for the DHCP server has no DHCP.
        Err(fault) if fault.kind == "IpAddressGenerationFailure" => Ok(()),
        other => other.map(|_| ()),
    }
}

/// A request for a port of the cloud's own.
pub fn own_port(network: &Doc, owner: &str, device: &str, project: &str) -> Request {
    let mut doc = Doc::default();
    for attribute in Kind::Port.own_attributes() {
        if let crate::schema::Initial::Json(text) = attribute.initial {
            doc.set(
                attribute.name,
                serde_json::from_str::<Value>(text).unwrap_or_default(),
            );
        }
    }
    doc.set("network_id", network.id());
    doc.set("device_owner", owner);
    doc.set("device_id", device);
    doc.set("project_id", project);
    doc.set("port_security_enabled", false);
    Request {
        doc,
        given: Doc::default(),
    }
}

/// Adds what is not stored: names that the network's DNS answers.
pub fn complete(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let domain = work.cx.config.dns_domain.trim_matches('.').to_owned();
    for doc in &mut *docs {
        let assignments: Value = doc
            .fixed_ips()
            .into_iter()
            .map(|(_, ip)| {
                let name = match doc.text("dns_name") {
                    "" => format!("host-{}", ip.replace(['.', ':'], "-")),
                    name => name.to_owned(),
                };
                json!({"ip_address": ip, "hostname": name, "fqdn": format!("{name}.{domain}.")})
            })
            .collect();
        doc.set("dns_assignment", assignments);
    }
    trunks::complete_ports(work, docs)
}
