//! The control part: APIs, conductor, scheduler and databases, wired. The only place that names implementations.

use crate::arguments::Hypervisor;
use crate::home::private_folder;
use crate::part::{self, Orders};
use crate::service_tokens::EmbeddedTokens;
use crate::serving::Serving;
use crate::settings::Settings;
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
use tokio_util::sync::CancellationToken;
use types::ServerId;
use web::client::Client;

/// How often soft-deleted servers are looked at.
const RECLAIM_PAUSE: Duration = Duration::from_secs(60);
/// How long changes of the network service gather before servers' addresses are renewed.
const ADDRESS_PAUSE: Duration = Duration::from_millis(100);

/// The services without privileges, running.
pub(crate) struct Control {
    serving: Serving,
    _worker: journal::Worker,
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
        let mut serving = Serving::new(&orders.settings.listen, stop.clone());
        let cloud = Cloud::open(orders).await?;
        cloud.fill().await?;
        let worker = cloud.serve(orders, &mut serving, stop).await?;
        Ok(Self {
            serving,
            _worker: worker,
        })
    }

    /// Waits until what is under way has been answered; the signal to stop was given.
    pub(crate) async fn finish(self) {
        self.serving.finish().await;
    }
}

/// The services, opened.
struct Cloud {
    settings: Settings,
    identity: identity::Service,
    image: image::Service,
    network: network::Service,
    store: Store,
    tokens: Arc<dyn ServiceTokens>,
    secrets: Arc<SecretBox>,
    metadata_secret: String,
    admin_project: String,
}

/// The database of a service: the one that is set, else a file.
async fn open_store(orders: &Orders, name: &str, url: &str) -> Result<Store> {
    let options = Options {
        connections: orders.settings.database_connections,
        ..Options::default()
    };
    let file = private_folder(&orders.folder, "db")?.join(format!("{name}.db"));
    let url = match url {
        "" => format!("sqlite://{}", file.display()),
        given => given.to_owned(),
    };
    Store::open_with(&url, options)
        .await
        .with_context(|| format!("the {name} database"))
}

impl Cloud {
    async fn open(orders: &Orders) -> Result<Self> {
        let settings = &orders.settings;
        let secrets = orders.secrets.as_ref().context("orders without secrets")?;
        let auth_url = settings.auth_url();
        let identity = identity::Service::open(
            open_store(orders, "identity", &settings.identity_database).await?,
            identity::Config::new(private_folder(&orders.folder, "keys")?),
        )
        .await?;
        let made = identity
            .bootstrap(&fresh_identity(settings, secrets))
            .await?;
        let validator: Arc<dyn web::auth::TokenValidator> = Arc::new(identity.clone());
        let mut image_config = image::Config::new(private_folder(&orders.folder, "images")?);
        image_config.identity_url = Some(auth_url);
        let image = image::Service::open(
            open_store(orders, "image", &settings.image_database).await?,
            image_config,
            Arc::clone(&validator),
        )
        .await?;
        let network_config = network::Config {
            public_cidr: settings
                .public_range
                .parse()
                .context("the public range is not a CIDR")?,
            private_cidr: settings
                .private_range
                .parse()
                .context("the private range is not a CIDR")?,
            ..network::Config::default()
        };
        let network = network::Service::open(
            open_store(orders, "network", &settings.network_database).await?,
            network_config,
            validator,
        )
        .await?;
        network.bootstrap(&made.admin_project_id).await?;
        let store = open_store(orders, "compute", &settings.compute_database).await?;
        db::migrate(&store).await?;
        store.write(db::instances::begin_numbers).await?;
        let tokens = Arc::new(EmbeddedTokens::new(
            identity.clone(),
            made.service_project_id,
        ));
        Ok(Self {
            settings: settings.clone(),
            identity,
            image,
            network,
            store,
            tokens,
            secrets: Arc::new(SecretBox::new(secrets.seal_key.as_bytes())?),
            metadata_secret: orders.metadata_secret.clone(),
            admin_project: made.admin_project_id,
        })
    }

