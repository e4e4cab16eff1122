//! `rescue` and `unrescue`.

use crate::call::{Call, Reply};
use crate::commands::password;
use crate::faults::Fault;
use crate::handlers::server_actions::{Wanted, start_flow, start_flow_and};
use crate::handlers::server_volumes::all_in_use;
use crate::idempotency::Answer;
use crate::mv;
use crate::neighbours::unavailable;
use crate::verdict;
use crate::vtpm;
use db::accept;
use db::instances::{Instance, Kept};
use http::StatusCode;
use serde_json::json;
use types::TaskState;
use types::image_properties::ImageProperties;
use types::server::ImageRef;

/// `rescue`: answers the password that the rescued guest gets.
pub async fn rescue(call: Call) -> Result<Reply, Fault> {
    let pass = call
        .text("rescue", "adminPass")
        .map_or_else(password, str::to_owned);
    let server = call.server().await?;
    vtpm::refuse(&server, "rescue")?;
    verdict::RESCUE.check(&call, &server)?;
    let named = match call.text("rescue", "rescue_image_ref") {
        Some(id) => Some(rescue_image(&call, id).await?),
        None => None,
    };
    all_in_use(&call, server.id, Fault::conflict).await?;
    can_be_rescued(&call, &server, named.as_ref())?;
    let image = match (named, &call.api.config.rescue_image) {
        (Some(named), _) => Some(named),
        (None, Some(id)) => Some(rescue_image(&call, id).await?),
        (None, None) if server.is_volume_backed() => Some(image_of_volume(&call, &server).await?),
        (None, None) => server.image.clone(),
    };
    let image = match image {
        Some(image) => Some(checked(&call, &server, image).await),
        None => None,
    };
    let reply = Reply::ok(&json!({ "adminPass": pass }))?;
    let wanted = Wanted {
        rule: verdict::RESCUE,
        action: "rescue",
        flow: accept::RESCUE,
        state: json!({ "image": image }),
        task_state: Some(TaskState::Rescuing),
        answer: Answer::Now(reply.clone()),
    };
    let sealed = call.api.deps.secrets.seal(&pass);
    start_flow_and(&call, wanted, move |tx, server| {
        let kept = Kept {
            rescue_pass: Some(sealed.clone()),
            ..server.kept.clone()
        };
        Ok(db::instances::set_kept(tx, server.id, &kept)?)
    })
    .await?;
    Ok(reply)
}

/// Refuses to rescue a server that boots from a volume, except from 2.87 on with an image that says where the rescue disk
/// goes: as in Nova the one that is named, or what the server knows of its own.
fn can_be_rescued(call: &Call, server: &Instance, named: Option<&ImageRef>) -> Result<(), Fault> {
    if !server.is_volume_backed() {
        return Ok(());
    }
    let properties = match named {
        Some(image) => Some(&image.properties),
        None => server.image_properties(),
    };
    let says = |name: &str| properties.is_some_and(|all| all.contains_key(name));
    if call.at_least(mv::RESCUE_VOLUMES) && says("hw_rescue_device") && says("hw_rescue_bus") {
        return Ok(());
    }
    Err(Fault::bad_request(format!(
        "Instance {} cannot be rescued: Cannot rescue a volume-backed instance",
        server.id
    )))
}

/// The image with what its bytes must be. Of the server's own image that is known.
async fn checked(call: &Call, server: &Instance, mut image: ImageRef) -> ImageRef {
    if image.check.is_none() {
        let kept = server.kept.trusted_certs.as_deref();
        image.check = call.check_of(&image, kept).await;
    }
    image
}

/// The image that the volume was made of from which a server boots.
async fn image_of_volume(call: &Call, server: &Instance) -> Result<ImageRef, Fault> {
    let unknown = || {
        Fault::bad_request(format!(
            "Instance {} cannot be rescued: its root volume was not made of an image; name one",
            server.id
        ))
    };
    let devices = call.devices_of(server.id).await?;
    let root = devices.into_iter().find(|device| device.is_root());
    let id = root.and_then(|root| root.volume_id).ok_or_else(unknown)?;
    let volume = call.volume(&id).await?.ok_or_else(unknown)?;
    let image = volume.image_metadata.get("image_id").ok_or_else(unknown)?;
    rescue_image(call, image).await
}

async fn rescue_image(call: &Call, id: &str) -> Result<ImageRef, Fault> {
    let found = call.api.deps.images.get(&call.token, id).await;
    let unusable = || Fault::bad_request(format!("Requested rescue image '{id}' is not supported"));
    let usable = found
        .map_err(unavailable)?
        .filter(|found| found.status == "active")
        .ok_or_else(unusable)?;
    let properties = ImageProperties::parse(&usable.image.properties)
        .map_err(|wrong| Fault::bad_request(wrong.to_string()))?;
    if !properties.list("img_block_device_mapping").is_empty() {
        // It names volumes, and has no bytes of its own.
        return Err(unusable());
    }
    Ok(usable.image)
}

/// `unrescue`.
pub async fn unrescue(call: Call) -> Result<Reply, Fault> {
    let wanted = Wanted {
        rule: verdict::UNRESCUE,
        action: "unrescue",
        flow: accept::UNRESCUE,
        state: json!({}),
        task_state: Some(TaskState::Unrescuing),
        answer: Answer::accepted(),
    };
    start_flow(&call, wanted).await?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}
