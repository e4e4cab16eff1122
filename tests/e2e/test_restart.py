"""Stopping, killing and starting the cloud under servers that run. Simulated hosts, a cloud of its own."""

import subprocess

import pytest

from cloud import BINARY, wait_until
from test_servers import boot, wait_status


@pytest.fixture(scope="module")
def own(new_cloud, guest_image):
    made = new_cloud(hosts=2)
    made.start()
    sdk = made.client("kilonova").sdk()
    picture = sdk.create_image(
        "cirros-kilonova-disk",
        filename=str(guest_image),
        disk_format="qcow2",
        container_format="bare",
        visibility="public",
        wait=True,
    )
    return made, {"id": picture.id, "name": picture.name}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_servers_survive(own, name, end):
    cloud, image = own
    password = (cloud.home / "clouds.yaml").read_text()
    sdk = cloud.client("kilonova-demo").sdk()
    server = boot(sdk, name, image)
    wait_status(sdk, server.id, "ACTIVE")

    getattr(cloud, end)()
    seconds = cloud.start()
    assert (cloud.home / "clouds.yaml").read_text() == password, "the credentials changed"
    sdk = cloud.client("kilonova-demo").sdk()
    assert sdk.compute.get_server(server.id).status == "ACTIVE", f"after a start of {seconds:.1f} s"
    sdk.compute.reboot_server(server.id, "HARD")
    wait_status(sdk, server.id, "ACTIVE")
    sdk.compute.stop_server(server.id)
    wait_status(sdk, server.id, "SHUTOFF")
    sdk.compute.delete_server(server.id)
    sdk.compute.wait_for_delete(server, wait=60)


def test_killed_in_the_middle_of_builds(own, name):
    """Accepted work is finished after the kill: nothing hangs in a task state."""
    cloud, image = own
    sdk = cloud.client("kilonova-demo").sdk()
    servers = [boot(sdk, f"{name}-{n}", image) for n in range(5)]
    cloud.kill()
    cloud.start()
    sdk = cloud.client("kilonova-demo").sdk()
    for server in servers:
        wait_status(sdk, server.id, "ACTIVE", seconds=90)
    for server in servers:
        sdk.compute.delete_server(server.id)
    cloud.kill()
    cloud.start()
    sdk = cloud.client("kilonova-demo").sdk()
    wait_until(lambda: not list(sdk.compute.servers(name=name)), 90, "every server is deleted")
    ports = [port for port in sdk.network.ports() if (port.device_owner or "").startswith("compute:")]
    assert ports == []


def test_status_when_stopped(own):
    cloud, _image = own
    cloud.stop()
    done = subprocess.run([BINARY, "status", "--home", cloud.home], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    cloud.start()
