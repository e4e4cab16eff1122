//! Rebuild: the guest is made anew in its place, with its ports, from the image that the request named. What the
//! request changed was written with it; when the rebuild fails those changes stay, as in Nova.

use super::build::guest_plan;
use super::idle;
use super::on_host::{Act, at_rest};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance};
use journal::{Context, Failure, StepError};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{GuestPlan, Verb};
use types::{PowerState, TaskState, Timestamp, VmState};

/// An image may have to be fetched.
const FETCHING: Duration = Duration::from_secs(1800);

/// Makes a server anew.
pub struct Rebuild;

/// How.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Anew {
    #[serde(default)]
    preserve_ephemeral: bool,
    #[serde(default)]
    plan: Option<GuestPlan>,
    /// It was off and shall be off again.
    #[serde(default)]
    off: bool,
}

#[async_trait]
impl Act for Rebuild {
    const NAME: &'static str = accept::REBUILD;
    const EVENT: &'static str = "compute_rebuild_instance";
    const ACTING: Option<TaskState> = Some(TaskState::RebuildSpawning);
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = Anew;

    fn deadline() -> Duration {
        FETCHING
    }

    async fn prepare(
        _: &Neighbours,
        _: &Context,
        server: &Instance,
        anew: &mut Anew,
    ) -> Result<(), StepError> {
        if anew.preserve_ephemeral {
            let words = "The current driver does not support preserving ephemeral partitions.";
            return Err(StepError::Fail(Failure::new(500, words)));
        }
        anew.off = server.vm_state == VmState::Stopped;
        anew.plan = Some(guest_plan(server, &server.network_info));
        Ok(())
    }

    fn verb(anew: &Anew) -> Option<Verb> {
        Some(Verb::RebuildOnce {
            plan: Box::new(anew.plan.clone()?),
            on: !anew.off,
        })
    }

    fn done(
        _: &mut Tx<'_>,
        _: &Instance,
        anew: &Anew,
        power: PowerState,
        now: Timestamp,
    ) -> Result<Change, sql::Error> {
        let state = if anew.off {
            VmState::Stopped
        } else {
            VmState::Active
        };
        Ok(Change {
            vm_state: Some(state),
            launched_at: Some(now),
            progress: Some(0),
            ..at_rest(power)
        })
    }

    fn failed(_: &Instance, _: &Anew, asked: bool) -> Change {
        Change {
            vm_state: asked.then_some(VmState::Error),
            ..idle()
        }
    }
}
