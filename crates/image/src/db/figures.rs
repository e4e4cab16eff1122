//! What there is, counted for whoever watches the cloud.

use sql::{Error, Store};

/// Each with a name of the common OpenStack exporter.
const COUNTS: &str =
    "SELECT 'openstack_glance_images', COUNT(*) FROM images WHERE deleted_at IS NULL";

/// The size of each image that has data.
const SIZES: &str = "SELECT id, name, owner, size_bytes FROM images WHERE deleted_at IS NULL AND size_bytes IS NOT NULL \
     ORDER BY created_at, id";

/// A label's value in Prometheus' text format.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

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
        for row in tx.query(SIZES, &[])? {
            let text = |column| -> Result<String, Error> {
                let text: Option<String> = row.get(column)?;
                Ok(escape(&text.unwrap_or_default()))
            };
            let (id, name, owner) = (text(0)?, text(1)?, text(2)?);
            let labels = format!("id=\"{id}\",name=\"{name}\",tenant_id=\"{owner}\"");
            figures.push((
                format!("openstack_glance_image_bytes{{{labels}}}"),
                row.get(3)?,
            ));
        }
        Ok(figures)
    });
    read.await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn images_are_told_with_their_sizes() {
        let store = Store::temporary().await.unwrap();
        store.migrate("image", crate::db::MIGRATIONS).await.unwrap();
        let insert = |tx: &mut sql::Tx<'_>| -> Result<(), Error> {
            for (id, size, deleted) in [
                ("a", Some(7_i64), None),
                ("b", None, None),
                ("c", Some(9), Some(1_i64)),
            ] {
                tx.execute(
                    "INSERT INTO images (id, name, status, visibility, owner, size_bytes, min_disk, min_ram, protected, \
                     os_hidden, created_at, updated_at, deleted_at) \
                     VALUES (?, 'a \"b\\c', 'active', 'public', 'p', ?, 0, 0, 0, 0, 0, 0, ?)",
                    &[id.into(), size.into(), deleted.into()],
                )?;
            }
            Ok(())
        };
        store.write(insert).await.unwrap();
        let wanted = [
            ("openstack_glance_images", 2),
            (
                r#"openstack_glance_image_bytes{id="a",name="a \"b\\c",tenant_id="p"}"#,
                7,
            ),
        ];
        let wanted = wanted.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(figures(&store).await.unwrap(), wanted);
    }
}
