//! Work that hosts pull, and the debts that a host pays before it takes new work.

use crate::block_devices::{self, BlockDevice};
use crate::instances::Kept;
use crate::{document, to_document};
use sql::{Dialect, Error, Row, Tx, Value};
use std::collections::HashMap;
use types::agent::{Asked, Direction, FailureKind, HostFacts, Verb, Work, WorkKey, WorkOutcome};
use types::tpm::Passphrase;
use types::{HostName, ServerId, TaskId, Timestamp};
use uuid::Uuid;

/// The step name under which a host is handed a debt.
pub const DEBT_STEP: &str = "debt";

/// Stores work for a host. The same key again (a task that was taken over) raises the epoch of the row and keeps an
/// outcome that is already there, so that an effect is not repeated.
pub fn put(tx: &mut Tx<'_>, host: &HostName, work: &Work, now: Timestamp) -> Result<(), Error> {
    let (sql, params) = storing(tx.dialect(), host, work, now)?;
    tx.post(&sql, &params)
}

/// The statement of [`put`], and its parameters.
pub(crate) fn storing(
    dialect: Dialect,
    host: &HostName,
    work: &Work,
    now: Timestamp,
) -> Result<(String, Vec<Value>), Error> {
    let row = [
        ("task_id", work.key.task.into()),
        ("step", (&work.key.step).into()),
        ("direction", work.key.direction.as_str().into()),
        ("epoch", work.epoch.into()),
        ("host", host.into()),
        ("instance_uuid", work.server.into()),
        ("request_id", (&work.request).into()),
        ("deadline_seconds", work.deadline_seconds.into()),
        ("verb", to_document(&work.verb)?.into()),
        ("created_at", now.into()),
    ];
    // It was stored when it was stored first: agents know by that what they were given already.
    let key = ["task_id", "step", "direction"];
    let sql = dialect.upsert("host_work", &key, &row, &["created_at"]);
    Ok((sql, row.map(|(_, value)| value).to_vec()))
}

/// Forgets the outcome of earlier work under this key, so that it is done anew (a step that is repeated on purpose).
pub fn remove(tx: &mut Tx<'_>, key: &WorkKey) -> Result<(), Error> {
    tx.post(
        "DELETE FROM host_work WHERE task_id = ? AND step = ? AND direction = ?",
        &[
            key.task.into(),
            (&key.step).into(),
            key.direction.as_str().into(),
        ],
    )?;
    Ok(())
}

/// Takes back work that no host has answered: its task has turned back, and done late it would undo the undo.
pub fn withdraw(tx: &mut Tx<'_>, task: TaskId) -> Result<(), Error> {
    tx.post(
        "DELETE FROM host_work WHERE task_id = ? AND outcome IS NULL",
        &[task.into()],
    )?;
    Ok(())
}

/// Whether a host has seen a later epoch of a task than the one under which it was asked.
pub(crate) fn is_fenced(tx: &mut Tx<'_>, task: TaskId) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM host_work WHERE task_id = ? AND outcome = ? LIMIT 1";
    let fenced = to_document(&WorkOutcome::Fenced)?;
    Ok(tx.query_opt(sql, &[task.into(), fenced.into()])?.is_some())
}

/// Forgets that, so that the host is asked again.
pub(crate) fn forget_fenced(tx: &mut Tx<'_>, task: TaskId) -> Result<(), Error> {
    let fenced = to_document(&WorkOutcome::Fenced)?;
    tx.post(
        "DELETE FROM host_work WHERE task_id = ? AND outcome = ?",
        &[task.into(), fenced.into()],
    )
}

/// Ends work of a step that no host has answered and that was stored before `before`, as if its host had called it off: what
/// that reports later is too late.
pub fn call_off(
    tx: &mut Tx<'_>,
    task: TaskId,
    step: &str,
    why: &str,
    before: Timestamp,
) -> Result<(), Error> {
    let outcome = WorkOutcome::failed(FailureKind::Cancelled, why);
    tx.post(
        "UPDATE host_work SET outcome = ? WHERE task_id = ? AND step = ? AND direction = ? AND outcome IS NULL \
         AND created_at <= ?",
        &[
            to_document(&outcome)?.into(),
            task.into(),
            step.into(),
            Direction::Do.as_str().into(),
            before.into(),
        ],
    )
}

