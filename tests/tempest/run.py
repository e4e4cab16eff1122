#!/usr/bin/env python3
"""Others' verdict: Tempest against a cloud of its own.

    run.py [compute|smoke|fast|identity|image|network|volume|key-manager|all|REGEX] [--hypervisor sim|real|hosts] [--ssh]

Starts `kilonova up` in a temporary home on free ports (with `hosts` a process for each service, and three hosts with
real guests in namespaces), finds what the cloud has, writes tempest.conf from cloud.ini and that, runs, and prints every
failure and the counts. The exit code is 0 when all is as expected.txt says: no failure that it does not name, no skip
that it gives no reason for. `fast` is the selection of fast.txt, for `make test`.

Needs the environment of scripts/requirements-tempest.txt; `make tempest` makes it.
"""

import argparse
import collections
import configparser
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import subunit
import tempest
import testtools
import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import certified  # noqa: E402

from cloud import Cloud, wait_until  # noqa: E402
from hosts import Wire  # noqa: E402
from hosts_cloud import HostsCloud  # noqa: E402

SETS = {
    "compute": r"^tempest\.(api\.compute|serial_tests)",
    "smoke": r"\[.*\bsmoke\b.*\]",
    "identity": r"^tempest\.api\.identity",
    "image": r"^tempest\.api\.image",
    "network": r"^tempest\.api\.network",
    "volume": r"^tempest\.api\.volume",
    # The plugin's tests of secrets and their parts: containers, orders and the like are not there.
    "key-manager": r"^barbican_tempest_plugin\.tests\.(api\.test_(secret|cve)|rbac\.v1\.test_secret(s|_metadata)\.)",
    "all": r"^tempest\.",
}
# Simulated guests have no SSH server.
HOSTS = 3
PATIENT = {"DEFAULT": {"service_down_time": 60}, "libvirt": {"swtpm_enabled": "true"}}
# It has the network service make a network for a project that finds none, and skips itself where one is shared.
ALONE = "tempest.api.compute.admin.test_auto_allocate_network.AutoAllocateNetworkTest"
# It logs in to its guest without asking whether it may.
LOGS_IN = (
    "tempest.api.compute.servers.test_server_actions.ServerActionsV293TestJSON.test_rebuild_volume_backed_server"
    "[id-6652dab9-ea24-4c93-ab5a-93d79c3041cf]"
)
Expected = collections.namedtuple("Expected", "verdict pattern reason")


