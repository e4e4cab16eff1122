"""Three real hosts and a controller, joined by a wire: guests of a network are neighbours wherever they run, and they
move from host to host."""

import contextlib
import json
import os
import pathlib
import re
import tempfile
import threading
import time

import pytest
from openstack.exceptions import BadRequestException

from cloud import wait_until
from hosts import Wire
from hosts_cloud import POST_COPY, HostsCloud, Watch, address_of

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def here(key, guest_image):
    wire = Wire(f"kw{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-hosts-")
    made = HostsCloud(wire, home, key)
    try:
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


@pytest.fixture
def clean(here):
    """Nothing is left of the servers of a test."""
    yield here
    for server in here.sdk.compute.servers():
        here.sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(here.sdk.compute.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")


def test_guests_on_different_hosts_are_neighbours(here, clean, name):
    hosts = here.hosts
    servers = [here.create(f"{name}-{host}", host) for host in hosts]
    found = [here.wait(server) for server in servers]
    assert {server.compute_host for server in found} == set(hosts)
    addresses = [address_of(server) for server in found]
    gateway, _ = here.gateway()

    # Each has its address by DHCP and its key by the metadata service, over the wire where need be.
    for server, address in zip(found, addresses, strict=True):
        assert here.wait_ssh(address) == server.name
    for address in addresses:
        for other in addresses:
            if other != address:
                here.ssh(address, "sudo", "ping", "-c", "1", "-W", "5", other)
    # Whole packets: 1450 bytes of the network's MTU, without room for headers.
    here.ssh(addresses[0], "sudo", "ping", "-c", "1", "-W", "5", "-s", "1422", addresses[1])

    for server in servers:
        here.sdk.compute.delete_server(server.id)
    wait_until(lambda: not list(here.sdk.compute.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")

    def left():
        return {host.name: host.run("ip", "-o", "link", "show", "type", "vxlan").stdout for host in hosts.values()}

    # What leads to other hosts goes with the last guest; the gateway keeps its end.
    wait_until(
        lambda: not any(text for host, text in left().items() if host != gateway.name), 60, lambda: f"tunnels: {left()}"
    )


def migrate_live(here, server, to):
    here.sdk.compute.live_migrate_server(server.id, host=to, block_migration="auto")

    def over():
        found = here.sdk.compute.get_server(server.id)
        return None if found.task_state else found

    found = wait_until(over, 240, lambda: f"{server.name} is on {to}\n{here.roles.tail(200)}", pause=0.5)
    assert found.compute_host == to, f"{found.compute_host}\n{here.roles.tail(200)}"
    return found


def test_a_running_guest_goes_from_host_to_host(here, clean, name):
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, others[0], config_drive=True))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    written = "dd if=/dev/urandom of=/home/cirros/data bs=64k count=64 2>/dev/null; sync; md5sum < /home/cirros/data"
    data = here.ssh(address, written)
    drive = here.hosts[others[0]].folder / "home" / "instances" / server.id / "disk.config"
    drive = drive.read_bytes()
    watch = Watch(here, address)
    measured = []
    # Between two hosts, to the one with the router, and back from there.
    for to in (others[1], gateway.name, others[0]):
        source = here.hosts[here.sdk.compute.get_server(server.id).compute_host]
        started, before = time.monotonic(), len(watch.answers())
        found = migrate_live(here, server, to)
        assert found.status == "ACTIVE" and found.power_state == 1
        measured.append(
            f"to {to}: {time.monotonic() - started:.1f} s, {len(watch.answers()) - before} answers meanwhile"
        )
        watch.wait_alive()
        running, known = here.domains(source)
        assert (running, known) == ([], []), "nothing is left where it was"
        assert not (source.folder / "home" / "instances" / server.id).exists()
        assert len(here.domains(here.hosts[to])[0]) == 1
        kept = here.hosts[to].folder / "home" / "instances" / server.id / "disk.config"
        assert kept.read_bytes() == drive, "the config drive goes along"
    lost, silence = watch.end()
    print(f"\nlive migration: {measured}; {lost} pings lost, longest silence {silence:.2f} s")
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    again = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; md5sum < /home/cirros/data"
    assert here.ssh(address, again) == data
    moves = list(here.sdk.compute.get("/os-migrations", microversion="2.59").json()["migrations"])
    of_it = [move["status"] for move in moves if move["instance_uuid"] == server.id]
    assert of_it == ["completed"] * 3

    # It still is a guest like any other: off and on, softly or not, from the disks that it brought, as this host has them.
    running = here.domains(here.hosts[others[0]])[0][0]
    for how in ("SOFT", "HARD"):
        here.sdk.compute.reboot_server(server.id, how)
        here.wait(server)
        assert here.wait_ssh(address) == name
        assert here.ssh(address, "md5sum", "<", "/home/cirros/data") == data
        for which in ((), ("--inactive",)):
            xml = here.virsh(others[0], "dumpxml", running, *which)
            disks = re.findall(r"<source file='([^']+)/disk(?:\.config)?'", xml)
            assert len(disks) == 2, xml
            for place in disks:
                here.hosts[others[0]].run("test", "-f", f"{place}/disk")

    # A paused guest goes as it is.
    here.sdk.compute.pause_server(server.id)
    here.wait(server, "PAUSED")
    assert migrate_live(here, server, others[1]).status == "PAUSED"
    here.sdk.compute.unpause_server(server.id)
    here.wait(server)
    assert here.wait_ssh(address) == name


def test_a_move_is_called_off_and_another_is_forced(here, clean, name):
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, others[0]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    domain = here.domains(here.hosts[others[0]])[0][0]
    api = here.sdk.compute

    def begin():
        """A move that would last for minutes, when memory has begun to flow."""
        here.virsh(others[0], "migrate-setspeed", domain, "1")
        api.live_migrate_server(server.id, host=others[1], block_migration="auto")

        def flows():
            found = next(iter(api.server_migrations(server.id)), None)
            return found if found and found.status == "running" and found.memory_processed_bytes else None

        return wait_until(flows, 120, lambda: f"memory flows\n{here.roles.tail(200)}")

    watch = Watch(here, address)
    api.abort_server_migration(begin(), server.id)
    found = here.wait(server)
    assert (found.compute_host, found.power_state) == (others[0], 1)
    watch.wait_alive()
    assert here.domains(here.hosts[others[1]]) == ([], [])
    assert not (here.hosts[others[1]].folder / "home" / "instances" / server.id).exists()

    api.force_complete_server_migration(begin(), server.id)
    # It stands still until all of it is there.
    wait_until(lambda: here.virsh(others[0], "domstate", domain).strip() == "paused", 60, "it stands still")
    here.virsh(others[0], "migrate-setspeed", domain, "1000")
    found = here.wait(server)
    assert (found.compute_host, found.power_state) == (others[1], 1)
    watch.wait_alive()
    watch.end()
    assert here.domains(here.hosts[others[0]]) == ([], [])
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    moves = api.get("/os-migrations", microversion="2.59").json()["migrations"]
    of_it = {move["status"] for move in moves if move["instance_uuid"] == server.id}
    assert of_it == {"cancelled", "completed"}

    # Hosts that share no disks say so.
    with pytest.raises(BadRequestException, match=f"{others[1]} is not on shared storage"):
        api.live_migrate_server(server.id, host=others[0], block_migration=False)
    assert here.wait(server).compute_host == others[1]


@pytest.fixture
def small_disk(here, clean):
    """The last host that has no router keeps its guests on a small disk; gives the host, and what makes it full."""
    gateway, _ = here.gateway()
    host = [host for host in here.hosts.values() if host is not gateway][-1]
    folder = host.folder / "home" / "instances"
    here.kill_agent(host, "compute")
    host.run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", folder)
    here.start_agent(host, "compute")
    here.wait_up(set(here.hosts))

    def shrink():
        """To what is on it and a little more."""
        used = int(host.run("df", "--block-size=1K", "--output=used", folder).stdout.split()[-1])
        host.run("mount", "-o", f"remount,size={used + 2048}k", folder)

    yield host, shrink
    here.kill_agent(host, "compute")
    host.run("umount", "-l", folder)
    here.start_agent(host, "compute")


def test_a_disk_that_fills_up_under_a_guest_on_its_way(here, small_disk, name):
    dest, shrink = small_disk
    gateway, _ = here.gateway()
    source = next(host for host in here.hosts.values() if host not in (gateway, dest))
    api = here.sdk.compute
    server = here.wait(here.create(name, source.name))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    written = "dd if=/dev/urandom of=/home/cirros/data bs=64k count=768 2>/dev/null; sync; md5sum < /home/cirros/data"
    data = here.ssh(address, written)
    (domain,) = here.domains(source)[0]
    here.virsh(source.name, "migrate-setspeed", domain, "4")
    watch = Watch(here, address)
    api.live_migrate_server(server.id, host=dest.name, block_migration="auto")

    def flows():
        found = next(iter(api.server_migrations(server.id)), None)
        return found and found.status == "running" and found.disk_processed_bytes

    wait_until(flows, 120, lambda: f"the disk flows\n{here.roles.tail(200)}")
    shrink()
    found = here.wait(server)
    assert (found.compute_host, found.power_state) == (source.name, 1)
    watch.wait_alive()
    lost, silence = watch.end()
    print(f"\na disk that fills up: {lost} pings lost, longest silence {silence:.2f} s")
    moves = api.get("/os-migrations", microversion="2.59").json()["migrations"]
    assert [move["status"] for move in moves if move["instance_uuid"] == server.id] == ["error"]
    assert here.domains(dest) == ([], [])
    folder = dest.folder / "home" / "instances"
    assert dest.run("ls", folder).stdout.split() == ["_base"]

    # Why is said to the operator: in the server's events, and in the log.
    why = f"while the guest was sent to host {dest.name}: .*No space left on device"
    action = next(one for one in api.server_actions(server.id) if one.action == "live-migration")
    shown = api.get_server_action(action.request_id, server.id)
    assert re.search(why, str(shown.events)), shown
    log = (here.roles.home / "log").read_text(errors="replace")
    assert re.search(why, log)

    # It is as good as before, and so is the host once it has room.
    again = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; md5sum < /home/cirros/data"
    assert here.ssh(address, again) == data
    dest.run("mount", "-o", "remount,size=2g", folder)

    def has_room():
        """The host has said so, and it is believed."""
        shown = api.get("/os-hypervisors/detail", microversion="2.87").json()["hypervisors"]
        return next(one["local_gb"] for one in shown if one["service"]["host"] == dest.name)

    wait_until(has_room, 120, lambda: f"{dest.name} has room\n{here.roles.tail()}")
    here.virsh(source.name, "migrate-setspeed", domain, "1000")
    assert migrate_live(here, server, dest.name).status == "ACTIVE"
    assert here.ssh(address, again) == data
    api.delete_server(server.id)
    wait_until(lambda: not list(api.servers()), 60, lambda: f"it is deleted\n{here.roles.tail()}")


class Grown:
    """Looks at a folder of a host, as it is there: `bytes` is how large a file became that is none of these."""

    def __init__(self, host, folder, known):
        self.folder, self.known = pathlib.Path(f"/proc/{host.pid}/root{folder}"), known
        self.bytes, self.ended = 0, threading.Event()

    def look(self):
        while not self.ended.is_set():
            for file in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if file.name not in self.known:
                        self.bytes = max(self.bytes, file.stat().st_blocks * 512)
            time.sleep(0.001)

    def __enter__(self):
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def test_a_disk_that_fills_up_under_the_copy_of_a_guest(here, small_disk, name):
    host, shrink = small_disk
    api = here.sdk.compute
    server = here.wait(here.create(name, host.name))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    written = "dd if=/dev/urandom of=/home/cirros/data bs=64k count=768 2>/dev/null; sync; md5sum < /home/cirros/data"
    data = here.ssh(address, written)
    folder = host.folder / "home" / "instances" / server.id
    kept = lambda: sorted(host.run("ls", folder).stdout.split())  # noqa: E731
    before = kept()
    images = {one.id for one in here.sdk.image.images()}
    # Not even a tenth of the copy fits.
    shrink()
    with Grown(host, folder, before) as copy:
        image = api.create_server_image(server.id, f"{name}-copy", wait=False)
        found = here.wait(server)
    assert (found.compute_host, found.power_state) == (host.name, 1)
    print(f"\na disk that fills up under a copy: {copy.bytes} bytes were written")
    assert 1 << 20 < copy.bytes < 4 << 20, "it was full in the middle"
    assert kept() == before
    assert here.sdk.image.find_image(f"{name}-copy") is None, image
    assert {one.id for one in here.sdk.image.images()} == images

    action = next(one for one in api.server_actions(server.id) if one.action == "createImage")
    (event,) = api.get_server_action(action.request_id, server.id).events
    assert action.message == "Error: The host could not do it." and event.result == "Error", f"{action} {event}"
    assert "No space left on device" in str(event), event

    # Its guest went on and has what it had; it can write again, and be copied where there is room.
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    again = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; md5sum < /home/cirros/data"
    assert here.ssh(address, again) == data
    host.run("mount", "-o", "remount,size=2g", host.folder / "home" / "instances")
    assert here.ssh(address, written) != data
    made = api.create_server_image(server.id, f"{name}-copy", wait=False)
    here.wait(server)
    made = here.sdk.image.find_image(f"{name}-copy")
    assert made.status == "active" and made.size > 48 << 20, made
    assert kept() == before
    here.sdk.image.delete_image(made.id)
    api.delete_server(server.id)
    wait_until(lambda: not list(api.servers()), 60, lambda: f"it is deleted\n{here.roles.tail()}")


@pytest.fixture
def slows_down(here, clean):
    """A host on which guests that change memory faster than it can be sent may be slowed down."""
    gateway, _ = here.gateway()
    host = next(host for name, host in here.hosts.items() if name not in (gateway.name, POST_COPY))
    before = here.settings[host.name]
    here.settings[host.name] = (*before, "libvirt.live_migration_permit_auto_converge=true")
    here.kill_agent(host, "compute")
    here.start_agent(host, "compute")
    here.wait_up(set(here.hosts))
    yield host
    here.settings[host.name] = before
    here.kill_agent(host, "compute")
    here.start_agent(host, "compute")


def test_a_guest_that_changes_its_memory_is_slowed_down(here, slows_down, name):
    source = slows_down
    dest = next(host for host in here.hosts if host != source.name)
    api = here.sdk.compute
    server = here.wait(here.create(name, source.name))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    (domain,) = here.domains(source)[0]

    def qemu(host, command):
        return json.loads(here.virsh(host, "qemu-monitor-command", domain, json.dumps({"execute": command})))["return"]

    def capabilities(host):
        return {one["capability"] for one in qemu(host, "query-migrate-capabilities") if one["state"]}

    def throttle():
        """By how much its processor is slowed down, by libvirt's words and by QEMU's; none: not at all."""
        told = re.search(r"Auto converge throttle: +(\d+)", here.virsh(source.name, "domjobinfo", domain))
        return (int(told[1]), qemu(source.name, "query-migrate").get("cpu-throttle-percentage")) if told else None

    # It writes to half of its memory as fast as it can, and that is faster than it is sent.
    dirty = "while true; do dd if=/dev/urandom of=/dev/shm/dirty bs=64k count=512 conv=notrunc 2>/dev/null; done"
    here.ssh(address, f"sudo setsid sh -c '{dirty}' > /dev/null 2>&1 < /dev/null &")
    here.virsh(source.name, "migrate-setspeed", domain, "2")
    api.live_migrate_server(server.id, host=dest, block_migration="auto")

    def slowed():
        moves = next(iter(api.server_migrations(server.id)), None)
        return moves and moves.status == "running" and throttle()

    told, by_qemu = wait_until(slowed, 300, lambda: f"it is slowed down\n{here.roles.tail(200)}", pause=1)
    assert "auto-converge" in capabilities(source.name)
    assert "postcopy-ram" not in capabilities(source.name)
    print(f"\nauto-converge: {told} %, by QEMU {by_qemu} %")
    assert 0 < told <= 99 and by_qemu >= told
    here.virsh(source.name, "migrate-setspeed", domain, "1000")
    found = here.wait(server)
    assert (found.compute_host, found.power_state) == (dest, 1)
    assert here.domains(source) == ([], [])
    assert "cpu-throttle-percentage" not in qemu(dest, "query-migrate")
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    here.ssh(address, "sudo pkill -f '[w]hile true' || true")

    # The host that it is on now may not do so.
    here.virsh(dest, "migrate-setspeed", domain, "1")
    api.live_migrate_server(server.id, host=source.name, block_migration="auto")
    wait_until(
        lambda: any(one.memory_processed_bytes for one in api.server_migrations(server.id)), 120,
        lambda: f"memory flows\n{here.roles.tail(200)}",
    )  # fmt: skip
    assert "auto-converge" not in capabilities(dest)
    here.virsh(dest, "migrate-setspeed", domain, "1000")
    assert here.wait(server).compute_host == source.name
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot


def test_a_forced_guest_runs_elsewhere_before_its_memory_is_there(here, clean, name):
    source, dest = here.hosts[POST_COPY], next(host for host in here.hosts if host != POST_COPY)
    server = here.wait(here.create(name, POST_COPY))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    domain = here.domains(source)[0][0]
    api = here.sdk.compute

    def begin():
        """In post-copy mode, for minutes."""
        here.virsh(POST_COPY, "migrate-setspeed", domain, "1")
        api.live_migrate_server(server.id, host=dest, block_migration="auto")

        def flows():
            found = next(iter(api.server_migrations(server.id)), None)
            return found if found and found.status == "running" and found.memory_processed_bytes else None

        moving = wait_until(flows, 120, lambda: f"memory flows\n{here.roles.tail(200)}")
        here.virsh(POST_COPY, "migrate-setspeed", domain, "1", "--postcopy")
        api.force_complete_server_migration(moving, server.id)
        shown = next(iter(api.server_migrations(server.id)))
        assert shown.status == "running (post-copy)", shown
        with pytest.raises(BadRequestException, match="while the migration is in this state"):
            api.abort_server_migration(moving, server.id)

    begin()
    # It runs there, while most of its memory is still here.
    there = lambda: here.virsh(dest, "domstate", domain).strip()  # noqa: E731
    wait_until(lambda: there() == "running", 60, lambda: f"it runs on {dest}: {there()}")
    assert here.virsh(POST_COPY, "domstate", "--reason", domain).strip() == "paused (post-copy)"
    here.virsh(POST_COPY, "migrate-setspeed", domain, "1000", "--postcopy")
    assert here.wait(server).compute_host == dest
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    assert here.domains(source) == ([], [])

    # The agent through which the memory goes dies: the guest cannot go on anywhere, and starts from its disk.
    assert migrate_live(here, server, POST_COPY).status == "ACTIVE"
    here.ssh(address, "echo kept > /home/cirros/data; sync")
    begin()
    here.kill_agent(source, "compute")
    here.start_agent(source, "compute")
    found = wait_until(
        lambda: (now := api.get_server(server.id)).status == "ERROR" and not now.task_state and now, 240,
        lambda: f"it is in ERROR\n{here.roles.tail(200)}",
    )  # fmt: skip
    assert found.compute_host == dest and "reboot it hard" in found.fault["message"], found
    assert here.domains(source) == ([], [])
    api.reboot_server(server.id, "HARD")
    wait_until(lambda: api.get_server(server.id).status == "ACTIVE", 120, lambda: f"it runs\n{here.roles.tail(200)}")
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") != boot


def test_a_guest_that_is_off_meanwhile_goes_from_host_to_host(here, clean, name):
    gateway, _ = here.gateway()
    first = next(host for host in here.hosts if host != gateway.name)
    server = here.wait(here.create(name, first, config_drive=True))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    here.ssh(address, "echo kept > /home/cirros/data; sync")

    def folders(host):
        return [entry.name for entry in (here.hosts[host].folder / "home" / "instances").glob(f"{server.id}*")]

    # There and back.
    here.sdk.compute.migrate_server(server.id)
    found = here.wait(server, "VERIFY_RESIZE")
    second = found.compute_host
    assert second != first
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"
    here.ssh(address, "echo lost > /home/cirros/data; sync")
    here.sdk.compute.revert_server_resize(server.id)
    found = here.wait(server)
    assert found.compute_host == first and folders(second) == []
    assert here.wait_ssh(address) == name
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"

    # For good, with another flavor.
    flavor = here.sdk.compute.create_flavor(name=name, ram=192, vcpus=1, disk=2)
    here.sdk.compute.resize_server(server.id, flavor.id)
    found = here.wait(server, "VERIFY_RESIZE")
    third = found.compute_host
    assert third != first
    assert here.wait_ssh(address) == name
    here.sdk.compute.confirm_server_resize(server.id)
    here.wait(server)
    wait_until(lambda: folders(first) == [], 60, lambda: f"{folders(first)} on {first}")
    assert here.ssh(address, "cat", "/home/cirros/data") == "kept\n"
    memory = int(here.ssh(address, "awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
    assert memory > here.flavor.ram, f"{memory} MiB"


def test_a_disk_goes_with_what_it_stands_on(here, clean, guest_image, name):
    """A server that was on the shelf has a disk that stands on its shelf, which is gone by then, as is the image that the
    server was once made of."""
    api = here.sdk.compute
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    image = here.sdk.image.create_image(
        name, filename=guest_image, disk_format="qcow2", container_format="bare", wait=True
    )
    server = here.wait(here.create(name, others[0], image_id=image.id))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    whole = "find /bin /etc /usr /home/cirros/data -xdev -type f -exec md5sum {} + | sort | md5sum"
    here.ssh(address, "dd if=/dev/urandom of=/home/cirros/data bs=64k count=64 2>/dev/null; sync")
    api.shelve_server(server.id)
    here.wait(server, "SHELVED_OFFLOADED")
    api.unshelve_server(server.id)
    first = here.wait(server).compute_host
    assert here.wait_ssh(address) == name
    here.sdk.image.delete_image(image.id)
    images = {one.name for one in here.sdk.image.images()}
    assert not [one for one in images if name in one], images
    as_it_was = here.ssh(address, whole)

    def is_as_it_was():
        here.ssh(address, "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null")
        assert here.ssh(address, whole) == as_it_was

    # While it runs, while it is off, and on from there.
    second = next(host for host in others if host != first)
    migrate_live(here, server, second)
    is_as_it_was()
    api.reboot_server(server.id, "HARD")
    here.wait(server)
    assert here.wait_ssh(address) == name
    is_as_it_was()
    for _ in range(2):
        before = api.get_server(server.id).compute_host
        api.migrate_server(server.id)
        assert here.wait(server, "VERIFY_RESIZE").compute_host != before
        assert here.wait_ssh(address) == name
        is_as_it_was()
        api.confirm_server_resize(server.id)
        here.wait(server)
    flavor = api.create_flavor(name=name, ram=192, vcpus=1, disk=2)
    api.resize_server(server.id, flavor.id)
    here.wait(server, "VERIFY_RESIZE")
    assert here.wait_ssh(address) == name
    is_as_it_was()


def test_servers_of_a_dead_host_live_elsewhere_and_stay_there(here, clean, name):
    gateway, _ = here.gateway()
    others = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, others[0]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    number = int(others[0].removeprefix("h"))
    here.hosts[others[0]].discard()
    here.wait_up({gateway.name, others[1]})
    # From 2.95 on it would be off there.
    evacuate = {"evacuate": {"host": others[1]}}
    here.sdk.compute.post(f"/servers/{server.id}/action", json=evacuate, microversion="2.94")
    wait_until(
        lambda: here.sdk.compute.get_server(server.id).compute_host == others[1], 120,
        lambda: f"it is elsewhere\n{here.roles.tail(200)}",
    )  # fmt: skip
    here.wait(server)
    assert here.wait_ssh(address) == name
    back = here.raise_host(number)
    here.wait_up(set(here.hosts))
    wait_until(lambda: here.domains(back) == ([], []), 60, lambda: f"nothing of it runs: {here.domains(back)}")
    folder = back.folder / "home" / "instances" / server.id
    wait_until(lambda: not folder.exists(), 60, lambda: f"{folder} is gone")
    found = here.wait(server)
    assert found.compute_host == others[1]
    assert here.ssh(address, "hostname").strip() == name
    # The host is as good as before.
    second = here.wait(here.create(f"{name}-again", others[0]))
    assert here.wait_ssh(address_of(second)) == second.name
