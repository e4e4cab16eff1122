//! Numbered schema changes, applied once each and recorded in the table `schema_migrations`.

use crate::{Dialect, Error, Tx, Value};
use std::cmp::Ordering;

/// One schema change of one component.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Counts from 1, without gaps.
    pub version: u32,
    /// What it does, for the record.
    pub name: &'static str,
    /// Portable statements separated by `;`.
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (component VARCHAR(64) NOT NULL, version BIGINT NOT NULL, \
     name VARCHAR(255) NOT NULL, PRIMARY KEY (component, version))";

/// How far a migration came on MySQL, where each schema statement commits at once: a program that dies in the middle
/// is continued by the next one.
const PROGRESS: &str = "CREATE TABLE IF NOT EXISTS schema_progress (component VARCHAR(64) NOT NULL, version BIGINT NOT NULL, \
     done BIGINT NOT NULL, PRIMARY KEY (component, version))";

/// Makes the table that the migrations are recorded in. A unit of work of its own: PostgreSQL must take the lock in
/// [`run`] before its transaction has looked at anything.
pub(crate) fn prepare(tx: &mut Tx<'_>) -> Result<(), Error> {
    let dialect = tx.dialect();
    tx.batch(&dialect.ddl(TABLE))?;
    if dialect == Dialect::Mysql {
        tx.batch(&dialect.ddl(PROGRESS))?;
    }
    Ok(())
}

/// Brings the schema of `component` up to the last of `migrations`. Programs that do so at once wait for each other.
pub(crate) fn run(tx: &mut Tx<'_>, component: &str, migrations: &[Migration]) -> Result<(), Error> {
    match tx.dialect() {
        // The batch that this is in has begun with BEGIN IMMEDIATE.
        Dialect::Sqlite => run_locked(tx, component, migrations),
        Dialect::Postgres => {
            // LOCK TABLE takes no snapshot, so what follows sees what the one before committed.
            tx.batch("LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")?;
            run_locked(tx, component, migrations)
        }
        Dialect::Mysql => {
            const NAME: &str = "CONCAT('kilonova-schema-', LEFT(MD5(DATABASE()), 16))";
            let got: Option<i64> = tx
                .query_one(&format!("SELECT GET_LOCK({NAME}, 120)"), &[])?
                .get(0)?;
            if got != Some(1) {
                return Err(Error::Schema(
                    "another program has been migrating for two minutes".to_owned(),
                ));
            }
            let outcome = run_locked(tx, component, migrations);
            let released = tx.query(&format!("SELECT RELEASE_LOCK({NAME})"), &[]);
            outcome.and(released.map(|_| ()))
        }
    }
}

/// Refuses a schema that is not the one these migrations make.
pub(crate) fn check(
    tx: &mut Tx<'_>,
    component: &str,
    migrations: &[Migration],
) -> Result<(), Error> {
    let done = match version(tx, component) {
        Ok(done) => done,
        // What cannot be asked may be down, or may never have been migrated.
        Err(Error::Missing(_)) => 0,
        Err(error) => return Err(error),
    };
    let newest = newest(migrations);
    match done.cmp(&newest) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(too_new(component, done, newest)),
        Ordering::Less => Err(Error::Schema(format!(
            "{component} is at version {done}, this program needs {newest}: run `kilonova db sync` first"
        ))),
    }
}

fn version(tx: &mut Tx<'_>, component: &str) -> Result<i64, Error> {
    tx.query_one(
        "SELECT COALESCE(MAX(version), 0) FROM schema_migrations WHERE component = ?",
        &[component.into()],
    )?
    .get(0)
}

fn newest(migrations: &[Migration]) -> i64 {
    migrations
        .last()
        .map_or(0, |migration| i64::from(migration.version))
}

fn too_new(component: &str, done: i64, newest: i64) -> Error {
    Error::Schema(format!(
        "{component} is at version {done}, this program knows {newest}: it was written by a newer release"
    ))
}

fn run_locked(tx: &mut Tx<'_>, component: &str, migrations: &[Migration]) -> Result<(), Error> {
    let (done, newest) = (version(tx, component)?, newest(migrations));
    if done > newest {
        return Err(too_new(component, done, newest));
    }
    for migration in migrations
        .iter()
        .filter(|migration| i64::from(migration.version) > done)
    {
        apply(tx, component, migration)?;
    }
    Ok(())
}

fn apply(tx: &mut Tx<'_>, component: &str, migration: &Migration) -> Result<(), Error> {
    let dialect = tx.dialect();
    let stepwise = dialect == Dialect::Mysql;
    let resumed = if stepwise {
        progress(tx, component, migration)?
    } else {
        None
    };
    for (index, statement) in (0i64..).zip(statements(migration.sql)) {
        if resumed.is_some_and(|done| index < done) {
            continue;
        }
        match tx.batch(&dialect.ddl(&statement)) {
            Ok(()) => {}
            // The one before died after this statement and before its record.
            Err(Error::Exists(_)) if resumed == Some(index) => {}
            Err(error) => {
                let Migration { version, name, .. } = migration;
                return Err(Error::Schema(format!(
                    "{component} {version} {name}: {error}\n{statement}"
                )));
            }
        }
        if stepwise {
            record_progress(tx, component, migration, index + 1)?;
        }
    }
    let row: [Value; 3] = [
        component.into(),
        migration.version.into(),
        migration.name.into(),
    ];
    tx.execute(
        "INSERT INTO schema_migrations (component, version, name) VALUES (?, ?, ?)",
        &row,
    )?;
    Ok(())
}

/// How many statements of a migration that was begun before are done; notes that it is begun now.
fn progress(tx: &mut Tx<'_>, component: &str, migration: &Migration) -> Result<Option<i64>, Error> {
    let sql = "SELECT done FROM schema_progress WHERE component = ? AND version = ?";
    let row = tx.query_opt(sql, &[component.into(), migration.version.into()])?;
    let Some(row) = row else {
        record_progress(tx, component, migration, 0)?;
        return Ok(None);
    };
    row.get(0).map(Some)
}

fn record_progress(
    tx: &mut Tx<'_>,
    component: &str,
    migration: &Migration,
    done: i64,
) -> Result<(), Error> {
    let row = [
        ("component", component.into()),
        ("version", migration.version.into()),
        ("done", done.into()),
    ];
    tx.upsert("schema_progress", &["component", "version"], &row)
}

/// The statements of a file, without comment lines.
fn statements(sql: &str) -> Vec<String> {
    let without_comments: String = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n");
    without_comments
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}
