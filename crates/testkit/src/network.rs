//! A network service with as much of the Networking API v2.0 as compute speaks, and switches that break it.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// The one network there is, shared by all projects.
pub const NETWORK: &str = "5f3b7d1c-0000-4000-8000-000000000001";

/// The network service of a test.
pub struct Network {
    inner: Mutex<Inner>,
    /// Port creations that have arrived.
    arrived: watch::Sender<usize>,
    /// Whether port creations go on.
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    ports: BTreeMap<String, Value>,
    made: u32,
    down: bool,
    lost: bool,
    turned_away: usize,
    refusing: bool,
    unwired: bool,
    /// Ports can be bound to several hosts.
    several: bool,
    /// Inactive bindings: port and host.
    ready: BTreeSet<(String, String)>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            arrived: watch::channel(0).0,
            open: watch::channel(true).0,
        }
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The API.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    /// The service answers 503 to everything, or works again.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// The service answers 404 to everything, as a proxy does that knows nothing of it.
    pub fn set_lost(&self, lost: bool) {
        self.lock().lost = lost;
    }

    /// How many requests came while it was down.
    pub fn turned_away(&self) -> usize {
        self.lock().turned_away
    }

    /// New ports are refused with 409.
    pub fn set_refusing(&self, refusing: bool) {
        self.lock().refusing = refusing;
    }

    /// Nobody wires ports: they stay DOWN.
    pub fn set_unwired(&self, unwired: bool) {
        let mut inner = self.lock();
        inner.unwired = unwired;
        let status = if unwired { "DOWN" } else { "ACTIVE" };
        for port in inner.ports.values_mut() {
            port["status"] = status.into();
        }
    }

    /// Port creations stand still once they have arrived, or go on.
    pub fn hold_creations(&self, hold: bool) {
        self.open.send_replace(!hold);
    }

    /// Waits until so many port creations have arrived.
    pub async fn creations_arrived(&self, count: usize) {
        let _ = self
            .arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= count)
            .await;
    }

    /// The ports there are: id and the server that has it (or empty).
    pub fn ports(&self) -> Vec<(String, String)> {
        let device = |port: &Value| port["device_id"].as_str().unwrap_or_default().to_owned();
        self.lock()
            .ports
            .iter()
            .map(|(id, port)| (id.clone(), device(port)))
            .collect()
    }

    /// The fixed addresses of a port.
    pub fn addresses(&self, port: &str) -> Vec<String> {
        let inner = self.lock();
        let fixed = inner.ports.get(port).map(|port| &port["fixed_ips"]);
        let fixed = fixed.and_then(Value::as_array).into_iter().flatten();
        fixed
            .filter_map(|one| one["ip_address"].as_str().map(str::to_owned))
            .collect()
    }

    /// The host that a port is bound to.
    pub fn host_of(&self, port: &str) -> Option<String> {
        let inner = self.lock();
        let host = inner.ports.get(port)?["binding:host_id"].as_str()?;
        (!host.is_empty()).then(|| host.to_owned())
    }

    /// From now on ports can be bound to several hosts (`binding-extended`).
    pub fn bind_to_several(&self) {
        self.lock().several = true;
    }

    /// The hosts that have a port ready where it is not active: port and host.
    pub fn ready(&self) -> Vec<(String, String)> {
        self.lock().ready.iter().cloned().collect()
    }

    /// How many ports were ever made.
    pub fn made(&self) -> u32 {
        self.lock().made
    }

    /// Changes a field of a port behind everybody's back.
    pub fn set(&self, port: &str, field: &str, value: Value) {
        if let Some(port) = self.lock().ports.get_mut(port) {
            port[field] = value;
        }
    }

    /// Deletes a port behind everybody's back.
    pub fn delete(&self, port: &str) {
        self.lock().ports.remove(port);
    }

    /// A port that nobody uses yet, as its owner would make it.
    pub fn make_port(&self) -> String {
        let mut inner = self.lock();
        let port = new_port(&mut inner, &json!({ "network_id": NETWORK }));
        port["id"].as_str().unwrap().to_owned()
    }
}

