#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What a server shows after a hypervisor has refused what its action asked for: Nova's `vm_state`, no task, and a fault.

mod stories;

use db::accept;
use stories::{STORIES, Story, begin, prepare};
use testkit::{Cluster, Options};
use types::{PowerState as P, VmState as V};
use virt::HypervisorError;
use virt::sim::Verb;

/// A refusal: flow, what happened to the server before, the verb that every host refuses, and what the server shows then.
type Row = (
    &'static str,
    &'static [&'static str],
    Verb,
    (V, P),
    &'static str,
);

/// What owners are told of a hypervisor that refuses.
const COULD_NOT: &str = "The host could not do it.";
/// And when there is no other host to try.
const NO_OTHER: &str = "Exceeded maximum number of retries.";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("build", &[], Verb::EnsureGuest, (V::Error, P::NoState), NO_OTHER),
    ("start", &["stop"], Verb::Start, (V::Stopped, P::Shutdown), COULD_NOT),
    // It went down when it was asked to: the server follows with the host's next word.
    ("stop", &[], Verb::WaitStopped, (V::Active, P::Shutdown), COULD_NOT),
    // A soft reboot that is refused becomes a hard one. A guest that runs all the same is none the worse; any other is broken.
    ("hard reboot", &[], Verb::RebootHard, (V::Active, P::Running), COULD_NOT),
    ("hard reboot", &["stop"], Verb::RebootHard, (V::Error, P::Shutdown), COULD_NOT),
    ("hard reboot", &["pause"], Verb::RebootHard, (V::Error, P::Paused), COULD_NOT),
    ("pause", &[], Verb::Pause, (V::Active, P::Running), COULD_NOT),
    ("unpause", &["pause"], Verb::Unpause, (V::Paused, P::Paused), COULD_NOT),
    ("suspend", &[], Verb::Suspend, (V::Error, P::Running), COULD_NOT),
    ("resume", &["suspend"], Verb::Resume, (V::Error, P::Shutdown), COULD_NOT),
    ("crash_dump", &[], Verb::Interrupt, (V::Active, P::Running), COULD_NOT),
    ("rescue", &[], Verb::Rescue, (V::Error, P::Shutdown), COULD_NOT),
    ("unrescue", &["rescue"], Verb::Unrescue, (V::Error, P::Running), COULD_NOT),
    // There is no guest any more, which the host's next word says.
    ("rebuild", &[], Verb::EnsureGuest, (V::Error, P::Running), COULD_NOT),
    ("rebuild", &["stop"], Verb::EnsureGuest, (V::Error, P::Shutdown), COULD_NOT),
    ("snapshot", &[], Verb::Snapshot, (V::Active, P::Running), COULD_NOT),
    ("snapshot", &["stop"], Verb::Snapshot, (V::Stopped, P::Shutdown), COULD_NOT),
    ("backup", &["backup"], Verb::Snapshot, (V::Active, P::Running), COULD_NOT),
    ("attach_interface", &[], Verb::Attach, (V::Active, P::Running), COULD_NOT),
    ("detach_interface", &[], Verb::Detach, (V::Active, P::Running), COULD_NOT),
    ("attach_volume", &[], Verb::AttachDisk, (V::Active, P::Running), COULD_NOT),
    ("detach_volume", &[], Verb::DetachDisk, (V::Active, P::Running), COULD_NOT),
    ("swap_volume", &[], Verb::SwapDisk, (V::Active, P::Running), COULD_NOT),
    ("extend_volume", &[], Verb::ResizeDisk, (V::Active, P::Running), COULD_NOT),
    ("restore", &["soft_delete"], Verb::Start, (V::SoftDelete, P::Shutdown), COULD_NOT),
    ("change_password", &[], Verb::SetPassword, (V::Active, P::Running), "Failed to set admin password on ID because error setting admin password"),
    ("evacuate", &["gone"], Verb::EnsureGuest, (V::Error, P::Running), NO_OTHER),
    ("live_migration", &[], Verb::MigrateLive, (V::Active, P::Running), COULD_NOT),
    ("live_migration", &["pause"], Verb::MigrateLive, (V::Paused, P::Paused), COULD_NOT),
    // The guest is started again.
    ("shelve", &[], Verb::Snapshot, (V::Active, P::Running), COULD_NOT),
    ("shelve", &["stop"], Verb::Snapshot, (V::Stopped, P::Shutdown), COULD_NOT),
    ("unshelve", &["shelve"], Verb::EnsureGuest, (V::ShelvedOffloaded, P::Shutdown), NO_OTHER),
    ("unshelve_in_place", &["shelve only"], Verb::Start, (V::Shelved, P::Shutdown), COULD_NOT),
    // It is back where it was, and runs: Nova leaves it off and in ERROR.
    ("resize", &[], Verb::PutAside, (V::Active, P::Running), COULD_NOT),
    ("resize", &[], Verb::Land, (V::Active, P::Running), COULD_NOT),
    ("resize", &["stop"], Verb::Land, (V::Stopped, P::Shutdown), COULD_NOT),
];

