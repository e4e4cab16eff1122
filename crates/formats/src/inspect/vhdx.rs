//! VHDX ([MS-VHDX]).

use super::{Error, Fields, Format, Refusal, Source, refuse};

const REGION_TABLES: [u64; 2] = [192 * 1024, 256 * 1024];
const TABLE: usize = 64 * 1024;
/// GUIDs as they lie in the file, the first three parts little-endian.
const METADATA_REGION: [u8; 16] = guid(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE_575F_050F_886E);
const FILE_PARAMETERS: [u8; 16] = guid(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6_33F0_AA44_E76B);
const VIRTUAL_DISK_SIZE: [u8; 16] = guid(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211_5DBE_D83B_F4B8);
const PARENT_LOCATOR: [u8; 16] = guid(0xA8D3_5F2D, 0xB30B, 0x454D, 0xABF7_D3D8_4834_AB0C);
const HAS_PARENT: u32 = 2;

const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        d.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

/// Refuses disks with a parent; answers the size of the disk.
pub(super) fn check<S: Source + ?Sized>(source: &S) -> Result<u64, Error> {
    let mut answer = None;
    for place in REGION_TABLES {
        let table = source.read(place, TABLE)?;
        if !table.starts_with(b"regi") {
            continue;
        }
        let metadata = metadata_region(&Fields::new(Format::Vhdx, &table))?;
        let size = check_metadata(source, metadata)?;
        if answer.is_some_and(|other| other != size) {
            return Err(refuse(Format::Vhdx, "its region tables contradict each other").into());
        }
        answer = Some(size);
    }
    Ok(answer.ok_or_else(|| refuse(Format::Vhdx, "it has no region table"))?)
}

fn metadata_region(table: &Fields<'_>) -> Result<u64, Refusal> {
    let count = table.u32_le(8)?;
    if count > 2047 {
        return Err(refuse(Format::Vhdx, "its region table is too long"));
    }
    for entry in 0..count as usize {
        let offset = 16 + entry * 32;
        if table.bytes(offset, 16)? == METADATA_REGION {
            return table.u64_le(offset + 16);
        }
    }
    Err(refuse(Format::Vhdx, "it has no metadata"))
}

fn check_metadata<S: Source + ?Sized>(source: &S, region: u64) -> Result<u64, Error> {
    let bytes = source.read(region, TABLE)?;
    let table = Fields::new(Format::Vhdx, &bytes);
    if !bytes.starts_with(b"metadata") {
        return Err(refuse(Format::Vhdx, "its metadata are not where it says").into());
    }
    let count = table.u16_le(10)?;
    if count > 2047 {
        return Err(refuse(Format::Vhdx, "its metadata table is too long").into());
    }
    let mut size = None;
    for entry in 0..usize::from(count) {
        let offset = 32 + entry * 32;
        let item = table.bytes(offset, 16)?;
        let place = region.saturating_add(u64::from(table.u32_le(offset + 16)?));
        if item == PARENT_LOCATOR {
            return Err(refuse(Format::Vhdx, "it names a parent image").into());
        }
        if item == FILE_PARAMETERS {
            let content = source.read(place, 8)?;
            if Fields::new(Format::Vhdx, &content).u32_le(4)? & HAS_PARENT != 0 {
                return Err(refuse(Format::Vhdx, "it has a parent image").into());
            }
        }
        if item == VIRTUAL_DISK_SIZE {
            let content = source.read(place, 8)?;
            size = Some(Fields::new(Format::Vhdx, &content).u64_le(0)?);
        }
    }
    Ok(size.ok_or_else(|| refuse(Format::Vhdx, "it does not say its size"))?)
}
