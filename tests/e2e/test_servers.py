"""A server's life through the stock command, on simulated hosts."""

import base64
import re

import pytest

from cloud import wait_until

USER_DATA = "#!/bin/sh\ntrue\n"


@pytest.fixture(scope="module")
def key_name(demo, key):
    demo.run("keypair", "create", "--public-key", key.with_suffix(".pub"), "servers")
    yield "servers"
    demo.run("keypair", "delete", "servers")


def test_life_of_a_server(admin, admin_sdk, demo, demo_sdk, image, key_name, name, tmp_path):
    (tmp_path / "user-data").write_text(USER_DATA)
    demo.run("network", "create", name)
    demo.run("subnet", "create", "--network", name, "--subnet-range", "10.32.0.0/24", name)
    demo.run("router", "create", "--external-gateway", "public", name)
    demo.run("router", "add", "subnet", name, name)
    demo.run("security", "group", "create", name)

    made = demo.get(
        "server", "create", "--image", image["name"], "--flavor", "m1.nano", "--network", name, "--key-name", key_name,
        "--security-group", name, "--user-data", tmp_path / "user-data", "--config-drive", "True",
        "--property", "role=web", "--property", "tier=1", "--wait", name,
    )  # fmt: skip
    assert made["status"] == "ACTIVE"
    assert made["adminPass"]
    assert made["properties"] == {"role": "web", "tier": "1"}
    assert made["addresses"][name][0].startswith("10.32.0.")
    assert made["security_groups"] == [{"name": name}]
    server = made["id"]

    row = next(row for row in demo.get("server", "list", "--long") if row["ID"] == server)
    assert (row["Name"], row["Status"], row["Task State"]) == (name, "ACTIVE", None)
    assert row["Power State"] in ("Running", 1)
    assert row["Image Name"] == image["name"] and row["Flavor"] == "m1.nano"

    shown = demo.get("server", "show", name)
    assert shown["key_name"] == key_name and shown["config_drive"] in (True, "True")
    assert shown["OS-EXT-STS:vm_state"] == "active"
    assert "OS-EXT-SRV-ATTR:host" not in shown or not shown["OS-EXT-SRV-ATTR:host"], "a member does not see the host"
    seen = admin.get("server", "show", server)
    assert seen["OS-EXT-SRV-ATTR:host"] and seen["OS-EXT-SRV-ATTR:instance_name"]

    ports = list(demo_sdk.network.ports(device_id=server))
    assert len(ports) == 1 and ports[0].status == "ACTIVE" and ports[0].device_owner == "compute:nova"
    allocations = admin_sdk.placement.get(f"/allocations/{server}").json()["allocations"]
    assert [item["resources"] for item in allocations.values()] == [
        {"VCPU": 1, "MEMORY_MB": shown_ram(demo_sdk), "DISK_GB": 1}
    ]

    demo.run("console", "log", "show", name)

    demo.run("server", "stop", name)
    wait_status(demo_sdk, server, "SHUTOFF")
    assert "409" in demo.fails("server", "stop", name)
    demo.run("server", "start", name)
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("server", "reboot", "--wait", name)
    demo.run("server", "reboot", "--hard", "--wait", name)
    assert demo_sdk.compute.get_server(server).status == "ACTIVE"

    address = demo.get("floating", "ip", "create", "public")["floating_ip_address"]
    demo.run("server", "add", "floating", "ip", name, address)
    found = wait_until(
        lambda: address in str(demo.get("server", "show", name)["addresses"]), 60, f"{address} in the addresses"
    )
    assert found
    demo.run("server", "remove", "floating", "ip", name, address)
    demo.run("floating", "ip", "delete", address)

    demo.run("server", "set", "--name", f"{name}-new", "--property", "tier=2", name)
    demo.run("server", "unset", "--property", "role", f"{name}-new")
    assert demo.get("server", "show", f"{name}-new")["properties"] == {"tier": "2"}

    events = demo.get("server", "event", "list", server)
    actions = [row["Action"] for row in events]
    assert actions == ["reboot", "reboot", "start", "stop", "create"]
    create = events[-1]["Request ID"]
    assert re.fullmatch(r"req-[0-9a-f-]{36}", create)
    shown = demo.get("server", "event", "show", server, create)
    names = [event["event"] for event in shown["events"]]
    assert names == ["compute__do_build_and_run_instance"], "once, as Nova shows it"
    assert shown["action"] == "create"

    demo.run("server", "delete", "--wait", server)
    assert "No Server found" in demo.fails("server", "show", server)
    assert list(demo_sdk.network.ports(device_id=server)) == []
    assert admin_sdk.placement.get(f"/allocations/{server}").json()["allocations"] == {}

    demo.run("router", "remove", "subnet", name, name)
    demo.run("router", "delete", name)
    demo.run("network", "delete", name)
    demo.run("security", "group", "delete", name)


