//! The hosts of this process: one real one, or simulated ones.

use crate::arguments::Hypervisor;
use crate::certificates::Files;
use crate::monitor::Need;
use crate::part::{self, Orders};
use crate::peers::Machines;
use crate::place::{self, Place};
use crate::serving::Serving;
use anyhow::{Context, Result};
use compute::peers::{Neighbourhood, Peers};
use compute::{Agent, ImageCache, Ledger, Settings};
use network_agent::HttpSource;
use rustls::ClientConfig;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::{HostName, NodeId};
use virt::LiveChoices;
use virt::libvirt::daemon::{Daemon, DaemonConfig};
use virt::libvirt::{Libvirt, LibvirtConfig};
use virt::sim::{Sim, SimConfig};

/// How often libvirt is tried that could not be started.
const LIBVIRT_PAUSE: Duration = Duration::from_secs(15);

/// How old files without a guest are before anybody asks whose they are.
const STRAYS: Duration = Duration::from_secs(600);

/// What runs on this machine.
pub(crate) struct Hosts {
    /// What watches libvirt; not there while libvirt cannot be started.
    daemon: Arc<Mutex<Option<Daemon>>>,
    libvirt: Option<Arc<Libvirt>>,
}

impl Hosts {
    /// Starts the agents of `kilonova up`; their files are in `home`.
    pub(crate) async fn start(
        home: &Path,
        orders: &Orders,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let here = [Place::Unix(orders.socket.clone())];
        let hosts = Self::compute_at(home, orders, &here, stop).await?;
        Self::network_at(orders, &here, stop)?;
        Ok(hosts)
    }

    /// Starts the compute agent, or those of simulated hosts.
    pub(crate) async fn compute(
        home: &Path,
        orders: &Orders,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let places = orders.settings.conductor_places(&orders.socket)?;
        Self::compute_at(home, orders, &places, stop).await
    }

    /// Starts the network agent, or those of simulated hosts.
    pub(crate) fn network(orders: &Orders, stop: &CancellationToken) -> Result<Self> {
        let places = orders.settings.network_places(&orders.socket)?;
        Self::network_at(orders, &places, stop)?;
        Ok(Self {
            daemon: Arc::default(),
            libvirt: None,
        })
    }

    async fn compute_at(
        home: &Path,
        orders: &Orders,
        conductors: &[Place],
        stop: &CancellationToken,
    ) -> Result<Self> {
        if orders.settings.hypervisor == Hypervisor::Libvirt {
            return real(home, orders, conductors, stop).await;
        }
        let names = orders.settings.simulated_names();
        let (peers, hypervisors) = simulated(home, &names, orders.settings.live.choices())?;
        for (name, hypervisor) in names.iter().zip(hypervisors) {
            let ways = Ways {
                conductors,
                peers: Arc::clone(&peers) as Arc<dyn Peers>,
            };
            let folder = folder_of(home, name);
            let agent = agent(&folder, name, hypervisor, None, orders, &ways)?;
            agent.introduce().await;
            tokio::spawn(agent.run(stop.clone()));
        }
        Ok(Self {
            daemon: Arc::default(),
            libvirt: None,
        })
    }

    fn network_at(orders: &Orders, services: &[Place], stop: &CancellationToken) -> Result<()> {
        let source = |name: &str| -> Result<_> {
            let client = place::client("the network service", services, || tls(orders))?;
            let tunnel = orders.settings.tunnel_address.parse().ok();
            Ok(Arc::new(HttpSource::new(client, name).with_tunnel(tunnel)))
        };
        if orders.settings.hypervisor == Hypervisor::Sim {
            for name in orders.settings.simulated_names() {
                let every = Duration::from_secs(20);
                tokio::spawn(network_agent::sim::Agent::run(
                    source(&name)?,
                    every,
                    stop.clone(),
                ));
            }
            return Ok(());
        }
        let HostName(name) = orders.settings.host_name();
        let config = network_config(orders, &name)?;
        let (source, stop) = (source(&name)?, stop.clone());
        tokio::spawn(async move {
            if let Err(error) = network_agent::Agent::run(config, source, stop).await {
                tracing::error!(%error, "the network agent ended");
            }
        });
        Ok(())
    }

