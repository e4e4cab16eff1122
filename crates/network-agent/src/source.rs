//! Where wanted states come from and reports go to.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use types::network_wanted::{HostReport, HostWanted};

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
    /// No connection.
    #[error("cannot reach the network service at {at}: {source}")]
    Connect {
        /// Its address.
        at: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the network service hung up: {0}")]
    Http(#[from] hyper::Error),
    /// It took longer than it may.
    #[error("the network service did not answer within {0:?}")]
    Timeout(Duration),
    /// It refused.
    #[error("the network service answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Beginning of the answer.
        text: String,
    },
    /// Its answer could not be read.
    #[error("cannot read the network service's answer: {0}")]
    Answer(String),
}

/// Where the network service listens.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// The network service over HTTP: `/v2.0/agent/hosts/{host}/...`.
#[derive(Debug, Clone)]
pub struct HttpSource {
    endpoint: Endpoint,
    host: String,
    wait: Duration,
}

/// Largest answer read, in bytes.
const MAX_ANSWER: usize = 128 << 20;
/// Least time between two questions without news.
const MIN_ROUND: Duration = Duration::from_millis(200);
/// Added to the time a long poll may take.
const PATIENCE: Duration = Duration::from_secs(15);

impl HttpSource {
    /// A source for `host` that holds each question open for up to 30 s.
    #[must_use]
    pub fn new(endpoint: Endpoint, host: impl Into<String>) -> Self {
        Self {
            endpoint,
            host: host.into(),
            wait: Duration::from_secs(30),
        }
    }

    /// Sets how long a question is held open.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), SourceError> {
        let limit = self.wait + PATIENCE;
        let answer = async {
            match &self.endpoint {
                Endpoint::Unix(socket) => {
                    let failed = |source| SourceError::Connect {
                        at: socket.display().to_string(),
                        source,
                    };
                    self.exchange(
                        UnixStream::connect(socket).await.map_err(failed)?,
                        method,
                        path,
                        body,
                    )
                    .await
                }
                Endpoint::Tcp(at) => {
                    let failed = |source| SourceError::Connect {
                        at: at.clone(),
                        source,
                    };
                    self.exchange(
                        TcpStream::connect(at).await.map_err(failed)?,
                        method,
                        path,
                        body,
                    )
                    .await
                }
            }
        };
        tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| SourceError::Timeout(limit))?
    }

    async fn exchange<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), SourceError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "network")
            .header("x-agent-host", &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| SourceError::Answer(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body = body
                .map_err(|error| SourceError::Answer(error.to_string()))?
                .to_bytes();
            Ok::<_, SourceError>((status, body))
        };
        tokio::pin!(answer);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection may be done before its last answer has been taken.
            ended = &mut connection => {
                ended?;
                answer.await
            }
        }
    }
}

fn refused(status: StatusCode, body: &Bytes) -> SourceError {
    let text = String::from_utf8_lossy(body).chars().take(300).collect();
    SourceError::Refused { status, text }
}

#[async_trait]
impl WantedSource for HttpSource {
    async fn wanted(&self, since: u64) -> Result<Option<HostWanted>, SourceError> {
        let (host, wait) = (&self.host, self.wait.as_secs());
        let path = format!("/v2.0/agent/hosts/{host}/wanted?since={since}&wait={wait}");
        let asked = tokio::time::Instant::now();
        let (status, body) = self.ask(Method::GET, &path, Vec::new()).await?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| SourceError::Answer(error.to_string())),
            StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT => {
                // A service that does not wait must not be asked in a busy loop.
                tokio::time::sleep_until(asked + MIN_ROUND).await;
                Ok(None)
            }
            status => Err(refused(status, &body)),
        }
    }

    async fn report(&self, report: HostReport) -> Result<(), SourceError> {
        let path = format!("/v2.0/agent/hosts/{}/report", self.host);
        let body =
            serde_json::to_vec(&report).map_err(|error| SourceError::Answer(error.to_string()))?;
        let (status, body) = self.ask(Method::PUT, &path, body).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(refused(status, &body))
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
        let source =
            HttpSource::new(Endpoint::Unix(socket), "h1").with_wait(Duration::from_secs(1));
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
        let source = HttpSource::new(Endpoint::Unix("/nowhere/socket".into()), "h1");
        assert!(matches!(
            source.wanted(0).await,
            Err(SourceError::Connect { .. })
        ));
    }
}
