//! Shelve and offload: the server's disk becomes an image, and its host forgets it.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `locate` | finds the host | deletes the image |
//! | `stop` | the guest goes down | it is started again if it ran |
//! | `upload` | the host copies the disk and sends it; the server is SHELVED | - |
//! | `remove` | the host removes the guest; one that does not answer owes it | - |
//! | `unbind` | its ports belong to no host; the claim is given back; the server is SHELVED_OFFLOADED | - |
//!
//! From `remove` on it only goes forward. Without offloading these last two steps do nothing. A paused guest that was
//! switched off is not brought back: its memory is gone, and it shows that it is off.

use super::grace::Grace;
use super::{fault, idle, ports, power_after, transition, volumes};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected, Shelved};
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::marker::PhantomData;
use std::time::Duration;
use types::agent::{Direction, Quiesce, Verb, WorkOutcome};
use types::{HostName, ImageId, PowerState, TaskState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the host.
    Locate,
    /// Switch the guest off.
    Stop,
    /// Copy and send the disk.
    Upload,
    /// Remove the guest.
    Remove,
    /// Leave the host.
    Unbind,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Locate,
        Self::Stop,
        Self::Upload,
        Self::Remove,
        Self::Unbind,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Stop => "stop",
            Self::Upload => "upload",
            Self::Remove => "remove",
            Self::Unbind => "unbind",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The image that waits for the disk; none when there is no disk of its own to keep, or it is kept already.
    #[serde(default)]
    pub image: Option<ImageId>,
    /// Whether the server leaves its host.
    #[serde(default)]
    offload: bool,
    #[serde(default)]
    host: Option<HostName>,
    /// The host is down: it owes the removal from the start.
    #[serde(default)]
    down: bool,
    /// The state before.
    #[serde(default)]
    was: Option<VmState>,
    #[serde(default)]
    grace: Grace,
    /// Its disks with volumes that are only reserved, until they are on record.
    #[serde(skip)]
    devices: Vec<BlockDevice>,
}

/// One of the two.
pub trait Kind: Send + Sync + 'static {
    /// The flow's name.
    const NAME: &'static str;
    /// The event shown.
    const EVENT: &'static str;
}

/// `shelve` of a server with a disk of its own.
pub struct Shelve;
/// `shelveOffload`, and `shelve` of a server without such a disk.
pub struct Offload;

impl Kind for Shelve {
    const NAME: &'static str = accept::SHELVE;
    const EVENT: &'static str = "compute_shelve_instance";
}

impl Kind for Offload {
    const NAME: &'static str = accept::SHELVE_OFFLOAD;
    const EVENT: &'static str = "compute_shelve_offload_instance";
}

/// The flow.
pub struct Leave<K> {
    with: Neighbours,
    kind: PhantomData<K>,
}

impl<K: Kind> Leave<K> {
    /// The flow.
    pub fn new(with: &Neighbours) -> Self {
        Self {
            with: with.clone(),
            kind: PhantomData,
        }
    }

    async fn locate(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        let host = server.host.clone().ok_or_else(super::nowhere)?;
        state.was = Some(server.vm_state);
        state.grace = Grace::of(&self.with, &server);
        if state.image.is_none() && server.vm_state == VmState::Shelved {
            self.with.view.refresh().await?;
            state.down = !self.with.view.is_up(&host);
        } else {
            super::must_be_up(&self.with, &host).await?;
        }
        if let (Some(_), Some(old)) = (state.image, server.kept.shelved.and_then(|old| old.image)) {
            // Left by an unshelving that another action ended.
            let token = self.with.token().await?;
            self.with.images.delete(&token, old).await.map_err(retry)?;
        }
        state.host = Some(host);
        Ok(())
    }

    /// What the server shows when its disk is safe.
    fn shelved(
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        now: Timestamp,
    ) -> Result<(), StepError> {
        let server = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
        let mut kept = server.kept;
        if state.image.is_some() || kept.shelved.is_none() {
            kept.shelved = Some(Shelved {
                image: state.image,
                at: now,
            });
        }
        let change = Change {
            vm_state: state.image.map(|_| VmState::Shelved),
            power_state: Some(PowerState::Shutdown),
            task_state: state.offload.then_some(Some(TaskState::ShelvingOffloading)),
            kept: Some(kept),
            ..Change::default()
        };
        transition(tx, cx, &change, now)
    }

