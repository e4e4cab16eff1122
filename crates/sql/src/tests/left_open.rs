//! Transactions of programs that have stopped where they stood.

use super::*;
use std::sync::mpsc::channel;

/// Longer than any of them is waited for.
const SOON: Duration = Duration::from_secs(60);

/// A program, or its machine, stands still within a transaction: what it holds is free after a while. When it goes on, it
/// finds the transaction gone, and does it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_stands_still_keeps_nothing() {
    const MORE: &str = "UPDATE things SET amount = amount + ? WHERE name = 'a'";
    let tests = with_things().await;
    let stopping = tests.iter().filter(|test| test.name != "sqlite");
    let stopping = stopping.map(async |test| {
        let name = test.name;
        test.store.write(|tx| insert(tx, "a", 0)).await.unwrap();
        let (stopped, stops) = channel();
        let (goes_on, going_on) = channel::<()>();
        let tries = Arc::new(AtomicU32::new(0));
        let (tried, other) = (Arc::clone(&tries), test.again().await);
        let store = test.store.clone();
        let still = tokio::spawn(async move {
            let standing = store.write(move |tx| -> Result<(), Error> {
                tx.execute(MORE, &[1.into()])?;
                if tried.fetch_add(1, Ordering::SeqCst) == 0 {
                    stopped.send(()).unwrap();
                    let _ = going_on.recv_timeout(2 * SOON);
                }
                tx.execute(MORE, &[10.into()]).map(drop)
            });
            standing.await
        });
        tokio::task::spawn_blocking(move || stops.recv())
            .await
            .unwrap()
            .unwrap();
        let writing = other.write(|tx| tx.execute(MORE, &[100.into()]));
        let written = tokio::time::timeout(SOON, writing).await;
        assert_eq!(written.expect(name).expect(name), 1);
        goes_on.send(()).unwrap();
        still.await.unwrap().expect(name);
        assert!(tries.load(Ordering::SeqCst) >= 2, "{name}");
        let sum = other.read(|tx| {
            tx.query_one("SELECT amount FROM things", &[])?
                .get::<i64>(0)
        });
        assert_eq!(sum.await.unwrap(), 111, "{name}");
    });
    futures_util::future::join_all(stopping).await;
}

/// Who holds a name does nothing in its transaction, on purpose.
#[tokio::test]
async fn a_name_is_held_however_long() {
    let tests = with_things().await;
    let held = tests
        .iter()
        .map(async |test| (test.name, test.store.hold("long").await.unwrap()));
    let held = futures_util::future::join_all(held).await;
    // Longer than a transaction may stand still.
    tokio::time::sleep(Duration::from_secs(18)).await;
    for (test, (name, held)) in tests.iter().zip(held) {
        let other = test.again().await;
        let mut taking = tokio::spawn(async move { other.hold("long").await.map(drop) });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut taking).await;
        assert!(early.is_err(), "{name}: {early:?}");
        drop(held);
        taking.await.unwrap().unwrap();
    }
}
