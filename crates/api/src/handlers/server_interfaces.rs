//! Interfaces and security groups of servers that exist.

use crate::call::{Call, Reply};
use crate::commands::resolve::is_free;
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow_and};
use crate::handlers::server_parts::described;
use crate::idempotency::Answer;
use crate::neighbours::unavailable;
use crate::verdict;
use clients::PortRecord;
use db::accept;
use db::instances::{Instance, SecurityGroupRef};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use types::server::{WantedInterface, WantedNetworks};

/// How long the request waits for the interface, and for the network service to tell of it. Nova waits for an answer as
/// long as its RPC does, and then says 500, while the interface may come all the same.
const ATTACHING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// `POST /servers/{id}/os-interface`: answered when the server has the interface.
pub async fn attach(call: Call) -> Result<Reply, Fault> {
    const OUTER: &str = "interfaceAttachment";
    let text = |name: &str| call.text(OUTER, name).map(str::to_owned);
    let address = call
        .field(OUTER, "fixed_ips")
        .and_then(|ips| ips[0]["ip_address"].as_str());
    let (network, port, tag) = (text("net_id"), text("port_id"), text("tag"));
    let server = call.server().await?;
    if network.is_some() && port.is_some() {
        return Err(Fault::bad_request(
            "Must not input both network_id and port_id",
        ));
    }
    if address.is_some() && network.is_none() {
        return Err(Fault::bad_request(
            "Must input network_id when request IP address",
        ));
    }
    verdict::ATTACH_INTERFACE.check(&call, &server)?;
    let wanted = match (network, port) {
        (_, Some(port_id)) => {
            usable_port(&call, &port_id).await?;
            WantedInterface::Port { port_id, tag }
        }
        (network, None) => {
            let network_id = usable_network(&call, network).await?;
            // Nova says so with another status than for a new server.
            is_free(&call, &network_id, address)
                .await
                .map_err(|fault| match fault.status {
                    StatusCode::BAD_REQUEST => Fault::conflict(fault.message),
                    _ => fault,
                })?;
            WantedInterface::Network {
                network_id,
                fixed_ip: address.map(str::to_owned),
                tag,
            }
        }
    };
    let action = Wanted {
        rule: verdict::ATTACH_INTERFACE,
        action: "attach_interface",
        flow: accept::ATTACH_INTERFACE,
        state: json!({ "wanted": wanted }),
        task_state: None,
        answer: Answer::Later,
    };
    let before = start_flow_and(&call, action, move |tx, server| {
        if matches!(wanted, WantedInterface::Port { .. }) {
            let mut all = match server.networks.clone() {
                WantedNetworks::These(all) => all,
                WantedNetworks::None | WantedNetworks::Auto => Vec::new(),
            };
            all.push(wanted.clone());
            db::instances::set_networks(tx, server.id, &WantedNetworks::These(all))?;
        }
        Ok(())
    })
    .await?;
    let until = tokio::time::Instant::now() + ATTACHING;
    let after = attached(&call, &before, until).await?;
    let new = after.network_info.iter().find(|one| {
        let old = before
            .network_info
            .iter()
            .any(|old| old.port_id == one.port_id);
        !old
    });
    let Some(new) = new.map(|one| one.port_id.clone()) else {
        // One of before says nothing of this.
        let fault = after
            .fault
            .filter(|fault| Some(fault) != before.fault.as_ref());
        let (code, why) =
            fault.map_or_else(|| (500, String::new()), |fault| (fault.code, fault.message));
        // What the network service refused for the sake of the request.
        if let Some(status) = StatusCode::from_u16(code)
            .ok()
            .filter(StatusCode::is_client_error)
        {
            return Err(Fault::new(status, why));
        }
        tracing::warn!(server = %before.id, why, "an interface could not be attached");
        return Err(Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Failed to attach network adapter device to {}", before.id),
        ));
    };
    let all = told_of(&call, &after, &new, until).await?;
    let shown = all.into_iter().find(|one| one["port_id"] == new);
    Reply::ok(&json!({ "interfaceAttachment": shown }))
}

