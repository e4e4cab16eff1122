"""A full Debian guest with the real cloud-init (slow; `make test-all`)."""

import os
import pathlib
import subprocess

import pytest

from cloud import ROOT, wait_until
from test_guest import Guest, port_open, ssh

pytestmark = [pytest.mark.real, pytest.mark.debian]

BOOT_SECONDS = 900
CLOUD_CONFIG = """#cloud-config
hostname: by-user-data
preserve_hostname: false
locale: C.UTF-8
write_files:
  - path: /etc/from-user-data
    content: "written by cloud-init\\n"
runcmd:
  - [sh, -c, "echo ran > /var/tmp/runcmd"]
"""


@pytest.fixture(scope="module")
def debian_image(admin, tmp_path_factory):
    out = pathlib.Path(os.environ.get("KILONOVA_DEBIAN_IMAGE") or tmp_path_factory.mktemp("debian") / "debian.qcow2")
    subprocess.run([str(ROOT / "scripts" / "guest-image" / "debian.sh"), str(out)], check=True)
    return admin.get(
        "image", "create", "--file", out, "--disk-format", "qcow2", "--container-format", "bare", "--public", "debian"
    )


@pytest.mark.parametrize("config_drive", [False, True], ids=["metadata-service", "config-drive"])
def test_cloud_init_obeys(demo, demo_sdk, debian_image, key, tmp_path, config_drive):
    (tmp_path / "user-data").write_text(CLOUD_CONFIG)
    name = f"debian-{int(config_drive)}"
    guest = Guest(demo, demo_sdk, key, name, subnet=f"10.5{int(config_drive)}.0.0/24", flavor="m1.small")
    guest.network()
    guest.allow_ssh()
    guest.create(debian_image, "--user-data", tmp_path / "user-data", "--config-drive", str(config_drive))
    guest.floating_ip()
    wait_until(lambda: port_open(guest.address), BOOT_SECONDS, lambda: f"SSH:\n{guest.console()[-3000:]}", pause=2)

    def run(command):
        done = ssh(key, guest.address, command, user="debian", seconds=600)
        assert done.returncode in (0, 2), f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    wait_until(lambda: ssh(key, guest.address, "true", user="debian").returncode == 0, 300, "the key is there", pause=2)
    assert "done" in run("cloud-init status --wait")
    assert run("cloud-id") == ("configdrive" if config_drive else "openstack")
    assert run("hostname") == "by-user-data"
    assert run("cat /etc/from-user-data") == "written by cloud-init"
    assert run("cat /var/tmp/runcmd") == "ran"
    assert int(run("df -BM --output=size / | tail -1 | tr -dc 0-9")) > 1400, "the root file system did not grow"
    assert run("sudo -n id -u") == "0"
    guest.delete()
    guest.drop_network()
