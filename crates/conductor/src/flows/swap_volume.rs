//! A volume in the place of another: the guest's disk becomes the new one, with the data of the old one. Where the volume
//! service made the new one to move the old one there, it goes by the old one's id from then on. The server shows no task
//! meanwhile, as in Nova.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host; the old volume shows that it is being detached | it shows that it is in use |
//! | `connect` | reserves the new volume and connects it to the host | gives it back |
//! | `swap` | the host exchanges the disk | the host takes it back |
//! | `complete` | the volume service ends its move; only forward | - |

use super::{end_quietly, power_after, volumes};
use crate::disks::of_device;
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::block_devices::{self, BlockDevice};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::disks::GuestDisk;
use types::{HostName, Timestamp};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Reserve and connect the new volume.
    Connect,
    /// Exchange the disk.
    Swap,
    /// Let the volume service end its move.
    Complete,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Connect, Self::Swap, Self::Complete];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Connect => "connect",
            Self::Swap => "swap",
            Self::Complete => "complete_move",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub(super) old: String,
    pub(super) new: String,
    #[serde(default)]
    host: Option<HostName>,
    /// The disk before, and as it shall be.
    #[serde(default)]
    disks: Option<(GuestDisk, GuestDisk)>,
    /// How the host reaches the new volume.
    #[serde(default)]
    connection: Option<String>,
    /// The attachments of the old and of the new volume.
    #[serde(default)]
    attachments: Option<(String, String)>,
    /// GiB of the new volume.
    #[serde(default)]
    size_gib: Option<u64>,
}

impl State {
    /// The volume that the server has afterwards, as the host was told.
    fn goes_by(&self) -> &str {
        let after = self.disks.as_ref().and_then(|(_, after)| after.volume_id());
        after.unwrap_or(&self.old)
    }
}

/// Exchanges a volume.
pub struct Swap {
    /// Volume service, hosts.
    pub with: Neighbours,
}

fn lost() -> StepError {
    StepError::Fail(Failure::new(500, "The volume is not on record."))
}

impl Swap {
    /// The disk as it is on record.
    async fn device(&self, cx: &Context, state: &State) -> Result<BlockDevice, StepError> {
        let mut devices = volumes::devices(&self.with, cx.server).await?;
        devices.retain(|device| device.volume_id.as_deref() == Some(&state.old));
        devices.pop().ok_or_else(lost)
    }

    /// The disk as it will be, as if it were another one.
    pub(super) fn new_device(device: &BlockDevice, state: &State) -> BlockDevice {
        BlockDevice {
            source: types::disks::Source::Volume,
            volume_id: Some(state.new.clone()),
            attachment_id: None,
            connection_info: None,
            ..device.clone()
        }
    }

    async fn connect(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let scope = self.with.scope(&server).await?;
        let found = self.with.volumes.volume(&scope, &state.new).await;
        let volume = found.map_err(retry)?.ok_or_else(|| {
            let words = format!("Volume {} could not be found.", state.new);
            StepError::Fail(Failure::new(404, words))
        })?;
        // Cinder's word for the volume that it made to move another one there.
        let moves = volume.migration_status == format!("target:{}", state.old);
        let id = if moves { &state.old } else { &state.new }.clone();
        let old = self.device(cx, state).await?;
        let wanted = vec![Self::new_device(&old, state)];
        let host = state.host.clone();
        let mut connected = volumes::connect(&self.with, cx, &server, wanted, host).await?;
        let new = connected.pop().ok_or_else(lost)?;
        state.connection.clone_from(&new.connection_info);
        state.attachments = old.attachment_id.clone().zip(new.attachment_id.clone());
        state.size_gib = Some(volume.size);
        let goes_by = BlockDevice {
            volume_id: Some(id),
            ..new
        };
        state.disks = of_device(&old).zip(of_device(&goes_by));
        Ok(())
    }

    async fn complete(&self, cx: &Context, state: &State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let (scope, service) = (self.with.scope(&server).await?, &self.with.volumes);
        let (old, new) = state.attachments.clone().ok_or_else(lost)?;
        let done = service.complete(&scope, &new).await.map_err(retry)?;
        if let Err(reason) = done {
            tracing::warn!(server = %cx.server, reason = reason.message, "a volume cannot be shown as in use");
        }
        let gone = service.release(&scope, &old).await.map_err(retry)?;
        gone.map_err(|reason| StepError::Retry(reason.message))?;
        let ended = service
            .migrate_completion(&scope, &state.old, &state.new, false)
            .await
            .map_err(retry)?;
        match ended {
            Ok(remains) if remains == state.goes_by() => {}
            Ok(remains) => {
                tracing::warn!(server = %cx.server, remains, "the volume service knows the exchanged volume by another id");
            }
            Err(reason) => {
                tracing::warn!(server = %cx.server, reason = reason.message, "the volume service did not end its move");
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Flow for Swap {
    const NAME: &'static str = accept::SWAP_VOLUME;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Complete)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        (step != Step::Locate).then_some("compute_swap_volume")
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            // All data is copied.
            Step::Swap => Duration::from_secs(4 * 3600),
            _ => Duration::from_secs(120),
        }
    }

    // A guest that writes to a volume that is somebody else's again would ruin it.
    fn undo_waits(&self, step: Step) -> bool {
        step == Step::Swap
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Swap {
            return None;
        }
        let (before, after) = state.disks.clone()?;
        let disk = match direction {
            Direction::Do => after,
            Direction::Undo => before,
        };
        Some(HostWork {
            host: state.host.clone()?,
            verb: Verb::EnsureSwapped {
                old_volume_id: state.old.clone(),
                disk: Box::new(disk),
            },
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
            Step::Locate => {
                let server = super::instance(&self.with, cx).await?;
                state.host = super::host_if_any(&self.with, &server).await?;
                volumes::begin_detaching(&self.with, cx, &server, &state.old).await
            }
            Step::Connect => self.connect(cx, state).await,
            Step::Swap => power_after(outcome).map(drop),
            Step::Complete => self.complete(cx, state).await,
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Swap if state.disks.is_some() => power_after(outcome).map(drop),
            Step::Connect => {
                let server = super::instance(&self.with, cx).await?;
                let new = Self::new_device(&self.device(cx, state).await?, state);
                volumes::release(&self.with, &server, &[new]).await
            }
            Step::Locate => {
                let server = super::instance(&self.with, cx).await?;
                volumes::roll_detaching(&self.with, &server, &state.old).await
            }
            Step::Swap | Step::Complete => Ok(()),
        }
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        if (step, direction) != (Step::Complete, Direction::Do) {
            return Ok(());
        }
        super::own(tx, cx)?;
        let found = block_devices::of_volume(tx, cx.server, &state.old)?;
        if let (Some(mut device), Some((_, new))) = (found, state.attachments.clone()) {
            device.attachment_id = Some(new);
            device.volume_id = Some(state.goes_by().to_owned());
            device.volume_size = state.size_gib.or(device.volume_size);
            device.connection_info = state.connection.take();
            block_devices::update(tx, &device)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &State,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end_quietly(tx, cx, how, now)
    }
}
