//! Groups of volumes (3.13), their types and their snapshots (3.14).

pub mod snapshots;
pub mod types;

use super::unknown;
use super::volumes::{self, in_scope, scope};
use crate::Config;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Group, GroupSnapshot, Snapshot, Status, Volume, VolumeType};
use crate::quota;
use crate::service::Service;
use crate::view;
use ::types::Timestamp;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;

/// After the end of a job of a member: ends what happens to the group or the group snapshot.
pub fn settle(
    tx: &mut Tx<'_>,
    group: Option<&str>,
    snapshot: Option<&str>,
) -> std::result::Result<(), sql::Error> {
    if let Some(id) = group
        && let Some(mut group) = db::get::<Group>(tx, id)?
    {
        let members = db::find::<Volume>(tx, &[("group_id", id.into())])?;
        let any = |status: Status| members.iter().any(|one| one.status == status);
        match group.status {
            Status::Deleting if members.is_empty() => {
                db::delete::<Group>(tx, id)?;
            }
            Status::Deleting if any(Status::ErrorDeleting) => {
                group.status = Status::Error;
                db::save(tx, &group)?;
            }
            Status::Creating if !any(Status::Creating) => {
                group.status = match any(Status::Error) {
                    true => Status::Error,
                    false => Status::Available,
                };
                db::save(tx, &group)?;
            }
            _ => {}
        }
    }
    if let Some(id) = snapshot
        && let Some(mut whole) = db::get::<GroupSnapshot>(tx, id)?
    {
        let members = db::find::<Snapshot>(tx, &[("group_snapshot_id", id.into())])?;
        let any = |status: Status| members.iter().any(|one| one.status == status);
        match whole.status {
            Status::Deleting if members.is_empty() => {
                db::delete::<GroupSnapshot>(tx, id)?;
            }
            Status::Deleting if any(Status::ErrorDeleting) => {
                whole.status = Status::Error;
                db::save(tx, &whole)?;
            }
            Status::Creating if !any(Status::Creating) => {
                whole.status = match any(Status::Error) {
                    true => Status::Error,
                    false => Status::Available,
                };
                db::save(tx, &whole)?;
            }
            _ => {}
        }
    }
    Ok(())
}

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(13)?;
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, false).await,
        (["detail"], &Method::GET) => list(service, call, true).await,
        ([], &Method::POST) => create(service, call).await,
        (["action"], &Method::POST) => from_source(service, call).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id, "action"], &Method::POST) => act(service, call, id).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

