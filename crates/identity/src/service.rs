//! The service itself: database, keys, and the cache of validated tokens.

use crate::fault::Fault;
use crate::keys::{FERNET, KeyError, Keyring};
use crate::password::Passwords;
use crate::token::Payload;
use crate::{access, db, policies};
use moka::sync::Cache;
use policy::Enforcer;
use sha2::{Digest, Sha256};
use sql::{Store, Tx};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use types::{Caller, Timestamp};
use web::auth::{AuthError, TokenValidator};

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the key repositories `fernet-keys` and `credential-keys`; made with mode 0700.
    pub key_folder: PathBuf,
    /// How long a token lives. Keystone's default is one hour.
    pub token_life: Duration,
    /// How long after its end a service may still ask about a token (`allow_expired`), for long operations.
    pub expired_window: Duration,
    /// bcrypt's cost, 4 to 31. Keystone's default is 12.
    pub bcrypt_cost: u32,
    /// A `policy.yaml` that overrides rules, as text.
    pub policy_overrides: Option<String>,
}

impl Config {
    /// Keystone's defaults with keys in this folder.
    pub fn new(key_folder: impl Into<PathBuf>) -> Self {
        Self {
            key_folder: key_folder.into(),
            token_life: Duration::from_secs(3600),
            expired_window: Duration::from_secs(172_800),
            bcrypt_cost: 12,
            policy_overrides: None,
        }
    }
}

/// Why the service cannot be opened or set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Database(#[from] sql::Error),
    /// The key repositories.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The policy overrides.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    /// Setting up the fresh cloud, or making a service token.
    #[error("{0}")]
    Refused(String),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault.to_string())
    }
}

/// A validated token.
#[derive(Debug)]
pub(crate) struct Held {
    pub payload: Payload,
    pub caller: Arc<Caller>,
    /// Ids and names of the roles.
    pub roles: Vec<(String, String)>,
    pub app_credential: Option<(String, String, bool)>,
    /// From when on the holder's tokens count.
    pub tokens_from: Timestamp,
    /// The change count at which this was true.
    generation: i64,
}

/// How long another process's change may go unseen; changes of this process are seen at once.
const GENERATION_CHECK: Duration = Duration::from_secs(1);
const CACHED_TOKENS: u64 = 20_000;

/// The identity service. Clones share everything.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub config: Config,
    pub keys: Keyring,
    pub credential_keys: Keyring,
    pub passwords: Passwords,
    pub policies: Enforcer,
    tokens: Cache<[u8; 32], Arc<Held>>,
    generation: AtomicI64,
    checked_at: AtomicI64,
}

