//! A worker's own view of its lease.
//!
//! Others hold a worker for dead when its beats stand still for that long, and take its tasks over. What it does to the
//! database afterwards is refused; what it does elsewhere nobody would refuse. So a worker that could not say that it
//! lives (its process stood still, the database was away) stops its runs by its own clock, before others take over.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Until when nobody else may hold this worker for dead.
pub(crate) struct Lease {
    origin: Instant,
    time: Duration,
    /// Microseconds from the origin to the begin of the last beat that was taken.
    beat: AtomicU64,
}

impl Lease {
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            origin: Instant::now(),
            time,
            beat: AtomicU64::new(0),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// A beat that began then was taken. Others saw it at that moment or later.
    pub(crate) fn renew(&self, begun: Instant) {
        self.beat.store(self.micros(begun), Ordering::SeqCst);
    }

    /// Whether it still runs.
    pub(crate) fn holds(&self) -> bool {
        let since = self
            .micros(Instant::now())
            .saturating_sub(self.beat.load(Ordering::SeqCst));
        Duration::from_micros(since) < self.time
    }

    /// Does the work as long as the lease runs: once it has run out not a step further. `None`: it did not come to its
    /// end.
    pub(crate) async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match self.holds() {
            true => work.as_mut().poll(cx).map(Some),
            false => Poll::Ready(None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_with_the_lease() {
        const HOUR: Duration = Duration::from_secs(3600);
        let lease = Lease {
            origin: Instant::now() - 2 * HOUR,
            ..Lease::new(HOUR)
        };
        assert!(!lease.holds(), "its last beat was two hours ago");
        lease.renew(Instant::now());
        assert_eq!(lease.hold(async { 1 }).await, Some(1));
        let mut steps = 0;
        let work = async {
            loop {
                steps += 1;
                if steps == 2 {
                    // As after two hours in which the process stood still.
                    lease.renew(lease.origin);
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(lease.hold::<()>(work).await, None);
        assert_eq!(steps, 2, "not a step further");
        lease.renew(Instant::now());
        assert!(lease.holds());
    }
}
