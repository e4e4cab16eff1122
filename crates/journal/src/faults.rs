//! Faults put into flows on purpose, for tests.

use types::agent::Direction;

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
}

/// Decides where faults strike.
pub trait Faults: Send + Sync + 'static {
    /// The fault at this point, if one strikes now.
    fn at(&self, point: &Point) -> Option<Fault>;
}

/// No faults: what production uses.
pub struct Never;

impl Faults for Never {
    fn at(&self, _point: &Point) -> Option<Fault> {
        None
    }
}

/// Strikes once, at one point, and remembers whether it did.
pub struct Once {
    point: Point,
    fault: Fault,
    struck: std::sync::atomic::AtomicBool,
}

impl Once {
    /// This fault at this point.
    pub fn new(point: Point, fault: Fault) -> Self {
        Self {
            point,
            fault,
            struck: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// Whether it has struck.
    pub fn struck(&self) -> bool {
        self.struck.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Faults for Once {
    fn at(&self, point: &Point) -> Option<Fault> {
        let first =
            *point == self.point && !self.struck.swap(true, std::sync::atomic::Ordering::SeqCst);
        first.then_some(self.fault)
    }
}
