//! From an HTTP request to a handler and back: version in the URL, token, row, microversion, body, query, policy.
//!
//! The order of the checks is Nova's, because clients see it: size, token, path, microversion, content type, action,
//! JSON, project in the URL, version of the row, schema, policy.

use crate::call::{Call, Reply};
use crate::events::{self, Wish};
use crate::faults::{self, Fault};
use crate::handlers::servers_create::is_dry_run;
use crate::idempotency::{self, Given};
use crate::links::Links;
use crate::negotiation::{self, Refusal};
use crate::query::Query;
use crate::route::{Found, Route, Served, Verb};
use crate::{Inner, versions};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use types::{Caller, Microversion, RequestId};
use web::auth::AuthError;
use web::body::BodyError;
use web::serve::Stopping;
use web::tracing_context;

/// Where in the service a request goes.
enum Place<'a> {
    Root,
    Document { legacy: bool },
    Api { legacy: bool, path: &'a str },
    NoVersion,
}

/// Serves one request.
pub async fn serve(State(api): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let prefix = api.config.compute_link_prefix.clone();
    let origin = prefix.unwrap_or_else(|| web::address::origin(&parts.headers, &parts.uri));
    let path = parts.uri.path();
    let reply = match place(path, &parts.headers) {
        Place::Root => versions::all(&origin),
        Place::NoVersion => versions::choices(&origin, path),
        Place::Document { legacy } => {
            let mut response = with_request_id(
                into_response(versions::one(&origin, legacy)),
                &web::request_id::of(&parts.extensions),
            );
            if !legacy {
                negotiation::mark(response.headers_mut(), &Microversion::MIN.to_string());
            }
            return response;
        }
        Place::Api { legacy, path } => {
            let request_id = web::request_id::of(&parts.extensions);
            let started = Instant::now();
            let address = parts.extensions.get::<web::Peer>().map(|peer| peer.0);
            let request = Incoming {
                headers: &parts.headers,
                method: &parts.method,
                path,
                query: parts.uri.query(),
                origin,
                legacy,
                address,
                stopping: parts.extensions.get::<Stopping>(),
            };
            let mut route = None;
            let response =
                below_version(Arc::clone(&api), &request, body, &request_id, &mut route).await;
            api.requests
                .count(route, response.status(), started.elapsed());
            return with_request_id(response, &request_id);
        }
    };
    into_response(reply)
}

struct Incoming<'a> {
    headers: &'a HeaderMap,
    method: &'a http::Method,
    path: &'a str,
    query: Option<&'a str>,
    origin: String,
    legacy: bool,
    address: Option<IpAddr>,
    stopping: Option<&'a Stopping>,
}

fn into_response(reply: Result<Reply, Fault>) -> Response {
    match reply {
        Ok(reply) => reply.into_response(),
        Err(fault) => fault.into_response(),
    }
}

fn with_request_id(mut response: Response, id: &RequestId) -> Response {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(
            HeaderName::from_static("x-openstack-request-id"),
            value.clone(),
        );
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-compute-request-id"), value);
    }
    response
}

fn place<'a>(path: &'a str, headers: &HeaderMap) -> Place<'a> {
    if path == "/" {
        return match mime_version(headers) {
            Some(legacy) => Place::Document { legacy },
            None => Place::Root,
        };
    }
    for (prefix, legacy) in [("/v2.1", false), ("/v2", true)] {
        if let Some(rest) = path.strip_prefix(prefix) {
            if rest.is_empty() || rest == "/" {
                return Place::Document { legacy };
            }
            if rest.starts_with('/') {
                return Place::Api { legacy, path: rest };
            }
        }
    }
    match mime_version(headers) {
        Some(legacy) => Place::Api { legacy, path },
        None => Place::NoVersion,
    }
}

