//! Bodies of requests about servers.
use super::Schema;
/// Every schema of this module, for the test that compiles them.
#[cfg(test)]
pub const ALL: &[(&str, &Schema)] = &[];
