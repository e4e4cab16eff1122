"""Three real hosts: a guest with an emulated TPM goes from one to another, running and switched off, and what the device
remembers goes along."""

import os
import tempfile

import pytest

from cloud import wait_until
from hosts import Wire
from hosts_cloud import HostsCloud, address_of
from test_hosts import migrate_live

pytestmark = [pytest.mark.real, pytest.mark.long]
STORE = "/var/lib/libvirt/swtpm"


@pytest.fixture(scope="module")
def here(key, guest_image):
    wire = Wire(f"kv{os.getpid() % 100000}", f"198.19.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-vtpm-")
    made = HostsCloud(wire, home, key, more={"libvirt": {"swtpm_enabled": "true"}})
    try:
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


def test_a_tpm_goes_from_host_to_host(here, name):
    compute = here.sdk.compute
    flavor = compute.create_flavor(name=name, ram=128, vcpus=1, disk=1)
    specs = {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb", "hw:tpm_secret_security": "host"}
    compute.create_flavor_extra_specs(flavor, specs)
    gateway, _ = here.gateway()
    first, second = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, first, flavor_id=flavor.id))
    address = address_of(server)

    def has_all(which):
        """Only this host has the passphrase and what the device remembers; the guest answers, and has the device."""
        for host in here.hosts:
            secret = server.id in here.virsh(host, "secret-list")
            memory = here.hosts[host].run("test", "-d", f"{STORE}/{server.id}", check=False).returncode == 0
            assert (secret, memory) == (host == which, host == which), f"{host}\n{here.roles.tail(200)}"
        assert here.wait_ssh(address) == name
        assert here.ssh(address, "ls", "/dev/tpm0").strip() == "/dev/tpm0"

    has_all(first)
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    migrate_live(here, server, second)
    has_all(second)
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot, "it ran on meanwhile"
    compute.reboot_server(server.id, "HARD")
    here.wait(server)
    has_all(second)

    # Switched off, it takes along what the device remembers, and comes back with it.
    compute.stop_server(server.id)
    here.wait(server, "SHUTOFF")
    compute.migrate_server(server.id, host=first)
    here.wait(server, "VERIFY_RESIZE")
    compute.revert_server_resize(server.id)
    here.wait(server, "SHUTOFF")
    assert compute.get_server(server.id).compute_host == second
    compute.start_server(server.id)
    here.wait(server)
    has_all(second)
    compute.migrate_server(server.id, host=first)
    here.wait(server, "VERIFY_RESIZE")
    compute.confirm_server_resize(server.id)
    here.wait(server)
    has_all(first)

    compute.delete_server(server.id)
    wait_until(lambda: not list(compute.servers()), 60, lambda: f"deleted\n{here.roles.tail()}")
    for host in here.hosts.values():
        assert host.run("sh", "-c", f"ls {STORE} 2>/dev/null", check=False).stdout == ""
        assert server.id not in here.virsh(host.name, "secret-list")
    compute.delete_flavor(flavor)
