//! The guests' way to metadata: a small HTTP proxy in every DHCP and router namespace.
//!
//! A request is known by the namespace it arrives in and its source address; nothing the guest
//! says counts. The compute service's metadata API gets the guest's instance and project in
//! headers, with a signature that only the agent and the API can make.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use types::network_wanted::HostWanted;
use uuid::Uuid;

use crate::config::{Config, Secret};
use crate::desired::Space as WantedSpace;
use crate::machine::{self, Machine, NETNS_DIR, Space};

/// Largest request body, in bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Largest answer, in bytes (user data, vendor data and keys are far below).
const MAX_ANSWER: usize = 16 << 20;
/// Connections at once in one namespace.
const MAX_CONNECTIONS: usize = 128;
/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(30);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A guest behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Server id.
    pub instance: String,
    /// Project id.
    pub project: String,
}

type Guests = HashMap<IpAddr, Guest>;

/// All proxies of a host.
#[derive(Debug)]
pub struct Proxies {
    upstream: Arc<Upstream>,
    running: BTreeMap<String, Proxy>,
}

#[derive(Debug)]
struct Proxy {
    address: SocketAddr,
    /// The namespace's inode: one of the same name made later is another one.
    inode: u64,
    guests: Arc<RwLock<Guests>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Upstream {
    authority: Authority,
    prefix: String,
    secret: Secret,
    client: Client<HttpConnector, Body>,
}

/// A metadata URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("metadata_url '{0}' is not of the form http://host:port")]
pub struct BadUrl(String);

impl Proxies {
    /// No proxy yet.
    ///
    /// # Errors
    /// When the configured metadata URL is not a plain HTTP URL.
    pub fn new(config: &Config) -> Result<Self, BadUrl> {
        let bad = || BadUrl(config.metadata_url.clone());
        let uri: Uri = config.metadata_url.parse().map_err(|_| bad())?;
        let authority = uri.authority().cloned().ok_or_else(bad)?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(bad());
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_nodelay(true);
        let upstream = Upstream {
            authority,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            secret: config.metadata_secret.clone(),
            client: Client::builder(TokioExecutor::new()).build(connector),
        };
        Ok(Self {
            upstream: Arc::new(upstream),
            running: BTreeMap::new(),
        })
    }

    /// Starts, stops and informs proxies so that they fit the wanted state. Must be called within
    /// a Tokio runtime. Gives the namespaces whose proxy could not start, and why.
    pub fn update(
        &mut self,
        machine: &Machine,
        spaces: &BTreeMap<String, WantedSpace>,
        wanted: &HostWanted,
    ) -> Vec<(Uuid, machine::Error)> {
        let mut failed = Vec::new();
        self.running.retain(|name, _| spaces.contains_key(name));
        for (name, space) in spaces {
            let Some(address) = space.metadata else {
                continue;
            };
            let guests = guests(space, wanted);
            let inode =
                std::fs::metadata(Path::new(NETNS_DIR).join(name)).map_or(0, |file| file.ino());
            let alive = |proxy: &&mut Proxy| {
                proxy.address == address && proxy.inode == inode && !proxy.task.is_finished()
            };
            if let Some(proxy) = self.running.get_mut(name).filter(alive) {
                *proxy.guests.write().unwrap_or_else(PoisonError::into_inner) = guests;
                continue;
            }
            self.running.remove(name);
            match self.start(machine, name, address, inode, guests) {
                Ok(proxy) => {
                    self.running.insert(name.clone(), proxy);
                }
                Err(error) => failed.push((space.object, error)),
            }
        }
        failed
    }

    fn start(
        &self,
        machine: &Machine,
        name: &str,
        address: SocketAddr,
        inode: u64,
        guests: Guests,
    ) -> Result<Proxy, machine::Error> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let path = Path::new(NETNS_DIR).join(name);
        // The socket stays in the namespace it was made in, whoever serves it.
        let listener = machine.within(&Space::Named(name.to_owned()), bind)?;
        let listener = listener
            .and_then(TcpListener::from_std)
            .map_err(machine::Error::file(&path))?;
        let guests = Arc::new(RwLock::new(guests));
        let task = tokio::spawn(serve(
            listener,
            Arc::clone(&guests),
            Arc::clone(&self.upstream),
        ));
        Ok(Proxy {
            address,
            inode,
            guests,
            task,
        })
    }
}

