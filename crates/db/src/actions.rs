//! Instance actions and their events: what Nova shows of long work (`os-instance-actions`).

use crate::outbox;
use sql::{Error, Row, Tx, Value};
use types::{ServerId, Timestamp};

/// One request that acted on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Row id.
    pub id: i64,
    /// `create`, `stop`, ...
    pub action: String,
    /// The server.
    pub server: ServerId,
    /// The request.
    pub request_id: String,
    /// Who asked.
    pub user_id: String,
    /// For which project.
    pub project_id: String,
    /// `Error` when it failed, with the reason as its owner may know it.
    pub message: Option<String>,
    /// When it was accepted.
    pub start_time: Timestamp,
    /// Last changed.
    pub updated_at: Timestamp,
}

/// One part of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Row id.
    pub id: i64,
    /// Name, for example `compute__do_build_and_run_instance`.
    pub event: String,
    /// Started.
    pub start_time: Timestamp,
    /// Ended.
    pub finish_time: Option<Timestamp>,
    /// `Success` or `Error`.
    pub result: Option<String>,
    /// For administrators.
    pub traceback: Option<String>,
    /// For administrators.
    pub host: Option<String>,
    /// The same, cut short: for those whom the policy lets see it (2.84), by default administrators.
    pub details: Option<String>,
}

/// Who asked for an action, and through which request.
#[derive(Clone, Debug)]
pub struct Requester<'a> {
    /// The request.
    pub request_id: &'a str,
    /// The user.
    pub user_id: &'a str,
    /// The project.
    pub project_id: &'a str,
    /// The trace that the request belongs to, if it did not begin one.
    pub trace: Option<&'a types::Trace>,
}

/// Records an accepted action.
pub fn start(
    tx: &mut Tx<'_>,
    server: ServerId,
    action: &str,
    by: &Requester<'_>,
    now: Timestamp,
) -> Result<i64, Error> {
    let told = outbox::action_started(server, action, by, now);
    tx.insert_id_with(
        (
            "INSERT INTO instance_actions (action, instance_uuid, request_id, user_id, project_id, start_time, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            &[
                action.into(),
                server.into(),
                by.request_id.into(),
                by.user_id.into(),
                by.project_id.into(),
                now.into(),
                now.into(),
            ],
        ),
        &[told.statement()],
    )
}

/// Characters of what is told of a failure at most.
const TOLD: usize = 255;

/// Marks an action as failed. The reason is for everyone: it names no host.
pub fn fail(tx: &mut Tx<'_>, action: i64, reason: &str, now: Timestamp) -> Result<(), Error> {
    let message: String = format!("Error: {reason}").chars().take(TOLD).collect();
    let told = outbox::action_ended(action, "Error", now);
    let failed = [message.into(), now.into(), action.into()];
    tx.post_all(&[
        (
            "UPDATE instance_actions SET message = ?, updated_at = ? WHERE id = ?",
            &failed,
        ),
        told.statement(),
    ])
}

/// Tells that an action is done.
pub fn succeed(tx: &mut Tx<'_>, action: i64, now: Timestamp) -> Result<(), Error> {
    tx.post_all(&[outbox::action_ended(action, "Success", now).statement()])
}

/// Tells that an action was ended by another one. It shows no failure: nothing of it went wrong.
pub fn supersede(tx: &mut Tx<'_>, action: i64, now: Timestamp) -> Result<(), Error> {
    tx.post_all(&[outbox::action_ended(action, "Superseded", now).statement()])
}

/// The name of an action.
pub fn name(tx: &mut Tx<'_>, action: i64) -> Result<Option<String>, Error> {
    let sql = "SELECT action FROM instance_actions WHERE id = ?";
    let row = tx.query_opt(sql, &[action.into()])?;
    row.map(|row| row.get(0)).transpose()
}

/// Starts an event of an action.
pub fn start_event(
    tx: &mut Tx<'_>,
    action: i64,
    event: &str,
    host: Option<&str>,
    now: Timestamp,
) -> Result<i64, Error> {
    tx.insert_id_with(
        (
            "INSERT INTO instance_action_events (action_id, event, start_time, host) VALUES (?, ?, ?, ?)",
            &[action.into(), event.into(), now.into(), host.into()],
        ),
        &[(
            "UPDATE instance_actions SET updated_at = ? WHERE id = ?",
            &[now.into(), action.into()],
        )],
    )
}

