//! Floating IPs.

use crate::api::addressing;
use crate::api::ports::{self, own_port};
use crate::api::request::Request;
use crate::api::routers::{GATEWAY, INTERFACE};
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use http::StatusCode;
use serde_json::{Value, json};

/// The owner of the port that holds a floating IP's outer address.
const OWNER: &str = "network:floatingip";

/// Creates a floating IP, associated with a port if one is named.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    crate::work::born(&mut doc);
    let network = work.visible(Kind::Network, doc.text("floating_network_id"))?;
    if !network.flag("router:external") {
        let text = format!(
            "Bad floatingip request: Network {} is not a valid external network.",
            network.id()
        );
        return Err(Fault::bad("BadRequest", text));
    }
    let mut port = own_port(&network, OWNER, doc.id(), "");
    let mut wish = json!({});
    for (name, attribute) in [
        ("subnet_id", "subnet_id"),
        ("ip_address", "floating_ip_address"),
    ] {
        if let Some(text) = doc.text_opt(attribute) {
            wish[name] = text.into();
        }
    }
    if wish.as_object().is_some_and(|wish| !wish.is_empty()) {
        port.given.set("fixed_ips", json!([wish]));
    }
    let port = ports::create_on(work, &network, port)?;
    let address = port
        .fixed_ips()
        .into_iter()
        .map(|(_, ip)| ip)
        .find(|ip| !ip.contains(':'));
    let Some(address) = address else {
        let text = format!(
            "Bad floatingip request: Network {} does not contain any IPv4 subnet.",
            network.id()
        );
        return Err(Fault::bad("BadRequest", text));
    };
    doc.set("floating_ip_address", address);
    doc.set("_port", port.id());
    doc.remove("subnet_id");
    let (wanted, fixed) = (
        doc.text_opt("port_id").map(str::to_owned),
        doc.text_opt("fixed_ip_address").map(str::to_owned),
    );
    detach(&mut doc);
    if let Some(wanted) = wanted {
        attach(work, &mut doc, &wanted, fixed.as_deref())?;
    } else if fixed.is_some() {
        return Err(fixed_without_port());
    }
    db::insert(work.tx, Kind::FloatingIp, &doc)?;
    Ok(doc)
}

fn fixed_without_port() -> Fault {
    Fault::bad(
        "BadRequest",
        "Bad floatingip request: fixed_ip_address cannot be specified without a port_id.",
    )
}

fn detach(doc: &mut Doc) {
    for name in ["port_id", "fixed_ip_address", "router_id", "_association"] {
        doc.set(name, Value::Null);
    }
    doc.set("status", "DOWN");
}

/// Binds a floating IP to a port behind a router that has a way to its network.
fn attach(
    work: &mut Work<'_, '_>,
    doc: &mut Doc,
    port: &str,
    fixed: Option<&str>,
) -> Result<(), Fault> {
    let port = work.visible(Kind::Port, port)?;
    if !work.cx.sees_all() && port.project() != doc.project() {
        return Err(Fault::not_found(Kind::Port, port.id()));
    }
    let (subnet, fixed) = inner_address(&port, fixed)?;
    let router = router_for(work, doc, &port, &subnet)?;
    let association = format!("{}/{fixed}/{}", port.id(), doc.text("floating_network_id"));
    let twin = db::column(
        work.tx,
        Kind::FloatingIp,
        "id",
        &[db::is("association", association.as_str())],
    )?;
    if twin.iter().any(|id| id != doc.id()) {
        let text = format!(
            "Cannot associate floating IP {} ({}) with port {} using fixed IP {fixed}, as that fixed IP already has a floating IP on external network {}.",
            doc.text("floating_ip_address"),
            doc.text("_port"),
            port.id(),
            doc.text("floating_network_id")
        );
        return Err(Fault::conflict("FloatingIPPortAlreadyAssociated", text));
    }
    doc.set("port_id", port.id());
    doc.set("fixed_ip_address", fixed);
    doc.set("router_id", router.as_str());
    doc.set("_association", association);
    doc.set("status", "DOWN");
    work.changed(What::Router, &router);
    Ok(())
}

fn inner_address(port: &Doc, fixed: Option<&str>) -> Result<(String, String), Fault> {
    let four: Vec<(String, String)> = port
        .fixed_ips()
        .into_iter()
        .filter(|(_, ip)| !ip.contains(':'))
        .collect();
    match fixed {
        Some(fixed) => four.into_iter().find(|(_, ip)| ip == fixed).ok_or_else(|| {
            let text = format!("Bad floatingip request: Port {} does not have fixed ip {fixed}.", port.id());
            Fault::bad("BadRequest", text)
        }),
        None if four.len() > 1 => {
            let text = format!("Bad floatingip request: Port {} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a floating IP.", port.id());
            Err(Fault::bad("BadRequest", text))
        }
        None => four.into_iter().next().ok_or_else(|| {
            let text = format!("Bad floatingip request: Cannot add floating IP to port {} that has no fixed IPv4 addresses.", port.id());
            Fault::bad("BadRequest", text)
        }),
    }
}

