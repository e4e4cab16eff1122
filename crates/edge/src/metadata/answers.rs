//! Answers of the metadata service: plain texts, also for refusals.

use super::Refusal;
use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A text.
pub fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// A JSON document.
pub fn json(document: Vec<u8>) -> Response {
    let mut response = Response::new(document.into());
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A refusal. What went wrong inside is for the log only.
pub fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::BadRequest(_) => StatusCode::BAD_REQUEST,
        Refusal::Forbidden => StatusCode::FORBIDDEN,
        Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::Conflict => StatusCode::CONFLICT,
        Refusal::Database(_) | Refusal::Network(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let words = if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(reason = %refusal, "metadata cannot be given");
        "An unknown error has occurred. Please try your request again.".to_owned()
    } else {
        refusal.to_string()
    };
    let mut response = plain(status, format!("{status}\n\n{words}\n"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}
