//! The agent on a host: pulls work from a conductor, makes it so on the hypervisor, and says what it sees.
//!
//! The agent has no credentials and no database. It asks a conductor for work over one connection (a socket, or the
//! conductor's router in the same process), does each piece under the server's lock, and reports until the report was
//! taken. A small ledger on its disk remembers the highest epoch per task and the restarts that are done, so that work
//! which arrives again is not done again.

mod agent;
mod beats;
mod digests;
mod images;
mod ledger;
mod passage;
pub mod peers;

pub use agent::{Agent, LiveAction, LiveLimit, Settings};
pub use images::ImageCache;
pub use ledger::{Ledger, LedgerError};
