//! The whole decision: filter, weigh, order.

use crate::{Filter, HostState, Refusal, Request, Weights, filters, weighers};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use types::{HostName, NodeId};

/// How the scheduler decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The filters that are on, in this order.
    pub filters: Vec<Filter>,
    /// How much each weigher counts.
    pub weights: Weights,
    /// The first candidate is a random one of so many best hosts. More than 1 helps many schedulers that run at once.
    pub host_subset_size: usize,
    /// For [`Filter::NumInstances`].
    pub max_instances_per_host: u64,
    /// For [`Filter::IoOps`].
    pub max_io_ops_per_host: u64,
    /// The zone of hosts that no aggregate puts elsewhere (`[DEFAULT] default_availability_zone`).
    pub default_zone: String,
}

impl Default for Settings {
    /// Nova's default filters with those for scheduler hints, which do nothing without a hint.
    fn default() -> Self {
        Self {
            filters: vec![
                Filter::Compute,
                Filter::ComputeCapabilities,
                Filter::ImageProperties,
                Filter::ServerGroupAntiAffinity,
                Filter::ServerGroupAffinity,
                Filter::SameHost,
                Filter::DifferentHost,
            ],
            weights: Weights::default(),
            host_subset_size: 1,
            max_instances_per_host: 50,
            max_io_ops_per_host: 8,
            default_zone: "nova".to_owned(),
        }
    }
}

/// A host that will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The agent's host.
    pub host: HostName,
    /// The compute node.
    pub node: NodeId,
    /// The hypervisor's own name.
    pub hypervisor_hostname: String,
    /// The availability zone.
    pub zone: String,
    /// How good it is; means something only beside the others.
    pub weight: f64,
}

/// The hosts that will do, the best first, or why none will. Hosts of equal weight are in random order.
pub fn select<'a>(
    hosts: impl IntoIterator<Item = &'a HostState>,
    request: &Request,
    settings: &Settings,
    rng: &mut impl Rng,
) -> Result<Vec<Candidate>, Refusal> {
    let mut fit: Vec<&HostState> = Vec::new();
    let mut refused = Vec::new();
    for host in hosts {
        match filters::check(host, request, settings) {
            Ok(()) => fit.push(host),
            Err(reason) => refused.push((reason, host.host.clone())),
        }
    }
    if fit.is_empty() {
        return Err(Refusal::new(refused));
    }
    // The same hosts and the same chance give the same order, however the hosts came.
    fit.sort_by(|a, b| (&a.host, a.node).cmp(&(&b.host, b.node)));
    fit.shuffle(rng);
    let weights = weighers::weigh(&fit, request, &settings.weights);
    let mut order: Vec<(usize, f64)> = weights.into_iter().enumerate().collect();
    // Stable: equal weights stay shuffled.
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let subset = settings.host_subset_size.clamp(1, order.len());
    let first = rng.random_range(0..subset);
    order[..=first].rotate_right(1);
    Ok(order
        .into_iter()
        .map(|(index, weight)| candidate(fit[index], weight))
        .collect())
}

fn candidate(host: &HostState, weight: f64) -> Candidate {
    Candidate {
        host: host.host.clone(),
        node: host.node,
        hypervisor_hostname: host.hypervisor_hostname.clone(),
        zone: host.zone.clone(),
        weight,
    }
}
