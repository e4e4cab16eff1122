//! Actions of volumes.

use super::attachments::{RESERVED, refresh};
use super::{old_attach, types, volumes};
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Attachment, Job, Snapshot, Status, Volume, VolumeType};
use crate::quota::{self, Take};
use crate::service::Service;
use crate::view;
use ::types::Timestamp;
use http::StatusCode;
use serde_json::{Value, json};
use sql::Tx;

pub async fn act(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let body = call.body.as_object().filter(|body| body.len() == 1);
    let Some(name) = body.and_then(|body| body.keys().next()).cloned() else {
        return Err(Fault::bad("There is no such action."));
    };
    match name.as_str() {
        "os-extend" => extend(service, call, id).await,
        "os-extend_volume_completion" => extend_completion(service, call, id).await,
        "os-reset_status" => reset_status(service, call, id).await,
        "os-set_bootable" => set_bootable(service, call, id).await,
        "os-update_readonly_flag" => set_readonly(service, call, id).await,
        "os-retype" => retype(service, call, id).await,
        "os-volume_upload_image" => upload(service, call, id).await,
        "os-set_image_metadata" => set_image_metadata(service, call, id).await,
        "os-unset_image_metadata" => unset_image_metadata(service, call, id).await,
        "os-show_image_metadata" => show_image_metadata(service, call, id).await,
        "os-force_delete" => force_delete(service, call, id).await,
        "os-reimage" => reimage(service, call, id).await,
        "revert" => revert(service, call, id).await,
        "os-migrate_volume" => migrate(service, call, id).await,
        "os-migrate_volume_completion" => swapped(service, call, id).await,
        "os-reserve" => old_attach::reserve(service, call, id).await,
        "os-unreserve" => old_attach::unreserve(service, call, id).await,
        "os-begin_detaching" => old_attach::begin_detaching(service, call, id).await,
        "os-roll_detaching" => old_attach::roll_detaching(service, call, id).await,
        "os-attach" => old_attach::attach(service, call, id).await,
        "os-detach" => old_attach::remove(service, call, id, false).await,
        "os-force_detach" => old_attach::remove(service, call, id, true).await,
        "os-initialize_connection" => old_attach::initialize(service, call, id).await,
        "os-terminate_connection" => old_attach::terminate(service, call, id).await,
        "os-unmanage" => Err(Fault::absent(
            "Volumes of this service are its own files and cannot be given away.",
        )),
        other => Err(Fault::bad(format!("There is no such action: {other}"))),
    }
}

