"""Volumes of servers, by the stock client: attached and detached, booted from, copied into images, gone with servers."""

import json

from cloud import wait_until
from test_servers import boot, wait_status


def volume(sdk, name, size=1, **more):
    """A volume that can be used, by its id."""
    made = sdk.block_storage.create_volume(name=name, size=size, **more)
    wait_volume(sdk, made.id, "available")
    return made.id


def wait_volume(sdk, volume, status, seconds=60):
    wait_until(
        lambda: sdk.block_storage.get_volume(volume).status == status,
        seconds,
        lambda: f"volume {volume} {status}: {sdk.block_storage.get_volume(volume).status}",
    )


def volumes_of(sdk, server):
    return [one["id"] for one in sdk.compute.get_server(server).attached_volumes]


def idle(sdk, server):
    """Nobody works on the server, also without showing it."""
    wait_until(lambda: sdk.compute.get_server(server).task_state is None, 60, "no task is shown")


def swap(sdk, server, old, new):
    """By an administrator, in the place of a volume service that moves the volume."""
    moves = {"os-reset_status": {"migration_status": "migrating"}}
    answer = sdk.block_storage.post(f"/volumes/{old}/action", json=moves)
    assert answer.status_code == 202, answer.text
    wanted = {"volumeAttachment": {"volumeId": new}}
    path = f"/servers/{server}/os-volume_attachments/{old}"
    answer = sdk.compute.put(path, json=wanted, microversion="2.1")
    assert answer.status_code == 202, answer.text


