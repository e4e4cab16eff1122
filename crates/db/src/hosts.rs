//! Services and compute nodes: who reports for duty, and what each host has.

use crate::placement::{self, Inventory};
use crate::{cut, document, outbox, to_document};
use sql::{Error, Row, Tx};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use types::agent::{HostFacts, SERVICE_VERSION};
use types::{HostName, NodeId, ServerId, ServiceId, Timestamp};

/// A service record (`os-services`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Number (below 2.53).
    pub id: i64,
    /// Id (from 2.53).
    pub uuid: ServiceId,
    /// Where it runs.
    pub host: HostName,
    /// `nova-compute`, `nova-conductor`, `nova-scheduler`.
    pub binary: String,
    /// Grows with each heartbeat.
    pub beats: i64,
    /// The last heartbeat.
    pub last_seen_up: Option<Timestamp>,
    /// Takes no new servers.
    pub disabled: bool,
    /// Why.
    pub disabled_reason: Option<String>,
    /// Declared down by an operator.
    pub forced_down: bool,
    /// The protocol that it speaks ([`types::agent::SERVICE_VERSION`]).
    pub version: i64,
    /// What is wrong although the agent beats, for example libvirt not answering.
    pub problem: Option<String>,
    /// First seen.
    pub created_at: Timestamp,
    /// Last changed.
    pub updated_at: Option<Timestamp>,
}

impl Service {
    /// Whether the service is up: it beat within `down_after` microseconds, nothing is wrong, nobody forced it down.
    pub fn is_up(&self, now: Timestamp, down_after_micros: i64) -> bool {
        let recent = self
            .last_seen_up
            .is_some_and(|at| now.micros().saturating_sub(at.micros()).abs() <= down_after_micros);
        recent && !self.forced_down && self.problem.is_none()
    }
}

/// A compute node (`os-hypervisors`).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Number (below 2.53).
    pub id: i64,
    /// Id, which is also its resource provider's.
    pub uuid: NodeId,
    /// The agent's host.
    pub host: HostName,
    /// The hypervisor's own name.
    pub hypervisor_hostname: String,
    /// What the agent reported.
    pub facts: HostFacts,
}

impl Node {
    /// The traits of its resource provider.
    pub fn traits(&self, disabled: bool) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.facts.traits.iter().cloned().collect();
        all.insert("COMPUTE_NODE".to_owned());
        if disabled {
            all.insert("COMPUTE_STATUS_DISABLED".to_owned());
        }
        all
    }
}

const SERVICE: &str = "id, uuid, host, topic, beats, last_seen_up, disabled, disabled_reason, forced_down, version, problem, \
    created_at, updated_at";

fn service_from(row: &Row) -> Result<Service, Error> {
    Ok(Service {
        id: row.get(0)?,
        uuid: row.get(1)?,
        host: row.get(2)?,
        binary: row.get(3)?,
        beats: row.get(4)?,
        last_seen_up: row.get(5)?,
        disabled: row.get(6)?,
        disabled_reason: row.get(7)?,
        forced_down: row.get(8)?,
        version: row.get(9)?,
        problem: row.get(10)?,
        created_at: row.get(11)?,
        updated_at: row.get(12)?,
    })
}

/// All services, in order of their first start.
pub fn services(tx: &mut Tx<'_>) -> Result<Vec<Service>, Error> {
    tx.query(&format!("SELECT {SERVICE} FROM services ORDER BY id"), &[])?
        .iter()
        .map(service_from)
        .collect()
}

/// Records a heartbeat of a service of this release, and the service itself on its first one.
pub fn beat(
    tx: &mut Tx<'_>,
    host: &HostName,
    binary: &str,
    problem: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    beat_heard(tx, host, (binary, SERVICE_VERSION), problem, now).map(drop)
}

/// What a heartbeat changes beside the time of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The service was not there before.
    New,
    /// Nothing else.
    Known,
    /// Something was wrong there, and is not any more.
    Well,
}

