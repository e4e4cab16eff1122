"""What the tenants ask for: each one a thread with a random stream of its own."""

import collections
import dataclasses
import random
import threading
import time

from client import Client, NoAnswer
from machines import HOSTS

SERVERS, VOLUMES, LARGEST = 8, 3, 3
FLAVORS = ("42", "1")
# Two with an emulated TPM, whose passphrase the key manager keeps as a secret of the tenant's. Such a server is resized
# from one to the other. (To a flavor without one it could not be brought back: see tests/e2e/test_vtpm.py.)
TPM_FLAVORS = [
    {"id": f"chaos-tpm-{ram}", "name": f"chaos.tpm.{ram}", "ram": ram, "vcpus": 1, "disk": 1} for ram in (64, 128)
]
TPM_SPECS = {"hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb"}
# Until this version a request names an address to be taken or given.
FIXED_IPS = "2.43"
PASSWORD = "of a tenant of the chaos run"

# The actions that a status allows, each with its weight. Those of the administrator begin with `admin`.
MOVES = {"resize": 4, "admin migrate": 4}
ACTIONS = {
    "ACTIVE": {
        "os-stop": 4, "reboot soft": 2, "reboot hard": 3, "pause": 3, "suspend": 3, "shelve": 3, "admin live": 5, "rebuild": 4,
        "rescue": 3, "snapshot": 2, "backup": 1, "attach volume": 5, "detach volume": 4, "attach interface": 3,
        "detach interface": 3, "delete": 5, "admin evacuate": 2, "admin swap volume": 4, "extend volume": 2, "add fixed ip": 3,
        "remove fixed ip": 3, "password": 2, "crash dump": 2, "admin reset": 2, "lock": 2, "force delete": 1, **MOVES,
    },
    "SHUTOFF": {"os-start": 8, "lock": 1, "reboot hard": 2, "rebuild": 2, "rescue": 2, "snapshot": 1, "shelve": 1, "delete": 2, "admin evacuate": 2, **MOVES},
    "PAUSED": {"unpause": 8, "reboot hard": 1, "shelve": 1, "admin live": 2, "delete": 1},
    "SUSPENDED": {"resume": 8, "reboot hard": 1, "shelve": 1, "delete": 1},
    "RESCUE": {"unrescue": 8, "delete": 1},
    "SHELVED": {"unshelve": 4, "admin offload": 4, "delete": 1},
    "SHELVED_OFFLOADED": {"unshelve": 8, "attach volume": 1, "detach volume": 1, "delete": 1},
    "VERIFY_RESIZE": {"confirm": 6, "revert": 6, "delete": 2},
    "ERROR": {"rebuild": 2, "reboot hard": 2, "os-stop": 1, "admin evacuate": 1, "delete": 3, "admin reset": 4},
}  # fmt: skip
# Whatever the status: what is not allowed must be refused. (These two are allowed in any.)
ANY = sorted({action for actions in ACTIONS.values() for action in actions} - {"admin reset", "lock"})
# What a host that is down leaves to be done.
ELSEWHERE = "admin evacuate"
# So many times as likely then.
OFTEN = 12
# What is done to servers whose status alone does not say that it can be done.
MORE = ("unlock", "restore", "abort", "force complete")
# All of these must have been done in a run that is long enough.
KINDS = sorted({action.removeprefix("admin ") for action in (*ANY, *MORE, "reset", "lock", "create")})
BODIES = {
    "os-stop": {"os-stop": None}, "os-start": {"os-start": None}, "pause": {"pause": None}, "unpause": {"unpause": None},
    "suspend": {"suspend": None}, "resume": {"resume": None}, "shelve": {"shelve": None}, "unshelve": {"unshelve": None},
    "reboot soft": {"reboot": {"type": "SOFT"}}, "reboot hard": {"reboot": {"type": "HARD"}}, "unrescue": {"unrescue": None},
    "rescue": {"rescue": {}}, "confirm": {"confirmResize": None}, "revert": {"revertResize": None},
    "live": {"os-migrateLive": {"host": None, "block_migration": "auto"}},
    "evacuate": {"evacuate": {}}, "offload": {"shelveOffload": None}, "crash dump": {"trigger_crash_dump": None},
    "lock": {"lock": None}, "unlock": {"unlock": None}, "password": {"changePassword": {"adminPass": "Chosen-7aQ"}},
}  # fmt: skip


@dataclasses.dataclass
class Accepted:
    """A request that was taken."""

    what: str
    server: str
    request: str
    at: float


def addresses(shown):
    """The fixed addresses of each interface of a server."""
    found = collections.defaultdict(set)
    for network in shown["addresses"].values():
        for one in network:
            if one["OS-EXT-IPS:type"] == "fixed":
                found[one["OS-EXT-IPS-MAC:mac_addr"]].add(one["addr"])
    return found


