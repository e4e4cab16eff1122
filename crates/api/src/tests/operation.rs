//! What operators and careful clients need beside Nova's API: rate limits, keys against doubled requests, health,
//! metrics, rules of their own.

use super::harness::Cloud;
use super::server_create::{body, cloud};
use crate::{Config, PolicyFiles, RateLimit};
use serde_json::{Value, json};

#[tokio::test]
async fn rate_limits() {
    let limited = Cloud::with(Config {
        rate_limit: Some(RateLimit {
            requests: 3,
            seconds: 60,
        }),
        ..Config::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(limited.get("member", 1, "/flavors").await.status, 200);
    }
    let refused = limited.get("member", 1, "/flavors").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["retry-after"], "20");
    let fault = &refused.json()["overLimit"];
    assert_eq!(
        (&fault["code"], &fault["retryAfter"]),
        (&json!(429), &json!("20"))
    );
    assert!(
        refused.headers["x-openstack-request-id"]
            .to_str()
            .unwrap()
            .starts_with("req-")
    );
    assert_eq!(
        limited.get("other", 1, "/flavors").await.status,
        200,
        "another token"
    );
    let free = Cloud::new().await;
    for _ in 0..50 {
        assert_eq!(free.get("member", 1, "/flavors").await.status, 200);
    }
}

async fn create(cloud: &Cloud, token: &str, key: &str, body: &Value) -> super::harness::Answer {
    create_at(cloud, "/v2.1/servers", token, key, body).await
}

