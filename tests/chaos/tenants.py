"""What the tenants ask for: each one a thread with a random stream of its own."""

import collections
import dataclasses
import random
import threading
import time

from client import Client, NoAnswer
from machines import HOSTS

SERVERS, VOLUMES = 8, 3
FLAVORS = ("42", "1")
PASSWORD = "of a tenant of the chaos run"

# The actions that a status allows, each with its weight. Those of the administrator begin with `admin`.
MOVES = {"resize": 4, "admin migrate": 4}
ACTIONS = {
    "ACTIVE": {
        "os-stop": 4, "reboot soft": 2, "reboot hard": 3, "pause": 3, "suspend": 3, "shelve": 3, "admin live": 5, "rebuild": 4,
        "rescue": 3, "snapshot": 2, "backup": 1, "attach volume": 5, "detach volume": 4, "attach interface": 3,
        "detach interface": 3, "delete": 5, "admin evacuate": 2, **MOVES,
    },
    "SHUTOFF": {"os-start": 8, "reboot hard": 2, "rebuild": 2, "rescue": 2, "snapshot": 1, "shelve": 1, "delete": 2, "admin evacuate": 2, **MOVES},
    "PAUSED": {"unpause": 8, "reboot hard": 1, "shelve": 1, "admin live": 2, "delete": 1},
    "SUSPENDED": {"resume": 8, "reboot hard": 1, "shelve": 1, "delete": 1},
    "RESCUE": {"unrescue": 8, "delete": 1},
    "SHELVED": {"unshelve": 4, "admin offload": 4, "delete": 1},
    "SHELVED_OFFLOADED": {"unshelve": 8, "attach volume": 1, "detach volume": 1, "delete": 1},
    "VERIFY_RESIZE": {"confirm": 6, "revert": 6, "delete": 2},
    "ERROR": {"rebuild": 2, "reboot hard": 2, "os-stop": 1, "admin evacuate": 1, "delete": 3},
}  # fmt: skip
# Whatever the status: what is not allowed must be refused.
ANY = sorted({action for actions in ACTIONS.values() for action in actions})
BODIES = {
    "os-stop": {"os-stop": None}, "os-start": {"os-start": None}, "pause": {"pause": None}, "unpause": {"unpause": None},
    "suspend": {"suspend": None}, "resume": {"resume": None}, "shelve": {"shelve": None}, "unshelve": {"unshelve": None},
    "reboot soft": {"reboot": {"type": "SOFT"}}, "reboot hard": {"reboot": {"type": "HARD"}}, "unrescue": {"unrescue": None},
    "rescue": {"rescue": {}}, "confirm": {"confirmResize": None}, "revert": {"revertResize": None},
    "live": {"os-migrateLive": {"host": None, "block_migration": "auto"}},
    "evacuate": {"evacuate": {}}, "offload": {"shelveOffload": None},
}  # fmt: skip


@dataclasses.dataclass
class Accepted:
    """A request that was taken."""

    what: str
    server: str
    request: str
    at: float


