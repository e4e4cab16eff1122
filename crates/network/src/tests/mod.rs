//! The service through its HTTP interface.
#![allow(clippy::unwrap_used)]

mod agents;
mod bindings;
mod leaving;
mod lists;
mod looks;
mod resources;
mod simulated;
mod storage;
mod topology;
mod trunks;

use crate::{Config, Service};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

/// Tokens are `role:project`.
struct Names;

#[async_trait]
impl TokenValidator for Names {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (role, project) = token.split_once(':').ok_or(AuthError::Invalid)?;
        let roles: &[&str] = match role {
            "admin" => &["admin", "member", "reader"],
            "member" => &["member", "reader"],
            "reader" => &["reader"],
            _ => return Err(AuthError::Invalid),
        };
        Ok(Arc::new(Caller {
            user_id: role.into(),
            project_id: Some(project.into()),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            ..Caller::default()
        }))
    }
}

const ADMIN: &str = "admin:adm";
const DEMO: &str = "member:demo";
const OTHER: &str = "member:other";

#[derive(Clone)]
struct Cloud {
    service: Service,
    router: Router,
}

impl Cloud {
    async fn new() -> Self {
        Self::on(sql::Store::temporary().await.unwrap()).await
    }

    async fn on(store: sql::Store) -> Self {
        let service = Service::open(store, Config::default(), Arc::new(Names))
            .await
            .unwrap();
        let router = service.router();
        Self { service, router }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let method: Method = method.parse().unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v2.0/{path}"));
        if !token.is_empty() {
            request = request.header("x-auth-token", token);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let response = self
            .router
            .clone()
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn get(&self, path: &str, token: &str) -> Value {
        let (status, body) = self.call("GET", path, token, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Creates one and gives back what is inside of the answer.
    async fn make(&self, path: &str, token: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, token, body).await;
        assert_eq!(status, StatusCode::CREATED, "{path}: {answer}");
        answer.as_object().unwrap().values().next().unwrap().clone()
    }

    async fn put(&self, path: &str, token: &str, body: Value) -> Value {
        let (status, answer) = self.call("PUT", path, token, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn delete(&self, path: &str, token: &str) {
        let (status, answer) = self.call("DELETE", path, token, Value::Null).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{path}: {answer}");
    }

    /// Expects an error; the status and Neutron's name of it.
    async fn refused(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.call(method, path, token, body).await;
        (
            status.as_u16(),
            answer["NeutronError"]["type"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    }

    /// A network with a subnet.
    async fn network(&self, token: &str, cidr: &str) -> (String, String) {
        let network = self
            .make("networks", token, json!({"network": {"name": "n"}}))
            .await;
        let subnet =
            json!({"subnet": {"network_id": network["id"], "ip_version": 4, "cidr": cidr}});
        let subnet = self.make("subnets", token, subnet).await;
        (text(&network["id"]), text(&subnet["id"]))
    }

    async fn port(&self, token: &str, network: &str) -> Value {
        self.make("ports", token, json!({"port": {"network_id": network}}))
            .await
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
