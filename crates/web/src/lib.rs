//! What the edges of all APIs share: the accept loop, request ids, bounded bodies, token authentication.
//!
//! No API's own fault format lives here: each edge renders its errors as its OpenStack project does.

pub mod auth;
pub mod body;
pub mod client;
pub mod figures;
pub mod request_id;
pub mod serve;
pub mod tls;
pub mod tracing_context;
pub mod tunnel;

pub use serve::{Listener, Peer, Stopping, serve};
