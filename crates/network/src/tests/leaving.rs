//! What goes along when a network or a subnet goes.
use super::*;

#[tokio::test]
async fn an_external_network_takes_idle_floating_ips_along() {
    let cloud = Cloud::new().await;
    let network = json!({"network": {"router:external": true}});
    let network = text(&cloud.make("networks", ADMIN, network).await["id"]);
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "192.0.2.0/24", "enable_dhcp": false}});
    cloud.make("subnets", ADMIN, subnet).await;
    let floating = json!({"floatingip": {"floating_network_id": network}});
    cloud.make("floatingips", ADMIN, floating).await;
    cloud.delete(&format!("networks/{network}"), ADMIN).await;
    for list in ["floatingips", "ports", "subnets"] {
        assert_eq!(cloud.get(list, ADMIN).await[list], json!([]));
    }
}

#[tokio::test]
async fn a_subnet_takes_the_addresses_along_that_ports_made_themselves() {
    for (mode, goes) in [
        ("slaac", true),
        ("dhcpv6-stateless", true),
        ("dhcpv6-stateful", false),
    ] {
        let cloud = Cloud::new().await;
        let network = cloud.make("networks", DEMO, json!({"network": {}})).await;
        let subnet = json!({"subnet": {
            "network_id": network["id"], "ip_version": 6, "cidr": "fd00::/64", "ipv6_address_mode": mode, "ipv6_ra_mode": mode,
        }});
        let subnet = cloud.make("subnets", DEMO, subnet).await;
        let port = cloud.port(DEMO, &text(&network["id"])).await;
        assert_eq!(port["fixed_ips"][0]["subnet_id"], subnet["id"]);
        let path = format!("subnets/{}", text(&subnet["id"]));
        if !goes {
            let refused = cloud.refused("DELETE", &path, DEMO, json!(null)).await;
            assert_eq!(refused, (409, "SubnetInUse".into()));
            continue;
        }
        cloud.delete(&path, DEMO).await;
        let port = cloud
            .get(&format!("ports/{}", text(&port["id"])), DEMO)
            .await;
        assert_eq!(port["port"]["fixed_ips"], json!([]));
        let path = format!("networks/{}", text(&network["id"]));
        let refused = cloud.refused("DELETE", &path, DEMO, json!(null)).await;
        assert_eq!(refused, (409, "NetworkInUse".into()));
    }
}

#[tokio::test]
async fn the_router_keeps_its_subnet() {
    let cloud = Cloud::new().await;
    let network = cloud.make("networks", DEMO, json!({"network": {}})).await;
    let subnet = json!({"subnet": {
        "network_id": network["id"], "ip_version": 6, "cidr": "fd00::/64", "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac",
    }});
    let subnet = cloud.make("subnets", DEMO, subnet).await;
    let router = cloud.make("routers", DEMO, json!({"router": {}})).await;
    let add = format!("routers/{}/add_router_interface", text(&router["id"]));
    cloud
        .put(&add, DEMO, json!({"subnet_id": subnet["id"]}))
        .await;
    let path = format!("subnets/{}", text(&subnet["id"]));
    let refused = cloud.refused("DELETE", &path, DEMO, json!(null)).await;
    assert_eq!(refused, (409, "SubnetInUse".into()));
}

#[tokio::test]
async fn agents_are_not_listed_for_members() {
    let cloud = Cloud::new().await;
    assert_eq!(cloud.get("agents", DEMO).await, json!({"agents": []}));
    let group = cloud
        .make(
            "security-groups",
            DEMO,
            json!({"security_group": {"name": "g"}}),
        )
        .await;
    let rule = json!({"security_group_rule": {
        "security_group_id": group["id"], "direction": "ingress", "protocol": "tcp", "remote_group_id": "bad_group_id",
    }});
    let refused = cloud
        .refused("POST", "security-group-rules", DEMO, rule)
        .await;
    assert_eq!(refused, (404, "SecurityGroupNotFound".into()));
}
