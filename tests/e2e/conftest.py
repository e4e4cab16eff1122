"""Fixtures: one cloud for the whole run, its clients, the guest image, names that do not clash."""

import contextlib
import itertools
import os
import pathlib
import subprocess
import tempfile

import pytest

from cloud import ROOT, Cloud

_numbers = itertools.count(1)


def pytest_addoption(parser):
    parser.addoption("--hypervisor", choices=("sim", "real"), default="sim", help="what the guests run on")


def pytest_collection_modifyitems(config, items):
    """Tests marked `real` run only on real hosts, the others only on simulated ones, `both` on each."""
    real = config.getoption("--hypervisor") == "real"
    kept, dropped = [], []
    for item in items:
        fits = bool(item.get_closest_marker("both")) or bool(item.get_closest_marker("real")) == real
        if item.get_closest_marker("debian") and "debian" not in (config.getoption("-m") or ""):
            fits = False
        if item.get_closest_marker("long") and not os.environ.get("KILONOVA_TEST_LONG"):
            fits = False
        (kept if fits else dropped).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


@pytest.fixture(scope="session")
def hypervisor(request):
    if request.config.getoption("--hypervisor") == "sim":
        return "sim"
    if os.geteuid() != 0:
        pytest.exit("real guests need root", returncode=2)
    return "libvirt"


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory):
    given = os.environ.get("KILONOVA_GUEST_IMAGE")
    if given:
        return pathlib.Path(given)
    out = tmp_path_factory.mktemp("guest-image") / "guest.qcow2"
    subprocess.run([str(ROOT / "scripts" / "guest-image" / "build.sh"), str(out)], check=True)
    return out


@contextlib.contextmanager
def clouds(hypervisor):
    """Makes clouds that are taken away at the end. Homes only root may enter must do as well."""
    with contextlib.ExitStack() as ends:

        def make(**arguments):
            home = tempfile.mkdtemp(prefix="kilonova-e2e-")
            made = Cloud(home, arguments.pop("hypervisor", hypervisor), **arguments)
            ends.callback(made.discard)
            return made

        yield make


@pytest.fixture(scope="module")
def new_cloud(hypervisor):
    """Clouds of these tests alone: the next ones have the machine for themselves."""
    with clouds(hypervisor) as make:
        yield make


@pytest.fixture(scope="session")
def cloud(hypervisor):
    with clouds(hypervisor) as make:
        made = make()
        # Simulated hosts have emulated TPMs anyway.
        (made.home / "kilonova.conf").write_text("[libvirt]\nswtpm_enabled = true\n")
        made.start()
        yield made


@pytest.fixture(scope="session")
def admin(cloud):
    return cloud.client("kilonova")


@pytest.fixture(scope="session")
def demo(cloud):
    return cloud.client("kilonova-demo")


@pytest.fixture(scope="session")
def admin_sdk(admin):
    return admin.sdk()


@pytest.fixture(scope="session")
def demo_sdk(demo):
    return demo.sdk()


@pytest.fixture(scope="session")
def image(admin, guest_image):
    """A public image by the stock command, as `make up` registers it."""
    made = admin.get(
        "image", "create", "--file", guest_image, "--disk-format", "qcow2", "--container-format", "bare",
        "--public", "cirros-kilonova-disk",
    )  # fmt: skip
    assert made["status"] == "active"
    return made


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    """An SSH key pair in files; gives the private one's path."""
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", str(path)], check=True)
    return path


@pytest.fixture
def name(request):
    """A name that no other test uses."""
    return f"{request.node.originalname.removeprefix('test_').replace('_', '-')[:40]}-{next(_numbers)}"
