//! Names that programs hold.

use super::*;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

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

/// Keeps what is said.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<String>>);

impl Visit for Words {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push_str(&format!("{value:?} "));
    }
}

impl Subscriber for Words {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_program_that_waits_says_for_whom() {
    for test in &with_things().await {
        let (name, other) = (test.name, test.again().await);
        let held = test.store.hold("saying").await.unwrap();
        if other.dialect() != Dialect::Sqlite {
            // It waits on a thread of its own, and asks this.
            let told = other.read(|tx| crate::hold::holder(tx, "saying")).await;
            let told: Result<String, Error> = told;
            let told = told.unwrap();
            assert!(told.starts_with("session "), "{name}: {told}");
            drop(held);
            // The session needs a moment to give it back.
            drop(other.hold("saying").await.unwrap());
            let told: Result<String, Error> =
                other.read(|tx| crate::hold::holder(tx, "said")).await;
            assert!(told.unwrap().contains("does not show"), "{name}");
            continue;
        }
        let words = Words::default();
        let heard = words.clone();
        let waiting = async {
            let _all = tracing::subscriber::set_default(words);
            let _held = other.hold("saying").await.unwrap();
        };
        let holding = async {
            let mine = format!("process {}", std::process::id());
            while !heard.0.lock().unwrap().contains(&mine) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(held);
        };
        let both = async { tokio::join!(waiting, holding) };
        tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .unwrap();
    }
}

/// A server may end sessions that are idle in the middle of a transaction.
#[tokio::test]
async fn a_name_outlives_what_the_server_allows_idle_transactions() {
    for test in &with_things().await {
        if test.store.dialect() != Dialect::Postgres {
            continue;
        }
        let url = format!(
            "{}%20-cidle_in_transaction_session_timeout%3D100",
            test.url()
        );
        let impatient = Store::open(&url).await.unwrap();
        let allowed: Result<String, Error> = impatient
            .read(|tx| {
                let sql = "SELECT current_setting('idle_in_transaction_session_timeout')";
                tx.query_one(sql, &[])?.get(0)
            })
            .await;
        assert_eq!(allowed.unwrap(), "100ms");
        let held = impatient.hold("staying").await.unwrap();
        let other = test.again().await;
        let asked = tokio::time::timeout(Duration::from_secs(1), other.hold("staying"));
        assert!(asked.await.is_err(), "the server has taken it back");
        drop(held);
        let asked = tokio::time::timeout(Duration::from_secs(30), other.hold("staying"));
        drop(asked.await.unwrap().unwrap());
    }
}
