use super::*;

#[tokio::test]
async fn create_and_show() {
    let cloud = Cloud::new().await;
    let body = json!({
        "id": "2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1", "name": "cirros", "disk_format": "qcow2", "container_format": "bare",
        "visibility": "private", "min_disk": 1, "min_ram": 64, "protected": true, "os_hidden": false,
        "tags": ["b", "a", "a"], "os_distro": "debian", "kernel_id": null
    });
    let answer = cloud
        .call(ALICE, "POST", "/v2/images", body.clone())
        .await
        .is(201);
    assert!(
        answer
            .header("location")
            .ends_with("/v2/images/2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1")
    );
    assert_eq!(
        answer.header("openstack-image-import-methods"),
        "glance-direct"
    );
    let image = cloud
        .get(ALICE, "/v2/images/2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1")
        .await
        .is(200)
        .json();
    assert_eq!(image, answer.json());
    let wanted = json!({
        "os_distro": "debian", "name": "cirros", "disk_format": "qcow2", "container_format": "bare",
        "visibility": "private", "size": null, "virtual_size": null, "status": "queued", "checksum": null,
        "protected": true, "min_ram": 64, "min_disk": 1, "owner": "p1", "os_hidden": false, "os_hash_algo": null,
        "os_hash_value": null, "id": "2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1", "created_at": image["created_at"],
        "updated_at": image["updated_at"], "tags": ["a", "b"], "self": "/v2/images/2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1",
        "file": "/v2/images/2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1/file", "schema": "/v2/schemas/image"
    });
    assert_eq!(image, wanted);
    assert_eq!(
        image["created_at"].as_str().unwrap().len(),
        "2026-01-01T00:00:00Z".len()
    );
    let again = cloud.call(ALICE, "POST", "/v2/images", body).await.is(409);
    assert!(
        again
            .text()
            .contains("Image ID 2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1 already exists!")
    );
}

#[tokio::test]
async fn bad_bodies() {
    let cloud = Cloud::new().await;
    let cases = [
        (
            json!({"status": "active"}),
            403,
            "Attribute 'status' is read-only.",
        ),
        (json!({"self": "x"}), 403, "Attribute 'self' is read-only."),
        (
            json!({"deleted": "x"}),
            403,
            "Attribute 'deleted' is reserved.",
        ),
        (json!({"os_glance_x": "x"}), 403, "reserved"),
        (
            json!({"owner": "p2"}),
            403,
            "You are not permitted to create images owned by 'p2'",
        ),
        (json!({"visibility": "public"}), 403, "publicize_image"),
        (json!({"visibility": "everyone"}), 400, "is not one of"),
        (
            json!({"name": 5}),
            400,
            "Provided object does not match schema 'image': 5 is not of type 'null', 'string'",
        ),
        (json!({"name": "x".repeat(256)}), 400, "is too long"),
        (
            json!({"some": {"nested": 1}}),
            400,
            "is not of type 'string'",
        ),
        (json!({"id": "short"}), 400, "pattern"),
        (json!({"disk_format": "floppy"}), 400, "is not one of"),
        (json!({"min_ram": -1}), 400, "Cannot be a negative value"),
        (json!({"min_ram": "much"}), 400, "is not of type 'integer'"),
        (json!({"protected": "yes"}), 400, "boolean"),
        (json!({"tags": "a"}), 400, "array"),
        (json!({"tags": [1]}), 400, "string"),
        (json!([]), 400, "is not of type 'object'"),
        (Value::Null, 400, "Body expected in request."),
    ];
    for (body, status, message) in cases {
        let answer = cloud.call(ALICE, "POST", "/v2/images", body.clone()).await;
        assert_eq!(answer.status, status, "{body} {}", answer.text());
        let text = answer.text().replace("&#x27;", "'").replace("&quot;", "\"");
        assert!(text.contains(message), "{body}: {text}");
    }
    let request = Request::post("/v2/images")
        .header("x-auth-token", ALICE)
        .header("accept", "application/json");
    let answer = cloud
        .send(request.body(Body::from("{")).unwrap())
        .await
        .is(400);
    assert_eq!(answer.json()["code"], "400 Bad Request");
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("Malformed JSON in request body.")
    );
    let request = Request::post("/v2/images").header("x-auth-token", ALICE);
    cloud
        .send(request.body(Body::from(vec![b' '; 2 << 20])).unwrap())
        .await
        .is(413);
    cloud
        .call(READER, "POST", "/v2/images", json!({}))
        .await
        .is(403);
    let many: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    cloud
        .call(ALICE, "POST", "/v2/images", json!({"tags": many}))
        .await
        .is(413);
}