def shown_ram(sdk):
    return sdk.compute.find_flavor("m1.nano").ram


def wait_status(sdk, server, status, seconds=60):
    def look():
        found = sdk.compute.get_server(server)
        assert status == "ERROR" or found.status != "ERROR", found.fault
        return found.status == status and found

    def shown():
        found = sdk.compute.get_server(server)
        return f"{status}: {found.status}, {found.task_state}, {found.fault}"

    return wait_until(look, seconds, shown)


def boot(sdk, name, image, **more):
    flavor = sdk.compute.find_flavor("m1.nano").id
    network = sdk.network.find_network("private").id
    body = {"name": name, "image_id": image["id"], "flavor_id": flavor, "networks": [{"uuid": network}], **more}
    return sdk.compute.create_server(**body)


def test_its_password_is_nowhere_in_clear(cloud, demo_sdk, image, name):
    """Told once, in the answer: not in the log, not in a database, not among the files of the hosts."""
    chosen = f"Chosen-{name}-7aQ"
    servers = [boot(demo_sdk, name, image, config_drive=True), boot(demo_sdk, name, image, admin_password=chosen)]
    assert servers[1].admin_password == chosen
    for server in servers:
        wait_status(demo_sdk, server.id, "ACTIVE")
        assert demo_sdk.compute.get_server(server.id).admin_password is None
    words = [server.admin_password.encode() for server in servers]
    files = [path for path in cloud.home.rglob("*") if path.is_file()]
    assert cloud.log in files
    assert [str(path) for path in files if any(word in path.read_bytes() for word in words)] == []
    for server in servers:
        demo_sdk.compute.delete_server(server)
        demo_sdk.compute.wait_for_delete(server, wait=60)


def test_several_at_once_spread_and_delete(admin_sdk, demo_sdk, image, name):
    boot(demo_sdk, name, image, min_count=6, max_count=6)
    servers = [server for server in demo_sdk.compute.servers(name=name)]
    assert sorted(server.name for server in servers) == [f"{name}-{n}" for n in range(1, 7)]
    for server in servers:
        wait_status(demo_sdk, server.id, "ACTIVE")
    hosts = {admin_sdk.compute.get_server(server.id).hypervisor_hostname for server in servers}
    assert len(hosts) > 1, "all of them on one host"
    for server in servers:
        demo_sdk.compute.delete_server(server)
    for server in servers:
        demo_sdk.compute.wait_for_delete(server, wait=60)
    usages = [
        admin_sdk.placement.get(f"/resource_providers/{provider['uuid']}/usages").json()["usages"]
        for provider in admin_sdk.placement.get("/resource_providers").json()["resource_providers"]
    ]
    assert len(usages) == 3
    assert all(usage.get("VCPU", 0) == 0 for usage in usages), usages


def test_delete_while_it_builds(demo_sdk, image, name):
    server = boot(demo_sdk, name, image)
    demo_sdk.compute.delete_server(server)
    demo_sdk.compute.wait_for_delete(server, wait=60)
    wait_until(lambda: not list(demo_sdk.network.ports(device_id=server.id)), 60, "its port is gone")


def test_a_port_that_was_given_stays(demo_sdk, image, name):
    network = demo_sdk.network.find_network("private")
    port = demo_sdk.network.create_port(network_id=network.id, name=name)
    server = boot(demo_sdk, name, image, networks=[{"port": port.id}])
    wait_status(demo_sdk, server.id, "ACTIVE")
    assert demo_sdk.network.get_port(port.id).device_id == server.id
    demo_sdk.compute.delete_server(server)
    demo_sdk.compute.wait_for_delete(server, wait=60)
    assert not demo_sdk.network.get_port(port.id).device_id
    demo_sdk.network.delete_port(port)


