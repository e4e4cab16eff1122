//! Which servers a list shows: filters, order, pages (API reference, "List Servers").

use crate::call::Call;
use crate::faults::Fault;
use crate::mv;
use crate::queries::JOINED;
use crate::schemas::formats;
use crate::views::server::id_of;
use db::instances::Instance;
use db::list::{Column, Condition, Query};
use regex::Regex;
use sql::Value;
use std::collections::HashMap;
use types::{ServerId, TaskState, Timestamp, states};

const ALL_FILTERS: &str = "os_compute_api:servers:allow_all_filters";

/// A page of servers.
pub struct Page {
    /// The servers.
    pub servers: Vec<Instance>,
    /// The marker of the next page, if there is one.
    pub next: Option<String>,
}

/// A column without a value fits nothing.
fn fits(pattern: &Regex, text: Option<&str>) -> bool {
    text.is_some_and(|text| pattern.is_match(text))
}

/// What only code can check: regular expressions, which Nova has for every column but those that it compares as a whole
/// (`project_id`, `user_id`, `image`, `flavor`, `uuid`, `host`, `vm_state`, `task_state`, `locked`).
#[derive(Default)]
struct Patterns(Vec<(&'static str, Regex)>);

impl Patterns {
    fn fit(&self, server: &Instance) -> bool {
        self.0.iter().all(|(field, pattern)| match *field {
            "name" => pattern.is_match(&server.display_name),
            "hostname" => pattern.is_match(&server.hostname),
            "description" => fits(pattern, server.description.as_deref()),
            "key_name" => fits(pattern, server.key_name.as_deref()),
            "availability_zone" => fits(pattern, server.availability_zone.as_deref()),
            "node" => fits(pattern, server.node.as_deref()),
            "reservation_id" => pattern.is_match(&server.reservation_id),
            "root_device_name" => fits(pattern, server.root_device_name.as_deref()),
            "locked_by" => fits(pattern, server.locked_by.as_deref()),
            "kernel_id" => pattern.is_match(&id_of(server.kept.kernel.as_ref())),
            "ramdisk_id" => pattern.is_match(&id_of(server.kept.ramdisk.as_ref())),
            "access_ip_v4" => fits(pattern, server.access_ip_v4.as_deref()),
            "access_ip_v6" => fits(pattern, server.access_ip_v6.as_deref()),
            _ => {
                let version = if *field == "ip6" { 6 } else { 4 };
                let addresses = server
                    .network_info
                    .iter()
                    .flat_map(|interface| &interface.addresses);
                addresses
                    .filter(|address| address.version == version)
                    .any(|address| pattern.is_match(&address.ip))
            }
        })
    }
}

/// The filters everyone may use, and since when.
fn for_everyone(call: &Call, name: &str) -> bool {
    match name {
        "reservation_id" | "name" | "status" | "image" | "flavor" | "ip" | "changes-since"
        | "all_tenants" | "limit" | "marker" | "sort_key" | "sort_dir" => true,
        "ip6" => call.at_least(mv::IP6_FILTER),
        "tags" | "tags-any" | "not-tags" | "not-tags-any" => call.at_least(mv::TAGS),
        "changes-before" => call.at_least(mv::CHANGES_BEFORE),
        "locked" => call.at_least(mv::LOCKED_REASON),
        "availability_zone" | "config_drive" | "key_name" | "created_at" | "launched_at"
        | "terminated_at" | "power_state" | "task_state" | "vm_state" | "progress" | "user_id" => {
            call.at_least(mv::MORE_FILTERS)
        }
        "hostname" => call.at_least(mv::HOSTNAME),
        _ => false,
    }
}

/// A boolean of a query; an empty value is true.
fn boolean(name: &str, text: &str) -> Result<bool, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "" | "1" | "t" | "true" | "on" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Ok(false),
        _ => Err(Fault::bad_request(format!(
            "Invalid filter field: {name}. Unrecognized value '{text}', acceptable values are: '0', '1', 'f', 'false', 'n', 'no', \
             'off', 'on', 't', 'true', 'y', 'yes'"
        ))),
    }
}