fn router_for(
    work: &mut Work<'_, '_>,
    doc: &Doc,
    port: &Doc,
    subnet: &str,
) -> Result<String, Fault> {
    let network = doc.text("floating_network_id");
    let outside = db::column(
        work.tx,
        Kind::Port,
        "device_id",
        &[
            db::is("network_id", network),
            db::is("device_owner", GATEWAY),
        ],
    )?;
    let inside = db::find(
        work.tx,
        Kind::Port,
        &[
            db::is("network_id", port.text("network_id")),
            db::is("device_owner", INTERFACE),
        ],
    )?;
    let candidates: Vec<&Doc> = inside
        .iter()
        .filter(|interface| interface.fixed_ips().iter().any(|(of, _)| of == subnet))
        .filter(|interface| {
            outside
                .iter()
                .any(|router| router == interface.text("device_id"))
        })
        .collect();
    let gateway = db::get(work.tx, Kind::Subnet, subnet)?.unwrap_or_default();
    let is_gateway = |interface: &&&Doc| {
        addressing::held(interface)
            .iter()
            .any(|fixed| fixed.ip.to_string() == gateway.text("gateway_ip"))
    };
    let chosen = candidates.iter().find(is_gateway).or(candidates.first());
    match chosen {
        Some(interface) => Ok(interface.text("device_id").to_owned()),
        None => {
            let text = format!(
                "External network {network} is not reachable from subnet {subnet}.  Therefore, cannot associate Port {} with a Floating IP.",
                port.id()
            );
            Err(Fault::new(
                StatusCode::NOT_FOUND,
                "ExternalGatewayForFloatingIPNotFound",
                text,
            ))
        }
    }
}

/// Changes a floating IP: `port_id` null disassociates it; a request that does not name the port leaves it where it is.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc, given: &Doc) -> Result<Doc, Fault> {
    if given.contains_key("port_id") || given.contains_key("fixed_ip_address") {
        let port = if given.contains_key("port_id") {
            given.text_opt("port_id")
        } else {
            old.text_opt("port_id")
        }
        .map(str::to_owned);
        let fixed = given.text_opt("fixed_ip_address").map(str::to_owned);
        leave_router(work, old);
        detach(&mut doc);
        match port {
            Some(port) => attach(work, &mut doc, &port, fixed.as_deref())?,
            None if fixed.is_some() => return Err(fixed_without_port()),
            None => {}
        }
        // An address that moves from one port to the next in one step was never without one.
        if old.has("port_id") && doc.has("port_id") {
            doc.set("status", old.text("status"));
        }
    }
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::FloatingIp, &doc)?;
    Ok(doc)
}

fn leave_router(work: &mut Work<'_, '_>, doc: &Doc) {
    if let Some(router) = doc.text_opt("router_id") {
        let router = router.to_owned();
        work.changed(What::Router, &router);
    }
}

/// Removes a floating IP.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    leave_router(work, doc);
    db::delete(work.tx, Kind::FloatingIp, doc.id())?;
    if let Some(port) = db::get(work.tx, Kind::Port, doc.text("_port"))? {
        ports::erase(work, &port)?;
    }
    Ok(())
}

/// Disassociates what was associated with a port.
pub fn port_gone(work: &mut Work<'_, '_>, port: &str) -> Result<(), Fault> {
    lose(work, port, None)
}

/// Disassociates what was associated with one address of a port.
pub fn address_gone(work: &mut Work<'_, '_>, port: &str, ip: &str) -> Result<(), Fault> {
    lose(work, port, Some(ip))
}

fn lose(work: &mut Work<'_, '_>, port: &str, ip: Option<&str>) -> Result<(), Fault> {
    for mut doc in db::find(work.tx, Kind::FloatingIp, &[db::is("port_id", port)])? {
        if ip.is_some_and(|ip| ip != doc.text("fixed_ip_address")) {
            continue;
        }
        leave_router(work, &doc);
        detach(&mut doc);
        crate::work::touched(&mut doc);
        db::save(work.tx, Kind::FloatingIp, &doc)?;
    }
    Ok(())
}

/// Adds what is not stored: the port that it leads to.
pub fn complete(work: &mut Work<'_, '_>, docs: &mut [Doc]) -> Result<(), Fault> {
    let ids: Vec<String> = docs
        .iter()
        .filter_map(|doc| doc.text_opt("port_id"))
        .map(str::to_owned)
        .collect();
    let ports = db::find(
        work.tx,
        Kind::Port,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )?;
    for doc in docs {
        let port = ports.iter().find(|port| port.id() == doc.text("port_id"));
        let details = port.map_or(Value::Null, |port| {
            let mut details = serde_json::Map::new();
            for name in [
                "name",
                "network_id",
                "mac_address",
                "admin_state_up",
                "status",
                "device_id",
                "device_owner",
            ] {
                details.insert(name.to_owned(), port.get(name).cloned().unwrap_or_default());
            }
            Value::Object(details)
        });
        doc.set("port_details", details);
    }
    Ok(())
}
