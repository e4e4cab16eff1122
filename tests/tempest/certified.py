"""A signed image for the test of certificates, in a project of its own.

Who starts a server must be able to read the certificates, and the key manager shows a project's secrets to its members
only. So the test cannot run in a project that Tempest makes when it begins; it is given accounts.
"""

import configparser
import pathlib
import secrets
import sys

import openstack
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from signing import Chain, upload  # noqa: E402

TEST = "tempest.api.compute.servers.test_servers.ServerShowV263Test"
PROJECT = "certified"


def prepare(sdk, auth, workspace, guest_image=None):
    """Makes project, users, certificates and image, and beside `etc` a configuration that names them."""
    project = sdk.identity.create_project(name=PROJECT, domain_id="default")
    accounts = []
    for role in ("member", "reader"):
        name, password = f"{PROJECT}-{role}", secrets.token_urlsafe(16)
        user = sdk.identity.create_user(name=name, password=password, domain_id="default")
        found = sdk.identity.find_role(role, ignore_missing=False)
        sdk.identity.assign_project_role_to_user(project, user, found)
        accounts.append(
            {
                "username": name, "password": password, "project_name": PROJECT, "user_domain_name": "Default",
                "project_domain_name": "Default", "domain_name": "Default", "roles": [role],
            }
        )  # fmt: skip
    member = openstack.connect(
        auth_url=auth["auth"]["auth_url"], region_name=auth.get("region_name"), cacert=auth.get("cacert"),
        username=accounts[0]["username"], password=accounts[0]["password"], project_name=PROJECT,
        user_domain_name="Default", project_domain_name="Default",
    )  # fmt: skip
    chain = Chain(member)
    data = guest_image.read_bytes() if guest_image else b"what a simulated guest boots\n"
    image = upload(member, PROJECT, data, chain.properties(data), "qcow2" if guest_image else "raw")
    folder = workspace / PROJECT
    folder.mkdir()
    (folder / "accounts.yaml").write_text(yaml.safe_dump(accounts))
    config = configparser.RawConfigParser()
    config.read(workspace / "etc" / "tempest.conf")
    config.set("compute", "certified_image_ref", image.id)
    config.set("compute", "certified_image_trusted_certs", ",".join(chain.trusted))
    config.set("auth", "use_dynamic_credentials", "false")
    config.set("auth", "test_accounts_file", str(folder / "accounts.yaml"))
    with open(folder / "tempest.conf", "w") as out:
        config.write(out)
