//! A domain's processor.

use super::HostChoices;
use crate::libvirt::processor::CpuMode;
use serde::Serialize;

#[derive(Serialize)]
pub(in crate::libvirt) struct Cpu {
    #[serde(rename = "@mode", skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(rename = "@match", skip_serializing_if = "Option::is_none")]
    matching: Option<&'static str>,
    #[serde(rename = "@check", skip_serializing_if = "Option::is_none")]
    check: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    topology: Topology,
    feature: Vec<Feature>,
}

#[derive(Serialize)]
struct Topology {
    #[serde(rename = "@sockets")]
    sockets: u32,
    #[serde(rename = "@cores")]
    cores: u32,
    #[serde(rename = "@threads")]
    threads: u32,
}

#[derive(Serialize)]
struct Feature {
    #[serde(rename = "@policy")]
    policy: &'static str,
    #[serde(rename = "@name")]
    name: String,
}

/// So many of the processors that the operator wants guests to have.
pub(in crate::libvirt) fn cpu(vcpus: u32, host: &HostChoices) -> Cpu {
    let choice = &host.cpu;
    let bare = Cpu {
        mode: None,
        matching: None,
        check: None,
        model: None,
        topology: Topology {
            sockets: vcpus,
            cores: 1,
            threads: 1,
        },
        feature: Vec::new(),
    };
    let wanted = choice.mode(host.kvm);
    if wanted == CpuMode::None {
        // As in Nova: QEMU's own processor is taken as it is.
        return bare;
    }
    let custom = wanted == CpuMode::Custom;
    let feature = choice.features().into_iter().map(|(name, wanted)| Feature {
        policy: if wanted { "require" } else { "disable" },
        name,
    });
    Cpu {
        mode: Some(wanted.as_str()),
        matching: custom.then_some("exact"),
        check: (wanted == CpuMode::HostModel).then_some("partial"),
        model: choice.models.first().filter(|_| custom).cloned(),
        feature: feature.collect(),
        ..bare
    }
}
