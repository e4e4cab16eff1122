#!/usr/bin/env python3
"""What a cloud costs: start, memory, CPU for each operation, latencies.

    bench.py [--hosts 20] [--servers 200] [--creates 1000] [--clients 16] [--real] [--kills] [--markdown] [--json FILE]

Starts `kilonova up --hypervisor sim` in a temporary home on free ports and speaks only the public APIs to it. The CPU
figures are those of all of its processes together. With --real it also starts guests on this machine's libvirt (root)
and compares with a bare `virsh define` and `virsh start` of the same domains. With --kills only services are killed
in the middle of creates. The exit status is 1 when a goal that is printed was missed.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import operator
import os
import pathlib
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from kills import service_kills  # noqa: E402

from cloud import Cloud, Failure, wait_until  # noqa: E402
from roles import Roles  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
VERSION = "2.90"
_local = threading.local()


class Api:
    """Plain HTTP with one kept connection for each thread and service."""

    def __init__(self, cloud, name):
        self.ports = cloud.ports
        auth = yaml.safe_load((cloud.home / "clouds.yaml").read_text())["clouds"][name]["auth"]
        scope = {
            "project": {"name": auth["project_name"], "domain": {"name": auth.get("project_domain_name", "Default")}}
        }
        user = {
            "name": auth["username"],
            "password": auth["password"],
            "domain": {"name": auth.get("user_domain_name", "Default")},
        }
        identity = {"methods": ["password"], "password": {"user": user}}
        self.token = None
        _, headers, body = self.send(
            "identity", "POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )
        self.token = headers["X-Subject-Token"]
        self.project = body["token"]["project"]["id"]

    def send(self, service, method, path, body=None, expect=(200, 201, 202, 204)):
        connections = _local.__dict__.setdefault("connections", {})
        connection = connections.get((id(self), service))
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.ports[service], timeout=120)
            connections[(id(self), service)] = connection
        headers = {"OpenStack-API-Version": f"compute {VERSION}", "Accept": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        data = None
        if body is not None:
            data = json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (http.client.HTTPException, OSError):
            connection.close()
            del connections[(id(self), service)]
            raise
        if answer.status not in expect:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return answer.status, answer.headers, json.loads(text) if text and text[:1] in b"{[" else None

    def compute(self, method, path, body=None, **more):
        return self.send("compute", method, "/v2.1" + path, body, **more)[2]


def cpu_seconds(cloud):
    total = 0
    for pid in cloud.processes():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mib(cloud):
    total = 0
    for pid in cloud.processes():
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


COMPARED = {"<": operator.lt, ">=": operator.ge, "": operator.eq}


def meets(value, goal):
    """Whether a value is what a goal asks for: `< 9`, `>= 500`, or a number as it is."""
    how, number = re.fullmatch(r"(<|>=|) ?([\d.]+)", goal).groups()
    return COMPARED[how](value, float(number))


class Report:
    """What was measured, beside what Nova 34 took for the same (fake virt driver, 20 nodes, 2 cores, MariaDB, RabbitMQ)."""

    def __init__(self):
        self.rows = []

    def add(self, what, value, unit, goal=None, nova=None):
        """`nova` is in the same unit. Rates are better when they are higher, all else when it is lower."""
        row = {"what": what, "value": round(value, 3), "unit": unit, "goal": goal, "nova": nova}
        if nova is not None and value > 0:
            row["ratio"] = round(value / nova if unit == "/s" else nova / value, 1)
        row["missed"] = goal is not None and not meets(value, goal)
        self.rows.append(row)
        beside = f"Nova: {nova:g}, {row.get('ratio', 0):.0f} times better  " if nova is not None else ""
        print(
            f"  {what:<58} {value:>10.2f} {unit:<6} {beside}{'goal: ' + goal if goal else ''}"
            f"{', MISSED' if row['missed'] else ''}",
            flush=True,
        )

    def judge(self):
        """Says which goals were missed; the exit status."""
        missed = [row for row in self.rows if row["missed"]]
        goals = sum(row["goal"] is not None for row in self.rows)
        for row in missed:
            print(f"MISSED  {row['what']}: {row['value']} {row['unit']}, goal: {row['goal']}")
        print(f"{goals - len(missed)} of {goals} goals are met")
        return 1 if missed else 0

    def markdown(self):
        """The rows that are worth a line in README."""
        lines = ["| | Kilonova | Nova 34 | times better |", "|---|---:|---:|---:|"]
        for row in self.rows:
            if row["nova"] is None and row["goal"] is None:
                continue
            nova = "-" if row["nova"] is None else f"{row['nova']:g} {row['unit']}"
            ratio = f"{row['ratio']:.0f}" if "ratio" in row else "-"
            lines.append(f"| {row['what']} | {row['value']:.3g} {row['unit']} | {nova} | {ratio} |")
        return "\n".join(lines)


def boot_body(name, image, flavor, networks="none"):
    return {"server": {"name": name, "imageRef": image, "flavorRef": flavor, "networks": networks}}


def make_image(api):
    made = api.send("image", "POST", "/v2/images", {"name": "bench", "disk_format": "raw", "container_format": "bare"})[
        2
    ]
    connection = http.client.HTTPConnection("127.0.0.1", api.ports["image"], timeout=60)
    connection.request(
        "PUT",
        f"/v2/images/{made['id']}/file",
        b"\0" * (1 << 20),
        {"X-Auth-Token": api.token, "Content-Type": "application/octet-stream"},
    )
    answer = connection.getresponse()
    if answer.status != 204:
        raise RuntimeError(f"upload: {answer.status} {answer.read()!r}")
    return made["id"]


def wait_active(api, server):
    while True:
        status = api.compute("GET", f"/servers/{server}")["server"]["status"]
        if status == "ACTIVE":
            return
        if status == "ERROR":
            raise RuntimeError(api.compute("GET", f"/servers/{server}")["server"].get("fault"))
        time.sleep(0.005)


def wait_gone(api, server):
    while api.send("compute", "GET", f"/v2.1/servers/{server}", expect=(200, 404))[0] != 404:
        time.sleep(0.005)


def measure_reads(report, cloud, api, path, label, clients, nova):
    """`nova`: p50 in ms and CPU in ms. This client is Python: with many of them it is what is measured, except for CPU."""
    count = 200 if "detail?" in path else 2000
    before = cpu_seconds(cloud)
    times = []

    def one(_number):
        start = time.monotonic()
        api.compute("GET", path)
        times.append(time.monotonic() - start)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(count)))
    who = "1 client" if clients == 1 else f"{clients} clients"
    report.add(f"GET {label}, {who}: p50", statistics.median(times) * 1000, "ms", nova=nova[0])
    report.add(f"GET {label}, {who}: CPU", (cpu_seconds(cloud) - before) / count * 1000, "ms", nova=nova[1])


def create_many(cloud, api, image, flavor, count, clients):
    """Creates servers and waits until they are ACTIVE; gives their ids, the seconds, and the CPU seconds."""
    before, began = cpu_seconds(cloud), time.monotonic()

    def create(number):
        return api.compute("POST", "/servers", boot_body(f"many-{number}", image, flavor))["server"]["id"]

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        servers = list(pool.map(create, range(count)))

    # Few and cheap questions, so that waiting does not count as creating.
    def building():
        return api.compute("GET", "/servers?status=BUILD&limit=1")["servers"]

    wait_until(lambda: not building(), 300, "all servers ACTIVE", pause=0.02)
    seconds, used = time.monotonic() - began, cpu_seconds(cloud) - before
    errors = api.compute("GET", "/servers?status=ERROR")["servers"]
    if errors:
        raise RuntimeError(f"{len(errors)} of {count} servers went to ERROR")
    return servers, seconds, used


def prepare(cloud):
    """A member's API without limits of servers, an image, the smallest flavor."""
    admin, api = Api(cloud, "kilonova"), Api(cloud, "kilonova-demo")
    quota = {"instances": -1, "cores": -1, "ram": -1}
    admin.compute("PUT", f"/os-quota-sets/{api.project}", {"quota_set": quota})
    flavor = min(api.compute("GET", "/flavors/detail")["flavors"], key=lambda found: found["ram"])["id"]
    return api, make_image(api), flavor


