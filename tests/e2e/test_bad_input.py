"""Bad input gets Nova's status and fault name, and a message that helps."""

import datetime
import json

import pytest
import requests

from cloud import wait_until

GONE = "00000000-0000-4000-8000-000000000000"


class Api:
    """Plain requests to the compute API, so that what is sent is exactly what the test says."""

    def __init__(self, cloud, sdk):
        self.base = f"http://127.0.0.1:{cloud.ports['compute']}/v2.1"
        self.token = sdk.auth_token

    @classmethod
    def of(cls, other, sdk):
        """The same cloud as somebody else."""
        made = cls.__new__(cls)
        made.base, made.token = other.base, sdk.auth_token
        return made

    def send(self, method, path, body=None, data=None, version="2.90", **headers):
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        headers.setdefault("X-Auth-Token", self.token)
        headers.setdefault("OpenStack-API-Version", f"compute {version}")
        if body is not None:
            data = json.dumps(body)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        return requests.request(method, self.base + path, data=data, headers=headers, timeout=120)


def check(answer, status, fault, *words):
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["X-Openstack-Request-Id"].startswith("req-")
    document = answer.json()
    assert list(document) == [fault], document
    assert document[fault]["code"] == status
    message = document[fault]["message"]
    for word in words:
        assert word.lower() in message.lower(), message


@pytest.fixture(scope="module")
def api(cloud, demo_sdk):
    return Api(cloud, demo_sdk)


@pytest.fixture(scope="module")
def parts(demo_sdk, image):
    return {
        "name": "bad",
        "imageRef": image["id"],
        "flavorRef": demo_sdk.compute.find_flavor("m1.nano").id,
        "networks": [{"uuid": demo_sdk.network.find_network("private").id}],
    }


def test_malformed_json(api):
    check(api.send("POST", "/servers", data='{"server": '), 400, "badRequest", "malformed")


def test_wrong_content_type(api):
    answer = api.send("POST", "/servers", data="<server/>", Content_Type="application/xml")
    check(answer, 415, "badMediaType")


def test_body_over_the_limit(api):
    """The limit is that of oslo.middleware: 114688 bytes, for a length that is announced and for one that is not."""
    big = '{"server": {"name": "' + "x" * 200_000 + '"}}'
    assert api.send("POST", "/servers", data=big).status_code == 413
    chunks = (big[start : start + 1000].encode() for start in range(0, len(big), 1000))
    assert api.send("POST", "/servers", data=chunks).status_code == 413
    fits = '{"server": {"name": "' + "x" * 100_000 + '"}}'
    check(api.send("POST", "/servers", data=fits), 400, "badRequest", "name")


@pytest.mark.parametrize("document", ["[]", "7", '"text"', "null", "{}", '{"server": 7}', '{"server": []}', ""])
def test_json_that_is_no_server(api, document):
    check(api.send("POST", "/servers", data=document), 400, "badRequest")


def test_deep_and_strange_json(api):
    for document in ("[" * 5000, '{"server": ' * 5000, '{"a": 1e999999}', '{"server": "\\ud800"}', '{"server": NaN}'):
        assert api.send("POST", "/servers", data=document).status_code == 400, document[:20]
    assert api.send("POST", "/servers", data=b'\xff\xfe{"server": {}}').status_code == 400
    assert api.send("GET", "/servers?limit=-1").status_code == 400
    assert api.send("GET", "/servers?limit=x").status_code == 400
    check(api.send("GET", f"/servers?marker={GONE}"), 400, "badRequest", GONE)


def test_answers_are_packed_when_asked(api):
    plain = api.send("GET", "/flavors/detail", Accept_Encoding="identity")
    packed = api.send("GET", "/flavors/detail", Accept_Encoding="gzip")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "accept-encoding" in packed.headers["Vary"].lower()
    assert packed.json() == plain.json()


