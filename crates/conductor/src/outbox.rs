//! Keeps the outbox small: rows go after a time, whoever has read them.

use sql::Store;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::Timestamp;

/// How often rows are removed.
const PAUSE: Duration = Duration::from_secs(60);
/// Rows kept at most, some 200 bytes each.
const MOST: i64 = 1_000_000;

/// Removes what is older than `keep`, now and then, until `stop`. Repeatable by any number of processes.
pub async fn forget(store: Store, keep: Duration, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(PAUSE.min(keep)))
        .await
        .is_some()
    {
        loop {
            let before = Timestamp::now().minus(keep);
            let gone = store
                .write(move |tx| db::outbox::forget(tx, before, MOST))
                .await;
            match gone {
                Ok(0) => break,
                Ok(count) => tracing::debug!(count, "old events are forgotten"),
                Err(error) => {
                    tracing::warn!(%error, "old events cannot be removed");
                    break;
                }
            }
        }
    }
}
