//! What the scheduler knows of a host.

use crate::Down;
use db::placement::Inventory;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use types::{HostName, NodeId, ServerId};

/// A host aggregate that a host is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Its name.
    pub name: String,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
}

/// A compute node as the scheduler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HostState {
    /// The agent's host.
    pub host: HostName,
    /// The compute node, which is also its resource provider.
    pub node: NodeId,
    /// The hypervisor's own name.
    pub hypervisor_hostname: String,
    /// `QEMU`, `fake`.
    pub hypervisor_type: String,
    /// As an integer, 7002000 for 7.2.0.
    pub hypervisor_version: u64,
    /// The address of the host.
    pub host_ip: String,
    /// The API's `cpu_info` object.
    pub cpu_info: Value,
    /// The agent beats, nothing is wrong there, nobody forced it down.
    pub up: bool,
    /// Why not, where it is not up.
    pub down: Down,
    /// Takes no new servers.
    pub disabled: bool,
    /// The availability zone.
    pub zone: String,
    /// The aggregates that the host is in.
    pub aggregates: Vec<Aggregate>,
    /// What it has and what is used of it, by resource class.
    pub inventory: BTreeMap<String, Inventory>,
    /// How many servers it had when it was read.
    pub counted: u64,
    /// The servers that were noted here since then. Where all others are is in no host's state: there may be very many;
    /// [`Request::places`](crate::Request::places) has those that matter.
    pub servers: BTreeSet<ServerId>,
    /// Builds, resizes, snapshots and the like that are going on.
    pub io_ops: u64,
    /// Builds that failed there since the last one that worked.
    pub failed_builds: u64,
    /// `(architecture, hypervisor type, machine mode)` that guests may have.
    pub supported: Vec<(String, String, String)>,
    /// Traits of the resource provider.
    pub traits: BTreeSet<String>,
}

impl HostState {
    /// What is left of a resource class; 0 for a class that the host does not have.
    pub fn free(&self, class: &str) -> u64 {
        self.inventory.get(class).map_or(0, |inventory| {
            inventory.capacity().saturating_sub(inventory.used)
        })
    }

    /// The number of servers on the host.
    pub fn num_servers(&self) -> u64 {
        self.counted + self.servers.len() as u64
    }

    /// Takes a server's resources, as a claim will: for the next server of the same request.
    pub fn consume(&mut self, server: ServerId, resources: &BTreeMap<String, u64>) {
        if !self.servers.insert(server) {
            return;
        }
        self.io_ops += 1;
        for (class, amount) in resources {
            if let Some(inventory) = self.inventory.get_mut(class) {
                inventory.used = inventory.used.saturating_add(*amount);
            }
        }
    }

    /// Gives back what a server took by [`HostState::consume`].
    pub fn give_back(&mut self, server: ServerId, resources: &BTreeMap<String, u64>) {
        if !self.servers.remove(&server) {
            return;
        }
        for (class, amount) in resources {
            if let Some(inventory) = self.inventory.get_mut(class) {
                inventory.used = inventory.used.saturating_sub(*amount);
            }
        }
    }

    /// The values that the host's aggregates have under `name`; a value may list several with commas.
    pub(crate) fn aggregate_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self
            .aggregates
            .iter()
            .filter_map(move |aggregate| aggregate.metadata.get(name));
        values.flat_map(|value| value.split(',').map(str::trim))
    }

    /// What extra specs call a host's capability; a path leads into `cpu_info`.
    pub(crate) fn capability(&self, path: &[&str]) -> Option<Value> {
        let total = |class: &str| {
            self.inventory
                .get(class)
                .map_or(0, |inventory| inventory.total)
        };
        let used = |class: &str| {
            self.inventory
                .get(class)
                .map_or(0, |inventory| inventory.used)
        };
        let (first, rest) = path.split_first()?;
        let value = match *first {
            "host" => self.host.0.clone().into(),
            "nodename" | "hypervisor_hostname" => self.hypervisor_hostname.clone().into(),
            "hypervisor_type" => self.hypervisor_type.clone().into(),
            "hypervisor_version" => self.hypervisor_version.into(),
            "host_ip" => self.host_ip.clone().into(),
            "free_ram_mb" => self.free("MEMORY_MB").into(),
            "total_usable_ram_mb" => total("MEMORY_MB").into(),
            "free_disk_mb" => (self.free("DISK_GB").saturating_mul(1024)).into(),
            "disk_mb_used" => (used("DISK_GB").saturating_mul(1024)).into(),
            "total_usable_disk_gb" => total("DISK_GB").into(),
            "vcpus_total" => total("VCPU").into(),
            "vcpus_used" => used("VCPU").into(),
            "num_instances" => self.num_servers().into(),
            "num_io_ops" => self.io_ops.into(),
            "cpu_info" => self.cpu_info.clone(),
            _ => return None,
        };
        rest.iter()
            .try_fold(value, |value, name| value.get(*name).cloned())
    }
}
