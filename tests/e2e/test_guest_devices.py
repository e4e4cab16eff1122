"""What a real guest has beside a root disk and a card, and what is changed of it: local disks, several cards, addresses,
security groups, a volume that grows, a smaller flavor, another key and other user data; deleted, and restored."""

import re
import subprocess
import tempfile

import pytest

from cloud import wait_until
from test_guest import Guest, domain_of, machine_state, ssh
from test_server_volumes import wait_volume

pytestmark = pytest.mark.real

MIB = 1 << 20
PUSHED = 2 * MIB
# An address that nobody gives away: those of ports come from the low end.
NOBODYS = "10.52.0.200"
# Echo requests without an answer after which there is no way.
SILENCE = 10


@pytest.fixture
def flavors(admin_sdk, name):
    """Makes flavors; they are gone after the test."""
    made = []

    def make(suffix, **given):
        made.append(admin_sdk.compute.create_flavor(name=f"{name}{suffix}", **given))
        return made[-1].name

    yield make
    for flavor in made:
        admin_sdk.compute.delete_flavor(flavor)


@pytest.fixture
def kept_when_deleted(cloud):
    """From when it is called servers that are deleted wait for an hour."""
    file = cloud.home / "kilonova.conf"
    before = file.read_text()

    def configured(text):
        cloud.stop()
        file.write_text(text)
        cloud.start()

    yield lambda: configured(f"{before}[DEFAULT]\nreclaim_instance_interval = 3600\n")
    configured(before)


