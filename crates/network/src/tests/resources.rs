use super::*;

#[tokio::test]
async fn networks_subnets_ports() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network(DEMO, "10.0.0.0/24").await;
    let shown = cloud.get(&format!("networks/{network}"), DEMO).await["network"].clone();
    assert_eq!(shown["subnets"], json!([subnet]));
    assert_eq!(
        (shown["mtu"].as_i64(), shown["tenant_id"].as_str()),
        (Some(1450), Some("demo"))
    );
    assert!(
        shown.get("provider:network_type").is_none(),
        "only administrators see the provider's side"
    );
    let shown = cloud.get(&format!("networks/{network}"), ADMIN).await["network"].clone();
    assert_eq!(shown["provider:network_type"], "vxlan");
    let shown = cloud.get(&format!("subnets/{subnet}"), DEMO).await["subnet"].clone();
    assert_eq!(shown["gateway_ip"], "10.0.0.1");
    assert_eq!(
        shown["allocation_pools"],
        json!([{"start": "10.0.0.2", "end": "10.0.0.254"}])
    );
    let port = cloud.port(DEMO, &network).await;
    assert_eq!(port["status"], "DOWN");
    assert!(text(&port["mac_address"]).starts_with("fa:16:3e:"));
    assert!(text(&port["fixed_ips"][0]["ip_address"]).starts_with("10.0.0."));
    assert_eq!(port["security_groups"].as_array().unwrap().len(), 1);
    let servers = cloud
        .get(
            &format!("ports?network_id={network}&device_owner=network:dhcp"),
            DEMO,
        )
        .await;
    assert_eq!(
        servers["ports"][0]["fixed_ips"][0]["ip_address"],
        "10.0.0.2"
    );
    let path = format!("ports/{}", text(&port["id"]));
    assert_eq!(
        cloud
            .refused("DELETE", &format!("networks/{network}"), DEMO, json!(null))
            .await,
        (409, "NetworkInUse".into())
    );
    assert_eq!(
        cloud
            .refused("DELETE", &format!("subnets/{subnet}"), DEMO, json!(null))
            .await,
        (409, "SubnetInUse".into())
    );
    assert_eq!(
        cloud.refused("GET", &path, OTHER, json!(null)).await,
        (404, "PortNotFound".into())
    );
    cloud.delete(&path, DEMO).await;
    cloud.delete(&format!("networks/{network}"), DEMO).await;
    assert_eq!(cloud.get("ports", ADMIN).await["ports"], json!([]));
}