fn new_port(inner: &mut Inner, wanted: &Value) -> Value {
    inner.made += 1;
    let (number, id) = (inner.made, uuid::Uuid::new_v4().to_string());
    let [_, _, high, low] = number.to_be_bytes();
    let text = |name: &str| wanted[name].as_str().unwrap_or_default().to_owned();
    let port = json!({
        "id": id,
        "network_id": text("network_id"),
        "project_id": text("project_id"),
        "device_id": text("device_id"),
        "device_owner": text("device_owner"),
        "binding:host_id": text("binding:host_id"),
        "mac_address": format!("fa:16:3e:00:{high:02x}:{low:02x}"),
        "fixed_ips": [{ "subnet_id": "subnet", "ip_address": format!("10.0.{high}.{low}") }],
        "security_groups": [],
        "status": if inner.unwired { "DOWN" } else { "ACTIVE" },
    });
    inner.ports.insert(id, port.clone());
    port
}

/// Whether an address is asked for that is in no subnet.
fn outside(wanted: &Value) -> bool {
    let address = wanted["fixed_ips"][0]["ip_address"].as_str();
    address.is_some_and(|address| !address.starts_with("10.0."))
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({ "NeutronError": { "type": kind, "message": message, "detail": "" } });
    (status, axum::Json(body)).into_response()
}

fn network() -> Value {
    json!({ "id": NETWORK, "name": "private", "mtu": 1450, "shared": true, "router:external": false, "subnets": ["subnet"],
        "project_id": "admin", "port_security_enabled": true })
}

async fn answer(State(network): State<Arc<Network>>, request: Request<Body>) -> Response {
    let down = {
        let mut inner = network.lock();
        inner.turned_away += usize::from(inner.down);
        inner.down
    };
    if down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    assert!(
        request.headers().contains_key("x-auth-token"),
        "every request carries a token"
    );
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let path: Vec<&str> = parts.uri.path().split('/').skip(2).collect();
    if parts.method == Method::POST && path == ["ports"] {
        network.arrived.send_modify(|arrived| *arrived += 1);
        let _ = network.open.subscribe().wait_for(|open| *open).await;
    }
    respond(&mut network.lock(), &parts.method, &path, query, &document)
}