def read_expected(path):
    """The lines `skip|fail | REGEX | REASON` of expected.txt."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 3 or parts[0] not in ("skip", "fail"):
            raise SystemExit(f"{path}:{number}: not `skip|fail | REGEX | REASON`")
        found.append(Expected(parts[0], re.compile(parts[1]), parts[2]))
    return found


class Findings:
    """What the cloud has, asked through its public APIs."""

    def __init__(self, cloud):
        self.auth = yaml.safe_load((cloud.home / "clouds.yaml").read_text())["clouds"]["kilonova"]
        self.sdk = cloud.client("kilonova").sdk()
        catalog = {service["type"] for service in self.sdk.service_catalog}
        self.volumes = next((kind for kind in ("block-storage", "volumev3") if kind in catalog), None)
        self.keys = "key-manager" in catalog

    def options(self):
        """(section, option, value) of everything found."""
        login, region = self.auth["auth"], self.auth.get("region_name", "RegionOne")
        domain = login.get("user_domain_name", "Default")
        yield from (("auth", f"admin_{key}", value) for key, value in [
            ("username", login["username"]), ("password", login["password"]), ("project_name", login["project_name"]),
            ("domain_name", domain), ("user_domain_name", domain), ("project_domain_name", domain),
        ])  # fmt: skip
        yield "identity", "uri_v3", login["auth_url"].rstrip("/").removesuffix("/v3") + "/v3"
        for section in ("identity", "compute", "image", "network", "volume", "placement"):
            yield section, "region", region
        yield from self.compute()
        yield from self.network()
        yield from self.volume()
        yield from self.key_manager()

    def compute(self):
        images = sorted(
            (i for i in self.sdk.image.images(visibility="public") if i.status == "active"), key=lambda i: i.name
        )
        flavors = sorted((f for f in self.sdk.compute.flavors() if f.disk), key=lambda f: (f.disk, f.ram))
        kinds = {h.hypervisor_type for h in self.sdk.compute.hypervisors(details=True)}
        hosts = [s for s in self.sdk.compute.services() if s.binary == "nova-compute" and s.state == "up"]
        yield "compute", "image_ref", images[0].id
        yield "compute", "image_ref_alt", images[-1].id
        yield "compute", "flavor_ref", flavors[0].id
        yield "compute", "flavor_ref_alt", flavors[1].id
        yield "compute", "min_compute_nodes", len(hosts)
        if len(hosts) > 1:
            yield "compute", "migration_source_host", hosts[0].host
            yield "compute", "migration_dest_host", hosts[1].host
        yield "compute", "hypervisor_type", kinds.pop()

    def network(self):
        networks = list(self.sdk.network.networks())
        outside = next(n for n in networks if n.is_router_external)
        inside = next(n for n in networks if not n.is_router_external)
        yield "compute", "fixed_network_name", inside.name
        yield "network", "public_network_id", outside.id
        yield "network", "floating_network_name", outside.name
        aliases = sorted(extension.alias for extension in self.sdk.network.extensions())
        yield "network-feature-enabled", "api_extensions", ",".join(aliases)

    def volume(self):
        yield "service_available", "cinder", self.volumes is not None
        if self.volumes is None:
            return
        yield "volume", "catalog_type", self.volumes
        types = list(self.sdk.block_storage.types())
        multi = [t.name for t in types if (t.extra_specs or {}).get("multiattach") == "<is> True"]
        plain = [t.name for t in types if t.name not in multi]
        yield "volume", "volume_type", (plain or [""])[0]
        yield "volume", "volume_type_multiattach", (multi or [""])[0]

    def key_manager(self):
        yield "service_available", "barbican", self.keys
        if not self.keys:
            return
        version = self.sdk.session.get(
            self.sdk.session.get_endpoint(service_type="key-manager"),
            headers={"OpenStack-API-Version": "key-manager latest"},
        ).json()["versions"][0]
        yield "key_manager", "region", self.auth.get("region_name", "RegionOne")
        yield "key_manager", "min_microversion", version["min_version"]
        yield "key_manager", "max_microversion", version["max_version"]


def configure(path, workspace, cloud, arguments):
    """Writes tempest.conf."""
    config = configparser.RawConfigParser()
    config.read(HERE / "cloud.ini")
    found = [
        ("DEFAULT", "log_file", workspace / "tempest.log"),
        ("oslo_concurrency", "lock_path", workspace / "lock"),
        ("validation", "run_validation", arguments.ssh),
        *Findings(cloud).options(),
    ]
    if arguments.guest_image:
        # Scenarios upload it by themselves.
        found.append(("scenario", "img_file", arguments.guest_image.resolve()))
    if arguments.hypervisor != "sim":
        # Guests are emulated, perhaps: polling takes their time, and they need more of it.
        for section in ("compute", "image", "network", "volume"):
            found += [(section, "build_interval", 1), (section, "build_timeout", 300)]
        found.append(("validation", "ssh_timeout", 300))
        # The test asks a guest that still boots, and takes the address away that the rest of its class logs in at.
        found.append(("compute-feature-enabled", "change_password", False))
        found.append(("volume-feature-enabled", "extend_attached_volume", False))
    for section, option, value in found:
        if section != "DEFAULT" and not config.has_section(section):
            config.add_section(section)
        config.set(section, option, str(value))
    with open(path, "w") as out:
        config.write(out)


def prepare_workspace(workspace):
    """What `tempest init` makes, which would also note it in the user's home."""
    (workspace / "etc").mkdir(parents=True)
    suite = pathlib.Path(tempest.__file__).parent
    lines = ["[DEFAULT]", f"test_path={suite / 'test_discover'}", f"top_dir={suite.parent}"]
    # Tests of one class share what it has made.
    lines.append(r"group_regex=([^\.]*\.)*")
    (workspace / ".stestr.conf").write_text("\n".join(lines) + "\n")


