//! Live migration: a guest goes to another host while it runs.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `choose_host` | picks hosts; the claim is in the transaction that ends the step | gives the claim back |
//! | `check` | looks whether the two hosts can do it; if not, and nobody named the host, another one is picked | - |
//! | `ready` | the new host makes its ports ready, where the network service can have that | it does not any more |
//! | `prepare` | the new host gets ready for the guest; if it cannot, the same | it removes what it made |
//! | `go_back` | - | the guest goes on on the old host, if it has not stayed there |
//! | `fence` | - | the new host switches off what it may run, if the guest has not stayed on the old one |
//! | `move` | the old host sends the guest | it says whether the guest has stayed there, as it was |
//! | `arrive` | the guest goes on on the new host, and the server is there | it is switched off there |
//! | `bind` | its ports are active on the new host, and the volume service hears of it; from here on only forward | - |
//! | `leave` | the old host removes what is left; one that does not answer owes it | - |
//!
//! The server holds what it needs on both hosts until it has left the first. A migration that was called off before
//! `move` is one whose record says so; from then on the old host is told to stop, and the step fails.
//!
//! A move that failed may have got as far as that the guest runs on the new host: the old one has not heard how it ended. So
//! a guest that does not run on the old host is not started there before the new one has switched it off, or is forced down:
//! two guests would write to the same volumes, and to the same files where the hosts share them. One that has stayed on the
//! old host goes on there whatever the new one says, which owes the removal of what it has.
//!
//! A guest that went on on the new host before its memory was there, and whose memory then could not follow (post-copy), is
//! lost: neither host has all of it, but its disks are on the new host as it left them. So the flow goes forward: it is
//! switched off there, the server is there, in ERROR, and a hard reboot starts it.

use super::placing::Choice;
use super::{fault, hosts_fit, idle, ports, power_after, transition, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::instances::{self, Change, Expected, Instance, Place};
use db::migrations::{self, Status};
use db::{actions, tasks};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, FailureKind, GuestPlan, Verb, WorkOutcome};
use types::{HostName, MigrationId, PowerState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Look whether it can be done.
    Check,
    /// Have the new host make the ports ready.
    Ready,
    /// Make the new host ready.
    Prepare,
    /// Nothing on the way there; back, let the guest go on where it was.
    GoBack,
    /// Nothing on the way there; back, see to it that it does not run where it went.
    Fence,
    /// Send the guest.
    Move,
    /// Let it go on.
    Arrive,
    /// Bind its ports.
    Networks,
    /// Clean up behind it.
    Leave,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::ChooseHost,
        Self::Check,
        Self::Ready,
        Self::Prepare,
        Self::GoBack,
        Self::Fence,
        Self::Move,
        Self::Arrive,
        Self::Networks,
        Self::Leave,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::ChooseHost => "choose_host",
            Self::Check => "check",
            Self::Ready => "ready",
            Self::Prepare => "prepare",
            Self::GoBack => "go_back",
            Self::Fence => "fence",
            Self::Move => "move",
            Self::Arrive => "arrive",
            Self::Networks => "bind",
            Self::Leave => "leave",
        }
    }
}

/// Hosts that may try in vain to get ready for a guest, before another one does for the last time.
const UNREADY: u8 = 2;
/// The event of the old host's part of the check.
const SOURCE_CHECKED: &str = "compute_check_can_live_migrate_source";

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The record of the move.
    pub(super) migration: MigrationId,
    /// The host asked for.
    #[serde(default)]
    to: Option<HostName>,
    /// Whether only its resources count there.
    #[serde(default)]
    force: bool,
    /// Whether disks are to be sent, too; none is for us to find out.
    #[serde(default)]
    block: Option<bool>,
    /// Where the server was.
    #[serde(default)]
    pub from: Option<Place>,
    /// Whether the guest stands still.
    #[serde(default)]
    paused: bool,
    /// Where the server goes.
    #[serde(flatten)]
    pub choice: Choice,
    #[serde(default)]
    plan: Option<GuestPlan>,
    #[serde(default)]
    power: u8,
    /// Somebody called it off.
    #[serde(default)]
    cancelled: bool,
    /// Whether the new host has its ports ready.
    #[serde(default)]
    ready: bool,
    /// Whether the two hosts share the guest's files.
    #[serde(default)]
    shared: bool,
    /// How many hosts could not get ready for the guest.
    #[serde(default)]
    unready: u8,
    /// Why the last host that was picked is unfit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unfit: Option<String>,
    /// The guest's memory was lost on the way: what its host said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    /// The guest has stayed on the old host, as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stays: bool,
    /// The new host has switched it off, or is forced down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fenced: bool,
}

