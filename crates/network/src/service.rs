//! The service: its store, its rules, and who waits for what.

use crate::config::Config;
use crate::db;
use crate::fault::Fault;
use crate::rules;
use crate::work::{Context, Work};
use axum::Router;
use policy::Enforcer;
use sql::Store;
use std::sync::Arc;
use tokio::sync::{Notify, broadcast, watch};
use types::Caller;
use types::network_wanted::Status;
use uuid::Uuid;
use web::auth::TokenValidator;

/// Times that a request is tried when others take the same address or number meanwhile.
const TRIES: usize = 10;
/// Events kept for those who listen slowly.
const EVENTS: usize = 4096;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("network service: {0}")]
    Store(#[from] sql::Error),
    /// The policy file.
    #[error("network service: {0}")]
    Policy(#[from] policy::PolicyError),
    /// A fresh cloud's networks could not be made.
    #[error("network service: {0}")]
    Bootstrap(String),
}

/// A port's status changed as its host reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEvent {
    /// The port.
    pub port_id: Uuid,
    /// The server or router that has it.
    pub device_id: String,
    /// Its status now.
    pub status: Status,
}

/// The network service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) config: Arc<Config>,
    pub(crate) rules: Arc<Enforcer>,
    pub(crate) validator: Arc<dyn TokenValidator>,
    pub(crate) revision: watch::Sender<u64>,
    pub(crate) events: broadcast::Sender<PortEvent>,
    /// A host has answered a look.
    pub(crate) looked: Notify,
}

impl Service {
    /// Opens the service on a database and brings its schema up to date.
    ///
    /// # Errors
    /// When the database or the policy text of the configuration cannot be used.
    pub async fn open(
        store: Store,
        config: Config,
        validator: Arc<dyn TokenValidator>,
    ) -> Result<Self, Error> {
        store.migrate("network", db::MIGRATIONS).await?;
        let rules = Enforcer::new(rules::defaults())?.with_overrides(&config.policy)?;
        for rule in rules.unknown() {
            tracing::warn!(rule, "the network policy names a rule that does not exist");
        }
        let newest = store
            .read(db::changes::revision)
            .await
            .map_err(|fault: Fault| Error::Bootstrap(fault.message))?;
        let inner = Inner {
            store,
            config: Arc::new(config),
            rules: Arc::new(rules),
            validator,
            revision: watch::channel(newest).0,
            events: broadcast::channel(EVENTS).0,
            looked: Notify::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Gives DHCP and routers to the host that the settings name, if they name one.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn settle_gateway(&self) -> Result<(), Error> {
        let Some(host) = self.inner.config.gateway_host.clone() else {
            return Ok(());
        };
        let act = move |work: &mut Work<'_, '_>| {
            if db::agents::make_first(work.tx, &host)? {
                tracing::info!(host, "serves DHCP and routers from now on");
                work.gateway_moved()?;
            }
            Ok(())
        };
        let done = self.write(&self.own_context(), act).await;
        done.map_err(|fault: Fault| Error::Bootstrap(fault.message))
    }

    /// The Networking API as it is mounted at the root of its port.
    pub fn router(&self) -> Router {
        crate::edge::router(self.clone())
    }

    /// What the agents on the hosts ask. It knows no tokens: serve it only where nobody else can connect.
    pub fn agent_router(&self) -> Router {
        crate::agent::router(self.clone())
    }

    /// Tells of every change of a port's status that a host reports, from now on.
    pub fn port_events(&self) -> broadcast::Receiver<PortEvent> {
        self.inner.events.subscribe()
    }

    /// Counts the changes of what the service knows, from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    pub(crate) fn context(&self, caller: Arc<Caller>) -> Context {
        Context {
            caller,
            rules: Arc::clone(&self.inner.rules),
            config: Arc::clone(&self.inner.config),
        }
    }

    /// The service acting for itself.
    pub(crate) fn own_context(&self) -> Context {
        let caller = Caller {
            roles: vec![
                "admin".into(),
                "member".into(),
                "reader".into(),
                "service".into(),
            ],
            ..Caller::default()
        };
        self.context(Arc::new(caller))
    }

    /// Runs a request that only reads.
    pub(crate) async fn read<T, F>(&self, cx: &Context, mut act: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Work<'_, '_>) -> Result<T, Fault> + Send + 'static,
    {
        let cx = cx.clone();
        self.inner
            .store
            .read(move |tx| act(&mut Work::new(tx, &cx)))
            .await
    }

    /// Runs a request that may write, in one transaction; tells the agents when that is committed.
    pub(crate) async fn write<T, F>(&self, cx: &Context, act: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Work<'_, '_>) -> Result<T, Fault> + Send + Clone + 'static,
    {
        let mut tries = 0;
        loop {
            let (cx, mut act) = (cx.clone(), act.clone());
            let done = self.inner.store.write(move |tx| {
                let mut work = Work::new(tx, &cx);
                let answer = act(&mut work)?;
                Ok::<_, Fault>((answer, work.finish()?))
            });
            tries += 1;
            match done.await {
                Ok((answer, revision)) => {
                    if let Some(revision) = revision {
                        self.inner.revision.send_if_modified(|known| {
                            let newer = revision > *known;
                            *known = (*known).max(revision);
                            newer
                        });
                    }
                    return Ok(answer);
                }
                Err(fault) if fault.again && tries < TRIES => {}
                Err(fault) if fault.again => {
                    tracing::error!(%fault, tries, "a unique index refused a request each time");
                    return Err(Fault {
                        again: false,
                        ..fault
                    });
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}