#[tokio::test]
async fn patch_and_tags() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({"name": "a", "x": "1"})).await;
    let path = format!("/v2/images/{id}");
    let change = json!([
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "add", "path": "/hw_disk_bus", "value": "virtio"},
        {"op": "replace", "path": "/x", "value": "2"},
        {"op": "replace", "path": "/tags", "value": ["t"]},
        {"op": "replace", "path": "/min_disk", "value": 3}
    ]);
    let image = cloud
        .call(ALICE, "PATCH", &path, change)
        .await
        .is(200)
        .json();
    assert_eq!(
        (&image["name"], &image["hw_disk_bus"], &image["x"]),
        (&json!("b"), &json!("virtio"), &json!("2"))
    );
    assert_eq!(
        (&image["tags"], &image["min_disk"]),
        (&json!(["t"]), &json!(3))
    );
    assert_eq!(cloud.get(ALICE, &path).await.json(), image);
    let image = cloud
        .call(
            ALICE,
            "PATCH",
            &path,
            json!([{"op": "remove", "path": "/x"}]),
        )
        .await
        .is(200)
        .json();
    assert_eq!(image.get("x"), None);
    let cases = [
        (
            ALICE,
            json!([{"op": "remove", "path": "/x"}]),
            409,
            "Property x does not exist.",
        ),
        (
            ALICE,
            json!([{"op": "replace", "path": "/x", "value": ""}]),
            409,
            "Property x does not exist.",
        ),
        (
            ALICE,
            json!([{"op": "remove", "path": "/name"}]),
            403,
            "Property name may not be removed.",
        ),
        (
            ALICE,
            json!([{"op": "replace", "path": "/owner", "value": "p2"}]),
            403,
            "by non admin",
        ),
        (
            ALICE,
            json!([{"op": "replace", "path": "/visibility", "value": "public"}]),
            403,
            "publicize_image",
        ),
        (
            ALICE,
            json!([{"op": "add", "path": "/locations/-", "value": {}}]),
            403,
            "locations",
        ),
        (
            READER,
            json!([{"op": "replace", "path": "/name", "value": "c"}]),
            403,
            "modify_image",
        ),
        (
            BOB,
            json!([{"op": "replace", "path": "/name", "value": "c"}]),
            404,
            "No image found",
        ),
        (
            ADMIN,
            json!([{"op": "replace", "path": "/owner", "value": "p9"}]),
            200,
            "p9",
        ),
        (
            ADMIN,
            json!([{"op": "replace", "path": "/visibility", "value": "public"}]),
            200,
            "public",
        ),
    ];
    for (token, change, status, message) in cases {
        let answer = cloud.call(token, "PATCH", &path, change.clone()).await;
        assert_eq!(answer.status, status, "{change} {}", answer.text());
        assert!(
            answer.text().contains(message),
            "{change} {}",
            answer.text()
        );
    }
    cloud
        .call(ADMIN, "PUT", &format!("{path}/tags/new%20one"), Value::Null)
        .await
        .is(204);
    assert_eq!(
        cloud.get(ADMIN, &path).await.json()["tags"],
        json!(["new one", "t"])
    );
    cloud
        .call(ADMIN, "DELETE", &format!("{path}/tags/t"), Value::Null)
        .await
        .is(204);
    cloud
        .call(ADMIN, "DELETE", &format!("{path}/tags/t"), Value::Null)
        .await
        .is(404);
    cloud
        .call(ALICE, "PUT", &format!("{path}/tags/t"), Value::Null)
        .await
        .is(403);
}

