//! Host aggregates, and the availability zones that are made of them.

use crate::{document, to_document};
use sql::{Error, Row, Tx};
use std::collections::{BTreeMap, HashMap};
use types::Timestamp;
use uuid::Uuid;

/// The metadata key that makes an aggregate a zone.
pub const ZONE: &str = "availability_zone";

/// A host aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Row id, which the API shows.
    pub id: i64,
    /// Shown from 2.41.
    pub uuid: Uuid,
    /// Unique name.
    pub name: String,
    /// Metadata, `availability_zone` included.
    pub metadata: BTreeMap<String, String>,
    /// Hosts by name.
    pub hosts: Vec<String>,
    /// Created.
    pub created_at: Timestamp,
    /// Changed.
    pub updated_at: Option<Timestamp>,
}

impl Aggregate {
    /// The zone it makes.
    pub fn zone(&self) -> Option<&str> {
        self.metadata.get(ZONE).map(String::as_str)
    }
}

const COLUMNS: &str = "id, uuid, name, metadata, created_at, updated_at";

fn from_row(row: &Row) -> Result<Aggregate, Error> {
    Ok(Aggregate {
        id: row.get(0)?,
        uuid: row.get(1)?,
        name: row.get(2)?,
        metadata: document(&row.get::<String>(3)?)?,
        hosts: Vec::new(),
        created_at: row.get(4)?,
        updated_at: row.get(5)?,
    })
}

/// Every aggregate with its hosts.
pub fn all(tx: &mut Tx<'_>) -> Result<Vec<Aggregate>, Error> {
    let rows = tx.query(
        &format!("SELECT {COLUMNS} FROM aggregates ORDER BY id"),
        &[],
    )?;
    let mut aggregates: Vec<Aggregate> = rows.iter().map(from_row).collect::<Result<_, _>>()?;
    let mut hosts: HashMap<i64, Vec<String>> = HashMap::new();
    for row in tx.query(
        "SELECT aggregate, host FROM aggregate_hosts ORDER BY host",
        &[],
    )? {
        hosts.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    for aggregate in &mut aggregates {
        aggregate.hosts = hosts.remove(&aggregate.id).unwrap_or_default();
    }
    Ok(aggregates)
}

/// One aggregate.
pub fn get(tx: &mut Tx<'_>, id: i64) -> Result<Option<Aggregate>, Error> {
    let row = tx.query_opt(
        &format!("SELECT {COLUMNS} FROM aggregates WHERE id = ?"),
        &[id.into()],
    )?;
    let Some(mut aggregate) = row.as_ref().map(from_row).transpose()? else {
        return Ok(None);
    };
    let rows = tx.query(
        "SELECT host FROM aggregate_hosts WHERE aggregate = ? ORDER BY host",
        &[id.into()],
    )?;
    aggregate.hosts = rows
        .iter()
        .map(|row| row.get(0))
        .collect::<Result<_, _>>()?;
    Ok(Some(aggregate))
}

/// Stores a new aggregate; `None` when the name is taken. `aggregate.id` is ignored.
pub fn insert(tx: &mut Tx<'_>, aggregate: &Aggregate) -> Result<Option<i64>, Error> {
    if tx
        .query_opt(
            "SELECT id FROM aggregates WHERE name = ?",
            &[(&aggregate.name).into()],
        )?
        .is_some()
    {
        return Ok(None);
    }
    let id = tx.insert_id(
        "INSERT INTO aggregates (uuid, name, metadata, created_at) VALUES (?, ?, ?, ?)",
        &[
            aggregate.uuid.into(),
            (&aggregate.name).into(),
            to_document(&aggregate.metadata)?.into(),
            aggregate.created_at.into(),
        ],
    )?;
    Ok(Some(id))
}

/// Writes name and metadata back; false when the name is taken by another.
pub fn update(tx: &mut Tx<'_>, aggregate: &Aggregate, now: Timestamp) -> Result<bool, Error> {
    let taken = tx.query_opt(
        "SELECT id FROM aggregates WHERE name = ? AND id <> ?",
        &[(&aggregate.name).into(), aggregate.id.into()],
    )?;
    if taken.is_some() {
        return Ok(false);
    }
    tx.post(
        "UPDATE aggregates SET name = ?, metadata = ?, updated_at = ? WHERE id = ?",
        &[
            (&aggregate.name).into(),
            to_document(&aggregate.metadata)?.into(),
            now.into(),
            aggregate.id.into(),
        ],
    )?;
    Ok(true)
}

/// Removes an aggregate.
pub fn delete(tx: &mut Tx<'_>, id: i64) -> Result<(), Error> {
    tx.post(
        "DELETE FROM aggregate_hosts WHERE aggregate = ?",
        &[id.into()],
    )?;
    tx.post("DELETE FROM aggregates WHERE id = ?", &[id.into()])?;
    Ok(())
}

/// Adds a host; false when it is in already.
pub fn add_host(tx: &mut Tx<'_>, id: i64, host: &str) -> Result<bool, Error> {
    if tx
        .query_opt(
            "SELECT 1 FROM aggregate_hosts WHERE aggregate = ? AND host = ?",
            &[id.into(), host.into()],
        )?
        .is_some()
    {
        return Ok(false);
    }
    tx.post(
        "INSERT INTO aggregate_hosts (aggregate, host) VALUES (?, ?)",
        &[id.into(), host.into()],
    )?;
    Ok(true)
}

/// Removes a host; false when it was not in.
pub fn remove_host(tx: &mut Tx<'_>, id: i64, host: &str) -> Result<bool, Error> {
    Ok(tx.execute(
        "DELETE FROM aggregate_hosts WHERE aggregate = ? AND host = ?",
        &[id.into(), host.into()],
    )? > 0)
}

/// The zone of each host that an aggregate gives one.
pub fn zones(tx: &mut Tx<'_>) -> Result<HashMap<String, String>, Error> {
    let mut zones = HashMap::new();
    for aggregate in all(tx)? {
        let Some(zone) = aggregate.zone() else {
            continue;
        };
        for host in &aggregate.hosts {
            zones.insert(host.clone(), zone.to_owned());
        }
    }
    Ok(zones)
}
