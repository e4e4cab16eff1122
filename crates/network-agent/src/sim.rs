//! An agent that touches nothing: for simulated hosts it says that everything was realised.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::network_wanted::{HostReport, HostWanted, Looked, ObjectStatus, Status};
use uuid::Uuid;

use crate::agent::{RETRY, agents, figures, heartbeat};
use crate::source::WantedSource;

/// The network agent of a simulated host.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Runs until `stop`.
    pub async fn run(source: Arc<dyn WantedSource>, every: Duration, stop: CancellationToken) {
        let (figures, shown) = watch::channel(BTreeMap::new());
        let beats = tokio::spawn(heartbeat(Arc::clone(&source), every, shown, stop.clone()));
        stop.run_until_cancelled(work(source, figures)).await;
        beats.abort();
    }
}

async fn work(source: Arc<dyn WantedSource>, shown: watch::Sender<BTreeMap<String, u64>>) {
    let mut known = HostWanted::default();
    // What the service has been told, so that a report names only what is new: the cost of a new
    // guest must not grow with the number of guests.
    let mut told: HashMap<Uuid, Status> = HashMap::new();
    let mut pause = RETRY.0;
    loop {
        match source.wanted(known.revision).await {
            Ok(None) => continue,
            // The same again, from a service that does not wait.
            Ok(Some(news)) if news == known => {
                tokio::time::sleep(RETRY.0).await;
                continue;
            }
            Ok(Some(news)) => {
                forget_changed(&news, &mut told);
                known.update(news);
            }
            Err(error) => {
                tracing::debug!(%error, "simulated network agent cannot learn the wanted state");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                continue;
            }
        }
        shown.send_replace(figures(&known));
        let report = report(&known, &mut told);
        match source.report(report).await {
            Ok(()) => pause = RETRY.0,
            Err(error) => {
                tracing::debug!(%error, "the network service did not take a simulated report");
                told.clear();
                known.revision = 0;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// What is named in partial news has changed: a port that was taken away and given back between two answers looks as it
/// did before, and the service waits to hear of it again.
fn forget_changed(news: &HostWanted, told: &mut HashMap<Uuid, Status>) {
    if news.full {
        told.clear();
        return;
    }
    for port in &news.ports {
        told.remove(&port.id);
    }
}

fn report(wanted: &HostWanted, told: &mut HashMap<Uuid, Status>) -> HostReport {
    let mut now: HashMap<Uuid, Status> = HashMap::with_capacity(told.len() + 1);
    let mut news = |id: Uuid, up: bool| {
        let status = if up { Status::Active } else { Status::Down };
        now.insert(id, status);
        (told.get(&id) != Some(&status)).then_some(ObjectStatus {
            id,
            status,
            detail: None,
        })
    };
    let mut ports: Vec<ObjectStatus> = Vec::new();
    ports.extend(
        wanted
            .ports
            .iter()
            .filter_map(|port| news(port.id, port.admin_state_up)),
    );
    ports.extend(
        wanted
            .networks
            .iter()
            .filter_map(|n| n.dhcp.as_ref())
            .filter_map(|dhcp| news(dhcp.port_id, true)),
    );
    for router in &wanted.routers {
        let interfaces = router.interfaces.iter().map(|interface| interface.port_id);
        let all = interfaces.chain(router.gateway.iter().map(|gateway| gateway.port_id));
        ports.extend(all.filter_map(|port| news(port, true)));
    }
    let routers = wanted
        .routers
        .iter()
        .filter_map(|r| news(r.id, r.admin_state_up))
        .collect();
    let floating_ips = wanted
        .routers
        .iter()
        .flat_map(|r| &r.floating_ips)
        .filter_map(|f| news(f.id, true))
        .collect();
    *told = now;
    HostReport {
        revision: wanted.revision,
        partial: true,
        ports,
        routers,
        floating_ips,
        agents: agents(&figures(wanted)),
        // What is not made is not lost.
        look: wanted.look.map(|look| Looked {
            number: look.number,
            differences: Vec::new(),
        }),
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
