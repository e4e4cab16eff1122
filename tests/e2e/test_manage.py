"""What an operator does behind the APIs: `kilonova manage task`, `audit` and `policy`, with the program that was built."""

import json
import re
import sqlite3
import subprocess
import uuid

import pytest

from cloud import BINARY, free_ports, wait_until
from test_bad_luck import gone
from test_servers import boot, wait_status

NOBODY = "6a54f3c0-3f5e-4b3a-9f0e-1f6f0f0e2b11"


class Operator:
    """A cloud that mends nothing by itself, and the commands for it."""

    def __init__(self, cloud, interval=1):
        """Hosts name all their guests so often, in seconds."""
        self.cloud = cloud
        cloud.configure(
            "[kilonova]\nreconcile_interval = 0\n[DEFAULT]\nrunning_deleted_instance_action = log\n"
            f"sync_power_state_interval = {interval}\nreport_interval = 1\n"
        )
        self.manage = cloud.manage

    def write(self, database, *statements):
        file = self.cloud.home / "control" / "db" / f"{database}.db"
        with sqlite3.connect(file, timeout=60) as connection:
            for statement, *parameters in statements:
                changed = connection.execute(statement, parameters).rowcount
                assert changed > 0, statement
        connection.close()

    def hold(self, held):
        """Builds take an hour, or what is left of them goes on."""
        for folder in (self.cloud.home / "sim").glob("*/guests"):
            file = folder / "faults.json"
            if held:
                file.write_text(json.dumps({"delay_ms": {"ensure_guest": 3_600_000}}))
            else:
                file.unlink(missing_ok=True)

    def guest_files(self, server):
        return list((self.cloud.home / "sim").glob(f"*/guests/{server}.json"))


@pytest.fixture(scope="module")
def operator(new_cloud):
    made = Operator(new_cloud(hosts=2))
    made.cloud.start()
    return made


@pytest.fixture(scope="module")
def sdk(operator):
    return operator.cloud.client("kilonova-demo").sdk()


@pytest.fixture(scope="module")
def image(sdk):
    found = sdk.image.find_image("cirros-sim-disk")
    return {"id": found.id, "name": found.name}


def test_tasks_are_looked_at_tried_again_and_given_up(operator, sdk, image, name):
    assert len(operator.manage("task", "list")[0].splitlines()) == 1, "only the headline: nothing is under way"
    operator.hold(True)
    goes_on, given_up = (boot(sdk, f"{name}-{number}", image).id for number in range(2))

    def listed():
        lines = operator.manage("task", "list")[0].splitlines()[1:]
        tasks = {fields[1]: fields for fields in map(str.split, lines)}
        at_work = {server for server, fields in tasks.items() if fields[2:4] == ["build", "spawn"]}
        return tasks if at_work == {goes_on, given_up} else None

    tasks = wait_until(listed, 60, "both are listed where they are")
    task, hopeless = tasks[goes_on][0], tasks[given_up][0]

    def shown(task):
        lines = operator.manage("task", "show", task)[0].splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    before = shown(task)
    assert before["server"] == goes_on and before["phase"] == "running" and before["request"].startswith("req-")
    assert json.loads(before["state"])["place"]["host"].startswith("sim-host-")
    out, _ = operator.manage("task", "retry", task)
    assert task in out and "next conductor" in out
    wait_until(
        lambda: int(shown(task)["epoch"]) > int(before["epoch"]) and shown(task)["owner"] != "-", 60, "somebody has it"
    )
    out, _ = operator.manage("task", "abandon", hopeless, "--reason", "The rack is on fire.")
    assert given_up in out and "can be deleted" in out
    wait_status(sdk, given_up, "ERROR")
    assert sdk.compute.get_server(given_up).fault["message"] == "The rack is on fire."
    for command in ("show", "retry", "abandon"):
        for wrong in (hopeless, NOBODY):
            _, complaint = operator.manage("task", command, wrong, status=1)
            assert wrong in complaint and "kilonova manage task list" in complaint, complaint
    _, complaint = operator.manage("task", "show", "the-first", status=2)
    assert "the-first" in complaint
    # Also while nothing runs.
    operator.cloud.stop()
    assert task in operator.manage("task", "list")[0]
    operator.hold(False)
    operator.cloud.start()
    wait_status(sdk, goes_on, "ACTIVE")
    for server in (goes_on, given_up):
        gone(sdk, server)
    wait_until(lambda: not operator.guest_files(given_up), 60, "nothing is left of it")
    assert len(operator.manage("task", "list")[0].splitlines()) == 1