/// The same of a service that says its version; what it changes.
pub fn beat_heard(
    tx: &mut Tx<'_>,
    host: &HostName,
    (binary, version): (&str, u32),
    problem: Option<&str>,
    now: Timestamp,
) -> Result<Beat, Error> {
    let version = u64::from(version);
    let problem = problem.map(|text| cut(text, 255));
    if problem.is_none() {
        // The usual one, which needs no second look.
        let well = tx.execute(
            "UPDATE services SET beats = beats + 1, last_seen_up = ?, updated_at = ?, version = ? \
             WHERE host = ? AND topic = ? AND problem IS NULL",
            &[
                now.into(),
                now.into(),
                version.into(),
                host.into(),
                binary.into(),
            ],
        )?;
        if well > 0 {
            return Ok(Beat::Known);
        }
    }
    let changed = tx.execute(
        "UPDATE services SET beats = beats + 1, last_seen_up = ?, updated_at = ?, version = ?, problem = ? \
         WHERE host = ? AND topic = ?",
        &[now.into(), now.into(), version.into(), problem.clone().into(), host.into(), binary.into()],
    )?;
    let well = problem.is_none();
    if changed == 0 {
        let id = ServiceId::random();
        tx.post(
            "INSERT INTO services (uuid, host, topic, beats, last_seen_up, disabled, forced_down, version, problem, created_at) \
             VALUES (?, ?, ?, 1, ?, 0, 0, ?, ?, ?)",
            &[id.into(), host.into(), binary.into(), now.into(), version.into(), problem.into(), now.into()],
        )?;
        outbox::service(tx, outbox::Kind::ServiceCreate, id, now)?;
        return Ok(Beat::New);
    }
    Ok(if well { Beat::Well } else { Beat::Known })
}

/// What is heard of a host, and of those who hear of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The heartbeats of its compute service; none: there is no such service.
    pub beats: Option<i64>,
    /// An administrator says that it is down.
    pub forced_down: bool,
    /// The heartbeats of all conductors; none: there is no conductor on record.
    pub conductors: Option<i64>,
}

/// What is heard of all hosts.
#[derive(Clone, Debug, Default)]
pub struct AllHeard {
    hosts: HashMap<HostName, (i64, bool)>,
    conductors: Option<i64>,
}

impl AllHeard {
    /// What is heard of one.
    pub fn of(&self, host: &HostName) -> Heard {
        let known = self.hosts.get(host);
        Heard {
            beats: known.map(|(beats, _)| *beats),
            forced_down: known.is_some_and(|(_, forced)| *forced),
            conductors: self.conductors,
        }
    }
}

/// What is heard of all hosts, in one query.
pub fn heard(tx: &mut Tx<'_>) -> Result<AllHeard, Error> {
    let sql = "SELECT topic, host, beats, forced_down FROM services \
               WHERE topic IN ('nova-compute', 'nova-conductor')";
    let mut all = AllHeard::default();
    for row in tx.query(sql, &[])? {
        let beats: i64 = row.get(2)?;
        if row.get::<String>(0)? == "nova-compute" {
            all.hosts.insert(row.get(1)?, (beats, row.get(3)?));
        } else {
            all.conductors = Some(all.conductors.unwrap_or(0) + beats);
        }
    }
    Ok(all)
}

/// What administrators say of a host, for [`takes_servers`].
pub(crate) const SAID_OF: &str =
    "SELECT disabled, forced_down FROM services WHERE host = ? AND topic = 'nova-compute'";

/// Whether administrators let new servers go to a host: its compute service is enabled, unless the host was `forced`, and
/// not forced down.
pub(crate) fn takes_servers(service: &[Row], forced: bool) -> Result<bool, Error> {
    let Some(row) = service.first() else {
        return Ok(true);
    };
    let (disabled, down): (bool, bool) = (row.get(0)?, row.get(1)?);
    Ok(!down && (forced || !disabled))
}

/// Enables or disables a service; `false` when there is none.
pub fn set_disabled(
    tx: &mut Tx<'_>,
    service: ServiceId,
    disabled: bool,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE services SET disabled = ?, disabled_reason = ?, updated_at = ? WHERE uuid = ?",
        &[disabled.into(), reason.into(), now.into(), service.into()],
    )?;
    if changed == 1 {
        outbox::service(tx, outbox::Kind::ServiceUpdate, service, now)?;
    }
    Ok(changed == 1)
}

