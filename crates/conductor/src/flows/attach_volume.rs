//! A volume for a server that exists, while it runs or is off. The server shows no task meanwhile, as in Nova. The
//! request has put the disk on record.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host; a server that was shelved and offloaded has none | - |
//! | `connect` | reserves the volume and connects it to the host | gives it back |
//! | `attach` | the host gives the guest the disk | the host takes it out |
//! | `complete` | the volume is in use | - |

use super::{end_quietly, power_after, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::block_devices::{self, BlockDevice};
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::{HostName, Timestamp};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Reserve and connect the volume.
    Connect,
    /// Give it to the guest.
    Attach,
    /// Say that it is in use.
    Complete,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Connect, Self::Attach, Self::Complete];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Connect => "connect",
            Self::Attach => "attach",
            Self::Complete => "complete",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The volume, which is on record as a disk.
    pub(super) volume: String,
    #[serde(default)]
    host: Option<HostName>,
    /// The attachment, and how the host reaches the volume, until both are on record.
    #[serde(default, skip)]
    connected: Option<BlockDevice>,
}

/// Gives a server a volume.
pub struct Attach {
    /// Volume service, hosts.
    pub with: Neighbours,
}

impl Attach {
    /// The disk as it is on record.
    async fn device(&self, cx: &Context, state: &State) -> Result<Option<BlockDevice>, StepError> {
        let mut devices = volumes::devices(&self.with, cx.server).await?;
        devices.retain(|device| device.volume_id.as_deref() == Some(&state.volume));
        Ok(devices.pop())
    }

    async fn connect(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let device = self.device(cx, state).await?.ok_or(StepError::Fenced)?;
        let host = state.host.clone();
        let connected = volumes::connect(&self.with, cx, &server, vec![device], host).await?;
        state.connected = connected.into_iter().next();
        Ok(())
    }
}

#[async_trait]
impl Flow for Attach {
    const NAME: &'static str = accept::ATTACH_VOLUME;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        (step != Step::Locate).then_some("compute_attach_volume")
    }

    // Of a server on no host it is the API's work in Nova.
    fn event_in(&self, step: Step, state: &State) -> Option<&'static str> {
        let event = self.event(step)?;
        Some(match state.host {
            Some(_) => event,
            None => "api_attach_volume",
        })
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Locate | Step::Complete => Duration::from_secs(60),
            Step::Connect | Step::Attach => Duration::from_secs(120),
        }
    }

    // A guest that writes to a volume that is somebody else's again would ruin it.
    fn undo_waits(&self, step: Step) -> bool {
        step == Step::Attach
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Attach {
            return None;
        }
        let volume_id = state.volume.clone();
        Some(HostWork {
            host: state.host.clone()?,
            verb: match direction {
                Direction::Do => Verb::EnsureVolume {
                    volume_id,
                    disk: None,
                },
                Direction::Undo => Verb::EnsureNoVolume { volume_id },
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
                Ok(())
            }
            Step::Connect => self.connect(cx, state).await,
            Step::Attach if state.host.is_none() => Ok(()),
            Step::Attach => power_after(outcome).map(drop),
            Step::Complete => {
                let server = super::instance(&self.with, cx).await?;
                let device = self.device(cx, state).await?;
                volumes::complete(&self.with, &server, device.as_slice()).await
            }
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
            Step::Attach if state.host.is_some() => power_after(outcome).map(drop),
            Step::Connect => {
                let server = super::instance(&self.with, cx).await?;
                let device = self.device(cx, state).await?;
                volumes::release(&self.with, &server, device.as_slice()).await
            }
            Step::Locate | Step::Attach | Step::Complete => Ok(()),
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
        if step != Step::Connect {
            return Ok(());
        }
        super::own(tx, cx)?;
        if direction == Direction::Do
            && let Some(device) = &state.connected
        {
            block_devices::update(tx, device)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        if matches!(how, End::Unwound(_))
            && let Some(device) = block_devices::of_volume(tx, cx.server, &state.volume)?
        {
            block_devices::remove(tx, device.id)?;
        }
        end_quietly(tx, cx, how, now)
    }
}