def test_services_are_shown_with_what_they_speak(operator):
    def shown():
        lines = operator.manage("services")[0].splitlines()
        assert lines[0].split() == ["service", "host", "status", "state", "version", "last", "seen"]
        return {(fields[0], fields[1]): fields[2:5] for fields in map(str.split, lines[1:])}

    services = wait_until(
        lambda: (found := shown()) and {state for _, state, _ in found.values()} == {"up"} and found, 60, "all are up"
    )
    assert {binary for binary, _ in services} == {"nova-compute", "nova-conductor", "nova-scheduler"}
    assert len({version for _, _, version in services.values()}) == 1, "all are of one release"


def test_an_audit_names_what_is_wrong_and_mends_it(operator, sdk, image, name):
    cloud = operator.cloud
    out, _ = operator.manage("audit")
    assert out == "all is as it should be\n"
    stays, dies = boot(sdk, f"{name}-stays", image).id, boot(sdk, f"{name}-dies", image).id
    volumes = {}
    for server in (stays, dies):
        wait_status(sdk, server, "ACTIVE")
        volume = sdk.block_storage.create_volume(size=1, name=name)
        sdk.block_storage.wait_for_status(volume, "available", wait=60)
        sdk.compute.create_volume_attachment(server, volume=volume.id)
        volumes[server] = volume.id
    for server, volume in volumes.items():
        wait_until(lambda v=volume: sdk.block_storage.get_volume(v).status == "in-use", 60, "it is in use")
        wait_until(lambda s=server: sdk.compute.get_server(s).task_state is None, 60, "nobody works on it")
    port = next(iter(sdk.network.ports(device_id=dies))).id
    project = sdk.current_project_id

    # A guest of which nobody knows, and one whose server is deleted behind everybody's back: hosts tell of them when they
    # have been told that they are heard, so soon after their start.
    cloud.stop()
    [file] = operator.guest_files(dies)
    stranger = str(uuid.uuid4())
    file.with_name(f"{stranger}.json").write_text(file.read_text().replace(dies, stranger))
    task, other, host = str(uuid.uuid4()), str(uuid.uuid4()), file.parent.parent.name
    operator.write(
        "compute",
        ("UPDATE instances SET deleted = 1, terminated_at = updated_at WHERE uuid = ?", dies),
        ("UPDATE instances SET task_state = 'powering-off' WHERE uuid = ?", stays),
        (
            "INSERT INTO tasks (id, flow, instance_uuid, request_id, state, phase, epoch, incarnation, created_at, "
            "updated_at) VALUES (?, 'of-another-release', ?, 'req-1', '{}', 'running', 1, 0, 0, 0)",
            task,
            NOBODY,
        ),
        (
            "INSERT INTO host_work (task_id, step, direction, epoch, host, instance_uuid, request_id, deadline_seconds, "
            "verb, created_at) VALUES (?, 'x', 'do', 1, 'host-of-old', ?, '', 1, '{}', 0)",
            other,
            stays,
        ),
        (
            "INSERT INTO allocations (consumer, provider, resource_class, amount) SELECT a.consumer, "
            "(SELECT p.uuid FROM resource_providers p WHERE p.uuid <> a.provider), a.resource_class, a.amount "
            "FROM allocations a WHERE a.consumer = ? AND a.resource_class = 'VCPU'",
            stays,
        ),
        ("UPDATE inventories SET used = used + 1 WHERE resource_class = 'MEMORY_MB'",),
        ("UPDATE server_usages SET instances = instances + 3, cores = cores - 1 WHERE project_id = ?", project),
    )
    operator.write(
        "volume",
        (
            "UPDATE vol_attachments SET body = json_set(body, '$.status', 'attaching') WHERE server_id = ?",
            stays,
        ),
    )
    # Without the services beside it the audit tells of what it can see, and what to do about the rest.
    out, complaint = operator.manage("audit", status=1)
    assert f"server {stays} says powering-off" in out
    assert "the network service" in complaint and "the volume service" in complaint and "Start what" in complaint, (
        complaint
    )

    cloud.start()
    wanted = {
        "stuck": f"server {stays} says powering-off, and nobody works on it",
        "task": f"task {task} is of server {NOBODY}, which has no record",
        "work": f"work for host host-of-old is left of task {other}",
        "held": f"server {dies} is deleted and holds resources",
        "held elsewhere": f"server {stays} holds resources of host sim-host-",
        "left": f"host {host} has a guest or files of server {dies}",
        "unknown": f"host {host} has a guest or files of {stranger}",
        "use": r"provider \S+ shows \d+ of MEMORY_MB in use, and \d+ is given out",
        "quota": f"project {project}, user ",
        "port": f"port {port} is left of server {dies}, which is deleted",
        "volume": f"volume {volumes[dies]} of project {project} is left attached to server {dies}",
        "unsaid": f"volume {volumes[stays]} of project {project} is in use by server {stays}",
    }

    def missing(out):
        return [kind for kind, words in wanted.items() if not re.search(words, out)]

    found = ["", ""]

    def all_found():
        found[:] = operator.manage("audit", status=1)
        return not missing(found[0])

    wait_until(all_found, 60, lambda: f"not found: {missing(found[0])}\n{found[0]}{found[1]}", pause=1)
    count = len(found[0].splitlines())
    assert f"{count} things are not as they should be; --fix mends {count - 1} of them" in found[1]
    assert "delete its folder on the host" in found[0], "what is to be done about the guest that nobody knows"

    _, complaint = operator.manage("audit", "--fix", status=1)
    assert re.search(rf"mended \d+ of {count}; the others are for you", complaint), complaint
    wait_until(lambda: not operator.guest_files(dies), 60, "the host removed the guest")

    def only_the_stranger():
        found[:] = operator.manage("audit", status=1)
        return [line for line in found[0].splitlines() if stranger not in line] == []

    wait_until(only_the_stranger, 60, lambda: f"more is left: {found}", pause=1)
    assert operator.guest_files(stranger), "nobody's guest is nobody's to remove"
    shown = sdk.compute.get_server(stays)
    assert (shown.status, shown.task_state) == ("ACTIVE", None)
    assert sdk.block_storage.get_volume(volumes[dies]).status == "available"
    assert sdk.block_storage.get_volume(volumes[stays]).status == "in-use"
    # The operator does what the words say.
    cloud.stop()
    for file in operator.guest_files(stranger):
        file.unlink()
    cloud.start()
    wait_until(lambda: not cloud.audit(), 60, "all is as it should be", pause=1)
    gone(sdk, stays)
    for volume in volumes.values():
        wait_until(lambda v=volume: sdk.block_storage.get_volume(v).status == "available", 60, "it is free")
        sdk.block_storage.delete_volume(volume)


