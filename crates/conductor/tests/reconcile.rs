#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What hosts, the network and the volume service have that they should not, guests that do what nobody asked for, and
//! what is missing when it is needed.

use clients::NewPort;
use clients::volumes::Scope;
use db::instances::Instance;
use db::repair::{self, Finding};
use kilonova_conductor::addresses::Addresses;
use kilonova_conductor::guests::Rules;
use sql::{Error, Tx, Value};
use std::time::Duration;
use testkit::{Cluster, Options};
use types::server::{WantedInterface, WantedNetworks};
use types::{PowerState, ServerId, Timestamp, VmState};
use virt::{GuestSpec, Hypervisor, Power};

async fn execute(cluster: &Cluster, sql: &'static str, params: Vec<Value>) {
    let done = cluster
        .store
        .write(move |tx: &mut Tx<'_>| -> Result<u64, Error> { tx.execute(sql, &params) });
    assert!(done.await.unwrap() > 0, "{sql}");
}

/// Those in the database.
async fn findings(cluster: &Cluster) -> Vec<Finding> {
    let found: Result<Vec<Finding>, Error> = cluster.store.read(repair::audit).await;
    found.unwrap()
}

async fn clean(cluster: &Cluster) {
    cluster.idle().await;
    cluster.paid().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
    assert_eq!(cluster.findings().await, []);
}

/// Nothing has happened to the server for an hour.
async fn long_ago(cluster: &Cluster, server: ServerId) {
    let sql = "UPDATE instances SET updated_at = updated_at - 3600000000, terminated_at = terminated_at - 3600000000 WHERE uuid = ?";
    execute(cluster, sql, vec![server.into()]).await;
}

async fn spec_of(cluster: &Cluster, server: ServerId) -> GuestSpec {
    let name = cluster.server(server).await.host.unwrap();
    let spec = cluster.host(&name).sim.stored_spec(server).await;
    spec.unwrap().unwrap()
}

#[tokio::test]
async fn guests_that_ran_are_started_with_their_host_where_an_operator_wants_it() {
    for resume in [true, false] {
        let cluster = Cluster::new(Options {
            hosts: 1,
            rules: Rules {
                resume,
                ..Rules::default()
            },
            ..Options::default()
        })
        .await;
        let (ran, was_off) = (cluster.create().await, cluster.create().await);
        cluster.idle().await;
        cluster.stop(was_off).await;
        cluster.idle().await;
        // The machine goes down with all its guests, and comes up.
        let host = &cluster.hosts[0];
        host.stop();
        host.sim.guest_powers_off(ran).unwrap();
        cluster.start_host(host);
        let wanted = match resume {
            true => (VmState::Active, PowerState::Running),
            false => (VmState::Stopped, PowerState::Shutdown),
        };
        cluster
            .until("its server shows what became of it", async || {
                let server = cluster.server(ran).await;
                let off = cluster.server(was_off).await;
                assert_eq!(off.vm_state, VmState::Stopped);
                let power = virt::Hypervisor::guest(host.sim.as_ref(), ran).await;
                (server.vm_state, power.unwrap().unwrap().power) == wanted
            })
            .await;
        cluster.idle().await;
        let told = cluster.server(ran).await;
        assert_eq!((told.vm_state, told.power_state), wanted);
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn what_a_guest_did_before_its_server_became_what_it_is_is_no_news() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let host = cluster.server(server).await.host.unwrap();
    let before = Timestamp::now();
    cluster.act(server, "pause", serde_json::json!({})).await;
    cluster.idle().await;
    // Looked at before the pause, written after it.
    let mut beat = cluster.event(&host, &[(server, PowerState::Running)], before);
    for complete in [false, true] {
        beat.complete = complete;
        assert_eq!(cluster.say_of(&beat).await.again, [server]);
        assert_eq!(cluster.server(server).await.vm_state, VmState::Paused);
    }
    // Looked at after the pause.
    beat.heard = Some(Timestamp::now());
    let noted = cluster.say_of(&beat).await;
    assert_eq!(noted.again, []);
    assert!(Some(noted.at) > beat.heard);
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
}

/// Its service was deleted, and the host lives all the same: a heartbeat says what it is only when that has changed.
#[tokio::test]
async fn a_host_that_was_forgotten_says_again_what_it_is() {
    let cluster = Cluster::new(Options {
        beat: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    let name = cluster.hosts[0].name.clone();
    let beats = async || -> i64 {
        let services: Result<Vec<db::hosts::Service>, Error> =
            cluster.store.read(db::hosts::services).await;
        let services = services.unwrap();
        let its = services.iter().find(|service| service.host == name);
        its.map_or(0, |service| service.beats)
    };
    cluster
        .until("beats without facts", async || beats().await > 5)
        .await;
    let host = name.clone();
    let forget = move |tx: &mut Tx<'_>| -> Result<(), Error> {
        let services = db::hosts::services(tx)?;
        let its = services.iter().find(|service| service.host == host);
        db::hosts::remove_service(tx, its.unwrap().uuid)?;
        db::hosts::remove_node(tx, &host, Timestamp::now())
    };
    cluster.store.write(forget).await.unwrap();
    let known = async || -> bool {
        let nodes: Result<Vec<db::hosts::Node>, Error> = cluster.store.read(db::hosts::nodes).await;
        nodes.unwrap().iter().any(|node| node.host == name)
    };
    cluster.until("its node is there again", known).await;
    assert!(beats().await > 0);
}

#[tokio::test]
async fn a_guest_that_was_started_behind_everybodys_back_is_switched_off() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    cluster.stop(server).await;
    cluster.idle().await;
    let name = cluster.server(server).await.host.unwrap();
    let host = cluster.host(&name);
    host.sim.start(server).await.unwrap();
    cluster
        .until("it is off again", async || {
            host.guests().await == [(server, PowerState::Shutdown)]
        })
        .await;
    cluster.idle().await;
    let shown = cluster.server(server).await;
    assert_eq!(
        (shown.vm_state, shown.power_state),
        (VmState::Stopped, PowerState::Shutdown)
    );
    let actions: Result<Vec<_>, Error> = cluster
        .store
        .read(move |tx| db::actions::of_server(tx, server))
        .await;
    let stops = actions.unwrap();
    let stops = stops.iter().filter(|one| one.action == "stop");
    assert_eq!(stops.count(), 2, "its owner sees what happened");
    // One that the guest itself did is only shown.
    cluster.start(server).await;
    cluster.idle().await;
    host.sim.guest_powers_off(server).unwrap();
    cluster
        .until("it shows that", async || {
            cluster.server(server).await.vm_state == VmState::Stopped
        })
        .await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_is_soft_deleted_although_its_host_is_down_and_is_off_when_that_is_back() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let host = cluster.lose_host(server).await;
    cluster.soft_delete(server).await;
    cluster.idle().await;
    let deleted = cluster.server(server).await;
    assert_eq!(deleted.vm_state, VmState::SoftDelete);
    let since = deleted.kept.soft_deleted_at;
    assert!(since.is_some() && !cluster.last_action_failed(server).await);
    assert_eq!(host.guests().await, [(server, PowerState::Running)]);
    long_ago(&cluster, server).await;
    cluster.revive().await;
    cluster
        .until("it is off", async || {
            host.guests().await == [(server, PowerState::Shutdown)]
        })
        .await;
    cluster.idle().await;
    let off = cluster.server(server).await;
    assert_eq!(off.vm_state, VmState::SoftDelete);
    assert_eq!(off.kept.soft_deleted_at, since, "its time goes on");
    clean(&cluster).await;
}

/// More than are followed in one transaction.
#[tokio::test]
async fn a_host_that_comes_back_without_very_many_of_its_guests() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let model = cluster.server(server).await;
    let host = cluster.host(model.host.as_ref().unwrap());
    host.stop();
    let inserting = cluster.store.write(move |tx| -> Result<(), Error> {
        for _ in 0..250 {
            let lost = Instance {
                id: ServerId::random(),
                // Nothing has happened to it for an hour.
                updated_at: Some(Timestamp::now().minus(Duration::from_secs(3600))),
                ..model.clone()
            };
            db::instances::insert(tx, &lost)?;
        }
        Ok(())
    });
    inserting.await.unwrap();
    cluster.start_host(host);
    cluster
        .until("all of them show it", async || {
            let name = host.name.clone();
            let reading = cluster
                .store
                .read(move |tx| -> Result<_, Error> { db::instances::standing_on(tx, &name) });
            let here = reading.await.unwrap();
            let off = here.iter().filter(|one| one.vm_state == VmState::Stopped);
            off.count() == 250
        })
        .await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
}

#[tokio::test]
async fn guests_that_are_not_the_hosts_are_found_and_removed() {
    let cluster = Cluster::new(Options::default()).await;
    let (gone, moved) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    let of_gone = spec_of(&cluster, gone).await;
    let of_moved = spec_of(&cluster, moved).await;
    cluster.delete(gone).await;
    cluster.idle().await;
    let its = cluster.server(moved).await.host.unwrap();
    let other = cluster.hosts.iter().find(|host| host.name != its).unwrap();
    let unknown = GuestSpec {
        id: ServerId::random(),
        ..of_gone.clone()
    };
    // A backup of the host's disk was put back, say.
    other.stop();
    for spec in [&of_gone, &of_moved, &unknown] {
        other.sim.ensure_guest(spec, Power::On).await.unwrap();
    }
    long_ago(&cluster, gone).await;
    long_ago(&cluster, moved).await;
    cluster.start_host(other);
    // That of a deleted server goes by itself, that of a server that is elsewhere when somebody looks.
    cluster
        .until("they are noted", async || {
            findings(&cluster).await.len() == 2
        })
        .await;
    cluster.paid().await;
    let left = findings(&cluster).await;
    assert!(left.contains(&Finding::LeftOnHost(other.name.clone(), moved)));
    assert!(left.contains(&Finding::UnknownGuest(other.name.clone(), unknown.id)));
    assert_eq!(cluster.reconcile().await, 1);
    cluster.paid().await;
    // Nobody knows whose the last one is.
    assert_eq!(
        other.guests().await,
        [(unknown.id, PowerState::Running)],
        "it is not touched"
    );
    assert_eq!(
        findings(&cluster).await,
        [Finding::UnknownGuest(other.name.clone(), unknown.id)]
    );
    other.sim.ensure_absent(unknown.id).await.unwrap();
    cluster.start_host(other);
    cluster
        .until("it is forgotten", async || {
            findings(&cluster).await.is_empty()
        })
        .await;
    clean(&cluster).await;
}

#[tokio::test]
async fn files_without_a_guest_are_found_and_those_of_servers_that_move_stay() {
    let cluster = Cluster::new(Options::default()).await;
    let (gone, moved) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    let its = cluster.server(moved).await.host.unwrap();
    let from = cluster.host(&its);
    let name = cluster.server(gone).await.host.unwrap();
    let on = cluster.host(&name);
    let of_gone = spec_of(&cluster, gone).await;
    cluster.delete(gone).await;
    cluster
        .resize(moved, false, serde_json::json!({ "same_host": "never" }))
        .await;
    cluster.idle().await;
    assert_eq!(cluster.server(moved).await.vm_state, VmState::Resized);
    // A deletion and a move that were cut short left files.
    on.stop();
    on.sim.ensure_guest(&of_gone, Power::Off).await.unwrap();
    on.sim.put_aside(gone, 0).await.unwrap();
    let unknown = ServerId::random();
    from.sim.inbox(unknown).await.unwrap();
    long_ago(&cluster, gone).await;
    long_ago(&cluster, moved).await;
    for host in &cluster.hosts {
        cluster.start_host(host);
    }
    cluster
        .until("files of the deleted server are gone", async || {
            !on.sim.asides().contains(&gone)
        })
        .await;
    cluster.paid().await;
    cluster
        .until("the others are noted", async || {
            findings(&cluster).await == [Finding::UnknownGuest(its.clone(), unknown)]
        })
        .await;
    assert_eq!(cluster.reconcile().await, 0);
    let mut left = vec![moved, unknown];
    left.sort();
    assert_eq!(
        from.sim.asides(),
        left,
        "the guest that may come back, and what nobody knows"
    );
    from.sim.ensure_absent(unknown).await.unwrap();
    cluster.start_host(from);
    cluster
        .act(moved, "revert_resize", serde_json::json!({}))
        .await;
    cluster.idle().await;
    let back = cluster.server(moved).await;
    assert_eq!((back.vm_state, back.host), (VmState::Active, Some(its)));
    cluster
        .until("nothing is noted", async || {
            findings(&cluster).await.is_empty()
        })
        .await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_note_of_files_that_a_server_needs_since_then_is_no_finding() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let from = cluster.server(server).await.host.unwrap();
    cluster
        .resize(server, false, serde_json::json!({ "same_host": "never" }))
        .await;
    cluster.idle().await;
    // Noted before it came there.
    let sql = "INSERT INTO host_leftovers (host, instance_uuid, power_state, seen_at) VALUES (?, ?, 0, 1)";
    execute(&cluster, sql, vec![(&from).into(), server.into()]).await;
    assert_eq!(findings(&cluster).await, []);
    cluster
        .act(server, "confirm_resize", serde_json::json!({}))
        .await;
    cluster.idle().await;
    assert_eq!(
        findings(&cluster).await,
        [Finding::LeftOnHost(from, server)]
    );
}

#[tokio::test]
async fn claims_ports_and_volumes_that_are_left_are_given_back() {
    let cluster = Cluster::new(Options::default()).await;
    let (gone, server) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    let port = cluster.port_of(server).0;
    cluster.delete(gone).await;
    cluster.idle().await;
    // A claim on the host where the server is not.
    let its = cluster.server(server).await.node_id.unwrap();
    let sql = "INSERT INTO allocations (consumer, provider, resource_class, amount) \
               SELECT ?, uuid, 'VCPU', 1 FROM compute_nodes WHERE uuid <> ?";
    execute(&cluster, sql, vec![server.into(), its.into()]).await;
    let sql =
        "UPDATE inventories SET used = used + 1 WHERE resource_class = 'VCPU' AND provider <> ?";
    execute(&cluster, sql, vec![its.into()]).await;
    // A port and a volume of the deleted server.
    let with = cluster.neighbours();
    let new = NewPort {
        network_id: testkit::NETWORK,
        fixed_ip: None,
        project_id: testkit::PROJECT,
        server: gone,
        device_owner: "compute:nova",
        host: "host-1",
        security_groups: &[],
        hostname: "",
    };
    with.networks.create_port("t", &new).await.unwrap().unwrap();
    let scope = Scope::new("t", testkit::PROJECT);
    let volume = cluster.volumes.make();
    let reserved = with.volumes.reserve(&scope, &volume, gone).await.unwrap();
    reserved.unwrap();
    // What a run that died between connecting a volume once more and saying so leaves.
    let its = with.volumes.attachments_of(&scope, server).await.unwrap();
    let connector = serde_json::json!({ "host": cluster.server(server).await.host });
    let again = with.volumes.connect(&scope, &its[0].id, &connector).await;
    again.unwrap().unwrap();
    let mut told: Vec<String> = cluster
        .findings()
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    told.sort();
    let words = [
        "port ",
        "server ",
        &format!("volume {volume} of project {} is left", testkit::PROJECT),
    ];
    let unsaid = format!("volume {} of project", its[0].volume_id);
    assert_eq!(told.len(), 4, "{told:?}");
    for word in words {
        assert!(
            told.iter().any(|one| one.starts_with(word)),
            "{word}: {told:?}"
        );
    }
    let shown = "the volume service shows it as attaching";
    assert!(
        told.iter()
            .any(|one| one.starts_with(&unsaid) && one.ends_with(shown))
    );
    assert_eq!(cluster.reconcile().await, 4);
    assert!(cluster.network.ports().iter().any(|(one, _)| *one == port));
    let left: Vec<String> = cluster
        .network
        .ports()
        .into_iter()
        .map(|one| one.1)
        .collect();
    assert!(!left.contains(&gone.to_string()));
    clean(&cluster).await;
    assert_eq!(cluster.reconcile().await, 0);
}

#[tokio::test]
async fn a_volume_service_that_is_away_is_named_and_the_server_is_as_before() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(std::time::Duration::from_millis(300));
        })
        .await;
    let state = cluster.first_state("attach_volume", server);
    cluster.volumes.set_down(true);
    cluster.act(server, "attach_volume", state).await;
    cluster
        .until("it is taken back", async || {
            let open: Result<Vec<_>, Error> = cluster.store.read(db::tasks::open).await;
            open.unwrap().iter().any(|task| task.failure.is_some())
        })
        .await;
    cluster.volumes.set_down(false);
    cluster.idle().await;
    let shown = cluster.server(server).await;
    assert_eq!(shown.vm_state, VmState::Active);
    let message = shown.fault.unwrap().message;
    assert!(message.contains("the volume service"), "{message}");
    assert!(cluster.last_action_failed(server).await);
    clean(&cluster).await;
}

