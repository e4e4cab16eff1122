//! Every action in every pair of states against Nova's verdict, written down here a second time in words.

use super::harness::Cloud;
use super::server_create::cloud;
use super::server_life::host_is_up;
use super::server_life::{finish, make};
use crate::verdict::{self, Refusal};
use db::block_devices::{self, BlockDevice};
use db::instances::{Change, Expected, Instance};
use db::migrations::Status;
use serde_json::{Value, json};
use types::disks::{Destination, Source};
use types::{ServerId, TaskState, Timestamp, VmState};

/// An action as the test knows it: its name, its body and version, the name in refusals, the stable states and the
/// task states in which Nova takes it (`*` is any, `-` is none, `!` all but those that follow), and whether it wants a host.
struct Known {
    action: &'static str,
    version: u16,
    body: fn() -> Value,
    name: &'static str,
    vm_states: &'static str,
    tasks: &'static str,
    host: bool,
    status: u16,
}

const fn known(
    action: &'static str,
    body: fn() -> Value,
    name: &'static str,
    vm_states: &'static str,
    tasks: &'static str,
) -> Known {
    Known {
        action,
        version: 90,
        body,
        name,
        vm_states,
        tasks,
        host: false,
        status: 202,
    }
}

const fn on_host(mut known: Known) -> Known {
    known.host = true;
    known
}

const fn at(version: u16, mut known: Known) -> Known {
    known.version = version;
    known
}

const fn answered(status: u16, mut known: Known) -> Known {
    known.status = status;
    known
}

/// There are no proxies: where the states allow one, it is unavailable.
const fn console(action: &'static str, body: fn() -> Value, name: &'static str) -> Known {
    let unless = "! deleting migrating";
    answered(400, at(5, on_host(known(action, body, name, "*", unless))))
}