def wrk(cloud, api, path, connections, seconds):
    """What wrk measures: requests per second, p50 and p99 in ms, and the cloud's CPU ms for each request."""
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--latency"]
    command += ["-H", f"X-Auth-Token: {api.token}", "-H", f"OpenStack-API-Version: compute {VERSION}"]
    before = cpu_seconds(cloud)
    command.append(f"http://127.0.0.1:{cloud.ports['compute']}/v2.1{path}")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(cloud) - before
    if "Non-2xx" in text:
        raise RuntimeError(f"GET {path}: {text}")
    scales = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    times = {}
    for share, number, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text):
        times[share] = float(number) * scales[unit]
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    return rate, times["50"], times["99"], used / max(requests, 1) * 1000


def copy_servers(cloud, count):
    """Copies rows of the compute database until there are so many servers, the copies in another project and switched off,
    for no host has their guests."""
    with contextlib.closing(sqlite3.connect(cloud.home / "control" / "db" / "compute.db")) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(instances)") if row[1] != "id"]
        changed = {
            "uuid": "?",
            "project_id": "'another'",
            "task_id": "NULL",
            "vm_state": "'stopped'",
            "power_state": "4",
        }
        values = ", ".join(changed.get(name, name) for name in columns)
        insert = f"INSERT INTO instances ({', '.join(columns)}) SELECT {values} FROM instances WHERE uuid = ?"
        known = [row[0] for row in database.execute("SELECT uuid FROM instances WHERE deleted = 0")]
        pairs = ((str(uuid.uuid4()), known[number % len(known)]) for number in range(count - len(known)))
        database.executemany(insert, pairs)


