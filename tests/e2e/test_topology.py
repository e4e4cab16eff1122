"""Networks that the cloud makes for projects which ask for any, and trunks, with the stock SDK."""

import openstack
import pytest

from cloud import wait_until


@pytest.fixture
def site(new_cloud):
    """A cloud without a shared network, and with a default pool of addresses."""
    cloud = new_cloud(hosts=2)
    cloud.start()
    admin = cloud.client("kilonova").sdk()
    private = next(n for n in admin.network.networks() if not n.is_router_external)
    admin.network.update_network(private, shared=False)
    return cloud, admin


def test_servers_on_networks_made_for_them(site, name):
    cloud, admin = site
    sdk = cloud.client("kilonova-demo").sdk()
    flavor = sdk.compute.find_flavor("m1.nano").id
    wish = {"name": name, "image_id": next(sdk.image.images()).id, "flavor_id": flavor, "networks": "auto"}
    with pytest.raises(openstack.exceptions.BadRequestException, match="No default subnetpools defined"):
        sdk.compute.create_server(**wish)
    admin.network.create_subnet_pool(
        name="pool", prefixes=["10.99.0.0/16"], default_prefixlen=26, is_default=True, shared=True
    )
    servers = [sdk.compute.create_server(**wish) for _ in range(2)]
    servers = [sdk.compute.wait_for_server(server, wait=60) for server in servers]
    assert {network for server in servers for network in server.addresses} == {"auto_allocated_network"}
    own = [n for n in sdk.network.networks() if not n.is_router_external]
    assert [n.name for n in own] == ["auto_allocated_network"]
    router = next(sdk.network.routers())
    assert router.external_gateway_info["network_id"]
    for server in servers:
        sdk.compute.delete_server(server)


def test_a_trunk_moves_with_its_server(site, name):
    cloud, admin = site
    network, other = (admin.network.create_network(name=f"{name}-{n}") for n in range(2))
    for number, one in enumerate((network, other)):
        admin.network.create_subnet(network_id=one.id, ip_version=4, cidr=f"10.{50 + number}.0.0/24")
    parent, carried = (admin.network.create_port(network_id=one.id) for one in (network, other))
    subs = [{"port_id": carried.id, "segmentation_type": "vlan", "segmentation_id": 42}]
    trunk = admin.network.create_trunk(name=name, port_id=parent.id, sub_ports=subs)
    server = admin.compute.create_server(
        name=name,
        image_id=next(admin.image.images()).id,
        flavor_id=admin.compute.find_flavor("m1.nano").id,
        networks=[{"port": parent.id}],
    )
    server = admin.compute.wait_for_server(server, wait=60)

    def state():
        ports = [admin.network.get_port(port) for port in (parent, carried)]
        seen = {(port.binding_host_id, port.status) for port in ports}
        return seen, admin.network.get_trunk(trunk).status

    first = server.compute_host or server.hypervisor_hostname
    wait_until(lambda: state() == ({(first, "ACTIVE")}, "ACTIVE"), 60, state)
    admin.compute.live_migrate_server(server, host=None, block_migration="auto")
    server = wait_until(
        lambda: next(
            (s for s in [admin.compute.get_server(server)] if s.status == "ACTIVE" and s.compute_host != first), None
        ),
        60,
        lambda: admin.compute.get_server(server).status,
    )
    wait_until(lambda: state() == ({(server.compute_host, "ACTIVE")}, "ACTIVE"), 60, state)
    admin.compute.delete_server(server)
    wait_until(lambda: state()[1] == "DOWN", 60, state)
    admin.network.delete_trunk(trunk)