def test_attach_and_detach(admin, demo, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    first, second = (volume(demo_sdk, f"{name}-{number}") for number in (1, 2))
    wait_status(demo_sdk, server, "ACTIVE")
    shown = demo.get("server", "add", "volume", server, first)
    assert (shown["Volume ID"], shown["Device"]) == (first, "/dev/vdb")
    wait_volume(demo_sdk, first, "in-use")
    assert "400" in demo.fails("server", "add", "volume", server, first)
    demo.run("server", "stop", server)
    wait_status(demo_sdk, server, "SHUTOFF")
    tagged = ("--os-compute-api-version", "2.89", "server", "add", "volume", "--tag", "data", "--device", "/dev/vdk")
    demo.run(*tagged, "--enable-delete-on-termination", server, second)
    wait_volume(demo_sdk, second, "in-use")
    listed = demo.get("--os-compute-api-version", "2.89", "server", "volume", "list", server)
    rows = [(row["Volume ID"], row["Device"], row["Tag"], row["Delete On Termination?"]) for row in listed]
    assert rows == [(first, "/dev/vdb", None, False), (second, "/dev/vdk", "data", True)]
    attachment = demo_sdk.block_storage.get_volume(first).attachments[0]
    assert (attachment["server_id"], attachment["device"]) == (server, "/dev/vdb")
    assert volumes_of(demo_sdk, server) == [first, second]
    assert "400" in demo.fails("volume", "delete", first)

    demo.run("server", "start", server)
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("server", "remove", "volume", server, first)
    wait_volume(demo_sdk, first, "available")
    wait_until(lambda: volumes_of(demo_sdk, server) == [second], 60, "one volume less")
    assert "is not attached" in demo.fails("server", "remove", "volume", server, first)
    keep = ("--os-compute-api-version", "2.85", "server", "volume", "update", "--preserve-on-termination")
    demo.run(*keep, server, second)
    demo.run("server", "delete", "--wait", server)
    wait_volume(demo_sdk, second, "available")
    actions = [row["Action"] for row in admin.get("server", "event", "list", server)]
    assert actions == ["delete", "detach_volume", "start", "attach_volume", "stop", "attach_volume", "create"]
    demo.run("volume", "delete", first, second)


def test_exchange(admin_sdk, demo, demo_sdk, image, name):
    """The server has the new volume then, and nobody the old one."""
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    first, second = volume(demo_sdk, f"{name}-1"), volume(demo_sdk, f"{name}-2", size=2)
    demo.run("server", "add", "volume", server, first)
    wait_volume(demo_sdk, first, "in-use")
    swap(admin_sdk, server, first, second)
    wait_until(lambda: volumes_of(demo_sdk, server) == [second], 60, "the server has the new volume")
    wait_volume(demo_sdk, first, "available")
    wait_volume(demo_sdk, second, "in-use")
    assert demo_sdk.block_storage.get_volume(first).attachments == []
    (attachment,) = demo_sdk.block_storage.get_volume(second).attachments
    (shown,) = demo_sdk.compute.volume_attachments(server)
    assert (shown.volume_id, shown.attachment_id) == (second, attachment["attachment_id"])
    wait_until(lambda: admin_sdk.block_storage.get_volume(first).migration_status == "success", 60, "the move is over")

    # Stopped and started, and without it: what is known of it is of the new one.
    demo.run("server", "stop", server)
    wait_status(demo_sdk, server, "SHUTOFF")
    demo.run("server", "start", server)
    wait_status(demo_sdk, server, "ACTIVE")
    assert "is not attached" in demo.fails("server", "remove", "volume", server, first)
    demo.run("server", "remove", "volume", server, second)
    wait_volume(demo_sdk, second, "available")
    wait_until(lambda: volumes_of(demo_sdk, server) == [], 60, "no volume is left")
    demo.run("server", "delete", "--wait", server)
    demo.run("volume", "delete", first, second)


def test_boot_from_a_volume(demo, demo_sdk, guest_image, image, name):
    """Made of an image for the server, copied into an image, and gone with the server."""
    made = demo.get(
        "server", "create", "--image", image["name"], "--boot-from-volume", "2", "--flavor", "m1.nano", "--network", "private",
        "--block-device", "source_type=blank,destination_type=volume,volume_size=1,delete_on_termination=true",
        "--wait", name,
    )  # fmt: skip
    server = made["id"]
    assert made["image"] in ("", "N/A (booted from volume)"), made["image"]
    root, extra = volumes_of(demo_sdk, server)
    found = demo_sdk.block_storage.get_volume(root)
    assert (found.status, found.size, found.is_bootable) == ("in-use", 2, True)
    assert "Cannot detach a root device volume" in demo.fails("server", "remove", "volume", server, root)
    assert "Backup is not supported" in demo.fails("server", "backup", "create", server)

    copied = demo.get("server", "image", "create", "--name", f"{name}-copy", "--wait", server)
    mapping = json.loads(demo_sdk.image.get(f"/images/{copied['id']}").json()["block_device_mapping"])
    assert [one["source_type"] for one in mapping] == ["snapshot", "snapshot"]
    idle(demo_sdk, server)
    copy = boot(demo_sdk, f"{name}-copy", {"id": copied["id"]}).id
    wait_status(demo_sdk, copy, "ACTIVE")
    assert [demo_sdk.block_storage.get_volume(one).size for one in volumes_of(demo_sdk, copy)] == [2, 1]
    of_copy = volumes_of(demo_sdk, copy)
    demo.run("server", "delete", "--wait", copy)
    demo.run("image", "delete", copied["id"])
    # The snapshots outlive the image, and a volume with snapshots would outlive its server.
    for one in demo_sdk.block_storage.snapshots():
        demo_sdk.block_storage.delete_snapshot(one)
    wait_until(lambda: not list(demo_sdk.block_storage.snapshots()), 60, "no snapshots are left")

    demo.run("server", "shelve", server)
    wait_status(demo_sdk, server, "SHELVED_OFFLOADED")
    assert demo_sdk.block_storage.get_volume(root).status == "reserved"
    demo.run("server", "unshelve", "--wait", server)
    wait_status(demo_sdk, server, "ACTIVE")
    wait_volume(demo_sdk, root, "in-use")
    # Only with an image that says where the rescue disk goes.
    where = ("--property", "hw_rescue_device=disk", "--property", "hw_rescue_bus=virtio")
    rescue = demo.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", *where,
        f"{name}-rescue",
    )  # fmt: skip
    for version, with_image in [("2.86", rescue), ("2.87", image)]:
        refused = ("server", "rescue", "--image", with_image["name"], server)
        assert "volume-backed" in demo.fails("--os-compute-api-version", version, *refused)
    demo.run("--os-compute-api-version", "2.87", "server", "rescue", "--image", rescue["name"], server)
    wait_status(demo_sdk, server, "RESCUE")
    demo.run("server", "unrescue", server)
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("image", "delete", rescue["id"])

    other = demo_sdk.image.find_image("cirros-sim-alt-disk")
    assert "different image" in demo.fails(
        "--os-compute-api-version", "2.92", "server", "rebuild", "--image", other.name, server
    )
    demo.run(
        "--os-compute-api-version", "2.93", "server", "rebuild", "--reimage-boot-volume", "--image", other.name,
        "--wait", server,
    )  # fmt: skip
    wait_status(demo_sdk, server, "ACTIVE")
    wait_volume(demo_sdk, root, "in-use")
    assert demo_sdk.block_storage.get_volume(root).volume_image_metadata["image_id"] == other.id

    demo.run("server", "delete", "--wait", server)
    wait_volume(demo_sdk, root, "available")
    wait_until(lambda: demo_sdk.block_storage.find_volume(extra) is None, 60, "the blank volume went with it")
    again = demo.get(
        "server", "create", "--volume", root, "--flavor", "m1.nano", "--network", "private", "--wait", name
    )
    assert volumes_of(demo_sdk, again["id"]) == [root]
    demo.run("server", "delete", "--wait", again["id"])
    wait_volume(demo_sdk, root, "available")
    for one in (root, *of_copy):
        if found := demo_sdk.block_storage.find_volume(one):
            wait_volume(demo_sdk, found.id, "available")
            demo_sdk.block_storage.delete_volume(found)


def test_a_server_that_cannot_have_its_volumes(demo, demo_sdk, image, name):
    """What was made for it is gone, what was given is free again."""
    given = volume(demo_sdk, name)
    disks = [
        {"source_type": "image", "uuid": image["id"], "destination_type": "local", "boot_index": 0},
        {"source_type": "volume", "uuid": given, "destination_type": "volume"},
        {"source_type": "blank", "destination_type": "volume", "volume_size": 100000},
    ]
    before = {one.id for one in demo_sdk.block_storage.volumes()}
    made = boot(demo_sdk, name, image, block_device_mapping=disks)
    wait_status(demo_sdk, made.id, "ERROR")
    wait_volume(demo_sdk, given, "available")
    assert {one.id for one in demo_sdk.block_storage.volumes()} == before
    demo.run("server", "delete", "--wait", made.id)
    demo.run("volume", "delete", given)
