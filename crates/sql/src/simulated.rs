//! A database without threads, for simulations: SQLite in memory, whose units of work are carried out one after the
//! other as tasks of the runtime. How long each is under way, and what is lost there, the simulation decides.

use crate::sqlite_engine::{Sqlite, attempt};
use crate::store::Job;
use crate::{Dialect, Error, Store, Tx};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// What a way of a unit of work is: it takes as long as the future, and is lost where that ends with an error.
pub type Way = Pin<Box<dyn Future<Output = Option<Error>> + Send>>;

/// The line between one process and the database.
pub trait Pace: Send + Sync + 'static {
    /// The way there. What is lost here was not done.
    fn there(&self) -> Way;

    /// Called when something was written and before anybody sees it; what this writes is rolled back.
    fn written(&self, _tx: &mut Tx<'_>) {}

    /// The way back. What is lost here was done, and whoever asked does not know.
    fn back(&self) -> Way;
}

/// A database that several processes reach over lines of their own.
#[derive(Clone)]
pub struct Simulated {
    engine: Arc<Mutex<Sqlite>>,
}

impl Simulated {
    /// An empty database.
    ///
    /// # Errors
    /// SQLite's.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            engine: Arc::new(Mutex::new(Sqlite::in_memory()?)),
        })
    }

    /// What a process at the end of this line works with.
    pub fn store(&self, pace: Arc<dyn Pace>) -> Store {
        let database = self.clone();
        Store::simulated(Arc::new(Line { database, pace }))
    }

    fn carry_out(
        &self,
        job: &mut dyn Job,
        writes: bool,
        pace: &dyn Pace,
    ) -> Result<Option<bool>, Error> {
        // SQLite's own state is whole whatever panicked while the lock was held.
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.run("BEGIN IMMEDIATE")?;
        let outcome = attempt(&mut engine, job);
        if !writes || !matches!(outcome, Ok(Some(true))) {
            engine.run("ROLLBACK")?;
            return outcome;
        }
        engine.run("COMMIT")?;
        engine.run("BEGIN IMMEDIATE")?;
        pace.written(&mut Tx::new(&mut *engine, Dialect::Sqlite));
        engine.run("ROLLBACK")?;
        outcome
    }
}

/// A process's way to the database.
pub(crate) struct Line {
    database: Simulated,
    pace: Arc<dyn Pace>,
}

impl Line {
    /// Sets a unit of work on its way. Once it is there it is done, even if whoever sent it is gone.
    pub(crate) fn submit(self: &Arc<Self>, mut job: Box<dyn Job>, writes: bool) {
        let line = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(error) = line.pace.there().await {
                return job.fail(error);
            }
            let outcome = line
                .database
                .carry_out(job.as_mut(), writes, line.pace.as_ref());
            if let Some(error) = line.pace.back().await {
                return job.fail(error);
            }
            match outcome {
                Ok(Some(_)) => job.finish(),
                // Dropping the job tells that there is no answer.
                Ok(None) => {}
                Err(error) => job.fail(error),
            }
        });
    }
}