    /// What its agents cannot do without.
    pub(crate) fn needs(&self, compute: bool, network: bool) -> Vec<Need> {
        let mut needs = Vec::new();
        if compute {
            needs.push(Need::Asked("the conductor"));
        }
        if network {
            needs.push(Need::Asked("the network service"));
        }
        needs.extend(self.libvirt.clone().map(Need::Libvirt));
        needs
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
        let daemon = lock(&self.daemon).take();
        if let Some(daemon) = daemon {
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
    let mut serving = Serving::new(&orders.settings, stop.clone())?;
    let address = &orders.settings.agent_metrics_listen;
    serving
        .monitor(address, "host", hosts.needs(true, true))
        .await?;
    part::say_ready()?;
    part::wait_for_end(&stop).await?;
    stop.cancel();
    hosts.finish().await;
    serving.finish().await;
    Ok(())
}

async fn real(
    home: &Path,
    orders: &Orders,
    conductors: &[Place],
    stop: &CancellationToken,
) -> Result<Hosts> {
    let HostName(name) = orders.settings.host_name();
    let config = DaemonConfig::system(home.join("libvirt"));
    let daemon = Arc::new(Mutex::new(None));
    match Daemon::ensure(config.clone()).await {
        Ok(started) => *lock(&daemon) = Some(started),
        Err(error) => {
            tracing::error!(%error, "libvirt does not answer; the compute service is down until it does");
            tokio::spawn(try_libvirt(config, Arc::clone(&daemon), stop.clone()));
        }
    }
    let libvirt = LibvirtConfig {
        live: orders.settings.live.choices(),
        acceleration: orders.settings.virt_type,
        host: HostName(name.clone()),
        swtpm: orders.settings.swtpm_enabled,
        cpu: orders.settings.cpu.clone(),
        detaching: orders.settings.detaching(),
        ..LibvirtConfig::system(home.join("instances"))
    };
    let libvirt = Libvirt::open(libvirt)
        .await
        .context("the instances folder")?;
    let images = ImageCache::new(libvirt.base_images()?);
    let guests = Arc::clone(&libvirt) as Arc<dyn virt::Hypervisor>;
    let peers = other_hosts(orders, &name, conductors, guests, stop).await?;
    let agent = agent(
        home,
        &name,
        Arc::clone(&libvirt) as Arc<dyn virt::Hypervisor>,
        Some(images),
        orders,
        &Ways { conductors, peers },
    )?;
    agent.introduce().await;
    tokio::spawn(agent.run(stop.clone()));
    Ok(Hosts {
        daemon,
        libvirt: Some(libvirt),
    })
}

/// The ways to other hosts. A host whose conductors are on other machines lets the others in as well.
async fn other_hosts(
    orders: &Orders,
    name: &str,
    conductors: &[Place],
    guests: Arc<dyn virt::Hypervisor>,
    stop: &CancellationToken,
) -> Result<Arc<dyn Peers>> {
    let apart = |place: &Place| matches!(place, Place::Tls { .. });
    if !conductors.iter().any(apart) {
        return Ok(Arc::new(Neighbourhood::default()));
    }
    let port = orders.settings.peer_port;
    let machines = Arc::new(Machines {
        host: name.to_owned(),
        conductor: place::client("the conductor", conductors, || tls(orders))?,
        tls: tls(orders)?,
        port,
    });
    let folder = orders.settings.certificates(&orders.home);
    let files = Files(&folder);
    let tls = web::tls::server(&files.host(), Some(&files.authority()))?;
    let address = &orders.settings.my_ip;
    let listener = web::Listener::tcp(address, port)
        .await
        .with_context(|| format!("other hosts cannot be listened to on {address}:{port}"))?;
    let router = compute::peers::guarded(guests, Arc::clone(&machines) as Arc<dyn Peers>);
    tokio::spawn(web::serve(
        listener.with_tls(Some(tls)),
        router,
        stop.clone(),
    ));
    Ok(machines)
}

/// Starts libvirt as soon as that is possible.
async fn try_libvirt(
    config: DaemonConfig,
    daemon: Arc<Mutex<Option<Daemon>>>,
    stop: CancellationToken,
) {
    let mut told = String::new();
    while stop
        .run_until_cancelled(tokio::time::sleep(LIBVIRT_PAUSE))
        .await
        .is_some()
    {
        match Daemon::ensure(config.clone()).await {
            Ok(started) => {
                tracing::info!("libvirt answers");
                *lock(&daemon) = Some(started);
                return;
            }
            // The same again is no news.
            Err(error) if error.to_string() == told => {}
            Err(error) => {
                told = error.to_string();
                tracing::error!(%error, "libvirt still does not answer");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn network_config(orders: &Orders, host: &str) -> Result<network_agent::Config> {
    let cloud = network_agent::CloudId::new(&orders.cloud_id)?;
    let secret = network_agent::Secret::new(orders.metadata_secret.as_bytes());
    let mut config = network_agent::Config::new(cloud, host, secret);
    config.tunnel_ip = orders.settings.tunnel_address.parse().ok();
    config.metadata_url = orders.settings.metadata_url();
    Ok(config)
}

/// Where a simulated host keeps what is its own.
fn folder_of(home: &Path, name: &str) -> PathBuf {
    home.join("sim").join(name)
}

/// The simulated hosts. Each knows the way to all others before the first of them works: work of an earlier process may
/// be waiting that fetches a guest.
fn simulated(
    home: &Path,
    names: &[String],
    live: LiveChoices,
) -> Result<(Arc<Neighbourhood>, Vec<Arc<Sim>>)> {
    let peers = Arc::new(Neighbourhood::default());
    let mut hosts = Vec::new();
    for name in names {
        let hypervisor = Sim::open(SimConfig {
            live,
            ..SimConfig::large(folder_of(home, name).join("guests"), name)
        })?;
        let guests = Arc::clone(&hypervisor) as Arc<dyn virt::Hypervisor>;
        peers.join(&HostName(name.clone()), guests);
        hosts.push(hypervisor);
    }
    Ok((peers, hosts))
}

/// Where an agent finds others.
struct Ways<'a> {
    conductors: &'a [Place],
    /// The hosts from which guests come.
    peers: Arc<dyn Peers>,
}

fn agent(
    folder: &Path,
    name: &str,
    hypervisor: Arc<dyn virt::Hypervisor>,
    images: Option<ImageCache>,
    orders: &Orders,
    ways: &Ways<'_>,
) -> Result<Arc<Agent>> {
    std::fs::create_dir_all(folder)?;
    let settings = Settings {
        host: HostName(name.to_owned()),
        node: node_id(&folder.join("node-id"))?,
        host_ip: orders.settings.my_ip.clone(),
        beat: orders.settings.beat(),
        guests: orders.settings.guests_named(),
        strays: STRAYS,
        live_limit: orders.settings.live.limit(),
        unused_images: orders.settings.unused_images(),
    };
    let ledger = Ledger::open(&folder.join("agent-ledger"))?;
    let conductor = place::client("the conductor", ways.conductors, || tls(orders))?;
    let peers = Arc::clone(&ways.peers);
    Ok(Agent::new(
        settings, hypervisor, images, ledger, conductor, peers,
    ))
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

/// How this host shows who it is to conductors and network services of other machines.
fn tls(orders: &Orders) -> Result<Arc<ClientConfig>> {
    let folder = orders.settings.certificates(&orders.home);
    let files = Files(&folder);
    web::tls::client(Some(&files.authority()), Some(&files.host())).with_context(|| {
        format!(
            "this host needs certificates in {}: `kilonova manage certificates host` makes them where the authority is",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn simulated_hosts_know_ways_to_each_other_before_any_of_them_works() {
        let home = tempfile::tempdir().unwrap();
        let names = ["h1", "h2", "h3"].map(str::to_owned);
        let (peers, hosts) = simulated(home.path(), &names, LiveChoices::default()).unwrap();
        assert_eq!(hosts.len(), names.len());
        for name in names {
            assert!(peers.reach(&HostName(name)).await.is_some());
        }
    }
}
