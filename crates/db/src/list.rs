//! Lists of servers: filters, order and pages in one query.

use crate::instances::{BRIEF, COLUMNS, Instance, Known, from_row_knowing};
use sql::{Dialect, Error, Tx, Value};
use types::ServerId;

/// One condition; all of a list's conditions must hold.
#[derive(Clone, Debug)]
pub enum Condition {
    /// The column has this value.
    Is(Column, Value),
    /// The column has one of these values; none of them matches nothing.
    OneOf(Column, Vec<Value>),
    /// The column is NULL.
    Missing(Column),
    /// At least this (times: inclusive).
    AtLeast(Column, Value),
    /// At most this.
    AtMost(Column, Value),
    /// Less than this; NULL is not.
    Below(Column, Value),
    /// NULL, or more than this.
    MissingOrAbove(Column, Value),
    /// The (vm_state, task states) pairs a status stands for.
    States(Vec<(Value, Vec<Value>)>),
    /// Has all of these tags.
    AllTags(Vec<String>),
    /// Has at least one of these tags.
    AnyTag(Vec<String>),
    /// Has not all of these tags.
    NotAllTags(Vec<String>),
    /// Has none of these tags.
    NoTag(Vec<String>),
    /// Gone (soft-deleted ones included), or neither.
    Deleted(bool),
    /// Gone for good, or not: soft-deleted ones are not.
    Removed(bool),
    /// Can be restored.
    SoftDeleted,
}

/// Columns a list can be filtered and sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The number of the row: the order in which servers came.
    Number,
    /// The id.
    Uuid,
    /// The project.
    ProjectId,
    /// The user who made it.
    UserId,
    /// The name.
    DisplayName,
    /// The description.
    Description,
    /// The name by which the guest knows itself.
    Hostname,
    /// `vm_state`.
    VmState,
    /// `task_state`.
    TaskState,
    /// `power_state`.
    PowerState,
    /// The host.
    Host,
    /// The hypervisor.
    Node,
    /// The availability zone.
    AvailabilityZone,
    /// The host on which it was first.
    LaunchedOn,
    /// The flavor.
    FlavorId,
    /// The image.
    ImageId,
    /// The image of the kernel that it is booted with.
    KernelId,
    /// The image of its RAM disk.
    RamdiskId,
    /// The key pair.
    KeyName,
    /// Whether it has a config drive.
    ConfigDrive,
    /// Whether its disk is parted by the cloud: 1 or 0.
    AutoDiskConfig,
    /// The address for users, IPv4.
    AccessIpV4,
    /// The address for users, IPv6.
    AccessIpV6,
    /// Whether it is locked.
    Locked,
    /// Who has locked it: `admin` or `owner`.
    LockedBy,
    /// The request with which it was made.
    ReservationId,
    /// Its place among those that were made by one request.
    LaunchIndex,
    /// The device of the root disk.
    RootDeviceName,
    /// How far its action is, in percent.
    Progress,
    /// When it was asked for.
    CreatedAt,
    /// When it was last changed.
    UpdatedAt,
    /// When it first ran.
    LaunchedAt,
    /// When it was removed.
    TerminatedAt,
    /// The memory of its flavor.
    MemoryMb,
    /// The CPUs of its flavor.
    Vcpus,
    /// The later of created and updated: what `changes-since` looks at.
    ChangedAt,
}

impl Column {
    fn sql(self, dialect: Dialect) -> &'static str {
        match self {
            Self::Number => "id",
            Self::Uuid => "uuid",
            Self::ProjectId => "project_id",
            Self::UserId => "user_id",
            Self::DisplayName => "display_name",
            Self::Description => "display_description",
            Self::Hostname => "hostname",
            Self::VmState => "vm_state",
            Self::TaskState => "task_state",
            Self::PowerState => "power_state",
            Self::Host => "host",
            Self::Node => "node",
            Self::AvailabilityZone => "availability_zone",
            Self::LaunchedOn => "launched_on",
            Self::FlavorId => "flavor_id",
            Self::ImageId => "image_id",
            Self::KernelId => match dialect {
                Dialect::Sqlite => "json_extract(kept, '$.kernel.id')",
                Dialect::Postgres => "CAST(kept AS json) -> 'kernel' ->> 'id'",
                Dialect::Mysql => "JSON_UNQUOTE(JSON_EXTRACT(kept, '$.kernel.id'))",
            },
            Self::RamdiskId => match dialect {
                Dialect::Sqlite => "json_extract(kept, '$.ramdisk.id')",
                Dialect::Postgres => "CAST(kept AS json) -> 'ramdisk' ->> 'id'",
                Dialect::Mysql => "JSON_UNQUOTE(JSON_EXTRACT(kept, '$.ramdisk.id'))",
            },
            Self::KeyName => "key_name",
            Self::ConfigDrive => "config_drive",
            // It is in the document only where it is so, and no text in there can hold a bare quote.
            Self::AutoDiskConfig => {
                "CASE WHEN kept LIKE '%\"auto_disk_config\":true%' THEN 1 ELSE 0 END"
            }
            Self::AccessIpV4 => "access_ip_v4",
            Self::AccessIpV6 => "access_ip_v6",
            Self::Locked => "locked",
            Self::LockedBy => "locked_by",
            Self::ReservationId => "reservation_id",
            Self::LaunchIndex => "launch_index",
            Self::RootDeviceName => "root_device_name",
            Self::Progress => "progress",
            Self::CreatedAt => "created_at",
            Self::UpdatedAt => "updated_at",
            Self::LaunchedAt => "launched_at",
            Self::TerminatedAt => "terminated_at",
            Self::MemoryMb => "memory_mb",
            Self::Vcpus => "vcpus",
            Self::ChangedAt => "COALESCE(updated_at, created_at)",
        }
    }
}

