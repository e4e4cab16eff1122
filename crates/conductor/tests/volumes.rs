#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Stories of servers and their volumes, each ended by the audit.

use journal::faults::{Fault, Point, Script, When};
use serde_json::json;
use std::sync::Arc;
use testkit::{Cluster, Options};
use types::agent::Direction;
use types::{ImageId, PowerState, ServerId, Timestamp, VmState};
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
async fn a_volume_has_grown_also_where_its_guest_cannot_see_it() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("attach_volume", server);
    let volume = state["volume"].as_str().unwrap().to_owned();
    cluster.act(server, "attach_volume", state.clone()).await;
    cluster.idle().await;
    cluster.volumes.set(&volume, "size", json!(3));
    let refused = HypervisorError::Guest("after its next start".to_owned());
    let controls = cluster.hosts[0].sim.controls();
    controls.fail_next(Verb::ResizeDisk, refused, 1);
    cluster.act(server, "extend_volume", state).await;
    cluster.idle().await;
    let told = cluster.last_action_says(server).await;
    assert_eq!(told, Some("Error: after its next start".to_owned()));
    let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_volume(tx, server, &volume);
    let found: Result<Option<db::block_devices::BlockDevice>, sql::Error> =
        cluster.store.read(read).await;
    assert_eq!(found.unwrap().unwrap().volume_size, Some(3));
    clean(&cluster).await;
}

/// The event of a volume service that has made a volume larger; `true`: its guest is told at once.
async fn grows(cluster: &Cluster, server: ServerId, volume: &str) -> bool {
    let volume = volume.to_owned();
    let accepting = cluster.store.write(move |tx| {
        let by = db::actions::Requester {
            request_id: "req-grown",
            user_id: "cinder",
            project_id: "service",
            trace: None,
        };
        db::grown::accept(tx, server, &volume, &by, Timestamp::now())
    });
    let accepted: Result<bool, sql::Error> = accepting.await;
    cluster.ring_tasks();
    accepted.unwrap()
}

/// How often the server shows that one of its volumes has grown.
async fn extensions(cluster: &Cluster, server: ServerId) -> usize {
    let reading = cluster
        .store
        .read(move |tx| db::actions::of_server(tx, server));
    let actions: Result<Vec<db::actions::Action>, sql::Error> = reading.await;
    let actions = actions.unwrap();
    let shown = actions.iter().filter(|one| one.action == "extend_volume");
    shown.count()
}

#[tokio::test]
async fn a_volume_that_grows_while_its_server_is_busy_is_told_afterwards() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("attach_volume", server);
    let volume = state["volume"].as_str().unwrap().to_owned();
    assert!(
        !grows(&cluster, server, &volume).await,
        "it is not attached"
    );
    assert_eq!(extensions(&cluster, server).await, 0);
    cluster.act(server, "attach_volume", state).await;
    cluster.idle().await;
    let size = async || {
        let volume = volume.clone();
        let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_volume(tx, server, &volume);
        let found: Result<Option<db::block_devices::BlockDevice>, sql::Error> =
            cluster.store.read(read).await;
        found.unwrap().unwrap().volume_size
    };
    cluster.hosts[0].stop();
    let reboot = || json!({ "hard": true });
    cluster.act(server, "reboot", reboot()).await;
    cluster.volumes.set(&volume, "size", json!(3));
    assert!(
        !grows(&cluster, server, &volume).await,
        "it is rebooted first"
    );
    assert_eq!(extensions(&cluster, server).await, 1, "it is on record");
    assert_eq!(cluster.tell_grown().await, 0);
    cluster.start_host(&cluster.hosts[0]);
    cluster.idle().await;
    assert_ne!(size().await, Some(3));
    assert_eq!(cluster.tell_grown().await, 1);
    cluster.idle().await;
    assert_eq!(size().await, Some(3));
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert_eq!(extensions(&cluster, server).await, 1, "the same action");
    assert_eq!(cluster.tell_grown().await, 0);
    // Nobody works on it: at once.
    cluster.volumes.set(&volume, "size", json!(4));
    assert!(grows(&cluster, server, &volume).await);
    cluster.idle().await;
    assert_eq!(size().await, Some(4));
    // Nothing is left of what waits for a server that goes.
    cluster.hosts[0].stop();
    cluster.act(server, "reboot", reboot()).await;
    assert!(!grows(&cluster, server, &volume).await);
    cluster.start_host(&cluster.hosts[0]);
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    assert_eq!(cluster.tell_grown().await, 0);
    let left: Result<_, sql::Error> = cluster.store.read(db::grown::waiting).await;
    assert_eq!(left.unwrap(), []);
    clean(&cluster).await;
}

