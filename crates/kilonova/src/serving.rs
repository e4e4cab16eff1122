//! The ports of the cloud.

use crate::place::Place;
use anyhow::{Context, Result};
use axum::Router;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use web::Listener;

/// The APIs that are served, and the signal that ends them.
pub(crate) struct Serving {
    tasks: JoinSet<std::io::Result<()>>,
    listen: String,
    stop: CancellationToken,
}

impl Serving {
    pub(crate) fn new(listen: &str, stop: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            listen: listen.to_owned(),
            stop,
        }
    }

    /// Serves a router on a port.
    pub(crate) async fn tcp(&mut self, service: &str, port: u16, router: Router) -> Result<()> {
        let listener = Listener::tcp(&self.listen, port).await.with_context(|| {
            format!("the {service} API cannot listen on {}:{port}; choose another port with --{service}-port", self.listen)
        })?;
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

    /// Serves a router where agents of hosts find it.
    pub(crate) fn desk(&mut self, place: &Place, router: Router) -> Result<()> {
        match place {
            Place::Unix(path) => self.unix(path, router),
        }
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
