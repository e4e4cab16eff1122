//! Role assignments, group memberships, implied roles, and what goes away with whom.

use sql::{Error, Row, Tx, Value};
use std::collections::{BTreeSet, HashMap};

/// One role assignment (Identity API, "Roles").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// `user` or `group`.
    pub actor_kind: String,
    /// Who.
    pub actor_id: String,
    /// `project`, `domain` or `system`.
    pub scope_kind: String,
    /// Where; `system` for the system.
    pub scope_id: String,
    /// Which role.
    pub role_id: String,
    /// Whether it holds on the projects below instead of the scope itself (OS-INHERIT).
    pub inherited: bool,
}

const COLUMNS: [&str; 6] = [
    "actor_kind",
    "actor_id",
    "scope_kind",
    "scope_id",
    "role_id",
    "inherited",
];

fn grant(row: &Row) -> Result<Grant, Error> {
    Ok(Grant {
        actor_kind: row.get(0)?,
        actor_id: row.get(1)?,
        scope_kind: row.get(2)?,
        scope_id: row.get(3)?,
        role_id: row.get(4)?,
        inherited: row.get(5)?,
    })
}

fn values(grant: &Grant) -> Vec<Value> {
    vec![
        (&grant.actor_kind).into(),
        (&grant.actor_id).into(),
        (&grant.scope_kind).into(),
        (&grant.scope_id).into(),
        (&grant.role_id).into(),
        grant.inherited.into(),
    ]
}

/// Adds an assignment; one that is there already stays.
pub fn add(tx: &mut Tx<'_>, grant: &Grant) -> Result<(), Error> {
    let row: Vec<(&str, Value)> = COLUMNS.into_iter().zip(values(grant)).collect();
    tx.upsert("identity_assignments", &COLUMNS, &row)
}

/// Whether there is exactly this assignment.
pub fn exists(tx: &mut Tx<'_>, grant: &Grant) -> Result<bool, Error> {
    let sql = format!(
        "SELECT 1 FROM identity_assignments WHERE {}",
        COLUMNS.map(|name| format!("{name} = ?")).join(" AND ")
    );
    Ok(tx.query_opt(&sql, &values(grant))?.is_some())
}

/// Removes an assignment; false when there is none. A user's application credentials for a project end with the
/// assignment they were made from.
pub fn remove(tx: &mut Tx<'_>, grant: &Grant) -> Result<bool, Error> {
    let sql = format!(
        "DELETE FROM identity_assignments WHERE {}",
        COLUMNS.map(|name| format!("{name} = ?")).join(" AND ")
    );
    let removed = tx.execute(&sql, &values(grant))? > 0;
    if removed && grant.actor_kind == "user" && grant.scope_kind == "project" {
        super::app_credentials::delete_where(
            tx,
            "user_id = ? AND project_id = ?",
            &[(&grant.actor_id).into(), (&grant.scope_id).into()],
        )?;
    }
    Ok(removed)
}

/// All assignments whose columns have these values.
pub fn list(tx: &mut Tx<'_>, filters: &[(&str, &str)]) -> Result<Vec<Grant>, Error> {
    let mut sql = format!("SELECT {} FROM identity_assignments", COLUMNS.join(", "));
    for (index, (column, _)) in filters.iter().enumerate() {
        sql.push_str(if index == 0 { " WHERE " } else { " AND " });
        sql.push_str(&format!("{column} = ?"));
    }
    sql.push_str(" ORDER BY actor_kind, actor_id, scope_kind, scope_id, role_id");
    let params: Vec<Value> = filters.iter().map(|(_, value)| (*value).into()).collect();
    tx.query(&sql, &params)?.iter().map(grant).collect()
}

/// All assignments of a user, by itself and through its groups.
pub fn of_user(tx: &mut Tx<'_>, user_id: &str) -> Result<Vec<Grant>, Error> {
    let sql = format!(
        "SELECT {} FROM identity_assignments WHERE (actor_kind = 'user' AND actor_id = ?) OR (actor_kind = 'group' \
         AND actor_id IN (SELECT group_id FROM identity_memberships WHERE user_id = ?))",
        COLUMNS.join(", ")
    );
    tx.query(&sql, &[user_id.into(), user_id.into()])?
        .iter()
        .map(grant)
        .collect()
}

