//! Unshelve: a server that left its host is built on another from the image of its disk; one that is still on its host
//! is started there.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `image` | looks for the image of its disk | - |
//! | `choose_host` | picks hosts; the claim is in the transaction that ends the step | gives the claim back |
//! | `networks` | binds its ports to the host | binds them to none |
//! | `volumes` | connects its volumes to the host | only reserves them |
//! | `plug` | waits until the network agent has wired them | - |
//! | `spawn` | the host makes the guest and starts it; the server is ACTIVE | the host removes it |
//! | `forget` | deletes the image; only forward | - |
//!
//! In its place the steps are `locate`, `start` and `forget`. In `forget` the server is at its owner's disposal again: any
//! other action ends the flow there, and what follows knows the image.

use super::build::guest_plan;
use super::placing::Choice;
use super::{fault, idle, ports, power_after, transition, volumes};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected, Instance, Interface};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, GuestPlan, Verb, WorkOutcome};
use types::server::ImageRef;
use types::{HostName, PowerState, TaskState, Timestamp, VmState};

/// The steps of a server without a host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the image.
    Image,
    /// Pick a host and claim what the server needs there.
    ChooseHost,
    /// Bind its ports.
    Networks,
    /// Connect its volumes.
    Volumes,
    /// Wait for the wiring.
    Plug,
    /// Make the guest and start it.
    Spawn,
    /// Delete the image.
    Forget,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Image,
        Self::ChooseHost,
        Self::Networks,
        Self::Volumes,
        Self::Plug,
        Self::Spawn,
        Self::Forget,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::ChooseHost => "choose_host",
            Self::Networks => "networks",
            Self::Volumes => "volumes",
            Self::Plug => "plug",
            Self::Spawn => "spawn",
            Self::Forget => accept::FORGET,
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The host asked for (2.91).
    #[serde(default)]
    to: Option<HostName>,
    /// The image of the disk.
    #[serde(default)]
    image: Option<ImageRef>,
    /// It is gone.
    #[serde(default)]
    lost: bool,
    /// Where the server goes.
    #[serde(flatten)]
    pub choice: Choice,
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    plan: Option<GuestPlan>,
    #[serde(default)]
    power: u8,
    /// The disks with their volumes, until they are on record.
    #[serde(skip)]
    devices: Vec<BlockDevice>,
}

/// The flow of a server without a host.
pub struct Unshelve {
    /// Network and image services, hosts.
    pub with: Neighbours,
}

/// Deletes the image of a server that runs again. Repeatable.
async fn forget(with: &Neighbours, cx: &Context) -> Result<(), StepError> {
    let server = super::instance(with, cx).await?;
    let Some(image) = server.kept.shelved.and_then(|shelved| shelved.image) else {
        return Ok(());
    };
    let token = with.token().await?;
    with.images.delete(&token, image).await.map_err(retry)
}

/// The server is its owner's again; only the image is left to be deleted.
fn running(
    tx: &mut Tx<'_>,
    cx: &Context,
    power: PowerState,
    now: Timestamp,
) -> Result<(), StepError> {
    let change = Change {
        vm_state: Some(VmState::Active),
        task_state: Some(None),
        power_state: Some(power),
        launched_at: Some(now),
        fault: Some(None),
        progress: Some(0),
        ..Change::default()
    };
    transition(tx, cx, &change, now)
}

/// Ends either flow.
fn end(
    tx: &mut Tx<'_>,
    cx: &Context,
    how: &End<'_>,
    failed: Option<VmState>,
    now: Timestamp,
) -> Result<(), sql::Error> {
    let Some(server) = instances::get(tx, cx.server)? else {
        return Ok(());
    };
    let change = match how {
        End::Done => {
            let mut kept = server.kept;
            kept.shelved = None;
            Change {
                kept: Some(kept),
                ..idle()
            }
        }
        End::Unwound(failure) => Change {
            vm_state: failed,
            fault: Some(Some(fault(failure, now))),
            ..idle()
        },
    };
    instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
    Ok(())
}

