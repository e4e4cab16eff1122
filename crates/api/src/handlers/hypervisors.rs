//! `/os-hypervisors`: the hosts that run servers.

use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::mv;
use crate::schemas::formats;
use db::hosts::{Node, Service};
use db::placement::Inventory;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use types::agent::Question;
use types::{HostName, NodeId, ServerId, Timestamp};
use uuid::Uuid;

/// How long a host may take to say how long it runs.
const UPTIME_PATIENCE: Duration = Duration::from_secs(5);

/// Everything the views need, read at once.
struct Hosts {
    nodes: Vec<Node>,
    services: Vec<Service>,
    inventories: HashMap<Uuid, Vec<Inventory>>,
    servers: HashMap<String, i64>,
    /// How long hosts run, where they were asked.
    uptimes: HashMap<NodeId, String>,
}

async fn read(call: &Call) -> Result<Hosts, Fault> {
    let reading = call.api.deps.store.read(|tx| -> Result<Hosts, sql::Error> {
        let mut inventories: HashMap<Uuid, Vec<Inventory>> = HashMap::new();
        for (provider, inventory) in db::placement::all_inventories(tx)? {
            inventories.entry(provider).or_default().push(inventory);
        }
        let servers = db::hosts::servers_per_host(tx)?
            .into_iter()
            .map(|(host, count)| (host.0, count))
            .collect();
        Ok(Hosts {
            nodes: db::hosts::nodes(tx)?,
            services: db::hosts::services(tx)?,
            inventories,
            servers,
            uptimes: HashMap::new(),
        })
    });
    Ok(reading.await?)
}

/// What is used of a node, reserve included.
#[derive(Default)]
struct Used {
    vcpus: u64,
    memory_mb: u64,
    disk_gb: u64,
}

impl Hosts {
    fn is_up(&self, call: &Call, node: &Node) -> bool {
        let down_after = call.api.config.service_down_micros;
        self.service(node)
            .is_some_and(|service| service.is_up(Timestamp::now(), down_after))
    }

    /// Asks hosts that are up how long they run, all at once. Those that do not answer soon have no answer.
    async fn ask_uptimes(&mut self, call: &Call, of: &[NodeId]) {
        let mut asked = JoinSet::new();
        for node in &self.nodes {
            if !of.contains(&node.uuid) || !self.is_up(call, node) {
                continue;
            }
            let (questions, host) = (Arc::clone(&call.api.deps.questions), node.host.clone());
            let id = node.uuid;
            asked.spawn(async move {
                let nobody = ServerId(Uuid::nil());
                let answer = questions.ask(&host, nobody, Question::Uptime);
                (id, tokio::time::timeout(UPTIME_PATIENCE, answer).await)
            });
        }
        while let Some(done) = asked.join_next().await {
            if let Ok((id, Ok(Ok(text)))) = done {
                self.uptimes.insert(id, text);
            }
        }
    }

    fn service(&self, node: &Node) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.host == node.host && service.binary == "nova-compute")
    }

    fn used(&self, node: &Node) -> Used {
        let mut used = Used::default();
        for inventory in self.inventories.get(&node.uuid.0).into_iter().flatten() {
            match inventory.resource_class.as_str() {
                "VCPU" => used.vcpus = inventory.used,
                "MEMORY_MB" => used.memory_mb = inventory.used + inventory.reserved,
                "DISK_GB" => used.disk_gb = inventory.used + inventory.reserved,
                _ => {}
            }
        }
        used
    }

    fn running(&self, node: &Node) -> i64 {
        self.servers.get(node.host.as_str()).copied().unwrap_or(0)
    }
}

