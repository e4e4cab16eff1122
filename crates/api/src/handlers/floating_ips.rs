//! `/os-floating-ips` and `/os-floating-ip-pools` (until 2.36), and the two server actions (until 2.44).

use super::network_proxies::{ask, escape, list_of, one_of, unexpected};
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::schemas::formats;
use clients::refusal;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use types::ServerId;

const POOLS: &str = "/v2.0/networks?router:external=true";

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_default()
}

/// `GET /os-floating-ip-pools`: the networks that lead outside.
pub async fn pools(call: Call) -> Result<Reply, Fault> {
    let networks = list_of(&call, POOLS, "networks").await?;
    let list: Vec<Value> = networks
        .iter()
        .map(|network| json!({ "name": pool_name(network) }))
        .collect();
    Reply::ok(&json!({ "floating_ip_pools": list }))
}

fn pool_name(network: &Value) -> &str {
    match text(network, "name") {
        "" => text(network, "id"),
        name => name,
    }
}

/// Floating addresses as they were shown, with the servers they lead to and the names of their pools.
async fn shown(call: &Call, found: &[Value]) -> Result<Vec<Value>, Fault> {
    let mut pools: HashMap<String, String> = HashMap::new();
    if !found.is_empty() {
        for network in list_of(call, POOLS, "networks").await? {
            let name = pool_name(&network).to_owned();
            pools.insert(text(&network, "id").to_owned(), name);
        }
    }
    let one = |ip: &Value| {
        let network = text(ip, "floating_network_id");
        let pool = pools.get(network).map_or(network, String::as_str);
        let device = ip["port_details"]["device_id"].as_str();
        json!({
            "id": ip["id"],
            "ip": ip["floating_ip_address"],
            "fixed_ip": ip["fixed_ip_address"],
            "instance_id": device.filter(|device| !device.is_empty()),
            "pool": pool,
        })
    };
    Ok(found.iter().map(one).collect())
}

/// `GET /os-floating-ips`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    let path = format!("/v2.0/floatingips?project_id={}", escape(call.project()));
    let found = list_of(&call, &path, "floatingips").await?;
    Reply::ok(&json!({ "floating_ips": shown(&call, &found).await? }))
}

async fn in_path(call: &Call) -> Result<Value, Fault> {
    let id = call.param(0);
    let path = format!("/v2.0/floatingips/{}", escape(id));
    let found = one_of(call, &path, "floatingip").await?;
    found.ok_or_else(|| Fault::not_found(format!("Floating IP not found for ID {id}")))
}

async fn answer_one(call: &Call, found: Value) -> Result<Reply, Fault> {
    let shown = shown(call, &[found]).await?.remove(0);
    Reply::ok(&json!({ "floating_ip": shown }))
}

/// `GET /os-floating-ips/{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let found = in_path(&call).await?;
    answer_one(&call, found).await
}

/// The network of a pool, by name or id.
async fn pool(call: &Call, wanted: &str) -> Result<String, Fault> {
    let key = if formats::uuid(wanted) { "id" } else { "name" };
    let path = format!("{POOLS}&{key}={}", escape(wanted));
    let found = list_of(call, &path, "networks").await?;
    match found.as_slice() {
        [] => Err(Fault::not_found("Floating IP pool not found.")),
        [only] => Ok(text(only, "id").to_owned()),
        _ => Err(Fault::conflict(format!(
            "Multiple floating IP pools matches found for name '{wanted}'"
        ))),
    }
}

/// `POST /os-floating-ips`.
pub async fn create(call: Call) -> Result<Reply, Fault> {
    let named = call.body.get("pool").and_then(Value::as_str);
    let named = named.filter(|pool| !pool.is_empty());
    let wanted = named.unwrap_or(&call.api.config.default_floating_pool);
    let network = pool(&call, wanted).await?;
    let body = json!({ "floatingip": { "floating_network_id": network } });
    let answer = ask(&call, Method::POST, "/v2.0/floatingips", Some(&body)).await?;
    let of_pool = |what: &str, otherwise: &str| match named {
        Some(pool) => format!("{what} in pool {pool}."),
        None => format!("{otherwise}."),
    };
    match answer.status {
        StatusCode::CREATED => answer_one(&call, answer.part("floatingip")).await,
        StatusCode::BAD_REQUEST => Err(Fault::bad_request(refusal(&answer))),
        StatusCode::CONFLICT if answer.json()["NeutronError"]["type"] == "OverQuota" => {
            Err(Fault::forbidden(of_pool(
                "IP allocation over quota",
                "IP allocation over quota",
            )))
        }
        StatusCode::CONFLICT => Err(Fault::not_found(of_pool(
            "No more floating IPs",
            "No more floating IPs available",
        ))),
        _ => Err(unexpected(&answer)),
    }
}

/// `DELETE /os-floating-ips/{id}`: gives the address back, even when it leads to a server.
pub async fn delete(call: Call) -> Result<Reply, Fault> {
    let found = in_path(&call).await?;
    let path = format!("/v2.0/floatingips/{}", escape(text(&found, "id")));
    let answer = ask(&call, Method::DELETE, &path, None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => {
            call.api.deps.bus.ring(bus::Bell::Addresses);
            Ok(Reply::empty(StatusCode::ACCEPTED))
        }
        StatusCode::NOT_FOUND => Err(Fault::not_found(format!(
            "Floating IP not found for address {}.",
            text(&found, "floating_ip_address")
        ))),
        _ => Err(unexpected(&answer)),
    }
}

