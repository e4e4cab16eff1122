//! The API as a client sees it: requests through the router, on a fresh database.
#![allow(clippy::unwrap_used)]

mod harness;
mod cloud;
mod edge;
