//! From the rows of the database to [`HostState`]s.

use crate::{Aggregate, Down, HostState};
use db::hosts::{Node, Service};
use db::placement::Inventory;
use std::collections::{BTreeMap, BTreeSet};
use types::{HostName, Timestamp};
use uuid::Uuid;

/// What the tables say of the hosts, read in one transaction.
#[derive(Debug, Default)]
pub struct Rows {
    /// All compute nodes.
    pub nodes: Vec<Node>,
    /// All services.
    pub services: Vec<Service>,
    /// The inventories of all providers.
    pub inventories: Vec<(Uuid, Inventory)>,
    /// How many servers each host has.
    pub servers: Vec<(HostName, i64)>,
    /// With how many of them something is going on (a task state).
    pub busy: Vec<(HostName, i64)>,
    /// The host aggregates with their hosts.
    pub aggregates: Vec<(Aggregate, Vec<HostName>)>,
}

impl Rows {
    /// Reads them: a fixed number of queries.
    ///
    /// # Errors
    /// The database's.
    pub fn read(tx: &mut sql::Tx<'_>) -> Result<Self, sql::Error> {
        let aggregates = db::aggregates::all(tx)?.into_iter().map(|aggregate| {
            let hosts = aggregate.hosts.iter().cloned().map(HostName).collect();
            let known = Aggregate {
                name: aggregate.name,
                metadata: aggregate.metadata,
            };
            (known, hosts)
        });
        Ok(Self {
            aggregates: aggregates.collect(),
            nodes: db::hosts::nodes(tx)?,
            services: db::hosts::services(tx)?,
            inventories: db::placement::all_inventories(tx)?,
            servers: db::hosts::servers_per_host(tx)?,
            busy: db::hosts::busy_per_host(tx)?,
        })
    }
}

fn by_host(counts: Vec<(HostName, i64)>) -> BTreeMap<HostName, u64> {
    let unsigned = |(host, count)| (host, u64::try_from(count).unwrap_or_default());
    counts.into_iter().map(unsigned).collect()
}

/// Why a host that is not up is down.
fn why_down(node: &Node, service: Option<&Service>) -> Down {
    let said = node.facts.problem.as_ref();
    match service {
        Some(service) if service.forced_down => Down::Forced,
        Some(service) => service
            .problem
            .as_ref()
            .or(said)
            .map_or(Down::Silent, |problem| Down::Unwell(problem.clone())),
        None => Down::Silent,
    }
}

/// Puts together what the tables say of the hosts.
///
/// A service is up while its last beat is younger than `down_after_micros`. Hosts in no aggregate with a zone are in
/// `default_zone`.
pub fn host_states(
    rows: Rows,
    default_zone: &str,
    now: Timestamp,
    down_after_micros: i64,
) -> Vec<HostState> {
    let Rows {
        nodes,
        services,
        inventories,
        servers,
        busy,
        aggregates,
    } = rows;
    let mut inventory_of: BTreeMap<Uuid, BTreeMap<String, Inventory>> = BTreeMap::new();
    for (provider, inventory) in inventories {
        inventory_of
            .entry(provider)
            .or_default()
            .insert(inventory.resource_class.clone(), inventory);
    }
    let (servers, busy) = (by_host(servers), by_host(busy));
    let computes = services
        .iter()
        .filter(|service| service.binary == "nova-compute");
    let computes: BTreeMap<&HostName, &Service> =
        computes.map(|service| (&service.host, service)).collect();
    let state = |node: Node| {
        let service = computes.get(&node.host);
        let aggregates: Vec<Aggregate> = aggregates
            .iter()
            .filter(|(_, hosts)| hosts.contains(&node.host))
            .map(|(aggregate, _)| aggregate.clone())
            .collect();
        let zone = aggregates
            .iter()
            .find_map(|aggregate| aggregate.metadata.get("availability_zone"));
        let zone = zone.map_or(default_zone, String::as_str).to_owned();
        let count = |of: &BTreeMap<HostName, u64>| of.get(&node.host).copied().unwrap_or_default();
        let (counted, io_ops) = (count(&servers), count(&busy));
        let disabled = service.is_none_or(|service| service.disabled);
        HostState {
            traits: node.traits(disabled),
            up: node.facts.healthy
                && service.is_some_and(|service| service.is_up(now, down_after_micros)),
            down: why_down(&node, service.copied()),
            // A node whose service is gone takes nothing new.
            disabled,
            node: node.uuid,
            host: node.host,
            hypervisor_hostname: node.hypervisor_hostname,
            hypervisor_type: node.facts.hypervisor_type,
            hypervisor_version: node.facts.hypervisor_version,
            host_ip: node.facts.host_ip,
            cpu_info: node.facts.cpu_info,
            zone,
            aggregates,
            inventory: inventory_of.remove(&node.uuid.0).unwrap_or_default(),
            counted,
            servers: BTreeSet::new(),
            io_ops,
            failed_builds: 0,
            supported: node.facts.supported,
        }
    };
    nodes.into_iter().map(state).collect()
}
