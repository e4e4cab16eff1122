//! A fresh database of each kind for a test.
//!
//! SQLite is always there. PostgreSQL and MySQL/MariaDB are used when `KILONOVA_TEST_POSTGRES` and
//! `KILONOVA_TEST_MYSQL` hold the URL of a server and of a user who may create schemas and databases;
//! `scripts/test-databases.sh` starts such servers and sets both.

pub use crate::simulated::{Pace, Simulated, Way};
use crate::{Dialect, Error, Options, Store, Tx, Value};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// A database for one test, removed when this is dropped.
pub struct TestStore {
    /// `sqlite`, `postgres` or `mysql`, for messages.
    pub name: &'static str,
    /// The empty database.
    pub store: Store,
    url: String,
    _cleanup: Option<Cleanup>,
}

impl TestStore {
    /// Another handle on the same database with connections of its own, as another process would have.
    pub async fn again(&self) -> Store {
        let options = Options {
            connections: 4,
            durable: false,
            ..Options::default()
        };
        match Store::open_with(&self.url, options).await {
            Ok(store) => store,
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    /// Runs a statement as who may do anything on the server; nothing where there is none.
    #[cfg(test)]
    pub(crate) fn as_admin(&self, statement: &str) {
        if let Some(Cleanup::Server { dialect, admin, .. }) = &self._cleanup
            && let Err(error) = run_as_admin(*dialect, admin, statement)
        {
            panic!("{}: {error}: {statement}", self.name);
        }
    }

    /// The URL of the database.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A statement with its parameters.
pub type Statement = (String, Vec<Value>);

/// The statements that handles made by [`Store::noting`] ran, in order.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    statements: Arc<Mutex<Vec<Statement>>>,
}

impl Notes {
    pub(crate) fn add(&self, sql: &str, params: &[Value]) {
        let mut statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        statements.push((sql.to_owned(), params.to_vec()));
    }

    /// What was run since the last call.
    pub fn take(&self) -> Vec<Statement> {
        let mut statements = self
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut statements)
    }
}

/// The tables of which the database reads every row to answer a query, by its own account.
///
/// PostgreSQL and MySQL read a small table whole although there is an index; what counts is whether they need to.
pub fn scanned(tx: &mut Tx<'_>, sql: &str, params: &[Value]) -> Result<Vec<String>, Error> {
    let mut tables = Vec::new();
    match tx.dialect() {
        Dialect::Sqlite => {
            for row in tx.query(&format!("EXPLAIN QUERY PLAN {sql}"), params)? {
                let detail: String = row.get(3)?;
                let name = detail.strip_prefix("SCAN ").filter(|rest| {
                    // A whole index in the order that is asked for ends at the limit.
                    !rest.contains(" USING ") || !sql.contains("LIMIT")
                });
                tables.extend(
                    name.and_then(|rest| rest.split(' ').next())
                        .map(str::to_owned),
                );
            }
        }
        Dialect::Postgres => {
            tx.execute("SET LOCAL enable_seqscan = off", &[])?;
            for row in tx.query(&format!("EXPLAIN {sql}"), params)? {
                let line: String = row.get(0)?;
                if let Some((_, rest)) = line.split_once("Seq Scan on ") {
                    tables.extend(rest.split(' ').next().map(str::to_owned));
                }
            }
        }
        Dialect::Mysql => {
            // With a short page the order alone makes an index worth it, as it does in a long table.
            let mut params = params.to_vec();
            if let Some(last) = params.last_mut().filter(|_| sql.ends_with("LIMIT ?")) {
                *last = 1.into();
            }
            for row in tx.query(&format!("EXPLAIN {sql}"), &params)? {
                let (table, kind): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
                let possible: Option<String> = row.get(4)?;
                let key: Option<String> = row.get(5)?;
                if kind.as_deref() == Some("ALL") && possible.is_none() && key.is_none() {
                    tables.extend(table);
                }
            }
        }
    }
    Ok(tables)
}

/// A fresh database of each kind that is there. Prints which are skipped, once per process.
///
/// # Panics
/// When a database that the environment names cannot be used: a test must not pass because of that.
pub async fn databases() -> Vec<TestStore> {
    let mut stores = Vec::new();
    for kind in kinds() {
        stores.push(kind.database().await);
    }
    stores
}

/// A kind of database that tests can have.
#[derive(Clone)]
pub struct Kind {
    dialect: Dialect,
    admin: String,
}

impl std::fmt::Debug for Kind {
    /// The dialect only: the URL holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dialect.fmt(f)
    }
}

