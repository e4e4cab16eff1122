//! Version documents: the API as of 2.17, without stores (`/v2/stores`, 2.8 and 2.10 to 2.13).

use crate::service::Service;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

/// Without the versions that only add what a site with several stores, or a cache, has (Glance does the same).
const VERSIONS: [(&str, &str); 11] = [
    ("2.17", "CURRENT"),
    ("2.15", "SUPPORTED"),
    ("2.9", "SUPPORTED"),
    ("2.7", "SUPPORTED"),
    ("2.6", "SUPPORTED"),
    ("2.5", "SUPPORTED"),
    ("2.4", "SUPPORTED"),
    ("2.3", "SUPPORTED"),
    ("2.2", "SUPPORTED"),
    ("2.1", "SUPPORTED"),
    ("2.0", "SUPPORTED"),
];

/// The URL of this service as the client knows it.
pub(super) fn base_url(service: &Service, headers: &HeaderMap, uri: &Uri) -> String {
    match &service.inner.config.public_endpoint {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => web::address::origin(headers, uri),
    }
}

fn document(service: &Service, headers: &HeaderMap, uri: &Uri) -> Value {
    let href = format!("{}/v2/", base_url(service, headers, uri));
    let versions: Vec<Value> = VERSIONS
        .iter()
        .map(|(id, status)| json!({"id": format!("v{id}"), "status": status, "links": [{"rel": "self", "href": href}]}))
        .collect();
    json!({"versions": versions})
}

/// `GET /`, and every path outside of a version.
pub(super) async fn choices(
    State(service): State<Service>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    (
        StatusCode::MULTIPLE_CHOICES,
        Json(document(&service, &headers, &uri)),
    )
        .into_response()
}

/// `GET /versions`
pub(super) async fn versions(
    State(service): State<Service>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<Value> {
    Json(document(&service, &headers, &uri))
}
