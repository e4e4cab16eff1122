//! Trunks: a port whose guest reaches the networks of other ports too, each under a VLAN of its own (`trunk`,
//! `trunk-details`).
//!
//! The sub-ports are wherever their trunk's port is: bound to its host, made ready where it is made ready.

use crate::api::ports;
use crate::api::request::Request;
use crate::check::Check;
use crate::db::{self, trunks::SubPort};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{Work, touched};
use http::StatusCode;
use serde_json::{Value, json};

/// The owner of ports that a trunk carries.
pub const OWNER: &str = "trunk:subport";

/// A sub-port as a request names it.
struct Named {
    port: String,
    vlan: i64,
}

fn named(list: &[Value]) -> Vec<Named> {
    let one = |item: &Value| {
        Some(Named {
            port: item["port_id"].as_str()?.to_owned(),
            vlan: item["segmentation_id"].as_i64()?,
        })
    };
    list.iter().filter_map(one).collect()
}

/// Creates a trunk.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    let parent = work.visible(Kind::Port, doc.text("port_id"))?;
    free_port(work, &parent)?;
    if parent.text("device_owner").starts_with("network:") {
        let text = format!(
            "Port {} is currently in use and is not eligible for use as a parent port.",
            parent.id()
        );
        return Err(Fault::conflict("ParentPortInUse", text));
    }
    let wanted = named(doc.list("sub_ports"));
    doc.remove("sub_ports");
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::Trunk, &doc)?;
    add(work, &doc, &parent, &wanted)?;
    Ok(doc)
}

/// Refuses a port that is a trunk's already.
fn free_port(work: &mut Work<'_, '_>, port: &Doc) -> Result<(), Fault> {
    refuse_trunked(work, port.id())
}

/// Refuses what cannot be done with a port while a trunk has it.
pub fn refuse_trunked(work: &mut Work<'_, '_>, port: &str) -> Result<(), Fault> {
    if let Some(trunk) = of_parent(work, port)? {
        let text = format!(
            "Port {port} is currently a parent port for trunk {}.",
            trunk.id()
        );
        return Err(Fault::conflict("PortInUseAsTrunkParent", text));
    }
    if let Some(trunk) = db::trunks::carrier(work.tx, port)? {
        let text = format!("Port {port} is currently a subport for trunk {trunk}.");
        return Err(Fault::conflict("PortInUseAsSubPort", text));
    }
    Ok(())
}

fn of_parent(work: &mut Work<'_, '_>, port: &str) -> Result<Option<Doc>, Fault> {
    db::find_one(work.tx, Kind::Trunk, &[db::is("port_id", port)])
}

/// Changes a trunk's words.
pub fn update(work: &mut Work<'_, '_>, mut doc: Doc) -> Result<Doc, Fault> {
    touched(&mut doc);
    db::save(work.tx, Kind::Trunk, &doc)?;
    Ok(doc)
}

/// Removes a trunk; its ports stay.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    for carried in db::trunks::carried(work.tx, &[doc.id().to_owned()])? {
        drop_port(work, &carried)?;
    }
    db::delete(work.tx, Kind::Trunk, doc.id())
}

/// `PUT /v2.0/trunks/{id}/add_subports` and `remove_subports`, `GET .../get_subports`
pub fn sub_ports(
    work: &mut Work<'_, '_>,
    method: &str,
    id: &str,
    action: &str,
    body: &Value,
) -> Result<(StatusCode, Value), Fault> {
    let mut doc = work.visible(Kind::Trunk, id)?;
    let target = work.target(Kind::Trunk, &doc)?;
    let rule = match (method, action) {
        ("GET", "get_subports") => "get_subports",
        ("PUT", "add_subports") => "add_subports",
        ("PUT", "remove_subports") => "remove_subports",
        _ => return Err(Fault::no_route()),
    };
    work.cx.demand(rule, &target)?;
    if rule == "get_subports" {
        let carried = db::trunks::carried(work.tx, &[doc.id().to_owned()])?;
        return Ok((StatusCode::OK, json!({"sub_ports": shown(&carried)})));
    }
    if !doc.flag("admin_state_up") {
        let text = format!("Trunk {id} is currently disabled.");
        return Err(Fault::conflict("TrunkDisabled", text));
    }
    let list = body.get("sub_ports").filter(|list| list.is_array());
    let list = list.ok_or_else(|| Fault::request("Unable to find 'sub_ports' in request body"))?;
    if rule == "add_subports" {
        let checked = Check::SubPorts.run(list).map_err(|reason| {
            Fault::request(format!("Invalid input for sub_ports. Reason: {reason}."))
        })?;
        let parent = work.get(Kind::Port, doc.text("port_id"))?;
        let wanted = named(checked.as_array().map(Vec::as_slice).unwrap_or_default());
        add(work, &doc, &parent, &wanted)?;
    } else {
        take(work, &doc, list)?;
    }
    touched(&mut doc);
    db::save(work.tx, Kind::Trunk, &doc)?;
    let shown = super::view::show_one(work, Kind::Trunk, doc, &[])?;
    Ok((StatusCode::OK, shown))
}

