//! The Identity API v3 over HTTP: one static table of routes, and the path every request takes through it:
//! token, target, policy, handler.

pub mod app_credentials;
pub mod auth;
pub mod call;
pub mod credentials;
pub mod crud;
pub mod ec2;
pub mod fields;
pub mod grants;
pub mod groups;
pub mod lists;
pub mod projects;
pub mod roles;
pub mod table;
pub mod users;
pub mod versions;

use crate::fault::Fault;
use crate::service::Service;
use axum::Router;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::on;
use call::Call;
use http::{HeaderMap, HeaderValue, Uri, header};
use std::collections::HashMap;
use table::{Access, Route};
use web::address::origin;

/// Keystone's `max_request_body_size`.
const BODY_LIMIT: usize = 114_688;

/// The whole API, as mounted at the root of its port.
pub fn router(service: &Service) -> Router {
    let mut router = Router::new();
    for route in table::ROUTES {
        let service = service.clone();
        let handler = move |params: RawPathParams, request: Request| {
            let service = service.clone();
            async move { answer(route, service, &params, request).await }
        };
        router = router.route(route.path, on(route.method.filter(), handler));
    }
    router
        .fallback(|uri: Uri, headers: HeaderMap| async move {
            finish(Fault::NoRoute.response(&origin(&headers, &uri)))
        })
        .method_not_allowed_fallback(|uri: Uri, headers: HeaderMap| async move {
            finish(Fault::Method.response(&origin(&headers, &uri)))
        })
        .layer(axum::middleware::from_fn(web::request_id::layer))
}

async fn answer(
    route: &'static Route,
    service: Service,
    params: &RawPathParams,
    request: Request,
) -> Response {
    let base = origin(request.headers(), request.uri());
    let params = params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    finish(match run(route, service, params, request).await {
        Ok(response) => response,
        Err(fault) => fault.response(&base),
    })
}

fn finish(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    response
}

async fn run(
    route: &'static Route,
    service: Service,
    params: HashMap<String, String>,
    request: Request,
) -> Result<Response, Fault> {
    let (parts, body) = request.into_parts();
    let held = match (route.access, parts.headers.get("x-auth-token")) {
        (Access::Open, _) => None,
        (_, None) => return Err(Fault::Unauthorized),
        (_, Some(token)) => Some(
            service
                .held(token.to_str().map_err(|_| Fault::Unauthorized)?.trim())
                .await?,
        ),
    };
    let bytes = web::body::bytes(body, BODY_LIMIT)
        .await
        .map_err(|error| match error {
            web::body::BodyError::TooLarge { .. } => Fault::TooLarge,
            other => Fault::BadRequest(other.to_string()),
        })?;
    let body = if bytes.is_empty() || !route.method.has_body() {
        serde_json::Value::Null
    } else {
        serde_json::from_slice(&bytes).map_err(|_| {
            Fault::BadRequest("Expecting to find valid JSON in the request body.".to_owned())
        })?
    };
    let query = call::query(parts.uri.query().unwrap_or_default());
    let call = Call {
        service,
        held,
        base: origin(&parts.headers, &parts.uri),
        path: parts.uri.path().to_owned(),
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        params,
        query,
        body,
    };
    if let Access::Rule(rule, aim) = route.access {
        let target = table::target(&call, aim).await?;
        call.enforce(rule, &target)?;
    }
    (route.handler)(call).await
}

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;
