//! How the files of a guest get from the host that it leaves to the one that it goes to.
//!
//! The agent of the first serves what is aside ([`router`]), the agent of the second fetches it ([`fetch`]); guests that
//! go while they run are sent, see [`crate::passage`]. How one reaches the other is the [`Peers`]'s: in one process by a
//! call, between machines by a channel on which both have proved who they are. Between machines a host gets only what
//! concerns a guest that moves between the two now ([`guarded`]).

use crate::images::Failure;
use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path as Segments, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use types::agent::FailureKind;
use types::{HostName, ServerId};
use virt::{Hypervisor, HypervisorError};
use web::client::Client;
use web::tls::PeerHost;

/// How long the agent of another host may be away while a guest moves between the two.
const RESTART: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(500);
/// How long the next piece of a stream may take.
pub(crate) const STILL: Duration = Duration::from_secs(60);
/// Files of one guest at most.
const MOST_FILES: usize = 64;
/// Bytes of a list of files at most.
const LIST_LIMIT: usize = 64 * 1024;
/// Bytes of a file sent at once.
const PIECE: usize = 256 * 1024;

/// Which way a guest goes, as a host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the other host to this one.
    Here,
    /// From this host to the other one.
    There,
}

/// Knows the ways to other hosts' agents.
#[async_trait::async_trait]
pub trait Peers: Send + Sync + 'static {
    /// The way to a host's agent; none is known.
    async fn reach(&self, host: &HostName) -> Option<Arc<Client>>;

    /// Whether a guest moves between this host and the other one now.
    async fn moves(&self, host: &HostName, server: ServerId, way: Way) -> bool;
}

/// The agents of one process.
#[derive(Default)]
pub struct Neighbourhood(RwLock<HashMap<HostName, Arc<Client>>>);

impl Neighbourhood {
    /// From now on the host's guests that are aside can be fetched.
    pub fn join(&self, host: &HostName, hypervisor: Arc<dyn Hypervisor>) {
        let client = Arc::new(Client::in_process("the other host", router(hypervisor)));
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(host.clone(), client);
    }
}

#[async_trait::async_trait]
impl Peers for Neighbourhood {
    async fn reach(&self, host: &HostName) -> Option<Arc<Client>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(host).cloned()
    }

    async fn moves(&self, _host: &HostName, _server: ServerId, _way: Way) -> bool {
        true
    }
}

/// One file of a guest, or the base of its disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Listed {
    async fn of(path: &Path) -> Result<Option<Self>, Refusal> {
        let Some(name) = name_of(path) else {
            return Ok(None);
        };
        let size = tokio::fs::metadata(path).await.map_err(broken)?.len();
        Ok(Some(Self {
            name: name.to_owned(),
            size,
        }))
    }

    /// It stays a name where it becomes part of a path.
    fn is_plain(&self) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !self.name.is_empty() && !self.name.starts_with('.') && self.name.bytes().all(allowed)
    }
}

/// What stands between other hosts and the guests here.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// Who knows which guests move; where there is nobody, whoever asks is in this process.
    peers: Option<Arc<dyn Peers>>,
}

impl Gate {
    /// Refuses a host that has proved to be none, or between which and this one the guest does not move.
    pub(crate) async fn check(
        &self,
        known: &http::Extensions,
        server: ServerId,
        way: Way,
    ) -> Result<(), Refusal> {
        let Some(peers) = &self.peers else {
            return Ok(());
        };
        let proven = known.get::<PeerHost>();
        let refused = |why: String| (StatusCode::FORBIDDEN, why);
        let host = proven.map(|PeerHost(name)| HostName(name.to_string()));
        let host = host.ok_or_else(|| refused("the certificate names no host".to_owned()))?;
        if peers.moves(&host, server, way).await {
            return Ok(());
        }
        tracing::warn!(%host, %server, ?way, "a host asked for a guest that does not move between the two");
        Err(refused(format!(
            "server {server} does not move between {host} and this host"
        )))
    }
}

/// What other hosts may fetch of the guests that are aside here, for those in the same process.
pub fn router(hypervisor: Arc<dyn Hypervisor>) -> Router {
    routes(Gate {
        hypervisor,
        peers: None,
    })
}

