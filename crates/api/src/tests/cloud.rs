//! Flavors, key pairs, quotas, groups, aggregates.

use super::harness::{Answer, Cloud, DEMO};
use serde_json::{Value, json};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILKtINNmdMwrgtzsI5Z0wKWrdk0rjNl1Hi4SvhMRdpg a@b";

#[tokio::test]
async fn flavors() {
    let cloud = Cloud::new().await;
    let body = |name: &str, id: &str| json!({"flavor": {"name": name, "id": id, "ram": 64, "vcpus": 1, "disk": "1"}});
    let made = cloud
        .send("admin", 104, "POST", "/flavors", body("m1.nano", "n1"))
        .await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert_eq!(made.json()["flavor"]["swap"], 0);
    assert_eq!(
        made.json()["flavor"]["links"][0]["href"],
        "http://cloud:8774/v2.1/flavors/n1"
    );
    for (name, id, message) in [
        ("m1.nano", "n2", "Flavor with name m1.nano already exists."),
        ("x", "n1", "Flavor with ID n1 already exists."),
    ] {
        let again = cloud
            .send("admin", 104, "POST", "/flavors", body(name, id))
            .await;
        assert_eq!(
            (again.status.as_u16(), again.fault().1.as_str()),
            (409, message)
        );
    }
    for id in ["n2", "n3"] {
        cloud
            .send("admin", 104, "POST", "/flavors", body(id, id))
            .await;
    }
    let page = cloud.get("member", 1, "/flavors?limit=2").await.json();
    assert_eq!(page["flavors"].as_array().unwrap().len(), 2);
    assert_eq!(
        page["flavors_links"][0]["href"],
        "http://cloud:8774/v2.1/flavors?limit=2&marker=n2"
    );
    let rest = cloud
        .get("member", 1, "/flavors/detail?limit=2&marker=n2")
        .await
        .json();
    assert_eq!(rest["flavors"][0]["id"], "n3");
    assert!(rest.get("flavors_links").is_none());
    assert_eq!(
        cloud
            .get("member", 1, "/flavors?marker=nope")
            .await
            .fault()
            .1,
        "marker [nope] not found"
    );
    assert_eq!(
        cloud.get("member", 1, "/flavors/nope").await.fault().1,
        "Flavor nope could not be found."
    );
    let spec = cloud
        .send(
            "admin",
            61,
            "POST",
            "/flavors/n1/os-extra_specs",
            json!({"extra_specs": {"hw:cpu_policy": "shared"}}),
        )
        .await;
    assert_eq!(spec.status, 200, "{}", spec.text);
    assert_eq!(
        cloud.get("member", 61, "/flavors/n1").await.json()["flavor"]["extra_specs"]["hw:cpu_policy"],
        "shared"
    );
    let wrong = cloud
        .send(
            "admin",
            86,
            "POST",
            "/flavors/n1/os-extra_specs",
            json!({"extra_specs": {"hw:bogus": "1"}}),
        )
        .await;
    assert_eq!(wrong.status, 400);
    assert_eq!(
        cloud
            .send("admin", 1, "DELETE", "/flavors/n1", Value::Null)
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn specs_that_are_changed_at_once_are_all_there() {
    let cloud = std::sync::Arc::new(Cloud::new().await);
    let flavor = json!({"flavor": {"name": "f", "id": "f", "ram": 64, "vcpus": 1, "disk": 1}});
    cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    let path = "/flavors/f/os-extra_specs";
    let old = json!({"extra_specs": {"old0": "x", "old1": "x", "old2": "x", "old3": "x"}});
    cloud.send("admin", 1, "POST", path, old).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..12 {
        let cloud = std::sync::Arc::clone(&cloud);
        tasks.spawn(async move {
            let one = format!("{path}/old{number}");
            let spec = json!({"extra_specs": {format!("new{number}"): "y"}});
            let (method, path, body) = match number {
                0..4 => ("DELETE", one.as_str(), Value::Null),
                _ => ("POST", path, spec),
            };
            let answer = cloud.send("admin", 1, method, path, body).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        });
    }
    tasks.join_all().await;
    let specs = cloud.get("admin", 1, path).await.json()["extra_specs"].clone();
    let names: Vec<String> = specs.as_object().unwrap().keys().cloned().collect();
    let mut wanted: Vec<String> = (4..12).map(|number| format!("new{number}")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    let gone = format!("{path}/old0");
    let again = cloud.send("admin", 1, "DELETE", &gone, Value::Null).await;
    assert_eq!(
        (again.status.as_u16(), again.fault().1.as_str()),
        (404, "Flavor f has no extra specs with key old0.")
    );
}

#[tokio::test]
async fn private_flavors() {
    let cloud = Cloud::new().await;
    let body = json!({"flavor": {"name": "p", "id": "p", "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    cloud.send("admin", 1, "POST", "/flavors", body).await;
    assert_eq!(cloud.get("member", 1, "/flavors/p").await.status, 404);
    let access = cloud.get("admin", 1, "/flavors/p/os-flavor-access").await;
    assert_eq!(
        access.json(),
        json!({"flavor_access": []}),
        "not even for its maker"
    );
    let add = cloud
        .send(
            "admin",
            7,
            "POST",
            "/flavors/p/action",
            json!({"addTenantAccess": {"tenant": DEMO}}),
        )
        .await;
    assert_eq!(add.status, 200, "{}", add.text);
    assert_eq!(cloud.get("member", 1, "/flavors/p").await.status, 200);
    assert_eq!(
        cloud.get("other", 1, "/flavors").await.json()["flavors"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let again = cloud
        .send(
            "admin",
            7,
            "POST",
            "/flavors/p/action",
            json!({"addTenantAccess": {"tenant": DEMO}}),
        )
        .await;
    assert_eq!(again.status, 409);
}

/// Ids of flavors as a list shows them.
async fn listed(cloud: &Cloud, token: &str, path: &str) -> Vec<String> {
    let list = cloud.get(token, 7, path).await.json()["flavors"].clone();
    let ids = list.as_array().unwrap().iter();
    ids.map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn administrators_see_the_private_flavors_of_their_project() {
    let cloud = Cloud::new().await;
    for (id, public) in [("open", true), ("ours", false), ("theirs", false)] {
        let flavor = json!({"name": id, "id": id, "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": public});
        let made = cloud
            .send("admin", 7, "POST", "/flavors", json!({ "flavor": flavor }))
            .await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
    for (id, project) in [
        ("ours", "ad000000000000000000000000000000"),
        ("theirs", DEMO),
    ] {
        let path = format!("/flavors/{id}/action");
        let add = json!({"addTenantAccess": {"tenant": project}});
        let added = cloud.send("admin", 7, "POST", &path, add).await;
        assert_eq!(added.status, 200, "{}", added.text);
    }
    for (query, wanted) in [
        ("", &["open", "ours"][..]),
        ("?is_public=true", &["open", "ours"]),
        ("?is_public=false", &["ours", "theirs"]),
        ("?is_public=none", &["open", "ours", "theirs"]),
    ] {
        for path in ["/flavors", "/flavors/detail"] {
            let path = format!("{path}{query}");
            assert_eq!(listed(&cloud, "admin", &path).await, wanted, "{path}");
        }
    }
    assert_eq!(
        listed(&cloud, "member", "/flavors").await,
        ["open", "theirs"]
    );
    assert_eq!(listed(&cloud, "other", "/flavors").await, ["open"]);
}

#[tokio::test]
async fn access_of_a_project_that_is_gone_can_be_removed() {
    let cloud = Cloud::new().await;
    let body = json!({"flavor": {"name": "p", "id": "p", "ram": 64, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    cloud.send("admin", 1, "POST", "/flavors", body).await;
    let grant = |tx: &mut sql::Tx<'_>| -> Result<bool, sql::Error> {
        let flavor = db::flavors::visible(tx, &"p".into(), None)?.unwrap();
        db::flavors::add_access(tx, flavor.row, "nowhere")
    };
    assert!(cloud.store.write(grant).await.unwrap());
    let act = async |action: &str| {
        let body = json!({ action: { "tenant": "nowhere" } });
        cloud
            .send("admin", 7, "POST", "/flavors/p/action", body)
            .await
    };
    assert_eq!(act("addTenantAccess").await.status, 400);
    let removed = act("removeTenantAccess").await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    assert_eq!(removed.json(), json!({ "flavor_access": [] }));
    let again = act("removeTenantAccess").await;
    assert_eq!(
        (again.status.as_u16(), again.fault().1.as_str()),
        (404, "Flavor access not found for p / nowhere combination.")
    );
}

#[tokio::test]
async fn key_pairs() {
    let cloud = Cloud::new().await;
    let body = json!({"keypair": {"name": "k", "public_key": KEY}});
    assert_eq!(
        cloud
            .send("member", 92, "POST", "/os-keypairs", body.clone())
            .await
            .status,
        201
    );
    let again = cloud.send("member", 92, "POST", "/os-keypairs", body).await;
    assert_eq!(
        (again.status.as_u16(), again.fault().1.as_str()),
        (409, "Key pair 'k' already exists.")
    );
    let shown = cloud.get("member", 2, "/os-keypairs/k").await.json();
    assert_eq!(
        (&shown["keypair"]["type"], &shown["keypair"]["user_id"]),
        (&json!("ssh"), &json!("demo-user"))
    );
    assert_eq!(
        cloud.get("other", 2, "/os-keypairs/k").await.fault().1,
        "Keypair k not found for user other-user"
    );
    assert_eq!(
        cloud
            .get("other", 10, "/os-keypairs/k?user_id=demo-user")
            .await
            .status,
        403
    );
    assert_eq!(
        cloud
            .get("admin", 10, "/os-keypairs/k?user_id=demo-user")
            .await
            .status,
        200
    );
    // No name at all is one's own.
    let own = cloud.get("member", 10, "/os-keypairs?user_id=").await;
    assert_eq!(own.json()["keypairs"][0]["keypair"]["name"], "k");
    let list = cloud.get("member", 35, "/os-keypairs?limit=1").await.json();
    assert_eq!(
        list["keypairs_links"][0]["href"],
        "http://cloud:8774/v2.1/os-keypairs?limit=1&marker=k"
    );
    let bad = cloud
        .send(
            "member",
            1,
            "POST",
            "/os-keypairs",
            json!({"keypair": {"name": "a", "public_key": "junk"}}),
        )
        .await;
    assert_eq!(
        bad.fault().1,
        "Keypair data is invalid: failed to generate fingerprint"
    );
    assert_eq!(
        cloud
            .send(
                "member",
                92,
                "POST",
                "/os-keypairs",
                json!({"keypair": {"name": "a"}})
            )
            .await
            .status,
        400
    );
    assert_eq!(
        cloud
            .send("member", 1, "DELETE", "/os-keypairs/k", Value::Null)
            .await
            .status,
        202
    );
    assert_eq!(
        cloud
            .send("member", 2, "DELETE", "/os-keypairs/k", Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn quotas_and_limits() {
    let cloud = Cloud::new().await;
    let own = format!("/os-quota-sets/{DEMO}");
    let shown = cloud.get("member", 57, &own).await.json();
    assert_eq!(shown["quota_set"]["cores"], 20);
    assert!(shown["quota_set"].get("injected_files").is_none());
    let low = cloud
        .send(
            "admin",
            57,
            "PUT",
            &own,
            json!({"quota_set": {"instances": -2}}),
        )
        .await;
    assert_eq!(
        low.fault().1,
        "Invalid input for field/attribute instances. Value: -2. -2 is less than the minimum of -1"
    );
    let set = cloud
        .send(
            "admin",
            57,
            "PUT",
            &own,
            json!({"quota_set": {"cores": "40", "ram": -1}}),
        )
        .await;
    assert_eq!(set.status, 200, "{}", set.text);
    let limits = cloud.get("member", 57, "/limits").await.json();
    assert_eq!(
        (
            &limits["limits"]["absolute"]["maxTotalCores"],
            &limits["limits"]["absolute"]["maxTotalRAMSize"]
        ),
        (&json!(40), &json!(-1))
    );
    assert_eq!(
        cloud.get("other", 57, "/limits").await.json()["limits"]["absolute"]["maxTotalCores"],
        20
    );
    assert_eq!(
        cloud
            .get("member", 1, &format!("{own}/detail"))
            .await
            .json()["quota_set"]["cores"]["limit"],
        40
    );
    assert_eq!(
        cloud
            .send("admin", 1, "DELETE", &own, Value::Null)
            .await
            .status,
        202
    );
    assert_eq!(
        cloud.get("member", 57, &own).await.json()["quota_set"]["cores"],
        20
    );
    let put = async |path: &str, set: Value| {
        let body = json!({ "quota_set": set });
        cloud.send("admin", 57, "PUT", path, body).await
    };
    let of_user = format!("{own}?user_id=u");
    let set = put(&of_user, json!({"cores": 15})).await;
    assert_eq!(set.json()["quota_set"]["cores"], 15);
    let more = put(&format!("{own}?user_id=v"), json!({"ram": 1, "cores": 6})).await;
    assert_eq!(
        (more.status.as_u16(), more.fault().1.as_str()),
        (
            400,
            "Quota limit 6 for cores must be less than or equal to 5."
        )
    );
    let shown = cloud.get("admin", 57, &format!("{own}?user_id=v")).await;
    assert_eq!(shown.json()["quota_set"]["ram"], 51200, "all or nothing");
    let less = put(&own, json!({"cores": 14})).await;
    assert_eq!(
        less.fault().1,
        "Quota limit 14 for cores must be greater than or equal to already used and reserved 15."
    );
    let forced = put(&own, json!({"cores": 14, "force": true})).await;
    assert_eq!(forced.json()["quota_set"]["cores"], 14);
    let gone = cloud.send("admin", 57, "DELETE", &own, Value::Null).await;
    assert_eq!(gone.status, 202);
    let shown = cloud.get("admin", 57, &of_user).await.json();
    assert_eq!(shown["quota_set"]["cores"], 20, "of its users too");
    let class = cloud
        .send(
            "admin",
            57,
            "PUT",
            "/os-quota-class-sets/default",
            json!({"quota_class_set": {"cores": 7}}),
        )
        .await;
    assert_eq!(class.status, 200, "{}", class.text);
    assert_eq!(
        cloud.get("member", 57, &own).await.json()["quota_set"]["cores"],
        7
    );
}

#[tokio::test]
async fn groups_and_aggregates() {
    let cloud = Cloud::new().await;
    let soft = json!({"server_group": {"name": "g", "policies": ["soft-affinity"]}});
    let early = cloud
        .send("member", 14, "POST", "/os-server-groups", soft.clone())
        .await;
    assert_eq!(
        early.fault().1,
        "Invalid input for field/attribute 0. Value: soft-affinity. 'soft-affinity' is not one of ['anti-affinity', 'affinity']"
    );
    let made = cloud
        .send("member", 15, "POST", "/os-server-groups", soft)
        .await
        .json();
    let id = made["server_group"]["id"].as_str().unwrap();
    assert_eq!(
        cloud
            .get("member", 64, &format!("/os-server-groups/{id}"))
            .await
            .json()["server_group"]["policy"],
        "soft-affinity"
    );
    assert_eq!(
        cloud
            .get("other", 64, &format!("/os-server-groups/{id}"))
            .await
            .status,
        404
    );
    assert_eq!(
        cloud
            .send(
                "member",
                1,
                "DELETE",
                &format!("/os-server-groups/{id}"),
                Value::Null
            )
            .await
            .status,
        204
    );

    let body = json!({"aggregate": {"name": "agg", "availability_zone": "z1"}});
    let made = cloud
        .send("admin", 41, "POST", "/os-aggregates", body.clone())
        .await
        .json();
    assert!(made["aggregate"]["uuid"].is_string());
    assert_eq!(
        cloud
            .send("admin", 41, "POST", "/os-aggregates", body)
            .await
            .fault()
            .1,
        "Aggregate agg already exists."
    );
    assert_eq!(
        cloud.get("admin", 1, "/os-aggregates/abc").await.fault().1,
        "Invalid input received: id must be an integer"
    );
    assert_eq!(
        cloud.get("admin", 1, "/os-aggregates/99").await.fault().1,
        "Aggregate 99 could not be found."
    );
    let set = json!({"set_metadata": {"metadata": {"ssd": "true", "other": null}}});
    let changed = cloud
        .send("admin", 1, "POST", "/os-aggregates/1/action", set)
        .await
        .json();
    assert_eq!(
        changed["aggregate"]["metadata"],
        json!({"ssd": "true", "availability_zone": "z1"})
    );
    assert!(changed["aggregate"]["updated_at"].is_string());
    assert_eq!(
        cloud
            .send("admin", 1, "DELETE", "/os-aggregates/1", Value::Null)
            .await
            .status,
        200
    );
}

/// Makes a server group.
async fn group(cloud: &Cloud, token: &str) -> Answer {
    let body = json!({"server_group": {"name": "g", "policy": "anti-affinity"}});
    cloud
        .send(token, 64, "POST", "/os-server-groups", body)
        .await
}

/// Sets limits of the demo project, or of a user in it.
async fn limit(cloud: &Cloud, user: Option<&str>, set: Value) {
    let user = user.map_or_else(String::new, |user| format!("?user_id={user}"));
    let path = format!("/os-quota-sets/{DEMO}{user}");
    let body = json!({ "quota_set": set });
    let done = cloud.send("admin", 57, "PUT", &path, body).await;
    assert_eq!(done.status, 200, "{}", done.text);
}

#[tokio::test]
async fn only_administrators_see_the_groups_of_all_projects() {
    let cloud = Cloud::new().await;
    for token in ["member", "other"] {
        assert_eq!(group(&cloud, token).await.status, 200);
    }
    for (token, seen) in [("member", 1), ("other", 1), ("plain", 0), ("admin", 2)] {
        let list = cloud
            .get(token, 64, "/os-server-groups?all_projects=1")
            .await;
        assert_eq!(list.status, 200, "{token}: {}", list.text);
        let groups = list.json()["server_groups"].as_array().unwrap().len();
        assert_eq!(groups, seen, "{token}");
    }
}

#[tokio::test]
async fn limits_of_groups_hold_for_users_and_their_project() {
    let cloud = Cloud::new().await;
    limit(&cloud, None, json!({ "server_groups": 3 })).await;
    limit(&cloud, Some("demo-user"), json!({ "server_groups": 1 })).await;
    let make = async |token: &str| group(&cloud, token).await.status.as_u16();
    assert_eq!(make("manager").await, 200);
    assert_eq!(make("member").await, 200, "the other one is not the user's");
    assert_eq!(make("member").await, 403);
    assert_eq!(make("manager").await, 200);
    assert_eq!(make("manager").await, 403, "the project has three");
}

#[tokio::test]
async fn the_limit_of_a_groups_members_is_each_users_own() {
    let cloud = super::server_create::cloud().await;
    limit(
        &cloud,
        Some("demo-user"),
        json!({ "server_group_members": 1 }),
    )
    .await;
    let made = group(&cloud, "manager").await.json();
    let id = made["server_group"]["id"].clone();
    let boot = async |token: &str| {
        let mut body = super::server_create::body(json!({ "networks": "none" }));
        body["os:scheduler_hints"] = json!({ "group": id });
        let made = cloud.send(token, 64, "POST", "/servers", body).await;
        (made.status.as_u16(), made.fault().1)
    };
    let refused = (403, "Quota exceeded, too many servers in group".to_owned());
    assert_eq!(boot("manager").await.0, 202);
    assert_eq!(boot("member").await.0, 202, "the first of this user");
    assert_eq!(boot("member").await, refused);
    assert_eq!(boot("manager").await.0, 202);
}
