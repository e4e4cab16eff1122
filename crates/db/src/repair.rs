//! What an operator looks at and repairs behind the APIs: tasks, and what should not be there.

use crate::instances::{self, Change, Expected, Fault, Instance};
use crate::migrations::{self, Status};
use crate::tasks::{self, Task};
use crate::unfinished::Unfinished;
use crate::{accept, actions, moves, placement, usages, work};
use sql::{Error, Tx, Value};
use types::{
    HostName, MigrationId, ProjectId, RequestId, ServerId, TaskId, Timestamp, UserId, VmState,
};
use uuid::Uuid;

mod claims;
mod look;

pub use claims::Unclaimed;
pub use look::{Look, audit, still};

/// Gives a task to whichever worker comes first; the one that has it now finds itself fenced. `false`: it has ended.
pub fn retry(tx: &mut Tx<'_>, id: TaskId) -> Result<bool, Error> {
    let freed = tx.execute(
        "UPDATE tasks SET owner = NULL, incarnation = 0, epoch = epoch + 1 WHERE id = ?",
        &[id.into()],
    )?;
    Ok(freed == 1)
}

/// Ends a task where it is, whoever has it. Its server is in ERROR afterwards, with `reason`, and can be deleted: it remembers
/// what the task had begun. Hosts other than the server's on which the task may have left something owe its removal. `None`:
/// it has ended.
pub fn abandon(
    tx: &mut Tx<'_>,
    id: TaskId,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Task>, Error> {
    let worked = hosts_of_task(tx, id)?;
    let Some(task) = tasks::take_over(tx, id)? else {
        return Ok(None);
    };
    if let Some(event) = task.event {
        actions::finish_event(tx, event, Some(reason), now)?;
    }
    if let Some(action) = task.action {
        actions::fail(tx, action, reason, now)?;
    }
    let Some(server) = instances::get(tx, task.server)? else {
        return Ok(Some(task));
    };
    let begun = Unfinished::of(&task);
    // All that there is of its guest is there, or was when it was last heard of.
    let arrived = begun.place().filter(|_| accept::arrives(&task));
    let place = arrived.clone().or_else(|| server.place());
    let at = place.as_ref().map(|place| &place.host);
    let left = begun.source().filter(|_| arrived.is_none());
    let ends = [begun.place(), left].into_iter().flatten();
    let mut hosts: Vec<HostName> = worked.into_iter().chain(ends.map(|end| end.host)).collect();
    hosts.sort();
    hosts.dedup();
    // What a move has put aside on the host that it left may be all that there is of the server.
    let takes_back = [accept::RESIZE, accept::REVERT_RESIZE].contains(&task.flow.as_str());
    let moving = server.kept.unsettled.as_ref();
    for host in hosts {
        let aside = moving.is_some_and(|moving| takes_back && moving.source.host == host);
        if at != Some(&host) && !aside {
            work::owe(tx, &host, server.id, reason, now)?;
        }
    }
    for end in [begun.place(), begun.source()].into_iter().flatten() {
        if at != Some(&end.host) {
            placement::release_on(tx, server.id, end.node_id, now)?;
        }
    }
    end_moves(tx, &task, &begun, moving, now)?;
    let mut kept = server.kept.clone();
    kept.remember(begun);
    let change = Change {
        place: arrived.map(Some),
        kept: Some(kept),
        ..Change::default()
    };
    put_in_error(tx, server.id, Expected::Task(id), change, reason, now)?;
    Ok(Some(task))
}

/// What the records of moves show of a task that was abandoned.
fn end_moves(
    tx: &mut Tx<'_>,
    task: &Task,
    begun: &Unfinished,
    moving: Option<&moves::Unsettled>,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(migration) = begun.migration() {
        migrations::set_status(tx, migration, Status::Error, now)?;
    }
    let Some(moving) = moving else {
        return Ok(());
    };
    // One that has not arrived can only be taken back. Of its two ends the one that was begun can be asked for again, and
    // not the other: half of what that needs may be gone.
    let status = match task.flow.as_str() {
        accept::RESIZE | accept::REVERT_RESIZE => Status::Error,
        accept::CONFIRM_RESIZE => Status::Confirming,
        _ => return Ok(()),
    };
    migrations::set_status(tx, moving.migration, status, now).map(drop)
}

/// Those of the servers that are or were in this database, and on which no task works.
pub fn known_without_task(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Vec<ServerId>, Error> {
    let mut found = Vec::new();
    for some in servers.chunks(500) {
        let sql = format!(
            "SELECT i.uuid FROM instances i WHERE i.uuid IN ({}) \
             AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.instance_uuid = i.uuid)",
            sql::placeholders(some.len())
        );
        let ids: Vec<Value> = some.iter().map(|id| (*id).into()).collect();
        for row in tx.query(&sql, &ids)? {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
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
    more: Change,
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
        ..more
    };
    let before = instances::get(tx, server)?;
    if !instances::transition(tx, server, expected, &change, now)? {
        return Ok(false);
    }
    if let Some(before) = before.filter(|before| before.vm_state == VmState::SoftDelete) {
        // It counts again.
        let after = Instance {
            vm_state: VmState::Error,
            ..before.clone()
        };
        let difference = accept::holds(&after).minus(accept::holds(&before));
        usages::add(tx, &before.project_id, &before.user_id, difference)?;
    }
    Ok(true)
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
    /// A task with a state that the release which runs it does not know: nobody goes on with it.
    Unreadable {
        /// The task.
        task: TaskId,
        /// Its server.
        server: ServerId,
        /// What is wrong with it.
        reason: String,
    },
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
    /// A migration holds resources, and its server does not move by it.
    HeldByMigration(MigrationId, ServerId),
    /// A server does not hold what it uses of its host, or not all of it.
    Unclaimed(Unclaimed),
    /// A server has a move behind it that is neither confirmed nor reverted, and does not show that it waits for either:
    /// its state was reset by hand, or what moved it was abandoned.
    Unsettled {
        /// The server.
        server: ServerId,
        /// The record of its move.
        migration: MigrationId,
        /// Whether it has arrived: then it is confirmed, else it is taken back.
        arrived: bool,
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
            Self::Unreadable {
                task,
                server,
                reason,
            } => write!(
                f,
                "task {task} of server {server} does not go on: {reason}; `kilonova manage task retry` gives it to another \
                 release, `abandon` ends it"
            ),
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
            Self::HeldByMigration(migration, server) => write!(
                f,
                "migration {migration} of server {server} holds resources, and the server does not move by it"
            ),
            Self::Unclaimed(one) => write!(f, "{one}"),
            Self::Unsettled {
                server, arrived, ..
            } => {
                let mended = if *arrived {
                    "confirms it"
                } else {
                    "takes it back"
                };
                write!(
                    f,
                    "server {server} has a resize or migration that is neither confirmed nor reverted, and holds both hosts; \
                     mending {mended}"
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
        match self {
            Self::UnknownGuest(..) | Self::Unreadable { .. } => false,
            Self::Unclaimed(one) => one.full.is_none(),
            _ => true,
        }
    }
}

impl Finding {
    /// Whether somebody must have asked for it to be mended: it may be left so on purpose for a while.
    pub fn wants_a_word(&self) -> bool {
        matches!(self, Self::Unsettled { .. })
    }
}

/// Accepts the end of a move.
fn settle(
    tx: &mut Tx<'_>,
    (server, migration): (ServerId, MigrationId),
    arrived: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(server) = instances::get(tx, server)? else {
        return Ok(());
    };
    let request_id = RequestId::random().to_string();
    let by = actions::Requester {
        request_id: &request_id,
        user_id: server.user_id.as_str(),
        project_id: server.project_id.as_str(),
        trace: None,
    };
    let end = if arrived {
        moves::confirm
    } else {
        moves::revert
    };
    end(tx, &server, migration, by, now).map(drop)
}

/// Makes it as it should be. Part of the transaction that found it, or found it [`still`] so.
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
                put_in_error(tx, *server, expected, Change::default(), &reason, now)?;
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
        Finding::HeldByMigration(migration, _) => moves::drop_claim(tx, *migration, now),
        Finding::Unclaimed(one) => claims::put_back(tx, one, now),
        Finding::Unsettled {
            server,
            migration,
            arrived,
        } => settle(tx, (*server, *migration), *arrived, now),
        Finding::LeftOnHost(host, server) => {
            let why = "an audit found a guest that is not the host's";
            work::owe(tx, host, *server, why, now)
        }
        Finding::UnknownGuest(..) | Finding::Unreadable { .. } => Ok(()),
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
