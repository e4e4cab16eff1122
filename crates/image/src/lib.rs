//! The embedded image service: the Image API v2 (Glance's) over a folder of files and a few tables.
//!
//! A request goes `api` (routes, views) -> `access` (policies) -> `db` (SQL) and `files` (data). Data are never
//! believed: [`formats::inspect`] looks at every upload. Usable without the rest of the house.

pub mod access;
mod api;
mod db;
mod fault;
mod files;
mod metadef_schema;
pub mod model;
mod patch;
mod query;
mod recovery;
mod schema;
mod service;
mod upload;
mod work;

pub use db::figures::figures;
pub use service::{Config, Error, Registration, Service};

#[cfg(test)]
mod tests;
