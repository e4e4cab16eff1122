//! The service as a whole: what it needs, opening, going on with what was begun.

use crate::config::Config;
use crate::fault::Fault;
use crate::images::Images;
use crate::model::{Attachment, Message, Snapshot, Volume, VolumeType};
use crate::nbd::{Export, Exports};
use crate::rules::{self, Access};
use crate::storage::{Files, Held, Taken};
use crate::{db, edge};
use async_trait::async_trait;
use axum::Router;
use policy::Enforcer;
use sql::{Store, Tx};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use types::{Caller, Timestamp};
use web::auth::TokenValidator;
use web::client::Client;

/// How often the exports are looked after.
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// Tokens with which the service acts for itself.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// A valid token, or why there is none.
    async fn token(&self) -> Result<String, String>;
}

/// What the service asks and tells the compute service, where there is one.
#[async_trait]
pub trait Servers: Send + Sync + 'static {
    /// Whether the server uses the volume by this attachment; then only the compute service may detach it.
    async fn uses(&self, server: &str, volume: &str, attachment: &str) -> Result<bool, String>;
    /// The volume of these servers has grown.
    async fn volume_extended(&self, volume: &str, servers: &[String]) -> Result<(), String>;
}

/// What the service works with.
pub struct Deps {
    /// Its database.
    pub store: Store,
    /// Says who makes a request.
    pub validator: Arc<dyn TokenValidator>,
    /// The image service; without one no volume is made from an image.
    pub images: Option<Arc<Client>>,
    /// For the image service, when no user's request is at hand.
    pub tokens: Arc<dyn Tokens>,
    /// The compute service; without one, attachments of servers are only removed by callers with the role `service`.
    pub servers: Option<Arc<dyn Servers>>,
}

/// Why the service does not open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("volume service: {0}")]
    Sql(#[from] sql::Error),
    /// The folder.
    #[error("volume folder {path}: {error}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// Somebody else works on the folder.
    #[error(
        "the volume folder {path} is in use by {holder}; one volume service at a time may have it: stop that one, or give this \
         one a folder and a database of its own"
    )]
    InUse {
        /// Which folder.
        path: PathBuf,
        /// Who has it, as far as it is known.
        holder: String,
    },
    /// The policy text.
    #[error("volume service: {0}")]
    Policy(#[from] policy::PolicyError),
}

/// The volume service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: Arc<Config>,
    pub(crate) rules: Arc<Enforcer>,
    pub(crate) validator: Arc<dyn TokenValidator>,
    pub(crate) images: Images,
    pub(crate) servers: Option<Arc<dyn Servers>>,
    pub(crate) files: Files,
    pub(crate) exports: Exports,
    /// Since the folder was taken, and for as long as this lives.
    pub(crate) held: Mutex<Option<Held>>,
    pub(crate) slots: Semaphore,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// The volumes and snapshots with jobs under way, and how many each has.
    pub(crate) under_way: Mutex<HashMap<String, usize>>,
}