class Pings:
    """Five echo requests a second to an address, as one connection to a packet filter, until the end of the block."""

    def __init__(self, address):
        self.said = tempfile.NamedTemporaryFile(mode="r", prefix="kilonova-pings-", suffix=".txt")
        self.process = subprocess.Popen(
            ["ping", "-n", "-O", "-i", "0.2", address], stdout=open(self.said.name, "w"), stderr=subprocess.DEVNULL
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def last(self):
        """The numbers of the last answer, and of the last request that has had none so far."""
        text = open(self.said.name).read()
        answers = re.findall(r"bytes from .*icmp_seq=(\d+)", text)
        silent = re.findall(r"no answer yet for icmp_seq=(\d+)", text)
        return int((answers or [0])[-1]), int((silent or [0])[-1])

    def answered(self):
        before = self.last()[1]
        wait_until(lambda: self.last()[0] > before, 120, lambda: f"answers come: {self.last()}")

    def silent(self):
        def since():
            answer, request = self.last()
            return request - answer

        wait_until(lambda: since() >= SILENCE, 120, lambda: f"no answers come: {self.last()}")


class Here(Guest):
    """What is around it is made in this process: the command takes a second each time."""

    def network(self):
        api = self.sdk.network
        self.its_network = api.create_network(name=self.name)
        subnet = api.create_subnet(network_id=self.its_network.id, ip_version=4, cidr=self.subnet)
        self.public = api.find_network("public").id
        self.router = api.create_router(name=self.name, external_gateway_info={"network_id": self.public})
        api.add_interface_to_router(self.router, subnet_id=subnet.id)
        self.group = api.create_security_group(name=self.name)
        self.sdk.compute.create_keypair(name=self.name, public_key=self.key.with_suffix(".pub").read_text())

    def allow_ssh(self):
        self.sdk.network.create_security_group_rule(
            security_group_id=self.group.id, direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22
        )

    def floating_ip(self):
        api = self.sdk.network
        port = next(api.ports(device_id=self.id, network_id=self.its_network.id))
        made = api.create_ip(floating_network_id=self.public, port_id=port.id)
        self.address, self.floating = made.floating_ip_address, made

    def drop_network(self):
        api = self.sdk.network
        api.delete_ip(self.floating)
        api.remove_interface_from_router(self.router, subnet_id=api.get_network(self.its_network.id).subnet_ids[0])
        api.delete_router(self.router)
        api.delete_network(self.its_network)
        api.delete_security_group(self.group)
        self.sdk.compute.delete_keypair(self.name)


class Inside:
    """What a guest has."""

    def __init__(self, guest):
        self.guest = guest

    def sizes(self):
        """MiB of its disks, by name."""
        lines = self.guest.run("cd /sys/block; for d in vd*; do echo $d $(cat $d/size); done").splitlines()
        return {name: int(sectors) // 2048 for name, sectors in (line.split() for line in lines)}

    def labelled(self, label):
        return self.guest.run(f"sudo findfs LABEL={label}")

    def swap(self):
        """MiB of the one disk that it can swap to."""
        use = "s=$(sudo blkid -t TYPE=swap -o device) && sudo swapon $s && cat /proc/swaps && sudo swapoff $s"
        _, line = self.guest.run(use).splitlines()
        kib = int(line.split()[2])
        # The first page is the header.
        return (kib + 4) / 1024

    def cards(self):
        """The MAC address and the IPv4 addresses of each."""
        one = "echo $c $(cat $c/address) $(ip -o -4 addr show $c | awk '{ print $4 }' | cut -d/ -f1)"
        lines = self.guest.run(f"cd /sys/class/net; for c in eth*; do {one}; done").splitlines()
        return {card: (mac, addresses) for card, mac, *addresses in (line.split() for line in lines)}

    def reaches(self, address, source):
        """Whether a ping from this address or card is answered."""
        return ssh(self.guest.key, self.guest.address, f"ping -c 1 -W 2 -I {source} {address}").returncode == 0

    def boot(self):
        return self.guest.run("cat /proc/sys/kernel/random/boot_id")


def settled(sdk, guest, status, tail):
    def there():
        found = sdk.compute.get_server(guest.id)
        assert found.status != "ERROR", found.fault
        return found.status == status and found.task_state is None

    wait_until(there, 180, lambda: f"{status}: {sdk.compute.get_server(guest.id)}\n{tail()}")


def message_of(sdk, guest, action):
    """Why the last of these actions failed, when it has ended."""
    listed = sdk.compute.get(f"/servers/{guest.id}/os-instance-actions").json()["instanceActions"]
    return next((one["message"] for one in listed if one["action"] == action), None)


def test_disks_cards_and_what_comes_to_them(
    cloud, admin_sdk, demo, demo_sdk, image, key, name, flavors, kept_when_deleted
):
    made = Here(demo, demo_sdk, key, name, subnet="10.52.0.0/24")
    made.network()
    made.allow_ssh()
    other = demo_sdk.network.create_network(name=f"{name}-other")
    demo_sdk.network.create_subnet(network_id=other.id, ip_version=4, cidr="10.53.0.0/24", gateway_ip=None)
    network = made.its_network
    port = demo_sdk.network.create_port(
        name=name, network_id=network.id, fixed_ips=[{"ip_address": "10.52.0.77"}], security_groups=[made.group.id]
    )
    flavor = flavors("", ram=160, vcpus=1, disk=1, ephemeral=2, swap=64)
    answer = demo.get(
        "server", "create", "--image", image["name"], "--boot-from-volume", 1, "--flavor", flavor,
        "--port", port.id, "--network", other.id, "--key-name", name, "--security-group", name,
        "--swap", 48, "--ephemeral", "size=1,format=vfat",
        "--block-device", "source_type=blank,destination_type=local,volume_size=1", "--wait", name,
    )  # fmt: skip
    made.id = answer["id"]
    (volume,) = (one["id"] for one in demo_sdk.compute.get_server(made.id).attached_volumes)
    inside = Inside(made)
    made.floating_ip()
    made.wait_ssh()

    # Disks: each is there once, in the guest and in its folder, and can be used for what it is.
    assert sorted(inside.sizes().values()) == [48, 1024, 1024, 1024]
    files = cloud.home / "instances" / made.id
    assert sorted(one.name for one in files.glob("disk*")) == ["disk.eph0", "disk.eph1", "disk.swap"]
    assert inside.swap() == 48
    places = {"ephemeral0": "vfat", "ephemeral1": "ext4"}
    for label, kind in places.items():
        made.run(f"sudo mkdir -p /mnt/{label} && sudo mount -t {kind} {inside.labelled(label)} /mnt/{label}")
        made.run(f"echo on {label} | sudo tee /mnt/{label}/marker && sync")

    # Cards: in the order that was asked for, each with the address of its port, and each leads to its network.
    ports = {one.network_id: one for one in demo_sdk.network.ports(device_id=made.id)}
    assert ports[network.id].id == port.id and set(ports) == {network.id, other.id}
    of_port = {one: (ports[one].mac_address, [ports[one].fixed_ips[0]["ip_address"]]) for one in ports}
    assert inside.cards() == {"eth0": of_port[network.id], "eth1": of_port[other.id]}
    (dhcp,) = demo_sdk.network.ports(network_id=other.id, device_owner="network:dhcp")
    server_there = dhcp.fixed_ips[0]["ip_address"]
    wait_until(lambda: inside.reaches(server_there, "eth1"), 60, "the other network")
    assert not inside.reaches(server_there, "eth0"), "the first card leads to the first network only"

    # What is told of it: counters that are its own.
    def diagnostics(version):
        return admin_sdk.compute.get(f"/servers/{made.id}/diagnostics", microversion=version)

    def told():
        shown = diagnostics("2.48").json()
        written = sum(disk["write_bytes"] for disk in shown["disk_details"])
        return shown, written, {nic["mac_address"]: nic for nic in shown["nic_details"]}

    _, written, nics = told()
    mac = ports[network.id].mac_address
    made.run(f"head -c {PUSHED} /dev/zero")
    made.run(f"head -c {4 * MIB} /dev/urandom | sudo tee /mnt/ephemeral1/noise > /dev/null && sync")
    shown, written_then, nics_then = told()
    assert (shown["state"], shown["driver"], shown["config_drive"]) == ("running", "libvirt", False)
    assert shown["hypervisor"] in ("kvm", "qemu") and shown["hypervisor_os"] == "linux"
    assert (shown["num_cpus"], shown["num_disks"], shown["num_nics"]) == (1, 4, 2)
    assert shown["memory_details"]["maximum"] == 160
    assert set(nics_then) == {mac, ports[other.id].mac_address}
    grown = {key: nics_then[mac][key] - nics[mac][key] for key in ("tx_octets", "rx_octets")}
    assert grown["tx_octets"] > PUSHED > grown["rx_octets"] > 0, "what the guest sends is what it has transmitted"
    assert written_then - written >= 4 * MIB
    assert shown["cpu_details"][0]["time"] > 0 and shown["uptime"] > 0
    older = diagnostics("2.47").json()
    assert older["memory"] == 160 * 1024 and {"vda_read", "cpu0_time", f"tap{port.id[:11]}_rx"} <= set(older)

    # One more address of its port: it may be spoken from as long as the port has it.
    def act(body):
        done = demo_sdk.compute.post(f"/servers/{made.id}/action", json=body, microversion="2.43")
        assert done.status_code == 202, done.text

    def addresses():
        return {fixed["ip_address"] for fixed in demo_sdk.network.get_port(port.id).fixed_ips}

    first = addresses()
    act({"addFixedIp": {"networkId": network.id}})
    (second,) = wait_until(lambda: addresses() - first, 60, "one more address")
    for address in (second, NOBODYS):
        made.run(f"sudo ip addr add {address}/24 dev eth0")
    wait_until(lambda: inside.reaches("10.52.0.1", second), 60, "the second address")
    assert not inside.reaches("10.52.0.1", NOBODYS), "an address of no port is nobody's to speak from"
    settled(demo_sdk, made, "ACTIVE", cloud.tail)
    act({"removeFixedIp": {"address": second}})
    wait_until(lambda: addresses() == first, 60, "the first address alone")
    wait_until(lambda: not inside.reaches("10.52.0.1", second), 60, "the second address is taken from the guest")
    wait_until(lambda: inside.reaches("10.52.0.1", "10.52.0.77"), 60, "the first address")
    settled(demo_sdk, made, "ACTIVE", cloud.tail)

    # A security group that comes and goes: so does what it lets through, also what is under way.
    echo = demo_sdk.network.create_security_group(name=f"{name}-echo")
    demo_sdk.network.create_security_group_rule(security_group_id=echo.id, direction="ingress", protocol="icmp")
    with Pings(made.address) as pings:
        pings.silent()
        demo.run("server", "add", "security", "group", made.id, echo.id)
        pings.answered()
        demo.run("server", "remove", "security", "group", made.id, echo.id)
        pings.silent()
    assert made.run("hostname") == name, "the other group is as it was"

    # Its volume grows under it, which nobody can tell the guest.
    answer = demo_sdk.block_storage.post(
        f"/volumes/{volume}/action", json={"os-extend": {"new_size": 2}}, microversion="3.42"
    )
    assert answer.status_code == 202, answer.text
    wait_until(lambda: demo_sdk.block_storage.get_volume(volume).size == 2, 60, "the volume has 2 GiB")
    wait_volume(demo_sdk, volume, "in-use")
    why = wait_until(lambda: message_of(demo_sdk, made, "extend_volume"), 60, "the action tells")
    assert "after its next start" in why, why
    settled(demo_sdk, made, "ACTIVE", cloud.tail)
    assert sorted(inside.sizes().values()) == [48, 1024, 1024, 1024]
    for label in places:
        made.run(f"sudo umount /mnt/{label}")

    # Deleted, and kept: its guest is off, all of it is there.
    domain = domain_of(admin_sdk, made.id)
    kept_when_deleted()
    sdk = demo.sdk()

    def state():
        line = ("virsh", "-c", "qemu:///system", "domstate", domain)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    def served():
        """The size of the volume for whoever connects."""
        line = ("qemu-nbd", "--list", "--bind", "127.0.0.1", "--port", str(cloud.ports["nbd"]))
        said = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        return [int(size) for size in re.findall(r"^ +size: +(\d+)", said, re.MULTILINE)]

    assert state() == "running"
    boot = inside.boot()
    demo.run("server", "delete", made.id)
    settled(sdk, made, "SOFT_DELETED", cloud.tail)
    assert made.id not in [one.id for one in sdk.compute.servers()]
    assert state() == "shut off"
    assert sorted(one.name for one in files.glob("disk*")) == ["disk.eph0", "disk.eph1", "disk.swap"]
    assert {one.id for one in sdk.network.ports(device_id=made.id)} == {one.id for one in ports.values()}
    assert diagnostics("2.48").status_code == 409, "there is nothing to count"
    wait_until(lambda: served() == [2048 * MIB], 60, lambda: f"the new size is served: {served()}")
    demo.run("server", "restore", made.id)
    settled(sdk, made, "ACTIVE", cloud.tail)
    made.wait_ssh()
    assert inside.boot() != boot and state() == "running"
    assert sorted(inside.sizes().values()) == [48, 1024, 1024, 2048], "the volume as it has grown"
    for label in places:
        made.run(f"sudo mkdir -p /mnt/{label} && sudo mount {inside.labelled(label)} /mnt/{label}")
        assert made.run(f"cat /mnt/{label}/marker") == f"on {label}"
    assert inside.swap() == 48
    cards = inside.cards()
    assert cards == {"eth0": of_port[network.id], "eth1": of_port[other.id]}

    # For good.
    demo.run("server", "delete", "--force", made.id)
    wait_until(lambda: sdk.compute.find_server(made.id) is None, 60, "it is gone")
    assert not files.exists() and domain not in machine_state()["domains"]
    wait_volume(sdk, volume, "available")
    sdk.block_storage.delete_volume(volume)
    assert sdk.network.get_port(port.id).device_id == "", "the port that was given stays"
    sdk.network.delete_port(port.id)
    made.drop_network()
    sdk.network.delete_network(other.id)
    sdk.network.delete_security_group(echo.id)


def test_a_smaller_flavor_another_key_and_other_user_data(cloud, demo, demo_sdk, image, key, name, flavors, tmp_path):
    small = {"ram": 128, "vcpus": 1, "swap": 32, "ephemeral": 1}
    large = flavors("", ram=256, vcpus=2, disk=2, swap=64, ephemeral=1)
    less, shrunk = flavors("-less", disk=2, **small), flavors("-shrunk", disk=1, **small)
    scripts = {word: tmp_path / word for word in ("first", "second")}
    for word, script in scripts.items():
        script.write_text(f"#!/bin/sh\necho {word} > /root/said\n")
    made = Here(demo, demo_sdk, key, name, subnet="10.54.0.0/24", flavor=large)
    made.network()
    made.allow_ssh()
    made.create(image, "--user-data", scripts["first"])
    inside = Inside(made)
    made.floating_ip()
    made.wait_ssh()

    def memory():
        return int(made.run("awk '/MemTotal/ { print $2 }' /proc/meminfo")) // 1024

    def mounted():
        made.run(f"sudo mkdir -p /mnt/more && sudo mount {inside.labelled('ephemeral0')} /mnt/more")

    def is_large(boot):
        assert inside.boot() == boot, "nobody has touched it"
        assert 192 < memory() < 256 and made.run("nproc") == "2"

    assert sorted(inside.sizes().values()) == [64, 1024, 2048] and inside.swap() == 64
    mounted()
    made.run("echo kept | sudo tee /root/marker /mnt/more/marker && sync")
    boot = inside.boot()
    is_large(boot)

    # Disks do not shrink.
    demo.run("server", "resize", "--flavor", shrunk, made.id)
    why = wait_until(lambda: message_of(demo_sdk, made, "resize"), 60, "the action tells")
    assert "Resize error: " in why, why
    settled(demo_sdk, made, "ACTIVE", cloud.tail)
    assert demo_sdk.compute.get_server(made.id).flavor.name == large
    is_large(boot)

    # Memory, processors and swap do.
    made.run("sudo umount /mnt/more && sync")
    demo.run("server", "resize", "--flavor", less, made.id)
    settled(demo_sdk, made, "VERIFY_RESIZE", cloud.tail)
    made.wait_ssh()
    assert memory() < 128 and made.run("nproc") == "1"
    assert sorted(inside.sizes().values()) == [32, 1024, 2048] and inside.swap() == 32
    mounted()
    assert made.run("sudo cat /root/marker /mnt/more/marker").split() == ["kept", "kept"]
    demo.run("server", "resize", "confirm", made.id)
    settled(demo_sdk, made, "ACTIVE", cloud.tail)
    folders = lambda: sorted(path.name for path in (cloud.home / "instances").glob(f"{made.id}*"))  # noqa: E731
    wait_until(lambda: folders() == [made.id], 60, lambda: f"nothing is aside: {folders()}")
    assert demo_sdk.compute.get_server(made.id).flavor.name == less

    # A new guest under the old name: its owner has another key now, and says something else.
    new_key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(new_key)], check=True)
    demo_sdk.compute.create_keypair(name=f"{name}-new", public_key=new_key.with_suffix(".pub").read_text())
    demo.run(
        "--os-compute-api-version", "2.90", "server", "rebuild", "--key-name", f"{name}-new",
        "--user-data", scripts["second"], "--wait", made.id,
    )  # fmt: skip
    made.key = new_key
    made.wait_ssh()
    # User data come after SSH; the marker on the old disk would be there before.
    wait_until(lambda: made.run("sudo ls /root") == "said", 60, lambda: f"a new disk: {made.run('sudo ls /root')}")
    assert made.run("sudo cat /root/said") == "second"
    denied = ssh(key, made.address, "true")
    assert denied.returncode == 255 and "Permission denied" in denied.stderr, denied
    assert made.metadata("latest/meta-data/public-keys/") == f"0={name}-new"
    assert demo_sdk.compute.get_server(made.id).key_name == f"{name}-new"
    mounted()
    assert made.run("ls /mnt/more") == "lost+found", "what is beside the root disk is new as well"
    assert inside.swap() == 32 and made.run("nproc") == "1"

    demo.run("server", "delete", "--wait", made.id)
    assert folders() == []
    demo_sdk.compute.delete_keypair(f"{name}-new")
    made.drop_network()