#[rustfmt::skip]
const KNOWN: &[Known] = &[
    on_host(known("os-start", || json!({"os-start": null}), "start", "stopped", "-")),
    on_host(known("os-stop", || json!({"os-stop": null}), "stop", "active error", "-")),
    known("reboot SOFT", || json!({"reboot": {"type": "SOFT"}}), "reboot", "active", "-"),
    known("reboot HARD", || json!({"reboot": {"type": "HARD"}}), "reboot", "active stopped paused suspended error",
        "- rebooting reboot_pending reboot_started rebooting_hard pausing unpausing suspending resuming"),
    known("pause", || json!({"pause": null}), "pause", "active", "-"),
    known("unpause", || json!({"unpause": null}), "unpause", "paused", "-"),
    known("suspend", || json!({"suspend": null}), "suspend", "active", "-"),
    known("resume", || json!({"resume": null}), "resume", "suspended", "-"),
    on_host(known("trigger_crash_dump", || json!({"trigger_crash_dump": null}), "trigger_crash_dump", "active paused rescued resized error", "-")),
    on_host(known("injectNetworkInfo", || json!({"injectNetworkInfo": null}), "injectNetworkInfo", "*", "*")),
    known("forceDelete", || json!({"forceDelete": null}), "delete", "*", "*"),
    known("restore", || json!({"restore": null}), "restore", "soft-delete", "-"),
    answered(200, known("rescue", || json!({"rescue": null}), "rescue", "active stopped error", "-")),
    known("unrescue", || json!({"unrescue": null}), "unrescue", "rescued", "-"),
    known("rebuild", || json!({"rebuild": {"imageRef": super::harness::IMAGE}}), "rebuild", "active stopped error", "-"),
    known("createImage", || json!({"createImage": {"name": "i"}}), "createImage", "active stopped paused suspended", "-"),
    known("createBackup", || json!({"createBackup": {"name": "i", "backup_type": "daily", "rotation": 1}}), "createBackup",
        "active stopped paused suspended", "-"),
    known("changePassword", || json!(null), "changePassword", "active", "-"),
    on_host(at(43, known("addFixedIp", || json!({"addFixedIp": {"networkId": super::harness::NETWORK}}), "addFixedIp", "*", "*"))),
    on_host(at(43, known("removeFixedIp", || json!({"removeFixedIp": {"address": "10.1.1.1"}}), "removeFixedIp", "*", "*"))),
    known("lock", || json!({"lock": null}), "lock", "*", "*"),
    known("unlock", || json!({"unlock": null}), "unlock", "*", "*"),
    known("update metadata", || json!(null), "update metadata", "active paused suspended stopped", "*"),
    known("delete metadata", || json!(null), "delete metadata", "active paused suspended stopped", "*"),
    known("update tag", || json!(null), "update tag", "active paused suspended stopped", "*"),
    known("update tags", || json!(null), "update tags", "active paused suspended stopped", "*"),
    known("delete tag", || json!(null), "delete tag", "active paused suspended stopped", "*"),
    known("delete tags", || json!(null), "delete tags", "active paused suspended stopped", "*"),
    known("evacuate", || json!(null), "evacuate", "active stopped error", "*"),
    known("resize", || json!({"resize": {"flavorRef": "2"}}), "resize", "active stopped", "-"),
    known("migrate", || json!({"migrate": null}), "migrate", "active stopped", "-"),
    answered(204, known("confirmResize", || json!({"confirmResize": null}), "confirmResize", "resized", "-")),
    known("revertResize", || json!({"revertResize": null}), "revertResize", "resized", "-"),
    known("os-migrateLive", || json!({"os-migrateLive": {"host": null, "block_migration": "auto"}}), "os-migrateLive", "active paused", "-"),
    known("force_complete", || json!(null), "force_complete", "active", "migrating"),
    known("abort live migration", || json!(null), "abort live migration", "*", "migrating"),
    known("shelve", || json!({"shelve": null}), "shelve", "active stopped paused suspended", "-"),
    known("shelveOffload", || json!({"shelveOffload": null}), "shelveOffload", "shelved", "-"),
    known("unshelve", || json!({"unshelve": null}), "unshelve", "shelved shelved_offloaded", "-"),
    known("attach interface", || json!(null), "attach_interface", "active paused stopped", "-"),
    known("detach interface", || json!(null), "detach_interface", "active paused stopped", "-"),
    known("attach volume", || json!(null), "attach_volume", "active paused stopped resized soft-delete shelved shelved_offloaded", "-"),
    known("detach volume", || json!(null), "detach_volume", "active paused stopped resized soft-delete shelved shelved_offloaded", "-"),
    known("swap volume", || json!(null), "swap_volume", "active paused resized", "-"),
    on_host(known("create assisted snapshot", || json!(null), "volume_snapshot_create", "*", "-")),
    on_host(known("delete assisted snapshot", || json!(null), "volume_snapshot_delete", "*", "-")),
    console("VNC console", || json!({"os-getVNCConsole": {"type": "novnc"}}), "get_vnc_console"),
    console("SPICE console", || json!({"os-getSPICEConsole": {"type": "spice-html5"}}), "get_spice_console"),
    console("serial console", || json!({"os-getSerialConsole": {"type": "serial"}}), "get_serial_console"),
    at(8, console("MKS console", || json!(null), "get_mks_console")),
];

/// Rules of requests that are no actions, or that are answered only when a host has done its part: these are asked for where
/// they are refused.
const NO_ACTIONS: &[&str] = &[
    "attach interface",
    "detach interface",
    "force_complete",
    "abort live migration",
    // Looks at the service, too.
    "evacuate",
    // Answered when the guest has it.
    "changePassword",
    "update metadata",
    "delete metadata",
    "update tag",
    "update tags",
    "delete tag",
    "delete tags",
    "attach volume",
    "detach volume",
    "swap volume",
    // Looked for by the volume, not by the server.
    "create assisted snapshot",
    "delete assisted snapshot",
    // Of a route of its own.
    "MKS console",
];

/// Actions that need not have been launched.
const UNLAUNCHED: &[&str] = &[
    "injectNetworkInfo",
    "forceDelete",
    "addFixedIp",
    "removeFixedIp",
    "lock",
    "unlock",
    "update tag",
    "update tags",
    "delete tag",
    "delete tags",
    "VNC console",
    "SPICE console",
    "serial console",
    "MKS console",
];

