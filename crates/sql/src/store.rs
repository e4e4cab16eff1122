//! The handle that every component holds.

use crate::{Dialect, Error, Migration, Tx, migrate, mysql_engine, postgres_engine, sqlite_engine};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How to open a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections for reads (SQLite), or for everything (PostgreSQL, MySQL).
    pub connections: usize,
    /// Whether a commit waits until it is on the disk (SQLite). Only tests turn it off.
    pub durable: bool,
    /// Whether [`Store::migrate`] changes the schema. If not, it refuses one that is not up to date, for programs that
    /// share a database which one of them migrates.
    pub migrates: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4,
            durable: true,
            migrates: true,
        }
    }
}

/// A database. Clones share the connections; when the last one is dropped they close.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    #[cfg(any(test, feature = "testing"))]
    notes: Option<crate::testing::Notes>,
}

/// How many things may be waited for in turn at once; names that fall together wait for each other needlessly.
const TURNS: usize = 64;

struct Inner {
    pool: Pool,
    dialect: Dialect,
    turns: [tokio::sync::Mutex<()>; TURNS],
    migrates: bool,
    /// Removes a temporary database when the store goes.
    _folder: Option<tempfile::TempDir>,
}

enum Pool {
    Sqlite(sqlite_engine::Pool),
    #[cfg(any(test, feature = "testing"))]
    Simulated(Arc<crate::simulated::Line>),
    Postgres(postgres_engine::Pool),
    Mysql(mysql_engine::Pool),
}

/// What a unit of work does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads whatever it likes.
    Read,
    /// Reads a few rows by their keys.
    Look,
    /// The same with one query, most likely.
    LookOnce,
    /// May write.
    Write,
    /// May write, and decides by nothing but the rows that it changes.
    WriteOwn,
}

impl Access {
    /// May it write?
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::WriteOwn)
    }
}

/// A unit of work as the engines see it: run it in a transaction, then say how it ended.
pub(crate) trait Job: Send {
    /// Runs the closure. `Ok(true)`: commit; `Ok(false)`: roll back, with the answer kept; `Err`: run again.
    fn attempt(&mut self, tx: &mut Tx<'_>) -> Result<bool, Error>;
    /// The transaction was committed or rolled back as the attempt asked: deliver the answer.
    fn finish(self: Box<Self>);
    /// The database failed: deliver this instead.
    fn fail(self: Box<Self>, error: Error);
}

struct Unit<T, E, F> {
    work: F,
    outcome: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
    #[cfg(any(test, feature = "testing"))]
    notes: Option<crate::testing::Notes>,
}

impl<T, E, F> Job for Unit<T, E, F>
where
    T: Send,
    E: From<Error> + Send,
    F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn attempt(&mut self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        #[cfg(any(test, feature = "testing"))]
        {
            tx.notes.clone_from(&self.notes);
        }
        let outcome = (self.work)(tx);
        if tx.retry {
            return Err(Error::Conflict(
                "the unit of work met a conflict".to_owned(),
            ));
        }
        let commit = outcome.is_ok();
        self.outcome = Some(outcome);
        Ok(commit)
    }

    fn finish(self: Box<Self>) {
        let outcome = self.outcome.unwrap_or_else(|| Err(Error::Closed.into()));
        // The one who asked may have gone away; the work is done all the same.
        let _ = self.answer.send(outcome);
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.answer.send(Err(error.into()));
    }
}

