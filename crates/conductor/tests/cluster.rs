#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Stories of a whole cloud on simulated hosts, each ended by the audit.

use journal::faults::{Fault, Never, Point, Script, When};
use kilonova_conductor::view::View;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use testkit::{Cluster, Options};
use types::agent::Direction;
use types::server::{WantedInterface, WantedNetworks};
use types::{PowerState, VmState};
use virt::HypervisorError;
use virt::sim::Verb;

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

fn small(hosts: usize, servers_each: u32) -> Options {
    Options {
        hosts,
        size: (servers_each, 256 * 1024, 10 * 1024),
        ..Options::default()
    }
}

#[tokio::test]
async fn no_valid_host_says_how_many_failed_for_which_reason() {
    let cluster = Cluster::new(small(3, 1)).await;
    let fits = cluster.create().await;
    cluster.idle().await;
    cluster.set_forced_down(&cluster.hosts[1], true).await;
    let server = cluster.create_with(|wanted| wanted.flavor.vcpus = 2).await;
    cluster.idle().await;
    let refused = cluster.server(server).await;
    let message = refused.fault.unwrap().message;
    assert_eq!(refused.vm_state, VmState::Error);
    assert!(
        message.starts_with("No valid host was found. 3 hosts considered: "),
        "{message}"
    );
    for reason in ["2 without enough vCPUs (need 2)", "1 down"] {
        assert!(message.contains(reason), "{message}");
    }
    let (action, events) = last_action(&cluster, server).await;
    assert_eq!(action, format!("Error: {message}"), "for the owner");
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(event.event, "conductor_schedule_and_build_instances");
    assert_eq!(event.result.as_deref(), Some("Error"));
    for told in [&event.details, &event.traceback] {
        let told = told.as_ref().unwrap();
        assert!(told.contains("[host-"), "for administrators: {told}");
    }
    assert_eq!(cluster.server(fits).await.vm_state, VmState::Active);
    clean(&cluster).await;
}

/// What the newest action of a server says, and its events.
async fn last_action(
    cluster: &Cluster,
    server: types::ServerId,
) -> (String, Vec<db::actions::Event>) {
    let read = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
        let newest = db::actions::of_server(tx, server)?.remove(0);
        let events = db::actions::events(tx, newest.id)?;
        Ok((newest.message.unwrap_or_default(), events))
    };
    cluster.store.read(read).await.unwrap()
}

/// Nobody gets a guest without what its flavor asks for: not at first, and not by a resize.
#[tokio::test]
async fn hardware_that_no_host_has() {
    let cluster = Cluster::new(Options::default()).await;
    let asks = |flavor: &mut types::server::Flavor| {
        let specs = &mut flavor.extra_specs;
        specs.insert("hw:cpu_policy".to_owned(), "dedicated".to_owned());
    };
    let reason = "2 without CPUs for one guest alone (hw:cpu_policy=dedicated)";
    let server = cluster.create_with(|wanted| asks(&mut wanted.flavor)).await;
    cluster.idle().await;
    let refused = cluster.server(server).await;
    assert_eq!((refused.vm_state, refused.host), (VmState::Error, None));
    let message = refused.fault.unwrap().message;
    assert!(message.ends_with(reason), "{message}");

    let server = cluster.create().await;
    cluster.idle().await;
    let mut flavor = Cluster::twice(&Cluster::flavor());
    asks(&mut flavor);
    let state = serde_json::json!({ "same_host": "last" });
    cluster.resize_to(server, flavor, state).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!((stays.vm_state, stays.flavor.vcpus), (VmState::Active, 1));
    let (action, events) = last_action(&cluster, server).await;
    assert!(
        action.starts_with("Error: No valid host was found. "),
        "{action}"
    );
    let reason = "1 without CPUs for one guest alone (hw:cpu_policy=dedicated)";
    assert!(
        action.contains(reason) && !action.contains("host-"),
        "{action}"
    );
    let details = events[0].details.as_ref().unwrap();
    assert_eq!(events[0].event, "conductor_migrate_server");
    assert!(details.contains("[host-"), "{details}");
    clean(&cluster).await;
}

