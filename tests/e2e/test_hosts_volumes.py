"""Volumes of guests that move between real hosts: they stay attached, what is on them stays, and at the end nothing is
left of them: no attachment, no export, no process."""

import os
import subprocess
import tempfile

import pytest

from cloud import wait_until
from hosts import Wire
from hosts_cloud import HostsCloud, Watch, address_of

pytestmark = [pytest.mark.real, pytest.mark.long]

# Of guests without a processor of their own: seconds in which a program in one that writes may stand still.
STANDSTILL = 20


@pytest.fixture(scope="module")
def here(key, guest_image):
    wire = Wire(f"kv{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-hosts-volumes-")
    made = HostsCloud(wire, home, key)
    try:
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


@pytest.fixture
def clean(here):
    """Nothing is left of the servers and volumes of a test."""
    yield here
    for server in here.sdk.compute.servers():
        here.sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(here.sdk.compute.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")
    for volume in here.sdk.block_storage.volumes():
        wait_volume(here, volume.id, "available")
        here.sdk.block_storage.delete_volume(volume.id)
    wait_until(lambda: not list(here.sdk.block_storage.volumes()), 60, "the volumes are deleted")


def wait_volume(here, volume, status):
    def now():
        return here.sdk.block_storage.get_volume(volume).status

    wait_until(lambda: now() == status, 60, lambda: f"volume {volume} {status}: {now()}\n{here.roles.tail()}")


def nothing_left(here):
    """No attachment and no export, nobody who serves any, and no file of a volume."""
    assert list(here.sdk.block_storage.attachments()) == []
    wait_until(lambda: here.storage_daemon() is None, 60, "nobody serves volumes")
    assert here.exports() == set()
    folder = here.roles.home / "control" / "volumes"

    def files():
        return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "nbd"]

    wait_until(lambda: not files(), 60, lambda: f"files of volumes: {files()}")


def attached(here, server, volume, host):
    """What both services say of a volume that a server has, and who is connected to it."""
    found = here.sdk.block_storage.get_volume(volume)
    assert found.status == "in-use", found
    (one,) = found.attachments
    assert (one["server_id"], one["host_name"]) == (server.id, host), f"the server is on {host}: {one}"
    (known,) = here.sdk.block_storage.attachments()
    assert (known.id, known.status) == (one["attachment_id"], "attached")
    (shown,) = here.sdk.compute.volume_attachments(server.id)
    assert (shown.volume_id, shown.attachment_id) == (volume, one["attachment_id"])
    assert len(here.exports()) == 1
    wanted = {here.hosts[host].address}
    wait_until(lambda: connected(here) == wanted, 60, lambda: f"only {host} is connected: {connected(here)}")


def connected(here):
    """The addresses of those who have volumes open."""
    line = ("ss", "-Htn", "state", "established", "sport", "=", f":{here.roles.ports['nbd']}")
    text = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].rpartition(":")[0] for line in text.splitlines()}


class Pages:
    """What a guest has in a folder: a file that stays as it is, and one into which a program goes on counting."""

    def __init__(self, here, address, folder):
        self.here, self.address, self.folder = here, address, folder
        made = f"sudo dd if=/dev/urandom of={folder}/file bs=64k count=64 2>/dev/null; sync; md5sum < {folder}/file"
        self.sum = self.run(made)

    def run(self, command):
        return self.here.ssh(self.address, command).strip()

    def begin(self):
        """Each line is a number and when it was written, by the guest's own clock, and it is on the disk before the next."""
        count = f"{self.folder}/count"
        script = (
            f"i=$(wc -l < {count} 2>/dev/null || echo 0);"
            f"while i=$((i+1)) && read up rest < /proc/uptime && echo $i $up >> {count} && sync; do sleep 0.2; done"
        )
        self.run(f"sudo setsid sh -c '{script}' > /dev/null 2>&1 < /dev/null &")
        self.goes_on()

    def counted(self):
        text = self.run(f"tail -n 1 {self.folder}/count 2>/dev/null || true")
        return int(text.split()[0]) if text else 0

    def goes_on(self):
        before = self.counted()
        wait_until(lambda: self.counted() > before + 2, 60, lambda: f"it counts on: {before}, {self.counted()}")

    def end(self):
        self.run("sudo pkill -f '[w]hile i=' || true")

    def whole(self):
        """Every line is there, and the file as it was, also when it is read from the disk again."""
        count = self.run(f"sync; sudo cat {self.folder}/count").splitlines()
        numbers = [int(line.split()[0]) for line in count]
        assert numbers == list(range(1, len(numbers) + 1))
        again = f"echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; sudo md5sum < {self.folder}/file"
        assert self.run(again) == self.sum
        assert self.run("sudo dmesg | grep -c -i -e 'I/O error' -e 'ext4.*error' -e remounting || true") == "0"

    def standstill(self):
        """The longest time between two lines of one life of the guest."""
        text = self.run(f"cat {self.folder}/count")
        times = [float(line.split()[1]) for line in text.splitlines()]
        return max(after - before for before, after in zip(times, times[1:], strict=False))


