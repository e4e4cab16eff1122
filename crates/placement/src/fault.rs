//! Errors as Placement tells them: `{"errors": [{"status", "title", "detail", "request_id", "code"}]}`.

use db::placement_api::Refused;
use http::StatusCode;
use serde_json::{Value, json};
use web::auth::AuthError;

/// The code of an error that has no other.
const UNDEFINED: &str = "placement.undefined_code";
/// Something changed since the client read it.
pub(crate) const CONCURRENT_UPDATE: &str = "placement.concurrent_update";

/// An error answer.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    detail: String,
    code: &'static str,
    /// For a 405.
    pub(crate) allow: Option<String>,
    versions: bool,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            code: UNDEFINED,
            allow: None,
            versions: false,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>, code: &'static str) -> Self {
        Self {
            code,
            ..Self::new(StatusCode::CONFLICT, detail)
        }
    }

    pub(crate) fn no_provider(uuid: &str) -> Self {
        Self::not_found(format!("No resource provider with uuid {uuid} found"))
    }

    pub(crate) fn not_built(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} cannot be done by this service yet."),
        )
    }

    pub(crate) fn method_not_allowed(method: &str, allow: String) -> Self {
        let detail = format!("The method {method} is not allowed for this resource.");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        }
    }

    pub(crate) fn unacceptable_version(version: &str) -> Self {
        let detail = format!("Unacceptable version header: {version}");
        Self {
            versions: true,
            ..Self::new(StatusCode::NOT_ACCEPTABLE, detail)
        }
    }

    fn explanation(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "The request is malformed or otherwise incorrect.",
            401 => "The request has no valid token.",
            403 => "Access was denied to this resource.",
            404 => "The resource could not be found.",
            409 => "There was a conflict when trying to complete your request.",
            413 => "The request is too large.",
            415 => "The request's media type is not supported.",
            501 => "The request needs what is not built.",
            503 => "A service that is needed does not answer.",
            _ => "The request cannot be answered.",
        }
    }

    /// The body. The code is there from 1.23.
    pub(crate) fn body(&self, version: u16, request_id: &str) -> Value {
        let mut error = json!({
            "status": self.status.as_u16(),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "detail": format!("{}\n\n {}  ", self.explanation(), self.detail),
            "request_id": request_id,
        });
        if version >= 23 {
            error["code"] = self.code.into();
        }
        if self.versions {
            error["max_version"] = "1.39".into();
            error["min_version"] = "1.0".into();
        }
        json!({ "errors": [error] })
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        if error.is_retryable() {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            tracing::debug!(%error, "placement: the database does not answer");
        } else {
            tracing::error!(%error, "placement: the database refused");
        }
        match error {
            sql::Error::Unreachable(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The database does not answer.",
            ),
            sql::Error::Conflict(_) => Self::conflict(
                "Another request was in the way. Please try again.",
                CONCURRENT_UPDATE,
            ),
            _ => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An internal error occurred; the log has more.",
            ),
        }
    }
}

impl From<AuthError> for Fault {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Invalid => {
                Self::new(StatusCode::UNAUTHORIZED, error.to_string())
            }
            AuthError::Unavailable(_) => {
                tracing::warn!(%error, "placement: a token cannot be validated");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The identity service does not answer.",
                )
            }
        }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Sql(error) => error.into(),
            Refused::NoProvider(uuid) => Self::no_provider(&uuid.to_string()),
            Refused::Duplicate => Self::conflict(
                "Conflicting resource provider already exists.",
                "placement.duplicate_name",
            ),
            Refused::Generation | Refused::ConsumerGeneration { .. } => {
                Self::conflict(text, CONCURRENT_UPDATE)
            }
            Refused::InUse { .. } => Self::conflict(
                format!("update conflict: {text}"),
                "placement.inventory.inuse",
            ),
            Refused::NoInventory { .. } | Refused::Capacity { .. } | Refused::Units { .. } => {
                Self::conflict(format!("Unable to allocate inventory: {text}"), UNDEFINED)
            }
        }
    }
}
