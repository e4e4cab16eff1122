//! What logging in and reading a token need.

use sql::{Error, Row, Tx};
use types::Timestamp;

/// A user as far as logging in needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The domain that owns the user.
    pub domain_id: String,
    /// Its name.
    pub domain_name: String,
    /// Whether the user and its domain are enabled.
    pub enabled: bool,
    /// Scope of a token when none is asked.
    pub default_project_id: Option<String>,
    /// bcrypt; nobody logs in without it.
    pub password_hash: Option<String>,
    /// Tokens made before are refused.
    pub tokens_from: Timestamp,
}

const PERSON: &str = "SELECT u.id, u.name, d.id, d.name, u.enabled, d.enabled, u.default_project_id, u.password_hash, \
     u.tokens_from FROM identity_users u JOIN identity_domains d ON d.id = u.domain_id";

fn person(row: &Row) -> Result<Person, Error> {
    Ok(Person {
        id: row.get(0)?,
        name: row.get(1)?,
        domain_id: row.get(2)?,
        domain_name: row.get(3)?,
        enabled: row.get(4)? && row.get(5)?,
        default_project_id: row.get(6)?,
        password_hash: row.get(7)?,
        tokens_from: row.get(8)?,
    })
}

/// The user with this id.
pub fn person_by_id(tx: &mut Tx<'_>, id: &str) -> Result<Option<Person>, Error> {
    tx.query_opt(&format!("{PERSON} WHERE u.id = ?"), &[id.into()])?
        .map(|row| person(&row))
        .transpose()
}

/// The user with this name in a domain named by id or by name.
pub fn person_by_name(
    tx: &mut Tx<'_>,
    name: &str,
    domain: &Named,
) -> Result<Option<Person>, Error> {
    let (condition, of) = match domain {
        Named::Id(id) => ("d.id = ?", id),
        Named::Name(name) => ("d.name = ?", name),
    };
    let sql = format!("{PERSON} WHERE u.name = ? AND {condition}");
    tx.query_opt(&sql, &[name.into(), of.into()])?
        .map(|row| person(&row))
        .transpose()
}

/// How a request names a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// A project or domain and the domain above it, as a token shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// The owning domain (a domain owns itself).
    pub domain_id: String,
    /// Its name.
    pub domain_name: String,
    /// Whether it and its domain are enabled.
    pub enabled: bool,
}

const PROJECT: &str = "SELECT p.id, p.name, d.id, d.name, p.enabled, d.enabled FROM identity_projects p \
     JOIN identity_domains d ON d.id = p.domain_id";
const DOMAIN: &str =
    "SELECT d.id, d.name, d.id, d.name, d.enabled, d.enabled FROM identity_domains d";

fn place(row: &Row) -> Result<Place, Error> {
    Ok(Place {
        id: row.get(0)?,
        name: row.get(1)?,
        domain_id: row.get(2)?,
        domain_name: row.get(3)?,
        enabled: row.get(4)? && row.get(5)?,
    })
}

/// The project with this id.
pub fn project(tx: &mut Tx<'_>, id: &str) -> Result<Option<Place>, Error> {
    tx.query_opt(&format!("{PROJECT} WHERE p.id = ?"), &[id.into()])?
        .map(|row| place(&row))
        .transpose()
}

/// The project with this name in a domain.
pub fn project_by_name(
    tx: &mut Tx<'_>,
    name: &str,
    domain: &Named,
) -> Result<Option<Place>, Error> {
    let (condition, of) = match domain {
        Named::Id(id) => ("d.id = ?", id),
        Named::Name(name) => ("d.name = ?", name),
    };
    let sql = format!("{PROJECT} WHERE p.name = ? AND {condition}");
    tx.query_opt(&sql, &[name.into(), of.into()])?
        .map(|row| place(&row))
        .transpose()
}

/// Ids of the projects above a project, the nearest first.
pub fn ancestors(tx: &mut Tx<'_>, id: &str) -> Result<Vec<String>, Error> {
    let mut found: Vec<String> = Vec::new();
    let mut below = id.to_owned();
    loop {
        let sql = "SELECT parent_id FROM identity_projects WHERE id = ? AND parent_id <> domain_id";
        let Some(row) = tx.query_opt(sql, &[below.as_str().into()])? else {
            return Ok(found);
        };
        below = row.get(0)?;
        if found.contains(&below) {
            return Ok(found);
        }
        found.push(below.clone());
    }
}

