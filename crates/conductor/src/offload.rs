//! Takes shelved servers from their hosts when they have been shelved for long enough (Nova's `shelved_offload_time`).

use bus::{Bell, Bus};
use db::accept::{self, Accepted, Start};
use db::actions::Requester;
use db::instances::{self, Instance};
use sql::{Store, Tx};
use std::time::Duration;
use types::{RequestId, TaskState, Timestamp, VmState};

/// Servers that nobody works on, and that were shelved before.
pub(crate) fn due(tx: &mut Tx<'_>, before: Timestamp) -> Result<Vec<Instance>, sql::Error> {
    let mut found = instances::at_rest_in(tx, VmState::Shelved)?;
    found.retain(|server| {
        let since = server.kept.shelved.map(|shelved| shelved.at);
        since.is_none_or(|since| since <= before)
    });
    Ok(found)
}

/// Accepts the offloading of servers that were shelved at least `after` ago; returns how many. Repeatable by any number of
/// processes.
///
/// # Errors
/// The database does not answer; call again later.
pub async fn offload(store: &Store, bus: &Bus, after: Duration) -> Result<usize, sql::Error> {
    let before = Timestamp::now().minus(after);
    let found = store.read(move |tx| due(tx, before)).await?;
    let mut offloaded = 0;
    for server in found {
        let request_id = RequestId::random().to_string();
        let accepting = store.write(move |tx| {
            let start = Start {
                flow: accept::SHELVE_OFFLOAD,
                state: serde_json::json!({ "offload": true }),
                action: "shelveOffload",
                by: Requester {
                    request_id: &request_id,
                    user_id: server.user_id.as_str(),
                    project_id: server.project_id.as_str(),
                    trace: None,
                },
            };
            let shown = Some(TaskState::ShelvingOffloading);
            accept::action(tx, &server, shown, &start, Timestamp::now())
        });
        offloaded += usize::from(accepting.await? == Accepted::Yes);
    }
    if offloaded > 0 {
        bus.ring(Bell::Tasks);
    }
    Ok(offloaded)
}
