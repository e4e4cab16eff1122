//! What becomes of what hosts say of their guests: servers show what their guests do, guests that run although their
//! servers shall not are switched off, and guests that are not a host's are noted, or removed.

use db::accept::{self, Accepted, Start};
use db::actions::Requester;
use db::instances::{Instance, Standing};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sql::Tx;
use std::collections::{HashMap, HashSet};
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
    /// Guests that ran are started when their host is there again (Nova's `resume_guests_state_on_host_boot`).
    pub resume: bool,
}

/// What to make of a server whose guest was seen with some power state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody works on it, or nothing has changed.
    Leave,
    /// Its guest may have done that before its server became what it is: the host has to look again.
    Unsure,
    /// The server shows that, in this stable state.
    Follow(VmState),
    /// The guest must not run.
    SwitchOff,
    /// The guest ran until its host went away.
    SwitchOn,
}

/// Where the guests of a heartbeat and the record differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differing {
    /// Servers that do not show what their guests do, and what is said of these, for [`follow`].
    pub(crate) servers: Vec<(ServerId, Option<PowerState>)>,
    /// Servers of which the host has to say again what their guests do.
    pub(crate) unsure: Vec<ServerId>,
    /// Guests that are not the host's, some of them, for [`note`]; `None` when there is nothing to write about any.
    pub(crate) strangers: Option<Vec<GuestSeen>>,
}

/// Looks where the guests of a heartbeat and the record differ. It only reads, so that a host with many servers, of
/// which hardly any has changed, keeps nobody from writing.
pub(crate) fn differing(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    rules: Rules,
    now: Timestamp,
) -> Result<Differing, sql::Error> {
    let mut differing = Differing::default();
    let guests = beat.guests.iter();
    let seen: HashMap<ServerId, PowerState> = guests
        .map(|guest| (guest.server, PowerState::from_code(i64::from(guest.power))))
        .collect();
    let here = if beat.complete {
        db::instances::standing_on(tx, &beat.host)?
    } else {
        let named: Vec<ServerId> = seen.keys().copied().collect();
        db::instances::standing_among(tx, &beat.host, &named)?
    };
    for server in &here {
        let its = seen.get(&server.id).copied();
        match judge(beat, its, server, rules, now).1 {
            Verdict::Leave => {}
            Verdict::Unsure => differing.unsure.push(server.id),
            Verdict::Follow(_) | Verdict::SwitchOff | Verdict::SwitchOn => {
                differing.servers.push((server.id, its));
            }
        }
    }
    if beat.complete {
        let some = strangers(beat, &here);
        let written = !db::leftovers::of_host(tx, &beat.host)?.is_empty();
        differing.strangers = (written || !some.is_empty()).then_some(some);
    }
    Ok(differing)
}

/// Guests, and files without a guest, of servers that are not here: as many as one list makes something of. Pure.
fn strangers(beat: &Heartbeat, here: &[Standing]) -> Vec<GuestSeen> {
    let own: HashSet<ServerId> = here.iter().map(|server| server.id).collect();
    let strays = beat.strays.iter().map(|server| GuestSeen {
        server: *server,
        power: PowerState::NoState.code(),
    });
    let seen = beat.guests.iter().copied().chain(strays);
    seen.filter(|guest| !own.contains(&guest.server))
        .take(MOST_LEFTOVERS)
        .collect()
}