impl Unshelve {
    async fn image(&self, server: &Instance, state: &mut State) -> Result<(), StepError> {
        let Some(id) = server.kept.shelved.and_then(|shelved| shelved.image) else {
            return Ok(());
        };
        let token = self.with.token().await?;
        let found = self.with.images.get(&token, &id.to_string()).await;
        let usable = found
            .map_err(retry)?
            .filter(|found| found.status == "active");
        state.lost = usable.is_none();
        state.image = usable.map(|found| found.image);
        if state.lost {
            let words = format!("Unshelve attempted but the image {id} cannot be found.");
            return Err(StepError::Fail(Failure::new(500, words)));
        }
        Ok(())
    }

    async fn networks(&self, server: Instance, state: &mut State) -> Result<(), StepError> {
        let nowhere = || StepError::Fail(Failure::new(500, "No host was claimed."));
        let place = state.choice.place.clone().ok_or_else(nowhere)?;
        state.interfaces = ports::bind_to(&self.with, &server, &place.host).await?;
        let from_image = Instance {
            image: state.image.clone().or_else(|| server.image.clone()),
            ..server
        };
        state.plan = Some(guest_plan(&from_image, &state.interfaces));
        Ok(())
    }

    async fn volumes(
        &self,
        cx: &Context,
        server: &Instance,
        state: &mut State,
    ) -> Result<(), StepError> {
        let devices = volumes::devices(&self.with, cx.server).await?;
        let nowhere = || StepError::Fail(Failure::new(500, "No host was claimed."));
        let place = state.choice.place.clone().ok_or_else(nowhere)?;
        if !devices.iter().any(BlockDevice::is_volume) {
            return Ok(());
        }
        let host = Some(place.host);
        state.devices = volumes::connect(&self.with, cx, server, devices, host).await?;
        volumes::complete(&self.with, server, &state.devices).await
    }

    fn spawned(state: &mut State, outcome: Option<WorkOutcome>) -> Result<(), StepError> {
        let again = state.to.is_none().then_some(Step::ChooseHost.as_str());
        let what = "The server cannot be unshelved";
        state.power = state.choice.answered(outcome, what, again)?;
        Ok(())
    }
}

#[async_trait]
impl Flow for Unshelve {
    const NAME: &'static str = accept::UNSHELVE;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Forget)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        Some(match step {
            Step::Image => "get_image_info",
            Step::ChooseHost => "schedule_instances",
            _ => "compute_unshelve_instance",
        })
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        let known = !matches!(step, Step::Image | Step::ChooseHost);
        let place = state.choice.place.as_ref().filter(|_| known);
        place.map(|place| place.host.clone())
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::ChooseHost => Duration::from_secs(30),
            Step::Image | Step::Plug => Duration::from_secs(60),
            Step::Networks | Step::Volumes | Step::Forget => Duration::from_secs(120),
            Step::Spawn => Duration::from_secs(1800),
        }
    }

    async fn is_away(&self, host: &HostName) -> bool {
        super::is_away(&self.with, host).await
    }

    fn host_work(&self, step: Step, direction: Direction, state: &State) -> Option<HostWork> {
        if step != Step::Spawn {
            return None;
        }
        let host = state.choice.place.as_ref()?.host.clone();
        let verb = match direction {
            Direction::Do => Verb::EnsureGuest(Box::new(state.plan.clone()?)),
            Direction::Undo => Verb::EnsureAbsent,
        };
        Some(HostWork { host, verb })
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
            Step::Image => self.image(&server, state).await,
            Step::ChooseHost => {
                let to = state.to.clone();
                let choosing = state.choice.choose(&self.with, &server, |request| {
                    request.only_host = to;
                });
                choosing.await
            }
            Step::Networks => self.networks(server, state).await,
            Step::Volumes => self.volumes(cx, &server, state).await,
            Step::Plug => ports::plugged(&self.with, cx).await,
            Step::Spawn => Self::spawned(state, outcome),
            Step::Forget => forget(&self.with, cx).await,
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
            Step::Volumes => {
                let server = super::instance(&self.with, cx).await?;
                state.devices = volumes::disconnect(&self.with, &server).await?;
                Ok(())
            }
            Step::Networks => {
                let server = super::instance(&self.with, cx).await?;
                ports::unbind(&self.with, &server).await
            }
            Step::Spawn => power_after(outcome).map(drop),
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
            (Step::ChooseHost, Direction::Do) => {
                let server = instances::get(tx, cx.server)?.ok_or(StepError::Fenced)?;
                let place = state.choice.claim(&self.with, tx, &server, now)?;
                let change = Change {
                    place: Some(Some(place)),
                    task_state: Some(Some(TaskState::Spawning)),
                    ..Change::default()
                };
                transition(tx, cx, &change, now)
            }
            (Step::Volumes, _) => Ok(volumes::keep(tx, &mut state.devices)?),
            (Step::ChooseHost, Direction::Undo) => {
                db::placement::release(tx, cx.server, now)?;
                state.choice.place = None;
                let change = Change {
                    place: Some(None),
                    task_state: Some(Some(TaskState::Unshelving)),
                    ..Change::default()
                };
                transition(tx, cx, &change, now)
            }
            (Step::Networks, Direction::Do) => {
                instances::set_network_info(tx, cx.server, &state.interfaces)?;
                Ok(())
            }
            (Step::Spawn, Direction::Do) => {
                let power = PowerState::from_code(i64::from(state.power));
                running(tx, cx, power, now)
            }
            _ => Ok(()),
        }
    }

    fn note_failure(&self, state: &mut State, failure: &Failure) {
        if failure.redo_from.is_some() {
            state.choice.leave_out(failure);
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end(tx, cx, &how, state.lost.then_some(VmState::Error), now)
    }
}