/// Forgets all work of a task.
pub fn remove_of_task(tx: &mut Tx<'_>, task: TaskId) -> Result<(), Error> {
    tx.post(REMOVE_OF_TASK, &[task.into()])
}

pub(crate) const REMOVE_OF_TASK: &str = "DELETE FROM host_work WHERE task_id = ?";

/// What waits for a host.
#[derive(Debug, Default)]
pub struct Pending {
    /// Work, each with the time it was stored: work that is stored anew under the same key and epoch has another time, by
    /// which it is known not to be handed over yet.
    pub work: Vec<(Work, Timestamp)>,
    /// What was stored in words that this release does not know: it is for conductors that do.
    pub unknown: Vec<WorkKey>,
}

/// The work of a host that has no outcome yet, debts first; of both so many at most.
pub fn pending(tx: &mut Tx<'_>, host: &HostName, most: u64) -> Result<Pending, Error> {
    Ok(for_host(tx, host, most)?.pending)
}

/// All that a host is to be told.
#[derive(Debug)]
pub struct ForHost {
    /// Its work.
    pub pending: Pending,
    /// The disks of the servers that it has work for.
    pub devices: Vec<BlockDevice>,
    /// The questions that it has not answered.
    pub asked: Vec<Asked>,
    /// There may be more work than this.
    pub more: bool,
}

/// The same, and what else the host is to be told.
pub fn for_host(tx: &mut Tx<'_>, host: &HostName, most: u64) -> Result<ForHost, Error> {
    let [debts, facts, rows, questions, devices] = tx.queries([
        (DEBTS, &[host.into(), most.into()]),
        (FACTS_OF_DEBTS, &[host.into(), host.into()]),
        (WAITING, &[host.into(), most.into()]),
        (crate::questions::OPEN, &[host.into()]),
        (&block_devices::select_awaited(), &[host.into()]),
    ])?;
    let storages = storages(&facts)?;
    let own = storages.get(&host.0);
    let of_debt = |row| debt_as_work(row, own, &storages);
    let mut found = Pending {
        work: debts.iter().map(of_debt).collect::<Result<_, _>>()?,
        unknown: Vec::new(),
    };
    let is_full = |rows: &[Row]| u64::try_from(rows.len()).is_ok_and(|count| count >= most);
    for row in &rows {
        let key = key_from(row)?;
        match document(&row.get::<String>(7)?) {
            Ok(verb) => found.work.push((work_from(row, key, verb)?, row.get(8)?)),
            Err(_) => found.unknown.push(key),
        }
    }
    let devices = devices.into_iter().map(block_devices::from_row);
    Ok(ForHost {
        pending: found,
        devices: devices.collect::<Result<_, _>>()?,
        asked: crate::questions::from_rows(&questions)?,
        more: is_full(&debts) || is_full(&rows),
    })
}

// With the host that has the server, if that is another one.
const DEBTS: &str = "SELECT d.id, d.instance_uuid, d.created_at, i.host, i.kept FROM host_debts d \
         LEFT JOIN instances i ON i.uuid = d.instance_uuid AND +i.deleted = 0 AND i.host <> d.host \
         AND (i.task_state IS NULL OR i.task_state <> 'deleting') \
         WHERE d.host = ? ORDER BY d.created_at LIMIT ?";

// What is known of the debtor and of the hosts that have the servers, of each once: it is much.
const FACTS_OF_DEBTS: &str = "SELECT n.host, n.facts FROM (SELECT d.host FROM host_debts d WHERE d.host = ? \
         UNION SELECT i.host FROM host_debts d LEFT JOIN instances i ON i.uuid = d.instance_uuid AND +i.deleted = 0 \
         WHERE d.host = ?) h JOIN compute_nodes n ON n.host = h.host";

