"""Three real hosts and a controller, joined by a wire: guests of a network are neighbours wherever they run, and they
move from host to host."""

import os
import pathlib
import re
import subprocess
import tempfile
import time

import pytest

from cloud import Failure, free_ports, wait_until
from hosts import Host, Wire
from roles import Roles

pytestmark = [pytest.mark.real, pytest.mark.long]

# Seconds of silence after which a host is down.
DOWN = 12


class HostsCloud:
    """A cloud of processes whose hosts are namespaces, with an image, a key, and a network that lets pings and SSH in."""

    def __init__(self, wire, home, key):
        self.wire, self.key = wire, key
        desks = [f"https://{wire.address}:{port}" for port in free_ports(2)]
        settings = {
            "DEFAULT": {"report_interval": 2, "service_down_time": DOWN},
            "kilonova": {"listen": wire.address},
            "neutron": {"metadata_proxy_shared_secret": "said between hosts and control"},
            "conductor": {"agent_listen": desks[0]},
            "network": {"agent_listen": desks[1]},
            "agent": {"conductors": desks[0], "networks": desks[1]},
        }
        self.roles = Roles(home, settings)
        self.hosts, self.agents = {}, {}

    def start(self, guest_image):
        for arguments in (["init"], ["server", self.wire.address]):
            done = self.roles.command("manage", "certificates", *arguments)
            assert done.returncode == 0, done.stderr
        self.roles.sync()
        for role in ("identity", "image", "network", "placement", "metadata", "api", "conductor"):
            self.roles.start(role)
        for number in (1, 2, 3):
            self.raise_host(number)
        admin = self.roles.client()
        self.sdk = admin.sdk()
        self.wait_up(set(self.hosts))
        image = admin.get(
            "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", "guest"
        )  # fmt: skip
        self.image = image["id"]
        with open(f"{self.key}.pub") as public:
            self.sdk.compute.create_keypair(name="key", public_key=public.read())
        sdk = self.sdk
        group = next(g for g in sdk.network.security_groups() if g.project_id == sdk.current_project_id)
        for protocol in ("icmp", "tcp"):
            sdk.network.create_security_group_rule(security_group_id=group.id, direction="ingress", protocol=protocol)
        self.network = sdk.network.find_network("private")
        self.flavor = sdk.compute.find_flavor("m1.nano")

    def raise_host(self, number):
        """A host with both its agents, each with the host's own home and certificate."""
        host = Host(self.wire, number, self.roles.home / "hosts")
        self.hosts[host.name] = host
        home = host.folder / "home"
        if not (home / "certificates").exists():
            into = str(home / "certificates")
            done = self.roles.command("manage", "certificates", "host", host.name, "--into", into)
            assert done.returncode == 0, done.stderr
        settings = (f"DEFAULT.host={host.name}", f"DEFAULT.my_ip={host.address}", f"vxlan.local_ip={host.address}")
        for role in ("network-agent", "compute"):
            self.roles.start(role, *settings, home=home, inside=host.inside)
        return host

    def up(self):
        return {s.host for s in self.sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"}

    def wait_up(self, names):
        wait_until(lambda: self.up() == names, 120, lambda: f"hosts up: {self.up()}\n{self.roles.tail()}")

    def create(self, name, host, **more):
        """Asks for a server on a host."""
        return self.sdk.compute.create_server(
            name=name, image_id=self.image, flavor_id=self.flavor.id, key_name="key",
            networks=[{"uuid": self.network.id}], availability_zone=f"nova:{host}", **more,
        )  # fmt: skip

    def wait(self, server, status="ACTIVE", seconds=240):
        """Waits until a server is in this status and nothing goes on with it."""

        def there():
            found = self.sdk.compute.get_server(server.id)
            if found.status == "ERROR":
                raise Failure(f"{found.fault}\n{self.roles.tail(200)}")
            return found if found.status == status and not found.task_state else None

        def what():
            found = self.sdk.compute.get_server(server.id)
            return f"{status}: {found.status} {found.task_state}\n{self.roles.tail(200)}"

        return wait_until(there, seconds, what, pause=0.5)

    def gateway(self):
        """The host that has the router, and the router's namespace there."""
        spaces = {name: host.run("ip", "netns", "list").stdout.split() for name, host in self.hosts.items()}
        with_router = [name for name in self.hosts if any(space.startswith("krouter-") for space in spaces[name])]
        with_dhcp = [name for name in self.hosts if any(space.startswith("kdhcp-") for space in spaces[name])]
        assert len(with_router) == 1 and with_router == with_dhcp, spaces
        router = next(space for space in spaces[with_router[0]] if space.startswith("krouter-"))
        return self.hosts[with_router[0]], router

    def from_router(self, *command):
        """A command line that runs where the network's router is."""
        gateway, router = self.gateway()
        return gateway.inside("ip", "netns", "exec", router, *command)

    def ssh_line(self, address, *command):
        return self.from_router(
            "ssh", "-i", self.key, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", f"cirros@{address}", *command,
        )  # fmt: skip

    def ssh(self, address, *command):
        """What a command in a guest says."""
        line = self.ssh_line(address, *command)
        return subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout

    def wait_ssh(self, address):
        def answers():
            try:
                return self.ssh(address, "hostname").strip()
            except subprocess.SubprocessError:
                return None

        return wait_until(answers, 180, lambda: f"{address} answers\n{self.roles.tail()}", pause=1)

    def domains(self, host):
        """The guests that run on a host, and all that it knows."""
        virsh = ("virsh", "-c", "qemu:///system", "list", "--name")
        running, known = host.run(*virsh), host.run(*virsh, "--all")
        return running.stdout.split(), known.stdout.split()

    def discard(self):
        for host in self.hosts.values():
            host.discard()
        self.roles.discard()


@pytest.fixture(scope="module")
def here(key, guest_image):
    wire = Wire(f"kw{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-hosts-")
    made = HostsCloud(wire, home, key)
    try:
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


@pytest.fixture
def clean(here):
    """Nothing is left of the servers of a test."""
    yield here
    for server in here.sdk.compute.servers():
        here.sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(here.sdk.compute.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")


def address_of(server):
    return server.addresses["private"][0]["addr"]


class Watch:
    """Pings a guest twenty times a second, and holds an SSH session in which it counts."""

    def __init__(self, here, address):
        self.pings = tempfile.NamedTemporaryFile(mode="r", prefix="kilonova-pings-", suffix=".txt")
        line = here.from_router("ping", "-n", "-D", "-i", "0.05", address)
        self.ping = subprocess.Popen(line, stdout=open(self.pings.name, "w"), stderr=subprocess.DEVNULL)
        self.counts = tempfile.NamedTemporaryFile(mode="r", prefix="kilonova-counts-", suffix=".txt")
        count = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"
        self.session = subprocess.Popen(
            here.ssh_line(address, count), stdout=open(self.counts.name, "w"), stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.counted() > 3 and len(self.answers()) > 10, 60, "pings and a session")

    def counted(self):
        lines = pathlib.Path(self.counts.name).read_text().split()
        return int(lines[-1]) if lines else 0

    def answers(self):
        """The (time, number) of each answer."""
        text = pathlib.Path(self.pings.name).read_text()
        return [(float(at), int(number)) for at, number in re.findall(r"\[([0-9.]+)\] .*icmp_seq=(\d+) ", text)]

    def wait_alive(self):
        """The session counts on, and pings are answered."""
        count, answer = self.counted(), self.answers()[-1][1]
        wait_until(lambda: self.counted() > count + 3, 60, "the session counts on")
        wait_until(lambda: self.answers()[-1][1] > answer + 10, 60, "pings are answered")
        assert self.session.poll() is None

    def end(self):
        """How many pings were lost, and the longest silence in seconds."""
        for process in (self.ping, self.session):
            process.kill()
            process.wait()
        answers = self.answers()
        lost = answers[-1][1] - answers[0][1] + 1 - len({number for _, number in answers})
        silence = max(after[0] - before[0] for before, after in zip(answers, answers[1:], strict=False))
        return lost, silence


def test_guests_on_different_hosts_are_neighbours(here, clean, name):
    hosts = here.hosts
    servers = [here.create(f"{name}-{host}", host) for host in hosts]
    found = [here.wait(server) for server in servers]
    assert {server.compute_host for server in found} == set(hosts)
    addresses = [address_of(server) for server in found]
    gateway, _ = here.gateway()

    # Each has its address by DHCP and its key by the metadata service, over the wire where need be.
    for server, address in zip(found, addresses, strict=True):
        assert here.wait_ssh(address) == server.name
    for address in addresses:
        for other in addresses:
            if other != address:
                here.ssh(address, "sudo", "ping", "-c", "1", "-W", "5", other)
    # Whole packets: 1450 bytes of the network's MTU, without room for headers.
    here.ssh(addresses[0], "sudo", "ping", "-c", "1", "-W", "5", "-s", "1422", addresses[1])

    for server in servers:
        here.sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(here.sdk.compute.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")

    def left():
        return {host.name: host.run("ip", "-o", "link", "show", "type", "vxlan").stdout for host in hosts.values()}

    # What leads to other hosts goes with the last guest; the gateway keeps its end.
    wait_until(
        lambda: not any(text for host, text in left().items() if host != gateway.name), 30, lambda: f"tunnels: {left()}"
    )


def migrate_live(here, server, to):
    here.sdk.compute.live_migrate_server(server.id, host=to, block_migration="auto")

    def over():
        found = here.sdk.compute.get_server(server.id)
        return None if found.task_state else found

    found = wait_until(over, 240, lambda: f"{server.name} is on {to}\n{here.roles.tail(200)}", pause=0.5)
    assert found.compute_host == to, f"{found.compute_host}\n{here.roles.tail(200)}"
    return found


def test_a_running_guest_goes_from_host_to_host(here, clean, name):
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, others[0], config_drive=True))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    written = "dd if=/dev/urandom of=/home/cirros/data bs=64k count=64 2>/dev/null; sync; md5sum < /home/cirros/data"
    data = here.ssh(address, written)
    drive = here.hosts[others[0]].folder / "home" / "instances" / server.id / "disk.config"
    drive = drive.read_bytes()
    watch = Watch(here, address)
    measured = []
    # Between two hosts, to the one with the router, and back from there.
    for to in (others[1], gateway.name, others[0]):
        source = here.hosts[here.sdk.compute.get_server(server.id).compute_host]
        started, before = time.monotonic(), len(watch.answers())
        found = migrate_live(here, server, to)
        assert found.status == "ACTIVE" and found.power_state == 1
        measured.append(
            f"to {to}: {time.monotonic() - started:.1f} s, {len(watch.answers()) - before} answers meanwhile"
        )
        watch.wait_alive()
        running, known = here.domains(source)
        assert (running, known) == ([], []), "nothing is left where it was"
        assert not (source.folder / "home" / "instances" / server.id).exists()
        assert len(here.domains(here.hosts[to])[0]) == 1
        kept = here.hosts[to].folder / "home" / "instances" / server.id / "disk.config"
        assert kept.read_bytes() == drive, "the config drive goes along"
    lost, silence = watch.end()
    print(f"\nlive migration: {measured}; {lost} pings lost, longest silence {silence:.2f} s")
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    again = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; md5sum < /home/cirros/data"
    assert here.ssh(address, again) == data
    moves = list(here.sdk.compute.get("/os-migrations", microversion="2.59").json()["migrations"])
    of_it = [move["status"] for move in moves if move["instance_uuid"] == server.id]
    assert of_it == ["completed"] * 3

    # It still is a guest like any other: off and on, from the disks that it brought.
    here.sdk.compute.reboot_server(server.id, "HARD")
    here.wait(server)
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "md5sum", "<", "/home/cirros/data") == data

    # A paused guest goes as it is.
    here.sdk.compute.pause_server(server.id)
    here.wait(server, "PAUSED")
    assert migrate_live(here, server, others[1]).status == "PAUSED"
    here.sdk.compute.unpause_server(server.id)
    here.wait(server)
    assert here.wait_ssh(address) == name


