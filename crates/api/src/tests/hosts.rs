//! Aggregates and services of hosts that have servers, and what goes with a host that is forgotten.

use super::harness::{Answer, Cloud, DEMO};
use super::samples::facts;
use super::server_create::cloud;
use super::server_life::{finish, make};
use db::hosts::Ratios;
use db::migrations::{End, Kind, NewMigration, Status};
use serde_json::{Value, json};
use types::{FlavorId, MigrationId, NodeId, ServerId, Timestamp, VmState};

async fn host(cloud: &Cloud, name: &'static str) -> NodeId {
    let node = NodeId::random();
    let write = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let (now, host) = (Timestamp::now(), name.into());
        let mut facts = facts();
        facts.hypervisor_hostname = format!("{name}.node");
        db::hosts::beat(tx, &host, "nova-compute", None, now)?;
        db::hosts::put_node(tx, &host, node, &facts, &Ratios::default(), now)
    });
    write.await.unwrap();
    node
}

/// Aggregates by name and zone; their numbers count from one.
async fn aggregates(cloud: &Cloud, named: &[(&str, Option<&str>)]) {
    for (name, zone) in named {
        let body = json!({"aggregate": {"name": name, "availability_zone": zone}});
        let made = cloud.send("admin", 1, "POST", "/os-aggregates", body).await;
        assert_eq!(made.status, 200, "{}", made.text);
    }
}

async fn act(cloud: &Cloud, aggregate: u8, action: Value) -> Answer {
    let path = format!("/os-aggregates/{aggregate}/action");
    cloud.send("admin", 1, "POST", &path, action).await
}

async fn put(cloud: &Cloud, aggregate: u8, change: Value) -> Answer {
    let path = format!("/os-aggregates/{aggregate}");
    let body = json!({ "aggregate": change });
    cloud.send("admin", 1, "PUT", &path, body).await
}

fn zone(name: Value) -> Value {
    json!({"set_metadata": {"metadata": {"availability_zone": name}}})
}

fn refused(answer: &Answer, status: u16, words: &str) {
    let (_, message) = answer.fault();
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert!(message.contains(words), "{message}");
}

/// A server of the demo project on `h1`.
async fn server(cloud: &Cloud) -> String {
    let id = make(cloud, "member", "a").await;
    finish(cloud, &id, VmState::Active).await;
    id
}

#[tokio::test]
async fn hosts_with_servers_stay_in_their_zone() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    aggregates(
        &cloud,
        &[
            ("a", Some("z1")),
            ("b", Some("z2")),
            ("c", None),
            ("d", None),
        ],
    )
    .await;
    let add = json!({"add_host": {"host": "h1"}});
    let remove = json!({"remove_host": {"host": "h1"}});
    let id = server(&cloud).await;
    let moved = act(&cloud, 1, add.clone()).await;
    let words = "Cannot add host to aggregate 1. Reason: The host cannot be added to the aggregate as the \
                 availability zone of the host would change from 'None' to 'z1' but the host already has 1 instance(s).";
    refused(&moved, 409, words);
    let shown = cloud.get("admin", 1, "/os-aggregates/1").await.json();
    assert_eq!(shown["aggregate"]["hosts"], json!([]), "all or nothing");
    // Without a zone nothing changes.
    assert_eq!(act(&cloud, 3, add.clone()).await.status, 200);
    let words = "Reason: One or more hosts contain instances in this zone.";
    let set = act(&cloud, 3, zone("z1".into())).await;
    refused(
        &set,
        400,
        &format!("Cannot update metadata of aggregate 3. {words}"),
    );
    let set = put(&cloud, 3, json!({"availability_zone": "z1"})).await;
    refused(&set, 400, &format!("Cannot update aggregate 3. {words}"));
    assert_eq!(put(&cloud, 3, json!({"name": "other"})).await.status, 200);

    let path = format!("/servers/{id}");
    let gone: ServerId = id.parse().unwrap();
    let delete =
        move |tx: &mut sql::Tx<'_>| db::instances::mark_deleted(tx, gone, Timestamp::now());
    assert!(cloud.store.write(delete).await.unwrap(), "{path}");
    assert_eq!(act(&cloud, 3, zone("z1".into())).await.status, 200);
    assert_eq!(
        act(&cloud, 1, add.clone()).await.status,
        200,
        "the same zone"
    );
    server(&cloud).await;
    let again = act(&cloud, 3, zone("z1".into())).await;
    assert_eq!(again.status, 200, "no change: {}", again.text);
    // The other aggregate keeps it there.
    assert_eq!(act(&cloud, 3, remove.clone()).await.status, 200);
    let removed = act(&cloud, 1, remove).await;
    let words = "Cannot remove host from aggregate 1. Reason: The host cannot be removed from the aggregate as the \
                 availability zone of the host would change from 'z1' to 'None' but the host already has 1 instance(s).";
    refused(&removed, 409, words);
}