/// A page of servers.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Order; `true` is descending. The row number is the last key where nothing before it tells all servers apart.
    pub order: Vec<(Column, bool)>,
    /// Continue after this server.
    pub after: Option<ServerId>,
    /// Rows at most; none means all.
    pub limit: Option<u64>,
    /// Only ids and names are wanted: documents and long texts are left out.
    pub brief: bool,
}

/// The servers of a page, or `None` when the marker does not exist.
pub fn page(tx: &mut Tx<'_>, query: &Query) -> Result<Option<Vec<Instance>>, Error> {
    let dialect = tx.dialect();
    let mut clauses = Vec::new();
    let mut params: Vec<Value> = Vec::new();
    let among = changed_few(tx, query, &mut params)?;
    if !among.is_empty() {
        clauses.push("id = changed_id".to_owned());
    }
    for condition in &query.conditions {
        clauses.push(clause(dialect, condition, &mut params));
    }
    let mut order = query.order.clone();
    let is_unique = |column| matches!(column, Column::Number | Column::Uuid);
    if !order.iter().any(|(column, _)| is_unique(*column)) {
        let descending = order.first().is_none_or(|(_, descending)| *descending);
        order.push((Column::Number, descending));
    }
    if let Some(marker) = query.after {
        let columns: Vec<&str> = order
            .iter()
            .map(|(column, _)| column.sql(dialect))
            .collect();
        let sql = format!(
            "SELECT {} FROM instances WHERE uuid = ?",
            columns.join(", ")
        );
        let Some(row) = tx.query_opt(&sql, &[marker.into()])? else {
            return Ok(None);
        };
        if let Some(&(first, descending)) = order.first().filter(|(first, _)| !nullable(*first)) {
            // The same once more, so that an index in this order is entered at the marker.
            let marker: AnyValue = row.get(0)?;
            let operator = if descending { "<=" } else { ">=" };
            let column = first.sql(dialect);
            clauses.push(compare(column, operator, &marker.0, &mut params));
        }
        clauses.push(after(dialect, &order, &row, &mut params)?);
    }
    let columns = if query.brief { &*BRIEF } else { COLUMNS };
    let mut sql = format!("SELECT {columns} FROM {among}instances");
    if !clauses.is_empty() {
        sql.push_str(" WHERE ");
        sql.push_str(&clauses.join(" AND "));
    }
    sql.push_str(" ORDER BY ");
    let keys: Vec<String> = order
        .iter()
        .map(|&(column, descending)| order_key(dialect, column, descending))
        .collect();
    sql.push_str(&keys.join(", "));
    if let Some(limit) = query.limit {
        sql.push_str(" LIMIT ?");
        params.push(limit.into());
    }
    let mut found = Vec::new();
    let mut known = Known::default();
    tx.each(&sql, &params, |row| {
        found.push(from_row_knowing(row, &mut known)?);
        Ok(())
    })?;
    Ok(Some(found))
}

/// Servers that have changed since a time are looked up and sorted up to this number; of more, the page is looked for in its
/// order, where it is soon full.
const FEW: i64 = 2000;

