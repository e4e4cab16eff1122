//! The networks of a fresh cloud.

use crate::api::request::Request;
use crate::api::{networks, ports, routers, subnets};
use crate::db;
use crate::doc::Doc;
use crate::fault::Fault;
use crate::schema::{Initial, Kind};
use crate::service::{Error, Service};
use crate::work::Work;
use serde_json::{Value, json};

/// What [`Service::bootstrap`] made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// Id of the external network `public`.
    pub public_network: String,
    /// Id of the shared network `private`.
    pub private_network: String,
    /// Id of the router between them.
    pub router: String,
}

impl Service {
    /// Makes the external network `public`, the shared network `private` and the router `router1` between them, owned by a
    /// project (the administrators'); what is there already stays as it is.
    ///
    /// # Errors
    /// When the database fails or the configured ranges cannot be used.
    pub async fn bootstrap(&self, project: &str) -> Result<Bootstrapped, Error> {
        let cx = self.own_context();
        let project = project.to_owned();
        let made = self.write(&cx, move |work| make(work, &project)).await;
        made.map_err(|fault| Error::Bootstrap(fault.to_string()))
    }
}

/// A request of the service's own.
pub(crate) fn request(kind: Kind, project: &str, given: Value) -> Request {
    let mut doc = Doc::default();
    for attribute in kind.attributes() {
        if let Initial::Json(text) = attribute.initial {
            doc.set(
                attribute.name,
                serde_json::from_str::<Value>(text).unwrap_or_default(),
            );
        }
    }
    let given = Doc(given.as_object().cloned().unwrap_or_default());
    for (name, value) in given.iter() {
        doc.set(name, value.clone());
    }
    doc.set("project_id", project);
    Request { doc, given }
}

fn named(
    work: &mut Work<'_, '_>,
    kind: Kind,
    project: &str,
    name: &str,
) -> Result<Option<Doc>, Fault> {
    let found = db::find(work.tx, kind, &[db::is("project_id", project)])?;
    Ok(found.into_iter().find(|doc| doc.text("name") == name))
}

fn make(work: &mut Work<'_, '_>, project: &str) -> Result<Bootstrapped, Fault> {
    let config = std::sync::Arc::clone(&work.cx.config);
    let public = match named(work, Kind::Network, project, "public")? {
        Some(network) => network,
        None => {
            let given = json!({"name": "public", "router:external": true, "is_default": true});
            let network = networks::create(work, request(Kind::Network, project, given))?;
            let range = json!({"name": "public-subnet", "network_id": network.id(), "cidr": config.public_cidr.trunc().to_string(),
                "ip_version": version(&config.public_cidr), "enable_dhcp": false});
            subnets::create(work, request(Kind::Subnet, project, range))?;
            network
        }
    };
    let private = match named(work, Kind::Network, project, "private")? {
        Some(network) => network,
        None => {
            let given = json!({"name": "private", "shared": true});
            let network = networks::create(work, request(Kind::Network, project, given))?;
            let servers: Vec<String> = config
                .dns_nameservers
                .iter()
                .map(ToString::to_string)
                .collect();
            let range = json!({"name": "private-subnet", "network_id": network.id(), "cidr": config.private_cidr.trunc().to_string(),
                "ip_version": version(&config.private_cidr), "dns_nameservers": servers});
            subnets::create(work, request(Kind::Subnet, project, range))?;
            network
        }
    };
    let router = match named(work, Kind::Router, project, "router1")? {
        Some(router) => router,
        None => {
            let given =
                json!({"name": "router1", "external_gateway_info": {"network_id": public.id()}});
            let router = routers::create(work, request(Kind::Router, project, given))?;
            let subnet =
                db::find_one(work.tx, Kind::Subnet, &[db::is("network_id", private.id())])?;
            if let Some(subnet) = subnet {
                routers::add_interface(work, router.id(), &json!({"subnet_id": subnet.id()}))?;
            }
            router
        }
    };
    ports::ensure_dhcp_port(work, &private)?;
    Ok(Bootstrapped {
        public_network: public.id().to_owned(),
        private_network: private.id().to_owned(),
        router: router.id().to_owned(),
    })
}

fn version(net: &ipnet::IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
}
