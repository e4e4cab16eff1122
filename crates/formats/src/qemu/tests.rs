#![allow(clippy::unwrap_used)]

use super::*;
use std::process::Command as Process;

fn is_there() -> bool {
    let there = Process::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: qemu-img is not installed");
    }
    there
}

fn qemu_img(arguments: &[&str], files: &[&Path]) {
    let made = Process::new("qemu-img")
        .args(arguments)
        .args(files)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test]
async fn honest_images_become_raw() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("raw"), [5; 70_000]).unwrap();
    for (format, target, options) in [
        ("qcow2", "qcow2", "cluster_size=65536"),
        ("vdi", "vdi", "static=off"),
        ("vhdx", "vhdx", "subformat=dynamic"),
        ("vhd", "vpc", "subformat=dynamic"),
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
    ] {
        let options = ["convert", "-f", "raw", "-O", target, "-o", options];
        qemu_img(&options, &[&path("raw"), &path(format)]);
        let checked = check(&path(format), format).await.unwrap();
        assert_eq!(checked.driver, target);
        assert!(checked.virtual_bytes >= 70_000, "{format}");

        let back = path("back");
        let most = Some(checked.virtual_bytes + GIB);
        convert((&path(format), target), (&back, "raw"), most)
            .await
            .unwrap();
        assert_eq!(std::fs::read(&back).unwrap()[..70_000], [5; 70_000]);
        let claimed = check(&path(format), "raw").await;
        assert!(matches!(claimed, Err(QemuError::Refused(_))), "{format}");
    }
}

/// What QEMU alone would open: none of these may reach it.
#[tokio::test]
async fn images_that_name_other_files_are_refused() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("secret"), [7; 4096]).unwrap();
    qemu_img(
        &["create", "-q", "-f", "qcow2"],
        &[&path("good"), Path::new("1M")],
    );
    let secret = path("secret");
    let secret = secret.to_str().unwrap();
    let data_file = format!("data_file={}", path("outside").display());
    let options = ["create", "-q", "-f", "qcow2", "-o", &data_file];
    qemu_img(&options, &[&path("external"), Path::new("1M")]);
    let options = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret];
    qemu_img(&options, &[&path("backed")]);
    // The type that comes first, within a comment, is the one that QEMU takes; its extents are divided by any of C's
    // blanks. The capacity of 0 makes it read the descriptor.
    let descriptor = format!(
        "# createType=\"monolithicFlat\"\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
         RDONLY 1 SPARSE \"x\"\nRW\x0b8 FLAT \"{secret}\" 0\n"
    );
    let mut hidden = vec![0; 64 * 512];
    hidden[..8].copy_from_slice(b"KDMV\x01\0\0\0");
    hidden[28..36].copy_from_slice(&1u64.to_le_bytes());
    hidden[36..44].copy_from_slice(&20u64.to_le_bytes());
    hidden[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    std::fs::write(path("hidden"), hidden).unwrap();
    let by_qemu = path("by-qemu");
    qemu_img(
        &["convert", "-f", "vmdk", "-O", "raw"],
        &[&path("hidden"), &by_qemu],
    );
    assert_eq!(
        std::fs::read(by_qemu).unwrap(),
        [7; 4096],
        "QEMU believes it"
    );

    for (name, disk_format, said) in [
        ("external", "qcow2", "another file"),
        ("backed", "qcow2", "backing file"),
        ("good", "raw", "does not match its content"),
        ("hidden", "vmdk", "no capacity"),
        ("secret", "qcow2", "does not match its content"),
        ("secret", "ploop", "cannot be used"),
    ] {
        let error = check(&path(name), disk_format).await.unwrap_err();
        assert!(error.to_string().contains(said), "{name}: {error}");
    }
    let info = info(&path("hidden"), "vmdk").await.unwrap();
    assert!(info.refers(&path("hidden")), "{info:?}");
    let missing = check(&path("nothing"), "raw").await;
    assert!(matches!(missing, Err(QemuError::Io { .. })), "{missing:?}");
}

#[tokio::test]
async fn what_is_written_has_a_bound() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    std::fs::write(&from, vec![3; 1 << 20]).unwrap();
    let made = convert((&from, "raw"), (&to, "raw"), Some(1 << 16)).await;
    assert!(made.is_err(), "{made:?}");
    assert!(std::fs::metadata(&to).map_or(0, |file| file.len()) <= 1 << 16);
}

#[test]
fn failures_are_told_apart() {
    let gone = explain("prlimit: failed to execute qemu-img: No such file or directory");
    assert!(matches!(gone, QemuError::NoTool(_)), "{gone:?}");
    let full = explain("qemu-img: error while writing at byte 0: No space left on device");
    assert!(matches!(full, QemuError::Full(_)), "{full:?}");
    assert!(matches!(explain("else"), QemuError::Failed(_)));
}