/// Takes ports from a trunk.
fn take(work: &mut Work<'_, '_>, trunk: &Doc, list: &Value) -> Result<(), Fault> {
    let carried = db::trunks::carried(work.tx, &[trunk.id().to_owned()])?;
    for item in list.as_array().into_iter().flatten() {
        let id = item["port_id"].as_str().unwrap_or_default();
        let found = carried.iter().find(|sub| sub.port == id);
        let missing = || {
            let text = format!(
                "SubPort on trunk {} with parent port {id} could not be found.",
                trunk.id()
            );
            Fault::new(StatusCode::NOT_FOUND, "SubPortNotFound", text)
        };
        drop_port(work, found.ok_or_else(missing)?)?;
    }
    Ok(())
}

fn drop_port(work: &mut Work<'_, '_>, sub: &SubPort) -> Result<(), Fault> {
    db::trunks::delete(work.tx, &sub.port)?;
    let Some(old) = db::get(work.tx, Kind::Port, &sub.port)? else {
        return Ok(());
    };
    let mut doc = old.clone();
    doc.set("device_owner", "");
    doc.set("device_id", "");
    ports::rebind_to(work, &old, doc, "")
}

/// Has a trunk carry more ports.
fn add(work: &mut Work<'_, '_>, trunk: &Doc, parent: &Doc, wanted: &[Named]) -> Result<(), Fault> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut vlans: Vec<i64> = db::trunks::carried(work.tx, &[trunk.id().to_owned()])?
        .iter()
        .map(|sub| sub.vlan)
        .collect();
    let mtu = mtu(work, parent)?;
    for sub in wanted {
        if vlans.contains(&sub.vlan) {
            let text = format!(
                "segmentation_type vlan and segmentation_id {} already in use on trunk {}.",
                sub.vlan,
                trunk.id()
            );
            return Err(Fault::conflict("DuplicateSubPort", text));
        }
        vlans.push(sub.vlan);
        let port = work.visible(Kind::Port, &sub.port)?;
        free_port(work, &port)?;
        let used = !port.text("device_id").is_empty() || !port.text("binding:host_id").is_empty();
        if used {
            let text = format!(
                "Unable to complete operation on port {} for network {}. Port already has an attached device {}.",
                port.id(),
                port.text("network_id"),
                port.text("device_id")
            );
            return Err(Fault::conflict("PortInUse", text));
        }
        let own = self::mtu(work, &port)?;
        if own > mtu {
            let text = format!(
                "MTU {own} of subport {} cannot be greater than MTU {mtu} of trunk {}.",
                port.id(),
                trunk.id()
            );
            return Err(Fault::conflict("SubPortMtuGreaterThanTrunkPortMtu", text));
        }
        db::trunks::insert(work.tx, trunk.id(), port.id(), sub.vlan)?;
        join(work, parent, &port)?;
    }
    Ok(())
}

fn mtu(work: &mut Work<'_, '_>, port: &Doc) -> Result<i64, Fault> {
    let network = work.get(Kind::Network, port.text("network_id"))?;
    Ok(network.int("mtu").unwrap_or_default())
}

