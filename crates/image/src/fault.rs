//! Errors as this API shows them: an HTML page, JSON or text, as the client accepts.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::sync::Arc;

/// An error answer. [`render`] gives it its body.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The status.
    pub status: StatusCode,
    /// What went wrong, for people.
    pub explanation: String,
    headers: Vec<(HeaderName, String)>,
}

impl Fault {
    /// An error with this status and message.
    pub fn new(status: StatusCode, explanation: impl Into<String>) -> Self {
        Self {
            status,
            explanation: explanation.into(),
            headers: Vec::new(),
        }
    }

    /// With this header too.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// 400
    pub fn bad_request(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, explanation)
    }

    /// 403
    pub fn forbidden(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, explanation)
    }

    /// 404
    pub fn not_found(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, explanation)
    }

    /// 404 for an image that is not there, or that the caller may not see.
    pub fn no_image(id: &str) -> Self {
        Self::not_found(format!("No image found with ID {id}"))
    }

    /// 409
    pub fn conflict(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, explanation)
    }

    /// 413
    pub fn too_large(explanation: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, explanation)
    }

    /// 500, with the cause in the log only.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "an image request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The server has either erred or is incapable of performing the requested operation.",
        )
    }

    fn title(&self) -> &'static str {
        match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
            StatusCode::RANGE_NOT_SATISFIABLE => "Request Range Not Satisfiable",
            status => status.canonical_reason().unwrap_or("Error"),
        }
    }
}

impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        if error.is_retryable() {
            // A unit of work that is run again is converted each time; one that is given up is told by the store.
            tracing::debug!(%error, "the image database does not answer");
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The image database does not answer; try again later.",
            );
        }
        Self::internal(&error)
    }
}

impl From<web::body::BodyError> for Fault {
    fn from(error: web::body::BodyError) -> Self {
        match error {
            web::body::BodyError::TooLarge { limit } => {
                Self::too_large(format!("The request body is larger than {limit} bytes."))
            }
            web::body::BodyError::NotJson(_) => {
                Self::bad_request("Malformed JSON in request body.")
            }
            web::body::BodyError::Broken(why) => {
                Self::bad_request(format!("The request body could not be read: {why}"))
            }
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name.clone(), value);
            }
        }
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// What the client wants to read.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Text,
}

fn form(headers: &HeaderMap) -> Form {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    // openstacksdk sends an empty header with uploads; it finds the message in HTML only.
    let Some(accept) = accept.filter(|text| !text.trim().is_empty()) else {
        return Form::Html;
    };
    let quality = |wanted: &str| {
        accept
            .split(',')
            .filter_map(|range| {
                let mut parts = range.split(';');
                let name = parts.next()?.trim();
                let matches = name == wanted
                    || name == "*/*"
                    || name
                        .strip_suffix("/*")
                        .is_some_and(|kind| wanted.split('/').next() == Some(kind));
                let quality = parts
                    .find_map(|part| part.trim().strip_prefix("q=")?.parse::<f32>().ok())
                    .unwrap_or(1.0);
                matches.then_some(quality)
            })
            .fold(0.0, f32::max)
    };
    let (html, json) = (quality("text/html"), quality("application/json"));
    if html <= 0.0 && json <= 0.0 {
        return Form::Text;
    }
    if json > html { Form::Json } else { Form::Html }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            other => out.push(other),
        }
    }
    out
}

/// Middleware: gives [`Fault`] answers their body.
pub async fn render(request: Request, next: Next) -> Response {
    let form = form(request.headers());
    let response = next.run(request).await;
    let Some(fault) = response.extensions().get::<Arc<Fault>>().cloned() else {
        return response;
    };
    let status = format!("{} {}", fault.status.as_u16(), fault.title());
    let body = match form {
        Form::Html => {
            let explanation = escape(&fault.explanation);
            Html(format!(
                "<html>\n <head>\n  <title>{status}</title>\n </head>\n <body>\n  <h1>{status}</h1>\n  \
                 {explanation}<br /><br />\n\n\n\n </body>\n</html>"
            ))
            .into_response()
        }
        Form::Json => {
            let message = format!("{}<br /><br />\n\n\n", fault.explanation);
            Json(json!({"message": message, "code": status, "title": fault.title()}))
                .into_response()
        }
        Form::Text => format!("{status}\n\n{}\n\n   ", fault.explanation).into_response(),
    };
    let (mut parts, body) = (response.into_parts().0, body);
    let (body_parts, body) = body.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(body_parts.headers);
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_client_chooses_the_form() {
        let cases = [
            (None, Form::Html),
            (Some("*/*"), Form::Html),
            (Some(""), Form::Html),
            (Some("application/json"), Form::Json),
            (Some("application/json, */*;q=0.5"), Form::Json),
            (Some("text/html,application/json;q=0.9"), Form::Html),
            (Some("application/*"), Form::Json),
            (Some("image/png"), Form::Text),
        ];
        for (accept, wanted) in cases {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(form(&headers), wanted, "{accept:?}");
        }
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<script>'&\""), "&lt;script&gt;&#x27;&amp;&quot;");
    }
}
