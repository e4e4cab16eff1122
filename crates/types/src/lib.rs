//! The words of the house: ids, states, times, versions and the documents that travel between processes.
//!
//! No I/O here, and nothing of async but `trace`; every other crate may use this one.

pub mod agent;
pub mod caller;
pub mod cpu_set;
pub mod device_names;
pub mod disks;
pub mod ids;
pub mod image_check;
pub mod image_properties;
pub mod microversion;
pub mod network_wanted;
pub mod server;
pub mod standard;
pub mod states;
pub mod time;
pub mod tpm;
pub mod trace;

pub use caller::Caller;
pub use ids::*;
pub use microversion::Microversion;
pub use states::{PowerState, TaskState, VmState};
pub use time::Timestamp;
pub use trace::Trace;
