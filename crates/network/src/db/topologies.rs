//! Networks that were made for projects that asked for any.

use crate::fault::Fault;
use sql::Tx;

/// The network and the router of a project.
pub fn of(tx: &mut Tx<'_>, project: &str) -> Result<Option<(String, String)>, Fault> {
    let sql = "SELECT network_id, router_id FROM net_topologies WHERE project_id = ?";
    let row = tx.query_opt(sql, &[project.into()])?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}

/// Notes what was made for a project. Another request that made one first is a unique violation, which is tried again.
pub fn insert(tx: &mut Tx<'_>, project: &str, network: &str, router: &str) -> Result<(), Fault> {
    let sql = "INSERT INTO net_topologies (project_id, network_id, router_id) VALUES (?, ?, ?)";
    tx.post(sql, &[project.into(), network.into(), router.into()])?;
    Ok(())
}

/// Forgets what had this network.
pub fn forget_network(tx: &mut Tx<'_>, network: &str) -> Result<(), Fault> {
    let sql = "DELETE FROM net_topologies WHERE network_id = ?";
    tx.post(sql, &[network.into()])?;
    Ok(())
}