def other_lists(cloud, api, admin, servers):
    """The CPU ms of lists of all kinds, of at most 100 servers each."""
    host = admin.compute("GET", f"/servers/{servers[0]}")["server"]["OS-EXT-SRV-ATTR:host"]
    page = "/servers/detail?limit=100"
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    long_ago = "1970-01-01T00:00:00Z"
    kinds = {
        "all tenants' servers": (admin, f"{page}&all_tenants=1"),
        "a page in the middle": (api, f"{page}&marker={servers[500]}"),
        "a page in the middle of all tenants' servers": (admin, f"{page}&all_tenants=1&marker={servers[500]}"),
        "changes since long ago": (api, f"{page}&changes-since={long_ago}"),
        "changes since long ago, all tenants'": (admin, f"{page}&all_tenants=1&changes-since={long_ago}"),
        "no changes": (admin, f"{page}&all_tenants=1&changes-since={soon}"),
        "servers of a host": (admin, f"{page}&all_tenants=1&host={host}"),
        "ACTIVE ones": (api, f"{page}&status=ACTIVE"),
        "ACTIVE ones, all tenants'": (admin, f"{page}&all_tenants=1&status=ACTIVE"),
        "ones in ERROR, of which there are none": (admin, f"{page}&all_tenants=1&status=ERROR"),
        "ones with a name like many-9": (api, f"{page}&name=many-9"),
    }
    return {what: wrk(cloud, who, path, 2, 2)[3] for what, (who, path) in kinds.items()}


def long_lists(report, options):
    """Lists of 1000 servers with 1,000 and with 100,000 in the table, many requests for one, memory under load."""
    if shutil.which("wrk") is None:
        print("lists: SKIPPED, there is no wrk (scripts/install-packages.sh bench)", flush=True)
        return
    print("lists of 1000 servers", flush=True)
    cloud = Cloud(tempfile.mkdtemp(prefix="kilonova-bench-"), "sim", hosts=options.hosts)
    try:
        cloud.start()
        api, image, flavor = prepare(cloud)
        servers, _, _ = create_many(cloud, api, image, flavor, 1000, options.clients)
        detail = "/servers/detail?limit=1000"
        flat, others = [], []
        for total in (1000, 100_000):
            if total > 1000:
                cloud.stop()
                copy_servers(cloud, total)
                cloud.start()
                api = Api(cloud, "kilonova-demo")
            wrk(cloud, api, detail, 2, 1)
            rate, _, _, cpu = wrk(cloud, api, detail, 2, 5)
            flat.append(cpu)
            shown = f"{total:,} in the table"
            nova = (0.7, 2980) if total == 1000 else (None, None)
            report.add(f"GET servers/detail (1000), {shown}", rate, "/s", ">= 100", nova=nova[0])
            report.add(f"CPU of GET servers/detail (1000), {shown}", cpu, "ms", "< 9", nova=nova[1])
            others.append(other_lists(cloud, api, Api(cloud, "kilonova"), servers))
        report.add("CPU of a list with 100 times the servers in the table", flat[1] / flat[0], "times", "< 2")
        for what, few in others[0].items():
            many = others[1][what]
            report.add(f"{what}: CPU with 1,000 in the table", few, "ms")
            report.add(f"{what}: as many times with 100,000", many / few, "times", "< 2")
        one = f"/servers/{servers[0]}"
        wrk(cloud, api, one, 16, 2)
        before = memory_mib(cloud)
        rate, p50, p99, cpu = wrk(cloud, api, one, 16, 10)
        report.add("GET servers/{id}, 16 connections (wrk)", rate, "/s", ">= 10000", nova=58)
        report.add("GET servers/{id}, 16 connections: p50", p50, "ms", nova=264)
        report.add("GET servers/{id}, 16 connections: p99 as a multiple of p50", p99 / p50, "", "< 5")
        report.add("CPU of GET servers/{id} (wrk)", cpu, "ms", nova=33)
        report.add("memory (PSS) gained meanwhile", memory_mib(cloud) - before, "MiB", "< 5")
    finally:
        cloud.discard()


