"""Servers with emulated TPMs: on simulated hosts their life and their secrets, on a real one the device itself."""

import pathlib
import subprocess

import pytest

from cloud import wait_until
from sim_hosts import faults
from test_guest import Guest

STORE = pathlib.Path("/var/lib/libvirt/swtpm")


@pytest.fixture
def flavor(admin, name):
    """Makes a flavor with a TPM whose passphrase is kept so."""
    made = []

    def make(security, *more):
        called = f"{name}-{security}"
        specs = {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb", "hw:tpm_secret_security": security}
        given = [part for key, value in specs.items() for part in ("--property", f"{key}={value}")]
        admin.run("flavor", "create", "--ram", "128", "--disk", "1", "--vcpus", "1", *given, *more, called)
        made.append(called)
        return called

    yield make
    for called in made:
        admin.run("flavor", "delete", called)


def secrets(sdk, server):
    """The secrets of a server, as the owner of the connection sees them."""
    listed = sdk.key_manager.get(f"/secrets?name=vTPM secret for instance {server}").json()
    return [(one["creator_id"], one["secret_ref"].rsplit("/", 1)[-1]) for one in listed["secrets"]]


def test_a_server_and_its_secret(admin, demo, demo_sdk, image, flavor, name):
    mine = demo_sdk.current_user_id
    kinds = {"user": flavor("user"), "host": flavor("host")}
    made = demo.get(
        "server", "create", "--image", image["name"], "--flavor", kinds["user"], "--nic", "none", "--wait", name
    )
    server = made["id"]
    assert made["status"] == "ACTIVE"
    ((creator, secret),) = secrets(demo_sdk, server)
    assert creator == mine

    def becomes(status, *command):
        demo.run("server", *command, server)
        wait_until(lambda: demo_sdk.compute.get_server(server).status == status, 60, status)

    becomes("SHUTOFF", "stop")
    becomes("ACTIVE", "start")
    told = f"not supported for vTPM-enabled instance ({server})"
    for command in (["rescue"], ["rebuild", "--image", image["name"]], ["shelve"]):
        assert told in demo.fails("server", *command, server)
    assert told in admin.fails("server", "migrate", "--live-migration", server)
    # The administrator may not read it.
    assert "not allowed" in admin.fails("server", "reboot", "--hard", server)

    becomes("VERIFY_RESIZE", "resize", "--flavor", kinds["host"])
    becomes("ACTIVE", "resize", "confirm")
    before = admin.get("server", "show", server)["OS-EXT-SRV-ATTR:host"]
    admin.run("server", "migrate", "--live-migration", "--wait", server)
    assert admin.get("server", "show", server)["OS-EXT-SRV-ATTR:host"] != before
    admin.run("server", "reboot", "--hard", "--wait", server)
    assert secrets(demo_sdk, server) == [(mine, secret)]
    demo.run("server", "delete", "--wait", server)
    assert secrets(demo_sdk, server) == []


def test_the_clouds_own_secret(admin, demo, demo_sdk, image, flavor, name):
    kind = flavor("deployment")
    made = demo.get("server", "create", "--image", image["name"], "--flavor", kind, "--nic", "none", "--wait", name)
    server = made["id"]
    assert made["status"] == "ACTIVE" and secrets(demo_sdk, server) == []
    # Nobody's token but the cloud's is needed.
    admin.run("server", "reboot", "--hard", "--wait", server)
    told = f"not supported for vTPM-enabled instance ({server})"
    assert told in admin.fails("server", "migrate", "--live-migration", server)
    demo.run("server", "delete", "--wait", server)


def test_a_resize_that_fails_brings_the_server_back(cloud, demo, demo_sdk, image, flavor, name):
    """Also one to a flavor without a TPM: the guest that is put back has it still."""
    kind = flavor("user")
    made = demo.get("server", "create", "--image", image["name"], "--flavor", kind, "--nic", "none", "--wait", name)
    server = made["id"]
    try:
        with faults(cloud, {"fail": {"land": "no guest lands here"}}):
            demo.run("server", "resize", "--flavor", "m1.tiny", server)
            path = f"/servers/{server}/os-instance-actions"
            actions = lambda: demo_sdk.compute.get(path, microversion="2.90").json()["instanceActions"]  # noqa: E731
            wait_until(lambda: actions()[0]["message"], 60, "the resize has failed")
        shown = demo_sdk.compute.get_server(server)
        assert (shown.status, shown.task_state) == ("ACTIVE", None)
    finally:
        demo.run("server", "delete", "--wait", server)


@pytest.mark.real
def test_the_device_in_a_guest(cloud, admin_sdk, demo, demo_sdk, image, key, flavor, name):
    traits = {trait for host in admin_sdk.placement.resource_providers() for trait in provided(admin_sdk, host.id)}
    assert {"COMPUTE_SECURITY_TPM_2_0", "COMPUTE_SECURITY_TPM_CRB"} <= traits
    made = Guest(demo, demo_sdk, key, name, subnet="10.57.0.0/24", flavor=flavor("user"))
    made.network()
    made.allow_ssh()
    made.create(image)
    made.floating_ip()
    made.wait_ssh()
    assert made.run("ls /dev/tpm0") == "/dev/tpm0"
    xml = subprocess.run(
        ["virsh", "-c", "qemu:///system", "dumpxml", made.id], capture_output=True, text=True, check=True
    ).stdout
    assert "<tpm model='tpm-crb'>" in xml and "<encryption secret=" in xml
    kept = subprocess.run(["virsh", "-c", "qemu:///system", "secret-list"], capture_output=True, text=True, check=True)
    assert made.id not in kept.stdout, "libvirt has the passphrase only while the guest starts"
    for command in (["stop"], ["start"], ["reboot", "--hard"]):
        demo.run("server", *command, made.id)
        status = "SHUTOFF" if command == ["stop"] else "ACTIVE"
        wait_until(
            lambda wanted=status: (
                (found := demo_sdk.compute.get_server(made.id)).status == wanted and found.task_state is None
            ),
            120,
            status,
        )
    assert (STORE / made.id).is_dir()
    made.delete()
    made.drop_network()
    wait_until(lambda: not (STORE / made.id).exists(), 60, "what the TPM remembers is gone")


def provided(sdk, provider):
    return sdk.placement.get(f"/resource_providers/{provider}/traits", microversion="1.6").json()["traits"]
