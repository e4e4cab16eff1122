//! Claims tasks and runs them: any number of workers may do so at once.

use crate::drive::{Ran, drive, told};
use crate::faults::{Faults, Never};
use crate::flow::{Flow, StepName};
use crate::lease::Lease;
use crate::lost::Ear;
use crate::outcomes::Outcomes;
use bus::{Bell, Bus};
use db::tasks::Task;
use futures_util::FutureExt;
use sql::Store;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinHandle, JoinSet};
use tokio::time::Instant;
use types::{ServerId, TaskId};
use uuid::Uuid;

/// The longest pause after a panic.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many tasks a worker has at most, for each that may run.
pub const WITH_WAITING: usize = 32;

/// New tasks that wait to be taken over by a worker of their process.
const HANDED_OVER: usize = 256;

/// Times and bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tasks that run at once in one worker. Those that wait, for a host or before they try again, are not among them; of
    /// both together there are [`WITH_WAITING`] times as many at most.
    pub concurrency: usize,
    /// How often a worker says that it lives and looks for tasks nobody rang for.
    pub beat: Duration,
    /// How often it looks whether others live.
    pub look: Duration,
    /// A worker whose beats stood still for this long is dead. Its work goes on within this and two looks.
    pub lease: Duration,
    /// The first pause before a step is tried again; doubles up to ten seconds.
    pub retry: Duration,
    /// How long an undo is tried before what is left on a host becomes its debt.
    pub undo_deadline: Duration,
    /// A host of which nothing was heard for this long is down for good: no step waits for it any longer. One that an
    /// administrator has forced down is so at once.
    pub host_lost_after: Duration,
    /// No step gets longer than this, whatever its flow says; none means that flows decide.
    pub longest_step: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            beat: Duration::from_secs(2),
            look: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            retry: Duration::from_millis(100),
            undo_deadline: Duration::from_secs(120),
            host_lost_after: Duration::from_secs(90),
            longest_step: None,
        }
    }
}

/// What all runs of a worker share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) outcomes: Outcomes,
    pub(crate) faults: Arc<dyn Faults>,
    pub(crate) settings: Settings,
    pub(crate) ear: Ear,
    lease: Lease,
    runs: watch::Sender<usize>,
    /// Runs that do not wait.
    active: AtomicUsize,
    /// Told when a run begins to wait while there was no room for others.
    room: Notify,
}

impl Shared {
    /// How many more tasks may run now, where there are `all`.
    fn free(&self, all: usize) -> usize {
        let most = self.settings.concurrency;
        let free = most.saturating_sub(self.active.load(Ordering::Relaxed));
        free.min(most.saturating_mul(WITH_WAITING).saturating_sub(all))
    }

    /// Waits for something, and gives room to others meanwhile.
    pub(crate) async fn resting<T>(&self, what: impl Future<Output = T>) -> T {
        let _resting = Resting::begin(self);
        what.await
    }
}

/// A run that waits, until this is dropped.
struct Resting<'a>(&'a Shared);

impl<'a> Resting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let before = shared.active.fetch_sub(1, Ordering::Relaxed);
        if before >= shared.settings.concurrency {
            shared.room.notify_one();
        }
        Self(shared)
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_add(1, Ordering::Relaxed);
    }
}

/// One run that is under way, until this is dropped.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.runs.send_modify(|runs| *runs += 1);
        shared.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0
            .runs
            .send_modify(|runs| *runs = runs.saturating_sub(1));
    }
}

type Running = Pin<Box<dyn Future<Output = Ran> + Send>>;
type Runner = Arc<dyn Fn(Arc<Shared>, Task) -> Running + Send + Sync>;

/// Runs a task to its end; where the run itself panics, anew from what is stored.
async fn run(runner: Runner, shared: Arc<Shared>, mut task: Task) -> Ran {
    let mut pause = shared.settings.retry;
    loop {
        let mut known = task.clone();
        known.epoch = known.epoch.max(db::tasks::FIRST_EPOCH);
        let id = task.id;
        let panic = match AssertUnwindSafe(runner(Arc::clone(&shared), task))
            .catch_unwind()
            .await
        {
            Ok(ran) => return ran,
            Err(panic) => panic,
        };
        tracing::error!(task = %id, panic = told(panic.as_ref()), "a task's run panicked; it goes on from what is stored");
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let stored: Result<Option<Task>, sql::Error> = shared
                .store
                .look_once(move |tx| db::tasks::get(tx, id))
                .await;
            match stored {
                Ok(Some(stored)) if stored.is_run_as(&known) => {
                    task = stored;
                    break;
                }
                Ok(stored) => {
                    if stored.is_some_and(|stored| stored.is_new()) {
                        shared.bus.ring(Bell::Tasks);
                    }
                    return Ran::Fenced;
                }
                Err(error) => tracing::warn!(task = %id, %error, "the task cannot be read"),
            }
        }
    }
}

