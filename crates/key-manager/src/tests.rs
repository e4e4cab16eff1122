//! The service through its router, as clients use it.
#![allow(clippy::unwrap_used)]

mod access;
mod bodies;
mod details;
mod secrets;

use crate::{Config, Service};
use async_trait::async_trait;
use axum::body::Body;
use fernet::Fernet;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

/// Tokens are `user@project:role,role`.
struct Believed;

#[async_trait]
impl TokenValidator for Believed {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (whom, roles) = token.split_once(':').ok_or(AuthError::Invalid)?;
        let (user, project) = whom.split_once('@').ok_or(AuthError::Invalid)?;
        Ok(Arc::new(Caller {
            user_id: user.to_owned(),
            project_id: (!project.is_empty()).then(|| project.to_owned()),
            roles: roles.split(',').map(str::to_owned).collect(),
            ..Caller::default()
        }))
    }
}

pub const ALICE: &str = "alice@p1:member,reader";
/// Of the same project.
pub const ANN: &str = "ann@p1:member,reader";
pub const READER: &str = "rex@p1:reader";
pub const CHIEF: &str = "chief@p1:admin,member,reader";
/// Of another project.
pub const BOB: &str = "bob@p2:member,reader";
pub const ADMIN: &str = "root@adm:admin,member,reader";

pub struct Cloud {
    pub service: Service,
    pub store: sql::Store,
    pub keys: String,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// What is wrong.
    #[track_caller]
    pub fn says(self, status: u16) -> String {
        let body = self.is(status);
        assert_eq!(body["code"], status);
        body["description"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

pub async fn open(store: &sql::Store, keys: &str) -> Result<Service, crate::Error> {
    let config = Config {
        public_endpoint: Some("http://keys:9311/".to_owned()),
        ..Config::new(keys)
    };
    Service::open(store.clone(), config, Arc::new(Believed)).await
}

impl Cloud {
    pub async fn new() -> Self {
        let store = sql::Store::temporary().await.unwrap();
        let keys = Fernet::generate_key();
        Self {
            service: open(&store, &keys).await.unwrap(),
            store,
            keys,
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// A request with any headers and any body.
    pub async fn raw(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1{path}"))
            .header("x-auth-token", token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// A request with JSON, in the highest version.
    pub async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("openstack-api-version", "key-manager latest"),
        ];
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        self.raw(token, method, path, &headers, body).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> Answer {
        self.call(token, "DELETE", path, Value::Null).await
    }

    /// Makes a secret and answers its path.
    pub async fn secret(&self, token: &str, body: Value) -> String {
        let made = self.call(token, "POST", "/secrets", body).await.is(201);
        let url = made["secret_ref"].as_str().unwrap();
        url.strip_prefix("http://keys:9311/v1").unwrap().to_owned()
    }

    /// Makes one with a text as its payload.
    pub async fn text(&self, token: &str, payload: &str) -> String {
        let body = json!({"name": "t", "payload": payload, "payload_content_type": "text/plain"});
        self.secret(token, body).await
    }

    pub async fn payload(&self, token: &str, path: &str, accept: &str) -> Answer {
        let headers = [("accept", accept)];
        let path = format!("{path}/payload");
        self.raw(token, "GET", &path, &headers, Body::empty()).await
    }
}

#[tokio::test]
async fn versions_and_tokens() {
    let cloud = Cloud::new().await;
    let plain = |path: &str, version: &str| {
        let request = Request::builder().uri(path).header("host", "elsewhere");
        let request = request.header("openstack-api-version", format!("key-manager {version}"));
        request.body(Body::empty()).unwrap()
    };
    let answer = cloud.send(plain("/", "1.2")).await;
    assert_eq!(answer.header("openstack-api-version"), "key-manager 1.2");
    assert_eq!(answer.header("vary"), "OpenStack-API-Version");
    assert!(answer.header("x-openstack-request-id").starts_with("req-"));
    let body = answer.is(300);
    assert_eq!(body["versions"][0]["max_version"], "1.2");
    assert_eq!(body["versions"][0]["min_version"], "1.0");
    assert_eq!(
        body["versions"][0]["links"][0]["href"],
        "http://keys:9311/v1/"
    );
    let body = cloud.send(plain("/", "1.0")).await.is(300);
    assert_eq!(body["versions"]["values"][0]["status"], "stable");
    assert_eq!(body["versions"]["values"][0].get("max_version"), None);
    let body = cloud.send(plain("/v1/", "latest")).await.is(200);
    assert_eq!(body["version"]["status"], "CURRENT");
    cloud.send(plain("/", "1.3")).await.says(406);
    cloud.send(plain("/v1", "x")).await.says(400);
    let answer = cloud.send(plain("/v1/secrets", "1.0")).await;
    assert!(answer.header("www-authenticate").starts_with("Keystone "));
    answer.is(401);
    cloud.get("nonsense", "/secrets").await.is(401);
    cloud.get("alice@:member", "/secrets").await.is(401);
    cloud.get(ALICE, "/nothing").await.says(404);
    cloud.send(plain("/v2", "1.0")).await.says(404);
    cloud.get(ALICE, "/secrets/%00").await.says(404);
    cloud.get(ALICE, "/secrets/7").await.says(404);
    cloud.delete(ALICE, "/secrets").await.says(405);
    cloud
        .call(ALICE, "PATCH", "/secrets", json!({}))
        .await
        .says(405);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let cloud = Cloud::new().await;
    for path in ["/containers", "/orders/1", "/quotas", "/secret-stores"] {
        let said = cloud.get(ALICE, path).await.says(501);
        assert!(said.contains("secrets only"), "{said}");
        cloud.get("nonsense", path).await.is(401);
    }
}

#[tokio::test]
async fn a_policy_text_overrides_the_defaults() {
    let store = sql::Store::temporary().await.unwrap();
    let config = |policy: &str| Config {
        policy: policy.to_owned(),
        ..Config::new(Fernet::generate_key())
    };
    let open = |config| Service::open(store.clone(), config, Arc::new(Believed));
    assert!(open(config("secret:get: 'role:'x'")).await.is_err());
    let service = open(config("secrets:post: 'role:creator'")).await.unwrap();
    let cloud = Cloud {
        service,
        store: store.clone(),
        keys: String::new(),
    };
    let made = |token| cloud.call(token, "POST", "/secrets", json!({}));
    made(ALICE).await.says(403);
    made("cora@p1:creator").await.is(201);
}
