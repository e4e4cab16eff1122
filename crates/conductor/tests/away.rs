#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Stories of servers that leave their hosts and come back, each ended by the audit; and what reaches into guests.

use db::migrations::{self, Kind, Status};
use journal::faults::{Fault, Point, Script, When};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use testkit::{Cluster, Options};
use types::agent::{Direction, Question};
use types::{ImageId, MigrationId, PowerState, ServerId, Timestamp, VmState};
use virt::sim::Verb;
use virt::{HypervisorError, RootDisk};

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

/// Shelves a server as the API does; returns the image.
async fn shelve(cluster: &Cluster, server: ServerId, offload: bool) -> String {
    let mut state = cluster.first_state("shelve", server);
    state["offload"] = offload.into();
    let image = state["image"].as_str().unwrap().to_owned();
    cluster.act(server, "shelve", state).await;
    cluster.idle().await;
    image
}

#[tokio::test]
async fn a_shelved_server_needs_no_host_and_comes_back_to_any() {
    let cluster = Cluster::new(small(2, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let image = shelve(&cluster, server, true).await;
    let shelved = cluster.server(server).await;
    assert!(before.availability_zone.is_some());
    assert_eq!(shelved.availability_zone, None, "it is on no host");
    let shown = (shelved.vm_state, shelved.power_state, shelved.host);
    assert_eq!(
        shown,
        (VmState::ShelvedOffloaded, PowerState::Shutdown, None)
    );
    assert_eq!(shelved.network_info, before.network_info);
    assert_eq!(cluster.images.all(), [(image, "active".to_owned())]);
    clean(&cluster).await;
    // Others take its place: there is no host left.
    let others = [cluster.create().await, cluster.create().await];
    cluster.idle().await;
    cluster.act(server, "unshelve", serde_json::json!({})).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(stays.vm_state, VmState::ShelvedOffloaded);
    let message = stays.fault.unwrap().message;
    assert!(message.starts_with("No valid host was found"), "{message}");
    let told = cluster.last_action_says(server).await;
    assert_eq!(told, Some(format!("Error: {message}")));
    clean(&cluster).await;
    let free = cluster.server(others[0]).await.host.unwrap();
    cluster.delete(others[0]).await;
    cluster.idle().await;
    let elsewhere = if free.0 == "host-1" {
        "host-2"
    } else {
        "host-1"
    };
    let to = serde_json::json!({ "to": elsewhere });
    cluster.act(server, "unshelve", to).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(stays.vm_state, VmState::ShelvedOffloaded, "only there");
    let to = serde_json::json!({ "to": free.0 });
    cluster.act(server, "unshelve", to).await;
    cluster.idle().await;
    let back = cluster.server(server).await;
    assert_eq!((back.vm_state, back.host), (VmState::Active, Some(free)));
    assert_eq!((back.network_info, back.fault), (before.network_info, None));
    assert_eq!(back.image, before.image, "the image it shows is its own");
    assert_eq!(cluster.images.all(), []);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_that_cannot_unshelve_is_left_out() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    shelve(&cluster, server, true).await;
    let refusing = HypervisorError::Rejected("no such machine type".to_owned());
    let controls = cluster.hosts[0].sim.controls();
    controls.fail_always(Verb::EnsureGuest, refusing.clone());
    for _ in 0..2 {
        cluster.act(server, "unshelve", serde_json::json!({})).await;
        cluster.idle().await;
        let back = cluster.server(server).await;
        assert_eq!(back.vm_state, VmState::Active);
        assert_eq!(back.host, Some("host-2".into()));
        shelve(&cluster, server, true).await;
    }
    let controls = cluster.hosts[1].sim.controls();
    controls.fail_always(Verb::EnsureGuest, refusing);
    cluster.act(server, "unshelve", serde_json::json!({})).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(stays.vm_state, VmState::ShelvedOffloaded);
    let fault = stays.fault.unwrap();
    assert!(!fault.message.contains("machine type"), "{}", fault.message);
    let details = fault.details.unwrap();
    assert!(details.contains("no such machine type"), "{details}");
    assert!(details.contains("[host-1, host-2]"), "{details}");
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_whose_image_is_lost_is_in_error_and_can_be_deleted() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let image = shelve(&cluster, server, true).await;
    cluster.images.lose(&image);
    cluster.act(server, "unshelve", serde_json::json!({})).await;
    cluster.idle().await;
    let lost = cluster.server(server).await;
    assert_eq!(lost.vm_state, VmState::Error);
    let wanted = format!("Unshelve attempted but the image {image} cannot be found.");
    assert_eq!(lost.fault.unwrap().message, wanted);
    cluster.delete(server).await;
    cluster.idle().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_deleted_server_leaves_no_image_whatever_state_it_was_in() {
    for offload in [false, true] {
        let cluster = Cluster::new(Options::default()).await;
        let server = cluster.create().await;
        cluster.idle().await;
        shelve(&cluster, server, offload).await;
        clean(&cluster).await;
        cluster.soft_delete(server).await;
        cluster.idle().await;
        // One without a host cannot be brought back.
        assert_eq!(cluster.server(server).await.deleted, offload);
        cluster.delete(server).await;
        cluster.idle().await;
        assert!(cluster.server(server).await.deleted);
        assert_eq!(cluster.images.all(), []);
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_deleted_keeps_nobody_from_the_server() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    shelve(&cluster, server, false).await;
    let at = Point {
        flow: "unshelve_in_place",
        step: "forget",
        direction: Direction::Do,
        when: When::Before,
    };
    let script = Arc::new(Script::new([(at, Fault::Hold)]));
    cluster.set_faults(Arc::clone(&script) as _);
    cluster
        .act(server, "unshelve_in_place", serde_json::json!({}))
        .await;
    script.all_struck().await;
    let runs = cluster.server(server).await;
    assert_eq!((runs.vm_state, runs.task_state), (VmState::Active, None));
    // Shelved again before the first image is gone: that one goes then.
    let second = shelve(&cluster, server, true).await;
    script.release();
    cluster.idle().await;
    assert_eq!(cluster.images.all(), [(second, "active".to_owned())]);
    clean(&cluster).await;
}

#[tokio::test]
async fn servers_leave_their_hosts_when_they_were_shelved_for_long() {
    let cluster = Cluster::new(Options::default()).await;
    let servers = [cluster.create().await, cluster.create().await];
    cluster.idle().await;
    shelve(&cluster, servers[0], false).await;
    assert_eq!(cluster.offload(Duration::from_secs(3600)).await, 0);
    assert_eq!(cluster.offload(Duration::ZERO).await, 1);
    cluster.idle().await;
    let states = [
        cluster.server(servers[0]).await.vm_state,
        cluster.server(servers[1]).await.vm_state,
    ];
    assert_eq!(states, [VmState::ShelvedOffloaded, VmState::Active]);
    assert_eq!(cluster.offload(Duration::ZERO).await, 0);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_does_not_come_back_to_a_host_that_has_still_to_remove_it() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    shelve(&cluster, server, false).await;
    let name = cluster.server(server).await.host.unwrap();
    let host = cluster.host(&name);
    host.stop();
    cluster.set_forced_down(host, true).await;
    cluster
        .act(
            server,
            "shelve_offload",
            serde_json::json!({ "offload": true }),
        )
        .await;
    cluster.idle().await;
    assert_eq!(cluster.debts().await, [(name.clone(), server)]);
    // It is up again, but has not paid.
    cluster.set_forced_down(host, false).await;
    let to = serde_json::json!({ "to": name.0 });
    cluster.act(server, "unshelve", to).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(stays.vm_state, VmState::ShelvedOffloaded);
    cluster.act(server, "unshelve", serde_json::json!({})).await;
    cluster.idle().await;
    let back = cluster.server(server).await;
    assert_eq!(back.vm_state, VmState::Active);
    assert_ne!(back.host, Some(name));
    cluster.start_host(host);
    cluster.paid().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_password_reaches_the_guest_in_clear_and_nothing_else() {
    let cluster = Cluster::new(small(1, 4)).await;
    let server = cluster.create().await;
    let without = cluster.create_with(|new| new.image = Some(agentless()));
    let without = without.await;
    cluster.idle().await;
    let controls = cluster.hosts[0].sim.controls();
    let change = |server| cluster.act(server, "change_password", json!({ "password": "sealed p" }));
    change(server).await;
    cluster.idle().await;
    assert!(!cluster.last_action_failed(server).await);
    let set = controls.password(server);
    assert_eq!(set, Some(("root".to_owned(), "p".to_owned())));
    change(without).await;
    cluster.idle().await;
    let fault = cluster.server(without).await.fault.unwrap();
    let wanted = (409, "QEMU guest agent is not enabled");
    assert_eq!((fault.code, &fault.message[..]), wanted);
    for (error, code, words) in [
        (
            HypervisorError::AgentSilent("no answer".to_owned()),
            501,
            "Unable to set password on instance",
        ),
        (
            HypervisorError::Rejected("no such user: root".to_owned()),
            409,
            "because error setting admin password",
        ),
    ] {
        controls.fail_next(Verb::SetPassword, error, 1);
        change(server).await;
        cluster.idle().await;
        let shown = cluster.server(server).await;
        let fault = shown.fault.unwrap();
        assert_eq!((shown.vm_state, fault.code), (VmState::Active, code));
        assert!(fault.message.ends_with(words), "{}", fault.message);
    }
    clean(&cluster).await;
}

/// An image that says that it has no agent.
fn agentless() -> types::server::ImageRef {
    let image = json!({ "id": uuid::Uuid::new_v4(), "name": "i", "disk_format": "raw", "container_format": "bare",
        "size": 1, "min_disk": 0, "min_ram": 0, "sha512": null, "properties": { "hw_qemu_guest_agent": "no" } });
    serde_json::from_value(image).unwrap()
}

#[tokio::test]
async fn addresses_come_and_go_with_their_port() {
    let cluster = Cluster::new(small(1, 4)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let shown = async || {
        let info = cluster.server(server).await.network_info;
        let addresses = info[0].addresses.iter().map(|one| one.ip.clone());
        addresses.collect::<Vec<_>>()
    };
    let first = shown().await;
    let network = cluster.first_state("add_fixed_ip", server);
    cluster.act(server, "add_fixed_ip", network).await;
    cluster.idle().await;
    let both = shown().await;
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    clean(&cluster).await;
    for (address, left) in [(&first[0], 1), (&first[0], 1), (&both[1], 0)] {
        let state = json!({ "address": address });
        cluster.act(server, "remove_fixed_ip", state).await;
        cluster.idle().await;
        assert_eq!(shown().await.len(), left);
    }
    let elsewhere = json!({ "network": "another" });
    cluster.act(server, "add_fixed_ip", elsewhere).await;
    cluster.idle().await;
    let fault = cluster.server(server).await.fault.unwrap();
    let wanted = format!("Network could not be found for instance {server}.");
    assert_eq!(fault.message, wanted);
    clean(&cluster).await;
}

#[tokio::test]
async fn an_evacuated_server_is_elsewhere_and_its_old_host_must_not_run_it_again() {
    let cluster = Cluster::new(small(2, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let gone = cluster.lose_host(server).await;
    let migration = cluster.record(server, Kind::Evacuation).await;
    let state = json!({ "migration": migration });
    cluster.act(server, "evacuate", state).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, after.power_state, &after.fault),
        (VmState::Active, PowerState::Running, &None)
    );
    assert_ne!(after.host, before.host);
    assert_eq!(after.network_info, before.network_info);
    assert_eq!(cluster.status(migration).await, Status::Done);
    assert_eq!(cluster.debts().await, [(gone.name.clone(), server)]);
    assert_eq!(gone.guests().await, [(server, PowerState::Running)]);
    assert_eq!(cluster.audit_without_guests().await, Vec::<String>::new());
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(gone.guests().await, []);
    assert_eq!(cluster.status(migration).await, Status::Completed);
    clean(&cluster).await;
}

#[tokio::test]
async fn an_evacuation_that_fails_leaves_the_old_host_what_it_has() {
    let cluster = Cluster::new(small(2, 1)).await;
    let servers = [cluster.create().await, cluster.create().await];
    cluster.idle().await;
    let [server, other] = servers;
    let gone = cluster.lose_host(server).await;
    for (room, more, words) in [
        (false, json!({}), "No valid host was found"),
        (
            true,
            json!({ "shared": true }),
            "Invalid state of instance files on shared storage",
        ),
    ] {
        if room {
            cluster.delete(other).await;
            cluster.idle().await;
        }
        let migration = cluster.record(server, Kind::Evacuation).await;
        let mut state = more;
        state["migration"] = json!(migration);
        cluster.act(server, "evacuate", state).await;
        cluster.idle().await;
        let failed = cluster.server(server).await;
        assert_eq!(failed.vm_state, VmState::Error);
        assert_eq!(failed.host, Some(gone.name.clone()));
        let message = failed.fault.unwrap().message;
        assert!(message.starts_with(words), "{message}");
        let told = cluster.last_action_says(server).await;
        assert_eq!(told, Some(format!("Error: {message}")));
        assert_eq!(cluster.status(migration).await, Status::Error);
    }
    assert_eq!(cluster.debts().await, []);
    assert_eq!(cluster.audit_without_guests().await, Vec::<String>::new());
    // The new guest stays off, as asked; not that of a server in ERROR, as in Nova.
    for (before, wanted) in [
        (VmState::Error, (VmState::Active, PowerState::Running)),
        (VmState::Active, (VmState::Stopped, PowerState::Shutdown)),
    ] {
        assert_eq!(cluster.server(server).await.vm_state, before);
        cluster.lose_host(server).await;
        let migration = cluster.record(server, Kind::Evacuation).await;
        let state = json!({ "migration": migration, "stopped": true });
        cluster.act(server, "evacuate", state).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        assert_eq!((after.vm_state, after.power_state), wanted);
        cluster.revive().await;
        cluster.paid().await;
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn a_host_that_cannot_take_an_evacuated_server_is_left_out() {
    let cluster = Cluster::new(small(3, 4)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let gone = cluster.lose_host(server).await.name.clone();
    let mut others = cluster.hosts.iter().filter(|host| host.name != gone);
    let (broken, good) = (others.next().unwrap(), others.next().unwrap());
    let refusing = HypervisorError::Rejected("no such machine type".to_owned());
    let controls = broken.sim.controls();
    controls.fail_always(Verb::EnsureGuest, refusing);
    let migration = cluster.record(server, Kind::Evacuation).await;
    let state = json!({ "migration": migration });
    cluster.act(server, "evacuate", state).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, after.host),
        (VmState::Active, Some(good.name.clone()))
    );
    cluster.revive().await;
    cluster.paid().await;
    clean(&cluster).await;
}

/// Begins a live migration and waits until the guest is on its way.
async fn on_its_way(cluster: &Cluster, server: ServerId, more: serde_json::Value) -> MigrationId {
    let migration = cluster.record(server, Kind::LiveMigration).await;
    let mut state = more;
    state["migration"] = json!(migration);
    cluster.act(server, "live_migration", state).await;
    cluster
        .until("it is on its way", async || {
            cluster.status(migration).await == Status::Running
        })
        .await;
    migration
}

#[tokio::test]
async fn a_guest_that_migrates_shows_how_far_it_is_and_arrives() {
    let cluster = Cluster::new(small(2, 4)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let source = cluster.host(before.host.as_ref().unwrap());
    let controls = source.sim.controls();
    controls.set_live_time(Duration::from_secs(3600));
    let migration = on_its_way(&cluster, server, json!({})).await;
    cluster
        .until("some of it has gone over", async || {
            cluster.beat().await;
            let reading = cluster.store.read(move |tx| migrations::get(tx, migration));
            let found: Result<_, sql::Error> = reading.await;
            let memory = found.unwrap().unwrap().memory;
            memory.total == Some(512 << 20) && memory.processed.is_some_and(|sent| sent > 0)
        })
        .await;
    controls.end_live();
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!((after.vm_state, after.fault), (VmState::Active, None));
    assert_ne!(after.host, before.host);
    assert_eq!(after.network_info, before.network_info);
    assert_eq!(cluster.status(migration).await, Status::Completed);
    assert_eq!(source.guests().await, []);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_live_migration_is_called_off_forced_or_deleted_over() {
    let long = Duration::from_secs(3600);
    for how in ["abort", "force", "delete"] {
        let cluster = Cluster::new(small(2, 4)).await;
        let server = cluster.create().await;
        cluster.idle().await;
        let before = cluster.server(server).await;
        let source = cluster.host(before.host.as_ref().unwrap());
        source.sim.controls().set_live_time(long);
        let migration = on_its_way(&cluster, server, json!({})).await;
        cluster
            .until("the guest is under way", async || {
                !virt::Hypervisor::moving(source.sim.as_ref())
                    .await
                    .is_empty()
            })
            .await;
        match how {
            "abort" => cluster.ask(server, Question::AbortLive).await,
            "force" => cluster.ask(server, Question::ForceLive).await,
            _ => assert!(cluster.delete(server).await),
        }
        cluster.idle().await;
        let after = cluster.server(server).await;
        match how {
            "abort" => {
                assert_eq!((after.vm_state, after.host), (VmState::Active, before.host));
                assert_eq!(after.fault, None, "what was wanted is no fault");
                assert_eq!(cluster.status(migration).await, Status::Cancelled);
            }
            "force" => {
                assert_eq!(
                    (after.vm_state, after.host != before.host),
                    (VmState::Active, true)
                );
                assert_eq!(cluster.status(migration).await, Status::Completed);
            }
            _ => assert!(after.deleted),
        }
        clean(&cluster).await;
    }
}

/// The server's disk on shared storage, by whose it is.
fn owner(cluster: &Cluster, server: ServerId) -> Option<String> {
    let disks = cluster.hosts[0].sim.shared_disks();
    disks
        .into_iter()
        .find_map(|(id, owner)| (id == server).then_some(owner))
}

#[tokio::test]
async fn hosts_that_share_disks_hand_them_on() {
    let options = Options {
        shared: true,
        ..small(2, 4)
    };
    let cluster = Cluster::new(options).await;
    let server = cluster
        .create_with(|new| new.image = Some(agentless()))
        .await;
    cluster.idle().await;
    let first = cluster.server(server).await.host.unwrap();
    assert_eq!(owner(&cluster, server), Some(first.0.clone()));
    // Copies are not what shared storage is for.
    let migration = cluster.record(server, Kind::LiveMigration).await;
    let state = json!({ "migration": migration, "block": true });
    cluster.act(server, "live_migration", state).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    let message = stays.fault.unwrap().message;
    let wanted = "is not on local storage: Block migration can not be used with shared storage.";
    assert!(message.ends_with(wanted), "{message}");
    for block in [json!(null), json!(false)] {
        let before = cluster.server(server).await.host.unwrap();
        let migration = cluster.record(server, Kind::LiveMigration).await;
        let state = json!({ "migration": migration, "block": block });
        cluster.act(server, "live_migration", state).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        assert_eq!((after.vm_state, after.fault), (VmState::Active, None));
        let there = after.host.unwrap();
        assert_ne!(there, before);
        assert_eq!(owner(&cluster, server), Some(there.0));
        assert_eq!(cluster.status(migration).await, Status::Completed);
        clean(&cluster).await;
    }
    // Its host dies: the disk is still there, and stays when the host is back.
    cluster.lose_host(server).await;
    for told in [Some(false), Some(true)] {
        let migration = cluster.record(server, Kind::Evacuation).await;
        let state = json!({ "migration": migration, "told": true, "shared": told });
        cluster.act(server, "evacuate", state).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        if told == Some(false) {
            let message = after.fault.unwrap().message;
            assert_eq!(message, "Invalid state of instance files on shared storage");
            assert_eq!(
                (after.vm_state, after.host),
                (VmState::Error, Some(first.clone()))
            );
            assert_eq!(owner(&cluster, server), Some(first.0.clone()));
        } else {
            assert_eq!((after.vm_state, after.fault), (VmState::Active, None));
            assert_ne!(after.host, Some(first.clone()));
        }
    }
    cluster.revive().await;
    cluster.paid().await;
    let there = cluster.server(server).await.host.unwrap();
    assert_eq!(owner(&cluster, server), Some(there.0));
    clean(&cluster).await;
    cluster.delete(server).await;
    cluster.idle().await;
    assert_eq!(owner(&cluster, server), None);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_live_migration_in_post_copy_cannot_be_called_off_and_what_breaks_it_costs_the_memory() {
    for breaks in [false, true] {
        let cluster = Cluster::new(small(2, 4)).await;
        let server = cluster.create().await;
        cluster.idle().await;
        let before = cluster.server(server).await;
        let source = cluster.host(before.host.as_ref().unwrap());
        source
            .sim
            .controls()
            .set_live_time(Duration::from_secs(3600));
        let long = Duration::from_secs(3600);
        source.sim.controls().set_post_copy(long, breaks);
        let migration = on_its_way(&cluster, server, json!({})).await;
        cluster.ask(server, Question::ForceLive).await;
        let refused = virt::Hypervisor::abort_live(source.sim.as_ref(), server).await;
        assert_eq!(refused, Err(virt::HypervisorError::InPostCopy));
        cluster
            .until("the migration shows its mode", async || {
                cluster.beat().await;
                cluster.status(migration).await == Status::RunningPostCopy
            })
            .await;
        let controls = source.sim.controls();
        controls.set_post_copy(Duration::ZERO, breaks);
        cluster.idle().await;
        let after = cluster.server(server).await;
        assert_ne!(after.host, before.host, "it never comes back");
        let dest = cluster.host(after.host.as_ref().unwrap());
        let there = virt::Hypervisor::guest(dest.sim.as_ref(), server).await;
        assert_eq!(there.unwrap().unwrap().active, !breaks);
        let here = virt::Hypervisor::guest(source.sim.as_ref(), server).await;
        assert_eq!(here.unwrap(), None, "what is left of its memory is gone");
        if breaks {
            assert_eq!(after.vm_state, VmState::Error);
            let fault = after.fault.unwrap();
            assert!(fault.message.contains("reboot it hard"), "{fault:?}");
            assert_eq!(cluster.status(migration).await, Status::Error);
            cluster.act(server, "reboot", json!({ "hard": true })).await;
            cluster.idle().await;
            let again = cluster.server(server).await;
            assert_eq!(again.vm_state, VmState::Active, "{again:?}");
        } else {
            assert_eq!((after.vm_state, after.fault), (VmState::Active, None));
            assert_eq!(cluster.status(migration).await, Status::Completed);
        }
        clean(&cluster).await;
    }
}

/// Who forces a guest onto a host passes over what administrators say of that.
#[tokio::test]
async fn a_live_migration_to_a_disabled_host_has_to_be_forced() {
    let cluster = Cluster::new(small(2, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let here = cluster.server(server).await.host.unwrap();
    let other = cluster.hosts.iter().find(|host| host.name != here).unwrap();
    cluster.disable(other).await;
    for force in [false, true] {
        let migration = cluster.record(server, Kind::LiveMigration).await;
        let state = json!({ "to": other.name, "force": force, "migration": migration });
        cluster.act(server, "live_migration", state).await;
        cluster.idle().await;
        let wanted = if force { &other.name } else { &here };
        let after = cluster.server(server).await;
        assert_eq!(after.host.as_ref(), Some(wanted), "{force}");
        assert_eq!(after.vm_state, VmState::Active, "{force}");
    }
    clean(&cluster).await;
}

/// The events of the newest action that somebody asked for, with their hosts and how they ended, oldest first.
async fn events(
    cluster: &Cluster,
    server: ServerId,
) -> Vec<(String, Option<String>, Option<String>)> {
    let read = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
        let newest = db::actions::of_server(tx, server)?.remove(0);
        db::actions::events(tx, newest.id)
    };
    let mut events = cluster.store.read(read).await.unwrap();
    events.reverse();
    events
        .into_iter()
        .map(|one| (one.event, one.host, one.result))
        .collect()
}

#[tokio::test]
async fn a_live_migration_shows_the_checks_of_both_hosts() {
    let cluster = Cluster::new(small(2, 1)).await;
    let server = cluster
        .create_with(|new| new.image = Some(agentless()))
        .await;
    cluster.idle().await;
    let here = cluster.server(server).await.host.unwrap().0;
    let there = ["host-1", "host-2"].into_iter().find(|one| *one != here);
    let there = there.unwrap().to_owned();
    let checks = |end: &str| {
        let end = Some(end.to_owned());
        [
            (
                "compute_check_can_live_migrate_destination".to_owned(),
                Some(there.clone()),
                end.clone(),
            ),
            (
                "compute_check_can_live_migrate_source".to_owned(),
                Some(here.clone()),
                end,
            ),
        ]
    };
    for (block, end) in [(Some(false), "Error"), (None, "Success")] {
        let migration = cluster.record(server, Kind::LiveMigration).await;
        let state = json!({ "migration": migration, "block": block });
        cluster.act(server, "live_migration", state).await;
        cluster.idle().await;
        let events = events(&cluster, server).await;
        assert_eq!(events[1..3], checks(end), "{events:?}");
        assert_eq!(events[0].0, "conductor_live_migrate_instance");
    }
    assert_eq!(
        cluster.server(server).await.host.unwrap().0,
        there,
        "it has moved"
    );
    clean(&cluster).await;
}

#[tokio::test]
async fn what_keeps_a_guest_from_migrating_is_said() {
    let cluster = Cluster::new(small(2, 1)).await;
    let server = cluster
        .create_with(|new| new.image = Some(agentless()))
        .await;
    cluster.idle().await;
    let here = cluster.server(server).await.host.unwrap();
    let table = [
        (json!({ "block": false }), "is not on shared storage: "),
        (
            json!({ "to": here, "force": true }),
            "Unable to migrate instance ",
        ),
        (json!({ "to": here }), "No valid host was found"),
        (
            json!({ "to": "host-9", "force": true }),
            "Compute service of the host is unavailable",
        ),
    ];
    for (how, words) in table {
        let migration = cluster.record(server, Kind::LiveMigration).await;
        let mut state = how;
        state["migration"] = json!(migration);
        cluster.act(server, "live_migration", state).await;
        cluster.idle().await;
        let stays = cluster.server(server).await;
        assert_eq!(
            (stays.vm_state, stays.host),
            (VmState::Active, Some(here.clone()))
        );
        let fault = stays.fault.unwrap();
        let (message, details) = (fault.message, fault.details.unwrap());
        assert!(message.contains(words), "{message}");
        assert!(!message.contains("host-"), "for everyone: {message}");
        let told: String = format!("Error: {message}").chars().take(255).collect();
        assert_eq!(cluster.last_action_says(server).await, Some(told));
        assert!(details.contains("host-"), "for administrators: {details}");
        assert_eq!(cluster.status(migration).await, Status::Error);
        clean(&cluster).await;
    }
    // Called off before it has begun.
    let migration = cluster.record(server, Kind::LiveMigration).await;
    let cancelling = cluster.store.write(move |tx| {
        migrations::set_status(tx, migration, Status::Cancelled, Timestamp::now())
    });
    let written: Result<bool, sql::Error> = cancelling.await;
    assert!(written.unwrap());
    let state = json!({ "migration": migration });
    cluster.act(server, "live_migration", state).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.host, Some(here));
    assert_eq!(cluster.status(migration).await, Status::Cancelled);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_volume_given_on_the_shelf_has_a_name_once_it_is_on_a_host() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    shelve(&cluster, server, true).await;
    let state = cluster.first_state("attach_volume", server);
    let volume = state["volume"].as_str().unwrap().to_owned();
    cluster.act(server, "attach_volume", state).await;
    cluster.idle().await;
    cluster.act(server, "unshelve", json!({})).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_server(tx, server);
    let devices: Result<_, sql::Error> = cluster.store.read(read).await;
    let devices: Vec<db::block_devices::BlockDevice> = devices.unwrap();
    let given = devices
        .iter()
        .find(|one| one.volume_id.as_ref() == Some(&volume));
    let name = given.unwrap().device_name.clone().expect("a name");
    assert!(name.starts_with("/dev/vd"), "{name}");
    let same = |one: &&db::block_devices::BlockDevice| one.device_name.as_ref() == Some(&name);
    assert_eq!(devices.iter().filter(same).count(), 1);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_soft_deletion_does_not_wait_for_a_silent_host() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let host = &cluster.hosts[0];
    host.stop();
    let shorter = |most| move |settings: &mut journal::Settings| settings.longest_step = most;
    cluster
        .change_settings(shorter(Some(Duration::from_millis(300))))
        .await;
    // Nobody knows yet that it is away.
    assert!(cluster.server(server).await.host.is_some());
    cluster.soft_delete(server).await;
    cluster.idle().await;
    let gone = cluster.server(server).await;
    assert_eq!((gone.vm_state, gone.fault), (VmState::SoftDelete, None));
    assert!(!cluster.last_action_failed(server).await);
    let guest = virt::Hypervisor::guest(host.sim.as_ref(), server).await;
    assert!(
        guest.unwrap().is_some_and(|guest| guest.active),
        "it still runs there"
    );
    cluster.change_settings(shorter(None)).await;
    // It is back, and says what runs on it.
    cluster.start_host(host);
    cluster
        .until("the guest is off", async || {
            let guest = virt::Hypervisor::guest(host.sim.as_ref(), server).await;
            guest.unwrap().is_some_and(|guest| !guest.active)
        })
        .await;
    cluster.idle().await;
    let off = cluster.server(server).await;
    let shown = (off.vm_state, off.power_state);
    assert_eq!(shown, (VmState::SoftDelete, PowerState::Shutdown));
    clean(&cluster).await;
}

#[tokio::test]
async fn a_soft_deletion_does_not_fail_with_its_host() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let broken = HypervisorError::Unavailable("no hypervisor answers".to_owned());
    let controls = cluster.hosts[0].sim.controls();
    controls.fail_always(Verb::StopHard, broken);
    cluster
        .change_settings(|settings| settings.longest_step = Some(Duration::from_millis(300)))
        .await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    let gone = cluster.server(server).await;
    assert_eq!((gone.vm_state, gone.fault), (VmState::SoftDelete, None));
}

#[tokio::test]
async fn a_server_that_boots_from_a_volume_is_rescued_from_the_image() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create_from_volume().await;
    cluster.idle().await;
    let image = json!({ "id": ImageId::random(), "name": "i", "disk_format": "raw", "container_format": "bare",
        "size": 1, "min_disk": 0, "min_ram": 0, "sha512": null, "properties": {} });
    let state = json!({ "image": image });
    cluster.act(server, "rescue", state).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Rescued);
    let spec = virt::Hypervisor::stored_spec(cluster.hosts[0].sim.as_ref(), server).await;
    let spec = spec.unwrap().unwrap();
    assert_eq!(spec.root, RootDisk::Volume, "its own disk is behind");
    // Of the volume nothing could be made here: an empty disk, behind which the machine would find the volume.
    assert_ne!(spec.rescue.unwrap().root, RootDisk::Volume);
    clean(&cluster).await;
}

/// What libvirt says when QEMU finds no room for the copy of a disk on the other host.
#[tokio::test]
async fn a_live_migration_whose_new_host_fills_up_leaves_the_guest_running() {
    let cluster = Cluster::new(small(2, 4)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let from = cluster.host(&before.host.clone().unwrap());
    let to = cluster.hosts.iter().find(|one| one.name != from.name);
    let to = to.unwrap();
    let words = "migration of disk vda failed: No space left on device";
    let full = HypervisorError::Rejected(words.to_owned());
    from.sim.controls().fail_next(Verb::MigrateLive, full, 1);
    let migration = cluster.record(server, Kind::LiveMigration).await;
    let state = json!({ "migration": migration });
    cluster.act(server, "live_migration", state).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!(
        (stays.vm_state, &stays.host),
        (VmState::Active, &before.host)
    );
    assert_eq!(stays.network_info, before.network_info);
    assert_eq!(from.guests().await, [(server, PowerState::Running)]);
    assert_eq!(to.guests().await, []);
    let fault = stays.fault.unwrap();
    assert!(!fault.message.contains("No space"), "{}", fault.message);
    let details = fault.details.unwrap();
    assert!(details.contains(words), "{details}");
    assert!(
        details.contains(&format!("sent to host {}", to.name)),
        "{details}"
    );
    assert_eq!(cluster.status(migration).await, Status::Error);
    clean(&cluster).await;
}

/// A guest that changes its memory faster than it can be sent: slowed down it comes to an end, else its time does.
#[tokio::test]
async fn a_restless_guest_leaves_only_where_it_may_be_slowed_down() {
    for auto_converge in [false, true] {
        let cluster = Cluster::new(Options {
            live: virt::LiveChoices {
                auto_converge,
                post_copy: false,
            },
            // A guest of up to 2 GiB, and as much of a disk.
            live_limit: Some(testkit::LiveLimit {
                for_each_gib: Duration::from_millis(if auto_converge { 60_000 } else { 100 }),
                action: testkit::LiveAction::Abort,
            }),
            ..small(2, 4)
        })
        .await;
        let server = cluster.create().await;
        cluster.idle().await;
        let before = cluster.server(server).await.host;
        for host in &cluster.hosts {
            let controls = host.sim.controls();
            controls.set_restless(true);
            controls.set_live_time(Duration::from_millis(300));
        }
        let migration = cluster.record(server, Kind::LiveMigration).await;
        let state = json!({ "migration": migration });
        cluster.act(server, "live_migration", state).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        let status = cluster.status(migration).await;
        assert_eq!(after.vm_state, VmState::Active);
        match auto_converge {
            true => {
                assert_eq!(status, Status::Completed);
                assert_ne!(after.host, before);
            }
            false => {
                assert_eq!(status, Status::Cancelled);
                assert_eq!(after.host, before);
            }
        }
        clean(&cluster).await;
    }
}
