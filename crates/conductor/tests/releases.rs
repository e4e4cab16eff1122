#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Hosts of another release than the conductor's: what one does not know of the other fails at once and alone.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Request;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Cluster, Host, Options};
use types::agent::{FIRST_VERSION, FailureKind, Question, SERVICE_VERSION};
use types::{ServerId, VmState};

/// Changes what goes over the wire: what an agent asks (its path and body), and what it is answered.
#[derive(Clone)]
struct Wire {
    desk: Router,
    asks: fn(&str, &mut Value),
    hears: fn(&mut Value),
}

async fn carry(State(wire): State<Wire>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let sent = axum::body::to_bytes(body, 16 << 20).await.unwrap();
    let mut sent: Value = serde_json::from_slice(&sent).unwrap();
    (wire.asks)(head.uri.path(), &mut sent);
    let polls = head.uri.path().ends_with("/poll");
    let client = web::client::Client::in_process("the conductor", wire.desk);
    let (path, body) = (head.uri.to_string(), serde_json::to_vec(&sent).unwrap());
    let sending = client.send(head.method, &path, head.headers, Body::from(body));
    let answer = sending.await.unwrap();
    if !polls || !answer.status().is_success() {
        return answer;
    }
    let heard = axum::body::to_bytes(answer.into_body(), 16 << 20).await;
    let mut heard: Value = serde_json::from_slice(&heard.unwrap()).unwrap();
    (wire.hears)(&mut heard);
    axum::Json(heard).into_response()
}

/// Restarts a host's agent behind such a wire.
fn behind(cluster: &Cluster, host: &Host, asks: fn(&str, &mut Value), hears: fn(&mut Value)) {
    let desk = cluster.desk();
    let wire = Wire { desk, asks, hears };
    host.start(Router::new().fallback(carry).with_state(wire));
}

