"""The image commands of the story, and images that must not be believed."""

import hashlib
import subprocess

import pytest

from cloud import Failure

MIB = 1024 * 1024


def test_create_list_show_save_set_delete(demo, name, guest_image, tmp_path):
    made = demo.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--property", "os_distro=test", name
    )
    data = guest_image.read_bytes()
    assert made["status"] == "active"
    shown = demo.get("image", "show", name)
    assert shown["size"] == len(data)
    assert shown["checksum"] == hashlib.md5(data).hexdigest()
    assert shown["visibility"] in ("private", "shared")
    assert shown["properties"]["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert shown["properties"]["os_distro"] == "test"
    assert name in demo.names("image", "list")

    saved = tmp_path / "saved"
    demo.run("image", "save", "--file", saved, name)
    assert saved.read_bytes() == data

    demo.run(
        "image",
        "set",
        "--property",
        "hw_rng_model=virtio",
        "--min-ram",
        "64",
        "--tag",
        "small",
        "--name",
        f"{name}-b",
        name,
    )
    shown = demo.get("image", "show", f"{name}-b")
    assert (shown["min_ram"], shown["tags"], shown["properties"]["hw_rng_model"]) == (64, ["small"], "virtio")
    demo.run("image", "unset", "--property", "hw_rng_model", f"{name}-b")
    assert "hw_rng_model" not in demo.get("image", "show", f"{name}-b")["properties"]

    demo.run("image", "delete", f"{name}-b")
    assert f"{name}-b" not in demo.names("image", "list")
    assert "No Image found" in demo.fails("image", "show", f"{name}-b")


def test_a_member_may_not_publish(demo, name, guest_image):
    complaint = demo.fails("image", "create", "--file", guest_image, "--disk-format", "qcow2", "--public", name)
    assert "403" in complaint or "Forbidden" in complaint, complaint


def qcow2(path, *arguments):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments], check=True, capture_output=True)
    return path


def liar_random(path):
    path.write_bytes(b"not a disk " * 1000)
    return path, "qcow2"


def liar_qcow2_as_raw(path):
    return qcow2(path, str(path), "8M"), "raw"


def with_backing_file(path):
    return qcow2(path, "-u", "-b", "/etc/passwd", "-F", "raw", str(path), "8M"), "qcow2"


def with_data_file(path):
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={path}.data", str(path), "8M"],
        check=True, capture_output=True,
    )  # fmt: skip
    return path, "qcow2"


@pytest.mark.parametrize("make", [liar_random, liar_qcow2_as_raw, with_backing_file, with_data_file])
def test_hostile_images_are_refused(demo_sdk, demo, name, tmp_path, make):
    """Refused at upload, or at the latest when a server is made of it: never booted."""
    path, claimed = make(tmp_path / "disk")
    try:
        demo.run("image", "create", "--file", path, "--disk-format", claimed, name)
    except Failure:
        found = demo_sdk.image.find_image(name)
        assert found is None or found.status != "active"
        return
    complaint = demo.fails(
        "server", "create", "--image", name, "--flavor", "m1.nano", "--network", "private", "--wait", name
    )
    server = demo_sdk.compute.find_server(name)
    assert server is None or demo_sdk.compute.get_server(server.id).status == "ERROR", complaint
