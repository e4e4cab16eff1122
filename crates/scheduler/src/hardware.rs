//! What a flavor's extra specs and an image's properties ask of a guest's hardware that hosts of this cloud do not have:
//! CPUs and memory of its own, devices of the host, encryption, UEFI. What cannot be meant is refused in the words
//! of Nova (its `virt/hardware.py`); the rest is a demand that no host satisfies, so that nobody gets a guest without what
//! they rely on.
//!
//! What changes nothing that a guest or its owner relies on is no demand: shared CPUs, small pages, one NUMA node. Nor is an
//! emulated TPM, which hosts can have: it is asked for by traits, as in Nova.

mod cpus;
mod memory;
mod numa;

use std::collections::{BTreeMap, BTreeSet};
use types::server::Flavor;
use types::tpm::{self, Model, Security, Version};

/// Something that no host has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// What asks for it, as `name=value`.
    pub spec: String,
    /// What it is, after "without".
    pub what: &'static str,
}

/// What cannot be meant, in Nova's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongHardware(pub String);

type Checked<T> = Result<T, WrongHardware>;

fn wrong<T>(words: impl Into<String>) -> Checked<T> {
    Err(WrongHardware(words.into()))
}

/// A flavor and the properties of an image.
#[derive(Clone, Copy)]
struct Guest<'a> {
    flavor: &'a Flavor,
    image: &'a BTreeMap<String, String>,
}

/// The demands of a guest, each once, the order is that of the checks.
///
/// # Errors
/// In Nova's words, if the two cannot be meant so, or not together.
pub fn demands(flavor: &Flavor, image: &BTreeMap<String, String>) -> Checked<Vec<Demand>> {
    let guest = Guest { flavor, image };
    memory::encryption(guest)?;
    let cpus = cpus::constraints(guest)?;
    let nodes = numa::constraints(guest, cpus.policy)?;
    let mut all = Vec::new();
    all.extend(cpus.demand);
    all.extend(nodes);
    all.extend(memory::demands(guest)?);
    all.extend(devices(guest)?);
    let mut seen = BTreeSet::new();
    all.retain(|one| seen.insert(one.clone()));
    Ok(all)
}

impl<'a> Guest<'a> {
    /// An extra spec, if it says anything.
    fn spec(self, name: &str) -> Option<&'a str> {
        let value = self.flavor.extra_specs.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    fn property(self, name: &str) -> Option<&'a str> {
        let value = self.image.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The values of `hw:key` and `hw_key`.
    fn both(self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        (
            self.spec(&format!("hw:{key}")),
            self.property(&format!("hw_{key}")),
        )
    }

    /// The one value of a pair that must not contradict itself.
    fn unique(self, prefix: &str, key: &str) -> Checked<Option<(&'a str, String)>> {
        let (spec, property) = (format!("{prefix}:{key}"), format!("{prefix}_{key}"));
        match (self.spec(&spec), self.property(&property)) {
            (Some(flavor), Some(image)) if flavor != image => wrong(format!(
                "Flavor {} has {spec} extra spec explicitly set to {flavor}, conflicting with image which has {property} explicitly \
                 set to {image}.",
                self.flavor.name
            )),
            (Some(value), _) => Ok(Some((value, spec))),
            (None, image) => Ok(image.map(|value| (value, property))),
        }
    }

    /// The same of a boolean. Here two ways to say yes are the same.
    fn switch(self, key: &str) -> Checked<Option<(bool, String)>> {
        let (flavor, image) = self.both(key);
        if let (Some(flavor), Some(image)) = (flavor, image)
            && yes(flavor) != yes(image)
        {
            return wrong(format!(
                "Flavor {} has hw:{key} extra spec explicitly set to {flavor}, conflicting with image which has hw_{key} explicitly \
                 set to {image}.",
                self.flavor.name
            ));
        }
        let of_flavor = flavor.map(|text| (yes(text), format!("hw:{key}={text}")));
        Ok(of_flavor.or(image.map(|text| (yes(text), format!("hw_{key}={text}")))))
    }
}

