//! The outbox: what happened, one row for each change, written in the transaction of the change. Event streams and the
//! publisher of notifications read it; nothing that was committed is missed, and nothing is told that was rolled back.
//!
//! On PostgreSQL and MySQL a transaction may commit after one that has taken a higher number. [`Tail`] remembers
//! numbers that are not there yet and looks for them again, so a reader gets each row once; rows of one server are in
//! order, because each of its changes locks the server's row first.

use crate::instances::{self, Instance};
use crate::keypairs::{self, KeyPair};
use sql::{Dialect, Error, Row, Statement, Tx, Value};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use types::{ServerId, Timestamp};

/// What a row tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The states or the place of a server.
    State,
    /// An action was accepted.
    ActionStart,
    /// An action has ended.
    ActionEnd,
    /// A part of an action has ended.
    EventEnd,
    /// A service was made.
    ServiceCreate,
    /// A service was enabled, disabled or declared down or up.
    ServiceUpdate,
    /// A service was removed.
    ServiceDelete,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::State,
        Self::ActionStart,
        Self::ActionEnd,
        Self::EventEnd,
        Self::ServiceCreate,
        Self::ServiceUpdate,
        Self::ServiceDelete,
    ];

    /// The text stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::ActionStart => "action_start",
            Self::ActionEnd => "action_end",
            Self::EventEnd => "event_end",
            Self::ServiceCreate => "service_create",
            Self::ServiceUpdate => "service_update",
            Self::ServiceDelete => "service_delete",
        }
    }

    /// Whether it is about a server.
    pub fn is_of_server(self) -> bool {
        matches!(
            self,
            Self::State | Self::ActionStart | Self::ActionEnd | Self::EventEnd
        )
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// What it tells.
    pub kind: Kind,
    /// The server's project; empty for services.
    pub project_id: String,
    /// The server's or service's id.
    pub subject: String,
    /// The stable state afterwards.
    pub vm_state: Option<String>,
    /// The task state afterwards.
    pub task_state: Option<String>,
    /// The power state afterwards.
    pub power_state: Option<i64>,
    /// The host afterwards.
    pub host: Option<String>,
    /// The action, as Nova names it.
    pub action: Option<String>,
    /// The part of the action.
    pub event: Option<String>,
    /// `Success` or `Error`, of what has ended.
    pub outcome: Option<String>,
    /// Why an action failed, as its owner may know it.
    pub message: Option<String>,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// Who asked.
    pub user_id: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// What a failed action says stands with the action; of what has not failed nothing is looked for.
const COLUMNS: &str = "id, kind, project_id, subject, vm_state, task_state, power_state, host, action, event, outcome, \
    request_id, user_id, created_at, \
    CASE WHEN kind = 'action_end' AND outcome = 'Error' THEN (SELECT MAX(a.message) FROM instance_actions a \
    WHERE a.instance_uuid = outbox.subject AND a.request_id = outbox.request_id AND a.action = outbox.action) END";

fn from_row(row: &Row) -> Result<Entry, Error> {
    let kind: String = row.get(1)?;
    let known = Kind::ALL.iter().find(|one| one.as_str() == kind);
    Ok(Entry {
        id: row.get(0)?,
        kind: *known.ok_or_else(|| Error::Column(format!("'{kind}' is no kind of an event")))?,
        project_id: row.get(2)?,
        subject: row.get(3)?,
        vm_state: row.get(4)?,
        task_state: row.get(5)?,
        power_state: row.get(6)?,
        host: row.get(7)?,
        action: row.get(8)?,
        event: row.get(9)?,
        outcome: row.get(10)?,
        request_id: row.get(11)?,
        user_id: row.get(12)?,
        at: row.get(13)?,
        message: row.get(14)?,
    })
}

fn rows(tx: &mut Tx<'_>, sql: &str, params: &[Value]) -> Result<Vec<Entry>, Error> {
    tx.query(sql, params)?.iter().map(from_row).collect()
}

/// A statement that tells something.
pub(crate) struct Telling<const N: usize> {
    sql: &'static str,
    params: [Value; N],
}

impl<const N: usize> Telling<N> {
    pub(crate) fn statement(&self) -> Statement<'_> {
        (self.sql, &self.params)
    }
}

