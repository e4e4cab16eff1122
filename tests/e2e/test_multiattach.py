"""A volume that several servers have at once: by the stock client on simulated hosts, and two real guests that share it."""

import re
import subprocess

import pytest

from cloud import wait_until
from test_guest import Guest, domain_of
from test_server_volumes import idle, volume, volumes_of, wait_volume
from test_servers import boot, wait_status

SHARED = ("--os-compute-api-version", "2.60", "server", "add", "volume")


@pytest.fixture
def shared_type(admin, name):
    """A volume type whose volumes may be shared."""
    made = f"{name}-shared"
    admin.run("volume", "type", "create", "--property", "multiattach=<is> True", made)
    yield made
    admin.run("volume", "type", "delete", made)


def holders(sdk, volume):
    """The servers that the volume service knows of, and where they are: {server: host}."""
    return {one["server_id"]: one["host_name"] for one in sdk.block_storage.get_volume(volume).attachments}


def test_servers_share_a_volume(admin, admin_sdk, demo, demo_sdk, image, name, shared_type):
    first, second, third = (boot(demo_sdk, f"{name}-{number}", image).id for number in (1, 2, 3))
    for server in (first, second, third):
        wait_status(demo_sdk, server, "ACTIVE")
    shared = volume(demo_sdk, name, volume_type=shared_type)
    plain = volume(demo_sdk, f"{name}-plain")
    assert demo.get("volume", "show", shared)["multiattach"] is True

    def host_of(server):
        return admin_sdk.compute.get_server(server).compute_host

    def both_agree(*servers, status="in-use"):
        """Who has it, by what either service says, and each attachment under one id."""
        wait_volume(demo_sdk, shared, status)
        wait_until(
            lambda: holders(admin_sdk, shared) == {one: host_of(one) for one in servers},
            60,
            lambda: f"{servers} have it: {holders(admin_sdk, shared)}",
        )
        known = {
            one["server_id"]: one["attachment_id"] for one in demo_sdk.block_storage.get_volume(shared).attachments
        }
        assert len(set(known.values())) == len(servers)
        for server in servers:
            wait_until(lambda server=server: volumes_of(demo_sdk, server) == [shared], 60, f"{server} shows it")
            (shown,) = demo_sdk.compute.volume_attachments(server)
            assert (shown.volume_id, shown.attachment_id) == (shared, known[server])
            assert admin_sdk.block_storage.get_attachment(known[server]).status == "attached"

    # A version that does not know of it cannot be asked for it; an ordinary volume is one server's.
    old = demo.fails("--os-compute-api-version", "2.59", "server", "add", "volume", first, shared)
    assert "Multiattach volumes are only supported starting with compute API version 2.60" in old
    demo.run(*SHARED, first, shared)
    both_agree(first)
    demo.run(*SHARED, second, shared)
    both_agree(first, second)
    assert "already attached" in demo.fails(*SHARED, second, shared)
    demo.run(*SHARED, third, plain)
    wait_volume(demo_sdk, plain, "in-use")
    complaint = demo.fails(*SHARED, first, plain)
    assert f"volume {plain} is already attached to instances: {third}" in complaint, complaint
    demo.run("server", "remove", "volume", third, plain)
    wait_volume(demo_sdk, plain, "available")
    demo.run(*SHARED, third, shared)
    both_agree(first, second, third)
    # It cannot go while somebody has it, and whoever lists volumes sees them all.
    assert "400" in demo.fails("volume", "delete", shared)
    rows = demo.get("volume", "list", "--long")
    attached = next(row["Attached to"] for row in rows if row["ID"] == shared)
    assert {one["server_id"] for one in attached} == {first, second, third}

    # One of them moves: its attachment is at the new host, the others' are as they were.
    before = holders(admin_sdk, shared)
    kept = {one["server_id"]: one["attachment_id"] for one in demo_sdk.block_storage.get_volume(shared).attachments}
    admin.run("server", "migrate", "--live-migration", "--wait", first)
    idle(demo_sdk, first)
    assert host_of(first) != before[first]
    both_agree(first, second, third)
    after = holders(admin_sdk, shared)
    assert {one: after[one] for one in (second, third)} == {one: before[one] for one in (second, third)}
    now = {one["server_id"]: one["attachment_id"] for one in demo_sdk.block_storage.get_volume(shared).attachments}
    assert {one: now[one] for one in (second, third)} == {one: kept[one] for one in (second, third)}

    # One gives it back, another is deleted, and the last one still has it.
    demo.run("server", "remove", "volume", first, shared)
    both_agree(second, third)
    assert volumes_of(demo_sdk, first) == []
    demo.run("server", "delete", "--wait", second)
    both_agree(third)
    demo.run("server", "stop", third)
    wait_status(demo_sdk, third, "SHUTOFF")
    demo.run("server", "remove", "volume", third, shared)
    wait_volume(demo_sdk, shared, "available")
    assert holders(admin_sdk, shared) == {}
    wait_until(lambda: volumes_of(demo_sdk, third) == [], 60, "nobody has it")

    # It is as good as new.
    demo.run(*SHARED, first, shared)
    both_agree(first)
    demo.run("server", "delete", "--wait", first)
    wait_volume(demo_sdk, shared, "available")
    assert not [one for one in admin_sdk.block_storage.attachments() if one.volume_id == shared]
    demo.run("server", "delete", "--wait", third)
    demo.run("volume", "delete", shared, plain)
    wait_until(lambda: demo_sdk.block_storage.find_volume(shared) is None, 60, "the volume is deleted")


