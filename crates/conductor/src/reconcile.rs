//! Now and then: what should not be as it is, is mended. The same as `kilonova manage audit --fix`, and what the network
//! and volume services still hold for servers that are deleted.

use crate::flows::ports;
use crate::neighbours::Neighbours;
use bus::{Bell, Bus};
use clients::volumes::Scope;
use db::instances::Instance;
use db::repair::{self, Finding};
use journal::StepError;
use std::collections::BTreeSet;
use std::time::Duration;
use types::{HostName, ServerId, Timestamp};

/// Volumes are looked at in projects that have deleted a server within this time.
const RECENTLY: Duration = Duration::from_secs(24 * 3600);

/// Looks and mends; returns how many things were mended. Repeatable by any number of processes.
///
/// # Errors
/// The database or a neighbour does not answer; call again later.
pub async fn reconcile(with: &Neighbours, bus: &Bus) -> Result<usize, StepError> {
    let mended = mend(with, bus).await?;
    let ports = release_ports(with).await?;
    let attachments = release_attachments(with).await?;
    Ok(mended + ports + attachments)
}

/// Looking comes first: it keeps nobody from writing.
async fn mend(with: &Neighbours, bus: &Bus) -> Result<usize, sql::Error> {
    let found: Vec<Finding> = with.store.read(repair::audit).await?;
    if !found.iter().any(Finding::can_be_mended) {
        for finding in &found {
            tracing::warn!(%finding, "not as it should be, and not for this program to mend");
        }
        return Ok(0);
    }
    let mending = with.store.write(|tx| -> Result<_, sql::Error> {
        let found = repair::audit(tx)?;
        for finding in &found {
            repair::mend(tx, finding, Timestamp::now())?;
        }
        Ok(found)
    });
    let found = mending.await?;
    let mut hosts: BTreeSet<HostName> = BTreeSet::new();
    for finding in &found {
        tracing::warn!(%finding, "not as it should be");
        if let Finding::LeftOnHost(host, _) = finding {
            hosts.insert(host.clone());
        }
    }
    for host in hosts {
        bus.ring(Bell::Host(host));
    }
    Ok(found.iter().filter(|one| one.can_be_mended()).count())
}

/// Those of the servers that are deleted. Ones that this cloud has never had may be another's.
async fn deleted(
    with: &Neighbours,
    servers: BTreeSet<ServerId>,
) -> Result<Vec<Instance>, sql::Error> {
    let servers: Vec<ServerId> = servers.into_iter().collect();
    with.store
        .read(move |tx| db::instances::deleted_among(tx, &servers))
        .await
}

async fn release_ports(with: &Neighbours) -> Result<usize, StepError> {
    let token = with.token().await?;
    let bound = with.networks.ports_of_servers(&token).await;
    let bound = bound.map_err(crate::neighbours::retry)?;
    let servers = bound.iter().map(|(_, server)| *server).collect();
    let mut count = 0;
    for server in deleted(with, servers).await? {
        for (port, _) in bound.iter().filter(|(_, of)| *of == server.id) {
            tracing::warn!(port, server = %server.id, "a port is left of a server that is deleted");
            ports::release(with, &token, &server, port).await?;
            count += 1;
        }
    }
    Ok(count)
}

async fn release_attachments(with: &Neighbours) -> Result<usize, StepError> {
    let since = Timestamp::now().minus(RECENTLY);
    let reading = with
        .store
        .read(move |tx| db::instances::projects_of_deleted(tx, since));
    let projects: Vec<String> = reading.await?;
    let retry = crate::neighbours::retry;
    let mut count = 0;
    for project in projects {
        let token = with.tokens.token_in(&project).await.map_err(retry)?;
        let scope = Scope::new(token, project);
        let there = with.volumes.attachments(&scope).await.map_err(retry)?;
        let holder = |server: &str| server.parse::<ServerId>().ok();
        let servers = there.iter().filter_map(|one| holder(&one.server)).collect();
        for server in deleted(with, servers).await? {
            for one in there
                .iter()
                .filter(|one| holder(&one.server) == Some(server.id))
            {
                tracing::warn!(volume = one.volume_id, server = %server.id, "a volume is left attached to a server that is deleted");
                if let Err(refused) = with.volumes.release(&scope, &one.id).await.map_err(retry)? {
                    tracing::warn!(
                        volume = one.volume_id,
                        reason = refused.message,
                        "it cannot be given back"
                    );
                    continue;
                }
                count += 1;
            }
        }
    }
    Ok(count)
}
