//! A name that one program at a time holds, among all that use the database.

use crate::{Dialect, Error, Store, Tx, mysql_engine};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a program waits for one that holds the name.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(50);
/// Who waits for longer says so, and says it again after as long as that has been.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Holds a name until it is dropped. The database frees it when the program ends, however that ends.
#[must_use]
pub struct Held {
    /// Closing it unlocks it.
    _file: Option<File>,
    /// The session waits at the other end.
    _session: Option<Sender<()>>,
}

impl Store {
    /// Waits until nobody holds this name in this database, and holds it. What the programs do meanwhile may be many units of
    /// work, in other databases too. It takes a connection of this store until it is given back, so on PostgreSQL and MySQL
    /// the store is best one of its own.
    ///
    /// # Errors
    /// The database's, and when somebody holds the name for ten minutes.
    pub async fn hold(&self, name: &'static str) -> Result<Held, Error> {
        if self.dialect() == Dialect::Sqlite {
            return self.hold_file(name).await;
        }
        let (told, taken) = oneshot::channel();
        let (release, released) = channel();
        let mut session = Session {
            name,
            told: Some(told),
            released,
        };
        let store = self.clone();
        let holding = tokio::spawn(async move { store.read(move |tx| session.run(tx)).await });
        if taken.await.is_ok() {
            return Ok(Held {
                _file: None,
                _session: Some(release),
            });
        }
        match holding.await {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::Closed),
        }
    }

    /// SQLite's database is a file: whoever uses it can lock another one beside it.
    async fn hold_file(&self, name: &str) -> Result<Held, Error> {
        let database = self.read(|tx| -> Result<String, Error> {
            let sql = "SELECT file FROM pragma_database_list WHERE name = 'main'";
            tx.query_one(sql, &[])?.get(0)
        });
        let mut path = PathBuf::from(database.await?).into_os_string();
        path.push(format!("-{name}"));
        let path = PathBuf::from(path);
        let mut waiting = Waiting::new();
        loop {
            if let Some(mut file) = lock(&path)? {
                // For those who wait. Whether they can read it changes nothing.
                let _ = file.set_len(0);
                let _ = write!(file, "{}", std::process::id());
                return Ok(Held {
                    _file: Some(file),
                    _session: None,
                });
            }
            if waiting.tells() {
                waiting.tell(name, &holder_of(&path));
            }
            if waiting.is_over() {
                return Err(held(name, &holder_of(&path)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// A wait for a name that another program holds.
struct Waiting {
    since: Instant,
    told: Duration,
}

impl Waiting {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            told: TOLD_AFTER,
        }
    }

    /// Whether it is time to say who is waited for.
    fn tells(&self) -> bool {
        self.since.elapsed() >= self.told
    }

    fn tell(&mut self, name: &str, holder: &str) {
        let waited = self.since.elapsed();
        self.told = waited * 2;
        tracing::warn!(
            name,
            holder,
            seconds = waited.as_secs(),
            "another program does what one does at a time; waiting until it has ended"
        );
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= PATIENCE
    }
}

fn held(name: &str, holder: &str) -> Error {
    Error::Statement(format!("another program holds '{name}': {holder}"))
}

/// Locks a file, unless somebody has it.
fn lock(path: &Path) -> Result<Option<File>, Error> {
    let failed = |error: std::io::Error| Error::Unreachable(format!("{}: {error}", path.display()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    // Whoever owns the folder opens it later, also where root was first.
    if let Some(folder) = path.parent().and_then(|folder| folder.metadata().ok()) {
        let owner = (Some(folder.uid()), Some(folder.gid()));
        let _ = std::os::unix::fs::chown(path, owner.0, owner.1);
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// What a session of a server does that holds a name.
struct Session {
    name: &'static str,
    told: Option<oneshot::Sender<()>>,
    released: Receiver<()>,
}

impl Session {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let postgres = tx.dialect() == Dialect::Postgres;
        if postgres {
            stay(tx)?;
        }
        let mut waiting = Waiting::new();
        while !self.take(tx)? {
            // Whoever wanted it may have gone already.
            if self.told.as_ref().is_some_and(oneshot::Sender::is_closed) {
                return Ok(());
            }
            if waiting.tells() {
                waiting.tell(self.name, &holder(tx, self.name)?);
            }
            if waiting.is_over() {
                return Err(held(self.name, &holder(tx, self.name)?));
            }
            std::thread::sleep(AGAIN);
        }
        if postgres {
            self.wait();
            // It is given back as the transaction ends.
            return Ok(());
        }
        // MySQL does not know it, and needs none.
        let _ = tx.batch(mysql_engine::PATIENT);
        self.wait();
        let _ = tx.batch(mysql_engine::IMPATIENT);
        let sql = format!("SELECT RELEASE_LOCK({MYSQL_NAME})");
        tx.query(&sql, &[self.name.into()]).map(drop)
    }

    /// Takes the name if nobody has it.
    fn take(&self, tx: &mut Tx<'_>) -> Result<bool, Error> {
        let (sql, name) = match tx.dialect() {
            // Of this database, and until the transaction ends.
            Dialect::Postgres => (
                "SELECT CAST(CAST(pg_try_advisory_xact_lock(hashtext(?)) AS INTEGER) AS BIGINT)"
                    .to_owned(),
                postgres_name(self.name),
            ),
            _ => (
                format!("SELECT GET_LOCK({MYSQL_NAME}, 0)"),
                self.name.to_owned(),
            ),
        };
        let got: Option<i64> = tx.query_one(&sql, &[name.into()])?.get(0)?;
        Ok(got == Some(1))
    }

    /// Says that the name is held, and waits until it shall not be any more. Whoever wanted it may have gone already.
    fn wait(&mut self) {
        if let Some(told) = self.told.take() {
            let _ = told.send(());
        }
        let _ = self.released.recv();
    }
}

/// Who holds a name, as far as the server says.
pub(crate) fn holder(tx: &mut Tx<'_>, name: &str) -> Result<String, Error> {
    let (sql, name) = match tx.dialect() {
        Dialect::Postgres => (
            "SELECT CAST(a.pid AS BIGINT), CAST(a.usename AS TEXT) || ' of ' || COALESCE(host(a.client_addr), 'its machine') \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND (CAST(l.classid AS BIGINT) << 32 | CAST(l.objid AS BIGINT)) = CAST(hashtext(?) AS BIGINT)"
                .to_owned(),
            postgres_name(name),
        ),
        _ => (
            format!(
                "SELECT id, CONCAT(user, ' of ', host) FROM information_schema.processlist WHERE id = IS_USED_LOCK({MYSQL_NAME})"
            ),
            name.to_owned(),
        ),
    };
    let found = tx.query(&sql, &[name.into()])?;
    let Some(row) = found.first() else {
        return Ok("a session that the database server does not show".to_owned());
    };
    let (session, who): (i64, String) = (row.get(0)?, row.get(1)?);
    Ok(format!("session {session} of the database server ({who})"))
}

/// Who has a file locked.
pub(crate) fn holder_of(path: &Path) -> String {
    let process = std::fs::read_to_string(path).unwrap_or_default();
    format!("process {process}, by a lock on {}", path.display())
}

/// The name among the locks of a MySQL server: they are the whole server's, so it has the database in it.
const MYSQL_NAME: &str = "CONCAT('kilonova-', ?, '-', LEFT(MD5(DATABASE()), 16))";

fn postgres_name(name: &str) -> String {
    format!("kilonova-{name}")
}

/// The transaction does nothing for as long as the name is held, and the name is lost with it: no server ends it for that.
fn stay(tx: &mut Tx<'_>) -> Result<(), Error> {
    // The second is of PostgreSQL 17.
    let sql = "SELECT set_config(name, '0', true) FROM pg_settings \
               WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')";
    tx.query(sql, &[]).map(drop)
}
