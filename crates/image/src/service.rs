//! The service as a whole: settings, opening, registered files.

use crate::access::{self, Access};
use crate::fault::Fault;
use crate::files::{DataError, Folder};
use crate::model::{Image, Status, Visibility};
use crate::upload::data_fault;
use crate::work::Work;
use crate::{api, db};
use axum::Router;
use axum::body::Body;
use policy::{Enforcer, PolicyError};
use sql::Store;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use web::auth::TokenValidator;

/// How long a registration waits for another of the same image.
const REGISTERING: Duration = Duration::from_secs(120);
/// How long whoever only looks whether somebody is at work may be in the way.
const PASSING: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

/// Settings of the image service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the data are kept; made when missing. Belongs to this service alone, and all its processes have the same.
    pub folder: PathBuf,
    /// Bytes that the data of one image may have.
    pub max_size: u64,
    /// Images in a list when the client gives no limit.
    pub default_limit: usize,
    /// Images in a list at most.
    pub max_limit: usize,
    /// Properties of one image.
    pub max_properties: usize,
    /// Tags of one image.
    pub max_tags: usize,
    /// Members of one image.
    pub max_members: usize,
    /// The URL of this service in the version document; `None` takes the request's Host header.
    pub public_endpoint: Option<String>,
    /// The identity service named in 401 answers.
    pub identity_url: Option<String>,
    /// The text of a `policy.yaml` that overrides default rules.
    pub policy: Option<String>,
}

impl Config {
    /// The defaults, with the data in this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            max_size: 1 << 40,
            default_limit: 25,
            max_limit: 1000,
            max_properties: 128,
            max_tags: 128,
            max_members: 128,
            public_endpoint: None,
            identity_url: None,
            policy: None,
        }
    }
}

/// Why the service does not open, or an image is not registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("image database: {0}")]
    Sql(#[from] sql::Error),
    /// The folder.
    #[error("image folder {path}: {error}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The policy overrides.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A file cannot be registered.
    #[error("image {name}: {reason}")]
    Register {
        /// The image's name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// An image that the operator provides as a file.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The image's name; with the owner it is how a second registration finds the first.
    pub name: String,
    /// The project that owns it.
    pub owner: String,
    /// For example `qcow2`.
    pub disk_format: String,
    /// Who sees it.
    pub visibility: Visibility,
    /// Gigabytes of disk that a server needs.
    pub min_disk: u64,
    /// Megabytes of memory that a server needs.
    pub min_ram: u64,
    /// Further properties.
    pub properties: BTreeMap<String, String>,
}

/// The image service. Clones are handles to the same one.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: Config,
    pub(crate) folder: Folder,
    pub(crate) validator: Arc<dyn TokenValidator>,
    pub(crate) rules: Arc<Enforcer>,
}

