//! One service of the cloud as a process of its own: `kilonova api`, `kilonova conductor` and so on, any number of each
//! where that makes sense. All read the same configuration file; `kilonova db sync` comes first.

use crate::arguments::Configured;
use crate::attached::Servers;
use crate::background;
use crate::credentials::{self, Logins};
use crate::fresh;
use crate::home::{Home, private_folder};
use crate::hosts::Hosts;
use crate::monitor::Need;
use crate::part::{self, Orders};
use crate::services::{self, Conductor, Reach, Trust, Way};
use crate::serving::Serving;
use crate::settings;
use anyhow::{Context, Result, bail};
use bus::Bus;
use conductor::due::Terms;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::HostName;

/// Bytes of a worker's name in the database.
const WORKER_NAME: usize = 64;
/// The longest pause between two looks for a database that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Conductors, or schedulers, with one state folder.
const WORKERS: u32 = 256;

/// What a process of the cloud does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Api,
    Conductor,
    Scheduler,
    Compute,
    NetworkAgent,
    Metadata,
    Placement,
    Identity,
    Image,
    Network,
    Volume,
    KeyManager,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Conductor => "conductor",
            Self::Scheduler => "scheduler",
            Self::Compute => "compute",
            Self::NetworkAgent => "network-agent",
            Self::Metadata => "metadata",
            Self::Placement => "placement",
            Self::Identity => "identity",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::KeyManager => "key-manager",
        }
    }

    /// Whether it must open what is sealed in the database.
    fn opens_secrets(self) -> bool {
        matches!(self, Self::Api | Self::Conductor | Self::Metadata)
    }

    /// Whether it works on a host of guests, and has no database.
    fn on_host(self) -> bool {
        matches!(self, Self::Compute | Self::NetworkAgent)
    }
}

/// Makes the databases fit this release, and fills those of a fresh cloud.
pub(crate) async fn db_sync(of: &Configured) -> Result<()> {
    let read = settings::read_warned(of)?;
    let home = Home::open(&of.at.home)?;
    let folder = home.private_folder("control")?;
    let secrets = home.secrets()?;
    let logins = Logins {
        auth_url: read.auth_url(),
        authority: read.authority(),
        admin_password: secrets.admin_password.clone(),
        demo_password: secrets.demo_password.clone(),
    };
    let orders = Orders {
        socket: home.agents_socket(&folder)?,
        folder,
        metadata_secret: home.secret("metadata-secret")?,
        secrets: Some(secrets),
        cloud_id: home.cloud_id(),
        migrates: true,
        home: home.path.clone(),
        settings: read,
    };
    if orders.settings.site_identity().is_some() {
        fresh::fill_compute(&orders).await?;
        println!("compute's database is up to date");
        return Ok(());
    }
    let filled = fresh::fill(&orders).await?;
    fresh::volume(&orders, &filled, false).await?;
    credentials::publish(&home, &logins)?;
    println!(
        "the databases are up to date; {} tells clients how to log in",
        home.path.join("clouds.yaml").display()
    );
    Ok(())
}

/// Runs one service until a signal.
pub(crate) async fn run(role: Role, of: &Configured) -> Result<()> {
    let orders = orders(role, of)?;
    let stop = CancellationToken::new();
    let running = tokio::select! {
        running = start_when_possible(role, &orders, &stop) => running?,
        () = signalled() => return Ok(()),
    };
    tracing::info!(role = role.name(), "ready");
    part::say_ready()?;
    part::wait_for_end(&stop).await?;
    tracing::info!(role = role.name(), "stopping");
    stop.cancel();
    running.finish().await;
    Ok(())
}

