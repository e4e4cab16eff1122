//! What PostgreSQL and MySQL share: threads with a connection each, taking units of work from one queue.
//!
//! A unit that meets a conflict is rolled back and run again after a jittered pause. A connection that is lost before
//! the commit was sent is made again and the unit run again; one that is lost while the commit is under way leaves an
//! unknown outcome, so the caller gets [`Error::InDoubt`] and nothing is repeated.

use crate::store::{Access, Job, Options};
use crate::{Dialect, Engine, Error, Tx};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often one unit of work is tried, and for how long after it was asked for. The first try is always made.
const TRIES: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A connection to a database server.
pub(crate) trait Connection: Engine + Sized + 'static {
    /// Which database this is.
    const DIALECT: Dialect;
    /// Where to connect to, and how.
    type Target: Send + Sync + 'static;
    /// Connects; called on the thread that will use the connection.
    fn connect(target: &Self::Target) -> Result<Self, Error>;
    /// Begins a transaction: serializable for writes (or as [`Access::WriteOwn`] says), a read-only snapshot otherwise.
    fn begin(&mut self, access: Access) -> Result<(), Error>;
    /// Commits.
    fn commit(&mut self) -> Result<(), Error>;
    /// Rolls back.
    fn rollback(&mut self) -> Result<(), Error>;
    /// Whether the connection is gone.
    fn is_lost(&self) -> bool;
    /// Whether the next try must survive failing statements (see the PostgreSQL engine), and setting it.
    fn careful(&self) -> bool {
        false
    }
    /// Sets what [`Connection::careful`] says.
    fn set_careful(&mut self, _careful: bool) {}
}

struct Queued {
    job: Box<dyn Job>,
    access: Access,
    since: Instant,
}

/// The queue into the threads. They end when it is dropped.
pub(crate) struct Pool {
    queue: Sender<Queued>,
}

impl Pool {
    /// Starts the threads. The first connection is made before this returns, so that a wrong URL is told at once;
    /// the others when they are needed.
    pub(crate) fn open<C: Connection>(
        name: &str,
        target: C::Target,
        options: &Options,
    ) -> Result<Self, Error> {
        let target = Arc::new(target);
        let (queue, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let (report, opened) = channel();
        for index in 0..options.connections.max(1) {
            let target = Arc::clone(&target);
            let jobs = Arc::clone(&jobs);
            let report = (index == 0).then(|| report.clone());
            let body = move || {
                let mut link = None;
                if let Some(report) = report {
                    let first = C::connect(&target).map(|connection| link = Some(connection));
                    let failed = first.is_err();
                    let _ = report.send(first);
                    if failed {
                        return;
                    }
                }
                work_loop::<C>(&target, link, &jobs);
            };
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(body);
            thread.map_err(|error| Error::Unreachable(error.to_string()))?;
        }
        drop(report);
        opened.recv().unwrap_or(Err(Error::Closed))?;
        Ok(Self { queue })
    }

    /// Hands a unit of work to the next free thread.
    pub(crate) fn submit(&self, job: Box<dyn Job>, access: Access) {
        let queued = Queued {
            job,
            access,
            since: Instant::now(),
        };
        if let Err(refused) = self.queue.send(queued) {
            refused.0.job.fail(Error::Closed);
        }
    }
}

fn work_loop<C: Connection>(
    target: &C::Target,
    mut link: Option<C>,
    jobs: &Mutex<Receiver<Queued>>,
) {
    loop {
        let next = match jobs.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(queued) = next else { return };
        serve(target, &mut link, queued);
    }
}

/// How one try ended.
enum Ended {
    /// Committed, or rolled back because the closure wanted it: the answer may be given.
    Done,
    /// The closure panicked; there is no answer.
    Panicked,
    /// Run it again, if there is time.
    Again(Error),
    /// It must not be run again.
    Failed(Error),
}

fn serve<C: Connection>(target: &C::Target, link: &mut Option<C>, queued: Queued) {
    let Queued {
        mut job,
        access,
        since,
    } = queued;
    if let Some(connection) = link {
        connection.set_careful(false);
    }
    for tried in 1.. {
        let ended = attempt(target, link, job.as_mut(), access);
        if link.as_ref().is_some_and(Connection::is_lost) {
            *link = None;
        }
        match ended {
            Ended::Done => return job.finish(),
            Ended::Panicked => return,
            Ended::Failed(error) => return job.fail(error),
            Ended::Again(error) if tried >= TRIES || since.elapsed() >= PATIENCE => {
                tracing::error!(%error, tried, "a unit of work is given up");
                return job.fail(error);
            }
            Ended::Again(error) => {
                tracing::debug!(%error, tried, "a unit of work is run again");
                // A connection that was idle too long, or the wish for savepoints: no reason to wait.
                if tried > 1
                    || matches!(error, Error::Conflict(_))
                        && !link.as_ref().is_some_and(Connection::careful)
                {
                    std::thread::sleep(pause(tried));
                }
            }
        }
    }
}

/// Exponential with full jitter, so that those who met each other part.
fn pause(tried: u32) -> Duration {
    let longest = Duration::from_millis(2)
        .saturating_mul(1 << tried.min(10))
        .min(LONGEST_PAUSE);
    longest.mul_f64(rand::random::<f64>())
}

fn attempt<C: Connection>(
    target: &C::Target,
    link: &mut Option<C>,
    job: &mut dyn Job,
    access: Access,
) -> Ended {
    let connection = match link {
        Some(connection) => connection,
        None => match C::connect(target) {
            Ok(made) => link.insert(made),
            Err(error) => return Ended::Again(error),
        },
    };
    if let Err(error) = connection.begin(access) {
        let retry = error.is_retryable();
        *link = None;
        return if retry {
            Ended::Again(error)
        } else {
            Ended::Failed(error)
        };
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        job.attempt(&mut Tx::new(connection, C::DIALECT))
    }));
    match outcome {
        Ok(Ok(true)) => match connection.commit() {
            Ok(()) => Ended::Done,
            Err(error @ Error::Conflict(_)) => {
                roll_back(link);
                Ended::Again(error)
            }
            Err(error) => {
                *link = None;
                match error {
                    // Nothing was written, so nothing can happen twice.
                    Error::Unreachable(_) if !access.writes() => Ended::Again(error),
                    Error::Unreachable(text) => Ended::Failed(Error::InDoubt(text)),
                    other => Ended::Failed(other),
                }
            }
        },
        Ok(Ok(false)) => {
            roll_back(link);
            Ended::Done
        }
        Ok(Err(error)) => {
            roll_back(link);
            Ended::Again(error)
        }
        Err(_) => {
            // Whatever the closure left behind (locks too) goes with the connection.
            *link = None;
            Ended::Panicked
        }
    }
}

fn roll_back<C: Connection>(link: &mut Option<C>) {
    if link
        .as_mut()
        .is_some_and(|connection| connection.rollback().is_err())
    {
        *link = None;
    }
}
