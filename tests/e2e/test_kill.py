"""`kill -9` of the whole cloud in the middle of each flow: the next start ends it as it would have ended anyhow.

The simulated hosts are told to be slow before or after their effect, so that the kill finds the flow there. What has to
be true for the kill is looked at, never guessed by a pause.
"""

import json

import pytest

from cloud import wait_until
from test_servers import boot, wait_status

HOLD = 600_000
# flow: the request, the task state that shows it, the host's verb, the status at the end, the status to begin with
FLOWS = {
    "build": (None, "spawning", "ensure_guest", "ACTIVE", None),
    "delete": ({}, "deleting", "ensure_absent", None, "ACTIVE"),
    "start": ({"os-start": None}, "powering-on", "start", "ACTIVE", "SHUTOFF"),
    "stop": ({"os-stop": None}, "powering-off", "request_shutdown", "SHUTOFF", "ACTIVE"),
    "soft-reboot": ({"reboot": {"type": "SOFT"}}, "reboot_started", "reboot_soft", "ACTIVE", "ACTIVE"),
    "hard-reboot": ({"reboot": {"type": "HARD"}}, "reboot_started_hard", "reboot_hard", "ACTIVE", "ACTIVE"),
    "pause": ({"pause": None}, "pausing", "pause", "PAUSED", "ACTIVE"),
    "unpause": ({"unpause": None}, "unpausing", "unpause", "ACTIVE", "PAUSED"),
    "suspend": ({"suspend": None}, "suspending", "suspend", "SUSPENDED", "ACTIVE"),
    "shelve": ({"shelve": None}, "shelving_offloading", "ensure_absent", "SHELVED_OFFLOADED", "SHUTOFF"),
    "unshelve": ({"unshelve": None}, "spawning", "ensure_guest", "ACTIVE", "SHELVED_OFFLOADED"),
    "resume": ({"resume": None}, "resuming", "resume", "ACTIVE", "SUSPENDED"),
}
# Status: what brings a server there from ACTIVE, the guest's own state then, the power state that the API shows
STATES = {
    "ACTIVE": (None, "Running", 1),
    "SHUTOFF": ("os-stop", "Shutdown", 4),
    "PAUSED": ("pause", "Paused", 3),
    "SHELVED_OFFLOADED": ("shelve", None, 4),
    "SUSPENDED": ("suspend", "Suspended", 4),
}


@pytest.fixture(scope="module")
def own(new_cloud):
    made = new_cloud(hosts=2)
    made.start()
    return made


def slow(cloud, verb, moment):
    """All simulated hosts take their time for this verb, before its effect or after it."""
    key = {"before": "delay_ms", "after": "delay_after_ms"}[moment]
    for folder in (cloud.home / "sim").glob("*/guests"):
        part = folder / "faults.part"
        part.write_text(json.dumps({key: {verb: HOLD}}))
        part.rename(folder / "faults.json")


def quick(cloud):
    for file in (cloud.home / "sim").glob("*/guests/faults.json"):
        file.unlink()


def guests(cloud, server):
    """The server's guest on each host: {host: (a mark that changes with it, its power state)}."""
    found = {}
    for file in (cloud.home / "sim").glob(f"*/guests/{server}.json"):
        found[file.parent.parent.name] = (file.stat().st_mtime_ns, json.loads(file.read_text())["power"])
    return found


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("flow", FLOWS)
def test_killed_in(own, name, flow, moment):
    request, task, verb, end, begin = FLOWS[flow]
    cloud = own
    sdk = cloud.client("kilonova-demo").sdk()
    picture = sdk.image.find_image("cirros-sim-disk")
    picture = {"id": picture.id, "name": picture.name}
    if begin is None:
        slow(cloud, verb, moment)
    server = boot(sdk, name, picture).id
    if begin is not None:
        wait_status(sdk, server, "ACTIVE")
        if STATES[begin][0]:
            sdk.compute.post(f"/servers/{server}/action", json={STATES[begin][0]: None})
            wait_status(sdk, server, begin)
        before = guests(cloud, server)
        slow(cloud, verb, moment)
        if flow == "delete":
            sdk.compute.delete_server(server)
        else:
            answer = sdk.compute.post(f"/servers/{server}/action", json=request)
            assert answer.status_code == 202, answer.text
    else:
        before = {}

    def midway():
        shown = sdk.compute.get(f"/servers/{server}").json()["server"]["OS-EXT-STS:task_state"]
        happened = guests(cloud, server) != before
        return shown == task and happened == (moment == "after")

    wait_until(midway, 30, lambda: f"{task}, {verb} under way: {sdk.compute.get_server(server)}")
    cloud.kill()
    quick(cloud)
    cloud.start()

    sdk = cloud.client("kilonova-demo").sdk()
    if end is None:
        wait_until(lambda: sdk.compute.find_server(server) is None, 60, "the server is gone")
        assert guests(cloud, server) == {}
        assert not list(sdk.network.ports(device_id=server))
    else:
        wait_status(sdk, server, end, seconds=60)
        shown = sdk.compute.get(f"/servers/{server}").json()["server"]
        assert shown["OS-EXT-STS:task_state"] is None
        assert shown.get("fault") is None
        _, power, number = STATES[end]
        seen = [state for _mark, state in guests(cloud, server).values()]
        assert seen == ([power] if power else []), "one guest, as the server says, or none"
        assert shown["OS-EXT-STS:power_state"] == number
    check_actions(cloud, server)
    check_books(cloud)
    if end is not None:
        sdk.compute.delete_server(server)
        # It may be gone before it can be looked at.
        wait_until(lambda: sdk.compute.find_server(server) is None, 60, "the server is deleted")


def check_actions(cloud, server):
    """Every event has an end, and none says error."""
    sdk = cloud.client("kilonova").sdk()
    for action in sdk.compute.get(f"/servers/{server}/os-instance-actions", microversion="2.90").json()[
        "instanceActions"
    ]:
        path = f"/servers/{server}/os-instance-actions/{action['request_id']}"
        shown = sdk.compute.get(path, microversion="2.90").json()["instanceAction"]
        assert shown["message"] is None, shown
        assert shown["events"] and all(event["result"] == "Success" for event in shown["events"]), shown


def check_books(cloud):
    """Quota and placement equal a recount of the servers, and no server hangs in a task."""
    admin = cloud.client("kilonova").sdk()
    demo = cloud.client("kilonova-demo").sdk()
    servers = list(demo.compute.servers(details=True))
    assert [server.task_state for server in servers] == [None] * len(servers)
    limits = demo.compute.get("/limits").json()["limits"]["absolute"]
    sizes = {flavor.name: flavor for flavor in demo.compute.flavors()}
    used = [sizes[server.flavor["original_name"]] for server in servers]
    # One without a host counts against the quota and holds nothing.
    placed = [sizes[server.flavor["original_name"]] for server in servers if server.status != "SHELVED_OFFLOADED"]
    assert limits["totalInstancesUsed"] == len(servers)
    assert limits["totalCoresUsed"] == sum(flavor.vcpus for flavor in used)
    assert limits["totalRAMUsed"] == sum(flavor.ram for flavor in used)
    allocated = {}
    for provider in admin.placement.get("/resource_providers").json()["resource_providers"]:
        usages = admin.placement.get(f"/resource_providers/{provider['uuid']}/usages").json()["usages"]
        for kind, amount in usages.items():
            allocated[kind] = allocated.get(kind, 0) + amount
    assert allocated["VCPU"] == sum(flavor.vcpus for flavor in placed)
    assert allocated["MEMORY_MB"] == sum(flavor.ram for flavor in placed)
