//! What a server wants of its host.

use crate::{Demand, WrongHardware, demands};
use db::instances::Instance;
use std::collections::{BTreeMap, BTreeSet};
use types::image_properties::ImageProperties;
use types::server::{Flavor, ImageRef};
use types::{HostName, ProjectId, ServerId};

/// How the members of a server group are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPolicy {
    /// All on one host.
    Affinity,
    /// Each on a host of its own.
    AntiAffinity,
    /// On one host if possible.
    SoftAffinity,
    /// Apart if possible.
    SoftAntiAffinity,
}

impl GroupPolicy {
    /// The policy called so in the API.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "affinity" => Self::Affinity,
            "anti-affinity" => Self::AntiAffinity,
            "soft-affinity" => Self::SoftAffinity,
            "soft-anti-affinity" => Self::SoftAntiAffinity,
            _ => return None,
        })
    }
}

/// The server group that a new server joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its policy.
    pub policy: GroupPolicy,
    /// The members so far.
    pub members: BTreeSet<ServerId>,
    /// With anti-affinity: how many members one host may have (rule `max_server_per_host`, 2.64).
    pub max_server_per_host: u64,
}

impl Group {
    /// Whether a server of the group may go to `host` while the others are on `hosts` (one entry for each): what the
    /// transaction of the claim checks once more, because the filters saw a view that may be behind.
    pub fn admits(&self, host: &HostName, hosts: &[HostName]) -> bool {
        let here = hosts.iter().filter(|other| *other == host).count() as u64;
        match self.policy {
            GroupPolicy::Affinity => hosts.is_empty() || here > 0,
            GroupPolicy::AntiAffinity => here < self.max_server_per_host.max(1),
            GroupPolicy::SoftAffinity | GroupPolicy::SoftAntiAffinity => true,
        }
    }
}

/// What a server wants of its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Amounts by resource class.
    pub resources: BTreeMap<String, u64>,
    /// Traits that the host must have.
    pub required_traits: BTreeSet<String>,
    /// Traits that it must not have.
    pub forbidden_traits: BTreeSet<String>,
    /// The flavor's extra specs.
    pub extra_specs: BTreeMap<String, String>,
    /// The image's properties, as far as they can be understood.
    pub image: ImageProperties,
    /// The availability zone asked for.
    pub zone: Option<String>,
    /// Only this host (2.74, or forced).
    pub only_host: Option<HostName>,
    /// Only the node with this hypervisor host name.
    pub only_node: Option<String>,
    /// An administrator named the host with the availability zone: of the filters, only those of server groups count, and
    /// what the host has left.
    pub forced: bool,
    /// An administrator would have the host whatever filters say: only what it has left counts, and that it is up
    /// (`force` of an evacuation, up to 2.67).
    pub unfiltered: bool,
    /// On the host of one of these servers (hint `same_host`).
    pub same_host: BTreeSet<ServerId>,
    /// On a host with none of these servers (hint `different_host`).
    pub different_host: BTreeSet<ServerId>,
    /// The server group (hint `group`).
    pub group: Option<Group>,
    /// Where the servers are that the hints and the group name.
    pub places: BTreeMap<ServerId, HostName>,
    /// Hosts not wanted, for example the one that a server leaves.
    pub ignore_hosts: BTreeSet<HostName>,
    /// Hosts that have tried and failed.
    pub tried: BTreeSet<HostName>,
    /// Hosts that still have something of the server, which they are to remove.
    pub owing: BTreeSet<HostName>,
    /// The owner.
    pub project: Option<ProjectId>,
    /// What its guest runs on and must be able to go on on.
    pub runs_on: Option<RunsOn>,
    /// What it asks of its hardware that no host has. Only new servers, and those that get another flavor or image, are held
    /// against that: what runs goes on as it is.
    pub demands: Vec<Demand>,
}

/// The hypervisor that a guest runs on. One that moves while it runs can only go to the same kind, no older than this (Nova's
/// `LiveMigrationTask`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunsOn {
    /// `QEMU`, `fake`.
    pub hypervisor_type: String,
    /// As an integer, 7002000 for 7.2.0; none: it may be older.
    pub hypervisor_version: Option<u64>,
}

/// An extra spec that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flavor's extra spec {name} = '{value}' is wrong: {problem}")]
pub struct WrongRequest {
    /// The extra spec.
    pub name: String,
    /// What it says.
    pub value: String,
    /// Why that makes no sense.
    pub problem: &'static str,
}

impl Request {
    /// What a server wants; the rest is for the caller to fill in. One that boots from a volume has no root disk on its
    /// host.
    pub fn of(server: &Instance) -> Result<Self, WrongRequest> {
        let mut flavor = server.flavor.clone();
        if server.is_volume_backed() {
            flavor.root_gb = 0;
        }
        let mut request = Self::new(&flavor, server.image.as_ref())?;
        if let (None, Some(properties)) = (&server.image, server.image_properties()) {
            request.image = ImageProperties::readable(properties);
            request.require_tpm(&flavor, properties);
        }
        Ok(request)
    }

    /// What a server of this flavor and image wants; the rest is for the caller to fill in.
    ///
    /// Extra specs `resources:CLASS = n` replace the flavor's amount (0 leaves the class out), `trait:NAME` is
    /// `required` or `forbidden`; traits of an image (`trait:NAME = required`) are added.
    pub fn new(flavor: &Flavor, image: Option<&ImageRef>) -> Result<Self, WrongRequest> {
        let nothing = BTreeMap::new();
        let properties = image.map_or(&nothing, |image| &image.properties);
        let resources = flavor.claims().map_err(|name| WrongRequest {
            name: name.to_owned(),
            value: flavor.extra_specs.get(name).cloned().unwrap_or_default(),
            problem: "it must be a whole number",
        });
        let mut request = Self {
            resources: resources?,
            extra_specs: flavor.extra_specs.clone(),
            image: ImageProperties::readable(properties),
            ..Self::default()
        };
        for (name, value) in &flavor.extra_specs {
            request.apply(name, value)?;
        }
        let image_traits = request.image.traits.iter().cloned();
        request.required_traits.extend(image_traits);
        request.require_tpm(flavor, properties);
        Ok(request)
    }

    /// An emulated TPM is needed wherever the server goes. What cannot be meant was refused with its [`demands`].
    fn require_tpm(&mut self, flavor: &Flavor, image: &BTreeMap<String, String>) {
        if let Ok(Some(tpm)) = crate::tpm(flavor, image) {
            let wanted = crate::hardware::traits_for(tpm);
            self.required_traits.extend(wanted.map(str::to_owned));
        }
    }

    /// With what the flavor and the image's properties ask of the hardware.
    ///
    /// # Errors
    /// See [`demands`].
    pub fn demanding(
        mut self,
        flavor: &Flavor,
        image: &BTreeMap<String, String>,
    ) -> Result<Self, WrongHardware> {
        self.demands = demands(flavor, image)?;
        Ok(self)
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), WrongRequest> {
        let wrong = |problem| WrongRequest {
            name: name.to_owned(),
            value: value.to_owned(),
            problem,
        };
        if let Some(name) = name.strip_prefix("trait:") {
            let traits = match value {
                "required" => &mut self.required_traits,
                "forbidden" => &mut self.forbidden_traits,
                _ => return Err(wrong("it must be 'required' or 'forbidden'")),
            };
            traits.insert(name.to_owned());
        }
        Ok(())
    }
}
