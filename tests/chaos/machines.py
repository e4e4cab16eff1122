"""What the run breaks: a cloud of many processes on a PostgreSQL and a RabbitMQ of its own."""

import http.client
import json
import os
import pathlib
import pwd
import select
import signal
import subprocess

from cloud import Failure, free_ports, wait_until
from roles import Broker, Process, Roles

DATABASES = {
    "database": "compute", "identity": "identity", "image": "image", "network": "network", "volume": "volume",
    "key_manager": "key_manager",
}  # fmt: skip
# One process simulates these hosts; guests move between those of one process.
HOSTS = {"left": ("left-1", "left-2"), "right": ("right-1", "right-2")}
DOWN_AFTER = 8
# For how long a server that was deleted by way of the second API can be restored; the first one deletes for good.
RECLAIM_AFTER = 5
# Simulated hosts take their time, so that kills find work under way.
SLOW = {
    "ensure_guest": 900, "ensure_absent": 300, "start": 300, "request_shutdown": 300, "reboot_soft": 300, "reboot_hard": 400,
    "pause": 200, "unpause": 200, "suspend": 400, "resume": 400, "rescue": 500, "unrescue": 500, "snapshot": 700,
    "put_aside": 300, "put_back": 300, "land": 600, "attach": 200, "detach": 200, "attach_disk": 200, "detach_disk": 200,
    "swap_disk": 400, "resize_disk": 200, "set_password": 200, "interrupt": 200,
}  # fmt: skip
# A live migration takes so long, in which it can be called off or forced.
LIVE = 1500
# Whoever kills the run kills what it started.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")


