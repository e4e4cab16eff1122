#![allow(clippy::unwrap_used)]
//! A toy flow under every fault at every step, on every database.

mod fenced;
mod handed_over;
mod in_doubt;

use crate::faults::{Fault, Point, Script, When};
use crate::{
    Context, End, Failure, Flow, HostWork, Journal, Outcomes, Settings, StepError, StepName,
};
use async_trait::async_trait;
use bus::{Bell, Bus};
use serde::{Deserialize, Serialize};
use sql::testing::{Pace, Simulated, Way};
use sql::{Store, Tx};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use types::agent::{Direction, Verb, Work, WorkKey, WorkOutcome, WorkReport};
use types::{HostName, PowerState, ServerId, TaskId, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    A,
    B,
    C,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::A, Self::B, Self::C];

    fn as_str(self) -> &'static str {
        ["a", "b", "c"][self as usize]
    }
}

/// What the flow has done outside.
#[derive(Default)]
struct World {
    effects: Mutex<BTreeSet<&'static str>>,
    runs: [AtomicUsize; 3],
}

impl World {
    fn effects(&self) -> Vec<&'static str> {
        self.effects.lock().unwrap().iter().copied().collect()
    }

    fn runs(&self) -> Vec<usize> {
        self.runs
            .iter()
            .map(|runs| runs.load(Ordering::SeqCst))
            .collect()
    }
}

#[derive(Clone, Default)]
struct Toy {
    world: Arc<World>,
    pivot: Option<Step>,
    /// The host that has work in step b.
    host: Option<HostName>,
    may_owe: bool,
    /// Step c fails so often and asks to begin again at b.
    redo: usize,
    /// The run itself panics so often between two steps.
    panics: Arc<AtomicUsize>,
    /// There is nothing to do in step b.
    skips: bool,
    /// Step a changes nothing outside.
    decides: bool,
}

impl Toy {
    /// What a step changes outside. What the first one has decided shows in what the next one does: a run that was overtaken
    /// before its first write has changed nothing.
    fn affect(&self, step: Step) {
        let mut effects = self.world.effects.lock().unwrap();
        if self.decides && step == Step::B {
            effects.insert(Step::A.as_str());
        }
        if !self.only_decides(step) {
            effects.insert(step.as_str());
        }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    failed: usize,
    trace: Vec<String>,
}

#[async_trait]
impl Flow for Toy {
    const NAME: &'static str = "toy";
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        self.pivot
    }

    fn event(&self, _step: Step) -> Option<&'static str> {
        Some("toy_event")
    }

    fn host(&self, step: Step, _state: &State) -> Option<HostName> {
        self.host.clone().filter(|_| step == Step::B)
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        let left = |left: usize| left.checked_sub(1);
        let (now, then) = (Ordering::SeqCst, Ordering::SeqCst);
        if step == Step::B && self.panics.fetch_update(now, then, left).is_ok() {
            panic!("an injected panic between two steps");
        }
        Duration::from_secs(300)
    }

    fn may_owe(&self, step: Step) -> bool {
        self.may_owe && step == Step::B
    }

    fn only_decides(&self, step: Step) -> bool {
        self.decides && step == Step::A
    }

    fn skips(&self, step: Step, _state: &State) -> bool {
        self.skips && step == Step::B
    }

    fn host_work(&self, step: Step, _direction: Direction, state: &State) -> Option<HostWork> {
        let host = self.host(step, state)?;
        Some(HostWork {
            host,
            verb: Verb::EnsureAbsent,
        })
    }

    async fn run(
        &self,
        _cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        assert_eq!(outcome.is_some(), self.host(step, state).is_some());
        self.world.runs[step as usize].fetch_add(1, Ordering::SeqCst);
        self.affect(step);
        if step == Step::C && state.failed < self.redo {
            let mut failure = Failure::new(500, "not here");
            failure.redo_from = Some("b".to_owned());
            return Err(StepError::Fail(failure));
        }
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        step: Step,
        _state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        self.world.effects.lock().unwrap().remove(step.as_str());
        Ok(())
    }

    fn commit(
        &self,
        _tx: &mut Tx<'_>,
        _cx: &Context,
        step: Step,
        direction: Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        state
            .trace
            .push(format!("{}{}", direction.as_str(), step.as_str()));
        Ok(())
    }

    fn note_failure(&self, state: &mut State, _failure: &Failure) {
        state.failed += 1;
    }

    /// The end's words go where the test can read them after the task is gone.
    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let end = match end {
            End::Done => "done".to_owned(),
            End::Unwound(failure) => failure.message.clone(),
        };
        let by = db::actions::Requester {
            request_id: &state.trace.join(" "),
            user_id: &end,
            project_id: "",
            trace: None,
        };
        db::actions::start(tx, cx.server, "end", &by, now)?;
        Ok(())
    }
}