/// A host that has seen a later epoch than is on record does nothing under that one: the task goes on under the next.
async fn beyond(shared: &Shared, mut task: Task) -> Task {
    let (id, known) = (task.id, task.clone());
    let raised: Result<_, sql::Error> = shared
        .store
        .write(move |tx| db::tasks::raise_if_fenced(tx, &known))
        .await;
    match raised {
        Ok(Some(epoch)) => {
            tracing::warn!(task = %id, epoch, "its host has seen a later epoch than was on record: it goes on under the next one");
            task.epoch = epoch;
        }
        Ok(None) => {}
        // It is taken up again with the next beat.
        Err(error) => tracing::warn!(task = %id, %error, "the task's epoch cannot be raised"),
    }
    task
}

/// The flows a worker knows, before it starts.
pub struct Journal {
    name: String,
    process: Uuid,
    shared: Shared,
    flows: HashMap<&'static str, Runner>,
    steps: Vec<(&'static str, Vec<&'static str>)>,
    readers: HashMap<&'static str, Reader>,
}

/// Says whether a text is a flow's state.
type Reader = fn(&str) -> Result<(), serde_json::Error>;

impl Journal {
    /// A worker under this name; a name has one process at a time.
    pub fn new(name: &str, store: Store, bus: Bus, outcomes: Outcomes, settings: Settings) -> Self {
        let shared = Shared {
            ear: Ear::default(),
            store,
            bus,
            outcomes,
            faults: Arc::new(Never),
            lease: Lease::new(settings.lease),
            runs: watch::channel(0).0,
            active: AtomicUsize::new(0),
            room: Notify::new(),
            settings,
        };
        Self {
            name: name.to_owned(),
            process: Uuid::new_v4(),
            shared,
            flows: HashMap::new(),
            steps: Vec::new(),
            readers: HashMap::new(),
        }
    }

    /// With a flow that it can run.
    #[must_use]
    pub fn with<F: Flow>(mut self, flow: F) -> Self {
        let flow = Arc::new(flow);
        let runner: Runner =
            Arc::new(move |shared, task| Box::pin(drive(shared, Arc::clone(&flow), task)));
        self.flows.insert(F::NAME, runner);
        let reader: Reader = |text| serde_json::from_str::<F::State>(text).map(drop);
        self.readers.insert(F::NAME, reader);
        let steps = F::Step::ALL.iter().map(|step| step.as_str()).collect();
        self.steps.push((F::NAME, steps));
        self
    }

    /// The flows it can run, each with the names of its steps in order.
    pub fn steps(&self) -> &[(&'static str, Vec<&'static str>)] {
        &self.steps
    }

    /// Whether a stored state of a flow can be read.
    ///
    /// # Errors
    /// Why not.
    pub fn readable(&self, flow: &str, state: &str) -> Result<(), String> {
        let reader = self.readers.get(flow).ok_or("there is no such flow")?;
        reader(state).map_err(|error| error.to_string())
    }

    /// With faults, for tests.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.shared.faults = faults;
        self
    }

    /// Starts the worker.
    pub async fn start(self) -> Result<Worker, sql::Error> {
        let (name, process) = (self.name.clone(), self.process);
        let begun = Instant::now();
        let incarnation = self
            .shared
            .store
            .write(move |tx| db::tasks::start_worker(tx, &name, process))
            .await?;
        self.shared.lease.renew(begun);
        let runs = self.shared.runs.subscribe();
        let (intake, handed_over) = mpsc::channel(HANDED_OVER);
        let looping = Loop {
            handed_over,
            bell: self.shared.bus.listen(Bell::Tasks),
            name: self.name,
            process,
            incarnation,
            shared: Arc::new(self.shared),
            flows: self.flows,
            steps: self.steps,
            running: JoinSet::new(),
            of_server: HashMap::new(),
            seen: Sightings::default(),
            left: false,
            beaten: None,
            looked: Instant::now(),
            own_due: false,
        };
        Ok(Worker {
            handle: tokio::spawn(looping.run()),
            runs,
            intake: Intake(intake),
        })
    }
}

