"""A cloud under test: `kilonova up` in a temporary home on free ports, and the stock client for it."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import openstack

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("KILONOVA_BINARY", str(ROOT / "target" / "debug" / "kilonova"))
# The client of the same virtual environment as the tests.
OPENSTACK = str(pathlib.Path(sys.executable).parent / "openstack")
SERVICES = ("identity", "compute", "metadata", "placement", "image", "network", "volume", "key-manager", "nbd")
READY_SECONDS = 90
STOP_SECONDS = 60


class Failure(AssertionError):
    """A command did not do what was asked; the text holds its output."""


# Whoever is given ports binds them later.
_given = set()


def free_ports(count):
    """Distinct ports that nobody listens on now, none of those that the system gives to whoever asks for any: nobody
    takes them before they are used, or while their service is down. None is given twice."""
    probes = []
    try:
        while len(probes) < count:
            port = random.randrange(10000, 30000)
            if port in _given:
                continue
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
                continue
            probes.append(probe)
            _given.add(port)
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def wait_until(check, seconds, what, pause=0.2):
    """Calls check until it gives something true and returns that; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failure(f"after {seconds} s still not: {what() if callable(what) else what}")
        time.sleep(pause)


class Client:
    """The `openstack` command for one cloud of clouds.yaml."""

    def __init__(self, cloud, name):
        self.cloud, self.name = cloud, name
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        self.environment.update(OS_CLIENT_CONFIG_FILE=str(cloud.home / "clouds.yaml"), OS_CLOUD=name)

    def _call(self, arguments, seconds=300):
        return subprocess.run(
            [OPENSTACK, *map(str, arguments)],
            capture_output=True, text=True, timeout=seconds, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *arguments):
        """Runs a command that must succeed; gives what it printed."""
        done = self._call(arguments)
        if done.returncode != 0:
            raise Failure(f"openstack {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def get(self, *arguments):
        """Runs a command that shows something; gives it decoded."""
        return json.loads(self.run(*arguments, "-f", "json"))

    def fails(self, *arguments):
        """Runs a command that must fail; gives what it complained about."""
        done = self._call(arguments)
        if done.returncode == 0:
            raise Failure(f"openstack {' '.join(map(str, arguments))} succeeded:\n{done.stdout}")
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def names(self, *arguments):
        """The names in a list."""
        return [row.get("Name") or row.get("name") for row in self.get(*arguments)]

    def sdk(self):
        """A connection in this process, for checks that would be slow by command."""
        config = openstack.config.OpenStackConfig(config_files=[str(self.cloud.home / "clouds.yaml")])
        return openstack.connection.Connection(config=config.get_one(cloud=self.name))


class Cloud:
    """One `kilonova up`."""

    def __init__(self, home, hypervisor, hosts=3, arguments=(), environment=None):
        self.home = pathlib.Path(home)
        # Of its processes, beside that of the tests.
        self.environment = {**os.environ, **(environment or {})}
        self.hypervisor = hypervisor
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.arguments = ["--home", str(self.home), "--hypervisor", hypervisor]
        if hypervisor == "sim":
            self.arguments += ["--hosts", str(hosts)]
        for service, port in self.ports.items():
            self.arguments += [f"--{service}-port", str(port)]
        self.arguments += arguments
        self.process = None
        self.log = self.home / "log"

    def configure(self, text=""):
        """Its file of settings, with the ports that are options of `up`, so that `manage` finds the services."""
        ports = "".join(
            f"[{service}]\nport = {self.ports[service]}\n" for service in ("identity", "image", "network", "volume")
        )
        (self.home / "kilonova.conf").write_text(text + ports)

    def _manage(self, arguments):
        command = [BINARY, "manage", *map(str, arguments), "--home", str(self.home)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=self.environment)

    def manage(self, *arguments, status=0):
        """Runs `kilonova manage`, which must end so; gives what it printed, and what it complained about."""
        done = self._manage(arguments)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    def audit(self):
        """What `kilonova manage audit` has to say; nothing if all is as it should be."""
        done = self._manage(["audit"])
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def spawn(self):
        """Starts the process without waiting for anything."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("clouds.yaml", "openrc"):
            (self.home / name).unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "up", *self.arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment,
            )  # fmt: skip

    def start(self):
        """Starts it and waits until every endpoint answers; gives the seconds that took."""
        began = time.monotonic()
        self.spawn()

        def ready():
            if self.process.poll() is not None:
                raise Failure(f"kilonova up ended with {self.process.returncode}:\n{self.tail()}")
            return (self.home / "clouds.yaml").exists() and (self.home / "openrc").exists()

        wait_until(ready, READY_SECONDS, lambda: f"clouds.yaml and openrc\n{self.tail()}", pause=0.02)
        return time.monotonic() - began

    def tail(self, lines=40):
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self):
        """Asks it to end (SIGTERM); guests go on."""
        self._end(signal.SIGTERM)
        assert self.process.returncode in (0, -signal.SIGTERM), self.tail()

    def kill(self):
        """Takes it away without a word (SIGKILL); all of its processes must end."""
        self._end(signal.SIGKILL)

    def _end(self, how):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(timeout=STOP_SECONDS)
        wait_until(lambda: not self.processes(), STOP_SECONDS, lambda: f"gone: {self.processes()}")

    def processes(self):
        """Kilonova's own processes of this home: {pid: command line}."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                zombie = ") Z " in (entry / "stat").read_text()
            except OSError:
                continue
            if pathlib.Path(command[0]).name == "kilonova" and str(self.home) in " ".join(command) and not zombie:
                found[int(entry.name)] = " ".join(command)
        return found

    def down(self):
        """`kilonova down`: also guests and networks of the machine."""
        done = subprocess.run([BINARY, "down", "--home", str(self.home)], capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise Failure(f"kilonova down: {done.returncode}\n{done.stdout}{done.stderr}\n{self.tail()}")
        if self.process:
            self.process.wait(timeout=STOP_SECONDS)

    def client(self, name="kilonova"):
        return Client(self, name)

    def discard(self):
        """The end of the test: everything of it goes, also when the test failed."""
        try:
            self.down()
        finally:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if os.environ.get("KILONOVA_E2E_KEEP") != "1":
                shutil.rmtree(self.home, ignore_errors=True)