def selections(arguments):
    """What is run, with Tempest's arguments that choose the tests: first those for the cloud as it is, then the one with
    accounts of its own, then those that want no network to be shared by all projects."""
    if arguments.what == "fast":
        return [("shared", ["--include-list", str(HERE / "fast.txt")])]
    chosen = SETS.get(arguments.what, arguments.what)
    others = [re.escape(ALONE), re.escape(certified.TEST)]
    if not arguments.ssh:
        others.append(re.escape(LOGS_IN))
    every = [("shared", ["--regex", chosen, "--exclude-regex", "|".join(others)])]
    if re.search(chosen, f"{certified.TEST}.test_show_update_rebuild_list_server[id]"):
        every.append(("certified", ["--regex", re.escape(certified.TEST)]))
    if re.search(chosen, f"{ALONE}.test_server_multi_create_auto_allocate[id]"):
        every.append(("alone", ["--regex", re.escape(ALONE)]))
    return every


def left_out(arguments):
    """The tests of the set that are not run because they would log in to guests, as if they had skipped themselves."""
    chosen = SETS.get(arguments.what, arguments.what)
    if arguments.ssh or arguments.what == "fast" or not re.search(chosen, LOGS_IN):
        return {}
    return {LOGS_IN: ("skip", 0, "left out: it logs in to its guest")}


def run(workspace, arguments, selection, inside, folder="etc"):
    """Runs Tempest; gives {test: (status, seconds, text)}."""
    command = [
        *inside,
        str(pathlib.Path(sys.executable).parent / "tempest"), "run", *selection, "--subunit",
        "--concurrency", str(arguments.concurrency),
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
    environment["TEMPEST_CONFIG_DIR"] = str(workspace / folder)
    results = {}

    def note(test):
        if not test["id"] or test["status"] in (None, "exists", "inprogress"):
            return
        texts = [
            detail.as_text()
            for name, detail in test["details"].items()
            if name == "reason" or name.startswith("traceback")
        ]
        begin, end = test["timestamps"]
        seconds = (end - begin).total_seconds() if begin and end else 0
        results[test["id"]] = (test["status"], seconds, "\n".join(texts).strip())
        if arguments.verbose or test["status"] == "fail":
            print(f"{test['status']:8} {seconds:7.2f} s  {test['id']}", flush=True)

    stream = testtools.StreamToDict(note)
    with open(workspace / "run.err", "wb") as errors:
        process = subprocess.Popen(
            command, cwd=workspace, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        stream.startTestRun()
        subunit.ByteStreamToStreamResult(process.stdout, non_subunit_name="stdout").run(stream)
        stream.stopTestRun()
        process.wait()
    return results


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def judge(results, expected):
    """Prints what was found; gives whether all of it is expected."""
    fine = True
    counts = collections.Counter()
    reasons = collections.Counter()
    for test, (status, _, text) in sorted(results.items()):
        verdict = {"success": "passed", "xfail": "passed", "skip": "skipped"}.get(status, "failed")
        counts[verdict] += 1
        if verdict == "passed":
            continue
        kind = "skip" if verdict == "skipped" else "fail"
        known = next((e for e in expected if e.verdict == kind and e.pattern.search(f"{test} {last_line(text)}")), None)
        if known:
            reasons[known] += 1
        if kind == "fail":
            print(f"FAILED{' (expected)' if known else ''} {test}\n    {last_line(text)}")
        elif not known:
            print(f"SKIPPED WITHOUT A REASON {test}\n    {last_line(text)}")
        fine = fine and known is not None
    for known, count in reasons.items():
        print(f"{count:4} {known.verdict}: {known.reason}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return fine


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="compute", help="a set, or a regular expression over names of tests")
    parser.add_argument("--hypervisor", choices=("sim", "real", "hosts"), default="sim")
    parser.add_argument("--ssh", action="store_true", help="log in to guests (real ones)")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--guest-image", type=pathlib.Path, help="what real guests boot")
    parser.add_argument("--out", type=pathlib.Path, help="where results, configuration and logs stay")
    parser.add_argument("--verbose", action="store_true", help="name every test as it ends")
    return parser.parse_args()


def prepare(cloud, arguments):
    """What a real cloud lacks after its start: images, public ones."""
    if arguments.hypervisor == "sim":
        return
    sdk = cloud.client("kilonova").sdk()
    for name in ("cirros-kilonova-disk", "cirros-kilonova-alt-disk"):
        sdk.create_image(
            name, filename=str(arguments.guest_image), disk_format="qcow2", container_format="bare",
            visibility="public", wait=True, hw_qemu_guest_agent="yes", os_admin_user="cirros",
        )  # fmt: skip


def start(arguments, cleanup):
    """A cloud that is ready, and the beginning of a command line that can reach its floating addresses."""
    if arguments.hypervisor != "hosts":
        hypervisor = "libvirt" if arguments.hypervisor == "real" else "sim"
        cloud = Cloud(tempfile.mkdtemp(prefix="kilonova-e2e-"), hypervisor, hosts=HOSTS)
        cleanup.callback(cloud.discard)
        cloud.start()
        return cloud, []
    keys = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-key-"))
    cleanup.callback(shutil.rmtree, keys, ignore_errors=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "key")], check=True)
    wire = Wire(f"kw{os.getpid() % 100000}", f"198.18.{os.getpid() % 250}")
    cleanup.callback(wire.discard)
    # Emulated guests leave a host little time to say that it is there. Simulated hosts have emulated TPMs anyway.
    here = HostsCloud(wire, tempfile.mkdtemp(prefix="kilonova-e2e-hosts-"), keys / "key", more=PATIENT)
    cleanup.callback(here.discard)
    here.start(arguments.guest_image)
    gateway, _ = here.gateway()
    return here.roles, ["nsenter", "-t", str(gateway.pid), "-n", "--"]


