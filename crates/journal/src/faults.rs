//! Faults put into flows on purpose, for tests.

use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::watch;
use types::agent::Direction;

/// How long a fault may take to strike before a test gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where a fault can strike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// The flow's name.
    pub flow: &'static str,
    /// The step's name.
    pub step: &'static str,
    /// Doing or undoing.
    pub direction: Direction,
    /// Before or after the effect.
    pub when: When,
}

/// Before or after a step's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// Nothing of the step has happened yet.
    Before,
    /// All of it has happened, and is not saved yet.
    After,
}

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The step fails.
    Fail,
    /// The effect happens again.
    Repeat,
    /// The process dies here.
    Crash,
    /// The flow's code panics here.
    Panic,
    /// The step stands still until [`Faults::released`] comes back.
    Hold,
}

/// Decides where faults strike.
#[async_trait]
pub trait Faults: Send + Sync + 'static {
    /// The fault at this point, if one strikes now.
    fn at(&self, point: &Point) -> Option<Fault>;

    /// How long a [`Fault::Hold`] at this point lasts.
    async fn released(&self, _point: &Point) {}
}

/// No faults: what production uses.
pub struct Never;

impl Faults for Never {
    fn at(&self, _point: &Point) -> Option<Fault> {
        None
    }
}

/// Faults that strike once each, at their points and in their order, and are remembered.
pub struct Script {
    faults: Vec<(Point, Fault)>,
    struck: watch::Sender<Vec<bool>>,
    released: watch::Sender<bool>,
}

impl Script {
    /// These faults, each of which strikes the first time its point is passed after all before it have struck.
    pub fn new(faults: impl Into<Vec<(Point, Fault)>>) -> Self {
        let faults = faults.into();
        Self {
            struck: watch::channel(vec![false; faults.len()]).0,
            faults,
            released: watch::channel(false).0,
        }
    }

    /// Whether every fault has struck.
    pub fn struck(&self) -> bool {
        self.struck.borrow().iter().all(|struck| *struck)
    }

    /// Waits until every fault has struck.
    ///
    /// # Panics
    /// When one has not struck after three minutes.
    pub async fn all_struck(&self) {
        let all = |struck: &Vec<bool>| struck.iter().all(|struck| *struck);
        let mut struck = self.struck.subscribe();
        // The sender lives as long as the script.
        let waited = tokio::time::timeout(PATIENCE, struck.wait_for(all)).await;
        assert!(
            waited.is_ok(),
            "not after three minutes: every fault of {:?} has struck; struck: {:?}",
            self.faults,
            self.struck.borrow()
        );
    }

    /// Lets go of everything that is held, now and later.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

#[async_trait]
impl Faults for Script {
    fn at(&self, point: &Point) -> Option<Fault> {
        let mut strikes = None;
        self.struck.send_if_modified(|struck| {
            let Some(next) = struck.iter().position(|struck| !*struck) else {
                return false;
            };
            let (at, fault) = &self.faults[next];
            if at != point {
                return false;
            }
            struck[next] = true;
            strikes = Some(*fault);
            true
        });
        strikes
    }

    async fn released(&self, _point: &Point) {
        let _ = self
            .released
            .subscribe()
            .wait_for(|released| *released)
            .await;
    }
}