class Tally:
    """What all of them saw; shared by the threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = []
        # What leaves no action, and was seen to be done.
        self.seen = collections.Counter()
        self.refused = 0
        self.in_doubt = 0
        self.failures = []

    def accept(self, what, server, headers):
        with self.lock:
            self.accepted.append(Accepted(what, server, headers.get("x-openstack-request-id"), time.monotonic()))

    def saw(self, what):
        with self.lock:
            self.seen[what] += 1

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
        self.seed, self.steps, self.random = f"{seed}/{number}", 0, random.Random(f"{seed}/{number}")
        self.number, self.machines, self.tally, self.stop, self.pace = number, machines, tally, stop, pace
        self.counts = collections.Counter()
        # How often somebody must be asked again is not to change what is drawn.
        ports = random.Random(f"{seed}/{number}/ports")
        self.user = Client(machines, ports, self.counts)
        self.admin = Client(machines, ports, self.counts)
        self.names = 0
        # Servers that were made, those whose deletion was asked for, and those whose deletion was taken.
        self.servers, self.unwanted, self.deleted = [], set(), set()
        # The one whose deletion is to be taken back, and those that were.
        self.regretted, self.restored = None, set()
        # Servers in ERROR because an administrator said so.
        self.reset_to_error = set()
        # What a change of a server's addresses must lead to: {server: (what, the addresses of each interface before, which)}.
        self.readdressed = {}
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
            # What one step has met, and drawn for that, is not to change the next one.
            self.steps += 1
            self.random = random.Random(f"{self.seed}/{self.steps}")
            try:
                self.act()
            except NoAnswer as error:
                self.tally.refuse(500, f"nobody answered: {error}", {})
            except Exception as error:  # noqa: BLE001 - told at the end of the run
                self.trouble = error
                raise

    def act(self):
        if self.regretted and self.take_back():
            return None
        alive = [server for server in self.servers if server not in self.deleted]
        draw = self.random.random()
        if draw < 0.06:
            return self.make_volume()
        if not alive or draw < 0.06 + 0.3 * (1 - len(alive) / SERVERS):
            return self.create()
        server = self.random.choice(alive)
        status, _, body = self.admin.ask("compute", "GET", f"/v2.1/servers/{server}")
        if status == 404:
            # Deleted once, by an answer that was lost. What nobody wanted to be deleted is missed at the end.
            if server in self.unwanted:
                self.deleted.add(server)
            return None
        shown = body["server"]
        self.see_addresses(server, shown)
        draw, second = self.random.random(), self.random.random()
        action = self.choose(shown, draw, second)
        return self.do(action, server, shown) if action else None

    def choose(self, shown, draw, second):
        """What to do with a server that looks so; none: it is left alone for now."""
        busy = shown["OS-EXT-STS:task_state"] or shown["status"] not in ACTIONS
        down = shown.get("host_status") in ("DOWN", "UNKNOWN")
        if draw < 0.06:
            return ANY[int(second * len(ANY))]
        if shown["locked"] and draw < 0.4:
            return "unlock"
        if shown["OS-EXT-STS:task_state"] == "migrating" and draw < 0.5:
            return "admin abort" if second < 0.5 else "admin force complete"
        if busy and down and draw < 0.3:
            return ELSEWHERE
        if busy:
            # Delete always wins.
            return None if draw >= 0.14 else "delete" if second < 0.5 else "force delete"
        choices = dict(ACTIONS[shown["status"]])
        if down and ELSEWHERE in choices:
            choices[ELSEWHERE] *= OFTEN
        return random.Random(second).choices(list(choices), list(choices.values()))[0]

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
        flavor = self.random.choices((*FLAVORS, TPM_FLAVORS[0]["id"]), (4, 4, 1))[0]
        server = {
            "name": f"chaos-{self.number}-{self.names}", "flavorRef": flavor, "imageRef": self.image,
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
        self.unwanted.add(server)
        answer = self.user.ask("compute", "DELETE", f"/v2.1/servers/{server}")
        if answer[0] == 204 and self.note("delete", server, answer):
            if self.random.random() < 0.3:
                self.regretted = server
            self.deleted.add(server)
        elif answer[0] == 404:
            self.deleted.add(server)
        else:
            self.tally.refuse(answer[0], "delete", answer[2])

    def force_delete(self, server, _shown):
        self.unwanted.add(server)
        if self.post(self.user, "force delete", server, {"forceDelete": None}):
            self.deleted.add(server)

    def take_back(self):
        """Restores what was deleted, if that was softly. False: not yet, or it was not."""
        server = self.regretted
        status, _, body = self.admin.ask("compute", "GET", f"/v2.1/servers/{server}")
        shown = body.get("server", {})
        if status == 200 and shown["OS-EXT-STS:task_state"]:
            return False
        self.regretted = None
        if status != 200 or shown["status"] != "SOFT_DELETED":
            return False
        if self.post(self.user, "restore", server, {"restore": None}):
            self.deleted.discard(server)
            self.restored.add(server)
        return True

    def reset(self, server, shown):
        """Into ERROR, and out of it where nothing else had led to it."""
        state = {"ACTIVE": "error", "ERROR": "active"}[shown["status"]]
        if state == "active" and (server not in self.reset_to_error or shown.get("fault")):
            return
        if self.post(self.admin, "reset", server, {"os-resetState": {"state": state}}) and state == "error":
            self.reset_to_error.add(server)

    def under_way(self, server):
        """The path of the live migration that is under way."""
        _, _, body = self.admin.ask("compute", "GET", f"/v2.1/servers/{server}/migrations")
        found = body.get("migrations")
        return found and f"/v2.1/servers/{server}/migrations/{found[0]['id']}"

    def abort(self, server, _shown):
        path = self.under_way(server)
        if path:
            self.note("abort", server, self.admin.ask("compute", "DELETE", path))

    def force_complete(self, server, _shown):
        path = self.under_way(server)
        if path:
            answer = self.admin.ask("compute", "POST", f"{path}/action", {"force_complete": None})
            self.note("force complete", server, answer)

    def resize(self, server, shown):
        name = shown["flavor"]["original_name"]
        other = FLAVORS[0] if name == "m1.tiny" else FLAVORS[1]
        if name.startswith("chaos.tpm"):
            other = next(flavor["id"] for flavor in TPM_FLAVORS if flavor["name"] != name)
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

    def attached(self, server):
        _, _, body = self.user.ask("compute", "GET", f"/v2.1/servers/{server}/os-volume_attachments")
        return [one["volumeId"] for one in body.get("volumeAttachments", [])]

    def swap_volume(self, server, _shown):
        """In the place of a volume service that moves a volume, as it does it."""
        its = self.attached(server)
        _, _, body = self.user.ask("volume", "GET", f"/v3/{self.user.project}/volumes/detail?status=available")
        free = body.get("volumes", [])
        if not its or not free:
            return self.make_volume() if its else self.attach_volume(server, None)
        old, new = self.random.choice(its), self.random.choice(free)["id"]
        self.moves(old, "migrating")
        path = f"/v2.1/servers/{server}/os-volume_attachments/{old}"
        answer = self.admin.ask("compute", "PUT", path, {"volumeAttachment": {"volumeId": new}}, version="2.1")
        if not self.note("swap volume", server, answer):
            self.moves(old, "none")
        return None

    def moves(self, volume, status):
        path = f"/v3/{self.admin.project}/volumes/{volume}/action"
        self.admin.ask("volume", "POST", path, {"os-reset_status": {"migration_status": status}})

    def extend_volume(self, server, _shown):
        """The volume service tells the server of it, whose action it becomes then."""
        its = self.attached(server)
        if not its:
            return self.attach_volume(server, None)
        path = f"/v3/{self.user.project}/volumes/{self.random.choice(its)}"
        size = self.user.ask("volume", "GET", path)[2].get("volume", {}).get("size", LARGEST)
        if size < LARGEST:
            body = {"os-extend": {"new_size": size + 1}}
            status, _, body = self.user.ask("volume", "POST", f"{path}/action", body, version="3.42")
            if status != 202:
                self.tally.refuse(status, "extend volume", body)
        return None

    def readdress(self, what, server, shown, body, which=None):
        """Such a request leaves no action: it is seen by the addresses, later."""
        path = f"/v2.1/servers/{server}/action"
        status, _, said = self.user.ask("compute", "POST", path, body, version=FIXED_IPS)
        if status == 202:
            self.readdressed[server] = (what, addresses(shown), which)
        else:
            self.tally.refuse(status, what, said)

    def add_fixed_ip(self, server, shown):
        self.readdress("add fixed ip", server, shown, {"addFixedIp": {"networkId": self.network}})

    def remove_fixed_ip(self, server, shown):
        several = [its for its in addresses(shown).values() if len(its) > 1]
        if not several:
            return self.add_fixed_ip(server, shown)
        which = self.random.choice(sorted(several[0]))
        return self.readdress("remove fixed ip", server, shown, {"removeFixedIp": {"address": which}}, which)

    def see_addresses(self, server, shown):
        """Whether the last change of its addresses is done; an interface that came or went is another matter."""
        what, before, which = self.readdressed.get(server, (None, {}, None))
        for mac, its in addresses(shown).items():
            had = before.get(mac, set())
            if what == "add fixed ip" and had < its or what == "remove fixed ip" and which in had - its:
                self.tally.saw(what)
                del self.readdressed[server]
                return

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
