"""Three real hosts that share the folder of their guests: disks stay where they are when guests move."""

import os
import tempfile

import pytest
from openstack.exceptions import BadRequestException

from cloud import wait_until
from hosts import Wire
from hosts_cloud import HostsCloud, Watch, address_of

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def here(key, guest_image):
    wire = Wire(f"ks{os.getpid() % 100000}", f"198.19.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-shared-")
    made = HostsCloud(wire, home, key, shared=True)
    try:
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


def test_guests_move_and_their_disks_stay(here, name):
    gateway, _ = here.gateway()
    first, second = (host for host in here.hosts if host != gateway.name)
    api = here.sdk.compute
    server = here.wait(here.create(name, first, config_drive=True))
    address = address_of(server)
    folder = here.roles.home / "shared-instances"
    disk, drive = folder / server.id / "disk", folder / server.id / "disk.config"

    def ran_since():
        return here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")

    def data():
        return here.ssh(address, "cat", "/home/cirros/data")

    def is_on():
        return api.get_server(server.id).compute_host

    def folders():
        return sorted(entry.name for entry in folder.glob(f"{server.id}*"))

    assert here.wait_ssh(address) == name
    boot, held = ran_since(), drive.read_bytes()
    here.ssh(address, "echo kept > /home/cirros/data; sync")
    file = disk.stat().st_ino

    # Live: nothing is copied, and whoever asks for a copy is told.
    with pytest.raises(BadRequestException, match=f"{first} is not on local storage"):
        api.live_migrate_server(server.id, host=second, block_migration=True)
    here.wait(server)
    watch = Watch(here, address)
    for to, block in ((second, "auto"), (gateway.name, False), (first, "auto")):
        source = here.hosts[is_on()]
        api.live_migrate_server(server.id, host=to, block_migration=block)
        wait_until(
            lambda: not api.get_server(server.id).task_state,
            240,
            lambda: f"it moves\n{here.roles.tail(200)}",
            pause=0.5,
        )
        assert is_on() == to, here.roles.tail(200)
        watch.wait_alive()
        assert here.domains(source) == ([], [])
        assert (disk.stat().st_ino, drive.read_bytes()) == (file, held)
        here.ssh(address, "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null")
        assert (ran_since(), data()) == (boot, "kept\n")
    lost, silence = watch.end()
    print(f"\nlive migration on shared disks: {lost} pings lost, longest silence {silence:.2f} s")
    for how in ("SOFT", "HARD"):
        api.reboot_server(server.id, how)
        here.wait(server)
        assert here.wait_ssh(address) == name and data() == "kept\n"
    console = api.get_server_console_output(server.id)["output"]
    assert "login" in console, console[-500:]

    # Off: the old disk waits beside the new one, for either way.
    api.migrate_server(server.id)
    here.wait(server, "VERIFY_RESIZE")
    assert is_on() != first and folders() == [server.id, f"{server.id}.aside"]
    assert here.wait_ssh(address) == name and data() == "kept\n"
    here.ssh(address, "echo lost > /home/cirros/data; sync")
    api.revert_server_resize(server.id)
    here.wait(server)
    assert is_on() == first and folders() == [server.id]
    assert here.wait_ssh(address) == name and data() == "kept\n"
    api.migrate_server(server.id)
    here.wait(server, "VERIFY_RESIZE")
    api.confirm_server_resize(server.id)
    here.wait(server)
    wait_until(lambda: folders() == [server.id], 60, lambda: f"{folders()}")
    assert here.wait_ssh(address) == name and data() == "kept\n"

    # A host dies: the server goes on elsewhere with all that was on its disk, and keeps it when the host is back.
    died = is_on()
    if died == gateway.name:
        api.live_migrate_server(server.id, host=first, block_migration="auto")
        here.wait(server)
        died = is_on()
    rest = set(here.hosts) - {died}
    other = next(host for host in rest if host != gateway.name)
    file = disk.stat().st_ino
    here.hosts[died].discard()
    here.wait_up(rest)
    wrong = {"evacuate": {"host": other, "onSharedStorage": False, "adminPass": "secret"}}
    api.post(f"/servers/{server.id}/action", json=wrong, microversion="2.12")
    found = wait_until(
        lambda: (now := api.get_server(server.id)).status == "ERROR" and not now.task_state and now, 60, "it is refused"
    )
    assert "Invalid state of instance files on shared storage" in found.fault["message"]
    api.post(f"/servers/{server.id}/action", json={"evacuate": {"host": other}}, microversion="2.94")
    wait_until(
        lambda: (now := api.get_server(server.id)).status == "ACTIVE" and not now.task_state, 120,
        lambda: f"it is elsewhere\n{here.roles.tail(200)}",
    )  # fmt: skip
    assert is_on() == other and disk.stat().st_ino == file
    assert here.wait_ssh(address) == name and data() == "kept\n"
    back = here.raise_host(int(died.removeprefix("h")))
    here.wait_up(set(here.hosts))
    wait_until(lambda: here.domains(back) == ([], []), 60, lambda: f"nothing of it runs: {here.domains(back)}")
    assert data() == "kept\n"
    api.reboot_server(server.id, "HARD")
    here.wait(server)
    assert here.wait_ssh(address) == name and data() == "kept\n"
    assert disk.stat().st_ino == file and folders() == [server.id]

    api.delete_server(server.id)
    wait_until(lambda: not list(api.servers()), 60, lambda: f"it is deleted\n{here.roles.tail()}")
    wait_until(lambda: folders() == [], 60, lambda: f"{folders()}")
