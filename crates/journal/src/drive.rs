//! Runs one task of one flow from where it stands to its end.

mod waits;

use crate::faults::{Fault, Point, When};
use crate::flow::{Context, End, Failure, Flow, StepError, StepName};
use crate::handing::Handed;
use crate::lost::{Proof, Watch};
use crate::outcomes::{Expected, Told};
use crate::worker::Shared;
use bus::Bell;
use db::tasks::{Phase, Task};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;
use types::agent::{Direction, FailureKind, Verb, Work, WorkKey, WorkOutcome};
use types::{HostName, Timestamp, Trace};
use waits::Waiting;

/// How a run ended, for the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// The flow has ended.
    Ended,
    /// Somebody else runs the task now, or it is gone.
    Fenced,
    /// An injected crash: the worker must stop as if its process had died.
    Crashed,
}

/// Why an attempt at a step came to nothing.
enum Trouble {
    Step(StepError),
    /// The host did not answer in time.
    Silent,
    /// It is down for good: why that is known.
    Lost(String),
    Crash,
}

impl From<StepError> for Trouble {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<sql::Error> for Trouble {
    fn from(error: sql::Error) -> Self {
        Self::Step(error.into())
    }
}

/// The event to open with a step (name and host), and the work to store.
type Start = (
    Option<(&'static str, Option<String>)>,
    Option<(HostName, Work)>,
);

struct Run<F: Flow> {
    shared: Arc<Shared>,
    flow: Arc<F>,
    task: Task,
    state: F::State,
    cx: Context,
    /// The epoch under which the task is on record. While that is the one of a new task, the database does not show that
    /// this run has it.
    stored: i64,
    /// A wait that began before the work of the next step was stored.
    expected: Option<Expected>,
    /// The work of the step that begins, when it was stored by this run and just now.
    fresh: Option<Fresh>,
    /// An outcome that is not stored yet; what comes of it will be.
    told: Option<(WorkKey, Told)>,
    /// Since when it has been waiting, if it is.
    waiting: Option<Waiting>,
    /// What it has seen of hosts that it waited for.
    watch: Watch,
    /// The host of the last try is down for good.
    lost: bool,
}

/// Work that was just stored.
struct Fresh {
    key: WorkKey,
    stored: Timestamp,
    since: std::time::Instant,
}

/// Runs `task` until it ends, as a part of its request's trace.
pub(crate) async fn drive<F: Flow>(shared: Arc<Shared>, flow: Arc<F>, task: Task) -> Ran {
    let trace = task.trace.clone();
    let trace = trace.unwrap_or_else(|| Trace::of_request(&task.request_id));
    let span = tracing::info_span!("flow", flow = F::NAME, request_id = %task.request_id, trace_id = %trace.id,
        global_request_id = %trace.request);
    let driving = run(shared, flow, task).instrument(span);
    types::trace::within(Arc::new(trace), driving).await
}

async fn run<F: Flow>(shared: Arc<Shared>, flow: Arc<F>, mut task: Task) -> Ran {
    let stored = task.epoch;
    task.epoch = task.epoch.max(db::tasks::FIRST_EPOCH);
    let state = match serde_json::from_str(&task.state) {
        Ok(state) => state,
        Err(error) => {
            tracing::error!(task = %task.id, flow = F::NAME, %error, "a task's state cannot be read; it stays as it is");
            note_unreadable(&shared, &task, stored, &error).await;
            return Ran::Fenced;
        }
    };
    let cx = Context {
        task: task.id,
        server: task.server,
        request_id: task.request_id.clone(),
        epoch: task.epoch,
        until: Instant::now(),
    };
    let mut run = Run {
        shared,
        flow,
        task,
        state,
        cx,
        stored,
        expected: None,
        fresh: None,
        told: None,
        waiting: None,
        watch: Watch::default(),
        lost: false,
    };
    let mut tries = 0;
    loop {
        let reason = match run.go_on().await {
            Ok(()) => return Ran::Ended,
            Err(Trouble::Crash) => return Ran::Crashed,
            Err(Trouble::Step(StepError::Fenced)) => return Ran::Fenced,
            Err(Trouble::Silent) => "a host did not answer".to_owned(),
            Err(Trouble::Lost(reason)) => reason,
            Err(Trouble::Step(error)) => error.to_string(),
        };
        tracing::warn!(task = %run.task.id, flow = F::NAME, reason, "a task stopped half-way; going on from what is stored");
        let stood = (run.task.phase, run.task.step.clone());
        loop {
            run.pause(&reason, &mut tries).await;
            match run.read_again().await {
                Ok(true) => break,
                Ok(false) => return Ran::Fenced,
                // What is in memory may not be what is stored.
                Err(error) => {
                    tracing::warn!(task = %run.task.id, %error, "the task cannot be read")
                }
            }
        }
        if stood != (run.task.phase, run.task.step.clone()) {
            tries = 0;
        }
    }
}

/// Says so with the task: no worker of this release will run it, and operators have to know.
async fn note_unreadable(shared: &Shared, task: &Task, stored: i64, error: &serde_json::Error) {
    let (id, waits) = (
        task.id,
        db::tasks::Waits {
            reason: format!("its state cannot be read: {error}"),
            since: Timestamp::now(),
            tries: 1,
            unreadable: true,
        },
    );
    let writing = move |tx: &mut sql::Tx<'_>| db::tasks::note_waits(tx, id, stored, &waits);
    if let Err(error) = shared.store.write(writing).await {
        tracing::warn!(task = %id, %error, "that it cannot be read cannot be written down");
    }
}

impl<F: Flow> Run<F> {
    /// Goes back to what is stored, as after a crash. `false`: somebody else runs the task now, or it is gone.
    async fn read_again(&mut self) -> Result<bool, StepError> {
        (self.expected, self.fresh, self.told) = (None, None, None);
        let id = self.task.id;
        let stored: Option<Task> = self
            .shared
            .store
            .look_once(move |tx| db::tasks::get(tx, id).map_err(StepError::from))
            .await?;
        if stored.as_ref().is_some_and(Task::is_new) {
            // It is anybody's.
            self.shared.bus.ring(Bell::Tasks);
        }
        let Some(stored) = stored.filter(|stored| stored.is_run_as(&self.task)) else {
            return Ok(false);
        };
        self.state = decode(&stored.state)?;
        self.stored = stored.epoch;
        self.task = stored;
        Ok(true)
    }

    async fn go_on(&mut self) -> Result<(), Trouble> {
        if self.task.step.is_none() {
            let Some(&first) = F::Step::ALL.first() else {
                return Ok(());
            };
            if self.flow.only_decides(first) {
                self.task.step = Some(first.as_str().to_owned());
            } else {
                self.begin(first, Direction::Do, None).await?;
            }
        } else if let Some((step, direction)) = self.position() {
            // Taken over: the work of the step may not have reached its host under this epoch.
            self.begin(step, direction, None).await?;
        }
        while let Some((step, direction)) = self.position() {
            let ended = match direction {
                Direction::Do => self.forward(step).await?,
                Direction::Undo => self.back(step).await?,
            };
            if ended {
                return Ok(());
            }
        }
        tracing::error!(task = %self.task.id, step = ?self.task.step, "the flow has no such step; the task waits for a newer release");
        Err(StepError::Fenced.into())
    }

    fn position(&self) -> Option<(F::Step, Direction)> {
        let name = self.task.step.as_deref()?;
        let step = F::Step::ALL
            .iter()
            .copied()
            .find(|step| step.as_str() == name)?;
        let direction = if self.task.phase == Phase::Running {
            Direction::Do
        } else {
            Direction::Undo
        };
        Some((step, direction))
    }

    fn index(step: F::Step) -> usize {
        F::Step::ALL
            .iter()
            .position(|other| *other == step)
            .unwrap_or(0)
    }

    fn past_pivot(&self, step: F::Step) -> bool {
        self.flow
            .pivot()
            .is_some_and(|pivot| Self::index(step) >= Self::index(pivot))
    }

    /// Does a step and starts the next one. `true`: the flow has ended.
    async fn forward(&mut self, step: F::Step) -> Result<bool, Trouble> {
        let mut until = self.deadline(step);
        self.cx.until = until;
        let mut tries = 0;
        loop {
            let failure = match self.attempt(step, Direction::Do, until).await {
                Ok(()) => match self.done(step, None).await {
                    Ok(ended) => return Ok(ended),
                    Err(Trouble::Step(StepError::Fail(failure))) => failure,
                    Err(Trouble::Step(StepError::Retry(reason)))
                        if Instant::now() < until || self.past_pivot(step) =>
                    {
                        self.pause(&reason, &mut tries).await;
                        continue;
                    }
                    Err(Trouble::Step(StepError::Retry(reason))) => Failure::new(500, reason),
                    // Perhaps it was saved and only the answer is lost: go on from what is stored.
                    Err(other) => return Err(other),
                },
                Err(Trouble::Step(StepError::Fail(failure))) => failure,
                // What it may still be at must not be done elsewhere meanwhile, nor taken back.
                Err(Trouble::Silent) if self.flow.must_be_fenced(step, &self.state) => {
                    self.pause(
                        "the host did not answer in time, and is not forced down",
                        &mut tries,
                    )
                    .await;
                    until = self.deadline(step);
                    self.cx.until = until;
                    continue;
                }
                Err(Trouble::Silent) => Failure::new(500, "The host did not answer in time."),
                Err(Trouble::Step(StepError::Retry(reason))) if Instant::now() < until => {
                    self.pause(&reason, &mut tries).await;
                    continue;
                }
                Err(Trouble::Step(StepError::Retry(reason))) => Failure::new(500, reason),
                Err(other) => return Err(other),
            };
            let fenced = self.flow.must_be_fenced(step, &self.state);
            if fenced {
                self.look_whether_forced_down(step, Direction::Do).await;
            }
            let late = self.lost || (!fenced && Instant::now() >= until);
            if self.flow.may_owe(step)
                && late
                && let Some(host) = self.flow.host(step, &self.state)
            {
                return self.done(step, Some((host, failure.message))).await;
            }
            if self.flow.may_pass(step, &self.state) && late {
                tracing::warn!(task = %self.task.id, server = %self.cx.server, request_id = %self.cx.request_id, flow = F::NAME,
                    step = step.as_str(), reason = %failure.message, details = failure.details, "what a step asks for is not done in time; going on without it");
                // Late it would do harm.
                self.forget_outcome(step, Direction::Do).await?;
                return self.done(step, None).await;
            }
            if self.past_pivot(step) {
                self.forget_outcome(step, Direction::Do).await?;
                self.pause(&self.said(step, &failure), &mut tries).await;
                self.begin(step, Direction::Do, None).await?;
                let ends_late = self.flow.may_owe(step) || self.flow.may_pass(step, &self.state);
                if Instant::now() >= until && (fenced || !ends_late) {
                    // There is no way back: the step gets its time again.
                    until = self.deadline(step);
                    self.cx.until = until;
                }
                continue;
            }
            tracing::warn!(task = %self.task.id, server = %self.cx.server, request_id = %self.cx.request_id, flow = F::NAME,
                step = step.as_str(), reason = %failure.message, details = failure.details, "a step failed; undoing");
            self.flow.note_failure(&mut self.state, &failure);
            self.begin(step, Direction::Undo, Some(failure)).await?;
            return Ok(false);
        }
    }

    /// Undoes a step and turns to the one before. `true`: the flow has ended.
    async fn back(&mut self, step: F::Step) -> Result<bool, Trouble> {
        let mut until = Instant::now() + self.shared.settings.undo_deadline;
        self.cx.until = until;
        let mut tries = 0;
        let mut owed = None;
        loop {
            let mut reason = match self.attempt(step, Direction::Undo, until).await {
                Ok(()) => break,
                Err(Trouble::Step(StepError::Fail(failure))) => self.said(step, &failure),
                Err(Trouble::Step(StepError::Retry(reason))) => reason,
                Err(Trouble::Silent) => {
                    "the host did not answer, and is not known to be down".to_owned()
                }
                Err(Trouble::Lost(reason)) => reason,
                Err(other) => return Err(other),
            };
            if let Some(told) = self.look_whether_forced_down(step, Direction::Undo).await {
                reason = told;
            }
            // Only what a host would have removed can be its debt.
            let work = self.flow.host_work(step, Direction::Undo, &self.state);
            let late = self.lost || Instant::now() >= until;
            let waits = self.flow.undo_waits(step) || self.flow.must_be_fenced(step, &self.state);
            match work {
                // Forced down it does nothing any more, and what it has goes before it does anything else.
                Some(work)
                    if (waits && self.lost)
                        || (!waits
                            && matches!(work.verb, Verb::EnsureAbsent)
                            && (late || self.flow.is_away(&work.host).await)) =>
                {
                    owed = Some((work.host, reason));
                    break;
                }
                Some(_) if late && !waits => {
                    tracing::error!(task = %self.task.id, step = step.as_str(), reason, "an undo on a host is given up");
                    break;
                }
                _ if late => {
                    tracing::error!(task = %self.task.id, step = step.as_str(), reason, "an undo keeps failing; trying on")
                }
                _ => {}
            }
            self.forget_outcome(step, Direction::Undo).await?;
            self.pause(&reason, &mut tries).await;
            self.begin(step, Direction::Undo, None).await?;
            if late && waits {
                // Nobody would hear a host that answers now and then.
                until = Instant::now() + self.shared.settings.undo_deadline;
                self.cx.until = until;
            }
        }
        self.undone(step, owed).await
    }

    /// A host that answers, but not that it is done, may be forced down like one that says nothing: with the reason it is
    /// lost then, where its flow believes that.
    async fn look_whether_forced_down(
        &mut self,
        step: F::Step,
        direction: Direction,
    ) -> Option<String> {
        let work = self.flow.host_work(step, direction, &self.state)?;
        let (past, after) = (self.past_pivot(step), Duration::MAX);
        let proof = Proof::wanted(&*self.flow, (step, direction), &self.state, past, after)?;
        if self.lost || !matches!(proof, Proof::Forced) {
            return None;
        }
        let reason = self.shared.ear.forced_down(&self.shared.store, &work.host);
        let reason = reason.await?;
        self.lost = true;
        Some(reason)
    }

    /// One try. A panic in the flow's code is a failure of the step, which is undone like any other.
    async fn attempt(
        &mut self,
        step: F::Step,
        direction: Direction,
        until: Instant,
    ) -> Result<(), Trouble> {
        let panic = match AssertUnwindSafe(self.try_once(step, direction, until))
            .catch_unwind()
            .await
        {
            Ok(tried) => return tried,
            Err(panic) => panic,
        };
        tracing::error!(task = %self.task.id, server = %self.cx.server, request_id = %self.cx.request_id, flow = F::NAME,
            step = step.as_str(), panic = told(panic.as_ref()), "a flow panicked");
        // It may have left the state half-changed.
        self.state = decode(&self.task.state)?;
        Err(StepError::Fail(Failure::new(500, "Unexpected error.")).into())
    }

    /// The host's work, then the flow's own part, with faults on the way.
    async fn try_once(
        &mut self,
        step: F::Step,
        direction: Direction,
        until: Instant,
    ) -> Result<(), Trouble> {
        self.strike(step, direction, When::Before).await?;
        let mut again = true;
        while again {
            let outcome = self.host_outcome(step, direction, until).await?;
            match direction {
                Direction::Do => {
                    self.flow
                        .run(&self.cx, step, &mut self.state, outcome)
                        .await?
                }
                Direction::Undo => {
                    self.flow
                        .undo(&self.cx, step, &mut self.state, outcome)
                        .await?
                }
            }
            again = self.strike(step, direction, When::After).await?;
            if again {
                self.forget_outcome(step, direction).await?;
                self.begin(step, direction, None).await?;
            }
        }
        Ok(())
    }

    async fn host_outcome(
        &mut self,
        step: F::Step,
        direction: Direction,
        until: Instant,
    ) -> Result<Option<WorkOutcome>, Trouble> {
        self.lost = false;
        let Some(work) = self.flow.host_work(step, direction, &self.state) else {
            return Ok(None);
        };
        let key = self.key(step, direction);
        if let Some((_, told)) = self.told.as_ref().filter(|(of, _)| *of == key) {
            // The step is tried again.
            return Ok(Some(told.outcome.clone()));
        }
        let begun = self.expected.take().filter(|expected| expected.key == key);
        let stored = begun.is_none();
        let expected = begun.unwrap_or_else(|| self.shared.outcomes.expect(&key));
        if !self.hand_over(step, direction, &key) {
            self.shared.bus.ring(Bell::Host(work.host.clone()));
        }
        let left = until.saturating_duration_since(Instant::now());
        let waiting = expected.wait(&work.host, self.task.epoch, stored, left);
        let shared = Arc::clone(&self.shared);
        let after = shared.settings.host_lost_after;
        let past = self.past_pivot(step);
        let proof = Proof::wanted(&*self.flow, (step, direction), &self.state, past, after);
        let Some(proof) = proof else {
            let told = shared.resting(waiting).await?;
            return self.heard(key, told);
        };
        let told = tokio::select! {
            biased;
            told = shared.resting(waiting) => told?,
            reason = self.watch.lost(&shared, &work.host, proof) => {
                return self.without_host(direction, reason);
            }
        };
        self.heard(key, told)
    }

    /// What was told of the step's work in time.
    fn heard(&mut self, key: WorkKey, told: Option<Told>) -> Result<Option<WorkOutcome>, Trouble> {
        let told = told.ok_or(Trouble::Silent)?;
        if told.outcome == WorkOutcome::Fenced {
            return Err(StepError::Fenced.into());
        }
        let outcome = told.outcome.clone();
        if told.unsaved.is_some() {
            self.told = Some((key, told));
        }
        Ok(Some(outcome))
    }

    /// A host that is down for good is to the flow one that could not do it: it may try another one.
    fn without_host(
        &mut self,
        direction: Direction,
        reason: String,
    ) -> Result<Option<WorkOutcome>, Trouble> {
        self.lost = true;
        if direction == Direction::Undo {
            return Err(Trouble::Lost(reason));
        }
        Ok(Some(WorkOutcome::failed(FailureKind::HostDown, reason)))
    }

    /// Hands the work of a step to its host, if that was just stored and the host waits for it.
    fn hand_over(&mut self, step: F::Step, direction: Direction, key: &WorkKey) -> bool {
        let Some(fresh) = self.fresh.take().filter(|fresh| fresh.key == *key) else {
            return false;
        };
        let Some(devices) = self.flow.disks(step, &self.state) else {
            return false;
        };
        let Some((host, mut work)) = self.work(step, direction, &self.state) else {
            return false;
        };
        work.trace.clone_from(&self.task.trace);
        let handed = Handed {
            work,
            stored: fresh.stored,
            since: fresh.since,
            devices,
        };
        self.shared.outcomes.give(&host, handed)
    }

    fn key(&self, step: F::Step, direction: Direction) -> WorkKey {
        WorkKey {
            task: self.task.id,
            step: step.as_str().to_owned(),
            direction,
        }
    }

    fn work(
        &self,
        step: F::Step,
        direction: Direction,
        state: &F::State,
    ) -> Option<(HostName, Work)> {
        planned_work(self.flow.as_ref(), &self.cx, step, direction, state)
    }

    /// Lets a fault happen if one is due at this point. `true`: the step is to be repeated.
    async fn strike(
        &self,
        step: F::Step,
        direction: Direction,
        when: When,
    ) -> Result<bool, Trouble> {
        let point = Point {
            flow: F::NAME,
            step: step.as_str(),
            direction,
            when,
        };
        match self.shared.faults.at(&point) {
            Some(Fault::Crash) => Err(Trouble::Crash),
            Some(Fault::Fail) => Err(injected()),
            Some(Fault::Panic) => panic!("an injected panic at {point:?}"),
            Some(Fault::Repeat) => Ok(true),
            Some(Fault::Hold) => {
                self.shared.faults.released(&point).await;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// When a step that begins now counts as failed.
    fn deadline(&self, step: F::Step) -> Instant {
        let time = self.flow.deadline(step, &self.state);
        Instant::now()
            + self
                .shared
                .settings
                .longest_step
                .map_or(time, |most| time.min(most))
    }

    async fn forget_outcome(&mut self, step: F::Step, direction: Direction) -> Result<(), Trouble> {
        if self.stored != self.task.epoch {
            // Nothing of this run is on record.
            return Ok(());
        }
        let key = self.key(step, direction);
        self.persist(true, move |tx| {
            db::work::remove(tx, &key).map_err(StepError::from)
        })
        .await
    }

    /// Saves that a step is being done or undone, with its host work and its event.
    async fn begin(
        &mut self,
        step: F::Step,
        direction: Direction,
        failure: Option<Failure>,
    ) -> Result<(), Trouble> {
        self.fresh = None;
        let failed = failure.is_some();
        if let Some(failure) = &failure {
            self.task.failure = Some(encode(failure)?);
        }
        let closing = if failed { self.task.event.take() } else { None };
        let unseen = if failed && closing.is_none() {
            let host = self.flow.host(step, &self.state).map(|host| host.0);
            let event = self.flow.event_of_failure(step);
            event.map(|event| (event, host))
        } else {
            None
        };
        let message = failure.map(|failure| failure.details.unwrap_or(failure.message));
        self.task.phase = if direction == Direction::Do {
            Phase::Running
        } else {
            Phase::Undoing
        };
        self.task.step = Some(step.as_str().to_owned());
        self.task.state = encode(&self.state)?;
        let work = self.work(step, direction, &self.state);
        let opening = self.opening(step, direction);
        let (task, stored) = (self.task.clone(), self.stored);
        let event = self
            .persist(true, move |tx| {
                let now = Timestamp::now();
                let closing = match (&unseen, task.action) {
                    (Some((event, host)), Some(action)) => Some(db::actions::start_event(
                        tx,
                        action,
                        event,
                        host.as_deref(),
                        now,
                    )?),
                    _ => closing,
                };
                if let Some(event) = closing {
                    db::actions::finish_event(tx, event, message.as_deref(), now)?;
                }
                if failed {
                    db::work::withdraw(tx, task.id)?;
                }
                start_step(tx, (&task, stored), opening.as_ref(), work.as_ref(), now)
            })
            .await?;
        self.task.event = event;
        Ok(())
    }

    /// The event to open with a step: its name and host.
    fn opening(
        &self,
        step: F::Step,
        direction: Direction,
    ) -> Option<(&'static str, Option<String>)> {
        if direction == Direction::Undo || self.task.event.is_some() {
            return None;
        }
        let host = self.flow.host(step, &self.state).map(|host| host.0);
        let event = self.flow.event_in(step, &self.state);
        event.map(|event| (event, host))
    }

    /// Saves that a step is done, together with its writes and the start of the next step or the end of the flow.
    /// `owed`: what the host still has to do, and why it could not. `true`: the flow has ended.
    async fn done(
        &mut self,
        step: F::Step,
        owed: Option<(HostName, String)>,
    ) -> Result<bool, Trouble> {
        let mut later = F::Step::ALL.iter().skip(Self::index(step) + 1).copied();
        let next = later.find(|later| !self.flow.skips(*later, &self.state));
        let flow = Arc::clone(&self.flow);
        let (cx, state, task) = (self.cx.clone(), self.state.clone(), self.task.clone());
        let plan = self.planner();
        let debtor = owed.as_ref().map(|(host, _)| Bell::Host(host.clone()));
        // The end of the task forgets all of its work.
        let answered = self.told.as_ref().filter(|_| next.is_some());
        let answered = answered.map(|(key, _)| key.clone());
        let expected = next.map(|next| self.shared.outcomes.expect(&self.key(next, Direction::Do)));
        let stored = self.stored;
        let watched = owed.is_some() || self.flow.rests_on_others(step, &self.state);
        let saved = self
            .persist(watched, move |tx| {
                let (now, since) = (Timestamp::now(), std::time::Instant::now());
                let (mut state, mut task) = (state.clone(), task.clone());
                task.waits = None;
                if let Some(key) = &answered {
                    db::work::remove(tx, key)?;
                }
                flow.commit(tx, &cx, step, Direction::Do, &mut state)?;
                if let Some((host, reason)) = &owed {
                    db::work::withdraw(tx, task.id)?;
                    db::work::owe(tx, host, cx.server, reason, now)?;
                }
                // Steps after each other that show the same event are one event.
                let goes_on = task.event.is_some()
                    && next.is_some_and(|next| {
                        flow.event_in(next, &state) == flow.event_in(step, &state)
                    });
                if !goes_on && let Some(event) = task.event.take() {
                    db::actions::finish_event(tx, event, None, now)?;
                }
                task.state = encode(&state)?;
                match next {
                    Some(next) => {
                        task.step = Some(next.as_str().to_owned());
                        let (opening, work) = plan(next, &state);
                        let opening = opening.filter(|_| !goes_on);
                        let (opening, work) = (opening.as_ref(), work.as_ref());
                        task.event = start_step(tx, (&task, stored), opening, work, now)?;
                    }
                    None => {
                        if !db::tasks::end(tx, task.id, stored)? {
                            return Err(StepError::Fenced);
                        }
                        flow.finish(tx, &cx, &state, End::Done, now)?;
                        if let Some(action) = task.action {
                            db::actions::succeed(tx, action, now)?;
                        }
                    }
                }
                Ok((state, task, now, since))
            })
            .await?;
        let (stored, since);
        (self.state, self.task, stored, since) = saved;
        self.waiting = None;
        self.fresh = next.map(|next| Fresh {
            key: self.key(next, Direction::Do),
            stored,
            since,
        });
        self.expected = expected;
        let debtor = debtor.or_else(|| self.flow.debtor(step, &self.state).map(Bell::Host));
        if let Some(bell) = debtor {
            self.shared.bus.ring(bell);
        }
        Ok(next.is_none())
    }

    /// What the start of a step needs, as a function that a transaction can call.
    fn planner(&self) -> impl Fn(F::Step, &F::State) -> Start + Send + 'static + use<F> {
        let (flow, cx) = (Arc::clone(&self.flow), self.cx.clone());
        move |step, state| {
            let host = flow.host(step, state).map(|host| host.0);
            let opening = flow.event_in(step, state).map(|event| (event, host));
            (
                opening,
                planned_work(flow.as_ref(), &cx, step, Direction::Do, state),
            )
        }
    }

    /// Saves that a step is undone (or owed), and turns back further, forward again, or ends. `true`: ended.
    async fn undone(
        &mut self,
        step: F::Step,
        owed: Option<(HostName, String)>,
    ) -> Result<bool, Trouble> {
        let failure: Failure = self
            .task
            .failure
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_else(|| Failure::new(500, "The operation failed."));
        let again = failure.redo_from.as_deref() == Some(step.as_str());
        let before = Self::index(step)
            .checked_sub(1)
            .and_then(|index| F::Step::ALL.get(index))
            .copied();
        let (next, direction) = match before {
            _ if again => (Some(step), Direction::Do),
            before => (before, Direction::Undo),
        };
        let flow = Arc::clone(&self.flow);
        let (cx, state, task) = (self.cx.clone(), self.state.clone(), self.task.clone());
        let next_work = next.and_then(|next| self.work(next, direction, &self.state));
        let opening = next.and_then(|next| {
            if direction == Direction::Do {
                self.opening(next, direction)
            } else {
                None
            }
        });
        let debtor = owed.as_ref().map(|(host, _)| Bell::Host(host.clone()));
        let stored = self.stored;
        let saved = self
            .persist(true, move |tx| {
                let now = Timestamp::now();
                let (mut state, mut task) = (state.clone(), task.clone());
                task.waits = None;
                flow.commit(tx, &cx, step, Direction::Undo, &mut state)?;
                db::work::withdraw(tx, task.id)?;
                if let Some((host, reason)) = &owed {
                    db::work::owe(tx, host, cx.server, reason, now)?;
                }
                task.state = encode(&state)?;
                match next {
                    Some(next) => {
                        task.phase = if direction == Direction::Do {
                            Phase::Running
                        } else {
                            Phase::Undoing
                        };
                        task.step = Some(next.as_str().to_owned());
                        if direction == Direction::Do {
                            // A new round: what hosts said in the last one does not count.
                            db::work::remove_of_task(tx, task.id)?;
                            task.failure = None;
                        }
                        let (opening, work) = (opening.as_ref(), next_work.as_ref());
                        task.event = start_step(tx, (&task, stored), opening, work, now)?;
                    }
                    None => {
                        if !db::tasks::end(tx, task.id, stored)? {
                            return Err(StepError::Fenced);
                        }
                        flow.finish(tx, &cx, &state, End::Unwound(&failure), now)?;
                        if let Some(action) = task.action {
                            db::actions::fail(tx, action, &failure.message, now)?;
                        }
                    }
                }
                Ok((state, task))
            })
            .await?;
        (self.state, self.task) = saved;
        self.waiting = None;
        if let Some(bell) = debtor {
            self.shared.bus.ring(bell);
        }
        Ok(next.is_none())
    }

    /// Writes; what goes wrong is passed on. A new task is this run's with its first write. `watched`: what is read counts,
    /// too ([`Flow::rests_on_others`]).
    async fn persist<T, W>(&mut self, watched: bool, work: W) -> Result<T, Trouble>
    where
        T: Send + 'static,
        W: FnMut(&mut sql::Tx<'_>) -> Result<T, StepError> + Send + 'static,
    {
        let store = &self.shared.store;
        let done = if watched {
            store.write(work).await?
        } else {
            store.write_own(work).await?
        };
        self.stored = self.task.epoch;
        if let Some((_, told)) = self.told.take()
            && let Some(unsaved) = told.unsaved
        {
            // Nobody may wait for this any more.
            let _ = unsaved.send(());
        }
        self.shared.bus.hint(&Bell::Servers);
        Ok(done)
    }

    /// What operators are told of a failure, and of which host it is.
    fn said(&self, step: F::Step, failure: &Failure) -> String {
        match self.flow.host(step, &self.state) {
            Some(host) => format!("{host}: {}", failure.in_full()),
            None => failure.in_full(),
        }
    }
}

/// What a panic said.
pub(crate) fn told(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}

fn planned_work<F: Flow>(
    flow: &F,
    cx: &Context,
    step: F::Step,
    direction: Direction,
    state: &F::State,
) -> Option<(HostName, Work)> {
    let wanted = flow.host_work(step, direction, state)?;
    let work = Work {
        key: WorkKey {
            task: cx.task,
            step: step.as_str().to_owned(),
            direction,
        },
        epoch: u64::try_from(cx.epoch).unwrap_or(0),
        server: cx.server,
        request: cx.request_id.clone(),
        deadline_seconds: flow.deadline(step, state).as_secs(),
        verb: wanted.verb,
        // Both are joined when it is handed over.
        trace: None,
        passphrase: None,
    };
    Some((wanted.host, work))
}

fn encode<T: serde::Serialize>(value: &T) -> Result<String, StepError> {
    serde_json::to_string(value).map_err(|error| {
        StepError::Fail(Failure::new(
            500,
            format!("state cannot be stored: {error}"),
        ))
    })
}

/// Saves the task, which is on record under the epoch beside it, with its new step, opens the step's event and stores its
/// work; returns the open event.
fn start_step(
    tx: &mut sql::Tx<'_>,
    (task, stored): (&Task, i64),
    opening: Option<&(&'static str, Option<String>)>,
    work: Option<&(HostName, Work)>,
    now: Timestamp,
) -> Result<Option<i64>, StepError> {
    let mut task = task.clone();
    if let (Some((event, host)), Some(action)) = (opening, task.action) {
        task.event = Some(db::actions::start_event(
            tx,
            action,
            event,
            host.as_deref(),
            now,
        )?);
    }
    let work = work.map(|(host, work)| (host, work));
    if !db::tasks::save(tx, &task, stored, work, now)? {
        return Err(StepError::Fenced);
    }
    Ok(task.event)
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StepError> {
    serde_json::from_str(text).map_err(|error| {
        StepError::Fail(Failure::new(500, format!("state cannot be read: {error}")))
    })
}

fn injected() -> Trouble {
    StepError::Fail(Failure::new(500, "An injected fault.")).into()
}
