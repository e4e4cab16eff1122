//! HTTP: paths, tokens, versions, bodies.

use crate::api;
use crate::fault::{Fault, Result};
use crate::query::Query;
use crate::rules::Access;
use crate::service::Service;
use crate::version::{self, Version};
use crate::view;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;
use web::auth::AuthError;
use web::body::BodyError;

/// A request that is understood as far as its path.
pub struct Call {
    /// How.
    pub method: Method,
    /// The path after `/v1`.
    pub path: Vec<String>,
    /// The query string.
    pub query: Query,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body. It may hold a payload, so it is not shown anywhere.
    pub body: Bytes,
    /// Which version of the API.
    pub version: Version,
    /// Who.
    pub access: Access,
    /// The URL of the service, for references.
    pub base: String,
}

impl Call {
    /// A header as text; none as well where it is empty.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        let value = self.headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The object in a JSON body.
    ///
    /// # Errors
    /// 415 for another kind of body, 400 for what is no object.
    pub fn object(&self) -> Result<serde_json::Map<String, Value>> {
        let kind = self.header(header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Fault::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Unexpected content type. Expected content types are: ['application/json']",
            ));
        }
        crate::check::object(&self.body)
    }
}

/// What a handler answers.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Where what was made is.
    pub location: Option<String>,
    /// The body.
    pub content: Content,
}

/// The body of an answer.
pub enum Content {
    /// None.
    Empty,
    /// JSON.
    Json(Value),
    /// A payload, with its media type.
    Payload(&'static str, Vec<u8>),
}

impl Reply {
    /// 200 with JSON.
    pub fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            location: None,
            content: Content::Json(body),
        }
    }

    /// 201 with JSON.
    pub fn made(location: String, body: Value) -> Self {
        Self {
            status: StatusCode::CREATED,
            location: Some(location),
            content: Content::Json(body),
        }
    }

    /// 204.
    pub fn done() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            location: None,
            content: Content::Empty,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = match self.content {
            Content::Empty => self.status.into_response(),
            Content::Json(body) => (self.status, axum::Json(body)).into_response(),
            Content::Payload(kind, bytes) => {
                // Nobody between here and the client has a use for it.
                let headers = [
                    (header::CONTENT_TYPE, kind),
                    (header::CACHE_CONTROL, "no-store"),
                ];
                (self.status, headers, bytes).into_response()
            }
        };
        if let Some(location) = self.location.and_then(|url| url.parse().ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .fallback(handle)
        .layer(axum::middleware::from_fn(web::request_id::layer))
        .with_state(service)
}

async fn handle(State(service): State<Service>, request: Request) -> Response {
    let version = match version::negotiate(request.headers()) {
        Ok(version) => version,
        Err(fault) => return fault.into_response(),
    };
    let mut response = match answer(&service, request, version).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    let name = HeaderName::from_static("openstack-api-version");
    if let Ok(value) = HeaderValue::from_str(&format!("key-manager {}", version.text())) {
        response.headers_mut().insert(name, value);
    }
    response.headers_mut().insert(
        header::VARY,
        HeaderValue::from_static("OpenStack-API-Version"),
    );
    response
}

/// The URL that the client used, up to the path.
fn base(service: &Service, request: &Request) -> String {
    match &service.inner.config.public_endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => web::address::origin(request.headers(), request.uri()),
    }
}

async fn answer(service: &Service, request: Request, version: Version) -> Result<Response> {
    let base = base(service, &request);
    // Clients write `/v1/secrets/` as well.
    let parts = web::address::segments(request.uri().path()).ok_or_else(Fault::no_route)?;
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["healthcheck"] => Ok("OK".into_response()),
        [] | ["v1"] if request.method() != Method::GET => Err(Fault::wrong_method()),
        [] => {
            let document = view::version(&base, version);
            let document = match version {
                Version::LEAST => json!({"versions": {"values": [document]}}),
                _ => json!({"versions": [document]}),
            };
            Ok((StatusCode::MULTIPLE_CHOICES, axum::Json(document)).into_response())
        }
        ["v1"] => {
            let document = json!({"version": view::version(&base, version)});
            Ok(axum::Json(document).into_response())
        }
        ["v1", rest @ ..] => {
            let path = rest.iter().map(|part| (*part).to_owned()).collect();
            authenticated(service, request, path, version, base).await
        }
        _ => Err(Fault::no_route()),
    }
}

fn refused(service: &Service, error: &AuthError) -> Response {
    if let AuthError::Unavailable(reason) = error {
        tracing::error!(%reason, "tokens cannot be validated");
        let text = "The identity service does not answer.";
        return Fault::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    web::auth::unauthorized(service.inner.config.identity_url.as_deref())
}

async fn authenticated(
    service: &Service,
    request: Request,
    path: Vec<String>,
    version: Version,
    base: String,
) -> Result<Response> {
    let validator = service.inner.validator.as_ref();
    let caller = match web::auth::caller(request.headers(), validator).await {
        Ok(caller) => caller,
        Err(error) => return Ok(refused(service, &error)),
    };
    // Secrets belong to projects.
    let Some(project) = caller.project_id.clone() else {
        return Ok(refused(service, &AuthError::Invalid));
    };
    let rules = Arc::clone(&service.inner.rules);
    let (head, body) = request.into_parts();
    let limit = service.inner.config.max_request_bytes;
    let body = web::body::bytes(body, limit)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge { .. } => Fault::too_large(),
            other => Fault::bad(other.to_string()),
        })?;
    let call = Call {
        query: Query::parse(head.uri.query().unwrap_or_default()),
        method: head.method,
        headers: head.headers,
        path,
        body,
        version,
        access: Access::new(caller, project, rules),
        base,
    };
    Ok(api::dispatch(service, call).await?.into_response())
}
