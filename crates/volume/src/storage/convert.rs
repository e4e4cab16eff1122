//! Images from users are hostile: what they are is read from their first bytes, whatever would make QEMU open another
//! file is refused, and only then `qemu-img` sees them, with the format named, under limits of memory, time and file
//! size.

use super::GIB;
use serde::Deserialize;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Enough of a file to recognise every format and to read a VMDK descriptor.
const HEAD_BYTES: u64 = 96 * 1024;

/// Why an image cannot become a volume, or a volume an image.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The image is at fault.
    #[error("{0}")]
    Image(String),
    /// `qemu-img` is not installed.
    #[error("qemu-img is not installed")]
    NoTool,
    /// This machine is at fault.
    #[error("{0}")]
    Machine(String),
}

fn refused<T>(why: impl Into<String>) -> Result<T, ConvertError> {
    Err(ConvertError::Image(why.into()))
}

/// QEMU's name of a `disk_format`.
pub fn driver(format: &str) -> Option<&'static str> {
    Some(match format {
        "raw" | "iso" | "ami" | "ari" | "aki" => "raw",
        "qcow2" => "qcow2",
        "vmdk" => "vmdk",
        "vdi" => "vdi",
        "vhd" | "vpc" => "vpc",
        "vhdx" => "vhdx",
        _ => return None,
    })
}

/// What a checked image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// QEMU's driver for it.
    pub driver: &'static str,
    /// Bytes of the disk in it.
    pub virtual_bytes: u64,
}

/// Checks an image file against the format that it claims.
pub async fn check(path: &Path, claimed: &str) -> Result<Checked, ConvertError> {
    let Some(driver) = driver(claimed) else {
        return refused(format!("disk format '{claimed}' cannot become a volume"));
    };
    let machine = |error: std::io::Error| ConvertError::Machine(error.to_string());
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(machine)?;
    let length = file.metadata().map_err(machine)?.len();
    file.take(HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(machine)?;
    check_head(&head, claimed, driver)?;
    if driver == "raw" {
        return Ok(Checked {
            driver,
            virtual_bytes: length,
        });
    }
    let info = info(path, driver).await?;
    if info.format != driver || info.refers() {
        return refused("the image refers to other files");
    }
    if info.encrypted {
        return refused("the image is encrypted");
    }
    Ok(Checked {
        driver,
        virtual_bytes: info.virtual_size,
    })
}

/// The driver whose signature the file carries; raw when none.
fn signature(head: &[u8]) -> &'static str {
    let table: &[(usize, &[u8], &str)] = &[
        (0, b"QFI\xfb", "qcow2"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "vmdk"),
        (0x40, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", "vpc"),
        (0, b"QED\0", "qed"),
        (0, b"LUKS\xba\xbe", "luks"),
        (0, b"WithoutFreeSpace", "parallels"),
        (0, b"WithouFreSpacExt", "parallels"),
        (0, b"OOOM", "cow"),
    ];
    table
        .iter()
        .find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(magic))
        .map_or("raw", |(_, _, driver)| driver)
}

fn check_head(head: &[u8], claimed: &str, driver: &str) -> Result<(), ConvertError> {
    let found = signature(head);
    let fixed_vhd = driver == "vpc" && found == "raw";
    if found != driver && !fixed_vhd {
        return refused(format!("the image claims to be {claimed} and is {found}"));
    }
    match driver {
        "qcow2" => check_qcow2(head),
        "vmdk" => check_vmdk(head),
        _ => Ok(()),
    }
}

/// Offsets of the qcow2 header: version at 4, backing file's offset at 8, incompatible features at 72.
fn check_qcow2(head: &[u8]) -> Result<(), ConvertError> {
    const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    const KNOWN: u64 = 0x1f;
    let number = |at: usize| {
        let bytes = head.get(at..at + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    };
    let (Some(begin), Some(backing)) = (number(0), number(8)) else {
        return refused("the qcow2 header is cut off");
    };
    if backing != 0 {
        return refused("the image names a backing file");
    }
    match (begin & 0xffff_ffff, number(72)) {
        (2, _) => Ok(()),
        (3, Some(features)) if features & EXTERNAL_DATA_FILE != 0 => {
            refused("the image names an external data file")
        }
        (3, Some(features)) if features & !KNOWN == 0 => Ok(()),
        (3, _) => refused("the image uses unknown qcow2 features"),
        (other, _) => refused(format!("qcow2 version {other} is not known")),
    }
}

/// Only VMDKs that are one sparse extent with its own descriptor: all others name further files.
fn check_vmdk(head: &[u8]) -> Result<(), ConvertError> {
    if !head.starts_with(b"KDMV") {
        return refused("VMDK descriptor files are not accepted, only single sparse disks");
    }
    let number = |at: usize| {
        head.get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let (start, sectors) = (number(28).saturating_mul(512), number(36));
    if start == 0 || sectors == 0 || sectors > 128 {
        return refused("the VMDK header is not that of a single sparse disk");
    }
    let from = usize::try_from(start).unwrap_or(usize::MAX);
    let to = from.saturating_add(usize::try_from(sectors * 512).unwrap_or(usize::MAX));
    let Some(descriptor) = head.get(from..to.min(head.len())) else {
        return refused("the VMDK descriptor is not at the start of the file");
    };
    let text = String::from_utf8_lossy(descriptor).to_ascii_lowercase();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.trim()
                    .strip_prefix(name)?
                    .trim_start()
                    .strip_prefix('=')
            })
            .map(str::trim)
    };
    let kind = value("createtype").map(|kind| kind.trim_matches('"'));
    let parent = value("parentcid").is_some_and(|parent| parent != "ffffffff");
    let extents = text
        .lines()
        .filter(|line| {
            ["rw ", "rdonly ", "noaccess "]
                .iter()
                .any(|access| line.trim_start().starts_with(access))
        })
        .count();
    let single = matches!(kind, Some("monolithicsparse" | "streamoptimized"));
    if single && !parent && value("parentfilenamehint").is_none() && extents == 1 {
        return Ok(());
    }
    refused("the VMDK is not a single sparse disk")
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageInfo {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    format_specific: Option<serde_json::Value>,
}