/// Changes a volume that the caller may change so; gives the answer of the change.
async fn change<T, F>(
    service: &Service,
    call: &Call,
    id: &str,
    rule: &'static str,
    mut act: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnMut(&mut Tx<'_>, &mut Volume) -> Result<T> + Send + 'static,
{
    let (call, id) = (call.clone(), id.to_owned());
    service
        .write(move |tx| {
            let mut volume = volumes::allowed(tx, &call, &id, rule)?;
            let answer = act(tx, &mut volume)?;
            volume.updated_at = Some(Timestamp::now());
            volume.request_id.clone_from(&call.request_id);
            db::save(tx, &volume)?;
            Ok(answer)
        })
        .await
}

fn accepted() -> Result<Reply> {
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

async fn extend(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("new_size", Kind::Size, Need::Must)];
    let body = check::object(&call.body, "os-extend", FIELDS, false)?;
    let size = body.get("new_size").and_then(check::whole).unwrap_or(0);
    let size = u64::try_from(size).unwrap_or(0);
    let (owner, asked) = (service.clone(), call.clone());
    change(service, &call, id, "volume:extend", move |tx, volume| {
        let used = volume.status == Status::InUse && asked.version.0 >= 42;
        if used {
            let rule = "volume:extend_attached_volume";
            asked.access.require(rule, &volume.project_id)?;
        }
        if volume.status != Status::Available && !used {
            return Err(Fault::volume(format!(
                "Volume {} status must be available to extend, but the current status is {}.",
                volume.id, volume.status
            )));
        }
        if size <= volume.size {
            return Err(Fault::input(format!(
                "New size for extend must be greater than current size. (current: {}, extended: {size}).",
                volume.size
            )));
        }
        let config = &owner.inner.config;
        let more = size - volume.size;
        let take = Take {
            gigabytes: i64::try_from(more).unwrap_or(i64::MAX),
            ..Take::default()
        };
        let kind = db::get::<VolumeType>(tx, &volume.type_id)?;
        let type_name = kind.map(|kind| kind.name).unwrap_or_default();
        quota::check_size(tx, config, &volume.project_id, size)?;
        quota::check(tx, config, &volume.project_id, &type_name, take)?;
        if let Some(reason) = volumes::no_room(tx, &owner, more)? {
            return Err(Fault::volume(format!("the volume cannot grow: {reason}")));
        }
        volume.job = Some(Job::Extend(size, volume.status));
        volume.status = Status::Extending;
        Ok(())
    })
    .await?;
    service.begin_volume(id);
    accepted()
}

/// The host says whether the guest has seen the new size (3.71). The volume has it already: it is told here once more.
async fn extend_completion(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(71)?;
    const FIELDS: &[Field] = &[("error", Kind::OptionalBool, Need::May)];
    let body = check::object(&call.body, "os-extend_volume_completion", FIELDS, false)?;
    let failed = check::yes(body, "error");
    let rule = "volume_extension:volume_admin_actions:extend_volume_completion";
    change(service, &call, id, rule, move |_, volume| {
        if failed {
            tracing::warn!(
                volume = volume.id,
                "a host could not grow an attached volume"
            );
        }
        if volume.status != Status::Extending {
            return Err(Fault::volume(format!(
                "Volume {} status must be 'extending', but the current status is '{}'.",
                volume.id, volume.status
            )));
        }
        Ok(())
    })
    .await?;
    accepted()
}

/// What `os-reset_status` may set.
const SETTABLE: &[Status] = &[
    Status::Creating,
    Status::Available,
    Status::Deleting,
    Status::Error,
    Status::ErrorDeleting,
    Status::ErrorManaging,
    Status::ErrorExtending,
    Status::ErrorBackingUp,
    Status::ErrorRestoring,
    Status::Attaching,
    Status::Detaching,
    Status::InUse,
    Status::Maintenance,
    Status::Reserved,
    Status::AwaitingTransfer,
    Status::BackingUp,
    Status::RestoringBackup,
    Status::Downloading,
    Status::Uploading,
    Status::Retyping,
    Status::Extending,
    Status::Managing,
];

async fn reset_status(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("status", Kind::OptionalText, Need::May),
        ("attach_status", Kind::OptionalText, Need::May),
        ("migration_status", Kind::OptionalText, Need::May),
    ];
    let body = check::object(&call.body, "os-reset_status", FIELDS, false)?;
    if body.is_empty() {
        return Err(Fault::bad(
            "Must specify 'status', 'attach_status' or 'migration_status' for update.",
        ));
    }
    let status = match check::text(body, "status") {
        None => None,
        Some(text) => {
            let known = Status::parse(&text).filter(|status| SETTABLE.contains(status));
            Some(known.ok_or_else(|| {
                Fault::bad(format!(
                    "Invalid input for field/attribute status. Value: {text}. '{text}' is no status"
                ))
            })?)
        }
    };
    let attach = check::text(body, "attach_status");
    if attach
        .as_deref()
        .is_some_and(|text| text != "attached" && text != "detached")
    {
        return Err(Fault::bad(
            "Invalid input for field/attribute attach_status: it is 'attached' or 'detached'",
        ));
    }
    let migration = body.contains_key("migration_status");
    let new_migration = check::text(body, "migration_status").filter(|text| text != "none");
    let rule = "volume_extension:volume_admin_actions:reset_status";
    change(service, &call, id, rule, move |tx, volume| {
        if attach.as_deref() == Some("detached") {
            for attachment in volumes::attachments(tx, volume)? {
                db::delete::<Attachment>(tx, &attachment.id)?;
            }
            volume.admin_metadata.remove("attached_mode");
        }
        if let Some(status) = status {
            volume.status = status;
        }
        if migration {
            volume.migration_status.clone_from(&new_migration);
        }
        Ok(())
    })
    .await?;
    if let Err(reason) = service.serve_exports().await {
        tracing::warn!(reason, "exports are not what attachments say");
    }
    accepted()
}

async fn set_bootable(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("bootable", Kind::Bool, Need::Must)];
    let body = check::object(&call.body, "os-set_bootable", FIELDS, false)?;
    let bootable = check::yes(body, "bootable");
    change(service, &call, id, "volume:update", move |_, volume| {
        volume.bootable = bootable;
        Ok(())
    })
    .await?;
    Ok(Reply::empty(StatusCode::OK))
}

async fn set_readonly(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("readonly", Kind::Bool, Need::Must)];
    let body = check::object(&call.body, "os-update_readonly_flag", FIELDS, false)?;
    let readonly = if check::yes(body, "readonly") {
        "True"
    } else {
        "False"
    };
    let rule = "volume:update_readonly_flag";
    change(service, &call, id, rule, move |_, volume| {
        if volume.status != Status::Available {
            return Err(Fault::volume(format!(
                "Volume {} status must be available to update readonly flag, but current status is: {}.",
                volume.id, volume.status
            )));
        }
        let metadata = &mut volume.admin_metadata;
        metadata.insert("readonly".to_owned(), readonly.to_owned());
        Ok(())
    })
    .await?;
    accepted()
}

