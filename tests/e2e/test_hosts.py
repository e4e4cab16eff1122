"""Three real hosts and a controller, joined by a wire: guests of a network are neighbours wherever they run."""

import os
import subprocess
import tempfile

import pytest

from cloud import Failure, free_ports, wait_until
from hosts import Host, Wire
from roles import Roles

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture
def wire():
    made = Wire(f"kw{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    yield made
    made.discard()


@pytest.fixture
def roles(wire):
    home = tempfile.mkdtemp(prefix="kilonova-e2e-hosts-")
    desks = [f"https://{wire.address}:{port}" for port in free_ports(2)]
    settings = {
        "DEFAULT": {"report_interval": 2},
        "kilonova": {"listen": wire.address},
        "neutron": {"metadata_proxy_shared_secret": "said between hosts and control"},
        "conductor": {"agent_listen": desks[0]},
        "network": {"agent_listen": desks[1]},
        "agent": {"conductors": desks[0], "networks": desks[1]},
    }
    made = Roles(home, settings)
    yield made
    made.discard()


@pytest.fixture
def hosts(wire, roles):
    made = []
    try:
        for number in (1, 2, 3):
            made.append(Host(wire, number, roles.home / "hosts"))
        yield made
    finally:
        for one in made:
            one.discard()


def start_host(roles, host):
    """Both agents of a host, each with the host's own home and certificate."""
    home = host.folder / "home"
    done = roles.command("manage", "certificates", "host", host.name, "--into", str(home / "certificates"))
    assert done.returncode == 0, done.stderr
    settings = (f"DEFAULT.host={host.name}", f"DEFAULT.my_ip={host.address}", f"vxlan.local_ip={host.address}")
    for role in ("network-agent", "compute"):
        roles.start(role, *settings, home=home, inside=host.inside)


def ssh(gateway, key, router, address, *command):
    """A command in a guest, by way of the router on the host that has it."""
    line = [
        "ip", "netns", "exec", router, "ssh", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", f"cirros@{address}", *command,
    ]  # fmt: skip
    return gateway.run(*line, timeout=60).stdout


def test_guests_on_different_hosts_are_neighbours(roles, wire, hosts, key, guest_image, name):
    for arguments in (["init"], ["server", wire.address]):
        done = roles.command("manage", "certificates", *arguments)
        assert done.returncode == 0, done.stderr
    roles.sync()
    for role in ("identity", "image", "network", "placement", "metadata", "api", "conductor"):
        roles.start(role)
    for host in hosts:
        start_host(roles, host)

    admin = roles.client()
    sdk = admin.sdk()
    names = {host.name for host in hosts}

    def up():
        return {s.host for s in sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"}

    wait_until(lambda: up() == names, 120, lambda: f"hosts up: {up()}\n{roles.tail()}")
    image = admin.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", name
    )  # fmt: skip
    with open(f"{key}.pub") as public:
        sdk.compute.create_keypair(name=name, public_key=public.read())
    group = next(g for g in sdk.network.security_groups() if g.project_id == sdk.current_project_id)
    for protocol in ("icmp", "tcp"):
        sdk.network.create_security_group_rule(security_group_id=group.id, direction="ingress", protocol=protocol)
    network = sdk.network.find_network("private")
    flavor = sdk.compute.find_flavor("m1.nano")
    servers = [
        sdk.compute.create_server(
            name=f"{name}-{host.name}", image_id=image["id"], flavor_id=flavor.id, key_name=name,
            networks=[{"uuid": network.id}], availability_zone=f"nova:{host.name}",
        )
        for host in hosts
    ]  # fmt: skip

    def active():
        found = [sdk.compute.get_server(server.id) for server in servers]
        if any(server.status == "ERROR" for server in found):
            raise Failure(f"{[server.fault for server in found]}\n{roles.tail()}")
        return found if all(server.status == "ACTIVE" for server in found) else None

    found = wait_until(active, 240, lambda: f"all active\n{roles.tail()}", pause=1)
    assert {server.compute_host for server in found} == names
    addresses = [server.addresses["private"][0]["addr"] for server in found]

    # One host has the router and the DHCP server of the network, and no other one.
    spaces = {host.name: host.run("ip", "netns", "list").stdout.split() for host in hosts}
    with_router = [host for host in hosts if any(space.startswith("krouter-") for space in spaces[host.name])]
    with_dhcp = [host for host in hosts if any(space.startswith("kdhcp-") for space in spaces[host.name])]
    assert len(with_router) == 1 and with_router == with_dhcp, spaces
    gateway = with_router[0]
    router = next(space for space in spaces[gateway.name] if space.startswith("krouter-"))

    # Each has its address by DHCP and its key by the metadata service, over the wire where need be.
    def answers(address):
        try:
            return ssh(gateway, key, router, address, "hostname").strip()
        except subprocess.SubprocessError:
            return None

    for server, address in zip(found, addresses, strict=True):
        wait_until(lambda at=address: answers(at), 180, lambda at=address: f"{at} answers\n{roles.tail()}", pause=1)
        assert answers(address) == server.name
    for address in addresses:
        for other in addresses:
            if other != address:
                ssh(gateway, key, router, address, "sudo", "ping", "-c", "1", "-W", "5", other)
    # Whole packets: 1450 bytes of the network's MTU, without room for headers.
    ssh(gateway, key, router, addresses[0], "sudo", "ping", "-c", "1", "-W", "5", "-s", "1422", addresses[1])

    for server in servers:
        sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(sdk.compute.servers()), 60, lambda: f"all deleted\n{roles.tail()}")

    def left():
        return {host.name: host.run("ip", "-o", "link", "show", "type", "vxlan").stdout for host in hosts}

    # What leads to other hosts goes with the last guest; the gateway keeps its end.
    wait_until(
        lambda: not any(text for host, text in left().items() if host != gateway.name), 30, lambda: f"tunnels: {left()}"
    )
