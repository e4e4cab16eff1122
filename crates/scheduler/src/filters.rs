//! Whether a host will do: one pure function per filter, each with its reason.

use crate::{GroupPolicy, HostState, Reason, Request, Settings, specs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use types::ServerId;

/// A filter that can be switched on. Resources, hardware, traits, the zone, named and excluded
/// hosts are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Filter {
    /// Up and enabled.
    Compute,
    /// Extra specs `capabilities:*` and those without a scope.
    ComputeCapabilities,
    /// Architecture, hypervisor type and version, machine mode of the image.
    ImageProperties,
    /// Server groups with the policy anti-affinity.
    ServerGroupAntiAffinity,
    /// Server groups with the policy affinity.
    ServerGroupAffinity,
    /// The hint `same_host`.
    SameHost,
    /// The hint `different_host`.
    DifferentHost,
    /// Extra specs `aggregate_instance_extra_specs:*` and those without a scope.
    AggregateInstanceExtraSpecs,
    /// Aggregates kept for projects.
    AggregateMultiTenancyIsolation,
    /// So many servers at most.
    NumInstances,
    /// So much going on at most.
    IoOps,
}

const NAMES: [(Filter, &str); 11] = [
    (Filter::Compute, "ComputeFilter"),
    (Filter::ComputeCapabilities, "ComputeCapabilitiesFilter"),
    (Filter::ImageProperties, "ImagePropertiesFilter"),
    (
        Filter::ServerGroupAntiAffinity,
        "ServerGroupAntiAffinityFilter",
    ),
    (Filter::ServerGroupAffinity, "ServerGroupAffinityFilter"),
    (Filter::SameHost, "SameHostFilter"),
    (Filter::DifferentHost, "DifferentHostFilter"),
    (
        Filter::AggregateInstanceExtraSpecs,
        "AggregateInstanceExtraSpecsFilter",
    ),
    (
        Filter::AggregateMultiTenancyIsolation,
        "AggregateMultiTenancyIsolation",
    ),
    (Filter::NumInstances, "NumInstancesFilter"),
    (Filter::IoOps, "IoOpsFilter"),
];

impl Filter {
    /// The filter that Nova calls so in `enabled_filters`.
    pub fn parse(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(filter, _)| *filter)
    }

    /// Nova's name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(filter, _)| *filter == self)
            .map_or("", |(_, name)| name)
    }

    fn check(self, host: &HostState, request: &Request, settings: &Settings) -> Result<(), Reason> {
        match self {
            Self::Compute => compute(host),
            Self::ComputeCapabilities => compute_capabilities(host, request),
            Self::ImageProperties => image_properties(host, request),
            Self::ServerGroupAntiAffinity => anti_affinity(host, request),
            Self::ServerGroupAffinity => affinity(host, request),
            Self::SameHost => same_host(host, request),
            Self::DifferentHost => different_host(host, request),
            Self::AggregateInstanceExtraSpecs => aggregate_specs(host, request),
            Self::AggregateMultiTenancyIsolation => tenancy(host, request),
            Self::NumInstances => num_instances(host, settings),
            Self::IoOps => io_ops(host, settings),
        }
    }
}

/// Why the host will not do, if it will not.
pub(crate) fn check(
    host: &HostState,
    request: &Request,
    settings: &Settings,
) -> Result<(), Reason> {
    named(host, request)?;
    runs_on(host, request)?;
    if request.unfiltered {
        // It may be disabled, but a host that is down cannot build anything.
        refuse_if(!host.up, Reason::Down(host.down.clone()))?;
        hardware(request)?;
        return resources(host, request);
    }
    if request.forced {
        // Nova's scheduler leaves out what is disabled before any filter, and its hosts mind the groups.
        compute(host)?;
        hardware(request)?;
        resources(host, request)?;
        anti_affinity(host, request)?;
        return affinity(host, request);
    }
    zone(host, request)?;
    // Told first, as it is what an administrator can change.
    if settings.filters.contains(&Filter::Compute) {
        compute(host)?;
    }
    hardware(request)?;
    resources(host, request)?;
    traits(host, request)?;
    settings
        .filters
        .iter()
        .try_for_each(|filter| filter.check(host, request, settings))
}

fn refuse_if(refused: bool, reason: Reason) -> Result<(), Reason> {
    if refused { Err(reason) } else { Ok(()) }
}

