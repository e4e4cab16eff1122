//! The service as a whole: what it needs, opening.

use crate::config::Config;
use crate::fault::Fault;
use crate::vault::{BadKey, Vault};
use crate::{db, edge, rules};
use axum::Router;
use policy::{Enforcer, PolicyError};
use sql::{Store, Tx};
use std::sync::Arc;
use web::auth::TokenValidator;

/// Why the service does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("key manager: {0}")]
    Sql(#[from] sql::Error),
    /// The policy text.
    #[error("key manager: {0}")]
    Policy(#[from] PolicyError),
    /// The file of master keys.
    #[error("key manager: {0}")]
    Key(#[from] BadKey),
    /// The file of master keys is another cloud's.
    #[error(
        "key manager: none of the master keys opens the secrets in the database; the file with them was made or changed after those were stored"
    )]
    OtherKeys,
}

/// The key manager. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: Config,
    pub(crate) rules: Arc<Enforcer>,
    pub(crate) validator: Arc<dyn TokenValidator>,
    pub(crate) vault: Vault,
}

impl Service {
    /// Opens the service: brings the schema up to date, and tries the master keys on what is stored.
    ///
    /// # Errors
    /// When the database, the master keys or the policy text cannot be used.
    pub async fn open(
        store: Store,
        config: Config,
        validator: Arc<dyn TokenValidator>,
    ) -> Result<Self, Error> {
        let rules = rules::enforcer(&config.policy)?;
        for rule in rules.unknown() {
            tracing::warn!(
                rule,
                "the key manager's policy names a rule that does not exist"
            );
        }
        let vault = Vault::new(&config.master_keys)?;
        store.migrate("key-manager", db::MIGRATIONS).await?;
        let stored: Option<(String, String)> = store.read(db::newest_sealed).await?;
        if stored.is_some_and(|(id, sealed)| vault.open(&id, &sealed).is_none()) {
            return Err(Error::OtherKeys);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                config,
                rules: Arc::new(rules),
                validator,
                vault,
            }),
        })
    }

    /// The Key Manager API as it is mounted at the root of its port.
    pub fn router(&self) -> Router {
        edge::router(self.clone())
    }

    /// Runs a unit of work that only reads.
    pub(crate) async fn read<T, F>(&self, act: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.inner.store.read(act).await
    }

    /// Runs a unit of work that may write.
    pub(crate) async fn write<T, F>(&self, act: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.inner.store.write(act).await
    }
}
