//! What the service keeps. The fields are those of the API unless they say otherwise.
#![allow(missing_docs)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::Timestamp;

/// Texts by name.
pub type Map = BTreeMap<String, String>;

/// The states of volumes, snapshots and groups (Block Storage API, "Volume statuses").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Status {
    Creating,
    Available,
    Reserved,
    Attaching,
    Detaching,
    InUse,
    Maintenance,
    Deleting,
    AwaitingTransfer,
    Error,
    #[serde(rename = "error_deleting")]
    ErrorDeleting,
    #[serde(rename = "error_extending")]
    ErrorExtending,
    #[serde(rename = "error_backing-up")]
    ErrorBackingUp,
    #[serde(rename = "error_restoring")]
    ErrorRestoring,
    #[serde(rename = "error_managing")]
    ErrorManaging,
    BackingUp,
    RestoringBackup,
    Downloading,
    Uploading,
    Retyping,
    Extending,
    Reverting,
    Managing,
    Updating,
    Deleted,
}

const STATUSES: &[(Status, &str)] = &[
    (Status::Creating, "creating"),
    (Status::Available, "available"),
    (Status::Reserved, "reserved"),
    (Status::Attaching, "attaching"),
    (Status::Detaching, "detaching"),
    (Status::InUse, "in-use"),
    (Status::Maintenance, "maintenance"),
    (Status::Deleting, "deleting"),
    (Status::AwaitingTransfer, "awaiting-transfer"),
    (Status::Error, "error"),
    (Status::ErrorDeleting, "error_deleting"),
    (Status::ErrorExtending, "error_extending"),
    (Status::ErrorBackingUp, "error_backing-up"),
    (Status::ErrorRestoring, "error_restoring"),
    (Status::ErrorManaging, "error_managing"),
    (Status::BackingUp, "backing-up"),
    (Status::RestoringBackup, "restoring-backup"),
    (Status::Downloading, "downloading"),
    (Status::Uploading, "uploading"),
    (Status::Retyping, "retyping"),
    (Status::Extending, "extending"),
    (Status::Reverting, "reverting"),
    (Status::Managing, "managing"),
    (Status::Updating, "updating"),
    (Status::Deleted, "deleted"),
];

impl Status {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        STATUSES
            .iter()
            .find(|(status, _)| *status == self)
            .map_or("error", |(_, name)| name)
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        STATUSES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(status, _)| *status)
    }

    /// Something went wrong before.
    pub fn is_error(self) -> bool {
        self.name().starts_with("error")
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the first contents of a volume come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Zeros.
    Blank,
    /// An image of the image service.
    Image(String),
    /// A snapshot.
    Snapshot(String),
    /// Another volume.
    Volume(String),
}

/// What is still to be done to a volume or snapshot. It stands in the row from the moment the request is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Give it contents.
    Create(Source),
    /// Remove its data, then the row.
    Delete,
    /// Grow to this many GiB, then go back to this status.
    Extend(u64, Status),
    /// Send the data as this image, in this format, then go back to this status.
    Upload(String, String, Status),
    /// Take the contents of this snapshot.
    Revert(String, Status),
    /// Take the contents of this image.
    Reimage(String, Status),
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    /// GiB.
    pub size: u64,
    pub status: Status,
    pub type_id: String,
    pub zone: String,
    pub snapshot_id: Option<String>,
    pub source_id: Option<String>,
    pub group_id: Option<String>,
    pub multiattach: bool,
    pub bootable: bool,
    pub metadata: Map,
    /// What users see among the metadata and only actions change: `readonly`, `attached_mode`.
    pub admin_metadata: Map,
    /// What is known of the image in it.
    pub image_metadata: Map,
    /// Where compute's swap of volumes stands (`os-migrate_volume_completion`).
    pub migration_status: Option<String>,
    pub job: Option<Job>,
    /// The request that gave the job, for messages.
    pub request_id: String,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

impl Volume {
    /// GiB that quotas count: what the volume has, or will have.
    pub fn promised(&self) -> u64 {
        match &self.job {
            Some(Job::Extend(size, _)) => self.size.max(*size),
            _ => self.size,
        }
    }

    /// Read-only by `os-update_readonly_flag`.
    pub fn is_readonly(&self) -> bool {
        self.admin_metadata
            .get("readonly")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub volume_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    /// GiB of the volume then.
    pub size: u64,
    pub status: Status,
    pub progress: String,
    pub type_id: String,
    pub group_snapshot_id: Option<String>,
    pub metadata: Map,
    /// What was known of the image in the volume.
    pub image_metadata: Map,
    pub bootable: bool,
    pub job: Option<Job>,
    pub request_id: String,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// A volume type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub extra_specs: Map,
    pub qos_id: Option<String>,
    #[serde(default)]
    pub encryption: Option<Encryption>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// How volumes of a type are to be encrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encryption {
    pub id: String,
    pub provider: String,
    pub control_location: String,
    pub cipher: Option<String>,
    pub key_size: Option<i64>,
    pub created_at: Timestamp,
}

impl VolumeType {
    /// Whether its volumes may have several attachments (extra spec `multiattach`).
    pub fn multiattach(&self) -> bool {
        self.extra_specs
            .get("multiattach")
            .is_some_and(|value| value == "<is> True")
    }
}

/// QoS specs. They are kept and shown; a hypervisor applies those whose consumer is `front-end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Qos {
    pub id: String,
    pub name: String,
    pub consumer: String,
    pub specs: Map,
    pub created_at: Timestamp,
}

/// An attachment of a volume to a server (or to somebody who is none).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub id: String,
    pub volume_id: String,
    pub project_id: String,
    pub server_id: Option<String>,
    /// `reserved`, `attaching`, `attached`, `detaching`.
    pub status: String,
    /// `rw`, `ro`, or `null` when nobody has said.
    pub mode: String,
    pub device: Option<String>,
    pub host: Option<String>,
    /// What the host said of itself.
    pub connector: Option<serde_json::Value>,
    /// The name under which NBD serves it; only who knows it connects.
    pub export: Option<String>,
    pub created_at: Timestamp,
    pub attached_at: Option<Timestamp>,
}

/// An offer of a volume to another project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    pub id: String,
    pub volume_id: String,
    pub project_id: String,
    pub name: Option<String>,
    /// Of the secret key, hex.
    pub salt: String,
    pub hash: String,
    pub no_snapshots: bool,
    pub accepted: bool,
    pub destination: Option<String>,
    pub created_at: Timestamp,
}

/// Something that a user should know about (Block Storage API, "Messages").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub id: String,
    pub project_id: String,
    pub event_id: String,
    pub user_message: String,
    pub level: String,
    pub request_id: String,
    pub resource_type: String,
    pub resource_id: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// A group of volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: Status,
    pub type_id: String,
    pub volume_types: Vec<String>,
    pub zone: String,
    pub source_group_id: Option<String>,
    pub group_snapshot_id: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Option<Timestamp>,
}

/// A group type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupType {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub is_public: bool,
    pub specs: Map,
    pub created_at: Timestamp,
}

/// A snapshot of each volume of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    pub id: String,
    pub project_id: String,
    pub group_id: String,
    pub group_type_id: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: Status,
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn statuses_are_kept_under_the_names_that_are_shown() {
        for (status, name) in STATUSES {
            assert_eq!(serde_json::to_value(status).unwrap(), *name);
            assert_eq!(Status::parse(name), Some(*status));
        }
        assert_eq!(Status::parse("nonsense"), None);
    }
}
