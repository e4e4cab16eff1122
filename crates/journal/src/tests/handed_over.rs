//! New tasks that are handed over to a worker of their process.

use super::*;

fn deciding(decides: bool) -> Toy {
    Toy {
        decides,
        ..Toy::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_needs_to_look_for_it() {
    for database in stores().await {
        for decides in [false, true] {
            let bench = Bench {
                settings: waiting(),
                ..Bench::empty(&database.store, deciding(decides))
            };
            let script = Arc::new(Script::new([]));
            let worker = bench.worker("w", &script).await;
            assert!(worker.intake().hand_over(bench.put().await));
            assert_eq!(bench.carry_out_with(worker, script).await, done());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step() {
    for database in stores().await {
        for decides in [false, true] {
            for &step in Step::ALL {
                for when in BOTH {
                    for fault in [Fault::Fail, Fault::Panic, Fault::Crash] {
                        let bench = Bench::empty(&database.store, deciding(decides));
                        let script = Script::new([(at(step, Direction::Do, when), fault)]);
                        let script = Arc::new(script);
                        let worker = bench.worker("w", &script).await;
                        worker.intake().hand_over(bench.put().await);
                        let ended = bench.carry_out_with(worker, script).await;
                        let name = format!("{} {step:?} {when:?} {fault:?}", database.name);
                        // Before its first write another may take the task, to which nothing happens.
                        let anew = decides && step == Step::A;
                        if fault == Fault::Crash || (anew && ended.end == "done") {
                            assert_eq!(ended, done(), "{name}");
                        } else {
                            assert!(ended.effects.is_empty(), "{name}: {ended:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The look with which a worker starts has found it, and it has ended, before it is handed over: that run may begin, and leaves
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_meanwhile_leaves_nothing() {
    for database in stores().await {
        for decides in [false, true] {
            let bench = Bench::empty(&database.store, deciding(decides));
            let task = bench.put().await;
            let failing = (at(Step::C, Direction::Do, When::After), Fault::Fail);
            let script = Arc::new(Script::new([failing]));
            let worker = bench.worker("w", &script).await;
            bench.until_gone().await;
            worker.rest().await;
            let runs = bench.toy.world.runs()[0];
            assert!(worker.intake().hand_over(task));
            if decides {
                let begun = Instant::now();
                while bench.toy.world.runs()[0] == runs {
                    assert!(begun.elapsed() < PATIENCE, "nobody begins it");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            worker.rest().await;
            let ended = bench.ended().await;
            assert!(ended.effects.is_empty(), "{decides}: {ended:?}");
        }
    }
}

/// A worker, held in a task that it has begun and has not written about yet.
struct Begun {
    bench: Bench,
    script: Arc<Script>,
    worker: crate::Worker,
    task: db::tasks::Task,
}

async fn begun(store: &Store, when: When) -> Begun {
    loop {
        let bench = Bench {
            settings: waiting(),
            ..Bench::empty(store, deciding(true))
        };
        let held = (at(Step::A, Direction::Do, when), Fault::Hold);
        let script = Arc::new(Script::new([held]));
        let worker = bench.worker("w", &script).await;
        let task = bench.put().await;
        assert!(worker.intake().hand_over(task.clone()));
        script.all_struck().await;
        if bench.task().await.is_some_and(|task| task.is_new()) {
            return Begun {
                bench,
                script,
                worker,
                task,
            };
        }
        // The look with which a worker starts was late and found it, too; a run that nobody holds may even have ended.
        script.release();
        bench.until_gone().await;
    }
}

/// Waits until another worker has carried it out. `false`: the look with which its first worker starts was so late that it
/// found it, too, and that one has it.
async fn is_others(bench: &Bench) -> bool {
    let begun = Instant::now();
    while let Some(task) = bench.task().await {
        if task.owner.as_deref() == Some("w") {
            return false;
        }
        assert!(begun.elapsed() < PATIENCE, "the task stays: {task:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Until its first write it is anybody's: whoever comes first has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_may_be_faster() {
    for database in stores().await {
        for when in BOTH {
            loop {
                let held = begun(&database.store, when).await;
                let bench = held.bench;
                let _fast = bench.worker("fast", &Arc::new(Script::new([]))).await;
                let is_others = is_others(&bench).await;
                if !is_others {
                    held.script.release();
                    bench.until_gone().await;
                    continue;
                }
                let ended = bench.ended().await;
                held.script.release();
                held.worker.rest().await;
                assert_eq!(bench.ended().await, ended, "{when:?}");
                break;
            }
        }
    }
}

/// The process dies before the first write: the task is as new as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_the_process() {
    for database in stores().await {
        let (held, bench, intake, _other) = loop {
            let held = begun(&database.store, When::Before).await;
            let intake = held.worker.intake();
            drop(held.worker);
            let bench = held.bench;
            let other = bench.worker("other", &Arc::new(Script::new([]))).await;
            if is_others(&bench).await {
                break (held.task, bench, intake, other);
            }
        };
        assert_eq!(bench.ended().await.end, "done");
        // What was dropped goes away when the runtime comes to it.
        let begun = Instant::now();
        while intake.hand_over(held.clone()) {
            assert!(begun.elapsed() < PATIENCE, "somebody is there");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
