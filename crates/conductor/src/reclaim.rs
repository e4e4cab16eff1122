//! Deletes for good what was soft-deleted long enough ago (Nova's `reclaim_instance_interval`).

use bus::{Bell, Bus};
use db::actions::Requester;
use db::instances::{self, Instance};
use sql::{Store, Tx};
use std::time::Duration;
use types::{RequestId, Timestamp, VmState};

/// Servers that nobody works on, and that were soft-deleted before.
pub(crate) fn due(tx: &mut Tx<'_>, before: Timestamp) -> Result<Vec<Instance>, sql::Error> {
    let mut found = instances::at_rest_in(tx, VmState::SoftDelete)?;
    found.retain(|server| {
        let since = server.kept.soft_deleted_at;
        since.is_none_or(|since| since <= before)
    });
    Ok(found)
}

/// Accepts the deletion of servers that were soft-deleted at least `after` ago; returns how many. Repeatable by any
/// number of processes.
///
/// # Errors
/// The database does not answer; call again later.
pub async fn reclaim(store: &Store, bus: &Bus, after: Duration) -> Result<usize, sql::Error> {
    let before = Timestamp::now().minus(after);
    let found = store.read(move |tx| due(tx, before)).await?;
    let mut reclaimed = 0;
    for server in found {
        let request_id = RequestId::random().to_string();
        let deleting = store.write(move |tx| -> Result<bool, sql::Error> {
            let still = instances::get(tx, server.id)?
                .is_some_and(|now| now.generation == server.generation);
            let by = Requester {
                request_id: &request_id,
                user_id: server.user_id.as_str(),
                project_id: server.project_id.as_str(),
                trace: None,
            };
            Ok(still && db::accept::delete(tx, server.id, by, Timestamp::now())?)
        });
        reclaimed += usize::from(deleting.await?);
    }
    if reclaimed > 0 {
        bus.ring(Bell::Tasks);
    }
    Ok(reclaimed)
}
