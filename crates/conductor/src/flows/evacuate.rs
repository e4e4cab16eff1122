//! Evacuate: a server whose host is gone is built anew on another host, with its ports, from its image.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `inspect` | takes back what another task had begun that it took over, or that was abandoned, in other services and on record | - |
//! | `clear` | the host that the server was moving to switches off what it has; it removes that when the server is there | - |
//! | `choose_host` | picks hosts; the claim is in the transaction that ends the step | gives the claim back |
//! | `networks` | binds its ports and connects its volumes to the new host, and takes these from the old one | gives both back |
//! | `plug` | waits until the network agent has wired them | - |
//! | `spawn` | the host makes the guest; the server is there, and the old host owes the removal | the host removes it |
//! | `take_files` | where the two hosts share the files of guests, they are the new host's from here on | - |
//!
//! The server belongs to the old host, and holds what it had there, until the new guest is made: a failure costs nothing
//! of what may still be on the old host's disks. From then on the old host removes what it has as soon as it is back,
//! before it does anything else.
//!
//! Where the two hosts share the files of guests the new guest is made on those of the old one. They are the old host's
//! until nothing can fail any more, and only then the server is on its new one: nobody removes what somebody uses.
//!
//! A host that dies in `take_files` keeps the flow waiting, as there is no way back. Another evacuation takes over from it then,
//! and goes on only where that host has switched the guest off, or is forced down: both would write to the same files.

use super::placing::Choice;
use super::superseded::{self, Superseded};
use super::{fault, idle, ports, power_after, transition, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected, Instance, Interface, Kept};
use db::migrations::{self, Status};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use tokio::time::Instant;
use types::agent::{Direction, FailureKind, GuestPlan, Verb, WorkOutcome};
use types::{HostName, MigrationId, NodeId, PowerState, TaskState, Timestamp, VmState};

/// What of its time the first step leaves.
const PATIENCE: Duration = Duration::from_secs(30);

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Take back what another task had begun.
    Inspect,
    /// Remove what that has left on another host.
    Clear,
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Bind its ports.
    Networks,
    /// Wait for the wiring.
    Plug,
    /// Make the guest.
    Spawn,
    /// Take what it is made of.
    Take,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Inspect,
        Self::Clear,
        Self::ChooseHost,
        Self::Networks,
        Self::Plug,
        Self::Spawn,
        Self::Take,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Clear => "clear",
            Self::ChooseHost => "choose_host",
            Self::Networks => "networks",
            Self::Plug => "plug",
            Self::Spawn => "spawn",
            Self::Take => accept::TAKE_FILES,
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The record of the move.
    migration: MigrationId,
    /// The host asked for.
    #[serde(default)]
    to: Option<HostName>,
    /// Whether only its resources count there.
    #[serde(default)]
    force: bool,
    /// Whether the new guest stays off, whatever the old one did (2.95); that of a server in ERROR runs all the same.
    #[serde(default)]
    stopped: bool,
    /// The request says that the disks are on storage that both hosts share.
    #[serde(default)]
    shared: bool,
    /// The request must say so, or it is wrong (below 2.14); else it is found out.
    #[serde(default)]
    told: bool,
    /// The task that was taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    superseded: Option<Superseded>,
    /// The host that it may have left something on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<HostName>,
    /// That host may have its guest on the files that the new one shall use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fenced: bool,
    /// More hosts that it may have left something on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<HostName>,
    /// Those of all of them that may have its guest on the files that the new one shall use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sharing: Vec<HostName>,
    /// The new host has the files of the guest.
    #[serde(default)]
    kept: bool,
    /// The host that is gone, and its node.
    #[serde(default)]
    from: Option<(HostName, NodeId)>,
    /// Whether the new guest runs.
    #[serde(default)]
    on: bool,
    /// Where the server goes.
    #[serde(flatten)]
    pub choice: Choice,
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    plan: Option<GuestPlan>,
    #[serde(default)]
    power: u8,
    /// Its volumes as they are connected now, until that is on record.
    #[serde(skip)]
    volumes: Vec<BlockDevice>,
}

/// The flow.
pub struct Evacuate {
    /// Network service, hosts.
    pub with: Neighbours,
}

fn fail(words: &str) -> StepError {
    StepError::Fail(Failure::new(500, words))
}

/// What the server shows from now on.
fn shows(task_state: TaskState) -> Change {
    Change {
        task_state: Some(Some(task_state)),
        ..Change::default()
    }
}

/// Each task with whether it was taken over just now.
fn taken_first<'a>(
    state: &State,
    begun: &'a [Superseded],
) -> impl Iterator<Item = (bool, &'a Superseded)> {
    let took = state.superseded.is_some();
    let begun = begun.iter().enumerate();
    begun.map(move |(at, task)| (took && at == 0, task))
}

