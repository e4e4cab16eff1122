//! Crash dump: the guest is interrupted once. The server shows no task meanwhile, as in Nova, and any other action
//! may begin.

use super::on_host::{Act, Plain};
use async_trait::async_trait;
use db::accept;
use types::VmState;
use types::agent::Verb;

/// Interrupts a guest.
pub struct CrashDump;

#[async_trait]
impl Act for CrashDump {
    const NAME: &'static str = accept::CRASH_DUMP;
    const EVENT: &'static str = "compute_trigger_crash_dump";
    const SETTLED: Option<VmState> = None;
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::InterruptOnce)
    }
}
