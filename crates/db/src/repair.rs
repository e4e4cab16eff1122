//! What an operator looks at and repairs behind the APIs: tasks, and what should not be there.

use crate::document;
use crate::instances::{self, Change, Expected, Fault};
use crate::tasks::{self, Task};
use crate::{actions, placement, usages, work};
use sql::{Error, Row, Tx};
use types::{HostName, ProjectId, ServerId, TaskId, Timestamp, UserId, VmState};
use uuid::Uuid;

/// Gives a task to whichever worker comes first; the one that has it now finds itself fenced. `false`: it has ended.
pub fn retry(tx: &mut Tx<'_>, id: TaskId) -> Result<bool, Error> {
    let freed = tx.execute(
        "UPDATE tasks SET owner = NULL, incarnation = 0, epoch = epoch + 1 WHERE id = ?",
        &[id.into()],
    )?;
    Ok(freed == 1)
}

/// Ends a task where it is, whoever has it. Its server is in ERROR afterwards, with `reason`, and can be deleted; hosts
/// other than the server's that the task gave work to owe its removal. `None`: it has ended.
pub fn abandon(
    tx: &mut Tx<'_>,
    id: TaskId,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Task>, Error> {
    let hosts = hosts_of_task(tx, id)?;
    let Some(task) = tasks::take_over(tx, id)? else {
        return Ok(None);
    };
    if let Some(event) = task.event {
        actions::finish_event(tx, event, Some(reason), now)?;
    }
    if let Some(action) = task.action {
        actions::fail(tx, action, now)?;
    }
    let server = instances::get(tx, task.server)?;
    for host in hosts {
        let stays = server.as_ref().and_then(|server| server.host.as_ref()) == Some(&host);
        if !stays {
            work::owe(tx, &host, task.server, reason, now)?;
        }
    }
    put_in_error(tx, task.server, Expected::Task(id), reason, now)?;
    Ok(Some(task))
}

fn hosts_of_task(tx: &mut Tx<'_>, id: TaskId) -> Result<Vec<HostName>, Error> {
    let rows = tx.query(
        "SELECT DISTINCT host FROM host_work WHERE task_id = ?",
        &[id.into()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn put_in_error(
    tx: &mut Tx<'_>,
    server: ServerId,
    expected: Expected,
    reason: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let change = Change {
        vm_state: Some(VmState::Error),
        task_state: Some(None),
        task_id: Some(None),
        fault: Some(Some(Fault {
            code: 500,
            message: reason.to_owned(),
            details: None,
            created: now,
        })),
        ..Change::default()
    };
    instances::transition(tx, server, expected, &change, now)
}

/// Something that should not be as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A server says that something is under way, and nothing is.
    Stuck {
        /// The server.
        server: ServerId,
        /// What it says.
        task_state: String,
        /// Its generation.
        generation: i64,
        /// Whether it was never built.
        building: bool,
    },
    /// A task of a server that has no record.
    TaskWithoutServer(TaskId, ServerId),
    /// Work for a host that no task waits for.
    WorkWithoutTask(TaskId, HostName),
    /// A deleted server holds resources.
    HeldByDeleted(ServerId),
    /// A server holds resources of a host that it is not on, and does not move.
    HeldElsewhere {
        /// The server.
        server: ServerId,
        /// The host's provider.
        provider: Uuid,
        /// The host.
        host: HostName,
    },
    /// A host has a guest or files of a server that is deleted, or that is on another host, and owes nothing for it.
    LeftOnHost(HostName, ServerId),
    /// A host has a guest or files of a server that was never in this database. Whose it is nobody knows: it is not touched.
    UnknownGuest(HostName, ServerId),
    /// A provider's use of a class is not what is given out: noted and given.
    WrongUse(String, String, i64, i64),
    /// A user's quota use is not what the user has: noted and there.
    WrongQuota(ProjectId, UserId, usages::Held, usages::Held),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stuck {
                server, task_state, ..
            } => write!(
                f,
                "server {server} says {task_state}, and nobody works on it"
            ),
            Self::TaskWithoutServer(task, server) => {
                write!(f, "task {task} is of server {server}, which has no record")
            }
            Self::WorkWithoutTask(task, host) => {
                write!(f, "work for host {host} is left of task {task}")
            }
            Self::HeldByDeleted(server) => {
                write!(f, "server {server} is deleted and holds resources")
            }
            Self::HeldElsewhere { server, host, .. } => {
                write!(
                    f,
                    "server {server} holds resources of host {host}, on which it is not"
                )
            }
            Self::LeftOnHost(host, server) => write!(
                f,
                "host {host} has a guest or files of server {server}, which is deleted or on another host"
            ),
            Self::UnknownGuest(host, server) => write!(
                f,
                "host {host} has a guest or files of {server}, which this cloud's database does not know; nothing here \
                 removes that: if it is nobody's, undefine its domain and delete its folder on the host"
            ),
            Self::WrongUse(provider, class, noted, given) => write!(
                f,
                "provider {provider} shows {noted} of {class} in use, and {given} is given out"
            ),
            Self::WrongQuota(project, user, noted, there) => write!(
                f,
                "project {project}, user {user}: the quota counts {noted:?}, and there is {there:?}"
            ),
        }
    }
}

impl Finding {
    /// Whether [`mend`] does something about it.
    pub fn can_be_mended(&self) -> bool {
        !matches!(self, Self::UnknownGuest(..))
    }
}

/// All that should not be as it is: a fixed number of queries.
pub fn audit(tx: &mut Tx<'_>) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    collect(tx, STUCK, &mut found, |row| {
        Ok(Finding::Stuck {
            server: row.get(0)?,
            task_state: row.get::<Option<String>>(1)?.unwrap_or_default(),
            generation: row.get(2)?,
            building: row.get::<String>(3)? == VmState::Building.as_str(),
        })
    })?;
    collect(tx, TASKS_WITHOUT_SERVER, &mut found, |row| {
        Ok(Finding::TaskWithoutServer(row.get(0)?, row.get(1)?))
    })?;
    collect(tx, WORK_WITHOUT_TASK, &mut found, |row| {
        Ok(Finding::WorkWithoutTask(row.get(0)?, row.get(1)?))
    })?;
    collect(tx, HELD_BY_DELETED, &mut found, |row| {
        Ok(Finding::HeldByDeleted(row.get(0)?))
    })?;
    collect(tx, HELD_ELSEWHERE, &mut found, |row| {
        Ok(Finding::HeldElsewhere {
            server: row.get(0)?,
            provider: row.get(1)?,
            host: row.get(2)?,
        })
    })?;
    left_on_hosts(tx, &mut found)?;
    collect(tx, USES, &mut found, |row| {
        Ok(Finding::WrongUse(
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
        ))
    })?;
    found.retain(|one| !matches!(one, Finding::WrongUse(_, _, noted, given) if noted == given));
    quotas(tx, &mut found)?;
    Ok(found)
}