/// A server whose image has these properties.
async fn server_with(cluster: &Cluster, properties: &[(&str, &str)]) -> ServerId {
    let properties: std::collections::BTreeMap<_, _> = properties.iter().copied().collect();
    let image = serde_json::json!({ "id": ServerId::random(), "name": "i", "disk_format": "raw",
        "container_format": "bare", "size": 1, "min_disk": 0, "min_ram": 0, "sha512": null, "properties": properties });
    let image = serde_json::from_value(image).unwrap();
    let server = cluster
        .create_with(|server| server.image = Some(image))
        .await;
    cluster.idle().await;
    server
}

#[tokio::test]
async fn an_agent_that_is_silent_or_absent_costs_a_snapshot_only_where_it_must_not() {
    type Case = (
        &'static [(&'static str, &'static str)],
        bool,
        Option<&'static str>,
    );
    const AGENT: (&str, &str) = ("hw_qemu_guest_agent", "yes");
    const MUST: (&str, &str) = ("os_require_quiesce", "yes");
    let silent = || virt::HypervisorError::AgentSilent("no answer".to_owned());
    let no_agent = "QEMU guest agent is not enabled";
    let gone = "the guest's agent does not answer: no answer";
    let table: [Case; 6] = [
        (&[], true, None),
        (&[AGENT], false, None),
        (&[AGENT], true, None),
        (&[AGENT, MUST], false, None),
        (&[AGENT, MUST], true, Some(gone)),
        (&[MUST], false, Some(no_agent)),
    ];
    let flows = ["snapshot", "snapshot_volumes"];
    let all = flows
        .iter()
        .flat_map(|flow| table.map(|case| (*flow, case)));
    for (flow, (properties, fails, wanted)) in all {
        let cluster = Cluster::new(Options::default()).await;
        let server = server_with(&cluster, properties).await;
        if fails {
            for host in &cluster.hosts {
                let controls = host.sim.controls();
                controls.fail_next(virt::sim::Verb::Freeze, silent(), 1);
            }
        }
        let state = cluster.first_state(flow, server);
        cluster.act(server, flow, state).await;
        cluster.idle().await;
        let fault = cluster.server(server).await.fault;
        let message = fault.map(|fault| fault.message);
        assert_eq!(message.as_deref(), wanted, "{flow} {properties:?}");
        let images = cluster.images.all().len();
        assert_eq!(images, usize::from(wanted.is_none()), "{properties:?}");
        clean(&cluster).await;
    }
}

