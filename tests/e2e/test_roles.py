"""Each service as a process of its own, two of those that do the work, killed one after the other under load."""

import contextlib
import hashlib
import hmac
import os
import queue
import tempfile
import threading
import time
import urllib.parse
import uuid

import pytest
import requests

from cloud import free_ports, wait_until
from roles import PORTS, Balancer, Broker, Process, Roles
from test_databases import mariadb, postgres
from test_servers import boot

DATABASES = {"database": "compute", "identity": "identity", "image": "image", "network": "network", "volume": "volume"}


def databases(variable, execute, services=DATABASES):
    """Databases of its own on a server where there is one; SQLite in the home in place of PostgreSQL."""
    server = os.environ.get(variable)
    if not server and execute == mariadb:
        pytest.skip(f"{variable} is not set; scripts/test-databases.sh sets it")
    if not server:
        return {}
    sections = {}
    for section, service in services.items():
        database = f"e2e_{service}_{uuid.uuid4().hex[:8]}"
        execute(server, f"CREATE DATABASE {database}")
        url = urllib.parse.urlunsplit(urllib.parse.urlsplit(server)._replace(path=f"/{database}"))
        sections[section] = {"connection": url}
    return sections


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path / "broker")
    # Where the databases were brought a broker must be, too: nothing is left out unseen.
    assert made.found or not os.environ.get("KILONOVA_TEST_POSTGRES"), "no RabbitMQ (package rabbitmq-server)"
    if made.found:
        made.start()
    yield made
    if made.process:
        made.kill()


@pytest.fixture(
    params=[("KILONOVA_TEST_POSTGRES", postgres), ("KILONOVA_TEST_MYSQL", mariadb)], ids=["postgres", "mariadb"]
)
def roles(broker, request):
    """Two conductors and a network service that agents reach by TLS only, and APIs with TLS."""
    home = tempfile.mkdtemp(prefix="kilonova-e2e-roles-")
    settings = databases(*request.param, DATABASES | {"key_manager": "key_manager"})
    desks = [f"https://127.0.0.1:{port}" for port in free_ports(3)]
    settings.setdefault("DEFAULT", {}).update(compute_driver="fake.FakeDriver", report_interval=1, service_down_time=20)
    if broker.found:
        settings["DEFAULT"]["transport_url"] = broker.url
    settings["agent"] = {"conductors": ", ".join(desks[:2]), "networks": desks[2]}
    settings.setdefault("network", {})["agent_listen"] = desks[2]
    settings["keystone_authtoken"] = {"password": "of the user nova"}
    settings["ssl"] = {
        "cert_file": f"{home}/certificates/server.pem",
        "key_file": f"{home}/certificates/server.key",
        "ca_file": f"{home}/certificates/ca.pem",
    }
    made = Roles(home, settings)
    made.desks = desks
    yield made
    made.discard()


def certificates(roles):
    for arguments in (["init"], ["server", "127.0.0.1"], ["host", "left"], ["host", "right"]):
        done = roles.command("manage", "certificates", *arguments)
        assert done.returncode == 0, done.stderr


def host(roles, name):
    return f"DEFAULT.host={name}", f"agent.certificates={roles.home}/certificates/hosts/{name}"


def start_all(roles):
    """Two of each of what may be there twice; gives those that are killed later."""
    for role in ("identity", "image", "network", "placement", "metadata"):
        roles.start(role)
    second_api = free_ports(1)[0]
    killed = [
        roles.start("api"),
        # As beside a site's own Keystone: by its API, not by its database.
        roles.start(
            "api",
            f"DEFAULT.osapi_compute_listen_port={second_api}",
            f"keystone_authtoken.auth_url=https://127.0.0.1:{roles.ports['identity']}",
        ),
        roles.start("conductor", f"conductor.agent_listen={roles.desks[0]}"),
        roles.start("conductor", f"conductor.agent_listen={roles.desks[1]}"),
        roles.start("compute", *host(roles, "left")),
        roles.start("compute", *host(roles, "right")),
    ]
    for name in ("left", "right"):
        roles.start("network-agent", *host(roles, name))
    return killed, second_api


