#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What an audit finds on hosts, and has done at once.

use kilonova_conductor::on_hosts::{self, Look};
use sql::{Error, Tx, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use testkit::{Cluster, Options};
use types::agent::{FailureKind, Holdings, Question};
use types::{HostName, PowerState, ServerId, VmState};

async fn becomes(cluster: &Cluster, server: ServerId, vm: VmState, power: PowerState) {
    let written = cluster
        .store
        .write(move |tx: &mut Tx<'_>| -> Result<u64, Error> {
            tx.execute(
                "UPDATE instances SET vm_state = ?, power_state = ? WHERE uuid = ?",
                &[
                    vm.as_str().into(),
                    Value::from(i64::from(power.code())),
                    server.into(),
                ],
            )
        });
    assert_eq!(written.await.unwrap(), 1);
}

async fn stands(cluster: &Cluster, server: ServerId) -> (VmState, PowerState) {
    let server = cluster.server(server).await;
    (server.vm_state, server.power_state)
}

/// What is found after the record of a server was changed. An agent that was asked to speak of its guest again may be faster.
async fn differing(cluster: &Cluster, server: ServerId, vm: VmState, power: PowerState) -> Look {
    for _ in 0..20 {
        becomes(cluster, server, vm, power).await;
        let look = cluster.found_on_hosts().await;
        if !look.found.is_empty() && stands(cluster, server).await == (vm, power) {
            return look;
        }
        cluster.idle().await;
    }
    panic!("nothing is found");
}

#[tokio::test]
async fn what_guests_do_and_servers_do_not_show_is_found_and_mended() {
    let cluster = Cluster::new(Options::default()).await;
    let (server, other) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    assert_eq!(cluster.found_on_hosts().await.found, []);
    let host = cluster.server(server).await.host.unwrap();
    let table = [
        (
            (VmState::Active, PowerState::Shutdown),
            "active and shows power state Shutdown, and its guest on HOST is Running: it will show that",
            (VmState::Active, PowerState::Running),
        ),
        (
            (VmState::Paused, PowerState::Paused),
            "paused and shows power state Paused, and its guest on HOST is Running: it becomes active",
            (VmState::Active, PowerState::Running),
        ),
        (
            (VmState::Stopped, PowerState::Shutdown),
            "stopped and shows power state Shutdown, and its guest on HOST is Running: the guest is switched off",
            (VmState::Stopped, PowerState::Shutdown),
        ),
    ];
    for ((vm, power), words, after) in table {
        let found = differing(&cluster, server, vm, power).await;
        let told: Vec<String> = told(&found.found);
        let words = format!(
            "server {server} is {}",
            words.replace("HOST", host.as_str())
        );
        assert_eq!(told, [words]);
        assert_eq!(stands(&cluster, server).await, (vm, power), "it only looks");
        assert_eq!(cluster.mend_on_hosts(&found).await, 1);
        cluster.idle().await;
        assert_eq!(stands(&cluster, server).await, after);
        assert_eq!(cluster.found_on_hosts().await.found, []);
        // What was so is over, whoever has mended it.
        assert_eq!(cluster.mend_on_hosts(&found).await, 1);
        assert_eq!(stands(&cluster, server).await, after);
    }
    assert_eq!(
        stands(&cluster, other).await,
        (VmState::Active, PowerState::Running)
    );
    let guests = cluster.host(&host).guests().await;
    assert!(guests.contains(&(server, PowerState::Shutdown)));
}

/// One host has base images that no guest needs, another does not answer once it is to do something, the others never.
struct Scripted {
    has: HostName,
    differs: HostName,
    gone: AtomicBool,
    tidied: AtomicBool,
}

#[async_trait::async_trait]
impl clients::HostQuestions for Scripted {
    async fn ask(
        &self,
        host: &HostName,
        _server: ServerId,
        question: Question,
    ) -> Result<String, (FailureKind, String)> {
        let Question::Holdings { tidy } = question else {
            panic!("it was asked {}", question.name());
        };
        let answers = *host == self.has || (*host == self.differs && !self.gone.load(Relaxed));
        if !answers {
            return Err((FailureKind::Timeout, "no answer".to_owned()));
        }
        let tidied = *host == self.differs || tidy || self.tidied.load(Relaxed);
        self.tidied.fetch_or(tidy, Relaxed);
        let unused = if tidied {
            vec![]
        } else {
            vec!["old".to_owned()]
        };
        let holdings = Holdings {
            guests: Vec::new(),
            unused,
        };
        Ok(serde_json::to_string(&holdings).unwrap())
    }
}

fn told<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_hosts_remove_and_those_that_do_not_answer_are_named() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let differs = cluster.server(server).await.host.unwrap();
    let names: Vec<HostName> = cluster.hosts.iter().map(|host| host.name.clone()).collect();
    let has = names.iter().find(|name| **name != differs).unwrap().clone();
    let scripted = Arc::new(Scripted {
        has: has.clone(),
        differs: differs.clone(),
        gone: AtomicBool::new(false),
        tidied: AtomicBool::new(false),
    });
    let mut with = cluster.neighbours().clone();
    with.questions = Arc::clone(&scripted) as Arc<dyn clients::HostQuestions>;
    let bus = bus::Bus::default();
    let look = on_hosts::look(&with).await.unwrap();
    let words = format!(
        "server {server} is active and shows power state Running, and its guest on {differs} is Shutdown: it becomes stopped"
    );
    assert_eq!(told(&look.found), [words]);
    let words =
        format!("{has} removes old from its base images at the next look: no guest needs it");
    assert_eq!(told(&look.due), [words]);
    assert_eq!(look.silent.len(), names.len() - 2);
    let no_answer = |one: &String| one.ends_with(": no answer");
    assert!(told(&look.silent).iter().all(no_answer));

    // One host that does not answer keeps no other from what it has to do.
    scripted.gone.store(true, Relaxed);
    let (count, silent) = on_hosts::mend(&with, &bus, &look).await.unwrap();
    assert_eq!(count, 0, "nobody knows what became of it");
    assert!(told(&silent).contains(&format!("host {differs}: no answer")));
    assert_eq!(on_hosts::look(&with).await.unwrap().due, []);
    assert_eq!(
        stands(&cluster, server).await,
        (VmState::Active, PowerState::Running)
    );

    // Nobody asks a host that is down.
    cluster.host(&has).stop();
    cluster.set_forced_down(cluster.host(&has), true).await;
    with.view.refresh().await.unwrap();
    let look = on_hosts::look(&with).await.unwrap();
    assert_eq!(
        look.unasked,
        [format!("host {has} is down: it was not asked")]
    );
    assert_eq!(look.silent.len(), names.len() - 1);
}
