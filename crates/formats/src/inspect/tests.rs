//! Made-up images, honest and hostile.
#![allow(clippy::unwrap_used)]

use super::*;

fn put(bytes: &mut Vec<u8>, offset: usize, piece: &[u8]) {
    if bytes.len() < offset + piece.len() {
        bytes.resize(offset + piece.len(), 0);
    }
    bytes[offset..offset + piece.len()].copy_from_slice(piece);
}

fn with(mut bytes: Vec<u8>, offset: usize, piece: &[u8]) -> Vec<u8> {
    put(&mut bytes, offset, piece);
    bytes
}

fn qcow2() -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    put(&mut bytes, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut bytes, 20, &16u32.to_be_bytes());
    put(&mut bytes, 24, &1000u64.to_be_bytes());
    put(&mut bytes, 100, &104u32.to_be_bytes());
    bytes
}

fn qcow2_extension(kind: u32, length: u32) -> Vec<u8> {
    let bytes = with(qcow2(), 104, &0x6803_f857u32.to_be_bytes());
    let bytes = with(bytes, 108, &5u32.to_be_bytes());
    let bytes = with(bytes, 120, &kind.to_be_bytes());
    with(bytes, 124, &length.to_be_bytes())
}

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=1234\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
    # Extent description\nRW 2 SPARSE \"disk.vmdk\"\n# The Disk Data Base\nddb.adapterType = \"ide\"\n";

fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut bytes = vec![0; 65536];
    put(&mut bytes, 0, b"KDMV\x01\0\0\0");
    put(&mut bytes, 12, &2u64.to_le_bytes());
    put(&mut bytes, 20, &128u64.to_le_bytes());
    put(&mut bytes, 28, &1u64.to_le_bytes());
    put(&mut bytes, 36, &20u64.to_le_bytes());
    put(&mut bytes, 512, descriptor.as_bytes());
    bytes
}

/// A streamOptimized image whose header is repeated in a footer.
fn vmdk_with_footer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let bytes = with(
        vmdk(&DESCRIPTOR.replace("monolithicSparse", "streamOptimized")),
        56,
        &u64::MAX.to_le_bytes(),
    );
    let mut footer = bytes[..512].to_vec();
    change(&mut footer);
    let end = bytes.len() - 1024;
    with(bytes, end, &footer)
}

fn vhd_footer(kind: u32, size: u64) -> Vec<u8> {
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 48, &size.to_be_bytes());
    put(&mut footer, 60, &kind.to_be_bytes());
    footer
}

fn vhd(kind: u32) -> Vec<u8> {
    let footer = vhd_footer(kind, 4096);
    let bytes = if kind == 2 {
        vec![0; 4096]
    } else {
        with(vec![0; 4096], 0, &footer)
    };
    [bytes, footer].concat()
}

fn vhdx(items: &[(&str, u32)], parameters: u32) -> Vec<u8> {
    // GUIDs as the specification prints them, turned into the file's order.
    let guid = |text: &str| uuid::Uuid::parse_str(text).unwrap().to_bytes_le();
    let mut bytes = vec![0; 2 << 20];
    put(&mut bytes, 0, b"vhdxfile");
    for table in [192 * 1024, 256 * 1024] {
        put(&mut bytes, table, b"regi");
        put(&mut bytes, table + 8, &1u32.to_le_bytes());
        put(
            &mut bytes,
            table + 16,
            &guid("8B7CA206-4790-4B9A-B8FE-575F050F886E"),
        );
        put(&mut bytes, table + 32, &(1u64 << 20).to_le_bytes());
    }
    let base = 1 << 20;
    put(&mut bytes, base, b"metadata");
    put(
        &mut bytes,
        base + 10,
        &u16::try_from(items.len()).unwrap().to_le_bytes(),
    );
    for (n, (item, place)) in items.iter().enumerate() {
        put(&mut bytes, base + 32 + n * 32, &guid(item));
        put(&mut bytes, base + 48 + n * 32, &place.to_le_bytes());
    }
    put(&mut bytes, base + 65536, &5000u64.to_le_bytes());
    put(&mut bytes, base + 65536 + 8 + 4, &parameters.to_le_bytes());
    bytes
}

const VHDX_SIZE: (&str, u32) = ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", 65536);
const VHDX_PARAMETERS: (&str, u32) = ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", 65544);
const VHDX_PARENT: (&str, u32) = ("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", 65544);

