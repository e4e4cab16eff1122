//! What a machine has beside its devices: features of its platform, its clock, room for devices that come later. As Nova
//! gives them.

use super::Empty;
use crate::spec::GuestSpec;
use serde::Serialize;

/// How often Windows looks at a spinlock before it gives the processor away: what KVM's maintainers advise.
const SPINLOCK_RETRIES: u32 = 8191;
/// What a guest that is not to see KVM finds as the vendor of its hypervisor.
const NO_VENDOR: &str = "1234567890ab";
/// PCI Express ports beside those of the devices that a guest is made with: as many can come while it runs.
const SPARE: usize = 8;
/// Devices that each guest has beside its disks and interfaces.
const OTHERS: usize = 8;
/// Root ports that fit on the bus of a q35 machine beside what it has itself.
const MOST_PORTS: usize = 28;

#[derive(Serialize)]
pub(super) struct Features {
    acpi: Empty,
    apic: Empty,
    #[serde(skip_serializing_if = "Option::is_none")]
    hyperv: Option<HyperV>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kvm: Option<KvmFeatures>,
}

#[derive(Serialize)]
struct KvmFeatures {
    hidden: State,
}

#[derive(Default, Serialize)]
struct HyperV {
    #[serde(skip_serializing_if = "Option::is_none")]
    relaxed: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vapic: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spinlocks: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vpindex: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    synic: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor_id: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequencies: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tlbflush: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipi: Option<State>,
}

#[derive(Serialize)]
struct State {
    #[serde(rename = "@state")]
    state: &'static str,
    #[serde(rename = "@retries", skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(rename = "@value", skip_serializing_if = "Option::is_none")]
    value: Option<&'static str>,
}

const ON: State = State {
    state: "on",
    retries: None,
    value: None,
};

impl HyperV {
    /// What Windows uses. What would tie a guest to its host's clock or kind of processor is not among it.
    fn for_windows() -> Self {
        Self {
            relaxed: Some(ON),
            vapic: Some(ON),
            spinlocks: Some(State {
                retries: Some(SPINLOCK_RETRIES),
                ..ON
            }),
            vpindex: Some(ON),
            runtime: Some(ON),
            synic: Some(ON),
            reset: Some(ON),
            vendor_id: None,
            frequencies: Some(ON),
            tlbflush: Some(ON),
            ipi: Some(ON),
        }
    }
}

/// The platform's features. Emulated processors have nothing of Hyper-V, and no KVM to hide.
pub(super) fn features(spec: &GuestSpec, kvm: bool) -> Features {
    let hardware = &spec.hardware;
    let hidden = kvm && hardware.hide_hypervisor;
    let mut hyperv = (kvm && hardware.windows).then(HyperV::for_windows);
    if hidden {
        hyperv.get_or_insert_default().vendor_id = Some(State {
            value: Some(NO_VENDOR),
            ..ON
        });
    }
    Features {
        acpi: Empty {},
        apic: Empty {},
        hyperv,
        kvm: hidden.then_some(KvmFeatures { hidden: ON }),
    }
}

#[derive(Serialize)]
pub(super) struct Clock {
    #[serde(rename = "@offset")]
    offset: &'static str,
    timer: Vec<Timer>,
}

#[derive(Serialize)]
struct Timer {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@tickpolicy", skip_serializing_if = "Option::is_none")]
    tickpolicy: Option<&'static str>,
    #[serde(rename = "@present", skip_serializing_if = "Option::is_none")]
    present: Option<&'static str>,
}

/// The clock: Windows takes it for local time.
pub(super) fn clock(spec: &GuestSpec, kvm: bool) -> Clock {
    let hardware = &spec.hardware;
    let policy = |name, policy| Timer {
        name,
        tickpolicy: Some(policy),
        present: None,
    };
    let there = |name, is: bool| Timer {
        name,
        tickpolicy: None,
        present: Some(if is { "yes" } else { "no" }),
    };
    let mut timer = Vec::new();
    if kvm {
        timer.extend([policy("pit", "delay"), policy("rtc", "catchup")]);
    }
    if kvm || hardware.hpet {
        timer.push(there("hpet", hardware.hpet));
    }
    if kvm && hardware.windows {
        timer.push(there("hypervclock", true));
    }
    Clock {
        offset: if hardware.windows { "localtime" } else { "utc" },
        timer,
    }
}

/// Ports of a machine whose devices each need one: without spare ones nothing can be attached while it runs.
pub(super) fn spare_ports(spec: &GuestSpec, machine: &str) -> usize {
    if !machine.contains("q35") {
        return 0;
    }
    (OTHERS + spec.disks.len() + spec.vifs.len() + SPARE).min(MOST_PORTS)
}
