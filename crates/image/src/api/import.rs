//! Interoperable import with the method `glance-direct`: stage the data, then have them checked and activated.

use super::data::announced;
use super::{allowed, json_body};
use crate::access::Access;
use crate::db;
use crate::fault::Fault;
use crate::files::DataError;
use crate::model::{Image, Status, Task, Written};
use crate::service::{Service, blocking};
use crate::upload::{claim, data_fault};
use crate::work::Work;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::io::Read;
use types::{RequestId, Timestamp};

/// The one import method.
pub(super) const GLANCE_DIRECT: &str = "glance-direct";

/// `PUT /v2/images/{id}/stage`
pub(super) async fn stage(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Fault> {
    let announced = announced(&headers)?;
    let image = allowed(&service, &id, &access, "modify_image").await?;
    // As with uploads, the client may go away without leaving the image in between.
    let task = tokio::spawn(async move { stage_data(&service, image, body, announced).await });
    task.await
        .unwrap_or_else(|error| Err(Fault::internal(&error)))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stage_data(
    service: &Service,
    image: Image,
    body: Body,
    announced: Option<u64>,
) -> Result<(), Fault> {
    let id = image.id;
    let work = service.work_to(&id, Status::Uploading).await?;
    service
        .change_status(&id, Status::Queued, Status::Uploading)
        .await?;
    match service
        .receive(
            &work,
            body,
            announced,
            None,
            service.inner.folder.staged(&id),
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => {
            service
                .restore(&id, Status::Uploading, Status::Queued)
                .await;
            Err(data_fault(&error))
        }
    }
}

/// `POST /v2/images/{id}/import`
pub(super) async fn import(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Extension(request): Extension<RequestId>,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Fault> {
    let body = json_body(body).await?;
    check_body(&body)?;
    let image = allowed(&service, &id, &access, "modify_image").await?;
    let staged = tokio::fs::try_exists(service.inner.folder.staged(&id))
        .await
        .unwrap_or(false);
    if image.status != Status::Uploading || !staged {
        return Err(Fault::conflict(
            "Image needs to be staged before 'glance-direct' method can be used",
        ));
    }
    if image.container_format.is_none() {
        return Err(Fault::conflict(
            "'container_format' needs to be set before import",
        ));
    }
    if image.disk_format.is_none() {
        return Err(Fault::conflict(
            "'disk_format' needs to be set before import",
        ));
    }
    let work = service.work_to(&id, Status::Importing).await?;
    service
        .change_status(&id, Status::Uploading, Status::Importing)
        .await?;
    let task = begin_task(&service, &access, &request, &id, &body).await;
    tokio::spawn(async move { take_staged(&service, &image, &task, work).await });
    Ok(StatusCode::ACCEPTED)
}

fn check_body(body: &Value) -> Result<(), Fault> {
    let method = body
        .get("method")
        .ok_or_else(|| Fault::bad_request("Import request requires a 'method' field."))?;
    let name = method
        .get("name")
        .ok_or_else(|| Fault::bad_request("Import request requires a 'name' field."))?;
    if name != GLANCE_DIRECT {
        let name = name
            .as_str()
            .map_or_else(|| name.to_string(), str::to_owned);
        return Err(Fault::bad_request(format!(
            "Unknown import method name '{name}'."
        )));
    }
    for flag in ["all_stores_must_succeed", "all_stores"] {
        if body.get(flag).is_some_and(|value| !value.is_boolean()) {
            return Err(Fault::bad_request(format!(
                "'{flag}' must be boolean value only"
            )));
        }
    }
    Ok(())
}

/// Notes an import where its owner can see how it goes; its id. The import itself does not depend on that.
async fn begin_task(
    service: &Service,
    access: &Access,
    request: &RequestId,
    image: &str,
    body: &Value,
) -> String {
    let now = Timestamp::now();
    let task = Task {
        id: uuid::Uuid::new_v4().to_string(),
        kind: "api_image_import".to_owned(),
        status: "processing".to_owned(),
        owner: access.project().unwrap_or_default().to_owned(),
        user_id: access.caller.user_id.clone(),
        image_id: image.to_owned(),
        request_id: request.to_string(),
        input: json!({ "image_id": image, "import_req": body, "backend": null }).to_string(),
        message: String::new(),
        created_at: now,
        updated_at: now,
        expires_at: None,
    };
    let id = task.id.clone();
    let store = &service.inner.store;
    let written = store.write(move |tx| db::add_task(tx, &task)).await;
    if let Err(error) = written {
        tracing::warn!(%error, image, "the task of an import cannot be noted");
    }
    id
}

/// Copies the staged data through the checks into the store. Refused data are gone and the image is queued again.
async fn take_staged(service: &Service, image: &Image, task: &str, _work: Work) {
    let id = image.id.clone();
    let done = match copy(service, image).await {
        Ok(written) => service
            .activate(&id, Status::Importing, written)
            .await
            .map_err(|fault| fault.explanation),
        Err(error) => {
            service
                .restore(&id, Status::Importing, Status::Queued)
                .await;
            Err(error.to_string())
        }
    };
    let (status, message) = match done {
        Ok(()) => ("success", String::new()),
        Err(reason) => {
            tracing::warn!(image = id, reason, "an import came to nothing");
            ("failure", reason)
        }
    };
    let staged = service.inner.folder.staged(&id);
    let _ = tokio::fs::remove_file(staged).await;
    let task = task.to_owned();
    let store = &service.inner.store;
    let ended = store.write(move |tx| db::end_task(tx, &task, status, &message, Task::expiry()));
    if let Err(error) = ended.await {
        tracing::warn!(%error, image = id, "the end of an import cannot be noted");
    }
}

async fn copy(service: &Service, image: &Image) -> Result<Written, DataError> {
    let claim = claim(image).map_err(|fault| DataError::Broken(fault.explanation))?;
    let (folder, limit, id) = (
        service.inner.folder.clone(),
        service.inner.config.max_size,
        image.id.clone(),
    );
    blocking(move || {
        let mut staged = std::fs::File::open(folder.staged(&id))?;
        let mut writer = folder.writer(&id, limit, Some(claim))?;
        let mut piece = vec![0; 256 * 1024];
        loop {
            match staged.read(&mut piece)? {
                0 => return writer.finish(&folder.path(&id)),
                count => writer.write(&piece[..count])?,
            }
        }
    })
    .await
}
