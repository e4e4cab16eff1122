#![allow(clippy::unwrap_used)]

mod reads;
mod writes;

use crate::{Config, Service, routes};
use async_trait::async_trait;
use axum::body::Body;
use db::hosts::{Ratios, beat, put_node};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sql::testing::{TestStore, databases};
use std::sync::Arc;
use tower::ServiceExt;
use types::agent::HostFacts;
use types::server::Resources;
use types::{Caller, HostName, NodeId, ServerId, Timestamp};
use uuid::Uuid;
use web::auth::{AuthError, TokenValidator};

struct Tokens;

#[async_trait]
impl TokenValidator for Tokens {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        let (role, project) = match token {
            "admin" => ("admin", "p-admin"),
            "service" => ("service", "p-service"),
            "reader" => ("reader", "p1"),
            _ => return Err(AuthError::Invalid),
        };
        Ok(Arc::new(Caller {
            roles: vec![role.to_owned()],
            project_id: Some(project.to_owned()),
            ..Caller::default()
        }))
    }
}

const RP1: Uuid = Uuid::from_u128(1);
const RP2: Uuid = Uuid::from_u128(2);
const AGGREGATE: Uuid = Uuid::from_u128(6);
const SERVER: Uuid = Uuid::from_u128(9);

fn facts(name: &str) -> HostFacts {
    HostFacts {
        hypervisor_type: "QEMU".into(),
        hypervisor_version: 1,
        hypervisor_hostname: name.into(),
        vcpus: 2,
        memory_mb: 2048,
        disk_gb: 20,
        free_disk_gb: 20,
        memory_mb_used: 0,
        cpu_info: json!({}),
        host_ip: "192.0.2.1".into(),
        supported: Vec::new(),
        traits: Vec::new(),
        storage: None,
        healthy: true,
        problem: None,
    }
}

/// Two nodes, the first in an aggregate, a server of project p1 on the first, the second disabled.
async fn cloud(store: &sql::Store) -> Service {
    let service = Service::open(store.clone(), Config::default(), Arc::new(Tokens))
        .await
        .unwrap();
    store
        .write(|tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            for (rp, name) in [(RP1, "node1"), (RP2, "node2")] {
                beat(tx, &HostName(name.into()), "nova-compute", None, now)?;
                put_node(
                    tx,
                    &HostName(name.into()),
                    NodeId(rp),
                    &facts(name),
                    &Ratios::default(),
                    now,
                )?;
            }
            let aggregate = db::aggregates::Aggregate {
                id: 0,
                uuid: AGGREGATE,
                name: "fast".into(),
                metadata: std::collections::BTreeMap::new(),
                hosts: Vec::new(),
                created_at: now,
                updated_at: None,
            };
            let id = db::aggregates::insert(tx, &aggregate)?.unwrap();
            assert!(db::aggregates::add_host(tx, id, "node1")?);
            let second = db::hosts::services(tx)?[1].uuid;
            db::hosts::set_disabled(tx, second, true, None, now)?;
            let wanted = Resources {
                vcpus: 1,
                memory_mb: 512,
                disk_gb: 1,
            };
            assert!(db::placement::claim(
                tx,
                ServerId(SERVER),
                ("p1", "u1"),
                NodeId(RP1),
                &wanted,
                now
            )?);
            Ok(())
        })
        .await
        .unwrap();
    service
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

