"""The Placement API as far as it is there: providers, inventories, usages, allocations to read."""

import pytest


@pytest.fixture(scope="module")
def placement(admin_sdk):
    def get(path, version="1.39", **more):
        return admin_sdk.placement.get(path, microversion=version, **more)

    return get


def test_providers_are_the_hypervisors(placement, admin_sdk):
    providers = placement("/resource_providers").json()["resource_providers"]
    assert {item["name"] for item in providers} == {host.name for host in admin_sdk.compute.hypervisors()}
    for item in providers:
        shown = placement(f"/resource_providers/{item['uuid']}").json()
        assert shown["name"] == item["name"] and shown["generation"] >= 0
        inventory = placement(f"/resource_providers/{item['uuid']}/inventories").json()["inventories"]
        assert set(inventory) >= {"VCPU", "MEMORY_MB", "DISK_GB"}
        assert inventory["VCPU"]["total"] > 0 and inventory["VCPU"]["allocation_ratio"] >= 1
        usages = placement(f"/resource_providers/{item['uuid']}/usages").json()["usages"]
        assert set(usages) == set(inventory)


def test_unknown_provider(placement):
    answer = placement("/resource_providers/00000000-0000-4000-8000-000000000000")
    assert answer.status_code == 404 and answer.json()["errors"][0]["status"] == 404


def test_versions(placement):
    document = placement("/").json()["versions"][0]
    assert (document["id"], document["min_version"]) == ("v1.0", "1.0")
    assert placement("/resource_providers", version="1.999").status_code == 406


def test_members_may_not_read(demo_sdk, placement):
    assert demo_sdk.placement.get("/resource_providers").status_code == 403
