//! Start, stop and reboot.

use super::on_host::{Act, GRACE_SECONDS, Plain};
use async_trait::async_trait;
use db::accept;
use serde::{Deserialize, Serialize};
use types::VmState;
use types::agent::Verb;

/// Starts a server.
pub struct Start;
/// Stops a server: asks the guest first, then switches it off.
pub struct Stop;
/// Reboots a server.
pub struct Reboot;

/// How to reboot.
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
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureStopped {
            grace_seconds: GRACE_SECONDS,
        })
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