def test_an_audit_tells_what_is_due_and_finds_nothing_wrong_with_it(operator, sdk, image, name):
    server = boot(sdk, name, image).id
    wait_status(sdk, server, "ACTIVE")
    sdk.compute.resize_server(server, sdk.compute.find_flavor("m1.tiny").id)
    wait_status(sdk, server, "VERIFY_RESIZE")
    assert operator.manage("audit")[0] == "all is as it should be\n", "this cloud confirms nothing by itself"
    confirmed = ("audit", "--set", "DEFAULT.resize_confirm_window=1")
    told = f"server {server} has waited long enough for a word on its resize: that is confirmed at the next look\n"

    def due():
        return operator.manage(*confirmed)[0] == f"{told}all is as it should be\n"

    wait_until(due, 30, "it is due", pause=0.2)
    assert sdk.compute.get_server(server).status == "VERIFY_RESIZE", "an audit only looks"
    gone(sdk, server)


def test_an_audit_asks_hosts_what_their_guests_do(new_cloud, name):
    quiet = Operator(new_cloud(hosts=2), interval=600)
    quiet.cloud.start()
    sdk = quiet.cloud.client("kilonova-demo").sdk()
    found = sdk.image.find_image("cirros-sim-disk")
    server = boot(sdk, name, {"id": found.id, "name": found.name}).id
    wait_status(sdk, server, "ACTIVE")
    assert quiet.manage("audit")[0] == "all is as it should be\n"
    (guest,) = quiet.guest_files(server)
    host = guest.parents[1].name
    sql = "UPDATE instances SET vm_state = 'stopped', power_state = 4 WHERE uuid = ?"
    quiet.write("compute", (sql, server))
    out, complaint = quiet.manage("audit", status=1)
    assert out == (
        f"server {server} is stopped and shows power state Shutdown, and its guest on {host} is Running: "
        "the guest is switched off\n"
    )
    assert "--fix mends 1 of them" in complaint
    assert json.loads(guest.read_text())["power"] == "Running", "an audit only looks"
    assert quiet.manage("audit", "--fix")[0].endswith("mended 1\n")
    wait_until(lambda: json.loads(guest.read_text())["power"] == "Shutdown", 60, "it is off")
    wait_until(lambda: not quiet.cloud.audit(), 60, quiet.cloud.audit)
    actions = sdk.compute.get(f"/servers/{server}/os-instance-actions").json()["instanceActions"]
    assert [one["action"] for one in actions] == ["stop", "create"], "its owner sees what happened"


