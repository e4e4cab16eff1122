//! Inactive bindings: hosts that a port may go to.

use crate::fault::Fault;
use serde_json::Value as Json;
use sql::Tx;

/// An inactive binding of a port.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The host.
    pub host: String,
    /// `normal` and the like.
    pub vnic_type: String,
    /// What whoever bound it keeps there.
    pub profile: Json,
}

/// The inactive bindings of a port, by host.
pub fn of_port(tx: &mut Tx<'_>, port: &str) -> Result<Vec<Binding>, Fault> {
    let sql = "SELECT host, vnic_type, profile FROM net_bindings WHERE port_id = ? ORDER BY host";
    let rows = tx.query(sql, &[port.into()])?;
    rows.into_iter()
        .map(|row| {
            Ok(Binding {
                host: row.get(0)?,
                vnic_type: row.get(1)?,
                profile: serde_json::from_str(&row.get::<String>(2)?).unwrap_or_default(),
            })
        })
        .collect()
}

/// Adds one.
pub fn insert(tx: &mut Tx<'_>, port: &str, binding: &Binding) -> Result<(), Fault> {
    let sql = "INSERT INTO net_bindings (port_id, host, vnic_type, profile) VALUES (?, ?, ?, ?)";
    let values = [
        port.into(),
        binding.host.as_str().into(),
        binding.vnic_type.as_str().into(),
        binding.profile.to_string().into(),
    ];
    tx.post(sql, &values)?;
    Ok(())
}

/// Removes one.
pub fn delete(tx: &mut Tx<'_>, port: &str, host: &str) -> Result<(), Fault> {
    let sql = "DELETE FROM net_bindings WHERE port_id = ? AND host = ?";
    tx.post(sql, &[port.into(), host.into()])?;
    Ok(())
}

/// Removes all of a port.
pub fn delete_all(tx: &mut Tx<'_>, port: &str) -> Result<(), Fault> {
    tx.post("DELETE FROM net_bindings WHERE port_id = ?", &[port.into()])?;
    Ok(())
}
