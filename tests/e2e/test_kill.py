"""`kill -9` of the whole cloud in the middle of each flow: the next start ends it as it would have ended anyhow.

The simulated hosts are told to be slow before or after the effect of one verb, so that the kill finds the flow there.
What has to be true for the kill is looked at, never guessed by a pause: the step that `manage task list` shows, and what
the hosts have of the server. Flows that ask nothing of a host are held up by a database that takes no writes.
"""

import contextlib
import dataclasses
import functools
import json
import sqlite3
import threading
from collections.abc import Callable

import pytest

from cloud import wait_until
from sim_hosts import faults, files_of, spec_of, step_of
from test_server_volumes import swap, volume, volumes_of, wait_volume
from test_servers import boot, wait_status

HOLD = 600_000
# Where servers stay that are deleted or shelved; elsewhere they go at once.
KEEPING = "[DEFAULT]\nreclaim_instance_interval = 86400\nshelved_offload_time = -1\n"


class Case:
    """A server, its cloud, and what a flow needs beside it."""

    def __init__(self, cloud, name):
        self.cloud, self.name = cloud, name
        self.demo, self.admin = sessions(cloud)
        self.image = picture(cloud, "cirros-sim-disk")
        # The networks of one, two and three.
        self.server = self.host = self.port = self.network = None
        self.volumes, self.requests = [], []

    def shown(self, admin=False):
        return (self.admin if admin else self.demo).compute.get(f"/servers/{self.server}").json()["server"]

    def place(self):
        return self.shown(admin=True)["OS-EXT-SRV-ATTR:host"]

    def act(self, body, version=None, admin=False):
        sdk = self.admin if admin else self.demo
        answer = sdk.compute.post(f"/servers/{self.server}/action", json=body, microversion=version)
        assert answer.status_code in (200, 202, 204), answer.text

    def idle(self):
        """Nobody works on the server, also without showing it."""
        wait_until(lambda: not self.step(), 60, lambda: f"no task: {self.step()}")

    def step(self):
        return step_of(self.cloud, self.server)

    def guests(self):
        """What hosts have of the server, as {host: power state}, and a mark that changes with all of it."""
        found, mark = {}, files_of(self.cloud, self.server)
        for file in mark:
            host = "here" if file.parent.parent.name == self.host else "there"
            with contextlib.suppress(FileNotFoundError):
                if file.suffix == ".json":
                    found[host] = json.loads(file.read_text())["power"]
                elif file.suffix == ".aside":
                    found.setdefault(host, "aside")
                elif file.suffix == ".snapshot":
                    found["copy"] = host
        return found, mark


@functools.cache
def sessions(cloud):
    """An owner and an administrator. They outlive the kills: a cloud that is back knows the tokens that it gave."""
    return cloud.client("kilonova-demo").sdk(), cloud.client("kilonova").sdk()


@functools.cache
def picture(cloud, name):
    found = sessions(cloud)[0].image.find_image(name)
    return {"id": found.id, "name": found.name}


@functools.cache
def flavors(cloud):
    return {flavor.name: flavor for flavor in sessions(cloud)[0].compute.flavors()}


# How a server gets to a status, from ACTIVE; its guest then, and the power state that the API shows.
STATES = {
    "ACTIVE": (None, "Running", 1),
    "SHUTOFF": ({"os-stop": None}, "Shutdown", 4),
    "PAUSED": ({"pause": None}, "Paused", 3),
    "SUSPENDED": ({"suspend": None}, "Suspended", 4),
    "RESCUE": ({"rescue": {}}, "Running", 1),
    "VERIFY_RESIZE": ({"resize": {"flavorRef": "1"}}, "Running", 1),
    "SHELVED": ({"shelve": None}, "Shutdown", 4),
    "SHELVED_OFFLOADED": ({"shelve": None}, None, 4),
    "SOFT_DELETED": (None, "Shutdown", 4),
}
NEW_FLAVOR = "m1.tiny"

# What is done to a server ----------------------------------------------------------------------------------------------


def action(body, version=None, admin=False):
    return lambda case: case.act(body, version, admin)


def soft_delete(case):
    case.demo.compute.delete_server(case.server)


