#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Every step of every registered flow under every fault. All of it on SQLite; on PostgreSQL and MariaDB a sample with
//! every kind of fault and every flow, chosen by a printed seed (`KILONOVA_TEST_SEED` repeats one, `KILONOVA_TEST_ALL=1`
//! runs everything).

mod stories;

use db::accept;
use db::accept::Accepted;
use journal::faults::{Fault, Never, Point, Script, When};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stories::{STORIES, Story, begin, prepare};
use testkit::{Cluster, Kind, Options};
use tokio::task::JoinSet;
use types::agent::Direction;
use types::{PowerState, ServerId, VmState};

/// Cases that run at once.
const AT_ONCE: usize = 6;
/// How long a step waits where agents are away, at first. On a slow machine this may be too short for an agent that is
/// there still; the case is told again then, with twice the time.
const SILENCE: Duration = Duration::from_millis(250);
/// The longest that is tried.
const LONGEST_SILENCE: Duration = Duration::from_secs(8);
/// Cases on each database that is not SQLite: as many as every flow and every kind of fault need.
const SAMPLE: usize = 40;

/// Flows that a silent host does not stop: what it should have removed is its debt, and what it should have switched off
/// it hears of when it is back.
const GOES_ON: &[&str] = &[
    "delete",
    "shelve_offload",
    "snapshot_volumes",
    "soft_delete",
];

/// Flows that wait for a silent host, because only that host can end them.
const WAITS: &[&str] = &["confirm_resize", "revert_resize"];

/// Flows that fail when their host is silent, and wait for it then, because only that host can take back what it may have
/// done.
const TAKES_BACK: &[&str] = &[accept::DETACH_INTERFACE, accept::DETACH_VOLUME];

/// Flows that are ended by another action than the deletion for good, and may be left in half.
const GIVES_WAY: &[&str] = &[
    accept::START,
    accept::STOP,
    accept::REBOOT,
    accept::PAUSE,
    accept::UNPAUSE,
    accept::SUSPEND,
    accept::RESUME,
    accept::CRASH_DUMP,
    accept::RESTORE,
    accept::RESCUE,
    accept::UNRESCUE,
    accept::REBUILD,
];
/// Those that a hard reboot ends.
const REBOOTED_OVER: &[&str] = &[
    accept::REBOOT,
    accept::PAUSE,
    accept::UNPAUSE,
    accept::SUSPEND,
    accept::RESUME,
    accept::CRASH_DUMP,
];
/// What nobody evacuates has happened to a server before.
const STAYS: &[&str] = &["pause", "suspend", "rescue", "soft_delete"];

/// What ends a flow that runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    /// The server can be restored, or is gone where nothing may be left in half.
    SoftDelete,
    HardReboot,
    /// Its host dies first.
    Evacuate,
}

/// Whether, and why, an action must fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Fails(&'static str),
    /// It does not: it waits for its host, however long that takes.
    EndsWell,
    /// Whether a step needed its host, only the flow knows: it ends well, or as before because of the silence.
    Either,
}

const INJECTED: &str = "An injected fault.";
const SILENT: &str = "The host did not answer in time.";

#[derive(Clone, Debug)]
enum Kinds {
    /// These faults strike once each.
    Faults(Vec<(Point, Fault)>),
    /// The runner stands still at the point while another takes the task over, and goes on afterwards.
    Stale(Vec<(Point, Fault)>),
    /// The server is deleted while the runner stands still at the point that is held; the deletion runs in the same
    /// worker or in another.
    Deleted(Vec<(Point, Fault)>, bool),
    /// Another action takes the server over while the runner stands still at the point that is held.
    Overtaken(Vec<(Point, Fault)>, Over),
    /// The host's agent is away.
    Silent,
    /// All agents are away from where the point is held (none: from the beginning) until everybody gives up waiting.
    SilentFrom(Vec<(Point, Fault)>, Verdict),
}

#[derive(Clone, Debug)]
struct Case {
    story: Story,
    kind: Kinds,
    /// On hosts that share the disks of their guests.
    shared: bool,
}

/// Flows that do something else there, and how they begin.
const ON_SHARED: &[(&str, &[&str])] = &[
    ("live_migration", &[]),
    ("evacuate", &["gone"]),
    ("resize", &[]),
    ("revert_resize", &["resize"]),
];

