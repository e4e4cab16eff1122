//! What a guest shall be. The agent stores the specification beside the guest's disks, so that a hard reboot or a
//! start after a crash needs nothing from the control plane.

use crate::disks::Disk;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use types::ServerId;
use types::image_properties::{ImageProperties, WrongProperty};
use types::tpm::Tpm;

/// Whether a guest shall be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Running at the end of the verb.
    On,
    /// Defined and not started by the verb; a guest that already runs is left alone.
    Off,
}

/// One guest, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// The server, which is also the domain's UUID and the name of its folder.
    pub id: ServerId,
    /// The name the hypervisor shows, `instance-0000002a`. Must be free on the host.
    pub instance_name: String,
    /// Facts for people who read the domain's definition.
    pub metadata: GuestMetadata,
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The first disk.
    pub root: RootDisk,
    /// Files of the config drive; `None` means no config drive. See [`GuestSpec::for_storage`].
    pub config_drive: Option<Vec<ConfigFile>>,
    /// Network interfaces in the order the guest sees them. The tap devices must exist before the guest starts.
    pub vifs: Vec<Vif>,
    /// What image properties (`hw_*`) say about the machine.
    #[serde(default)]
    pub hardware: Hardware,
    /// The serial number in SMBIOS.
    pub serial_number: String,
    /// The disk it boots from while it is rescued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<RescueDisk>,
    /// Disks beside the first one, which is one of them when [`RootDisk::Volume`] says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Its emulated TPM. The passphrase is not here, see [`crate::Hypervisor::lend_passphrase`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// What it is booted with, if not with what is on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
}

/// A kernel outside of a guest's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The kernel.
    pub image: BootFile,
    /// The first RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<BootFile>,
}

/// A file that QEMU reads before it starts a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFile {
    /// Among the base images, which stay as long as a specification names them so.
    pub base: PathBuf,
}

impl GuestSpec {
    /// The same specification without the contents of the config drive (they hold the administrator's password and
    /// are on the drive already). An empty list keeps the drive that exists.
    pub fn for_storage(&self) -> Self {
        let mut spec = self.clone();
        if let Some(files) = &mut spec.config_drive {
            files.clear();
        }
        spec
    }
}

/// Facts about the server that end up in the domain's `<metadata>`, as Nova's `nova:instance` element has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMetadata {
    /// The server's name.
    pub display_name: String,
    /// Owner of the server.
    pub project_id: String,
    /// Name of the owning project, may be empty.
    pub project_name: String,
    /// Who created the server.
    pub user_id: String,
    /// Name of the creator, may be empty.
    pub user_name: String,
    /// The flavor's name.
    pub flavor_name: String,
    /// The flavor's root disk in GiB.
    pub flavor_disk_gib: u64,
    /// The flavor's ephemeral disk in GiB.
    pub flavor_ephemeral_gib: u64,
    /// The flavor's swap in MiB.
    pub flavor_swap_mib: u64,
    /// The image of the root disk.
    pub image_id: Option<String>,
    /// `2026-11-20 12:00:00`, UTC.
    pub created_at: String,
}

/// The first disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum RootDisk {
    /// An overlay on a checked base image.
    Image {
        /// The base, as [`crate::libvirt::image::BaseImages`] gave it. Never written.
        base: PathBuf,
        /// What the base is: raw or qcow2.
        format: DiskFormat,
        /// Size of the disk in GiB; 0 means "as large as the image".
        size_gib: u64,
    },
    /// An empty disk.
    Blank {
        /// Size of the disk in GiB.
        size_gib: u64,
    },
    /// A volume, which is among [`GuestSpec::disks`]: no file of the guest's.
    Volume,
}

impl RootDisk {
    /// GiB that it takes on the host.
    pub fn local_gib(&self) -> u64 {
        match self {
            Self::Image { size_gib, .. } | Self::Blank { size_gib } => *size_gib,
            Self::Volume => 0,
        }
    }
}

/// A disk to boot from instead of the guest's own, which it still sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueDisk {
    /// What it is made of.
    pub root: RootDisk,
    /// How it is attached behind all others; `None` puts it before them.
    pub stable: Option<StableRescue>,
}

/// A rescue disk that leaves the names of the guest's own devices as they are (`hw_rescue_device`, `hw_rescue_bus`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StableRescue {
    /// `disk` or `cdrom`.
    pub device: String,
    /// virtio, scsi, ide, sata, usb; none: what the guest's machine has for such devices.
    pub bus: Option<String>,
}

