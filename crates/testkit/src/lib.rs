//! TBD

pub use sql::testing::{TestStore, databases};
