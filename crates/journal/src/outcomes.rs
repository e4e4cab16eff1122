//! Where a step waits for the outcome of its host work, and where reports of hosts arrive.

use crate::handing::{Hand, Handed, Hands};
use bus::{Bell, Bus, Listener};
use sql::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use types::HostName;
use types::agent::{WorkKey, WorkOutcome, WorkReport};

/// How often a waiting step looks into the database, for reports that another process received.
const LOOK: Duration = Duration::from_secs(2);

/// How often it looks where nothing but the database tells of other processes.
const LOOK_SHARED: Duration = Duration::from_millis(500);

/// The waiting steps of this process.
#[derive(Clone)]
pub struct Outcomes {
    store: Store,
    /// Tells, and is told by, the other processes that take reports; none when there is only this one.
    others: Option<Bus>,
    waiting: Arc<Mutex<HashMap<WorkKey, Waiter>>>,
    hands: Hands,
}

/// One waiting step.
struct Waiter {
    /// Whose report under which epoch it takes before that is stored; nobody's until it is known who does the work.
    from: Option<(HostName, i64)>,
    sender: oneshot::Sender<Told>,
}

/// An outcome, as a waiting step is told it.
pub(crate) struct Told {
    pub(crate) outcome: WorkOutcome,
    /// Present when the outcome is not stored: the host has it taken for reported once this is answered. When it is
    /// dropped instead, the outcome is stored after all.
    pub(crate) unsaved: Option<oneshot::Sender<()>>,
}

impl Told {
    fn stored(outcome: WorkOutcome) -> Self {
        Self {
            outcome,
            unsaved: None,
        }
    }
}

impl Outcomes {
    /// Nobody waits yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            others: None,
            waiting: Arc::default(),
            hands: Hands::default(),
        }
    }

    /// As [`Outcomes::new`], for a process that is one of several with this database.
    pub fn shared(store: Store, bus: Bus) -> Self {
        Self {
            others: Some(bus),
            ..Self::new(store)
        }
    }

    /// A host waits for work in this process from now on, until what is returned is dropped. It must have been told all that
    /// is stored for it, and go on to listen for its bell: not all work comes this way.
    pub fn hold_out(&self, host: &HostName) -> Hand {
        self.hands.hold_out(host)
    }

    /// Gives a host work that was just stored for it; `false`: it does not wait here.
    pub(crate) fn give(&self, host: &HostName, handed: Handed) -> bool {
        self.hands.give(host, handed)
    }

    /// A host's report. The step that waits for it here stores what came of it; where nobody waits, or whoever waits gives
    /// up before that, the report is stored as it is. Reports may be repeated; one about another host's work changes
    /// nothing.
    pub async fn report(&self, host: &HostName, report: WorkReport) -> Result<(), sql::Error> {
        if self.tell(host, &report).await {
            return Ok(());
        }
        let WorkReport {
            key,
            epoch,
            outcome,
        } = report;
        let (host, stored_key, stored) = (host.clone(), key.clone(), outcome.clone());
        let wanted = self
            .store
            .write(move |tx| db::work::finish(tx, &host, &stored_key, epoch, &stored))
            .await?;
        if !wanted {
            return Ok(());
        }
        let waiter = self.lock().remove(&key);
        match (waiter, &self.others) {
            (Some(waiter), _) => {
                let _ = waiter.sender.send(Told::stored(outcome));
            }
            (None, Some(bus)) => bus.ring(Bell::Outcome(key.task)),
            (None, None) => {}
        }
        Ok(())
    }

    /// Tells the step that waits for this report of this host, and waits until it has stored what came of it. `false`: it
    /// has not.
    async fn tell(&self, host: &HostName, report: &WorkReport) -> bool {
        let waiter = {
            let mut waiting = self.lock();
            let wanted = waiting.get(&report.key).is_some_and(|waiter| {
                let from = waiter.from.as_ref();
                from.is_some_and(|(from, epoch)| {
                    from == host && u64::try_from(*epoch) == Ok(report.epoch)
                })
            });
            if wanted {
                waiting.remove(&report.key)
            } else {
                None
            }
        };
        let Some(waiter) = waiter else { return false };
        let (unsaved, saved) = oneshot::channel();
        let told = Told {
            outcome: report.outcome.clone(),
            unsaved: Some(unsaved),
        };
        waiter.sender.send(told).is_ok() && saved.await.is_ok()
    }

    /// Begins to wait; call before the work is stored, so that no report is missed.
    pub(crate) fn expect(&self, key: &WorkKey) -> Expected {
        let (sender, receiver) = oneshot::channel();
        let elsewhere = self
            .others
            .as_ref()
            .map(|bus| bus.listen(Bell::Outcome(key.task)));
        let waiter = Waiter { from: None, sender };
        self.lock().insert(key.clone(), waiter);
        Expected {
            outcomes: self.clone(),
            key: key.clone(),
            receiver: Some(receiver),
            elsewhere,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkKey, Waiter>> {
        // The map is whole even after a panic elsewhere.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait that has begun.
pub(crate) struct Expected {
    outcomes: Outcomes,
    pub(crate) key: WorkKey,
    /// None when another wait for the same key took the place of this one: only the database is left.
    receiver: Option<oneshot::Receiver<Told>>,
    /// Rung when another process has received a report.
    elsewhere: Option<Listener>,
}

impl Expected {
    /// Waits until the outcome is there, or the time is over, or somebody else has the task: then it is fenced. `stored`
    /// says that there may be an outcome from before this wait.
    pub(crate) async fn wait(
        mut self,
        host: &HostName,
        epoch: i64,
        stored: bool,
        time: Duration,
    ) -> Result<Option<Told>, sql::Error> {
        if let Some(waiter) = self.outcomes.lock().get_mut(&self.key) {
            waiter.from = Some((host.clone(), epoch));
        }
        let until = tokio::time::Instant::now() + time;
        let pause = match self.elsewhere {
            Some(_) => LOOK_SHARED,
            None => LOOK,
        };
        let mut looks = stored;
        loop {
            if looks && let Some(outcome) = self.look(epoch).await? {
                return Ok(Some(Told::stored(outcome)));
            }
            looks = true;
            let look = (tokio::time::Instant::now() + pause).min(until);
            tokio::select! {
                biased;
                told = told(&mut self.receiver) => match told {
                    Some(told) => return Ok(Some(told)),
                    None => self.receiver = None,
                },
                () = rung(&mut self.elsewhere) => {}
                () = tokio::time::sleep_until(look) => {}
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    async fn look(&self, epoch: i64) -> Result<Option<WorkOutcome>, sql::Error> {
        let key = self.key.clone();
        let looking = move |tx: &mut sql::Tx<'_>| db::work::outcome(tx, &key, epoch);
        self.outcomes.store.look(looking).await
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if self.receiver.take().is_none() {
            return;
        }
        let mut waiting = self.outcomes.lock();
        // Another wait may have taken the place of this one.
        if waiting
            .get(&self.key)
            .is_some_and(|waiter| waiter.sender.is_closed())
        {
            waiting.remove(&self.key);
        }
    }
}

/// What is told in this process; `None` when nothing will be.
async fn told(receiver: &mut Option<oneshot::Receiver<Told>>) -> Option<Told> {
    match receiver {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}

async fn rung(elsewhere: &mut Option<Listener>) {
    match elsewhere {
        Some(listener) => listener.rung().await,
        None => std::future::pending().await,
    }
}
