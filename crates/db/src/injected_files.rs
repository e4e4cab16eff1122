//! Files that a request below 2.57 wants in its guest (`personality`): they reach it on the config drive. The text is
//! sealed, because such files are often secrets.

use sql::{Error, Tx};
use types::ServerId;

/// Keeps the files of a new server.
pub fn put(tx: &mut Tx<'_>, server: ServerId, sealed: &str) -> Result<(), Error> {
    let sql = "INSERT INTO injected_files (instance_uuid, sealed) VALUES (?, ?)";
    tx.post(sql, &[server.into(), sealed.into()])?;
    Ok(())
}

/// The files of a server, sealed.
pub fn get(tx: &mut Tx<'_>, server: ServerId) -> Result<Option<String>, Error> {
    let sql = "SELECT sealed FROM injected_files WHERE instance_uuid = ?";
    let row = tx.query_opt(sql, &[server.into()])?;
    row.map(|row| row.get(0)).transpose()
}

/// Forgets them.
pub fn remove(tx: &mut Tx<'_>, server: ServerId) -> Result<(), Error> {
    let sql = "DELETE FROM injected_files WHERE instance_uuid = ?";
    tx.post(sql, &[server.into()])?;
    Ok(())
}
