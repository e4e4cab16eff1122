//! Trunks and what they carry.
use super::*;

/// A trunk on a port of its own, with one sub-port under VLAN 42; (trunk, parent, sub-port).
async fn trunk(cloud: &Cloud) -> (Value, String, String) {
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    let (other, _) = cloud.network(DEMO, "10.1.0.0/24").await;
    let parent = text(&cloud.port(DEMO, &network).await["id"]);
    let carried = text(&cloud.port(DEMO, &other).await["id"]);
    let body =
        json!({"trunk": {"name": "t", "port_id": parent, "sub_ports": [sub_port(&carried, 42)]}});
    let trunk = cloud.make("trunks", DEMO, body).await;
    (trunk, parent, carried)
}

fn sub_port(port: &str, vlan: u16) -> Value {
    json!({"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan})
}

async fn bind(cloud: &Cloud, port: &str, host: &str) {
    let body = json!({"port": {"binding:host_id": host, "device_owner": "compute:nova", "device_id": "s"}});
    cloud.put(&format!("ports/{port}"), ADMIN, body).await;
}

#[tokio::test]
async fn what_a_trunk_carries_goes_where_its_port_goes() {
    let cloud = Cloud::new().await;
    let (trunk, parent, carried) = trunk(&cloud).await;
    assert_eq!(trunk["status"], "DOWN");
    assert_eq!(trunk["sub_ports"], json!([sub_port(&carried, 42)]));
    let path = format!("trunks/{}", text(&trunk["id"]));
    let details =
        cloud.get(&format!("ports/{parent}"), DEMO).await["port"]["trunk_details"].clone();
    assert_eq!(details["trunk_id"], trunk["id"]);
    assert!(text(&details["sub_ports"][0]["mac_address"]).starts_with("fa:16:3e:"));
    let mut first = cloud.wanted("h1", 0, 0).await.unwrap();
    let mut second = cloud.wanted("h2", 0, 0).await.unwrap();
    assert_eq!((first.ports.len(), second.ports.len()), (0, 0));

    bind(&cloud, &parent, "h1").await;
    first.update(cloud.wanted("h1", first.revision, 0).await.unwrap());
    assert_eq!((first.ports.len(), first.networks.len()), (2, 2));
    let under = first
        .ports
        .iter()
        .find(|port| port.trunk.is_some())
        .unwrap();
    let told = under.trunk.unwrap();
    assert_eq!(
        (under.id.to_string(), told.parent.to_string(), told.vlan),
        (carried.clone(), parent.clone(), 42)
    );
    let shown = cloud.get(&format!("ports/{carried}"), ADMIN).await["port"].clone();
    assert_eq!(
        (&shown["binding:host_id"], &shown["device_owner"]),
        (&json!("h1"), &json!("trunk:subport"))
    );
    assert_eq!(cloud.get(&path, DEMO).await["trunk"]["status"], "BUILD");
    cloud
        .report("h1", &[(&parent, "ACTIVE"), (&carried, "ERROR")])
        .await;
    assert_eq!(cloud.get(&path, DEMO).await["trunk"]["status"], "DEGRADED");
    cloud.report("h1", &[(&carried, "ACTIVE")]).await;
    assert_eq!(
        cloud.get("trunks?status=ACTIVE", DEMO).await["trunks"][0]["id"],
        trunk["id"]
    );
    assert_eq!(
        cloud.get("trunks?status=DOWN", DEMO).await["trunks"],
        json!([])
    );

    // A migration: both hosts have both ports, then only the new one.
    let bindings = format!("ports/{parent}/bindings");
    cloud
        .make(&bindings, ADMIN, json!({"binding": {"host": "h2"}}))
        .await;
    second.update(cloud.wanted("h2", second.revision, 0).await.unwrap());
    assert_eq!(second.ports.len(), 2);
    cloud
        .put(&format!("{bindings}/h2/activate"), ADMIN, json!(null))
        .await;
    let shown = cloud.get(&format!("ports/{carried}"), ADMIN).await["port"].clone();
    assert_eq!(
        (&shown["binding:host_id"], &shown["status"]),
        (&json!("h2"), &json!("DOWN"))
    );
    cloud.delete(&format!("{bindings}/h1"), ADMIN).await;
    first.update(cloud.wanted("h1", first.revision, 0).await.unwrap());
    assert_eq!(first.ports.len(), 0);
    cloud
        .report("h2", &[(&parent, "ACTIVE"), (&carried, "ACTIVE")])
        .await;
    assert_eq!(cloud.get(&path, DEMO).await["trunk"]["status"], "ACTIVE");

    // Taken from the trunk it is on no host, and an ordinary port.
    let body = json!({"sub_ports": [{"port_id": carried}]});
    let left = cloud
        .put(&format!("{path}/remove_subports"), DEMO, body)
        .await;
    assert_eq!(left["sub_ports"], json!([]));
    second.update(cloud.wanted("h2", second.revision, 0).await.unwrap());
    assert_eq!(second.ports.len(), 1);
    cloud.delete(&format!("ports/{carried}"), DEMO).await;
    cloud.delete(&path, DEMO).await;
    cloud.delete(&format!("ports/{parent}"), ADMIN).await;
}

#[tokio::test]
async fn a_port_that_joins_a_trunk_is_where_the_trunk_is() {
    let cloud = Cloud::new().await;
    let (trunk, parent, carried) = trunk(&cloud).await;
    let path = format!("trunks/{}", text(&trunk["id"]));
    bind(&cloud, &parent, "h1").await;
    let bindings = format!("ports/{parent}/bindings");
    cloud
        .make(&bindings, ADMIN, json!({"binding": {"host": "h2"}}))
        .await;
    let network = text(&cloud.get(&format!("ports/{carried}"), DEMO).await["port"]["network_id"]);
    let late = text(&cloud.port(DEMO, &network).await["id"]);
    let body = json!({"sub_ports": [sub_port(&late, 7)]});
    let now = cloud.put(&format!("{path}/add_subports"), DEMO, body).await;
    assert_eq!(now["sub_ports"].as_array().unwrap().len(), 2);
    for host in ["h1", "h2"] {
        assert_eq!(
            cloud.wanted(host, 0, 0).await.unwrap().ports.len(),
            3,
            "{host}"
        );
    }
    let listed = cloud.get(&format!("{path}/get_subports"), DEMO).await;
    assert_eq!(
        listed["sub_ports"],
        json!([sub_port(&late, 7), sub_port(&carried, 42)])
    );
    // The server goes: so does all that its port carried.
    bind(&cloud, &parent, "").await;
    for host in ["h1", "h2"] {
        assert_eq!(
            cloud.wanted(host, 0, 0).await.unwrap().ports.len(),
            0,
            "{host}"
        );
    }
}

#[tokio::test]
async fn what_a_trunk_refuses() {
    let cloud = Cloud::new().await;
    let (trunk, parent, carried) = trunk(&cloud).await;
    let path = format!("trunks/{}", text(&trunk["id"]));
    let network = text(&cloud.get(&format!("ports/{parent}"), DEMO).await["port"]["network_id"]);
    let spare = text(&cloud.port(DEMO, &network).await["id"]);
    let used = text(&cloud.port(DEMO, &network).await["id"]);
    bind(&cloud, &used, "h1").await;
    let new = |port: &str, subs: Value| json!({"trunk": {"port_id": port, "sub_ports": subs}});
    let subs = |list: Value| json!({"sub_ports": list});
    let (add, take) = (
        format!("{path}/add_subports"),
        format!("{path}/remove_subports"),
    );
    let nobody = "11111111-2222-4333-8444-555555555555";
    let (own, others) = (format!("ports/{parent}"), format!("ports/{carried}"));
    for (method, path, token, body, wanted) in [
        (
            "POST",
            "trunks",
            DEMO,
            new(&parent, json!([])),
            (409, "PortInUseAsTrunkParent"),
        ),
        (
            "POST",
            "trunks",
            DEMO,
            new(&carried, json!([])),
            (409, "PortInUseAsSubPort"),
        ),
        (
            "POST",
            "trunks",
            DEMO,
            new(nobody, json!([])),
            (404, "PortNotFound"),
        ),
        (
            "POST",
            "trunks",
            OTHER,
            new(&spare, json!([])),
            (404, "PortNotFound"),
        ),
        (
            "POST",
            "trunks",
            DEMO,
            new(&spare, json!([{"port_id": used}])),
            (400, "HTTPBadRequest"),
        ),
        (
            "POST",
            "trunks",
            DEMO,
            new(&spare, json!([sub_port(&used, 9)])),
            (409, "PortInUse"),
        ),
        (
            "POST",
            "trunks",
            DEMO,
            new(&spare, json!([sub_port(&spare, 9)])),
            (409, "PortInUseAsTrunkParent"),
        ),
        (
            "PUT",
            &add,
            DEMO,
            subs(json!([sub_port(&spare, 42)])),
            (409, "DuplicateSubPort"),
        ),
        (
            "PUT",
            &add,
            DEMO,
            subs(json!([sub_port(&carried, 43)])),
            (409, "PortInUseAsSubPort"),
        ),
        (
            "PUT",
            &add,
            DEMO,
            subs(json!([sub_port(&spare, 0)])),
            (400, "HTTPBadRequest"),
        ),
        ("PUT", &add, DEMO, json!({}), (400, "HTTPBadRequest")),
        (
            "PUT",
            &take,
            DEMO,
            subs(json!([{"port_id": spare}])),
            (404, "SubPortNotFound"),
        ),
        ("PUT", &add, OTHER, subs(json!([])), (404, "TrunkNotFound")),
        (
            "PUT",
            &add,
            "reader:demo",
            subs(json!([])),
            (403, "PolicyNotAuthorized"),
        ),
        ("GET", &path, OTHER, json!(null), (404, "TrunkNotFound")),
        (
            "DELETE",
            &own,
            DEMO,
            json!(null),
            (409, "PortInUseAsTrunkParent"),
        ),
        (
            "DELETE",
            &others,
            DEMO,
            json!(null),
            (409, "PortInUseAsSubPort"),
        ),
    ] {
        let refused = cloud.refused(method, path, token, body.clone()).await;
        assert_eq!(
            refused,
            (wanted.0, wanted.1.into()),
            "{method} {path} {body}"
        );
    }
    cloud
        .put(&path, DEMO, json!({"trunk": {"admin_state_up": false}}))
        .await;
    let refused = cloud
        .refused("PUT", &add, DEMO, subs(json!([sub_port(&spare, 9)])))
        .await;
    assert_eq!(refused, (409, "TrunkDisabled".into()));
}
