//! The ports of the cloud.

use crate::certificates::Files;
use crate::desk;
use crate::monitor::{self, Need};
use crate::place::Place;
use crate::settings::Settings;
use anyhow::{Context, Result};
use axum::Router;
use rustls::ServerConfig;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use web::Listener;

/// The APIs that are served, and the signal that ends them.
pub(crate) struct Serving {
    tasks: JoinSet<std::io::Result<()>>,
    listen: String,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
}

impl Serving {
    /// Serves as the settings say.
    ///
    /// # Errors
    /// When the certificate of the APIs cannot be used.
    pub(crate) fn new(settings: &Settings, stop: CancellationToken) -> Result<Self> {
        let tls = match settings.tls_identity() {
            Some(identity) => Some(web::tls::server(&identity, None)?),
            None => None,
        };
        Ok(Self {
            tasks: JoinSet::new(),
            listen: settings.listen.clone(),
            tls,
            stop,
        })
    }

    /// Serves an API on its port, with TLS where there is a certificate.
    pub(crate) async fn tcp(&mut self, service: &str, port: u16, router: Router) -> Result<()> {
        let tls = self.tls.clone();
        self.open(service, port, router, tls).await
    }

    /// Serves a router on a port without TLS.
    pub(crate) async fn plain(&mut self, service: &str, port: u16, router: Router) -> Result<()> {
        self.open(service, port, router, None).await
    }

    async fn open(
        &mut self,
        service: &str,
        port: u16,
        router: Router,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<()> {
        let listener = Listener::tcp(&self.listen, port).await.with_context(|| {
            format!("the {service} API cannot listen on {}:{port}; choose another port: `kilonova config show` names the setting", self.listen)
        })?;
        let listener = listener.with_tls(tls);
        self.tasks
            .spawn(web::serve(listener, router, self.stop.clone()));
        Ok(())
    }

    /// Serves a router on an address of its own.
    pub(crate) async fn at(&mut self, what: &str, address: &str, router: Router) -> Result<()> {
        let address: std::net::SocketAddr = address.parse()?;
        let host = address.ip().to_string();
        let listener = Listener::tcp(&host, address.port())
            .await
            .with_context(|| format!("the {what} cannot be served on {address}"))?;
        self.tasks
            .spawn(web::serve(listener, router, self.stop.clone()));
        Ok(())
    }

    /// Serves what operators look at, where that is wanted.
    pub(crate) async fn monitor(
        &mut self,
        address: &str,
        role: &'static str,
        needs: Vec<Need>,
    ) -> Result<()> {
        match address {
            "" => Ok(()),
            address => {
                self.at("metrics", address, monitor::router(role, needs))
                    .await
            }
        }
    }

    /// Serves a router where agents of hosts find it; those of other machines must prove who they are.
    pub(crate) async fn desk(
        &mut self,
        place: &Place,
        certificates: &Path,
        router: Router,
    ) -> Result<()> {
        let (host, port) = match place {
            Place::Unix(path) => return self.unix(path, router),
            Place::Tls { host, port } => (host, *port),
        };
        let files = Files(certificates);
        let tls = web::tls::server(&files.server(), Some(&files.authority())).context(
            "agents of other machines need certificates: `kilonova manage certificates` makes them",
        )?;
        let listener = Listener::tcp(host, port)
            .await
            .with_context(|| format!("agents cannot be listened to on {host}:{port}"))?;
        self.tasks.spawn(web::serve(
            listener.with_tls(Some(tls)),
            desk::guarded(router),
            self.stop.clone(),
        ));
        Ok(())
    }

    /// Serves a router on a private unix socket.
    pub(crate) fn unix(&mut self, path: &Path, router: Router) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        // A socket that an earlier run left behind.
        let _ = std::fs::remove_file(path);
        let listener = tokio::net::UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        self.tasks.spawn(web::serve(
            Listener::Unix(listener),
            router,
            self.stop.clone(),
        ));
        Ok(())
    }

    /// Waits until all have ended.
    pub(crate) async fn finish(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(%error, "an API ended");
            }
        }
    }
}
