//! The service through its router, as clients use it.
#![allow(clippy::unwrap_used)]

mod data;
mod images;
mod metadefs;
mod sharing;
mod tasks;

use crate::{Config, Service};
use async_trait::async_trait;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

/// Tokens are `project:role,role`.
struct Tokens;

#[async_trait]
impl TokenValidator for Tokens {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (project, roles) = token.split_once(':').ok_or(AuthError::Invalid)?;
        Ok(Arc::new(Caller {
            user_id: "someone".to_owned(),
            project_id: Some(project.to_owned()),
            roles: roles.split(',').map(str::to_owned).collect(),
            ..Caller::default()
        }))
    }
}

pub const ADMIN: &str = "adm:admin,member,reader";
pub const ALICE: &str = "p1:member,reader";
pub const BOB: &str = "p2:member,reader";
pub const READER: &str = "p1:reader";

pub struct Cloud {
    pub service: Service,
    pub store: sql::Store,
    pub folder: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let store = sql::Store::temporary().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("images"));
        change(&mut config);
        let service = Service::open(store.clone(), config, Arc::new(Tokens))
            .await
            .unwrap();
        Self {
            service,
            store,
            folder,
        }
    }

    /// Another process of the same cloud, which may have come after the end of the first.
    pub async fn restarted(&self) -> Service {
        let config = Config::new(self.folder.path().join("images"));
        let service = Service::open(self.store.clone(), config, Arc::new(Tokens))
            .await
            .unwrap();
        service.begin().await.unwrap();
        service
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes,
        }
    }

    pub async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let kind = if method == "PATCH" {
            "application/openstack-images-v2.1-json-patch"
        } else {
            "application/json"
        };
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", token)
            .header("content-type", kind);
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, "GET", path, Value::Null).await
    }

    pub async fn put_file(&self, token: &str, id: &str, data: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method("PUT")
            .uri(format!("/v2/images/{id}/file"))
            .header("x-auth-token", token)
            .header("content-type", "application/octet-stream");
        self.send(request.body(data.into()).unwrap()).await
    }

    /// Creates an image and answers its id.
    pub async fn create(&self, token: &str, mut body: Value) -> String {
        let defaults = json!({"disk_format": "raw", "container_format": "bare"});
        for (name, value) in defaults.as_object().unwrap() {
            body.as_object_mut()
                .unwrap()
                .entry(name)
                .or_insert(value.clone());
        }
        let answer = self.call(token, "POST", "/v2/images", body).await.is(201);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, id: &str) -> String {
        let answer = self.get(ADMIN, &format!("/v2/images/{id}")).await;
        answer.json()["status"]
            .as_str()
            .unwrap_or("gone")
            .to_owned()
    }

    /// Names of the files in the store that belong to images, and of unfinished ones.
    pub fn files(&self) -> Vec<String> {
        self.files_in(&["", "uploads", "staging"])
    }

    /// The images that somebody works on, or did when the process was killed.
    pub fn locks(&self) -> Vec<String> {
        self.files_in(&["locks"])
    }

    fn files_in(&self, folders: &[&str]) -> Vec<String> {
        let root = self.folder.path().join("images");
        folders
            .iter()
            .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
            .map(Result::unwrap)
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

#[tokio::test]
async fn tokens_and_versions() {
    let cloud = Cloud::new().await;
    let request = |path: &str| {
        Request::builder()
            .uri(path)
            .header("host", "here:9292")
            .body(Body::empty())
            .unwrap()
    };
    let answer = cloud.send(request("/")).await.is(300);
    assert_eq!(answer.json()["versions"][0]["id"], "v2.17");
    assert_eq!(answer.json()["versions"][0]["status"], "CURRENT");
    assert_eq!(
        answer.json()["versions"][0]["links"][0]["href"],
        "http://here:9292/v2/"
    );
    assert_eq!(
        cloud.send(request("/versions")).await.is(200).json(),
        answer.json()
    );
    assert!(answer.header("x-openstack-request-id").starts_with("req-"));
    let answer = cloud.send(request("/v2/images")).await.is(401);
    assert!(
        answer
            .header("www-authenticate")
            .starts_with("Keystone uri=")
    );
    cloud.get("nonsense", "/v2/images").await.is(401);
    cloud.get(ALICE, "/v2/nothing").await.is(404);
    cloud
        .call(ALICE, "DELETE", "/v2/images", Value::Null)
        .await
        .is(405);
    let answer = cloud
        .call(ALICE, "POST", "/v2/schemas/image", Value::Null)
        .await
        .is(405);
    assert_eq!(answer.header("allow"), "GET,HEAD");
    cloud.get(ALICE, "/v2/images/%00").await.is(404);
    assert_eq!(
        StatusCode::OK,
        cloud.get(ALICE, "/v2/schemas/images").await.is(200).status
    );
    for name in ["image", "member", "members"] {
        assert_eq!(
            cloud
                .get(ALICE, &format!("/v2/schemas/{name}"))
                .await
                .json()["name"],
            name
        );
    }
    let methods = cloud.get(ALICE, "/v2/info/import").await.is(200).json();
    assert_eq!(methods["import-methods"]["value"], json!(["glance-direct"]));
    let answer = cloud.get(ALICE, "/v2/info/stores").await.is(404);
    assert!(answer.text().contains("<title>404 Not Found</title>"));
    assert!(
        answer
            .text()
            .contains("Multi backend is not supported at this site.")
    );
}

#[tokio::test]
async fn a_policy_file_overrides_the_defaults() {
    let overrides = "publicize_image: 'role:member'\nget_images: '!'\n";
    let cloud = Cloud::with(|config| config.policy = Some(overrides.to_owned())).await;
    cloud.create(ALICE, json!({"visibility": "public"})).await;
    cloud.get(ADMIN, "/v2/images").await.is(403);
    let bad = Config {
        policy: Some("add_image: 'role:'x'".to_owned()),
        ..Config::new(cloud.folder.path().join("other"))
    };
    assert!(
        Service::open(cloud.store.clone(), bad, Arc::new(Tokens))
            .await
            .is_err()
    );
}
