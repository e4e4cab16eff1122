//! Resources as documents with searchable columns.

use crate::model::{
    Attachment, Group, GroupSnapshot, GroupType, Message, Qos, Snapshot, Transfer, Volume,
    VolumeType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sql::{Error, Row, Tx, Value, placeholders};

/// A resource that has a table.
pub trait Record: Serialize + DeserializeOwned {
    /// The table.
    const TABLE: &'static str;
    /// The key.
    fn id(&self) -> &str;
    /// The columns beside `id` and `body`, from the document.
    fn columns(&self) -> Vec<(&'static str, Value)>;
}

impl Record for Volume {
    const TABLE: &'static str = "vol_volumes";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("status", self.status.name().into()),
            ("size_gb", self.promised().into()),
            ("type_id", (&self.type_id).into()),
            ("snapshot_id", self.snapshot_id.clone().into()),
            ("source_id", self.source_id.clone().into()),
            ("group_id", self.group_id.clone().into()),
            ("busy", self.job.is_some().into()),
        ]
    }
}

impl Record for Snapshot {
    const TABLE: &'static str = "vol_snapshots";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("volume_id", (&self.volume_id).into()),
            ("status", self.status.name().into()),
            ("size_gb", self.size.into()),
            ("type_id", (&self.type_id).into()),
            ("group_snapshot_id", self.group_snapshot_id.clone().into()),
            ("busy", self.job.is_some().into()),
        ]
    }
}

impl Record for VolumeType {
    const TABLE: &'static str = "vol_types";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("name", (&self.name).into()),
            ("qos_id", self.qos_id.clone().into()),
        ]
    }
}

impl Record for Qos {
    const TABLE: &'static str = "vol_qos";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![("name", (&self.name).into())]
    }
}

impl Record for Attachment {
    const TABLE: &'static str = "vol_attachments";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("volume_id", (&self.volume_id).into()),
            ("server_id", self.server_id.clone().into()),
            ("export", self.export.clone().into()),
        ]
    }
}

impl Record for Transfer {
    const TABLE: &'static str = "vol_transfers";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        // An accepted transfer is history: its volume may be offered again.
        let volume = if self.accepted {
            &self.id
        } else {
            &self.volume_id
        };
        vec![
            ("project_id", (&self.project_id).into()),
            ("volume_id", volume.into()),
        ]
    }
}

impl Record for Message {
    const TABLE: &'static str = "vol_messages";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("expires_at", self.expires_at.into()),
        ]
    }
}

impl Record for Group {
    const TABLE: &'static str = "vol_groups";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("type_id", (&self.type_id).into()),
        ]
    }
}

impl Record for GroupType {
    const TABLE: &'static str = "vol_group_types";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![("name", (&self.name).into())]
    }
}

impl Record for GroupSnapshot {
    const TABLE: &'static str = "vol_group_snapshots";
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("project_id", (&self.project_id).into()),
            ("group_id", (&self.group_id).into()),
        ]
    }
}

fn body<R: Record>(record: &R) -> Result<Value, Error> {
    let text = serde_json::to_string(record).map_err(|error| Error::Column(error.to_string()))?;
    Ok(text.into())
}

fn read<R: Record>(mut row: Row) -> Result<R, Error> {
    let text = row.take_string(0)?.unwrap_or_default();
    serde_json::from_str(&text)
        .map_err(|error| Error::Column(format!("a row of {}: {error}", R::TABLE)))
}

/// Adds a row.
pub fn insert<R: Record>(tx: &mut Tx<'_>, record: &R) -> Result<(), Error> {
    let mut names = vec!["id", "body"];
    let mut values = vec![Value::from(record.id()), body(record)?];
    for (name, value) in record.columns() {
        names.push(name);
        values.push(value);
    }
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        R::TABLE,
        names.join(", "),
        placeholders(names.len())
    );
    tx.try_execute(&sql, &values)?;
    Ok(())
}