def test_lists_are_paged_and_filtered(demo_sdk, image, name):
    servers = [boot(demo_sdk, f"{name}-{n}", image) for n in range(3)]
    for server in servers:
        wait_status(demo_sdk, server.id, "ACTIVE")
    listed = [server.name for server in demo_sdk.compute.servers(name=name, limit=1, paginated=True)]
    assert sorted(listed) == sorted(server.name for server in servers)
    first = demo_sdk.compute.get("/servers?limit=1&sort_key=created_at&sort_dir=asc&name=" + name).json()
    assert [server["name"] for server in first["servers"]] == [f"{name}-0"]
    assert first["servers_links"][0]["rel"] == "next"
    assert [server.status for server in demo_sdk.compute.servers(name=name, status="SHUTOFF")] == []
    for server in servers:
        demo_sdk.compute.delete_server(server)
    for server in servers:
        demo_sdk.compute.wait_for_delete(server, wait=60)


def test_user_data_limit(demo_sdk, image, name):
    answer = demo_sdk.compute.post(
        "/servers",
        json={
            "server": {
                "name": name,
                "imageRef": image["id"],
                "flavorRef": demo_sdk.compute.find_flavor("m1.nano").id,
                "networks": "none",
                "user_data": base64.b64encode(b"x" * 70000).decode(),
            }
        },
        microversion="2.37",
    )
    assert answer.status_code == 400 and "user_data" in answer.text


