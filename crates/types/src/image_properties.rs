//! The properties of images that mean something to compute, and their values (Nova's `ImageMetaProps`, as of release 34;
//! "Useful image properties" in Glance's documentation).
//!
//! Whoever needs one reads it here: the API before it takes a request in, the scheduler, the driver on the host. So what
//! is accepted is what can be understood later. Properties that are not known here are anybody's.

mod kinds;
mod table;

#[cfg(test)]
mod tests;

pub use kinds::says_yes;

use crate::cpu_set;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// NUMA nodes that are looked at at most (`hw_numa_cpus.N`, `hw_numa_mem.N`).
const MOST_NODES: usize = 128;

/// A property with a value that it cannot have. The reason is in Nova's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid image metadata. Error: {problem} (image property {name})")]
pub struct WrongProperty {
    /// The property, as the image calls it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Why it cannot be that.
    pub problem: String,
}

/// What a property says.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Text(String),
    Flag(bool),
    Number(i64),
    List(Vec<Json>),
}

/// The known properties of an image, understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageProperties {
    said: BTreeMap<&'static str, Said>,
    /// Names of traits that a host must have (`trait:NAME = required`).
    pub traits: BTreeSet<String>,
    /// CPUs of each NUMA node (`hw_numa_cpus.N`).
    pub numa_cpus: Vec<BTreeSet<u32>>,
    /// MiB of each NUMA node (`hw_numa_mem.N`).
    pub numa_mem: Vec<i64>,
}

impl ImageProperties {
    /// All that is known of an image.
    ///
    /// # Errors
    /// The first property whose value makes no sense.
    pub fn parse(raw: &BTreeMap<String, String>) -> Result<Self, WrongProperty> {
        let mut read = Self::default();
        read.read(raw, &|_| true, &mut Err)?;
        Ok(read)
    }

    /// Only some properties: what is wrong with others does not matter.
    ///
    /// # Errors
    /// The first of these whose value makes no sense.
    pub fn only(raw: &BTreeMap<String, String>, names: &[&str]) -> Result<Self, WrongProperty> {
        let mut read = Self::default();
        read.read(raw, &|name| names.contains(&name), &mut Err)?;
        Ok(read)
    }

    /// What makes sense of it; of a server that was accepted before anybody looked, the rest is left out.
    pub fn readable(raw: &BTreeMap<String, String>) -> Self {
        let mut read = Self::default();
        // Nothing is wrong here.
        let _ = read.read(raw, &|_| true, &mut |_| Ok(()));
        read
    }

    /// A text, or a value of a list of choices. One that is empty says nothing.
    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(table::is_known(name), "{name} is in the table");
        match self.said.get(name) {
            Some(Said::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A yes or no.
    pub fn flag(&self, name: &str) -> Option<bool> {
        debug_assert!(table::is_known(name), "{name} is in the table");
        match self.said.get(name) {
            Some(Said::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<i64> {
        debug_assert!(table::is_known(name), "{name} is in the table");
        match self.said.get(name) {
            Some(Said::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A list of documents.
    pub fn list(&self, name: &str) -> &[Json] {
        debug_assert!(table::is_known(name), "{name} is in the table");
        match self.said.get(name) {
            Some(Said::List(list)) => list,
            _ => &[],
        }
    }

    /// Reads what is `wanted`, first by the names of old, which the names of today overrule. What is wrong goes to
    /// `complain`, which says whether to go on.
    fn read(
        &mut self,
        raw: &BTreeMap<String, String>,
        wanted: &dyn Fn(&str) -> bool,
        complain: &mut dyn FnMut(WrongProperty) -> Result<(), WrongProperty>,
    ) -> Result<(), WrongProperty> {
        let old = table::OLD_NAMES.iter().copied();
        let today = table::KNOWN.iter().map(|(name, _)| (*name, *name));
        let adapter = adapter_of_old(raw);
        let all = old
            .filter_map(|(name, now)| Some((name, now, raw.get(name)?.as_str())))
            .chain(adapter)
            .chain(today.filter_map(|(name, now)| Some((name, now, raw.get(name)?.as_str()))));
        for (name, now, value) in all.filter(|(_, now, _)| wanted(now)) {
            let Some((now, kind)) = table::KNOWN.iter().find(|(known, _)| *known == now) else {
                continue;
            };
            match kind.read(now, name, value) {
                Ok(said) => drop(self.said.insert(now, said)),
                Err(problem) => complain(wrong(name, value, problem))?,
            }
        }
        if wanted(NUMA_CPUS) {
            for (name, value) in of_nodes(raw, NUMA_CPUS) {
                match cpu_set::parse(value) {
                    Ok(cpus) => self.numa_cpus.push(cpus),
                    Err(problem) => complain(wrong(&name, value, problem.to_string()))?,
                }
            }
        }
        if wanted(NUMA_MEM) {
            for (name, value) in of_nodes(raw, NUMA_MEM) {
                match kinds::integer(value) {
                    Ok(size) => self.numa_mem.push(size),
                    Err(problem) => complain(wrong(&name, value, problem))?,
                }
            }
        }
        let traits = raw.iter().filter(|(_, value)| *value == "required");
        let traits = traits.filter_map(|(name, _)| name.strip_prefix("trait:"));
        self.traits = traits.map(str::to_owned).collect();
        Ok(())
    }
}

const NUMA_CPUS: &str = "hw_numa_cpus";
const NUMA_MEM: &str = "hw_numa_mem";

fn wrong(name: &str, value: &str, problem: String) -> WrongProperty {
    WrongProperty {
        name: name.to_owned(),
        value: value.to_owned(),
        problem,
    }
}

/// `vmware_adaptertype`, which says two things at once.
fn adapter_of_old(
    raw: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
    const NAME: &str = "vmware_adaptertype";
    let adapter = raw.get(NAME).map(String::as_str);
    let adapter = adapter.filter(|adapter| !adapter.is_empty());
    let bus = adapter.map(|adapter| if adapter == "ide" { "ide" } else { "scsi" });
    let model = adapter.filter(|adapter| *adapter != "ide");
    let bus = bus.map(|bus| (NAME, "hw_disk_bus", bus));
    bus.into_iter()
        .chain(model.map(|model| (NAME, "hw_scsi_model", model)))
}

/// What is said of each node under `key.0`, `key.1` and so on.
fn of_nodes<'a>(
    raw: &'a BTreeMap<String, String>,
    key: &'static str,
) -> impl Iterator<Item = (String, &'a str)> {
    (0..MOST_NODES).map_while(move |node| {
        let name = format!("{key}.{node}");
        let value = raw.get(&name)?;
        Some((name, value.as_str()))
    })
}
