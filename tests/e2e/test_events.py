"""Events of servers as they happen, and answers that wait for a state, with nothing but curl and the stock SDK."""

import json
import subprocess

import pytest
import requests

from cloud import wait_until
from test_bad_input import Api


class Curl:
    """An event stream that curl reads."""

    def __init__(self, api, path="/events", *options):
        self.url = api.base.removesuffix("/v2.1") + path
        self.process = subprocess.Popen(
            ["curl", "-sN", "--max-time", "120", "-H", f"X-Auth-Token: {api.token}", *options, self.url],
            stdout=subprocess.PIPE,
            text=True,
        )

    def next(self):
        """The next event: its name, its id for going on, its document."""
        event = {}
        for line in self.process.stdout:
            line = line.rstrip("\n")
            if line == "" and "data" in event:
                return event["event"], event["id"], json.loads(event["data"])
            name, _, value = line.partition(": ")
            if name:
                event[name] = value
        raise AssertionError("the stream has ended")

    def until(self, wanted):
        while True:
            event = self.next()
            if wanted(event[2]):
                return event

    def close(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def streams():
    opened = []
    yield opened
    for stream in opened:
        stream.close()


def test_follow_and_wait(cloud, admin_sdk, demo_sdk, image, name, streams):
    api, admin = Api(cloud, demo_sdk), Api(cloud, admin_sdk)
    base = api.base.removesuffix("/v2.1")
    assert requests.get(base + "/events", timeout=120).status_code == 401
    refused = requests.get(base + "/events?all_projects=true", headers={"X-Auth-Token": api.token}, timeout=120)
    assert refused.status_code == 403, refused.text
    own, all_projects = Curl(api), Curl(admin, "/events?all_projects=true")
    streams += [own, all_projects]
    # Both streams are open when their first line is there.
    for stream in streams:
        assert stream.process.stdout.readline().startswith("retry:")

    server = {"name": name, "imageRef": image["id"], "networks": "none"}
    server["flavorRef"] = demo_sdk.compute.find_flavor("m1.nano").id
    made = api.send("POST", "/servers", {"server": server})
    assert made.status_code == 202, made.text
    path = f"/servers/{made.json()['server']['id']}"
    # One request instead of polling.
    active = api.send("GET", path, Prefer="wait=60; for=ACTIVE")
    assert active.headers["Preference-Applied"] == "wait; result=reached"
    assert active.json()["server"]["status"] == "ACTIVE"

    uuid = made.json()["server"]["id"]
    kind, cursor, begun = own.until(lambda event: event["server_id"] == uuid)
    assert (kind, begun["action"]) == ("action.start", "create") and "host" not in begun
    assert begun["request_id"] == made.headers["X-Openstack-Request-Id"]
    kind, _, ended = own.until(lambda event: event.get("result"))
    assert kind == "event.end" and ended["event"] == "compute__do_build_and_run_instance", ended
    _, _, ended = all_projects.until(lambda event: event["server_id"] == uuid and event["vm_state"] == "active")
    assert ended["host"], "administrators see where"

    assert api.send("POST", path + "/action", {"os-stop": None}).status_code == 202
    late = api.send("GET", path, Prefer="wait=1; for=PAUSED")
    assert late.headers["Preference-Applied"] == "wait; result=timeout"
    stopped = api.send("GET", path, Prefer="wait=60; for=SHUTOFF")
    assert stopped.json()["server"]["status"] == "SHUTOFF"
    assert api.send("DELETE", path).status_code == 204
    assert api.send("GET", path, Prefer="wait=60; for=deleted").status_code == 404

    # A client that was away goes on where it was.
    again = Curl(api, f"/events?server={uuid}", "-H", f"Last-Event-ID: {cursor}")
    streams.append(again)
    states = [again.next() for _ in range(3)]
    assert all(event[2]["id"] > begun["id"] for event in states)
    again.until(lambda event: event["vm_state"] == "deleted")
    wait_until(lambda: api.send("GET", path).status_code == 404, 60, "the server is gone")