/// The flow.
pub struct LiveMigration {
    /// Network service, hosts.
    pub with: Neighbours,
}

fn fail(words: impl Into<String>) -> StepError {
    StepError::Fail(Failure::new(500, words))
}

/// The same of a host, whose name is for administrators.
fn fail_of(words: String, with_host: String) -> StepError {
    StepError::Fail(Failure::new(500, words).details(with_host))
}

/// The guest is off, and what it had in memory is gone.
fn lost(message: &str) -> Failure {
    let words = "The live migration failed after the server went on on its new host without all of its memory (post-copy), \
                 which is lost. Its disks are there: reboot it hard to start it.";
    Failure::new(500, words).details(message)
}

/// Called off, whoever asked for it.
fn called_off() -> Failure {
    Failure::new(500, "The live migration was cancelled.")
}

fn place_of(server: &Instance) -> Option<Place> {
    Some(Place {
        host: server.host.clone()?,
        node_id: server.node_id?,
        node: server.node.clone()?,
        zone: server.availability_zone.clone().unwrap_or_default(),
    })
}

fn old_host(state: &State) -> Option<HostName> {
    state.from.as_ref().map(|place| place.host.clone())
}

fn new_host(state: &State) -> Option<HostName> {
    state.choice.place.as_ref().map(|place| place.host.clone())
}

impl LiveMigration {
    async fn choose_host(&self, server: &Instance, state: &mut State) -> Result<(), StepError> {
        let from = place_of(server).ok_or_else(|| fail("The server is on no host."))?;
        if state.force && state.to.as_ref() == Some(&from.host) {
            let (id, host) = (server.id, &from.host);
            let words =
                |host: &str| format!("Unable to migrate instance ({id}) to current host{host}.");
            return Err(fail_of(words(""), words(&format!(" ({host})"))));
        }
        self.must_be_up(&from.host).await?;
        if let (true, Some(to)) = (state.force, &state.to) {
            self.must_be_up(to).await?;
        }
        state.paused = server.vm_state == VmState::Paused;
        let host = from.host.clone();
        state.from = Some(from);
        let (to, force) = (state.to.clone(), state.force);
        let runs_on = hosts_fit::runs_on(&self.with, &host);
        let choosing = state.choice.choose(&self.with, server, |request| {
            request.ignore_hosts.insert(host);
            request.unfiltered = force && to.is_some();
            request.only_host = to;
            request.runs_on = runs_on;
        });
        match (choosing.await, &state.unfit) {
            (Err(StepError::Fail(refusal)), Some(unfit)) => {
                Err(StepError::Fail(state.choice.all_unfit(unfit, refusal)))
            }
            (chosen, _) => chosen,
        }
    }

    async fn must_be_up(&self, host: &HostName) -> Result<(), StepError> {
        self.with.view.refresh().await?;
        if self.with.view.is_up(host) {
            return Ok(());
        }
        let words = |host| format!("Compute service of {host} is unavailable at this time.");
        Err(fail_of(words("the host"), words(host.as_str())))
    }

    /// What is wanted must fit to whether the two hosts share the guest's files; who wants nothing gets what fits.
    async fn check(
        &self,
        cx: &Context,
        server: &Instance,
        state: &mut State,
    ) -> Result<(), StepError> {
        if let (Some(from), Some(to)) = (old_host(state), new_host(state)) {
            state.shared = super::share_storage(&self.with, &from, &to).await?;
            hosts_fit::compare_cpus(&self.with, cx, &from, &to).await?;
        }
        let host = old_host(state).unwrap_or_else(|| HostName(String::new()));
        let refused = |why: &str| fail_of(format!("The host {why}"), format!("{host} {why}"));
        match (state.block, state.shared, &server.image) {
            (Some(false), false, Some(_)) => Err(refused(
                "is not on shared storage: Shared storage live-migration requires either shared storage or \
                 boot-from-volume with no local disks.",
            )),
            (Some(true), true, _) => Err(refused(
                "is not on local storage: Block migration can not be used with shared storage.",
            )),
            _ => {
                let plan = super::build::guest_plan(server, &server.network_info);
                state.plan = Some(plan);
                Ok(())
            }
        }
    }