/// Has some servers show what their guests do, where that still differs. `true`: there are new tasks. Servers of which
/// the host has to speak again are added to `unsure`.
pub(crate) fn follow(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    some: &[(ServerId, Option<PowerState>)],
    rules: Rules,
    unsure: &mut Vec<ServerId>,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let ids: Vec<ServerId> = some.iter().map(|(id, _)| *id).collect();
    let seen: HashMap<ServerId, Option<PowerState>> = some.iter().copied().collect();
    let mut tasks = false;
    for server in db::instances::standing_among(tx, &beat.host, &ids)? {
        let its = seen.get(&server.id).copied().flatten();
        let (power, verdict) = judge(beat, its, &server, rules, now);
        match verdict {
            Verdict::Leave => {}
            Verdict::Unsure => unsure.push(server.id),
            Verdict::Follow(state) => {
                let change = (state != server.vm_state).then_some(state);
                db::instances::follow_guest(tx, server.id, &beat.host, power, change, now)?;
            }
            Verdict::SwitchOff | Verdict::SwitchOn => {
                if let Some(instance) = db::instances::get(tx, server.id)? {
                    tasks |= switch(tx, &instance, verdict == Verdict::SwitchOn, now)?;
                }
            }
        }
    }
    Ok(tasks)
}

/// How servers of a host differ from the guests that the host says it has: those that are as they were `before` it was asked.
pub(crate) fn differences(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    before: &Before,
    now: Timestamp,
) -> Result<Vec<Differs>, sql::Error> {
    let seen: HashMap<ServerId, PowerState> = (beat.guests.iter())
        .map(|guest| (guest.server, PowerState::from_code(i64::from(guest.power))))
        .collect();
    let mut found = Vec::new();
    for server in db::instances::standing_on(tx, &beat.host)? {
        if before.get(&server.id) != Some(&server.since) {
            continue;
        }
        let its = seen.get(&server.id).copied();
        let (power, verdict) = judge(beat, its, &server, Rules::default(), now);
        let becomes = match verdict {
            // Without a rule for it nothing is switched on.
            Verdict::Leave | Verdict::Unsure | Verdict::SwitchOn => continue,
            Verdict::Follow(state) => Becomes::Shown(state),
            Verdict::SwitchOff => Becomes::SwitchedOff,
        };
        found.push(Differs {
            server: server.id,
            shown: (server.vm_state, server.power_state),
            power,
            becomes,
        });
    }
    Ok(found)
}

/// When servers were changed last before their host was asked. Since then only clocks of conductors are compared.
pub(crate) type Before = HashMap<ServerId, Timestamp>;

/// Has some servers follow their guests that are as they were before. `true`: there are new tasks.
pub(crate) fn follow_unchanged(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    before: &Before,
    some: &[ServerId],
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let standing = db::instances::standing_among(tx, &beat.host, some)?;
    let unchanged = standing
        .iter()
        .filter(|server| before.get(&server.id) == Some(&server.since));
    let seen = |id: ServerId| {
        let its = beat.guests.iter().find(|guest| guest.server == id)?;
        Some(PowerState::from_code(i64::from(its.power)))
    };
    let some: Vec<_> = unchanged.map(|one| (one.id, seen(one.id))).collect();
    follow(tx, beat, &some, Rules::default(), &mut Vec::new(), now)
}

/// A server whose guest does something else than it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs {
    /// The server.
    pub server: ServerId,
    /// What it shows.
    pub shown: (VmState, PowerState),
    /// What its guest does; `Shutdown` if it is not there.
    pub power: PowerState,
    /// What becomes of it.
    pub becomes: Becomes,
}

/// What becomes of a server whose guest does something else than it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It shows what its guest does, in this state.
    Shown(VmState),
    /// The guest, which must not run, is switched off.
    SwitchedOff,
}

/// What a server's guest does, of which the heartbeat says `seen`, and what to make of it. Pure.
fn judge(
    beat: &Heartbeat,
    seen: Option<PowerState>,
    server: &Standing,
    rules: Rules,
    now: Timestamp,
) -> (PowerState, Verdict) {
    let power = match seen {
        Some(power) => power,
        None if beat.complete && (beat.introduction || settled(server.since, now, ABSENCE)) => {
            PowerState::Shutdown
        }
        None => return (server.power_state, Verdict::Leave),
    };
    let verdict = match verdict(
        server.vm_state,
        server.task_state,
        server.power_state,
        power,
    ) {
        Verdict::Leave => Verdict::Leave,
        Verdict::Follow(VmState::Stopped)
            if rules.resume
                && is_first(beat)
                && ran(server)
                && is_news(server.since, beat, now) =>
        {
            Verdict::SwitchOn
        }
        // Of a deletion that did not wait for its host nothing is known yet.
        _ if !is_news(server.since, beat, now) && !unheard_of(server) => Verdict::Unsure,
        certain => certain,
    };
    (power, verdict)
}

