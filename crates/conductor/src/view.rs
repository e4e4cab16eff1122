//! The hosts as the scheduler sees them: in memory, renewed from the database, never the authority. A claim in the
//! database confirms every choice.

use crate::pulse::Pulses;
use db::instances::Place;
use scheduler::{Candidate, HostState, Hosts, Refusal, Request, Rows, Settings, UsageChange};
use sql::Store;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use types::{HostName, NodeId, ServerId, Timestamp};

/// The hosts, renewed now and then.
pub struct View {
    store: Store,
    down_after: Duration,
    settings: Settings,
    hosts: Hosts,
    /// When the last reading began.
    renewed: Mutex<Option<Instant>>,
    /// Those who find it too old wait for one of them to renew it.
    renewing: tokio::sync::Mutex<()>,
    pulses: Mutex<Pulses>,
}

impl View {
    /// An empty view; a service that did not beat for `down_after` is down.
    pub fn new(store: Store, down_after: Duration) -> Self {
        Self::deciding_by(Settings::default(), store, down_after)
    }

    /// The same with other filters and weights than Nova's.
    pub fn deciding_by(settings: Settings, store: Store, down_after: Duration) -> Self {
        Self {
            store,
            down_after,
            settings,
            hosts: Hosts::new(),
            renewed: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            pulses: Mutex::default(),
        }
    }

    /// The zone of hosts that no aggregate puts elsewhere.
    pub fn default_zone(&self) -> &str {
        &self.settings.default_zone
    }

    /// Whether this host's service is up.
    pub fn is_up(&self, host: &HostName) -> bool {
        self.hosts
            .snapshot()
            .values()
            .any(|state| state.host == *host && state.up)
    }

    /// What is known of a host, if it has a compute node.
    pub fn host(&self, host: &HostName) -> Option<Arc<HostState>> {
        let snapshot = self.hosts.snapshot();
        snapshot.values().find(|state| state.host == *host).cloned()
    }

    fn is_younger_than(&self, age: Duration) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|at| at.elapsed() < age)
    }

    /// Reads the hosts anew unless that was done within a twelfth of the time after which a host is down. The heartbeats
    /// of hosts renew the view, too; but they may all go to another conductor, and hosts that died have none.
    ///
    /// # Errors
    /// The database's.
    pub async fn renew(&self) -> Result<(), sql::Error> {
        let enough = self.down_after / 12;
        if self.is_younger_than(enough) {
            return Ok(());
        }
        let _turn = self.renewing.lock().await;
        if self.is_younger_than(enough) {
            return Ok(());
        }
        self.read().await
    }

    /// Reads the hosts anew, or waits for somebody who begins to meanwhile: however many ask at once, they are read twice.
    ///
    /// # Errors
    /// The database's.
    pub async fn refresh(&self) -> Result<(), sql::Error> {
        let asked = Instant::now();
        let _turn = self.renewing.lock().await;
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.is_some_and(|began| began > asked) {
            return Ok(());
        }
        self.read().await
    }

    /// A fixed number of queries.
    async fn read(&self) -> Result<(), sql::Error> {
        let began = Instant::now();
        let mut rows = self.store.read(Rows::read).await?;
        let down_after = i64::try_from(self.down_after.as_micros()).unwrap_or(i64::MAX);
        let now = Timestamp::now();
        self.pulses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .mark(&mut rows.services, (now, Instant::now()), self.down_after);
        let states = scheduler::host_states(rows, self.default_zone(), now, down_after);
        self.hosts.replace(states);
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        Ok(())
    }

    /// Places for a server, best first, or why there is none.
    ///
    /// # Errors
    /// No host passes.
    pub fn choose(&self, request: &Request) -> Result<Vec<Place>, Refusal> {
        let snapshot = self.hosts.snapshot();
        let hosts = snapshot.values().map(AsRef::as_ref);
        let chosen = scheduler::select(hosts, request, &self.settings, &mut rand::rng())?;
        Ok(chosen.into_iter().map(place).collect())
    }

    /// Notes what a claim has taken, so that the next choice knows before the next refresh.
    pub fn note_claim(&self, node: NodeId, server: ServerId, request: &Request) {
        self.hosts.update_usage(&UsageChange {
            node,
            server,
            resources: request.resources.clone(),
            added: true,
        });
    }
}

fn place(candidate: Candidate) -> Place {
    Place {
        host: candidate.host,
        node_id: candidate.node,
        node: candidate.hypervisor_hostname,
        zone: candidate.zone,
    }
}
