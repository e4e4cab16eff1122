//! Attachments (3.27): reserve, connect, complete, remove.

use super::volumes;
use super::{unknown, volumes::scope};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::listing::{self, Item};
use crate::model::{Attachment, Status, Volume};
use crate::service::{Service, export_of};
use crate::view;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

/// Attached, in use by a guest or whoever else.
pub const ATTACHED: &str = "attached";
/// Connected, and not yet said to be in use.
pub const ATTACHING: &str = "attaching";
/// Kept for somebody who has not connected yet.
pub const RESERVED: &str = "reserved";
/// About to be removed.
pub const DETACHING: &str = "detaching";

pub async fn route(service: &Service, call: Call, path: &[&str]) -> Result<Reply> {
    call.version.since(27)?;
    let method = call.method.clone();
    match (path, &method) {
        ([], &Method::GET) => list(service, call, false).await,
        ([], &Method::POST) => create(service, call).await,
        (["detail"], &Method::GET) => list(service, call, true).await,
        ([id], &Method::GET) => show(service, call, id).await,
        ([id], &Method::PUT) => update(service, call, id).await,
        ([id], &Method::DELETE) => remove(service, call, id).await,
        ([id, "action"], &Method::POST) => complete(service, call, id).await,
        _ => Err(unknown(&call, &[Method::GET])),
    }
}

/// The status of a volume that is only determined by its attachments.
pub fn status_by(attachments: &[Attachment]) -> Status {
    let any = |status: &str| attachments.iter().any(|one| one.status == status);
    if any(ATTACHED) {
        Status::InUse
    } else if any(ATTACHING) {
        Status::Attaching
    } else if any(DETACHING) {
        Status::Detaching
    } else if any(RESERVED) {
        Status::Reserved
    } else {
        Status::Available
    }
}

/// Writes the status that a volume has by its attachments, unless something else is going on with it.
pub fn refresh(tx: &mut Tx<'_>, volume: &mut Volume) -> Result<()> {
    let attachments = volumes::attachments(tx, volume)?;
    let by_attachments = matches!(
        volume.status,
        Status::Available
            | Status::Reserved
            | Status::Attaching
            | Status::Detaching
            | Status::InUse
    );
    if by_attachments {
        volume.status = status_by(&attachments);
    }
    match attachments.iter().find(|one| one.status == ATTACHED) {
        Some(attached) => {
            let mode = attached.mode.clone();
            volume.admin_metadata.insert("attached_mode".into(), mode);
        }
        None => {
            volume.admin_metadata.remove("attached_mode");
        }
    }
    volume.updated_at = Some(Timestamp::now());
    db::save(tx, volume)?;
    Ok(())
}

/// Like [`refresh`], after an attachment has gone: whatever was wrong with it is over with it.
pub fn released(tx: &mut Tx<'_>, volume: &mut Volume) -> Result<()> {
    if volume.status == Status::Error && volume.job.is_none() {
        volume.status = Status::Available;
    }
    refresh(tx, volume)
}

fn missing(id: &str) -> Fault {
    Fault::not_found(format!(
        "Volume attachment could not be found with filter: attachment_id = {id}."
    ))
}

/// An attachment that the caller sees, with its volume.
pub fn seen(tx: &mut Tx<'_>, call: &Call, id: &str) -> Result<(Attachment, Volume)> {
    let found = db::get::<Attachment>(tx, id)?;
    let attachment = found
        .filter(|one| call.access.sees(&one.project_id))
        .ok_or_else(|| missing(id))?;
    let volume = db::get::<Volume>(tx, &attachment.volume_id)?.ok_or_else(|| missing(id))?;
    Ok((attachment, volume))
}

fn render(service: &Service, attachment: &Attachment, volume: &Volume) -> Value {
    let connection = match export_of(attachment, volume) {
        Some(export) => {
            let exports = &service.inner.exports;
            exports.connection(&export, &attachment.id, &attachment.mode)
        }
        None => json!({}),
    };
    view::attachment(attachment, connection)
}

async fn show(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let (owner, id) = (service.clone(), id.to_owned());
    let shown = service
        .read(move |tx| {
            let (attachment, volume) = seen(tx, &call, &id)?;
            Ok(render(&owner, &attachment, &volume))
        })
        .await?;
    Ok(Reply::ok(json!({"attachment": shown})))
}