def test_deleted_servers_are_removed_for_good(operator, sdk, image, name):
    stays, dies, fresh = (boot(sdk, f"{name}-{part}", image).id for part in ("stays", "dies", "fresh"))
    for server in (stays, dies, fresh):
        wait_status(sdk, server, "ACTIVE")
    for server in (dies, fresh):
        gone(sdk, server)
    wait_until(lambda: not operator.cloud.audit(), 60, "nothing is left to be done for them")
    admin = operator.cloud.client("kilonova").sdk()

    def deleted():
        found = admin.compute.get("/servers?all_tenants=1&deleted=1", microversion="2.1").json()["servers"]
        return {server["id"] for server in found}

    def actions(server):
        return admin.compute.get(f"/servers/{server}/os-instance-actions", microversion="2.21")

    def recorded(server):
        file = operator.cloud.home / "control" / "db" / "compute.db"
        with sqlite3.connect(file, timeout=60) as connection:
            counts = [
                connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {column} = ?", [server]).fetchone()[0]
                for table, column in (("instances", "uuid"), ("instance_actions", "instance_uuid"))
            ]
        connection.close()
        return counts

    assert {dies, fresh} <= deleted() and actions(dies).ok
    # What conductors and readers of events may still ask for stays whatever is said.
    out, _ = operator.manage("purge", "--all")
    assert out.startswith("there is nothing to remove") and "stay" in out, out
    day = 24 * 3600 * 1_000_000
    operator.write(
        "compute", ("UPDATE instances SET terminated_at = terminated_at - ? WHERE uuid = ?", 3 * day + 1, dies)
    )
    assert operator.manage("purge", "--days", 4)[0].startswith("there is nothing to remove")
    out, complaint = operator.manage("purge", "--days", 3, "--dry-run")
    assert re.search(r"^instances +1$", out, re.M) and re.search(r"^instance_actions +2$", out, re.M), out
    assert "would remove 1 server that was deleted before" in out and complaint == "", "a bar is for terminals"
    assert recorded(dies) == [1, 2]

    out, _ = operator.manage("purge", "--days", 3, "--max-rows", 1)
    assert "removed 1 server that was deleted before" in out
    assert recorded(dies) == [0, 0] and dies not in deleted() and actions(dies).status_code == 404
    assert fresh in deleted() and recorded(fresh) == [1, 2] and actions(fresh).ok
    assert sdk.compute.get_server(stays).status == "ACTIVE" and recorded(stays) == [1, 1]
    assert operator.manage("purge", "--days", 3)[0].startswith("there is nothing to remove")
    for wrong in ([], ["--before", "yesterday"], ["--all", "--days", 3]):
        _, complaint = operator.manage("purge", *wrong, status=2)
        assert "--before" in complaint, complaint
    assert operator.manage("audit")[0] == "all is as it should be\n"
    gone(sdk, stays)


