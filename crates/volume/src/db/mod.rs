//! Every SQL statement of the volume service.

pub mod figures;
mod records;
mod settings;

pub use records::{
    Record, attachments_of, count, delete, exported, find, find_one, get, insert, remove_expired,
    save, sum,
};
pub use settings::{
    ServiceState, add_access, default_type, default_types, grant_list, projects_with_access,
    quotas, remove_access, reset_quotas, service_state, set_default_type, set_quota,
    set_service_state, unset_default_type,
};

use sql::Migration;

/// The schema of this component.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        sql: include_str!("migrations/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "attachments_by_server",
        sql: include_str!("migrations/0002_attachments_by_server.sql"),
    },
];

#[cfg(test)]
mod tests;
