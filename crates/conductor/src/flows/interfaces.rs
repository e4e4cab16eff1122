//! Interfaces of a server that exists: attach and detach, while it runs or is off. The server shows no task meanwhile,
//! as in Nova; other actions wait.
//!
//! | step of attach | does | undo |
//! |---|---|---|
//! | `locate` | finds the host | - |
//! | `port` | makes or binds the port | deletes it or gives it back |
//! | `plug` | waits until the network agent has wired it | - |
//! | `attach` | the host gives the guest the interface | the host takes it out |
//!
//! | step of detach | does | undo |
//! |---|---|---|
//! | `locate` | finds the host | - |
//! | `detach` | the host takes the interface out | the host gives it back |
//! | `release` | deletes the port or gives it back, if it still is the server's; only forward | - |

use super::build::guest_vif;
use super::{end_quietly as end, own, ports, power_after};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use db::accept;
use db::instances::{self, Instance, Interface};
use journal::{Context, End, Failure, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use types::agent::{Direction, Verb, WorkOutcome};
use types::server::{WantedInterface, WantedNetworks};
use types::{HostName, ServerId, Timestamp};

async fn locate(with: &Neighbours, server: &Instance) -> Result<HostName, StepError> {
    let host = server.host.clone().ok_or_else(super::nowhere)?;
    super::must_be_up(with, &host).await?;
    Ok(host)
}

/// A port that was given to the server is no longer wanted.
pub(crate) fn forget_wish(tx: &mut Tx<'_>, id: ServerId, port: &str) -> Result<(), sql::Error> {
    let Some(server) = instances::get(tx, id)? else {
        return Ok(());
    };
    if let WantedNetworks::These(mut wanted) = server.networks {
        wanted
            .retain(|one| !matches!(one, WantedInterface::Port { port_id, .. } if port_id == port));
        instances::set_networks(tx, id, &WantedNetworks::These(wanted))?;
    }
    Ok(())
}

/// The steps of attach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttachStep {
    /// Find the host.
    Locate,
    /// Make or bind the port.
    Port,
    /// Wait for the wiring.
    Plug,
    /// Give it to the guest.
    Attach,
}

impl StepName for AttachStep {
    const ALL: &'static [Self] = &[Self::Locate, Self::Port, Self::Plug, Self::Attach];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Port => "port",
            Self::Plug => "plug",
            Self::Attach => "attach",
        }
    }
}

/// What attach knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachState {
    pub(super) wanted: WantedInterface,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    interface: Option<Interface>,
}

/// Gives a server an interface.
pub struct Attach {
    /// Network service, hosts.
    pub with: Neighbours,
}

impl Attach {
    async fn port(&self, cx: &Context, state: &mut AttachState) -> Result<(), StepError> {
        let mut server = super::instance(&self.with, cx).await?;
        let nowhere = || StepError::Fail(Failure::new(500, "The host was not found."));
        let host = state.host.clone().ok_or_else(nowhere)?;
        // Only the new one, as if the server were built with it alone.
        server.networks = WantedNetworks::These(vec![state.wanted.clone()]);
        let made = ports::ensure(&self.with, cx, &server, &host).await?;
        state.interface = made.interfaces.into_iter().next();
        Ok(())
    }
}

#[async_trait]
impl Flow for Attach {
    const NAME: &'static str = accept::ATTACH_INTERFACE;
    type State = AttachState;
    type Step = AttachStep;

    fn event(&self, step: AttachStep) -> Option<&'static str> {
        (step == AttachStep::Port).then_some("compute_attach_interface")
    }

    fn host(&self, _step: AttachStep, state: &AttachState) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: AttachStep, _state: &AttachState) -> Duration {
        match step {
            AttachStep::Locate | AttachStep::Plug => Duration::from_secs(60),
            AttachStep::Port | AttachStep::Attach => Duration::from_secs(120),
        }
    }

    fn host_work(
        &self,
        step: AttachStep,
        direction: Direction,
        state: &AttachState,
    ) -> Option<HostWork> {
        if step != AttachStep::Attach {
            return None;
        }
        let vif = guest_vif(state.interface.as_ref()?);
        let verb = match direction {
            Direction::Do => Verb::EnsureInterface(vif),
            Direction::Undo => Verb::EnsureNoInterface {
                port_id: vif.port_id,
            },
        };
        Some(HostWork {
            host: state.host.clone()?,
            verb,
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: AttachStep,
        state: &mut AttachState,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            AttachStep::Locate => {
                let server = super::instance(&self.with, cx).await?;
                state.host = Some(locate(&self.with, &server).await?);
                Ok(())
            }
            AttachStep::Port => self.port(cx, state).await,
            AttachStep::Plug => ports::plugged(&self.with, cx).await,
            AttachStep::Attach => power_after(outcome).map(drop),
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: AttachStep,
        _state: &mut AttachState,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        match step {
            AttachStep::Attach => power_after(outcome).map(drop),
            AttachStep::Port => {
                let server = super::instance(&self.with, cx).await?;
                ports::remove_strays(&self.with, &server).await
            }
            AttachStep::Locate | AttachStep::Plug => Ok(()),
        }
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: AttachStep,
        direction: Direction,
        state: &mut AttachState,
    ) -> Result<(), StepError> {
        if (step, direction) == (AttachStep::Attach, Direction::Do) {
            let mut server = own(tx, cx)?;
            server.network_info.extend(state.interface.clone());
            instances::set_network_info(tx, cx.server, &server.network_info)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        state: &AttachState,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        if let (End::Unwound(_), WantedInterface::Port { port_id, .. }) = (&how, &state.wanted) {
            forget_wish(tx, cx.server, port_id)?;
        }
        end(tx, cx, how, now)
    }
}

/// The steps of detach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DetachStep {
    /// Find the host.
    Locate,
    /// Take it out of the guest.
    Detach,
    /// Delete the port or give it back.
    Release,
}

impl StepName for DetachStep {
    const ALL: &'static [Self] = &[Self::Locate, Self::Detach, Self::Release];

    fn as_str(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Detach => "detach",
            Self::Release => "release",
        }
    }
}

