//! Rebuild: the guest is made anew in its place, with its ports, from the image that the request named. What the
//! request changed was written with it; when the rebuild fails those changes stay, as in Nova.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host, and whether the volume service can do its part | - |
//! | `stop` | where a volume gets another image: the host switches the guest off | - |
//! | `reimage` | the volume is taken from the host, gets the image and comes back | it comes back |
//! | `act` | the host asks the guest to go down and makes it anew | - |

use super::build::guest_plan;
use super::grace::Grace;
use super::on_host::at_rest;
use super::{fault, idle, power_after, reimage, transition, volumes};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, FailureKind, GuestPlan, Verb, WorkOutcome};
use types::{HostName, ImageId, PowerState, TaskState, Timestamp, VmState};

/// An image may have to be fetched.
const FETCHING: Duration = Duration::from_secs(1800);

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Switch the guest off, if its volume gets another image.
    Stop,
    /// Write the image onto the volume.
    Reimage,
    /// Make the guest anew.
    Act,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Locate, Self::Stop, Self::Reimage, Self::Act];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Stop => "stop",
            Self::Reimage => "reimage",
            Self::Act => "act",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    #[serde(default)]
    preserve_ephemeral: bool,
    /// The image that the volume gets from which the server boots; none leaves that as it is.
    #[serde(default)]
    reimage: Option<ImageId>,
    #[serde(default)]
    plan: Option<GuestPlan>,
    /// It was off and shall be off again.
    #[serde(default)]
    off: bool,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    power: u8,
    #[serde(default)]
    grace: Grace,
    /// The disk with its volume, until it is on record.
    #[serde(skip)]
    devices: Vec<BlockDevice>,
}

/// Makes a server anew.
pub struct Rebuild {
    /// Volume service, hosts.
    pub with: Neighbours,
}

impl Rebuild {
    async fn locate(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        if state.preserve_ephemeral {
            let words = "The current driver does not support preserving ephemeral partitions.";
            return Err(StepError::Fail(Failure::new(400, words)));
        }
        state.off = server.vm_state == VmState::Stopped;
        state.grace = Grace::of(&self.with, &server);
        state.plan = Some(guest_plan(&server, &server.network_info));
        let host = server.host.clone().ok_or_else(super::nowhere)?;
        super::must_be_up(&self.with, &host).await?;
        super::must_be_alone(&self.with, &server, &host).await?;
        if state.reimage.is_some() {
            self.can_reimage(cx, &server).await?;
        }
        state.host = Some(host);
        Ok(())
    }

    /// Before anything is touched.
    async fn can_reimage(
        &self,
        cx: &Context,
        server: &instances::Instance,
    ) -> Result<(), StepError> {
        let volume = self.root(cx).await?.volume_id.unwrap_or_default();
        let scope = self.with.scope(server).await?;
        let can = self.with.volumes.can_reimage(&scope, &volume).await;
        if can.map_err(retry)? {
            return Ok(());
        }
        let words = "The volume service cannot write an image onto a volume: that needs its API version 3.68. The server \
                     is as it was.";
        Err(StepError::Fail(Failure::new(501, words)))
    }

    /// The volume that the server boots from.
    async fn root(&self, cx: &Context) -> Result<BlockDevice, StepError> {
        let devices = volumes::devices(&self.with, cx.server).await?;
        let mut roots = devices
            .into_iter()
            .filter(|device| device.is_root() && device.volume_id.is_some());
        roots.next().ok_or_else(|| {
            StepError::Fail(Failure::new(
                500,
                "The volume that the server boots from is not on record.",
            ))
        })
    }

    async fn reimage(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let (Some(image), Some(host)) = (state.reimage, state.host.clone()) else {
            return Ok(());
        };
        let server = super::instance(&self.with, cx).await?;
        let root = self.root(cx).await?;
        state.devices = reimage::write(&self.with, cx, &server, root, host, image).await?;
        Ok(())
    }

    /// The volume is the server's again, whatever is on it.
    async fn reconnect(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let (Some(_), Some(host)) = (state.reimage, state.host.clone()) else {
            return Ok(());
        };
        let server = super::instance(&self.with, cx).await?;
        let root = self.root(cx).await?;
        state.devices = reimage::reconnect(&self.with, cx, &server, root, host).await?;
        Ok(())
    }
}

#[async_trait]
impl Flow for Rebuild {
    const NAME: &'static str = accept::REBUILD;
    type State = State;
    type Step = Step;

    fn event(&self, step: Step) -> Option<&'static str> {
        Some(match step {
            Step::Locate => "rebuild_server",
            Step::Stop | Step::Reimage | Step::Act => "compute_rebuild_instance",
        })
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: Step, state: &State) -> Duration {
        match step {
            Step::Locate => Duration::from_secs(60),
            Step::Stop => state.grace.deadline(),
            Step::Reimage => FETCHING,
            Step::Act => state.grace.and(FETCHING),
        }
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if direction == Direction::Undo {
            return None;
        }
        let verb = match step {
            Step::Stop if state.reimage.is_some() => Verb::EnsureStopped {
                grace_seconds: state.grace.seconds(),
            },
            Step::Act => Verb::RebuildOnce {
                plan: Box::new(state.plan.clone()?),
                on: !state.off,
                grace_seconds: state.grace.seconds(),
                from: None,
            },
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
            Step::Stop if state.reimage.is_none() => Ok(()),
            Step::Stop => match outcome {
                // A rebuild that failed before has left none.
                Some(WorkOutcome::Failed {
                    kind: FailureKind::NotFound,
                    ..
                }) => Ok(()),
                other => power_after(other).map(drop),
            },
            Step::Reimage => self.reimage(cx, state).await,
            Step::Act => {
                state.power = power_after(outcome)?.code();
                Ok(())
            }
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            Step::Reimage => self.reconnect(cx, state).await,
            Step::Locate | Step::Stop | Step::Act => Ok(()),
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
        if step == Step::Reimage && state.reimage.is_some() {
            super::own(tx, cx)?;
            volumes::keep(tx, &mut state.devices)?;
        }
        let shown = match (step, direction) {
            (Step::Stop, Direction::Do) => TaskState::RebuildBlockDeviceMapping,
            (Step::Reimage, Direction::Do) => TaskState::RebuildSpawning,
            _ => return Ok(()),
        };
        let change = Change {
            task_state: Some(Some(shown)),
            ..Change::default()
        };
        transition(tx, cx, &change, Timestamp::now())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let change = match end {
            End::Done => Change {
                vm_state: Some(match state.off {
                    true => VmState::Stopped,
                    false => VmState::Active,
                }),
                launched_at: Some(now),
                progress: Some(0),
                ..at_rest(PowerState::from_code(i64::from(state.power)))
            },
            // Once its host was asked nobody knows what is left of it. What no host here can do ends in ERROR, too, as in
            // Nova, although the guest is as it was.
            End::Unwound(failure) => Change {
                vm_state: (state.host.is_some() || state.preserve_ephemeral)
                    .then_some(VmState::Error),
                fault: Some(Some(fault(failure, now))),
                ..idle()
            },
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::State;

    /// As a release without `reimage` stored it.
    #[test]
    fn old_tasks_are_read() {
        let old =
            r#"{"preserve_ephemeral": false, "plan": null, "off": true, "host": "h1", "power": 0}"#;
        let state: State = serde_json::from_str(old).unwrap();
        assert!(state.off && state.reimage.is_none());
        assert_eq!(state.host, Some("h1".into()));
    }
}
