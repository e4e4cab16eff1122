"""A guest whose kernel and RAM disk are images of their own: its disk could not boot by itself."""

import os
import shutil
import subprocess

import pytest

from test_guest import Guest

pytestmark = pytest.mark.real

MARK = "kilonova.test=kernels"
# What the guest's own boot loader says, and the mark.
COMMAND_LINE = f"console=tty0 console=ttyS0,115200 no_timer_check net.ifnames=0 tsc=reliable panic=10 quiet {MARK}"
PARTITION = 1 << 20


@pytest.fixture(scope="module")
def parts(guest_image, tmp_path_factory):
    """The disk without a boot loader, the kernel and the RAM disk, as files."""
    folder = tmp_path_factory.mktemp("kernels")
    disk, kernel, ramdisk = (folder / name for name in ("disk.raw", "vmlinuz", "initramfs.gz"))
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(guest_image), str(disk)], check=True)
    for file in (kernel, ramdisk):
        take = ["mcopy", "-i", f"{disk}@@{PARTITION}", f"::{file.name}", str(file)]
        subprocess.run(take, check=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})
    with disk.open("r+b") as file:
        file.write(bytes(440))
    yield disk, kernel, ramdisk
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(demo, parts):
    disk, kernel, ramdisk = parts

    def make(name, file, disk_format, container_format, *more):
        return demo.get(
            "image", "create", "--file", file, "--disk-format", disk_format, "--container-format", container_format, *more, name
        )  # fmt: skip

    boot = [make("kernel", kernel, "aki", "aki"), make("ramdisk", ramdisk, "ari", "ari")]
    said = (f"kernel_id={boot[0]['id']}", f"ramdisk_id={boot[1]['id']}", f"os_command_line={COMMAND_LINE}")
    properties = [word for one in said for word in ("--property", one)]
    return make("without-boot-loader", disk, "raw", "bare", *properties), boot


def test_a_guest_boots_from_kernel_and_ram_disk_of_its_image(demo, demo_sdk, admin_sdk, image, key):
    image, (kernel, ramdisk) = image
    guest = Guest(demo, demo_sdk, key, "kernels", subnet="10.44.0.0/24")
    guest.network()
    guest.allow_ssh()
    guest.create(image)
    shown = admin_sdk.compute.get_server(guest.id)
    assert (shown.kernel_id, shown.ramdisk_id) == (kernel["id"], ramdisk["id"])
    found = admin_sdk.compute.servers(all_projects=True, kernel_id=kernel["id"])
    assert [server.id for server in found] == [guest.id]
    guest.floating_ip()
    guest.wait_boot()
    guest.wait_ssh()
    assert MARK in guest.run("cat /proc/cmdline").split()
    boot = guest.run("cat /proc/sys/kernel/random/boot_id")

    # Its host has kept the files: the images may go.
    for one in (kernel, ramdisk):
        demo.run("image", "delete", one["id"])
    demo.run("server", "reboot", "--hard", "--wait", guest.id)
    guest.wait_ssh()
    assert MARK in guest.run("cat /proc/cmdline").split()
    assert guest.run("cat /proc/sys/kernel/random/boot_id") != boot
    refused = demo.fails("server", "rebuild", "--image", image["id"], guest.id)
    assert "Cannot find image for rebuild" in refused
    guest.delete()
    guest.drop_network()
