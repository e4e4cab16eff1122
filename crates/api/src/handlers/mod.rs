//! One module for each resource; a handler turns a checked call into a version-free command, runs it, and answers a view.

pub mod aggregates;
pub mod extensions;
pub mod flavor_specs;
pub mod flavors;
pub mod groups;
pub mod keypairs;
pub mod limits;
pub mod quotas;
pub mod zones;
