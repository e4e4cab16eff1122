"""What operators see: health and metrics of each process, and one trace through all of them."""

import json
import os
import pathlib
import tempfile

import pytest
import requests

from cloud import free_ports, wait_until
from roles import Roles
from test_bad_input import Api

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GLOBAL = "req-99999999-2222-4333-8444-555555555555"
ROLES = [
    "identity", "image", "network", "volume", "key-manager", "placement", "conductor", "api", "compute", "network-agent",
]  # fmt: skip


@pytest.fixture
def roles():
    home = tempfile.mkdtemp(prefix="kilonova-e2e-seen-")
    made = Roles(home, {"DEFAULT": {"compute_driver": "fake.FakeDriver", "report_interval": 1}})
    made.sync()
    yield made
    made.discard()


def ready(port):
    answer = requests.get(f"http://127.0.0.1:{port}/healthcheck/ready", timeout=120)
    return answer.status_code, answer.json()["parts"]


def test_each_process_shows_itself(roles):
    ports = dict(zip(ROLES, free_ports(len(ROLES)), strict=True))
    running = {}
    for role in ROLES:
        listen = f"kilonova.metrics_listen=127.0.0.1:{ports[role]}"
        # All processes at once: some need others.
        running[role] = roles.start(role, listen)
    for role, port in ports.items():
        assert requests.get(f"http://127.0.0.1:{port}/healthcheck", timeout=120).text == "OK"
        wait_until(lambda port=port: ready(port)[0] == 200, 60, lambda port=port, role=role: f"{role}: {ready(port)}")
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=120).text
        names = {line.split("{")[0].split(" ")[0] for line in page.splitlines() if not line.startswith("#")}
        assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "kilonova_build_info"} <= names, role
    pages = {role: requests.get(f"http://127.0.0.1:{port}/metrics", timeout=120).text for role, port in ports.items()}
    assert "openstack_nova_up 1" in pages["api"] and "openstack_glance_up 1" in pages["image"]
    counted = {"identity": "identity_projects", "image": "glance_images", "network": "neutron_networks"}
    for role, what in counted.items():
        assert f"\nopenstack_{what} " in pages[role], pages[role]
    assert 'kilonova_client_requests_total{service="the conductor",result="answered"}' in pages["compute"]
    running["network"].kill()
    wait_until(lambda: ready(ports["conductor"]) == (503, ready(ports["conductor"])[1]), 60, "the conductor misses it")
    status, parts = ready(ports["conductor"])
    assert parts["network"] == "does not answer" and parts["database"] == "ok", parts
    assert requests.get(f"http://127.0.0.1:{ports['conductor']}/healthcheck", timeout=120).status_code == 200


def test_one_trace_through_all(new_cloud, name, monkeypatch):
    monkeypatch.setenv("KILONOVA_LOG_FORMAT", "json")
    monkeypatch.setenv("KILONOVA_LOG", "debug,hyper=info,h2=info")
    cloud = new_cloud()
    cloud.start()
    sdk = cloud.client("kilonova-demo").sdk()
    api = Api(cloud, sdk)
    server = {"name": name, "imageRef": next(sdk.image.images()).id, "networks": "none"}
    server["flavorRef"] = sdk.compute.find_flavor("m1.nano").id
    made = api.send(
        "POST",
        "/servers",
        {"server": server},
        traceparent=f"00-{TRACE}-00f067aa0ba902b7-01",
        X_OpenStack_Request_ID=GLOBAL,
    )
    assert made.status_code == 202, made.text
    own = made.headers["X-Openstack-Request-Id"]
    assert own.startswith("req-") and own != GLOBAL
    path = f"/servers/{made.json()['server']['id']}"
    assert api.send("GET", path, Prefer="wait=60; for=ACTIVE").json()["server"]["status"] == "ACTIVE"

    def host_work():
        # The last line may be half written.
        lines = pathlib.Path(cloud.home, "log").read_text(errors="replace").split("\n")[:-1]
        documents = [json.loads(line) for line in lines if line.startswith("{")]
        spans = [span for document in documents for span in document.get("spans", [])]
        return [span for span in spans if span.get("trace_id") == TRACE and span["name"] == "work"]

    work = wait_until(host_work, 60, "the host's work is a part of the trace")
    assert work[0]["request_id"] == own and work[0]["global_request_id"] == GLOBAL
    assert os.environ["KILONOVA_LOG_FORMAT"] == "json"
    api.send("DELETE", path)
