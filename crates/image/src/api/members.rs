//! Projects that an image is shared with (Image API v2, "Sharing").

use super::{json_body, seen, view};
use crate::access::Access;
use crate::db;
use crate::fault::Fault;
use crate::model::{Image, Member, Visibility};
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use serde_json::{Value, json};
use sql::Tx;
use types::Timestamp;

/// A shared image that the caller sees; other images have no members.
fn shared(tx: &mut Tx<'_>, id: &str, access: &Access) -> Result<(Image, bool), Fault> {
    let (image, member) = seen(tx, id, access).map_err(|fault| {
        if fault.status == StatusCode::NOT_FOUND {
            Fault::not_found(format!("Image {id} not found."))
        } else {
            fault
        }
    })?;
    if image.visibility == Visibility::Shared {
        Ok((image, member))
    } else {
        Err(Fault::forbidden("Only shared images have members."))
    }
}

/// What a route says instead of why it is forbidden.
fn forbidden_as(fault: Fault, instead: impl FnOnce() -> Fault) -> Fault {
    if fault.status == StatusCode::FORBIDDEN {
        instead()
    } else {
        fault
    }
}

/// The owner sees all members, a member only itself.
fn sees_member(access: &Access, image: &Image, member_id: &str) -> bool {
    access.is_admin() || access.owns(image) || access.project() == Some(member_id)
}

/// One member; no member has a null character in its id.
fn find(tx: &mut Tx<'_>, id: &str, member_id: &str) -> Result<Member, Fault> {
    let found = if member_id.contains('\0') {
        None
    } else {
        db::member(tx, id, member_id)?
    };
    found.ok_or_else(|| no_member(id, member_id))
}

fn no_member(id: &str, member_id: &str) -> Fault {
    Fault::not_found(format!(
        "{member_id} not found in the member list of the image {id}."
    ))
}

/// `GET /v2/images/{id}/members`
pub(super) async fn list(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let members = service
        .inner
        .store
        .read(move |tx| {
            let not_allowed = |why: &str| {
                Fault::forbidden(format!("Not allowed to list members for image {id}: {why}"))
            };
            let (image, member) = shared(tx, &id, &access).map_err(|fault| match fault.status {
                StatusCode::FORBIDDEN => not_allowed(&fault.explanation),
                _ => fault,
            })?;
            access
                .require("get_members", &image, member)
                .map_err(|fault| not_allowed(&fault.explanation))?;
            let mut members = db::members(tx, &id)?;
            members.retain(|one| sees_member(&access, &image, &one.member_id));
            Ok::<_, Fault>(members)
        })
        .await?;
    let members: Vec<Value> = members.iter().map(view::member).collect();
    Ok(Json(
        json!({"members": members, "schema": "/v2/schemas/members"}),
    ))
}