/// Which role implies which: prior to implied.
pub fn implications(tx: &mut Tx<'_>) -> Result<HashMap<String, Vec<String>>, Error> {
    let mut all: HashMap<String, Vec<String>> = HashMap::new();
    for row in tx.query(
        "SELECT prior_role_id, implied_role_id FROM identity_implied_roles ORDER BY 1, 2",
        &[],
    )? {
        all.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    Ok(all)
}

/// The roles and everything they imply, each once.
pub fn expand(
    roles: impl IntoIterator<Item = String>,
    implications: &HashMap<String, Vec<String>>,
) -> BTreeSet<String> {
    let mut open: Vec<String> = roles.into_iter().collect();
    let mut all = BTreeSet::new();
    while let Some(role) = open.pop() {
        if let Some(implied) = implications.get(&role) {
            open.extend(implied.iter().filter(|next| !all.contains(*next)).cloned());
        }
        all.insert(role);
    }
    all
}

/// Says that one role implies another.
pub fn imply(tx: &mut Tx<'_>, prior: &str, implied: &str) -> Result<(), Error> {
    let row = [
        ("prior_role_id", prior.into()),
        ("implied_role_id", implied.into()),
    ];
    tx.upsert(
        "identity_implied_roles",
        &["prior_role_id", "implied_role_id"],
        &row,
    )
}

/// Takes an implication back; false when there is none.
pub fn unimply(tx: &mut Tx<'_>, prior: &str, implied: &str) -> Result<bool, Error> {
    let sql = "DELETE FROM identity_implied_roles WHERE prior_role_id = ? AND implied_role_id = ?";
    Ok(tx.execute(sql, &[prior.into(), implied.into()])? > 0)
}

/// Puts a user into a group.
pub fn join(tx: &mut Tx<'_>, group_id: &str, user_id: &str) -> Result<(), Error> {
    let row = [("group_id", group_id.into()), ("user_id", user_id.into())];
    tx.upsert("identity_memberships", &["group_id", "user_id"], &row)
}

/// Takes a user out of a group; false when it is not in it.
pub fn leave(tx: &mut Tx<'_>, group_id: &str, user_id: &str) -> Result<bool, Error> {
    let sql = "DELETE FROM identity_memberships WHERE group_id = ? AND user_id = ?";
    Ok(tx.execute(sql, &[group_id.into(), user_id.into()])? > 0)
}

/// Whether a user is in a group.
pub fn is_member(tx: &mut Tx<'_>, group_id: &str, user_id: &str) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM identity_memberships WHERE group_id = ? AND user_id = ?";
    Ok(tx
        .query_opt(sql, &[group_id.into(), user_id.into()])?
        .is_some())
}

/// The users of a group.
pub fn members(tx: &mut Tx<'_>, group_id: &str) -> Result<Vec<String>, Error> {
    let rows = tx.query(
        "SELECT user_id FROM identity_memberships WHERE group_id = ? ORDER BY user_id",
        &[group_id.into()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// The groups of a user.
pub fn groups_of(tx: &mut Tx<'_>, user_id: &str) -> Result<Vec<String>, Error> {
    let rows = tx.query(
        "SELECT group_id FROM identity_memberships WHERE user_id = ? ORDER BY group_id",
        &[user_id.into()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Removes everything that hangs on a record of this kind (`user`, `group`, `project`, `domain`, `role`,
/// `service`), before the record itself goes.
pub fn forget(tx: &mut Tx<'_>, kind: &str, id: &str) -> Result<(), Error> {
    let statements: &[&str] = match kind {
        "user" => &[
            "DELETE FROM identity_assignments WHERE actor_kind = 'user' AND actor_id = ?",
            "DELETE FROM identity_memberships WHERE user_id = ?",
            "DELETE FROM identity_credentials WHERE user_id = ?",
        ],
        "group" => &[
            "DELETE FROM identity_assignments WHERE actor_kind = 'group' AND actor_id = ?",
            "DELETE FROM identity_memberships WHERE group_id = ?",
        ],
        "project" => &[
            "DELETE FROM identity_assignments WHERE scope_kind = 'project' AND scope_id = ?",
            "DELETE FROM identity_project_tags WHERE project_id = ?",
            "DELETE FROM identity_credentials WHERE project_id = ?",
            "UPDATE identity_users SET default_project_id = NULL WHERE default_project_id = ?",
        ],
        "domain" => {
            &["DELETE FROM identity_assignments WHERE scope_kind = 'domain' AND scope_id = ?"]
        }
        "role" => &[
            "DELETE FROM identity_assignments WHERE role_id = ?",
            "DELETE FROM identity_implied_roles WHERE prior_role_id = ?",
            "DELETE FROM identity_implied_roles WHERE implied_role_id = ?",
            "DELETE FROM identity_app_credential_roles WHERE role_id = ?",
        ],
        "service" => &["DELETE FROM identity_endpoints WHERE service_id = ?"],
        _ => &[],
    };
    for statement in statements {
        tx.post(statement, &[id.into()])?;
    }
    match kind {
        "user" => super::app_credentials::delete_where(tx, "user_id = ?", &[id.into()]),
        "project" => super::app_credentials::delete_where(tx, "project_id = ?", &[id.into()]),
        _ => Ok(()),
    }
}
