//! The domain's definition as typed structs, serialised to libvirt's XML ("Domain XML format" in libvirt's
//! documentation). What guests rely on follows Nova: the SMBIOS identity that cloud-init recognises, virtio devices,
//! a serial console with a log file, the guest agent's channel, a config drive as CD-ROM.

mod cpu;
mod disks;
mod identity;
mod kernel;
mod machine;

pub(super) use cpu::cpu;
pub use kernel::BootFiles;

use super::processor::CpuChoice;
use crate::disks::Disk as GuestDisk;
use crate::spec::{DiskFormat, GuestSpec, RootDisk, Vif};
use cpu::Cpu;
use disks::{Disk, cache, config_disk, image_disk, other_disk, rescue_disk};
use identity::{Metadata, Sysinfo, metadata, sysinfo};
use kernel::command_line;
use machine::{Clock, Features, clock, features, spare_ports};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Facts of the host that shape every domain.
#[derive(Clone, Debug)]
pub struct HostChoices {
    /// Hardware virtualization was proved to work.
    pub kvm: bool,
    /// Disks can bypass the page cache (`O_DIRECT` works in the instances folder).
    pub direct_io: bool,
    /// The processors that guests get.
    pub cpu: CpuChoice,
}

/// Where the domain's files are, by the paths that QEMU uses.
#[derive(Clone, Debug)]
pub struct GuestFiles<'a> {
    /// The root disk (qcow2); none when it is a volume.
    pub disk: Option<&'a Path>,
    /// Files of other disks (raw), by the disks' ids.
    pub local: &'a [(String, PathBuf)],
    /// Its base, when it has one.
    pub base: Option<(&'a Path, DiskFormat)>,
    /// The disk of a rescued guest, with its base.
    pub rescue: Option<(&'a Path, Option<(&'a Path, DiskFormat)>)>,
    /// The config drive, when there is one.
    pub config_drive: Option<&'a Path>,
    /// The serial console's log.
    pub console: &'a Path,
    /// What it is booted with, if not with what is on its disk.
    pub kernel: Option<BootFiles<'a>>,
}

/// The XML of a guest's domain.
///
/// # Errors
/// The serialiser refused (names that cannot be in XML).
pub fn domain_xml(
    spec: &GuestSpec,
    files: &GuestFiles<'_>,
    host: &HostChoices,
) -> Result<String, quick_xml::SeError> {
    quick_xml::se::to_string_with_root("domain", &domain(spec, files, host))
}

/// The XML of one interface, for a guest that runs.
///
/// # Errors
/// As [`domain_xml`].
pub fn interface_xml(spec: &GuestSpec, vif: &Vif) -> Result<String, quick_xml::SeError> {
    quick_xml::se::to_string_with_root("interface", &interface(spec, vif))
}

/// The XML of one disk, for a guest that runs; `taken`: the names that disks of the guest have. None for a volume that
/// this driver cannot reach.
///
/// # Errors
/// As [`domain_xml`].
pub fn disk_xml(
    spec: &GuestSpec,
    disk: &GuestDisk,
    taken: &[String],
    host: &HostChoices,
) -> Result<Option<String>, quick_xml::SeError> {
    let made = other_disk(spec, disk, None, cache(host), taken);
    made.map(|made| quick_xml::se::to_string_with_root("disk", &made))
        .transpose()
}

