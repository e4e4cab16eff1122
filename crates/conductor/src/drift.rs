//! What servers show of their ports and is not so any more: a port that was deleted or given to somebody else, other
//! fixed addresses (Nova's `network-vif-deleted` and `network-changed`, and what it heals now and then).
//!
//! A server without its port gets the interface taken out of its guest. What servers show is read before the ports are
//! listed, and each port is looked at once more before something is done: so nothing is taken for gone that came in
//! between.

use crate::addresses::Error;
use crate::flows::fixed_ips::readdress;
use crate::flows::interfaces::forget_wish;
use crate::neighbours::Neighbours;
use bus::{Bell, Bus};
use clients::BoundPort;
use db::accept::{self, Accepted, Start};
use db::actions::Requester;
use db::instances::{self, Instance, Interface, Shown};
use sql::Tx;
use std::collections::HashMap;
use types::{RequestId, ServerId, Timestamp, VmState};

/// A server that shows what is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The server.
    pub server: ServerId,
    /// The port that it shows.
    pub port: String,
    /// Whether it is not the server's any more; else its addresses are others.
    pub gone: bool,
    /// Whether nobody works on the server.
    pub(crate) at_rest: bool,
    generation: i64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (server, port) = (self.server, &self.port);
        match self.gone {
            true => write!(
                f,
                "server {server} shows port {port}, which is gone or not its own any more"
            ),
            false => write!(
                f,
                "server {server} shows other addresses than its port {port} has"
            ),
        }
    }
}

fn shows(interface: &Interface, addresses: &[String]) -> bool {
    let fixed = interface.addresses.iter();
    let mut shown: Vec<&str> = fixed
        .filter(|one| one.kind == "fixed")
        .map(|one| one.ip.as_str())
        .collect();
    let mut has: Vec<&str> = addresses.iter().map(String::as_str).collect();
    shown.sort_unstable();
    has.sort_unstable();
    shown == has
}

/// What differs between what servers show and a list of ports that is not older. Pure.
pub(crate) fn compare(shown: &[Shown], ports: &[BoundPort]) -> Vec<Difference> {
    let ports: HashMap<&str, &BoundPort> =
        ports.iter().map(|port| (port.id.as_str(), port)).collect();
    let mut found = Vec::new();
    for server in shown {
        for interface in &server.interfaces {
            let its = ports.get(interface.port_id.as_str());
            let its = its.filter(|port| port.server == server.id);
            if its.is_some_and(|port| shows(interface, &port.addresses)) {
                continue;
            }
            found.push(Difference {
                server: server.id,
                port: interface.port_id.clone(),
                gone: its.is_none(),
                at_rest: server.at_rest,
                generation: server.generation,
            });
        }
    }
    found
}

/// Mends what is still so, on servers that nobody works on; returns how many that were. A server whose guest cannot be
/// changed as it is now waits.
pub(crate) async fn mend(
    with: &Neighbours,
    bus: &Bus,
    found: &[Difference],
) -> Result<usize, Error> {
    let mut count = 0;
    let at_rest: Vec<&Difference> = found.iter().filter(|one| one.at_rest).collect();
    if at_rest.is_empty() {
        return Ok(0);
    }
    with.view.renew().await?;
    for one in at_rest {
        let token = with.tokens.token().await?;
        let port = with.networks.port(&token, &one.port).await?;
        let port = port.filter(|port| port.device_id == one.server.to_string());
        let has = port.map(|port| port.fixed_ips.into_iter().map(|(_, ip)| ip).collect());
        let (view, one) = (with.view.clone(), one.clone());
        let request_id = RequestId::random().to_string();
        let mending = with.store.write(move |tx| -> Result<bool, sql::Error> {
            let Some(server) = instances::get(tx, one.server)?.filter(|now| {
                now.generation == one.generation
                    && now.task_id.is_none()
                    && now.task_state.is_none()
            }) else {
                return Ok(false);
            };
            let has: Option<&Vec<String>> = has.as_ref();
            match (has, &server.host) {
                (Some(has), _) => follow(tx, server, &one.port, has),
                (None, None) => forget(tx, server, &one.port),
                (None, Some(host)) if view.is_up(host) => {
                    take_out(tx, &server, &one.port, &request_id)
                }
                (None, Some(_)) => Ok(false),
            }
        });
        count += usize::from(mending.await?);
    }
    if count > 0 {
        bus.ring(Bell::Tasks);
    }
    Ok(count)
}

/// The server shows the addresses that its port has.
fn follow(
    tx: &mut Tx<'_>,
    mut server: Instance,
    port: &str,
    has: &[String],
) -> Result<bool, sql::Error> {
    let mut its = server.network_info.iter_mut();
    let interface = its.find(|one| one.port_id == port && !shows(one, has));
    let Some(interface) = interface else {
        return Ok(false);
    };
    readdress(interface, has.iter().map(String::as_str));
    tracing::info!(server = %server.id, port, "a server's port has other addresses");
    instances::set_network_info(tx, server.id, &server.network_info)?;
    Ok(true)
}

/// A server without a host has no guest from which the interface must go.
fn forget(tx: &mut Tx<'_>, mut server: Instance, port: &str) -> Result<bool, sql::Error> {
    server.network_info.retain(|one| one.port_id != port);
    tracing::info!(server = %server.id, port, "a server's port is gone");
    instances::set_network_info(tx, server.id, &server.network_info)?;
    forget_wish(tx, server.id, port)?;
    Ok(true)
}

/// Nova records no action for this either.
fn take_out(
    tx: &mut Tx<'_>,
    server: &Instance,
    port: &str,
    request_id: &str,
) -> Result<bool, sql::Error> {
    let can_be_changed = [VmState::Active, VmState::Paused, VmState::Stopped];
    if !can_be_changed.contains(&server.vm_state) {
        return Ok(false);
    }
    let start = Start {
        flow: accept::DETACH_INTERFACE,
        state: serde_json::json!({ "port": port, "gone": true }),
        action: "",
        by: Requester {
            request_id,
            user_id: server.user_id.as_str(),
            project_id: server.project_id.as_str(),
            trace: None,
        },
    };
    tracing::info!(server = %server.id, port, request_id, "a server's port is gone; its guest loses the interface");
    let accepted = accept::action(tx, server, None, &start, Timestamp::now())?;
    Ok(accepted == Accepted::Yes)
}
