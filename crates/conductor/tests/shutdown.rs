#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Guests that are asked to go down, and those that do not: for how long they are waited for, and what is done then.

use kilonova_conductor::flows::grace::{Grace, Patience};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::{Cluster, Options};
use types::{PowerState, ServerId, VmState};
use virt::sim::{Moment, Verb};

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// A server whose image says how long its guest may take to go down.
async fn with_timeout(cluster: &Cluster, says: &str) -> ServerId {
    let image = json!({ "id": uuid::Uuid::new_v4(), "name": "i", "disk_format": "raw", "container_format": "bare",
        "size": 1, "min_disk": 0, "min_ram": 0, "sha512": null, "properties": { "os_shutdown_timeout": says } });
    let image = serde_json::from_value(image).unwrap();
    cluster
        .create_with(|server| server.image = Some(image))
        .await
}

/// What the hypervisors of a cluster were called for.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<(ServerId, Verb)>>>);

impl Calls {
    /// In their order.
    fn of(&self, server: ServerId) -> Vec<Verb> {
        let all = self.0.lock().unwrap();
        let its = all.iter().filter(|(one, _)| *one == server);
        its.map(|(_, verb)| *verb).collect()
    }

    /// Those of its calls that switch its guest off or on, or ask it to go down; and forgets them.
    fn take_switching(&self, server: ServerId) -> Vec<Verb> {
        const SWITCHES: [Verb; 4] = [
            Verb::RequestShutdown,
            Verb::StopHard,
            Verb::RebootSoft,
            Verb::RebootHard,
        ];
        let mut its = self.of(server);
        its.retain(|verb| SWITCHES.contains(verb));
        self.0.lock().unwrap().retain(|(one, _)| *one != server);
        its
    }
}

/// Notes what hypervisors are called for.
fn listened(cluster: &Cluster) -> Calls {
    let calls = Calls::default();
    for host in &cluster.hosts {
        let calls = calls.clone();
        let controls = host.sim.controls();
        controls.set_hook(Some(Arc::new(move |verb, moment, server| {
            if moment == Moment::Before {
                calls.0.lock().unwrap().push((server, verb));
            }
            None
        })));
    }
    calls
}

fn ignore_buttons(cluster: &Cluster, ignore: bool) {
    for host in &cluster.hosts {
        host.sim.controls().set_guests_ignore_shutdown(ignore);
    }
}

/// No guest goes down by itself; what hypervisors are called for.
fn deaf(cluster: &Cluster) -> Calls {
    ignore_buttons(cluster, true);
    listened(cluster)
}

/// The state of a server whose last action went well, and what its guest does.
async fn ended(cluster: &Cluster, server: ServerId) -> (VmState, PowerState) {
    assert_eq!(cluster.last_action_says(server).await, None);
    let shown = cluster.server(server).await;
    assert_eq!((shown.task_state, shown.fault), (None, None));
    let host = cluster.host(&shown.host.unwrap());
    let guests = host.guests().await;
    let its = guests.iter().find(|(one, _)| *one == server).unwrap();
    assert_eq!(its.1, shown.power_state, "it shows what its guest does");
    (shown.vm_state, shown.power_state)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_guest_that_ignores_its_button_is_switched_off() {
    let cluster = Cluster::new(Options::default()).await;
    let calls = listened(&cluster);
    let server = with_timeout(&cluster, "1").await;
    cluster.idle().await;
    calls.take_switching(server);
    for ignores in [true, false] {
        ignore_buttons(&cluster, ignores);
        let start = Instant::now();
        cluster.stop(server).await;
        cluster.idle().await;
        let off = (VmState::Stopped, PowerState::Shutdown);
        assert_eq!(ended(&cluster, server).await, off);
        let called = calls.take_switching(server);
        if ignores {
            assert!(start.elapsed() >= SECOND, "it gets its time");
            assert_eq!(called, [Verb::RequestShutdown, Verb::StopHard]);
        } else {
            assert_eq!(called, [Verb::RequestShutdown]);
        }
        cluster.start(server).await;
        cluster.idle().await;
        calls.take_switching(server);
    }
    clean(&cluster).await;
}

/// After the operator's `[libvirt] wait_soft_reboot_seconds`.
#[tokio::test]
async fn a_soft_reboot_that_a_guest_ignores_becomes_a_hard_one() {
    let patience = Patience {
        reboot: Grace::of_seconds(1),
        ..Patience::default()
    };
    let cluster = Cluster::new(Options {
        patience,
        ..Options::default()
    })
    .await;
    let calls = listened(&cluster);
    let server = cluster.create().await;
    cluster.idle().await;
    calls.take_switching(server);
    for (ignores, hard, wanted) in [
        (true, false, &[Verb::RebootSoft, Verb::RebootHard][..]),
        (true, true, &[Verb::RebootHard]),
        (false, false, &[Verb::RebootSoft]),
    ] {
        ignore_buttons(&cluster, ignores);
        let start = Instant::now();
        cluster.reboot(server, hard).await;
        cluster.idle().await;
        let on = (VmState::Active, PowerState::Running);
        assert_eq!(ended(&cluster, server).await, on);
        assert_eq!(calls.take_switching(server), wanted, "{ignores} {hard}");
        let waited = start.elapsed() >= SECOND;
        assert!(waited || hard || !ignores, "it gets its time");
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn a_guest_gets_the_time_that_its_image_says() {
    let cluster = Cluster::new(Options::default()).await;
    let calls = deaf(&cluster);
    let actions = [
        ("stop", VmState::Stopped),
        ("shelve", VmState::ShelvedOffloaded),
        ("rescue", VmState::Rescued),
        ("rebuild", VmState::Active),
        ("resize", VmState::Resized),
    ];
    let mut servers = Vec::new();
    for (action, end) in actions {
        for (says, is_asked) in [("0", false), ("-3", false), ("1", true)] {
            let server = with_timeout(&cluster, says).await;
            servers.push((server, action, end, says, is_asked));
        }
    }
    cluster.idle().await;
    for &(server, action, ..) in &servers {
        match action {
            "resize" => cluster.resize(server, false, json!({})).await,
            "shelve" => {
                let state = cluster.first_state(action, server);
                cluster.act(server, action, state).await;
            }
            _ => cluster.act(server, action, json!({})).await,
        }
    }
    cluster.idle().await;
    for (server, action, end, says, is_asked) in servers {
        let shown = cluster.server(server).await;
        assert_eq!((shown.vm_state, shown.fault), (end, None), "{action}");
        let was_asked = calls.of(server).contains(&Verb::RequestShutdown);
        assert_eq!(was_asked, is_asked, "{action} of a guest with {says} s");
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn nobody_counts_as_silent_who_waits_for_a_guest_and_no_deletion_waits() {
    let cluster = Cluster::new(Options::default()).await;
    let calls = deaf(&cluster);
    let server = with_timeout(&cluster, "600").await;
    cluster.idle().await;
    let host = cluster.server(server).await.host.unwrap();
    cluster.stop(server).await;
    let is_asked = async || calls.of(server).contains(&Verb::RequestShutdown);
    cluster.until("its guest is asked", is_asked).await;
    let reading = cluster
        .store
        .read(move |tx| db::work::pending(tx, &host, 64));
    let pending: Result<_, sql::Error> = reading.await;
    let time: Vec<u64> = pending
        .unwrap()
        .work
        .iter()
        .map(|(work, _)| work.deadline_seconds)
        .collect();
    assert_eq!(time, [720]);
    // The work goes on after a crash, with the time that it had.
    cluster.kill_worker("w");
    cluster.start_worker("w").await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    clean(&cluster).await;
}
