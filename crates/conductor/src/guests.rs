//! What becomes of what hosts say of their guests: servers show what their guests do, guests that run although their
//! servers shall not are switched off, and guests that are not a host's are noted, or removed.

use db::accept::{self, Accepted, Start};
use db::actions::Requester;
use db::instances::Instance;
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{GuestSeen, Heartbeat};
use types::{HostName, PowerState, RequestId, ServerId, TaskState, Timestamp, VmState};

/// How old a list of guests may be when it arrives, if it does not say.
const LIST_AGE: Duration = Duration::from_secs(5);
/// How long a server must have been left alone before a guest that is not there counts as switched off, and one that
/// is not the host's counts as left over.
const ABSENCE: Duration = Duration::from_secs(30);
/// Guests that are not a host's of which one list makes something: the others are for the next one.
const MOST_LEFTOVERS: usize = 100;

/// What becomes of guests of deleted servers (Nova's `running_deleted_instance_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfDeleted {
    /// Nothing.
    Noop,
    /// It is logged.
    Log,
    /// The host removes them.
    #[default]
    Reap,
}

impl OfDeleted {
    const ALL: [Self; 3] = [Self::Reap, Self::Log, Self::Noop];

    /// The word in configuration files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Log => "log",
            Self::Reap => "reap",
        }
    }

    /// Reads that word.
    ///
    /// # Errors
    /// Another word.
    pub fn read(word: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.as_str() == word)
            .ok_or_else(|| format!("{word:?} is none of reap, log and noop"))
    }
}

/// What an operator has decided about guests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Guests of deleted servers.
    pub of_deleted: OfDeleted,
    /// How long ago the server must have been deleted.
    pub deleted_for: Duration,
}

/// What a heartbeat has set going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// There are new tasks.
    pub tasks: bool,
    /// The host owes something new.
    pub debts: bool,
    /// Servers whose guests may have done what was said of them before their servers became what they are.
    pub unsure: Vec<ServerId>,
}

/// What to make of a server whose guest was seen with some power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody works on it, or nothing has changed.
    Leave,
    /// The server shows that, in this stable state.
    Follow(VmState),
    /// The guest must not run.
    SwitchOff,
}

/// Writes what a heartbeat says of guests.
pub(crate) fn follow(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    rules: Rules,
    now: Timestamp,
) -> Result<Begun, sql::Error> {
    let mut begun = Begun::default();
    if beat.guests.is_empty() && !beat.complete {
        return Ok(begun);
    }
    let here = db::instances::on_host(tx, &beat.host)?;
    for instance in &here {
        let seen = beat.guests.iter().find(|guest| guest.server == instance.id);
        let power = match seen {
            Some(guest) => PowerState::from_code(i64::from(guest.power)),
            None if beat.complete && (beat.introduction || settled(instance, now, ABSENCE)) => {
                PowerState::Shutdown
            }
            None => continue,
        };
        let (vm, task) = (instance.vm_state, instance.task_state);
        match verdict(vm, task, instance.power_state, power) {
            Verdict::Leave => {}
            // Of a deletion that did not wait for its host nothing is known yet.
            _ if !is_news(instance, beat, now) && !unheard_of(instance) => {
                begun.unsure.push(instance.id);
            }
            Verdict::Follow(state) => {
                let change = (state != vm).then_some(state);
                db::instances::follow_guest(tx, instance.id, &beat.host, power, change, now)?;
            }
            Verdict::SwitchOff => begun.tasks |= switch_off(tx, instance, now)?,
        }
    }
    if beat.complete {
        begun.debts = leftovers(tx, beat, &here, rules, now)?;
    }
    Ok(begun)
}

/// Whether the server was deleted, so that it can be restored, without a word of its host. To switch its guest off once
/// more does no harm.
fn unheard_of(server: &Instance) -> bool {
    server.vm_state == VmState::SoftDelete && server.power_state == PowerState::NoState
}

/// Whether the guests were looked at after the server became what it is. Before, a guest may have done what the end of
/// an action has made good. One of the future was written before the clock went back.
fn is_news(server: &Instance, beat: &Heartbeat, now: Timestamp) -> bool {
    let since = server.updated_at.unwrap_or(server.created_at);
    let older = match beat.heard {
        Some(heard) => since < heard,
        None => !beat.complete || since < now.minus(LIST_AGE),
    };
    beat.introduction || older || since > now
}

/// Whether the server's state is older than the list of guests it is held against can be. One of the future was written
/// before the clock went back.
fn settled(instance: &Instance, now: Timestamp, age: Duration) -> bool {
    let since = instance.updated_at.unwrap_or(instance.created_at);
    since < now.minus(age) || since > now
}

/// Follows Nova's `_sync_instance_power_state`, but for a suspended or paused server that runs: its guest goes on, for
/// its memory would be lost. Pure.
fn verdict(vm: VmState, task: Option<TaskState>, known: PowerState, seen: PowerState) -> Verdict {
    if task.is_some() {
        return Verdict::Leave;
    }
    let state = match (vm, seen) {
        (VmState::Stopped | VmState::SoftDelete, PowerState::Running) => return Verdict::SwitchOff,
        (VmState::Active, PowerState::Shutdown | PowerState::Crashed) => VmState::Stopped,
        (VmState::Active, PowerState::Paused) => VmState::Paused,
        (VmState::Paused, PowerState::Shutdown | PowerState::Crashed) => VmState::Stopped,
        (VmState::Paused | VmState::Suspended, PowerState::Running) => VmState::Active,
        _ => vm,
    };
    if state != vm || known != seen {
        Verdict::Follow(state)
    } else {
        Verdict::Leave
    }
}

