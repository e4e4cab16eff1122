"""The key manager by its stock clients: the `openstack secret` commands, barbicanclient and castellan."""

import datetime
import re

import pytest
from barbicanclient import client as barbican
from barbicanclient.exceptions import HTTPClientError, SecretHasConsumers
from castellan import key_manager
from castellan.common import exception
from castellan.common.credentials import keystone_token
from castellan.common.objects import passphrase, symmetric_key
from oslo_config import cfg

from roles import Roles

PAYLOAD = "correct horse battery staple"


@pytest.fixture(scope="module")
def mine(demo_sdk):
    return barbican.Client(session=demo_sdk.session)


@pytest.fixture(scope="module")
def others(admin_sdk):
    """An administrator of another project."""
    return barbican.Client(session=admin_sdk.session)


def test_commands(demo, name):
    made = demo.get("secret", "store", "--name", name, "--payload", PAYLOAD, "--secret-type", "passphrase")
    reference = made["Secret href"]
    assert re.search(r":\d+/v1/secrets/[0-9a-f-]{36}$", reference)
    shown = demo.get("secret", "get", reference)
    assert (shown["Name"], shown["Status"], shown["Secret type"]) == (name, "ACTIVE", "passphrase")
    assert demo.get("secret", "get", "--payload", reference)["Payload"] == PAYLOAD
    assert [row["Secret href"] for row in demo.get("secret", "list", "--name", name)] == [reference]
    demo.run("secret", "delete", reference)
    assert "Secret not found" in demo.fails("secret", "get", reference)


def test_bytes_later_and_paging(mine, name):
    secret = mine.secrets.create(name=name, algorithm="aes", bit_length=256, mode="cbc")
    reference = secret.store()
    empty = mine.secrets.get(reference)
    assert empty.payload is None and empty.secret_type == "opaque"
    mine.secrets.update(reference, payload=b"\xff\x00\x80")
    assert mine.secrets.get(reference).payload == b"\xff\x00\x80"
    with pytest.raises(HTTPClientError) as refused:
        mine.secrets.update(reference, payload=b"again")
    assert refused.value.status_code == 409
    more = [mine.secrets.create(name=name, payload=str(n)).store() for n in range(4)]
    found = [s.secret_ref for n in (0, 2, 4) for s in mine.secrets.list(name=name, limit=2, offset=n)]
    assert found == [reference, *more]
    for one in found:
        mine.secrets.delete(one)
    assert mine.secrets.list(name=name) == []


def test_who_may_read(mine, others, admin_sdk, name):
    reference = mine.secrets.create(name=name, payload=PAYLOAD).store()
    foreign = others.secrets.get(reference)
    assert foreign.name == name, "administrators see that it is there"
    with pytest.raises(HTTPClientError) as refused:
        _ = foreign.payload
    assert refused.value.status_code == 403
    assert "Secret payload retrieval attempt not allowed" in str(refused.value)
    mine.acls.create(entity_ref=reference, users=[admin_sdk.current_user_id]).submit()
    assert others.secrets.get(reference).payload == PAYLOAD
    mine.acls.get(reference).remove()
    with pytest.raises(HTTPClientError):
        _ = others.secrets.get(reference).payload
    mine.secrets.delete(reference)


def test_consumers_and_expiry(mine, name):
    ends = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).replace(tzinfo=None).isoformat()
    reference = mine.secrets.create(name=name, payload=PAYLOAD, expiration=ends).store()
    assert mine.secrets.get(reference).expiration is not None
    mine.secrets.register_consumer(reference, "image", "images", "an-image")
    assert [c.resource_id for c in mine.secrets.list_consumers(reference)] == ["an-image"]
    with pytest.raises(SecretHasConsumers):
        mine.secrets.delete(reference)
    mine.secrets.remove_consumer(reference, "image", "images", "an-image")
    assert mine.secrets.list_consumers(reference) == []
    mine.secrets.delete(reference)
    with pytest.raises(HTTPClientError) as over:
        mine.secrets.create(name=name, payload="x", expiration="2001-01-01T00:00:00").store()
    assert over.value.status_code == 400


def test_castellan(demo_sdk, name):
    """As other services of OpenStack reach a key manager."""
    configuration = cfg.ConfigOpts()
    configuration([])
    manager = key_manager.API(configuration)
    auth = demo_sdk.config.config["auth"]
    context = keystone_token.KeystoneToken(
        token=demo_sdk.session.get_token(), auth_url=auth["auth_url"], project_id=demo_sdk.current_project_id
    )
    for kept in (symmetric_key.SymmetricKey("aes", 128, bytes(range(16)), name=name), passphrase.Passphrase(b"words")):
        reference = manager.store(context, kept)
        found = manager.get(context, reference)
        assert type(found) is type(kept) and found.get_encoded() == kept.get_encoded()
        manager.delete(context, reference)
        with pytest.raises(exception.ManagedObjectNotFoundError):
            manager.get(context, reference)


def test_nothing_in_clear(cloud, mine, name):
    """Neither the database nor the log holds a payload, and the master keys are their owner's alone."""
    word = f"needle-{name}-in-the-haystack"
    reference = mine.secrets.create(name=name, payload=word).store()
    assert mine.secrets.get(reference).payload == word
    files = [path for path in (cloud.home / "control").rglob("*") if path.is_file()]
    assert any(path.name == "key-manager.db" for path in files)
    for path in [*files, cloud.log]:
        assert word.encode() not in path.read_bytes(), path
    keys = cloud.home / "secrets" / "key-manager-keys"
    assert keys.stat().st_mode & 0o777 == 0o600
    mine.secrets.delete(reference)


@pytest.fixture
def roles(tmp_path):
    made = Roles(tmp_path / "home", {"DEFAULT": {"compute_driver": "fake.FakeDriver"}})
    yield made
    made.discard()


def test_a_process_of_its_own(roles, name):
    refused = roles.command("key-manager")
    assert refused.returncode != 0 and "kilonova db sync" in refused.stderr
    roles.sync()
    roles.start("identity")
    alone = roles.start("key-manager")
    mine = barbican.Client(session=roles.client("kilonova-demo").sdk().session)
    reference = mine.secrets.create(name=name, payload=PAYLOAD).store()
    assert f":{roles.ports['key-manager']}/v1/secrets/" in reference
    alone.kill()
    alone.start()
    assert mine.secrets.get(reference).payload == PAYLOAD
    alone.stop()
    # With another cloud's keys it would lose what it keeps.
    keys = roles.home / "secrets" / "key-manager-keys"
    keys.write_text((roles.home / "secrets" / "seal-key").read_text())
    refused = roles.command("key-manager")
    assert refused.returncode != 0 and "none of the master keys" in refused.stderr
    roles.processes.remove(alone)
