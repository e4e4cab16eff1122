"""The clock of a running cloud jumps: an hour forward, a day back, and then it is right again.

What an operator expects: nobody's guest is touched. Hosts stay up, what is under way ends, what is asked for is done.
Nothing is taken for old because of it: no host is left, no guest is swept away, and what is kept for a time (servers
that are deleted or shelved, resizes that nobody confirmed) is kept as long as that time is longer than the jump. That
time is counted by the wall clock, as in Nova, since it outlasts processes: an hour that the clock skips is an hour less.
A clock that goes back makes nothing due. Who has a token may need a new one.

Where the whole cloud is one process all of its hosts jump with it. libfaketime moves the wall clock and leaves the
monotonic one alone, as a clock that is set does. Processes live through a jump, or are killed and start after it.

And two conductors of which one has another clock, by as much as ARCHITECTURE.md says. With those that are farther apart
what hosts have seen too early undoes the ends of actions.
"""

import json
import pathlib
import tempfile

import pytest

from cloud import free_ports, wait_until
from roles import Roles
from sim_hosts import faults, files_of, step_of
from test_roles import certificates, host, up_hosts
from test_servers import boot, wait_status

# Twice as long as the jump forward.
KEPT = 7200
# So long is what is under way while the clock jumps.
SLOW = 15000
MOVE = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
# From the right time: what is under way then, and where.
UNDER_WAY = {
    "forward": ({"live_ms": SLOW}, MOVE, ("live_migration", "move")),
    "back": ({"delay_ms": {"put_aside": SLOW}}, {"migrate": None}, ("resize", "put_aside")),
    "right again": ({"delay_ms": {"reboot_hard": SLOW}}, {"reboot": {"type": "HARD"}}, ("reboot", "act")),
}


class Clock:
    """The wall clock of a cloud."""

    def __init__(self, folder):
        libraries = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert libraries, "libfaketime is not there: scripts/install-packages.sh test"
        self.file = folder / "clock"
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Files keep the times at which they were written.
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset):
        """So many seconds from the right time."""
        part = self.file.with_suffix(".part")
        part.write_text(offset)
        part.rename(self.file)


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path)


@pytest.fixture
def own(new_cloud, clock):
    made = new_cloud(hosts=2, environment=clock.environment)
    made.configure(
        f"[DEFAULT]\nreclaim_instance_interval = {KEPT}\nshelved_offload_time = {KEPT}\nresize_confirm_window = {KEPT}\n"
        "sync_power_state_interval = 1\nrunning_deleted_instance_timeout = 1\nreport_interval = 1\n"
        "[kilonova]\nreconcile_interval = 1\n"
    )
    clock.set("+0")
    made.start()
    return made


def act(sdk, server, body):
    answer = sdk.compute.post(f"/servers/{server}/action", json=body, microversion="2.30")
    assert answer.status_code in (202, 204), answer.text


def states_of_services(sdk):
    return {(one["binary"], one["host"]): one["state"] for one in sdk.compute.get("/os-services").json()["services"]}


def written(sdk, server):
    """What there is to see of a server: its status, where it is, and what was done to it."""
    shown = sdk.compute.get(f"/servers/{server}").json()["server"]
    actions = sdk.compute.get(f"/servers/{server}/os-instance-actions").json()["instanceActions"]
    kept = ("status", "OS-EXT-SRV-ATTR:host", "OS-EXT-STS:power_state", "OS-EXT-STS:task_state", "fault")
    return {key: shown.get(key) for key in kept}, [one["action"] for one in actions]


