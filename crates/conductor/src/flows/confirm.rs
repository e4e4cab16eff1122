//! Confirmation of a resize or cold migration: what was kept of the server on the host that it left goes, and so does
//! what is claimed there.
//!
//! | step | does |
//! |---|---|
//! | `find_source` | reads which host that is |
//! | `elsewhere` | another host removes what it has; one that is silent owes it |
//! | `here` | the server's own host forgets what is aside |
//!
//! There is no undo: every step only goes forward.

use super::resize::unsettled;
use super::{idle, power_after};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::instances::{self, Change, Expected};
use db::migrations::{self, Status};
use db::moves;
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::{HostName, PowerState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Remove what is on another host.
    Elsewhere,
    /// Remove what is aside on the server's own host.
    Here,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Elsewhere, Self::Here];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "find_source",
            Self::Elsewhere => "elsewhere",
            Self::Here => "here",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The host that the server left.
    #[serde(default)]
    source: Option<HostName>,
    /// It is on that host still.
    #[serde(default)]
    stayed: bool,
}

/// The flow.
pub struct Confirm {
    /// The database.
    pub with: Neighbours,
}

#[async_trait]
impl Flow for Confirm {
    const NAME: &'static str = db::accept::CONFIRM_RESIZE;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Locate)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        (step != Step::Locate).then_some("compute_confirm_resize")
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.source.clone()
    }

    fn deadline(&self, _step: Step, _state: &State) -> Duration {
        Duration::from_secs(60)
    }

    fn may_owe(&self, step: Step) -> bool {
        // A debt is the removal of everything: not on the host that the server is on.
        step == Step::Elsewhere
    }

    fn host_work(&self, step: Step, _direction: Direction, state: &State) -> Option<HostWork> {
        let verb = match step {
            Step::Elsewhere if !state.stayed => Verb::EnsureAbsent,
            Step::Here if state.stayed => Verb::EnsureAsideForgotten,
            _ => return None,
        };
        Some(HostWork {
            host: state.source.clone()?,
            verb,
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        if step == Step::Locate {
            let server = super::instance(&self.with, cx).await?;
            let source = unsettled(&server)?.source.host;
            state.stayed = server.host.as_ref() == Some(&source);
            state.source = Some(source);
            return Ok(());
        }
        match outcome {
            None => Ok(()),
            outcome => power_after(outcome).map(drop),
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &State,
        _end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let Some(server) = instances::get(tx, cx.server)? else {
            return Ok(());
        };
        let Some(moving) = server.kept.unsettled.clone() else {
            return Ok(());
        };
        moves::drop_claim(tx, moving.migration, now)?;
        moves::settle(tx, &server, &moving)?;
        migrations::set_status(tx, moving.migration, Status::Confirmed, now)?;
        // As its guest is: it may have been switched off from inside.
        let state = match server.power_state {
            PowerState::Shutdown | PowerState::Crashed => VmState::Stopped,
            _ => VmState::Active,
        };
        let change = Change {
            vm_state: Some(state),
            fault: Some(None),
            ..idle()
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
