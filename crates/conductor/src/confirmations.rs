//! Confirms resizes and cold migrations that nobody has confirmed for long enough (Nova's `resize_confirm_window`).

use bus::{Bell, Bus};
use db::accept::Accepted;
use db::actions::Requester;
use db::instances;
use db::migrations::{self, Status};
use sql::{Store, Tx};
use std::time::Duration;
use types::{MigrationId, RequestId, Timestamp, VmState};

/// Accepts the confirmation of servers that have waited for it for at least `after`; returns how many. Repeatable by
/// any number of processes.
///
/// # Errors
/// The database does not answer; call again later.
pub async fn confirm(store: &Store, bus: &Bus, after: Duration) -> Result<usize, sql::Error> {
    let before = Timestamp::now().minus(after);
    let due = store
        .read(move |tx| migrations::at_rest_since(tx, Status::Finished, before))
        .await?;
    let mut confirmed = 0;
    for migration in due {
        let request_id = RequestId::random().to_string();
        let accepting = store.write(move |tx| confirm_one(tx, migration.id, &request_id));
        confirmed += usize::from(accepting.await?);
    }
    if confirmed > 0 {
        bus.ring(Bell::Tasks);
    }
    Ok(confirmed)
}

/// One that is not as it was, or on which something works, is left alone.
fn confirm_one(tx: &mut Tx<'_>, id: MigrationId, request_id: &str) -> Result<bool, sql::Error> {
    let Some(migration) = migrations::get(tx, id)? else {
        return Ok(false);
    };
    let server = instances::get(tx, migration.server)?;
    let waits = |server: &instances::Instance| {
        let moving = server.kept.unsettled.as_ref();
        server.vm_state == VmState::Resized
            && server.task_state.is_none()
            && moving.is_some_and(|moving| moving.migration == id)
    };
    let Some(server) =
        server.filter(|server| migration.status == Status::Finished && waits(server))
    else {
        return Ok(false);
    };
    let by = Requester {
        request_id,
        user_id: server.user_id.as_str(),
        project_id: server.project_id.as_str(),
        trace: None,
    };
    let accepted = db::moves::confirm(tx, &server, id, by, Timestamp::now())?;
    Ok(accepted == Accepted::Yes)
}
