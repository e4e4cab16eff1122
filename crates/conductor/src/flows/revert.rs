//! A resize or cold migration is taken back: the server is again what and where it was. What happened on its disks since
//! is lost.
//!
//! | step | where | does |
//! |---|---|---|
//! | `locate` | | finds the hosts; the old one must be up |
//! | `remove_landed` | new host | removes the guest; one that is silent owes it, unless the two guests would share volumes or files |
//! | `rebind` | | binds the ports to the old host; the volume service hears of it |
//! | `replug` | | waits until the network agent has wired them |
//! | `put_back` | old host | brings back what was put aside, and starts it if it ran |
//!
//! From `remove_landed` on there is no way back: the steps are tried until the old host has done its part. Where the guest has
//! volumes, or its hosts share files, it is not brought back before the new host has removed it, or is forced down: two guests
//! would write to them.

use super::resize::unsettled;
use super::{fault, idle, ports, power_after, volumes};
use crate::neighbours::Neighbours;
use async_trait::async_trait;
use db::block_devices::BlockDevice;
use db::instances::{self, Change, Expected, Instance};
use db::migrations::{self, Status};
use db::moves::{self, Unsettled};
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::{HostName, PowerState, Timestamp, VmState};

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the hosts.
    Locate,
    /// Remove what has landed on another host.
    Remove,
    /// Bind the ports to the old host.
    Networks,
    /// Wait for the wiring.
    Plug,
    /// Bring back what is aside.
    PutBack,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Locate,
        Self::Remove,
        Self::Networks,
        Self::Plug,
        Self::PutBack,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Remove => "remove_landed",
            Self::Networks => "rebind",
            Self::Plug => "replug",
            Self::PutBack => "put_back",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The host that the server left, and whether it ran there.
    #[serde(default)]
    moving: Option<Unsettled>,
    /// The host that it is on.
    #[serde(default)]
    landed_on: Option<HostName>,
    /// What it writes to there can be reached from the old host, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reached: bool,
    #[serde(default)]
    power: u8,
}

impl State {
    fn source(&self) -> Option<HostName> {
        let moving = self.moving.as_ref()?;
        Some(moving.source.host.clone())
    }

    fn stayed(&self) -> bool {
        self.source() == self.landed_on
    }
}

/// The flow.
pub struct Revert {
    /// Network service, hosts.
    pub with: Neighbours,
}

impl Revert {
    async fn locate(&self, server: Instance, state: &mut State) -> Result<(), StepError> {
        let moving = unsettled(&server)?;
        let which = "the host that the server came from";
        super::must_answer(&self.with, &moving.source.host, which).await?;
        let devices = volumes::devices(&self.with, server.id).await?;
        state.reached = devices.iter().any(BlockDevice::is_volume);
        if let Some(landed_on) = server.host.as_ref().filter(|_| !state.reached) {
            let source = &moving.source.host;
            state.reached = super::share_storage(&self.with, source, landed_on).await?;
        }
        state.moving = Some(moving);
        state.landed_on = server.host;
        Ok(())
    }
}

#[async_trait]
impl Flow for Revert {
    const NAME: &'static str = db::accept::REVERT_RESIZE;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Remove)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        match step {
            Step::Locate => None,
            Step::Remove => Some("compute_revert_resize"),
            _ => Some("compute_finish_revert_resize"),
        }
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        match step {
            Step::Remove => state.landed_on.clone(),
            _ => state.source(),
        }
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Networks | Step::PutBack => Duration::from_secs(120),
            _ => Duration::from_secs(60),
        }
    }

    fn may_owe(&self, step: Step) -> bool {
        step == Step::Remove
    }

    // Two guests on one volume.
    fn must_be_fenced(&self, step: Step, state: &State) -> bool {
        step == Step::Remove && state.reached && !state.stayed()
    }

    fn host_work(&self, step: Step, _direction: Direction, state: &State) -> Option<HostWork> {
        let (host, verb) = match step {
            Step::Remove if !state.stayed() => (state.landed_on.clone()?, Verb::EnsureAbsent),
            Step::PutBack => {
                let on = state.moving.as_ref()?.ran;
                (state.source()?, Verb::EnsurePutBack { on })
            }
            _ => return None,
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
        match step {
            Step::Locate => {
                let server = super::instance(&self.with, cx).await?;
                self.locate(server, state).await
            }
            Step::Remove if state.stayed() => Ok(()),
            Step::Remove => power_after(outcome).map(drop),
            Step::Networks => match state.source() {
                // Also on one host: a resize that was abandoned may have bound them to another.
                Some(host) => {
                    ports::follow(&self.with, cx, &host).await?;
                    volumes::follow(&self.with, cx, &host).await
                }
                None => Ok(()),
            },
            Step::Plug => ports::plugged(&self.with, cx).await,
            Step::PutBack => {
                state.power = power_after(outcome)?.code();
                Ok(())
            }
        }
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &State,
        end: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        let Some(server) = instances::get(tx, cx.server)? else {
            return Ok(());
        };
        let Some(moving) = server.kept.unsettled.clone() else {
            return Ok(());
        };
        let change = match end {
            End::Done => {
                moves::take_claim_back(tx, cx.server, moving.migration, now)?;
                moves::take_back(tx, &server, &moving, false, now)?;
                migrations::set_status(tx, moving.migration, Status::Reverted, now)?;
                let settled = if moving.ran {
                    VmState::Active
                } else {
                    VmState::Stopped
                };
                Change {
                    vm_state: Some(settled),
                    power_state: Some(PowerState::from_code(i64::from(state.power))),
                    place: Some(Some(moving.source)),
                    launched_at: Some(now),
                    fault: Some(None),
                    ..idle()
                }
            }
            End::Unwound(failure) => {
                // One that was abandoned may have nothing left to be confirmed with.
                let was = match server.vm_state {
                    VmState::Resized => Status::Finished,
                    _ => Status::Error,
                };
                migrations::set_status(tx, moving.migration, was, now)?;
                Change {
                    fault: Some(Some(fault(failure, now))),
                    ..idle()
                }
            }
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
