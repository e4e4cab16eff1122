//! What image data really are, whatever the user says: formats recognised by their content, dangerous ones refused.
//!
//! Pure functions over bytes ([`Source`]): nothing is executed and nothing is opened. An image must not name other
//! files (backing files, data files, extents, parents), since the host that runs it would open them
//! (OSSA-2024-001). The layouts are those of QEMU's `docs/interop` (qcow2, parallels, qed), VMware's "Virtual Disk
//! Format 5.0", Microsoft's VHD and [MS-VHDX] specifications, ECMA-119, and the UEFI specification's chapter 5.

mod iso;
mod partitions;
mod qcow2;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

pub use vmdk::VMDK_TYPES;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes at the beginning that [`check_head`] wants.
pub const HEAD: usize = 64 * 1024;

/// A format that content can be recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Nothing that is known: bytes of a disk.
    Raw,
    /// QCOW of QEMU, the first version.
    Qcow,
    /// QCOW2 of QEMU, versions 2 and 3.
    Qcow2,
    /// VMware's, sparse.
    Vmdk,
    /// Virtual PC's and Xen's.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
    /// A CD: ISO 9660.
    Iso,
    /// A disk with a GUID partition table.
    Gpt,
    /// A disk with a master boot record.
    Mbr,
    /// Encrypted by LUKS.
    Luks,
    /// Virtuozzo's.
    Ploop,
    /// QEMU's QED.
    Qed,
}

impl Format {
    /// The name, as in `disk_format` where there is one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Iso => "iso",
            Self::Gpt => "gpt",
            Self::Mbr => "mbr",
            Self::Luks => "luks",
            Self::Ploop => "ploop",
            Self::Qed => "qed",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why data are not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The content is something else than the user says.
    #[error("Image disk_format {claimed} does not match its content, which is {found}")]
    Mismatch {
        /// The image's `disk_format`.
        claimed: String,
        /// What the content is.
        found: Format,
    },
    /// The content can be read as several formats, so that different programs would see different disks.
    #[error("Image disk_format {claimed} is ambiguous: the content is {found} at the same time")]
    Ambiguous {
        /// The image's `disk_format`.
        claimed: String,
        /// All formats.
        found: String,
    },
    /// The format is as claimed, but the image is broken or would do harm.
    #[error("The {format} image is not accepted: {reason}")]
    Unsafe {
        /// What it is.
        format: Format,
        /// What is wrong.
        reason: String,
    },
}

/// Why an inspection has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data are refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The data cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes that can be read anywhere.
pub trait Source {
    /// How many there are.
    fn size(&self) -> io::Result<u64>;
    /// Up to `length` bytes at `offset`; fewer at the end.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

impl Source for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.len());
        let end = start.saturating_add(length).min(self.len());
        Ok(self[start..end].to_vec())
    }
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if offset >= self.size()? {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// What the content is and how large the disk in it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The format.
    pub format: Format,
    /// Bytes of the disk.
    pub virtual_size: u64,
}

/// Finds out what the data are; refuses those that are broken or dangerous.
pub fn inspect<S: Source + ?Sized>(source: &S, claimed: &str) -> Result<Inspection, Error> {
    let format = one_format(&detect(source)?, claimed)?;
    let virtual_size = match format {
        Format::Qcow2 => qcow2::check(source)?,
        Format::Vmdk => vmdk::check(source)?,
        Format::Vhd => vhd::check(source)?,
        Format::Vhdx => vhdx::check(source)?,
        Format::Vdi => vdi::check(source)?,
        Format::Iso => iso::virtual_size(source)?,
        _ => source.size()?,
    };
    // The database, like QEMU, counts in signed 64-bit numbers.
    if i64::try_from(virtual_size).is_err() {
        return Err(refuse(
            format,
            format!("a disk of {virtual_size} bytes is not possible"),
        )
        .into());
    }
    Ok(Inspection {
        format,
        virtual_size,
    })
}

/// Whether the data are what the image says; answers the size of the disk in bytes.
pub fn check<S: Source + ?Sized>(
    source: &S,
    disk_format: &str,
    container_format: &str,
) -> Result<u64, Error> {
    let found = inspect(source, disk_format)?;
    if in_archive(container_format) {
        // The disk is somewhere inside of the archive.
        return if acceptable("raw", found.format) {
            Ok(source.size()?)
        } else {
            Ok(found.virtual_size)
        };
    }
    if !acceptable(disk_format, found.format) {
        return Err(Refusal::Mismatch {
            claimed: disk_format.to_owned(),
            found: found.format,
        }
        .into());
    }
    if disk_format == found.format.name() {
        Ok(found.virtual_size)
    } else {
        Ok(source.size()?)
    }
}

