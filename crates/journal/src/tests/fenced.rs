//! A host that has seen a later epoch than is on record, as after the database was put back to what it was before.

use super::*;

/// What the host has seen.
const SEEN: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_on_under_an_epoch_that_its_host_takes() {
    for database in stores().await {
        let bench = Bench::new(&database.store, with_host(false)).await;
        let (store, outcomes) = (bench.store.clone(), bench.outcomes.clone());
        let mut bell = bench.bus.listen(Bell::Host("h".into()));
        let refused = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&refused);
        let answering = tokio::spawn(async move {
            loop {
                bell.rung().await;
                let pending: Result<_, sql::Error> = store
                    .read(|tx| db::work::pending(tx, &"h".into(), 10))
                    .await;
                for (work, _) in pending.unwrap().work {
                    let outcome = if work.epoch < SEEN {
                        counted.fetch_add(1, Ordering::SeqCst);
                        WorkOutcome::Fenced
                    } else {
                        WorkOutcome::done(PowerState::Running)
                    };
                    let report = WorkReport {
                        key: work.key,
                        epoch: work.epoch,
                        outcome,
                    };
                    outcomes.report(&"h".into(), report).await.unwrap();
                }
            }
        });
        let ended = bench.carry_out(Script::new([])).await;
        let name = database.name;
        assert_eq!(ended.end, "done", "{name}");
        assert_eq!(ended.effects, ["a", "b", "c"], "{name}");
        assert!(refused.load(Ordering::SeqCst) > 1, "{name}");
        answering.abort();
    }
}