/// The events of the server's newest action.
async fn last_events(cluster: &Cluster, server: ServerId) -> Vec<(String, Option<String>)> {
    let reading = cluster.store.read(move |tx| {
        let newest = db::actions::of_server(tx, server)?.swap_remove(0);
        db::actions::events(tx, newest.id)
    });
    let events: Result<Vec<db::actions::Event>, sql::Error> = reading.await;
    let told = events.unwrap().into_iter();
    told.map(|event| (event.event, event.result)).collect()
}

#[tokio::test]
async fn volumes_of_servers_on_a_shelf_are_the_apis_work() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    for (offloaded, side) in [(false, "compute"), (true, "api")] {
        if offloaded {
            let shelve = cluster.first_state("shelve", server);
            cluster.act(server, "shelve", shelve).await;
            cluster.idle().await;
            let shelved = cluster.server(server).await;
            assert_eq!(shelved.vm_state, VmState::ShelvedOffloaded);
        }
        let state = cluster.first_state("attach_volume", server);
        for flow in ["attach_volume", "detach_volume"] {
            cluster.act(server, flow, state.clone()).await;
            cluster.idle().await;
            let done = Some("Success".to_owned());
            let wanted = [(format!("{side}_{flow}"), done)];
            assert_eq!(last_events(&cluster, server).await, wanted);
        }
    }
    clean(&cluster).await;
}

/// Two volumes of their owner, neither of them made for a move, though one has moved before: the server has the new one
/// afterwards, or the old one still.
#[tokio::test]
async fn a_volume_in_the_place_of_another() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("attach_volume", server);
    let old = state["volume"].as_str().unwrap().to_owned();
    cluster.act(server, "attach_volume", state).await;
    cluster.idle().await;
    let new = cluster.volumes.make_with(&json!({ "size": 2 }));
    cluster
        .volumes
        .set(&new, "migration_status", json!("success"));
    let on_record = async || {
        let read = move |tx: &mut sql::Tx<'_>| db::block_devices::of_server(tx, server);
        let devices: Result<_, sql::Error> = cluster.store.read(read).await;
        let devices: Vec<db::block_devices::BlockDevice> = devices.unwrap();
        let told = devices
            .into_iter()
            .map(|one| (one.volume_id.unwrap_or_default(), one.volume_size));
        let told = told.filter(|(id, _)| *id == old || *id == new);
        told.collect::<Vec<_>>()
    };
    let on_host = async || {
        let sim = cluster.hosts[0].sim.as_ref();
        let spec = virt::Hypervisor::stored_spec(sim, server).await;
        let disks = spec.unwrap().unwrap().disks;
        let volumes = disks.iter().filter_map(virt::Disk::volume_id);
        let volumes = volumes.filter(|id| *id == old || *id == new);
        volumes.map(str::to_owned).collect::<Vec<String>>()
    };
    let before = on_record().await;
    // After the host has done it: it is taken back there.
    let point = Point {
        flow: "swap_volume",
        step: "swap",
        direction: Direction::Do,
        when: When::After,
    };
    cluster.set_faults(Arc::new(Script::new([(point, Fault::Fail)])));
    let wanted = json!({ "old": old, "new": new });
    cluster.act(server, "swap_volume", wanted.clone()).await;
    cluster.idle().await;
    assert!(cluster.last_action_failed(server).await);
    assert_eq!(on_record().await, before);
    assert_eq!(on_host().await, [old.as_str()]);
    clean(&cluster).await;

    cluster.act(server, "swap_volume", wanted).await;
    cluster.idle().await;
    assert!(!cluster.last_action_failed(server).await);
    assert_eq!(on_record().await, [(new.clone(), Some(2))]);
    assert_eq!(on_host().await, [new.as_str()]);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_volume_of_another_project_is_given_back() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let volume = cluster
        .volumes
        .make_with(&json!({ "project_id": "administrators" }));
    let state = json!({ "volume": volume });
    cluster.act(server, "attach_volume", state.clone()).await;
    cluster.idle().await;
    let status = || {
        let all = cluster.volumes.all();
        all.into_iter().find(|(id, _)| *id == volume).unwrap().1
    };
    assert_eq!(status(), "in-use");
    cluster.act(server, "detach_volume", state).await;
    cluster.idle().await;
    assert_eq!(status(), "available");
    clean(&cluster).await;
}

