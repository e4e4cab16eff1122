//! Tags of servers (2.26).

use crate::list;
use sql::{Error, Tx};
use types::ServerId;

/// The tags of one server, in order.
pub fn of_server(tx: &mut Tx<'_>, server: ServerId) -> Result<Vec<String>, Error> {
    Ok(list::tags(tx, &[server])?
        .into_iter()
        .map(|(_, tag)| tag)
        .collect())
}

/// Adds a tag; false when the server has it already.
pub fn add(tx: &mut Tx<'_>, server: ServerId, tag: &str) -> Result<bool, Error> {
    let known = "SELECT 1 FROM instance_tags WHERE instance_uuid = ? AND tag = ?";
    if tx.query_opt(known, &[server.into(), tag.into()])?.is_some() {
        return Ok(false);
    }
    tx.post(
        "INSERT INTO instance_tags (instance_uuid, tag) VALUES (?, ?)",
        &[server.into(), tag.into()],
    )?;
    Ok(true)
}

/// Removes a tag; false when the server does not have it.
pub fn remove(tx: &mut Tx<'_>, server: ServerId, tag: &str) -> Result<bool, Error> {
    Ok(tx.execute(
        "DELETE FROM instance_tags WHERE instance_uuid = ? AND tag = ?",
        &[server.into(), tag.into()],
    )? > 0)
}

/// Replaces all tags.
pub fn replace(tx: &mut Tx<'_>, server: ServerId, tags: &[String]) -> Result<(), Error> {
    tx.post(
        "DELETE FROM instance_tags WHERE instance_uuid = ?",
        &[server.into()],
    )?;
    for tag in tags {
        add(tx, server, tag)?;
    }
    Ok(())
}
