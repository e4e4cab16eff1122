//! Start, stop and reboot.

use super::build::guest_plan;
use super::grace::Grace;
use super::idle;
use super::on_host::{Act, Came, Plain, at_rest};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance};
use journal::{Context, StepError};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{GuestPlan, Verb};
use types::{PowerState, TaskState, Timestamp, VmState};

/// Starts a server.
pub struct Start;
/// Stops a server: asks the guest first, then switches it off.
pub struct Stop;
/// Reboots a server.
pub struct Reboot;

/// How to stop.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct How {
    /// Switch off instead of asking.
    #[serde(default)]
    hard: bool,
    #[serde(default)]
    grace: Grace,
}

/// How to reboot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Again {
    /// Switch off instead of asking.
    #[serde(default)]
    hard: bool,
    #[serde(default)]
    grace: Grace,
    /// The guest as it is on record, for a host that does not know it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<Box<GuestPlan>>,
}

#[async_trait]
impl Act for Start {
    const NAME: &'static str = accept::START;
    const STARTS: bool = true;
    const EVENT: &'static str = "compute_start_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureRunning)
    }
}

#[async_trait]
impl Act for Stop {
    const NAME: &'static str = accept::STOP;
    const EVENT: &'static str = "compute_stop_instance";
    const SETTLED: Option<VmState> = Some(VmState::Stopped);
    type Wanted = How;

    fn deadline(how: &How) -> Duration {
        how.grace.deadline()
    }

    async fn prepare(
        with: &Neighbours,
        _: &Context,
        server: &Instance,
        how: &mut How,
    ) -> Result<(), StepError> {
        how.grace = match how.hard {
            true => Grace::of_seconds(0),
            false => Grace::of(with, server),
        };
        Ok(())
    }

    fn verb(how: &How) -> Option<Verb> {
        Some(Verb::EnsureStopped {
            grace_seconds: if how.hard { 0 } else { how.grace.seconds() },
        })
    }

    fn done(
        _: &mut Tx<'_>,
        _: &Instance,
        how: &How,
        power: PowerState,
        _: Timestamp,
    ) -> Result<Change, sql::Error> {
        let mut change = Change {
            vm_state: Self::SETTLED,
            ..at_rest(power)
        };
        if how.hard {
            // Nobody asked for it: what went wrong before stays to be seen.
            change.fault = None;
        }
        Ok(change)
    }
}

#[async_trait]
impl Act for Reboot {
    const NAME: &'static str = accept::REBOOT;
    const STARTS: bool = true;
    const EVENT: &'static str = "compute_reboot_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = Again;

    fn acting(how: &Again) -> Option<TaskState> {
        Some(match how.hard {
            true => TaskState::RebootPendingHard,
            false => TaskState::RebootPending,
        })
    }

    fn deadline(how: &Again) -> Duration {
        how.grace.deadline()
    }

    // As in Nova a hard reboot mends what its host has lost.
    async fn prepare(
        with: &Neighbours,
        _: &Context,
        server: &Instance,
        how: &mut Again,
    ) -> Result<(), StepError> {
        how.grace = with.patience.reboot;
        let plan = || Box::new(guest_plan(server, &server.network_info));
        how.plan = how.hard.then(plan);
        Ok(())
    }

    fn verb(how: &Again) -> Option<Verb> {
        Some(Verb::RebootOnce {
            hard: how.hard,
            grace_seconds: how.grace.seconds(),
            plan: how.plan.clone(),
        })
    }

    fn failed(_: &Instance, _: &Again, came: Came) -> Change {
        Change {
            vm_state: not_rebooted(came),
            ..idle()
        }
    }
}

/// As Nova's `reboot_instance`: a guest that runs all the same is none the worse, any other is broken. Of one that nobody has
/// looked at, nothing is known. Pure.
fn not_rebooted(came: Came) -> Option<VmState> {
    match came {
        Came::Refused(Some(PowerState::Running)) => Some(VmState::Active),
        Came::Refused(Some(_)) => Some(VmState::Error),
        Came::Refused(None) | Came::Nowhere | Came::Unheard => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reboot_that_failed() {
        use PowerState as P;
        for (came, wanted) in [
            (Came::Nowhere, None),
            (Came::Unheard, None),
            // An agent of an older release.
            (Came::Refused(None), None),
            (Came::Refused(Some(P::Running)), Some(VmState::Active)),
            (Came::Refused(Some(P::Shutdown)), Some(VmState::Error)),
            (Came::Refused(Some(P::Paused)), Some(VmState::Error)),
            // The guest is gone.
            (Came::Refused(Some(P::NoState)), Some(VmState::Error)),
        ] {
            assert_eq!(not_rebooted(came), wanted, "{came:?}");
        }
    }
}
