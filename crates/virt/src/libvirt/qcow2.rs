//! Writes empty qcow2 files, overlays among them, in-process: a guest's root disk costs a few small writes instead of
//! a `qemu-img` process. The format is QEMU's documented one ("Qcow2 Image File Format", version 3).

use crate::spec::DiskFormat;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Guest bytes that one entry of the first-level table covers: a cluster full of 8-byte second-level entries.
const BYTES_PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// Clusters that one refcount block of 16-bit counters covers.
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER / 2;
const BACKING_FORMAT_EXTENSION: u32 = 0xE279_2ACA;
const HEADER_BYTES: u32 = 104;
/// Longest backing file name the format allows.
const LONGEST_NAME: usize = 1023;

/// The base below an overlay as its header names it.
#[derive(Clone, Copy, Debug)]
pub struct Backing<'a> {
    /// Path, absolute or relative to the overlay's folder.
    pub name: &'a str,
    /// Its format.
    pub format: DiskFormat,
}

/// Writes a disk of `virtual_bytes` (rounded up to 512) that reads as its backing, or as zeros.
///
/// # Errors
/// I/O errors; `InvalidInput` for a backing name that does not fit or a disk larger than the tables written here
/// cover (about 900 TiB).
pub fn create(
    path: &Path,
    virtual_bytes: u64,
    backing: Option<Backing<'_>>,
) -> std::io::Result<()> {
    let image = layout(virtual_bytes, backing)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(&image)?;
    // Its header names its base: without it what the guest has written is lost, however well that was written.
    file.sync_all()
}

/// What the header of a disk names as its base, as it is written there.
///
/// # Errors
/// It cannot be read, or is no qcow2 header.
pub fn backing_name(path: &Path) -> std::io::Result<Option<String>> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut file = std::fs::File::open(path)?;
    let mut head = [0; 20];
    file.read_exact(&mut head)?;
    if !head.starts_with(b"QFI\xfb") {
        return Err(broken("not a qcow2 file"));
    }
    let [.., a, b, c, d] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let mut offset = [0; 8];
    offset.copy_from_slice(&head[8..16]);
    let offset = u64::from_be_bytes(offset);
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    if length > LONGEST_NAME {
        return Err(broken("the name of its base is too long"));
    }
    let mut name = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut name)?;
    let name = String::from_utf8(name);
    name.map(Some)
        .map_err(|_| broken("the name of its base is no text"))
}

