//! Secrets and their sealed payloads.

use crate::model::{ContentType, Secret};
use sql::{Error, Row, Tx, placeholders};
use types::Timestamp;

/// The columns of a secret without its payload, which is read by itself.
pub const COLUMNS: &str = "id, project_id, creator_id, name, kind, expires_at, algorithm, bit_length, \
    algorithm_mode, content_type, created_at, updated_at";

/// Where parts of a secret stand beside its own row.
const PARTS: &[&str] = &["key_acls", "key_acl_users", "key_consumers", "key_metadata"];

/// Reads [`COLUMNS`].
pub fn from_row(row: &Row) -> Result<Secret, Error> {
    let content_type: Option<String> = row.get(9)?;
    let content_type = match content_type {
        Some(text) => Some(
            ContentType::parse(&text)
                .ok_or_else(|| Error::Column(format!("content type {text}")))?,
        ),
        None => None,
    };
    Ok(Secret {
        id: row.get(0)?,
        project_id: row.get(1)?,
        creator_id: row.get(2)?,
        name: row.get(3)?,
        kind: row.get(4)?,
        expires_at: row.get(5)?,
        algorithm: row.get(6)?,
        bit_length: row.get(7)?,
        mode: row.get(8)?,
        content_type,
        created_at: row.get(10)?,
        updated_at: row.get(11)?,
    })
}

/// Adds a secret, with its payload if it has one.
pub fn insert(tx: &mut Tx<'_>, secret: &Secret, sealed: Option<&str>) -> Result<(), Error> {
    let text = format!(
        "INSERT INTO key_secrets ({COLUMNS}, sealed) VALUES ({})",
        placeholders(13)
    );
    tx.post(
        &text,
        &[
            (&secret.id).into(),
            (&secret.project_id).into(),
            (&secret.creator_id).into(),
            secret.name.clone().into(),
            (&secret.kind).into(),
            secret.expires_at.into(),
            secret.algorithm.clone().into(),
            secret.bit_length.into(),
            secret.mode.clone().into(),
            secret.content_type.map(ContentType::name).into(),
            secret.created_at.into(),
            secret.updated_at.into(),
            sealed.into(),
        ],
    )
}

/// A secret that has not expired.
pub fn get(tx: &mut Tx<'_>, id: &str, now: Timestamp) -> Result<Option<Secret>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM key_secrets WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)"
    );
    let row = tx.query_opt(&text, &[id.into(), now.into()])?;
    row.as_ref().map(from_row).transpose()
}

/// The sealed payload of a secret.
pub fn sealed(tx: &mut Tx<'_>, id: &str) -> Result<Option<String>, Error> {
    let row = tx.query_opt("SELECT sealed FROM key_secrets WHERE id = ?", &[id.into()])?;
    row.map_or(Ok(None), |row| row.get(0))
}

/// Some sealed payload, to try the keys on, with its secret's id.
pub fn newest_sealed(tx: &mut Tx<'_>) -> Result<Option<(String, String)>, Error> {
    let text = "SELECT id, sealed FROM key_secrets WHERE sealed IS NOT NULL ORDER BY created_at DESC LIMIT 1";
    let row = tx.query_opt(text, &[])?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Gives a secret the payload that it lacks; false when it has one.
pub fn fill(
    tx: &mut Tx<'_>,
    id: &str,
    content_type: ContentType,
    sealed: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let changed = tx.execute(
        "UPDATE key_secrets SET content_type = ?, sealed = ?, updated_at = ? WHERE id = ? AND sealed IS NULL",
        &[
            content_type.name().into(),
            sealed.into(),
            now.into(),
            id.into(),
        ],
    )?;
    Ok(changed == 1)
}

/// Removes a secret and all that hangs on it.
pub fn delete(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    for table in PARTS {
        let text = format!("DELETE FROM {table} WHERE secret_id = ?");
        tx.post(&text, &[id.into()])?;
    }
    tx.post("DELETE FROM key_secrets WHERE id = ?", &[id.into()])
}

/// Removes some of the secrets that expired before a time; others wait for the next call.
pub fn remove_expired(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), Error> {
    let rows = tx.query(
        "SELECT id FROM key_secrets WHERE expires_at < ? ORDER BY expires_at LIMIT 1000",
        &[before.into()],
    )?;
    for row in rows {
        let id: String = row.get(0)?;
        delete(tx, &id)?;
    }
    Ok(())
}
