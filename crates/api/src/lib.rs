//! The Compute REST API: one table of routes, microversions decided at the edge, views rendered for the version asked.
//!
//! Rules of this crate:
//! * a request is checked in the order Nova checks it (`dispatch`), because clients can see the order;
//! * nothing below this crate knows a microversion: bodies become version-free commands, and one newest view of each
//!   resource is rendered with the fields the version has;
//! * an accepted request is a committed transaction; the bell is rung after it.

mod call;
mod commands;
mod devices;
mod dispatch;
mod events;
mod extra_specs;
mod faults;
mod front;
mod handlers;
mod health;
mod idempotency;
mod image_checks;
mod links;
mod metrics;
mod mv;
mod negotiation;
mod neighbours;
mod openapi;
mod policies;
mod policy_renames;
mod policy_report;
mod policy_rules;
mod queries;
mod query;
mod rates;
mod route;
mod routes;
mod schemas;
mod success;
mod verdict;
mod versions;
mod views;
mod vtpm;

use axum::Router;
use axum::routing::get;
use bus::Bus;
use clients::{HostQuestions, Images, Keys, Networks, ServiceTokens, Volumes};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tower_http::compression::CompressionLayer;
use web::auth::TokenValidator;

pub use handlers::server_resize::SameHost;
pub use image_checks::Signatures;
pub use openapi::document as openapi;
pub use policies::PolicyFiles;
pub use policy_report::PolicyReport;
pub use rates::RateLimit;

/// How often policy files are looked at.
const POLICY_LOOK: Duration = Duration::from_secs(1);

/// Settings of the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Items of a page at most (`[api] max_limit`).
    pub max_limit: usize,
    /// Bytes of a request body at most (`[oslo_middleware] max_request_body_size`).
    pub max_body_bytes: usize,
    /// How long a client may take to send a body: a connection is not held for nothing.
    pub body_timeout: Duration,
    /// Where tokens come from, for the 401's `WWW-Authenticate`.
    pub auth_url: String,
    /// Where links to this API begin, without a `/` at the end; none is what the client used (`[api] compute_link_prefix`).
    pub compute_link_prefix: Option<String>,
    /// Where the image service is, for links to images of old versions.
    pub image_url: String,
    /// The pool of floating addresses when a request below 2.36 names none (`[neutron] default_floating_pool`).
    pub default_floating_pool: String,
    /// Rules instead of Nova's defaults, in the form of `policy.yaml`.
    pub policy_overrides: Option<String>,
    /// Files with such rules, read again when they change.
    pub policy_files: PolicyFiles,
    /// Requests that one token and one address may make; none is no limit.
    pub rate_limit: Option<RateLimit>,
    /// How the conductors choose hosts, for what is told without them: dry runs, zones.
    pub scheduling: scheduler::Settings,
    /// The zone of services that are not compute hosts (`internal_service_availability_zone`).
    pub internal_zone: String,
    /// Seconds for which a deleted server can be restored; 0 deletes at once (`[DEFAULT] reclaim_instance_interval`).
    pub reclaim_seconds: u64,
    /// Whether a server that is shelved leaves its host at once (`[DEFAULT] shelved_offload_time` is 0).
    pub offload_at_once: bool,
    /// Whether a resize may end on the host where it begins (`[DEFAULT] allow_resize_to_same_host`).
    pub resize_on_same_host: SameHost,
    /// The image of rescues that name none (`[libvirt] rescue_image_id`); none is the server's own.
    pub rescue_image: Option<String>,
    /// When images must be signed, and by whom.
    pub signatures: Signatures,
    /// Microseconds of silence after which a service counts as down (`service_down_time`).
    pub service_down_micros: i64,
    /// How long a request waits at most until others see at a volume that it is being attached or detached.
    pub seen_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_limit: 1000,
            max_body_bytes: 114_688,
            body_timeout: Duration::from_secs(60),
            auth_url: "http://127.0.0.1:5000".to_owned(),
            compute_link_prefix: None,
            image_url: "http://127.0.0.1:9292".to_owned(),
            default_floating_pool: "nova".to_owned(),
            policy_overrides: None,
            policy_files: PolicyFiles::default(),
            rate_limit: None,
            scheduling: scheduler::Settings::default(),
            internal_zone: "internal".to_owned(),
            reclaim_seconds: 0,
            offload_at_once: true,
            resize_on_same_host: SameHost::default(),
            rescue_image: None,
            signatures: Signatures::default(),
            service_down_micros: 60_000_000,
            seen_within: Duration::from_secs(5),
        }
    }
}

