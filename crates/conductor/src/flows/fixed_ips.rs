//! One more address for a server's port, or one less (`addFixedIp`, `removeFixedIp`). Nova records no action for them.
//!
//! | step | does | undo |
//! |---|---|---|
//! | `choose` | finds the port and notes its addresses | - |
//! | `change` | gives the port its new list of addresses | gives it the old one |

use super::{fault, idle};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use clients::PortRecord;
use db::accept;
use db::instances::{self, Address, Expected, Instance, Interface};
use journal::{Context, End, Failure, Flow, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::marker::PhantomData;
use std::time::Duration;
use types::Timestamp;
use types::agent::WorkOutcome;

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the port.
    Choose,
    /// Change it.
    Change,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[Self::Choose, Self::Change];

    fn as_str(self) -> &'static str {
        match self {
            Self::Choose => "choose",
            Self::Change => "change",
        }
    }
}

/// Subnet and address; an empty address is any free one.
type Fixed = (String, String);

/// What a flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The network on which an address is added.
    #[serde(default)]
    network: String,
    /// The address that is removed.
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: String,
    #[serde(default)]
    before: Vec<Fixed>,
    /// Lists of addresses to try, until one is taken.
    #[serde(default)]
    after: Vec<Vec<Fixed>>,
    /// What the port has afterwards.
    #[serde(default)]
    has: Option<Vec<Fixed>>,
}

/// One of the two.
#[async_trait]
pub trait Kind: Send + Sync + 'static {
    /// The flow's name.
    const NAME: &'static str;

    /// The port and the lists of addresses that would do, or why there is none.
    async fn choose(
        with: &Neighbours,
        server: &Instance,
        ports: Vec<PortRecord>,
        state: &State,
    ) -> Result<(PortRecord, Vec<Vec<Fixed>>), StepError>;
}

/// `addFixedIp`.
pub struct Add;
/// `removeFixedIp`.
pub struct Remove;

#[async_trait]
impl Kind for Add {
    const NAME: &'static str = accept::ADD_FIXED_IP;

    async fn choose(
        with: &Neighbours,
        server: &Instance,
        ports: Vec<PortRecord>,
        state: &State,
    ) -> Result<(PortRecord, Vec<Vec<Fixed>>), StepError> {
        let token = with.token().await?;
        let subnets = with.networks.subnets(&token, &state.network).await;
        let subnets = subnets.map_err(retry)?;
        let port = ports
            .into_iter()
            .find(|port| port.network_id == state.network)
            .filter(|_| !subnets.is_empty())
            .ok_or_else(|| no_network(server))?;
        let with_one_more = |subnet: clients::Subnet| {
            let mut addresses = port.fixed_ips.clone();
            addresses.push((subnet.id, String::new()));
            addresses
        };
        let lists = subnets.into_iter().map(with_one_more).collect();
        Ok((port, lists))
    }
}

#[async_trait]
impl Kind for Remove {
    const NAME: &'static str = accept::REMOVE_FIXED_IP;

    async fn choose(
        _: &Neighbours,
        server: &Instance,
        ports: Vec<PortRecord>,
        state: &State,
    ) -> Result<(PortRecord, Vec<Vec<Fixed>>), StepError> {
        let has = |port: &PortRecord| port.fixed_ips.iter().any(|(_, ip)| *ip == state.address);
        let port = ports.into_iter().find(has).ok_or_else(|| {
            let (id, ip) = (server.id, &state.address);
            let words = format!("Instance {id} does not have fixed IP '{ip}'.");
            StepError::Fail(Failure::new(400, words))
        })?;
        let mut left = port.fixed_ips.clone();
        left.retain(|(_, ip)| *ip != state.address);
        Ok((port, vec![left]))
    }
}

fn no_network(server: &Instance) -> StepError {
    let words = format!("Network could not be found for instance {}.", server.id);
    StepError::Fail(Failure::new(404, words))
}

/// The flow.
pub struct Change<K> {
    with: Neighbours,
    kind: PhantomData<K>,
}

impl<K: Kind> Change<K> {
    /// The flow.
    pub fn new(with: &Neighbours) -> Self {
        Self {
            with: with.clone(),
            kind: PhantomData,
        }
    }

