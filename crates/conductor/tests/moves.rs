#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Stories of servers that change their flavor or their host, or look for one, each ended by the audit.

use db::block_devices::BlockDevice;
use db::migrations::{Filter, Migration, Status};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Cluster, Options};
use types::disks::{Destination, Source};
use types::{PowerState, ServerId, Timestamp, VmState};
use virt::sim::Verb;
use virt::{Hypervisor, HypervisorError};

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

fn hosts(hosts: usize) -> Options {
    Options {
        hosts,
        ..Options::default()
    }
}

async fn running(cluster: &Cluster) -> ServerId {
    let server = cluster.create().await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    server
}

async fn resized(cluster: &Cluster, server: ServerId, state: Value) {
    cluster.resize(server, false, state).await;
    cluster.idle().await;
}

async fn confirm(cluster: &Cluster, server: ServerId) {
    cluster.act(server, "confirm_resize", json!({})).await;
    cluster.idle().await;
}

async fn revert(cluster: &Cluster, server: ServerId) {
    cluster.act(server, "revert_resize", json!({})).await;
    cluster.idle().await;
}

async fn record(cluster: &Cluster, server: ServerId) -> Migration {
    let filter = Filter {
        server: Some(server.to_string()),
        ..Filter::default()
    };
    let found: Result<_, sql::Error> = cluster
        .store
        .read(move |tx| db::migrations::list(tx, &filter, None))
        .await;
    found.unwrap().unwrap().pop().unwrap()
}

/// The events of the newest action, oldest first, with the hosts that they show.
async fn events(cluster: &Cluster, server: ServerId) -> Vec<(String, Option<String>)> {
    let read = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
        let newest = db::actions::of_server(tx, server)?.remove(0);
        db::actions::events(tx, newest.id)
    };
    let mut events = cluster.store.read(read).await.unwrap();
    events.reverse();
    events
        .into_iter()
        .map(|one| (one.event, one.host))
        .collect()
}

