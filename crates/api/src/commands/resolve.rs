//! From the names in a request to what they stand for: flavor, image, networks, groups, key.

use super::create_server::{CreateServer, NetworkWish, Resolved};
use super::kernels::Kernels;
use crate::call::Call;
use crate::faults::Fault;
use crate::neighbours::unavailable;
use clients::{ImageRecord, NetworkRecord};
use db::flavors::Record;
use db::instances::SecurityGroupRef;
use types::server::{Flavor, ImageRef, WantedInterface, WantedNetworks};

const GIB: u64 = 1 << 30;

impl CreateServer {
    /// Asks the database and the neighbours; a name that stands for nothing is refused as Nova refuses it.
    pub async fn resolve(&self, call: &Call) -> Result<Resolved, Fault> {
        let (flavor, key_data) = self.own_things(call).await?;
        let (boot, networks, groups) = tokio::join!(
            self.boot(call, &flavor),
            self.networks(call),
            self.groups(call)
        );
        let boot = boot?;
        let (networks, mut security_groups) = (networks?, groups?);
        if networks == WantedNetworks::None {
            security_groups.clear();
        }
        Ok(Resolved {
            flavor,
            kernels: Kernels::default(),
            boot,
            networks,
            security_groups,
            key_data,
        })
    }

    /// Flavor and key, from the compute database.
    async fn own_things(&self, call: &Call) -> Result<(Flavor, Option<String>), Fault> {
        let id = self.flavor.clone().into();
        let project = (!call.is_admin()).then(|| call.project().to_owned());
        let (user, key) = (call.caller.user_id.clone(), self.key_name.clone());
        let store = &call.api.deps.store;
        let looking = move |tx: &mut sql::Tx<'_>| -> Result<_, sql::Error> {
            let flavor = db::flavors::visible(tx, &id, project.as_deref())?;
            let key = match &key {
                Some(name) => Some(db::keypairs::get(tx, &user, name)?.map(|key| key.public_key)),
                None => None,
            };
            Ok((flavor, key))
        };
        let (flavor, key): (Option<Record>, Option<Option<String>>) = match self.key_name {
            Some(_) => store.look(looking).await?,
            None => store.look_once(looking).await?,
        };
        let flavor = flavor.ok_or_else(|| {
            Fault::bad_request(format!("Flavor {} could not be found.", self.flavor))
        })?;
        let key = match key {
            Some(None) => return Err(Fault::bad_request("Invalid key_name provided.")),
            Some(found) => found,
            None => None,
        };
        Ok((flavor.flavor, key))
    }

    async fn networks(&self, call: &Call) -> Result<WantedNetworks, Fault> {
        match &self.networks {
            NetworkWish::None => Ok(WantedNetworks::None),
            NetworkWish::Unsaid => self.the_only_network(call, false).await,
            NetworkWish::Auto => self.the_only_network(call, true).await,
            NetworkWish::These(interfaces) => {
                for interface in interfaces {
                    self.usable(call, interface).await?;
                }
                Ok(WantedNetworks::These(interfaces.clone()))
            }
        }
    }

    /// The network of a request that names none: there must be just one to choose.
    async fn the_only_network(&self, call: &Call, required: bool) -> Result<WantedNetworks, Fault> {
        let found = call
            .api
            .deps
            .networks
            .networks_for(&call.token, call.project())
            .await
            .map_err(unavailable)?;
        let found: Vec<NetworkRecord> = found
            .into_iter()
            .filter(|network| !network.subnets.is_empty() || !required)
            .collect();
        match found.as_slice() {
            [] if required => made_for(call).await,
            [] => Ok(WantedNetworks::None),
            [only] => {
                usable_network(call, only)?;
                let interface = WantedInterface::Network {
                    network_id: only.id.clone(),
                    fixed_ip: None,
                    tag: None,
                };
                Ok(WantedNetworks::These(vec![interface]))
            }
            _ => Err(Fault::conflict(
                "Multiple possible networks found, use a Network ID to be more specific.",
            )),
        }
    }

    async fn usable(&self, call: &Call, interface: &WantedInterface) -> Result<(), Fault> {
        match interface {
            WantedInterface::Network {
                network_id,
                fixed_ip,
                ..
            } => {
                let (free, found) = tokio::join!(
                    is_free(call, network_id, fixed_ip.as_deref()),
                    call.api.deps.networks.network(&call.token, network_id)
                );
                free?;
                let found = found.map_err(unavailable)?;
                let found = found.ok_or_else(|| {
                    Fault::bad_request(format!("Network {network_id} could not be found."))
                })?;
                usable_network(call, &found)
            }
            WantedInterface::Port { port_id, .. } => {
                let found = call
                    .api
                    .deps
                    .networks
                    .port(&call.token, port_id)
                    .await
                    .map_err(unavailable)?;
                let port = found.ok_or_else(|| {
                    Fault::bad_request(format!("Port id {port_id} could not be found."))
                })?;
                if port.project_id != call.project() && !call.is_admin() {
                    return Err(Fault::bad_request(format!(
                        "Port {port_id} not usable for instance."
                    )));
                }
                if !port.device_id.is_empty() {
                    return Err(Fault::conflict(format!("Port {port_id} is still in use.")));
                }
                let gets_none = ["deferred", "none"].contains(&port.ip_allocation.as_str());
                if port.fixed_ips.is_empty() && !gets_none {
                    return Err(Fault::bad_request(format!(
                        "Port {port_id} requires a FixedIP in order to be used."
                    )));
                }
                Ok(())
            }
        }
    }

    /// The groups named, or `default`. A server without networks is in none, but must not name one that is not there.
    async fn groups(&self, call: &Call) -> Result<Vec<SecurityGroupRef>, Fault> {
        let named = self.security_groups.iter().any(|name| name != "default");
        if self.networks == NetworkWish::None && !named {
            return Ok(Vec::new());
        }
        let all = call
            .api
            .deps
            .networks
            .security_groups(&call.token, call.project())
            .await
            .map_err(unavailable)?;
        if self.security_groups.is_empty() {
            let default = all.into_iter().find(|(_, name)| name == "default");
            return Ok(default
                .into_iter()
                .map(|(id, name)| SecurityGroupRef { id, name })
                .collect());
        }
        self.security_groups
            .iter()
            .map(|wanted| group(&all, wanted, call.project()))
            .collect()
    }
}