/// What the API needs from the rest of the cloud.
pub struct Deps {
    /// The compute database.
    pub store: sql::Store,
    /// Who says what a token means.
    pub validator: Arc<dyn TokenValidator>,
    /// The image service, asked with the user's token.
    pub images: Images,
    /// The network service, asked with the user's token.
    pub networks: Networks,
    /// The volume service, asked with the user's token.
    pub volumes: Volumes,
    /// The key manager, asked with the user's token, or with the cloud's for what is not the user's.
    pub keys: Keys,
    /// Tokens of the cloud.
    pub tokens: Arc<dyn ServiceTokens>,
    /// Rung after a commit.
    pub bus: Bus,
    /// Hands the task of a new server over to a worker of this process, with what is known of the server; `false` when there
    /// is none that takes it.
    pub hand_over: HandOver,
    /// Short answers from hosts.
    pub questions: Arc<dyn HostQuestions>,
    /// Encrypts what is stored of secrets.
    pub secrets: Arc<dyn Secrets>,
}

/// See [`Deps::hand_over`].
pub type HandOver = Arc<dyn Fn(db::tasks::Task, db::placing::ToBePlaced) -> bool + Send + Sync>;

/// Encrypts with the cloud's own key, so that the database never holds a secret in clear.
pub trait Secrets: Send + Sync + 'static {
    /// The encrypted text, to be stored.
    fn seal(&self, clear: &str) -> String;
    /// The text of what was sealed; none when it was not sealed with a key of this cloud.
    fn open(&self, sealed: &str) -> Option<String>;
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A policy cannot be read.
    #[error(transparent)]
    Policy(#[from] policies::Unusable),
    /// The database.
    #[error(transparent)]
    Database(#[from] sql::Error),
}

/// What all requests share.
pub struct Inner {
    config: Config,
    deps: Deps,
    policy: policies::Policies,
    table: route::Table,
    rates: Option<rates::Rates>,
    requests: metrics::Requests,
    ready: health::Last,
    hub: Arc<events::Hub>,
}

/// The Compute API.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl Service {
    /// Brings the schema up to date and reads the policies.
    pub async fn open(deps: Deps, config: Config) -> Result<Self, Error> {
        db::migrate(&deps.store).await?;
        let overrides = config.policy_overrides.as_deref();
        let policy = policies::Policies::open(overrides, config.policy_files.clone())?;
        let table = route::Table::new(routes::ROUTES);
        let inner = Arc::new(Inner {
            rates: config.rate_limit.map(rates::Rates::new),
            hub: events::Hub::new(deps.store.clone(), deps.bus.clone()),
            config,
            deps,
            policy,
            table,
            requests: metrics::Requests::default(),
            ready: health::Last::default(),
        });
        if inner.policy.is_watched() {
            tokio::spawn(watch_policies(Arc::downgrade(&inner)));
        }
        Ok(Self { inner })
    }

    /// The whole API, as it is mounted at the root of its port.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthcheck", get(health::alive))
            .route("/healthcheck/ready", get(health::ready))
            .route("/openapi.json", get(openapi::serve))
            .route(events::PATH, get(events::serve))
            .fallback(dispatch::serve)
            .with_state(Arc::clone(&self.inner))
            .layer(axum::middleware::from_fn(front::door))
            .layer(CompressionLayer::new())
    }

    /// Event streams and waiting requests there are.
    #[cfg(test)]
    fn followers(&self) -> (usize, usize) {
        self.inner.hub.followers()
    }

    /// `/metrics` for Prometheus. It needs no token: serve it where only the operator can reach it.
    pub fn metrics(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics::show))
            .route("/healthcheck", get(health::alive))
            .route("/healthcheck/ready", get(health::ready))
            .with_state(Arc::clone(&self.inner))
    }
}

/// Has changed policy files read again, until the API is gone.
async fn watch_policies(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(POLICY_LOOK).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || inner.policy.refresh()).await {
            tracing::error!(%error, "the policy files could not be looked at");
        }
    }
}

/// The rows that would answer 501: method, path and action of what is not built.
pub fn not_built() -> Vec<String> {
    let rows = routes::ROUTES
        .iter()
        .filter(|row| matches!(row.served, route::Served::NotYet));
    rows.map(|row| match row.action {
        Some(action) => format!("{} {} {action}", row.verb.as_str(), row.path),
        None => format!("{} {}", row.verb.as_str(), row.path),
    })
    .collect()
}

#[cfg(test)]
mod tests;
