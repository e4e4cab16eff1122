#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What everybody sees of each flow while it goes well: the task states on the way, the events of its action, the state
//! at the end. All are Nova's: `compute/api.py`, `compute/manager.py` and `conductor/manager.py` set and wrap them. (The
//! names of actions are the API's, which has a table of its own.)

mod stories;

use std::collections::BTreeSet;
use stories::{STORIES, begin, prepare};
use testkit::{Cluster, Options};
use types::{ServerId, VmState};

/// What is seen of a flow.
struct Row {
    flow: &'static str,
    hard: bool,
    /// What happened to the server before, as its story says it.
    before: &'static [&'static str],
    /// The task states, in their order.
    shows: &'static [&'static str],
    /// The events of the action, in their order.
    events: &'static [&'static str],
    ends: VmState,
}

const fn row(
    flow: &'static str,
    before: &'static [&'static str],
    shows: &'static [&'static str],
    events: &'static [&'static str],
    ends: VmState,
) -> Row {
    Row {
        flow,
        hard: false,
        before,
        shows,
        events,
        ends,
    }
}

const fn hard(row: Row) -> Row {
    Row { hard: true, ..row }
}

use VmState as V;

// Differences that are meant:
// * Nova shows no task state while a move is confirmed, and while volumes of a server that boots from one are copied. Here
//   something else must wait meanwhile, and says so.
// * Nova's API deletes a server that is on no host by itself, without an event.
// * Nova's conductor shows its part of a resize as two events, one in the other (`cold_migrate`).
// * Nova's `compute_live_migration` is only the acceptance of the work; here it is the work, after its preparation.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("build", &[], &["scheduling", "networking", "block_device_mapping", "spawning"],
        &["compute__do_build_and_run_instance"], V::Active),
    row("delete", &[], &["deleting"], &["compute_terminate_instance"], V::Deleted),
    row("delete", &["resize"], &["deleting"], &["compute_terminate_instance"], V::Deleted),
    row("delete", &["shelve"], &["deleting"], &["compute_terminate_instance"], V::Deleted),
    row("start", &["stop"], &["powering-on"], &["compute_start_instance"], V::Active),
    row("stop", &[], &["powering-off"], &["compute_stop_instance"], V::Stopped),
    row("reboot", &[], &["rebooting", "reboot_pending", "reboot_started"], &["compute_reboot_instance"], V::Active),
    hard(row("reboot", &[], &["rebooting_hard", "reboot_pending_hard", "reboot_started_hard"],
        &["compute_reboot_instance"], V::Active)),
    row("pause", &[], &["pausing"], &["compute_pause_instance"], V::Paused),
    row("unpause", &["pause"], &["unpausing"], &["compute_unpause_instance"], V::Active),
    row("suspend", &[], &["suspending"], &["compute_suspend_instance"], V::Suspended),
    row("resume", &["suspend"], &["resuming"], &["compute_resume_instance"], V::Active),
    row("crash_dump", &[], &[], &["compute_trigger_crash_dump"], V::Active),
    row("rescue", &[], &["rescuing"], &["compute_rescue_instance"], V::Rescued),
    row("unrescue", &["rescue"], &["unrescuing"], &["compute_unrescue_instance"], V::Active),
    row("rebuild", &[], &["rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"],
        &["rebuild_server", "compute_rebuild_instance"], V::Active),
    row("rebuild", &["from volume"], &["rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"],
        &["rebuild_server", "compute_rebuild_instance"], V::Active),
    row("evacuate", &["gone"], &["rebuilding", "rebuild_block_device_mapping", "rebuild_spawning"],
        &["rebuild_server", "compute_rebuild_instance"], V::Active),
    row("snapshot", &[], &["image_snapshot_pending", "image_snapshot", "image_pending_upload", "image_uploading"],
        &["compute_snapshot_instance"], V::Active),
    row("backup", &["backup"], &["image_backup", "image_pending_upload", "image_uploading"],
        &["compute_backup_instance"], V::Active),
    row("snapshot_volumes", &[], &["image_snapshot_pending"], &["api_snapshot_instance"], V::Active),
    row("attach_interface", &[], &[], &["compute_attach_interface"], V::Active),
    row("detach_interface", &[], &[], &["compute_detach_interface"], V::Active),
    row("attach_volume", &[], &[], &["compute_attach_volume"], V::Active),
    row("detach_volume", &[], &[], &["compute_detach_volume"], V::Active),
    row("swap_volume", &[], &[], &["compute_swap_volume"], V::Active),
    row("extend_volume", &[], &[], &["compute_extend_volume"], V::Active),
    row("soft_delete", &[], &["soft-deleting"], &["compute_soft_delete_instance"], V::SoftDelete),
    row("restore", &["soft_delete"], &["restoring"], &["compute_restore_instance"], V::Active),
    row("change_password", &[], &["updating_password"], &["compute_set_admin_password"], V::Active),
    row("add_fixed_ip", &[], &[], &[], V::Active),
    row("remove_fixed_ip", &["add_fixed_ip"], &[], &[], V::Active),
    row("live_migration", &[], &["migrating"],
        &["conductor_live_migrate_instance", "compute_check_can_live_migrate_destination",
            "compute_check_can_live_migrate_source", "compute_pre_live_migration", "compute_live_migration",
            "compute_post_live_migration_at_destination"], V::Active),
    row("shelve", &[], &["shelving", "shelving_image_pending_upload", "shelving_image_uploading", "shelving_offloading"],
        &["compute_shelve_instance"], V::ShelvedOffloaded),
    row("shelve_offload", &["shelve only"], &["shelving_offloading"], &["compute_shelve_offload_instance"],
        V::ShelvedOffloaded),
    row("unshelve", &["shelve"], &["unshelving", "spawning"],
        &["get_image_info", "schedule_instances", "compute_unshelve_instance"], V::Active),
    row("unshelve_in_place", &["shelve only"], &["unshelving", "powering-on"], &["compute_start_instance"], V::Active),
    row("resize", &[], &["resize_prep", "resize_migrating", "resize_migrated", "resize_finish"],
        &["conductor_migrate_server", "compute_prep_resize", "compute_resize_instance", "compute_finish_resize"], V::Resized),
    row("confirm_resize", &["resize"], &["resize_confirming"], &["compute_confirm_resize"], V::Active),
    row("revert_resize", &["resize"], &["resize_reverting"], &["compute_revert_resize", "compute_finish_revert_resize"],
        V::Active),
];