impl Known {
    /// Nova's verdict on a launched server on a host: the words of the refusal, or none.
    fn verdict(&self, id: &str, vm: VmState, task: Option<TaskState>) -> Option<String> {
        let allowed = |list: &str, text: &str| {
            let named = list.split(' ').any(|one| one == text);
            list == "*" || named != list.starts_with('!')
        };
        let cannot = |what: &str, state: &str| {
            Some(format!(
                "Cannot '{}' instance {id} while it is in {what} {state}",
                self.name
            ))
        };
        if !allowed(self.vm_states, vm.as_str()) {
            return cannot("vm_state", vm.as_str());
        }
        match task {
            Some(task) if !allowed(self.tasks, task.as_str()) => {
                cannot("task_state", task.as_str())
            }
            None if !allowed(self.tasks, "-") => cannot("task_state", "None"),
            _ => None,
        }
    }
}

/// A server somewhere in its life; nothing works on it whatever it shows.
async fn put(cloud: &Cloud, id: &str, vm: VmState, task: Option<TaskState>) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut server = db::instances::get(tx, id)?.unwrap();
        if let Some(task) = server.task_id {
            db::tasks::take_over(tx, task)?;
        }
        resized(tx, &mut server, vm == VmState::Resized)?;
        let change = Change {
            vm_state: Some(vm),
            task_state: Some(task),
            task_id: Some(None),
            ..Change::default()
        };
        let expected = Expected::Generation(server.generation);
        assert!(db::instances::transition(
            tx,
            id,
            expected,
            &change,
            Timestamp::now()
        )?);
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

/// What a server remembers that waits for the confirmation of its move; others remember nothing.
fn resized(tx: &mut sql::Tx<'_>, server: &mut Instance, waits: bool) -> Result<(), sql::Error> {
    if let Some(moving) = server.kept.unsettled.clone() {
        db::moves::take_back(tx, server, &moving, false, Timestamp::now())?;
        server.kept.unsettled = None;
    }
    if waits {
        let (flavor, now) = (server.flavor.clone(), Timestamp::now());
        db::moves::accept(tx, server, &flavor, "u", now)?;
        *server = db::instances::get(tx, server.id)?.unwrap();
        let moving = server.kept.unsettled.as_ref().unwrap();
        db::migrations::set_status(tx, moving.migration, Status::Finished, now)?;
    }
    Ok(())
}

fn all_tasks() -> impl Iterator<Item = Option<TaskState>> {
    std::iter::once(None).chain(TaskState::ALL.iter().copied().map(Some))
}

/// What servers that are there can show.
fn all_pairs() -> impl Iterator<Item = (VmState, Option<TaskState>)> {
    let there = VmState::ALL.iter().copied();
    let there = there.filter(|vm| *vm != VmState::Deleted);
    there.flat_map(|vm| all_tasks().map(move |task| (vm, task)))
}

#[test]
fn every_action_is_known_and_judged_alike_in_every_pair_of_states() {
    let names: Vec<&str> = verdict::ALL.iter().map(|(name, _)| *name).collect();
    let listed: Vec<&str> = KNOWN.iter().map(|known| known.action).collect();
    assert_eq!(names, listed);
    let mut pairs = 0;
    for (known, (_, rule)) in KNOWN.iter().zip(verdict::ALL) {
        for vm in VmState::ALL.iter().copied() {
            for task in all_tasks() {
                let server = Instance {
                    vm_state: vm,
                    task_state: task,
                    host: Some("h1".into()),
                    launched_at: Some(Timestamp::now()),
                    ..super::server_history::instance()
                };
                let id = server.id.to_string();
                let refused = rule
                    .check_as(&server, false)
                    .err()
                    .map(|fault| fault.message);
                assert_eq!(
                    refused,
                    known.verdict(&id, vm, task),
                    "{} {vm} {task:?}",
                    known.action
                );
                let locked = Instance {
                    locked: true,
                    ..server.clone()
                };
                assert_eq!(
                    rule.refusal(&locked, false),
                    rule.lock
                        .then_some(Refusal::Locked)
                        .or(rule.refusal(&server, false))
                );
                assert_eq!(rule.refusal(&locked, true), rule.refusal(&server, true));
                pairs += 1;
            }
        }
        let fresh = Instance {
            host: None,
            ..super::server_history::instance()
        };
        let hostless = rule.refusal(&fresh, false) == Some(Refusal::NoHost);
        assert_eq!(hostless, known.host, "{}", known.action);
        assert_eq!(
            rule.launched,
            !UNLAUNCHED.contains(&known.action),
            "{}",
            known.action
        );
    }
    testkit::tell(format_args!("{pairs} pairs of states and actions"));
}

