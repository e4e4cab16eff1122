//! Deactivate, reactivate, tags.

use super::images::edit;
use super::seen;
use crate::access::Access;
use crate::db;
use crate::fault::Fault;
use crate::model::Status;
use crate::schema;
use crate::service::Service;
use axum::Extension;
use axum::extract::{Path, State};
use http::StatusCode;
use serde_json::json;

/// `POST /v2/images/{id}/actions/deactivate`
pub(super) async fn deactivate(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<StatusCode, Fault> {
    switch(
        &service,
        access,
        id,
        "deactivate",
        Status::Active,
        Status::Deactivated,
    )
    .await
}

/// `POST /v2/images/{id}/actions/reactivate`
pub(super) async fn reactivate(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<StatusCode, Fault> {
    switch(
        &service,
        access,
        id,
        "reactivate",
        Status::Deactivated,
        Status::Active,
    )
    .await
}

async fn switch(
    service: &Service,
    access: Access,
    id: String,
    rule: &'static str,
    from: Status,
    to: Status,
) -> Result<StatusCode, Fault> {
    service
        .inner
        .store
        .write(move |tx| {
            let (image, member) = seen(tx, &id, &access)?;
            access.require(rule, &image, member)?;
            if image.status == to {
                return Ok(());
            }
            if image.status != from {
                return Err(Fault::forbidden(format!(
                    "Not allowed to {rule} image in status '{}'",
                    image.status.name()
                )));
            }
            db::set_status(tx, &id, from, to)?;
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /v2/images/{id}/tags/{tag}`
pub(super) async fn add_tag(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    schema::validate_tag(&json!(tag))?;
    edit(&service, access, id, move |image, access, member| {
        access.require("modify_image", image, member)?;
        image.tags.insert(tag.clone());
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v2/images/{id}/tags/{tag}`
pub(super) async fn remove_tag(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path((id, tag)): Path<(String, String)>,
) -> Result<StatusCode, Fault> {
    edit(&service, access, id, move |image, access, member| {
        access.require("modify_image", image, member)?;
        if image.tags.remove(&tag) {
            Ok(())
        } else {
            Err(Fault::not_found("The resource could not be found."))
        }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
