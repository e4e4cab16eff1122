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

/// The inspection itself is tested in `formats`.
#[tokio::test]
async fn images_at_fault_are_told_from_disks_at_fault() {
    if !tools_are_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, size) in [("good", "1M"), ("huge", "3000G")] {
        qemu_img(&["create", "-q", "-f", "qcow2"], &path(name), &[size]);
    }
    let backing = Backing {
        name: "/etc/shadow",
        format: DiskFormat::Raw,
    };
    qcow2::create(&path("backed"), 1 << 20, Some(backing)).unwrap();

    let good = check(&path("good"), "qcow2", 10).await.unwrap();
    assert_eq!((good.driver, good.virtual_bytes), ("qcow2", 1 << 20));
    for (name, format, reason) in [
        ("backed", "qcow2", "backing file"),
        ("good", "raw", "does not match its content"),
        ("good", "ploop", "cannot be used as a disk here"),
        ("huge", "qcow2", "larger than 10 GiB"),
    ] {
        match check(&path(name), format, 10).await {
            Err(HypervisorError::Image(text)) => assert!(text.contains(reason), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let missing = check(&path("nothing"), "raw", 1).await;
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
    let base = bases.adopt("img-1", &download, "qcow2", 1).await.unwrap().0;
    assert_eq!(base.virtual_bytes, 100_352);
    assert_eq!(std::fs::read(&base.path).unwrap()[..content.len()], content);
    assert_eq!(bases.cached("img-1"), Some(base.clone()));

    let download = bases.download_path("img-2", "b");
    std::fs::write(&download, &content).unwrap();
    let second = bases.adopt("img-2", &download, "raw", 1).await.unwrap().0;
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

#[test]
fn a_base_that_another_host_has_made_meanwhile_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let bases = BaseImages::open(folder.path()).unwrap();
    let made = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let target = bases.folder.join("img-1");
    assert!(finish(&made("one.ready", b"first"), &target).unwrap());
    let open = std::fs::File::open(&target).unwrap();
    assert!(!finish(&made("two.ready", b"second"), &target).unwrap());
    // Who has it open has what is there.
    let there = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&target).unwrap());
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&open.metadata().unwrap()),
        there
    );
    assert!(std::fs::read(&target).unwrap().starts_with(b"first"));
    assert!(!folder.path().join("two.ready").exists());
    // What is known of it stays, too, and of none that is left of an older base.
    bases.set_note("img-1", "digests").unwrap();
    let copy = made("three.copy", b"third");
    bases.take_over("img-1", &copy, "copied").unwrap();
    assert_eq!(bases.note("img-1").as_deref(), Some("digests"));
    bases.set_note("img-2", "of the one before").unwrap();
    let copy = made("four.copy", b"fourth");
    bases.take_over("img-2", &copy, "copied").unwrap();
    assert_eq!(bases.note("img-2").as_deref(), Some("copied"));
}
