//! Errors as Barbican shapes them: `{"code": 404, "title": "Not Found", "description": "..."}`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {description}")]
pub struct Fault {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub description: String,
}

/// The outcome of a request.
pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// An error of any status.
    pub fn new(status: StatusCode, description: impl Into<String>) -> Self {
        Self {
            status,
            description: description.into(),
        }
    }

    /// 400.
    pub fn bad(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, description)
    }

    /// 400 for a body that does not fit, with the field that does not.
    pub fn schema(schema: &str, reason: impl std::fmt::Display, field: &str) -> Self {
        Self::bad(format!(
            "Provided object does not match schema '{schema}': {reason}. Invalid property: '{field}'"
        ))
    }

    /// 403 for an operation, for example `Secret payload retrieval`.
    pub fn refused(operation: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            format!("{operation} attempt not allowed - please review your user/project privileges"),
        )
    }

    /// 404.
    pub fn not_found(description: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, description)
    }

    /// 404 for a secret that is not there, or no longer.
    pub fn no_secret() -> Self {
        Self::not_found("Secret not found.")
    }

    /// 404 for a path that is no resource.
    pub fn no_route() -> Self {
        Self::not_found("The resource could not be found.")
    }

    /// 405.
    pub fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "The method is not allowed for this resource.",
        )
    }

    /// 413.
    pub fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Provided information too large to process",
        )
    }

    /// 500, without what only the log should know.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The request failed - please contact site administrator.",
        )
    }

    /// What an operation did not get done, in front of why.
    #[must_use]
    pub fn during(mut self, operation: &str) -> Self {
        self.description = format!("{operation} issue seen - {}.", self.description);
        self
    }

    fn title(&self) -> &'static str {
        match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
            status => status.canonical_reason().unwrap_or("Error"),
        }
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        if error.is_retryable() {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            tracing::debug!(%error, "the key manager's database does not answer");
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The database of the key manager does not answer; try again later.",
            );
        }
        tracing::error!(%error, "the key manager's database failed");
        Self::internal()
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({
            "code": self.status.as_u16(),
            "title": self.title(),
            "description": self.description,
        });
        (self.status, axum::Json(body)).into_response()
    }
}