/// How the page is read that a query asks for.
pub struct Plan {
    query: Query,
    patterns: Patterns,
    limit: usize,
}

/// What the query asks for; `None` when nothing can match.
pub fn plan(call: &Call, detail: bool) -> Result<Option<Plan>, Fault> {
    let limit = call.limit()?;
    let Some((mut query, patterns)) = read(call, detail)? else {
        return Ok(None);
    };
    if limit == 0 {
        return Ok(None);
    }
    if let Some(marker) = call.query.get("marker") {
        let id = marker
            .parse::<ServerId>()
            .map_err(|_| Fault::bad_request(format!("marker [{marker}] not found")))?;
        query.after = Some(id);
    }
    query.brief = !detail && patterns.0.is_empty();
    Ok(Some(Plan {
        query,
        patterns,
        limit,
    }))
}

impl Plan {
    /// Reads the page.
    pub fn read(&self, tx: &mut sql::Tx<'_>, call: &Call) -> Result<Page, Fault> {
        let found = matching(tx, self.query.clone(), &self.patterns, self.limit)?;
        let servers = found.ok_or_else(|| {
            Fault::bad_request(format!(
                "marker [{}] not found",
                call.query.get("marker").unwrap_or_default()
            ))
        })?;
        let next = servers
            .last()
            .filter(|_| servers.len() == self.limit)
            .map(|server| server.id.to_string());
        Ok(Page { servers, next })
    }
}

/// How many servers are held against patterns at a time.
const PART: usize = 1000;

/// A page of the servers that fit the patterns, which no database compares alike: those are tried here, in parts, so that
/// memory stays bounded however many servers do not fit.
fn matching(
    tx: &mut sql::Tx<'_>,
    mut query: Query,
    patterns: &Patterns,
    limit: usize,
) -> Result<Option<Vec<Instance>>, sql::Error> {
    let part = if patterns.0.is_empty() { limit } else { PART };
    query.limit = Some(part as u64);
    let mut fitting = Vec::new();
    loop {
        let Some(found) = db::list::page(tx, &query)? else {
            return Ok(None);
        };
        if patterns.0.is_empty() {
            return Ok(Some(found));
        }
        let (read, last) = (found.len(), found.last().map(|server| server.id));
        fitting.extend(found.into_iter().filter(|server| patterns.fit(server)));
        fitting.truncate(limit);
        if fitting.len() == limit || read < part {
            return Ok(Some(fitting));
        }
        query.after = last;
    }
}

/// The query for the database, or `None` when nothing can match.
fn read(call: &Call, detail: bool) -> Result<Option<(Query, Patterns)>, Fault> {
    let everything = call.may(ALL_FILTERS);
    if everything
        && let Some((name, _)) = call
            .query
            .pairs()
            .iter()
            .find(|(name, _)| name.starts_with('_') || JOINED.contains(&name.as_str()))
    {
        return Err(Fault::bad_request(format!("Invalid filter field: {name}.")));
    }
    let mut filters: HashMap<&str, &str> = HashMap::new();
    for (name, value) in call.query.pairs() {
        if everything || for_everyone(call, name) {
            filters.insert(name, value);
        }
    }
    let mut conditions = Vec::new();
    if !owner(call, detail, &filters, &mut conditions)? || !status(call, &filters, &mut conditions)?
    {
        return Ok(None);
    }
    times(call, &filters, &mut conditions)?;
    let mut patterns = Patterns::default();
    for (name, value) in &filters {
        one(name, value, &mut conditions, &mut patterns)?;
    }
    Ok(Some((
        Query {
            conditions,
            order: order(call)?,
            ..Query::default()
        },
        patterns,
    )))
}

