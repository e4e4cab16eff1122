//! An image of a server that boots from a volume: snapshots of its volumes, and an image without data that names them, so
//! that a server made of it gets volumes made of them.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host, where the guest's agent is to make file systems stand still | deletes the image |
//! | `still` | they do | they go on |
//! | `snapshots` | has the volume service make snapshots | deletes them |
//! | `go_on` | file systems go on; the host sees to that by itself after a time | - |
//! | `describe` | writes the disks into the image, which is active from then on | - |

use super::{end_quietly, power_after, volumes};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use clients::volumes::{Scope, SnapshotRecord};
use db::accept;
use db::block_devices::BlockDevice;
use db::instances::Instance;
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sql::Tx;
use std::time::Duration;
use tokio::time::Instant;
use types::agent::{Direction, Quiesce, Verb, WorkOutcome};
use types::{HostName, ImageId, Timestamp, VmState};

/// How long file systems stand still at most.
const STILL: Duration = Duration::from_secs(180);
/// How long snapshots may take meanwhile.
const TAKING: Duration = Duration::from_secs(120);
/// The pause before they are looked at again; doubles.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_secs(1);

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host, if it has a part in this.
    Locate,
    /// Make file systems stand still.
    Still,
    /// Have snapshots made.
    Snapshots,
    /// Let file systems go on.
    GoOn,
    /// Name them in the image.
    Describe,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Locate,
        Self::Still,
        Self::Snapshots,
        Self::GoOn,
        Self::Describe,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Still => "still",
            Self::Snapshots => "snapshots",
            Self::GoOn => "go_on",
            Self::Describe => "describe",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The image that waits.
    pub image: ImageId,
    /// The disks as the image will name them.
    #[serde(default)]
    mapping: Vec<Value>,
    /// Whether file systems stand still, and where.
    #[serde(default)]
    quiesce: Quiesce,
    #[serde(default)]
    host: Option<HostName>,
}

/// The flow.
pub struct SnapshotVolumes {
    /// Image and volume services.
    pub with: Neighbours,
}

/// Deletes the snapshots that were made for an image. Repeatable.
async fn forget_snapshots(
    with: &Neighbours,
    scope: &Scope,
    image: ImageId,
) -> Result<(), StepError> {
    for snapshot in of_image(with, scope, image).await? {
        let gone = with.volumes.delete_snapshot(scope, &snapshot.1).await;
        if let Err(reason) = gone.map_err(retry)? {
            return Err(StepError::Retry(reason.message));
        }
    }
    Ok(())
}

/// The snapshots that were made for an image: volume and snapshot.
async fn of_image(
    with: &Neighbours,
    scope: &Scope,
    image: ImageId,
) -> Result<Vec<(String, String)>, StepError> {
    let mark = image.to_string();
    let all = with.volumes.snapshots(scope).await.map_err(retry)?;
    let its = all
        .into_iter()
        .filter(|one| one.document["metadata"]["image"] == mark);
    Ok(its.map(|one| (one.volume_id, one.id)).collect())
}

/// Removes what a flow that was ended has left. Repeatable.
pub(super) async fn forget(
    with: &Neighbours,
    server: &Instance,
    image: ImageId,
) -> Result<(), StepError> {
    let scope = with.scope(server).await?;
    forget_snapshots(with, &scope, image).await
}

/// A disk as an image names it (`block_device_mapping` of image properties, second form).
fn described(device: &BlockDevice, snapshot: Option<&str>) -> Value {
    let source = match snapshot {
        Some(_) => "snapshot",
        None => device.source.as_str(),
    };
    json!({
        "source_type": source, "destination_type": device.destination.as_str(), "snapshot_id": snapshot,
        "image_id": device.image_id.as_deref().filter(|_| snapshot.is_none()), "volume_id": null, "no_device": null,
        "device_name": device.device_name, "boot_index": device.boot_index, "volume_size": device.volume_size,
        "delete_on_termination": device.delete_on_termination, "disk_bus": device.disk_bus,
        "device_type": device.device_type, "guest_format": device.guest_format, "tag": device.tag, "volume_type": null,
    })
}

