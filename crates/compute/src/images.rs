//! Images on this host: fetched once through the conductor, checked, and kept as bases of disks.

use crate::digests::{Digesting, Digests};
use crate::peers;
use axum::body::Body;
use http::{HeaderMap, Method, StatusCode};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use types::agent::{FailureKind, GuestImage};
use types::{ImageId, ServerId};
use virt::HypervisorError;
use virt::libvirt::image::{BaseImage, BaseImages};
use web::client::Client;

/// The largest disk an image may unfold to when the flavor sets no size, in GiB.
const MOST_GIB: u64 = 1024;

/// The note of a base that came from another host: what image it was made of nobody has seen here.
const COPIED: &str = "copied from another host";

/// Bytes of a file sent at once.
const PIECE: usize = 256 * 1024;

/// How long an image service may take for data that it has got, from the last piece on.
const STORED: Duration = Duration::from_secs(600);

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
    /// Returns which they were.
    pub(crate) async fn remove_unused(&self, age: Duration) -> Result<Vec<PathBuf>, Failure> {
        let removed = self.of_bases(move |bases| bases.remove_unused(age)).await?;
        for base in &removed {
            tracing::info!(base = %base.display(), "a base image that nobody needs is removed");
        }
        Ok(removed)
    }

    /// The bases that [`Self::remove_unused`] removes.
    pub(crate) async fn unused(&self, age: Duration) -> Result<Vec<PathBuf>, Failure> {
        self.of_bases(move |bases| bases.unused(age)).await
    }

    async fn of_bases(
        &self,
        look: impl FnOnce(&BaseImages) -> io::Result<Vec<PathBuf>> + Send + 'static,
    ) -> Result<Vec<PathBuf>, Failure> {
        let bases = self.bases.clone();
        let unknown = |reason: String| {
            let words = format!("base images that nobody needs cannot be told: {reason}");
            (FailureKind::Host, words)
        };
        let looked = tokio::task::spawn_blocking(move || look(&bases)).await;
        let found = looked.map_err(|error| unknown(error.to_string()))?;
        found.map_err(|error| unknown(error.to_string()))
    }

    /// Whether an image's base is here.
    pub(crate) fn has(&self, image: &GuestImage) -> bool {
        self.bases.cached(&image.id.to_string()).is_some()
    }

    /// The base of an image, fetched when it is not there yet; two servers with the same image fetch it once. It is given
    /// up when `stop` is called: whoever waits for the same image then fetches it. Also one that is there is held against
    /// the signature that this server wants.
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
        if let Some(base) = self.verified(&id, image)? {
            return fits(base);
        }
        let lock = self.turn(&id);
        let _one_at_a_time = stop
            .run_until_cancelled(lock.lock())
            .await
            .ok_or_else(called_off)?;
        if let Some(base) = self.verified(&id, image)? {
            return fits(base);
        }
        if let Some(base) = self.bases.cached(&id) {
            let looked = stop
                .run_until_cancelled(self.look_again(from, host, image, &base))
                .await;
            looked.unwrap_or_else(|| Err(called_off()))?;
            return fits(base);
        }
        let unique = uuid::Uuid::new_v4().simple().to_string();
        // What arrived is of no use where the rest did not, or where nobody waits for it any more.
        let download = TempPath::try_from_path(self.bases.download_path(&id, &unique))
            .map_err(|error| (FailureKind::Host, error.to_string()))?;
        let fetched = stop
            .run_until_cancelled(fetch_verified(from, host, image, &download))
            .await;
        let digests = fetched.unwrap_or_else(|| Err(called_off()))?;
        let most = if root_gb == 0 {
            MOST_GIB
        } else {
            u64::from(root_gb)
        };
        let adopted = self
            .bases
            .adopt(&id, &download, &image.disk_format, most)
            .await;
        let (base, ours) = adopted.map_err(|error| {
            self.end_turn(&id);
            (error.kind(), error.to_string())
        })?;
        if ours {
            self.note(&id, &digests);
        } else if self.verified(&id, image)?.is_none() {
            self.look_again(from, host, image, &base).await?;
        }
        self.end_turn(&id);
        Ok(base)
    }

    /// The base that a server's disk stands on which is on another host, copied from there when it is not here.
    pub(crate) async fn ensure_base(
        &self,
        from: &Client,
        server: ServerId,
        base: &peers::Listed,
        stop: &CancellationToken,
    ) -> Result<BaseImage, Failure> {
        let lock = self.turn(&base.name);
        let copying = async {
            let _one_at_a_time = lock.lock().await;
            if let Some(base) = self.bases.cached(&base.name) {
                return Ok(base);
            }
            let unique = uuid::Uuid::new_v4().simple().to_string();
            let copy = self.bases.download_path(&base.name, &unique);
            let copy = TempPath::try_from_path(copy)
                .map_err(|error| (FailureKind::Host, error.to_string()))?;
            peers::fetch_base(from, server, base.size, &copy).await?;
            self.bases
                .take_over(&base.name, &copy, COPIED)
                .map_err(|error| (error.kind(), error.to_string()))
        };
        let copied = stop.run_until_cancelled(copying).await;
        self.end_turn(&base.name);
        copied.unwrap_or_else(|| Err(called_off()))
    }

    /// A base that is here, by its name.
    pub(crate) fn named(&self, name: &str) -> Option<BaseImage> {
        self.bases.cached(name)
    }

    /// Who fetches a base is the only one.
    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(fetching.entry(name.to_owned()).or_default())
    }

    fn end_turn(&self, name: &str) {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.remove(name);
    }

    /// The base of an image if it is here and what is noted of it suffices for this server.
    fn verified(&self, id: &str, image: &GuestImage) -> Result<Option<BaseImage>, Failure> {
        let noted = match &image.check {
            None => Digests::default(),
            Some(_) => self.noted(id),
        };
        let suffices = noted.suffice(image)?;
        Ok(self.bases.cached(id).filter(|_| suffices))
    }

    /// Reads an image again whose base is here, for the digest that a signature is of.
    async fn look_again(
        &self,
        from: &Client,
        host: &str,
        image: &GuestImage,
        base: &BaseImage,
    ) -> Result<(), Failure> {
        let id = image.id.to_string();
        let is_copied = self.bases.note(&id).is_some_and(|note| note == COPIED);
        let digests = fetch(from, host, image, None).await?;
        let noted = self.noted(&id);
        // A base of which nothing is noted was held against what the image service says, if that says something.
        let before = noted.sha512().or(image.sha512.as_deref());
        let same = before
            .zip(digests.sha512())
            .is_some_and(|(before, now)| before.eq_ignore_ascii_case(now));
        if is_copied || !same {
            let words = format!(
                "it cannot be told whether the base of image {} on this host is what was signed. Have an administrator \
                 remove {} once no server needs it.",
                image.id,
                base.path.display()
            );
            return Err((FailureKind::Host, words));
        }
        digests.suffice(image)?;
        self.note(&id, &digests);
        Ok(())
    }

    fn noted(&self, id: &str) -> Digests {
        let note = self.bases.note(id);
        note.map(|note| Digests::read(&note)).unwrap_or_default()
    }

    /// What is not noted is looked up again.
    fn note(&self, id: &str, digests: &Digests) {
        if let Err(error) = self.bases.set_note(id, &digests.note()) {
            tracing::warn!(image = id, %error, "the digests of an image cannot be noted");
        }
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
    let body = Body::from_stream(pieces);
    let answer = to
        .send_within(STORED, Method::PUT, &path, headers, body)
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

fn called_off() -> Failure {
    let words = HypervisorError::Cancelled.to_string();
    (FailureKind::Cancelled, words)
}

/// What is said of an image that the image service does not have.
fn gone(image: &GuestImage) -> Failure {
    let words = format!("image {} is gone", image.id);
    (FailureKind::Request, words)
}

/// Whether that is why an image was not fetched.
pub(crate) fn is_gone(failure: &Failure, image: &GuestImage) -> bool {
    *failure == gone(image)
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

/// Fetches an image into a file, and holds it against its signature.
async fn fetch_verified(
    from: &Client,
    host: &str,
    image: &GuestImage,
    into: &Path,
) -> Result<Digests, Failure> {
    let digests = fetch(from, host, image, Some(into)).await?;
    digests.suffice(image)?;
    Ok(digests)
}

/// Fetches the bytes of an image, into a file if they are wanted, and gives their digests.
pub(crate) async fn fetch(
    from: &Client,
    host: &str,
    image: &GuestImage,
    into: Option<&Path>,
) -> Result<Digests, Failure> {
    let path = format!("/agent/{host}/images/{}", image.id);
    let answer = from
        .send(Method::GET, &path, HeaderMap::new(), Body::empty())
        .await;
    let answer = answer.map_err(|error| (FailureKind::Unavailable, error.to_string()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(gone(image)),
        other => {
            return Err((
                FailureKind::Unavailable,
                format!("image {} could not be fetched: {other}", image.id),
            ));
        }
    }
    let disk = |error: std::io::Error| {
        let error = HypervisorError::disk(into.unwrap_or(Path::new("")).display(), &error);
        (error.kind(), error.to_string())
    };
    let mut file = match into {
        Some(path) => Some(tokio::fs::File::create(path).await.map_err(disk)?),
        None => None,
    };
    let mut digesting = Digesting::of(image);
    let mut size: u64 = 0;
    let mut body = answer.into_body().into_data_stream();
    let broke_off = |reason: String| {
        let words = format!("image {} broke off: {reason}", image.id);
        (FailureKind::Unavailable, words)
    };
    while let Some(chunk) = peers::next_piece(&mut body, peers::STILL)
        .await
        .map_err(broke_off)?
    {
        size += chunk.len() as u64;
        if size > image.size {
            break;
        }
        digesting.update(&chunk);
        if let Some(file) = &mut file {
            file.write_all(&chunk).await.map_err(disk)?;
        }
    }
    if let Some(file) = &mut file {
        file.flush().await.map_err(disk)?;
    }
    let digests = digesting.finish();
    let right = image.sha512.as_ref().is_none_or(|wanted| {
        digests
            .sha512()
            .is_some_and(|found| wanted.eq_ignore_ascii_case(found))
    });
    if size != image.size || !right {
        return Err((
            FailureKind::Request,
            format!(
                "image {} is not what the image service said it is",
                image.id
            ),
        ));
    }
    Ok(digests)
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
