//! Images without their data.

use super::{header_text, json_body, seen, versions, view, visible};
use crate::access::Access;
use crate::db;
use crate::fault::Fault;
use crate::model::{Image, Visibility};
use crate::service::Service;
use crate::{patch, query, schema};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::{Map, Value, json};
use types::Timestamp;
use url::form_urlencoded;
use uuid::Uuid;

/// `GET /v2/images`
pub(super) async fn list(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    RawQuery(text): RawQuery,
) -> Result<Json<Value>, Fault> {
    access.require_in_project("get_images")?;
    let text = text.unwrap_or_default();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect();
    let asked = query::parse(&pairs)?;
    let config = &service.inner.config;
    let most = asked
        .limit
        .unwrap_or(config.default_limit)
        .min(config.max_limit);
    let found = {
        let access = access.clone();
        service
            .inner
            .store
            .read(move |tx| page(tx, &access, &asked, most))
            .await?
    };
    let full = most > 0 && found.len() == most;
    // A policy may hide what the database shows; the page then has fewer images, and the next one is still right.
    let images: Vec<&Image> = found
        .iter()
        .filter(|(image, member)| access.allows("get_image", image, *member))
        .map(|(image, _)| image)
        .collect();
    let link = |marker: Option<&str>| {
        let mut link = form_urlencoded::Serializer::new(String::new());
        link.extend_pairs(pairs.iter().filter(|(name, _)| name != "marker"));
        if let Some(marker) = marker {
            link.append_pair("marker", marker);
        }
        let link = link.finish();
        if link.is_empty() {
            "/v2/images".to_owned()
        } else {
            format!("/v2/images?{link}")
        }
    };
    let mut answer = Map::new();
    answer.insert(
        "images".to_owned(),
        images.iter().map(|image| view::image(image)).collect(),
    );
    answer.insert("first".to_owned(), json!(link(None)));
    answer.insert("schema".to_owned(), json!("/v2/schemas/images"));
    if let (true, Some((last, _))) = (full, found.last()) {
        answer.insert("next".to_owned(), json!(link(Some(&last.id))));
    }
    Ok(Json(Value::Object(answer)))
}

/// One page of what the caller may list, each with whether the caller's project is a member.
fn page(
    tx: &mut sql::Tx<'_>,
    access: &Access,
    asked: &query::Query,
    most: usize,
) -> Result<Vec<(Image, bool)>, Fault> {
    let after = match &asked.marker {
        Some(marker) => {
            let found = seen(tx, marker, access)
                .map_err(|fault| Fault::new(StatusCode::BAD_REQUEST, fault.explanation))?;
            Some(found.0)
        }
        None => None,
    };
    let wanted = db::ListQuery {
        admin: access.is_admin(),
        project: access.project().map(str::to_owned),
        visibility: asked.visibility.clone(),
        member_status: asked.member_status.clone(),
        filters: asked.filters.clone(),
        order: asked.order.clone(),
        after,
        most,
    };
    let images = db::list(tx, &wanted)?;
    // What others share with the caller is in the list only because the caller is a member.
    Ok(images
        .into_iter()
        .map(|image| {
            let member = image.visibility == Visibility::Shared && !access.owns(&image);
            (image, member)
        })
        .collect())
}

/// `POST /v2/images`
pub(super) async fn create(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let body = json_body(body).await?;
    let body = body.as_object().ok_or_else(|| {
        Fault::bad_request(format!(
            "Provided object does not match schema 'image': {body} is not of type 'object'"
        ))
    })?;
    let image = new_image(body, &access)?;
    check_limits(&service, &image)?;
    let answer = view::image(&image);
    let id = image.id.clone();
    let added = service
        .inner
        .store
        .write(move |tx| db::insert(tx, &image))
        .await;
    match added {
        Err(error) if error.is_unique_violation() => {
            return Err(Fault::conflict(format!("Image ID {id} already exists!")));
        }
        other => other?,
    }
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    let location = format!(
        "{}/v2/images/{id}",
        versions::base_url(&service, &headers, &uri)
    );
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    let methods = HeaderValue::from_static(super::import::GLANCE_DIRECT);
    response
        .headers_mut()
        .insert("openstack-image-import-methods", methods);
    Ok(response)
}