/// The version a MIME type names, for paths that name none: `application/json;version=2.1`, or in the type itself as in
/// `application/vnd.openstack.compute.v2.1+json`. True is `/v2`.
fn mime_version(headers: &HeaderMap) -> Option<bool> {
    [header::CONTENT_TYPE, header::ACCEPT]
        .iter()
        .filter_map(|name| headers.get(name)?.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|one| {
            let mut parts = one.split(';').map(str::trim);
            let kind = parts.next()?;
            let given = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                (name.trim() == "version").then(|| value.trim().trim_matches('"'))
            });
            let version = match kind {
                "application/json" | "application/vnd.openstack.compute+json" => given?,
                _ => kind
                    .strip_prefix("application/vnd.openstack.compute.v")?
                    .strip_suffix("+json")?,
            };
            match version {
                "2.1" => Some(false),
                "2" | "2.0" => Some(true),
                _ => None,
            }
        })
}

async fn below_version(
    api: Arc<Inner>,
    request: &Incoming<'_>,
    body: Body,
    request_id: &RequestId,
    counted: &mut Option<&'static Route>,
) -> Response {
    if let Some(rates) = &api.rates {
        let token = request.headers.get("x-auth-token");
        let token = token.and_then(|token| token.to_str().ok());
        if let Err(seconds) = rates.take(request.address, token.unwrap_or_default(), Instant::now())
        {
            return faults::rate_limited(seconds);
        }
    }
    let limit = api.config.max_body_bytes;
    let too_large =
        || Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "Request is too large.").into_response();
    let announced = request
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return too_large();
    }
    let caller = match web::auth::caller(request.headers, &*api.deps.validator).await {
        Ok(caller) => caller,
        Err(AuthError::Missing | AuthError::Invalid) => {
            return faults::unauthorized(&api.config.auth_url);
        }
        Err(AuthError::Unavailable(reason)) => {
            tracing::warn!(reason, "tokens cannot be checked");
            return Fault::unavailable("The identity service does not answer.").into_response();
        }
    };
    let found = Verb::of(request.method).and_then(|verb| api.table.find(verb, request.path));
    let Some(found) = found else {
        return faults::router_not_found(request.headers.get(header::ACCEPT));
    };
    let version = match if request.legacy {
        Ok(Microversion::MIN)
    } else {
        negotiation::negotiate(request.headers)
    } {
        Ok(version) => version,
        Err(refusal) => return refused(refusal),
    };
    let reading = tokio::time::timeout(api.config.body_timeout, web::body::bytes(body, limit));
    let Ok(read) = reading.await else {
        let words = "The request's body did not arrive in time. Send it again, faster.";
        return Fault::new(StatusCode::REQUEST_TIMEOUT, words).into_response();
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(BodyError::TooLarge { .. }) => return too_large(),
        Err(error) => return Fault::bad_request(error.to_string()).into_response(),
    };
    // Of several actions the one that was meant is known when the body is understood.
    *counted = found.rows.first().copied();
    let reply = match prepare(&api, request, &found, version, &bytes, caller, request_id) {
        Ok((handler, call)) => {
            *counted = Some(call.route);
            match Given::read(request.headers, &call, request.path, &bytes) {
                Ok(None) => match Wish::read(request.headers, &call, request.stopping.cloned()) {
                    Ok(None) => handler(call).await,
                    Ok(Some(wish)) => events::answer(handler, call, wish).await,
                    Err(fault) => Err(fault),
                },
                Ok(Some(given)) => idempotency::answer(handler, call, given).await,
                Err(fault) => Err(fault),
            }
        }
        Err(fault) => Err(fault),
    };
    let mut response = into_response(reply);
    if !request.legacy {
        negotiation::mark(response.headers_mut(), &version.to_string());
    }
    response
}

fn refused(refusal: Refusal) -> Response {
    let mut response = refusal.fault.into_response();
    if let Some(version) = refusal.echo {
        negotiation::mark(response.headers_mut(), &version);
    }
    response
}

/// Whether there is the character NUL in a request: no text of PostgreSQL holds it.
fn has_nul(request: &Incoming<'_>, bytes: &[u8], body: &Value) -> bool {
    fn in_value(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(all) => all.iter().any(in_value),
            Value::Object(all) => all
                .iter()
                .any(|(key, one)| key.contains('\0') || in_value(one)),
            _ => false,
        }
    }
    let mut named = [request.path, request.query.unwrap_or_default()].into_iter();
    // JSON writes it in one way only; most bodies need no second look.
    let written = || bytes.windows(6).any(|part| part == br"\u0000");
    named.any(|text| text.contains("%00")) || (written() && in_value(body))
}