#[tokio::test]
async fn a_host_is_in_one_zone_and_a_zone_has_a_name() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    aggregates(&cloud, &[("a", Some("z1")), ("b", Some("z2")), ("c", None)]).await;
    let add = json!({"add_host": {"host": "h1"}});
    for aggregate in [1, 3] {
        assert_eq!(act(&cloud, aggregate, add.clone()).await.status, 200);
    }
    let words = "Reason: One or more hosts already in availability zone(s) ['z1'].";
    let added = act(&cloud, 2, add).await;
    refused(
        &added,
        409,
        &format!("Cannot add host to aggregate 2. {words}"),
    );
    let set = act(&cloud, 3, zone("z2".into())).await;
    refused(
        &set,
        400,
        &format!("Cannot update metadata of aggregate 3. {words}"),
    );
    let set = put(&cloud, 3, json!({"availability_zone": "z2"})).await;
    refused(&set, 400, &format!("Cannot update aggregate 3. {words}"));

    let words = "Aggregate a does not support empty named availability zone";
    for name in [Value::Null, "".into()] {
        refused(&act(&cloud, 1, zone(name)).await, 400, words);
    }
    let set = put(&cloud, 1, json!({"availability_zone": null})).await;
    refused(&set, 400, words);
    let gone = cloud
        .send("admin", 1, "DELETE", "/os-aggregates/1", Value::Null)
        .await;
    let words = "Cannot remove host from aggregate 1. Reason: Host aggregate is not empty.";
    refused(&gone, 400, words);
}

/// The id of a service, as a path.
async fn service(cloud: &Cloud, host: &str, binary: &str) -> String {
    let path = format!("/os-services?host={host}&binary={binary}");
    let services = cloud.get("admin", 53, &path).await.json();
    format!(
        "/os-services/{}",
        services["services"][0]["id"].as_str().unwrap()
    )
}

