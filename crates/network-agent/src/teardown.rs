//! Takes everything of a cloud off the machine.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::desired::Desired;
use crate::dnsmasq_process;
use crate::forward_policy;
use crate::machine::{Error, Machine, Space};
use crate::names;
use crate::observe::{self, Observed};
use crate::plan;

/// What [`teardown`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Interfaces, not counting what went with a namespace.
    pub links: Vec<String>,
    /// Namespaces.
    pub spaces: Vec<String>,
    /// nft tables.
    pub tables: Vec<String>,
}

/// Removes all bridges, taps, cables, namespaces, DHCP servers, nft tables and files of the
/// configured cloud, and nothing else. Repeatable. Needs no wanted state.
///
/// # Errors
/// When the machine cannot be looked at or something cannot be removed.
pub fn teardown(config: &Config) -> Result<Removed, Error> {
    let machine = Machine::new(config.root_netns.clone(), config.command_timeout);
    let links =
        observe::links(&machine.run(&Space::Host, &["ip", "-j", "-d", "addr", "show"], "")?)?;
    let own = machine
        .spaces()?
        .into_iter()
        .filter(|name| names::is_own_space(&config.cloud, name));
    let observed = Observed {
        links,
        floods: std::collections::BTreeMap::new(),
        spaces: own.map(|name| (name, None)).collect(),
    };
    let plan = plan::plan(
        &config.cloud,
        &Desired::default(),
        &std::collections::BTreeMap::new(),
        &observed,
    );
    for space in &plan.spaces_gone {
        dnsmasq_process::stop_in_space(&machine, space);
    }
    let text: String = plan
        .root
        .iter()
        .map(|step| format!("{}\n", step.line))
        .collect();
    if !text.is_empty() {
        machine.run(&Space::Host, &["ip", "-force", "-batch", "-"], &text)?;
    }
    forward_policy::close(&machine, &names::table(&config.cloud))?;
    let tables = remove_tables(config, &machine)?;
    dnsmasq_process::stop_others(config, &BTreeSet::new())?;
    dnsmasq_process::remove_dir(&config.state_dir)?;
    let links = plan
        .root
        .iter()
        .filter_map(|step| step.line.strip_prefix("link del dev ").map(str::to_owned));
    Ok(Removed {
        links: links.collect(),
        spaces: plan.spaces_gone,
        tables,
    })
}

fn remove_tables(config: &Config, machine: &Machine) -> Result<Vec<String>, Error> {
    let listed = machine.run(&Space::Host, &["nft", "list", "tables"], "")?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let own = names::table(&config.cloud);
    let wanted: BTreeSet<String> = ["bridge", "inet"]
        .map(|family| format!("table {family} {own}"))
        .into();
    let found: Vec<String> = listed
        .lines()
        .map(str::trim)
        .filter(|l| wanted.contains(*l))
        .map(str::to_owned)
        .collect();
    if !found.is_empty() {
        let text: String = found
            .iter()
            .map(|table| format!("delete {table}\n"))
            .collect();
        machine.run(&Space::Host, &["nft", "-f", "-"], &text)?;
    }
    Ok(found)
}