#[tokio::test]
async fn what_is_refused() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network(DEMO, "10.0.0.0/29").await;
    let port = |more: Value| {
        let mut port = json!({"network_id": network});
        port.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"port": port})
    };
    let cases = [
        (
            "POST",
            "networks",
            DEMO,
            json!({"network": {"nam": "x"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "POST",
            "networks",
            DEMO,
            json!({"network": {"status": "ACTIVE"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "POST",
            "networks",
            DEMO,
            json!({"network": {"shared": true}}),
            403,
            "PolicyNotAuthorized",
        ),
        (
            "POST",
            "networks",
            DEMO,
            json!({"network": {"project_id": "other"}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "POST",
            "networks",
            DEMO,
            json!({"networ": {}}),
            400,
            "HTTPBadRequest",
        ),
        (
            "POST",
            "networks",
            "reader:demo",
            json!({"network": {}}),
            403,
            "PolicyNotAuthorized",
        ),
        (
            "POST",
            "networks",
            ADMIN,
            json!({"network": {"provider:network_type": "vlan"}}),
            400,
            "InvalidInput",
        ),
        (
            "POST",
            "subnets",
            DEMO,
            json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/25"}}),
            400,
            "InvalidInput",
        ),
        (
            "POST",
            "subnets",
            DEMO,
            json!({"subnet": {"network_id": network, "ip_version": 6, "cidr": "10.9.0.0/25"}}),
            400,
            "InvalidInput",
        ),
        (
            "POST",
            "subnets",
            DEMO,
            json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "gateway_ip": "10.9.0.5", "allocation_pools": [{"start": "10.9.0.2", "end": "10.9.0.9"}]}}),
            409,
            "GatewayConflictWithAllocationPools",
        ),
        (
            "POST",
            "subnets",
            DEMO,
            json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24", "allocation_pools": [{"start": "10.9.0.2", "end": "10.9.1.9"}]}}),
            400,
            "OutOfBoundsAllocationPool",
        ),
        (
            "POST",
            "subnets",
            OTHER,
            json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24"}}),
            404,
            "NetworkNotFound",
        ),
        (
            "POST",
            "ports",
            OTHER,
            port(json!({})),
            404,
            "NetworkNotFound",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"binding:host_id": "h"})),
            403,
            "PolicyNotAuthorized",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"fixed_ips": [{"ip_address": "10.1.0.1"}]})),
            400,
            "InvalidIpForNetwork",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"fixed_ips": [{"subnet_id": subnet, "ip_address": "10.1.0.1"}]})),
            400,
            "InvalidIpForSubnet",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"fixed_ips": [{"subnet_id": subnet, "ip_address": "10.0.0.2"}]})),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"security_groups": ["3f2504e0-4f89-41d3-9a0c-0305e82c3301"]})),
            404,
            "SecurityGroupNotFound",
        ),
        (
            "POST",
            "ports",
            DEMO,
            port(json!({"mac_address": "x"})),
            400,
            "HTTPBadRequest",
        ),
        (
            "POST",
            "floatingips",
            DEMO,
            json!({"floatingip": {"floating_network_id": network}}),
            400,
            "BadRequest",
        ),
        ("GET", "nothing", DEMO, json!(null), 404, "HTTPNotFound"),
        (
            "GET",
            "ports?color=red",
            DEMO,
            json!(null),
            400,
            "HTTPBadRequest",
        ),
        (
            "GET",
            "agent/hosts/h/wanted",
            ADMIN,
            json!(null),
            404,
            "HTTPNotFound",
        ),
    ];
    for (method, path, token, body, status, kind) in cases {
        assert_eq!(
            cloud.refused(method, path, token, body.clone()).await,
            (status, kind.to_owned()),
            "{method} {path} {body}"
        );
    }
    let (status, _) = cloud.call("GET", "networks", "garbage", json!(null)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = cloud.call("GET", "networks", "", json!(null)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_full_subnet() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network(DEMO, "10.0.0.0/29").await;
    for _ in 0..4 {
        cloud.port(DEMO, &network).await;
    }
    let refused = cloud
        .refused(
            "POST",
            "ports",
            DEMO,
            json!({"port": {"network_id": network}}),
        )
        .await;
    assert_eq!(refused, (409, "IpAddressGenerationFailure".into()));
    let ports = cloud
        .get(&format!("ports?network_id={network}"), DEMO)
        .await;
    let mut ips: Vec<String> = ports["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| text(&port["fixed_ips"][0]["ip_address"]))
        .collect();
    ips.sort();
    assert_eq!(
        ips,
        ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    );
}

#[tokio::test]
async fn many_at_once_get_different_addresses() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    let begun = std::time::Instant::now();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (cloud, network) = (cloud.clone(), network.clone());
            tokio::spawn(async move {
                text(&cloud.port(DEMO, &network).await["fixed_ips"][0]["ip_address"])
            })
        })
        .collect();
    let mut ips = std::collections::BTreeSet::new();
    for task in tasks {
        assert!(ips.insert(task.await.unwrap()));
    }
    eprintln!("200 ports in {:?}", begun.elapsed());
    assert_eq!(ips.len(), 200);
}

/// Whoever makes a server asks whether a port without an address is meant to be so.
#[tokio::test]
async fn a_port_says_whether_it_is_to_have_addresses() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    for (more, said) in [
        (json!({}), "immediate"),
        (
            json!({"fixed_ips": [{"ip_address": "10.0.0.9"}]}),
            "immediate",
        ),
        (json!({"fixed_ips": []}), "none"),
    ] {
        let mut port = more;
        port["network_id"] = json!(network);
        let port = cloud.make("ports", DEMO, json!({ "port": port })).await;
        assert_eq!(port["ip_allocation"], said, "{port}");
        let path = format!("ports/{}", text(&port["id"]));
        assert_eq!(cloud.get(&path, DEMO).await["port"]["ip_allocation"], said);
    }
}

