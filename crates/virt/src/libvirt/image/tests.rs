#![allow(clippy::unwrap_used)]
use super::*;
use crate::libvirt::qcow2::{self, Backing};
use std::process::Command as Process;

fn tools_are_there() -> bool {
    let there = Process::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: qemu-img is not installed");
    }
    there
}

fn qemu_img(arguments: &[&str], path: &Path, rest: &[&str]) {
    let output = Process::new("qemu-img")
        .args(arguments)
        .arg(path)
        .args(rest)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn vmdk(capacity: u64, descriptor: &str) -> Vec<u8> {
    let mut file = vec![0; 64 * 512];
    file[..4].copy_from_slice(b"KDMV");
    file[4] = 1;
    file[12..20].copy_from_slice(&capacity.to_le_bytes());
    file[28..36].copy_from_slice(&1u64.to_le_bytes());
    file[36..44].copy_from_slice(&20u64.to_le_bytes());
    file[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    file
}

#[tokio::test]
async fn honest_images_pass() {
    if !tools_are_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (format, driver) in [
        ("raw", "raw"),
        ("qcow2", "qcow2"),
        ("vdi", "vdi"),
        ("vhd", "vpc"),
        ("vhdx", "vhdx"),
        ("vmdk", "vmdk"),
    ] {
        let path = folder.path().join(format);
        qemu_img(&["create", "-q", "-f", driver], &path, &["8M"]);
        let checked = check(&path, format, 1).await.unwrap();
        assert_eq!(checked.driver, driver);
        assert!(checked.virtual_bytes >= 8 << 20, "{format}");
    }
}

#[tokio::test]
async fn hostile_images_are_refused() {
    if !tools_are_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let made = |name: &str, options: &[&str], size: &str| {
        let path = folder.path().join(name);
        qemu_img(
            &[&["create", "-q", "-f", "qcow2"], options].concat(),
            &path,
            &[size],
        );
        path
    };
    let backed = folder.path().join("backed");
    let backing = Backing {
        name: "/etc/shadow",
        format: DiskFormat::Raw,
    };
    qcow2::create(&backed, 1 << 20, Some(backing)).unwrap();
    let data_file = format!("data_file={}", folder.path().join("outside").display());
    let outside = made("data-file", &["-o", &data_file], "1M");
    let good = made("good", &[], "1M");
    let huge = made("huge", &[], "3000G");
    let mut future = std::fs::read(&good).unwrap();
    future[79] |= 0x80;
    let mut cut = std::fs::read(&good).unwrap();
    cut.truncate(40);
    let sparse = "createType=\"monolithicSparse\"\nparentCID=ffffffff\nRW 1 SPARSE \"x.vmdk\"\n";
    let flat = sparse.replace("monolithicSparse", "monolithicFlat");
    let child = sparse.replace("ffffffff", "12345678");
    let two = format!("{sparse}RW 1 FLAT \"/etc/shadow\" 0\n");
    let text = format!("# Disk DescriptorFile\n{flat}RW 1 FLAT \"/etc/shadow\" 0\n");

    let table: &[(&str, PathBuf, &str, &str)] = &[
        ("backing file", backed.clone(), "qcow2", "backing file"),
        ("data file", outside, "qcow2", "external data file"),
        (
            "qcow2 sold as raw",
            good.clone(),
            "raw",
            "claims to be raw and is qcow2",
        ),
        (
            "backing file sold as raw",
            backed,
            "raw",
            "claims to be raw",
        ),
        (
            "raw sold as qcow2",
            file("raw", &[0; 4096]),
            "qcow2",
            "claims to be qcow2 and is raw",
        ),
        ("iso that is qcow2", good.clone(), "iso", "claims to be iso"),
        ("huge", huge, "qcow2", "larger than 10 GiB"),
        (
            "unknown feature",
            file("future", &future),
            "qcow2",
            "unknown qcow2 features",
        ),
        ("cut off", file("cut", &cut), "qcow2", "cut off"),
        ("no driver", good, "ploop", "cannot be run here"),
        (
            "vmdk descriptor",
            file("text", text.as_bytes()),
            "vmdk",
            "descriptor files",
        ),
        (
            "vmdk flat",
            file("flat", &vmdk(8, &flat)),
            "vmdk",
            "monolithicSparse",
        ),
        (
            "vmdk child",
            file("child", &vmdk(8, &child)),
            "vmdk",
            "parent",
        ),
        (
            "vmdk extents",
            file("two", &vmdk(8, &two)),
            "vmdk",
            "extent",
        ),
        (
            "vmdk without size",
            file("none", &vmdk(0, sparse)),
            "vmdk",
            "header",
        ),
        (
            "luks",
            file("luks", b"LUKS\xba\xbe\0\x01"),
            "raw",
            "is luks",
        ),
    ];
    for (name, path, format, reason) in table {
        match check(path, format, 10).await {
            Err(HypervisorError::Image(text)) => assert!(text.contains(reason), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let missing = check(&folder.path().join("nothing"), "raw", 1).await;
    assert!(matches!(
        missing,
        Err(HypervisorError::Disk { full: false, .. })
    ));
}

#[tokio::test]
async fn adopted_images_become_raw_bases() {
    if !tools_are_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bases = BaseImages::open(folder.path()).unwrap();
    let download = bases.download_path("img-1", "a");
    let content: Vec<u8> = (0..100_001u32).map(|n| n as u8).collect();
    let raw = folder.path().join("source");
    std::fs::write(&raw, &content).unwrap();
    qemu_img(
        &["convert", "-O", "qcow2"],
        &raw,
        &[download.to_str().unwrap()],
    );

    assert_eq!(bases.cached("img-1"), None);
    let base = bases.adopt("img-1", &download, "qcow2", 1).await.unwrap();
    assert_eq!(base.virtual_bytes, 100_352);
    assert_eq!(std::fs::read(&base.path).unwrap()[..content.len()], content);
    assert_eq!(bases.cached("img-1"), Some(base.clone()));

    let download = bases.download_path("img-2", "b");
    std::fs::write(&download, &content).unwrap();
    let second = bases.adopt("img-2", &download, "raw", 1).await.unwrap();
    assert_eq!(second.virtual_bytes, 100_352);

    let lying = bases.download_path("img-3", "c");
    std::fs::write(&lying, b"QFI\xfb").unwrap();
    assert!(bases.adopt("img-3", &lying, "raw", 1).await.is_err());
    let mut names: Vec<_> = std::fs::read_dir(folder.path().join("_base"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["img-1", "img-2"],
        "downloads and half-made files are gone"
    );
    bases.remove("img-1").unwrap();
    bases.remove("img-1").unwrap();
    assert_eq!(bases.cached("img-1"), None);
    assert_eq!(
        file_name("../../etc/passwd"),
        "_2e_2e_2f_2e_2e_2fetc_2fpasswd"
    );
}