async fn clean(cluster: &Cluster) {
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

fn one_host() -> Options {
    Options {
        hosts: 1,
        ..Options::default()
    }
}

/// As an agent that knows nothing yet.
fn knows_nothing(path: &str, asked: &mut Value) {
    if path.ends_with("/poll") || path.ends_with("/heartbeat") {
        asked["version"] = 0.into();
    }
}

/// As the agents of the release before, which say no version.
fn says_no_version(path: &str, asked: &mut Value) {
    if path.ends_with("/poll") || path.ends_with("/heartbeat") {
        let asked = asked.as_object_mut().unwrap();
        assert!(asked.remove("version").is_some(), "{path}");
    }
}

/// As an agent of the release before the one that can look whether a guest has stayed.
fn does_not_look(path: &str, asked: &mut Value) {
    if path.ends_with("/poll") || path.ends_with("/heartbeat") {
        asked["version"] = 3.into();
    }
}

fn as_asked(_: &str, _: &mut Value) {}
fn as_answered(_: &mut Value) {}

/// As a conductor that knows one verb and one question more.
fn newer(answer: &mut Value) {
    for work in answer["work"].as_array_mut().unwrap() {
        if work["verb"]["verb"] == "ensure_paused" {
            work["verb"] = json!({ "verb": "ensure_frozen", "degrees": -4 });
        }
    }
    for asked in answer["asked"].as_array_mut().unwrap() {
        if asked["question"]["question"] == "diagnostics" {
            asked["question"] = json!({ "question": "temperature" });
        }
    }
}

async fn version(cluster: &Cluster, host: &Host) -> i64 {
    let all: Result<Vec<_>, sql::Error> = cluster.store.read(db::hosts::services).await;
    let mut all = all.unwrap().into_iter();
    let its = all.find(|service| service.host == host.name);
    its.unwrap().version
}

async fn versions_become(cluster: &Cluster, host: &Host, wanted: u32) {
    cluster
        .until("the host's version is known", async || {
            version(cluster, host).await == i64::from(wanted)
        })
        .await;
}

/// What administrators are told of a server that failed.
async fn told(cluster: &Cluster, server: ServerId) -> String {
    let fault = cluster.server(server).await.fault.expect("a fault");
    fault.details.unwrap_or(fault.message)
}

#[tokio::test]
async fn work_that_a_host_does_not_know_fails_at_once_and_alone() {
    let cluster = Cluster::new(one_host()).await;
    let (paused, deleted) = (cluster.create().await, cluster.create().await);
    cluster.idle().await;
    behind(&cluster, &cluster.hosts[0], as_asked, newer);
    // Both are handed over by one poll: neither keeps the other.
    cluster.act(paused, "pause", json!({})).await;
    assert!(cluster.delete(deleted).await);
    cluster.idle().await;
    assert!(cluster.server(deleted).await.deleted);
    assert_eq!(cluster.server(paused).await.vm_state, VmState::Active);
    assert!(cluster.last_action_failed(paused).await);
    assert_eq!(
        told(&cluster, paused).await,
        "host host-1 runs a release that does not know ensure_frozen: bring it up to date"
    );
    let (kind, message) = cluster
        .answer_to(paused, Question::Diagnostics)
        .await
        .unwrap_err();
    assert_eq!(kind, FailureKind::Host);
    assert_eq!(
        message,
        "host host-1 runs a release that does not know temperature: bring it up to date"
    );
    assert!(cluster.answer_to(paused, Question::Uptime).await.is_ok());
    // Brought up to date it does what it is asked.
    cluster.start_host(&cluster.hosts[0]);
    cluster.act(paused, "pause", json!({})).await;
    cluster.idle().await;
    assert_eq!(cluster.server(paused).await.vm_state, VmState::Paused);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_host_is_not_handed_what_its_release_does_not_know() {
    let cluster = Cluster::new(one_host()).await;
    let there = cluster.create().await;
    cluster.idle().await;
    let host = &cluster.hosts[0];
    behind(&cluster, host, knows_nothing, as_answered);
    versions_become(&cluster, host, 0).await;
    cluster.act(there, "pause", json!({})).await;
    cluster.idle().await;
    assert_eq!(cluster.server(there).await.vm_state, VmState::Active);
    assert_eq!(
        told(&cluster, there).await,
        "host host-1 runs a release that does not know ensure_paused: bring it up to date"
    );
    let (_, message) = cluster
        .answer_to(there, Question::Uptime)
        .await
        .unwrap_err();
    assert_eq!(
        message,
        "host host-1 runs a release that does not know uptime: bring it up to date"
    );
    // What only that host can do waits until it can.
    assert!(cluster.delete(there).await);
    cluster
        .until("the deletion waits for the host", async || {
            cluster.tasks_at(Some("destroy")).await == 1
        })
        .await;
    cluster.start_host(host);
    versions_become(&cluster, host, SERVICE_VERSION).await;
    cluster.idle().await;
    assert!(cluster.server(there).await.deleted);
    clean(&cluster).await;
}

#[tokio::test]
async fn a_server_is_built_where_its_host_knows_how() {
    let mut options = Options::default();
    // That host does not know how to remove anything either.
    options.journal.undo_deadline = Duration::from_millis(200);
    let cluster = Cluster::new(options).await;
    behind(&cluster, &cluster.hosts[0], knows_nothing, as_answered);
    versions_become(&cluster, &cluster.hosts[0], 0).await;
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(cluster.create().await);
    }
    cluster.idle().await;
    for server in servers {
        let server = cluster.server(server).await;
        assert_eq!(server.vm_state, VmState::Active, "{:?}", server.fault);
        assert_eq!(server.host.as_ref(), Some(&cluster.hosts[1].name));
    }
    cluster.start_host(&cluster.hosts[0]);
    cluster.paid().await;
    clean(&cluster).await;
}

#[tokio::test]
async fn agents_that_say_no_version_are_of_the_first() {
    let cluster = Cluster::new(one_host()).await;
    let host = &cluster.hosts[0];
    versions_become(&cluster, host, SERVICE_VERSION).await;
    behind(&cluster, host, says_no_version, as_answered);
    versions_become(&cluster, host, FIRST_VERSION).await;
    let server = cluster.create().await;
    cluster.idle().await;
    assert_eq!(cluster.server(server).await.vm_state, VmState::Active);
    assert!(cluster.answer_to(server, Question::Uptime).await.is_ok());
    assert!(cluster.delete(server).await);
    cluster.idle().await;
    clean(&cluster).await;
}

/// The new host is asked to switch the guest off first, as nobody says that it has stayed.
#[tokio::test]
async fn a_live_migration_from_an_older_host_that_fails_is_taken_back() {
    let cluster = Cluster::new(Options::default()).await;
    let server = cluster.create().await;
    cluster.idle().await;
    let before = cluster.server(server).await;
    let old = cluster.host(before.host.as_ref().unwrap());
    behind(&cluster, old, does_not_look, as_answered);
    versions_become(&cluster, old, 3).await;
    let broken = virt::HypervisorError::Rejected("it broke off".to_owned());
    let controls = old.sim.controls();
    controls.fail_next(virt::sim::Verb::MigrateLive, broken, 1);
    let state = cluster.first_state("live_migration", server);
    cluster.act(server, "live_migration", state).await;
    cluster.idle().await;
    let after = cluster.server(server).await;
    assert_eq!((after.vm_state, after.host), (VmState::Active, before.host));
    assert!(cluster.last_action_failed(server).await);
    cluster.paid().await;
    clean(&cluster).await;
}
