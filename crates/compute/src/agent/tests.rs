#![allow(clippy::unwrap_used)]
//! An agent on a simulated hypervisor, and a conductor that hands over what a test says.

use super::*;
use crate::peers::Neighbourhood;
use axum::Json;
use axum::extract::{Path, State};
use axum::routing::post;
use serde_json::json;
use std::collections::VecDeque;
use tokio::sync::mpsc;
use types::TaskId;
use types::agent::{Direction, WorkKey};
use virt::sim::{Sim, SimConfig, Verb as Slow};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// The answers to polls that are still to be given, and where reports go.
#[derive(Clone)]
struct Conductor {
    answers: Arc<Mutex<VecDeque<Vec<Work>>>>,
    reports: mpsc::UnboundedSender<WorkReport>,
}

async fn told(
    State(conductor): State<Conductor>,
    Path((_, what)): Path<(String, String)>,
    Json(message): Json<Value>,
) -> Json<Value> {
    match what.as_str() {
        "poll" => {
            let next = lock(&conductor.answers).pop_front();
            let Some(work) = next else {
                return std::future::pending().await;
            };
            Json(json!({ "work": work, "asked": [] }))
        }
        "report" => {
            let _ = conductor
                .reports
                .send(serde_json::from_value(message).unwrap());
            Json(json!({}))
        }
        _ => Json(json!({ "at": types::Timestamp::now() })),
    }
}