#[tokio::test]
async fn a_view_that_is_behind_is_renewed_when_the_claim_fails() {
    let cluster = Cluster::new(small(2, 2)).await;
    cluster.take_all(&cluster.hosts[0]).await;
    let fits = [cluster.create().await, cluster.create().await];
    cluster.idle().await;
    for server in fits {
        let server = cluster.server(server).await;
        assert_eq!(server.host, Some("host-2".into()));
    }
    let cluster = Cluster::new(small(1, 1)).await;
    cluster.take_all(&cluster.hosts[0]).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let message = cluster.server(server).await.fault.unwrap().message;
    assert!(message.starts_with("No valid host was found"), "{message}");
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_was_just_disabled_gets_no_server() {
    let cluster = Cluster::new(small(2, 4)).await;
    cluster.disable(&cluster.hosts[0]).await;
    let servers = [
        cluster.create().await,
        cluster.create().await,
        cluster.create().await,
    ];
    cluster.idle().await;
    for server in servers {
        let server = cluster.server(server).await;
        assert_eq!(server.host, Some("host-2".into()));
    }
    clean(&cluster).await;
}

/// No heartbeat renews the view any more.
#[tokio::test]
async fn hosts_that_all_died_get_no_server() {
    let down_after = Duration::from_secs(2);
    let cluster = Cluster::new(Options {
        beat: Duration::from_millis(20),
        down_after,
        ..Options::default()
    })
    .await;
    for host in &cluster.hosts {
        host.stop();
    }
    // Seen in a view of another conductor: nothing renews the one that chooses.
    let view = View::new(cluster.store.clone(), down_after);
    cluster
        .until("they are down", async || {
            view.refresh().await.unwrap();
            cluster.hosts.iter().all(|host| !view.is_up(&host.name))
        })
        .await;
    // That one may have heard the last heartbeat a little later.
    tokio::time::sleep(down_after / 4).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let refused = cluster.server(server).await;
    let message = refused.fault.unwrap().message;
    assert_eq!(refused.vm_state, VmState::Error);
    assert!(
        message.starts_with("No valid host was found. 2 hosts considered: 2 down"),
        "{message}"
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_cannot_build_is_left_out() {
    let cluster = Cluster::new(Options::default()).await;
    let refusing = HypervisorError::Rejected("no such machine type".to_owned());
    for (index, host) in cluster.hosts.iter().enumerate() {
        // Whichever is chosen first fails.
        let error = refusing.clone();
        host.sim.controls().fail_next(Verb::EnsureGuest, error, 1);
        assert!(index < 2);
    }
    let server = cluster.create().await;
    cluster.idle().await;
    // Both failed once: nobody is left for the third attempt. What the last one said is for administrators.
    let failed = cluster.server(server).await;
    assert_eq!(failed.vm_state, VmState::Error);
    let fault = failed.fault.unwrap();
    for words in [
        "Exceeded maximum number of retries. Exhausted all hosts available: 2 hosts tried. ",
        "2 hosts considered: 2 tried before, which failed",
    ] {
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    for inside in ["host-", "machine type"] {
        assert!(!fault.message.contains(inside), "{}", fault.message);
    }
    let details = fault.details.unwrap();
    assert!(
        details.contains("2 tried before, which failed [host-1, host-2]"),
        "{details}"
    );
    for host in ["host-1", "host-2"] {
        let said = details.lines().find_map(|line| line.strip_prefix(host));
        assert!(
            said.is_some_and(|said| said.contains("no such machine type")),
            "{details}"
        );
    }
    cluster.hosts[0].sim.controls().fail_next(
        Verb::EnsureGuest,
        HypervisorError::Disk {
            reason: "full".to_owned(),
            full: true,
        },
        1,
    );
    cluster.hosts[0].sim.controls().set_disk_full(true);
    let second = cluster.create().await;
    cluster.idle().await;
    let built = cluster.server(second).await;
    assert_eq!((built.vm_state, built.fault), (VmState::Active, None));
    assert_eq!(built.host, Some("host-2".into()));
    clean(&cluster).await;
}

#[tokio::test]
async fn two_deletions_at_once_and_one_after_are_one() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let both = tokio::join!(cluster.delete(server), cluster.delete(server));
    assert_eq!(both, (true, true));
    cluster.idle().await;
    assert!(!cluster.delete(server).await);
    assert!(cluster.server(server).await.deleted);
    clean(&cluster).await;
    assert_eq!(cluster.network.ports(), []);
}

#[tokio::test]
async fn a_port_that_is_being_made_while_the_server_is_deleted_is_removed() {
    for by_another in [false, true] {
        let mut options = Options::default();
        if by_another {
            options.journal.concurrency = 1;
        }
        let cluster = Cluster::new(options).await;
        cluster.network.hold_creations(true);
        let server = cluster.create().await;
        cluster.network.creations_arrived(1).await;
        if by_another {
            cluster.start_worker("other").await;
        }
        cluster.delete(server).await;
        cluster
            .until("it is gone", async || cluster.server(server).await.deleted)
            .await;
        cluster.network.hold_creations(false);
        cluster
            .until("the port was made and removed", async || {
                cluster.network.made() == 1 && cluster.network.ports().is_empty()
            })
            .await;
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_port_of_the_owner_outlives_the_server() {
    let cluster = Cluster::new(Options::default()).await;
    let port = cluster.network.make_port();
    let wanted = WantedNetworks::These(vec![WantedInterface::Port {
        port_id: port.clone(),
        tag: None,
    }]);
    let server = cluster.create_with(|new| new.networks = wanted).await;
    cluster.idle().await;
    assert_eq!(
        cluster.network.ports(),
        [(port.clone(), server.to_string())]
    );
    clean(&cluster).await;
    cluster.delete(server).await;
    cluster.idle().await;
    assert_eq!(cluster.network.ports(), [(port, String::new())]);
    clean(&cluster).await;
}

/// It was seen as left of a deleted server, and was given to another one before that was mended.
#[tokio::test]
async fn a_port_that_was_left_and_is_somebody_elses_stays() {
    let cluster = Cluster::new(Options::default()).await;
    let port = cluster.network.make_port();
    let wanted = || {
        WantedNetworks::These(vec![WantedInterface::Port {
            port_id: port.clone(),
            tag: None,
        }])
    };
    let first = cluster.create_with(|new| new.networks = wanted()).await;
    cluster.idle().await;
    cluster.delete(first).await;
    cluster.idle().await;
    let left = |of: &str, owner: &str| {
        cluster.network.set(&port, "device_id", json!(of));
        cluster.network.set(&port, "device_owner", json!(owner));
    };
    left(&first.to_string(), "compute:nova");
    let found = cluster.findings().await;
    assert_eq!(found.len(), 1, "{found:?}");
    left("", "");
    let second = cluster.create_with(|new| new.networks = wanted()).await;
    cluster.idle().await;
    let host = cluster.network.host_of(&port);
    assert!(host.is_some());
    assert_eq!(cluster.mend_these(&found).await, 0);
    let its = [(port.clone(), second.to_string())];
    assert_eq!(
        (cluster.network.ports(), cluster.network.host_of(&port)),
        (its.to_vec(), host)
    );
    left(&first.to_string(), "compute:nova");
    assert_eq!(cluster.mend_these(&found).await, 1);
    assert_eq!(cluster.network.ports(), [(port.clone(), String::new())]);
}

#[tokio::test]
async fn the_network_service_refuses_is_away_or_wires_nothing() {
    let cluster = Cluster::new(Options::default()).await;
    cluster.network.set_refusing(true);
    let refused = cluster.create().await;
    cluster.idle().await;
    let message = cluster.server(refused).await.fault.unwrap().message;
    assert!(
        message.contains("aborted: No fixed IP addresses available for network: "),
        "{message}"
    );
    cluster.network.set_refusing(false);
    clean(&cluster).await;

    cluster
        .change_settings(|settings| settings.longest_step = Some(Duration::from_secs(4)))
        .await;
    cluster.network.set_unwired(true);
    let unwired = cluster.create().await;
    cluster.idle().await;
    let message = cluster.server(unwired).await.fault.unwrap().message;
    assert!(message.contains("did not wire"), "{message}");
    cluster.network.set_unwired(false);
    clean(&cluster).await;

    // Away, even for the undo: nothing is owed to the host for that, and nothing is forgotten.
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(Duration::from_millis(300));
            settings.undo_deadline = Duration::from_millis(50);
        })
        .await;
    cluster.network.set_down(true);
    let waiting = cluster.create().await;
    cluster
        .until("the network service is asked", async || {
            cluster.network.turned_away() > 1
        })
        .await;
    // Longer than the step and its undo may take: that it goes on waiting is what is tested.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(cluster.server(waiting).await.vm_state, VmState::Building);
    cluster.network.set_down(false);
    cluster.idle().await;
    let failed = cluster.server(waiting).await;
    let message = failed.fault.unwrap().message;
    assert_eq!(failed.vm_state, VmState::Error);
    assert!(message.starts_with("the network service "), "{message}");
    let (action, _) = last_action(&cluster, waiting).await;
    assert_eq!(action, format!("Error: {message}"), "for the owner");
    assert_eq!(cluster.debts().await, []);
    for server in [refused, unwired, waiting] {
        cluster.delete(server).await;
    }
    cluster.idle().await;
    clean(&cluster).await;
    assert_eq!(cluster.network.ports(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_never_over_commit() {
    for kind in testkit::kinds() {
        // 5 hosts with 30 CPUs: 150 of 200 fit.
        let cluster = Cluster::on(&kind, small(5, 30)).await;
        let mut servers = Vec::new();
        for _ in 0..200 {
            servers.push(cluster.create().await);
        }
        cluster.idle().await;
        let mut active = 0;
        for server in &servers {
            let server = cluster.server(*server).await;
            match server.vm_state {
                VmState::Active => active += 1,
                state => {
                    let message = server.fault.unwrap().message;
                    assert_eq!(state, VmState::Error);
                    assert!(message.contains("5 without enough vCPUs"), "{message}");
                }
            }
        }
        assert_eq!(active, 150);
        clean(&cluster).await;
        for server in &servers {
            cluster.delete(*server).await;
        }
        cluster.idle().await;
        clean(&cluster).await;
        assert_eq!(cluster.network.ports(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_with_50_builds_in_flight_loses_none() {
    for kind in testkit::kinds() {
        let cluster = Cluster::on(&kind, Options::default()).await;
        for host in &cluster.hosts {
            let delay = Duration::from_millis(30);
            host.sim.controls().set_delay(Verb::EnsureGuest, delay);
        }
        // One at least is in flight whenever the worker dies, however fast the others are.
        let hold = || {
            let at = Point {
                flow: "build",
                step: "spawn",
                direction: Direction::Do,
                when: When::After,
            };
            let script = Arc::new(Script::new([(at, Fault::Hold)]));
            cluster.set_faults(Arc::clone(&script) as _);
            script
        };
        let mut script = hold();
        let mut servers = Vec::new();
        for _ in 0..50 {
            servers.push(cluster.create().await);
        }
        for last in [false, false, true] {
            script.all_struck().await;
            cluster.kill_worker("w");
            assert!(cluster.tasks_at(None).await > 0, "nothing was in flight");
            match last {
                false => script = hold(),
                true => cluster.set_faults(Arc::new(Never)),
            }
            cluster.start_worker("w").await;
        }
        cluster.idle().await;
        for server in servers {
            assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
        }
        assert_eq!(cluster.network.ports().len(), 50, "no port twice");
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_host_that_is_down_owes_the_removal_and_pays_first() {
    let cluster = Cluster::new(small(1, 4)).await;
    let host = &cluster.hosts[0];
    let server = cluster.create().await;
    cluster.idle().await;
    host.stop();
    cluster.set_forced_down(host, true).await;
    cluster.delete(server).await;
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    assert_eq!(cluster.debts().await, [(host.name.clone(), server)]);
    assert_eq!(host.guests().await, [(server, PowerState::Running)]);
    assert_eq!(cluster.audit_without_guests().await, Vec::<String>::new());
    // It comes back, and its hypervisor refuses at first.
    let refusing = HypervisorError::Rejected("busy".to_owned());
    host.sim
        .controls()
        .fail_next(Verb::EnsureAbsent, refusing, 1);
    cluster.set_forced_down(host, false).await;
    cluster.start_host(host);
    cluster
        .until("the debt is paid at the second try", async || {
            cluster.ring(host);
            cluster.debts().await.is_empty()
        })
        .await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_slow_host_ends_with_nothing_left() {
    let cluster = Cluster::new(small(1, 4)).await;
    let host = &cluster.hosts[0];
    host.sim
        .controls()
        .set_delay(Verb::EnsureGuest, Duration::from_millis(900));
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(Duration::from_millis(300));
            settings.undo_deadline = Duration::from_millis(100);
        })
        .await;
    let server = cluster.create().await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
    // The guest appears after everybody gave up; what was asked for later comes later.
    cluster.paid().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_guest_that_went_down_by_itself_is_started_and_rebooted() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let name = cluster.server(server).await.host.unwrap();
    let host = cluster.host(&name);
    host.sim.guest_powers_off(server).unwrap();
    cluster
        .until("the guest's own doing is seen", async || {
            cluster.server(server).await.vm_state == VmState::Stopped
        })
        .await;
    cluster.start(server).await;
    cluster.idle().await;
    cluster.reboot(server, true).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    clean(&cluster).await;
}

#[tokio::test]
async fn what_the_deletion_cannot_do_at_once_is_tried_again() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let refusing = HypervisorError::Rejected("busy".to_owned());
    for host in &cluster.hosts {
        let error = refusing.clone();
        host.sim.controls().fail_next(Verb::EnsureAbsent, error, 3);
    }
    cluster.network.set_down(true);
    cluster.delete(server).await;
    cluster
        .until("the network service is asked again", async || {
            cluster.network.turned_away() > 2
        })
        .await;
    assert!(!cluster.server(server).await.deleted);
    cluster.network.set_down(false);
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    assert_eq!(cluster.debts().await, []);
    clean(&cluster).await;
}

#[tokio::test]
async fn an_undo_that_its_host_refuses_once_is_tried_again() {
    let cluster = Cluster::new(Options::default()).await;
    let refusing = HypervisorError::Rejected("busy".to_owned());
    for host in &cluster.hosts {
        let error = refusing.clone();
        host.sim.controls().fail_next(Verb::EnsureAbsent, error, 2);
    }
    let failing = Point {
        flow: "build",
        step: "spawn",
        direction: Direction::Do,
        when: When::After,
    };
    cluster.set_faults(Arc::new(Script::new([(failing, Fault::Fail)])));
    let server = cluster.create().await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
    assert_eq!(cluster.debts().await, []);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_guest_never_gets_an_empty_config_drive() {
    let cluster = Cluster::new(small(1, 4)).await;
    cluster.fail_drives(2);
    let server = cluster.create_with(|new| new.config_drive = true).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    clean(&cluster).await;
    cluster.fail_drives(usize::MAX);
    let without = cluster.create().await;
    let server = cluster.create_with(|new| new.config_drive = true).await;
    cluster.idle().await;
    assert_eq!(cluster.server(without).await.vm_state, VmState::Active);
    let failed = cluster.server(server).await;
    assert_eq!(failed.vm_state, VmState::Error);
    let details = failed.fault.unwrap().details.unwrap();
    assert!(details.contains("config drive"), "{details}");
    assert!(details.contains("the seal is broken"), "{details}");
    clean(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_groups_hold_for_servers_made_at_once() {
    for kind in testkit::kinds() {
        let cluster = Cluster::on(&kind, small(3, 30)).await;
        let apart = cluster.make_group("anti-affinity").await;
        let together = cluster.make_group("affinity").await;
        let mut members = [Vec::new(), Vec::new()];
        for _ in 0..6 {
            members[0].push(cluster.create_in(apart).await);
            members[1].push(cluster.create_in(together).await);
        }
        cluster.idle().await;
        let mut hosts = [Vec::new(), Vec::new()];
        for (group, hosts) in members.iter().zip(&mut hosts) {
            for server in group {
                let server = cluster.server(*server).await;
                match server.fault {
                    None => hosts.push(server.host.unwrap()),
                    Some(fault) => assert!(
                        fault.message.contains("3 in use by the server group"),
                        "{}",
                        fault.message
                    ),
                }
            }
            hosts.sort();
        }
        let [apart, together] = hosts;
        assert_eq!(apart, ["host-1".into(), "host-2".into(), "host-3".into()]);
        assert_eq!(together.len(), 6);
        assert!(
            together.iter().all(|host| *host == together[0]),
            "{together:?}"
        );
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn amounts_of_extra_specs_are_claimed() {
    let cluster = Cluster::new(small(2, 4)).await;
    let mut servers = Vec::new();
    for _ in 0..3 {
        let greedy = |new: &mut db::instances::Instance| {
            let specs = &mut new.flavor.extra_specs;
            specs.insert("resources:VCPU".to_owned(), "3".to_owned());
            specs.insert("resources:DISK_GB".to_owned(), "0".to_owned());
        };
        servers.push(cluster.create_with(greedy).await);
    }
    cluster.idle().await;
    let mut active = 0;
    for server in &servers {
        active += usize::from(cluster.server(*server).await.vm_state == VmState::Active);
    }
    assert_eq!(active, 2, "two hosts of four CPUs, three for each server");
    // What is left is left for others.
    let small = [cluster.create().await, cluster.create().await];
    cluster.idle().await;
    for server in small {
        assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    }
    clean(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_begin_somewhere_and_go_on() {
    for kind in testkit::kinds() {
        let cluster = Cluster::on(&kind, Options::default()).await;
        let mut numbers = Vec::new();
        for _ in 0..3 {
            // A cloud that starts again keeps what it has chosen.
            let begin = cluster.store.write(db::instances::begin_numbers).await;
            begin.unwrap();
            let server = cluster.create().await;
            numbers.push(cluster.server(server).await.number);
        }
        let first = numbers[0];
        assert!((0x1_0001..0x8000_0000).contains(&first), "{first:#x}");
        // A transaction that a database has repeated leaves a gap.
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        assert!(numbers[2] < first + 100, "{numbers:?}");
        cluster.idle().await;
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn an_undo_does_not_wait_for_a_host_that_is_known_to_be_away() {
    let mut options = small(1, 4);
    options.journal.undo_deadline = Duration::from_secs(3600);
    let cluster = Cluster::new(options).await;
    let at = |direction, when| Point {
        flow: "build",
        step: "spawn",
        direction,
        when,
    };
    let script = Arc::new(Script::new([
        (at(Direction::Do, When::After), Fault::Fail),
        (at(Direction::Undo, When::Before), Fault::Hold),
    ]));
    cluster.set_faults(Arc::clone(&script) as _);
    let host = &cluster.hosts[0];
    let refusing = HypervisorError::Unavailable("away".to_owned());
    let controls = host.sim.controls();
    controls.fail_always(Verb::EnsureAbsent, refusing);
    let server = cluster.create().await;
    script.all_struck().await;
    cluster.set_forced_down(host, true).await;
    script.release();
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Error);
    assert_eq!(cluster.debts().await, [(host.name.clone(), server)]);
    controls.heal(Verb::EnsureAbsent);
    cluster.set_forced_down(host, false).await;
    cluster
        .until("the debt is paid", async || {
            cluster.ring(host);
            cluster.debts().await.is_empty()
        })
        .await;
    clean(&cluster).await;
}

/// As Nova with libvirt: only bare metal can keep an ephemeral disk.
#[tokio::test]
async fn no_rebuild_preserves_the_ephemeral_disk() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = json!({ "preserve_ephemeral": true });
    cluster.act(server, "rebuild", state).await;
    cluster.idle().await;
    let shown = cluster.server(server).await;
    let fault = shown.fault.unwrap();
    let words = "The current driver does not support preserving ephemeral partitions.";
    assert_eq!((fault.code, fault.message.as_str()), (400, words));
    let states = (shown.vm_state, shown.task_state, shown.power_state);
    assert_eq!(states, (VmState::Error, None, PowerState::Running));
    assert!(cluster.last_action_failed(server).await);
    // Nothing was done to the guest, and nothing keeps it from being made anew.
    let host = cluster.host(&shown.host.unwrap());
    let guest = virt::Hypervisor::guest(&*host.sim, server).await.unwrap();
    assert_eq!(guest.unwrap().power, PowerState::Running);
    cluster.act(server, "rebuild", json!({})).await;
    cluster.idle().await;
    let shown = cluster.server(server).await;
    assert_eq!((shown.vm_state, shown.fault), (VmState::Active, None));
    clean(&cluster).await;
}

/// What neighbours have of the server is given back when they are there again; its owner does not wait for that, and
/// operators see what the task waits for.
#[tokio::test]
async fn a_deletion_wins_over_services_that_are_away() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    // As if everybody had waited for long.
    let short = |settings: &mut journal::Settings| {
        settings.longest_step = Some(Duration::from_millis(200));
    };
    cluster.change_settings(short).await;
    cluster.network.set_down(true);
    cluster.volumes.set_down(true);
    cluster.delete(server).await;
    cluster
        .until("the server is gone for its owner", async || {
            cluster.server(server).await.deleted
        })
        .await;
    let held = cluster
        .store
        .read(|tx| db::usages::of_project(tx, &types::ProjectId(testkit::PROJECT.to_owned())));
    let held: Result<_, sql::Error> = held.await;
    assert_eq!(held.unwrap(), db::usages::Held::default());
    cluster
        .until("operators see why the task waits", async || {
            let open: Result<Vec<_>, sql::Error> = cluster.store.read(db::tasks::open).await;
            let open = open.unwrap();
            assert_eq!(open.len(), 1, "the task goes on: {open:?}");
            let waits = open[0].waits.as_ref();
            waits
                .is_some_and(|waits| waits.reason.contains("the volume service") && waits.tries > 1)
        })
        .await;
    cluster.volumes.set_down(false);
    cluster.network.set_down(false);
    cluster.idle().await;
    // A host that took longer than the steps may has removed it later.
    cluster.paid().await;
    clean(&cluster).await;
}

/// Tasks that wait for a host, or for a service, take nobody's turn.
#[tokio::test]
async fn what_waits_keeps_nobody_else_waiting() {
    let mut options = small(2, 4);
    options.journal.concurrency = 1;
    let cluster = Cluster::new(options).await;
    let mut by_host = Vec::new();
    for _ in 0..2 {
        let server = cluster.create().await;
        // Its room is taken before the next one looks for some.
        cluster.idle().await;
        by_host.push((cluster.server(server).await.host.unwrap(), server));
    }
    by_host.sort();
    let [(silent, of_silent), (_, of_other)] = &by_host[..] else {
        panic!("{by_host:?}");
    };
    let silent = cluster
        .hosts
        .iter()
        .find(|host| host.name == *silent)
        .unwrap();
    let (of_silent, of_other) = (*of_silent, *of_other);
    silent.stop();
    cluster.stop(of_silent).await;
    cluster
        .until("a task waits for its host", async || {
            cluster.tasks_at(Some("act")).await == 1
        })
        .await;
    cluster.stop(of_other).await;
    cluster
        .until("the other one is stopped", async || {
            cluster.server(of_other).await.vm_state == VmState::Stopped
        })
        .await;
    cluster.network.set_down(true);
    let waits = cluster.create().await;
    cluster
        .until("a task waits for the network service", async || {
            cluster.network.turned_away() > 2
        })
        .await;
    cluster.start(of_other).await;
    cluster
        .until("the other one is started", async || {
            cluster.server(of_other).await.vm_state == VmState::Active
        })
        .await;
    cluster.network.set_down(false);
    cluster.start_host(silent);
    cluster.idle().await;
    assert_eq!(cluster.server(waits).await.vm_state, VmState::Active);
    assert_eq!(cluster.server(of_silent).await.vm_state, VmState::Stopped);
    clean(&cluster).await;
}

/// A host that waits for work gets that of a new server without anybody reading it, with the same outcome as ever when
/// the one that hands it over fails or dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_handed_to_a_host_that_waits() {
    let kind = sql::testing::kinds().remove(0);
    let database = kind.database().await;
    let notes = sql::testing::Notes::default();
    let store = database.store.noting(&notes);
    let cluster = Cluster::bare(store, bus::Bus::new(), small(1, 64)).await;
    cluster.start_host(&cluster.hosts[0]);
    cluster
        .until("the host is up", async || {
            cluster.view.refresh().await.unwrap();
            cluster.view.is_up(&cluster.hosts[0].name)
        })
        .await;
    cluster.start_worker("w").await;
    let looks = || {
        let reads_work = |(sql, _): &sql::testing::Statement| sql.contains("FROM host_work w LEFT");
        notes.take().iter().filter(|one| reads_work(one)).count()
    };
    // The host may be on its way from one wait to the next.
    cluster
        .until("work is handed over", async || {
            looks();
            let server = cluster.create_local().await;
            cluster.idle().await;
            assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
            looks() == 0
        })
        .await;
    clean(&cluster).await;

    let at = |when| Point {
        flow: "build",
        step: "spawn",
        direction: Direction::Do,
        when,
    };
    let ends = [
        (When::Before, Fault::Crash, VmState::Active),
        (When::After, Fault::Crash, VmState::Active),
        (When::After, Fault::Repeat, VmState::Active),
        (When::After, Fault::Fail, VmState::Error),
    ];
    for (when, fault, state) in ends {
        let script = Arc::new(Script::new([(at(when), fault)]));
        cluster.set_faults(Arc::clone(&script) as _);
        let server = cluster.create_local().await;
        cluster.idle().await;
        assert!(script.struck(), "{when:?} {fault:?}");
        let ended = cluster.server(server).await.vm_state;
        assert_eq!(ended, state, "{when:?} {fault:?}");
        clean(&cluster).await;
    }

    // Deleted while its work is with the host.
    let script = Arc::new(Script::new([(at(When::After), Fault::Hold)]));
    cluster.set_faults(Arc::clone(&script) as _);
    let server = cluster.create_local().await;
    script.all_struck().await;
    assert!(cluster.delete(server).await);
    script.release();
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Deleted);
    clean(&cluster).await;
}