fn new_image(body: &Map<String, Value>, access: &Access) -> Result<Image, Fault> {
    if let Some(name) = schema::DERIVED
        .iter()
        .find(|name| body.contains_key(**name))
    {
        return Err(Fault::forbidden(format!(
            "Attribute '{name}' is read-only."
        )));
    }
    for (name, value) in body {
        schema::validate(name, value)?;
    }
    for name in body.keys() {
        if schema::READ_ONLY.contains(&name.as_str()) {
            return Err(Fault::forbidden(format!(
                "Attribute '{name}' is read-only."
            )));
        }
        if name.chars().count() > 255 {
            return Err(Fault::bad_request(
                "Custom property should not be greater than 255 characters.",
            ));
        }
        if patch::is_reserved(name) {
            return Err(Fault::forbidden(format!("Attribute '{name}' is reserved.")));
        }
        if name == "locations" {
            return Err(Fault::forbidden(
                "It's not allowed to add locations if locations are invisible.",
            ));
        }
    }
    let id = body
        .get("id")
        .and_then(Value::as_str)
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let owner = match body.get("owner") {
        Some(owner) => owner.as_str().map(str::to_owned),
        None => access.project().map(str::to_owned),
    };
    let mut image = Image::queued(id, owner);
    if access.require("add_image", &image, false).is_err() {
        return Err(match &image.owner {
            Some(owner) if image.owner.as_deref() != access.project() => Fault::forbidden(format!(
                "You are not permitted to create images owned by '{owner}'"
            )),
            _ => Fault::forbidden("You are not authorized to complete add_image action."),
        });
    }
    for (name, value) in body
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "id" | "owner"))
    {
        patch::set(&mut image, name, value, access)?;
    }
    Ok(image)
}

fn check_limits(service: &Service, image: &Image) -> Result<(), Fault> {
    let config = &service.inner.config;
    for (what, attempted, maximum) in [
        ("properties", image.properties.len(), config.max_properties),
        ("tags", image.tags.len(), config.max_tags),
    ] {
        if attempted > maximum {
            return Err(Fault::too_large(format!(
                "The limit has been exceeded on the number of allowed image {what}. Attempted: {attempted}, Maximum: {maximum}"
            )));
        }
    }
    Ok(())
}

/// `GET /v2/images/{id}`
pub(super) async fn show(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let image = service
        .inner
        .store
        .look(move |tx| visible(tx, &id, &access))
        .await?;
    Ok(Json(view::image(&image)))
}

/// `PATCH /v2/images/{id}`
pub(super) async fn update(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Fault> {
    // The media type is judged before the body, as the body may be anything then.
    patch::parse(header_text(&headers, header::CONTENT_TYPE), &json!([]))?;
    let body = json_body(body).await?;
    let changes = patch::parse(header_text(&headers, header::CONTENT_TYPE), &body)?;
    edit(&service, access, id, move |image, access, member| {
        patch::apply(image, &changes, access, member)
    })
    .await
    .map(|image| Json(view::image(&image)))
}

/// Changes an image that the caller sees, in one transaction.
pub(super) async fn edit(
    service: &Service,
    access: Access,
    id: String,
    change: impl Fn(&mut Image, &Access, bool) -> Result<(), Fault> + Send + 'static,
) -> Result<Image, Fault> {
    let limits = service.clone();
    service
        .inner
        .store
        .write(move |tx| {
            let (before, member) = seen(tx, &id, &access)?;
            let mut image = before.clone();
            change(&mut image, &access, member)?;
            if image == before {
                return Ok(image);
            }
            check_limits(&limits, &image)?;
            image.updated_at = Timestamp::now();
            db::save(tx, &image)?;
            Ok(image)
        })
        .await
}

/// `DELETE /v2/images/{id}`
pub(super) async fn delete(
    State(service): State<Service>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<StatusCode, Fault> {
    let not_found = format!("Failed to find image {id} to delete");
    let image = id.clone();
    let deleted = service
        .inner
        .store
        .write(move |tx| {
            let (found, member) = seen(tx, &image, &access)?;
            access.require("delete_image", &found, member)?;
            if found.protected {
                return Err(Fault::forbidden(format!(
                    "Image {image} is protected and cannot be deleted."
                )));
            }
            Ok(db::delete(tx, &image)?)
        })
        .await;
    match deleted {
        Err(fault) if fault.status == StatusCode::NOT_FOUND => {
            return Err(Fault::not_found(not_found));
        }
        other => other?,
    }
    service.remove_data(&id).await;
    Ok(StatusCode::NO_CONTENT)
}
