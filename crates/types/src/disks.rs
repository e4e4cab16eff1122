//! Disks of a guest beside the one that is made of its image, as conductor and agent speak of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// What a disk is made of (`source_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An image.
    Image,
    /// A volume that exists.
    Volume,
    /// A snapshot of a volume.
    Snapshot,
    /// Nothing.
    Blank,
}

impl Source {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::Blank => "blank",
        }
    }

    /// The source of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Image, Self::Volume, Self::Snapshot, Self::Blank]
            .into_iter()
            .find(|source| source.as_str() == name)
    }
}

/// Where a disk's data is (`destination_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// On the guest's host; it goes with the guest.
    Local,
    /// In the volume service.
    Volume,
}

impl Destination {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Volume => "volume",
        }
    }

    /// The destination of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Local, Self::Volume]
            .into_iter()
            .find(|destination| destination.as_str() == name)
    }
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestDisk {
    /// The id of its block device mapping.
    pub id: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: DiskKind,
    /// `vdb`: the name by which the API calls it.
    pub device: Option<String>,
    /// The bus, if it was chosen.
    pub bus: Option<String>,
    /// `disk`, `cdrom`, ..., if it was chosen.
    pub device_type: Option<String>,
    /// The place in the order of booting; 0 is the guest's root disk.
    pub boot_index: Option<u32>,
}

/// What a disk is.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiskKind {
    /// An empty disk on the host.
    Ephemeral {
        /// GiB.
        size_gib: u64,
        /// The file system wanted on it.
        format: Option<String>,
    },
    /// Swap space on the host.
    Swap {
        /// MiB.
        size_mib: u64,
    },
    /// A volume.
    Volume {
        /// Its id.
        volume_id: String,
        /// `connection_info` of the volume service.
        connection: Value,
    },
}

/// How a volume is reached may hold passwords: it does not go into logs.
impl fmt::Debug for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ephemeral { size_gib, format } => f
                .debug_struct("Ephemeral")
                .field("size_gib", size_gib)
                .field("format", format)
                .finish(),
            Self::Swap { size_mib } => f.debug_struct("Swap").field("size_mib", size_mib).finish(),
            Self::Volume { volume_id, .. } => f
                .debug_struct("Volume")
                .field("volume_id", volume_id)
                .finish_non_exhaustive(),
        }
    }
}

impl GuestDisk {
    /// The volume, if it is one.
    pub fn volume_id(&self) -> Option<&str> {
        match &self.kind {
            DiskKind::Volume { volume_id, .. } => Some(volume_id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn disks_survive_the_wire() {
        let disk = GuestDisk {
            id: "b".to_owned(),
            kind: DiskKind::Volume {
                volume_id: "v".to_owned(),
                connection: serde_json::json!({ "driver_volume_type": "nbd" }),
            },
            device: Some("vdb".to_owned()),
            bus: None,
            device_type: None,
            boot_index: Some(0),
        };
        let text = serde_json::to_string(&disk).unwrap();
        assert_eq!(serde_json::from_str::<GuestDisk>(&text).unwrap(), disk);
        assert_eq!(disk.volume_id(), Some("v"));
    }

    #[test]
    fn names() {
        for source in ["image", "volume", "snapshot", "blank"] {
            assert_eq!(Source::parse(source).unwrap().as_str(), source);
        }
        assert_eq!(Destination::parse("disk"), None);
    }

    /// OSSA-2016-002.
    #[test]
    fn no_log_can_show_how_a_volume_is_reached() {
        let disk = GuestDisk {
            id: "b".to_owned(),
            kind: DiskKind::Volume {
                volume_id: "v-1".to_owned(),
                connection: serde_json::json!({ "data": { "auth_password": "s3cret" } }),
            },
            device: None,
            bus: None,
            device_type: None,
            boot_index: None,
        };
        let shown = format!("{disk:?}");
        assert!(
            shown.contains("v-1") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
}
