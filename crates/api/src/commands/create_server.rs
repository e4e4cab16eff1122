//! A new server, as asked for: every difference between versions ends here.

use super::boot::Boot;
use super::editable;
use super::kernels::Kernels;
use super::wanted_devices::WantedDevices;
use crate::call::Call;
use crate::faults::Fault;
use crate::schemas::{formats, is_true, number};
use rand::Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use types::server::{Flavor, WantedInterface, WantedNetworks};

/// How many servers one request may make; a bound on the transaction, quotas are usually far lower.
const MOST_AT_ONCE: i64 = 1000;

/// Which networks the request named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkWish {
    /// None named (below 2.37), or an empty list.
    Unsaid,
    /// `auto`.
    Auto,
    /// `none`.
    None,
    /// These.
    These(Vec<WantedInterface>),
}

/// A request for new servers.
#[derive(Clone, Debug)]
pub struct CreateServer {
    /// `name`.
    pub name: String,
    /// The flavor's public id.
    pub flavor: String,
    /// The image's id; none when the body names none.
    pub image: Option<String>,
    /// The disks that it names.
    pub devices: WantedDevices,
    /// `metadata`.
    pub metadata: BTreeMap<String, String>,
    /// `networks`.
    pub networks: NetworkWish,
    /// Names or ids of security groups.
    pub security_groups: Vec<String>,
    /// `key_name`.
    pub key_name: Option<String>,
    /// Base64.
    pub user_data: Option<String>,
    /// `config_drive`.
    pub config_drive: bool,
    /// `description`; the name below 2.19.
    pub description: Option<String>,
    /// `hostname` (2.90).
    pub hostname: Option<String>,
    /// `tags` (2.52).
    pub tags: Vec<String>,
    /// `os:scheduler_hints`.
    pub hints: serde_json::Map<String, Value>,
    /// The zone asked for.
    pub zone: Option<String>,
    /// The host asked for, by `zone:host` or `host`.
    pub host: Option<String>,
    /// The hypervisor asked for, by `zone:host:node` or `hypervisor_hostname`; the host's, where both are named.
    pub node: Option<String>,
    /// It was named by `zone:host`, so that the scheduler's filters do not count.
    pub forced: bool,
    /// Servers at least.
    pub min_count: i64,
    /// Servers at most.
    pub max_count: i64,
    /// `accessIPv4`.
    pub access_ip_v4: Option<String>,
    /// `accessIPv6`.
    pub access_ip_v6: Option<String>,
    /// `OS-DCF:diskConfig`, true for `AUTO`.
    pub auto_disk_config: Option<bool>,
    /// The administrator's password in the guest.
    pub admin_pass: String,
    /// Answer a reservation id instead of a server.
    pub return_reservation_id: bool,
    /// Files for the guest, path and base64 (below 2.57).
    pub files: Vec<(String, String)>,
    /// `trusted_image_certificates` (2.63), else the cloud's own where it has some.
    pub trusted_certs: Option<Vec<String>>,
}

/// What the names in a request turned out to be.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The flavor as it is now.
    pub flavor: Flavor,
    /// What it boots from, and its disks.
    pub boot: Boot,
    /// The networks.
    pub networks: WantedNetworks,
    /// The security groups.
    pub security_groups: Vec<db::instances::SecurityGroupRef>,
    /// The public key.
    pub key_data: Option<String>,
    /// What it is booted with beside its disk.
    pub kernels: Kernels,
}