/// Brings a new sub-port to where its trunk's port is.
fn join(work: &mut Work<'_, '_>, parent: &Doc, port: &Doc) -> Result<(), Fault> {
    for ready in db::bindings::of_port(work.tx, parent.id())? {
        db::bindings::insert(work.tx, port.id(), &ready)?;
        ports::tell_host(work, port, &ready.host)?;
    }
    let mut doc = port.clone();
    doc.set("device_owner", OWNER);
    ports::rebind_to(work, port, doc, parent.text("binding:host_id"))
}

/// The ports that the trunk of this port carries, if it has one.
pub fn carried_by(work: &mut Work<'_, '_>, parent: &Doc) -> Result<Vec<Doc>, Fault> {
    let Some(trunk) = of_parent(work, parent.id())? else {
        return Ok(Vec::new());
    };
    let carried = db::trunks::carried(work.tx, &[trunk.id().to_owned()])?;
    let ids = carried.iter().map(|sub| sub.port.as_str());
    db::find(work.tx, Kind::Port, &[db::one_of("id", ids)])
}

/// Has what a port's trunk carries go where the port went.
pub fn follow(work: &mut Work<'_, '_>, parent: &Doc) -> Result<(), Fault> {
    for port in carried_by(work, parent)? {
        ports::rebind_to(work, &port, port.clone(), parent.text("binding:host_id"))?;
    }
    Ok(())
}

fn shown(carried: &[SubPort]) -> Value {
    let one = |sub: &SubPort| json!({"port_id": sub.port, "segmentation_type": "vlan", "segmentation_id": sub.vlan});
    carried.iter().map(one).collect()
}

/// A trunk is as well as the ports that it is made of.
fn status(parent: Option<&Doc>, carried: &[&SubPort]) -> &'static str {
    let Some(parent) = parent.filter(|port| !port.text("binding:host_id").is_empty()) else {
        return "DOWN";
    };
    let all = || std::iter::once(parent.text("status")).chain(carried.iter().map(|s| &*s.status));
    if all().any(|status| status == "ERROR") {
        "DEGRADED"
    } else if all().all(|status| status == "ACTIVE") {
        "ACTIVE"
    } else {
        "BUILD"
    }
}

/// Adds what is not stored with trunks: what they carry, and how they are.
pub fn complete(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let ids: Vec<String> = docs.iter().map(|doc| doc.id().to_owned()).collect();
    let carried = db::trunks::carried(work.tx, &ids)?;
    let parents = docs.iter().map(|doc| doc.text("port_id"));
    let parents = db::find(work.tx, Kind::Port, &[db::one_of("id", parents)])?;
    for doc in docs {
        let own: Vec<&SubPort> = carried.iter().filter(|sub| sub.trunk == doc.id()).collect();
        let parent = parents.iter().find(|port| port.id() == doc.text("port_id"));
        let status = status(parent, &own);
        let own: Vec<SubPort> = own.into_iter().cloned().collect();
        doc.set("sub_ports", shown(&own));
        doc.set("status", status);
    }
    Ok(())
}

/// Adds `trunk_details` to the ports that have a trunk.
pub fn complete_ports(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let ids = docs.iter().map(Doc::id);
    let matches = match docs.len() {
        // There are few trunks where there are many ports.
        most if most > db::PIECE => Vec::new(),
        _ => vec![db::one_of("port_id", ids)],
    };
    let trunks = db::find(work.tx, Kind::Trunk, &matches)?;
    if trunks.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = trunks.iter().map(|trunk| trunk.id().to_owned()).collect();
    let carried = db::trunks::carried(work.tx, &ids)?;
    for doc in docs {
        let Some(trunk) = trunks
            .iter()
            .find(|trunk| trunk.text("port_id") == doc.id())
        else {
            continue;
        };
        let own = carried.iter().filter(|sub| sub.trunk == trunk.id());
        let own: Vec<Value> = own
            .map(|sub| {
                json!({"port_id": sub.port, "segmentation_type": "vlan", "segmentation_id": sub.vlan, "mac_address": sub.mac})
            })
            .collect();
        doc.set(
            "trunk_details",
            json!({"trunk_id": trunk.id(), "sub_ports": own}),
        );
    }
    Ok(())
}
