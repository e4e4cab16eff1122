//! Roles that hold below, roles of domains, and what old clients of the catalog may do.
#![allow(clippy::unwrap_used)]

use super::tests::Cloud;
use serde_json::{Value as Json, json};

fn id(answer: &super::tests::Answer, kind: &str) -> String {
    answer.body[kind]["id"].as_str().unwrap().to_owned()
}

async fn names_in_token(cloud: &Cloud, user: &str, project: &str) -> Vec<String> {
    let scope = json!({"project": {"id": project}});
    let answer = cloud.log_in(user, "secret-Secret", scope).await;
    let roles = answer.body["token"]["roles"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    roles
        .iter()
        .map(|role| role["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_role_on_a_project_holds_below_it() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let make = async |path: &str, kind: &str, body: Json| {
        let answer = cloud
            .call(&admin, "POST", path, json!({ kind: body }))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        id(&answer, kind)
    };
    let top = make("/v3/projects", "project", json!({"name": "top"})).await;
    let leaf = make(
        "/v3/projects",
        "project",
        json!({"name": "leaf", "parent_id": top}),
    )
    .await;
    let user = make(
        "/v3/users",
        "user",
        json!({"name": "u", "password": "secret-Secret"}),
    )
    .await;
    let role = make("/v3/roles", "role", json!({"name": "gardener"})).await;
    let path =
        format!("/v3/OS-INHERIT/projects/{top}/users/{user}/roles/{role}/inherited_to_projects");
    let none = Json::Null;
    assert_eq!(cloud.get(&admin, &path).await.status, 404);
    assert_eq!(
        cloud.call(&admin, "PUT", &path, none.clone()).await.status,
        204
    );
    assert_eq!(cloud.get(&admin, &path).await.status, 204);
    assert_eq!(names_in_token(&cloud, "u", &leaf).await, ["gardener"]);
    assert!(
        names_in_token(&cloud, "u", &top).await.is_empty(),
        "not on the project itself"
    );
    let listed = async |project: &str| {
        let path =
            format!("/v3/role_assignments?effective&user.id={user}&scope.project.id={project}");
        let answer = cloud.get(&admin, &path).await;
        answer.body["role_assignments"].as_array().unwrap().len()
    };
    assert_eq!((listed(&leaf).await, listed(&top).await), (1, 0));
    assert_eq!(cloud.call(&admin, "DELETE", &path, none).await.status, 204);
    assert_eq!(listed(&leaf).await, 0);
    assert!(names_in_token(&cloud, "u", &leaf).await.is_empty());
}

#[tokio::test]
async fn a_role_of_a_domain_means_what_it_implies() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let make = async |path: &str, kind: &str, body: Json| {
        id(
            &cloud
                .call(&admin, "POST", path, json!({ kind: body }))
                .await,
            kind,
        )
    };
    let project = make("/v3/projects", "project", json!({"name": "p"})).await;
    let user = make(
        "/v3/users",
        "user",
        json!({"name": "u", "password": "secret-Secret"}),
    )
    .await;
    let local = make(
        "/v3/roles",
        "role",
        json!({"name": "local", "domain_id": "default"}),
    )
    .await;
    let global = make("/v3/roles", "role", json!({"name": "global"})).await;
    let grant = format!("/v3/projects/{project}/users/{user}/roles/{local}");
    assert_eq!(
        cloud.call(&admin, "PUT", &grant, Json::Null).await.status,
        204
    );
    assert!(names_in_token(&cloud, "u", &project).await.is_empty());
    let backwards = format!("/v3/roles/{global}/implies/{local}");
    assert_eq!(
        cloud
            .call(&admin, "PUT", &backwards, Json::Null)
            .await
            .status,
        403
    );
    let implies = format!("/v3/roles/{local}/implies/{global}");
    assert_eq!(
        cloud.call(&admin, "PUT", &implies, Json::Null).await.status,
        201
    );
    assert_eq!(
        cloud
            .call(&admin, "HEAD", &implies, Json::Null)
            .await
            .status,
        204
    );
    assert_eq!(cloud.get(&admin, &implies).await.status, 200);
    assert_eq!(names_in_token(&cloud, "u", &project).await, ["global"]);
}

#[tokio::test]
async fn regions_and_policies() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin().await;
    let region = json!({"region": {"description": "far"}});
    let made = cloud
        .call(&admin, "PUT", "/v3/regions/far-away", region.clone())
        .await;
    assert_eq!(
        (made.status, &made.body["region"]["id"]),
        (201, &json!("far-away"))
    );
    assert_eq!(
        cloud
            .call(&admin, "PUT", "/v3/regions/far-away", region)
            .await
            .status,
        409
    );
    let other = json!({"region": {"id": "b"}});
    assert_eq!(
        cloud
            .call(&admin, "PUT", "/v3/regions/a", other)
            .await
            .status,
        400
    );
    let service = cloud
        .call(
            &admin,
            "POST",
            "/v3/services",
            json!({"service": {"type": "x"}}),
        )
        .await;
    let service = id(&service, "service");
    for (name, status) in [("region_id", 400), ("region", 201)] {
        let endpoint = json!({"endpoint": {"interface": "public", "service_id": service, "url": "http://x/", name: "new"}});
        let made = cloud.call(&admin, "POST", "/v3/endpoints", endpoint).await;
        assert_eq!(made.status, status, "{name}: {}", made.body);
    }
    assert_eq!(cloud.get(&admin, "/v3/regions/new").await.status, 200);
    let policy = json!({"policy": {"type": "application/json", "blob": "{}"}});
    let made = cloud.call(&admin, "POST", "/v3/policies", policy).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let path = format!("/v3/policies/{}", id(&made, "policy"));
    let changed = cloud
        .call(
            &admin,
            "PATCH",
            &path,
            json!({"policy": {"type": "text/plain"}}),
        )
        .await;
    assert_eq!(changed.body["policy"]["type"], "text/plain");
    assert_eq!(cloud.get(&admin, &path).await.body["policy"]["blob"], "{}");
    cloud.person("mallory", "member").await;
    let token = cloud.token("mallory", super::tests::project("demo")).await;
    assert_eq!(cloud.get(&token, &path).await.status, 403);
    assert_eq!(
        cloud.call(&admin, "DELETE", &path, Json::Null).await.status,
        204
    );
    assert_eq!(cloud.get(&admin, &path).await.status, 404);
}