impl Evacuate {
    async fn inspect(
        &self,
        cx: &Context,
        server: &Instance,
        state: &mut State,
    ) -> Result<(), StepError> {
        let begun = superseded::all(state.superseded.as_ref(), Some(server));
        let (mut sharing, mut apart) = (Vec::new(), Vec::new());
        for host in superseded::other_hosts(server, &begun) {
            let shares = match &server.host {
                // Of a resize nothing says whether its new host works with the same files.
                Some(from) => super::share_storage(&self.with, from, &host).await?,
                None => false,
            };
            if shares || superseded::may_share(&begun, &host) {
                sharing.push(host);
            } else {
                apart.push(host);
            }
        }
        state.fenced = !sharing.is_empty();
        state.sharing = sharing.clone();
        let mut hosts = sharing.into_iter().chain(apart);
        state.other = hosts.next();
        state.others = hosts.collect();
        for (taken, task) in taken_first(state, &begun) {
            self.take_back(cx, server, task, taken).await?;
        }
        Ok(())
    }

    /// A service that does not do its part keeps no server from being evacuated: an audit finds what is left there.
    async fn take_back(
        &self,
        cx: &Context,
        server: &Instance,
        task: &Superseded,
        taken: bool,
    ) -> Result<(), StepError> {
        match superseded::take_back(&self.with, cx, server, task, taken).await {
            Err(StepError::Retry(reason)) if Instant::now() + PATIENCE < cx.until => {
                Err(StepError::Retry(reason))
            }
            Err(error @ (StepError::Retry(_) | StepError::Fail(_))) => {
                let flow = task.flow.as_str();
                tracing::warn!(server = %cx.server, flow, %error, "what a task had begun is left behind");
                Ok(())
            }
            other => other,
        }
    }

    /// What is on record of it.
    fn settle(
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let server = super::own(tx, cx)?;
        let begun = superseded::all(state.superseded.as_ref(), Some(&server));
        for (taken, task) in taken_first(state, &begun) {
            superseded::settle(tx, &server, task, taken, now)?;
        }
        let taken = state.superseded.as_ref();
        let is_resized = taken.is_some_and(|task| task.flow == accept::RESIZE);
        Ok(superseded::stay(tx, &server, is_resized, now)?)
    }

    /// A host that is silent may run the guest still.
    async fn cleared(&self, state: &State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let Some(host) = state.other.clone().filter(|_| state.fenced) else {
            return Ok(());
        };
        // Only one host is asked to stop it.
        for other in state.sharing.iter().filter(|other| **other != host) {
            self.must_be_forced_down(other).await?;
        }
        match power_after(outcome.clone()) {
            Ok(_) => return Ok(()),
            Err(StepError::Fail(_)) => {}
            Err(other) => return Err(other),
        }
        if let Some(WorkOutcome::Failed {
            kind: FailureKind::NotFound,
            ..
        }) = outcome
        {
            return Ok(());
        }
        self.must_be_forced_down(&host).await
    }

    /// A host that does not stop the guest must be known to be down.
    async fn must_be_forced_down(&self, host: &HostName) -> Result<(), StepError> {
        let asked = host.clone();
        let looking = self
            .with
            .store
            .look(move |tx| -> Result<_, sql::Error> { Ok(db::hosts::heard(tx)?.of(&asked)) });
        let heard = looking.await?;
        if heard.forced_down || heard.beats.is_none() {
            return Ok(());
        }
        let words = |host: &str| {
            format!(
                "{host} may run the server on the same files still: force its compute service down first."
            )
        };
        let failure = Failure::new(500, words("Another host"));
        Err(StepError::Fail(failure.details(words(host.as_str()))))
    }

    async fn choose_host(&self, server: &Instance, state: &mut State) -> Result<(), StepError> {
        let from = server.host.clone().zip(server.node_id);
        let (host, _) = from.clone().ok_or_else(super::nowhere)?;
        state.from = from;
        state.on = match server.vm_state {
            VmState::Stopped => false,
            // Nobody knows what it was before: as in Nova it is made to run, whatever was asked.
            VmState::Error => true,
            _ => !state.stopped,
        };
        let (to, force) = (state.to.clone(), state.force);
        let choosing = state.choice.choose(&self.with, server, |request| {
            request.ignore_hosts.insert(host);
            request.unfiltered = force && to.is_some();
            request.only_host = to;
        });
        choosing.await
    }

