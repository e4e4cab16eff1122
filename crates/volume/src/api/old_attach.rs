//! The way to attach before there were attachments: reserve, initialize, attach; begin, terminate, detach.

use super::attachments::{
    ATTACHED, ATTACHING, DETACHING, deletable, detach, new_export, refresh, released,
};
use super::volumes;
use crate::check::{self, Field, Kind, Need};
use crate::db;
use crate::edge::{Call, Reply};
use crate::fault::{Fault, Result};
use crate::model::{Attachment, Status, Volume};
use crate::service::{Service, export_of};
use http::StatusCode;
use serde_json::{Value, json};
use types::Timestamp;

fn done() -> Reply {
    Reply::empty(StatusCode::ACCEPTED)
}

/// Moves a volume from some statuses to another, and its attachments along.
async fn switch(
    service: &Service,
    call: Call,
    id: &str,
    rule: &'static str,
    act: fn(&mut Volume, &mut [Attachment]) -> Result<()>,
) -> Result<Reply> {
    let id = id.to_owned();
    service
        .write(move |tx| {
            let mut volume = volumes::allowed(tx, &call, &id, rule)?;
            let mut attachments = volumes::attachments(tx, &volume)?;
            act(&mut volume, &mut attachments)?;
            for attachment in &attachments {
                db::save(tx, attachment)?;
            }
            volume.updated_at = Some(Timestamp::now());
            db::save(tx, &volume)?;
            Ok(())
        })
        .await?;
    Ok(done())
}

pub async fn reserve(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_actions:reserve";
    switch(service, call, id, rule, |volume, _| {
        let shared = volume.multiattach && volume.status == Status::InUse;
        if volume.status != Status::Available && !shared {
            return Err(Fault::volume(format!(
                "Volume status must be available to reserve, but the status is {}.",
                volume.status
            )));
        }
        volume.status = Status::Attaching;
        Ok(())
    })
    .await
}

pub async fn unreserve(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_actions:unreserve";
    switch(service, call, id, rule, |volume, attachments| {
        if volume.status == Status::Attaching {
            let used = attachments.iter().any(|one| one.status == ATTACHED);
            volume.status = if used {
                Status::InUse
            } else {
                Status::Available
            };
        }
        Ok(())
    })
    .await
}

pub async fn begin_detaching(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_actions:begin_detaching";
    switch(service, call, id, rule, |volume, attachments| {
        if volume.is_migrating() {
            // Its users do not see the move.
            return Ok(());
        }
        let attached = attachments.iter().any(|one| one.status == ATTACHED);
        if volume.status != Status::InUse || !attached {
            return Err(Fault::volume(format!(
                "Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to \
                 detach. But the status is {}.",
                volume.status
            )));
        }
        // Whoever waits for the volume sees that somebody gives it back. Which one of several does is not known here.
        volume.status = Status::Detaching;
        if let [only] = attachments {
            only.status = DETACHING.to_owned();
        }
        Ok(())
    })
    .await
}

pub async fn roll_detaching(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_actions:roll_detaching";
    switch(service, call, id, rule, |volume, attachments| {
        if volume.status == Status::Detaching {
            volume.status = Status::InUse;
            for attachment in attachments {
                if attachment.status == DETACHING {
                    attachment.status = ATTACHED.to_owned();
                }
            }
        }
        Ok(())
    })
    .await
}

pub async fn attach(service: &Service, call: Call, id: &str) -> Result<Reply> {
    const FIELDS: &[Field] = &[
        ("instance_uuid", Kind::OptionalId, Need::May),
        ("host_name", Kind::OptionalText, Need::May),
        ("mountpoint", Kind::FullName, Need::Must),
        ("mode", Kind::OneOf(&["rw", "ro"]), Need::May),
    ];
    let body = check::object(&call.body, "os-attach", FIELDS, false)?.clone();
    let server = check::text(&body, "instance_uuid");
    let host = check::text(&body, "host_name");
    if server.is_some() == host.is_some() {
        return Err(Fault::bad(
            "Invalid input for field/attribute os-attach: one of instance_uuid and host_name is needed",
        ));
    }
    let device = check::text(&body, "mountpoint");
    let mode = check::text(&body, "mode").unwrap_or_else(|| "rw".to_owned());
    let id = id.to_owned();
    service
        .write(move |tx| {
            let rule = "volume_extension:volume_actions:attach";
            let mut volume = volumes::allowed(tx, &call, &id, rule)?;
            if volume.is_readonly() && mode == "rw" {
                return Err(Fault::bad(format!(
                    "Invalid attaching mode 'rw' for volume {}.",
                    volume.id
                )));
            }
            let shared = volume.multiattach && volume.status == Status::InUse;
            if !matches!(volume.status, Status::Available | Status::Attaching) && !shared {
                return Err(Fault::volume(
                    "volume must be available or attaching to be attached",
                ));
            }
            // The connection that was made for it before.
            let begun = volumes::attachments(tx, &volume)?
                .into_iter()
                .find(|one| one.status == ATTACHING && one.server_id.is_none());
            let known = begun.is_some();
            let mut attachment = begun.unwrap_or_else(|| fresh(&volume));
            attachment.status = ATTACHED.to_owned();
            attachment.server_id.clone_from(&server);
            attachment.host = host.clone().or(attachment.host.take());
            attachment.device.clone_from(&device);
            attachment.mode.clone_from(&mode);
            attachment.attached_at = Some(Timestamp::now());
            match known {
                true => db::save(tx, &attachment).map(drop)?,
                false => db::insert(tx, &attachment)?,
            }
            volume.status = Status::InUse;
            refresh(tx, &mut volume)
        })
        .await?;
    Ok(done())
}

