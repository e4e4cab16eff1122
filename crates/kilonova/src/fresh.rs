//! What a fresh cloud holds: people, catalog, networks, flavors, and images where guests are simulated.

use crate::arguments::Hypervisor;
use crate::attached::Servers;
use crate::part::{self, Orders};
use crate::services::{self, Trust, Way};
use crate::settings::Settings;
use anyhow::{Context, Result};
use identity::{Bootstrap, Bootstrapped, Endpoint, ServiceUser};
use sql::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The databases of a cloud, filled.
pub(crate) struct Filled {
    pub(crate) identity: identity::Service,
    pub(crate) image: image::Service,
    pub(crate) network: network::Service,
    pub(crate) key_manager: key_manager::Service,
    pub(crate) compute: Store,
    pub(crate) made: Bootstrapped,
}

/// Brings the database of compute up to date and makes what is missing of a fresh one. One program at a time.
pub(crate) async fn fill_compute(orders: &Orders) -> Result<Store> {
    let _turn = services::turn_to_fill(orders).await?;
    compute(orders).await
}

async fn compute(orders: &Orders) -> Result<Store> {
    let compute = services::compute_store(orders).await?;
    compute.write(db::instances::begin_numbers).await?;
    crate::flavors::fill(&compute).await?;
    Ok(compute)
}

/// Brings all databases up to date and makes what is missing of a fresh cloud. Safe to repeat at every start; programs that
/// do so at once wait for each other. It leaves alone what those do that serve already.
pub(crate) async fn fill(orders: &Orders) -> Result<Filled> {
    let _turn = services::turn_to_fill(orders).await?;
    let settings = &orders.settings;
    let secrets = orders.secrets.as_ref().context("orders without secrets")?;
    let identity = services::identity(orders).await?;
    let made = identity
        .bootstrap(&fresh_identity(settings, secrets))
        .await?;
    let validator = services::local_validator(&identity);
    let image = services::image(orders, validator.clone()).await?;
    let key_manager = services::key_manager(orders, validator.clone()).await?;
    let network = services::network(orders, validator).await?;
    network.bootstrap(&made.admin_project_id).await?;
    let compute = compute(orders).await?;
    if settings.hypervisor == Hypervisor::Sim {
        simulated_images(&image, &made.admin_project_id).await?;
    }
    Ok(Filled {
        identity,
        image,
        network,
        key_manager,
        compute,
        made,
    })
}

/// The volume service of a filled cloud. Without `servers` its tables are made, but it cannot serve volumes.
pub(crate) async fn volume(
    orders: &Orders,
    filled: &Filled,
    servers: bool,
) -> Result<volume::Service> {
    let project = filled.made.service_project_id.clone();
    let trust = Trust::embedded(&filled.identity, "cinder", project);
    let servers = match servers {
        true => Some(Servers::new(&orders.settings, Arc::clone(&trust.tokens))?),
        false => None,
    };
    services::volume(orders, trust, &Way::Here(filled.image.router()), servers).await
}

/// Two small public images, so that simulated servers have something to boot from.
async fn simulated_images(image: &image::Service, owner: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(1 << 20)?;
    for name in ["cirros-sim-disk", "cirros-sim-alt-disk"] {
        let registration = image::Registration {
            name: name.to_owned(),
            owner: owner.to_owned(),
            disk_format: "raw".to_owned(),
            visibility: image::model::Visibility::Public,
            min_disk: 0,
            min_ram: 0,
            properties: BTreeMap::new(),
        };
        image.register_file(registration, file.path()).await?;
    }
    Ok(())
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
            endpoint("volumev3", "cinderv3", settings.volume_port, "/v3"),
            endpoint("block-storage", "cinder", settings.volume_port, "/v3"),
            endpoint("placement", "placement", settings.placement_port, ""),
            endpoint("key-manager", "barbican", settings.key_manager_port, ""),
        ],
        service_users: ["nova", "cinder"]
            .map(|name| ServiceUser {
                name: name.to_owned(),
                password: (!settings.site_password.is_empty())
                    .then(|| settings.site_password.clone()),
                roles: vec!["service".to_owned(), "admin".to_owned()],
            })
            .into(),
    }
}
