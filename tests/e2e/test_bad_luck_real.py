"""A real host in trouble: its disk is full, its libvirt is away. A cloud of its own would be in the other one's way on
one machine, so the disk is filled inside of the instances folder of the only one."""

import fcntl
import os
import pathlib
import signal
import subprocess
import time

import pytest

from cloud import wait_until
from test_server_volumes import volume, volumes_of, wait_volume

pytestmark = pytest.mark.real

BOOT_SECONDS = 240


def new(sdk, image, name):
    flavor = sdk.compute.find_flavor("m1.nano").id
    return sdk.compute.create_server(name=name, image_id=image["id"], flavor_id=flavor, networks="none").id


def wait_status(sdk, server, status, seconds=90):
    def look():
        found = sdk.compute.get_server(server)
        assert status == "ERROR" or found.status != "ERROR", found.fault
        return found.status == status

    wait_until(look, seconds, lambda: f"{status}: {sdk.compute.get_server(server)}")


def gone(sdk, server, seconds=90):
    sdk.compute.delete_server(server)
    wait_until(lambda: sdk.compute.find_server(server) is None, seconds, "the server is gone")


def service_state(admin_sdk):
    found = admin_sdk.compute.get("/os-services?binary=nova-compute").json()["services"]
    return found[0]["state"]


def domains():
    done = subprocess.run(
        ["virsh", "-c", "qemu:///system", "list", "--all", "--uuid"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture
def full_disk(cloud):
    """A file system of the size that it has now over the folder of base images: nothing more fits."""
    bases = cloud.home / "instances" / "_base"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(bases)], check=True)
    yield
    subprocess.run(["umount", str(bases)], check=True)


def test_disk_full(cloud, demo_sdk, admin_sdk, image, guest_image, name, request):
    """Base images of an image nobody used before do not fit."""
    fresh = admin_sdk.create_image(
        name, filename=str(guest_image), disk_format="qcow2", container_format="bare", visibility="public", wait=True
    )
    fresh = {"id": fresh.id}
    warm = new(demo_sdk, image, f"{name}-warm")
    wait_status(demo_sdk, warm, "ACTIVE")
    request.getfixturevalue("full_disk")
    server = new(demo_sdk, fresh, name)
    wait_status(demo_sdk, server, "ERROR")
    assert "details" not in demo_sdk.compute.get_server(server).fault, "details are for administrators"
    fault = admin_sdk.compute.get_server(server).fault
    assert "No space left on device" in fault["details"], fault
    assert str(cloud.home) not in str(fault), "where things lie on a host is nobody's business"
    gone(demo_sdk, server)
    assert not (cloud.home / "instances" / server).exists()
    gone(demo_sdk, warm)
    demo_sdk.image.find_image(name)
    admin_sdk.image.delete_image(fresh["id"])


def test_libvirt_away_and_back(cloud, demo_sdk, admin_sdk, image, name):
    """The libvirtd that the cloud started is killed and cannot be started again for a while."""
    pid_file = cloud.home / "libvirt" / "libvirtd.pid"
    if not pid_file.exists():
        pytest.skip("a libvirtd of the system is used; it is not ours to kill")
    running = new(demo_sdk, image, f"{name}-running")
    doomed = new(demo_sdk, image, f"{name}-doomed")
    wait_status(demo_sdk, running, "ACTIVE")
    wait_status(demo_sdk, doomed, "ACTIVE")
    qemu = int(pathlib.Path(f"/run/libvirt/qemu/{admin_sdk.compute.get_server(running).instance_name}.pid").read_text())

    lock = take_away(pid_file)
    try:
        at_once = new(demo_sdk, image, f"{name}-at-once")
        wait_until(lambda: service_state(admin_sdk) == "down", 60, "the compute service is shown down")
        wait_status(demo_sdk, at_once, "ERROR", seconds=120)
        later = new(demo_sdk, image, f"{name}-later")
        wait_status(demo_sdk, later, "ERROR")
        fault = demo_sdk.compute.get_server(later).fault
        assert "No valid host was found. 1 host considered: 1 down" in fault["message"], fault
        for server in (at_once, later, doomed):
            gone(demo_sdk, server)
        assert demo_sdk.compute.get_server(running).status == "ACTIVE"
        os.kill(qemu, 0)
    finally:
        os.close(lock)

    wait_until(lambda: service_state(admin_sdk) == "up", 120, "the compute service is back by itself")
    wait_until(lambda: doomed not in domains(), 60, "the host removed what it owed")
    assert not (cloud.home / "instances" / doomed).exists()
    os.kill(qemu, 0)
    demo_sdk.compute.reboot_server(running, "HARD")
    wait_status(demo_sdk, running, "ACTIVE")
    fresh = new(demo_sdk, image, f"{name}-fresh")
    wait_status(demo_sdk, fresh, "ACTIVE")
    for server in (running, fresh):
        gone(demo_sdk, server)