fn named(host: &HostState, request: &Request) -> Result<(), Reason> {
    let other_host = request
        .only_host
        .as_ref()
        .is_some_and(|only| *only != host.host);
    let other_node = request
        .only_node
        .as_ref()
        .is_some_and(|only| *only != host.hypervisor_hostname);
    refuse_if(other_host || other_node, Reason::NotNamed)?;
    refuse_if(request.tried.contains(&host.host), Reason::Tried)?;
    refuse_if(request.owing.contains(&host.host), Reason::Owing)?;
    refuse_if(request.ignore_hosts.contains(&host.host), Reason::Ignored)
}

fn runs_on(host: &HostState, request: &Request) -> Result<(), Reason> {
    let Some(now) = &request.runs_on else {
        return Ok(());
    };
    let other = host.hypervisor_type != now.hypervisor_type;
    refuse_if(other, Reason::OtherHypervisor(now.hypervisor_type.clone()))?;
    match now.hypervisor_version {
        Some(version) if host.hypervisor_version < version => Err(Reason::OlderHypervisor(version)),
        _ => Ok(()),
    }
}

fn zone(host: &HostState, request: &Request) -> Result<(), Reason> {
    match &request.zone {
        Some(zone) if *zone != host.zone => Err(Reason::Zone(zone.clone())),
        _ => Ok(()),
    }
}

/// As Placement decides: enough left, within the smallest and largest amount for one consumer, in whole steps.
fn resources(host: &HostState, request: &Request) -> Result<(), Reason> {
    for (class, &need) in &request.resources {
        if host.free(class) < need {
            return Err(Reason::Short {
                class: clone(class),
                need,
            });
        }
        let Some(inventory) = host.inventory.get(class) else {
            continue;
        };
        if need < inventory.min_unit
            || need > inventory.max_unit
            || !need.is_multiple_of(inventory.step_size.max(1))
        {
            return Err(Reason::Unit {
                class: clone(class),
                need,
            });
        }
    }
    Ok(())
}

/// What Nova's `NUMATopologyFilter`, `PciPassthroughFilter` and traits decide: no host has any of it.
fn hardware(request: &Request) -> Result<(), Reason> {
    match request.demands.first() {
        Some(demand) => Err(Reason::Hardware(demand.clone())),
        None => Ok(()),
    }
}

fn clone(text: &str) -> String {
    text.to_owned()
}

fn traits(host: &HostState, request: &Request) -> Result<(), Reason> {
    let missing = request
        .required_traits
        .iter()
        .find(|name| !host.traits.contains(*name));
    let forbidden = request
        .forbidden_traits
        .iter()
        .find(|name| host.traits.contains(*name));
    missing
        .or(forbidden)
        .map_or(Ok(()), |name| Err(Reason::Trait(name.clone())))
}

fn compute(host: &HostState) -> Result<(), Reason> {
    refuse_if(host.disabled, Reason::Disabled)?;
    refuse_if(!host.up, Reason::Down(host.down.clone()))
}

/// The extra specs of a scope, and those without one; other scopes are for others.
fn scoped<'a>(request: &'a Request, scope: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    request
        .extra_specs
        .iter()
        .filter_map(move |(name, wanted)| {
            let path = match name.split_once(':') {
                Some((given, path)) if given == scope => path,
                Some(_) => return None,
                None => name,
            };
            Some((path, wanted.as_str()))
        })
}

fn compute_capabilities(host: &HostState, request: &Request) -> Result<(), Reason> {
    for (path, wanted) in scoped(request, "capabilities") {
        let steps: Vec<&str> = path.split(':').collect();
        let fits = host
            .capability(&steps)
            .is_some_and(|has| specs::satisfies(&has, wanted));
        refuse_if(!fits, Reason::Capability(clone(path)))?;
    }
    Ok(())
}

fn aggregate_specs(host: &HostState, request: &Request) -> Result<(), Reason> {
    for (name, wanted) in scoped(request, "aggregate_instance_extra_specs") {
        let fits = host
            .aggregate_values(name)
            .any(|has| specs::satisfies(&Value::from(has), wanted));
        refuse_if(!fits, Reason::AggregateSpecs(clone(name)))?;
    }
    Ok(())
}

