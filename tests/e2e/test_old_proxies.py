"""What older clients ask compute about images, networks, groups, addresses and hosts, answered by the other services."""

import base64

import pytest

from cloud import wait_until
from test_bad_input import GONE, Api, check

OLD = "2.35"


@pytest.fixture(scope="module")
def old(cloud, demo_sdk):
    return Api(cloud, demo_sdk)


@pytest.fixture(scope="module")
def boss(cloud, admin_sdk):
    return Api(cloud, admin_sdk)


def get(api, path, version=OLD):
    answer = api.send("GET", path, version=version)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_images(old, boss, image, admin_sdk, name):
    listed = get(old, "/images?limit=1")
    assert len(listed["images"]) == 1 and listed["images_links"][0]["rel"] == "next"
    shown = get(old, f"/images/{image['id']}")["image"]
    assert (shown["status"], shown["progress"], shown["OS-EXT-IMG-SIZE:size"]) == ("ACTIVE", 100, image["size"])
    assert [link["rel"] for link in shown["links"]] == ["self", "bookmark", "alternate"]
    assert shown["id"] in {one["id"] for one in get(old, "/images/detail?status=ACTIVE")["images"]}
    assert get(old, "/images?name=no-such-name")["images"] == []
    check(old.send("GET", f"/images/{GONE}", version=OLD), 404, "itemNotFound", "Image not found.")
    check(old.send("GET", "/images", version="2.36"), 404, "itemNotFound")
    check(old.send("GET", "/images?limit=x", version=OLD), 400, "badRequest", "does not match")

    made = admin_sdk.image.create_image(name=name, disk_format="raw", container_format="bare", allow_import=False)
    path = f"/images/{made.id}/metadata"
    answer = boss.send("POST", path, {"metadata": {"colour": "red", "hw/x": "1"}}, version=OLD)
    check(answer, 400, "badRequest", "hw/x")
    answer = boss.send("POST", path, {"metadata": {"colour": "red", "kind": "1"}}, version=OLD)
    assert answer.json()["metadata"].items() >= {"colour": "red", "kind": "1"}.items(), answer.text
    assert boss.send("PUT", path, {"metadata": {"shape": "round"}}, version="2.38").json() == {
        "metadata": {"shape": "round"}
    }
    assert boss.send("PUT", path + "/a", {"meta": {"a": "b"}}, version=OLD).json() == {"meta": {"a": "b"}}
    check(boss.send("PUT", path + "/z", {"meta": {"a": "b"}}, version=OLD), 400, "badRequest", "mismatch")
    assert get(boss, path)["metadata"] == {"shape": "round", "a": "b"}
    assert get(boss, path + "/a") == {"meta": {"a": "b"}}
    assert boss.send("DELETE", path + "/a", version=OLD).status_code == 204
    check(boss.send("DELETE", path + "/a", version=OLD), 404, "itemNotFound", "Invalid metadata key")
    check(old.send("DELETE", f"/images/{image['id']}", version=OLD), 403, "forbidden", "not allowed")
    assert boss.send("DELETE", f"/images/{made.id}", version=OLD).status_code == 204
    check(boss.send("GET", f"/images/{made.id}", version=OLD), 404, "itemNotFound")


def test_networks(old, boss, demo_sdk):
    private = demo_sdk.network.find_network("private").id
    shown = get(old, f"/os-networks/{private}")["network"]
    assert (shown["id"], shown["label"], shown["cidr"]) == (private, "private", None) and len(shown) == 11
    assert len(get(boss, f"/os-networks/{private}")["network"]) == 32
    tenant = {"id": private, "cidr": "None", "label": "private"}
    assert tenant in get(old, "/os-tenant-networks")["networks"]
    check(old.send("GET", f"/os-networks/{GONE}", version=OLD), 404, "itemNotFound", "Network not found")
    check(old.send("POST", "/os-networks", {}, version=OLD), 410, "computeFault")