/// Has a guest switched off that was started behind everybody's back. `false`: somebody works on its server.
fn switch_off(tx: &mut Tx<'_>, server: &Instance, now: Timestamp) -> Result<bool, sql::Error> {
    let request_id = RequestId::random().to_string();
    let deleted = server.vm_state == VmState::SoftDelete;
    let (flow, action, shown) = if deleted {
        (accept::SOFT_DELETE, "", TaskState::SoftDeleting)
    } else {
        (accept::STOP, "stop", TaskState::PoweringOff)
    };
    let start = Start {
        flow,
        state: if deleted {
            serde_json::json!({})
        } else {
            serde_json::json!({ "hard": true })
        },
        action,
        by: Requester {
            request_id: &request_id,
            user_id: server.user_id.as_str(),
            project_id: server.project_id.as_str(),
            trace: None,
        },
    };
    let accepted = accept::action(tx, server, Some(shown), &start, now)?;
    tracing::warn!(server = %server.id, state = %server.vm_state, request_id, "a guest runs that must not; it is switched off");
    Ok(accepted == Accepted::Yes)
}

/// Notes guests, and files without a guest, that are not the host's. Those of servers that were deleted long enough ago
/// it has to remove, where the rules say so; `true`: there is one. One of a server that is unknown is never touched.
fn leftovers(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    here: &[Instance],
    rules: Rules,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let strays = beat.strays.iter().map(|server| GuestSeen {
        server: *server,
        power: PowerState::NoState.code(),
    });
    let seen = beat.guests.iter().copied().chain(strays);
    let strangers = seen
        .filter(|guest| !here.iter().any(|one| one.id == guest.server))
        .take(MOST_LEFTOVERS);
    let (mut left, mut owes) = (Vec::new(), false);
    for guest in strangers {
        let id = guest.server;
        let Some(kind) = stranger(db::instances::find(tx, id)?, &beat.host, now) else {
            continue;
        };
        left.push((id, PowerState::from_code(i64::from(guest.power))));
        let Stranger::Deleted(since) = kind else {
            continue;
        };
        let due = since < now.minus(rules.deleted_for);
        match rules.of_deleted {
            OfDeleted::Reap if due => owes |= owe(tx, &beat.host, id, now)?,
            OfDeleted::Log if due => {
                tracing::warn!(host = %beat.host, server = %id, "the host has a guest of a server that is deleted");
            }
            _ => {}
        }
    }
    db::leftovers::replace(tx, &beat.host, &left, now)?;
    Ok(owes)
}

fn owe(
    tx: &mut Tx<'_>,
    host: &HostName,
    server: ServerId,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    if db::work::debtors(tx, server)?.contains(host) {
        return Ok(false);
    }
    tracing::warn!(%host, %server, "the host has a guest of a server that is deleted; it has to remove it");
    let why = "the host has a guest of a server that is deleted";
    db::work::owe(tx, host, server, why, now)?;
    Ok(true)
}

/// Why a guest is not the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stranger {
    /// The database has never heard of it.
    Unknown,
    /// Its server was deleted then.
    Deleted(Timestamp),
    /// Its server is on another host, or on none.
    Elsewhere,
}

/// `None`: it may be here for a good reason. Pure.
fn stranger(server: Option<Instance>, host: &HostName, now: Timestamp) -> Option<Stranger> {
    let Some(server) = server else {
        return Some(Stranger::Unknown);
    };
    let moves = server.task_id.is_some() || server.kept.unsettled.is_some();
    let gone = server.terminated_at.unwrap_or(server.created_at);
    if server.deleted {
        return (gone < now.minus(ABSENCE)).then_some(Stranger::Deleted(gone));
    }
    let is_elsewhere = server.host.as_ref() != Some(host);
    (is_elsewhere && !moves && settled(&server, now, ABSENCE)).then_some(Stranger::Elsewhere)
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdict};
    use types::{PowerState as P, TaskState, VmState as V};

    #[test]
    fn states_follow_the_guest() {
        use Verdict::{Follow, Leave, SwitchOff};
        let table = [
            (V::Active, None, P::Running, P::Running, Leave),
            (V::Active, None, P::Running, P::Shutdown, Follow(V::Stopped)),
            (V::Active, None, P::Running, P::Crashed, Follow(V::Stopped)),
            (V::Stopped, None, P::Shutdown, P::Running, SwitchOff),
            (V::Stopped, None, P::Running, P::Running, SwitchOff),
            (V::SoftDelete, None, P::Shutdown, P::Running, SwitchOff),
            (
                V::SoftDelete,
                None,
                P::Running,
                P::Shutdown,
                Follow(V::SoftDelete),
            ),
            (
                V::Active,
                Some(TaskState::PoweringOff),
                P::Running,
                P::Shutdown,
                Leave,
            ),
            (
                V::Stopped,
                Some(TaskState::PoweringOn),
                P::Shutdown,
                P::Running,
                Leave,
            ),
            (V::Paused, None, P::Paused, P::Shutdown, Follow(V::Stopped)),
            (V::Paused, None, P::Paused, P::Running, Follow(V::Active)),
            (
                V::Suspended,
                None,
                P::Shutdown,
                P::Running,
                Follow(V::Active),
            ),
            (V::Suspended, None, P::Shutdown, P::Shutdown, Leave),
            (V::Error, None, P::Running, P::Shutdown, Follow(V::Error)),
        ];
        for (vm, task, known, seen, wanted) in table {
            assert_eq!(
                verdict(vm, task, known, seen),
                wanted,
                "{vm} {task:?} {known:?} {seen:?}"
            );
        }
    }
}