/// Floating addresses with this address: one, if all is well.
async fn with_address(call: &Call, address: &str) -> Result<Vec<Value>, Fault> {
    let path = format!("/v2.0/floatingips?floating_ip_address={}", escape(address));
    list_of(call, &path, "floatingips").await
}

async fn lead(call: &Call, floating: &Value, to: &Value) -> Result<clients::Answer, Fault> {
    let path = format!("/v2.0/floatingips/{}", escape(text(floating, "id")));
    let answer = ask(call, Method::PUT, &path, Some(&json!({ "floatingip": to }))).await?;
    if answer.status.is_success() {
        call.api.deps.bus.ring(bus::Bell::Addresses);
    }
    Ok(answer)
}

/// `addFloatingIp`: leads an address to one of the server's fixed addresses, by default the first of IPv4.
pub async fn add(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let address = call.text("addFloatingIp", "address").unwrap_or_default();
    if server.network_info.is_empty() {
        return Err(Fault::bad_request("Instance network is not ready yet"));
    }
    let fixed: Vec<(&str, &str)> = server
        .network_info
        .iter()
        .flat_map(|vif| vif.addresses.iter().map(|one| (vif.port_id.as_str(), one)))
        .filter(|(_, one)| one.kind == "fixed")
        .map(|(port, one)| (port, one.ip.as_str()))
        .collect();
    if fixed.is_empty() {
        return Err(Fault::bad_request("No fixed IPs associated to instance"));
    }
    let to = match call.text("addFloatingIp", "fixed_address") {
        Some(wanted) => fixed.iter().find(|(_, ip)| *ip == wanted).ok_or_else(|| {
            Fault::bad_request("Specified fixed address not assigned to instance")
        })?,
        None => fixed
            .iter()
            .find(|(_, ip)| ip.parse::<Ipv4Addr>().is_ok())
            .ok_or_else(|| {
                Fault::bad_request(format!(
                    "Unable to associate floating IP {address} to any fixed IPs for instance {}. \
                     Instance has no fixed IPv4 addresses to associate.",
                    server.id
                ))
            })?,
    };
    let found = with_address(&call, address).await?;
    let floating = match found.as_slice() {
        [] => return Err(Fault::not_found("floating IP not found")),
        [only] => only,
        _ => {
            return Err(Fault::bad_request(format!(
                "Unable to associate floating IP {address} to fixed IP {} for instance {}. \
                 Error: Multiple floating IPs are found for address {address}.",
                to.1, server.id
            )));
        }
    };
    let body = json!({ "port_id": to.0, "fixed_ip_address": to.1 });
    let answer = lead(&call, floating, &body).await?;
    match answer.status {
        StatusCode::OK => Ok(Reply::empty(StatusCode::ACCEPTED)),
        StatusCode::FORBIDDEN => Err(Fault::forbidden(refusal(&answer))),
        StatusCode::CONFLICT => Err(Fault::bad_request(refusal(&answer))),
        status if status.is_client_error() => Err(Fault::bad_request(format!(
            "Unable to associate floating IP {address} to fixed IP {} for instance {}. Error: {}",
            to.1,
            server.id,
            refusal(&answer)
        ))),
        _ => Err(unexpected(&answer)),
    }
}

/// `removeFloatingIp`. The address is looked up first, and the policy is about the server it leads to.
pub async fn remove(call: Call) -> Result<Reply, Fault> {
    const RULE: &str = "os_compute_api:os-floating-ips:remove";
    let address = call.text("removeFloatingIp", "address").unwrap_or_default();
    let found = with_address(&call, address).await?;
    let floating = match found.as_slice() {
        [] => {
            return Err(Fault::not_found(format!(
                "Floating IP not found for address {address}."
            )));
        }
        [only] => only,
        _ => {
            return Err(Fault::conflict(format!(
                "Multiple floating IPs are found for address {address}."
            )));
        }
    };
    let leads_to = led(&call, floating).await?;
    match &leads_to {
        Some(server) => {
            call.require_for(RULE, server.project_id.as_str(), server.user_id.as_str())?;
        }
        None => call.require_for(RULE, "", "")?,
    }
    let here: Option<ServerId> = call.param(0).parse().ok();
    if leads_to.is_none_or(|server| Some(server.id) != here) {
        return Err(Fault::conflict(format!(
            "Floating IP {address} is not associated with instance {}.",
            call.param(0)
        )));
    }
    let answer = lead(&call, floating, &json!({ "port_id": null })).await?;
    match answer.status {
        StatusCode::OK => Ok(Reply::empty(StatusCode::ACCEPTED)),
        _ => Err(unexpected(&answer)),
    }
}

/// The server a floating address leads to, if it leads to one.
async fn led(call: &Call, floating: &Value) -> Result<Option<db::instances::Instance>, Fault> {
    let Some(port) = floating["port_id"].as_str() else {
        return Ok(None);
    };
    let port = one_of(call, &format!("/v2.0/ports/{}", escape(port)), "port").await?;
    let device = port.map(|port| text(&port, "device_id").to_owned());
    let Some(device) = device.filter(|device| !device.is_empty()) else {
        return Ok(None);
    };
    let unknown = || Fault::no_server(&device);
    let id: ServerId = device.parse().map_err(|_| unknown())?;
    let store = &call.api.deps.store;
    let found = store.read(move |tx| db::instances::get(tx, id)).await?;
    let server = found.filter(|server| call.knows(server));
    server.ok_or_else(unknown).map(Some)
}
