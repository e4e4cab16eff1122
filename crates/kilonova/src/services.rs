//! Each service of the cloud, opened and wired on its own: `up` has all of them in one process, a role has one. The only
//! place that names implementations.

use crate::arguments::Hypervisor;
use crate::attached::Servers;
use crate::background;
use crate::drives::Drives;
use crate::home::private_folder;
use crate::monitor::Need;
use crate::part::Orders;
use crate::service_tokens::{EmbeddedTokens, VolumeTokens};
use crate::serving::Serving;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use axum::Router;
use bus::{Bell, Bus};
use clients::{Images, Keys, Keystone, Networks, ServiceTokens, Volumes};
use conductor::agents::Agents;
use conductor::flows::grace::{Grace, Patience};
use conductor::newcomers::Newcomers;
use conductor::questions::Questions;
use conductor::view::View;
use conductor::{Neighbours, bells};
use edge::secrets::{SecretBox, Secrets};
use journal::{Journal, Outcomes};
use rustls::ClientConfig;
use sql::{Options, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::HostName;
use web::auth::TokenValidator;
use web::client::Client;

/// How long the data of an image may take between the services.
const TRANSFER: Duration = Duration::from_secs(2 * 3600);
/// How often the only process with a conductor looks for what `kilonova manage` has stored.
const ALONE: Duration = Duration::from_secs(1);

/// The way to a service.
#[derive(Clone)]
pub(crate) enum Way {
    /// In this process.
    Here(Router),
    /// At this URL, with TLS where that is `https`.
    There(String, Option<Arc<ClientConfig>>),
}

impl Way {
    /// The way to a URL.
    ///
    /// # Errors
    /// When the authorities that the settings name cannot be used.
    pub(crate) fn there(url: String, settings: &Settings) -> Result<Self> {
        let tls = match url.starts_with("https://") {
            true => Some(web::tls::client(settings.authority().as_deref(), None)?),
            false => None,
        };
        Ok(Self::There(url, tls))
    }

    pub(crate) fn client(&self, service: &'static str) -> Client {
        match self {
            Self::Here(router) => Client::in_process(service, router.clone()),
            Self::There(url, None) => Client::http(service, url),
            Self::There(url, Some(tls)) => Client::https(service, url, Arc::clone(tls)),
        }
    }
}

/// Who says what tokens mean, and gives compute its own.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) validator: Arc<dyn TokenValidator>,
    pub(crate) tokens: Arc<dyn ServiceTokens>,
}

impl Trust {
    /// For a process of its own: the identity service of the site, or the embedded one by its database, where `user` acts.
    pub(crate) async fn new(orders: &Orders, user: &'static str) -> Result<Self> {
        let settings = &orders.settings;
        if let Some((url, login)) = settings.site_identity() {
            let client = Way::there(url, settings)?.client("the identity service");
            let keystone = Arc::new(Keystone::new(client, login));
            return Ok(Self {
                validator: Arc::clone(&keystone) as Arc<dyn TokenValidator>,
                tokens: keystone,
            });
        }
        let identity = identity(orders).await?;
        let project = identity
            .service_project()
            .await?
            .context("there is no project `service`: run `kilonova db sync` first")?;
        Ok(Self::embedded(&identity, user, project))
    }

    /// The identity service in this process, where `user` acts in a project.
    pub(crate) fn embedded(
        identity: &identity::Service,
        user: &'static str,
        project: String,
    ) -> Self {
        Self {
            validator: local_validator(identity),
            tokens: Arc::new(EmbeddedTokens::new(identity.clone(), user, project)),
        }
    }
}

/// What a service of compute needs of the others.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) images: Way,
    pub(crate) networks: Way,
    pub(crate) volumes: Way,
    pub(crate) keys: Way,
    pub(crate) tokens: Arc<dyn ServiceTokens>,
    pub(crate) validator: Arc<dyn TokenValidator>,
    /// Several processes share the databases.
    pub(crate) shared: bool,
}

impl Reach {
    pub(crate) fn images(&self) -> Images {
        Images::new(self.images.client("the image service"))
    }

