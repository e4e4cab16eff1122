//! Tells guests that their volumes have grown, where that had to wait for other work on their servers.

use bus::{Bell, Bus};
use sql::Store;
use types::Timestamp;

/// Begins what has waited for servers that nobody works on any more; returns how much that was. Repeatable by any number of
/// processes.
///
/// # Errors
/// The database does not answer; call again later.
pub async fn tell(store: &Store, bus: &Bus) -> Result<usize, sql::Error> {
    let waiting = store.read(db::grown::waiting).await?;
    let (mut begun, mut failed) = (0, None);
    for grown in waiting {
        let beginning = store.write(move |tx| db::grown::take_up(tx, &grown, Timestamp::now()));
        // One that cannot be read keeps no other waiting.
        match beginning.await {
            Ok(begins) => begun += usize::from(begins),
            Err(error) => failed = Some(error),
        }
    }
    if begun > 0 {
        bus.ring(Bell::Tasks);
    }
    failed.map_or(Ok(begun), Err)
}
