//! Every SQL statement of the key manager.

mod details;
mod list;
mod secrets;

pub use details::{
    acl, add_consumer, consumers, consumers_of, metadata, remove_acl, remove_consumer,
    remove_metadatum, set_acl, set_metadata, set_metadatum,
};
pub use list::{Bound, ListQuery, SORTS, Sort, TIMES, list};
pub use secrets::{delete, fill, get, insert, newest_sealed, remove_expired, sealed};

use sql::Migration;

/// The schema of this component.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    sql: include_str!("migrations/0001_initial.sql"),
}];

#[cfg(test)]
mod tests;
