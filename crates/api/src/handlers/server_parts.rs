//! What hangs below one server: addresses, interfaces, diagnostics, the password.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::views::document;
use crate::views::server::{Addresses, AddressesOf};
use db::instances::{Instance, Interface};
use http::StatusCode;
use serde_json::{Map, Value, json};

/// `GET /servers/{id}/ips`.
pub async fn addresses(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    Reply::ok(&document(
        "addresses",
        Addresses {
            server: &server,
            extended: false,
        },
    ))
}

/// `GET /servers/{id}/ips/{network}`.
pub async fn addresses_of(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let network = call.param(1);
    if !server
        .network_info
        .iter()
        .any(|interface| interface.network_name == network)
    {
        return Err(Fault::not_found(
            "Instance is not a member of specified network",
        ));
    }
    Reply::ok(&json!({ network: AddressesOf { server: &server, network, extended: false } }))
}

/// The interfaces with the states and subnets that the network service knows.
pub async fn described(call: &Call, server: &Instance) -> Result<Vec<Value>, Fault> {
    let ports = call
        .api
        .deps
        .networks
        .ports_of_server(&call.token, server.id)
        .await;
    let ports = ports.map_err(crate::neighbours::unavailable)?;
    let one = |interface: &Interface| {
        let port = ports.iter().find(|port| port.id == interface.port_id);
        let fixed: Vec<Value> = port
            .into_iter()
            .flat_map(|port| &port.fixed_ips)
            .map(|(subnet, address)| json!({ "subnet_id": subnet, "ip_address": address }))
            .collect();
        let mut map = Map::new();
        map.insert("net_id".to_owned(), json!(interface.network_id));
        map.insert("port_id".to_owned(), json!(interface.port_id));
        map.insert("mac_addr".to_owned(), json!(interface.mac));
        map.insert(
            "port_state".to_owned(),
            json!(port.map(|port| &port.status)),
        );
        map.insert("fixed_ips".to_owned(), json!(fixed));
        if call.at_least(mv::INTERFACE_TAGS) {
            map.insert("tag".to_owned(), json!(interface.tag));
        }
        Value::from(map)
    };
    Ok(server.network_info.iter().map(one).collect())
}

/// `GET /servers/{id}/os-interface`.
pub async fn interfaces(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    Reply::ok(&json!({ "interfaceAttachments": described(&call, &server).await? }))
}

/// `GET /servers/{id}/os-interface/{port}`.
pub async fn interface(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let port = call.param(1);
    let found = described(&call, &server)
        .await?
        .into_iter()
        .find(|one| one["port_id"] == port);
    let found = found.ok_or_else(|| {
        Fault::not_found(format!(
            "Port {port} is not attached to instance {}.",
            server.id
        ))
    })?;
    Reply::ok(&json!({ "interfaceAttachment": found }))
}

/// `GET /servers/{id}/os-server-password`: what the guest posted to the metadata service, encrypted by the guest.
pub async fn password(call: Call) -> Result<Reply, Fault> {
    let id = call.server().await?.id;
    let store = &call.api.deps.store;
    let password = store
        .read(move |tx| db::guest_passwords::get(tx, id))
        .await?;
    Reply::ok(&json!({ "password": password.unwrap_or_default() }))
}

/// `DELETE /servers/{id}/os-server-password`: the record goes; in the guest nothing changes.
pub async fn clear_password(call: Call) -> Result<Reply, Fault> {
    let id = call.server().await?.id;
    let store = &call.api.deps.store;
    store
        .write(move |tx| db::guest_passwords::remove(tx, id))
        .await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// `GET /servers/{id}/topology`: guests are given no NUMA topology, which Nova shows as no nodes.
pub async fn topology(call: Call) -> Result<Reply, Fault> {
    call.server().await?;
    Reply::ok(&json!({ "nodes": [], "pagesize_kb": null }))
}