#[tokio::test]
async fn changing_a_port() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network(DEMO, "10.0.0.0/24").await;
    let port = cloud
        .make(
            "ports",
            DEMO,
            json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.77"}]}}),
        )
        .await;
    let path = format!("ports/{}", text(&port["id"]));
    let change = json!({"port": {"fixed_ips": [{"ip_address": "10.0.0.78"}]}});
    let changed = cloud.put(&path, DEMO, change).await["port"].clone();
    assert_eq!(changed["fixed_ips"][0]["ip_address"], "10.0.0.78");
    assert_eq!(changed["fixed_ips"].as_array().unwrap().len(), 1);
    assert_eq!(
        changed["revision_number"].as_i64().unwrap(),
        port["revision_number"].as_i64().unwrap() + 1
    );
    let other = cloud
        .make(
            "ports",
            DEMO,
            json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.77"}]}}),
        )
        .await;
    assert_eq!(other["fixed_ips"][0]["ip_address"], "10.0.0.77");
    let kept = json!({"port": {"fixed_ips": [{"subnet_id": subnet}]}});
    assert_eq!(
        cloud.put(&path, DEMO, kept).await["port"]["fixed_ips"],
        changed["fixed_ips"],
        "an address in the subnet stays"
    );
    let secure = json!({"port": {"port_security_enabled": false}});
    assert_eq!(
        cloud.refused("PUT", &path, DEMO, secure).await,
        (400, "PortSecurityAndIPRequiredForSecurityGroups".into())
    );
    let secure = json!({"port": {"port_security_enabled": false, "security_groups": []}});
    assert_eq!(
        cloud.put(&path, DEMO, secure).await["port"]["port_security_enabled"],
        false
    );
    let bound = json!({"port": {"binding:host_id": "h1", "device_id": "s1", "device_owner": "compute:nova"}});
    let bound = cloud.put(&path, ADMIN, bound).await["port"].clone();
    assert_eq!(
        (bound["binding:vif_type"].as_str(), bound["status"].as_str()),
        (Some("bridge"), Some("DOWN"))
    );
    assert!(
        cloud.get(&path, DEMO).await["port"]
            .get("binding:host_id")
            .is_none()
    );
}

#[tokio::test]
async fn security_groups() {
    let cloud = Cloud::new().await;
    let groups = cloud.get("security-groups", DEMO).await["security_groups"].clone();
    assert_eq!(groups.as_array().unwrap().len(), 1);
    assert_eq!(
        (
            groups[0]["name"].as_str(),
            groups[0]["security_group_rules"].as_array().unwrap().len()
        ),
        (Some("default"), 4)
    );
    let named = cloud.get("security-groups?project_id=third", ADMIN).await;
    assert_eq!(named["security_groups"][0]["name"], "default");
    let group = cloud
        .make(
            "security-groups",
            DEMO,
            json!({"security_group": {"name": "web"}}),
        )
        .await;
    assert_eq!(group["security_group_rules"].as_array().unwrap().len(), 2);
    let id = text(&group["id"]);
    let rule = |more: Value| {
        let mut rule = json!({"security_group_id": id, "direction": "ingress"});
        rule.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"security_group_rule": rule})
    };
    let ssh = rule(
        json!({"protocol": "tcp", "port_range_min": 22, "port_range_max": "22", "remote_ip_prefix": "0.0.0.0/0"}),
    );
    let made = cloud.make("security-group-rules", DEMO, ssh.clone()).await;
    assert_eq!(
        (made["port_range_max"].as_i64(), made["protocol"].as_str()),
        (Some(22), Some("tcp"))
    );
    for (body, status, kind) in [
        (ssh, 409, "SecurityGroupRuleExists"),
        (
            rule(json!({"protocol": "6", "port_range_min": 22, "port_range_max": 22})),
            409,
            "SecurityGroupRuleExists",
        ),
        (
            rule(json!({"port_range_min": 22, "port_range_max": 22})),
            400,
            "SecurityGroupProtocolRequiredWithPorts",
        ),
        (
            rule(json!({"protocol": "tcp", "port_range_min": 23, "port_range_max": 22})),
            400,
            "SecurityGroupInvalidPortRange",
        ),
        (
            rule(json!({"protocol": "icmp", "port_range_max": 0})),
            400,
            "SecurityGroupMissingIcmpType",
        ),
        (
            rule(json!({"protocol": "icmp", "port_range_min": 256})),
            400,
            "SecurityGroupInvalidIcmpValue",
        ),
        (
            rule(json!({"remote_ip_prefix": "fd00::/8"})),
            400,
            "SecurityGroupRuleParameterConflict",
        ),
        (
            rule(json!({"direction": "sideways"})),
            400,
            "HTTPBadRequest",
        ),
        (
            rule(json!({"protocol": "gre", "port_range_min": 1, "port_range_max": 1})),
            400,
            "SecurityGroupInvalidProtocolForPort",
        ),
    ] {
        assert_eq!(
            cloud
                .refused("POST", "security-group-rules", DEMO, body.clone())
                .await,
            (status, kind.to_owned()),
            "{body}"
        );
    }
    assert_eq!(
        cloud
            .refused("POST", "security-group-rules", OTHER, rule(json!({})))
            .await,
        (404, "SecurityGroupNotFound".into())
    );
    let path = format!("security-groups/{}", text(&groups[0]["id"]));
    assert_eq!(
        cloud.refused("DELETE", &path, DEMO, json!(null)).await,
        (409, "SecurityGroupCannotRemoveDefault".into())
    );
    cloud
        .delete(&format!("security-group-rules/{}", text(&made["id"])), DEMO)
        .await;
    cloud.delete(&format!("security-groups/{id}"), DEMO).await;
}

