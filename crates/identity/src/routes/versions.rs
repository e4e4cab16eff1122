//! The version documents, which need no token.

use super::call::{Call, json, ok};
use crate::fault::Fault;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value as Json, json};

fn version(base: &str) -> Json {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{base}/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}

/// GET /
pub async fn all(call: Call) -> Result<Response, Fault> {
    let body = json!({"versions": {"values": [version(&call.base)]}});
    Ok(json(StatusCode::MULTIPLE_CHOICES, &body))
}

/// GET /v3
pub async fn one(call: Call) -> Result<Response, Fault> {
    Ok(ok(&json!({"version": version(&call.base)})))
}
