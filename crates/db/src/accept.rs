//! Accepting a request that changes a server: the change of its state, the action that shows it and the task that
//! does it are one transaction. After the commit the caller rings the conductors' bell.

use crate::actions::{self, Requester};
use crate::instances::{self, Change, Expected, Instance};
use crate::tasks::{self, Phase};
use crate::to_document;
use crate::unfinished::Unfinished;
use crate::usages::{self, Held};
use crate::work;
use sql::{Error, Tx};
use std::time::Duration;
use types::{ServerId, TaskId, TaskState, Timestamp, VmState};

/// What the journal is to do with a server.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The flow's name.
    pub flow: &'a str,
    /// Its first state, a JSON object.
    pub state: serde_json::Value,
    /// The action's name as Nova shows it, for example `create`, `stop`, `reboot`; empty where Nova shows none.
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
/// The flow that stops a server; its state is `{"hard": bool}`, hard for one that was started behind everybody's back.
pub const STOP: &str = "stop";
/// The flow that reboots a server; its state is `{"hard": bool}`.
pub const REBOOT: &str = "reboot";
/// The flow that pauses a server.
pub const PAUSE: &str = "pause";
/// The flow that lets a paused server go on.
pub const UNPAUSE: &str = "unpause";
/// The flow that saves a server's memory to disk and switches it off.
pub const SUSPEND: &str = "suspend";
/// The flow that brings a suspended server back.
pub const RESUME: &str = "resume";
/// The flow that interrupts a guest so that it dumps its memory.
pub const CRASH_DUMP: &str = "crash_dump";
/// The flow that switches a deleted server off until it is reclaimed.
pub const SOFT_DELETE: &str = "soft_delete";
/// The flow that brings a soft-deleted server back.
pub const RESTORE: &str = "restore";

/// The flow that boots a server from another image; its state is `{"image": ImageRef}`.
pub const RESCUE: &str = "rescue";
/// The flow that boots it from its own disks again.
pub const UNRESCUE: &str = "unrescue";
/// The flow that makes a server anew in its place; its state is `{"preserve_ephemeral": bool}`.
pub const REBUILD: &str = "rebuild";

/// The flow that copies a server's disk into an image; its state is `{"image": id}`.
pub const SNAPSHOT: &str = "snapshot";
/// The same with old copies deleted afterwards; its state is
/// `{"image": id, "rotation": {"kind": text, "keep": n, "owner": project}}`.
pub const BACKUP: &str = "backup";

/// The flow that gives a server an interface; its state is `{"wanted": WantedInterface}`.
pub const ATTACH_INTERFACE: &str = "attach_interface";
/// The flow that takes an interface away; its state is `{"port": id}`.
pub const DETACH_INTERFACE: &str = "detach_interface";

/// The flow that sets a password in the guest; its state is `{"password": sealed}`.
pub const CHANGE_PASSWORD: &str = "change_password";
/// The flow that gives a port one more address; its state is `{"network": id}`.
pub const ADD_FIXED_IP: &str = "add_fixed_ip";
/// The flow that takes an address from a port; its state is `{"address": ip}`.
pub const REMOVE_FIXED_IP: &str = "remove_fixed_ip";

/// The flow that builds a server anew because its host is gone; its state is
/// `{"migration": id, "to": host, "force": bool, "stopped": bool, "shared": bool}`.
pub const EVACUATE: &str = "evacuate";
/// Its last step, in which the files that its hosts share become the new host's.
pub const TAKE_FILES: &str = "take_files";

/// The flow that takes a server to another host while it runs; its state is
/// `{"migration": id, "to": host, "force": bool, "block": bool}`.
pub const LIVE_MIGRATION: &str = "live_migration";
/// Its step that begins when the guest has left the old host and is all there on the new one.
pub const ARRIVE: &str = "arrive";