    async fn networks(
        &self,
        cx: &Context,
        server: &Instance,
        state: &mut State,
    ) -> Result<(), StepError> {
        let place = state.choice.place.clone();
        let place = place.ok_or_else(|| fail("No host was claimed."))?;
        if let Some((from, _)) = &state.from {
            state.kept = super::share_storage(&self.with, from, &place.host).await?;
        }
        if (state.told || state.shared) && state.shared != state.kept {
            return Err(fail("Invalid state of instance files on shared storage"));
        }
        state.interfaces = ports::bind_to(&self.with, server, &place.host).await?;
        state.plan = Some(super::build::guest_plan(server, &state.interfaces));
        // A host that is only silent may run the guest still: two that write to one volume destroy what is on it.
        state.volumes = volumes::take_over(&self.with, cx, server, &place.host).await?;
        Ok(())
    }

    fn spawned(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let again = state.to.is_none().then_some(Step::ChooseHost.as_str());
        let what = "The server cannot be evacuated";
        state.power = state.choice.answered(outcome, what, again)?;
        Ok(())
    }

    fn claim(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &mut State,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let server = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
        let place = state.choice.claim(&self.with, tx, &server, now)?;
        let dest = migrations::End {
            compute: Some(place.host),
            node: Some(place.node),
        };
        migrations::set_dest(tx, state.migration, &dest, now)?;
        migrations::set_status(tx, state.migration, Status::PreMigrating, now)?;
        let change = shows(TaskState::RebuildBlockDeviceMapping);
        transition(tx, cx, &change, now)
    }

    /// The claim on the new host is given back.
    fn give_back(
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &mut State,
        now: Timestamp,
    ) -> Result<(), StepError> {
        if let Some(place) = state.choice.place.take() {
            db::placement::release_on(tx, cx.server, place.node_id, now)?;
        }
        migrations::set_dest(tx, state.migration, &migrations::End::default(), now)?;
        transition(tx, cx, &shows(TaskState::Rebuilding), now)
    }

    /// What it took over is not all taken back: the next evacuation, or deletion, has to know of it.
    fn remembered(
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
    ) -> Result<Option<Kept>, sql::Error> {
        let (Some(task), Some(server)) = (&state.superseded, instances::get(tx, cx.server)?) else {
            return Ok(None);
        };
        let mut kept = server.kept;
        kept.remember(task.clone());
        Ok(Some(kept))
    }

    /// The server is where its new guest is; what the old host has of it is nobody's.
    fn arrive(
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        now: Timestamp,
    ) -> Result<(), StepError> {
        if let Some((host, node)) = &state.from {
            let reason = "the server was evacuated";
            db::work::owe(tx, host, cx.server, reason, now)?;
            db::placement::release_on(tx, cx.server, *node, now)?;
        }
        let new = state.choice.place.as_ref().map(|place| &place.host);
        let others = state.other.iter().chain(&state.others);
        for other in others.filter(|other| Some(*other) != new) {
            let reason = "the server was evacuated while it moved";
            db::work::owe(tx, other, cx.server, reason, now)?;
        }
        let server = super::own(tx, cx)?;
        superseded::forget(tx, &server)?;
        migrations::set_status(tx, state.migration, Status::Done, now)?;
        let settled = if state.on {
            VmState::Active
        } else {
            VmState::Stopped
        };
        let change = Change {
            place: Some(state.choice.place.clone()),
            vm_state: Some(settled),
            power_state: Some(PowerState::from_code(i64::from(state.power))),
            launched_at: Some(now),
            progress: Some(0),
            ..Change::default()
        };
        transition(tx, cx, &change, now)
    }
}

#[async_trait]
impl Flow for Evacuate {
    const NAME: &'static str = accept::EVACUATE;
    type State = State;
    type Step = Step;

    // Until then the files are the old host's, and a removal on the new one leaves them.
    fn pivot(&self) -> Option<Step> {
        Some(Step::Take)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        match step {
            Step::Inspect | Step::Clear => None,
            Step::ChooseHost => Some("rebuild_server"),
            _ => Some("compute_rebuild_instance"),
        }
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        if step == Step::Clear {
            return state.other.clone();
        }
        let place = state.choice.place.as_ref();
        let place = place.filter(|_| step != Step::ChooseHost);
        place.map(|place| place.host.clone())
    }

    fn debtor(&self, step: Step, state: &State) -> Option<HostName> {
        let arrived = match step {
            Step::Spawn => !state.kept,
            Step::Take => state.kept,
            _ => false,
        };
        let from = state.from.as_ref().filter(|_| arrived);
        from.map(|(host, _)| host.clone())
    }

