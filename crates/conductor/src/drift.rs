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
    /// Most ports that servers show are gone at once: that looks like a network service that has lost its data, and
    /// nothing is taken from guests because of it.
    doubted: bool,
    generation: i64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (server, port) = (self.server, &self.port);
        match self.gone {
            true => {
                write!(
                    f,
                    "server {server} shows port {port}, which is gone or not its own any more"
                )?;
                if self.doubted {
                    f.write_str("; as most ports are, it is left as it is")?;
                }
                Ok(())
            }
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

/// So many ports may be gone at once in any cloud.
const FEW: usize = 10;

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
                doubted: false,
                generation: server.generation,
            });
        }
    }
    let all: usize = shown.iter().map(|server| server.interfaces.len()).sum();
    let gone = found.iter().filter(|one| one.gone).count();
    if gone > FEW && gone > all / 2 {
        found.iter_mut().for_each(|one| one.doubted = one.gone);
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
    if let Some(one) = found.iter().find(|one| one.doubted) {
        tracing::error!(example = %one, "the network service does not know most of the ports that servers show");
    }
    let can_be_mended = |one: &&Difference| one.at_rest && !one.doubted;
    let at_rest: Vec<&Difference> = found.iter().filter(can_be_mended).collect();
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(count: usize) -> Vec<Shown> {
        let interface = |number| Interface {
            port_id: format!("port-{number}"),
            network_id: "net".to_owned(),
            network_name: "net".to_owned(),
            mac: String::new(),
            mtu: 1500,
            addresses: Vec::new(),
            preexisting: false,
            tag: None,
        };
        let server = |number| Shown {
            id: ServerId::random(),
            generation: 1,
            interfaces: vec![interface(number)],
            at_rest: true,
        };
        (0..count).map(server).collect()
    }

    fn bound(shown: &[Shown]) -> Vec<BoundPort> {
        let bound = |server: &Shown| BoundPort {
            id: server.interfaces[0].port_id.clone(),
            server: server.id,
            by_compute: true,
            addresses: Vec::new(),
        };
        shown.iter().map(bound).collect()
    }

    #[test]
    fn ports_that_are_gone_count_unless_most_are() {
        for (all, there, gone, doubted) in [
            (3, 3, 0, false),
            (3, 0, 3, false),
            (40, 20, 20, false),
            (40, 19, 21, true),
            (10, 0, 10, false),
            (11, 0, 11, true),
        ] {
            let shown = shown(all);
            let found = compare(&shown, &bound(&shown[..there]));
            assert_eq!(found.len(), gone, "{there} of {all}");
            let alike = found.iter().all(|one| one.gone && one.doubted == doubted);
            assert!(alike, "{there} of {all}: {found:?}");
        }
    }
}