def test_pause_suspend_crash_dump(admin, demo, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    for back, command, status in [("unpause", "pause", "PAUSED"), ("resume", "suspend", "SUSPENDED")]:
        demo.run("server", command, server)
        wait_status(demo_sdk, server, status)
        assert "409" in demo.fails("server", command, server)
        assert "409" in demo.fails("server", "stop", server)
        demo.run("server", back, server)
        wait_status(demo_sdk, server, "ACTIVE")
    demo.run("server", "suspend", server)
    wait_status(demo_sdk, server, "SUSPENDED")
    demo.run("server", "reboot", "--hard", server)
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("server", "dump", "create", server)
    wait_until(
        lambda: demo.get("server", "event", "list", server)[0]["Action"] == "trigger_crash_dump",
        60,
        "the action is shown",
    )
    assert demo_sdk.compute.get_server(server).status == "ACTIVE"
    admin.run("server", "set", "--state", "error", "--auto-approve", server)
    assert demo_sdk.compute.get_server(server).status == "ERROR"
    admin.run("server", "set", "--state", "active", "--auto-approve", server)
    actions = [row["Action"] for row in demo.get("server", "event", "list", server)]
    assert actions == [
        "resetState", "resetState", "trigger_crash_dump", "reboot", "suspend", "resume", "suspend", "unpause", "pause", "create",
    ]  # fmt: skip
    demo.run("server", "delete", "--wait", server)


def test_soft_delete_restore_and_reclaim(new_cloud, name):
    cloud = new_cloud()
    (cloud.home / "kilonova.conf").write_text("[DEFAULT]\nreclaim_instance_interval = 45\n")
    cloud.start()
    demo = cloud.client("kilonova-demo")
    sdk = demo.sdk()
    sim = {"id": next(found.id for found in sdk.image.images() if found.name == "cirros-sim-disk")}
    first, second = (boot(sdk, f"{name}-{n}", sim).id for n in (1, 2))
    for server in (first, second):
        wait_status(sdk, server, "ACTIVE")
    used = sdk.compute.get_limits().absolute.total_cores_used
    for server in (first, second):
        sdk.compute.delete_server(server)
        wait_status(sdk, server, "SOFT_DELETED")
    assert list(sdk.compute.servers()) == []
    assert sdk.compute.get_limits().absolute.total_cores_used == used - 2
    demo.run("server", "restore", first)
    wait_status(sdk, first, "ACTIVE")
    assert sdk.compute.get_limits().absolute.total_cores_used == used - 1
    assert "409" in demo.fails("server", "restore", first)
    wait_until(lambda: sdk.compute.find_server(second) is None, 180, "the other is reclaimed")
    demo.run("server", "delete", "--force", first)
    wait_until(lambda: sdk.compute.find_server(first) is None, 60, "it is gone at once")


def test_rescue_and_rebuild(demo, demo_sdk, image, name, key_name):
    other = demo_sdk.image.find_image("cirros-sim-alt-disk")
    server = boot(demo_sdk, name, image, metadata={"a": "b"}).id
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("server", "rescue", "--image", other.id, "--password", "secret-1", server)
    wait_status(demo_sdk, server, "RESCUE")
    assert "409" in demo.fails("server", "stop", server)
    demo.run("server", "unrescue", server)
    wait_status(demo_sdk, server, "ACTIVE")

    ports = [port.id for port in demo_sdk.network.ports(device_id=server)]
    made = demo.get(
        "server", "rebuild", "--image", other.name, "--name", f"{name}-new", "--property", "c=d", "--key-name", key_name,
        "--description", "anew", server,
    )  # fmt: skip
    wait_status(demo_sdk, server, "ACTIVE")
    assert made["name"] == f"{name}-new" and made["properties"] == {"c": "d"} and made["adminPass"]
    found = demo_sdk.compute.get_server(server)
    assert (found.status, found.image.id, found.key_name, found.description) == ("ACTIVE", other.id, key_name, "anew")
    assert [port.id for port in demo_sdk.network.ports(device_id=server)] == ports
    demo.run("server", "stop", server)
    wait_status(demo_sdk, server, "SHUTOFF")
    demo_sdk.compute.rebuild_server(server, image=image["id"])
    wait_until(lambda: demo_sdk.compute.get_server(server).image.id == image["id"], 60, "the image is shown")
    wait_status(demo_sdk, server, "SHUTOFF")
    actions = [row["Action"] for row in demo.get("server", "event", "list", server)]
    assert actions == ["rebuild", "stop", "rebuild", "unrescue", "rescue", "create"]
    demo.run("server", "delete", "--wait", server)


def test_images_of_servers(demo, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    made = demo.get("server", "image", "create", "--name", f"{name}-snapshot", "--property", "a=b", "--wait", server)
    assert made["status"] == "active"
    found = demo_sdk.image.get(f"/images/{made['id']}").json()
    assert (found["disk_format"], found["visibility"], found["min_disk"]) == ("qcow2", "private", 1)
    assert (found["instance_uuid"], found["image_type"]) == (server, "snapshot")
    assert (found["base_image_ref"], found["a"]) == (image["id"], "b")
    wait_until(lambda: demo_sdk.compute.get_server(server).task_state is None, 60, "no task is shown")

    copy = boot(demo_sdk, f"{name}-copy", found).id
    wait_status(demo_sdk, copy, "ACTIVE")
    demo_sdk.compute.delete_server(copy)

    demo.run("server", "stop", server)
    wait_status(demo_sdk, server, "SHUTOFF")
    for number in range(3):
        backup = ("--name", f"{name}-{number}", "--type", "daily", "--rotate", "2")
        demo.run("server", "backup", "create", *backup, "--wait", server)
        wait_until(lambda: demo_sdk.compute.get_server(server).task_state is None, 60, "no task is shown")
    images = demo_sdk.image.get("/images?backup_type=daily").json()["images"]
    backups = [one["name"] for one in images]
    assert sorted(backups) == [f"{name}-1", f"{name}-2"]
    actions = [row["Action"] for row in demo.get("server", "event", "list", server)]
    assert actions == ["createBackup", "createBackup", "createBackup", "stop", "createImage", "create"]
    for one in [found["name"], *backups]:
        demo.run("image", "delete", one)
    demo.run("server", "delete", "--wait", server)


def test_shelve_and_unshelve(admin, admin_sdk, demo, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    ports = [port.id for port in demo_sdk.network.ports(device_id=server)]
    host = admin.get("server", "show", server)["OS-EXT-SRV-ATTR:host"]
    demo.run("server", "shelve", server)
    wait_status(demo_sdk, server, "SHELVED_OFFLOADED")
    shown = admin.get("server", "show", server)
    assert (shown["OS-EXT-SRV-ATTR:host"], shown["OS-EXT-STS:power_state"]) == (None, 4)
    assert admin_sdk.placement.get(f"/allocations/{server}").json()["allocations"] == {}
    kept = demo_sdk.image.find_image(f"{name}-shelved")
    assert (kept.status, kept.visibility) == ("active", "private")
    assert [port.id for port in demo_sdk.network.ports(device_id=server)] == ports
    assert next(admin_sdk.network.ports(device_id=server)).binding_host_id == ""
    for refused in (("stop",), ("pause",), ("image", "create")):
        assert "409" in demo.fails("server", *refused, server)

    services = admin.get("compute", "service", "list", "--service", "nova-compute")
    other = next(row["Host"] for row in services if row["Host"] != host)
    assert "403" in demo.fails("--os-compute-api-version", "2.91", "server", "unshelve", "--host", other, server)
    admin.run("--os-compute-api-version", "2.91", "server", "unshelve", "--host", other, server)
    wait_status(demo_sdk, server, "ACTIVE")
    assert admin.get("server", "show", server)["OS-EXT-SRV-ATTR:host"] == other
    assert [port.id for port in demo_sdk.network.ports(device_id=server)] == ports
    wait_until(lambda: demo_sdk.image.find_image(f"{name}-shelved") is None, 60, "the image is gone")

    demo.run("server", "pause", server)
    wait_status(demo_sdk, server, "PAUSED")
    demo.run("server", "shelve", "--wait", server)
    wait_status(demo_sdk, server, "SHELVED_OFFLOADED")
    zone = ("--os-compute-api-version", "2.77", "server", "unshelve", "--availability-zone")
    assert "400" in demo.fails(*zone, "moon", server)
    demo.run(*zone, "nova", "--wait", server)
    wait_status(demo_sdk, server, "ACTIVE")
    actions = [row["Action"] for row in demo.get("server", "event", "list", server)]
    assert actions == ["unshelve", "shelve", "pause", "unshelve", "shelve", "create"]
    demo.run("server", "shelve", server)
    demo.run("server", "delete", "--wait", server)
    wait_until(lambda: demo_sdk.image.find_image(f"{name}-shelved") is None, 60, "its image is gone with it")


def test_zones_and_aggregates_decide_where_servers_go(admin_sdk, demo, demo_sdk, image, name):
    hosts = sorted(one.host for one in admin_sdk.compute.services(binary="nova-compute"))
    chosen = hosts[1]
    aggregate = admin_sdk.compute.create_aggregate(name=name, availability_zone=name)
    admin_sdk.compute.add_host_to_aggregate(aggregate.id, chosen)
    made = []
    try:
        for zone in (name, name, "nova", "nova"):
            server = boot(demo_sdk, f"{name}-{len(made)}", image, availability_zone=zone)
            made.append(server.id)
            wait_status(demo_sdk, server.id, "ACTIVE")
        found = [admin_sdk.compute.get_server(server) for server in made]
        assert [one.compute_host == chosen for one in found] == [True, True, False, False], found
        assert [one.availability_zone for one in found] == [name, name, "nova", "nova"]
        said = demo.fails(
            "server", "create", "--flavor", "m1.nano", "--image", image["id"], "--nic", "none",
            "--availability-zone", f"{name}-none", f"{name}-none",
        )  # fmt: skip
        assert "availability zone is not available" in said
    finally:
        for server in made:
            demo_sdk.compute.delete_server(server)
        left = lambda: {one.id for one in demo_sdk.compute.servers()} & set(made)  # noqa: E731
        wait_until(lambda: not left(), 60, lambda: f"all deleted: {left()}")
        admin_sdk.compute.remove_host_from_aggregate(aggregate.id, chosen)
        admin_sdk.compute.delete_aggregate(aggregate)
    zones = {zone.name for zone in admin_sdk.compute.availability_zones()}
    assert zones == {"nova"}


def test_evacuate(admin, admin_sdk, cloud, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    ports = [port.id for port in demo_sdk.network.ports(device_id=server)]
    gone = admin.get("server", "show", server)["OS-EXT-SRV-ATTR:host"]
    assert "still in use" in admin.fails("--os-compute-api-version", "2.14", "server", "evacuate", server)
    service = ("--os-compute-api-version", "2.11", "compute", "service", "set")
    admin.run(*service, "--down", gone, "nova-compute")

    def moves():
        path = f"/os-migrations?instance_uuid={server}"
        found = admin_sdk.compute.get(path, microversion="2.59").json()["migrations"]
        return [(one["migration_type"], one["source_compute"], one["status"]) for one in found]

    try:
        admin.run("--os-compute-api-version", "2.94", "server", "evacuate", server)
        wait_until(lambda: admin_sdk.compute.get_server(server).compute_host != gone, 60, "it is on another host")
        wait_status(demo_sdk, server, "ACTIVE")
        assert [port.id for port in demo_sdk.network.ports(device_id=server)] == ports
        left = cloud.home / "sim" / gone / "guests" / f"{server}.json"
        wait_until(lambda: not left.exists(), 60, "the old host removed what it had")
    finally:
        # It is refused before, and the other tests want the host.
        wait_until(lambda: moves() == [("evacuation", gone, "completed")], 60, "the evacuation is completed")
        admin.run(*service, "--up", gone, "nova-compute")
    demo_sdk.compute.delete_server(server)


def test_live_migration(admin, admin_sdk, cloud, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    ports = [port.id for port in demo_sdk.network.ports(device_id=server)]

    def host():
        return admin_sdk.compute.get_server(server).compute_host

    def under_way():
        return admin_sdk.compute.get(f"/servers/{server}/migrations", microversion="2.80").json()["migrations"]

    first = host()
    live = ("server", "migrate", "--live-migration")
    admin.run("--os-compute-api-version", "2.90", *live, "--wait", server)
    second = host()
    assert second != first and demo_sdk.compute.get_server(server).status == "ACTIVE"
    assert [port.id for port in demo_sdk.network.ports(device_id=server)] == ports
    assert next(admin_sdk.network.ports(device_id=server)).binding_host_id == second
    assert "shared storage" in admin.fails("--os-compute-api-version", "2.30", *live, "--shared-migration", server)
    wait_status(demo_sdk, server, "ACTIVE")

    faults = cloud.home / "sim" / second / "guests" / "faults.json"
    faults.write_text('{"live_ms": 600000}')
    try:
        admin.run("--os-compute-api-version", "2.90", *live, "--host", first, server)
        wait_until(lambda: [one["status"] for one in under_way()] == ["running"], 60, "it is on its way")
        assert demo_sdk.compute.get_server(server).status == "MIGRATING"
        number = under_way()[0]["id"]
        admin.run("--os-compute-api-version", "2.90", "server", "migration", "abort", server, number)
        wait_status(demo_sdk, server, "ACTIVE")
        assert host() == second
        admin.run("--os-compute-api-version", "2.90", *live, "--host", first, server)
        wait_until(lambda: [one["status"] for one in under_way()] == ["running"], 60, "it is on its way")
        number = under_way()[0]["id"]
        admin.run("--os-compute-api-version", "2.90", "server", "migration", "force", "complete", server, number)
        wait_until(lambda: host() == first, 60, "it is on the other host")
    finally:
        faults.unlink()
    wait_status(demo_sdk, server, "ACTIVE")
    moves = admin.get("--os-compute-api-version", "2.80", "server", "migration", "list", "--server", server)
    assert [row["Status"] for row in moves] == ["completed", "cancelled", "error", "completed"]
    demo_sdk.compute.delete_server(server)


def test_interfaces_and_groups_of_a_server(demo, demo_sdk, image, name):
    server = boot(demo_sdk, name, image).id
    wait_status(demo_sdk, server, "ACTIVE")
    demo.run("network", "create", name)
    demo.run("subnet", "create", "--network", name, "--subnet-range", "10.33.0.0/24", name)
    demo.run("security", "group", "create", name)

    def networks():
        return sorted(demo_sdk.compute.get_server(server).addresses)

    demo.run("server", "add", "network", server, name)
    assert networks() == [name, "private"]
    port = demo.get("port", "create", "--network", name, name)["id"]
    demo.run("server", "add", "port", server, port)
    assert len(demo_sdk.compute.get_server(server).addresses[name]) == 2
    assert {one.status for one in demo_sdk.network.ports(device_id=server)} == {"ACTIVE"}
    assert "409" in demo.fails("server", "add", "port", server, port)

    demo.run("server", "add", "security", "group", server, name)
    shown = [group["name"] for group in demo_sdk.compute.get_server(server).security_groups]
    assert sorted(shown) == ["default", name]
    group = demo_sdk.network.find_security_group(name).id
    assert all(group in one.security_group_ids for one in demo_sdk.network.ports(device_id=server))
    demo.run("server", "remove", "security", "group", server, name)
    assert not any(group in one.security_group_ids for one in demo_sdk.network.ports(device_id=server))

    demo.run("server", "remove", "port", server, port)
    wait_until(lambda: len(demo_sdk.compute.get_server(server).addresses[name]) == 1, 60, "one address less")
    assert demo_sdk.network.get_port(port).device_id == "", "a port that was given stays"
    demo.run("server", "remove", "network", server, name)
    wait_until(lambda: networks() == ["private"], 60, "the first network alone")
    assert len(list(demo_sdk.network.ports(network_id=demo_sdk.network.find_network(name).id, device_id=server))) == 0
    demo.run("server", "delete", "--wait", server)
    demo.run("port", "delete", port)
    demo.run("network", "delete", name)
    demo.run("security", "group", "delete", name)
