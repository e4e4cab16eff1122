//! A server (API reference, "Servers").

use super::{Fields, View};
use crate::commands::editable::disk_config;
use crate::links::{Link, Links};
use crate::mv;
use db::instances::Instance;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha224};
use std::fmt::Write;
use std::sync::Arc;
use types::agent::GuestImage;
use types::{Timestamp, VmState, states};

/// What the caller may see beyond the ordinary fields: decided once for each request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    /// `os-extended-server-attributes`.
    pub extended: bool,
    /// `servers:show:flavor-extra-specs`.
    pub extra_specs: bool,
    /// Details of faults.
    pub fault_details: bool,
}

/// A server in full.
pub struct ServerView {
    /// The server.
    pub instance: Instance,
    /// Where links begin.
    pub links: Arc<Links>,
    /// What the caller may see.
    pub sight: Sight,
    /// `UP`, `DOWN`, `MAINTENANCE`, `UNKNOWN` or empty; `None` is hidden.
    pub host_status: Option<&'static str>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its volumes, and whether they go with it.
    pub volumes: Vec<(String, bool)>,
    /// Its groups; `None` in lists, which do not show them.
    pub groups: Option<Vec<String>>,
    /// False for the short answer to PUT below 2.75.
    pub full: bool,
}

impl ServerView {
    fn status(&self) -> &'static str {
        states::status(self.instance.vm_state, self.instance.task_state)
    }
}

/// sha224 of project and host, so that owners can tell hosts apart without knowing them.
pub fn host_id(instance: &Instance) -> String {
    let Some(host) = &instance.host else {
        return String::new();
    };
    let mut hash = Sha224::new();
    hash.update(instance.project_id.as_str());
    hash.update(host.as_str());
    let mut text = [0; 56];
    let written = hex::encode_to_slice(hash.finalize(), &mut text);
    debug_assert!(written.is_ok(), "a digest has 28 bytes");
    String::from_utf8(text.to_vec()).unwrap_or_default()
}

/// What the guest is called on its host.
pub fn domain(instance: &Instance) -> String {
    format!("instance-{:08x}", instance.number)
}

fn seconds(at: Timestamp) -> String {
    at.iso_seconds_z()
}

impl View for ServerView {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let server = &self.instance;
        let id = server.id.to_string();
        let status = self.status();
        out.always("id", &id)?;
        out.always("name", &server.display_name)?;
        out.always("status", status)?;
        out.always("tenant_id", &server.project_id)?;
        out.always("user_id", &server.user_id)?;
        out.always("metadata", &server.metadata)?;
        out.always("hostId", &host_id(server))?;
        out.always(
            "image",
            &ImageOf {
                view: self,
                with_properties: out.version() >= mv::IMAGE_PROPERTIES,
            },
        )?;
        out.always(
            "flavor",
            &FlavorOf {
                view: self,
                embedded: out.version() >= mv::FLAVOR_EMBEDDED,
            },
        )?;
        out.always("created", &seconds(server.created_at))?;
        out.always(
            "updated",
            &seconds(server.updated_at.unwrap_or(server.created_at)),
        )?;
        out.always(
            "addresses",
            &Addresses {
                server,
                extended: self.full || out.version() >= mv::STRICT,
            },
        )?;
        out.always(
            "accessIPv4",
            server.access_ip_v4.as_deref().unwrap_or_default(),
        )?;
        out.always(
            "accessIPv6",
            server.access_ip_v6.as_deref().unwrap_or_default(),
        )?;
        out.always("links", &self.links.pair("servers", &id))?;
        out.always(
            "OS-DCF:diskConfig",
            disk_config(server.kept.auto_disk_config),
        )?;
        if matches!(
            status,
            "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE" | "MIGRATING"
        ) {
            out.always("progress", &server.progress)?;
        }
        if self.full || out.version() >= mv::STRICT {
            self.whole(out)?;
        }
        if let Some(fault) = server
            .fault
            .as_ref()
            .filter(|_| matches!(status, "ERROR" | "DELETED"))
        {
            let details = fault
                .details
                .as_deref()
                .filter(|_| self.sight.fault_details || fault.code != 500);
            out.always(
                "fault",
                &Fault {
                    code: fault.code,
                    created: seconds(fault.created),
                    message: &fault.message,
                    details,
                },
            )?;
        }
        out.since(mv::LOCKED, "locked", &server.locked)?;
        out.since(mv::DESCRIPTION, "description", &server.description)?;
        out.since(mv::TAGS, "tags", &self.tags)?;
        out.since(
            mv::TRUSTED_CERTS,
            "trusted_image_certificates",
            &server.kept.trusted_certs,
        )?;
        out.maybe(mv::SERVER_GROUPS, "server_groups", self.groups.as_ref())?;
        out.since(mv::LOCKED_REASON, "locked_reason", &server.locked_reason)?;
        out.since(
            mv::PINNED_ZONE,
            "pinned_availability_zone",
            &server.pinned_zone,
        )?;
        out.since(
            mv::SCHEDULER_HINTS,
            "scheduler_hints",
            &Hints(&server.scheduler_hints),
        )
    }
}

