//! Routers and their interfaces.

use crate::api::addressing;
use crate::api::ports::{self, own_port};
use crate::api::request::{Request, member};
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::{What, Work};
use http::StatusCode;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The owner of a router's port in a tenant network.
pub const INTERFACE: &str = "network:router_interface";
/// The owner of a router's port in an external network.
pub const GATEWAY: &str = "network:router_gateway";

/// Most extra routes of a router (Neutron's `max_routes`).
const ROUTES: usize = 30;

/// Creates a router.
pub fn create(work: &mut Work<'_, '_>, request: Request) -> Result<Doc, Fault> {
    let mut doc = request.doc;
    refuse_kinds(&doc)?;
    let wanted = doc
        .insert("external_gateway_info".into(), Value::Null)
        .unwrap_or_default();
    doc.set("status", "ACTIVE");
    doc.set("availability_zones", json!([]));
    crate::work::born(&mut doc);
    db::insert(work.tx, Kind::Router, &doc)?;
    if !wanted.is_null() {
        set_gateway(work, &mut doc, &wanted)?;
    }
    check_routes(work, &doc)?;
    db::save(work.tx, Kind::Router, &doc)?;
    work.changed(What::Router, doc.id());
    Ok(doc)
}

fn refuse_kinds(doc: &Doc) -> Result<(), Fault> {
    if doc.flag("distributed") || doc.flag("ha") {
        return Err(Fault::bad(
            "BadRequest",
            "Bad router request: distributed and highly available routers are not supported.",
        ));
    }
    Ok(())
}

/// Changes a router.
pub fn update(work: &mut Work<'_, '_>, old: &Doc, mut doc: Doc, given: &Doc) -> Result<Doc, Fault> {
    refuse_kinds(&doc)?;
    if let Some(wanted) = given.get("external_gateway_info") {
        let before = old
            .get("external_gateway_info")
            .cloned()
            .unwrap_or_default();
        doc.set("external_gateway_info", before);
        set_gateway(work, &mut doc, wanted)?;
    }
    check_routes(work, &doc)?;
    crate::work::touched(&mut doc);
    db::save(work.tx, Kind::Router, &doc)?;
    work.changed(What::Router, doc.id());
    Ok(doc)
}

fn gateway_port(work: &mut Work<'_, '_>, router: &str) -> Result<Option<Doc>, Fault> {
    db::find_one(
        work.tx,
        Kind::Port,
        &[db::is("device_id", router), db::is("device_owner", GATEWAY)],
    )
}

/// Makes, changes or (null) removes the way out.
fn set_gateway(work: &mut Work<'_, '_>, doc: &mut Doc, wanted: &Value) -> Result<(), Fault> {
    let port = gateway_port(work, doc.id())?;
    let Some(network) = wanted.get("network_id").and_then(Value::as_str) else {
        if let Some(port) = port {
            refuse_lost_floating_ips(work, doc)?;
            ports::erase(work, &port)?;
        }
        doc.set("external_gateway_info", Value::Null);
        return Ok(());
    };
    let network = work.visible(Kind::Network, network)?;
    if !network.flag("router:external") {
        let text = format!(
            "Bad router request: Network {} is not an external network.",
            network.id()
        );
        return Err(Fault::bad("BadRequest", text));
    }
    let ips = wanted
        .get("external_fixed_ips")
        .filter(|ips| ips.as_array().is_some_and(|ips| !ips.is_empty()));
    let port = match port {
        Some(port) if port.text("network_id") == network.id() => match ips {
            Some(ips) => {
                let given = Doc(json!({"fixed_ips": ips})
                    .as_object()
                    .cloned()
                    .unwrap_or_default());
                ports::update(work, &port, port.clone(), &given)?
            }
            None => port,
        },
        other => {
            if let Some(port) = other {
                refuse_lost_floating_ips(work, doc)?;
                ports::erase(work, &port)?;
            }
            new_gateway_port(work, doc, &network, ips)?
        }
    };
    let snat = wanted
        .get("enable_snat")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    doc.set(
        "external_gateway_info",
        json!({"network_id": network.id(), "external_fixed_ips": addressing::shown(&addressing::held(&port)), "enable_snat": snat}),
    );
    Ok(())
}

/// The port belongs to no project, so that it does not show among a project's ports.
fn new_gateway_port(
    work: &mut Work<'_, '_>,
    doc: &Doc,
    network: &Doc,
    ips: Option<&Value>,
) -> Result<Doc, Fault> {
    refuse_gateway_overlap(work, doc, network)?;
    let mut request = own_port(network, GATEWAY, doc.id(), "");
    if let Some(ips) = ips {
        request.given.set("fixed_ips", ips.clone());
    }
    let port = ports::create_on(work, network, request)?;
    if port.list("fixed_ips").is_empty() {
        let text = format!(
            "Bad router request: No IPs available for external network {}.",
            network.id()
        );
        return Err(Fault::bad("BadRequest", text));
    }
    Ok(port)
}

