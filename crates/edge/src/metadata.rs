//! The metadata service: answers guests, whose requests come through the network agent's proxy on their host.
//!
//! The proxy knows a guest by network and address and says who it is in headers, as Neutron's does to Nova:
//! `X-Instance-ID`, `X-Tenant-ID`, `X-Forwarded-For`, and `X-Instance-ID-Signature`, the hexadecimal HMAC-SHA256 of the
//! instance id under a secret that both know. Only these count; a request without them is refused, except for the list
//! of versions at `/`, which is the same for everyone.
//!
//! | wrong | status |
//! |---|---|
//! | a header is missing, or there twice | 400 |
//! | the signature | 403 |
//! | the server is unknown, deleted, or of another project; nothing is at the path | 404 |
//! | the database or (for `network_data.json`) the network service does not answer | 500 |
//!
//! What is known of a guest is kept for [`FRESH`], so that the dozens of requests of one boot cost few look-ups. `random_seed` is new in every answer.
//!
//! A guest may leave a password once, encrypted for its owner (`POST /openstack/<version>/password`, at most
//! [`PASSWORD_BYTES`]); the owner reads it by the Compute API, and clears it there so that the guest may leave another.

mod answers;
#[cfg(test)]
mod tests;

use crate::secrets::Secrets;
use ::metadata::{Found, Guest, SEED_BYTES};
use answers::{plain, refuse};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use clients::{ClientError, Networks, ServiceTokens};
use hmac::{Hmac, Mac};
use http::{HeaderMap, Method, StatusCode};
use moka::sync::Cache;
use rand::RngCore;
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use types::{ServerId, Timestamp};

/// How old an answer may be: less than any boot takes, so that a server that is rebuilt with another key does not get the old one.
/// (Nova's are 15 seconds old, in which guests boot here.)
pub const FRESH: Duration = Duration::from_secs(2);
/// Bytes that kept guests may take together.
const KEPT_BYTES: u64 = 16 << 20;
/// Bytes of a guest's password at most, as in Nova.
pub const PASSWORD_BYTES: usize = 1020;
/// What a guest takes besides its user data, roughly.
const GUEST_BYTES: usize = 4 << 10;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("Invalid proxy request signature.")]
    Forbidden,
    #[error("The resource could not be found.")]
    NotFound,
    #[error("The method is not allowed for this resource.")]
    Method,
    #[error("There was a conflict when trying to complete your request.")]
    Conflict,
    #[error("the database: {0}")]
    Database(#[from] sql::Error),
    #[error("{0}")]
    Network(#[from] ClientError),
}

/// What is known of guests, by server, with or without their subnets.
type Kept = Cache<(ServerId, bool), Arc<Guest>>;

struct Inner {
    store: sql::Store,
    networks: Arc<Networks>,
    tokens: Arc<dyn ServiceTokens>,
    secrets: Arc<dyn Secrets>,
    shared_secret: Vec<u8>,
    vendor: Value,
    domain: String,
    kept: Kept,
}

/// The metadata service.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

/// How guests are answered.
#[derive(Clone, Debug)]
pub struct Config {
    /// The secret shared with the proxies. While it is empty nobody is answered.
    pub shared_secret: Vec<u8>,
    /// The operator's words to every guest (`vendor_data.json`), a JSON object.
    pub vendor: Value,
    /// The domain of host names.
    pub domain: String,
}

impl Config {
    /// Nova's defaults with this secret.
    pub fn new(shared_secret: impl Into<Vec<u8>>) -> Self {
        Self {
            shared_secret: shared_secret.into(),
            vendor: Value::Object(serde_json::Map::new()),
            domain: ::metadata::DOMAIN.to_owned(),
        }
    }
}

impl Service {
    /// A service over the compute database (migrated already). `secrets` opens what the API sealed.
    pub fn new(
        store: sql::Store,
        networks: Arc<Networks>,
        tokens: Arc<dyn ServiceTokens>,
        secrets: Arc<dyn Secrets>,
        config: Config,
    ) -> Self {
        if config.shared_secret.is_empty() {
            tracing::error!(
                "the metadata service has no shared secret and will refuse every guest"
            );
        }
        let kept = Cache::builder()
            .time_to_live(FRESH)
            .max_capacity(KEPT_BYTES)
            .weigher(|_, guest: &Arc<Guest>| weight(guest))
            .build();
        let inner = Inner {
            store,
            networks,
            tokens,
            secrets,
            shared_secret: config.shared_secret,
            vendor: config.vendor,
            domain: config.domain,
            kept,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The service as it is mounted at the root of its port.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&self.inner))
    }
}

fn weight(guest: &Guest) -> u32 {
    let user_data = guest.instance.user_data.as_ref().map_or(0, String::len);
    u32::try_from(GUEST_BYTES + user_data).unwrap_or(u32::MAX)
}

async fn serve(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.split('/').all(|name| matches!(name, "" | ".")) {
        return plain(StatusCode::OK, ::metadata::root_listing());
    }
    match inner
        .answer(&parts.method, path, &parts.headers, body)
        .await
    {
        Ok(answer) => answer,
        Err(refusal) => refuse(&refusal),
    }
}

