use super::*;

#[tokio::test]
async fn what_others_see() {
    let cloud = Cloud::new().await;
    for (visibility, owner, get, file) in [
        ("private", ALICE, 404, 404),
        ("shared", ALICE, 404, 404),
        ("community", ALICE, 200, 200),
        ("public", ADMIN, 200, 200),
    ] {
        let id = cloud.create(owner, json!({"visibility": visibility})).await;
        cloud.put_file(owner, &id, "data").await.is(204);
        assert_eq!(
            cloud.get(BOB, &format!("/v2/images/{id}")).await.status,
            get,
            "{visibility}"
        );
        assert_eq!(
            cloud
                .get(BOB, &format!("/v2/images/{id}/file"))
                .await
                .status,
            file,
            "{visibility}"
        );
        // What can be seen is refused, what cannot is not there.
        let denied = if get == 200 { 403 } else { 404 };
        assert_eq!(
            cloud.put_file(BOB, &id, "x").await.status,
            denied,
            "{visibility}"
        );
        for action in ["deactivate", "reactivate"] {
            let path = format!("/v2/images/{id}/actions/{action}");
            assert_eq!(
                cloud.call(BOB, "POST", &path, Value::Null).await.status,
                denied,
                "{visibility}"
            );
        }
        cloud.get(ADMIN, &format!("/v2/images/{id}")).await.is(200);
    }
}

#[tokio::test]
async fn members() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({"name": "s"})).await;
    let path = format!("/v2/images/{id}/members");
    let names = |answer: Answer| -> Vec<String> {
        let json = answer.is(200).json();
        json["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let added = cloud
        .call(ALICE, "POST", &path, json!({"member": "p2"}))
        .await
        .is(200)
        .json();
    assert_eq!(
        (&added["member_id"], &added["status"], &added["image_id"]),
        (&json!("p2"), &json!("pending"), &json!(id))
    );
    assert_eq!(added["schema"], "/v2/schemas/member");
    cloud
        .call(ALICE, "POST", &path, json!({"member": "p2"}))
        .await
        .is(409);
    cloud
        .call(ALICE, "POST", &path, json!({"member": ""}))
        .await
        .is(400);
    cloud.call(ALICE, "POST", &path, json!({})).await.is(400);
    cloud.call(ALICE, "POST", &path, json!([])).await.is(400);
    cloud
        .call(ALICE, "POST", &path, json!({"member": "p3"}))
        .await
        .is(200);
    // The member may look at it at once, but has it in the list only after accepting.
    cloud.get(BOB, &format!("/v2/images/{id}")).await.is(200);
    assert!(names(cloud.get(BOB, "/v2/images").await).is_empty());
    assert_eq!(
        names(
            cloud
                .get(BOB, "/v2/images?member_status=pending&visibility=shared")
                .await
        ),
        ["s"]
    );
    cloud
        .call(
            ALICE,
            "PUT",
            &format!("{path}/p2"),
            json!({"status": "accepted"}),
        )
        .await
        .is(403);
    cloud
        .call(
            BOB,
            "PUT",
            &format!("{path}/p3"),
            json!({"status": "accepted"}),
        )
        .await
        .is(404);
    cloud
        .call(
            BOB,
            "PUT",
            &format!("{path}/p2"),
            json!({"status": "perhaps"}),
        )
        .await
        .is(400);
    cloud
        .call(BOB, "PUT", &format!("{path}/p2"), json!({}))
        .await
        .is(400);
    let accepted = cloud
        .call(
            BOB,
            "PUT",
            &format!("{path}/p2"),
            json!({"status": "accepted"}),
        )
        .await
        .is(200)
        .json();
    assert_eq!(accepted["status"], "accepted");
    assert_eq!(names(cloud.get(BOB, "/v2/images").await), ["s"]);
    let members = |json: Value| json["members"].as_array().unwrap().len();
    assert_eq!(members(cloud.get(ALICE, &path).await.is(200).json()), 2);
    assert_eq!(members(cloud.get(BOB, &path).await.is(200).json()), 1);
    cloud.get(BOB, &format!("{path}/p2")).await.is(200);
    cloud.get(BOB, &format!("{path}/p3")).await.is(404);
    cloud.get("p9:member,reader", &path).await.is(404);
    cloud
        .call(BOB, "DELETE", &format!("{path}/p2"), Value::Null)
        .await
        .is(403);
    cloud
        .call(
            BOB,
            "PATCH",
            &format!("/v2/images/{id}"),
            json!([{"op": "add", "path": "/x", "value": "y"}]),
        )
        .await
        .is(403);
    cloud
        .call(ALICE, "DELETE", &format!("{path}/p2"), Value::Null)
        .await
        .is(204);
    cloud
        .call(ALICE, "DELETE", &format!("{path}/p2"), Value::Null)
        .await
        .is(404);
    cloud.get(BOB, &format!("/v2/images/{id}")).await.is(404);
    let private = cloud.create(ALICE, json!({"visibility": "private"})).await;
    let answer = cloud
        .call(
            ALICE,
            "POST",
            &format!("/v2/images/{private}/members"),
            json!({"member": "p2"}),
        )
        .await;
    answer.is(403);
    cloud
        .get(ALICE, &format!("/v2/images/{private}/members"))
        .await
        .is(403);
    cloud
        .get(ALICE, &format!("/v2/images/{private}/members/p2"))
        .await
        .is(404);
}
