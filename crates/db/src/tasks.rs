//! The journal's rows: one per run of a flow, and the processes that run them.
//!
//! Every write of a running task carries its epoch. A task whose epoch was raised by somebody else answers
//! `false` to all of them, and its old runner stops.

use crate::work;
use serde::{Deserialize, Serialize};
use sql::{Error, Row, Tx, Value};
use types::agent::Work;
use types::{HostName, ServerId, TaskId, Timestamp, Trace};
use uuid::Uuid;

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Steps are being done.
    Running,
    /// Steps are being undone.
    Undoing,
}

impl Phase {
    /// The text stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Undoing => "undoing",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "running" => Ok(Self::Running),
            "undoing" => Ok(Self::Undoing),
            other => Err(Error::Column(format!("'{other}' is not a phase"))),
        }
    }
}

/// A task that has not ended; ended tasks have no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The id.
    pub id: TaskId,
    /// The flow's name.
    pub flow: String,
    /// The server it works on.
    pub server: ServerId,
    /// The API request behind it.
    pub request_id: String,
    /// The instance action it shows itself as.
    pub action: Option<i64>,
    /// The open event of that action.
    pub event: Option<i64>,
    /// The flow's state, JSON.
    pub state: String,
    /// Forward or back.
    pub phase: Phase,
    /// The step that was started last, by name.
    pub step: Option<String>,
    /// Raised by each claim and by whoever takes the task over.
    pub epoch: i64,
    /// The worker that runs it.
    pub owner: Option<String>,
    /// That worker's incarnation.
    pub incarnation: i64,
    /// Why it is being undone.
    pub failure: Option<String>,
    /// The trace of the request, when that came with one.
    pub trace: Option<Trace>,
    /// What it has been waiting for for some time.
    pub waits: Option<Waits>,
}

/// Why a task does not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// What went wrong the last time.
    pub reason: String,
    /// When it began to wait.
    pub since: Timestamp,
    /// How often it has tried since then.
    pub tries: u32,
    /// Whether it does not try again by itself: its state is not one that this release knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
}

/// The epoch of whoever is the first to run a task.
pub const FIRST_EPOCH: i64 = 1;

impl Task {
    /// Whether nobody has run it yet.
    pub fn is_new(&self) -> bool {
        self.epoch < FIRST_EPOCH
    }

    /// Whether it is run by the same worker, under the same epoch, as `other`.
    pub fn is_run_as(&self, other: &Self) -> bool {
        (self.epoch, &self.owner, self.incarnation)
            == (other.epoch, &other.owner, other.incarnation)
    }
}

const COLUMNS: &str = "id, flow, instance_uuid, request_id, action_id, event_id, state, phase, step, epoch, owner, incarnation, failure, trace, waits";

fn from_row(mut row: Row) -> Result<Task, Error> {
    Ok(Task {
        id: row.get(0)?,
        flow: row.get(1)?,
        server: row.get(2)?,
        request_id: row.get(3)?,
        action: row.get(4)?,
        event: row.get(5)?,
        state: row.take_string(6)?.unwrap_or_default(),
        phase: Phase::parse(&row.get::<String>(7)?)?,
        step: row.get(8)?,
        epoch: row.get(9)?,
        owner: row.get(10)?,
        incarnation: row.get(11)?,
        failure: row.get(12)?,
        trace: trace_from(row.get(13)?),
        // Nothing but words depends on it.
        waits: row
            .get::<Option<String>>(14)?
            .and_then(|text| serde_json::from_str(&text).ok()),
    })
}

/// A trace as it is stored; one that cannot be read is none: nothing but logs depends on it.
pub(crate) fn trace_from(text: Option<String>) -> Option<Trace> {
    serde_json::from_str(&text?).ok()
}

