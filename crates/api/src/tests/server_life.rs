//! Servers after they were accepted: lists, states, actions, metadata, tags, deletion.

use super::harness::Cloud;
use super::server_create::{body, cloud, cloud_with};
use db::instances::{Change, Expected, Place};
use serde_json::{Value, json};
use types::{NodeId, PowerState, ServerId, Timestamp, VmState};

pub async fn make(cloud: &Cloud, token: &str, name: &str) -> String {
    let made = cloud
        .send(
            token,
            90,
            "POST",
            "/servers",
            body(json!({"name": name, "networks": "none"})),
        )
        .await;
    assert_eq!(made.status, 202, "{}", made.text);
    made.json()["server"]["id"].as_str().unwrap().to_owned()
}

/// What the journal does when a build is done.
pub async fn finish(cloud: &Cloud, id: &str, state: VmState) {
    let id: ServerId = id.parse().unwrap();
    cloud
        .store
        .write(move |tx| -> Result<(), sql::Error> {
            let server = db::instances::get(tx, id)?.unwrap();
            let place = Place {
                host: "h1".into(),
                node_id: NodeId::random(),
                node: "n1".into(),
                zone: "nova".into(),
            };
            let change = Change {
                vm_state: Some(state),
                task_state: Some(None),
                task_id: Some(None),
                power_state: Some(PowerState::Running),
                place: Some(Some(place)),
                launched_at: Some(Timestamp::now()),
                ..Change::default()
            };
            assert!(db::instances::transition(
                tx,
                id,
                Expected::Generation(server.generation),
                &change,
                Timestamp::now()
            )?);
            Ok(())
        })
        .await
        .unwrap();
}

/// The host that servers are on says that it lives.
pub async fn host_is_up(cloud: &Cloud) {
    let beat = |tx: &mut sql::Tx<'_>| {
        db::hosts::beat(tx, &"h1".into(), "nova-compute", None, Timestamp::now())
    };
    cloud.store.write(beat).await.unwrap();
}

