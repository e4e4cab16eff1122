//! How a running guest lets go of a disk or an interface: it is asked, and asked again while it does not.

use super::{Libvirt, explain};
use crate::hypervisor::{HypervisorError, Result};
use std::time::Duration;
use tokio::time::Instant;
use types::ServerId;

const LOOK: Duration = Duration::from_millis(200);

/// How long guests get (nova.conf's `[libvirt] device_detach_attempts` and `device_detach_timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detaching {
    /// How often a guest is asked.
    pub attempts: u32,
    /// How long it gets each time.
    pub timeout: Duration,
}

impl Default for Detaching {
    /// Nova's.
    fn default() -> Self {
        Self {
            attempts: 8,
            timeout: Duration::from_secs(20),
        }
    }
}

impl Detaching {
    /// All attempts together.
    pub fn in_all(self) -> Duration {
        self.timeout.saturating_mul(self.attempts)
    }
}

/// What is to be done about a guest that has not let go yet.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is asked; `again`: it was asked before.
    Ask { again: bool },
    /// It has its time.
    Wait,
    /// It has had its time.
    GiveUp,
}

/// How often a guest was asked, and when last.
struct Attempts {
    detaching: Detaching,
    made: u32,
    last: Option<Instant>,
}

impl Attempts {
    fn of(detaching: Detaching) -> Self {
        Self {
            detaching,
            made: 0,
            last: None,
        }
    }

    /// Pure, but that it counts.
    fn turn(&mut self, now: Instant) -> Next {
        let thinks = |last: Instant| now.duration_since(last) < self.detaching.timeout;
        if self.last.is_some_and(thinks) {
            return Next::Wait;
        }
        if self.made >= self.detaching.attempts.max(1) {
            return Next::GiveUp;
        }
        self.made += 1;
        self.last = Some(now);
        Next::Ask {
            again: self.made > 1,
        }
    }
}

impl Libvirt {
    /// Until a running guest has let go of `what`; `left` is its element in the guest's description, as long as it is there.
    pub(super) async fn until_let_go(
        &self,
        id: ServerId,
        what: &str,
        left: impl Fn(&str) -> Option<String> + Send + Sync,
    ) -> Result<()> {
        let mut attempts = Attempts::of(self.detaching);
        loop {
            let now = self.describe(id).await?;
            let Some(device) = left(&now) else {
                return Ok(());
            };
            if !self.must_look(id).await?.active {
                // It went down meanwhile: its next start is without it.
                return Ok(());
            }
            match attempts.turn(Instant::now()) {
                Next::Wait => {}
                Next::GiveUp => {
                    return Err(HypervisorError::Guest(format!(
                        "the guest does not let go of the {what}; stop the server, and try again"
                    )));
                }
                Next::Ask { again } => {
                    let unplugged = self.jobs.unplug(&self.reference(id), &device).await;
                    // A second request while the guest thinks about the first one may be refused.
                    if !again {
                        unplugged.map_err(explain)?;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a guest that never lets go is asked, and when it is given up, in seconds.
    fn asked(attempts: u32, timeout: u64) -> (Vec<u64>, u64) {
        let begun = Instant::now();
        let mut turns = Attempts::of(Detaching {
            attempts,
            timeout: Duration::from_secs(timeout),
        });
        let mut asked = Vec::new();
        for second in 0.. {
            match turns.turn(begun + Duration::from_secs(second)) {
                Next::Wait => {}
                Next::Ask { again } => {
                    assert_eq!(again, !asked.is_empty());
                    asked.push(second);
                }
                Next::GiveUp => return (asked, second),
            }
        }
        unreachable!("the seconds have no end");
    }

    #[test]
    fn each_attempt_has_its_time() {
        assert_eq!(asked(1, 5), (vec![0], 5));
        assert_eq!(asked(3, 2), (vec![0, 2, 4], 6));
        let usual = Detaching::default();
        let (often, most) = asked(usual.attempts, usual.timeout.as_secs());
        assert_eq!((often.len(), most), (8, 160), "Nova's");
    }
}
