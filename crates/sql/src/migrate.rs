//! Numbered schema changes, applied once each, in a transaction each, and recorded in the table `schema_migrations`.
//!
//! A change expands the schema: programs of the release before go on with it, and can be started on it. One that takes
//! something away says so in a line `-- contract`; from then on programs that do not know it refuse the schema.

use crate::mysql_engine::STATEMENT_TIME;
use crate::{Dialect, Error, Tx, Value, postgres_engine};
use std::collections::BTreeSet;

/// One schema change of one component.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Counts up from 1. Changes that come later may fill gaps: each is made where it was not made yet.
    pub version: u32,
    /// What it does, for the record.
    pub name: &'static str,
    /// Portable statements separated by `;`.
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (component VARCHAR(64) NOT NULL, version BIGINT NOT NULL, \
     name VARCHAR(255) NOT NULL, PRIMARY KEY (component, version))";

/// The changes that took something away.
const CONTRACTS: &str = "CREATE TABLE IF NOT EXISTS schema_contracts (component VARCHAR(64) NOT NULL, version BIGINT NOT NULL, \
     PRIMARY KEY (component, version))";

/// What takes something away that a program of the release before may use, or asks of it what it does not know.
const TAKES_AWAY: &[&str] = &[
    " DROP ",
    " RENAME ",
    " MODIFY ",
    " ALTER COLUMN ",
    " CHANGE ",
];

/// How far a migration came on MySQL, where each schema statement commits at once: a program that dies in the middle
/// is continued by the next one.
const PROGRESS: &str = "CREATE TABLE IF NOT EXISTS schema_progress (component VARCHAR(64) NOT NULL, version BIGINT NOT NULL, \
     done BIGINT NOT NULL, PRIMARY KEY (component, version))";

/// Makes the table that the migrations are recorded in. A unit of work of its own: PostgreSQL must take the lock in
/// [`step`] before its transaction has looked at anything.
pub(crate) fn prepare(tx: &mut Tx<'_>) -> Result<(), Error> {
    let dialect = tx.dialect();
    be_patient(tx)?;
    tx.batch(&dialect.ddl(TABLE))?;
    tx.batch(&dialect.ddl(CONTRACTS))?;
    if dialect == Dialect::Mysql {
        tx.batch(&dialect.ddl(PROGRESS))?;
    }
    Ok(())
}

/// Who migrates is waited for, and takes its time.
fn be_patient(tx: &mut Tx<'_>) -> Result<(), Error> {
    if tx.dialect() != Dialect::Postgres {
        return Ok(());
    }
    tx.batch(postgres_engine::PATIENT)?;
    // This takes no snapshot either.
    let version = tx.query_one("SHOW server_version_num", &[])?;
    match version.get::<String>(0)?.parse() {
        Ok(170_000..=i64::MAX) => tx.batch(postgres_engine::PATIENT_17),
        _ => Ok(()),
    }
}

/// Makes the next change of the schema of `component`; `true`: there are more. Programs that do so at once wait for each other.
///
/// Each change is a transaction of its own: what it locks is free again after it, and one that fails does not take those
/// before it back.
pub(crate) fn step(
    tx: &mut Tx<'_>,
    component: &str,
    migrations: &[Migration],
) -> Result<bool, Error> {
    match tx.dialect() {
        // The batch that this is in has begun with BEGIN IMMEDIATE.
        Dialect::Sqlite => step_locked(tx, component, migrations),
        Dialect::Postgres => {
            be_patient(tx)?;
            // LOCK TABLE takes no snapshot, so what follows sees what the one before committed.
            tx.batch("LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")?;
            step_locked(tx, component, migrations)
        }
        Dialect::Mysql => {
            const NAME: &str = "CONCAT('kilonova-schema-', LEFT(MD5(DATABASE()), 16))";
            let limit = statement_time(tx);
            set_statement_time(tx, limit, 0.0)?;
            let got: Option<i64> = tx
                .query_one(&format!("SELECT GET_LOCK({NAME}, 600)"), &[])?
                .get(0)?;
            let outcome = match got {
                Some(1) => {
                    let outcome = step_locked(tx, component, migrations);
                    let released = tx.let_go(&format!("SELECT RELEASE_LOCK({NAME})"));
                    outcome.and_then(|more| released.map(|()| more))
                }
                _ => Err(Error::Schema(
                    "another program has been changing the schema for ten minutes; wait until it has ended"
                        .to_owned(),
                )),
            };
            let limited = set_statement_time(tx, limit, limit.unwrap_or(0.0));
            outcome.and_then(|more| limited.map(|()| more))
        }
    }
}