/// The task states that a server has shown, in their order.
async fn task_states(cluster: &Cluster, server: ServerId) -> Vec<String> {
    let entries = cluster.store.read(|tx| db::outbox::after(tx, 0, 1000));
    let entries: Result<Vec<_>, sql::Error> = entries.await;
    let of_server = entries.unwrap().into_iter();
    of_server
        .filter(|entry| entry.subject == server.to_string())
        .filter_map(|entry| entry.task_state)
        .collect()
}

/// The events of the newest action, in their order, and how they ended.
async fn events(cluster: &Cluster, server: ServerId) -> Vec<(String, Option<String>)> {
    let read = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
        let newest = db::actions::of_server(tx, server)?.remove(0);
        db::actions::events(tx, newest.id)
    };
    let events = cluster.store.read(read).await.unwrap().into_iter().rev();
    events.map(|one| (one.event, one.result)).collect()
}

async fn is_seen(row: &Row) {
    let told = format!("{} {} {:?}", row.flow, row.hard, row.before);
    let mut stories = STORIES.iter();
    let story =
        stories.find(|one| (one.flow, one.hard, one.before) == (row.flow, row.hard, row.before));
    let story = *story.expect(&told);
    let cluster = Cluster::new(Options::default()).await;
    let server = prepare(&cluster, story).await;
    let before = match server {
        Some(server) => task_states(&cluster, server).await.len(),
        None => 0,
    };
    let server = begin(&cluster, story, server).await;
    cluster.idle().await;
    let mut shown = task_states(&cluster, server).await.split_off(before);
    shown.dedup();
    assert_eq!(shown, row.shows, "{told}");
    let well = |name: &&str| ((*name).to_owned(), Some("Success".to_owned()));
    let wanted: Vec<_> = row.events.iter().map(well).collect();
    assert_eq!(events(&cluster, server).await, wanted, "{told}");
    let ended = cluster.server(server).await;
    assert_eq!(
        (ended.vm_state, ended.task_state),
        (row.ends, None),
        "{told}"
    );
    assert!(!cluster.last_action_failed(server).await, "{told}");
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new(), "{told}");
}

#[tokio::test]
async fn task_states_and_events_are_novas() {
    let flows = Cluster::new(Options {
        hosts: 0,
        ..Options::default()
    })
    .await
    .flows();
    let registered: BTreeSet<&str> = flows.iter().map(|(name, _)| *name).collect();
    let told: BTreeSet<&str> = ROWS.iter().map(|row| row.flow).collect();
    assert_eq!(told, registered, "every registered flow has its row here");
    for row in ROWS {
        is_seen(row).await;
    }
}
