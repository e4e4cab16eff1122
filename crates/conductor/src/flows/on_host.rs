//! The shape of flows that are one piece of work on the server's host: find the host, do it there, write what came
//! of it. A flow of this shape says what is its own in an [`Act`].
//!
//! When the host cannot do it the action shows the error, and the shown power state follows the guest. Nothing is taken
//! back: the server's owner sees how far it came. The server stays as it was, unless Nova shows ERROR then
//! ([`Act::failed`]); a stopped server is not taken for a broken one.

use super::grace::Grace;
use super::{fault, idle, power_after};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::instances::{self, Change, Expected, Instance};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::marker::PhantomData;
use std::time::Duration;
use types::agent::{Direction, FailureKind, Verb, WorkOutcome};
use types::{HostName, PowerState, ServerId, TaskState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host and what it needs to know.
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

/// What a flow knows: what was asked for, where, and what came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State<W> {
    #[serde(flatten)]
    wanted: W,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    power: u8,
    /// The host said that it could not.
    #[serde(default)]
    refused: bool,
    /// What the guest does since, if the host has looked.
    #[serde(default)]
    since: Option<u8>,
}

impl<W> State<W> {
    fn came(&self) -> Came {
        let power = |code: u8| PowerState::from_code(i64::from(code));
        match &self.host {
            None => Came::Nowhere,
            Some(_) if self.refused => Came::Refused(self.since.map(power)),
            Some(_) => Came::Unheard,
        }
    }
}

/// How far an act came that could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The host was not asked: nothing has changed.
    Nowhere,
    /// The host was asked and said nothing. If it has begun, that is heard of when it says how its guests are.
    Unheard,
    /// The host said that it could not, and what the guest does since, if it has looked.
    Refused(Option<PowerState>),
}

/// Nothing but that it is wanted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Plain {}

/// What is a flow's own.
#[async_trait]
pub trait Act: Send + Sync + 'static {
    /// The flow's name.
    const NAME: &'static str;
    /// The event shown.
    const EVENT: &'static str;
    /// The server's state afterwards; none leaves it as it is.
    const SETTLED: Option<VmState>;
    /// Whether it makes sense for a server without a host, which then is not asked.
    const HOSTLESS: bool = false;
    /// Whether the guest may begin to run by it.
    const STARTS: bool = false;
    /// Whether it goes on without the server's host when that is known to be down.
    const PASSES_DOWN_HOST: bool = false;
    /// Whether it is done whatever the server's host says, or if that says nothing until the deadline. What the host has
    /// not done then is made good when it says how its guests are.
    const INSISTS: bool = false;
    /// What the request said. Fields may be added with defaults, never removed.
    type Wanted: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What the server shows while its host works; none leaves it as it is.
    fn acting(_wanted: &Self::Wanted) -> Option<TaskState> {
        None
    }

    /// How long the host may take.
    fn deadline(_wanted: &Self::Wanted) -> Duration {
        Grace::default().deadline()
    }

    /// Finds out what the host needs to know.
    async fn prepare(
        _with: &Neighbours,
        _cx: &Context,
        _server: &Instance,
        _wanted: &mut Self::Wanted,
    ) -> Result<(), StepError> {
        Ok(())
    }

    /// The work for the host. Pure.
    fn verb(wanted: &Self::Wanted) -> Option<Verb>;

    /// What changes when the host has done it; writes what else belongs to that.
    fn done(
        _tx: &mut Tx<'_>,
        _server: &Instance,
        _wanted: &Self::Wanted,
        power: PowerState,
        _now: Timestamp,
    ) -> Result<Change, sql::Error> {
        Ok(Change {
            vm_state: Self::SETTLED,
            ..at_rest(power)
        })
    }

    /// What the server shows of a host that could not do it.
    fn refusal(_server: ServerId, kind: FailureKind, message: String) -> Failure {
        super::refusal(kind, message)
    }

    /// Writes what holds although it could not be done.
    fn left(
        _tx: &mut Tx<'_>,
        _server: &Instance,
        _wanted: &Self::Wanted,
    ) -> Result<(), sql::Error> {
        Ok(())
    }

    /// What changes when it could not be done, beside the fault and the power state that the host told.
    fn failed(_server: &Instance, _wanted: &Self::Wanted, _came: Came) -> Change {
        idle()
    }
}

/// Nothing is being done any more, and the guest is as the host says.
pub fn at_rest(power: PowerState) -> Change {
    Change {
        power_state: Some(power),
        fault: Some(None),
        ..idle()
    }
}

