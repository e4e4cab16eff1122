//! Ports of servers: made or bound when a server is built, removed or given back when it goes.

use super::overtaken::{Standing, standing};
use crate::neighbours::{Neighbours, retry};
use clients::{NewPort, PortRecord, Refused};
use db::instances::{Address, Instance, Interface};
use journal::{Context, Failure, StepError};
use std::time::Duration;
use types::server::{WantedInterface, WantedNetworks};
use types::{HostName, ServerId};

/// The ports of a server that was given them.
#[derive(Default)]
pub(super) struct Made {
    pub(super) interfaces: Vec<Interface>,
    /// There are ports, and none has a security group: so it is in networks without port security.
    pub(super) no_groups: bool,
}

/// Gives the server the ports it asked for, on this host. Ports that it has already are kept, so a repeat makes none
/// twice.
///
/// A deletion may take over while a port is being made. So this goes to its end even when the run is stopped, and
/// when it finds then that it was overtaken it removes what it made and nobody uses.
pub(super) async fn ensure(
    with: &Neighbours,
    cx: &Context,
    instance: &Instance,
    host: &HostName,
) -> Result<Made, StepError> {
    let (with, instance, host) = (with.clone(), instance.clone(), host.clone());
    if instance.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    if matches!(instance.networks, WantedNetworks::None) {
        return Ok(Made::default());
    }
    let cx = cx.clone();
    let making = tokio::spawn(async move {
        let mut made = Vec::new();
        let interfaces = wanted(&with, &instance, &host, &mut made).await;
        let used = match standing(&with, &cx).await {
            Standing::Own => return interfaces,
            Standing::Gone => Vec::new(),
            Standing::AtRest(now) => now.network_info,
        };
        for port in made {
            if !used.iter().any(|interface| interface.port_id == port) {
                let token = with.token().await?;
                with.networks
                    .delete_port(&token, &port)
                    .await
                    .map_err(retry)?;
            }
        }
        Err(StepError::Fenced)
    });
    making
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))
}

/// `made` becomes the ids of the ports that were not there before.
async fn wanted(
    with: &Neighbours,
    instance: &Instance,
    host: &HostName,
    made: &mut Vec<String>,
) -> Result<Made, StepError> {
    let wanted = match &instance.networks {
        WantedNetworks::None => return Ok(Made::default()),
        WantedNetworks::These(wanted) => wanted.clone(),
        WantedNetworks::Auto => automatic(with, instance).await?,
    };
    let token = with.token().await?;
    let mut present = with
        .networks
        .ports_of_server(&token, instance.id)
        .await
        .map_err(retry)?;
    // Those that it has already are no leftovers of an earlier try.
    present.retain(|port| !has(instance, &port.id));
    let owner = format!(
        "compute:{}",
        instance
            .availability_zone
            .as_deref()
            .unwrap_or(with.view.default_zone())
    );
    let groups: Vec<String> = match instance.security_groups.as_slice() {
        // The network service's to give: to a port without port security it gives none, and refuses one.
        [only] if only.name == "default" => Vec::new(),
        groups => groups.iter().map(|group| group.id.clone()).collect(),
    };
    let mut interfaces = Vec::new();
    let mut no_groups = !wanted.is_empty();
    for one in &wanted {
        let (port, preexisting, tag) = match one {
            WantedInterface::Port { port_id, tag } => {
                let bound = with
                    .networks
                    .bind_port(&token, port_id, &instance.id.to_string(), &owner, &host.0)
                    .await;
                (
                    bound.map_err(retry)?.map_err(|reason| refused(&reason))?,
                    true,
                    tag,
                )
            }
            WantedInterface::Network {
                network_id,
                fixed_ip,
                tag,
            } => {
                let matches = |port: &PortRecord| {
                    port.network_id == *network_id
                        && fixed_ip.as_ref().is_none_or(|ip| {
                            port.fixed_ips.iter().any(|(_, address)| address == ip)
                        })
                };
                let port = match present.iter().position(matches) {
                    Some(index) => {
                        rebind(
                            with,
                            &token,
                            present.swap_remove(index),
                            instance,
                            &owner,
                            host,
                        )
                        .await?
                    }
                    None => {
                        let new = NewPort {
                            network_id,
                            fixed_ip: fixed_ip.as_deref(),
                            project_id: instance.project_id.as_str(),
                            server: instance.id,
                            device_owner: &owner,
                            host: &host.0,
                            security_groups: &groups,
                            hostname: &instance.hostname,
                        };
                        let port = with
                            .networks
                            .create_port(&token, &new)
                            .await
                            .map_err(retry)?
                            .map_err(|refused| not_made(&refused, &new))?;
                        made.push(port.id.clone());
                        port
                    }
                };
                (port, false, tag)
            }
        };
        no_groups &= port.security_groups.is_empty();
        interfaces.push(interface(with, &token, port, preexisting, tag.clone()).await?);
    }
    Ok(Made {
        interfaces,
        no_groups,
    })
}

