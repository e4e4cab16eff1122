//! Errors as Neutron words them: `{"NeutronError": {"type", "message", "detail"}}`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Fault {
    /// HTTP status.
    pub status: StatusCode,
    /// The exception's name in Neutron, by which clients tell errors apart.
    pub kind: String,
    /// What is wrong, for people.
    pub message: String,
    /// A unique index refused a row: another request took the same address, MAC or number, and trying again may work.
    pub again: bool,
}

impl Fault {
    /// An error of any kind.
    pub fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            message: message.into(),
            again: false,
        }
    }

    /// 409.
    pub fn conflict(kind: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, message)
    }

    /// 400 of a kind.
    pub fn bad(kind: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, message)
    }

    /// 400 from the API layer itself.
    pub fn request(message: impl Into<String>) -> Self {
        Self::bad("HTTPBadRequest", message)
    }

    /// 400 for a value that is well formed and makes no sense.
    pub fn invalid(message: impl std::fmt::Display) -> Self {
        Self::bad(
            "InvalidInput",
            format!("Invalid input for operation: {message}."),
        )
    }

    /// 404 for a path that is no resource.
    pub fn no_route() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "HTTPNotFound",
            "The resource could not be found.",
        )
    }

    /// 404 for an id.
    pub fn not_found(kind: crate::schema::Kind, id: &str) -> Self {
        let (name, words) = kind.not_found();
        Self::new(StatusCode::NOT_FOUND, name, words.replace("{}", id))
    }

    /// 403.
    pub fn forbidden(rule: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "PolicyNotAuthorized",
            format!("{rule} is disallowed by policy"),
        )
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        let again = error.is_unique_violation();
        if error.is_retryable() {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            tracing::debug!(%error, "the network service's database does not answer");
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "HTTPServiceUnavailable",
                "The database of the network service does not answer; try again later.",
            );
        }
        if !again {
            tracing::error!(%error, "the network service's database failed");
        }
        let message = "Request Failed: internal server error while processing your request.";
        Self {
            again,
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "HTTPInternalServerError",
                message,
            )
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body =
            json!({"NeutronError": {"type": self.kind, "message": self.message, "detail": ""}});
        (self.status, axum::Json(body)).into_response()
    }
}
