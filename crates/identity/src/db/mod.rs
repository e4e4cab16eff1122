//! Every SQL statement of the identity service.

pub mod access;
pub mod app_credentials;
pub mod figures;
pub mod grants;
pub mod kinds;
pub mod records;

use sql::{Error, Migration, Tx};

/// The schema, step by step.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        sql: include_str!("migrations/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "policies",
        sql: include_str!("migrations/0002_policies.sql"),
    },
];

/// Counts the changes after which a token may mean something else. Everything derived from tokens is kept only
/// as long as this number stays.
pub fn generation(tx: &mut Tx<'_>) -> Result<i64, Error> {
    match tx.query_opt(
        "SELECT number FROM identity_state WHERE name = ?",
        &["generation".into()],
    )? {
        Some(row) => row.get(0),
        None => Ok(0),
    }
}

/// Raises the generation, in the transaction of the change itself.
pub fn next_generation(tx: &mut Tx<'_>) -> Result<i64, Error> {
    let next = generation(tx)? + 1;
    tx.upsert(
        "identity_state",
        &["name"],
        &[("name", "generation".into()), ("number", next.into())],
    )?;
    Ok(next)
}

#[cfg(test)]
mod tests;
