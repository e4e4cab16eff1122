//! The service as a whole: what it needs, opening.

use crate::config::Config;
use crate::fault::Fault;
use crate::vault::{BadKey, Vault};
use crate::{db, edge, rules};
use axum::Router;
use policy::{Enforcer, PolicyError};
use sql::{Store, Tx};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use types::Timestamp;
use web::auth::TokenValidator;

/// For how long the row of an expired secret, which nobody sees any more, is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Seconds between two looks for such rows.
const TIDIED: i64 = 3600;

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
    /// When expired secrets were looked for, in seconds since 1970.
    tidied: AtomicI64,
}

impl Service {
    /// Opens the service: brings the schema up to date, and tries the master keys on what is stored.
    ///
    /// # Errors
    /// When the database, the master keys or the policy text cannot be used.
    pub async fn open(
        store: Store,
        mut config: Config,
        validator: Arc<dyn TokenValidator>,
    ) -> Result<Self, Error> {
        let rules = rules::enforcer(&config.policy)?;
        for rule in rules.unknown() {
            tracing::warn!(
                rule,
                "the key manager's policy names a rule that does not exist"
            );
        }
        let vault = Vault::new(&std::mem::take(&mut config.master_keys))?;
        store.migrate("key-manager", db::MIGRATIONS).await?;
        let stored: Option<(String, String)> = store.read(db::newest_sealed).await?;
        if stored.is_some_and(|(id, sealed)| vault.open(&id, &sealed).is_none()) {
            return Err(Error::OtherKeys);
        }
        let service = Self {
            inner: Arc::new(Inner {
                store,
                config,
                rules: Arc::new(rules),
                validator,
                vault,
                tidied: AtomicI64::new(0),
            }),
        };
        service.tidy().await;
        Ok(service)
    }

    /// Removes rows of secrets that have expired, if nobody has looked for a while. It is a unit of work of its own: one that
    /// also adds a secret would be in the way of others that do.
    pub(crate) async fn tidy(&self) {
        let now = Timestamp::now();
        let last = self.inner.tidied.load(Ordering::Relaxed);
        if now.seconds() - last < TIDIED {
            return;
        }
        // Two that look at once remove the same rows, which does no harm.
        self.inner.tidied.store(now.seconds(), Ordering::Relaxed);
        let before = now.minus(KEPT);
        let removed: Result<(), sql::Error> = self
            .inner
            .store
            .write(move |tx| db::remove_expired(tx, before))
            .await;
        if let Err(error) = removed {
            tracing::warn!(%error, "expired secrets are not removed");
        }
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
