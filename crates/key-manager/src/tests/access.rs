//! Who may do what.

use super::{ADMIN, ALICE, ANN, Answer, BOB, CHIEF, Cloud, READER};
use axum::body::Body;
use serde_json::{Value, json};

/// The answers to all that can be asked about a secret, which is there afterwards.
async fn statuses(cloud: &Cloud, token: &str, path: &str) -> Vec<u16> {
    let at = |rest: &str| format!("{path}{rest}");
    let put = [("content-type", "text/plain")];
    let using = json!({"service": "s", "resource_type": "t", "resource_id": "i"});
    let mut found: Vec<Answer> = vec![
        cloud.get(token, path).await,
        cloud.payload(token, path, "*/*").await,
        cloud.raw(token, "PUT", path, &put, "x").await,
        cloud.get(token, &at("/acl")).await,
        cloud.get(token, &at("/consumers")).await,
        cloud.call(token, "POST", &at("/consumers"), using).await,
        cloud.get(token, &at("/metadata")).await,
        cloud
            .call(token, "PUT", &at("/metadata"), json!({"metadata": {}}))
            .await,
    ];
    found.drain(..).map(|answer| answer.status).collect()
}

#[tokio::test]
async fn each_kind_of_caller() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    // Show, payload, payload later (there is one: 409), list, consumers, a new one, notes, new ones.
    let owner = [200, 200, 409, 200, 200, 200, 200, 201];
    let mate = [200, 200, 409, 403, 200, 200, 200, 201];
    let nobody = [403; 8];
    let admin = [200, 403, 403, 403, 403, 403, 403, 403];
    for (token, wanted) in [
        (ALICE, owner),
        (CHIEF, owner),
        (ANN, mate),
        (READER, nobody),
        (BOB, nobody),
        // The maker, but in another project.
        ("alice@p2:member", nobody),
        (ADMIN, admin),
    ] {
        assert_eq!(statuses(&cloud, token, &path).await, wanted, "{token}");
    }
    for token in [READER, BOB, ADMIN] {
        let said = cloud.payload(token, &path, "*/*").await.says(403);
        let wanted = "Secret payload retrieval attempt not allowed - \
            please review your user/project privileges";
        assert_eq!(said, wanted);
        // The old way to the payload is the same door.
        let headers = [("accept", "text/plain")];
        let answer = cloud
            .raw(token, "GET", &path, &headers, Body::empty())
            .await;
        answer.says(403);
    }
    // OSSA: CVE-2022-3100, what a query says is not taken for the secret's own.
    let answer = cloud
        .get(BOB, &format!("{path}/payload?target.secret.read=read"))
        .await;
    answer.says(403);
    for (method, path) in [("GET", "/secrets"), ("POST", "/secrets")] {
        cloud.call(READER, method, path, json!({})).await.says(403);
    }
    for token in [READER, BOB] {
        cloud.delete(token, &path).await.says(403);
    }
    let path = format!("{path}?force=1");
    cloud.delete(ADMIN, &path).await.is(204);
}

#[tokio::test]
async fn a_private_secret_is_its_makers_and_the_chiefs() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    let body = json!({"read": {"project-access": false}});
    cloud
        .call(ALICE, "PUT", &format!("{path}/acl"), body)
        .await
        .is(200);
    let owner = [200, 200, 409, 200, 200, 200, 200, 201];
    for (token, wanted) in [(ALICE, owner), (CHIEF, owner), (ANN, [403; 8])] {
        assert_eq!(statuses(&cloud, token, &path).await, wanted, "{token}");
    }
    cloud.delete(ANN, &path).await.says(403);
    let path = format!("{path}?force=1");
    cloud.delete(CHIEF, &path).await.is(204);
}

#[tokio::test]
async fn a_listed_user_reads_and_changes_nothing() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    let body = json!({"read": {"users": ["bob"]}});
    let answer = cloud
        .call(ALICE, "PUT", &format!("{path}/acl"), body)
        .await
        .is(200);
    let url = answer["acl_ref"].as_str().unwrap();
    assert_eq!(url, format!("http://keys:9311/v1{path}/acl"));
    assert_eq!(cloud.payload(BOB, &path, "*/*").await.bytes, b"hers");
    let listed = [200, 200, 403, 403, 200, 200, 200, 403];
    assert_eq!(statuses(&cloud, BOB, &path).await, listed);
    cloud.delete(BOB, &path).await.says(403);
    let mine = cloud.get(BOB, "/secrets").await.is(200);
    assert_eq!(mine["total"], 0);
    let open = cloud.get(BOB, "/secrets?acl_only=True").await.is(200);
    assert_eq!(open["total"], 1);
    cloud.delete(ALICE, &format!("{path}/acl")).await.is(200);
    cloud.payload(BOB, &path, "*/*").await.says(403);
}

#[tokio::test]
async fn access_control_lists() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    let acl = format!("{path}/acl");
    let show = async || cloud.get(ALICE, &acl).await.is(200);
    let change = async |method: &str, body: Value| cloud.call(ALICE, method, &acl, body).await;
    assert_eq!(show().await, json!({"read": {"project-access": true}}));
    change("PATCH", json!({"read": {"users": ["u2", "u1", "u2"]}}))
        .await
        .is(200);
    let read = show().await["read"].clone();
    assert_eq!(read["users"], json!(["u1", "u2"]));
    assert_eq!(read["project-access"], true);
    change("PATCH", json!({"read": {"project-access": false}}))
        .await
        .is(200);
    let changed = show().await["read"].clone();
    assert_eq!(changed["users"], json!(["u1", "u2"]));
    assert_eq!(changed["project-access"], false);
    assert_eq!(changed["created"], read["created"]);
    change("PATCH", json!({})).await.is(200);
    assert_eq!(show().await["read"]["project-access"], false);
    change("PUT", json!({"read": {"users": []}})).await.is(200);
    let replaced = show().await["read"].clone();
    assert_eq!(
        (&replaced["users"], &replaced["project-access"]),
        (&json!([]), &json!(true))
    );
    for (bad, why) in [
        (json!({"write": {}}), "Additional"),
        (json!({"read": {"user": []}}), "Additional"),
        (json!({"read": []}), "object"),
        (json!({"read": {"users": "u"}}), "list"),
        (json!({"read": {"users": [1]}}), "text"),
        (json!({"read": {"project-access": "yes"}}), "boolean"),
        (json!([]), "Malformed"),
    ] {
        let said = change("PUT", bad.clone()).await.says(400);
        assert!(said.contains(why), "{bad}: {said}");
    }
    change("POST", json!({})).await.says(405);
    let answer = cloud.delete(ALICE, &acl).await;
    assert_eq!(answer.bytes, b"null");
    assert_eq!(show().await, json!({"read": {"project-access": true}}));
    change("PUT", json!({"read": {"users": ["u"]}}))
        .await
        .is(200);
    change("PUT", json!({})).await.is(200);
    assert_eq!(show().await, json!({"read": {"project-access": true}}));
}
