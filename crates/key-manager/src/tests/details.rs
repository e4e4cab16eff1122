//! Consumers and notes.

use super::{ALICE, ANN, BOB, Cloud};
use serde_json::{Value, json};

fn using(service: &str) -> Value {
    json!({"service": service, "resource_type": "image", "resource_id": "r"})
}

#[tokio::test]
async fn consumers() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    let at = format!("{path}/consumers");
    let empty = cloud.get(ALICE, &at).await.is(200);
    assert_eq!(empty, json!({"consumers": [], "total": 0}));
    for (service, count) in [("a", 1), ("b", 2), ("a", 2)] {
        let body = cloud.call(ANN, "POST", &at, using(service)).await.is(200);
        assert_eq!(body["consumers"].as_array().unwrap().len(), count);
        assert_eq!(body["secret_ref"], format!("http://keys:9311/v1{path}"));
    }
    let shown = cloud.get(ALICE, &path).await.is(200);
    assert_eq!(shown["consumers"], json!([using("a"), using("b")]));
    let listed = cloud.get(ALICE, "/secrets").await.is(200);
    assert_eq!(listed["secrets"][0]["consumers"], shown["consumers"]);
    let page = cloud
        .get(ALICE, &format!("{at}?limit=1&offset=1"))
        .await
        .is(200);
    assert_eq!(page["consumers"][0]["service"], "b");
    assert_eq!(page["consumers"][0]["status"], "ACTIVE");
    assert_eq!(
        page["previous"],
        format!("http://keys:9311/v1{at}?limit=1&offset=0")
    );
    for bad in [
        json!({}),
        json!({"service": "", "resource_type": "t", "resource_id": "i"}),
        json!({"service": 1, "resource_type": "t", "resource_id": "i"}),
        json!({"service": "s", "resource_type": "t", "resource_id": "i".repeat(256)}),
    ] {
        let said = cloud.call(ALICE, "POST", &at, bad).await.says(400);
        assert!(said.contains("Secret Consumer"), "{said}");
    }
    // Whoever may read the secret may say that they use it, but not that others do not.
    cloud
        .call(
            ALICE,
            "PUT",
            &format!("{path}/acl"),
            json!({"read": {"users": ["bob"]}}),
        )
        .await
        .is(200);
    cloud.call(BOB, "POST", &at, using("c")).await.is(200);
    cloud.call(BOB, "DELETE", &at, using("a")).await.says(403);
    cloud.call(BOB, "DELETE", &at, using("c")).await.is(200);
    cloud.call(ALICE, "DELETE", &at, using("c")).await.says(404);
    let left = cloud.call(ALICE, "DELETE", &at, using("a")).await.is(200);
    assert_eq!(left["consumers"], json!([using("b")]));
    // What is used stays from 1.2 on, unless that is forced.
    for rest in ["", "?force=0"] {
        let said = cloud
            .delete(ALICE, &format!("{path}{rest}"))
            .await
            .says(400);
        let wanted = "Secret deletion issue seen - Secret cannot be deleted as it has consumers.";
        assert_eq!(said, wanted);
    }
    cloud
        .delete(ALICE, &format!("{path}?force=maybe"))
        .await
        .says(400);
    cloud
        .delete(ALICE, &format!("{path}?force=True"))
        .await
        .is(204);
    let path = cloud.text(ALICE, "hers").await;
    let at = format!("{path}/consumers");
    cloud.call(ALICE, "POST", &at, using("a")).await.is(200);
    let headers = [("openstack-api-version", "key-manager 1.1")];
    cloud
        .raw(ALICE, "DELETE", &path, &headers, axum::body::Body::empty())
        .await
        .is(204);
}

#[tokio::test]
async fn notes() {
    let cloud = Cloud::new().await;
    let path = cloud.text(ALICE, "hers").await;
    let at = format!("{path}/metadata");
    let one = format!("{at}/extra");
    let pair = |value: &str| json!({"key": "extra", "value": value});
    assert_eq!(cloud.get(ALICE, &at).await.is(200), json!({"metadata": {}}));
    let body = json!({"metadata": {"Description": "d", "geo": "1"}});
    let made = cloud.call(ALICE, "PUT", &at, body).await.is(201);
    assert_eq!(made["metadata_ref"], format!("http://keys:9311/v1{at}"));
    let answer = cloud.call(ALICE, "POST", &at, pair("1")).await;
    assert_eq!(
        answer.header("location"),
        format!("http://keys:9311/v1{one}")
    );
    assert_eq!(answer.is(201), pair("1"));
    cloud.call(ALICE, "POST", &at, pair("2")).await.says(409);
    let all = cloud.get(ALICE, &at).await.is(200);
    assert_eq!(
        all["metadata"],
        json!({"description": "d", "extra": "1", "geo": "1"})
    );
    assert_eq!(
        cloud.call(ALICE, "PUT", &one, pair("2")).await.is(200),
        pair("2")
    );
    assert_eq!(cloud.get(ALICE, &one).await.is(200), pair("2"));
    let other = json!({"key": "geo", "value": "2"});
    cloud.call(ALICE, "PUT", &one, other).await.says(409);
    cloud.call(ALICE, "POST", &one, pair("2")).await.says(405);
    cloud.delete(ALICE, &one).await.is(204);
    cloud.delete(ALICE, &one).await.says(404);
    cloud.get(ALICE, &one).await.says(404);
    cloud.call(ALICE, "PUT", &one, pair("2")).await.says(404);
    for bad in [
        json!({}),
        json!({"metadata": []}),
        json!({"metadata": {"a": 1}}),
        json!({"metadata": {"a/b": "1"}}),
        json!({"metadata": {"a": "x".repeat(256)}}),
    ] {
        cloud.call(ALICE, "PUT", &at, bad).await.says(400);
    }
    for bad in [
        json!({"key": "a"}),
        json!({"key": "ä", "value": "1"}),
        json!({"key": "a", "value": "1", "more": 1}),
    ] {
        cloud.call(ALICE, "POST", &at, bad).await.says(400);
    }
    assert_eq!(
        cloud.get(ALICE, &at).await.is(200)["metadata"]
            .as_object()
            .unwrap()
            .len(),
        2
    );
}