async fn create_at(
    cloud: &Cloud,
    path: &str,
    token: &str,
    key: &str,
    body: &Value,
) -> super::harness::Answer {
    let headers = [
        ("x-auth-token", token),
        ("openstack-api-version", "compute 2.90"),
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    cloud.raw("POST", path, &headers, &body.to_string()).await
}

#[tokio::test]
async fn the_same_key_makes_one_server() {
    let cloud = cloud().await;
    let wanted = body(json!({"networks": "none"}));
    let first = create(&cloud, "member", "k1", &wanted).await;
    assert_eq!(first.status, 202, "{}", first.text);
    let again = create(&cloud, "member", "k1", &wanted).await;
    assert_eq!(
        (again.status, &again.text, &again.headers["location"]),
        (first.status, &first.text, &first.headers["location"]),
        "with the same password"
    );
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let other = create(
        &cloud,
        "member",
        "k1",
        &body(json!({"networks": "none", "name": "b"})),
    )
    .await;
    assert_eq!(other.status, 422, "{}", other.text);
    assert_eq!(
        create(&cloud, "other", "k1", &wanted).await.status,
        202,
        "another's key"
    );
    assert_eq!(create(&cloud, "member", "k2", &wanted).await.status, 202);
    assert_eq!(create(&cloud, "member", " ", &wanted).await.status, 400);
    let servers = cloud.get("member", 1, "/servers").await.json();
    assert_eq!(servers["servers"].as_array().unwrap().len(), 2);

    let stored = cloud
        .store
        .read(|tx| -> Result<String, sql::Error> {
            tx.query_one(
                "SELECT sealed FROM idempotency_keys WHERE client_key = ? AND location IS NOT NULL",
                &["k2".into()],
            )?
            .get(0)
        })
        .await
        .unwrap();
    assert!(!stored.contains("adminPass"), "kept answers are sealed");
}

#[tokio::test]
async fn a_dry_run_takes_no_key_and_is_told_nothing_under_one() {
    let cloud = cloud().await;
    let wanted = body(json!({"networks": "none"}));
    let dry = "/v2.1/servers?dry_run=true";
    let first = create_at(&cloud, dry, "member", "k", &wanted).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let real = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(real.status, 202, "{}", real.text);
    let again = create_at(&cloud, dry, "member", "k", &wanted).await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert!(again.json()["dry_run"].is_object(), "{}", again.text);
    assert!(!again.headers.contains_key("idempotency-replayed"));
}

/// A process that dies after the commit has not made a server whose answer nobody knows.
#[tokio::test]
async fn a_server_and_its_answer_are_written_at_once() {
    let cloud = cloud().await;
    let wanted = body(json!({"networks": "none"}));
    let trigger = |sql: &'static str| cloud.store.write(move |tx| tx.execute(sql, &[]));
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END";
    let done: Result<u64, sql::Error> = trigger(refuse).await;
    done.unwrap();
    let failed = create(&cloud, "member", "k", &wanted).await;
    assert!(failed.status.is_server_error(), "{}", failed.text);
    let servers = cloud.get("member", 1, "/servers").await.json();
    assert_eq!(servers["servers"], json!([]), "neither without the other");
    trigger("DROP TRIGGER refuse").await.unwrap();
    let made = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(made.status, 202, "{}", made.text);
    // Whatever became of the process since: the answer is there.
    let again = create(&cloud, "member", "k", &wanted).await;
    assert_eq!((again.status, &again.text), (made.status, &made.text));
}

/// The same of actions, of whatever kind.
#[tokio::test]
async fn an_action_and_its_answer_are_written_at_once() {
    let cloud = cloud().await;
    let server = super::server_life::make(&cloud, "member", "a").await;
    super::server_life::finish(&cloud, &server, types::VmState::Active).await;
    let path = format!("/v2.1/servers/{server}/action");
    let write = |sql: &'static str| cloud.store.write(move |tx| tx.execute(sql, &[]));
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END";
    let actions = [
        json!({"os-stop": null}),
        json!({"lock": {"locked_reason": "why"}}),
    ];
    let shown = || async {
        let shown = cloud.get("member", 90, &format!("/servers/{server}")).await;
        let server = &shown.json()["server"];
        json!([server["OS-EXT-STS:task_state"], server["locked"]])
    };
    for (number, action) in actions.iter().enumerate() {
        let key = format!("k{number}");
        let before = shown().await;
        let done: Result<u64, sql::Error> = write(refuse).await;
        done.unwrap();
        let failed = create_at(&cloud, &path, "member", &key, action).await;
        assert!(failed.status.is_server_error(), "{}", failed.text);
        assert_eq!(shown().await, before, "{action}");
        write("DROP TRIGGER refuse").await.unwrap();
        let done = create_at(&cloud, &path, "member", &key, action).await;
        assert_eq!(done.status, 202, "{}", done.text);
        assert_ne!(shown().await, before, "{action}");
        let again = create_at(&cloud, &path, "member", &key, action).await;
        assert_eq!(again.status, 202, "{}", again.text);
        assert_eq!(again.headers["idempotency-replayed"], "true");
    }
}

/// All actions take keys, not those of servers alone: what would be refused the second time is answered as the first time,
/// and what was done is not done again.
#[tokio::test]
async fn actions_of_flavors_and_aggregates_take_keys() {
    let cloud = cloud().await;
    let send = |path: &'static str, body| cloud.send("admin", 90, "POST", path, body);
    let private = json!({ "name": "p", "id": "9", "ram": 1, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false });
    let flavor = json!({ "flavor": private });
    assert_eq!(send("/flavors", flavor).await.status, 200);
    let aggregate = json!({ "aggregate": { "name": "a" } });
    assert_eq!(send("/os-aggregates", aggregate).await.status, 200);
    let access = |project: &str| json!({ "addTenantAccess": { "tenant": project } });
    let metadata = |value: &str| json!({ "set_metadata": { "metadata": { "a": value } } });
    for (path, action, other) in [
        ("/v2.1/flavors/9/action", access("x"), access("y")),
        ("/v2.1/os-aggregates/1/action", metadata("x"), metadata("y")),
    ] {
        let first = create_at(&cloud, path, "admin", path, &action).await;
        assert_eq!(first.status, 200, "{}", first.text);
        assert!(!first.headers.contains_key("idempotency-replayed"));
        let meanwhile = create_at(&cloud, path, "admin", "other", &other).await;
        assert_eq!(meanwhile.status, 200, "{}", meanwhile.text);
        let again = create_at(&cloud, path, "admin", path, &action).await;
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let changed = create_at(&cloud, path, "admin", path, &other).await;
        assert_eq!(changed.status, 422, "{}", changed.text);
        let age = |hours: i64| {
            let then = types::Timestamp(types::Timestamp::now().0 - hours * 3_600_000_000);
            cloud.store.write(move |tx| {
                let sql = "UPDATE idempotency_keys SET created_at = ?";
                tx.execute(sql, &[then.into()])
            })
        };
        let aged: Result<u64, sql::Error> = age(23).await;
        aged.unwrap();
        let kept = create_at(&cloud, path, "admin", path, &action).await;
        assert_eq!(kept.text, first.text, "for a day");
        age(25).await.unwrap();
        let anew = create_at(&cloud, path, "admin", path, &action).await;
        assert!(!anew.headers.contains_key("idempotency-replayed"), "{path}");
        assert_ne!(anew.text, first.text, "{path}");
    }
    let shown = cloud.get("admin", 90, "/os-aggregates/1").await.json();
    assert_eq!(shown["aggregate"]["metadata"]["a"], "x");
    // What was refused did nothing: its key is free.
    let path = "/v2.1/os-aggregates/1/action";
    let add = json!({ "add_host": { "host": "nowhere" } });
    for _ in 0..2 {
        let refused = create_at(&cloud, path, "admin", "refused", &add).await;
        assert_eq!(refused.status, 404, "{}", refused.text);
    }
    let done = create_at(&cloud, path, "admin", "refused", &metadata("z")).await;
    assert_eq!(done.status, 200, "{}", done.text);
}

/// An aggregate or the access to a flavor is not changed when the answer cannot be kept.
#[tokio::test]
async fn what_is_not_a_server_and_its_answer_are_written_at_once() {
    let cloud = cloud().await;
    let aggregate = json!({ "aggregate": { "name": "a" } });
    let made = cloud.send("admin", 90, "POST", "/os-aggregates", aggregate);
    assert_eq!(made.await.status, 200);
    let write = |sql: &'static str| cloud.store.write(move |tx| tx.execute(sql, &[]));
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys BEGIN SELECT RAISE(ABORT, 'no'); END";
    let done: Result<u64, sql::Error> = write(refuse).await;
    done.unwrap();
    let path = "/v2.1/os-aggregates/1/action";
    let action = json!({ "set_metadata": { "metadata": { "a": "b" } } });
    let failed = create_at(&cloud, path, "admin", "k", &action).await;
    assert!(failed.status.is_server_error(), "{}", failed.text);
    let shown = || async { cloud.get("admin", 90, "/os-aggregates/1").await.json() };
    assert_eq!(shown().await["aggregate"]["metadata"], json!({}));
    write("DROP TRIGGER refuse").await.unwrap();
    let done = create_at(&cloud, path, "admin", "k", &action).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(shown().await["aggregate"]["metadata"]["a"], "b");
}

/// What a process that was killed has taken and not done may be asked for again, after a while.
#[tokio::test]
async fn a_key_is_taken_over_from_the_dead() {
    let cloud = cloud().await;
    let wanted = body(json!({"networks": "none"}));
    let taken = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let forget = |since: i64| {
        let then = types::Timestamp(types::Timestamp::now().0 - since * 1_000_000);
        cloud.store.write(move |tx| {
            let sql = "UPDATE idempotency_keys SET status = 0, location = NULL, sealed = NULL, created_at = ?";
            tx.execute(sql, &[then.into()])
        })
    };
    let done: Result<u64, sql::Error> = forget(30).await;
    done.unwrap();
    let waits = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(waits.status, 409, "{}", waits.text);
    forget(61).await.unwrap();
    let other = body(json!({"networks": "none", "name": "b"}));
    assert_eq!(create(&cloud, "member", "k", &other).await.status, 422);
    let done = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(done.status, 202, "{}", done.text);
    assert!(!done.headers.contains_key("idempotency-replayed"));
    let again = create(&cloud, "member", "k", &wanted).await;
    assert_eq!(again.text, done.text);
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free() {
    let cloud = cloud().await;
    let wrong = body(json!({"networks": "none", "flavorRef": "no-such"}));
    assert_eq!(create(&cloud, "member", "k", &wrong).await.status, 400);
    let right = body(json!({"networks": "none"}));
    assert_eq!(create(&cloud, "member", "k", &right).await.status, 202);
}

#[tokio::test]
async fn many_at_once_with_one_key_make_one_server() {
    let cloud = std::sync::Arc::new(cloud().await);
    let wanted = body(json!({"networks": "none"}));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (cloud, wanted) = (std::sync::Arc::clone(&cloud), wanted.clone());
        tasks.spawn(async move { create(&cloud, "member", "k", &wanted).await.status.as_u16() });
    }
    let statuses = tasks.join_all().await;
    assert!(
        statuses.iter().all(|status| [202, 409].contains(status)),
        "{statuses:?}"
    );
    let servers = cloud.get("member", 1, "/servers").await.json();
    assert_eq!(servers["servers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn health() {
    let cloud = Cloud::new().await;
    let alive = cloud.raw("GET", "/healthcheck", &[], "").await;
    assert_eq!((alive.status.as_u16(), alive.text.as_str()), (200, "OK"));
    let ready = cloud.raw("GET", "/healthcheck/ready", &[], "").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    let ready = ready.json();
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["parts"]["database"], "ok, 0 of 0 hosts are up");
    for part in ["identity", "image", "network", "volume"] {
        assert_eq!(ready["parts"][part], "ok");
    }
}

#[tokio::test]
async fn without_its_volume_service_it_is_not_ready() {
    let cloud = Cloud::new().await;
    cloud.volumes.set_down(true);
    let ready = cloud.raw("GET", "/healthcheck/ready", &[], "").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert_eq!(ready.json()["parts"]["volume"], "does not answer");
}

#[tokio::test]
async fn metrics() {
    let cloud = cloud().await;
    cloud
        .store
        .write(|tx| {
            let now = types::Timestamp::now();
            db::hosts::beat(tx, &"h\"1".into(), "nova-compute", None, now)
        })
        .await
        .unwrap();
    cloud.get("member", 1, "/flavors").await;
    cloud.get("member", 1, "/flavors/no-such").await;
    cloud.get("member", 1, "/nothing").await;
    super::server_life::make(&cloud, "member", "a").await;
    let quota = format!("/os-quota-sets/{}", super::harness::DEMO);
    let cores = serde_json::json!({ "quota_set": { "cores": 7 } });
    assert_eq!(
        cloud.send("admin", 1, "PUT", &quota, cores).await.status,
        200
    );
    let page = cloud.metrics().await;
    for (name, value) in [
        ("instances_max", 10),
        ("instances_used", 1),
        ("vcpus_max", 7),
        ("vcpus_used", 1),
    ] {
        let project = super::harness::DEMO;
        let line = format!(
            "openstack_nova_limits_{name}{{tenant=\"{project}\",tenant_id=\"{project}\"}} {value}"
        );
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    assert!(
        page.contains("openstack_nova_flavor{id=\"1\",name="),
        "{page}"
    );
    for line in [
        "openstack_nova_up 1",
        "openstack_nova_security_groups 2",
        "openstack_nova_flavors 1",
        "openstack_nova_total_vms 1",
        r#"kilonova_api_requests_total{method="GET",route="/flavors",action="",status="200"} 1"#,
        r#"kilonova_api_requests_total{method="GET",route="/flavors/{id}",action="",status="404"} 1"#,
        r#"kilonova_api_requests_total{method="",route="",action="",status="404"} 1"#,
        r#"kilonova_api_request_seconds_count{method="GET",route="/flavors",action=""} 1"#,
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    let project = super::harness::DEMO;
    let quota = |resource, kind, value| {
        let labels = format!("type=\"{kind}\",tenant=\"{project}\",tenant_id=\"{project}\"");
        format!("openstack_nova_quota_{resource}{{{labels}}} {value}")
    };
    for line in [
        quota("cores", "limit", 7),
        quota("cores", "in_use", 1),
        quota("instances", "limit", 10),
        quota("key_pairs", "limit", 100),
        quota("server_groups", "reserved", 0),
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    let of_servers = |name: &str| {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("openstack_nova_server_{name}{{")));
        line.unwrap().to_owned()
    };
    let status = of_servers("status");
    assert!(status.contains(",status=\"BUILD\",name=\"a\","), "{status}");
    assert!(
        status.contains(",instance_libvirt=\"instance-00000001\"} 1"),
        "{status}"
    );
    assert!(of_servers("local_gb").starts_with("openstack_nova_server_local_gb{name=\"a\",id="));
    let state = page
        .lines()
        .find(|line| line.starts_with("openstack_nova_agent_state{"));
    let state = state.unwrap();
    assert!(
        state
            .contains(r#"hostname="h\"1",service="nova-compute",adminState="enabled",zone="nova""#),
        "{state}"
    );
    assert!(state.ends_with(" 1"), "{state}");
    *cloud.network_away.lock().unwrap() = Some(0);
    let without = cloud.metrics().await;
    assert!(!without.contains("openstack_nova_security_groups"));
    assert!(without.contains("openstack_nova_total_vms 1"));
    assert_eq!(
        cloud.raw("GET", "/metrics", &[], "").await.status,
        300,
        "not on the API's own port"
    );
}

#[tokio::test]
async fn rules_of_the_operator() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("policy.yaml");
    std::fs::write(
        &file,
        "\"os_compute_api:os-services:list\": \"role:reader\"\n",
    )
    .unwrap();
    let cloud = Cloud::with(Config {
        policy_files: PolicyFiles {
            file: Some(file.clone()),
            folder: None,
        },
        ..Config::default()
    })
    .await;
    assert_eq!(cloud.get("reader", 1, "/os-services").await.status, 200);
    std::fs::remove_file(&file).unwrap();
    for _ in 0..600 {
        if cloud.get("reader", 1, "/os-services").await.status == 403 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the rules are still those of the file that is gone");
}
