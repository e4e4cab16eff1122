//! A small HTTP client with three ways to a service: a TCP address (also with TLS), a unix socket, or its router in the same process.

use crate::{figures, tracing_context};
use axum::Router;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing comes before a connection is asked whether its other end is there, how often it is asked, and how many
/// times in vain: a machine that has lost its power does not say so.
pub(crate) const KEEPALIVE: (Duration, Duration, u32) =
    (Duration::from_secs(30), Duration::from_secs(10), 3);
/// Bytes of an answer that are read into memory at most.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why a request had no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The service cannot be reached, or did not answer in time.
    #[error("{service} does not answer: {reason}")]
    Unreachable {
        /// Which service.
        service: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer is not what the API promises.
    #[error("{service} answered something unexpected: {reason}")]
    Unexpected {
        /// Which service.
        service: &'static str,
        /// What.
        reason: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` when it is empty or not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// What the body says under `name`; `Null` when it is no JSON object or does not say it.
    pub fn part(&self, name: &str) -> serde_json::Value {
        match self.json() {
            serde_json::Value::Object(mut parts) => parts.remove(name).unwrap_or_default(),
            _ => serde_json::Value::Null,
        }
    }
}

enum Transport {
    Http {
        base: String,
        client: HyperClient<HttpConnector, Body>,
    },
    Https {
        base: String,
        client: HyperClient<TlsConnector, Body>,
    },
    Unix(HyperClient<UnixConnector, Body>),
    InProcess(Router),
    /// The same service in several places; the one that answered last is asked first.
    Several {
        places: Vec<Client>,
        current: AtomicUsize,
    },
}

#[derive(Clone)]
struct UnixConnector(Arc<Path>);

#[derive(Clone)]
struct TlsConnector {
    tcp: HttpConnector,
    tls: tokio_rustls::TlsConnector,
    /// Whom to expect; none is the host of the address.
    name: Option<ServerName<'static>>,
}

/// A connection, as hyper's pool wants it.
struct Link<S>(TokioIo<S>);

type Linking<S> = Pin<Box<dyn Future<Output = std::io::Result<Link<S>>> + Send>>;

impl tower::Service<Uri> for UnixConnector {
    type Response = Link<UnixStream>;
    type Error = std::io::Error;
    type Future = Linking<UnixStream>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = Arc::clone(&self.0);
        Box::pin(async move { Ok(Link(TokioIo::new(UnixStream::connect(&path).await?))) })
    }
}

impl tower::Service<Uri> for TlsConnector {
    type Response = Link<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Linking<TlsStream<TcpStream>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        self.tcp.poll_ready(cx).map_err(std::io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, tls) = (self.tcp.call(uri.clone()), self.tls.clone());
        let expected = self.name.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = match expected {
                Some(name) => name,
                None => ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?,
            };
            let tcp = connecting.await.map_err(std::io::Error::other)?;
            let hands = tls.connect(name, tcp.into_inner());
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, hands).await??;
            Ok(Link(TokioIo::new(stream)))
        })
    }
}

impl<S> Connection for Link<S> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Link<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Link<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// An error with its causes: hyper's own words are only "client error (Connect)".
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn connector() -> HttpConnector {
    let (idle, pause, times) = KEEPALIVE;
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(pause));
    tcp.set_keepalive_retries(Some(times));
    tcp
}

/// The body, and what tells that a piece of it was taken. Of one whose size is known nothing is told, so that it keeps that.
fn watched(body: Body) -> (Body, watch::Receiver<()>) {
    let (taken, pieces) = watch::channel(());
    if body.size_hint().exact().is_some() {
        return (body, pieces);
    }
    let body = body.map_frame(move |frame| {
        taken.send_replace(());
        frame
    });
    (Body::new(body), pieces)
}

/// The answer; none when it takes longer than this from the beginning, or from the last piece that was taken.
async fn within<T>(
    limit: Duration,
    mut pieces: watch::Receiver<()>,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let moved = async {
            // Nothing more is told of a body that is gone.
            if pieces.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = moved => {}
            () = tokio::time::sleep(limit) => return None,
        }
    }
}

/// Asks the next place from now on, unless somebody else has decided so already.
fn leave(current: &AtomicUsize, index: usize, places: usize) {
    let next = (index + 1) % places.max(1);
    // Another task may have left it already.
    let _ = current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
}

/// A client of one service.
pub struct Client {
    service: &'static str,
    transport: Transport,
    timeout: Duration,
}

impl Client {
    /// A client for `base`, for example `http://127.0.0.1:9696`.
    pub fn http(service: &'static str, base: &str) -> Self {
        let client = HyperClient::builder(TokioExecutor::new()).build(connector());
        let transport = Transport::Http {
            base: base.trim_end_matches('/').to_owned(),
            client,
        };
        Self {
            service,
            transport,
            timeout: TIMEOUT,
        }
    }

    /// A client for `base`, for example `https://controller:8790`, with TLS as `config` has it; for `http://...` as
    /// [`Client::http`].
    pub fn https(service: &'static str, base: &str, config: Arc<ClientConfig>) -> Self {
        if base.starts_with("http://") {
            return Self::http(service, base);
        }
        Self::tls(service, base, None, config)
    }

    /// A client for `base`, an address at which a service answers that proves to be `name`.
    ///
    /// # Errors
    /// When `name` is neither a DNS name nor an address.
    pub fn https_of(
        service: &'static str,
        base: &str,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> Result<Self, ClientError> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|error| ClientError::Unexpected {
                service,
                reason: format!("{name:?}: {error}"),
            })?;
        Ok(Self::tls(service, base, Some(name), config))
    }

    fn tls(
        service: &'static str,
        base: &str,
        name: Option<ServerName<'static>>,
        config: Arc<ClientConfig>,
    ) -> Self {
        let mut tcp = connector();
        tcp.enforce_http(false);
        let connector = TlsConnector {
            tcp,
            tls: config.into(),
            name,
        };
        let transport = Transport::Https {
            base: base.trim_end_matches('/').to_owned(),
            client: HyperClient::builder(TokioExecutor::new()).build(connector),
        };
        Self {
            service,
            transport,
            timeout: TIMEOUT,
        }
    }

    /// A client of a service behind a unix socket.
    pub fn unix(service: &'static str, socket: &Path) -> Self {
        let client = HyperClient::builder(TokioExecutor::new()).build(UnixConnector(socket.into()));
        Self {
            service,
            transport: Transport::Unix(client),
            timeout: TIMEOUT,
        }
    }

    /// A client that calls the service's router directly: the same requests without a socket.
    pub fn in_process(service: &'static str, router: Router) -> Self {
        Self {
            service,
            transport: Transport::InProcess(router),
            timeout: TIMEOUT,
        }
    }

    /// A client of a service that runs in several places, each of which will do. The one that answered last is asked;
    /// when it does not answer, the next one is.
    pub fn several(service: &'static str, places: Vec<Self>) -> Self {
        let current = AtomicUsize::new(0);
        Self {
            service,
            transport: Transport::Several { places, current },
            timeout: TIMEOUT,
        }
    }

    /// With another limit on the time that an answer may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        if let Transport::Several { places, .. } = &mut self.transport {
            for place in places {
                place.timeout = timeout;
            }
        }
        self.timeout = timeout;
        self
    }

    fn unreachable(&self, reason: impl ToString) -> ClientError {
        ClientError::Unreachable {
            service: self.service,
            reason: reason.to_string(),
        }
    }

    /// Sends a request; the answer's body is still a stream. A request whose body is a stream cannot be repeated: of a
    /// service in several places only the current one is asked, and the next one the next time if that fails. Such a body
    /// may take as long as it moves: the time for the answer begins anew with each of its pieces.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<http::Response<Body>, ClientError> {
        self.send_within(self.timeout, method, path, headers, body)
            .await
    }

    /// As [`Client::send`], with another limit on the time that the answer may take.
    pub async fn send_within(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<http::Response<Body>, ClientError> {
        let Transport::Several { places, current } = &self.transport else {
            return self.send_here(limit, method, path, headers, body).await;
        };
        let index = current.load(Ordering::Relaxed);
        let Some(place) = places.get(index) else {
            return Err(self.unreachable("no place of it is known"));
        };
        let answer = place.send_here(limit, method, path, headers, body).await;
        if answer.is_err() {
            leave(current, index, places.len());
        }
        answer
    }

    async fn send_here(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<http::Response<Body>, ClientError> {
        let uri = match &self.transport {
            Transport::Http { base, .. } | Transport::Https { base, .. } => format!("{base}{path}"),
            Transport::Unix(_) => format!("http://localhost{path}"),
            Transport::InProcess(_) | Transport::Several { .. } => path.to_owned(),
        };
        let uri: Uri = uri.parse().map_err(|error| self.unreachable(error))?;
        let (body, pieces) = watched(body);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        tracing_context::pass_on(request.headers_mut());
        let sending = async {
            match &self.transport {
                Transport::Http { client, .. } => {
                    let answer = client
                        .request(request)
                        .await
                        .map_err(|error| self.unreachable(whole(&error)))?;
                    Ok(answer.map(Body::new))
                }
                Transport::Https { client, .. } => {
                    let answer = client
                        .request(request)
                        .await
                        .map_err(|error| self.unreachable(whole(&error)))?;
                    Ok(answer.map(Body::new))
                }
                Transport::Unix(client) => {
                    let answer = client
                        .request(request)
                        .await
                        .map_err(|error| self.unreachable(whole(&error)))?;
                    Ok(answer.map(Body::new))
                }
                Transport::InProcess(router) => {
                    let Ok(answer) = tracing_context::answer(router.clone(), request).await;
                    Ok(answer)
                }
                Transport::Several { .. } => Err(self.unreachable("no single place is meant")),
            }
        };
        let sent = within(limit, pieces, sending)
            .await
            .unwrap_or_else(|| Err(self.unreachable("no answer in time")));
        figures::asked(self.service, sent.is_ok());
        sent
    }

    /// Sends a request, with a JSON body if there is one, and reads the whole answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, ClientError> {
        self.call_within(self.timeout, method, path, headers, body)
            .await
    }

    /// Which of several places is asked next. One that stands still is left by whoever notices it first.
    pub fn place(&self) -> usize {
        match &self.transport {
            Transport::Several { current, .. } => current.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// As [`Client::call`], with another limit on the time that each place has for its answer.
    pub async fn call_within(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, ClientError> {
        let bytes = match body {
            Some(value) => {
                headers.insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static("application/json"),
                );
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let Transport::Several { places, current } = &self.transport else {
            return self.call_here(limit, method, path, headers, bytes).await;
        };
        let mut last = self.unreachable("no place of it is known");
        for _ in 0..places.len() {
            let index = current.load(Ordering::Relaxed);
            let Some(place) = places.get(index) else {
                break;
            };
            let answer =
                place.call_here(limit, method.clone(), path, headers.clone(), bytes.clone());
            match answer.await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
            leave(current, index, places.len());
        }
        Err(last)
    }

    async fn call_here(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        headers: HeaderMap,
        bytes: Bytes,
    ) -> Result<Answer, ClientError> {
        let answer = self
            .send_here(limit, method, path, headers, Body::from(bytes))
            .await?;
        let (parts, body) = answer.into_parts();
        let reading = Limited::new(body, ANSWER_LIMIT).collect();
        let whole = tokio::time::timeout(limit, reading)
            .await
            .map_err(|_| self.unreachable("the answer stopped"))?;
        let body = whole.map_err(|error| self.unreachable(error))?.to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(name: &'static str) -> Client {
        let router = Router::new().fallback(async move || name);
        Client::in_process("a service", router)
    }

    async fn said(client: &Client) -> String {
        let answer = client.call(Method::GET, "/", HeaderMap::new(), None).await;
        String::from_utf8(answer.unwrap().body.to_vec()).unwrap()
    }

    #[test]
    fn parts_of_what_is_no_object_are_null() {
        for (body, part) in [
            (r#"{"port": 5}"#, serde_json::json!(5)),
            (r#"{"ports": 5}"#, serde_json::Value::Null),
            ("[1]", serde_json::Value::Null),
            ("\"port\"", serde_json::Value::Null),
            ("", serde_json::Value::Null),
        ] {
            let answer = Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: body.into(),
            };
            assert_eq!(answer.part("port"), part, "{body}");
        }
    }

    #[tokio::test]
    async fn the_next_place_is_asked_and_stays() {
        let nowhere = Client::unix("a service", Path::new("/nowhere/socket"));
        let client = Client::several("a service", vec![nowhere, named("second"), named("third")]);
        assert_eq!(said(&client).await, "second");
        assert_eq!(said(&client).await, "second");
        let streamed = client.send(Method::GET, "/", HeaderMap::new(), Body::empty());
        assert!(streamed.await.is_ok());
    }

    #[tokio::test]
    async fn a_place_that_stands_still_is_left() {
        let router = Router::new().fallback(async || std::future::pending::<()>().await);
        let still = Client::in_process("a service", router);
        let client = Client::several("a service", vec![still, named("second")]);
        assert_eq!(client.place(), 0);
        let limit = Duration::from_secs(1);
        let answer = client.call_within(limit, Method::GET, "/", HeaderMap::new(), None);
        assert_eq!(&answer.await.unwrap().body[..], b"second");
        assert_eq!(client.place(), 1);
        assert_eq!(said(&client).await, "second");
    }

    #[tokio::test]
    async fn a_stream_is_not_repeated_but_the_next_one_goes_elsewhere() {
        let nowhere = Client::unix("a service", Path::new("/nowhere/socket"));
        let client = Client::several("a service", vec![nowhere, named("second")]);
        let send = async || {
            let body = Body::empty();
            client.send(Method::GET, "/", HeaderMap::new(), body).await
        };
        assert!(send().await.is_err());
        assert!(send().await.is_ok());
    }

    #[tokio::test]
    async fn the_other_end_is_asked_whether_it_is_there() {
        use rustix::net::sockopt::{socket_keepalive, tcp_keepcnt, tcp_keepidle, tcp_keepintvl};
        use tower::Service;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connector = connector();
        let ready = std::future::poll_fn(|cx| Service::<Uri>::poll_ready(&mut connector, cx));
        ready.await.unwrap();
        let uri: Uri = format!("http://{address}").parse().unwrap();
        let ours = connector.call(uri).await.unwrap().into_inner();
        let theirs = crate::serve::Listener::Tcp(listener);
        let theirs = theirs.accept().await.unwrap();
        let crate::serve::Stream::Tcp(theirs) = theirs else {
            panic!("it is no TCP connection");
        };
        for stream in [ours, theirs] {
            assert!(socket_keepalive(&stream).unwrap());
            let (idle, pause) = (
                tcp_keepidle(&stream).unwrap(),
                tcp_keepintvl(&stream).unwrap(),
            );
            assert_eq!((idle, pause, tcp_keepcnt(&stream).unwrap()), KEEPALIVE);
        }
    }

    /// Reads a body to its end before it answers.
    fn reader() -> Client {
        let router = Router::new().fallback(|body: Body| async move {
            let whole = body.collect().await.unwrap().to_bytes();
            whole.len().to_string()
        });
        Client::in_process("a service", router)
    }

    #[tokio::test]
    async fn a_body_may_take_longer_than_an_answer_while_it_moves() {
        use tokio::io::AsyncWriteExt;
        const LIMIT: Duration = Duration::from_secs(2);
        const PIECES: usize = 6;
        for client in [reader(), Client::several("a service", vec![reader()])] {
            let (mut end, body) = tokio::io::duplex(64);
            tokio::spawn(async move {
                for _ in 0..PIECES {
                    tokio::time::sleep(LIMIT / 4).await;
                    end.write_all(b"piece").await.unwrap();
                }
            });
            let body = Body::from_stream(tokio_util::io::ReaderStream::new(body));
            let begun = std::time::Instant::now();
            let answer = client.send_within(LIMIT, Method::PUT, "/", HeaderMap::new(), body);
            let read = answer.await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(read.to_bytes(), (PIECES * 5).to_string());
            assert!(begun.elapsed() > LIMIT);
        }
    }

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() {
        use tokio::io::AsyncWriteExt;
        let (mut end, body) = tokio::io::duplex(64);
        end.write_all(b"piece").await.unwrap();
        let body = Body::from_stream(tokio_util::io::ReaderStream::new(body));
        let limit = Duration::from_millis(50);
        let client = reader();
        let answer = client.send_within(limit, Method::PUT, "/", HeaderMap::new(), body);
        let error = answer.await.unwrap_err();
        assert!(error.to_string().contains("no answer in time"), "{error}");
        drop(end);
    }

    #[tokio::test]
    async fn no_place_is_an_error() {
        let nowhere = || Client::unix("a service", Path::new("/nowhere/socket"));
        for places in [vec![], vec![nowhere(), nowhere()]] {
            let client = Client::several("a service", places);
            let answer = client.call(Method::GET, "/", HeaderMap::new(), None).await;
            assert!(matches!(answer, Err(ClientError::Unreachable { .. })));
        }
    }
}
