//! An agent on a simulated hypervisor for tests, and a conductor that hands over what it is told to.

#![allow(clippy::unwrap_used)]

use super::{Agent, Settings};
use crate::ledger::Ledger;
use crate::peers::Peers;
use axum::extract::Path;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use types::agent::{Direction, GuestPlan, Verb, Work, WorkKey, WorkReport};
use types::{NodeId, ServerId, TaskId, Timestamp};
use virt::Hypervisor;
use virt::sim::{Sim, SimConfig};
use web::client::Client;

/// The agent works until this is dropped.
pub(super) struct Scripted {
    pub(super) sim: Arc<Sim>,
    answers: UnboundedSender<Value>,
    reports: UnboundedReceiver<WorkReport>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Scripted {
    /// The agent of host `h`, which finds others by `peers`.
    pub(super) fn start(peers: Arc<dyn Peers>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sim = Sim::open(SimConfig::large(folder.path().join("guests"), "h")).unwrap();
        let (answers, polls) = unbounded_channel();
        let (reported, reports) = unbounded_channel();
        let settings = Settings {
            host: "h".into(),
            node: NodeId::random(),
            host_ip: "127.0.0.1".to_owned(),
            beat: Duration::from_secs(3600),
            guests: None,
            strays: Duration::ZERO,
            live_limit: None,
            unused_images: None,
        };
        let agent = Agent::new(
            settings,
            Arc::clone(&sim) as Arc<dyn Hypervisor>,
            None,
            Ledger::open(&folder.path().join("ledger")).unwrap(),
            Client::in_process("the conductor", conductor(polls, reported)),
            peers,
        );
        let stop = CancellationToken::new();
        tokio::spawn(agent.run(stop.clone()));
        Self {
            sim,
            answers,
            reports,
            stop,
            _folder: folder,
        }
    }

    /// Hands work over that was stored at this time.
    pub(super) fn hand(&self, work: &Work, stored: i64) {
        let mut item = serde_json::to_value(work).unwrap();
        item["stored"] = stored.into();
        let polled = json!({ "work": [item], "asked": [] });
        self.answers.send(polled).unwrap();
    }

    /// What the agent reports next.
    pub(super) async fn reported(&mut self) -> WorkReport {
        self.reports.recv().await.unwrap()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn conductor(polls: UnboundedReceiver<Value>, reported: UnboundedSender<WorkReport>) -> Router {
    let polls = Arc::new(tokio::sync::Mutex::new(polls));
    let told = move |Path((_, what)): Path<(String, String)>, Json(message): Json<Value>| {
        let (polls, reported) = (Arc::clone(&polls), reported.clone());
        async move {
            match what.as_str() {
                "poll" => match polls.lock().await.recv().await {
                    Some(answer) => Json(answer),
                    None => std::future::pending().await,
                },
                "report" => {
                    let report = serde_json::from_value(message).unwrap();
                    let _ = reported.send(report);
                    Json(json!({}))
                }
                _ => Json(json!({ "at": Timestamp::now() })),
            }
        }
    };
    Router::new().route("/agent/{host}/{what}", post(told))
}

/// Work of a task of its own.
pub(super) fn work(server: ServerId, epoch: u64, verb: Verb) -> Work {
    Work {
        key: WorkKey {
            task: TaskId::random(),
            step: "step".to_owned(),
            direction: Direction::Do,
        },
        epoch,
        server,
        request: String::new(),
        trace: None,
        deadline_seconds: 60,
        verb,
        passphrase: None,
    }
}

/// A small guest.
pub(super) fn plan() -> GuestPlan {
    serde_json::from_value(json!({
        "number": 1, "name": "n", "project_id": "p", "user_id": "u", "flavor_name": "f", "vcpus": 1,
        "memory_mb": 128, "root_gb": 1, "ephemeral_gb": 0, "swap_mb": 0, "image": null, "vifs": [],
        "config_drive": null, "hardware": {}
    }))
    .unwrap()
}