/// The steps of a server that is still on its host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepInPlace {
    /// Find the host.
    Locate,
    /// Start the guest.
    Start,
    /// Delete the image.
    Forget,
}

impl StepName for StepInPlace {
    const ALL: &'static [Self] = &[Self::Locate, Self::Start, Self::Forget];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Start => "start",
            Self::Forget => accept::FORGET,
        }
    }
}

/// What the flow in place knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StateInPlace {
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    power: u8,
}

/// The flow of a server that is still on its host.
pub struct UnshelveInPlace {
    /// Image service, hosts.
    pub with: Neighbours,
}

#[async_trait]
impl Flow for UnshelveInPlace {
    const NAME: &'static str = accept::UNSHELVE_IN_PLACE;
    type State = StateInPlace;
    type Step = StepInPlace;

    fn pivot(&self) -> Option<StepInPlace> {
        Some(StepInPlace::Forget)
    }

    fn event(&self, step: StepInPlace) -> Option<&'static str> {
        (step != StepInPlace::Locate).then_some("compute_start_instance")
    }

    fn host(&self, _step: StepInPlace, state: &StateInPlace) -> Option<HostName> {
        state.host.clone()
    }

    fn host_work(
        &self,
        step: StepInPlace,
        direction: Direction,
        state: &StateInPlace,
    ) -> Option<HostWork> {
        let verb = match (step, direction) {
            (StepInPlace::Start, Direction::Do) => Verb::EnsureRunning,
            (StepInPlace::Start, Direction::Undo) => Verb::EnsureStopped { grace_seconds: 0 },
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
        step: StepInPlace,
        state: &mut StateInPlace,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            StepInPlace::Locate => {
                let server = super::instance(&self.with, cx).await?;
                let host = server.host.clone().ok_or_else(super::nowhere)?;
                super::must_be_up(&self.with, &host).await?;
                super::must_be_alone(&self.with, &server, &host).await?;
                state.host = Some(host);
            }
            StepInPlace::Start => state.power = power_after(outcome)?.code(),
            StepInPlace::Forget => forget(&self.with, cx).await?,
        }
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        step: StepInPlace,
        _state: &mut StateInPlace,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        if step == StepInPlace::Start {
            power_after(outcome)?;
        }
        Ok(())
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: StepInPlace,
        direction: Direction,
        state: &mut StateInPlace,
    ) -> Result<(), StepError> {
        let now = Timestamp::now();
        match (step, direction) {
            (StepInPlace::Locate, Direction::Do) => {
                let change = Change {
                    task_state: Some(Some(TaskState::PoweringOn)),
                    ..Change::default()
                };
                transition(tx, cx, &change, now)
            }
            (StepInPlace::Start, Direction::Do) => {
                let power = PowerState::from_code(i64::from(state.power));
                running(tx, cx, power, now)
            }
            _ => Ok(()),
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &StateInPlace,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end(tx, cx, &how, None, now)
    }
}
