#!/usr/bin/env python3
"""The chaos run: see README.md beside this file."""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time

from checks import Checks
from client import Client
from disturb import LEASE, Havoc, Watch, plan
from machines import HOSTS, Machines
from tenants import TPM_FLAVORS, TPM_SPECS, Tally, Tenant

from cloud import Failure, wait_until


def arguments():
    parser = argparse.ArgumentParser(description="Random actions on a cloud whose processes die.")
    parser.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    )
    parser.add_argument("--seconds", type=float, default=300, help="how long things are asked for and broken")
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--pace", type=float, default=0.25, help="mean seconds between two actions of a tenant")
    parser.add_argument("--no-havoc", action="store_true", help="nothing is broken")
    parser.add_argument("--keep", action="store_true", help="the folder with the log stays")
    parser.add_argument("--json", type=pathlib.Path, help="the figures, for programs")
    return parser.parse_args()


def login(machines):
    """The administrator, whose password `db sync` wrote."""
    password = re.search(r"OS_PASSWORD='?([^'\n]+)", (machines.roles.home / "openrc").read_text())[1]
    return Client(machines, random.Random(0), collections.Counter()).login("admin", password, "admin"), password


def hosts_up(admin):
    services = admin.ask("compute", "GET", "/v2.1/os-services?binary=nova-compute")[2].get("services", [])
    up = {service["host"] for service in services if service["state"] == "up"}
    return up == {host for hosts in HOSTS.values() for host in hosts}


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))] if ordered else 0.0


def recovery(recoveries, role):
    """Of the processes of one kind: how often, from the kill to the end of what they had, and the part they were dead."""
    its = [one for one in recoveries if one.whom.startswith(role)]
    took, dead = [one.took for one in its], [one.dead for one in its]
    return {
        "times": len(its),
        "p50": round(percentile(took, 0.5), 2),
        "p99": round(percentile(took, 0.99), 2),
        "mean": round(statistics.fmean(took), 2) if its else 0,
        "dead_p50": round(percentile(dead, 0.5), 2),
        "dead_p99": round(percentile(dead, 0.99), 2),
        "within_lease_and_2_s": sum(seconds <= LEASE + 2 for seconds in took),
        "slowest": [
            f"{one.whom} {one.took:.1f}, dead {one.dead:.1f}" for one in sorted(its, key=lambda one: -one.took)[:5]
        ],
    }


def told(role, figures):
    if not figures["times"]:
        return f"chaos: {role} was never killed that had work"
    return (
        f"chaos: {figures['times']} times {role} was killed that had work: all of it ended after p50 {figures['p50']} s, "
        f"p99 {figures['p99']} s; of that the process was dead for p50 {figures['dead_p50']} s, p99 {figures['dead_p99']} s"
    )


class Run:
    def __init__(self, options):
        self.options = options
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kilonova-chaos-"))
        self.machines = Machines(self.folder)
        self.began = time.monotonic()

    def say(self, text):
        print(f"chaos {time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def prepare(self):
        self.machines.start()
        self.admin, password = login(self.machines)
        for flavor in TPM_FLAVORS:
            self.admin.ask("compute", "POST", "/v2.1/flavors", {"flavor": flavor})
            path = f"/v2.1/flavors/{flavor['id']}/os-extra_specs"
            assert self.admin.ask("compute", "POST", path, {"extra_specs": TPM_SPECS})[0] == 200
        self.tally, self.stop = Tally(), threading.Event()
        self.tenants = [
            Tenant(self.machines, self.options.seed, number, self.tally, self.stop, self.options.pace)
            for number in range(self.options.tenants)
        ]
        for tenant in self.tenants:
            tenant.prepare(self.admin, password)
        wait_until(lambda: hosts_up(self.admin), 60, "all hosts are up")
        self.say(f"{len(self.machines.processes)} processes are up")

    def disturb(self):
        self.watch = Watch(self.machines.postgres)
        self.watch.start()
        self.havoc = Havoc(self.machines, self.watch, self.say)
        for tenant in self.tenants:
            tenant.start()
        planned = [] if self.options.no_havoc else plan(self.options.seed, self.options.seconds)
        self.havoc.run(planned, self.options.seconds)
        self.stop.set()
        for tenant in self.tenants:
            tenant.join()

    def check(self):
        draws = self.options.tenants * self.options.seconds / self.options.pace
        checks = Checks(self.machines, self.admin, self.tenants, self.tally, draws)
        wait_until(lambda: hosts_up(self.admin), 60, "all hosts are up again")
        self.settled = checks.settle()
        # It looks at tasks a little later than that.
        with contextlib.suppress(Failure):
            wait_until(lambda: not self.watch.waiting, 30, "all work of the victims has ended")
        self.watch.stop.set()
        self.watch.join()
        self.say(f"settled after {self.settled:.1f} s")
        checks.all()
        checks.found += self.tally.failures + self.havoc.trouble
        checks.found += [f"{tenant.name}: {tenant.trouble!r}" for tenant in self.tenants if tenant.trouble]
        checks.found += [f"work of {one.whom} was left: {sorted(one.left)}" for one in self.watch.waiting]
        checks.empty()
        checks.panics()
        return checks

    def figures(self, checks):
        answers = collections.Counter()
        for tenant in self.tenants:
            answers.update(tenant.counts)
        return {
            "seed": self.options.seed,
            "seconds": self.options.seconds,
            "accepted": len(self.tally.accepted),
            "refused": self.tally.refused,
            "in_doubt": self.tally.in_doubt,
            "accepted_by_action": dict(collections.Counter(one.what for one in self.tally.accepted)),
            "ended": {f"{what} {end}": count for (what, end), count in sorted(checks.ends.items())},
            "unready_answers": self.havoc.unready,
            "tasks_ended": self.watch.ended,
            "tasks_ended_without_broker": self.watch.ended_without_broker,
            "disturbances": self.havoc.counts,
            "answers": dict(sorted(answers.items())),
            "statuses": dict(checks.statuses),
            "faults": dict(checks.faults),
            "recovery": {role: recovery(self.watch.recoveries, role) for role in ("conductor", "compute")},
            "settled": round(self.settled, 1),
            "secrets_left": checks.secrets_left,
            "found": checks.found,
        }


def main():
    options = arguments()
    print(f"chaos: SEED={options.seed} repeats the plan of this run", flush=True)
    run = Run(options)
    failed = True
    try:
        run.prepare()
        run.disturb()
        figures = run.figures(run.check())
        failed = bool(figures["found"])
        text = json.dumps(figures, indent=1)
        if options.json:
            options.json.write_text(text)
        print(text)
        kills = figures["disturbances"]
        print(
            f"chaos: {figures['accepted']} requests taken, {figures['refused']} refused, {kills['kill']} kills, "
            f"{kills['pause']} stops, {kills['broker']} broker and {kills['database']} database restarts; "
            f"settled after {figures['settled']} s; {len(figures['found'])} things wrong"
        )
        conductors, computes = figures["recovery"]["conductor"], figures["recovery"]["compute"]
        within = (
            f"{conductors['within_lease_and_2_s']} of {conductors['times']} within the lease and 2 s, {LEASE + 2} s"
        )
        print(f"{told('a conductor', conductors)}; {within}")
        print(told("a compute", computes))
    finally:
        run.machines.discard()
        if failed or options.keep:
            print(f"chaos: the log is {run.machines.roles.log}; SEED={options.seed}")
        else:
            shutil.rmtree(run.folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
