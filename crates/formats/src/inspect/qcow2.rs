//! qcow2 (QEMU `docs/interop/qcow2.rst`).

use super::{Error, Fields, Format, Refusal, Source, refuse};

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// The header extension with the name of a data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;
/// The most bytes of header extensions that are read.
const EXTENSIONS: usize = 60 * 1024;

/// Refuses images that name other files or need what is not known; answers the size of the disk.
pub(super) fn check<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let head = source.read(0, EXTENSIONS)?;
    Ok(check_header(&Fields::new(Format::Qcow2, &head))?)
}

fn check_header(header: &Fields<'_>) -> Result<u64, Refusal> {
    let bad = |reason: String| Err(refuse(Format::Qcow2, reason));
    let version = header.u32_be(4)?;
    if !matches!(version, 2 | 3) {
        return bad(format!("version {version} is not known"));
    }
    if header.u64_be(8)? != 0 || header.u32_be(16)? != 0 {
        return bad("it names a backing file".to_owned());
    }
    let cluster_bits = header.u32_be(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return bad(format!(
            "clusters of 2^{cluster_bits} bytes are not possible"
        ));
    }
    let virtual_size = header.u64_be(24)?;
    let mut header_length = 72;
    if version == 3 {
        let features = header.u64_be(72)?;
        if features & DATA_FILE != 0 {
            return bad("it keeps its data in another file".to_owned());
        }
        if features & CORRUPT != 0 {
            return bad("it is marked as corrupt".to_owned());
        }
        let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2);
        if unknown != 0 {
            return bad(format!("it needs unknown features (bits {unknown:#x})"));
        }
        header_length = header.u32_be(100)?;
        if header_length < 104 || header_length % 8 != 0 {
            return bad(format!("a header of {header_length} bytes is not possible"));
        }
    }
    check_extensions(header, header_length as usize, 1 << cluster_bits)?;
    Ok(virtual_size)
}

/// Extensions lie in the first cluster: type, length, data padded to 8 bytes, up to type 0.
fn check_extensions(header: &Fields<'_>, mut offset: usize, cluster: usize) -> Result<(), Refusal> {
    let end = cluster.min(header.bytes.len()).min(EXTENSIONS);
    while offset.saturating_add(8) <= end {
        let kind = header.u32_be(offset)?;
        let length = header.u32_be(offset + 4)? as usize;
        if kind == 0 {
            return Ok(());
        }
        if kind == DATA_FILE_NAME {
            return Err(refuse(Format::Qcow2, "it names a data file"));
        }
        if length > cluster {
            return Err(refuse(
                Format::Qcow2,
                "a header extension is longer than a cluster",
            ));
        }
        offset += 8 + length.next_multiple_of(8);
    }
    Ok(())
}
