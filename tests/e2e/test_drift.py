"""Ports of servers that change behind compute's back: the server follows, and its guest with it."""

import ipaddress
import uuid

import pytest

from cloud import wait_until
from sim_hosts import faults, files_of, spec_of, step_of
from test_bad_luck import services
from test_servers import boot, wait_status

# More than may be gone at once in any cloud.
MANY = 12


@pytest.fixture(scope="module")
def own(new_cloud):
    made = new_cloud(hosts=1)
    made.configure("[DEFAULT]\nreport_interval = 1\n")
    made.start()
    return made


@pytest.fixture(scope="module")
def sdk(own):
    return own.client("kilonova-demo").sdk()


@pytest.fixture
def server(own, sdk, name):
    """One with two ports on one network, of which the first is left alone."""
    image, network = sdk.image.find_image("cirros-sim-disk"), sdk.network.find_network("private").id
    made = boot(sdk, name, {"id": image.id}, networks=[{"uuid": network}] * 2).id
    wait_status(sdk, made, "ACTIVE")
    assert len(seen(own, sdk, made)[0]) == 2
    yield made
    sdk.compute.delete_server(made)
    wait_until(lambda: sdk.compute.find_server(made) is None, 60, "the server is gone")
    wait_until(lambda: not own.audit(), 60, lambda: own.audit())


def seen(cloud, sdk, server):
    """What the guest has and what the server shows: ports, and addresses."""
    ports = sorted(vif["port_id"] for vif in spec_of(cloud, server)["vifs"])
    addresses = sdk.compute.get_server(server).addresses.get("private", [])
    return ports, sorted(one["addr"] for one in addresses)


def listed(sdk, server):
    return sorted(one.port_id for one in sdk.compute.server_interfaces(server))


def follows(cloud, sdk, server, ports, addresses):
    wanted = (sorted(ports), sorted(addresses))
    wait_until(lambda: seen(cloud, sdk, server) == wanted, 60, lambda: f"{wanted}: {seen(cloud, sdk, server)}")
    assert listed(sdk, server) == sorted(ports)
    shown = sdk.compute.get_server(server)
    assert (shown.status, shown.fault) == ("ACTIVE", None)
    wait_until(lambda: step_of(cloud, server) is None, 60, "nobody works on it")
    assert not cloud.audit()


def address(port):
    return port.fixed_ips[0]["ip_address"]


def test_a_port_that_is_deleted(own, sdk, server):
    stays, goes = sdk.network.ports(device_id=server)
    sdk.network.delete_port(goes)
    follows(own, sdk, server, [stays.id], [address(stays)])


def test_a_port_that_is_given_to_another_device(own, sdk, server):
    stays, goes = sdk.network.ports(device_id=server)
    other = str(uuid.uuid4())
    sdk.network.update_port(goes, device_id=other, device_owner="compute:elsewhere")
    follows(own, sdk, server, [stays.id], [address(stays)])
    found = sdk.network.get_port(goes.id)
    assert found.device_id == other, "whoever has it now keeps it"
    sdk.network.delete_port(goes)


def test_a_fixed_address_that_changes(own, sdk, server):
    stays, changes = sdk.network.ports(device_id=server)
    guest = files_of(own, server)
    subnet = sdk.network.get_subnet(changes.fixed_ips[0]["subnet_id"])
    last = ipaddress.ip_address(subnet.allocation_pools[0]["end"])
    taken = {address(port) for port in sdk.network.ports(network_id=changes.network_id)}
    # Two in the place of one.
    new = [one for one in (str(last - back) for back in range(9)) if one not in taken][:2]
    admin = own.client("kilonova").sdk()
    admin.network.update_port(changes.id, fixed_ips=[{"subnet_id": subnet.id, "ip_address": one} for one in new])
    follows(own, sdk, server, [stays.id, changes.id], [address(stays), *new])
    assert files_of(own, server) == guest, "its interfaces are what they were"


def test_many_that_are_gone_at_once(own, sdk, name):
    """As of a network service that has lost its data: guests keep what they have, and the operator is told."""
    image, network = sdk.image.find_image("cirros-sim-disk"), sdk.network.find_network("private").id
    server = boot(sdk, name, {"id": image.id}, networks=[{"uuid": network}] * MANY).id
    wait_status(sdk, server, "ACTIVE")
    before, guest = seen(own, sdk, server), files_of(own, server)
    assert len(before[0]) == MANY
    # Nothing is taken from the guest of a host that is away, so that all are gone when it is back.
    with faults(own, {"down": True}):
        wait_until(lambda: set(services(own).values()) == {"down"}, 60, "the host is down")
        for port in before[0]:
            sdk.network.delete_port(port)
    said = "the network service does not know most of the ports that servers show"
    wait_until(lambda: set(services(own).values()) == {"up"}, 60, "the host is up")
    log = own.log.read_text().count(said)
    wait_until(lambda: own.log.read_text().count(said) > log, 60, "it is in the log, once more")
    assert seen(own, sdk, server) == before and files_of(own, server) == guest
    told = own.audit()
    for port in before[0]:
        assert f"server {server} shows port {port}, which is gone or not its own any more; as most ports are" in told
    out, complaint = own.manage("audit", "--fix", status=1)
    assert f"mended 0 of {MANY}; the others are for you" in complaint, (out, complaint)
    assert seen(own, sdk, server) == before and files_of(own, server) == guest
    sdk.compute.delete_server(server)
    wait_until(lambda: sdk.compute.find_server(server) is None, 60, "the server is gone")
    wait_until(lambda: not own.audit(), 60, lambda: own.audit())
