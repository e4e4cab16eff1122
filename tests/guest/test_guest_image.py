"""Boots the guest image under QEMU without any cloud and checks what it promises.

The metadata service is a small web server of this test, reached by the guest at
169.254.169.254 through QEMU's user-mode network, so no privileges are needed.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "scripts" / "guest-image" / "build.sh"
BOOT_SECONDS = 120
UUID = "6f1f3a2c-5d5e-4d0e-9c0b-0f3c7b8f2a10"
USER_DATA = "#!/bin/sh\necho user-data ran as $(id -un) > /root/marker\n"
# QEMU runs it for each connection.
RELAY = "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3 & cat >&3; wait\n"
ASKPASS = "#!/bin/sh\necho gocubsgo\n"


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """The image of KILONOVA_GUEST_IMAGE, or one built now."""
    given = os.environ.get("KILONOVA_GUEST_IMAGE")
    if given:
        return pathlib.Path(given)
    out = tmp_path_factory.mktemp("image") / "guest.qcow2"
    subprocess.run([str(BUILD), str(out)], check=True)
    return out


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def meta_data(key, name="web-1.novalocal", password=None, files=()):
    public = key.with_suffix(".pub").read_text().strip()
    document = {
        "uuid": UUID,
        "name": "web 1",
        "hostname": name,
        "meta": {"note": 'ssh-rsa AAAAnotakey "quoted" \\ and \u00e9', "hostname": "wrong"},
        "public_keys": {"mine": public + "\n", "second": "ssh-ed25519 AAAAsecond person@example.org\n"},
        "keys": [{"name": "mine", "type": "ssh", "data": public + "\n"}],
        "availability_zone": "nova",
    }
    if password:
        document["admin_pass"] = password
    if files:
        document["files"] = [
            {"content_path": f"/content/{number:04}", "path": path} for number, path in enumerate(files)
        ]
    return json.dumps(document)


@contextlib.contextmanager
def metadata_service(pages):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = pages.get(self.path.strip("/"))
            self.send_response(200 if body is not None else 404)
            data = (body or "").encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Guest:
    """One QEMU process on an overlay of the image."""

    def __init__(self, image, folder, key, metadata_port=None, extra=()):
        self.folder, self.key = folder, key
        self.ssh_port = free_port()
        self.disk = folder / "disk.qcow2"
        self.console = folder / "console.log"
        self.monitor = folder / "monitor"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(self.disk), "1G"],
            check=True,
        )
        net = f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        if metadata_port:
            # The metadata address must lie inside the user-mode network to be forwarded.
            relay = folder / "relay"
            relay.write_text(RELAY.format(port=metadata_port))
            relay.chmod(0o755)
            net += f",net=169.254.169.0/24,dhcpstart=169.254.169.100,guestfwd=tcp:169.254.169.254:80-cmd:{relay}"
        self.command = [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "192", "-display", "none", "-nodefaults",
            "-drive", f"file={self.disk},if=none,id=root", "-device", "virtio-blk-pci,drive=root,bootindex=0", "-netdev", net, "-device", "virtio-net-pci,netdev=n0",
            "-serial", f"file:{self.console}", "-monitor", f"unix:{self.monitor},server,nowait",
            "-device", "virtio-serial", "-chardev", f"socket,path={folder}/agent,server=on,wait=off,id=agent",
            "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0", *extra,
        ]  # fmt: skip
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command)
        self.wait_console("guest: boot finished:")

    def text(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait_console(self, line, seconds=BOOT_SECONDS):
        """Until the whole line that has these words is there."""
        deadline = time.monotonic() + seconds
        while not re.search(re.escape(line) + r".*\n", self.text()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                pytest.fail(f"no {line!r} on the console:\n{self.text()[-3000:]}")
            time.sleep(0.2)

    def tell_monitor(self, command):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            monitor.sendall(command.encode() + b"\n")
            time.sleep(0.3)

    def ask_agent(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(20)
            agent.connect(str(self.folder / "agent"))
            agent.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            return json.loads(agent.makefile().readline())

    def ssh(self, command, user="cirros", password=False):
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        environment = dict(os.environ)
        if password:
            askpass = self.folder / "askpass"
            askpass.write_text(ASKPASS)
            askpass.chmod(0o700)
            environment.update(SSH_ASKPASS=str(askpass), SSH_ASKPASS_REQUIRE="force", DISPLAY=":0")
            options += ["-o", "PubkeyAuthentication=no"]
        else:
            options += ["-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "PasswordAuthentication=no"]
        done = subprocess.run(
            ["ssh", *options, "-p", str(self.ssh_port), f"{user}@127.0.0.1", command],
            capture_output=True, text=True, timeout=90, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout.strip()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def boot(image, key, tmp_path):
    guests = []

    def start(**arguments):
        guest = Guest(image, tmp_path, key, **arguments)
        guests.append(guest)
        guest.start()
        return guest

    yield start
    for guest in guests:
        guest.stop()


def test_openstack_metadata_and_tools(boot, key):
    pages = {
        "openstack/latest/meta_data.json": meta_data(key),
        "openstack/latest/user_data": USER_DATA,
        "latest/meta-data/public-ipv4": "203.0.113.9",
    }
    with metadata_service(pages) as port:
        second = ("-netdev", "user,id=n1,net=198.18.5.0/24", "-device", "virtio-net-pci,netdev=n1")
        guest = boot(metadata_port=port, extra=second)
        assert f"boot finished: hostname=web-1 uuid={UUID} source=openstack keys=2" in guest.text()
        assert guest.ssh("hostname") == "web-1"
        assert guest.ssh("cat /etc/hostname") == "web-1"
        assert guest.ssh("id -un", user="root") == "root"
        assert guest.ssh("sudo cat /root/marker") == "user-data ran as root"
        assert guest.ssh("sudo id -u; sudo -u cirros id -u; sudo -i id -un; sudo sh -c 'echo $HOME'").split() == [
            "0", "1000", "root", "/root",
        ]  # fmt: skip
        assert guest.ssh("curl -s http://169.254.169.254/latest/meta-data/public-ipv4") == "203.0.113.9"
        assert guest.ssh("wget -T 5 -q -O - http://169.254.169.254/latest/meta-data/public-ipv4") == "203.0.113.9"
        # Two connections of netcat inside the guest.
        assert (
            guest.ssh("(echo pong | nc -l -p 7777 >/dev/null) & sleep 3; nc -w 5 127.0.0.1 7777 </dev/null") == "pong"
        )
        assert int(guest.ssh("df -k / | awk 'END { print $2 }'")) > 900_000, "the root file system did not grow"
        assert guest.ssh("lsblk -dn -o NAME") == "vda"
        # Whichever card had its answer first, the way out is the first card's.
        assert guest.ssh("ip -4 route show default | grep -c dev") == "2"
        assert " dev eth0 " in guest.ssh("ip route get 203.0.113.1")
        made = "truncate -s 8M /tmp/disk && sudo mkfs -t vfat /tmp/disk >/dev/null"
        assert guest.ssh(f"{made} && blkid -p -o value -s TYPE /tmp/disk") == "vfat"
        guest.ssh("ping -c 1 -w 5 127.0.0.1 && ping -6 -c 1 -w 5 ::1")
        assert guest.ssh("cat /var/run/udhcpc.eth0.pid").isdigit()
        assert guest.ssh("whoami", password=True) == "cirros"
        assert guest.ask_agent("guest-ping") == {"return": {}}
        assert guest.ask_agent("guest-network-get-interfaces")["return"]

        # A reset without warning: the file system survives, user-data does not run again.
        guest.ssh("sudo rm /root/marker; sudo sync")
        guest.console.write_text("")
        guest.tell_monitor("system_reset")
        guest.wait_console("guest: boot finished:")
        assert guest.ssh("sudo ls /root") == ""

        guest.tell_monitor("system_powerdown")
        assert guest.process.wait(timeout=60) == 0
        assert "power button pressed" in guest.text()


def test_ec2_metadata_only(boot, key):
    public = key.with_suffix(".pub").read_text()
    pages = {
        "latest/meta-data/instance-id": "i-00000007",
        "latest/meta-data/hostname": "old.novalocal",
        "latest/meta-data/public-keys": "0=mine",
        "latest/meta-data/public-keys/0/openssh-key": public,
        "latest/user-data": USER_DATA,
    }
    with metadata_service(pages) as port:
        guest = boot(metadata_port=port)
        assert "hostname=old uuid=i-00000007 source=ec2 keys=1" in guest.text()
        assert guest.ssh("cat /root/marker", user="root") == "user-data ran as root"


def iso_drive(tree, out):
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-J", "-r", "-V", "config-2", "-o", str(out), str(tree)],
        check=True, capture_output=True,
    )  # fmt: skip


def vfat_drive(tree, out):
    subprocess.run(["mkfs.vfat", "-n", "CONFIG-2", "-C", str(out), "16384"], check=True, capture_output=True)
    subprocess.run(["mcopy", "-s", "-i", str(out), str(tree / "openstack"), "::"], check=True)


@pytest.mark.parametrize(
    ("make_drive", "bus"), [(iso_drive, "ide-cd"), (iso_drive, "virtio-blk"), (vfat_drive, "virtio-blk")]
)
def test_config_drive_wins_and_sets_the_password(boot, key, tmp_path, make_drive, bus):
    tree = tmp_path / "drive"
    latest = tree / "openstack" / "latest"
    latest.mkdir(parents=True)
    files = ["/test.txt", "srv/new folder/other.txt"]
    told = meta_data(key, name="drive", password='s3cret "x"\\', files=files)
    (latest / "meta_data.json").write_text(told)
    (tree / "openstack" / "content").mkdir()
    for number, path in enumerate(files):
        (tree / "openstack" / "content" / f"{number:04}").write_text(f"to {path}")
    (latest / "user_data").write_text(USER_DATA)
    make_drive(tree, tmp_path / "config")
    media = "cdrom" if bus == "ide-cd" else "disk"
    drive = f"file={tmp_path}/config,id=config,if=none,media={media},readonly=on,format=raw"
    device = "ide-cd,drive=config" if bus == "ide-cd" else "virtio-blk-pci,drive=config"
    with metadata_service({"openstack/latest/meta_data.json": meta_data(key, name="service")}) as port:
        guest = boot(metadata_port=port, extra=("-drive", drive, "-device", device))
        assert "hostname=drive" in guest.text() and "source=config-drive" in guest.text()
        stored = guest.ssh("sudo awk -F: '$1 == \"cirros\" { print $2 }' /etc/shadow")
        salt = stored.split("$")[2]
        made = guest.ssh(f"printf '%s' 's3cret \"x\"\\' | mkpasswd -m sha512 -P 0 -S {salt}")
        assert stored == made
        assert guest.ssh("sudo sudo -n cat /root/marker") == "user-data ran as root"
        for path in files:
            assert guest.ssh(f"cat '/{path}'") == f"to {path}"
        label = "CONFIG-2" if make_drive is vfat_drive else "config-2"
        found = guest.ssh(f"blkid -L {label} -o device")
        assert found.startswith("/dev/"), "a user without rights does not find it"
        assert guest.ssh(f"sudo mount {found} /mnt; cat /mnt/openstack/latest/user_data") == USER_DATA.strip()