fn names(answer: &Value) -> Vec<String> {
    answer["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn lists() {
    let cloud = cloud().await;
    for name in ["alpha", "beta", "gamma"] {
        make(&cloud, "member", name).await;
    }
    make(&cloud, "other", "foreign").await;
    assert_eq!(
        names(&cloud.get("member", 1, "/servers").await.json()),
        ["gamma", "beta", "alpha"]
    );
    let page = cloud.get("member", 1, "/servers?limit=2").await.json();
    assert_eq!(names(&page), ["gamma", "beta"]);
    let marker = page["servers"][1]["id"].as_str().unwrap();
    assert_eq!(
        page["servers_links"][0]["href"],
        format!("http://cloud:8774/v2.1/servers?limit=2&marker={marker}")
    );
    assert_eq!(
        names(
            &cloud
                .get("member", 1, &format!("/servers?limit=2&marker={marker}"))
                .await
                .json()
        ),
        ["alpha"]
    );
    for (token, query, wanted) in [
        ("member", "name=^.e", vec!["beta"]),
        (
            "member",
            "status=build&name=a$",
            vec!["gamma", "beta", "alpha"],
        ),
        ("member", "status=ACTIVE", vec![]),
        (
            "member",
            "host=nowhere&tenant_id=x",
            vec!["gamma", "beta", "alpha"],
        ),
        ("member", "flavor=nope", vec![]),
        ("member", "limit=0", vec![]),
        ("member", "_x=1&limit=1", vec!["gamma"]),
        ("admin", "all_tenants=1&limit=1", vec!["foreign"]),
        ("admin", "", vec![]),
        ("member", "changes-since=2999-01-01T00:00:00Z", vec![]),
    ] {
        let answer = cloud.get(token, 1, &format!("/servers?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        assert_eq!(names(&answer.json()), wanted, "{query}");
    }
    for (token, version, query, status, message) in [
        ("member", 38, "status=bogus", 400, "Invalid status value"),
        (
            "member",
            1,
            "status=deleted",
            403,
            "Only administrators may list deleted instances",
        ),
        (
            "member",
            1,
            "sort_key=host",
            403,
            "Only administrators can sort servers by host",
        ),
        (
            "member",
            1,
            "all_tenants=1",
            403,
            "Policy doesn't allow os_compute_api:servers:index:get_all_tenants to be performed.",
        ),
        (
            "member",
            75,
            "bogus=1",
            400,
            "'bogus' does not match any of the regexes: '^_'",
        ),
        ("admin", 75, "_x=1", 400, "Invalid filter field: _x."),
        (
            "member",
            1,
            "sort_dir=up",
            400,
            "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'",
        ),
        (
            "member",
            1,
            "marker=aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            400,
            "marker [aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee] not found",
        ),
        (
            "member",
            66,
            "changes-since=2026-01-02T00:00:00Z&changes-before=2026-01-01T00:00:00Z",
            400,
            "The value of changes-since must be less than or equal to changes-before.",
        ),
    ] {
        let answer = cloud
            .get(token, version, &format!("/servers?{query}"))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{query}: {}", answer.text);
        assert_eq!(answer.fault().1, message);
    }
}

/// Filters of which administrators alone may have something, and keys that order as little.
#[tokio::test]
async fn filters_and_orders_of_administrators() {
    let cloud = cloud().await;
    let mut ids = Vec::new();
    for (name, config) in [("alpha", "AUTO"), ("beta", "MANUAL"), ("gamma", "AUTO")] {
        let wanted = json!({"name": name, "networks": "none", "OS-DCF:diskConfig": config});
        let made = cloud
            .send("member", 90, "POST", "/servers", body(wanted))
            .await;
        assert_eq!(made.status, 202, "{}", made.text);
        let id = made.json()["server"]["id"].as_str().unwrap().to_owned();
        finish(&cloud, &id, VmState::Active).await;
        ids.push(id);
    }
    let lock = format!("/servers/{}/action", ids[0]);
    let locked = cloud
        .send("member", 90, "POST", &lock, json!({"lock": null}))
        .await;
    assert_eq!(locked.status, 202, "{}", locked.text);
    finish(&cloud, &ids[2], VmState::SoftDelete).await;
    let gone: ServerId = ids[1].parse().unwrap();
    let list = async |query: &str| {
        let path = format!("/servers?all_tenants=1&{query}");
        let answer = cloud.get("admin", 90, &path).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        names(&answer.json())
    };
    for (query, wanted) in [
        ("locked_by=own", vec!["alpha"]),
        ("locked_by=admin", vec![]),
        ("auto_disk_config=true", vec!["alpha"]),
        ("auto_disk_config=0", vec!["beta"]),
        // No server has any of these.
        ("kernel_id=a", vec![]),
        ("ramdisk_id=a", vec![]),
        ("kernel_id=^$", vec!["beta", "alpha"]),
        (
            "sort_key=auto_disk_config&sort_dir=asc",
            vec!["beta", "alpha"],
        ),
        ("sort_key=auto_disk_config", vec!["alpha", "beta"]),
        ("sort_key=locked_by&sort_dir=desc", vec!["alpha", "beta"]),
        (
            "sort_key=kernel_id&sort_key=display_name&sort_dir=desc&sort_dir=asc",
            vec!["alpha", "beta"],
        ),
        ("sort_key=ramdisk_id&sort_dir=asc", vec!["alpha", "beta"]),
        ("soft_deleted=1", vec!["gamma", "beta", "alpha"]),
        ("deleted=bogus", vec!["beta", "alpha"]),
        ("deleted=", vec!["beta", "alpha"]),
        ("deleted=1", vec!["gamma"]),
    ] {
        assert_eq!(list(query).await, wanted, "{query}");
    }
    let delete =
        move |tx: &mut sql::Tx<'_>| db::instances::mark_deleted(tx, gone, Timestamp::now());
    assert!(cloud.store.write(delete).await.unwrap());
    for (query, wanted) in [
        ("deleted=t", vec!["gamma", "beta"]),
        ("deleted=t&soft_deleted=on", vec!["gamma", "beta"]),
        ("deleted=t&soft_deleted=off", vec!["beta"]),
        ("deleted=off&soft_deleted=on", vec!["gamma", "alpha"]),
        ("deleted=off&soft_deleted=off", vec!["alpha"]),
    ] {
        assert_eq!(list(query).await, wanted, "{query}");
    }
    let mut paged = Vec::new();
    let mut path = "/servers?all_tenants=1&deleted=1&sort_key=auto_disk_config&limit=1".to_owned();
    while let Some(name) = {
        let answer = cloud.get("admin", 90, &path).await.json();
        let next = answer["servers_links"][0]["href"].as_str();
        path = next.map_or_else(String::new, |next| {
            next.split("/v2.1").nth(1).unwrap().to_owned()
        });
        names(&answer).pop()
    } {
        paged.push(name);
    }
    assert_eq!(paged, ["gamma", "beta"]);
    // A key that counts no more takes its direction with it.
    let old = cloud
        .get("admin", 1, "/servers?all_tenants=1&deleted=1&sort_key=id&sort_key=display_name&sort_dir=desc&sort_dir=asc")
        .await;
    assert_eq!(names(&old.json()), ["beta", "gamma"]);
    let wrong = "Invalid input received: Sort direction size exceeds sort key size";
    for query in [
        "sort_dir=asc&sort_dir=desc",
        "sort_key=uuid&sort_dir=asc&sort_dir=asc",
    ] {
        let answer = cloud.get("member", 90, &format!("/servers?{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fault().1.as_str()),
            (400, wrong)
        );
    }
    let wrong = cloud
        .get("admin", 90, "/servers?auto_disk_config=perhaps")
        .await;
    assert_eq!(wrong.status, 400, "{}", wrong.text);
}

#[tokio::test]
async fn actions_and_states() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let path = format!("/servers/{id}");
    let act = |body: Value| {
        cloud.send(
            "member",
            90,
            "POST",
            Box::leak(format!("/servers/{id}/action").into_boxed_str()),
            body,
        )
    };
    let early = act(json!({"os-stop": null})).await;
    assert_eq!(
        early.fault().1,
        format!("Instance {id} is not ready"),
        "the host comes before the state"
    );
    finish(&cloud, &id, VmState::Active).await;
    assert_eq!(
        act(json!({"os-start": null})).await.fault().1,
        format!("Cannot 'start' instance {id} while it is in vm_state active")
    );
    assert_eq!(act(json!({"os-stop": null})).await.status, 202);
    assert_eq!(
        act(json!({"reboot": {"type": "SOFT"}})).await.fault().1,
        format!("Cannot 'reboot' instance {id} while it is in task_state powering-off")
    );
    finish(&cloud, &id, VmState::Active).await;
    assert_eq!(act(json!({"reboot": {"type": "HARD"}})).await.status, 202);
    assert_eq!(
        cloud.get("member", 1, &path).await.json()["server"]["status"],
        "HARD_REBOOT"
    );
    finish(&cloud, &id, VmState::Active).await;
    for (length, wanted) in [(json!(null), "a\nb\nc\n"), (json!("2"), "b\nc\n")] {
        assert_eq!(
            act(json!({"os-getConsoleOutput": {"length": length}}))
                .await
                .json()["output"],
            wanted
        );
    }
    let admin = cloud
        .send(
            "admin",
            73,
            "POST",
            &format!("{path}/action"),
            json!({"lock": {"locked_reason": "why"}}),
        )
        .await;
    assert_eq!(admin.status, 202, "{}", admin.text);
    assert_eq!(
        act(json!({"os-stop": null})).await.fault().1,
        format!("Instance {id} is locked")
    );
    assert_eq!(act(json!({"unlock": null})).await.status, 403);
    assert_eq!(
        cloud.get("member", 73, &path).await.json()["server"]["locked_reason"],
        "why"
    );
    assert_eq!(
        cloud
            .send(
                "admin",
                73,
                "POST",
                &format!("{path}/action"),
                json!({"unlock": null})
            )
            .await
            .status,
        202
    );
    let reset = cloud
        .send(
            "admin",
            1,
            "POST",
            &format!("{path}/action"),
            json!({"os-resetState": {"state": "error"}}),
        )
        .await;
    assert_eq!(reset.status, 202, "{}", reset.text);
    assert_eq!(
        cloud.get("member", 1, &path).await.json()["server"]["status"],
        "ERROR"
    );
    let actions = cloud
        .get("member", 1, &format!("{path}/os-instance-actions"))
        .await
        .json();
    let list: Vec<&str> = actions["instanceActions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        list,
        ["resetState", "unlock", "lock", "reboot", "stop", "create"]
    );
    let shown = cloud.get("admin", 90, &path).await.json();
    assert_eq!(shown["server"]["OS-EXT-SRV-ATTR:host"], "h1");
    assert_eq!(shown["server"]["host_status"], "UNKNOWN");
}

#[tokio::test]
async fn other_projects_see_nothing() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let unknown = format!("Instance {id} could not be found.");
    for (method, path, body) in [
        ("GET", format!("/servers/{id}"), Value::Null),
        (
            "PUT",
            format!("/servers/{id}"),
            json!({"server": {"name": "b"}}),
        ),
        ("DELETE", format!("/servers/{id}"), Value::Null),
        (
            "POST",
            format!("/servers/{id}/action"),
            json!({"os-stop": null}),
        ),
        ("GET", format!("/servers/{id}/metadata"), Value::Null),
        (
            "GET",
            format!("/servers/{id}/os-instance-actions"),
            Value::Null,
        ),
        ("GET", format!("/servers/{id}/os-interface"), Value::Null),
    ] {
        let answer = cloud.send("other", 90, method, &path, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fault().1.as_str()),
            (404, unknown.as_str()),
            "{method} {path}"
        );
    }
    assert_eq!(
        cloud
            .get("other", 26, &format!("/servers/{id}/tags"))
            .await
            .status,
        403,
        "tags say that it is not allowed"
    );
    let reader = cloud
        .send(
            "reader",
            90,
            "DELETE",
            &format!("/servers/{id}"),
            Value::Null,
        )
        .await;
    assert_eq!(
        reader.fault().1,
        "Policy doesn't allow os_compute_api:servers:delete to be performed."
    );
    assert_eq!(
        cloud
            .get("reader", 1, &format!("/servers/{id}"))
            .await
            .status,
        200
    );
    assert_eq!(
        cloud
            .get("member", 1, "/servers/not-a-uuid")
            .await
            .fault()
            .1,
        "Instance not-a-uuid could not be found."
    );
}

#[tokio::test]
async fn metadata_and_tags_want_a_server_that_is_well() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}/metadata");
    let described = json!({"metadata": {"k": "v"}});
    let described = cloud.send("member", 90, "POST", &path, described).await;
    assert_eq!(described.status, 200, "{}", described.text);
    finish(&cloud, &id, VmState::Rescued).await;
    // What is not there is not there, whatever the server does.
    let gone = format!("{path}/gone");
    let answer = cloud.send("member", 90, "DELETE", &gone, Value::Null).await;
    assert_eq!(answer.status, 404, "{}", answer.text);
    let refused =
        |name: &str| format!("Cannot '{name}' instance {id} while it is in vm_state rescued");
    let table = [
        (
            "POST",
            "metadata",
            json!({"metadata": {}}),
            "update metadata",
        ),
        ("DELETE", "metadata/k", Value::Null, "delete metadata"),
        ("PUT", "tags/t,", Value::Null, "update tag"),
        ("PUT", "tags", json!({"tags": []}), "update tags"),
        ("DELETE", "tags/t", Value::Null, "delete tag"),
        ("DELETE", "tags", Value::Null, "delete tags"),
    ];
    for (verb, what, body, name) in table {
        let path = format!("/servers/{id}/{what}");
        let answer = cloud.send("member", 90, verb, &path, body).await;
        assert_eq!(answer.status, 409, "{verb} {what}");
        assert_eq!(answer.fault().1, refused(name));
    }
}

