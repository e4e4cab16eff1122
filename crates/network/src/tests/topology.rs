//! Networks for projects that ask for any.
use super::*;

const PATH: &str = "auto-allocated-topology/demo";

async fn site(cloud: &Cloud) -> String {
    let network = json!({"network": {"name": "out", "router:external": true, "is_default": true}});
    let network = text(&cloud.make("networks", ADMIN, network).await["id"]);
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "203.0.113.0/24", "enable_dhcp": false}});
    cloud.make("subnets", ADMIN, subnet).await;
    network
}

async fn pool(cloud: &Cloud) {
    let pool = json!({"subnetpool": {"name": "p", "prefixes": ["10.20.0.0/16"], "default_prefixlen": 26, "shared": true, "is_default": true}});
    cloud.make("subnetpools", ADMIN, pool).await;
}

#[tokio::test]
async fn a_topology_is_made_once_and_goes_as_a_whole() {
    let cloud = Cloud::new().await;
    let outside = site(&cloud).await;
    pool(&cloud).await;
    let id = |answer: Value| text(&answer["auto_allocated_topology"]["id"]);
    let dry = format!("{PATH}?fields=dry-run");
    assert_eq!(id(cloud.get(&dry, DEMO).await), "dry-run=pass");
    assert_eq!(
        cloud.get("networks?shared=false", DEMO).await["networks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // All at once get the same.
    let (a, b, c) = tokio::join!(
        cloud.get(PATH, DEMO),
        cloud.get(PATH, ADMIN),
        cloud.get(PATH, DEMO)
    );
    let network = id(a);
    assert_eq!((&id(b), &id(c)), (&network, &network));
    let shown = cloud.get(&format!("networks/{network}"), DEMO).await["network"].clone();
    assert_eq!(
        (&shown["name"], &shown["project_id"]),
        (&json!("auto_allocated_network"), &json!("demo"))
    );
    let subnet = cloud
        .get(&format!("subnets/{}", text(&shown["subnets"][0])), DEMO)
        .await["subnet"]
        .clone();
    assert_eq!(subnet["cidr"], "10.20.0.0/26");
    let routers = cloud.get("routers", DEMO).await["routers"].clone();
    assert_eq!(routers.as_array().unwrap().len(), 1);
    assert_eq!(
        routers[0]["external_gateway_info"]["network_id"],
        json!(outside)
    );
    let port = cloud.port(DEMO, &network).await;
    assert_eq!(
        cloud.refused("DELETE", PATH, DEMO, json!(null)).await,
        (409, "NetworkInUse".into())
    );
    cloud
        .delete(&format!("ports/{}", text(&port["id"])), DEMO)
        .await;
    cloud.delete(PATH, DEMO).await;
    assert_eq!(cloud.get("routers", DEMO).await["routers"], json!([]));
    // Another time it is another one.
    assert_ne!(id(cloud.get(PATH, DEMO).await), network);
}

#[tokio::test]
async fn what_a_topology_needs() {
    let cloud = Cloud::new().await;
    let dry = format!("{PATH}?fields=dry-run");
    let missing = (409, "AutoAllocationFailure".to_owned());
    assert_eq!(cloud.refused("GET", &dry, DEMO, json!(null)).await, missing);
    site(&cloud).await;
    assert_eq!(cloud.refused("GET", PATH, DEMO, json!(null)).await, missing);
    assert_eq!(cloud.get("routers", ADMIN).await["routers"], json!([]));
    pool(&cloud).await;
    assert_eq!(cloud.refused("GET", PATH, OTHER, json!(null)).await.0, 403);
    cloud
        .put("quotas/demo", ADMIN, json!({"quota": {"router": 0}}))
        .await;
    assert_eq!(
        cloud.refused("GET", PATH, DEMO, json!(null)).await,
        (409, "OverQuota".into())
    );
    assert_eq!(
        cloud.get("networks?project_id=demo", ADMIN).await["networks"],
        json!([])
    );
}
