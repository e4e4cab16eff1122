//! Errors as Keystone words and formats them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// What a client is told when a request fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 401; says nothing about why.
    #[error("The request you have made requires authentication.")]
    Unauthorized,
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404: kind and name of what is not there.
    #[error("Could not find {0}: {1}.")]
    NotFound(&'static str, String),
    /// 404 for a path.
    #[error("The resource could not be found.")]
    NoRoute,
    /// 405.
    #[error("The method is not allowed for the requested URL.")]
    Method,
    /// 409: kind and details.
    #[error("Conflict occurred attempting to store {0} - {1}.")]
    Conflict(&'static str, String),
    /// 413.
    #[error("Request is too large.")]
    TooLarge,
    /// 501.
    #[error("{0}")]
    NotImplemented(String),
    /// 500; the log has the reason.
    #[error("An unexpected error prevented the server from fulfilling your request.")]
    Internal,
    /// 503: the database does not answer.
    #[error(
        "The service is currently unable to handle the request due to a temporary overload or maintenance. This is temporary; try again later."
    )]
    Unavailable,
}

impl Fault {
    /// The policy says no.
    pub fn denied(rule: &str) -> Self {
        Self::Forbidden(format!(
            "You are not authorized to perform the requested action: {rule}."
        ))
    }

    /// A field of a body does not fit, with the field named.
    pub fn field(path: &str, message: impl std::fmt::Display) -> Self {
        Self::BadRequest(format!("Invalid input for field '{path}': {message}"))
    }

    /// A field that must be there is not.
    pub fn required(field: &str) -> Self {
        Self::BadRequest(format!("'{field}' is a required property"))
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(..) | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(..) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer; `base` is what the client called this service.
    pub fn response(&self, base: &str) -> Response {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({"error": {"code": status.as_u16(), "title": title, "message": self.to_string()}});
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/json")],
            body.to_string(),
        )
            .into_response();
        if status == StatusCode::UNAUTHORIZED
            && let Ok(value) = HeaderValue::from_str(&format!("Keystone uri=\"{base}\""))
        {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        match error {
            sql::Error::UniqueViolation(details) => {
                tracing::debug!(details, "a unique index refused a record");
                Self::Conflict("record", "Duplicate Entry".to_owned())
            }
            sql::Error::Unreachable(_) | sql::Error::Closed | sql::Error::Conflict(_) => {
                // A unit of work that is run again is converted each time; one that is given up is told by the store.
                tracing::debug!(%error, "the identity database does not answer");
                Self::Unavailable
            }
            error => {
                tracing::error!(%error, "the identity database refused a statement");
                Self::Internal
            }
        }
    }
}
