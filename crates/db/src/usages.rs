//! What projects and users hold of servers: counters that change with the servers, in the same transactions.

use crate::quotas::{self, Limits};
use sql::{Error, Row, Tx};
use types::server::Flavor;
use types::{ProjectId, UserId};

/// Servers, vCPUs and MiB of memory held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Servers.
    pub instances: i64,
    /// Virtual CPUs.
    pub cores: i64,
    /// MiB.
    pub ram_mb: i64,
}

impl Held {
    /// What a server of this flavor is.
    pub fn of(flavor: &Flavor) -> Self {
        Self {
            instances: 1,
            cores: i64::from(flavor.vcpus),
            ram_mb: i64::from(flavor.memory_mb),
        }
    }

    /// The larger of both in everything.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        Self {
            instances: self.instances.max(other.instances),
            cores: self.cores.max(other.cores),
            ram_mb: self.ram_mb.max(other.ram_mb),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            instances: self.instances + other.instances,
            cores: self.cores + other.cores,
            ram_mb: self.ram_mb + other.ram_mb,
        }
    }

    /// The difference to another.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            instances: self.instances - other.instances,
            cores: self.cores - other.cores,
            ram_mb: self.ram_mb - other.ram_mb,
        }
    }
}

/// Adds to (or, negative, takes from) what a user holds in a project.
pub fn add(tx: &mut Tx<'_>, project: &ProjectId, user: &UserId, by: Held) -> Result<(), Error> {
    let known = tx.execute_one(
        "UPDATE server_usages SET instances = instances + ?, cores = cores + ?, ram_mb = ram_mb + ? WHERE project_id = ? AND user_id = ?",
        &[by.instances.into(), by.cores.into(), by.ram_mb.into(), project.into(), user.into()],
    )?;
    if !known {
        tx.post(
            "INSERT INTO server_usages (project_id, user_id, instances, cores, ram_mb) VALUES (?, ?, ?, ?, ?)",
            &[project.into(), user.into(), by.instances.into(), by.cores.into(), by.ram_mb.into()],
        )?;
    }
    Ok(())
}

fn read(tx: &mut Tx<'_>, sql: &str, params: &[sql::Value]) -> Result<Held, Error> {
    held_from(&tx.query_one(sql, params)?, 0)
}

fn held_from(row: &Row, from: usize) -> Result<Held, Error> {
    Ok(Held {
        instances: row.get(from)?,
        cores: row.get(from + 1)?,
        ram_mb: row.get(from + 2)?,
    })
}

/// What a project holds.
pub fn of_project(tx: &mut Tx<'_>, project: &ProjectId) -> Result<Held, Error> {
    let sql = "SELECT COALESCE(SUM(instances), 0), COALESCE(SUM(cores), 0), COALESCE(SUM(ram_mb), 0) FROM server_usages WHERE project_id = ?";
    read(tx, sql, &[project.into()])
}

/// What each project holds that ever held something.
pub fn of_projects(tx: &mut Tx<'_>) -> Result<Vec<(String, Held)>, Error> {
    let sql = "SELECT project_id, SUM(instances), SUM(cores), SUM(ram_mb) FROM server_usages GROUP BY project_id";
    let rows = tx.query(sql, &[])?;
    let one = |row: &sql::Row| {
        let held = Held {
            instances: row.get(1)?,
            cores: row.get(2)?,
            ram_mb: row.get(3)?,
        };
        Ok((row.get(0)?, held))
    };
    rows.iter().map(one).collect()
}

/// What a user holds in a project.
pub fn of_user(tx: &mut Tx<'_>, project: &ProjectId, user: &UserId) -> Result<Held, Error> {
    let sql = "SELECT COALESCE(SUM(instances), 0), COALESCE(SUM(cores), 0), COALESCE(SUM(ram_mb), 0) FROM server_usages \
        WHERE project_id = ? AND user_id = ?";
    read(tx, sql, &[project.into(), user.into()])
}

/// The limits of a project and what it holds, and the same of one of its users.
pub fn with_limits(
    tx: &mut Tx<'_>,
    project: &ProjectId,
    user: &UserId,
) -> Result<[(Limits, Held); 2], Error> {
    let [limits, held] = tx.queries([
        (quotas::OF_BOTH, &[project.into(), user.into()]),
        (
            OF_BOTH,
            &[user.into(), user.into(), user.into(), project.into()],
        ),
    ])?;
    let (of_project, of_user) = quotas::both_from(&limits)?;
    let held = held.first().ok_or(Error::NoRow)?;
    Ok([
        (of_project, held_from(held, 0)?),
        (of_user, held_from(held, 3)?),
    ])
}

const OF_BOTH: &str = "SELECT COALESCE(SUM(instances), 0), COALESCE(SUM(cores), 0), COALESCE(SUM(ram_mb), 0), \
         COALESCE(SUM(CASE WHEN user_id = ? THEN instances ELSE 0 END), 0), \
         COALESCE(SUM(CASE WHEN user_id = ? THEN cores ELSE 0 END), 0), \
         COALESCE(SUM(CASE WHEN user_id = ? THEN ram_mb ELSE 0 END), 0) FROM server_usages WHERE project_id = ?";

/// The same, counted anew from the servers: tests and audits hold it against [`of_project`].
pub fn recount(tx: &mut Tx<'_>, project: &ProjectId) -> Result<Held, Error> {
    let sql = "SELECT COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(memory_mb), 0) FROM instances WHERE project_id = ? AND deleted = 0 \
        AND vm_state <> 'soft-delete'";
    read(tx, sql, &[project.into()])
}
