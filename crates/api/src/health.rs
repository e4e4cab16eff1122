//! `/healthcheck` says that the process answers; `/healthcheck/ready` that it can do its work. Both need no token and
//! tell nothing about who uses the cloud.

use crate::Inner;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use types::Timestamp;
use web::auth::AuthError;

/// How long one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is given again, so that many who ask cost no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// The last answer about readiness.
pub type Last = Mutex<Option<(Instant, StatusCode, Value)>>;

/// `/healthcheck`.
pub async fn alive() -> Response {
    (StatusCode::OK, "OK").into_response()
}

/// `/healthcheck/ready`: 200, or 503 when a part does not answer; which one is in the document.
pub async fn ready(State(api): State<Arc<Inner>>) -> Response {
    let mut last = api.ready.lock().await;
    if let Some((at, status, document)) = &*last
        && at.elapsed() < FRESH
    {
        return (*status, Json(document.clone())).into_response();
    }
    let (status, document) = look(&api).await;
    *last = Some((Instant::now(), status, document.clone()));
    (status, Json(document)).into_response()
}

async fn look(api: &Inner) -> (StatusCode, Value) {
    let within = |what| tokio::time::timeout(PATIENCE, what);
    let database = within(Box::pin(database(api)) as Looking<'_>);
    let identity = within(Box::pin(identity(api)));
    let image = within(Box::pin(image(api)));
    let network = within(Box::pin(network(api)));
    let volume = within(Box::pin(volume(api)));
    let (database, identity, image, network, volume) =
        tokio::join!(database, identity, image, network, volume);
    let mut parts = Map::new();
    let mut well = true;
    for (name, answer) in [
        ("database", database),
        ("identity", identity),
        ("image", image),
        ("network", network),
        ("volume", volume),
    ] {
        let state = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        well &= state.is_ok();
        let shown = match state {
            Ok(shown) => shown,
            Err(reason) => {
                tracing::warn!(part = name, reason, "the API is not ready");
                "does not answer".to_owned()
            }
        };
        parts.insert(name.to_owned(), shown.into());
    }
    let status = if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, json!({ "ready": well, "parts": parts }))
}

type Looking<'a> = std::pin::Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;

async fn database(api: &Inner) -> Result<String, String> {
    let services = api.deps.store.read(db::hosts::services).await;
    let services = services.map_err(|error| error.to_string())?;
    let (now, down_after) = (Timestamp::now(), api.config.service_down_micros);
    let hosts: Vec<_> = services
        .iter()
        .filter(|service| service.binary == "nova-compute")
        .collect();
    let up = hosts
        .iter()
        .filter(|service| service.is_up(now, down_after))
        .count();
    Ok(format!("ok, {up} of {} hosts are up", hosts.len()))
}

async fn identity(api: &Inner) -> Result<String, String> {
    match api.deps.validator.validate("readiness").await {
        Ok(_) | Err(AuthError::Missing | AuthError::Invalid) => Ok("ok".to_owned()),
        Err(AuthError::Unavailable(reason)) => Err(reason.to_string()),
    }
}

fn answered(answer: Result<clients::Answer, clients::ClientError>) -> Result<String, String> {
    match answer {
        Ok(answer) if answer.status.is_server_error() => Err(answer.status.to_string()),
        Ok(_) => Ok("ok".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn image(api: &Inner) -> Result<String, String> {
    answered(api.deps.images.forward("", Method::GET, "/").await)
}

async fn network(api: &Inner) -> Result<String, String> {
    answered(api.deps.networks.forward("", Method::GET, "/", None).await)
}

async fn volume(api: &Inner) -> Result<String, String> {
    answered(api.deps.volumes.versions().await)
}