/// A port left by an earlier try on another host moves here.
async fn rebind(
    with: &Neighbours,
    token: &str,
    port: PortRecord,
    instance: &Instance,
    owner: &str,
    host: &HostName,
) -> Result<PortRecord, StepError> {
    if port.binding_host == host.0 {
        return Ok(port);
    }
    let bound = with
        .networks
        .bind_port(token, &port.id, &instance.id.to_string(), owner, &host.0)
        .await;
    bound.map_err(retry)?.map_err(|reason| refused(&reason))
}

/// Why a port could not be made. What the request itself is at fault for has Nova's status and words.
fn not_made(why: &Refused, new: &NewPort<'_>) -> StepError {
    let (network, address) = (new.network_id, new.fixed_ip.unwrap_or_default());
    let (code, words) = match why.kind.as_str() {
        "InvalidIpForNetwork" | "InvalidIpForSubnet" => (
            400,
            format!(
                "Invalid input received: Fixed IP {address} is not a valid ip address for network {network}."
            ),
        ),
        "IpAddressInUse" | "IpAddressAlreadyAllocated" => {
            (409, format!("Fixed IP {address} is already in use."))
        }
        "OverQuota" => (403, "Maximum number of ports exceeded".to_owned()),
        "IpAddressGenerationFailure" => (
            400,
            format!("No fixed IP addresses available for network: {network}"),
        ),
        _ => return refused(&why.words),
    };
    StepError::Fail(Failure::new(code, words))
}

fn refused(reason: &str) -> StepError {
    StepError::Fail(Failure::new(
        500,
        format!("The server's network could not be set up: {reason}"),
    ))
}

/// The one network a project can use; none is a server without interfaces, as in Nova.
async fn automatic(
    with: &Neighbours,
    instance: &Instance,
) -> Result<Vec<WantedInterface>, StepError> {
    let token = with.token().await?;
    let networks = with
        .networks
        .networks_for(&token, instance.project_id.as_str())
        .await
        .map_err(retry)?;
    match networks.as_slice() {
        [] => Ok(Vec::new()),
        [only] => Ok(vec![WantedInterface::Network {
            network_id: only.id.clone(),
            fixed_ip: None,
            tag: None,
        }]),
        _ => Err(StepError::Fail(Failure::new(
            409,
            "Multiple possible networks found, use a Network ID to be more specific.",
        ))),
    }
}

async fn interface(
    with: &Neighbours,
    token: &str,
    port: PortRecord,
    preexisting: bool,
    tag: Option<String>,
) -> Result<Interface, StepError> {
    let network = with
        .networks
        .network(token, &port.network_id)
        .await
        .map_err(retry)?;
    let (network_name, mtu) =
        network.map_or((String::new(), 1500), |network| (network.name, network.mtu));
    let addresses = port.fixed_ips.iter().map(|(_, ip)| Address {
        ip: ip.clone(),
        version: if ip.contains(':') { 6 } else { 4 },
        kind: "fixed".to_owned(),
    });
    Ok(Interface {
        addresses: addresses.collect(),
        port_id: port.id,
        network_id: port.network_id,
        network_name,
        mac: port.mac,
        mtu,
        preexisting,
        tag,
    })
}