fn brief(call: &Call, hosts: &Hosts, node: &Node) -> Map<String, Value> {
    let mut map = Map::new();
    let uuids = call.at_least(mv::UUIDS_OF_HOSTS);
    map.insert(
        "id".to_owned(),
        if uuids {
            json!(node.uuid)
        } else {
            json!(node.id)
        },
    );
    map.insert(
        "hypervisor_hostname".to_owned(),
        json!(node.hypervisor_hostname),
    );
    let service = hosts.service(node);
    let up = hosts.is_up(call, node);
    let disabled = service.is_none_or(|service| service.disabled);
    map.insert("state".to_owned(), json!(if up { "up" } else { "down" }));
    map.insert(
        "status".to_owned(),
        json!(if disabled { "disabled" } else { "enabled" }),
    );
    map
}

fn whole(call: &Call, hosts: &Hosts, node: &Node) -> Map<String, Value> {
    let mut map = brief(call, hosts, node);
    let facts = &node.facts;
    let service = hosts.service(node);
    let service_id = if call.at_least(mv::UUIDS_OF_HOSTS) {
        json!(service.map(|service| service.uuid))
    } else {
        json!(service.map(|service| service.id))
    };
    let reason = service.and_then(|service| service.disabled_reason.as_deref());
    map.insert(
        "service".to_owned(),
        json!({ "host": node.host, "id": service_id, "disabled_reason": reason }),
    );
    map.insert("hypervisor_type".to_owned(), json!(facts.hypervisor_type));
    map.insert(
        "hypervisor_version".to_owned(),
        json!(facts.hypervisor_version),
    );
    map.insert("host_ip".to_owned(), json!(facts.host_ip));
    if call.at_least(mv::HYPERVISOR_SLIM) {
        map.insert("uptime".to_owned(), json!(hosts.uptimes.get(&node.uuid)));
        return map;
    }
    let cpu = if call.at_least(mv::CPU_INFO_OBJECT) {
        facts.cpu_info.clone()
    } else {
        json!(facts.cpu_info.to_string())
    };
    map.insert("cpu_info".to_owned(), cpu);
    for (name, value) in amounts(hosts, node) {
        map.insert(name.to_owned(), value.into());
    }
    map
}

/// The numbers that left with 2.88.
fn amounts(hosts: &Hosts, node: &Node) -> [(&'static str, i64); 11] {
    let facts = &node.facts;
    let used = hosts.used(node);
    let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    [
        ("vcpus", i64::from(facts.vcpus)),
        ("vcpus_used", number(used.vcpus)),
        ("memory_mb", number(facts.memory_mb)),
        ("memory_mb_used", number(used.memory_mb)),
        (
            "free_ram_mb",
            number(facts.memory_mb) - number(used.memory_mb),
        ),
        ("local_gb", number(facts.disk_gb)),
        ("local_gb_used", number(used.disk_gb)),
        ("free_disk_gb", number(facts.disk_gb) - number(used.disk_gb)),
        ("disk_available_least", number(facts.free_disk_gb)),
        ("running_vms", hosts.running(node)),
        ("current_workload", 0),
    ]
}

/// The servers of nodes, by host, as they are shown.
type Servers = HashMap<HostName, Vec<Value>>;

/// The servers of these nodes, all at once.
async fn servers_of(call: &Call, nodes: &[&Node]) -> Result<Servers, Fault> {
    let hosts: Vec<HostName> = nodes.iter().map(|node| node.host.clone()).collect();
    let store = &call.api.deps.store;
    let reading = store.read(move |tx| db::hosts::servers_of(tx, &hosts));
    let found: Result<_, sql::Error> = reading.await;
    let mut servers = Servers::new();
    for (host, id, number) in found? {
        let shown = json!({ "uuid": id, "name": format!("instance-{number:08x}") });
        servers.entry(host).or_default().push(shown);
    }
    Ok(servers)
}

fn wants_servers(call: &Call) -> bool {
    let yes = |text: &str| {
        matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "1" | "on" | "yes"
        )
    };
    call.query.get("with_servers").is_some_and(yes)
}

