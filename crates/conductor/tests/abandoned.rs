#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Tasks that an operator gives up, in every flow and at every step: their servers are in ERROR, and can be deleted and
//! evacuated; nothing stays of what was begun, and nothing goes that is all that there is of a server.
//!
//! Some of the cases, in which each flow is, chosen by a printed seed (`KILONOVA_TEST_SEED` repeats one, `KILONOVA_TEST_ALL=1`
//! runs everything, `KILONOVA_TEST_CASE` those with such words).

mod stories;

use db::{accept, repair};
use journal::faults::{Fault, Never, Point, Script, When};
use sql::{Error, Tx};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stories::{STORIES, Story, begin, prepare};
use testkit::{Cluster, Options};
use types::agent::Direction;
use types::{ServerId, Timestamp, VmState};

/// Cases that run at once.
const AT_ONCE: usize = 6;
/// The longest that one may take: more than what the cluster waits for.
const PATIENCE: Duration = Duration::from_secs(240);
/// Cases of a test that are run at least, and one of each flow.
const SAMPLE: usize = 30;

/// What becomes of the server afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// It is deleted.
    Deleted,
    /// Its host dies, and it is evacuated.
    Evacuated,
    /// An audit mends what it finds; then it is rebooted hard.
    Mended,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Case {
    story: Story,
    step: &'static str,
    when: When,
    shared: bool,
    then: Then,
}

/// Flows whose servers can be evacuated over what they have begun.
const EVACUATED: &[&str] = &[
    "snapshot",
    "backup",
    "snapshot_volumes",
    "shelve",
    "resize",
    "live_migration",
    "evacuate",
    "attach_interface",
    "detach_interface",
    "attach_volume",
    "detach_volume",
    "swap_volume",
    "extend_volume",
    "rebuild",
    "reboot",
];
/// Flows that take a server to another host.
const MOVING: &[&str] = &["live_migration", "evacuate", "resize"];

/// Stands still at this point until it is given up there.
async fn given_up(cluster: &Cluster, case: Case) -> ServerId {
    let story = case.story;
    let server = prepare(cluster, story).await;
    let point = Point {
        flow: story.flow,
        step: case.step,
        direction: Direction::Do,
        when: case.when,
    };
    let script = Arc::new(Script::new([(point, Fault::Hold)]));
    cluster.set_faults(script.clone());
    let server = begin(cluster, story, server).await;
    script.all_struck().await;
    abandon(cluster, server).await;
    script.release();
    cluster.rest().await;
    cluster.set_faults(Arc::new(Never));
    server
}

async fn abandon(cluster: &Cluster, server: ServerId) {
    let task = cluster.server(server).await.task_id.unwrap();
    let abandoning = move |tx: &mut Tx<'_>| -> Result<_, Error> {
        repair::abandon(tx, task, "Given up.", Timestamp::now())
    };
    let ended = cluster.store.write(abandoning).await.unwrap();
    assert_eq!(ended.unwrap().server, server);
    for host in &cluster.hosts {
        cluster.ring(host);
    }
}

/// What is wrong when that is over.
async fn run(case: Case) -> Vec<String> {
    let cluster = Cluster::new(Options {
        hosts: 3,
        shared: case.shared,
        ..Options::default()
    })
    .await;
    cluster.network.bind_to_several();
    let server = given_up(&cluster, case).await;
    let left = cluster.server(server).await;
    assert_eq!((left.vm_state, left.task_state), (VmState::Error, None));
    assert_eq!(left.fault.unwrap().message, "Given up.");
    assert!(cluster.last_action_failed(server).await);
    let mut wrong = match case.then {
        Then::Deleted => {
            cluster.revive().await;
            cluster.paid().await;
            findings(&cluster).await
        }
        Then::Evacuated => evacuated(&cluster, server).await,
        Then::Mended => mended(&cluster, case, server).await,
    };
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    cluster.paid().await;
    wrong.extend(cluster.audit().await);
    if !cluster.network.ports().is_empty() || !cluster.volumes.attachments().is_empty() {
        wrong.push("it has left ports or volumes".to_owned());
    }
    wrong
}