def test_security_groups(old, name):
    made = old.send("POST", "/os-security-groups", {"security_group": {"name": name, "description": "d"}}, version=OLD)
    assert made.status_code == 200, made.text
    group = made.json()["security_group"]
    assert set(group) == {"id", "name", "description", "tenant_id", "rules"} and group["rules"] == []
    path = f"/os-security-groups/{group['id']}"

    def rule(**what):
        body = {"security_group_rule": {"parent_group_id": group["id"], **what}}
        return old.send("POST", "/os-security-group-rules", body, version=OLD)

    answer = rule(ip_protocol="tcp", from_port="22", to_port=22, cidr="10.0.0.0/24")
    assert answer.status_code == 200, answer.text
    by_range = answer.json()["security_group_rule"]
    assert (by_range["ip_protocol"], by_range["from_port"]) == ("tcp", 22)
    assert by_range["ip_range"] == {"cidr": "10.0.0.0/24"}
    by_group = rule(ip_protocol="icmp", group_id=group["id"]).json()["security_group_rule"]
    assert by_group["group"] == {"name": name, "tenant_id": group["tenant_id"]}
    assert (by_group["from_port"], by_group["to_port"], by_group["ip_range"]) == (-1, -1, {})
    twice = rule(ip_protocol="tcp", from_port=22, to_port=22, cidr="10.0.0.0/24")
    check(twice, 400, "badRequest", "already exists")
    check(rule(cidr="10.0.0.0/24"), 400, "badRequest", "Not enough parameters")

    assert len(get(old, path)["security_group"]["rules"]) == 2
    assert name in [one["name"] for one in get(old, "/os-security-groups")["security_groups"]]
    renamed = old.send("PUT", path, {"security_group": {"name": name + "x", "description": ""}}, version=OLD)
    assert renamed.json()["security_group"]["name"] == name + "x"
    assert old.send("DELETE", f"/os-security-group-rules/{by_range['id']}", version=OLD).status_code == 202
    assert len(get(old, path)["security_group"]["rules"]) == 1
    assert old.send("DELETE", path, version=OLD).status_code == 202
    check(old.send("GET", path, version=OLD), 404, "itemNotFound")
    check(old.send("GET", "/os-security-groups/x", version=OLD), 400, "badRequest", "should be uuid")


def server(old, demo_sdk, image, name, **more):
    network = more.pop("network", None) or demo_sdk.network.find_network("private").id
    body = {
        "name": name,
        "imageRef": image["id"],
        "flavorRef": demo_sdk.compute.find_flavor("m1.nano").id,
        "networks": [{"uuid": network}],
        **more,
    }
    answer = old.send("POST", "/servers", {"server": body}, version=OLD)
    assert answer.status_code == 202, answer.text
    path = f"/servers/{answer.json()['server']['id']}"
    wait_until(lambda: get(old, path)["server"]["status"] == "ACTIVE", 60, "the server is there")
    return path


def test_floating_addresses(old, demo_sdk, image, name):
    assert {"name": "public"} in get(old, "/os-floating-ip-pools")["floating_ip_pools"]
    made = old.send("POST", "/os-floating-ips", {"pool": "public"}, version=OLD)
    assert made.status_code == 200, made.text
    floating = made.json()["floating_ip"]
    assert (floating["pool"], floating["fixed_ip"], floating["instance_id"]) == ("public", None, None)
    unknown = old.send("POST", "/os-floating-ips", {"pool": "no-such"}, version=OLD)
    check(unknown, 404, "itemNotFound", "pool not found")

    path = server(old, demo_sdk, image, name)

    def act(action, **what):
        return old.send("POST", path + "/action", {action: {"address": floating["ip"], **what}}, version="2.43")

    check(act("addFloatingIp", fixed_address="192.0.2.1"), 400, "badRequest", "not assigned")
    answer = act("addFloatingIp")
    assert answer.status_code == 202, answer.text
    shown = get(old, f"/os-floating-ips/{floating['id']}")["floating_ip"]
    assert shown["instance_id"] == path.rsplit("/", 1)[1] and shown["fixed_ip"]
    assert shown in get(old, "/os-floating-ips")["floating_ips"]

    def addresses():
        return [one["addr"] for of in get(old, path)["server"]["addresses"].values() for one in of]

    wait_until(lambda: floating["ip"] in addresses(), 60, "the server shows the address")
    assert act("removeFloatingIp").status_code == 202
    check(act("removeFloatingIp"), 403, "forbidden")
    wait_until(lambda: floating["ip"] not in addresses(), 60, "the server does not show the address")
    assert old.send("DELETE", f"/os-floating-ips/{floating['id']}", version=OLD).status_code == 202
    check(old.send("GET", f"/os-floating-ips/{floating['id']}", version=OLD), 404, "itemNotFound")

    groups = get(old, path + "/os-security-groups", "2.104")["security_groups"]
    assert [one["name"] for one in groups] == ["default"] and groups[0]["rules"]
    assert get(old, path + "/topology", "2.104") == {"nodes": [], "pagesize_kb": None}
    assert get(old, path + "/os-server-password") == {"password": ""}
    old.send("DELETE", path)


