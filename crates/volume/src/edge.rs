//! HTTP: paths, tokens, versions, bodies.

use crate::api;
use crate::fault::{Fault, Result};
use crate::listing::Query;
use crate::rules::Access;
use crate::service::Service;
use crate::version::{self, Version};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use types::RequestId;
use web::auth::AuthError;

/// Most bytes of a request's body.
const BODY: usize = 114_688;

/// A request that is understood as far as its path.
#[derive(Clone)]
pub struct Call {
    /// How.
    pub method: Method,
    /// The path after `/v3` and the project.
    pub path: Vec<String>,
    /// The query string.
    pub query: Query,
    /// The JSON body; null without one.
    pub body: Value,
    /// Which version of the API.
    pub version: Version,
    /// Who.
    pub access: Access,
    /// The token, for what is done at once in the user's name.
    pub token: String,
    /// Whether a service stands behind the user (`X-Service-Token`), or is the user.
    pub from_service: bool,
    /// Of the answer.
    pub request_id: String,
    /// The URL up to and with the project, for links.
    pub base: String,
    /// The URL without version and project, for bookmarks.
    pub root: String,
}

impl Call {
    /// A link to a resource.
    pub fn links(&self, collection: &str, id: &str) -> Value {
        let rest = self.base.strip_prefix(&format!("{}/v3", self.root));
        let bookmark = format!("{}{}", self.root, rest.unwrap_or_default());
        json!([
            {"rel": "self", "href": format!("{}/{collection}/{id}", self.base)},
            {"rel": "bookmark", "href": format!("{bookmark}/{collection}/{id}")},
        ])
    }
}

/// What a handler answers.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body, if there is one.
    pub body: Option<Value>,
}

impl Reply {
    /// 200 with a body.
    pub fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(body),
        }
    }

    /// 202 with a body.
    pub fn accepted(body: Value) -> Self {
        Self {
            status: StatusCode::ACCEPTED,
            body: Some(body),
        }
    }

    /// A status alone.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, body: None }
    }
}

pub(crate) fn router(service: Service) -> Router {
    Router::new()
        .fallback(handle)
        .layer(axum::middleware::from_fn(web::request_id::layer))
        .with_state(service)
}

async fn handle(State(service): State<Service>, request: axum::extract::Request) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = match answer(&service, request).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    if let Some(value) = id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        let name = HeaderName::from_static("x-compute-request-id");
        response.headers_mut().insert(name, value);
    }
    response
}

/// The URL that the client used, up to the path.
fn root(service: &Service, request: &axum::extract::Request) -> String {
    match &service.inner.config.public_endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => web::address::origin(request.headers(), request.uri()),
    }
}

fn versions(root: &str) -> Value {
    json!({"versions": [{
        "id": "v3.0",
        "status": "CURRENT",
        "version": Version::MOST.text(),
        "min_version": Version::LEAST.text(),
        "updated": "2023-08-31T00:00:00Z",
        "links": [
            {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
            {"rel": "self", "href": format!("{root}/v3/")},
        ],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"},
        ],
    }]})
}

async fn answer(service: &Service, request: axum::extract::Request) -> Result<Response> {
    let root = root(service, &request);
    let path = request.uri().path().to_owned();
    let parts = web::address::segments(&path).ok_or_else(Fault::no_route)?;
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => Ok((StatusCode::MULTIPLE_CHOICES, axum::Json(versions(&root))).into_response()),
        ["v3"] => Ok(axum::Json(versions(&root)).into_response()),
        ["healthcheck"] => Ok("OK".into_response()),
        // An empty id is none of anything.
        ["v3", _, ..] if path.ends_with('/') => Err(Fault::no_route()),
        ["v3", rest @ ..] => {
            let rest = rest.iter().map(|part| (*part).to_owned()).collect();
            authenticated(service, request, rest, root).await
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

/// Whether the request carries a second token, of a service.
async fn from_service(service: &Service, headers: &HeaderMap) -> bool {
    let token = headers
        .get("x-service-token")
        .and_then(|value| value.to_str().ok());
    let Some(token) = token else { return false };
    let caller = service.inner.validator.validate(token.trim()).await;
    caller.is_ok_and(|caller| caller.has_role("service"))
}

async fn authenticated(
    service: &Service,
    request: axum::extract::Request,
    mut path: Vec<String>,
    root: String,
) -> Result<Response> {
    let validator = service.inner.validator.as_ref();
    let caller = match web::auth::caller(request.headers(), validator).await {
        Ok(caller) => caller,
        Err(error) => return Ok(refused(service, &error)),
    };
    let version = version::negotiate(request.headers())?;
    let from_service = caller.has_role("service") || from_service(service, request.headers()).await;
    let access = service.access(caller);
    let mut base = format!("{root}/v3");
    let first = path.first().map(String::as_str).unwrap_or_default();
    if !api::is_collection(first) {
        // The project may stand in the path; it says nothing that the token does not.
        if first != access.project() {
            return Ok(versioned(
                Fault::bad("Malformed request url").into_response(),
                version,
            ));
        }
        base = format!("{base}/{first}");
        path.remove(0);
    }
    let token = request.headers().get("x-auth-token");
    let token = token.and_then(|value| value.to_str().ok());
    let id = request.extensions().get::<RequestId>();
    let call = Call {
        method: request.method().clone(),
        query: Query::parse(request.uri().query().unwrap_or_default()),
        token: token.unwrap_or_default().to_owned(),
        request_id: id.map(ToString::to_string).unwrap_or_default(),
        body: Value::Null,
        path,
        version,
        access,
        from_service,
        base,
        root,
    };
    let reply = act(service, call, request.into_body()).await;
    let response = match reply {
        Ok(reply) => match reply.body {
            Some(body) => (reply.status, axum::Json(body)).into_response(),
            None => reply.status.into_response(),
        },
        Err(fault) => fault.into_response(),
    };
    Ok(versioned(response, version))
}

async fn act(service: &Service, mut call: Call, body: Body) -> Result<Reply> {
    if matches!(call.method, Method::POST | Method::PUT) {
        call.body = read_body(body).await?;
    }
    api::dispatch(service, call).await
}

/// Says which version was served.
fn versioned(mut response: Response, version: Version) -> Response {
    let name = HeaderName::from_static("openstack-api-version");
    if let Ok(value) = HeaderValue::from_str(&format!("volume {}", version.text())) {
        response.headers_mut().insert(name.clone(), value);
    }
    response.headers_mut().insert(
        header::VARY,
        HeaderValue::from_static("OpenStack-API-Version"),
    );
    response
}

async fn read_body(body: Body) -> Result<Value> {
    let bytes = web::body::bytes(body, BODY)
        .await
        .map_err(|error| match error {
            web::body::BodyError::TooLarge { .. } => {
                Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "Request is too large.")
            }
            other => Fault::bad(other.to_string()),
        })?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|_| Fault::bad("Malformed request body: cannot understand JSON"))
}