impl Service {
    /// Opens the service on a database, bringing its tables up to date and making keys if there are none.
    pub async fn open(store: Store, config: Config) -> Result<Self, Error> {
        store.migrate("identity", db::MIGRATIONS).await?;
        let keys = Keyring::open(&config.key_folder.join(FERNET))?;
        let credential_keys = Keyring::open(&config.key_folder.join("credential-keys"))?;
        let mut enforcer = Enforcer::new(policies::rules())?;
        if let Some(overrides) = &config.policy_overrides {
            enforcer = enforcer.with_overrides(overrides)?;
            for name in enforcer.unknown() {
                tracing::warn!(
                    rule = name,
                    "the identity policy file names a rule that does not exist"
                );
            }
        }
        let generation = store.read(db::generation).await?;
        let inner = Inner {
            store,
            keys,
            credential_keys,
            passwords: Passwords::new(config.bcrypt_cost),
            policies: enforcer,
            tokens: Cache::builder()
                .max_capacity(CACHED_TOKENS)
                .time_to_live(config.token_life)
                .build(),
            generation: AtomicI64::new(generation),
            checked_at: AtomicI64::new(Timestamp::now().micros()),
            config,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Reads.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.inner.store.read(work).await
    }

    /// Changes something that tokens may depend on: raises the generation in the same transaction, so that every
    /// token is looked at anew.
    pub(crate) async fn change<T, F>(&self, mut work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let raised = self
            .inner
            .store
            .write(move |tx| -> Result<(T, i64), Fault> {
                let done = work(tx)?;
                Ok((done, db::next_generation(tx)?))
            });
        let (done, generation) = raised.await?;
        self.inner
            .generation
            .fetch_max(generation, Ordering::SeqCst);
        Ok(done)
    }

    /// The present generation; asks the database when it has not for a second.
    async fn generation(&self) -> Result<i64, Fault> {
        let now = Timestamp::now().micros();
        let checked = self.inner.checked_at.load(Ordering::Relaxed);
        let due = now - checked > i64::try_from(GENERATION_CHECK.as_micros()).unwrap_or(i64::MAX)
            || now < checked;
        if due
            && self
                .inner
                .checked_at
                .compare_exchange(checked, now, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
        {
            let stored = self.read(|tx| Ok(db::generation(tx)?)).await?;
            self.inner.generation.fetch_max(stored, Ordering::SeqCst);
        }
        Ok(self.inner.generation.load(Ordering::SeqCst))
    }

    /// What a token says, from the cache or the database.
    pub(crate) async fn held(&self, token: &str) -> Result<Arc<Held>, Fault> {
        let generation = self.generation().await?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = Timestamp::now();
        if let Some(held) = self.inner.tokens.get(&hash)
            && held.generation == generation
        {
            return if held.payload.expires_at > now {
                Ok(held)
            } else {
                Err(Fault::Unauthorized)
            };
        }
        let payload = Payload::unseal(token, &self.inner.keys).ok_or(Fault::Unauthorized)?;
        if payload.expires_at <= now {
            return Err(Fault::Unauthorized);
        }
        let held = Arc::new(self.look_up(payload).await?);
        self.inner.tokens.insert(hash, Arc::clone(&held));
        Ok(held)
    }

    /// Like [`Self::held`], also for a token that ended within the window for long operations.
    pub(crate) async fn held_lately(&self, token: &str) -> Result<Arc<Held>, Fault> {
        let payload = Payload::unseal(token, &self.inner.keys).ok_or(Fault::Unauthorized)?;
        if payload.expires_at.plus(self.inner.config.expired_window) <= Timestamp::now() {
            return Err(Fault::Unauthorized);
        }
        Ok(Arc::new(self.look_up(payload).await?))
    }

    /// Reads all that a token means that is being made. `seen`: from when on the holder's tokens counted when it showed who it
    /// is. Where that is later than now, because the clock was set back, the token is one of then; where it has changed since,
    /// what has ended the holder's tokens ends this one, too.
    pub(crate) async fn begin(&self, payload: Payload, seen: Timestamp) -> Result<Held, Fault> {
        let held = self.look_up(payload.made_from(seen)).await?;
        if held.tokens_from != seen {
            return Err(Fault::Unauthorized);
        }
        Ok(held)
    }

    /// Reads all that a token means now.
    pub(crate) async fn look_up(&self, payload: Payload) -> Result<Held, Fault> {
        self.read(move |tx| {
            let generation = db::generation(tx)?;
            let rights = access::rights(tx, &payload)?;
            Ok(Held {
                payload: payload.clone(),
                caller: Arc::new(rights.caller),
                roles: rights.roles,
                app_credential: rights.app_credential,
                tokens_from: rights.tokens_from,
                generation,
            })
        })
        .await
    }

    /// The project of the services, once the cloud has been filled.
    pub async fn service_project(&self) -> Result<Option<String>, Error> {
        let found = self.read(|tx| {
            let domain = db::access::Named::Id(crate::DEFAULT_DOMAIN.to_owned());
            Ok(db::access::project_by_name(tx, "service", &domain)?)
        });
        Ok(found.await?.map(|project| project.id))
    }

    /// A token with which a service of this cloud acts in a project: the roles that the user holds in the project
    /// `service`, without its password. For flows, inside the process only.
    pub async fn issue_service_token(
        &self,
        user_name: &str,
        project_id: &str,
    ) -> Result<String, Error> {
        let (name, project) = (user_name.to_owned(), project_id.to_owned());
        let life = self.inner.config.token_life;
        let payload = self
            .read(move |tx| access::service_payload(tx, &name, &project, life))
            .await?;
        Ok(payload.seal(&self.inner.keys))
    }
}

#[async_trait::async_trait]
impl TokenValidator for Service {
    async fn validate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        match self.held(token).await {
            Ok(held) => Ok(Arc::clone(&held.caller)),
            Err(Fault::Unavailable | Fault::Internal) => Err(AuthError::Unavailable(
                "the identity database cannot be read".to_owned(),
            )),
            Err(_) => Err(AuthError::Invalid),
        }
    }

    async fn knows_project(&self, id: &str) -> bool {
        let id = id.to_owned();
        let found = self.read(move |tx| Ok(db::access::project(tx, &id)?.is_some()));
        found.await.unwrap_or(true)
    }
}
