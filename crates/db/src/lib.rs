//! Every SQL statement of the compute services, one module per aggregate.
//!
//! Functions take an open transaction, so that callers decide what belongs together. All of them are plain
//! synchronous code; units of work are run by [`sql::Store`].

pub mod accept;
pub mod actions;
pub mod aggregates;
pub mod block_devices;
pub mod flavors;
pub mod grown;
pub mod guest_passwords;
pub mod hosts;
pub mod idempotency;
pub mod injected_files;
pub mod instances;
pub mod keypairs;
pub mod leftovers;
pub mod list;
pub mod migrations;
pub mod moves;
pub mod outbox;
pub mod placement;
pub mod placement_api;
pub mod placing;
pub mod purge;
pub mod questions;
pub mod quotas;
pub mod repair;
pub mod server_groups;
pub mod tags;
pub mod tasks;
pub mod unfinished;
pub mod usages;
pub mod work;

use sql::{Migration, Store};

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "core",
        sql: include_str!("migrations/0001_core.sql"),
    },
    Migration {
        version: 2,
        name: "api",
        sql: include_str!("migrations/0002_api.sql"),
    },
    Migration {
        version: 3,
        name: "life",
        sql: include_str!("migrations/0003_life.sql"),
    },
    Migration {
        version: 4,
        name: "guests",
        sql: include_str!("migrations/0004_guests.sql"),
    },
    Migration {
        version: 5,
        name: "moves",
        sql: include_str!("migrations/0005_moves.sql"),
    },
    Migration {
        version: 6,
        name: "block_devices",
        sql: include_str!("migrations/0006_block_devices.sql"),
    },
    Migration {
        version: 9,
        name: "roles",
        sql: include_str!("migrations/0009_roles.sql"),
    },
    Migration {
        version: 10,
        name: "lists",
        sql: include_str!("migrations/0010_lists.sql"),
    },
    Migration {
        version: 11,
        name: "outbox",
        sql: include_str!("migrations/0011_outbox.sql"),
    },
    Migration {
        version: 12,
        name: "leftovers",
        sql: include_str!("migrations/0012_leftovers.sql"),
    },
    Migration {
        version: 13,
        name: "trace",
        sql: include_str!("migrations/0013_trace.sql"),
    },
    Migration {
        version: 14,
        name: "worker_processes",
        sql: include_str!("migrations/0014_worker_processes.sql"),
    },
    Migration {
        version: 15,
        name: "newest",
        sql: include_str!("migrations/0015_newest.sql"),
    },
    Migration {
        version: 16,
        name: "usage",
        sql: include_str!("migrations/0016_usage.sql"),
    },
    Migration {
        version: 17,
        name: "fewer_indexes",
        sql: include_str!("migrations/0017_fewer_indexes.sql"),
    },
    Migration {
        version: 18,
        name: "waits",
        sql: include_str!("migrations/0018_waits.sql"),
    },
    Migration {
        version: 19,
        name: "passphrase",
        sql: include_str!("migrations/0019_passphrase.sql"),
    },
    Migration {
        version: 20,
        name: "grown_volumes",
        sql: include_str!("migrations/0020_grown_volumes.sql"),
    },
    Migration {
        version: 21,
        name: "owners",
        sql: include_str!("migrations/0021_owners.sql"),
    },
    Migration {
        version: 22,
        name: "deleted",
        sql: include_str!("migrations/0022_deleted.sql"),
    },
    Migration {
        version: 23,
        name: "purge",
        sql: include_str!("migrations/0023_purge.sql"),
    },
];

/// Brings the compute database's schema up to date.
pub async fn migrate(store: &Store) -> Result<(), sql::Error> {
    store.migrate("compute", MIGRATIONS).await
}

/// Reads a JSON document of a column.
fn document<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sql::Error> {
    serde_json::from_str(text)
        .map_err(|error| sql::Error::Column(format!("a stored document: {error}")))
}

/// Writes a JSON document for a column.
fn to_document<T: serde::Serialize>(value: &T) -> Result<String, sql::Error> {
    serde_json::to_string(value)
        .map_err(|error| sql::Error::Column(format!("a document to store: {error}")))
}

/// As much of a text as a column holds.
fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod migrations_tests;
#[cfg(test)]
mod plans_tests;
#[cfg(test)]
mod purge_tests;
#[cfg(test)]
mod tests;
