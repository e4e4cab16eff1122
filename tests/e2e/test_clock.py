"""The clock of a running cloud jumps: an hour forward, a day back, and then it is right again.

What an operator expects: nobody's guest is touched. Hosts stay up, what is under way ends, what is asked for is done.
Nothing is taken for old because of it: no host is left, no guest is swept away, and what is kept for a time (servers
that are deleted or shelved, resizes that nobody confirmed) is kept as long as that time is longer than the jump. That
time is counted by the wall clock, as in Nova, since it outlasts processes: an hour that the clock skips is an hour less.
A clock that goes back makes nothing due. Who has a token may need a new one.

The whole cloud is one process here, so all of its hosts jump with it. libfaketime moves the wall clock and leaves the
monotonic one alone, as a clock that is set does. Processes live through a jump, or are killed and start after it.
"""

import pathlib

import pytest

from cloud import wait_until
from sim_hosts import faults, files_of, step_of
from test_servers import boot, wait_status

# Twice as long as the jump forward.
KEPT = 7200
# So long is what is under way while the clock jumps.
SLOW = 5000
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
        wait_until(lambda: step_of(cloud, moving) is None, 60, lambda: f"done: {step_of(cloud, moving)}")
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
