//! For tests: fresh databases, and a whole cloud in one process on simulated hosts.
//!
//! [`Cluster`] runs the real journal, flows, agents' desk and agents; simulated are the hypervisors ([`virt::sim`]) and
//! the neighbours ([`Network`]). Everything can be made to fail. After each story [`Cluster::audit`] says what is left
//! that should not be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepted;
mod asks;
mod audit;
mod beats;
mod cluster;
mod host;
mod images;
mod key_manager;
mod network;
mod options;
mod panics;
mod records;
mod told;
mod volumes;

pub use cluster::{Cluster, Conductor, PROJECT, Switch};
pub use compute::{LiveAction, LiveLimit};
pub use host::Host;
pub use images::Images;
pub use key_manager::KeyManager;
pub use network::{NETWORK, Network};
pub use options::Options;
pub use panics::{keep_panics, take_panics};
pub use sql::testing::{Kind, Pace, Simulated, TestStore, Way, databases, kinds};
pub use told::tell;
pub use volumes::Volumes;
