"""A cloud of many processes: each service is one of its own, and they share kilonova.conf and the databases."""

import contextlib
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

from cloud import BINARY, ROOT, SERVICES, Client, Failure, free_ports, wait_until

# The section of kilonova.conf and the name of each service's port.
PORTS = {
    "identity": ("identity", "port"),
    "compute": ("DEFAULT", "osapi_compute_listen_port"),
    "metadata": ("DEFAULT", "metadata_listen_port"),
    "placement": ("placement", "port"),
    "image": ("image", "port"),
    "network": ("network", "port"),
    "volume": ("volume", "port"),
    "key-manager": ("key_manager", "port"),
    "nbd": ("volume", "nbd_port"),
}
READY_SECONDS = 60


def free_port():
    return free_ports(1)[0]


class Broker:
    """A private RabbitMQ; `found` is false where there is none on the machine."""

    def __init__(self, folder):
        self.folder, self.port = pathlib.Path(folder), free_port()
        self.url = f"rabbit://guest:guest@127.0.0.1:{self.port}/"
        self.process = None
        self.found = bool(list(pathlib.Path("/usr/lib/rabbitmq").glob("lib/*/sbin/rabbitmq-server")))

    def start(self):
        """Starts it, without waiting."""
        script = ROOT / "scripts" / "test-broker.sh"
        self.process = subprocess.Popen([script, self.folder, str(self.port)], stdin=subprocess.PIPE)

    def wait(self):
        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(listens, 120, "the broker listens")

    def kill(self):
        """The script kills it when its input ends."""
        self.process.stdin.close()
        self.process.wait(timeout=120)
        self.process = None


class Balancer:
    """Stands before the processes of a service, as an operator's load balancer does: a connection goes to the next one that
    is there, and TLS through it."""

    def __init__(self, port, backends):
        self.backends = list(backends)
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.backends = [*self.backends[1:], self.backends[0]]
                threading.Thread(target=self._carry, args=(client, self.backends), daemon=True).start()

    @classmethod
    def _carry(cls, client, backends):
        with client:
            for port in backends:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
                    threading.Thread(target=cls._pump, args=(server, client), daemon=True).start()
                    return cls._pump(client, server)

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        # Both ways: whoever is left must hear of it, also when the other was killed.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Process:
    """One `kilonova ROLE`."""

    def __init__(self, cloud, role, *settings, home=None, binary=BINARY, inside=lambda *command: list(command)):
        self.cloud, self.role = cloud, role
        command = [binary, role, "--home", str(home or cloud.home), "--config-file", str(cloud.home / "kilonova.conf")]
        for setting in settings:
            command += ["--set", setting]
        self.command = inside(*command)
        self.process = None

    def spawn(self):
        """Starts it without waiting."""
        with open(self.cloud.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True
            )
        return self

    def start(self):
        """Starts it and waits until it says that it is ready."""
        self.spawn()
        heard, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        line = self.process.stdout.readline() if heard else ""
        if line != "ready\n":
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.role} is not ready:\n{self.cloud.tail()}")
        return self

    def kill(self):
        """SIGKILL: it has no time to do anything."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """SIGTERM: it ends in order."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=120)
        self.process.stdout.close()
        assert code == 0, f"{self.role}: {code}\n{self.cloud.tail()}"


class Roles:
    """A home with kilonova.conf, and the processes that were started in it."""

    def __init__(self, home, settings):
        self.home = pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        sections = {section: dict(names) for section, names in settings.items()}
        for service, (section, name) in PORTS.items():
            sections.setdefault(section, {})[name] = self.ports[service]
        text = ""
        for section, names in sections.items():
            text += f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
        (self.home / "kilonova.conf").write_text(text)
        self.log = self.home / "log"
        self.processes = []

    def command(self, *arguments, binary=BINARY):
        """Runs a command that ends, with this home."""
        return subprocess.run(
            [binary, *arguments, "--home", str(self.home)], capture_output=True, text=True, timeout=120
        )  # fmt: skip

    def spawn_command(self, *arguments, binary=BINARY):
        """Starts a command that ends, with this home, without waiting for it."""
        return subprocess.Popen(
            [binary, *arguments, "--home", str(self.home)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def sync(self, binary=BINARY):
        done = self.command("db", "sync", binary=binary)
        assert done.returncode == 0, done.stderr

    def start(self, role, *settings, **where):
        process = Process(self, role, *settings, **where).start()
        self.processes.append(process)
        return process

    def tail(self, lines=60):
        text = self.log.read_text(errors="replace") if self.log.exists() else "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def errors(self):
        """What any process said at level ERROR, and panics."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if re.search(r"\bERROR\b|panicked at", line)]

    def client(self, name="kilonova"):
        return Client(self, name)

    def discard(self):
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
                process.process.wait()
        time.sleep(0.1)
        shutil.rmtree(self.home, ignore_errors=True)