/// The same, as far as it can be told from the first [`HEAD`] bytes: says no early, never yes.
pub fn check_head(head: &[u8], disk_format: &str, container_format: &str) -> Result<(), Refusal> {
    // Formats that may show only at the end are left to the whole check.
    let by_magic = [
        Format::Qcow,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhdx,
        Format::Vdi,
        Format::Qed,
        Format::Ploop,
    ];
    let Some(found) = by_magic.into_iter().find(|format| has_magic(*format, head)) else {
        return Ok(());
    };
    if !in_archive(container_format) && !acceptable(disk_format, found) {
        return Err(Refusal::Mismatch {
            claimed: disk_format.to_owned(),
            found,
        });
    }
    match (found, qcow2::check(head)) {
        (Format::Qcow2, Err(Error::Refused(refusal))) => Err(refusal),
        _ => Ok(()),
    }
}

fn in_archive(container_format: &str) -> bool {
    matches!(container_format, "ovf" | "ova" | "docker" | "compressed")
}

/// Raw data may be anything that cannot name other files; kernels, ramdisks and machine images likewise.
fn acceptable(claimed: &str, found: Format) -> bool {
    match claimed {
        "raw" | "ami" | "aki" | "ari" => {
            matches!(
                found,
                Format::Raw | Format::Gpt | Format::Mbr | Format::Iso | Format::Luks
            )
        }
        "gpt" => matches!(found, Format::Gpt | Format::Mbr),
        other => other == found.name(),
    }
}

fn has_magic(format: Format, head: &[u8]) -> bool {
    match format {
        Format::Qcow => head.starts_with(b"QFI\xfb\0\0\0\x01"),
        Format::Qcow2 => head.starts_with(b"QFI\xfb") && !head.starts_with(b"QFI\xfb\0\0\0\x01"),
        Format::Vmdk => vmdk::looks_like(head),
        Format::Vhdx => head.starts_with(b"vhdxfile"),
        Format::Vdi => head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]),
        Format::Luks => head.starts_with(b"LUKS\xba\xbe"),
        Format::Ploop => {
            head.starts_with(b"WithoutFreeSpace") || head.starts_with(b"WithouFreSpacExt")
        }
        Format::Qed => head.starts_with(b"QED\0"),
        _ => false,
    }
}

/// Every format that the data can be read as.
fn detect<S: Source + ?Sized>(source: &S) -> io::Result<Vec<Format>> {
    let head = source.read(0, HEAD)?;
    let magic = [
        Format::Qcow,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhdx,
        Format::Vdi,
        Format::Luks,
        Format::Ploop,
        Format::Qed,
    ];
    let mut found: Vec<Format> = magic
        .into_iter()
        .filter(|format| has_magic(*format, &head))
        .collect();
    if vhd::found(source)? {
        found.push(Format::Vhd);
    }
    if iso::found(&head) {
        found.push(Format::Iso);
    }
    found.extend(partitions::found(&head));
    Ok(found)
}

/// The one format of the data, where several match.
fn one_format(found: &[Format], claimed: &str) -> Result<Format, Refusal> {
    let harmless = |format: &Format| {
        matches!(
            format,
            Format::Iso | Format::Gpt | Format::Mbr | Format::Luks
        )
    };
    match found {
        [] => Ok(Format::Raw),
        [one] => Ok(*one),
        // A bootable ISO has a partition table too.
        many if many.contains(&Format::Iso) && many.iter().all(harmless) => Ok(Format::Iso),
        // What an encrypted disk looks like by chance.
        many if many.iter().all(harmless) => Ok(many[0]),
        // A fixed VHD is a raw disk with a footer.
        many if many
            .iter()
            .all(|format| harmless(format) || *format == Format::Vhd) =>
        {
            Ok(Format::Vhd)
        }
        many => Err(Refusal::Ambiguous {
            claimed: claimed.to_owned(),
            found: many
                .iter()
                .map(|format| format.name())
                .collect::<Vec<_>>()
                .join(" and "),
        }),
    }
}

fn refuse(format: Format, reason: impl Into<String>) -> Refusal {
    Refusal::Unsafe {
        format,
        reason: reason.into(),
    }
}

/// Fixed-width numbers at an offset; bytes that are not there read as a refusal.
struct Fields<'a> {
    bytes: &'a [u8],
    format: Format,
}

impl<'a> Fields<'a> {
    fn new(format: Format, bytes: &'a [u8]) -> Self {
        Self { bytes, format }
    }

    fn bytes(&self, offset: usize, length: usize) -> Result<&'a [u8], Refusal> {
        let end = offset.saturating_add(length);
        self.bytes
            .get(offset..end)
            .ok_or_else(|| refuse(self.format, "it ends inside of its header"))
    }

    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(offset, N)?);
        Ok(array)
    }

    fn u32_be(&self, offset: usize) -> Result<u32, Refusal> {
        Ok(u32::from_be_bytes(self.array(offset)?))
    }

    fn u64_be(&self, offset: usize) -> Result<u64, Refusal> {
        Ok(u64::from_be_bytes(self.array(offset)?))
    }

    fn u16_le(&self, offset: usize) -> Result<u16, Refusal> {
        Ok(u16::from_le_bytes(self.array(offset)?))
    }

    fn u32_le(&self, offset: usize) -> Result<u32, Refusal> {
        Ok(u32::from_le_bytes(self.array(offset)?))
    }

    fn u64_le(&self, offset: usize) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array(offset)?))
    }
}

#[cfg(test)]
mod tests;
