"""The network commands of the story."""

import ipaddress

from cloud import wait_until
from test_servers import boot, wait_status


def test_network_to_floating_ip(demo, name):
    network = demo.get("network", "create", name)
    assert network["status"] in ("ACTIVE", "DOWN") and network["mtu"] >= 1280
    subnet = demo.get(
        "subnet", "create", "--network", name, "--subnet-range", "10.31.0.0/24", "--dns-nameserver", "192.0.2.53", name
    )
    assert subnet["gateway_ip"] == "10.31.0.1"
    assert subnet["allocation_pools"] == [{"start": "10.31.0.2", "end": "10.31.0.254"}]

    demo.run("router", "create", name)
    demo.run("router", "set", "--external-gateway", "public", name)
    demo.run("router", "add", "subnet", name, name)
    router = demo.get("router", "show", name)
    outside = router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
    assert ipaddress.ip_address(outside)
    assert [item["ip_address"] for item in router["interfaces_info"]] == ["10.31.0.1"]

    group = demo.get("security", "group", "create", "--description", "web", name)
    assert len(group["rules"]) == 2, "a new group lets everything out, by IPv4 and IPv6"
    rule = demo.get(
        "security",
        "group",
        "rule",
        "create",
        "--protocol",
        "tcp",
        "--dst-port",
        "80:81",
        "--remote-ip",
        "0.0.0.0/0",
        name,
    )
    assert (rule["port_range_min"], rule["port_range_max"], rule["direction"]) == (80, 81, "ingress")
    demo.run("security", "group", "rule", "create", "--protocol", "icmp", "--remote-group", name, name)
    assert len(demo.get("security", "group", "rule", "list", name)) == 4
    assert "409" in demo.fails(
        "security",
        "group",
        "rule",
        "create",
        "--protocol",
        "tcp",
        "--dst-port",
        "80:81",
        "--remote-ip",
        "0.0.0.0/0",
        name,
    )

    port = demo.get(
        "port", "create", "--network", name, "--fixed-ip", f"subnet={name},ip-address=10.31.0.77",
        "--security-group", name, "--allowed-address", "ip-address=10.31.0.200", name,
    )  # fmt: skip
    assert port["fixed_ips"][0]["ip_address"] == "10.31.0.77"
    assert port["mac_address"].startswith("fa:16:3e")

    address = demo.get("floating", "ip", "create", "--port", name, "public")
    assert address["fixed_ip_address"] == "10.31.0.77"
    assert [row["Floating IP Address"] for row in demo.get("floating", "ip", "list", "--port", name)] == [
        address["name"]
    ]

    # Things in use cannot be taken away.
    assert "409" in demo.fails("router", "delete", name)
    assert "409" in demo.fails("network", "delete", name)
    assert "409" in demo.fails("security", "group", "delete", name)

    demo.run("floating", "ip", "delete", address["id"])
    demo.run("port", "delete", name)
    demo.run("router", "remove", "subnet", name, name)
    demo.run("router", "delete", name)
    demo.run("security", "group", "delete", name)
    demo.run("network", "delete", name)
    assert name not in demo.names("network", "list")
    assert name not in demo.names("subnet", "list")


def test_subnet_pools(demo, name):
    pool = demo.get("subnet", "pool", "create", "--pool-prefix", "10.50.0.0/22", "--default-prefix-length", "24", name)
    assert (pool["prefixes"], pool["default_prefixlen"]) == (["10.50.0.0/22"], 24)
    demo.run("network", "create", name)
    taken = [
        demo.get("subnet", "create", "--network", name, "--subnet-pool", name, *length, f"{name}-{number}")
        for number, length in enumerate([(), (), ("--prefix-length", "23")])
    ]
    assert [subnet["cidr"] for subnet in taken] == ["10.50.0.0/24", "10.50.1.0/24", "10.50.2.0/23"]
    assert {subnet["subnetpool_id"] for subnet in taken} == {pool["id"]}
    refused = demo.fails("subnet", "create", "--network", name, "--subnet-pool", name, f"{name}-3")
    assert "409" in refused and "Insufficient prefix space" in refused, refused
    assert "409" in demo.fails("subnet", "pool", "delete", name)

    demo.run("subnet", "pool", "set", "--pool-prefix", "10.50.4.0/24", "--default-prefix-length", "25", name)
    shown = demo.get("subnet", "pool", "show", name)
    assert shown["default_prefixlen"] == 25 and len(shown["prefixes"]) == 2
    last = demo.get("subnet", "create", "--network", name, "--subnet-pool", name, f"{name}-3")
    assert last["cidr"] == "10.50.4.0/25"

    demo.run("network", "delete", name)
    assert name in demo.names("subnet", "pool", "list")
    demo.run("subnet", "pool", "delete", name)
    assert name not in demo.names("subnet", "pool", "list")


def test_networks_of_another_project_are_not_there(admin, demo, name):
    admin.run("network", "create", name)
    try:
        assert name not in demo.names("network", "list")
        assert "No Network found" in demo.fails("network", "show", name)
    finally:
        admin.run("network", "delete", name)


def test_a_server_on_a_network_without_port_security(demo_sdk, image, name):
    """Nobody asked for a security group, so there is none; one that is asked for cannot be had."""
    network = demo_sdk.network.create_network(name=name, is_port_security_enabled=False)
    demo_sdk.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.32.0.0/24")
    group = demo_sdk.network.create_security_group(name=name)
    server = boot(demo_sdk, name, image, networks=[{"uuid": network.id}])
    wait_status(demo_sdk, server.id, "ACTIVE")
    ports = list(demo_sdk.network.ports(device_id=server.id))
    assert [port.security_group_ids for port in ports] == [[]]
    assert not demo_sdk.compute.get_server(server.id).security_groups
    refused = boot(demo_sdk, name, image, networks=[{"uuid": network.id}], security_groups=[{"name": name}])
    fault = wait_status(demo_sdk, refused.id, "ERROR").fault
    assert "Port security must be enabled" in fault["message"], fault
    for one in (server, refused):
        demo_sdk.compute.delete_server(one.id)
        demo_sdk.compute.wait_for_delete(one)
    for one in (server, refused):
        wait_until(lambda one=one: not list(demo_sdk.network.ports(device_id=one.id)), 60, "no ports")
    demo_sdk.network.delete_security_group(group.id)
    demo_sdk.network.delete_network(network.id)


def test_agents_extensions_and_quota(admin, demo):
    assert any(row["Alive"] in (True, ":-)") for row in admin.get("network", "agent", "list"))
    aliases = {row["Alias"] for row in demo.get("extension", "list", "--network")}
    assert aliases >= {"router", "external-net", "security-group", "port-security", "allowed-address-pairs", "agent"}
    quota = {row["Resource"]: row["Limit"] for row in demo.get("quota", "show", "--network")}
    assert quota["networks"] > 0