    /// The server is nowhere.
    fn offloaded(tx: &mut Tx<'_>, cx: &Context, now: Timestamp) -> Result<(), StepError> {
        db::placement::release(tx, cx.server, now)?;
        let change = Change {
            vm_state: Some(VmState::ShelvedOffloaded),
            power_state: Some(PowerState::Shutdown),
            place: Some(None),
            ..Change::default()
        };
        transition(tx, cx, &change, now)
    }
}

#[async_trait]
impl<K: Kind> Flow for Leave<K> {
    const NAME: &'static str = K::NAME;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Remove)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        (step != Step::Locate).then_some(K::EVENT)
    }

    fn host(&self, _step: Step, state: &State) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: Step, state: &State) -> Duration {
        match step {
            Step::Locate | Step::Remove => Duration::from_secs(60),
            Step::Stop => state.grace.deadline(),
            Step::Upload => Duration::from_secs(4 * 3600),
            Step::Unbind => Duration::from_secs(300),
        }
    }

    fn debtor(&self, step: Step, state: &State) -> Option<HostName> {
        let owes = step == Step::Remove && state.offload && state.down;
        state.host.clone().filter(|_| owes)
    }

    fn may_owe(&self, step: Step) -> bool {
        step == Step::Remove
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        use VmState::{Active, Paused, Stopped};
        let verb = match (step, direction, state.was) {
            (Step::Stop, Direction::Do, Some(Active)) => Verb::EnsureStopped {
                grace_seconds: state.grace.seconds(),
            },
            // A paused guest hears nothing. What a suspended one has saved stays until it is switched on.
            (Step::Stop, Direction::Do, Some(Paused | Stopped)) => {
                Verb::EnsureStopped { grace_seconds: 0 }
            }
            (Step::Stop, Direction::Undo, Some(Active)) => Verb::EnsureRunning,
            (Step::Upload, Direction::Do, _) => Verb::SnapshotOnce {
                image: state.image?,
                // The guest is off.
                quiesce: Quiesce::No,
            },
            (Step::Remove, _, _) if state.offload && !state.down => Verb::EnsureAbsent,
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
            Step::Unbind if state.offload => {
                let server = super::instance(&self.with, cx).await?;
                ports::unbind(&self.with, &server).await?;
                state.devices = volumes::disconnect(&self.with, &server).await?;
                Ok(())
            }
            _ if self.host_work(step, Direction::Do, state).is_some() => {
                power_after(outcome).map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn undo(
        &self,
        _cx: &Context,
        step: Step,
        state: &mut State,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match (step, state.image) {
            (Step::Stop, _) if state.was == Some(VmState::Active) => power_after(outcome).map(drop),
            (Step::Locate, Some(image)) => {
                let token = self.with.token().await?;
                let deleting = self.with.images.delete(&token, image);
                deleting.await.map_err(retry)
            }
            _ => Ok(()),
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
        let now = Timestamp::now();
        match (step, direction) {
            (Step::Stop, Direction::Do) if state.image.is_some() => {
                let change = Change {
                    task_state: Some(Some(TaskState::ShelvingImagePendingUpload)),
                    ..Change::default()
                };
                transition(tx, cx, &change, now)
            }
            (Step::Upload, Direction::Do) => Self::shelved(tx, cx, state, now),
            (Step::Remove, Direction::Do) if state.offload && state.down => match &state.host {
                Some(host) => {
                    let reason = "the host was down when the server was offloaded";
                    Ok(db::work::owe(tx, host, cx.server, reason, now)?)
                }
                None => Ok(()),
            },
            (Step::Unbind, Direction::Do) if state.offload => {
                volumes::keep(tx, &mut state.devices)?;
                Self::offloaded(tx, cx, now)
            }
            _ => Ok(()),
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let change = match end {
            End::Done => Change {
                fault: Some(None),
                ..idle()
            },
            End::Unwound(failure) => Change {
                fault: Some(Some(fault(failure, now))),
                ..idle()
            },
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