/// Declares a service down, or takes that back; `false` when there is none.
pub fn set_forced_down(
    tx: &mut Tx<'_>,
    service: ServiceId,
    forced_down: bool,
    now: Timestamp,
) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE services SET forced_down = ?, updated_at = ? WHERE uuid = ?",
        &[forced_down.into(), now.into(), service.into()],
    )?;
    if changed == 1 {
        outbox::service(tx, outbox::Kind::ServiceUpdate, service, now)?;
    }
    Ok(changed == 1)
}

/// Removes a service record.
pub fn remove_service(tx: &mut Tx<'_>, service: ServiceId) -> Result<bool, Error> {
    outbox::service(tx, outbox::Kind::ServiceDelete, service, Timestamp::now())?;
    Ok(tx.execute("DELETE FROM services WHERE uuid = ?", &[service.into()])? == 1)
}

/// Forgets the node of a host that is gone for good: what is still held of it is held no more, its resource provider goes,
/// and no aggregate has it. A host that reports again is a new one.
pub fn remove_node(tx: &mut Tx<'_>, host: &HostName, now: Timestamp) -> Result<(), Error> {
    let sql = "SELECT uuid FROM compute_nodes WHERE host = ?";
    if let Some(row) = tx.query_opt(sql, &[host.into()])? {
        placement::remove_provider(tx, row.get(0)?, now)?;
    }
    tx.post("DELETE FROM compute_nodes WHERE host = ?", &[host.into()])?;
    tx.post("DELETE FROM aggregate_hosts WHERE host = ?", &[host.into()])?;
    Ok(())
}

/// Shares of a host's resources that servers may use, and what is kept for the host.
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    /// vCPUs per CPU.
    pub cpu: f64,
    /// MiB per MiB.
    pub ram: f64,
    /// GiB per GiB.
    pub disk: f64,
    /// MiB kept for the host.
    pub reserved_memory_mb: u64,
    /// GiB kept for the host.
    pub reserved_disk_gb: u64,
}

impl Default for Ratios {
    /// Nova's initial ratios and reserves.
    fn default() -> Self {
        Self {
            cpu: 4.0,
            ram: 1.0,
            disk: 1.0,
            reserved_memory_mb: 512,
            reserved_disk_gb: 0,
        }
    }
}

/// Records what a host is and has: its node, its resource provider and its inventories.
pub fn put_node(
    tx: &mut Tx<'_>,
    host: &HostName,
    node: NodeId,
    facts: &HostFacts,
    ratios: &Ratios,
    now: Timestamp,
) -> Result<(), Error> {
    let text = to_document(facts)?;
    let changed = tx.execute(
        "UPDATE compute_nodes SET hypervisor_hostname = ?, facts = ?, updated_at = ? WHERE uuid = ?",
        &[(&facts.hypervisor_hostname).into(), (&text).into(), now.into(), node.into()],
    )?;
    if changed == 0 {
        tx.post(
            "INSERT INTO compute_nodes (uuid, host, hypervisor_hostname, facts, created_at) VALUES (?, ?, ?, ?, ?)",
            &[node.into(), host.into(), (&facts.hypervisor_hostname).into(), text.into(), now.into()],
        )?;
    }
    let inventories = [
        Inventory::whole("VCPU", u64::from(facts.vcpus), 0, ratios.cpu),
        Inventory::whole(
            "MEMORY_MB",
            facts.memory_mb,
            ratios.reserved_memory_mb,
            ratios.ram,
        ),
        Inventory::whole(
            "DISK_GB",
            facts.disk_gb,
            ratios.reserved_disk_gb,
            ratios.disk,
        ),
    ];
    placement::put_provider(tx, node, &facts.hypervisor_hostname, &inventories, now)
}

/// All compute nodes, in order of their first start.
pub fn nodes(tx: &mut Tx<'_>) -> Result<Vec<Node>, Error> {
    let rows = tx.query(
        "SELECT id, uuid, host, hypervisor_hostname, facts FROM compute_nodes ORDER BY id",
        &[],
    )?;
    rows.iter()
        .map(|row| {
            Ok(Node {
                id: row.get(0)?,
                uuid: row.get(1)?,
                host: row.get(2)?,
                hypervisor_hostname: row.get(3)?,
                facts: document(&row.get::<String>(4)?)?,
            })
        })
        .collect()
}