impl Kind {
    /// Whether it is the one that needs no server.
    pub fn is_sqlite(&self) -> bool {
        self.dialect == Dialect::Sqlite
    }

    /// A fresh database of this kind.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn database(&self) -> TestStore {
        match self.dialect {
            Dialect::Sqlite => sqlite().await,
            dialect => server(dialect, self.admin.clone()).await,
        }
    }
}

/// The kinds of databases that are there, SQLite first. Prints which are skipped, once per process.
pub fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind {
        dialect: Dialect::Sqlite,
        admin: String::new(),
    }];
    if std::env::var("KILONOVA_TEST_DBS").is_ok_and(|choice| choice == "sqlite") {
        return kinds;
    }
    for (dialect, variable) in [
        (Dialect::Postgres, "KILONOVA_TEST_POSTGRES"),
        (Dialect::Mysql, "KILONOVA_TEST_MYSQL"),
    ] {
        match std::env::var(variable) {
            Ok(admin) => kinds.push(Kind { dialect, admin }),
            Err(_) => tell_once(),
        }
    }
    kinds
}

fn tell_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        eprintln!(
            "SKIPPED: PostgreSQL and MySQL, for KILONOVA_TEST_POSTGRES and KILONOVA_TEST_MYSQL are not both set; \
             run under scripts/test-databases.sh, or set KILONOVA_TEST_DBS=sqlite to not see this"
        );
    });
}

async fn sqlite() -> TestStore {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let url = format!("sqlite://{}", folder.path().join("test.db").display());
    let store = open(&url).await;
    TestStore {
        name: "sqlite",
        store,
        url,
        _cleanup: Some(Cleanup::Folder { _folder: folder }),
    }
}

async fn server(dialect: Dialect, admin: String) -> TestStore {
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let create = match dialect {
        Dialect::Postgres => format!("CREATE SCHEMA {name}"),
        _ => format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
    };
    if let Err(error) = run_as_admin(dialect, &admin, &create) {
        panic!("the test database cannot be made: {error}");
    }
    let mut url = url::Url::parse(&admin).expect("the test server's URL can be read");
    let label = match dialect {
        Dialect::Postgres => {
            url.query_pairs_mut()
                .append_pair("options", &format!("-csearch_path={name}"));
            "postgres"
        }
        _ => {
            url.set_path(&name);
            "mysql"
        }
    };
    let url = url.to_string();
    let store = open(&url).await;
    TestStore {
        name: label,
        store,
        url,
        _cleanup: Some(Cleanup::Server {
            dialect,
            admin,
            name,
        }),
    }
}

/// How often the removal of a database is tried.
const DROPS: usize = 5;

async fn open(url: &str) -> Store {
    match Store::open_with(
        url,
        Options {
            connections: 4,
            durable: false,
            ..Options::default()
        },
    )
    .await
    {
        Ok(store) => store,
        Err(error) => panic!("the test database cannot be opened: {error}"),
    }
}

/// Runs a statement with the server's own client crate: on a thread, for the clients are synchronous.
fn run_as_admin(dialect: Dialect, admin: &str, statement: &str) -> Result<(), String> {
    let (admin, statement) = (admin.to_owned(), statement.to_owned());
    let thread = std::thread::spawn(move || match dialect {
        Dialect::Postgres => crate::postgres_engine::run_alone(&admin, &statement),
        _ => crate::mysql_engine::run_alone(&admin, &statement),
    });
    let ended = thread.join();
    ended.unwrap_or_else(|_| Err("the client panicked".to_owned()))
}

enum Cleanup {
    Folder {
        _folder: tempfile::TempDir,
    },
    Server {
        dialect: Dialect,
        admin: String,
        name: String,
    },
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let Self::Server {
            dialect,
            admin,
            name,
        } = self
        else {
            return;
        };
        let drop = match dialect {
            Dialect::Postgres => format!("DROP SCHEMA {name} CASCADE"),
            _ => format!("DROP DATABASE {name}"),
        };
        // What still ends in it may hold a table, and a deadlock may be broken here.
        for left in (0..DROPS).rev() {
            match run_as_admin(*dialect, admin, &drop) {
                Ok(()) => return,
                Err(error) if left > 0 || std::thread::panicking() => {
                    eprintln!("test database: {error}");
                }
                Err(error) => panic!("the test database cannot be removed: {error}"),
            }
        }
    }
}