#[tokio::test]
async fn a_service_goes_with_everything_of_its_host() {
    let cloud = cloud().await;
    let (node, _) = (host(&cloud, "h1").await, host(&cloud, "h2").await);
    let beat = |tx: &mut sql::Tx<'_>| {
        db::hosts::beat(tx, &"h1".into(), "nova-conductor", None, Timestamp::now())
    };
    cloud.store.write(beat).await.unwrap();
    aggregates(&cloud, &[("a", None)]).await;
    act(&cloud, 1, json!({"add_host": {"host": "h1"}})).await;
    let id = server(&cloud).await;
    let delete = async |path: &str| cloud.send("admin", 53, "DELETE", path, Value::Null).await;

    let conductor = service(&cloud, "h1", "nova-conductor").await;
    assert_eq!(
        delete(&conductor).await.status,
        204,
        "servers are not its own"
    );
    let compute = service(&cloud, "h1", "nova-compute").await;
    let words = "Unable to delete compute service that is hosting instances.";
    refused(&delete(&compute).await, 409, words);

    // It moves away, and nobody has confirmed that yet.
    let (server, migration): (ServerId, _) = (id.parse().unwrap(), MigrationId::random());
    let move_away = cloud.store.write(move |tx| -> Result<(), sql::Error> {
        let now = Timestamp::now();
        tx.execute(
            "UPDATE instances SET host = 'h2' WHERE uuid = ?",
            &[server.into()],
        )?;
        let end = |host: &str| End {
            compute: Some(host.into()),
            node: Some(format!("{host}.node")),
        };
        let flavor = FlavorId("1".to_owned());
        let new = NewMigration {
            id: migration,
            server,
            kind: Kind::Resize,
            status: Status::Finished,
            source: end("h1"),
            dest: end("h2"),
            old_flavor: &flavor,
            new_flavor: &flavor,
            project_id: DEMO,
            user_id: "demo-user",
        };
        db::migrations::insert(tx, &new, now)?;
        let owner = (DEMO, "demo-user");
        let held = db::placement::claim_amounts(tx, server, owner, node, &[("VCPU", 1)], now)?;
        assert!(held);
        Ok(())
    });
    move_away.await.unwrap();
    let words = "Unable to delete compute service that has in-progress migrations.";
    refused(&delete(&compute).await, 409, words);
    let confirm = move |tx: &mut sql::Tx<'_>| {
        db::migrations::set_status(tx, migration, Status::Confirmed, Timestamp::now())
    };
    cloud.store.write(confirm).await.unwrap();
    let gone = delete(&compute).await;
    assert_eq!(gone.status, 204, "{}", gone.text);

    let hypervisors = cloud.get("admin", 53, "/os-hypervisors").await.json();
    let names: Vec<&Value> = hypervisors["hypervisors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["hypervisor_hostname"])
        .collect();
    assert_eq!(names, [&json!("h2.node")]);
    let aggregate = cloud.get("admin", 1, "/os-aggregates/1").await.json();
    assert_eq!(aggregate["aggregate"]["hosts"], json!([]));
    let left = cloud.store.read(move |tx| -> Result<_, sql::Error> {
        Ok((
            db::placement::allocations_on(tx, node.0)?,
            db::placement::inventories(tx, node.0)?,
            db::placement::providers(tx)?.len(),
        ))
    });
    assert_eq!(left.await.unwrap(), (vec![], vec![], 1));
    refused(&delete(&compute).await, 404, "could not be found");
}

/// Disables a host.
async fn disable(cloud: &Cloud, name: &str) {
    let body = json!({"host": name, "binary": "nova-compute"});
    let done = cloud
        .send("admin", 1, "PUT", "/os-services/disable", body)
        .await;
    assert_eq!(done.status, 200, "{}", done.text);
}

#[tokio::test]
async fn statistics_are_of_hosts_that_are_enabled() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    let sums = async || {
        let shown = cloud.get("admin", 1, "/os-hypervisors/statistics").await;
        shown.json()["hypervisor_statistics"].clone()
    };
    let one = sums().await;
    assert_eq!(one["count"], 1);
    host(&cloud, "h2").await;
    assert_eq!(sums().await["count"], 2);
    disable(&cloud, "h2").await;
    assert_eq!(sums().await, one);
    disable(&cloud, "h1").await;
    let none = sums().await;
    let values = none.as_object().unwrap().values();
    assert_eq!(values.filter(|value| **value != 0).count(), 0, "{none}");
}

