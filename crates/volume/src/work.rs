//! Doing what rows say is to be done. A job is begun after the commit that wrote it; one that is still there and not under
//! way is begun by every start, and every now and then: whoever wrote it may not have come to that, and its outcome may not
//! have been written. Each can be done again from its beginning.

use crate::db;
use crate::fault::Result as Answer;
use crate::images::{DownloadError, Image, Sent};
use crate::model::{Attachment, Job, Snapshot, Source, Status, Volume};
use crate::service::{Service, blocking, tell};
use crate::storage::{self, GIB, copy};
use formats::qemu::{self, QemuError};
use sql::Tx;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use types::Timestamp;

/// Tries to write the outcome of a job; afterwards the job is done again.
const TRIES: u32 = 10;

/// The pause between two looks whether a volume is still open, or an image takes data, and how often the former is looked at
/// at most.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 900;

/// Why a job failed.
#[derive(Clone, Debug, thiserror::Error)]
enum JobError {
    /// What the volume's owner may read, too: no paths of this machine.
    #[error("{0}")]
    Told(String),
    /// Only for the log.
    #[error("{0}")]
    Internal(String),
}

/// What is said of other services, of the database and by QEMU's daemon.
impl From<String> for JobError {
    fn from(reason: String) -> Self {
        Self::Internal(reason)
    }
}

impl From<std::io::Error> for JobError {
    fn from(error: std::io::Error) -> Self {
        Self::Told(error.to_string())
    }
}

impl From<QemuError> for JobError {
    fn from(error: QemuError) -> Self {
        let told = match error {
            QemuError::Io { error, .. } => error.to_string(),
            QemuError::NoTool(_) => "qemu-img is not installed".to_owned(),
            QemuError::Full(_) => "the disk is full".to_owned(),
            QemuError::Failed(last) => {
                tracing::warn!(error = last, "qemu-img failed");
                "the image cannot be converted".to_owned()
            }
            error => error.to_string(),
        };
        Self::Told(told)
    }
}

impl From<DownloadError> for JobError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Broken(reason) => Self::Internal(reason),
            DownloadError::Disk(error) => error.into(),
            error @ (DownloadError::TooLarge(_) | DownloadError::Refused(_)) => {
                Self::Told(error.to_string())
            }
        }
    }
}

/// What a job left.
type Outcome = Result<(), JobError>;

/// A job that is under way, or waits for its turn, until this is dropped.
struct UnderWay {
    service: Service,
    id: String,
}

