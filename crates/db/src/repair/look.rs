//! Looks for what should not be there: in parts, so that nobody waits for it however many servers there are, and once more
//! at a single finding before it is mended.

use super::{Finding, claims};
use crate::instances::Kept;
use crate::migrations::Status;
use crate::tasks::Waits;
use crate::{document, usages};
use sql::{Error, Row, Tx, Value};
use std::collections::BTreeMap;
use types::{MigrationId, ProjectId, UserId, VmState};

/// Servers, or claims, of one part.
const PART: i64 = 5000;
/// Users whose servers are counted exactly in one part.
const EXACT: usize = 100;

/// A look at everything, which goes on from part to part; each is a few queries of bounded size in a transaction of its
/// own. What one part tells of is so in its snapshot.
#[derive(Clone, Debug)]
pub struct Look {
    at: At,
    part: i64,
    /// What users have, as far as it was counted. Servers come and go between the parts: it only says who is to be
    /// counted exactly.
    counted: BTreeMap<(String, String), usages::Held>,
}

#[derive(Clone, Debug)]
enum At {
    /// Servers after this number.
    Servers(i64),
    Queues,
    /// Claims of consumers after this one.
    Claims(String),
    Leftovers,
    /// Providers after this one.
    Uses(String),
    Quotas,
    /// Users whose counters may be wrong.
    Exact(Vec<(ProjectId, UserId)>),
}

impl Default for Look {
    fn default() -> Self {
        Self::in_parts_of(PART)
    }
}

impl Look {
    /// A look in parts of so many servers or claims.
    pub fn in_parts_of(part: i64) -> Self {
        Self {
            at: At::Servers(0),
            part: part.max(1),
            counted: BTreeMap::new(),
        }
    }

    /// Looks at the next part; `None`: that was all.
    pub fn go_on(
        mut self,
        tx: &mut Tx<'_>,
        found: &mut Vec<Finding>,
    ) -> Result<Option<Self>, Error> {
        let next = match self.at {
            At::Servers(after) => {
                // The numbers of a cloud's servers begin anywhere, so a part is of so many servers, not numbers.
                let part = [after.into(), (self.part - 1).into()];
                let until: Option<i64> = match tx.query_opt(LAST_SERVER, &part)? {
                    Some(row) => Some(row.get(0)?),
                    None => None,
                };
                let range = [after.into(), until.unwrap_or(i64::MAX).into()];
                collect(tx, &format!("{STUCK} AND {NUMBERS}"), &range, found, stuck)?;
                found.extend(claims::unclaimed(tx, NUMBERS, &range)?);
                self.count(tx, &range)?;
                until.map_or(At::Queues, At::Servers)
            }
            At::Queues => {
                collect(tx, TASKS_WITHOUT_SERVER, &[], found, task_alone)?;
                collect(tx, TASKS_THAT_WAIT, &[], found, unreadable)?;
                let work = format!("{WORK_WITHOUT_TASK} WHERE t.id IS NULL");
                collect(tx, &work, &[], found, work_alone)?;
                collect(tx, UNSETTLED, &[], found, unsettled)?;
                At::Claims(String::new())
            }
            At::Claims(after) => {
                let until = bound(tx, LAST_CLAIM, &after, self.part)?;
                let end = until.clone().unwrap_or_else(|| AFTER_ALL.to_owned());
                let range = [after.into(), end.into()];
                let of_these = "a.consumer > ? AND a.consumer <= ?";
                let sql = format!("{HELD_BY_DELETED} AND {of_these}");
                collect(tx, &sql, &range, found, held_by_deleted)?;
                let sql = format!("{HELD_ELSEWHERE} AND {of_these}");
                collect(tx, &sql, &range, found, held_elsewhere)?;
                let sql = format!("{HELD_BY_MIGRATION} AND {of_these}");
                collect(tx, &sql, &range, found, held_by_migration)?;
                until.map_or(At::Leftovers, At::Claims)
            }
            At::Leftovers => {
                found.extend(left_on_hosts(tx, "", &[])?);
                At::Uses(String::new())
            }
            At::Uses(after) => {
                // A provider has as many claims as servers.
                let until = bound(tx, LAST_PROVIDER, &after, self.part.min(PROVIDERS))?;
                let end = until.clone().unwrap_or_else(|| AFTER_ALL.to_owned());
                let these = "n.provider > ? AND n.provider <= ?";
                found.extend(wrong_uses(tx, these, &[after.into(), end.into()])?);
                until.map_or(At::Quotas, At::Uses)
            }
            At::Quotas => At::Exact(self.suspects(tx)?),
            At::Exact(mut suspects) => {
                let later = suspects.split_off(suspects.len().min(EXACT));
                for (project, user) in suspects {
                    found.extend(wrong_quota(tx, project, user)?);
                }
                if later.is_empty() {
                    return Ok(None);
                }
                At::Exact(later)
            }
        };
        self.at = next;
        Ok(Some(self))
    }