#[tokio::test]
async fn lists() {
    let cloud = Cloud::new().await;
    for (name, token, extra) in [
        ("a", ALICE, json!({"os_distro": "debian", "tags": ["x"]})),
        (
            "b",
            ALICE,
            json!({"visibility": "private", "tags": ["x", "y"], "disk_format": "iso"}),
        ),
        ("c", ALICE, json!({"os_hidden": true})),
        ("d", ADMIN, json!({"visibility": "public"})),
        ("e", ADMIN, json!({"visibility": "community"})),
        (
            "f",
            ADMIN,
            json!({"visibility": "private", "protected": true}),
        ),
        ("g", ALICE, json!({"visibility": "community", "min_ram": 7})),
        ("h", BOB, json!({})),
    ] {
        let mut body = extra;
        body["name"] = json!(name);
        cloud.create(token, body).await;
    }
    let cases = [
        (ALICE, "", "abdg"),
        (BOB, "", "dh"),
        (READER, "", "abdg"),
        (ADMIN, "", "abdefh"),
        (ALICE, "visibility=community", "eg"),
        (ALICE, "visibility=all", "abdeg"),
        (ALICE, "visibility=private", "b"),
        (ALICE, "os_hidden=true", "c"),
        (ALICE, "owner=p1", "abg"),
        (ALICE, "name=a", "a"),
        (ALICE, "name=in:a,g,h", "ag"),
        (ALICE, "tag=x", "ab"),
        (ALICE, "tag=x&tag=y", "b"),
        (ALICE, "os_distro=debian", "a"),
        (ALICE, "disk_format=iso", "b"),
        (ALICE, "min_ram_min=1", "g"),
        (ALICE, "size_max=5", ""),
        (ALICE, "status=active", ""),
        (ALICE, "status=queued&limit=1000", "abdg"),
        (ALICE, "created_at=gt:2020-01-01T00:00:00Z", "abdg"),
        (ALICE, "created_at=lt:2020-01-01T00:00:00Z", ""),
        (ADMIN, "protected=true", "f"),
        (ALICE, "sort=name:desc", "gdba"),
        (
            ALICE,
            "sort_key=disk_format&sort_dir=asc&sort_key=name&sort_dir=asc",
            "badg",
        ),
    ];
    for (token, query, wanted) in cases {
        let sorted = if query.contains("sort") {
            query.to_owned()
        } else {
            format!("{query}&sort=name:asc")
        };
        let answer = cloud
            .get(token, &format!("/v2/images?{sorted}"))
            .await
            .is(200)
            .json();
        let names: String = answer["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, wanted, "{token} {query}");
    }
    cloud.get("p1:nobody", "/v2/images").await.is(403);
    cloud
        .get(
            ALICE,
            "/v2/images?marker=2f6f1c52-7a5c-4f0e-9f0b-0a9ad4a3f5d1",
        )
        .await
        .is(400);
}

#[tokio::test]
async fn pages() {
    let cloud = Cloud::new().await;
    for n in 0..7 {
        // Names repeat and are missing, so that the order needs its last keys.
        let name = if n % 3 == 0 {
            Value::Null
        } else {
            json!(format!("n{}", n % 2))
        };
        cloud.create(ALICE, json!({"name": name})).await;
    }
    for sort in [
        "sort=name:asc",
        "sort=name:desc,created_at:asc",
        "sort=size:asc",
        "sort_key=created_at",
        "sort=id:asc",
    ] {
        let mut seen = Vec::new();
        let mut path = format!("/v2/images?limit=2&{sort}");
        loop {
            let page = cloud.get(ALICE, &path).await.is(200).json();
            assert!(
                page["first"]
                    .as_str()
                    .unwrap()
                    .starts_with("/v2/images?limit=2&sort")
            );
            assert_eq!(page["schema"], "/v2/schemas/images");
            seen.extend(
                page["images"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|image| image["id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => path = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), 7, "{sort}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 7, "{sort}");
    }
    let none = cloud.get(ALICE, "/v2/images?limit=0").await.is(200).json();
    assert_eq!(none["images"], json!([]));
}

#[tokio::test]
async fn delete() {
    let cloud = Cloud::new().await;
    let id = cloud.create(ALICE, json!({"protected": true})).await;
    cloud.put_file(ALICE, &id, "data").await.is(204);
    assert_eq!(cloud.files(), std::slice::from_ref(&id));
    let path = format!("/v2/images/{id}");
    let answer = cloud
        .call(ALICE, "DELETE", &path, Value::Null)
        .await
        .is(403);
    assert!(
        answer
            .text()
            .contains("is protected and cannot be deleted.")
    );
    cloud
        .call(
            ALICE,
            "PATCH",
            &path,
            json!([{"op": "replace", "path": "/protected", "value": false}]),
        )
        .await
        .is(200);
    cloud.call(BOB, "DELETE", &path, Value::Null).await.is(404);
    cloud
        .call(READER, "DELETE", &path, Value::Null)
        .await
        .is(403);
    cloud
        .call(ALICE, "DELETE", &path, Value::Null)
        .await
        .is(204);
    assert!(cloud.files().is_empty());
    cloud.get(ALICE, &path).await.is(404);
    let answer = cloud
        .call(ALICE, "DELETE", &path, Value::Null)
        .await
        .is(404);
    assert!(
        answer
            .text()
            .contains(&format!("Failed to find image {id} to delete"))
    );
    // Nobody takes the id of an image that was there.
    cloud
        .call(BOB, "POST", "/v2/images", json!({"id": id}))
        .await
        .is(409);
}
