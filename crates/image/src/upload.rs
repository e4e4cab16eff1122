//! Data on their way in: from a body through the checks into the store.

use crate::db;
use crate::fault::Fault;
use crate::files::{Claim, DataError};
use crate::model::{Image, Status, Written};
use crate::service::{Service, blocking};
use crate::work::Work;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Pieces that wait for the disk.
const PIECES: usize = 16;
/// How long a client may be silent in the middle of its data.
const SILENCE: Duration = Duration::from_secs(900);
/// How long, and how many bytes, a refused client is listened to, so that it reads why instead of losing its
/// connection while it still sends.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 << 20;

/// A part of the data, or why there are no more. The empty part is the end: a channel that just closes means that
/// the reader died.
type Piece = Result<Bytes, String>;

impl Service {
    /// Takes the data of a queued image. The work goes on when the caller is dropped, so that an image never
    /// stays in `saving` because its client went away.
    pub(crate) async fn upload(
        &self,
        image: Image,
        body: Body,
        announced: Option<u64>,
    ) -> Result<(), Fault> {
        let service = self.clone();
        let task = tokio::spawn(async move {
            let work = service.work_to(&image.id, Status::Saving).await?;
            service.take_data(&work, &image, body, announced).await
        });
        task.await
            .unwrap_or_else(|error| Err(Fault::internal(&error)))
    }

    /// The same for whoever works on the image, and is not dropped.
    pub(crate) async fn take_data(
        &self,
        work: &Work,
        image: &Image,
        body: Body,
        announced: Option<u64>,
    ) -> Result<(), Fault> {
        let claim = claim(image)?;
        if announced.is_some_and(|size| size > self.inner.config.max_size) {
            return Err(data_fault(&DataError::TooLarge {
                limit: self.inner.config.max_size,
            }));
        }
        self.change_status(&image.id, Status::Queued, Status::Saving)
            .await?;
        let target = self.inner.folder.path(&image.id);
        match self
            .receive(work, body, announced, Some(claim), target)
            .await
        {
            Ok(written) => self.activate(&image.id, Status::Saving, written).await,
            Err(error) => {
                self.restore(&image.id, Status::Saving, Status::Queued)
                    .await;
                Err(data_fault(&error))
            }
        }
    }

    /// Writes a body to `target`, hashing and inspecting it. No thread waits for a client that is slow: the pieces
    /// that have come are written together.
    pub(crate) async fn receive(
        &self,
        work: &Work,
        body: Body,
        announced: Option<u64>,
        claim: Option<Claim>,
        target: PathBuf,
    ) -> Result<Written, DataError> {
        let (folder, limit) = (self.inner.folder.clone(), self.inner.config.max_size);
        let id = work.image().to_owned();
        let mut writer = blocking(move || folder.writer(&id, limit, claim)).await?;
        let (sender, mut receiver) = mpsc::channel(PIECES);
        // The reader runs beside the writer, so that the next pieces come while these are written.
        tokio::spawn(feed(body, sender));
        let mut size = 0;
        loop {
            let mut pieces: Vec<Piece> = Vec::with_capacity(PIECES);
            if receiver.recv_many(&mut pieces, PIECES).await == 0 {
                return Err(DataError::Broken("nobody reads it".to_owned()));
            }
            let ended = matches!(pieces.last(), Some(Ok(piece)) if piece.is_empty());
            let pieces: Vec<Bytes> = pieces
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(DataError::Broken)?;
            size += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            writer = blocking(move || {
                pieces.iter().try_for_each(|piece| writer.write(piece))?;
                Ok::<_, DataError>(writer)
            })
            .await?;
            if ended {
                break;
            }
        }
        if let Some(announced) = announced.filter(|announced| *announced != size) {
            return Err(DataError::Broken(format!(
                "{size} of {announced} bytes came"
            )));
        }
        blocking(move || writer.finish(&target)).await
    }

    /// The data are in place: makes the image active, or removes them when it was deleted meanwhile.
    pub(crate) async fn activate(
        &self,
        id: &str,
        from: Status,
        written: Written,
    ) -> Result<(), Fault> {
        let image = id.to_owned();
        let done = self
            .inner
            .store
            .write(move |tx| db::set_active(tx, &image, from, &written))
            .await;
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.remove_data(id).await;
                Err(Fault::new(
                    StatusCode::GONE,
                    format!(
                        "Image {id} could not be found after upload. The image may have been deleted during the upload, \
                         cleaning up the chunks uploaded."
                    ),
                ))
            }
            Err(error) => {
                self.restore(id, from, Status::Queued).await;
                Err(error.into())
            }
        }
    }
}

async fn feed(body: Body, sender: mpsc::Sender<Piece>) {
    let mut stream = body.into_data_stream();
    loop {
        let piece = match timeout(SILENCE, stream.next()).await {
            Ok(None) => {
                let _ = sender.send(Ok(Bytes::new())).await;
                return;
            }
            Ok(Some(Ok(piece))) if piece.is_empty() => continue,
            Ok(Some(piece)) => piece.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing came for {} seconds", SILENCE.as_secs())),
        };
        let broken = piece.is_err();
        if sender.send(piece).await.is_err() {
            let _ = timeout(LINGER, drain(stream)).await;
            return;
        }
        if broken {
            return;
        }
    }
}

async fn drain(mut stream: BodyDataStream) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(piece)) = stream.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

/// What the data must be; 400 when the image does not say it yet.
pub(crate) fn claim(image: &Image) -> Result<Claim, Fault> {
    match (&image.disk_format, &image.container_format) {
        (Some(disk), Some(container)) => Ok(Claim {
            disk_format: disk.clone(),
            container_format: container.clone(),
        }),
        (None, None) => Err(Fault::bad_request(
            "Properties disk_format, container_format must be set prior to saving data.",
        )),
        (None, _) => Err(Fault::bad_request(
            "Property disk_format must be set prior to saving data.",
        )),
        (_, None) => Err(Fault::bad_request(
            "Property container_format must be set prior to saving data.",
        )),
    }
}

/// The statuses are those of Glance's image_data controller.
pub(crate) fn data_fault(error: &DataError) -> Fault {
    match error {
        DataError::TooLarge { limit } => Fault::too_large(format!(
            "The incoming image is too large: the limit is {limit} bytes."
        )),
        DataError::Full(error) => {
            tracing::error!(%error, "the image store is full");
            Fault::too_large(
                "Image storage media is full: There is not enough disk space on the image storage media.",
            )
        }
        DataError::Refused(refusal) => {
            Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal.to_string())
        }
        DataError::Broken(why) => Fault::bad_request(format!("The upload broke off: {why}")),
        DataError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::error!(%error, "the image store cannot be written");
            Fault::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Insufficient permissions on image storage media.",
            )
        }
        DataError::Io(error) => Fault::internal(error),
    }
}