fn respond(
    inner: &mut Inner,
    method: &Method,
    path: &[&str],
    query: &str,
    document: &Value,
) -> Response {
    let missing = || refusal(StatusCode::NOT_FOUND, "NotFound", "It could not be found.");
    if inner.lost {
        return missing();
    }
    match (method.as_str(), path) {
        ("GET", ["networks", NETWORK]) => {
            axum::Json(json!({ "network": network() })).into_response()
        }
        ("GET", ["networks"]) => {
            let shared = query.contains("shared=true").then(network);
            axum::Json(json!({ "networks": shared.into_iter().collect::<Vec<_>>() }))
                .into_response()
        }
        ("GET", ["subnets"]) => {
            let subnet = json!({ "id": "subnet", "cidr": "10.0.0.0/16", "network_id": NETWORK, "ip_version": 4 });
            axum::Json(json!({ "subnets": [subnet] })).into_response()
        }
        ("GET", ["ports"]) => {
            let device = query.strip_prefix("device_id=");
            let of_device: Vec<&Value> = inner
                .ports
                .values()
                .filter(|port| device.is_none_or(|device| port["device_id"] == device))
                .collect();
            axum::Json(json!({ "ports": of_device })).into_response()
        }
        ("GET", ["ports", id]) => match inner.ports.get(*id) {
            Some(port) => axum::Json(json!({ "port": port })).into_response(),
            None => missing(),
        },
        ("POST", ["ports"]) if inner.refusing => refusal(
            StatusCode::CONFLICT,
            "IpAddressGenerationFailure",
            "No more IP addresses available on network.",
        ),
        ("POST", ["ports"]) if outside(&document["port"]) => refusal(
            StatusCode::BAD_REQUEST,
            "InvalidIpForNetwork",
            "IP address is not a valid IP for any of the subnets on the specified network.",
        ),
        ("POST", ["ports"]) => {
            let port = new_port(inner, &document["port"]);
            (StatusCode::CREATED, axum::Json(json!({ "port": port }))).into_response()
        }
        (_, ["extensions", "binding-extended"]) if inner.several => {
            axum::Json(json!({ "extension": { "alias": "binding-extended" } })).into_response()
        }
        (method, ["ports", id, "bindings", rest @ ..]) if inner.several => {
            bindings(inner, method, id, rest, document)
        }
        ("PUT", ["ports", id]) => match inner.ports.get_mut(*id) {
            Some(port) => {
                match document["port"]["binding:host_id"].as_str() {
                    Some("") => inner.ready.retain(|(one, _)| one != id),
                    Some(host) => {
                        inner.ready.remove(&((*id).to_owned(), host.to_owned()));
                    }
                    None => {}
                }
                for (name, value) in document["port"].as_object().into_iter().flatten() {
                    port[name] = value.clone();
                }
                for fixed in port["fixed_ips"].as_array_mut().into_iter().flatten() {
                    if fixed["ip_address"].is_null() {
                        inner.made += 1;
                        let [_, _, high, low] = inner.made.to_be_bytes();
                        fixed["ip_address"] = format!("10.0.{high}.{low}").into();
                    }
                }
                axum::Json(json!({ "port": port })).into_response()
            }
            None => missing(),
        },
        ("DELETE", ["ports", id]) => match inner.ports.remove(*id) {
            Some(_) => {
                inner.ready.retain(|(one, _)| one != id);
                StatusCode::NO_CONTENT.into_response()
            }
            None => missing(),
        },
        ("GET", ["floatingips"]) => axum::Json(json!({ "floatingips": [] })).into_response(),
        _ => missing(),
    }
}

/// What is asked of the bindings of a port: only a server's port has several.
fn bindings(
    inner: &mut Inner,
    method: &str,
    id: &str,
    rest: &[&str],
    document: &Value,
) -> Response {
    let missing = || refusal(StatusCode::NOT_FOUND, "PortBindingNotFound", "No binding.");
    let Some(port) = inner.ports.get_mut(id) else {
        return missing();
    };
    let active = port["binding:host_id"].as_str().unwrap_or_default();
    let active = active.to_owned();
    let named = rest
        .first()
        .copied()
        .or(document["binding"]["host"].as_str());
    let ready = (id.to_owned(), named.unwrap_or_default().to_owned());
    match (method, rest) {
        ("POST", []) if port["device_id"] == "" => {
            refusal(StatusCode::BAD_REQUEST, "BadRequest", "It is no server's.")
        }
        ("POST", []) if active == ready.1 || inner.ready.contains(&ready) => refusal(
            StatusCode::CONFLICT,
            "PortBindingAlreadyExists",
            "It is there.",
        ),
        ("POST", []) => {
            let host = ready.1.clone();
            inner.ready.insert(ready);
            let shown = json!({ "binding": { "host": host, "status": "INACTIVE" } });
            (StatusCode::CREATED, axum::Json(shown)).into_response()
        }
        ("DELETE", [_]) if inner.ready.remove(&ready) => StatusCode::NO_CONTENT.into_response(),
        ("PUT", [_, "activate"]) if active == ready.1 => refusal(
            StatusCode::CONFLICT,
            "PortBindingAlreadyActive",
            "It is active.",
        ),
        ("PUT", [host, "activate"]) if inner.ready.remove(&ready) => {
            port["binding:host_id"] = (*host).into();
            if !active.is_empty() {
                inner.ready.insert((id.to_owned(), active));
            }
            let shown = json!({ "binding": { "host": host, "status": "ACTIVE" } });
            axum::Json(shown).into_response()
        }
        _ => missing(),
    }
}
