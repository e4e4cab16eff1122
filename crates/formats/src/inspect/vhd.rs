//! VHD (Microsoft "Virtual Hard Disk Image Format Specification" 1.0).

use super::{Error, Fields, Format, Refusal, Source, refuse};
use std::io;

const COOKIE: &[u8] = b"conectix";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;

/// The last 512 bytes are the footer; dynamic disks begin with a copy. Old fixed disks have one of 511 bytes.
fn footers<S: Source + ?Sized>(source: &S) -> io::Result<Vec<Vec<u8>>> {
    let size = source.size()?;
    let mut found = Vec::new();
    for offset in [0, size.saturating_sub(512), size.saturating_sub(511)] {
        let mut footer = source.read(offset, 512)?;
        if footer.starts_with(COOKIE) {
            footer.resize(512, 0);
            found.push(footer);
        }
    }
    Ok(found)
}

pub(super) fn found<S: Source + ?Sized>(source: &S) -> io::Result<bool> {
    Ok(!footers(source)?.is_empty())
}

/// Refuses differencing disks and contradictory footers; answers the size of the disk.
pub(super) fn check<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let mut answer = None;
    for footer in footers(source)? {
        let one = check_footer(&Fields::new(Format::Vhd, &footer))?;
        if answer.is_some_and(|other| other != one) {
            return Err(refuse(Format::Vhd, "its footer contradicts its header").into());
        }
        answer = Some(one);
    }
    let (kind, size) = answer.ok_or_else(|| refuse(Format::Vhd, "it has no footer"))?;
    if kind == DYNAMIC && !source.read(0, 8)?.starts_with(COOKIE) {
        return Err(refuse(Format::Vhd, "it is a dynamic disk without a header").into());
    }
    Ok(size)
}

fn check_footer(footer: &Fields<'_>) -> Result<(u32, u64), Refusal> {
    let kind = footer.u32_be(60)?;
    match kind {
        FIXED | DYNAMIC => Ok((kind, footer.u64_be(48)?)),
        4 => Err(refuse(
            Format::Vhd,
            "it is a differencing disk, which has a parent",
        )),
        other => Err(refuse(
            Format::Vhd,
            format!("the disk type {other} is not known"),
        )),
    }
}
