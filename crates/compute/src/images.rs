//! Images on this host: fetched once through the conductor, checked, and kept as bases of disks.

use axum::body::Body;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt;
use types::ImageId;
use types::agent::{FailureKind, GuestImage};
use virt::HypervisorError;
use virt::libvirt::image::{BaseImage, BaseImages};
use web::client::Client;

/// The largest disk an image may unfold to when the flavor sets no size, in GiB.
const MOST_GIB: u64 = 1024;

/// Bytes of a file sent at once.
const PIECE: usize = 256 * 1024;

/// Why an image is not there.
pub(crate) type Failure = (FailureKind, String);

/// The host's base images.
pub struct ImageCache {
    bases: BaseImages,
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageCache {
    /// A cache in the hypervisor's folder of bases.
    pub fn new(bases: BaseImages) -> Self {
        Self {
            bases,
            fetching: Mutex::default(),
        }
    }

    /// Whether an image's base is here.
    pub(crate) fn has(&self, image: &GuestImage) -> bool {
        self.bases.cached(&image.id.to_string()).is_some()
    }

    /// The base of an image, fetched when it is not there yet; two servers with the same image fetch it once.
    pub(crate) async fn ensure(
        &self,
        from: &Client,
        host: &str,
        image: &GuestImage,
        root_gb: u32,
    ) -> Result<BaseImage, Failure> {
        let id = image.id.to_string();
        let fits = |base: BaseImage| check_size(base, root_gb);
        if let Some(base) = self.bases.cached(&id) {
            return fits(base);
        }
        let lock = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetching.entry(id.clone()).or_default())
        };
        let _one_at_a_time = lock.lock().await;
        if let Some(base) = self.bases.cached(&id) {
            return fits(base);
        }
        let download = self
            .bases
            .download_path(&id, &uuid::Uuid::new_v4().simple().to_string());
        let fetched = fetch(from, host, image, &download).await;
        if let Err(failure) = fetched {
            // What arrived is of no use; a file that was never made is fine.
            let _ = tokio::fs::remove_file(&download).await;
            return Err(failure);
        }
        let most = if root_gb == 0 {
            MOST_GIB
        } else {
            u64::from(root_gb)
        };
        let adopted = self
            .bases
            .adopt(&id, &download, &image.disk_format, most)
            .await;
        self.fetching
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        adopted.map_err(|error| (error.kind(), error.to_string()))
    }
}

/// Sends a file as the data of an image, through the conductor: agents have no credentials.
pub(crate) async fn upload(
    to: &Client,
    host: &str,
    image: ImageId,
    file: &Path,
) -> Result<(), Failure> {
    let disk = |error: std::io::Error| {
        let error = HypervisorError::disk(file.display(), &error);
        (error.kind(), error.to_string())
    };
    let open = tokio::fs::File::open(file).await.map_err(disk)?;
    let size = open.metadata().await.map_err(disk)?.len();
    let pieces = tokio_util::io::ReaderStream::with_capacity(open, PIECE);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_LENGTH, size.into());
    let path = format!("/agent/{host}/images/{image}");
    let answer = to
        .send(Method::PUT, &path, headers, Body::from_stream(pieces))
        .await
        .map_err(|error| (FailureKind::Unavailable, error.to_string()))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let said = web::body::bytes(answer.into_body(), 1 << 16).await;
    let said = said.map(|text| String::from_utf8_lossy(&text).into_owned());
    let kind = if status.is_server_error() {
        FailureKind::Unavailable
    } else {
        FailureKind::Request
    };
    let words = format!(
        "image {image} was not taken: {status} {}",
        said.unwrap_or_default()
    );
    Err((kind, words))
}

fn check_size(base: BaseImage, root_gb: u32) -> Result<BaseImage, Failure> {
    if root_gb > 0 && base.virtual_bytes > u64::from(root_gb) << 30 {
        let text = format!(
            "the image unfolds to {} bytes and the flavor's disk has {root_gb} GiB",
            base.virtual_bytes
        );
        return Err((FailureKind::Request, text));
    }
    Ok(base)
}

async fn fetch(from: &Client, host: &str, image: &GuestImage, into: &Path) -> Result<(), Failure> {
    let path = format!("/agent/{host}/images/{}", image.id);
    let answer = from
        .send(Method::GET, &path, HeaderMap::new(), Body::empty())
        .await;
    let answer = answer.map_err(|error| (FailureKind::Unavailable, error.to_string()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err((FailureKind::Request, format!("image {} is gone", image.id)));
        }
        other => {
            return Err((
                FailureKind::Unavailable,
                format!("image {} could not be fetched: {other}", image.id),
            ));
        }
    }
    let disk = |error: std::io::Error| {
        let error = HypervisorError::disk(into.display(), &error);
        (error.kind(), error.to_string())
    };
    let mut file = tokio::fs::File::create(into).await.map_err(disk)?;
    let mut hash = Sha512::new();
    let mut size: u64 = 0;
    let mut body = answer.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            (
                FailureKind::Unavailable,
                format!("image {} broke off: {error}", image.id),
            )
        })?;
        size += chunk.len() as u64;
        if size > image.size {
            break;
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let right = image
        .sha512
        .as_ref()
        .is_none_or(|wanted| wanted.eq_ignore_ascii_case(&hex::encode(hash.finalize())));
    if size != image.size || !right {
        return Err((
            FailureKind::Request,
            format!(
                "image {} is not what the image service said it is",
                image.id
            ),
        ));
    }
    Ok(())
}
