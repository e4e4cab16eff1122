//! What a flavor's extra specs and an image's properties ask of a guest's hardware that hosts of this cloud do not have:
//! CPUs and memory of its own, devices of the host, encryption, UEFI. What cannot be meant is refused in the words
//! of Nova (its `virt/hardware.py`); the rest is a demand that no host satisfies, so that nobody gets a guest without what
//! they rely on.
//!
//! What changes nothing that a guest or its owner relies on is no demand: shared CPUs, small pages, one NUMA node. Nor is an
//! emulated TPM, which hosts can have: it is asked for by traits, as in Nova.

mod agreement;
mod cpus;
mod memory;
mod numa;

use std::collections::{BTreeMap, BTreeSet};
use types::cpu_set;
use types::image_properties::{ImageProperties, WrongProperty, says_yes as yes};
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
pub enum WrongHardware {
    /// Nobody can have that.
    #[error("{0}")]
    Unmeant(String),
    /// The flavor does not let images have a say.
    #[error("{0}")]
    Forbidden(String),
}

impl From<WrongProperty> for WrongHardware {
    fn from(wrong: WrongProperty) -> Self {
        Self::Unmeant(wrong.to_string())
    }
}

impl From<cpu_set::NoCpuSet> for WrongHardware {
    fn from(wrong: cpu_set::NoCpuSet) -> Self {
        Self::Unmeant(wrong.to_string())
    }
}

type Checked<T> = Result<T, WrongHardware>;

fn wrong<T>(words: impl Into<String>) -> Checked<T> {
    Err(WrongHardware::Unmeant(words.into()))
}

/// A flavor and the properties of an image.
#[derive(Clone, Copy)]
struct Guest<'a> {
    flavor: &'a Flavor,
    image: &'a ImageProperties,
}

/// The demands of a guest, each once, the order is that of the checks.
///
/// # Errors
/// In Nova's words, if a property of the image or the flavor's extra specs cannot be meant so, or not together.
pub fn demands(flavor: &Flavor, image: &BTreeMap<String, String>) -> Checked<Vec<Demand>> {
    let image = &ImageProperties::parse(image)?;
    let guest = Guest { flavor, image };
    memory::encryption(guest)?;
    agreement::check(guest)?;
    let cpus = cpus::constraints(guest)?;
    let nodes = numa::constraints(guest, cpus.policy)?;
    let mut all = Vec::new();
    all.extend(cpus.demand);
    all.extend(nodes);
    all.extend(memory::demands(guest)?);
    all.extend(devices(guest)?);
    guest.unique("hw", "sound_model")?;
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

    /// The values of `hw:key` and `hw_key`.
    fn both(self, key: &str) -> (Option<&'a str>, Option<&'a str>) {
        (
            self.spec(&format!("hw:{key}")),
            self.image.text(&format!("hw_{key}")),
        )
    }

    /// The same of a yes or no.
    fn flags(self, key: &str) -> (Option<bool>, Option<bool>) {
        (
            self.spec(&format!("hw:{key}")).map(yes),
            self.image.flag(&format!("hw_{key}")),
        )
    }

    /// The one value of a pair that must not contradict itself.
    fn unique(self, prefix: &str, key: &str) -> Checked<Option<(&'a str, String)>> {
        let (spec, property) = (format!("{prefix}:{key}"), format!("{prefix}_{key}"));
        match (self.spec(&spec), self.image.text(&property)) {
            (Some(flavor), Some(image)) if flavor != image => wrong(format!(
                "Flavor {} has {spec} extra spec explicitly set to {flavor}, conflicting with image which has {property} explicitly \
                 set to {image}.",
                self.flavor.name
            )),
            (Some(value), _) => Ok(Some((value, spec))),
            (None, image) => Ok(image.map(|value| (value, property))),
        }
    }

    /// The one value of a yes or no that must not contradict itself, and what says so.
    fn switch(self, key: &str) -> Checked<Option<(bool, String)>> {
        match self.flags(key) {
            (Some(flavor), Some(image)) if flavor != image => wrong(format!(
                "Flavor {} has hw:{key} extra spec explicitly set to {}, conflicting with image which has hw_{key} explicitly set \
                 to {}.",
                self.flavor.name,
                in_words(flavor),
                in_words(image),
            )),
            (Some(flag), _) => {
                let text = self.spec(&format!("hw:{key}")).unwrap_or_default();
                Ok(Some((flag, format!("hw:{key}={text}"))))
            }
            (None, image) => Ok(image.map(|flag| (flag, format!("hw_{key}={}", in_words(flag))))),
        }
    }
}

/// As Python writes it.
fn in_words(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
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
    tpm_of(guest)?;
    all.extend(secure_boot(guest)?);
    if guest.image.text("hw_firmware_type") == Some("uefi") {
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
    let image = &ImageProperties::only(image, &["hw_tpm_version", "hw_tpm_model"])?;
    tpm_of(Guest { flavor, image })
}

fn tpm_of(guest: Guest<'_>) -> Checked<Option<tpm::Wanted>> {
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

/// Whether a new server's flavor lets its image say how near devices of the host must be.
///
/// # Errors
/// In Nova's words.
pub fn device_distance(flavor: &Flavor, image: &BTreeMap<String, String>) -> Checked<()> {
    const KEY: &str = "pci_numa_affinity_policy";
    let image = &ImageProperties::only(image, &["hw_pci_numa_affinity_policy"])?;
    match (Guest { flavor, image }).both(KEY) {
        (Some(flavor), Some(image)) if flavor != image => Err(WrongHardware::Forbidden(format!(
            "Image property 'hw_{KEY}' is not permitted to override the 'hw:{KEY}' flavor extra spec."
        ))),
        (Some(policy), _) if !["required", "legacy", "preferred", "socket"].contains(&policy) => {
            wrong(format!("Invalid PCI NUMA affinity configured: {policy}"))
        }
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests;