    /// A list that was taken before a crash is not asked for again: each time would be another address.
    async fn change(&self, server: &Instance, state: &mut State) -> Result<(), StepError> {
        let token = self.with.token().await?;
        let networks = &self.with.networks;
        let port = networks.port(&token, &state.port).await.map_err(retry)?;
        let port = port.ok_or_else(|| no_network(server))?;
        if port.fixed_ips != state.before {
            state.has = Some(port.fixed_ips);
            return Ok(());
        }
        for list in &state.after {
            let set = networks.set_fixed_ips(&token, &state.port, list).await;
            match set.map_err(retry)? {
                Ok(port) => {
                    state.has = Some(port.fixed_ips);
                    return Ok(());
                }
                Err(reason) => {
                    tracing::info!(port = %state.port, reason, "the network service refused addresses");
                }
            }
        }
        Err(no_network(server))
    }
}

/// The interface with these fixed addresses; each keeps the floating ones behind it. Pure.
pub(crate) fn readdress<'a>(interface: &mut Interface, has: impl Iterator<Item = &'a str>) {
    let known = std::mem::take(&mut interface.addresses);
    for ip in has {
        let at = known
            .iter()
            .position(|one| one.kind == "fixed" && one.ip == ip);
        interface.addresses.push(Address {
            ip: ip.to_owned(),
            version: if ip.contains(':') { 6 } else { 4 },
            kind: "fixed".to_owned(),
        });
        if let Some(at) = at {
            let behind = known[at + 1..].iter().take_while(|one| one.kind != "fixed");
            interface.addresses.extend(behind.cloned());
        }
    }
}

#[async_trait]
impl<K: Kind> Flow for Change<K> {
    const NAME: &'static str = K::NAME;
    type State = State;
    type Step = Step;

    fn deadline(&self, _step: Step, _state: &State) -> Duration {
        Duration::from_secs(120)
    }

    async fn run(
        &self,
        cx: &Context,
        step: Step,
        state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        let server = super::instance(&self.with, cx).await?;
        if step == Step::Change {
            return self.change(&server, state).await;
        }
        let token = self.with.token().await?;
        let ports = self.with.networks.ports_of_server(&token, server.id).await;
        let ports = ports.map_err(retry)?;
        let (port, after) = K::choose(&self.with, &server, ports, state).await?;
        state.port = port.id;
        state.before = port.fixed_ips;
        state.after = after;
        Ok(())
    }

    async fn undo(
        &self,
        _cx: &Context,
        step: Step,
        state: &mut State,
        _outcome: Option<WorkOutcome>,
    ) -> Result<(), StepError> {
        if step == Step::Choose || state.port.is_empty() {
            return Ok(());
        }
        let token = self.with.token().await?;
        let networks = &self.with.networks;
        let port = networks.port(&token, &state.port).await.map_err(retry)?;
        if port.is_some_and(|port| port.fixed_ips != state.before) {
            let back = networks.set_fixed_ips(&token, &state.port, &state.before);
            if let Err(reason) = back.await.map_err(retry)? {
                tracing::warn!(port = %state.port, reason, "a port does not get its addresses back");
            }
        }
        Ok(())
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        direction: types::agent::Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        if (step, direction) != (Step::Change, types::agent::Direction::Do) {
            return Ok(());
        }
        let mut server = instances::get(tx, cx.server)?
            .filter(|server| server.task_id == Some(cx.task))
            .ok_or(StepError::Fenced)?;
        for interface in &mut server.network_info {
            if let (true, Some(has)) = (interface.port_id == state.port, &state.has) {
                readdress(interface, has.iter().map(|(_, ip)| ip.as_str()));
            }
        }
        instances::set_network_info(tx, cx.server, &server.network_info)?;
        Ok(())
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
            End::Done => idle(),
            End::Unwound(failure) => instances::Change {
                fault: Some(Some(fault(failure, now))),
                ..idle()
            },
        };
        instances::transition(tx, cx.server, Expected::Task(cx.task), &change, now)?;
        Ok(())
    }
}
