"""The configuration file: what it sets, and what is said of mistakes in it."""

import subprocess

import pytest

from cloud import BINARY


def kilonova(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("[DEFAULT]\n\nosapi_compute_listen_port = many\n", 3, "a number from 1 to 65535"),
        ("[DEFAULT]\ncompute_driver = vmwareapi.VMwareVCDriver\n", 2, "libvirt.LibvirtDriver"),
        ("[database]\nconnection = oracle://nova@db/nova\n", 2, "postgresql"),
        ("[libvirt]\ncpu_mode = maximum\n", 2, "host-passthrough"),
        ("[api]\nmax_limit\n", 2, "name = value"),
        ("[api\n", 1, "[name]"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_line(tmp_path, text, line, named):
    file = tmp_path / "kilonova.conf"
    file.write_text(text)
    for command in (["up", "--hypervisor", "sim"], ["config", "check"]):
        done = kilonova(*command, "--home", tmp_path)
        assert done.returncode == 1, done.stderr
        assert f"{file}:{line}: " in done.stderr
        assert named in done.stderr
    assert not (tmp_path / "kilonova.pid").exists(), "nothing was started"


def test_settings_that_do_not_go_together_are_refused(tmp_path):
    file = tmp_path / "kilonova.conf"
    for text, named in (
        ("[libvirt]\ncpu_mode = custom\n", "cpu_models is required"),
        ("[libvirt]\ncpu_models = Haswell\n", "only for cpu_mode = custom"),
    ):
        file.write_text(text)
        for command in (["up", "--hypervisor", "sim"], ["config", "check"]):
            done = kilonova(*command, "--home", tmp_path)
            assert done.returncode == 1, done.stderr
            assert named in done.stderr


def test_an_unknown_name_is_told(tmp_path):
    file = tmp_path / "mine.conf"
    file.write_text("[api]\nmax_limits = 5\n")
    done = kilonova("config", "check", "--home", tmp_path, "--config-file", file)
    assert done.returncode == 1
    assert f"{file}:2: [api] max_limits is not known" in done.stderr
    assert "[api] max_limit?" in done.stderr


def test_show_gives_a_file_that_is_right(tmp_path):
    shown = kilonova("config", "show", "--home", tmp_path).stdout
    assert "\n[database]\n" in shown
    (tmp_path / "kilonova.conf").write_text(shown)
    checked = kilonova("config", "check", "--home", tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_settings_take_effect(new_cloud, tmp_path_factory):
    cloud = new_cloud(hosts=1)
    cloud.home.mkdir(exist_ok=True)
    (cloud.home / "kilonova.conf").write_text(
        "[DEFAULT]\ndefault_availability_zone = north\ninitial_cpu_allocation_ratio = 2\n[api]\nmax_limit = 2\nunknown = 1\n"
        "[filter_scheduler]\nenabled_filters = ComputeFilter, NumInstancesFilter\nmax_instances_per_host = 1\n"
    )
    cloud.start()
    sdk = cloud.client().sdk()
    assert "north" in {zone.name for zone in sdk.compute.availability_zones()}
    provider = next(iter(sdk.placement.resource_providers()))
    inventories = sdk.placement.get(f"/resource_providers/{provider.id}/inventories").json()["inventories"]
    assert inventories["VCPU"]["allocation_ratio"] == 2
    # The zone is the hosts' as well, and dry runs decide as the conductors do.
    flavor, image = next(iter(sdk.compute.flavors())), next(iter(sdk.image.images()))
    wanted = {"name": "one", "flavorRef": flavor.id, "imageRef": image.id, "networks": "none"}

    def would_be_placed(**more):
        answer = sdk.compute.post("/servers?dry_run=true", json={"server": wanted | more}, microversion="2.37")
        return answer.json()["dry_run"]["would_be_placed"]

    assert would_be_placed(availability_zone="north")
    server = sdk.compute.post(
        "/servers", json={"server": wanted | {"availability_zone": "north"}}, microversion="2.37"
    ).json()["server"]
    made = sdk.compute.wait_for_server(sdk.compute.get_server(server["id"]), wait=60)
    assert made.availability_zone == "north"
    assert not would_be_placed()
    page = sdk.compute.get("/flavors").json()
    assert len(page["flavors"]) == 2
    assert [link["rel"] for link in page["flavors_links"]] == ["next"]
    assert f"{cloud.home / 'kilonova.conf'}:6: [api] unknown is not known" in cloud.log.read_text()