/// Flows that ask the same to take it back: that is not refused.
const ONCE: &[&str] = &[accept::SWAP_VOLUME];

/// Flows that no refusal of a hypervisor ends: they go on until it is done, or leave it as the host's debt.
const GO_ON: &[&str] = &[
    accept::DELETE,
    accept::SOFT_DELETE,
    accept::SHELVE_OFFLOAD,
    accept::CONFIRM_RESIZE,
    accept::REVERT_RESIZE,
];

/// Flows that ask no hypervisor, or do without what it refuses: `reconcile.rs` has how they fail.
const DO_WITHOUT: &[&str] = &["snapshot_volumes", "add_fixed_ip", "remove_fixed_ip"];

fn story(row: &Row) -> Story {
    let (flow, before, ..) = *row;
    let hard = flow == "hard reboot";
    let flow = if hard { accept::REBOOT } else { flow };
    let like = STORIES.iter().find(|story| story.flow == flow).unwrap();
    Story {
        hard,
        before,
        ..*like
    }
}

async fn refused(row: &Row) {
    let (.., verb, wanted, message) = *row;
    let cluster = Cluster::new(Options::default()).await;
    let story = story(row);
    let there = prepare(&cluster, story).await;
    for host in &cluster.hosts {
        let no = HypervisorError::Rejected("no".to_owned());
        match ONCE.contains(&story.flow) {
            true => host.sim.controls().fail_next(verb, no, 1),
            false => host.sim.controls().fail_always(verb, no),
        }
    }
    let server = begin(&cluster, story, there).await;
    cluster.idle().await;
    for host in &cluster.hosts {
        host.sim.controls().heal(verb);
    }
    let shown = cluster.server(server).await;
    assert_eq!((shown.vm_state, shown.power_state), wanted);
    assert_eq!((shown.task_state, shown.task_id), (None, None));
    let said = cluster.last_action_says(server).await;
    let fault = shown.fault.expect("it has a fault");
    assert_eq!(said, Some(format!("Error: {}", fault.message)));
    let told = fault.message.replace(&server.to_string(), "ID");
    assert!(told.starts_with(message), "{told}");
    cluster.revive().await;
    cluster.paid().await;
    cluster.look_again().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
    // A server in ERROR can be used again.
    let now = cluster.server(server).await;
    if now.vm_state == V::Error && now.host.is_some() && story.flow != accept::EVACUATE {
        if story.flow == accept::REBUILD {
            let state = cluster.first_state(accept::REBUILD, server);
            cluster.act(server, accept::REBUILD, state).await;
        } else {
            cluster.reboot(server, true).await;
        }
        cluster.idle().await;
        let again = cluster.server(server).await;
        let usable = (V::Active, P::Running);
        assert_eq!((again.vm_state, again.power_state), usable);
        assert_eq!(cluster.audit().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_a_server_shows_after_each_refusal() {
    testkit::keep_panics();
    let mut wrong = Vec::new();
    let here = tokio::task::LocalSet::new();
    for row in TABLE {
        let told = here.run_until(async { tokio::task::spawn_local(refused(row)).await });
        if told.await.is_err() {
            let panics = testkit::take_panics();
            wrong.push(format!("{row:?}: {}", panics.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_flow_has_its_row() {
    for story in STORIES {
        let row = TABLE.iter().any(|row| self::story(row).flow == story.flow);
        let apart = GO_ON.contains(&story.flow) || DO_WITHOUT.contains(&story.flow);
        assert!(row != apart, "{}", story.flow);
    }
}