/// The third host is not the last there is, but the last that is asked.
#[tokio::test]
async fn what_three_hosts_cannot_build_names_them_to_administrators() {
    let cluster = Cluster::new(Options {
        hosts: 4,
        ..Options::default()
    })
    .await;
    for host in &cluster.hosts {
        let reason = HypervisorError::Rejected(format!("{} has no such machine type", host.name));
        host.sim.controls().fail_always(Verb::EnsureGuest, reason);
    }
    let server = cluster.create().await;
    cluster.idle().await;
    let fault = cluster.server(server).await.fault.unwrap();
    assert!(
        fault
            .message
            .contains("Exceeded maximum number of retries.")
            && fault
                .message
                .contains(": 3 hosts tried. Build of the server failed: "),
        "{}",
        fault.message
    );
    assert!(!fault.message.contains("host-"), "{}", fault.message);
    let details = fault.details.unwrap();
    let lines: Vec<&str> = details.lines().collect();
    assert_eq!(lines.len(), 3, "{details}");
    for line in lines {
        let (host, said) = line.split_once(": ").unwrap();
        assert!(
            said.contains(&format!("{host} has no such machine")),
            "{line}"
        );
    }
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_goes_to_another_host_and_stays() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    let before = cluster.server(server).await;
    resized(&cluster, server, json!({ "same_host": "last" })).await;
    let (there, from) = (cluster.server(server).await, before.host.clone().unwrap());
    let to = there.host.clone().unwrap();
    assert_ne!(from, to, "another host comes first");
    assert_eq!(
        (there.vm_state, there.power_state, there.flavor.vcpus),
        (VmState::Resized, PowerState::Running, 2)
    );
    let spec = cluster.host(&to).sim.stored_spec(server).await.unwrap();
    let spec = spec.unwrap();
    assert_eq!((spec.vcpus, spec.memory_mib), (2, 1024));
    assert_eq!(cluster.host(&from).sim.asides(), [server]);
    let shown = record(&cluster, server).await;
    assert_eq!(shown.status, Status::Finished);
    assert_eq!(
        (shown.source.compute, shown.dest.compute),
        (Some(from.clone()), Some(to.clone()))
    );
    assert_eq!(shown.dest_address.as_deref(), Some("127.0.0.1"));
    let at = |event: &str, host: Option<&types::HostName>| {
        (event.to_owned(), host.map(ToString::to_string))
    };
    assert_eq!(
        events(&cluster, server).await,
        [
            at("conductor_migrate_server", None),
            at("compute_prep_resize", Some(&to)),
            at("compute_resize_instance", Some(&from)),
            at("compute_finish_resize", Some(&to)),
        ]
    );
    clean(&cluster).await;
    confirm(&cluster, server).await;
    let there = cluster.server(server).await;
    assert_eq!(
        (there.vm_state, there.kept.unsettled),
        (VmState::Active, None)
    );
    assert_eq!(cluster.host(&from).sim.asides(), []);
    assert_eq!(record(&cluster, server).await.status, Status::Confirmed);
    assert_eq!(
        events(&cluster, server).await,
        [at("compute_confirm_resize", Some(&from))]
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_goes_back_to_what_it_was() {
    for same_host in ["never", "always"] {
        let cluster = Cluster::new(hosts(if same_host == "never" { 2 } else { 1 })).await;
        let server = running(&cluster).await;
        let before = cluster.server(server).await;
        resized(&cluster, server, json!({ "same_host": same_host })).await;
        let there = cluster.server(server).await;
        assert_eq!(there.vm_state, VmState::Resized, "{:?}", there.fault);
        assert_eq!(there.host == before.host, same_host == "always");
        revert(&cluster, server).await;
        let back = cluster.server(server).await;
        assert_eq!(
            (back.vm_state, &back.host, &back.flavor),
            (VmState::Active, &before.host, &before.flavor)
        );
        let host = back.host.clone().unwrap();
        let spec = cluster.host(&host).sim.stored_spec(server).await.unwrap();
        assert_eq!(spec.unwrap().vcpus, 1);
        assert_eq!(record(&cluster, server).await.status, Status::Reverted);
        let names: Vec<String> = events(&cluster, server)
            .await
            .into_iter()
            .map(|(event, _)| event)
            .collect();
        assert_eq!(
            names,
            ["compute_revert_resize", "compute_finish_revert_resize"]
        );
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn the_same_host_when_there_is_no_other_or_not_at_all() {
    let cluster = Cluster::new(hosts(1)).await;
    let server = running(&cluster).await;
    resized(&cluster, server, json!({ "same_host": "never" })).await;
    let stays = cluster.server(server).await;
    assert_eq!((stays.vm_state, stays.flavor.vcpus), (VmState::Active, 1));
    let message = stays.fault.unwrap().message;
    assert!(message.starts_with("No valid host was found."), "{message}");
    assert_eq!(record(&cluster, server).await.status, Status::Error);
    clean(&cluster).await;
    resized(&cluster, server, json!({ "same_host": "last" })).await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Resized);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_cold_migration_keeps_the_flavor_and_goes_where_it_is_told() {
    let cluster = Cluster::new(hosts(3)).await;
    let server = running(&cluster).await;
    cluster.stop(server).await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let to = cluster
        .hosts
        .iter()
        .rfind(|host| Some(&host.name) != before.host.as_ref())
        .unwrap();
    cluster.resize(server, true, json!({ "to": to.name })).await;
    cluster.idle().await;
    let there = cluster.server(server).await;
    assert_eq!(
        (there.vm_state, there.host.as_ref(), &there.flavor),
        (VmState::Resized, Some(&to.name), &before.flavor)
    );
    assert_eq!(there.power_state, PowerState::Shutdown, "it was off");
    clean(&cluster).await;
    confirm(&cluster, server).await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Stopped);
    clean(&cluster).await;
}

#[tokio::test]
async fn disks_do_not_shrink() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = cluster
        .create_with(|wanted| wanted.flavor.root_gb = 4)
        .await;
    cluster.idle().await;
    let mut smaller = cluster.server(server).await.flavor;
    smaller.id = "smaller".into();
    smaller.root_gb = 3;
    cluster.resize_to(server, smaller, json!({})).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(
        (stays.vm_state, stays.power_state, stays.flavor.root_gb),
        (VmState::Active, PowerState::Running, 4)
    );
    let message = stays.fault.unwrap().message;
    assert_eq!(message, "Resize error: Unable to resize disk down.");
    clean(&cluster).await;
}

#[tokio::test]
async fn empty_disks_do_not_shrink_either() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = cluster
        .create_with(|wanted| wanted.flavor.ephemeral_gb = 2)
        .await;
    cluster.idle().await;
    let write = move |tx: &mut sql::Tx<'_>| -> Result<(), sql::Error> {
        let mut disk = BlockDevice::new(server, Source::Blank, Destination::Local);
        disk.volume_size = Some(2);
        db::block_devices::insert(tx, &disk, Timestamp::now())
    };
    cluster.store.write(write).await.unwrap();
    let mut smaller = cluster.server(server).await.flavor;
    smaller.id = "smaller".into();
    smaller.ephemeral_gb = 1;
    cluster.resize_to(server, smaller, json!({})).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(
        (stays.vm_state, stays.flavor.ephemeral_gb),
        (VmState::Active, 2)
    );
    let message = stays.fault.unwrap().message;
    assert_eq!(message, "Resize error: Unable to resize disk down.");
    clean(&cluster).await;
}

