//! File systems of a guest that stand still for a moment: its agent does that, and whatever happens here they go on.

use super::calls::{DomainRef, Link, error_code};
use super::rpc::RpcError;
use super::{Libvirt, explain};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use std::sync::Arc;
use std::time::Duration;
use types::ServerId;
use types::agent::Quiesce;

/// How often a guest is told to go on, and the pause between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(3);

/// A guest that may stand still. Dropped, by a call that was given up for instance, it goes on as well.
pub(super) struct Frozen {
    jobs: Arc<Link>,
    domain: Option<DomainRef>,
}

impl Frozen {
    /// The guest goes on.
    pub(super) async fn thaw(mut self) {
        if let Some(domain) = self.domain.take() {
            // On its own, so that it is done even if nobody waits any more.
            let going_on = tokio::spawn(go_on(Arc::clone(&self.jobs), domain));
            let _ = going_on.await;
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let (Some(domain), Ok(runtime)) =
            (self.domain.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(go_on(Arc::clone(&self.jobs), domain));
        }
    }
}

async fn go_on(jobs: Arc<Link>, domain: DomainRef) {
    for left in (0..TRIES).rev() {
        match jobs.thaw(&domain).await {
            Ok(()) => return,
            // It is off, or gone: nothing stands still.
            Err(RpcError::Refused {
                code: error_code::NO_DOMAIN | error_code::OPERATION_INVALID,
                ..
            }) => return,
            Err(error) if left == 0 => {
                tracing::error!(guest = %domain.id, %error, "the guest's file systems may stand still: reboot it hard");
            }
            Err(error) => {
                tracing::warn!(guest = %domain.id, %error, "the guest's file systems may stand still; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What an error of the agent's is called.
fn silent(error: RpcError) -> HypervisorError {
    match error {
        RpcError::Refused {
            code: error_code::AGENT_UNRESPONSIVE,
            message,
            ..
        } => HypervisorError::AgentSilent(message),
        other => explain(other),
    }
}

impl Libvirt {
    /// Whether the guest can be asked to stand still. One that was left so by a process that died goes on first.
    pub(super) async fn quiet(&self, spec: &GuestSpec, wanted: Quiesce) -> Result<Quiesce> {
        match (wanted, spec.hardware.guest_agent) {
            (Quiesce::No, _) => Ok(Quiesce::No),
            (_, Some(true)) => {
                let left = self.jobs.thaw(&self.reference(spec.id)).await;
                if let Err(error) = left {
                    tracing::debug!(guest = %spec.id, %error, "the guest's agent does not answer");
                }
                Ok(wanted)
            }
            (Quiesce::Must, _) => Err(HypervisorError::NoAgent),
            (Quiesce::Try, _) => Ok(Quiesce::No),
        }
    }

    /// Makes the guest's file systems stand still, if that is wanted and can be done.
    pub(super) async fn freeze(&self, id: ServerId, wanted: Quiesce) -> Result<Option<Frozen>> {
        if wanted == Quiesce::No {
            return Ok(None);
        }
        let domain = self.reference(id);
        // Before it is asked: an answer may be lost.
        let frozen = Frozen {
            jobs: Arc::clone(&self.jobs),
            domain: Some(domain.clone()),
        };
        let error = match self.jobs.freeze(&domain).await {
            Ok(()) => return Ok(Some(frozen)),
            Err(error) => error,
        };
        drop(frozen);
        let error = silent(error);
        if wanted == Quiesce::Must {
            return Err(error);
        }
        tracing::warn!(guest = %id, %error, "the copy is of a guest that did not stand still");
        Ok(None)
    }
}