def later(ask):
    """For requests whose answer waits for the flow, and which the kill cuts off."""

    def asked(case):
        def run():
            with contextlib.suppress(Exception):
                ask(case)

        case.requests.append(threading.Thread(target=run, daemon=True))
        case.requests[-1].start()

    return asked


def live_migrate(case):
    case.act({"os-migrateLive": {"host": None, "block_migration": "auto"}}, "2.30", admin=True)


def change_password(case):
    case.act({"changePassword": {"adminPass": "Chosen-7aQ"}})


def evacuate(case):
    service(case, forced_down=True)
    case.act({"evacuate": {}}, "2.94", admin=True)


def evacuated(case):
    """Whether the move is over for the old host, which stays down until then."""
    path = f"/os-migrations?instance_uuid={case.server}&migration_type=evacuation"
    moves = case.admin.compute.get(path, microversion="2.59").json()["migrations"]
    return [move["status"] for move in moves] == ["completed"]


def service(case, forced_down):
    (found,) = case.admin.compute.get(f"/os-services?host={case.host}&binary=nova-compute", microversion="2.53").json()[
        "services"
    ]
    answer = case.admin.compute.put(
        f"/os-services/{found['id']}", json={"forced_down": forced_down}, microversion="2.53"
    )
    assert answer.status_code == 200, answer.text


def attach_interface(case):
    case.demo.compute.post(f"/servers/{case.server}/os-interface", json={"interfaceAttachment": {"port_id": case.port}})


def detach_interface(case):
    answer = case.demo.compute.delete(f"/servers/{case.server}/os-interface/{case.port}")
    assert answer.status_code == 202, answer.text


def attach_volume(case):
    answer = case.demo.compute.post(
        f"/servers/{case.server}/os-volume_attachments", json={"volumeAttachment": {"volumeId": case.volumes[0]}}
    )
    assert answer.status_code == 200, answer.text


def detach_volume(case):
    answer = case.demo.compute.delete(f"/servers/{case.server}/os-volume_attachments/{case.volumes[0]}")
    assert answer.status_code == 202, answer.text


def swap_volume(case):
    swap(case.admin, case.server, *case.volumes)


def extend_volume(case):
    body = {"os-extend": {"new_size": 2}}
    answer = case.demo.block_storage.post(f"/volumes/{case.volumes[0]}/action", json=body, microversion="3.42")
    assert answer.status_code == 202, answer.text


def remove_fixed_ip(case):
    case.act({"removeFixedIp": {"address": addresses(case)[-1]}}, "2.1")


def add_fixed_ip(case):
    network = case.demo.network.find_network("private").id
    case.act({"addFixedIp": {"networkId": network}}, "2.1")


# What it needs before --------------------------------------------------------------------------------------------------


def on_a_volume(case):
    """With an agent in the guest, whose file systems are to stand still."""
    made = case.admin.create_image(
        f"{case.name}-image", data=b"disk", disk_format="raw", container_format="bare", visibility="public",
        properties={"hw_qemu_guest_agent": "yes"}, wait=True,
    )  # fmt: skip
    case.image = {"id": made.id, "name": made.name}
    return {
        "image_id": "",
        "block_device_mapping": [
            {
                "source_type": "image",
                "uuid": made.id,
                "destination_type": "volume",
                "volume_size": 1,
                "boot_index": 0,
                "delete_on_termination": True,
            }
        ],
    }


def a_port(case):
    network = case.demo.network.find_network("private").id
    case.port = case.demo.network.create_port(network_id=network, name=case.name).id


def its_port(case):
    (case.port,) = (port.id for port in case.demo.network.ports(device_id=case.server))


def a_volume(case):
    case.volumes = [volume(case.demo, case.name)]


def has_volume(case):
    a_volume(case)
    attach_volume(case)
    wait_volume(case.demo, case.volumes[0], "in-use")


def has_volume_and_another(case):
    has_volume(case)
    case.volumes.append(volume(case.demo, f"{case.name}-2"))


def another_address(case):
    add_fixed_ip(case)
    wait_until(lambda: len(addresses(case)) == 2, 60, "it has two addresses")


# What is true in the end, beside the status, the books and the guest ---------------------------------------------------


def addresses(case):
    return [one["addr"] for one in case.shown()["addresses"]["private"]]


def has_left(case):
    assert case.place() != case.host


def stays(case):
    assert case.place() == case.host


