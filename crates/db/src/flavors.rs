//! Flavors, their extra specs, and who may use the private ones.

use crate::{document, to_document};
use sql::{Error, Row, Tx, Value};
use std::collections::BTreeMap;
use types::{FlavorId, Timestamp, server};

/// A flavor as administrators keep it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Row id.
    pub row: i64,
    /// What servers get of it.
    pub flavor: server::Flavor,
    /// For people.
    pub description: Option<String>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// Always false today; shown below 2.102.
    pub disabled: bool,
    /// Created.
    pub created_at: Timestamp,
    /// Changed.
    pub updated_at: Option<Timestamp>,
}

const COLUMNS: &str = "id, flavor_id, name, description, memory_mb, vcpus, root_gb, ephemeral_gb, swap_mb, rxtx_factor, is_public, \
    disabled, extra_specs, created_at, updated_at";

fn from_row(row: &Row) -> Result<Record, Error> {
    Ok(Record {
        row: row.get(0)?,
        flavor: server::Flavor {
            id: row.get(1)?,
            name: row.get(2)?,
            memory_mb: row.get(4)?,
            vcpus: row.get(5)?,
            root_gb: row.get(6)?,
            ephemeral_gb: row.get(7)?,
            swap_mb: row.get(8)?,
            rxtx_factor: row.get(9)?,
            extra_specs: document(&row.get::<String>(12)?)?,
        },
        description: row.get(3)?,
        is_public: row.get(10)?,
        disabled: row.get(11)?,
        created_at: row.get(13)?,
        updated_at: row.get(14)?,
    })
}

/// Why a flavor cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// The public id is taken.
    #[error("Flavor with ID {0} already exists.")]
    IdTaken(FlavorId),
    /// The name is taken.
    #[error("Flavor with name {0} already exists.")]
    NameTaken(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Stores a new flavor and returns its row id; `record.row` is ignored.
pub fn insert(tx: &mut Tx<'_>, record: &Record) -> Result<i64, InsertError> {
    let flavor = &record.flavor;
    if tx
        .query_opt(
            "SELECT id FROM flavors WHERE name = ?",
            &[(&flavor.name).into()],
        )?
        .is_some()
    {
        return Err(InsertError::NameTaken(flavor.name.clone()));
    }
    if tx
        .query_opt(
            "SELECT id FROM flavors WHERE flavor_id = ?",
            &[(&flavor.id).into()],
        )?
        .is_some()
    {
        return Err(InsertError::IdTaken(flavor.id.clone()));
    }
    let params: Vec<Value> = vec![
        (&flavor.id).into(),
        (&flavor.name).into(),
        record.description.clone().into(),
        flavor.memory_mb.into(),
        flavor.vcpus.into(),
        flavor.root_gb.into(),
        flavor.ephemeral_gb.into(),
        flavor.swap_mb.into(),
        flavor.rxtx_factor.into(),
        record.is_public.into(),
        record.disabled.into(),
        to_document(&flavor.extra_specs)?.into(),
        record.created_at.into(),
    ];
    let sql = format!(
        "INSERT INTO flavors (flavor_id, name, description, memory_mb, vcpus, root_gb, ephemeral_gb, swap_mb, rxtx_factor, is_public, \
         disabled, extra_specs, created_at) VALUES ({})",
        sql::placeholders(params.len())
    );
    Ok(tx.insert_id(&sql, &params)?)
}

/// The flavor with this public id, private ones too.
pub fn get(tx: &mut Tx<'_>, id: &FlavorId) -> Result<Option<Record>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM flavors WHERE flavor_id = ?");
    tx.query_opt(&sql, &[id.into()])?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The flavor with this name.
pub fn by_name(tx: &mut Tx<'_>, name: &str) -> Result<Option<Record>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM flavors WHERE name = ?");
    tx.query_opt(&sql, &[name.into()])?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The flavor with this public id if the project may use it; `None` as project means an administrator.
pub fn visible(
    tx: &mut Tx<'_>,
    id: &FlavorId,
    project: Option<&str>,
) -> Result<Option<Record>, Error> {
    let Some(record) = get(tx, id)? else {
        return Ok(None);
    };
    let Some(project) = project.filter(|_| !record.is_public) else {
        return Ok(Some(record));
    };
    let sql = "SELECT 1 FROM flavor_access WHERE flavor = ? AND project_id = ?";
    Ok(tx
        .query_opt(sql, &[record.row.into(), project.into()])?
        .map(|_| record))
}

/// Every flavor that exists, in order of the rows.
pub fn all(tx: &mut Tx<'_>) -> Result<Vec<Record>, Error> {
    tx.query(&format!("SELECT {COLUMNS} FROM flavors ORDER BY id"), &[])?
        .iter()
        .map(from_row)
        .collect()
}

/// The rows of private flavors that a project may use.
pub fn accessible(tx: &mut Tx<'_>, project: &str) -> Result<Vec<i64>, Error> {
    tx.query(
        "SELECT flavor FROM flavor_access WHERE project_id = ?",
        &[project.into()],
    )?
    .iter()
    .map(|row| row.get(0))
    .collect()
}

/// Changes the description.
pub fn describe(
    tx: &mut Tx<'_>,
    row: i64,
    description: Option<&str>,
    now: Timestamp,
) -> Result<(), Error> {
    let params: [Value; 3] = [description.into(), now.into(), row.into()];
    tx.post(
        "UPDATE flavors SET description = ?, updated_at = ? WHERE id = ?",
        &params,
    )?;
    Ok(())
}

/// Replaces the extra specs.
pub fn set_extra_specs(
    tx: &mut Tx<'_>,
    row: i64,
    specs: &BTreeMap<String, String>,
    now: Timestamp,
) -> Result<(), Error> {
    let params: [Value; 3] = [to_document(specs)?.into(), now.into(), row.into()];
    tx.post(
        "UPDATE flavors SET extra_specs = ?, updated_at = ? WHERE id = ?",
        &params,
    )?;
    Ok(())
}

/// Removes a flavor; servers keep their copy.
pub fn delete(tx: &mut Tx<'_>, row: i64) -> Result<(), Error> {
    tx.post("DELETE FROM flavor_access WHERE flavor = ?", &[row.into()])?;
    tx.post("DELETE FROM flavors WHERE id = ?", &[row.into()])?;
    Ok(())
}

/// The projects that may use a private flavor.
pub fn access(tx: &mut Tx<'_>, row: i64) -> Result<Vec<String>, Error> {
    let rows = tx.query(
        "SELECT project_id FROM flavor_access WHERE flavor = ? ORDER BY project_id",
        &[row.into()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Lets a project use a private flavor; false when it could already.
pub fn add_access(tx: &mut Tx<'_>, row: i64, project: &str) -> Result<bool, Error> {
    if access(tx, row)?.iter().any(|known| known == project) {
        return Ok(false);
    }
    tx.post(
        "INSERT INTO flavor_access (flavor, project_id) VALUES (?, ?)",
        &[row.into(), project.into()],
    )?;
    Ok(true)
}

/// Takes a private flavor from a project; false when it could not use it.
pub fn remove_access(tx: &mut Tx<'_>, row: i64, project: &str) -> Result<bool, Error> {
    Ok(tx.execute(
        "DELETE FROM flavor_access WHERE flavor = ? AND project_id = ?",
        &[row.into(), project.into()],
    )? > 0)
}
