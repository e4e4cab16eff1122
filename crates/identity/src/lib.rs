//! The embedded identity service: the OpenStack Identity API v3 (Keystone) on its own database.
//!
//! Tokens are fernet documents; what they mean is looked up and cached until anything changes that a token may
//! depend on, so that a revoked right is gone at once. [`Service`] is the way in: open it, bootstrap a fresh cloud,
//! serve its router, and give it to other services as their [`web::auth::TokenValidator`].

mod access;
mod auth;
mod bootstrap;
mod db;
mod fault;
mod keys;
mod password;
mod policies;
mod routes;
mod service;
mod signature;
mod token;

pub use bootstrap::{Bootstrap, Bootstrapped, DEFAULT_DOMAIN, Endpoint, ServiceUser};
pub use db::figures::figures;
pub use keys::{KeyError, Keyring, are_in as keys_are_in};
pub use service::{Config, Error, Service};

impl Service {
    /// The complete API, as mounted at the root of its port (5000).
    pub fn router(&self) -> axum::Router {
        routes::router(self)
    }
}
