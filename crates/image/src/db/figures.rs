//! What there is, counted for whoever watches the cloud.

use sql::{Error, Store};

/// Each with a name of the common OpenStack exporter.
const COUNTS: &str =
    "SELECT 'openstack_glance_images', COUNT(*) FROM images WHERE deleted_at IS NULL";

/// How much there is of what the service keeps, under the names of the common OpenStack exporter. `store` is its database.
///
/// # Errors
/// The database's.
pub async fn figures(store: &Store) -> Result<Vec<(String, i64)>, Error> {
    let read = store.read(|tx| {
        let rows = tx.query(COUNTS, &[])?.into_iter();
        rows.map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
    });
    read.await
}