/// A running worker. Dropping it kills it where it stands, as the death of its process would.
pub struct Worker {
    handle: JoinHandle<()>,
    runs: watch::Receiver<usize>,
    intake: Intake,
}

/// Where a process hands new tasks over to its own worker, which then need not look for them.
#[derive(Clone)]
pub struct Intake(mpsc::Sender<Task>);

impl Intake {
    /// Hands a stored task over that nobody has run yet. It stays anybody's until the worker's first write about it, so
    /// nothing is lost with the process. `false`: the worker has too many, or none; whoever rings finds one that has time.
    pub fn hand_over(&self, task: Task) -> bool {
        self.0.try_send(task).is_ok()
    }
}

impl Worker {
    /// Where new tasks are handed over to it.
    pub fn intake(&self) -> Intake {
        self.intake.clone()
    }

    /// Whether it has stopped, for example because of an injected crash.
    pub fn stopped(&self) -> bool {
        self.handle.is_finished()
    }

    /// Whether it runs no task, not even one that was taken from it.
    pub fn rests(&self) -> bool {
        *self.runs.borrow() == 0
    }

    /// Waits until it rests.
    pub async fn rest(&self) {
        // Nobody runs anything when the sender is gone.
        let _ = self.runs.clone().wait_for(|runs| *runs == 0).await;
    }