/// Tells the states of a server as they are now in this transaction.
fn state(server: ServerId, now: Timestamp) -> Telling<2> {
    Telling {
        sql: "INSERT INTO outbox (kind, project_id, subject, vm_state, task_state, power_state, host, created_at) \
         SELECT 'state', project_id, uuid, vm_state, task_state, power_state, host, ? FROM instances WHERE uuid = ?",
        params: [now.into(), server.into()],
    }
}

/// Changes the one row of a server, if it is as expected, and tells its states afterwards.
pub(crate) fn changing(
    tx: &mut Tx<'_>,
    change: Statement<'_>,
    server: ServerId,
    now: Timestamp,
) -> Result<bool, Error> {
    if tx.dialect() == Dialect::Postgres {
        const TOLD: &str = "project_id, uuid, vm_state, task_state, power_state, host";
        let told = Telling {
            sql: "INSERT INTO outbox (kind, project_id, subject, vm_state, task_state, power_state, host, created_at) \
             SELECT 'state', project_id, uuid, vm_state, task_state, power_state, host, ? FROM changed",
            params: [now.into()],
        };
        return tx.execute_one_telling(change, TOLD, &[told.statement()]);
    }
    if !tx.execute_one(change.0, change.1)? {
        return Ok(false);
    }
    let told = state(server, now);
    let (sql, params) = told.statement();
    tx.post(sql, params)?;
    Ok(true)
}

/// Tells that an action of a server was accepted, with the states of the server.
pub(crate) fn action_started(
    server: ServerId,
    action: &str,
    by: &crate::actions::Requester<'_>,
    now: Timestamp,
) -> Telling<5> {
    Telling {
        sql: "INSERT INTO outbox (kind, project_id, subject, vm_state, task_state, power_state, host, action, request_id, user_id, created_at) \
         SELECT 'action_start', project_id, uuid, vm_state, task_state, power_state, host, ?, ?, ?, ? FROM instances WHERE uuid = ?",
        params: [
            action.into(),
            by.request_id.into(),
            by.user_id.into(),
            now.into(),
            server.into(),
        ],
    }
}

/// Tells that an action has ended.
pub(crate) fn action_ended(action: i64, outcome: &str, now: Timestamp) -> Telling<3> {
    Telling {
        sql: "INSERT INTO outbox (kind, project_id, subject, vm_state, task_state, power_state, host, action, outcome, request_id, user_id, created_at) \
         SELECT 'action_end', i.project_id, i.uuid, i.vm_state, i.task_state, i.power_state, i.host, a.action, ?, a.request_id, a.user_id, ? \
         FROM instance_actions a JOIN instances i ON i.uuid = a.instance_uuid WHERE a.id = ?",
        params: [outcome.into(), now.into(), action.into()],
    }
}

/// Tells that a part of an action has ended.
pub(crate) fn event_ended(event: i64, outcome: &str, now: Timestamp) -> Telling<3> {
    Telling {
        sql: "INSERT INTO outbox (kind, project_id, subject, vm_state, task_state, power_state, host, action, event, outcome, request_id, user_id, created_at) \
         SELECT 'event_end', i.project_id, i.uuid, i.vm_state, i.task_state, i.power_state, e.host, a.action, e.event, ?, a.request_id, a.user_id, ? \
         FROM instance_action_events e JOIN instance_actions a ON a.id = e.action_id JOIN instances i ON i.uuid = a.instance_uuid WHERE e.id = ?",
        params: [outcome.into(), now.into(), event.into()],
    }
}