class Tally:
    """What all of them saw; shared by the threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = []
        self.refused = 0
        self.in_doubt = 0
        self.failures = []

    def accept(self, what, server, headers):
        with self.lock:
            self.accepted.append(Accepted(what, server, headers.get("x-openstack-request-id"), time.monotonic()))

    def refuse(self, status, what, body):
        message = next((fault.get("message", "") for fault in body.values() if isinstance(fault, dict)), "")
        with self.lock:
            # Nova's words when a host does not do it; the action says why.
            if status == 500 and message.startswith("Failed to attach network adapter device to"):
                self.refused += 1
            elif status >= 500:
                self.failures.append(f"{what}: {status} {message}")
            elif "Idempotency-Key has no answer yet" in message:
                self.in_doubt += 1
            else:
                self.refused += 1


class Tenant(threading.Thread):
    """One project and what its user does, until `stop`."""

    def __init__(self, machines, seed, number, tally, stop, pace):
        super().__init__(name=f"tenant-{number}", daemon=True)
        self.random = random.Random(f"{seed}/{number}")
        self.number, self.machines, self.tally, self.stop, self.pace = number, machines, tally, stop, pace
        self.counts = collections.Counter()
        self.user = Client(machines, self.random, self.counts)
        self.admin = Client(machines, self.random, self.counts)
        self.names = 0
        # Servers that were made, and those whose deletion was taken.
        self.servers, self.deleted = [], set()
        self.trouble = None

    def prepare(self, admin, password):
        """Makes the project; before the trouble begins."""
        name = f"chaos-{self.number}"
        _, _, made = admin.ask("identity", "POST", "/v3/projects", {"project": {"name": name, "domain_id": "default"}})
        project = made["project"]["id"]
        user = {"name": name, "password": PASSWORD, "domain_id": "default", "default_project_id": project}
        _, _, made = admin.ask("identity", "POST", "/v3/users", {"user": user})
        _, _, roles = admin.ask("identity", "GET", "/v3/roles?name=member")
        path = f"/v3/projects/{project}/users/{made['user']['id']}/roles/{roles['roles'][0]['id']}"
        assert admin.ask("identity", "PUT", path)[0] == 204
        self.user.login(name, PASSWORD, name)
        self.admin.login("admin", password, "admin")
        images = self.user.ask("image", "GET", "/v2/images?name=cirros-sim-disk")[2]["images"]
        self.image = images[0]["id"]
        networks = self.user.ask("network", "GET", "/v2.0/networks?name=private")[2]["networks"]
        self.network = networks[0]["id"]

    def run(self):
        while not self.stop.wait(self.random.uniform(0.5, 1.5) * self.pace):
            try:
                self.act()
            except NoAnswer as error:
                self.tally.refuse(500, f"nobody answered: {error}", {})
            except Exception as error:  # noqa: BLE001 - told at the end of the run
                self.trouble = error
                raise

    def act(self):
        alive = [server for server in self.servers if server not in self.deleted]
        draw = self.random.random()
        if draw < 0.06:
            return self.make_volume()
        if not alive or draw < 0.06 + 0.3 * (1 - len(alive) / SERVERS):
            return self.create()
        server = self.random.choice(alive)
        status, _, body = self.admin.ask("compute", "GET", f"/v2.1/servers/{server}")
        if status == 404:
            # Deleted once, by an answer that was lost.
            self.deleted.add(server)
            return None
        shown = body["server"]
        busy = shown["OS-EXT-STS:task_state"] or shown["status"] not in ACTIONS
        draw = self.random.random()
        if draw < 0.06:
            action = self.random.choice(ANY)
        elif not busy:
            choices = ACTIONS[shown["status"]]
            action = self.random.choices(list(choices), list(choices.values()))[0]
        elif draw < 0.14:
            # Delete always wins.
            action = "delete"
        else:
            return None
        return self.do(action, server, shown)

    def do(self, action, server, shown):
        client = self.user
        if action.startswith("admin "):
            client, action = self.admin, action.removeprefix("admin ")
        special = getattr(self, action.replace(" ", "_"), None)
        if special and action not in BODIES:
            return special(server, shown)
        return self.post(client, action, server, BODIES[action])

    def post(self, client, what, server, body):
        answer = client.ask("compute", "POST", f"/v2.1/servers/{server}/action", body)
        return self.note(what, server, answer)

    def note(self, what, server, answer):
        status, headers, body = answer
        if status < 300:
            self.tally.accept(what, server, headers)
            return True
        self.tally.refuse(status, what, body)
        return False

    def create(self):
        self.names += 1
        count = self.random.choice((1, 1, 1, 2, 3))
        server = {
            "name": f"chaos-{self.number}-{self.names}", "flavorRef": self.random.choice(FLAVORS), "imageRef": self.image,
            "networks": [{"uuid": self.network}] * self.random.choice((1, 1, 2)), "min_count": 1, "max_count": count,
            "return_reservation_id": True, "config_drive": self.random.random() < 0.3,
        }  # fmt: skip
        status, headers, body = self.user.ask("compute", "POST", "/v2.1/servers", {"server": server})
        if status != 202:
            self.tally.refuse(status, "create", body)
            if status != 409:
                return
        # By its name also when the answer was lost.
        _, _, found = self.user.ask("compute", "GET", f"/v2.1/servers?name=^{server['name']}(-[0-9]*)?$")
        for one in found["servers"]:
            self.servers.append(one["id"])
            if status == 202:
                self.tally.accept("create", one["id"], headers)

    def delete(self, server, _shown):
        answer = self.user.ask("compute", "DELETE", f"/v2.1/servers/{server}")
        if answer[0] == 204 and self.note("delete", server, answer) or answer[0] == 404:
            self.deleted.add(server)

    def resize(self, server, shown):
        other = FLAVORS[0] if shown["flavor"]["original_name"] == "m1.tiny" else FLAVORS[1]
        self.post(self.user, "resize", server, {"resize": {"flavorRef": other}})

    def migrate(self, server, shown):
        """Half of them to the other host of the same process, which always works when both are there."""
        here = shown.get("OS-EXT-SRV-ATTR:host") or ""
        others = [host for hosts in HOSTS.values() if here in hosts for host in hosts if host != here]
        wanted = self.random.choice(others) if others and self.random.random() < 0.5 else None
        self.post(self.admin, "migrate", server, {"migrate": {"host": wanted}})

    def rebuild(self, server, _shown):
        self.post(self.user, "rebuild", server, {"rebuild": {"imageRef": self.image}})

    def snapshot(self, server, _shown):
        self.names += 1
        self.post(self.user, "snapshot", server, {"createImage": {"name": f"chaos-{self.number}-image-{self.names}"}})

    def backup(self, server, _shown):
        body = {"name": f"chaos-{self.number}-backup", "backup_type": "daily", "rotation": 1}
        self.post(self.user, "backup", server, {"createBackup": body})

    def make_volume(self):
        _, _, body = self.user.ask("volume", "GET", f"/v3/{self.user.project}/volumes/detail")
        volumes = body.get("volumes", [])
        if len(volumes) >= VOLUMES:
            free = [volume for volume in volumes if volume["status"] in ("available", "error")]
            if free:
                self.user.ask("volume", "DELETE", f"/v3/{self.user.project}/volumes/{self.random.choice(free)['id']}")
            return
        self.user.ask("volume", "POST", f"/v3/{self.user.project}/volumes", {"volume": {"size": 1}})

    def attach_volume(self, server, _shown):
        _, _, body = self.user.ask("volume", "GET", f"/v3/{self.user.project}/volumes?status=available")
        if not body.get("volumes"):
            return self.make_volume()
        wanted = {"volumeAttachment": {"volumeId": self.random.choice(body["volumes"])["id"]}}
        return self.note(
            "attach volume",
            server,
            self.user.ask("compute", "POST", f"/v2.1/servers/{server}/os-volume_attachments", wanted),
        )

    def detach_volume(self, server, _shown):
        _, _, body = self.user.ask("compute", "GET", f"/v2.1/servers/{server}/os-volume_attachments")
        found = body.get("volumeAttachments")
        if found:
            path = f"/v2.1/servers/{server}/os-volume_attachments/{self.random.choice(found)['volumeId']}"
            self.note("detach volume", server, self.user.ask("compute", "DELETE", path))

    def attach_interface(self, server, _shown):
        wanted = {"interfaceAttachment": {"net_id": self.network}}
        self.note(
            "attach interface", server, self.user.ask("compute", "POST", f"/v2.1/servers/{server}/os-interface", wanted)
        )

    def detach_interface(self, server, _shown):
        _, _, body = self.user.ask("compute", "GET", f"/v2.1/servers/{server}/os-interface")
        found = body.get("interfaceAttachments")
        if found:
            path = f"/v2.1/servers/{server}/os-interface/{self.random.choice(found)['port_id']}"
            self.note("detach interface", server, self.user.ask("compute", "DELETE", path))