/// A task to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewTask<'a> {
    /// Its id.
    pub id: TaskId,
    /// The flow that it runs.
    pub flow: &'a str,
    /// The server that it works on.
    pub server: ServerId,
    /// The request that asked for it.
    pub request_id: &'a str,
    /// The instance action that it carries out.
    pub action: Option<i64>,
    /// The flow's first state, JSON.
    pub state: &'a str,
    /// The trace of that request.
    pub trace: Option<&'a Trace>,
}

/// Stores a new task that nobody runs yet, and returns it as it is stored.
pub fn insert(tx: &mut Tx<'_>, task: &NewTask<'_>, now: Timestamp) -> Result<Task, Error> {
    tx.post(
        "INSERT INTO tasks (id, flow, instance_uuid, request_id, action_id, state, phase, epoch, incarnation, created_at, updated_at, trace) \
         VALUES (?, ?, ?, ?, ?, ?, 'running', 0, 0, ?, ?, ?)",
        &[
            task.id.into(),
            task.flow.into(),
            task.server.into(),
            task.request_id.into(),
            task.action.into(),
            task.state.into(),
            now.into(),
            now.into(),
            task.trace.map(crate::to_document).transpose()?.into(),
        ],
    )?;
    Ok(Task {
        id: task.id,
        flow: task.flow.to_owned(),
        server: task.server,
        request_id: task.request_id.to_owned(),
        action: task.action,
        event: None,
        state: task.state.to_owned(),
        phase: Phase::Running,
        step: None,
        epoch: 0,
        owner: None,
        incarnation: 0,
        failure: None,
        trace: task.trace.cloned(),
        waits: None,
    })
}

/// Hands the passphrase of a server's TPM, sealed, to the task that works on the server: hosts get it with the task's work,
/// and it goes with the task.
pub fn hand_passphrase(tx: &mut Tx<'_>, server: ServerId, sealed: &str) -> Result<(), Error> {
    tx.post(
        "UPDATE tasks SET passphrase = ? WHERE id = (SELECT task_id FROM instances WHERE uuid = ?)",
        &[sealed.into(), server.into()],
    )
}

/// A task, if it has not ended.
pub fn get(tx: &mut Tx<'_>, id: TaskId) -> Result<Option<Task>, Error> {
    tx.query_opt(
        &format!("SELECT {COLUMNS} FROM tasks WHERE id = ?"),
        &[id.into()],
    )?
    .map(from_row)
    .transpose()
}

/// The task that a request has started on a server, if it has not ended.
pub fn of_request(
    tx: &mut Tx<'_>,
    server: ServerId,
    request_id: &str,
) -> Result<Option<Task>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM tasks WHERE instance_uuid = ? AND request_id = ?");
    tx.query_opt(&sql, &[server.into(), request_id.into()])?
        .map(from_row)
        .transpose()
}

/// All tasks that have not ended, oldest first.
pub fn open(tx: &mut Tx<'_>) -> Result<Vec<Task>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM tasks ORDER BY created_at, id");
    tx.query(&sql, &[])?.into_iter().map(from_row).collect()
}

/// Whether there are tasks that no worker has taken yet.
pub fn any_new(tx: &mut Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .query_opt("SELECT 1 FROM tasks WHERE owner IS NULL LIMIT 1", &[])?
        .is_some())
}

