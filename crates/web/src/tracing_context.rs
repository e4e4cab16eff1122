//! Where a request belongs to, from headers and into headers (see [`types::trace`]).

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use tower::ServiceExt;
use tracing::Instrument;
use types::{RequestId, Trace};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
const REQUEST: HeaderName = HeaderName::from_static("x-openstack-request-id");

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a request came with anything to go on with.
pub fn is_given(headers: &HeaderMap) -> bool {
    headers.contains_key(PARENT) || headers.contains_key(REQUEST)
}

/// Answers a request as a part of its trace, under an id of its own.
pub async fn answer(
    router: Router,
    mut request: Request,
) -> Result<Response, std::convert::Infallible> {
    let id = RequestId::random();
    let headers = request.headers();
    let trace = Trace::of(
        &id,
        text(headers, &REQUEST),
        text(headers, &PARENT),
        text(headers, &STATE),
    );
    let span = tracing::info_span!("request", request_id = %id, trace_id = %trace.id, global_request_id = %trace.request);
    request.extensions_mut().insert(id);
    let answering = router.oneshot(request).instrument(span);
    types::trace::within(Arc::new(trace), answering).await
}

/// Adds the headers that tell whoever is asked where the request belongs to.
pub fn pass_on(headers: &mut HeaderMap) {
    let Some(trace) = types::trace::current() else {
        return;
    };
    let told = [
        (REQUEST, Some(trace.request.clone())),
        (PARENT, Some(trace.traceparent())),
        (STATE, trace.state.clone()),
    ];
    for (name, value) in told {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::client::Client;
    use axum::body::Body;
    use http::Method;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const GLOBAL: &str = "req-99999999-2222-4333-8444-555555555555";

    /// A service that asks another one, which says what it was told.
    fn two_services() -> Router {
        let far = Router::new().fallback(async |headers: HeaderMap| {
            let told = |name: &str| {
                let value = headers
                    .get(name)
                    .map(|value| value.to_str().unwrap().to_owned());
                value.unwrap_or_default()
            };
            format!(
                "{} {} {}",
                told("x-openstack-request-id"),
                told("traceparent"),
                told("tracestate")
            )
        });
        let far = Arc::new(Client::in_process("the far service", far));
        Router::new().fallback(move |request: Request| async move {
            let own = crate::request_id::of(request.extensions());
            let answer = far
                .call(Method::GET, "/", HeaderMap::new(), None)
                .await
                .unwrap();
            format!("{own} {}", String::from_utf8_lossy(&answer.body))
        })
    }

    async fn ask(headers: &[(&str, &str)]) -> Vec<String> {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = answer(two_services(), request).await.unwrap();
        let bytes = crate::body::bytes(answer.into_body(), 4096).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.split(' ').map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn neighbours_are_told_of_the_trace() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let told = ask(&[
            ("traceparent", parent.as_str()),
            ("tracestate", "vendor=1"),
            ("x-openstack-request-id", GLOBAL),
        ])
        .await;
        assert!(
            told[0].starts_with("req-") && told[0] != GLOBAL,
            "an id of its own: {told:?}"
        );
        assert_eq!(told[1], GLOBAL);
        assert!(
            told[2].starts_with(&format!("00-{TRACE}-")) && told[2] != parent,
            "{told:?}"
        );
        assert_eq!(told[3], "vendor=1");
    }

    #[tokio::test]
    async fn a_request_without_a_trace_begins_one() {
        let told = ask(&[]).await;
        assert_eq!(
            told[1], told[0],
            "the id of the first service is the request's"
        );
        let id = told[0].trim_start_matches("req-").replace('-', "");
        assert!(told[2].starts_with(&format!("00-{id}-")), "{told:?}");
    }
}
