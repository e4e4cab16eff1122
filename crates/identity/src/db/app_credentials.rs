//! Application credentials.

use sql::{Error, Row, Tx, Value};
use types::Timestamp;

/// An application credential (Identity API, "Application Credentials").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppCredential {
    /// Its id.
    pub id: String,
    /// The user it acts for.
    pub user_id: String,
    /// The project it is for.
    pub project_id: String,
    /// Unique for the user.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// bcrypt hash of the secret.
    pub secret_hash: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether it may make and delete application credentials.
    pub unrestricted: bool,
    /// Ids of the roles it carries.
    pub roles: Vec<String>,
}

const COLUMNS: &str =
    "id, user_id, project_id, name, description, secret_hash, expires_at, unrestricted";

fn read(tx: &mut Tx<'_>, row: &Row) -> Result<AppCredential, Error> {
    let id: String = row.get(0)?;
    let sql = "SELECT role_id FROM identity_app_credential_roles WHERE app_credential_id = ? ORDER BY role_id";
    let roles = tx
        .query(sql, &[(&id).into()])?
        .iter()
        .map(|row| row.get(0))
        .collect::<Result<_, _>>()?;
    Ok(AppCredential {
        id,
        user_id: row.get(1)?,
        project_id: row.get(2)?,
        name: row.get(3)?,
        description: row.get(4)?,
        secret_hash: row.get(5)?,
        expires_at: row.get(6)?,
        unrestricted: row.get(7)?,
        roles,
    })
}

/// Writes a new one.
pub fn insert(tx: &mut Tx<'_>, new: &AppCredential) -> Result<(), Error> {
    let params: [Value; 8] = [
        (&new.id).into(),
        (&new.user_id).into(),
        (&new.project_id).into(),
        (&new.name).into(),
        new.description.clone().into(),
        (&new.secret_hash).into(),
        new.expires_at.into(),
        new.unrestricted.into(),
    ];
    tx.post(
        &format!(
            "INSERT INTO identity_app_credentials ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        ),
        &params,
    )?;
    for role in &new.roles {
        let sql =
            "INSERT INTO identity_app_credential_roles (app_credential_id, role_id) VALUES (?, ?)";
        tx.post(sql, &[(&new.id).into(), role.into()])?;
    }
    Ok(())
}

/// The one with this id.
pub fn find(tx: &mut Tx<'_>, id: &str) -> Result<Option<AppCredential>, Error> {
    let row = tx.query_opt(
        &format!("SELECT {COLUMNS} FROM identity_app_credentials WHERE id = ?"),
        &[id.into()],
    )?;
    row.map(|row| read(tx, &row)).transpose()
}

/// A user's, ordered by name.
pub fn of_user(tx: &mut Tx<'_>, user_id: &str) -> Result<Vec<AppCredential>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM identity_app_credentials WHERE user_id = ? ORDER BY name");
    let rows = tx.query(&sql, &[user_id.into()])?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// Removes those for which `condition` holds.
pub fn delete_where(
    tx: &mut Tx<'_>,
    condition: &'static str,
    params: &[Value],
) -> Result<(), Error> {
    let sql = format!(
        "DELETE FROM identity_app_credential_roles WHERE app_credential_id IN \
         (SELECT id FROM identity_app_credentials WHERE {condition})"
    );
    tx.post(&sql, params)?;
    tx.post(
        &format!("DELETE FROM identity_app_credentials WHERE {condition}"),
        params,
    )?;
    Ok(())
}
