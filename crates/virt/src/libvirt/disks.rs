//! Disks beside the root disk: swap space and empty disks in the guest's folder, and volumes, which come and go while a
//! guest runs. What libvirt says of the domain is the truth about a running guest, the stored specification about its
//! next start.

use super::described::{elements, of_volume};
use super::domain::disk_xml;
use super::folder::GuestFolder;
use super::{Libvirt, explain};
use crate::disks::{Connection, Disk, DiskSource};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::GuestSpec;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use types::ServerId;

/// File systems that an empty disk can be given.
const FILE_SYSTEMS: &[&str] = &["ext2", "ext3", "ext4", "xfs", "vfat"];
/// The page that swap space is made for.
const PAGE: u64 = 4096;

/// The files of the disks in the guest's folder, by the disks' ids.
pub(super) fn local(spec: &GuestSpec, files: &GuestFolder) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    let mut empty = 0;
    for disk in &spec.disks {
        let name = match disk.source {
            DiskSource::Volume { .. } => continue,
            DiskSource::Swap { .. } => "disk.swap".to_owned(),
            DiskSource::Ephemeral { .. } => {
                empty += 1;
                format!("disk.eph{}", empty - 1)
            }
        };
        all.push((disk.id.clone(), files.folder.join(name)));
    }
    all
}

/// Makes these files.
pub(super) fn make_local(spec: &GuestSpec, files: &GuestFolder) -> Result<()> {
    for (number, (id, path)) in local(spec, files).into_iter().enumerate() {
        let disk = spec.disks.iter().find(|disk| disk.id == id);
        match disk.map(|disk| &disk.source) {
            Some(DiskSource::Swap { size_mib }) => make_swap(&path, size_mib << 20),
            Some(DiskSource::Ephemeral { size_gib, format }) => empty(&path, size_gib << 30)
                .and_then(|()| {
                    let label = format!("ephemeral{number}");
                    make_file_system(&path, format.as_deref(), &label)
                }),
            _ => Ok(()),
        }
        .map_err(|error| HypervisorError::disk(path.display(), &error))?;
    }
    Ok(())
}

/// Makes the swap space anew where it is not as large as it shall be, and what there was none of.
pub(super) fn fit_swap(spec: &GuestSpec, files: &GuestFolder) -> Result<()> {
    for (id, path) in local(spec, files) {
        let disk = spec.disks.iter().find(|disk| disk.id == id);
        let Some(DiskSource::Swap { size_mib }) = disk.map(|disk| &disk.source) else {
            continue;
        };
        let wanted = size_mib << 20;
        if path.metadata().is_ok_and(|has| has.len() == wanted) {
            continue;
        }
        make_swap(&path, wanted).map_err(|error| HypervisorError::disk(path.display(), &error))?;
    }
    Ok(())
}

fn empty(path: &Path, bytes: u64) -> std::io::Result<()> {
    std::fs::File::create(path)?.set_len(bytes)
}

/// What `mkswap` writes: the second kilobyte of the first page, and the signature at its end.
fn make_swap(path: &Path, bytes: u64) -> std::io::Result<()> {
    empty(path, bytes)?;
    let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(1024))?;
    let mut header = Vec::new();
    // Version, the last page, no bad pages, an id.
    header.extend(1u32.to_le_bytes());
    header.extend(pages.saturating_sub(1).to_le_bytes());
    header.extend(0u32.to_le_bytes());
    header.extend(uuid::Uuid::new_v4().as_bytes());
    file.write_all(&header)?;
    file.seek(SeekFrom::Start(PAGE - 10))?;
    file.write_all(b"SWAPSPACE2")
}

