//! The view of all hosts in memory.

use crate::HostState;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use types::{NodeId, ServerId};

type Map = BTreeMap<NodeId, Arc<HostState>>;

/// A server that came to a node or left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageChange {
    /// The node.
    pub node: NodeId,
    /// The server.
    pub server: ServerId,
    /// What it holds, by resource class.
    pub resources: BTreeMap<String, u64>,
    /// Whether it came.
    pub added: bool,
}

/// All hosts as they were last read. Readers take a snapshot and are never in a writer's way.
#[derive(Debug, Default)]
pub struct Hosts {
    current: RwLock<Arc<Map>>,
}

impl Hosts {
    /// No hosts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hosts as they are known now; what happens later does not change it.
    pub fn snapshot(&self) -> Arc<Map> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what was just read from the database in the place of all that was known.
    pub fn replace(&self, hosts: impl IntoIterator<Item = HostState>) {
        let map: Map = hosts
            .into_iter()
            .map(|host| (host.node, Arc::new(host)))
            .collect();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    /// Notes a change that this process made itself, so that its next decision knows it before the next
    /// [`Hosts::replace`]. A node that is not known is left out.
    pub fn update_usage(&self, change: &UsageChange) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !current.contains_key(&change.node) {
            return;
        }
        if let Some(host) = Arc::make_mut(&mut current).get_mut(&change.node) {
            let host = Arc::make_mut(host);
            if change.added {
                host.consume(change.server, &change.resources);
            } else {
                host.give_back(change.server, &change.resources);
            }
        }
    }
}