def flavor_is(name, *more):
    def check(case):
        assert case.demo.compute.get_server(case.server).flavor["original_name"] == name
        for one in more:
            one(case)

    return check


def one_image(case):
    """Its own, whole, and no other is left of it."""
    found = case.demo.image.get(f"/images?instance_uuid={case.server}").json()["images"]
    assert [one["status"] for one in found] == ["active"], found
    case.demo.image.delete_image(found[0]["id"])


def no_image(case):
    found = case.demo.image.get(f"/images?instance_uuid={case.server}").json()["images"]
    assert found == []


def image_of_snapshots(case):
    found = [one for one in case.demo.image.get("/images").json()["images"] if one["name"] == f"{case.name}-copy"]
    assert [one["status"] for one in found] == ["active"], found
    (mapping,) = json.loads(found[0]["block_device_mapping"])
    (snapshot,) = case.demo.block_storage.snapshots()
    assert mapping["snapshot_id"] == snapshot.id
    case.demo.image.delete_image(found[0]["id"])
    case.demo.block_storage.delete_snapshot(snapshot)
    wait_until(lambda: not list(case.demo.block_storage.snapshots()), 60, "no snapshots are left")
    on_its_volume(case)


def on_its_volume(case):
    (root,) = volumes_of(case.demo, case.server)
    wait_volume(case.demo, root, "in-use")
    (one,) = case.demo.block_storage.volumes()
    assert one.id == root


def has_ports(count):
    def check(case):
        ports = [port.id for port in case.demo.network.ports(device_id=case.server)]
        assert len(ports) == count and (case.port in ports) == (count == 2), ports
        assert len(case.shown()["addresses"].get("private", [])) == count
        assert sorted(vif["port_id"] for vif in spec_of(case.cloud, case.server)["vifs"]) == sorted(ports)

    return check


def has_addresses(count):
    def check(case):
        (port,) = case.demo.network.ports(device_id=case.server)
        has = sorted(one["ip_address"] for one in port.fixed_ips)
        assert len(has) == count and has == sorted(addresses(case))

    return check


def volume_is(status, which=0, size=1):
    """The guest has the one that is in use, and the others are free."""

    def check(case):
        used = [case.volumes[which]] if status == "in-use" else []
        assert volumes_of(case.demo, case.server) == used
        for one in case.volumes:
            wait_volume(case.demo, one, "in-use" if one in used else "available")
            found = case.demo.block_storage.get_volume(one)
            assert len(found.attachments) == (one in used)
            assert found.size == (size if one == case.volumes[which] else 1)
        text = json.dumps(spec_of(case.cloud, case.server).get("disks", []))
        assert [one in text for one in case.volumes] == [one in used for one in case.volumes]

    return check


# -----------------------------------------------------------------------------------------------------------------------

SAME = "as at the start"
OTHER = "other than at the start"


@dataclasses.dataclass(frozen=True)
class Row:
    flow: str
    step: str
    # The verb of the host that is slow; `network`: a database that is.
    verb: str
    act: Callable | None
    end: str | None
    begin: str | None = "ACTIVE"
    needs: Callable = lambda case: None
    left: Callable = lambda case: None
    # What hosts have of the server when the kill comes before and after the verb's effect; None: not killed then. After
    # it is always other than at the start.
    before: dict | str | None = SAME
    after: dict | str | None = OTHER
    keeping: bool = False