async fn retype(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("new_type", Kind::FullName, Need::Must),
        (
            "migration_policy",
            Kind::OneOf(&["on-demand", "never"]),
            Need::May,
        ),
    ];
    let body = check::object(&call.body, "os-retype", FIELDS, false)?;
    let wanted = check::text(body, "new_type").unwrap_or_default();
    let (config, asked) = (service.inner.config.clone(), call.clone());
    change(service, &call, id, "volume:retype", move |tx, volume| {
        if !matches!(volume.status, Status::Available | Status::InUse)
            || volume.is_migrating()
            || volume.group_id.is_some()
        {
            return Err(Fault::volume(format!(
                "Retype needs volume to be in available or in-use state, not be part of an active migration or a \
                 consistency group, requested type has to be different that the one from the volume, and for in-use \
                 volumes front-end qos specs cannot change. The current status is {}.",
                volume.status
            )));
        }
        let kind = types::find(tx, &asked, &wanted)?;
        if kind.id == volume.type_id {
            return Err(Fault::volume(
                "Retype needs the requested type to be different from the one of the volume.",
            ));
        }
        if kind.multiattach() != volume.multiattach && volume.status != Status::Available {
            return Err(Fault::input(
                "Changing the multiattach capability of a volume needs it to be available.",
            ));
        }
        let take = Take {
            volumes: 1,
            gigabytes: i64::try_from(volume.size).unwrap_or(i64::MAX),
            ..Take::default()
        };
        quota::check_type(tx, &config, &volume.project_id, &kind.name, take)?;
        // There is one backend: another type is only another name for the same files.
        volume.type_id.clone_from(&kind.id);
        volume.multiattach = kind.multiattach();
        Ok(())
    })
    .await?;
    accepted()
}

const UPLOAD: &[Field] = &[
    ("image_name", Kind::FullName, Need::Must),
    ("force", Kind::OptionalBool, Need::May),
    (
        "disk_format",
        Kind::OneOf(&["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"]),
        Need::May,
    ),
    ("container_format", Kind::OptionalText, Need::May),
    (
        "visibility",
        Kind::OneOf(&["private", "public", "shared", "community"]),
        Need::May,
    ),
    ("protected", Kind::OptionalBool, Need::May),
];

async fn upload(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let fields = if call.version.0 >= 1 {
        UPLOAD
    } else {
        &UPLOAD[..4]
    };
    let body = check::object(&call.body, "os-volume_upload_image", fields, false)?.clone();
    let given =
        |name: &str, other: &str| check::text(&body, name).unwrap_or_else(|| other.to_owned());
    let format = given("disk_format", "raw");
    let container = given("container_format", "bare");
    if formats::qemu::driver(&format).is_none() || container != "bare" {
        return Err(Fault::bad(format!(
            "An image of format {format} in a container {container} cannot be made here."
        )));
    }
    let visibility = given("visibility", "private");
    if visibility == "public" {
        let rule = "volume_extension:volume_actions:upload_public";
        call.access.require_own(rule)?;
    }
    let rule = "volume_extension:volume_actions:upload_image";
    let (asked, key) = (call.clone(), id.to_owned());
    let volume = service
        .read(move |tx| {
            let volume = volumes::allowed(tx, &asked, &key, rule)?;
            uploadable(&volume)?;
            Ok(volume)
        })
        .await?;
    let record = image_record(&call, &volume, &body, &format, &visibility);
    let image = service.inner.images.create(&call.token, &record).await?;
    let image_id = image["id"].as_str().unwrap_or_default().to_owned();
    let (new, kind_of) = (image_id.clone(), format.clone());
    let begun = change(service, &call, id, rule, move |tx, volume| {
        uploadable(volume)?;
        volume.job = Some(Job::Upload(new.clone(), kind_of.clone(), volume.status));
        volume.status = Status::Uploading;
        let kind = db::get::<VolumeType>(tx, &volume.type_id)?;
        Ok((volume.clone(), kind))
    })
    .await;
    let (volume, kind) = match begun {
        Ok(begun) => begun,
        Err(fault) => {
            service.inner.images.remove(&image_id).await;
            return Err(fault);
        }
    };
    service.begin_volume(id);
    let mut shown = json!({
        "id": volume.id,
        "updated_at": view::optional_time(volume.updated_at),
        "status": "uploading",
        "display_description": volume.description,
        "size": volume.size,
        "volume_type": kind.map(|kind| types::whole(&kind)),
        "image_id": image_id,
        "container_format": container,
        "disk_format": format,
        "image_name": given("image_name", ""),
    });
    if call.version.0 >= 1 {
        shown["visibility"] = json!(visibility);
        shown["protected"] = json!(check::yes(&body, "protected"));
    }
    Ok(Reply::accepted(json!({"os-volume_upload_image": shown})))
}

