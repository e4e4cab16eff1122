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
