//! Every SQL statement of the image service.

pub mod figures;
mod images;
mod list;
mod members;
pub mod metadefs;
mod tasks;

pub use images::{delete, get, insert, save, set_active, set_status, settle, unsettled, with_data};
pub use list::{Comparison, Filter, ListQuery, Sort, SortKey, list};
pub use members::{add_member, member, members, remove_member, set_member_status};

pub use tasks::{add_task, end_task, task_by_id, tasks, tasks_of_image};

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
        name: "tasks",
        sql: include_str!("migrations/0002_tasks.sql"),
    },
    Migration {
        version: 3,
        name: "metadefs",
        sql: include_str!("migrations/0003_metadefs.sql"),
    },
];

#[cfg(test)]
mod tests;
