//! Snapshots of whole groups (3.14).

use crate::api::volumes::{in_scope, scope};
use crate::api::{snapshots, unknown};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{GroupSnapshot, Job, Map, Snapshot, Status, Volume};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(14)?;
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, false).await,
        (["detail"], &Method::GET) => list(service, call, true).await,
        ([], &Method::POST) => create(service, call).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "action"], &Method::POST) => reset_status(service, call, id).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

/// The group snapshot, if the caller sees it and a rule allows this.
pub fn allowed(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<GroupSnapshot> {
    let found = db::get::<GroupSnapshot>(tx, id)?;
    let whole = found
        .filter(|whole| call.access.sees(&whole.project_id))
        .ok_or_else(|| Fault::missing("GroupSnapshot", id))?;
    call.access.require(rule, &whole.project_id)?;
    Ok(whole)
}

/// The snapshots that it is made of.
pub fn members(tx: &mut Tx<'_>, whole: &GroupSnapshot) -> Result<Vec<Snapshot>> {
    Ok(db::find(tx, &[("group_snapshot_id", (&whole.id).into())])?)
}

fn summary(whole: &GroupSnapshot) -> Value {
    json!({"id": whole.id, "name": whole.name, "group_type_id": whole.group_type_id})
}

fn detail(call: &Call, whole: &GroupSnapshot) -> Value {
    let mut shown = json!({
        "id": whole.id,
        "group_id": whole.group_id,
        "group_type_id": whole.group_type_id,
        "status": whole.status.name(),
        "created_at": view::time(whole.created_at),
        "name": whole.name,
        "description": whole.description,
    });
    let rule = "group:group_snapshot_project_attribute";
    if call.version.0 >= 58 && call.access.allows(rule, &whole.project_id) {
        shown["project_id"] = json!(whole.project_id);
    }
    shown
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let body = service
        .read(move |tx| {
            let whole = allowed(tx, &call, &id, "group:get_group_snapshot")?;
            Ok(json!({"group_snapshot": detail(&call, &whole)}))
        })
        .await?;
    Ok(Reply::ok(body))
}

const LIST: listing::Rules = listing::Rules {
    path: "group_snapshots",
    links: "group_snapshot_links",
    filters: &["name", "status", "group_id", "id"],
    sorts: &["created_at", "id", "name", "status", "group_id"],
};

async fn list(service: &Service, call: Call, detailed: bool) -> Result<Reply> {
    call.access.require_own("group:get_all_group_snapshots")?;
    let most = service.inner.config.max_limit;
    let body = service
        .read(move |tx| {
            let found: Vec<GroupSnapshot> = in_scope(tx, scope(&call)?.as_deref())?;
            let items = found
                .into_iter()
                .map(|one| Item {
                    id: one.id.clone(),
                    fields: json!({
                        "id": one.id, "name": one.name, "status": one.status.name(), "group_id": one.group_id,
                        "created_at": view::time(one.created_at),
                    }),
                    item: one,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let one = |whole: &GroupSnapshot| match detailed {
                true => detail(&call, whole),
                false => summary(whole),
            };
            let all: Vec<Value> = page.items.iter().map(one).collect();
            let mut body = json!({"group_snapshots": all});
            page.complete(&mut body, &call, &LIST)?;
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("group_id", Kind::Id, Need::Must),
        ("name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
    ];
    let body = check::object(&call.body, "group_snapshot", FIELDS, false)?.clone();
    let group_id = check::text(&body, "group_id").unwrap_or_default();
    let owner = service.clone();
    let (answer, made) = service
        .write(move |tx| {
            let group = super::allowed(tx, &call, &group_id, "group:create_group_snapshot")?;
            let volumes: Vec<Volume> = super::members(tx, &group)?;
            if volumes.is_empty() {
                return Err(Fault::bad(
                    "Invalid Group: The source group is empty. No group snapshot will be created.",
                ));
            }
            let whole = GroupSnapshot {
                id: uuid::Uuid::new_v4().to_string(),
                project_id: group.project_id.clone(),
                group_id: group.id.clone(),
                group_type_id: group.type_id.clone(),
                name: check::trimmed(&body, "name"),
                description: check::trimmed(&body, "description"),
                status: Status::Creating,
                created_at: Timestamp::now(),
            };
            db::insert(tx, &whole)?;
            let mut made = Vec::new();
            for volume in volumes {
                let wanted = snapshots::Wanted {
                    name: whole.name.clone(),
                    description: whole.description.clone(),
                    metadata: Map::new(),
                    force: true,
                    group_snapshot_id: Some(whole.id.clone()),
                };
                made.push(snapshots::add(tx, &owner, &call, &volume, &wanted)?.id);
            }
            Ok((json!({"group_snapshot": summary(&whole)}), made))
        })
        .await?;
    for id in made {
        service.begin_snapshot(&id);
    }
    Ok(Reply::accepted(answer))
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let gone = service
        .write(move |tx| {
            let mut whole = allowed(tx, &call, &id, "group:delete_group_snapshot")?;
            if !matches!(whole.status, Status::Available | Status::Error) {
                return Err(Fault::bad(format!(
                    "Invalid GroupSnapshot: GroupSnapshot status must be available or error, but it is {}.",
                    whole.status
                )));
            }
            let members = members(tx, &whole)?;
            for one in &members {
                let used = db::find::<Volume>(tx, &[("snapshot_id", (&one.id).into())])?;
                if used.iter().any(|volume| volume.status == Status::Creating) {
                    return Err(Fault::bad(
                        "Invalid GroupSnapshot: volumes are being made of its snapshots.",
                    ));
                }
            }
            if members.is_empty() {
                db::delete::<GroupSnapshot>(tx, &id)?;
                return Ok(Vec::new());
            }
            whole.status = Status::Deleting;
            db::save(tx, &whole)?;
            let mut gone = Vec::new();
            for mut one in members {
                one.status = Status::Deleting;
                one.job = Some(Job::Delete);
                db::save(tx, &one)?;
                gone.push(one.id);
            }
            Ok(gone)
        })
        .await?;
    for id in gone {
        service.begin_snapshot(&id);
    }
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn reset_status(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(19)?;
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
    ];
    let Some(status) = Status::parse(text).filter(|status| known.contains(status)) else {
        return Err(Fault::bad(format!(
            "Group snapshot status: {text} is invalid, valid statuses are: available, creating, deleting, error, \
             error_deleting, updating."
        )));
    };
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut whole = allowed(tx, &call, &id, "group:reset_group_snapshot_status")?;
            whole.status = status;
            db::save(tx, &whole)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
