//! VMDK (VMware "Virtual Disk Format 5.0"): only one sparse file that holds everything itself.
//!
//! Readers differ in what they take from the descriptor (QEMU looks for some names anywhere in the text, comments too,
//! and for others at fixed places), so it is held against what is allowed, and whatever two of them could read
//! differently is refused.

use super::{Error, Fields, Format, Refusal, Source, refuse};

/// The types that are one file: `createType` of the descriptor.
pub const VMDK_TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];

const SECTOR: u64 = 512;
/// The grain directory is found through a footer at the end.
const AT_END: u64 = u64::MAX;
/// Where the descriptor begins, in sectors: every writer puts it there, and QEMU looks for a parent there.
const PLACE: u64 = 1;
/// The longest embedded descriptor that is read, in sectors.
const DESCRIPTOR: u64 = 2048;
/// What QEMU reads of it at least, whatever the header says, in sectors.
const READ_BY_QEMU: u64 = 20;

/// A sparse extent, or a descriptor alone.
pub(super) fn looks_like(head: &[u8]) -> bool {
    head.starts_with(b"KDMV") || head.starts_with(b"COWD") || is_descriptor(head)
}

/// QEMU takes a file for a descriptor when this line follows comments and empty lines only.
fn is_descriptor(head: &[u8]) -> bool {
    if head.starts_with(b"# Disk DescriptorFile") {
        return true;
    }
    let head = &head[..head.len().min(4096)];
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.starts_with(b"#") || line.is_empty() {
            continue;
        }
        return [b"version=1".as_slice(), b"version=2", b"version=3"].contains(&line);
    }
    false
}

/// Refuses what reaches outside of the file; answers the size of the disk.
pub(super) fn check<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let head = source.read(0, 512)?;
    if !head.starts_with(b"KDMV") {
        return Err(bad("it is not one sparse file that holds its own data").into());
    }
    let header = Fields::new(Format::Vmdk, &head);
    let version = header.u32_le(4)?;
    if !(1..=3).contains(&version) {
        return Err(bad(format!("version {version} is not known")).into());
    }
    let capacity = header.u64_le(12)?;
    if capacity == 0 {
        // For QEMU this is a descriptor that names its extents, not a disk.
        return Err(bad("it has no capacity").into());
    }
    let (place, sectors) = (header.u64_le(28)?, header.u64_le(36)?);
    if place != PLACE || !(1..=DESCRIPTOR).contains(&sectors) {
        return Err(bad("it has no embedded descriptor of a sensible size at its place").into());
    }
    if header.u64_le(56)? == AT_END {
        check_footer(source, &head)?;
    }
    let length = sectors.max(READ_BY_QEMU) * SECTOR;
    let text = source.read(PLACE * SECTOR, length as usize)?;
    check_descriptor(&text)?;
    Ok(capacity
        .checked_mul(SECTOR)
        .ok_or_else(|| bad("its capacity is not possible"))?)
}

/// The footer is a copy of the header; a reader may believe either, so they must agree.
fn check_footer<S: Source + ?Sized>(source: &S, head: &[u8]) -> Result<(), Error> {
    let size = source.size()?.next_multiple_of(SECTOR);
    let footer = source.read(size.saturating_sub(2 * SECTOR), 512)?;
    let same = |from: usize, to: usize| {
        footer
            .get(from..to)
            .is_some_and(|bytes| head.get(from..to) == Some(bytes))
    };
    // Magic, version, flags, capacity, grain size, place and size of the descriptor, entries per table.
    if same(0, 48) {
        Ok(())
    } else {
        Err(bad("its footer contradicts its header").into())
    }
}

fn check_descriptor(text: &[u8]) -> Result<(), Refusal> {
    let end = text.iter().position(|byte| *byte == 0);
    let text = &text[..end.ok_or_else(|| bad("its descriptor has no end"))?];
    // C's blanks are more than ours.
    let strange = |byte: &u8| byte.is_ascii_control() && !b"\t\n\r".contains(byte);
    if text.iter().any(strange) {
        return Err(bad("its descriptor is not a text"));
    }
    let text = String::from_utf8_lossy(text);
    check_names(&text.to_ascii_lowercase())?;
    let (mut kind, mut extents) = (None, 0);
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        match setting(line) {
            Some((name, value)) if name.eq_ignore_ascii_case("createType") => kind = Some(value),
            Some((name, value)) if name.eq_ignore_ascii_case("parentCID") => {
                if !value.eq_ignore_ascii_case("ffffffff") {
                    return Err(bad("it has a parent image"));
                }
            }
            Some(_) => {}
            None if is_own_extent(line) => extents += 1,
            None => return Err(bad("it does not consist of one sparse extent")),
        }
    }
    match kind {
        Some(kind) if VMDK_TYPES.contains(&kind) => {}
        Some(kind) => {
            return Err(bad(format!(
                "the type {kind} is not allowed, only monolithicSparse and streamOptimized are"
            )));
        }
        None => return Err(bad("it does not say its type once")),
    }
    if extents == 1 {
        Ok(())
    } else {
        Err(bad("it does not consist of one sparse extent"))
    }
}

/// Names that readers look for anywhere in the text, in lower case: one who finds the first of two, or one in a comment,
/// must not find another than one who reads line by line.
fn check_names(text: &str) -> Result<(), Refusal> {
    if text.contains("parentfilenamehint") {
        return Err(bad("it names a parent image"));
    }
    if text.matches("parentcid").count() > 1 {
        return Err(bad("it says its parent more than once"));
    }
    if text.matches("createtype").count() != 1 {
        return Err(bad("it does not say its type once"));
    }
    Ok(())
}

/// `name = "value"`; a name has no blanks in it, so no extent is one.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(plain);
    is_name.then(|| (name, value.trim().trim_matches('"')))
}

/// `RW 4192256 SPARSE "disk.vmdk"`: the file's own data, under whatever name it had.
fn is_own_extent(line: &str) -> bool {
    let mut words = line.splitn(4, ' ');
    let access = words.next().unwrap_or_default();
    let sectors = words.next().unwrap_or_default();
    let kind = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    let name = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    matches!(access, "RW" | "RDONLY")
        && sectors.parse::<u64>().is_ok()
        && kind == "SPARSE"
        && name.is_some_and(|name| !name.contains('"'))
}

fn bad(reason: impl Into<String>) -> Refusal {
    refuse(Format::Vmdk, reason)
}
