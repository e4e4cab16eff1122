//! The service through its router, as clients use it.
#![allow(clippy::unwrap_used)]

mod attaching;
pub mod data;
mod resources;

use crate::{Config, Deps, Error, Service, Tokens};
use async_trait::async_trait;
use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;
use types::Caller;
use web::auth::{AuthError, TokenValidator};

/// Tokens are `project:role,role`.
struct Believed;

#[async_trait]
impl TokenValidator for Believed {
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

struct OwnToken;

#[async_trait]
impl Tokens for OwnToken {
    async fn token(&self) -> Result<String, String> {
        Ok(SERVICE.to_owned())
    }
}

pub const ADMIN: &str = "adm:admin,member,reader";
pub const ALICE: &str = "p1:member,reader";
pub const BOB: &str = "p2:member,reader";
pub const READER: &str = "p1:reader";
pub const SERVICE: &str = "service:admin,service,member,reader";

pub struct Cloud {
    pub service: Service,
    pub store: sql::Store,
    pub folder: tempfile::TempDir,
}

/// How long a folder may stay taken. A process that another test starts has a copy of the lock until it runs its program.
const TAKEN: Duration = Duration::from_secs(60);

/// Waits until a folder that was given up can be taken.
pub fn until_free(mut taken: impl FnMut() -> bool) {
    let until = Instant::now() + TAKEN;
    while !taken() {
        assert!(Instant::now() < until, "the folder stays taken");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Begins in a folder that was given up.
pub async fn begun(service: &Service) {
    let until = Instant::now() + TAKEN;
    while let Err(error) = service.begin().await {
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

fn deps(store: &sql::Store, images: Option<axum::Router>) -> Deps {
    let client = images.map(|router| web::client::Client::in_process("images", router));
    Deps {
        store: store.clone(),
        validator: Arc::new(Believed),
        images: client.map(Arc::new),
        tokens: Arc::new(OwnToken),
        servers: None,
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(|_| (), None).await
    }

    pub async fn with(change: impl FnOnce(&mut Config), images: Option<axum::Router>) -> Self {
        let store = sql::Store::temporary().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("volumes"));
        change(&mut config);
        let service = Service::open(config, deps(&store, images)).await.unwrap();
        service.begin().await.unwrap();
        Self {
            service,
            store,
            folder,
        }
    }

    /// The same cloud after its process died.
    pub async fn restarted(&self, images: Option<axum::Router>) -> Self {
        // What the system does with a process that is gone.
        drop(self.service.held().take());
        let config = (*self.service.inner.config).clone();
        let service = Service::open(config, deps(&self.store, images)).await;
        let service = service.unwrap();
        begun(&service).await;
        Self {
            service,
            store: self.store.clone(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.service.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// `who` may end in `@3.27`, which asks for that version.
    pub async fn call(&self, who: &str, method: &str, path: &str, body: Value) -> Answer {
        let (token, version) = who.split_once('@').unwrap_or((who, "3.71"));
        let content = match &body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v3{path}"))
            .header("host", "here:8776")
            .header("x-auth-token", token)
            .header("openstack-api-version", format!("volume {version}"))
            .header("content-type", "application/json");
        self.send(request.body(content).unwrap()).await
    }

    pub async fn get(&self, who: &str, path: &str) -> Answer {
        self.call(who, "GET", path, Value::Null).await
    }

    pub async fn delete(&self, who: &str, path: &str) -> Answer {
        self.call(who, "DELETE", path, Value::Null).await
    }

    /// Makes a volume and waits until it is done.
    pub async fn volume(&self, who: &str, mut fields: Value) -> String {
        if fields.get("size").is_none() && fields.as_object().unwrap().len() < 2 {
            fields["size"] = json!(1);
        }
        let made = self
            .call(who, "POST", "/volumes", json!({"volume": fields}))
            .await
            .is(202);
        let id = made["volume"]["id"].as_str().unwrap().to_owned();
        self.wait("volume", &id, "available").await;
        id
    }

    pub async fn snapshot(&self, who: &str, volume: &str) -> String {
        let body = json!({"snapshot": {"volume_id": volume, "name": "s", "force": true}});
        let made = self.call(who, "POST", "/snapshots", body).await.is(202);
        let id = made["snapshot"]["id"].as_str().unwrap().to_owned();
        self.wait("snapshot", &id, "available").await;
        id
    }

    pub async fn act(&self, who: &str, id: &str, name: &str, body: Value) -> Answer {
        let path = format!("/volumes/{id}/action");
        self.call(who, "POST", &path, json!({name: body})).await
    }

    pub async fn status(&self, kind: &str, id: &str) -> String {
        let found = self.get(ADMIN, &format!("/{kind}s/{id}")).await;
        if found.status == 404 {
            return "gone".to_owned();
        }
        let found = found.is(200);
        found[kind]["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn wait<'a>(
        &'a self,
        kind: &'a str,
        id: &'a str,
        wanted: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let mut found = String::new();
            for _ in 0..6000 {
                found = self.status(kind, id).await;
                if found == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{kind} {id} is {found}, not {wanted} ({place})");
        }
    }

    pub fn files(&self, of: &str) -> usize {
        let folder = self.folder.path().join("volumes").join(of);
        std::fs::read_dir(folder).unwrap().count()
    }
}

#[tokio::test]
async fn tokens_versions_and_faults() {
    let cloud = Cloud::new().await;
    let plain = |path: &str| {
        let request = Request::builder().uri(path).header("host", "here:8776");
        request.body(Body::empty()).unwrap()
    };
    let answer = cloud.send(plain("/")).await;
    assert_eq!(answer.status, 300);
    assert_eq!(answer.body["versions"][0]["id"], "v3.0");
    assert_eq!(answer.body["versions"][0]["version"], "3.71");
    assert_eq!(
        answer.body["versions"][0]["links"][1]["href"],
        "http://here:8776/v3/"
    );
    cloud.send(plain("/v3/")).await.is(200);
    let answer = cloud.send(plain("/v3/volumes")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.headers.contains_key("www-authenticate"));
    let answer = cloud.get("p1:reader@3.9", "/p1/volumes").await;
    assert_eq!(answer.headers["openstack-api-version"], "volume 3.9");
    assert!(
        answer.headers["x-compute-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req-")
    );
    answer.is(200);
    cloud.get("p1:reader@3.999", "/volumes").await.is(406);
    cloud.get("p1:reader@3.x", "/volumes").await.is(400);
    cloud.get(ALICE, "/p2/volumes").await.is(400);
    cloud.get(ALICE, "/p1/nothing").await.is(404);
    cloud.delete(ALICE, "/volumes").await.is(405);
    let absent = cloud.get(ALICE, "/volumes/nothing").await.is(404);
    assert_eq!(
        absent,
        json!({"itemNotFound": {"code": 404, "message": "Volume nothing could not be found."}})
    );
    cloud.get("p1:reader@3.26", "/attachments").await.is(404);
}

#[tokio::test]
async fn a_policy_file_overrides_the_defaults() {
    let rules = "volume:create: 'role:admin'\n".to_owned();
    let cloud = Cloud::with(|config| config.policy = rules, None).await;
    let body = json!({"volume": {"size": 1}});
    cloud
        .call(ALICE, "POST", "/volumes", body.clone())
        .await
        .is(403);
    cloud.call(ADMIN, "POST", "/volumes", body).await.is(202);
}
