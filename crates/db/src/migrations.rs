//! Migrations: the public record of moves (`os-migrations`). A resize, a cold or live migration and an evacuation are
//! one row each, written by the flow that moves the server.

use crate::{document, flavors};
use serde::{Deserialize, Serialize};
use sql::{Error, Row, Tx, Value};
use types::{FlavorId, HostName, MigrationId, ProjectId, ServerId, Timestamp, UserId};

/// Why a server moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// To another flavor, perhaps on the same host.
    Resize,
    /// To another host, switched off meanwhile.
    Migration,
    /// To another host while it runs.
    LiveMigration,
    /// Away from a host that is gone.
    Evacuation,
}

impl Kind {
    const ALL: &'static [Self] = &[
        Self::Resize,
        Self::Migration,
        Self::LiveMigration,
        Self::Evacuation,
    ];

    /// The text shown and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resize => "resize",
            Self::Migration => "migration",
            Self::LiveMigration => "live-migration",
            Self::Evacuation => "evacuation",
        }
    }
}

/// How far a move is. Which of them a move goes through depends on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It was asked for.
    Accepted,
    /// It waits for its turn on the host.
    Queued,
    /// The other host makes ready.
    Preparing,
    /// It is about to begin on both hosts.
    PreMigrating,
    /// The disk is on its way.
    Migrating,
    /// The other host takes over.
    PostMigrating,
    /// Live, and the memory is on its way.
    Running,
    /// Live, and on the other host before all of its memory.
    RunningPostCopy,
    /// The server is on the other host, and somebody must confirm that.
    Finished,
    /// What it was before is being removed.
    Confirming,
    /// What it was before is gone.
    Confirmed,
    /// It is going back.
    Reverting,
    /// It is where it was before.
    Reverted,
    /// It has ended, and nothing is left to do.
    Completed,
    /// It was called off.
    Cancelled,
    /// It has failed, and the server is where it was.
    Failed,
    /// It has failed, and the server needs help.
    Error,
    /// The server was evacuated.
    Done,
}

impl Status {
    const ALL: &'static [Self] = &[
        Self::Accepted,
        Self::Queued,
        Self::Preparing,
        Self::PreMigrating,
        Self::Migrating,
        Self::PostMigrating,
        Self::Running,
        Self::RunningPostCopy,
        Self::Finished,
        Self::Confirming,
        Self::Confirmed,
        Self::Reverting,
        Self::Reverted,
        Self::Completed,
        Self::Cancelled,
        Self::Failed,
        Self::Error,
        Self::Done,
    ];

    /// What is shown below `/servers/{id}/migrations` and gets links. Nova leaves one in post-copy out; here it stays to be
    /// seen, for it takes its time, can still fail, and says why it cannot be called off.
    pub const LIVE_IN_PROGRESS: &'static [Self] = &[
        Self::Queued,
        Self::Preparing,
        Self::Running,
        Self::RunningPostCopy,
        Self::PostMigrating,
    ];

    /// What is not over: one that waits for confirmation is not, either.
    pub const OPEN: &'static [Self] = &[
        Self::Accepted,
        Self::Queued,
        Self::Preparing,
        Self::PreMigrating,
        Self::Migrating,
        Self::PostMigrating,
        Self::Running,
        Self::RunningPostCopy,
        Self::Finished,
        Self::Confirming,
        Self::Reverting,
    ];

    /// The text shown and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::PreMigrating => "pre-migrating",
            Self::Migrating => "migrating",
            Self::PostMigrating => "post-migrating",
            Self::Running => "running",
            Self::RunningPostCopy => "running (post-copy)",
            Self::Finished => "finished",
            Self::Confirming => "confirming",
            Self::Confirmed => "confirmed",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::Done => "done",
        }
    }
}

/// A host and its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The host.
    pub compute: Option<HostName>,
    /// The node's name.
    pub node: Option<String>,
}

/// Bytes: all, done, left; unknown until the hypervisor says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// All of them.
    pub total: Option<u64>,
    /// Sent.
    pub processed: Option<u64>,
    /// Still to be sent.
    pub remaining: Option<u64>,
}

/// A move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The number, by which it is named below a server.
    pub number: i64,
    /// The id; also the consumer that holds the claim on the host it leaves.
    pub id: MigrationId,
    /// The server.
    pub server: ServerId,
    /// Why.
    pub kind: Kind,
    /// How far.
    pub status: Status,
    /// From where.
    pub source: End,
    /// To where; unknown until a host was chosen.
    pub dest: End,
    /// The address of the host it goes to.
    pub dest_address: Option<String>,
    /// The number of the flavor before.
    pub old_flavor: Option<i64>,
    /// The number of the flavor after.
    pub new_flavor: Option<i64>,
    /// The server's project.
    pub project_id: ProjectId,
    /// Who asked for the move.
    pub user_id: UserId,
    /// Memory sent.
    pub memory: Bytes,
    /// Disks sent.
    pub disk: Bytes,
    /// Accepted.
    pub created_at: Timestamp,
    /// Last changed.
    pub updated_at: Option<Timestamp>,
}