@pytest.mark.parametrize("killed", [False, True], ids=["lived-through", "met-at-the-start"])
def test_a_clock_that_jumps(own, clock, name, killed):
    cloud = own
    sdk, admin = cloud.client("kilonova-demo").sdk(), cloud.client("kilonova").sdk()
    for one in (sdk, admin):
        # By the right clock tokens of yesterday have expired: what counts is whether they are taken.
        one.session.auth.reauthenticate = False
    found = sdk.image.find_image("cirros-sim-disk")
    image = {"id": found.id, "name": found.name}
    begin = {
        "ACTIVE": None,
        "SHUTOFF": {"os-stop": None},
        "SHELVED": {"shelve": None},
        "VERIFY_RESIZE": {"resize": {"flavorRef": "1"}},
        "SOFT_DELETED": None,
    }
    servers = {status: boot(sdk, f"{name}-{status.lower()}", image).id for status in begin}
    moving = boot(sdk, f"{name}-moving", image).id
    for server in (*servers.values(), moving):
        wait_status(sdk, server, "ACTIVE")
    for status, body in begin.items():
        if body:
            act(sdk, servers[status], body)
    sdk.compute.delete_server(servers["SOFT_DELETED"])
    for status, server in servers.items():
        wait_status(sdk, server, status)
        wait_until(lambda s=server: step_of(cloud, s) is None, 60, "nobody works on it")
    all_up = states_of_services(admin)
    assert set(all_up.values()) == {"up"} and len(all_up) >= 4, all_up
    before = {status: written(admin, server) for status, server in servers.items()}
    marks = {status: files_of(cloud, server) for status, server in servers.items()}

    def unharmed(when):
        # A jump may cost a beat, not more.
        wait_until(lambda: states_of_services(admin) == all_up, 60, lambda: f"{when}: {states_of_services(admin)}")
        assert {status: written(admin, server) for status, server in servers.items()} == before, when
        assert {status: files_of(cloud, server) for status, server in servers.items()} == marks, when
        wait_until(lambda: not cloud.audit(), 60, lambda: f"{when}: {cloud.audit()}")

    for what, offset in [("forward", 3600), ("back", -86400), ("right again", 0)]:
        disturbed, body, step = UNDER_WAY[what]
        with faults(cloud, disturbed):
            act(admin, moving, body)
            wait_until(lambda step=step: step_of(cloud, moving) == step, 60, lambda: f"at {step_of(cloud, moving)}")
            clock.set(f"{offset:+d}")
            assert step_of(cloud, moving) == step, "the clock jumps while that is under way"
            if killed:
                cloud.kill()
        if killed:
            cloud.start()
        wait_until(lambda: step_of(cloud, moving) is None, 120, lambda: f"done: {step_of(cloud, moving)}")
        ended = wait_status(sdk, moving, "VERIFY_RESIZE" if "migrate" in body else "ACTIVE")
        assert ended.fault is None
        if "migrate" in body:
            act(sdk, moving, {"confirmResize": None})
            wait_status(sdk, moving, "ACTIVE")
        unharmed(what)
        new = boot(sdk, f"{name}-new", image).id
        wait_status(sdk, new, "ACTIVE")
        act(sdk, new, {"forceDelete": None})
        wait_until(lambda new=new: sdk.compute.find_server(new) is None, 60, "the new server is gone")
    actions = [
        one["action"] for one in admin.compute.get(f"/servers/{moving}/os-instance-actions").json()["instanceActions"]
    ]
    assert actions == ["reboot", "confirmResize", "migrate", "live-migration", "create"]
    act(sdk, servers["SOFT_DELETED"], {"restore": None})
    wait_status(sdk, servers["SOFT_DELETED"], "ACTIVE")


@pytest.fixture
def two(tmp_path):
    """Two conductors, to be started, each with a host that speaks with it first."""
    desks = [f"https://127.0.0.1:{port}" for port in free_ports(3)]
    settings = {
        "DEFAULT": {
            "compute_driver": "fake.FakeDriver", "report_interval": 1, "service_down_time": 10,
            "sync_power_state_interval": 1, "running_deleted_instance_timeout": 1, "reclaim_instance_interval": KEPT,
            "shelved_offload_time": KEPT, "resize_confirm_window": KEPT,
        },
        "kilonova": {"reconcile_interval": 1},
        "network": {"agent_listen": desks[2]},
        "agent": {"networks": desks[2]},
    }  # fmt: skip
    made = Roles(tempfile.mkdtemp(prefix="kilonova-e2e-clocks-"), settings)
    made.desks = desks
    yield made
    made.discard()