#[tokio::test]
async fn metadata_goes_also_where_it_is_over_the_quota() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    super::server_create::enabled_host(&cloud).await;
    let path = format!("/servers/{id}/metadata");
    let add = async |items: Value| {
        let body = json!({ "metadata": items });
        let answer = cloud.send("member", 90, "POST", &path, body).await;
        answer.status.as_u16()
    };
    assert_eq!(add(json!({"a": "1", "b": "2", "c": "3"})).await, 200);
    let quotas = format!("/os-quota-sets/{}", super::harness::DEMO);
    let limits = json!({"quota_set": {"metadata_items": 1}});
    let lowered = cloud.send("admin", 90, "PUT", &quotas, limits).await;
    assert_eq!(lowered.status, 200, "{}", lowered.text);
    assert_eq!(add(json!({"a": "2"})).await, 403);
    let one = format!("{path}/a");
    let gone = cloud.send("member", 90, "DELETE", &one, Value::Null).await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    // A rebuild that names none leaves them alone.
    let action = format!("/servers/{id}/action");
    let rebuild = async |more: Value| {
        let mut wanted = json!({ "imageRef": super::harness::IMAGE });
        for (name, value) in more.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        let body = json!({ "rebuild": wanted });
        let answer = cloud.send("member", 90, "POST", &action, body).await;
        (answer.status.as_u16(), answer.text)
    };
    let (status, words) = rebuild(json!({"metadata": {"a": "1", "b": "2"}})).await;
    assert_eq!(status, 403, "{words}");
    let (status, words) = rebuild(json!({})).await;
    assert_eq!(status, 202, "{words}");
}

