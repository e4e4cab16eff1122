"""The whole cloud on PostgreSQL and on MariaDB, each service with a database of its own."""

import os
import subprocess
import urllib.parse
import uuid

import pytest
from barbicanclient import client as barbican

from cloud import wait_until
from test_servers import boot, wait_status

SERVICES = {
    "database": "compute", "identity": "identity", "image": "image", "network": "network", "volume": "volume",
    "key_manager": "key_manager",
}  # fmt: skip


def postgres(url, statement):
    subprocess.run(["psql", "-q", "-d", url, "-c", statement], check=True, capture_output=True)


def mariadb(url, statement):
    at = urllib.parse.urlsplit(url)
    subprocess.run(
        ["mariadb", "--no-defaults", "-h", at.hostname, "-P", str(at.port), "-u", at.username, "-e", statement],
        check=True,
        capture_output=True,
        env={**os.environ, "MYSQL_PWD": at.password},
    )


@pytest.mark.parametrize(
    ("variable", "execute"), [("KILONOVA_TEST_POSTGRES", postgres), ("KILONOVA_TEST_MYSQL", mariadb)]
)
def test_a_cloud_without_sqlite(new_cloud, name, variable, execute):
    server = os.environ.get(variable)
    if not server:
        pytest.skip(f"{variable} is not set; scripts/test-databases.sh sets it")
    cloud = new_cloud(hosts=2)
    text = ""
    for section, service in SERVICES.items():
        database = f"e2e_{service}_{uuid.uuid4().hex[:8]}"
        execute(server, f"CREATE DATABASE {database}")
        url = urllib.parse.urlunsplit(urllib.parse.urlsplit(server)._replace(path=f"/{database}"))
        text += f"[{section}]\nconnection = {url}\n"
    (cloud.home / "kilonova.conf").write_text(text)
    cloud.start()
    sdk = cloud.client("kilonova-demo").sdk()
    image = next(iter(sdk.image.images()))
    servers = [boot(sdk, f"{name}-{n}", {"id": image.id}) for n in range(4)]
    for made in servers:
        wait_status(sdk, made.id, "ACTIVE")
    secret = barbican.Client(session=sdk.session).secrets.create(name=name, payload="x" * 20_000).store()
    cloud.kill()
    cloud.start()
    sdk = cloud.client("kilonova-demo").sdk()
    sdk.compute.stop_server(servers[0].id)
    wait_status(sdk, servers[0].id, "SHUTOFF")
    assert barbican.Client(session=sdk.session).secrets.get(secret).payload == "x" * 20_000
    for made in servers:
        sdk.compute.delete_server(made.id)
    wait_until(lambda: not list(sdk.compute.servers()), 60, "every server is deleted")
    assert not list((cloud.home / "control" / "db").iterdir()), "nothing is kept in SQLite"
