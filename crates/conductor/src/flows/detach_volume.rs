//! A volume taken from a server, while it runs or is off. The server shows no task meanwhile, as in Nova.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host; the volume shows that it is being detached | it shows that it is in use |
//! | `detach` | the host takes the disk out of the guest | the host gives it back |
//! | `release` | the volume is given back; only forward | - |

use super::{end_quietly, power_after, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::accept;
use db::block_devices;
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
    /// Take it out of the guest.
    Detach,
    /// Give the volume back.
    Release,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Detach, Self::Release];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Detach => "detach",
            Self::Release => "release",
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
}

/// Takes a volume away.
pub struct Detach {
    /// Volume service, hosts.
    pub with: Neighbours,
}

#[async_trait]
impl Flow for Detach {
    const NAME: &'static str = accept::DETACH_VOLUME;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Release)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        (step == Step::Detach).then_some("compute_detach_volume")
    }

    // Of a server on no host it is the API's work in Nova.
    fn event_in(&self, step: Step, state: &State) -> Option<&'static str> {
        let event = self.event(step)?;
        Some(match state.host {
            Some(_) => event,
            None => "api_detach_volume",
        })
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Detach => self.with.patience.detaching(),
            Step::Locate | Step::Release => Duration::from_secs(120),
        }
    }

    // A host that was silent may have taken it out all the same, and nobody else could give it back.
    fn undo_waits(&self, step: Step) -> bool {
        step == Step::Detach
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Detach {
            return None;
        }
        let volume_id = state.volume.clone();
        Some(HostWork {
            host: state.host.clone()?,
            verb: match direction {
                Direction::Do => Verb::EnsureNoVolume { volume_id },
                Direction::Undo => Verb::EnsureVolume {
                    volume_id,
                    disk: None,
                },
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
        let server = super::instance(&self.with, cx).await?;
        match step {
            Step::Locate => {
                state.host = super::host_if_any(&self.with, &server).await?;
                volumes::begin_detaching(&self.with, cx, &server, &state.volume).await
            }
            Step::Detach if state.host.is_none() => Ok(()),
            Step::Detach => power_after(outcome).map(drop),
            Step::Release => {
                let mut devices = volumes::devices(&self.with, cx.server).await?;
                devices.retain(|device| device.volume_id.as_deref() == Some(&state.volume));
                volumes::release(&self.with, &server, &devices).await
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
            Step::Detach if state.host.is_some() => super::given_back(cx, outcome),
            Step::Locate => {
                let server = super::instance(&self.with, cx).await?;
                volumes::roll_detaching(&self.with, &server, &state.volume).await
            }
            Step::Detach | Step::Release => Ok(()),
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
        if (step, direction) == (Step::Release, Direction::Do) {
            super::own(tx, cx)?;
            if let Some(device) = block_devices::of_volume(tx, cx.server, &state.volume)? {
                block_devices::remove(tx, device.id)?;
            }
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