fn allowed(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<Group> {
    let found = db::get::<Group>(tx, id)?;
    let group = found
        .filter(|group| call.access.sees(&group.project_id))
        .ok_or_else(|| Fault::missing("Group", id))?;
    call.access.require(rule, &group.project_id)?;
    Ok(group)
}

fn members(tx: &mut Tx<'_>, group: &Group) -> Result<Vec<Volume>> {
    Ok(db::find(tx, &[("group_id", (&group.id).into())])?)
}

fn detail(tx: &mut Tx<'_>, call: &Call, group: &Group) -> Result<Value> {
    let mut shown = json!({
        "id": group.id,
        "status": group.status.name(),
        "availability_zone": group.zone,
        "created_at": view::time(group.created_at),
        "name": group.name,
        "description": group.description,
        "group_type": group.type_id,
        "volume_types": group.volume_types,
    });
    let version = call.version.0;
    if version >= 14 {
        shown["group_snapshot_id"] = json!(group.group_snapshot_id);
        shown["source_group_id"] = json!(group.source_group_id);
    }
    if version >= 25 && call.query.yes("list_volume")? {
        let ids: Vec<String> = members(tx, group)?.into_iter().map(|one| one.id).collect();
        shown["volumes"] = json!(ids);
    }
    if version >= 38 {
        shown["replication_status"] = json!("disabled");
    }
    if version >= 58
        && call
            .access
            .allows("group:group_project_attribute", &group.project_id)
    {
        shown["project_id"] = json!(group.project_id);
    }
    Ok(shown)
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let body = service
        .read(move |tx| {
            let group = allowed(tx, &call, &id, "group:get")?;
            Ok(json!({"group": detail(tx, &call, &group)?}))
        })
        .await?;
    Ok(Reply::ok(body))
}

const LIST: listing::Rules = listing::Rules {
    path: "groups",
    links: "group_links",
    filters: &["name", "status", "id", "group_type"],
    sorts: &["created_at", "id", "name", "status", "group_type"],
};

async fn list(service: &Service, mut call: Call, detailed: bool) -> Result<Reply> {
    call.access.require_own("group:get_all")?;
    let whole = call.clone();
    call.query.forget(&["list_volume"]);
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let found: Vec<Group> = in_scope(tx, scope(&call)?.as_deref())?;
            let items = found
                .into_iter()
                .map(|one| Item {
                    id: one.id.clone(),
                    fields: json!({
                        "id": one.id, "name": one.name, "status": one.status.name(), "group_type": one.type_id,
                        "created_at": view::time(one.created_at),
                    }),
                    item: one,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let mut all = Vec::new();
            for group in &page.items {
                all.push(match detailed {
                    true => detail(tx, &whole, group)?,
                    false => json!({"id": group.id, "name": group.name}),
                });
            }
            let mut body = json!({"groups": all});
            page.complete(&mut body, &call, &LIST)?;
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

/// A new group of the caller's project.
fn fresh(call: &Call, config: &Config, kind: String, volume_types: Vec<String>) -> Group {
    Group {
        id: uuid::Uuid::new_v4().to_string(),
        project_id: call.access.project().to_owned(),
        user_id: call.access.caller.user_id.clone(),
        name: None,
        description: None,
        status: Status::Available,
        type_id: kind,
        volume_types,
        zone: config.zone.clone(),
        source_group_id: None,
        group_snapshot_id: None,
        created_at: Timestamp::now(),
        updated_at: None,
    }
}

fn check_quota(tx: &mut Tx<'_>, config: &Config, project: &str) -> Result<()> {
    let limits = quota::limits(tx, config, project)?;
    let most = limits.get("groups").copied().unwrap_or(-1);
    if most >= 0 && quota::used(tx, project, "groups")? >= most {
        return Err(Fault::over_quota(format!(
            "Maximum number of groups allowed ({most}) exceeded"
        )));
    }
    Ok(())
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("group_type", Kind::FullName, Need::Must),
        ("volume_types", Kind::List, Need::Must),
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("availability_zone", Kind::OptionalText, Need::May),
    ];
    call.access.require_own("group:create")?;
    let body = check::object(&call.body, "group", FIELDS, false)?.clone();
    let config = service.inner.config.clone();
    let answer = service
        .write(move |tx| {
            let kind = types::find(tx, &check::text(&body, "group_type").unwrap_or_default())?;
            let mut volume_types = Vec::new();
            for reference in body["volume_types"].as_array().into_iter().flatten() {
                let reference = reference.as_str().unwrap_or_default();
                let found: VolumeType = super::types::find(tx, &call, reference)?;
                volume_types.push(found.id);
            }
            if volume_types.is_empty() {
                return Err(Fault::bad(
                    "Invalid input for field/attribute volume_types. Value: []. [] is too short",
                ));
            }
            if check::text(&body, "availability_zone").is_some_and(|zone| zone != config.zone) {
                return Err(Fault::bad(
                    "Invalid input received: Availability zone is invalid.",
                ));
            }
            check_quota(tx, &config, call.access.project())?;
            let group = Group {
                name: check::trimmed(&body, "name"),
                description: check::trimmed(&body, "description"),
                ..fresh(&call, &config, kind.id, volume_types)
            };
            db::insert(tx, &group)?;
            Ok(json!({"group": {"id": group.id, "name": group.name}}))
        })
        .await?;
    Ok(Reply::accepted(answer))
}

/// A group with copies of the volumes of another group, or of a group snapshot.
async fn from_source(service: &Service, call: Call) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("source_group_id", Kind::Id, Need::May),
        ("group_snapshot_id", Kind::Id, Need::May),
    ];
    call.version.since(14)?;
    call.access.require_own("group:create")?;
    let body = check::object(&call.body, "create-from-src", FIELDS, false)?.clone();
    let of_group = check::text(&body, "source_group_id");
    let of_snapshot = check::text(&body, "group_snapshot_id");
    if of_group.is_some() == of_snapshot.is_some() {
        return Err(Fault::bad(
            "Either 'source_group_id' or 'group_snapshot_id' must be given to create a group from a source.",
        ));
    }
    let owner = service.clone();
    let (answer, volumes) = service
        .write(move |tx| {
            let config = &owner.inner.config;
            let mut wanted = Vec::new();
            let source = match (&of_group, &of_snapshot) {
                (Some(id), _) => {
                    let source = allowed(tx, &call, id, "group:get")?;
                    for volume in members(tx, &source)? {
                        wanted.push((volume.type_id, Some(volume.id), None));
                    }
                    source
                }
                (_, id) => {
                    let id = id.clone().unwrap_or_default();
                    let whole = snapshots::allowed(tx, &call, &id, "group:get_group_snapshot")?;
                    for one in snapshots::members(tx, &whole)? {
                        wanted.push((one.type_id, None, Some(one.id)));
                    }
                    allowed(tx, &call, &whole.group_id, "group:get")?
                }
            };
            if wanted.is_empty() {
                return Err(Fault::bad("Invalid Group: the source has no volumes."));
            }
            check_quota(tx, config, call.access.project())?;
            let mut group = Group {
                name: check::trimmed(&body, "name"),
                description: check::trimmed(&body, "description"),
                source_group_id: of_group.clone(),
                group_snapshot_id: of_snapshot.clone(),
                ..fresh(&call, config, source.type_id, source.volume_types)
            };
            db::insert(tx, &group)?;
            let mut made = Vec::new();
            for (type_id, source_id, snapshot_id) in wanted {
                let volume = volumes::Wanted {
                    type_ref: Some(type_id),
                    source_id,
                    snapshot_id,
                    group_id: Some(group.id.clone()),
                    ..volumes::Wanted::default()
                };
                made.push(volumes::add(tx, &owner, &call, &volume)?.id);
            }
            group.status = Status::Creating;
            db::save(tx, &group)?;
            Ok((json!({"group": {"id": group.id, "name": group.name}}), made))
        })
        .await?;
    for id in volumes {
        service.begin_volume(&id);
    }
    Ok(Reply::accepted(answer))
}

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("add_volumes", Kind::OptionalLongText, Need::May),
        ("remove_volumes", Kind::OptionalLongText, Need::May),
    ];
    let body = check::object(&call.body, "group", FIELDS, false)?.clone();
    if body.values().all(Value::is_null) {
        return Err(Fault::bad(
            "Name, description, add_volumes, and remove_volumes can not be all empty in the request body.",
        ));
    }
    let listed = |name: &str| -> Vec<String> {
        let text = check::text(&body, name).unwrap_or_default();
        let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
        ids.map(str::to_owned).collect()
    };
    let (add, remove) = (listed("add_volumes"), listed("remove_volumes"));
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut group = allowed(tx, &call, &id, "group:update")?;
            if group.status != Status::Available {
                return Err(Fault::bad(format!(
                    "Invalid Group: Group {id} status must be available, but it is {}.",
                    group.status
                )));
            }
            if body.contains_key("name") {
                group.name = check::trimmed(&body, "name");
            }
            if body.contains_key("description") {
                group.description = check::trimmed(&body, "description");
            }
            for member in &remove {
                let mut volume = volumes::seen(tx, &call, member)?;
                if volume.group_id.as_ref() != Some(&group.id) {
                    return Err(Fault::volume(format!(
                        "Cannot remove volume {member} from group {id} because it is not in the group."
                    )));
                }
                volume.group_id = None;
                db::save(tx, &volume)?;
            }
            for member in &add {
                let mut volume = volumes::seen(tx, &call, member)?;
                join(&mut volume, &group)?;
                db::save(tx, &volume)?;
            }
            group.updated_at = Some(Timestamp::now());
            db::save(tx, &group)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

