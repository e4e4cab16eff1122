//! Resizes and cold migrations between their acceptance and their end: what the server remembers of them, what it
//! counts as meanwhile, and who holds what on the two hosts.
//!
//! While a move is not settled the server counts as the larger of both flavors in every respect. So a move that was
//! accepted can be finished, confirmed and taken back without asking for quota again, and parallel requests cannot get
//! past a limit.

use crate::accept::{self, Accepted, Start};
use crate::actions::Requester;
use crate::block_devices;
use crate::instances::{self, Instance, Kept, Place};
use crate::migrations::{self, End, Kind, NewMigration, Status};
use crate::usages::{self, Held};
use serde::{Deserialize, Serialize};
use sql::{Error, Tx};
use types::server::Flavor;
use types::{MigrationId, ServerId, TaskState, Timestamp, VmState};

/// The type of a migration as a consumer of resources.
const CONSUMER: &str = "MIGRATION";

/// The states in which a server may wait for the end of its move: that of one that has arrived, and those that an
/// administrator may have given it since then, or that a move which was abandoned has left.
pub const UNSETTLED: &[VmState] = &[
    VmState::Resized,
    VmState::Active,
    VmState::Stopped,
    VmState::Error,
];

/// A move that is not settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsettled {
    /// Its record, which holds the claim on the host that the server leaves.
    pub migration: MigrationId,
    /// The flavor before.
    pub old_flavor: Flavor,
    /// The flavor after; the same for a cold migration.
    pub new_flavor: Flavor,
    /// Where the server was.
    pub source: Place,
    /// Whether it ran.
    pub ran: bool,
}

/// Writes a server's flavor and what it remembers, and counts it anew.
fn write(
    tx: &mut Tx<'_>,
    server: &Instance,
    flavor: &Flavor,
    unsettled: Option<Unsettled>,
) -> Result<(), Error> {
    let after = Instance {
        flavor: flavor.clone(),
        kept: Kept {
            unsettled,
            ..server.kept.clone()
        },
        ..server.clone()
    };
    let holds = accept::holds(&after);
    let difference = holds.minus(accept::holds(server));
    usages::add(tx, &server.project_id, &server.user_id, difference)?;
    instances::set_flavor(tx, server.id, flavor, (holds.cores, holds.ram_mb))?;
    instances::set_kept(tx, server.id, &after.kept)
}

/// What a server would count as more while it moves to a flavor.
pub fn counts_more(server: &Instance, flavor: &Flavor) -> Held {
    let held = accept::holds(server);
    held.most(Held::of(flavor)).minus(held)
}

/// Accepts a move of a server as it was read: to another flavor, or with the same one to another host. Its record is
/// made, and it counts as both. Quota must have been checked in the same transaction.
///
/// # Errors
/// The server is on no host, or the database's.
pub fn accept(
    tx: &mut Tx<'_>,
    server: &Instance,
    flavor: &Flavor,
    user: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let (Some(host), Some(node), Some(node_id)) = (&server.host, &server.node, server.node_id)
    else {
        return Err(Error::Column("a server on no host cannot move".to_owned()));
    };
    let kind = if flavor.id == server.flavor.id {
        Kind::Migration
    } else {
        Kind::Resize
    };
    let id = MigrationId::random();
    let new = NewMigration {
        id,
        server: server.id,
        kind,
        status: Status::PreMigrating,
        source: End {
            compute: Some(host.clone()),
            node: Some(node.clone()),
        },
        dest: End::default(),
        old_flavor: &server.flavor.id,
        new_flavor: &flavor.id,
        project_id: server.project_id.as_str(),
        user_id: user,
    };
    migrations::insert(tx, &new, now)?;
    let moving = Unsettled {
        migration: id,
        old_flavor: server.flavor.clone(),
        new_flavor: flavor.clone(),
        source: Place {
            host: host.clone(),
            node_id,
            node: node.clone(),
            zone: server.availability_zone.clone().unwrap_or_default(),
        },
        ran: server.vm_state == VmState::Active,
    };
    write(tx, server, &server.flavor, Some(moving))
}

/// The server has arrived: it has the new flavor, and may go back.
pub fn arrive(tx: &mut Tx<'_>, server: &Instance) -> Result<(), Error> {
    match &server.kept.unsettled {
        Some(moving) => write(tx, server, &moving.new_flavor, Some(moving.clone())),
        None => Ok(()),
    }
}

/// The move is over, and the server has the new flavor.
pub fn settle(tx: &mut Tx<'_>, server: &Instance, moving: &Unsettled) -> Result<(), Error> {
    write(tx, server, &moving.new_flavor, None)
}

/// The server has the old flavor again, and the move is over; or what it has put aside is still to be brought back (`aside`).
pub fn take_back(
    tx: &mut Tx<'_>,
    server: &Instance,
    moving: &Unsettled,
    aside: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let flavors = (&moving.new_flavor, &moving.old_flavor);
    block_devices::fit_swap(tx, server.id, flavors, now)?;
    let left = aside.then(|| moving.clone());
    write(tx, server, &moving.old_flavor, left)
}

/// Nobody brings back what the server has put aside.
pub fn forget(tx: &mut Tx<'_>, server: &Instance) -> Result<(), Error> {
    write(tx, server, &server.flavor, None)
}

/// What the server holds is its migration's from now on.
pub fn leave_claim(
    tx: &mut Tx<'_>,
    server: ServerId,
    migration: MigrationId,
    now: Timestamp,
) -> Result<(), Error> {
    crate::placement::hand_over(tx, server.0, migration.0, CONSUMER, now)
}

/// What the server holds is given back, and what its migration holds is its own again. A server that has left its claim to
/// no migration keeps it.
pub fn take_claim_back(
    tx: &mut Tx<'_>,
    server: ServerId,
    migration: MigrationId,
    now: Timestamp,
) -> Result<(), Error> {
    if crate::placement::consumer(tx, migration.0)?.is_none() {
        return Ok(());
    }
    crate::placement::release(tx, server, now)?;
    crate::placement::hand_over(tx, migration.0, server.0, "INSTANCE", now)
}

/// What the migration holds is given back.
pub fn drop_claim(tx: &mut Tx<'_>, migration: MigrationId, now: Timestamp) -> Result<(), Error> {
    crate::placement::release_consumer(tx, migration.0, now)
}

/// Accepts the confirmation of a server as it was read.
pub fn confirm(
    tx: &mut Tx<'_>,
    server: &Instance,
    migration: MigrationId,
    by: Requester<'_>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    let flow = (accept::CONFIRM_RESIZE, "confirmResize");
    let shown = (TaskState::ResizeConfirming, Status::Confirming);
    end(tx, server, migration, flow, shown, by, now)
}

/// Accepts that the move of a server as it was read is taken back.
pub fn revert(
    tx: &mut Tx<'_>,
    server: &Instance,
    migration: MigrationId,
    by: Requester<'_>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    let flow = (accept::REVERT_RESIZE, "revertResize");
    let shown = (TaskState::ResizeReverting, Status::Reverting);
    end(tx, server, migration, flow, shown, by, now)
}

fn end(
    tx: &mut Tx<'_>,
    server: &Instance,
    migration: MigrationId,
    (flow, action): (&str, &str),
    (state, status): (TaskState, Status),
    by: Requester<'_>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    let start = Start {
        flow,
        state: serde_json::json!({}),
        action,
        by,
    };
    let accepted = accept::action(tx, server, Some(state), &start, now)?;
    if accepted == Accepted::Yes {
        migrations::set_status(tx, migration, status, now)?;
    }
    Ok(accepted)
}
