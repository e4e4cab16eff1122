"""A real guest that boots from a volume: rescued, made of another image, copied while its file systems stand still. And one
that writes to a volume, which becomes another one under it."""

import subprocess

import pytest

from cloud import wait_until
from test_guest import Guest, domain_of
from test_hosts_volumes import Pages
from test_server_volumes import swap, volume, volumes_of, wait_volume

pytestmark = [pytest.mark.real, pytest.mark.long]


def test_a_guest_on_a_volume_is_copied_rescued_and_renewed(demo, demo_sdk, guest_image, image, key, name):
    agent = ("--property", "hw_qemu_guest_agent=yes", "--property", "os_require_quiesce=yes")
    quiet = demo.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", *agent,
        f"{name}-quiet",
    )  # fmt: skip
    made = Guest(demo, demo_sdk, key, name, subnet="10.49.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(quiet, "--boot-from-volume", "1")
    (volume,) = (one["id"] for one in demo_sdk.compute.get_server(made.id).attached_volumes)
    made.floating_ip()
    made.wait_ssh()
    made.run("echo on-volume | sudo tee /root/marker && sync")
    wait_until(lambda: made.run("pidof qemu-ga || true"), 60, "the agent runs")

    def becomes(status, *command):
        demo.run(*command, made.id)
        wait_until(lambda: demo_sdk.compute.get_server(made.id).status == status, 180, status)

    def idle():
        wait_until(lambda: demo_sdk.compute.get_server(made.id).task_state is None, 60, "no task is shown")

    # Its image asks for file systems that stand still: without the agent's word there would be none.
    copy = demo.get("server", "image", "create", "--name", f"{name}-copy", "--wait", made.id)
    idle()
    assert made.run("echo goes on | sudo tee /root/after && sync") == "goes on"
    assert demo_sdk.image.get_image(copy["id"]).status == "active"
    demo.run("image", "delete", copy["id"])
    for one in demo_sdk.block_storage.snapshots():
        demo_sdk.block_storage.delete_snapshot(one)
    wait_until(lambda: not list(demo_sdk.block_storage.snapshots()), 60, "no snapshots are left")

    # The rescue disk comes behind the volume, and the machine boots from it.
    where = ("--property", "hw_rescue_device=disk", "--property", "hw_rescue_bus=virtio")
    rescue = demo.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", *where,
        f"{name}-rescue",
    )  # fmt: skip
    made.run("sudo tune2fs -L own-root /dev/vda2 && sync")
    becomes("RESCUE", "--os-compute-api-version", "2.87", "server", "rescue", "--image", rescue["name"])
    made.wait_ssh()
    assert made.run("ls /dev/vda2 /dev/vdb2").split() == ["/dev/vda2", "/dev/vdb2"], "the volume and the rescue disk"
    made.run("sudo mkdir -p /mnt/own && sudo mount /dev/vda2 /mnt/own")
    assert made.run("sudo cat /mnt/own/root/marker") == "on-volume"
    made.run(
        "echo mended | sudo tee /mnt/own/root/marker && sudo umount /mnt/own && sudo tune2fs -L guest-root /dev/vda2"
    )
    becomes("ACTIVE", "server", "unrescue")
    made.wait_ssh()
    assert made.run("sudo cat /root/marker") == "mended"
    assert "vdb" not in made.run("ls /dev"), "the volume is the only disk again"

    idle()
    demo.run(
        "--os-compute-api-version", "2.93", "server", "rebuild", "--reimage-boot-volume", "--image", image["name"],
        "--wait", made.id,
    )  # fmt: skip
    made.wait_ssh()
    assert made.run("sudo cat /root/marker || true") == "", "what was on the volume is another image"
    found = demo_sdk.block_storage.get_volume(volume)
    assert (found.status, found.volume_image_metadata["image_id"]) == ("in-use", image["id"])
    made.delete()
    wait_until(lambda: demo_sdk.block_storage.get_volume(volume).status == "available", 60, "the volume is free")
    demo_sdk.block_storage.delete_volume(volume)

    # The same of a disk on the host.
    made.address = None
    made.create(quiet)
    made.floating_ip()
    made.wait_ssh()
    wait_until(lambda: made.run("pidof qemu-ga || true"), 60, "the agent runs")
    copy = demo.get("server", "image", "create", "--name", f"{name}-copy", "--wait", made.id)
    assert copy["status"] == "active"
    idle()
    assert made.run("echo goes on | sudo tee /root/after && sync") == "goes on"
    made.delete()
    demo.run("image", "delete", copy["id"], quiet["id"], rescue["id"])
    made.drop_network()