fn join(volume: &mut Volume, group: &Group) -> Result<()> {
    let usable = matches!(volume.status, Status::Available | Status::InUse);
    let fits =
        group.volume_types.contains(&volume.type_id) && volume.project_id == group.project_id;
    let free = volume.group_id.is_none() || volume.group_id.as_ref() == Some(&group.id);
    if !usable || !fits || !free {
        return Err(Fault::volume(format!(
            "Cannot add volume {} to group {}: its status is {}, or its type or another group forbids it.",
            volume.id, group.id, volume.status
        )));
    }
    volume.group_id = Some(group.id.clone());
    Ok(())
}

async fn act(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let name = call.body.as_object().and_then(|body| body.keys().next());
    match name.map(String::as_str) {
        Some("delete") => remove(service, call, id).await,
        Some("reset_status") => reset_status(service, call, id).await,
        Some(
            "enable_replication"
            | "disable_replication"
            | "failover_replication"
            | "list_replication_targets",
        ) => Err(Fault::bad(format!(
            "Invalid Group: Replication is not supported for group {id}."
        ))),
        _ => Err(Fault::bad("There is no such action.")),
    }
}

async fn reset_status(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(20)?;
    let text = call.body["reset_status"]["status"]
        .as_str()
        .unwrap_or_default();
    let known = [
        Status::Available,
        Status::Creating,
        Status::Deleting,
        Status::Error,
        Status::ErrorDeleting,
        Status::Updating,
        Status::InUse,
    ];
    let Some(status) = Status::parse(text).filter(|status| known.contains(status)) else {
        return Err(Fault::bad(format!(
            "Group status: {text} is invalid, valid status are: available, creating, deleting, error, error_deleting, \
             in-use, updating."
        )));
    };
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut group = allowed(tx, &call, &id, "group:reset_status")?;
            group.status = status;
            db::save(tx, &group)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let with_volumes = check::truth(&call.body["delete"]["delete-volumes"]).unwrap_or(false);
    let id = id.to_owned();
    let gone = service
        .write(move |tx| {
            let mut group = allowed(tx, &call, &id, "group:delete")?;
            if !matches!(group.status, Status::Available | Status::Error) {
                return Err(Fault::bad(format!(
                    "Invalid Group: Group status must be available or error, but current status is: {}",
                    group.status
                )));
            }
            let members = members(tx, &group)?;
            let snapshots = db::count::<GroupSnapshot>(tx, &[("group_id", (&id).into())])?;
            if !members.is_empty() && !with_volumes {
                return Err(Fault::bad(format!(
                    "Invalid Group: Group {id} still contains volumes. The delete-volumes flag is required to delete it."
                )));
            }
            if snapshots > 0 {
                return Err(Fault::bad(format!(
                    "Invalid Group: Cannot delete group {id}: it has group snapshots."
                )));
            }
            if members.is_empty() {
                db::delete::<Group>(tx, &id)?;
                return Ok(Vec::new());
            }
            group.status = Status::Deleting;
            db::save(tx, &group)?;
            let mut gone = Vec::new();
            for volume in members {
                let key = volume.id.clone();
                volumes::mark_deleted(tx, volume, false, volumes::Manner::WithGroup)?;
                gone.push(key);
            }
            Ok(gone)
        })
        .await?;
    for id in gone {
        service.begin_volume(&id);
    }
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
