"""Hosts that fail: full disks, hypervisors that do not answer. Simulated hosts, switched by their file of faults."""

import json

import pytest

from cloud import wait_until
from test_server_volumes import volume, wait_volume
from test_servers import boot, wait_status


@pytest.fixture(scope="module")
def own(new_cloud):
    made = new_cloud(hosts=2)
    (made.home / "kilonova.conf").write_text("[DEFAULT]\nshutdown_timeout = 1\n")
    made.start()
    sdk = made.client("kilonova-demo").sdk()
    found = sdk.image.find_image("cirros-sim-disk")
    return made, sdk, {"id": found.id, "name": found.name}


@pytest.fixture
def faults(own):
    """Sets the faults of a host, or of all; they are gone after the test."""
    folders = sorted((own[0].home / "sim").glob("*/guests"))

    def put(what, hosts=folders):
        for folder in hosts:
            part = folder / "faults.part"
            part.write_text(json.dumps(what))
            part.rename(folder / "faults.json")

    put.folders = folders
    yield put
    for folder in folders:
        (folder / "faults.json").unlink(missing_ok=True)


def services(cloud):
    found = cloud.client("kilonova").sdk().compute.get("/os-services?binary=nova-compute").json()["services"]
    return {service["host"]: service["state"] for service in found}


def gone(sdk, server):
    sdk.compute.delete_server(server)
    wait_until(lambda: sdk.compute.find_server(server) is None, 60, "the server is gone")
    assert not list(sdk.network.ports(device_id=server))


def test_a_full_disk_on_one_host_is_another_hosts_work(own, faults, name):
    cloud, sdk, image = own
    faults({"disk_full": True}, faults.folders[:1])
    servers = [boot(sdk, f"{name}-{n}", image).id for n in range(3)]
    for server in servers:
        wait_status(sdk, server, "ACTIVE")
        shown = cloud.client("kilonova").sdk().compute.get_server(server)
        assert shown.hypervisor_hostname == "sim-host-2"
    for server in servers:
        gone(sdk, server)


def test_full_disks_everywhere(own, faults, name):
    cloud, sdk, image = own
    faults({"disk_full": True})
    server = boot(sdk, name, image).id
    wait_status(sdk, server, "ERROR")
    fault = sdk.compute.get_server(server).fault
    assert fault["code"] == 500
    assert "No valid host was found" in fault["message"], fault
    assert "details" not in fault, "details are for administrators"
    seen = cloud.client("kilonova").sdk().compute.get_server(server).fault
    assert "sim-host-" in seen["details"]
    assert "no space left" in seen["details"], "the host's own words stay"
    gone(sdk, server)
    faults({})
    server = boot(sdk, name, image).id
    wait_status(sdk, server, "ACTIVE")
    gone(sdk, server)


def test_hypervisors_down(own, faults, name):
    cloud, sdk, image = own
    running = boot(sdk, f"{name}-running", image).id
    doomed = boot(sdk, f"{name}-doomed", image).id
    wait_status(sdk, running, "ACTIVE")
    wait_status(sdk, doomed, "ACTIVE")
    faults({"down": True})
    wait_until(lambda: set(services(cloud).values()) == {"down"}, 60, lambda: f"shown down: {services(cloud)}")

    failed = boot(sdk, f"{name}-failed", image).id
    wait_status(sdk, failed, "ERROR")
    fault = sdk.compute.get_server(failed).fault
    assert "No valid host was found. 2 hosts considered: 2 down" in fault["message"], fault
    answer = sdk.compute.post(f"/servers/{running}/action", json={"os-stop": None})
    assert answer.status_code in (202, 409), answer.text
    wait_until(lambda: sdk.compute.get_server(running).task_state is None, 60, "no task hangs")
    assert sdk.compute.get_server(running).status == "ACTIVE", "what was not done is not shown as done"
    gone(sdk, failed)
    gone(sdk, doomed)
    assert list((cloud.home / "sim").glob(f"*/guests/{doomed}.json")), "nobody could remove it"

    faults({})
    wait_until(lambda: set(services(cloud).values()) == {"up"}, 60, lambda: f"shown up: {services(cloud)}")
    wait_until(
        lambda: not list((cloud.home / "sim").glob(f"*/guests/{doomed}.json")), 60, "the host removed what it owed"
    )
    sdk.compute.stop_server(running)
    wait_status(sdk, running, "SHUTOFF")
    gone(sdk, running)
    server = boot(sdk, name, image).id
    wait_status(sdk, server, "ACTIVE")
    gone(sdk, server)


