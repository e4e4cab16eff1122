//! What a run does that worked outside while its task was taken over.

use crate::neighbours::Neighbours;
use db::instances::{self, Instance};
use db::{accept, tasks};
use journal::Context;
use sql::Tx;
use std::time::Duration;

/// How often a server is looked at that another task works on.
const LOOK: Duration = Duration::from_secs(1);

/// How a server stands for a run that has been working outside.
pub(super) enum Standing {
    /// The run still owns the task.
    Own,
    /// The server is gone, or about to go: whatever the run has made must go.
    Gone,
    /// Somebody else brought the task to its end, and nobody works on the server now: what is on record is in use, and
    /// the rest of what the run has made must go.
    AtRest(Box<Instance>),
}

/// Looks how the server stands. While another runner of the task, or another task, works on it, this waits: nobody
/// can tell yet what will be in use.
pub(super) async fn standing(with: &Neighbours, cx: &Context) -> Standing {
    loop {
        let run = cx.clone();
        match with.store.look(move |tx| look(tx, &run)).await {
            Ok(Some(standing)) => return standing,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(server = %cx.server, %error, "what has become of a server cannot be read")
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn look(tx: &mut Tx<'_>, cx: &Context) -> Result<Option<Standing>, sql::Error> {
    if tasks::get(tx, cx.task)?.is_some_and(|task| task.epoch == cx.epoch) {
        return Ok(Some(Standing::Own));
    }
    let Some(server) = instances::get(tx, cx.server)? else {
        return Ok(Some(Standing::Gone));
    };
    let current = match server.task_id {
        Some(current) => tasks::get(tx, current)?,
        None => None,
    };
    Ok(match current {
        None => Some(Standing::AtRest(Box::new(server))),
        Some(task) if task.flow == accept::DELETE => Some(Standing::Gone),
        Some(_) => None,
    })
}