def test_files_have_limits(old, demo_sdk, image, name):
    def files(count, size=1):
        content = base64.b64encode(b"x" * size).decode()
        return [{"path": f"/etc/{number}", "contents": content} for number in range(count)]

    network = demo_sdk.network.find_network("private").id
    body = {"name": name, "imageRef": image["id"], "flavorRef": "1", "networks": [{"uuid": network}]}
    body["flavorRef"] = demo_sdk.compute.find_flavor("m1.nano").id
    many = old.send("POST", "/servers", {"server": {**body, "personality": files(6)}}, version="2.56")
    check(many, 403, "forbidden", "Personality file limit exceeded")
    large = old.send("POST", "/servers", {"server": {**body, "personality": files(1, 9000)}}, version="2.56")
    check(large, 403, "forbidden", "content exceeds maximum 10240")
    path = server(old, demo_sdk, image, name, personality=files(2), config_drive=True)
    old.send("DELETE", path)


def test_hosts(old, boss):
    hosts = get(boss, "/os-hosts", "2.42")["hosts"]
    compute = [one["host_name"] for one in hosts if one["service"] == "compute"]
    assert len(compute) == 3 and {one["zone"] for one in hosts} == {"nova", "internal"}
    assert len(get(boss, "/os-hosts?zone=nova")["hosts"]) == 3
    host = compute[0]
    shown = [one["resource"] for one in get(boss, f"/os-hosts/{host}")["host"]]
    assert [one["project"] for one in shown][:3] == ["(total)", "(used_now)", "(used_max)"]
    assert shown[0]["cpu"] > 0 and shown[0]["host"] == host
    off = boss.send("PUT", f"/os-hosts/{host}", {"status": "disable"}, version=OLD)
    assert off.json() == {"host": host, "status": "disabled"}
    assert host not in [one["host_name"] for one in get(boss, "/os-hosts")["hosts"]]
    assert boss.send("PUT", f"/os-hosts/{host}", {"status": "enable"}, version=OLD).status_code == 200
    check(boss.send("GET", f"/os-hosts/{host}/reboot", version=OLD), 501, "notImplemented", "not supported")
    check(boss.send("GET", "/os-hosts/nowhere", version=OLD), 404, "itemNotFound", "not mapped")
    check(old.send("GET", "/os-hosts", version=OLD), 403, "forbidden")
    check(boss.send("GET", "/os-hosts", version="2.43"), 404, "itemNotFound")


def test_uptime(boss):
    """Hosts say how long they run: below 2.88 one by one, later within the details."""
    node = get(boss, "/os-hypervisors", "2.87")["hypervisors"][0]["id"]
    alone = get(boss, f"/os-hypervisors/{node}/uptime", "2.87")["hypervisor"]["uptime"]
    within = get(boss, f"/os-hypervisors/{node}", "2.88")["hypervisor"]["uptime"]
    assert " up " in alone and "load average:" in within
    assert all(" up " in one["uptime"] for one in get(boss, "/os-hypervisors/detail", "2.104")["hypervisors"])


def test_images_ahead(boss, image, name):
    made = boss.send("POST", "/os-aggregates", {"aggregate": {"name": name}}).json()["aggregate"]
    path = f"/os-aggregates/{made['id']}"
    host = get(boss, "/os-hosts?zone=nova")["hosts"][0]["host_name"]
    assert boss.send("POST", path + "/action", {"add_host": {"host": host}}).status_code == 200
    assert boss.send("POST", path + "/images", {"cache": [{"id": image["id"]}]}).status_code == 202
    twice = {"cache": [{"id": image["id"]}] * 2}
    check(boss.send("POST", path + "/images", twice), 400, "badRequest", "Duplicate images")
    check(boss.send("POST", path + "/images", {"cache": [{"id": GONE}]}), 400, "badRequest", "could not be found")
    check(boss.send("POST", "/os-aggregates/99999/images", twice), 400, "badRequest")
    boss.send("POST", path + "/action", {"remove_host": {"host": host}})
    assert boss.send("DELETE", path).status_code == 200