/// Whoever made them died before the work on them was taken in, or that work was abandoned.
#[tokio::test]
async fn images_that_nobody_fills_are_found_and_removed() {
    let cluster = Cluster::new(Options::default()).await;
    let (server, gone) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    cluster.delete(gone).await;
    cluster.idle().await;
    let image = |of: ServerId, more: serde_json::Value| {
        let mut image = serde_json::json!({
            "instance_uuid": of, "image_type": "snapshot", "user_id": "u", "owner_user_name": "n",
        });
        for (name, value) in more.as_object().unwrap() {
            image[name] = value.clone();
        }
        cluster.images.make(&image)
    };
    let none = || serde_json::json!({});
    let left = [
        (image(server, none()), "queued"),
        (
            image(gone, serde_json::json!({ "image_type": "backup" })),
            "queued",
        ),
        (image(server, none()), "saving"),
    ];
    let kept = [
        // It has its data.
        (image(server, none()), "active"),
        // Another cloud's, beside the same image service.
        (image(ServerId::random(), none()), "queued"),
        // Not as compute makes them.
        (
            image(server, serde_json::json!({ "image_type": "mine" })),
            "queued",
        ),
        (
            image(server, serde_json::json!({ "owner_user_name": null })),
            "queued",
        ),
    ];
    for (id, status) in left.iter().chain(&kept) {
        cluster.images.long_ago(id, status);
    }
    let now = Timestamp::now().iso_seconds_z();
    let fresh = [
        image(server, serde_json::json!({ "updated_at": now })),
        image(server, none()),
    ];
    let found = async || {
        let found = cluster.findings().await.into_iter();
        let mut images: Vec<String> = found
            .filter_map(|finding| match finding {
                kilonova_conductor::reconcile::Finding::Image(one) => Some(one.image.to_string()),
                _ => None,
            })
            .collect();
        images.sort();
        images
    };
    let mut wanted: Vec<String> = left.iter().map(|(id, _)| id.clone()).collect();
    wanted.sort();
    assert_eq!(found().await, wanted);
    // Work on the server may be work on its image.
    for host in &cluster.hosts {
        host.stop();
    }
    cluster.stop(server).await;
    assert_eq!(found().await, [left[1].0.clone()]);
    for host in &cluster.hosts {
        cluster.start_host(host);
    }
    cluster.idle().await;
    // Only whoever asks for it deletes images: what compute writes on its own others may copy.
    assert_eq!(cluster.reconcile().await, 0);
    assert_eq!(cluster.mend().await, 3);
    assert_eq!(found().await, Vec::<String>::new());
    let mut there: Vec<String> = cluster.images.all().into_iter().map(|one| one.0).collect();
    let mut wanted: Vec<String> = kept.iter().map(|(id, _)| id.clone()).collect();
    wanted.extend(fresh);
    there.sort();
    wanted.sort();
    assert_eq!(there, wanted);

    // What cannot be removed keeps nothing else from being mended.
    let protected = image(server, serde_json::json!({ "protected": true }));
    let other = image(server, none());
    cluster.images.long_ago(&protected, "queued");
    cluster.images.long_ago(&other, "queued");
    assert_eq!(cluster.mend().await, 1);
    assert_eq!(found().await, [protected]);
}