/// How long a statement may take by the operator's choice, if there is such a limit.
fn statement_time(tx: &mut Tx<'_>) -> Option<f64> {
    let row = tx.query_one(&format!("SELECT @@{STATEMENT_TIME}"), &[]);
    row.and_then(|row| row.get(0))
        .ok()
        .filter(|&limit| limit > 0.0)
}

/// Sets another limit where there is one.
fn set_statement_time(tx: &mut Tx<'_>, limit: Option<f64>, seconds: f64) -> Result<(), Error> {
    match limit {
        Some(_) => tx.let_go(&format!("SET SESSION {STATEMENT_TIME} = {seconds}")),
        None => Ok(()),
    }
}

/// Refuses a schema that is not the one these migrations make.
pub(crate) fn check(
    tx: &mut Tx<'_>,
    component: &str,
    migrations: &[Migration],
) -> Result<(), Error> {
    be_patient(tx)?;
    let done = match versions(tx, component) {
        Ok(done) => done,
        // What cannot be asked may be down, or may never have been migrated.
        Err(Error::Missing(_)) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    usable(tx, component, &done, migrations)?;
    match pending(&done, migrations).next() {
        None => Ok(()),
        Some(_) => Err(Error::Schema(format!(
            "{component} is at version {}, this program needs {}: run `kilonova db sync` first",
            done.last().unwrap_or(&0),
            newest(migrations)
        ))),
    }
}

/// The changes that are made.
fn versions(tx: &mut Tx<'_>, component: &str) -> Result<BTreeSet<i64>, Error> {
    let sql = "SELECT version FROM schema_migrations WHERE component = ?";
    let rows = tx.query(sql, &[component.into()])?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn newest(migrations: &[Migration]) -> i64 {
    migrations
        .last()
        .map_or(0, |migration| i64::from(migration.version))
}

fn pending<'a>(
    done: &'a BTreeSet<i64>,
    migrations: &'a [Migration],
) -> impl Iterator<Item = &'a Migration> {
    let open = |migration: &&Migration| !done.contains(&i64::from(migration.version));
    migrations.iter().filter(open)
}

/// Whether this program can work with a schema that knows more changes than it does.
fn usable(
    tx: &mut Tx<'_>,
    component: &str,
    done: &BTreeSet<i64>,
    migrations: &[Migration],
) -> Result<(), Error> {
    let newest = newest(migrations);
    let Some(last) = done.last().filter(|last| **last > newest) else {
        return Ok(());
    };
    let sql = "SELECT version FROM schema_contracts WHERE component = ? AND version > ?";
    if tx
        .query_opt(sql, &[component.into(), newest.into()])?
        .is_some()
    {
        return Err(Error::Schema(format!(
            "{component} is at version {last}, this program knows {newest}: it was written by a newer release"
        )));
    }
    tracing::info!(
        component,
        last,
        newest,
        "the schema is a newer release's, and fits this one"
    );
    Ok(())
}

fn step_locked(tx: &mut Tx<'_>, component: &str, migrations: &[Migration]) -> Result<bool, Error> {
    let done = versions(tx, component)?;
    usable(tx, component, &done, migrations)?;
    let mut open = pending(&done, migrations);
    let Some(next) = open.next() else {
        return Ok(false);
    };
    apply(tx, component, next)?;
    Ok(open.next().is_some())
}

/// Whether a change says that it takes something away. One that does so and does not say it is refused.
fn contracts(component: &str, migration: &Migration) -> Result<bool, Error> {
    if migration
        .sql
        .lines()
        .any(|line| line.trim() == "-- contract")
    {
        return Ok(true);
    }
    for statement in statements(migration.sql) {
        let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = format!(" {} ", words.to_uppercase());
        // An older program inserts rows without the new column.
        let demands = words.contains(" ADD COLUMN ")
            && words.contains(" NOT NULL ")
            && !words.contains(" DEFAULT ");
        // Without an index they are slower, and no less right.
        let takes = !words.starts_with(" DROP INDEX ")
            && TAKES_AWAY.iter().any(|word| words.contains(word));
        if demands || takes {
            return Err(Error::Schema(format!(
                "{component} {} {}: programs of the release before cannot work with this; expand first, contract in a \
                 later release, in a change with the line `-- contract`\n{statement}",
                migration.version, migration.name
            )));
        }
    }
    Ok(false)
}

fn apply(tx: &mut Tx<'_>, component: &str, migration: &Migration) -> Result<(), Error> {
    let dialect = tx.dialect();
    let stepwise = dialect == Dialect::Mysql;
    if contracts(component, migration)? {
        let row = [
            ("component", component.into()),
            ("version", migration.version.into()),
        ];
        // Before the change: one that ends half-way may have taken something away already.
        tx.upsert("schema_contracts", &["component", "version"], &row)?;
    }
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
            Err(Error::Exists(_) | Error::Missing(_)) if resumed == Some(index) => {}
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
