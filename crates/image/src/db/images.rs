//! Images with their properties and tags.

use super::tasks::end_interrupted;
use crate::model::{Image, Status, Visibility, Written};
use sql::{Error, Row, Tx, Value};
use std::collections::{BTreeMap, HashMap};
use types::Timestamp;

/// The columns that [`from_row`] reads, in its order.
pub(super) const COLUMNS: &str = "id, name, status, visibility, owner, disk_format, container_format, size_bytes, virtual_size, \
     checksum, os_hash_algo, os_hash_value, min_disk, min_ram, protected, os_hidden, created_at, updated_at";

fn status(name: String) -> Result<Status, Error> {
    Status::parse(&name).ok_or_else(|| Error::Column(format!("image status '{name}'")))
}

pub(super) fn from_row(row: &Row) -> Result<Image, Error> {
    let visibility: String = row.get(3)?;
    Ok(Image {
        id: row.get(0)?,
        name: row.get(1)?,
        status: status(row.get(2)?)?,
        visibility: Visibility::parse(&visibility)
            .ok_or_else(|| Error::Column(format!("image visibility '{visibility}'")))?,
        owner: row.get(4)?,
        disk_format: row.get(5)?,
        container_format: row.get(6)?,
        size: row.get(7)?,
        virtual_size: row.get(8)?,
        checksum: row.get(9)?,
        os_hash_algo: row.get(10)?,
        os_hash_value: row.get(11)?,
        min_disk: row.get(12)?,
        min_ram: row.get(13)?,
        protected: row.get(14)?,
        os_hidden: row.get(15)?,
        created_at: row.get(16)?,
        updated_at: row.get(17)?,
        properties: BTreeMap::new(),
        tags: std::collections::BTreeSet::new(),
    })
}

/// Reads properties and tags of these images.
pub(super) fn complete(tx: &mut Tx<'_>, images: &mut [Image]) -> Result<(), Error> {
    if images.is_empty() {
        return Ok(());
    }
    let ids: Vec<Value> = images.iter().map(|image| Value::from(&image.id)).collect();
    let sql = select_details(ids.len());
    let ids = [ids.as_slice(), ids.as_slice()].concat();
    let details = tx.query(&sql, &ids)?;
    fill(images, &details)
}

/// Of so many images, whose ids are given twice: each property with its content, and each tag with none.
fn select_details(images: usize) -> String {
    let marks = sql::placeholders(images);
    format!(
        "SELECT image_id, name, content FROM image_properties WHERE image_id IN ({marks}) \
         UNION ALL SELECT image_id, tag, NULL FROM image_tags WHERE image_id IN ({marks})"
    )
}

/// Gives each image its properties and tags.
fn fill(images: &mut [Image], details: &[Row]) -> Result<(), Error> {
    let places: HashMap<String, usize> = images
        .iter()
        .enumerate()
        .map(|(place, image)| (image.id.clone(), place))
        .collect();
    for row in details {
        let place = places.get(&row.get::<String>(0)?);
        let Some(image) = place.and_then(|place| images.get_mut(*place)) else {
            continue;
        };
        match row.get(2)? {
            Some(content) => drop(image.properties.insert(row.get(1)?, content)),
            None => drop(image.tags.insert(row.get(1)?)),
        }
    }
    Ok(())
}

/// The image, unless it is deleted.
pub fn get(tx: &mut Tx<'_>, id: &str) -> Result<Option<Image>, Error> {
    let query = format!("SELECT {COLUMNS} FROM images WHERE id = ? AND deleted_at IS NULL");
    let [found, details] = tx.queries([
        (&query, &[id.into()]),
        (&select_details(1), &[id.into(), id.into()]),
    ])?;
    let Some(row) = found.first() else {
        return Ok(None);
    };
    let mut image = [from_row(row)?];
    fill(&mut image, &details)?;
    let [image] = image;
    Ok(Some(image))
}

/// Adds an image; an id that was ever used is a unique violation.
pub fn insert(tx: &mut Tx<'_>, image: &Image) -> Result<(), Error> {
    let query = format!(
        "INSERT INTO images ({COLUMNS}) VALUES ({})",
        sql::placeholders(18)
    );
    tx.post(
        &query,
        &[
            (&image.id).into(),
            image.name.clone().into(),
            image.status.name().into(),
            image.visibility.name().into(),
            image.owner.clone().into(),
            image.disk_format.clone().into(),
            image.container_format.clone().into(),
            image.size.into(),
            image.virtual_size.into(),
            image.checksum.clone().into(),
            image.os_hash_algo.clone().into(),
            image.os_hash_value.clone().into(),
            image.min_disk.into(),
            image.min_ram.into(),
            image.protected.into(),
            image.os_hidden.into(),
            image.created_at.into(),
            image.updated_at.into(),
        ],
    )?;
    insert_details(tx, image)
}

