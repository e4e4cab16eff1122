//! The extra specs of flavors that are known (`extra_specs.txt`), and the verdict on names and values from 2.86 on.
//!
//! A name without a namespace, or of a namespace that nobody knows, is free.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

const TABLE: &str = include_str!("extra_specs.txt");
const GROUP: &str = "([a-zA-Z0-9_-]{1,64})?";
const CUSTOM: &str = "CUSTOM_[A-Z0-9_]+";

/// What a value must be.
#[derive(Debug)]
enum Kind {
    Text,
    Boolean,
    Integer {
        least: Option<i64>,
        most: Option<i64>,
    },
    OneOf(Vec<&'static str>),
    /// The pattern as it is written, and as all of a value is held against it.
    Like(&'static str, Regex),
}

/// A line whose name has parts that differ.
#[derive(Debug)]
struct Family {
    name: Regex,
    kind: Kind,
}

#[derive(Debug, Default)]
struct Table {
    exact: BTreeMap<&'static str, Kind>,
    families: Vec<Family>,
    /// The namespaces of exact names; those of families follow from their patterns.
    namespaces: BTreeSet<&'static str>,
    /// The namespaces that a group may follow.
    grouped: Vec<Regex>,
}

static KNOWN: LazyLock<Result<Table, String>> = LazyLock::new(|| read(TABLE));

fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
}

fn read(text: &'static str) -> Result<Table, String> {
    let mut table = Table::default();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("no value: {line}"))?;
        let kind = kind(value.trim()).map_err(|error| format!("{line}: {error}"))?;
        if let Some((namespace, _)) = name.split_once(':') {
            match namespace.split_once('{') {
                Some((stem, _)) => table.grouped.push(whole(&format!("{stem}{GROUP}"))?),
                None => _ = table.namespaces.insert(namespace),
            }
        }
        if name.contains('{') {
            let name = family(name)?;
            table.families.push(Family { name, kind });
        } else {
            table.exact.insert(name, kind);
        }
    }
    Ok(table)
}

fn kind(value: &'static str) -> Result<Kind, String> {
    let (word, rest) = value.split_once(' ').unwrap_or((value, ""));
    Ok(match word {
        "text" => Kind::Text,
        "boolean" => Kind::Boolean,
        "integer" => {
            let (least, most) = rest.split_once("..").unwrap_or_default();
            let bound = |text: &str| -> Result<Option<i64>, String> {
                if text.is_empty() {
                    return Ok(None);
                }
                text.parse().map(Some).map_err(|_| format!("bound {text}"))
            };
            Kind::Integer {
                least: bound(least)?,
                most: bound(most)?,
            }
        }
        "one" => Kind::OneOf(rest.split(' ').skip(1).collect()),
        "like" => Kind::Like(rest, whole(rest)?),
        _ => return Err(format!("unknown kind {word}")),
    })
}

/// The pattern of a name with parts in braces.
fn family(name: &str) -> Result<Regex, String> {
    let standard = |names: Vec<&str>| format!("({}|{CUSTOM})", names.join("|"));
    let mut pattern = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('{') {
        pattern.push_str(&regex::escape(before));
        let (part, behind) = after
            .split_once('}')
            .ok_or_else(|| format!("{name} has no closing brace"))?;
        pattern.push_str(&match part {
            "number" => r"\d+".to_owned(),
            "key" => ".+".to_owned(),
            "path" => r"(:\w+)*".to_owned(),
            "group" => GROUP.to_owned(),
            "class" => standard(types::standard::CLASSES.to_vec()),
            "trait" => standard(types::standard::traits().collect()),
            _ => return Err(format!("{name} has an unknown part {part}")),
        });
        rest = behind;
    }
    pattern.push_str(&regex::escape(rest));
    whole(&pattern)
}

impl Kind {
    fn check(&self, value: &str) -> Result<(), String> {
        let complaint = match self {
            Self::Text => return Ok(()),
            Self::Boolean => {
                let word = value.trim().to_lowercase();
                let known = [
                    "1", "t", "true", "on", "y", "yes", "0", "f", "false", "off", "n", "no",
                ];
                if known.contains(&word.as_str()) {
                    return Ok(());
                }
                "is not a valid boolean-like value.".to_owned()
            }
            Self::Integer { least, most } => {
                let number = integer(value).ok_or_else(|| {
                    format!("Validation failed; '{value}' is not a valid integer value.")
                })?;
                match (least, most) {
                    (_, Some(most)) if number > i128::from(*most) => {
                        format!("is greater than the max value of '{most}'.")
                    }
                    (Some(least), _) if number < i128::from(*least) => {
                        format!("is less than the min value of '{least}'.")
                    }
                    _ => return Ok(()),
                }
            }
            Self::OneOf(words) if words.contains(&value) => return Ok(()),
            Self::OneOf(words) => format!("is not one of: {}.", words.join(", ")),
            Self::Like(_, pattern) if pattern.is_match(value) => return Ok(()),
            Self::Like(text, _) => format!("is not of the format '{text}'."),
        };
        Err(format!("Validation failed; '{value}' {complaint}"))
    }
}

/// A whole number as Python reads it: blanks around it, a sign, and single underscores between digits. One that is too
/// long for any bound is the greatest or least there is.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let mut parts = digits.split('_');
    if !parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let plain: String = digits.chars().filter(|one| *one != '_').collect();
    let number = plain.parse().unwrap_or(i128::MAX);
    Some(if negative { -number } else { number })
}