/// The sizes of a server's swap space, in MiB: what is on record.
async fn swap_of(cluster: &Cluster, server: ServerId) -> Vec<u64> {
    let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_server(tx, server);
    let devices: Result<Vec<BlockDevice>, sql::Error> = cluster.store.read(read).await;
    let devices = devices.unwrap().into_iter();
    devices
        .filter(BlockDevice::is_swap)
        .filter_map(|device| device.volume_size)
        .collect()
}

#[tokio::test]
async fn swap_space_is_that_of_the_flavor() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    assert_eq!(swap_of(&cluster, server).await, Vec::<u64>::new());
    let with_swap = |flavor: &types::server::Flavor, swap_mb: u32| types::server::Flavor {
        id: format!("swap-{swap_mb}").into(),
        swap_mb,
        ..flavor.clone()
    };
    let flavor = cluster.server(server).await.flavor;
    for (swap_mb, stays) in [(64, true), (128, false), (32, true), (0, false), (0, true)] {
        let before = swap_of(&cluster, server).await;
        let wanted = with_swap(&flavor, swap_mb);
        cluster.resize_to(server, wanted, json!({})).await;
        cluster.idle().await;
        assert_eq!(swap_of(&cluster, server).await, [u64::from(swap_mb)]);
        if stays {
            confirm(&cluster, server).await;
            assert_eq!(swap_of(&cluster, server).await, [u64::from(swap_mb)]);
        } else {
            revert(&cluster, server).await;
            assert_eq!(swap_of(&cluster, server).await, before);
        }
        clean(&cluster).await;
    }
    // One that cannot arrive leaves it as it was.
    for host in &cluster.hosts {
        let full = HypervisorError::Disk {
            reason: "no space left".to_owned(),
            full: true,
        };
        host.sim.controls().fail_next(Verb::Land, full, 1);
    }
    cluster
        .resize_to(server, with_swap(&flavor, 64), json!({}))
        .await;
    cluster.look_again().await;
    assert_eq!(swap_of(&cluster, server).await, [0]);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_cannot_make_the_guest_leaves_the_server_as_it_was() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    for host in &cluster.hosts {
        let full = HypervisorError::Disk {
            reason: "no space left".to_owned(),
            full: true,
        };
        host.sim.controls().fail_next(Verb::Land, full, 1);
    }
    let before = cluster.server(server).await;
    resized(&cluster, server, json!({ "same_host": "last" })).await;
    cluster.look_again().await;
    let stays = cluster.server(server).await;
    assert_eq!(
        (
            stays.vm_state,
            stays.power_state,
            &stays.host,
            &stays.flavor
        ),
        (
            VmState::Active,
            PowerState::Running,
            &before.host,
            &before.flavor
        )
    );
    let fault = stays.fault.unwrap();
    assert!(
        !fault.message.contains("no space left"),
        "{}",
        fault.message
    );
    assert!(fault.details.unwrap().contains("no space left"));
    clean(&cluster).await;
}

