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
pub(super) struct Known {
    pub(super) action: &'static str,
    pub(super) version: u16,
    body: fn() -> Value,
    name: &'static str,
    vm_states: &'static str,
    tasks: &'static str,
    host: bool,
    pub(super) status: u16,
    /// The status and the name of refusals.
    pub(super) refused: (u16, &'static str),
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
        refused: (409, "conflictingRequest"),
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

/// Whatever keeps a volume's snapshot from being taken is the volume service's mistake.
const fn of_volume(status: u16, mut known: Known) -> Known {
    known.refused = (400, "badRequest");
    answered(status, on_host(known))
}

/// There are no proxies: where the states allow one, it is unavailable.
const fn console(action: &'static str, body: fn() -> Value, name: &'static str) -> Known {
    let unless = "! deleting migrating";
    answered(400, at(5, on_host(known(action, body, name, "*", unless))))
}

#[rustfmt::skip]
pub(super) const KNOWN: &[Known] = &[
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
    answered(200, known("update metadata", || json!(null), "update metadata", "active paused suspended stopped", "*")),
    answered(204, known("delete metadata", || json!(null), "delete metadata", "active paused suspended stopped", "*")),
    answered(204, known("update tag", || json!(null), "update tag", "active paused suspended stopped", "*")),
    answered(200, known("update tags", || json!(null), "update tags", "active paused suspended stopped", "*")),
    answered(204, known("delete tag", || json!(null), "delete tag", "active paused suspended stopped", "*")),
    answered(204, known("delete tags", || json!(null), "delete tags", "active paused suspended stopped", "*")),
    answered(200, known("evacuate", || json!(null), "evacuate", "active stopped error", "*")),
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
    answered(200, known("attach interface", || json!(null), "attach_interface", "active paused stopped", "-")),
    known("detach interface", || json!(null), "detach_interface", "active paused stopped", "-"),
    at(101, known("attach volume", || json!(null), "attach_volume", "active paused stopped resized soft-delete shelved shelved_offloaded", "-")),
    known("detach volume", || json!(null), "detach_volume", "active paused stopped resized soft-delete shelved shelved_offloaded", "-"),
    known("swap volume", || json!(null), "swap_volume", "active paused resized", "-"),
    of_volume(200, known("create assisted snapshot", || json!(null), "volume_snapshot_create", "*", "-")),
    of_volume(204, known("delete assisted snapshot", || json!(null), "volume_snapshot_delete", "*", "-")),
    console("VNC console", || json!({"os-getVNCConsole": {"type": "novnc"}}), "get_vnc_console"),
    console("SPICE console", || json!({"os-getSPICEConsole": {"type": "spice-html5"}}), "get_spice_console"),
    console("serial console", || json!({"os-getSerialConsole": {"type": "serial"}}), "get_serial_console"),
    at(8, console("MKS console", || json!(null), "get_mks_console")),
];

/// Rules of requests that are no actions, or that are answered only when somebody has done his part.
pub(super) const NO_ACTIONS: &[&str] = &[
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

/// Actions of servers that need not have been launched.
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

/// What is on record of a request that was taken, in the words of Nova's `compute/instance_actions.py`; of others nothing is.
const RECORDED: &[(&str, &str)] = &[
    ("os-start", "start"),
    ("os-stop", "stop"),
    ("reboot SOFT", "reboot"),
    ("reboot HARD", "reboot"),
    ("pause", "pause"),
    ("unpause", "unpause"),
    ("suspend", "suspend"),
    ("resume", "resume"),
    ("trigger_crash_dump", "trigger_crash_dump"),
    ("forceDelete", "delete"),
    ("restore", "restore"),
    ("rescue", "rescue"),
    ("unrescue", "unrescue"),
    ("rebuild", "rebuild"),
    ("createImage", "createImage"),
    ("createBackup", "createBackup"),
    ("changePassword", "changePassword"),
    ("lock", "lock"),
    ("unlock", "unlock"),
    ("evacuate", "evacuate"),
    ("resize", "resize"),
    ("migrate", "migrate"),
    ("confirmResize", "confirmResize"),
    ("revertResize", "revertResize"),
    ("os-migrateLive", "live-migration"),
    ("force_complete", "live_migration_force_complete"),
    ("abort live migration", "live_migration_cancel"),
    ("shelve", "shelve"),
    ("shelveOffload", "shelveOffload"),
    ("unshelve", "unshelve"),
    ("attach interface", "attach_interface"),
    ("detach interface", "detach_interface"),
    ("attach volume", "attach_volume"),
    ("detach volume", "detach_volume"),
    ("swap volume", "swap_volume"),
];

/// The actions on record of a server, newest first.
pub(super) async fn on_record(cloud: &Cloud, id: &str) -> Vec<String> {
    let id: ServerId = id.parse().unwrap();
    let reading = cloud
        .store
        .read(move |tx| db::actions::of_server(tx, id))
        .await;
    let found: Result<Vec<_>, sql::Error> = reading;
    found.unwrap().into_iter().map(|one| one.action).collect()
}

impl Known {
    /// What is on record of it afterwards, before which there was this.
    pub(super) fn recorded(&self, before: &[String]) -> Vec<String> {
        let its = RECORDED.iter().find(|(action, _)| *action == self.action);
        let its = its.map(|(_, name)| (*name).to_owned());
        its.into_iter().chain(before.iter().cloned()).collect()
    }

    /// Nova's verdict on a server that may be on no host, or never have been launched.
    pub(super) fn verdict_of(
        &self,
        id: &str,
        (vm, task): (VmState, Option<TaskState>),
        (placed, launched): (bool, bool),
    ) -> Option<String> {
        if self.host && !placed {
            return Some(format!("Instance {id} is not ready"));
        }
        let launched = launched || UNLAUNCHED.contains(&self.action);
        let never = || format!("Instance {id} is in an invalid state for '{}'", self.name);
        self.verdict(id, vm, task)
            .or_else(|| (!launched).then(never))
    }

    /// Nova's verdict on a launched server on a host: the words of the refusal, or none.
    pub(super) fn verdict(&self, id: &str, vm: VmState, task: Option<TaskState>) -> Option<String> {
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
pub(super) async fn put(cloud: &Cloud, id: &str, vm: VmState, task: Option<TaskState>) {
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

/// Whether a server is on a host, and whether it was ever launched.
const WHERE_AND_WHEN: [(bool, bool); 4] =
    [(true, true), (false, true), (true, false), (false, false)];

fn all_tasks() -> impl Iterator<Item = Option<TaskState>> {
    std::iter::once(None).chain(TaskState::ALL.iter().copied().map(Some))
}

/// What servers that are there can show.
pub(super) fn all_pairs() -> impl Iterator<Item = (VmState, Option<TaskState>)> {
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
                let verdict = |server: &Instance| {
                    let refused = rule.check_as(server, false).err();
                    refused.map(|fault| fault.message)
                };
                for (placed, launched) in WHERE_AND_WHEN {
                    let server = Instance {
                        host: server.host.clone().filter(|_| placed),
                        launched_at: server.launched_at.filter(|_| launched),
                        ..server.clone()
                    };
                    let wanted = known.verdict_of(&id, (vm, task), (placed, launched));
                    let shown = format!("{} {vm} {task:?} {placed} {launched}", known.action);
                    assert_eq!(verdict(&server), wanted, "{shown}");
                }
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
    let flavor =
        json!({"flavor": {"name": "m1.small", "id": "2", "ram": 1024, "vcpus": 2, "disk": 2}});
    cloud.send("admin", 1, "POST", "/flavors", flavor).await;
    for known in KNOWN
        .iter()
        .filter(|known| !NO_ACTIONS.contains(&known.action))
    {
        // On a slow machine all of them take longer than a host may be silent.
        host_is_up(&cloud).await;
        for (vm, task) in all_pairs() {
            put(&cloud, &id, vm, task).await;
            let path = format!("/servers/{id}/action");
            let verdict = known.verdict(&id, vm, task);
            let before = match &verdict {
                None => on_record(&cloud, &id).await,
                Some(_) => Vec::new(),
            };
            let answer = cloud
                .send("admin", known.version, "POST", &path, (known.body)())
                .await;
            let shown = format!("{} {vm} {task:?}: {}", known.action, answer.text);
            match verdict {
                None => {
                    assert_eq!(answer.status.as_u16(), known.status, "{shown}");
                    let after = on_record(&cloud, &id).await;
                    assert_eq!(after, known.recorded(&before), "{shown}");
                }
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

/// A request: its method, its path, its body.
pub(super) type Asked = (&'static str, String, Value);

/// How a rule is asked for, with the volume that the server has and another one.
pub(super) fn asked(known: &Known, id: &str, [volume, other]: &[String; 2]) -> Asked {
    let attachment = json!({ "volumeAttachment": { "volumeId": other } });
    let of_server = |path: &str| format!("/servers/{id}{path}");
    let (method, path, body) = match known.action {
        "attach interface" => (
            "POST",
            "/os-interface".to_owned(),
            json!({"interfaceAttachment": {"net_id": super::harness::NETWORK}}),
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
        "swap volume" => (
            "PUT",
            format!("/os-volume_attachments/{volume}"),
            attachment,
        ),
        "detach volume" => (
            "DELETE",
            format!("/os-volume_attachments/{volume}"),
            json!(null),
        ),
        "create assisted snapshot" => {
            let info = json!({ "snapshot_id": "s", "type": "qcow2", "new_file": "n",
                "id": super::server_volumes::ATTACHMENT });
            let body = json!({ "snapshot": { "volume_id": volume, "create_info": info } });
            return ("POST", "/os-assisted-volume-snapshots".to_owned(), body);
        }
        "delete assisted snapshot" => {
            let info = json!({ "volume_id": volume }).to_string();
            let info: String = url::form_urlencoded::byte_serialize(info.as_bytes()).collect();
            let path = format!("/os-assisted-volume-snapshots/i?delete_info={info}");
            return ("DELETE", path, json!(null));
        }
        "MKS console" => (
            "POST",
            "/remote-consoles".to_owned(),
            json!({"remote_console": {"protocol": "mks", "type": "webmks"}}),
        ),
        "evacuate" => ("POST", "/action".to_owned(), json!({"evacuate": {}})),
        "changePassword" => (
            "POST",
            "/action".to_owned(),
            json!({"changePassword": {"adminPass": "x"}}),
        ),
        _ => ("POST", "/action".to_owned(), (known.body)()),
    };
    (method, of_server(&path), body)
}

/// The server has what is taken from it. Its volume, and one that is free.
pub(super) async fn equip(cloud: &Cloud, id: &str) -> [String; 2] {
    let in_use = json!({ "status": "in-use" });
    let volumes = [cloud.volumes.make_with(&in_use), cloud.volumes.make()];
    let (tags, metadata) = (
        format!("/servers/{id}/tags"),
        format!("/servers/{id}/metadata"),
    );
    let tagged = cloud.send("member", 90, "PUT", &tags, json!({"tags": ["t"]}));
    assert_eq!(tagged.await.status, 200);
    let body = json!({"metadata": {"k": "v"}});
    let described = cloud.send("member", 90, "POST", &metadata, body);
    assert_eq!(described.await.status, 200);
    let (server, volume): (ServerId, _) = (id.parse().unwrap(), volumes[0].clone());
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut device = BlockDevice::new(server, Source::Volume, Destination::Volume);
        device.volume_id = Some(volume.clone());
        device.attachment_id = Some(super::server_volumes::ATTACHMENT.to_owned());
        device.device_name = Some("/dev/vdb".to_owned());
        block_devices::insert(tx, &device, Timestamp::now())
    };
    cloud.store.write(write).await.unwrap();
    refit(cloud, id, &volumes[0]).await;
    volumes
}

/// It has what is taken from it: a tag, metadata, its volume, which the volume service is moving.
pub(super) async fn refit(cloud: &Cloud, id: &str, volume: &str) {
    let its = json!([{ "server_id": id, "attachment_id": super::server_volumes::ATTACHMENT }]);
    let fields = [
        ("status", json!("in-use")),
        ("migration_status", json!("migrating")),
        ("attachments", its),
    ];
    for (field, value) in fields {
        cloud.volumes.set(volume, field, value);
    }
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut server = db::instances::get(tx, id)?.unwrap();
        server.metadata.insert("k".to_owned(), "v".to_owned());
        db::instances::update_editable(tx, &server, Timestamp::now())?;
        db::tags::replace(tx, id, &["t".to_owned()])
    };
    cloud.store.write(write).await.unwrap();
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
        let (method, path, body) = asked(known, &id, &volumes);
        for (vm, task) in all_pairs() {
            let Some(words) = known.verdict(&id, vm, task) else {
                continue;
            };
            put(&cloud, &id, vm, task).await;
            let answer = cloud
                .send("admin", known.version, method, &path, body.clone())
                .await;
            let shown = format!("{} {vm} {task:?}: {}", known.action, answer.text);
            let (status, fault) = known.refused;
            assert_eq!(answer.status.as_u16(), status, "{shown}");
            assert_eq!(answer.fault(), (fault.to_owned(), words), "{shown}");
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
    "swap volume",
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
        let (method, path, body) = asked(known, &id, &volumes);
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