/// The interfaces of a server that has a new one. The network service may have gone away since it was asked for; what is
/// done must not look like a refusal.
async fn told_of(
    call: &Call,
    server: &Instance,
    new: &str,
    until: tokio::time::Instant,
) -> Result<Vec<Value>, Fault> {
    loop {
        match described(call, server).await {
            Err(fault) if fault.status == StatusCode::SERVICE_UNAVAILABLE => {
                if tokio::time::Instant::now() >= until {
                    return Err(Fault::unavailable(format!(
                        "Instance {} has the new interface, port {new}; the network service does not answer to show it. Do \
                         not ask for it again.",
                        server.id
                    )));
                }
            }
            other => return other,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The server when the flow that was just accepted has ended.
async fn attached(
    call: &Call,
    before: &Instance,
    until: tokio::time::Instant,
) -> Result<Instance, Fault> {
    let id = before.id;
    loop {
        let now = call
            .api
            .deps
            .store
            .read(move |tx| db::instances::get(tx, id))
            .await?;
        let now = now.ok_or_else(|| Fault::no_server(&id.to_string()))?;
        if now.task_id.is_none() {
            return Ok(now);
        }
        if tokio::time::Instant::now() >= until {
            return Err(Fault::unavailable(format!(
                "The request was accepted, and the interface of instance {id} is still being attached. Do not ask for it \
                 again; the action attach_interface of request {} shows how it ends.",
                call.request_id
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn usable_port(call: &Call, id: &str) -> Result<(), Fault> {
    let found = call.api.deps.networks.port(&call.token, id).await;
    let port = found
        .map_err(unavailable)?
        .ok_or_else(|| Fault::not_found(format!("Port id {id} could not be found.")))?;
    if port.project_id != call.project() && !call.is_admin() {
        return Err(Fault::bad_request(format!(
            "Port {id} not usable for instance."
        )));
    }
    if !port.device_id.is_empty() {
        return Err(Fault::conflict(format!("Port {id} is still in use.")));
    }
    Ok(())
}

/// The network named, or the only one that the project can use.
async fn usable_network(call: &Call, id: Option<String>) -> Result<String, Fault> {
    let networks = &call.api.deps.networks;
    let Some(id) = id else {
        let mut found = networks
            .networks_for(&call.token, call.project())
            .await
            .map_err(unavailable)?;
        return match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only.id),
            (None, _) => Err(Fault::bad_request(
                "No specific network was requested and none are available.",
            )),
            (Some(_), false) => Err(Fault::bad_request(
                "Multiple possible networks found, use a Network ID to be more specific.",
            )),
        };
    };
    let found = networks
        .network(&call.token, &id)
        .await
        .map_err(unavailable)?;
    let network =
        found.ok_or_else(|| Fault::not_found(format!("Network {id} could not be found.")))?;
    if network.external && !network.shared && !call.may("network:attach_external_network") {
        return Err(Fault::forbidden(format!(
            "It is not allowed to create an interface on external network {id}"
        )));
    }
    if network.subnets.is_empty() {
        return Err(Fault::bad_request(format!(
            "Network {id} requires a subnet in order to boot instances on."
        )));
    }
    Ok(id)
}

/// `DELETE /servers/{id}/os-interface/{port}`.
pub async fn detach(call: Call) -> Result<Reply, Fault> {
    let port = call.param(1).to_owned();
    let server = call.server().await?;
    verdict::DETACH_INTERFACE.check(&call, &server)?;
    let unknown = {
        let port = port.clone();
        move || Fault::not_found(format!("Port id {port} could not be found."))
    };
    let action = Wanted {
        rule: verdict::DETACH_INTERFACE,
        action: "detach_interface",
        flow: accept::DETACH_INTERFACE,
        state: json!({ "port": port }),
        task_state: None,
        answer: Answer::Later,
    };
    start_flow_and(&call, action, move |_, server| {
        let has = server.network_info.iter().any(|one| one.port_id == port);
        if has { Ok(()) } else { Err(unknown()) }
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// The group of this name or id, and the server's ports.
async fn group_and_ports(
    call: &Call,
    server: &Instance,
    wanted: &str,
) -> Result<(SecurityGroupRef, Vec<PortRecord>), Fault> {
    let networks = &call.api.deps.networks;
    let all = networks.security_groups(&call.token, call.project()).await;
    let all = all.map_err(unavailable)?;
    let mut found: Vec<&(String, String)> = all.iter().filter(|(id, _)| id == wanted).collect();
    if found.is_empty() {
        found = all.iter().filter(|(_, name)| name == wanted).collect();
    }
    let group = match found.as_slice() {
        [(id, name)] => SecurityGroupRef {
            id: id.clone(),
            name: name.clone(),
        },
        [] => {
            return Err(Fault::not_found(format!(
                "Security group {wanted} is not found for project {}",
                call.project()
            )));
        }
        _ => {
            return Err(Fault::conflict(format!(
                "Multiple security_group matches found for name '{wanted}', use an ID to be more specific."
            )));
        }
    };
    let ports = networks.ports_of_server(&call.token, server.id).await;
    let ports = ports.map_err(unavailable)?;
    if ports.is_empty() {
        return Err(Fault::not_found(format!(
            "instance_id {} could not be found as device id on any ports",
            server.id
        )));
    }
    Ok((group, ports))
}

async fn set_groups(call: &Call, port: &PortRecord, groups: &[String]) -> Result<(), Fault> {
    let networks = &call.api.deps.networks;
    let changed = networks.set_groups(&call.token, &port.id, groups).await;
    changed.map_err(unavailable)?.map_err(Fault::bad_request)
}

async fn show_groups(
    call: &Call,
    server: &Instance,
    how: impl Fn(&mut Vec<SecurityGroupRef>) + Send + 'static,
) -> Result<(), Fault> {
    let id = server.id;
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        if let Some(mut server) = db::instances::get(tx, id)? {
            how(&mut server.security_groups);
            db::instances::set_security_groups(tx, id, &server.security_groups)?;
        }
        Ok(())
    };
    Ok(call.api.deps.store.write(write).await?)
}

/// `addSecurityGroup`: every port of the server gets the group.
pub async fn add_group(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let wanted = call.text("addSecurityGroup", "name").unwrap_or_default();
    let (group, ports) = group_and_ports(&call, &server, wanted).await?;
    for port in &ports {
        if !port.security_groups.contains(&group.id) {
            let mut groups = port.security_groups.clone();
            groups.push(group.id.clone());
            set_groups(&call, port, &groups).await?;
        }
    }
    show_groups(&call, &server, move |shown| {
        if !shown.contains(&group) {
            shown.push(group.clone());
        }
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

/// `removeSecurityGroup`: no port of the server has the group.
pub async fn remove_group(call: Call) -> Result<Reply, Fault> {
    let server = call.server().await?;
    let wanted = call.text("removeSecurityGroup", "name").unwrap_or_default();
    let (group, ports) = group_and_ports(&call, &server, wanted).await?;
    let mut had = false;
    for port in &ports {
        if port.security_groups.contains(&group.id) {
            had = true;
            let mut groups = port.security_groups.clone();
            groups.retain(|one| *one != group.id);
            set_groups(&call, port, &groups).await?;
        }
    }
    if !had {
        return Err(Fault::not_found(format!(
            "Security group {wanted} not associated with the instance {}",
            server.id
        )));
    }
    show_groups(&call, &server, move |shown| {
        shown.retain(|one| one.id != group.id)
    })
    .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
