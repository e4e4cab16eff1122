use super::*;

const SPACES: &str = "/v2/metadefs/namespaces";

#[tokio::test]
async fn namespaces() {
    let cloud = Cloud::new().await;
    let body = json!({
        "namespace": "OS::Compute::X", "visibility": "public", "protected": true, "display_name": "X",
        "resource_type_associations": [{"name": "OS::Nova::Flavor", "prefix": "hw_"}],
        "properties": {"cores": {"title": "Cores", "type": "integer"}},
        "tags": [{"name": "a"}],
    });
    cloud
        .call(ALICE, "POST", SPACES, body.clone())
        .await
        .is(403);
    let made = cloud
        .call(ADMIN, "POST", SPACES, body.clone())
        .await
        .is(201)
        .json();
    assert_eq!(
        (&made["owner"], &made["properties"]["cores"]["title"]),
        (&json!("adm"), &json!("Cores"))
    );
    cloud.call(ADMIN, "POST", SPACES, body).await.is(409);
    let path = format!("{SPACES}/OS::Compute::X");
    let seen = cloud.get(ALICE, &path).await.is(200).json();
    assert_eq!(seen["resource_type_associations"][0]["prefix"], "hw_");
    cloud
        .call(ADMIN, "DELETE", &path, Value::Null)
        .await
        .is(403);
    let private = json!({"namespace": "Y", "visibility": "private", "protected": false});
    let changed = cloud
        .call(ADMIN, "PUT", &path, private)
        .await
        .is(200)
        .json();
    assert_eq!(
        (&changed["namespace"], &changed["protected"]),
        (&json!("Y"), &json!(false))
    );
    cloud.get(ALICE, &format!("{SPACES}/Y")).await.is(404);
    let moved = cloud
        .get(ADMIN, &format!("{SPACES}/Y/properties"))
        .await
        .is(200)
        .json();
    assert_eq!(
        moved,
        json!({"properties": {"cores": {"title": "Cores", "type": "integer"}}})
    );
    cloud
        .call(ADMIN, "DELETE", &format!("{SPACES}/Y"), Value::Null)
        .await
        .is(204);
    assert_eq!(
        cloud.get(ADMIN, SPACES).await.json()["namespaces"],
        json!([])
    );
    for bad in [
        json!({}),
        json!({"namespace": "n", "visibility": "shared"}),
        json!({"namespace": "n".repeat(81)}),
    ] {
        cloud.call(ADMIN, "POST", SPACES, bad).await.is(400);
    }
}

#[tokio::test]
async fn items() {
    let cloud = Cloud::new().await;
    cloud
        .call(ADMIN, "POST", SPACES, json!({"namespace": "n"}))
        .await
        .is(201);
    let at = |rest: &str| format!("{SPACES}/n/{rest}");
    let cases = [
        (
            "objects",
            json!({"name": "one"}),
            json!({"name": "two", "description": "d"}),
        ),
        (
            "properties",
            json!({"name": "one", "title": "t", "type": "string"}),
            json!({"name": "two", "title": "t", "type": "array"}),
        ),
        (
            "tags",
            json!({"tags": [{"name": "one"}]}),
            json!({"name": "two"}),
        ),
    ];
    for (kind, first, second) in cases {
        cloud
            .call(ALICE, "POST", &at(kind), first.clone())
            .await
            .is(403);
        cloud.call(ADMIN, "POST", &at(kind), first).await.is(201);
        let one = at(&format!("{kind}/one"));
        assert_eq!(cloud.get(ADMIN, &one).await.is(200).json()["name"], "one");
        let changed = cloud.call(ADMIN, "PUT", &one, second).await.is(200).json();
        assert_eq!(changed["name"], "two");
        cloud.get(ADMIN, &one).await.is(404);
        cloud
            .call(ADMIN, "DELETE", &at(&format!("{kind}/two")), Value::Null)
            .await
            .is(204);
        cloud
            .call(ADMIN, "DELETE", &at(&format!("{kind}/two")), Value::Null)
            .await
            .is(404);
    }
    cloud
        .call(
            ADMIN,
            "POST",
            &at("properties"),
            json!({"name": "x", "title": "t", "type": "colour"}),
        )
        .await
        .is(400);
    // Tags of a list take the place of the others, tags of a path are added.
    let tags = json!({"tags": [{"name": "b"}, {"name": "a"}]});
    cloud
        .call(ADMIN, "POST", &at("tags"), tags.clone())
        .await
        .is(201);
    cloud.call(ADMIN, "POST", &at("tags"), tags).await.is(201);
    cloud
        .call(ADMIN, "POST", &at("tags/c"), Value::Null)
        .await
        .is(201);
    cloud
        .call(ADMIN, "POST", &at("tags/c"), Value::Null)
        .await
        .is(409);
    cloud
        .call(ADMIN, "POST", &at("objects/c"), Value::Null)
        .await
        .is(405);
    let listed = cloud.get(ADMIN, &at("tags")).await.json();
    assert_eq!(listed["tags"].as_array().unwrap().len(), 3);
    cloud
        .call(ADMIN, "DELETE", &at("tags"), Value::Null)
        .await
        .is(204);
    assert_eq!(
        cloud.get(ADMIN, &at("tags")).await.json(),
        json!({"tags": []})
    );
    cloud.get(ADMIN, &at("colours")).await.is(404);
}

#[tokio::test]
async fn resource_types_and_pages() {
    let cloud = Cloud::new().await;
    for name in ["a", "b", "c"] {
        let body = json!({"namespace": name, "visibility": "public"});
        cloud.call(ADMIN, "POST", SPACES, body).await.is(201);
    }
    let tie = json!({"name": "My::Type"});
    cloud
        .call(ADMIN, "POST", &format!("{SPACES}/b/resource_types"), tie)
        .await
        .is(201);
    let types = cloud
        .get(ALICE, "/v2/metadefs/resource_types")
        .await
        .is(200)
        .json();
    let names: Vec<&str> = types["resource_types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"My::Type") && names.contains(&"OS::Glance::Image"),
        "{names:?}"
    );
    let of = |answer: Answer| -> Vec<String> {
        let all = answer.json()["namespaces"].as_array().unwrap().clone();
        all.iter()
            .map(|one| one["namespace"].as_str().unwrap().to_owned())
            .collect()
    };
    let tied = of(cloud
        .get(ALICE, &format!("{SPACES}?resource_types=My::Type"))
        .await
        .is(200));
    assert_eq!(tied, ["b"]);
    let first = cloud.get(ALICE, &format!("{SPACES}?limit=2")).await.is(200);
    let next = first.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(of(first).len(), 2);
    assert_eq!(of(cloud.get(ALICE, &next).await.is(200)), ["a"]);
    cloud
        .get(ALICE, &format!("{SPACES}?marker=nothing"))
        .await
        .is(400);
    for (name, shown) in [
        ("namespace", "namespace"),
        ("resource_types", "resource_type_associations"),
    ] {
        let schema = cloud
            .get(ALICE, &format!("/v2/schemas/metadefs/{name}"))
            .await
            .is(200)
            .json();
        assert_eq!(schema["name"], shown);
    }
    cloud
        .get(ALICE, "/v2/schemas/metadefs/nothing")
        .await
        .is(404);
}