/// The same through the API.
#[tokio::test]
async fn requests_get_the_verdict() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    host_is_up(&cloud).await;
    let flavor =
        json!({"flavor": {"name": "m1.small", "id": "2", "ram": 1024, "vcpus": 2, "disk": 2}});
    cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    for known in KNOWN
        .iter()
        .filter(|known| !NO_ACTIONS.contains(&known.action))
    {
        for (vm, task) in all_pairs() {
            put(&cloud, &id, vm, task).await;
            let path = format!("/servers/{id}/action");
            let answer = cloud
                .send("admin", known.version, "POST", &path, (known.body)())
                .await;
            let shown = format!("{} {vm} {task:?}: {}", known.action, answer.text);
            match known.verdict(&id, vm, task) {
                None => assert_eq!(answer.status.as_u16(), known.status, "{shown}"),
                Some(words) => {
                    assert_eq!(answer.status.as_u16(), 409, "{shown}");
                    assert_eq!(
                        answer.fault(),
                        ("conflictingRequest".to_owned(), words),
                        "{shown}"
                    );
                }
            }
        }
    }
}

/// A request: its method, its path below the server's, its body.
type Asked = (&'static str, String, Value);

/// How a rule is asked for, with the volume that the server has and another one.
fn asked(known: &Known, [volume, other]: &[String; 2]) -> Option<Asked> {
    let attachment = json!({ "volumeAttachment": { "volumeId": other } });
    let (method, path, body) = match known.action {
        "attach interface" => (
            "POST",
            "/os-interface".to_owned(),
            json!({"interfaceAttachment": {}}),
        ),
        "detach interface" => (
            "DELETE",
            format!("/os-interface/{}", super::harness::PORT),
            json!(null),
        ),
        "force_complete" => (
            "POST",
            "/migrations/1/action".to_owned(),
            json!({"force_complete": null}),
        ),
        "abort live migration" => ("DELETE", "/migrations/1".to_owned(), json!(null)),
        "update metadata" => (
            "POST",
            "/metadata".to_owned(),
            json!({"metadata": {"k": "v"}}),
        ),
        "delete metadata" => ("DELETE", "/metadata/k".to_owned(), json!(null)),
        "update tag" => ("PUT", "/tags/t".to_owned(), json!(null)),
        "update tags" => ("PUT", "/tags".to_owned(), json!({"tags": ["t"]})),
        "delete tag" => ("DELETE", "/tags/t".to_owned(), json!(null)),
        "delete tags" => ("DELETE", "/tags".to_owned(), json!(null)),
        "attach volume" => ("POST", "/os-volume_attachments".to_owned(), attachment),
        "detach volume" => (
            "DELETE",
            format!("/os-volume_attachments/{volume}"),
            json!(null),
        ),
        "MKS console" => (
            "POST",
            "/remote-consoles".to_owned(),
            json!({"remote_console": {"protocol": "mks", "type": "webmks"}}),
        ),
        // These are judged by the volume first.
        "swap volume" | "create assisted snapshot" | "delete assisted snapshot" => return None,
        "evacuate" => ("POST", "/action".to_owned(), json!({"evacuate": {}})),
        "changePassword" => (
            "POST",
            "/action".to_owned(),
            json!({"changePassword": {"adminPass": "x"}}),
        ),
        _ => ("POST", "/action".to_owned(), (known.body)()),
    };
    Some((method, path, body))
}

/// The server has what is taken from it. Its volume, and one that is free.
async fn equip(cloud: &Cloud, id: &str) -> [String; 2] {
    let in_use = json!({ "status": "in-use" });
    let volumes = [cloud.volumes.make_with(&in_use), cloud.volumes.make()];
    let volume = volumes[0].clone();
    let (tags, metadata) = (
        format!("/servers/{id}/tags"),
        format!("/servers/{id}/metadata"),
    );
    let tagged = cloud.send("member", 90, "PUT", &tags, json!({"tags": ["t"]}));
    assert_eq!(tagged.await.status, 200);
    let body = json!({"metadata": {"k": "v"}});
    let described = cloud.send("member", 90, "POST", &metadata, body);
    assert_eq!(described.await.status, 200);
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut device = BlockDevice::new(id, Source::Volume, Destination::Volume);
        device.volume_id = Some(volume.clone());
        device.attachment_id = Some(super::server_volumes::ATTACHMENT.to_owned());
        device.device_name = Some("/dev/vdb".to_owned());
        block_devices::insert(tx, &device, Timestamp::now())
    };
    cloud.store.write(write).await.unwrap();
    volumes
}

