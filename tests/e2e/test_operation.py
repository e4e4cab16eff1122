"""Health, metrics, rate limits, rules of the operator's own, and keys against doubled requests, on clouds of their own."""

import concurrent.futures
import pathlib

import pytest
import requests

from cloud import free_ports, wait_until
from test_bad_input import Api


@pytest.fixture(scope="module")
def configured(new_cloud, tmp_path_factory):
    """A cloud with a configuration file; rules, limits and metrics are in it."""
    folder = tmp_path_factory.mktemp("operator")
    port = free_ports(1)[0]
    made = new_cloud()
    pathlib.Path(made.home, "kilonova.conf").write_text(
        f"[oslo_policy]\npolicy_file = {folder}/policy.yaml\npolicy_dirs = {folder}/policy.d\n"
        f"[kilonova]\nmetrics_listen = 127.0.0.1:{port}\nrate_limit_requests = 200\nrate_limit_seconds = 10\n"
    )
    made.start()
    return made, folder, f"http://127.0.0.1:{port}/metrics"


def test_health_and_metrics(configured):
    cloud, _, metrics = configured
    base = f"http://127.0.0.1:{cloud.ports['compute']}"
    assert requests.get(base + "/healthcheck", timeout=120).text == "OK"
    ready = requests.get(base + "/healthcheck/ready", timeout=120)
    assert ready.status_code == 200, ready.text
    assert ready.json()["parts"]["database"].startswith("ok, 3 of 3 hosts")
    assert requests.get(base + "/metrics", timeout=120).status_code == 300
    page = requests.get(metrics, timeout=120)
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = page.text.splitlines()
    assert "openstack_nova_up 1" in lines
    assert len([line for line in lines if line.startswith("openstack_nova_vcpus_available{")]) == 3
    states = [line for line in lines if line.startswith("openstack_nova_agent_state{")]
    assert len(states) == 5 and all(line.endswith(" 1") for line in states), states


def test_rules_are_read_again(configured):
    cloud, folder, _ = configured
    api = Api(cloud, cloud.client("kilonova-demo").sdk())
    assert api.send("GET", "/os-services").status_code == 403
    (folder / "policy.yaml").write_text('"os_compute_api:os-services:list": "role:member"\n')
    wait_until(lambda: api.send("GET", "/os-services").status_code == 200, 60, "the rule is in force", pause=0.5)
    (folder / "policy.yaml").write_text("[ not a policy")
    (folder / "policy.d").mkdir()
    (folder / "policy.d" / "ours.yaml").write_text('"os_compute_api:os-services:list": "!"\n')
    (folder / "policy.yaml").unlink()
    wait_until(lambda: api.send("GET", "/os-services").status_code == 403, 60, "the folder counts", pause=0.5)


def test_one_key_one_server(configured, name):
    cloud, _, _ = configured
    sdk = cloud.client("kilonova-demo").sdk()
    api = Api(cloud, sdk)
    body = {
        "name": name,
        "imageRef": next(sdk.image.images()).id,
        "flavorRef": sdk.compute.find_flavor("m1.nano").id,
        "networks": "none",
    }
    first = api.send("POST", "/servers", {"server": body}, Idempotency_Key="one")
    again = api.send("POST", "/servers", {"server": body}, Idempotency_Key="one")
    assert first.status_code == again.status_code == 202, again.text
    assert first.json() == again.json() and again.headers["Idempotency-Replayed"] == "true"
    other = api.send("POST", "/servers", {"server": {**body, "name": "x"}}, Idempotency_Key="one")
    assert other.status_code == 422, other.text
    path = f"/servers/{first.json()['server']['id']}"
    wait_until(lambda: api.send("GET", path).json()["server"]["status"] == "ACTIVE", 60, "the server is there")
    for _ in range(2):
        stop = api.send("POST", path + "/action", {"os-stop": None}, Idempotency_Key="stop")
        assert stop.status_code == 202, stop.text
    api.send("DELETE", path)


def test_too_many_requests(configured):
    cloud, _, _ = configured
    api = Api(cloud, cloud.client("kilonova-demo").sdk())
    with concurrent.futures.ThreadPoolExecutor(16) as many:
        answers = list(many.map(lambda _: api.send("GET", "/flavors"), range(600)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert refused[0].json()["overLimit"]["retryAfter"] == refused[0].headers["Retry-After"]
