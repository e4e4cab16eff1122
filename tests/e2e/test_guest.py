"""The story on a real guest: boot, SSH through a floating IP, metadata, security groups, restarts, nothing left."""

import json
import os
import pathlib
import re
import socket
import subprocess
import time

import pytest

from cloud import wait_until

pytestmark = pytest.mark.real

BOOT_SECONDS = 240
USER_DATA = "#!/bin/sh\necho user-data ran as $(id -un) > /root/marker\n"
LINKS = "http://169.254.169.254"


DAEMONS = ("libvirtd", "virtlogd", "virtlockd", "dnsmasq", "qemu-system-x86", "kilonova")


def machine_state():
    """What a cloud may leave on a machine: {kind: names}. What libvirtd itself sets up when it starts is not ours."""

    def lines(*command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {line.strip() for line in done.stdout.splitlines() if line.strip()}

    links = {line.split(":")[1].strip().split("@")[0] for line in lines("ip", "-o", "link")}
    daemons = set()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "exe").resolve().name.startswith(DAEMONS):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                # Nor are simulated clouds, which another run of the tests may have now.
                if "/var/lib/libvirt/dnsmasq" not in command and "--hypervisor sim" not in command:
                    daemons.add(command)
        except OSError:
            continue
    return {
        "domains": lines("virsh", "-c", "qemu:///system", "list", "--all", "--name"),
        "links": {link for link in links if not link.startswith("virbr")},
        "namespaces": {line.split()[0] for line in lines("ip", "netns", "list")},
        "nft tables": {line for line in lines("nft", "list", "tables") if "kilonova" in line},
        "processes": daemons,
        "state": {path.name for path in pathlib.Path("/run").glob("kilonova-network/*")},
    }


def assert_nothing_left(before):
    """What others on this machine make for a moment goes by itself."""

    def left():
        return {kind: names - before[kind] for kind, names in machine_state().items() if names - before[kind]}

    wait_until(lambda: not left(), 60, lambda: f"gone: {left()}", pause=1)


@pytest.fixture(scope="module")
def before():
    return machine_state()


