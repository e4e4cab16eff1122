//! SQLite: one writer thread that commits many units of work at once, and reader threads with snapshots. Units that read a
//! few rows are done by the threads that ask, as long as a connection is free.

use crate::store::{Access, Job, Options};
use crate::{Dialect, Engine, Error, Row, Tx, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Units of work in one commit at most, and how long one batch may collect: a bound on latency.
const BATCH: usize = 512;
const BATCH_TIME: Duration = Duration::from_millis(10);
/// Queries of a connection whose columns are remembered at most.
const KNOWN_COLUMNS: usize = 512;

/// The writer and the readers.
pub(crate) struct Pool {
    writer: Sender<Box<dyn Job>>,
    readers: Sender<Box<dyn Job>>,
    /// For those who read a few rows themselves.
    free: Mutex<Vec<Sqlite>>,
}

impl Pool {
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        let writer_connection = connection(path, options, false)?;
        let (writer, jobs) = channel();
        spawn("sqlite-writer", move || {
            write_loop(writer_connection, &jobs)
        })?;
        let (readers, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..options.connections.max(1) {
            let connection = connection(path, options, true)?;
            let jobs = Arc::clone(&jobs);
            spawn("sqlite-reader", move || read_loop(connection, &jobs))?;
        }
        let free = (0..options.connections.max(1))
            .map(|_| connection(path, options, true).map(Sqlite::over))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            writer,
            readers,
            free: Mutex::new(free),
        })
    }

    /// Hands the job to the writer or a reader. A look is done at once, on this thread, unless too many do so already.
    pub(crate) fn submit(&self, job: Box<dyn Job>, access: Access) {
        let queue = match access {
            Access::Write | Access::WriteOwn => &self.writer,
            Access::Read => &self.readers,
            Access::Look | Access::LookOnce => {
                // Nothing else happens while it is locked.
                let taken = self.free().pop();
                let Some(mut engine) = taken else {
                    return self.submit(job, Access::Read);
                };
                read(&mut engine, job);
                return self.free().push(engine);
            }
        };
        if let Err(refused) = queue.send(job) {
            refused.0.fail(Error::Closed);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Sqlite>> {
        // Each connection in it is at rest, whatever happened elsewhere.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body);
    thread
        .map(|_| ())
        .map_err(|error| Error::Unreachable(error.to_string()))
}

fn connection(path: &Path, options: &Options, read_only: bool) -> Result<Connection, Error> {
    let access = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .map_err(|error| Error::Unreachable(format!("{}: {error}", path.display())))?;
    connection
        .busy_timeout(Duration::from_secs(30))
        .map_err(convert)?;
    connection.set_prepared_statement_cache_capacity(if read_only { 128 } else { 256 });
    let synchronous = if options.durable { "FULL" } else { "OFF" };
    if !read_only {
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(convert)?;
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(convert)?;
    }
    connection
        .pragma_update(None, "foreign_keys", "ON")
        .map_err(convert)?;
    connection
        .pragma_update(None, "temp_store", "MEMORY")
        .map_err(convert)?;
    // LIKE tells case apart on the other databases too.
    connection
        .pragma_update(None, "case_sensitive_like", "ON")
        .map_err(convert)?;
    // In KiB, taken as they are needed; there are several connections per store and several stores in a process. A reader's
    // holds a page of 1000 servers.
    connection
        .pragma_update(None, "cache_size", if read_only { -4000 } else { -2000 })
        .map_err(convert)?;
    Ok(connection)
}

fn read_loop(connection: Connection, jobs: &Mutex<Receiver<Box<dyn Job>>>) {
    let mut engine = Sqlite::over(connection);
    loop {
        let next = match jobs.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(job) = next else { return };
        read(&mut engine, job);
    }
}

/// Runs a job on a snapshot.
fn read(engine: &mut Sqlite, mut job: Box<dyn Job>) {
    let outcome = engine
        .run("BEGIN DEFERRED")
        .and_then(|()| attempt(engine, job.as_mut()));
    let closed = engine.run("ROLLBACK");
    match outcome.and_then(|outcome| closed.map(|()| outcome)) {
        Ok(Some(_)) => job.finish(),
        // Dropping the job tells the caller that there is no answer.
        Ok(None) => {}
        Err(error) => job.fail(error),
    }
}

/// Runs the closure; `None` if it panicked, which must not end the thread.
pub(crate) fn attempt(engine: &mut Sqlite, job: &mut dyn Job) -> Result<Option<bool>, Error> {
    let run = AssertUnwindSafe(|| job.attempt(&mut Tx::new(engine, Dialect::Sqlite)));
    catch_unwind(run).map_or(Ok(None), |outcome| outcome.map(Some))
}

fn write_loop(connection: Connection, jobs: &Receiver<Box<dyn Job>>) {
    let mut engine = Sqlite::over(connection);
    while let Ok(first) = jobs.recv() {
        write_batch(&mut engine, first, jobs);
    }
}

/// Runs the jobs that are waiting, in their order, each in a savepoint, and answers them after one commit.
fn write_batch(engine: &mut Sqlite, first: Box<dyn Job>, jobs: &Receiver<Box<dyn Job>>) {
    if let Err(error) = engine.run("BEGIN IMMEDIATE") {
        return first.fail(Error::Unreachable(error.to_string()));
    }
    let started = Instant::now();
    let mut done: Vec<Box<dyn Job>> = Vec::new();
    let mut failed: Vec<(Box<dyn Job>, Error)> = Vec::new();
    let mut next = Some(first);
    while let Some(mut job) = next.take() {
        match in_savepoint(engine, job.as_mut()) {
            Ok(Some(_)) => done.push(job),
            Ok(None) => {}
            Err(error) => failed.push((job, error)),
        }
        // A full disk, for one, makes SQLite roll the whole transaction back by itself.
        if engine.connection.is_autocommit() {
            break;
        }
        if done.len() + failed.len() < BATCH && started.elapsed() < BATCH_TIME {
            next = jobs.try_recv().ok();
        }
    }
    let committed = engine.run("COMMIT");
    if committed.is_err() && !engine.connection.is_autocommit() {
        let _ = engine.run("ROLLBACK");
    }
    for job in done {
        match &committed {
            Ok(()) => job.finish(),
            Err(error) => job.fail(Error::Statement(format!("commit failed: {error}"))),
        }
    }
    for (job, error) in failed {
        job.fail(error);
    }
}

fn in_savepoint(engine: &mut Sqlite, job: &mut dyn Job) -> Result<Option<bool>, Error> {
    engine.run("SAVEPOINT job")?;
    let outcome = attempt(engine, job);
    if !matches!(outcome, Ok(Some(true))) {
        engine.run("ROLLBACK TO job")?;
    }
    engine.run("RELEASE job")?;
    outcome
}

pub(crate) struct Sqlite {
    connection: Connection,
    /// The names of the columns of queries, so that they need not be copied for each.
    columns: HashMap<String, Arc<[String]>>,
}

impl Sqlite {
    fn over(connection: Connection) -> Self {
        Self {
            connection,
            columns: HashMap::new(),
        }
    }

    /// An empty database in memory.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn in_memory() -> Result<Self, Error> {
        let connection = connection(Path::new(":memory:"), &Options::default(), false)?;
        Ok(Self::over(connection))
    }

    pub(crate) fn run(&mut self, sql: &str) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(sql).map_err(convert)?;
        statement.raw_execute().map(|_| ()).map_err(convert)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Engine for Sqlite {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let mut statement = self.connection.prepare_cached(sql).map_err(convert)?;
        let changed = statement
            .execute(rusqlite::params_from_iter(params))
            .map_err(convert)?;
        Ok(changed as u64)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let mut found = Vec::new();
        self.each(sql, params, &mut |row| {
            let room = Vec::with_capacity(row.values.len());
            found.push(Row {
                columns: Arc::clone(&row.columns),
                values: std::mem::replace(&mut row.values, room),
            });
            Ok(())
        })?;
        Ok(found)
    }

    fn each(
        &mut self,
        sql: &str,
        params: &[Value],
        take: &mut dyn FnMut(&mut Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut statement = self.connection.prepare_cached(sql).map_err(convert)?;
        let count = statement.column_count();
        let known = self.columns.get(sql);
        let columns = match known.filter(|columns| columns.len() == count) {
            Some(columns) => Arc::clone(columns),
            None => {
                let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
                if self.columns.len() >= KNOWN_COLUMNS {
                    self.columns.clear();
                }
                self.columns.insert(sql.to_owned(), Arc::clone(&columns));
                columns
            }
        };
        let mut rows = statement
            .query(rusqlite::params_from_iter(params))
            .map_err(convert)?;
        let mut one = Row {
            columns,
            values: Vec::with_capacity(count),
        };
        while let Some(row) = rows.next().map_err(convert)? {
            one.values.clear();
            for index in 0..count {
                one.values.push(match row.get_ref(index).map_err(convert)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(int) => Value::Int(int),
                    ValueRef::Real(real) => Value::Real(real),
                    ValueRef::Text(text) => Value::Text(match std::str::from_utf8(text) {
                        Ok(text) => text.to_owned(),
                        Err(_) => String::from_utf8_lossy(text).into_owned(),
                    }),
                    ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                });
            }
            take(&mut one)?;
        }
        Ok(())
    }

    fn insert_id(&mut self, sql: &str, params: &[Value]) -> Result<i64, Error> {
        self.execute(sql, params)?;
        Ok(self.connection.last_insert_rowid())
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.connection.execute_batch(sql).map_err(convert)
    }
}

fn convert(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let text = error.to_string();
    if text.starts_with("no such table") {
        return Error::Missing(text);
    }
    let rusqlite::Error::SqliteFailure(failure, _) = &error else {
        return Error::Statement(text);
    };
    match failure.code {
        ErrorCode::ConstraintViolation => match failure.extended_code {
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
            | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY => Error::UniqueViolation(text),
            _ => Error::Constraint(text),
        },
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::Conflict(text),
        _ => Error::Statement(text),
    }
}
