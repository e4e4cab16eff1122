//! What no bell may have told: a look into the database now and then, on behalf of all who wait in this process.
//!
//! With several processes and no broker this is the only way in which one hears of another's work; with a broker it is
//! what remains when that is away.

use bus::{Bell, Bus};
use sql::{Store, Tx};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::{HostName, Timestamp};

/// Questions older than this have nobody who waits.
const QUESTION_LIFE: Duration = Duration::from_secs(300);

/// Rings for what is stored and waits, every so often, until `stop`: one small transaction each time, however many
/// hosts and tasks there are.
pub async fn watch(store: Store, bus: Bus, every: Duration, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        match store.read(waiting).await {
            Ok((tasks, hosts)) => ring(&bus, tasks, hosts),
            Err(error) => tracing::debug!(%error, "what waits cannot be looked for"),
        }
    }
}

/// Removes questions that a process left behind when it died, until `stop`.
pub async fn forget_questions(store: Store, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(QUESTION_LIFE))
        .await
        .is_some()
    {
        let than = Timestamp::now().minus(QUESTION_LIFE);
        let gone: Result<u64, sql::Error> = store
            .write(move |tx| db::questions::forget_older(tx, than))
            .await;
        if let Err(error) = gone {
            tracing::warn!(%error, "old questions cannot be removed");
        }
    }
}

fn waiting(tx: &mut Tx<'_>) -> Result<(bool, Vec<HostName>), sql::Error> {
    Ok((db::tasks::any_new(tx)?, db::work::hosts_with_work(tx)?))
}

fn ring(bus: &Bus, tasks: bool, hosts: Vec<HostName>) {
    if tasks {
        bus.ring_here(&Bell::Tasks);
    }
    for host in hosts {
        bus.ring_here(&Bell::Host(host));
    }
}