fn vdi() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    put(&mut bytes, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    put(&mut bytes, 0x40, &[0x7f, 0x10, 0xda, 0xbe]);
    put(&mut bytes, 0x44, &0x0001_0001u32.to_le_bytes());
    put(&mut bytes, 0x4c, &1u32.to_le_bytes());
    put(&mut bytes, 0x170, &7000u64.to_le_bytes());
    bytes
}

fn iso() -> Vec<u8> {
    let bytes = with(vec![0; 65536], 32768, b"\x01CD001\x01");
    let bytes = with(bytes, 32768 + 80, &30u32.to_le_bytes());
    with(bytes, 32768 + 128, &2048u16.to_le_bytes())
}

fn mbr() -> Vec<u8> {
    let bytes = with(vec![0; 8192], 446, &[0x80, 0, 1, 0, 0x83]);
    with(bytes, 510, &[0x55, 0xaa])
}

fn gpt() -> Vec<u8> {
    with(mbr(), 512, b"EFI PART")
}

fn found(bytes: &[u8]) -> Result<Inspection, String> {
    inspect(bytes, "anything").map_err(|error| error.to_string())
}

#[test]
fn honest_images() {
    let fat = with(
        with(vec![0; 4096], 0, b"\xeb\x3c\x90mkfs.fat"),
        510,
        &[0x55, 0xaa],
    );
    let cases = [
        (Vec::new(), Format::Raw, 0),
        (vec![7; 100], Format::Raw, 100),
        (fat, Format::Raw, 4096),
        (mbr(), Format::Mbr, 8192),
        (gpt(), Format::Gpt, 8192),
        (qcow2(), Format::Qcow2, 1000),
        (with(qcow2(), 4, &2u32.to_be_bytes()), Format::Qcow2, 1000),
        (
            with(qcow2(), 72, &0b11001u64.to_be_bytes()),
            Format::Qcow2,
            1000,
        ),
        (qcow2_extension(0, 0), Format::Qcow2, 1000),
        (vmdk(DESCRIPTOR), Format::Vmdk, 1024),
        (vmdk_with_footer(|_| ()), Format::Vmdk, 1024),
        (vhd(2), Format::Vhd, 4096),
        (vhd(3), Format::Vhd, 4096),
        ([gpt(), vhd_footer(2, 8192)].concat(), Format::Vhd, 8192),
        (vhdx(&[VHDX_SIZE, VHDX_PARAMETERS], 0), Format::Vhdx, 5000),
        (vdi(), Format::Vdi, 7000),
        (iso(), Format::Iso, 61440),
        (with(iso(), 446, &gpt()[446..520]), Format::Iso, 61440),
        (
            with(vec![0; 4096], 0, b"LUKS\xba\xbe\0\x01"),
            Format::Luks,
            4096,
        ),
        (
            with(vec![0; 4096], 0, b"WithouFreSpacExt"),
            Format::Ploop,
            4096,
        ),
        (with(vec![0; 4096], 0, b"QED\0"), Format::Qed, 4096),
    ];
    for (bytes, format, virtual_size) in cases {
        assert_eq!(
            found(&bytes),
            Ok(Inspection {
                format,
                virtual_size
            })
        );
    }
}

