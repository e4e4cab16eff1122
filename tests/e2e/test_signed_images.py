"""Signed images: servers are made of what was signed, and of nothing else."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud import wait_until
from signing import Chain, Holder, upload

pytestmark = pytest.mark.both


@pytest.fixture(scope="module")
def data(hypervisor, guest_image):
    return b"what a simulated guest boots\n" * 1000 if hypervisor == "sim" else guest_image.read_bytes()


@pytest.fixture(scope="module")
def disk_format(hypervisor):
    return "raw" if hypervisor == "sim" else "qcow2"


@pytest.fixture
def servers(demo_sdk):
    """Makes servers that are taken away at the end; gives each when it is at rest."""
    made = []

    def make(name, image, **more):
        flavor = demo_sdk.compute.find_flavor("m1.nano")
        server = demo_sdk.compute.create_server(
            name=name, image_id=image.id, flavor_id=flavor.id, networks="none", **more
        )
        made.append(server)
        return at_rest(demo_sdk, server)

    yield make
    for server in made:
        demo_sdk.compute.delete_server(server, force=False)
        demo_sdk.compute.wait_for_delete(server, interval=0.2, wait=60)


def at_rest(sdk, server):
    def rests():
        seen = sdk.compute.get_server(server.id)
        return seen if seen.status in ("ACTIVE", "ERROR") and not seen.task_state else None

    return wait_until(rests, 120, "a server at rest")


def why(server):
    assert server.status == "ERROR", server.status
    assert server.fault["code"] == 500
    return server.fault["message"]


@pytest.mark.parametrize("curve", [None, ec.SECP384R1(), ec.SECP521R1()], ids=["rsa", "p384", "p521"])
def test_a_signed_image_makes_a_server(demo, demo_sdk, servers, data, disk_format, name, curve):
    chain = Chain(demo_sdk, curve)
    image = upload(demo_sdk, name, data, chain.properties(data), disk_format)
    server = servers(name, image, trusted_image_certificates=chain.trusted)
    assert server.status == "ACTIVE", server.fault
    assert server.trusted_image_certificates == chain.trusted
    # The stock command, on the host that has the image by now.
    wanted = [argument for one in chain.trusted for argument in ("--trusted-image-cert", one)]
    made = demo.get(
        "--os-compute-api-version", "2.63", "server", "create", "--image", image.id, "--flavor", "m1.nano",
        "--nic", "none", *wanted, "--wait", f"{name}-b",
    )  # fmt: skip
    assert made["status"] == "ACTIVE"
    demo.run("server", "delete", "--wait", f"{name}-b")
    # A rebuild has it verified again.
    demo_sdk.compute.rebuild_server(server, image=image.id)
    assert at_rest(demo_sdk, server).status == "ACTIVE"
    demo_sdk.image.delete_image(image)


def test_what_was_not_signed_makes_none(demo_sdk, servers, data, disk_format, name):
    chain = Chain(demo_sdk)
    good = upload(demo_sdk, name, data, chain.properties(data), disk_format)
    signed_other = chain.properties(data + b"!")
    tampered = upload(demo_sdk, f"{name}-tampered", data, signed_other, disk_format)
    unsigned = upload(demo_sdk, f"{name}-unsigned", data, {}, disk_format)
    stranger = Holder("stranger").store(demo_sdk)
    lost = upload(
        demo_sdk,
        f"{name}-lost",
        data,
        chain.signer.properties(data, "00000000-0000-4000-8000-000000000000"),
        disk_format,
    )
    table = [
        (tampered, chain.trusted, "Signature verification for the image failed: its bytes are not what was signed"),
        (unsigned, chain.trusted, "Signature verification for the image failed: the image has no property img_sig"),
        (lost, chain.trusted, "the key manager has no secret with this id"),
        (good, [stranger], f"Image signature certificate validation failed for certificate: {chain.certificate}."),
        (good, chain.trusted[1:], "Trust all certificates up to one that signed itself"),
        (good, ["00000000-0000-4000-8000-000000000000"], "does not count: the key manager has no secret"),
    ]
    for number, (image, trusted, words) in enumerate(table):
        server = servers(f"{name}-{number}", image, trusted_image_certificates=trusted)
        assert words in why(server), words
        assert not list(demo_sdk.network.ports(device_id=server.id))
    # Without certificates nobody asks, as long as the cloud does not.
    plain = servers(f"{name}-plain", tampered)
    assert plain.status == "ACTIVE"
    # The host has seen those bytes by now: that makes them no better.
    assert "its bytes are not what was signed" in why(
        servers(f"{name}-again", tampered, trusted_image_certificates=chain.trusted)
    )
    # A rebuild that fails leaves the guest, and the next one mends the server.
    server = servers(name, good, trusted_image_certificates=chain.trusted)
    demo_sdk.compute.rebuild_server(server, image=tampered.id)
    assert "its bytes are not what was signed" in why(at_rest(demo_sdk, server))
    demo_sdk.compute.rebuild_server(server, image=good.id)
    assert at_rest(demo_sdk, server).status == "ACTIVE"
    for image in (good, tampered, unsigned, lost):
        demo_sdk.image.delete_image(image)