impl StableRescue {
    /// Reads the properties of a rescue image; `None` when it has neither.
    ///
    /// # Errors
    /// A value that this driver cannot give.
    pub fn from_properties(
        properties: &BTreeMap<String, String>,
    ) -> std::result::Result<Option<Self>, BadProperty> {
        let (for_device, for_bus) = ("hw_rescue_device", "hw_rescue_bus");
        let image = ImageProperties::only(properties, &[for_device, for_bus])?;
        let device = given(&image, for_device, &["disk", "cdrom"])?;
        let bus = given(&image, for_bus, BUSES)?;
        if device.is_none() && bus.is_none() {
            return Ok(None);
        }
        let device = device.unwrap_or_else(|| "disk".to_owned());
        Ok(Some(Self { device, bus }))
    }
}

/// Formats a base image may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk, nothing else.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl DiskFormat {
    /// QEMU's name of the format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// One file of a config drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Path below the drive's root with forward slashes: `openstack/latest/meta_data.json`.
    pub path: String,
    /// The bytes (base64 in JSON).
    #[serde(with = "base64_text")]
    pub content: Vec<u8>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vif {
    /// The port it belongs to.
    pub port_id: String,
    /// MAC address, lower-case with colons.
    pub mac: String,
    /// The tap device, made beforehand by the network agent.
    pub tap: String,
    /// MTU in bytes; 0 leaves it to the default.
    pub mtu: u32,
    /// QEMU's device model; `None` takes the guest's `vif_model`, or virtio.
    pub model: Option<String>,
}

/// The machine as image properties shape it ("Useful image properties" in Glance's documentation). Values not in the
/// lists of [`Hardware::from_properties`] are refused there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// `hw_machine_type`; the driver's default is `pc`.
    pub machine: Option<String>,
    /// `hw_disk_bus`: virtio, scsi, ide, sata, usb.
    pub disk_bus: Option<String>,
    /// `hw_cdrom_bus`, for the config drive.
    pub cdrom_bus: Option<String>,
    /// `hw_vif_model`: virtio, e1000, e1000e, igb, rtl8139, ne2k_pci, pcnet.
    pub vif_model: Option<String>,
    /// `hw_video_model`: vga, cirrus, virtio, qxl, vmvga, bochs, none.
    pub video: Option<String>,
    /// `hw_qemu_guest_agent`: false leaves the agent's channel out.
    pub guest_agent: Option<bool>,
    /// `os_type` says Windows: the clock shows local time, and with KVM it finds what Hyper-V has.
    pub windows: bool,
    /// `img_hide_hypervisor_id`: with KVM the guest does not see that it is one.
    pub hide_hypervisor: bool,
    /// `hw_time_hpet`.
    pub hpet: bool,
    /// `hw_pointer_model` asks for a USB tablet.
    pub tablet: bool,
    /// `hw_scsi_model`, of the SCSI controller.
    pub scsi_model: Option<String>,
    /// `os_command_line`, for a kernel that is not on the guest's disk.
    pub command_line: Option<String>,
}

/// An image property with a value no host accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image property {name} has the unsupported value '{value}'")]
pub struct BadProperty {
    /// The property.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl From<WrongProperty> for BadProperty {
    fn from(wrong: WrongProperty) -> Self {
        let WrongProperty { name, value, .. } = wrong;
        Self { name, value }
    }
}

/// Buses that disks can be on here, of those that an image may name.
const BUSES: &[&str] = &["virtio", "scsi", "ide", "sata", "usb"];

/// Models of SCSI controllers that QEMU has.
const SCSI_MODELS: &[&str] = &[
    "lsilogic",
    "lsisas1068",
    "lsisas1078",
    "virtio-scsi",
    "vmpvscsi",
];

