//! Volumes, snapshots, types, quotas, transfers and the rest of the resources.

use super::*;

#[tokio::test]
async fn a_volume_lives_and_goes() {
    let cloud = Cloud::new().await;
    let body = json!({"volume": {"size": 2, "name": " v ", "metadata": {"a": "b"}}});
    let made = cloud.call(ALICE, "POST", "/volumes", body).await.is(202);
    let volume = &made["volume"];
    assert_eq!(volume["status"], "creating");
    assert_eq!((&volume["name"], &volume["size"]), (&json!("v"), &json!(2)));
    assert_eq!(volume["volume_type"], "standard");
    let id = volume["id"].as_str().unwrap();
    cloud.wait("volume", id, "available").await;
    assert_eq!(cloud.files("volumes"), 1);
    let path = format!("/volumes/{id}");
    let shown = cloud.get(READER, &path).await.is(200);
    assert_eq!(shown["volume"]["metadata"], json!({"a": "b"}));
    assert_eq!(shown["volume"]["bootable"], "false");
    assert_eq!(shown["volume"]["os-vol-tenant-attr:tenant_id"], "p1");
    assert!(shown["volume"].get("os-vol-host-attr:host").is_none());
    assert!(cloud.get(ADMIN, &path).await.is(200)["volume"]["os-vol-host-attr:host"].is_string());
    cloud.get(BOB, &path).await.is(404);
    cloud.delete(READER, &path).await.is(403);
    let changed = json!({"volume": {"name": "new", "description": "d"}});
    cloud.call(BOB, "PUT", &path, changed.clone()).await.is(404);
    let changed = cloud.call(ALICE, "PUT", &path, changed).await.is(200);
    assert_eq!(changed["volume"]["name"], "new");
    cloud
        .call(ALICE, "PUT", &path, json!({"volume": {}}))
        .await
        .is(400);
    cloud.delete(ALICE, &path).await.is(202);
    cloud.wait("volume", id, "gone").await;
    assert_eq!(cloud.files("volumes"), 0);
}

