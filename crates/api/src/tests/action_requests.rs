//! The matrix of states once more, asked through the API: requests that are no actions, where they are taken; requests
//! that look at no state; servers on no host, and those that never ran.

use super::action_matrix::{
    Asked, KNOWN, NO_ACTIONS, all_pairs, asked, equip, on_record, put, refit,
};
use super::harness::{Answer, Cloud, NETWORK, PORT};
use super::server_create::{cloud, cloud_with};
use super::server_life::{finish, host_is_up, make};
use db::instances::Interface;
use db::migrations::{self, End, Kind, NewMigration, Status};
use serde_json::json;
use types::{MigrationId, ServerId, TaskState, Timestamp, VmState};

async fn send(cloud: &Cloud, version: u16, (method, path, body): &Asked) -> Answer {
    cloud
        .send("admin", version, method, path, body.clone())
        .await
}

/// A live migration of the server that is under way; its first one.
async fn moves(cloud: &Cloud, id: &str) {
    let server: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let here = db::instances::get(tx, server)?.unwrap();
        let new = NewMigration {
            id: MigrationId::random(),
            server,
            kind: Kind::LiveMigration,
            status: Status::Running,
            source: End::default(),
            dest: End::default(),
            old_flavor: &here.flavor.id,
            new_flavor: &here.flavor.id,
            project_id: "p",
            user_id: "u",
        };
        assert_eq!(migrations::insert(tx, &new, Timestamp::now())?, 1);
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

async fn has_port(cloud: &Cloud, id: &str, has: bool) {
    let interface = Interface {
        port_id: PORT.to_owned(),
        network_id: NETWORK.to_owned(),
        network_name: "private".to_owned(),
        mac: "fa:16:3e:00:00:01".to_owned(),
        mtu: 1450,
        addresses: Vec::new(),
        preexisting: false,
        tag: None,
    };
    let (id, all): (ServerId, Vec<_>) = (id.parse().unwrap(), vec![interface; usize::from(has)]);
    let write = move |tx: &mut sql::Tx<'_>| db::instances::set_network_info(tx, id, &all);
    let written: Result<(), sql::Error> = cloud.store.write(write).await;
    written.unwrap();
}

/// What a worker and a host do for a request that waits for them: it ends well.
async fn worked(cloud: &Cloud, id: &str) {
    let server: ServerId = id.parse().unwrap();
    let accepted = async || -> bool {
        let reading = cloud.store.read(move |tx| db::instances::get(tx, server));
        let found: Result<Option<db::instances::Instance>, sql::Error> = reading.await;
        found.unwrap().unwrap().task_id.is_some()
    };
    while !accepted().await {
        tokio::task::yield_now().await;
    }
    has_port(cloud, id, true).await;
    finish(cloud, id, VmState::Active).await;
}

/// The host of the servers is up, or was so long ago.
async fn host_beats(cloud: &Cloud, at: Timestamp) {
    let beat =
        move |tx: &mut sql::Tx<'_>| db::hosts::beat(tx, &"h1".into(), "nova-compute", None, at);
    let beaten: Result<(), sql::Error> = cloud.store.write(beat).await;
    beaten.unwrap();
}

/// In every pair of states that allows them.
#[tokio::test]
async fn requests_that_are_no_actions_are_taken() {
    const WAIT: [&str; 2] = ["attach interface", "changePassword"];
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    moves(&cloud, &id).await;
    let [volume, _] = equip(&cloud, &id).await;
    let mut taken = 0;
    for known in KNOWN
        .iter()
        .filter(|known| NO_ACTIONS.contains(&known.action))
    {
        let gone = known.action == "evacuate";
        host_beats(&cloud, if gone { Timestamp(1) } else { Timestamp::now() }).await;
        let allowed = all_pairs().filter(|(vm, task)| known.verdict(&id, *vm, *task).is_none());
        let allowed: Vec<_> = allowed.collect();
        assert!(!allowed.is_empty(), "{}", known.action);
        for (vm, task) in allowed {
            refit(&cloud, &id, &volume).await;
            has_port(&cloud, &id, known.action != "attach interface").await;
            put(&cloud, &id, vm, task).await;
            let volumes = [volume.clone(), cloud.volumes.make()];
            let asked = asked(known, &id, &volumes);
            let before = on_record(&cloud, &id).await;
            let sent = send(&cloud, known.version, &asked);
            let answer = if WAIT.contains(&known.action) {
                tokio::join!(sent, worked(&cloud, &id)).0
            } else {
                sent.await
            };
            let shown = format!("{} {vm} {task:?}: {}", known.action, answer.text);
            assert_eq!(answer.status.as_u16(), known.status, "{shown}");
            let after = on_record(&cloud, &id).await;
            assert_eq!(after, known.recorded(&before), "{shown}");
            taken += 1;
        }
    }
    testkit::tell(format_args!("{taken} requests that are no actions"));
}

/// The server is on no host, or was never launched.
async fn forget(cloud: &Cloud, id: &str, (placed, launched): (bool, bool)) {
    let id: ServerId = id.parse().unwrap();
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        if !placed {
            let sql =
                "UPDATE instances SET host = NULL, node = NULL, node_id = NULL WHERE uuid = ?";
            tx.execute(sql, &[id.into()])?;
        }
        if !launched {
            let sql = "UPDATE instances SET launched_at = NULL WHERE uuid = ?";
            tx.execute(sql, &[id.into()])?;
        }
        Ok(())
    };
    cloud.store.write(write).await.unwrap();
}

