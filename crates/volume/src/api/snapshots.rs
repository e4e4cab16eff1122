//! Snapshots of volumes.

use super::volumes::{self, in_scope, scope};
use super::{metadata, unknown};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Job, Map, Snapshot, Source, Status, Volume, VolumeType};
use crate::quota::{self, Take};
use crate::service::Service;
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, false).await,
        ([], &Method::POST) => create(service, call).await,
        (["detail"], &Method::GET) => list(service, call, true).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id, false).await,
        ([id, "action"], &Method::POST) => act(service, call, id).await,
        ([id, "metadata", rest @ ..], _) => {
            metadata::route(service, call, metadata::Of::Snapshot, id, rest).await
        }
        ([] | [_], _) => Err(unknown(&call, &[Method::GET])),
        _ => Err(unknown(&call, &[])),
    }
}

/// The snapshot, if the caller sees it.
pub fn seen(tx: &mut Tx<'_>, call: &Call, id: &str) -> Result<Snapshot> {
    let found = db::get::<Snapshot>(tx, id)?;
    found
        .filter(|snapshot| call.access.sees(&snapshot.project_id))
        .ok_or_else(|| Fault::missing("Snapshot", id))
}

/// The snapshot, if the caller sees it and a rule allows this.
pub fn allowed(tx: &mut Tx<'_>, call: &Call, id: &str, rule: &str) -> Result<Snapshot> {
    let snapshot = seen(tx, call, id)?;
    call.access.require(rule, &snapshot.project_id)?;
    Ok(snapshot)
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let shown = service
        .read(move |tx| {
            let snapshot = allowed(tx, &call, &id, "volume:get_snapshot")?;
            Ok(view::snapshot(&call, &snapshot, true))
        })
        .await?;
    Ok(Reply::ok(json!({"snapshot": shown})))
}

const LIST: listing::Rules = listing::Rules {
    path: "snapshots",
    links: "snapshots_links",
    filters: &[
        "name",
        "status",
        "volume_id",
        "metadata",
        "availability_zone",
        "consumes_quota",
        "id",
    ],
    sorts: &[
        "created_at",
        "id",
        "name",
        "display_name",
        "volume_id",
        "status",
        "updated_at",
        "size",
        "description",
    ],
};

async fn list(service: &Service, call: Call, detailed: bool) -> Result<Reply> {
    call.access.require_own("volume:get_all_snapshots")?;
    let most = service.inner.config.max_limit;
    let zone = service.inner.config.zone.clone();
    let body = service
        .read(move |tx| {
            let found: Vec<Snapshot> = in_scope(tx, scope(&call)?.as_deref())?;
            let items = found
                .into_iter()
                .map(|one| Item {
                    id: one.id.clone(),
                    fields: json!({
                        "id": one.id, "name": one.name, "display_name": one.name, "status": one.status.name(),
                        "volume_id": one.volume_id, "metadata": one.metadata, "size": one.size,
                        "availability_zone": zone, "consumes_quota": true, "project_id": one.project_id,
                        "description": one.description, "created_at": view::time(one.created_at),
                        "updated_at": view::optional_time(one.updated_at),
                    }),
                    item: one,
                })
                .collect();
            let page = listing::page(&call, &LIST, most, items)?;
            let one = |snapshot: &Snapshot| view::snapshot(&call, snapshot, detailed);
            let shown: Vec<Value> = page.items.iter().map(one).collect();
            let mut body = json!({"snapshots": shown});
            page.complete(&mut body, &call, &LIST)?;
            Ok(body)
        })
        .await?;
    Ok(Reply::ok(body))
}

const CREATE: &[Field] = &[
    ("volume_id", Kind::OptionalId, Need::Must),
    ("name", Kind::Name, Need::May),
    ("display_name", Kind::Name, Need::May),
    ("description", Kind::OptionalText, Need::May),
    ("display_description", Kind::OptionalText, Need::May),
    ("metadata", Kind::OptionalTexts, Need::May),
    ("force", Kind::OptionalBool, Need::May),
];