/// Adds `servers` to an entry; below 2.75 an empty list is left out.
fn add_servers(call: &Call, node: &Node, servers: &mut Servers, map: &mut Map<String, Value>) {
    let servers = servers.remove(&node.host).unwrap_or_default();
    if !servers.is_empty() || call.at_least(mv::STRICT) {
        map.insert("servers".to_owned(), servers.into());
    }
}

/// An entry for each of these nodes, with its servers where they are wanted.
async fn entries(
    call: &Call,
    hosts: &Hosts,
    nodes: &[&Node],
    entry: fn(&Call, &Hosts, &Node) -> Map<String, Value>,
    with_servers: bool,
) -> Result<Vec<Value>, Fault> {
    let mut servers = Servers::new();
    if with_servers {
        servers = servers_of(call, nodes).await?;
    }
    let entries = nodes.iter().map(|node| {
        let mut map = entry(call, hosts, node);
        if with_servers {
            add_servers(call, node, &mut servers, &mut map);
        }
        map.into()
    });
    Ok(entries.collect())
}

async fn listed(
    call: Call,
    path: &str,
    entry: fn(&Call, &Hosts, &Node) -> Map<String, Value>,
) -> Result<Reply, Fault> {
    let mut hosts = read(&call).await?;
    let mut nodes: Vec<&Node> = hosts.nodes.iter().collect();
    if let Some(pattern) = call.query.get("hypervisor_hostname_pattern") {
        if call.query.get("limit").is_some() || call.query.get("marker").is_some() {
            return Err(Fault::bad_request(
                "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.",
            ));
        }
        nodes.retain(|node| node.hypervisor_hostname.contains(pattern));
        if nodes.is_empty() {
            return Err(Fault::not_found(format!(
                "No hypervisor matching '{pattern}' could be found."
            )));
        }
    }
    let mut next = None;
    if call.at_least(mv::HYPERVISOR_PAGES) {
        let key = |node: &Node| {
            if call.at_least(mv::UUIDS_OF_HOSTS) {
                node.uuid.to_string()
            } else {
                node.id.to_string()
            }
        };
        if let Some(marker) = call.query.get("marker") {
            let at = nodes.iter().position(|node| key(node) == marker);
            let at =
                at.ok_or_else(|| Fault::bad_request(format!("marker [{marker}] not found")))?;
            nodes.drain(..=at);
        }
        let limit = call.limit()?;
        nodes.truncate(limit);
        next = nodes
            .last()
            .filter(|_| limit > 0 && nodes.len() == limit)
            .map(|node| key(node));
    }
    let shown: Vec<Node> = nodes.into_iter().cloned().collect();
    if path.ends_with("/detail") && call.at_least(mv::HYPERVISOR_SLIM) {
        let ids: Vec<NodeId> = shown.iter().map(|node| node.uuid).collect();
        hosts.ask_uptimes(&call, &ids).await;
    }
    let shown: Vec<&Node> = shown.iter().collect();
    let list = entries(&call, &hosts, &shown, entry, wants_servers(&call)).await?;
    let mut document = json!({ "hypervisors": list });
    if let Some(marker) = next {
        document["hypervisors_links"] = json!(call.links.next(path, call.query.pairs(), &marker));
    }
    Reply::ok(&document)
}

/// `GET`.
pub async fn list(call: Call) -> Result<Reply, Fault> {
    listed(call, "/os-hypervisors", brief).await
}

/// `GET /detail`.
pub async fn detail(call: Call) -> Result<Reply, Fault> {
    listed(call, "/os-hypervisors/detail", whole).await
}