async fn ask(
    service: &Service,
    token: &str,
    version: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("x-auth-token", token);
    }
    if !version.is_empty() {
        request = request.header("openstack-api-version", format!("placement {version}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header("content-type", "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    let response = service
        .router()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap()
    };
    Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

async fn get(service: &Service, version: &str, path: &str) -> Reply {
    ask(service, "admin", version, "GET", path, None).await
}

#[tokio::test]
async fn headers_and_negotiation() {
    let store = sql::Store::temporary().await.unwrap();
    let service = cloud(&store).await;
    let text = |reply: &Reply, name: &str| {
        reply
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let reply = get(&service, "1.14", "/resource_providers").await;
    assert_eq!(
        text(&reply, "openstack-api-version").unwrap(),
        "placement 1.14"
    );
    assert_eq!(text(&reply, "vary").unwrap(), "openstack-api-version");
    assert_eq!(text(&reply, "cache-control"), None);
    let reply = get(&service, "latest", "/resource_providers").await;
    assert_eq!(
        text(&reply, "openstack-api-version").unwrap(),
        "placement 1.39"
    );
    assert_eq!(text(&reply, "cache-control").unwrap(), "no-cache");
    assert!(text(&reply, "last-modified").unwrap().ends_with(" GMT"));
    let reply = get(&service, "1.40", "/resource_providers").await;
    assert_eq!(
        (reply.status, &reply.body["errors"][0]["max_version"]),
        (406, &json!("1.39"))
    );
    assert_eq!(
        get(&service, "one", "/resource_providers").await.status,
        400
    );
    let reply = ask(&service, "", "", "GET", "/resource_providers", None).await;
    assert_eq!(reply.status, 401);
    assert!(
        text(&reply, "www-authenticate")
            .unwrap()
            .starts_with("Keystone uri=")
    );
    assert!(
        reply.body["errors"][0]["request_id"]
            .as_str()
            .unwrap()
            .starts_with("req-")
    );
    assert_eq!(ask(&service, "", "", "GET", "/", None).await.status, 200);
    let reply = ask(
        &service,
        "admin",
        "1.1",
        "PATCH",
        &format!("/resource_providers/{RP1}/aggregates"),
        None,
    )
    .await;
    assert_eq!(
        (reply.status, text(&reply, "allow").unwrap().as_str()),
        (405, "GET, PUT")
    );
    let reply = ask(
        &service,
        "admin",
        "1.1",
        "HEAD",
        "/resource_providers",
        None,
    )
    .await;
    assert_eq!((reply.status, reply.body), (200, Value::Null));
}

/// Each route: whom it serves. 403 for the others, 401 without a good token.
#[tokio::test]
async fn policies() {
    let store = sql::Store::temporary().await.unwrap();
    let service = cloud(&store).await;
    for route in routes::ROUTES.iter().filter(|route| route.policy.is_some()) {
        let path = route.path.replace("{}", &Uuid::from_u128(88).to_string());
        let method = route.method.as_str();
        let reshape = route.policy == Some("placement:reshaper:reshape");
        for (token, forbidden) in [("admin", reshape), ("service", false), ("reader", true)] {
            let reply = ask(&service, token, "latest", method, &path, Some(json!({}))).await;
            assert_eq!(
                reply.status == 403,
                forbidden,
                "{token} {method} {path}: {} {}",
                reply.status,
                reply.body
            );
            assert!(reply.status != 500, "{token} {method} {path}");
        }
        assert_eq!(
            ask(&service, "stolen", "latest", method, &path, None)
                .await
                .status,
            401,
            "{method} {path}"
        );
    }
    for (path, status) in [
        ("/usages?project_id=p1", 200),
        ("/usages?project_id=p2", 403),
        ("/usages", 403),
    ] {
        assert_eq!(
            ask(&service, "reader", "latest", "GET", path, None)
                .await
                .status,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let store = sql::Store::temporary().await.unwrap();
    let service = cloud(&store).await;
    for (method, path) in [
        ("PUT", "/traits/CUSTOM_X"),
        ("POST", "/resource_classes"),
        ("POST", "/reshaper"),
    ] {
        let reply = ask(&service, "service", "latest", method, path, Some(json!({}))).await;
        assert_eq!(reply.status, 501, "{method} {path}");
        assert!(
            reply.body["errors"][0]["detail"]
                .as_str()
                .unwrap()
                .contains("yet")
        );
    }
}

#[test]
fn each_policy_of_the_table_is_a_rule() {
    for route in routes::ROUTES {
        if let Some(policy) = route.policy {
            assert!(
                crate::policies::RULES
                    .iter()
                    .any(|rule| rule.name == policy),
                "{policy}"
            );
        }
    }
    assert_eq!(routes::ROUTES.len(), 36);
    assert!(routes::find(&Method::GET, "/traits/a/b", 39).is_err());
    assert_eq!(
        routes::find(&Method::DELETE, "/traits", 39)
            .err()
            .unwrap()
            .status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}
