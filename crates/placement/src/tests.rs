#![allow(clippy::unwrap_used)]

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
        healthy: true,
        problem: None,
    }
}

/// Two nodes, a server of project p1 on the first, the second disabled.
async fn cloud(store: &sql::Store) -> Service {
    let service = Service::open(store.clone(), Arc::new(Tokens), Config::default())
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

/// (version, path, the status, a pointer into the answer, what is there)
#[tokio::test]
async fn what_is_read() {
    let r1 = format!("/resource_providers/{RP1}");
    let nobody = Uuid::from_u128(77);
    let both = "/allocation_candidates?resources=VCPU:1,MEMORY_MB:512";
    let cases = [
        (
            "",
            "/".to_owned(),
            200,
            "/versions/0/max_version",
            json!("1.39"),
        ),
        (
            "1.0",
            "/resource_providers".to_owned(),
            200,
            "/resource_providers/0/name",
            json!("node1"),
        ),
        (
            "1.0",
            "/resource_providers".to_owned(),
            200,
            "/resource_providers/0/links/2/rel",
            json!("usages"),
        ),
        (
            "1.0",
            "/resource_providers".to_owned(),
            200,
            "/resource_providers/0/links/3",
            Value::Null,
        ),
        (
            "1.11",
            "/resource_providers".to_owned(),
            200,
            "/resource_providers/1/links/5/rel",
            json!("allocations"),
        ),
        ("1.13", r1.clone(), 200, "/root_provider_uuid", Value::Null),
        (
            "1.14",
            r1.clone(),
            200,
            "/root_provider_uuid",
            json!(RP1.to_string()),
        ),
        (
            "1.0",
            "/resource_providers?name=node2".to_owned(),
            200,
            "/resource_providers/0/uuid",
            json!(RP2.to_string()),
        ),
        (
            "1.0",
            format!("/resource_providers?uuid={RP2}"),
            200,
            "/resource_providers/1",
            Value::Null,
        ),
        (
            "1.0",
            "/resource_providers?uuid=x".to_owned(),
            400,
            "/errors/0/title",
            json!("Bad Request"),
        ),
        (
            "1.0",
            "/resource_providers?colour=red".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.3",
            "/resource_providers?resources=VCPU:1".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.4",
            "/resource_providers?resources=VCPU:2,DISK_GB:20".to_owned(),
            200,
            "/resource_providers/0/name",
            json!("node2"),
        ),
        (
            "1.4",
            "/resource_providers?resources=VCPU".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.4",
            "/resource_providers?resources=GOLD:1".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.14",
            format!("/resource_providers?in_tree={RP2}"),
            200,
            "/resource_providers/0/name",
            json!("node2"),
        ),
        (
            "1.18",
            "/resource_providers?required=COMPUTE_STATUS_DISABLED".to_owned(),
            200,
            "/resource_providers/0/name",
            json!("node2"),
        ),
        (
            "1.22",
            "/resource_providers?required=COMPUTE_NODE,!COMPUTE_STATUS_DISABLED".to_owned(),
            200,
            "/resource_providers/0/name",
            json!("node1"),
        ),
        (
            "1.39",
            "/resource_providers?required=in:HW_CPU_X86_SSE,COMPUTE_NODE".to_owned(),
            200,
            "/resource_providers/1/name",
            json!("node2"),
        ),
        (
            "1.18",
            "/resource_providers?required=NO_SUCH".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.3",
            format!("/resource_providers?member_of={nobody}"),
            200,
            "/resource_providers/0",
            Value::Null,
        ),
        (
            "1.32",
            format!("/resource_providers?member_of=!{nobody}"),
            200,
            "/resource_providers/1/name",
            json!("node2"),
        ),
        (
            "1.22",
            format!("/resource_providers/{nobody}"),
            404,
            "/errors/0/code",
            Value::Null,
        ),
        (
            "1.23",
            format!("/resource_providers/{nobody}"),
            404,
            "/errors/0/code",
            json!("placement.undefined_code"),
        ),
        (
            "1.0",
            "/resource_providers/x".to_owned(),
            404,
            "/errors/0/status",
            json!(404),
        ),
        (
            "1.0",
            format!("{r1}/inventories"),
            200,
            "/inventories/MEMORY_MB",
            json!({"total": 2048, "reserved": 512, "min_unit": 1, "max_unit": 2048, "step_size": 1, "allocation_ratio": 1.0}),
        ),
        (
            "1.0",
            format!("{r1}/inventories/VCPU"),
            200,
            "/allocation_ratio",
            json!(4.0),
        ),
        (
            "1.0",
            format!("{r1}/inventories/PCPU"),
            404,
            "/errors/0/title",
            json!("Not Found"),
        ),
        (
            "1.0",
            format!("{r1}/usages"),
            200,
            "/usages",
            json!({"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}),
        ),
        (
            "1.0",
            format!("/resource_providers/{RP2}/usages"),
            200,
            "/usages/VCPU",
            json!(0),
        ),
        (
            "1.27",
            format!("{r1}/allocations"),
            200,
            &*format!("/allocations/{SERVER}"),
            json!({"resources": {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}),
        ),
        (
            "1.28",
            format!("{r1}/allocations"),
            200,
            &*format!("/allocations/{SERVER}/consumer_generation"),
            json!(1),
        ),
        (
            "1.0",
            format!("{r1}/aggregates"),
            404,
            "/errors/0/status",
            json!(404),
        ),
        (
            "1.18",
            format!("{r1}/aggregates"),
            200,
            "",
            json!({"aggregates": []}),
        ),
        (
            "1.19",
            format!("{r1}/aggregates"),
            200,
            "/resource_provider_generation",
            json!(2),
        ),
        (
            "1.6",
            format!("{r1}/traits"),
            200,
            "/traits",
            json!(["COMPUTE_NODE"]),
        ),
        (
            "1.0",
            format!("/allocations/{SERVER}"),
            200,
            &*format!("/allocations/{RP1}"),
            json!({"generation": 2, "resources": {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}}),
        ),
        (
            "1.11",
            format!("/allocations/{SERVER}"),
            200,
            "/project_id",
            Value::Null,
        ),
        (
            "1.12",
            format!("/allocations/{SERVER}"),
            200,
            "/project_id",
            json!("p1"),
        ),
        (
            "1.38",
            format!("/allocations/{SERVER}"),
            200,
            "/consumer_type",
            json!("INSTANCE"),
        ),
        (
            "1.38",
            format!("/allocations/{nobody}"),
            200,
            "",
            json!({"allocations": {}}),
        ),
        (
            "1.8",
            "/usages?project_id=p1".to_owned(),
            404,
            "/errors/0/status",
            json!(404),
        ),
        (
            "1.9",
            "/usages?project_id=p1".to_owned(),
            200,
            "/usages",
            json!({"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}),
        ),
        (
            "1.9",
            "/usages?project_id=p1&user_id=u2".to_owned(),
            200,
            "/usages",
            json!({}),
        ),
        (
            "1.9",
            "/usages".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.38",
            "/usages?project_id=p1".to_owned(),
            200,
            "/usages/INSTANCE",
            json!({"consumer_count": 1, "VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}),
        ),
        (
            "1.38",
            "/usages?project_id=p1&consumer_type=all".to_owned(),
            200,
            "/usages/all/consumer_count",
            json!(1),
        ),
        (
            "1.38",
            "/usages?project_id=p1&consumer_type=MIGRATION".to_owned(),
            200,
            "/usages",
            json!({}),
        ),
        (
            "1.2",
            "/resource_classes".to_owned(),
            200,
            "/resource_classes/0",
            json!({"name": "VCPU", "links": [{"rel": "self", "href": "/resource_classes/VCPU"}]}),
        ),
        (
            "1.2",
            "/resource_classes/VCPU".to_owned(),
            200,
            "/name",
            json!("VCPU"),
        ),
        (
            "1.2",
            "/resource_classes/CUSTOM_X".to_owned(),
            404,
            "/errors/0/status",
            json!(404),
        ),
        (
            "1.6",
            "/traits?associated=true".to_owned(),
            200,
            "/traits",
            json!(["COMPUTE_NODE", "COMPUTE_STATUS_DISABLED"]),
        ),
        (
            "1.6",
            "/traits?name=in:COMPUTE_NODE,X".to_owned(),
            200,
            "/traits",
            json!(["COMPUTE_NODE"]),
        ),
        (
            "1.6",
            "/traits?name=startswith:COMPUTE_STATUS".to_owned(),
            200,
            "/traits",
            json!(["COMPUTE_STATUS_DISABLED"]),
        ),
        (
            "1.6",
            "/traits?name=like:X".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.6",
            "/traits/COMPUTE_NODE".to_owned(),
            204,
            "",
            Value::Null,
        ),
        (
            "1.6",
            "/traits/NO_SUCH".to_owned(),
            404,
            "/errors/0/status",
            json!(404),
        ),
        ("1.9", both.to_owned(), 404, "/errors/0/status", json!(404)),
        (
            "1.10",
            both.to_owned(),
            200,
            "/allocation_requests/0",
            json!({"allocations": [{"resource_provider": {"uuid": RP1.to_string()}, "resources": {"VCPU": 1, "MEMORY_MB": 512}}]}),
        ),
        (
            "1.10",
            both.to_owned(),
            200,
            &*format!("/provider_summaries/{RP1}"),
            json!({"resources": {"VCPU": {"capacity": 8, "used": 1}, "MEMORY_MB": {"capacity": 1536, "used": 512}}}),
        ),
        (
            "1.12",
            both.to_owned(),
            200,
            "/allocation_requests/1",
            json!({"allocations": {RP2.to_string(): {"resources": {"VCPU": 1, "MEMORY_MB": 512}}}}),
        ),
        (
            "1.16",
            format!("{both}&limit=1"),
            200,
            "/allocation_requests/1",
            Value::Null,
        ),
        (
            "1.16",
            format!("{both}&limit=0"),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.27",
            both.to_owned(),
            200,
            &*format!("/provider_summaries/{RP1}/resources/DISK_GB"),
            json!({"capacity": 20, "used": 1}),
        ),
        (
            "1.29",
            both.to_owned(),
            200,
            &*format!("/provider_summaries/{RP1}/root_provider_uuid"),
            json!(RP1.to_string()),
        ),
        (
            "1.34",
            both.to_owned(),
            200,
            "/allocation_requests/0/mappings",
            json!({"": [RP1.to_string()]}),
        ),
        (
            "1.25",
            "/allocation_candidates?resources1=VCPU:1&resources2=VCPU:1".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.25",
            "/allocation_candidates?resources1=VCPU:1&resources2=VCPU:1&group_policy=none"
                .to_owned(),
            200,
            &*format!("/allocation_requests/0/allocations/{RP1}/resources/VCPU"),
            json!(2),
        ),
        (
            "1.25",
            "/allocation_candidates?resources1=VCPU:1&resources2=VCPU:1&group_policy=isolate"
                .to_owned(),
            200,
            "/allocation_requests",
            json!([]),
        ),
        (
            "1.33",
            "/allocation_candidates?resources_A=VCPU:1".to_owned(),
            200,
            &*format!("/provider_summaries/{RP2}/traits/1"),
            json!("COMPUTE_STATUS_DISABLED"),
        ),
        (
            "1.32",
            "/allocation_candidates?resources_A=VCPU:1".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.35",
            "/allocation_candidates?resources=VCPU:1&root_required=!COMPUTE_STATUS_DISABLED"
                .to_owned(),
            200,
            "/allocation_requests/1",
            Value::Null,
        ),
        (
            "1.31",
            format!("/allocation_candidates?resources=VCPU:1&in_tree={RP2}"),
            200,
            &*format!("/provider_summaries/{RP1}"),
            Value::Null,
        ),
        (
            "1.10",
            "/allocation_candidates?resources=VCPU:9".to_owned(),
            200,
            "/provider_summaries",
            json!({}),
        ),
        (
            "1.10",
            "/allocation_candidates".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.36",
            "/allocation_candidates?required=COMPUTE_NODE".to_owned(),
            400,
            "/errors/0/status",
            json!(400),
        ),
        (
            "1.0",
            "/nothing".to_owned(),
            404,
            "/errors/0/status",
            json!(404),
        ),
    ];
    for TestStore { name, store, .. } in &databases().await {
        let service = cloud(store).await;
        for (version, path, status, pointer, expected) in &cases {
            let reply = get(&service, version, path).await;
            let what = format!("{name}: {version} {path}: {}", reply.body);
            assert_eq!(reply.status, *status, "{what}");
            assert_eq!(
                reply.body.pointer(pointer).unwrap_or(&Value::Null),
                expected,
                "{what}"
            );
        }
    }
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

fn amounts(vcpus: u64) -> Value {
    json!({"resources": {"VCPU": vcpus}})
}

type Step = (
    &'static str,
    &'static str,
    String,
    Option<Value>,
    u16,
    &'static str,
);

/// Providers, inventories and allocations through their lives: (version, method, path, body, status, code).
#[tokio::test]
async fn what_is_written() {
    let mine = Uuid::from_u128(5);
    let rp = format!("/resource_providers/{mine}");
    let (one, two) = (Uuid::from_u128(11), Uuid::from_u128(12));
    let inventory = json!({"total": 4, "reserved": 1});
    let put = |vcpus: u64, generation: Value| json!({"allocations": {mine.to_string(): amounts(vcpus)}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"});
    let none = |generation: u64| json!({"allocations": {}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"});
    let old_form = json!({"allocations": [{"resource_provider": {"uuid": mine.to_string()}, "resources": {"VCPU": 1}}]});
    let undefined = "placement.undefined_code";
    let concurrent = "placement.concurrent_update";
    let steps: Vec<Step> = vec![
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "mine", "uuid": mine.to_string()})),
            200,
            "",
        ),
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "mine"})),
            409,
            "placement.duplicate_name",
        ),
        (
            "1.23",
            "POST",
            "/resource_providers".into(),
            Some(json!({"title": "mine"})),
            400,
            undefined,
        ),
        (
            "1.19",
            "POST",
            "/resource_providers".into(),
            Some(json!({"name": "other"})),
            201,
            "",
        ),
        (
            "1.23",
            "PUT",
            rp.clone(),
            Some(json!({"name": "other"})),
            409,
            "placement.duplicate_name",
        ),
        (
            "1.23",
            "PUT",
            rp.clone(),
            Some(json!({"name": "renamed"})),
            200,
            "",
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": inventory}, "resource_provider_generation": 7})),
            409,
            concurrent,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"GOLD": inventory}, "resource_provider_generation": 0})),
            400,
            undefined,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": {"total": 0}}, "resource_provider_generation": 0})),
            400,
            undefined,
        ),
        (
            "1.25",
            "PUT",
            format!("{rp}/inventories"),
            Some(
                json!({"inventories": {"VCPU": {"total": 4, "reserved": 4}}, "resource_provider_generation": 0}),
            ),
            400,
            undefined,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories"),
            Some(json!({"inventories": {"VCPU": inventory}, "resource_provider_generation": 0})),
            200,
            "",
        ),
        (
            "1.23",
            "POST",
            format!("{rp}/inventories"),
            Some(json!({"resource_class": "DISK_GB", "total": 9})),
            201,
            "",
        ),
        (
            "1.23",
            "POST",
            format!("{rp}/inventories"),
            Some(json!({"resource_class": "DISK_GB", "total": 9})),
            409,
            concurrent,
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories/DISK_GB"),
            Some(json!({"total": 8, "resource_provider_generation": 2})),
            200,
            "",
        ),
        (
            "1.23",
            "PUT",
            format!("{rp}/inventories/MEMORY_MB"),
            Some(json!({"total": 8, "resource_provider_generation": 3})),
            400,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(2, Value::Null)),
            204,
            "",
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(3, Value::Null)),
            409,
            concurrent,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(4, json!(1))),
            409,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(put(3, json!(1))),
            204,
            "",
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{two}"),
            Some(put(1, Value::Null)),
            409,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            "/allocations/x".into(),
            Some(put(1, Value::Null)),
            400,
            undefined,
        ),
        (
            "1.37",
            "PUT",
            format!("/allocations/{two}"),
            Some(put(1, Value::Null)),
            400,
            undefined,
        ),
        // The capacity of 3 changes hands in one request.
        (
            "1.38",
            "POST",
            "/allocations".into(),
            Some(json!({one.to_string(): put(1, json!(2)), two.to_string(): put(2, Value::Null)})),
            204,
            "",
        ),
        (
            "1.38",
            "POST",
            "/allocations".into(),
            Some(json!({one.to_string(): none(3), two.to_string(): put(4, json!(1))})),
            409,
            undefined,
        ),
        (
            "1.23",
            "DELETE",
            rp.clone(),
            None,
            409,
            "placement.resource_provider.inuse",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/VCPU"),
            None,
            409,
            "placement.inventory.inuse",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/DISK_GB"),
            None,
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("{rp}/inventories/DISK_GB"),
            None,
            404,
            undefined,
        ),
        (
            "1.38",
            "PUT",
            format!("/allocations/{one}"),
            Some(none(3)),
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{one}"),
            None,
            404,
            undefined,
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{two}"),
            None,
            204,
            "",
        ),
        (
            "1.0",
            "PUT",
            format!("/allocations/{two}"),
            Some(old_form),
            204,
            "",
        ),
        (
            "1.23",
            "DELETE",
            format!("/allocations/{two}"),
            None,
            204,
            "",
        ),
        ("1.23", "DELETE", format!("{rp}/inventories"), None, 204, ""),
        ("1.23", "DELETE", rp.clone(), None, 204, ""),
        ("1.23", "DELETE", rp.clone(), None, 404, undefined),
    ];
    for TestStore { name, store, .. } in &databases().await {
        let service = cloud(store).await;
        for (step, (version, method, path, body, status, code)) in steps.iter().enumerate() {
            let reply = ask(&service, "admin", version, method, path, body.clone()).await;
            let what = format!(
                "{name} {step}: {version} {method} {path}: {} {}",
                reply.status, reply.body
            );
            assert_eq!(reply.status, *status, "{what}");
            if !code.is_empty() {
                assert_eq!(reply.body["errors"][0]["code"], json!(code), "{what}");
            }
        }
    }
}

/// Everybody at once wants the last vCPUs: no more are given out than there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_never_over_commit() {
    for TestStore { name, store, .. } in &databases().await {
        let service = cloud(store).await;
        let mut tasks = Vec::new();
        for n in 100..120u128 {
            let service = service.clone();
            tasks.push(tokio::spawn(async move {
                let body = json!({"allocations": {RP2.to_string(): amounts(1)}, "project_id": "p1", "user_id": "u1"});
                ask(&service, "admin", "1.12", "PUT", &format!("/allocations/{}", Uuid::from_u128(n)), Some(body)).await.status
            }));
        }
        let mut given = 0;
        for task in tasks {
            let status = task.await.unwrap();
            assert!([204, 409].contains(&status), "{name}: {status}");
            given += u32::from(status == 204);
        }
        let used = get(
            &service,
            "1.0",
            &format!("/resource_providers/{RP2}/usages"),
        )
        .await
        .body["usages"]["VCPU"]
            .clone();
        assert_eq!((given, used), (8, json!(8)), "{name}");
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