@pytest.mark.parametrize(("version", "status"), [("2.105", 406), ("3.0", 406), ("2", 400), ("new", 400)])
def test_unknown_microversions(api, version, status):
    answer = api.send("GET", "/servers", version=version)
    assert answer.status_code == status, answer.text
    assert version in answer.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "x"}, ["additional properties", "nmae"]),
        ({"name": 7}, ["name", "7"]),
        ({"name": ""}, ["name"]),
        ({"name": "x" * 256}, ["name"]),
        ({"metadata": {"role": 1}}, ["role", "string"]),
        ({"min_count": 0}, ["min_count"]),
        ({"min_count": 3, "max_count": 2}, ["min_count"]),
        ({"config_drive": "maybe"}, ["config_drive"]),
        ({"networks": [{"uuid": "not-an-id"}]}, ["not-an-id"]),
        ({"user_data": "not base64!"}, ["user_data"]),
    ],
)
def test_fields(api, parts, change, words):
    check(api.send("POST", "/servers", {"server": {**parts, **change}}), 400, "badRequest", *words)


@pytest.mark.parametrize("missing", ["name", "flavorRef", "networks"])
def test_missing_fields(api, parts, missing):
    body = {key: value for key, value in parts.items() if key != missing}
    check(api.send("POST", "/servers", {"server": body}), 400, "badRequest", missing)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"imageRef": GONE}, ["image"]),
        ({"flavorRef": GONE}, [GONE]),
        ({"networks": [{"uuid": GONE}]}, [GONE]),
        ({"networks": [{"port": GONE}]}, [GONE]),
        ({"key_name": "no-such-key"}, ["key"]),
        ({"security_groups": [{"name": "no-such-group"}]}, ["no-such-group"]),
        ({"availability_zone": "no-such-zone"}, ["zone"]),
    ],
)
def test_unknown_things(api, parts, change, words):
    check(api.send("POST", "/servers", {"server": {**parts, **change}}), 400, "badRequest", *words)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/servers/{GONE}", None),
        ("DELETE", f"/servers/{GONE}", None),
        ("POST", f"/servers/{GONE}/action", {"reboot": {"type": "SOFT"}}),
        ("GET", f"/flavors/{GONE}", None),
        ("GET", "/os-keypairs/none", None),
    ],
)
def test_not_found(api, method, path, body):
    check(api.send(method, path, body), 404, "itemNotFound", path.split("/")[2])


@pytest.mark.parametrize("token", [None, "", "garbage", "gAAAAAB" + "x" * 180, "x" * 20000])
def test_tokens(api, token):
    headers = {} if token is None else {"X-Auth-Token": token}
    answer = requests.get(api.base + "/servers", headers=headers, timeout=120)
    assert answer.status_code in (400, 401, 431), answer.text
    if answer.status_code == 401:
        assert "WWW-Authenticate" in answer.headers or answer.json()


def test_revoked_token(cloud, demo, api):
    other = demo.sdk()
    token = other.auth_token
    assert api.send("GET", "/servers", X_Auth_Token=token).status_code == 200
    other.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
    wait_until(lambda: api.send("GET", "/servers", X_Auth_Token=token).status_code == 401, 60, "the token is refused")


def test_expired_token(cloud, demo_sdk, api):
    """A token never outlives the application credential that it came from."""
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=40)
    made = demo_sdk.identity.post(
        f"/users/{demo_sdk.current_user_id}/application_credentials",
        json={"application_credential": {"name": "short", "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%f")}},
    )
    assert made.status_code == 201, made.text
    made = made.json()["application_credential"]
    login = {"id": made["id"], "secret": made["secret"]}
    body = {"auth": {"identity": {"methods": ["application_credential"], "application_credential": login}}}
    url = f"http://127.0.0.1:{cloud.ports['identity']}/v3/auth/tokens"
    answer = requests.post(url, json=body, timeout=120)
    assert answer.status_code == 201, answer.text
    token = answer.headers["X-Subject-Token"]
    assert api.send("GET", "/servers", X_Auth_Token=token).status_code == 200
    wait_until(lambda: api.send("GET", "/servers", X_Auth_Token=token).status_code == 401, 120, "the token has expired")
    assert requests.post(url, json=body, timeout=120).status_code == 401


