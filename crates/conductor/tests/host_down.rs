#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Hosts that die while a flow waits for them: it does not wait for long, and their servers can be evacuated at once.

#[path = "stories/mod.rs"]
mod stories;

use db::tasks::Phase;
use journal::faults::{Fault, Point, Script, When};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use stories::{STORIES, Story, begin, prepare};
use testkit::{Cluster, Host, Options};
use types::agent::Direction;
use types::{PowerState, ServerId, Timestamp, VmState};
use virt::sim::{Moment, Verb};
use virt::{Hypervisor, HypervisorError};

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// Flows stand still when they have done this step.
fn stand_behind(cluster: &Cluster, flow: &'static str, step: &'static str) -> Arc<Script> {
    let at = Point {
        flow,
        step,
        direction: Direction::Do,
        when: When::After,
    };
    let script = Arc::new(Script::new([(at, Fault::Hold)]));
    cluster.set_faults(Arc::clone(&script) as _);
    script
}

/// A machine that was installed anew has a new identity: who reads its log learns what to do.
#[tokio::test]
async fn another_machine_does_not_take_a_hosts_name() {
    for kind in &testkit::kinds() {
        let cluster = Cluster::on(kind, Options::default()).await;
        let host = &cluster.hosts[0];
        let facts = host.sim.host().await.unwrap();
        // Each of these has an identity of its own.
        let mut beat = cluster.event(&host.name, &[], Timestamp::now());
        beat.facts = Some(facts.report("192.0.2.1"));
        let answer = cluster.heard_of(&beat).await;
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, http::StatusCode::CONFLICT, "{told}");
        assert!(told.contains("node-id") && told.contains(host.name.as_str()));
    }
}

#[tokio::test]
async fn another_host_builds_what_a_dead_one_was_to_build() {
    let each = |kind| [true, false].map(|forced| (kind, forced));
    let kinds = testkit::kinds();
    for (kind, forced) in kinds.iter().flat_map(each) {
        let cluster = Cluster::on(kind, Options::default()).await;
        if !forced {
            cluster
                .change_settings(|settings| settings.host_lost_after = Duration::from_millis(100))
                .await;
        }
        let script = stand_behind(&cluster, "build", "plug");
        let server = cluster.create().await;
        script.all_struck().await;
        let name = cluster.server(server).await.host.expect("it is claimed");
        let host = cluster.host(&name);
        host.stop();
        if forced {
            cluster.set_forced_down(host, true).await;
        }
        script.release();
        cluster.idle().await;
        let built = cluster.server(server).await;
        assert_eq!((built.vm_state, built.fault), (VmState::Active, None));
        assert_ne!(built.host, Some(name.clone()));
        // What was given to it before it died is taken back before it takes new work.
        assert_eq!(cluster.debts().await, [(name.clone(), server)]);
        cluster.set_forced_down(host, false).await;
        cluster.start_host(host);
        cluster.paid().await;
        assert_eq!(host.guests().await, []);
        clean(&cluster).await;
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_in_time_goes_on() {
    let cluster = Cluster::new(Options::default()).await;
    cluster
        .change_settings(|settings| settings.host_lost_after = Duration::from_secs(30))
        .await;
    let script = stand_behind(&cluster, "build", "plug");
    let server = cluster.create().await;
    script.all_struck().await;
    let name = cluster.server(server).await.host.expect("it is claimed");
    let host = cluster.host(&name);
    host.stop();
    script.release();
    let waits = cluster.until("it waits for its host", async || {
        cluster.tasks_at(Some("spawn")).await == 1
    });
    waits.await;
    // Longer than it takes until the host is looked at.
    let looked = tokio::time::sleep(Duration::from_secs(5));
    looked.await;
    cluster.start_host(host);
    cluster.idle().await;
    let built = cluster.server(server).await;
    assert_eq!((built.vm_state, built.host), (VmState::Active, Some(name)));
    clean(&cluster).await;
}

#[tokio::test]
async fn who_waits_for_a_dead_host_is_told() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let script = stand_behind(&cluster, "stop", "locate");
    cluster.stop(server).await;
    script.all_struck().await;
    let name = cluster.lose_host(server).await.name.clone();
    script.release();
    cluster.idle().await;
    let stays = cluster.server(server).await;
    assert_eq!((stays.vm_state, stays.task_state), (VmState::Active, None));
    let fault = stays.fault.unwrap();
    assert_eq!(fault.message, "The host is down.");
    let details = fault.details.unwrap();
    assert!(details.contains(name.as_str()), "{details}");
    cluster.revive().await;
    clean(&cluster).await;
}

/// Flows that an evacuation ends, each with the step in which it waits for the server's host.
const WAITING: &[(&str, &str)] = &[
    ("snapshot", "upload"),
    ("backup", "upload"),
    ("snapshot_volumes", "still"),
    ("shelve", "stop"),
    ("shelve", "upload"),
    ("resize", "put_aside"),
    ("live_migration", "move"),
    ("attach_interface", "attach"),
    ("detach_interface", "detach"),
    ("change_password", "act"),
    ("attach_volume", "attach"),
    ("detach_volume", "detach"),
    ("extend_volume", "act"),
    ("swap_volume", "swap"),
];
/// Those whose undo waits for the host, however long that takes.
const UNDONE: &[(&str, &str)] = &[
    ("resize", "put_aside"),
    ("live_migration", "move"),
    ("attach_volume", "attach"),
    ("swap_volume", "swap"),
];
/// A resize whose guest is on its way to the other host.
const LANDING: &[(&str, &str)] = &[("resize", "networks"), ("resize", "land")];

async fn evacuated_over(story: Story, step: &'static str, undone: bool) {
    let told = format!("{} at {step}, undone: {undone}", story.flow);
    let cluster = Cluster::new(Options {
        hosts: 3,
        ..Options::default()
    })
    .await;
    let server = prepare(&cluster, story).await.unwrap();
    let before = cluster.server(server).await;
    let flows = cluster.flows();
    let (_, steps) = flows.iter().find(|(name, _)| *name == story.flow).unwrap();
    let at = steps.iter().position(|one| *one == step).unwrap();
    let script = stand_behind(&cluster, story.flow, steps[at - 1]);
    begin(&cluster, story, Some(server)).await;
    script.all_struck().await;
    let gone = cluster.lose_host(server).await.name.clone();
    if undone {
        let fails = Point {
            flow: story.flow,
            step,
            direction: Direction::Do,
            when: When::Before,
        };
        let failing = Script::new([(fails, Fault::Fail)]);
        cluster.set_faults(Arc::new(failing) as _);
        script.release();
        cluster
            .until("its undo waits", async || {
                is_undone_at(&cluster, server, step).await
            })
            .await;
    }
    let state = cluster.first_state("evacuate", server);
    cluster.act(server, "evacuate", state).await;
    script.release();
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, &after.fault),
        (before.vm_state, &None),
        "{told}"
    );
    assert_ne!(after.host, Some(gone), "{told}");
    assert_eq!(after.flavor, before.flavor, "{told}");
    assert_eq!(
        cluster.audit_without_guests().await,
        Vec::<String>::new(),
        "{told}"
    );
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new(), "{told}");
}