def test_a_volume_becomes_another_one_under_a_guest_that_writes(cloud, admin_sdk, demo, demo_sdk, image, key, name):
    made = Guest(demo, demo_sdk, key, name, subnet="10.50.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(image)
    made.floating_ip()
    made.wait_ssh()
    first, second = (volume(demo_sdk, f"{name}-{number}") for number in (1, 2))
    demo.run("server", "add", "volume", made.id, first)
    wait_volume(demo_sdk, first, "in-use")
    wait_until(lambda: "vdb" in made.run("ls /dev"), 60, "the guest has the disk")
    mount = "sudo mkdir -p /mnt/data && sudo mount /dev/vdb /mnt/data"
    made.run(f"sudo mkfs.ext4 -q /dev/vdb && {mount}")

    class Inside:
        """How `Pages` runs a command."""

        def ssh(self, _, command):
            return made.run(command)

    pages = Pages(Inside(), made.address, "/mnt/data")
    pages.begin()
    boot = made.run("cat /proc/sys/kernel/random/boot_id")
    domain = domain_of(admin_sdk, made.id)

    def described():
        line = ("virsh", "-c", "qemu:///system", "dumpxml", domain)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    def exchanged(old, new):
        wait_until(
            lambda: volumes_of(demo_sdk, made.id) == [new],
            240,
            lambda: f"{new} for {old}: {admin_sdk.compute.get_server(made.id).fault}\n{described()}",
        )
        wait_volume(demo_sdk, old, "available")
        wait_volume(demo_sdk, new, "in-use")
        assert "<mirror" not in described(), "no copy is being made any more"
        (attachment,) = demo_sdk.block_storage.get_volume(new).attachments
        found = admin_sdk.block_storage.get_attachment(attachment["attachment_id"])
        assert found.connection_info["data"]["export"] in described(), "the guest uses the new volume"
        assert made.run("cat /proc/sys/kernel/random/boot_id") == boot
        pages.goes_on()
        pages.whole()

    before = pages.counted()
    swap(admin_sdk, made.id, first, second)
    exchanged(first, second)
    print(f"\na volume was exchanged: {pages.counted() - before} lines were written meanwhile and after it")

    # Back, while everything but the guest is killed.
    before = pages.counted()
    swap(admin_sdk, made.id, second, first)
    cloud.kill()
    cloud.start()
    exchanged(second, first)
    assert pages.counted() > before

    # And there again, with what the guest starts from the next time.
    swap(admin_sdk, made.id, first, second)
    exchanged(first, second)
    pages.end()
    count = pages.counted()
    made.run("sudo umount /mnt/data")
    demo.run("server", "stop", made.id)
    wait_until(lambda: demo_sdk.compute.get_server(made.id).status == "SHUTOFF", 120, "SHUTOFF")
    demo.run("server", "start", made.id)
    wait_until(lambda: demo_sdk.compute.get_server(made.id).status == "ACTIVE", 60, "ACTIVE")
    made.wait_ssh()
    made.run(mount)
    pages.whole()
    assert pages.counted() >= count, "the guest started with the new volume"
    made.run("sudo umount /mnt/data")

    # The old one is as it was when it was left: a whole file system, with fewer lines.
    demo.run("server", "remove", "volume", made.id, second)
    wait_volume(demo_sdk, second, "available")
    wait_until(lambda: "vdb" not in made.run("ls /dev"), 60, "the guest has no such disk")
    demo.run("server", "add", "volume", made.id, first)
    wait_volume(demo_sdk, first, "in-use")
    wait_until(lambda: "vdb" in made.run("ls /dev"), 60, "the guest has the old volume")
    made.run(mount)
    pages.whole()
    assert 0 < pages.counted() < count
    made.delete()
    made.drop_network()
    for one in (first, second):
        wait_volume(demo_sdk, one, "available")
        demo_sdk.block_storage.delete_volume(one)
    wait_until(lambda: demo_sdk.block_storage.find_volume(second) is None, 60, "the volumes are deleted")
