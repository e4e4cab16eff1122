#![allow(clippy::unwrap_used)]
use super::*;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A key manager that keeps what it is sent, and knows the token `good`.
#[derive(Clone, Default)]
struct Fake {
    secrets: Arc<Mutex<Vec<(String, Value)>>>,
}

fn barred(headers: &HeaderMap) -> Option<Response> {
    let (status, words) = match headers["x-auth-token"].to_str().unwrap() {
        "good" => return None,
        "stranger" => (StatusCode::FORBIDDEN, "not your secret"),
        "broken" => (StatusCode::BAD_GATEWAY, "the store is away"),
        _ => (StatusCode::UNAUTHORIZED, "who are you"),
    };
    Some((status, Json(json!({"code": 0, "description": words}))).into_response())
}

async fn create(State(fake): State<Fake>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    if let Some(refusal) = barred(&headers) {
        return refusal;
    }
    let mut secrets = fake.secrets.lock().unwrap();
    let id = format!("00000000-0000-0000-0000-{:012}", secrets.len());
    secrets.push((id.clone(), body));
    let place = json!({"secret_ref": format!("http://keys:9311/v1/secrets/{id}")});
    (StatusCode::CREATED, Json(place)).into_response()
}

async fn list(
    State(fake): State<Fake>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if let Some(refusal) = barred(&headers) {
        return refusal;
    }
    let secrets = fake.secrets.lock().unwrap();
    let found = secrets.iter().rev();
    let found = found.filter(|(_, body)| body["name"] == query["name"].as_str());
    let found: Vec<Value> = found
        .map(|(id, body)| {
            json!({"name": body["name"], "secret_ref": format!("http://keys:9311/v1/secrets/{id}")})
        })
        .collect();
    Json(json!({"total": found.len(), "secrets": found})).into_response()
}

fn stored(fake: &Fake, headers: &HeaderMap, id: &str) -> Result<Value, Box<Response>> {
    if let Some(refusal) = barred(headers) {
        return Err(Box::new(refusal));
    }
    let secrets = fake.secrets.lock().unwrap();
    let found = secrets.iter().find(|(known, _)| known == id);
    let found = found.map(|(_, body)| body.clone());
    found.ok_or_else(|| Box::new(StatusCode::NOT_FOUND.into_response()))
}

async fn show(State(fake): State<Fake>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    match stored(&fake, &headers, &id) {
        Ok(body) => {
            let types = json!({"default": body["payload_content_type"]});
            Json(json!({"name": body["name"], "content_types": types})).into_response()
        }
        Err(refusal) => *refusal,
    }
}

async fn payload(State(fake): State<Fake>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    match stored(&fake, &headers, &id) {
        // As Barbican: in the type as which it was stored, and in no other.
        Ok(body) if headers["accept"] != body["payload_content_type"].as_str().unwrap() => {
            StatusCode::NOT_ACCEPTABLE.into_response()
        }
        Ok(body) => STANDARD
            .decode(body["payload"].as_str().unwrap())
            .unwrap()
            .into_response(),
        Err(refusal) => *refusal,
    }
}

async fn delete(State(fake): State<Fake>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if let Err(refusal) = stored(&fake, &headers, &id) {
        return *refusal;
    }
    fake.secrets
        .lock()
        .unwrap()
        .retain(|(known, _)| *known != id);
    StatusCode::NO_CONTENT.into_response()
}

fn keys() -> Keys {
    let router = Router::new()
        .route("/v1/secrets", get(list).post(create))
        .route("/v1/secrets/{id}", get(show).delete(delete))
        .route("/v1/secrets/{id}/payload", get(payload))
        .with_state(Fake::default());
    Keys::new(Client::in_process(SERVICE, router))
}

#[tokio::test]
async fn secrets_are_stored_found_read_and_deleted() {
    let keys = keys();
    let kind = SecretType::Passphrase;
    let bytes = [0, 255, b'"', b'\n'];
    let first = keys.store("good", "a name & more", kind, b"1").await;
    let second = keys.store("good", "a name & more", kind, &bytes).await;
    let (first, second) = (first.unwrap(), second.unwrap());
    keys.store("good", "another", kind, b"3").await.unwrap();
    assert_eq!(
        keys.find("good", "a name & more").await.unwrap(),
        [second.clone(), first.clone()]
    );
    assert_eq!(keys.payload("good", &second).await.unwrap().0, bytes);
    keys.delete("good", &second).await.unwrap();
    keys.delete("good", &second).await.unwrap();
    assert_eq!(keys.find("good", "a name & more").await.unwrap(), [first]);
    assert_eq!(
        keys.payload("good", &second).await,
        Err(KeyError::NotFound(second))
    );
}

/// A token, whether an error is the right one for it, and what it says.
type Row = (&'static str, fn(&KeyError) -> bool, &'static str);

#[tokio::test]
async fn refusals_are_told_apart() {
    let keys = keys();
    let id = keys.store("good", "a", SecretType::Certificate, b"1").await;
    let id = id.unwrap();
    let table: [Row; 3] = [
        (
            "stranger",
            |e| matches!(e, KeyError::NotAllowed(_)),
            "not your secret",
        ),
        ("nobody", |e| matches!(e, KeyError::NotAllowed(_)), "401"),
        ("broken", |e| matches!(e, KeyError::Unreachable(_)), "502"),
    ];
    for (token, right, words) in table {
        let answers = [
            keys.payload(token, &id).await.unwrap_err(),
            keys.find(token, "a").await.unwrap_err(),
            keys.delete(token, &id).await.unwrap_err(),
            keys.store(token, "b", SecretType::Opaque, b"2")
                .await
                .unwrap_err(),
        ];
        for error in answers {
            assert!(right(&error), "{token}: {error:?}");
            assert!(error.to_string().contains(words), "{token}: {error}");
        }
    }
    // What cannot be an id is not asked for.
    for id in ["", "..", "a/b", "a?b", "ä"] {
        assert_eq!(
            keys.payload("broken", id).await,
            Err(KeyError::NotFound(id.to_owned()))
        );
    }
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("http://{}", nowhere.local_addr().unwrap());
    drop(nowhere);
    let away = Keys::new(Client::http(SERVICE, &place));
    let error = away.payload("good", &id).await.unwrap_err();
    assert!(matches!(error, KeyError::Unreachable(_)), "{error:?}");
}

#[test]
fn payloads_are_not_printed() {
    let printed = format!("{:?}", Payload(b"s3cret".to_vec()));
    assert_eq!(printed, "Payload(6 bytes)");
}