/// A move that begins.
#[derive(Clone, Debug)]
pub struct NewMigration<'a> {
    /// Its id.
    pub id: MigrationId,
    /// The server.
    pub server: ServerId,
    /// Why.
    pub kind: Kind,
    /// How far it is at once.
    pub status: Status,
    /// From where.
    pub source: End,
    /// To where, if that is known.
    pub dest: End,
    /// The flavor before.
    pub old_flavor: &'a FlavorId,
    /// The flavor after; the same unless it is a resize.
    pub new_flavor: &'a FlavorId,
    /// The server's project.
    pub project_id: &'a str,
    /// Who asks.
    pub user_id: &'a str,
}

const COLUMNS: &str = "id, uuid, instance_uuid, migration_type, status, source_compute, source_node, dest_compute, dest_node, \
    dest_host, old_flavor, new_flavor, project_id, user_id, memory_total, memory_processed, memory_remaining, disk_total, \
    disk_processed, disk_remaining, created_at, updated_at";

fn from_row(row: &Row) -> Result<Migration, Error> {
    let (kind, status): (String, String) = (row.get(3)?, row.get(4)?);
    let unknown =
        |text: &str| Error::Column(format!("'{text}' is no kind or status of a migration"));
    let bytes = |first: usize| -> Result<Bytes, Error> {
        Ok(Bytes {
            total: row.get(first)?,
            processed: row.get(first + 1)?,
            remaining: row.get(first + 2)?,
        })
    };
    let find_kind = Kind::ALL.iter().find(|one| one.as_str() == kind);
    let find_status = Status::ALL.iter().find(|one| one.as_str() == status);
    Ok(Migration {
        number: row.get(0)?,
        id: row.get(1)?,
        server: row.get(2)?,
        kind: *find_kind.ok_or_else(|| unknown(&kind))?,
        status: *find_status.ok_or_else(|| unknown(&status))?,
        source: End {
            compute: row.get(5)?,
            node: row.get(6)?,
        },
        dest: End {
            compute: row.get(7)?,
            node: row.get(8)?,
        },
        dest_address: row.get(9)?,
        old_flavor: row.get(10)?,
        new_flavor: row.get(11)?,
        project_id: row.get(12)?,
        user_id: row.get(13)?,
        memory: bytes(14)?,
        disk: bytes(17)?,
        created_at: row.get(20)?,
        updated_at: row.get(21)?,
    })
}

/// Stores a move that begins and returns its number. The address of a host that is known is looked up.
pub fn insert(tx: &mut Tx<'_>, new: &NewMigration<'_>, now: Timestamp) -> Result<i64, Error> {
    let number = |tx: &mut Tx<'_>, id: &FlavorId| -> Result<Option<i64>, Error> {
        Ok(flavors::get(tx, id)?.map(|record| record.row))
    };
    let (old, wanted) = (number(tx, new.old_flavor)?, number(tx, new.new_flavor)?);
    let address = match &new.dest.compute {
        Some(host) => address_of(tx, host)?,
        None => None,
    };
    let params: Vec<Value> = vec![
        new.id.into(),
        new.server.into(),
        new.kind.as_str().into(),
        new.status.as_str().into(),
        new.source.compute.clone().into(),
        new.source.node.clone().into(),
        new.dest.compute.clone().into(),
        new.dest.node.clone().into(),
        address.into(),
        old.into(),
        wanted.into(),
        new.project_id.into(),
        new.user_id.into(),
        now.into(),
    ];
    let sql = format!(
        "INSERT INTO migrations (uuid, instance_uuid, migration_type, status, source_compute, source_node, dest_compute, dest_node, \
         dest_host, old_flavor, new_flavor, project_id, user_id, created_at) VALUES ({})",
        sql::placeholders(params.len())
    );
    tx.insert_id(&sql, &params)
}

/// The address that a host reported.
fn address_of(tx: &mut Tx<'_>, host: &HostName) -> Result<Option<String>, Error> {
    let sql = "SELECT facts FROM compute_nodes WHERE host = ?";
    let Some(row) = tx.query_opt(sql, &[host.into()])? else {
        return Ok(None);
    };
    let facts: types::agent::HostFacts = document(&row.get::<String>(0)?)?;
    Ok(Some(facts.host_ip))
}

/// Writes how far a move is. `false`: there is no such move.
pub fn set_status(
    tx: &mut Tx<'_>,
    id: MigrationId,
    status: Status,
    now: Timestamp,
) -> Result<bool, Error> {
    let sql = "UPDATE migrations SET status = ?, updated_at = ? WHERE uuid = ?";
    Ok(tx.execute(sql, &[status.as_str().into(), now.into(), id.into()])? == 1)
}

