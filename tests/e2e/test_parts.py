"""The processes of a cloud on real hosts: who may what, and what happens when one of them is killed."""

import os
import pathlib
import pwd
import signal

import pytest

from cloud import wait_until

pytestmark = pytest.mark.real


def status(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def part(cloud, which):
    """The process of a part; none while it is away."""
    found = [pid for pid, command in cloud.processes().items() if command.split()[1] == which]
    return found[0] if found else None


def test_what_parses_requests_has_no_privileges(cloud):
    found = status(part(cloud, "control"))
    user = pwd.getpwnam("kilonova")
    assert set(found["Uid"].split()) == {str(user.pw_uid)}
    assert set(found["Gid"].split()) == {str(user.pw_gid)}
    assert found["Groups"].strip() in ("", str(user.pw_gid))
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert status(part(cloud, "host"))["Uid"].split()[0] == "0"


def test_secrets_are_not_for_the_host_part_and_not_on_the_command_line(cloud):
    password = (cloud.home / "secrets" / "admin-password").read_text().strip()
    for pid, command in cloud.processes().items():
        assert password not in command
        assert password not in pathlib.Path(f"/proc/{pid}/environ").read_text()
    assert (cloud.home / "secrets").stat().st_mode & 0o077 == 0
    assert (cloud.home / "control").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("which", ["control", "host"])
def test_a_killed_part_is_started_again(cloud, demo, admin, image, name, which):
    """The API answers again, the guest has not noticed, and new guests can be made."""
    before = part(cloud, which)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: part(cloud, which) not in (None, before), 60, f"another {which} process")

    def answers():
        services = admin._call(["compute", "service", "list", "-f", "value", "-c", "State"])
        return services.returncode == 0 and set(services.stdout.split()) == {"up"}

    wait_until(answers, 60, lambda: f"every service is up\n{cloud.tail()}")
    made = demo.get(
        "server", "create", "--image", image["id"], "--flavor", "m1.nano", "--network", "private", "--wait", name
    )
    assert made["status"] == "ACTIVE"
    demo.run("server", "delete", "--wait", name)
    assert cloud.process.poll() is None, "the supervisor stays"