    /// Adds what users have among some servers.
    fn count(&mut self, tx: &mut Tx<'_>, range: &[Value]) -> Result<(), Error> {
        // Asked for `deleted = 0` the database would go through all that are not deleted, for each part.
        let sql = "SELECT project_id, user_id, deleted, vm_state, COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(memory_mb), 0) \
             FROM instances WHERE id > ? AND id <= ? GROUP BY project_id, user_id, deleted, vm_state";
        for row in tx.query(sql, range)? {
            let state: String = row.get(3)?;
            if row.get::<i64>(2)? == 0 && state != VmState::SoftDelete.as_str() {
                let held = self.counted.entry((row.get(0)?, row.get(1)?)).or_default();
                *held = held.plus(held_of(&row, 4)?);
            }
        }
        Ok(())
    }

    /// Users whose counters are not what was counted.
    fn suspects(&mut self, tx: &mut Tx<'_>) -> Result<Vec<(ProjectId, UserId)>, Error> {
        let mut counted = std::mem::take(&mut self.counted);
        let mut suspects = Vec::new();
        let sql = "SELECT project_id, user_id, instances, cores, ram_mb FROM server_usages";
        for row in tx.query(sql, &[])? {
            let (project, user): (String, String) = (row.get(0)?, row.get(1)?);
            let there = counted.remove(&(project.clone(), user.clone()));
            if held_of(&row, 2)? != there.unwrap_or_default() {
                suspects.push((project.into(), user.into()));
            }
        }
        // Nothing is noted of these.
        suspects.extend(
            counted
                .into_keys()
                .map(|(project, user)| (project.into(), user.into())),
        );
        Ok(suspects)
    }
}

/// All that should not be as it is, in one transaction.
pub fn audit(tx: &mut Tx<'_>) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    let mut look = Some(Look::default());
    while let Some(part) = look {
        look = part.go_on(tx, &mut found)?;
    }
    Ok(found)
}

