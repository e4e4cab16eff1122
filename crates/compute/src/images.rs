//! Images on this host: fetched once through the conductor, checked, and kept as bases of disks.

use axum::body::Body;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use sha2::{Digest, Sha512};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
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

    /// Removes bases that no guest needs and nobody has asked for within `age`.
    pub(crate) async fn remove_unused(&self, age: Duration) {
        let bases = self.bases.clone();
        let removing = tokio::task::spawn_blocking(move || bases.remove_unused(age));
        match removing.await {
            Ok(Ok(removed)) => {
                for base in removed {
                    tracing::info!(base = %base.display(), "a base image that nobody needs is removed");
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "base images that nobody needs cannot be told");
            }
            Err(error) => tracing::error!(%error, "the look at base images broke off"),
        }
    }

    /// Whether an image's base is here.
    pub(crate) fn has(&self, image: &GuestImage) -> bool {
        self.bases.cached(&image.id.to_string()).is_some()
    }

    /// The base of an image, fetched when it is not there yet; two servers with the same image fetch it once. It is given
    /// up when `stop` is called: whoever waits for the same image then fetches it.
    pub(crate) async fn ensure(
        &self,
        from: &Client,
        host: &str,
        image: &GuestImage,
        root_gb: u32,
        stop: &CancellationToken,
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
        let called_off = || {
            (
                FailureKind::Cancelled,
                HypervisorError::Cancelled.to_string(),
            )
        };
        let _one_at_a_time = stop
            .run_until_cancelled(lock.lock())
            .await
            .ok_or_else(called_off)?;
        if let Some(base) = self.bases.cached(&id) {
            return fits(base);
        }
        let download = self
            .bases
            .download_path(&id, &uuid::Uuid::new_v4().simple().to_string());
        let fetched = stop
            .run_until_cancelled(fetch(from, host, image, &download))
            .await
            .unwrap_or_else(|| Err(called_off()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::routing::get;
    use axum::{Router, http::Response};

    fn image() -> GuestImage {
        GuestImage {
            id: ImageId::random(),
            disk_format: "raw".to_owned(),
            size: 5,
            sha512: None,
        }
    }

    /// A conductor from which no second byte comes.
    fn slow() -> Client {
        let never = || async {
            let first = futures_util::stream::iter([Ok::<_, std::io::Error>("h")]);
            let body = first.chain(futures_util::stream::pending());
            Response::new(Body::from_stream(body))
        };
        let router = Router::new().route("/agent/{host}/images/{image}", get(never));
        Client::in_process("the conductor", router)
    }

    #[tokio::test]
    async fn a_fetch_that_is_called_off_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
        let (client, image, stop) = (slow(), image(), CancellationToken::new());
        let bases = folder.path().join("_base");
        let files = || std::fs::read_dir(&bases).unwrap().count();
        let calling_off = async {
            while files() == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            stop.cancel();
        };
        let fetching = cache.ensure(&client, "h", &image, 0, &stop);
        let (fetched, ()) = tokio::join!(fetching, calling_off);
        assert_eq!(fetched.unwrap_err().0, FailureKind::Cancelled);
        assert_eq!(files(), 0);
        // One that waits for another's fetch is not kept by it.
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        second.cancel();
        let others = cache.ensure(&client, "h", &image, 0, &first);
        let own = async {
            let waited = cache.ensure(&client, "h", &image, 0, &second).await;
            first.cancel();
            waited
        };
        let (others, own) = tokio::join!(others, own);
        assert_eq!(own.unwrap_err().0, FailureKind::Cancelled);
        assert_eq!(others.unwrap_err().0, FailureKind::Cancelled);
    }

    /// Gone, not what it should be, and an image service that is away: each says so, and nothing is left.
    #[tokio::test]
    async fn images_that_cannot_be_had_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(BaseImages::open(folder.path()).unwrap());
        let bases = folder.path().join("_base");
        let table = [
            (StatusCode::NOT_FOUND, FailureKind::Request, "is gone"),
            (
                StatusCode::OK,
                FailureKind::Request,
                "is not what the image service said it is",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                FailureKind::Unavailable,
                "could not be fetched: 503",
            ),
        ];
        for (status, kind, words) in table {
            let answer = move || async move { (status, "four") };
            let router = Router::new().route("/agent/{host}/images/{image}", get(answer));
            let client = Client::in_process("the conductor", router);
            let (image, stop) = (image(), CancellationToken::new());
            let fetched = cache.ensure(&client, "h", &image, 0, &stop).await;
            let (told, message) = fetched.unwrap_err();
            assert_eq!(told, kind, "{message}");
            assert!(message.contains(words), "{message}");
            assert!(message.contains(&image.id.to_string()), "{message}");
            assert_eq!(std::fs::read_dir(&bases).unwrap().count(), 0);
        }
    }
}
