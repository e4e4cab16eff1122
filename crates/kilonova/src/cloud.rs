//! `kilonova up`: the wiring. The only place that names implementations.

use crate::arguments::{Hypervisor, Up};
use crate::credentials::{self, Logins};
use crate::home::{Home, random_text};
use crate::hosts::Hosts;
use crate::service_tokens::EmbeddedTokens;
use crate::serving::Serving;
use anyhow::{Context, Result};
use bus::Bus;
use clients::{Images, Networks, ServiceTokens};
use conductor::addresses::Addresses;
use conductor::agents::{Agents, ConfigDrives};
use conductor::view::View;
use conductor::{Neighbours, agents};
use edge::secrets::{SecretBox, Secrets};
use identity::{Bootstrap, Endpoint, ServiceUser};
use journal::{Journal, Outcomes};
use sql::{Options, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use types::ServerId;
use web::client::Client;

/// A service that did not beat for this long is down (Nova's `service_down_time`).
const DOWN_AFTER: Duration = Duration::from_secs(60);

/// How often the control services say that they live (Nova's `report_interval`).
const CONTROL_BEAT: Duration = Duration::from_secs(10);
/// How long changes of the network service gather before servers' addresses are renewed.
const ADDRESS_PAUSE: Duration = Duration::from_millis(100);

/// Runs the cloud until a signal.
pub(crate) async fn up(up: Up) -> Result<()> {
    let started = std::time::Instant::now();
    let home = Home::open(&up.at.home)?;
    if up.hypervisor == Hypervisor::Libvirt && !rustix::process::geteuid().is_root() {
        anyhow::bail!("real guests and networks need root: use sudo, or --hypervisor sim");
    }
    let _running = home.take()?;
    credentials::withdraw(&home);
    let stop = CancellationToken::new();
    let mut serving = Serving::new(stop.clone());
    let cloud = Cloud::open(&home, &up).await?;
    let _worker = cloud.serve(&home, &up, &mut serving).await?;
    let socket = home.agents_socket()?;
    let hosts = Hosts::start(&home, &up, &socket, &cloud.metadata_secret, &stop).await?;
    cloud.fill(&up).await?;
    credentials::publish(&home, &cloud.logins)?;
    tracing::info!(took_ms = started.elapsed().as_millis(), home = %home.path.display(), "the cloud is ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; guests go on running");
    stop.cancel();
    serving.finish().await;
    hosts.finish().await;
    Ok(())
}

/// The services, opened.
struct Cloud {
    identity: identity::Service,
    image: image::Service,
    network: network::Service,
    store: Store,
    tokens: Arc<dyn ServiceTokens>,
    secrets: Arc<SecretBox>,
    metadata_secret: String,
    admin_project: String,
    logins: Logins,
}

async fn open_store(home: &Home, name: &str) -> Result<Store> {
    let folder = home.private_folder("db")?;
    let url = format!("sqlite://{}", folder.join(name).display());
    let options = Options {
        connections: 2,
        ..Options::default()
    };
    Store::open_with(&url, options)
        .await
        .with_context(|| format!("the {name} database"))
}

impl Cloud {
    async fn open(home: &Home, up: &Up) -> Result<Self> {
        let logins = Logins {
            auth_url: format!("http://{}:{}/v3", up.listen, up.identity_port),
            admin_password: home.secret("admin-password", random_text)?,
            demo_password: home.secret("demo-password", random_text)?,
        };
        let identity = identity::Service::open(
            open_store(home, "identity.db").await?,
            identity::Config::new(home.private_folder("keys")?),
        )
        .await?;
        let made = identity.bootstrap(&fresh_identity(up, &logins)).await?;
        let validator: Arc<dyn web::auth::TokenValidator> = Arc::new(identity.clone());
        let mut image_config = image::Config::new(home.private_folder("images")?);
        image_config.identity_url = Some(logins.auth_url.clone());
        let image = image::Service::open(
            open_store(home, "image.db").await?,
            image_config,
            Arc::clone(&validator),
        )
        .await?;
        let network_config = network::Config {
            public_cidr: up
                .public_range
                .parse()
                .context("--public-range is not a CIDR")?,
            private_cidr: up
                .private_range
                .parse()
                .context("--private-range is not a CIDR")?,
            ..network::Config::default()
        };
        let network = network::Service::open(
            open_store(home, "network.db").await?,
            network_config,
            validator,
        )
        .await?;
        network.bootstrap(&made.admin_project_id).await?;
        let store = open_store(home, "compute.db").await?;
        db::migrate(&store).await?;
        let tokens = Arc::new(EmbeddedTokens::new(
            identity.clone(),
            made.service_project_id,
        ));
        let key = home.secret("seal-key", SecretBox::generate_key)?;
        Ok(Self {
            identity,
            image,
            network,
            store,
            tokens,
            secrets: Arc::new(SecretBox::new(key.as_bytes())?),
            metadata_secret: home.secret("metadata-secret", random_text)?,
            admin_project: made.admin_project_id,
            logins,
        })
    }

    /// Opens all ports and starts the conductor.
    async fn serve(&self, home: &Home, up: &Up, serving: &mut Serving) -> Result<journal::Worker> {
        let bus = Bus::new();
        let networks = Arc::new(Networks::new(Client::in_process(
            "the network service",
            self.network.router(),
        )));
        let images = Arc::new(Images::new(Client::in_process(
            "the image service",
            self.image.router(),
        )));
        let view = Arc::new(View::new(self.store.clone(), DOWN_AFTER));
        let with = Neighbours {
            store: self.store.clone(),
            networks: Arc::clone(&networks),
            images: Arc::clone(&images),
            tokens: Arc::clone(&self.tokens),
            view,
        };
        tokio::spawn(beat_control_services(
            self.store.clone(),
            serving.stop.clone(),
        ));
        tokio::spawn(follow_addresses(
            with.clone(),
            self.network.changes(),
            serving.stop.clone(),
        ));
        let outcomes = Outcomes::new(self.store.clone());
        let drives = Arc::new(Drives {
            store: self.store.clone(),
            networks: Arc::clone(&networks),
            tokens: Arc::clone(&self.tokens),
            secrets: Arc::clone(&self.secrets),
        });
        let agents = Agents::new(
            with.clone(),
            bus.clone(),
            outcomes.clone(),
            drives,
            db::hosts::Ratios::default(),
        );
        let journal = Journal::new(
            "conductor",
            self.store.clone(),
            bus.clone(),
            outcomes,
            journal::Settings::default(),
        );
        let worker = conductor::flows::register(journal, &with).start().await?;
        serving.unix(
            &home.agents_socket()?,
            agents.router().merge(self.network.agent_router()),
        )?;
        self.open_ports(up, serving, &agents, &bus, networks)
            .await?;
        Ok(worker)
    }

    async fn open_ports(
        &self,
        up: &Up,
        serving: &mut Serving,
        agents: &agents::Agents,
        bus: &Bus,
        networks: Arc<Networks>,
    ) -> Result<()> {
        let validator: Arc<dyn web::auth::TokenValidator> = Arc::new(self.identity.clone());
        let deps = api::Deps {
            store: self.store.clone(),
            validator: Arc::clone(&validator),
            images: Images::new(Client::in_process("the image service", self.image.router())),
            networks: Networks::new(Client::in_process(
                "the network service",
                self.network.router(),
            )),
            bus: bus.clone(),
            questions: Arc::new(agents.clone()),
            secrets: Arc::new(Sealer(Arc::clone(&self.secrets))),
        };
        let config = api::Config {
            auth_url: self.logins.auth_url.clone(),
            ..api::Config::default()
        };
        let compute = api::Service::open(deps, config).await?;
        let metadata = edge::metadata::Service::new(
            self.store.clone(),
            networks,
            Arc::clone(&self.tokens),
            Arc::clone(&self.secrets) as Arc<dyn Secrets>,
            edge::metadata::Config::new(self.metadata_secret.as_bytes()),
        );
        let placement = placement::Service::open(
            self.store.clone(),
            placement::Config {
                identity_url: self.logins.auth_url.clone(),
                ..placement::Config::default()
            },
            validator,
        )
        .await?;
        serving
            .tcp(up, "identity", up.identity_port, self.identity.router())
            .await?;
        serving
            .tcp(up, "image", up.image_port, self.image.router())
            .await?;
        serving
            .tcp(up, "network", up.network_port, self.network.router())
            .await?;
        serving
            .tcp(up, "placement", up.placement_port, placement.router())
            .await?;
        serving
            .tcp(up, "metadata", up.metadata_port, metadata.router())
            .await?;
        serving
            .tcp(up, "compute", up.compute_port, compute.router())
            .await
    }

    /// What a fresh cloud holds besides people and networks.
    async fn fill(&self, up: &Up) -> Result<()> {
        crate::flavors::fill(&self.store).await?;
        if up.hypervisor == Hypervisor::Sim {
            self.simulated_images().await?;
        }
        Ok(())
    }

    /// Two small public images, so that simulated servers have something to boot from.
    async fn simulated_images(&self) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(1 << 20)?;
        for name in ["cirros-sim-disk", "cirros-sim-alt-disk"] {
            let registration = image::Registration {
                name: name.to_owned(),
                owner: self.admin_project.clone(),
                disk_format: "raw".to_owned(),
                visibility: image::model::Visibility::Public,
                min_disk: 0,
                min_ram: 0,
                properties: BTreeMap::new(),
            };
            self.image.register_file(registration, file.path()).await?;
        }
        Ok(())
    }
}