/// The flow that puts a server's disk into an image and switches the server off; its state is
/// `{"image": id, "offload": bool}`.
pub const SHELVE: &str = "shelve";
/// The flow that takes a shelved server from its host; its state is `{"offload": true}`.
pub const SHELVE_OFFLOAD: &str = "shelve_offload";
/// The flow that brings a server without a host back; its state is `{"to": host}` or `{}`.
pub const UNSHELVE: &str = "unshelve";
/// The flow that brings back a shelved server that is still on its host.
pub const UNSHELVE_IN_PLACE: &str = "unshelve_in_place";
/// The last step of the two, in which only the image is left to be deleted.
pub const FORGET: &str = "forget";

/// The flow that gives a server another flavor or another host; see [`crate::moves`].
pub const RESIZE: &str = "resize";
/// The flow that makes a resize or cold migration final.
pub const CONFIRM_RESIZE: &str = "confirm_resize";
/// The flow that takes a resize or cold migration back.
pub const REVERT_RESIZE: &str = "revert_resize";

/// The flow that gives a server a volume that is on record as its disk; its state is `{"volume": id}`.
pub const ATTACH_VOLUME: &str = "attach_volume";
/// The flow that takes one away; its state is the same.
pub const DETACH_VOLUME: &str = "detach_volume";

/// The flow that tells a guest that a volume has grown; its state is `{"volume": id}`.
pub const EXTEND_VOLUME: &str = "extend_volume";
/// The flow that makes an image of snapshots of a server's volumes; its state is `{"image": id}`.
pub const SNAPSHOT_VOLUMES: &str = "snapshot_volumes";
/// The flow that exchanges a volume for another; its state is `{"old": id, "new": id}`.
pub const SWAP_VOLUME: &str = "swap_volume";

/// Flows that nobody waits for: another one may begin at any time, and ends them.
const QUIET: &[&str] = &[CRASH_DUMP];
/// Flows that a hard reboot ends; each is one piece of work on the guest's host.
const REBOOTED_OVER: &[&str] = &[REBOOT, PAUSE, UNPAUSE, SUSPEND, RESUME];
/// Flows that an evacuation ends beside those, as their host is down: it takes back what they have begun.
const EVACUATED_OVER: &[&str] = &[
    SNAPSHOT,
    BACKUP,
    SNAPSHOT_VOLUMES,
    SHELVE,
    SHELVE_OFFLOAD,
    RESIZE,
    LIVE_MIGRATION,
    ATTACH_INTERFACE,
    DETACH_INTERFACE,
    CHANGE_PASSWORD,
    ATTACH_VOLUME,
    DETACH_VOLUME,
    EXTEND_VOLUME,
    SWAP_VOLUME,
];
/// Their steps behind the last that needs the host: they end by themselves.
const WITHOUT_HOST: &[(&str, &str)] = &[
    (SNAPSHOT, "rotate"),
    (SNAPSHOT_VOLUMES, "describe"),
    (BACKUP, "rotate"),
    (SHELVE, "remove"),
    (SHELVE, "unbind"),
    (SHELVE_OFFLOAD, "remove"),
    (SHELVE_OFFLOAD, "unbind"),
    (LIVE_MIGRATION, "bind"),
    (LIVE_MIGRATION, "leave"),
    (DETACH_INTERFACE, "release"),
    (ATTACH_VOLUME, "complete"),
    (DETACH_VOLUME, "release"),
    (SWAP_VOLUME, "complete_move"),
];
/// Flows that wait until a guest lets go of something, and their step in which its host waits.
const LETTING_GO: &[(&str, &str)] = &[(DETACH_VOLUME, "detach"), (DETACH_INTERFACE, "detach")];
/// How long a guest gets for that from whoever is about to switch it off: one that lets go does so within moments.
const TO_LET_GO: Duration = Duration::from_secs(5);
/// What comes of it when that is over.
const CALLED_OFF: &str = "The guest had not let go of it when it was to be switched off.";
/// How the state of a live migration says that both hosts see the server's disk.
const SHARED: &str = r#""shared":true"#;
/// Flows that a soft deletion or an evacuation ends; what they do in half leaves nothing behind but the guest.
const SOFT_DELETED_OVER: &[&str] = &[
    START, STOP, REBOOT, PAUSE, UNPAUSE, SUSPEND, RESUME, CRASH_DUMP, RESTORE, RESCUE, UNRESCUE,
    REBUILD,
];