impl SnapshotVolumes {
    async fn locate(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        // Nothing moves in a guest that is off or stands still altogether.
        if server.vm_state != VmState::Active {
            return Ok(());
        }
        let wanted = server.image_properties().map(Quiesce::of);
        let (Some(host), Some(wanted)) = (server.host.clone(), wanted) else {
            return Ok(());
        };
        if wanted == Quiesce::No {
            return Ok(());
        }
        match super::must_be_up(&self.with, &host).await {
            Ok(()) => (state.host, state.quiesce) = (Some(host), wanted),
            Err(StepError::Fail(failure)) if wanted == Quiesce::Try => {
                tracing::warn!(server = %cx.server, reason = failure.message, "the images are of a guest that did not stand still");
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// A copy that is not begun while file systems stand still is of no one moment.
    async fn until_taken(&self, scope: &Scope, state: &State) -> Result<(), StepError> {
        if state.quiesce == Quiesce::No {
            return Ok(());
        }
        let until = Instant::now() + TAKING;
        let mark = state.image.to_string();
        let mut pause = LOOK;
        loop {
            let all = self.with.volumes.snapshots(scope).await.map_err(retry)?;
            let its = |one: &&SnapshotRecord| one.document["metadata"]["image"] == mark;
            let left = all.iter().filter(its).any(|one| one.status == "creating");
            match (left, Instant::now() + pause < until, state.quiesce) {
                (false, ..) => return Ok(()),
                (true, true, _) => {}
                (true, false, Quiesce::Must) => {
                    let words = "The snapshots were not taken in the time for which file systems of the guest may stand \
                                 still (os_require_quiesce).";
                    return Err(StepError::Fail(Failure::new(500, words)));
                }
                (true, false, _) => {
                    tracing::warn!(image = %state.image, "snapshots take longer than a guest may stand still");
                    return Ok(());
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MOST);
        }
    }

    async fn snapshots(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let (scope, with) = (self.with.scope(&server).await?, &self.with);
        let token = with.token().await?;
        let found = with.images.get(&token, &state.image.to_string()).await;
        let image = found.map_err(retry)?.ok_or_else(|| {
            StepError::Fail(Failure::new(404, "The image of the server is gone."))
        })?;
        let name = format!("snapshot for {}", image.image.name);
        let there = of_image(with, &scope, state.image).await?;
        let mark = state.image.to_string();
        let mut mapping = Vec::new();
        for device in volumes::devices(with, cx.server).await? {
            let Some(volume) = device.volume_id.clone() else {
                mapping.push(described(&device, None));
                continue;
            };
            let known = there.iter().find(|(of, _)| *of == volume);
            let snapshot = match known {
                Some((_, id)) => id.clone(),
                None => {
                    let made = with
                        .volumes
                        .create_marked(&scope, &volume, &name, &mark)
                        .await;
                    let made = made.map_err(retry)?.map_err(|reason| {
                        let words = format!("A snapshot could not be made: {}", reason.message);
                        StepError::Fail(Failure::new(reason.status.as_u16(), words))
                    })?;
                    made.id
                }
            };
            mapping.push(described(&device, Some(&snapshot)));
        }
        state.mapping = mapping;
        self.until_taken(&scope, state).await
    }

    async fn describe(&self, cx: &Context, state: &State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let (token, images) = (self.with.token().await?, &self.with.images);
        let mut patch = vec![
            json!({ "op": "add", "path": "/block_device_mapping", "value": Value::from(state.mapping.clone()).to_string() }),
            json!({ "op": "add", "path": "/bdm_v2", "value": "True" }),
        ];
        if let Some(root) = &server.root_device_name {
            patch.push(json!({ "op": "add", "path": "/root_device_name", "value": root }));
        }
        let id = state.image.to_string();
        let changed = images.patch(&token, &id, &patch.into()).await;
        let changed = changed.map_err(retry)?;
        if !changed.status.is_success() {
            let words = format!("The image could not be described: {}", changed.status);
            return Err(StepError::Fail(Failure::new(500, words)));
        }
        let sent = images.upload(&token, state.image, axum::body::Body::empty());
        sent.await
            .map_err(retry)?
            .map_err(|reason| StepError::Fail(Failure::new(500, reason)))
    }
}

#[async_trait]
impl Flow for SnapshotVolumes {
    const NAME: &'static str = accept::SNAPSHOT_VOLUMES;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        (step == Step::Snapshots).then_some("api_snapshot_instance")
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Still | Step::GoOn => Duration::from_secs(60),
            _ => Duration::from_secs(300),
        }
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        let its = matches!(step, Step::Still | Step::GoOn);
        state.host.clone().filter(|_| its)
    }

    fn may_pass(&self, step: Step, state: &State) -> bool {
        step == Step::GoOn || (step == Step::Still && state.quiesce != Quiesce::Must)
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        let verb = match (step, direction) {
            (Step::Still, Direction::Do) => Verb::EnsureStill {
                quiesce: state.quiesce,
                seconds: STILL.as_secs(),
            },
            (Step::Still, Direction::Undo) | (Step::GoOn, Direction::Do) => Verb::EnsureGoingOn,
            _ => return None,
        };
        Some(HostWork {
            host: state.host.clone()?,
            verb,
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Locate => self.locate(cx, state).await,
            Step::Still | Step::GoOn if state.host.is_none() => Ok(()),
            Step::Still if state.quiesce == Quiesce::Must => power_after(outcome).map(drop),
            Step::Still | Step::GoOn => {
                if let Some(WorkOutcome::Failed { message, .. }) = outcome {
                    tracing::warn!(server = %cx.server, step = step.as_str(), reason = message, "file systems of a guest");
                }
                Ok(())
            }
            Step::Snapshots => self.snapshots(cx, state).await,
            Step::Describe => self.describe(cx, state).await,
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        _: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Snapshots => {
                let server = super::instance(&self.with, cx).await?;
                forget(&self.with, &server, state.image).await
            }
            Step::Locate => {
                let token = self.with.token().await?;
                let deleting = self.with.images.delete(&token, state.image);
                deleting.await.map_err(retry)
            }
            Step::Still | Step::GoOn | Step::Describe => Ok(()),
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end_quietly(tx, cx, end, now)
    }
}