/// PostgreSQL has no text with it.
#[tokio::test]
async fn the_character_nul_is_refused() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}");
    for (method, path, body) in [
        ("PUT", format!("{path}/tags/a%00b"), Value::Null),
        ("PUT", format!("{path}/tags"), json!({ "tags": ["a\0b"] })),
        (
            "POST",
            format!("{path}/metadata"),
            json!({ "metadata": { "k": "a\0b" } }),
        ),
        (
            "POST",
            format!("{path}/action"),
            json!({ "lock": { "locked_reason": "a\0b" } }),
        ),
        ("GET", "/servers?tags=a%00b".to_owned(), Value::Null),
    ] {
        let answer = cloud.send("member", 90, method, &path, body).await;
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.text);
    }
    // A backslash before it makes it six other characters.
    let body = json!({ "metadata": { "k": "a\\u0000b" } });
    let answer = cloud
        .send("member", 90, "POST", &format!("{path}/metadata"), body)
        .await;
    assert_eq!(answer.json()["metadata"]["k"], "a\\u0000b");
}

#[tokio::test]
async fn metadata_tags_and_names() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}");
    let put = cloud
        .send(
            "member",
            90,
            "PUT",
            &path,
            json!({"server": {"name": "b", "description": "d", "hostname": "hh"}}),
        )
        .await;
    assert_eq!(put.status, 200, "{}", put.text);
    assert_eq!(
        (
            &put.json()["server"]["name"],
            &put.json()["server"]["OS-EXT-SRV-ATTR:hostname"]
        ),
        (&json!("b"), &json!("hh"))
    );
    let old = cloud
        .send("member", 1, "PUT", &path, json!({"server": {"name": "c"}}))
        .await
        .json();
    assert!(old["server"].get("key_name").is_none(), "short below 2.75");

    let set = cloud
        .send(
            "member",
            1,
            "POST",
            &format!("{path}/metadata"),
            json!({"metadata": {"k": "v", "l": "w"}}),
        )
        .await;
    assert_eq!(set.json()["metadata"], json!({"k": "v", "l": "w"}));
    assert_eq!(
        cloud
            .send(
                "member",
                1,
                "DELETE",
                &format!("{path}/metadata/l"),
                Value::Null
            )
            .await
            .status,
        204
    );
    assert_eq!(
        cloud
            .get("member", 1, &format!("{path}/metadata/zz"))
            .await
            .fault()
            .1,
        "Metadata item was not found"
    );
    let other = cloud
        .send(
            "member",
            1,
            "PUT",
            &format!("{path}/metadata/a"),
            json!({"meta": {"b": "1"}}),
        )
        .await;
    assert_eq!(other.fault().1, "Request body and URI mismatch");

    let first = cloud
        .send("member", 26, "PUT", &format!("{path}/tags/t1"), Value::Null)
        .await;
    assert_eq!(
        (
            first.status.as_u16(),
            first.headers["location"].to_str().unwrap()
        ),
        (
            201,
            format!("http://cloud:8774/v2.1{path}/tags/t1").as_str()
        )
    );
    assert_eq!(
        cloud
            .send("member", 26, "PUT", &format!("{path}/tags/t1"), Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(
        cloud
            .get("member", 26, &format!("{path}/tags/t9"))
            .await
            .fault()
            .1,
        format!("Server {id} has no tag 't9'")
    );
    let bad = cloud
        .send(
            "member",
            26,
            "PUT",
            &format!("{path}/tags"),
            json!({"tags": ["a/b"]}),
        )
        .await;
    assert_eq!(
        bad.fault().1,
        "Invalid input for field/attribute 0. Value: a/b. 'a/b' does not match '^[^,/]*$'"
    );
    assert_eq!(
        names(&cloud.get("member", 26, "/servers?tags=t1").await.json()),
        ["c"]
    );
    assert_eq!(
        names(&cloud.get("member", 26, "/servers?not-tags=t1").await.json()),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn deletion() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    let path = format!("/servers/{id}");
    assert_eq!(
        cloud
            .send("member", 1, "DELETE", &path, Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(
        cloud.get("member", 1, &path).await.json()["server"]["OS-EXT-STS:task_state"],
        "deleting"
    );
    assert_eq!(
        cloud
            .send("member", 1, "DELETE", &path, Value::Null)
            .await
            .status,
        204,
        "repeatable until it is gone"
    );
    let uuid: ServerId = id.parse().unwrap();
    cloud
        .store
        .write(move |tx| db::instances::mark_deleted(tx, uuid, Timestamp::now()))
        .await
        .unwrap();
    assert_eq!(
        cloud
            .send("member", 1, "DELETE", &path, Value::Null)
            .await
            .status,
        404
    );
    assert_eq!(
        cloud
            .get("member", 1, &format!("{path}/os-instance-actions"))
            .await
            .status,
        404
    );
    assert_eq!(
        cloud
            .get("member", 21, &format!("{path}/os-instance-actions"))
            .await
            .status,
        200
    );
    let list = cloud
        .get("admin", 1, "/servers/detail?deleted=true&all_tenants=1")
        .await
        .json();
    assert_eq!(list["servers"][0]["status"], "DELETED");
}

#[tokio::test]
async fn rescues_that_name_no_image_are_from_the_configured_one() {
    let missing = "6a54f3c0-3f5e-4b3a-9f0e-1f6f0f0e2b11";
    let cloud = cloud_with(crate::Config {
        rescue_image: Some(missing.to_owned()),
        ..crate::Config::default()
    })
    .await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    host_is_up(&cloud).await;
    let action = format!("/servers/{id}/action");
    let rescue = async |body: Value| {
        let body = json!({ "rescue": body });
        cloud.send("member", 90, "POST", &action, body).await
    };
    let refused = rescue(Value::Null).await;
    let words = format!("Requested rescue image '{missing}' is not supported");
    assert_eq!(refused.fault(), ("badRequest".to_owned(), words));
    let named = json!({ "rescue_image_ref": super::harness::IMAGE });
    let answer = rescue(named).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn an_interface_with_an_address_that_is_taken() {
    use super::harness::{ADDRESS, NETWORK, SERVER_THERE};
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}/os-interface");
    let fixed = json!([{ "ip_address": ADDRESS }]);
    let body = json!({ "interfaceAttachment": { "net_id": NETWORK, "fixed_ips": fixed } });
    let refused = cloud.send("member", 90, "POST", &path, body).await;
    let words = format!("Fixed IP address {ADDRESS} is already in use on instance {SERVER_THERE}.");
    let wanted = ("conflictingRequest".to_owned(), words);
    assert_eq!((refused.status.as_u16(), refused.fault()), (409, wanted));
}

/// What the network service refused for the sake of the request is answered so, as in Nova; a host's trouble is a 500.
#[tokio::test]
async fn an_interface_that_was_refused_is_answered_with_the_reason() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}/os-interface");
    let fixed = json!([{ "ip_address": "192.0.2.9" }]);
    let body =
        json!({ "interfaceAttachment": { "net_id": super::harness::NETWORK, "fixed_ips": fixed } });
    let server: ServerId = id.parse().unwrap();
    let general = format!("Failed to attach network adapter device to {id}");
    for (code, status, name, words) in [
        (400, 400, "badRequest", "Invalid input received: no."),
        (
            409,
            409,
            "conflictingRequest",
            "Fixed IP 192.0.2.9 is already in use.",
        ),
        (403, 403, "forbidden", "Maximum number of ports exceeded"),
        (500, 500, "computeFault", "The host could not do it."),
    ] {
        let flow = async {
            let looking = move |tx: &mut sql::Tx<'_>| db::instances::get(tx, server);
            let server = loop {
                let found: Result<Option<db::instances::Instance>, sql::Error> =
                    cloud.store.read(looking).await;
                let found = found.unwrap().unwrap();
                if found.task_id.is_some() {
                    break found;
                }
                tokio::task::yield_now().await;
            };
            let failed = db::instances::Fault {
                code,
                message: words.to_owned(),
                details: None,
                created: types::Timestamp::now(),
            };
            let change = db::instances::Change {
                task_id: Some(None),
                fault: Some(Some(failed)),
                ..db::instances::Change::default()
            };
            let writing = cloud.store.write(move |tx| {
                let expected = db::instances::Expected::Generation(server.generation);
                let now = types::Timestamp::now();
                db::instances::transition(tx, server.id, expected, &change, now)
            });
            let written: Result<bool, sql::Error> = writing.await;
            assert!(written.unwrap());
        };
        let asking = cloud.send("member", 90, "POST", &path, body.clone());
        let both = async { tokio::join!(asking, flow) };
        let limit = std::time::Duration::from_secs(60);
        let (answer, ()) = tokio::time::timeout(limit, both).await.unwrap();
        let told = if status == 500 {
            general.as_str()
        } else {
            words
        };
        assert_eq!(
            (answer.status.as_u16(), answer.fault()),
            (status, (name.to_owned(), told.to_owned()))
        );
    }
}

/// The network service goes away after the request was accepted, and the interface comes all the same: that is no 503.
#[tokio::test]
async fn an_interface_that_has_come_is_answered_when_it_can_be_shown() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}/os-interface");
    let body = json!({ "interfaceAttachment": { "net_id": super::harness::NETWORK } });
    let server: ServerId = id.parse().unwrap();
    let flow = async {
        let accepted = async || -> bool {
            let reading = cloud
                .store
                .read(move |tx| db::instances::get(tx, server))
                .await;
            let found: Result<Option<db::instances::Instance>, sql::Error> = reading;
            found.unwrap().unwrap().task_id.is_some()
        };
        while !accepted().await {
            tokio::task::yield_now().await;
        }
        *cloud.network_away.lock().unwrap() = Some(0);
        let interface = db::instances::Interface {
            port_id: super::harness::PORT.to_owned(),
            network_id: super::harness::NETWORK.to_owned(),
            network_name: "private".to_owned(),
            mac: "fa:16:3e:00:00:01".to_owned(),
            mtu: 1450,
            addresses: Vec::new(),
            preexisting: false,
            tag: None,
        };
        let writing = cloud.store.write(move |tx| {
            db::instances::set_network_info(tx, server, std::slice::from_ref(&interface))
        });
        let written: Result<(), sql::Error> = writing.await;
        written.unwrap();
        finish(&cloud, &id, VmState::Active).await;
        while cloud
            .network_away
            .lock()
            .unwrap()
            .is_some_and(|asked| asked == 0)
        {
            tokio::task::yield_now().await;
        }
        *cloud.network_away.lock().unwrap() = None;
    };
    let (answer, ()) = tokio::join!(cloud.send("member", 90, "POST", &path, body), flow);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.json()["interfaceAttachment"]["port_id"],
        super::harness::PORT
    );
}

/// A deletion for good would be none that can be taken back.
#[tokio::test]
async fn a_soft_deletion_waits_for_what_goes_on() {
    let cloud = cloud_with(crate::Config {
        reclaim_seconds: 600,
        ..super::harness::config()
    })
    .await;
    host_is_up(&cloud).await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let path = format!("/servers/{id}");
    let image = json!({"createImage": {"name": "i"}});
    let action = format!("{path}/action");
    let imaged = cloud.send("member", 45, "POST", &action, image).await;
    assert_eq!(imaged.status, 202, "{}", imaged.text);
    let refused = cloud.send("member", 90, "DELETE", &path, json!({})).await;
    let (_, message) = refused.fault();
    assert_eq!(refused.status, 409, "{message}");
    for part in ["'createImage'", "forceDelete"] {
        assert!(message.contains(part), "{message}");
    }
    let forced = json!({"forceDelete": null});
    let forced = cloud.send("member", 90, "POST", &action, forced).await;
    assert_eq!(forced.status, 202, "{}", forced.text);
}
