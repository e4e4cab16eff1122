//! From an HTTP request to a route and back: version, token, policy, handler, headers.

use crate::fault::Fault;
use crate::query::Query;
use crate::{Service, routes, version};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use types::{RequestId, Timestamp};

/// What a handler gets.
pub(crate) struct Call {
    pub(crate) service: Service,
    /// The minor number of the microversion.
    pub(crate) version: u16,
    /// What the path's placeholders stand for.
    pub(crate) captures: Vec<String>,
    pub(crate) query: Query,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// The placeholder's value, counted from 0.
    pub(crate) fn capture(&self, index: usize) -> &str {
        self.captures.get(index).map_or("", String::as_str)
    }

    /// The JSON body.
    pub(crate) fn json(&self) -> Result<Value, Fault> {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = format!("The media type {kind} is not supported, use application/json");
            return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Fault::bad_request(format!("Malformed JSON: {error}")))
    }

    pub(crate) fn store(&self) -> &sql::Store {
        &self.service.inner.store
    }
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Option<Value>,
    location: Option<String>,
    last_modified: Option<Timestamp>,
}

impl Answer {
    pub(crate) fn json(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(body),
            location: None,
            last_modified: None,
        }
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            location: None,
            last_modified: None,
        }
    }

    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn at(self, location: String) -> Self {
        Self {
            location: Some(location),
            ..self
        }
    }

    /// When what is answered changed; now, if not said (from 1.15).
    pub(crate) fn modified(self, at: Option<Timestamp>) -> Self {
        Self {
            last_modified: at,
            ..self
        }
    }
}

/// A handler of a route.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Answer, Fault>>;

pub(crate) fn router(service: Service) -> axum::Router {
    axum::Router::new().fallback(answer).with_state(service)
}

async fn answer(State(service): State<Service>, request: Request) -> Response {
    let known = request.extensions().get::<RequestId>().cloned();
    let id = known.clone().unwrap_or_else(RequestId::random);
    let wanted = version::wanted(request.headers());
    let version = wanted.as_ref().ok().copied();
    let head = request.method() == Method::HEAD;
    let outcome = match wanted {
        Ok(version) => route(&service, version, request).await,
        Err(fault) => Err(fault),
    };
    let mut response = render(outcome, version, id.as_str(), &service);
    if head {
        *response.body_mut() = Body::empty();
    }
    if known.is_none() {
        insert(
            response.headers_mut(),
            "x-openstack-request-id",
            id.as_str(),
        );
    }
    response
}

async fn route(service: &Service, version: u16, request: Request) -> Result<Answer, Fault> {
    let (parts, body) = request.into_parts();
    let (route, captures) = routes::find(&parts.method, parts.uri.path(), version)?;
    let Some(policy) = route.policy else {
        return Ok(routes::versions());
    };
    let caller = web::auth::caller(&parts.headers, service.inner.tokens.as_ref()).await?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let mut target = policy::Target::new();
    if let Some(project) = query.get("project_id") {
        target = target.with("project_id", project);
    }
    if !service.inner.enforcer.allows(policy, &caller, &target) {
        return Err(Fault::new(
            StatusCode::FORBIDDEN,
            format!("Policy does not allow {policy} to be performed."),
        ));
    }
    let body = web::body::bytes(body, service.inner.config.max_body)
        .await
        .map_err(|error| match error {
            web::body::BodyError::TooLarge { .. } => {
                Fault::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            _ => Fault::bad_request(error.to_string()),
        })?;
    let call = Call {
        service: service.clone(),
        version,
        captures,
        query,
        headers: parts.headers,
        body,
    };
    (route.run)(call).await
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// A time as HTTP writes it (RFC 9110, 5.6.7).
fn http_date(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn render(
    outcome: Result<Answer, Fault>,
    version: Option<u16>,
    request_id: &str,
    service: &Service,
) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(version) = version {
        insert(
            &mut headers,
            "openstack-api-version",
            &format!("placement 1.{version}"),
        );
    }
    insert(&mut headers, "vary", "openstack-api-version");
    let (status, body) = match outcome {
        Ok(answer) => {
            if let Some(location) = &answer.location {
                insert(&mut headers, "location", location);
            }
            if version.is_some_and(|version| version >= 15) && answer.body.is_some() {
                insert(&mut headers, "cache-control", "no-cache");
                insert(
                    &mut headers,
                    "last-modified",
                    &http_date(answer.last_modified.unwrap_or_else(Timestamp::now)),
                );
            }
            (answer.status, answer.body)
        }
        Err(fault) => {
            if let Some(allow) = &fault.allow {
                insert(&mut headers, "allow", allow);
            }
            if fault.status == StatusCode::UNAUTHORIZED {
                insert(
                    &mut headers,
                    "www-authenticate",
                    &format!("Keystone uri=\"{}\"", service.inner.config.identity_url),
                );
            }
            (
                fault.status,
                Some(fault.body(version.unwrap_or(0), request_id)),
            )
        }
    };
    if body.is_some() {
        insert(&mut headers, "content-type", "application/json");
    }
    let mut response =
        Response::new(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