fn insert_details(tx: &mut Tx<'_>, image: &Image) -> Result<(), Error> {
    for (name, content) in &image.properties {
        tx.post(
            "INSERT INTO image_properties (image_id, name, content) VALUES (?, ?, ?)",
            &[(&image.id).into(), name.into(), content.into()],
        )?;
    }
    for tag in &image.tags {
        tx.post(
            "INSERT INTO image_tags (image_id, tag) VALUES (?, ?)",
            &[(&image.id).into(), tag.into()],
        )?;
    }
    Ok(())
}

fn delete_details(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    tx.post(
        "DELETE FROM image_properties WHERE image_id = ?",
        &[id.into()],
    )?;
    tx.post("DELETE FROM image_tags WHERE image_id = ?", &[id.into()])?;
    Ok(())
}

/// Writes what users may change: everything but the status and what is known of the data.
pub fn save(tx: &mut Tx<'_>, image: &Image) -> Result<(), Error> {
    tx.post(
        "UPDATE images SET name = ?, visibility = ?, owner = ?, disk_format = ?, container_format = ?, min_disk = ?, \
         min_ram = ?, protected = ?, os_hidden = ?, updated_at = ? WHERE id = ?",
        &[
            image.name.clone().into(),
            image.visibility.name().into(),
            image.owner.clone().into(),
            image.disk_format.clone().into(),
            image.container_format.clone().into(),
            image.min_disk.into(),
            image.min_ram.into(),
            image.protected.into(),
            image.os_hidden.into(),
            image.updated_at.into(),
            (&image.id).into(),
        ],
    )?;
    delete_details(tx, &image.id)?;
    insert_details(tx, image)
}

/// Moves an image from one status to another; false when it is not in the first.
/// An image that goes back to `queued` forgets its sizes.
pub fn set_status(tx: &mut Tx<'_>, id: &str, from: Status, to: Status) -> Result<bool, Error> {
    let forget = if to == Status::Queued {
        ", size_bytes = NULL, virtual_size = NULL"
    } else {
        ""
    };
    let query = format!(
        "UPDATE images SET status = ?, updated_at = ?{forget} WHERE id = ? AND status = ? AND deleted_at IS NULL"
    );
    let changed = tx.execute(
        &query,
        &[
            to.name().into(),
            Timestamp::now().into(),
            id.into(),
            from.name().into(),
        ],
    )?;
    Ok(changed == 1)
}

/// The data are in place: to `active`, with what is known of them; false when the image is no longer in `from`.
pub fn set_active(
    tx: &mut Tx<'_>,
    id: &str,
    from: Status,
    written: &Written,
) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE images SET status = 'active', size_bytes = ?, virtual_size = ?, checksum = ?, os_hash_algo = 'sha512', \
         os_hash_value = ?, updated_at = ? WHERE id = ? AND status = ? AND deleted_at IS NULL",
        &[
            written.size.into(),
            written.virtual_size.into(),
            (&written.md5).into(),
            (&written.sha512).into(),
            Timestamp::now().into(),
            id.into(),
            from.name().into(),
        ],
    )?;
    Ok(changed == 1)
}

/// Leaves a tombstone.
pub fn delete(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    delete_details(tx, id)?;
    tx.post("DELETE FROM image_members WHERE image_id = ?", &[id.into()])?;
    let now = Timestamp::now();
    tx.post(
        "UPDATE images SET deleted_at = ?, updated_at = ? WHERE id = ?",
        &[now.into(), now.into(), id.into()],
    )?;
    Ok(())
}

/// The images with which something was begun and not ended, by their status or by a task.
pub fn unsettled(tx: &mut Tx<'_>) -> Result<Vec<(String, Status)>, Error> {
    let sql = "SELECT id, status FROM images WHERE deleted_at IS NULL AND status IN ('saving', 'uploading', 'importing') \
         UNION SELECT t.image_id, COALESCE(i.status, 'queued') FROM image_tasks t LEFT JOIN images i ON i.id = t.image_id \
         WHERE t.expires_at IS NULL";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, status(row.get(1)?)?)))
        .collect()
}

/// The images that must have data.
pub fn with_data(tx: &mut Tx<'_>) -> Result<Vec<String>, Error> {
    let sql =
        "SELECT id FROM images WHERE deleted_at IS NULL AND status IN ('active', 'deactivated')";
    let rows = tx.query(sql, &[])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Nobody works on the image any more: an interrupted upload goes back to `queued`, an interrupted import back to its
/// staged data, and its tasks end. Answers the image as it is then.
pub fn settle(tx: &mut Tx<'_>, id: &str, expires_at: Timestamp) -> Result<Option<Image>, Error> {
    let mut image = get(tx, id)?;
    if let Some(image) = &mut image {
        let back = match image.status {
            Status::Saving => Some(Status::Queued),
            Status::Importing => Some(Status::Uploading),
            _ => None,
        };
        if let Some(back) = back {
            set_status(tx, id, image.status, back)?;
            image.status = back;
        }
    }
    let ended = image.as_ref().is_some_and(Image::has_data);
    end_interrupted(tx, id, ended, expires_at)?;
    Ok(image)
}
