//! The control part of `kilonova up`: all services without privileges in one process.

use crate::fresh::{self, Filled};
use crate::part::{self, Orders};
use crate::service_tokens::EmbeddedTokens;
use crate::services::{self, Conductor, Reach, Way};
use crate::serving::Serving;
use anyhow::Result;
use bus::Bus;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The services without privileges, running.
pub(crate) struct Control {
    serving: Serving,
    _conductor: Conductor,
}

/// The unprivileged part of a cloud, until its end.
pub(crate) async fn run() -> Result<()> {
    let (orders, _place) = tokio::task::spawn_blocking(part::begin).await??;
    rustix::thread::set_no_new_privs(true)?;
    let stop = CancellationToken::new();
    part::stop_with_supervisor(&stop);
    let starting = Control::start(&orders, &stop);
    let control = tokio::select! {
        control = starting => control?,
        () = stop.cancelled() => return Ok(()),
    };
    part::say_ready()?;
    part::wait_for_end(&stop).await?;
    stop.cancel();
    control.finish().await;
    Ok(())
}

impl Control {
    /// Opens the databases and starts every service. All APIs answer afterwards.
    pub(crate) async fn start(orders: &Orders, stop: &CancellationToken) -> Result<Self> {
        let filled = fresh::fill(orders).await?;
        services::keep_images(&filled.image, stop).await?;
        let volume = fresh::volume(orders, &filled, true).await?;
        // Before anybody can ask it for anything: somebody may have started a volume service of its own here.
        volume.take_folder()?;
        let reach = reach(&filled, &volume);
        let bus = Bus::new();
        let mut serving = Serving::new(&orders.settings, stop.clone())?;
        let conductor = Conductor::start(
            orders,
            "conductor",
            filled.compute.clone(),
            &reach,
            &bus,
            Some(filled.network.changes()),
            stop,
        )
        .await?;
        let desk = conductor.desk.clone().merge(filled.network.agent_router());
        serving.unix(&orders.socket, desk)?;
        services::keep_volumes(&volume, stop).await?;
        let compute = services::compute_api(
            orders,
            filled.compute.clone(),
            &reach,
            &bus,
            Some((conductor.worker.intake(), conductor.newcomers.clone())),
        )
        .await?;
        open_ports(orders, filled, &volume, &reach, &compute, &mut serving).await?;
        Ok(Self {
            serving,
            _conductor: conductor,
        })
    }

    /// Waits until what is under way has been answered; the signal to stop was given.
    pub(crate) async fn finish(self) {
        self.serving.finish().await;
    }
}

fn reach(filled: &Filled, volume: &volume::Service) -> Reach {
    let project = filled.made.service_project_id.clone();
    Reach {
        images: Way::Here(filled.image.router()),
        networks: Way::Here(filled.network.router()),
        volumes: Way::Here(volume.router()),
        keys: Way::Here(filled.key_manager.router()),
        tokens: Arc::new(EmbeddedTokens::new(
            filled.identity.clone(),
            "nova",
            project,
        )),
        validator: services::local_validator(&filled.identity),
        shared: false,
    }
}

/// Opens the ports of all APIs.
async fn open_ports(
    orders: &Orders,
    filled: Filled,
    volume: &volume::Service,
    reach: &Reach,
    compute: &api::Service,
    serving: &mut Serving,
) -> Result<()> {
    let settings = &orders.settings;
    let store = filled.compute;
    let metadata = services::metadata(orders, store.clone(), reach)?;
    let validator = Arc::clone(&reach.validator);
    let placement = services::placement(orders, store, validator).await?;
    for (service, port, router) in [
        ("identity", settings.identity_port, filled.identity.router()),
        ("image", settings.image_port, filled.image.router()),
        ("network", settings.network_port, filled.network.router()),
        ("volume", settings.volume_port, volume.router()),
        (
            "key-manager",
            settings.key_manager_port,
            filled.key_manager.router(),
        ),
        ("placement", settings.placement_port, placement.router()),
    ] {
        serving.tcp(service, port, router).await?;
    }
    // The proxies on hosts sign what they say, and speak plain HTTP.
    serving
        .plain("metadata", settings.metadata_port, metadata)
        .await?;
    services::serve_compute_api(orders, compute, serving).await
}