/// The guests that may ask in a namespace, by address.
fn guests(space: &WantedSpace, wanted: &HostWanted) -> Guests {
    let networks = wanted
        .networks
        .iter()
        .filter(|network| space.networks.contains(&network.id));
    let hosts = networks
        .flat_map(|network| &network.dhcp_hosts)
        .filter(|host| !host.device_id.is_empty());
    let entries = hosts.flat_map(|host| {
        let guest = Guest {
            instance: host.device_id.clone(),
            project: host.project_id.clone(),
        };
        host.ips.iter().map(move |ip| (ip.ip, guest.clone()))
    });
    entries.collect()
}

async fn serve(listener: TcpListener, guests: Arc<RwLock<Guests>>, upstream: Arc<Upstream>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "metadata proxy cannot accept a connection");
                // Out of file descriptors, most likely; trying again at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (guests, upstream) = (Arc::clone(&guests), Arc::clone(&upstream));
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(request, from.ip(), &guests, &upstream));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(32 << 10)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "metadata connection ended early");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    from: IpAddr,
    guests: &RwLock<Guests>,
    upstream: &Upstream,
) -> Result<Response<Body>, std::convert::Infallible> {
    let from = from.to_canonical();
    let guest = guests
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&from)
        .cloned();
    let Some(guest) = guest else {
        tracing::info!(%from, "metadata asked from an unknown address");
        return Ok(plain(
            StatusCode::NOT_FOUND,
            "404 Not Found\n\nNo server has this address.\n",
        ));
    };
    let Some(request) = outgoing(request, from, &guest, upstream) else {
        return Ok(plain(StatusCode::BAD_REQUEST, "400 Bad Request\n"));
    };
    let sent = tokio::time::timeout(PATIENCE, upstream.client.request(request)).await;
    let reason = match sent {
        Ok(Ok(response)) => return Ok(incoming(response)),
        Ok(Err(error)) => format!("{error}"),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(
        instance = guest.instance,
        reason,
        "the metadata API cannot be reached"
    );
    Ok(plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "503 Service Unavailable\n\nMetadata is not available now.\n",
    ))
}

/// Headers that belong to one connection (RFC 9110, 7.6.1), not to the message.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];
/// Headers in which the API believes the proxy; a guest's own are dropped.
const TRUSTED: [&str; 9] = [
    "x-instance-id",
    "x-instance-id-signature",
    "x-tenant-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-metadata-provider",
    "x-metadata-provider-signature",
    "forwarded",
];

fn outgoing(
    request: Request<Incoming>,
    from: IpAddr,
    guest: &Guest,
    upstream: &Upstream,
) -> Option<Request<Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(upstream.authority.clone())
        .path_and_query(format!("{}{path}", upstream.prefix))
        .build()
        .ok()?;
    strip(&mut parts.headers);
    for name in TRUSTED {
        parts.headers.remove(name);
    }
    let ours = [
        ("x-instance-id", guest.instance.clone()),
        ("x-tenant-id", guest.project.clone()),
        ("x-forwarded-for", from.to_string()),
        (
            "x-instance-id-signature",
            sign(&upstream.secret, &guest.instance),
        ),
    ];
    for (name, value) in ours {
        parts.headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).ok()?,
        );
    }
    let body = Limited::new(body, MAX_REQUEST).boxed_unsync();
    let mut outgoing = Request::builder()
        .method(parts.method)
        .uri(uri)
        .body(body)
        .ok()?;
    *outgoing.headers_mut() = parts.headers;
    Some(outgoing)
}

fn incoming(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    Response::from_parts(parts, Limited::new(body, MAX_ANSWER).boxed_unsync())
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| {
            value
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
        })
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    response
}

/// Hex HMAC-SHA256 of an instance id, as Nova's metadata API expects it of its proxy.
#[must_use]
pub fn sign(secret: &Secret, instance: &str) -> String {
    // HMAC takes keys of any length, so this has no failing case.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.bytes()) else {
        return String::new();
    };
    mac.update(instance.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
