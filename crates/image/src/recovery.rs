//! What processes that are gone had begun: uploads go back to `queued`, imports to their staged data, and what they left
//! in the folder goes. Any process with the folder does that, for whatever nobody [works](crate::work) on.

use crate::db;
use crate::files::Left;
use crate::model::{Image, Status, Task};
use crate::service::{Error, Service, blocking};
use crate::work::Work;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long what a killed process had begun may stay as it was.
const LOOK_AFTER: Duration = Duration::from_secs(10);

/// Every so many looks all data are compared with the images.
const COMPARED: u32 = 30;

impl Service {
    /// Takes back what processes that are gone had begun, and removes data that no image has. For whoever serves, before it
    /// does. Any number of processes may.
    ///
    /// # Errors
    /// When the database or the folder cannot be used.
    pub async fn begin(&self) -> Result<(), Error> {
        self.recover().await?;
        let known = self.remove_unknown().await?;
        let folder = self.inner.folder.clone();
        let missing = blocking(move || {
            let missing = known.into_iter().filter(|id| !folder.path(id).is_file());
            missing.collect::<Vec<_>>()
        });
        for id in missing.await {
            let image = id.clone();
            let found = self.inner.store.read(move |tx| db::get(tx, &image));
            if found.await?.is_some_and(|image| image.has_data()) {
                tracing::error!(
                    image = id,
                    "the data of an active image are missing from the store"
                );
            }
        }
        Ok(())
    }

    /// Removes data that no image has; answers which images have data.
    async fn remove_unknown(&self) -> Result<BTreeSet<String>, Error> {
        let folder = self.inner.folder.clone();
        // Before the database is asked: data that come meanwhile are not among them.
        let there = blocking(move || folder.data()).await;
        let there = there.map_err(|error| self.folder_error(error))?;
        let known: Vec<String> = self.inner.store.read(db::with_data).await?;
        let (known, there) = (BTreeSet::from_iter(known), BTreeSet::from_iter(there));
        for id in there.difference(&known) {
            self.take_back(id).await?;
        }
        Ok(known)
    }

    /// Takes back what other processes had begun when they ended, and removes data whose image was deleted by a request that
    /// did not come to that, until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(LOOK_AFTER));
        for look in 0_u32.. {
            if pause().await.is_none() {
                return;
            }
            if let Err(error) = self.recover().await {
                tracing::warn!(%error, "interrupted uploads are not looked for now");
            }
            if look.is_multiple_of(COMPARED)
                && let Err(error) = self.remove_unknown().await
            {
                tracing::warn!(%error, "data that no image has are not looked for now");
            }
        }
    }

    /// Takes back what nobody works on any more.
    pub(crate) async fn recover(&self) -> Result<(), Error> {
        let unsettled: Vec<(String, Status)> = self.inner.store.read(db::unsettled).await?;
        let folder = self.inner.folder.clone();
        let found = blocking(move || {
            let begun = unsettled.into_iter().filter(|(id, status)| {
                // Data that are staged wait for the import, for days perhaps.
                *status != Status::Uploading || !folder.staged(id).is_file()
            });
            let mut found: BTreeSet<String> = begun.map(|(id, _)| id).collect();
            found.extend(folder.begun()?);
            Ok::<_, io::Error>(found)
        });
        let found = found.await.map_err(|error| self.folder_error(error))?;
        for id in found {
            self.take_back(&id).await?;
        }
        Ok(())
    }

    /// Takes back what was begun with one image, unless somebody works on it.
    async fn take_back(&self, id: &str) -> Result<(), Error> {
        let (folder, image) = (self.inner.folder.clone(), id.to_owned());
        let taken = blocking(move || Work::take(&folder, &image)).await;
        match taken.map_err(|error| self.folder_error(error))? {
            Some(work) => self.settle(&work).await.map(drop),
            None => Ok(()),
        }
    }

    /// Makes status, tasks and files of an image agree. Whoever was at work has gone: the caller has their right to it.
    /// Answers the status; none, where there is no such image.
    pub(crate) async fn settle(&self, work: &Work) -> Result<Option<Status>, Error> {
        let (id, forgotten) = (work.image().to_owned(), Task::expiry());
        let image: Option<Image> = self
            .inner
            .store
            .write(move |tx| db::settle(tx, &id, forgotten))
            .await?;
        let status = image.map(|image| image.status);
        let left = match status {
            Some(Status::Active | Status::Deactivated) => Left::Data,
            Some(Status::Uploading) => Left::Staged,
            _ => Left::Nothing,
        };
        let (folder, id) = (self.inner.folder.clone(), work.image().to_owned());
        let kept = blocking(move || folder.leave(&id, left)).await;
        if left != Left::Staged || kept {
            return Ok(status);
        }
        let id = work.image().to_owned();
        self.inner
            .store
            .write(move |tx| db::set_status(tx, &id, Status::Uploading, Status::Queued))
            .await?;
        Ok(Some(Status::Queued))
    }
}
