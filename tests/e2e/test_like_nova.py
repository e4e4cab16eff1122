"""What Nova does with projects that do not exist, with filters, with versions beyond all bounds, and with traits."""

import openstack
import pytest

from test_bad_input import Api


@pytest.fixture
def sdk(cloud):
    return cloud.client("kilonova").sdk()


@pytest.fixture
def api(cloud, sdk):
    return Api(cloud, sdk)


def test_projects_that_identity_does_not_have(api, sdk, name):
    nowhere = "0123456789abcdef0123456789abcdef"
    flavor = sdk.compute.create_flavor(name=name, ram=64, vcpus=1, disk=0, is_public=False)
    action = f"/flavors/{flavor.id}/action"
    quota = {"quota_set": {"cores": 5}}
    for verb, path, body in [
        ("GET", f"/os-quota-sets/{nowhere}", None),
        ("GET", f"/os-quota-sets/{nowhere}/detail", None),
        ("GET", f"/os-quota-sets/{nowhere}/defaults", None),
        ("PUT", f"/os-quota-sets/{nowhere}", quota),
        ("POST", action, {"addTenantAccess": {"tenant": nowhere}}),
    ]:
        answer = api.send(verb, path, body)
        assert answer.status_code == 400, (verb, path, answer.text)
        assert f"Project ID {nowhere} is not a valid project." in answer.text
    # What was set for one that is gone can be taken back.
    assert api.send("DELETE", f"/os-quota-sets/{nowhere}").status_code == 202
    assert api.send("POST", action, {"removeTenantAccess": {"tenant": nowhere}}).status_code == 404
    project = sdk.identity.find_project("demo").id
    assert api.send("POST", action, {"addTenantAccess": {"tenant": project}}).status_code == 200
    sdk.compute.delete_flavor(flavor)


def test_versions_beyond_all_bounds(api):
    for version, status in [("2.9999", 406), ("2.99999999999999999999", 406), ("2.x", 400), ("2.01", 400)]:
        answer = api.send("GET", "/flavors", OpenStack_API_Version=f"compute {version}")
        assert answer.status_code == status, (version, answer.text)


def test_filters_and_traits(api, sdk, name):
    flavor = sdk.compute.create_flavor(name=name, ram=64, vcpus=1, disk=1)
    wish = {"name": name, "image_id": next(sdk.image.images()).id, "flavor_id": flavor.id, "networks": "none"}

    def build(trait, wanted):
        sdk.compute.create_flavor_extra_specs(flavor, {f"trait:{trait}": wanted})
        server = sdk.compute.create_server(**wish)
        try:
            return sdk.compute.wait_for_server(server, wait=60)
        except openstack.exceptions.ResourceFailure:
            return sdk.compute.get_server(server)
        finally:
            sdk.compute.delete_flavor_extra_specs_property(flavor, f"trait:{trait}")

    built = build("COMPUTE_VOLUME_MULTI_ATTACH", "required")
    refused = [build("COMPUTE_VOLUME_MULTI_ATTACH", "forbidden"), build("HW_CPU_X86_SGX", "required")]
    assert built.status == "ACTIVE" and {s.status for s in refused} == {"ERROR"}
    assert "HW_CPU_X86_SGX" in refused[1].fault["details"] or "No valid host" in refused[1].fault["message"]
    node, host = built.hypervisor_hostname, built.compute_host
    for query, found in [
        (f"host={host}", True),
        (f"host={host[:-1]}", False),
        (f"node={node[:-1]}", True),
        (f"node=^{node[1:]}", False),
        ("availability_zone=^nov", True),
        ("availability_zone=east", False),
        ("root_device_name=vd[ab]", True),
    ]:
        answer = api.send("GET", f"/servers?all_tenants=1&name=^{name}$&{query}")
        ids = {server["id"] for server in answer.json()["servers"]}
        assert (built.id in ids) == found, (query, answer.text)
    for server in [built, *refused]:
        sdk.compute.delete_server(server)
