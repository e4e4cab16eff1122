//! Doorbells: hints that there is something to look at. Nothing is carried here that may not be lost; whoever is
//! rung looks into the database.

use std::sync::Arc;
use tokio::sync::watch;
use types::HostName;

/// What there is to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bell {
    /// New tasks in the journal.
    Tasks,
    /// New work for this host.
    Host(HostName),
    /// Addresses of servers, as the network service has them.
    Addresses,
}

/// The in-process bus.
#[derive(Clone, Default)]
pub struct Bus {
    bells: Arc<std::sync::Mutex<std::collections::HashMap<Bell, watch::Sender<u64>>>>,
}

/// Waits for one bell.
pub struct Listener {
    receiver: watch::Receiver<u64>,
}

impl Bus {
    /// A bus without listeners.
    pub fn new() -> Self {
        Self::default()
    }

    fn bell<T>(&self, bell: Bell, with: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
        // A panic while the lock is held leaves a map that is still whole.
        let mut bells = self
            .bells
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        with(bells.entry(bell).or_insert_with(|| watch::channel(0).0))
    }

    /// Rings; many rings before a listener looks are one.
    pub fn ring(&self, bell: Bell) {
        self.bell(bell, |sender| {
            sender.send_modify(|count| *count = count.wrapping_add(1))
        });
    }

    /// Listens to a bell from now on.
    pub fn listen(&self, bell: Bell) -> Listener {
        Listener {
            receiver: self.bell(bell, watch::Sender::subscribe),
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
}