def on_postgres(report, options):
    """Creates with every service on PostgreSQL, where scripts/test-databases.sh has started one."""
    server = os.environ.get("KILONOVA_TEST_POSTGRES")
    if not server:
        print("PostgreSQL: SKIPPED, run under scripts/test-databases.sh", flush=True)
        return
    print("simulated cloud on PostgreSQL (its own CPU is not counted)", flush=True)
    # The files of simulated hosts in memory: an ext4 on which many were deleted lately takes its time for each new one.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    cloud = Cloud(tempfile.mkdtemp(prefix="kilonova-bench-", dir=memory), "sim", hosts=options.hosts)
    text = ""
    for section in ("database", "identity", "image", "network", "volume", "key_manager"):
        name = f"bench_{section}_{uuid.uuid4().hex[:8]}"
        subprocess.run(["psql", "-q", "-d", server, "-c", f"CREATE DATABASE {name}"], check=True, capture_output=True)
        url = urllib.parse.urlunsplit(urllib.parse.urlsplit(server)._replace(path=f"/{name}"))
        text += f"[{section}]\nconnection = {url}\n"
        # Two cores are soon busy; more connections at work only wait for each other.
        text += "max_pool_size = 3\n" if section == "database" else ""
    (cloud.home / "kilonova.conf").write_text(text)
    try:
        cloud.start()
        api, image, flavor = prepare(cloud)
        # As everywhere, the first ones pay for what is made once.
        create_many(cloud, api, image, flavor, 50, options.clients)
        count = options.creates
        _, seconds, used = create_many(cloud, api, image, flavor, count, options.clients)
        what = f"{count} creates on PostgreSQL, {options.clients} clients, until ACTIVE"
        report.add(what, count / seconds, "/s", ">= 500", nova=3.7)
        report.add("CPU of all services for each create on PostgreSQL", used / count * 1000, "ms", nova=460)
    finally:
        cloud.discard()