/// The ports that a server shows, and those that its guest has.
async fn shown_and_plugged(cluster: &Cluster, server: ServerId) -> (Vec<String>, Vec<String>) {
    let shown = cluster.server(server).await.network_info;
    let plugged = spec_of(cluster, server).await.vifs;
    (
        shown.into_iter().map(|one| one.port_id).collect(),
        plugged.into_iter().map(|one| one.port_id).collect(),
    )
}

async fn renew(cluster: &Cluster, addresses: &mut Addresses) -> usize {
    let renewed = cluster.renew(addresses).await;
    let renewed = renewed.unwrap();
    cluster.idle().await;
    renewed
}

#[tokio::test]
async fn a_port_that_is_deleted_or_given_away_goes_from_its_server_and_its_guest() {
    let cluster = Cluster::new(Options::default()).await;
    let mut addresses = Addresses::default();
    for given_away in [false, true] {
        let (server, other) = (cluster.create().await, cluster.create().await);
        cluster.idle().await;
        let (port, kept) = (cluster.port_of(server).0, cluster.port_of(other).0);
        assert_eq!(renew(&cluster, &mut addresses).await, 0);
        assert!(!addresses.waits());
        match given_away {
            true => cluster.network.set(&port, "device_id", "".into()),
            false => cluster.network.delete(&port),
        }
        assert_eq!(renew(&cluster, &mut addresses).await, 1);
        assert_eq!(shown_and_plugged(&cluster, server).await, (vec![], vec![]));
        let its = (vec![kept.clone()], vec![kept]);
        assert_eq!(shown_and_plugged(&cluster, other).await, its);
        let there = cluster.network.ports();
        let there = there.iter().any(|(one, _)| *one == port);
        assert_eq!(there, given_away, "who took it keeps it");
        let actions: Result<Vec<_>, Error> = cluster
            .store
            .read(move |tx| db::actions::of_server(tx, server))
            .await;
        assert_eq!(actions.unwrap().len(), 1, "nobody asked for it");
        assert_eq!(renew(&cluster, &mut addresses).await, 0);
        clean(&cluster).await;
        cluster.delete(server).await;
        cluster.delete(other).await;
        cluster.idle().await;
    }
}