#[tokio::test]
async fn zones_show_what_is_enabled() {
    let cloud = cloud().await;
    for name in ["h1", "h2", "h3"] {
        host(&cloud, name).await;
    }
    aggregates(&cloud, &[("a", Some("first"))]).await;
    act(&cloud, 1, json!({"add_host": {"host": "h2"}})).await;
    let zones = async |path: &str| {
        let shown = cloud.get("admin", 1, path).await.json();
        let zones = shown["availabilityZoneInfo"].as_array().unwrap().clone();
        let short = |zone: &Value| {
            let hosts = zone["hosts"].as_object();
            let hosts = hosts.map(|hosts| hosts.keys().cloned().collect::<Vec<String>>());
            json!([zone["zoneName"], zone["zoneState"]["available"], hosts])
        };
        zones.iter().map(short).collect::<Vec<Value>>()
    };
    let (list, detail) = ("/os-availability-zone", "/os-availability-zone/detail");
    let before = [
        json!(["first", true, ["h2"]]),
        json!(["nova", true, ["h1", "h3"]]),
    ];
    assert_eq!(zones(detail).await, before);
    for name in ["h2", "h3"] {
        disable(&cloud, name).await;
    }
    // What is not available comes last, whatever its name is.
    let after = [json!(["nova", true, ["h1"]]), json!(["first", false, null])];
    assert_eq!(zones(detail).await, after);
    let short = [json!(["nova", true, null]), json!(["first", false, null])];
    assert_eq!(zones(list).await, short);
}

#[tokio::test]
async fn only_compute_services_can_be_updated() {
    let cloud = cloud().await;
    host(&cloud, "h1").await;
    let words = "Updating a nova-scheduler service is not supported. Only nova-compute services can be updated.";
    for verb in ["enable", "disable", "disable-log-reason", "force-down"] {
        let mut body = json!({"host": "nobody", "binary": "nova-scheduler"});
        match verb {
            "disable-log-reason" => body["disabled_reason"] = "why".into(),
            "force-down" => body["forced_down"] = true.into(),
            _ => {}
        }
        let path = format!("/os-services/{verb}");
        refused(
            &cloud.send("admin", 11, "PUT", &path, body.clone()).await,
            400,
            words,
        );
        body["binary"] = "nova-compute".into();
        let words = "Could not find binary nova-compute on host nobody.";
        refused(
            &cloud.send("admin", 11, "PUT", &path, body).await,
            404,
            words,
        );
    }
    for query in [
        "host=&binary=nova-compute",
        "host=h1&binary=",
        "host=&binary=",
    ] {
        let path = format!("/os-services?{query}");
        let list = cloud.get("admin", 53, &path).await.json();
        assert_eq!(list["services"].as_array().unwrap().len(), 1, "{query}");
    }
    let path = service(&cloud, "h1", "nova-compute").await;
    let put = async |body: Value| cloud.send("admin", 53, "PUT", &path, body).await;
    let down = put(json!({"forced_down": true, "disabled_reason": "x"})).await;
    assert_eq!(down.status, 200, "{}", down.text);
    let shown = &down.json()["service"];
    assert_eq!(
        json!([
            shown["forced_down"],
            shown["status"],
            shown["disabled_reason"]
        ]),
        json!([true, "enabled", null])
    );
    let words = "Specifying 'disabled_reason' with status 'enabled' is invalid.";
    refused(
        &put(json!({"status": "enabled", "disabled_reason": "x"})).await,
        400,
        words,
    );
    let words = "No updates were requested.";
    refused(&put(json!({"disabled_reason": "x"})).await, 400, words);
}