/// Flows that start guests, in which servers have a TPM, and how its passphrase is kept. (Not where disks are shared, nor
/// where it cannot go along.)
const WITH_TPM: &[(&str, &str)] = &[
    ("build", "user"),
    ("start", "user"),
    ("reboot", "deployment"),
    ("resume", "user"),
    ("restore", "user"),
    ("resize", "user"),
    ("revert_resize", "user"),
    ("live_migration", "host"),
    ("delete", "deployment"),
];

fn point(story: Story, step: &'static str, direction: Direction, when: When) -> Point {
    Point {
        flow: story.flow,
        step,
        direction,
        when,
    }
}

/// What can happen at a step in one direction. Repeating it before its effect is nothing.
const STRIKES: [(When, Fault); 5] = [
    (When::Before, Fault::Fail),
    (When::After, Fault::Fail),
    (When::After, Fault::Repeat),
    (When::Before, Fault::Crash),
    (When::After, Fault::Crash),
];

/// What can end the flow of a story.
fn overtaken_by(story: Story) -> Vec<Over> {
    let mut all = Vec::new();
    if story.flow != accept::SOFT_DELETE {
        all.push(Over::SoftDelete);
    }
    if REBOOTED_OVER.contains(&story.flow) {
        all.push(Over::HardReboot);
    }
    if GIVES_WAY.contains(&story.flow) && !story.before.iter().any(|one| STAYS.contains(one)) {
        all.push(Over::Evacuate);
    }
    all
}

/// Whether a soft deletion over the flow at this point leaves the server to be restored.
fn is_restorable(story: Story, held: &Point) -> bool {
    let there = ["unshelve", "unshelve_in_place"].contains(&story.flow) && held.step == "forget";
    GIVES_WAY.contains(&story.flow) || there
}

/// Whether a resize waits from this step on for a host that may run its guest.
fn lands(story: Story, step: &str) -> bool {
    story.flow == accept::RESIZE && ["networks", "plug", "land"].contains(&step)
}