async fn is_undone_at(cluster: &Cluster, server: ServerId, step: &str) -> bool {
    let open: Result<Vec<_>, sql::Error> = cluster.store.read(db::tasks::open).await;
    open.unwrap().iter().any(|task| {
        task.server == server && task.phase == Phase::Undoing && task.step.as_deref() == Some(step)
    })
}

fn story(flow: &str) -> Story {
    let mut its = STORIES
        .iter()
        .filter(|story| story.flow == flow && !story.hard);
    *its.next().unwrap()
}

#[tokio::test]
async fn a_server_is_evacuated_over_whatever_its_dead_host_was_doing() {
    let all = WAITING.iter().chain(LANDING);
    let all = all.map(|(flow, step)| evacuated_over(story(flow), step, false));
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_server_is_evacuated_over_an_undo_that_waits_for_its_dead_host() {
    let all = UNDONE.iter();
    let all = all.map(|(flow, step)| evacuated_over(story(flow), step, true));
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_resize_whose_new_host_dies_goes_on_elsewhere_or_is_undone() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let script = stand_behind(&cluster, "resize", "plug");
    cluster
        .resize(server, false, json!({ "same_host": "never" }))
        .await;
    script.all_struck().await;
    let mut hosts = cluster.hosts.iter();
    let new = hosts.find(|host| Some(&host.name) != before.host.as_ref());
    let new = new.unwrap();
    new.stop();
    cluster.set_forced_down(new, true).await;
    script.release();
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, &after.host),
        (VmState::Active, &before.host)
    );
    assert_eq!(after.fault.unwrap().message, "The host is down.");
    assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
    cluster.revive().await;
    cluster.paid().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn a_guest_whose_new_host_dies_at_its_arrival_goes_on_where_it_was() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let script = stand_behind(&cluster, "live_migration", "move");
    let state = cluster.first_state("live_migration", server);
    cluster.act(server, "live_migration", state).await;
    script.all_struck().await;
    let mut hosts = cluster.hosts.iter();
    let new = hosts.find(|host| Some(&host.name) != before.host.as_ref());
    let new = new.unwrap();
    new.stop();
    cluster.set_forced_down(new, true).await;
    script.release();
    cluster.idle().await;
    let after = cluster.server(server).await;
    let shown = (after.vm_state, after.power_state, &after.host);
    assert_eq!(shown, (VmState::Active, PowerState::Running, &before.host));
    assert_eq!(after.fault.unwrap().message, "The host is down.");
    assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(new.guests().await, []);
    clean(&cluster).await;
}

