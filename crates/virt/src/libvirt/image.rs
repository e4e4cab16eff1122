//! Images from users are hostile until checked here; checked ones are kept as base images that guests share.
//!
//! A check reads the header first and refuses whatever would make QEMU open another file (backing files, external
//! data files, descriptors), and only then asks `qemu-img` with the driver named, under limits of memory, time and
//! file size.

mod notes;
mod unused;

use crate::hypervisor::{HypervisorError, Result};
use crate::spec::DiskFormat;
use serde::Deserialize;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// A base image, ready for overlays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Size of the disk in bytes.
    pub virtual_bytes: u64,
}

/// What a checked image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// QEMU's driver for it.
    pub driver: &'static str,
    /// Size of the disk in bytes.
    pub virtual_bytes: u64,
}

const GIB: u64 = 1 << 30;
/// Enough of a file to recognise every format and to read a VMDK descriptor.
const HEAD_BYTES: u64 = 96 * 1024;

/// Checks an image file against the format it claims (Glance's `disk_format`) and a largest disk size.
///
/// # Errors
/// [`HypervisorError::Image`] when it is not what it claims, refers to other files, or is too large.
pub async fn check(path: &Path, claimed_format: &str, max_virtual_gib: u64) -> Result<Checked> {
    let driver = driver_for(claimed_format)?;
    let head = read_head(path).map_err(|error| HypervisorError::disk(path.display(), &error))?;
    check_head(&head, claimed_format, driver)?;
    let info = qemu_img_info(path, driver).await?;
    let refers = info.backing_filename.is_some() || info.names_data_file();
    if refers || info.format != driver {
        return Err(HypervisorError::Image(
            "the image refers to other files".into(),
        ));
    }
    if info.encrypted {
        return Err(HypervisorError::Image("the image is encrypted".into()));
    }
    if info.virtual_size > max_virtual_gib.saturating_mul(GIB) {
        let gib = info.virtual_size.div_ceil(GIB);
        return Err(HypervisorError::Image(format!(
            "the disk of {gib} GiB is larger than {max_virtual_gib} GiB"
        )));
    }
    Ok(Checked {
        driver,
        virtual_bytes: info.virtual_size,
    })
}

fn driver_for(claimed_format: &str) -> Result<&'static str> {
    Ok(match claimed_format {
        "raw" | "iso" | "ami" | "ari" | "aki" => "raw",
        "qcow2" => "qcow2",
        "vmdk" => "vmdk",
        "vdi" => "vdi",
        "vhd" => "vpc",
        "vhdx" => "vhdx",
        other => {
            return Err(HypervisorError::Image(format!(
                "disk format '{other}' cannot be run here"
            )));
        }
    })
}

fn read_head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    std::fs::File::open(path)?
        .take(HEAD_BYTES)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// The driver whose signature the file carries; raw when none. VHD without a header copy is only told by its footer,
