//! A way to run each flow, and to bring a server to where it begins. A test that uses this need not use all of it.
#![allow(dead_code)]

use journal::faults::{Fault, Point, Script, When};
use std::sync::Arc;
use testkit::Cluster;
use types::agent::Direction;
use types::{ServerId, VmState};

/// A way to run a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Story {
    pub flow: &'static str,
    pub hard: bool,
    /// The step with work for a host; empty when it has none.
    pub host_step: &'static str,
    /// What happened to the server before.
    pub before: &'static [&'static str],
    /// Its state when it ends well.
    pub settled: VmState,
    /// The states it may show when it ends otherwise: as before, or as its guest is.
    pub otherwise: &'static [VmState],
}

impl Story {
    /// Whether a failure of this step undoes the flow.
    pub fn goes_back(&self, step: &str) -> bool {
        let forward = self.flow == "soft_delete" && step == "act";
        self.flow != "delete" && !forward && !BEHIND_PIVOTS.contains(&step)
    }

    /// The flow that was under way when its worker died; nobody works when the story begins.
    pub fn died_in(&self) -> Option<&'static str> {
        self.before.last()?.strip_prefix("died in ")
    }
}

/// Where workers die: the step has had its effect, and nothing of that is written.
const DIES_AT: &[(&str, &str)] = &[
    ("build", "spawn"),
    ("unshelve", "spawn"),
    ("resize", "land"),
    ("revert_resize", "remove_landed"),
    ("confirm_resize", "elsewhere"),
    ("live_migration", "move"),
    ("evacuate", "spawn"),
    ("shelve", "upload"),
    ("snapshot", "upload"),
    ("attach_volume", "connect"),
    ("attach_interface", "attach"),
    ("rebuild", "act"),
];

/// Steps that are only tried again.
const BEHIND_PIVOTS: &[&str] = &[
    "rotate",
    "release",
    "complete_move",
    "remove",
    "unbind",
    "forget",
    "find_source",
    "elsewhere",
    "here",
    "remove_landed",
    "rebind",
    "replug",
    "put_back",
    "bind",
    "leave",
    "take_files",
];
const RUNS: &[VmState] = &[VmState::Active, VmState::Stopped];

