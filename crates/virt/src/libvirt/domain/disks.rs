//! A domain's disks: the root disk and those beside it, of files or volumes.

use super::{Empty, HostChoices, clean, path_text};
use crate::disks::{Connection, Disk as GuestDisk, DiskSource, NbdServer};
use crate::spec::{DiskFormat, GuestSpec};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
pub(super) struct Disk {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@device")]
    device: String,
    driver: DiskDriver,
    source: Source,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    backing: Option<BackingStore>,
    pub(super) target: DiskTarget,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Order>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readonly: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shareable: Option<Empty>,
}

#[derive(Serialize)]
pub(super) struct Order {
    #[serde(rename = "@order")]
    order: u32,
}

#[derive(Serialize)]
struct DiskDriver {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@cache")]
    cache: &'static str,
}

#[derive(Serialize)]
struct Source {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(rename = "@protocol", skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(rename = "@name", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<SourceHost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect: Option<Delay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seclabel: Option<Seclabel>,
}

#[derive(Serialize)]
struct Delay {
    #[serde(rename = "@delay")]
    delay: u32,
}

/// Seconds for which a guest waits for a server of volumes that has gone away, before it finds its disk broken: a restart
/// of the server, or of its machine, is not seen.
const RECONNECT: u32 = 300;

impl Source {
    fn file(path: &Path) -> Self {
        Self {
            file: Some(path_text(path)),
            protocol: None,
            name: None,
            host: None,
            reconnect: None,
            seclabel: None,
        }
    }
}

#[derive(Serialize)]
struct SourceHost {
    #[serde(rename = "@name", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "@port", skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(rename = "@transport", skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(rename = "@socket", skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
}

#[derive(Serialize)]
struct Seclabel {
    #[serde(rename = "@model")]
    model: &'static str,
    #[serde(rename = "@relabel")]
    relabel: &'static str,
}

/// The chain below a disk, written out so that neither libvirt nor QEMU takes it from the disk's own header.
#[derive(Default, Serialize)]
struct BackingStore {
    #[serde(rename = "@type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    end: Option<Empty>,
}

#[derive(Serialize)]
struct Format {
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize)]
pub(super) struct DiskTarget {
    #[serde(rename = "@dev")]
    pub(super) dev: String,
    #[serde(rename = "@bus")]
    pub(super) bus: String,
}

pub(super) fn image_disk(
    path: &Path,
    base: Option<(&Path, DiskFormat)>,
    device: &str,
    bus: &str,
    cache: &'static str,
    before: &[Disk],
) -> Disk {
    let backing = match base {
        // The base is readable for everybody and shared by guests: nobody changes its owner.
        Some((path, format)) => BackingStore {
            kind: Some("file"),
            format: Some(Format {
                kind: format.as_str(),
            }),
            source: Some(Source {
                seclabel: Some(Seclabel {
                    model: "dac",
                    relabel: "no",
                }),
                ..Source::file(path)
            }),
            end: Some(Empty {}),
        },
        None => BackingStore::default(),
    };
    Disk {
        kind: "file",
        device: device.to_owned(),
        driver: DiskDriver {
            name: "qemu",
            kind: "qcow2",
            cache,
        },
        source: Source::file(path),
        backing: Some(backing),
        target: DiskTarget {
            dev: free_name(bus, |name| {
                before.iter().any(|disk| disk.target.dev == name)
            }),
            bus: bus.into(),
        },
        serial: None,
        boot: None,
        readonly: None,
        shareable: None,
    }
}

/// The disk that a rescued guest boots from. A CD-ROM cannot be written.
pub(super) fn rescue_disk(
    path: &Path,
    base: Option<(&Path, DiskFormat)>,
    device: &str,
    bus: &str,
    cache: &'static str,
    before: &[Disk],
) -> Disk {
    Disk {
        boot: Some(Order { order: 1 }),
        readonly: (device == "cdrom").then_some(Empty {}),
        shareable: None,
        ..image_disk(path, base, device, bus, cache, before)
    }
}

pub(super) fn config_disk(path: &Path, bus: &str, before: &[Disk]) -> Disk {
    // virtio has no CD-ROM; there the drive is a read-only disk.
    let device = if bus == "virtio" { "disk" } else { "cdrom" };
    let as_image = image_disk(path, None, device, bus, "writeback", before);
    Disk {
        driver: DiskDriver {
            kind: "raw",
            ..as_image.driver
        },
        readonly: Some(Empty {}),
        shareable: None,
        ..as_image
    }
}

/// A disk that is not made of an image: in the guest's folder at this path, or a volume. None for a volume that this
/// driver cannot reach.
pub(super) fn other_disk(
    spec: &GuestSpec,
    disk: &GuestDisk,
    local: Option<&Path>,
    cache: &'static str,
    taken: &[String],
) -> Option<Disk> {
    let (kind, source, serial, read_only, shareable) = match (&disk.source, local) {
        (
            DiskSource::Volume {
                volume_id,
                connection,
            },
            _,
        ) => {
            let Connection::Nbd {
                server,
                export,
                read_only,
                shareable,
            } = connection
            else {
                return None;
            };
            let source = nbd_source(server, export);
            let serial = Some(clean(volume_id));
            ("network", source, serial, *read_only, *shareable)
        }
        (_, Some(path)) => ("file", Source::file(path), None, false, false),
        (_, None) => return None,
    };
    let cdrom = disk.device_type.as_deref() == Some("cdrom");
    let usual = spec.hardware.disk_bus.as_deref().unwrap_or("virtio");
    let bus = disk.bus.as_deref().unwrap_or(usual);
    let is_taken = |name: &str| taken.iter().any(|one| one == name);
    let wished = disk.device.as_deref().map(clean);
    let dev = wished
        .filter(|name| name.starts_with(prefix(bus)) && !is_taken(name))
        .unwrap_or_else(|| free_name(bus, is_taken));
    Some(Disk {
        kind,
        device: if cdrom { "cdrom" } else { "disk" }.to_owned(),
        driver: DiskDriver {
            name: "qemu",
            kind: "raw",
            // What another guest writes must not be hidden by what this host remembers.
            cache: if shareable { "none" } else { cache },
        },
        source,
        backing: None,
        target: DiskTarget {
            dev,
            bus: clean(bus),
        },
        serial,
        boot: None,
        readonly: (read_only || cdrom).then_some(Empty {}),
        shareable: shareable.then_some(Empty {}),
    })
}

fn nbd_source(server: &NbdServer, export: &str) -> Source {
    let host = match server {
        NbdServer::Tcp { host, port } => SourceHost {
            name: Some(clean(host)),
            port: Some(*port),
            transport: None,
            socket: None,
        },
        NbdServer::Unix { path } => SourceHost {
            name: None,
            port: None,
            transport: Some("unix"),
            socket: Some(clean(path)),
        },
    };
    Source {
        file: None,
        protocol: Some("nbd"),
        name: Some(clean(export)),
        host: Some(host),
        reconnect: Some(Delay { delay: RECONNECT }),
        seclabel: None,
    }
}

pub(super) fn cache(host: &HostChoices) -> &'static str {
    if host.direct_io { "none" } else { "writeback" }
}

fn prefix(bus: &str) -> &'static str {
    match bus {
        "virtio" => "vd",
        "ide" => "hd",
        _ => "sd",
    }
}

/// The first name on a bus that no disk has.
fn free_name(bus: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let prefix = prefix(bus);
    ('a'..='z')
        .map(|letter| format!("{prefix}{letter}"))
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| format!("{prefix}z"))
}
