//! The embedded volume service: the Block Storage API v3 (Cinder's) over a folder of files and a few tables, with the
//! volumes served over NBD.
//!
//! A request goes `edge` (paths, tokens, versions) -> `api` (handlers) -> `db` (SQL). What takes time is a job: it is
//! written into the row that it changes, in the transaction that accepts the request, and done by `work` over
//! `storage` (files) and `nbd` (exports). A start goes on with every job that is in a row. Usable without the rest of
//! the house.

mod api;
mod check;
mod config;
mod db;
mod edge;
mod fault;
mod images;
mod listing;
mod model;
mod nbd;
mod quota;
mod rules;
mod service;
mod storage;
mod version;
mod view;
mod work;

pub use config::{Config, Serving};
pub use db::figures::figures;
pub use service::{Deps, Error, Servers, Service, Tokens};

#[cfg(test)]
pub(crate) mod tests;