def test_a_hypervisor_that_refuses(own, faults, name):
    cloud, sdk, image = own
    faults({"fail": {"ensure_guest": "the machine type is unknown"}})
    server = boot(sdk, name, image).id
    wait_status(sdk, server, "ERROR")
    seen = cloud.client("kilonova").sdk().compute.get_server(server).fault
    assert "the machine type is unknown" in seen["details"], seen
    gone(sdk, server)


def test_guests_that_ignore_their_button(own, faults, name):
    """Without an end to the waiting the one whose image gives it an hour would outlast the test."""
    cloud, sdk, image = own
    admin = cloud.client("kilonova").sdk()
    says = {"patient": "3600", "hard": "0", "odd": "soon"}
    images = {"plain": image}
    for kind, seconds in says.items():
        made = admin.create_image(
            f"{name}-{kind}", data=b"disk", disk_format="raw", container_format="bare", visibility="public",
            properties={"os_shutdown_timeout": seconds}, wait=True,
        )  # fmt: skip
        images[kind] = {"id": made.id, "name": made.name}
    servers = {kind: boot(sdk, f"{name}-{kind}", of).id for kind, of in images.items()}
    for server in servers.values():
        wait_status(sdk, server, "ACTIVE")
    faults({"ignore_shutdown": True})
    for server in servers.values():
        sdk.compute.stop_server(server)
    for kind in ("plain", "hard", "odd"):
        wait_status(sdk, servers[kind], "SHUTOFF")
    log = cloud.log.read_text()
    told = [line for line in log.splitlines() if servers["odd"] in line and "os_shutdown_timeout" in line]
    assert told and "soon" in told[0] and "not a number of seconds" in told[0], told
    assert not [line for line in log.splitlines() if servers["hard"] in line and "did not shut down" in line]
    patient = sdk.compute.get_server(servers["patient"])
    assert (patient.status, patient.task_state) == ("ACTIVE", "powering-off")
    # Nobody waits an hour for a guest whose server is deleted.
    for server in servers.values():
        gone(sdk, server)
    for kind in says:
        admin.delete_image(images[kind]["id"])


def test_guests_that_let_go_of_nothing(own, faults, name):
    """Who switches such a guest off, or deletes its server, does not wait for it for minutes, as with Nova."""
    cloud, sdk, image = own
    server = boot(sdk, name, image).id
    disk = volume(sdk, name)
    wait_status(sdk, server, "ACTIVE")

    def attach_and_begin_to_detach():
        wanted = {"volumeAttachment": {"volumeId": disk}}
        assert sdk.compute.post(f"/servers/{server}/os-volume_attachments", json=wanted).status_code == 200
        wait_volume(sdk, disk, "in-use")
        faults({"delay_ms": {"detach_disk": 3_600_000}})
        assert sdk.compute.delete(f"/servers/{server}/os-volume_attachments/{disk}").status_code == 202
        wait_volume(sdk, disk, "detaching")

    attach_and_begin_to_detach()
    answer = sdk.compute.post(f"/servers/{server}/action", json={"os-stop": None})
    assert answer.status_code == 202, answer.text
    wait_status(sdk, server, "SHUTOFF")
    wait_volume(sdk, disk, "in-use")
    seen = cloud.client("kilonova").sdk().compute.get(f"/servers/{server}/os-instance-actions").json()
    assert [one["action"] for one in seen["instanceActions"]][:2] == ["stop", "detach_volume"]
    # Off, it lets go of anything.
    faults({})
    assert sdk.compute.delete(f"/servers/{server}/os-volume_attachments/{disk}").status_code == 202
    wait_volume(sdk, disk, "available")
    sdk.compute.start_server(server)
    wait_status(sdk, server, "ACTIVE")
    attach_and_begin_to_detach()
    gone(sdk, server)
    wait_volume(sdk, disk, "available")
    wait_until(
        lambda: not list((cloud.home / "sim").glob(f"*/guests/{server}.json")), 30, "nothing of the guest is left"
    )