def migrate_live(here, server, to, pages):
    """While somebody writes; gives how many lines they wrote meanwhile. At full speed: QEMU loses pages of an emulated
    guest that writes during a slow move."""
    source = here.sdk.compute.get_server(server.id).compute_host
    before = pages.counted()
    here.sdk.compute.live_migrate_server(server.id, host=to, block_migration="auto")

    def over():
        found = here.sdk.compute.get_server(server.id)
        return None if found.task_state else found

    found = wait_until(over, 240, lambda: f"{server.name} is on {to}\n{here.roles.tail(200)}", pause=0.5)
    assert found.compute_host == to and found.status == "ACTIVE", f"{found}\n{here.roles.tail(200)}"
    assert here.domains(here.hosts[source]) == ([], [])
    written = pages.counted() - before
    pages.goes_on()
    return written


def visit(here, server, volume, pages, hosts, what):
    """The server goes to these hosts while its guest writes, which stands still for a moment only."""
    watch = Watch(here, pages.address)
    written = []
    for to in hosts:
        written.append(migrate_live(here, server, to, pages))
        watch.wait_alive()
        attached(here, server, volume, to)
        pages.whole()
    lost, silence = watch.end()
    longest = pages.standstill()
    print(
        f"\nlive migration {what}: {written} lines written meanwhile, none for {longest:.1f} s at most;"
        f" {lost} pings lost, longest silence {silence:.2f} s"
    )
    assert min(written) > 2 and longest < STANDSTILL


def migrate_cold(here, server):
    """To wherever the scheduler wants."""
    source = here.sdk.compute.get_server(server.id).compute_host
    here.sdk.compute.migrate_server(server.id)
    there = here.wait(server, "VERIFY_RESIZE").compute_host
    assert there != source
    return there


def test_a_volume_stays_attached_wherever_its_guest_goes(here, clean, name):
    gateway, _ = here.gateway()
    first, second = (host for host in here.hosts if host != gateway.name)
    storage, compute = here.sdk.block_storage, here.sdk.compute
    server = here.wait(here.create(name, first))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    volume = storage.create_volume(name=name, size=1).id
    wait_volume(here, volume, "available")

    def attach():
        compute.create_volume_attachment(server.id, volume_id=volume)
        wait_volume(here, volume, "in-use")
        wait_until(lambda: "vdb" in here.ssh(address, "ls", "/dev"), 60, "the guest has the disk")

    def mount():
        here.ssh(address, "sudo mkdir -p /mnt/data && sudo mount /dev/vdb /mnt/data")

    attach()
    here.ssh(address, "sudo mkfs.ext4 -q /dev/vdb")
    mount()
    attached(here, server, volume, first)
    pages = Pages(here, address, "/mnt/data")
    pages.begin()
    visit(here, server, volume, pages, (second, first), "with a volume")

    # It goes, and it comes back with all that is on it.
    pages.end()
    pages.whole()
    here.ssh(address, "sudo umount /mnt/data")
    compute.delete_volume_attachment(server.id, volume)
    wait_volume(here, volume, "available")
    wait_until(lambda: "vdb" not in here.ssh(address, "ls", "/dev"), 60, "the guest has no such disk")
    assert list(storage.attachments()) == [] and here.exports() == set()
    attach()

    # Off, to another host: back from there, and then for good.
    def is_on(host):
        assert here.wait_ssh(address) == name
        attached(here, server, volume, host)
        mount()
        pages.whole()
        pages.begin()

    is_on(migrate_cold(here, server))
    compute.revert_server_resize(server.id)
    assert here.wait(server).compute_host == first
    is_on(first)
    there = migrate_cold(here, server)
    is_on(there)
    compute.confirm_server_resize(server.id)
    here.wait(server)
    attached(here, server, volume, there)
    pages.goes_on()
    pages.end()
    compute.delete_server(server.id)
    wait_volume(here, volume, "available")
    assert list(storage.attachments()) == []
    storage.delete_volume(volume)
    wait_until(lambda: storage.find_volume(volume) is None, 60, "the volume is deleted")
    nothing_left(here)