const STUCK: &str = "SELECT i.uuid, i.task_state, i.generation, i.vm_state FROM instances i LEFT JOIN tasks t ON t.instance_uuid = i.uuid \
     WHERE i.deleted = 0 AND t.id IS NULL AND (i.task_state IS NOT NULL OR i.task_id IS NOT NULL)";
const TASKS_WITHOUT_SERVER: &str = "SELECT t.id, t.instance_uuid FROM tasks t LEFT JOIN instances i ON i.uuid = t.instance_uuid WHERE i.uuid IS NULL";
const WORK_WITHOUT_TASK: &str = "SELECT DISTINCT w.task_id, w.host FROM host_work w LEFT JOIN tasks t ON t.id = w.task_id WHERE t.id IS NULL";
const HELD_BY_DELETED: &str = "SELECT DISTINCT a.consumer FROM allocations a JOIN instances i ON i.uuid = a.consumer WHERE i.deleted <> 0";
// A server that moves holds what it needs there under its own name, and what it leaves under its migration's.
const HELD_ELSEWHERE: &str = "SELECT DISTINCT a.consumer, a.provider, n.host FROM allocations a JOIN instances i ON i.uuid = a.consumer \
     JOIN compute_nodes n ON n.uuid = a.provider \
     WHERE i.deleted = 0 AND i.task_id IS NULL AND (i.host IS NULL OR i.host <> n.host)";
const LEFT_ON_HOSTS: &str = "SELECT l.host, l.instance_uuid, i.uuid, i.deleted, i.kept FROM host_leftovers l LEFT JOIN instances i ON i.uuid = l.instance_uuid \
     LEFT JOIN host_debts d ON d.host = l.host AND d.instance_uuid = l.instance_uuid \
     WHERE d.id IS NULL AND (i.uuid IS NULL OR i.deleted <> 0 OR (i.task_id IS NULL AND (i.host IS NULL OR i.host <> l.host)))";
const USES: &str = "SELECT n.provider, n.resource_class, n.used, COALESCE(SUM(a.amount), 0) FROM inventories n LEFT JOIN allocations a \
     ON a.provider = n.provider AND a.resource_class = n.resource_class GROUP BY n.provider, n.resource_class, n.used";

