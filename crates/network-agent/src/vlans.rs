//! VLANs of trunks where the kernel has no VLAN links (8021q): slim kernels, and containers that
//! cannot load modules.
//!
//! A port that a trunk carries is then a cable. Its outer end has the port's name and is in the
//! bridge of the port's network, so that it is filtered as any port is. Its inner end and the
//! trunk's tap are joined by two programs of the packet classifier ([`crate::classifier`]): one takes
//! frames of the VLAN off the tap, one gives the tap what comes out of the cable.
//!
//! The interfaces are planned as all others. The programs come after them, because they name each
//! other's interface by its number; the inner end is up only when its program is there, since what it
//! lets by would reach the host. A program's name says what it does, so that looking at the names
//! is enough. One file for each is in [`folder`], from before it is loaded until it is gone:
//! an agent that starts again knows by them that there may be programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use crate::classifier::{OURS, Program};
use crate::config::{CloudId, Config};
use crate::desired::{Desired, LinkKind};
use crate::machine::Error;
use crate::observe::{BadOutput, SeenLink};
use crate::plan::Step;

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The interface.
    pub link: String,
    /// Its place among the interface's programs.
    pub place: u16,
    /// What it does.
    pub program: Program,
    /// The port it is for.
    pub port: Uuid,
}

/// What was found on interfaces that can have programs: places, and names of programs that are ours.
pub type Seen = BTreeMap<String, BTreeSet<(u16, Option<String>)>>;

/// Programs that should be, and ports of which an interface is missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The programs.
    pub filters: Vec<Filter>,
    /// Port, and the name of the interface.
    pub missing: Vec<(Uuid, String)>,
}

/// Where the programs' files are.
#[must_use]
pub fn folder(config: &Config) -> PathBuf {
    config.state_dir.join("vlans")
}

/// Works out the programs for the interfaces that are there.
#[must_use]
pub fn wanted(desired: &Desired, links: &BTreeMap<String, SeenLink>) -> Wanted {
    let mut all = Wanted::default();
    for link in desired.links.values() {
        let LinkKind::VlanCable { parent, id, inner } = &link.kind else {
            continue;
        };
        let port = link.object;
        let (tap, end) = (links.get(parent), links.get(inner));
        let (Some(tap), Some(end)) = (tap, end) else {
            let missing = if tap.is_none() { parent } else { inner };
            all.missing.push((port, missing.clone()));
            continue;
        };
        let (vlan, to_end, to_tap) = (*id, end.index, tap.index);
        for (link, place, program) in [
            (parent, vlan, Program::Pop { vlan, to: to_end }),
            (inner, 1, Program::Push { vlan, to: to_tap }),
        ] {
            all.filters.push(Filter {
                link: link.clone(),
                place,
                program,
                port,
            });
        }
    }
    all
}

/// Lines for `tc` from what is there to what should be.
#[must_use]
pub fn plan(wanted: &[Filter], seen: &Seen, folder: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    for (link, programs) in seen {
        let mut ours = programs.iter().filter(|(_, name)| name.is_some());
        let of_link = || wanted.iter().filter(|filter| filter.link == *link);
        let mut push = |line| {
            let object = Uuid::nil();
            steps.push(Step { line, object });
        };
        if of_link().next().is_none() && !programs.is_empty() && ours.clone().eq(programs) {
            // They go with it.
            push(format!("qdisc del dev {link} clsact"));
            continue;
        }
        ours.by_ref()
            .filter(|(place, _)| of_link().all(|filter| filter.place != *place))
            .for_each(|(place, _)| push(format!("filter del dev {link} ingress pref {place}")));
    }
    let mut hooks: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    for filter in wanted {
        let Filter { link, place, .. } = filter;
        let name = filter.program.name();
        let there = seen.get(link);
        if there.is_some_and(|programs| programs.contains(&(*place, Some(name.clone())))) {
            continue;
        }
        let object = filter.port;
        if hooks.insert(link) {
            let line = format!("qdisc add dev {link} clsact");
            steps.push(Step { line, object });
        }
        let file = file(folder, &filter.program);
        let line = format!(
            "filter replace dev {link} ingress pref {place} handle 1 bpf direct-action object-file {} section {name}",
            file.display()
        );
        steps.push(Step { line, object });
    }
    steps
}