def test_a_folder_of_volumes_has_one_service(operator, sdk, name):
    home = operator.cloud.home
    lock = home / "control" / "volumes" / "lock"
    holder = lock.read_text().strip()
    assert re.fullmatch(r"process \d+ on host \S+", holder), holder
    done = subprocess.run(
        [BINARY, "volume", "--home", str(home), "--set", f"volume.port={free_ports(1)[0]}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "ready" not in done.stdout, done.stdout
    assert f"{lock.parent} is in use by {holder}; one volume service at a time" in done.stderr, done.stderr
    volume = sdk.block_storage.create_volume(size=1, name=name)
    sdk.block_storage.wait_for_status(volume, "available", wait=60)
    # The system gives the folder back, however its holder ends.
    operator.cloud.kill()
    operator.cloud.start()
    assert lock.read_text().strip() != holder
    assert sdk.block_storage.get_volume(volume).status == "available"
    sdk.block_storage.delete_volume(volume)


def test_policies_are_listed_checked_and_explained(tmp_path):
    def policy(*arguments, status=0):
        done = subprocess.run(
            [BINARY, "manage", "policy", *arguments, "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    rule = "os_compute_api:os-services:list"
    file = tmp_path / "policy.yaml"
    file.write_text(f'"{rule}": "role:auditor"\n')
    config = tmp_path / "kilonova.conf"
    config.write_text(f"[oslo_policy]\npolicy_file = {file}\npolicy_dirs =\n")
    lines = policy("list")[0].splitlines()
    assert len(lines) > 100
    [given] = [line for line in lines if line.startswith("*")]
    assert given.split() == ["*", rule, "role:auditor"]

    assert policy("check", "--role", "auditor", rule)[0] == f"yes {rule}\n"
    out, complaint = policy("check", "--role", "admin", rule, status=1)
    assert out == f"no  {rule}\n" and "refused" in complaint
    create = "os_compute_api:servers:create"
    everything = policy("check", "--role", "member", "--role", "reader")[0].splitlines()
    assert f"yes {create}" in everything and f"no  {rule}" in everything and len(everything) == len(lines)
    policy("check", "--role", "member", "--other-project", "os_compute_api:servers:delete", status=1)
    out, _ = policy("explain", rule)
    for part in ("guards", "role:auditor (a policy file)", "default  ", "passes"):
        assert part in out, out
    for command in (["explain"], ["check", "--role", "admin"]):
        _, complaint = policy(*command, "os_compute_api:servers:fly", status=1)
        assert "os_compute_api:servers:fly" in complaint and "kilonova manage policy list" in complaint
    # What a command is given counts over the file.
    out, _ = policy("check", "--role", "admin", rule, "--set", f"oslo_policy.policy_file={tmp_path}/none.yaml")
    assert out == f"yes {rule}\n"
    file.write_text("[ not a policy")
    _, complaint = policy("list", status=1)
    assert str(file) in complaint, complaint
    file.write_text('"os_compute_api:servers:create": "role:member and"\n')
    _, complaint = policy("list", status=1)
    assert str(file) in complaint and create in complaint, complaint