#[tokio::test]
async fn another_image_for_the_volume_a_server_boots_from() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create_from_volume().await;
    cluster.idle().await;
    let volume = cluster.volumes.attachments()[0].0.clone();
    let rebuild = async |image: ImageId| {
        let state = json!({ "reimage": image });
        cluster.act(server, "rebuild", state).await;
        cluster.idle().await;
        cluster.server(server).await
    };
    let shown = |server: &db::instances::Instance| (server.vm_state, server.power_state);
    let running = (VmState::Active, PowerState::Running);
    let image = ImageId::random();
    let anew = rebuild(image).await;
    assert_eq!((shown(&anew), anew.fault), (running, None));
    assert_eq!(cluster.volumes.image_on(&volume), Some(image.to_string()));
    clean(&cluster).await;
    // A service that cannot is asked before anything is touched.
    cluster.volumes.set_old(true);
    let as_before = rebuild(ImageId::random()).await;
    assert_eq!(shown(&as_before), running);
    let message = as_before.fault.unwrap().message;
    assert!(message.contains("API version 3.68"), "{message}");
    assert_eq!(cluster.volumes.image_on(&volume), Some(image.to_string()));
    clean(&cluster).await;
    cluster.volumes.set_old(false);
    // One that breaks the volume leaves it to the server, whose next rebuild mends it.
    cluster.volumes.set_failing(true);
    let broken = rebuild(ImageId::random()).await;
    assert_eq!(broken.vm_state, VmState::Error);
    let message = broken.fault.unwrap().message;
    assert!(
        message.contains(&volume) && message.contains("error"),
        "{message}"
    );
    let held = cluster.volumes.attachments();
    assert_eq!(
        held,
        [(volume.clone(), server.to_string(), "reserved".to_owned())]
    );
    cluster.volumes.set_failing(false);
    let image = ImageId::random();
    let mended = rebuild(image).await;
    assert_eq!((shown(&mended), mended.fault), (running, None));
    assert_eq!(cluster.volumes.image_on(&volume), Some(image.to_string()));
    clean(&cluster).await;
}

/// A soft deletion takes over while only a reservation holds the volume: nobody else may get that.
#[tokio::test]
async fn a_volume_that_gets_an_image_stays_its_servers_over_a_soft_deletion() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create_from_volume().await;
    cluster.idle().await;
    let volume = cluster.volumes.attachments()[0].0.clone();
    let reserved = [(volume, server.to_string(), "reserved".to_owned())];
    cluster.volumes.set_slow(true);
    let state = json!({ "reimage": ImageId::random() });
    cluster.act(server, "rebuild", state).await;
    cluster
        .until("it is only reserved", async || {
            cluster.volumes.attachments() == reserved
        })
        .await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::SoftDelete);
    // Who was overtaken looks for what is left of it, gives that back, and looks once more.
    let before = cluster.volumes.asked();
    cluster.volumes.set_slow(false);
    cluster
        .until("it has looked", async || {
            cluster.volumes.asked() >= before + 2
        })
        .await;
    assert_eq!(cluster.volumes.attachments(), reserved);
    cluster.delete(server).await;
    cluster.idle().await;
    assert_eq!(cluster.volumes.attachments(), []);
    clean(&cluster).await;
}

/// Somebody reset the volume's state and deleted it. The audit names it; it can be detached.
#[tokio::test]
async fn a_volume_that_is_gone_is_named_and_can_be_detached() {
    let cluster = Cluster::new(small(1, 1)).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("attach_volume", server);
    let volume = state["volume"].as_str().unwrap().to_owned();
    cluster.act(server, "attach_volume", state.clone()).await;
    cluster.idle().await;
    assert_eq!(cluster.findings().await, []);
    cluster.volumes.lose(&volume);
    let found = cluster.findings().await;
    let words = format!(
        "server {server} of project {} has volume {volume}, which is gone; detach it",
        testkit::PROJECT
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), words);
    assert!(!found[0].can_be_mended());
    assert_eq!(cluster.reconcile().await, 0);
    cluster.act(server, "detach_volume", state).await;
    cluster.idle().await;
    assert!(!cluster.last_action_failed(server).await);
    let sim = cluster.hosts[0].sim.as_ref();
    let spec = virt::Hypervisor::stored_spec(sim, server).await;
    let disks = spec.unwrap().unwrap().disks;
    assert!(!disks.iter().any(|one| one.volume_id() == Some(&volume)));
    assert_eq!(cluster.findings().await, []);
    clean(&cluster).await;
}