/// which `qemu-img` checks later.
fn signature(head: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let table: &[(usize, &[u8], &'static str)] = &[
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
        .find(|(offset, magic, _)| at(*offset, magic))
        .map_or("raw", |(_, _, driver)| driver)
}

fn check_head(head: &[u8], claimed: &str, driver: &str) -> Result<()> {
    let found = signature(head);
    let fixed_vhd = driver == "vpc" && found == "raw";
    if found != driver && !fixed_vhd {
        return Err(HypervisorError::Image(format!(
            "the image claims to be {claimed} and is {found}"
        )));
    }
    match driver {
        "qcow2" => check_qcow2(head),
        "vmdk" => check_vmdk(head),
        _ => Ok(()),
    }
}

/// Offsets of the qcow2 header: version at 4, backing file's offset at 8, incompatible features at 72.
fn check_qcow2(head: &[u8]) -> Result<()> {
    const EXTERNAL_DATA_FILE: u64 = 1 << 2;
    const KNOWN: u64 = 0x1f;
    let short = || HypervisorError::Image("the qcow2 header is cut off".into());
    let number = |at: usize| {
        head.get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes)
    };
    let version = number(0).ok_or_else(short)? & 0xffff_ffff;
    if number(8).ok_or_else(short)? != 0 {
        return Err(HypervisorError::Image(
            "the image names a backing file".into(),
        ));
    }
    match version {
        2 => Ok(()),
        3 => {
            let features = number(72).ok_or_else(short)?;
            if features & EXTERNAL_DATA_FILE != 0 {
                return Err(HypervisorError::Image(
                    "the image names an external data file".into(),
                ));
            }
            if features & !KNOWN != 0 {
                return Err(HypervisorError::Image(
                    "the image uses unknown qcow2 features".into(),
                ));
            }
            Ok(())
        }
        other => Err(HypervisorError::Image(format!(
            "qcow2 version {other} is not known"
        ))),
    }
}

/// Only VMDKs that are one sparse extent with its own descriptor: all others name further files.
fn check_vmdk(head: &[u8]) -> Result<()> {
    let refused = |why: &str| Err(HypervisorError::Image(format!("VMDK {why}")));
    if !head.starts_with(b"KDMV") {
        return refused("descriptor files are not accepted, only single sparse disks");
    }
    let number = |at: usize| {
        head.get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let (capacity, descriptor_at, descriptor_sectors) = (number(12), number(28), number(36));
    if capacity == 0 || descriptor_at == 0 || descriptor_sectors > 128 {
        return refused("header is not that of a single sparse disk");
    }
    let start = usize::try_from(descriptor_at.saturating_mul(512)).unwrap_or(usize::MAX);
    let end = start
        .saturating_add(descriptor_sectors as usize * 512)
        .min(head.len());
    let Some(descriptor) = head.get(start..end) else {
        return refused("descriptor is not at the start of the file");
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
    if !matches!(kind, Some("monolithicsparse" | "streamoptimized")) {
        return refused("type is not monolithicSparse or streamOptimized");
    }
    if value("parentcid").is_some_and(|parent| parent != "ffffffff")
        || value("parentfilenamehint").is_some()
    {
        return refused("names a parent disk");
    }
    let extent = |line: &&str| {
        ["rw ", "rdonly ", "noaccess "]
            .iter()
            .any(|access| line.trim_start().starts_with(access))
    };
    if text.lines().filter(extent).count() != 1 {
        return refused("has more than one extent");
    }
    Ok(())
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
    fn names_data_file(&self) -> bool {
        let data = self
            .format_specific
            .as_ref()
            .map(|specific| &specific["data"]["data-file"]);
        data.is_some_and(|name| !name.is_null())
    }
}

struct Limits {
    memory: u64,
    cpu_seconds: u64,
    file_bytes: Option<u64>,
    wall: Duration,
}

/// `qemu-img` under rlimits, set by util-linux's `prlimit` before it becomes `qemu-img`. Arguments go as a list;
/// paths are absolute, so none is taken for an option or a protocol.
async fn qemu_img(limits: &Limits, arguments: &[OsString]) -> Result<Vec<u8>> {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={}", limits.memory))
        .arg(format!("--cpu={}", limits.cpu_seconds))
        .arg("--core=0");
    if let Some(bytes) = limits.file_bytes {
        command.arg(format!("--fsize={bytes}"));
    }
    command.arg("qemu-img").args(arguments);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let missing = |error: std::io::Error| {
        HypervisorError::Rejected(format!("qemu-img cannot be run: {error}"))
    };
    let output = tokio::time::timeout(limits.wall, command.output()).await;
    let output = output
        .map_err(|_| HypervisorError::Timeout("qemu-img".into()))?
        .map_err(missing)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text
        .lines()
        .last()
        .unwrap_or("qemu-img failed without a word")
        .trim()
        .to_owned();
    if text.contains("No space left") {
        return Err(HypervisorError::Disk {
            reason: text,
            full: true,
        });
    }
    Err(HypervisorError::Image(text))
}

/// Copies a guest's disk with all it stands on into one qcow2 file. Nobody may write it meanwhile. The disk is ours: its
/// header was written here and no guest can change it.
///
/// # Errors
/// The disk cannot be read, or there is no space.
pub async fn flatten(disk: &Path, copy: &Path) -> Result<()> {
    let limits = Limits {
        memory: 4 * GIB,
        cpu_seconds: 3600,
        file_bytes: None,
        wall: Duration::from_secs(2 * 3600),
    };
    let options = ["convert", "-f", "qcow2", "-O", "qcow2"].map(OsString::from);
    qemu_img(
        &limits,
        &[&options[..], &[disk.into(), copy.into()]].concat(),
    )
    .await
    .map(drop)
}

/// Makes a guest's qcow2 disk larger; the guest is off.
///
/// # Errors
/// The disk cannot be changed, or there is no space.
pub async fn grow(disk: &Path, bytes: u64) -> Result<()> {
    let limits = Limits {
        memory: GIB,
        cpu_seconds: 300,
        file_bytes: None,
        wall: Duration::from_secs(600),
    };
    let options = ["resize", "-q", "-f", "qcow2"].map(OsString::from);
    let size = OsString::from(bytes.to_string());
    qemu_img(&limits, &[&options[..], &[disk.into(), size]].concat())
        .await
        .map(drop)
}

async fn qemu_img_info(path: &Path, driver: &str) -> Result<ImageInfo> {
    let limits = Limits {
        memory: GIB,
        cpu_seconds: 30,
        file_bytes: None,
        wall: Duration::from_secs(60),
    };
    let path =
        std::path::absolute(path).map_err(|error| HypervisorError::disk(path.display(), &error))?;
    let arguments = ["info", "--output=json", "--force-share", "-f", driver].map(OsString::from);
    let text = qemu_img(&limits, &[&arguments[..], &[path.into()]].concat()).await?;
    serde_json::from_slice(&text)
        .map_err(|error| HypervisorError::Image(format!("qemu-img info: {error}")))
}

/// The folder of base images, `_base` in the instances folder. Files are named by image id; a file that is there is
/// checked, whole and never written again.
#[derive(Clone, Debug)]
pub struct BaseImages {
    folder: PathBuf,
}

impl BaseImages {
    /// Uses `<instances>/_base`, made if missing.
    pub fn open(instances: &Path) -> Result<Self> {
        let folder = instances.join("_base");
        std::fs::create_dir_all(&folder)
            .and_then(|()| {
                std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))
            })
            .map_err(|error| HypervisorError::disk(folder.display(), &error))?;
        Ok(Self { folder })
    }

    /// Where a download of this image should go, so that [`BaseImages::adopt`] need not copy it. The caller makes and
    /// removes the file; `unique` keeps two downloads apart.
    pub fn download_path(&self, image_id: &str, unique: &str) -> PathBuf {
        self.folder
            .join(format!("{}.{unique}.part", file_name(image_id)))
    }

    /// The base of an image that was adopted before.
    pub fn cached(&self, image_id: &str) -> Option<BaseImage> {
        let path = self.folder.join(file_name(image_id));
        let virtual_bytes = std::fs::metadata(&path).ok()?.len();
        Self::touch(&path);
        Some(BaseImage {
            path,
            format: DiskFormat::Raw,
            virtual_bytes,
        })
    }

    /// Checks a downloaded file and makes it the base of `image_id`, converted to raw when it is something else.
    /// The download is used up or removed in any case. Two adoptions of one image at once are harmless.
    ///
    /// # Errors
    /// As [`check`]; disk errors.
    pub async fn adopt(
        &self,
        image_id: &str,
        download: &Path,
        claimed_format: &str,
        max_virtual_gib: u64,
    ) -> Result<BaseImage> {
        let result = self
            .adopt_checked(image_id, download, claimed_format, max_virtual_gib)
            .await;
        std::fs::remove_file(download).ok();
        result
    }

    async fn adopt_checked(
        &self,
        image_id: &str,
        download: &Path,
        claimed: &str,
        max_gib: u64,
    ) -> Result<BaseImage> {
        let checked = check(download, claimed, max_gib).await?;
        let target = self.folder.join(file_name(image_id));
        let ready = download.with_extension("ready");
        self.forget_note(image_id)?;
        let made = self.make_raw(&checked, download, &ready).await;
        let finished = made.and_then(|()| {
            finish(&ready, &target).map_err(|error| HypervisorError::disk(target.display(), &error))
        });
        std::fs::remove_file(&ready).ok();
        finished?;
        self.cached(image_id)
            .ok_or_else(|| HypervisorError::Image("the base image vanished".into()))
    }

    async fn make_raw(&self, checked: &Checked, download: &Path, ready: &Path) -> Result<()> {
        if checked.driver == "raw" && download.parent() == Some(self.folder.as_path()) {
            return std::fs::rename(download, ready)
                .map_err(|error| HypervisorError::disk(ready.display(), &error));
        }
        let limits = Limits {
            memory: 4 * GIB,
            cpu_seconds: 3600,
            file_bytes: Some(checked.virtual_bytes + (1 << 20)),
            wall: Duration::from_secs(2 * 3600),
        };
        let options = ["convert", "-O", "raw", "-f", checked.driver].map(OsString::from);
        let download = std::path::absolute(download)
            .map_err(|e| HypervisorError::disk(download.display(), &e))?;
        qemu_img(
            &limits,
            &[&options[..], &[download.into(), ready.into()]].concat(),
        )
        .await
        .map(drop)
    }

    /// Removes the base of an image; overlays on it must be gone.
    pub fn remove(&self, image_id: &str) -> Result<()> {
        let path = self.folder.join(file_name(image_id));
        self.forget_note(image_id)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HypervisorError::disk(path.display(), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Readable for QEMU's user, durable, and only then under its name: a base that is there is whole.
fn finish(ready: &Path, target: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(ready)?;
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(512))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    std::fs::rename(ready, target)?;
    match target.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Image ids are UUIDs; anything else is encoded so that it cannot leave the folder.
fn file_name(image_id: &str) -> String {
    image_id
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
