//! Disks as a domain's description tells them.

use crate::disks::{Connection, Disk, DiskSource, NbdServer};
use serde::Deserialize;

/// Where the data of a volume is. Whoever knows that can read it: it is not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    server: NbdServer,
    export: String,
}

/// One disk.
pub struct Seen<'a> {
    /// Its own words.
    pub element: &'a str,
    /// Its name, by which calls name it.
    pub target: String,
    /// What the guest calls it by; it stays the same when the volume is exchanged.
    serial: Option<String>,
    /// Where its data is, if that is a volume.
    pub place: Option<Place>,
    /// The copy that is being made of it.
    pub mirror: Option<SeenMirror>,
}

/// A copy that is being made of a disk.
pub struct SeenMirror {
    /// Where, if that is a volume.
    pub place: Option<Place>,
    /// Whether both hold the same.
    pub ready: bool,
}

#[derive(Deserialize)]
struct DiskElement {
    target: TargetElement,
    source: Option<SourceElement>,
    mirror: Option<MirrorElement>,
    serial: Option<String>,
}

#[derive(Deserialize)]
struct TargetElement {
    #[serde(rename = "@dev")]
    dev: String,
}

#[derive(Deserialize)]
struct MirrorElement {
    #[serde(rename = "@ready")]
    ready: Option<String>,
    source: Option<SourceElement>,
}

#[derive(Deserialize)]
struct SourceElement {
    #[serde(rename = "@protocol")]
    protocol: Option<String>,
    #[serde(rename = "@name")]
    name: Option<String>,
    host: Option<HostElement>,
}

#[derive(Deserialize)]
struct HostElement {
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@port")]
    port: Option<String>,
    #[serde(rename = "@socket")]
    socket: Option<String>,
}

impl Place {
    /// Where a volume is that this driver can reach.
    pub fn of(disk: &Disk) -> Option<Self> {
        match &disk.source {
            DiskSource::Volume {
                connection: Connection::Nbd { server, export, .. },
                ..
            } => Some(Self {
                server: server.clone(),
                export: export.clone(),
            }),
            _ => None,
        }
    }

    fn read(source: &SourceElement) -> Option<Self> {
        if source.protocol.as_deref() != Some("nbd") {
            return None;
        }
        let host = source.host.as_ref()?;
        let server = match (&host.socket, &host.name) {
            (Some(path), _) => NbdServer::Unix { path: path.clone() },
            (None, Some(name)) => NbdServer::Tcp {
                host: name.clone(),
                port: host.port.as_deref()?.parse().ok()?,
            },
            (None, None) => return None,
        };
        Some(Self {
            server,
            export: source.name.clone().unwrap_or_default(),
        })
    }

    /// A disk like this one with its data here.
    pub fn disk(&self, like: &Disk, volume_id: &str) -> Disk {
        let (read_only, shareable) = match &like.source {
            DiskSource::Volume {
                connection:
                    Connection::Nbd {
                        read_only,
                        shareable,
                        ..
                    },
                ..
            } => (*read_only, *shareable),
            _ => (false, false),
        };
        Disk {
            source: DiskSource::Volume {
                volume_id: volume_id.to_owned(),
                connection: Connection::Nbd {
                    server: self.server.clone(),
                    export: self.export.clone(),
                    read_only,
                    shareable,
                },
            },
            ..like.clone()
        }
    }
}

/// The words of the disks.
pub fn elements(description: &str) -> impl Iterator<Item = &str> {
    description
        .match_indices("<disk ")
        .filter_map(|(start, _)| {
            let end = description[start..].find("</disk>")?;
            Some(&description[start..start + end + "</disk>".len()])
        })
}

fn seen(description: &str) -> Vec<Seen<'_>> {
    elements(description).filter_map(read).collect()
}

fn read(element: &str) -> Option<Seen<'_>> {
    let disk: DiskElement = quick_xml::de::from_str(element).ok()?;
    Some(Seen {
        element,
        target: disk.target.dev,
        serial: disk.serial,
        place: disk.source.as_ref().and_then(Place::read),
        mirror: disk.mirror.map(|mirror| SeenMirror {
            place: mirror.source.as_ref().and_then(Place::read),
            ready: mirror.ready.as_deref() == Some("yes"),
        }),
    })
}

/// The disk of a volume: the one whose data is there, else the one with its serial number, unless the data of that one is
/// another volume of the guest, which was exchanged for it.
pub fn of_volume<'a>(description: &'a str, disk: &Disk, all: &[Disk]) -> Option<Seen<'a>> {
    let volume = disk.volume_id()?;
    let place = Place::of(disk);
    let mut found = seen(description);
    let by_place = found
        .iter()
        .position(|one| one.place.is_some() && one.place == place);
    let anothers = |one: &Seen<'_>| {
        let mut others = all
            .iter()
            .filter(|other| other.volume_id() != Some(volume))
            .filter_map(Place::of);
        others.any(|other| one.place.as_ref() == Some(&other))
    };
    let by_serial = found
        .iter()
        .position(|one| one.serial.as_deref() == Some(volume) && !anothers(one));
    by_place.or(by_serial).map(|index| found.swap_remove(index))
}

