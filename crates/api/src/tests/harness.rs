//! A service on a temporary database, and a validator that knows a few tokens.

use crate::{Config, Deps, Service};
use async_trait::async_trait;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

/// The demo project.
pub const DEMO: &str = "0de30000000000000000000000000001";
/// Another project.
pub const OTHER: &str = "07be0000000000000000000000000002";

struct Tokens;

#[async_trait]
impl TokenValidator for Tokens {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (user, project, roles): (&str, &str, &[&str]) = match token {
            "admin" => ("admin-user", "ad000000000000000000000000000000", &["admin", "manager", "member", "reader"]),
            "member" => ("demo-user", DEMO, &["member", "reader"]),
            "reader" => ("read-user", DEMO, &["reader"]),
            "other" => ("other-user", OTHER, &["member", "reader"]),
            "nobody" => ("nobody", DEMO, &[]),
            _ => return Err(AuthError::Invalid),
        };
        Ok(Arc::new(Caller {
            user_id: user.into(),
            user_name: user.into(),
            project_id: Some(project.into()),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Caller::default()
        }))
    }
}

/// A running API.
pub struct Cloud {
    pub service: Service,
    pub store: sql::Store,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The fault's name and message.
    pub fn fault(&self) -> (String, String) {
        let json = self.json();
        let Some((name, inner)) = json.as_object().and_then(|map| map.iter().next()) else { return (String::new(), self.text.clone()) };
        (name.clone(), inner["message"].as_str().unwrap_or_default().to_owned())
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let store = sql::Store::temporary().await.unwrap();
        let deps = Deps { store: store.clone(), validator: Arc::new(Tokens) };
        Self { service: Service::open(deps, config).await.unwrap(), store }
    }

    /// Sends a request with any headers.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path).header("host", "cloud:8774");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = web::body::bytes(body, 1 << 24).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Sends JSON as the holder of a token at `2.version`.
    pub async fn send(&self, token: &str, version: u16, method: &str, path: &str, body: Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let version = format!("compute 2.{version}");
        let headers =
            [("x-auth-token", token), ("openstack-api-version", version.as_str()), ("content-type", "application/json")];
        self.raw(method, &format!("/v2.1{path}"), &headers, &text).await
    }

    /// Reads as the holder of a token.
    pub async fn get(&self, token: &str, version: u16, path: &str) -> Answer {
        self.send(token, version, "GET", path, Value::Null).await
    }
}
