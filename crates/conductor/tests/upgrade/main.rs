#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Work that an older release has begun is ended by this one. `journal.json` holds what that release stored of every flow
//! at each of its steps, with `*` for each id; a released entry is never changed.
//!
//! `KILONOVA_TEST_WRITE_JOURNAL=1` adds the flows and steps that are not there yet, as this release stores them.

#[path = "../stories/mod.rs"]
mod stories;
mod work;

use journal::faults::{Fault, Never, Point, Script, When};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use stories::{STORIES, Story, begin, prepare};
use testkit::{Cluster, Options};
use tokio::task::JoinSet;
use types::agent::Direction;

/// Cases that run at once.
const AT_ONCE: usize = 4;
/// What stands for an id, an address or a name that another run does not have.
const ANY: &str = "*";

/// What to do when this release cannot go on with what an older one has begun.
const ADVICE: &str = "\nWork that is under way when a conductor is upgraded goes on from what its predecessor stored. So:\n\
    * a new field of a flow's state needs a default (`#[serde(default)]`) with which the flow can go on;\n\
    * a field or a variant stays readable under its old name (`#[serde(alias = \"old\")]`), a step keeps its name and what it\n  \
      means; one that is not needed any more stays, and does nothing, until no release that can be upgraded has it;\n\
    * entries of tests/upgrade/journal.json are what a release has written: they are not changed to make this test pass.";

/// How what is missing is added.
const WRITES: &str =
    "KILONOVA_TEST_WRITE_JOURNAL=1 adds it, so that the next release can be held against it";

/// One task in the middle of a flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    flow: String,
    step: String,
    /// Whether it is being undone.
    undo: bool,
    state: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Value>,
}

/// What an older release has stored.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    /// The release that wrote it.
    release: String,
    tasks: Vec<Entry>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/journal.json")
}

