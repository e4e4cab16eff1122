//! The ports that a trunk carries.

use crate::db::PIECE;
use crate::fault::Fault;
use sql::{Tx, Value, placeholders};

/// A port that a trunk carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPort {
    /// The trunk.
    pub trunk: String,
    /// The port.
    pub port: String,
    /// The VLAN under which the guest sends and gets its frames.
    pub vlan: i64,
    /// Its MAC address.
    pub mac: String,
    /// Its status.
    pub status: String,
}

/// What these trunks carry, by VLAN.
pub fn carried(tx: &mut Tx<'_>, trunks: &[String]) -> Result<Vec<SubPort>, Fault> {
    let mut all = Vec::new();
    for piece in trunks.chunks(PIECE) {
        let sql = format!(
            "SELECT s.trunk_id, s.port_id, s.vlan, p.mac_address, p.status FROM net_subports s \
             JOIN net_ports p ON p.id = s.port_id WHERE s.trunk_id IN ({}) ORDER BY s.trunk_id, s.vlan",
            placeholders(piece.len())
        );
        let values: Vec<Value> = piece.iter().map(Value::from).collect();
        for row in tx.query(&sql, &values)? {
            all.push(SubPort {
                trunk: row.get(0)?,
                port: row.get(1)?,
                vlan: row.get(2)?,
                mac: row.get(3)?,
                status: row.get(4)?,
            });
        }
    }
    Ok(all)
}

/// (port, port of its trunk, VLAN) of those of these ports that a trunk carries.
pub fn parents(tx: &mut Tx<'_>, ports: &[&str]) -> Result<Vec<(String, String, i64)>, Fault> {
    let mut all = Vec::new();
    for piece in ports.chunks(PIECE) {
        let sql = format!(
            "SELECT s.port_id, t.port_id, s.vlan FROM net_subports s JOIN net_trunks t ON t.id = s.trunk_id \
             WHERE s.port_id IN ({})",
            placeholders(piece.len())
        );
        let values: Vec<Value> = piece.iter().map(|id| Value::from(*id)).collect();
        for row in tx.query(&sql, &values)? {
            all.push((row.get(0)?, row.get(1)?, row.get(2)?));
        }
    }
    Ok(all)
}

/// The trunk that carries a port.
pub fn carrier(tx: &mut Tx<'_>, port: &str) -> Result<Option<String>, Fault> {
    let sql = "SELECT trunk_id FROM net_subports WHERE port_id = ?";
    Ok(tx
        .query_opt(sql, &[port.into()])?
        .map(|row| row.get(0))
        .transpose()?)
}

/// Adds a port to what a trunk carries.
pub fn insert(tx: &mut Tx<'_>, trunk: &str, port: &str, vlan: i64) -> Result<(), Fault> {
    let sql = "INSERT INTO net_subports (port_id, trunk_id, vlan) VALUES (?, ?, ?)";
    tx.post(sql, &[port.into(), trunk.into(), vlan.into()])?;
    Ok(())
}

/// Takes a port from its trunk.
pub fn delete(tx: &mut Tx<'_>, port: &str) -> Result<(), Fault> {
    tx.post("DELETE FROM net_subports WHERE port_id = ?", &[port.into()])?;
    Ok(())
}