#[tokio::test]
async fn routers_and_floating_ips() {
    let cloud = Cloud::new().await;
    let built = cloud.service.bootstrap("adm").await.unwrap();
    assert_eq!(cloud.service.bootstrap("adm").await.unwrap(), built);
    let (network, subnet) = cloud.network(DEMO, "10.5.0.0/24").await;
    let router = json!({"router": {"name": "r", "external_gateway_info": {"network_id": built.public_network}}});
    let router = cloud.make("routers", DEMO, router).await;
    let info = &router["external_gateway_info"];
    assert!(text(&info["external_fixed_ips"][0]["ip_address"]).starts_with("172.24.4."));
    assert_eq!(info["enable_snat"], true);
    let id = text(&router["id"]);
    let port = cloud.port(DEMO, &network).await;
    let floating =
        json!({"floatingip": {"floating_network_id": built.public_network, "port_id": port["id"]}});
    let unreachable = cloud
        .refused("POST", "floatingips", DEMO, floating.clone())
        .await;
    assert_eq!(
        unreachable,
        (404, "ExternalGatewayForFloatingIPNotFound".into())
    );
    let added = cloud
        .put(
            &format!("routers/{id}/add_router_interface"),
            DEMO,
            json!({"subnet_id": subnet}),
        )
        .await;
    assert_eq!(added["subnet_id"], subnet.as_str());
    let again = cloud
        .refused(
            "PUT",
            &format!("routers/{id}/add_router_interface"),
            DEMO,
            json!({"subnet_id": subnet}),
        )
        .await;
    assert_eq!(again, (400, "BadRequest".into()));
    let floating = cloud.make("floatingips", DEMO, floating).await;
    assert_eq!(
        (floating["router_id"].as_str(), floating["status"].as_str()),
        (Some(id.as_str()), Some("DOWN"))
    );
    assert_eq!(
        floating["fixed_ip_address"],
        port["fixed_ips"][0]["ip_address"]
    );
    assert_eq!(floating["port_details"]["network_id"], network.as_str());
    let second =
        json!({"floatingip": {"floating_network_id": built.public_network, "port_id": port["id"]}});
    assert_eq!(
        cloud.refused("POST", "floatingips", DEMO, second).await,
        (409, "FloatingIPPortAlreadyAssociated".into())
    );
    let remove = format!("routers/{id}/remove_router_interface");
    assert_eq!(
        cloud
            .refused("PUT", &remove, DEMO, json!({"subnet_id": subnet}))
            .await,
        (409, "RouterInterfaceInUseByFloatingIP".into())
    );
    assert_eq!(
        cloud
            .refused("DELETE", &format!("routers/{id}"), DEMO, json!(null))
            .await,
        (409, "RouterInUse".into())
    );
    let clear = cloud
        .refused(
            "PUT",
            &format!("routers/{id}"),
            DEMO,
            json!({"router": {"external_gateway_info": {}}}),
        )
        .await;
    assert_eq!(
        clear,
        (409, "RouterExternalGatewayInUseByFloatingIp".into())
    );
    // A deleted port takes its association along, not the floating IP.
    cloud
        .delete(&format!("ports/{}", text(&port["id"])), DEMO)
        .await;
    let path = format!("floatingips/{}", text(&floating["id"]));
    assert_eq!(
        cloud.get(&path, DEMO).await["floatingip"]["port_id"],
        Value::Null
    );
    cloud.delete(&path, DEMO).await;
    cloud.put(&remove, DEMO, json!({"subnet_id": subnet})).await;
    cloud.delete(&format!("routers/{id}"), DEMO).await;
    cloud.delete(&format!("networks/{network}"), DEMO).await;
    let left = cloud
        .get(&format!("ports?network_id={}", built.public_network), ADMIN)
        .await;
    assert_eq!(
        left["ports"].as_array().unwrap().len(),
        1,
        "only router1's gateway: {left}"
    );
}

