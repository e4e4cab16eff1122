//! The embedded key manager: the Key Manager API v1 (Barbican's) over a few tables. Payloads are sealed before they are
//! stored (`vault`), with keys of one file that the database never sees.
//!
//! A request goes `edge` (paths, tokens, versions) -> `api` (handlers) -> `db` (SQL). Usable without the rest of the
//! house.

mod api;
mod check;
mod config;
mod db;
mod edge;
mod fault;
mod model;
mod query;
mod rules;
mod service;
mod vault;
mod version;
mod view;

pub use config::Config;
pub use service::{Error, Service};
pub use vault::BadKey;

#[cfg(test)]
mod tests;
