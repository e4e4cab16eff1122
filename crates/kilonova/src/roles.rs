//! One service of the cloud as a process of its own: `kilonova api`, `kilonova conductor` and so on, any number of each
//! where that makes sense. All read the same configuration file; `kilonova db sync` comes first.

use crate::arguments::Configured;
use crate::background;
use crate::credentials::{self, Logins};
use crate::fresh;
use crate::home::{Home, private_folder};
use crate::hosts::Hosts;
use crate::part::{self, Orders};
use crate::service_tokens::EmbeddedTokens;
use crate::services::{self, Conductor, Reach, Way};
use crate::serving::Serving;
use crate::settings;
use anyhow::{Context, Result, bail};
use bus::Bus;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Conductors with one state folder.
const CONDUCTORS: u32 = 256;

/// What a process of the cloud does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Api,
    Conductor,
    Compute,
    NetworkAgent,
    Metadata,
    Placement,
    Identity,
    Image,
    Network,
    Volume,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Conductor => "conductor",
            Self::Compute => "compute",
            Self::NetworkAgent => "network-agent",
            Self::Metadata => "metadata",
            Self::Placement => "placement",
            Self::Identity => "identity",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
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
    fresh::fill(&orders).await?;
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
        running = start(role, &orders, &stop) => running?,
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

async fn signalled() {
    let never = CancellationToken::new();
    if let Err(error) = part::wait_for_end(&never).await {
        tracing::error!(%error, "signals cannot be heard");
        std::future::pending::<()>().await;
    }
}

fn orders(role: Role, of: &Configured) -> Result<Orders> {
    let settings = settings::read_warned(of)?;
    let home = Home::open(&of.at.home)?;
    let folder = home.private_folder("control")?;
    let metadata_secret = match &settings.metadata_secret[..] {
        "" if matches!(role, Role::Metadata | Role::NetworkAgent) => {
            home.known_secret("metadata-secret").context(
                "[neutron] metadata_proxy_shared_secret is not set, and the secret that `kilonova db sync` made is not here",
            )?
        }
        set => set.to_owned(),
    };
    let secrets = match role.opens_secrets() {
        true => Some(home.known_secrets()?),
        false => None,
    };
    Ok(Orders {
        socket: home.agents_socket(&folder)?,
        folder,
        metadata_secret,
        secrets,
        cloud_id: home.cloud_id(),
        migrates: false,
        home: home.path.clone(),
        settings,
    })
}

/// What runs, and what holds its place.
enum Running {
    Serving(Serving),
    Conductor {
        serving: Serving,
        _conductor: Conductor,
        _slot: Slot,
    },
    Host(Hosts),
}

impl Running {
    async fn finish(self) {
        match self {
            Self::Serving(serving) | Self::Conductor { serving, .. } => serving.finish().await,
            Self::Host(hosts) => hosts.finish().await,
        }
    }
}

async fn start(role: Role, orders: &Orders, stop: &CancellationToken) -> Result<Running> {
    if role.on_host() {
        let hosts = match role {
            Role::Compute => Hosts::compute(&orders.home, orders, stop).await?,
            _ => Hosts::network(orders, stop)?,
        };
        return Ok(Running::Host(hosts));
    }
    let mut serving = Serving::new(&orders.settings, stop.clone())?;
    let settings = &orders.settings;
    let identity = services::identity(orders).await?;
    let validator = services::local_validator(&identity);
    let bus = settings.bus(stop)?;
    let (service, port, router) = match role {
        Role::Identity => ("identity", settings.identity_port, identity.router()),
        Role::Image => {
            let image = services::image(orders, validator).await?;
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
            let project = service_project(&identity).await?;
            let volume = services::volume(orders, &identity, &images, project).await?;
            services::keep_volumes(&volume, stop).await?;
            ("volume", settings.volume_port, volume.router())
        }
        Role::Placement => {
            let store = services::compute_store(orders).await?;
            let placement = services::placement(orders, store, validator).await?;
            ("placement", settings.placement_port, placement.router())
        }
        Role::Metadata => {
            let store = services::compute_store(orders).await?;
            let reach = reach(orders, identity).await?;
            let router = services::metadata(orders, store, &reach)?;
            serving
                .plain("metadata", settings.metadata_port, router)
                .await?;
            return Ok(Running::Serving(serving));
        }
        Role::Api => {
            let store = services::compute_store(orders).await?;
            let reach = reach(orders, identity).await?;
            let compute = services::compute_api(orders, store, &reach, &bus).await?;
            services::serve_compute_api(orders, &compute, &mut serving).await?;
            return Ok(Running::Serving(serving));
        }
        Role::Conductor => {
            let reach = reach(orders, identity).await?;
            return start_conductor(orders, &reach, &bus, serving, stop).await;
        }
        Role::Compute | Role::NetworkAgent => bail!("{} has no port", role.name()),
    };
    serving.tcp(service, port, router).await?;
    Ok(Running::Serving(serving))
}

async fn start_conductor(
    orders: &Orders,
    reach: &Reach,
    bus: &Bus,
    mut serving: Serving,
    stop: &CancellationToken,
) -> Result<Running> {
    let slot = Slot::take(&orders.folder)?;
    let name = format!("conductor-{}-{}", orders.settings.host_name(), slot.number);
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

async fn service_project(identity: &identity::Service) -> Result<String> {
    let found = identity.service_project().await?;
    found.context("there is no project `service`: run `kilonova db sync` first")
}

/// How a process of its own reaches the others.
async fn reach(orders: &Orders, identity: identity::Service) -> Result<Reach> {
    let settings = &orders.settings;
    let project = service_project(&identity).await?;
    Ok(Reach {
        images: Way::there(settings.image_url(), settings)?,
        networks: Way::there(settings.network_url(), settings)?,
        volumes: Way::there(settings.volume_url(), settings)?,
        validator: services::local_validator(&identity),
        tokens: Arc::new(EmbeddedTokens::new(identity, "nova", project)),
        shared: true,
    })
}

/// A number that no other conductor with this state folder has now. One that follows a killed one gets its number, and
/// with it takes over its work at once.
struct Slot {
    number: u32,
    _lock: File,
}

impl Slot {
    fn take(folder: &Path) -> Result<Self> {
        let folder = private_folder(folder, "conductors")?;
        for number in 1..=CONDUCTORS {
            let lock = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.join(format!("{number}.lock")))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("{CONDUCTORS} conductors run here already")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conductors_have_numbers_and_the_lowest_free_one_is_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = Slot::take(folder.path()).unwrap();
        let second = Slot::take(folder.path()).unwrap();
        assert_eq!((first.number, second.number), (1, 2));
        drop(first);
        assert_eq!(Slot::take(folder.path()).unwrap().number, 1);
    }
}