#[tokio::test]
async fn a_server_shows_the_addresses_that_its_port_has() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let port = cluster.port_of(server).0;
    let mut addresses = Addresses::default();
    assert_eq!(renew(&cluster, &mut addresses).await, 0);
    let fixed = |all: &[&str]| {
        let all = all
            .iter()
            .map(|ip| serde_json::json!({ "subnet_id": "subnet", "ip_address": ip }));
        all.collect::<serde_json::Value>()
    };
    for by_audit in [false, true] {
        let new = if by_audit {
            ["10.0.9.1", "10.0.9.2"]
        } else {
            ["10.0.8.1", "10.0.8.2"]
        };
        cluster.network.set(&port, "fixed_ips", fixed(&new));
        let found = cluster.findings().await;
        let words = format!("server {server} shows other addresses than its port {port} has");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), words);
        let mended = match by_audit {
            true => cluster.reconcile().await,
            false => renew(&cluster, &mut addresses).await,
        };
        assert_eq!(mended, 1);
        let shown = cluster.server(server).await.network_info;
        let shown: Vec<&str> = shown[0].addresses.iter().map(|one| &one.ip[..]).collect();
        assert_eq!(shown, new);
        clean(&cluster).await;
    }
    // In another order they are the same.
    let swapped = fixed(&["10.0.9.2", "10.0.9.1"]);
    cluster.network.set(&port, "fixed_ips", swapped);
    assert_eq!(cluster.findings().await, []);
}

