//! The hosts as schedulers see them: in memory, renewed from the database, never the authority. A claim in the
//! database confirms every choice.

use db::hosts::{Node, Service};
use db::instances::Place;
use db::placement::Inventory;
use sql::Store;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use types::server::Resources;
use types::{HostName, NodeId, Timestamp};
use uuid::Uuid;

/// The zone of hosts that no aggregate puts elsewhere (Nova's `default_availability_zone`).
pub const DEFAULT_ZONE: &str = "nova";

/// One host.
#[derive(Clone, Debug)]
pub struct HostEntry {
    /// The host, its node, its zone.
    pub place: Place,
    /// Whether its service is up.
    pub up: bool,
    /// Whether it takes new servers.
    pub enabled: bool,
    /// Capacity and use by resource class.
    pub amounts: HashMap<String, Amount>,
}

/// What a host has of one resource class.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// What may be given out.
    pub capacity: u64,
    /// What is given out.
    pub used: u64,
    /// The most for one server.
    pub max_unit: u64,
}

/// The hosts, renewed now and then.
pub struct View {
    store: Store,
    down_after: Duration,
    hosts: RwLock<Arc<Vec<HostEntry>>>,
}

impl View {
    /// An empty view; a service that did not beat for `down_after` is down.
    pub fn new(store: Store, down_after: Duration) -> Self {
        Self {
            store,
            down_after,
            hosts: RwLock::default(),
        }
    }

    /// The hosts as last seen.
    pub fn hosts(&self) -> Arc<Vec<HostEntry>> {
        Arc::clone(&self.hosts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this host's service is up.
    pub fn is_up(&self, host: &HostName) -> bool {
        self.hosts()
            .iter()
            .any(|entry| entry.place.host == *host && entry.up)
    }

    /// Reads the hosts anew: three queries.
    pub async fn refresh(&self) -> Result<(), sql::Error> {
        let read = |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
            Ok((
                db::hosts::nodes(tx)?,
                db::hosts::services(tx)?,
                db::placement::all_inventories(tx)?,
            ))
        };
        let (nodes, services, inventories) = self.store.read(read).await?;
        let down_after = i64::try_from(self.down_after.as_micros()).unwrap_or(i64::MAX);
        let entries = assemble(
            &nodes,
            &services,
            &inventories,
            Timestamp::now(),
            down_after,
        );
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        Ok(())
    }

    /// Notes what a claim has taken, so that the next choice knows before the next refresh.
    pub fn note_claim(&self, node: NodeId, taken: &Resources) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        for entry in Arc::make_mut(&mut hosts)
            .iter_mut()
            .filter(|entry| entry.place.node_id == node)
        {
            for (class, amount) in taken.by_class() {
                if let Some(held) = entry.amounts.get_mut(class) {
                    held.used = held.used.saturating_add(amount);
                }
            }
        }
    }
}

fn assemble(
    nodes: &[Node],
    services: &[Service],
    inventories: &[(Uuid, Inventory)],
    now: Timestamp,
    down_after: i64,
) -> Vec<HostEntry> {
    let mut by_node: HashMap<Uuid, HashMap<String, Amount>> = HashMap::new();
    for (provider, inventory) in inventories {
        let amount = Amount {
            capacity: inventory.capacity(),
            used: inventory.used,
            max_unit: inventory.max_unit,
        };
        by_node
            .entry(*provider)
            .or_default()
            .insert(inventory.resource_class.clone(), amount);
    }
    let entry = |node: &Node| {
        let service = services
            .iter()
            .find(|service| service.host == node.host && service.binary == "nova-compute")?;
        Some(HostEntry {
            place: Place {
                host: node.host.clone(),
                node_id: node.uuid,
                node: node.hypervisor_hostname.clone(),
                zone: DEFAULT_ZONE.to_owned(),
            },
            up: service.is_up(now, down_after),
            enabled: !service.disabled,
            amounts: by_node.remove(&node.uuid.0).unwrap_or_default(),
        })
    };
    nodes.iter().filter_map(entry).collect()
}