/// What was found, as it is now, if it still is so: a query or two, by indexes.
pub fn still(tx: &mut Tx<'_>, finding: &Finding) -> Result<Option<Finding>, Error> {
    let mut found = Vec::new();
    let now = &mut found;
    match finding {
        Finding::Stuck { server, .. } => {
            let sql = format!("{STUCK} AND i.uuid = ?");
            collect(tx, &sql, &[(*server).into()], now, stuck)?;
        }
        Finding::TaskWithoutServer(task, _) => {
            let sql = format!("{TASKS_WITHOUT_SERVER} AND t.id = ?");
            collect(tx, &sql, &[(*task).into()], now, task_alone)?;
        }
        Finding::Unreadable { task, .. } => {
            let sql = format!("{TASKS_THAT_WAIT} AND id = ?");
            collect(tx, &sql, &[(*task).into()], now, unreadable)?;
        }
        Finding::WorkWithoutTask(task, host) => {
            let sql =
                format!("{WORK_WITHOUT_TASK} WHERE t.id IS NULL AND w.task_id = ? AND w.host = ?");
            collect(tx, &sql, &[(*task).into(), host.into()], now, work_alone)?;
        }
        Finding::HeldByDeleted(server) => {
            let sql = format!("{HELD_BY_DELETED} AND a.consumer = ?");
            collect(tx, &sql, &[(*server).into()], now, held_by_deleted)?;
        }
        Finding::HeldElsewhere {
            server, provider, ..
        } => {
            let sql = format!("{HELD_ELSEWHERE} AND a.consumer = ? AND a.provider = ?");
            let params = [(*server).into(), (*provider).into()];
            collect(tx, &sql, &params, now, held_elsewhere)?;
        }
        Finding::Unsettled { server, .. } => {
            let sql = format!("{UNSETTLED} AND i.uuid = ?");
            collect(tx, &sql, &[(*server).into()], now, unsettled)?;
        }
        Finding::HeldByMigration(migration, _) => {
            let sql = format!("{HELD_BY_MIGRATION} AND a.consumer = ?");
            collect(tx, &sql, &[(*migration).into()], now, held_by_migration)?;
        }
        Finding::Unclaimed(one) => {
            found = claims::unclaimed(tx, "i.uuid = ?", &[one.server.into()])?;
        }
        Finding::LeftOnHost(host, server) | Finding::UnknownGuest(host, server) => {
            let these = " AND l.host = ? AND l.instance_uuid = ?";
            found = left_on_hosts(tx, these, &[host.into(), (*server).into()])?;
        }
        Finding::WrongUse(provider, class, ..) => {
            let these = "n.provider = ? AND n.resource_class = ?";
            found = wrong_uses(tx, these, &[provider.into(), class.into()])?;
        }
        Finding::WrongQuota(project, user, ..) => {
            return wrong_quota(tx, project.clone(), user.clone());
        }
    }
    Ok(found.pop())
}

const STUCK: &str = "SELECT i.uuid, i.task_state, i.generation, i.vm_state, i.deleted FROM instances i \
     LEFT JOIN tasks t ON t.instance_uuid = i.uuid WHERE t.id IS NULL AND (i.task_state IS NOT NULL OR i.task_id IS NOT NULL)";
const NUMBERS: &str = "i.id > ? AND i.id <= ?";
const LAST_SERVER: &str = "SELECT id FROM instances WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?";
const TASKS_WITHOUT_SERVER: &str = "SELECT t.id, t.instance_uuid FROM tasks t LEFT JOIN instances i ON i.uuid = t.instance_uuid WHERE i.uuid IS NULL";
const TASKS_THAT_WAIT: &str = "SELECT id, instance_uuid, waits FROM tasks WHERE waits IS NOT NULL";
const WORK_WITHOUT_TASK: &str =
    "SELECT DISTINCT w.task_id, w.host FROM host_work w LEFT JOIN tasks t ON t.id = w.task_id";
// CROSS JOIN has SQLite begin at the claims.
const HELD_BY_DELETED: &str = "SELECT DISTINCT a.consumer FROM allocations a CROSS JOIN instances i \
     WHERE i.uuid = a.consumer AND i.deleted <> 0";
// A server that moves holds what it needs there under its own name, and what it leaves under its migration's.
const HELD_ELSEWHERE: &str = "SELECT DISTINCT a.consumer, a.provider, n.host FROM allocations a CROSS JOIN instances i \
     CROSS JOIN compute_nodes n WHERE i.uuid = a.consumer AND n.uuid = a.provider \
     AND i.deleted = 0 AND i.task_id IS NULL AND (i.host IS NULL OR i.host <> n.host)";
// One that has not arrived, and that nobody works on, was abandoned: its server is in ERROR. The others have been reset.
const UNSETTLED: &str = "SELECT i.uuid, m.uuid, m.status, i.kept FROM migrations m CROSS JOIN instances i \
     WHERE m.status IN ('finished', 'error', 'confirming') AND m.migration_type IN ('resize', 'migration') AND i.uuid = m.instance_uuid \
     AND i.deleted = 0 AND i.task_id IS NULL \
     AND (i.vm_state = 'error' OR (m.status IN ('finished', 'confirming') AND i.vm_state IN ('active', 'stopped')))";