def simulated(report, options):
    print(f"simulated cloud, {options.hosts} hosts", flush=True)
    cloud = Cloud(tempfile.mkdtemp(prefix="kilonova-bench-"), "sim", hosts=options.hosts)
    try:
        report.add("start of a new cloud until every endpoint answers", cloud.start(), "s")
        cloud.stop()
        report.add("start of a known cloud until every endpoint answers", cloud.start(), "s", "< 1")
        time.sleep(3)
        report.add("memory (PSS) of the whole cloud, idle", memory_mib(cloud), "MiB", "< 100", nova=1920)
        before = cpu_seconds(cloud)
        time.sleep(5)
        report.add("CPU while idle", (cpu_seconds(cloud) - before) / 5 * 100, "%")

        api, image, flavor = prepare(cloud)
        posts, actives, deletes = [], [], []
        for number in range(50):
            start = time.monotonic()
            server = api.compute("POST", "/servers", boot_body(f"one-{number}", image, flavor))["server"]["id"]
            posts.append(time.monotonic() - start)
            wait_active(api, server)
            actives.append(time.monotonic() - start)
            start = time.monotonic()
            api.compute("DELETE", f"/servers/{server}")
            wait_gone(api, server)
            deletes.append(time.monotonic() - start)
        report.add("POST /servers, 1 client: p50", statistics.median(posts) * 1000, "ms", "< 10", nova=63)
        report.add("POST /servers, 1 client: p95", percentile(posts, 0.95) * 1000, "ms")
        report.add("create to ACTIVE, 1 client: p50", statistics.median(actives) * 1000, "ms", nova=456)
        report.add("delete to 404, 1 client: p50", statistics.median(deletes) * 1000, "ms", nova=243)

        servers, seconds, used = create_many(cloud, api, image, flavor, options.servers, options.clients)
        report.add(
            f"{options.servers} creates, {options.clients} clients, until ACTIVE",
            options.servers / seconds,
            "/s",
            nova=3.7,
        )
        report.add(
            "CPU of all services for each create to ACTIVE", used / options.servers * 1000, "ms", "< 9", nova=460
        )
        report.add("memory (PSS) of the whole cloud after that", memory_mib(cloud), "MiB", nova=2517)
        more, seconds, used = create_many(cloud, api, image, flavor, options.creates, options.clients)
        what = f"{options.creates} creates, {options.clients} clients, until ACTIVE"
        report.add(what, options.creates / seconds, "/s", ">= 500", nova=3.7)

        reads = (
            ("/flavors/detail", "flavors/detail", (6.7, 6.7), (51, 6.7)),
            ("/limits", "limits", (7.7, 7.6), (61, 7.6)),
            (f"/servers/{servers[0]}", "servers/{id}", (30, 33), (264, 33)),
            ("/servers/detail?limit=100", "servers/detail (100)", (246, 340), (2354, 340)),
        )
        for path, label, one, many in reads:
            measure_reads(report, cloud, api, path, label, 1, one)
            if options.clients == 16:
                measure_reads(report, cloud, api, path, label, 16, many)

        before, began = cpu_seconds(cloud), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            list(pool.map(lambda server: api.compute("DELETE", f"/servers/{server}"), servers + more))
        wait_until(lambda: not api.compute("GET", "/servers?limit=1")["servers"], 300, "all gone", pause=0.02)
        seconds, used = time.monotonic() - began, cpu_seconds(cloud) - before
        count = options.servers + options.creates
        report.add(f"{count} deletes, {options.clients} clients, until gone", count / seconds, "/s", nova=10.2)
        report.add("CPU of all services for each delete", used / count * 1000, "ms", nova=190)
    finally:
        cloud.discard()


# How long others wait before they take a silent conductor's work.
LEASE_SECONDS = 10
# How long the simulated hosts take to start a guest while that is measured, so that the kill finds work under way.
SLOW_SECONDS = 3


def recovery(report, options):
    """One of two conductors is killed while both build servers; how long until the last of the work is done."""
    print("a conductor is killed", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-bench-"))
    desks = [f"unix:{folder}/desk-{number}" for number in (1, 2)]
    settings = {
        "DEFAULT": {"compute_driver": "fake.FakeDriver", "host": "bench"},
        "agent": {"conductors": ", ".join(desks)},
        "kilonova": {"simulated_hosts": options.hosts},
    }
    cloud = Roles(folder / "home", settings)
    try:
        cloud.sync()
        for role in ("identity", "image", "network", "placement", "metadata", "volume", "api"):
            cloud.start(role)
        conductors = [cloud.start("conductor", f"conductor.agent_listen={desk}") for desk in desks]
        cloud.start("compute")
        cloud.start("network-agent")
        api, image, flavor = prepare(cloud)
        hosts = list((cloud.home / "sim").glob("*/guests"))
        for host in hosts:
            (host / "faults.json").write_text(json.dumps({"delay_ms": {"ensure_guest": SLOW_SECONDS * 1000}}))
        count = options.servers
        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            bodies = (boot_body(f"kill-{number}", image, flavor) for number in range(count))
            list(pool.map(lambda body: api.compute("POST", "/servers", body), bodies))

        def owned():
            with contextlib.closing(sqlite3.connect(cloud.home / "control" / "db" / "compute.db")) as database:
                found = database.execute("SELECT owner, COUNT(*) FROM tasks WHERE owner IS NOT NULL GROUP BY owner")
                return dict(found.fetchall())

        wait_until(lambda: sum(owned().values()) >= count, 60, "all work has an owner", pause=0.02)
        shares = owned()
        # Their names end with the numbers in which they came.
        busiest = max(shares, key=shares.get)
        conductors[int(busiest.rpartition("-")[2]) - 1].kill()
        began = time.monotonic()

        def stuck():
            return api.compute("GET", "/servers?status=BUILD")["servers"]

        with contextlib.suppress(Failure):
            wait_until(lambda: not stuck(), 120, "all servers ACTIVE", pause=0.05)
        seconds = time.monotonic() - began
        left = len(stuck()) + len(api.compute("GET", "/servers?status=ERROR")["servers"])
        report.add("creates that the conductor had which was killed", shares[busiest], "")
        what = f"its kill until all are ACTIVE (lease {LEASE_SECONDS} s; a guest starts in {SLOW_SECONDS} s)"
        report.add(what, seconds, "s", f"< {LEASE_SECONDS + 2 + SLOW_SECONDS}")
        report.add("servers that it left in BUILD or ERROR", left, "", "0")
    finally:
        cloud.discard()
        shutil.rmtree(folder, ignore_errors=True)


def pid_file(domain):
    return pathlib.Path(f"/run/libvirt/qemu/{domain}.pid")


def virsh(*arguments):
    return subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *arguments], check=True, capture_output=True, text=True
    ).stdout