def test_events_from_other_services(old, boss, demo_sdk, image, name):
    path = server(old, demo_sdk, image, name)
    uuid = path.rsplit("/", 1)[1]
    events = [{"name": "network-changed", "server_uuid": uuid, "status": "completed", "tag": "x"}]
    answer = boss.send("POST", "/os-server-external-events", {"events": events})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"events": [{**events[0], "code": 200}]}
    events += [{"name": "volume-extended", "server_uuid": uuid}, {"name": "network-changed", "server_uuid": GONE}]
    mixed = boss.send("POST", "/os-server-external-events", {"events": events})
    assert mixed.status_code == 207
    assert [(one["code"], one["status"]) for one in mixed.json()["events"]] == [
        (200, "completed"),
        (400, "failed"),
        (404, "failed"),
    ]
    older = boss.send("POST", "/os-server-external-events", {"events": events}, version="2.50")
    check(older, 400, "badRequest", "is not one of")
    check(old.send("POST", "/os-server-external-events", {"events": events}), 403, "forbidden")
    old.send("DELETE", path)


def test_volumes(old, demo_sdk, name):
    made = old.send("POST", "/os-volumes", {"volume": {"size": 1, "display_name": name}}, version=OLD)
    assert made.status_code == 200, made.text
    volume = made.json()["volume"]
    path = f"/os-volumes/{volume['id']}"
    assert made.headers["Location"].endswith(path)
    wait_until(lambda: get(old, path)["volume"]["status"] == "available", 60, "the volume")
    shown = get(old, path)["volume"]
    assert (shown["displayName"], shown["size"], shown["attachments"]) == (name, 1, [{}])
    assert volume["id"] in {one["id"] for one in get(old, "/os-volumes/detail")["volumes"]}
    snapshot = old.send("POST", "/os-snapshots", {"snapshot": {"volume_id": volume["id"]}}, version=OLD).json()
    copy = f"/os-snapshots/{snapshot['snapshot']['id']}"
    wait_until(lambda: get(old, copy)["snapshot"]["status"] == "available", 60, "the snapshot")
    assert get(old, copy)["snapshot"]["volumeId"] == volume["id"]
    check(old.send("DELETE", path, version=OLD), 400, "badRequest", "snapshot")
    assert old.send("DELETE", copy, version=OLD).status_code == 202
    gone = lambda path: old.send("GET", path, version=OLD).status_code == 404  # noqa: E731
    wait_until(lambda: gone(copy), 60, "the snapshot is gone")
    assert old.send("DELETE", path, version=OLD).status_code == 202
    wait_until(lambda: gone(path), 60, "the volume is gone")
    check(old.send("GET", f"/os-volumes/{GONE}", version=OLD), 404, "itemNotFound", "could not be found")
    check(old.send("GET", "/os-volumes", version="2.36"), 404, "itemNotFound")


def test_services_that_are_not_there(old, boss):
    check(boss.send("GET", "/os-baremetal-nodes", version=OLD), 501, "notImplemented", "bare metal")
    answer = old.send("POST", "/os-baremetal-nodes", {"node": {}}, version=OLD)
    check(answer, 400, "badRequest", "Ironic command node-create")
    check(boss.send("GET", "/os-console-auth-tokens/x", version="2.30"), 400, "badRequest")
    check(boss.send("GET", "/os-console-auth-tokens/x", version="2.99"), 404, "itemNotFound", "Token not found")
    snapshot = {"volume_id": GONE, "create_info": {"snapshot_id": "s", "type": "qcow2", "new_file": "n"}}
    answer = boss.send("POST", "/os-assisted-volume-snapshots", {"snapshot": snapshot})
    check(answer, 400, "badRequest", "No volume Block Device Mapping", GONE)
    missing = boss.send("DELETE", "/os-assisted-volume-snapshots/s", version="2.74")
    check(missing, 400, "badRequest", "delete_info")
