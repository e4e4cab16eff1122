//! What a run does while a step does not go on: it pauses, and tells operators of it.

use super::Run;
use crate::flow::Flow;
use rand::Rng;
use std::time::Duration;
use tokio::time::Instant;
use types::Timestamp;

/// A step that does not go on.
pub(super) struct Waiting {
    since: Timestamp,
    begun: Instant,
    tries: u32,
    /// When operators were told, and what.
    noted: Option<(Instant, String)>,
}

/// A step that waits for longer is told of.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// How often it is told of while nothing changes.
const TOLD_EVERY: Duration = Duration::from_secs(60);

impl<F: Flow> Run<F> {
    pub(super) async fn pause(&mut self, reason: &str, tries: &mut u32) {
        self.note_wait(reason).await;
        tracing::debug!(task = %self.task.id, flow = F::NAME, step = self.task.step, reason, tries, "trying again");
        let base = self
            .shared
            .settings
            .retry
            .saturating_mul(1 << (*tries).min(6));
        let jitter = rand::rng().random_range(0.5..1.0);
        let pause = tokio::time::sleep(base.min(Duration::from_secs(10)).mul_f64(jitter));
        self.shared.resting(pause).await;
        *tries = tries.saturating_add(1);
    }

    /// Tells operators, in the log and with the task, what it has been waiting for for some time.
    async fn note_wait(&mut self, reason: &str) {
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: Timestamp::now(),
            begun: Instant::now(),
            tries: 0,
            noted: None,
        });
        waiting.tries = waiting.tries.saturating_add(1);
        let known = waiting.noted.as_ref();
        let known = known.is_some_and(|(at, text)| text == reason && at.elapsed() < TOLD_EVERY);
        if known || waiting.begun.elapsed() < TOLD_AFTER {
            return;
        }
        waiting.noted = Some((Instant::now(), reason.to_owned()));
        let waits = db::tasks::Waits {
            reason: reason.to_owned(),
            since: waiting.since,
            tries: waiting.tries,
            unreadable: false,
        };
        tracing::warn!(task = %self.task.id, server = %self.cx.server, request_id = %self.cx.request_id, flow = F::NAME,
            step = self.task.step, reason, tries = waits.tries, "a step waits");
        self.task.waits = Some(waits.clone());
        let (id, epoch) = (self.task.id, self.task.epoch);
        let writing = move |tx: &mut sql::Tx<'_>| db::tasks::note_waits(tx, id, epoch, &waits);
        if let Err(error) = self.shared.store.write(writing).await {
            tracing::debug!(task = %id, %error, "what a task waits for cannot be written down");
        }
    }
}