/// A database with one task in it.
struct Bench {
    store: Store,
    bus: Bus,
    outcomes: Outcomes,
    task: TaskId,
    server: ServerId,
    toy: Toy,
    settings: Settings,
}

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// The lease is so long that a machine which stands still now and then loses none; tests of leases have one of their own.
fn quick() -> Settings {
    Settings {
        concurrency: 4,
        beat: Duration::from_millis(20),
        look: Duration::from_millis(20),
        lease: Duration::from_secs(60),
        retry: Duration::from_millis(1),
        undo_deadline: Duration::from_secs(3600),
        host_lost_after: Duration::from_secs(90),
        longest_step: None,
    }
}

/// Workers that look for tasks once, when they start, and at nobody else: nothing happens by the clock.
fn waiting() -> Settings {
    Settings {
        beat: Duration::from_secs(3600),
        look: Duration::from_secs(3600),
        lease: Duration::from_secs(3600),
        ..quick()
    }
}

impl Bench {
    async fn new(store: &Store, toy: Toy) -> Self {
        let bench = Self::empty(store, toy);
        bench.put().await;
        bench
    }

    /// Without the task.
    fn empty(store: &Store, toy: Toy) -> Self {
        Self {
            store: store.clone(),
            bus: Bus::new(),
            outcomes: Outcomes::new(store.clone()),
            task: TaskId::random(),
            server: ServerId::random(),
            toy,
            settings: quick(),
        }
    }

