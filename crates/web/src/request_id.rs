//! One id per request, in the log and in the answer.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{Extensions, HeaderName, HeaderValue};
use types::RequestId;

/// The id that the accept loop has given a request; one of its own for a request of the same process.
pub fn of(extensions: &Extensions) -> RequestId {
    let given = extensions.get::<RequestId>();
    given.cloned().unwrap_or_else(RequestId::random)
}

/// Gives the request its [`RequestId`] as an extension and answers it in `X-Openstack-Request-Id`.
///
/// Use with `axum::middleware::from_fn(web::request_id::layer)`.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let id = of(request.extensions());
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-openstack-request-id"), value);
    }
    response
}
