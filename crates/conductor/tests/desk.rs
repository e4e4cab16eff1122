#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What the desk hands over at once, and when the rest.

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use testkit::{Cluster, Options};
use types::agent::{Direction, SERVICE_VERSION, Verb, Work, WorkKey, WorkOutcome, WorkReport};
use types::{HostName, PowerState, ServerId, TaskId, Timestamp};
use web::client::Client;

/// Pieces of work that are handed over at once.
const AT_ONCE: i64 = 64;

fn work() -> Work {
    Work {
        key: WorkKey {
            task: TaskId::random(),
            step: "step".to_owned(),
            direction: Direction::Do,
        },
        epoch: 1,
        server: ServerId::random(),
        request: String::new(),
        trace: None,
        deadline_seconds: 60,
        verb: Verb::EnsureRunning,
        passphrase: None,
    }
}

async fn post(desk: &Client, what: &str, message: Value) -> Value {
    let path = format!("/agent/busy/{what}");
    let answer = desk.call(Method::POST, &path, HeaderMap::new(), Some(&message));
    let answer = answer.await.unwrap();
    assert!(answer.status.is_success(), "{what}: {}", answer.status);
    answer.json()
}

/// The work that a poll gets which waits for so long.
async fn polled(desk: &Client, wait_ms: u64) -> Vec<Work> {
    let ask = json!({ "incarnation": 1, "wait_ms": wait_ms, "version": SERVICE_VERSION });
    let polled = post(desk, "poll", ask).await;
    serde_json::from_value(polled["work"].clone()).unwrap()
}

#[tokio::test]
async fn a_host_with_much_to_do_is_told_of_the_rest_when_there_is_room() {
    let cluster = Cluster::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let desk = Client::in_process("the conductor", cluster.desk());
    let storing = cluster.store.write(|tx| {
        let host = HostName::from("busy");
        for number in 0..=AT_ONCE {
            db::work::put(tx, &host, &work(), Timestamp(1 + number))?;
        }
        Ok::<_, sql::Error>(())
    });
    storing.await.unwrap();
    let first = polled(&desk, 0).await;
    assert_eq!(i64::try_from(first.len()), Ok(AT_ONCE));
    assert_eq!(polled(&desk, 0).await.len(), 0, "there is no room");

    let report = WorkReport {
        key: first[0].key.clone(),
        epoch: 1,
        outcome: WorkOutcome::done(PowerState::Running),
    };
    post(&desk, "report", serde_json::to_value(&report).unwrap()).await;
    let rest = polled(&desk, 5000).await;
    assert_eq!(rest.len(), 1);
    assert!(first.iter().all(|one| one.key != rest[0].key));
}