fn uploadable(volume: &Volume) -> Result<()> {
    if volume.status == Status::Available {
        return Ok(());
    }
    Err(Fault::volume(format!(
        "Volume {} status must be available, but current status is: {}.",
        volume.id, volume.status
    )))
}

/// What the image service is told; what the volume remembers of its own image goes along.
fn image_record(
    call: &Call,
    volume: &Volume,
    body: &serde_json::Map<String, Value>,
    format: &str,
    visibility: &str,
) -> Value {
    const OWN: &[&str] = &[
        "image_id",
        "image_name",
        "checksum",
        "container_format",
        "disk_format",
        "size",
        "min_disk",
        "min_ram",
    ];
    let mut record = json!({
        "name": check::text(body, "image_name"),
        "disk_format": format,
        "container_format": "bare",
        "min_disk": volume.size,
    });
    let min_ram = volume.image_metadata.get("min_ram");
    let min_ram = min_ram.and_then(|text| text.parse::<u64>().ok());
    record["min_ram"] = json!(min_ram.unwrap_or(0));
    for (name, value) in &volume.image_metadata {
        if !OWN.contains(&name.as_str()) {
            record[name] = json!(value);
        }
    }
    if call.version.0 >= 1 {
        record["visibility"] = json!(visibility);
        record["protected"] = json!(check::yes(body, "protected"));
    }
    record
}

async fn set_image_metadata(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("metadata", Kind::Texts, Need::Must)];
    let body = check::object(&call.body, "os-set_image_metadata", FIELDS, false)?;
    let more = check::texts("metadata", body.get("metadata").unwrap_or(&Value::Null))?;
    let rule = "volume_extension:volume_image_metadata:set";
    let all = change(service, &call, id, rule, move |_, volume| {
        volume.image_metadata.extend(more.clone());
        Ok(volume.image_metadata.clone())
    })
    .await?;
    Ok(Reply::ok(json!({"metadata": all})))
}

async fn unset_image_metadata(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[("key", Kind::FullName, Need::Must)];
    let body = check::object(&call.body, "os-unset_image_metadata", FIELDS, false)?;
    let key = check::text(body, "key").unwrap_or_default();
    let rule = "volume_extension:volume_image_metadata:remove";
    change(service, &call, id, rule, move |_, volume| {
        match volume.image_metadata.remove(&key) {
            Some(_) => Ok(()),
            None => Err(Fault::not_found("Metadata item was not found.")),
        }
    })
    .await?;
    Ok(Reply::empty(StatusCode::OK))
}

async fn show_image_metadata(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let id = id.to_owned();
    let metadata = service
        .read(move |tx| {
            let rule = "volume_extension:volume_image_metadata:show";
            Ok(volumes::allowed(tx, &call, &id, rule)?.image_metadata)
        })
        .await?;
    Ok(Reply::ok(json!({"metadata": metadata})))
}

async fn force_delete(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let key = id.to_owned();
    service
        .write(move |tx| {
            let rule = "volume_extension:volume_admin_actions:force_delete";
            let volume = volumes::allowed(tx, &call, &key, rule)?;
            volumes::mark_deleted(tx, volume, false, volumes::Manner::Forced)
        })
        .await?;
    service.begin_volume(id);
    accepted()
}

async fn reimage(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(68)?;
    const FIELDS: &[Field] = &[
        ("image_id", Kind::Id, Need::Must),
        ("reimage_reserved", Kind::OptionalBool, Need::May),
    ];
    let body = check::object(&call.body, "os-reimage", FIELDS, false)?;
    let reserved = check::yes(body, "reimage_reserved");
    let image_id = check::text(body, "image_id").unwrap_or_default();
    let image = service.inner.images.find(&call.token, &image_id).await?;
    let rule = match reserved {
        true => "volume:reimage_reserved",
        false => "volume:reimage",
    };
    change(service, &call, id, rule, move |tx, volume| {
        let usable = matches!(volume.status, Status::Available | Status::Error)
            || (reserved && volume.status == Status::Reserved);
        // One that shows a new reservation may be in use all the same.
        let all = volumes::attachments(tx, volume)?;
        let used = all.iter().any(|one| one.status != RESERVED);
        if !usable || used {
            let statuses = match reserved {
                true => "available or error or reserved",
                false => "available or error",
            };
            return Err(Fault::conflict(format!(
                "Resource conflict: status must be {statuses} to re-image volume {}, but current status is {}.",
                volume.id, volume.status
            )));
        }
        volumes::fits_image(&image, volume.size)?;
        let back = match volume.status {
            Status::Error => Status::Available,
            other => other,
        };
        Service::remember_image(volume, &image);
        volume.job = Some(Job::Reimage(image.id.clone(), back));
        volume.status = Status::Downloading;
        Ok(())
    })
    .await?;
    service.begin_volume(id);
    accepted()
}

