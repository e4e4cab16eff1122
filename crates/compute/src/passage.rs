//! The way of a running guest to another host's agent: what the agent there serves, and how the one here uses it.

use crate::peers::{self, Gate, Refusal, Way};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as Segments, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{HeaderMap, Method, StatusCode, header};
use std::path::Path;
use std::sync::Arc;
use types::ServerId;
use types::tpm::Passphrase;
use virt::{Berth, Channel, Door, HypervisorError, Passage};
use web::client::Client;

/// Bytes of a config drive at most.
const DRIVE_LIMIT: u64 = 256 << 20;
/// Bytes of a passphrase at most.
const PASSPHRASE_LIMIT: usize = 64 * 1024;

/// What other hosts use whose guests come here.
pub(crate) fn routes() -> Router<Gate> {
    Router::new()
        .route("/live/{server}", post(expect).delete(close))
        .route("/live/{server}/drive", put(drive))
        .route("/live/{server}/passphrase", put(passphrase))
        .route("/live/{server}/doors/{door}", get(enter))
}

fn refusal(error: HypervisorError) -> Refusal {
    let status = match &error {
        HypervisorError::NotFound(_) => StatusCode::NOT_FOUND,
        HypervisorError::Timeout(_) | HypervisorError::Unavailable(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::CONFLICT,
    };
    (status, error.to_string())
}

async fn expect(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<Response, Refusal> {
    gate.check(request.extensions(), server, Way::Here).await?;
    let berth = gate.hypervisor.expect_live(server).await;
    Ok(axum::Json(berth.map_err(refusal)?).into_response())
}

async fn close(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    gate.check(request.extensions(), server, Way::Here).await?;
    gate.hypervisor.expect_no_more(server).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn berth(gate: &Gate, server: ServerId) -> Result<Berth, Refusal> {
    let missing = || refusal(HypervisorError::NotFound(server));
    gate.hypervisor.berth(server).await.ok_or_else(missing)
}

async fn drive(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    gate.check(request.extensions(), server, Way::Here).await?;
    let berth = berth(&gate, server).await?;
    let size = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|size| size.to_str().ok()?.parse::<u64>().ok())
        .filter(|size| *size <= DRIVE_LIMIT);
    let size = size.ok_or_else(|| (StatusCode::LENGTH_REQUIRED, "no fit length".to_owned()))?;
    let part = berth.drive.with_extension("part");
    peers::receive(request.into_body(), &part, size)
        .await
        .map_err(|(_, words)| (StatusCode::INTERNAL_SERVER_ERROR, words))?;
    // The drive that was made here has the hypervisor's permissions: so shall this one.
    let replace = async {
        let like = tokio::fs::metadata(&berth.drive).await?.permissions();
        tokio::fs::set_permissions(&part, like).await?;
        tokio::fs::rename(&part, &berth.drive).await
    };
    replace
        .await
        .map_err(|error: std::io::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The guest's TPM is to be opened here with what the host that sends it has kept.
async fn passphrase(
    State(gate): State<Gate>,
    Segments(server): Segments<ServerId>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    gate.check(request.extensions(), server, Way::Here).await?;
    let unfit = |words: String| (StatusCode::BAD_REQUEST, words);
    let text = web::body::bytes(request.into_body(), PASSPHRASE_LIMIT).await;
    let text = text.map_err(|error| unfit(error.to_string()))?;
    let text = String::from_utf8(text.to_vec()).map_err(|_| unfit("not a text".to_owned()))?;
    let passphrase = Passphrase(text);
    let kept = gate.hypervisor.keep_passphrase(server, &passphrase);
    kept.await.map_err(refusal)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn enter(
    State(gate): State<Gate>,
    Segments((server, door)): Segments<(ServerId, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    gate.check(request.extensions(), server, Way::Here).await?;
    let door = Door::ALL.into_iter().find(|one| one.name() == door);
    let door = door.ok_or_else(|| (StatusCode::NOT_FOUND, "no such door".to_owned()))?;
    let there = gate.hypervisor.enter_door(server, door).await;
    Ok(web::tunnel::join(request, there.map_err(refusal)?))
}

/// The way of one guest.
pub(crate) struct ToPeer {
    pub(crate) peer: Arc<Client>,
    pub(crate) server: ServerId,
}

impl ToPeer {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> virt::Result<Vec<u8>> {
        let answer = self.peer.send(method, path, headers, body).await;
        Self::read(answer.map_err(|error| HypervisorError::Unavailable(error.to_string()))?).await
    }

    async fn read(answer: Response) -> virt::Result<Vec<u8>> {
        const LIMIT: usize = 64 * 1024;
        let unreachable = |reason: String| HypervisorError::Unavailable(reason);
        let status = answer.status();
        let text = web::body::bytes(answer.into_body(), LIMIT).await;
        let text = text.map_err(|error| unreachable(error.to_string()))?;
        if status.is_success() {
            return Ok(text.to_vec());
        }
        let words = String::from_utf8_lossy(&text);
        Err(HypervisorError::Rejected(format!(
            "the other host does not take the guest: {words} ({status})"
        )))
    }
}

#[async_trait::async_trait]
impl Passage for ToPeer {
    async fn berth(&self) -> virt::Result<Berth> {
        let path = format!("/live/{}", self.server);
        let answer = peers::reach(&self.peer, Method::POST, &path).await;
        let text = Self::read(answer.map_err(HypervisorError::Unavailable)?).await?;
        serde_json::from_slice(&text)
            .map_err(|error| HypervisorError::Unavailable(format!("the other host: {error}")))
    }

    async fn carry_drive(&self, file: &Path) -> virt::Result<()> {
        let bytes = tokio::fs::read(file).await;
        let bytes = bytes.map_err(|error| HypervisorError::disk(file.display(), &error))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, bytes.len().into());
        let path = format!("/live/{}/drive", self.server);
        let sent = self.ask(Method::PUT, &path, headers, Body::from(bytes));
        sent.await.map(drop)
    }

    async fn carry_passphrase(&self, passphrase: &Passphrase) -> virt::Result<()> {
        let path = format!("/live/{}/passphrase", self.server);
        let body = Body::from(passphrase.0.clone());
        let sent = self.ask(Method::PUT, &path, HeaderMap::new(), body);
        sent.await.map(drop)
    }

    async fn open(&self, door: Door) -> virt::Result<Box<dyn Channel>> {
        let path = format!("/live/{}/doors/{}", self.server, door.name());
        let stream = web::tunnel::open(&self.peer, &path).await;
        let stream = stream.map_err(|error| HypervisorError::Unavailable(error.to_string()))?;
        Ok(Box::new(stream))
    }

    async fn close(&self) {
        let path = format!("/live/{}", self.server);
        let closed = self.ask(Method::DELETE, &path, HeaderMap::new(), Body::empty());
        if let Err(error) = closed.await {
            tracing::debug!(server = %self.server, %error, "the other host still expects the guest");
        }
    }
}