/// What other hosts use, for those on other machines.
pub fn guarded(hypervisor: Arc<dyn Hypervisor>, peers: Arc<dyn Peers>) -> Router {
    routes(Gate {
        hypervisor,
        peers: Some(peers),
    })
}

fn routes(gate: Gate) -> Router {
    Router::new()
        .route("/aside/{server}", get(list))
        .route("/aside/{server}/{name}", get(send))
        .route("/base/{server}", get(name_base))
        .route("/base/{server}/data", get(send_base))
        .merge(crate::passage::routes())
        .with_state(gate)
}

pub(crate) type Refusal = (StatusCode, String);

async fn files(
    hypervisor: &Arc<dyn Hypervisor>,
    server: ServerId,
) -> Result<Vec<PathBuf>, Refusal> {
    hypervisor
        .aside_files(server)
        .await
        .map_err(|error| match error {
            HypervisorError::NotFound(_) => (StatusCode::NOT_FOUND, error.to_string()),
            other => (StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        })
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn broken(error: std::io::Error) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn list(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<Response, Refusal> {
    gate.check(request.extensions(), server, Way::There).await?;
    let mut listed = Vec::new();
    for path in files(&gate.hypervisor, server).await? {
        listed.extend(Listed::of(&path).await?);
    }
    Ok(axum::Json(listed).into_response())
}

async fn send(
    State(gate): State<Gate>,
    Segments((server, name)): Segments<(ServerId, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    gate.check(request.extensions(), server, Way::There).await?;
    let files = files(&gate.hypervisor, server).await?;
    // Only what was listed: a name never becomes a path.
    let path = files
        .into_iter()
        .find(|path| name_of(path) == Some(name.as_str()));
    let missing = || (StatusCode::NOT_FOUND, format!("no file {name}"));
    stream(&path.ok_or_else(missing)?).await
}

async fn stream(path: &Path) -> Result<Response, Refusal> {
    let file = tokio::fs::File::open(path).await.map_err(broken)?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, PIECE);
    Ok(Response::new(Body::from_stream(pieces)))
}

async fn base(gate: &Gate, server: ServerId, known: &http::Extensions) -> Result<PathBuf, Refusal> {
    gate.check(known, server, Way::There).await?;
    let base = gate.hypervisor.disk_base(server).await;
    base.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .ok_or_else(|| (StatusCode::NOT_FOUND, "its disk stands on no base".into()))
}

async fn name_base(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<Response, Refusal> {
    let base = base(&gate, server, request.extensions()).await?;
    Ok(axum::Json(Listed::of(&base).await?).into_response())
}

async fn send_base(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<Response, Refusal> {
    stream(&base(&gate, server, request.extensions()).await?).await
}

/// Fetches the files of a guest that is aside on another host into a folder.
pub(crate) async fn fetch(from: &Client, server: ServerId, into: &Path) -> Result<(), Failure> {
    let answer = ask(from, &format!("/aside/{server}")).await?;
    let unreadable = |reason: String| {
        let words = format!("the other host's list of files: {reason}");
        (FailureKind::Unavailable, words)
    };
    let text = web::body::bytes(answer.into_body(), LIST_LIMIT)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    let listed: Vec<Listed> =
        serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if listed.len() > MOST_FILES {
        return Err(unreadable(format!("{} files", listed.len())));
    }
    for file in listed {
        if !file.is_plain() {
            return Err(unreadable(format!("a file called '{}'", file.name)));
        }
        let answer = ask(from, &format!("/aside/{server}/{}", file.name)).await?;
        receive(answer.into_body(), &into.join(&file.name), file.size).await?;
    }
    Ok(())
}

/// The base of a guest's disk on another host. None where the disk stands on none, or the host's release does not say.
pub(crate) async fn base_of(from: &Client, server: ServerId) -> Result<Option<Listed>, Failure> {
    let Some(answer) = find(from, &format!("/base/{server}")).await? else {
        return Ok(None);
    };
    let text = web::body::bytes(answer.into_body(), LIST_LIMIT).await;
    let read = text.map_err(|error| error.to_string()).and_then(|text| {
        serde_json::from_slice::<Listed>(&text).map_err(|error| error.to_string())
    });
    let unreadable = |reason: String| {
        let words = format!("the other host's word of the disk's base: {reason}");
        (FailureKind::Unavailable, words)
    };
    let base = read.map_err(unreadable)?;
    if !base.is_plain() {
        return Err(unreadable(format!("a base called '{}'", base.name)));
    }
    Ok(Some(base))
}

/// Fetches the base of a guest's disk, which has this many bytes, into a file.
pub(crate) async fn fetch_base(
    from: &Client,
    server: ServerId,
    size: u64,
    into: &Path,
) -> Result<(), Failure> {
    let answer = ask(from, &format!("/base/{server}/data")).await?;
    receive(answer.into_body(), into, size).await
}

async fn ask(from: &Client, path: &str) -> Result<Response, Failure> {
    find(from, path).await?.ok_or_else(|| {
        let words = "the other host does not have the guest's files".to_owned();
        (FailureKind::Host, words)
    })
}

/// None where the other host does not have it.
async fn find(from: &Client, path: &str) -> Result<Option<Response>, Failure> {
    let answer = reach(from, Method::GET, path).await;
    let answer = answer.map_err(|error| (FailureKind::Unavailable, error))?;
    match answer.status() {
        StatusCode::OK => Ok(Some(answer)),
        StatusCode::NOT_FOUND => Ok(None),
        other => {
            let words = format!("the other host does not send the guest's files: {other}");
            Err((FailureKind::Unavailable, words))
        }
    }
}

/// Asks something that may be asked again, as often as it takes the other host's agent to be there after a restart.
pub(crate) async fn reach(to: &Client, method: Method, path: &str) -> Result<Response, String> {
    let until = tokio::time::Instant::now() + RESTART;
    loop {
        let sent = to.send(method.clone(), path, HeaderMap::new(), Body::empty());
        match sent.await {
            Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(AGAIN).await,
            answered => return answered.map_err(|error| error.to_string()),
        }
    }
}

/// The next piece of a stream, none at its end. One that stands still for so long is given up: who sends it may have lost its
/// power.
pub(crate) async fn next_piece(
    pieces: &mut BodyDataStream,
    still: Duration,
) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(still, pieces.next()).await {
        Ok(piece) => piece.transpose().map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing more came for {still:?}")),
    }
}

/// Writes a file of exactly this many bytes. Runs of zeros, of which a disk is mostly made, take no room.
pub(crate) async fn receive(body: Body, path: &Path, size: u64) -> Result<(), Failure> {
    let disk_with = |got: u64, error: std::io::Error| {
        let error = HypervisorError::writing(path, size.saturating_sub(got), &error);
        (error.kind(), error.to_string())
    };
    let disk = |error| disk_with(0, error);
    let broke_off = |reason: String| {
        let words = format!("a file of the guest broke off: {reason}");
        (FailureKind::Unavailable, words)
    };
    let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
    let mut got: u64 = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = next_piece(&mut pieces, STILL).await.map_err(broke_off)? {
        let before = got;
        got += piece.len() as u64;
        if got > size {
            break;
        }
        if piece.iter().all(|byte| *byte == 0) {
            let skipped = file.seek(SeekFrom::Start(got)).await;
            skipped.map_err(|error| disk_with(before, error))?;
        } else {
            let written = file.write_all(&piece).await;
            written.map_err(|error| disk_with(before, error))?;
        }
    }
    if got != size {
        return Err(broke_off(format!("{got} bytes instead of {size}")));
    }
    file.flush().await.map_err(disk)?;
    file.set_len(size).await.map_err(disk)?;
    file.sync_all().await.map_err(disk)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Knows one guest that goes to `h2`.
    struct One(ServerId);

    #[async_trait::async_trait]
    impl Peers for One {
        async fn reach(&self, _host: &HostName) -> Option<Arc<Client>> {
            None
        }

        async fn moves(&self, host: &HostName, server: ServerId, way: Way) -> bool {
            host.0 == "h2" && server == self.0 && way == Way::There
        }
    }

    #[tokio::test]
    async fn a_host_gets_only_guests_that_move_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let sim = virt::sim::Sim::open(virt::sim::SimConfig::large(folder.path(), "h1")).unwrap();
        let (moving, staying) = (ServerId::random(), ServerId::random());
        let table = [
            (Some("h2"), moving, "GET", "aside/ID", 404),
            (Some("h2"), moving, "GET", "aside/ID/disk", 404),
            (Some("h2"), staying, "GET", "aside/ID", 403),
            (Some("h2"), staying, "GET", "aside/ID/disk", 403),
            (Some("h2"), moving, "GET", "base/ID", 404),
            (Some("h2"), staying, "GET", "base/ID", 403),
            (Some("h2"), staying, "GET", "base/ID/data", 403),
            (Some("h3"), moving, "GET", "aside/ID", 403),
            (None, moving, "GET", "aside/ID", 403),
            (Some("h2"), moving, "POST", "live/ID", 403),
            (Some("h2"), moving, "DELETE", "live/ID", 403),
            (Some("h2"), moving, "PUT", "live/ID/drive", 403),
            (Some("h2"), moving, "PUT", "live/ID/passphrase", 403),
            (Some("h2"), moving, "GET", "live/ID/doors/hypervisor", 403),
        ];
        for (host, server, method, path, status) in table {
            let hypervisor = Arc::clone(&sim) as Arc<dyn Hypervisor>;
            let router = guarded(hypervisor, Arc::new(One(moving)));
            let path = format!("/{}", path.replace("ID", &server.to_string()));
            let mut request = Request::new(Body::empty());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = path.parse().unwrap();
            if let Some(host) = host {
                request.extensions_mut().insert(PeerHost(host.into()));
            }
            let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{host:?} {method} {path}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_stands_still_is_given_up() {
        let soon = Duration::from_millis(50);
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("first")]);
        let body = Body::from_stream(first.chain(futures_util::stream::pending()));
        let mut pieces = body.into_data_stream();
        let piece = next_piece(&mut pieces, soon).await.unwrap().unwrap();
        assert_eq!(&piece[..], b"first");
        let why = next_piece(&mut pieces, soon).await.unwrap_err();
        assert!(why.contains("nothing more came for 50ms"), "{why}");
        let mut empty = Body::empty().into_data_stream();
        assert_eq!(next_piece(&mut empty, soon).await, Ok(None));
    }

    #[tokio::test]
    async fn zeros_take_no_room() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let (zeros, data) = (vec![0; 8 << 20], vec![7; 4096]);
        let whole = [&zeros[..], &data, &zeros].concat();
        let pieces = [zeros.clone(), data, zeros].map(Ok::<_, std::io::Error>);
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        receive(body, &path, whole.len() as u64).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(taken < 1 << 20, "{taken} bytes on disk");
    }

    #[tokio::test]
    async fn a_full_disk_is_told_with_what_it_has_and_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let pieces = [vec![7; 4096], vec![7; 4096]].map(Ok::<_, std::io::Error>);
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let (_, words) = receive(body, &path, 8192).await.unwrap_err();
        let free = format!("bytes are free in {}", folder.path().display());
        for part in ["No space left", &free, "more are needed", "another host"] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[tokio::test]
    async fn only_plain_names_and_whole_files_are_taken() {
        let id = ServerId::random();
        let serve = |listed: &'static str| {
            let routes = Router::new()
                .route("/aside/{server}", get(move || async move { listed }))
                .route("/aside/{server}/{name}", get(|| async { "12345" }));
            Client::in_process("the other host", routes)
        };
        let folder = tempfile::tempdir().unwrap();
        let good = serve(r#"[{"name": "disk", "size": 5}]"#);
        fetch(&good, id, folder.path()).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("disk")).unwrap(), b"12345");
        for bad in [
            r#"[{"name": "disk", "size": 4}]"#,
            r#"[{"name": "disk", "size": 6}]"#,
            r#"[{"name": "../disk", "size": 5}]"#,
            r#"[{"name": ".hidden", "size": 5}]"#,
            r#"[{"name": "", "size": 5}]"#,
            "nonsense",
        ] {
            assert!(
                fetch(&serve(bad), id, folder.path()).await.is_err(),
                "{bad}"
            );
        }
        let gone = Client::in_process("the other host", Router::new());
        let (kind, _) = fetch(&gone, id, folder.path()).await.unwrap_err();
        assert_eq!(kind, FailureKind::Host);
    }
}