impl ImageInfo {
    fn refers(&self) -> bool {
        let data = self
            .format_specific
            .as_ref()
            .map(|specific| &specific["data"]["data-file"]);
        self.backing_filename.is_some() || data.is_some_and(|name| !name.is_null())
    }
}

async fn info(path: &Path, driver: &str) -> Result<ImageInfo, ConvertError> {
    let arguments = ["info", "--output=json", "-f", driver].map(OsString::from);
    let limits = Limits {
        cpu_seconds: 30,
        file_bytes: 0,
        wall: Duration::from_secs(60),
    };
    let text = qemu_img(&limits, &[&arguments[..], &[path.into()]].concat()).await?;
    serde_json::from_slice(&text)
        .map_err(|error| ConvertError::Machine(format!("qemu-img info: {error}")))
}

/// Converts a checked image to a raw file of at most so many bytes.
pub async fn to_raw(
    from: &Path,
    driver: &str,
    to: &Path,
    most_bytes: u64,
) -> Result<(), ConvertError> {
    convert(from, driver, to, "raw", most_bytes).await
}

/// Converts a raw file of ours to another format.
pub async fn from_raw(from: &Path, to: &Path, driver: &str) -> Result<(), ConvertError> {
    let bytes = std::fs::metadata(from).map_or(0, |found| found.len());
    // No format needs more than a little beside the data.
    convert(from, "raw", to, driver, bytes + bytes / 8 + GIB).await
}

async fn convert(
    from: &Path,
    driver: &str,
    to: &Path,
    target: &str,
    most_bytes: u64,
) -> Result<(), ConvertError> {
    let limits = Limits {
        cpu_seconds: 3600,
        file_bytes: most_bytes,
        wall: Duration::from_secs(2 * 3600),
    };
    let options = ["convert", "-f", driver, "-O", target].map(OsString::from);
    qemu_img(&limits, &[&options[..], &[from.into(), to.into()]].concat())
        .await
        .map(drop)
}

struct Limits {
    cpu_seconds: u64,
    file_bytes: u64,
    wall: Duration,
}

/// `qemu-img` under rlimits, set by util-linux's `prlimit` before it becomes `qemu-img`. Arguments go as a list; paths
/// are absolute, so none is taken for an option or a protocol.
async fn qemu_img(limits: &Limits, arguments: &[OsString]) -> Result<Vec<u8>, ConvertError> {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={}", 2 * GIB))
        .arg(format!("--cpu={}", limits.cpu_seconds))
        .arg("--core=0");
    if limits.file_bytes > 0 {
        command.arg(format!("--fsize={}", limits.file_bytes));
    }
    command.arg("qemu-img").args(arguments);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(limits.wall, command.output()).await;
    let output = output
        .map_err(|_| ConvertError::Machine("qemu-img takes too long".into()))?
        .map_err(|_| ConvertError::NoTool)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or("it said nothing").trim();
    if last.contains("No such file or directory") && last.starts_with("prlimit") {
        return Err(ConvertError::NoTool);
    }
    if last.contains("No space left") {
        return Err(ConvertError::Machine("the disk is full".into()));
    }
    tracing::warn!(error = last, "qemu-img failed");
    refused("the image cannot be converted")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn qemu_img_is_there() -> bool {
        std::process::Command::new("qemu-img")
            .arg("--version")
            .output()
            .is_ok()
    }

    fn make(arguments: &[&str]) {
        let made = std::process::Command::new("qemu-img")
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    #[tokio::test]
    async fn honest_images_become_raw() {
        if !qemu_img_is_there() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("raw"), [5; 70_000]).unwrap();
        for format in ["qcow2", "vdi", "vhdx", "vpc", "vmdk"] {
            let text = |name: &str| path(name).to_str().unwrap().to_owned();
            make(&[
                "convert",
                "-f",
                "raw",
                "-O",
                format,
                &text("raw"),
                &text(format),
            ]);
            let checked = check(&path(format), format).await.unwrap();
            assert!(checked.virtual_bytes >= 70_000, "{format}");
            let back = path("back");
            to_raw(&path(format), checked.driver, &back, GIB)
                .await
                .unwrap();
            assert_eq!(std::fs::read(&back).unwrap()[..70_000], [5; 70_000]);
            let claimed = check(&path(format), "raw").await;
            assert!(matches!(claimed, Err(ConvertError::Image(_))), "{format}");
        }
    }

    #[tokio::test]
    async fn hostile_images_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut backed = vec![0; 512];
        backed[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        backed[15] = 104;
        let mut external = vec![0; 512];
        external[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        external[79] = 4;
        for (content, claimed, said) in [
            (backed, "qcow2", "backing"),
            (external, "qcow2", "external"),
            (b"QFI\xfb".to_vec(), "qcow2", "cut off"),
            (
                b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0".to_vec(),
                "vmdk",
                "descriptor",
            ),
            (b"hello".to_vec(), "qcow2", "is raw"),
            (b"hello".to_vec(), "ploop", "cannot become"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = check(&path, claimed).await.unwrap_err().to_string();
            assert!(error.contains(said), "{claimed}: {error}");
        }
    }
}