/// Cluster 0 holds the header, 1 the refcount table, 2 the one refcount block, then comes the first-level table.
fn layout(virtual_bytes: u64, backing: Option<Backing<'_>>) -> std::io::Result<Vec<u8>> {
    let too_large = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "disk is too large");
    let size = virtual_bytes
        .checked_next_multiple_of(512)
        .ok_or_else(too_large)?;
    let l1_entries = size.div_ceil(BYTES_PER_L1_ENTRY);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER).max(1);
    let clusters = 3 + l1_clusters;
    if clusters > 512.min(REFCOUNTS_PER_BLOCK) {
        return Err(too_large());
    }
    let mut image = vec![0; usize::try_from(clusters * CLUSTER).map_err(|_| too_large())?];
    write_header(
        &mut image,
        size,
        u32::try_from(l1_entries).map_err(|_| too_large())?,
        backing,
    )?;
    put(&mut image, CLUSTER, &(2 * CLUSTER).to_be_bytes());
    for cluster in 0..clusters {
        put(&mut image, 2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    Ok(image)
}

fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
    let at = at as usize;
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn write_header(
    image: &mut [u8],
    size: u64,
    l1_entries: u32,
    backing: Option<Backing<'_>>,
) -> std::io::Result<()> {
    let name = backing.map_or("", |backing| backing.name);
    if name.len() > LONGEST_NAME {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "path of the base image is too long",
        ));
    }
    let mut extensions = Vec::new();
    if let Some(backing) = backing {
        let format = backing.format.as_str().as_bytes();
        extensions.extend(BACKING_FORMAT_EXTENSION.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name_at = u64::from(HEADER_BYTES) + extensions.len() as u64;

    let mut header = Vec::with_capacity(HEADER_BYTES as usize);
    header.extend(b"QFI\xfb");
    header.extend(3u32.to_be_bytes());
    header.extend(if backing.is_some() { name_at } else { 0 }.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // not encrypted
    header.extend(l1_entries.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes()); // first-level table
    header.extend(CLUSTER.to_be_bytes()); // refcount table
    header.extend(1u32.to_be_bytes()); // its clusters
    header.extend([0; 4 + 8]); // no snapshots
    header.extend([0; 3 * 8]); // no feature bits
    header.extend(4u32.to_be_bytes()); // refcounts of 16 bits
    header.extend(HEADER_BYTES.to_be_bytes());
    put(image, 0, &header);
    put(image, u64::from(HEADER_BYTES), &extensions);
    put(image, name_at, name.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn qemu_img(folder: &Path, arguments: &[&str]) -> Option<(bool, String)> {
        let output = Command::new("qemu-img")
            .current_dir(folder)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Some((output.status.success(), text))
    }

    #[test]
    fn qemu_img_accepts_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::write(&base, vec![7; 1 << 20]).unwrap();
        let backing = Some(Backing {
            name: "base",
            format: DiskFormat::Raw,
        });
        for (name, bytes, backing) in [
            ("small", 1 << 20, backing),
            ("odd", 1_000_001, backing),
            ("blank", 10 << 30, None),
            ("large", 100 << 40, backing),
            ("edge", BYTES_PER_L1_ENTRY * 8192 + 1, None),
        ] {
            let path = folder.path().join(name);
            create(&path, bytes, backing).unwrap();
            let named = backing_name(&path).unwrap();
            assert_eq!(named.as_deref(), backing.map(|backing| backing.name));
            let Some((good, text)) = qemu_img(folder.path(), &["check", "-f", "qcow2", name])
            else {
                eprintln!("skipped: qemu-img is not installed");
                return;
            };
            assert!(good && text.contains("No errors"), "{name}: {text}");
            let (_, info) = qemu_img(
                folder.path(),
                &["info", "--output=json", "-f", "qcow2", name],
            )
            .unwrap();
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"], bytes.next_multiple_of(512));
            assert_eq!(
                info["backing-filename"].as_str(),
                backing.map(|backing| backing.name)
            );
            assert_eq!(
                info["backing-filename-format"].as_str(),
                backing.map(|_| "raw")
            );
        }
        let (same, text) = qemu_img(
            folder.path(),
            &["compare", "-F", "raw", "-f", "qcow2", "small", "base"],
        )
        .unwrap();
        assert!(same, "an overlay reads as its base: {text}");
    }

    #[test]
    fn only_headers_name_bases() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let header = |offset: u64, length: u32, rest: &[u8]| {
            let fields = [&b"QFI\xfb\0\0\0\x03"[..], &offset.to_be_bytes()].concat();
            [&fields[..], &length.to_be_bytes(), rest].concat()
        };
        for (bytes, name) in [
            (header(20, 4, b"base"), Ok(Some("base"))),
            (header(0, 0, b""), Ok(None)),
            (header(20, 4, b"bas"), Err(())),
            (header(20, 2000, &[b'x'; 2000]), Err(())),
            (header(20, 1, b"\xff"), Err(())),
            (b"QFI\xfb".to_vec(), Err(())),
            (vec![0; 64], Err(())),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let found = backing_name(&path).map_err(drop);
            assert_eq!(found, name.map(|name| name.map(str::to_owned)), "{bytes:?}");
        }
    }

    #[test]
    fn limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(create(&path, u64::MAX, None).is_err());
        let long = "x".repeat(LONGEST_NAME + 1);
        assert!(
            create(
                &path,
                512,
                Some(Backing {
                    name: &long,
                    format: DiskFormat::Raw
                })
            )
            .is_err()
        );
    }
}
