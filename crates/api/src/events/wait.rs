//! `GET /servers/{id}` with `Prefer: wait=60; for=ACTIVE`: the answer comes when the server is in that state, when it
//! is in ERROR instead, when it is gone (404), or when the time is over.
//! `Preference-Applied` says which.

use super::hub::{Hub, Refusal};
use super::preference::{self, LONGEST};
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::route::{Handler, Route, Verb};
use db::instances::Instance;
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use types::{ServerId, VmState};
use web::serve::Stopping;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// Nothing works on the server.
    Idle,
    /// The server is gone.
    Deleted,
    /// This status, as the API shows it.
    Status(String),
}

/// The states that a client may wait for, beside `idle`.
const STATUSES: [&str; 19] = [
    "ACTIVE",
    "BUILD",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "MIGRATING",
    "PASSWORD",
    "PAUSED",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SOFT_DELETED",
    "SUSPENDED",
    "VERIFY_RESIZE",
];

/// Whether requests of this row may wait.
pub fn may_wait(route: &Route) -> bool {
    route.verb == Verb::Get && route.path == "/servers/{id}"
}

/// A client's wish to wait.
pub struct Wish {
    goal: Goal,
    time: Duration,
    stopping: Option<Stopping>,
}

impl Wish {
    /// The wish of a request, where one counts.
    pub fn read(
        headers: &HeaderMap,
        call: &Call,
        stopping: Option<Stopping>,
    ) -> Result<Option<Self>, Fault> {
        if !may_wait(call.route) {
            return Ok(None);
        }
        let Some(wanted) = preference::read(headers).map_err(Fault::bad_request)? else {
            return Ok(None);
        };
        let goal = match wanted.until.as_deref().map(str::to_uppercase).as_deref() {
            None | Some("IDLE") => Goal::Idle,
            Some("DELETED") => Goal::Deleted,
            Some(status) if STATUSES.contains(&status) => Goal::Status(status.to_owned()),
            Some(status) => {
                return Err(Fault::bad_request(format!(
                    "Prefer: wait; for={status} is no state of a server. Wait for idle, or for one of {}, at most {LONGEST} seconds.",
                    STATUSES.join(", ")
                )));
            }
        };
        Ok(Some(Self {
            goal,
            time: Duration::from_secs(wanted.seconds),
            stopping,
        }))
    }
}

/// How a wait ends, as the client is told.
pub const ENDS: [&str; 3] = [
    "wait; result=reached",
    "wait; result=error",
    "wait; result=timeout",
];

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Reached,
    /// It will not come by itself any more.
    Missed,
    TimeOver,
}

impl Ended {
    fn as_str(self) -> &'static str {
        let [reached, missed, over] = ENDS;
        match self {
            Self::Reached => reached,
            Self::Missed => missed,
            Self::TimeOver => over,
        }
    }
}

impl Goal {
    /// Whether the wait for it is over.
    fn look(&self, server: &Instance) -> Option<Ended> {
        let idle = server.task_id.is_none() && server.task_state.is_none();
        let status = types::states::status(server.vm_state, server.task_state);
        let reached = match self {
            Self::Idle => idle,
            Self::Deleted => false,
            Self::Status(wanted) => wanted == status,
        };
        if reached {
            return Some(Ended::Reached);
        }
        (idle && server.vm_state == VmState::Error && *self != Self::Deleted)
            .then_some(Ended::Missed)
    }
}

/// Waits, then lets the handler answer.
pub async fn answer(handler: Handler, call: Call, wish: Wish) -> Result<Reply, Fault> {
    let ended = wait(&call, &wish).await?;
    let mut reply = handler(call).await?;
    reply.waited = Some(ended.as_str());
    Ok(reply)
}

async fn wait(call: &Call, wish: &Wish) -> Result<Ended, Fault> {
    let until = tokio::time::Instant::now() + wish.time.min(super::stream::left(&call.caller));
    let server = call.server().await?;
    if let Some(ended) = wish.goal.look(&server) {
        return Ok(ended);
    }
    let hub = Arc::clone(&call.api.hub);
    let mut changes = begin(&hub, call, server.id).await?;
    loop {
        // Looked at after the hub was asked, so that no change falls between.
        let server = call.server().await?;
        if let Some(ended) = wish.goal.look(&server) {
            return Ok(ended);
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(until) => return Ok(Ended::TimeOver),
            () = stopped(wish.stopping.as_ref()) => return Ok(Ended::TimeOver),
        }
    }
}

async fn begin(
    hub: &Arc<Hub>,
    call: &Call,
    server: ServerId,
) -> Result<super::hub::Waiting, Fault> {
    hub.watch(call.project(), server).await.map_err(refused)
}

/// What a client is told that cannot follow.
pub fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Project => Fault::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Your project follows too much at once. End some event streams or waiting requests first.",
        ),
        Refusal::All => Fault::unavailable(
            "This API follows as much as it can. Try again later, or ask without waiting.",
        ),
        Refusal::Database => Fault::unavailable("The database does not answer."),
    }
}

/// When the process is to end.
pub async fn stopped(stopping: Option<&Stopping>) {
    match stopping {
        Some(stopping) => stopping.0.cancelled().await,
        None => std::future::pending().await,
    }
}