type Tasks = &'static [Option<TaskState>];

/// Servers that are on no host or never ran, with the task states that they can have then. (What is being built has a
/// host before it runs.)
#[rustfmt::skip]
const ELSEWHERE: &[(VmState, Tasks, (bool, bool))] = &[
    (VmState::Building, &[Some(TaskState::Scheduling), Some(TaskState::Deleting)], (false, false)),
    (VmState::Building, &[Some(TaskState::Networking), Some(TaskState::BlockDeviceMapping), Some(TaskState::Spawning),
        Some(TaskState::Deleting)], (true, false)),
    (VmState::Error, &[None, Some(TaskState::Deleting)], (false, false)),
    (VmState::Error, &[None, Some(TaskState::Rebuilding)], (true, false)),
    (VmState::SoftDelete, &[None, Some(TaskState::Deleting)], (false, false)),
    (VmState::SoftDelete, &[None, Some(TaskState::Restoring)], (false, true)),
    (VmState::ShelvedOffloaded, &[None, Some(TaskState::Unshelving), Some(TaskState::Spawning), Some(TaskState::Deleting)],
        (false, true)),
];

/// What is refused is refused in Nova's words.
#[tokio::test]
async fn servers_on_no_host_and_servers_that_never_ran() {
    let mut refused = 0;
    for &(vm, tasks, at) in ELSEWHERE {
        let cloud = cloud().await;
        let id = make(&cloud, "member", "a").await;
        finish(&cloud, &id, VmState::Active).await;
        host_is_up(&cloud).await;
        let flavor =
            json!({"flavor": {"name": "s", "id": "2", "ram": 1024, "vcpus": 2, "disk": 2}});
        cloud.send("admin", 1, "POST", "/flavors", flavor).await;
        let volumes = equip(&cloud, &id).await;
        forget(&cloud, &id, at).await;
        for (known, &task) in KNOWN
            .iter()
            .flat_map(|known| tasks.iter().map(move |task| (known, task)))
        {
            put(&cloud, &id, vm, task).await;
            let Some(words) = known.verdict_of(&id, (vm, task), at) else {
                continue;
            };
            let answer = send(&cloud, known.version, &asked(known, &id, &volumes)).await;
            let shown = format!("{} {vm} {task:?} {at:?}: {}", known.action, answer.text);
            let (status, fault) = known.refused;
            assert_eq!(answer.status.as_u16(), status, "{shown}");
            assert_eq!(answer.fault(), (fault.to_owned(), words), "{shown}");
            refused += 1;
        }
        for question in OF_HOSTS {
            let answer = send(&cloud, 90, &question(&id)).await;
            let (status, message) = (answer.status.as_u16(), answer.fault().1);
            match at.0 {
                true => assert_eq!(status, 200, "{message}"),
                false => {
                    let words = format!("Instance {id} is not ready");
                    assert_eq!((status, message), (409, words));
                }
            }
        }
    }
    testkit::tell(format_args!("{refused} refusals"));
}