async fn revert(service: &Service, call: Call, id: &str) -> Result<Reply> {
    call.version.since(40)?;
    let wanted = call.body["revert"]["snapshot_id"]
        .as_str()
        .map(str::to_owned);
    let rule = "volume:revert_to_snapshot";
    change(service, &call, id, rule, move |tx, volume| {
        let of_volume = [("volume_id", sql::Value::from(&volume.id))];
        let all = db::find::<Snapshot>(tx, &of_volume)?;
        let Some(latest) = all.into_iter().max_by_key(|one| one.created_at) else {
            return Err(Fault::bad(format!("Volume {} doesn't have any snapshots.", volume.id)));
        };
        if wanted.as_ref() != Some(&latest.id) {
            return Err(Fault::bad(format!(
                "Specified snapshot {} is None or not the latest one of volume {}.",
                wanted.as_deref().unwrap_or("None"),
                volume.id
            )));
        }
        if latest.size != volume.size {
            return Err(Fault::bad(format!(
                "Can't revert volume {} to its latest snapshot {}. The volume size must be equal to the snapshot size.",
                volume.id, latest.id
            )));
        }
        if volume.status != Status::Available {
            return Err(Fault::conflict(format!(
                "Invalid volume: Can't revert volume {} to its latest snapshot {}. Volume's status must be available.",
                volume.id, latest.id
            )));
        }
        if latest.status != Status::Available {
            return Err(Fault::conflict(format!(
                "Invalid snapshot: Can't revert volume {} to its latest snapshot {}. Snapshot's status must be \
                 available.",
                volume.id, latest.id
            )));
        }
        volume.job = Some(Job::Revert(latest.id, volume.status));
        volume.status = Status::Reverting;
        Ok(())
    })
    .await?;
    service.begin_volume(id);
    accepted()
}

async fn migrate(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_admin_actions:migrate_volume";
    let host = call.body["os-migrate_volume"]["host"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    change(service, &call, id, rule, move |_, _| {
        // There is one backend, and the volume is there.
        Err::<(), _>(Fault::input(format!(
            "No available service named {host} to which this volume could go."
        )))
    })
    .await?;
    accepted()
}

/// Compute has swapped a volume for another: the attachments change over (`os-migrate_volume_completion`).
async fn swapped(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("new_volume", Kind::Id, Need::Must),
        ("error", Kind::OptionalBool, Need::May),
    ];
    let body = check::object(&call.body, "os-migrate_volume_completion", FIELDS, false)?;
    let failed = check::yes(body, "error");
    let other = check::text(body, "new_volume").unwrap_or_default();
    let answer = other.clone();
    let rule = "volume_extension:volume_admin_actions:migrate_volume_completion";
    let asked = call.clone();
    change(service, &call, id, rule, move |tx, volume| {
        let mut new = volumes::seen(tx, &asked, &other)?;
        if !failed {
            let old = volumes::attachments(tx, volume)?;
            let known = volumes::attachments(tx, &new)?;
            for attachment in old {
                db::delete::<Attachment>(tx, &attachment.id)?;
                // The newer way makes attachments of its own for the new volume.
                if known
                    .iter()
                    .any(|one| one.server_id == attachment.server_id)
                {
                    continue;
                }
                let moved = Attachment {
                    id: uuid::Uuid::new_v4().to_string(),
                    volume_id: new.id.clone(),
                    status: "attached".to_owned(),
                    ..attachment
                };
                db::insert(tx, &moved)?;
            }
        }
        if volume.is_migrating() {
            let over = if failed { "error" } else { "success" };
            volume.migration_status = Some(over.to_owned());
        }
        refresh(tx, &mut new)?;
        refresh(tx, volume)
    })
    .await?;
    if let Err(reason) = service.serve_exports().await {
        tracing::warn!(reason, "exports are not what attachments say");
    }
    Ok(Reply::ok(json!({"save_volume_id": answer})))
}