/// Why a flavor cannot have this extra spec, in Nova's words.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let table = KNOWN.as_ref().map_err(Clone::clone)?;
    if let Some(kind) = table.exact.get(name) {
        return kind.check(value);
    }
    if let Some(family) = table
        .families
        .iter()
        .find(|family| family.name.is_match(name))
    {
        return family.kind.check(value);
    }
    let Some((namespace, _)) = name.split_once(':') else {
        return Ok(());
    };
    let known = table.namespaces.contains(namespace)
        || table.grouped.iter().any(|one| one.is_match(namespace));
    if !known {
        return Ok(());
    }
    Err(format!(
        "Validation failed; extra spec '{name}' does not appear to be a valid extra spec."
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every line counts once; a standard class or trait is a name of its own, and so are all custom ones together.
    #[test]
    fn as_many_names_as_nova_knows() {
        let table = KNOWN.as_ref().unwrap();
        let standard = types::standard::CLASSES.len() + types::standard::traits().count();
        let families = table.families.len();
        assert_eq!(table.exact.len() + families + standard, 525);
    }

    #[test]
    fn good_ones() {
        for (name, value) in [
            ("free", "x"),
            ("mine:free", "x"),
            ("hw:cpu_policy", "mixed"),
            ("hw:cpu_realtime", " YES "),
            ("hw:cpu_realtime_mask", "^0-1"),
            ("hw:cpu_dedicated_mask", "0-3,^1,7"),
            ("hw:mem_page_size", "2MiB"),
            ("hw:mem_page_size", "large"),
            ("hw:numa_nodes", " +1_0 "),
            ("hw:numa_cpus.12", "0,2-3"),
            ("hw:numa_mem.0", "512"),
            ("hw:redirected_usb_ports", "15"),
            ("hw:tpm_version", "2.0"),
            ("hide_hypervisor_id", "off"),
            ("group_policy", "none"),
            ("quota:cpu_quota", "-1"),
            (
                "quota:vif_outbound_burst",
                "99999999999999999999999999999999999999999",
            ),
            ("resources:VCPU", "2"),
            ("resources1:CUSTOM_GOLD", "1"),
            ("resources_net-1:NET_BW_EGR_KILOBIT_PER_SEC", "1000"),
            ("trait:HW_CPU_X86_AVX2", "required"),
            ("trait_a:CUSTOM_X", "forbidden"),
            ("capabilities:vcpus", ">= 4"),
            ("capabilities:cpu_info:topology:cores", "4"),
            ("capabilities:stats", "x"),
            ("aggregate_instance_extra_specs:ssd", "true"),
            ("pci_passthrough:alias", "gpu:1, nic:2"),
            ("os:secure_boot", "required"),
            ("hw:pmem", "6GB,SMALL"),
        ] {
            assert_eq!(check(name, value), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn bad_ones() {
        let unknown =
            |name: &str| format!("extra spec '{name}' does not appear to be a valid extra spec.");
        for (name, value, wanted) in [
            ("hw:cpu_polizy", "x", unknown("hw:cpu_polizy")),
            ("hw:numa_cpus.a", "0", unknown("hw:numa_cpus.a")),
            ("hw:numa_cpus.", "0", unknown("hw:numa_cpus.")),
            (
                "trait:HW_CPU_X86_AVX9",
                "required",
                unknown("trait:HW_CPU_X86_AVX9"),
            ),
            ("trait:CUSTOM_", "required", unknown("trait:CUSTOM_")),
            (
                "traits:CUSTOM_A b",
                "required",
                unknown("traits:CUSTOM_A b"),
            ),
            ("resources:VCPUS", "1", unknown("resources:VCPUS")),
            (
                "resources:VCPU",
                "few",
                "'few' is not a valid integer value.".into(),
            ),
            (
                "resources:VCPU",
                "1.0",
                "'1.0' is not a valid integer value.".into(),
            ),
            (
                "trait:HW_CPU_X86_AVX2",
                "yes",
                "'yes' is not one of: required, forbidden.".into(),
            ),
            (
                "hw:cpu_policy",
                "Dedicated",
                "'Dedicated' is not one of: dedicated, shared, mixed.".into(),
            ),
            (
                "hw:numa_nodes",
                "0",
                "'0' is less than the min value of '1'.".into(),
            ),
            (
                "hw:redirected_usb_ports",
                "16",
                "'16' is greater than the max value of '15'.".into(),
            ),
            (
                "hw:boot_menu",
                "maybe",
                "'maybe' is not a valid boolean-like value.".into(),
            ),
            (
                "hw:mem_page_size",
                "big",
                r"'big' is not of the format '(large|small|any|\d+([kKMGT]i?)?(b|bit|B)?)'.".into(),
            ),
            (
                "hw_rng:rate_bytes",
                "-1",
                "'-1' is less than the min value of '0'.".into(),
            ),
            (
                "hw:numa_mem.1",
                "_1",
                "'_1' is not a valid integer value.".into(),
            ),
            (
                "pci_passthrough:alias",
                "gpu",
                r"'gpu' is not of the format '[^:]+:\d+(?:\s*,\s*[^:]+:\d+)*'.".into(),
            ),
            ("capabilities:bogus", "x", unknown("capabilities:bogus")),
            ("vmware:x", "x", unknown("vmware:x")),
        ] {
            let wanted = format!("Validation failed; {wanted}");
            assert_eq!(check(name, value), Err(wanted), "{name}={value}");
        }
    }
}
