//! How servers stand: little of each, for comparison with what hosts say of their guests.

use super::{ALIVE, states};
use sql::{Error, Row, Tx, Value};
use types::{HostName, PowerState, ServerId, TaskState, Timestamp, VmState};

/// Where a server stands, for comparison with its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The server.
    pub id: ServerId,
    /// Stable state.
    pub vm_state: VmState,
    /// What is being done, if anything.
    pub task_state: Option<TaskState>,
    /// What the hypervisor said last.
    pub power_state: PowerState,
    /// When it was last changed.
    pub since: Timestamp,
}

const STANDING: &str = "SELECT uuid, vm_state, task_state, power_state, COALESCE(updated_at, created_at), host FROM instances";

/// How the servers on a host stand: little of each, for there may be very many.
pub fn standing_on(tx: &mut Tx<'_>, host: &HostName) -> Result<Vec<Standing>, Error> {
    let rows = tx.query(
        &format!("{STANDING} WHERE host = ? AND deleted = 0 ORDER BY id"),
        &[host.into()],
    )?;
    rows.iter().map(standing).collect()
}

/// How those of these servers stand that are on a host.
pub fn standing_among(
    tx: &mut Tx<'_>,
    host: &HostName,
    servers: &[ServerId],
) -> Result<Vec<Standing>, Error> {
    let mut found = Vec::new();
    for some in servers.chunks(500) {
        let marks = sql::placeholders(some.len());
        let params: Vec<Value> = some.iter().map(|id| (*id).into()).collect();
        let sql = format!("{STANDING} WHERE uuid IN ({marks}) AND {ALIVE}");
        for row in tx.query(&sql, &params)? {
            // Asked of the database it would look at all servers of the host.
            if row.get::<Option<HostName>>(5)?.as_ref() == Some(host) {
                found.push(standing(&row)?);
            }
        }
    }
    Ok(found)
}

fn standing(row: &Row) -> Result<Standing, Error> {
    let (vm_state, task_state) = states(row.get(1)?, row.get(2)?)?;
    Ok(Standing {
        id: row.get(0)?,
        vm_state,
        task_state,
        power_state: PowerState::from_code(row.get(3)?),
        since: row.get(4)?,
    })
}