#[tokio::test]
async fn requests_that_are_refused_are_refused_in_novas_words() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    host_is_up(&cloud).await;
    let volumes = equip(&cloud, &id).await;
    let mut refused = 0;
    for known in KNOWN
        .iter()
        .filter(|known| NO_ACTIONS.contains(&known.action))
    {
        let Some((method, path, body)) = asked(known, &volumes) else {
            continue;
        };
        for (vm, task) in all_pairs() {
            let Some(words) = known.verdict(&id, vm, task) else {
                continue;
            };
            put(&cloud, &id, vm, task).await;
            let path = format!("/servers/{id}{path}");
            let answer = cloud
                .send("admin", known.version, method, &path, body.clone())
                .await;
            let shown = format!("{} {vm} {task:?}: {}", known.action, answer.text);
            assert_eq!(answer.status, 409, "{shown}");
            assert_eq!(
                answer.fault(),
                ("conflictingRequest".to_owned(), words),
                "{shown}"
            );
            refused += 1;
        }
    }
    testkit::tell(format_args!("{refused} refusals"));
}

/// Actions that only administrators may ask for.
const ADMINS: &[&str] = &[
    "injectNetworkInfo",
    "migrate",
    "os-migrateLive",
    "force_complete",
    "abort live migration",
    "shelveOffload",
];

#[tokio::test]
async fn what_is_locked_is_refused_to_its_owner() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    host_is_up(&cloud).await;
    let volumes = equip(&cloud, &id).await;
    let path = format!("/servers/{id}/action");
    let lock = cloud.send("member", 90, "POST", &path, json!({"lock": null}));
    assert_eq!(lock.await.status, 202);
    let mut forbidden = Vec::new();
    for (known, (_, rule)) in KNOWN
        .iter()
        .zip(verdict::ALL)
        .filter(|(_, (_, rule))| rule.lock)
    {
        let Some((method, path, body)) = asked(known, &volumes) else {
            continue;
        };
        // Where it would be done but for the lock.
        let good = VmState::ALL
            .iter()
            .copied()
            .find(|vm| rule.vm_states.is_none_or(|states| states.contains(vm)));
        let task = match known.tasks {
            "migrating" => Some(TaskState::Migrating),
            _ => None,
        };
        put(&cloud, &id, good.unwrap(), task).await;
        let path = format!("/servers/{id}{path}");
        let answer = cloud
            .send("member", known.version, method, &path, body)
            .await;
        if answer.status == 403 {
            forbidden.push(known.action);
            continue;
        }
        let shown = format!("{}: {}", known.action, answer.text);
        assert_eq!(answer.status, 409, "{shown}");
        assert_eq!(
            answer.fault().1,
            format!("Instance {id} is locked"),
            "{shown}"
        );
    }
    assert_eq!(forbidden, ADMINS);
}
