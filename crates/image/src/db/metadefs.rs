//! Rows of `metadef_namespaces` and `metadef_items`.

use sql::{Error, Row, Tx, Value};
use types::Timestamp;

/// A namespace of definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, which is its id.
    pub name: String,
    /// The project that made it.
    pub owner: String,
    /// `public` or `private`.
    pub visibility: String,
    /// Refuses to be deleted.
    pub protected: bool,
    /// For people.
    pub display_name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// What a namespace holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `object`, `property`, `tag` or `resource_type`.
    pub kind: String,
    /// Its name, which is its id.
    pub name: String,
    /// Everything else, a JSON object.
    pub body: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

const NAMESPACE: &str =
    "name, owner, visibility, protected, display_name, description, created_at, updated_at";

fn namespace(row: &Row) -> Result<Namespace, Error> {
    Ok(Namespace {
        name: row.get(0)?,
        owner: row.get(1)?,
        visibility: row.get(2)?,
        protected: row.get(3)?,
        display_name: row.get(4)?,
        description: row.get(5)?,
        created_at: row.get(6)?,
        updated_at: row.get(7)?,
    })
}

fn item(row: &Row) -> Result<Item, Error> {
    Ok(Item {
        kind: row.get(0)?,
        name: row.get(1)?,
        body: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
    })
}

/// Writes a new namespace; a name that is taken is a unique violation.
pub fn add_namespace(tx: &mut Tx<'_>, new: &Namespace) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO metadef_namespaces ({NAMESPACE}) VALUES ({})",
        sql::placeholders(8)
    );
    let row: [Value; 8] = [
        (&new.name).into(),
        (&new.owner).into(),
        (&new.visibility).into(),
        new.protected.into(),
        new.display_name.clone().into(),
        new.description.clone().into(),
        new.created_at.into(),
        new.updated_at.into(),
    ];
    tx.post(&sql, &row)?;
    Ok(())
}

/// Replaces a namespace, whose name may change; what it holds comes along.
pub fn save_namespace(tx: &mut Tx<'_>, old: &str, new: &Namespace) -> Result<(), Error> {
    let sql = "UPDATE metadef_namespaces SET name = ?, visibility = ?, protected = ?, display_name = ?, description = ?, \
        updated_at = ? WHERE name = ?";
    let row: [Value; 7] = [
        (&new.name).into(),
        (&new.visibility).into(),
        new.protected.into(),
        new.display_name.clone().into(),
        new.description.clone().into(),
        new.updated_at.into(),
        old.into(),
    ];
    tx.post(sql, &row)?;
    if old != new.name {
        let sql = "UPDATE metadef_items SET namespace = ? WHERE namespace = ?";
        tx.post(sql, &[(&new.name).into(), old.into()])?;
    }
    Ok(())
}

/// One namespace.
pub fn namespace_by_name(tx: &mut Tx<'_>, name: &str) -> Result<Option<Namespace>, Error> {
    let sql = format!("SELECT {NAMESPACE} FROM metadef_namespaces WHERE name = ?");
    let row = tx.query_opt(&sql, &[name.into()])?;
    row.as_ref().map(namespace).transpose()
}

/// All namespaces, the newest first.
pub fn namespaces(tx: &mut Tx<'_>) -> Result<Vec<Namespace>, Error> {
    let sql = format!("SELECT {NAMESPACE} FROM metadef_namespaces ORDER BY created_at DESC, name");
    tx.query(&sql, &[])?.iter().map(namespace).collect()
}

/// Removes a namespace with all that it holds.
pub fn delete_namespace(tx: &mut Tx<'_>, name: &str) -> Result<(), Error> {
    for sql in [
        "DELETE FROM metadef_items WHERE namespace = ?",
        "DELETE FROM metadef_namespaces WHERE name = ?",
    ] {
        tx.post(sql, &[name.into()])?;
    }
    Ok(())
}

/// Writes a new item; a name that is taken is a unique violation.
pub fn add_item(tx: &mut Tx<'_>, namespace: &str, new: &Item) -> Result<(), Error> {
    let sql = "INSERT INTO metadef_items (namespace, kind, name, body, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)";
    let row: [Value; 6] = [
        namespace.into(),
        (&new.kind).into(),
        (&new.name).into(),
        (&new.body).into(),
        new.created_at.into(),
        new.updated_at.into(),
    ];
    tx.post(sql, &row)?;
    Ok(())
}

/// Replaces an item, whose name may change.
pub fn save_item(tx: &mut Tx<'_>, namespace: &str, old: &str, new: &Item) -> Result<(), Error> {
    let sql = "UPDATE metadef_items SET name = ?, body = ?, updated_at = ? WHERE namespace = ? AND kind = ? AND name = ?";
    let row: [Value; 6] = [
        (&new.name).into(),
        (&new.body).into(),
        new.updated_at.into(),
        namespace.into(),
        (&new.kind).into(),
        old.into(),
    ];
    tx.post(sql, &row)?;
    Ok(())
}

/// One item.
pub fn item_by_name(
    tx: &mut Tx<'_>,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Result<Option<Item>, Error> {
    let sql = "SELECT kind, name, body, created_at, updated_at FROM metadef_items \
        WHERE namespace = ? AND kind = ? AND name = ?";
    let row = tx.query_opt(sql, &[namespace.into(), kind.into(), name.into()])?;
    row.as_ref().map(item).transpose()
}

/// Everything that a namespace holds, by kind and name.
pub fn items(tx: &mut Tx<'_>, namespace: &str) -> Result<Vec<Item>, Error> {
    let sql = "SELECT kind, name, body, created_at, updated_at FROM metadef_items WHERE namespace = ? ORDER BY kind, name";
    tx.query(sql, &[namespace.into()])?
        .iter()
        .map(item)
        .collect()
}

/// Removes an item, or with `None` all of a kind; how many went.
pub fn delete_items(
    tx: &mut Tx<'_>,
    namespace: &str,
    kind: &str,
    name: Option<&str>,
) -> Result<u64, Error> {
    match name {
        Some(name) => tx.execute(
            "DELETE FROM metadef_items WHERE namespace = ? AND kind = ? AND name = ?",
            &[namespace.into(), kind.into(), name.into()],
        ),
        None => tx.execute(
            "DELETE FROM metadef_items WHERE namespace = ? AND kind = ?",
            &[namespace.into(), kind.into()],
        ),
    }
}

/// (namespace, resource type) of all associations.
pub fn associations(tx: &mut Tx<'_>) -> Result<Vec<(String, String)>, Error> {
    let sql =
        "SELECT namespace, name FROM metadef_items WHERE kind = 'resource_type' ORDER BY name";
    tx.query(sql, &[])?
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}
