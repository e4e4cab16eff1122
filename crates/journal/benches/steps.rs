#![allow(clippy::unwrap_used)]
//! What a step of a flow costs: `cargo bench --package kilonova-journal`, and a part of `make bench`.
//!
//! A flow of one step and one of eleven, which do nothing, are each carried out many times; the difference is what ten steps
//! cost the journal. CPU is this process's, so that of a database server is not in it. SQLite is always measured (its commits
//! do not wait for the disk here), PostgreSQL and MariaDB where `scripts/test-databases.sh` has started them.

use async_trait::async_trait;
use bus::{Bell, Bus};
use kilonova_journal::{
    Context, End, Failure, Flow, HostWork, Journal, Outcomes, Settings, StepError, StepName, Worker,
};
use serde::{Deserialize, Serialize};
use sql::{Store, Tx};
use std::time::{Duration, Instant};
use types::agent::{Direction, WorkOutcome};
use types::{HostName, ServerId, TaskId, Timestamp};

/// Tasks of each flow in one round.
const TASKS: usize = 500;
const ROUNDS: usize = 5;
/// Tasks that are under way at once.
const AT_ONCE: usize = 16;
/// By how many steps the flows differ.
const STEPS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Step(&'static str);

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self("first"),
        Self("a"),
        Self("b"),
        Self("c"),
        Self("d"),
        Self("e"),
        Self("f"),
        Self("g"),
        Self("h"),
        Self("i"),
        Self("j"),
    ];

    fn as_str(self) -> &'static str {
        self.0
    }
}

/// Some bytes, as flows carry them.
#[derive(Clone, Serialize, Deserialize)]
struct State {
    text: String,
    short: bool,
}

struct Idle;

#[async_trait]
impl Flow for Idle {
    const NAME: &'static str = "idle";
    type State = State;
    type Step = Step;

    fn host(&self, _step: Step, _state: &State) -> Option<HostName> {
        None
    }

    fn event(&self, _step: Step) -> Option<&'static str> {
        None
    }

    fn skips(&self, _step: Step, state: &State) -> bool {
        state.short
    }

    fn deadline(&self, _step: Step, _state: &State) -> Duration {
        Duration::from_secs(60)
    }

    fn host_work(&self, _: Step, _: Direction, _: &State) -> Option<HostWork> {
        None
    }

    async fn run(
        &self,
        _cx: &Context,
        _step: Step,
        _state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        _step: Step,
        _state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        Ok(())
    }

    fn commit(
        &self,
        _tx: &mut Tx<'_>,
        _cx: &Context,
        _step: Step,
        _direction: Direction,
        _state: &mut State,
    ) -> Result<(), StepError> {
        Ok(())
    }

    fn note_failure(&self, _state: &mut State, _failure: &Failure) {}

    fn finish(
        &self,
        _tx: &mut Tx<'_>,
        _cx: &Context,
        _state: &State,
        _end: End<'_>,
        _now: Timestamp,
    ) -> Result<(), sql::Error> {
        Ok(())
    }
}

async fn put(store: &Store, short: bool) {
    let state = State {
        text: "x".repeat(500),
        short,
    };
    let state = serde_json::to_string(&state).unwrap();
    let write = move |tx: &mut Tx<'_>| -> Result<(), sql::Error> {
        for _ in 0..TASKS {
            let task = db::tasks::NewTask {
                id: TaskId::random(),
                flow: Idle::NAME,
                server: ServerId::random(),
                request_id: "req-bench",
                action: None,
                state: &state,
                trace: None,
            };
            db::tasks::insert(tx, &task, Timestamp::now())?;
        }
        Ok(())
    };
    store.write(write).await.unwrap();
}

async fn worker(store: &Store, bus: &Bus) -> Worker {
    let settings = Settings {
        concurrency: AT_ONCE,
        ..Settings::default()
    };
    let outcomes = Outcomes::new(store.clone());
    let journal = Journal::new("bench", store.clone(), bus.clone(), outcomes, settings);
    journal.with(Idle).start().await.unwrap()
}

/// Wall time and CPU seconds until all tasks of one round have ended.
async fn round(store: &Store, short: bool) -> (f64, f64) {
    let bus = Bus::new();
    let worker = worker(store, &bus).await;
    put(store, short).await;
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    bus.ring(Bell::Tasks);
    while !store.look(db::tasks::open).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spent = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    drop(worker);
    spent
}

/// User and system time of this process (proc(5), fields 14 and 15 of `stat`, in hundredths of a second).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .map(|n| n.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    println!("what the journal adds for each step of a flow, {AT_ONCE} tasks at once");
    for database in sql::testing::databases().await {
        db::migrate(&database.store).await.unwrap();
        let mut spent: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            let short = round(&database.store, true).await;
            let long = round(&database.store, false).await;
            for (list, value) in spent.iter_mut().zip([short.0, long.0, short.1, long.1]) {
                list.push(value);
            }
        }
        let [short, long, short_cpu, long_cpu] = spent.map(median);
        let steps = (TASKS * STEPS) as f64;
        let (wall, cpu) = ((long - short) / steps, (long_cpu - short_cpu) / steps);
        println!(
            "  {:<10} {:>8.1} us of CPU, {:>8.1} us of wall time ({:.0} steps a second)",
            database.name,
            cpu * 1e6,
            wall * 1e6,
            1.0 / wall
        );
    }
}