fn fresh(volume: &Volume) -> Attachment {
    Attachment {
        id: uuid::Uuid::new_v4().to_string(),
        volume_id: volume.id.clone(),
        project_id: volume.project_id.clone(),
        server_id: None,
        status: ATTACHING.to_owned(),
        mode: if volume.is_readonly() { "ro" } else { "rw" }.to_owned(),
        device: None,
        host: None,
        connector: None,
        export: None,
        created_at: Timestamp::now(),
        attached_at: None,
    }
}

/// `os-detach`, and `os-force_detach` of administrators.
pub async fn remove(service: &Service, call: Call, id: &str, force: bool) -> Result<Reply> {
    let (name, rule) = match force {
        true => (
            "os-force_detach",
            "volume_extension:volume_admin_actions:force_detach",
        ),
        false => ("os-detach", "volume_extension:volume_actions:detach"),
    };
    let wanted = call.body[name]["attachment_id"].as_str().map(str::to_owned);
    let (asked, id) = (call.clone(), id.to_owned());
    let found = service
        .read(move |tx| {
            let volume = volumes::allowed(tx, &asked, &id, rule)?;
            let all = volumes::attachments(tx, &volume)?;
            if wanted.is_none() && all.len() > 1 {
                return Err(Fault::volume(
                    "Detach volume failed: More than one attachment, but no attachment_id provided.",
                ));
            }
            let found = all
                .into_iter()
                .find(|one| wanted.as_ref().is_none_or(|id| one.id == *id));
            if let (None, Some(id)) = (&found, &wanted) {
                let other = db::get::<Attachment>(tx, id)?;
                if other.is_some_and(|one| asked.access.sees(&one.project_id)) {
                    return Err(Fault::bad(format!(
                        "Attachment {id} is not one of volume {}.",
                        volume.id
                    )));
                }
                return Err(Fault::not_found(
                    "Volume attachment could not be found with filter: attachment_id.",
                ));
            }
            Ok((found, volume))
        })
        .await?;
    let (attachment, volume) = found;
    match attachment {
        Some(attachment) => {
            deletable(service, &call, &attachment).await?;
            detach(service, &attachment).await?;
        }
        None => {
            // Nothing is attached: whatever was begun is over.
            let id = volume.id;
            service
                .write(move |tx| match db::get::<Volume>(tx, &id)? {
                    Some(mut volume) => released(tx, &mut volume),
                    None => Ok(()),
                })
                .await?;
        }
    }
    Ok(done())
}

fn connector(call: &Call, name: &str) -> Result<Value> {
    const FIELDS: &[Field] = &[("connector", Kind::Object, Need::Must)];
    let body = check::object(&call.body, name, FIELDS, true)?;
    Ok(body.get("connector").cloned().unwrap_or_default())
}

pub async fn initialize(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let connector = connector(&call, "os-initialize_connection")?;
    let (owner, id) = (service.clone(), id.to_owned());
    let (info, fresh_id) = service
        .write(move |tx| {
            let rule = "volume_extension:volume_actions:initialize_connection";
            let volume = volumes::allowed(tx, &call, &id, rule)?;
            let host = connector["host"].as_str().map(str::to_owned);
            let all = volumes::attachments(tx, &volume)?;
            let known = all.into_iter().find(|one| one.host == host);
            let is_known = known.is_some();
            let mut attachment = known.unwrap_or_else(|| fresh(&volume));
            attachment.host = host;
            attachment.connector = Some(connector.clone());
            attachment.export.get_or_insert_with(new_export);
            match is_known {
                true => db::save(tx, &attachment).map(drop)?,
                false => db::insert(tx, &attachment)?,
            }
            let export = export_of(&attachment, &volume);
            let mut info = export.map_or(Value::Null, |export| {
                let exports = &owner.inner.exports;
                exports.connection(&export, &attachment.id, &attachment.mode)
            });
            info["enforce_multipath"] = json!(connector["enforce_multipath"] == true);
            Ok((info, (!is_known).then_some(attachment)))
        })
        .await?;
    if let Err(reason) = service.serve_exports().await {
        tracing::error!(reason, "a volume cannot be served");
        if let Some(attachment) = fresh_id {
            detach(service, &attachment).await?;
        }
        return Err(Fault::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Unable to fetch connection information from backend.",
        ));
    }
    Ok(Reply::ok(json!({"connection_info": info})))
}

pub async fn terminate(service: &Service, call: Call, id: &str) -> Result<Reply> {
    let rule = "volume_extension:volume_actions:terminate_connection";
    let connector = connector(&call, "os-terminate_connection")?;
    let host = connector["host"].as_str().map(str::to_owned);
    let (asked, id) = (call.clone(), id.to_owned());
    let of = id.clone();
    let there = service
        .read(move |tx| {
            let volume = volumes::allowed(tx, &asked, &of, rule)?;
            volumes::attachments(tx, &volume)
        })
        .await?;
    // Without a host the connector may be anybody's.
    let meant = |one: &&Attachment| host.is_none() || one.host == host;
    for one in there.iter().filter(meant) {
        deletable(service, &call, one).await?;
    }
    service
        .write(move |tx| {
            let mut volume = volumes::allowed(tx, &call, &id, rule)?;
            for mut one in volumes::attachments(tx, &volume)? {
                if one.host != host {
                    continue;
                }
                if one.status == ATTACHING && one.server_id.is_none() {
                    db::delete::<Attachment>(tx, &one.id)?;
                    continue;
                }
                one.export = None;
                db::save(tx, &one)?;
            }
            refresh(tx, &mut volume)
        })
        .await?;
    if let Err(reason) = service.serve_exports().await {
        tracing::warn!(reason, "an export is not taken away yet");
    }
    Ok(done())
}
