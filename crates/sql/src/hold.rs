//! A name that one program at a time holds, among all that use the database.

use crate::{Dialect, Error, Store, Tx, mysql_engine, postgres_engine};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a program waits for one that holds the name.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two tries, where there is no queue to wait in.
const AGAIN: Duration = Duration::from_millis(50);

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
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(file) = lock(&path)? {
                return Ok(Held {
                    _file: Some(file),
                    _session: None,
                });
            }
            if tokio::time::Instant::now() >= until {
                return Err(Error::Statement(format!(
                    "another program holds {}",
                    path.display()
                )));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
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
        match tx.dialect() {
            Dialect::Postgres => {
                tx.batch(postgres_engine::PATIENT)?;
                let patience = format!("{}s", PATIENCE.as_secs());
                tx.query(
                    "SELECT set_config('lock_timeout', ?, true)",
                    &[patience.into()],
                )?;
                // Of this database, and until the transaction ends.
                let sql = "SELECT CAST(pg_advisory_xact_lock(hashtext(?)) AS TEXT)";
                tx.query(sql, &[format!("kilonova-{}", self.name).into()])?;
                self.wait();
                Ok(())
            }
            _ => {
                // Of the whole server, so it has the database in it.
                const NAME: &str = "CONCAT('kilonova-', ?, '-', LEFT(MD5(DATABASE()), 16))";
                let got: Option<i64> = tx
                    .query_one(
                        &format!("SELECT GET_LOCK({NAME}, ?)"),
                        &[self.name.into(), (PATIENCE.as_secs() as i64).into()],
                    )?
                    .get(0)?;
                if got != Some(1) {
                    let held = format!("another program holds '{}'", self.name);
                    return Err(Error::Statement(held));
                }
                // MySQL does not know it, and needs none.
                let _ = tx.batch(mysql_engine::PATIENT);
                self.wait();
                let _ = tx.batch(mysql_engine::IMPATIENT);
                let sql = format!("SELECT RELEASE_LOCK({NAME})");
                tx.query(&sql, &[self.name.into()]).map(drop)
            }
        }
    }

    /// Says that the name is held, and waits until it shall not be any more. Whoever wanted it may have gone already.
    fn wait(&mut self) {
        if let Some(told) = self.told.take() {
            let _ = told.send(());
        }
        let _ = self.released.recv();
    }
}
