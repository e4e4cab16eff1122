//! Delete: in every state, over every other task, until nothing is left.
//!
//! | step | does |
//! |---|---|
//! | `inspect` | finds out on which hosts something of the server may be, from the server, from the task it took over and from those that were abandoned |
//! | `destroy` | the host removes the guest; a host that is down or silent owes it |
//! | `destroy_other` | so does the other one of a server that moves; more than that owe it |
//! | `volumes` | volumes are given back, or deleted when they go with the server |
//! | `ports` | ports are deleted or given back |
//! | `forget` | allocations, usage and the server's row, in one transaction |
//!
//! There is no undo: every step only goes forward. Where the volume or the network service does not do its part in
//! time, `forget` comes first: the server is gone for its owner, and the task goes on until nothing is left.

use super::superseded::{self, Superseded};
use super::{ports, volumes};
use crate::neighbours::{Neighbours, retry};
use async_trait::async_trait;
use clients::KeyError;
use db::instances::{self, Instance};
use db::migrations::Status;
use journal::{Context, End, Flow, HostWork, StepError, StepName};
use serde::{Deserialize, Serialize};
use sql::Tx;
use std::time::Duration;
use tokio::time::Instant;
use types::agent::{Direction, Verb, WorkOutcome};
use types::server::WantedNetworks;
use types::{HostName, ServerId, Timestamp, VmState};

/// How long a deletion is seen to wait for the volume and the network service.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time of a step that waits for them; then it begins anew.
const ASKING: Duration = Duration::from_secs(300);

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Find the hosts.
    Inspect,
    /// Remove the guest.
    Destroy,
    /// Remove what is on a second host.
    DestroyOther,
    /// Give back or delete the volumes.
    Volumes,
    /// Remove the ports.
    Ports,
    /// Remove the record.
    Forget,
}

impl StepName for Step {
    const ALL: &'static [Self] = &[
        Self::Inspect,
        Self::Destroy,
        Self::DestroyOther,
        Self::Volumes,
        Self::Ports,
        Self::Forget,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Destroy => "destroy",
            Self::DestroyOther => "destroy_other",
            Self::Volumes => "volumes",
            Self::Ports => "ports",
            Self::Forget => "forget",
        }
    }
}

/// What the flow knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The task that was taken over.
    #[serde(default)]
    superseded: Option<Superseded>,
    /// Where something of the server may be.
    #[serde(default)]
    host: Option<HostName>,
    /// The host is down: it owes the removal from the start.
    #[serde(default)]
    down: bool,
    /// The other host of a server that moves.
    #[serde(default)]
    other: Option<HostName>,
    /// That one is down.
    #[serde(default)]
    other_down: bool,
    /// Hosts beside these two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<HostName>,
}

impl State {
    /// The host that a step is about, and whether it is known to be down.
    fn host_of(&self, step: Step) -> Option<(&HostName, bool)> {
        match step {
            Step::Destroy => Some((self.host.as_ref()?, self.down)),
            Step::DestroyOther => Some((self.other.as_ref()?, self.other_down)),
            _ => None,
        }
    }
}

/// The flow.
pub struct Delete {
    /// Network service, hosts.
    pub with: Neighbours,
}

impl Delete {
    /// The server, also when it is gone for its owner.
    async fn instance(&self, cx: &Context) -> Result<Option<Instance>, StepError> {
        let server = cx.server;
        Ok(self
            .with
            .store
            .look(move |tx| instances::find(tx, server))
            .await?)
    }

    /// Takes the server from the record where others keep a step waiting; the step itself goes on.
    async fn or_forget(&self, cx: &Context, tried: Result<(), StepError>) -> Result<(), StepError> {
        let left = cx.until.saturating_duration_since(Instant::now());
        if matches!(tried, Err(StepError::Retry(_))) && left + PATIENCE <= ASKING {
            let server = cx.server;
            let forgetting = self
                .with
                .store
                .write(move |tx| forget(tx, server, Timestamp::now()));
            forgetting.await?;
        }
        tried
    }

    async fn inspect(&self, cx: &Context, state: &mut State) -> Result<(), StepError> {
        let instance = self.instance(cx).await?;
        let begun = superseded::all(state.superseded.as_ref(), instance.as_ref());
        let left = instance.as_ref().and_then(|instance| {
            let moving = instance.kept.unsettled.as_ref()?;
            Some(moving.source.host.clone())
        });
        let shown = instance.and_then(|instance| instance.host);
        let mut hosts: Vec<HostName> = Vec::new();
        let known = shown.into_iter().chain(left);
        for host in known.chain(superseded::hosts(&begun)) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let mut hosts = hosts.into_iter();
        (state.host, state.other) = (hosts.next(), hosts.next());
        state.others = hosts.collect();
        if state.host.is_some() {
            self.with.view.refresh().await?;
        }
        let is_down = |host: &HostName| !self.with.view.is_up(host);
        state.down = state.host.as_ref().is_some_and(is_down);
        state.other_down = state.other.as_ref().is_some_and(is_down);
        Ok(())
    }