FLOWS = {
    "build": Row("build", "spawn", "ensure_guest", None, "ACTIVE", None),
    "build-on-a-volume": Row(
        "build", "spawn", "ensure_guest", None, "ACTIVE", None, on_a_volume, on_its_volume
    ),
    "delete": Row("delete", "destroy", "ensure_absent", action({"forceDelete": None}), None),
    "start": Row("start", "act", "start", action({"os-start": None}), "ACTIVE", "SHUTOFF"),
    "stop": Row("stop", "act", "request_shutdown", action({"os-stop": None}), "SHUTOFF"),
    "soft-reboot": Row("reboot", "act", "reboot_soft", action({"reboot": {"type": "SOFT"}}), "ACTIVE"),
    "hard-reboot": Row("reboot", "act", "reboot_hard", action({"reboot": {"type": "HARD"}}), "ACTIVE"),
    "pause": Row("pause", "act", "pause", action({"pause": None}), "PAUSED"),
    "unpause": Row("unpause", "act", "unpause", action({"unpause": None}), "ACTIVE", "PAUSED"),
    "suspend": Row("suspend", "act", "suspend", action({"suspend": None}), "SUSPENDED"),
    "resume": Row("resume", "act", "resume", action({"resume": None}), "ACTIVE", "SUSPENDED"),
    # What a crash dump and a password do to a guest is not seen from outside.
    "crash-dump": Row(
        "crash_dump", "act", "interrupt", action({"trigger_crash_dump": None}, "2.17"), "ACTIVE", after=None
    ),
    "password": Row(
        "change_password", "act", "set_password", later(change_password), "ACTIVE",
        after=None,
    ),  # fmt: skip
    "rescue": Row(
        "rescue", "act", "rescue", action({"rescue": {}}), "RESCUE",
        before={"here": "Shutdown"}, after={"here": "Running"},
    ),  # fmt: skip
    "unrescue": Row("unrescue", "act", "unrescue", action({"unrescue": None}), "ACTIVE", "RESCUE"),
    "rebuild": Row(
        "rebuild", "act", "ensure_guest", lambda case: case.act({"rebuild": {"imageRef": case.image["id"]}}), "ACTIVE",
        left=has_ports(1), before={}, after={"here": "Running"},
    ),  # fmt: skip
    "snapshot": Row(
        "snapshot", "upload", "snapshot", action({"createImage": {"name": "kill"}}), "ACTIVE", left=one_image
    ),
    "backup": Row(
        "backup", "upload", "snapshot",
        action({"createBackup": {"name": "kill", "backup_type": "daily", "rotation": 1}}), "ACTIVE", left=one_image,
    ),  # fmt: skip
    "snapshot-of-volumes": Row(
        "snapshot_volumes", "go_on", "thaw", lambda case: case.act({"createImage": {"name": f"{case.name}-copy"}}),
        "ACTIVE", needs=on_a_volume, left=image_of_snapshots, after=None,
    ),  # fmt: skip
    "soft-delete": Row("soft_delete", "act", "stop_hard", soft_delete, "SOFT_DELETED", keeping=True),
    "restore": Row(
        "restore", "act", "start", action({"restore": None}), "ACTIVE", "SOFT_DELETED", keeping=True
    ),
    "shelve": Row(
        "shelve", "remove", "ensure_absent", action({"shelve": None}), "SHELVED_OFFLOADED", left=one_image,
        before={"here": "Shutdown"}, after={},
    ),  # fmt: skip
    "shelve-only": Row(
        "shelve", "upload", "snapshot", action({"shelve": None}), "SHELVED", left=one_image, keeping=True,
        before={"here": "Shutdown"}, after={"here": "Shutdown", "copy": "here"},
    ),  # fmt: skip
    "shelve-offload": Row(
        "shelve_offload", "remove", "ensure_absent", action({"shelveOffload": None}, admin=True), "SHELVED_OFFLOADED",
        "SHELVED", keeping=True,
    ),  # fmt: skip
    "unshelve": Row(
        "unshelve", "spawn", "ensure_guest", action({"unshelve": None}), "ACTIVE", "SHELVED_OFFLOADED", left=no_image
    ),
    "unshelve-in-place": Row(
        "unshelve_in_place", "start", "start", action({"unshelve": None}), "ACTIVE", "SHELVED", left=no_image,
        keeping=True,
    ),  # fmt: skip
    "resize": Row(
        "resize", "land", "land", action({"resize": {"flavorRef": "1"}}), "VERIFY_RESIZE",
        left=flavor_is(NEW_FLAVOR, has_left), before={"here": "aside"}, after={"here": "aside", "there": "Running"},
    ),  # fmt: skip
    "cold-migration": Row(
        "resize", "put_aside", "put_aside", action({"migrate": None}, admin=True), "VERIFY_RESIZE",
        left=flavor_is("m1.nano", has_left), before={"here": "Shutdown"}, after={"here": "aside"},
    ),  # fmt: skip
    "confirm": Row(
        "confirm_resize", "elsewhere", "ensure_absent", action({"confirmResize": None}), "ACTIVE", "VERIFY_RESIZE",
        left=flavor_is(NEW_FLAVOR, stays),
    ),  # fmt: skip
    "revert": Row(
        "revert_resize", "put_back", "put_back", action({"revertResize": None}), "ACTIVE", "VERIFY_RESIZE",
        left=flavor_is("m1.nano", has_left), before={"there": "aside"}, after={"there": "Running"},
    ),  # fmt: skip
    "live-migration": Row(
        "live_migration", "move", "migrate_live", live_migrate, "ACTIVE",
        left=has_left, before={"here": "Running", "there": "Shutdown"}, after={"here": "Shutdown", "there": "Shutdown"},
    ),  # fmt: skip
    "live-migration-arrives": Row(
        "live_migration", "arrive", "start", live_migrate, "ACTIVE",
        left=has_left, before={"here": "Shutdown", "there": "Shutdown"}, after={"here": "Shutdown", "there": "Running"},
    ),  # fmt: skip
    "evacuate": Row("evacuate", "spawn", "ensure_guest", evacuate, "ACTIVE", left=has_left),
    "attach-interface": Row(
        "attach_interface", "attach", "attach", later(attach_interface), "ACTIVE", needs=a_port, left=has_ports(2)
    ),
    "detach-interface": Row(
        "detach_interface", "detach", "detach", detach_interface, "ACTIVE", needs=its_port, left=has_ports(0)
    ),
    "attach-volume": Row(
        "attach_volume", "attach", "attach_disk", attach_volume, "ACTIVE", needs=a_volume, left=volume_is("in-use")
    ),
    "detach-volume": Row(
        "detach_volume", "detach", "detach_disk", detach_volume, "ACTIVE", needs=has_volume, left=volume_is("available")
    ),
    "swap-volume": Row(
        "swap_volume", "swap", "swap_disk", swap_volume, "ACTIVE", needs=has_volume_and_another,
        left=volume_is("in-use", which=1),
    ),  # fmt: skip
    "extend-volume": Row(
        "extend_volume", "act", "resize_disk", extend_volume, "ACTIVE", needs=has_volume,
        left=volume_is("in-use", size=2),
    ),  # fmt: skip
    "add-fixed-ip": Row(
        "add_fixed_ip", "change", "network", add_fixed_ip, "ACTIVE", left=has_addresses(2), after=None
    ),
    "remove-fixed-ip": Row(
        "remove_fixed_ip", "change", "network", remove_fixed_ip, "ACTIVE", needs=another_address,
        left=has_addresses(1), after=None,
    ),  # fmt: skip
}  # fmt: skip
KILLS = [
    (flow, moment) for flow, row in FLOWS.items() for moment in ("before", "after") if getattr(row, moment) is not None
]


