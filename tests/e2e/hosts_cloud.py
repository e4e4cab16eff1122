"""A cloud of processes whose hosts are namespaces of this machine, and what watches a guest that moves between them."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile

from cloud import Failure, free_ports, wait_until
from hosts import Host
from roles import Roles

# Seconds of silence after which a host is down.
DOWN = 12
# The host from which guests may go in post-copy mode when they are forced.
POST_COPY = "h3"
CONTROL = ("identity", "image", "network", "volume", "key-manager", "placement", "metadata", "api", "conductor")


class HostsCloud:
    """A cloud of processes whose hosts are namespaces, with an image, a key, and a network that lets pings and SSH in."""

    def __init__(self, wire, home, key, shared=False, more=None):
        """With `shared` there is one folder for the guests of all hosts. `more` are settings by section."""
        self.wire, self.key, self.shared = wire, key, shared
        desks = [f"https://{wire.address}:{port}" for port in free_ports(2)]
        settings = {
            "DEFAULT": {"report_interval": 2, "service_down_time": DOWN},
            "kilonova": {"listen": wire.address},
            "neutron": {"metadata_proxy_shared_secret": "said between hosts and control"},
            "conductor": {"agent_listen": desks[0]},
            "network": {"agent_listen": desks[1]},
            "volume": {"nbd_listen": wire.address},
            "agent": {"conductors": desks[0], "networks": desks[1]},
        }
        for section, names in (more or {}).items():
            settings.setdefault(section, {}).update(names)
        self.roles = Roles(home, settings)
        self.hosts, self.settings, self.control = {}, {}, {}

    def start(self, guest_image):
        for arguments in (["init"], ["server", self.wire.address]):
            done = self.roles.command("manage", "certificates", *arguments)
            assert done.returncode == 0, done.stderr
        self.roles.sync()
        for role in CONTROL:
            self.control[role] = self.roles.start(role)
        for number in (1, 2, 3):
            self.raise_host(number)
        admin = self.roles.client()
        self.sdk = admin.sdk()
        self.wait_up(set(self.hosts))
        image = admin.get(
            "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare", "guest"
        )  # fmt: skip
        self.image = image["id"]
        with open(f"{self.key}.pub") as public:
            self.sdk.compute.create_keypair(name="key", public_key=public.read())
        sdk = self.sdk
        group = next(g for g in sdk.network.security_groups() if g.project_id == sdk.current_project_id)
        for protocol in ("icmp", "tcp"):
            sdk.network.create_security_group_rule(security_group_id=group.id, direction="ingress", protocol=protocol)
        self.network = sdk.network.find_network("private")
        self.flavor = sdk.compute.find_flavor("m1.nano")

    def raise_host(self, number):
        """A host with both its agents, each with the host's own home and certificate."""
        host = Host(self.wire, number, self.roles.home / "hosts")
        self.hosts[host.name] = host
        home = host.folder / "home"
        if not (home / "certificates").exists():
            into = str(home / "certificates")
            done = self.roles.command("manage", "certificates", "host", host.name, "--into", into)
            assert done.returncode == 0, done.stderr
        if self.shared:
            one = self.roles.home / "shared-instances"
            for folder in (one, home / "instances"):
                folder.mkdir(parents=True, exist_ok=True)
            host.run("mount", "--bind", one, home / "instances")
        settings = (f"DEFAULT.host={host.name}", f"DEFAULT.my_ip={host.address}", f"vxlan.local_ip={host.address}")
        if host.name == POST_COPY:
            settings += ("libvirt.live_migration_permit_post_copy=true",)
        self.settings[host.name] = settings
        for role in ("network-agent", "compute"):
            self.start_agent(host, role)
        return host

    def start_agent(self, host, role):
        home = host.folder / "home"
        self.roles.start(role, *self.settings[host.name], home=home, inside=host.inside)

    def kill_agent(self, host, role):
        """SIGKILL: it has no time to do anything."""
        # Not the shell that looks.
        name = f"[k]ilonova {role} "
        each = "tr '\\0' ' ' < $p/cmdline | grep -q \"$1\" && echo ${p#/proc/}"
        look = f"for p in /proc/[0-9]*; do {each}; done"
        found = host.run("sh", "-c", look, "look", name, check=False).stdout.split()
        assert len(found) == 1, found
        host.run("kill", "-9", *found)

    def up(self):
        return {s.host for s in self.sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"}

    def wait_up(self, names):
        wait_until(lambda: self.up() == names, 120, lambda: f"hosts up: {self.up()}\n{self.roles.tail()}")

    def create(self, name, host, **more):
        """Asks for a server on a host."""
        wanted = {
            "name": name, "image_id": self.image, "flavor_id": self.flavor.id, "key_name": "key",
            "networks": [{"uuid": self.network.id}], "availability_zone": f"nova:{host}",
        }  # fmt: skip
        return self.sdk.compute.create_server(**wanted | more)

    def wait(self, server, status="ACTIVE", seconds=240):
        """Waits until a server is in this status and nothing goes on with it."""

        def there():
            found = self.sdk.compute.get_server(server.id)
            if found.status == "ERROR":
                raise Failure(f"{found.fault}\n{self.roles.tail(200)}")
            return found if found.status == status and not found.task_state else None

        def what():
            found = self.sdk.compute.get_server(server.id)
            return f"{status}: {found.status} {found.task_state}\n{self.roles.tail(200)}"

        return wait_until(there, seconds, what, pause=0.5)

    def gateway(self):
        """The host that has the router, and the router's namespace there."""
        # A host that is dead has none, and says nothing.
        spaces = {
            name: host.run("ip", "netns", "list", check=False).stdout.split() for name, host in self.hosts.items()
        }
        with_router = [name for name in self.hosts if any(space.startswith("krouter-") for space in spaces[name])]
        with_dhcp = [name for name in self.hosts if any(space.startswith("kdhcp-") for space in spaces[name])]
        assert len(with_router) == 1 and with_router == with_dhcp, spaces
        router = next(space for space in spaces[with_router[0]] if space.startswith("krouter-"))
        return self.hosts[with_router[0]], router

    def from_router(self, *command):
        """A command line that runs where the network's router is."""
        gateway, router = self.gateway()
        return gateway.inside("ip", "netns", "exec", router, *command)

    def ssh_line(self, address, *command):
        return self.from_router(
            "ssh", "-i", self.key, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", f"cirros@{address}", *command,
        )  # fmt: skip

    def ssh(self, address, *command):
        """What a command in a guest says."""
        line = self.ssh_line(address, *command)
        return subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout

    def wait_ssh(self, address):
        def answers():
            try:
                return self.ssh(address, "hostname").strip()
            except subprocess.SubprocessError:
                return None

        return wait_until(answers, 180, lambda: f"{address} answers\n{self.roles.tail()}\n{self.seen()}", pause=1)

    def seen(self):
        """What the hosts have of guests and networks, for whoever wants to know why one is silent."""
        looks = [
            ("virsh", "-c", "qemu:///system", "list", "--all"),
            ("ip", "-br", "link"),
            ("bridge", "fdb", "show"),
            ("sh", "-c", "for space in $(ip netns list | cut -d ' ' -f 1); do echo $space; ip -n $space neigh; done"),
        ]
        lines = []
        for name, host in self.hosts.items():
            lines += [f"{name}: {' '.join(look)}\n{host.run(*look, check=False).stdout}" for look in looks]
            for console in (host.folder / "home" / "instances").glob("*/console.log"):
                lines.append(f"{console}\n{console.read_bytes()[-3000:].decode(errors='replace')}")
        return "\n".join(lines)

    def virsh(self, host, *arguments):
        return self.hosts[host].run("virsh", "-c", "qemu:///system", *arguments).stdout

    def domains(self, host):
        """The guests that run on a host, and all that it knows."""
        virsh = ("virsh", "-c", "qemu:///system", "list", "--name")
        running, known = host.run(*virsh), host.run(*virsh, "--all")
        return running.stdout.split(), known.stdout.split()

    def exports(self):
        """The names of the volumes that hosts can reach; none when nobody serves any."""
        line = ("qemu-nbd", "--list", "--bind", self.wire.address, "--port", str(self.roles.ports["nbd"]))
        done = subprocess.run(line, capture_output=True, text=True, timeout=30)
        return set(re.findall(r"^ export: '([^']+)'", done.stdout, re.MULTILINE))

    def storage_daemon(self):
        """The process that serves volumes, if there is one. It outlives the volume service, as guests do."""
        try:
            pid = int((self.roles.home / "control" / "volumes" / "nbd" / "daemon.pid").read_text())
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:
            return None
        return pid if str(self.roles.home) in command else None

    def discard(self):
        for host in self.hosts.values():
            host.discard()
        if daemon := self.storage_daemon():
            os.kill(daemon, signal.SIGTERM)
        self.roles.discard()


def address_of(server):
    return server.addresses["private"][0]["addr"]


class Watch:
    """Pings a guest twenty times a second, and holds an SSH session in which it counts."""

    def __init__(self, here, address):
        self.pings = tempfile.NamedTemporaryFile(mode="r", prefix="kilonova-pings-", suffix=".txt")
        line = here.from_router("ping", "-n", "-D", "-i", "0.05", address)
        self.ping = subprocess.Popen(line, stdout=open(self.pings.name, "w"), stderr=subprocess.DEVNULL)
        self.counts = tempfile.NamedTemporaryFile(mode="r", prefix="kilonova-counts-", suffix=".txt")
        count = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"
        self.session = subprocess.Popen(
            here.ssh_line(address, count), stdout=open(self.counts.name, "w"), stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.counted() > 3 and len(self.answers()) > 10, 60, "pings and a session")

    def counted(self):
        lines = pathlib.Path(self.counts.name).read_text().split()
        return int(lines[-1]) if lines else 0

    def answers(self):
        """The (time, number) of each answer."""
        text = pathlib.Path(self.pings.name).read_text()
        return [(float(at), int(number)) for at, number in re.findall(r"\[([0-9.]+)\] .*icmp_seq=(\d+) ", text)]

    def wait_alive(self):
        """The session counts on, and pings are answered."""
        count, answer = self.counted(), self.answers()[-1][1]
        wait_until(lambda: self.counted() > count + 3, 60, "the session counts on")
        wait_until(lambda: self.answers()[-1][1] > answer + 10, 60, "pings are answered")
        assert self.session.poll() is None

    def end(self):
        """How many pings were lost, and the longest silence in seconds."""
        for process in (self.ping, self.session):
            process.kill()
            process.wait()
        answers = self.answers()
        lost = answers[-1][1] - answers[0][1] + 1 - len({number for _, number in answers})
        silence = max(after[0] - before[0] for before, after in zip(answers, answers[1:], strict=False))
        return lost, silence