/// Tells of a service; of one that goes, before it goes.
pub(crate) fn service(
    tx: &mut Tx<'_>,
    kind: Kind,
    service: types::ServiceId,
    now: Timestamp,
) -> Result<(), Error> {
    tx.post(
        "INSERT INTO outbox (kind, project_id, subject, host, action, created_at) \
         SELECT ?, '', uuid, host, topic, ? FROM services WHERE uuid = ?",
        &[kind.as_str().into(), now.into(), service.into()],
    )?;
    Ok(())
}

/// The rows after a number, in order.
pub fn after(tx: &mut Tx<'_>, id: i64, limit: u64) -> Result<Vec<Entry>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM outbox WHERE id > ? ORDER BY id LIMIT ?");
    rows(tx, &sql, &[id.into(), limit.into()])
}

/// The rows of a project after a number, in order.
pub fn of_project_after(
    tx: &mut Tx<'_>,
    project: &str,
    id: i64,
    limit: u64,
) -> Result<Vec<Entry>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM outbox WHERE project_id = ? AND id > ? ORDER BY id LIMIT ?");
    rows(tx, &sql, &[project.into(), id.into(), limit.into()])
}

/// The rows with these numbers, in order.
pub fn among(tx: &mut Tx<'_>, ids: &[i64]) -> Result<Vec<Entry>, Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM outbox WHERE id IN ({}) ORDER BY id",
        sql::placeholders(ids.len())
    );
    let params: Vec<Value> = ids.iter().map(|id| (*id).into()).collect();
    rows(tx, &sql, &params)
}

/// The lowest and the highest number there is; zeros when there is none.
pub fn bounds(tx: &mut Tx<'_>) -> Result<(i64, i64), Error> {
    let row = tx.query_one(
        "SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) FROM outbox",
        &[],
    )?;
    Ok((row.get(0)?, row.get(1)?))
}

/// Numbers removed by one [`forget`] at most, so that others need not wait for long.
const FORGOTTEN_AT_ONCE: i64 = 5000;

/// Removes rows from before a time, and the oldest ones when there are more than `most`; the newest one stays, so that
/// numbers never begin anew. Call it again while it removes any.
pub fn forget(tx: &mut Tx<'_>, before: Timestamp, most: i64) -> Result<u64, Error> {
    let (lowest, highest) = bounds(tx)?;
    let sql = "SELECT id FROM outbox WHERE created_at >= ? ORDER BY id LIMIT 1";
    let young = match tx.query_opt(sql, &[before.into()])? {
        Some(row) => row.get(0)?,
        None => highest,
    };
    let end = young
        .max(highest.saturating_sub(most) + 1)
        .min(highest)
        .min(lowest.saturating_add(FORGOTTEN_AT_ONCE));
    tx.execute("DELETE FROM outbox WHERE id < ?", &[end.into()])
}

/// These servers, deleted ones too, each with its key pair if that is still there.
pub fn servers(
    tx: &mut Tx<'_>,
    ids: &[ServerId],
) -> Result<Vec<(Instance, Option<KeyPair>)>, Error> {
    let mut found = Vec::with_capacity(ids.len());
    for part in ids.chunks(100) {
        let params: Vec<Value> = part.iter().map(|&id| id.into()).collect();
        let sql = format!(
            "SELECT {} FROM instances WHERE uuid IN ({})",
            instances::COLUMNS,
            sql::placeholders(part.len())
        );
        let servers: Vec<Instance> = tx
            .query(&sql, &params)?
            .into_iter()
            .map(instances::from_row)
            .collect::<Result<_, _>>()?;
        let mut users: Vec<&str> = servers
            .iter()
            .filter(|one| one.key_name.is_some())
            .map(|one| one.user_id.as_str())
            .collect();
        users.sort_unstable();
        users.dedup();
        let keys = keypairs::of_users(tx, &users)?;
        found.extend(servers.into_iter().map(|server| {
            let own = keys.iter().find(|key| {
                key.user_id == server.user_id.as_str()
                    && Some(&key.name) == server.key_name.as_ref()
            });
            let own = own.cloned();
            (server, own)
        }));
    }
    Ok(found)
}