class Postgres:
    """A private PostgreSQL that can be taken away and given back. A crash loses no commit: only fsync is off, which
    matters to power cuts alone."""

    def __init__(self, folder):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            raise Failure("no PostgreSQL (package postgresql); scripts/install-packages.sh test installs it")
        self.bin = found[-1].parent
        self.folder, self.port = folder, free_ports(1)[0]
        self.process = None
        folder.mkdir()
        self.as_user = ["setpriv", "--pdeathsig", "QUIT"]
        # It refuses to run as root.
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self.as_user += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run(
            "initdb", "-D", folder / "data", "-U", "kilonova", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )

    def _run(self, program, *arguments):
        command = [*self.as_user, self.bin / program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def start(self):
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off",
            "full_page_writes": "off", "max_connections": "200", "shared_buffers": "32MB",
        }  # fmt: skip
        command = [*self.as_user, self.bin / "postgres", "-D", self.folder / "data", "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.folder.parent / "postgres.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)

    def wait(self):
        wait_until(lambda: self.query("SELECT 1", "postgres") == ["1"], 60, "PostgreSQL answers")

    def crash(self):
        """Its immediate shutdown: it ends as if it had been killed, and recovers from its log at the next start."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=120)

    def url(self, database):
        return f"postgresql://kilonova@127.0.0.1:{self.port}/{database}"

    def query(self, sql, database="compute"):
        """The lines of an answer; None while there is none."""
        command = ["psql", "-X", "-q", "-At", "-d", self.url(database), "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else None


class Machines:
    """All processes by name, and what was done to them."""

    def __init__(self, folder):
        self.folder = folder
        folder.chmod(0o711)
        self.postgres = Postgres(folder / "postgres")
        self.broker = Broker(folder / "broker")
        if not self.broker.found:
            raise Failure("no RabbitMQ (package rabbitmq-server); scripts/install-packages.sh test installs it")
        sockets = [f"unix:{folder}/desk-{number}" for number in (1, 2)]
        settings = {
            "DEFAULT": {
                "compute_driver": "fake.FakeDriver", "report_interval": 1, "service_down_time": DOWN_AFTER,
                "transport_url": self.broker.url, "shelved_offload_time": 2, "reclaim_instance_interval": RECLAIM_AFTER,
            },
            "agent": {"conductors": ", ".join(sockets)},
            "kilonova": {"simulated_hosts": 2},
        }  # fmt: skip
        settings |= {section: {"connection": self.postgres.url(name)} for section, name in DATABASES.items()}
        settings["database"]["max_pool_size"] = 4
        settings["network"]["private_range"] = "10.64.0.0/16"
        self.roles = Roles(folder / "home", settings)
        self.api_ports = [self.roles.ports["compute"], free_ports(1)[0]]
        self.commands = {
            "identity": ("identity",), "image": ("image",), "network": ("network",), "volume": ("volume",),
            "placement": ("placement",), "metadata": ("metadata",), "key-manager": ("key-manager",),
            # Conductors schedule as well; this one takes its share.
            "scheduler": ("scheduler", "DEFAULT.host=brain"), "api-1": ("api", "DEFAULT.reclaim_instance_interval=0"),
            "api-2": ("api", f"DEFAULT.osapi_compute_listen_port={self.api_ports[1]}"),
            # Its worker is known by the host's name.
            "conductor-1": ("conductor", f"conductor.agent_listen={sockets[0]}", "DEFAULT.host=control-1"),
            "conductor-2": ("conductor", f"conductor.agent_listen={sockets[1]}", "DEFAULT.host=control-2"),
            "compute-left": ("compute", "DEFAULT.host=left"), "compute-right": ("compute", "DEFAULT.host=right"),
            "network-agent-left": ("network-agent", "DEFAULT.host=left"),
            "network-agent-right": ("network-agent", "DEFAULT.host=right"),
        }  # fmt: skip
        self.processes = {}
        self.stopped = set()

    def start(self):
        self.broker.start()
        self.postgres.start()
        self.postgres.wait()
        for name in DATABASES.values():
            if self.postgres.query(f"CREATE DATABASE {name}", "postgres") is None:
                raise Failure(f"the database {name} cannot be made")
        self.roles.sync()
        self.broker.wait()
        for name in self.commands:
            self.spawn(name)
        for name in self.processes:
            self.wait_ready(name)
        text = json.dumps({"delay_ms": SLOW, "live_ms": LIVE})
        for hosts in HOSTS.values():
            for host in hosts:
                (self.roles.home / "sim" / host / "guests" / "faults.json").write_text(text)

    def spawn(self, name):
        role, *settings = self.commands[name]
        made = Process(self.roles, role, *settings, inside=lambda *command: [*TIED, *command])
        self.processes[name] = made.spawn()

    def wait_ready(self, name, seconds=120):
        process = self.processes[name].process
        heard, _, _ = select.select([process.stdout], [], [], seconds)
        if not heard or process.stdout.readline() != "ready\n":
            raise Failure(f"{name} is not ready:\n{self.roles.tail()}")

    def kill(self, name):
        self.processes[name].kill()
        self.stopped.discard(name)

    def pause(self, name):
        self.processes[name].process.send_signal(signal.SIGSTOP)
        self.stopped.add(name)

    def resume(self, name):
        self.processes[name].process.send_signal(signal.SIGCONT)
        self.stopped.discard(name)

    def ended(self):
        """Processes that ended by themselves; nobody's fault but their own."""
        return [name for name, one in self.processes.items() if one.process.poll() is not None]

    def readiness(self, port):
        """What an API says of itself; None when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthcheck/ready")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def discard(self):
        for one in self.processes.values():
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
        if self.postgres.process and self.postgres.process.poll() is None:
            self.postgres.crash()
        if self.broker.process:
            self.broker.kill()

    def guests(self):
        """What the simulated hosts hold: {(server, host)}, and those that wait for the end of a move."""
        here, aside = set(), set()
        for hosts in HOSTS.values():
            for host in hosts:
                for file in (self.roles.home / "sim" / host / "guests").glob("*"):
                    if file.name == "faults.json":
                        continue
                    {".json": here}.get(file.suffix, aside).add((file.stem, host))
        return here, aside