fn refuse_gateway_overlap(work: &mut Work<'_, '_>, doc: &Doc, network: &Doc) -> Result<(), Fault> {
    for subnet in db::find(work.tx, Kind::Subnet, &[db::is("network_id", network.id())])? {
        refuse_overlap(work, doc.id(), &subnet)?;
    }
    Ok(())
}

fn refuse_lost_floating_ips(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if db::count(work.tx, Kind::FloatingIp, &[db::is("router_id", doc.id())])? == 0 {
        return Ok(());
    }
    let text = format!(
        "Gateway cannot be updated for router {}, since a gateway to external network is required by one or more floating IPs.",
        doc.id()
    );
    Err(Fault::conflict(
        "RouterExternalGatewayInUseByFloatingIp",
        text,
    ))
}

/// The ports of a router in tenant networks.
pub fn interfaces(work: &mut Work<'_, '_>, router: &str) -> Result<Vec<Doc>, Fault> {
    db::find(
        work.tx,
        Kind::Port,
        &[
            db::is("device_id", router),
            db::is("device_owner", INTERFACE),
        ],
    )
}

/// The routers whose way out is a network.
pub fn with_gateway_on(work: &mut Work<'_, '_>, network: &str) -> Result<Vec<String>, Fault> {
    db::column(
        work.tx,
        Kind::Port,
        "device_id",
        &[
            db::is("network_id", network),
            db::is("device_owner", GATEWAY),
        ],
    )
}

fn subnets_of(work: &mut Work<'_, '_>, ports: &[Doc]) -> Result<Vec<Doc>, Fault> {
    let ids: Vec<String> = ports
        .iter()
        .flat_map(Doc::fixed_ips)
        .map(|(subnet, _)| subnet)
        .collect();
    db::find(
        work.tx,
        Kind::Subnet,
        &[db::one_of("id", ids.iter().map(String::as_str))],
    )
}

fn refuse_overlap(work: &mut Work<'_, '_>, router: &str, subnet: &Doc) -> Result<(), Fault> {
    let mut own = interfaces(work, router)?;
    own.extend(gateway_port(work, router)?);
    let net = addressing::cidr(subnet)?;
    for other in subnets_of(work, &own)? {
        if other.id() == subnet.id() {
            let text = format!(
                "Bad router request: Router already has a port on subnet {}.",
                subnet.id()
            );
            return Err(Fault::bad("BadRequest", text));
        }
        let range = addressing::cidr(&other)?;
        if range.contains(&net) || net.contains(&range) {
            let text = format!(
                "Bad router request: Cidr {net} of subnet {} overlaps with cidr {range} of subnet {}.",
                subnet.id(),
                other.id()
            );
            return Err(Fault::bad("BadRequest", text));
        }
    }
    Ok(())
}

fn check_routes(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    let routes = doc.list("routes");
    if routes.len() > ROUTES {
        let text = format!(
            "Unable to complete operation for {}. The number of routes exceeds the maximum {ROUTES}.",
            doc.id()
        );
        return Err(Fault::bad("RoutesExhausted", text));
    }
    if routes.is_empty() {
        return Ok(());
    }
    let mut own = interfaces(work, doc.id())?;
    own.extend(gateway_port(work, doc.id())?);
    let nets: Vec<IpNet> = subnets_of(work, &own)?
        .iter()
        .map(addressing::cidr)
        .collect::<Result<_, _>>()?;
    for route in routes {
        let hop = route["nexthop"].as_str().unwrap_or_default();
        let reachable = hop
            .parse::<IpAddr>()
            .is_ok_and(|ip| nets.iter().any(|net| net.contains(&ip)));
        if !reachable {
            let text = format!("Invalid format for routes: {routes:?}, the nexthop {hop} is not connected with router.").replace('"', "'");
            return Err(Fault::bad("InvalidRoutes", text));
        }
        if own.iter().flat_map(Doc::fixed_ips).any(|(_, ip)| ip == hop) {
            let text = format!("Invalid format for routes, the nexthop {hop} is used by router.");
            return Err(Fault::bad("InvalidRoutes", text));
        }
    }
    Ok(())
}

/// Removes a router.
pub fn remove(work: &mut Work<'_, '_>, doc: &Doc) -> Result<(), Fault> {
    if !interfaces(work, doc.id())?.is_empty() {
        let text = format!("Router {} still has ports", doc.id());
        return Err(Fault::conflict("RouterInUse", text));
    }
    if let Some(port) = gateway_port(work, doc.id())? {
        ports::erase(work, &port)?;
    }
    db::delete(work.tx, Kind::Router, doc.id())?;
    work.changed(What::Router, doc.id());
    Ok(())
}