/// Whether two hosts say that the files of their guests are on the same file system. One that says nothing shares none.
pub fn share_storage(tx: &mut Tx<'_>, one: &HostName, other: &HostName) -> Result<bool, Error> {
    let sql = "SELECT host, facts FROM compute_nodes WHERE host = ? OR host = ?";
    let mut of = BTreeMap::new();
    for row in tx.query(sql, &[one.into(), other.into()])? {
        let facts: HostFacts = document(&row.get::<String>(1)?)?;
        of.insert(row.get::<HostName>(0)?, facts.storage);
    }
    let storage = |host| of.get(host).cloned().flatten();
    Ok(one != other && storage(one).is_some() && storage(one) == storage(other))
}

/// The number of servers on each host that has a compute node.
pub fn servers_per_host(tx: &mut Tx<'_>) -> Result<Vec<(HostName, i64)>, Error> {
    // Counted for each host in the index, where those that are deleted, of which there are ever more, are apart. A
    // GROUP BY would read them, too.
    let sql = "SELECT n.host, (SELECT COUNT(*) FROM instances i WHERE i.host = n.host AND i.deleted = 0) \
        FROM compute_nodes n";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// The number of servers on these hosts together.
pub fn servers_on(tx: &mut Tx<'_>, hosts: &[String]) -> Result<i64, Error> {
    let mut count = 0;
    for some in hosts.chunks(PLACES) {
        let sql = format!(
            "SELECT COUNT(*) FROM instances WHERE host IN ({}) AND deleted = 0",
            sql::placeholders(some.len())
        );
        let names: Vec<sql::Value> = some.iter().map(Into::into).collect();
        count += tx.query_one(&sql, &names)?.get::<i64>(0)?;
    }
    Ok(count)
}

/// The servers on these hosts: host, id and number of each, oldest first on each host.
pub fn servers_of(
    tx: &mut Tx<'_>,
    hosts: &[HostName],
) -> Result<Vec<(HostName, ServerId, i64)>, Error> {
    let mut found = Vec::new();
    for some in hosts.chunks(PLACES) {
        let sql = format!(
            "SELECT host, uuid, id FROM instances WHERE host IN ({}) AND deleted = 0 ORDER BY host, id",
            sql::placeholders(some.len())
        );
        let names: Vec<sql::Value> = some.iter().map(Into::into).collect();
        for row in tx.query(&sql, &names)? {
            found.push((row.get(0)?, row.get(1)?, row.get(2)?));
        }
    }
    Ok(found)
}

/// The number of servers on each host with which something is going on (a task state).
pub fn busy_per_host(tx: &mut Tx<'_>) -> Result<Vec<(HostName, i64)>, Error> {
    // CROSS JOIN has SQLite begin at the tasks, which are few however many servers there are; a GROUP BY would have it
    // begin at the hosts' index.
    let sql = "SELECT DISTINCT i.uuid, i.host FROM tasks t CROSS JOIN instances i WHERE i.uuid = t.instance_uuid \
        AND i.deleted = 0 AND i.host IS NOT NULL AND i.task_state IS NOT NULL";
    let mut busy: BTreeMap<HostName, i64> = BTreeMap::new();
    for row in tx.query(sql, &[])? {
        *busy.entry(row.get(1)?).or_default() += 1;
    }
    Ok(busy.into_iter().collect())
}

/// Servers or hosts looked for by one query: more than any request names or shows.
const PLACES: usize = 10_000;

/// Where these servers are, as far as they are somewhere.
pub fn places_of(
    tx: &mut Tx<'_>,
    servers: &[ServerId],
) -> Result<Vec<(ServerId, HostName)>, Error> {
    let mut found = Vec::new();
    for some in servers.chunks(PLACES) {
        let sql = format!(
            "SELECT uuid, host FROM instances WHERE uuid IN ({}) AND {}",
            sql::placeholders(some.len()),
            crate::instances::ALIVE
        );
        let ids: Vec<sql::Value> = some.iter().map(|id| (*id).into()).collect();
        for row in tx.query(&sql, &ids)? {
            if let Some(host) = row.get(1)? {
                found.push((row.get(0)?, host));
            }
        }
    }
    Ok(found)
}
