//! What happens to servers, told as it happens: a stream of events for each project (`GET /events`), and answers that
//! wait for a state (`Prefer: wait=60; for=ACTIVE` on `GET /servers/{id}`). Both stand beside Nova's API.

mod hub;
mod preference;
mod stream;
mod wait;

pub use hub::Hub;
pub use stream::{KEYS, PATH, POLICIES, serve};
pub use wait::{ENDS, Wish, answer, may_wait};
