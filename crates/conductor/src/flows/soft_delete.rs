//! Soft delete and restore: the server is switched off, holds its place and counts against no quota until it is
//! restored or reclaimed.

use super::on_host::{Act, Plain, at_rest};
use async_trait::async_trait;
use db::accept;
use db::instances::{Change, Instance, Kept};
use sql::Tx;
use std::time::Duration;
use types::agent::Verb;
use types::{PowerState, Timestamp, VmState};

/// Switches a deleted server off.
pub struct SoftDelete;
/// Brings it back.
pub struct Restore;

/// A server's state changes, and with it what it counts as.
fn change_state(
    tx: &mut Tx<'_>,
    server: &Instance,
    state: VmState,
    kept: Kept,
    power: PowerState,
) -> Result<Change, sql::Error> {
    let after = Instance {
        vm_state: state,
        ..server.clone()
    };
    let difference = accept::holds(&after).minus(accept::holds(server));
    db::usages::add(tx, &server.project_id, &server.user_id, difference)?;
    Ok(Change {
        vm_state: Some(state),
        kept: Some(kept),
        ..at_rest(power)
    })
}

#[async_trait]
impl Act for SoftDelete {
    const NAME: &'static str = accept::SOFT_DELETE;
    const EVENT: &'static str = "compute_soft_delete_instance";
    const SETTLED: Option<VmState> = Some(VmState::SoftDelete);
    const HOSTLESS: bool = true;
    // Its guest is switched off when the host says that it runs: see `crate::guests`.
    const PASSES_DOWN_HOST: bool = true;
    // So is one whose host does not answer, or cannot: delete always wins.
    const INSISTS: bool = true;
    type Wanted = Plain;

    /// As long as a deletion for good waits for a host.
    fn deadline(_: &Self::Wanted) -> Duration {
        Duration::from_secs(60)
    }

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureStopped { grace_seconds: 0 })
    }

    fn done(
        tx: &mut Tx<'_>,
        server: &Instance,
        _: &Plain,
        power: PowerState,
        now: Timestamp,
    ) -> Result<Change, sql::Error> {
        let mut kept = server.kept.clone();
        // One that is switched off again has been deleted since then.
        kept.soft_deleted_at.get_or_insert(now);
        change_state(tx, server, VmState::SoftDelete, kept, power)
    }
}

#[async_trait]
impl Act for Restore {
    const NAME: &'static str = accept::RESTORE;
    const EVENT: &'static str = "compute_restore_instance";
    const SETTLED: Option<VmState> = Some(VmState::Active);
    const HOSTLESS: bool = true;
    const STARTS: bool = true;
    type Wanted = Plain;

    fn verb(_: &Plain) -> Option<Verb> {
        Some(Verb::EnsureRunning)
    }

    fn done(
        tx: &mut Tx<'_>,
        server: &Instance,
        _: &Plain,
        power: PowerState,
        _: Timestamp,
    ) -> Result<Change, sql::Error> {
        let mut kept = server.kept.clone();
        kept.soft_deleted_at = None;
        // One that waited for confirmation waits again.
        let state = match &kept.unsettled {
            Some(_) => VmState::Resized,
            None => VmState::Active,
        };
        change_state(tx, server, state, kept, power)
    }
}
