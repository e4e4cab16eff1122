//! Byte streams through an HTTP connection: a request with `Upgrade` is answered by 101, and from then on the connection
//! is the stream. Whatever proves who the two ends are (TLS) proves it for the stream.

use crate::client::{Client, ClientError};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The protocol's name.
const PROTOCOL: HeaderValue = HeaderValue::from_static("kilonova-tunnel");

/// The end of a stream.
pub type Tunnel = TokioIo<Upgraded>;

/// Joins the stream that a request asks for with what stands on this side, until both have ended.
pub fn join<S>(request: Request, there: S) -> Response
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if request.headers().get(header::UPGRADE) != Some(&PROTOCOL) {
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, PROTOCOL)]).into_response();
    }
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut there = there;
        match upgrading.await {
            // How it ends is seen by those who speak through it.
            Ok(here) => {
                let mut here = TokioIo::new(here);
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            }
            Err(error) => tracing::debug!(%error, "a stream was not opened"),
        }
    });
    let headers = [
        (header::UPGRADE, PROTOCOL),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Opens a stream at a path of a service.
///
/// # Errors
/// When the service does not answer, or answers something else; the status then stands in the reason.
pub async fn open(client: &Client, path: &str) -> Result<Tunnel, ClientError> {
    let service = "the other end";
    let mut headers = HeaderMap::new();
    headers.insert(header::UPGRADE, PROTOCOL);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let answer = client
        .send(Method::GET, path, headers, Body::empty())
        .await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(ClientError::Unexpected {
            service,
            reason: format!("no stream at {path}: {}", answer.status()),
        });
    }
    let upgraded = hyper::upgrade::on(answer).await;
    upgraded
        .map(TokioIo::new)
        .map_err(|error| ClientError::Unreachable {
            service,
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Listener, serve};
    use axum::Router;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn bytes_go_both_ways_and_an_end_is_an_end() {
        let router = Router::new()
            .route(
                "/echo",
                any(|request: Request| async move {
                    let (mine, theirs) = tokio::io::duplex(64);
                    tokio::spawn(async move {
                        let (mut read, mut write) = tokio::io::split(mine);
                        tokio::io::copy(&mut read, &mut write).await.unwrap();
                        write.shutdown().await.unwrap();
                    });
                    join(request, theirs)
                }),
            )
            .route("/none", any(|| async { StatusCode::FORBIDDEN }));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = Listener::Unix(tokio::net::UnixListener::bind(&path).unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, stop.clone()));
        let client = Client::unix("an echo", &path);
        let mut stream = open(&client, "/echo").await.unwrap();
        let sent = vec![7; 100_000];
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let reading = async { read.read_to_end(&mut got).await.unwrap() };
        tokio::join!(sending, reading);
        assert_eq!(got, sent);
        let refused = open(&client, "/none").await;
        assert!(refused.is_err_and(|error| error.to_string().contains("403")));
        let plain = client
            .call(Method::GET, "/echo", HeaderMap::new(), None)
            .await
            .unwrap();
        assert_eq!(plain.status, StatusCode::UPGRADE_REQUIRED);
        stop.cancel();
    }
}
