//! Errors as Cinder words them: `{"badRequest": {"code": 400, "message": "..."}}`.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Fault {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub message: String,
}

/// The outcome of a request.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// An error of any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400 for a value that makes no sense (Cinder's InvalidInput).
    pub fn input(reason: impl std::fmt::Display) -> Self {
        Self::bad(format!("Invalid input received: {reason}"))
    }

    /// 400 for a volume in the wrong state (Cinder's InvalidVolume).
    pub fn volume(reason: impl std::fmt::Display) -> Self {
        Self::bad(format!("Invalid volume: {reason}"))
    }

    /// 400 for a snapshot in the wrong state (Cinder's InvalidSnapshot).
    pub fn snapshot(reason: impl std::fmt::Display) -> Self {
        Self::bad(format!("Invalid snapshot: {reason}"))
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404 for the id of something, for example `Volume`.
    pub fn missing(what: &str, id: &str) -> Self {
        Self::not_found(format!("{what} {id} could not be found."))
    }

    /// 404 for a path that is no resource.
    pub fn no_route() -> Self {
        Self::not_found("The resource could not be found.")
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 403 for a rule.
    pub fn forbidden(rule: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            format!("Policy doesn't allow {rule} to be performed."),
        )
    }

    /// 413: a quota.
    pub fn over_quota(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// 501 for what is not there, with the reason.
    pub fn absent(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 500, without what only the log should know.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server has either erred or is incapable of performing the requested operation.",
        )
    }

    /// The name under which clients find the message.
    fn name(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 => "overLimit",
            415 => "badMediaType",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        }
    }

    fn body(&self) -> Value {
        let mut content = json!({"code": self.status.as_u16(), "message": self.message});
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            content["retryAfter"] = "0".into();
        }
        json!({self.name(): content})
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        if error.is_retryable() {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            tracing::debug!(%error, "the volume service's database does not answer");
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The database of the volume service does not answer; try again later.",
            );
        }
        tracing::error!(%error, "the volume service's database failed");
        Self::internal()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            response
                .headers_mut()
                .insert("retry-after", HeaderValue::from_static("0"));
        }
        response
    }
}
