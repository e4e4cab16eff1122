//! File systems of a guest that stand still for a moment: its agent does that, and whatever happens here they go on.

use super::calls::{DomainRef, Link, error_code};
use super::rpc::RpcError;
use super::{Libvirt, explain};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use types::ServerId;
use types::agent::Quiesce;

/// How often a guest is told to go on, and the pause between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(3);

/// A guest that may stand still. Dropped, by a call that was given up for instance, it goes on as well.
pub(super) struct Frozen {
    agents: Arc<Link>,
    domain: Option<DomainRef>,
}

impl Frozen {
    /// The guest goes on.
    pub(super) async fn thaw(mut self) {
        if let Some(domain) = self.domain.take() {
            // On its own, so that it is done even if nobody waits any more.
            let going_on = tokio::spawn(go_on(Arc::clone(&self.agents), domain));
            let _ = going_on.await;
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let (Some(domain), Ok(runtime)) =
            (self.domain.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(go_on(Arc::clone(&self.agents), domain));
        }
    }
}

/// Guests that stand still for somebody else's copy, with a number for each time.
#[derive(Default)]
pub(super) struct Still(Mutex<Held>);

#[derive(Default)]
struct Held {
    times: u64,
    guests: HashMap<ServerId, (u64, Frozen)>,
}

impl Still {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, id: ServerId, frozen: Frozen) -> u64 {
        let mut held = self.lock();
        held.times += 1;
        let number = held.times;
        held.guests.insert(id, (number, frozen));
        number
    }

    /// Of a later time, when there is a number, it is left.
    fn take(&self, id: ServerId, number: Option<u64>) -> Option<Frozen> {
        let mut held = self.lock();
        let its = held.guests.get(&id).map(|(its, _)| *its)?;
        if number.is_some_and(|number| number != its) {
            return None;
        }
        held.guests.remove(&id).map(|(_, frozen)| frozen)
    }
}

async fn go_on(agents: Arc<Link>, domain: DomainRef) {
    for left in (0..TRIES).rev() {
        match agents.thaw(&domain).await {
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
                let left = self.agents.thaw(&self.reference(spec.id)).await;
                if let Err(error) = left {
                    tracing::debug!(guest = %spec.id, %error, "the guest's agent does not answer");
                }
                Ok(wanted)
            }
            (Quiesce::Must, _) => Err(HypervisorError::NoAgent),
            (Quiesce::Try, _) => Ok(Quiesce::No),
        }
    }

    /// The guest stands still until [`Libvirt::let_go_on`], or until this process has had enough of it. A file says so to the
    /// next one.
    pub(super) async fn hold_still(
        &self,
        id: ServerId,
        wanted: Quiesce,
        most: Duration,
    ) -> Result<()> {
        let _lock = self.exclusive(id).await;
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if let Some(before) = self.still.take(id, None) {
            before.thaw().await;
        }
        if !self.look(id).await?.is_some_and(|guest| guest.active) {
            return Ok(());
        }
        let quiet = self.quiet(&spec, wanted).await?;
        let mark = self.instances.guest(id).still;
        std::fs::write(&mark, b"")
            .map_err(|error| HypervisorError::disk(mark.display(), &error))?;
        let frozen = self.freeze(id, quiet).await;
        let Ok(Some(frozen)) = frozen else {
            std::fs::remove_file(&mark).ok();
            return frozen.map(drop);
        };
        let number = self.still.hold(id, frozen);
        let still = Arc::clone(&self.still);
        tokio::spawn(async move {
            tokio::time::sleep(most).await;
            if let Some(frozen) = still.take(id, Some(number)) {
                tracing::warn!(guest = %id, "nobody said that the guest's file systems may go on; they do now");
                frozen.thaw().await;
                std::fs::remove_file(&mark).ok();
            }
        });
        Ok(())
    }

    /// The guest goes on, also one that an earlier process made stand still.
    pub(super) async fn let_go_on(&self, id: ServerId) -> Result<()> {
        let _lock = self.exclusive(id).await;
        let mark = self.instances.guest(id).still;
        match self.still.take(id, None) {
            Some(frozen) => frozen.thaw().await,
            None if mark.exists() => go_on(Arc::clone(&self.agents), self.reference(id)).await,
            None => return Ok(()),
        }
        std::fs::remove_file(&mark).ok();
        Ok(())
    }

    /// Makes the guest's file systems stand still, if that is wanted and can be done.
    pub(super) async fn freeze(&self, id: ServerId, wanted: Quiesce) -> Result<Option<Frozen>> {
        if wanted == Quiesce::No {
            return Ok(None);
        }
        let domain = self.reference(id);
        // Before it is asked: an answer may be lost.
        let frozen = Frozen {
            agents: Arc::clone(&self.agents),
            domain: Some(domain.clone()),
        };
        let error = match self.agents.freeze(&domain).await {
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
