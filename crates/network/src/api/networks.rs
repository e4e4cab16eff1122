//! Networks.

use crate::api::request::Request;
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use serde_json::{Value, json};

/// Room that VXLAN's headers take from every packet, in bytes.
const VXLAN_HEADERS: u16 = 50;

/// Creates a network.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    refuse_foreign_provider(&doc)?;
    let external = doc.flag("router:external");
    if external {
        doc.set("provider:network_type", "local");
        doc.set("provider:segmentation_id", Value::Null);
    } else {
        doc.set("provider:network_type", "vxlan");
        let segment = match doc.int("provider:segmentation_id") {
            Some(wanted) => free_segment(work, wanted)?,
            None => db::next_segment(work.tx)?,
        };
        doc.set("provider:segmentation_id", segment);
    }
    doc.set("provider:physical_network", Value::Null);
    let largest = if external {
        work.cx.config.mtu
    } else {
        work.cx.config.mtu.saturating_sub(VXLAN_HEADERS)
    };
    match doc.int("mtu") {
        None | Some(0) => doc.set("mtu", largest),
        Some(mtu) if mtu > i64::from(largest) => {
            return Err(Fault::invalid(format!(
                "Requested MTU is too big, maximum is {largest}"
            )));
        }
        Some(_) => {}
    }
    doc.set("status", "ACTIVE");
    one_default(work, &doc)?;
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::Network, &doc)?;
    Ok(doc)
}

fn refuse_foreign_provider(doc: &Doc) -> Result<(), Fault> {
    match doc.text_opt("provider:network_type") {
        None | Some("vxlan" | "local") => {}
        Some(other) => {
            return Err(Fault::invalid(format!(
                "Invalid provider:network_type: network_type value '{other}' not supported"
            )));
        }
    }
    if doc.has("provider:physical_network") {
        let text = "provider:physical_network specified for vxlan network";
        return Err(Fault::invalid(text));
    }
    Ok(())
}

fn free_segment(work: &mut Work<'_, '_>, wanted: i64) -> Result<i64, Fault> {
    if !(1..=16_777_215).contains(&wanted) {
        return Err(Fault::invalid(format!(
            "{wanted} is not a VXLAN network identifier (1 to 16777215)"
        )));
    }
    if db::count(work.tx, Kind::Network, &[db::is("segment", wanted)])? > 0 {
        return Err(Fault::conflict(
            "TunnelIdInUse",
            format!("Unable to create the network. The tunnel ID {wanted} is in use."),
        ));
    }
    Ok(wanted)
}

/// Only one external network is where addresses come from when nobody names one.
fn one_default(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if !doc.flag("is_default") {
        return Ok(());
    }
    let external = db::find(work.tx, Kind::Network, &[db::is("external", true)])?;
    match external
        .iter()
        .find(|other| other.flag("is_default") && other.id() != doc.id())
    {
        Some(other) => {
            let text = format!("A default external network already exists: {}.", other.id());
            Err(Fault::conflict("DefaultExternalNetworkExists", text))
        }
        None => Ok(()),
    }
}

/// Changes a network.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc) -> Result<Doc, Fault> {
    if old.flag("shared") && !doc.flag("shared") {
        refuse_unsharing(work, &doc)?;
    }
    if old.flag("router:external") && !doc.flag("router:external") {
        let matches = [
            db::is("network_id", doc.id()),
            db::is("device_owner", "network:router_gateway"),
        ];
        if db::count(work.tx, Kind::Port, &matches)? > 0 {
            let text = format!(
                "External network {} cannot be updated to be made non-external, since it has existing gateway ports.",
                doc.id()
            );
            return Err(Fault::conflict("ExternalNetworkInUse", text));
        }
    }
    one_default(work, &doc)?;
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Network, &doc)?;
    work.changed(What::Network, doc.id());
    Ok(doc)
}

fn refuse_unsharing(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    let owners = db::column(
        work.tx,
        Kind::Port,
        "project_id",
        &[db::is("network_id", doc.id())],
    )?;
    if owners
        .iter()
        .any(|owner| !owner.is_empty() && owner != doc.project())
    {
        let text = format!(
            "Unable to reconfigure sharing settings for network {}. Multiple tenants are using it.",
            doc.id()
        );
        return Err(Fault::conflict("InvalidSharedSetting", text));
    }
    Ok(())
}

/// Removes a network with its subnets, the cloud's own ports, and floating IPs that nobody uses.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    let here = [db::is("floating_network_id", doc.id())];
    for floating in db::find(work.tx, Kind::FloatingIp, &here)? {
        if !floating.has("port_id") {
            super::floatingips::remove(work, &floating)?;
        }
    }
    let ports = db::find(work.tx, Kind::Port, &[db::is("network_id", doc.id())])?;
    if ports
        .iter()
        .any(|port| port.text("device_owner") != "network:dhcp")
    {
        let text = format!(
            "Unable to complete operation on network {}. There are one or more ports still in use on the network.",
            doc.id()
        );
        return Err(Fault::conflict("NetworkInUse", text));
    }
    for port in &ports {
        super::ports::erase(work, port)?;
    }
    for subnet in db::find(work.tx, Kind::Subnet, &[db::is("network_id", doc.id())])? {
        db::delete(work.tx, Kind::Subnet, subnet.id())?;
    }
    db::topologies::forget_network(work.tx, doc.id())?;
    db::delete(work.tx, Kind::Network, doc.id())?;
    work.changed(What::Network, doc.id());
    Ok(())
}

/// Adds what is not stored: the subnets.
pub fn complete(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let ids: Vec<String> = docs.iter().map(|doc| doc.id().to_owned()).collect();
    let subnets = db::find(
        work.tx,
        Kind::Subnet,
        &[db::one_of("network_id", ids.iter().map(String::as_str))],
    )?;
    for doc in docs {
        let mut own: Vec<(&str, &str)> = subnets
            .iter()
            .filter(|subnet| subnet.text("network_id") == doc.id())
            .map(|subnet| (subnet.text("created_at"), subnet.id()))
            .collect();
        own.sort_unstable();
        let own: Vec<Value> = own.into_iter().map(|(_, id)| id.into()).collect();
        doc.set("subnets", own);
        doc.set("availability_zones", json!(["nova"]));
        doc.set("ipv4_address_scope", Value::Null);
        doc.set("ipv6_address_scope", Value::Null);
    }
    Ok(())
}