@pytest.mark.parametrize("offset", ["+0.5", "-0.5"])
def test_conductors_of_which_one_has_another_clock(two, clock, name, offset):
    certificates(two)
    two.sync()
    for role in ("identity", "image", "network", "volume", "placement", "api"):
        two.start(role)
    clock.set(offset)
    other = ["env", *(f"{key}={value}" for key, value in clock.environment.items())]
    insides = [lambda *command: list(command), lambda *command: [*other, *command]]
    conductors = [
        two.start("conductor", f"conductor.agent_listen={desk}", f"DEFAULT.host=conductor-{number}", inside=inside)
        for number, (desk, inside) in enumerate(zip(two.desks[:2], insides, strict=True), 1)
    ]
    for one, desks in (("left", two.desks[:2]), ("right", two.desks[1::-1])):
        two.start("compute", *host(two, one), f"agent.conductors={', '.join(desks)}")
        two.start("network-agent", *host(two, one))
    sdk = two.client().sdk()
    api = sdk.compute
    wait_until(lambda: up_hosts(sdk) == {"left", "right"}, 60, lambda: f"hosts up\n{two.tail()}")
    image = {"id": next(iter(sdk.image.images())).id}
    asked = {}

    def act(server, body, action):
        done = api.post(f"/servers/{server}/action", json=body, microversion="2.30")
        assert done.status_code == 202, done.text
        asked[server].append(action)

    def becomes(servers, status):
        for server in servers:
            wait_status(sdk, server, status)
            wait_until(lambda s=server: api.get_server(s).task_state is None, 60, "no task is shown")

    def done_to(server):
        listed = api.get(f"/servers/{server}/os-instance-actions").json()["instanceActions"]
        return [one["action"] for one in reversed(listed)]

    def power(server):
        """What its guest does, where there is one."""
        found = (json.loads(file.read_text())["power"] for file in two.home.glob(f"**/guests/{server}.json"))
        return list(found)

    servers = []
    for number in range(6):
        where = "left" if number % 2 else "right"
        made = boot(sdk, f"{name}-{number}", image, availability_zone=f"nova:{where}").id
        asked[made] = ["create"]
        servers.append(made)
    becomes(servers, "ACTIVE")

    def as_asked(running):
        """What a server is follows from what was asked for, and from nothing that somebody has seen too late."""
        for server in servers:
            assert done_to(server) == asked[server], f"nobody else has done anything\n{two.tail(200)}"
            assert power(server) == ["Running" if running else "Shutdown"], two.tail(200)

    def rounds():
        for _ in range(3):
            for server in servers:
                act(server, {"os-stop": None}, "stop")
            becomes(servers, "SHUTOFF")
            as_asked(False)
            for server in servers:
                act(server, {"os-start": None}, "start")
            becomes(servers, "ACTIVE")
            as_asked(True)

    # What hosts have seen of a guest comes late to the conductors.
    with faults(two, {"delay_after_ms": {"guest": 600}}):
        rounds()
        # Each does the other's work, and what that had begun.
        for number in range(2):
            for server in servers:
                act(server, {"reboot": {"type": "HARD"}}, "reboot")
            conductors[number].kill()
            becomes(servers, "ACTIVE")
            rounds()
            conductors[number].start()
    becomes(servers, "ACTIVE")
    as_asked(True)
    for server in servers:
        asked[server].append("delete")
        api.delete_server(server)
    wait_until(lambda: not list(api.servers()), 60, lambda: f"all are deleted\n{two.tail()}")
    audited = lambda: two.command("manage", "audit")  # noqa: E731
    wait_until(lambda: audited().returncode == 0, 60, lambda: f"nothing is left: {audited().stdout}")