#[derive(Serialize)]
struct Domain {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: String,
    uuid: String,
    metadata: Metadata,
    memory: Sized,
    vcpu: u32,
    sysinfo: Sysinfo,
    os: Os,
    features: Features,
    cpu: Cpu,
    clock: Clock,
    on_poweroff: &'static str,
    on_reboot: &'static str,
    on_crash: &'static str,
    devices: Devices,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Sized {
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    size: u64,
}

#[derive(Serialize)]
struct Os {
    #[serde(rename = "type")]
    kind: OsType,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Dev>,
    smbios: Mode,
}

#[derive(Serialize)]
struct OsType {
    #[serde(rename = "@machine")]
    machine: String,
    #[serde(rename = "$text")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Dev {
    #[serde(rename = "@dev")]
    dev: &'static str,
}

#[derive(Serialize)]
struct Mode {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

#[derive(Serialize)]
struct Devices {
    disk: Vec<Disk>,
    controller: Vec<Controller>,
    interface: Vec<Interface>,
    serial: Serial,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Input>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tpm: Option<TpmDevice>,
    graphics: Graphics,
    video: Video,
    rng: Rng,
    memballoon: Balloon,
}

#[derive(Serialize)]
struct Controller {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index", skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(rename = "@model")]
    model: String,
}

#[derive(Serialize)]
struct Input {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@bus")]
    bus: &'static str,
}

#[derive(Serialize)]
struct Interface {
    #[serde(rename = "@type")]
    kind: &'static str,
    mac: Mac,
    target: TapTarget,
    model: ModelType,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<Mtu>,
}

#[derive(Serialize)]
struct Mac {
    #[serde(rename = "@address")]
    address: String,
}

#[derive(Serialize)]
struct TapTarget {
    #[serde(rename = "@dev")]
    dev: String,
    #[serde(rename = "@managed")]
    managed: &'static str,
}

#[derive(Serialize)]
struct ModelType {
    #[serde(rename = "@type")]
    kind: String,
}

#[derive(Serialize)]
struct Mtu {
    #[serde(rename = "@size")]
    size: u32,
}

#[derive(Serialize)]
struct Serial {
    #[serde(rename = "@type")]
    kind: &'static str,
    log: Log,
    target: Port,
}

#[derive(Serialize)]
struct Log {
    #[serde(rename = "@file")]
    file: String,
    #[serde(rename = "@append")]
    append: &'static str,
}

#[derive(Serialize)]
struct Port {
    #[serde(rename = "@port")]
    port: u32,
}

#[derive(Serialize)]
struct Channel {
    #[serde(rename = "@type")]
    kind: &'static str,
    target: ChannelTarget,
}

#[derive(Serialize)]
struct ChannelTarget {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@name")]
    name: &'static str,
}

#[derive(Serialize)]
struct Graphics {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@autoport")]
    autoport: &'static str,
    #[serde(rename = "@listen")]
    listen: &'static str,
}

#[derive(Serialize)]
struct Video {
    model: ModelType,
}

#[derive(Serialize)]
struct TpmDevice {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: TpmBackend,
}

#[derive(Serialize)]
struct TpmBackend {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@version")]
    version: &'static str,
    encryption: Encryption,
}

#[derive(Serialize)]
struct Encryption {
    #[serde(rename = "@secret")]
    secret: String,
}

#[derive(Serialize)]
struct Rng {
    #[serde(rename = "@model")]
    model: &'static str,
    backend: RngBackend,
}

#[derive(Serialize)]
struct RngBackend {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "$text")]
    path: &'static str,
}

#[derive(Serialize)]
struct Balloon {
    #[serde(rename = "@model")]
    model: &'static str,
    stats: Period,
}

#[derive(Serialize)]
struct Period {
    #[serde(rename = "@period")]
    period: u32,
}

fn domain(spec: &GuestSpec, files: &GuestFiles<'_>, host: &HostChoices) -> Domain {
    let machine = spec.hardware.machine.clone().unwrap_or_else(|| "pc".into());
    let devices = devices(spec, files, host, &machine);
    let kernel = files.kernel;
    Domain {
        kind: if host.kvm { "kvm" } else { "qemu" },
        name: clean(&spec.instance_name),
        uuid: spec.id.to_string(),
        metadata: metadata(spec),
        memory: Sized {
            unit: "MiB",
            size: spec.memory_mib,
        },
        vcpu: spec.vcpus,
        sysinfo: sysinfo(spec),
        os: Os {
            kind: OsType {
                machine: machine.clone(),
                kind: "hvm",
            },
            kernel: kernel.map(|boot| path_text(boot.kernel)),
            initrd: kernel.and_then(|boot| boot.ramdisk).map(path_text),
            cmdline: kernel.map(|_| command_line(spec, &devices, host)),
            // A rescued guest's disk says itself that it is the one to boot from.
            boot: (spec.rescue.is_none() && kernel.is_none()).then_some(Dev { dev: "hd" }),
            smbios: Mode { mode: "sysinfo" },
        },
        features: features(spec, host.kvm),
        cpu: cpu(spec.vcpus, host),
        clock: clock(spec, host.kvm),
        on_poweroff: "destroy",
        on_reboot: "restart",
        on_crash: "destroy",
        devices,
    }
}

