//! Every SQL statement of the image service.

mod images;
mod list;
mod members;

pub use images::{delete, get, insert, recover, save, set_active, set_status};
pub use list::{Comparison, Filter, ListQuery, Sort, SortKey, list};
pub use members::{add_member, member, members, remove_member, set_member_status};

use sql::Migration;

/// The schema of this component.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "initial",
    sql: include_str!("migrations/0001_initial.sql"),
}];

#[cfg(test)]
mod tests;