@pytest.fixture(scope="module")
def own(new_cloud):
    """Two clouds: in one servers that are deleted or shelved stay for a while. Each starts when it is needed."""

    @functools.cache
    def cloud(keeping):
        made = new_cloud(hosts=2)
        made.configure(KEEPING if keeping else "")
        made.start()
        return made

    yield cloud
    for cached in (sessions, picture, flavors):
        cached.cache_clear()


@contextlib.contextmanager
def slow(cloud, verb, moment):
    """All simulated hosts take their time for this verb, before its effect or after it."""
    if verb == "network":
        database = sqlite3.connect(cloud.home / "control" / "db" / "network.db", isolation_level=None, timeout=60)
        database.execute("BEGIN IMMEDIATE")
        yield
        database.close()
        return
    key = {"before": "delay_ms", "after": "delay_after_ms"}[moment]
    with faults(cloud, {key: {verb: HOLD}}):
        yield


def prepare(case, row):
    """The server in the status that the flow begins with."""
    more = on_a_volume(case) if row.needs is on_a_volume else {}
    case.server = boot(case.demo, case.name, case.image, **more).id
    wait_status(case.demo, case.server, "ACTIVE")
    if row.begin == "SOFT_DELETED":
        soft_delete(case)
    elif STATES[row.begin][0]:
        case.act(STATES[row.begin][0])
    wait_status(case.demo, case.server, row.begin)
    if row.needs is not on_a_volume:
        row.needs(case)
    case.idle()
    case.host = case.place()