/// `POST /v2/images/{id}/members`
pub(super) async fn add(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Value>, Fault> {
    let body = json_body(body).await?;
    let member_id = match body.as_object().map(|body| body.get("member")) {
        None => {
            return Err(Fault::bad_request(
                "Expected a member in the form: {\"member\": \"image_id\"}",
            ));
        }
        Some(None) => return Err(Fault::bad_request("Member to be added not specified")),
        Some(Some(Value::String(text))) if text.is_empty() => {
            return Err(Fault::bad_request("Member can't be empty"));
        }
        Some(Some(Value::String(text))) if text.chars().count() <= 255 && !text.contains('\0') => {
            text.clone()
        }
        Some(Some(_)) => {
            return Err(Fault::bad_request(
                "The member must be a text of at most 255 characters",
            ));
        }
    };
    let now = Timestamp::now();
    let wanted = Member {
        image_id: id.clone(),
        member_id,
        status: "pending".to_owned(),
        created_at: now,
        updated_at: now,
    };
    let most = service.inner.config.max_members;
    let added = wanted.clone();
    service
        .inner
        .store
        .write(move |tx| {
            let not_allowed = || Fault::forbidden(format!("Not allowed to create members for image {id}."));
            let (image, member) =
                shared(tx, &id, &access).map_err(|fault| forbidden_as(fault, not_allowed))?;
            access.require("add_member", &image, member).map_err(|_| not_allowed())?;
            if db::member(tx, &id, &wanted.member_id)?.is_some() {
                let who = &wanted.member_id;
                return Err(Fault::conflict(format!("Member {who} is duplicated for image {id}")));
            }
            let attempted = db::members(tx, &id)?.len() + 1;
            if attempted > most {
                return Err(Fault::too_large(format!(
                    "Image member limit exceeded for image {id}: The limit has been exceeded on the number of allowed \
                     image members for this image. Attempted: {attempted}, Maximum: {most}:"
                )));
            }
            Ok(db::add_member(tx, &wanted)?)
        })
        .await?;
    Ok(Json(view::member(&added)))
}

/// `GET /v2/images/{id}/members/{member}`
pub(super) async fn show(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((id, member_id)): Path<(String, String)>,
) -> Result<Json<Value>, Fault> {
    let found = service
        .inner
        .store
        .read(move |tx| {
            // What is not allowed is hidden here.
            let (image, member) = shared(tx, &id, &access)
                .map_err(|fault| forbidden_as(fault, || no_member(&id, &member_id)))?;
            if !access.allows("get_member", &image, member)
                || !sees_member(&access, &image, &member_id)
            {
                return Err(no_member(&id, &member_id));
            }
            find(tx, &id, &member_id)
        })
        .await?;
    Ok(Json(view::member(&found)))
}

/// `PUT /v2/images/{id}/members/{member}`
pub(super) async fn update(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((id, member_id)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Fault> {
    let body = json_body(body).await?;
    let status = match body.as_object().map(|body| body.get("status")) {
        None => {
            return Err(Fault::bad_request(
                "Expected a status in the form: {\"status\": \"status\"}",
            ));
        }
        Some(None) => return Err(Fault::bad_request("Status not specified")),
        Some(Some(status)) => status.as_str().unwrap_or_default().to_owned(),
    };
    if !matches!(status.as_str(), "pending" | "accepted" | "rejected") {
        return Err(Fault::bad_request(
            "Incorrect request: Status must be \"pending\", \"accepted\" or \"rejected\".",
        ));
    }
    let changed = service
        .inner
        .store
        .write(move |tx| {
            let not_allowed =
                || Fault::forbidden(format!("Not allowed to update members for image {id}."));
            let (image, member) =
                shared(tx, &id, &access).map_err(|fault| forbidden_as(fault, not_allowed))?;
            if !sees_member(&access, &image, &member_id) {
                return Err(no_member(&id, &member_id));
            }
            find(tx, &id, &member_id)?;
            // The owner offers; only the member itself accepts.
            let own = access.is_admin() || access.project() == Some(member_id.as_str());
            if !own || !access.allows("modify_member", &image, member) {
                return Err(not_allowed());
            }
            db::set_member_status(tx, &id, &member_id, &status)?;
            find(tx, &id, &member_id)
        })
        .await?;
    Ok(Json(view::member(&changed)))
}

/// `DELETE /v2/images/{id}/members/{member}`
pub(super) async fn remove(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((id, member_id)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    service
        .inner
        .store
        .write(move |tx| {
            let not_allowed =
                || Fault::forbidden(format!("Not allowed to delete members for image {id}."));
            let (image, member) =
                shared(tx, &id, &access).map_err(|fault| forbidden_as(fault, not_allowed))?;
            if !sees_member(&access, &image, &member_id) {
                return Err(no_member(&id, &member_id));
            }
            access
                .require("delete_member", &image, member)
                .map_err(|_| not_allowed())?;
            find(tx, &id, &member_id)?;
            db::remove_member(tx, &id, &member_id)?;
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
