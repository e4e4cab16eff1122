//! Suspend and resume: the guest's memory waits on the host's disk.

use super::idle;
use super::on_host::{Act, Came, Plain};
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance};
use std::time::Duration;
use types::VmState;
use types::agent::Verb;

/// Memory is written to a disk or read from it.
const MEMORY: Duration = Duration::from_secs(1800);

/// Suspends a server.
pub struct Suspend;
/// Brings a suspended server back.
pub struct Resume;

/// Nova takes a guest for broken whose hypervisor could not save or restore its memory, whatever it does now. Of one that
/// nobody has looked at afterwards the hypervisor was not asked.
fn broken(came: Came) -> Change {
    Change {
        vm_state: matches!(came, Came::Refused(Some(_))).then_some(VmState::Error),
        ..idle()
    }
}

#[async_trait]
impl Act for Suspend {
    const NAME: &'static str = accept::SUSPEND;
    const EVENT: &'static str = "compute_suspend_instance";
    const SETTLED: Option<VmState> = Some(VmState::Suspended);
    type Wanted = Plain;

    fn deadline(_: &Self::Wanted) -> Duration {
        MEMORY
    }

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureSuspended)
    }

    fn failed(_: &Instance, _: &Plain, came: Came) -> Change {
        broken(came)
    }
}

#[async_trait]
impl Act for Resume {
    const NAME: &'static str = accept::RESUME;
    const STARTS: bool = true;
    const EVENT: &'static str = "compute_resume_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    type Wanted = Plain;

    fn deadline(_: &Self::Wanted) -> Duration {
        MEMORY
    }

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureResumed)
    }

    fn failed(_: &Instance, _: &Plain, came: Came) -> Change {
        broken(came)
    }
}