impl CreateServer {
    /// Reads a checked body.
    pub fn read(call: &Call) -> Result<Self, Fault> {
        let field = |name: &str| call.field("server", name);
        let text = |name: &str| call.text("server", name).map(str::to_owned);
        let name = text("name").unwrap_or_default().trim().to_owned();
        let min = field("min_count").and_then(number);
        let max = field("max_count").and_then(number);
        let min_count = min.unwrap_or(1);
        let max_count = max.unwrap_or(min_count);
        if min_count > MOST_AT_ONCE {
            return Err(Fault::bad_request(format!(
                "Invalid input for field/attribute min_count. Value: {min_count}. One request makes {MOST_AT_ONCE} servers at most."
            )));
        }
        if min_count > max_count {
            return Err(Fault::bad_request("min_count must be <= max_count"));
        }
        let place = place(call)?;
        let image = text("imageRef").filter(|image| !image.is_empty());
        let devices = WantedDevices::read(call, image.is_some())?;
        if image.is_none() && devices.is_empty() {
            return Err(Fault::bad_request("Missing imageRef attribute"));
        }
        let described = call.at_least(crate::mv::DESCRIPTION);
        let named_certs = trusted_certs(field("trusted_image_certificates"));
        let command = Self {
            flavor: flavor_id(field("flavorRef")),
            image,
            devices,
            metadata: texts(field("metadata")),
            networks: networks(call)?,
            security_groups: security_groups(field("security_groups")),
            key_name: text("key_name"),
            user_data: text("user_data").map(formats::strict_base64),
            config_drive: field("config_drive").is_some_and(is_true),
            description: if described {
                text("description")
            } else {
                Some(name.clone())
            },
            hostname: text("hostname"),
            tags: tags(field("tags")),
            hints: hints(call),
            forced: place.forced,
            zone: place.zone,
            host: place.host,
            node: place.node,
            min_count,
            max_count: max_count.min(MOST_AT_ONCE),
            access_ip_v4: editable::address(call, "server", "accessIPv4"),
            access_ip_v6: editable::address(call, "server", "accessIPv6"),
            auto_disk_config: editable::auto_disk_config(call, "server"),
            admin_pass: text("adminPass")
                .filter(|pass| !pass.is_empty())
                .unwrap_or_else(password),
            return_reservation_id: field("return_reservation_id").is_some_and(is_true),
            files: files(field("personality"))?,
            trusted_certs: call.api.config.signatures.kept(named_certs.clone()),
            name,
        };
        if named_certs.is_some() {
            call.require("os_compute_api:servers:create:trusted_certs")?;
        }
        command.consistent()?;
        Ok(command)
    }

    /// What cannot go together.
    fn consistent(&self) -> Result<(), Fault> {
        if self.hostname.is_some() && self.max_count > 1 {
            return Err(Fault::bad_request(
                "Unable to allocate a single hostname to multiple instances",
            ));
        }
        if self.trusted_certs.is_some() && self.image.is_none() {
            return Err(Fault::bad_request(
                "Image certificate validation is not supported when booting from volume",
            ));
        }
        let NetworkWish::These(interfaces) = &self.networks else {
            return Ok(());
        };
        if self.max_count == 1 {
            return Ok(());
        }
        for interface in interfaces {
            match interface {
                WantedInterface::Port { .. } => {
                    return Err(Fault::bad_request(
                        "Failed to launch multiple instances with a single configured port ID. Launch your instance one by one with \
                         different ports.",
                    ));
                }
                WantedInterface::Network {
                    fixed_ip: Some(_), ..
                } => {
                    return Err(Fault::bad_request(
                        "Invalid launch request: max_count must be 1 if a fixed_ip is specified.",
                    ));
                }
                WantedInterface::Network { .. } => {}
            }
        }
        Ok(())
    }
}

/// `personality`: files for the guest.
pub fn files(field: Option<&Value>) -> Result<Vec<(String, String)>, Fault> {
    let list = field.and_then(Value::as_array).into_iter().flatten();
    list.map(|file| {
        let text = |name: &str| {
            let text = file.get(name).and_then(Value::as_str).map(str::to_owned);
            text.ok_or_else(|| {
                Fault::bad_request(format!("A file of personality has no '{name}'."))
            })
        };
        Ok((text("path")?, text("contents")?))
    })
    .collect()
}

/// `trusted_image_certificates`: ids of certificates in the key manager.
pub fn trusted_certs(field: Option<&Value>) -> Option<Vec<String>> {
    let ids: Vec<String> = field?
        .as_array()?
        .iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    (!ids.is_empty()).then_some(ids)
}

/// Where the servers shall be.
#[derive(Default)]
struct Place {
    zone: Option<String>,
    host: Option<String>,
    node: Option<String>,
    forced: bool,
}

/// `host` and `hypervisor_hostname` (2.74).
fn requested(call: &Call) -> Result<Place, Fault> {
    let text = |name| call.text("server", name).map(str::to_owned);
    let place = Place {
        zone: None,
        host: text("host"),
        node: text("hypervisor_hostname"),
        forced: false,
    };
    if place.host.is_some() || place.node.is_some() {
        call.require("compute:servers:create:requested_destination")?;
    }
    Ok(place)
}

/// `zone`, `zone:host` or `zone:host:node`, or a host that is named otherwise.
fn place(call: &Call) -> Result<Place, Fault> {
    let requested = requested(call)?;
    let Some(text) = call.text("server", "availability_zone") else {
        return Ok(requested);
    };
    let mut parts = text
        .split(':')
        .map(|part| Some(part).filter(|part| !part.is_empty()));
    let mut next = || parts.next().flatten().map(str::to_owned);
    let (zone, host, node) = (next(), next(), next());
    if parts.next().is_some() {
        return Err(Fault::bad_request(
            "Unable to parse availability zone: expected zone, zone:host or zone:host:node",
        ));
    }
    if host.is_none() && node.is_none() {
        return Ok(Place { zone, ..requested });
    }
    call.require("os_compute_api:servers:create:forced_host")?;
    if requested.host.is_some() || requested.node.is_some() {
        return Err(Fault::bad_request(
            "One mechanism with host and/or node and another mechanism with zone:host:node are mutually exclusive.",
        ));
    }
    Ok(Place {
        zone,
        host,
        node,
        forced: true,
    })
}

