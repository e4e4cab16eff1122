//! Resize and cold migration: the server leaves for another host, or for another flavor on the one it is on, and waits
//! there in VERIFY_RESIZE until that is confirmed or taken back.
//!
//! | step | where | does | undo |
//! |---|---|---|---|
//! | `choose_host` | | picks hosts; what the server holds becomes its migration's, and it claims the new flavor on its new host | both are taken back |
//! | `prepare` | new host | fetches what the guest is made of, while it still runs | - |
//! | `put_aside` | old host | asks the guest to go down and puts it aside | puts it back, as it ran |
//! | `networks` | | binds its ports to the new host | binds them to the old one and waits until they are wired |
//! | `plug` | | waits until the network agent has wired them | - |
//! | `land` | new host | fetches the disks, grows the root disk, makes the guest and starts it if it ran | the host removes it |
//!
//! The end of the last step writes the new place and flavor: until then every failure leaves the server as it was. On one
//! host the guest that was put aside stays beside the one that lands, so the way back is the same.
//!
//! `confirm.rs` and `revert.rs` are what follows.

use super::build::guest_plan;
use super::grace::Grace;
use super::placing::Choice;
use super::{fault, idle, ports, power_after, transition, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::instances::{self, Change, Expected, Instance, Place};
use db::migrations::{self, Status};
use db::moves::{self, Unsettled};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, FailureKind, GuestPlan, Verb, WorkOutcome};
use types::{HostName, PowerState, TaskState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Fetch what the guest is made of.
    Prepare,
    /// Switch it off and put it aside.
    PutAside,
    /// Bind its ports to the new host.
    Networks,
    /// Wait for the wiring.
    Plug,
    /// Make the guest of what is aside.
    Land,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::ChooseHost,
        Self::Prepare,
        Self::PutAside,
        Self::Networks,
        Self::Plug,
        Self::Land,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::ChooseHost => "choose_host",
            Self::Prepare => "prepare",
            Self::PutAside => "put_aside",
            Self::Networks => "networks",
            Self::Plug => "plug",
            Self::Land => "land",
        }
    }
}

/// Whether the host that the server is on may also be the one that it goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameHost {
    /// Never.
    #[default]
    Never,
    /// When no other host will do.
    Last,
    /// Like any other.
    Always,
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The host asked for (2.56).
    #[serde(default)]
    to: Option<HostName>,
    #[serde(default)]
    same_host: SameHost,
    /// Where the server goes.
    #[serde(flatten)]
    pub choice: Choice,
    /// What it leaves, from the server's own memory.
    #[serde(default)]
    moving: Option<Unsettled>,
    #[serde(default)]
    plan: Option<GuestPlan>,
    #[serde(default)]
    power: u8,
    #[serde(default)]
    grace: Grace,
}

impl State {
    /// The host that it leaves.
    fn source(&self) -> Option<HostName> {
        let moving = self.moving.as_ref()?;
        Some(moving.source.host.clone())
    }

    /// The host that it goes to.
    fn dest(&self) -> Option<HostName> {
        let place = self.choice.place.as_ref()?;
        Some(place.host.clone())
    }

    fn stays(&self) -> bool {
        self.source() == self.dest()
    }
}

/// What a server remembers of its move.
pub(super) fn unsettled(server: &Instance) -> Result<Unsettled, StepError> {
    let lost = || StepError::Fail(Failure::new(500, "The server does not move."));
    server.kept.unsettled.clone().ok_or_else(lost)
}

/// The flow.
pub struct Resize {
    /// Network service, hosts.
    pub with: Neighbours,
}

impl Resize {
    async fn choose(&self, server: Instance, state: &mut State) -> Result<(), StepError> {
        let moving = unsettled(&server)?;
        let source = moving.source.host.clone();
        let wanted = Instance {
            flavor: moving.new_flavor.clone(),
            ..server
        };
        state.plan = Some(guest_plan(&wanted, &wanted.network_info));
        state.moving = Some(moving);
        state.grace = Grace::of(&self.with, &wanted);
        let (to, same_host) = (state.to.clone(), state.same_host);
        let failed_here = state.choice.failed.contains(&source);
        let demands = new_demands(state, &wanted)?;
        let elsewhere = state.choice.choose(&self.with, &wanted, |request| {
            request.demands.clone_from(&demands);
            request.only_host = to;
            if same_host != SameHost::Always {
                request.ignore_hosts.insert(source.clone());
            }
        });
        let elsewhere = elsewhere.await;
        if elsewhere.is_ok() || same_host != SameHost::Last || failed_here {
            return elsewhere;
        }
        let here = state.choice.choose(&self.with, &wanted, |request| {
            request.demands = demands;
            request.only_host = Some(source.clone());
        });
        // What other hosts lack says more than what this one lacks.
        here.await.or(elsewhere)
    }

