//! Where a step waits for the outcome of its host work, and where reports of hosts arrive.

use sql::Store;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use types::agent::{WorkKey, WorkOutcome, WorkReport};

/// How often a waiting step looks into the database, for reports that another process received.
const LOOK: Duration = Duration::from_secs(2);

/// The waiting steps of this process.
#[derive(Clone)]
pub struct Outcomes {
    store: Store,
    waiting: Arc<Mutex<HashMap<WorkKey, oneshot::Sender<WorkOutcome>>>>,
}

impl Outcomes {
    /// Nobody waits yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            waiting: Arc::default(),
        }
    }

    /// A host's report: written durably, then handed to the step that waits. Reports may be repeated.
    pub async fn report(&self, report: WorkReport) -> Result<(), sql::Error> {
        let WorkReport {
            key,
            epoch,
            outcome,
        } = report;
        let (stored_key, stored) = (key.clone(), outcome.clone());
        let wanted = self
            .store
            .write(move |tx| db::work::finish(tx, &stored_key, epoch, &stored))
            .await?;
        if wanted && let Some(waiter) = self.lock().remove(&key) {
            let _ = waiter.send(outcome);
        }
        Ok(())
    }

    /// Begins to wait; call before the work is stored, so that no report is missed.
    pub(crate) fn expect(&self, key: &WorkKey) -> oneshot::Receiver<WorkOutcome> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(key.clone(), sender);
        receiver
    }

    /// Waits until the outcome is there or the time is over.
    pub(crate) async fn wait(
        &self,
        key: &WorkKey,
        expected: oneshot::Receiver<WorkOutcome>,
        time: Duration,
    ) -> Result<Option<WorkOutcome>, sql::Error> {
        let until = tokio::time::Instant::now() + time;
        let mut expected = Some(expected);
        loop {
            let wanted = key.clone();
            if let Some(outcome) = self
                .store
                .read(move |tx| db::work::outcome(tx, &wanted))
                .await?
            {
                self.lock().remove(key);
                return Ok(Some(outcome));
            }
            let look = (tokio::time::Instant::now() + LOOK).min(until);
            match &mut expected {
                Some(receiver) => match tokio::time::timeout_at(look, receiver).await {
                    Ok(Ok(outcome)) => return Ok(Some(outcome)),
                    // Another wait for the same key took the place of this one: only the database is left.
                    Ok(Err(_)) => expected = None,
                    Err(_) => {}
                },
                None => tokio::time::sleep_until(look).await,
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
