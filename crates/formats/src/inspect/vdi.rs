//! VDI (VirtualBox; the layout as in QEMU's `block/vdi.c`).

use super::{Error, Fields, Format, Refusal, Source, refuse};

/// Refuses differencing disks; answers the size of the disk.
pub(super) fn check<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let head = source.read(0, 512)?;
    Ok(check_header(&Fields::new(Format::Vdi, &head))?)
}

fn check_header(header: &Fields<'_>) -> Result<u64, Refusal> {
    let version = header.u32_le(0x44)?;
    if version != 0x0001_0001 {
        return Err(refuse(
            Format::Vdi,
            format!("version {version:#x} is not known"),
        ));
    }
    let kind = header.u32_le(0x4c)?;
    if !matches!(kind, 1 | 2) {
        return Err(refuse(
            Format::Vdi,
            format!("the image type {kind} is not allowed, only dynamic and static are"),
        ));
    }
    let named = |offset| -> Result<bool, Refusal> {
        Ok(header.bytes(offset, 16)?.iter().any(|byte| *byte != 0))
    };
    if named(0x1a8)? || named(0x1b8)? {
        return Err(refuse(Format::Vdi, "it names a parent image"));
    }
    header.u64_le(0x170)
}