/// Whether a live migration has taken its guest to the new host, which is not on record yet.
pub(crate) fn arrives(task: &tasks::Task) -> bool {
    let at = (task.flow.as_str(), task.step.as_deref());
    at == (LIVE_MIGRATION, Some(ARRIVE)) && task.phase == Phase::Running
}

/// Whether a flow may begin while another has not ended.
fn gives_way(task: &tasks::Task, to: &str) -> bool {
    let (step, running) = (task.step.as_deref(), task.flow.as_str());
    let unshelved = step == Some(FORGET) && [UNSHELVE, UNSHELVE_IN_PLACE].contains(&running);
    let needs_host = !step.is_some_and(|step| WITHOUT_HOST.contains(&(running, step)));
    let arrives = arrives(task);
    // Its disk may be the other host's by now.
    let shared = running == LIVE_MIGRATION && task.state.contains(SHARED);
    let evacuated =
        to == EVACUATE && needs_host && !arrives && !shared && EVACUATED_OVER.contains(&running);
    // It only goes forward, and its host does not answer.
    let stands =
        (to, running, step) == (EVACUATE, EVACUATE, Some(TAKE_FILES)) && task.waits.is_some();
    unshelved
        || evacuated
        || stands
        || QUIET.contains(&running)
        || (to == REBOOT && REBOOTED_OVER.contains(&running))
        || ([SOFT_DELETE, EVACUATE].contains(&to) && SOFT_DELETED_OVER.contains(&running))
}

/// Whether a flow switches the guest off, whatever the guest does.
fn switches_off(start: &Start<'_>) -> bool {
    let hard = start.flow == REBOOT && start.state["hard"] == true;
    hard || [STOP, SOFT_DELETE].contains(&start.flow)
}

/// Ends the wait for a guest that does not let go of something: the flow that waits takes back what it has begun. Nova waits
/// for all its attempts, minutes.
fn call_off(tx: &mut Tx<'_>, running: &tasks::Task, now: Timestamp) -> Result<(), Error> {
    let at = (running.flow.as_str(), running.step.as_deref());
    let mut waits = LETTING_GO.iter();
    let Some((_, step)) = waits.find(|(flow, step)| at == (*flow, Some(*step))) else {
        return Ok(());
    };
    work::call_off(tx, running.id, step, CALLED_OFF, now.minus(TO_LET_GO))
}

fn start_task(
    tx: &mut Tx<'_>,
    task: TaskId,
    server: ServerId,
    start: &Start<'_>,
    begun: Option<i64>,
    now: Timestamp,
) -> Result<tasks::Task, Error> {
    let action = match begun {
        Some(action) => Some(action),
        None if start.action.is_empty() => None,
        None => Some(actions::start(tx, server, start.action, &start.by, now)?),
    };
    tasks::insert(
        tx,
        &tasks::NewTask {
            id: task,
            flow: start.flow,
            server,
            request_id: start.by.request_id,
            action,
            state: &to_document(&start.state)?,
            trace: start.by.trace,
        },
        now,
    )
}

/// Accepts a new server: stores it (in `building`/`scheduling`), counts it, and starts the build. Quota must have been
/// checked in the same transaction. Returns the server's number, and the task that builds it.
pub fn create(
    tx: &mut Tx<'_>,
    instance: &Instance,
    by: Requester<'_>,
) -> Result<(i64, tasks::Task), Error> {
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
    let task = start_task(tx, task, instance.id, &start, None, instance.created_at)?;
    Ok((number, task))
}

/// What a server counts as; a soft-deleted one counts as nothing. One whose resize is not settled counts as the larger
/// of both flavors, so that whichever it ends with fits into the quota.
pub fn holds(instance: &Instance) -> Held {
    if instance.vm_state == VmState::SoftDelete {
        return Held::default();
    }
    let own = Held::of(&instance.flavor);
    match &instance.kept.unsettled {
        Some(moving) => own
            .most(Held::of(&moving.old_flavor))
            .most(Held::of(&moving.new_flavor)),
        None => own,
    }
}

/// How an action was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The flow begins.
    Yes,
    /// The server has changed since it was read: look again.
    Changed,
    /// Another flow works on it, which must end first.
    Busy,
}

