//! What there is, counted for whoever watches the cloud.

use sql::{Error, Store};

/// Each with a name of the common OpenStack exporter.
const COUNTS: &str = "SELECT 'openstack_identity_domains', COUNT(*) FROM identity_domains \
     UNION ALL SELECT 'openstack_identity_projects', COUNT(*) FROM identity_projects \
     UNION ALL SELECT 'openstack_identity_users', COUNT(*) FROM identity_users \
     UNION ALL SELECT 'openstack_identity_groups', COUNT(*) FROM identity_groups \
     UNION ALL SELECT 'openstack_identity_regions', COUNT(*) FROM identity_regions";

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
