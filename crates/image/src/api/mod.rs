//! The routes of the Image API v2.

mod actions;
mod data;
mod images;
mod import;
mod info;
mod members;
mod metadefs;
mod tasks;
mod versions;
mod view;

use crate::access::Access;
use crate::db;
use crate::fault::{self, Fault};
use crate::model::{Image, Visibility};
use crate::schema;
use crate::service::Service;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;
use sql::Tx;
use web::auth::AuthError;

/// Bytes of a JSON body.
const JSON_LIMIT: usize = 1024 * 1024;

pub(crate) fn router(service: Service) -> Router {
    let v2 = Router::new()
        .route("/v2/images", get(images::list).post(images::create))
        .route(
            "/v2/images/{id}",
            get(images::show)
                .patch(images::update)
                .delete(images::delete),
        )
        .route(
            "/v2/images/{id}/file",
            get(data::download).put(data::upload),
        )
        .route("/v2/images/{id}/stage", put(import::stage))
        .route("/v2/images/{id}/import", post(import::import))
        .route("/v2/images/{id}/tasks", get(tasks::of_image))
        .route("/v2/tasks", get(tasks::list).post(tasks::create))
        .route("/v2/tasks/{id}", get(tasks::show))
        .route(
            "/v2/images/{id}/actions/deactivate",
            post(actions::deactivate),
        )
        .route(
            "/v2/images/{id}/actions/reactivate",
            post(actions::reactivate),
        )
        .route(
            "/v2/images/{id}/tags/{tag}",
            put(actions::add_tag).delete(actions::remove_tag),
        )
        .route(
            "/v2/images/{id}/members",
            get(members::list).post(members::add),
        )
        .route(
            "/v2/images/{id}/members/{member}",
            get(members::show)
                .put(members::update)
                .delete(members::remove),
        )
        .route(
            "/v2/metadefs/namespaces",
            get(metadefs::list).post(metadefs::create),
        )
        .route(
            "/v2/metadefs/namespaces/{namespace}",
            get(metadefs::show)
                .put(metadefs::update)
                .delete(metadefs::delete),
        )
        .route(
            "/v2/metadefs/namespaces/{namespace}/{items}",
            get(metadefs::list_items)
                .post(metadefs::create_item)
                .delete(metadefs::delete_items),
        )
        .route(
            "/v2/metadefs/namespaces/{namespace}/{items}/{item}",
            get(metadefs::show_item)
                .post(metadefs::create_tag)
                .put(metadefs::update_item)
                .delete(metadefs::delete_item),
        )
        .route("/v2/metadefs/resource_types", get(metadefs::resource_types))
        .route("/v2/schemas/metadefs/{name}", get(info::metadef_schema))
        .route("/v2/schemas/{name}", get(info::schema))
        .route("/v2/info/import", get(info::import))
        .route("/v2/info/stores", get(info::stores))
        .route("/v2/{*rest}", any(nothing_here))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            service.clone(),
            authenticate,
        ));
    Router::new()
        .route("/", get(versions::choices))
        .route("/versions", get(versions::versions))
        .route("/versions/", get(versions::versions))
        .route("/healthcheck", get(|| async { "OK" }))
        .merge(v2)
        .fallback(versions::choices)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(fault::render))
        .layer(middleware::from_fn(web::request_id::layer))
        .with_state(service)
}

async fn nothing_here() -> Fault {
    Fault::not_found("The resource could not be found.")
}

async fn wrong_method() -> Fault {
    Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "The method is not allowed for this resource.",
    )
}

/// Puts the caller's [`Access`] into the request.
async fn authenticate(
    State(service): State<Service>,
    mut request: Request,
    next: Next,
) -> Response {
    match web::auth::caller(request.headers(), service.inner.validator.as_ref()).await {
        Ok(caller) => {
            request.extensions_mut().insert(service.access(caller));
            next.run(request).await
        }
        Err(AuthError::Unavailable(cause)) => {
            tracing::error!(cause, "a token could not be validated");
            Fault::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The identity service does not answer; try again later.",
            )
            .into_response()
        }
        Err(AuthError::Missing | AuthError::Invalid) => {
            web::auth::unauthorized(service.inner.config.identity_url.as_deref())
        }
    }
}

/// A JSON body; a request without one is told so.
async fn json_body(body: Body) -> Result<Value, Fault> {
    let bytes = web::body::bytes(body, JSON_LIMIT).await?;
    if bytes.is_empty() {
        return Err(Fault::bad_request("Body expected in request."));
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|_| Fault::bad_request("Malformed JSON in request body."))?;
    if value.is_object() || value.is_array() {
        Ok(value)
    } else {
        Err(Fault::bad_request("Malformed JSON in request body."))
    }
}

/// The image and whether the caller's project is a member of it; 404 when the caller may not see it.
fn seen(tx: &mut Tx<'_>, id: &str, access: &Access) -> Result<(Image, bool), Fault> {
    let image = found(tx, id)?;
    let member = is_member(tx, &image, access)?;
    if access.sees(&image, member) {
        Ok((image, member))
    } else {
        Err(Fault::no_image(id))
    }
}

/// The image; 404 when the caller may not see it. Whether the caller is a member is asked only where that decides.
fn visible(tx: &mut Tx<'_>, id: &str, access: &Access) -> Result<Image, Fault> {
    let image = found(tx, id)?;
    if access.sees(&image, false) || access.sees(&image, is_member(tx, &image, access)?) {
        return Ok(image);
    }
    Err(Fault::no_image(id))
}

fn found(tx: &mut Tx<'_>, id: &str) -> Result<Image, Fault> {
    // Every id is a UUID, so others are not worth asking for.
    if !schema::is_uuid(id) {
        return Err(Fault::no_image(id));
    }
    db::get(tx, id)?.ok_or_else(|| Fault::no_image(id))
}

fn is_member(tx: &mut Tx<'_>, image: &Image, access: &Access) -> Result<bool, Fault> {
    match access.project() {
        // Only shared images have members.
        Some(project) if image.visibility == Visibility::Shared => {
            Ok(db::member(tx, &image.id, project)?.is_some())
        }
        _ => Ok(false),
    }
}

/// The image, when the rule allows this caller; what the caller may not see is 404.
async fn allowed(
    service: &Service,
    id: &str,
    access: &Access,
    rule: &'static str,
) -> Result<Image, Fault> {
    let (id, access) = (id.to_owned(), access.clone());
    service
        .inner
        .store
        .look(move |tx| {
            let (image, member) = seen(tx, &id, &access)?;
            access.require(rule, &image, member)?;
            Ok(image)
        })
        .await
}

fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
