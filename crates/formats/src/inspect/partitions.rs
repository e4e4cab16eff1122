//! Disks with a partition table: GPT (UEFI specification, chapter 5) or MBR.

use super::Format;

/// A GPT has a protective MBR and `EFI PART` in the second sector (of 512 or 4096 bytes).
pub(super) fn found(head: &[u8]) -> Option<Format> {
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return None;
    }
    let gpt = [512, 4096]
        .iter()
        .any(|sector| head.get(*sector..*sector + 8) == Some(b"EFI PART"));
    if gpt {
        return Some(Format::Gpt);
    }
    // The boot sector of a FAT or NTFS volume has the signature too, but no partitions: entries whose status is
    // not 0x00 or 0x80, or all empty.
    let entries: Vec<&[u8]> = head[446..510].chunks(16).collect();
    let possible = entries.iter().all(|entry| matches!(entry[0], 0 | 0x80));
    let used = entries.iter().any(|entry| entry[4] != 0);
    (possible && used).then_some(Format::Mbr)
}