    /// The passphrase of its TPM. A user's went with the request to delete the server; one that is left (the server was
    /// reclaimed, say) goes where the key manager lets the service user delete it, as Barbican's default policy does.
    async fn forget_secret(&self, server: &Instance) -> Result<(), StepError> {
        let Some(secret) = server.kept.vtpm_secret else {
            return Ok(());
        };
        let token = self.with.token().await?;
        match self.with.keys.delete(&token, &secret.id.to_string()).await {
            Err(KeyError::Unreachable(reason)) => Err(StepError::Retry(reason)),
            Err(error) => {
                tracing::warn!(server = %server.id, secret = %secret.id, %error, "the secret of a TPM stays in the key manager");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What other services have of the server: ports, and images that are no use to anybody any more.
    async fn leftovers(&self, cx: &Context, state: &State) -> Result<(), StepError> {
        let server = self.instance(cx).await?;
        let begun = superseded::all(state.superseded.as_ref(), server.as_ref());
        for task in &begun {
            if let Some(server) = &server {
                superseded::images_back(&self.with, server, task).await?;
                superseded::ports_back(&self.with, server, task).await?;
            }
        }
        let shelved = server.as_ref().and_then(|server| server.kept.shelved);
        if let Some(image) = shelved.and_then(|shelved| shelved.image) {
            let token = self.with.token().await?;
            let images = &self.with.images;
            images.delete(&token, image).await.map_err(retry)?;
        }
        if let Some(server) = &server {
            self.forget_secret(server).await?;
        }
        match server {
            Some(server) if may_have_ports(&server, &begun) => {
                ports::remove(&self.with, &server).await
            }
            _ => Ok(()),
        }
    }
}

/// Whether the network service may know of the server. What was under way may have asked it for a port.
fn may_have_ports(server: &Instance, begun: &[Superseded]) -> bool {
    // Of a server that is gone for its owner nobody knows any more what it had.
    let none = server.networks == WantedNetworks::None && server.network_info.is_empty();
    !none || !begun.is_empty() || server.deleted
}

/// Takes the server from the record, and what it holds. The rows of its disks say what is to be done with its volumes, and
/// stay.
fn forget(tx: &mut Tx<'_>, server: ServerId, now: Timestamp) -> Result<(), sql::Error> {
    let Some(instance) = instances::get(tx, server)? else {
        return Ok(());
    };
    db::placement::release(tx, server, now)?;
    end_move(tx, &instance, now)?;
    db::migrations::cancel_open(tx, server, now)?;
    let gone = db::usages::Held::default().minus(db::accept::holds(&instance));
    db::usages::add(tx, &instance.project_id, &instance.user_id, gone)?;
    instances::mark_deleted(tx, server, now)?;
    Ok(())
}

/// A server that is deleted while it waits for confirmation has it, in Nova as here; one that moved has not arrived.
fn end_move(tx: &mut Tx<'_>, server: &Instance, now: Timestamp) -> Result<(), sql::Error> {
    let Some(moving) = &server.kept.unsettled else {
        return Ok(());
    };
    db::moves::drop_claim(tx, moving.migration, now)?;
    let arrived = server.vm_state == VmState::Resized || server.vm_state == VmState::SoftDelete;
    let status = if arrived {
        Status::Confirmed
    } else {
        Status::Failed
    };
    db::migrations::set_status(tx, moving.migration, status, now)?;
    Ok(())
}

#[async_trait]
impl Flow for Delete {
    const NAME: &'static str = db::accept::DELETE;
    type State = State;
    type Step = Step;

    fn pivot(&self) -> Option<Step> {
        Some(Step::Inspect)
    }

    fn event(&self, step: Step) -> Option<&'static str> {
        matches!(step, Step::Destroy | Step::DestroyOther).then_some("compute_terminate_instance")
    }

    fn host(&self, step: Step, state: &State) -> Option<HostName> {
        state.host_of(step).map(|(host, _)| host.clone())
    }

    fn deadline(&self, step: Step, _state: &State) -> Duration {
        match step {
            Step::Destroy | Step::DestroyOther => Duration::from_secs(60),
            _ => ASKING,
        }
    }

    fn debtor(&self, step: Step, state: &State) -> Option<HostName> {
        let owing = state.host_of(step).filter(|(_, down)| *down);
        owing.map(|(host, _)| host.clone())
    }

    fn may_owe(&self, step: Step) -> bool {
        matches!(step, Step::Destroy | Step::DestroyOther)
    }

    fn host_work(&self, step: Step, _direction: Direction, state: &State) -> Option<HostWork> {
        let (host, down) = state.host_of(step)?;
        (!down).then(|| HostWork {
            host: host.clone(),
            verb: Verb::EnsureAbsent,
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
            Step::Inspect => self.inspect(cx, state).await,
            Step::Destroy | Step::DestroyOther => match state.host_of(step) {
                Some((_, false)) => super::power_after(outcome).map(|_| ()),
                _ => Ok(()),
            },
            Step::Volumes => match self.instance(cx).await? {
                Some(instance) => {
                    let tried = volumes::remove(&self.with, &instance).await;
                    self.or_forget(cx, tried).await
                }
                None => Ok(()),
            },
            Step::Ports => {
                let tried = self.leftovers(cx, state).await;
                self.or_forget(cx, tried).await
            }
            Step::Forget => Ok(()),
        }
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        cx: &Context,
        step: Step,
        _direction: Direction,
        state: &mut State,
    ) -> Result<(), StepError> {
        let now = Timestamp::now();
        match step {
            Step::Destroy | Step::DestroyOther => match state.host_of(step) {
                Some((host, true)) => {
                    let why = "the host was down when the server was deleted";
                    Ok(db::work::owe(tx, host, cx.server, why, now)?)
                }
                _ => Ok(()),
            },
            Step::Forget => {
                for host in &state.others {
                    let why = "the server was deleted";
                    db::work::owe(tx, host, cx.server, why, now)?;
                }
                forget(tx, cx.server, now)?;
                Ok(db::block_devices::remove_of_server(tx, cx.server)?)
            }
            _ => Ok(()),
        }
    }

    fn finish(
        &self,
        _tx: &mut Tx<'_>,
        _cx: &Context,
        _state: &State,
        _end: End<'_>,
        _now: Timestamp,
    ) -> Result<(), sql::Error> {
        Ok(())
    }
}