    /// The same; a refusal is shown as one of the old host, too. Another host may do where nobody has named one.
    async fn check_both(
        &self,
        cx: &Context,
        server: &Instance,
        state: &mut State,
    ) -> Result<(), StepError> {
        let mut checked = self.check(cx, server, state).await;
        if let (Err(StepError::Fail(failure)), Some(host)) = (&mut checked, old_host(state)) {
            if state.to.is_none() {
                failure.redo_from = Some(Step::ChooseHost.as_str().to_owned());
            }
            let (cx, failure) = (cx.clone(), failure.clone());
            let noting = self
                .with
                .store
                .write(move |tx| Self::source_checked(tx, &cx, &host, Some(&failure)));
            noting.await?;
        }
        checked
    }

    /// Nova asks the old host while it asks the new one, and shows each as an event. Each outcome once,
    /// however often the step is run.
    fn source_checked(
        tx: &mut Tx<'_>,
        cx: &Context,
        host: &HostName,
        failure: Option<&Failure>,
    ) -> Result<(), sql::Error> {
        let Some(action) = tasks::get(tx, cx.task)?.and_then(|task| task.action) else {
            return Ok(());
        };
        let shown = actions::events(tx, action)?;
        let alike = |one: &actions::Event| {
            one.event == SOURCE_CHECKED
                && (one.result.as_deref() == Some("Error")) == failure.is_some()
        };
        if shown.iter().any(alike) {
            return Ok(());
        }
        let told = failure.map(|failure| failure.details.as_ref().unwrap_or(&failure.message));
        let (told, now) = (told.map(String::as_str), Timestamp::now());
        actions::note_event(tx, action, SOURCE_CHECKED, Some(host.as_str()), told, now)
    }

    /// Another host may be able to take the guest, where nobody has named one.
    fn prepared(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        use FailureKind::{Cancelled, Guest, Request};
        let lies_with_host = match &outcome {
            Some(WorkOutcome::Failed { kind, .. }) => ![Cancelled, Guest, Request].contains(kind),
            _ => false,
        };
        let mut prepared = power_after(outcome).map(drop);
        if let Err(StepError::Fail(failure)) = &mut prepared
            && lies_with_host
            && state.to.is_none()
            && state.unready < UNREADY
        {
            state.unready += 1;
            failure.redo_from = Some(Step::ChooseHost.as_str().to_owned());
        }
        prepared
    }

    fn moved(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        match outcome {
            Some(WorkOutcome::Failed {
                kind: FailureKind::Cancelled,
                ..
            }) => {
                state.cancelled = true;
                Err(StepError::Fail(called_off()))
            }
            Some(WorkOutcome::Failed {
                kind: FailureKind::PostCopy,
                message,
                ..
            }) => {
                state.lost = Some(message);
                Ok(())
            }
            other => power_after(other).map(drop),
        }
    }

    /// What the old host sees of the guest. One that cannot say it (its release does not look, say) may not have it.
    fn looked(
        cx: &Context,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        use FailureKind::{HostDown, Timeout, Unavailable};
        let power = match outcome {
            Some(WorkOutcome::Failed { kind, message, .. })
                if ![HostDown, Timeout, Unavailable].contains(&kind) =>
            {
                tracing::warn!(server = %cx.server, reason = message, "the host that a guest was leaving does not say whether it has stayed");
                None
            }
            other => Some(power_after(other)?),
        };
        let as_it_was = match state.paused {
            true => PowerState::Paused,
            false => PowerState::Running,
        };
        state.stays = power == Some(as_it_was);
        state.power = as_it_was.code();
        Ok(())
    }

