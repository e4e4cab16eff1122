//! Start, stop and reboot: one piece of work on the server's host each.
//!
//! When the host cannot do it the server stays as it was, the action shows the error, and a stopped server is not
//! taken for a broken one. The shown power state follows the guest in any case.

use super::{fault, idle, power_after};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::instances::{self, Change, Expected};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::marker::PhantomData;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::{HostName, PowerState, Timestamp, VmState};

/// Seconds a guest gets to shut itself down (Nova's `shutdown_timeout`).
const GRACE_SECONDS: u64 = 60;

/// The steps of all three.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Do it there.
    Act,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Act];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Act => "act",
        }
    }
}

/// What the flows know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Reboot only: switch off instead of asking.
    #[serde(default)]
    hard: bool,
    /// Where the server is.
    #[serde(default)]
    host: Option<HostName>,
    /// The guest's power state afterwards.
    #[serde(default)]
    power: u8,
}

/// What one of the three does.
pub trait Act: Send + Sync + 'static {
    /// The flow's name.
    const NAME: &'static str;
    /// The event shown.
    const EVENT: &'static str;
    /// The server's state afterwards.
    const SETTLED: VmState;
    /// The work for the host.
    fn verb(state: &State) -> Verb;
}

/// Starts a server.
pub struct Start;
/// Stops a server: asks the guest first, then switches it off.
pub struct Stop;
/// Reboots a server.
pub struct Reboot;

/// One of the three flows.
pub struct Power<A> {
    with: Neighbours,
    act: PhantomData<A>,
}

impl<A: Act> Power<A> {
    /// The flow.
    pub fn new(with: Neighbours) -> Self {
        Self {
            with,
            act: PhantomData,
        }
    }
}

impl Act for Start {
    const NAME: &'static str = db::accept::START;
    const EVENT: &'static str = "compute_start_instance";
    const SETTLED: VmState = VmState::Active;

    fn verb(_state: &State) -> Verb {
        Verb::EnsureRunning
    }
}

impl Act for Stop {
    const NAME: &'static str = db::accept::STOP;
    const EVENT: &'static str = "compute_stop_instance";
    const SETTLED: VmState = VmState::Stopped;

    fn verb(_state: &State) -> Verb {
        Verb::EnsureStopped {
            grace_seconds: GRACE_SECONDS,
        }
    }
}

impl Act for Reboot {
    const NAME: &'static str = db::accept::REBOOT;
    const EVENT: &'static str = "compute_reboot_instance";
    const SETTLED: VmState = VmState::Active;

    fn verb(state: &State) -> Verb {
        Verb::RebootOnce {
            hard: state.hard,
            grace_seconds: GRACE_SECONDS,
        }
    }
}

async fn locate(with: &Neighbours, cx: &Context) -> Result<HostName, StepError> {
    let server = cx.server;
    let instance = with
        .store
        .read(move |tx| instances::get(tx, server))
        .await?
        .ok_or(StepError::Fenced)?;
    let host = instance
        .host
        .ok_or_else(|| StepError::Fail(Failure::new(409, "The server is on no host.")))?;
    if !with.view.is_up(&host) {
        with.view.refresh().await?;
        if !with.view.is_up(&host) {
            return Err(StepError::Fail(Failure::new(
                500,
                "The compute service of the server's host is down.",
            )));
        }
    }
    Ok(host)
}

#[async_trait]
impl<A: Act> Flow for Power<A> {
    const NAME: &'static str = A::NAME;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        (step == Step::Act).then_some(A::EVENT)
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, _step: Step) -> Duration {
        Duration::from_secs(GRACE_SECONDS + 120)
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Act || direction == Direction::Undo {
            return None;
        }
        Some(HostWork {
            host: state.host.clone()?,
            verb: A::verb(state),
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Locate => state.host = Some(locate(&self.with, cx).await?),
            Step::Act => state.power = power_after(outcome)?.code(),
        }
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        _step: Step,
        _state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        // Nothing is taken back: the server's owner sees how far it came.
        Ok(())
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
                vm_state: Some(A::SETTLED),
                power_state: Some(PowerState::from_code(i64::from(state.power))),
                fault: Some(None),
                ..idle()
            },
            End::Unwound(failure) => Change {
                fault: Some(Some(fault(failure, now))),
                ..idle()
            },
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