const LIST: listing::Rules = listing::Rules {
    path: "attachments",
    links: "attachments_links",
    filters: &["volume_id", "status", "instance_id", "attach_status"],
    sorts: &[
        "created_at",
        "id",
        "volume_id",
        "status",
        "instance_id",
        "attach_status",
    ],
};

async fn list(service: &Service, call: Call, detailed: bool) -> Result<Reply> {
    let owner = service.clone();
    let body = service
        .read(move |tx| {
            // The columns that a list is usually about; the rest is looked at below.
            let by = |column, name| Some((column, call.query.last(name)?.into()));
            let mut columns: Vec<(&'static str, sql::Value)> = Vec::new();
            columns.extend(by("server_id", "instance_id"));
            columns.extend(by("volume_id", "volume_id"));
            columns.extend(scope(&call)?.map(|project| ("project_id", project.into())));
            let found: Vec<Attachment> = db::find(tx, &columns)?;
            let items = found
                .into_iter()
                .map(|one| Item {
                    id: one.id.clone(),
                    fields: json!({
                        "id": one.id, "volume_id": one.volume_id, "status": one.status,
                        "attach_status": one.status, "instance_id": one.server_id,
                        "created_at": view::time(one.created_at),
                    }),
                    item: one,
                })
                .collect();
            let page = listing::page(&call, &LIST, owner.inner.config.max_limit, items)?;
            let mut shown = Vec::new();
            for one in &page.items {
                shown.push(match detailed {
                    true => match db::get::<Volume>(tx, &one.volume_id)? {
                        Some(volume) => render(&owner, one, &volume),
                        None => continue,
                    },
                    false => view::attachment_summary(one),
                });
            }
            Ok(json!({"attachments": shown}))
        })
        .await?;
    Ok(Reply::ok(body))
}

const CREATE: &[Field] = &[
    ("volume_uuid", Kind::Id, Need::Must),
    ("instance_uuid", Kind::OptionalId, Need::May),
    ("connector", Kind::OptionalObject, Need::May),
    ("mode", Kind::OneOf(&["rw", "ro"]), Need::May),
];

/// What somebody wants to be attached.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub server: Option<String>,
    pub mode: Option<String>,
    pub connector: Option<Value>,
}

async fn create(service: &Service, call: Call) -> Result<Reply> {
    let fields = if call.version.0 >= 54 {
        CREATE
    } else {
        &CREATE[..3]
    };
    let body = check::object(&call.body, "attachment", fields, false)?;
    let volume_id = check::text(body, "volume_uuid").unwrap_or_default();
    let connector = body.get("connector").filter(|value| !value.is_null());
    let wanted = Wanted {
        server: check::text(body, "instance_uuid"),
        mode: check::text(body, "mode"),
        connector: connector
            .filter(|value| value.as_object().is_some_and(|c| !c.is_empty()))
            .cloned(),
    };
    let complete = call.version.0 < 44;
    let connects = wanted.connector.is_some();
    let attachment = service
        .write(move |tx| {
            let mut volume = volumes::allowed(tx, &call, &volume_id, "volume:attachment_create")?;
            reserve(tx, &call, &mut volume, &wanted, complete)
        })
        .await?;
    finish_connecting(service, attachment, connects, true).await
}

/// Shows an attachment; one that was just connected is served first. When it cannot be, it is taken back.
async fn finish_connecting(
    service: &Service,
    attachment: Attachment,
    connects: bool,
    new: bool,
) -> Result<Reply> {
    if connects && let Err(reason) = service.serve_exports().await {
        tracing::error!(
            attachment = attachment.id,
            reason,
            "a volume cannot be served"
        );
        take_back(service, &attachment.id, new).await?;
        let what = if new { "create" } else { "update" };
        return Err(Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Unable to {what} attachment for volume (the volume cannot be served)."),
        ));
    }
    let (owner, id) = (service.clone(), attachment.id);
    let shown = service
        .read(move |tx| {
            let attachment = db::get::<Attachment>(tx, &id)?.ok_or_else(|| missing(&id))?;
            let volume = db::get::<Volume>(tx, &attachment.volume_id)?;
            let volume = volume.ok_or_else(|| missing(&id))?;
            Ok(render(&owner, &attachment, &volume))
        })
        .await?;
    Ok(Reply::ok(json!({"attachment": shown})))
}

