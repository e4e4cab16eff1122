//! Bindings of a port (`binding-extended`): one is active, which the port itself shows; others make hosts ready for a
//! guest that is to come, so that it finds its network there the moment it arrives.

use crate::api::{ports, trunks};
use crate::db::bindings::{self as stored, Binding};
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::Kind;
use crate::work::Work;
use http::StatusCode;
use policy::Target;
use serde_json::{Value, json};

const ACTIVE: &str = "ACTIVE";
const INACTIVE: &str = "INACTIVE";

/// Answers what is asked below `/v2.0/ports/{id}/bindings`.
pub fn handle(
    work: &mut Work<'_, '_>,
    method: &str,
    port: &str,
    rest: &[&str],
    body: &Value,
) -> Result<(StatusCode, Value), Fault> {
    let ok = |body: Value| Ok((StatusCode::OK, body));
    match (method, rest) {
        ("GET", []) => {
            let port = allowed(work, "get_port_binding", port)?;
            ok(json!({"bindings": all(work, &port)?}))
        }
        ("GET", [host]) => {
            let port = allowed(work, "get_port_binding", port)?;
            let found = all(work, &port)?
                .into_iter()
                .find(|one| one["host"] == *host);
            ok(json!({"binding": found.ok_or_else(|| not_found(&port, host))?}))
        }
        ("POST", []) => {
            let port = allowed(work, "create_port_binding", port)?;
            Ok((
                StatusCode::CREATED,
                json!({"binding": create(work, &port, body)?}),
            ))
        }
        ("PUT", [host]) => {
            let port = allowed(work, "update_port_binding", port)?;
            ok(json!({"binding": update(work, &port, host, body)?}))
        }
        ("DELETE", [host]) => {
            let port = allowed(work, "delete_port_binding", port)?;
            delete(work, &port, host)?;
            Ok((StatusCode::NO_CONTENT, Value::Null))
        }
        ("PUT", [host, "activate"]) => {
            let port = allowed(work, "activate", port)?;
            ok(json!({"binding": activate(work, &port, host)?}))
        }
        ("GET" | "POST" | "PUT" | "DELETE", _) => Err(Fault::no_route()),
        _ => Err(Fault::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "HTTPMethodNotAllowed",
            "The method is not allowed for this resource.",
        )),
    }
}

fn allowed(work: &mut Work<'_, '_>, rule: &str, port: &str) -> Result<Doc, Fault> {
    let port = work.visible(Kind::Port, port)?;
    work.cx.demand(rule, &Target::new())?;
    Ok(port)
}

fn not_found(port: &Doc, host: &str) -> Fault {
    let text = format!(
        "Binding for port {} for host {host} could not be found.",
        port.id()
    );
    Fault::new(StatusCode::NOT_FOUND, "PortBindingNotFound", text)
}

fn shown(port: &Doc, binding: &Binding, status: &str) -> Value {
    let (vif_type, vif_details) =
        ports::realised_as(&binding.host, &binding.vnic_type, port.text("network_id"));
    json!({
        "host": binding.host,
        "vif_type": vif_type,
        "vif_details": vif_details,
        "vnic_type": binding.vnic_type,
        "profile": binding.profile,
        "status": status,
        "project_id": port.project(),
    })
}

fn active(port: &Doc) -> Option<Binding> {
    let host = port.text("binding:host_id");
    (!host.is_empty()).then(|| Binding {
        host: host.to_owned(),
        vnic_type: port.text("binding:vnic_type").to_owned(),
        profile: port.get("binding:profile").cloned().unwrap_or(json!({})),
    })
}

fn all(work: &mut Work<'_, '_>, port: &Doc) -> Result<Vec<Value>, Fault> {
    let others = stored::of_port(work.tx, port.id())?;
    let mut all: Vec<Value> = active(port)
        .iter()
        .map(|one| shown(port, one, ACTIVE))
        .collect();
    all.extend(others.iter().map(|one| shown(port, one, INACTIVE)));
    Ok(all)
}

/// What a body says of a binding; what it leaves out is absent.
struct Given {
    host: Option<String>,
    vnic_type: Option<String>,
    profile: Option<Value>,
}

fn given(body: &Value) -> Result<Given, Fault> {
    let Some(members) = body.get("binding").and_then(Value::as_object) else {
        return Err(Fault::request("Unable to find 'binding' in request body"));
    };
    let known = ["host", "vnic_type", "profile"];
    if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Fault::request(format!(
            "Unrecognized attribute(s) '{name}'"
        )));
    }
    let text = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= 255 => {
            Ok(Some(text.clone()))
        }
        Some(other) => Err(Fault::request(format!(
            "Invalid input for {name}. Reason: '{other}' is not a text of 1 to 255 characters."
        ))),
    };
    let profile = match members.get("profile") {
        None | Some(Value::Null) => None,
        Some(profile @ Value::Object(_)) => Some(profile.clone()),
        Some(other) => {
            return Err(Fault::request(format!(
                "Invalid input for profile. Reason: '{other}' is not a dictionary."
            )));
        }
    };
    Ok(Given {
        host: text("host")?,
        vnic_type: text("vnic_type")?,
        profile,
    })
}

