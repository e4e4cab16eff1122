//! What hangs on a secret: its access control list, who uses it, what its owner noted.

use crate::model::{Acl, Consumer};
use sql::{Error, Row, Tx, placeholders};
use std::collections::{BTreeMap, HashMap};

/// The access control list of a secret, if it has one of its own.
pub fn acl(tx: &mut Tx<'_>, secret_id: &str) -> Result<Option<Acl>, Error> {
    let row = tx.query_opt(
        "SELECT project_access, created_at, updated_at FROM key_acls WHERE secret_id = ?",
        &[secret_id.into()],
    )?;
    let Some(row) = row else { return Ok(None) };
    let users = tx.query(
        "SELECT user_id FROM key_acl_users WHERE secret_id = ? ORDER BY user_id",
        &[secret_id.into()],
    )?;
    Ok(Some(Acl {
        project_access: row.get(0)?,
        users: users
            .iter()
            .map(|user| user.get(0))
            .collect::<Result<_, _>>()?,
        created_at: row.get(1)?,
        updated_at: row.get(2)?,
    }))
}

/// Writes the access control list of a secret, whatever it had.
pub fn set_acl(tx: &mut Tx<'_>, secret_id: &str, acl: &Acl) -> Result<(), Error> {
    remove_acl(tx, secret_id)?;
    tx.post(
        "INSERT INTO key_acls (secret_id, project_access, created_at, updated_at) VALUES (?, ?, ?, ?)",
        &[
            secret_id.into(),
            acl.project_access.into(),
            acl.created_at.into(),
            acl.updated_at.into(),
        ],
    )?;
    for user in &acl.users {
        tx.post(
            "INSERT INTO key_acl_users (secret_id, user_id) VALUES (?, ?)",
            &[secret_id.into(), user.into()],
        )?;
    }
    Ok(())
}

/// Removes the access control list of a secret.
pub fn remove_acl(tx: &mut Tx<'_>, secret_id: &str) -> Result<(), Error> {
    for table in ["key_acls", "key_acl_users"] {
        let text = format!("DELETE FROM {table} WHERE secret_id = ?");
        tx.post(&text, &[secret_id.into()])?;
    }
    Ok(())
}

const CONSUMER: &str = "secret_id, service, resource_type, resource_id, project_id, created_at";

fn consumer(row: &Row) -> Result<Consumer, Error> {
    Ok(Consumer {
        service: row.get(1)?,
        resource_type: row.get(2)?,
        resource_id: row.get(3)?,
        project_id: row.get(4)?,
        created_at: row.get(5)?,
    })
}

/// Who uses a secret, in the order in which they said so.
pub fn consumers(tx: &mut Tx<'_>, secret_id: &str) -> Result<Vec<Consumer>, Error> {
    let text = format!("SELECT {CONSUMER} FROM key_consumers WHERE secret_id = ? ORDER BY id");
    let rows = tx.query(&text, &[secret_id.into()])?;
    rows.iter().map(consumer).collect()
}

/// The same for some secrets at once, by their ids.
pub fn consumers_of(
    tx: &mut Tx<'_>,
    secrets: &[String],
) -> Result<HashMap<String, Vec<Consumer>>, Error> {
    let mut found: HashMap<String, Vec<Consumer>> = HashMap::new();
    // A page is no longer than a statement's parameters may be; an empty one asks nothing.
    if secrets.is_empty() {
        return Ok(found);
    }
    let text = format!(
        "SELECT {CONSUMER} FROM key_consumers WHERE secret_id IN ({}) ORDER BY id",
        placeholders(secrets.len())
    );
    let ids: Vec<sql::Value> = secrets.iter().map(sql::Value::from).collect();
    for row in tx.query(&text, &ids)? {
        let secret: String = row.get(0)?;
        found.entry(secret).or_default().push(consumer(&row)?);
    }
    Ok(found)
}

/// Notes that something uses a secret; the caller knows that it is not noted yet.
pub fn add_consumer(tx: &mut Tx<'_>, secret_id: &str, consumer: &Consumer) -> Result<(), Error> {
    let text = format!("INSERT INTO key_consumers ({CONSUMER}) VALUES (?, ?, ?, ?, ?, ?)");
    tx.post(
        &text,
        &[
            secret_id.into(),
            (&consumer.service).into(),
            (&consumer.resource_type).into(),
            (&consumer.resource_id).into(),
            (&consumer.project_id).into(),
            consumer.created_at.into(),
        ],
    )
}

/// Forgets that something uses a secret.
pub fn remove_consumer(tx: &mut Tx<'_>, secret_id: &str, consumer: &Consumer) -> Result<(), Error> {
    tx.post(
        "DELETE FROM key_consumers WHERE secret_id = ? AND service = ? AND resource_type = ? AND resource_id = ?",
        &[
            secret_id.into(),
            (&consumer.service).into(),
            (&consumer.resource_type).into(),
            (&consumer.resource_id).into(),
        ],
    )
}

/// What the owner noted of a secret.
pub fn metadata(tx: &mut Tx<'_>, secret_id: &str) -> Result<BTreeMap<String, String>, Error> {
    let rows = tx.query(
        "SELECT name, content FROM key_metadata WHERE secret_id = ?",
        &[secret_id.into()],
    )?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Writes all notes of a secret in place of those that it had.
pub fn set_metadata(
    tx: &mut Tx<'_>,
    secret_id: &str,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    tx.post(
        "DELETE FROM key_metadata WHERE secret_id = ?",
        &[secret_id.into()],
    )?;
    for (name, content) in metadata {
        set_metadatum(tx, secret_id, name, content)?;
    }
    Ok(())
}

/// Writes one note.
pub fn set_metadatum(
    tx: &mut Tx<'_>,
    secret_id: &str,
    name: &str,
    content: &str,
) -> Result<(), Error> {
    tx.upsert(
        "key_metadata",
        &["secret_id", "name"],
        &[
            ("secret_id", secret_id.into()),
            ("name", name.into()),
            ("content", content.into()),
        ],
    )
}

/// Removes one note; false without such a note.
pub fn remove_metadatum(tx: &mut Tx<'_>, secret_id: &str, name: &str) -> Result<bool, Error> {
    let query = "DELETE FROM key_metadata WHERE secret_id = ? AND name = ?";
    Ok(tx.execute(query, &[secret_id.into(), name.into()])? == 1)
}
