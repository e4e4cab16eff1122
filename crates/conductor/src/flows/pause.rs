//! Pause and unpause: the guest stands still in memory.

use super::on_host::{Act, Plain};
use async_trait::async_trait;
use db::accept;
use types::VmState;
use types::agent::Verb;

/// Pauses a server.
pub struct Pause;
/// Lets a paused server go on.
pub struct Unpause;

#[async_trait]
impl Act for Pause {
    const NAME: &'static str = accept::PAUSE;
    const EVENT: &'static str = "compute_pause_instance";
    const SETTLED: Option<VmState> = Some(VmState::Paused);
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsurePaused)
    }
}

#[async_trait]
impl Act for Unpause {
    const NAME: &'static str = accept::UNPAUSE;
    const EVENT: &'static str = "compute_unpause_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureUnpaused)
    }
}