#[tokio::test]
async fn a_host_stays_down_until_it_knows_of_evacuations() {
    let cloud = cloud().await;
    for name in ["h1", "h2"] {
        host(&cloud, name).await;
    }
    let id = server(&cloud).await;
    let (server, migration): (ServerId, _) = (id.parse().unwrap(), MigrationId::random());
    let evacuate = cloud.store.write(move |tx| {
        let end = |host: &str| End {
            compute: Some(host.into()),
            node: Some(format!("{host}.node")),
        };
        let flavor = FlavorId("1".to_owned());
        let new = NewMigration {
            id: migration,
            server,
            kind: Kind::Evacuation,
            status: Status::Done,
            source: end("h1"),
            dest: end("h2"),
            old_flavor: &flavor,
            new_flavor: &flavor,
            project_id: DEMO,
            user_id: "demo-user",
        };
        db::migrations::insert(tx, &new, Timestamp::now())
    });
    evacuate.await.unwrap();
    let up = async |host: &str, version: u16, up: bool| {
        let forced = json!({"host": host, "binary": "nova-compute", "forced_down": !up});
        let (path, body) = if version < 53 {
            ("/os-services/force-down".to_owned(), forced)
        } else {
            let path = service(&cloud, host, "nova-compute").await;
            (path, json!({ "forced_down": !up, "status": "enabled" }))
        };
        cloud.send("admin", version, "PUT", &path, body).await
    };
    let words = "Unable to force up host h1 as `done` evacuation migration records remain";
    for version in [11, 53] {
        let down = up("h1", version, false).await;
        assert_eq!(down.status, 200, "{}", down.text);
        refused(&up("h1", version, true).await, 400, words);
        let other = up("h2", version, true).await;
        assert_eq!(other.status, 200, "{}", other.text);
    }
    let host = "h1".into();
    let done =
        move |tx: &mut sql::Tx<'_>| db::migrations::evacuated(tx, server, &host, Timestamp::now());
    cloud.store.write(done).await.unwrap();
    for version in [11, 53] {
        let back = up("h1", version, true).await;
        assert_eq!(back.status, 200, "{}", back.text);
    }
}

/// What servers show of their host, to administrators alone (2.16).
#[tokio::test]
async fn the_status_of_a_servers_host() {
    let cloud = cloud().await;
    let placeless = make(&cloud, "member", "b").await;
    let id = server(&cloud).await;
    let beat = async |at: Timestamp| {
        let beating = cloud
            .store
            .write(move |tx| db::hosts::beat(tx, &"h1".into(), "nova-compute", None, at));
        let beaten: Result<(), sql::Error> = beating.await;
        beaten.unwrap();
    };
    let shown = async |id: &str| -> Value {
        let one = cloud.get("admin", 90, &format!("/servers/{id}")).await;
        let one = one.json()["server"]["host_status"].clone();
        let all = cloud
            .get("admin", 90, "/servers/detail?all_tenants=1")
            .await;
        let all = all.json()["servers"].as_array().unwrap().clone();
        let listed = all.iter().find(|server| server["id"] == *id).unwrap();
        assert_eq!(listed["host_status"], one);
        one
    };
    assert_eq!(shown(&id).await, "UNKNOWN", "it has no service");
    beat(Timestamp::now()).await;
    assert_eq!(shown(&id).await, "UP");
    let services = cloud.get("admin", 53, "/os-services").await.json();
    let path = format!(
        "/os-services/{}",
        services["services"][0]["id"].as_str().unwrap()
    );
    for (change, wanted) in [
        (json!({"status": "disabled"}), "MAINTENANCE"),
        (json!({"forced_down": true}), "DOWN"),
        (json!({"status": "enabled"}), "DOWN"),
        (json!({"status": "disabled"}), "DOWN"),
        (json!({"forced_down": false}), "MAINTENANCE"),
        (json!({"status": "enabled"}), "UP"),
    ] {
        let changed = cloud.send("admin", 53, "PUT", &path, change.clone()).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        assert_eq!(shown(&id).await, wanted, "{change}");
    }
    beat(Timestamp(1)).await;
    assert_eq!(shown(&id).await, "UNKNOWN");
    let disabled = json!({"status": "disabled"});
    cloud.send("admin", 53, "PUT", &path, disabled).await;
    assert_eq!(shown(&id).await, "MAINTENANCE", "whether it lives or not");
    assert_eq!(shown(&placeless).await, "");
    for (token, version) in [("member", 90), ("admin", 15)] {
        let server = cloud.get(token, version, &format!("/servers/{id}")).await;
        assert_eq!(server.json()["server"]["host_status"], Value::Null);
    }
}