/// What is found at once, but what an operator is to decide.
async fn findings(cluster: &Cluster) -> Vec<String> {
    let found: Result<Vec<_>, Error> = cluster.store.read(repair::audit).await;
    let found = found.unwrap().into_iter();
    let found = found.filter(|one| !one.wants_a_word());
    found.map(|one| format!("found: {one:?}")).collect()
}

async fn evacuated(cluster: &Cluster, server: ServerId) -> Vec<String> {
    if cluster.server(server).await.host.is_none() {
        return Vec::new();
    }
    let gone = cluster.lose_host(server).await.name.clone();
    let state = cluster.first_state("evacuate", server);
    cluster.act(server, "evacuate", state).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    let mut wrong = Vec::new();
    if after.vm_state != VmState::Active || after.host == Some(gone) {
        let shown = (after.vm_state, after.fault, after.host);
        wrong.push(format!("it is not evacuated: {shown:?}"));
    }
    if !after.kept.unfinished.is_empty() {
        wrong.push(format!("it remembers {:?}", after.kept.unfinished));
    }
    cluster.revive().await;
    cluster.paid().await;
    wrong.extend(cluster.audit().await);
    wrong
}

/// All hosts are up: what is left on other hosts goes, and the server's disk stays.
async fn mended(cluster: &Cluster, case: Case, server: ServerId) -> Vec<String> {
    cluster.revive().await;
    cluster.paid().await;
    let its = cluster.server(server).await.host;
    for host in &cluster.hosts {
        let there = host.guests().await.into_iter();
        let left: Vec<_> = there.filter(|_| Some(&host.name) != its.as_ref()).collect();
        let seen = host.name.clone();
        let noting = cluster
            .store
            .write(move |tx| db::leftovers::replace(tx, &seen, &left, Timestamp::now()));
        noting.await.unwrap();
    }
    cluster.mend().await;
    cluster.idle().await;
    cluster.paid().await;
    let mut wrong = Vec::new();
    for host in &cluster.hosts {
        if Some(&host.name) != its.as_ref() && !host.guests().await.is_empty() {
            wrong.push(format!("a guest is left on {}", host.name));
        }
    }
    if its.is_none() {
        return wrong;
    }
    let disks = cluster.hosts[0].sim.shared_disks();
    if disks.iter().all(|(id, _)| *id != server) {
        wrong.push("its disk is gone".to_owned());
    }
    if cluster.server(server).await.kept.unsettled.is_some() {
        return wrong;
    }
    cluster
        .act(server, "reboot", serde_json::json!({ "hard": true }))
        .await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    if after.vm_state != VmState::Active || after.host != its {
        wrong.push(format!("it is {}, {:?}", after.vm_state, after.fault));
    }
    if case.story.flow == "live_migration" {
        let (port, _) = cluster.port_of(server);
        let bound = cluster.network.host_of(&port);
        if bound != its.as_ref().map(|its| its.0.clone()) {
            wrong.push(format!("its port is bound to {bound:?}, it is on {its:?}"));
        }
        wrong.extend(cluster.audit().await);
    }
    let disks = cluster.hosts[0].sim.shared_disks();
    let owner = its.unwrap().0;
    if !disks.contains(&(server, owner.clone())) {
        wrong.push(format!("its disks are {disks:?}, it is on {owner}"));
    }
    wrong
}

