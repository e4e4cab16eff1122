//! Which of the hosts that will do is best.

use crate::{GroupPolicy, HostState, Request, filters};
use serde::{Deserialize, Serialize};

/// How much each weigher counts. An aggregate's metadata of the same name as Nova's option (`ram_weight_multiplier`, ...)
/// takes precedence for its hosts; with several, the smallest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Free memory.
    pub ram: f64,
    /// Free vCPUs.
    pub cpu: f64,
    /// Free disk.
    pub disk: f64,
    /// Work going on; below zero prefers hosts with little.
    pub io_ops: f64,
    /// Builds that failed.
    pub build_failure: f64,
    /// Servers on the host; above zero prefers full hosts.
    pub num_instances: f64,
    /// Newer hypervisors.
    pub hypervisor_version: f64,
    /// Members of a soft-affinity group.
    pub soft_affinity: f64,
    /// Members of a soft-anti-affinity group.
    pub soft_anti_affinity: f64,
}

impl Default for Weights {
    /// Nova's defaults.
    fn default() -> Self {
        Self {
            ram: 1.0,
            cpu: 1.0,
            disk: 1.0,
            io_ops: -1.0,
            build_failure: 1_000_000.0,
            num_instances: 0.0,
            hypervisor_version: 1.0,
            soft_affinity: 1.0,
            soft_anti_affinity: 1.0,
        }
    }
}

struct Weigher {
    /// The option's name in an aggregate's metadata.
    option: &'static str,
    multiplier: fn(&Weights) -> f64,
    measure: fn(&HostState, &Request) -> f64,
}

const WEIGHERS: [Weigher; 9] = [
    Weigher {
        option: "ram_weight_multiplier",
        multiplier: |w| w.ram,
        measure: |host, _| host.free("MEMORY_MB") as f64,
    },
    Weigher {
        option: "cpu_weight_multiplier",
        multiplier: |w| w.cpu,
        measure: |host, _| host.free("VCPU") as f64,
    },
    Weigher {
        option: "disk_weight_multiplier",
        multiplier: |w| w.disk,
        measure: |host, _| host.free("DISK_GB") as f64,
    },
    Weigher {
        option: "io_ops_weight_multiplier",
        multiplier: |w| w.io_ops,
        measure: |host, _| host.io_ops as f64,
    },
    Weigher {
        option: "build_failure_weight_multiplier",
        multiplier: |w| w.build_failure,
        measure: |host, _| -(host.failed_builds as f64),
    },
    Weigher {
        option: "num_instances_weight_multiplier",
        multiplier: |w| w.num_instances,
        measure: |host, _| host.num_servers() as f64,
    },
    Weigher {
        option: "hypervisor_version_weight_multiplier",
        multiplier: |w| w.hypervisor_version,
        measure: |host, _| host.hypervisor_version as f64,
    },
    Weigher {
        option: "soft_affinity_weight_multiplier",
        multiplier: |w| w.soft_affinity,
        measure: |host, request| members(host, request, GroupPolicy::SoftAffinity),
    },
    Weigher {
        option: "soft_anti_affinity_weight_multiplier",
        multiplier: |w| w.soft_anti_affinity,
        measure: |host, request| -members(host, request, GroupPolicy::SoftAntiAffinity),
    },
];

fn members(host: &HostState, request: &Request, policy: GroupPolicy) -> f64 {
    match &request.group {
        Some(group) if group.policy == policy => filters::members_here(host, request) as f64,
        _ => 0.0,
    }
}

/// The weight of each host: each measure is brought to 0..1 over these hosts, multiplied, and added up.
pub(crate) fn weigh(hosts: &[&HostState], request: &Request, weights: &Weights) -> Vec<f64> {
    let mut sums = vec![0.0; hosts.len()];
    for weigher in &WEIGHERS {
        let measures: Vec<f64> = hosts
            .iter()
            .map(|host| (weigher.measure)(host, request))
            .collect();
        let low = measures.iter().copied().fold(f64::INFINITY, f64::min);
        let span = measures.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low;
        if span <= 0.0 {
            continue;
        }
        for ((sum, host), measure) in sums.iter_mut().zip(hosts).zip(measures) {
            *sum += multiplier(host, weigher, weights) * (measure - low) / span;
        }
    }
    sums
}

fn multiplier(host: &HostState, weigher: &Weigher, weights: &Weights) -> f64 {
    let own = host
        .aggregate_values(weigher.option)
        .filter_map(|value| value.parse::<f64>().ok())
        .filter(|value| value.is_finite());
    own.reduce(f64::min)
        .unwrap_or_else(|| (weigher.multiplier)(weights))
}