def up_hosts(sdk):
    return {s.host for s in sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"}


def settled(sdk, ids):
    """The servers, when none of them is under way any more."""
    found = {server.id: server for server in sdk.compute.servers()}
    ours = [found.get(server) for server in ids]
    if any(server is None or server.task_state or server.status == "BUILD" for server in ours):
        return None
    return ours


def test_an_unprepared_database_is_refused(roles):
    refused = roles.command("api")
    assert refused.returncode != 0
    assert "kilonova db sync" in refused.stderr
    # Several at once wait for each other.
    syncs = [roles.spawn_command("db", "sync") for _ in range(4)]
    said = [sync.communicate(timeout=120)[0] for sync in syncs]
    assert [sync.returncode for sync in syncs] == [0] * 4, said
    # All of them have filled one cloud: its password is the one that clients are told, and nothing is there twice.
    certificates(roles)
    for role in ("identity", "image"):
        roles.start(role)
    images = list(roles.client().sdk().image.images())
    assert sorted(image.name for image in images) == ["cirros-sim-alt-disk", "cirros-sim-disk"]
    assert {image.status for image in images} == {"active"}


class Upload(threading.Thread):
    """Data on their way to an image service, a piece at a time."""

    def __init__(self, roles, sdk, image, port):
        super().__init__(daemon=True)
        self.pieces, self.answer = queue.Queue(), None
        self.url = f"https://127.0.0.1:{port}/v2/images/{image}/file"
        self.headers = {"X-Auth-Token": sdk.auth_token, "Content-Type": "application/octet-stream"}
        self.authority = f"{roles.home}/certificates/ca.pem"
        self.start()

    def run(self):
        with contextlib.suppress(requests.ConnectionError):
            pieces = iter(self.pieces.get, None)
            self.answer = requests.put(self.url, data=pieces, headers=self.headers, verify=self.authority, timeout=60)

    def end(self):
        self.pieces.put(None)
        self.join(60)
        assert not self.is_alive()
        return self.answer


def test_uploads_end_with_their_process_only(roles, name):
    certificates(roles)
    roles.sync()
    for role in ("identity", "image"):
        roles.start(role)
    sdk = roles.client().sdk()
    unfinished = roles.home / "control" / "images" / "uploads"

    def begin(port, first):
        made = sdk.image.create_image(name, disk_format="raw", container_format="bare", allow_duplicates=True)
        upload = Upload(roles, sdk, made.id, port)
        upload.pieces.put(first)
        wait_until(
            lambda: any(part.read_bytes() == first for part in unfinished.iterdir()),
            30,
            lambda: f"data come in\n{roles.tail()}",
        )
        return made.id, upload

    def status(image):
        return sdk.image.get_image(image).status

    image, upload = begin(roles.ports["image"], b"one ")
    roles.sync()
    port = free_ports(1)[0]
    second = roles.start("image", f"image.port={port}")
    assert status(image) == "saving"
    other, killed = begin(port, b"lost")
    second.kill()
    roles.processes.remove(second)
    # The one that goes on takes back what the killed one had begun, and not its own.
    wait_until(lambda: status(other) == "queued", 30, lambda: f"taken back\n{roles.tail()}")
    assert status(image) == "saving"
    upload.pieces.put(b"two")
    answer = upload.end()
    assert answer is not None and answer.status_code == 204, f"{answer and answer.text}\n{roles.tail()}"
    assert sdk.image.download_image(image).content == b"one two"
    killed.end()
    again = Upload(roles, sdk, other, roles.ports["image"])
    again.pieces.put(b"again")
    assert again.end().status_code == 204
    assert sdk.image.download_image(other).content == b"again"
    assert not list(unfinished.iterdir())


def test_every_process_may_be_killed(roles, broker, name):
    certificates(roles)
    roles.sync()
    if broker.found:
        broker.wait()
    killed, second_api = start_all(roles)
    sdk = roles.client().sdk()
    wait_until(lambda: up_hosts(sdk) == {"left", "right"}, 60, lambda: f"hosts up\n{roles.tail()}")
    image = next(iter(sdk.image.images()))
    sdk.set_compute_quotas(sdk.current_project_id, instances=-1, cores=-1, ram=-1)

    # Any API process will do, and each hears what the other took in.
    first = boot(sdk, f"{name}-first", {"id": image.id})
    headers = {"X-Auth-Token": sdk.auth_token, "OpenStack-API-Version": "compute 2.96"}
    other = f"https://127.0.0.1:{second_api}/v2.1/servers/{first.id}"
    wait_until(
        lambda: sdk.session.get(other, headers=headers, authenticated=False).json()["server"]["status"] == "ACTIVE",
        60,
        lambda: f"ACTIVE\n{roles.tail()}",
    )
    # What answers lead to goes by TLS, too.
    for service in ("compute", "identity", "image", "network"):
        root = sdk.session.get(f"https://127.0.0.1:{roles.ports[service]}/", authenticated=False, raise_exc=False)
        assert "https://127.0.0.1" in root.text and "http://" not in root.text, (service, root.text)
    # A host is asked through whichever conductor its agent speaks with.
    assert sdk.compute.get_server_console_output(first.id)["output"]

    ids = [first.id]
    for round_, process in enumerate(killed):
        # Work goes on without the broker, and with it again.
        if broker.found and round_ == 1:
            broker.kill()
        if broker.found and round_ == 3:
            broker.start()
        for number in range(4):
            made = boot(sdk, f"{name}-{round_}-{number}", {"id": image.id})
            ids.append(made.id)
        process.kill()
        time.sleep(0.3)
        process.start()
    # A host whose certificate is another's has no word here.
    stranger = Process(roles, "compute", "DEFAULT.host=stranger", host(roles, "left")[1]).spawn()
    roles.processes.append(stranger)
    servers = wait_until(lambda: settled(sdk, ids), 120, lambda: f"all settled\n{roles.tail()}")
    failed = {server.name: server.fault for server in servers if server.status != "ACTIVE"}
    assert not failed, f"a process that is killed costs nobody a server: {failed}\n{roles.tail(200)}"
    assert {server.compute_host for server in servers} == {"left", "right"}

    refusal = "left speaks for itself only"
    wait_until(lambda: refusal in roles.log.read_text(), 60, lambda: f"a word of the stranger\n{roles.tail()}")
    up = lambda: up_hosts(sdk) == {"left", "right"}  # noqa: E731
    wait_until(up, 60, lambda: f"nobody may speak for another host: {up_hosts(sdk)}")
    stranger.kill()
    roles.processes.remove(stranger)

    for server in ids:
        sdk.compute.delete_server(server)
    wait_until(lambda: not list(sdk.compute.servers()), 60, lambda: f"all deleted\n{roles.tail()}")
    assert not [port for port in sdk.network.ports() if port.device_owner.startswith("compute:")]
    for process in roles.processes:
        process.stop()


def test_a_scheduler_picks_hosts_while_no_conductor_runs(roles, name):
    certificates(roles)
    roles.sync()
    for role in ("identity", "image", "network", "api"):
        roles.start(role)
    conductor = roles.start("conductor", f"conductor.agent_listen={roles.desks[0]}")
    for host_name in ("left", "right"):
        roles.start("compute", *host(roles, host_name))
        roles.start("network-agent", *host(roles, host_name))
    sdk = roles.client().sdk()
    wait_until(lambda: up_hosts(sdk) == {"left", "right"}, 60, lambda: f"hosts up\n{roles.tail()}")
    conductor.kill()
    roles.start("scheduler", "DEFAULT.host=brain")

    server = boot(sdk, name, {"id": next(iter(sdk.image.images())).id})
    wait_until(
        lambda: sdk.compute.get_server(server.id).compute_host,
        60,
        lambda: f"a host is picked\n{roles.tail()}",
    )
    schedulers = {service.host: service.state for service in sdk.compute.services(binary="nova-scheduler")}
    assert schedulers["brain"] == "up"
    # What a host is told, and what it answers, goes through conductors.
    assert sdk.compute.get_server(server.id).status == "BUILD"
    conductor.start()
    wait_until(
        lambda: sdk.compute.get_server(server.id).status == "ACTIVE",
        60,
        lambda: f"ACTIVE\n{roles.tail()}",
    )
    for process in roles.processes:
        process.stop()


# Any number of each may run. (`image` is another of these; uploads with two of them are above.)
BALANCED = ("identity", "image", "network", "placement", "metadata", "key-manager", "compute")
HOSTS = ("left", "right")
SECRET = "of the first, read by the second"


class Side:
    """One of each process that may be there twice, and a host; the other side is the same once more."""

    def __init__(self, roles, number, ports, desks):
        self.roles, self.host = roles, HOSTS[number]
        self.processes = {}
        for service in BALANCED:
            section, name = PORTS[service]
            more = (f"network.agent_listen={desks[number]}",) if service == "network" else ()
            self.start("api" if service == "compute" else service, f"{section}.{name}={ports[service]}", *more)
        self.start("conductor", f"conductor.agent_listen={roles.desks[number]}", f"DEFAULT.host=control-{number}")
        self.start("scheduler", f"DEFAULT.host=brain-{number}")
        self.start("compute", *host(roles, self.host))
        self.start("network-agent", *host(roles, self.host), f"agent.networks={','.join(desks)}")

    def start(self, role, *settings):
        self.processes[role] = self.roles.start(role, *settings)

    def kill(self):
        for process in self.processes.values():
            process.kill()

    def start_again(self):
        for process in self.processes.values():
            process.start()

    def serves(self, sdk, name, server_of_both):
        """Each of its processes does its part while none of the other side is there."""
        said = lambda: self.roles.tail()  # noqa: E731 - as it is then
        wait_until(lambda: up_hosts(sdk) == {self.host}, 120, lambda: f"one host up\n{said()}")
        # A token of its own, and an image, by way of these.
        mine = self.roles.client().sdk()
        image = next(iter(mine.image.images())).id
        (secret,) = mine.key_manager.get("/secrets").json()["secrets"]
        path = f"/secrets/{secret['secret_ref'].rsplit('/', 1)[-1]}/payload"
        payload = mine.key_manager.get(path, headers={"Accept": "text/plain"})
        assert payload.text == SECRET, payload.text
        assert metadata_of(self.roles, server_of_both, mine.current_project_id)["uuid"] == server_of_both

        # The scheduler picks the host, and nobody else: conductors are what tells the host.
        self.processes["conductor"].kill()
        server = boot(mine, name, {"id": image}).id
        wait_until(
            lambda: mine.compute.get_server(server).compute_host == self.host, 60, lambda: f"a host is picked\n{said()}"
        )
        assert mine.compute.get_server(server).status == "BUILD"
        self.processes["conductor"].start()
        wait_until(lambda: mine.compute.get_server(server).status == "ACTIVE", 60, lambda: f"ACTIVE\n{said()}")
        assert [port.status for port in mine.network.ports(device_id=server)] == ["ACTIVE"]
        assert mine.placement.get(f"/allocations/{server}").json()["allocations"], "placement knows the claim"
        mine.compute.delete_server(server)
        wait_until(lambda: mine.compute.find_server(server) is None, 60, lambda: f"deleted\n{said()}")


def metadata_of(roles, server, project):
    """What a guest is told, asked for as a host's agent does it."""
    shared = (roles.home / "secrets" / "metadata-secret").read_bytes().strip()
    signed = hmac.new(shared, server.encode(), hashlib.sha256).hexdigest()
    headers = {"X-Instance-ID": server, "X-Tenant-ID": project, "X-Instance-ID-Signature": signed}
    url = f"http://127.0.0.1:{roles.ports['metadata']}/openstack/latest/meta_data.json"
    answer = requests.get(url, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("roles", [("KILONOVA_TEST_POSTGRES", postgres)], ids=["postgres"], indirect=True)
def test_two_of_each(roles, broker, name):
    certificates(roles)
    roles.sync()
    if broker.found:
        broker.wait()
    desks = (roles.desks[2], f"https://127.0.0.1:{free_ports(1)[0]}")
    ports = [dict(zip(BALANCED, free_ports(len(BALANCED)), strict=True)) for _ in HOSTS]
    # They find each other by these.
    balancers = [Balancer(roles.ports[service], [its[service] for its in ports]) for service in BALANCED]
    try:
        sides = [Side(roles, number, its, desks) for number, its in enumerate(ports)]
        sdk = roles.client().sdk()
        wait_until(lambda: up_hosts(sdk) == set(HOSTS), 60, lambda: f"hosts up\n{roles.tail()}")
        image = next(iter(sdk.image.images())).id
        ids = [boot(sdk, f"{name}-{number}", {"id": image}).id for number in range(6)]
        servers = wait_until(lambda: settled(sdk, ids), 120, lambda: f"all settled\n{roles.tail()}")
        assert {server.status for server in servers} == {"ACTIVE"}, [server.fault for server in servers]
        kept = {"name": name, "payload": SECRET, "payload_content_type": "text/plain"}
        assert sdk.key_manager.post("/secrets", json=kept).status_code == 201

        first, second = sides
        for alive, dead in ((second, first), (first, second)):
            dead.kill()
            alive.serves(sdk, f"{name}-{alive.host}", ids[0])
            dead.start_again()
        wait_until(lambda: up_hosts(sdk) == set(HOSTS), 60, lambda: f"hosts up\n{roles.tail()}")
        for server in ids:
            sdk.compute.delete_server(server)
        wait_until(lambda: not list(sdk.compute.servers()), 60, lambda: f"all deleted\n{roles.tail()}")
        for process in roles.processes:
            process.stop()
    finally:
        for balancer in balancers:
            balancer.close()