/// Whether it is the first list of all guests since the agent began. Those of the release before only say that it is the
/// introduction.
fn is_first(beat: &Heartbeat) -> bool {
    beat.first || (beat.introduction && beat.complete)
}

/// Whether the guest ran when its host was last heard of.
fn ran(server: &Standing) -> bool {
    server.vm_state == VmState::Active && server.power_state == PowerState::Running
}

/// Whether the server was deleted, so that it can be restored, without a word of its host. To switch its guest off once
/// more does no harm.
fn unheard_of(server: &Standing) -> bool {
    server.vm_state == VmState::SoftDelete && server.power_state == PowerState::NoState
}

/// What is further in the future was written before the clock went back; what is nearer, by a conductor whose clock is ahead.
const SKEW: Duration = Duration::from_secs(1);

/// Whether the guests were looked at after the server became what it is. Before, a guest may have done what the end of
/// an action has made good. One of the future was written before the clock went back.
fn is_news(since: Timestamp, beat: &Heartbeat, now: Timestamp) -> bool {
    let older = match beat.heard {
        Some(heard) => since < heard,
        None => !beat.complete || since < now.minus(LIST_AGE),
    };
    beat.introduction || older || since > now.plus(SKEW)
}

/// Whether what a server is since then is older than the list of guests it is held against can be. What is of the future
/// was written before the clock went back.
fn settled(since: Timestamp, now: Timestamp, age: Duration) -> bool {
    since < now.minus(age) || since > now.plus(SKEW)
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

/// Has a guest switched off that was started behind everybody's back, or `on` that ran until its host went away. `false`:
/// somebody works on its server.
fn switch(
    tx: &mut Tx<'_>,
    server: &Instance,
    on: bool,
    now: Timestamp,
) -> Result<bool, sql::Error> {
    let request_id = RequestId::random().to_string();
    let deleted = server.vm_state == VmState::SoftDelete;
    let (flow, action, shown, state) = match (on, deleted) {
        (true, _) => (accept::START, "start", TaskState::PoweringOn, json!({})),
        (false, true) => (accept::SOFT_DELETE, "", TaskState::SoftDeleting, json!({})),
        (false, false) => {
            let hard = json!({ "hard": true });
            (accept::STOP, "stop", TaskState::PoweringOff, hard)
        }
    };
    let start = Start {
        flow,
        state,
        action,
        by: Requester {
            request_id: &request_id,
            user_id: server.user_id.as_str(),
            project_id: server.project_id.as_str(),
            trace: None,
        },
    };
    let accepted = accept::action(tx, server, Some(shown), &start, now)?;
    let (id, vm_state) = (server.id, server.vm_state);
    if on {
        tracing::info!(server = %id, request_id, "a guest ran when its host went away; it is started");
    } else {
        tracing::warn!(server = %id, state = %vm_state, request_id, "a guest runs that must not; it is switched off");
    }
    Ok(accepted == Accepted::Yes)
}

/// Notes guests, and files without a guest, that are not the host's. Those of servers that were deleted long enough ago
/// it has to remove, where the rules say so; `true`: there is one. One of a server that is unknown is never touched.
pub(crate) fn note(
    tx: &mut Tx<'_>,
    beat: &Heartbeat,
    strangers: &[GuestSeen],
    rules: Rules,
    now: Timestamp,
) -> Result<bool, sql::Error> {
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
    let since = server.updated_at.unwrap_or(server.created_at);
    (is_elsewhere && !moves && settled(since, now, ABSENCE)).then_some(Stranger::Elsewhere)
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