fn cases(story: Story, steps: &[&'static str]) -> Vec<Case> {
    let mut kinds = Vec::new();
    if !story.host_step.is_empty() {
        kinds.push(Kinds::Silent);
    }
    let at = |step, direction, when| point(story, step, direction, when);
    // Behind the pivot a step is only tried again.
    let mut undone = steps.iter().filter(|step| story.goes_back(step));
    let last = *undone.next_back().unwrap_or(&steps[0]);
    let failing = (at(last, Direction::Do, When::After), Fault::Fail);
    let host_step = steps.iter().position(|step| *step == story.host_step);
    for (index, &step) in steps.iter().enumerate() {
        let goes_back = story.goes_back(step);
        // Work for hosts is stored as its step begins: agents must be away when the step before ends.
        let before = index.checked_sub(1).and_then(|index| steps.get(index));
        let held = before.map(|before| (at(before, Direction::Do, When::After), Fault::Hold));
        let passes = GOES_ON.contains(&story.flow) || WAITS.contains(&story.flow);
        let verdict = match host_step {
            Some(at) if at >= index && lands(story, step) => Verdict::EndsWell,
            Some(host_step) if host_step >= index && !passes && story.flow != "delete" => {
                Verdict::Fails(SILENT)
            }
            _ => Verdict::Either,
        };
        kinds.push(Kinds::SilentFrom(held.into_iter().collect(), verdict));
        if goes_back && step != last {
            let held = (
                at(steps[index + 1], Direction::Undo, When::After),
                Fault::Hold,
            );
            let held = vec![failing.clone(), held];
            kinds.push(Kinds::SilentFrom(held, Verdict::Fails(INJECTED)));
        }
        for (when, fault) in STRIKES {
            kinds.push(Kinds::Faults(vec![(at(step, Direction::Do, when), fault)]));
            if goes_back {
                let undo = (at(step, Direction::Undo, when), fault);
                kinds.push(Kinds::Faults(vec![failing.clone(), undo]));
            }
        }
        for when in [When::Before, When::After] {
            let held = at(step, Direction::Do, when);
            kinds.push(Kinds::Stale(vec![(held.clone(), Fault::Hold)]));
            if goes_back {
                let undo = (at(step, Direction::Undo, when), Fault::Hold);
                kinds.push(Kinds::Stale(vec![failing.clone(), undo]));
            }
            if story.flow != "delete" {
                let held = vec![(held, Fault::Hold)];
                kinds.push(Kinds::Deleted(held.clone(), false));
                kinds.push(Kinds::Deleted(held.clone(), true));
                let over = overtaken_by(story).into_iter();
                kinds.extend(over.map(|over| Kinds::Overtaken(held.clone(), over)));
            }
            if goes_back && story.flow != "delete" {
                let undo = (at(step, Direction::Undo, when), Fault::Hold);
                let held = vec![failing.clone(), undo];
                let over = overtaken_by(story).into_iter();
                kinds.extend(over.map(|over| Kinds::Overtaken(held.clone(), over)));
                kinds.push(Kinds::Deleted(held, when == When::After));
            }
        }
    }
    let both = ON_SHARED.contains(&(story.flow, story.before)) && !story.hard;
    let variants: &[bool] = if both { &[false, true] } else { &[false] };
    let case = |kind: &Kinds, shared| Case {
        story,
        kind: kind.clone(),
        shared,
    };
    let each = variants.iter().copied();
    each.flat_map(|shared| kinds.iter().map(move |kind| case(kind, shared)))
        .collect()
}

async fn all_cases() -> Vec<Case> {
    let flows = Cluster::new(Options {
        hosts: 0,
        ..Options::default()
    })
    .await
    .flows();
    let told: BTreeSet<&str> = STORIES.iter().map(|story| story.flow).collect();
    let registered: BTreeSet<&str> = flows.iter().map(|(name, _)| *name).collect();
    assert_eq!(told, registered, "every registered flow has its story here");
    let mut all = Vec::new();
    for story in STORIES {
        let (_, steps) = flows.iter().find(|(name, _)| *name == story.flow).unwrap();
        assert!(
            story.host_step.is_empty() || steps.contains(&story.host_step),
            "{story:?}"
        );
        all.extend(cases(*story, steps));
    }
    all
}

async fn carry_out(kind: Kind, case: Case) {
    let mut silence = SILENCE;
    while !happens(&kind, &case, silence).await {
        silence *= 2;
        assert!(
            silence <= LONGEST_SILENCE,
            "the flow ends before the point where its agents go away"
        );
    }
}

/// Tells the case. `false`: it did not come to what it is about, as an agent that is there took longer than `silence`.
async fn happens(kind: &Kind, case: &Case, silence: Duration) -> bool {
    let story = case.story;
    let goes_along = !matches!(case.kind, Kinds::Overtaken(_, Over::Evacuate))
        && story.died_in().is_none()
        && !story
            .before
            .iter()
            .any(|one| ["shelve", "shelve only", "rescue"].contains(one));
    let mut tpm = WITH_TPM.iter().filter(|_| !case.shared && goes_along);
    let tpm = tpm.find(|(flow, _)| *flow == story.flow);
    let mut options = Options {
        shared: case.shared,
        tpm: tpm.map(|(_, security)| *security),
        ..Options::default()
    };
    if matches!(case.kind, Kinds::Silent) {
        options.hosts = 1;
    }
    if matches!(case.kind, Kinds::Deleted(_, true)) {
        // Held, the first worker has no hand free: another one runs the deletion.
        options.journal.concurrency = 1;
    }
    let cluster = Cluster::on(kind, options).await;
    let server = prepare(&cluster, story).await;
    let backups = cluster.images.of_type("backup");
    let server = match case.kind.clone() {
        Kinds::Faults(faults) => {
            let script = Arc::new(Script::new(faults));
            cluster.set_faults(script.clone());
            let server = begin(&cluster, story, server).await;
            work_again(&cluster, story).await;
            cluster.idle().await;
            assert!(script.struck(), "a fault did not strike");
            server
        }
        Kinds::Stale(faults) => {
            let script = Arc::new(Script::new(faults));
            cluster.set_faults(script.clone());
            let server = begin(&cluster, story, server).await;
            work_again(&cluster, story).await;
            script.all_struck().await;
            let stale = cluster.start_worker("w").await.expect("it was there");
            cluster.idle().await;
            let before = cluster.server(server).await;
            script.release();
            stale.rest().await;
            assert_eq!(
                cluster.server(server).await,
                before,
                "the stale runner wrote"
            );
            server
        }
        Kinds::Deleted(held, by_another) => {
            let script = Arc::new(Script::new(held));
            cluster.set_faults(script.clone());
            let server = begin(&cluster, story, server).await;
            script.all_struck().await;
            if by_another {
                cluster.start_worker("other").await;
            }
            assert!(cluster.delete(server).await);
            cluster
                .until("it is deleted", async || {
                    cluster.server(server).await.deleted
                })
                .await;
            script.release();
            cluster.rest().await;
            server
        }
        Kinds::Overtaken(held, over) => {
            let script = Arc::new(Script::new(held));
            cluster.set_faults(script.clone());
            let server = begin(&cluster, story, server).await;
            script.all_struck().await;
            overtake(&cluster, server, over).await;
            cluster.idle().await;
            let before = cluster.server(server).await;
            script.release();
            cluster.rest().await;
            assert_eq!(
                cluster.server(server).await,
                before,
                "the stale runner wrote"
            );
            server
        }
        Kinds::Silent => silent(&cluster, story, server).await,
        Kinds::SilentFrom(held, verdict) => {
            match silent_from(&cluster, story, server, held, verdict, silence).await {
                Some(server) => server,
                None => return false,
            }
        }
    };
    cluster.set_faults(Arc::new(Never));
    cluster.idle().await;
    cluster.revive().await;
    cluster.paid().await;
    // What a host says of its guests afterwards may begin an action of its own.
    let said = cluster.last_action_says(server).await;
    let ended = Ended {
        failed: said.is_some(),
        said,
        fault: cluster.server(server).await.fault,
    };
    cluster.look_again().await;
    if story.flow == accept::BACKUP && !overtaken(&case.kind) {
        let now = cluster.images.of_type("backup");
        // The second one took the place of the first, or is not there.
        assert_eq!((backups.len(), now.len()), (1, 1));
        assert_eq!(backups == now, ended.failed, "{backups:?}, {now:?}");
    }
    check(&cluster, case, server, ended).await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
    restored(&cluster, case, server).await;
    // Delete always wins, and leaves nothing.
    cluster.delete(server).await;
    cluster.idle().await;
    assert!(cluster.server(server).await.deleted);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
    assert_eq!(cluster.network.ports(), []);
    assert_eq!(cluster.volumes.attachments(), []);
    assert_eq!(cluster.volumes.made(), []);
    true
}

/// Starts the worker that died before the story.
async fn work_again(cluster: &Cluster, story: Story) {
    if story.died_in().is_some() {
        drop(cluster.start_worker("w").await);
    }
}

fn overtaken(kind: &Kinds) -> bool {
    matches!(kind, Kinds::Deleted(..) | Kinds::Overtaken(..))
}

async fn overtake(cluster: &Cluster, server: ServerId, over: Over) {
    match over {
        Over::SoftDelete => cluster.soft_delete(server).await,
        Over::HardReboot => cluster.reboot(server, true).await,
        Over::Evacuate => {
            cluster.lose_host(server).await;
            let state = cluster.first_state(accept::EVACUATE, server);
            let fit = |one: &db::instances::Instance| {
                [VmState::Active, VmState::Stopped].contains(&one.vm_state)
            };
            let accepted = cluster.try_act(server, accept::EVACUATE, state, fit).await;
            assert_eq!(accepted, Accepted::Yes);
        }
    }
}

/// What was soft-deleted over a flow that was left in half can be had back.
async fn restored(cluster: &Cluster, case: &Case, server: ServerId) {
    if cluster.server(server).await.vm_state != VmState::SoftDelete || !overtaken(&case.kind) {
        return;
    }
    let state = cluster.first_state(accept::RESTORE, server);
    cluster.act(server, accept::RESTORE, state).await;
    cluster.idle().await;
    let now = cluster.server(server).await;
    assert_eq!(
        (now.vm_state, now.power_state, now.fault),
        (VmState::Active, PowerState::Running, None)
    );
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// The agent is away for longer than anybody waits, and comes back.
async fn silent(cluster: &Cluster, story: Story, server: Option<ServerId>) -> ServerId {
    let host = &cluster.hosts[0];
    host.stop();
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(Duration::from_millis(600));
            settings.undo_deadline = Duration::from_millis(200);
        })
        .await;
    let server = begin(cluster, story, server).await;
    let takes_back = TAKES_BACK.contains(&story.flow);
    let waits = takes_back || WAITS.contains(&story.flow);
    if takes_back {
        cluster
            .until("it is being undone", async || !going_on(cluster).await)
            .await;
    }
    if waits {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(cluster.server(server).await.task_id.is_some());
        cluster.start_host(host);
    }
    cluster.idle().await;
    let owed = match story.flow {
        "build" | "delete" | "shelve_offload" | "unshelve" => vec![(host.name.clone(), server)],
        _ => Vec::new(),
    };
    assert_eq!(cluster.debts().await, owed);
    assert_eq!(cluster.audit_without_guests().await, Vec::<String>::new());
    if !waits {
        cluster.start_host(host);
    }
    cluster
        .change_settings(|settings| settings.longest_step = None)
        .await;
    server
}

