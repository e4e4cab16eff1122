//! Doorbells: hints that there is something to look at. Nothing is carried here that may not be lost; whoever is
//! rung looks into the database.
//!
//! A bus is that of one process; over a broker ([`Bus::over`]) its bells ring in the other processes of the cloud, too.

pub mod notifier;
mod rabbit;

pub use rabbit::{BadTransport, Brokers};

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use types::{HostName, TaskId};
use uuid::Uuid;

/// What there is to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bell {
    /// New tasks in the journal.
    Tasks,
    /// New work for this host.
    Host(HostName),
    /// Addresses of servers, as the network service has them.
    Addresses,
    /// The outcome of a piece of work of this task, reported to another process than the one that waits.
    Outcome(TaskId),
    /// States of servers, for those who follow them.
    Servers,
    /// The answer to a question to a host.
    Answer(Uuid),
}

type Bells = HashMap<Bell, watch::Sender<u64>>;

/// The in-process bus.
#[derive(Clone, Default)]
pub struct Bus {
    bells: Arc<Mutex<Bells>>,
    /// To the broker, where there is one.
    outgoing: Option<rabbit::Outgoing>,
    /// When others were last told of a hint.
    told: Arc<Mutex<Option<Instant>>>,
}

/// Time between two hints to other processes.
const HINT_PAUSE: Duration = Duration::from_millis(50);

/// Bells that nobody listens to are forgotten when there are more than this many.
const KEPT: usize = 256;

/// Waits for one bell.
pub struct Listener {
    receiver: watch::Receiver<u64>,
}

impl Bus {
    /// A bus without listeners.
    pub fn new() -> Self {
        Self::default()
    }

    fn bells(&self) -> MutexGuard<'_, Bells> {
        // A panic while the lock is held leaves a map that is still whole.
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bus whose bells also ring in the other processes at these brokers, until `stop`. While none of them answers
    /// it is the bus of this process alone.
    pub fn over(brokers: Brokers, stop: CancellationToken) -> Self {
        rabbit::join(brokers, stop)
    }

    /// A bus whose rings are also handed to a carrier, who takes them to other processes ([`Bus::ring_here`]), or loses
    /// them: the broker of a simulation.
    pub fn carried() -> (Self, mpsc::Receiver<Bell>) {
        let (outgoing, waiting) = mpsc::channel(rabbit::WAITING);
        let bus = Self {
            outgoing: Some(outgoing),
            ..Self::new()
        };
        (bus, waiting)
    }

    /// Rings; many rings before a listener looks are one.
    pub fn ring(&self, bell: Bell) {
        self.ring_here(&bell);
        if let Some(outgoing) = &self.outgoing {
            // A full queue means that the broker is away: others look by themselves.
            let _ = outgoing.try_send(bell);
        }
    }

    /// Rings for what happens often and what others find soon enough by themselves: other processes hear of it now and
    /// then only.
    pub fn hint(&self, bell: &Bell) {
        self.ring_here(bell);
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        let due = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let due = told.is_none_or(|at| at.elapsed() >= HINT_PAUSE);
            if due {
                *told = Some(Instant::now());
            }
            due
        };
        if due {
            let _ = outgoing.try_send(bell.clone());
        }
    }

    /// Rings every bell that somebody in this process listens to.
    pub(crate) fn ring_all_here(&self) {
        for sender in self.bells().values() {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Rings in this process only.
    pub fn ring_here(&self, bell: &Bell) {
        if let Some(sender) = self.bells().get(bell) {
            sender.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Listens to a bell from now on.
    pub fn listen(&self, bell: Bell) -> Listener {
        let mut bells = self.bells();
        if bells.len() > KEPT {
            bells.retain(|_, sender| sender.receiver_count() > 0);
        }
        let sender = bells.entry(bell).or_insert_with(|| watch::channel(0).0);
        Listener {
            receiver: sender.subscribe(),
        }
    }
}

impl Listener {
    /// Waits for the next ring since the last wait.
    pub async fn rung(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The bus is gone: nothing will ring any more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ring_before_the_wait_is_not_lost() {
        let bus = Bus::new();
        let mut listener = bus.listen(Bell::Tasks);
        bus.ring(Bell::Tasks);
        bus.ring(Bell::Tasks);
        listener.rung().await;
        bus.ring(Bell::Host("other".into()));
        let again =
            tokio::time::timeout(std::time::Duration::from_millis(20), listener.rung()).await;
        assert!(again.is_err());
    }

    #[tokio::test]
    async fn bells_without_listeners_are_forgotten() {
        let bus = Bus::new();
        let mut kept = bus.listen(Bell::Tasks);
        for _ in 0..KEPT * 4 {
            drop(bus.listen(Bell::Answer(Uuid::new_v4())));
        }
        assert!(bus.bells().len() <= KEPT + 1);
        bus.ring(Bell::Tasks);
        kept.rung().await;
    }
}
