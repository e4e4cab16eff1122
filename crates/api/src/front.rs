//! What goes for every request, whatever it asks for: `OPTIONS`, and a line in the log.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use std::time::{Duration, Instant};
use tracing::Level;
use types::RequestId;

/// The target of the lines, so that they can be switched off: `KILONOVA_LOG=info,kilonova::requests=off`.
macro_rules! target {
    () => {
        "kilonova::requests"
    };
}

/// Answers `OPTIONS` of any path, without a token, as Nova does; passes everything else on.
pub async fn door(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return Response::new(Body::empty());
    }
    // Nothing is remembered of a request that is not told.
    if !tracing::enabled!(target: target!(), Level::INFO) {
        return next.run(request).await;
    }
    let line = Line {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        id: request.extensions().get::<RequestId>().cloned(),
        begun: Instant::now(),
    };
    let response = next.run(request).await;
    line.tell(&response);
    response
}

struct Line {
    method: Method,
    path: String,
    id: Option<RequestId>,
    begun: Instant,
}

impl Line {
    /// The length is that of the document, before it is compressed; a stream has none. A query may hold what is nobody's
    /// business, so it is left out.
    fn tell(&self, response: &Response) {
        let Self { method, path, .. } = self;
        let told = response.headers().get("x-openstack-request-id");
        let told = told.and_then(|value| value.to_str().ok());
        let request_id = told.or(self.id.as_ref().map(RequestId::as_str));
        let status = response.status().as_u16();
        let length = response.body().size_hint().exact();
        let seconds = Seconds(self.begun.elapsed());
        // Those that look whether the service is well come every few seconds.
        if path.starts_with("/healthcheck") {
            tracing::debug!(target: target!(), request_id, status, length, %seconds, "{method} {path}");
        } else {
            tracing::info!(target: target!(), request_id, status, length, %seconds, "{method} {path}");
        }
    }
}

/// To the microsecond.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6}", self.0.as_secs_f64())
    }
}