async fn take_back(service: &Service, id: &str, new: bool) -> Result<()> {
    let id = id.to_owned();
    service
        .write(move |tx| {
            let Some(mut attachment) = db::get::<Attachment>(tx, &id)? else {
                return Ok(());
            };
            if new {
                db::delete::<Attachment>(tx, &id)?;
            } else {
                attachment.export = None;
                attachment.connector = None;
                attachment.status = RESERVED.to_owned();
                db::save(tx, &attachment)?;
            }
            match db::get::<Volume>(tx, &attachment.volume_id)? {
                Some(mut volume) => refresh(tx, &mut volume),
                None => Ok(()),
            }
        })
        .await
}

/// Adds an attachment to a volume that may have one (more).
fn reserve(
    tx: &mut Tx<'_>,
    call: &Call,
    volume: &mut Volume,
    wanted: &Wanted,
    complete: bool,
) -> Result<Attachment> {
    if volume.status.is_error() {
        return Err(Fault::volume(format!(
            "Volume attachments can not be created if the volume is in an error state. The Volume {} currently has a \
             status of: {} ",
            volume.id, volume.status
        )));
    }
    let there = volumes::attachments(tx, volume)?;
    if volume.multiattach && volume.status == Status::InUse && volume.bootable {
        let rule = "volume:multiattach_bootable_volume";
        call.access.require(rule, &volume.project_id)?;
    }
    let free = matches!(volume.status, Status::Available | Status::Downloading);
    let shared = volume.multiattach && volume.status == Status::InUse;
    // The same server on another host: a migration is going on.
    let again = matches!(
        volume.status,
        Status::InUse | Status::Reserved | Status::Attaching
    ) && wanted.server.is_some()
        && there.iter().any(|one| one.server_id == wanted.server);
    if !(free || shared || again) {
        let statuses = match volume.multiattach {
            true => "available, in-use or downloading",
            false => "available or downloading",
        };
        return Err(Fault::volume(format!(
            "Volume {} status must be {statuses} to reserve, but the current status is {}.",
            volume.id, volume.status
        )));
    }
    let mode = match (volume.is_readonly(), &wanted.mode) {
        (true, _) => "ro",
        (false, Some(mode)) => mode,
        (false, None) => "null",
    };
    let mut attachment = Attachment {
        id: uuid::Uuid::new_v4().to_string(),
        volume_id: volume.id.clone(),
        project_id: volume.project_id.clone(),
        server_id: wanted.server.clone(),
        status: RESERVED.to_owned(),
        mode: mode.to_owned(),
        device: None,
        host: None,
        connector: None,
        export: None,
        created_at: Timestamp::now(),
        attached_at: None,
    };
    if let Some(connector) = &wanted.connector {
        connect(&mut attachment, volume, connector, complete);
    }
    db::insert(tx, &attachment)?;
    // A volume with a new reservation says so, even when others use it.
    volume.status = match attachment.status.as_str() {
        RESERVED => Status::Reserved,
        ATTACHED => Status::InUse,
        _ => Status::Attaching,
    };
    volume.updated_at = Some(Timestamp::now());
    db::save(tx, volume)?;
    Ok(attachment)
}

/// A name that cannot be guessed.
pub fn new_export() -> String {
    let bytes: [u8; 16] = rand::random();
    hex::encode(bytes)
}

/// Gives an attachment its export and what the host says of itself.
fn connect(attachment: &mut Attachment, volume: &Volume, connector: &Value, complete: bool) {
    let text = |name: &str| connector[name].as_str().map(str::to_owned);
    attachment.connector = Some(connector.clone());
    attachment.host = text("host");
    attachment.device = text("mountpoint").or(attachment.device.take());
    let asked = text("mode").filter(|mode| mode == "rw" || mode == "ro");
    if volume.is_readonly() {
        attachment.mode = "ro".to_owned();
    } else if let Some(mode) = asked {
        attachment.mode = mode;
    } else if attachment.mode == "null" {
        attachment.mode = "rw".to_owned();
    }
    attachment.export.get_or_insert_with(new_export);
    if complete {
        attachment.status = ATTACHED.to_owned();
        attachment.attached_at.get_or_insert_with(Timestamp::now);
    } else if attachment.status != ATTACHED {
        attachment.status = ATTACHING.to_owned();
    }
}