/// What a request wants made.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub name: Option<String>,
    pub description: Option<String>,
    pub metadata: Map,
    pub force: bool,
    pub group_snapshot_id: Option<String>,
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    let body = check::object(&call.body, "snapshot", CREATE, false)?;
    let said = body.get("force").and_then(check::truth);
    // From 3.66 on force is the rule, and saying no to it makes no sense.
    if call.version.0 >= 66 && said == Some(false) {
        return Err(Fault::input(
            "Since microversion 3.66 the 'force' parameter is invalid for this request. For backward compatibility, however, when the 'force' flag is passed with a value evaluating to True, it is silently ignored.",
        ));
    }
    let volume_id = check::text(body, "volume_id").unwrap_or_default();
    let wanted = Wanted {
        name: check::trimmed(body, "name").or_else(|| check::trimmed(body, "display_name")),
        description: check::trimmed(body, "description")
            .or_else(|| check::trimmed(body, "display_description")),
        metadata: check::texts("metadata", body.get("metadata").unwrap_or(&Value::Null))?,
        force: call.version.0 >= 66 || said == Some(true),
        group_snapshot_id: None,
    };
    let owner = service.clone();
    let (id, shown) = service
        .write(move |tx| {
            let volume = volumes::allowed(tx, &call, &volume_id, "volume:create_snapshot")?;
            let snapshot = add(tx, &owner, &call, &volume, &wanted)?;
            let shown = view::snapshot(&call, &snapshot, true);
            Ok((snapshot.id, shown))
        })
        .await?;
    service.begin_snapshot(&id);
    let mut shown = shown;
    for name in [
        "os-extended-snapshot-attributes:progress",
        "os-extended-snapshot-attributes:project_id",
    ] {
        if let Some(shown) = shown.as_object_mut() {
            shown.shift_remove(name);
        }
    }
    Ok(Reply::accepted(json!({"snapshot": shown})))
}

/// Writes the row of a new snapshot, with the job that takes it.
pub fn add(
    tx: &mut Tx<'_>,
    service: &Service,
    call: &Call,
    volume: &Volume,
    wanted: &Wanted,
) -> Result<Snapshot> {
    let usable = match wanted.force {
        true => matches!(volume.status, Status::Available | Status::InUse),
        false => volume.status == Status::Available,
    };
    if !usable {
        let statuses = match wanted.force {
            true => "available or in-use",
            false => "available",
        };
        return Err(Fault::volume(format!(
            "Volume {} status must be {statuses}, but current status is: {}.",
            volume.id, volume.status
        )));
    }
    let config = &service.inner.config;
    let kind = db::get::<VolumeType>(tx, &volume.type_id)?;
    let take = Take {
        snapshots: 1,
        gigabytes: i64::try_from(volume.size).unwrap_or(i64::MAX),
        ..Take::default()
    };
    let type_name = kind.map(|kind| kind.name).unwrap_or_default();
    quota::check(tx, config, &volume.project_id, &type_name, take)?;
    if let Some(reason) = volumes::no_room(tx, service, volume.size)? {
        return Err(Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("No valid backend was found. {reason}"),
        ));
    }
    let snapshot = Snapshot {
        id: uuid::Uuid::new_v4().to_string(),
        project_id: volume.project_id.clone(),
        user_id: call.access.caller.user_id.clone(),
        volume_id: volume.id.clone(),
        name: wanted.name.clone(),
        description: wanted.description.clone(),
        size: volume.size,
        status: Status::Creating,
        progress: "0%".to_owned(),
        type_id: volume.type_id.clone(),
        group_snapshot_id: wanted.group_snapshot_id.clone(),
        metadata: wanted.metadata.clone(),
        image_metadata: volume.image_metadata.clone(),
        bootable: volume.bootable,
        job: Some(Job::Create(Source::Volume(volume.id.clone()))),
        request_id: call.request_id.clone(),
        created_at: Timestamp::now(),
        updated_at: None,
    };
    db::insert(tx, &snapshot)?;
    Ok(snapshot)
}

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const UPDATE: &[Field] = &[
        ("name", Kind::Name, Need::May),
        ("display_name", Kind::Name, Need::May),
        ("description", Kind::OptionalText, Need::May),
        ("display_description", Kind::OptionalText, Need::May),
    ];
    let body = check::object(&call.body, "snapshot", UPDATE, false)?.clone();
    let id = id.to_owned();
    let shown = service
        .write(move |tx| {
            let mut snapshot = allowed(tx, &call, &id, "volume:update_snapshot")?;
            for name in ["display_name", "name"] {
                if body.contains_key(name) {
                    snapshot.name = check::trimmed(&body, name);
                }
            }
            for name in ["display_description", "description"] {
                if body.contains_key(name) {
                    snapshot.description = check::trimmed(&body, name);
                }
            }
            snapshot.updated_at = Some(Timestamp::now());
            db::save(tx, &snapshot)?;
            Ok(view::snapshot(&call, &snapshot, false))
        })
        .await?;
    Ok(Reply::ok(json!({"snapshot": shown})))
}