#[tokio::test]
async fn what_waits_is_confirmed_in_time() {
    let cluster = Cluster::new(hosts(2)).await;
    let servers = [running(&cluster).await, running(&cluster).await];
    for server in servers {
        resized(&cluster, server, json!({ "same_host": "last" })).await;
    }
    assert_eq!(cluster.confirm_due(Duration::from_secs(60)).await, 0);
    revert(&cluster, servers[0]).await;
    assert_eq!(cluster.confirm_due(Duration::ZERO).await, 1);
    cluster.idle().await;
    assert_eq!(cluster.confirm_due(Duration::ZERO).await, 0);
    let confirmed = cluster.server(servers[1]).await;
    assert_eq!(
        (confirmed.vm_state, confirmed.flavor.vcpus),
        (VmState::Active, 2)
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn a_confirmation_does_not_wait_for_a_host_that_is_away() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    let from = cluster.server(server).await.host.unwrap();
    resized(&cluster, server, json!({ "same_host": "never" })).await;
    cluster.host(&from).stop();
    cluster
        .change_settings(|settings| settings.longest_step = Some(Duration::from_millis(100)))
        .await;
    confirm(&cluster, server).await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert_eq!(cluster.debts().await, [(from.clone(), server)]);
    cluster.start_host(cluster.host(&from));
    cluster.paid().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_soft_deleted_server_waits_for_its_confirmation_again() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    resized(&cluster, server, json!({ "same_host": "last" })).await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    clean(&cluster).await;
    cluster.act(server, "restore", json!({})).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Resized);
    clean(&cluster).await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    assert_eq!(cluster.reclaim(Duration::ZERO).await, 1);
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    assert_eq!(record(&cluster, server).await.status, Status::Confirmed);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_deletion_cleans_both_hosts_even_when_they_are_down() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    resized(&cluster, server, json!({ "same_host": "never" })).await;
    for host in &cluster.hosts {
        host.stop();
        cluster.set_forced_down(host, true).await;
    }
    cluster.delete(server).await;
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    assert_eq!(cluster.debts().await.len(), 2);
    for host in &cluster.hosts {
        cluster.set_forced_down(host, false).await;
        cluster.start_host(host);
    }
    cluster.paid().await;
    clean(&cluster).await;
    assert_eq!(cluster.network.ports(), []);
}