def test_a_server_on_a_volume_moves_and_outlives_its_host(here, clean, name):
    gateway, _ = here.gateway()
    first, second = (host for host in here.hosts if host != gateway.name)
    storage, compute = here.sdk.block_storage, here.sdk.compute
    root = {
        "source_type": "image", "uuid": here.image, "destination_type": "volume", "volume_size": 1, "boot_index": 0,
        "delete_on_termination": False,
    }  # fmt: skip
    server = here.wait(here.create(name, first, image_id="", block_device_mapping=[root]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    (volume,) = (one.volume_id for one in compute.volume_attachments(server.id))
    attached(here, server, volume, first)
    pages = Pages(here, address, "/home/cirros")
    pages.begin()
    boot = pages.run("cat /proc/sys/kernel/random/boot_id")
    visit(here, server, volume, pages, (second, first), "on a volume")
    assert pages.run("cat /proc/sys/kernel/random/boot_id") == boot

    def is_on(host):
        assert here.wait_ssh(address) == name
        attached(here, server, volume, host)
        pages.whole()
        pages.begin()

    is_on(migrate_cold(here, server))
    compute.revert_server_resize(server.id)
    assert here.wait(server).compute_host == first
    is_on(first)
    died = migrate_cold(here, server)
    is_on(died)
    compute.confirm_server_resize(server.id)
    here.wait(server)
    attached(here, server, volume, died)
    if died == gateway.name:
        migrate_live(here, server, first, pages)
        died = first

    # Its host dies while it writes.
    pages.goes_on()
    count, exports = pages.counted(), here.exports()
    rest = set(here.hosts) - {died}
    other = next(host for host in rest if host != gateway.name)
    here.hosts[died].discard()
    here.wait_up(rest)
    # From 2.95 on it would be off there.
    compute.post(f"/servers/{server.id}/action", json={"evacuate": {"host": other}}, microversion="2.94")
    wait_until(
        lambda: compute.get_server(server.id).compute_host == other, 120,
        lambda: f"it is elsewhere\n{here.roles.tail(200)}",
    )  # fmt: skip
    here.wait(server)
    assert here.wait_ssh(address) == name
    attached(here, server, volume, other)
    assert pages.counted() >= count
    pages.whole()
    # Whoever still had the volume open there can do nothing to it any more.
    assert here.exports().isdisjoint(exports), "the old host's way to the volume is closed"
    pages.begin()

    back = here.raise_host(int(died.removeprefix("h")))
    here.wait_up(set(here.hosts))
    wait_until(lambda: here.domains(back) == ([], []), 60, lambda: f"nothing of it runs: {here.domains(back)}")
    folder = back.folder / "home" / "instances" / server.id
    wait_until(lambda: not folder.exists(), 60, lambda: f"{folder} is gone")
    attached(here, server, volume, other)
    pages.goes_on()
    pages.whole()

    compute.delete_server(server.id)
    wait_volume(here, volume, "available")
    storage.delete_volume(volume)
    wait_until(lambda: storage.find_volume(volume) is None, 60, "the volume is deleted")
    nothing_left(here)