impl UnderWay {
    fn begin(service: &Service, id: &str) -> Self {
        *service.under_way().entry(id.to_owned()).or_default() += 1;
        Self {
            service: service.clone(),
            id: id.to_owned(),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // A request may have begun the next job of the same volume.
        let mut all = self.service.under_way();
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

impl Service {
    /// Goes on with every job that is in a row and not under way.
    pub(crate) async fn resume(&self) -> Result<(), sql::Error> {
        let busy = [("busy", sql::Value::Int(1))];
        let found = self.inner.store.read(move |tx| {
            Ok::<_, sql::Error>((
                db::find::<Volume>(tx, &busy)?,
                db::find::<Snapshot>(tx, &busy)?,
            ))
        });
        let (volumes, snapshots) = found.await?;
        for volume in volumes {
            if !self.is_under_way(&volume.id) {
                self.begin_volume(&volume.id);
            }
        }
        for snapshot in snapshots {
            if !self.is_under_way(&snapshot.id) {
                self.begin_snapshot(&snapshot.id);
            }
        }
        Ok(())
    }

    fn is_under_way(&self, id: &str) -> bool {
        self.under_way().contains_key(id)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        let all = self.inner.under_way.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the job of a volume.
    pub(crate) fn begin_volume(&self, id: &str) {
        let (service, id) = (self.clone(), id.to_owned());
        let under_way = UnderWay::begin(self, &id);
        tokio::spawn(async move {
            let _under_way = under_way;
            // The slot first: whoever holds a lock has one, so nobody waits in a circle.
            let Ok(_slot) = service.inner.slots.acquire().await else {
                return;
            };
            let lock = service.lock(&id);
            let _alone = lock.lock().await;
            let Some((volume, job)) = service.job_of_volume(&id).await else {
                return;
            };
            let outcome = service.do_volume(&volume, &job).await;
            if let Err(reason) = &outcome {
                tracing::warn!(volume = id, ?job, %reason, "a job failed");
            }
            service.end_volume(&id, &job, outcome).await;
        });
    }

    /// Begins the job of a snapshot.
    pub(crate) fn begin_snapshot(&self, id: &str) {
        let (service, id) = (self.clone(), id.to_owned());
        let under_way = UnderWay::begin(self, &id);
        tokio::spawn(async move {
            let _under_way = under_way;
            // The slot first: whoever holds a lock has one, so nobody waits in a circle.
            let Ok(_slot) = service.inner.slots.acquire().await else {
                return;
            };
            let lock = service.lock(&id);
            let _alone = lock.lock().await;
            let Some((snapshot, job)) = service.job_of_snapshot(&id).await else {
                return;
            };
            let outcome = service.do_snapshot(&snapshot, &job).await;
            if let Err(reason) = &outcome {
                tracing::warn!(snapshot = id, ?job, %reason, "a job failed");
            }
            service.end_snapshot(&id, &job, outcome).await;
        });
    }

    async fn job_of_volume(&self, id: &str) -> Option<(Volume, Job)> {
        let id = id.to_owned();
        let found = self
            .inner
            .store
            .read(move |tx| db::get::<Volume>(tx, &id))
            .await;
        let volume = found
            .map_err(|error| tracing::error!(%error, "a job cannot be read"))
            .ok()??;
        let job = volume.job.clone()?;
        Some((volume, job))
    }

    async fn job_of_snapshot(&self, id: &str) -> Option<(Snapshot, Job)> {
        let id = id.to_owned();
        let found = self
            .inner
            .store
            .read(move |tx| db::get::<Snapshot>(tx, &id))
            .await;
        let snapshot = found
            .map_err(|error| tracing::error!(%error, "a job cannot be read"))
            .ok()??;
        let job = snapshot.job.clone()?;
        Some((snapshot, job))
    }

    async fn do_volume(&self, volume: &Volume, job: &Job) -> Outcome {
        match job {
            Job::Create(source) => self.create(volume, source).await,
            Job::Delete => self.remove_file(self.inner.files.volume(&volume.id)).await,
            Job::Extend(size, _) => {
                let (path, bytes) = (self.inner.files.volume(&volume.id), size * GIB);
                blocking(move || storage::grow(&path, bytes))
                    .await
                    .map_err(JobError::from)
            }
            Job::Upload(image, format, _) => self.upload(volume, image, format).await,
            Job::Revert(snapshot, _) => {
                self.closed(&volume.id).await?;
                self.copy_snapshot(snapshot, volume).await
            }
            Job::Reimage(image, _) => {
                self.closed(&volume.id).await?;
                self.fill_from_image(volume, image).await
            }
        }
    }

    /// Waits until nothing has the file of a volume open. Another file takes its place: the next server that gets the
    /// volume would be served the old one.
    async fn closed(&self, id: &str) -> Outcome {
        for _ in 0..LOOKS {
            self.serve_exports().await?;
            if !self.inner.exports.is_open(id).await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(JobError::Told("the volume is still being read".to_owned()))
    }

    async fn do_snapshot(&self, snapshot: &Snapshot, job: &Job) -> Outcome {
        let place = self.inner.files.snapshot(&snapshot.id);
        match job {
            Job::Create(_) => self.take(snapshot, place).await,
            Job::Delete => self.remove_file(place).await,
            other => Err(format!("a snapshot cannot {other:?}").into()),
        }
    }

    async fn create(&self, volume: &Volume, source: &Source) -> Outcome {
        let files = self.inner.files.clone();
        let (place, bytes) = (files.volume(&volume.id), volume.size * GIB);
        match source {
            Source::Blank => blocking(move || storage::blank(&files, &place, bytes))
                .await
                .map_err(JobError::from),
            Source::Image(image) => self.fill_from_image(volume, image).await,
            Source::Snapshot(snapshot) => self.copy_snapshot(snapshot, volume).await,
            Source::Volume(other) => {
                let lock = self.lock(other);
                let _unchanged = lock.lock().await;
                self.copy_volume(other, place, bytes).await
            }
        }
    }

    /// Copies the data of a volume, which may be attached and written meanwhile.
    async fn copy_volume(&self, id: &str, place: PathBuf, bytes: u64) -> Outcome {
        let files = self.inner.files.clone();
        let from = files.volume(id);
        let staged = files.staging();
        staged.create()?;
        let live = self.inner.exports.copy(id, staged.path()).await?;
        blocking(move || {
            if live {
                // The daemon has written the zeros too.
                copy::compact(&files, staged.path(), &place, bytes)
            } else {
                drop(staged);
                copy::copy(&files, &from, &place, bytes)
            }
        })
        .await
        .map_err(JobError::from)
    }

    async fn copy_snapshot(&self, snapshot: &str, volume: &Volume) -> Outcome {
        let lock = self.lock(snapshot);
        let _unchanged = lock.lock().await;
        let files = self.inner.files.clone();
        let (from, place) = (files.snapshot(snapshot), files.volume(&volume.id));
        let bytes = volume.size * GIB;
        blocking(move || copy::copy(&files, &from, &place, bytes))
            .await
            .map_err(JobError::from)
    }

    async fn fill_from_image(&self, volume: &Volume, image: &str) -> Outcome {
        let image = self.image(image).await?;
        let files = self.inner.files.clone();
        let (place, bytes) = (files.volume(&volume.id), volume.size * GIB);
        // A packed image is hardly ever bigger than what is in it.
        let most = image.size.max(1).min(bytes + bytes / 8 + GIB);
        let until = Instant::now() + self.inner.config.broken_upload;
        let download = loop {
            let staged = files.staging();
            let sent = self
                .inner
                .images
                .download(&image.id, staged.create()?, most);
            match sent.await {
                Ok(_) => break staged,
                Err(DownloadError::Broken(_)) if Instant::now() < until => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let checked = match qemu::check(download.path(), &image.disk_format).await {
            Err(QemuError::NoTool(_)) if !self.inner.exports.serves() => {
                blocking(move || storage::blank(&files, &place, bytes)).await?;
                return Ok(());
            }
            checked => checked?,
        };
        if checked.virtual_bytes > bytes {
            return Err(JobError::Told(format!(
                "the image needs {} GiB and the volume has {}",
                copy::gib(checked.virtual_bytes),
                volume.size
            )));
        }
        let ready = if checked.driver == "raw" {
            download
        } else {
            let raw = files.staging();
            let from = (download.path(), checked.driver);
            qemu::convert(from, (raw.path(), "raw"), Some(bytes)).await?;
            raw
        };
        blocking(move || ready.finish(&place, bytes))
            .await
            .map_err(JobError::from)
    }

    async fn take(&self, snapshot: &Snapshot, place: PathBuf) -> Outcome {
        let lock = self.lock(&snapshot.volume_id);
        let _unchanged = lock.lock().await;
        self.copy_volume(&snapshot.volume_id, place, snapshot.size * GIB)
            .await
    }

    async fn upload(&self, volume: &Volume, image: &str, format: &str) -> Outcome {
        // A start that finds the data there already has only to say so.
        if self.image(image).await?.status == "active" {
            return Ok(());
        }
        let from = self.inner.files.volume(&volume.id);
        let driver = qemu::driver(format).ok_or_else(|| "the format is not known".to_owned())?;
        if driver == "raw" {
            return self.send(image, &from).await;
        }
        let staged = self.inner.files.staging();
        qemu::convert((&from, "raw"), (staged.path(), driver), None).await?;
        self.send(image, staged.path()).await
    }

    /// An image. After a loss of power the image service may be there later than this one.
    async fn image(&self, id: &str) -> Result<Image, JobError> {
        let until = Instant::now() + self.inner.config.broken_upload;
        loop {
            match self.inner.images.show(id).await {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => return Err(JobError::Told(format!("image {id} is gone"))),
                Err(_) if Instant::now() < until => tokio::time::sleep(LOOK).await,
                Err(reason) => return Err(reason.into()),
            }
        }
    }

    /// Sends the data of an image. An upload that a crash has broken off may not be over for the image service: until it is
    /// the image is `saving`, and takes no other data.
    async fn send(&self, image: &str, file: &Path) -> Outcome {
        let until = Instant::now() + self.inner.config.broken_upload;
        loop {
            let status = self.image(image).await?.status;
            match status.as_str() {
                "active" => return Ok(()),
                "queued" => match self.inner.images.upload(image, file).await? {
                    Sent::Taken => return Ok(()),
                    Sent::Conflict => {}
                },
                "saving" => {}
                other => return Err(format!("the image is {other}").into()),
            }
            if Instant::now() >= until {
                return Err(format!("the image is {status} and takes no data").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn remove_file(&self, path: PathBuf) -> Outcome {
        blocking(move || storage::remove(&path))
            .await
            .map_err(JobError::from)
    }

    async fn end_volume(&self, id: &str, job: &Job, outcome: Outcome) {
        if let (Job::Upload(image, _, _), Err(_)) = (job, &outcome) {
            self.inner.images.remove(image).await;
        }
        let (key, done, result) = (id.to_owned(), job.clone(), outcome.clone());
        self.settle(move |tx| {
            let Some(mut volume) = db::get::<Volume>(tx, &key)? else {
                return Ok(());
            };
            // A forced request has replaced the job.
            if volume.job.as_ref() != Some(&done) {
                return Ok(());
            }
            if done == Job::Delete && result.is_ok() {
                return remove_volume(tx, &volume);
            }
            volume.job = None;
            volume.updated_at = Some(Timestamp::now());
            if let Err(reason) = &result {
                let about = ("VOLUME", volume.id.as_str());
                let event = failure(&done, reason);
                tell(tx, &volume.project_id, &volume.request_id, about, event)?;
            }
            apply(&mut volume, &done, result.is_ok());
            volume.status = with_attachments(tx, &volume)?;
            db::save(tx, &volume)?;
            crate::api::groups::settle(tx, volume.group_id.as_deref(), None)
        })
        .await;
        if let (Job::Extend(..), Ok(())) = (job, &outcome) {
            self.tell_servers(id).await;
        }
    }

    async fn end_snapshot(&self, id: &str, job: &Job, outcome: Outcome) {
        let (key, done) = (id.to_owned(), job.clone());
        self.settle(move |tx| {
            let Some(mut snapshot) = db::get::<Snapshot>(tx, &key)? else {
                return Ok(());
            };
            if snapshot.job.as_ref() != Some(&done) {
                return Ok(());
            }
            if done == Job::Delete && outcome.is_ok() {
                db::delete::<Snapshot>(tx, &key)?;
                return crate::api::groups::settle(tx, None, snapshot.group_snapshot_id.as_deref());
            }
            snapshot.job = None;
            snapshot.updated_at = Some(Timestamp::now());
            if let Err(reason) = &outcome {
                let about = ("VOLUME_SNAPSHOT", snapshot.id.as_str());
                let event = failure(&done, reason);
                tell(tx, &snapshot.project_id, &snapshot.request_id, about, event)?;
            }
            snapshot.status = match (&done, outcome.is_ok()) {
                (_, true) => Status::Available,
                (Job::Delete, false) => Status::ErrorDeleting,
                (_, false) => Status::Error,
            };
            if outcome.is_ok() {
                snapshot.progress = "100%".to_owned();
            }
            db::save(tx, &snapshot)?;
            crate::api::groups::settle(tx, None, snapshot.group_snapshot_id.as_deref())
        })
        .await;
    }

    /// Writes an outcome, also when the database is away for a while.
    async fn settle<F>(&self, act: F)
    where
        F: FnMut(&mut Tx<'_>) -> Result<(), sql::Error> + Clone + Send + 'static,
    {
        for again in 1..=TRIES {
            match self.inner.store.write(act.clone()).await {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, again, "the outcome of a job is not written"),
            }
            tokio::time::sleep(Duration::from_secs(u64::from(again))).await;
        }
    }

    /// Tells servers that have the volume that it has grown.
    async fn tell_servers(&self, id: &str) {
        if let Err(reason) = self.serve_exports().await {
            tracing::warn!(reason, "the new size of a volume is not served yet");
        }
        let key = id.to_owned();
        let found: Answer<Vec<Attachment>> = self
            .read(move |tx| Ok(db::find(tx, &[("volume_id", key.as_str().into())])?))
            .await;
        let servers: Vec<String> = found
            .into_iter()
            .flatten()
            .filter_map(|attachment| attachment.server_id)
            .collect();
        if let Some(compute) = &self.inner.servers
            && !servers.is_empty()
            && let Err(reason) = compute.volume_extended(id, &servers).await
        {
            tracing::warn!(
                volume = id,
                reason,
                "servers do not hear that a volume has grown"
            );
        }
    }

    /// The image of a job, for what a volume remembers of it.
    pub(crate) fn remember_image(volume: &mut Volume, image: &Image) {
        volume.image_metadata = image.metadata.clone();
        volume.bootable = true;
    }
}

/// Removes the row and what hangs on it.
fn remove_volume(tx: &mut Tx<'_>, volume: &Volume) -> Result<(), sql::Error> {
    let of_volume = [("volume_id", sql::Value::from(&volume.id))];
    for attachment in db::find::<Attachment>(tx, &of_volume)? {
        db::delete::<Attachment>(tx, &attachment.id)?;
    }
    for transfer in db::find::<crate::model::Transfer>(tx, &of_volume)? {
        db::delete::<crate::model::Transfer>(tx, &transfer.id)?;
    }
    db::delete::<Volume>(tx, &volume.id)?;
    crate::api::groups::settle(tx, volume.group_id.as_deref(), None)
}

/// What a job makes of a volume.
fn apply(volume: &mut Volume, job: &Job, worked: bool) {
    volume.status = match (job, worked) {
        (Job::Create(_), true) => Status::Available,
        (Job::Extend(size, back), true) => {
            volume.size = *size;
            *back
        }
        (Job::Upload(_, _, back) | Job::Revert(_, back) | Job::Reimage(_, back), true)
        | (Job::Upload(_, _, back), false) => *back,
        (Job::Delete, _) => Status::ErrorDeleting,
        (Job::Extend(..), false) => Status::ErrorExtending,
        (Job::Create(_) | Job::Revert(..) | Job::Reimage(..), false) => Status::Error,
    };
}

/// A volume that was attached while its job ran is not simply available.
fn with_attachments(tx: &mut Tx<'_>, volume: &Volume) -> Result<Status, sql::Error> {
    if volume.status != Status::Available && volume.status != Status::InUse {
        return Ok(volume.status);
    }
    let attachments = db::find::<Attachment>(tx, &[("volume_id", (&volume.id).into())])?;
    Ok(crate::api::attachments::status_by(&attachments))
}

/// Event and words for a user (Cinder's user messages), without what only the log should know.
fn failure(job: &Job, error: &JobError) -> (&'static str, String) {
    let reason = match error {
        JobError::Told(reason) => reason,
        JobError::Internal(_) => "An unknown error occurred",
    };
    match job {
        Job::Create(Source::Image(_)) | Job::Reimage(..) => (
            "VOLUME_VOLUME_005_005",
            format!("copy image to volume:{reason}."),
        ),
        Job::Create(_) => (
            "VOLUME_VOLUME_006_008",
            "create volume from backend storage:Unexpected error while creating the data.".into(),
        ),
        Job::Delete => (
            "VOLUME_VOLUME_008_001",
            "delete volume:An unknown error occurred.".into(),
        ),
        Job::Extend(..) => (
            "VOLUME_VOLUME_009_011",
            "extend volume:Unexpected error while extending the data.".into(),
        ),
        Job::Upload(..) => (
            "VOLUME_VOLUME_003_004",
            "copy volume to image:Unexpected error while uploading the data.".into(),
        ),
        Job::Revert(..) => (
            "VOLUME_VOLUME_012_001",
            "revert volume:An unknown error occurred.".into(),
        ),
    }
}