/// Whether there is a task that is not being undone.
async fn going_on(cluster: &Cluster) -> bool {
    let open: Result<Vec<_>, sql::Error> = cluster.store.read(db::tasks::open).await;
    let mut open = open.unwrap().into_iter();
    open.any(|task| task.phase != db::tasks::Phase::Undoing)
}

/// All agents go away in the middle of a flow, for longer than any step waits, and come back. `None`: the flow ended
/// before that.
async fn silent_from(
    cluster: &Cluster,
    story: Story,
    server: Option<ServerId>,
    held: Vec<(Point, Fault)>,
    verdict: Verdict,
    silence: Duration,
) -> Option<ServerId> {
    let there: Vec<_> = cluster.hosts.iter().filter(|host| host.runs()).collect();
    let leave = || there.iter().for_each(|host| host.stop());
    let at_once = held.is_empty();
    let script = Arc::new(Script::new(held));
    cluster.set_faults(script.clone());
    if at_once {
        leave();
    }
    // Where nobody works, the server is taken over before somebody does again.
    let begun = match story.died_in() {
        Some(_) => Some(begin(cluster, story, server).await),
        None => None,
    };
    cluster
        .change_settings(|settings| {
            settings.longest_step = Some(silence);
            settings.undo_deadline = silence;
        })
        .await;
    let server = match begun {
        Some(server) => server,
        None => begin(cluster, story, server).await,
    };
    // What is held at its point has not ended.
    tokio::select! {
        () = script.all_struck() => {}
        () = cluster.idle() => return None,
    }
    leave();
    script.release();
    // However slow the steps before it are: the one that fails for the silence must have failed.
    if let Verdict::Fails(_) = verdict {
        cluster
            .until("it is being undone", async || !going_on(cluster).await)
            .await;
    }
    // What waits for its host all the same, behind a pivot, goes on when that is back.
    cluster.ended_within(silence * 3).await;
    for host in &there {
        cluster.start_host(host);
    }
    cluster.idle().await;
    // The agents let guests go on as they start, which no task waits for.
    cluster
        .until("no guest stands still", async || {
            !there.iter().any(|host| host.sim.stands_still(server))
        })
        .await;
    cluster
        .change_settings(|settings| settings.longest_step = None)
        .await;
    Some(server)
}

