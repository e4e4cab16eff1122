//! ISO 9660 (ECMA-119) and UDF bridges: volume descriptors of 2048 bytes from byte 32768.

use super::{Error, Source};

const START: usize = 32 * 1024;

pub(super) fn found(head: &[u8]) -> bool {
    head.get(START + 1..START + 6).is_some_and(|id| {
        [b"CD001", b"NSR02", b"NSR03", b"BEA01"]
            .iter()
            .any(|one| id == *one)
    })
}

/// The volume's size where the primary descriptor says one, else the size of the data.
pub(super) fn virtual_size<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let size = source.size()?;
    for descriptor in 0..16 {
        let bytes = source.read((START + descriptor * 2048) as u64, 2048)?;
        if bytes.get(1..6) != Some(b"CD001") {
            break;
        }
        if let (1, Some(&[a, b, c, d]), Some(&[e, f])) =
            (bytes[0], bytes.get(80..84), bytes.get(128..130))
        {
            return Ok(
                u64::from(u32::from_le_bytes([a, b, c, d])) * u64::from(u16::from_le_bytes([e, f]))
            );
        }
    }
    Ok(size)
}