#[tokio::test]
async fn a_lost_port_is_found_by_audits_and_waits_for_the_server_and_its_host() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let port = cluster.port_of(server).0;
    let has = (vec![port.clone()], vec![port.clone()]);
    // A network service that knows nothing has not lost anything.
    let mut addresses = Addresses::default();
    for lost in [true, false] {
        match lost {
            true => cluster.network.set_lost(true),
            false => cluster.network.set_down(true),
        }
        let audit = kilonova_conductor::reconcile::audit(cluster.neighbours()).await;
        let audit = audit.unwrap();
        assert_eq!((audit.found, audit.silent.len()), (vec![], 1));
        let renewed = cluster.renew(&mut addresses).await;
        assert!(renewed.is_err());
        cluster.network.set_lost(false);
        cluster.network.set_down(false);
    }
    cluster.network.delete(&port);
    let host = cluster.lose_host(server).await;
    assert_eq!(renew(&cluster, &mut addresses).await, 0);
    assert!(addresses.waits(), "the guest cannot be changed now");
    assert_eq!(cluster.reconcile().await, 0);
    let words = format!("server {server} shows port {port}, which is gone or not its own any more");
    let found = cluster.findings().await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), words);
    cluster.revive().await;
    // A guest that does not let it go is asked again, and its server goes on meanwhile.
    let refused = virt::HypervisorError::Rejected("not now".to_owned());
    let controls = host.sim.controls();
    controls.fail_next(virt::sim::Verb::Detach, refused, 1);
    assert_eq!(cluster.reconcile().await, 1);
    cluster.idle().await;
    assert_eq!(shown_and_plugged(&cluster, server).await, has);
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert_eq!(cluster.reconcile().await, 1);
    cluster.idle().await;
    assert_eq!(shown_and_plugged(&cluster, server).await, (vec![], vec![]));
    clean(&cluster).await;
}