/// What a property says, if this driver can give it.
fn given(
    image: &ImageProperties,
    name: &str,
    possible: &[&str],
) -> std::result::Result<Option<String>, BadProperty> {
    match image.text(name) {
        Some(value) if !possible.contains(&value) => Err(BadProperty {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
        value => Ok(value.map(str::to_owned)),
    }
}

impl Hardware {
    /// Reads `hw_*` properties; others are ignored.
    ///
    /// # Errors
    /// A known property with a value that this driver cannot give.
    pub fn from_properties(
        properties: &BTreeMap<String, String>,
    ) -> std::result::Result<Self, BadProperty> {
        const READ: &[&str] = &[
            "hw_machine_type",
            "hw_disk_bus",
            "hw_cdrom_bus",
            "hw_vif_model",
            "hw_video_model",
            "hw_qemu_guest_agent",
            "os_command_line",
        ];
        let image = ImageProperties::only(properties, READ)?;
        // Servers are there whose images say of these what no host can give: it never was, and keeps none from moving.
        let wishes = ImageProperties::readable(properties);
        let scsi_model = wishes.text("hw_scsi_model");
        let machine = image.text("hw_machine_type");
        if let Some(value) = machine.filter(|value| !is_machine_name(value)) {
            return Err(BadProperty {
                name: "hw_machine_type".to_owned(),
                value: value.to_owned(),
            });
        }
        let vif_models = [
            "virtio", "e1000", "e1000e", "igb", "rtl8139", "ne2k_pci", "pcnet",
        ];
        let videos = ["vga", "cirrus", "virtio", "qxl", "vmvga", "bochs", "none"];
        Ok(Self {
            machine: machine.map(str::to_owned),
            disk_bus: given(&image, "hw_disk_bus", BUSES)?,
            cdrom_bus: given(&image, "hw_cdrom_bus", BUSES)?,
            vif_model: given(&image, "hw_vif_model", &vif_models)?,
            video: given(&image, "hw_video_model", &videos)?,
            guest_agent: image.flag("hw_qemu_guest_agent"),
            windows: wishes.text("os_type") == Some("windows"),
            hide_hypervisor: wishes.flag("img_hide_hypervisor_id") == Some(true),
            hpet: wishes.flag("hw_time_hpet") == Some(true),
            tablet: wishes.text("hw_pointer_model") == Some("usbtablet"),
            scsi_model: scsi_model
                .filter(|model| SCSI_MODELS.contains(model))
                .map(str::to_owned),
            command_line: image.text("os_command_line").map(str::to_owned),
        })
    }
}

/// Machine types are short words such as `pc`, `q35`, `pc-i440fx-7.2`.
fn is_machine_name(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= 64
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn properties_are_read_or_refused() {
        let hardware = Hardware::from_properties(&map(&[
            ("hw_machine_type", "q35"),
            ("hw_disk_bus", "scsi"),
            ("hw_vif_model", "IGB"),
            ("hw_qemu_guest_agent", "no"),
            ("os_distro", "debian"),
            // Not for this driver, which has no say in it.
            ("hw_watchdog_action", "bark"),
        ]))
        .unwrap();
        assert_eq!(hardware.machine.as_deref(), Some("q35"));
        assert_eq!(hardware.disk_bus.as_deref(), Some("scsi"));
        assert_eq!(hardware.vif_model.as_deref(), Some("igb"));
        assert_eq!(hardware.guest_agent, Some(false));
        for yes in ["on", "Yes", "TRUE", "t", "1"] {
            let hardware = Hardware::from_properties(&map(&[("hw_qemu_guest_agent", yes)]));
            assert_eq!(hardware.unwrap().guest_agent, Some(true), "{yes}");
        }
        for (name, value) in [
            ("hw_disk_bus", "floppy"),
            // Nova knows it, and QEMU cannot.
            ("hw_disk_bus", "xen"),
            ("hw_video_model", "gop"),
            ("hw_vif_model", "vmxnet3"),
            ("hw_machine_type", "pc' x='"),
            ("hw_vif_model", ""),
        ] {
            let bad = Hardware::from_properties(&map(&[(name, value)])).unwrap_err();
            assert_eq!((&bad.name[..], &bad.value[..]), (name, value));
        }
        let old = map(&[("vmware_adaptertype", "ide")]);
        let hardware = Hardware::from_properties(&old).unwrap();
        assert_eq!(hardware.disk_bus.as_deref(), Some("ide"));
    }

    #[test]
    fn rescue_disks_are_stable_when_the_image_says_so() {
        type Case = (
            &'static [(&'static str, &'static str)],
            Option<(&'static str, Option<&'static str>)>,
        );
        let table: &[Case] = &[
            (&[("os_distro", "debian")], None),
            (&[("hw_rescue_device", "cdrom")], Some(("cdrom", None))),
            (&[("hw_rescue_bus", "scsi")], Some(("disk", Some("scsi")))),
            (
                &[("hw_rescue_bus", "usb"), ("hw_rescue_device", "disk")],
                Some(("disk", Some("usb"))),
            ),
        ];
        for (properties, wanted) in table {
            let found = StableRescue::from_properties(&map(properties)).unwrap();
            let found = found.map(|stable| (stable.device, stable.bus));
            let wanted = wanted.map(|(device, bus)| (device.to_owned(), bus.map(str::to_owned)));
            assert_eq!(found, wanted, "{properties:?}");
        }
        let floppy = map(&[("hw_rescue_device", "floppy")]);
        assert!(StableRescue::from_properties(&floppy).is_err());
    }

    #[test]
    fn storage_form_keeps_no_config_drive_contents() {
        let spec = crate::sim::tests::spec(1);
        let spec = GuestSpec {
            config_drive: Some(vec![ConfigFile {
                path: "a".into(),
                content: b"secret".to_vec(),
            }]),
            ..spec
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<GuestSpec>(&text).unwrap(), spec);
        assert_eq!(spec.for_storage().config_drive, Some(vec![]));
    }
}
