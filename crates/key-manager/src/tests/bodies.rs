//! Bodies that are refused.

use super::{ALICE, Cloud};
use axum::body::Body;
use serde_json::{Value, json};

#[tokio::test]
async fn bad_secrets_are_refused_and_not_repeated() {
    let cloud = Cloud::new().await;
    let with = |fields: Value| {
        let mut body = json!({"payload": "hunter2", "payload_content_type": "text/plain"});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let long = "x".repeat(256);
    for (body, field) in [
        (with(json!({"name": 1})), "name"),
        (with(json!({"name": long})), "name"),
        (with(json!({"name": "\u{0}"})), "name"),
        (with(json!({"algorithm": null})), "algorithm"),
        (with(json!({"mode": []})), "mode"),
        (with(json!({"bit_length": 0})), "bit_length"),
        (with(json!({"bit_length": 32768})), "bit_length"),
        (with(json!({"bit_length": true})), "bit_length"),
        (with(json!({"bit_length": "8"})), "bit_length"),
        (with(json!({"secret_type": "key"})), "secret_type"),
        (with(json!({"expiration": "soon"})), "expiration"),
        (
            with(json!({"expiration": "2001-01-01T00:00:00"})),
            "expiration",
        ),
        (with(json!({"payload": ["hunter2"]})), "payload"),
        (with(json!({"payload": "  "})), "payload"),
        (
            with(json!({"payload_content_type": null})),
            "payload_content_type",
        ),
        (
            with(json!({"payload_content_type": "text/html"})),
            "payload_content_type",
        ),
        (
            with(json!({"payload_content_type": "text/plain; charset=latin-1"})),
            "payload_content_type",
        ),
        (
            with(json!({"payload_content_encoding": "base64"})),
            "payload_content_encoding",
        ),
        (
            with(json!({"payload_content_type": "application/octet-stream"})),
            "payload_content_encoding",
        ),
        (
            with(json!({
                "payload_content_type": "application/octet-stream", "payload_content_encoding": "base64",
            })),
            "payload",
        ),
        (json!({"payload_content_type": "text/plain"}), "payload"),
    ] {
        let said = cloud
            .call(ALICE, "POST", "/secrets", body.clone())
            .await
            .says(400);
        let property = format!("Invalid property: '{field}'");
        assert!(said.contains(&property), "{body}: {said}");
        assert!(said.contains("schema 'Secret'"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    for needed in [
        json!({"transport_key_needed": "true"}),
        json!({"transport_key_id": "x"}),
    ] {
        cloud
            .call(ALICE, "POST", "/secrets", needed)
            .await
            .says(400);
    }
    for text in ["", "{", "[]", "\"hunter2\""] {
        let headers = [("content-type", "application/json; charset=utf-8")];
        let answer = cloud
            .raw(ALICE, "POST", "/secrets", &headers, Body::from(text))
            .await;
        assert_eq!(answer.says(400), "Malformed JSON");
    }
    let headers = [("content-type", "text/plain")];
    let answer = cloud.raw(ALICE, "POST", "/secrets", &headers, "{}").await;
    answer.says(415);
    assert_eq!(cloud.get(ALICE, "/secrets").await.is(200)["total"], 0);
}

#[tokio::test]
async fn what_is_not_known_is_left_alone() {
    let cloud = Cloud::new().await;
    let body = json!({
        "transport_key_needed": "false", "something": {"else": [1]}, "expiration": "",
        "payload_content_encoding": "base64",
    });
    let path = cloud.secret(ALICE, body).await;
    let shown = cloud.get(ALICE, &path).await.is(200);
    assert_eq!(shown["expiration"], Value::Null);
    assert_eq!(shown.get("something"), None);
}