/// A host that a server was evacuated from has removed what it had of it.
pub fn evacuated(
    tx: &mut Tx<'_>,
    server: ServerId,
    from: &HostName,
    now: Timestamp,
) -> Result<(), Error> {
    let sql = "UPDATE migrations SET status = 'completed', updated_at = ? \
        WHERE instance_uuid = ? AND source_compute = ? AND migration_type = 'evacuation' AND status = 'done'";
    tx.post(sql, &[now.into(), server.into(), from.into()])?;
    Ok(())
}

/// Whether a host may still have something of servers that were evacuated from it.
pub fn any_evacuated_from(tx: &mut Tx<'_>, host: &HostName) -> Result<bool, Error> {
    let sql = "SELECT id FROM migrations WHERE status = 'done' AND migration_type = 'evacuation' AND source_compute = ? LIMIT 1";
    Ok(tx.query_opt(sql, &[host.into()])?.is_some())
}

/// What was under way of a server that is deleted goes no further.
pub fn cancel_open(tx: &mut Tx<'_>, server: ServerId, now: Timestamp) -> Result<(), Error> {
    let sql = "UPDATE migrations SET status = 'cancelled', updated_at = ? WHERE instance_uuid = ? \
        AND status IN ('accepted', 'queued', 'preparing', 'running', 'post-migrating', 'pre-migrating')";
    tx.post(sql, &[now.into(), server.into()])?;
    Ok(())
}

/// Writes where a move goes, when a host was chosen; none takes that back.
pub fn set_dest(tx: &mut Tx<'_>, id: MigrationId, dest: &End, now: Timestamp) -> Result<(), Error> {
    let address = match &dest.compute {
        Some(host) => address_of(tx, host)?,
        None => None,
    };
    tx.post(
        "UPDATE migrations SET dest_compute = ?, dest_node = ?, dest_host = ?, updated_at = ? WHERE uuid = ?",
        &[
            dest.compute.clone().into(),
            dest.node.clone().into(),
            address.into(),
            now.into(),
            id.into(),
        ],
    )?;
    Ok(())
}

/// Writes what a live migration has sent.
pub fn set_progress(
    tx: &mut Tx<'_>,
    id: MigrationId,
    memory: Bytes,
    disk: Bytes,
    now: Timestamp,
) -> Result<(), Error> {
    let params: Vec<Value> = vec![
        memory.total.into(),
        memory.processed.into(),
        memory.remaining.into(),
        disk.total.into(),
        disk.processed.into(),
        disk.remaining.into(),
        now.into(),
        id.into(),
    ];
    tx.post(
        "UPDATE migrations SET memory_total = ?, memory_processed = ?, memory_remaining = ?, disk_total = ?, disk_processed = ?, \
         disk_remaining = ?, updated_at = ? WHERE uuid = ?",
        &params,
    )?;
    Ok(())
}

fn one(tx: &mut Tx<'_>, condition: &str, params: &[Value]) -> Result<Option<Migration>, Error> {
    let sql =
        format!("SELECT {COLUMNS} FROM migrations WHERE {condition} ORDER BY id DESC LIMIT 1");
    tx.query_opt(&sql, params)?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A move.
pub fn get(tx: &mut Tx<'_>, id: MigrationId) -> Result<Option<Migration>, Error> {
    one(tx, "uuid = ?", &[id.into()])
}

/// A move of a server by its number, as it is named below the server.
pub fn of_server_by_number(
    tx: &mut Tx<'_>,
    server: ServerId,
    number: i64,
) -> Result<Option<Migration>, Error> {
    let params = [server.into(), number.into()];
    one(tx, "instance_uuid = ? AND id = ?", &params)
}

/// The newest move of a server in this status.
pub fn of_server_in(
    tx: &mut Tx<'_>,
    server: ServerId,
    status: Status,
) -> Result<Option<Migration>, Error> {
    let params = [server.into(), status.as_str().into()];
    one(tx, "instance_uuid = ? AND status = ?", &params)
}

/// The live migrations of a server that are in progress, oldest first.
pub fn live_in_progress(tx: &mut Tx<'_>, server: ServerId) -> Result<Vec<Migration>, Error> {
    let mut params: Vec<Value> = vec![server.into(), Kind::LiveMigration.as_str().into()];
    let statuses = Status::LIVE_IN_PROGRESS;
    params.extend(statuses.iter().map(|status| Value::from(status.as_str())));
    let sql = format!(
        "SELECT {COLUMNS} FROM migrations WHERE instance_uuid = ? AND migration_type = ? AND status IN ({}) ORDER BY id",
        sql::placeholders(statuses.len())
    );
    tx.query(&sql, &params)?.iter().map(from_row).collect()
}

/// The move of a server that is under way, if there is one.
pub fn under_way(tx: &mut Tx<'_>, server: ServerId) -> Result<Option<Migration>, Error> {
    let under_way = "instance_uuid = ? AND status IN ('accepted', 'queued', 'preparing', 'pre-migrating', 'migrating', \
        'running', 'running (post-copy)', 'post-migrating')";
    one(tx, under_way, &[server.into()])
}

/// The moves from or to a host that are not over: neither ended, nor confirmed or taken back.
pub fn open_of_host(tx: &mut Tx<'_>, host: &HostName) -> Result<Vec<Migration>, Error> {
    // The open states are named, and not those that are over: by an index the few open moves are found among many.
    let sql = format!(
        "SELECT {COLUMNS} FROM migrations WHERE status IN ({}) AND (source_compute = ? OR dest_compute = ?) ORDER BY id",
        sql::placeholders(Status::OPEN.len())
    );
    let statuses = Status::OPEN.iter().map(|status| status.as_str().into());
    let params: Vec<Value> = statuses.chain([host.into(), host.into()]).collect();
    tx.query(&sql, &params)?.iter().map(from_row).collect()
}

/// Moves in this status that did not change since `before`, oldest first.
pub fn at_rest_since(
    tx: &mut Tx<'_>,
    status: Status,
    before: Timestamp,
) -> Result<Vec<Migration>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM migrations WHERE status = ? AND COALESCE(updated_at, created_at) <= ? ORDER BY id"
    );
    tx.query(&sql, &[status.as_str().into(), before.into()])?
        .iter()
        .map(from_row)
        .collect()
}