/// A request about the server of this id.
type Request = fn(&str) -> Asked;

/// What only a host can answer.
const OF_HOSTS: [Request; 2] = [console_output, diagnostics];

fn action(id: &str, body: serde_json::Value) -> Asked {
    ("POST", format!("/servers/{id}/action"), body)
}

fn console_output(id: &str) -> Asked {
    action(id, json!({ "os-getConsoleOutput": {} }))
}

fn diagnostics(id: &str) -> Asked {
    ("GET", format!("/servers/{id}/diagnostics"), json!(null))
}

fn add_group(id: &str) -> Asked {
    action(id, json!({ "addSecurityGroup": { "name": "web" } }))
}

fn remove_group(id: &str) -> Asked {
    action(id, json!({ "removeSecurityGroup": { "name": "default" } }))
}

/// Requests that Nova takes whatever the state is, and how it answers them.
const WHATEVER: [(Request, u16); 4] = [
    (console_output, 200),
    (diagnostics, 200),
    (add_group, 202),
    (remove_group, 202),
];

async fn server(cloud: &Cloud, id: &str) -> db::instances::Instance {
    let id: ServerId = id.parse().unwrap();
    let reading = cloud.store.read(move |tx| db::instances::get(tx, id)).await;
    let found: Result<_, sql::Error> = reading;
    found.unwrap().unwrap()
}

#[tokio::test]
async fn requests_that_look_at_no_state() {
    let cloud = cloud().await;
    let id = make(&cloud, "member", "a").await;
    finish(&cloud, &id, VmState::Active).await;
    let before = on_record(&cloud, &id).await;
    for (vm, task) in all_pairs() {
        put(&cloud, &id, vm, task).await;
        for (request, status) in WHATEVER {
            let asked = request(&id);
            let answer = send(&cloud, 90, &asked).await;
            let shown = format!("{asked:?} {vm} {task:?}: {}", answer.text);
            assert_eq!(answer.status.as_u16(), status, "{shown}");
        }
        let now = server(&cloud, &id).await;
        assert_eq!((now.vm_state, now.task_state), (vm, task));
    }
    assert_eq!(on_record(&cloud, &id).await, before);
    for (vm, task) in all_pairs() {
        for (state, wanted) in [("active", VmState::Active), ("error", VmState::Error)] {
            put(&cloud, &id, vm, task).await;
            let asked = action(&id, json!({ "os-resetState": { "state": state } }));
            let answer = send(&cloud, 90, &asked).await;
            let shown = format!("{state} {vm} {task:?}: {}", answer.text);
            assert_eq!(answer.status, 202, "{shown}");
            let now = server(&cloud, &id).await;
            assert_eq!((now.vm_state, now.task_state), (wanted, None), "{shown}");
            assert_eq!(on_record(&cloud, &id).await[0], "resetState", "{shown}");
        }
    }
}

/// For good, or so that they can be taken back.
#[tokio::test]
async fn deletions_are_taken_in_any_state() {
    for reclaim_seconds in [0, 600] {
        let cloud = cloud_with(crate::Config {
            reclaim_seconds,
            ..super::harness::config()
        })
        .await;
        let id = make(&cloud, "member", "a").await;
        finish(&cloud, &id, VmState::Active).await;
        let path = format!("/servers/{id}");
        for (vm, task) in all_pairs() {
            put(&cloud, &id, vm, task).await;
            let before = on_record(&cloud, &id).await;
            let answer = cloud.send("member", 90, "DELETE", &path, json!(null)).await;
            let shown = format!("{reclaim_seconds} {vm} {task:?}: {}", answer.text);
            assert_eq!(answer.status, 204, "{shown}");
            let (state, new) = match (reclaim_seconds, vm) {
                (0, _) | (_, VmState::ShelvedOffloaded) => (Some(TaskState::Deleting), 1),
                // It is that already.
                (_, VmState::SoftDelete) => (task, 0),
                _ => (Some(TaskState::SoftDeleting), 1),
            };
            assert_eq!(server(&cloud, &id).await.task_state, state, "{shown}");
            let wanted: Vec<String> = vec!["delete".to_owned(); new]
                .into_iter()
                .chain(before)
                .collect();
            assert_eq!(on_record(&cloud, &id).await, wanted, "{shown}");
        }
    }
}