/// Whose servers: the caller's project's unless an administrator asks for all.
fn owner(
    call: &Call,
    detail: bool,
    filters: &HashMap<&str, &str>,
    conditions: &mut Vec<Condition>,
) -> Result<bool, Fault> {
    let all = match filters.get("all_tenants") {
        Some(text) => boolean("all_tenants", text)?,
        None => false,
    };
    if !all {
        conditions.push(Condition::Is(Column::ProjectId, call.project().into()));
        return Ok(true);
    }
    let rule = if detail {
        "os_compute_api:servers:detail:get_all_tenants"
    } else {
        "os_compute_api:servers:index:get_all_tenants"
    };
    call.require(rule)?;
    if let Some(project) = filters
        .get("project_id")
        .or_else(|| filters.get("tenant_id"))
    {
        conditions.push(Condition::Is(Column::ProjectId, (*project).into()));
    }
    Ok(true)
}

/// `status`, by the states it stands for. False: nothing can match.
fn status(
    call: &Call,
    filters: &HashMap<&str, &str>,
    conditions: &mut Vec<Condition>,
) -> Result<bool, Fault> {
    if !filters.contains_key("status") {
        return Ok(true);
    }
    let mut pairs: Vec<(Value, Vec<Value>)> = Vec::new();
    for wanted in call.query.all("status") {
        if wanted.eq_ignore_ascii_case("deleted") && !call.is_admin() {
            return Err(Fault::forbidden(
                "Only administrators may list deleted instances",
            ));
        }
        for (vm_state, tasks) in states::vm_states_with_status(wanted) {
            let tasks = tasks
                .into_iter()
                .map(|task| task.map(TaskState::as_str).into())
                .collect();
            pairs.push((vm_state.as_str().into(), tasks));
        }
    }
    if pairs.is_empty() {
        return if call.at_least(mv::STRICT_STATUS) {
            Err(Fault::bad_request("Invalid status value"))
        } else {
            Ok(false)
        };
    }
    conditions.push(Condition::States(pairs));
    Ok(true)
}