def test_token_of_another_cloud(new_cloud, api):
    other = new_cloud(hosts=1)
    other.start()
    token = other.client("kilonova").sdk().auth_token
    answer = api.send("GET", "/servers", X_Auth_Token=token)
    assert answer.status_code == 401, answer.text
    assert "WWW-Authenticate" in answer.headers
    other.stop()


def test_another_projects_server_is_not_there(api, admin_sdk, image, parts):
    server = admin_sdk.compute.create_server(
        name="foreign", image_id=image["id"], flavor_id=parts["flavorRef"], networks=parts["networks"]
    )
    admin_sdk.compute.wait_for_server(server, wait=60)
    try:
        check(api.send("GET", f"/servers/{server.id}"), 404, "itemNotFound", server.id)
        check(api.send("DELETE", f"/servers/{server.id}"), 404, "itemNotFound")
        check(api.send("GET", "/servers?all_tenants=1"), 403, "forbidden")
    finally:
        admin_sdk.compute.delete_server(server)
        admin_sdk.compute.wait_for_delete(server, wait=60)


def test_image_too_large_for_the_flavor(api, admin_sdk, parts, image):
    admin_sdk.image.update_image(image["id"], min_ram=100_000)
    try:
        check(api.send("POST", "/servers", {"server": parts}), 400, "badRequest", "memory")
    finally:
        admin_sdk.image.update_image(image["id"], min_ram=0)


def test_disk_of_the_image_and_the_flavor(api, admin_sdk, demo_sdk, parts, image):
    """Too large by what the image demands, and by what it is."""
    admin_sdk.image.update_image(image["id"], min_disk=500)
    try:
        check(api.send("POST", "/servers", {"server": parts}), 400, "badRequest", "disk")
    finally:
        admin_sdk.image.update_image(image["id"], min_disk=0)


def test_image_without_data(api, demo_sdk, parts):
    empty = demo_sdk.image.create_image(name="empty", disk_format="raw", container_format="bare", allow_duplicates=True)
    try:
        answer = api.send("POST", "/servers", {"server": {**parts, "imageRef": empty.id}})
        check(answer, 400, "badRequest", "not active")
    finally:
        demo_sdk.image.delete_image(empty)


def test_quota_exceeded(api, parts):
    """Which quota, how much is asked for, how much is there."""
    answer = api.send("POST", "/servers", {"server": {**parts, "min_count": 60}})
    check(answer, 403, "forbidden", "quota exceeded for", "instances", "requested 60", "already used")


def test_two_networks_and_none_named(api, demo_sdk, parts):
    body = {key: value for key, value in parts.items() if key != "networks"}
    own = demo_sdk.network.create_network(name="second")
    demo_sdk.network.create_subnet(network_id=own.id, ip_version=4, cidr="10.33.0.0/24")
    try:
        check(api.send("POST", "/servers", {"server": body}, version="2.1"), 409, "conflictingRequest", "networks")
    finally:
        demo_sdk.network.delete_network(own)


def test_port_in_use(api, demo_sdk, parts):
    network = parts["networks"][0]["uuid"]
    port = demo_sdk.network.create_port(network_id=network)
    first = demo_sdk.compute.create_server(
        name="holder", image_id=parts["imageRef"], flavor_id=parts["flavorRef"], networks=[{"port": port.id}]
    )
    demo_sdk.compute.wait_for_server(first, wait=60)
    try:
        answer = api.send("POST", "/servers", {"server": {**parts, "networks": [{"port": port.id}]}})
        check(answer, 409, "conflictingRequest", port.id)
    finally:
        demo_sdk.compute.delete_server(first)
        demo_sdk.compute.wait_for_delete(first, wait=60)
        demo_sdk.network.delete_port(port)


def test_full_subnet(demo_sdk, parts):
    """The fault of the server says why."""
    network = demo_sdk.network.create_network(name="full")
    demo_sdk.network.create_subnet(
        network_id=network.id,
        ip_version=4,
        cidr="10.34.0.0/29",
        is_dhcp_enabled=False,
        allocation_pools=[{"start": "10.34.0.2", "end": "10.34.0.2"}],
    )
    taken = demo_sdk.network.create_port(network_id=network.id)
    try:
        fault = fault_of(demo_sdk, parts, networks=[{"uuid": network.id}])
        assert f"No fixed IP addresses available for network: {network.id}" in fault, fault
    finally:
        demo_sdk.network.delete_port(taken)
        demo_sdk.network.delete_network(network)