/// What detach knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachState {
    port: String,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    interface: Option<Interface>,
    /// The port is not the server's any more: there is nothing to release, and nothing to go back to.
    #[serde(default)]
    gone: bool,
}

/// Takes an interface away.
pub struct Detach {
    /// Network service, hosts.
    pub with: Neighbours,
}

#[async_trait]
impl Flow for Detach {
    const NAME: &'static str = accept::DETACH_INTERFACE;
    type State = DetachState;
    type Step = DetachStep;

    fn pivot(&self) -> Option<DetachStep> {
        Some(DetachStep::Release)
    }

    fn event(&self, step: DetachStep) -> Option<&'static str> {
        (step == DetachStep::Detach).then_some("compute_detach_interface")
    }

    fn host(&self, _step: DetachStep, state: &DetachState) -> Option<HostName> {
        state.host.clone()
    }

    fn deadline(&self, step: DetachStep, _state: &DetachState) -> Duration {
        match step {
            DetachStep::Detach => self.with.patience.detaching(),
            DetachStep::Locate | DetachStep::Release => Duration::from_secs(120),
        }
    }

    // A host that was silent may have taken it out all the same, and nobody else could give it back.
    fn undo_waits(&self, step: DetachStep) -> bool {
        step == DetachStep::Detach
    }

    fn host_work(
        &self,
        step: DetachStep,
        direction: Direction,
        state: &DetachState,
    ) -> Option<HostWork> {
        if step != DetachStep::Detach {
            return None;
        }
        let verb = match direction {
            Direction::Do => Verb::EnsureNoInterface {
                port_id: state.port.clone(),
            },
            Direction::Undo if state.gone => return None,
            Direction::Undo => Verb::EnsureInterface(guest_vif(state.interface.as_ref()?)),
        };
        Some(HostWork {
            host: state.host.clone()?,
            verb,
        })
    }

    async fn run(
        &self,
        cx: &Context,
        step: DetachStep,
        state: &mut DetachState,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        match step {
            DetachStep::Locate => {
                state.host = Some(locate(&self.with, &server).await?);
                let mut interfaces = server.network_info.into_iter();
                state.interface = interfaces.find(|one| one.port_id == state.port);
                Ok(())
            }
            DetachStep::Detach => power_after(outcome).map(drop),
            DetachStep::Release if state.gone => Ok(()),
            DetachStep::Release => {
                let token = self.with.token().await?;
                let port = self.with.networks.port(&token, &state.port).await;
                let port = port.map_err(retry)?;
                // One that its owner has given to another server meanwhile is that one's.
                if port.is_none_or(|port| port.device_id != server.id.to_string()) {
                    return Ok(());
                }
                ports::release(&self.with, &token, &server, &state.port).await
            }
        }
    }

    async fn undo(
        &self,
        cx: &Context,
        step: DetachStep,
        state: &mut DetachState,
        outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        if step == DetachStep::Detach && state.interface.is_some() && !state.gone {
            return super::given_back(cx, outcome);
        }
        Ok(())
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: DetachStep,
        direction: Direction,
        state: &mut DetachState,
    ) -> Result<(), StepError> {
        if (step, direction) == (DetachStep::Release, Direction::Do) {
            let mut server = own(tx, cx)?;
            server.network_info.retain(|one| one.port_id != state.port);
            instances::set_network_info(tx, cx.server, &server.network_info)?;
            forget_wish(tx, cx.server, &state.port)?;
        }
        Ok(())
    }

    fn finish(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        _state: &DetachState,
        how: End<'_>,
        now: Timestamp,
    ) -> Result<(), sql::Error> {
        end(tx, cx, how, now)
    }
}
