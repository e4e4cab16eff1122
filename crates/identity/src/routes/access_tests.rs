//! Who may use which route: every row of the table with no token, an owner, a stranger, a system reader, an admin.
#![allow(clippy::unwrap_used)]

use super::table::{Method, ROUTES};
use super::tests::{Cloud, project};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// Letters of those who are let in: `-` no token, `m` member of `demo` and owner of what the path names,
/// `o` member of another domain's project, `r` reader of the system, `a` admin.
fn wanted(method: Method, path: &str) -> &'static str {
    match (method, path) {
        (_, "/" | "/v3" | "/v3/" | "/v3/users/{id}/password")
        | (Method::Post, "/v3/auth/tokens") => "-mora",
        (_, path) if path.starts_with("/v3/auth/") => "mora",
        (Method::Get, "/v3/regions" | "/v3/regions/{id}" | "/v3/credentials")
        | (Method::Post, "/v3/credentials") => "mora",
        (
            Method::Get,
            "/v3/domains/{id}" | "/v3/projects/{id}" | "/v3/users/{id}" | "/v3/users/{id}/groups",
        ) => "mra",
        (Method::Get, "/v3/users/{user_id}/projects" | "/v3/credentials/{id}") => "mra",
        (Method::Get, path) if path.contains("/tags") => "mra",
        (Method::Get, path)
            if path.contains("OS-EC2") || path.contains("application_credentials") =>
        {
            "mra"
        }
        (Method::Post, path) if path.ends_with("application_credentials") => "m",
        (_, path) if path.contains("OS-EC2") || path.contains("application_credentials") => "ma",
        (_, "/v3/credentials/{id}") => "ma",
        (Method::Get | Method::Head, _) => "ra",
        _ => "a",
    }
}

struct Stage {
    cloud: Cloud,
    tokens: Vec<(char, String)>,
    ids: HashMap<&'static str, String>,
}

async fn made(cloud: &Cloud, token: &str, path: &str, kind: &str, id: &str, body: Json) -> String {
    let answer = cloud.call(token, "POST", path, body).await;
    assert_eq!(answer.status, 201, "{path}: {}", answer.body);
    answer.body[kind][id].as_str().unwrap().to_owned()
}

async fn stage() -> Stage {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let (owner, _) = cloud.person("owner", "member").await;
    let (watcher, _) = cloud.person("watcher", "member").await;
    let (reader, member) = (cloud.role("reader").await, cloud.role("member").await);
    let grant = format!("/v3/system/users/{watcher}/roles/{reader}");
    assert_eq!(
        cloud.call(&admin, "PUT", &grant, Json::Null).await.status,
        204
    );
    let far = made(
        &cloud,
        &admin,
        "/v3/domains",
        "domain",
        "id",
        json!({"domain": {"name": "far"}}),
    )
    .await;
    let there = json!({"project": {"name": "there", "domain_id": far}});
    let there = made(&cloud, &admin, "/v3/projects", "project", "id", there).await;
    let (stranger, _) = cloud.person("stranger", "member").await;
    let grant = format!("/v3/projects/{there}/users/{stranger}/roles/{member}");
    assert_eq!(
        cloud.call(&admin, "PUT", &grant, Json::Null).await.status,
        204
    );
    let own = cloud.token("owner", project("demo")).await;
    let tokens = vec![
        ('-', String::new()),
        ('m', own.clone()),
        (
            'o',
            cloud
                .token("stranger", json!({"project": {"id": there}}))
                .await,
        ),
        (
            'r',
            cloud
                .token("watcher", json!({"system": {"all": true}}))
                .await,
        ),
        ('a', admin.clone()),
    ];
    let first = async |path: &str, plural: &str| {
        let list = cloud.get(&admin, path).await.body;
        list[plural][0]["id"].as_str().unwrap().to_owned()
    };
    let group = made(
        &cloud,
        &admin,
        "/v3/groups",
        "group",
        "id",
        json!({"group": {"name": "g"}}),
    )
    .await;
    let credential = json!({"credential": {"type": "cert", "blob": "x"}});
    let robots = format!("/v3/users/{owner}/application_credentials");
    let ec2 = format!("/v3/users/{owner}/credentials/OS-EC2");
    let demo = cloud.ids.demo_project_id.clone();
    let ids = HashMap::from([
        ("endpoints", first("/v3/endpoints", "endpoints").await),
        ("services", first("/v3/services", "services").await),
        (
            "credentials",
            made(
                &cloud,
                &own,
                "/v3/credentials",
                "credential",
                "id",
                credential,
            )
            .await,
        ),
        (
            "app",
            made(
                &cloud,
                &own,
                &robots,
                "application_credential",
                "id",
                json!({"application_credential": {"name": "r"}}),
            )
            .await,
        ),
        (
            "access",
            made(
                &cloud,
                &own,
                &ec2,
                "credential",
                "access",
                json!({"tenant_id": demo}),
            )
            .await,
        ),
        ("users", owner),
        ("groups", group),
        ("roles", member),
        ("reader", reader),
        ("projects", demo),
        ("domains", "default".to_owned()),
        ("regions", "RegionOne".to_owned()),
    ]);
    Stage { cloud, tokens, ids }
}

fn filled(path: &str, ids: &HashMap<&'static str, String>) -> String {
    let kind = path.split('/').nth(2).unwrap_or_default();
    let id = if path.contains("application_credentials/{id}") {
        &ids["app"]
    } else {
        ids.get(kind).unwrap_or(&ids["users"])
    };
    let mut out = path
        .replace("{id}", id)
        .replace("{tag}", "t")
        .replace("{implied_id}", &ids["reader"]);
    for (name, kind) in [
        ("{user_id}", "users"),
        ("{group_id}", "groups"),
        ("{project_id}", "projects"),
        ("{domain_id}", "domains"),
        ("{role_id}", "roles"),
        ("{access}", "access"),
    ] {
        out = out.replace(name, &ids[kind]);
    }
    out
}

#[tokio::test]
async fn every_route() {
    let mut stage = stage().await;
    for route in ROUTES {
        let path = filled(route.path, &stage.ids);
        let method = format!("{:?}", route.method).to_uppercase();
        let mut passed = String::new();
        for (letter, token) in &stage.tokens {
            let answer = stage.cloud.call(token, &method, &path, Json::Null).await;
            let refused = if *letter == '-' { 401 } else { 403 };
            assert!(
                answer.status < 500,
                "{method} {path} {letter}: {}",
                answer.body
            );
            if answer.status != refused {
                passed.push(*letter);
            }
            // A refusal names the rule; the domain that is enabled is refused for another reason.
            if answer.status == 403 && answer.body.to_string().contains("please disable") {
                passed.push(*letter);
            }
            if answer.status == 403 && answer.body.to_string().contains("associated endpoints") {
                passed.push(*letter);
            }
        }
        assert_eq!(
            passed,
            wanted(route.method, route.path),
            "{method} {}",
            route.path
        );
        if route.method == Method::Delete {
            stage = self::stage().await;
        }
    }
}
