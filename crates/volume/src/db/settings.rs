//! What is no resource: access to types, default types, limits, the state of the service.

use sql::{Error, Row, Tx};
use std::collections::BTreeMap;
use types::Timestamp;

fn texts(rows: &[Row]) -> Result<Vec<String>, Error> {
    rows.iter().map(|row| row.get(0)).collect()
}

/// The projects that may use a private type.
pub fn projects_with_access(tx: &mut Tx<'_>, type_id: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT project_id FROM vol_type_access WHERE type_id = ? ORDER BY project_id";
    texts(&tx.query(sql, &[type_id.into()])?)
}

/// The private types that a project may use.
pub fn grant_list(tx: &mut Tx<'_>, project_id: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT type_id FROM vol_type_access WHERE project_id = ?";
    texts(&tx.query(sql, &[project_id.into()])?)
}

/// Gives a project access to a type; giving it twice is a unique violation.
pub fn add_access(tx: &mut Tx<'_>, type_id: &str, project_id: &str) -> Result<(), Error> {
    let sql = "INSERT INTO vol_type_access (type_id, project_id) VALUES (?, ?)";
    tx.try_execute(sql, &[type_id.into(), project_id.into()])?;
    Ok(())
}

/// Takes a project's access to a type, or everybody's; false when there was none.
pub fn remove_access(
    tx: &mut Tx<'_>,
    type_id: &str,
    project_id: Option<&str>,
) -> Result<bool, Error> {
    let removed = match project_id {
        Some(project_id) => tx.execute(
            "DELETE FROM vol_type_access WHERE type_id = ? AND project_id = ?",
            &[type_id.into(), project_id.into()],
        )?,
        None => tx.execute(
            "DELETE FROM vol_type_access WHERE type_id = ?",
            &[type_id.into()],
        )?,
    };
    Ok(removed > 0)
}

/// The type of a project's volumes for which nobody names one.
pub fn default_type(tx: &mut Tx<'_>, project_id: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT type_id FROM vol_default_types WHERE project_id = ?";
    tx.query_opt(sql, &[project_id.into()])?
        .map(|row| row.get(0))
        .transpose()
}

/// All (project, type) where projects have one of their own.
pub fn default_types(tx: &mut Tx<'_>) -> Result<Vec<(String, String)>, Error> {
    let sql = "SELECT project_id, type_id FROM vol_default_types ORDER BY project_id";
    tx.query(sql, &[])?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Sets a project's default type.
pub fn set_default_type(tx: &mut Tx<'_>, project_id: &str, type_id: &str) -> Result<(), Error> {
    tx.upsert(
        "vol_default_types",
        &["project_id"],
        &[
            ("project_id", project_id.into()),
            ("type_id", type_id.into()),
        ],
    )
}

/// Back to the cloud's default type.
pub fn unset_default_type(tx: &mut Tx<'_>, project_id: &str) -> Result<(), Error> {
    tx.post(
        "DELETE FROM vol_default_types WHERE project_id = ?",
        &[project_id.into()],
    )?;
    Ok(())
}

/// The limits set for a `project` or a `class`.
pub fn quotas(tx: &mut Tx<'_>, scope: &str, owner: &str) -> Result<BTreeMap<String, i64>, Error> {
    let sql = "SELECT resource, amount FROM vol_quotas WHERE scope = ? AND owner = ?";
    tx.query(sql, &[scope.into(), owner.into()])?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Sets a limit; -1 is none.
pub fn set_quota(
    tx: &mut Tx<'_>,
    scope: &str,
    owner: &str,
    resource: &str,
    amount: i64,
) -> Result<(), Error> {
    tx.upsert(
        "vol_quotas",
        &["scope", "owner", "resource"],
        &[
            ("scope", scope.into()),
            ("owner", owner.into()),
            ("resource", resource.into()),
            ("amount", amount.into()),
        ],
    )
}

/// Back to the defaults.
pub fn reset_quotas(tx: &mut Tx<'_>, scope: &str, owner: &str) -> Result<(), Error> {
    tx.post(
        "DELETE FROM vol_quotas WHERE scope = ? AND owner = ?",
        &[scope.into(), owner.into()],
    )?;
    Ok(())
}

/// What an administrator has set for a part of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Takes no new volumes.
    pub disabled: bool,
    /// Why.
    pub reason: Option<String>,
    /// Takes no changes.
    pub frozen: bool,
    /// When that was set.
    pub updated_at: Option<Timestamp>,
}

/// The state of a part, for example `cinder-volume`.
pub fn service_state(tx: &mut Tx<'_>, name: &str) -> Result<ServiceState, Error> {
    let sql = "SELECT disabled, reason, frozen, updated_at FROM vol_services WHERE name = ?";
    let Some(row) = tx.query_opt(sql, &[name.into()])? else {
        return Ok(ServiceState::default());
    };
    Ok(ServiceState {
        disabled: row.get(0)?,
        reason: row.get(1)?,
        frozen: row.get(2)?,
        updated_at: Some(row.get(3)?),
    })
}

/// Sets the state of a part.
pub fn set_service_state(tx: &mut Tx<'_>, name: &str, state: &ServiceState) -> Result<(), Error> {
    tx.upsert(
        "vol_services",
        &["name"],
        &[
            ("name", name.into()),
            ("disabled", state.disabled.into()),
            ("reason", state.reason.clone().into()),
            ("frozen", state.frozen.into()),
            ("updated_at", Timestamp::now().into()),
        ],
    )
}
