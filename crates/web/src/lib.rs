//! What the edges of all APIs share: the accept loop, addresses and versions that requests name, request ids, bounded bodies,
//! token authentication.
//!
//! No API's own fault format lives here: each edge renders its errors as its OpenStack project does.

pub mod address;
pub mod auth;
pub mod body;
pub mod client;
pub mod figures;
pub mod microversion;
pub mod request_id;
pub mod serve;
pub mod tls;
pub mod tracing_context;
pub mod tunnel;

pub use serve::{Listener, Peer, Stopping, serve};
