//! The Placement API (microversions 1.0 to 1.39) over the compute database's inventories and allocations.
//!
//! Compute's own claims go straight to the same tables ([`db::placement`]); this crate lets administrators and stock
//! clients see them, and change inventories and allocations. Providers are the compute nodes and have no children.
//! A provider's
//! aggregates are the host aggregates of its host. What is not built yet (custom classes and traits, changing traits
//! and aggregates of providers, reshaping) answers 501.

mod allocations;
mod candidates;
mod dispatch;
mod fault;
mod inventories;
mod names;
mod policies;
mod providers;
mod query;
mod routes;
mod usages;
mod version;
mod view;

use std::sync::Arc;
use web::auth::TokenValidator;

/// How the service runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a request body at most.
    pub max_body: usize,
    /// Overrides of the policies, in YAML.
    pub policy_overrides: Option<String>,
    /// The identity service's public URL, for the `WWW-Authenticate` header of a 401.
    pub identity_url: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body: 4 << 20,
            policy_overrides: None,
            identity_url: "http://127.0.0.1:5000/v3".to_owned(),
        }
    }
}

/// The service cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The schema cannot be brought up to date.
    #[error(transparent)]
    Database(#[from] sql::Error),
    /// The overrides make no sense.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
}

struct Inner {
    store: sql::Store,
    tokens: Arc<dyn TokenValidator>,
    enforcer: policy::Enforcer,
    config: Config,
}

/// The Placement service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl Service {
    /// Opens the service on the compute database.
    pub async fn open(
        store: sql::Store,
        config: Config,
        tokens: Arc<dyn TokenValidator>,
    ) -> Result<Self, OpenError> {
        db::migrate(&store).await?;
        let mut enforcer = policy::Enforcer::new(policies::RULES.iter().cloned())?;
        if let Some(overrides) = &config.policy_overrides {
            enforcer = enforcer.with_overrides(overrides)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                tokens,
                enforcer,
                config,
            }),
        })
    }

    /// The API, to be mounted at the root of its port.
    pub fn router(&self) -> axum::Router {
        dispatch::router(self.clone())
    }
}

#[cfg(test)]
mod tests;