/// Aggregates whose metadata has `filter_tenant_id` (or several, with any suffix) take only those projects.
fn tenancy(host: &HostState, request: &Request) -> Result<(), Reason> {
    let mut kept_for: BTreeSet<&str> = BTreeSet::new();
    for aggregate in &host.aggregates {
        let lists = aggregate
            .metadata
            .iter()
            .filter(|(name, _)| name.starts_with("filter_tenant_id"));
        kept_for.extend(lists.flat_map(|(_, value)| value.split(',').map(str::trim)));
    }
    let welcome = kept_for.is_empty()
        || request
            .project
            .as_ref()
            .is_some_and(|project| kept_for.contains(project.0.as_str()));
    refuse_if(!welcome, Reason::OtherProject)
}

fn image_properties(host: &HostState, request: &Request) -> Result<(), Reason> {
    let image = &request.image;
    let architecture = image.text("hw_architecture");
    let hypervisor = image.text("img_hv_type");
    let mode = image.text("hw_vm_mode");
    let matches = |wanted: Option<&str>, has: &str| {
        wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(has))
    };
    if architecture.is_some() || hypervisor.is_some() || mode.is_some() {
        let fits = host
            .supported
            .iter()
            .any(|(has_architecture, has_hypervisor, has_mode)| {
                let has_architecture = canonical_architecture(&has_architecture.to_lowercase());
                matches(architecture, &has_architecture)
                    && matches(hypervisor, has_hypervisor)
                    && matches(mode, has_mode)
            });
        refuse_if(!fits, Reason::Image)?;
    }
    let version = image.text("img_hv_requested_version");
    let fits =
        version.is_none_or(|wanted| specs::version_satisfies(host.hypervisor_version, wanted));
    refuse_if(!fits, Reason::Image)
}

fn canonical_architecture(name: &str) -> String {
    match name {
        "amd64" | "x86-64" => clone("x86_64"),
        "i386" | "i486" | "i586" | "x86" => clone("i686"),
        "arm64" => clone("aarch64"),
        other => clone(other),
    }
}

fn same_host(host: &HostState, request: &Request) -> Result<(), Reason> {
    refuse_if(
        !request.same_host.is_empty() && count_here(host, request, &request.same_host) == 0,
        Reason::SameHost,
    )
}

fn different_host(host: &HostState, request: &Request) -> Result<(), Reason> {
    refuse_if(
        count_here(host, request, &request.different_host) > 0,
        Reason::DifferentHost,
    )
}

/// How many members of the request's group are on the host.
pub(crate) fn members_here(host: &HostState, request: &Request) -> u64 {
    request
        .group
        .as_ref()
        .map_or(0, |group| count_here(host, request, &group.members))
}

/// How many of these servers are on the host.
fn count_here(host: &HostState, request: &Request, servers: &BTreeSet<ServerId>) -> u64 {
    let is_here = |server: &&ServerId| {
        host.servers.contains(server) || request.places.get(server) == Some(&host.host)
    };
    servers.iter().filter(is_here).count() as u64
}

/// The first member may go anywhere; the view names the hosts of the others only through their servers.
fn affinity(host: &HostState, request: &Request) -> Result<(), Reason> {
    match &request.group {
        Some(group) if group.policy == GroupPolicy::Affinity && !group.members.is_empty() => {
            refuse_if(members_here(host, request) == 0, Reason::Affinity)
        }
        _ => Ok(()),
    }
}

fn anti_affinity(host: &HostState, request: &Request) -> Result<(), Reason> {
    match &request.group {
        Some(group) if group.policy == GroupPolicy::AntiAffinity => refuse_if(
            members_here(host, request) >= group.max_server_per_host.max(1),
            Reason::AntiAffinity,
        ),
        _ => Ok(()),
    }
}

/// The smallest number that the host's aggregates have under `name`, else `otherwise`.
fn limit(host: &HostState, name: &str, otherwise: u64) -> u64 {
    host.aggregate_values(name)
        .filter_map(|value| value.parse().ok())
        .min()
        .unwrap_or(otherwise)
}

fn num_instances(host: &HostState, settings: &Settings) -> Result<(), Reason> {
    let most = limit(
        host,
        "max_instances_per_host",
        settings.max_instances_per_host,
    );
    refuse_if(host.num_servers() >= most, Reason::TooManyServers)
}

fn io_ops(host: &HostState, settings: &Settings) -> Result<(), Reason> {
    let most = limit(host, "max_io_ops_per_host", settings.max_io_ops_per_host);
    refuse_if(host.io_ops >= most, Reason::TooBusy)
}
