"""Three real hosts and control processes on PostgreSQL and RabbitMQ. Each of these in turn is killed and started again
while a guest moves and a server is made, and so are the agents of the hosts, at each step: nobody loses a server, and the
guest does not notice."""

import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from cloud import wait_until
from hosts import Wire
from hosts_cloud import CONTROL, HostsCloud, Watch, address_of
from roles import Broker
from test_databases import SERVICES
from test_databases import postgres as on_postgres
from test_roles import databases

pytestmark = [pytest.mark.real, pytest.mark.long]


class Postgres:
    """The private server of scripts/test-databases.sh."""

    def __init__(self, url):
        self.url = url
        self.data = pathlib.Path(self.says("SHOW data_directory"))
        self.folder = self.data.parents[1]
        assert "kilonova-test-databases" in self.folder.name, f"{self.data} may be of use to somebody"
        self.process = None

    def says(self, statement):
        line = ("psql", "-A", "-t", "-q", "-d", self.url, "-c", statement)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    def writes(self, databases):
        """What is committed there is in its files, as on a server that is no test's: this one may hold it back."""
        for sections in databases.values():
            database = sections["connection"].rpartition("/")[2]
            self.says(f"ALTER DATABASE {database} SET synchronous_commit = on")

    def kill(self):
        """No client hears a word."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        # Its children would end by themselves only after a while, and until then there can be no other.
        os.kill(pid, signal.SIGSTOP)
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, signal.SIGKILL)
        if self.process:
            self.process.wait()
        wait_until(lambda: not any(alive(each) for each in (pid, *children)), 60, "PostgreSQL is gone")
        # Whose child it was may not have taken note of its end, and the next one would think that it lives.
        for lock in (self.data / "postmaster.pid", *self.data.parent.glob(".s.PGSQL.*")):
            lock.unlink()
        self.command = command

    def start(self):
        with open(self.folder / "postgres.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command, user="postgres", group="postgres", extra_groups=[], cwd=self.data,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        # By this the script finds it when it ends.
        (self.folder / "postgres.pid").write_text(f"{self.process.pid}\n")

    def wait(self):
        def answers():
            try:
                return self.says("SELECT 1") == "1"
            except subprocess.CalledProcessError:
                return False

        wait_until(answers, 60, lambda: f"PostgreSQL answers\n{(self.folder / 'postgres.log').read_text()[-3000:]}")


class Gate:
    """A flow stands still where it is to begin a step, or to end: PostgreSQL holds that transaction back."""

    KEY = 70771
    END = "the end"

    def __init__(self, url, flow, step):
        self.url, self.flow, self.step = url, flow, step

    def says(self, statement):
        line = ("psql", "-A", "-t", "-q", "-d", self.url, "-c", statement)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    def held(self, how):
        return int(self.says(f"SELECT count(*) FROM pg_locks WHERE objid = {self.KEY} AND {how}"))

    def __enter__(self):
        wait = f"BEGIN PERFORM pg_advisory_xact_lock_shared({self.KEY}); IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END"
        self.says(f"CREATE OR REPLACE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ {wait} $$")
        when = (
            f"BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.step = '{self.step}' AND OLD.step IS DISTINCT FROM NEW.step"
        )
        if self.step == self.END:
            when = "BEFORE DELETE ON tasks FOR EACH ROW WHEN (true"
        self.says(f"CREATE TRIGGER gate {when} AND OLD.flow = '{self.flow}') EXECUTE FUNCTION gate()")
        self.holder = subprocess.Popen(
            ("psql", "-q", "-d", self.url), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.holder.stdin.write(f"SELECT pg_advisory_lock({self.KEY});\n")
        self.holder.stdin.flush()
        wait_until(lambda: self.held("granted"), 60, "the gate is shut")
        return self

    def wait(self, tail):
        wait_until(
            lambda: self.held("NOT granted"), 120, lambda: f"{self.flow} is at {self.step}\n{tail()}", pause=0.02
        )

    def open(self):
        self.holder.stdin.close()
        self.holder.wait()

    def __exit__(self, *_):
        if not self.holder.stdin.closed:
            self.open()
        self.says("DROP TRIGGER gate ON tasks")


def alive(pid):
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def postgres():
    server = os.environ.get("KILONOVA_TEST_POSTGRES")
    if not server:
        pytest.skip("KILONOVA_TEST_POSTGRES is not set; scripts/test-databases.sh sets it")
    return Postgres(server)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    made = Broker(tmp_path_factory.mktemp("broker"))
    if not made.found:
        pytest.skip("no RabbitMQ (package rabbitmq-server)")
    made.start()
    yield made
    if made.process:
        made.kill()


@pytest.fixture(scope="module")
def here(key, guest_image, postgres, broker):
    more = databases("KILONOVA_TEST_POSTGRES", on_postgres, SERVICES)
    postgres.writes(more)
    more["DEFAULT"] = {"transport_url": broker.url}
    wire = Wire(f"kr{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    home = tempfile.mkdtemp(prefix="kilonova-e2e-restarts-")
    made = HostsCloud(wire, home, key, more=more)
    made.database = more["database"]["connection"]
    try:
        broker.wait()
        made.start(guest_image)
        yield made
    finally:
        made.discard()
        wire.discard()


def test_whatever_is_started_again_costs_nobody_a_server(here, postgres, broker, name):
    api = here.sdk.compute
    assert not list((here.roles.home / "control" / "db").glob("*")), "nothing is kept in SQLite"
    gateway, _ = here.gateway()
    places = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, places[0]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    watch = Watch(here, address)

    def moves():
        """The state of the move that is under way."""
        return next((one.status for one in api.server_migrations(server.id)), None)

    def move_and_create(number):
        """Both have been taken in, and neither is done."""
        source = api.get_server(server.id).compute_host
        to = next(host for host in places if host != source)
        made = here.create(f"{name}-{number}", gateway.name)
        api.live_migrate_server(server.id, host=to, block_migration="auto")
        # Every second time the guest is on its way already.
        if number % 2:
            wait_until(lambda: moves() in ("running", None), 120, lambda: f"it moves: {moves()}", pause=0.05)
        return to, made

    class Control:
        def __init__(self, role):
            self.process = here.control[role]

        def kill(self):
            self.process.kill()

        def start(self):
            self.process.start()

        def wait(self):
            """It said that it is ready."""

    # The conductor, which does the work, at either moment.
    victims = [(role, Control(role)) for role in ("conductor", *CONTROL)]
    victims = [("RabbitMQ", broker), ("PostgreSQL", postgres), *victims]
    for number, (what, victim) in enumerate(victims):
        to, made = move_and_create(number)
        victim.kill()
        victim.start()
        victim.wait()
        found = here.wait(server)
        assert (found.compute_host, found.power_state) == (to, 1), f"{what}\n{here.roles.tail(200)}"
        assert here.wait(made).compute_host == gateway.name
        watch.wait_alive()
        for host in set(here.hosts) - {to, gateway.name}:
            assert here.domains(here.hosts[host]) == ([], []), f"{what}: nothing is left where it was"
        print(f"\n{what}: the guest is on {to}, {made.name} is made")
        api.delete_server(made.id)
        wait_until(lambda: [s.id for s in api.servers()] == [server.id], 60, lambda: f"deleted\n{here.roles.tail()}")
    lost, silence = watch.end()
    print(f"\n{len(victims)} moves and kills: {lost} pings lost, longest silence {silence:.2f} s")
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot

    api.delete_server(server.id)
    nothing_left(here)


def nothing_left(here):
    """Nothing is owed to anybody."""
    api = here.sdk.compute
    wait_until(lambda: not list(api.servers()), 60, lambda: f"all deleted\n{here.roles.tail()}")
    assert not [port for port in here.sdk.network.ports() if port.device_owner.startswith("compute:")]
    for host in here.hosts.values():
        assert here.domains(host) == ([], [])
        folder = host.folder / "home" / "instances"
        left = lambda folder=folder: [one.name for one in folder.iterdir() if one.name not in ("_base", ".storage-id")]  # noqa: E731
        wait_until(lambda left=left: not left(), 60, lambda left=left: f"folders: {left()}")


AGENTS = pytest.mark.parametrize("role", ["compute", "network-agent"])


def dies(here, role, *names):
    """These agents of these hosts; gives what starts them again."""
    for name in names:
        here.kill_agent(here.hosts[name], role)

    def start():
        for name in names:
            here.start_agent(here.hosts[name], role)

    return start


@AGENTS
def test_agents_that_die_while_a_server_is_made(here, name, role):
    """Before the host is asked, in the middle of what it does, and when it has done it and nobody knows."""
    api = here.sdk.compute
    gateway, _ = here.gateway()
    host = next(host for host in here.hosts.values() if host is not gateway)
    instances = pathlib.Path(f"/proc/{host.pid}/root{host.folder}/home/instances")

    def taps():
        links = pathlib.Path(f"/proc/{host.pid}/net/dev").read_text().split()
        return {link for link in links if link.startswith("tap")}

    def before(step, what):
        with Gate(here.database, "build", step) as gate:
            server = here.create(f"{name}-{what}", host.name)
            gate.wait(here.roles.tail)
            start = dies(here, role, host.name)
            gate.open()
            start()
            return server

    def amid():
        there = taps()
        server = here.create(f"{name}-amid", host.name)
        # The first that the agent makes of it.
        begun = {"compute": lambda: (instances / server.id).exists(), "network-agent": lambda: taps() - there}[role]
        wait_until(begun, 120, lambda: f"it is being made\n{here.roles.tail()}", pause=0.001)
        dies(here, role, host.name)()
        return server

    asks = {"compute": "spawn", "network-agent": "plug"}[role]
    servers = {"before": before(asks, "before"), "amid": amid(), "after": before(Gate.END, "after")}
    for what, server in servers.items():
        found = here.wait(server)
        assert (found.compute_host, found.power_state) == (host.name, 1), what
        assert here.wait_ssh(address_of(found)) == f"{name}-{what}"
    assert len(here.domains(host)[0]) == len(servers), "each is there once"
    for server in servers.values():
        api.delete_server(server.id)
    nothing_left(here)


# Steps in which one host's agent calls that of the other, which is not there: the guest may stay where it is.
CALLED = {("prepare", "source"), ("prepare", "both"), ("move", "dest"), ("move", "both")}


# Where an agent may die: that of networks has no part in what the other one does.
STEPS = {
    "compute": ("prepare", "move", "arrive", "bind", "leave", Gate.END),
    "network-agent": ("ready", "prepare", "arrive", "bind", Gate.END),
}


@AGENTS
def test_agents_that_die_while_a_guest_moves(here, name, role):
    """That of either host, and both, where each step of the move begins or ends; and amid the memory."""
    api = here.sdk.compute
    gateway, _ = here.gateway()
    places = [host for host in here.hosts if host != gateway.name]
    server = here.wait(here.create(name, places[0]))
    address = address_of(server)
    assert here.wait_ssh(address) == name
    boot = here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id")
    (domain,) = here.domains(here.hosts[places[0]])[0]
    watch = Watch(here, address)
    seen = []

    def begin():
        """It is answered when both hosts were looked at, so not before a gate behind that is open."""
        source = api.get_server(server.id).compute_host
        dest = next(host for host in places if host != source)
        asking = threading.Thread(
            target=api.live_migrate_server, args=(server.id,), kwargs={"host": dest, "block_migration": "auto"}
        )
        asking.start()
        return source, dest, asking

    def over(what, source, dest, began, may_stay=False):
        """It is there, or where it was; in one place only, as a guest that has noticed nothing."""
        found = here.wait(server)
        assert found.compute_host in ((source, dest) if may_stay else (dest,)), f"{what}\n{here.roles.tail(200)}"
        assert found.power_state == 1
        watch.wait_alive()
        other = source if found.compute_host == dest else dest
        empty = lambda: here.domains(here.hosts[other]) == ([], [])  # noqa: E731
        wait_until(empty, 60, lambda: f"{what}: nothing of it is left on {other}\n{here.roles.tail(200)}")
        assert len(here.domains(here.hosts[found.compute_host])[0]) == 1
        seen.append(found.compute_host)
        print(f"\n{what}: {'there' if found.compute_host == dest else 'stayed'}, {time.monotonic() - began:.1f} s")

    for step in STEPS[role]:
        for who in ("source", "dest", "both"):
            with Gate(here.database, "live_migration", step) as gate:
                source, dest, asking = begin()
                gate.wait(here.roles.tail)
                start = dies(here, role, *{"source": [source], "dest": [dest], "both": [source, dest]}[who])
                gate.open()
                start()
                asking.join()
                may_stay = role == "compute" and (step, who) in CALLED
                over(f"{who} at {step}", source, dest, time.monotonic(), may_stay)

    def flows():
        found = next(iter(api.server_migrations(server.id)), None)
        return found and found.status == "running" and found.memory_processed_bytes

    for who in ("source", "dest", "both"):
        source = api.get_server(server.id).compute_host
        here.virsh(source, "migrate-setspeed", domain, "1")
        source, dest, asking = begin()
        asking.join()
        wait_until(flows, 120, lambda: f"memory flows\n{here.roles.tail(200)}")
        start = dies(here, role, *{"source": [source], "dest": [dest], "both": [source, dest]}[who])
        start()
        here.virsh(source, "migrate-setspeed", domain, "1000")
        over(f"{who} amid the memory", source, dest, time.monotonic(), may_stay=role == "compute")

    lost, silence = watch.end()
    print(f"\n{len(seen)} moves: {lost} pings lost, longest silence {silence:.2f} s")
    assert here.ssh(address, "cat", "/proc/sys/kernel/random/boot_id") == boot
    api.delete_server(server.id)
    nothing_left(here)


def test_what_changes_while_no_network_agent_runs(here, name):
    """Guests go on by the rules that there were; those that there are hold as soon as it is back."""
    api, network = here.sdk.compute, here.sdk.network
    gateway, _ = here.gateway()
    host = next(host for host in here.hosts.values() if host is not gateway)
    server = here.wait(here.create(name, host.name))
    address = address_of(server)
    assert here.wait_ssh(address) == name

    def echoes():
        line = here.from_router("ping", "-n", "-c", "1", "-W", "2", address)
        return subprocess.run(line, check=False, capture_output=True).returncode == 0

    (group,) = (one for one in network.security_groups() if one.project_id == here.sdk.current_project_id)
    (rule,) = network.security_group_rules(security_group_id=group.id, protocol="icmp", direction="ingress")
    wait_until(echoes, 60, "echoes")
    start = dies(here, "network-agent", host.name)
    network.delete_security_group_rule(rule.id)
    assert echoes(), "nobody has told the host"
    start()
    wait_until(lambda: not echoes(), 60, lambda: f"no echoes any more\n{here.roles.tail()}")
    assert here.wait_ssh(address) == name, "the other rules hold"
    start = dies(here, "network-agent", host.name)
    network.create_security_group_rule(security_group_id=group.id, direction="ingress", protocol="icmp")
    late = here.create(f"{name}-late", host.name)
    assert not echoes(), "nobody has told the host"
    start()
    wait_until(echoes, 60, lambda: f"echoes again\n{here.roles.tail()}")
    assert here.wait_ssh(address_of(here.wait(late))) == f"{name}-late"
    for one in (server, late):
        api.delete_server(one.id)
    nothing_left(here)
