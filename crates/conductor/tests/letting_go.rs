#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Guests that do not let go of what is to be taken from them: who deletes a server or switches it off does not wait for them,
//! and what was under way is taken back.

use db::accept::{self, Accepted};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use testkit::{Cluster, Options};
use types::{PowerState, ServerId, VmState};
use virt::sim::Verb;

/// Longer than anybody waits.
const NEVER: Duration = Duration::from_secs(3600);
/// What is taken from a server, and what its host does for that.
const TAKEN: [(&str, Verb); 2] = [
    (accept::DETACH_VOLUME, Verb::DetachDisk),
    (accept::DETACH_INTERFACE, Verb::Detach),
];

/// A server whose guest is asked to let go, and does not.
async fn asked_to_let_go((flow, verb): (&'static str, Verb)) -> (Cluster, ServerId) {
    let cluster = Cluster::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let server = cluster.create().await;
    cluster.idle().await;
    if flow == accept::DETACH_VOLUME {
        let state = cluster.first_state(accept::ATTACH_VOLUME, server);
        cluster.act(server, accept::ATTACH_VOLUME, state).await;
        cluster.idle().await;
    }
    cluster.hosts[0].sim.controls().set_delay(verb, NEVER);
    let state = cluster.first_state(flow, server);
    cluster.act(server, flow, state).await;
    cluster
        .until("the host asks the guest", async || {
            cluster.tasks_at(Some("detach")).await == 1
        })
        .await;
    (cluster, server)
}

/// How many volumes and interfaces the guest has.
async fn has(cluster: &Cluster, server: ServerId) -> (usize, usize) {
    let sim = cluster.hosts[0].sim.as_ref();
    let spec = virt::Hypervisor::stored_spec(sim, server).await;
    let spec = spec.unwrap().unwrap();
    let volumes = spec.disks.iter().filter_map(virt::Disk::volume_id);
    (volumes.count(), spec.vifs.len())
}

async fn switched_off(taken: (&'static str, Verb), flow: &'static str) {
    let (cluster, server) = asked_to_let_go(taken).await;
    let had = has(&cluster, server).await;
    let state = serde_json::json!({ "hard": flow == accept::REBOOT });
    let since = Instant::now();
    cluster
        .until("it is accepted", async || {
            let how = state.clone();
            let accepted = match flow {
                accept::SOFT_DELETE => cluster.try_soft_delete(server).await,
                flow => cluster.try_act(server, flow, how, |_| true).await,
            };
            accepted == Accepted::Yes
        })
        .await;
    // The guest would be asked for 160 seconds.
    let waited = since.elapsed();
    assert!(waited < Duration::from_secs(60), "{waited:?}");
    cluster.idle().await;
    let shown = cluster.server(server).await;
    let wanted = match flow {
        accept::STOP => (VmState::Stopped, PowerState::Shutdown),
        accept::SOFT_DELETE => (VmState::SoftDelete, PowerState::Shutdown),
        _ => (VmState::Active, PowerState::Running),
    };
    assert_eq!((shown.vm_state, shown.power_state), wanted);
    assert_eq!(has(&cluster, server).await, had, "it keeps what it had");
    if taken.0 == accept::DETACH_VOLUME {
        let volumes = cluster.volumes.all();
        assert!(
            volumes.iter().all(|(_, status)| status != "detaching"),
            "{volumes:?}"
        );
    }
    // Off, it lets go of anything.
    cluster.hosts[0]
        .sim
        .controls()
        .set_delay(taken.1, Duration::ZERO);
    if flow == accept::STOP {
        let state = cluster.first_state(taken.0, server);
        cluster.act(server, taken.0, state).await;
        cluster.idle().await;
        assert_ne!(has(&cluster, server).await, had);
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// Nova waits for all attempts of the detach, minutes.
#[tokio::test]
async fn who_switches_a_guest_off_does_not_wait_for_it_for_long() {
    let flows = [accept::STOP, accept::REBOOT, accept::SOFT_DELETE];
    let all = TAKEN.map(|taken| flows.map(|flow| Box::pin(switched_off(taken, flow))));
    join_all(all.into_iter().flatten()).await;
}

/// One that lets go within moments has let go.
#[tokio::test]
async fn a_guest_that_lets_go_in_time_is_waited_for() {
    let cluster = Cluster::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let server = cluster.create().await;
    cluster.idle().await;
    let soon = Duration::from_millis(300);
    cluster.hosts[0]
        .sim
        .controls()
        .set_delay(Verb::Detach, soon);
    let state = cluster.first_state(accept::DETACH_INTERFACE, server);
    cluster.act(server, accept::DETACH_INTERFACE, state).await;
    cluster
        .until("it is accepted", async || {
            let how = serde_json::json!({});
            let accepted = cluster.try_act(server, accept::STOP, how, |_| true).await;
            accepted == Accepted::Yes
        })
        .await;
    cluster.idle().await;
    assert_eq!(has(&cluster, server).await.1, 0, "interfaces");
    assert!(cluster.network.ports().is_empty());
    assert_eq!(cluster.server(server).await.vm_state, VmState::Stopped);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_deletion_takes_the_place_of_a_detach() {
    for taken in TAKEN {
        let (cluster, server) = asked_to_let_go(taken).await;
        let since = Instant::now();
        assert!(cluster.delete(server).await);
        cluster.idle().await;
        let waited = since.elapsed();
        assert!(waited < Duration::from_secs(60), "{waited:?}");
        assert!(cluster.debts().await.is_empty());
        assert_eq!(cluster.audit().await, Vec::<String>::new());
        assert!(cluster.network.ports().is_empty());
        assert!(cluster.volumes.attachments().is_empty());
    }
}

/// Nova's driver: whatever libvirt says of the soft one.
#[tokio::test]
async fn a_soft_reboot_that_is_refused_becomes_a_hard_one() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    for host in &cluster.hosts {
        let no = virt::HypervisorError::Rejected("no".to_owned());
        host.sim.controls().fail_always(Verb::RebootSoft, no);
    }
    cluster.reboot(server, false).await;
    cluster.idle().await;
    let shown = cluster.server(server).await;
    let runs = (VmState::Active, PowerState::Running, None);
    assert_eq!((shown.vm_state, shown.power_state, shown.fault), runs);
    assert!(!cluster.last_action_failed(server).await);
}
