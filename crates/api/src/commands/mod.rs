//! Commands: what a request wants, without the version it was said in.

pub mod boot;
pub mod create_server;
mod dry_run;
pub mod editable;
mod kernels;
mod place;
pub(crate) mod resolve;
mod store;
mod wanted_devices;

pub use create_server::{CreateServer, files, password, trusted_certs};
pub use kernels::Kernels;
pub use place::{available_zone, known_host, zone_of};
pub use resolve::{fits, holds};
pub use store::{files_within_limits, sealed_files, within_limits};
