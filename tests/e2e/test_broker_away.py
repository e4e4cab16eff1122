"""The broker dies for a minute while tenants go on: all that they ask for is done meanwhile, and whoever listens hears all of
it when the broker is back, also of what was done while a conductor was killed."""

import collections
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from cloud import free_ports, wait_until
from roles import Broker, Roles
from test_notifications import READER
from test_roles import certificates, host, up_hosts
from test_servers import boot

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not importlib.util.find_spec("oslo_messaging"), reason="no oslo.messaging"),
]

# Seconds without a broker: longer than any pause before it is tried again, and than the right to publish lasts.
AWAY = int(os.environ.get("KILONOVA_BROKER_AWAY", "60"))
# Seconds from one life to the next, so that an hour is not a test of load.
PACE = AWAY / 240


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path / "broker")
    if not made.found:
        pytest.skip("no RabbitMQ (package rabbitmq-server)")
    made.start()
    yield made
    if made.process:
        made.kill()


@pytest.fixture
def roles(broker):
    """Two conductors and two hosts, with notifications in both formats."""
    desks = [f"https://127.0.0.1:{port}" for port in free_ports(3)]
    settings = {
        "DEFAULT": {
            "compute_driver": "fake.FakeDriver", "report_interval": 1, "service_down_time": 10,
            "transport_url": broker.url,
        },
        "agent": {"conductors": ", ".join(desks[:2]), "networks": desks[2]},
        "network": {"agent_listen": desks[2]},
        "notifications": {"notification_format": "both", "notify_on_state_change": "vm_and_task_state"},
        "oslo_messaging_notifications": {"driver": "messagingv2"},
    }  # fmt: skip
    made = Roles(tempfile.mkdtemp(prefix="kilonova-e2e-broker-"), settings)
    made.desks = desks
    yield made
    made.discard()


class Reader:
    """OpenStack's own library, as a consumer that stays connected, or comes back by itself."""

    def __init__(self, url):
        self.told = []
        line = [sys.executable, "-c", READER, url]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def of(self, server):
        """What it was told of a server: (event, message id), by format. Its threads tell in no order."""
        versioned, plain = [], []
        for event, _, payload, _, metadata in list(self.told):
            data = payload.get("nova_object.data", payload)
            if data.get("uuid", data.get("instance_id")) == server:
                (versioned if "nova_object.data" in payload else plain).append((event, metadata["message_id"]))
        return versioned, plain

    def end(self):
        self.process.kill()
        self.process.wait()


def once(told):
    """How often each event was told, but for what was told again: that has the same id."""
    return collections.Counter(event for event, _ in set(told))


def test_a_broker_that_is_away_for_long(roles, broker, name):
    certificates(roles)
    roles.sync()
    broker.wait()
    for role in ("identity", "image", "network", "placement", "api"):
        roles.start(role)
    conductors = [roles.start("conductor", f"conductor.agent_listen={desk}") for desk in roles.desks[:2]]
    for one in ("left", "right"):
        roles.start("compute", *host(roles, one))
        roles.start("network-agent", *host(roles, one))
    sdk = roles.client().sdk()
    api = sdk.compute
    wait_until(lambda: up_hosts(sdk) == {"left", "right"}, 60, lambda: f"hosts up\n{roles.tail()}")
    image = {"id": next(iter(sdk.image.images())).id}
    reader = Reader(broker.url)

    def is_now(server, status):
        def look():
            found = api.get_server(server)
            assert found.status in (status, "BUILD") or found.task_state or status != "ACTIVE", found.fault
            return found.status == status and not found.task_state

        wait_until(look, 60, lambda: f"{server} is {status}: {api.get_server(server).status}\n{roles.tail()}")

    def life(server):
        """Off and on again, onto the other host, another name, and gone."""
        api.stop_server(server)
        is_now(server, "SHUTOFF")
        api.start_server(server)
        is_now(server, "ACTIVE")
        before = api.get_server(server).compute_host
        api.live_migrate_server(server, host=None, block_migration="auto")
        wait_until(lambda: api.get_server(server).compute_host != before, 60, lambda: f"it moves\n{roles.tail()}")
        is_now(server, "ACTIVE")
        api.update_server(server, name=f"{name}-other")
        api.delete_server(server)
        wait_until(lambda: api.find_server(server) is None, 60, lambda: f"it is deleted\n{roles.tail()}")

    try:
        # What a life is told to be while the broker is there.
        first = boot(sdk, f"{name}-first", image).id
        is_now(first, "ACTIVE")
        life(first)
        ends = lambda server: all("delete.end" in str(told) for told in reader.of(server))  # noqa: E731
        wait_until(lambda: ends(first), 60, lambda: f"all was told: {reader.of(first)}\n{roles.tail()}")
        expected = [once(told) for told in reader.of(first)]
        assert all(events.total() > 20 for events in expected), expected
        heard = len(reader.told)

        # One life goes on as the broker dies, others begin without it.
        halfway = boot(sdk, f"{name}-halfway", image).id
        broker.kill()
        gone = time.monotonic()
        is_now(halfway, "ACTIVE")
        life(halfway)
        without, slowest = [], 0.0
        while time.monotonic() - gone < AWAY or len(without) < 4:
            began = time.monotonic()
            server = boot(sdk, f"{name}-{len(without)}", image).id
            is_now(server, "ACTIVE")
            slowest = max(slowest, time.monotonic() - began)
            # Who has the right to publish, and who does the work, dies as well: each of them once.
            if len(without) in (1, 2):
                victim = conductors[len(without) - 1]
                victim.kill()
                victim.start()
            life(server)
            without.append(server)
            time.sleep(PACE)
        away = time.monotonic() - gone
        assert "notifications wait in the database" in roles.log.read_text()
        at_last = boot(sdk, f"{name}-last", image).id
        broker.start()
        broker.wait()
        back = time.monotonic()
        is_now(at_last, "ACTIVE")
        life(at_last)

        # Each life is told as the first one was.
        for server in (halfway, *without, at_last):
            told_of = lambda server=server: f"told of {server}: {reader.of(server)}"  # noqa: E731
            wait_until(lambda server=server: ends(server), 120, told_of)
            for told, wanted in zip(reader.of(server), expected, strict=True):
                assert once(told) == wanted, f"lost: {wanted - once(told)}, more: {once(told) - wanted}"
        told_after = time.monotonic() - back
        again = len(reader.told) - len({json.dumps(one[4]) + one[0] for one in reader.told})
    finally:
        reader.end()
    print(
        f"\nwithout a broker for {away:.0f} s: {len(without)} lives, a server in {slowest:.1f} s at most;"
        f" {len(reader.told) - heard} notifications, the last {told_after:.1f} s after it was back, {again} twice"
    )
    for process in roles.processes:
        process.stop()