#[tokio::test]
async fn bad_volumes_are_refused() {
    let cloud = Cloud::new().await;
    let nowhere = "6edbc2f4-1507-44f8-ac0d-eed1d2608d38";
    for (fields, status) in [
        (json!({}), 400),
        (json!({"size": 0}), 400),
        (json!({"size": -1}), 400),
        (json!({"size": "#$%"}), 400),
        (json!({"size": 1, "volume_type": "nothing"}), 404),
        (json!({"size": 1, "snapshot_id": nowhere}), 404),
        (json!({"size": 1, "source_volid": nowhere}), 404),
        (json!({"size": 1, "availability_zone": "mars"}), 400),
        (json!({"size": 1, "multiattach": true}), 400),
        (json!({"size": 1, "status": "error"}), 400),
        (json!({"size": 1, "name": "x".repeat(256)}), 400),
        (json!({"size": 1, "imageRef": nowhere}), 503),
        (json!({"size": 5000}), 413),
    ] {
        let answer = cloud
            .call(ALICE, "POST", "/volumes", json!({"volume": fields}))
            .await;
        assert_eq!(answer.status, status, "{fields} {}", answer.body);
    }
    cloud
        .call(ALICE, "POST", "/volumes", json!(null))
        .await
        .is(400);
    let loose = json!({"volume": {"size": 1, "status": "error"}});
    cloud
        .call("p1:member@3.0", "POST", "/volumes", loose)
        .await
        .is(202);
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let cloud = Cloud::new().await;
    let mut ids = Vec::new();
    for (name, size) in [("a", 3), ("b", 1), ("c", 2)] {
        let fields = json!({"name": name, "size": size, "metadata": {"k": name}});
        ids.push(cloud.volume(ALICE, fields).await);
    }
    cloud.volume(BOB, json!({"name": "other"})).await;
    let names = |body: &Value| -> Vec<String> {
        let all = body["volumes"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    for (query, wanted) in [
        ("", vec!["c", "b", "a"]),
        ("?sort=size:asc", vec!["b", "c", "a"]),
        ("?sort_key=name&sort_dir=asc", vec!["a", "b", "c"]),
        ("?name=b", vec!["b"]),
        ("?status=error", vec![]),
        ("?bootable=true", vec![]),
        ("?metadata={'k':'c'}", vec!["c"]),
        ("?metadata=%7B%22k%22%3A%22a%22%7D", vec!["a"]),
        ("?name~=b", vec!["b"]),
        ("?limit=2", vec!["c", "b"]),
        ("?offset=2", vec!["a"]),
        ("?all_tenants=1", vec!["c", "b", "a"]),
    ] {
        let query = query
            .replace('\'', "%27")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let body = cloud
            .get(ALICE, &format!("/volumes/detail{query}"))
            .await
            .is(200);
        assert_eq!(names(&body), wanted, "{query}");
    }
    let all = cloud
        .get(ADMIN, "/volumes?all_tenants=1&with_count=true")
        .await
        .is(200);
    assert_eq!((names(&all).len(), &all["count"]), (4, &json!(4)));
    let page = cloud
        .get(ALICE, "/volumes?limit=1&sort=name:asc")
        .await
        .is(200);
    let next = page["volumes_links"][0]["href"].as_str().unwrap();
    let rest = next.split_once("/v3").unwrap().1;
    assert_eq!(names(&cloud.get(ALICE, rest).await.is(200)), ["b"]);
    for bad in [
        "?limit=-1",
        "?limit=x",
        "?sort=color",
        "?sort=name:up",
        "?bootable=maybe",
    ] {
        cloud.get(ALICE, &format!("/volumes{bad}")).await.is(400);
    }
    for list in ["/volumes", "/snapshots", "/types"] {
        let path = format!("{list}?marker=nothing");
        cloud.get(ALICE, &path).await.is(404);
    }
    // An empty id.
    for method in ["GET", "PUT", "DELETE"] {
        let body = json!({"volume": {"name": "n"}});
        cloud.call(ALICE, method, "/volumes/", body).await.is(404);
    }
    let summary = cloud.get(ALICE, "/volumes/summary").await.is(200);
    assert_eq!(summary["volume-summary"]["total_size"], 6);
}

#[tokio::test]
async fn quotas_hold_also_when_all_ask_at_once() {
    let cloud = Cloud::with(|config| config.quota_volumes = 3, None).await;
    let body = || json!({"volume": {"size": 1}});
    let asked = (0..8).map(|_| cloud.call(ALICE, "POST", "/volumes", body()));
    let answers = futures_util::future::join_all(asked).await;
    let given = answers.iter().filter(|answer| answer.status == 202).count();
    let refused = answers.iter().filter(|answer| answer.status == 413).count();
    assert_eq!((given, refused), (3, 5));
    let set = json!({"quota_set": {"volumes": 4, "gigabytes": 3}});
    cloud
        .call(ALICE, "PUT", "/os-quota-sets/p1", set.clone())
        .await
        .is(403);
    cloud
        .call(ADMIN, "PUT", "/os-quota-sets/p1", set)
        .await
        .is(200);
    let over = cloud.call(ALICE, "POST", "/volumes", body()).await.is(413);
    assert!(
        over["overLimit"]["message"]
            .as_str()
            .unwrap()
            .contains("gigabytes")
    );
    let few = json!({"quota_set": {"volumes": 1}});
    cloud
        .call(ADMIN, "PUT", "/os-quota-sets/p1", few)
        .await
        .is(400);
    let odd = json!({"quota_set": {"cows": 1}});
    cloud
        .call(ADMIN, "PUT", "/os-quota-sets/p1", odd)
        .await
        .is(400);
    let usage = cloud
        .get(ALICE, "/os-quota-sets/p1?usage=True")
        .await
        .is(200);
    assert_eq!(usage["quota_set"]["volumes"]["in_use"], 3);
    assert_eq!(usage["quota_set"]["volumes_standard"]["in_use"], 3);
    let limits = cloud.get(ALICE, "/limits").await.is(200);
    assert_eq!(limits["limits"]["absolute"]["totalGigabytesUsed"], 3);
    cloud.get(ALICE, "/os-quota-sets/p2").await.is(403);
    cloud.delete(ADMIN, "/os-quota-sets/p1").await.is(200);
    let class = json!({"quota_class_set": {"volumes": 7}});
    cloud
        .call(ADMIN, "PUT", "/os-quota-class-sets/default", class)
        .await
        .is(200);
    let back = cloud.get(ALICE, "/os-quota-sets/p1").await.is(200);
    assert_eq!(back["quota_set"]["volumes"], 7);
    let of_type = json!({"quota_set": {"volumes_multiattach": 0}});
    cloud
        .call(ADMIN, "PUT", "/os-quota-sets/p2", of_type)
        .await
        .is(200);
    let typed = json!({"volume": {"size": 1, "volume_type": "multiattach"}});
    cloud.call(BOB, "POST", "/volumes", typed).await.is(413);
}

#[tokio::test]
async fn types_and_who_may_use_them() {
    let cloud = Cloud::new().await;
    let body = json!({"volume_type": {
        "name": "gold", "os-volume-type-access:is_public": false, "extra_specs": {"a": "b"},
    }});
    cloud
        .call(ALICE, "POST", "/types", body.clone())
        .await
        .is(403);
    let made = cloud
        .call(ADMIN, "POST", "/types", body.clone())
        .await
        .is(200);
    let id = made["volume_type"]["id"].as_str().unwrap();
    let renamed = json!({"volume_type": {"description": "d"}});
    let path = format!("/types/{id}");
    let renamed = cloud.call(ADMIN, "PUT", &path, renamed).await.is(200);
    let fields: Vec<&String> = renamed["volume_type"].as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 5, "{fields:?}");
    cloud.call(ADMIN, "POST", "/types", body).await.is(409);
    let path = format!("/types/{id}");
    cloud.get(ALICE, &path).await.is(404);
    let typed = json!({"volume": {"size": 1, "volume_type": "gold"}});
    cloud
        .call(ALICE, "POST", "/volumes", typed.clone())
        .await
        .is(404);
    let grant = json!({"addProjectAccess": {"project": "p1"}});
    let action = format!("{path}/action");
    cloud
        .call(ADMIN, "POST", &action, grant.clone())
        .await
        .is(202);
    cloud.call(ADMIN, "POST", &action, grant).await.is(409);
    let access = cloud
        .get(ADMIN, &format!("{path}/os-volume-type-access"))
        .await
        .is(200);
    let access = access["volume_type_access"].as_array().unwrap();
    assert_eq!(access.len(), 1, "not the administrator's own project");
    let shown = cloud.get(ALICE, &path).await.is(200);
    assert_eq!(shown["volume_type"]["extra_specs"], json!({}));
    assert!(shown["volume_type"].get("qos_specs_id").is_none());
    cloud.call(ALICE, "POST", "/volumes", typed).await.is(202);
    cloud.delete(ADMIN, &path).await.is(400);
    let listed = cloud.get(ALICE, "/types").await.is(200);
    assert_eq!(listed["volume_types"].as_array().unwrap().len(), 3);
    assert_eq!(
        cloud.get(ADMIN, "/types?is_public=False").await.is(200)["volume_types"][0]["name"],
        "gold"
    );
    assert_eq!(
        cloud.get(BOB, "/types").await.is(200)["volume_types"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let specs = format!("{path}/extra_specs");
    cloud
        .call(ADMIN, "POST", &specs, json!({"extra_specs": {"x": "1"}}))
        .await
        .is(200);
    cloud
        .call(ADMIN, "PUT", &format!("{specs}/x"), json!({"x": "2"}))
        .await
        .is(200);
    cloud
        .call(ADMIN, "PUT", &format!("{specs}/x"), json!({"y": "2"}))
        .await
        .is(400);
    assert_eq!(
        cloud.get(ADMIN, &format!("{specs}/x")).await.is(200),
        json!({"x": "2"})
    );
    cloud.delete(ADMIN, &format!("{specs}/x")).await.is(202);
    cloud.get(ADMIN, &format!("{specs}/x")).await.is(404);
    let encryption = format!("{path}/encryption");
    let luks = json!({"encryption": {"provider": "luks", "control_location": "front-end", "key_size": 256}});
    cloud
        .call(ADMIN, "POST", &encryption, luks.clone())
        .await
        .is(400);
    let made = json!({"volume_type": {"name": "secret"}});
    let made = cloud.call(ADMIN, "POST", "/types", made).await.is(200);
    let encryption = format!(
        "/types/{}/encryption",
        made["volume_type"]["id"].as_str().unwrap()
    );
    assert_eq!(cloud.get(ADMIN, &encryption).await.is(200), json!({}));
    cloud
        .call(ALICE, "POST", &encryption, luks.clone())
        .await
        .is(403);
    cloud
        .call(ADMIN, "POST", &encryption, luks.clone())
        .await
        .is(200);
    cloud.call(ADMIN, "POST", &encryption, luks).await.is(400);
    let less = json!({"encryption": {"key_size": 128}});
    cloud
        .call(ADMIN, "PUT", &format!("{encryption}/x"), less)
        .await
        .is(200);
    assert_eq!(
        cloud
            .get(ADMIN, &format!("{encryption}/key_size"))
            .await
            .is(200),
        json!({"key_size": 128})
    );
    let body = json!({"volume": {"size": 1, "volume_type": "secret"}});
    cloud.call(ALICE, "POST", "/volumes", body).await.is(501);
    cloud
        .delete(ADMIN, &format!("{encryption}/x"))
        .await
        .is(202);
    cloud
        .delete(ADMIN, &format!("{encryption}/x"))
        .await
        .is(404);
    let default = cloud.get(ALICE, "/types/default").await.is(200);
    assert_eq!(default["volume_type"]["name"], "standard");
    let set = json!({"default_type": {"volume_type": "gold"}});
    cloud
        .call(ADMIN, "PUT", "/default-types/p1", set)
        .await
        .is(200);
    assert_eq!(
        cloud.get(ALICE, "/types/default").await.is(200)["volume_type"]["name"],
        "gold"
    );
    cloud.delete(ADMIN, "/default-types/p1").await.is(204);
}

#[tokio::test]
async fn a_transfer_changes_the_owner() {
    let cloud = Cloud::new().await;
    let id = cloud.volume(ALICE, json!({})).await;
    cloud.snapshot(ALICE, &id).await;
    let offer = json!({"transfer": {"volume_id": id, "name": "t"}});
    cloud
        .call(BOB, "POST", "/volume-transfers", offer.clone())
        .await
        .is(404);
    let made = cloud
        .call(ALICE, "POST", "/volume-transfers", offer)
        .await
        .is(202);
    let transfer = &made["transfer"];
    let path = format!("/volume-transfers/{}", transfer["id"].as_str().unwrap());
    assert_eq!(cloud.status("volume", &id).await, "awaiting-transfer");
    cloud.delete(ALICE, &format!("/volumes/{id}")).await.is(400);
    let shown = cloud.get(ALICE, &path).await.is(200);
    assert!(shown["transfer"].get("auth_key").is_none());
    let accept = |key: &Value| json!({"accept": {"auth_key": key}});
    cloud
        .call(
            BOB,
            "POST",
            &format!("{path}/accept"),
            accept(&json!("wrong")),
        )
        .await
        .is(400);
    let key = &transfer["auth_key"];
    cloud
        .call(BOB, "POST", &format!("{path}/accept"), accept(key))
        .await
        .is(202);
    cloud
        .call(ALICE, "POST", &format!("{path}/accept"), accept(key))
        .await
        .is(400);
    cloud.get(ALICE, &format!("/volumes/{id}")).await.is(404);
    cloud.get(BOB, &format!("/volumes/{id}")).await.is(200);
    let snapshots = cloud.get(BOB, "/snapshots").await.is(200);
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn metadata_of_volumes_and_snapshots() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume(ALICE, json!({})).await;
    let snapshot = cloud.snapshot(ALICE, &volume).await;
    for path in [
        format!("/volumes/{volume}/metadata"),
        format!("/snapshots/{snapshot}/metadata"),
    ] {
        let add = json!({"metadata": {"a": "1", "b": "2"}});
        cloud.call(READER, "POST", &path, add.clone()).await.is(403);
        cloud.call(BOB, "POST", &path, add.clone()).await.is(404);
        assert_eq!(
            cloud.call(ALICE, "POST", &path, add.clone()).await.is(200),
            add
        );
        let one = json!({"meta": {"a": "3"}});
        cloud
            .call(ALICE, "PUT", &format!("{path}/a"), one.clone())
            .await
            .is(200);
        cloud
            .call(ALICE, "PUT", &format!("{path}/b"), one)
            .await
            .is(400);
        cloud.delete(ALICE, &format!("{path}/b")).await.is(200);
        cloud.delete(ALICE, &format!("{path}/b")).await.is(404);
        assert_eq!(
            cloud.get(READER, &path).await.is(200),
            json!({"metadata": {"a": "3"}})
        );
        let long = json!({"metadata": {"a": "x".repeat(256)}});
        cloud.call(ALICE, "PUT", &path, long).await.is(400);
        cloud
            .call(ALICE, "PUT", &path, json!({"metadata": {}}))
            .await
            .is(200);
        assert_eq!(
            cloud.get(READER, &path).await.is(200),
            json!({"metadata": {}})
        );
    }
}

#[tokio::test]
async fn qos_specs_hang_on_types() {
    let cloud = Cloud::new().await;
    let body = json!({"qos_specs": {"name": "q", "consumer": "front-end", "total_iops_sec": 100}});
    cloud
        .call(ALICE, "POST", "/qos-specs", body.clone())
        .await
        .is(403);
    let made = cloud
        .call(ADMIN, "POST", "/qos-specs", body.clone())
        .await
        .is(200);
    cloud.call(ADMIN, "POST", "/qos-specs", body).await.is(409);
    assert_eq!(made["qos_specs"]["specs"], json!({"total_iops_sec": "100"}));
    let path = format!("/qos-specs/{}", made["qos_specs"]["id"].as_str().unwrap());
    let kind = cloud.get(ADMIN, "/types/default").await.is(200);
    let kind = kind["volume_type"]["id"].as_str().unwrap();
    cloud
        .get(ADMIN, &format!("{path}/associate?vol_type_id={kind}"))
        .await
        .is(202);
    let all = cloud
        .get(ADMIN, &format!("{path}/associations"))
        .await
        .is(200);
    assert_eq!(all["qos_associations"][0]["name"], "standard");
    cloud.delete(ADMIN, &path).await.is(400);
    cloud
        .get(ADMIN, &format!("{path}/disassociate_all"))
        .await
        .is(202);
    let keys = json!({"keys": ["total_iops_sec"]});
    cloud
        .call(ADMIN, "PUT", &format!("{path}/delete_keys"), keys.clone())
        .await
        .is(202);
    cloud
        .call(ADMIN, "PUT", &format!("{path}/delete_keys"), keys)
        .await
        .is(404);
    cloud.delete(ADMIN, &path).await.is(202);
    cloud.get(ADMIN, &path).await.is(404);
}

#[tokio::test]
async fn what_the_service_says_of_itself() {
    let cloud = Cloud::new().await;
    let zones = cloud.get(READER, "/os-availability-zone").await.is(200);
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "nova");
    for path in [
        "/os-services",
        "/os-hosts",
        "/scheduler-stats/get_pools?detail=true",
        "/capabilities/kilonova@files",
    ] {
        cloud.get(ALICE, path).await.is(403);
        cloud.get(ADMIN, path).await.is(200);
    }
    cloud.get(READER, "/extensions").await.is(200);
    let off =
        json!({"host": "kilonova@files", "binary": "cinder-volume", "disabled_reason": "test"});
    cloud
        .call(ADMIN, "PUT", "/os-services/disable-log-reason", off)
        .await
        .is(200);
    let body = json!({"volume": {"size": 1}});
    let made = cloud.call(ALICE, "POST", "/volumes", body).await.is(202);
    assert_eq!(made["volume"]["status"], "error");
    let messages = cloud.get(ALICE, "/messages").await.is(200);
    assert_eq!(
        messages["messages"][0]["resource_uuid"],
        made["volume"]["id"]
    );
    assert_eq!(
        cloud.get(BOB, "/messages").await.is(200)["messages"],
        json!([])
    );
    let message = messages["messages"][0]["id"].as_str().unwrap();
    cloud
        .get(BOB, &format!("/messages/{message}"))
        .await
        .is(404);
    cloud
        .delete(ALICE, &format!("/messages/{message}"))
        .await
        .is(204);
    let unknown = json!({"host": "mars", "binary": "cinder-volume"});
    cloud
        .call(ADMIN, "PUT", "/os-services/enable", unknown)
        .await
        .is(404);
    assert_eq!(
        cloud.get(ALICE, "/backups").await.is(200)["backups"],
        json!([])
    );
    cloud
        .call(ALICE, "POST", "/backups", json!({"backup": {}}))
        .await
        .is(501);
}

#[tokio::test]
async fn groups_of_volumes() {
    let cloud = Cloud::new().await;
    let kind = json!({"group_type": {"name": "g", "group_specs": {"a": "b"}}});
    cloud
        .call(ALICE, "POST", "/group_types", kind.clone())
        .await
        .is(403);
    let made = cloud
        .call(ADMIN, "POST", "/group_types", kind.clone())
        .await
        .is(202);
    cloud
        .call(ADMIN, "POST", "/group_types", kind)
        .await
        .is(409);
    let kind = made["group_type"]["id"].as_str().unwrap();
    let body =
        |types: Value| json!({"group": {"group_type": kind, "volume_types": types, "name": "one"}});
    cloud
        .call(ALICE, "POST", "/groups", body(json!([])))
        .await
        .is(400);
    cloud
        .call(ALICE, "POST", "/groups", body(json!(["nothing"])))
        .await
        .is(404);
    let made = cloud
        .call(ALICE, "POST", "/groups", body(json!(["standard"])))
        .await
        .is(202);
    let group = made["group"]["id"].as_str().unwrap();
    let path = format!("/groups/{group}");
    cloud.get(BOB, &path).await.is(404);
    let fields = json!({"size": 1, "volume_type": "standard", "group_id": group});
    let volume = cloud.volume(ALICE, fields).await;
    let other = json!({"volume": {"size": 1, "volume_type": "multiattach", "group_id": group}});
    cloud.call(ALICE, "POST", "/volumes", other).await.is(400);
    cloud
        .delete(ALICE, &format!("/volumes/{volume}"))
        .await
        .is(400);
    let listed = cloud
        .get(ALICE, "/groups/detail?list_volume=true")
        .await
        .is(200);
    assert_eq!(listed["groups"][0]["volumes"], json!([volume]));

    let snap = json!({"group_snapshot": {"group_id": group, "name": "gs"}});
    let snap = cloud
        .call(ALICE, "POST", "/group_snapshots", snap)
        .await
        .is(202);
    let snap = snap["group_snapshot"]["id"].as_str().unwrap();
    cloud.wait("group_snapshot", snap, "available").await;
    let single = cloud.get(ALICE, "/snapshots").await.is(200);
    let single = single["snapshots"][0]["id"].as_str().unwrap();
    cloud
        .delete(ALICE, &format!("/snapshots/{single}"))
        .await
        .is(400);
    let from = json!({"create-from-src": {"group_snapshot_id": snap, "name": "two"}});
    let two = cloud
        .call(ALICE, "POST", "/groups/action", from)
        .await
        .is(202);
    let two = two["group"]["id"].as_str().unwrap();
    cloud.wait("group", two, "available").await;

    let act = |path: &str| format!("{path}/action");
    let delete = |volumes: bool| json!({"delete": {"delete-volumes": volumes}});
    cloud
        .call(ALICE, "POST", &act(&path), delete(true))
        .await
        .is(400);
    cloud
        .delete(ALICE, &format!("/group_snapshots/{snap}"))
        .await
        .is(202);
    cloud.wait("group_snapshot", snap, "gone").await;
    cloud
        .call(ALICE, "POST", &act(&path), delete(false))
        .await
        .is(400);
    cloud
        .call(
            ALICE,
            "PUT",
            &path,
            json!({"group": {"remove_volumes": volume}}),
        )
        .await
        .is(202);
    cloud
        .call(
            ALICE,
            "PUT",
            &path,
            json!({"group": {"add_volumes": volume}}),
        )
        .await
        .is(202);
    cloud
        .call(ALICE, "PUT", &path, json!({"group": {}}))
        .await
        .is(400);
    cloud
        .call(ALICE, "POST", &act(&path), delete(true))
        .await
        .is(202);
    cloud.wait("group", group, "gone").await;
    cloud.wait("volume", &volume, "gone").await;
    cloud
        .delete(ADMIN, &format!("/group_types/{kind}"))
        .await
        .is(400);
    cloud
        .call(ALICE, "POST", &act(&format!("/groups/{two}")), delete(true))
        .await
        .is(202);
    cloud.wait("group", two, "gone").await;
    cloud
        .delete(ADMIN, &format!("/group_types/{kind}"))
        .await
        .is(202);
    assert_eq!((cloud.files("volumes"), cloud.files("snapshots")), (0, 0));
}
