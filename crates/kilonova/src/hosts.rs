//! The hosts of this process: one real one, or simulated ones.

use crate::arguments::Hypervisor;
use crate::part::{self, Orders};
use anyhow::{Context, Result};
use compute::{Agent, ImageCache, Ledger, Settings};
use network_agent::source::{Endpoint, HttpSource};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::{HostName, NodeId};
use virt::libvirt::daemon::{Daemon, DaemonConfig};
use virt::libvirt::{Libvirt, LibvirtConfig};
use virt::sim::{Sim, SimConfig};
use web::client::Client;

/// What runs on this machine.
pub(crate) struct Hosts {
    daemon: Option<Daemon>,
    libvirt: Option<Arc<Libvirt>>,
}

impl Hosts {
    /// Starts the agents; their files are in `home`.
    pub(crate) async fn start(
        home: &Path,
        orders: &Orders,
        stop: &CancellationToken,
    ) -> Result<Self> {
        match orders.settings.hypervisor {
            Hypervisor::Sim => {
                for number in 1..=orders.settings.simulated_hosts {
                    simulated(home, number, orders, stop).await?;
                }
                Ok(Self {
                    daemon: None,
                    libvirt: None,
                })
            }
            Hypervisor::Libvirt => real(home, orders, stop).await,
        }
    }

    /// Stops what was started on this machine, except what guests need.
    pub(crate) async fn finish(self) {
        let guests_run = match &self.libvirt {
            Some(libvirt) => match virt::Hypervisor::guests(libvirt.as_ref()).await {
                Ok(guests) => guests.iter().any(|guest| guest.active),
                Err(_) => true,
            },
            None => false,
        };
        if let Some(daemon) = self.daemon {
            daemon.stop(guests_run).await;
        }
    }
}

/// The privileged part of a cloud, until its end.
pub(crate) async fn run() -> Result<()> {
    let (orders, _place) = tokio::task::spawn_blocking(part::begin).await??;
    let stop = CancellationToken::new();
    part::stop_with_supervisor(&stop);
    let starting = Hosts::start(&orders.folder, &orders, &stop);
    let hosts = tokio::select! {
        hosts = starting => hosts?,
        () = stop.cancelled() => return Ok(()),
    };
    part::say_ready()?;
    part::wait_for_end(&stop).await?;
    stop.cancel();
    hosts.finish().await;
    Ok(())
}

async fn simulated(
    home: &Path,
    number: u16,
    orders: &Orders,
    stop: &CancellationToken,
) -> Result<()> {
    let socket = &orders.socket;
    let name = format!("sim-host-{number}");
    let folder = home.join("sim").join(&name);
    let hypervisor = Sim::open(SimConfig::large(folder.join("guests"), &name))?;
    let agent = agent(&folder, &name, hypervisor, None, orders)?;
    agent.introduce().await;
    tokio::spawn(agent.run(stop.clone()));
    let source = Arc::new(HttpSource::new(Endpoint::Unix(socket.to_owned()), &name));
    tokio::spawn(network_agent::sim::Agent::run(
        source,
        Duration::from_secs(20),
        stop.clone(),
    ));
    Ok(())
}

async fn real(home: &Path, orders: &Orders, stop: &CancellationToken) -> Result<Hosts> {
    let socket = &orders.socket;
    let HostName(name) = host_name();
    let daemon = match Daemon::ensure(DaemonConfig::system(home.join("libvirt"))).await {
        Ok(daemon) => Some(daemon),
        Err(error) => {
            tracing::error!(%error, "libvirt does not answer; the compute service is down until it does");
            None
        }
    };
    let libvirt = Libvirt::open(LibvirtConfig::system(home.join("instances")))
        .await
        .context("the instances folder")?;
    let images = ImageCache::new(libvirt.base_images()?);
    let agent = agent(
        home,
        &name,
        Arc::clone(&libvirt) as Arc<dyn virt::Hypervisor>,
        Some(images),
        orders,
    )?;
    agent.introduce().await;
    tokio::spawn(agent.run(stop.clone()));
    let config = network_config(orders, &name)?;
    let source = Arc::new(HttpSource::new(Endpoint::Unix(socket.to_owned()), &name));
    let stop = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = network_agent::Agent::run(config, source, stop).await {
            tracing::error!(%error, "the network agent ended");
        }
    });
    Ok(Hosts {
        daemon,
        libvirt: Some(libvirt),
    })
}

/// This machine's name.
pub(crate) fn host_name() -> HostName {
    let system = rustix::system::uname();
    HostName(system.nodename().to_string_lossy().into_owned())
}

fn network_config(orders: &Orders, host: &str) -> Result<network_agent::Config> {
    let cloud = network_agent::CloudId::new(&orders.cloud_id)?;
    let secret = network_agent::Secret::new(orders.metadata_secret.as_bytes());
    let mut config = network_agent::Config::new(cloud, host, secret);
    config.metadata_url = orders.settings.url(orders.settings.metadata_port, "");
    Ok(config)
}

fn agent(
    folder: &Path,
    name: &str,
    hypervisor: Arc<dyn virt::Hypervisor>,
    images: Option<ImageCache>,
    orders: &Orders,
) -> Result<Arc<Agent>> {
    std::fs::create_dir_all(folder)?;
    let settings = Settings {
        host: HostName(name.to_owned()),
        node: node_id(&folder.join("node-id"))?,
        host_ip: "127.0.0.1".to_owned(),
        beat: orders.settings.beat(),
    };
    let ledger = Ledger::open(&folder.join("agent-ledger"))?;
    let conductor = Client::unix("the conductor", &orders.socket);
    Ok(Agent::new(settings, hypervisor, images, ledger, conductor))
}

/// The node's id: made once, kept for ever, because it names the host's inventory.
fn node_id(path: &Path) -> Result<NodeId> {
    if let Ok(text) = std::fs::read_to_string(path) {
        return text
            .trim()
            .parse()
            .with_context(|| format!("{} does not hold a UUID", path.display()));
    }
    let id = NodeId::random();
    std::fs::write(path, id.to_string())?;
    Ok(id)
}