/// What a server asks of a host.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Resources.
    pub resources: Resources,
    /// Only this zone.
    pub zone: Option<String>,
    /// Only this host.
    pub host: Option<String>,
    /// Not these: they were tried.
    pub not: Vec<HostName>,
}

/// Candidates, best first, or why there is none. Pure.
pub fn choose(hosts: &[HostEntry], wish: &Wish) -> Result<Vec<Place>, String> {
    let mut reasons: Vec<(String, usize)> = Vec::new();
    let mut fitting: Vec<(&HostEntry, u64)> = Vec::new();
    for entry in hosts {
        match refusal(entry, wish) {
            None => fitting.push((entry, free(entry, "MEMORY_MB"))),
            Some(reason) => match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason, 1)),
            },
        }
    }
    if fitting.is_empty() {
        return Err(explain(hosts.len(), &reasons));
    }
    fitting.sort_by(|(a, free_a), (b, free_b)| {
        free_b
            .cmp(free_a)
            .then_with(|| a.place.host.cmp(&b.place.host))
    });
    Ok(fitting
        .into_iter()
        .map(|(entry, _)| entry.place.clone())
        .collect())
}

fn free(entry: &HostEntry, class: &str) -> u64 {
    entry
        .amounts
        .get(class)
        .map_or(0, |amount| amount.capacity.saturating_sub(amount.used))
}

fn refusal(entry: &HostEntry, wish: &Wish) -> Option<String> {
    if wish.not.contains(&entry.place.host) {
        return Some("failed to build it".to_owned());
    }
    if wish
        .host
        .as_ref()
        .is_some_and(|host| *host != entry.place.host.0 && *host != entry.place.node)
    {
        return Some("not the host asked for".to_owned());
    }
    if wish
        .zone
        .as_ref()
        .is_some_and(|zone| *zone != entry.place.zone)
    {
        return Some(format!(
            "not in availability zone {}",
            wish.zone.as_deref().unwrap_or_default()
        ));
    }
    if !entry.up {
        return Some("down".to_owned());
    }
    if !entry.enabled {
        return Some("disabled".to_owned());
    }
    for (class, amount) in wish.resources.by_class() {
        let fits = entry
            .amounts
            .get(class)
            .is_some_and(|held| held.used + amount <= held.capacity && amount <= held.max_unit);
        if !fits {
            return Some(format!("not enough {class} ({amount} needed)"));
        }
    }
    None
}

fn explain(considered: usize, reasons: &[(String, usize)]) -> String {
    if considered == 0 {
        return "No valid host was found. No compute host has reported yet.".to_owned();
    }
    let parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    format!(
        "No valid host was found. {considered} hosts considered: {}.",
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, free_memory: u64, up: bool) -> HostEntry {
        let amount = |capacity| Amount {
            capacity,
            used: 0,
            max_unit: capacity,
        };
        HostEntry {
            place: Place {
                host: name.into(),
                node_id: NodeId::random(),
                node: name.to_owned(),
                zone: DEFAULT_ZONE.to_owned(),
            },
            up,
            enabled: true,
            amounts: [("VCPU", 8), ("MEMORY_MB", free_memory), ("DISK_GB", 100)]
                .into_iter()
                .map(|(class, capacity)| (class.to_owned(), amount(capacity)))
                .collect(),
        }
    }

    #[test]
    fn the_freest_host_first_and_refusals_counted() {
        let hosts = [
            host("a", 1000, true),
            host("b", 4000, true),
            host("c", 9000, false),
        ];
        let wish = |memory_mb| Wish {
            resources: Resources {
                vcpus: 1,
                memory_mb,
                disk_gb: 1,
            },
            ..Wish::default()
        };
        let chosen: Vec<String> = choose(&hosts, &wish(512))
            .into_iter()
            .flatten()
            .map(|place| place.node)
            .collect();
        assert_eq!(chosen, ["b", "a"]);
        let refusal = choose(&hosts, &wish(5000)).err();
        let text = "No valid host was found. 3 hosts considered: 2 not enough MEMORY_MB (5000 needed), 1 down.";
        assert_eq!(refusal.as_deref(), Some(text));
    }
}
