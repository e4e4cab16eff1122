//! NUMA nodes of a guest.

use super::cpus::Policy;
use super::{Checked, Demand, Guest, wrong};
use std::collections::BTreeSet;
use types::cpu_set::{self, MOST_CPUS};

/// Nodes that can be described one by one at most; Nova looks at no more.
const MOST: usize = 128;

fn nodes(guest: Guest<'_>) -> Checked<Option<(u32, String)>> {
    let of_image = guest.image.number("hw_numa_nodes").map(|n| n.to_string());
    let (text, name) = match (guest.spec("hw:numa_nodes"), of_image) {
        (Some(_), Some(_)) => return wrong(overridden("hw_numa_nodes")),
        (Some(text), None) => (text.to_owned(), "hw:numa_nodes"),
        (None, Some(text)) => (text, "hw_numa_nodes"),
        (None, None) => return Ok(None),
    };
    match text.parse::<u32>() {
        Ok(count) if count > 0 => Ok(Some((count, format!("{name}={text}")))),
        _ => wrong(format!(
            "The property 'numa_nodes' cannot be '{text}'. It must be a number greater than 0"
        )),
    }
}

fn overridden(name: &str) -> String {
    format!(
        "Image property '{name}' is not permitted to override NUMA configuration set against the flavor"
    )
}

/// What is said of each node under `key.0`, `key.1` and so on by the flavor, or else by the image.
fn of_nodes<T: Clone>(
    guest: Guest<'_>,
    key: &str,
    of_image: &[T],
    read: impl Fn(&str) -> Checked<T>,
) -> Checked<Option<Vec<T>>> {
    let texts = (0..MOST).map_while(|node| guest.spec(&format!("hw:{key}.{node}")));
    let flavor: Vec<T> = texts.map(read).collect::<Checked<_>>()?;
    match (flavor.is_empty(), of_image.is_empty()) {
        (false, false) => wrong(overridden(&format!("hw_{key}"))),
        (false, true) => Ok(Some(flavor)),
        (true, false) => Ok(Some(of_image.to_vec())),
        (true, true) => Ok(None),
    }
}

fn megabytes(text: &str) -> Checked<i64> {
    text.parse().map_or_else(
        |_| wrong(format!("Invalid memory of a NUMA node '{text}'")),
        Ok,
    )
}

/// Checks the nodes as Nova's `numa_get_constraints` does; more than one is a demand.
pub(super) fn constraints(guest: Guest<'_>, policy: Option<Policy>) -> Checked<Option<Demand>> {
    let asked = nodes(guest)?;
    let pages = guest.spec("hw:mem_page_size").is_some();
    let own_cpus = matches!(policy, Some(Policy::Dedicated | Policy::Mixed));
    if asked.is_none() && !pages && !own_cpus && guest.spec("hw:pmem").is_none() {
        // What is said of nodes counts only where there are any; as for Nova, whose guest has none then.
        return Ok(None);
    }
    let count = asked.as_ref().map_or(1, |(count, _)| *count);
    let image = guest.image;
    let cpus = of_nodes(guest, "numa_cpus", &image.numa_cpus, |text| {
        Ok(cpu_set::parse(text)?)
    })?;
    let memory = of_nodes(guest, "numa_mem", &image.numa_mem, megabytes)?;
    match (cpus, memory) {
        (None, None) => {
            let flavor = guest.flavor;
            if !flavor.vcpus.is_multiple_of(count) || !flavor.memory_mb.is_multiple_of(count) {
                return wrong(
                    "Instance CPUs and/or memory cannot be evenly distributed across instance NUMA nodes. Explicit assignment of CPUs \
                     and memory to nodes is required",
                );
            }
        }
        (Some(cpus), Some(memory))
            if cpus.len() == count as usize && memory.len() == count as usize =>
        {
            assigned(guest, &cpus, &memory)?;
        }
        _ => return wrong("CPU and memory allocation must be provided for all NUMA nodes"),
    }
    let several = asked.filter(|(count, _)| *count > 1);
    Ok(several.map(|(_, spec)| Demand {
        spec,
        what: "several NUMA nodes for one guest",
    }))
}

/// Every CPU and all memory belong to just one node.
fn assigned(guest: Guest<'_>, cpus: &[BTreeSet<u32>], memory: &[i64]) -> Checked<()> {
    let mut left: BTreeSet<u32> = (0..guest.flavor.vcpus.min(MOST_CPUS)).collect();
    let most = guest.flavor.vcpus.saturating_sub(1);
    for cpu in cpus.iter().flatten() {
        if *cpu > most {
            return wrong(format!("CPU number {cpu} is larger than max {most}"));
        }
        if !left.remove(cpu) {
            return wrong(format!("CPU number {cpu} is assigned to two nodes"));
        }
    }
    if !left.is_empty() {
        let left: Vec<String> = left.iter().map(u32::to_string).collect();
        let left = left.join(", ");
        return wrong(format!("CPU number {{{left}}} is not assigned to any node"));
    }
    let (given, all) = (
        memory
            .iter()
            .fold(0, |sum: i64, one| sum.saturating_add(*one)),
        i64::from(guest.flavor.memory_mb),
    );
    if given != all {
        return wrong(format!(
            "{given} MB of memory assigned, but expected {all} MB"
        ));
    }
    Ok(())
}