/// Nobody can take the server: what the resize has put aside on the host that is down is all that there is of it.
#[tokio::test]
async fn what_a_resize_has_put_aside_outlives_an_evacuation_that_fails() {
    let cluster = Cluster::new(Options {
        hosts: 2,
        ..Options::default()
    })
    .await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let script = stand_behind(&cluster, "resize", "put_aside");
    cluster
        .resize(server, false, json!({ "same_host": "never" }))
        .await;
    script.all_struck().await;
    for host in &cluster.hosts {
        host.stop();
        cluster.set_forced_down(host, true).await;
    }
    let state = cluster.first_state("evacuate", server);
    cluster.act(server, "evacuate", state).await;
    script.release();
    cluster.idle().await;
    let failed = cluster.server(server).await;
    assert_eq!(
        (failed.vm_state, &failed.host),
        (VmState::Error, &before.host)
    );
    assert_eq!(failed.flavor, before.flavor);
    cluster.revive().await;
    cluster.paid().await;
    assert!(cluster.mend().await > 0);
    cluster.idle().await;
    cluster.paid().await;
    let back = cluster.server(server).await;
    let shown = (back.vm_state, back.power_state, &back.host);
    assert_eq!(
        shown,
        (VmState::Active, PowerState::Running, &before.host),
        "{:?}",
        back.fault
    );
    assert_eq!(back.kept.unsettled, None);
    clean(&cluster).await;
}

/// What was on the way there when it died may be all that there is, should the host be back before the end.
#[tokio::test]
async fn a_host_that_is_forced_down_at_an_arrival_owes_at_once() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let arriving = stand_behind(&cluster, "live_migration", "move");
    let state = cluster.first_state("live_migration", server);
    cluster.act(server, "live_migration", state).await;
    arriving.all_struck().await;
    let mut hosts = cluster.hosts.iter();
    let new = hosts.find(|host| Some(&host.name) != before.host.as_ref());
    let new = new.unwrap();
    new.stop();
    cluster.set_forced_down(new, true).await;
    let back = Point {
        flow: "live_migration",
        step: "move",
        direction: Direction::Undo,
        when: When::Before,
    };
    let going_back = Arc::new(Script::new([(back, Fault::Hold)]));
    cluster.set_faults(Arc::clone(&going_back) as _);
    arriving.release();
    going_back.all_struck().await;
    assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
    going_back.release();
    cluster.idle().await;
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(new.guests().await, []);
    clean(&cluster).await;
}

async fn waits(cluster: &Cluster, server: ServerId) -> bool {
    let open: Result<Vec<_>, sql::Error> = cluster.store.read(db::tasks::open).await;
    let open = open.unwrap();
    let mut its = open.iter().filter(|task| task.server == server);
    its.any(|task| task.waits.is_some())
}

/// The host may run the guest: on its volumes there would be two.
#[tokio::test]
async fn a_resize_is_not_taken_back_while_its_new_host_is_only_silent() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(Duration::from_secs(2));
            settings.undo_deadline = Duration::from_secs(2);
            settings.host_lost_after = Duration::from_millis(100);
        })
        .await;
    let before = cluster.server(server).await;
    let script = stand_behind(&cluster, "resize", "plug");
    let state = json!({ "same_host": "never" });
    cluster.resize(server, false, state).await;
    script.all_struck().await;
    let mut hosts = cluster.hosts.iter();
    let new = hosts.find(|host| Some(&host.name) != before.host.as_ref());
    let new = new.unwrap();
    new.stop();
    script.release();
    cluster
        .until("it waits for longer than a step may", async || {
            waits(&cluster, server).await
        })
        .await;
    assert_eq!(cluster.tasks_at(Some("land")).await, 1);
    assert!(!is_undone_at(&cluster, server, "land").await);
    cluster.start_host(new);
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, &after.host),
        (VmState::Resized, &Some(new.name.clone()))
    );
    clean(&cluster).await;
}

