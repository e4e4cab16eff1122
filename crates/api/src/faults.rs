//! Errors as Nova words them: a status, a fault's name, a message (API guide, "Faults").

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status.
    pub status: StatusCode,
    /// What went wrong, for people.
    pub message: String,
    /// Whether it may have had its effect all the same.
    pub in_doubt: bool,
}

impl Fault {
    /// A fault with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            in_doubt: false,
        }
    }

    /// 400 `badRequest`.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400 for a flavor and an image that cannot be meant so; 403 where it is the flavor that does not let the image.
    pub fn unmeant(wrong: scheduler::WrongHardware) -> Self {
        match wrong {
            scheduler::WrongHardware::Unmeant(words) => Self::bad_request(words),
            scheduler::WrongHardware::Forbidden(words) => Self::forbidden(words),
        }
    }

    /// 403 `forbidden`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 403 because the policy rule does not let the caller pass.
    pub fn denied(rule: &str) -> Self {
        Self::forbidden(format!("Policy doesn't allow {rule} to be performed."))
    }

    /// 404 `itemNotFound`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404 for a route or action that does not exist at the version asked for.
    pub fn no_such_resource() -> Self {
        Self::not_found("The resource could not be found.")
    }

    /// 404 for a server.
    pub fn no_server(id: &str) -> Self {
        Self::not_found(format!("Instance {id} could not be found."))
    }

    /// 409 `conflictingRequest`.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 501 for what is not built yet.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 503 when a service that is needed does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 500; the cause goes to the log, never to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed unexpectedly");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Unexpected API Error. Please contact the administrator of this cloud: the log of the API has the cause.",
        )
    }

    /// The name of the fault in the body.
    pub fn name(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "badRequest",
            401 => "unauthorized",
            403 => "forbidden",
            404 => "itemNotFound",
            405 => "badMethod",
            409 => "conflictingRequest",
            413 | 429 => "overLimit",
            415 => "badMediaType",
            501 => "notImplemented",
            503 => "serviceUnavailable",
            _ => "computeFault",
        }
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut inner = serde_json::Map::new();
        inner.insert("code".to_owned(), self.status.as_u16().into());
        inner.insert("message".to_owned(), self.message.clone().into());
        let retry = self.status == StatusCode::PAYLOAD_TOO_LARGE
            || self.status == StatusCode::TOO_MANY_REQUESTS;
        if retry {
            inner.insert("retryAfter".to_owned(), "0".into());
        }
        let mut outer = serde_json::Map::new();
        outer.insert(self.name().to_owned(), inner.into());
        let mut response = Response::new(Body::from(serde_json::Value::from(outer).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=UTF-8"),
        );
        if retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("0"));
        }
        response
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        match &error {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            sql::Error::Conflict(_) | sql::Error::Unreachable(_) => {
                tracing::debug!(%error, "the database does not answer");
                Self::unavailable("The database does not answer; try again later.")
            }
            sql::Error::InDoubt(_) => {
                tracing::error!(%error, "whether a request was written is not known");
                Self {
                    in_doubt: true,
                    ..Self::unavailable(
                        "The database was lost while the request was written. Look whether it was done before you \
                         repeat it.",
                    )
                }
            }
            _ => Self::internal(error),
        }
    }
}

/// The 404 of the router itself, for paths and methods that no version has: not a fault of Nova's, but a page.
pub fn router_not_found(accept: Option<&HeaderValue>) -> Response {
    let json = accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    let (kind, body) = if json {
        (
            "application/json",
            "{\"message\": \"The resource could not be found.<br /><br />\\n\\n\\n\", \"code\": \"404 Not Found\", \"title\": \"Not Found\"}",
        )
    } else {
        (
            "text/html; charset=UTF-8",
            "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  The resource could not be found.<br /><br />\n\n\n\n </body>\n</html>",
        )
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The 429 of the rate limits.
pub fn rate_limited(seconds: u64) -> Response {
    let wait = seconds.to_string();
    let fault = serde_json::json!({ "overLimit": {
        "code": 429, "message": "This request was rate-limited.", "retryAfter": wait,
        "details": format!("Too many requests by this token or from this address; there is room again in {wait} seconds."),
    } });
    let mut response = Response::new(Body::from(fault.to_string()));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=UTF-8"),
    );
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The 401 of the token check in front of the API.
pub fn unauthorized(auth_url: &str) -> Response {
    let body = "{\"error\": {\"code\": 401, \"title\": \"Unauthorized\", \"message\": \"The request you have made requires authentication.\"}}";
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    if let Ok(value) = HeaderValue::from_str(&format!("Keystone uri=\"{auth_url}\"")) {
        headers.insert(HeaderName::from_static("www-authenticate"), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_status() {
        let table = [
            (400, "badRequest"),
            (403, "forbidden"),
            (404, "itemNotFound"),
            (406, "computeFault"),
            (409, "conflictingRequest"),
            (410, "computeFault"),
            (413, "overLimit"),
            (415, "badMediaType"),
            (500, "computeFault"),
            (501, "notImplemented"),
            (503, "serviceUnavailable"),
        ];
        for (code, name) in table {
            let status = StatusCode::from_u16(code).unwrap_or_default();
            assert_eq!(Fault::new(status, "").name(), name, "{code}");
        }
    }
}
