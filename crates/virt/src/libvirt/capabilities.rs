//! Reads libvirt's capabilities document: the host's processor and what guests may be.

use crate::facts::CpuInfo;
use crate::hypervisor::{HypervisorError, Result};
use quick_xml::de::DeError;
use serde::Deserialize;

/// What of the document is used.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    /// The processor, without topology.
    pub cpu: CpuInfo,
    /// `(architecture, domain type, machine mode)`.
    pub supported: Vec<(String, String, String)>,
}

#[derive(Deserialize)]
struct Document {
    host: Host,
    #[serde(default)]
    guest: Vec<Guest>,
}

#[derive(Deserialize)]
struct Host {
    cpu: Cpu,
}

#[derive(Deserialize)]
struct Cpu {
    #[serde(default)]
    arch: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    vendor: String,
    #[serde(default)]
    feature: Vec<Feature>,
}

#[derive(Deserialize)]
struct Feature {
    #[serde(rename = "@name")]
    name: String,
}

#[derive(Deserialize)]
struct Guest {
    os_type: String,
    arch: Arch,
}

#[derive(Deserialize)]
struct Arch {
    #[serde(rename = "@name")]
    name: String,
    #[serde(default)]
    domain: Vec<DomainType>,
}

#[derive(Deserialize)]
struct DomainType {
    #[serde(rename = "@type")]
    kind: String,
}

/// Reads the document. `kvm` says whether hardware virtualization was proved: libvirt lists it whenever the device
/// file is there.
///
/// # Errors
/// The document is not as expected.
pub fn parse(xml: &str, kvm: bool) -> std::result::Result<Capabilities, DeError> {
    let document: Document = quick_xml::de::from_str(xml)?;
    let cpu = document.host.cpu;
    let mut features: Vec<String> = cpu
        .feature
        .into_iter()
        .map(|feature| feature.name)
        .collect();
    features.sort();
    let mut supported = Vec::new();
    for guest in document.guest {
        for domain in guest
            .arch
            .domain
            .into_iter()
            .filter(|domain| kvm || domain.kind != "kvm")
        {
            supported.push((guest.arch.name.clone(), domain.kind, guest.os_type.clone()));
        }
    }
    let cpu = CpuInfo {
        arch: cpu.arch,
        model: cpu.model,
        vendor: cpu.vendor,
        features,
        ..CpuInfo::default()
    };
    Ok(Capabilities { cpu, supported })
}

/// Total and used memory in MiB, by the kernel's own account: libvirt's figure follows NUMA nodes and can be wrong.
pub fn host_memory() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|error| HypervisorError::disk("/proc/meminfo", &error))?;
    let kib = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0)
    };
    let total = kib("MemTotal");
    Ok((
        total / 1024,
        total.saturating_sub(kib("MemAvailable")) / 1024,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DOCUMENT: &str = r#"<capabilities>
  <host>
    <uuid>u</uuid>
    <cpu>
      <arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor><microcode version='1'/>
      <topology sockets='1' dies='1' cores='2' threads='1'/>
      <feature name='svm'/><feature name='ht'/><pages unit='KiB' size='4'/>
    </cpu>
    <secmodel><model>dac</model></secmodel><secmodel><model>none</model></secmodel>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <wordsize>64</wordsize><machine maxCpus='255'>pc</machine><machine>q35</machine>
      <domain type='qemu'/><domain type='kvm'><emulator>/usr/bin/kvm</emulator></domain>
    </arch>
    <features><acpi default='on'/></features>
  </guest>
</capabilities>"#;

    #[test]
    fn kvm_is_offered_only_when_proved() {
        let with = parse(DOCUMENT, true).unwrap();
        assert_eq!(with.cpu.features, ["ht", "svm"]);
        assert_eq!(
            (
                with.cpu.arch.as_str(),
                with.cpu.model.as_str(),
                with.cpu.vendor.as_str()
            ),
            ("x86_64", "EPYC", "AMD")
        );
        let kinds = |capabilities: &Capabilities| {
            capabilities
                .supported
                .iter()
                .map(|s| s.1.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&with), ["qemu", "kvm"]);
        assert_eq!(
            parse(DOCUMENT, false).unwrap().supported,
            [("x86_64".into(), "qemu".into(), "hvm".into())]
        );
        assert!(parse("<capabilities/>", false).is_err());
    }
}