    /// Its empty disks go along as they are.
    async fn empty_disks_fit(&self, server: &Instance) -> Result<(), StepError> {
        let devices = volumes::devices(&self.with, server.id).await?;
        let empty = devices.iter().filter(|device| device.is_ephemeral());
        let has: u64 = empty.filter_map(|device| device.volume_size).sum();
        if has <= u64::from(unsettled(server)?.new_flavor.ephemeral_gb) {
            return Ok(());
        }
        Err(smaller("Unable to resize disk down."))
    }

    fn claim(&self, tx: &mut Tx<'_>, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let now = Timestamp::now();
        let server = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
        let moving = unsettled(&server)?;
        moves::leave_claim(tx, cx.server, moving.migration, now)?;
        let wanted = Instance {
            flavor: moving.new_flavor.clone(),
            ..server
        };
        let place = state.choice.claim(&self.with, tx, &wanted, now)?;
        let flavors = (&moving.old_flavor, &moving.new_flavor);
        db::block_devices::fit_swap(tx, cx.server, flavors, now)?;
        migrations::set_dest(tx, moving.migration, &end_at(&place), now)?;
        Ok(())
    }

    fn prepared(state: &State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let again = state.to.is_none().then_some(Step::ChooseHost.as_str());
        let what = "The new host cannot take the server";
        state.choice.answered(outcome, what, again).map(drop)
    }

    /// Binds the ports to one of the two hosts; the volume service hears which one it is.
    async fn bind(&self, cx: &Context, host: Option<HostName>) -> Result<(), StepError> {
        let nowhere = || StepError::Fail(Failure::new(500, "No host was claimed."));
        let host = host.ok_or_else(nowhere)?;
        ports::follow(&self.with, cx, &host).await?;
        volumes::follow(&self.with, cx, &host).await
    }
}

/// What another flavor asks of the hardware; with the one that it has a server goes on as it is.
fn new_demands(state: &State, wanted: &Instance) -> Result<Vec<scheduler::Demand>, StepError> {
    let moving = state.moving.as_ref();
    if moving.is_none_or(|moving| moving.old_flavor.id == moving.new_flavor.id) {
        return Ok(Vec::new());
    }
    let nothing = std::collections::BTreeMap::new();
    let image = wanted.image_properties().unwrap_or(&nothing);
    scheduler::demands(&wanted.flavor, image).map_err(super::placing::refused)
}

/// A place as migrations show it.
fn end_at(place: &Place) -> migrations::End {
    migrations::End {
        compute: Some(place.host.clone()),
        node: Some(place.node.clone()),
    }
}

/// Nova's words for what a hypervisor refused.
fn put_aside(outcome: Option<WorkOutcome>) -> Result<(), StepError> {
    match outcome {
        Some(WorkOutcome::Failed {
            kind: FailureKind::Request,
            message,
            ..
        }) => Err(smaller(&message)),
        outcome => power_after(outcome).map(drop),
    }
}

fn smaller(message: &str) -> StepError {
    StepError::Fail(Failure::new(400, format!("Resize error: {message}")))
}

