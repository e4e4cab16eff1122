//! Volumes that have grown in the volume service: their guests are told when nobody works on the servers.

use crate::accept::{self, Accepted, Start};
use crate::actions::{self, Requester};
use crate::instances::{self, Instance};
use crate::{block_devices, tasks, to_document};
use sql::{Error, Row, Tx};
use types::{ServerId, Timestamp, Trace};

/// The action, as Nova names it.
const ACTION: &str = "extend_volume";

/// A volume that has grown, which its guest does not know yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The action that is on record.
    pub action: i64,
    /// The server that has the volume.
    pub server: ServerId,
    /// The volume.
    pub volume: String,
    /// The request that told of it.
    request_id: String,
    /// The trace of that.
    trace: Option<Trace>,
}

fn flow<'a>(volume: &str, by: Requester<'a>) -> Start<'a> {
    Start {
        flow: accept::EXTEND_VOLUME,
        state: serde_json::json!({ "volume": volume }),
        action: ACTION,
        by,
    }
}

/// Accepts that a volume of a server has grown. The action is on record from here on, as in Nova; the task begins at once
/// (`true`) or, where somebody works on the server, afterwards. One that does not have the volume is told nothing.
pub fn accept(
    tx: &mut Tx<'_>,
    server: ServerId,
    volume: &str,
    by: &Requester<'_>,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(found) = instances::get(tx, server)? else {
        return Ok(false);
    };
    if block_devices::of_volume(tx, server, volume)?.is_none() {
        return Ok(false);
    }
    if begins(tx, &found, volume, by.clone(), None, now)? {
        return Ok(true);
    }
    let action = actions::start(tx, server, ACTION, by, now)?;
    tx.post(
        "INSERT INTO grown_volumes (action_id, instance_uuid, volume_id, request_id, trace) VALUES (?, ?, ?, ?, ?)",
        &[
            action.into(),
            server.into(),
            volume.into(),
            by.request_id.into(),
            by.trace.map(to_document).transpose()?.into(),
        ],
    )?;
    Ok(false)
}

/// Starts the task, unless somebody works on the server.
fn begins(
    tx: &mut Tx<'_>,
    server: &Instance,
    volume: &str,
    by: Requester<'_>,
    begun: Option<i64>,
    now: Timestamp,
) -> Result<bool, Error> {
    let start = flow(volume, by);
    let accepted = accept::action_begun(tx, server, None, &start, begun, now)?;
    Ok(accepted == Accepted::Yes)
}

fn from_row(row: &Row) -> Result<Grown, Error> {
    Ok(Grown {
        action: row.get(0)?,
        server: row.get(1)?,
        volume: row.get(2)?,
        request_id: row.get(3)?,
        trace: tasks::trace_from(row.get(4)?),
    })
}

/// Those on whose servers nobody works, or whose servers are gone, in the order in which they came.
pub fn waiting(tx: &mut Tx<'_>) -> Result<Vec<Grown>, Error> {
    let sql = "SELECT g.action_id, g.instance_uuid, g.volume_id, g.request_id, g.trace, \
        (SELECT i.task_id FROM instances i WHERE i.uuid = g.instance_uuid AND i.deleted = 0) \
        FROM grown_volumes g ORDER BY g.action_id";
    let mut found = Vec::new();
    for row in &tx.query(sql, &[])? {
        if row.get::<Option<String>>(5)?.is_none() {
            found.push(from_row(row)?);
        }
    }
    Ok(found)
}

/// Starts the task of one that waited; `false`: it goes on waiting, or there is nothing left to tell. Repeatable by any
/// number of processes: the server's generation lets one of them begin.
pub fn take_up(tx: &mut Tx<'_>, grown: &Grown, now: Timestamp) -> Result<bool, Error> {
    let server = instances::get(tx, grown.server)?;
    let device = block_devices::of_volume(tx, grown.server, &grown.volume)?;
    let Some((server, _)) = server.zip(device) else {
        if forget(tx, grown)? {
            actions::supersede(tx, grown.action, now)?;
        }
        return Ok(false);
    };
    // The action says who asked.
    let by = Requester {
        request_id: &grown.request_id,
        user_id: "",
        project_id: "",
        trace: grown.trace.as_ref(),
    };
    if !begins(tx, &server, &grown.volume, by, Some(grown.action), now)? {
        return Ok(false);
    }
    forget(tx, grown)?;
    Ok(true)
}

/// Whether it was there still.
fn forget(tx: &mut Tx<'_>, grown: &Grown) -> Result<bool, Error> {
    let sql = "DELETE FROM grown_volumes WHERE action_id = ?";
    Ok(tx.execute(sql, &[grown.action.into()])? > 0)
}
