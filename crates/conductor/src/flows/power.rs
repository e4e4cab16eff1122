//! Start, stop and reboot.

use super::on_host::{Act, GRACE_SECONDS, Plain, at_rest};
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance};
use serde::{Deserialize, Serialize};
use sql::Tx;
use types::agent::Verb;
use types::{PowerState, Timestamp, VmState};

/// Starts a server.
pub struct Start;
/// Stops a server: asks the guest first, then switches it off.
pub struct Stop;
/// Reboots a server.
pub struct Reboot;

/// How to reboot or stop.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct How {
    /// Switch off instead of asking.
    #[serde(default)]
    hard: bool,
}

#[async_trait]
impl Act for Start {
    const NAME: &'static str = accept::START;
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

    fn verb(how: &How) -> Option<Verb> {
        Some(Verb::EnsureStopped {
            grace_seconds: if how.hard { 0 } else { GRACE_SECONDS },
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
    const EVENT: &'static str = "compute_reboot_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = How;

    fn verb(how: &How) -> Option<Verb> {
        Some(Verb::RebootOnce {
            hard: how.hard,
            grace_seconds: GRACE_SECONDS,
        })
    }
}
