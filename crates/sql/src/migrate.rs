//! Numbered schema changes, applied once each and recorded in the table `schema_migrations`.

use crate::{Dialect, Error, Tx, Value};

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

/// Brings the schema of `component` up to the last of `migrations`.
pub(crate) fn run(tx: &mut Tx<'_>, component: &str, migrations: &[Migration]) -> Result<(), Error> {
    let dialect = tx.dialect();
    tx.batch(&dialect.ddl(TABLE))?;
    let done: i64 = tx
        .query_one("SELECT COALESCE(MAX(version), 0) FROM schema_migrations WHERE component = ?", &[component.into()])?
        .get(0)?;
    let newest = migrations.last().map_or(0, |migration| i64::from(migration.version));
    if done > newest {
        return Err(Error::Schema(format!(
            "{component} is at version {done}, this program knows {newest}: it was written by a newer release"
        )));
    }
    for migration in migrations.iter().filter(|migration| i64::from(migration.version) > done) {
        apply(tx, dialect, component, migration)?;
    }
    Ok(())
}

fn apply(tx: &mut Tx<'_>, dialect: Dialect, component: &str, migration: &Migration) -> Result<(), Error> {
    for statement in statements(migration.sql) {
        tx.batch(&dialect.ddl(&statement))
            .map_err(|error| Error::Schema(format!("{component} {} {}: {error}\n{statement}", migration.version, migration.name)))?;
    }
    let row: [Value; 3] = [component.into(), migration.version.into(), migration.name.into()];
    tx.execute("INSERT INTO schema_migrations (component, version, name) VALUES (?, ?, ?)", &row)?;
    Ok(())
}

/// The statements of a file, without comment lines.
fn statements(sql: &str) -> Vec<String> {
    let without_comments: String =
        sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join("\n");
    without_comments.split(';').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}