    /// Waits until it has stopped.
    pub async fn wait(&mut self) {
        let _ = (&mut self.handle).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

struct Loop {
    handed_over: mpsc::Receiver<Task>,
    bell: bus::Listener,
    name: String,
    process: Uuid,
    incarnation: i64,
    shared: Arc<Shared>,
    flows: HashMap<&'static str, Runner>,
    steps: Vec<(&'static str, Vec<&'static str>)>,
    running: JoinSet<(ServerId, Ran)>,
    /// The run of each server and its task, so that a task which takes another's place waits for it to stop.
    of_server: HashMap<ServerId, (TaskId, AbortHandle)>,
    seen: Sightings,
    /// Tasks may have been left for want of room.
    left: bool,
    /// When it last said that it lives, and when it last looked at the others.
    beaten: Option<Instant>,
    looked: Instant,
    /// It is time to see whether all that is its own is run.
    own_due: bool,
}

impl Loop {
    async fn run(mut self) {
        let mut look = tokio::time::interval(self.shared.settings.look);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut dead = Vec::new();
        loop {
            tokio::select! {
                // In this order, so that the same events always have the same course; the beat is never late.
                biased;
                _ = look.tick() => {
                    let looked = match self.shared.lease.holds() {
                        true => self.look().await,
                        false => self.begin_again().await.then(|| (Vec::new(), true)),
                    };
                    match looked {
                        // Nobody died, and there is time for a look at the tasks later.
                        Some((found, false)) if found.is_empty() => {
                            dead.clear();
                            continue;
                        }
                        Some((found, beaten)) => {
                            dead = found;
                            self.own_due |= beaten;
                        }
                        None => {
                            tracing::error!(worker = self.name, "another process works under this name; stopping");
                            return;
                        }
                    }
                }
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    if self.ended(ended) {
                        return;
                    }
                    // There is room again, perhaps for what was left.
                    if !self.left {
                        continue;
                    }
                }
                () = self.shared.room.notified() => {}
                Some(task) = self.handed_over.recv() => {
                    if self.take(task).await {
                        continue;
                    }
                }
                () = self.bell.rung() => {}
                // Last: what was handed over and has been claimed meanwhile is known as such while its run lasts.
                () = std::future::ready(()), if self.own_due => {
                    self.own_due = false;
                    self.take_up().await;
                    continue;
                }
            }
            self.claim(&dead).await;
        }
    }

    /// Notes the end of a run; `true` stops the worker.
    fn ended(&mut self, ended: Result<(Id, (ServerId, Ran)), tokio::task::JoinError>) -> bool {
        match ended {
            Ok((run, (server, ran))) => {
                // Another run of the same task may have taken its place.
                if self
                    .of_server
                    .get(&server)
                    .is_some_and(|(_, current)| current.id() == run)
                {
                    self.of_server.remove(&server);
                }
                ran == Ran::Crashed
            }
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a run panicked; its task waits for the worker's next start");
                }
                false
            }
        }
    }

    /// Runs a new task that was handed over. `false`: it is to be claimed like any other, when there is time.
    async fn take(&mut self, mut task: Task) -> bool {
        let free = self.shared.free(self.running.len()) > 0;
        let taken = self.of_server.contains_key(&task.server);
        if taken || !free || !self.shared.lease.holds() {
            return false;
        }
        task.owner = Some(self.name.clone());
        task.incarnation = self.incarnation;
        self.launch(task).await;
        true
    }

    async fn claim(&mut self, dead: &[(String, i64)]) {
        loop {
            let free = self.shared.free(self.running.len());
            self.left = free == 0;
            if self.left {
                return;
            }
            let (name, incarnation, dead) = (self.name.clone(), self.incarnation, dead.to_vec());
            // Tasks of flows and steps that only a newer release knows are left to its workers.
            let flows = self.steps.clone();
            if flows.is_empty() {
                return;
            }
            let most = free.min(64);
            let limit = u64::try_from(most).unwrap_or(1);
            let claimed = self
                .shared
                .store
                .write(move |tx| db::tasks::claim(tx, &name, incarnation, &dead, &flows, limit))
                .await;
            match claimed {
                Ok(tasks) => {
                    // Fewer than were asked for: whoever brings another one rings.
                    let all = tasks.len() < most;
                    for task in tasks {
                        self.launch(task).await;
                    }
                    if all {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "tasks cannot be claimed");
                    self.left = true;
                    return;
                }
            }
        }
    }

    /// Runs what is this worker's by the records and nobody runs: a claim whose answer was lost may have taken it, even from
    /// a run to which it was handed over. Once is not enough: what was lost on its way may be carried out later. The epoch is
    /// that of the claim: nobody has acted under it yet, or whoever did has ended.
    async fn take_up(&mut self) {
        let (name, incarnation) = (self.name.clone(), self.incarnation);
        let store = self.shared.store.clone();
        let own: Result<_, sql::Error> = store
            .look_once(move |tx| db::tasks::of_worker(tx, &name, incarnation))
            .await;
        let own = match own {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(%error, "the worker's own tasks cannot be read");
                return;
            }
        };
        for (id, server) in own {
            // Its run may have ended since; then the task is gone, or it is found the next time. One of another task is of one
            // whose place this has taken.
            let runs = self.of_server.get(&server);
            let runs = runs.is_some_and(|(task, run)| *task == id && !run.is_finished());
            if runs || !self.shared.lease.holds() {
                continue;
            }
            let found = store.look_once(move |tx| db::tasks::get(tx, id)).await;
            let found = found.unwrap_or_else(|error: sql::Error| {
                tracing::warn!(task = %id, %error, "the task cannot be read");
                None
            });
            let unreadable = |task: &Task| task.waits.as_ref().is_some_and(|one| one.unreadable);
            let task = found.filter(|task| {
                task.owner.as_ref() == Some(&self.name)
                    && task.incarnation == self.incarnation
                    && !unreadable(task)
            });
            if let Some(task) = task {
                tracing::warn!(task = %id, %server, "a task that this worker has and does not run is taken up");
                let task = beyond(&self.shared, task).await;
                self.launch(task).await;
            }
        }
    }

    async fn launch(&mut self, task: Task) {
        let Some(runner) = self.flows.get(task.flow.as_str()).map(Arc::clone) else {
            tracing::error!(task = %task.id, flow = task.flow, "an unknown flow was claimed");
            return;
        };
        let previous = self.of_server.remove(&task.server);
        let (id, server) = (task.id, task.server);
        let shared = Arc::clone(&self.shared);
        let under_way = UnderWay::begin(&shared);
        let handle = self.running.spawn(async move {
            let _under_way = under_way;
            if let Some((_, old)) = previous {
                old.abort();
                while !old.is_finished() {
                    tokio::task::yield_now().await;
                }
            }
            let held = Arc::clone(&shared);
            let ran = held.lease.hold(run(runner, shared, task)).await;
            (server, ran.unwrap_or(Ran::Fenced))
        });
        self.of_server.insert(server, (id, handle));
    }

    /// Others may hold this worker for dead: it lets go of everything, and begins anew as one of its later incarnations,
    /// which takes what nobody else has taken. `false`: its name is another's now.
    async fn begin_again(&mut self) -> bool {
        tracing::warn!(
            worker = self.name,
            "the lease ran out; what was under way goes on from what is stored"
        );
        self.running.shutdown().await;
        self.of_server.clear();
        loop {
            let (name, process, incarnation) = (self.name.clone(), self.process, self.incarnation);
            let begun = Instant::now();
            let next: Result<Option<i64>, sql::Error> = self
                .shared
                .store
                .write(move |tx| db::tasks::restart_worker(tx, &name, process, incarnation))
                .await;
            match next {
                Ok(Some(next)) => {
                    self.incarnation = next;
                    self.shared.lease.renew(begun);
                    self.beaten = Some(begun);
                    return true;
                }
                Ok(None) => return false,
                // It may have been done: asked again, the database tells.
                Err(error) => tracing::warn!(%error, "the worker cannot begin again"),
            }
            tokio::time::sleep(self.shared.settings.retry).await;
        }
    }

    /// Says that this worker lives when it is time for that, and looks who does not: gives those, and whether it said so.
    /// `None` when its name is another's now.
    async fn look(&mut self) -> Option<(Vec<(String, i64)>, bool)> {
        let settings = &self.shared.settings;
        let due = self.beaten.is_none_or(|at| at.elapsed() >= settings.beat);
        let begun = Instant::now();
        let workers = self.workers(due).await;
        let now = Instant::now();
        // What passed while this process or the database stood still says nothing about the others.
        let passed = now
            .duration_since(self.looked)
            .min(self.shared.settings.look * 2);
        self.looked = now;
        let workers = match workers {
            Ok(workers) => workers,
            Err(error) => {
                tracing::warn!(%error, "the worker cannot say that it lives");
                return Some((Vec::new(), false));
            }
        };
        if due {
            self.beaten = Some(now);
        }
        let own = |(name, incarnation, _): &&(String, i64, i64)| {
            *name == self.name && *incarnation == self.incarnation
        };
        workers.iter().find(own)?;
        // One that ran out meanwhile is not renewed: the next look sees that.
        if due && self.shared.lease.holds() {
            self.shared.lease.renew(begun);
        }
        let dead = self
            .seen
            .dead(&self.name, workers, passed, self.shared.settings.lease);
        Some((dead, due))
    }

    async fn workers(&self, beat: bool) -> Result<Vec<(String, i64, i64)>, sql::Error> {
        let store = &self.shared.store;
        if !beat {
            return store.read(db::tasks::workers).await;
        }
        let (name, incarnation) = (self.name.clone(), self.incarnation);
        store
            .write(move |tx| {
                db::tasks::beat(tx, &name, incarnation)?;
                db::tasks::workers(tx)
            })
            .await
    }
}