/// What oslo takes for true.
fn yes(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    matches!(text.as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

/// Devices, firmware and disks.
fn devices(guest: Guest<'_>) -> Checked<Vec<Demand>> {
    let mut all = Vec::new();
    if let Some(aliases) = guest.spec("pci_passthrough:alias") {
        // There is no setting that defines any.
        let first = aliases.split([',', ':']).next().unwrap_or_default().trim();
        return wrong(format!("PCI alias {first} is not defined"));
    }
    if let Some(profile) = guest.spec("accel:device_profile") {
        all.push(Demand {
            spec: format!("accel:device_profile={profile}"),
            what: "the accelerators of a device profile",
        });
    }
    // Hosts may have one: it is asked for by traits.
    tpm(guest.flavor, guest.image)?;
    all.extend(secure_boot(guest)?);
    if guest.property("hw_firmware_type") == Some("uefi") {
        all.push(Demand {
            spec: "hw_firmware_type=uefi".to_owned(),
            what: "UEFI",
        });
    }
    if let Some((true, spec)) = guest.switch("ephemeral_encryption")? {
        all.push(Demand {
            spec,
            what: "encrypted local disks",
        });
    }
    if let Some((model, name)) = guest.unique("hw", "viommu_model")? {
        all.push(Demand {
            spec: format!("{name}={model}"),
            what: "a virtual IOMMU",
        });
    }
    Ok(all)
}

/// The emulated TPM that a flavor and an image ask for, if they do.
///
/// # Errors
/// In Nova's words, if the two cannot be meant so, or not together.
pub fn tpm(flavor: &Flavor, image: &BTreeMap<String, String>) -> Checked<Option<tpm::Wanted>> {
    let guest = Guest { flavor, image };
    let Some((version, _)) = guest.unique("hw", "tpm_version")? else {
        return Ok(None);
    };
    let version = match version {
        "1.2" => Version::V1_2,
        "2.0" => Version::V2_0,
        version => {
            return wrong(format!(
                "Invalid TPM version '{version}'. Allowed values: 1.2, 2.0."
            ));
        }
    };
    let model = match guest.unique("hw", "tpm_model")? {
        Some(("tpm-crb", _)) if version != Version::V2_0 => {
            return wrong("TPM model CRB is only valid with TPM version 2.0.");
        }
        Some(("tpm-crb", _)) => Model::Crb,
        None | Some(("tpm-tis", _)) => Model::Tis,
        Some((model, _)) => {
            return wrong(format!(
                "Invalid TPM model '{model}'. Allowed values: tpm-tis, tpm-crb."
            ));
        }
    };
    // An image has no say in that: it could not be changed later.
    let security = match guest.spec("hw:tpm_secret_security") {
        None | Some("user") => Security::User,
        Some("host") => Security::Host,
        Some("deployment") => Security::Deployment,
        Some(other) => return wrong(format!("TPM secret security '{other}' is not supported.")),
    };
    Ok(Some(tpm::Wanted {
        version,
        model,
        security,
    }))
}

/// What a host must be able to do for such a device, by the names of os-traits.
pub(crate) fn traits_for(tpm: tpm::Wanted) -> [&'static str; 3] {
    let version = match tpm.version {
        Version::V1_2 => "COMPUTE_SECURITY_TPM_1_2",
        Version::V2_0 => "COMPUTE_SECURITY_TPM_2_0",
    };
    let model = match tpm.model {
        Model::Tis => "COMPUTE_SECURITY_TPM_TIS",
        Model::Crb => "COMPUTE_SECURITY_TPM_CRB",
    };
    let security = match tpm.security {
        Security::User => "COMPUTE_SECURITY_TPM_SECRET_SECURITY_USER",
        Security::Host => "COMPUTE_SECURITY_TPM_SECRET_SECURITY_HOST",
        Security::Deployment => "COMPUTE_SECURITY_TPM_SECRET_SECURITY_DEPLOYMENT",
    };
    [version, model, security]
}

fn secure_boot(guest: Guest<'_>) -> Checked<Option<Demand>> {
    match guest.unique("os", "secure_boot")? {
        Some(("required", name)) => Ok(Some(Demand {
            spec: format!("{name}=required"),
            what: "secure boot",
        })),
        None | Some(("disabled" | "optional", _)) => Ok(None),
        Some((policy, _)) => wrong(format!(
            "Invalid secure boot policy '{policy}'. Allowed values: required, disabled, optional."
        )),
    }
}

/// CPUs of a guest at most: a larger number in a mask is nobody's CPU, and would only cost memory.
const MOST_CPUS: u32 = 65_536;

/// The CPUs of a text such as `0-3,^1,7`.
fn cpu_set(text: &str) -> Checked<BTreeSet<u32>> {
    let (mut taken, mut left_out) = (BTreeSet::new(), BTreeSet::new());
    for rule in text
        .split(',')
        .map(str::trim)
        .filter(|rule| !rule.is_empty())
    {
        let (without, list) = match rule.strip_prefix('^') {
            Some(rest) => (rest, &mut left_out),
            None => (rule, &mut taken),
        };
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST_CPUS);
        if let Some((first, last)) = without.split_once('-') {
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => list.extend(first..=last),
                _ => return wrong(format!("Invalid range expression '{rule}'")),
            }
        } else if let Some(one) = number(without) {
            list.insert(one);
        } else {
            let kind = if rule == without {
                "inclusion"
            } else {
                "exclusion"
            };
            return wrong(format!("Invalid {kind} expression '{rule}'"));
        }
    }
    Ok(&taken - &left_out)
}

#[cfg(test)]
mod tests;
