//! One file per flow. A step's name is stored: never give a released name another meaning.

pub mod attach_volume;
pub mod build;
pub mod confirm;
pub mod crash_dump;
pub mod delete;
pub mod detach_volume;
pub mod evacuate;
pub mod extend_volume;
pub mod fixed_ips;
pub mod grace;
pub mod hosts_fit;
pub mod interfaces;
pub mod live_migration;
pub mod on_host;
mod overtaken;
pub mod password;
pub mod pause;
pub mod placing;
pub(crate) mod ports;
pub mod power;
pub mod rebuild;
mod reimage;
pub mod rescue;
pub mod resize;
pub mod revert;
pub mod shelve;
pub mod snapshot;
pub mod snapshot_volumes;
pub mod soft_delete;
mod superseded;
pub mod suspend;
pub mod swap_volume;
pub mod unshelve;
mod volumes;

use crate::neighbours::Neighbours;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected, Fault, Instance};
use journal::{Context, End, Failure, StepError};
use on_host::OnHost;
use sql::Tx;
use types::agent::{FailureKind, WorkOutcome};
use types::{HostName, Timestamp};

/// A journal that runs all flows there are.
pub fn register(journal: journal::Journal, with: &Neighbours) -> journal::Journal {
    register_placing(journal, with)
        .with(delete::Delete { with: with.clone() })
        .with(OnHost::<power::Start>::new(with))
        .with(OnHost::<power::Stop>::new(with))
        .with(OnHost::<power::Reboot>::new(with))
        .with(OnHost::<pause::Pause>::new(with))
        .with(OnHost::<pause::Unpause>::new(with))
        .with(OnHost::<suspend::Suspend>::new(with))
        .with(OnHost::<suspend::Resume>::new(with))
        .with(OnHost::<crash_dump::CrashDump>::new(with))
        .with(OnHost::<rescue::Rescue>::new(with))
        .with(OnHost::<rescue::Unrescue>::new(with))
        .with(rebuild::Rebuild { with: with.clone() })
        .with(snapshot::Copy::<snapshot::Snapshot>::new(with))
        .with(snapshot::Copy::<snapshot::Backup>::new(with))
        .with(interfaces::Attach { with: with.clone() })
        .with(interfaces::Detach { with: with.clone() })
        .with(attach_volume::Attach { with: with.clone() })
        .with(detach_volume::Detach { with: with.clone() })
        .with(swap_volume::Swap { with: with.clone() })
        .with(OnHost::<extend_volume::ExtendVolume>::new(with))
        .with(snapshot_volumes::SnapshotVolumes { with: with.clone() })
        .with(OnHost::<soft_delete::SoftDelete>::new(with))
        .with(OnHost::<soft_delete::Restore>::new(with))
        .with(OnHost::<password::ChangePassword>::new(with))
        .with(fixed_ips::Change::<fixed_ips::Add>::new(with))
        .with(fixed_ips::Change::<fixed_ips::Remove>::new(with))
        .with(shelve::Leave::<shelve::Shelve>::new(with))
        .with(shelve::Leave::<shelve::Offload>::new(with))
        .with(unshelve::UnshelveInPlace { with: with.clone() })
        .with(confirm::Confirm { with: with.clone() })
        .with(revert::Revert { with: with.clone() })
}

/// Registers the flows that pick a host, for a process that does nothing else.
pub fn register_placing(journal: journal::Journal, with: &Neighbours) -> journal::Journal {
    journal
        .with(build::Build { with: with.clone() })
        .with(evacuate::Evacuate { with: with.clone() })
        .with(live_migration::LiveMigration { with: with.clone() })
        .with(unshelve::Unshelve { with: with.clone() })
        .with(resize::Resize { with: with.clone() })
}

/// The server that a flow works on; one that is gone is another task's.
async fn instance(with: &Neighbours, cx: &Context) -> Result<Instance, StepError> {
    let server = cx.server;
    let found = with
        .store
        .look(move |tx| db::instances::get(tx, server))
        .await?;
    found.ok_or(StepError::Fenced)
}

/// The server as it is in this transaction, if this task still works on it.
fn own(tx: &mut Tx<'_>, cx: &Context) -> Result<Instance, StepError> {
    let found = instances::get(tx, cx.server)?;
    found
        .filter(|server| server.task_id == Some(cx.task))
        .ok_or(StepError::Fenced)
}

/// The end of a flow during which the server shows no task.
fn end_quietly(
    tx: &mut Tx<'_>,
    cx: &Context,
    end: End<'_>,
    now: Timestamp,
) -> Result<(), sql::Error> {
    let change = match end {
        End::Done => idle(),
        End::Unwound(failure) => Change {
            fault: Some(Some(fault(failure, now))),
            ..idle()
        },
    };
    instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
    Ok(())
}

/// The host of a server, which must answer; a server that was shelved and offloaded has none.
async fn host_if_any(with: &Neighbours, server: &Instance) -> Result<Option<HostName>, StepError> {
    match &server.host {
        Some(host) => {
            must_be_up(with, host).await?;
            Ok(Some(host.clone()))
        }
        None if server.vm_state == types::VmState::ShelvedOffloaded => Ok(None),
        None => Err(nowhere()),
    }
}