/// The task that was taken over, as the state of a flow has it.
fn superseded(task: Option<&tasks::Task>) -> serde_json::Value {
    serde_json::json!(task.map(Unfinished::of))
}

/// Accepts an action on a server as it was read: sets its task state (none shows nothing) and starts the flow. A task
/// that works on the server still ends if it is one that gives way; an evacuation is told what that had recorded.
pub fn action(
    tx: &mut Tx<'_>,
    server: &Instance,
    task_state: Option<TaskState>,
    start: &Start<'_>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    action_begun(tx, server, task_state, start, None, now)
}

/// The same for an action that may be `begun`: it is on record already.
pub(crate) fn action_begun(
    tx: &mut Tx<'_>,
    server: &Instance,
    task_state: Option<TaskState>,
    start: &Start<'_>,
    begun: Option<i64>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    let mut start = start.clone();
    if let Some(current) = server.task_id
        && let Some(running) = tasks::get(tx, current)?
    {
        if !gives_way(&running, start.flow) {
            if switches_off(&start) {
                call_off(tx, &running, now)?;
            }
            return Ok(Accepted::Busy);
        }
        let ended = supersede(tx, current, "Another action took its place.", now)?;
        if start.flow == EVACUATE {
            start.state["superseded"] = superseded(ended.as_ref());
        }
    }
    let task = TaskId::random();
    let change = Change {
        task_state: Some(task_state),
        task_id: Some(Some(task)),
        ..Change::default()
    };
    let expected = Expected::Generation(server.generation);
    if !instances::transition(tx, server.id, expected, &change, now)? {
        return Ok(Accepted::Changed);
    }
    start_task(tx, task, server.id, &start, begun, now)?;
    Ok(Accepted::Yes)
}

/// Ends a task whoever runs it; returns what it had recorded.
fn supersede(
    tx: &mut Tx<'_>,
    task: TaskId,
    why: &str,
    now: Timestamp,
) -> Result<Option<tasks::Task>, Error> {
    let task = tasks::take_over(tx, task)?;
    if let Some(event) = task.as_ref().and_then(|task| task.event) {
        actions::finish_event(tx, event, Some(why), now)?;
    }
    if let Some(action) = task.as_ref().and_then(|task| task.action) {
        actions::supersede(tx, action, now)?;
    }
    Ok(task)
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
    let mut ended = None;
    if let Some(current) = instance.task_id {
        if let Some(task) = tasks::get(tx, current)?
            && task.flow == DELETE
        {
            return Ok(true);
        }
        ended = supersede(tx, current, "The server was deleted meanwhile.", now)?;
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
        state: serde_json::json!({ "superseded": superseded(ended.as_ref()) }),
        action: "delete",
        by,
    };
    start_task(tx, task, server, &start, None, now)?;
    Ok(true)
}

/// Accepts a soft deletion: the server is switched off and can be restored until it is reclaimed. One that never ran, or
/// that is on no host, is deleted for good. None: there is no such server.
pub fn soft_delete(
    tx: &mut Tx<'_>,
    server: ServerId,
    by: Requester<'_>,
    now: Timestamp,
) -> Result<Option<Accepted>, Error> {
    let Some(instance) = instances::get(tx, server)? else {
        return Ok(None);
    };
    if instance.launched_at.is_none() || instance.vm_state == VmState::ShelvedOffloaded {
        return Ok(delete(tx, server, by, now)?.then_some(Accepted::Yes));
    }
    if let Some(current) = instance.task_id
        && let Some(task) = tasks::get(tx, current)?
        && (task.flow == SOFT_DELETE || task.flow == DELETE)
    {
        return Ok(Some(Accepted::Yes));
    }
    if instance.vm_state == VmState::SoftDelete && instance.task_id.is_none() {
        return Ok(Some(Accepted::Yes));
    }
    let start = Start {
        flow: SOFT_DELETE,
        state: serde_json::json!({}),
        action: "delete",
        by: by.clone(),
    };
    let state = Some(TaskState::SoftDeleting);
    action(tx, &instance, state, &start, now).map(Some)
}
