//! Where wanted states come from and reports go to.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::InvalidHeaderValue};
use serde_json::Value;
use types::network_wanted::{HostReport, HostWanted};
use web::client::{Answer, Client, ClientError};

/// The network service, as the agent sees it.
#[async_trait]
pub trait WantedSource: Send + Sync + 'static {
    /// Waits (bounded) until there is news after revision `since`; `None` if there was none.
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError>;

    /// Tells what the host has done.
    async fn report(&self, report: HostReport) -> Result<(), SourceError>;
}

/// The network service could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It refused.
    #[error("the network service answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Beginning of the answer.
        text: String,
    },
    /// Its answer could not be read, or the question could not be written.
    #[error("cannot speak with the network service: {0}")]
    Answer(String),
}

impl From<InvalidHeaderValue> for SourceError {
    fn from(error: InvalidHeaderValue) -> Self {
        Self::Answer(error.to_string())
    }
}

/// The network service over HTTP: `/v2.0/agent/hosts/{host}/...`.
pub struct HttpSource {
    client: Client,
    host: String,
    wait: Duration,
    tunnel: Option<IpAddr>,
}

/// Least time between two questions without news.
const MIN_ROUND: Duration = Duration::from_millis(200);
/// Added to the time a long poll may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a question is held open.
const WAIT: Duration = Duration::from_secs(30);

impl HttpSource {
    /// A source for `host` that holds each question open for up to 30 s.
    #[must_use]
    pub fn new(client: Client, host: impl Into<String>) -> Self {
        Self {
            client: client.with_timeout(WAIT + PATIENCE),
            host: host.into(),
            wait: WAIT,
            tunnel: None,
        }
    }

    /// Tells the service where this host's tunnels end.
    #[must_use]
    pub fn with_tunnel(mut self, tunnel: Option<IpAddr>) -> Self {
        self.tunnel = tunnel;
        self
    }

    /// Sets how long a question is held open.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.client = self.client.with_timeout(wait + PATIENCE);
        self.wait = wait;
        self
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, SourceError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-agent-host", HeaderValue::from_str(&self.host)?);
        let path = format!("/v2.0/agent/hosts/{}/{path}", self.host);
        Ok(self.client.call(method, &path, headers, body).await?)
    }
}

fn refused(answer: &Answer) -> SourceError {
    let text = String::from_utf8_lossy(&answer.body);
    SourceError::Refused {
        status: answer.status,
        text: text.chars().take(300).collect(),
    }
}

fn unreadable(error: serde_json::Error) -> SourceError {
    SourceError::Answer(error.to_string())
}

#[async_trait]
impl WantedSource for HttpSource {
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError> {
        let mut path = format!("wanted?since={since}&wait={}", self.wait.as_secs());
        if let Some(tunnel) = self.tunnel {
            path.push_str(&format!("&tunnel={tunnel}"));
        }
        let asked = tokio::time::Instant::now();
        let answer = self.ask(Method::GET, &path, None).await?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(unreadable),
            StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT => {
                // A service that does not wait must not be asked in a busy loop.
                tokio::time::sleep_until(asked + MIN_ROUND).await;
                Ok(None)
            }
            _ => Err(refused(&answer)),
        }
    }

    async fn report(&self, report: HostReport) -> Result<(), SourceError> {
        let body = serde_json::to_value(&report).map_err(unreadable)?;
        let answer = self.ask(Method::PUT, "report", Some(&body)).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(refused(&answer))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::extract::{Path, Query};
    use axum::http::HeaderMap;
    use axum::routing::{get, put};
    use std::collections::HashMap;

    #[tokio::test]
    async fn asks_and_reports_over_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("network.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let wanted = |Path(host): Path<String>,
                      Query(query): Query<HashMap<String, String>>,
                      headers: HeaderMap| async move {
            assert_eq!(headers["x-agent-host"], "h1");
            assert_eq!(query["wait"], "1");
            if query["since"] == "7" {
                return Err(StatusCode::NOT_MODIFIED);
            }
            Ok(axum::Json(HostWanted {
                revision: 7,
                host,
                full: true,
                ..HostWanted::default()
            }))
        };
        let report = |body: axum::Json<HostReport>| async move {
            if body.revision == 7 {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::CONFLICT
            }
        };
        let router = axum::Router::new()
            .route("/v2.0/agent/hosts/{host}/wanted", get(wanted))
            .route("/v2.0/agent/hosts/{host}/report", put(report));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let source = HttpSource::new(Client::unix("network", &socket), "h1")
            .with_wait(Duration::from_secs(1));
        let news = source.wanted(0).await.unwrap().unwrap();
        assert_eq!((news.revision, news.host.as_str()), (7, "h1"));
        assert!(source.wanted(7).await.unwrap().is_none());
        source
            .report(HostReport {
                revision: 7,
                ..HostReport::default()
            })
            .await
            .unwrap();
        let refused = source.report(HostReport::default()).await.unwrap_err();
        assert!(
            matches!(
                refused,
                SourceError::Refused {
                    status: StatusCode::CONFLICT,
                    ..
                }
            ),
            "{refused}"
        );
        server.abort();
    }

    #[tokio::test]
    async fn no_service_is_an_error() {
        let source = HttpSource::new(Client::unix("network", "/nowhere/socket".as_ref()), "h1");
        assert!(matches!(
            source.wanted(0).await,
            Err(SourceError::Client(_))
        ));
    }
}