/// Lines for `ip` that put the inner ends to work whose programs are there.
#[must_use]
pub fn ends(
    desired: &Desired,
    links: &BTreeMap<String, SeenLink>,
    good: impl Fn(&Uuid) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for link in desired.links.values() {
        let LinkKind::VlanCable { inner, .. } = &link.kind else {
            continue;
        };
        let Some(seen) = links.get(inner).filter(|_| good(&link.object)) else {
            continue;
        };
        let mut words = String::new();
        if seen.mtu != link.mtu {
            words += &format!(" mtu {}", link.mtu);
        }
        if !seen.up {
            // It is nobody's neighbour.
            words += " addrgenmode none arp off up";
        }
        if !words.is_empty() {
            let line = format!("link set dev {inner}{words}");
            let object = link.object;
            steps.push(Step { line, object });
        }
    }
    steps
}

#[derive(Deserialize)]
struct RawQueue {
    kind: String,
    dev: Option<String>,
}

#[derive(Deserialize)]
struct RawFilter {
    pref: u16,
    options: Option<RawOptions>,
}

#[derive(Deserialize)]
struct RawOptions {
    bpf_name: Option<String>,
}

/// Reads `tc -j qdisc show`: which of this cloud's interfaces, or of those that should have programs, can have them.
///
/// # Errors
/// When the text is not what `tc` prints.
pub fn hooks(
    json: &[u8],
    cloud: &CloudId,
    links: &BTreeMap<String, SeenLink>,
    wanted: &[Filter],
) -> Result<BTreeSet<String>, BadOutput> {
    let own = |name: &String| {
        let alias = links.get(name).and_then(|link| link.alias.as_ref());
        alias.is_some_and(|alias| alias.cloud == cloud.as_str())
            || wanted.iter().any(|filter| filter.link == *name)
    };
    let queues: Vec<RawQueue> = serde_json::from_slice(json)?;
    let found = queues
        .into_iter()
        .filter(|queue| queue.kind == "clsact")
        .filter_map(|queue| queue.dev);
    Ok(found.filter(own).collect())
}

/// Reads what `tc -j -batch` prints for one `filter show` after the other.
///
/// # Errors
/// When the text is not what `tc` prints.
pub fn seen(json: &[u8], links: &BTreeSet<String>) -> Result<Seen, BadOutput> {
    let lists = serde_json::Deserializer::from_slice(json).into_iter::<Vec<RawFilter>>();
    let mut all = Seen::new();
    for (link, list) in links.iter().zip(lists) {
        let found = list?.into_iter();
        // Each place is named once more, without any options.
        let found = found.filter_map(|filter| Some((filter.pref, our_name(&filter.options?))));
        all.insert(link.clone(), found.collect());
    }
    Ok(all)
}

/// From "FILE:[SECTION]".
fn our_name(options: &RawOptions) -> Option<String> {
    let full = options.bpf_name.as_deref()?;
    let (_, name) = full.strip_suffix(']')?.rsplit_once('[')?;
    name.starts_with(OURS).then(|| name.to_owned())
}

fn file(folder: &Path, program: &Program) -> PathBuf {
    folder.join(format!("{}.o", program.name()))
}

/// Writes the files of programs.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn write(folder: &Path, filters: &[Filter]) -> Result<(), Error> {
    for filter in filters {
        let path = file(folder, &filter.program);
        fs::write(&path, filter.program.object_file()).map_err(Error::file(&path))?;
    }
    Ok(())
}

/// Removes the files of all other programs, and the folder with the last of them.
///
/// # Errors
/// When one cannot be removed.
pub(crate) fn tidy(folder: &Path, filters: &[Filter]) -> Result<(), Error> {
    if filters.is_empty() {
        return crate::dnsmasq_process::remove_dir(folder);
    }
    let keep: BTreeSet<PathBuf> = filters.iter().map(|f| file(folder, &f.program)).collect();
    for entry in fs::read_dir(folder).map_err(Error::file(folder))?.flatten() {
        let path = entry.path();
        if !keep.contains(&path) {
            fs::remove_file(&path).map_err(Error::file(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "vlans_tests.rs"]
mod tests;