// It is the migration of a server that is between two hosts, or still on its way to that.
const HELD_BY_MIGRATION: &str = "SELECT DISTINCT m.uuid, m.instance_uuid, i.deleted, i.kept FROM allocations a CROSS JOIN migrations m \
     LEFT JOIN instances i ON i.uuid = m.instance_uuid LEFT JOIN tasks t ON t.instance_uuid = m.instance_uuid \
     WHERE m.uuid = a.consumer AND t.id IS NULL";
const LAST_CLAIM: &str =
    "SELECT consumer FROM allocations WHERE consumer > ? ORDER BY consumer LIMIT 1 OFFSET ?";
const LEFT_ON_HOSTS: &str = "SELECT l.host, l.instance_uuid, i.uuid, i.deleted, i.kept FROM host_leftovers l LEFT JOIN instances i ON i.uuid = l.instance_uuid \
     LEFT JOIN host_debts d ON d.host = l.host AND d.instance_uuid = l.instance_uuid \
     WHERE d.id IS NULL AND (i.uuid IS NULL OR i.deleted <> 0 OR (i.task_id IS NULL AND (i.host IS NULL OR i.host <> l.host)))";
const LAST_PROVIDER: &str =
    "SELECT provider FROM inventories WHERE provider > ? ORDER BY provider LIMIT 1 OFFSET ?";
/// Rows of inventories of one part.
const PROVIDERS: i64 = 100;
/// Comes after every UUID, however text is ordered.
const AFTER_ALL: &str = "zz";

/// The last key of a part; `None`: the part goes to the end.
fn bound(tx: &mut Tx<'_>, sql: &str, after: &str, part: i64) -> Result<Option<String>, Error> {
    let row = tx.query_opt(sql, &[after.into(), (part - 1).into()])?;
    row.map(|row| row.get(0)).transpose()
}

fn collect(
    tx: &mut Tx<'_>,
    sql: &str,
    params: &[Value],
    found: &mut Vec<Finding>,
    one: impl Fn(&Row) -> Result<Option<Finding>, Error>,
) -> Result<(), Error> {
    for row in tx.query(sql, params)? {
        found.extend(one(&row)?);
    }
    Ok(())
}

fn stuck(row: &Row) -> Result<Option<Finding>, Error> {
    if row.get::<i64>(4)? != 0 {
        return Ok(None);
    }
    Ok(Some(Finding::Stuck {
        server: row.get(0)?,
        task_state: row.get::<Option<String>>(1)?.unwrap_or_default(),
        generation: row.get(2)?,
        building: row.get::<String>(3)? == VmState::Building.as_str(),
    }))
}

/// The record of its last move only: those before have been settled.
fn unsettled(row: &Row) -> Result<Option<Finding>, Error> {
    let (server, migration) = (row.get(0)?, row.get(1)?);
    let status: String = row.get(2)?;
    let kept: Option<String> = row.get(3)?;
    let kept: Option<Kept> = kept.as_deref().map(document).transpose()?;
    let moving = kept.and_then(|kept| kept.unsettled);
    if moving.is_none_or(|moving| moving.migration != migration) {
        return Ok(None);
    }
    Ok(Some(Finding::Unsettled {
        server,
        migration,
        arrived: status != Status::Error.as_str(),
    }))
}

fn task_alone(row: &Row) -> Result<Option<Finding>, Error> {
    Ok(Some(Finding::TaskWithoutServer(row.get(0)?, row.get(1)?)))
}

fn unreadable(row: &Row) -> Result<Option<Finding>, Error> {
    // Another release may have written more into it, and less.
    let waits: Option<Waits> = document(&row.get::<String>(2)?).ok();
    let Some(waits) = waits.filter(|waits| waits.unreadable) else {
        return Ok(None);
    };
    Ok(Some(Finding::Unreadable {
        task: row.get(0)?,
        server: row.get(1)?,
        reason: waits.reason,
    }))
}