/// Binds the ports that a server has to a host, and says how they are now. One that its owner deleted meanwhile is no
/// longer the server's. Repeatable.
pub(super) async fn bind_to(
    with: &Neighbours,
    instance: &Instance,
    host: &HostName,
) -> Result<Vec<Interface>, StepError> {
    bind_all(with, instance, &host.0).await
}

/// The ports of a server that moves are bound to its new host.
///
/// A deletion may take over meanwhile. So this goes to its end even when the run is stopped, and when it finds then that
/// the server goes it removes what the deletion may have removed before the binding; where another runner has ended the
/// task, it binds them to where the server is now.
pub(super) async fn follow(
    with: &Neighbours,
    cx: &Context,
    host: &HostName,
) -> Result<(), StepError> {
    let (with, cx, host) = (with.clone(), cx.clone(), host.clone());
    let server = super::instance(&with, &cx).await?;
    if server.task_id != Some(cx.task) {
        return Err(StepError::Fenced);
    }
    let binding = tokio::spawn(async move {
        let bound = bind_to(&with, &server, &host).await;
        match standing(&with, &cx).await {
            Standing::Own => return bound.map(drop),
            Standing::Gone => remove(&with, &server).await?,
            Standing::AtRest(now) => {
                if let Some(host) = &now.host {
                    bind_to(&with, &now, host).await?;
                }
            }
        }
        Err(StepError::Fenced)
    });
    binding
        .await
        .unwrap_or_else(|error| Err(StepError::Retry(error.to_string())))
}

/// Binds them to no host; they stay the server's. Repeatable.
pub(super) async fn unbind(with: &Neighbours, instance: &Instance) -> Result<(), StepError> {
    bind_all(with, instance, "").await.map(drop)
}

async fn bind_all(
    with: &Neighbours,
    instance: &Instance,
    host: &str,
) -> Result<Vec<Interface>, StepError> {
    let token = with.token().await?;
    let server = instance.id.to_string();
    let present = with.networks.ports_of_server(&token, instance.id).await;
    let present = present.map_err(retry)?;
    let mut bound = Vec::new();
    for known in &instance.network_info {
        let Some(port) = present.iter().find(|port| port.id == known.port_id) else {
            continue;
        };
        if port.binding_host != host {
            let owner = &port.device_owner;
            let binding = with
                .networks
                .bind_port(&token, &port.id, &server, owner, host);
            let binding = binding.await.map_err(retry)?;
            binding.map_err(|reason| refused(&reason))?;
        }
        bound.push(known.clone());
    }
    Ok(bound)
}

/// The host makes the server's ports ready, so that the guest finds its network there when it comes; they stay active
/// where they are. `false` when the network service cannot do that. A server that is deleted meanwhile leaves nothing:
/// its ports go with their bindings, and one that is given back is refused another one.
pub(super) async fn make_ready(
    with: &Neighbours,
    instance: &Instance,
    host: &HostName,
) -> Result<bool, StepError> {
    let token = with.token().await?;
    let networks = &with.networks;
    if !networks.binds_to_several(&token).await.map_err(retry)? {
        return Ok(false);
    }
    for known in &instance.network_info {
        let ready = networks.make_ready(&token, &known.port_id, &host.0).await;
        ready.map_err(retry)?.map_err(|reason| refused(&reason))?;
    }
    Ok(true)
}

/// The host need not have the server's ports ready any more. Repeatable.
pub(super) async fn make_unready(
    with: &Neighbours,
    instance: &Instance,
    host: &HostName,
) -> Result<(), StepError> {
    let token = with.token().await?;
    for known in &instance.network_info {
        let gone = with
            .networks
            .make_unready(&token, &known.port_id, &host.0)
            .await;
        gone.map_err(retry)?;
    }
    Ok(())
}