/// The tasks that are a worker's under this incarnation, and the servers that they work on.
pub fn of_worker(
    tx: &mut Tx<'_>,
    worker: &str,
    incarnation: i64,
) -> Result<Vec<(TaskId, ServerId)>, Error> {
    let sql = "SELECT id, instance_uuid FROM tasks WHERE owner = ? AND incarnation = ?";
    let rows = tx.query(sql, &[worker.into(), incarnation.into()])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Raises the epoch of a task that is run as `task` says, if its host has seen a later one than is on record, as after the
/// database was put back to what it was before: nothing would be done under that one any more. The next epoch then.
pub fn raise_if_fenced(tx: &mut Tx<'_>, task: &Task) -> Result<Option<i64>, Error> {
    if !work::is_fenced(tx, task.id)? {
        return Ok(None);
    }
    let raised = tx.execute(
        "UPDATE tasks SET epoch = epoch + 1 WHERE id = ? AND owner = ? AND incarnation = ? AND epoch = ?",
        &[
            task.id.into(),
            task.owner.clone().into(),
            task.incarnation.into(),
            task.epoch.into(),
        ],
    )?;
    if raised != 1 {
        return Ok(None);
    }
    work::forget_fenced(tx, task.id)?;
    Ok(Some(task.epoch + 1))
}

/// Takes the tasks of these flows (name and steps) that nobody runs: new ones, and those of dead workers (`dead`: name
/// and the last dead incarnation; those before it are dead too). An earlier incarnation of `worker` itself is always dead. Tasks that stand at steps which are not
/// known here are left to workers of the release that began them.
pub fn claim(
    tx: &mut Tx<'_>,
    worker: &str,
    incarnation: i64,
    dead: &[(String, i64)],
    flows: &[(&str, Vec<&str>)],
    most: u64,
) -> Result<Vec<Task>, Error> {
    let mut steps: Vec<&str> = flows.iter().flat_map(|(_, steps)| steps).copied().collect();
    steps.sort_unstable();
    steps.dedup();
    // Serializable, MySQL locks whatever it reads on its way: all tasks, did it not take the index.
    let index = match tx.dialect() {
        sql::Dialect::Mysql => " FORCE INDEX (tasks_owner)",
        _ => "",
    };
    let mut sql = format!(
        "SELECT {COLUMNS} FROM tasks{index} WHERE flow IN ({}) AND (step IS NULL OR step IN ({})) \
         AND (owner IS NULL OR (owner = ? AND incarnation < ?)",
        sql::placeholders(flows.len()),
        sql::placeholders(steps.len())
    );
    let names = flows.iter().map(|(name, _)| *name).chain(steps);
    let mut params: Vec<Value> = names.map(Into::into).collect();
    params.extend([worker.into(), incarnation.into()]);
    for (name, of) in dead {
        sql.push_str(" OR (owner = ? AND incarnation <= ?)");
        params.extend([name.into(), (*of).into()]);
    }
    sql.push_str(") ORDER BY created_at, id LIMIT ?");
    params.push(most.into());
    let mut claimed = Vec::new();
    for row in tx.query(&sql, &params)? {
        let mut task = from_row(row)?;
        let known = |step: &str| {
            let mut its = flows.iter().filter(|(name, _)| *name == task.flow);
            its.any(|(_, steps)| steps.contains(&step))
        };
        if !task.step.as_deref().is_none_or(known) {
            continue;
        }
        task.epoch += 1;
        task.owner = Some(worker.to_owned());
        task.incarnation = incarnation;
        claimed.push(task);
    }
    if claimed.is_empty() {
        return Ok(claimed);
    }
    let sql = format!(
        "UPDATE tasks SET owner = ?, incarnation = ?, epoch = epoch + 1 WHERE id IN ({})",
        sql::placeholders(claimed.len())
    );
    let mut params: Vec<Value> = vec![worker.into(), incarnation.into()];
    params.extend(claimed.iter().map(|task| Value::from(task.id)));
    tx.post(&sql, &params)?;
    Ok(claimed)
}

/// Saves a task's progress, and whose it is: `stored` is the epoch under which it is on record, that of a new task if its
/// owner knows it without having claimed it. With it goes the work that a host is to do for it. `false`: the task was taken
/// over or has ended.
pub fn save(
    tx: &mut Tx<'_>,
    task: &Task,
    stored: i64,
    work: Option<(&HostName, &Work)>,
    now: Timestamp,
) -> Result<bool, Error> {
    let work = work.map(|(host, work)| work::storing(tx.dialect(), host, work, now));
    let work = work.transpose()?;
    let along: Vec<sql::Statement<'_>> = work
        .iter()
        .map(|(sql, params)| (sql.as_str(), params.as_slice()))
        .collect();
    tx.execute_one_with(
        ("UPDATE tasks SET owner = ?, incarnation = ?, epoch = ?, state = ?, phase = ?, step = ?, event_id = ?, failure = ?, \
         updated_at = ?, waits = ? WHERE id = ? AND epoch = ?",
        &[
            task.owner.clone().into(),
            task.incarnation.into(),
            task.epoch.into(),
            (&task.state).into(),
            task.phase.as_str().into(),
            task.step.clone().into(),
            task.event.into(),
            task.failure.clone().into(),
            now.into(),
            task.waits.as_ref().map(crate::to_document).transpose()?.into(),
            task.id.into(),
            stored.into(),
        ]),
        &along,
    )
}

/// Writes down what a task waits for.
pub fn note_waits(tx: &mut Tx<'_>, id: TaskId, epoch: i64, waits: &Waits) -> Result<(), Error> {
    tx.post(
        "UPDATE tasks SET waits = ? WHERE id = ? AND epoch = ?",
        &[crate::to_document(waits)?.into(), id.into(), epoch.into()],
    )
}

/// Ends a task: the row goes. `false`: it was taken over or has ended.
pub fn end(tx: &mut Tx<'_>, id: TaskId, epoch: i64) -> Result<bool, Error> {
    tx.execute_one_with(
        (
            "DELETE FROM tasks WHERE id = ? AND epoch = ?",
            &[id.into(), epoch.into()],
        ),
        &[(work::REMOVE_OF_TASK, &[id.into()])],
    )
}

/// Ends a task whoever runs it, and returns what it had recorded. Its runner is fenced from now on.
pub fn take_over(tx: &mut Tx<'_>, id: TaskId) -> Result<Option<Task>, Error> {
    let Some(task) = get(tx, id)? else {
        return Ok(None);
    };
    end(tx, id, task.epoch)?;
    Ok(Some(task))
}

/// Registers the start of a process as this worker and returns its incarnation.
pub fn start_worker(tx: &mut Tx<'_>, name: &str, process: Uuid) -> Result<i64, Error> {
    let changed = tx.execute(
        "UPDATE workers SET incarnation = incarnation + 1, beats = beats + 1, process = ? WHERE name = ?",
        &[process.into(), name.into()],
    )?;
    if changed == 0 {
        tx.post(
            "INSERT INTO workers (name, incarnation, beats, process) VALUES (?, 1, 1, ?)",
            &[name.into(), process.into()],
        )?;
    }
    tx.query_one(
        "SELECT incarnation FROM workers WHERE name = ?",
        &[name.into()],
    )?
    .get(0)
}

/// Makes a worker that knows itself as `incarnation` its own later one, which it returns; `None` when another process
/// has taken the name. May be repeated when it is not known whether it was done.
pub fn restart_worker(
    tx: &mut Tx<'_>,
    name: &str,
    process: Uuid,
    incarnation: i64,
) -> Result<Option<i64>, Error> {
    let its = tx.query_opt(
        "SELECT incarnation FROM workers WHERE name = ? AND process = ?",
        &[name.into(), process.into()],
    )?;
    let Some(its) = its else { return Ok(None) };
    let stored: i64 = its.get(0)?;
    let next = stored.max(incarnation + 1);
    tx.post(
        "UPDATE workers SET incarnation = ?, beats = beats + 1 WHERE name = ? AND process = ?",
        &[next.into(), name.into(), process.into()],
    )?;
    Ok(Some(next))
}

/// Says that a worker lives.
pub fn beat(tx: &mut Tx<'_>, name: &str, incarnation: i64) -> Result<bool, Error> {
    Ok(tx.execute(
        "UPDATE workers SET beats = beats + 1 WHERE name = ? AND incarnation = ?",
        &[name.into(), incarnation.into()],
    )? == 1)
}

/// All workers: name, incarnation, beats.
pub fn workers(tx: &mut Tx<'_>) -> Result<Vec<(String, i64, i64)>, Error> {
    let rows = tx.query("SELECT name, incarnation, beats FROM workers", &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}