def ssh(key, address, command, user="cirros", seconds=90):
    return subprocess.run(
        [
            "ssh", "-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", f"{user}@{address}", command,
        ],
        capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def port_open(address, port=22, seconds=3):
    try:
        socket.create_connection((address, port), timeout=seconds).close()
        return True
    except OSError:
        return False


class Guest:
    """A server with its own network, and the way into it."""

    def __init__(self, client, sdk, key, name, subnet="10.41.0.0/24", flavor="m1.nano"):
        self.client, self.sdk, self.key, self.name = client, sdk, key, name
        self.subnet, self.flavor = subnet, flavor
        self.id = self.address = None

    def network(self):
        self.client.run("network", "create", self.name)
        self.client.run("subnet", "create", "--network", self.name, "--subnet-range", self.subnet, self.name)
        self.client.run("router", "create", "--external-gateway", "public", self.name)
        self.client.run("router", "add", "subnet", self.name, self.name)
        self.client.run("security", "group", "create", self.name)
        self.client.run("keypair", "create", "--public-key", self.key.with_suffix(".pub"), self.name)

    def create(self, image, *more):
        began = time.monotonic()
        made = self.client.get(
            "server", "create", "--image", image["name"], "--flavor", self.flavor, "--network", self.name, "--key-name", self.name,
            "--security-group", self.name, *more, "--wait", self.name,
        )  # fmt: skip
        assert made["status"] == "ACTIVE"
        self.id = made["id"]
        self.seconds = time.monotonic() - began
        return made

    def floating_ip(self):
        self.address = self.client.get("floating", "ip", "create", "public")["floating_ip_address"]
        self.client.run("server", "add", "floating", "ip", self.id, self.address)

    def console(self):
        return self.client.run("console", "log", "show", self.id)

    def wait_boot(self):
        wait_until(
            lambda: "guest: boot finished:" in self.console(),
            BOOT_SECONDS,
            lambda: f"booted:\n{self.console()[-2000:]}",
            pause=1,
        )

    def allow_ssh(self):
        self.client.run("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", self.name)

    def wait_ssh(self, seconds=BOOT_SECONDS):
        wait_until(
            lambda: port_open(self.address) and ssh(self.key, self.address, "true").returncode == 0,
            seconds,
            lambda: f"SSH at {self.address}:\n{self.console()[-2000:]}",
        )

    def run(self, command):
        done = ssh(self.key, self.address, command)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def metadata(self, path):
        return self.run(f"wget -q -O - {LINKS}/{path}")

    def delete(self):
        self.client.run("server", "delete", "--wait", self.id)
        if self.address:
            self.client.run("floating", "ip", "delete", self.address)

    def drop_network(self):
        self.client.run("router", "remove", "subnet", self.name, self.name)
        self.client.run("router", "delete", self.name)
        self.client.run("network", "delete", self.name)
        self.client.run("security", "group", "delete", self.name)
        self.client.run("keypair", "delete", self.name)


@pytest.fixture(scope="module")
def guest(before, cloud, demo, demo_sdk, image, key, tmp_path_factory):
    user_data = tmp_path_factory.mktemp("user-data") / "script"
    user_data.write_text(USER_DATA)
    made = Guest(demo, demo_sdk, key, "story")
    made.network()
    made.create(image, "--user-data", user_data, "--property", "role=web")
    made.floating_ip()
    return made


def domain_of(admin_sdk, server):
    """The libvirt name of a server, as an administrator sees it."""
    return admin_sdk.compute.get_server(server).instance_name


def guest_pid(domain):
    return int(pathlib.Path(f"/run/libvirt/qemu/{domain}.pid").read_text())


def test_01_security_group_keeps_ssh_out_and_lets_it_in(guest):
    guest.wait_boot()
    assert not port_open(guest.address), "SSH came through without a rule"
    guest.allow_ssh()
    guest.wait_ssh()


def test_02_name_key_and_user_data(guest):
    assert guest.run("hostname") == "story"
    assert guest.run("sudo cat /root/marker") == "user-data ran as root"
    own = guest.key.with_suffix(".pub").read_text().split()[1]
    assert own in guest.run("cat .ssh/authorized_keys")


def test_03_metadata(guest):
    document = json.loads(guest.metadata("openstack/latest/meta_data.json"))
    assert document["uuid"] == guest.id
    assert document["name"] == "story" and document["meta"] == {"role": "web"}
    assert document["project_id"] == guest.sdk.current_project_id
    assert list(document["public_keys"]) == ["story"]
    network = json.loads(guest.metadata("openstack/latest/network_data.json"))
    port = next(iter(guest.sdk.network.ports(device_id=guest.id)))
    assert network["links"][0]["ethernet_mac_address"] == port.mac_address
    assert network["links"][0]["vif_id"] == port.id
    assert network["networks"][0]["link"] == network["links"][0]["id"]
    json.loads(guest.metadata("openstack/latest/vendor_data.json"))
    assert guest.metadata("openstack/latest/user_data").startswith("#!/bin/sh")
    assert "latest" in guest.metadata("openstack").split()

    ec2 = "latest/meta-data"
    assert set(guest.metadata(ec2).split()) >= {"ami-id", "hostname", "instance-id", "local-ipv4", "public-keys/"}
    assert re.fullmatch(r"i-[0-9a-f]{8}", guest.metadata(f"{ec2}/instance-id"))
    assert guest.metadata(f"{ec2}/local-ipv4") == port.fixed_ips[0]["ip_address"]
    # What is known of a guest is kept for two seconds; the floating address came later than the first question.
    wait_until(lambda: guest.metadata(f"{ec2}/public-ipv4") == guest.address, 60, "the floating address in metadata")
    assert guest.metadata(f"{ec2}/public-keys/") == "0=story"
    assert (
        guest.metadata(f"{ec2}/public-keys/0/openssh-key").split()[:2]
        == guest.key.with_suffix(".pub").read_text().split()[:2]
    )
    assert guest.metadata("latest/user-data").startswith("#!/bin/sh")


def test_04_a_guest_cannot_pose_as_another(guest):
    """Headers that the proxy sets are not believed when a guest sends them."""
    forged = "--header 'X-Instance-ID: 00000000-0000-0000-0000-000000000000' --header 'X-Forwarded-For: 192.0.2.1'"
    document = json.loads(guest.run(f"wget -q -O - {forged} {LINKS}/openstack/latest/meta_data.json"))
    assert document["uuid"] == guest.id


def test_05_the_guest_reaches_the_host_side(guest, admin_sdk):
    """Name service and the way out are there: the gateway answers."""
    assert " 0% packet loss" in guest.run("sudo ping -c 2 -W 5 10.41.0.1")
    assert guest.run("grep -c nameserver /etc/resolv.conf || true").isdigit()


def test_06_stop_start_reboot(guest):
    def status():
        return guest.sdk.compute.get_server(guest.id).status

    guest.client.run("server", "stop", guest.id)
    wait_until(lambda: status() == "SHUTOFF", 90, "SHUTOFF")
    assert not port_open(guest.address)
    assert "guest: power button pressed" in guest.console(), "it was asked to go down"
    guest.client.run("server", "start", guest.id)
    wait_until(lambda: status() == "ACTIVE", 60, "ACTIVE")
    guest.wait_ssh()
    guest.run("sudo rm /root/marker && sync")
    guest.client.run("server", "reboot", "--hard", "--wait", guest.id)
    guest.wait_ssh()
    assert guest.run("sudo ls /root") == "", "user-data ran again"
    guest.client.run("server", "reboot", "--wait", guest.id)
    guest.wait_ssh()


def test_07_the_guest_outlives_the_cloud(cloud, guest, admin):
    domain = domain_of(admin.sdk(), guest.id)
    pid = guest_pid(domain)
    for end in (cloud.stop, cloud.kill):
        end()
        os.kill(pid, 0)
        assert guest.run("hostname") == "story", "not reachable while the cloud is away"
        cloud.start()
        assert guest_pid(domain) == pid
        sdk = guest.client.sdk()
        assert sdk.compute.get_server(guest.id).status == "ACTIVE"
        assert guest.run("hostname") == "story"
        assert json.loads(guest.metadata("openstack/latest/meta_data.json"))["uuid"] == guest.id
    guest.sdk = guest.client.sdk()
    guest.client.run("server", "reboot", "--hard", "--wait", guest.id)
    guest.wait_ssh()


def test_08_a_guest_that_dies_is_seen(guest, admin):
    """QEMU is killed from outside: the server is SHUTOFF without anybody asking, and can be started."""
    os.kill(guest_pid(domain_of(admin.sdk(), guest.id)), 9)
    wait_until(lambda: guest.sdk.compute.get_server(guest.id).status == "SHUTOFF", 60, "SHUTOFF")
    guest.client.run("server", "start", guest.id)
    wait_until(lambda: guest.sdk.compute.get_server(guest.id).status == "ACTIVE", 60, "ACTIVE")
    guest.wait_ssh()


def test_08_an_audit_tells_what_agents_would_do(cloud, guest):
    """They take a stray bridge away within a minute, so it is made again until an audit has seen it."""
    wait_until(lambda: not cloud.audit(), 60, cloud.audit, pause=1)
    links = json.loads(subprocess.run(["ip", "-j", "-d", "link"], capture_output=True, check=True).stdout)
    alias = next(link["ifalias"] for link in links if link.get("ifalias", "").startswith("kilonova/"))
    stray = f"kbrstray{os.getpid() % 10**6}"

    def there():
        return subprocess.run(["ip", "link", "show", stray], capture_output=True).returncode == 0

    def named():
        if not there():
            subprocess.run(["ip", "link", "add", "name", stray, "type", "bridge"], check=True)
            subprocess.run(["ip", "link", "set", "dev", stray, "alias", alias], check=True)
        return f"is not as it should be: ip link del dev {stray}\n" in cloud.audit()

    try:
        wait_until(named, 60, lambda: f"it is named: {cloud.audit()}")
        cloud.manage("audit", "--fix")
        assert not there()
    finally:
        subprocess.run(["ip", "link", "del", "dev", stray], capture_output=True)
    assert guest.run("id -un") == "cirros"


def test_09_delete_leaves_nothing(cloud, guest, admin):
    sdk = admin.sdk()
    domain = domain_of(sdk, guest.id)
    port = next(iter(guest.sdk.network.ports(device_id=guest.id)))
    taps = {link for link in machine_state()["links"] if port.id[:11] in link}
    assert taps, f"no tap of port {port.id}"
    guest.delete()
    state = machine_state()
    assert domain not in state["domains"]
    wait_until(lambda: not taps & machine_state()["links"], 60, "the tap is gone")
    assert list(guest.sdk.network.ports(device_id=guest.id)) == []
    assert sdk.placement.get(f"/allocations/{guest.id}").json()["allocations"] == {}
    left = [str(path) for path in cloud.home.rglob(f"*{guest.id}*")]
    assert left == [], "files of the server"
    mac = port.mac_address
    in_files = subprocess.run(
        ["grep", "-rlI", "--exclude=log", "--exclude=*.db*", "--exclude=*.log", mac, str(cloud.home)],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert in_files == [], f"{mac} is still there"
    guest.drop_network()


def test_10_config_drive(demo, demo_sdk, image, key, tmp_path):
    (tmp_path / "script").write_text(USER_DATA)
    made = Guest(demo, demo_sdk, key, "drive", subnet="10.42.0.0/24")
    made.network()
    made.allow_ssh()
    answer = made.create(image, "--user-data", tmp_path / "script", "--config-drive", "True", "--property", "a=b")
    made.floating_ip()
    made.wait_boot()
    assert "source=config-drive" in made.console()
    made.wait_ssh()
    assert made.run("hostname") == "drive"
    assert made.run("sudo cat /root/marker") == "user-data ran as root"
    made.run("sudo mkdir -p /mnt/d && sudo mount -o ro $(sudo findfs LABEL=config-2) /mnt/d")
    document = json.loads(made.run("cat /mnt/d/openstack/latest/meta_data.json"))
    assert document["uuid"] == made.id and document["meta"] == {"a": "b"}
    assert document["admin_pass"] == answer["adminPass"]
    assert json.loads(made.run("cat /mnt/d/ec2/latest/meta-data.json"))["local-hostname"].startswith("drive")
    network = json.loads(made.run("cat /mnt/d/openstack/latest/network_data.json"))
    assert network["links"] and network["networks"]
    made.delete()
    made.drop_network()


def test_11_two_tenants_with_the_same_range(admin, demo, demo_sdk, image, key):
    """Both have 10.43.0.0/24 and the same address in it; neither sees the other."""
    guests = []
    for client, sdk, name in ((demo, demo_sdk, "mine"), (admin, admin.sdk(), "theirs")):
        made = Guest(client, sdk, key, name, subnet="10.43.0.0/24")
        made.network()
        made.allow_ssh()
        client.run("security", "group", "rule", "create", "--protocol", "icmp", name)
        made.create(image, "--property", f"who={name}")
        guests.append(made)
    for made in guests:
        made.floating_ip()
    for made in guests:
        made.wait_ssh()
        assert made.run("hostname") == made.name
        assert json.loads(made.metadata("openstack/latest/meta_data.json"))["uuid"] == made.id
    mine, theirs = guests
    inside = {made.name: made.run("ip -o -4 addr show eth0 | awk '{ print $4 }' | cut -d/ -f1") for made in guests}
    if inside["mine"] != inside["theirs"]:
        done = ssh(key, mine.address, f"sudo ping -c 2 -W 2 {inside['theirs']}")
        assert done.returncode != 0, "a guest of another tenant answered"
    macs = {made.name: next(iter(made.sdk.network.ports(device_id=made.id))).mac_address for made in guests}
    seen = mine.run("ip neigh; true")
    assert macs["theirs"] not in seen
    for made in guests:
        made.delete()
        made.drop_network()


def test_12_a_guest_hears_of_its_ipv6_subnet(demo, demo_sdk, image, key):
    made = Guest(demo, demo_sdk, key, "six", subnet="10.45.0.0/24")
    made.network()
    made.allow_ssh()
    modes = ("--ip-version", "6", "--ipv6-ra-mode", "slaac", "--ipv6-address-mode", "slaac")
    demo.run("subnet", "create", "--network", "six", "--subnet-range", "2001:db8:45::/64", *modes, "six-six")
    demo.run("router", "add", "subnet", "six", "six-six")
    made.create(image)
    made.floating_ip()
    made.wait_ssh()
    port = next(iter(demo_sdk.network.ports(device_id=made.id)))
    address = next(ip["ip_address"] for ip in port.fixed_ips if ":" in ip["ip_address"])
    seen = "ip -6 addr show dev eth0; ip -6 route"
    wait_until(lambda: address in made.run(seen), 60, lambda: f"{address}:\n{made.run(seen)}", pause=1)
    assert "default via fe80::" in made.run("ip -6 route")
    made.run("ping -6 -c 1 -w 10 2001:db8:45::1")
    made.delete()
    demo.run("router", "remove", "subnet", "six", "six-six")
    made.drop_network()


def test_98_down_takes_guests_and_start_finds_them_off(cloud, before, demo, demo_sdk, image, key):
    made = Guest(demo, demo_sdk, key, "down", subnet="10.44.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(image)
    made.floating_ip()
    made.wait_ssh()
    made.run("echo kept | sudo tee /root/kept && sync")
    cloud.down()
    assert_nothing_left(before)
    cloud.start()
    sdk = demo.sdk()
    assert sdk.compute.get_server(made.id).status == "SHUTOFF"
    demo.run("server", "start", made.id)
    made.wait_ssh()
    assert made.run("sudo cat /root/kept") == "kept"
    made.delete()
    made.drop_network()


def test_99_nothing_is_left(cloud, before):
    cloud.down()
    assert_nothing_left(before)
    assert not cloud.processes()
    cloud.start()


def test_14_pause_suspend_rescue_rebuild_snapshot(demo, demo_sdk, image, key):
    """One guest through what lies between on and off; the same memory, the same disk, the same address."""
    made = Guest(demo, demo_sdk, key, "life", subnet="10.46.0.0/24")
    made.network()
    made.allow_ssh()
    made.create(image)
    made.floating_ip()
    made.wait_ssh()

    def becomes(status, *command):
        demo.run("server", *command, made.id)
        wait_until(lambda: demo_sdk.compute.get_server(made.id).status == status, 120, status)

    made.run("echo in-memory | sudo tee /run/marker && echo on-disk | sudo tee /root/marker && sync")
    boot_id = made.run("cat /proc/sys/kernel/random/boot_id")
    becomes("PAUSED", "pause")
    assert not port_open(made.address)
    becomes("ACTIVE", "unpause")
    made.wait_ssh(60)
    becomes("SUSPENDED", "suspend")
    becomes("ACTIVE", "resume")
    made.wait_ssh(60)
    assert made.run("cat /run/marker") == "in-memory"
    assert made.run("cat /proc/sys/kernel/random/boot_id") == boot_id, "it was not booted again"
    demo.run("server", "dump", "create", made.id)
    wait_until(lambda: "NMI" in made.run("sudo dmesg"), 60, "the interrupt in the guest's log")

    becomes("RESCUE", "rescue")
    made.wait_ssh()
    assert made.run("ls /dev/vda2 /dev/vdb2").split() == ["/dev/vda2", "/dev/vdb2"], "the rescue disk and its own"
    made.run("sudo mkdir -p /mnt/own && sudo mount /dev/vdb2 /mnt/own")
    assert made.run("sudo cat /mnt/own/root/marker") == "on-disk"
    made.run("echo mended | sudo tee /mnt/own/root/marker && sudo umount /mnt/own && sync")
    becomes("ACTIVE", "unrescue")
    made.wait_ssh()
    assert made.run("sudo cat /root/marker") == "mended"

    demo.run("server", "rebuild", "--name", "renewed", "--wait", made.id)
    made.wait_ssh()
    assert made.run("hostname") == "life", "a new name does not change the host name"
    assert made.run("sudo cat /root/marker || true") == "", "the disk is a new one"

    before = made.run("ls /sys/class/net").split()
    demo.run("server", "add", "network", made.id, "private")
    wait_until(lambda: len(made.run("ls /sys/class/net").split()) == len(before) + 1, 60, "the card is in the guest")
    demo.run("server", "remove", "network", made.id, "private")
    wait_until(lambda: made.run("ls /sys/class/net").split() == before, 60, "the card is gone")
    # The guest sees it go before the flow has told the network service.
    wait_until(
        lambda: demo_sdk.compute.get_server(made.id).addresses.keys() == {"life"}, 60, "the server shows one network"
    )

    made.run("echo in-image | sudo tee /root/marker && sync")
    for way in ("live", "off"):
        if way == "off":
            becomes("SHUTOFF", "stop")
        snapshot = demo.get("server", "image", "create", "--name", f"life-{way}", "--wait", made.id)
        assert snapshot["status"] == "active"
        wait_until(lambda: demo_sdk.compute.get_server(made.id).task_state is None, 60, "no task is shown")
    made.delete()
    copy = Guest(demo, demo_sdk, key, "life")
    copy.create({"name": "life-live"})
    copy.floating_ip()
    copy.wait_ssh()
    assert copy.run("sudo cat /root/marker") == "in-image"
    copy.delete()
    demo.run("image", "delete", "life-live", "life-off")
    copy.drop_network()