impl Store {
    /// Opens `sqlite:///absolute/path`, `postgres://user:password@host:port/database` or `mysql://...`.
    ///
    /// With `?sslmode=verify-full&sslrootcert=FILE` (PostgreSQL) or `?ssl_ca=FILE` (MySQL) by TLS, to a server that has a
    /// certificate of that authority for the host. `sslcert` and `sslkey`, or `ssl_cert` and `ssl_key`, are what a client
    /// shows of its own.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_with(url, Options::default()).await
    }

    /// Opens a database with options.
    pub async fn open_with(url: &str, options: Options) -> Result<Self, Error> {
        let (url, migrates) = (url.to_owned(), options.migrates);
        let opened = tokio::task::spawn_blocking(move || connect(&url, &options)).await;
        let (pool, dialect) = opened.map_err(|error| Error::Unreachable(error.to_string()))??;
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                dialect,
                turns: turns(),
                migrates,
                _folder: None,
            }),
            #[cfg(any(test, feature = "testing"))]
            notes: None,
        })
    }

    /// Another handle on the same connections whose statements are written down.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn noting(&self, notes: &crate::testing::Notes) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            notes: Some(notes.clone()),
        }
    }

    /// An empty SQLite database in a temporary folder that goes away with the store. For tests.
    pub async fn temporary() -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|error| Error::Unreachable(error.to_string()))?;
        let path = folder.path().join("test.db");
        let options = Options {
            connections: 2,
            durable: false,
            ..Options::default()
        };
        let pool = Pool::Sqlite(sqlite_engine::Pool::open(&path, &options)?);
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                dialect: Dialect::Sqlite,
                turns: turns(),
                migrates: true,
                _folder: Some(folder),
            }),
            #[cfg(any(test, feature = "testing"))]
            notes: None,
        })
    }

    /// A store at the end of a simulated line.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn simulated(line: Arc<crate::simulated::Line>) -> Self {
        let inner = Inner {
            pool: Pool::Simulated(line),
            dialect: Dialect::Sqlite,
            turns: turns(),
            migrates: true,
            _folder: None,
        };
        Self {
            inner: Arc::new(inner),
            notes: None,
        }
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Brings the schema of a component up to date. Programs that do so at the same time wait for each other. No limit that an
    /// operator has set for statements or waits counts for it.
    ///
    /// On MySQL a schema statement commits at once, so a migration that fails there leaves what it did so far; the
    /// next try goes on after the last statement that worked.
    ///
    /// # Errors
    /// Besides the database's: a schema of a newer release, or, for a store that does not migrate, of an older one.
    pub async fn migrate(
        &self,
        component: &'static str,
        migrations: &'static [Migration],
    ) -> Result<(), Error> {
        if !self.inner.migrates {
            return self
                .read(move |tx| migrate::check(tx, component, migrations))
                .await;
        }
        let mut tries = 0;
        // Two programs that make the first table at once: one of them is refused by PostgreSQL, and finds it next time.
        while let Err(error) = self.write(migrate::prepare).await {
            tries += 1;
            if tries > 5 || !matches!(error, Error::Exists(_) | Error::UniqueViolation(_)) {
                return Err(error);
            }
        }
        while self
            .write(move |tx| migrate::step(tx, component, migrations))
            .await?
        {}
        Ok(())
    }

    /// Runs a unit of work that only reads, on a consistent snapshot.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, Access::Read).await
    }

    /// As [`Store::read`], for a few rows by their keys: where that takes less time than to wake another thread (SQLite), it
    /// is done by the one that asks.
    pub async fn look<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, Access::Look).await
    }

    /// As [`Store::look`], for what is mostly one `SELECT`: PostgreSQL is asked it without a transaction, whose beginning and
    /// end take longer than many a query. Where a second one follows, all is read again in a transaction.
    pub async fn look_once<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, Access::LookOnce).await
    }

    /// Runs a unit of work that may write. `Ok` is answered after the commit; `Err` rolls back.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, Access::Write).await
    }

    /// As [`Store::write`], for a unit of work whose decisions rest on rows that it also changes, and on nothing else that
    /// it reads: that others have changed such a row meanwhile is found out all the same. On PostgreSQL it is spared the
    /// watch over what it reads, which costs time and, since whole pages of indexes are watched, many a unit that has to be
    /// run again for nothing. (PostgreSQL documentation, "Repeatable Read Isolation Level".) Two units that each change
    /// what the other has read and not changed are not kept apart: where that counts, this is not for them.
    pub async fn write_own<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.submit(work, Access::WriteOwn).await
    }

    /// As [`Store::write`], after all units of this process that were given the same name: for those that read and change
    /// the same row, of which all but one would be rolled back and run again. Other processes are not waited for.
    pub async fn write_in_turn<T, E, F>(&self, name: &str, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        // SQLite has one writer.
        if self.inner.dialect == Dialect::Sqlite {
            return self.write(work).await;
        }
        let mut hasher = std::hash::DefaultHasher::new();
        name.hash(&mut hasher);
        let turn = (hasher.finish() % TURNS as u64) as usize;
        let _turn = self.inner.turns[turn].lock().await;
        self.write(work).await
    }

    async fn submit<T, E, F>(&self, work: F, access: Access) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, outcome) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Unit {
            work,
            outcome: None,
            answer,
            #[cfg(any(test, feature = "testing"))]
            notes: self.notes.clone(),
        });
        match &self.inner.pool {
            Pool::Sqlite(pool) => pool.submit(job, access),
            #[cfg(any(test, feature = "testing"))]
            Pool::Simulated(line) => line.submit(job, access.writes()),
            Pool::Postgres(pool) => pool.submit(job, access),
            Pool::Mysql(pool) => pool.submit(job, access),
        }
        outcome.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }
}

fn turns() -> [tokio::sync::Mutex<()>; TURNS] {
    std::array::from_fn(|_| tokio::sync::Mutex::new(()))
}

fn connect(url: &str, options: &Options) -> Result<(Pool, Dialect), Error> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| Error::Url(format!("'{}' has no scheme", redact(url))))?;
    match scheme {
        "sqlite" => {
            let path = std::path::Path::new(rest);
            Ok((
                Pool::Sqlite(sqlite_engine::Pool::open(path, options)?),
                Dialect::Sqlite,
            ))
        }
        "postgres" | "postgresql" => Ok((
            Pool::Postgres(postgres_engine::Pool::open(
                &format!("postgres://{rest}"),
                options,
            )?),
            Dialect::Postgres,
        )),
        "mysql" | "mariadb" => Ok((
            Pool::Mysql(mysql_engine::Pool::open(
                &format!("mysql://{rest}"),
                options,
            )?),
            Dialect::Mysql,
        )),
        other => Err(Error::Url(format!(
            "'{other}' is not sqlite, postgres or mysql"
        ))),
    }
}

/// The URL without its password, for messages.
fn redact(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}***{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    }
}