#[test]
fn hostile_images() {
    let cases = [
        (with(qcow2(), 8, &512u64.to_be_bytes()), "backing file"),
        (with(qcow2(), 16, &8u32.to_be_bytes()), "backing file"),
        (with(qcow2(), 72, &4u64.to_be_bytes()), "another file"),
        (with(qcow2(), 72, &2u64.to_be_bytes()), "corrupt"),
        (
            with(qcow2(), 72, &(1u64 << 5).to_be_bytes()),
            "unknown features",
        ),
        (
            with(qcow2(), 72, &(1u64 << 63).to_be_bytes()),
            "unknown features",
        ),
        (with(qcow2(), 4, &4u32.to_be_bytes()), "version 4"),
        (with(qcow2(), 20, &30u32.to_be_bytes()), "clusters"),
        (with(qcow2(), 24, &u64::MAX.to_be_bytes()), "not possible"),
        (with(qcow2(), 100, &8u32.to_be_bytes()), "header of 8 bytes"),
        (qcow2_extension(0x4441_5441, 4), "data file"),
        (qcow2_extension(0x1234, u32::MAX), "longer than a cluster"),
        (qcow2()[..60].to_vec(), "ends inside"),
        (b"QFI\xfb".to_vec(), "ends inside"),
        (DESCRIPTOR.as_bytes().to_vec(), "holds its own data"),
        (
            b"# comment\n\nversion=1\ncreateType=x\n".to_vec(),
            "holds its own data",
        ),
        (with(vec![0; 600], 0, b"COWD"), "holds its own data"),
        (
            vmdk(&DESCRIPTOR.replace("monolithicSparse", "monolithicFlat")),
            "monolithicFlat is not allowed",
        ),
        (
            vmdk(&DESCRIPTOR.replace("SPARSE \"", "FLAT \"/etc/shadow")),
            "one sparse extent",
        ),
        (
            vmdk(&format!("{DESCRIPTOR}RW 4 FLAT \"/etc/shadow\" 0\n")),
            "one sparse extent",
        ),
        (
            vmdk(&format!("{DESCRIPTOR}createType=\"vmfs\"\n")),
            "type once",
        ),
        (
            vmdk(&DESCRIPTOR.replace("parentCID=ffffffff", "parentCID=12345678")),
            "parent image",
        ),
        (
            vmdk(&format!("{DESCRIPTOR}parentFileNameHint=\"/etc/shadow\"\n")),
            "names a parent",
        ),
        (vmdk(""), "type once"),
        (
            with(vmdk(DESCRIPTOR), 28, &0u64.to_le_bytes()),
            "no embedded descriptor",
        ),
        (
            with(vmdk(DESCRIPTOR), 36, &u64::MAX.to_le_bytes()),
            "sensible size",
        ),
        (
            with(vmdk(DESCRIPTOR), 28, &(u64::MAX / 2).to_le_bytes()),
            "at its place",
        ),
        (
            with(vmdk(DESCRIPTOR), 28, &40u64.to_le_bytes()),
            "at its place",
        ),
        (
            with(vmdk(DESCRIPTOR), 12, &0u64.to_le_bytes()),
            "no capacity",
        ),
        (
            vmdk(&format!("# createType=\"monolithicFlat\"\n{DESCRIPTOR}")),
            "type once",
        ),
        (
            vmdk(&format!("# parentCID=1\n{DESCRIPTOR}")),
            "parent more than once",
        ),
        (
            vmdk(&format!(
                "{DESCRIPTOR}# parentFileNameHint=\"/etc/shadow\"\n"
            )),
            "names a parent",
        ),
        (
            vmdk(&DESCRIPTOR.replace("RW 2 SPARSE", "RW\x0b2 SPARSE")),
            "not a text",
        ),
        (
            vmdk(&DESCRIPTOR.replace("RW 2 SPARSE", "RW\n2 SPARSE")),
            "one sparse extent",
        ),
        (
            vmdk(&DESCRIPTOR.replace("RW 2 SPARSE", "NOACCESS 2 ZERO")),
            "one sparse extent",
        ),
        (vmdk(&"#".repeat(20 * 512)), "has no end"),
        (
            with(vmdk(DESCRIPTOR), 12, &u64::MAX.to_le_bytes()),
            "capacity",
        ),
        (with(vmdk(DESCRIPTOR), 4, &9u32.to_le_bytes()), "version 9"),
        (
            vmdk_with_footer(|footer| put(footer, 28, &7u64.to_le_bytes())),
            "footer contradicts",
        ),
        (
            vmdk_with_footer(|footer| put(footer, 0, b"XXXX")),
            "footer contradicts",
        ),
        (vhd(4), "differencing"),
        (vhd(9), "type 9"),
        (with(vhd(3), 0, &vhd_footer(4, 4096)), "differencing"),
        (with(vhd(3), 0, &vhd_footer(3, 1)), "contradicts"),
        (
            [vec![0; 4096], vhd_footer(3, 4096)].concat(),
            "without a header",
        ),
        (vhdx(&[VHDX_SIZE, VHDX_PARAMETERS], 2), "parent image"),
        (vhdx(&[VHDX_SIZE, VHDX_PARENT], 0), "parent image"),
        (vhdx(&[VHDX_PARAMETERS], 0), "does not say its size"),
        (
            with(vhdx(&[VHDX_SIZE], 0), 1 << 20, b"nonsense"),
            "metadata are not",
        ),
        (b"vhdxfile".to_vec(), "no region table"),
        (with(vdi(), 0x4c, &4u32.to_le_bytes()), "image type 4"),
        (with(vdi(), 0x1b8, &[1]), "parent image"),
        (with(vdi(), 0x44, &[9]), "version"),
        (vdi()[..0x100].to_vec(), "ends inside"),
        (with(qcow2(), 32768, &iso()[32768..34816]), "qcow2 and iso"),
        ([qcow2(), vhd_footer(2, 65536)].concat(), "qcow2 and vhd"),
        (with(vmdk(DESCRIPTOR), 510, &mbr()[510..512]), ""),
        (with(vdi(), 0, b"QED\0"), "vdi and qed"),
    ];
    for (bytes, message) in cases {
        match found(&bytes) {
            Ok(found) => assert!(message.is_empty(), "{message}: {found:?}"),
            Err(text) => assert!(
                !message.is_empty() && text.contains(message),
                "wanted {message}, got {text}"
            ),
        }
    }
}