/// The server's ports are active on the host that has made them ready, and the old one has nothing to do with them any
/// more. One that is not ready there is bound to it. Repeatable.
pub(super) async fn activate(
    with: &Neighbours,
    instance: &Instance,
    old: Option<&HostName>,
    host: &HostName,
) -> Result<(), StepError> {
    let token = with.token().await?;
    let present = with.networks.ports_of_server(&token, instance.id).await;
    for port in present.map_err(retry)? {
        if port.binding_host != host.0 && has(instance, &port.id) {
            let active = with.networks.activate(&token, &port.id, &host.0).await;
            active.map_err(retry)?;
        }
    }
    bind_to(with, instance, host).await?;
    match old {
        Some(old) => make_unready(with, instance, old).await,
        None => Ok(()),
    }
}

/// Waits until the network agent has wired all of the server's ports.
pub(super) async fn plugged(with: &Neighbours, cx: &Context) -> Result<(), StepError> {
    let mut pause = Duration::from_millis(5);
    while !wired(with, cx.server).await? {
        if tokio::time::Instant::now() >= cx.until {
            return Err(StepError::Fail(Failure::new(
                500,
                "The network agent did not wire the server's ports in time.",
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
    Ok(())
}

/// Whether the network agent has wired all of the server's ports.
async fn wired(with: &Neighbours, server: ServerId) -> Result<bool, StepError> {
    let token = with.token().await?;
    let ports = with
        .networks
        .ports_of_server(&token, server)
        .await
        .map_err(retry)?;
    Ok(ports.iter().all(|port| port.status == "ACTIVE"))
}

fn has(instance: &Instance, port: &str) -> bool {
    let mut interfaces = instance.network_info.iter();
    interfaces.any(|interface| interface.port_id == port)
}

/// Removes what an attachment made or bound and the server does not have. Repeatable.
pub(super) async fn remove_strays(with: &Neighbours, instance: &Instance) -> Result<(), StepError> {
    let token = with.token().await?;
    let ports = with.networks.ports_of_server(&token, instance.id).await;
    for port in ports.map_err(retry)? {
        if !has(instance, &port.id) {
            release(with, &token, instance, &port.id).await?;
        }
    }
    Ok(())
}

/// Deletes a port, or gives it back when it was given.
pub(super) async fn release(
    with: &Neighbours,
    token: &str,
    instance: &Instance,
    port: &str,
) -> Result<(), StepError> {
    let given = match &instance.networks {
        WantedNetworks::These(wanted) => {
            wanted.iter().filter_map(given_port).any(|one| one == port)
        }
        _ => false,
    };
    if given {
        // A port that is gone meanwhile needs nothing more.
        let taken_back = with.networks.bind_port(token, port, "", "", "").await;
        return taken_back.map(drop).map_err(retry);
    }
    with.networks.delete_port(token, port).await.map_err(retry)
}

/// The same with a port that was seen to be left of a deleted server, unless it is somebody else's by now; whether it was
/// still so. Repeatable.
pub(crate) async fn release_left(
    with: &Neighbours,
    instance: &Instance,
    port: &str,
) -> Result<bool, StepError> {
    let token = with.token().await?;
    let its = with.networks.ports_of_server(&token, instance.id).await;
    if !its.map_err(retry)?.iter().any(|one| one.id == port) {
        return Ok(false);
    }
    release(with, &token, instance, port).await?;
    Ok(true)
}

/// Removes the ports made for the server and gives back those that it was given. Repeatable.
pub(super) async fn remove(with: &Neighbours, instance: &Instance) -> Result<(), StepError> {
    let token = with.token().await?;
    let ports = with.networks.ports_of_server(&token, instance.id).await;
    for port in ports.map_err(retry)? {
        release(with, &token, instance, &port.id).await?;
    }
    Ok(())
}

fn given_port(wanted: &WantedInterface) -> Option<&str> {
    match wanted {
        WantedInterface::Port { port_id, .. } => Some(port_id),
        WantedInterface::Network { .. } => None,
    }
}