@pytest.mark.real
def test_two_guests_on_one_host_share_a_volume(admin_sdk, demo, demo_sdk, image, key, name, shared_type):
    """What one writes the other one reads; one that lets go, or is deleted, takes nothing from the other."""
    shared = volume(demo_sdk, name, volume_type=shared_type)
    one = Guest(demo, demo_sdk, key, name, subnet="10.51.0.0/24")
    one.network()
    one.allow_ssh()
    other = Guest(demo, demo_sdk, key, name)
    for guest in (one, other):
        guest.create(image)
        guest.floating_ip()
    for guest in (one, other):
        guest.wait_ssh()
        demo.run(*SHARED, guest.id, shared)
        wait_until(lambda guest=guest: "vdb" in guest.run("ls /dev"), 60, "the guest has the disk")
        idle(demo_sdk, guest.id)
    wait_until(lambda: holders(demo_sdk, shared).keys() == {one.id, other.id}, 60, "both have it")
    assert [volumes_of(demo_sdk, guest.id) for guest in (one, other)] == [[shared], [shared]]

    def both_see_it():
        """Each reads from the disk itself what the other one has written there."""
        for place, (writer, reader) in enumerate(((one, other), (other, one))):
            word = f"{name} {place} {writer.run('cat /proc/uptime')}"
            at = f"bs=4096 seek={place * 8} conv=sync,fsync"
            writer.run(f"echo '{word}' | sudo dd of=/dev/vdb {at} 2>/dev/null")
            read = f"sudo dd if=/dev/vdb bs=4096 skip={place * 8} count=1 2>/dev/null | tr -d '\\0'"
            assert reader.run(f"sync; echo 3 | sudo tee /proc/sys/vm/drop_caches > /dev/null; {read}") == word

    both_see_it()
    # A guest that is started anew has it as before.
    demo.run("server", "reboot", "--hard", "--wait", other.id)
    other.wait_ssh()
    both_see_it()

    # What is let go by one is the other's as before.
    demo.run("server", "remove", "volume", other.id, shared)
    wait_until(lambda: "vdb" not in other.run("ls /dev"), 60, "the other has no such disk")
    wait_until(lambda: holders(demo_sdk, shared).keys() == {one.id}, 60, "one has it")
    wait_volume(demo_sdk, shared, "in-use")
    one.run(f"echo {name} | sudo dd of=/dev/vdb bs=4096 conv=sync,fsync 2>/dev/null")
    demo.run(*SHARED, other.id, shared)
    wait_until(lambda: "vdb" in other.run("ls /dev"), 60, "the other has the disk again")
    wait_until(lambda: volumes_of(demo_sdk, other.id) == [shared], 60, "and shows it")
    idle(demo_sdk, other.id)
    both_see_it()
    other.delete()
    wait_until(lambda: holders(demo_sdk, shared).keys() == {one.id}, 60, "one has it")
    wait_volume(demo_sdk, shared, "in-use")
    one.run(f"echo {name} | sudo dd of=/dev/vdb bs=4096 conv=sync,fsync 2>/dev/null")
    one.delete()
    wait_volume(demo_sdk, shared, "available")
    one.drop_network()
    demo.run("volume", "delete", shared)
    wait_until(lambda: demo_sdk.block_storage.find_volume(shared) is None, 60, "the volume is deleted")


@pytest.mark.real
def test_libvirt_hears_that_a_disk_is_shared(admin_sdk, demo, demo_sdk, image, name, shared_type):
    """Otherwise its lock manager, and QEMU's locks where there are any, keep the second guest from starting."""
    shared = volume(demo_sdk, name, volume_type=shared_type)
    flavor = demo_sdk.compute.find_flavor("m1.nano").id
    server = demo_sdk.compute.create_server(name=name, image_id=image["id"], flavor_id=flavor, networks="none").id
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run(*SHARED, server, shared)
    wait_volume(demo_sdk, shared, "in-use")
    idle(demo_sdk, server)

    def disk():
        line = ("virsh", "-c", "qemu:///system", "dumpxml", domain_of(admin_sdk, server))
        text = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        (found,) = (disk for disk in re.findall(r"<disk .*?</disk>", text, re.DOTALL) if shared in disk)
        return found

    try:
        assert "<shareable/>" in disk() and "cache='none'" in disk(), disk()
        demo.run("server", "reboot", "--hard", "--wait", server)
        assert "<shareable/>" in disk(), disk()
    finally:
        demo.run("server", "delete", "--wait", server)
        wait_volume(demo_sdk, shared, "available")
        demo.run("volume", "delete", shared)
        wait_until(lambda: demo_sdk.block_storage.find_volume(shared) is None, 60, "the volume is deleted")