def test_a_guest_that_is_off_meanwhile_goes_from_host_to_host(here, clean, name):
    gateway, _ = here.gateway()
    first = next(host for host in here.hosts if host != gateway.name)
    server = here.wait(here.create(name, first, config_drive=True))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    here.ssh(address, "echo kept > /home/cirros/data; sync")

    def folders(host):
        return [entry.name for entry in (here.hosts[host].folder / "home" / "instances").glob(f"{server.id}*")]

    # There and back.
    here.sdk.compute.migrate_server(server.id)
    found = here.wait(server, "VERIFY_RESIZE")
    second = found.compute_host
    assert second != first
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"
    here.ssh(address, "echo lost > /home/cirros/data; sync")
    here.sdk.compute.revert_server_resize(server.id)
    found = here.wait(server)
    assert found.compute_host == first and folders(second) == []
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"

    # For good, with another flavor.
    flavor = here.sdk.compute.create_flavor(name=name, ram=192, vcpus=1, disk=2)
    here.sdk.compute.resize_server(server.id, flavor.id)
    found = here.wait(server, "VERIFY_RESIZE")
    third = found.compute_host
    assert third != first
    assert here.wait_ssh(address) == name
    here.sdk.compute.confirm_server_resize(server.id)
    here.wait(server)
    wait_until(lambda: folders(first) == [], 60, lambda: f"{folders(first)} on {first}")
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"
    memory = int(here.ssh(address, "awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert memory > here.flavor.ram, f"{memory} MiB"


def test_servers_of_a_dead_host_live_elsewhere_and_stay_there(here, clean, name):
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, others[0]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    number = int(others[0].removeprefix("h"))
    here.hosts[others[0]].discard()
    here.wait_up({gateway.name, others[1]})
    here.sdk.compute.evacuate_server(server.id, host=others[1])
    wait_until(
        lambda: here.sdk.compute.get_server(server.id).compute_host == others[1], 120,
        lambda: f"it is elsewhere\n{here.roles.tail(200)}",
    )  # fmt: skip
    here.wait(server)
    assert here.wait_ssh(address) == name
    back = here.raise_host(number)
    here.wait_up(set(here.hosts))
    wait_until(lambda: here.domains(back) == ([], []), 60, lambda: f"nothing of it runs: {here.domains(back)}")
    folder = back.folder / "home" / "instances" / server.id
    wait_until(lambda: not folder.exists(), 60, lambda: f"{folder} is gone")
    found = here.wait(server)
    assert found.compute_host == others[1]
    assert here.ssh(address, "hostname").strip() == name
    # The host is as good as before.
    second = here.wait(here.create(f"{name}-again", others[0]))
    assert here.wait_ssh(address_of(second)) == second.name
