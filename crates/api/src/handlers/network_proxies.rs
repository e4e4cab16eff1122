//! `/os-networks` and `/os-tenant-networks` (until 2.36): the network service's networks in the shape of long ago.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::neighbours::unavailable;
use clients::Answer;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// A request to the network service in the user's name.
pub(super) async fn ask(
    call: &Call,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer, Fault> {
    let networks = &call.api.deps.networks;
    networks
        .forward(&call.token, method, path, body)
        .await
        .map_err(unavailable)
}

/// An answer that no rule foresees.
pub(super) fn unexpected(answer: &Answer) -> Fault {
    match answer.status {
        StatusCode::FORBIDDEN => Fault::forbidden(clients::refusal(answer)),
        status => Fault::internal(format!(
            "the network service answered {status}: {}",
            clients::refusal(answer)
        )),
    }
}

/// A list of the network service.
pub(super) async fn list_of(call: &Call, path: &str, key: &str) -> Result<Vec<Value>, Fault> {
    let answer = ask(call, Method::GET, path, None).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.json()[key].as_array().cloned().unwrap_or_default()),
        _ => Err(unexpected(&answer)),
    }
}

/// One document of the network service, if the user may see it.
pub(super) async fn one_of(call: &Call, path: &str, key: &str) -> Result<Option<Value>, Fault> {
    let answer = ask(call, Method::GET, path, None).await?;
    match answer.status {
        StatusCode::OK => Ok(Some(answer.part(key))),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(unexpected(&answer)),
    }
}

/// Text for a path or query of the network service.
pub(super) fn escape(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What everyone sees; only `id` and `label` have a value since networks are the network service's.
const FIELDS: [&str; 11] = [
    "id",
    "cidr",
    "netmask",
    "gateway",
    "broadcast",
    "dns1",
    "dns2",
    "cidr_v6",
    "gateway_v6",
    "label",
    "netmask_v6",
];
/// What administrators see besides.
const ADMIN_FIELDS: [&str; 21] = [
    "created_at",
    "updated_at",
    "deleted_at",
    "deleted",
    "injected",
    "bridge",
    "vlan",
    "vpn_public_address",
    "vpn_public_port",
    "vpn_private_address",
    "dhcp_start",
    "project_id",
    "host",
    "bridge_interface",
    "multi_host",
    "priority",
    "rxtx_base",
    "mtu",
    "dhcp_server",
    "enable_dhcp",
    "share_address",
];

fn network(call: &Call, network: &Value) -> Value {
    let more: &[&str] = if call.is_admin() { &ADMIN_FIELDS } else { &[] };
    let mut shown: Map<String, Value> = FIELDS
        .iter()
        .chain(more)
        .map(|name| ((*name).to_owned(), Value::Null))
        .collect();
    shown.insert("id".to_owned(), network["id"].clone());
    shown.insert("label".to_owned(), network["name"].clone());
    shown.into()
}

fn tenant_network(_: &Call, network: &Value) -> Value {
    // The text `None` is what clients of this API know.
    json!({ "id": network["id"], "cidr": "None", "label": network["name"] })
}

async fn all(call: Call, show: fn(&Call, &Value) -> Value) -> Result<Reply, Fault> {
    let found = list_of(&call, "/v2.0/networks", "networks").await?;
    let list: Vec<Value> = found.iter().map(|one| show(&call, one)).collect();
    Reply::ok(&json!({ "networks": list }))
}

async fn one(call: Call, show: fn(&Call, &Value) -> Value) -> Result<Reply, Fault> {
    let path = format!("/v2.0/networks/{}", escape(call.param(0)));
    let found = one_of(&call, &path, "network").await?;
    let found = found.ok_or_else(|| Fault::not_found("Network not found"))?;
    Reply::ok(&json!({ "network": show(&call, &found) }))
}

/// `GET /os-networks`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    all(call, network).await
}

/// `GET /os-networks/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    one(call, network).await
}

/// `GET /os-tenant-networks`.
pub async fn tenant_list(call: Call) -> Result<Reply, Fault> {
    all(call, tenant_network).await
}

/// `GET /os-tenant-networks/{id}`.
pub async fn tenant_show(call: Call) -> Result<Reply, Fault> {
    one(call, tenant_network).await
}
