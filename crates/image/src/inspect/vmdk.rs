//! VMDK (VMware "Virtual Disk Format 5.0"): only one sparse file that holds everything itself.

use super::{Error, Fields, Format, Refusal, Source, refuse};

const SECTOR: u64 = 512;
/// The grain directory is found through a footer at the end.
const AT_END: u64 = u64::MAX;
/// The longest embedded descriptor that is read, in sectors.
const DESCRIPTOR: u64 = 2048;

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
        return Err(refuse(
            Format::Vmdk,
            "it is not one sparse file that holds its own data",
        )
        .into());
    }
    let header = Fields::new(Format::Vmdk, &head);
    let version = header.u32_le(4)?;
    if !(1..=3).contains(&version) {
        return Err(refuse(Format::Vmdk, format!("version {version} is not known")).into());
    }
    let capacity = header.u64_le(12)?;
    let place = header.u64_le(28)?;
    let sectors = header.u64_le(36)?;
    if place == 0 || sectors == 0 || sectors > DESCRIPTOR {
        return Err(refuse(
            Format::Vmdk,
            "it has no embedded descriptor of a sensible size",
        )
        .into());
    }
    if header.u64_le(56)? == AT_END {
        check_footer(source, &head)?;
    }
    let offset = place
        .checked_mul(SECTOR)
        .ok_or_else(|| refuse(Format::Vmdk, "its descriptor lies outside of the file"))?;
    let text = source.read(offset, (sectors * SECTOR) as usize)?;
    check_descriptor(&text)?;
    Ok(capacity
        .checked_mul(SECTOR)
        .ok_or_else(|| refuse(Format::Vmdk, "its capacity is not possible"))?)
}

/// The footer is a copy of the header; a reader may believe either, so they must agree.
fn check_footer<S: Source + ?Sized>(source: &S, head: &[u8]) -> Result<(), Error> {
    let size = source.size()?;
    let footer = source.read(size.saturating_sub(1024), 512)?;
    let same = |from: usize, to: usize| {
        footer
            .get(from..to)
            .is_some_and(|bytes| head.get(from..to) == Some(bytes))
    };
    // Magic, version, flags, capacity, grain size, place and size of the descriptor, entries per table.
    if same(0, 48) {
        Ok(())
    } else {
        Err(refuse(Format::Vmdk, "its footer contradicts its header").into())
    }
}

fn check_descriptor(text: &[u8]) -> Result<(), Refusal> {
    let end = text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]);
    let bad = |reason: String| Err(refuse(Format::Vmdk, reason));
    let (mut kinds, mut extents) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        if let Some((name, content)) = line.split_once('=') {
            let (name, content) = (
                name.trim().to_ascii_lowercase(),
                content.trim().trim_matches('"'),
            );
            match name.as_str() {
                "createtype" => kinds.push(content.to_owned()),
                "parentcid" if !content.eq_ignore_ascii_case("ffffffff") => {
                    return bad("it has a parent image".to_owned());
                }
                "parentfilenamehint" => return bad("it names a parent image".to_owned()),
                _ => {}
            }
        }
        let mut words = line.split_ascii_whitespace();
        let access = words.next().unwrap_or_default().to_ascii_uppercase();
        if matches!(access.as_str(), "RW" | "RDONLY" | "NOACCESS") {
            extents.push(words.nth(1).unwrap_or_default().to_ascii_uppercase());
        }
    }
    match kinds.as_slice() {
        [kind] if matches!(kind.as_str(), "monolithicSparse" | "streamOptimized") => {}
        [kind] => {
            return bad(format!(
                "the type {kind} is not allowed, only monolithicSparse and streamOptimized are"
            ));
        }
        _ => return bad("it does not say its type once".to_owned()),
    }
    match extents.as_slice() {
        [extent] if extent == "SPARSE" => Ok(()),
        _ => bad("it does not consist of one sparse extent".to_owned()),
    }
}
