"""A rolling upgrade: the release before and this one side by side on one database, in many pairings of their parts.

`scripts/previous.sh` builds the release before; KILONOVA_OLD_BINARY names its binary.
"""

import os
import tempfile

import pytest

from cloud import BINARY, wait_until
from roles import Roles
from sim_hosts import faults
from test_databases import postgres
from test_kill import HOLD
from test_roles import databases
from test_servers import boot, wait_status

OLD = os.environ.get("KILONOVA_OLD_BINARY")
# Processes with two simulated hosts each, between which a guest can move.
SIDES = ("left", "right")
SERVICES = ("identity", "image", "network", "volume", "placement", "metadata")
pytestmark = pytest.mark.skipif(not OLD, reason="no KILONOVA_OLD_BINARY (scripts/previous.sh builds it)")


class Mixed:
    """Two conductors, two times two hosts, an API, the other services: each of either release."""

    def __init__(self, roles):
        self.roles = roles
        self.running = {}

    def put(self, part, binary):
        """From now on this part runs from this binary."""
        if part in self.running:
            before = self.running.pop(part)
            before.stop()
            self.roles.processes.remove(before)
        role, _, which = part.partition(" ")
        settings = {
            "compute": f"DEFAULT.host={which}",
            "network-agent": f"DEFAULT.host={which}",
            "conductor": f"conductor.agent_listen={self.roles.desks.get(which)}",
        }
        setting = settings.get(role)
        self.running[part] = self.roles.start(role, *([setting] if setting else []), binary=binary)

    def kill(self, *parts):
        for part in parts:
            dead = self.running.pop(part)
            dead.kill()
            self.roles.processes.remove(dead)


@pytest.fixture
def mixed():
    home = tempfile.mkdtemp(prefix="kilonova-e2e-releases-")
    settings = databases("KILONOVA_TEST_POSTGRES", postgres)
    desks = [f"unix:{home}/{name}" for name in ("first", "second", "network")]
    settings.setdefault("DEFAULT", {}).update(compute_driver="fake.FakeDriver", report_interval=1, service_down_time=10)
    settings["kilonova"] = {"simulated_hosts": 2}
    settings["agent"] = {"conductors": ", ".join(desks[:2]), "networks": desks[2]}
    settings.setdefault("network", {})["agent_listen"] = desks[2]
    made = Roles(home, settings)
    made.desks = dict(zip(("first", "second"), desks, strict=False))
    yield Mixed(made)
    made.discard()


def act(sdk, server, body, status):
    answer = sdk.compute.post(f"/servers/{server}/action", json=body, microversion="2.90")
    assert answer.status_code in (200, 202, 204), answer.text
    wait_status(sdk, server, status)


def host_of(sdk, server):
    return sdk.compute.get_server(server).compute_host


def work(sdk, name, image):
    """What a cloud is for, on hosts of both sides. One server stays, and is given."""
    servers = []
    for side in SIDES:
        host, other = f"{side}-1", f"{side}-2"
        server = boot(sdk, f"{name}-{side}", image, availability_zone=f"nova:{host}").id
        servers.append(server)
        wait_status(sdk, server, "ACTIVE")
        assert host_of(sdk, server) == host
        act(sdk, server, {"os-stop": None}, "SHUTOFF")
        act(sdk, server, {"os-start": None}, "ACTIVE")
        act(sdk, server, {"rebuild": {"imageRef": image["id"]}}, "ACTIVE")
        act(sdk, server, {"migrate": {"host": other}}, "VERIFY_RESIZE")
        act(sdk, server, {"revertResize": None}, "ACTIVE")
        act(sdk, server, {"migrate": {"host": other}}, "VERIFY_RESIZE")
        act(sdk, server, {"confirmResize": None}, "ACTIVE")
        act(sdk, server, {"os-migrateLive": {"host": host, "block_migration": "auto"}}, "ACTIVE")
        assert host_of(sdk, server) == host
        act(sdk, server, {"shelve": None}, "SHELVED_OFFLOADED")
        act(sdk, server, {"unshelve": None}, "ACTIVE")
        failed = [action for action in sdk.compute.server_actions(server) if action.message]
        assert not failed, failed
    sdk.compute.delete_server(servers[0])
    wait_until(lambda: sdk.compute.find_server(servers[0]) is None, 60, "the server is gone")
    return servers[1]


def began_by_old_ended_by_new(mixed, sdk, name, image, server):
    """Both conductors and a host of the old release are killed in the middle of a create and of a stop."""
    roles = mixed.roles
    host = host_of(sdk, server)
    side = host.partition("-")[0]
    with faults(roles, {"delay_ms": {"ensure_guest": HOLD}, "delay_after_ms": {"request_shutdown": HOLD}}):
        made = boot(sdk, f"{name}-begun", image, availability_zone=f"nova:{host}").id
        task = lambda one: sdk.compute.get_server(one).task_state  # noqa: E731
        wait_until(lambda: task(made) == "spawning", 60, "the host builds the guest")
        assert sdk.compute.post(f"/servers/{server}/action", json={"os-stop": None}).status_code == 202
        wait_until(lambda: task(server) == "powering-off", 60, "the host stops the guest")
        mixed.kill("conductor first", "conductor second", f"compute {side}")
    mixed.put("conductor first", BINARY)
    mixed.put("conductor second", OLD)
    mixed.put(f"compute {side}", BINARY)
    wait_status(sdk, made, "ACTIVE")
    wait_status(sdk, server, "SHUTOFF")
    act(sdk, server, {"os-start": None}, "ACTIVE")
    return made


def test_a_rolling_upgrade(mixed, name):
    roles = mixed.roles
    parts = [*SERVICES, "api", "conductor first", "conductor second"]
    parts += [f"{role} {side}" for side in SIDES for role in ("compute", "network-agent")]
    roles.sync(binary=OLD)
    for part in parts:
        mixed.put(part, OLD)
    sdk = roles.client().sdk()

    def up():
        return {s.host for s in sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"}

    wait_until(
        lambda: up() == {f"{side}-{number}" for side in SIDES for number in (1, 2)},
        60,
        lambda: f"hosts up\n{roles.tail()}",
    )
    image = {"id": next(iter(sdk.image.images())).id}
    kept = [work(sdk, f"{name}-old", image)]

    roles.sync()
    kept.append(work(sdk, f"{name}-new-schema", image))
    # One conductor of each, one host of each, the API of the old one.
    kept.append(began_by_old_ended_by_new(mixed, sdk, name, image, kept[0]))
    kept.append(work(sdk, f"{name}-conductors", image))
    mixed.put("api", BINARY)
    kept.append(work(sdk, f"{name}-api", image))
    for part in SERVICES:
        mixed.put(part, BINARY)
    kept.append(work(sdk, f"{name}-services", image))
    # The agents speak with old conductors only, then with new ones.
    mixed.put("conductor first", OLD)
    kept.append(work(sdk, f"{name}-back", image))
    for part in parts:
        mixed.put(part, BINARY)
    kept.append(work(sdk, f"{name}-new", image))

    for server in kept:
        assert sdk.compute.get_server(server).status == "ACTIVE"
    audit = roles.command("manage", "audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert not roles.errors(), roles.errors()
    for server in kept:
        sdk.compute.delete_server(server)
    wait_until(lambda: not list(sdk.compute.servers()), 60, lambda: f"all deleted\n{roles.tail()}")
