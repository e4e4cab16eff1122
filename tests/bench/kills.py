"""A service is killed in the middle of creates and started again a little later; what is stuck, what failed.

The cloud is that of the chaos run (tests/chaos): a PostgreSQL, a RabbitMQ, two of each process that does the work,
simulated hosts of two computes that take their time.
"""

import collections
import concurrent.futures
import contextlib
import pathlib
import shutil
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "chaos"))
from chaos import hosts_up, login  # noqa: E402
from client import NoAnswer  # noqa: E402
from machines import Machines  # noqa: E402

from cloud import Failure, wait_until  # noqa: E402

CREATES, CLIENTS = 20, 4
# For how long the service is dead, and how long nothing may change before a server is stuck.
DEAD_SECONDS, PATIENCE = 5, 180
IN_DOUBT = "Idempotency-Key has no answer yet"
KILLED = {"a conductor": "conductor", "a compute": "compute-left", "an API": "api-1", "the network service": "network"}


class Kills:
    def __init__(self, machines, admin):
        self.machines, self.admin = machines, admin
        quota = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
        assert admin.ask("compute", "PUT", f"/v2.1/os-quota-sets/{admin.project}", quota)[0] == 200
        self.image = admin.ask("image", "GET", "/v2/images?name=cirros-sim-disk")[2]["images"][0]["id"]
        self.network = admin.ask("network", "GET", "/v2.0/networks?name=private")[2]["networks"][0]["id"]

    def create(self, name):
        """Asked for as by a careful client: under the same key until there is an answer. The key of a request that was killed
        is free again after a minute."""
        server = {
            "name": name, "imageRef": self.image, "flavorRef": "42", "networks": [{"uuid": self.network}],
        }  # fmt: skip
        key = uuid.uuid4().hex

        def answered():
            status, _, body = self.admin.ask("compute", "POST", "/v2.1/servers", {"server": server}, key=key)
            return None if IN_DOUBT in str(body) else status

        return wait_until(answered, PATIENCE, "the request is answered", pause=1)

    def busiest(self):
        """The conductor that has most of the work."""
        sql = "SELECT COUNT(*) FROM tasks WHERE owner LIKE 'conductor-control-{}-%'"
        had = {f"conductor-{one}": int(self.machines.postgres.query(sql.format(one))[0]) for one in (1, 2)}
        return max(had, key=had.get) if any(had.values()) else None

    def statuses(self):
        shown = self.admin.ask("compute", "GET", "/v2.1/servers/detail")[2]["servers"]
        return collections.Counter(server["status"] for server in shown)

    def kill(self, report, label, whom):
        taken = []

        def one(number):
            with contextlib.suppress(NoAnswer, Failure):
                taken.append(self.create(f"kill-{number}"))

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(one, number) for number in range(CREATES)]
            wait_until(lambda: len(taken) >= CREATES // 2, 60, "half of them are taken", pause=0.002)
            if whom == "conductor":
                whom = wait_until(self.busiest, 60, "a conductor has work", pause=0.002)
            self.machines.kill(whom)
            began = time.monotonic()
            time.sleep(DEAD_SECONDS)
            self.machines.spawn(whom)
            self.machines.wait_ready(whom)
            concurrent.futures.wait(asked)
        with contextlib.suppress(Failure):
            wait_until(lambda: not self.statuses()["BUILD"], PATIENCE, "none is in BUILD", pause=0.1)
        seconds, found = time.monotonic() - began, self.statuses()
        what = f"{label} killed amid {CREATES} creates"
        report.add(f"{what}: ACTIVE", found["ACTIVE"], "", str(CREATES))
        report.add(f"{what}: stuck in BUILD", found["BUILD"], "", "0")
        report.add(f"{what}: in ERROR", found["ERROR"], "", "0")
        report.add(f"{what}: from the kill to the last", seconds, "s")
        for server in self.admin.ask("compute", "GET", "/v2.1/servers")[2]["servers"]:
            action = {"forceDelete": None}
            self.admin.ask("compute", "POST", f"/v2.1/servers/{server['id']}/action", action)
        wait_until(lambda: not self.statuses(), 120, "all are deleted")
        wait_until(lambda: hosts_up(self.admin), 60, "all hosts are up")


def service_kills(report):
    """Kills each of them once."""
    print(f"a service is killed amid {CREATES} creates, and started again after {DEAD_SECONDS} s", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-bench-"))
    try:
        machines = Machines(folder)
    except Failure as error:
        print(f"killed services: SKIPPED, {error}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        machines.start()
        admin, _ = login(machines)
        wait_until(lambda: hosts_up(admin), 60, "all hosts are up")
        kills = Kills(machines, admin)
        for label, whom in KILLED.items():
            kills.kill(report, label, whom)
    finally:
        machines.discard()
        shutil.rmtree(folder, ignore_errors=True)