impl Service {
    /// Opens the service: brings the schema up to date and makes the default types. It answers requests then, and does
    /// nothing by itself before [`Service::begin`].
    ///
    /// # Errors
    /// When the database, the folder or the policy text cannot be used.
    pub async fn open(config: Config, deps: Deps) -> Result<Self, Error> {
        let rules = rules::enforcer(&config.policy)?;
        for rule in rules.unknown() {
            tracing::warn!(rule, "the volume policy names a rule that does not exist");
        }
        deps.store.migrate("volume", db::MIGRATIONS).await?;
        let types = [config.default_type.clone(), config.multiattach_type.clone()];
        deps.store.write(move |tx| prepare(tx, &types)).await?;
        let files = Files::open(&config.folder).map_err(|error| Error::Folder {
            path: config.folder.clone(),
            error,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                exports: Exports::new(files.clone(), &config),
                held: Mutex::default(),
                slots: Semaphore::new(config.workers.max(1)),
                images: Images::new(deps.images, deps.tokens),
                servers: deps.servers,
                store: deps.store,
                config: Arc::new(config),
                rules: Arc::new(rules),
                validator: deps.validator,
                files,
                locks: Mutex::default(),
                under_way: Mutex::default(),
            }),
        })
    }

    /// Takes the folder, of which only one service at a time may have it: two would remove each other's files in the making,
    /// and end each other's exports. The service holds it from now on; another call changes nothing.
    ///
    /// # Errors
    /// When somebody else has it, or it cannot be used.
    pub fn take_folder(&self) -> Result<(), Error> {
        let mut held = self.held();
        if held.is_some() {
            return Ok(());
        }
        let path = self.inner.config.folder.clone();
        match self.inner.files.take(&self.inner.config.host) {
            Ok(Taken::Held(ours)) => *held = Some(ours),
            Ok(Taken::By(holder)) => return Err(Error::InUse { path, holder }),
            Err(error) => return Err(Error::Folder { path, error }),
        }
        Ok(())
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Option<Held>> {
        let held = self.inner.held.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the folder, removes files that no row knows, serves what is attached, and goes on with all that was begun.
    ///
    /// # Errors
    /// When the database or the folder cannot be used, also because another service has it.
    pub async fn begin(&self) -> Result<(), Error> {
        self.take_folder()?;
        let (volumes, snapshots) = self.inner.store.read(known).await?;
        let files = self.inner.files.clone();
        let cleaned = blocking(move || files.clean(&volumes, &snapshots)).await;
        cleaned.map_err(|error| Error::Folder {
            path: self.inner.config.folder.clone(),
            error,
        })?;
        if let Err(reason) = self.serve_exports().await {
            tracing::error!(reason, "attached volumes are not served yet");
        }
        Ok(self.resume().await?)
    }

    /// The Block Storage API as it is mounted at the root of its port.
    pub fn router(&self) -> Router {
        edge::router(self.clone())
    }

    /// Looks after the exports, begins jobs that nobody has begun, and removes what has expired, until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut said = String::new();
        loop {
            let outcome = self.serve_exports().await;
            let reason = outcome.err().unwrap_or_default();
            if !reason.is_empty() && reason != said {
                tracing::error!(reason, "attached volumes are not served");
            }
            said = reason;
            if let Err(error) = self.resume().await {
                tracing::warn!(%error, "jobs that nobody has begun are not looked for now");
            }
            let now = Timestamp::now();
            let expired = move |tx: &mut Tx<'_>| db::remove_expired(tx, now);
            if let Err(error) = self.inner.store.write(expired).await {
                tracing::warn!(%error, "expired messages are not removed");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AFTER) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes the daemon serve what the attachments say.
    pub(crate) async fn serve_exports(&self) -> Result<(), String> {
        if !self.inner.exports.serves() {
            return Ok(());
        }
        // Looked at and done under one lock, so that an older look never undoes a newer one.
        let lock = self.lock("exports");
        let _one_at_a_time = lock.lock().await;
        let wanted = self.inner.store.read(wanted_exports).await;
        let wanted = wanted.map_err(|error: sql::Error| error.to_string())?;
        self.inner.exports.reconcile(&wanted).await
    }

    /// A lock by name; whoever works on the files of a volume or snapshot holds its own.
    pub(crate) fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self
            .inner
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    pub(crate) fn access(&self, caller: Arc<Caller>) -> Access {
        Access::new(caller, Arc::clone(&self.inner.rules))
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

/// The first types of a fresh service.
fn prepare(tx: &mut Tx<'_>, names: &[String; 2]) -> Result<(), sql::Error> {
    if db::count::<VolumeType>(tx, &[])? == 0 {
        for (name, multiattach) in names.iter().zip([false, true]) {
            let spec = ("multiattach".to_owned(), "<is> True".to_owned());
            let new = VolumeType {
                id: uuid::Uuid::new_v4().to_string(),
                name: name.clone(),
                description: None,
                is_public: true,
                extra_specs: multiattach.then_some(spec).into_iter().collect(),
                qos_id: None,
                encryption: None,
                created_at: Timestamp::now(),
                updated_at: None,
            };
            db::insert(tx, &new)?;
        }
    }
    Ok(())
}

/// The ids of all volumes and snapshots.
fn known(tx: &mut Tx<'_>) -> Result<(Vec<String>, Vec<String>), sql::Error> {
    let volumes = db::find::<Volume>(tx, &[])?;
    let snapshots = db::find::<Snapshot>(tx, &[])?;
    Ok((
        volumes.into_iter().map(|one| one.id).collect(),
        snapshots.into_iter().map(|one| one.id).collect(),
    ))
}

fn wanted_exports(tx: &mut Tx<'_>) -> Result<Vec<Export>, sql::Error> {
    let mut wanted = Vec::new();
    for attachment in db::exported(tx)? {
        if let Some(volume) = db::get::<Volume>(tx, &attachment.volume_id)? {
            wanted.extend(export_of(&attachment, &volume));
        }
    }
    Ok(wanted)
}

/// The export of an attachment that is connected.
pub(crate) fn export_of(attachment: &Attachment, volume: &Volume) -> Option<Export> {
    Some(Export {
        name: attachment.export.clone()?,
        volume_id: volume.id.clone(),
        size: volume.size,
        readonly: attachment.mode == "ro",
    })
}

/// Tells a user what went wrong; within a transaction.
pub(crate) fn tell(
    tx: &mut Tx<'_>,
    project_id: &str,
    request_id: &str,
    about: (&str, &str),
    event: (&str, String),
) -> Result<(), sql::Error> {
    let now = Timestamp::now();
    let message = Message {
        id: uuid::Uuid::new_v4().to_string(),
        project_id: project_id.to_owned(),
        event_id: event.0.to_owned(),
        user_message: event.1,
        level: "ERROR".to_owned(),
        request_id: request_id.to_owned(),
        resource_type: about.0.to_owned(),
        resource_id: about.1.to_owned(),
        created_at: now,
        expires_at: now.plus(Duration::from_secs(30 * 24 * 3600)),
    };
    db::insert(tx, &message)
}

/// Runs work that blocks on the disk; a panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