/// A flow that is registered and not here makes the matrix red.
pub const STORIES: &[Story] = &[
    story("build", "spawn", &[], VmState::Active, &[VmState::Error]),
    delete("destroy", &[]),
    delete("destroy", &["rescue"]),
    delete("destroy", &["soft_delete"]),
    // Something of it is on two hosts.
    delete("destroy", &["resize"]),
    delete("destroy", &["stop", "resize here"]),
    delete("destroy", &["resize", "soft_delete"]),
    delete("destroy", &["shelve only"]),
    // It is on no host.
    delete("", &["shelve"]),
    // Something was under way.
    delete("", &["died in build"]),
    delete("", &["shelve", "died in unshelve"]),
    delete("", &["died in resize"]),
    delete("", &["resize", "died in revert_resize"]),
    delete("", &["resize", "died in confirm_resize"]),
    delete("", &["died in live_migration"]),
    delete("", &["gone", "died in evacuate"]),
    delete("", &["died in shelve"]),
    delete("", &["died in snapshot"]),
    delete("", &["died in attach_volume"]),
    delete("", &["died in attach_interface"]),
    delete("", &["died in rebuild"]),
    story("start", "act", &["stop"], VmState::Active, RUNS),
    story("stop", "act", &[], VmState::Stopped, RUNS),
    story("reboot", "act", &[], VmState::Active, RUNS),
    Story {
        hard: true,
        ..story("reboot", "act", &[], VmState::Active, RUNS)
    },
    story(
        "pause",
        "act",
        &[],
        VmState::Paused,
        &[VmState::Active, VmState::Paused],
    ),
    story(
        "unpause",
        "act",
        &["pause"],
        VmState::Active,
        &[VmState::Active, VmState::Paused],
    ),
    // A guest whose memory was saved without anybody hearing of it is off.
    story("suspend", "act", &[], VmState::Suspended, RUNS),
    story(
        "resume",
        "act",
        &["suspend"],
        VmState::Active,
        &[VmState::Active, VmState::Suspended],
    ),
    story(
        "crash_dump",
        "act",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "rescue",
        "act",
        &[],
        VmState::Rescued,
        &[VmState::Active, VmState::Error],
    ),
    story(
        "unrescue",
        "act",
        &["rescue"],
        VmState::Active,
        &[VmState::Rescued, VmState::Error],
    ),
    story(
        "rebuild",
        "act",
        &[],
        VmState::Active,
        &[VmState::Active, VmState::Error],
    ),
    story(
        "rebuild",
        "act",
        &["stop"],
        VmState::Stopped,
        &[VmState::Stopped, VmState::Error],
    ),
    // Another image for the volume it boots from.
    story(
        "rebuild",
        "act",
        &["from volume"],
        VmState::Active,
        &[VmState::Active, VmState::Error],
    ),
    story(
        "snapshot",
        "upload",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    // The second one makes the first too old.
    story(
        "backup",
        "upload",
        &["backup"],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "attach_interface",
        "attach",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "attach_interface",
        "attach",
        &["stop"],
        VmState::Stopped,
        &[VmState::Stopped],
    ),
    story(
        "detach_interface",
        "detach",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    // Its undo waits for a silent host.
    story(
        "attach_volume",
        "",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "attach_volume",
        "",
        &["stop"],
        VmState::Stopped,
        &[VmState::Stopped],
    ),
    story(
        "detach_volume",
        "detach",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    // Its undo waits for a silent host.
    story("swap_volume", "", &[], VmState::Active, &[VmState::Active]),
    story(
        "extend_volume",
        "act",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "snapshot_volumes",
        "describe",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    // Its guest stands still meanwhile.
    story(
        "snapshot_volumes",
        "still",
        &["with agent"],
        VmState::Active,
        &[VmState::Active],
    ),
    story("soft_delete", "act", &[], VmState::SoftDelete, RUNS),
    story(
        "restore",
        "act",
        &["soft_delete"],
        VmState::Active,
        &[VmState::SoftDelete],
    ),
    story(
        "change_password",
        "act",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story("add_fixed_ip", "", &[], VmState::Active, &[VmState::Active]),
    story(
        "remove_fixed_ip",
        "",
        &["add_fixed_ip"],
        VmState::Active,
        &[VmState::Active],
    ),
    // A host that is silent here is one more that is gone: `away.rs` has that.
    story(
        "evacuate",
        "",
        &["gone"],
        VmState::Active,
        &[VmState::Error],
    ),
    story(
        "evacuate",
        "",
        &["stop", "gone"],
        VmState::Stopped,
        &[VmState::Error],
    ),
    story(
        "live_migration",
        "",
        &[],
        VmState::Active,
        &[VmState::Active],
    ),
    story(
        "live_migration",
        "",
        &["pause"],
        VmState::Paused,
        &[VmState::Paused],
    ),
    story("shelve", "stop", &[], VmState::ShelvedOffloaded, RUNS),
    story(
        "shelve",
        "upload",
        &["stop"],
        VmState::ShelvedOffloaded,
        &[VmState::Stopped],
    ),
    story(
        "shelve",
        "upload",
        &["pause"],
        VmState::ShelvedOffloaded,
        &[VmState::Paused, VmState::Stopped],
    ),
    story(
        "shelve_offload",
        "remove",
        &["shelve only"],
        VmState::ShelvedOffloaded,
        &[VmState::Shelved],
    ),
    story(
        "unshelve",
        "spawn",
        &["shelve"],
        VmState::Active,
        &[VmState::ShelvedOffloaded],
    ),
    story("resize", "land", &[], VmState::Resized, RUNS),
    story(
        "resize",
        "put_aside",
        &["stop"],
        VmState::Resized,
        &[VmState::Stopped],
    ),
    Story {
        hard: true,
        ..story("resize", "land", &[], VmState::Resized, RUNS)
    },
    story(
        "confirm_resize",
        "elsewhere",
        &["resize"],
        VmState::Active,
        &[],
    ),
    story(
        "confirm_resize",
        "here",
        &["resize here"],
        VmState::Active,
        &[],
    ),
    story(
        "revert_resize",
        "remove_landed",
        &["resize"],
        VmState::Active,
        &[VmState::Resized],
    ),
    story(
        "revert_resize",
        "put_back",
        &["resize here"],
        VmState::Active,
        &[VmState::Resized],
    ),
    story(
        "revert_resize",
        "put_back",
        &["stop", "resize"],
        VmState::Stopped,
        &[VmState::Resized],
    ),
    story(
        "unshelve_in_place",
        "start",
        &["shelve only"],
        VmState::Active,
        &[VmState::Shelved],
    ),
];

const fn delete(host_step: &'static str, before: &'static [&'static str]) -> Story {
    story("delete", host_step, before, VmState::Deleted, &[])
}

const fn story(
    flow: &'static str,
    host_step: &'static str,
    before: &'static [&'static str],
    settled: VmState,
    otherwise: &'static [VmState],
) -> Story {
    Story {
        flow,
        hard: false,
        host_step,
        before,
        settled,
        otherwise,
    }
}

/// Brings a server to where the story begins.
pub async fn prepare(cluster: &Cluster, story: Story) -> Option<ServerId> {
    if story.flow == "build" {
        return None;
    }
    if story.died_in() == Some("build") {
        let script = dying(cluster, "build");
        let server = cluster.create().await;
        script.all_struck().await;
        return Some(server);
    }
    let server = match story.before {
        ["from volume"] => cluster.create_from_volume().await,
        ["with agent"] => cluster.create_with_agent().await,
        _ => cluster.create().await,
    };
    cluster.idle().await;
    for &flow in story.before {
        if ["from volume", "with agent"].contains(&flow) {
            continue;
        }
        if flow == "gone" {
            cluster.lose_host(server).await;
            continue;
        }
        if let Some(dies) = flow.strip_prefix("died in ") {
            let script = dying(cluster, dies);
            match dies {
                "resize" => resize(cluster, server, false).await,
                dies => {
                    let state = cluster.first_state(dies, server);
                    cluster.act(server, dies, state).await;
                }
            }
            script.all_struck().await;
            continue;
        }
        if flow == "resize" || flow == "resize here" {
            resize(cluster, server, flow == "resize here").await;
            cluster.idle().await;
            let aside = |host: &&testkit::Host| host.sim.asides().contains(&server);
            let its = cluster.server(server).await.host;
            let left = cluster.hosts.iter().find(aside).expect("it is aside");
            let alone = flow == "resize here" || cluster.hosts.len() == 1;
            assert_eq!(Some(&left.name) == its.as_ref(), alone);
            continue;
        }
        if flow == "shelve only" {
            let mut state = cluster.first_state("shelve", server);
            state["offload"] = false.into();
            cluster.act(server, "shelve", state).await;
            cluster.idle().await;
            continue;
        }
        let state = cluster.first_state(flow, server);
        cluster.act(server, flow, state).await;
        cluster.idle().await;
    }
    Some(server)
}

/// The worker dies in this flow.
fn dying(cluster: &Cluster, flow: &'static str) -> Arc<Script> {
    let (_, step) = DIES_AT.iter().find(|(one, _)| *one == flow).unwrap();
    let point = Point {
        flow,
        step,
        direction: Direction::Do,
        when: When::After,
    };
    let script = Arc::new(Script::new([(point, Fault::Crash)]));
    cluster.set_faults(script.clone());
    script
}

/// To another flavor: on another host if there is one, or on the host it is on.
async fn resize(cluster: &Cluster, server: ServerId, here: bool) {
    let mut state = serde_json::json!({ "same_host": "last" });
    if here {
        state =
            serde_json::json!({ "same_host": "always", "to": cluster.server(server).await.host });
    }
    cluster.resize(server, false, state).await;
}

pub async fn begin(cluster: &Cluster, story: Story, server: Option<ServerId>) -> ServerId {
    let Some(server) = server else {
        return cluster.create().await;
    };
    match story.flow {
        "delete" => {
            let under_way = cluster.server(server).await.task_id.is_some();
            assert_eq!(under_way, story.died_in().is_some());
            assert!(cluster.delete(server).await);
        }
        "resize" => resize(cluster, server, story.hard).await,
        flow => {
            let mut state = cluster.first_state(flow, server);
            if story.hard {
                state["hard"] = true.into();
            }
            if flow == "rebuild" && story.before.contains(&"from volume") {
                state["reimage"] = types::ImageId::random().to_string().into();
            }
            cluster.act(server, flow, state).await;
        }
    }
    server
}