    pub(crate) fn networks(&self) -> Networks {
        Networks::new(self.networks.client("the network service"))
    }

    pub(crate) fn volumes(&self) -> Volumes {
        Volumes::new(self.volumes.client("the volume service"))
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.keys.client("the key manager"))
    }
}

/// The database of a service: the one that is set, else a file.
async fn open_store(orders: &Orders, name: &str, url: &str) -> Result<Store> {
    open_with(orders, name, url, orders.settings.database_connections).await
}

/// The same with so many connections.
async fn open_with(orders: &Orders, name: &str, url: &str, connections: usize) -> Result<Store> {
    let options = Options {
        connections,
        migrates: orders.migrates,
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

/// The right to fill the databases of the cloud, as soon as no other program fills them, on whatever machine.
pub(crate) async fn turn_to_fill(orders: &Orders) -> Result<sql::Held> {
    let url = &orders.settings.compute_database;
    // The connection waits there and does nothing else.
    let store = open_with(orders, "compute", url, 1).await?;
    let held = store.hold("filling").await;
    held.context("waiting for another program that fills the databases")
}

/// A database of its own connections, to see that it answers.
pub(crate) async fn watched(orders: &Orders, name: &str) -> Result<Need> {
    let settings = &orders.settings;
    let url = match name {
        "identity" => &settings.identity_database,
        "image" => &settings.image_database,
        "network" => &settings.network_database,
        "volume" => &settings.volume_database,
        "key-manager" => &settings.key_manager_database,
        _ => &settings.compute_database,
    };
    Ok(Need::Database(open_store(orders, name, url).await?))
}

/// The identity service.
pub(crate) async fn identity(orders: &Orders) -> Result<identity::Service> {
    let store = open_store(orders, "identity", &orders.settings.identity_database).await?;
    let keys = private_folder(&orders.folder, "keys")?;
    if !orders.migrates && !identity::keys_are_in(&keys)? {
        bail!(
            "there are no keys of tokens in {}: run `kilonova db sync` first, or copy the folder from the machine where it ran; \
             with keys of its own this process would refuse the tokens of all others",
            keys.display()
        );
    }
    let config = identity::Config::new(keys);
    Ok(identity::Service::open(store, config).await?)
}

/// Tokens validated by the identity service in this process.
pub(crate) fn local_validator(identity: &identity::Service) -> Arc<dyn TokenValidator> {
    Arc::new(identity.clone())
}

/// The image service. It does nothing by itself before [`keep_images`].
pub(crate) async fn image(
    orders: &Orders,
    validator: Arc<dyn TokenValidator>,
) -> Result<image::Service> {
    let store = open_store(orders, "image", &orders.settings.image_database).await?;
    let mut config = image::Config::new(private_folder(&orders.folder, "images")?);
    config.identity_url = Some(orders.settings.auth_url());
    Ok(image::Service::open(store, config, validator).await?)
}

/// Takes back what image services that are gone had begun, now and until `stop`.
pub(crate) async fn keep_images(service: &image::Service, stop: &CancellationToken) -> Result<()> {
    service.begin().await?;
    let (service, stop) = (service.clone(), stop.clone());
    tokio::spawn(async move { service.keep(stop).await });
    Ok(())
}

/// The network service.
pub(crate) async fn network(
    orders: &Orders,
    validator: Arc<dyn TokenValidator>,
) -> Result<network::Service> {
    let settings = &orders.settings;
    let config = network::Config {
        public_cidr: settings
            .public_range
            .parse()
            .context("the public range is not a CIDR")?,
        private_cidr: settings
            .private_range
            .parse()
            .context("the private range is not a CIDR")?,
        gateway_host: (!settings.gateway_host.is_empty()).then(|| settings.gateway_host.clone()),
        ..network::Config::default()
    };
    let store = open_store(orders, "network", &settings.network_database).await?;
    let service = network::Service::open(store, config, validator).await?;
    service.settle_gateway().await?;
    Ok(service)
}

/// The volume service. It does nothing by itself before [`keep_volumes`].
pub(crate) async fn volume(
    orders: &Orders,
    trust: Trust,
    images: &Way,
    servers: Option<Servers>,
) -> Result<volume::Service> {
    let settings = &orders.settings;
    let config = volume::Config {
        serving: match settings.hypervisor {
            Hypervisor::Libvirt => volume::Serving::Nbd,
            Hypervisor::Sim => volume::Serving::Nothing,
        },
        nbd_address: settings.nbd_listen.parse()?,
        nbd_port: settings.nbd_port,
        host: settings.host_name().to_string(),
        zone: settings.scheduling.default_zone.clone(),
        default_type: settings.default_volume_type.clone(),
        quota_volumes: settings.quota_volumes,
        quota_snapshots: settings.quota_snapshots,
        quota_gigabytes: settings.quota_gigabytes,
        over_subscription: settings.max_over_subscription_ratio,
        identity_url: Some(settings.auth_url()),
        ..volume::Config::new(private_folder(&orders.folder, "volumes")?)
    };
    let images = images.client("the image service").with_timeout(TRANSFER);
    let deps = volume::Deps {
        store: open_store(orders, "volume", &settings.volume_database).await?,
        validator: trust.validator,
        images: Some(Arc::new(images)),
        servers: servers.map(|servers| Arc::new(servers) as _),
        tokens: Arc::new(VolumeTokens(trust.tokens)),
    };
    Ok(volume::Service::open(config, deps).await?)
}

/// Goes on with what the volume service had begun, and keeps volumes served until `stop`.
pub(crate) async fn keep_volumes(
    service: &volume::Service,
    stop: &CancellationToken,
) -> Result<()> {
    service.begin().await?;
    let (service, stop) = (service.clone(), stop.clone());
    tokio::spawn(async move { service.keep(stop).await });
    Ok(())
}

/// The key manager.
pub(crate) async fn key_manager(
    orders: &Orders,
    validator: Arc<dyn TokenValidator>,
) -> Result<key_manager::Service> {
    let settings = &orders.settings;
    let secrets = orders.secrets.as_ref().context("orders without secrets")?;
    let store = open_store(orders, "key-manager", &settings.key_manager_database).await?;
    let config = key_manager::Config {
        // As in the catalog: clients keep references to secrets.
        public_endpoint: Some(settings.url(settings.key_manager_port, "")),
        identity_url: Some(settings.auth_url()),
        ..key_manager::Config::new(&secrets.key_manager_keys)
    };
    Ok(key_manager::Service::open(store, config, validator).await?)
}

/// The database of compute.
pub(crate) async fn compute_store(orders: &Orders) -> Result<Store> {
    let store = open_store(orders, "compute", &orders.settings.compute_database).await?;
    db::migrate(&store).await?;
    Ok(store)
}

/// The Placement API.
pub(crate) async fn placement(
    orders: &Orders,
    store: Store,
    validator: Arc<dyn TokenValidator>,
) -> Result<placement::Service> {
    let config = placement::Config {
        identity_url: orders.settings.auth_url(),
        ..placement::Config::default()
    };
    Ok(placement::Service::open(store, config, validator).await?)
}

/// What seals passwords in the database.
fn secret_box(orders: &Orders) -> Result<Arc<SecretBox>> {
    let secrets = orders.secrets.as_ref().context("orders without secrets")?;
    Ok(Arc::new(SecretBox::new(secrets.seal_key.as_bytes())?))
}

/// The metadata service that guests ask.
pub(crate) fn metadata(orders: &Orders, store: Store, reach: &Reach) -> Result<Router> {
    let service = edge::metadata::Service::new(
        store,
        Arc::new(reach.networks()),
        Arc::clone(&reach.tokens),
        secret_box(orders)? as Arc<dyn Secrets>,
        edge::metadata::Config::new(orders.metadata_secret.as_bytes()),
    );
    Ok(service.router())
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

/// The Compute API.
pub(crate) async fn compute_api(
    orders: &Orders,
    store: Store,
    reach: &Reach,
    bus: &Bus,
    worker: Option<(journal::Intake, Newcomers)>,
) -> Result<api::Service> {
    let settings = &orders.settings;
    let deps = api::Deps {
        store: store.clone(),
        validator: Arc::clone(&reach.validator),
        images: reach.images(),
        networks: reach.networks(),
        volumes: reach.volumes(),
        keys: reach.keys(),
        tokens: Arc::clone(&reach.tokens),
        bus: bus.clone(),
        hand_over: Arc::new(move |task, server| {
            let worker = worker.as_ref();
            worker.is_some_and(|(worker, known)| known.hand_over(worker, task, server))
        }),
        questions: Arc::new(Questions::new(store, bus.clone())),
        secrets: Arc::new(Sealer(secret_box(orders)?)),
    };
    let config = api::Config {
        auth_url: settings.auth_url(),
        max_limit: settings.max_limit,
        max_body_bytes: settings.max_request_body_size,
        scheduling: settings.scheduling.clone(),
        internal_zone: settings.internal_availability_zone.clone(),
        service_down_micros: i64::try_from(settings.down_after().as_micros())?,
        reclaim_seconds: settings.reclaim_instance_interval,
        offload_at_once: settings.shelved_offload_time == 0,
        resize_on_same_host: settings.resize_on_same_host.for_api(),
        signatures: settings.signatures(),
        rescue_image: Some(settings.rescue_image.clone()).filter(|id| !id.is_empty()),
        compute_link_prefix: Some(settings.compute_link_prefix.clone())
            .filter(|url| !url.is_empty()),
        image_url: Some(settings.glance_link_prefix.clone())
            .filter(|url| !url.is_empty())
            .unwrap_or_else(|| settings.image_url()),
        default_floating_pool: settings.default_floating_pool.clone(),
        policy_files: settings.policy_files(),
        rate_limit: settings.rate_limit(),
        ..api::Config::default()
    };
    Ok(api::Service::open(deps, config).await?)
}

/// Serves the Compute API and its metrics.
pub(crate) async fn serve_compute_api(
    orders: &Orders,
    compute: &api::Service,
    serving: &mut Serving,
) -> Result<()> {
    let settings = &orders.settings;
    if !settings.metrics_listen.is_empty() {
        serving
            .at("metrics", &settings.metrics_listen, compute.metrics())
            .await?;
    }
    serving
        .tcp("compute", settings.compute_port, compute.router())
        .await
}

/// A conductor at work: flows run as long as it is kept.
pub(crate) struct Conductor {
    /// New servers of the API in this process.
    pub(crate) newcomers: Newcomers,
    /// What agents of hosts ask.
    pub(crate) desk: Router,
    pub(crate) worker: journal::Worker,
}

impl Conductor {
    /// Starts a conductor under a name that no other process has now. `changes` are those of a network service in this
    /// process.
    pub(crate) async fn start(
        orders: &Orders,
        name: &str,
        store: Store,
        reach: &Reach,
        bus: &Bus,
        changes: Option<watch::Receiver<u64>>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let settings = &orders.settings;
        let with = neighbours(settings, store.clone(), bus, reach);
        let newcomers = with.newcomers.clone();
        let networks = Arc::clone(&with.networks);
        let outcomes = match reach.shared {
            true => Outcomes::shared(store.clone(), bus.clone()),
            false => Outcomes::new(store.clone()),
        };
        let drives = Arc::new(Drives {
            store: store.clone(),
            networks,
            tokens: Arc::clone(&reach.tokens),
            secrets: secret_box(orders)?,
        });
        let agents = Agents::new(
            with.clone(),
            bus.clone(),
            outcomes.clone(),
            drives,
            settings.ratios(),
            settings.rules_of_guests(),
        );
        let journal = Journal::new(
            name,
            store.clone(),
            bus.clone(),
            outcomes,
            settings.journal(),
        );
        let worker = conductor::flows::register(journal, &with).start().await?;
        let host = settings.host_name();
        let images = settings.image_url();
        let notifications =
            settings
                .notification
                .config(&settings.transport_url, host.as_str(), &images)?;
        if let Some(config) = notifications {
            tokio::spawn(conductor::notifications::publish(
                store.clone(),
                bus.clone(),
                config,
                // No other process has this name; the next one goes on at once.
                name.to_owned(),
                stop.clone(),
            ));
        }
        spawn_background(orders, with, bus, host, changes, stop);
        let look = match reach.shared {
            true => settings.look(),
            // `kilonova manage` is another process.
            false => ALONE,
        };
        tokio::spawn(bells::watch(store, bus.clone(), look, stop.clone()));
        Ok(Self {
            desk: agents.router(),
            worker,
            newcomers,
        })
    }
}

/// Starts a process that picks hosts: it runs the flows that do so, as conductors do among all others.
pub(crate) async fn scheduler(
    orders: &Orders,
    name: &str,
    store: Store,
    reach: &Reach,
    bus: &Bus,
    stop: &CancellationToken,
) -> Result<journal::Worker> {
    let settings = &orders.settings;
    let with = neighbours(settings, store.clone(), bus, reach);
    let outcomes = Outcomes::shared(store.clone(), bus.clone());
    let journal = Journal::new(
        name,
        store.clone(),
        bus.clone(),
        outcomes,
        settings.journal(),
    );
    let worker = conductor::flows::register_placing(journal, &with)
        .start()
        .await?;
    tokio::spawn(background::beat_control_services(
        store.clone(),
        settings.host_name(),
        &["nova-scheduler"],
        settings.beat(),
        stop.clone(),
    ));
    tokio::spawn(bells::watch(
        store,
        bus.clone(),
        settings.look(),
        stop.clone(),
    ));
    Ok(worker)
}

/// What flows and repairs need from outside.
pub(crate) fn neighbours(
    settings: &Settings,
    store: Store,
    bus: &Bus,
    reach: &Reach,
) -> Neighbours {
    Neighbours {
        view: Arc::new(View::deciding_by(
            settings.scheduling.clone(),
            store.clone(),
            settings.down_after(),
        )),
        questions: Arc::new(Questions::new(store.clone(), bus.clone())),
        checks: settings.live.checks,
        store,
        networks: Arc::new(reach.networks()),
        images: Arc::new(reach.images()),
        volumes: Arc::new(reach.volumes()),
        keys: Arc::new(reach.keys()),
        tokens: Arc::clone(&reach.tokens),
        newcomers: Newcomers::default(),
        patience: Patience {
            shutdown: Grace::of_seconds(settings.shutdown_timeout),
            reboot: Grace::of_seconds(settings.wait_soft_reboot),
            detach: settings.detaching().in_all(),
        },
    }
}

fn spawn_background(
    orders: &Orders,
    with: Neighbours,
    bus: &Bus,
    host: HostName,
    changes: Option<watch::Receiver<u64>>,
    stop: &CancellationToken,
) {
    let (settings, store) = (&orders.settings, with.store.clone());
    let terms = settings.terms();
    tokio::spawn(background::beat_control_services(
        store.clone(),
        host,
        &["nova-conductor", "nova-scheduler"],
        settings.beat(),
        stop.clone(),
    ));
    tokio::spawn(background::tell_grown(
        store.clone(),
        bus.clone(),
        stop.clone(),
    ));
    if let Some(after) = terms.reclaim {
        tokio::spawn(background::reclaim_deleted(
            store.clone(),
            bus.clone(),
            after,
            stop.clone(),
        ));
    }
    if let Some(after) = terms.offload {
        tokio::spawn(background::offload_shelved(
            store.clone(),
            bus.clone(),
            after,
            stop.clone(),
        ));
    }
    if let Some(after) = terms.confirm {
        tokio::spawn(background::confirm_resizes(
            store.clone(),
            bus.clone(),
            after,
            stop.clone(),
        ));
    }
    if settings.reconcile_interval > 0 {
        tokio::spawn(background::reconcile(
            with.clone(),
            bus.clone(),
            Duration::from_secs(settings.reconcile_interval),
            stop.clone(),
        ));
    }
    tokio::spawn(background::follow_addresses(
        with,
        bus.clone(),
        changes,
        bus.listen(Bell::Addresses),
        stop.clone(),
    ));
    tokio::spawn(conductor::outbox::forget(
        store.clone(),
        Duration::from_secs(settings.event_retention),
        stop.clone(),
    ));
    tokio::spawn(bells::forget_questions(store, stop.clone()));
}