/// Everything between a found path and its handler.
fn prepare(
    api: &Arc<Inner>,
    request: &Incoming<'_>,
    found: &Found<'_>,
    version: Microversion,
    bytes: &[u8],
    caller: Arc<Caller>,
    request_id: &RequestId,
) -> Result<(crate::route::Handler, Call), Fault> {
    content_type(request.headers)?;
    let malformed = || Fault::bad_request("Malformed request body");
    // What comes with other methods is not looked at (Nova's `wsgi`, `_should_have_body`).
    let has_body = matches!(*request.method, http::Method::POST | http::Method::PUT);
    let mut body = if bytes.is_empty() || !has_body {
        Value::Null
    } else {
        serde_json::from_slice(bytes).map_err(|_| malformed())?
    };
    if has_nul(request, bytes, &body) {
        let text = "The request has the character NUL, which no text can have.";
        return Err(Fault::bad_request(text));
    }
    let route = row(found, &body)?;
    if matches!(route.served, Served::Gone) {
        return Err(Fault::new(
            StatusCode::GONE,
            "This resource is no longer available. No forwarding address is given.",
        ));
    }
    let own = caller.project_id.as_deref().unwrap_or_default();
    if let Some(project) = found.project.as_deref().filter(|project| *project != own) {
        let message = format!(
            "Malformed request URL: URL's project_id '{project}' doesn't match Context's project_id '{own}'"
        );
        return Err(Fault::bad_request(message));
    }
    if !route.exists_at(version) {
        return Err(Fault::no_such_resource());
    }
    let Served::By(handler) = route.served else {
        let what = route.action.map_or_else(
            || format!("{} {}", route.verb.as_str(), route.path),
            |action| format!("action {action}"),
        );
        return Err(Fault::not_implemented(format!(
            "{what} is not built yet in this cloud."
        )));
    };
    if let Some(schema) = route.body {
        if request.legacy {
            schema.check_legacy(&mut body)?;
        } else {
            schema.check(version, &body)?;
        }
    }
    let mut query = Query::parse(request.query.unwrap_or_default());
    if let Some(keys) = route.query {
        query.check(keys, version)?;
    }
    let dry_run = is_dry_run(route, &query)?;
    let call = Call {
        api: Arc::clone(api),
        dry_run,
        token: request
            .headers
            .get("x-auth-token")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .trim()
            .to_owned(),
        caller,
        version,
        params: found.params.clone(),
        query,
        body,
        links: Links {
            origin: request.origin.clone(),
            version: if request.legacy { "v2" } else { "v2.1" },
            project: found.project.clone(),
        },
        request_id: request_id.clone(),
        trace: types::trace::current().filter(|_| tracing_context::is_given(request.headers)),
        route,
        key: None,
    };
    if let Some(rule) = route.policy.filter(|_| route.checked_first) {
        call.require(rule)?;
    }
    Ok((handler, call))
}

/// The row of a path; an action's row is named by the body's only key.
fn row(found: &Found<'_>, body: &Value) -> Result<&'static Route, Fault> {
    if let [only] = found.rows
        && only.action.is_none()
    {
        return Ok(only);
    }
    let malformed = || Fault::bad_request("Malformed request body");
    let map = body
        .as_object()
        .filter(|map| map.len() == 1)
        .ok_or_else(malformed)?;
    let name = map.keys().next().ok_or_else(malformed)?;
    let row = found
        .rows
        .iter()
        .find(|row| row.action == Some(name.as_str()));
    row.copied()
        .ok_or_else(|| Fault::bad_request(format!("There is no such action: {name}")))
}

fn content_type(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = value
        .to_str()
        .unwrap_or("?")
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let vendor = kind.starts_with("application/vnd.openstack.compute") && kind.ends_with("+json");
    if kind.is_empty() || kind == "text/plain" || kind == "application/json" || vendor {
        return Ok(());
    }
    Err(Fault::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unsupported Content-Type",
    ))
}
