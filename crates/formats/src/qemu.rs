//! `qemu-img`, for files that were inspected before it sees them: never through a shell, always with the format named,
//! under limits of memory, time and file size, which util-linux's `prlimit` sets before it becomes `qemu-img`.

use crate::inspect::{self, Refusal};
use serde::Deserialize;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const GIB: u64 = 1 << 30;

/// Why an image cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The image is not what it claims to be, or would do harm.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// QEMU has no driver for this `disk_format`.
    #[error("disk format '{0}' cannot be used as a disk here")]
    NoDriver(String),
    /// The image is encrypted.
    #[error("the image is encrypted")]
    Encrypted,
    /// QEMU reads more from the image than the inspection saw in it.
    #[error("the image refers to other files")]
    Refers,
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// `qemu-img` is not installed, or cannot be run.
    #[error("qemu-img cannot be run: {0}")]
    NoTool(io::Error),
    /// `qemu-img` was ended: it took too long.
    #[error("qemu-img takes too long")]
    TooLong,
    /// There is no room for the result.
    #[error("the disk is full: {0}")]
    Full(String),
    /// `qemu-img` failed; its last line.
    #[error("{0}")]
    Failed(String),
}

impl QemuError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

/// QEMU's driver for a `disk_format`, none for those that cannot be a disk.
pub fn driver(disk_format: &str) -> Option<&'static str> {
    Some(match disk_format {
        "raw" | "iso" | "ami" | "ari" | "aki" => "raw",
        "qcow2" => "qcow2",
        "vmdk" => "vmdk",
        "vdi" => "vdi",
        "vhd" => "vpc",
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

/// Checks an image file against its `disk_format`: first the inspection, then what QEMU itself reads in it.
///
/// # Errors
/// [`QemuError::Refused`], [`QemuError::NoDriver`], [`QemuError::Encrypted`] and [`QemuError::Refers`] blame the image,
/// the others this machine.
pub async fn check(path: &Path, disk_format: &str) -> Result<Checked, QemuError> {
    let driver = driver(disk_format).ok_or_else(|| QemuError::NoDriver(disk_format.to_owned()))?;
    let file = std::fs::File::open(path).map_err(|error| QemuError::io(path, error))?;
    let inspected = inspect::check(&file, disk_format, "bare");
    inspected.map_err(|error| match error {
        inspect::Error::Refused(refusal) => refusal.into(),
        inspect::Error::Io(error) => QemuError::io(path, error),
    })?;
    if driver == "raw" {
        let length = file
            .metadata()
            .map_err(|error| QemuError::io(path, error))?;
        return Ok(Checked {
            driver,
            virtual_bytes: length.len(),
        });
    }
    let path = std::path::absolute(path).map_err(|error| QemuError::io(path, error))?;
    let info = info(&path, driver).await?;
    if info.encrypted {
        return Err(QemuError::Encrypted);
    }
    if info.format != driver || info.refers(&path) {
        return Err(QemuError::Refers);
    }
    Ok(Checked {
        driver,
        virtual_bytes: info.virtual_size,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageInfo {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    format_specific: Specific,
}

#[derive(Debug, Default, Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

/// What names further files: a qcow2's data file, a VMDK's extents.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<String>,
    create_type: Option<String>,
    #[serde(default)]
    extents: Vec<Extent>,
}

#[derive(Debug, Deserialize)]
struct Extent {
    filename: PathBuf,
}

impl ImageInfo {
    fn refers(&self, path: &Path) -> bool {
        let data = &self.format_specific.data;
        let kind = data.create_type.as_deref();
        self.backing_filename.is_some()
            || data.data_file.is_some()
            || data.extents.iter().any(|extent| extent.filename != path)
            || kind.is_some_and(|kind| !inspect::VMDK_TYPES.contains(&kind))
    }
}

async fn info(path: &Path, driver: &str) -> Result<ImageInfo, QemuError> {
    let limits = Limits {
        memory: GIB,
        cpu_seconds: 30,
        file_bytes: None,
        wall: Duration::from_secs(60),
    };
    let options = ["info", "--output=json", "--force-share", "-f", driver].map(OsString::from);
    let text = run(&limits, &[&options[..], &[path.into()]].concat()).await?;
    serde_json::from_slice(&text)
        .map_err(|error| QemuError::Failed(format!("qemu-img info: {error}")))
}

/// Writes the disk of one file into another format. The source was checked, or is ours; nobody writes it meanwhile.
/// `most_bytes` bounds the result, where the source is a user's.
///
/// # Errors
/// As [`QemuError`]; what is there of the target is the caller's to remove.
pub async fn convert(
    (from, driver): (&Path, &str),
    (to, target): (&Path, &str),
    most_bytes: Option<u64>,
) -> Result<(), QemuError> {
    let limits = Limits {
        memory: 4 * GIB,
        cpu_seconds: 3600,
        file_bytes: most_bytes,
        wall: Duration::from_secs(2 * 3600),
    };
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| QemuError::io(path, error));
    let options = ["convert", "-f", driver, "-O", target].map(OsString::from);
    let files = [absolute(from)?.into(), absolute(to)?.into()];
    run(&limits, &[&options[..], &files].concat())
        .await
        .map(drop)
}

/// Makes a qcow2 file of ours larger: its disk has so many bytes then. Nobody has it open.
///
/// # Errors
/// As [`QemuError`].
pub async fn grow(disk: &Path, bytes: u64) -> Result<(), QemuError> {
    let limits = Limits {
        memory: GIB,
        cpu_seconds: 300,
        file_bytes: None,
        wall: Duration::from_secs(600),
    };
    let options = ["resize", "-q", "-f", "qcow2"].map(OsString::from);
    let disk = std::path::absolute(disk).map_err(|error| QemuError::io(disk, error))?;
    let rest = [disk.into(), OsString::from(bytes.to_string())];
    run(&limits, &[&options[..], &rest].concat())
        .await
        .map(drop)
}

struct Limits {
    /// Bytes of address space.
    memory: u64,
    cpu_seconds: u64,
    /// The largest file that it may write.
    file_bytes: Option<u64>,
    wall: Duration,
}

/// Paths among the arguments are absolute, so none is taken for an option or a protocol.
async fn run(limits: &Limits, arguments: &[OsString]) -> Result<Vec<u8>, QemuError> {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={}", limits.memory))
        .arg(format!("--cpu={}", limits.cpu_seconds))
        .arg("--core=0");
    if let Some(bytes) = limits.file_bytes {
        command.arg(format!("--fsize={bytes}"));
    }
    command
        .arg("qemu-img")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(limits.wall, command.output()).await;
    let output = output
        .map_err(|_| QemuError::TooLong)?
        .map_err(QemuError::NoTool)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .lines()
        .last()
        .map_or("qemu-img failed without a word", str::trim);
    Err(explain(last))
}

fn explain(last: &str) -> QemuError {
    if last.starts_with("prlimit") && last.contains("No such file or directory") {
        return QemuError::NoTool(io::ErrorKind::NotFound.into());
    }
    if last.contains("No space left") {
        return QemuError::Full(last.to_owned());
    }
    QemuError::Failed(last.to_owned())
}

#[cfg(test)]
mod tests;