/// Each step of the flows, before and after what it does.
async fn cases(fits: impl Fn(&Story) -> bool, shared: bool, then: Then) -> Vec<Case> {
    let none = Cluster::new(Options {
        hosts: 0,
        ..Options::default()
    });
    let flows = none.await.flows();
    let only = std::env::var("KILONOVA_TEST_CASE").unwrap_or_default();
    let mut cases = Vec::new();
    let fitting = STORIES.iter().filter(|story| story.flow != "delete");
    for story in fitting.filter(|story| fits(story)) {
        let (_, steps) = flows.iter().find(|(flow, _)| *flow == story.flow).unwrap();
        for &step in steps {
            cases.extend([When::Before, When::After].map(|when| Case {
                story: *story,
                step,
                when,
                shared,
                then,
            }));
        }
    }
    cases.retain(|case| format!("{case:?}").contains(&only));
    cases
}

/// Some of them (xorshift64), and one of each flow and of what becomes of its server.
fn sample(mut cases: Vec<Case>) -> Vec<Case> {
    let set = |name| std::env::var(name).ok();
    if set("KILONOVA_TEST_ALL").is_some_and(|all| all == "1") || set("KILONOVA_TEST_CASE").is_some()
    {
        return cases;
    }
    let given = set("KILONOVA_TEST_SEED").and_then(|seed| seed.parse().ok());
    let seed: u64 = given
        .unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0)
        .max(1);
    let (mut at, mut told, mut chosen, mut rest) = (seed, BTreeSet::new(), Vec::new(), Vec::new());
    while !cases.is_empty() {
        at ^= at << 13;
        at ^= at >> 7;
        at ^= at << 17;
        let index = usize::try_from(at % cases.len() as u64).unwrap();
        let case = cases.swap_remove(index);
        match told.insert((case.story.flow, format!("{:?}", case.then))) {
            true => chosen.push(case),
            false => rest.push(case),
        }
    }
    let more = SAMPLE.saturating_sub(chosen.len());
    chosen.extend(rest.into_iter().take(more));
    let count = chosen.len();
    testkit::tell(format_args!(
        "abandoned: a sample of {count}, KILONOVA_TEST_SEED={seed}"
    ));
    chosen
}

/// Runs them, some at a time.
fn all(cases: Vec<Case>) {
    testkit::keep_panics();
    assert!(!cases.is_empty() || std::env::var("KILONOVA_TEST_CASE").is_ok());
    let waiting = Mutex::new(sample(cases));
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = waiting.lock().unwrap().pop() else {
                        return;
                    };
                    let wrong = alone(case);
                    if !wrong.is_empty() {
                        let (flow, before) = (case.story.flow, case.story.before);
                        let (when, step, then) = (case.when, case.step, case.then);
                        let told =
                            format!("{flow} {before:?} {when:?} {step}, {then:?}: {wrong:#?}");
                        testkit::tell(&told);
                        found.lock().unwrap().push(told);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// On a runtime of its own.
fn alone(case: Case) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let running = async { tokio::time::timeout(PATIENCE, run(case)).await };
    let run = AssertUnwindSafe(|| runtime.block_on(running));
    match std::panic::catch_unwind(run) {
        Ok(Ok(wrong)) => wrong,
        Ok(Err(_)) => vec!["it does not end".to_owned()],
        Err(_) => testkit::take_panics(),
    }
}

#[tokio::test]
async fn whatever_is_given_up_can_be_deleted() {
    all(cases(|_| true, false, Then::Deleted).await);
}

#[tokio::test]
async fn whatever_is_given_up_can_be_evacuated() {
    let fits = |story: &Story| EVACUATED.contains(&story.flow);
    all(cases(fits, false, Then::Evacuated).await);
}

#[tokio::test]
async fn a_move_on_shared_storage_that_is_given_up_costs_no_disk() {
    let fits = |story: &Story| MOVING.contains(&story.flow);
    let mut each = Vec::new();
    for then in [Then::Deleted, Then::Evacuated, Then::Mended] {
        each.extend(cases(fits, true, then).await);
    }
    // A simulated server has one shared disk, and not one beside the one that is aside.
    each.retain(|case| case.story.flow != "resize" || case.then != Then::Evacuated);
    all(each);
}

/// The guest has arrived, and nothing has followed it: not its ports, and not its volume.
#[tokio::test]
async fn what_a_guest_that_has_arrived_left_behind_follows_it_or_goes() {
    testkit::keep_panics();
    let story = STORIES.iter().find(|story| story.flow == "live_migration");
    let story = Story {
        before: &["attach_volume"],
        ..*story.unwrap()
    };
    for then in [Then::Evacuated, Then::Mended, Then::Deleted] {
        for step in ["arrive", "bind"] {
            let case = Case {
                story,
                step,
                when: When::Before,
                shared: true,
                then,
            };
            let wrong = run(case).await;
            assert_eq!(wrong, Vec::<String>::new(), "{step}, {then:?}");
        }
    }
}

/// Its state was reset meanwhile.
#[tokio::test]
async fn nothing_is_forgotten_of_what_was_given_up_before() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    for (flow, step) in [
        ("snapshot", "locate"),
        ("shelve", "stop"),
        ("live_migration", "ready"),
    ] {
        let point = Point {
            flow,
            step,
            direction: Direction::Do,
            when: When::Before,
        };
        let script = Arc::new(Script::new([(point, Fault::Hold)]));
        cluster.set_faults(script.clone());
        let state = cluster.first_state(flow, server);
        cluster.act(server, flow, state).await;
        script.all_struck().await;
        abandon(&cluster, server).await;
        script.release();
        cluster.rest().await;
        cluster.paid().await;
        let reset = cluster.store.write(move |tx| -> Result<_, Error> {
            let sql = "UPDATE instances SET vm_state = 'active' WHERE uuid = ?";
            tx.execute(sql, &[server.into()])
        });
        assert_eq!(reset.await.unwrap(), 1);
    }
    let kept = cluster.server(server).await.kept.unfinished;
    let flows: Vec<&str> = kept.iter().map(|one| one.flow.as_str()).collect();
    assert_eq!(flows, ["snapshot", "shelve", "live_migration"]);
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
    assert_eq!(cluster.images.all(), []);
}