fn work_alone(row: &Row) -> Result<Option<Finding>, Error> {
    Ok(Some(Finding::WorkWithoutTask(row.get(0)?, row.get(1)?)))
}

fn held_by_deleted(row: &Row) -> Result<Option<Finding>, Error> {
    Ok(Some(Finding::HeldByDeleted(row.get(0)?)))
}

fn held_elsewhere(row: &Row) -> Result<Option<Finding>, Error> {
    Ok(Some(Finding::HeldElsewhere {
        server: row.get(0)?,
        provider: row.get(1)?,
        host: row.get(2)?,
    }))
}

fn held_by_migration(row: &Row) -> Result<Option<Finding>, Error> {
    let (migration, server): (MigrationId, _) = (row.get(0)?, row.get(1)?);
    let there = row.get::<Option<bool>>(2)? == Some(false);
    let kept = row.get::<Option<String>>(3)?.filter(|_| there);
    let kept: Option<Kept> = kept.as_deref().map(document).transpose()?;
    let moving = kept.and_then(|kept| kept.unsettled);
    let its = moving.is_some_and(|moving| moving.migration == migration);
    Ok((!its).then_some(Finding::HeldByMigration(migration, server)))
}

/// What a host had when it was noted may be what a server that moves since then comes back from.
fn left_on_hosts(tx: &mut Tx<'_>, these: &str, params: &[Value]) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    for row in tx.query(&format!("{LEFT_ON_HOSTS}{these}"), params)? {
        let (host, server) = (row.get(0)?, row.get(1)?);
        if row.get::<Option<String>>(2)?.is_none() {
            found.push(Finding::UnknownGuest(host, server));
            continue;
        }
        let deleted = row.get::<Option<bool>>(3)? == Some(true);
        let kept = row.get::<Option<String>>(4)?;
        let kept: Option<Kept> = kept.as_deref().map(document).transpose()?;
        let moves = kept.is_some_and(|kept| kept.unsettled.is_some());
        if deleted || !moves {
            found.push(Finding::LeftOnHost(host, server));
        }
    }
    Ok(found)
}

fn wrong_uses(tx: &mut Tx<'_>, these: &str, params: &[Value]) -> Result<Vec<Finding>, Error> {
    let sql = format!(
        "SELECT n.provider, n.resource_class, n.used, COALESCE(SUM(a.amount), 0) FROM inventories n LEFT JOIN allocations a \
         ON a.provider = n.provider AND a.resource_class = n.resource_class WHERE {these} \
         GROUP BY n.provider, n.resource_class, n.used"
    );
    let mut found = Vec::new();
    for row in tx.query(&sql, params)? {
        let (noted, given): (i64, i64) = (row.get(2)?, row.get(3)?);
        if noted != given {
            found.push(Finding::WrongUse(row.get(0)?, row.get(1)?, noted, given));
        }
    }
    Ok(found)
}

/// Counts a user's servers and holds the counters against that.
fn wrong_quota(
    tx: &mut Tx<'_>,
    project: ProjectId,
    user: UserId,
) -> Result<Option<Finding>, Error> {
    let whose = [(&project).into(), (&user).into()];
    let noted = tx.query_opt(
        "SELECT instances, cores, ram_mb FROM server_usages WHERE project_id = ? AND user_id = ?",
        &whose,
    )?;
    let noted = noted.map(|row| held_of(&row, 0)).transpose()?;
    let noted = noted.unwrap_or_default();
    let there = tx.query_one(
        "SELECT COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(memory_mb), 0) FROM instances \
         WHERE project_id = ? AND user_id = ? AND deleted = 0 AND vm_state <> 'soft-delete'",
        &whose,
    )?;
    let there = held_of(&there, 0)?;
    Ok((noted != there).then_some(Finding::WrongQuota(project, user, noted, there)))
}

fn held_of(row: &Row, first: usize) -> Result<usages::Held, Error> {
    Ok(usages::Held {
        instances: row.get(first)?,
        cores: row.get(first + 1)?,
        ram_mb: row.get(first + 2)?,
    })
}
