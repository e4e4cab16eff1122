//! Ports that several hosts have ready.
use super::*;

/// The path of the bindings of a port that is bound to `h1`.
async fn bound(cloud: &Cloud) -> String {
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    let port = cloud.bound(&network, "h1").await;
    format!("ports/{}/bindings", text(&port["id"]))
}

fn on(host: &str) -> Value {
    json!({"binding": {"host": host}})
}

#[tokio::test]
async fn a_host_makes_a_port_ready_before_it_is_active_there() {
    let cloud = Cloud::new().await;
    let path = bound(&cloud).await;
    let port = path.trim_end_matches("/bindings").to_owned();
    let mut first = cloud.wanted("h1", 0, 0).await.unwrap();
    let mut second = cloud.wanted("h2", 0, 0).await.unwrap();
    assert_eq!((first.ports.len(), second.ports.len()), (1, 0));

    let made = cloud.make(&path, ADMIN, on("h2")).await;
    assert_eq!(made["status"], "INACTIVE");
    assert_eq!(made["vif_type"], "bridge");
    assert_eq!(
        cloud.get(&port, ADMIN).await["port"]["binding:host_id"],
        "h1"
    );
    second.update(cloud.wanted("h2", second.revision, 0).await.unwrap());
    assert_eq!(second.ports.len(), 1);
    assert_eq!(second.networks.len(), 1);
    assert_eq!(second.security_groups.len(), 1);

    // What changes of the port reaches both.
    let groups = json!({"port": {"security_groups": []}});
    cloud.put(&port, ADMIN, groups).await;
    second.update(cloud.wanted("h2", second.revision, 0).await.unwrap());
    assert!(second.ports[0].security_group_ids.is_empty());

    let active = cloud
        .put(&format!("{path}/h2/activate"), ADMIN, json!(null))
        .await;
    assert_eq!(active["binding"]["status"], "ACTIVE");
    let shown = cloud.get(&port, ADMIN).await["port"].clone();
    assert_eq!(shown["binding:host_id"], "h2");
    let all = cloud.get(&path, ADMIN).await["bindings"].clone();
    let states: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["host"]), text(&one["status"])))
        .collect();
    assert_eq!(
        states,
        [
            ("h2".into(), "ACTIVE".into()),
            ("h1".into(), "INACTIVE".into())
        ]
    );
    cloud.delete(&format!("{path}/h1"), ADMIN).await;
    first.update(cloud.wanted("h1", first.revision, 0).await.unwrap());
    assert_eq!(first.ports.len(), 0);
    assert_eq!(
        cloud.get(&path, ADMIN).await["bindings"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn bindings_go_with_the_port_and_with_its_server() {
    let cloud = Cloud::new().await;
    let path = bound(&cloud).await;
    let port = path.trim_end_matches("/bindings").to_owned();
    cloud.make(&path, ADMIN, on("h2")).await;
    cloud.make(&path, ADMIN, on("h3")).await;
    let mut third = cloud.wanted("h3", 0, 0).await.unwrap();
    let mut second = cloud.wanted("h2", 0, 0).await.unwrap();
    assert_eq!((second.ports.len(), third.ports.len()), (1, 1));
    // A port that goes to a host by itself is no longer only ready there.
    cloud
        .put(&port, ADMIN, json!({"port": {"binding:host_id": "h3"}}))
        .await;
    let hosts = |all: Value| -> Vec<String> {
        all["bindings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| text(&one["host"]))
            .collect()
    };
    assert_eq!(hosts(cloud.get(&path, ADMIN).await), ["h3", "h2"]);
    let back = json!({"port": {"binding:host_id": "", "device_id": "", "device_owner": ""}});
    cloud.put(&port, ADMIN, back).await;
    assert_eq!(hosts(cloud.get(&path, ADMIN).await), Vec::<String>::new());
    for (host, wanted) in [("h2", &mut second), ("h3", &mut third)] {
        wanted.update(cloud.wanted(host, wanted.revision, 0).await.unwrap());
        assert_eq!(wanted.ports.len(), 0, "{host}");
    }
    let late = cloud.refused("POST", &path, ADMIN, on("h2")).await;
    assert_eq!(late, (400, "BadRequest".into()));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let cloud = Cloud::new().await;
    let path = bound(&cloud).await;
    let table = [
        (
            "POST",
            path.clone(),
            ADMIN,
            on("h1"),
            (409, "PortBindingAlreadyExists"),
        ),
        (
            "POST",
            path.clone(),
            ADMIN,
            json!({"binding": {}}),
            (400, "HTTPBadRequest"),
        ),
        (
            "POST",
            path.clone(),
            ADMIN,
            json!({"binding": {"host": 1}}),
            (400, "HTTPBadRequest"),
        ),
        (
            "POST",
            path.clone(),
            ADMIN,
            json!({"binding": {"host": "h2", "x": 1}}),
            (400, "HTTPBadRequest"),
        ),
        (
            "POST",
            path.clone(),
            ADMIN,
            json!({"binding": {"host": "h2", "vnic_type": "direct"}}),
            (500, "PortBindingError"),
        ),
        (
            "POST",
            path.clone(),
            DEMO,
            on("h2"),
            (403, "PolicyNotAuthorized"),
        ),
        (
            "GET",
            path.clone(),
            DEMO,
            json!(null),
            (403, "PolicyNotAuthorized"),
        ),
        ("POST", path.clone(), OTHER, on("h2"), (404, "PortNotFound")),
        (
            "GET",
            format!("{path}/h9"),
            ADMIN,
            json!(null),
            (404, "PortBindingNotFound"),
        ),
        (
            "DELETE",
            format!("{path}/h9"),
            ADMIN,
            json!(null),
            (404, "PortBindingNotFound"),
        ),
        (
            "PUT",
            format!("{path}/h9/activate"),
            ADMIN,
            json!(null),
            (404, "PortBindingNotFound"),
        ),
        (
            "PUT",
            format!("{path}/h1/activate"),
            ADMIN,
            json!(null),
            (409, "PortBindingAlreadyActive"),
        ),
    ];
    for (method, path, token, body, (status, kind)) in table {
        let refused = cloud.refused(method, &path, token, body.clone()).await;
        assert_eq!(refused, (status, kind.to_owned()), "{method} {path} {body}");
    }
    let extension = cloud.get("extensions/binding-extended", DEMO).await;
    assert_eq!(extension["extension"]["alias"], "binding-extended");
}