fn collect(
    tx: &mut Tx<'_>,
    sql: &str,
    found: &mut Vec<Finding>,
    one: impl Fn(&Row) -> Result<Finding, Error>,
) -> Result<(), Error> {
    for row in tx.query(sql, &[])? {
        found.push(one(&row)?);
    }
    Ok(())
}

/// What a host had when it was noted may be what a server that moves since then comes back from.
fn left_on_hosts(tx: &mut Tx<'_>, found: &mut Vec<Finding>) -> Result<(), Error> {
    for row in tx.query(LEFT_ON_HOSTS, &[])? {
        let (host, server) = (row.get(0)?, row.get(1)?);
        if row.get::<Option<String>>(2)?.is_none() {
            found.push(Finding::UnknownGuest(host, server));
            continue;
        }
        let deleted = row.get::<Option<bool>>(3)? == Some(true);
        let kept = row.get::<Option<String>>(4)?;
        let kept: Option<instances::Kept> = kept.as_deref().map(document).transpose()?;
        let moves = kept.is_some_and(|kept| kept.unsettled.is_some());
        if deleted || !moves {
            found.push(Finding::LeftOnHost(host, server));
        }
    }
    Ok(())
}

fn quotas(tx: &mut Tx<'_>, found: &mut Vec<Finding>) -> Result<(), Error> {
    let noted = held(
        tx,
        "SELECT project_id, user_id, instances, cores, ram_mb FROM server_usages",
    )?;
    let there = held(
        tx,
        "SELECT project_id, user_id, COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(memory_mb), 0) FROM instances \
         WHERE deleted = 0 AND vm_state <> 'soft-delete' GROUP BY project_id, user_id",
    )?;
    let of = |all: &[(ProjectId, UserId, usages::Held)], project: &ProjectId, user: &UserId| {
        let found = all.iter().find(|(p, u, _)| p == project && u == user);
        found.map(|(_, _, held)| *held).unwrap_or_default()
    };
    let missing = there
        .iter()
        .filter(|(project, user, _)| !noted.iter().any(|(p, u, _)| p == project && u == user));
    for (project, user, _) in noted.iter().chain(missing) {
        let pair = (of(&noted, project, user), of(&there, project, user));
        if pair.0 != pair.1 {
            found.push(Finding::WrongQuota(
                project.clone(),
                user.clone(),
                pair.0,
                pair.1,
            ));
        }
    }
    Ok(())
}

fn held(tx: &mut Tx<'_>, sql: &str) -> Result<Vec<(ProjectId, UserId, usages::Held)>, Error> {
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| {
            let held = usages::Held {
                instances: row.get(2)?,
                cores: row.get(3)?,
                ram_mb: row.get(4)?,
            };
            Ok((row.get(0)?, row.get(1)?, held))
        })
        .collect()
}

/// Makes it as it should be. Part of the transaction that found it.
pub fn mend(tx: &mut Tx<'_>, finding: &Finding, now: Timestamp) -> Result<(), Error> {
    match finding {
        Finding::Stuck {
            server,
            task_state,
            generation,
            building,
        } => {
            let expected = Expected::Generation(*generation);
            if *building {
                let reason = format!("The server was left in {task_state}.");
                put_in_error(tx, *server, expected, &reason, now)?;
                return Ok(());
            }
            let change = Change {
                task_state: Some(None),
                task_id: Some(None),
                ..Change::default()
            };
            instances::transition(tx, *server, expected, &change, now).map(drop)
        }
        Finding::TaskWithoutServer(task, _) => tasks::take_over(tx, *task).map(drop),
        Finding::WorkWithoutTask(task, _) => work::remove_of_task(tx, *task),
        Finding::HeldByDeleted(server) => placement::release(tx, *server, now),
        Finding::HeldElsewhere {
            server, provider, ..
        } => placement::release_at(tx, *server, *provider, now),
        Finding::LeftOnHost(host, server) => {
            let why = "an audit found a guest that is not the host's";
            work::owe(tx, host, *server, why, now)
        }
        Finding::UnknownGuest(..) => Ok(()),
        Finding::WrongUse(provider, class, _, given) => tx
            .execute(
                "UPDATE inventories SET used = ? WHERE provider = ? AND resource_class = ?",
                &[(*given).into(), provider.into(), class.into()],
            )
            .map(drop),
        Finding::WrongQuota(project, user, noted, there) => {
            usages::add(tx, project, user, there.minus(*noted))
        }
    }
}
