//! Limits of what projects and users may hold (Nova documentation, "Manage quotas").

use sql::{Error, Row, Tx};
use std::collections::BTreeMap;

/// The resources with limits and their built-in defaults; -1 is unlimited.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("instances", 10),
    ("cores", 20),
    ("ram", 50 * 1024),
    ("metadata_items", 128),
    ("injected_files", 5),
    ("injected_file_content_bytes", 10 * 1024),
    ("injected_file_path_bytes", 255),
    ("key_pairs", 100),
    ("server_groups", 10),
    ("server_group_members", 10),
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("security_groups", -1),
    ("security_group_rules", -1),
    ("networks", 3),
];

/// Limits by resource.
pub type Limits = BTreeMap<String, i64>;

/// The defaults: built in, overridden by the class `default`.
pub fn defaults(tx: &mut Tx<'_>) -> Result<Limits, Error> {
    of_class(tx, "default")
}

/// The limits of a quota class.
pub fn of_class(tx: &mut Tx<'_>, class: &str) -> Result<Limits, Error> {
    let sql = "SELECT resource, hard_limit FROM quota_classes WHERE class_name = ?";
    let mut limits = built_in();
    for row in tx.query(sql, &[class.into()])? {
        limits.insert(row.get(0)?, row.get(1)?);
    }
    Ok(limits)
}

/// Sets a limit of a quota class.
pub fn set_class(tx: &mut Tx<'_>, class: &str, resource: &str, limit: i64) -> Result<(), Error> {
    let row = [
        ("class_name", class.into()),
        ("resource", resource.into()),
        ("hard_limit", limit.into()),
    ];
    tx.upsert("quota_classes", &["class_name", "resource"], &row)
}

/// The limits of a project.
pub fn of_project(tx: &mut Tx<'_>, project: &str) -> Result<Limits, Error> {
    // What is set for no user in particular is the project's.
    Ok(of_both(tx, project, "")?.0)
}

/// The limits of a user within a project.
pub fn of_user(tx: &mut Tx<'_>, project: &str, user: &str) -> Result<Limits, Error> {
    Ok(of_both(tx, project, user)?.1)
}

/// The limits of a project, and of a user within it, where what is set for the nearest counts.
pub fn of_both(tx: &mut Tx<'_>, project: &str, user: &str) -> Result<(Limits, Limits), Error> {
    both_from(&tx.query(OF_BOTH, &[project.into(), user.into()])?)
}

pub(crate) const OF_BOTH: &str = "SELECT 0, resource, hard_limit FROM quota_classes WHERE class_name = 'default' UNION ALL \
     SELECT CASE user_id WHEN '' THEN 1 ELSE 2 END, resource, hard_limit FROM quota_limits \
     WHERE project_id = ? AND user_id IN ('', ?) ORDER BY 1";

pub(crate) fn both_from(rows: &[Row]) -> Result<(Limits, Limits), Error> {
    let mut whole = built_in();
    let mut own = Limits::new();
    for row in rows {
        let nearest = row.get::<i64>(0)? == 2;
        let limits = if nearest { &mut own } else { &mut whole };
        limits.insert(row.get(1)?, row.get(2)?);
    }
    let mut of_user = whole.clone();
    of_user.append(&mut own);
    Ok((whole, of_user))
}

fn built_in() -> Limits {
    let defaults = DEFAULTS.iter();
    defaults
        .map(|&(name, limit)| (name.to_owned(), limit))
        .collect()
}

/// What was set for users within a project: `(user, resource, limit)`.
pub fn of_users(tx: &mut Tx<'_>, project: &str) -> Result<Vec<(String, String, i64)>, Error> {
    let sql = "SELECT user_id, resource, hard_limit FROM quota_limits WHERE project_id = ? AND user_id <> ''";
    let rows = tx.query(sql, &[project.into()])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// What was set for projects as a whole: `(project, resource, limit)`.
pub fn of_projects(tx: &mut Tx<'_>) -> Result<Vec<(String, String, i64)>, Error> {
    let sql = "SELECT project_id, resource, hard_limit FROM quota_limits WHERE user_id = ''";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// Sets a limit of a project, or (with a user) of a user within it.
pub fn set(
    tx: &mut Tx<'_>,
    project: &str,
    user: Option<&str>,
    resource: &str,
    limit: i64,
) -> Result<(), Error> {
    let row = [
        ("project_id", project.into()),
        ("user_id", user.unwrap_or_default().into()),
        ("resource", resource.into()),
        ("hard_limit", limit.into()),
    ];
    tx.upsert("quota_limits", &["project_id", "user_id", "resource"], &row)
}

/// Forgets the limits of a project and its users, or only those of one user.
pub fn reset(tx: &mut Tx<'_>, project: &str, user: Option<&str>) -> Result<(), Error> {
    match user {
        Some(user) => tx.execute(
            "DELETE FROM quota_limits WHERE project_id = ? AND user_id = ?",
            &[project.into(), user.into()],
        )?,
        None => tx.execute(
            "DELETE FROM quota_limits WHERE project_id = ?",
            &[project.into()],
        )?,
    };
    Ok(())
}