fn stored() -> Journal {
    match std::fs::read(path()) {
        Ok(text) => serde_json::from_slice(&text).unwrap(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Journal {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            tasks: Vec::new(),
        },
        Err(error) => panic!("{error}"),
    }
}

fn told(flow: &str, step: &str, undo: bool) -> String {
    format!("{flow} at {step}{}", if undo { ", going back" } else { "" })
}

/// The first story of a flow.
fn story(flow: &str) -> Story {
    let found = STORIES.iter().find(|story| story.flow == flow);
    *found.unwrap_or_else(|| panic!("no story of {flow}"))
}

/// All places where a task can stand: each step on the way there, and the first one on the way back.
async fn places() -> Vec<(Story, &'static str, bool)> {
    let cluster = Cluster::new(Options {
        hosts: 0,
        ..Options::default()
    })
    .await;
    let mut places = Vec::new();
    for (flow, steps) in cluster.flows() {
        let story = story(flow);
        places.extend(steps.iter().map(|step| (story, *step, false)));
        let back = steps.iter().rfind(|step| story.goes_back(step));
        places.extend(back.map(|step| (story, *step, true)));
    }
    places
}

/// A cluster with a task that stands at this place and that nobody runs.
async fn standing(story: Story, step: &'static str, undo: bool) -> (Cluster, db::tasks::Task) {
    let cluster = Cluster::new(Options::default()).await;
    let server = prepare(&cluster, story).await;
    let at = |direction, when| Point {
        flow: story.flow,
        step,
        direction,
        when,
    };
    let script = Arc::new(match undo {
        false => Script::new([(at(Direction::Do, When::Before), Fault::Hold)]),
        true => Script::new([
            (at(Direction::Do, When::Before), Fault::Fail),
            (at(Direction::Undo, When::Before), Fault::Hold),
        ]),
    });
    cluster.set_faults(script.clone());
    begin(&cluster, story, server).await;
    script.all_struck().await;
    cluster.kill_worker("w");
    cluster.set_faults(Arc::new(Never));
    let open: Result<Vec<_>, sql::Error> = cluster.store.read(db::tasks::open).await;
    let mut task = open.unwrap().pop().expect("the task is there");
    // A first step that only decides is not on record; older releases wrote down each.
    assert_eq!(task.step.get_or_insert_with(|| step.to_owned()), step);
    (cluster, task)
}

/// Without what another run does not have.
fn nameless(value: &Value) -> Value {
    let varies = |text: &str| {
        let of_test =
            text.starts_with("host-") || text.contains("00:00") || text.starts_with("10.");
        of_test || text.contains(':') || uuid::Uuid::parse_str(text).is_ok() || text.contains("tap")
    };
    match value {
        Value::String(text) if varies(text) => ANY.into(),
        Value::Array(all) => all.iter().map(nameless).collect(),
        Value::Object(all) => {
            let fields = all
                .iter()
                .map(|(name, value)| (name.clone(), nameless(value)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

/// What the older release would have stored here: its words, with the ids of this run in their places. `Err` is a place
/// that this release does not have.
fn as_stored_then(then: &Value, now: &Value, place: &str) -> Result<Value, String> {
    match (then, now) {
        (Value::String(any), _) if any == ANY => match now {
            Value::Null => Err(format!("{place} is not known any more")),
            value => Ok(value.clone()),
        },
        (Value::Object(then), now) => {
            let field = |(name, value): (&String, &Value)| {
                let place = format!("{place}.{name}");
                let now = now.get(name).unwrap_or(&Value::Null);
                Ok((name.clone(), as_stored_then(value, now, &place)?))
            };
            Ok(Value::Object(
                then.iter().map(field).collect::<Result<_, String>>()?,
            ))
        }
        (Value::Array(then), now) => {
            let item = |(index, value): (usize, &Value)| {
                let now = now.get(index).unwrap_or(&Value::Null);
                as_stored_then(value, now, &format!("{place}[{index}]"))
            };
            then.iter().enumerate().map(item).collect()
        }
        (value, _) => Ok(value.clone()),
    }
}

/// Puts the older release's words in the place of this one's, and lets a worker go on.
async fn goes_on(entry: Entry, work: Arc<work::Kept>) -> Result<(), String> {
    let story = story(&entry.flow);
    let name = told(&entry.flow, &entry.step, entry.undo);
    let places = places().await;
    let mut steps = places
        .iter()
        .filter(|(one, ..)| one.flow == entry.flow)
        .map(|(_, step, _)| *step);
    let Some(step) = steps.find(|step| *step == entry.step) else {
        return Err(format!("{name}: this release knows no such step"));
    };
    let goes_back = |(one, at, undo): &(Story, &str, bool)| {
        (one.flow, *at, *undo) == (story.flow, step, entry.undo)
    };
    // A step from which this release does not turn back any more may stand there all the same.
    let as_now = places.iter().any(goes_back);
    let (cluster, mut task) = standing(story, step, entry.undo && as_now).await;
    if as_now {
        let now = work::stored_at(&cluster.store, task.id, step, entry.undo).await;
        work.agrees((&entry.flow, step, entry.undo), now.as_ref())?;
    }
    if entry.undo {
        task.phase = db::tasks::Phase::Undoing;
    }
    let event = match as_now {
        true => None,
        false => task.event.take(),
    };
    let now: Value = serde_json::from_str(&task.state).unwrap();
    let then =
        as_stored_then(&entry.state, &now, "state").map_err(|why| format!("{name}: {why}"))?;
    if let Err(why) = cluster.readable(&entry.flow, &then.to_string()) {
        return Err(format!("{name}: {why}\n{then:#}"));
    }
    task.state = then.to_string();
    task.failure = entry.failure.map(|failure| failure.to_string());
    let (server, saved) = (task.server, task.clone());
    let save = move |tx: &mut sql::Tx<'_>| {
        let now = types::Timestamp::now();
        if let Some(event) = event {
            db::actions::finish_event(tx, event, Some("failed"), now)?;
        }
        db::tasks::save(tx, &saved, saved.epoch, None, now)
    };
    let saved: Result<bool, sql::Error> = cluster.store.write(save).await;
    assert!(saved.unwrap());
    cluster.start_worker("w").await;
    cluster.idle().await;
    cluster.revive().await;
    cluster.paid().await;
    let failed = cluster.last_action_failed(server).await;
    cluster.look_again().await;
    let shown = cluster.server(server).await;
    let fits = match entry.undo {
        false => !failed && (shown.vm_state == story.settled || shown.deleted),
        true => failed && story.otherwise.contains(&shown.vm_state),
    };
    if !fits {
        let ended = (
            shown.vm_state,
            failed,
            shown.fault.map(|fault| fault.message),
        );
        return Err(format!("{name}: it ended as {ended:?}"));
    }
    match cluster.audit().await {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(format!("{name}: {wrong:?}")),
    }
}

/// Runs on a runtime of its own, whose end is the end of everything that was started.
fn alone<T>(what: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(what)
}

async fn side_by_side<I: Send + 'static, T: Send + 'static>(
    all: Vec<I>,
    run: impl Fn(I) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let (mut waiting, mut running, mut ended) = (all.into_iter(), JoinSet::new(), Vec::new());
    loop {
        while running.len() < AT_ONCE
            && let Some(one) = waiting.next()
        {
            let run = run.clone();
            running.spawn_blocking(move || run(one));
        }
        match running.join_next().await {
            Some(one) => ended.push(one.unwrap()),
            None => return ended,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_release_has_begun_is_ended_by_this_one() {
    let journal = stored();
    assert!(!journal.tasks.is_empty());
    let (count, work) = (journal.tasks.len(), Arc::new(work::kept()));
    let go_on = move |entry| alone(goes_on(entry, Arc::clone(&work)));
    let ended = side_by_side(journal.tasks, go_on).await;
    let wrong: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    testkit::tell(format_args!(
        "upgrade: {count} tasks of release {}, {} cannot go on",
        journal.release,
        wrong.len()
    ));
    assert!(
        wrong.is_empty(),
        "{} of {count} tasks that release {} has begun cannot go on:\n{}{ADVICE}",
        wrong.len(),
        journal.release,
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flow_and_step_of_this_release_is_in_the_journal() {
    let mut journal = stored();
    let known: BTreeSet<String> = journal
        .tasks
        .iter()
        .map(|entry| told(&entry.flow, &entry.step, entry.undo))
        .collect();
    let mut missing = places().await;
    missing.retain(|(story, step, undo)| !known.contains(&told(story.flow, step, *undo)));
    let names: Vec<String> = missing
        .iter()
        .map(|(story, step, undo)| told(story.flow, step, *undo))
        .collect();
    if std::env::var("KILONOVA_TEST_WRITE_JOURNAL").is_ok_and(|write| write == "1") {
        let written = side_by_side(missing, |(story, step, undo)| {
            let (_cluster, task) = alone(async {
                let (cluster, task) = standing(story, step, undo).await;
                (drop(cluster), task)
            });
            let json = |text: &str| nameless(&serde_json::from_str(text).unwrap());
            Entry {
                flow: task.flow,
                step: step.to_owned(),
                undo,
                state: json(&task.state),
                failure: task.failure.as_deref().map(json),
            }
        });
        journal.tasks.extend(written.await);
        journal
            .tasks
            .sort_by_key(|entry| told(&entry.flow, &entry.step, entry.undo));
        // A task is a line.
        let tasks = journal
            .tasks
            .iter()
            .map(|task| serde_json::to_string(task).unwrap());
        let tasks: Vec<String> = tasks.collect();
        let (release, tasks) = (journal.release, tasks.join(",\n"));
        let text = format!("{{\"release\": \"{release}\", \"tasks\": [\n{tasks}\n]}}\n");
        std::fs::write(path(), text).unwrap();
        return;
    }
    assert!(
        names.is_empty(),
        "new since {}: {}.\nKILONOVA_TEST_WRITE_JOURNAL=1 adds what this release stores of them to tests/upgrade/journal.json, \
         so that the next release can be held against it. A step that has another name than before is not new:{ADVICE}",
        journal.release,
        names.join("; ")
    );
}
