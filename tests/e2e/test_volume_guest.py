"""A real guest that boots from a volume: rescued, made of another image, copied while its file systems stand still."""

import pytest

from cloud import wait_until
from test_guest import Guest

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

    becomes("RESCUE", "--os-compute-api-version", "2.87", "server", "rescue", "--image", image["name"])
    made.wait_ssh()
    assert made.run("ls /dev/vda2 /dev/vdb2").split() == ["/dev/vda2", "/dev/vdb2"], "the rescue disk and the volume"
    made.run("sudo mkdir -p /mnt/own && sudo mount /dev/vdb2 /mnt/own")
    assert made.run("sudo cat /mnt/own/root/marker") == "on-volume"
    made.run("echo mended | sudo tee /mnt/own/root/marker && sudo umount /mnt/own && sync")
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
    demo.run("image", "delete", copy["id"], quiet["id"])
    made.drop_network()
