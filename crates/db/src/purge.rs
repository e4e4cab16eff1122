//! Removing for good what is recorded of servers that were deleted long ago: the rows themselves, and all that hangs on them.
//! Nothing does so by itself.
//!
//! It goes on in batches, each a transaction of its own. They begin with those that were deleted first and are found by an
//! index, so that a batch costs the same however many servers there are.

use sql::{Error, Tx, Value, placeholders};
use std::collections::BTreeMap;
use types::{ServerId, Timestamp};

/// Servers that are looked at in one batch at most.
const SERVERS: i64 = 100;

/// Rows by their tables.
pub type Rows = BTreeMap<&'static str, u64>;

/// A way through the servers that were deleted before a time, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    before: Timestamp,
    /// Those that were deleted earlier have been looked at.
    from: Timestamp,
    /// So many of those that were deleted at `from` have been looked at, and are still there.
    passed: i64,
    /// Actions, or moves, that go in one transaction.
    most: i64,
}

/// What one batch has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The rows that were removed, or, for [`Purge::count`], that would be.
    pub rows: Rows,
    /// Servers that are done with.
    pub servers: u64,
    /// Servers that stay, because something of them is still to be done: a host has yet to remove its guest, something is
    /// held for them, or a task of theirs has not ended.
    pub kept: u64,
}

impl Batch {
    fn note(&mut self, table: &'static str, count: u64) {
        if count > 0 {
            *self.rows.entry(table).or_default() += count;
        }
    }
}

/// A server that was deleted.
struct Deleted {
    id: ServerId,
    at: Timestamp,
    needed: bool,
}

/// The servers that were deleted from one time on and before another, in the order of the index. What says that one is
/// needed is found by the server's id.
const DELETED: &str = "SELECT i.uuid, i.terminated_at, CASE WHEN \
     EXISTS (SELECT 1 FROM tasks t WHERE t.instance_uuid = i.uuid) \
     OR EXISTS (SELECT 1 FROM host_debts d WHERE d.instance_uuid = i.uuid) \
     OR EXISTS (SELECT 1 FROM host_leftovers l WHERE l.instance_uuid = i.uuid) \
     OR EXISTS (SELECT 1 FROM allocations a WHERE a.consumer = i.uuid) \
     OR EXISTS (SELECT 1 FROM migrations m JOIN allocations a ON a.consumer = m.uuid WHERE m.instance_uuid = i.uuid) \
     THEN 1 ELSE 0 END FROM instances i WHERE i.terminated_at >= ? AND i.terminated_at < ? AND i.deleted <> 0 \
     ORDER BY i.terminated_at, i.project_id, i.id LIMIT ? OFFSET ?";

/// What hangs on a server and is little: the deletion has removed most of it already.
const FEW: &[&str] = &[
    "instance_tags",
    "server_group_members",
    "block_device_mappings",
    "guest_passwords",
    "injected_files",
];

impl Purge {
    /// Begins with the first server that was ever deleted. A transaction removes `most` actions, with their events, and as
    /// many moves at most.
    pub fn new(before: Timestamp, most: u32) -> Self {
        Self {
            before,
            from: Timestamp(i64::MIN),
            passed: 0,
            most: i64::from(most.max(1)),
        }
    }

    /// How many servers were deleted before that time.
    pub fn servers(&self, tx: &mut Tx<'_>) -> Result<u64, Error> {
        let sql = "SELECT COUNT(*) FROM instances WHERE terminated_at < ?";
        let count: i64 = tx.query_one(sql, &[self.before.into()])?.get(0)?;
        Ok(count.unsigned_abs())
    }

    /// Removes the next ones, and says how to go on; `None`: those were all.
    pub fn remove(mut self, tx: &mut Tx<'_>) -> Result<(Batch, Option<Self>), Error> {
        let found = self.next(tx)?;
        let mut batch = Batch::default();
        // One server may have more actions than a transaction should remove.
        if !self.remove_all_of(tx, &going(&found), &mut batch)? {
            return Ok((batch, Some(self)));
        }
        batch.kept = (found.len() as u64) - batch.servers;
        let more = self.pass(&found, |one| one.needed);
        Ok((batch, more.then_some(self)))
    }

    /// Counts the next ones, and says how to go on; `None`: those were all.
    pub fn count(mut self, tx: &mut Tx<'_>) -> Result<(Batch, Option<Self>), Error> {
        let found = self.next(tx)?;
        let going = going(&found);
        let batch = Batch {
            rows: count_all_of(tx, &going)?,
            servers: going.len() as u64,
            kept: (found.len() - going.len()) as u64,
        };
        let more = self.pass(&found, |_| true);
        Ok((batch, more.then_some(self)))
    }

