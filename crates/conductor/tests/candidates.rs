#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Which hosts a guest can go to while it runs, when they are not all alike.

use db::migrations::{Kind, Status};
use kilonova_conductor::flows::hosts_fit::Checks;
use serde_json::{Value, json};
use testkit::{Cluster, Options};
use types::{MigrationId, ServerId, VmState};

const NEW: u64 = 2_000;
const OLD: u64 = 1_000;

/// Like `host-1`, with what it has and more; without what its guests use; with an older hypervisor.
const UNLIKE: &[(&str, u64, &[&str])] = &[
    ("host-1", NEW, &["avx", "pge"]),
    ("host-2", NEW, &["pge"]),
    ("host-3", OLD, &["avx", "pge"]),
    ("host-4", NEW, &["avx", "avx512f", "pge"]),
];

fn unlike(hosts: usize) -> Options {
    Options {
        hosts,
        unlike: UNLIKE,
        ..Options::default()
    }
}

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// A server on this host.
async fn server_on(cluster: &Cluster, host: &str) -> ServerId {
    let server = cluster
        .create_with(|new| new.scheduler_hints = json!({ "_host": host }))
        .await;
    cluster.idle().await;
    let built = cluster.server(server).await;
    assert_eq!(built.host.unwrap().0, host);
    server
}

/// Sends a server away, and waits until that has ended.
async fn migrate(cluster: &Cluster, server: ServerId, how: Value) -> MigrationId {
    let migration = cluster.record(server, Kind::LiveMigration).await;
    let mut state = how;
    state["migration"] = json!(migration);
    cluster.act(server, "live_migration", state).await;
    cluster.idle().await;
    migration
}

async fn host_of(cluster: &Cluster, server: ServerId) -> String {
    cluster.server(server).await.host.unwrap().0
}

#[tokio::test]
async fn a_guest_goes_to_the_next_host_when_the_best_one_cannot_run_it() {
    let cluster = Cluster::new(unlike(4)).await;
    let server = server_on(&cluster, "host-1").await;
    // What is there makes host-4 the worse choice: host-2 is asked first.
    server_on(&cluster, "host-4").await;
    let migration = migrate(&cluster, server, json!({})).await;
    let after = cluster.server(server).await;
    assert_eq!((after.vm_state, after.fault), (VmState::Active, None));
    assert_eq!(after.host.unwrap().0, "host-4");
    assert_eq!(cluster.status(migration).await, Status::Completed);
    let read = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
        let newest = db::actions::of_server(tx, server)?.remove(0);
        db::actions::events(tx, newest.id)
    };
    let checked = cluster.store.read(read).await.unwrap().into_iter();
    let checked = checked.filter(|one| one.event == "compute_check_can_live_migrate_destination");
    let mut checked: Vec<_> = checked.map(|one| (one.host, one.result)).collect();
    checked.sort();
    let shown = |host: &str, end: &str| (Some(host.to_owned()), Some(end.to_owned()));
    assert_eq!(
        checked,
        [shown("host-2", "Error"), shown("host-4", "Success")]
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn what_each_host_lacks_is_told_when_none_can_run_it() {
    let cluster = Cluster::new(unlike(3)).await;
    let server = server_on(&cluster, "host-1").await;
    migrate(&cluster, server, json!({})).await;
    let stays = cluster.server(server).await;
    assert_eq!(stays.vm_state, VmState::Active);
    assert_eq!(stays.host.unwrap().0, "host-1");
    let fault = stays.fault.unwrap();
    assert_eq!(
        fault.message,
        "CPU doesn't have compatibility: the new host cannot run the guest: no avx"
    );
    let details = fault.details.unwrap();
    for part in [
        "host-2: CPU doesn't have compatibility: host-2 cannot run the guest: no avx",
        "with an older hypervisor than the one the server runs on (2000) [host-3]",
    ] {
        assert!(details.contains(part), "{details}");
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_is_named_is_held_against_the_same() {
    let cluster = Cluster::new(unlike(3)).await;
    let server = server_on(&cluster, "host-1").await;
    let table = [
        ("host-2", "CPU doesn't have compatibility: "),
        (
            "host-3",
            "1 with an older hypervisor than the one the server runs on (2000)",
        ),
    ];
    for (to, words) in table {
        for force in [false, true] {
            migrate(&cluster, server, json!({ "to": to, "force": force })).await;
            let message = cluster.server(server).await.fault.unwrap().message;
            assert!(message.contains(words), "{to} {force}: {message}");
            assert_eq!(host_of(&cluster, server).await, "host-1");
            clean(&cluster).await;
        }
    }
}

#[tokio::test]
async fn an_operator_can_have_neither_looked_at() {
    let cluster = Cluster::new(Options {
        checks: Checks {
            skip_cpu: true,
            skip_version: true,
        },
        ..unlike(3)
    })
    .await;
    let server = server_on(&cluster, "host-1").await;
    for to in ["host-2", "host-1", "host-3"] {
        migrate(&cluster, server, json!({ "to": to })).await;
        assert_eq!(host_of(&cluster, server).await, to);
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_does_not_answer_the_question_is_not_refused_for_that() {
    let cluster = Cluster::new(unlike(2)).await;
    let server = server_on(&cluster, "host-2").await;
    // Only the guest's own host could say what it uses; the other one is not at fault.
    let source = cluster.host(&cluster.hosts[1].name);
    source.sim.controls().fail_next(
        virt::sim::Verb::GuestCpu,
        virt::HypervisorError::Rejected("no answer".into()),
        1,
    );
    migrate(&cluster, server, json!({})).await;
    assert_eq!(host_of(&cluster, server).await, "host-1");
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_cannot_get_ready_is_left_out() {
    let cluster = Cluster::new(Options {
        hosts: 3,
        ..Options::default()
    })
    .await;
    let server = server_on(&cluster, "host-1").await;
    // What is there makes host-3 the worse choice: host-2 is asked first.
    server_on(&cluster, "host-3").await;
    cluster.hosts[1].sim.controls().set_disk_full(true);
    let migration = migrate(&cluster, server, json!({})).await;
    assert_eq!(host_of(&cluster, server).await, "host-3");
    assert_eq!(cluster.status(migration).await, Status::Completed);
    // Named, it is the only one that is asked.
    migrate(&cluster, server, json!({ "to": "host-2" })).await;
    let fault = cluster.server(server).await.fault.unwrap();
    assert_eq!(fault.message, "The host could not do it.");
    assert_eq!(host_of(&cluster, server).await, "host-3");
    clean(&cluster).await;
}