const WAITING: &str = "SELECT w.task_id, w.step, w.direction, w.epoch, w.instance_uuid, w.request_id, w.deadline_seconds, w.verb, w.created_at, \
         t.trace, t.passphrase FROM host_work w LEFT JOIN tasks t ON t.id = w.task_id \
         WHERE w.host = ? AND w.outcome IS NULL ORDER BY w.created_at LIMIT ?";

fn key_from(row: &Row) -> Result<WorkKey, Error> {
    let direction = if row.get::<String>(2)? == "undo" {
        Direction::Undo
    } else {
        Direction::Do
    };
    Ok(WorkKey {
        task: row.get(0)?,
        step: row.get(1)?,
        direction,
    })
}

fn work_from(row: &Row, key: WorkKey, verb: Verb) -> Result<Work, Error> {
    Ok(Work {
        key,
        epoch: row.get(3)?,
        server: row.get(4)?,
        request: row.get(5)?,
        deadline_seconds: row.get(6)?,
        verb,
        trace: crate::tasks::trace_from(row.get(9)?),
        passphrase: row.get::<Option<String>>(10)?.map(Passphrase),
    })
}

/// The file systems of hosts, by the hosts' names.
fn storages(rows: &[Row]) -> Result<HashMap<String, String>, Error> {
    let mut all = HashMap::new();
    for row in rows {
        let facts = row.get::<Option<String>>(1)?;
        let facts: Option<HostFacts> = facts.as_deref().map(document).transpose()?;
        if let Some(storage) = facts.and_then(|facts| facts.storage) {
            all.insert(row.get(0)?, storage);
        }
    }
    Ok(all)
}

/// A host that shares its files with the one that has the server must not remove them, also where they say that they are its
/// own: a move that was given up has left them like that, and there are no others. What has landed of a resize is a copy.
fn debt_as_work(
    row: &Row,
    own: Option<&String>,
    storages: &HashMap<String, String>,
) -> Result<(Work, Timestamp), Error> {
    let id: Uuid = row.get(0)?;
    let servers = row.get::<Option<String>>(3)?;
    let servers = servers.and_then(|host| storages.get(&host));
    let kept = row.get::<Option<String>>(4)?;
    let kept: Option<Kept> = kept.as_deref().map(document).transpose()?;
    let copied = kept.is_some_and(|kept| kept.unsettled.is_some());
    let verb = match own.is_some() && own == servers && !copied {
        true => Verb::EnsureUndefined,
        false => Verb::EnsureAbsent,
    };
    let work = Work {
        key: WorkKey {
            task: TaskId(id),
            step: DEBT_STEP.to_owned(),
            direction: Direction::Undo,
        },
        epoch: 1,
        server: row.get(1)?,
        request: String::new(),
        deadline_seconds: 600,
        verb,
        trace: None,
        passphrase: None,
    };
    Ok((work, row.get(2)?))
}

/// Writes how work of this host ended; `false` when nobody waits for it any more, or for a higher epoch. A debt that could not be
/// paid is stored anew, so that the host is asked again.
pub fn finish(
    tx: &mut Tx<'_>,
    host: &HostName,
    key: &WorkKey,
    epoch: u64,
    outcome: &WorkOutcome,
) -> Result<bool, Error> {
    if key.step == DEBT_STEP {
        if matches!(outcome, WorkOutcome::Done { .. }) {
            let owed = "SELECT instance_uuid FROM host_debts WHERE id = ? AND host = ?";
            if let Some(row) = tx.query_opt(owed, &[key.task.into(), host.into()])? {
                let server = row.get(0)?;
                crate::migrations::evacuated(tx, server, host, Timestamp::now())?;
                crate::leftovers::forget(tx, host, server)?;
            }
            tx.post(
                "DELETE FROM host_debts WHERE id = ? AND host = ?",
                &[key.task.into(), host.into()],
            )?;
        } else {
            tx.post(
                "UPDATE host_debts SET created_at = ? WHERE id = ? AND host = ?",
                &[Timestamp::now().into(), key.task.into(), host.into()],
            )?;
        }
        return Ok(true);
    }
    tx.execute_one(
        "UPDATE host_work SET outcome = ? WHERE task_id = ? AND step = ? AND direction = ? AND epoch <= ? AND host = ? \
         AND outcome IS NULL",
        &[
            to_document(outcome)?.into(),
            key.task.into(),
            (&key.step).into(),
            key.direction.as_str().into(),
            epoch.into(),
            host.into(),
        ],
    )
}