#[async_trait]
impl Flow for Resize {
    const NAME: &'static str = db::accept::RESIZE;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        Some(match step {
            Step::ChooseHost => "conductor_migrate_server",
            Step::Prepare => "compute_prep_resize",
            Step::PutAside => "compute_resize_instance",
            Step::Networks | Step::Plug | Step::Land => "compute_finish_resize",
        })
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        match step {
            Step::ChooseHost => None,
            Step::PutAside => state.source(),
            _ => state.dest(),
        }
    }

    fn deadline(&self, step: Step, state: &State) -> Duration {
        match step {
            Step::ChooseHost => Duration::from_secs(30),
            Step::Prepare => Duration::from_secs(1800),
            Step::PutAside => state.grace.deadline(),
            Step::Networks => Duration::from_secs(120),
            Step::Plug => Duration::from_secs(60),
            Step::Land => Duration::from_secs(4 * 3600),
        }
    }

    async fn is_away(&self, host: &HostName) -> bool {
        super::is_away(&self.with, host).await
    }

    // What was put aside is the only copy of the guest.
    // Its volumes are reached by the same names from both hosts.
    fn must_be_fenced(&self, step: Step, _state: &State) -> bool {
        step == Step::Land
    }

    fn undo_waits(&self, step: Step) -> bool {
        step == Step::PutAside
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        let moving = state.moving.as_ref()?;
        let (source, dest) = (state.source()?, state.dest()?);
        let plan = || state.plan.clone().map(Box::new);
        let (host, verb) = match (step, direction) {
            (Step::Prepare, Direction::Do) => (dest, Verb::EnsureReady(plan()?)),
            (Step::PutAside, Direction::Do) => {
                let verb = Verb::EnsurePutAside {
                    grace_seconds: state.grace.seconds(),
                    root_gb: moving.new_flavor.root_gb,
                };
                (source, verb)
            }
            (Step::PutAside, Direction::Undo) => (source, Verb::EnsurePutBack { on: moving.ran }),
            (Step::Land, Direction::Do) => {
                let verb = Verb::EnsureLanded {
                    plan: plan()?,
                    from: source,
                    on: moving.ran,
                };
                (dest, verb)
            }
            // On one host what has landed goes when the guest is put back.
            (Step::Land, Direction::Undo) if !state.stays() => (dest, Verb::EnsureAbsent),
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
        match step {
            Step::ChooseHost => {
                let server = super::instance(&self.with, cx).await?;
                self.empty_disks_fit(&server).await?;
                self.choose(server, state).await
            }
            Step::Prepare => Self::prepared(state, outcome),
            Step::PutAside => put_aside(outcome),
            Step::Networks if state.stays() => Ok(()),
            Step::Networks => self.bind(cx, state.dest()).await,
            Step::Plug => ports::plugged(&self.with, cx).await,
            Step::Land => {
                state.power = power_after(outcome)?.code();
                Ok(())
            }
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
            Step::Networks if !state.stays() => {
                self.bind(cx, state.source()).await?;
                ports::plugged(&self.with, cx).await
            }
            Step::PutAside => power_after(outcome).map(drop),
            Step::Land if !state.stays() => power_after(outcome).map(drop),
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
        let (task_state, status) = match (step, direction) {
            (Step::ChooseHost, Direction::Do) => return self.claim(tx, cx, state),
            (Step::ChooseHost, Direction::Undo) => {
                // Without a place nothing was claimed.
                let placed = state.choice.place.take();
                if let Some(moving) = state.moving.as_ref().filter(|_| placed.is_some()) {
                    moves::take_claim_back(tx, cx.server, moving.migration, now)?;
                    migrations::set_dest(tx, moving.migration, &migrations::End::default(), now)?;
                }
                (TaskState::ResizePrep, Status::PreMigrating)
            }
            (Step::Prepare, Direction::Do) => (TaskState::ResizeMigrating, Status::Migrating),
            (Step::PutAside, Direction::Do) => (TaskState::ResizeMigrated, Status::PostMigrating),
            (Step::Plug, Direction::Do) => (TaskState::ResizeFinish, Status::PostMigrating),
            _ => return Ok(()),
        };
        if let Some(moving) = &state.moving {
            migrations::set_status(tx, moving.migration, status, now)?;
        }
        let change = Change {
            task_state: Some(Some(task_state)),
            ..Change::default()
        };
        transition(tx, cx, &change, now)
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
        let Some(server) = instances::get(tx, cx.server)? else {
            return Ok(());
        };
        let Some(moving) = server.kept.unsettled.clone() else {
            return Ok(());
        };
        let change = match end {
            End::Done => {
                moves::arrive(tx, &server)?;
                migrations::set_status(tx, moving.migration, Status::Finished, now)?;
                Change {
                    vm_state: Some(VmState::Resized),
                    place: Some(state.choice.place.clone()),
                    power_state: Some(PowerState::from_code(i64::from(state.power))),
                    launched_at: Some(now),
                    fault: Some(None),
                    progress: Some(0),
                    ..idle()
                }
            }
            End::Unwound(failure) => {
                moves::take_back(tx, &server, &moving, false, now)?;
                migrations::set_status(tx, moving.migration, Status::Error, now)?;
                Change {
                    fault: Some(Some(fault(failure, now))),
                    ..idle()
                }
            }
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
