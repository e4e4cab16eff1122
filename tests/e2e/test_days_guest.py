"""The days of a real guest: volumes that come and go while it runs, a new password, backups, a stable rescue, months on a
shelf; what it has written is there after all of it."""

import pytest

from cloud import wait_until
from test_guest import Guest

pytestmark = pytest.mark.real
BUTTON = "guest: power button pressed"


@pytest.fixture
def patient_image(demo, guest_image, name):
    """With an agent, to be rescued with behind the guest's own disks, and without any time to go down."""
    properties = {
        "hw_qemu_guest_agent": "yes",
        "hw_rescue_device": "disk",
        "hw_rescue_bus": "virtio",
        "os_shutdown_timeout": 0,
    }
    given = [part for key, value in properties.items() for part in ("--property", f"{key}={value}")]
    made = demo.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", *given, name
    )
    yield made
    demo.run("image", "delete", made["id"])


def test_what_a_guest_writes_outlasts_its_days(cloud, demo, demo_sdk, image, patient_image, key, name):
    made = Guest(demo, demo_sdk, key, name, subnet="10.50.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(patient_image)
    made.floating_ip()
    made.wait_ssh()

    def idle(guest):
        wait_until(lambda: demo_sdk.compute.get_server(guest.id).task_state is None, 120, "no task is shown")

    def becomes(guest, status, *command):
        demo.run("--os-compute-api-version", "2.87", "server", *command, guest.id)
        wait_until(lambda: demo_sdk.compute.get_server(guest.id).status == status, 180, status)
        idle(guest)

    def disks(guest):
        return guest.run("ls /sys/block | grep ^vd || true").split()

    def has_volume(guest, attached):
        wait_until(lambda: ("vdb" in disks(guest)) == attached, 60, lambda: f"{attached}: {disks(guest)}")
        status = "in-use" if attached else "available"
        wait_until(lambda: demo_sdk.block_storage.get_volume(volume.id).status == status, 60, status)
        idle(guest)

    # A volume comes while the guest runs, and goes.
    volume = demo_sdk.block_storage.create_volume(size=1, name=name)
    demo_sdk.block_storage.wait_for_status(volume, "available", wait=60)
    assert disks(made) == ["vda"]
    demo.run("server", "add", "volume", made.id, volume.id)
    has_volume(made, True)
    made.run("sudo mkfs.ext4 -q /dev/vdb && sudo mkdir /mnt/v && sudo mount /dev/vdb /mnt/v")
    made.run("echo on-volume | sudo tee /mnt/v/marker && sudo umount /mnt/v && sync")
    demo.run("server", "remove", "volume", made.id, volume.id)
    has_volume(made, False)

    # A password that its agent sets.
    hashed = "sudo awk -F: '$1 == \"root\" { print $2 }' /etc/shadow"
    before = made.run(hashed)
    wait_until(lambda: made.run("pidof qemu-ga || true"), 60, "the agent runs")
    demo.run("server", "set", "--password", "a new Secret 7", made.id)
    wait_until(lambda: made.run(hashed) != before, 60, "the agent has set it")
    salt = made.run(hashed).split("$")[2]
    assert made.run(f"mkpasswd -m sha512 -S '{salt}' 'a new Secret 7'") == made.run(hashed)
    idle(made)

    # Backups, of which one is kept.
    for number in (1, 2):
        made.run(f"echo backup-{number} | sudo tee /root/marker && sync")
        kind = ("--name", f"{name}-{number}", "--type", "daily", "--rotate", "1")
        demo.run("server", "backup", "create", *kind, "--wait", made.id)
        idle(made)
    backups = [one for one in demo_sdk.image.get("/images?backup_type=daily").json()["images"] if name in one["name"]]
    assert [one["name"] for one in backups] == [f"{name}-2"]

    # The rescue disk comes behind all others, and the machine boots from it.
    where = 'awk \'$2 == "/" && $1 ~ "^/dev/" { print $1 }\' /proc/mounts'
    assert made.run(where) == "/dev/vda2"
    made.run("echo before-rescue | sudo tee /root/marker && sudo tune2fs -L own-root /dev/vda2 && sync")
    becomes(made, "RESCUE", "rescue", "--image", patient_image["name"])
    made.wait_ssh()
    assert made.run(where) == "/dev/vdb2", "the root of the rescue system"
    made.run("sudo mkdir -p /mnt/own && sudo mount /dev/vda2 /mnt/own")
    assert made.run("sudo cat /mnt/own/root/marker") == "before-rescue"
    made.run(
        "echo mended | sudo tee /mnt/own/root/marker && sudo umount /mnt/own && sudo tune2fs -L guest-root /dev/vda2"
    )
    becomes(made, "ACTIVE", "unrescue")
    made.wait_ssh()
    assert made.run(where) == "/dev/vda2" and disks(made) == ["vda"]
    assert made.run("sudo cat /root/marker") == "mended"

    # Its image leaves it no time to go down. On the shelf its host has nothing of it.
    made.run("echo shelved | sudo tee /root/marker && sync")
    becomes(made, "SHUTOFF", "stop")
    assert BUTTON not in made.console(), "it was asked to go down"
    becomes(made, "ACTIVE", "start")
    made.wait_ssh()
    becomes(made, "SHELVED_OFFLOADED", "shelve")
    assert not list((cloud.home / "instances").glob(f"{made.id}*"))
    becomes(made, "ACTIVE", "unshelve")
    made.wait_ssh()
    assert made.run("sudo cat /root/marker") == "shelved"
    made.delete()

    # The backup is a guest of its own, and the volume another guest's.
    other = Guest(demo, demo_sdk, key, name)
    other.create({"name": f"{name}-2"})
    other.floating_ip()
    other.wait_ssh()
    assert other.run("sudo cat /root/marker") == "backup-2"
    demo.run("server", "add", "volume", other.id, volume.id)
    has_volume(other, True)
    assert other.run("sudo mkdir -p /mnt/v && sudo mount /dev/vdb /mnt/v && cat /mnt/v/marker") == "on-volume"
    other.run("sudo umount /mnt/v")
    other.delete()
    wait_until(lambda: demo_sdk.block_storage.get_volume(volume.id).status == "available", 60, "the volume is free")
    demo_sdk.block_storage.delete_volume(volume)
    demo.run("image", "delete", f"{name}-2")
    other.drop_network()


@pytest.mark.long
def test_a_guest_grows_on_the_only_host(cloud, admin_sdk, demo, demo_sdk, image, key, name):
    """Its disk waits aside until the owner has decided; either way one is left, with all that was written. It is a disk
    that stands on the image of a shelf, which is gone."""
    flavor = admin_sdk.compute.create_flavor(name=name, ram=256, vcpus=1, disk=2)
    made = Guest(demo, demo_sdk, key, name, subnet="10.51.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(image)
    made.floating_ip()
    made.wait_ssh()

    def folders():
        return sorted(path.name for path in (cloud.home / "instances").glob(f"{made.id}*"))

    def memory():
        return int(made.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")) // 1024

    def disk():
        return int(made.run("cat /sys/block/vda/size")) // 2 // 1024 // 1024

    def becomes(status, *command):
        demo.run("server", *command, made.id)

        def there():
            found = demo_sdk.compute.get_server(made.id)
            assert found.status != "ERROR", found.fault
            return found.status == status and found.task_state is None

        wait_until(there, 180, lambda: f"{status}\n{cloud.tail()}")
        if status != "SHELVED_OFFLOADED":
            made.wait_ssh()

    def write(text):
        made.run(f"echo {text} | sudo tee /root/marker && sync")

    def is_read(text):
        assert made.run("sudo cat /root/marker") == text

    small = memory()
    assert small < 128 and disk() == 1
    write("before")
    becomes("SHELVED_OFFLOADED", "shelve")
    becomes("ACTIVE", "unshelve")
    is_read("before")
    # Taken back: what was written since goes, too.
    becomes("VERIFY_RESIZE", "resize", "--flavor", flavor.name)
    is_read("before")
    assert 192 < memory() < 256 and disk() == 2
    assert folders() == [made.id, f"{made.id}.aside"]
    write("lost")
    becomes("ACTIVE", "resize", "revert")
    is_read("before")
    assert memory() == small and disk() == 1
    assert folders() == [made.id]
    assert demo_sdk.compute.get_server(made.id).flavor.name == made.flavor

    # For good.
    becomes("VERIFY_RESIZE", "resize", "--flavor", flavor.name)
    is_read("before")
    write("since")
    becomes("ACTIVE", "resize", "confirm")
    wait_until(lambda: folders() == [made.id], 60, lambda: f"nothing is aside: {folders()}")
    is_read("since")
    demo.run("server", "reboot", "--hard", "--wait", made.id)
    made.wait_ssh()
    is_read("since")
    assert 192 < memory() < 256 and disk() == 2
    assert demo_sdk.compute.get_server(made.id).flavor.name == flavor.name

    made.delete()
    assert folders() == []
    made.drop_network()
    admin_sdk.compute.delete_flavor(flavor)
