#![allow(clippy::unwrap_used)]
use super::*;
use axum::routing::post;
use axum::{Json, Router};
use http::HeaderMap;

/// A service that answers a look so.
fn networks(status: StatusCode, answer: Value) -> Networks {
    let looks = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        assert_eq!(headers["x-auth-token"], "good");
        assert_eq!(body, json!({"look": {"mend": true}}));
        (status, Json(answer))
    };
    let router = Router::new().route("/v2.0/agents/looks", post(looks));
    Networks::new(Client::in_process(SERVICE, router))
}

#[tokio::test]
async fn what_agents_found_is_told_by_host() {
    let answer = json!({
        "looks": [
            {"host": "h1", "differences": ["ip link del dev tapa", "namespace x is missing"]},
            {"host": "h2", "differences": []},
        ],
        "silent": ["h3"],
        "unasked": [{"host": "h4", "reason": "is down"}],
    });
    let looks = networks(StatusCode::OK, answer).looks("good", true).await;
    let found = ["ip link del dev tapa", "namespace x is missing"];
    let expected = Looks {
        found: found.map(|line| ("h1".into(), line.to_owned())).into(),
        silent: vec!["h3".into()],
        unasked: vec![("h4".into(), "is down".to_owned())],
    };
    assert_eq!(looks.unwrap(), Some(expected));
}

#[tokio::test]
async fn a_service_without_looks_is_no_error_and_a_failure_is() {
    for status in [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED] {
        let looks = networks(status, json!({})).looks("good", true).await;
        assert_eq!(looks.unwrap(), None);
    }
    for (status, answer) in [
        (StatusCode::FORBIDDEN, json!({})),
        (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
        (StatusCode::OK, json!({"looks": []})),
        (StatusCode::OK, json!([])),
    ] {
        let looks = networks(status, answer.clone()).looks("good", true).await;
        assert!(looks.is_err(), "{status} {answer}");
    }
}