/// The first binding of a port is active, every other one waits.
fn create(work: &mut Work<'_, '_>, port: &Doc, body: &Value) -> Result<Value, Fault> {
    let given = given(body)?;
    let host = given.host.ok_or_else(|| {
        Fault::request("Failed to parse request. Required attribute 'host' not specified")
    })?;
    if !port.text("device_owner").starts_with("compute:") {
        let text = format!(
            "Port {} is not a server's: only such ports have several bindings.",
            port.id()
        );
        return Err(Fault::bad("BadRequest", text));
    }
    let taken = port.text("binding:host_id") == host
        || stored::of_port(work.tx, port.id())?
            .iter()
            .any(|one| one.host == host);
    if taken {
        let text = format!(
            "Binding for port {} on host {host} already exists.",
            port.id()
        );
        return Err(Fault::conflict("PortBindingAlreadyExists", text));
    }
    let binding = Binding {
        host,
        vnic_type: given.vnic_type.unwrap_or_else(|| "normal".to_owned()),
        profile: given.profile.unwrap_or(json!({})),
    };
    if ports::realised_as(&binding.host, &binding.vnic_type, "").0 == "binding_failed" {
        let text = format!(
            "Binding for port {} on host {} could not be created/updated: failed to bind port.",
            port.id(),
            binding.host
        );
        return Err(Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "PortBindingError",
            text,
        ));
    }
    if active(port).is_none() {
        let port = ports::bind_actively(work, port, &binding)?;
        return Ok(shown(&port, &binding, ACTIVE));
    }
    for port in with_carried(work, port)? {
        stored::insert(work.tx, port.id(), &binding)?;
        ports::tell_host(work, &port, &binding.host)?;
    }
    Ok(shown(port, &binding, INACTIVE))
}

/// A port, and what its trunk carries: these are wherever it is.
fn with_carried(work: &mut Work<'_, '_>, port: &Doc) -> Result<Vec<Doc>, Fault> {
    let mut all = trunks::carried_by(work, port)?;
    all.insert(0, port.clone());
    Ok(all)
}

/// Another host or profile for a binding.
fn update(work: &mut Work<'_, '_>, port: &Doc, host: &str, body: &Value) -> Result<Value, Fault> {
    let given = given(body)?;
    let change = |mut binding: Binding| {
        binding.host = given.host.clone().unwrap_or(binding.host);
        binding.vnic_type = given.vnic_type.clone().unwrap_or(binding.vnic_type);
        binding.profile = given.profile.clone().unwrap_or(binding.profile);
        binding
    };
    let others = stored::of_port(work.tx, port.id())?;
    let now_active = active(port).filter(|one| one.host == host);
    let is_active = now_active.is_some();
    let old = now_active
        .or_else(|| others.iter().find(|one| one.host == host).cloned())
        .ok_or_else(|| not_found(port, host))?;
    let new = change(old);
    let elsewhere = new.host != host
        && (port.text("binding:host_id") == new.host
            || others.iter().any(|one| one.host == new.host));
    if elsewhere {
        let text = format!(
            "Binding for port {} on host {} already exists.",
            port.id(),
            new.host
        );
        return Err(Fault::conflict("PortBindingAlreadyExists", text));
    }
    if is_active {
        let port = ports::bind_actively(work, port, &new)?;
        return Ok(shown(&port, &new, ACTIVE));
    }
    for port in with_carried(work, port)? {
        stored::delete(work.tx, port.id(), host)?;
        stored::insert(work.tx, port.id(), &new)?;
        ports::tell_host(work, &port, host)?;
        ports::tell_host(work, &port, &new.host)?;
    }
    Ok(shown(port, &new, INACTIVE))
}

fn delete(work: &mut Work<'_, '_>, port: &Doc, host: &str) -> Result<(), Fault> {
    if port.text("binding:host_id") == host {
        let none = Binding {
            host: String::new(),
            vnic_type: port.text("binding:vnic_type").to_owned(),
            profile: json!({}),
        };
        return ports::bind_actively(work, port, &none).map(drop);
    }
    let others = stored::of_port(work.tx, port.id())?;
    if !others.iter().any(|one| one.host == host) {
        return Err(not_found(port, host));
    }
    for port in with_carried(work, port)? {
        stored::delete(work.tx, port.id(), host)?;
        ports::tell_host(work, &port, host)?;
    }
    Ok(())
}

/// The two change places: what was active waits, as Neutron has it, until it is deleted.
fn activate(work: &mut Work<'_, '_>, port: &Doc, host: &str) -> Result<Value, Fault> {
    if port.text("binding:host_id") == host {
        let text = format!(
            "Binding for port {} on host {host} is already active.",
            port.id()
        );
        return Err(Fault::conflict("PortBindingAlreadyActive", text));
    }
    let others = stored::of_port(work.tx, port.id())?;
    let chosen = others.into_iter().find(|one| one.host == host);
    let chosen = chosen.ok_or_else(|| not_found(port, host))?;
    for port in with_carried(work, port)? {
        stored::delete(work.tx, port.id(), host)?;
        if let Some(before) = active(&port) {
            stored::insert(work.tx, port.id(), &before)?;
        }
    }
    let port = ports::bind_actively(work, port, &chosen)?;
    Ok(shown(&port, &chosen, ACTIVE))
}