def real(report, options):
    """From accepted POST to a running guest, with its network, against the same domain by hand."""
    print("real guests", flush=True)
    cloud = Cloud(tempfile.mkdtemp(prefix="kilonova-bench-"), "libvirt")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-bench-xml-"))
    try:
        cloud.start()
        sdk = cloud.client("kilonova").sdk()
        image = sdk.create_image(
            "bench", filename=options.guest_image, disk_format="qcow2", container_format="bare", wait=True
        )
        api = Api(cloud, "kilonova")
        flavor = min(api.compute("GET", "/flavors/detail")["flavors"], key=lambda found: found["ram"])["id"]
        network = sdk.network.find_network("private").id
        servers, forked, ours = [], [], []
        for number in range(options.guests + 1):
            body = boot_body(f"bench-{number}", image.id, flavor, [{"uuid": network}])
            server = api.compute("POST", "/servers", body)["server"]["id"]
            start = time.monotonic()
            name = api.compute("GET", f"/servers/{server}")["server"]["OS-EXT-SRV-ATTR:instance_name"]
            while not pid_file(name).exists():
                shown = api.compute("GET", f"/servers/{server}")["server"]
                if shown["status"] == "ERROR":
                    raise RuntimeError(shown["fault"])
                time.sleep(0.005)
            process = time.monotonic() - start
            wait_active(api, server)
            servers.append(name)
            if number:  # the first one fills the image cache
                forked.append(process)
                ours.append(time.monotonic() - start)
        report.add("accepted POST to a QEMU process, image cached: p50", statistics.median(forked) * 1000, "ms")
        report.add("accepted POST to ACTIVE, real guest, image cached: p50", statistics.median(ours) * 1000, "ms")

        # The cloud goes on: a libvirtd that it has started would end with it.
        for name in servers:
            (folder / name).write_text(virsh("dumpxml", "--inactive", "--security-info", name))
        bare = []
        for name in servers:
            virsh("destroy", name)
            if name in virsh("list", "--all", "--name").split():
                virsh("undefine", name)
            start = time.monotonic()
            virsh("define", str(folder / name))
            virsh("start", name)
            bare.append(time.monotonic() - start)
        report.add("virsh define and start of the same domain: p50", statistics.median(bare) * 1000, "ms")
        ratio = statistics.median(ours) / statistics.median(bare)
        report.add("accepted POST to ACTIVE, as a multiple of virsh define and start", ratio, "", "< 1.25")
    finally:
        cloud.discard()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--creates", type=int, default=1000, help="servers made at once, for the rate")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--guests", type=int, default=5, help="real guests to measure")
    parser.add_argument("--guest-image", default=os.environ.get("KILONOVA_GUEST_IMAGE"))
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--no-sim", action="store_true", help="real guests only")
    parser.add_argument("--kills", action="store_true", help="only what killed services cost")
    parser.add_argument("--markdown", action="store_true", help="print the table for README, too")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    report = Report()
    if options.kills:
        service_kills(report)
    elif not options.no_sim:
        simulated(report, options)
        long_lists(report, options)
        on_postgres(report, options)
        recovery(report, options)
        service_kills(report)
    if options.real:
        real(report, options)
    if options.markdown:
        print(report.markdown())
    if options.json:
        options.json.write_text(json.dumps(report.rows, indent=1) + "\n")
        print(f"written to {options.json}")
    return report.judge()


if __name__ == "__main__":
    sys.exit(main())