/// A server without a host has no guest; one that somebody works on is left alone.
#[tokio::test]
async fn a_lost_port_of_a_server_without_a_host_is_forgotten() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("shelve", server);
    cluster.act(server, "shelve", state).await;
    cluster.idle().await;
    let shelved = cluster.server(server).await;
    assert_eq!(shelved.vm_state, VmState::ShelvedOffloaded);
    cluster.network.delete(&cluster.port_of(server).0);
    let busy = "UPDATE instances SET task_state = 'unshelving' WHERE uuid = ?";
    execute(&cluster, busy, vec![server.into()]).await;
    let mut addresses = Addresses::default();
    assert_eq!(renew(&cluster, &mut addresses).await, 0);
    assert!(addresses.waits());
    let idle = "UPDATE instances SET task_state = NULL WHERE uuid = ?";
    execute(&cluster, idle, vec![server.into()]).await;
    assert_eq!(renew(&cluster, &mut addresses).await, 1);
    assert_eq!(cluster.server(server).await.network_info, []);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_detached_port_that_is_another_servers_by_then_stays() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let state = cluster.first_state("detach_interface", server);
    let port = cluster.port_of(server).0;
    cluster.network.set(&port, "device_id", "a router".into());
    cluster.act(server, "detach_interface", state).await;
    cluster.idle().await;
    assert_eq!(shown_and_plugged(&cluster, server).await, (vec![], vec![]));
    assert_eq!(cluster.network.ports(), [(port, "a router".to_owned())]);
}