fn devices(spec: &GuestSpec, files: &GuestFiles<'_>, host: &HostChoices, machine: &str) -> Devices {
    let hardware = &spec.hardware;
    let bus = hardware.disk_bus.clone().unwrap_or_else(|| "virtio".into());
    let legacy_bus = if machine.contains("q35") {
        "sata"
    } else {
        "ide"
    };
    let cdrom_bus = hardware.cdrom_bus.as_deref().unwrap_or(legacy_bus);
    let cache = cache(host);
    let mut disk = Vec::new();
    let stable = spec.rescue.as_ref().and_then(|one| one.stable.as_ref());
    if let Some((path, base)) = files.rescue.filter(|_| stable.is_none()) {
        disk.push(rescue_disk(path, base, "disk", &bus, cache, &disk));
    }
    let own_base = files
        .base
        .filter(|_| matches!(spec.root, RootDisk::Image { .. }));
    if let Some(path) = files.disk {
        disk.push(image_disk(path, own_base, "disk", &bus, cache, &disk));
    }
    // The first disk in the list is the one that the machine boots from.
    let (root, others): (Vec<_>, Vec<_>) = spec.disks.iter().partition(|disk| disk.root);
    for other in root.into_iter().chain(others) {
        let local = files.local.iter().find(|(id, _)| *id == other.id);
        let local = local.map(|(_, path)| path.as_path());
        let taken: Vec<String> = disk.iter().map(|disk| disk.target.dev.clone()).collect();
        disk.extend(other_disk(spec, other, local, cache, &taken));
    }
    if let Some(path) = files.config_drive {
        disk.push(config_disk(path, cdrom_bus, &disk));
    }
    if let (Some((path, base)), Some(stable)) = (files.rescue, stable) {
        let device = &stable.device;
        let usual = if device == "cdrom" {
            legacy_bus
        } else {
            "virtio"
        };
        let bus = stable.bus.as_deref().unwrap_or(usual);
        disk.push(rescue_disk(path, base, device, bus, cache, &disk));
    }
    let uses = |wanted: &str| disk.iter().any(|disk| disk.target.bus == wanted);
    let controlled = |kind, model: &str| Controller {
        kind,
        index: None,
        model: model.to_owned(),
    };
    let mut controller = Vec::new();
    if uses("scsi") {
        let model = hardware.scsi_model.as_deref();
        controller.push(controlled("scsi", model.unwrap_or("virtio-scsi")));
    }
    if !uses("usb") && !hardware.tablet {
        // Other guests are given no USB device, and an emulated USB controller costs an idle guest most of its cycles.
        controller.push(controlled("usb", "none"));
    }
    let ports = spare_ports(spec, machine);
    if ports > 0 {
        // Ports without the root that they are on would be taken for it.
        controller.push(Controller {
            index: Some(0),
            ..controlled("pci", "pcie-root")
        });
    }
    controller.extend((0..ports).map(|_| controlled("pci", "pcie-root-port")));
    Devices {
        disk,
        controller,
        interface: spec.vifs.iter().map(|vif| interface(spec, vif)).collect(),
        serial: Serial {
            kind: "pty",
            log: Log {
                file: path_text(files.console),
                append: "on",
            },
            target: Port { port: 0 },
        },
        channel: hardware.guest_agent.unwrap_or(true).then_some(Channel {
            kind: "unix",
            target: ChannelTarget {
                kind: "virtio",
                name: "org.qemu.guest_agent.0",
            },
        }),
        input: hardware.tablet.then_some(Input {
            kind: "tablet",
            bus: "usb",
        }),
        tpm: spec.tpm.as_ref().map(|tpm| TpmDevice {
            model: tpm.wanted.model.as_str(),
            backend: TpmBackend {
                kind: "emulator",
                version: tpm.wanted.version.as_str(),
                encryption: Encryption {
                    secret: tpm.secret.to_string(),
                },
            },
        }),
        graphics: Graphics {
            kind: "vnc",
            autoport: "yes",
            listen: "127.0.0.1",
        },
        video: Video {
            model: ModelType {
                kind: hardware.video.clone().unwrap_or_else(|| "vga".into()),
            },
        },
        rng: Rng {
            model: "virtio",
            backend: RngBackend {
                model: "random",
                path: "/dev/urandom",
            },
        },
        memballoon: Balloon {
            model: "virtio",
            stats: Period { period: 10 },
        },
    }
}

fn interface(spec: &GuestSpec, vif: &Vif) -> Interface {
    let model = vif.model.as_ref().or(spec.hardware.vif_model.as_ref());
    Interface {
        kind: "ethernet",
        mac: Mac {
            address: clean(&vif.mac),
        },
        target: TapTarget {
            dev: clean(&vif.tap),
            managed: "no",
        },
        model: ModelType {
            kind: model.cloned().unwrap_or_else(|| "virtio".into()),
        },
        mtu: (vif.mtu > 0).then_some(Mtu { size: vif.mtu }),
    }
}

fn path_text(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

/// Names come from users; characters that XML 1.0 cannot carry even escaped would make the definition unreadable.
fn clean(text: &str) -> String {
    let good = |c: &char| {
        matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..) && *c != '\u{7f}'
    };
    text.chars().filter(good).collect()
}

#[cfg(test)]
mod tests;
