//! Reading and writing plain records by their [`Kind`].

use super::kinds::{Column, Form, Kind};
use serde_json::{Map, Value as Json};
use sql::{Error, Row, Tx, Value};

/// A record as JSON attributes.
pub type Record = Map<String, Json>;

fn selected(kind: &Kind) -> String {
    let mut names: Vec<&str> = kind.columns.iter().map(|column| column.column).collect();
    if kind.extra {
        names.push("extra");
    }
    names.join(", ")
}

fn to_sql(column: &Column, value: &Json) -> Value {
    match (column.form, value) {
        (Form::EmptyIsNull, Json::Null) => "".into(),
        (_, Json::String(text)) => text.into(),
        (_, Json::Bool(yes)) => (*yes).into(),
        _ => Value::Null,
    }
}

fn from_sql(column: &Column, row: &Row, index: usize) -> Result<Json, Error> {
    Ok(match column.form {
        Form::Bool => Json::Bool(row.get(index)?),
        Form::Text => Json::String(row.get(index)?),
        Form::MaybeText => row
            .get::<Option<String>>(index)?
            .map_or(Json::Null, Json::String),
        Form::EmptyIsNull => {
            let text: String = row.get(index)?;
            if text.is_empty() {
                Json::Null
            } else {
                Json::String(text)
            }
        }
    })
}

fn record(kind: &Kind, row: &Row) -> Result<Record, Error> {
    let mut record = Record::new();
    for (index, column) in kind.columns.iter().enumerate() {
        record.insert(column.attribute.to_owned(), from_sql(column, row, index)?);
    }
    if kind.extra {
        let text: String = row.get(kind.columns.len())?;
        if let Ok(Json::Object(extra)) = serde_json::from_str(&text) {
            for (name, value) in extra {
                record.entry(name).or_insert(value);
            }
        }
    }
    Ok(record)
}

fn extra(kind: &Kind, record: &Record) -> String {
    let unknown: Record = record
        .iter()
        .filter(|(name, _)| kind.column(name).is_none())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Json::Object(unknown).to_string()
}

/// Writes a new record. Attributes without a column go to `extra` where the kind keeps them.
pub fn insert(tx: &mut Tx<'_>, kind: &Kind, record: &Record) -> Result<(), Error> {
    let mut names = selected(kind).replace(' ', "");
    let mut values: Vec<Value> = kind
        .columns
        .iter()
        .map(|column| to_sql(column, record.get(column.attribute).unwrap_or(&Json::Null)))
        .collect();
    if kind.extra {
        values.push(extra(kind, record).into());
    }
    names = names.replace(',', ", ");
    let sql = format!(
        "INSERT INTO {} ({names}) VALUES ({})",
        kind.table,
        sql::placeholders(values.len())
    );
    tx.post(&sql, &values)?;
    Ok(())
}

/// Replaces a record by its `id`.
pub fn replace(tx: &mut Tx<'_>, kind: &Kind, record: &Record) -> Result<(), Error> {
    let mut sets: Vec<String> = kind.columns[1..]
        .iter()
        .map(|column| format!("{} = ?", column.column))
        .collect();
    let attribute =
        |column: &Column| to_sql(column, record.get(column.attribute).unwrap_or(&Json::Null));
    let mut values: Vec<Value> = kind.columns[1..].iter().map(attribute).collect();
    if kind.extra {
        sets.push("extra = ?".to_owned());
        values.push(extra(kind, record).into());
    }
    values.push(attribute(&kind.columns[0]));
    tx.post(
        &format!("UPDATE {} SET {} WHERE id = ?", kind.table, sets.join(", ")),
        &values,
    )?;
    Ok(())
}

/// The record with this id.
pub fn find(tx: &mut Tx<'_>, kind: &Kind, id: &str) -> Result<Option<Record>, Error> {
    let sql = format!("SELECT {} FROM {} WHERE id = ?", selected(kind), kind.table);
    tx.query_opt(&sql, &[id.into()])?
        .map(|row| record(kind, &row))
        .transpose()
}

/// The records whose attributes have these values, ordered by id. An attribute without a column matches nothing.
pub fn list(tx: &mut Tx<'_>, kind: &Kind, filters: &[(&str, Json)]) -> Result<Vec<Record>, Error> {
    let mut sql = format!("SELECT {} FROM {}", selected(kind), kind.table);
    let mut values = Vec::new();
    for (attribute, value) in filters {
        let Some(column) = kind.column(attribute) else {
            return Ok(Vec::new());
        };
        sql.push_str(if values.is_empty() {
            " WHERE "
        } else {
            " AND "
        });
        sql.push_str(column.column);
        sql.push_str(" = ?");
        values.push(to_sql(column, value));
    }
    sql.push_str(" ORDER BY id");
    tx.query(&sql, &values)?
        .iter()
        .map(|row| record(kind, row))
        .collect()
}

/// The one record with this name in this domain.
pub fn by_name(
    tx: &mut Tx<'_>,
    kind: &Kind,
    domain_id: &str,
    name: &str,
) -> Result<Option<Record>, Error> {
    let filters = [
        ("domain_id", Json::from(domain_id)),
        ("name", Json::from(name)),
    ];
    Ok(list(tx, kind, &filters)?.into_iter().next())
}

/// Removes a record; false when there is none.
pub fn delete(tx: &mut Tx<'_>, kind: &Kind, id: &str) -> Result<bool, Error> {
    Ok(tx.execute(
        &format!("DELETE FROM {} WHERE id = ?", kind.table),
        &[id.into()],
    )? > 0)
}

/// The tags of a project, sorted.
pub fn tags(tx: &mut Tx<'_>, project_id: &str) -> Result<Vec<String>, Error> {
    let rows = tx.query(
        "SELECT name FROM identity_project_tags WHERE project_id = ? ORDER BY name",
        &[project_id.into()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Replaces the tags of a project.
pub fn set_tags(tx: &mut Tx<'_>, project_id: &str, tags: &[String]) -> Result<(), Error> {
    tx.post(
        "DELETE FROM identity_project_tags WHERE project_id = ?",
        &[project_id.into()],
    )?;
    for tag in tags {
        let row = [("project_id", project_id.into()), ("name", tag.into())];
        tx.upsert("identity_project_tags", &["project_id", "name"], &row)?;
    }
    Ok(())
}
