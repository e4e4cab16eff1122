//! The embedded network service: the Networking API v2.0 on its own tables, and the wanted state that the agents on the
//! hosts realise ([`types::network_wanted`]).
//!
//! [`Service::router`] is the API with tokens; [`Service::agent_router`] is what agents ask, without tokens, and must only
//! be served on a private socket. `schema` holds the attribute tables, `rules` the policies, `db` all SQL.

mod agent;
mod api;
mod bootstrap;
mod check;
mod config;
mod db;
mod doc;
mod edge;
mod fault;
mod rules;
mod schema;
mod service;
mod tags;
mod wanted;
mod work;

pub use bootstrap::Bootstrapped;
pub use config::Config;
pub use db::figures::figures;
pub use service::{Error, PortEvent, Service};

#[cfg(test)]
mod tests;
