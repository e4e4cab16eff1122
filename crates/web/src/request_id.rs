//! One id per request, in the log and in the answer.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use types::RequestId;

/// Gives the request a fresh [`RequestId`] as an extension and answers it in `X-Openstack-Request-Id`.
///
/// Use with `axum::middleware::from_fn(web::request_id::layer)`.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let id = RequestId::random();
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-openstack-request-id"), value);
    }
    response
}