def share_nothing(sdk):
    """No project finds a network of others any more; addresses for one of its own come from a pool."""
    for network in sdk.network.networks(is_shared=True):
        sdk.network.update_network(network, shared=False)
    sdk.network.create_subnet_pool(
        name="default", prefixes=["10.99.0.0/16"], default_prefixlen=26, is_default=True, shared=True
    )


def main():
    arguments = parse()
    expected = read_expected(HERE / "expected.txt")
    with contextlib.ExitStack() as cleanup:
        out = arguments.out and arguments.out.resolve()
        if out is None:
            out = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-tempest-"))
            cleanup.callback(shutil.rmtree, out, ignore_errors=True)
        workspace = out / "workspace"
        shutil.rmtree(workspace, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        cloud, inside = start(arguments, cleanup)
        prepare(cloud, arguments)
        prepare_workspace(workspace)
        sdk = cloud.client("kilonova").sdk()
        wait_until(lambda: all(s.state == "up" for s in sdk.compute.services()), 120, "all services up")
        configure(workspace / "etc" / "tempest.conf", workspace, cloud, arguments)
        began = time.monotonic()
        results = {}
        for kind, selection in selections(arguments):
            folder = "etc"
            if kind == "certified":
                auth = yaml.safe_load((cloud.home / "clouds.yaml").read_text())["clouds"]["kilonova"]
                certified.prepare(sdk, auth, workspace, arguments.guest_image)
                folder = certified.PROJECT
            elif kind == "alone":
                share_nothing(sdk)
            results.update(run(workspace, arguments, selection, inside, folder))
        if results:
            results.update(left_out(arguments))
        else:
            raise SystemExit(f"Tempest ran no test:\n{(workspace / 'run.err').read_text()[-2000:]}")
        fine = judge(results, expected)
        print(f"{time.monotonic() - began:.0f} s")
        (out / "results.json").write_text(json.dumps(results, indent=1))
        shutil.copy(cloud.log, out / "kilonova.log")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
