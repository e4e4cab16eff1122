//! Accepting a request that changes a server: the change of its state, the action that shows it and the task that
//! does it are one transaction. After the commit the caller rings the conductors' bell.

use crate::actions::{self, Requester};
use crate::instances::{self, Change, Expected, Instance};
use crate::usages::{self, Held};
use crate::{tasks, to_document};
use sql::{Error, Tx};
use types::{ServerId, TaskId, TaskState, Timestamp};

/// What the journal is to do with a server.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The flow's name.
    pub flow: &'a str,
    /// Its first state, a JSON object.
    pub state: serde_json::Value,
    /// The action's name as Nova shows it, for example `create`, `stop`, `reboot`.
    pub action: &'a str,
    /// Who asked.
    pub by: Requester<'a>,
}

/// The flow that builds a server.
pub const BUILD: &str = "build";
/// The flow that deletes a server.
pub const DELETE: &str = "delete";
/// The flow that starts a server.
pub const START: &str = "start";
/// The flow that stops a server.
pub const STOP: &str = "stop";
/// The flow that reboots a server; its state is `{"hard": bool}`.
pub const REBOOT: &str = "reboot";

fn start_task(
    tx: &mut Tx<'_>,
    task: TaskId,
    server: ServerId,
    start: &Start<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    let action = actions::start(tx, server, start.action, &start.by, now)?;
    tasks::insert(
        tx,
        &tasks::NewTask {
            id: task,
            flow: start.flow,
            server,
            request_id: start.by.request_id,
            action: Some(action),
            state: &to_document(&start.state)?,
        },
        now,
    )
}

/// Accepts a new server: stores it (in `building`/`scheduling`), counts it, and starts the build. Quota must have been
/// checked in the same transaction. Returns the server's number.
pub fn create(tx: &mut Tx<'_>, instance: &Instance, by: Requester<'_>) -> Result<i64, Error> {
    let task = TaskId::random();
    let accepted = Instance {
        task_id: Some(task),
        ..instance.clone()
    };
    let number = instances::insert(tx, &accepted)?;
    usages::add(tx, &instance.project_id, &instance.user_id, holds(instance))?;
    let start = Start {
        flow: BUILD,
        state: serde_json::json!({}),
        action: "create",
        by,
    };
    start_task(tx, task, instance.id, &start, instance.created_at)?;
    Ok(number)
}

/// What a server counts as.
pub fn holds(instance: &Instance) -> Held {
    Held {
        instances: 1,
        cores: i64::from(instance.flavor.vcpus),
        ram_mb: i64::from(instance.flavor.memory_mb),
    }
}

/// Accepts an action on a server that nobody works on: sets its task state and starts the flow. `false`: the server has
/// changed since `generation` was read; look again.
pub fn action(
    tx: &mut Tx<'_>,
    server: ServerId,
    generation: i64,
    task_state: TaskState,
    start: &Start<'_>,
    now: Timestamp,
) -> Result<bool, Error> {
    let task = TaskId::random();
    let change = Change {
        task_state: Some(Some(task_state)),
        task_id: Some(Some(task)),
        ..Change::default()
    };
    if !instances::transition(tx, server, Expected::Generation(generation), &change, now)? {
        return Ok(false);
    }
    start_task(tx, task, server, start, now)?;
    Ok(true)
}

/// Accepts the deletion of a server in any state: takes over whatever task works on it, whose runner is fenced by that.
/// Repeating it is fine. `false`: there is no such server any more.
pub fn delete(
    tx: &mut Tx<'_>,
    server: ServerId,
    by: Requester<'_>,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(instance) = instances::get(tx, server)? else {
        return Ok(false);
    };
    let mut superseded = serde_json::Value::Null;
    if let Some(current) = instance.task_id {
        if let Some(task) = tasks::get(tx, current)?
            && task.flow == DELETE
        {
            return Ok(true);
        }
        if let Some(task) = tasks::take_over(tx, current)? {
            superseded =
                serde_json::json!({"task": task.id, "flow": task.flow, "state": task.state});
            if let Some(event) = task.event {
                actions::finish_event(tx, event, Some("The server was deleted meanwhile."), now)?;
            }
        }
    }
    let task = TaskId::random();
    let change = Change {
        task_state: Some(Some(TaskState::Deleting)),
        task_id: Some(Some(task)),
        progress: Some(0),
        ..Change::default()
    };
    instances::transition(
        tx,
        server,
        Expected::Generation(instance.generation),
        &change,
        now,
    )?;
    let start = Start {
        flow: DELETE,
        state: serde_json::json!({ "superseded": superseded }),
        action: "delete",
        by,
    };
    start_task(tx, task, server, &start, now)?;
    Ok(true)
}