/// Beats of other workers, and for how long they stood still while this one looked.
#[derive(Default)]
struct Sightings(HashMap<(String, i64), (i64, Duration)>);

impl Sightings {
    /// The workers other than `own` whose beats stand still for `lease`, `passed` after the last look; of each its last
    /// dead incarnation. Pure.
    fn dead(
        &mut self,
        own: &str,
        workers: Vec<(String, i64, i64)>,
        passed: Duration,
        lease: Duration,
    ) -> Vec<(String, i64)> {
        let mut dead = Vec::new();
        let mut seen = HashMap::new();
        for (name, incarnation, beats) in workers.into_iter().filter(|(name, ..)| name != own) {
            let key = (name, incarnation);
            let still = match self.0.get(&key) {
                Some((known, still)) if *known == beats => *still + passed,
                _ => Duration::ZERO,
            };
            if still >= lease {
                dead.push(key.clone());
            } else if incarnation > 1 {
                // Earlier incarnations of a worker are dead at once.
                dead.push((key.0.clone(), incarnation - 1));
            }
            seen.insert(key, (beats, still));
        }
        self.0 = seen;
        dead
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_worker_is_dead_after_its_lease_and_not_because_time_passed_unseen() {
        let second = Duration::from_secs(1);
        let lease = 3 * second;
        let mut seen = Sightings::default();
        let mut look = |beats: i64, passed| {
            let workers = vec![("own".to_owned(), 2, 7), ("other".to_owned(), 1, beats)];
            !seen.dead("own", workers, passed, lease).is_empty()
        };
        assert!(!look(1, second), "seen for the first time");
        assert!(!look(1, second) && !look(1, second));
        assert!(look(1, second), "three seconds on the same beat");
        assert!(!look(2, second), "it beats again");
        assert!(!look(2, second) && !look(3, second) && !look(3, second));
    }

    #[test]
    fn earlier_lives_of_a_worker_are_dead_at_once() {
        let workers = vec![("other".to_owned(), 3, 1)];
        let dead = Sightings::default().dead("own", workers, Duration::ZERO, Duration::MAX);
        assert_eq!(dead, [("other".to_owned(), 2)], "and those before");
    }
}
