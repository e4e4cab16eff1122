//! Limits per project, where they differ from the defaults.

use crate::fault::Fault;
use sql::Tx;
use std::collections::BTreeMap;

/// The limits set for a project.
pub fn of(tx: &mut Tx<'_>, project: &str) -> Result<BTreeMap<String, i64>, Fault> {
    let rows = tx.query(
        "SELECT resource, amount FROM net_quotas WHERE project_id = ?",
        &[project.into()],
    )?;
    rows.into_iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// The projects with limits of their own.
pub fn projects(tx: &mut Tx<'_>) -> Result<Vec<String>, Fault> {
    let rows = tx.query(
        "SELECT DISTINCT project_id FROM net_quotas ORDER BY project_id",
        &[],
    )?;
    rows.into_iter().map(|row| Ok(row.get(0)?)).collect()
}

/// Sets a limit; -1 is none.
pub fn set(tx: &mut Tx<'_>, project: &str, resource: &str, amount: i64) -> Result<(), Fault> {
    let row = [
        ("project_id", project.into()),
        ("resource", resource.into()),
        ("amount", amount.into()),
    ];
    Ok(tx.upsert("net_quotas", &["project_id", "resource"], &row)?)
}

/// Back to the defaults.
pub fn reset(tx: &mut Tx<'_>, project: &str) -> Result<(), Fault> {
    tx.post(
        "DELETE FROM net_quotas WHERE project_id = ?",
        &[project.into()],
    )?;
    Ok(())
}