@pytest.mark.parametrize(("flow", "moment"), KILLS)
def test_killed_in(own, name, flow, moment):
    row = FLOWS[flow]
    cloud = own(row.keeping)
    case = Case(cloud, name)
    if row.begin is not None:
        prepare(case, row)
    start, wanted = case.guests(), getattr(row, moment)

    def midway():
        powers, mark = case.guests()
        if wanted not in (SAME, OTHER) and powers != wanted:
            return False
        if (moment == "after" or wanted == SAME) and (mark == start[1]) != (wanted == SAME):
            return False
        return case.step() == (row.flow, row.step)

    with slow(cloud, row.verb, moment):
        if row.begin is None:
            more = on_a_volume(case) if row.needs is on_a_volume else {}
            case.server = boot(case.demo, name, case.image, **more).id
        else:
            row.act(case)
        wait_until(midway, 60, lambda: f"{row.flow}, {row.step}: {case.step()}, {case.guests()}, {case.shown()}")
        cloud.kill()
    cloud.start()

    if row.end is None:
        wait_until(lambda: case.demo.compute.find_server(case.server) is None, 60, "the server is gone")
        assert case.guests()[0] == {}
        assert not list(case.demo.network.ports(device_id=case.server))
    else:
        wait_status(case.demo, case.server, row.end, seconds=60)
        case.idle()
        shown = case.shown()
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == (row.end, None)
        assert shown.get("fault") is None
        _, power, number = STATES[row.end]
        assert shown["OS-EXT-STS:power_state"] == number
        place = case.place()

        def guest():
            powers = {host: power for host, power in case.guests()[0].items() if power != "aside"}
            return powers == ({("here" if place == case.host else "there"): power} if power else {})

        # One that was evacuated is removed from its old host when that host comes to it.
        wait_until(guest, 60, lambda: f"one guest, as the server says, or none: {case.guests()}")
        row.left(case)
    check_actions(case)
    check_books(case, row.end)
    if row.act is evacuate:
        wait_until(lambda: evacuated(case), 60, "the old host has said that it has nothing of the server")
        service(case, forced_down=False)
    wait_until(lambda: not cloud.audit(), 60, lambda: cloud.audit())
    if row.end is not None:
        case.act({"forceDelete": None})
        # It may be gone before it can be looked at.
        wait_until(lambda: case.demo.compute.find_server(case.server) is None, 60, "the server is deleted")
    for one in case.volumes:
        wait_volume(case.demo, one, "available")
        case.demo.block_storage.delete_volume(one)
    if case.port and flow == "attach-interface":
        case.demo.network.delete_port(case.port)


def check_actions(case):
    """Every event has an end, and none says error."""
    path = f"/servers/{case.server}/os-instance-actions"
    for action in case.admin.compute.get(path, microversion="2.90").json()["instanceActions"]:
        shown = case.admin.compute.get(f"{path}/{action['request_id']}", microversion="2.90").json()["instanceAction"]
        assert shown["message"] is None, shown
        assert shown["events"] and all(event["result"] == "Success" for event in shown["events"]), shown


def check_books(case, end):
    """Quota and placement equal a recount of the servers, and no server hangs in a task."""
    servers = list(case.demo.compute.servers(details=True))
    assert [server.task_state for server in servers] == [None] * len(servers)
    limits = case.demo.compute.get("/limits").json()["limits"]["absolute"]
    sizes = flavors(case.cloud)
    used = [sizes[server.flavor["original_name"]] for server in servers]
    # One without a host counts against the quota and holds nothing, one that is soft-deleted the other way round, and one
    # that may go back holds what it had.
    placed = [sizes[server.flavor["original_name"]] for server in servers if server.status != "SHELVED_OFFLOADED"]
    if end in ("SOFT_DELETED", "VERIFY_RESIZE"):
        placed.append(sizes["m1.nano"])
    assert limits["totalInstancesUsed"] == len(servers)
    assert limits["totalCoresUsed"] == sum(flavor.vcpus for flavor in used)
    assert limits["totalRAMUsed"] == sum(flavor.ram for flavor in used)
    allocated = {}
    for provider in case.admin.placement.get("/resource_providers").json()["resource_providers"]:
        usages = case.admin.placement.get(f"/resource_providers/{provider['uuid']}/usages").json()["usages"]
        for kind, amount in usages.items():
            allocated[kind] = allocated.get(kind, 0) + amount
    assert allocated["VCPU"] == sum(flavor.vcpus for flavor in placed)
    assert allocated["MEMORY_MB"] == sum(flavor.ram for flavor in placed)