    /// A host that does not know the guest does not run it.
    fn switched_off(outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        match outcome {
            Some(WorkOutcome::Failed {
                kind: FailureKind::NotFound,
                ..
            }) => Ok(()),
            other => power_after(other).map(drop),
        }
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
        Self::go_on(tx, state, Status::Preparing, now)
    }

    /// The next status, unless somebody has called the migration off.
    fn go_on(
        tx: &mut Tx<'_>,
        state: &mut State,
        status: Status,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let found = migrations::get(tx, state.migration)?;
        if found.is_some_and(|found| found.status == Status::Cancelled) {
            return Err(StepError::Fail(called_off()));
        }
        migrations::set_status(tx, state.migration, status, now)?;
        Ok(())
    }

    /// What the server shows of where it is.
    fn be_at(
        tx: &mut Tx<'_>,
        cx: &Context,
        place: Option<&Place>,
        power: PowerState,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let change = Change {
            place: place.cloned().map(Some),
            power_state: Some(power),
            ..Change::default()
        };
        transition(tx, cx, &change, now)
    }
}

#[async_trait]
impl Flow for LiveMigration {
    const NAME: &'static str = accept::LIVE_MIGRATION;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Networks)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        Some(match step {
            Step::ChooseHost => "conductor_live_migrate_instance",
            Step::Check => "compute_check_can_live_migrate_destination",
            Step::Ready | Step::Prepare => "compute_pre_live_migration",
            Step::GoBack | Step::Fence | Step::Move => "compute_live_migration",
            Step::Arrive | Step::Networks | Step::Leave => {
                "compute_post_live_migration_at_destination"
            }
        })
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        match step {
            Step::ChooseHost => None,
            Step::GoBack | Step::Move | Step::Leave => old_host(state),
            _ => new_host(state),
        }
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::ChooseHost | Step::Check => Duration::from_secs(30),
            Step::Prepare => Duration::from_secs(1800),
            Step::Move => Duration::from_secs(4 * 3600),
            Step::Ready | Step::GoBack | Step::Fence | Step::Arrive | Step::Networks => {
                Duration::from_secs(120)
            }
            Step::Leave => Duration::from_secs(60),
        }
    }

    fn may_owe(&self, step: Step) -> bool {
        step == Step::Leave
    }

    async fn is_away(&self, host: &HostName) -> bool {
        super::is_away(&self.with, host).await
    }

    // The guest is stopped or goes on by this alone.
    fn undo_waits(&self, step: Step) -> bool {
        matches!(step, Step::GoBack | Step::Fence | Step::Move | Step::Arrive)
    }

    // The guest's disks are on the old host, too, and what the new one has goes before it does anything else.
    fn undo_believes_forced_down(&self, step: Step) -> bool {
        matches!(step, Step::Fence | Step::Arrive)
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        let (old, new) = (old_host(state), new_host(state));
        let paused = state.paused;
        let (host, verb) = match (step, direction) {
            (Step::Prepare, Direction::Do) => {
                let plan = Box::new(state.plan.clone()?);
                let verb = match state.shared {
                    true => Verb::EnsureShared {
                        plan,
                        on: false,
                        from: old?,
                        take: false,
                    },
                    false => Verb::RebuildOnce {
                        plan,
                        on: false,
                        grace_seconds: 0,
                        from: old,
                    },
                };
                (new?, verb)
            }
            (Step::Prepare, Direction::Undo) => (new?, Verb::EnsureAbsent),
            (Step::Move, Direction::Do) => {
                let (to, shared) = (new?, state.shared);
                (old?, Verb::MigrateLiveOnce { to, shared })
            }
            (Step::Move, Direction::Undo) => (old?, Verb::EnsureStayed { paused, look: true }),
            (Step::Fence, Direction::Undo) if !state.stays && !state.fenced => {
                (new?, Verb::EnsureStopped { grace_seconds: 0 })
            }
            (Step::GoBack, Direction::Undo) if !state.stays => {
                let look = false;
                (old?, Verb::EnsureStayed { paused, look })
            }
            (Step::Arrive, Direction::Do) if state.lost.is_some() => {
                (new?, Verb::EnsureStopped { grace_seconds: 0 })
            }
            (Step::Arrive, Direction::Do) => (new?, Verb::EnsureArrived { paused }),
            (Step::Arrive, Direction::Undo) => (new?, Verb::EnsureStopped { grace_seconds: 0 }),
            (Step::Leave, _) => (old?, Verb::EnsureAbsent),
            _ => return None,
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
            Step::ChooseHost => self.choose_host(&server, state).await,
            Step::Check => self.check_both(cx, &server, state).await,
            Step::Move => Self::moved(state, outcome),
            Step::Arrive => {
                state.power = power_after(outcome)?.code();
                Ok(())
            }
            Step::Ready => {
                if let Some(host) = new_host(state) {
                    state.ready = ports::make_ready(&self.with, &server, &host).await?;
                }
                Ok(())
            }
            Step::Networks => {
                let Some(host) = new_host(state) else {
                    return Ok(());
                };
                if state.ready {
                    let old = old_host(state);
                    ports::activate(&self.with, &server, old.as_ref(), &host).await?;
                } else {
                    ports::bind_to(&self.with, &server, &host).await?;
                }
                volumes::follow(&self.with, cx, &host).await
            }
            Step::Prepare => Self::prepared(state, outcome),
            Step::GoBack | Step::Fence => Ok(()),
            Step::Leave => power_after(outcome).map(drop),
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            // Also when it is not known whether they are ready.
            Step::Ready => match new_host(state) {
                Some(host) => {
                    let server = super::instance(&self.with, cx).await?;
                    ports::make_unready(&self.with, &server, &host).await
                }
                None => Ok(()),
            },
            Step::Move => Self::looked(cx, state, outcome),
            Step::Fence if !state.stays && !state.fenced => Self::switched_off(outcome),
            Step::GoBack if !state.stays => {
                state.power = power_after(outcome)?.code();
                Ok(())
            }
            Step::Prepare | Step::Arrive => power_after(outcome).map(drop),
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
        let power = PowerState::from_code(i64::from(state.power));
        match (step, direction) {
            (Step::ChooseHost, Direction::Do) => self.claim(tx, cx, state, now),
            (Step::ChooseHost, Direction::Undo) => {
                if let Some(place) = state.choice.place.take() {
                    db::placement::release_on(tx, cx.server, place.node_id, now)?;
                }
                Ok(())
            }
            (Step::Check, Direction::Do) => match old_host(state) {
                Some(host) => Ok(Self::source_checked(tx, cx, &host, None)?),
                None => Ok(()),
            },
            (Step::Prepare, Direction::Do) => Self::go_on(tx, state, Status::Running, now),
            (Step::Move, Direction::Do) => {
                migrations::set_status(tx, state.migration, Status::PostMigrating, now)?;
                Ok(())
            }
            (Step::Arrive, Direction::Do) => {
                Self::be_at(tx, cx, state.choice.place.as_ref(), power, now)
            }
            (Step::Arrive, Direction::Undo) => {
                state.fenced = true;
                Self::be_at(tx, cx, state.from.as_ref(), PowerState::Shutdown, now)
            }
            (Step::GoBack, Direction::Undo) => Self::be_at(tx, cx, None, power, now),
            (Step::Leave, Direction::Do) => {
                if let Some(from) = &state.from {
                    db::placement::release_on(tx, cx.server, from.node_id, now)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note_failure(&self, state: &mut State, failure: &Failure) {
        state.choice.leave_out(failure);
        state.unfit = Some(failure.message.clone());
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let found = migrations::get(tx, state.migration)?;
        let cancelled =
            state.cancelled || found.is_some_and(|found| found.status == Status::Cancelled);
        let broken = state
            .lost
            .as_ref()
            .map(|message| Some(fault(&lost(message), now)));
        let (status, shown) = match end {
            _ if broken.is_some() => (Status::Error, broken),
            End::Done => (Status::Completed, Some(None)),
            // What somebody wanted is no fault.
            End::Unwound(_) if cancelled => (Status::Cancelled, None),
            End::Unwound(failure) => (Status::Error, Some(Some(fault(failure, now)))),
        };
        migrations::set_status(tx, state.migration, status, now)?;
        let change = Change {
            vm_state: state.lost.is_some().then_some(VmState::Error),
            fault: shown,
            progress: Some(0),
            ..idle()
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