/// Refuses an address that another port of the network has. Nothing is asked where none is named.
pub(crate) async fn is_free(
    call: &Call,
    network_id: &str,
    address: Option<&str>,
) -> Result<(), Fault> {
    let Some(address) = address else {
        return Ok(());
    };
    let networks = &call.api.deps.networks;
    let device = networks.device_with(&call.token, network_id, address);
    match device.await.map_err(unavailable)? {
        Some(device) => Err(Fault::bad_request(format!(
            "Fixed IP address {address} is already in use on instance {device}."
        ))),
        None => Ok(()),
    }
}

/// A network that is made for the project. Whoever asks again, also another request at the same time, gets the same; so
/// it does no harm when this request fails later. What only asks makes none.
async fn made_for(call: &Call) -> Result<WantedNetworks, Fault> {
    let networks = &call.api.deps.networks;
    let made = networks.auto_allocate(&call.token, call.project(), call.dry_run);
    let made = made.await.map_err(unavailable)?.map_err(|reason| {
        Fault::bad_request(format!(
            "Unable to automatically allocate a network for project {}: {reason}",
            call.project()
        ))
    })?;
    Ok(WantedNetworks::These(vec![WantedInterface::Network {
        network_id: made,
        fixed_ip: None,
        tag: None,
    }]))
}

fn group(all: &[(String, String)], wanted: &str, project: &str) -> Result<SecurityGroupRef, Fault> {
    let found: Vec<&(String, String)> = match all.iter().find(|(id, _)| id == wanted) {
        Some(by_id) => vec![by_id],
        None => all.iter().filter(|(_, name)| name == wanted).collect(),
    };
    match found.as_slice() {
        [] => Err(Fault::bad_request(format!(
            "Security group {wanted} not found for project {project}."
        ))),
        [(id, name)] => Ok(SecurityGroupRef {
            id: id.clone(),
            name: name.clone(),
        }),
        _ => Err(Fault::conflict(format!(
            "Multiple security groups found matching '{wanted}'. Use an ID to be more specific."
        ))),
    }
}

fn usable_network(call: &Call, network: &NetworkRecord) -> Result<(), Fault> {
    if network.external && !network.shared && !call.may("network:attach_external_network") {
        return Err(Fault::forbidden(format!(
            "It is not allowed to create an interface on external network {}",
            network.id
        )));
    }
    if network.subnets.is_empty() {
        return Err(Fault::bad_request(format!(
            "Network {} requires a subnet in order to boot instances on.",
            network.id
        )));
    }
    Ok(())
}

/// Whether a server of this flavor can hold the image.
pub fn fits(call: &Call, flavor: &Flavor, image: &ImageRecord) -> Result<(), Fault> {
    let ImageRecord { image, status, .. } = image;
    if status != "active" {
        return Err(Fault::bad_request(format!(
            "Image {} is not active.",
            image.id
        )));
    }
    holds(call, flavor, image)
}

/// The same for an image that a server has, whatever has become of it in the image service.
pub fn holds(call: &Call, flavor: &Flavor, image: &ImageRef) -> Result<(), Fault> {
    if flavor.memory_mb < image.min_ram {
        return Err(Fault::bad_request(
            "Flavor's memory is too small for requested image.",
        ));
    }
    if flavor.root_gb == 0 {
        if !call.may("os_compute_api:servers:create:zero_disk_flavor") {
            return Err(Fault::forbidden(
                "Only volume-backed servers are allowed for flavors with zero disk.",
            ));
        }
        return Ok(());
    }
    let disk = u64::from(flavor.root_gb) * GIB;
    if image.size > disk {
        let size = image.size;
        return Err(Fault::bad_request(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {disk} bytes, image is {size} bytes."
        )));
    }
    if u64::from(image.min_disk) * GIB > disk {
        let least = u64::from(image.min_disk) * GIB;
        return Err(Fault::bad_request(format!(
            "Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {disk} bytes, minimum size is {least} bytes."
        )));
    }
    Ok(())
}