/// Which moves a list shows; all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Left or reached this host.
    pub host: Option<String>,
    /// Left this host.
    pub source: Option<String>,
    /// Of this server.
    pub server: Option<String>,
    /// In this status.
    pub status: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this project's servers.
    pub project_id: Option<String>,
    /// Asked for by this user.
    pub user_id: Option<String>,
    /// Changed at this time or later.
    pub changed_since: Option<Timestamp>,
    /// Changed at this time or earlier.
    pub changed_before: Option<Timestamp>,
}

/// The order and part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Continue after this move.
    pub after: Option<MigrationId>,
    /// Rows at most.
    pub limit: u64,
}

impl Filter {
    fn clauses(&self, params: &mut Vec<Value>) -> Vec<&'static str> {
        let mut clauses = Vec::new();
        if let Some(host) = &self.host {
            clauses.push("(source_compute = ? OR dest_compute = ?)");
            params.extend([host.into(), host.into()]);
        }
        let texts = [
            ("source_compute = ?", &self.source),
            ("instance_uuid = ?", &self.server),
            ("status = ?", &self.status),
            ("migration_type = ?", &self.kind),
            ("project_id = ?", &self.project_id),
            ("user_id = ?", &self.user_id),
        ];
        for (clause, value) in texts {
            if let Some(value) = value {
                clauses.push(clause);
                params.push(value.into());
            }
        }
        if let Some(since) = self.changed_since {
            // The later of both is that late when one of them is: so that an index can find it.
            clauses.push(
                "(COALESCE(updated_at, created_at) >= ? AND (updated_at >= ? OR created_at >= ?))",
            );
            params.extend([since.into(), since.into(), since.into()]);
        }
        if let Some(before) = self.changed_before {
            clauses.push("COALESCE(updated_at, created_at) <= ?");
            params.push(before.into());
        }
        clauses
    }
}

/// The moves that a filter lets through: a page with the newest first, or all of them with the oldest first. `None`: the
/// page's marker does not exist.
pub fn list(
    tx: &mut Tx<'_>,
    filter: &Filter,
    page: Option<Page>,
) -> Result<Option<Vec<Migration>>, Error> {
    let mut params: Vec<Value> = Vec::new();
    let mut clauses = filter.clauses(&mut params);
    if let Some(marker) = page.and_then(|page| page.after) {
        let Some(marker) = get(tx, marker)? else {
            return Ok(None);
        };
        clauses.push("(created_at < ? OR (created_at = ? AND id < ?))");
        let at = marker.created_at;
        params.extend([at.into(), at.into(), marker.number.into()]);
    }
    let mut sql = format!("SELECT {COLUMNS} FROM migrations");
    if !clauses.is_empty() {
        sql.push_str(" WHERE ");
        sql.push_str(&clauses.join(" AND "));
    }
    match page {
        Some(page) => {
            sql.push_str(" ORDER BY created_at DESC, id DESC LIMIT ?");
            params.push(page.limit.into());
        }
        None => sql.push_str(" ORDER BY id"),
    }
    let rows = tx.query(&sql, &params)?;
    rows.iter()
        .map(from_row)
        .collect::<Result<_, _>>()
        .map(Some)
}