#[tokio::test]
async fn a_port_of_the_owner_follows_and_outlives_the_server() {
    let cluster = Cluster::new(hosts(2)).await;
    let port = cluster.network.make_port();
    let given = port.clone();
    let server = cluster
        .create_with(|wanted| {
            wanted.networks =
                types::server::WantedNetworks::These(vec![types::server::WantedInterface::Port {
                    port_id: given,
                    tag: None,
                }]);
        })
        .await;
    cluster.idle().await;
    resized(&cluster, server, json!({ "same_host": "never" })).await;
    let there = cluster.server(server).await;
    assert_eq!(there.vm_state, VmState::Resized);
    assert_eq!(
        cluster.network.host_of(&port),
        there.host.map(|host| host.0)
    );
    revert(&cluster, server).await;
    let back = cluster.server(server).await;
    assert_eq!(cluster.network.host_of(&port), back.host.map(|host| host.0));
    clean(&cluster).await;
    cluster.delete(server).await;
    cluster.idle().await;
    assert_eq!(cluster.network.ports(), [(port, String::new())]);
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_of_a_copy_leaves_the_server_where_it_was() {
    let cluster = Cluster::new(hosts(2)).await;
    for (cold, end) in [(true, PowerState::Running), (false, PowerState::Running)] {
        let server = running(&cluster).await;
        let before = cluster.server(server).await;
        let from = cluster.host(&before.host.clone().unwrap());
        let full = cluster.hosts.iter().find(|one| one.name != from.name);
        let full = full.unwrap();
        full.sim.controls().set_disk_full(true);
        cluster.resize(server, cold, json!({})).await;
        cluster.idle().await;
        let stays = cluster.server(server).await;
        assert_eq!((stays.vm_state, stays.power_state), (VmState::Active, end));
        assert_eq!((&stays.host, &stays.flavor), (&before.host, &before.flavor));
        assert_eq!(stays.network_info, before.network_info);
        let guest = from.sim.guest(server).await.unwrap().unwrap();
        assert_eq!(guest.power, end);
        let fault = stays.fault.unwrap();
        assert!(!fault.message.contains("No space"), "{}", fault.message);
        let details = fault.details.unwrap();
        let who = format!("host {} fetched the guest from {}", full.name, from.name);
        for part in [
            &who,
            "No space left",
            "bytes are free in /",
            "more are needed",
        ] {
            assert!(details.contains(part), "{details}");
        }
        assert_eq!(record(&cluster, server).await.status, Status::Error);
        assert_eq!(full.sim.guests().await.unwrap(), []);
        assert!(full.sim.aside_files(server).await.is_err());
        let left = std::fs::read_dir(full.folder()).unwrap();
        let left: Vec<_> = left.map(|one| one.unwrap().file_name()).collect();
        let its = |name: &std::ffi::OsString| name.to_string_lossy().contains(&server.to_string());
        assert!(!left.iter().any(its), "{left:?}");
        clean(&cluster).await;
        // With room it goes.
        full.sim.controls().set_disk_full(false);
        cluster.resize(server, cold, json!({})).await;
        cluster.idle().await;
        let gone = cluster.server(server).await;
        assert_eq!(
            (gone.vm_state, gone.host),
            (VmState::Resized, Some(full.name.clone()))
        );
        confirm(&cluster, server).await;
        cluster.delete(server).await;
        cluster.idle().await;
    }
    clean(&cluster).await;
}

/// What `os-resetState` does.
async fn reset(cluster: &Cluster, server: ServerId, state: VmState) {
    let write = move |tx: &mut sql::Tx<'_>| -> Result<bool, sql::Error> {
        let generation = db::instances::get(tx, server)?.unwrap().generation;
        let change = db::instances::Change {
            vm_state: Some(state),
            ..db::instances::Change::default()
        };
        let expected = db::instances::Expected::Generation(generation);
        db::instances::transition(tx, server, expected, &change, Timestamp::now())
    };
    assert!(cluster.store.write(write).await.unwrap());
}

#[tokio::test]
async fn a_server_that_was_reset_while_it_waited_for_confirmation_is_settled_when_somebody_asks() {
    for kind in testkit::kinds() {
        settled_when_somebody_asks(&kind).await;
    }
}