#[tokio::test]
async fn a_server_is_not_started_while_another_host_may_run_it_on_the_same_files() {
    let cluster = Cluster::new(Options {
        shared: true,
        ..Options::default()
    })
    .await;
    let story = STORIES.iter().find(|story| story.flow == "live_migration");
    let story = *story.unwrap();
    let server = prepare(&cluster, story).await.unwrap();
    let here = cluster.server(server).await.host.unwrap();
    let there = cluster.hosts.iter().find(|host| host.name != here).unwrap();
    let point = Point {
        flow: story.flow,
        step: "move",
        direction: Direction::Do,
        when: When::Before,
    };
    let script = Arc::new(Script::new([(point, Fault::Hold)]));
    cluster.set_faults(script.clone());
    begin(&cluster, story, Some(server)).await;
    script.all_struck().await;
    // It is silent, and has to remove what it has.
    there.stop();
    abandon(&cluster, server).await;
    script.release();
    cluster.rest().await;
    cluster.set_faults(Arc::new(Never));
    assert_eq!(cluster.debts().await, [(there.name.clone(), server)]);
    for (starts, how) in [
        (accept::REBOOT, serde_json::json!({ "hard": true })),
        (accept::RESCUE, serde_json::json!({})),
        (accept::REBUILD, serde_json::json!({})),
    ] {
        cluster.act(server, starts, how).await;
        cluster.idle().await;
        let refused = cluster.server(server).await.fault.unwrap();
        assert!(
            refused
                .message
                .starts_with("Another host may run the server"),
            "{starts}: {refused:?}"
        );
        assert!(refused.details.unwrap().starts_with(there.name.as_str()));
    }
    cluster.set_forced_down(there, true).await;
    cluster.reboot(server, true).await;
    cluster.idle().await;
    let runs = cluster.server(server).await;
    assert_eq!((runs.vm_state, runs.fault), (VmState::Active, None));
    cluster.revive().await;
    cluster.paid().await;
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