    fn deadline(&self, step: Step, state: &State) -> Duration {
        match step {
            // Until it is known to be silent.
            Step::Clear if state.fenced => Duration::from_secs(180),
            Step::Inspect | Step::Clear => Duration::from_secs(60),
            Step::ChooseHost => Duration::from_secs(30),
            Step::Networks => Duration::from_secs(120),
            Step::Plug => Duration::from_secs(60),
            Step::Spawn => Duration::from_secs(1800),
            Step::Take => Duration::from_secs(60),
        }
    }

    // What it has there is its debt when the server is elsewhere.
    fn may_pass(&self, step: Step, state: &State) -> bool {
        step == Step::Clear && !state.fenced
    }

    // Two guests on one file.
    fn must_be_fenced(&self, step: Step, state: &State) -> bool {
        step == Step::Spawn && state.kept
    }

    async fn is_away(&self, host: &HostName) -> bool {
        super::is_away(&self.with, host).await
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if (step, direction) == (Step::Clear, Direction::Do) {
            let host = state.other.clone()?;
            // Of a resize that host has a copy. Else nothing is removed yet: it may be all that there is.
            let taken = state.superseded.as_ref();
            let copied = taken.filter(|task| task.flow == accept::RESIZE);
            let copied = copied.and_then(Superseded::place);
            let verb = match copied.is_some_and(|place| place.host == host) {
                true => Verb::EnsureAbsent,
                false => Verb::EnsureStopped { grace_seconds: 0 },
            };
            return Some(HostWork { host, verb });
        }
        if step != Step::Spawn && (step != Step::Take || !state.kept) {
            return None;
        }
        let host = state.choice.place.as_ref()?.host.clone();
        let plan = || state.plan.clone().map(Box::new);
        let verb = match direction {
            Direction::Do if state.kept => Verb::EnsureShared {
                plan: plan()?,
                on: state.on,
                from: state.from.clone()?.0,
                take: step == Step::Take,
            },
            Direction::Do => Verb::RebuildOnce {
                plan: plan()?,
                on: state.on,
                grace_seconds: 0,
                from: None,
            },
            Direction::Undo => Verb::EnsureAbsent,
        };
        Some(HostWork { host, verb })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        match step {
            Step::Inspect => self.inspect(cx, &server, state).await,
            Step::Clear => self.cleared(state, outcome).await,
            Step::ChooseHost => self.choose_host(&server, state).await,
            Step::Networks => self.networks(cx, &server, state).await,
            Step::Plug => ports::plugged(&self.with, cx).await,
            Step::Spawn => Self::spawned(state, outcome),
            Step::Take if state.kept => power_after(outcome).map(drop),
            Step::Take => Ok(()),
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match (step, &state.from) {
            (Step::Networks, Some((host, _))) => {
                let server = super::instance(&self.with, cx).await?;
                ports::bind_to(&self.with, &server, host).await?;
                state.volumes = volumes::hand_back(&self.with, cx, &server, host).await?;
                Ok(())
            }
            (Step::Spawn, _) => power_after(outcome).map(drop),
            _ => Ok(()),
        }
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        let now = Timestamp::now();
        match (step, direction) {
            (Step::Inspect, Direction::Do) => Self::settle(tx, cx, state, now),
            // Before the files are the new host's: one that is believed to be down must not go on with them when it is back.
            (Step::Clear, Direction::Do) => {
                let reason = "the server is evacuated while it moved";
                for host in &state.sharing {
                    db::work::owe(tx, host, cx.server, reason, now)?;
                }
                Ok(())
            }
            (Step::ChooseHost, Direction::Do) => self.claim(tx, cx, state, now),
            (Step::ChooseHost, Direction::Undo) => Self::give_back(tx, cx, state, now),
            (Step::Networks, Direction::Do) => {
                instances::set_network_info(tx, cx.server, &state.interfaces)?;
                volumes::keep(tx, &mut state.volumes)?;
                transition(tx, cx, &shows(TaskState::RebuildSpawning), now)
            }
            (Step::Networks, Direction::Undo) => Ok(volumes::keep(tx, &mut state.volumes)?),
            (Step::Spawn, Direction::Do) if !state.kept => Self::arrive(tx, cx, state, now),
            (Step::Take, Direction::Do) if state.kept => Self::arrive(tx, cx, state, now),
            _ => Ok(()),
        }
    }

    fn note_failure(&self, state: &mut State, failure: &Failure) {
        if failure.redo_from.is_some() {
            state.choice.leave_out(failure);
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let change = match end {
            End::Done => Change {
                fault: Some(None),
                ..idle()
            },
            End::Unwound(failure) => {
                migrations::set_status(tx, state.migration, Status::Error, now)?;
                Change {
                    kept: Self::remembered(tx, cx, state)?,
                    vm_state: Some(VmState::Error),
                    fault: Some(Some(fault(failure, now))),
                    ..idle()
                }
            }
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
