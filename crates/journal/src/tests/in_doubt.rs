//! A claim that was carried out, and whose answer was lost.

use super::*;

/// A line on which the answer to the first claim is lost.
#[derive(Default)]
struct Doubtful {
    claimed: AtomicBool,
    loses: AtomicBool,
}

impl Pace for Doubtful {
    fn there(&self) -> Way {
        Box::pin(std::future::ready(None))
    }

    fn written(&self, tx: &mut Tx<'_>) {
        let open = db::tasks::open(tx).unwrap_or_default();
        // A run's first write has a step, or ends the task.
        let claimed = |task: &db::tasks::Task| task.owner.is_some() && task.step.is_none();
        if open.iter().any(claimed) && !self.claimed.swap(true, Ordering::SeqCst) {
            self.loses.store(true, Ordering::SeqCst);
        }
    }

    fn back(&self) -> Way {
        let loses = self.loses.swap(false, Ordering::SeqCst);
        let lost = loses.then(|| sql::Error::InDoubt("lost on the way back".to_owned()));
        Box::pin(std::future::ready(lost))
    }
}

/// A bench, and the store of a worker at the end of such a line.
async fn doubtful(toy: Toy) -> (Bench, Store, Arc<Doubtful>) {
    let database = Simulated::new().unwrap();
    let clear = Doubtful {
        claimed: AtomicBool::new(true),
        ..Doubtful::default()
    };
    let clear = database.store(Arc::new(clear));
    db::migrate(&clear).await.unwrap();
    let line = Arc::new(Doubtful::default());
    let store = database.store(line.clone());
    (Bench::empty(&clear, toy), store, line)
}

async fn worker(bench: &Bench, store: Store, script: &Arc<Script>) -> crate::Worker {
    let outcomes = Outcomes::new(store.clone());
    let journal = Journal::new("w", store, bench.bus.clone(), outcomes, quick());
    let faults: Arc<dyn crate::faults::Faults> = script.clone();
    let journal = journal.with(bench.toy.clone()).with_faults(faults);
    journal.start().await.unwrap()
}

#[tokio::test]
async fn what_it_has_taken_is_run() {
    let (bench, store, line) = doubtful(Toy::default()).await;
    bench.put().await;
    let _worker = worker(&bench, store, &Arc::new(Script::new([]))).await;
    bench.until_gone().await;
    assert!(line.claimed.load(Ordering::SeqCst));
    assert_eq!(bench.ended().await, done());
}

/// The claim has taken it from a run of the same worker, which was to write about it for the first time.
#[tokio::test]
async fn what_it_has_taken_from_another_run_is_run_again() {
    let toy = Toy {
        decides: true,
        ..Toy::default()
    };
    let (bench, store, line) = doubtful(toy).await;
    let held = (at(Step::A, Direction::Do, When::Before), Fault::Hold);
    let script = Arc::new(Script::new([held]));
    let worker = worker(&bench, store, &script).await;
    assert!(worker.intake().hand_over(bench.put().await));
    script.all_struck().await;
    let begun = Instant::now();
    while !line.claimed.load(Ordering::SeqCst) {
        assert!(begun.elapsed() < PATIENCE, "nobody claims it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    script.release();
    bench.until_gone().await;
    assert_eq!(bench.ended().await, done());
}

/// What it has taken is to take the place of what it runs, which its record says is over: a deletion does not wait for the
/// end of a run that nobody wants any more.
#[tokio::test]
async fn what_it_has_taken_takes_the_place_of_another_task_of_the_server() {
    let (mut bench, store, line) = doubtful(Toy::default()).await;
    // The claim of the first task is answered.
    line.claimed.store(true, Ordering::SeqCst);
    bench.put().await;
    let held = (at(Step::B, Direction::Do, When::Before), Fault::Hold);
    let script = Arc::new(Script::new([held]));
    let _worker = worker(&bench, store, &script).await;
    script.all_struck().await;
    let first = bench.task;
    bench.task = TaskId::random();
    line.claimed.store(false, Ordering::SeqCst);
    let taking = bench
        .store
        .write(move |tx| -> Result<_, sql::Error> { db::tasks::take_over(tx, first) });
    assert!(taking.await.unwrap().is_some());
    bench.put().await;
    bench.until_gone().await;
    assert!(line.claimed.load(Ordering::SeqCst), "its claim was lost");
    assert_eq!(bench.toy.world.runs(), [2, 1, 1]);
    script.release();
}
