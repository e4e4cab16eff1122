"""What must be true when all is quiet again."""

import collections
import re
import time

from machines import HOSTS
from tenants import KINDS, MOVES

from cloud import Failure, wait_until

STABLE = {
    "ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE", "SHELVED", "SHELVED_OFFLOADED", "VERIFY_RESIZE", "ERROR",
}  # fmt: skip
SETTLE_SECONDS = 240
# What is done with the request, and has no event.
AT_ONCE = {"reset", "lock", "unlock"}
DELETIONS = {"delete", "force delete"}
COLD = {move.removeprefix("admin ") for move in MOVES}
# Simulated hosts of one process only know ways to each other. A move that was drawn to another process's host must fail so.
NO_WAY = re.compile(r"this host knows no way to ([\w-]+)")
# Of actions that a run of so many draws must have done each kind of.
ENOUGH = 9000


def process_of(host):
    """The process that simulates a host."""
    return next((process for process, hosts in HOSTS.items() if host in hosts), host)


class Checks:
    """Collects what is wrong: `found` is a list of sentences."""

    def __init__(self, machines, admin, tenants, tally, draws):
        """`draws`: about how many times a tenant had a choice."""
        self.machines, self.admin, self.tenants, self.tally, self.draws = machines, admin, tenants, tally, draws
        self.found = []

    def wrong(self, text):
        self.found.append(text)

    def get(self, service, path):
        status, _, body = self.admin.ask(service, "GET", path)
        if status != 200:
            raise Failure(f"{service} {path}: {status} {body}")
        return body

    def servers(self):
        found, marker = [], ""
        while True:
            page = self.get("compute", f"/v2.1/servers/detail?all_tenants=1&limit=1000{marker}")["servers"]
            found += page
            if len(page) < 1000:
                return found
            marker = f"&marker={page[-1]['id']}"

    def settle(self):
        """Waits until nothing is under way; the seconds that took."""
        began = time.monotonic()

        def open_tasks():
            return self.machines.postgres.query(
                "SELECT t.flow, t.phase, COALESCE(t.step, '-'), t.instance_uuid, COALESCE(t.owner, '-') FROM tasks t"
            )

        def quiet():
            # A shelved server leaves its host by itself after a while, and one that was deleted softly goes for good.
            waiting = any(server["status"] == "SHELVED" for server in self.servers())
            return open_tasks() == [] and not waiting and self.soft_deleted() == []

        try:
            wait_until(quiet, SETTLE_SECONDS, "no task is open", pause=0.5)
        except Failure:
            for line in open_tasks():
                self.wrong(f"a task does not end: {line}")
            for server in self.soft_deleted():
                self.wrong(f"server {server} was deleted softly and is not reclaimed")
            for server in self.servers():
                if server["status"] == "SHELVED":
                    self.wrong(f"server {server['id']} is shelved and does not leave its host")
        seconds = time.monotonic() - began
        # What follows a task: a guest that left, a port that is unbound, a debt that is paid.
        try:
            wait_until(lambda: not self.leftovers(), 60, "nothing is left over", pause=1)
        except Failure:
            self.found += self.leftovers()
        return seconds

    def soft_deleted(self):
        sql = "SELECT uuid FROM instances WHERE deleted = 0 AND vm_state = 'soft-delete'"
        return self.machines.postgres.query(sql)

    def leftovers(self):
        """What is there of no server, or is not there."""
        servers = {server["id"]: server for server in self.servers()}
        return [
            *self.guests(servers),
            *self.ports(servers),
            *self.volumes(servers),
            *self.allocations(servers),
            *self.debts(),
        ]

    def all(self):
        self.states()
        self.requests()
        self.quotas()
        self.audit()

    def states(self):
        self.statuses = collections.Counter()
        self.faults = collections.Counter()
        servers = self.servers()
        for server in servers:
            self.statuses[server["status"]] += 1
            if server["OS-EXT-STS:task_state"] or server["status"] not in STABLE:
                self.wrong(f"server {server['id']} hangs in {server['status']}/{server['OS-EXT-STS:task_state']}")
            if server["status"] == "ERROR":
                told_so = any(server["id"] in tenant.reset_to_error for tenant in self.tenants)
                if not server.get("fault", {}).get("message") and not told_so:
                    self.wrong(f"server {server['id']} is in ERROR and does not say why")
                else:
                    self.faults[server.get("fault", {}).get("message", "reset by an administrator")] += 1
        there = {server["id"] for server in servers}
        for tenant in self.tenants:
            for server in tenant.servers:
                if server in tenant.deleted and server in there:
                    self.wrong(f"server {server} was deleted and is still there")
                if server not in tenant.deleted and server not in there and not self.in_vain(tenant, server):
                    self.wrong(f"server {server} is gone, and nobody deleted it")

    def in_vain(self, tenant, server):
        """Whether its restoration was taken and failed: it is reclaimed then."""
        if server not in tenant.restored:
            return False
        actions = self.get("compute", f"/v2.1/servers/{server}/os-instance-actions")["instanceActions"]
        return next((bool(action["message"]) for action in actions if action["action"] == "restore"), False)

    def requests(self):
        """Each request that was taken is an action with an end."""
        self.ends = collections.Counter()
        by_server = collections.defaultdict(list)
        for one in self.tally.accepted:
            by_server[one.server].append(one)
        for server, wanted in by_server.items():
            status, _, body = self.admin.ask("compute", "GET", f"/v2.1/servers/{server}/os-instance-actions")
            if status != 200:
                self.wrong(f"server {server} has no actions: {status}, for {[one.what for one in wanted]}")
                continue
            actions = {action["request_id"]: action for action in body["instanceActions"]}
            names = {action["action"] for action in actions.values()}
            asked = [(one.what, one.request) for one in wanted]
            # What the volume service asked for.
            asked += [
                ("extend volume", request) for request, action in actions.items() if action["action"] == "extend_volume"
            ]
            for what, request in asked:
                action = actions.get(request)
                if action is None and what in DELETIONS and "delete" in names:
                    # It was being deleted already.
                    continue
                if action is None and what == "lock" and "lock" in names:
                    # The owner's lock of a server that was locked already is none, as in Nova.
                    continue
                if action is None:
                    self.wrong(f"{what} of server {server} was taken ({request}) and has no action")
                    continue
                superseded = any(other["start_time"] > action["start_time"] for other in actions.values())
                self.request(server, what, request, superseded)
        for what, times in self.tally.seen.items():
            self.ends[what, "done"] += times
        # That all refuse or fail politely is not enough.
        for what in {what for what, _ in self.ends}:
            done, failed = self.ends[what, "done"], self.ends[what, "failed"]
            never = failed >= 5 and not done
            if never or failed > 10 and failed > done or what == "create" and done < 9 * failed:
                self.wrong(f"only {done} of {done + failed} times came {what} to its end")
        if self.draws >= ENOUGH:
            missed = [what for what in KINDS if not self.ends[what, "done"]]
            if missed:
                self.wrong(f"never done: {', '.join(missed)}")

    def request(self, server, what, request, superseded):
        path = f"/v2.1/servers/{server}/os-instance-actions/{request}"
        shown = self.get("compute", path)["instanceAction"]
        open_events = [event["event"] for event in shown["events"] if not event["finish_time"]]
        begun = shown["events"] or shown["message"] or what in AT_ONCE
        if open_events or not (begun or superseded):
            self.wrong(f"{what} of server {server} ({request}) has no end: open {open_events} of {shown}")
        self.ends[what, self.end(what, shown)] += 1

    def end(self, what, shown):
        """How an action ended."""
        if not shown["message"]:
            return "done"
        if what == "live" and "The live migration was cancelled." in shown["message"]:
            return "called off"
        ways = [
            (event["host"], there) for event in shown["events"] for there in NO_WAY.findall(event.get("details") or "")
        ]
        if what not in COLD or not ways:
            return "failed"
        for here, there in ways:
            if process_of(here) == process_of(there):
                self.wrong(f"host {here} knew no way to {there}, which is in its own process: {shown}")
        return "too far"

    def guests(self, servers):
        here, aside = self.machines.guests()
        placed = {
            (server["id"], server["OS-EXT-SRV-ATTR:host"])
            for server in servers.values()
            if server["OS-EXT-SRV-ATTR:host"] and server["status"] not in ("SHELVED_OFFLOADED", "ERROR")
        }
        for server, host in here:
            shown = servers.get(server)
            if shown is None:
                yield f"host {host} has a guest of server {server}, which is gone"
            elif shown["OS-EXT-SRV-ATTR:host"] != host:
                yield f"host {host} has a guest of server {server}, {shown['status']} on {shown['OS-EXT-SRV-ATTR:host']}"
        for server, host in placed - here:
            yield f"server {server}, {servers[server]['status']} on {host}, has no guest there"
        for server, host in aside:
            if server not in servers or servers[server]["status"] != "VERIFY_RESIZE":
                shown = servers.get(server, {}).get("status", "which is gone")
                yield f"host {host} keeps something of server {server}, {shown}"

    def ports(self, servers):
        found = collections.defaultdict(set)
        for port in self.get("network", "/v2.0/ports?limit=10000")["ports"]:
            if not port["device_owner"].startswith("compute:"):
                # A port that a server made for itself is deleted with it.
                if not port["device_owner"]:
                    yield f"port {port['id']} belongs to nobody"
                continue
            server = servers.get(port["device_id"])
            found[port["device_id"]].add(port["id"])
            if server is None:
                yield f"port {port['id']} is of server {port['device_id']}, which is gone"
            elif server["status"] not in ("SHELVED_OFFLOADED", "ERROR", "VERIFY_RESIZE"):
                if port["binding:host_id"] != server["OS-EXT-SRV-ATTR:host"]:
                    yield f"port {port['id']} is on {port['binding:host_id']}, its server {server['id']} on {server['OS-EXT-SRV-ATTR:host']}"

    def volumes(self, servers):
        attached, waiting = set(), set()
        for server in servers.values():
            # What a server without a host has is kept for it, and attached nowhere.
            its = waiting if server["status"] == "SHELVED_OFFLOADED" else attached
            its |= {(server["id"], volume["id"]) for volume in server["os-extended-volumes:volumes_attached"]}
        kept = {volume for _, volume in waiting}
        noted = set()
        for volume in self.get(
            "volume",
            f"/v3/{self.admin.project}/volumes/detail?all_tenants=1&limit=1000",
        )["volumes"]:
            its = {(one["server_id"], volume["id"]) for one in volume["attachments"]}
            noted |= its
            wanted = "in-use" if its else "reserved" if volume["id"] in kept else "available"
            if volume["status"] != wanted:
                yield f"volume {volume['id']} is {volume['status']}, not {wanted}"
        for server, volume in noted - attached:
            yield f"volume {volume} says that it is attached to server {server}, which does not"
        for server, volume in attached - noted:
            yield f"server {server} says that volume {volume} is attached, which does not"

    def allocations(self, servers):
        """Claims belong to servers, and no host holds more than it has."""
        consumers = collections.Counter()
        for provider in self.get("placement", "/resource_providers")["resource_providers"]:
            base = f"/resource_providers/{provider['uuid']}"
            held = collections.Counter()
            for consumer, claim in self.get("placement", f"{base}/allocations")["allocations"].items():
                consumers[consumer] += 1
                held.update(claim["resources"])
            used = self.get("placement", f"{base}/usages")["usages"]
            for kind, inventory in self.get("placement", f"{base}/inventories")["inventories"].items():
                capacity = (inventory["total"] - inventory["reserved"]) * inventory["allocation_ratio"]
                if used.get(kind, 0) > capacity:
                    yield f"{provider['name']} gives out {used[kind]} of {capacity} {kind}"
                if used.get(kind, 0) != held[kind]:
                    yield f"{provider['name']} shows {used.get(kind, 0)} {kind} in use, and {held[kind]} is claimed"
        moving = {server for server, shown in servers.items() if shown["status"] == "VERIFY_RESIZE"}
        placed = {
            server
            for server, shown in servers.items()
            if shown["OS-EXT-SRV-ATTR:host"] and shown["status"] not in ("SHELVED_OFFLOADED",)
        }
        for server in placed - set(consumers):
            if servers[server]["status"] != "ERROR":
                yield f"server {server}, {servers[server]['status']}, claims nothing"
        others = set(consumers) - placed
        # While a resize waits for its end the old place is claimed by the migration.
        if len(others) > len(moving):
            yield f"{sorted(others)} claim something, and only {len(moving)} servers are between two places"

    def debts(self):
        for line in self.machines.postgres.query("SELECT host, instance_uuid, reason FROM host_debts") or ():
            yield f"a host does not pay its debt: {line}"

    def quotas(self):
        sizes = {flavor["name"]: flavor for flavor in self.get("compute", "/v2.1/flavors/detail")["flavors"]}
        largest = max(sizes[name]["ram"] for name in ("m1.nano", "m1.tiny"))
        by_project, moving = collections.defaultdict(list), collections.Counter()
        for server in self.servers():
            flavor = sizes[server["flavor"]["original_name"]]
            by_project[server["tenant_id"]].append(flavor)
            # Until a resize is confirmed the server counts as the larger of both; the audit knows which that is.
            if server["status"] == "VERIFY_RESIZE":
                moving[server["tenant_id"]] += largest - flavor["ram"]
        for tenant in self.tenants:
            _, _, body = tenant.user.ask("compute", "GET", "/v2.1/limits")
            limits = body["limits"]["absolute"]
            its = by_project[tenant.user.project]
            for name, there, more in (
                ("totalInstancesUsed", len(its), 0),
                ("totalCoresUsed", sum(flavor["vcpus"] for flavor in its), 0),
                ("totalRAMUsed", sum(flavor["ram"] for flavor in its), moving[tenant.user.project]),
            ):
                if not there <= limits[name] <= there + more:
                    self.wrong(f"{name} of project {tenant.user.project} is {limits[name]}, and there is {there}")

    def audit(self):
        done = self.machines.roles.command("manage", "audit")
        if done.returncode != 0:
            self.wrong(f"kilonova manage audit: {done.stdout.strip()} {done.stderr.strip()}")

    def empty(self):
        """All servers go, and with them everything."""
        for tenant in self.tenants:
            for server in tenant.servers:
                path = f"/v2.1/servers/{server}"
                # Some of them are locked.
                if tenant.user.ask("compute", "DELETE", path)[0] == 409:
                    tenant.admin.ask("compute", "DELETE", path)
        try:
            gone = lambda: not self.servers() and self.soft_deleted() == []  # noqa: E731
            wait_until(gone, 120, "all servers are gone", pause=0.5)
            wait_until(lambda: not self.leftovers(), 60, "nothing is left over", pause=1)
        except Failure:
            self.wrong(f"after all were deleted: {len(self.servers())} servers, {self.leftovers()}")
        here, aside = self.machines.guests()
        if here or aside:
            self.wrong(f"after all were deleted hosts hold {sorted(here | aside)}")
        self.quotas()
        self.audit()
        # Only told: a secret is its creator's, whose request deletes it with the server, and that may be killed in between.
        totals = [tenant.user.ask("key-manager", "GET", "/v1/secrets")[2]["total"] for tenant in self.tenants]
        self.secrets_left = sum(totals)

    def panics(self):
        text = self.machines.roles.log.read_text(errors="replace")
        for line in text.splitlines():
            if "panicked" in line:
                self.wrong(line[:300])