/// Where only what has changed since a time is wanted, and that is little: what to join with.
fn changed_few(
    tx: &mut Tx<'_>,
    query: &Query,
    params: &mut Vec<Value>,
) -> Result<&'static str, Error> {
    let since = query.conditions.iter().find_map(|one| match one {
        Condition::AtLeast(Column::ChangedAt, since) => Some(since),
        _ => None,
    });
    let project = query.conditions.iter().find_map(|one| match one {
        Condition::Is(Column::ProjectId, project) => Some(project),
        _ => None,
    });
    let Some(since) = since else {
        return Ok("");
    };
    let mut both: Vec<Value> = project.into_iter().chain([since]).cloned().collect();
    both.extend_from_within(..);
    let row = tx.query_one(
        if project.is_some() {
            COUNT_CHANGED_OF_PROJECT
        } else {
            COUNT_CHANGED
        },
        &both,
    )?;
    if row.get::<i64>(0)? >= FEW || row.get::<i64>(1)? >= FEW {
        return Ok("");
    }
    params.extend(both);
    Ok(if project.is_some() {
        CHANGED_OF_PROJECT
    } else {
        CHANGED
    })
}

// The later of both times is that late when one of them is: so that indexes can find it.
const COUNT_CHANGED: &str = "SELECT (SELECT COUNT(*) FROM (SELECT id FROM instances WHERE updated_at >= ? LIMIT 2000) u), \
     (SELECT COUNT(*) FROM (SELECT id FROM instances WHERE created_at >= ? LIMIT 2000) c)";
const COUNT_CHANGED_OF_PROJECT: &str = "SELECT \
     (SELECT COUNT(*) FROM (SELECT id FROM instances WHERE project_id = ? AND updated_at >= ? LIMIT 2000) u), \
     (SELECT COUNT(*) FROM (SELECT id FROM instances WHERE project_id = ? AND created_at >= ? LIMIT 2000) c)";
// Something is added to the number lest SQLite goes through all servers to have it in order. What comes first in a CROSS
// JOIN it reads first.
const CHANGED: &str = "(SELECT id + 0 AS changed_id FROM instances WHERE updated_at >= ? \
     UNION SELECT id + 0 FROM instances WHERE created_at >= ?) recent CROSS JOIN ";
const CHANGED_OF_PROJECT: &str = "(SELECT id + 0 AS changed_id FROM instances WHERE project_id = ? AND updated_at >= ? \
     UNION SELECT id + 0 FROM instances WHERE project_id = ? AND created_at >= ?) recent CROSS JOIN ";

/// NULLs come first in ascending order on every database.
fn order_key(dialect: Dialect, column: Column, descending: bool) -> String {
    let name = column.sql(dialect);
    let direction = if descending { "DESC" } else { "ASC" };
    if nullable(column) {
        let nulls = if descending { "ASC" } else { "DESC" };
        return format!("CASE WHEN {name} IS NULL THEN 1 ELSE 0 END {nulls}, {name} {direction}");
    }
    format!("{name} {direction}")
}

fn nullable(column: Column) -> bool {
    !matches!(
        column,
        Column::Number
            | Column::Uuid
            | Column::ProjectId
            | Column::UserId
            | Column::DisplayName
            | Column::VmState
            | Column::PowerState
            | Column::CreatedAt
            | Column::LaunchIndex
            | Column::Locked
            | Column::FlavorId
            | Column::MemoryMb
            | Column::Vcpus
            | Column::Progress
            | Column::ReservationId
            | Column::ConfigDrive
            | Column::AutoDiskConfig
            | Column::Hostname
            | Column::ChangedAt
    )
}

fn clause(dialect: Dialect, condition: &Condition, params: &mut Vec<Value>) -> String {
    let sql = |column: &Column| column.sql(dialect);
    match condition {
        Condition::Is(column, value) => compare(sql(column), "=", value, params),
        Condition::AtLeast(column, value) => compare(sql(column), ">=", value, params),
        Condition::AtMost(column, value) => compare(sql(column), "<=", value, params),
        Condition::Below(column, value) => compare(sql(column), "<", value, params),
        Condition::MissingOrAbove(column, value) => {
            let above = compare(sql(column), ">", value, params);
            format!("({} IS NULL OR {above})", sql(column))
        }
        Condition::Missing(column) => format!("{} IS NULL", sql(column)),
        Condition::OneOf(_, values) if values.is_empty() => "1 = 0".to_owned(),
        Condition::OneOf(column, values) => {
            params.extend(values.iter().cloned());
            format!("{} IN ({})", sql(column), sql::placeholders(values.len()))
        }
        Condition::States(pairs) => states(pairs, params),
        Condition::AllTags(tags) => tagged(tags, "=", params),
        Condition::NotAllTags(tags) => tagged(tags, "<", params),
        Condition::AnyTag(tags) => tag_exists("EXISTS", tags, params),
        Condition::NoTag(tags) => tag_exists("NOT EXISTS", tags, params),
        Condition::Deleted(true) => "(deleted <> 0 OR vm_state = 'soft-delete')".to_owned(),
        Condition::Removed(true) => "deleted <> 0".to_owned(),
        Condition::Removed(false) => "deleted = 0".to_owned(),
        Condition::SoftDeleted => "deleted = 0 AND vm_state = 'soft-delete'".to_owned(),
        Condition::Deleted(false) => "deleted = 0 AND vm_state <> 'soft-delete'".to_owned(),
    }
}