async fn remove(service: &Service, call: Call, id: &str, force: bool) -> Result<Reply> {
    let key = id.to_owned();
    service
        .write(move |tx| {
            let rule = match force {
                true => "volume_extension:snapshot_admin_actions:force_delete",
                false => "volume:delete_snapshot",
            };
            let mut snapshot = allowed(tx, &call, &key, rule)?;
            let usable = matches!(
                snapshot.status,
                Status::Available | Status::Error | Status::ErrorDeleting
            );
            let used = [("snapshot_id", sql::Value::from(&snapshot.id))];
            let using = db::find::<Volume>(tx, &used)?;
            let copying = using.iter().any(|one| one.status == Status::Creating);
            if (!usable && !force) || copying || snapshot.group_snapshot_id.is_some() {
                return Err(Fault::snapshot(
                    "Snapshot status must be available or error, and must not be a part of a group.",
                ));
            }
            snapshot.status = Status::Deleting;
            snapshot.job = Some(Job::Delete);
            snapshot.updated_at = Some(Timestamp::now());
            db::save(tx, &snapshot)?;
            Ok(())
        })
        .await?;
    service.begin_snapshot(id);
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn act(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let name = call.body.as_object().and_then(|body| body.keys().next());
    match name.map(String::as_str) {
        Some("os-reset_status") => {
            let rule = "volume_extension:snapshot_admin_actions:reset_status";
            set_status(service, call, id, "os-reset_status", rule).await
        }
        Some("os-update_snapshot_status") => {
            let rule = "snapshot_extension:snapshot_actions:update_snapshot_status";
            set_status(service, call, id, "os-update_snapshot_status", rule).await
        }
        Some("os-force_delete") => remove(service, call, id, true).await,
        _ => Err(Fault::bad("There is no such action.")),
    }
}

/// Statuses that a snapshot can be set to.
const SETTABLE: &[Status] = &[
    Status::Creating,
    Status::Available,
    Status::Deleting,
    Status::Error,
    Status::ErrorDeleting,
];

async fn set_status(
    service: &Service,
    call: Call,
    id: &str,
    action: &str,
    rule: &'static str,
) -> Result<Reply> {
    let text = call.body[action]["status"].as_str().unwrap_or_default();
    let wanted = Status::parse(text).filter(|status| SETTABLE.contains(status));
    let progress = call.body[action]["progress"].as_str().map(str::to_owned);
    let Some(wanted) = wanted else {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute status. Value: {text}. '{text}' is not one of the statuses"
        )));
    };
    let strict = action == "os-update_snapshot_status";
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut snapshot = allowed(tx, &call, &id, rule)?;
            let from = snapshot.status;
            let sensible = match from {
                Status::Creating => {
                    matches!(wanted, Status::Available | Status::Error | Status::Creating)
                }
                Status::Deleting => matches!(wanted, Status::Deleting | Status::ErrorDeleting),
                _ => false,
            };
            if strict && !sensible {
                return Err(Fault::bad(format!(
                    "Provided snapshot status {wanted} not allowed for snapshot with status {from}."
                )));
            }
            snapshot.status = wanted;
            if let Some(progress) = &progress {
                snapshot.progress.clone_from(progress);
            }
            snapshot.updated_at = Some(Timestamp::now());
            db::save(tx, &snapshot)?;
            Ok(())
        })
        .await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