    /// Opens all ports and starts the conductor.
    async fn serve(
        &self,
        orders: &Orders,
        serving: &mut Serving,
        stop: &CancellationToken,
    ) -> Result<journal::Worker> {
        let bus = Bus::new();
        let networks = Arc::new(Networks::new(Client::in_process(
            "the network service",
            self.network.router(),
        )));
        let images = Arc::new(Images::new(Client::in_process(
            "the image service",
            self.image.router(),
        )));
        let view = Arc::new(View::new(self.store.clone(), self.settings.down_after()));
        let with = Neighbours {
            store: self.store.clone(),
            networks: Arc::clone(&networks),
            images: Arc::clone(&images),
            tokens: Arc::clone(&self.tokens),
            view,
        };
        tokio::spawn(beat_control_services(
            self.store.clone(),
            self.settings.beat(),
            stop.clone(),
        ));
        if self.settings.reclaim_instance_interval > 0 {
            tokio::spawn(reclaim_deleted(
                self.store.clone(),
                bus.clone(),
                Duration::from_secs(self.settings.reclaim_instance_interval),
                stop.clone(),
            ));
        }
        if let Ok(after @ 1..) = u64::try_from(self.settings.shelved_offload_time) {
            tokio::spawn(offload_shelved(
                self.store.clone(),
                bus.clone(),
                Duration::from_secs(after),
                stop.clone(),
            ));
        }
        tokio::spawn(follow_addresses(
            with.clone(),
            self.network.changes(),
            bus.listen(bus::Bell::Addresses),
            stop.clone(),
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
            self.settings.ratios(),
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
            &orders.socket,
            agents.router().merge(self.network.agent_router()),
        )?;
        self.open_ports(serving, &agents, &bus, networks).await?;
        Ok(worker)
    }

    async fn open_ports(
        &self,
        serving: &mut Serving,
        agents: &agents::Agents,
        bus: &Bus,
        networks: Arc<Networks>,
    ) -> Result<()> {
        let settings = &self.settings;
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
            auth_url: settings.auth_url(),
            max_limit: settings.max_limit,
            max_body_bytes: settings.max_request_body_size,
            default_zone: settings.default_availability_zone.clone(),
            internal_zone: settings.internal_availability_zone.clone(),
            service_down_micros: i64::try_from(settings.down_after().as_micros())?,
            reclaim_seconds: settings.reclaim_instance_interval,
            offload_at_once: settings.shelved_offload_time == 0,
            image_url: settings.image_url(),
            default_floating_pool: settings.default_floating_pool.clone(),
            policy_files: settings.policy_files(),
            rate_limit: settings.rate_limit(),
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
                identity_url: settings.auth_url(),
                ..placement::Config::default()
            },
            validator,
        )
        .await?;
        serving
            .tcp("identity", settings.identity_port, self.identity.router())
            .await?;
        serving
            .tcp("image", settings.image_port, self.image.router())
            .await?;
        serving
            .tcp("network", settings.network_port, self.network.router())
            .await?;
        serving
            .tcp("placement", settings.placement_port, placement.router())
            .await?;
        serving
            .tcp("metadata", settings.metadata_port, metadata.router())
            .await?;
        if !settings.metrics_listen.is_empty() {
            serving
                .at("metrics", &settings.metrics_listen, compute.metrics())
                .await?;
        }
        serving
            .tcp("compute", settings.compute_port, compute.router())
            .await
    }

    /// What a fresh cloud holds besides people and networks.
    async fn fill(&self) -> Result<()> {
        crate::flavors::fill(&self.store).await?;
        if self.settings.hypervisor == Hypervisor::Sim {
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

/// Deletes for good what was soft-deleted long enough ago.
async fn reclaim_deleted(store: Store, bus: Bus, after: Duration, stop: CancellationToken) {
    let pause = after.clamp(Duration::from_secs(1), RECLAIM_PAUSE);
    while !stop.is_cancelled() {
        match conductor::reclaim::reclaim(&store, &bus, after).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "soft-deleted servers are deleted for good"),
            Err(error) => tracing::warn!(%error, "soft-deleted servers cannot be reclaimed now"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Takes servers from their hosts that were shelved long enough ago.
async fn offload_shelved(store: Store, bus: Bus, after: Duration, stop: CancellationToken) {
    let pause = after.clamp(Duration::from_secs(1), RECLAIM_PAUSE);
    while !stop.is_cancelled() {
        match conductor::offload::offload(&store, &bus, after).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "shelved servers leave their hosts"),
            Err(error) => tracing::warn!(%error, "shelved servers cannot be offloaded now"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Says that the conductor and the scheduler in this process live, as `os-services` shows them.
async fn beat_control_services(store: Store, beat: Duration, stop: CancellationToken) {
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
            () = tokio::time::sleep(beat) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Writes floating addresses to the servers whenever the network service has changed something; many changes at once
/// are one renewal.
async fn follow_addresses(
    with: Neighbours,
    mut changes: tokio::sync::watch::Receiver<u64>,
    mut told: bus::Listener,
    stop: CancellationToken,
) {
    let mut addresses = Addresses::default();
    loop {
        if let Err(error) = addresses.renew(&with).await {
            tracing::warn!(%error, "floating addresses of servers are not renewed");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = told.rung() => {}
            () = stop.cancelled() => return,
        }
        tokio::time::sleep(ADDRESS_PAUSE).await;
        changes.mark_unchanged();
    }
}

fn fresh_identity(settings: &Settings, secrets: &part::Secrets) -> Bootstrap {
    let endpoint = |service_type: &str, service_name: &str, port: u16, path: &str| {
        let url = settings.url(port, path);
        Endpoint {
            service_type: service_type.to_owned(),
            service_name: service_name.to_owned(),
            public: url.clone(),
            internal: url.clone(),
            admin: Some(url),
        }
    };
    Bootstrap {
        admin_password: secrets.admin_password.clone(),
        demo_password: Some(secrets.demo_password.clone()),
        region: "RegionOne".to_owned(),
        endpoints: vec![
            endpoint("identity", "keystone", settings.identity_port, "/v3"),
            endpoint("compute", "nova", settings.compute_port, "/v2.1"),
            endpoint("image", "glance", settings.image_port, ""),
            endpoint("network", "neutron", settings.network_port, ""),
            endpoint("placement", "placement", settings.placement_port, ""),
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

    fn open(&self, sealed: &str) -> Option<String> {
        self.0.open(sealed)
    }
}

/// Opens the files that a request wanted in its guest: `[[path, base64], ...]`.
fn injected_files(secrets: &SecretBox, sealed: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    use base64::Engine;
    let clear = secrets
        .open(sealed)
        .ok_or("injected files cannot be opened")?;
    let files: Vec<(String, String)> =
        serde_json::from_str(&clear).map_err(|error| error.to_string())?;
    files
        .into_iter()
        .map(|(path, content)| {
            let plain: String = content.split_ascii_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(plain);
            Ok((path, bytes.map_err(|error| error.to_string())?))
        })
        .collect()
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
            .read(move |tx| {
                Ok((
                    db::instances::get(tx, server)?,
                    db::injected_files::get(tx, server)?,
                ))
            })
            .await;
        let (instance, sealed) = found.map_err(|error| error.to_string())?;
        let instance = instance.ok_or("the server is gone")?;
        let injected = sealed.map(|sealed| injected_files(&self.secrets, &sealed));
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
            .sealed_password()
            .and_then(|sealed| self.secrets.open(sealed));
        let mut guest = metadata::Guest::new(instance);
        guest.subnets = subnets;
        guest.admin_pass = admin_pass;
        guest.files = injected.transpose()?.unwrap_or_default();
        let seed: [u8; metadata::SEED_BYTES] = std::array::from_fn(|_| rand::random());
        let encode = |content: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(content);
        Ok(guest
            .config_drive_files(&seed)
            .into_iter()
            .map(|(path, content)| (path, encode(content)))
            .collect())
    }
}