struct Bench {
    sim: Arc<Sim>,
    server: ServerId,
    reports: mpsc::UnboundedReceiver<WorkReport>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A guest runs, and the agent is handed this, one list with each poll.
    async fn start(
        prepare: impl FnOnce(&Sim),
        handed: impl FnOnce(ServerId) -> Vec<Vec<Work>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sim = Sim::open(SimConfig::large(folder.path().join("guests"), "h")).unwrap();
        let server = ServerId::random();
        let plan: GuestPlan = serde_json::from_value(json!({
            "number": 1, "name": "n", "project_id": "p", "user_id": "u", "flavor_name": "f", "vcpus": 1,
            "memory_mb": 128, "root_gb": 1, "ephemeral_gb": 0, "swap_mb": 0, "image": null, "vifs": [],
            "config_drive": null, "hardware": {}
        }))
        .unwrap();
        let spec = GuestSpec::from_plan(server, &plan, None).unwrap();
        sim.ensure_guest(&spec, Power::On).await.unwrap();
        prepare(&sim);
        let (reports, received) = mpsc::unbounded_channel();
        let conductor = Conductor {
            answers: Arc::new(Mutex::new(handed(server).into())),
            reports,
        };
        let router = axum::Router::new()
            .route("/agent/{host}/{what}", post(told))
            .with_state(conductor);
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
            Client::in_process("the conductor", router),
            Arc::new(Neighbourhood::default()),
        );
        let stop = CancellationToken::new();
        tokio::spawn(agent.run(stop.clone()));
        Self {
            sim,
            server,
            reports: received,
            stop,
            _folder: folder,
        }
    }

    /// What becomes of the work of this task and step.
    async fn outcome_of(&mut self, task: TaskId, step: &str) -> WorkOutcome {
        let reported = async {
            while let Some(report) = self.reports.recv().await {
                if report.key.task == task && report.key.step == step {
                    return report.outcome;
                }
            }
            panic!("the agent has stopped");
        };
        tokio::time::timeout(PATIENCE, reported).await.unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn work(server: ServerId, task: TaskId, step: &str, direction: Direction, verb: Verb) -> Work {
    Work {
        key: WorkKey {
            task,
            step: step.to_owned(),
            direction,
        },
        epoch: 1,
        server,
        request: "req".to_owned(),
        trace: None,
        deadline_seconds: 600,
        verb,
        passphrase: None,
    }
}

/// Longer than anybody waits here.
const NEVER: Duration = Duration::from_secs(3600);

fn volume() -> String {
    "v".to_owned()
}

/// An attachment took too long and is to be taken back, which the guest would not do; then the server is deleted.
#[tokio::test]
async fn a_deletion_does_not_wait_for_a_detach_that_has_not_begun() {
    let (attach, delete) = (TaskId::random(), TaskId::random());
    let slow = |sim: &Sim| {
        let controls = sim.controls();
        controls.set_delay(Slow::ResizeDisk, Duration::from_millis(300));
        controls.set_delay(Slow::DetachDisk, NEVER);
    };
    let mut bench = Bench::start(slow, |server| {
        let grown = Verb::EnsureVolumeSize {
            volume_id: volume(),
            size_gib: 2,
        };
        let detached = Verb::EnsureNoVolume {
            volume_id: volume(),
        };
        vec![
            vec![
                work(server, attach, "first", Direction::Do, grown),
                work(server, attach, "second", Direction::Undo, detached),
            ],
            vec![work(
                server,
                delete,
                "destroy",
                Direction::Do,
                Verb::EnsureAbsent,
            )],
        ]
    })
    .await;
    let gone = bench.outcome_of(delete, "destroy").await;
    assert_eq!(gone, WorkOutcome::done(PowerState::NoState));
    assert!(bench.sim.guests().await.unwrap().is_empty());
    assert!(bench.sim.stored_spec(bench.server).await.unwrap().is_none());
}

/// Whoever waits for a guest that does not let go, or does not go down, gives way to what ends that.
#[tokio::test]
async fn nobody_waits_for_a_guest_that_does_not_do_its_part() {
    let (one, two) = (TaskId::random(), TaskId::random());
    let never = |sim: &Sim| {
        let controls = sim.controls();
        controls.set_delay(Slow::DetachDisk, NEVER);
        controls.set_guests_ignore_shutdown(true);
    };
    let detached = || Verb::EnsureNoVolume {
        volume_id: volume(),
    };
    let reboot = |hard| Verb::RebootOnce {
        plan: None,
        hard,
        grace_seconds: 3600,
    };
    for (first, (task, direction, second)) in [
        (detached(), (two, Direction::Do, Verb::EnsureAbsent)),
        (detached(), (two, Direction::Do, reboot(true))),
        // Whatever its undo asks for.
        (detached(), (one, Direction::Undo, Verb::EnsureGoingOn)),
        (reboot(false), (two, Direction::Do, Verb::EnsureAbsent)),
        (reboot(false), (two, Direction::Do, reboot(true))),
    ] {
        let case = format!("{first:?} {second:?}");
        let mut bench = Bench::start(never, |server| {
            vec![
                vec![work(server, one, "step", Direction::Do, first)],
                vec![work(server, task, "step", direction, second)],
            ]
        })
        .await;
        let (mut ended, mut called_off) = (false, false);
        while !ended || !called_off {
            let reported = tokio::time::timeout(PATIENCE, bench.reports.recv()).await;
            let report = reported.expect(&case).unwrap();
            match report.outcome {
                WorkOutcome::Done { .. } => ended = true,
                WorkOutcome::Failed { kind, .. } => {
                    assert_eq!(kind, FailureKind::Cancelled, "{case}");
                    called_off = true;
                }
                WorkOutcome::Fenced => panic!("{case}: fenced"),
            }
        }
    }
}

/// Nova's driver does so whatever libvirt says of the soft one.
#[tokio::test]
async fn a_soft_reboot_that_fails_becomes_a_hard_one() {
    for (error, hard) in [
        (HypervisorError::Rejected("no".to_owned()), true),
        (HypervisorError::Unavailable("gone".to_owned()), true),
        (HypervisorError::Timeout("that".to_owned()), true),
        (HypervisorError::NotFound(ServerId::random()), false),
    ] {
        let task = TaskId::random();
        let refused = error.clone();
        let mut bench = Bench::start(
            |sim| sim.controls().fail_next(Slow::RebootSoft, refused, 1),
            |server| {
                let soft = Verb::RebootOnce {
                    plan: None,
                    hard: false,
                    grace_seconds: 60,
                };
                vec![vec![work(server, task, "act", Direction::Do, soft)]]
            },
        )
        .await;
        let outcome = bench.outcome_of(task, "act").await;
        let done = WorkOutcome::done(PowerState::Running);
        assert_eq!(outcome == done, hard, "{error:?}: {outcome:?}");
    }
}
