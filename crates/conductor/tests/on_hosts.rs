#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What an audit finds on hosts, and has done at once.

use kilonova_conductor::on_hosts;
use sql::{Error, Tx, Value};
use std::sync::{Arc, Mutex};
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

#[tokio::test]
async fn what_guests_do_and_servers_do_not_show_is_found_and_mended() {
    let cluster = Cluster::new(Options::default()).await;
    let (server, other) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    assert_eq!(cluster.found_on_hosts().await, []);
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
        becomes(&cluster, server, vm, power).await;
        let found = cluster.found_on_hosts().await;
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        let words = format!(
            "server {server} is {}",
            words.replace("HOST", host.as_str())
        );
        assert_eq!(told, [words]);
        assert_eq!(stands(&cluster, server).await, (vm, power), "it only looks");
        assert_eq!(cluster.mend_on_hosts(&found).await, 1);
        cluster.idle().await;
        assert_eq!(stands(&cluster, server).await, after);
        assert_eq!(cluster.found_on_hosts().await, []);
        assert_eq!(cluster.mend_on_hosts(&found).await, 0, "it is so no more");
    }
    assert_eq!(
        stands(&cluster, other).await,
        (VmState::Active, PowerState::Running)
    );
    let guests = cluster.host(&host).guests().await;
    assert!(guests.contains(&(server, PowerState::Shutdown)));
}

/// One host has base images that no guest needs, the others do not answer.
struct Scripted {
    has: HostName,
    tidied: Mutex<bool>,
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
        if *host != self.has {
            return Err((FailureKind::Timeout, "no answer".to_owned()));
        }
        let mut tidied = self.tidied.lock().unwrap();
        let unused = if *tidied {
            vec![]
        } else {
            vec!["old".to_owned()]
        };
        *tidied |= tidy;
        let holdings = Holdings {
            guests: Vec::new(),
            unused,
        };
        Ok(serde_json::to_string(&holdings).unwrap())
    }
}

#[tokio::test]
async fn base_images_that_no_guest_needs_and_hosts_that_do_not_answer_are_named() {
    let cluster = Cluster::new(Options::default()).await;
    let names: Vec<HostName> = cluster.hosts.iter().map(|host| host.name.clone()).collect();
    let mut with = cluster.neighbours().clone();
    with.questions = Arc::new(Scripted {
        has: names[0].clone(),
        tidied: Mutex::default(),
    });
    let bus = bus::Bus::default();
    let (found, silent) = on_hosts::look(&with).await.unwrap();
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    let words = format!("{} has base image old, which no guest needs", names[0]);
    assert_eq!(told, [words]);
    assert_eq!(silent.len(), names.len() - 1);
    assert!(silent[0].ends_with(": no answer"), "{silent:?}");
    assert_eq!(on_hosts::mend(&with, &bus, &found).await.unwrap(), 1);
    let (found, _) = on_hosts::look(&with).await.unwrap();
    assert_eq!(found, []);
    // Nobody asks a host that is down.
    cluster.host(&names[1]).stop();
    cluster.set_forced_down(cluster.host(&names[1]), true).await;
    with.view.refresh().await.unwrap();
    let (_, silent) = on_hosts::look(&with).await.unwrap();
    assert_eq!(silent.len(), names.len() - 2);
}