async fn settled_when_somebody_asks(kind: &testkit::Kind) {
    for (same_host, state) in [("never", VmState::Active), ("always", VmState::Error)] {
        let cluster = Cluster::on(kind, hosts(2)).await;
        let server = running(&cluster).await;
        resized(&cluster, server, json!({ "same_host": same_host })).await;
        reset(&cluster, server, state).await;
        assert_eq!(cluster.reconcile().await, 0, "not unasked");
        assert_eq!(cluster.server(server).await.vm_state, state);
        assert!(cluster.mend().await > 0);
        cluster.idle().await;
        let settled = cluster.server(server).await;
        assert_eq!(settled.vm_state, VmState::Active);
        assert_eq!((settled.flavor.vcpus, settled.kept.unsettled), (2, None));
        assert_eq!(record(&cluster, server).await.status, Status::Confirmed);
        assert_eq!(cluster.mend().await, 0);
        clean(&cluster).await;
        // It moves again.
        resized(&cluster, server, json!({ "same_host": "always" })).await;
        assert_eq!(cluster.server(server).await.vm_state, VmState::Resized);
        revert(&cluster, server).await;
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_resize_that_was_abandoned_is_taken_back_when_somebody_asks() {
    use journal::faults::{Fault, Point, Script, When};
    for step in ["choose_host", "prepare", "put_aside", "networks", "land"] {
        let cluster = Cluster::new(hosts(2)).await;
        let server = running(&cluster).await;
        let before = cluster.server(server).await;
        let at = Point {
            flow: "resize",
            step,
            direction: types::agent::Direction::Do,
            when: When::After,
        };
        let script = std::sync::Arc::new(Script::new([(at, Fault::Hold)]));
        cluster.set_faults(std::sync::Arc::clone(&script) as _);
        cluster
            .resize(server, false, json!({ "same_host": "never" }))
            .await;
        script.all_struck().await;
        let task = cluster.server(server).await.task_id.unwrap();
        let abandon = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
            db::repair::abandon(tx, task, "Given up.", Timestamp::now())
        };
        assert!(cluster.store.write(abandon).await.unwrap().is_some());
        // Else they would pay what they owe with their next poll.
        cluster.hosts.iter().for_each(|host| cluster.ring(host));
        script.release();
        cluster.idle().await;
        assert_eq!(record(&cluster, server).await.status, Status::Error);
        // A try that fails makes it none that could be confirmed.
        cluster.lose_host(server).await;
        revert(&cluster, server).await;
        assert_eq!(record(&cluster, server).await.status, Status::Error);
        cluster.revive().await;
        cluster.paid().await;
        assert!(cluster.mend().await > 0);
        cluster.idle().await;
        cluster.paid().await;
        let back = cluster.server(server).await;
        let shown = (back.vm_state, back.power_state, &back.host);
        let wanted = (VmState::Active, PowerState::Running, &before.host);
        assert_eq!(shown, wanted, "{step}");
        assert_eq!((back.flavor, back.kept.unsettled), (before.flavor, None));
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_revert_names_the_host_that_is_down() {
    let cluster = Cluster::new(hosts(2)).await;
    let server = running(&cluster).await;
    let old = cluster.server(server).await.host.unwrap();
    resized(&cluster, server, json!({ "same_host": "never" })).await;
    cluster.host(&old).stop();
    cluster.set_forced_down(cluster.host(&old), true).await;
    revert(&cluster, server).await;
    let waits = cluster.server(server).await;
    assert_eq!(waits.vm_state, VmState::Resized);
    let fault = waits.fault.unwrap();
    assert_eq!(
        (fault.message, fault.details),
        (
            "The compute service of the host that the server came from is down.".to_owned(),
            Some(format!("The compute service of {old} is down."))
        )
    );
    cluster.revive().await;
    revert(&cluster, server).await;
    clean(&cluster).await;
}

/// An audit tells of it: nothing is wrong with what waits for the next look.
#[tokio::test]
async fn what_is_due_is_known_before_it_is_done() {
    use kilonova_conductor::due::{Due, Terms, due};
    let cluster = Cluster::new(Options::default()).await;
    let (gone, larger, shelved) = (
        cluster.create().await,
        cluster.create().await,
        cluster.create().await,
    );
    cluster.idle().await;
    cluster.soft_delete(gone).await;
    cluster
        .resize(larger, false, serde_json::json!({ "same_host": "last" }))
        .await;
    let mut state = cluster.first_state("shelve", shelved);
    state["offload"] = false.into();
    cluster.act(shelved, "shelve", state).await;
    cluster.idle().await;
    let terms = |after| Terms {
        reclaim: after,
        confirm: after,
        offload: after,
    };
    let all = [
        Due::Reclaim(gone),
        Due::Confirm(larger),
        Due::Offload(shelved),
    ];
    let told = async |after| due(&cluster.store, terms(after)).await.unwrap();
    assert_eq!(told(None).await, []);
    assert_eq!(told(Some(Duration::from_secs(3600))).await, []);
    assert_eq!(told(Some(Duration::ZERO)).await, all);
    assert_eq!(cluster.findings().await, []);
    assert_eq!(cluster.reclaim(Duration::ZERO).await, 1);
    assert_eq!(cluster.confirm_due(Duration::ZERO).await, 1);
    assert_eq!(cluster.offload(Duration::ZERO).await, 1);
    cluster.idle().await;
    assert_eq!(told(Some(Duration::ZERO)).await, []);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