/// A flow of this shape.
pub struct OnHost<A> {
    with: Neighbours,
    act: PhantomData<A>,
}

impl<A: Act> OnHost<A> {
    /// The flow.
    pub fn new(with: &Neighbours) -> Self {
        Self {
            with: with.clone(),
            act: PhantomData,
        }
    }

    async fn locate(&self, cx: &Context, state: &mut State<A::Wanted>) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        A::prepare(&self.with, cx, &server, &mut state.wanted).await?;
        state.host = match &server.host {
            Some(host) => match super::must_be_up(&self.with, host).await {
                Ok(()) => {
                    if A::STARTS {
                        super::must_be_alone(&self.with, &server, host).await?;
                        super::superseded::follow(&self.with, cx, &server).await?;
                    }
                    Some(host.clone())
                }
                Err(StepError::Fail(_)) if A::PASSES_DOWN_HOST => None,
                Err(error) => return Err(error),
            },
            None if A::HOSTLESS => None,
            None => {
                let failure = Failure::new(409, "The server is on no host.");
                return Err(StepError::Fail(failure));
            }
        };
        Ok(())
    }
}

#[async_trait]
impl<A: Act> Flow for OnHost<A> {
    const NAME: &'static str = A::NAME;
    type State = State<A::Wanted>;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        (step == Step::Act).then_some(A::EVENT)
    }

    fn pivot(&self) -> Option<Step> {
        A::INSISTS.then_some(Step::Act)
    }

    fn may_pass(&self, step: Step, _state: &Self::State) -> bool {
        A::INSISTS && step == Step::Act
    }

    fn host(&self, _step: Step, state: &Self::State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, _step: Step, state: &Self::State) -> Duration {
        A::deadline(&state.wanted)
    }

    fn host_work(&self, step: Step, direction: Direction, state: &Self::State) -> Option<HostWork> {
        if step != Step::Act || direction == Direction::Undo {
            return None;
        }
        Some(HostWork {
            host: state.host.clone()?,
            verb: A::verb(&state.wanted)?,
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut Self::State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Locate => self.locate(cx, state).await?,
            Step::Act if state.host.is_none() => {}
            Step::Act => match outcome {
                Some(WorkOutcome::Failed {
                    kind,
                    message,
                    power,
                }) => {
                    // A host that is down has said nothing.
                    state.refused = kind != FailureKind::HostDown;
                    state.since = power;
                    let failure = A::refusal(cx.server, kind, message);
                    return Err(StepError::Fail(failure));
                }
                other => state.power = power_after(other)?.code(),
            },
        }
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        _step: Step,
        _state: &mut Self::State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        Ok(())
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: Direction,
        state: &mut Self::State,
    ) -> Result<(), StepError> {
        let acting = A::acting(&state.wanted);
        if let (Step::Locate, Direction::Do, Some(_)) = (step, direction, acting) {
            let change = Change {
                task_state: Some(acting),
                ..Change::default()
            };
            super::transition(tx, cx, &change, Timestamp::now())?;
        }
        Ok(())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &Self::State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let Some(server) = instances::get(tx, cx.server)? else {
            return Ok(());
        };
        if server.task_id != Some(cx.task) {
            return Ok(());
        }
        let change = match end {
            End::Done => {
                let power = PowerState::from_code(i64::from(state.power));
                A::done(tx, &server, &state.wanted, power, now)?
            }
            End::Unwound(failure) => {
                A::left(tx, &server, &state.wanted)?;
                let came = state.came();
                let power_state = match came {
                    Came::Refused(power) => power,
                    Came::Nowhere | Came::Unheard => None,
                };
                Change {
                    power_state,
                    fault: Some(Some(fault(failure, now))),
                    ..A::failed(&server, &state.wanted, came)
                }
            }
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn how_far_it_came() {
        for (stored, wanted) in [
            (r#"{}"#, Came::Nowhere),
            // As a release stored it that did not ask what the guest does.
            (r#"{"host": "h1", "power": 1}"#, Came::Unheard),
            (r#"{"host": "h1", "refused": true}"#, Came::Refused(None)),
            (
                r#"{"host": "h1", "power": 0, "refused": true, "since": 1}"#,
                Came::Refused(Some(PowerState::Running)),
            ),
        ] {
            let state: State<Plain> = serde_json::from_str(stored).unwrap();
            assert_eq!(state.came(), wanted, "{stored}");
        }
    }
}