/// There is no way back from where it stands, and the host may run the guest on the files that the third one would use.
#[tokio::test]
async fn an_evacuation_whose_new_host_dies_at_its_end_is_taken_over() {
    let cluster = Cluster::new(Options {
        hosts: 3,
        shared: true,
        ..Options::default()
    })
    .await;
    let server = cluster.create().await;
    cluster.idle().await;
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(Duration::from_secs(5));
            settings.undo_deadline = Duration::from_secs(2);
        })
        .await;
    let first = cluster.lose_host(server).await.name.clone();
    let script = stand_behind(&cluster, "evacuate", "spawn");
    let evacuate = || cluster.first_state("evacuate", server);
    cluster.act(server, "evacuate", evacuate()).await;
    script.all_struck().await;
    let mut hosts = cluster.hosts.iter().filter(|host| host.runs());
    let (one, other) = (hosts.next().unwrap(), hosts.next().unwrap());
    let there = !one.guests().await.is_empty();
    let (second, third) = if there { (one, other) } else { (other, one) };
    second.stop();
    script.release();
    let again = cluster.try_act(server, "evacuate", evacuate(), |_| true);
    assert_eq!(again.await, db::accept::Accepted::Busy, "it may go on");
    cluster
        .until("it waits", async || waits(&cluster, server).await)
        .await;
    cluster.act(server, "evacuate", evacuate()).await;
    cluster.idle().await;
    let failed = cluster.server(server).await;
    assert_eq!(
        (failed.vm_state, &failed.host),
        (VmState::Error, &Some(first))
    );
    cluster
        .change_settings(|settings| settings.longest_step = None)
        .await;
    cluster.set_forced_down(second, true).await;
    cluster.act(server, "evacuate", evacuate()).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!(
        (after.vm_state, &after.host),
        (VmState::Active, &Some(third.name.clone())),
        "{:?}",
        after.fault
    );
    assert_eq!(after.kept.unfinished, []);
    cluster.revive().await;
    cluster.paid().await;
    clean(&cluster).await;
}

fn other_than<'a>(cluster: &'a Cluster, name: &types::HostName) -> &'a Host {
    let mut others = cluster.hosts.iter().filter(|host| host.name != *name);
    others.next().unwrap()
}

/// The old host has not heard how the move ended, and the new one runs the guest: both would write to one disk.
#[tokio::test]
async fn a_guest_that_may_run_on_its_new_host_is_not_started_on_the_old_one() {
    for forced in [false, true] {
        let cluster = Cluster::new(Options {
            shared: true,
            ..Options::default()
        })
        .await;
        cluster
            .change_settings(|settings| settings.undo_deadline = Duration::from_millis(500))
            .await;
        let server = cluster.create().await;
        cluster.idle().await;
        let before = cluster.server(server).await;
        let old = cluster.host(before.host.as_ref().unwrap());
        let new = other_than(&cluster, &old.name);
        // As libvirt, when it loses the other one as the guest has gone over.
        let lost = |verb: Verb, moment: Moment, _: ServerId| {
            let here = (verb, moment) == (Verb::MigrateLive, Moment::After);
            here.then(|| HypervisorError::Rejected("End of file while reading data".to_owned()))
        };
        old.sim.controls().set_hook(Some(Arc::new(lost)));
        let flows = cluster.flows();
        let (_, steps) = flows
            .iter()
            .find(|(name, _)| *name == "live_migration")
            .unwrap();
        let at = steps.iter().position(|step| *step == "move").unwrap();
        let script = stand_behind(&cluster, "live_migration", steps[at - 1]);
        let state = cluster.first_state("live_migration", server);
        cluster.act(server, "live_migration", state).await;
        script.all_struck().await;
        new.stop();
        new.sim.start(server).await.unwrap();
        script.release();
        cluster
            .until("it waits", async || waits(&cluster, server).await)
            .await;
        assert_eq!(old.guests().await, [(server, PowerState::Shutdown)]);
        assert_eq!(new.guests().await, [(server, PowerState::Running)]);
        match forced {
            true => cluster.set_forced_down(new, true).await,
            false => cluster.start_host(new),
        }
        cluster.idle().await;
        let after = cluster.server(server).await;
        let shown = (after.vm_state, after.power_state, &after.host);
        assert_eq!(shown, (VmState::Active, PowerState::Running, &before.host));
        assert!(after.fault.is_some());
        assert_eq!(old.guests().await, [(server, PowerState::Running)]);
        if forced {
            assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
            cluster.revive().await;
        }
        cluster.paid().await;
        assert_eq!(new.guests().await, []);
        clean(&cluster).await;
    }
}

