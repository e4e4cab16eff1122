//! The accept loop: TCP, with or without TLS, or unix socket, a bound on connections, a limit on slow headers, a graceful end.

use crate::client::KEEPALIVE;
use crate::tls::{self, PeerHost};
use crate::{figures, tracing_context};
use axum::Router;
use axum::body::Body;
use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use rustls::ServerConfig;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections open at once on one listener.
const CONNECTIONS: usize = 4096;
/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open requests may take after the stop signal.
const DRAIN: Duration = Duration::from_secs(5);

/// Where connections come from.
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A TCP port with TLS.
    Tls(TcpListener, TlsAcceptor),
    /// A unix socket.
    Unix(UnixListener),
}

/// Whom a connection came from, as an extension of its requests; not there on unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// The signal that ends the listener, as an extension of its requests: answers that go on for long end with it.
#[derive(Clone, Debug)]
pub struct Stopping(pub CancellationToken);

pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(TcpStream, TlsAcceptor),
    Unix(UnixStream),
}

impl Listener {
    /// Listens on `address:port`.
    pub async fn tcp(address: &str, port: u16) -> io::Result<Self> {
        Ok(Self::Tcp(TcpListener::bind((address, port)).await?))
    }

    /// With TLS as `config` has it; for TCP only.
    #[must_use]
    pub fn with_tls(self, config: Option<Arc<ServerConfig>>) -> Self {
        match (self, config) {
            (Self::Tcp(listener), Some(config)) => Self::Tls(listener, config.into()),
            (other, _) => other,
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(accept(listener).await?)),
            Self::Tls(listener, acceptor) => {
                Ok(Stream::Tls(accept(listener).await?, acceptor.clone()))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let (idle, pause, times) = KEEPALIVE;
    sockopt::set_tcp_keepidle(&stream, idle)?;
    sockopt::set_tcp_keepintvl(&stream, pause)?;
    sockopt::set_tcp_keepcnt(&stream, times)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    Ok(stream)
}

/// Serves `router` until `stop`; requests that are open then get a few seconds to end.
pub async fn serve(listener: Listener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, or the client left already: neither ends the service.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let router = router.clone();
        let stopping = Stopping(stop.clone());
        tokio::spawn(async move {
            talk(stream, router, stopping).await;
            drop(permit);
        });
    }
    drop(listener);
    // Every connection has given its place back.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(DRAIN, room.acquire_many(all)).await;
    Ok(())
}

async fn talk(stream: Stream, router: Router, stopping: Stopping) {
    match stream {
        Stream::Unix(stream) => {
            let from = From {
                peer: None,
                host: None,
                secure: false,
                stopping,
            };
            connection(stream, router, from).await;
        }
        Stream::Tcp(stream) => {
            let from = From::peer_of(&stream, stopping);
            connection(stream, router, from).await;
        }
        Stream::Tls(stream, acceptor) => {
            let mut from = From::peer_of(&stream, stopping);
            from.secure = true;
            let hands = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream));
            match hands.await {
                Ok(Ok(stream)) => {
                    let shown = stream.get_ref().1.peer_certificates();
                    from.host = shown.and_then(|all| tls::host_of(all.first()?));
                    connection(stream, router, from).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a TLS connection was not made"),
                Err(_) => tracing::debug!("a TLS connection was not made in time"),
            }
        }
    }
}

/// What is known of the other end of a connection.
#[derive(Clone)]
struct From {
    peer: Option<Peer>,
    host: Option<PeerHost>,
    /// By TLS.
    secure: bool,
    stopping: Stopping,
}

impl From {
    fn peer_of(stream: &TcpStream, stopping: Stopping) -> Self {
        Self {
            peer: stream.peer_addr().ok().map(|address| Peer(address.ip())),
            host: None,
            secure: false,
            stopping,
        }
    }
}

async fn connection<S>(stream: S, router: Router, from: From)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stop = from.stopping.0.clone();
    let service = tower::service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(peer) = from.peer {
            request.extensions_mut().insert(peer);
        }
        if let Some(host) = &from.host {
            request.extensions_mut().insert(host.clone());
        }
        if from.secure {
            // As a proxy that ends TLS would say it: links in answers begin with it.
            let said = request.headers_mut().entry("x-forwarded-proto");
            said.or_insert(HeaderValue::from_static("https"));
        }
        request.extensions_mut().insert(from.stopping.clone());
        let answering = tracing_context::answer(router.clone(), request);
        async move {
            let answer = answering.await;
            if let Ok(answer) = &answer {
                figures::served(answer.status());
            }
            answer
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .keep_alive(true)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .with_upgrades()
    );
    // A client that breaks off is its own business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
