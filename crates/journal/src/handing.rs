//! Work that is handed to its host by whoever has just stored it, if the host waits for work in this process: it need not be
//! looked for.
//!
//! Only a short cut. Work that finds nobody here, or is lost on its way, is found in the database like any other, at the
//! latest when the host's poll is over.

use db::block_devices::BlockDevice;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;
use types::agent::Work;
use types::{HostName, Timestamp};

/// A piece of work that was just stored, as it would be read.
#[derive(Debug)]
pub struct Handed {
    /// The work.
    pub work: Work,
    /// When it was stored.
    pub stored: Timestamp,
    /// A moment before it was stored. Who has looked into the database since knows better: the work may have been found
    /// there, or be gone again.
    pub since: Instant,
    /// The disks of its server.
    pub devices: Vec<BlockDevice>,
}

/// The hosts that wait for work in this process.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<Mutex<HashMap<HostName, oneshot::Sender<Handed>>>>);

impl Hands {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, oneshot::Sender<Handed>>> {
        // The map is whole even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: the host does not wait here.
    pub(crate) fn give(&self, host: &HostName, handed: Handed) -> bool {
        let waiting = self.lock().remove(host);
        waiting.is_some_and(|waiting| waiting.send(handed).is_ok())
    }

    pub(crate) fn hold_out(&self, host: &HostName) -> Hand {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(host.clone(), sender);
        Hand {
            hands: self.clone(),
            host: host.clone(),
            receiver,
        }
    }
}

/// A host's wait for work. It ends when this is dropped.
pub struct Hand {
    hands: Hands,
    host: HostName,
    receiver: oneshot::Receiver<Handed>,
}

impl Hand {
    /// The work. There will be none when another wait of the same host took the place of this one.
    pub async fn filled(&mut self) -> Handed {
        match (&mut self.receiver).await {
            Ok(handed) => handed,
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the wait; there may be work all the same.
    pub fn close(mut self) -> Option<Handed> {
        self.receiver.close();
        self.receiver.try_recv().ok()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.receiver.close();
        let mut hands = self.hands.lock();
        // Another wait may have taken the place of this one.
        if hands
            .get(&self.host)
            .is_some_and(oneshot::Sender::is_closed)
        {
            hands.remove(&self.host);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use types::agent::{Direction, Verb, WorkKey};
    use types::{ServerId, TaskId};

    fn work(step: &str) -> Handed {
        let work = Work {
            key: WorkKey {
                task: TaskId::random(),
                step: step.to_owned(),
                direction: Direction::Do,
            },
            epoch: 1,
            server: ServerId::random(),
            request: String::new(),
            deadline_seconds: 1,
            verb: Verb::EnsureAbsent,
            trace: None,
            passphrase: None,
        };
        Handed {
            work,
            stored: Timestamp::now(),
            since: Instant::now(),
            devices: Vec::new(),
        }
    }

    #[tokio::test]
    async fn one_piece_of_work_for_one_wait() {
        let hands = Hands::default();
        let (here, elsewhere) = (HostName::from("h1"), HostName::from("h2"));
        assert!(!hands.give(&here, work("nobody")), "nobody waits");
        let mut hand = hands.hold_out(&here);
        assert!(!hands.give(&elsewhere, work("another")));
        assert!(hands.give(&here, work("first")));
        assert!(!hands.give(&here, work("second")), "it has its work");
        assert_eq!(hand.filled().await.work.key.step, "first");
        drop(hand);
        assert!(!hands.give(&here, work("late")));
        assert!(hands.lock().is_empty());
    }

    #[tokio::test]
    async fn the_newest_wait_counts() {
        let hands = Hands::default();
        let host = HostName::from("h1");
        let mut left_behind = hands.hold_out(&host);
        let mut hand = hands.hold_out(&host);
        assert!(hands.give(&host, work("one")));
        assert!(left_behind.filled().now_or_never().is_none());
        assert!(left_behind.close().is_none());
        assert_eq!(hand.filled().await.work.key.step, "one");
        let hand = hands.hold_out(&host);
        drop(hands.hold_out(&host));
        assert!(!hands.give(&host, work("two")));
        assert!(hand.close().is_none());
    }

    #[tokio::test]
    async fn what_was_given_before_the_end_of_a_wait_is_not_lost() {
        let hands = Hands::default();
        let host = HostName::from("h1");
        let hand = hands.hold_out(&host);
        assert!(hands.give(&host, work("one")));
        assert_eq!(hand.close().unwrap().work.key.step, "one");
        let hand = hands.hold_out(&host);
        assert!(hand.close().is_none());
        assert!(!hands.give(&host, work("two")));
    }
}