/// Gives an empty disk a file system, as Nova does. A host without the tool leaves it empty.
fn make_file_system(path: &Path, wanted: Option<&str>, label: &str) -> std::io::Result<()> {
    let kind = wanted.filter(|kind| FILE_SYSTEMS.contains(kind));
    let kind = kind.unwrap_or("ext4");
    let mut command = Command::new(format!("mkfs.{kind}"));
    match kind {
        "vfat" => command.args(["-n", label]),
        "xfs" => command.args(["-q", "-f", "-L", label]),
        _ => command.args(["-q", "-F", "-L", label]),
    };
    let done = command
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(std::io::Error::other(format!("mkfs.{kind}: {status}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!(
                kind,
                "no tool to make this file system; the disk stays empty"
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Refuses a volume that this driver cannot reach.
pub(super) fn reachable(disk: &Disk) -> Result<()> {
    match &disk.source {
        DiskSource::Volume {
            connection: Connection::Unknown { kind },
            ..
        } => Err(HypervisorError::Rejected(format!(
            "volumes of the type '{kind}' cannot be connected here"
        ))),
        _ => Ok(()),
    }
}

impl Libvirt {
    pub(super) async fn plug_disk(&self, id: ServerId, disk: &Disk) -> Result<GuestInfo> {
        let lock = self.exclusive(id).await;
        reachable(disk)?;
        let before = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let guest = self.must_look(id).await?;
        let mut spec = before.clone();
        spec.disks.retain(|one| one.volume_id() != disk.volume_id());
        spec.disks.push(disk.clone());
        if guest.active {
            let now = self.describe(id).await?;
            let others = before.disks.clone();
            let has = |now: &str| has(now, disk, &others);
            if !has(&now) {
                let device = self.disk_xml(&before, disk, &now)?;
                let plugged = self.plug_device(lock, (before, spec), device, has).await;
                return plugged.map(|()| guest);
            }
        }
        self.write_spec(spec).await?;
        Ok(guest)
    }

    pub(super) async fn pull_disk(&self, id: ServerId, volume_id: &str) -> Result<GuestInfo> {
        let _lock = self.exclusive(id).await;
        let mut spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let guest = self.must_look(id).await?;
        let is_it = |disk: &Disk| disk.volume_id() == Some(volume_id);
        let Some(place) = spec.disks.iter().position(is_it) else {
            return Ok(guest);
        };
        let disk = spec.disks.remove(place);
        if guest.active {
            // The domain's own words name the disk as it is there.
            let left = |now: &str| element(now, &disk, &spec.disks).map(str::to_owned);
            self.until_let_go(id, "volume", left).await?;
        }
        self.write_spec(spec).await?;
        Ok(guest)
    }

    /// NBD tells the size of an export when a client connects, and never again.
    pub(super) async fn grow_disk(
        &self,
        id: ServerId,
        volume_id: &str,
        size_gib: u64,
    ) -> Result<GuestInfo> {
        let guest = self.must_look(id).await?;
        if !guest.active {
            return Ok(guest);
        }
        Err(HypervisorError::Guest(format!(
            "the guest sees that volume {volume_id} has {size_gib} GiB after its next start"
        )))
    }

    pub(super) async fn describe(&self, id: ServerId) -> Result<String> {
        let reference = self.reference(id);
        self.questions
            .description(&reference)
            .await
            .map_err(explain)
    }

    /// The XML of a disk for a guest that is now so.
    pub(super) fn disk_xml(&self, spec: &GuestSpec, disk: &Disk, now: &str) -> Result<String> {
        let made = disk_xml(spec, disk, &names(now), &self.choices);
        made.map_err(|error| HypervisorError::Rejected(error.to_string()))?
            .ok_or_else(|| HypervisorError::Rejected("the volume cannot be connected here".into()))
    }
}

/// The element of a volume's disk; `all`: the disks that the guest is to have.
fn element<'a>(description: &'a str, disk: &Disk, all: &[Disk]) -> Option<&'a str> {
    of_volume(description, disk, all).map(|found| found.element)
}

fn has(description: &str, disk: &Disk, all: &[Disk]) -> bool {
    element(description, disk, all).is_some()
}

/// The names that disks have.
fn names(description: &str) -> Vec<String> {
    elements(description)
        .filter_map(|one| {
            let rest = one.split_once("<target dev=")?.1;
            let quote = rest.chars().next()?;
            Some(rest[1..].split_once(quote)?.0.to_owned())
        })
        .collect()
}

/// The names of the disks that are files and can be written.
pub(super) fn own_names(description: &str) -> Vec<String> {
    let own = |one: &&str| {
        let head = one.split_once('>').map_or("", |(head, _)| head);
        let file = head.contains("type='file'") || head.contains("type=\"file\"");
        file && !one.contains("<readonly/>") && one.contains("<source ")
    };
    let files: String = elements(description).filter(own).collect();
    names(&files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::libvirt::folder::Instances;

    const DOMAIN: &str = "<domain><devices><disk type='file' device='disk'><target dev='vda' bus='virtio'/></disk>\
        <disk type='network' device='disk'><source protocol='nbd'/><target dev=\"vdc\" bus='virtio'/>\
        <serial>v-1</serial></disk></devices></domain>";

    fn volume(id: &str) -> Disk {
        Disk {
            id: "b".to_owned(),
            device: None,
            bus: None,
            device_type: None,
            root: false,
            source: DiskSource::Volume {
                volume_id: id.to_owned(),
                connection: Connection::Unknown {
                    kind: "rbd".to_owned(),
                },
            },
        }
    }

    #[test]
    fn disks_are_found_in_a_description() {
        assert_eq!(names(DOMAIN), ["vda", "vdc"]);
        let found = element(DOMAIN, &volume("v-1"), &[]).unwrap();
        assert!(found.starts_with("<disk type='network'") && found.ends_with("</disk>"));
        assert!(!has(DOMAIN, &volume("v-2"), &[]));
        assert_eq!(own_names(DOMAIN), Vec::<String>::new());
        let with = DOMAIN.replace("<target dev='vda'", "<source file='/d'/><target dev='vda'");
        assert_eq!(own_names(&with), ["vda"]);
        assert!(reachable(&volume("v-1")).is_err());
    }

    #[test]
    fn swap_space_has_its_signature() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.swap");
        make_swap(&path, 8 << 20).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 8 << 20);
        assert_eq!(&bytes[4086..4096], b"SWAPSPACE2");
        assert_eq!(bytes[1024..1028], 1u32.to_le_bytes());
        assert_eq!(bytes[1028..1032], 2047u32.to_le_bytes());
    }

    #[test]
    fn swap_space_gets_the_size_of_the_new_flavor() {
        let (home, mut spec, all) = made_over_old_data("ext4");
        let folder = home.path().join("instances");
        let files = Instances::open(&folder, &home.path().join("run"))
            .unwrap()
            .guest(spec.id);
        let swap = &all[1].1;
        let length = || std::fs::metadata(swap).unwrap().len();
        std::fs::write(swap, vec![1; 8 << 20]).unwrap();
        fit_swap(&spec, &files).unwrap();
        assert_eq!(std::fs::read(swap).unwrap()[0], 1, "as it was");
        spec.disks[1].source = DiskSource::Swap { size_mib: 16 };
        fit_swap(&spec, &files).unwrap();
        assert_eq!(length(), 16 << 20);
        let bytes = std::fs::read(swap).unwrap();
        assert_eq!((bytes[0], &bytes[4086..4096]), (0, &b"SWAPSPACE2"[..]));
        std::fs::remove_file(swap).unwrap();
        fit_swap(&spec, &files).unwrap();
        assert_eq!(length(), 16 << 20);
    }

    /// OSSA-2016-002: what a host says of a volume that it cannot connect.
    #[test]
    fn a_refused_volume_does_not_tell_its_password() {
        let mut disk = volume("v-1");
        let info = serde_json::json!({ "driver_volume_type": "iscsi", "data": {
            "target_portal": "10.0.0.1:3260", "auth_username": "u", "auth_password": "s3cret",
        } });
        disk.source = DiskSource::Volume {
            volume_id: "v-1".to_owned(),
            connection: Connection::read(&info),
        };
        let said = reachable(&disk).unwrap_err().to_string();
        assert!(said.contains("iscsi") && !said.contains("s3cret"), "{said}");
    }

    /// A guest with an empty disk of this file system and with swap space, and what lay at their places before.
    fn made_over_old_data(format: &str) -> (tempfile::TempDir, GuestSpec, Vec<(String, PathBuf)>) {
        let home = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let folder = home.path().join("instances");
        let instances = Instances::open(&folder, &home.path().join("run")).unwrap();
        let mut spec = crate::sim::tests::spec(1);
        let disk = |id: &str, source| Disk {
            source,
            id: id.to_owned(),
            ..volume("v")
        };
        let empty = DiskSource::Ephemeral {
            size_gib: 1,
            format: Some(format.to_owned()),
        };
        spec.disks = vec![
            disk("e", empty),
            disk("s", DiskSource::Swap { size_mib: 8 }),
        ];
        let files = instances.guest(spec.id);
        std::fs::create_dir_all(&files.folder).unwrap();
        let all = local(&spec, &files);
        for (_, path) in &all {
            std::fs::write(path, "another's secret ".repeat(1 << 20)).unwrap();
        }
        make_local(&spec, &files).unwrap();
        (home, spec, all)
    }

    /// OSSA-2012-020: a disk that is made holds nothing of what was at its place.
    #[test]
    fn new_disks_hold_nothing_of_old_ones() {
        let (_home, _, all) = made_over_old_data("ext4");
        assert_eq!(all.len(), 2);
        for (_, path) in all {
            let mut file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
            let mut block = vec![0; 1 << 20];
            // The secret was no longer than this.
            for _ in 0..17 {
                let length = std::io::Read::read(&mut file, &mut block).unwrap();
                let found = block[..length]
                    .windows(9)
                    .any(|window| window == b"another's");
                assert!(!found, "{}", path.display());
            }
        }
    }

    /// OSSA-2013-037 and OSSA-2014-003: empty disks are files of their own, whatever the guest calls its system, and
    /// none is a layer above another file.
    #[test]
    fn empty_disks_have_no_backing_files() {
        for format in ["ext4", "windows-1f3870be", "../../x"] {
            let (home, spec, all) = made_over_old_data(format);
            let folder = home.path().join("instances");
            let guests = std::fs::read_dir(&folder).unwrap();
            let names: Vec<_> = guests.map(|one| one.unwrap().file_name()).collect();
            assert_eq!(names, [spec.id.to_string().as_str()], "{format}");
            let mut files: Vec<String> = std::fs::read_dir(folder.join(spec.id.to_string()))
                .unwrap()
                .map(|one| one.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            assert_eq!(files, ["disk.eph0", "disk.swap"], "{format}");
            for (_, path) in &all {
                let mut head = [0; 4];
                let mut file = std::fs::File::open(path).unwrap();
                std::io::Read::read_exact(&mut file, &mut head).unwrap();
                assert_ne!(&head, b"QFI\xfb", "{}", path.display());
            }
        }
    }
}