fn flavor_id(value: Option<&Value>) -> String {
    let id = value
        .map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
        .unwrap_or_default();
    // A link to the flavor is taken too.
    id.rsplit('/').next().unwrap_or_default().to_owned()
}

fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn tags(value: Option<&Value>) -> Vec<String> {
    let mut tags: Vec<String> = value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|tag| tag.as_str().map(str::to_owned))
        .collect();
    tags.sort();
    tags.dedup();
    tags
}

fn security_groups(value: Option<&Value>) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for group in value.and_then(Value::as_array).into_iter().flatten() {
        if let Some(name) = group["name"]
            .as_str()
            .filter(|name| !groups.iter().any(|known| known == name))
        {
            groups.push(name.to_owned());
        }
    }
    groups
}

/// The user's hints; names that begin with `_` are the cloud's own.
fn hints(call: &Call) -> serde_json::Map<String, Value> {
    let given = ["os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"]
        .iter()
        .find_map(|name| call.body.get(*name)?.as_object());
    // A hint may be a list of one: the first of a list of groups counts.
    let plain = |name: &str, value: &Value| match value {
        Value::Array(list) if name == "group" => list.first().cloned().unwrap_or_default(),
        one => one.clone(),
    };
    given
        .into_iter()
        .flatten()
        .filter(|(name, _)| !name.starts_with('_'))
        .map(|(name, value)| (name.clone(), plain(name, value)))
        .collect()
}

fn networks(call: &Call) -> Result<NetworkWish, Fault> {
    let Some(value) = call.field("server", "networks") else {
        return Ok(NetworkWish::Unsaid);
    };
    match value.as_str() {
        Some("auto") => return Ok(NetworkWish::Auto),
        Some("none") => return Ok(NetworkWish::None),
        _ => {}
    }
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return Ok(NetworkWish::Unsaid);
    }
    call.require("os_compute_api:servers:create:attach_network")?;
    Ok(NetworkWish::These(
        list.iter().map(interface).collect::<Result<_, _>>()?,
    ))
}

fn interface(network: &Value) -> Result<WantedInterface, Fault> {
    let text = |name: &str| network[name].as_str().map(str::to_owned);
    if let Some(port_id) = text("port") {
        if network.get("fixed_ip").is_some() {
            return Err(Fault::bad_request(format!(
                "Specified Fixed IP cannot be used with port {port_id}: the two cannot be specified together."
            )));
        }
        return Ok(WantedInterface::Port {
            port_id,
            tag: text("tag"),
        });
    }
    let id = text("uuid").ok_or_else(|| {
        Fault::bad_request("Missing 'uuid' or 'port' in a network of the request")
    })?;
    if !crate::schemas::formats::uuid(&id) {
        return Err(Fault::bad_request(format!(
            "Bad networks format: network uuid is not in proper format ({id})"
        )));
    }
    Ok(WantedInterface::Network {
        network_id: id,
        fixed_ip: text("fixed_ip"),
        tag: text("tag"),
    })
}

/// Twelve characters that are not mistaken for each other, of three kinds.
pub fn password() -> String {
    const KINDS: [&[u8]; 3] = [
        b"23456789",
        b"ABCDEFGHJKLMNPQRSTUVWXYZ",
        b"abcdefghijkmnopqrstuvwxyz",
    ];
    let mut random = rand::rng();
    let all: Vec<u8> = KINDS.concat();
    let mut letters: Vec<u8> = KINDS
        .iter()
        .map(|kind| kind[random.random_range(0..kind.len())])
        .collect();
    while letters.len() < 12 {
        letters.push(all[random.random_range(0..all.len())]);
    }
    for index in (1..letters.len()).rev() {
        letters.swap(index, random.random_range(0..=index));
    }
    letters.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_every_kind() {
        for _ in 0..50 {
            let made = password();
            assert_eq!(made.len(), 12);
            assert!(
                made.bytes().any(|b| b.is_ascii_digit())
                    && made.bytes().any(|b| b.is_ascii_uppercase())
            );
            assert!(made.bytes().any(|b| b.is_ascii_lowercase()));
        }
    }
}
