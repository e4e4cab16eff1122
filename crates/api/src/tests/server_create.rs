//! `POST /servers`: what is accepted, what is refused and how.

use super::harness::{
    ADDRESS, ADDRESSLESS, BARE, BUSY, Cloud, DEMO, HUNGRY, IMAGE, LARGE, NETWORK, PORT,
    SERVER_THERE,
};
use serde_json::{Value, json};
use types::Timestamp;

/// A cloud with a flavor `1` (1 vCPU, 512 MiB, 1 GiB).
pub async fn cloud() -> Cloud {
    cloud_with(super::harness::config()).await
}

/// The same, configured.
pub async fn cloud_with(config: crate::Config) -> Cloud {
    let cloud = Cloud::with(config).await;
    let flavor =
        json!({"flavor": {"name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 1, "disk": 1}});
    assert_eq!(
        cloud
            .send("admin", 1, "POST", "/flavors", flavor)
            .await
            .status,
        200
    );
    cloud
}

/// The compute service of a host begins, in the default zone.
pub async fn enabled_host(cloud: &Cloud) {
    let beat = |tx: &mut sql::Tx<'_>| {
        db::hosts::beat(tx, &"h1".into(), "nova-compute", None, Timestamp::now())
    };
    let beaten: Result<(), sql::Error> = cloud.store.write(beat).await;
    beaten.unwrap();
}

/// A good body with these changes.
pub fn body(change: Value) -> Value {
    let mut server =
        json!({"name": "a", "flavorRef": "1", "imageRef": IMAGE, "networks": [{"uuid": NETWORK}]});
    for (key, value) in change.as_object().unwrap() {
        server[key] = value.clone();
    }
    json!({ "server": server })
}

/// A worker that is told of a new server need not read it: it would find the same.
#[tokio::test]
async fn what_is_handed_over_is_what_is_stored() {
    let cloud = cloud().await;
    let group = json!({"server_group": {"name": "g", "policy": "affinity"}});
    let group = cloud
        .send("member", 64, "POST", "/os-server-groups", group)
        .await
        .json();
    let group = group["server_group"]["id"].clone();
    let blank = json!([
        {"source_type": "image", "destination_type": "local", "uuid": IMAGE, "boot_index": 0},
        {"source_type": "blank", "destination_type": "volume", "volume_size": 1}
    ]);
    let all = json!({"metadata": {"a": "b"}, "tags": ["x"], "user_data": "aGFsbG8=", "config_drive": true,
        "description": "d", "min_count": 2, "max_count": 2, "block_device_mapping_v2": blank});
    let hinted = json!({"server": body(json!({"networks": "none"}))["server"], "os:scheduler_hints": {"group": group}});
    for wanted in [body(json!({})), body(all), hinted] {
        let made = cloud.send("member", 94, "POST", "/servers", wanted).await;
        assert_eq!(made.status, 202, "{}", made.text);
    }
    let told = std::mem::take(&mut *cloud.handed_over.lock().unwrap());
    assert_eq!(told.len(), 4);
    assert_eq!(
        told.iter().filter(|one| one.ties.group.is_some()).count(),
        1
    );
    for known in told {
        let id = known.server.id;
        let reading = cloud
            .store
            .read(move |tx| db::placing::to_be_placed(tx, id));
        let found = reading.await.unwrap().unwrap();
        assert_eq!(known.server, found.server);
        assert_eq!(known.ties, found.ties);
        assert_eq!(known.devices, found.devices);
    }
}

#[tokio::test]
async fn a_server_is_accepted() {
    let cloud = cloud().await;
    let tags = json!({"metadata": {"a": "b"}, "tags": ["x"], "user_data": "aGFsbG8=", "config_drive": true});
    let made = cloud
        .send("member", 90, "POST", "/servers", body(tags))
        .await;
    assert_eq!(made.status, 202, "{}", made.text);
    let server = &made.json()["server"];
    let id = server["id"].as_str().unwrap();
    assert_eq!(
        made.headers["location"],
        format!("http://cloud:8774/v2.1/servers/{id}")
    );
    assert_eq!(server["adminPass"].as_str().unwrap().len(), 12);
    assert_eq!(server["security_groups"], json!([{"name": "default"}]));

    let shown = cloud
        .get("member", 100, &format!("/servers/{id}"))
        .await
        .json();
    let shown = &shown["server"];
    assert_eq!(
        (&shown["status"], &shown["OS-EXT-STS:task_state"]),
        (&json!("BUILD"), &json!("scheduling"))
    );
    assert_eq!(
        (&shown["tags"], &shown["metadata"], &shown["config_drive"]),
        (&json!(["x"]), &json!({"a": "b"}), &json!("True"))
    );
    assert_eq!(shown["image"]["properties"]["os_distro"], "cirros");
    assert!(
        shown.get("OS-EXT-SRV-ATTR:host").is_none(),
        "only for administrators"
    );
    assert_eq!(shown["hostId"], "");

    let uuid = id.parse().unwrap();
    let stored = cloud
        .store
        .read(move |tx| db::instances::get(tx, uuid))
        .await
        .unwrap()
        .unwrap();
    let sealed: String = server["adminPass"]
        .as_str()
        .unwrap()
        .chars()
        .rev()
        .collect();
    assert_eq!(
        stored.admin_pass.as_deref(),
        Some(sealed.as_str()),
        "never in clear"
    );
    assert!(stored.task_id.is_some(), "the build is enqueued");
    let limits = cloud.get("member", 57, "/limits").await.json();
    assert_eq!(limits["limits"]["absolute"]["totalInstancesUsed"], 1);
    let actions = cloud
        .get("member", 58, &format!("/servers/{id}/os-instance-actions"))
        .await
        .json();
    assert_eq!(actions["instanceActions"][0]["action"], "create");
    assert_eq!(
        actions["instanceActions"][0]["request_id"],
        made.headers["x-openstack-request-id"].to_str().unwrap()
    );
}

#[tokio::test]
async fn refusals() {
    let cloud = cloud().await;
    let gone = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let long: String = "x".repeat(256);
    let table: Vec<(u16, Value, u16, &str)> = vec![
        (
            1,
            json!({"imageRef": gone}),
            400,
            "Can not find requested image",
        ),
        (
            1,
            json!({"flavorRef": "9999"}),
            400,
            "Flavor 9999 could not be found.",
        ),
        (
            1,
            json!({"imageRef": "xyz"}),
            400,
            "Invalid input for field/attribute imageRef. Value: xyz. 'xyz' is not valid under any of the given schemas",
        ),
        (
            1,
            json!({"imageRef": ""}),
            400,
            "Missing imageRef attribute",
        ),
        (
            1,
            json!({"name": " a "}),
            400,
            "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace.",
        ),
        (
            1,
            json!({"name": ""}),
            400,
            "Invalid input for field/attribute name. Value: . '' should be non-empty",
        ),
        (90, json!({"name": long}), 400, "is too long"),
        (
            1,
            json!({"min_count": 3, "max_count": 2}),
            400,
            "min_count must be <= max_count",
        ),
        (
            1,
            json!({"min_count": 0}),
            400,
            "0 is less than the minimum of 1",
        ),
        (
            1,
            json!({"min_count": 50}),
            403,
            "Quota exceeded for cores, instances: Requested 50, 50, but already used 0, 0 of 20, 10 cores, instances",
        ),
        (
            1,
            json!({"key_name": "nope"}),
            400,
            "Invalid key_name provided.",
        ),
        (
            1,
            json!({"security_groups": [{"name": "nope"}]}),
            400,
            "Security group nope not found for project",
        ),
        (
            37,
            json!({"networks": "none", "security_groups": [{"name": "nope"}]}),
            400,
            "Security group nope not found for project",
        ),
        (1, json!({"networks": [{"uuid": gone}]}), 400, gone),
        (
            1,
            json!({"networks": [{"uuid": "not-an-id"}]}),
            400,
            "not-an-id",
        ),
        (
            37,
            json!({"networks": [{"uuid": "not-an-id"}]}),
            400,
            "not-an-id",
        ),
        (37, json!({"networks": "bogus"}), 400, "bogus"),
        (1, json!({"networks": [{"port": gone}]}), 400, gone),
        (
            1,
            json!({"networks": [{"port": BUSY}]}),
            409,
            "is still in use.",
        ),
        (
            1,
            json!({"networks": [{"port": PORT}], "max_count": 2}),
            400,
            "single configured port",
        ),
        (
            1,
            json!({"imageRef": HUNGRY}),
            400,
            "Flavor's memory is too small for requested image.",
        ),
        (
            1,
            json!({"imageRef": LARGE}),
            400,
            "Flavor's disk is too small for requested image. Flavor disk is 1073741824 bytes, image is 9000000000 bytes.",
        ),
        (
            1,
            json!({"availability_zone": "nowhere"}),
            400,
            "The requested availability zone is not available",
        ),
        (
            1,
            json!({"availability_zone": "nova:host"}),
            403,
            "Policy doesn't allow os_compute_api:servers:create:forced_host to be performed.",
        ),
        (
            74,
            json!({"host": "h"}),
            403,
            "Policy doesn't allow compute:servers:create:requested_destination to be performed.",
        ),
        (1, json!({"user_data": "not base64!"}), 400, "user_data"),
        (
            1,
            json!({"metadata": {"k": 1}}),
            400,
            "Invalid input for field/attribute k. Value: 1. 1 is not of type 'string'",
        ),
        (1, json!({"config_drive": "maybe"}), 400, "config_drive"),
        (
            1,
            json!({"nmae": 1}),
            400,
            "Additional properties are not allowed ('nmae' was unexpected)",
        ),
        (
            1,
            json!({"description": "d"}),
            400,
            "Additional properties are not allowed ('description' was unexpected)",
        ),
        (90, json!({"hostname": "a.b"}), 400, "hostname"),
        (
            90,
            json!({"hostname": "ab", "max_count": 2}),
            400,
            "Unable to allocate a single hostname to multiple instances",
        ),
        (
            1,
            json!({"block_device_mapping_v2": [{"source_type": "volume", "destination_type": "volume", "boot_index": 0, "uuid": gone}]}),
            400,
            "Block Device Mapping is Invalid: failed to get volume",
        ),
    ];
    for (version, change, status, words) in table {
        let answer = cloud
            .send("member", version, "POST", "/servers", body(change.clone()))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{change}: {}", answer.text);
        assert!(
            answer.fault().1.contains(words),
            "{change}: {}",
            answer.fault().1
        );
    }
    let many: serde_json::Map<String, Value> = (0..129)
        .map(|index| (format!("k{index}"), json!("v")))
        .collect();
    let metadata = cloud
        .send(
            "member",
            1,
            "POST",
            "/servers",
            body(json!({"metadata": many})),
        )
        .await;
    assert_eq!(
        (metadata.status.as_u16(), metadata.fault().1.as_str()),
        (403, "Maximum number of metadata items exceeds 128")
    );
    assert_eq!(
        cloud
            .send("reader", 1, "POST", "/servers", body(json!({})))
            .await
            .status,
        403
    );
    let none = json!({"server": {"name": "a", "flavorRef": "1", "imageRef": IMAGE}});
    assert!(
        cloud
            .send("member", 37, "POST", "/servers", none.clone())
            .await
            .fault()
            .1
            .ends_with("'networks' is a required property")
    );
    let ambiguous = cloud
        .send("other", 1, "POST", "/servers", none.clone())
        .await;
    assert_eq!(
        (ambiguous.status.as_u16(), ambiguous.fault().1.as_str()),
        (
            409,
            "Multiple possible networks found, use a Network ID to be more specific."
        )
    );
    assert_eq!(
        cloud
            .send("member", 1, "POST", "/servers", none)
            .await
            .status,
        202,
        "one network is no question"
    );
    assert_eq!(
        cloud.get("member", 1, "/servers").await.json()["servers"]
            .as_array()
            .unwrap()
            .len(),
        1,
        "refusals leave nothing"
    );
}

#[tokio::test]
async fn many_at_once() {
    let cloud = cloud().await;
    let made = cloud
        .send(
            "member",
            1,
            "POST",
            "/servers",
            body(json!({"min_count": 2, "max_count": 30, "name": "n"})),
        )
        .await;
    assert_eq!(made.status, 202, "{}", made.text);
    let list = cloud
        .get("member", 1, "/servers?sort_key=display_name&sort_dir=asc")
        .await
        .json();
    let names: Vec<&str> = list["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 10, "as many as the quota allows");
    assert_eq!(&names[..2], ["n-1", "n-10"]);
    let first = format!("/servers/{}", made.json()["server"]["id"].as_str().unwrap());
    assert_eq!(
        cloud.get("member", 1, &first).await.json()["server"]["name"],
        "n-1"
    );
}

/// Two processes on one database take requests at once, of two users; on every database there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_in_a_race_between_processes() {
    for database in sql::testing::databases().await {
        let first = Cloud::on(database.store.clone(), crate::Config::default()).await;
        let second = Cloud::on(database.again().await, crate::Config::default()).await;
        let flavor =
            json!({"flavor": {"name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 2, "disk": 1}});
        let made = first.send("admin", 1, "POST", "/flavors", flavor).await;
        assert_eq!(made.status, 200);
        // Eight servers of two vCPUs in the project, three of them of one user.
        let quotas = format!("/os-quota-sets/{DEMO}");
        let limits = json!({"quota_set": {"instances": 8, "cores": 17}});
        let set = first.send("admin", 57, "PUT", &quotas, limits).await;
        assert_eq!(set.status, 200, "{}", set.text);
        let limits = json!({"quota_set": {"instances": 3}});
        let of_user = format!("{quotas}?user_id=demo-user");
        let set = first.send("admin", 57, "PUT", &of_user, limits).await;
        assert_eq!(set.status, 200, "{}", set.text);
        let clouds = [std::sync::Arc::new(first), std::sync::Arc::new(second)];
        let racers = (0..32).map(|number: usize| {
            let cloud = std::sync::Arc::clone(&clouds[number % 2]);
            let token = if number % 4 < 2 { "member" } else { "manager" };
            // Some of them ask for several at once.
            let several = json!({"networks": "none", "min_count": 1 + number % 3 / 2});
            let body = body(several);
            tokio::spawn(async move {
                let answer = cloud.send(token, 37, "POST", "/servers", body).await;
                assert!(
                    [202, 403].contains(&answer.status.as_u16()),
                    "{}",
                    answer.text
                );
            })
        });
        for racer in racers.collect::<Vec<_>>() {
            racer.await.unwrap();
        }
        let name = database.name;
        let (counted, held, of_user) = database
            .store
            .read(|tx| -> Result<_, sql::Error> {
                let (project, user) = (DEMO.into(), "demo-user".into());
                Ok((
                    db::usages::recount(tx, &project)?,
                    db::usages::of_project(tx, &project)?,
                    db::usages::of_user(tx, &project, &user)?,
                ))
            })
            .await
            .unwrap();
        assert_eq!(counted, held, "{name}");
        assert_eq!((counted.instances, counted.cores), (8, 16), "{name}");
        assert!(of_user.instances <= 3, "{name}: {of_user:?}");
    }
}

#[tokio::test]
async fn quotas_hold_in_a_race() {
    let cloud = std::sync::Arc::new(cloud().await);
    let body = body(json!({"networks": "none"}));
    let racers = (0..25).map(|_| {
        let (cloud, body) = (std::sync::Arc::clone(&cloud), body.clone());
        tokio::spawn(async move {
            cloud
                .send("member", 37, "POST", "/servers", body)
                .await
                .status
                .as_u16()
        })
    });
    let mut accepted = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            202 => accepted += 1,
            status => assert_eq!(status, 403),
        }
    }
    assert_eq!(accepted, 10);
    let held = cloud
        .store
        .read(|tx| db::usages::recount(tx, &DEMO.into()))
        .await
        .unwrap();
    assert_eq!(held.instances, 10);
}

#[tokio::test]
async fn a_dry_run_says_why_and_writes_nothing() {
    let cloud = cloud().await;
    let path = "/servers?dry_run=true";
    let ask = async |token: &'static str, body: Value| {
        let answer = cloud.send(token, 90, "POST", path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["dry_run"].clone()
    };
    let none = ask("member", body(json!({}))).await;
    assert_eq!(none["would_be_placed"], false);
    assert_eq!(
        none["message"],
        "No valid host was found. There are no compute hosts."
    );

    cloud
        .store
        .write(|tx| -> Result<(), sql::Error> {
            let now = Timestamp::now();
            for (host, problem) in [
                ("h1", None),
                ("h2", Some("libvirt: no socket")),
                ("h3", None),
            ] {
                let node = types::NodeId::random();
                db::hosts::beat(tx, &host.into(), "nova-compute", problem, now)?;
                db::hosts::beat(tx, &host.into(), "nova-compute", problem, now)?;
                let mut facts = super::samples::facts();
                facts.hypervisor_hostname = host.into();
                facts.vcpus = if host == "h3" { 0 } else { 2 };
                db::hosts::put_node(
                    tx,
                    &host.into(),
                    node,
                    &facts,
                    &db::hosts::Ratios {
                        cpu: 1.0,
                        ..db::hosts::Ratios::default()
                    },
                    now,
                )?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let good = ask("member", body(json!({}))).await;
    assert_eq!(
        (&good["would_be_placed"], &good["placeable"]),
        (&json!(true), &json!(1))
    );
    assert!(
        good.get("hosts").is_none(),
        "members learn no names of hosts"
    );
    let good = ask("admin", body(json!({}))).await;
    assert_eq!(good["hosts"], json!(["h1"]));

    let many = ask("member", body(json!({"min_count": 3, "max_count": 3}))).await;
    assert_eq!(
        (&many["would_be_placed"], &many["placeable"]),
        (&json!(false), &json!(2))
    );
    assert_eq!(many["hosts_considered"], 3);
    let message = many["message"].as_str().unwrap();
    assert!(
        message.contains("1 down (its hypervisor does not work)"),
        "{message}"
    );
    assert!(
        !message.contains("libvirt") && !message.contains("h2"),
        "{message}"
    );
    let many = ask("admin", body(json!({"min_count": 3, "max_count": 3}))).await;
    let down = json!({"reason": "down (libvirt: no socket)", "count": 1, "hosts": ["h2"]});
    assert!(
        many["reasons"].as_array().unwrap().contains(&down),
        "{many}"
    );

    // What an operator says of a host takes effect.
    let services = cloud.get("admin", 90, "/os-services?host=h1").await.json();
    let service = format!(
        "/os-services/{}",
        services["services"][0]["id"].as_str().unwrap()
    );
    let disabled = |yes| json!({"status": if yes { "disabled" } else { "enabled" }});
    let forced = |yes| json!({"forced_down": yes});
    for (said, why) in [
        (disabled as fn(bool) -> Value, "disabled"),
        (forced, "forced down"),
    ] {
        for off in [true, false] {
            let answer = cloud.send("admin", 90, "PUT", &service, said(off)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let verdict = ask("admin", body(json!({}))).await;
            assert_eq!(verdict["would_be_placed"], !off, "{verdict}");
            let message = verdict["message"].as_str().unwrap_or_default();
            assert_eq!(message.contains(why), off, "{verdict}");
            // Also for those who name the host.
            for named in [
                json!({"host": "h1"}),
                json!({"availability_zone": "nova:h1"}),
            ] {
                let verdict = ask("admin", body(named.clone())).await;
                assert_eq!(verdict["would_be_placed"], !off, "{named}: {verdict}");
            }
        }
    }

    let refused = body(json!({"min_count": 900, "max_count": 900}));
    let refused = cloud.send("member", 90, "POST", path, refused).await;
    assert_eq!(
        refused.status, 403,
        "quotas answer as for the real request: {}",
        refused.text
    );
    assert_eq!(
        cloud.get("member", 90, "/servers").await.json()["servers"],
        json!([])
    );
}

#[tokio::test]
async fn addresses_that_are_taken_and_ports_without_one() {
    let cloud = cloud().await;
    let make = async |networks: Value| {
        let body = body(json!({ "networks": networks }));
        cloud.send("member", 74, "POST", "/servers", body).await
    };
    let on = |address: &str| json!([{ "uuid": NETWORK, "fixed_ip": address }]);
    let port = |id: &str| json!([{ "port": id }]);
    let taken = format!("Fixed IP address {ADDRESS} is already in use on instance {SERVER_THERE}.");
    let bare = format!("Port {BARE} requires a FixedIP in order to be used.");
    for (networks, words) in [(on(ADDRESS), taken), (port(BARE), bare)] {
        let refused = make(networks).await;
        let wanted = ("badRequest".to_owned(), words);
        assert_eq!((refused.status.as_u16(), refused.fault()), (400, wanted));
    }
    for networks in [on("192.168.1.31"), port(PORT), port(ADDRESSLESS)] {
        let made = make(networks).await;
        assert_eq!(made.status, 202, "{}", made.text);
    }
}

/// What is not understood would be done for good.
#[tokio::test]
async fn a_dry_run_that_is_none_is_refused() {
    let cloud = cloud().await;
    let made = cloud
        .send(
            "member",
            90,
            "POST",
            "/servers",
            body(json!({"networks": "none"})),
        )
        .await;
    let server = format!("/servers/{}", made.json()["server"]["id"].as_str().unwrap());
    for value in ["maybe", "", "t", "false&dry_run=2", "true%20"] {
        for path in ["/servers", "/os-volumes_boot"] {
            let path = format!("{path}?dry_run={value}");
            let refused = cloud
                .send("member", 90, "POST", &path, body(json!({})))
                .await;
            assert_eq!(refused.status, 400, "{path}: {}", refused.text);
            assert!(refused.fault().1.contains("'true'"), "{}", refused.text);
        }
    }
    for value in ["true", "false", "maybe"] {
        for (method, path, body) in [
            ("POST", format!("{server}/action"), json!({"pause": null})),
            ("DELETE", server.clone(), Value::Null),
            ("PUT", server.clone(), json!({"server": {"name": "n"}})),
        ] {
            let path = format!("{path}?dry_run={value}");
            let refused = cloud.send("member", 90, method, &path, body).await;
            assert_eq!(refused.status, 400, "{method} {path}: {}", refused.text);
            assert!(
                refused.fault().1.contains("Only new servers"),
                "{}",
                refused.text
            );
        }
    }
    let list = cloud.get("member", 90, "/servers").await.json();
    assert_eq!(list["servers"].as_array().unwrap().len(), 1, "{list}");
    for (value, status) in [
        ("TRUE", 200),
        ("yes", 200),
        ("1", 200),
        ("maybe&dry_run=on", 200),
        ("false", 202),
        ("0", 202),
        ("Off", 202),
    ] {
        let path = format!("/servers?dry_run={value}");
        let answer = cloud
            .send(
                "member",
                90,
                "POST",
                &path,
                body(json!({"networks": "none"})),
            )
            .await;
        assert_eq!(answer.status, status, "{value}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_host_and_its_hypervisor() {
    let cloud = cloud().await;
    let write = cloud.store.write(|tx| -> Result<(), sql::Error> {
        for (host, node) in [("h1", "n1"), ("h2", "n2")] {
            let mut facts = super::samples::facts();
            facts.hypervisor_hostname = node.to_owned();
            let (id, ratios) = (types::NodeId::random(), db::hosts::Ratios::default());
            db::hosts::put_node(tx, &host.into(), id, &facts, &ratios, Timestamp::now())?;
        }
        Ok(())
    });
    write.await.unwrap();
    let make = async |change: Value| {
        let body = body(change);
        cloud.send("admin", 90, "POST", "/servers", body).await
    };
    for good in [
        json!({"host": "h1", "hypervisor_hostname": "n1"}),
        json!({"host": "h2"}),
        json!({"hypervisor_hostname": "n2"}),
        json!({"availability_zone": "nova:h1:n1"}),
        json!({"availability_zone": "nova::n1"}),
    ] {
        let made = make(good).await;
        assert_eq!(made.status, 202, "{}", made.text);
    }
    let other = "Compute host h1 could not be found. Its hypervisor is n1, not n2.";
    for (bad, words) in [
        (json!({"host": "h1", "hypervisor_hostname": "n2"}), other),
        (json!({"availability_zone": "nova:h1:n2"}), other),
        (
            json!({"host": "h3", "hypervisor_hostname": "n1"}),
            "Compute host h3 could not be found.",
        ),
        (
            json!({"hypervisor_hostname": "n3"}),
            "Compute host n3 could not be found.",
        ),
    ] {
        let refused = make(bad).await;
        assert_eq!(
            (refused.status.as_u16(), refused.fault().1.as_str()),
            (400, words)
        );
    }
    let both = make(json!({"host": "h1", "availability_zone": "nova::n1"})).await;
    assert_eq!(both.status, 400, "{}", both.text);
}

#[tokio::test]
async fn a_zone_is_available_where_a_host_is_enabled() {
    let cloud = cloud().await;
    let make = async || {
        let body = body(json!({"availability_zone": "nova"}));
        let made = cloud.send("member", 90, "POST", "/servers", body).await;
        made.status.as_u16()
    };
    assert_eq!(make().await, 400, "there is no host");
    enabled_host(&cloud).await;
    assert_eq!(make().await, 202);
    let services = cloud.get("admin", 90, "/os-services?host=h1").await.json();
    let id = services["services"][0]["id"].as_str().unwrap();
    let service = format!("/os-services/{id}");
    for (status, wanted) in [("disabled", 400), ("enabled", 202)] {
        let body = json!({ "status": status });
        let put = cloud.send("admin", 90, "PUT", &service, body).await;
        assert_eq!(put.status, 200, "{}", put.text);
        assert_eq!(make().await, wanted, "{status}");
    }
}