/// How the flow's action ended.
struct Ended {
    failed: bool,
    /// What the action says of that.
    said: Option<String>,
    /// What the server shows. What its host does by itself, when it hears how the guest is, may have cleared it since.
    fault: Option<db::instances::Fault>,
}

/// The state in which the case must end.
async fn check(cluster: &Cluster, case: &Case, id: ServerId, ended: Ended) {
    let story = case.story;
    let server = cluster.server(id).await;
    let fails = |faults: &[(Point, Fault)]| {
        faults.iter().any(|(at, fault)| {
            at.direction == Direction::Do && *fault == Fault::Fail && story.goes_back(at.step)
        })
    };
    let unwinds = story.flow != "delete"
        && match &case.kind {
            Kinds::Faults(faults) | Kinds::Stale(faults) => fails(faults),
            Kinds::Deleted(..) | Kinds::Overtaken(..) | Kinds::SilentFrom(..) => false,
            Kinds::Silent => !GOES_ON.contains(&story.flow) && !WAITS.contains(&story.flow),
        };
    let failed = ended.failed;
    let shown = (server.vm_state, server.power_state, server.host.is_some());
    if matches!(case.kind, Kinds::Deleted(..)) || story.flow == "delete" {
        assert!(server.deleted && !failed, "{shown:?}");
        return;
    }
    if let Kinds::Overtaken(held, over) = &case.kind {
        let (held, _) = held.last().unwrap();
        assert!(!failed, "the action that came last ends well");
        match over {
            Over::SoftDelete if is_restorable(story, held) => {
                assert_eq!((server.deleted, shown.0), (false, VmState::SoftDelete));
            }
            Over::SoftDelete => assert!(server.deleted, "{shown:?}"),
            Over::HardReboot => {
                assert_eq!(shown, (VmState::Active, PowerState::Running, true));
            }
            Over::Evacuate => assert!([VmState::Active, VmState::Stopped].contains(&shown.0)),
        }
        return;
    }
    if let Kinds::SilentFrom(_, verdict) = &case.kind {
        let said = ended.said.as_deref();
        let wanted = match verdict {
            Verdict::Fails(why) => Some(*why),
            Verdict::EndsWell => None,
            Verdict::Either => said.and(Some(SILENT)),
        };
        let wanted = wanted.map(|why| format!("Error: {why}"));
        assert_eq!(said, wanted.as_deref(), "the action shows the end");
        if let Some(fault) = &ended.fault {
            let shown = format!("Error: {}", fault.message);
            assert_eq!(Some(shown), wanted, "the server shows another end");
        }
        let fits = match failed {
            true => story.otherwise.contains(&shown.0),
            false => shown.0 == story.settled,
        };
        assert!(fits, "{shown:?}, {:?}", ended.fault);
        return;
    }
    assert_eq!(failed, unwinds, "the action shows the end");
    if !unwinds {
        let power = match story.settled {
            VmState::Active | VmState::Rescued => PowerState::Running,
            VmState::Paused => PowerState::Paused,
            VmState::Resized if !story.before.contains(&"stop") => PowerState::Running,
            _ => PowerState::Shutdown,
        };
        let placed = story.settled != VmState::ShelvedOffloaded;
        assert_eq!(shown, (story.settled, power, placed));
        assert_eq!(ended.fault, None);
        return;
    }
    let message = match case.kind {
        Kinds::Silent => SILENT,
        _ => INJECTED,
    };
    assert_eq!(
        ended.fault.map(|fault| fault.message).as_deref(),
        Some(message)
    );
    // It stays as its guest is, and can be used: the audit holds the two together.
    assert!(story.otherwise.contains(&shown.0), "{shown:?}");
    if story.flow == "build" {
        assert_eq!(shown, (VmState::Error, PowerState::NoState, false));
    }
}