/// `add_router_interface`: by subnet (the port gets its gateway address) or by port.
pub fn add_interface(work: &mut Work<'_, '_>, router: &str, body: &Value) -> Result<Value, Fault> {
    let mut doc = work.visible(Kind::Router, router)?;
    let target = work.target(Kind::Router, &doc)?;
    work.cx.demand("add_router_interface", &target)?;
    let port = match (member(body, "subnet_id"), member(body, "port_id")) {
        (Some(_), Some(_)) => {
            return Err(Fault::bad(
                "BadRequest",
                "Bad router request: Cannot specify both subnet-id and port-id.",
            ));
        }
        (Some(subnet), None) => add_by_subnet(work, &doc, &subnet)?,
        (None, Some(port)) => add_by_port(work, &doc, &port)?,
        (None, None) => {
            return Err(Fault::bad(
                "BadRequest",
                "Bad router request: Either subnet_id or port_id must be specified.",
            ));
        }
    };
    touch(work, &mut doc)?;
    Ok(interface_shown(&doc, &port))
}

/// Puts a router that the service makes itself on a subnet.
pub fn add_own_interface(work: &mut Work<'_, '_>, router: &Doc, subnet: &str) -> Result<(), Fault> {
    let mut doc = router.clone();
    add_by_subnet(work, &doc, subnet)?;
    touch(work, &mut doc)
}

/// Removes a router with its interfaces.
pub fn remove_whole(work: &mut Work<'_, '_>, router: &Doc) -> Result<(), Fault> {
    for port in interfaces(work, router.id())? {
        refuse_needed(work, router, &port)?;
        ports::erase(work, &port)?;
    }
    remove(work, router)
}

fn touch(work: &mut Work<'_, '_>, doc: &mut Doc) -> Result<(), Fault> {
    crate::work::touched(doc);
    db::save(work.tx, Kind::Router, doc)?;
    work.changed(What::Router, doc.id());
    Ok(())
}

fn interface_shown(router: &Doc, port: &Doc) -> Value {
    let subnets: Vec<String> = port
        .fixed_ips()
        .into_iter()
        .map(|(subnet, _)| subnet)
        .collect();
    json!({
        "id": router.id(),
        "project_id": router.project(),
        "tenant_id": router.project(),
        "port_id": port.id(),
        "network_id": port.text("network_id"),
        "subnet_id": subnets.first(),
        "subnet_ids": subnets,
    })
}

fn add_by_subnet(work: &mut Work<'_, '_>, router: &Doc, subnet: &str) -> Result<Doc, Fault> {
    let subnet = work.visible(Kind::Subnet, subnet)?;
    let Some(gateway) = subnet.text_opt("gateway_ip") else {
        return Err(Fault::bad(
            "BadRequest",
            "Bad router request: Subnet for router interface must have a gateway IP.",
        ));
    };
    refuse_overlap(work, router.id(), &subnet)?;
    let network = work.get(Kind::Network, subnet.text("network_id"))?;
    let mut request = own_port(&network, INTERFACE, router.id(), router.project());
    request.given.set(
        "fixed_ips",
        json!([{"subnet_id": subnet.id(), "ip_address": gateway}]),
    );
    ports::create_on(work, &network, request)
}

fn add_by_port(work: &mut Work<'_, '_>, router: &Doc, port: &str) -> Result<Doc, Fault> {
    let port = work.visible(Kind::Port, port)?;
    if !port.text("device_id").is_empty() {
        let text = format!(
            "Unable to complete operation on port {} for network {}. Port already has an attached device {}.",
            port.id(),
            port.text("network_id"),
            port.text("device_id")
        );
        return Err(Fault::conflict("PortInUse", text));
    }
    let subnets = subnets_of(work, std::slice::from_ref(&port))?;
    if subnets.is_empty() {
        return Err(Fault::bad(
            "BadRequest",
            "Bad router request: Router port must have at least one fixed IP.",
        ));
    }
    for subnet in &subnets {
        refuse_overlap(work, router.id(), subnet)?;
    }
    let mut changed = port.clone();
    changed.set("device_id", router.id());
    changed.set("device_owner", INTERFACE);
    changed.set("port_security_enabled", false);
    changed.set("security_groups", json!([]));
    changed.set("allowed_address_pairs", json!([]));
    let given = Doc(json!({"security_groups": []})
        .as_object()
        .cloned()
        .unwrap_or_default());
    ports::update(work, &port, changed, &given)
}

