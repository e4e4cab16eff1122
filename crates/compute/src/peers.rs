//! How the files of a guest get from the host that it leaves to the one that it goes to.
//!
//! The agent of the first serves what is aside ([`router`]), the agent of the second fetches it ([`fetch`]). How one
//! reaches the other is the [`Peers`]'s: in one process by a call, between machines by a channel on which both have
//! proved who they are. What is served is for other hosts only: it must not be mounted where anybody else gets at it.

use crate::images::Failure;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Segments, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::io::AsyncWriteExt;
use types::agent::FailureKind;
use types::{HostName, ServerId};
use virt::{Hypervisor, HypervisorError};
use web::client::Client;

/// Files of one guest at most.
const MOST_FILES: usize = 64;
/// Bytes of a list of files at most.
const LIST_LIMIT: usize = 64 * 1024;
/// Bytes of a file sent at once.
const PIECE: usize = 256 * 1024;

/// Knows the ways to other hosts' agents.
pub trait Peers: Send + Sync + 'static {
    /// The way to a host's agent; none is known.
    fn reach(&self, host: &HostName) -> Option<Arc<Client>>;
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

impl Peers for Neighbourhood {
    fn reach(&self, host: &HostName) -> Option<Arc<Client>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(host).cloned()
    }
}

/// One file of a guest.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

/// What other hosts may fetch of the guests that are aside here.
pub fn router(hypervisor: Arc<dyn Hypervisor>) -> Router {
    Router::new()
        .route("/aside/{server}", get(list))
        .route("/aside/{server}/{name}", get(send))
        .with_state(hypervisor)
}

type Refusal = (StatusCode, String);

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
    State(hypervisor): State<Arc<dyn Hypervisor>>,
    Segments(server): Segments<ServerId>,
) -> Result<Response, Refusal> {
    let mut listed = Vec::new();
    for path in files(&hypervisor, server).await? {
        if let Some(name) = name_of(&path) {
            let size = tokio::fs::metadata(&path).await.map_err(broken)?.len();
            listed.push(Listed {
                name: name.to_owned(),
                size,
            });
        }
    }
    Ok(axum::Json(listed).into_response())
}

async fn send(
    State(hypervisor): State<Arc<dyn Hypervisor>>,
    Segments((server, name)): Segments<(ServerId, String)>,
) -> Result<Response, Refusal> {
    let files = files(&hypervisor, server).await?;
    // Only what was listed: a name never becomes a path.
    let path = files
        .into_iter()
        .find(|path| name_of(path) == Some(name.as_str()));
    let missing = || (StatusCode::NOT_FOUND, format!("no file {name}"));
    let file = tokio::fs::File::open(path.ok_or_else(missing)?)
        .await
        .map_err(broken)?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, PIECE);
    Ok(Response::new(Body::from_stream(pieces)))
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
        let plain = !file.name.is_empty()
            && !file.name.starts_with('.')
            && file
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !plain {
            return Err(unreadable(format!("a file called '{}'", file.name)));
        }
        let answer = ask(from, &format!("/aside/{server}/{}", file.name)).await?;
        receive(answer.into_body(), &into.join(&file.name), file.size).await?;
    }
    Ok(())
}

async fn ask(from: &Client, path: &str) -> Result<Response, Failure> {
    let answer = from
        .send(Method::GET, path, HeaderMap::new(), Body::empty())
        .await
        .map_err(|error| (FailureKind::Unavailable, error.to_string()))?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::NOT_FOUND => {
            let words = "the other host does not have the guest's files".to_owned();
            Err((FailureKind::Host, words))
        }
        other => {
            let words = format!("the other host does not send the guest's files: {other}");
            Err((FailureKind::Unavailable, words))
        }
    }
}

/// Writes a file of exactly this many bytes. Runs of zeros that a disk is mostly made of are left out.
async fn receive(body: Body, path: &Path, size: u64) -> Result<(), Failure> {
    let disk = |error: std::io::Error| {
        let error = HypervisorError::disk(path.display(), &error);
        (error.kind(), error.to_string())
    };
    let broke_off = |reason: String| {
        let words = format!("a file of the guest broke off: {reason}");
        (FailureKind::Unavailable, words)
    };
    let mut file = tokio::fs::File::create(path).await.map_err(disk)?;
    let mut got: u64 = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| broke_off(error.to_string()))?;
        got += piece.len() as u64;
        if got > size {
            break;
        }
        file.write_all(&piece).await.map_err(disk)?;
    }
    if got != size {
        return Err(broke_off(format!("{got} bytes instead of {size}")));
    }
    file.flush().await.map_err(disk)?;
    file.sync_all().await.map_err(disk)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
