//! The API as a client sees it: requests through the router, on a fresh database.
#![allow(clippy::unwrap_used)]

mod action_matrix;
mod advisories;
mod alone;
mod answer_schemas;
mod answers;
mod cloud;
mod conformance;
mod consoles;
mod edge;
mod evacuate;
mod events;
mod front;
mod fuzz;
mod generate;
mod harness;
mod hosts;
mod lists;
mod live_migration;
mod microversions;
mod migrations;
mod openapi;
mod operation;
mod policies;
mod resize;
mod routes;
mod samples;
mod samples_sent;
mod server_create;
mod server_edit;
pub(crate) mod server_history;
mod server_life;
mod server_volumes;
mod shape;
mod shelve;
mod usage;
mod wire;