async fn update(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const UPDATE: &[Field] = &[("connector", Kind::Object, Need::Must)];
    let body = check::object(&call.body, "attachment", UPDATE, false)?;
    let connector = body.get("connector").cloned().unwrap_or_default();
    if connector.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Fault::bad(
            "Invalid input for field/attribute connector. Value: {}. {} does not have enough properties",
        ));
    }
    let key = id.to_owned();
    let attachment = service
        .write(move |tx| {
            let (mut attachment, mut volume) = seen(tx, &call, &key)?;
            call.access
                .require("volume:attachment_update", &attachment.project_id)?;
            check_update(tx, &attachment, &volume)?;
            connect(&mut attachment, &volume, &connector, call.version.0 < 44);
            db::save(tx, &attachment)?;
            refresh(tx, &mut volume)?;
            Ok(attachment)
        })
        .await?;
    finish_connecting(service, attachment, true, false).await
}

fn check_update(tx: &mut Tx<'_>, attachment: &Attachment, volume: &Volume) -> Result<()> {
    if volume.status.is_error() {
        return Err(Fault::conflict(format!(
            "Resource conflict: Volume attachments can not be updated if the volume is in an error state. The Volume \
             {} currently has a status of: {} ",
            volume.id, volume.status
        )));
    }
    let others = volumes::attachments(tx, volume)?;
    let raced = others.iter().any(|one| {
        one.id != attachment.id && one.export.is_some() && one.server_id != attachment.server_id
    });
    if raced && !volume.multiattach {
        return Err(Fault::conflict(format!(
            "Resource conflict: duplicate connectors detected on volume {}",
            volume.id
        )));
    }
    Ok(())
}

async fn complete(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(44)?;
    let only = call.body.as_object().filter(|body| body.len() == 1);
    if only.is_none_or(|body| !body.contains_key("os-complete")) {
        return Err(Fault::bad("There is no such action: only os-complete"));
    }
    let key = id.to_owned();
    service
        .write(move |tx| {
            let (mut attachment, mut volume) = seen(tx, &call, &key)?;
            call.access
                .require("volume:attachment_complete", &attachment.project_id)?;
            attachment.status = ATTACHED.to_owned();
            attachment.attached_at.get_or_insert_with(Timestamp::now);
            if attachment.mode == "null" {
                attachment.mode = "rw".to_owned();
            }
            db::save(tx, &attachment)?;
            refresh(tx, &mut volume)
        })
        .await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Refuses to detach behind a server's back (OSSA-2023-003): only the compute service, or somebody who acts with it,
/// removes an attachment that a server uses.
pub async fn deletable(service: &Service, call: &Call, attachment: &Attachment) -> Result<()> {
    let Some(server) = &attachment.server_id else {
        return Ok(());
    };
    if call.from_service || attachment.export.is_none() {
        return Ok(());
    }
    let used = match &service.inner.servers {
        Some(servers) => servers
            .uses(server, &attachment.volume_id, &attachment.id)
            .await
            .map_err(|reason| {
                tracing::warn!(reason, "the compute service cannot be asked");
                let text = "The compute service does not answer.";
                Fault::new(StatusCode::SERVICE_UNAVAILABLE, text)
            })?,
        None => true,
    };
    if used {
        return Err(Fault::conflict(format!(
            "Detach volume from instance {server} using the Compute API"
        )));
    }
    Ok(())
}

async fn remove(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let (asked, key) = (call.clone(), id.to_owned());
    let attachment = service
        .read(move |tx| {
            let (attachment, _) = seen(tx, &asked, &key)?;
            let rule = "volume:attachment_delete";
            asked.access.require(rule, &attachment.project_id)?;
            Ok(attachment)
        })
        .await?;
    deletable(service, &call, &attachment).await?;
    let rest = detach(service, &attachment).await?;
    let rest: Vec<Value> = rest.iter().map(view::attachment_summary).collect();
    Ok(Reply::ok(json!({"attachments": rest})))
}

/// Removes an attachment and stops serving it; answers what the volume still has.
pub async fn detach(service: &Service, attachment: &Attachment) -> Result<Vec<Attachment>> {
    let (id, of) = (attachment.id.clone(), attachment.volume_id.clone());
    let rest = service
        .write(move |tx| {
            db::delete::<Attachment>(tx, &id)?;
            let Some(mut volume) = db::get::<Volume>(tx, &of)? else {
                return Ok(Vec::new());
            };
            released(tx, &mut volume)?;
            volumes::attachments(tx, &volume)
        })
        .await?;
    if attachment.export.is_some()
        && let Err(reason) = service.serve_exports().await
    {
        // It is taken away as soon as the daemon is reached: nothing names it any more.
        tracing::warn!(reason, "an export is not taken away yet");
    }
    Ok(rest)
}
