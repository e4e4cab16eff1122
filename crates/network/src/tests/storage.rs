//! The same requests on every database that the environment names.

use super::*;

async fn story(cloud: Cloud) {
    let built = cloud.service.bootstrap("adm").await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (cloud, network) = (cloud.clone(), built.private_network.clone());
            tokio::spawn(async move { cloud.port(DEMO, &network).await })
        })
        .collect();
    let mut ports = Vec::new();
    for task in tasks {
        ports.push(task.await.unwrap());
    }
    let mut ips: Vec<String> = ports
        .iter()
        .map(|port| text(&port["fixed_ips"][0]["ip_address"]))
        .collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 20);
    let groups = cloud.get("security-groups", DEMO).await;
    assert_eq!(
        groups["security_groups"].as_array().unwrap().len(),
        1,
        "one default group, however many came at once"
    );
    let floating = json!({"floatingip": {"floating_network_id": built.public_network, "port_id": ports[0]["id"]}});
    let floating = cloud.make("floatingips", DEMO, floating).await;
    assert_eq!(floating["router_id"], built.router.as_str());
    cloud
        .put("quotas/demo", ADMIN, json!({"quota": {"port": 20}}))
        .await;
    cloud
        .put("quotas/demo", ADMIN, json!({"quota": {"port": 21}}))
        .await;
    let bulk = json!({"ports": [{"network_id": built.private_network}, {"network_id": built.private_network}]});
    assert_eq!(
        cloud.refused("POST", "ports", DEMO, bulk).await,
        (409, "OverQuota".into())
    );
    for port in &ports {
        cloud
            .delete(&format!("ports/{}", text(&port["id"])), DEMO)
            .await;
    }
    cloud
        .delete(&format!("floatingips/{}", text(&floating["id"])), DEMO)
        .await;
    assert_eq!(cloud.get("ports", DEMO).await["ports"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_every_database() {
    for database in sql::testing::databases().await {
        eprintln!("{}", database.name);
        story(Cloud::on(database.store.clone()).await).await;
        two_services(&database).await;
    }
}

/// What one process changes, an agent that asks another one hears.
async fn two_services(database: &sql::testing::TestStore) {
    let (one, two) = (
        Cloud::on(database.store.clone()).await,
        Cloud::on(database.again().await).await,
    );
    let have = two.wanted("h1", 0, 0).await.unwrap();
    let (network, _) = one.network(DEMO, "10.0.0.0/24").await;
    let port = one.bound(&network, "h1").await;
    let mut have = have;
    for _ in 0..12 {
        if let Some(news) = two.wanted("h1", have.revision, 5).await {
            have.update(news);
        }
        if !have.ports.is_empty() {
            break;
        }
    }
    assert_eq!(
        have.ports[0].id.to_string(),
        text(&port["id"]),
        "{}",
        database.name
    );
}