    fn next(&self, tx: &mut Tx<'_>) -> Result<Vec<Deleted>, Error> {
        let params = [
            self.from.into(),
            self.before.into(),
            SERVERS.into(),
            self.passed.into(),
        ];
        let rows = tx.query(DELETED, &params)?;
        rows.iter()
            .map(|row| {
                Ok(Deleted {
                    id: row.get(0)?,
                    at: row.get(1)?,
                    needed: row.get::<i64>(2)? != 0,
                })
            })
            .collect()
    }

    /// Goes on behind these, of which some are still there. `false`: there are no more.
    fn pass(&mut self, found: &[Deleted], stays: impl Fn(&Deleted) -> bool) -> bool {
        let Some(last) = found.last().map(|one| one.at) else {
            return false;
        };
        if last != self.from {
            (self.from, self.passed) = (last, 0);
        }
        let still = found.iter().filter(|one| one.at == last && stays(one));
        self.passed += still.count() as i64;
        found.len() as i64 == SERVERS
    }

    /// Removes these servers, or as much of what was done with them as one transaction may. `false`: there is more of that.
    pub(crate) fn remove_all_of(
        &self,
        tx: &mut Tx<'_>,
        servers: &[ServerId],
        batch: &mut Batch,
    ) -> Result<bool, Error> {
        let actions = self.some(tx, "instance_actions", servers)?;
        let count = remove_of(tx, "instance_action_events", "action_id", &actions)?;
        batch.note("instance_action_events", count);
        let count = remove_of(tx, "instance_actions", "id", &actions)?;
        batch.note("instance_actions", count);
        let moves = self.some(tx, "migrations", servers)?;
        let count = remove_of(tx, "migrations", "id", &moves)?;
        batch.note("migrations", count);
        if actions.len().max(moves.len()) >= self.most as usize {
            return Ok(false);
        }
        for table in FEW {
            let count = remove_of(tx, table, "instance_uuid", servers)?;
            batch.note(table, count);
        }
        batch.servers = remove_of(tx, "instances", "uuid", servers)?;
        batch.note("instances", batch.servers);
        Ok(true)
    }

    /// The ids of rows of these servers, as many as one transaction may remove.
    fn some(&self, tx: &mut Tx<'_>, table: &str, servers: &[ServerId]) -> Result<Vec<i64>, Error> {
        if servers.is_empty() {
            return Ok(Vec::new());
        }
        let marks = placeholders(servers.len());
        let sql = format!("SELECT id FROM {table} WHERE instance_uuid IN ({marks}) LIMIT ?");
        let mut params: Vec<Value> = servers.iter().map(|&id| id.into()).collect();
        params.push(self.most.into());
        let rows = tx.query(&sql, &params)?;
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Those that nobody needs any more.
fn going(found: &[Deleted]) -> Vec<ServerId> {
    let free = found.iter().filter(|one| !one.needed);
    free.map(|one| one.id).collect()
}

/// The rows that go with these servers.
pub(crate) fn count_all_of(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Rows, Error> {
    if servers.is_empty() {
        return Ok(Rows::new());
    }
    let marks = placeholders(servers.len());
    let params: Vec<Value> = servers.iter().map(|&id| id.into()).collect();
    let mut rows = Rows::from([("instances", servers.len() as u64)]);
    let mut count = |table, from: &str| -> Result<(), Error> {
        let sql = format!("SELECT COUNT(*) FROM {from} IN ({marks})");
        let count: i64 = tx.query_one(&sql, &params)?.get(0)?;
        if count > 0 {
            rows.insert(table, count.unsigned_abs());
        }
        Ok(())
    };
    for table in FEW.iter().chain(&["instance_actions", "migrations"]) {
        count(table, &format!("{table} WHERE instance_uuid"))?;
    }
    let events = "instance_actions a JOIN instance_action_events e ON e.action_id = a.id WHERE a.instance_uuid";
    count("instance_action_events", events)?;
    Ok(rows)
}

/// Keys of one statement: far fewer than any database takes.
const KEYS: usize = 500;

/// Removes the rows in which a column has one of these values; says how many they were.
pub(crate) fn remove_of<T: Copy + Into<Value>>(
    tx: &mut Tx<'_>,
    table: &str,
    column: &str,
    keys: &[T],
) -> Result<u64, Error> {
    let mut count = 0;
    for some in keys.chunks(KEYS) {
        let marks = placeholders(some.len());
        let params: Vec<Value> = some.iter().map(|&key| key.into()).collect();
        let sql = format!("DELETE FROM {table} WHERE {column} IN ({marks})");
        count += tx.execute(&sql, &params)?;
    }
    Ok(count)
}
