//! What stands beside the Compute API: the metadata service of the guests, and the box that keeps secrets sealed
//! while they are stored.

pub mod metadata;
pub mod secrets;