/// `disk_format`, `container_format`, content, the size of the disk or the refusal.
type Case<'a> = (&'a str, &'a str, &'a [u8], Result<u64, &'a str>);

#[test]
fn claims_are_compared_with_the_content() {
    let (raw, flat) = (
        vec![7; 100],
        vmdk(&DESCRIPTOR.replace("monolithicSparse", "monolithicFlat")),
    );
    let cases: [Case<'_>; 22] = [
        ("raw", "bare", &raw, Ok(100)),
        ("raw", "bare", &mbr(), Ok(8192)),
        ("raw", "bare", &gpt(), Ok(8192)),
        ("gpt", "bare", &gpt(), Ok(8192)),
        ("gpt", "bare", &mbr(), Ok(8192)),
        (
            "gpt",
            "bare",
            &raw,
            Err("gpt does not match its content, which is raw"),
        ),
        ("raw", "bare", &iso(), Ok(65536)),
        ("iso", "bare", &iso(), Ok(61440)),
        (
            "raw",
            "bare",
            &qcow2(),
            Err("raw does not match its content, which is qcow2"),
        ),
        (
            "raw",
            "bare",
            &vhd(2),
            Err("raw does not match its content, which is vhd"),
        ),
        (
            "raw",
            "bare",
            &vmdk(DESCRIPTOR),
            Err("raw does not match its content, which is vmdk"),
        ),
        (
            "raw",
            "bare",
            b"QED\0",
            Err("raw does not match its content, which is qed"),
        ),
        (
            "raw",
            "bare",
            b"QFI\xfb\0\0\0\x01",
            Err("raw does not match its content, which is qcow"),
        ),
        ("aki", "aki", &raw, Ok(100)),
        ("ami", "ami", &mbr(), Ok(8192)),
        (
            "ari",
            "ari",
            &qcow2(),
            Err("ari does not match its content, which is qcow2"),
        ),
        (
            "qcow2",
            "bare",
            &raw,
            Err("qcow2 does not match its content, which is raw"),
        ),
        (
            "qcow2",
            "bare",
            &vdi(),
            Err("qcow2 does not match its content, which is vdi"),
        ),
        ("qcow2", "bare", &qcow2(), Ok(1000)),
        ("vmdk", "ova", &raw, Ok(100)),
        ("vmdk", "ova", &flat, Err("monolithicFlat is not allowed")),
        (
            "vhd",
            "bare",
            &vhdx(&[VHDX_SIZE], 0),
            Err("vhd does not match its content, which is vhdx"),
        ),
    ];
    for (disk, container, bytes, wanted) in cases {
        match (check(bytes, disk, container), wanted) {
            (Ok(size), Ok(wanted)) => assert_eq!(size, wanted, "{disk} {container}"),
            (Err(error), Err(wanted)) => {
                assert!(error.to_string().contains(wanted), "{wanted}: {error}")
            }
            (got, wanted) => panic!("{disk} {container}: {got:?} instead of {wanted:?}"),
        }
        // What is said early is never harsher than what is said at the end.
        let head = &bytes[..bytes.len().min(HEAD)];
        assert!(
            check_head(head, disk, container).is_ok() || wanted.is_err(),
            "{disk} {container}"
        );
    }
}

/// Whatever the bytes: an answer, no panic, no endless loop.
#[test]
fn damaged_images_do_not_break_the_inspection() {
    let images = [
        qcow2(),
        vmdk(DESCRIPTOR),
        vhd(3),
        vdi(),
        iso(),
        gpt(),
        vhdx(&[VHDX_SIZE, VHDX_PARAMETERS], 0),
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for image in images {
        let interesting = [64, 600, 1024, 200 * 1024, image.len()];
        for _ in 0..100 {
            let mut bytes = image.clone();
            for _ in 0..8 {
                let area = interesting[random(interesting.len())].min(bytes.len());
                let place = random(area);
                bytes[place] = u8::try_from(random(256)).unwrap();
            }
            bytes.truncate(random(bytes.len()) + 1);
            let _ = inspect(bytes.as_slice(), "raw");
            let _ = check_head(&bytes[..bytes.len().min(HEAD)], "raw", "bare");
        }
    }
}