#[tokio::test]
async fn ipv6_addresses_and_pools() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    let six = json!({"subnet": {"network_id": network, "ip_version": 6, "cidr": "fd00::/64", "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"}});
    cloud.make("subnets", DEMO, six).await;
    let port = cloud.make("ports", ADMIN, json!({"port": {"network_id": network, "mac_address": "fa:16:3e:00:00:01", "project_id": "demo"}})).await;
    assert_eq!(port["fixed_ips"][1]["ip_address"], "fd00::f816:3eff:fe00:1");
    let pool =
        json!({"subnetpool": {"name": "p", "prefixes": ["10.64.0.0/16"], "default_prefixlen": 26}});
    let pool = cloud.make("subnetpools", DEMO, pool).await;
    let mut cidrs = Vec::new();
    for _ in 0..2 {
        let network = cloud.make("networks", DEMO, json!({"network": {}})).await;
        let subnet = cloud.make("subnets", DEMO, json!({"subnet": {"network_id": network["id"], "subnetpool_id": pool["id"], "ip_version": 4}})).await;
        cidrs.push(text(&subnet["cidr"]));
    }
    assert_eq!(cidrs, ["10.64.0.0/26", "10.64.0.64/26"]);
    let refused = cloud
        .refused(
            "DELETE",
            &format!("subnetpools/{}", text(&pool["id"])),
            DEMO,
            json!(null),
        )
        .await;
    assert_eq!(refused, (409, "SubnetPoolDeleteError".into()));
}

#[tokio::test]
async fn quotas_bulk_and_tags() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network(DEMO, "10.0.0.0/24").await;
    cloud
        .put("quotas/demo", ADMIN, json!({"quota": {"port": 3}}))
        .await;
    assert_eq!(
        cloud
            .refused("PUT", "quotas/demo", DEMO, json!({"quota": {"port": 9}}))
            .await,
        (403, "PolicyNotAuthorized".into())
    );
    let two = json!({"ports": [{"network_id": network}, {"network_id": network, "name": "b"}]});
    let made = cloud.make("ports", DEMO, two.clone()).await;
    assert_eq!(made[1]["name"], "b");
    assert_eq!(
        cloud.refused("POST", "ports", DEMO, two).await,
        (409, "OverQuota".into())
    );
    let details = cloud.get("quotas/demo/details.json", DEMO).await;
    assert_eq!(
        details["quota"]["port"],
        json!({"limit": 3, "used": 3, "reserved": 0})
    );
    cloud.delete("quotas/demo", ADMIN).await;
    assert_eq!(cloud.get("quotas/demo", DEMO).await["quota"]["port"], 500);
    let tags = cloud
        .put(
            &format!("networks/{network}/tags"),
            DEMO,
            json!({"tags": ["red", "blue"]}),
        )
        .await;
    assert_eq!(tags["tags"], json!(["blue", "red"]));
    assert_eq!(
        cloud.get("networks?tags=red", DEMO).await["networks"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        cloud.get("networks?not-tags=red", DEMO).await["networks"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}