/// Nothing that the new host could say would make it safer.
#[tokio::test]
async fn a_guest_that_has_stayed_goes_on_without_its_new_host() {
    for paused in [false, true] {
        let cluster = Cluster::new(Options::default()).await;
        cluster
            .change_settings(|settings| settings.undo_deadline = Duration::from_millis(200))
            .await;
        let server = cluster.create().await;
        cluster.idle().await;
        if paused {
            cluster.act(server, "pause", json!({})).await;
            cluster.idle().await;
        }
        let before = cluster.server(server).await;
        let old = cluster.host(before.host.as_ref().unwrap());
        let new = other_than(&cluster, &old.name);
        let broken = HypervisorError::Rejected("migration job: unexpectedly failed".to_owned());
        let controls = old.sim.controls();
        controls.fail_next(Verb::MigrateLive, broken, 1);
        let script = stand_behind(&cluster, "live_migration", "prepare");
        let state = cluster.first_state("live_migration", server);
        cluster.act(server, "live_migration", state).await;
        script.all_struck().await;
        new.stop();
        script.release();
        cluster.idle().await;
        let after = cluster.server(server).await;
        let shown = (after.vm_state, after.power_state, after.host);
        assert_eq!(shown, (before.vm_state, before.power_state, before.host));
        assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
        cluster.revive().await;
        cluster.paid().await;
        clean(&cluster).await;
    }
}

/// Its agent answers, and its hypervisor does not: nobody says that the guest is not there.
#[tokio::test]
async fn who_waits_for_a_host_that_only_fails_hears_that_it_is_forced_down() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let script = stand_behind(&cluster, "resize", "plug");
    let state = json!({ "same_host": "never" });
    cluster.resize(server, false, state).await;
    script.all_struck().await;
    let new = other_than(&cluster, before.host.as_ref().unwrap());
    new.sim.controls().set_down(true);
    script.release();
    cluster
        .until("its undo waits", async || {
            is_undone_at(&cluster, server, "land").await && waits(&cluster, server).await
        })
        .await;
    cluster.set_forced_down(new, true).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    let shown = (after.vm_state, after.power_state, &after.host);
    assert_eq!(shown, (VmState::Active, PowerState::Running, &before.host));
    assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
    new.sim.controls().set_down(false);
    cluster.set_forced_down(new, false).await;
    cluster.paid().await;
    clean(&cluster).await;
}

/// Its volume is in the hands of the guest there.
#[tokio::test]
async fn a_resize_is_not_reverted_while_its_new_host_may_run_the_guest() {
    for answers in [false, true] {
        let cluster = Cluster::new(Options::default()).await;
        let server = cluster.create_from_volume().await;
        cluster.idle().await;
        let before = cluster.server(server).await;
        let old = cluster.host(before.host.as_ref().unwrap());
        let new = other_than(&cluster, &old.name);
        let state = json!({ "same_host": "never" });
        cluster.resize(server, false, state).await;
        cluster.idle().await;
        cluster
            .change_settings(|settings| {
                // Longer than it takes until the host is looked at.
                settings.longest_step = Some(Duration::from_secs(4));
                settings.host_lost_after = Duration::from_millis(100);
            })
            .await;
        match answers {
            true => new.sim.controls().set_down(true),
            false => new.stop(),
        }
        cluster.act(server, "revert_resize", json!({})).await;
        cluster
            .until("it waits", async || waits(&cluster, server).await)
            .await;
        assert_eq!(cluster.tasks_at(Some("remove_landed")).await, 1);
        assert_eq!(old.guests().await, []);
        cluster.set_forced_down(new, true).await;
        cluster.idle().await;
        let after = cluster.server(server).await;
        let shown = (after.vm_state, after.power_state, &after.host);
        assert_eq!(shown, (VmState::Active, PowerState::Running, &before.host));
        assert_eq!(cluster.debts().await, [(new.name.clone(), server)]);
        new.sim.controls().set_down(false);
        cluster.set_forced_down(new, false).await;
        cluster.start_host(new);
        cluster.paid().await;
        clean(&cluster).await;
    }
}
