"""Version documents and microversion negotiation, by plain requests."""

import pytest
import requests


@pytest.fixture(scope="module")
def compute(cloud, demo_sdk):
    base = f"http://127.0.0.1:{cloud.ports['compute']}"
    headers = {"X-Auth-Token": demo_sdk.auth_token}

    def get(path, **more):
        return requests.get(
            base + path, headers={**headers, **more.pop("headers", {})}, allow_redirects=False, timeout=120, **more
        )

    return get


def test_documents(compute):
    listed = {version["id"]: version for version in compute("/").json()["versions"]}
    assert set(listed) == {"v2.0", "v2.1"}
    assert (listed["v2.1"]["min_version"], listed["v2.1"]["version"]) == ("2.1", "2.104")
    assert (listed["v2.0"]["min_version"], listed["v2.0"]["version"]) == ("", "")
    assert compute("/v2.1/").json()["version"]["id"] == "v2.1"
    assert compute("/v2/").json()["version"]["id"] == "v2.0"


def test_a_request_without_a_version_gets_choices(compute):
    answer = compute("/servers")
    assert answer.status_code == 300
    assert {choice["id"] for choice in answer.json()["choices"]} == {"v2.0", "v2.1"}


MEDIA_TYPES = ("application/vnd.openstack.compute.v2.1+json", "application/vnd.openstack.compute+json;version=2.1")


@pytest.mark.parametrize("header", ["Accept", "Content-Type"])
@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_a_media_type_selects_the_version(compute, header, media_type):
    answer = compute("/servers", headers={header: media_type})
    assert answer.status_code == 200 and "servers" in answer.json()
    assert answer.headers["OpenStack-API-Version"] == "compute 2.1"


def test_the_path_wins_over_the_media_type(compute):
    answer = compute("/v2/servers", headers={"Accept": MEDIA_TYPES[0], "OpenStack-API-Version": "compute 2.90"})
    assert answer.status_code == 200
    assert "OpenStack-API-Version" not in answer.headers, "v2 knows no microversions"


@pytest.mark.parametrize("media_type", ["application/json", "application/vnd.openstack.compute.v9+json", "text/html"])
def test_other_media_types_select_nothing(compute, media_type):
    assert compute("/servers", headers={"Accept": media_type}).status_code == 300


@pytest.mark.parametrize(
    ("headers", "status", "used"),
    [
        ({}, 200, "2.1"),
        ({"OpenStack-API-Version": "compute 2.42"}, 200, "2.42"),
        ({"X-OpenStack-Nova-API-Version": "2.42"}, 200, "2.42"),
        ({"OpenStack-API-Version": "compute latest"}, 200, "2.104"),
        ({"OpenStack-API-Version": "identity 3.1"}, 200, "2.1"),
        ({"OpenStack-API-Version": "compute 2.105"}, 406, None),
        ({"OpenStack-API-Version": "compute 3.0"}, 406, None),
        ({"OpenStack-API-Version": "compute two"}, 400, None),
        ({"OpenStack-API-Version": "compute 2.01"}, 400, None),
        ({"X-OpenStack-Nova-API-Version": "2.105"}, 406, None),
        ({"X-OpenStack-Nova-API-Version": "latest"}, 200, "2.104"),
    ],
)
def test_negotiation(compute, headers, status, used):
    answer = compute("/v2.1/flavors", headers=headers)
    assert answer.status_code == status, answer.text
    if used:
        assert answer.headers["OpenStack-API-Version"] == f"compute {used}"
        assert answer.headers["X-OpenStack-Nova-API-Version"] == used
        assert "OpenStack-API-Version" in answer.headers["Vary"]
    assert answer.headers["X-Openstack-Request-Id"].startswith("req-")


def test_request_id_of_the_caller_is_not_ours(compute):
    mine = "req-00000000-0000-0000-0000-000000000000"
    answer = compute("/v2.1/flavors", headers={"X-Openstack-Request-Id": mine})
    assert answer.headers["X-Openstack-Request-Id"] != mine


def test_a_route_that_never_was(compute):
    assert compute("/v2.1/no-such-thing").status_code == 404
