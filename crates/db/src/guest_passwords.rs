//! The password that a guest left with the metadata service, encrypted by the guest for its owner.

use sql::{Error, Tx};
use types::{ServerId, Timestamp};

/// The password, if the guest left one.
pub fn get(tx: &mut Tx<'_>, server: ServerId) -> Result<Option<String>, Error> {
    let sql = "SELECT password FROM guest_passwords WHERE instance_uuid = ?";
    let row = tx.query_opt(sql, &[server.into()])?;
    row.map(|row| row.get(0)).transpose()
}

/// Keeps a password. `false`: there is one already, which stays.
pub fn put(
    tx: &mut Tx<'_>,
    server: ServerId,
    password: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    if get(tx, server)?.is_some() {
        return Ok(false);
    }
    let sql = "INSERT INTO guest_passwords (instance_uuid, password, created_at) VALUES (?, ?, ?)";
    tx.post(sql, &[server.into(), password.into(), now.into()])?;
    Ok(true)
}

/// Forgets the password.
pub fn remove(tx: &mut Tx<'_>, server: ServerId) -> Result<(), Error> {
    let sql = "DELETE FROM guest_passwords WHERE instance_uuid = ?";
    tx.post(sql, &[server.into()])?;
    Ok(())
}
