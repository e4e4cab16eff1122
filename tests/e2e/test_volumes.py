"""The volume commands of the stock client, and what they leave."""

import pytest

from cloud import wait_until


def wait(client, kind, which, status="available"):
    """Waits until a volume or snapshot has a status; `gone` is that there is none."""

    def there():
        rows = {row["ID"]: row["Status"] for row in client.get(*kind, "list")}
        return rows.get(which, "gone") == status

    wait_until(there, 60, f"{' '.join(kind)} {which} is {status}")


@pytest.fixture
def volume(demo, name):
    made = demo.get("volume", "create", "--size", "1", "--property", "a=b", name)
    wait(demo, ("volume",), made["id"])
    yield made["id"]
    if any(row["ID"] == made["id"] for row in demo.get("volume", "list")):
        demo.run("volume", "delete", "--purge", made["id"])
    wait(demo, ("volume",), made["id"], "gone")


def test_create_show_set_extend_delete(demo, admin, name, volume):
    shown = demo.get("volume", "show", name)
    assert (shown["size"], shown["type"], shown["properties"]) == (1, "standard", {"a": "b"})
    demo.run("volume", "set", "--name", f"{name}-b", "--description", "d", "--property", "c=d", "--bootable", name)
    shown = demo.get("volume", "show", f"{name}-b")
    assert str(shown["bootable"]).lower() == "true" and shown["properties"] == {"a": "b", "c": "d"}
    demo.run("volume", "set", "--size", "2", f"{name}-b")
    wait_until(lambda: demo.get("volume", "show", f"{name}-b")["size"] == 2, 60, "the volume has 2 GiB")
    complaint = demo.fails("volume", "create", "--size", "5000", f"{name}-c")
    assert "quota" in complaint.lower(), complaint
    assert "403" in demo.fails("volume", "set", "--state", "error", f"{name}-b")
    admin.run("volume", "set", "--state", "error", volume)
    wait(demo, ("volume",), volume, "error")


def test_snapshots_and_copies(demo, name, volume):
    taken = demo.get("volume", "snapshot", "create", "--volume", name, f"{name}-s")
    wait(demo, ("volume", "snapshot"), taken["id"])
    assert demo.fails("volume", "delete", name)
    copies = [
        demo.get("volume", "create", "--snapshot", f"{name}-s", f"{name}-from-s"),
        demo.get("volume", "create", "--source", name, "--size", "2", f"{name}-copy"),
    ]
    for made in copies:
        wait(demo, ("volume",), made["id"])
    assert demo.get("volume", "show", f"{name}-copy")["size"] == 2
    demo.run("volume", "snapshot", "delete", f"{name}-s")
    wait(demo, ("volume", "snapshot"), taken["id"], "gone")
    for made in copies:
        demo.run("volume", "delete", made["id"])
        wait(demo, ("volume",), made["id"], "gone")


def test_images_become_volumes_and_volumes_images(demo, name):
    image = demo.get("image", "list")[0]["Name"]
    made = demo.get("volume", "create", "--image", image, "--size", "1", name)
    wait(demo, ("volume",), made["id"])
    shown = demo.get("volume", "show", name)
    assert str(shown["bootable"]).lower() == "true"
    assert shown["volume_image_metadata"]["image_name"] == image
    demo.run("image", "create", "--volume", name, "--disk-format", "raw", f"{name}-i")
    wait_until(lambda: demo.get("image", "show", f"{name}-i")["status"] == "active", 240, "the image is active")
    assert demo.get("image", "show", f"{name}-i")["size"] == 1 << 30
    wait(demo, ("volume",), made["id"])
    demo.run("image", "delete", f"{name}-i")
    demo.run("volume", "delete", name)
    wait(demo, ("volume",), made["id"], "gone")


def test_types_quotas_services_and_transfers(demo, admin, name, volume):
    admin.run("volume", "type", "create", "--private", "--property", "a=b", name)
    assert name not in demo.names("volume", "type", "list")
    admin.run("volume", "type", "set", "--project", "demo", name)
    assert name in demo.names("volume", "type", "list")
    demo.run("volume", "set", "--type", name, volume)
    wait_until(lambda: demo.get("volume", "show", volume)["type"] == name, 60, "the volume has the type")
    admin.run("quota", "set", "--volumes", "50", "demo")
    assert any(row["Resource"] == "volumes" and row["Limit"] == 50 for row in demo.get("quota", "show"))
    services = admin.get("volume", "service", "list")
    assert {row["Binary"] for row in services} == {"cinder-scheduler", "cinder-volume"}
    offer = demo.get("volume", "transfer", "request", "create", volume)
    admin.run("volume", "transfer", "request", "accept", "--auth-key", offer["auth_key"], offer["id"])
    assert not any(row["ID"] == volume for row in demo.get("volume", "list"))
    admin.run("volume", "delete", volume)
    wait(admin, ("volume",), volume, "gone")
    admin.run("volume", "type", "delete", name)