    /// Stores the task.
    async fn put(&self) -> db::tasks::Task {
        let (task, server) = (self.task, self.server);
        let insert = move |tx: &mut Tx<'_>| -> Result<_, sql::Error> {
            let by = db::actions::Requester {
                request_id: "req",
                user_id: "u",
                project_id: "p",
                trace: None,
            };
            let now = Timestamp::now();
            let action = db::actions::start(tx, server, "toy", &by, now)?;
            let task = db::tasks::NewTask {
                id: task,
                flow: "toy",
                server,
                request_id: "req",
                action: Some(action),
                state: r#"{"failed":0,"trace":[]}"#,
                trace: None,
            };
            db::tasks::insert(tx, &task, now)
        };
        self.store.write(insert).await.unwrap()
    }

    async fn worker(&self, name: &str, script: &Arc<Script>) -> crate::Worker {
        let faults: Arc<dyn crate::faults::Faults> = Arc::clone(script) as _;
        let journal = Journal::new(
            name,
            self.store.clone(),
            self.bus.clone(),
            self.outcomes.clone(),
            self.settings.clone(),
        );
        journal
            .with(self.toy.clone())
            .with_faults(faults)
            .start()
            .await
            .unwrap()
    }

    async fn task(&self) -> Option<db::tasks::Task> {
        let id = self.task;
        let found: Result<_, sql::Error> = self.store.read(move |tx| db::tasks::get(tx, id)).await;
        found.unwrap()
    }

    async fn until_gone(&self) {
        let begun = Instant::now();
        while let Some(task) = self.task().await {
            assert!(begun.elapsed() < PATIENCE, "the task stays: {task:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Runs the task to its end; a worker that crashes is started again under its name.
    async fn carry_out(&self, script: Script) -> Ended {
        let script = Arc::new(script);
        let worker = self.worker("w", &script).await;
        self.carry_out_with(worker, script).await
    }

    async fn carry_out_with(&self, mut worker: crate::Worker, script: Arc<Script>) -> Ended {
        loop {
            tokio::select! {
                () = self.until_gone() => break,
                () = worker.wait() => worker = self.worker("w", &script).await,
            }
        }
        assert!(script.struck(), "a fault did not strike");
        self.ended().await
    }

    async fn ended(&self) -> Ended {
        let server = self.server;
        let read = move |tx: &mut Tx<'_>| -> Result<_, sql::Error> {
            let actions = db::actions::of_server(tx, server)?;
            let mut open = 0;
            for action in &actions {
                let events = db::actions::events(tx, action.id)?;
                open += events.iter().filter(|event| event.result.is_none()).count();
            }
            Ok((actions, open, db::work::count(tx)?))
        };
        let (actions, open_events, work) = self.store.read(read).await.unwrap();
        assert_eq!((open_events, work), (0, 0), "open events, stored work");
        assert_eq!(actions.len(), 2, "one end: {actions:?}");
        assert_eq!(
            actions[1].message.is_some(),
            actions[0].user_id != "done",
            "the action shows the end"
        );
        Ended {
            end: actions[0].user_id.clone(),
            trace: actions[0].request_id.clone(),
            effects: self.toy.world.effects(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Ended {
    end: String,
    trace: String,
    effects: Vec<&'static str>,
}

fn done() -> Ended {
    Ended {
        end: "done".to_owned(),
        trace: "doa dob doc".to_owned(),
        effects: vec!["a", "b", "c"],
    }
}

fn at(step: Step, direction: Direction, when: When) -> Point {
    Point {
        flow: "toy",
        step: step.as_str(),
        direction,
        when,
    }
}

async fn stores() -> Vec<sql::testing::TestStore> {
    let stores = sql::testing::databases().await;
    for one in &stores {
        db::migrate(&one.store).await.unwrap();
    }
    stores
}

const BOTH: [When; 2] = [When::Before, When::After];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step() {
    for database in stores().await {
        let mut cases = 0;
        for &step in Step::ALL {
            for when in BOTH {
                for fault in [Fault::Fail, Fault::Panic, Fault::Repeat, Fault::Crash] {
                    // Forward.
                    let bench = Bench::new(&database.store, Toy::default()).await;
                    let point = at(step, Direction::Do, when);
                    let ended = bench.carry_out(Script::new([(point, fault)])).await;
                    let name = format!("{} {step:?} {when:?} {fault:?}", database.name);
                    let said = match fault {
                        Fault::Fail => Some("An injected fault."),
                        Fault::Panic => Some("Unexpected error."),
                        _ => None,
                    };
                    if let Some(said) = said {
                        let undone: Vec<&str> = ended.trace.split(' ').collect();
                        assert_eq!(ended.end, said, "{name}");
                        assert_eq!(undone.len(), 2 * (step as usize) + 1, "{name}: {undone:?}");
                        assert_eq!(ended.effects, Vec::<&str>::new(), "{name}");
                    } else {
                        assert_eq!(ended, done(), "{name}");
                    }
                    // Back, from the last step on.
                    let bench = Bench::new(&database.store, Toy::default()).await;
                    let script = [
                        (at(Step::C, Direction::Do, When::After), Fault::Fail),
                        (at(step, Direction::Undo, when), fault),
                    ];
                    let ended = bench.carry_out(Script::new(script)).await;
                    assert_eq!(ended.trace, "doa dob undoc undob undoa", "{name}, undo");
                    assert_eq!(ended.effects, Vec::<&str>::new(), "{name}, undo");
                    cases += 2;
                }
            }
        }
        println!("journal: {cases} cases on {}", database.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_panics_goes_on_without_a_restart() {
    for database in stores().await {
        let bench = Bench::new(&database.store, Toy::default()).await;
        bench.toy.panics.store(3, Ordering::SeqCst);
        assert_eq!(bench.carry_out(Script::new([])).await, done());
        assert_eq!(bench.toy.panics.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_runner_changes_nothing() {
    for database in stores().await {
        for &step in Step::ALL {
            for (when, direction) in [
                (When::Before, Direction::Do),
                (When::After, Direction::Do),
                (When::After, Direction::Undo),
            ] {
                let mut bench = Bench::new(&database.store, Toy::default()).await;
                // The first worker does not look whether its name was taken: its run goes on until a write is refused.
                bench.settings = waiting();
                let failing = (at(Step::C, Direction::Do, When::After), Fault::Fail);
                let held = (at(step, direction, when), Fault::Hold);
                let script = match direction {
                    Direction::Do => Script::new([held]),
                    Direction::Undo => Script::new([failing, held]),
                };
                let script = Arc::new(script);
                let first = bench.worker("w", &script).await;
                script.all_struck().await;
                let before = bench.task().await.unwrap();
                let _second = bench.worker("w", &Arc::new(Script::new([]))).await;
                bench.until_gone().await;
                let ended = bench.ended().await;
                let name = format!("{step:?} {direction:?} {when:?}");
                assert_eq!(before.epoch, 1);
                assert!(!first.rests(), "{name}: the first run was stopped");
                let runs = bench.toy.world.runs()[step as usize];
                script.release();
                first.rest().await;
                assert!(!first.stopped(), "{name}: the first worker was stopped");
                // Before its effect it could not know yet.
                let again = usize::from(when == When::Before);
                let after = bench.toy.world.runs()[step as usize];
                assert_eq!(after, runs + again, "{name}");
                assert_eq!(bench.ended().await, ended, "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_was_taken_over_ends_for_its_runner() {
    for database in stores().await {
        for &step in Step::ALL {
            for when in BOTH {
                let bench = Bench::new(&database.store, Toy::default()).await;
                let held = (at(step, Direction::Do, when), Fault::Hold);
                let script = Arc::new(Script::new([held]));
                let worker = bench.worker("w", &script).await;
                script.all_struck().await;
                let id = bench.task;
                let taken: Result<_, sql::Error> = bench
                    .store
                    .write(move |tx| db::tasks::take_over(tx, id))
                    .await;
                let taken = taken.unwrap().unwrap();
                assert_eq!(taken.step.as_deref(), Some(step.as_str()));
                script.release();
                worker.rest().await;
                // An end would be one more.
                let server = bench.server;
                let read = move |tx: &mut Tx<'_>| db::actions::of_server(tx, server);
                assert_eq!(bench.store.read(read).await.unwrap().len(), 1);
                assert_eq!(bench.task().await, None);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_beats_stand_still_loses_its_tasks() {
    for database in stores().await {
        let mut bench = Bench::new(&database.store, Toy::default()).await;
        // A long lease at first: nobody else takes what a living worker has.
        bench.settings.lease = Duration::from_secs(3600);
        let script = Arc::new(Script::new([(
            at(Step::B, Direction::Do, When::After),
            Fault::Hold,
        )]));
        let first = bench.worker("one", &script).await;
        script.all_struck().await;
        let none = Arc::new(Script::new([]));
        let living = bench.worker("two", &none).await;
        // That it looks again and again and takes nothing is what is tested: nothing comes that could be waited for.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let task = bench.task().await.unwrap();
        assert_eq!((task.owner.as_deref(), task.epoch), (Some("one"), 1));
        drop(living);
        bench.settings.lease = Duration::from_millis(500);
        let _second = bench.worker("two", &none).await;
        drop(first);
        bench.until_gone().await;
        assert_eq!(bench.ended().await, done());
        // It goes on where the first one was; on a slow machine it may lose its own lease, and begin a step again.
        let runs = bench.toy.world.runs();
        assert!(runs[0] == 1 && runs[1] >= 2 && runs[2] >= 1, "{runs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_process_of_a_name_stops_and_takes_nothing() {
    let database = stores().await.remove(0);
    let bench = Bench::new(&database.store, Toy::default()).await;
    let script = Arc::new(Script::new([(
        at(Step::A, Direction::Do, When::Before),
        Fault::Hold,
    )]));
    let none = Arc::new(Script::new([]));
    let mut old = bench.worker("w", &none).await;
    let _new = bench.worker("w", &script).await;
    tokio::time::timeout(PATIENCE, old.wait()).await.unwrap();
    assert!(old.stopped());
}

/// A line on which answers are lost until the worker has begun again; the answer to that is the last one.
#[derive(Default)]
struct Lossy {
    loses: AtomicBool,
    begun_again: AtomicBool,
    /// The worker's incarnation after the write that follows the one with which it has begun again; 0 before that.
    asked_again: AtomicI64,
}

impl Pace for Lossy {
    fn there(&self) -> Way {
        Box::pin(std::future::ready(None))
    }

    fn written(&self, tx: &mut Tx<'_>) {
        let workers = db::tasks::workers(tx).unwrap_or_default();
        let incarnations = workers.iter().map(|(_, incarnation, _)| *incarnation);
        let newest = incarnations.max().unwrap_or_default();
        if newest > 1 && self.begun_again.swap(true, Ordering::SeqCst) {
            let (now, then) = (Ordering::SeqCst, Ordering::SeqCst);
            // The first time only.
            let _ = self.asked_again.compare_exchange(0, newest, now, then);
        }
    }

    fn back(&self) -> Way {
        let loses = self.loses.load(Ordering::SeqCst);
        if self.begun_again.load(Ordering::SeqCst) {
            self.loses.store(false, Ordering::SeqCst);
        }
        let lost = loses.then(|| sql::Error::InDoubt("lost on the way back".to_owned()));
        Box::pin(std::future::ready(lost))
    }
}

#[tokio::test]
async fn a_worker_whose_restart_was_taken_and_not_answered_works_on() {
    let database = Simulated::new().unwrap();
    let clear = database.store(Arc::new(Lossy::default()));
    db::migrate(&clear).await.unwrap();
    let bench = Bench::new(&clear, Toy::default()).await;
    let line = Arc::new(Lossy::default());
    let held = (at(Step::B, Direction::Do, When::Before), Fault::Hold);
    let script = Arc::new(Script::new([held]));
    let store = database.store(line.clone());
    let outcomes = Outcomes::new(store.clone());
    let settings = Settings {
        lease: Duration::from_secs(2),
        ..quick()
    };
    let journal = Journal::new("w", store, bench.bus.clone(), outcomes, settings);
    let faults: Arc<dyn crate::faults::Faults> = script.clone();
    let journal = journal.with(bench.toy.clone()).with_faults(faults);
    let worker = journal.start().await.unwrap();
    script.all_struck().await;
    // Its beats arrive and it does not know; so its lease runs out, and it begins again.
    line.loses.store(true, Ordering::SeqCst);
    bench.until_gone().await;
    assert!(line.begun_again.load(Ordering::SeqCst) && !worker.stopped());
    assert_eq!(bench.ended().await, done());
    let incarnation = line.asked_again.load(Ordering::SeqCst);
    assert_eq!(incarnation, 2, "asked again, it is the same one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_the_pivot_there_is_no_way_back() {
    for database in stores().await {
        for &step in Step::ALL {
            for when in BOTH {
                let toy = Toy {
                    pivot: Some(Step::B),
                    ..Toy::default()
                };
                let bench = Bench::new(&database.store, toy).await;
                let point = at(step, Direction::Do, when);
                let ended = bench.carry_out(Script::new([(point, Fault::Fail)])).await;
                if step == Step::A {
                    assert_eq!(ended.effects, Vec::<&str>::new());
                } else {
                    assert_eq!(ended, done(), "{step:?} {when:?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_may_ask_to_begin_again_at_an_earlier_step() {
    for database in stores().await {
        let toy = Toy {
            redo: 2,
            ..Toy::default()
        };
        let bench = Bench::new(&database.store, toy).await;
        let ended = bench.carry_out(Script::new([])).await;
        let trace = "doa dob undoc undob dob undoc undob dob doc";
        assert_eq!((ended.end.as_str(), ended.trace.as_str()), ("done", trace));
        assert_eq!(bench.toy.world.runs(), [1, 3, 3]);
    }
}

fn with_host(may_owe: bool) -> Toy {
    Toy {
        host: Some("h".into()),
        may_owe,
        ..Toy::default()
    }
}

async fn debts(store: &Store) -> usize {
    let debts: Result<Vec<_>, sql::Error> = store.read(db::work::debts).await;
    debts.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silent_host_may_owe_is_owed() {
    for database in stores().await {
        for (may_owe, end) in [(true, "done"), (false, "The host did not answer in time.")] {
            let mut bench = Bench::new(&database.store, with_host(may_owe)).await;
            bench.settings.longest_step = Some(Duration::from_millis(100));
            bench.settings.undo_deadline = Duration::from_millis(100);
            let ended = bench.carry_out(Script::new([])).await;
            assert_eq!(ended.end, end);
            // Owed by the step itself, or by its undo: once in either case.
            assert_eq!(debts(&database.store).await, if may_owe { 1 } else { 2 });
        }
    }
}

/// Answers the host's work; an undo fails the first time.
async fn host(bench: &Bench, failures: usize) -> tokio::task::JoinHandle<()> {
    let (store, outcomes) = (bench.store.clone(), bench.outcomes.clone());
    let mut bell = bench.bus.listen(Bell::Host("h".into()));
    let failures = Arc::new(AtomicUsize::new(failures));
    tokio::spawn(async move {
        loop {
            bell.rung().await;
            let pending: Result<_, sql::Error> = store
                .read(|tx| db::work::pending(tx, &"h".into(), 10))
                .await;
            for (work, stored) in pending.unwrap().work {
                let asked = (work.key.clone(), stored);
                let fails = work.key.direction == Direction::Undo
                    && failures
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                            left.checked_sub(1)
                        })
                        .is_ok();
                let outcome = if fails {
                    WorkOutcome::failed(types::agent::FailureKind::Host, "no")
                } else {
                    WorkOutcome::done(PowerState::Running)
                };
                let report = WorkReport {
                    key: work.key,
                    epoch: work.epoch,
                    outcome,
                };
                // Another host's word counts for nothing.
                outcomes
                    .report(&"other".into(), report.clone())
                    .await
                    .unwrap();
                outcomes.report(&"h".into(), report.clone()).await.unwrap();
                let left: Result<_, sql::Error> = store
                    .read(|tx| db::work::pending(tx, &"h".into(), 10))
                    .await;
                let mut left = left.unwrap().work.into_iter();
                let again = left.any(|(work, stored)| (work.key, stored) == asked);
                assert!(!again, "what was reported is asked for again");
                // A report may come twice.
                outcomes.report(&"h".into(), report).await.unwrap();
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_do_their_part_under_every_fault() {
    for database in stores().await {
        for when in BOTH {
            for fault in [Fault::Fail, Fault::Repeat, Fault::Crash] {
                for direction in [Direction::Do, Direction::Undo] {
                    let bench = Bench::new(&database.store, with_host(false)).await;
                    let answering = host(&bench, 0).await;
                    let mut script = Vec::new();
                    if direction == Direction::Undo {
                        script.push((at(Step::C, Direction::Do, When::Before), Fault::Fail));
                    }
                    script.push((at(Step::B, direction, when), fault));
                    let ended = bench.carry_out(Script::new(script)).await;
                    let unwinds = fault == Fault::Fail || direction == Direction::Undo;
                    let name = format!("{} {direction:?} {when:?} {fault:?}", database.name);
                    assert_eq!(ended.effects.is_empty(), unwinds, "{name}: {ended:?}");
                    answering.abort();
                }
            }
        }
        assert_eq!(debts(&database.store).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_not_asked_for_what_is_being_undone() {
    for database in stores().await {
        let bench = Bench::new(&database.store, with_host(false)).await;
        let script = Arc::new(Script::new([
            (at(Step::B, Direction::Do, When::Before), Fault::Fail),
            (at(Step::B, Direction::Undo, When::Before), Fault::Hold),
        ]));
        let _worker = bench.worker("w", &script).await;
        script.all_struck().await;
        let read = |tx: &mut Tx<'_>| db::work::pending(tx, &"h".into(), 10);
        let pending = database.store.read(read).await.unwrap();
        let pending: Vec<_> = pending
            .work
            .iter()
            .map(|(work, _)| work.key.direction)
            .collect();
        assert_eq!(pending, [Direction::Undo]);
        let answering = host(&bench, 0).await;
        script.release();
        bench.until_gone().await;
        answering.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_without_work_is_passed_on_the_way_there() {
    for database in stores().await {
        let toy = || Toy {
            skips: true,
            ..Toy::default()
        };
        let bench = Bench::new(&database.store, toy()).await;
        let ended = bench.carry_out(Script::new([])).await;
        assert_eq!(
            (ended.trace.as_str(), ended.end.as_str()),
            ("doa doc", "done")
        );
        assert_eq!(ended.effects, ["a", "c"]);
        let bench = Bench::new(&database.store, toy()).await;
        let failing = (at(Step::C, Direction::Do, When::After), Fault::Fail);
        let ended = bench.carry_out(Script::new([failing])).await;
        assert_eq!(ended.trace, "doa undoc undob undoa");
        assert!(ended.effects.is_empty(), "{:?}", ended.effects);
    }
}

/// It is not on record as begun, and whatever happens in it is as if it had not begun, or is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_step_that_only_decides() {
    for database in stores().await {
        for when in BOTH {
            for fault in [Fault::Crash, Fault::Fail, Fault::Repeat] {
                if fault == Fault::Repeat && when == When::Before {
                    continue;
                }
                let toy = Toy {
                    decides: true,
                    ..Toy::default()
                };
                let bench = Bench::new(&database.store, toy).await;
                let ended = bench
                    .carry_out(Script::new([(at(Step::A, Direction::Do, when), fault)]))
                    .await;
                if fault == Fault::Fail {
                    assert_eq!(ended.trace, "undoa");
                    assert!(ended.effects.is_empty(), "{:?}", ended.effects);
                } else {
                    assert_eq!(ended, done());
                }
            }
        }
    }
}

/// Its slot is free for other work at once, not at the end of the step's time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_a_task_does_not_wait_for_its_host() {
    for database in stores().await {
        for gone in [false, true] {
            let bench = Bench::new(&database.store, with_host(false)).await;
            let worker = bench.worker("w", &Arc::new(Script::new([]))).await;
            let mut asked = bench.bus.listen(Bell::Host("h".into()));
            let read = |tx: &mut Tx<'_>| db::work::pending(tx, &"h".into(), 10);
            while database.store.read(read).await.unwrap().work.is_empty() {
                asked.rung().await;
            }
            let task = bench.task().await.unwrap();
            let taking = database.store.write(move |tx| -> Result<(), sql::Error> {
                db::work::remove_of_task(tx, task.id)?;
                let sql = if gone {
                    "DELETE FROM tasks WHERE id = ?"
                } else {
                    "UPDATE tasks SET owner = 'other', epoch = epoch + 1 WHERE id = ?"
                };
                tx.execute(sql, &[task.id.into()])?;
                Ok(())
            });
            taking.await.unwrap();
            let rest = tokio::time::timeout(PATIENCE, worker.rest());
            rest.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_a_host_refuses_at_first_is_tried_again() {
    for database in stores().await {
        let bench = Bench::new(&database.store, with_host(false)).await;
        let answering = host(&bench, 3).await;
        let failing = (at(Step::C, Direction::Do, When::Before), Fault::Fail);
        let ended = bench.carry_out(Script::new([failing])).await;
        assert_eq!(ended.trace, "doa dob undoc undob undoa");
        assert_eq!(debts(&database.store).await, 0);
        answering.abort();
    }
}

#[tokio::test]
async fn work_in_words_of_a_newer_release_keeps_nobody_from_the_rest() {
    for database in stores().await {
        let pending = database.store.write(|tx| -> Result<_, sql::Error> {
            let host = "h".into();
            let work = |step: &str| Work {
                key: WorkKey {
                    task: TaskId::random(),
                    step: step.to_owned(),
                    direction: Direction::Do,
                },
                epoch: 1,
                server: ServerId::random(),
                request: String::new(),
                deadline_seconds: 60,
                verb: Verb::EnsureRunning,
                trace: None,
                passphrase: None,
            };
            let now = Timestamp::now();
            for step in ["old", "new", "other"] {
                db::work::put(tx, &host, &work(step), now)?;
            }
            tx.execute(
                "UPDATE host_work SET verb = ? WHERE step = 'new'",
                &[r#"{"verb":"ensure_quantum"}"#.into()],
            )?;
            db::work::pending(tx, &host, 10)
        });
        let pending = pending.await.unwrap();
        let mut steps: Vec<_> = pending
            .work
            .iter()
            .map(|(work, _)| &*work.key.step)
            .collect();
        steps.sort_unstable();
        assert_eq!(steps, ["old", "other"]);
        let unknown: Vec<_> = pending.unknown.iter().map(|key| &*key.step).collect();
        assert_eq!(unknown, ["new"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_unknown_flows_and_steps_are_left_to_newer_workers() {
    for database in stores().await {
        let bench = Bench::new(&database.store, Toy::default()).await;
        let newer = [TaskId::random(), TaskId::random()];
        let server = bench.server;
        let insert = move |tx: &mut Tx<'_>| -> Result<(), sql::Error> {
            for (id, flow) in newer.into_iter().zip(["newer", "toy"]) {
                let task = db::tasks::NewTask {
                    id,
                    flow,
                    server,
                    request_id: "req",
                    action: None,
                    state: "{}",
                    trace: None,
                };
                db::tasks::insert(tx, &task, Timestamp::now())?;
            }
            // A newer release's worker has begun it, and died.
            let steps = vec!["a", "between"];
            for mut task in db::tasks::claim(tx, "w", 0, &[], &[("toy", steps)], 9)? {
                if task.id == newer[1] {
                    task.step = Some("between".to_owned());
                    assert!(db::tasks::save(
                        tx,
                        &task,
                        task.epoch,
                        None,
                        Timestamp::now()
                    )?);
                }
            }
            Ok(())
        };
        bench.store.write(insert).await.unwrap();
        bench.carry_out(Script::new([])).await;
        for (id, owner) in newer.into_iter().zip([None, Some("w".to_owned())]) {
            let left: Result<_, sql::Error> =
                bench.store.read(move |tx| db::tasks::get(tx, id)).await;
            let left = left.unwrap().unwrap();
            assert_eq!((left.owner, left.incarnation), (owner, 0));
        }
    }
}
