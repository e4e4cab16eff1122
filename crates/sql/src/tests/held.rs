//! Names that programs hold.

use super::*;

/// What several programs must not do at once.
#[tokio::test]
async fn a_name_is_held_by_one_program_at_a_time() {
    for test in &with_things().await {
        let (name, other) = (test.name, test.again().await);
        let held = test.store.hold("filling").await.unwrap();
        let _another = test.store.hold("something else").await.unwrap();
        let mut waiting = tokio::spawn(async move {
            let held = other.hold("filling").await.unwrap();
            (held, count(&other).await)
        });
        // Meanwhile there is work, as much of it as the holder likes.
        for number in 0..20 {
            let row = format!("{name}-{number}");
            let inserting = test.store.write(move |tx| insert(tx, &row, 1));
            assert_eq!(inserting.await.unwrap(), 1, "{name}");
        }
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "{name}: held by two");
        drop(held);
        let (again, seen) = waiting.await.unwrap();
        assert_eq!(seen, 20, "{name}");
        // Who asks and goes away holds nothing.
        let asked = tokio::time::timeout(Duration::from_millis(300), test.store.hold("filling"));
        assert!(asked.await.is_err(), "{name}");
        drop(again);
        let asked = tokio::time::timeout(Duration::from_secs(30), test.store.hold("filling"));
        let _held = asked.await.unwrap().unwrap();
    }
}