impl Service {
    /// Opens the service: brings the schema up to date, and makes the folder. It answers requests then; what others have
    /// left is the matter of [`Service::begin`] and [`Service::keep`]. Any number of processes may have a folder.
    ///
    /// # Errors
    /// When the database, the folder or the policy text cannot be used.
    pub async fn open(
        store: Store,
        config: Config,
        validator: Arc<dyn TokenValidator>,
    ) -> Result<Self, Error> {
        let rules = Arc::new(access::enforcer(config.policy.as_deref())?);
        for name in rules.unknown() {
            tracing::warn!(
                rule = name,
                "the image policy file has a rule that nothing asks"
            );
        }
        store.migrate("image", db::MIGRATIONS).await?;
        let path = config.folder.clone();
        let opened = blocking(move || Folder::open(&path)).await;
        let folder = opened.map_err(|error| Error::Folder {
            path: config.folder.clone(),
            error,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                config,
                folder,
                validator,
                rules,
            }),
        })
    }

    /// The whole API, as mounted at the root of its port.
    pub fn router(&self) -> Router {
        api::router(self.clone())
    }

    /// Registers a file of this machine as an active image and answers its id. An active image of the same name
    /// and owner is left as it is; one whose upload was interrupted is completed. Whoever registers the same meanwhile is
    /// waited for.
    ///
    /// # Errors
    /// When the file cannot be read or is not what was said, or the database or the folder cannot be used.
    pub async fn register_file(
        &self,
        registration: Registration,
        path: &Path,
    ) -> Result<String, Error> {
        let failed = {
            let name = registration.name.clone();
            move |reason: String| Error::Register {
                name: name.clone(),
                reason,
            }
        };
        let image = self.find_or_add(registration).await?;
        if image.has_data() {
            return Ok(image.id);
        }
        let work = self.work_on(&image.id, REGISTERING).await;
        let work = work
            .map_err(|error| self.folder_error(error))?
            .ok_or_else(|| failed("another program has been at it for two minutes".to_owned()))?;
        if self.settle(&work).await? != Some(Status::Queued) {
            return Ok(image.id);
        }
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
        let body = Body::from_stream(tokio_util::io::ReaderStream::with_capacity(
            file,
            256 * 1024,
        ));
        self.take_data(&work, &image, body, None)
            .await
            .map_err(|fault| failed(fault.explanation))?;
        Ok(image.id)
    }

    async fn find_or_add(&self, wanted: Registration) -> Result<Image, Error> {
        let found = self.inner.store.write(move |tx| {
            let filters = vec![
                db::Filter::Text("name", vec![wanted.name.clone()]),
                db::Filter::Text("owner", vec![wanted.owner.clone()]),
            ];
            let order = vec![
                db::Sort {
                    key: db::SortKey::CreatedAt,
                    descending: false,
                },
                db::Sort {
                    key: db::SortKey::Id,
                    descending: false,
                },
            ];
            let query = db::ListQuery {
                admin: true,
                visibility: Some("all".to_owned()),
                filters,
                order,
                most: 1,
                ..db::ListQuery::default()
            };
            if let Some(image) = db::list(tx, &query)?.pop() {
                return Ok(image);
            }
            let mut image =
                Image::queued(uuid::Uuid::new_v4().to_string(), Some(wanted.owner.clone()));
            image.name = Some(wanted.name.clone());
            image.visibility = wanted.visibility;
            image.disk_format = Some(wanted.disk_format.clone());
            image.container_format = Some("bare".to_owned());
            image.min_disk = wanted.min_disk;
            image.min_ram = wanted.min_ram;
            image.properties = wanted.properties.clone();
            db::insert(tx, &image)?;
            Ok::<_, sql::Error>(image)
        });
        Ok(found.await?)
    }

    /// A status change that must find the image in `from`; 409 when it is elsewhere.
    pub(crate) async fn change_status(
        &self,
        id: &str,
        from: Status,
        to: Status,
    ) -> Result<(), Fault> {
        let id = id.to_owned();
        self.inner
            .store
            .write(move |tx| {
                if db::set_status(tx, &id, from, to)? {
                    return Ok(());
                }
                let image = db::get(tx, &id)?.ok_or_else(|| Fault::no_image(&id))?;
                Err(wrong_status(image.status, to))
            })
            .await
    }

    /// The right to work on the data of an image, as soon as whoever has it gives it back, unless that takes too long.
    pub(crate) async fn work_on(&self, id: &str, patience: Duration) -> io::Result<Option<Work>> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let (folder, image) = (self.inner.folder.clone(), id.to_owned());
            let taken = blocking(move || Work::take(&folder, &image)).await?;
            if taken.is_some() || tokio::time::Instant::now() >= until {
                return Ok(taken);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The same for a request that takes the image to a status; 409 when another is at it.
    pub(crate) async fn work_to(&self, id: &str, to: Status) -> Result<Work, Fault> {
        let taken = self.work_on(id, PASSING).await;
        let taken = taken.map_err(|error| data_fault(&DataError::from(error)))?;
        taken.ok_or_else(|| wrong_status(to, to))
    }

    pub(crate) fn folder_error(&self, error: io::Error) -> Error {
        Error::Folder {
            path: self.inner.config.folder.clone(),
            error,
        }
    }

    /// After a failure: the image goes back to where it was. What cannot be written now is done a little later.
    pub(crate) async fn restore(&self, id: &str, from: Status, to: Status) {
        let image = id.to_owned();
        if let Err(error) = self
            .inner
            .store
            .write(move |tx| db::set_status(tx, &image, from, to))
            .await
        {
            tracing::error!(%error, image = id, "an image could not be put back to {}", to.name());
        }
    }

    /// Removes the data of an image from the store.
    pub(crate) async fn remove_data(&self, id: &str) {
        let (folder, id) = (self.inner.folder.clone(), id.to_owned());
        blocking(move || folder.remove(&id)).await;
    }

    /// The caller under the rules in force.
    pub(crate) fn access(&self, caller: Arc<types::Caller>) -> Access {
        Access::new(caller, Arc::clone(&self.inner.rules))
    }
}

/// Runs work that blocks on the disk; a panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(crate) fn wrong_status(from: Status, to: Status) -> Fault {
    Fault::conflict(format!(
        "Image status transition from {} to {} is not allowed",
        from.name(),
        to.name()
    ))
}
