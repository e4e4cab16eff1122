//! Where a step waits for the outcome of its host work, and where reports of hosts arrive.

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
    waiting: Arc<Mutex<HashMap<WorkKey, oneshot::Sender<WorkOutcome>>>>,
}

impl Outcomes {
    /// Nobody waits yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            others: None,
            waiting: Arc::default(),
        }
    }

    /// As [`Outcomes::new`], for a process that is one of several with this database.
    pub fn shared(store: Store, bus: Bus) -> Self {
        Self {
            others: Some(bus),
            ..Self::new(store)
        }
    }

    /// A host's report: written durably, then handed to the step that waits. Reports may be repeated; one about another
    /// host's work changes nothing.
    pub async fn report(&self, host: &HostName, report: WorkReport) -> Result<(), sql::Error> {
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
                let _ = waiter.send(outcome);
            }
            (None, Some(bus)) => bus.ring(Bell::Outcome(key.task)),
            (None, None) => {}
        }
        Ok(())
    }

    /// Begins to wait; call before the work is stored, so that no report is missed.
    pub(crate) fn expect(&self, key: &WorkKey) -> oneshot::Receiver<WorkOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(key.clone(), sender);
        receiver
    }

    /// Waits until the outcome is there, or the time is over, or somebody else has the task: then it is fenced.
    pub(crate) async fn wait(
        &self,
        key: &WorkKey,
        epoch: i64,
        expected: oneshot::Receiver<WorkOutcome>,
        time: Duration,
    ) -> Result<Option<WorkOutcome>, sql::Error> {
        let until = tokio::time::Instant::now() + time;
        let mut expected = Some(expected);
        let mut elsewhere = self
            .others
            .as_ref()
            .map(|bus| bus.listen(Bell::Outcome(key.task)));
        let pause = match elsewhere {
            Some(_) => LOOK_SHARED,
            None => LOOK,
        };
        loop {
            let wanted = key.clone();
            if let Some(outcome) = self
                .store
                .look(move |tx| db::work::outcome(tx, &wanted, epoch))
                .await?
            {
                self.lock().remove(key);
                return Ok(Some(outcome));
            }
            let look = (tokio::time::Instant::now() + pause).min(until);
            tokio::select! {
                biased;
                // Another wait for the same key took the place of this one: only the database is left.
                told = told(&mut expected) => match told {
                    Some(outcome) => return Ok(Some(outcome)),
                    None => expected = None,
                },
                () = rung(&mut elsewhere) => {}
                () = tokio::time::sleep_until(look) => {}
            }
            if tokio::time::Instant::now() >= until {
                if expected.is_some() {
                    self.lock().remove(key);
                }
                return Ok(None);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkKey, oneshot::Sender<WorkOutcome>>> {
        // The map is whole even after a panic elsewhere.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome told in this process; `None` when it will not be.
async fn told(expected: &mut Option<oneshot::Receiver<WorkOutcome>>) -> Option<WorkOutcome> {
    match expected {
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