/// Its hypervisor is away, and the agent lives: what it owes waits for no poll once that is over.
#[tokio::test]
async fn a_debt_is_paid_as_soon_as_the_hypervisor_is_back() {
    let cluster = Cluster::new(Options {
        beat: Duration::from_millis(20),
        hosts: 1,
        ..Options::default()
    })
    .await;
    let host = &cluster.hosts[0];
    let server = cluster.create().await;
    cluster.idle().await;
    host.sim.controls().set_down(true);
    let problem = async || -> bool {
        let services: Result<Vec<db::hosts::Service>, Error> =
            cluster.store.read(db::hosts::services).await;
        services.unwrap().iter().any(|one| one.problem.is_some())
    };
    cluster.until("it says what is wrong", problem).await;
    let name = host.name.clone();
    let owing = cluster
        .store
        .write(move |tx| db::work::owe(tx, &name, server, "a test", Timestamp::now()));
    let owed: Result<(), Error> = owing.await;
    owed.unwrap();
    let name = host.name.clone();
    let due = async || -> i64 {
        let name = name.clone();
        let sql = "SELECT created_at FROM host_debts WHERE host = ?";
        let reading = cluster.store.read(move |tx| -> Result<i64, Error> {
            let row = tx.query_opt(sql, &[(&name).into()])?;
            row.map_or(Ok(0), |row| row.get(0))
        });
        reading.await.unwrap()
    };
    let first = due().await;
    cluster.ring(host);
    cluster
        .until("it has tried in vain", async || due().await != first)
        .await;
    assert_ne!(due().await, 0, "nothing of it can be gone");
    let back = std::time::Instant::now();
    host.sim.controls().set_down(false);
    cluster.paid().await;
    // A poll is 20 s.
    assert!(back.elapsed() < Duration::from_secs(10), "{back:?}");
    assert_eq!(host.guests().await, []);
}

/// An address that is in no subnet of its network: the owner's mistake, and told as one.
#[tokio::test]
async fn an_address_outside_of_the_network_is_refused() {
    let cluster = Cluster::new(Options::default()).await;
    let wanted = WantedInterface::Network {
        network_id: testkit::NETWORK.to_owned(),
        fixed_ip: Some("192.0.2.9".to_owned()),
        tag: None,
    };
    let words = format!(
        "Invalid input received: Fixed IP 192.0.2.9 is not a valid ip address for network {}.",
        testkit::NETWORK
    );
    let server = cluster.create().await;
    cluster.idle().await;
    let state = serde_json::json!({ "wanted": wanted.clone() });
    cluster.act(server, "attach_interface", state).await;
    cluster.idle().await;
    let stays = cluster.server(server).await;
    let fault = stays.fault.unwrap();
    assert_eq!((fault.code, &fault.message), (400, &words));
    assert_eq!(
        (stays.vm_state, stays.network_info.len()),
        (VmState::Active, 1)
    );
    let server = cluster
        .create_with(|new| new.networks = WantedNetworks::These(vec![wanted]))
        .await;
    cluster.idle().await;
    let failed = cluster.server(server).await;
    let fault = failed.fault.unwrap();
    let words = format!("Build of instance {server} aborted: {words}");
    assert_eq!(failed.vm_state, VmState::Error);
    assert_eq!((fault.code, fault.message), (500, words));
    clean(&cluster).await;
}