/// What strikes in a case, in words.
fn kind_of(case: &Case) -> String {
    let kind = match &case.kind {
        Kinds::Faults(faults) => {
            let (at, fault) = faults.last().unwrap();
            format!("{fault:?} {:?} {:?}", at.when, at.direction)
        }
        Kinds::Stale(_) => "stale".to_owned(),
        Kinds::Deleted(_, false) => "deleted".to_owned(),
        Kinds::Deleted(_, true) => "deleted by another".to_owned(),
        Kinds::Overtaken(_, over) => format!("over by {over:?}"),
        Kinds::Silent => "silent".to_owned(),
        Kinds::SilentFrom(..) => "silent from a step on".to_owned(),
    };
    kind.to_lowercase()
}

/// How many cases there are of each kind.
fn by_kind(cases: &[Case]) -> String {
    let mut counts = BTreeMap::new();
    for case in cases {
        *counts.entry(kind_of(case)).or_insert(0) += 1;
    }
    let told: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    told.join(", ")
}

/// Runs cases side by side; returns what failed.
async fn run(kind: &Kind, cases: Vec<Case>) -> Vec<String> {
    let mut waiting = cases.into_iter();
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(case) = waiting.next()
        {
            let kind = kind.clone();
            running.spawn_blocking(move || alone(kind, case));
        }
        match running.join_next().await {
            Some(ended) => failed.extend(ended.unwrap()),
            None => return failed,
        }
    }
}

/// Runs a case on a runtime of its own, whose end is the end of everything the case has started.
fn alone(kind: Kind, case: Case) -> Option<String> {
    let name = format!("{case:?}");
    let run = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(carry_out(kind, case));
    };
    drop(testkit::take_panics());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    // A flow that panics and is tried again ends well all the same.
    let panics = testkit::take_panics();
    if ended.is_ok() && panics.is_empty() {
        return None;
    }
    let story = format!("{name}: {}", panics.join("; "));
    // At once: the others take minutes.
    testkit::tell(format_args!("fault matrix: failed: {story}"));
    Some(story)
}