/// Starts as soon as the database answers. A cloud that comes back after a power cut needs no order.
async fn start_when_possible(
    role: Role,
    orders: &Orders,
    stop: &CancellationToken,
) -> Result<Running> {
    let mut pause = Duration::from_millis(100);
    loop {
        let attempt = stop.child_token();
        let error = match start(role, orders, &attempt).await {
            Ok(running) => return Ok(running),
            Err(error) => error,
        };
        attempt.cancel();
        if !is_away(&error) {
            return Err(error);
        }
        tracing::warn!(
            role = role.name(),
            error = format!("{error:#}"),
            "a database does not answer yet"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether it is only a matter of time.
fn is_away(error: &anyhow::Error) -> bool {
    let away = |error: &sql::Error| matches!(error, sql::Error::Unreachable(_));
    error
        .chain()
        .any(|cause| cause.downcast_ref::<sql::Error>().is_some_and(away))
}

async fn signalled() {
    let never = CancellationToken::new();
    if let Err(error) = part::wait_for_end(&never).await {
        tracing::error!(%error, "signals cannot be heard");
        std::future::pending::<()>().await;
    }
}

fn orders(role: Role, of: &Configured) -> Result<Orders> {
    let mut orders = tool_orders(of)?;
    let home = Home::open(&of.at.home)?;
    let needs_metadata = matches!(role, Role::Metadata | Role::NetworkAgent);
    if needs_metadata && orders.metadata_secret.is_empty() {
        orders.metadata_secret = home.known_secret("metadata-secret").context(
            "[neutron] metadata_proxy_shared_secret is not set, and the secret that `kilonova db sync` made is not here",
        )?;
    }
    if role.opens_secrets() {
        orders.secrets = Some(home.known_secrets()?);
    }
    if role == Role::KeyManager {
        orders.secrets = Some(home.known_master_keys()?);
    }
    Ok(orders)
}

/// What a program knows that only looks into the databases.
pub(crate) fn tool_orders(of: &Configured) -> Result<Orders> {
    let settings = settings::read_warned(of)?;
    let home = Home::open(&of.at.home)?;
    let folder = home.private_folder("control")?;
    Ok(Orders {
        socket: home.agents_socket(&folder)?,
        folder,
        metadata_secret: settings.metadata_secret.clone(),
        secrets: None,
        cloud_id: home.cloud_id(),
        migrates: false,
        home: home.path.clone(),
        settings,
    })
}

/// What a program that repairs speaks to: the compute database, the services beside it, and the bells of the others; and how
/// long conductors wait with what they do by themselves.
pub(crate) async fn neighbours(
    of: &Configured,
    stop: &CancellationToken,
) -> Result<(conductor::Neighbours, Bus, Terms)> {
    let mut orders = tool_orders(of)?;
    credentials::take_endpoints(&orders.home, &mut orders.settings);
    let store = services::compute_store(&orders).await?;
    let reach = reach(&orders, Trust::new(&orders, "nova").await?)?;
    let bus = orders.settings.bus(stop)?;
    let with = services::neighbours(&orders.settings, store, &bus, &reach);
    Ok((with, bus, orders.settings.terms()))
}

/// What runs, and what holds its place.
enum Running {
    Serving(Serving),
    Conductor {
        serving: Serving,
        _conductor: Conductor,
        _slot: Slot,
    },
    Scheduler {
        serving: Serving,
        _worker: journal::Worker,
        _slot: Slot,
    },
    Host {
        serving: Serving,
        hosts: Hosts,
    },
}

impl Running {
    async fn finish(self) {
        match self {
            Self::Serving(serving)
            | Self::Conductor { serving, .. }
            | Self::Scheduler { serving, .. } => serving.finish().await,
            Self::Host { serving, hosts } => {
                hosts.finish().await;
                serving.finish().await;
            }
        }
    }
}

async fn start(role: Role, orders: &Orders, stop: &CancellationToken) -> Result<Running> {
    if role.on_host() {
        let hosts = match role {
            Role::Compute => Hosts::compute(&orders.home, orders, stop).await?,
            _ => Hosts::network(orders, stop)?,
        };
        let mut serving = Serving::new(&orders.settings, stop.clone())?;
        let needs = hosts.needs(role == Role::Compute, role == Role::NetworkAgent);
        let address = &orders.settings.metrics_listen;
        serving.monitor(address, role.name(), needs).await?;
        return Ok(Running::Host { serving, hosts });
    }
    let mut serving = Serving::new(&orders.settings, stop.clone())?;
    let settings = &orders.settings;
    let watches = !settings.metrics_listen.is_empty();
    if role == Role::Identity {
        if watches {
            let needs = vec![services::watched(orders, "identity").await?];
            serving
                .monitor(&settings.metrics_listen, role.name(), needs)
                .await?;
        }
        let router = services::identity(orders).await?.router();
        let port = settings.identity_port;
        serving.tcp("identity", port, router).await?;
        return Ok(Running::Serving(serving));
    }
    let user = match role {
        Role::Volume => "cinder",
        _ => "nova",
    };
    let trust = Trust::new(orders, user).await?;
    let validator = Arc::clone(&trust.validator);
    let bus = settings.bus(stop)?;
    if watches && role != Role::Api {
        let needs = needs(role, orders, &trust).await?;
        serving
            .monitor(&settings.metrics_listen, role.name(), needs)
            .await?;
    }
    let (service, port, router) = match role {
        Role::Image => {
            let image = services::image(orders, validator).await?;
            services::keep_images(&image, stop).await?;
            ("image", settings.image_port, image.router())
        }
        Role::Network => {
            let network = services::network(orders, validator).await?;
            let place = settings.network_desk(&orders.socket)?;
            let certificates = settings.certificates(&orders.home);
            serving
                .desk(&place, &certificates, network.agent_router())
                .await?;
            tokio::spawn(background::tell_addresses(
                network.changes(),
                bus,
                stop.clone(),
            ));
            ("network", settings.network_port, network.router())
        }
        Role::Volume => {
            let images = Way::there(settings.image_url(), settings)?;
            let servers = Servers::new(settings, Arc::clone(&trust.tokens))?;
            let volume = services::volume(orders, trust, &images, Some(servers)).await?;
            services::keep_volumes(&volume, stop).await?;
            ("volume", settings.volume_port, volume.router())
        }
        Role::KeyManager => {
            let keys = services::key_manager(orders, validator).await?;
            ("key-manager", settings.key_manager_port, keys.router())
        }
        Role::Placement => {
            let store = services::compute_store(orders).await?;
            let placement = services::placement(orders, store, validator).await?;
            ("placement", settings.placement_port, placement.router())
        }
        Role::Metadata => {
            let store = services::compute_store(orders).await?;
            let reach = reach(orders, trust)?;
            let router = services::metadata(orders, store, &reach)?;
            serving
                .plain("metadata", settings.metadata_port, router)
                .await?;
            return Ok(Running::Serving(serving));
        }
        Role::Api => {
            let store = services::compute_store(orders).await?;
            let reach = reach(orders, trust)?;
            let compute = services::compute_api(orders, store, &reach, &bus, None).await?;
            services::serve_compute_api(orders, &compute, &mut serving).await?;
            return Ok(Running::Serving(serving));
        }
        Role::Conductor => {
            let reach = reach(orders, trust)?;
            return start_conductor(orders, &reach, &bus, serving, stop).await;
        }
        Role::Scheduler => {
            let reach = reach(orders, trust)?;
            let slot = Slot::take(&orders.folder, role)?;
            let name = slot.worker_name(&settings.host_name());
            let store = services::compute_store(orders).await?;
            let worker = services::scheduler(orders, &name, store, &reach, &bus, stop).await?;
            return Ok(Running::Scheduler {
                serving,
                _worker: worker,
                _slot: slot,
            });
        }
        Role::Identity | Role::Compute | Role::NetworkAgent => {
            bail!("{} is started elsewhere", role.name())
        }
    };
    serving.tcp(service, port, router).await?;
    Ok(Running::Serving(serving))
}

/// What a service with a database cannot do without.
async fn needs(role: Role, orders: &Orders, trust: &Trust) -> Result<Vec<Need>> {
    let database = match role {
        Role::Image | Role::Network | Role::Volume | Role::KeyManager => role.name(),
        _ => "compute",
    };
    let mut needs = vec![
        services::watched(orders, database).await?,
        Need::Identity(Arc::clone(&trust.validator)),
    ];
    let works = matches!(role, Role::Conductor | Role::Scheduler);
    if works || matches!(role, Role::Metadata | Role::Volume) {
        let reach = reach(orders, trust.clone())?;
        if role != Role::Metadata {
            needs.push(Need::Image(reach.images()));
        }
        if role != Role::Volume {
            needs.push(Need::Network(reach.networks()));
        }
        if works {
            needs.push(Need::Volume(reach.volumes()));
        }
    }
    Ok(needs)
}

async fn start_conductor(
    orders: &Orders,
    reach: &Reach,
    bus: &Bus,
    mut serving: Serving,
    stop: &CancellationToken,
) -> Result<Running> {
    let slot = Slot::take(&orders.folder, Role::Conductor)?;
    let name = slot.worker_name(&orders.settings.host_name());
    let store = services::compute_store(orders).await?;
    let conductor = Conductor::start(orders, &name, store, reach, bus, None, stop).await?;
    let place = orders.settings.conductor_desk(&orders.socket)?;
    let certificates = orders.settings.certificates(&orders.home);
    serving
        .desk(&place, &certificates, conductor.desk.clone())
        .await?;
    Ok(Running::Conductor {
        serving,
        _conductor: conductor,
        _slot: slot,
    })
}

/// How a process of its own reaches the others.
fn reach(orders: &Orders, trust: Trust) -> Result<Reach> {
    let settings = &orders.settings;
    Ok(Reach {
        images: Way::there(settings.image_url(), settings)?,
        networks: Way::there(settings.network_url(), settings)?,
        volumes: Way::there(settings.volume_url(), settings)?,
        keys: Way::there(settings.key_manager_url(), settings)?,
        validator: trust.validator,
        tokens: trust.tokens,
        shared: true,
    })
}

/// A number that no other process of this role with this state folder has now. One that follows a killed one gets its
/// number, and with it takes over its work at once.
struct Slot {
    role: Role,
    number: u32,
    _lock: File,
}

impl Slot {
    fn take(folder: &Path, role: Role) -> Result<Self> {
        let name = role.name();
        let folder = private_folder(folder, &format!("{name}s"))?;
        for number in 1..=WORKERS {
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.join(format!("{number}.lock")))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self {
                    role,
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("{WORKERS} {name}s run here already")
    }

    /// The name of the worker among all; one that would be too long for the database ends in a digest of the host's.
    fn worker_name(&self, host: &HostName) -> String {
        let (role, number) = (self.role.name(), self.number);
        let name = format!("{role}-{host}-{number}");
        if name.len() <= WORKER_NAME {
            return name;
        }
        let digest = hex::encode(Sha256::digest(host.0.as_bytes()));
        let kept: String = host.0.chars().take(12).collect();
        format!("{role}-{kept}-{}-{number}", &digest[..16])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn long_hosts_have_short_workers() {
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot::take(folder.path(), Role::Conductor).unwrap();
        assert_eq!(slot.worker_name(&"h1".into()), "conductor-h1-1");
        let long = |end: &str| HostName(format!("{}{end}", "a".repeat(200)));
        let (left, right) = (slot.worker_name(&long("x")), slot.worker_name(&long("y")));
        assert!(left.len() <= WORKER_NAME && left != right, "{left} {right}");
    }

    #[test]
    fn only_a_database_that_is_away_is_waited_for() {
        let told = |error: sql::Error| anyhow::Error::from(error).context("compute's database");
        assert!(is_away(&told(sql::Error::Unreachable("refused".into()))));
        assert!(!is_away(&told(sql::Error::Schema("too old".into()))));
        assert!(!is_away(&anyhow::anyhow!("no such port")));
    }

    #[test]
    fn conductors_have_numbers_and_the_lowest_free_one_is_next() {
        let folder = tempfile::tempdir().unwrap();
        let take = |role| Slot::take(folder.path(), role).unwrap();
        let (first, second) = (take(Role::Conductor), take(Role::Conductor));
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(take(Role::Scheduler).number, 1);
        drop(first);
        assert_eq!(take(Role::Conductor).number, 1);
    }
}