impl ServerView {
    /// The fields that came as extensions.
    fn whole<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        let server = &self.instance;
        out.always(
            "OS-EXT-AZ:availability_zone",
            server.availability_zone.as_deref().unwrap_or_default(),
        )?;
        out.always(
            "config_drive",
            if server.config_drive { "True" } else { "" },
        )?;
        out.always("key_name", &server.key_name)?;
        out.always(
            "OS-SRV-USG:launched_at",
            &server.launched_at.map(Timestamp::iso_micros),
        )?;
        out.always(
            "OS-SRV-USG:terminated_at",
            &server.terminated_at.map(Timestamp::iso_micros),
        )?;
        if !server.security_groups.is_empty() {
            out.always("security_groups", &SecurityGroups(server))?;
        }
        out.always("OS-EXT-STS:task_state", &server.task_state)?;
        out.always("OS-EXT-STS:vm_state", &server.vm_state)?;
        out.always("OS-EXT-STS:power_state", &server.power_state.code())?;
        let volumes = Volumes {
            all: &self.volumes,
            with_ends: out.version() >= mv::MORE_SERVER_ATTRIBUTES,
        };
        out.always("os-extended-volumes:volumes_attached", &volumes)?;
        if self.sight.extended {
            out.always("OS-EXT-SRV-ATTR:host", &server.host)?;
            out.always("OS-EXT-SRV-ATTR:hypervisor_hostname", &server.node)?;
            out.always("OS-EXT-SRV-ATTR:instance_name", &domain(server))?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:reservation_id",
                &server.reservation_id,
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:launch_index",
                &server.launch_index,
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:hostname",
                &server.hostname,
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:kernel_id",
                &id_of(server.kept.kernel.as_ref()),
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:ramdisk_id",
                &id_of(server.kept.ramdisk.as_ref()),
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:root_device_name",
                &server.root_device_name,
            )?;
            out.since(
                mv::MORE_SERVER_ATTRIBUTES,
                "OS-EXT-SRV-ATTR:user_data",
                &server.user_data,
            )?;
        } else {
            out.since(mv::HOSTNAME, "OS-EXT-SRV-ATTR:hostname", &server.hostname)?;
        }
        out.maybe(mv::HOST_STATUS, "host_status", self.host_status.as_ref())
    }
}

/// The id of a kernel or a RAM disk; nothing where there is none.
pub fn id_of(image: Option<&GuestImage>) -> String {
    image.map_or_else(String::new, |image| image.id.to_string())
}

#[derive(Serialize)]
struct Fault<'a> {
    code: u16,
    created: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
}

/// The volumes that a server has; since 2.3 with whether they go with it.
struct Volumes<'a> {
    all: &'a [(String, bool)],
    with_ends: bool,
}

impl Serialize for Volumes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Volume<'a> {
            id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            delete_on_termination: Option<bool>,
        }
        serializer.collect_seq(self.all.iter().map(|(id, goes)| Volume {
            id,
            delete_on_termination: self.with_ends.then_some(*goes),
        }))
    }
}

struct SecurityGroups<'a>(&'a Instance);

impl Serialize for SecurityGroups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
        }
        serializer.collect_seq(
            self.0
                .security_groups
                .iter()
                .map(|group| Named { name: &group.name }),
        )
    }
}

/// The user's hints: names that begin with `_` are the cloud's own.
struct Hints<'a>(&'a Value);