/// The outcome of work, if it has one. For whoever has lost the task since `epoch` it is fenced: what its host reports is
/// the next one's.
pub fn outcome(tx: &mut Tx<'_>, key: &WorkKey, epoch: i64) -> Result<Option<WorkOutcome>, Error> {
    let row = tx.query_opt(
        "SELECT t.epoch, w.outcome FROM tasks t LEFT JOIN host_work w ON w.task_id = t.id AND w.step = ? AND w.direction = ? \
         WHERE t.id = ?",
        &[
            (&key.step).into(),
            key.direction.as_str().into(),
            key.task.into(),
        ],
    )?;
    match row {
        Some(row) if row.get::<i64>(0)? == epoch => {
            let outcome: Option<String> = row.get(1)?;
            outcome.as_deref().map(document).transpose()
        }
        _ => Ok(Some(WorkOutcome::Fenced)),
    }
}

/// How many pieces of work are stored, done or not: none when no task is left. For tests and audits.
pub fn count(tx: &mut Tx<'_>) -> Result<i64, Error> {
    tx.query_one("SELECT COUNT(*) FROM host_work", &[])?.get(0)
}

/// Records that a host still has to remove a server.
pub fn owe(
    tx: &mut Tx<'_>,
    host: &HostName,
    server: ServerId,
    reason: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let owed: i64 = tx
        .query_one(
            "SELECT COUNT(*) FROM host_debts WHERE host = ? AND instance_uuid = ?",
            &[host.into(), server.into()],
        )?
        .get(0)?;
    if owed > 0 {
        return Ok(());
    }
    tx.post(
        "INSERT INTO host_debts (id, host, instance_uuid, reason, created_at) VALUES (?, ?, ?, ?, ?)",
        &[
            Uuid::new_v4().into(),
            host.into(),
            server.into(),
            crate::cut(reason, 255).into(),
            now.into(),
        ],
    )?;
    Ok(())
}

/// The debts of all hosts: host, server, reason.
pub fn debts(tx: &mut Tx<'_>) -> Result<Vec<(HostName, ServerId, String)>, Error> {
    let rows = tx.query(
        "SELECT host, instance_uuid, reason FROM host_debts ORDER BY created_at",
        &[],
    )?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// The hosts that still have to remove something of a server: it must not come back to them before they have.
pub fn debtors(tx: &mut Tx<'_>, server: ServerId) -> Result<Vec<HostName>, Error> {
    let rows = tx.query(DEBTORS, &[server.into()])?;
    rows.iter().map(|row| row.get(0)).collect()
}

pub(crate) const DEBTORS: &str = "SELECT host FROM host_debts WHERE instance_uuid = ?";

/// The host that a task waits for, if it waits for one.
pub fn awaited(tx: &mut Tx<'_>, task: TaskId) -> Result<Option<HostName>, Error> {
    let sql = "SELECT host FROM host_work WHERE task_id = ? AND outcome IS NULL LIMIT 1";
    let row = tx.query_opt(sql, &[task.into()])?;
    row.map(|row| row.get(0)).transpose()
}

/// The hosts for which something is stored that they have not done or answered.
pub fn hosts_with_work(tx: &mut Tx<'_>) -> Result<Vec<HostName>, Error> {
    let rows = tx.query(
        "SELECT host FROM host_work WHERE outcome IS NULL UNION SELECT host FROM host_debts \
         UNION SELECT host FROM host_questions WHERE answer IS NULL",
        &[],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}
