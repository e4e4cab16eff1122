//! How long a guest that is asked to go down may take before it is switched off.
//!
//! As in Nova the image says it (`os_shutdown_timeout`), else the operator (`[DEFAULT] shutdown_timeout`): for stop, shelve,
//! rescue, rebuild, resize and cold migration. Whoever deletes a server does not wait, nor do evacuations.

use crate::neighbours::Neighbours;
use db::instances::Instance;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The image's property.
const PROPERTY: &str = "os_shutdown_timeout";
/// Nobody waits longer than a year.
const LONGEST: u64 = 31_536_000;
/// What the host needs beside that.
const MARGIN: Duration = Duration::from_secs(120);
/// The same where a guest is to let go of something.
const DETACH_MARGIN: Duration = Duration::from_secs(60);

/// Seconds that a guest gets to go down; 0 is none: it is switched off at once.
///
/// Kept in the states of flows, as it was when they began. States of old have none and mean what was the rule then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grace(u64);

impl Default for Grace {
    fn default() -> Self {
        Self(60)
    }
}

impl Grace {
    /// So many seconds.
    pub fn of_seconds(seconds: u64) -> Self {
        Self(seconds.min(LONGEST))
    }

    /// What this server's guest gets.
    pub(super) fn of(with: &Neighbours, server: &Instance) -> Self {
        let properties = server.image_properties();
        let said = properties.and_then(|properties| properties.get(PROPERTY));
        let otherwise = with.patience.shutdown;
        let (grace, wrong) = read(said.map(String::as_str), otherwise);
        if let Some(wrong) = wrong {
            tracing::warn!(server = %server.id, property = PROPERTY, value = said, seconds = grace.0,
                "an image's property is not a number of seconds: {wrong}");
        }
        grace
    }

    /// As the verbs say it.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// How long the step may take in which the guest goes down and the host does what takes `other` besides.
    pub fn and(self, other: Duration) -> Duration {
        Duration::from_secs(self.0) + other
    }

    /// How long the step may take in which only the guest goes down.
    pub fn deadline(self) -> Duration {
        self.and(MARGIN)
    }
}

/// How long guests may take to react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To go down, where the image does not say it.
    pub shutdown: Grace,
    /// To go down for a soft reboot, before it becomes a hard one.
    pub reboot: Grace,
    /// To let go of a volume or an interface, all attempts together.
    pub detach: Duration,
}

impl Patience {
    /// How long a step may take in which a guest lets go of something.
    pub(super) fn detaching(self) -> Duration {
        self.detach + DETACH_MARGIN
    }
}

impl Default for Patience {
    /// Nova's.
    fn default() -> Self {
        Self {
            shutdown: Grace(60),
            reboot: Grace(120),
            detach: Duration::from_secs(8 * 20),
        }
    }
}

/// Reads the property as Nova does: what is no whole number does not count. A negative one is no time at all. And what is
/// wrong with it.
fn read(said: Option<&str>, otherwise: Grace) -> (Grace, Option<&'static str>) {
    let Some(said) = said else {
        return (otherwise, None);
    };
    match said.trim().parse::<i128>() {
        Ok(seconds) => match u64::try_from(seconds) {
            Ok(seconds) => (Grace::of_seconds(seconds), None),
            Err(_) if seconds < 0 => (Grace(0), Some("it is negative, so nothing is waited for")),
            Err(_) => (Grace(LONGEST), None),
        },
        Err(_) => (otherwise, Some("the operator's setting counts instead")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_image_says_it_else_the_operator() {
        let otherwise = Grace(45);
        for (said, wanted, wrong) in [
            (None, 45, false),
            (Some("600"), 600, false),
            (Some(" 7 "), 7, false),
            (Some("+7"), 7, false),
            (Some("0"), 0, false),
            (Some("-1"), 0, true),
            (Some("-99999999999999999999"), 0, true),
            (Some("99999999999999999999"), LONGEST, false),
            (Some("31536001"), LONGEST, false),
            (Some(""), 45, true),
            (Some("soon"), 45, true),
            (Some("1.5"), 45, true),
            (Some("60s"), 45, true),
        ] {
            let (grace, found) = read(said, otherwise);
            assert_eq!((grace.0, found.is_some()), (wanted, wrong), "{said:?}");
        }
    }

    #[test]
    fn a_step_outlasts_the_guest() {
        for seconds in [0, 60, 600, LONGEST] {
            let grace = Grace::of_seconds(seconds);
            assert!(grace.deadline() > Duration::from_secs(seconds), "{seconds}");
            assert!(grace.deadline() >= grace.and(Duration::from_secs(60)));
        }
        let longest = Grace::of_seconds(u64::MAX).deadline();
        assert!(tokio::time::Instant::now().checked_add(longest).is_some());
    }

    /// Stored where a flow began before there was such a thing.
    #[test]
    fn old_states_mean_a_minute() {
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            grace: Grace,
        }
        let old: State = serde_json::from_str("{}").unwrap();
        assert_eq!(old.grace.seconds(), 60);
        let new: State = serde_json::from_str(r#"{"grace": 5}"#).unwrap();
        assert_eq!(new.grace.seconds(), 5);
    }
}