def test_no_valid_host(admin_sdk, demo_sdk, parts):
    flavor = admin_sdk.compute.create_flavor(name="huge", ram=64 * 1024 * 1024, vcpus=1, disk=1)
    admin_sdk.compute.put("/os-quota-sets/" + demo_sdk.current_project_id, json={"quota_set": {"ram": -1}})
    try:
        fault = fault_of(demo_sdk, parts, flavor_id=flavor.id)
        assert "No valid host was found. 3 hosts considered: 3 without enough memory" in fault, fault
    finally:
        admin_sdk.compute.delete_flavor(flavor)


def fault_of(sdk, parts, **change):
    """Makes a server that cannot be, waits for ERROR, deletes it; gives the message."""
    body = {
        "name": "doomed",
        "image_id": parts["imageRef"],
        "flavor_id": parts["flavorRef"],
        "networks": parts["networks"],
        **change,
    }
    server = sdk.compute.create_server(**body)
    wait_until(lambda: sdk.compute.get_server(server.id).status == "ERROR", 60, "ERROR")
    fault = sdk.compute.get_server(server.id).fault
    sdk.compute.delete_server(server)
    sdk.compute.wait_for_delete(server, wait=60)
    assert not list(sdk.network.ports(device_id=server.id))
    return fault["message"]


def test_names_that_nova_refuses_twice(admin_sdk, demo_sdk, api, key):
    public = key.with_suffix(".pub").read_text()
    body = {"keypair": {"name": "twice", "type": "ssh", "public_key": public}}
    assert api.send("POST", "/os-keypairs", body).status_code == 201
    try:
        check(api.send("POST", "/os-keypairs", body), 409, "conflictingRequest", "twice")
    finally:
        api.send("DELETE", "/os-keypairs/twice")
    flavor = {"flavor": {"name": "m1.tiny", "ram": 64, "vcpus": 1, "disk": 0}}
    admin = Api.of(api, admin_sdk)
    check(admin.send("POST", "/flavors", flavor), 409, "conflictingRequest", "m1.tiny")
    check(api.send("POST", "/flavors", flavor), 403, "forbidden")
    aggregate = {"aggregate": {"name": "twice", "availability_zone": None}}
    made = admin.send("POST", "/os-aggregates", aggregate)
    assert made.status_code == 200, made.text
    try:
        check(admin.send("POST", "/os-aggregates", aggregate), 409, "conflictingRequest", "twice")
    finally:
        admin.send("DELETE", f"/os-aggregates/{made.json()['aggregate']['id']}")


def test_unknown_action_and_wrong_method(api, demo_sdk):
    assert api.send("PATCH", "/servers").status_code in (404, 405)
    answer = api.send("POST", f"/servers/{GONE}/action", {"explode": None})
    assert answer.status_code in (400, 404), answer.text


def test_image_properties_that_make_no_sense(api, parts, demo, name, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    demo.run("image", "create", "--file", disk, "--disk-format", "raw", "--container-format", "bare", name)
    demo.run("image", "set", "--property", "hw_disk_bus=floppy", name)
    odd = demo.get("image", "show", name)["id"]
    for path in ("/servers", "/servers?dry_run=true"):
        answer = api.send("POST", path, {"server": {**parts, "imageRef": odd}})
        check(answer, 400, "badRequest", "Invalid image metadata. Error: Field value floppy is invalid", "hw_disk_bus")
    demo.run("image", "set", "--property", "hw_disk_bus=scsi", "--property", "hw_qemu_guest_agent=On", name)
    answer = api.send("POST", "/servers?dry_run=true", {"server": {**parts, "imageRef": odd}})
    assert answer.status_code == 200, answer.text
    demo.run("image", "delete", name)
