//! The Networking API v2.0.

pub mod addressing;
pub mod bindings;
pub mod floatingips;
pub mod listing;
pub mod looks;
pub mod networks;
pub mod ports;
pub mod request;
pub mod routers;
pub mod security_groups;
pub mod services;
pub mod subnetpools;
pub mod subnets;
pub mod topology;
pub mod trunks;
pub mod view;