/// What a flow that works on a guest says of a server that has none anywhere.
fn nowhere() -> StepError {
    StepError::Fail(Failure::new(409, "The server is on no host."))
}

/// Whether a host is known to be away, as of now.
async fn is_away(with: &Neighbours, host: &HostName) -> bool {
    with.view.refresh().await.is_ok() && !with.view.is_up(host)
}

/// Whether the two hosts share the files of their guests.
async fn share_storage(
    with: &Neighbours,
    one: &HostName,
    other: &HostName,
) -> Result<bool, StepError> {
    let (one, other) = (one.clone(), other.clone());
    let reading = with
        .store
        .read(move |tx| db::hosts::share_storage(tx, &one, &other));
    Ok(reading.await?)
}

/// Changes the server's states as long as this task works on it.
fn transition(
    tx: &mut Tx<'_>,
    cx: &Context,
    change: &Change,
    now: Timestamp,
) -> Result<(), StepError> {
    if instances::transition(tx, cx.server, Expected::Task(cx.task), change, now)? {
        return Ok(());
    }
    Err(StepError::Fenced)
}

/// Fails when nobody works on the server's host.
async fn must_be_up(with: &Neighbours, host: &HostName) -> Result<(), StepError> {
    must_answer(with, host, "the server's host").await
}

/// Fails while another host, on which a task that was abandoned may have left the server's guest, may run it still on its volumes
/// or on the files that the server's own host has, too.
async fn must_be_alone(
    with: &Neighbours,
    server: &Instance,
    host: &HostName,
) -> Result<(), StepError> {
    if server.kept.unfinished.is_empty() {
        return Ok(());
    }
    let (id, here) = (server.id, host.clone());
    let moved = superseded::hosts(&superseded::all(None, Some(server)));
    let looking = with.store.look(move |tx| -> Result<_, sql::Error> {
        let heard = db::hosts::heard(tx)?;
        let devices = db::block_devices::of_server(tx, id)?;
        let volumes = devices.iter().any(BlockDevice::is_volume);
        for other in db::work::debtors(tx, id)? {
            let down = heard.of(&other).forced_down;
            if other == here || down {
                continue;
            }
            let reaches = volumes && moved.contains(&other);
            if reaches || db::hosts::share_storage(tx, &here, &other)? {
                return Ok(Some(other));
            }
        }
        Ok(None)
    });
    let Some(other) = looking.await? else {
        return Ok(());
    };
    let words = |host: &str| {
        format!(
            "{host} may run the server on the same disks still: it stops that when it answers; if it does not, force its \
             compute service down."
        )
    };
    let failure = Failure::new(409, words("Another host"));
    Err(StepError::Fail(failure.details(words(other.as_str()))))
}

/// What comes of a host that was to give back to a guest what was taken out of it: one that says that it cannot is not asked
/// again for ever.
fn given_back(cx: &Context, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
    use FailureKind::{HostDown, Timeout, Unavailable};
    match outcome {
        Some(WorkOutcome::Failed { kind, message, .. })
            if ![HostDown, Timeout, Unavailable].contains(&kind) =>
        {
            tracing::warn!(server = %cx.server, reason = message, "a guest does not get back what was taken out of it");
            Ok(())
        }
        other => power_after(other).map(drop),
    }
}

/// Fails when nobody works on a host. Its owner is told which of the server's hosts it is, administrators its name.
async fn must_answer(with: &Neighbours, host: &HostName, which: &str) -> Result<(), StepError> {
    with.view.renew().await?;
    if with.view.is_up(host) {
        return Ok(());
    }
    with.view.refresh().await?;
    if with.view.is_up(host) {
        return Ok(());
    }
    let words = |which: &str| format!("The compute service of {which} is down.");
    let failure = Failure::new(500, words(which)).details(words(host.as_str()));
    Err(StepError::Fail(failure))
}

/// The power state after host work, or the failure as a step's error.
fn power_after(outcome: Option<WorkOutcome>) -> Result<types::PowerState, StepError> {
    match outcome {
        Some(WorkOutcome::Done { power }) => Ok(types::PowerState::from_code(i64::from(power))),
        Some(WorkOutcome::Fenced) => Err(StepError::Fenced),
        Some(WorkOutcome::Failed { kind, message, .. }) => {
            Err(StepError::Fail(refusal(kind, message)))
        }
        None => Err(StepError::Fail(Failure::new(
            500,
            "The host was not asked.",
        ))),
    }
}

/// What the owner of a server is told of what a host said: only what lies with the request or the guest. The words of a
/// hypervisor or a file system tell of the cloud's insides, and are for administrators (`details` of the fault).
fn told(kind: FailureKind, message: &str) -> &str {
    match kind {
        FailureKind::Request
        | FailureKind::NotFound
        | FailureKind::Guest
        | FailureKind::Cancelled => message,
        FailureKind::HostDown => "The host is down.",
        FailureKind::Host
        | FailureKind::Unavailable
        | FailureKind::Timeout
        | FailureKind::PostCopy => "The host could not do it.",
    }
}

/// What is shown of a host that could not do it.
fn refusal(kind: FailureKind, message: String) -> Failure {
    let shown = told(kind, &message).to_owned();
    if shown == message {
        return Failure::new(500, message);
    }
    Failure::new(500, shown).details(message)
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
