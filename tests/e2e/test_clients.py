"""The stock clients: what they say of the service on their way, and their basics as libraries."""

import re

import novaclient as novaclient_package
import pytest
from novaclient import api_versions
from novaclient import client as novaclient

from cloud import wait_until

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIYJGQ0zKdcMFC5a/fJsGFFsYgqCuCIJkORzvrBaN4NM e2e"

# What keystoneauth, the SDK and the command say when a service does not describe itself as they expect.
COMPLAINTS = re.compile(
    r"fall ?back|failed to discover|no version document|does not (?:have|provide) .*discovery|unable to (?:find|determine)"
    r"|failed to contact the endpoint|\b(?:300|400|404|406|5\d\d)\b [A-Z]|warning",
    re.IGNORECASE,
)


@pytest.mark.parametrize("arguments", [(), ("--os-compute-api-version", "2.104")], ids=["default", "newest"])
def test_the_command_negotiates_without_detours(demo, arguments):
    done = demo._call(["--debug", *arguments, "server", "list"])
    assert done.returncode == 0, done.stderr
    asked = [line for line in done.stderr.splitlines() if line.startswith("REQ: ")]
    assert any("/v2.1/servers/detail" in line for line in asked), done.stderr
    said = [line for line in done.stderr.splitlines() if COMPLAINTS.search(line) and not line.startswith("command: ")]
    # Nobody tries a second way. 300 is how a list of versions is answered.
    answers = re.findall(r"^RESP: \[(\d+)\]", done.stderr, re.MULTILINE)
    assert set(answers) <= {"200", "300"} and len(answers) == len(asked), (answers, said)
    assert not [line for line in said if "RESP BODY" not in line and "REQ" not in line], said


def test_the_sdk(demo_sdk, image, name):
    compute = demo_sdk.compute
    assert compute.get_endpoint_data().max_microversion == (2, 104)
    flavor = compute.find_flavor("m1.nano", ignore_missing=False)
    server = demo_sdk.create_server(
        name, image=image["id"], flavor=flavor.id, network="private", wait=True, auto_ip=False
    )
    try:
        assert (server.status, server.image.id) == ("ACTIVE", image["id"])
        assert compute.find_server(name).id == server.id
        compute.set_server_metadata(server, role="web")
        assert compute.get_server_metadata(server).metadata == {"role": "web"}
        compute.stop_server(server)
        compute.wait_for_server(server, "SHUTOFF", wait=60)
        compute.start_server(server)
        compute.wait_for_server(server, "ACTIVE", wait=60)
        assert [one.id for one in compute.servers(name=name, limit=1)] == [server.id]
        assert {action.action for action in compute.server_actions(server)} >= {"create", "stop", "start"}
    finally:
        demo_sdk.delete_server(server.id, wait=True)
    assert compute.find_server(name) is None


@pytest.fixture(scope="module")
def nova(demo_sdk):
    """novaclient at the newest version that both know, which it asks the service for."""
    at_least = novaclient.Client("2.1", session=demo_sdk.session)
    best = api_versions.discover_version(at_least, api_versions.APIVersion("2.latest"))
    return novaclient.Client(best, session=demo_sdk.session)


def test_novaclient(nova, demo_sdk, image, name):
    newest = novaclient_package.API_MAX_VERSION
    assert nova.api_version == newest, "the service knows what the client knows"
    flavor = next(flavor for flavor in nova.flavors.list() if flavor.name == "m1.nano")
    network = demo_sdk.network.find_network("private", ignore_missing=False)
    key = nova.keypairs.create(name, key_type="ssh", public_key=PUBLIC_KEY)
    server = nova.servers.create(name, image["id"], flavor, nics=[{"net-id": network.id}], key_name=key.name)
    try:
        wait_until(lambda: nova.servers.get(server.id).status == "ACTIVE", 60, "ACTIVE")
        shown = nova.servers.get(server.id)
        assert (shown.key_name, shown.flavor["original_name"]) == (name, "m1.nano")
        assert [one.id for one in nova.servers.list(search_opts={"name": f"^{name}$"})] == [server.id]
        nova.servers.set_tags(server, ["one", "two"])
        assert sorted(nova.servers.tag_list(server)) == ["one", "two"]
        nova.servers.lock(server, reason="a test")
        assert nova.servers.get(server.id).locked_reason == "a test"
        nova.servers.unlock(server)
        assert nova.instance_action.list(server)[-1].action == "create"
        assert nova.limits.get().to_dict()["absolute"]["totalInstancesUsed"] >= 1
    finally:
        nova.servers.delete(server)
        nova.keypairs.delete(key)
    wait_until(lambda: not nova.servers.list(search_opts={"name": f"^{name}$"}), 60, "gone")
