"""The simulated hosts of a cloud: how they are disturbed, and what they have of a server."""

import contextlib
import json


@contextlib.contextmanager
def faults(cloud, what):
    """All hosts are disturbed so meanwhile (`crates/virt/src/sim/switches.rs`)."""
    files = []
    for folder in (cloud.home / "sim").glob("*/guests"):
        part = folder / "faults.part"
        part.write_text(json.dumps(what))
        files.append(part.rename(folder / "faults.json"))
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def files_of(cloud, server):
    """What hosts keep of a server, and what they have copied of a disk: {file: when it was written}."""
    found = {}
    for file in sorted((cloud.home / "sim").glob("*/guests/*")):
        if file.stem == server or file.suffix == ".snapshot":
            with contextlib.suppress(FileNotFoundError):
                found[file] = file.stat().st_mtime_ns
    return found


def spec_of(cloud, server):
    """What its guest is made of."""
    (file,) = (cloud.home / "sim").glob(f"*/guests/{server}.json")
    return json.loads(file.read_text())["spec"]


def step_of(cloud, server):
    """The flow and the step at which somebody is for the server."""
    for line in cloud.manage("task", "list")[0].splitlines()[1:]:
        _, its, flow, step, *_ = line.split()
        if its == server:
            return flow, step
    return None