/// `GET /statistics` (below 2.88): sums over all whose services are enabled (Nova's `compute_node_statistics`).
pub async fn statistics(call: Call) -> Result<Reply, Fault> {
    let hosts = read(&call).await?;
    let is_enabled = |node: &&Node| hosts.service(node).is_some_and(|service| !service.disabled);
    let enabled: Vec<&Node> = hosts.nodes.iter().filter(is_enabled).collect();
    let mut sums: Map<String, Value> = Map::new();
    sums.insert("count".to_owned(), json!(enabled.len()));
    for name in [
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "free_ram_mb",
        "local_gb",
        "local_gb_used",
        "free_disk_gb",
        "disk_available_least",
        "running_vms",
        "current_workload",
    ] {
        let sum: i64 = enabled
            .iter()
            .flat_map(|node| amounts(&hosts, node))
            .filter(|(other, _)| *other == name)
            .map(|(_, n)| n)
            .sum();
        sums.insert(name.to_owned(), sum.into());
    }
    Reply::ok(&json!({ "hypervisor_statistics": sums }))
}

fn find<'a>(call: &Call, hosts: &'a Hosts) -> Result<&'a Node, Fault> {
    let text = call.param(0);
    let unknown = || Fault::not_found(format!("Hypervisor with ID '{text}' could not be found."));
    if call.at_least(mv::UUIDS_OF_HOSTS) {
        if !formats::uuid(text) {
            return Err(Fault::bad_request(format!("Invalid uuid {text}")));
        }
        let id: Option<NodeId> = text.parse().ok();
        return hosts
            .nodes
            .iter()
            .find(|node| Some(node.uuid) == id)
            .ok_or_else(unknown);
    }
    let id: i64 = text.parse().map_err(|_| unknown())?;
    hosts
        .nodes
        .iter()
        .find(|node| node.id == id)
        .ok_or_else(unknown)
}

/// `GET /{id}`.
pub async fn show(call: Call) -> Result<Reply, Fault> {
    let mut hosts = read(&call).await?;
    let node = find(&call, &hosts)?.clone();
    if call.at_least(mv::HYPERVISOR_SLIM) {
        hosts.ask_uptimes(&call, &[node.uuid]).await;
    }
    let list = entries(&call, &hosts, &[&node], whole, wants_servers(&call)).await?;
    let shown = list.into_iter().next().unwrap_or_default();
    Reply::ok(&json!({ "hypervisor": shown }))
}

/// `GET /{id}/uptime` (below 2.88).
pub async fn uptime(call: Call) -> Result<Reply, Fault> {
    let mut hosts = read(&call).await?;
    let node = find(&call, &hosts)?.clone();
    hosts.ask_uptimes(&call, &[node.uuid]).await;
    let uptime = hosts.uptimes.get(&node.uuid).ok_or_else(|| {
        Fault::bad_request(format!(
            "Compute service of {} is unavailable at this time.",
            node.host
        ))
    })?;
    let mut map = brief(&call, &hosts, &node);
    map.insert("uptime".to_owned(), json!(uptime));
    Reply::ok(&json!({ "hypervisor": map }))
}

fn matching<'a>(call: &Call, hosts: &'a Hosts) -> Result<Vec<&'a Node>, Fault> {
    let pattern = call.param(0);
    let found: Vec<&Node> = hosts
        .nodes
        .iter()
        .filter(|node| node.hypervisor_hostname.contains(pattern))
        .collect();
    if found.is_empty() {
        return Err(Fault::not_found(format!(
            "No hypervisor matching '{pattern}' could be found."
        )));
    }
    Ok(found)
}

/// `GET /{pattern}/search` (below 2.53).
pub async fn search(call: Call) -> Result<Reply, Fault> {
    let hosts = read(&call).await?;
    let list: Vec<Value> = matching(&call, &hosts)?
        .into_iter()
        .map(|node| brief(&call, &hosts, node).into())
        .collect();
    Reply::ok(&json!({ "hypervisors": list }))
}

/// `GET /{pattern}/servers` (below 2.53).
pub async fn servers(call: Call) -> Result<Reply, Fault> {
    let hosts = read(&call).await?;
    let nodes = matching(&call, &hosts)?;
    let list = entries(&call, &hosts, &nodes, brief, true).await?;
    Reply::ok(&json!({ "hypervisors": list }))
}
