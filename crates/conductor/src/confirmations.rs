//! Confirms resizes and cold migrations that nobody has confirmed for long enough (Nova's `resize_confirm_window`).

use bus::{Bell, Bus};
use db::accept::Accepted;
use db::actions::Requester;
use db::instances::{self, Instance};
use db::migrations::{self, Status};
use sql::{Store, Tx};
use std::collections::HashSet;
use std::time::Duration;
use types::{MigrationId, RequestId, ServerId, Timestamp, VmState};

/// Accepts the confirmation of servers that have waited for it for at least `after`; returns how many. Repeatable by
/// any number of processes.
///
/// # Errors
/// The database does not answer; call again later.
pub async fn confirm(store: &Store, bus: &Bus, after: Duration) -> Result<usize, sql::Error> {
    let before = Timestamp::now().minus(after);
    let found = store.read(move |tx| due(tx, before)).await?;
    let mut confirmed = 0;
    for server in found {
        let request_id = RequestId::random().to_string();
        let (id, generation) = (server.id, server.generation);
        let accepting = store.write(move |tx| confirm_one(tx, id, generation, &request_id));
        confirmed += usize::from(accepting.await?);
    }
    if confirmed > 0 {
        bus.ring(Bell::Tasks);
    }
    Ok(confirmed)
}

/// Servers that nobody works on, and that have waited for their confirmation since before.
pub(crate) fn due(tx: &mut Tx<'_>, before: Timestamp) -> Result<Vec<Instance>, sql::Error> {
    let finished = migrations::at_rest_since(tx, Status::Finished, before)?;
    let finished: HashSet<MigrationId> = finished.into_iter().map(|one| one.id).collect();
    let mut found = instances::at_rest_in(tx, VmState::Resized)?;
    found.retain(|server| {
        let moving = server.kept.unsettled.as_ref();
        moving.is_some_and(|moving| finished.contains(&moving.migration))
    });
    Ok(found)
}

/// One that is not as it was, or on which something works, is left alone.
fn confirm_one(
    tx: &mut Tx<'_>,
    server: ServerId,
    generation: i64,
    request_id: &str,
) -> Result<bool, sql::Error> {
    let server = instances::get(tx, server)?;
    let same = server.filter(|server| server.generation == generation);
    let moving = same
        .as_ref()
        .and_then(|server| server.kept.unsettled.as_ref());
    let (Some(server), Some(id)) = (&same, moving.map(|moving| moving.migration)) else {
        return Ok(false);
    };
    if migrations::get(tx, id)?.is_none_or(|one| one.status != Status::Finished) {
        return Ok(false);
    }
    let by = Requester {
        request_id,
        user_id: server.user_id.as_str(),
        project_id: server.project_id.as_str(),
        trace: None,
    };
    let accepted = db::moves::confirm(tx, server, id, by, Timestamp::now())?;
    Ok(accepted == Accepted::Yes)
}