/// Ids of the projects below a project.
pub fn descendants(tx: &mut Tx<'_>, id: &str) -> Result<Vec<String>, Error> {
    let mut found: Vec<String> = Vec::new();
    let mut open = vec![id.to_owned()];
    while let Some(above) = open.pop() {
        let sql = "SELECT id FROM identity_projects WHERE parent_id = ?";
        for row in tx.query(sql, &[above.into()])? {
            let child: String = row.get(0)?;
            if !found.contains(&child) {
                found.push(child.clone());
                open.push(child);
            }
        }
    }
    Ok(found)
}

/// Ids of the roles that belong to a domain: they mean nothing but what they imply.
pub fn domain_roles(tx: &mut Tx<'_>) -> Result<std::collections::BTreeSet<String>, Error> {
    let sql = "SELECT id FROM identity_roles WHERE domain_id <> ''";
    tx.query(sql, &[])?.iter().map(|row| row.get(0)).collect()
}

/// Ids of a domain's projects.
pub fn projects_of(tx: &mut Tx<'_>, domain_id: &str) -> Result<Vec<String>, Error> {
    tx.query(
        "SELECT id FROM identity_projects WHERE domain_id = ?",
        &[domain_id.into()],
    )?
    .iter()
    .map(|row| row.get(0))
    .collect()
}

/// A domain.
pub fn domain(tx: &mut Tx<'_>, domain: &Named) -> Result<Option<Place>, Error> {
    let (condition, of) = match domain {
        Named::Id(id) => ("d.id = ?", id),
        Named::Name(name) => ("d.name = ?", name),
    };
    tx.query_opt(&format!("{DOMAIN} WHERE {condition}"), &[of.into()])?
        .map(|row| place(&row))
        .transpose()
}

/// Names of roles by id.
pub fn role_names(tx: &mut Tx<'_>) -> Result<std::collections::HashMap<String, String>, Error> {
    let rows = tx.query("SELECT id, name FROM identity_roles", &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// From when on a user's tokens count, changed to a time: always later than before, also by a clock that was set back.
const LATER: &str = "tokens_from = CASE WHEN tokens_from < ? THEN ? ELSE tokens_from + 1 END";

/// Sets a user's password; tokens made before `now` are refused from then on.
pub fn set_password(
    tx: &mut Tx<'_>,
    user_id: &str,
    hash: &str,
    now: Timestamp,
) -> Result<(), Error> {
    let sql = format!("UPDATE identity_users SET password_hash = ?, {LATER} WHERE id = ?");
    tx.post(&sql, &[hash.into(), now.into(), now.into(), user_id.into()])
}

/// Refuses all tokens of a user made before `now`.
pub fn end_tokens(tx: &mut Tx<'_>, user_id: &str, now: Timestamp) -> Result<(), Error> {
    let sql = format!("UPDATE identity_users SET {LATER} WHERE id = ?");
    tx.post(&sql, &[now.into(), now.into(), user_id.into()])
}

/// Refuses one token until it would have expired anyway, and forgets those that have.
pub fn revoke(
    tx: &mut Tx<'_>,
    audit_id: &str,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    tx.post(
        "DELETE FROM identity_revoked_tokens WHERE expires_at < ?",
        &[now.into()],
    )?;
    let row = [
        ("audit_id", audit_id.into()),
        ("expires_at", expires_at.into()),
    ];
    tx.upsert("identity_revoked_tokens", &["audit_id"], &row)
}

/// Whether a token was revoked.
pub fn is_revoked(tx: &mut Tx<'_>, audit_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM identity_revoked_tokens WHERE audit_id = ?";
    Ok(tx.query_opt(sql, &[audit_id.into()])?.is_some())
}

/// An endpoint as the catalog shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Id, type and name of the service.
    pub service: (String, String, String),
    /// The endpoint's id.
    pub id: String,
    /// public, internal or admin.
    pub interface: String,
    /// Where.
    pub region: Option<String>,
    /// With `$(project_id)s` and its like still in it.
    pub url: String,
}

/// The enabled endpoints of enabled services, grouped by service.
pub fn offers(tx: &mut Tx<'_>) -> Result<Vec<Offer>, Error> {
    let sql = "SELECT s.id, s.kind, s.name, e.id, e.interface, e.region_id, e.url FROM identity_services s \
         JOIN identity_endpoints e ON e.service_id = s.id WHERE s.enabled = 1 AND e.enabled = 1 ORDER BY s.kind, s.id, e.id";
    let offer = |row: &Row| -> Result<Offer, Error> {
        Ok(Offer {
            service: (
                row.get(0)?,
                row.get(1)?,
                row.get::<Option<String>>(2)?.unwrap_or_default(),
            ),
            id: row.get(3)?,
            interface: row.get(4)?,
            region: row.get(5)?,
            url: row.get(6)?,
        })
    };
    tx.query(sql, &[])?.iter().map(offer).collect()
}