impl Inner {
    async fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let who = self.who(headers)?;
        let guest = self
            .guest(who.server, ::metadata::needs_subnets(path))
            .await?;
        if guest.instance.project_id.as_str() != who.project {
            tracing::warn!(server = %who.server, "a metadata request names a project that the server is not of");
            return Err(Refusal::NotFound);
        }
        let mut seed = [0; SEED_BYTES];
        rand::rng().fill_bytes(&mut seed);
        let found = guest
            .lookup(path, &seed, who.address)
            .ok_or(Refusal::NotFound)?;
        match found {
            Found::Password => self.password(method, who.server, body).await,
            _ if !matches!(*method, Method::GET | Method::HEAD) => Err(Refusal::Method),
            Found::Text(text) => Ok(plain(StatusCode::OK, text)),
            Found::Json(document) => Ok(answers::json(document)),
        }
    }

    /// The guest's password: read, or left for the first time.
    async fn password(
        &self,
        method: &Method,
        server: ServerId,
        body: Body,
    ) -> Result<Response, Refusal> {
        match *method {
            Method::GET | Method::HEAD => {
                let kept = self
                    .store
                    .read(move |tx| db::guest_passwords::get(tx, server))
                    .await?;
                Ok(plain(StatusCode::OK, kept.unwrap_or_default()))
            }
            Method::POST => {
                let too_large = |_| Refusal::BadRequest("Request is too large.".to_owned());
                let bytes = axum::body::to_bytes(body, PASSWORD_BYTES)
                    .await
                    .map_err(too_large)?;
                let text = String::from_utf8(bytes.to_vec())
                    .map_err(|_| Refusal::BadRequest("The password is not text.".to_owned()))?;
                if text.is_empty() {
                    return Ok(plain(StatusCode::OK, ""));
                }
                let now = Timestamp::now();
                let kept = self
                    .store
                    .write(move |tx| db::guest_passwords::put(tx, server, &text, now))
                    .await?;
                if kept {
                    Ok(plain(StatusCode::OK, ""))
                } else {
                    Err(Refusal::Conflict)
                }
            }
            _ => Err(Refusal::BadRequest(
                "GET and POST only are supported.".to_owned(),
            )),
        }
    }

    /// The guest that the proxy speaks for.
    fn who<'a>(&self, headers: &'a HeaderMap) -> Result<Who<'a>, Refusal> {
        let instance = required(headers, "X-Instance-ID")?;
        let signature = required(headers, "X-Instance-ID-Signature")?;
        let project = required(headers, "X-Tenant-ID")?;
        if !signed(&self.shared_secret, instance, signature) {
            tracing::warn!(instance, "a metadata request has a wrong signature");
            return Err(Refusal::Forbidden);
        }
        let address = headers.get("X-Forwarded-For");
        Ok(Who {
            server: instance.parse().map_err(|_| Refusal::NotFound)?,
            project,
            address: address.and_then(|value| value.to_str().ok()),
        })
    }

    /// What is known of a server now, or was known a moment ago.
    async fn guest(&self, server: ServerId, with_subnets: bool) -> Result<Arc<Guest>, Refusal> {
        if let Some(guest) = self.kept.get(&(server, with_subnets)) {
            return Ok(guest);
        }
        let mut guest = self.look_up(server).await?;
        if with_subnets {
            guest.subnets = self.subnets(&guest).await?;
        }
        let guest = Arc::new(guest);
        self.kept.insert((server, with_subnets), Arc::clone(&guest));
        Ok(guest)
    }

    async fn look_up(&self, server: ServerId) -> Result<Guest, Refusal> {
        let found = self
            .store
            .read(move |tx| -> Result<_, sql::Error> {
                let devices = db::block_devices::of_server(tx, server)?;
                Ok((db::instances::get(tx, server)?, devices))
            })
            .await?;
        let (instance, devices) = found;
        let instance = instance.ok_or(Refusal::NotFound)?;
        let sealed = instance.sealed_password().map(str::to_owned);
        let mut guest = Guest::new(instance);
        guest.devices = devices;
        guest.vendor = self.vendor.clone();
        guest.domain.clone_from(&self.domain);
        if let Some(sealed) = sealed {
            guest.admin_pass = self.secrets.open(&sealed);
            if guest.admin_pass.is_none() {
                tracing::warn!(%server, "the sealed administrator's password cannot be opened");
            }
        }
        Ok(guest)
    }

    async fn subnets(
        &self,
        guest: &Guest,
    ) -> Result<BTreeMap<String, Vec<clients::Subnet>>, ClientError> {
        let mut found = BTreeMap::new();
        let interfaces = &guest.instance.network_info;
        if interfaces.is_empty() {
            return Ok(found);
        }
        let token = self.tokens.token().await?;
        for vif in interfaces {
            if !found.contains_key(&vif.network_id) {
                let subnets = self.networks.subnets(&token, &vif.network_id).await?;
                found.insert(vif.network_id.clone(), subnets);
            }
        }
        Ok(found)
    }
}

/// A guest as its proxy describes it.
struct Who<'a> {
    server: ServerId,
    project: &'a str,
    address: Option<&'a str>,
}

fn required<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    let bad = |text: String| Err(Refusal::BadRequest(text));
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return bad(format!("{name} header is missing from request."));
    };
    if values.next().is_some() {
        return bad(format!("Multiple {name} headers found within request."));
    }
    match value.to_str() {
        Ok(text) => Ok(text),
        Err(_) => bad(format!("{name} header is not plain text.")),
    }
}

/// Whether `signature` is the HMAC of `instance`; an empty secret signs nothing. The comparison takes constant time.
fn signed(secret: &[u8], instance: &str, signature: &str) -> bool {
    let Ok(signature) = hex::decode(signature) else {
        return false;
    };
    // HMAC takes keys of any length, so `new_from_slice` does not fail.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return false;
    };
    !secret.is_empty()
        && mac
            .chain_update(instance.as_bytes())
            .verify_slice(&signature)
            .is_ok()
}