/// `remove_router_interface`.
pub fn remove_interface(
    work: &mut Work<'_, '_>,
    router: &str,
    body: &Value,
) -> Result<Value, Fault> {
    let mut doc = work.visible(Kind::Router, router)?;
    let target = work.target(Kind::Router, &doc)?;
    work.cx.demand("remove_router_interface", &target)?;
    let (subnet, port) = (member(body, "subnet_id"), member(body, "port_id"));
    if subnet.is_none() && port.is_none() {
        return Err(Fault::bad(
            "BadRequest",
            "Bad router request: Either subnet_id or port_id must be specified.",
        ));
    }
    let own = interfaces(work, router)?;
    let on_subnet = |candidate: &Doc| match &subnet {
        Some(id) => candidate.fixed_ips().iter().any(|(of, _)| of == id),
        None => true,
    };
    let found = own.iter().find(|candidate| {
        port.as_deref().is_none_or(|id| candidate.id() == id) && on_subnet(candidate)
    });
    let Some(found) = found else {
        let text = match (&port, &subnet) {
            (Some(id), _) => format!("Router {router} does not have an interface with id {id}"),
            (None, id) => format!(
                "Router {router} has no interface on subnet {}",
                id.as_deref().unwrap_or_default()
            ),
        };
        let kind = if port.is_some() {
            "RouterInterfaceNotFound"
        } else {
            "RouterInterfaceNotFoundForSubnet"
        };
        return Err(Fault::new(StatusCode::NOT_FOUND, kind, text));
    };
    refuse_needed(work, &doc, found)?;
    let shown = interface_shown(&doc, found);
    ports::erase(work, found)?;
    touch(work, &mut doc)?;
    Ok(shown)
}

/// Floating IPs and routes that need an interface keep it.
fn refuse_needed(work: &mut Work<'_, '_>, router: &Doc, interface: &Doc) -> Result<(), Fault> {
    let subnets: Vec<String> = interface
        .fixed_ips()
        .into_iter()
        .map(|(subnet, _)| subnet)
        .collect();
    let subnet = subnets.first().map(String::as_str).unwrap_or_default();
    for floating in db::find(
        work.tx,
        Kind::FloatingIp,
        &[db::is("router_id", router.id())],
    )? {
        let port = db::get(work.tx, Kind::Port, floating.text("port_id"))?.unwrap_or_default();
        let behind = port
            .fixed_ips()
            .iter()
            .any(|(of, ip)| subnets.contains(of) && ip == floating.text("fixed_ip_address"));
        if behind {
            let text = format!(
                "Router interface for subnet {subnet} on router {} cannot be deleted, as it is required by one or more floating IPs.",
                router.id()
            );
            return Err(Fault::conflict("RouterInterfaceInUseByFloatingIP", text));
        }
    }
    let nets: Vec<IpNet> = subnets_of(work, std::slice::from_ref(interface))?
        .iter()
        .map(addressing::cidr)
        .collect::<Result<_, _>>()?;
    let routed = |route: &Value| {
        route["nexthop"]
            .as_str()
            .and_then(|hop| hop.parse::<IpAddr>().ok())
            .is_some_and(|hop| nets.iter().any(|net| net.contains(&hop)))
    };
    if router.list("routes").iter().any(routed) {
        let text = format!(
            "Router interface for subnet {subnet} on router {} cannot be deleted, as it is required by one or more routes.",
            router.id()
        );
        return Err(Fault::conflict("RouterInterfaceInUseByRoute", text));
    }
    Ok(())
}

/// `add_extraroutes` and `remove_extraroutes`: changes the list without knowing the rest of it.
pub fn extra_routes(
    work: &mut Work<'_, '_>,
    router: &str,
    body: &Value,
    add: bool,
) -> Result<Doc, Fault> {
    let old = work.visible(Kind::Router, router)?;
    let target = work.target(Kind::Router, &old)?;
    work.cx.demand(
        if add {
            "add_extraroutes"
        } else {
            "remove_extraroutes"
        },
        &target,
    )?;
    let given = body
        .get("router")
        .and_then(|router| router.get("routes"))
        .cloned()
        .unwrap_or_default();
    let given = crate::check::Check::Routes.run(&given);
    let given = given
        .map_err(|reason| Fault::request(format!("Invalid input for routes. Reason: {reason}.")))?;
    let given = given.as_array().cloned().unwrap_or_default();
    let mut routes: Vec<Value> = old
        .list("routes")
        .iter()
        .filter(|route| !given.contains(route))
        .cloned()
        .collect();
    if add {
        routes.extend(given);
    }
    let mut doc = old.clone();
    doc.set("routes", routes);
    update(work, &old, doc, &Doc::default())
}
