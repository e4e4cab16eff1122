//! One file per flow. A step's name is stored: never give a released name another meaning.

pub mod build;
pub mod delete;
mod ports;
pub mod power;

use crate::neighbours::Neighbours;
use db::instances::{Change, Fault};
use journal::{Failure, StepError};
use types::Timestamp;
use types::agent::{FailureKind, WorkOutcome};

/// A journal that runs all flows there are.
pub fn register(journal: journal::Journal, with: &Neighbours) -> journal::Journal {
    journal
        .with(build::Build { with: with.clone() })
        .with(delete::Delete { with: with.clone() })
        .with(power::Power::<power::Start>::new(with.clone()))
        .with(power::Power::<power::Stop>::new(with.clone()))
        .with(power::Power::<power::Reboot>::new(with.clone()))
}

/// The power state after host work, or the failure as a step's error.
fn power_after(outcome: Option<WorkOutcome>) -> Result<types::PowerState, StepError> {
    match outcome {
        Some(WorkOutcome::Done { power }) => Ok(types::PowerState::from_code(i64::from(power))),
        Some(WorkOutcome::Fenced) => Err(StepError::Fenced),
        Some(WorkOutcome::Failed {
            kind: FailureKind::Unavailable | FailureKind::Timeout,
            message,
        }) => Err(StepError::Fail(
            Failure::new(500, "The host could not do it.").details(message),
        )),
        Some(WorkOutcome::Failed { message, .. }) => {
            Err(StepError::Fail(Failure::new(500, message)))
        }
        None => Err(StepError::Fail(Failure::new(
            500,
            "The host was not asked.",
        ))),
    }
}

fn fault(failure: &Failure, now: Timestamp) -> Fault {
    Fault {
        code: failure.code,
        message: failure.message.clone(),
        details: failure.details.clone(),
        created: now,
    }
}

/// Nothing is being done any more.
fn idle() -> Change {
    Change {
        task_state: Some(None),
        task_id: Some(None),
        ..Change::default()
    }
}