/// Writes a row anew; false when it is gone.
pub fn save<R: Record>(tx: &mut Tx<'_>, record: &R) -> Result<bool, Error> {
    let mut sets = vec!["body = ?".to_owned()];
    let mut values = vec![body(record)?];
    for (name, value) in record.columns() {
        sets.push(format!("{name} = ?"));
        values.push(value);
    }
    values.push(record.id().into());
    let sql = format!("UPDATE {} SET {} WHERE id = ?", R::TABLE, sets.join(", "));
    Ok(tx.try_execute(&sql, &values)? == 1)
}

/// Removes a row; false when it was gone.
pub fn delete<R: Record>(tx: &mut Tx<'_>, id: &str) -> Result<bool, Error> {
    let sql = format!("DELETE FROM {} WHERE id = ?", R::TABLE);
    Ok(tx.execute(&sql, &[id.into()])? == 1)
}

/// One row by its id.
pub fn get<R: Record>(tx: &mut Tx<'_>, id: &str) -> Result<Option<R>, Error> {
    find_one(tx, &[("id", id.into())])
}

fn condition(matches: &[(&'static str, Value)]) -> (String, Vec<Value>) {
    if matches.is_empty() {
        return (String::new(), Vec::new());
    }
    let parts: Vec<String> = matches
        .iter()
        .map(|(name, _)| format!("{name} = ?"))
        .collect();
    let values = matches.iter().map(|(_, value)| value.clone()).collect();
    (format!(" WHERE {}", parts.join(" AND ")), values)
}

/// All rows with these columns, in no particular order.
pub fn find<R: Record>(
    tx: &mut Tx<'_>,
    matches: &[(&'static str, Value)],
) -> Result<Vec<R>, Error> {
    let (condition, values) = condition(matches);
    let sql = format!("SELECT body FROM {}{condition}", R::TABLE);
    tx.query(&sql, &values)?.into_iter().map(read).collect()
}

/// The first row with these columns.
pub fn find_one<R: Record>(
    tx: &mut Tx<'_>,
    matches: &[(&'static str, Value)],
) -> Result<Option<R>, Error> {
    Ok(find(tx, matches)?.into_iter().next())
}

/// How many rows have these columns.
pub fn count<R: Record>(tx: &mut Tx<'_>, matches: &[(&'static str, Value)]) -> Result<i64, Error> {
    let (condition, values) = condition(matches);
    let sql = format!("SELECT COUNT(*) FROM {}{condition}", R::TABLE);
    tx.query_one(&sql, &values)?.get(0)
}

/// The GiB of the rows with these columns; only for volumes and snapshots.
pub fn sum<R: Record>(tx: &mut Tx<'_>, matches: &[(&'static str, Value)]) -> Result<i64, Error> {
    let (condition, values) = condition(matches);
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(size_gb), 0) AS {}) FROM {}{condition}",
        match tx.dialect() {
            sql::Dialect::Mysql => "SIGNED",
            _ => "BIGINT",
        },
        R::TABLE
    );
    tx.query_one(&sql, &values)?.get(0)
}

/// The attachments that are to be served.
pub fn exported(tx: &mut Tx<'_>) -> Result<Vec<Attachment>, Error> {
    let sql = "SELECT body FROM vol_attachments WHERE export IS NOT NULL";
    tx.query(sql, &[])?.into_iter().map(read).collect()
}

/// Removes messages that nobody needs any more.
pub fn remove_expired(tx: &mut Tx<'_>, now: types::Timestamp) -> Result<(), Error> {
    tx.post(
        "DELETE FROM vol_messages WHERE expires_at < ?",
        &[now.into()],
    )?;
    Ok(())
}

/// The attachments of some volumes.
pub fn attachments_of(tx: &mut Tx<'_>, volumes: &[&str]) -> Result<Vec<Attachment>, Error> {
    let mut all = Vec::new();
    // Databases bound the parameters of a statement.
    for piece in volumes.chunks(500) {
        let values: Vec<Value> = piece.iter().map(|id| Value::from(*id)).collect();
        let sql = format!(
            "SELECT body FROM vol_attachments WHERE volume_id IN ({})",
            placeholders(piece.len())
        );
        for row in tx.query(&sql, &values)? {
            all.push(read(row)?);
        }
    }
    Ok(all)
}
