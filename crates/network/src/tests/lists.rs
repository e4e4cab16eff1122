use super::*;

#[tokio::test]
async fn filters_sorting_and_pages() {
    let cloud = Cloud::new().await;
    for name in ["b", "a", "c"] {
        cloud
            .make(
                "networks",
                DEMO,
                json!({"network": {"name": name, "admin_state_up": name != "c"}}),
            )
            .await;
    }
    cloud
        .make("networks", OTHER, json!({"network": {"name": "hidden"}}))
        .await;
    cloud
        .make(
            "networks",
            ADMIN,
            json!({"network": {"name": "z", "shared": true}}),
        )
        .await;
    let names = |query: &'static str| {
        let cloud = cloud.clone();
        async move {
            let body = cloud.get(&format!("networks?{query}"), DEMO).await;
            body["networks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|network| text(&network["name"]))
                .collect::<Vec<_>>()
        }
    };
    for (query, wanted) in [
        ("sort_key=name&sort_dir=asc", vec!["a", "b", "c", "z"]),
        ("sort_key=name&sort_dir=desc", vec!["z", "c", "b", "a"]),
        ("name=a&name=b&sort_key=name", vec!["a", "b"]),
        ("admin_state_up=False", vec!["c"]),
        ("shared=true", vec!["z"]),
        ("tenant_id=demo&sort_key=name", vec!["a", "b", "c"]),
        ("name=hidden", vec![]),
        ("sort_key=name&limit=2", vec!["a", "b"]),
    ] {
        assert_eq!(names(query).await, wanted, "{query}");
    }
    let page = cloud
        .get("networks?sort_key=name&limit=2&fields=id&fields=name", DEMO)
        .await;
    assert_eq!(page["networks"][0].as_object().unwrap().len(), 2);
    let next = text(&page["networks_links"][0]["href"]);
    let query = next.split_once('?').unwrap().1;
    let page = cloud.get(&format!("networks?{query}"), DEMO).await;
    assert_eq!(page["networks"][0]["name"], "c");
    let rels: Vec<String> = page["networks_links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| text(&link["rel"]))
        .collect();
    assert_eq!(rels, ["previous"]);
    let back = text(&page["networks_links"][0]["href"]);
    let page = cloud
        .get(
            &format!("networks?{}", back.split_once('?').unwrap().1),
            DEMO,
        )
        .await;
    assert_eq!(page["networks"][0]["name"], "a");
    for wrong in [
        "limit=x",
        "sort_key=color",
        "sort_key=name&sort_dir=up",
        "marker=nobody",
    ] {
        assert_eq!(
            cloud
                .refused("GET", &format!("networks?{wrong}"), DEMO, json!(null))
                .await
                .0,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn ports_by_address() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network(DEMO, "10.0.0.0/24").await;
    let port = cloud
        .make(
            "ports",
            DEMO,
            json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.99"}]}}),
        )
        .await;
    for query in [
        "fixed_ips=ip_address%3D10.0.0.99".to_owned(),
        format!("fixed_ips=subnet_id%3D{subnet}&fixed_ips=ip_address%3D10.0.0.99"),
        "fixed_ips=ip_address_substr%3D0.99".to_owned(),
        format!("id={}", text(&port["id"])),
    ] {
        let found = cloud.get(&format!("ports?{query}"), DEMO).await;
        assert_eq!(found["ports"].as_array().unwrap().len(), 1, "{query}");
        assert_eq!(found["ports"][0]["id"], port["id"]);
    }
}

#[tokio::test]
async fn documents() {
    let cloud = Cloud::new().await;
    let extensions = cloud.get("extensions", DEMO).await;
    assert!(
        extensions["extensions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|extension| extension["alias"] == "security-group")
    );
    assert_eq!(
        cloud.get("extensions/router", DEMO).await["extension"]["alias"],
        "router"
    );
    assert_eq!(
        cloud
            .refused("GET", "extensions/qos", DEMO, json!(null))
            .await
            .0,
        404
    );
    assert!(
        !cloud.get("", DEMO).await["resources"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    let usage = cloud
        .get(&format!("network-ip-availabilities/{network}"), ADMIN)
        .await;
    let usage = &usage["network_ip_availability"];
    assert_eq!(
        (usage["total_ips"].as_i64(), usage["used_ips"].as_i64()),
        (Some(253), Some(1))
    );
}