def take_away(pid_file):
    """Kills libvirtd and holds the lock of its pid file, so that no other can start under it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        held = os.open(pid_file, os.O_RDWR | os.O_CREAT)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_ino == os.stat(pid_file).st_ino:
                    return held
            except OSError:
                pass
        os.close(held)
    raise AssertionError("another libvirtd was always faster")


@pytest.fixture
def no_system(admin_sdk, name, tmp_path):
    """An image with nothing to boot: its guest stays in the firmware, which lets no device go."""
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    made = admin_sdk.create_image(
        name, filename=str(disk), disk_format="raw", container_format="bare", visibility="public", wait=True
    )
    yield {"id": made.id}
    admin_sdk.image.delete_image(made.id)


def action_of(sdk, server, what):
    """The last action of this name: its message, and its one event."""
    action = next(one for one in sdk.compute.server_actions(server) if one.action == what)
    (event,) = sdk.compute.get_server_action(action.request_id, server).events
    return action, event


@pytest.mark.long
def test_a_guest_that_lets_nothing_go(admin_sdk, demo, demo_sdk, no_system, name):
    """What it was to give back stays its own, the owner hears why, and all of it can be done once the guest is off, or by
    deleting the server, also while its host still asks the guest."""
    sdk = demo_sdk
    network = sdk.network.find_network("private").id
    flavor = sdk.compute.find_flavor("m1.nano").id

    def make(kind):
        return sdk.compute.create_server(
            name=f"{name}-{kind}", image_id=no_system["id"], flavor_id=flavor, networks=[{"uuid": network}]
        ).id

    with_disk, with_card, doomed = (make(kind) for kind in ("disk", "card", "doomed"))
    volumes = [volume(sdk, f"{name}-{number}") for number in (1, 2)]
    for server in (with_disk, with_card, doomed):
        wait_status(sdk, server, "ACTIVE")

    def described(server):
        line = ("virsh", "-c", "qemu:///system", "dumpxml", admin_sdk.compute.get_server(server).instance_name)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def port_of(server):
        (port,) = sdk.network.ports(device_id=server)
        return port

    for server, one in zip((with_disk, doomed), volumes, strict=True):
        demo.run("server", "add", "volume", server, one)
        wait_volume(sdk, one, "in-use")
        assert one in described(server)
        wait_until(lambda server=server: volumes_of(sdk, server), 60, "the server shows it")
    card = port_of(with_card)
    assert card.mac_address in described(with_card)

    began = time.monotonic()
    demo.run("server", "remove", "volume", with_disk, volumes[0])
    demo.run("server", "remove", "volume", doomed, volumes[1])
    demo.run("server", "remove", "port", with_card, card.id)
    wait_volume(sdk, volumes[0], "detaching")
    # Deletion comes first, whatever the guest thinks of it.
    wait_volume(sdk, volumes[1], "detaching")
    demo.run("server", "delete", "--wait", doomed)
    print(f"\ndeleted {time.monotonic() - began:.0f} s after its guest was asked for the volume")
    wait_volume(sdk, volumes[1], "available")

    def over(server, what):
        wait_until(lambda: action_of(sdk, server, what)[1].result, 240, f"{what} is over", pause=1)
        return action_of(sdk, server, what)

    for server, what, device in (
        (with_disk, "detach_volume", "volume"),
        (with_card, "detach_interface", "interface"),
    ):
        action, event = over(server, what)
        print(f"\n{what}: {time.monotonic() - began:.0f} s: {action.message}: {event}")
        said = f"the guest does not let go of the {device}; stop the server, and try again"
        assert event.result == "Error" and said in action.message, f"{action} {event}"
        found = sdk.compute.get_server(server)
        assert (found.status, found.task_state, found.power_state) == ("ACTIVE", None, 1)
    # It is as it was before it was asked.
    wait_volume(sdk, volumes[0], "in-use")
    assert volumes_of(sdk, with_disk) == [volumes[0]]
    assert volumes[0] in described(with_disk)
    shown = port_of(with_card)
    assert (shown.id, shown.status, shown.binding_host_id) == (card.id, "ACTIVE", card.binding_host_id)
    assert sdk.compute.get_server(with_card).addresses["private"][0]["addr"] == card.fixed_ips[0]["ip_address"]
    assert card.mac_address in described(with_card)

    # One is rebooted with what it kept, and stopped, the other one is deleted with it.
    demo.run("server", "reboot", "--hard", "--wait", with_disk)
    assert volumes[0] in described(with_disk)
    demo.run("server", "stop", with_disk)
    wait_status(sdk, with_disk, "SHUTOFF", seconds=180)
    demo.run("server", "remove", "volume", with_disk, volumes[0])
    wait_volume(sdk, volumes[0], "available")
    demo.run("server", "start", with_disk)
    wait_status(sdk, with_disk, "ACTIVE")
    assert volumes[0] not in described(with_disk)
    for server in (with_disk, with_card):
        gone(sdk, server)
    for server in (with_disk, with_card, doomed):
        wait_until(lambda server=server: server not in domains(), 120, "its host has removed it")
        assert list(sdk.network.ports(device_id=server)) == []
    for one in volumes:
        sdk.block_storage.delete_volume(one)
    wait_until(
        lambda: not [one for one in volumes if sdk.block_storage.find_volume(one)], 60, "the volumes are deleted"
    )


@pytest.mark.long
def test_a_deletion_does_not_wait_for_a_guest_that_lets_nothing_go(admin_sdk, demo, demo_sdk, no_system, name):
    """What the guest is asked for meanwhile is no longer wanted: it is switched off at once."""
    sdk = demo_sdk
    network = sdk.network.find_network("private").id
    flavor = sdk.compute.find_flavor("m1.nano").id
    servers = [
        sdk.compute.create_server(
            name=f"{name}-{number}", image_id=no_system["id"], flavor_id=flavor, networks=[{"uuid": network}]
        ).id
        for number in (1, 2)
    ]
    for server in servers:
        wait_status(sdk, server, "ACTIVE")
    with_disk, with_card = servers
    one = volume(sdk, name)
    demo.run("server", "add", "volume", with_disk, one)
    wait_volume(sdk, one, "in-use")
    wait_until(lambda: volumes_of(sdk, with_disk), 60, "the server shows it")
    (port,) = sdk.network.ports(device_id=with_card)
    demo.run("server", "remove", "volume", with_disk, one)
    demo.run("server", "remove", "port", with_card, port.id)
    wait_volume(sdk, one, "detaching")
    began = time.monotonic()
    took = {}
    for server in servers:
        sdk.compute.delete_server(server)
    for server in servers:
        wait_until(lambda server=server: server not in domains(), 120, "its host has removed it")
        wait_until(lambda server=server: sdk.compute.find_server(server) is None, 120, "the server is gone")
        took[server] = time.monotonic() - began
    wait_volume(sdk, one, "available")
    sdk.block_storage.delete_volume(one)
    assert max(took.values()) < 30, took