/// `changes-since`, `changes-before` and `deleted`: without them only living servers are shown.
fn times(
    call: &Call,
    filters: &HashMap<&str, &str>,
    conditions: &mut Vec<Condition>,
) -> Result<(), Fault> {
    let time = |name: &str| filters.get(name).and_then(|text| Timestamp::parse(text));
    let (since, before) = (time("changes-since"), time("changes-before"));
    if let (Some(since), Some(before)) = (since, before)
        && since > before
    {
        return Err(Fault::bad_request(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    if let Some(since) = since {
        conditions.push(Condition::AtLeast(Column::ChangedAt, since.into()));
    }
    if let Some(before) = before {
        conditions.push(Condition::AtMost(Column::ChangedAt, before.into()));
    }
    let of_status = call
        .query
        .all("status")
        .any(|status| status.eq_ignore_ascii_case("deleted"))
        && filters.contains_key("status");
    let of_soft_status = filters
        .get("status")
        .is_some_and(|status| status.eq_ignore_ascii_case("soft_deleted"));
    match filters.get("deleted") {
        Some(text) => conditions.push(deleted(is_true(text), filters.get("soft_deleted"))),
        None if of_status => conditions.push(Condition::Deleted(true)),
        None if of_soft_status => conditions.push(Condition::SoftDeleted),
        None if since.is_none() && before.is_none() => {
            conditions.push(deleted(false, filters.get("soft_deleted")));
        }
        None => {}
    }
    Ok(())
}

/// A boolean of a query that is false whatever else it says, as Nova reads some.
fn is_true(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    matches!(text.as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

/// `deleted`, with `soft_deleted`: whether those that can be restored count as deleted, too, or among the living. Unless it
/// is said they are deleted.
fn deleted(deleted: bool, soft: Option<&&str>) -> Condition {
    match soft.map(|text| is_true(text)) {
        Some(soft) if soft != deleted => Condition::Removed(deleted),
        _ => Condition::Deleted(deleted),
    }
}

/// One filter that stands for itself.
fn one(
    name: &str,
    value: &str,
    conditions: &mut Vec<Condition>,
    patterns: &mut Patterns,
) -> Result<(), Fault> {
    let tags = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
    let column = match name {
        "tags" => return push(conditions, Condition::AllTags(tags())),
        "tags-any" => return push(conditions, Condition::AnyTag(tags())),
        "not-tags" => return push(conditions, Condition::NotAllTags(tags())),
        "not-tags-any" => return push(conditions, Condition::NoTag(tags())),
        "locked" => {
            return push(
                conditions,
                Condition::Is(Column::Locked, boolean("locked", value)?.into()),
            );
        }
        "config_drive" => {
            return push(
                conditions,
                Condition::Is(Column::ConfigDrive, boolean("config_drive", value)?.into()),
            );
        }
        "auto_disk_config" => {
            let number = i64::from(boolean("auto_disk_config", value)?);
            let condition = Condition::Is(Column::AutoDiskConfig, number.into());
            return push(conditions, condition);
        }
        "power_state" | "progress" | "launch_index" => {
            let number: i64 = value
                .parse()
                .map_err(|_| Fault::bad_request(format!("Invalid filter field: {name}.")))?;
            let column = match name {
                "power_state" => Column::PowerState,
                "progress" => Column::Progress,
                _ => Column::LaunchIndex,
            };
            return push(conditions, Condition::Is(column, number.into()));
        }
        "name" | "display_name" => return pattern(patterns, "name", value),
        "description" | "display_description" => return pattern(patterns, "description", value),
        "hostname" => return pattern(patterns, "hostname", value),
        "key_name" => return pattern(patterns, "key_name", value),
        "ip" => return pattern(patterns, "ip", value),
        "ip6" => return pattern(patterns, "ip6", value),
        "node" => return pattern(patterns, "node", value),
        "availability_zone" => return pattern(patterns, "availability_zone", value),
        "reservation_id" => return pattern(patterns, "reservation_id", value),
        "locked_by" => return pattern(patterns, "locked_by", value),
        "kernel_id" => return pattern(patterns, "kernel_id", value),
        "ramdisk_id" => return pattern(patterns, "ramdisk_id", value),
        "root_device_name" => return pattern(patterns, "root_device_name", value),
        "access_ip_v4" | "accessIPv4" => return pattern(patterns, "access_ip_v4", value),
        "access_ip_v6" | "accessIPv6" => return pattern(patterns, "access_ip_v6", value),
        "flavor" => Column::FlavorId,
        "image" | "image_ref" => Column::ImageId,
        "host" => Column::Host,
        "user_id" => Column::UserId,
        "uuid" => Column::Uuid,
        "vm_state" => Column::VmState,
        "task_state" => Column::TaskState,
        "created_at" | "launched_at" | "terminated_at" => {
            let time = Timestamp::parse(value)
                .ok_or_else(|| Fault::bad_request(format!("Invalid filter field: {name}.")))?;
            let column = match name {
                "created_at" => Column::CreatedAt,
                "launched_at" => Column::LaunchedAt,
                _ => Column::TerminatedAt,
            };
            return push(conditions, Condition::Is(column, time.into()));
        }
        _ => return Ok(()),
    };
    push(conditions, Condition::Is(column, value.into()))
}

fn push(conditions: &mut Vec<Condition>, condition: Condition) -> Result<(), Fault> {
    conditions.push(condition);
    Ok(())
}

fn pattern(patterns: &mut Patterns, field: &'static str, value: &str) -> Result<(), Fault> {
    let compiled = formats::compiled(value).ok_or_else(|| {
        Fault::bad_request(format!(
            "Invalid filter field: {field}. '{value}' is not a pattern."
        ))
    })?;
    patterns.0.push((field, compiled));
    Ok(())
}

/// Whether a key has no effect at this version, for reasons of old.
fn is_ignored(call: &Call, key: &str) -> bool {
    let locked = key == "locked" && !call.at_least(mv::LOCKED_REASON);
    locked || column(key).is_none()
}

/// The keys and directions that count. A key that is ignored takes its direction with it.
fn keys_and_directions(call: &Call) -> (Vec<&str>, Vec<&str>) {
    let all = |name, otherwise| {
        let given: Vec<&str> = call.query.all(name).map(str::trim).collect();
        if given.is_empty() {
            vec![otherwise]
        } else {
            given
        }
    };
    let (keys, directions) = (all("sort_key", "created_at"), all("sort_dir", "desc"));
    let goes = |index: usize| keys.get(index).is_some_and(|key| is_ignored(call, key));
    let kept = directions.iter().enumerate();
    let kept = kept.filter(|(index, _)| !goes(*index));
    let directions = kept.map(|(_, direction)| *direction).collect();
    let keys = keys.into_iter().filter(|key| !is_ignored(call, key));
    (keys.collect(), directions)
}

/// The order asked for; newest first unless told otherwise.
fn order(call: &Call) -> Result<Vec<(Column, bool)>, Fault> {
    let (keys, directions) = keys_and_directions(call);
    if let Some(key) = keys
        .iter()
        .find(|key| matches!(**key, "host" | "node"))
        .filter(|_| !call.is_admin())
    {
        return Err(Fault::forbidden(format!(
            "Only administrators can sort servers by {key}"
        )));
    }
    check_directions(&keys, &directions)?;
    let descending = |index: usize| {
        directions
            .get(index)
            .or(directions.first())
            .is_none_or(|direction| *direction == "desc")
    };
    let mut order: Vec<(Column, bool)> = keys
        .iter()
        .enumerate()
        .filter_map(|(i, key)| Some((column(key)?, descending(i))))
        .collect();
    if !order.iter().any(|(column, _)| *column == Column::CreatedAt) {
        order.push((Column::CreatedAt, descending(0)));
    }
    Ok(order)
}

/// Each direction is one, and is that of a key.
fn check_directions(keys: &[&str], directions: &[&str]) -> Result<(), Fault> {
    let wrong = if directions
        .iter()
        .any(|direction| !matches!(*direction, "asc" | "desc"))
    {
        "Unknown sort direction, must be 'desc' or 'asc'"
    } else if directions.len() > keys.len() {
        "Sort direction size exceeds sort key size"
    } else {
        return Ok(());
    };
    Err(Fault::bad_request(format!(
        "Invalid input received: {wrong}"
    )))
}

fn column(key: &str) -> Option<Column> {
    Some(match key {
        "access_ip_v4" => Column::AccessIpV4,
        "access_ip_v6" => Column::AccessIpV6,
        "auto_disk_config" => Column::AutoDiskConfig,
        "availability_zone" => Column::AvailabilityZone,
        "config_drive" => Column::ConfigDrive,
        "created_at" => Column::CreatedAt,
        "display_description" => Column::Description,
        "display_name" => Column::DisplayName,
        "host" => Column::Host,
        "hostname" => Column::Hostname,
        "image_ref" => Column::ImageId,
        "instance_type_id" => Column::FlavorId,
        "kernel_id" => Column::KernelId,
        "key_name" => Column::KeyName,
        "launch_index" => Column::LaunchIndex,
        "launched_at" => Column::LaunchedAt,
        "locked" => Column::Locked,
        "locked_by" => Column::LockedBy,
        "node" => Column::Node,
        "power_state" => Column::PowerState,
        "progress" => Column::Progress,
        "project_id" => Column::ProjectId,
        "ramdisk_id" => Column::RamdiskId,
        "root_device_name" => Column::RootDeviceName,
        "task_state" => Column::TaskState,
        "terminated_at" => Column::TerminatedAt,
        "updated_at" => Column::UpdatedAt,
        "user_id" => Column::UserId,
        "uuid" => Column::Uuid,
        "vm_state" => Column::VmState,
        _ => return None,
    })
}