impl Serialize for Hints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !name.starts_with('_')),
        )
    }
}

struct ImageOf<'a> {
    view: &'a ServerView,
    with_properties: bool,
}

impl Serialize for ImageOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(image) = &self.view.instance.image else {
            return serializer.serialize_str("");
        };
        let id = image.id.to_string();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &id)?;
        map.serialize_entry("links", &self.view.links.bookmark_only("images", &id))?;
        if self.with_properties {
            map.serialize_entry("properties", &image.properties)?;
        }
        map.end()
    }
}

struct FlavorOf<'a> {
    view: &'a ServerView,
    embedded: bool,
}

impl Serialize for FlavorOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flavor = &self.view.instance.flavor;
        let mut map = serializer.serialize_map(None)?;
        if self.embedded {
            map.serialize_entry("vcpus", &flavor.vcpus)?;
            map.serialize_entry("ram", &flavor.memory_mb)?;
            map.serialize_entry("disk", &flavor.root_gb)?;
            map.serialize_entry("ephemeral", &flavor.ephemeral_gb)?;
            map.serialize_entry("swap", &flavor.swap_mb)?;
            map.serialize_entry("original_name", &flavor.name)?;
            if self.view.sight.extra_specs {
                map.serialize_entry("extra_specs", &flavor.extra_specs)?;
            }
        } else {
            map.serialize_entry("id", &flavor.id)?;
            map.serialize_entry(
                "links",
                &self.view.links.bookmark_only("flavors", flavor.id.as_str()),
            )?;
        }
        map.end()
    }
}

/// Addresses by network name; networks of one name are one entry.
pub struct Addresses<'a> {
    /// The server.
    pub server: &'a Instance,
    /// With kinds and MAC addresses.
    pub extended: bool,
}

impl Serialize for Addresses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let interfaces = &self.server.network_info;
        for (index, interface) in interfaces.iter().enumerate() {
            if interfaces[..index]
                .iter()
                .any(|earlier| earlier.network_name == interface.network_name)
            {
                continue;
            }
            let of = AddressesOf {
                server: self.server,
                network: &interface.network_name,
                extended: self.extended,
            };
            map.serialize_entry(&interface.network_name, &of)?;
        }
        map.end()
    }
}

/// The addresses on the networks of one name.
pub struct AddressesOf<'a> {
    /// The server.
    pub server: &'a Instance,
    /// The name.
    pub network: &'a str,
    /// With kinds and MAC addresses.
    pub extended: bool,
}

impl Serialize for AddressesOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            version: u8,
            addr: &'a str,
            #[serde(rename = "OS-EXT-IPS:type", skip_serializing_if = "Option::is_none")]
            kind: Option<&'a str>,
            #[serde(
                rename = "OS-EXT-IPS-MAC:mac_addr",
                skip_serializing_if = "Option::is_none"
            )]
            mac: Option<&'a str>,
        }
        let mut list = serializer.serialize_seq(None)?;
        for interface in self
            .server
            .network_info
            .iter()
            .filter(|interface| interface.network_name == self.network)
        {
            for address in &interface.addresses {
                list.serialize_element(&Shown {
                    version: address.version,
                    addr: &address.ip,
                    kind: self.extended.then_some(address.kind.as_str()),
                    mac: self.extended.then_some(interface.mac.as_str()),
                })?;
            }
        }
        list.end()
    }
}

/// A server in a list without details.
pub struct ServerName {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
    /// Its links.
    pub links: [Link; 2],
}

impl View for ServerName {
    fn fields<M: SerializeMap>(&self, out: &mut Fields<M>) -> Result<(), M::Error> {
        out.always("id", &self.id)?;
        out.always("name", &self.name)?;
        out.always("links", &self.links)
    }
}

/// Whether a server is gone or going, for those who look at one by its id.
pub fn is_visible(instance: &Instance) -> bool {
    !instance.deleted && instance.vm_state != VmState::Deleted
}

/// `r-` and eight characters, shared by the servers of one request.
pub fn reservation_id(random: u64) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::from("r-");
    let mut rest = random;
    for _ in 0..8 {
        let _ = write!(text, "{}", LETTERS[(rest % 36) as usize] as char);
        rest /= 36;
    }
    text
}
