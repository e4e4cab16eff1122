//! Runs the flows, answers the agents, keeps the view of the hosts.
//!
//! `flows/` holds one file per flow: read `flows/build.rs` to follow a server from its acceptance to its first
//! second. `agents` is the conductors' side of the agent protocol. `view` keeps what schedulers decide from.

pub mod addresses;
pub mod agents;
pub mod bells;
pub mod confirmations;
mod disks;
pub mod drift;
pub mod due;
pub mod flows;
pub mod grown;
pub mod guests;
mod neighbours;
pub mod newcomers;
pub mod notifications;
pub mod offload;
pub mod on_hosts;
pub mod outbox;
mod pulse;
pub mod questions;
pub mod reclaim;
pub mod reconcile;
mod under_way;
pub mod unfilled;
pub mod view;

pub use neighbours::Neighbours;
