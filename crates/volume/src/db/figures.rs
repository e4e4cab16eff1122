//! What there is, counted for whoever watches the cloud.

use sql::{Error, Store};
use std::collections::BTreeMap;

/// Each with a name of the common OpenStack exporter.
const COUNTS: &str = "SELECT 'openstack_cinder_volumes', COUNT(*) FROM vol_volumes \
     UNION ALL SELECT 'openstack_cinder_snapshots', COUNT(*) FROM vol_snapshots";

/// The exporter tells of each of these, also when no volume has it.
const STATUSES: [&str; 20] = [
    "creating",
    "available",
    "reserved",
    "attaching",
    "detaching",
    "in-use",
    "maintenance",
    "deleting",
    "awaiting-transfer",
    "error",
    "error_deleting",
    "backing-up",
    "restoring-backup",
    "error_backing-up",
    "error_restoring",
    "error_extending",
    "downloading",
    "uploading",
    "retyping",
    "extending",
];

/// How much there is of what the service keeps, under the names of the common OpenStack exporter. `store` is its database.
///
/// # Errors
/// The database's.
pub async fn figures(store: &Store) -> Result<Vec<(String, i64)>, Error> {
    let read = store.read(|tx| -> Result<Vec<(String, i64)>, Error> {
        let mut figures = Vec::new();
        for row in tx.query(COUNTS, &[])? {
            figures.push((row.get(0)?, row.get(1)?));
        }
        let mut statuses = BTreeMap::from(STATUSES.map(|status| (status.to_owned(), 0)));
        for row in tx.query(
            "SELECT status, COUNT(*) FROM vol_volumes GROUP BY status",
            &[],
        )? {
            statuses.insert(row.get(0)?, row.get(1)?);
        }
        let named = statuses.into_iter().map(|(status, count)| {
            let name = format!("openstack_cinder_volume_status_counter{{status=\"{status}\"}}");
            (name, count)
        });
        figures.extend(named);
        Ok(figures)
    });
    read.await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn volumes_are_counted_by_status() {
        let store = Store::temporary().await.unwrap();
        store
            .migrate("volume", crate::db::MIGRATIONS)
            .await
            .unwrap();
        let insert = |tx: &mut sql::Tx<'_>| -> Result<(), Error> {
            for (id, status) in [
                ("a", "in-use"),
                ("b", "in-use"),
                ("c", "error"),
                ("d", "odd"),
            ] {
                tx.execute(
                    "INSERT INTO vol_volumes (id, project_id, status, size_gb, type_id, busy, body) \
                     VALUES (?, 'p', ?, 1, 't', 0, '{}')",
                    &[id.into(), status.into()],
                )?;
            }
            Ok(())
        };
        store.write(insert).await.unwrap();
        let figures = figures(&store).await.unwrap();
        let of = |status: &str| {
            let name = format!("openstack_cinder_volume_status_counter{{status=\"{status}\"}}");
            figures
                .iter()
                .find(|(one, _)| *one == name)
                .map(|(_, count)| *count)
        };
        for (status, count) in [("in-use", 2), ("error", 1), ("odd", 1), ("available", 0)] {
            assert_eq!(of(status), Some(count), "{status}");
        }
        assert!(figures.contains(&("openstack_cinder_volumes".to_owned(), 4)));
    }
}