/// Says that the conductor and the scheduler in this process live, as `os-services` shows them.
async fn beat_control_services(store: Store, stop: CancellationToken) {
    let host = crate::hosts::host_name();
    while !stop.is_cancelled() {
        let host = host.clone();
        let beaten = store.write(move |tx| -> Result<(), sql::Error> {
            let now = types::Timestamp::now();
            for binary in ["nova-conductor", "nova-scheduler"] {
                db::hosts::beat(tx, &host, binary, None, now)?;
            }
            Ok(())
        });
        if let Err(error) = beaten.await {
            tracing::warn!(%error, "the control services cannot say that they live");
        }
        tokio::select! {
            () = tokio::time::sleep(CONTROL_BEAT) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Writes floating addresses to the servers whenever the network service has changed something; many changes at once
/// are one renewal.
async fn follow_addresses(
    with: Neighbours,
    mut changes: tokio::sync::watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let mut addresses = Addresses::default();
    loop {
        if let Err(error) = addresses.renew(&with).await {
            tracing::warn!(%error, "floating addresses of servers are not renewed");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        tokio::time::sleep(ADDRESS_PAUSE).await;
        changes.mark_unchanged();
    }
}

fn fresh_identity(up: &Up, logins: &Logins) -> Bootstrap {
    let endpoint = |service_type: &str, service_name: &str, port: u16, path: &str| {
        let url = format!("http://{}:{port}{path}", up.listen);
        Endpoint {
            service_type: service_type.to_owned(),
            service_name: service_name.to_owned(),
            public: url.clone(),
            internal: url.clone(),
            admin: Some(url),
        }
    };
    Bootstrap {
        admin_password: logins.admin_password.clone(),
        demo_password: Some(logins.demo_password.clone()),
        region: "RegionOne".to_owned(),
        endpoints: vec![
            endpoint("identity", "keystone", up.identity_port, "/v3"),
            endpoint("compute", "nova", up.compute_port, "/v2.1"),
            endpoint("image", "glance", up.image_port, ""),
            endpoint("network", "neutron", up.network_port, ""),
            endpoint("placement", "placement", up.placement_port, ""),
        ],
        service_users: vec![ServiceUser {
            name: "nova".to_owned(),
            password: None,
            roles: vec!["service".to_owned(), "admin".to_owned()],
        }],
    }
}

struct Sealer(Arc<SecretBox>);

impl api::Secrets for Sealer {
    fn seal(&self, clear: &str) -> String {
        self.0.seal(clear)
    }
}

/// Makes the contents of config drives when a host pulls the work.
struct Drives {
    store: Store,
    networks: Arc<Networks>,
    tokens: Arc<dyn ServiceTokens>,
    secrets: Arc<SecretBox>,
}

#[async_trait::async_trait]
impl ConfigDrives for Drives {
    async fn files(&self, server: ServerId) -> Result<Vec<(String, String)>, String> {
        use base64::Engine;
        let found: Result<_, sql::Error> = self
            .store
            .read(move |tx| db::instances::get(tx, server))
            .await;
        let instance = found
            .map_err(|error| error.to_string())?
            .ok_or("the server is gone")?;
        let token = self
            .tokens
            .token()
            .await
            .map_err(|error| error.to_string())?;
        let mut subnets = BTreeMap::new();
        for interface in &instance.network_info {
            let of_network = self.networks.subnets(&token, &interface.network_id).await;
            subnets.insert(
                interface.network_id.clone(),
                of_network.map_err(|error| error.to_string())?,
            );
        }
        let admin_pass = instance
            .admin_pass
            .as_deref()
            .and_then(|sealed| self.secrets.open(sealed));
        let mut guest = metadata::Guest::new(instance);
        guest.subnets = subnets;
        guest.admin_pass = admin_pass;
        let seed: [u8; metadata::SEED_BYTES] = std::array::from_fn(|_| rand::random());
        let encode = |content: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(content);
        Ok(guest
            .config_drive_files(&seed)
            .into_iter()
            .map(|(path, content)| (path, encode(content)))
            .collect())
    }
}
