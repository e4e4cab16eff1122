//! The same requests on every database that the environment names.

use super::*;

const TABLES: &[&str] = &[
    "networks",
    "subnets",
    "subnetpools",
    "address_scopes",
    "ports",
    "routers",
    "floatingips",
    "groups",
    "rules",
    "allocations",
    "port_groups",
    "counters",
    "changes",
    "hosts",
    "agents",
    "quotas",
];

async fn emptied(url: &str) -> sql::Store {
    let store = sql::Store::open(url).await.unwrap();
    store.migrate("network-tests", &[]).await.unwrap();
    let forget = |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        for table in TABLES {
            tx.execute(&format!("DROP TABLE IF EXISTS net_{table}"), &[])?;
        }
        tx.execute(
            "DELETE FROM schema_migrations WHERE component = 'network'",
            &[],
        )?;
        Ok(())
    };
    store.write(forget).await.unwrap();
    store
}

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

#[tokio::test]
async fn sqlite() {
    story(Cloud::new().await).await;
}

#[tokio::test]
async fn postgres_and_mysql() {
    for variable in ["KILONOVA_TEST_POSTGRES", "KILONOVA_TEST_MYSQL"] {
        match std::env::var(variable) {
            Ok(url) => story(Cloud::on(emptied(&url).await).await).await,
            Err(_) => eprintln!("{variable} is not set: not tested there"),
        }
    }
}
