//! One module for each resource; a handler turns a checked call into a version-free command, runs it, and answers a view.

pub mod aggregates;
pub mod extensions;
pub mod flavor_specs;
pub mod flavors;
pub mod groups;
pub mod hypervisors;
pub mod instance_actions;
pub mod keypairs;
pub mod limits;
pub mod migrations;
pub mod quotas;
pub mod server_actions;
mod server_filters;
pub mod server_metadata;
pub mod server_parts;
pub mod server_tags;
pub mod servers;
pub mod servers_create;
pub mod servers_update;
pub mod services;
pub mod usage;
pub mod zones;
