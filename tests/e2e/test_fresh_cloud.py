"""What a cloud holds when it is new, and its files."""

import os
import re
import stat
import subprocess

import pytest
import requests
import yaml

from cloud import BINARY

pytestmark = pytest.mark.both


def test_files_of_the_home(cloud):
    clouds = yaml.safe_load((cloud.home / "clouds.yaml").read_text())["clouds"]
    assert set(clouds) >= {"kilonova", "kilonova-demo"}
    password = clouds["kilonova"]["auth"]["password"]
    assert len(password) >= 12 and password not in ("password", "admin", "secret")
    assert clouds["kilonova-demo"]["auth"]["password"] != password
    for name in ("clouds.yaml", "openrc"):
        mode = stat.S_IMODE((cloud.home / name).stat().st_mode)
        assert mode & 0o077 == 0, f"{name} has mode {mode:o}: others could read the password"
    shown = subprocess.run(
        ["bash", "-c", '. "$1" && env', "bash", cloud.home / "openrc"],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    ).stdout  # fmt: skip
    assert f"OS_PASSWORD={password}" in shown
    assert "OS_AUTH_URL=" in shown


def test_projects_roles_and_region(admin):
    assert set(admin.names("project", "list")) >= {"admin", "service", "demo"}
    assert set(admin.names("role", "list")) >= {"admin", "manager", "member", "reader", "service"}
    domain = admin.get("domain", "show", "default")
    assert (domain["id"], domain["name"]) == ("default", "Default")
    assert [row["Region"] for row in admin.get("region", "list")] == ["RegionOne"]


def test_catalog_names_what_is_there(cloud, admin, admin_sdk):
    rows = admin.get("catalog", "list")
    companions = {"image", "network", "volumev3", "block-storage", "key-manager"}
    assert {row["Type"] for row in rows} == {"identity", "compute", "placement"} | companions
    for row in rows:
        for endpoint in row["Endpoints"]:
            answer = requests.get(endpoint["url"].replace("$(project_id)s", ""), timeout=120)
            assert answer.status_code < 500 and answer.status_code != 404, endpoint
    assert (
        admin_sdk.session.get_endpoint(service_type="identity").rstrip("/").endswith(f":{cloud.ports['identity']}/v3")
    )


def test_networks_and_flavors(admin, demo):
    networks = {row["Name"]: row["ID"] for row in admin.get("network", "list")}
    assert set(networks) >= {"public", "private"}
    public = admin.get("network", "show", "public")
    assert public["router:external"] in (True, "External")
    private = demo.get("network", "show", "private")
    assert private["shared"] is True
    assert private["subnets"]
    assert set(demo.names("flavor", "list")) >= {"m1.nano", "m1.tiny", "m1.small"}


def test_images_of_a_simulated_cloud(hypervisor, demo):
    """With real guests `make up` builds and registers them."""
    if hypervisor != "sim":
        pytest.skip("only simulated clouds bring their own")
    rows = demo.get("image", "list", "--public")
    ours = [row for row in rows if re.fullmatch("cirros-sim(-alt)?-disk", row["Name"])]
    assert [row["Status"] for row in ours] == ["active", "active"], rows


def test_a_second_one_on_the_same_home_refuses(cloud):
    done = subprocess.run([BINARY, "up", *cloud.arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert str(cloud.process.pid) in done.stdout + done.stderr


def test_status_knows_that_it_runs(cloud):
    done = subprocess.run([BINARY, "status", "--home", cloud.home], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_demo_is_an_ordinary_member(demo):
    complaint = demo.fails("flavor", "create", "--ram", "64", "--disk", "1", "forbidden")
    assert "403" in complaint or "Forbidden" in complaint or "not authorized" in complaint.lower(), complaint