/// How far a reader has come, if this process may read for it until `until`: nobody else does now.
pub fn lease(
    tx: &mut Tx<'_>,
    reader: &str,
    owner: &str,
    until: Timestamp,
    now: Timestamp,
) -> Result<Option<i64>, Error> {
    let taken = tx.execute(
        "UPDATE outbox_readers SET owner = ?, until = ? WHERE name = ? AND (owner = ? OR until < ?)",
        &[owner.into(), until.into(), reader.into(), owner.into(), now.into()],
    )?;
    let sql = "SELECT position FROM outbox_readers WHERE name = ?";
    let row = tx.query_opt(sql, &[reader.into()])?;
    match (taken, row) {
        (1.., Some(row)) => row.get(0).map(Some),
        (_, Some(_)) => Ok(None),
        (_, None) => {
            // The first time: what is to come, not what was.
            let (_, highest) = bounds(tx)?;
            tx.post(
                "INSERT INTO outbox_readers (name, position, owner, until) VALUES (?, ?, ?, ?)",
                &[reader.into(), highest.into(), owner.into(), until.into()],
            )?;
            Ok(Some(highest))
        }
    }
}

/// Writes how far a reader has come. `false`: another process reads for it by now.
pub fn advance(tx: &mut Tx<'_>, reader: &str, owner: &str, position: i64) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE outbox_readers SET position = ? WHERE name = ? AND owner = ?",
        &[position.into(), reader.into(), owner.into()],
    )?;
    Ok(changed == 1)
}

/// How long a number that is not there is looked for: longer than any transaction takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Missing numbers that are looked for at most; of more, the lowest are given up.
const MISSING: usize = 500;
/// How far before the newest row a new reader looks for numbers that are missing.
const BACK: i64 = 200;

/// A reader's place in the outbox.
#[derive(Clone, Debug)]
pub struct Tail {
    highest: i64,
    missing: BTreeMap<i64, Instant>,
    /// Up to here rows are known already and not told.
    known: i64,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Batch {
    found: Vec<Entry>,
    /// There is more to read at once.
    pub more: bool,
}

impl Tail {
    /// Begins after a number that was told.
    pub fn after(id: i64) -> Self {
        Self {
            highest: id,
            missing: BTreeMap::new(),
            known: id,
        }
    }

    /// Begins with what is committed from now on.
    pub fn at_end(tx: &mut Tx<'_>) -> Result<Self, Error> {
        let (lowest, highest) = bounds(tx)?;
        Ok(Self {
            highest: (highest - BACK).max(lowest - 1).max(0),
            missing: BTreeMap::new(),
            known: highest,
        })
    }

    /// Everything up to this number was told, or is never to come.
    pub fn low_water(&self) -> i64 {
        match self.missing.first_key_value() {
            Some((first, _)) => first - 1,
            None => self.highest,
        }
    }

    /// Reads what is new, at most so many rows, and what was missing.
    pub fn read(&self, tx: &mut Tx<'_>, most: u64) -> Result<Batch, Error> {
        let missing: Vec<i64> = self.missing.keys().copied().collect();
        let mut found = among(tx, &missing)?;
        let new = after(tx, self.highest, most)?;
        let more = new.len() as u64 == most;
        found.extend(new);
        Ok(Batch { found, more })
    }

    /// Takes what was read; returns what is to be told.
    pub fn take(&mut self, batch: Batch, now: Instant) -> Vec<Entry> {
        let mut told = Vec::with_capacity(batch.found.len());
        for entry in batch.found {
            if entry.id > self.highest {
                let from = (self.highest + 1).max(entry.id.saturating_sub(MISSING as i64));
                self.missing.extend((from..entry.id).map(|id| (id, now)));
                self.highest = entry.id;
                if entry.id > self.known {
                    told.push(entry);
                }
            } else if self.missing.remove(&entry.id).is_some() {
                told.push(entry);
            }
        }
        while self.missing.len() > MISSING {
            self.missing.pop_first();
        }
        self.missing
            .retain(|_, since| now.saturating_duration_since(*since) < PATIENCE);
        told
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