fn compare(column: &str, operator: &str, value: &Value, params: &mut Vec<Value>) -> String {
    params.push(value.clone());
    format!("{column} {operator} ?")
}

fn states(pairs: &[(Value, Vec<Value>)], params: &mut Vec<Value>) -> String {
    let mut alternatives = Vec::new();
    for (vm_state, tasks) in pairs {
        params.push(vm_state.clone());
        let named: Vec<Value> = tasks
            .iter()
            .filter(|task| **task != Value::Null)
            .cloned()
            .collect();
        let mut of_task = Vec::new();
        if named.len() < tasks.len() {
            of_task.push("task_state IS NULL".to_owned());
        }
        if !named.is_empty() {
            of_task.push(format!(
                "task_state IN ({})",
                sql::placeholders(named.len())
            ));
            params.extend(named);
        }
        alternatives.push(format!("(vm_state = ? AND ({}))", of_task.join(" OR ")));
    }
    if alternatives.is_empty() {
        "1 = 0".to_owned()
    } else {
        format!("({})", alternatives.join(" OR "))
    }
}

fn tagged(tags: &[String], operator: &str, params: &mut Vec<Value>) -> String {
    params.extend(tags.iter().map(Value::from));
    params.push(tags.len().into());
    format!(
        "(SELECT COUNT(*) FROM instance_tags WHERE instance_uuid = uuid AND tag IN ({})) {operator} ?",
        sql::placeholders(tags.len())
    )
}

fn tag_exists(word: &str, tags: &[String], params: &mut Vec<Value>) -> String {
    params.extend(tags.iter().map(Value::from));
    format!(
        "{word} (SELECT 1 FROM instance_tags WHERE instance_uuid = uuid AND tag IN ({}))",
        sql::placeholders(tags.len())
    )
}

/// The rows behind the marker's in this order: `a > x OR (a = x AND (b > y OR ...))`, with NULL below everything.
fn after(
    dialect: Dialect,
    order: &[(Column, bool)],
    marker: &sql::Row,
    params: &mut Vec<Value>,
) -> Result<String, Error> {
    let mut alternatives = Vec::new();
    for (last, &(column, descending)) in order.iter().enumerate() {
        let value: AnyValue = marker.get(last)?;
        let Some(beyond) = beyond(dialect, column, descending, &value.0) else {
            continue;
        };
        let mut parts = Vec::new();
        for (index, &(earlier, _)) in order[..last].iter().enumerate() {
            let value: AnyValue = marker.get(index)?;
            match value.0 {
                Value::Null => parts.push(format!("{} IS NULL", earlier.sql(dialect))),
                value => {
                    parts.push(format!("{} = ?", earlier.sql(dialect)));
                    params.push(value);
                }
            }
        }
        if beyond.contains('?') {
            params.push(value.0);
        }
        parts.push(beyond);
        alternatives.push(format!("({})", parts.join(" AND ")));
    }
    Ok(format!("({})", alternatives.join(" OR ")))
}

fn beyond(dialect: Dialect, column: Column, descending: bool, value: &Value) -> Option<String> {
    let name = column.sql(dialect);
    match (value, descending) {
        (Value::Null, true) => None,
        (Value::Null, false) => Some(format!("{name} IS NOT NULL")),
        (_, true) if nullable(column) => Some(format!("({name} < ? OR {name} IS NULL)")),
        (_, true) => Some(format!("{name} < ?")),
        (_, false) => Some(format!("{name} > ?")),
    }
}

struct AnyValue(Value);

impl sql::FromValue for AnyValue {
    fn from_value(value: &Value) -> Result<Self, Error> {
        Ok(Self(value.clone()))
    }
}

/// The tags of servers: `(server, tag)` in order.
pub fn tags(tx: &mut Tx<'_>, servers: &[ServerId]) -> Result<Vec<(ServerId, String)>, Error> {
    let mut found = Vec::new();
    for part in servers.chunks(500) {
        let params: Vec<Value> = part.iter().map(|&server| server.into()).collect();
        let sql = format!(
            "SELECT instance_uuid, tag FROM instance_tags WHERE instance_uuid IN ({}) ORDER BY instance_uuid, tag",
            sql::placeholders(params.len())
        );
        for row in tx.query(&sql, &params)? {
            found.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(found)
}
