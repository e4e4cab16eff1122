//! Server groups: servers that want to be together or apart.

use sql::{Error, Row, Tx, Value};
use std::collections::HashMap;
use types::{GroupId, HostName, ServerId, Timestamp, UserId};

/// A server group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The id.
    pub id: GroupId,
    /// Owner.
    pub project_id: String,
    /// Creator.
    pub user_id: String,
    /// Name.
    pub name: String,
    /// `affinity`, `anti-affinity`, `soft-affinity`, `soft-anti-affinity`.
    pub policy: String,
    /// Servers of an anti-affinity group that may share a host (2.64).
    pub max_server_per_host: Option<i64>,
}

const COLUMNS: &str = "uuid, project_id, user_id, name, policy, max_server_per_host";

fn from_row(row: &Row) -> Result<Group, Error> {
    Ok(Group {
        id: row.get(0)?,
        project_id: row.get(1)?,
        user_id: row.get(2)?,
        name: row.get(3)?,
        policy: row.get(4)?,
        max_server_per_host: row.get(5)?,
    })
}

/// Stores a group.
pub fn insert(tx: &mut Tx<'_>, group: &Group, now: Timestamp) -> Result<(), Error> {
    let params: [Value; 7] = [
        group.id.into(),
        (&group.project_id).into(),
        (&group.user_id).into(),
        (&group.name).into(),
        (&group.policy).into(),
        group.max_server_per_host.into(),
        now.into(),
    ];
    let sql = "INSERT INTO server_groups (uuid, project_id, user_id, name, policy, max_server_per_host, created_at) \
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    tx.insert_id(sql, &params)?;
    Ok(())
}

/// A group.
pub fn get(tx: &mut Tx<'_>, id: GroupId) -> Result<Option<Group>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM server_groups WHERE uuid = ?");
    tx.query_opt(&sql, &[id.into()])?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// The groups of a project, or of all, oldest first.
pub fn list(tx: &mut Tx<'_>, project: Option<&str>) -> Result<Vec<Group>, Error> {
    let rows = match project {
        Some(project) => tx.query(
            &format!("SELECT {COLUMNS} FROM server_groups WHERE project_id = ? ORDER BY id"),
            &[project.into()],
        )?,
        None => tx.query(
            &format!("SELECT {COLUMNS} FROM server_groups ORDER BY id"),
            &[],
        )?,
    };
    rows.iter().map(from_row).collect()
}

/// How many groups a project (or a user within it) has.
pub fn count(tx: &mut Tx<'_>, project: &str, user: Option<&str>) -> Result<i64, Error> {
    let row = match user {
        Some(user) => {
            let sql = "SELECT COUNT(*) FROM server_groups WHERE project_id = ? AND user_id = ?";
            tx.query_one(sql, &[project.into(), user.into()])?
        }
        None => tx.query_one(
            "SELECT COUNT(*) FROM server_groups WHERE project_id = ?",
            &[project.into()],
        )?,
    };
    row.get(0)
}

/// Removes a group; its servers live on.
pub fn delete(tx: &mut Tx<'_>, id: GroupId) -> Result<bool, Error> {
    tx.post(
        "DELETE FROM server_group_members WHERE group_uuid = ?",
        &[id.into()],
    )?;
    Ok(tx.execute("DELETE FROM server_groups WHERE uuid = ?", &[id.into()])? > 0)
}

/// Puts a server into a group.
pub fn add_member(tx: &mut Tx<'_>, group: GroupId, server: ServerId) -> Result<(), Error> {
    tx.post(
        "INSERT INTO server_group_members (group_uuid, instance_uuid) VALUES (?, ?)",
        &[group.into(), server.into()],
    )?;
    Ok(())
}

/// The members of each of these groups that are not deleted.
pub fn members(
    tx: &mut Tx<'_>,
    groups: &[GroupId],
) -> Result<HashMap<GroupId, Vec<ServerId>>, Error> {
    let mut found: HashMap<GroupId, Vec<ServerId>> = HashMap::new();
    for part in groups.chunks(500) {
        let params: Vec<Value> = part.iter().map(|&group| group.into()).collect();
        let sql = format!(
            "SELECT m.group_uuid, m.instance_uuid FROM server_group_members m JOIN instances i ON i.uuid = m.instance_uuid \
             WHERE i.deleted = 0 AND m.group_uuid IN ({}) ORDER BY i.id",
            sql::placeholders(params.len())
        );
        for row in tx.query(&sql, &params)? {
            found.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
    }
    Ok(found)
}

/// How many servers of a user that are not deleted a group has.
pub fn members_of_user(tx: &mut Tx<'_>, group: GroupId, user: &UserId) -> Result<i64, Error> {
    // SQLite reads first what comes first in a CROSS JOIN; else it would go through all servers that are not deleted.
    let sql = "SELECT COUNT(*) FROM server_group_members m CROSS JOIN instances i \
        WHERE m.group_uuid = ? AND i.uuid = m.instance_uuid AND i.deleted = 0 AND i.user_id = ?";
    tx.query_one(sql, &[group.into(), user.as_str().into()])?
        .get(0)
}

/// The group of a server.
pub fn of_server(tx: &mut Tx<'_>, server: ServerId) -> Result<Option<GroupId>, Error> {
    tx.query_opt(OF_SERVER, &[server.into()])?
        .map(|row| row.get(0))
        .transpose()
}

pub(crate) const OF_SERVER: &str =
    "SELECT group_uuid FROM server_group_members WHERE instance_uuid = ?";

/// A group's servers without `except` that have a host, with their hosts.
pub fn placed_members(
    tx: &mut Tx<'_>,
    id: GroupId,
    except: ServerId,
) -> Result<Vec<(ServerId, HostName)>, Error> {
    let sql = "SELECT i.uuid, i.host FROM server_group_members m JOIN instances i ON i.uuid = m.instance_uuid \
        WHERE m.group_uuid = ? AND i.uuid <> ? AND i.deleted = 0 AND i.host IS NOT NULL";
    let rows = tx.query(sql, &[id.into(), except.into()])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}