/// The disk whose data, or the copy of it, is in one of these places; else the one with one of these serial numbers.
pub fn of_places<'a>(description: &'a str, places: &[Place], serials: &[&str]) -> Option<Seen<'a>> {
    let mut found = seen(description);
    let is = |place: Option<&Place>| place.is_some_and(|place| places.contains(place));
    let by_place = found.iter().position(|one| is(one.place.as_ref()));
    let by_mirror = found.iter().position(|one| {
        let mirror = one.mirror.as_ref();
        is(mirror.and_then(|mirror| mirror.place.as_ref()))
    });
    let by_serial = found.iter().position(|one| {
        let serial = one.serial.as_deref();
        serial.is_some_and(|serial| serials.contains(&serial))
    });
    by_place
        .or(by_mirror)
        .or(by_serial)
        .map(|index| found.swap_remove(index))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What libvirt says of a guest whose second disk is being copied; the third one is a volume by a socket.
    pub const COPIED: &str = "<domain type='qemu'><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/d' index='1'/>\
        <backingStore type='file'><format type='raw'/><source file='/b'/><backingStore/></backingStore>\
        <target dev='vda' bus='virtio'/></disk>\
        <disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>\
        <source protocol='nbd' name='old &amp; secret' index='2'><host name='h' port='10809'/></source>\
        <mirror type='network' job='copy' ready='yes'><format type='raw'/>\
        <source protocol='nbd' name='new' index='5'><host name='h' port='10809'/></source></mirror>\
        <target dev='vdb' bus='virtio'/><serial>v-0</serial><alias name='virtio-disk1'/></disk>\
        <disk type='network' device='disk'><source protocol='nbd' name='third'>\
        <host transport='unix' socket='/run/n.sock'/></source><target dev=\"vdc\" bus='virtio'/>\
        <serial>v-3</serial></disk></devices></domain>";

    pub fn nbd(volume: &str, export: &str) -> Disk {
        let info = serde_json::json!({ "driver_volume_type": "nbd", "data": {
            "host": "h", "port": 10809, "export": export,
        } });
        Disk {
            id: "b".to_owned(),
            device: None,
            bus: None,
            device_type: None,
            root: false,
            source: DiskSource::Volume {
                volume_id: volume.to_owned(),
                connection: Connection::read(&info),
            },
        }
    }

    #[test]
    fn a_disk_tells_where_its_data_is_and_goes_to() {
        let all = seen(COPIED);
        let names: Vec<&str> = all.iter().map(|one| one.target.as_str()).collect();
        assert_eq!(names, ["vda", "vdb", "vdc"]);
        assert!(all[0].place.is_none() && all[0].mirror.is_none());
        let (old, new) = (nbd("v-1", "old & secret"), nbd("v-2", "new"));
        assert!(all[1].place == Place::of(&old));
        let mirror = all[1].mirror.as_ref().unwrap();
        assert!(mirror.place == Place::of(&new) && mirror.ready);
        let socket = NbdServer::Unix {
            path: "/run/n.sock".to_owned(),
        };
        assert!(all[2].place.as_ref().unwrap().server == socket);
        let begun = COPIED.replace(" ready='yes'", "");
        assert!(!seen(&begun)[1].mirror.as_ref().unwrap().ready);
        let made = all[1].place.as_ref().unwrap().disk(&new, "v-1");
        assert_eq!(made, old);
    }

    /// The disk that was exchanged keeps the serial number of the volume that it had.
    #[test]
    fn a_volume_is_known_by_where_it_is_and_then_by_its_number() {
        let (zero, one, two) = (
            nbd("v-0", "elsewhere"),
            nbd("v-1", "old & secret"),
            nbd("v-2", "new"),
        );
        let name = |disk: &Disk, all: &[Disk]| of_volume(COPIED, disk, all).map(|one| one.target);
        assert_eq!(name(&one, &[]).as_deref(), Some("vdb"));
        assert_eq!(name(&zero, &[]).as_deref(), Some("vdb"));
        assert_eq!(name(&zero, std::slice::from_ref(&one)), None);
        assert_eq!(name(&two, &[]), None);
        assert_eq!(name(&nbd("v-3", "moved"), &[]).as_deref(), Some("vdc"));

        let place = |disk: &Disk| Place::of(disk).unwrap();
        let name = |places: &[Place], serials: &[&str]| {
            of_places(COPIED, places, serials).map(|one| one.target)
        };
        assert_eq!(name(&[place(&one)], &[]).as_deref(), Some("vdb"));
        assert_eq!(name(&[place(&two)], &["v-3"]).as_deref(), Some("vdb"));
        assert_eq!(name(&[place(&zero)], &["v-3"]).as_deref(), Some("vdc"));
        assert_eq!(name(&[place(&zero)], &["v-1"]), None);
    }
}
