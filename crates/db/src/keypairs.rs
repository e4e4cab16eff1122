//! Key pairs of users: only the public half is kept.

use sql::{Error, Row, Tx};
use types::Timestamp;

/// A key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Row id.
    pub id: i64,
    /// Owner.
    pub user_id: String,
    /// Name, unique for the owner.
    pub name: String,
    /// `ssh` or `x509`.
    pub kind: String,
    /// MD5 of an SSH key, SHA-1 of a certificate, in colon form.
    pub fingerprint: String,
    /// OpenSSH line or PEM certificate.
    pub public_key: String,
    /// Created.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "id, user_id, name, kind, fingerprint, public_key, created_at";

fn from_row(row: &Row) -> Result<KeyPair, Error> {
    Ok(KeyPair {
        id: row.get(0)?,
        user_id: row.get(1)?,
        name: row.get(2)?,
        kind: row.get(3)?,
        fingerprint: row.get(4)?,
        public_key: row.get(5)?,
        created_at: row.get(6)?,
    })
}

/// Stores a key pair; false when the user has one of that name.
pub fn insert(tx: &mut Tx<'_>, key: &KeyPair) -> Result<bool, Error> {
    if get(tx, &key.user_id, &key.name)?.is_some() {
        return Ok(false);
    }
    tx.insert_id(
        "INSERT INTO key_pairs (user_id, name, kind, fingerprint, public_key, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        &[
            (&key.user_id).into(),
            (&key.name).into(),
            (&key.kind).into(),
            (&key.fingerprint).into(),
            (&key.public_key).into(),
            key.created_at.into(),
        ],
    )?;
    Ok(true)
}

/// A user's key pair.
pub fn get(tx: &mut Tx<'_>, user: &str, name: &str) -> Result<Option<KeyPair>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM key_pairs WHERE user_id = ? AND name = ?");
    tx.query_opt(&sql, &[user.into(), name.into()])?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The key pairs of these users.
pub fn of_users(tx: &mut Tx<'_>, users: &[&str]) -> Result<Vec<KeyPair>, Error> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM key_pairs WHERE user_id IN ({}) ORDER BY user_id, name",
        sql::placeholders(users.len())
    );
    let params: Vec<sql::Value> = users.iter().map(|user| (*user).into()).collect();
    tx.query(&sql, &params)?.iter().map(from_row).collect()
}

/// A user's key pairs by name.
pub fn of_user(tx: &mut Tx<'_>, user: &str) -> Result<Vec<KeyPair>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM key_pairs WHERE user_id = ? ORDER BY name");
    tx.query(&sql, &[user.into()])?
        .iter()
        .map(from_row)
        .collect()
}

/// How many key pairs a user has.
pub fn count(tx: &mut Tx<'_>, user: &str) -> Result<i64, Error> {
    tx.query_one(
        "SELECT COUNT(*) FROM key_pairs WHERE user_id = ?",
        &[user.into()],
    )?
    .get(0)
}

/// Removes a key pair; false when there was none.
pub fn delete(tx: &mut Tx<'_>, user: &str, name: &str) -> Result<bool, Error> {
    Ok(tx.execute(
        "DELETE FROM key_pairs WHERE user_id = ? AND name = ?",
        &[user.into(), name.into()],
    )? > 0)
}
