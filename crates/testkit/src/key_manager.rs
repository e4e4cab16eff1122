//! A key manager with as much of the Key Manager API v1 as compute speaks. Whoever has stored a secret, by the token, is the
//! only one who may read and delete it.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The key manager of a test.
#[derive(Default)]
pub struct KeyManager {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By their ids: who has stored them, and what.
    secrets: BTreeMap<String, (String, Value)>,
    down: bool,
}

impl KeyManager {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The API.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    /// It answers 503 to everything, or works again.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// What whoever has this token has stored under an id, and nothing else.
    pub fn set_secrets(&self, token: &str, secrets: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let kept = secrets.into_iter().map(|(id, payload)| {
            let secret = json!({ "name": id, "payload": BASE64.encode(payload), "payload_content_type": "text/plain" });
            (id, (token.to_owned(), secret))
        });
        self.lock().secrets = kept.collect();
    }

    /// The token and the name of each secret, sorted.
    pub fn stored(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let all = inner.secrets.values();
        let name = |secret: &Value| secret["name"].as_str().unwrap().to_owned();
        let mut all: Vec<_> = all.map(|(owner, one)| (owner.clone(), name(one))).collect();
        all.sort();
        all
    }
}

async fn answer(State(keys): State<Arc<KeyManager>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let token = parts.headers["x-auth-token"].to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut inner = keys.lock();
    if inner.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let path = parts.uri.path().trim_start_matches("/v1/secrets");
    let mut path = path.trim_start_matches('/').split('/');
    let (id, part) = (path.next().unwrap_or_default(), path.next());
    if parts.method == Method::POST {
        let id = uuid::Uuid::new_v4().to_string();
        let secret = serde_json::from_slice(&body).unwrap();
        inner.secrets.insert(id.clone(), (token, secret));
        let place = json!({ "secret_ref": format!("http://keys/v1/secrets/{id}") });
        return (StatusCode::CREATED, axum::Json(place)).into_response();
    }
    let Some((owner, secret)) = inner.secrets.get(id).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if owner != token && (part.is_some() || parts.method == Method::DELETE) {
        let words = "Secret payload retrieval attempt not allowed - please review your user/project privileges";
        let refusal = json!({ "code": 403, "title": "Forbidden", "description": words });
        return (StatusCode::FORBIDDEN, axum::Json(refusal)).into_response();
    }
    if parts.method == Method::DELETE {
        inner.secrets.remove(id);
        return StatusCode::NO_CONTENT.into_response();
    }
    if part.is_some() {
        let payload = secret["payload"].as_str().unwrap();
        let clear = BASE64.decode(payload);
        return clear.unwrap().into_response();
    }
    let types = json!({ "default": secret["payload_content_type"] });
    axum::Json(json!({ "name": secret["name"], "content_types": types })).into_response()
}