/// Some of the cases, in an order of the seed's (xorshift64): first each kind once, then each flow once, both with as few
/// cases as that takes, then others.
fn sample(mut cases: Vec<Case>, mut seed: u64) -> Vec<Case> {
    for last in (1..cases.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let other = usize::try_from(seed % (last as u64 + 1)).unwrap();
        cases.swap(last, other);
    }
    let (mut kinds, mut flows, mut chosen) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (new_kind, new_flow) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut left = Vec::new();
        for case in cases {
            let (kind, flow) = (kind_of(&case), case.story.flow);
            let brings =
                (!new_kind || !kinds.contains(&kind)) && (!new_flow || !flows.contains(flow));
            if brings && chosen.len() < SAMPLE {
                kinds.insert(kind);
                flows.insert(flow);
                chosen.push(case);
            } else {
                left.push(case);
            }
        }
        cases = left;
    }
    chosen
}

/// Whatever the seed is.
#[tokio::test]
async fn a_sample_has_every_kind_and_every_flow() {
    let cases = all_cases().await;
    let kinds = |cases: &[Case]| -> BTreeSet<String> { cases.iter().map(kind_of).collect() };
    let flows =
        |cases: &[Case]| -> BTreeSet<&str> { cases.iter().map(|case| case.story.flow).collect() };
    let names =
        |cases: &[Case]| -> Vec<String> { cases.iter().map(|case| format!("{case:?}")).collect() };
    let mut samples = BTreeSet::new();
    for seed in 1..=20 {
        let chosen = sample(cases.clone(), seed);
        assert_eq!(chosen.len(), SAMPLE);
        assert_eq!(kinds(&chosen), kinds(&cases), "seed {seed}");
        assert_eq!(flows(&chosen), flows(&cases), "seed {seed}");
        assert_eq!(
            names(&chosen),
            names(&sample(cases.clone(), seed)),
            "{seed}"
        );
        samples.insert(names(&chosen));
    }
    assert_eq!(samples.len(), 20, "seeds choose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_step_of_every_flow_under_every_fault() {
    testkit::keep_panics();
    let everywhere = std::env::var("KILONOVA_TEST_ALL").is_ok_and(|all| all == "1");
    let only = std::env::var("KILONOVA_TEST_CASE").ok();
    let given = std::env::var("KILONOVA_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    let seed: u64 = seed
        .unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0)
        .max(1);
    let mut cases = all_cases().await;
    if let Some(only) = &only {
        cases.retain(|case| format!("{case:?}").contains(only.as_str()));
    }
    let mut failed = Vec::new();
    for kind in testkit::kinds() {
        let chosen = if kind.is_sqlite() || everywhere || only.is_some() {
            cases.clone()
        } else {
            testkit::tell(format_args!(
                "fault matrix: a sample, KILONOVA_TEST_SEED={seed}"
            ));
            sample(cases.clone(), seed)
        };
        let (count, start) = (chosen.len(), Instant::now());
        testkit::tell(format_args!("fault matrix: {}", by_kind(&chosen)));
        let wrong = run(&kind, chosen).await;
        let seconds = start.elapsed().as_secs_f64();
        testkit::tell(format_args!(
            "fault matrix: {count} cases on {kind:?}, {} failed, {seconds:.1} s",
            wrong.len()
        ));
        failed.extend(wrong);
    }
    assert!(
        failed.is_empty(),
        "{} cases failed:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

/// Also where the step is tried again and the flow ends well.
#[tokio::test]
async fn a_flow_that_panics_is_told_of() {
    testkit::keep_panics();
    let story = STORIES.iter().find(|story| story.flow == accept::DELETE);
    let story = *story.unwrap();
    let point = point(story, "ports", Direction::Do, When::After);
    let case = |fault| Case {
        story,
        kind: Kinds::Faults(vec![(point.clone(), fault)]),
        shared: false,
    };
    let sqlite = testkit::kinds().swap_remove(0);
    for (fault, told) in [(Fault::Panic, true), (Fault::Fail, false)] {
        let (kind, case) = (sqlite.clone(), case(fault));
        let failed = tokio::task::spawn_blocking(move || alone(kind, case)).await;
        let failed = failed.unwrap().unwrap_or_default();
        assert_eq!(failed.contains("an injected panic"), told, "{failed}");
    }
}