/// Ends an event: `None` is success, else why not.
pub fn finish_event(
    tx: &mut Tx<'_>,
    event: i64,
    failure: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    let outcome = if failure.is_some() {
        "Error"
    } else {
        "Success"
    };
    let details = failure.map(|text| text.chars().take(TOLD).collect::<String>());
    let ended: [Value; 5] = [
        now.into(),
        outcome.into(),
        failure.into(),
        details.into(),
        event.into(),
    ];
    let touched: [Value; 2] = [now.into(), event.into()];
    let told = outbox::event_ended(event, outcome, now);
    tx.post_all(&[
        (
            "UPDATE instance_action_events SET finish_time = ?, outcome = ?, traceback = ?, details = ? WHERE id = ?",
            &ended,
        ),
        (
            "UPDATE instance_actions SET updated_at = ? WHERE id = (SELECT action_id FROM instance_action_events WHERE id = ?)",
            &touched,
        ),
        told.statement(),
    ])
}

/// Records an event that is over: `failure` is as for [`finish_event`].
pub fn note_event(
    tx: &mut Tx<'_>,
    action: i64,
    event: &str,
    host: Option<&str>,
    failure: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    let event = start_event(tx, action, event, host, now)?;
    finish_event(tx, event, failure, now)
}

const ACTION: &str =
    "id, action, instance_uuid, request_id, user_id, project_id, message, start_time, updated_at";

fn action_from(row: &Row) -> Result<Action, Error> {
    Ok(Action {
        id: row.get(0)?,
        action: row.get(1)?,
        server: row.get(2)?,
        request_id: row.get(3)?,
        user_id: row.get(4)?,
        project_id: row.get(5)?,
        message: row.get(6)?,
        start_time: row.get(7)?,
        updated_at: row.get(8)?,
    })
}

/// The actions of a server, newest first.
pub fn of_server(tx: &mut Tx<'_>, server: ServerId) -> Result<Vec<Action>, Error> {
    let sql =
        format!("SELECT {ACTION} FROM instance_actions WHERE instance_uuid = ? ORDER BY id DESC");
    tx.query(&sql, &[server.into()])?
        .iter()
        .map(action_from)
        .collect()
}

/// For which project a request was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The server.
    pub server: ServerId,
    /// The request.
    pub request_id: String,
    /// The project of its token, which need not be the server's.
    pub project_id: String,
}

/// For which projects these servers' actions were asked for with these requests.
pub fn askers(
    tx: &mut Tx<'_>,
    servers: &[ServerId],
    requests: &[String],
) -> Result<Vec<Asker>, Error> {
    if servers.is_empty() || requests.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT DISTINCT instance_uuid, request_id, project_id FROM instance_actions \
         WHERE instance_uuid IN ({}) AND request_id IN ({})",
        sql::placeholders(servers.len()),
        sql::placeholders(requests.len())
    );
    let servers = servers.iter().map(|&server| Value::from(server));
    let params: Vec<Value> = servers.chain(requests.iter().map(Value::from)).collect();
    let rows = tx.query(&sql, &params)?;
    let asker = |row: &Row| {
        Ok(Asker {
            server: row.get(0)?,
            request_id: row.get(1)?,
            project_id: row.get(2)?,
        })
    };
    rows.iter().map(asker).collect()
}

/// One action, by the request that asked for it.
pub fn by_request(
    tx: &mut Tx<'_>,
    server: ServerId,
    request_id: &str,
) -> Result<Option<Action>, Error> {
    let sql = format!(
        "SELECT {ACTION} FROM instance_actions WHERE instance_uuid = ? AND request_id = ? ORDER BY id DESC"
    );
    tx.query_opt(&sql, &[server.into(), request_id.into()])?
        .as_ref()
        .map(action_from)
        .transpose()
}

/// The events of an action, newest first.
pub fn events(tx: &mut Tx<'_>, action: i64) -> Result<Vec<Event>, Error> {
    let sql = "SELECT id, event, start_time, finish_time, outcome, traceback, host, details FROM instance_action_events \
        WHERE action_id = ? ORDER BY id DESC";
    let rows = tx.query(sql, &[action.into()])?;
    rows.iter()
        .map(|row| {
            Ok(Event {
                id: row.get(0)?,
                event: row.get(1)?,
                start_time: row.get(2)?,
                finish_time: row.get(3)?,
                result: row.get(4)?,
                traceback: row.get(5)?,
                host: row.get(6)?,
                details: row.get(7)?,
            })
        })
        .collect()
}
