//! What the service keeps. The fields are those of the API unless they say otherwise.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use types::Timestamp;

/// Texts by name.
pub type Map = BTreeMap<String, String>;

/// The states of volumes, snapshots and groups (Block Storage API, "Volume statuses").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It gets its contents.
    Creating,
    /// Nobody uses it.
    Available,
    /// Somebody is about to attach it.
    Reserved,
    /// It is being attached.
    Attaching,
    /// It is being detached.
    Detaching,
    /// A server has it.
    InUse,
    /// An operator has it.
    Maintenance,
    /// It is being removed.
    Deleting,
    /// It is offered to another project.
    AwaitingTransfer,
    /// It could not be made.
    Error,
    /// It could not be removed.
    #[serde(rename = "error_deleting")]
    ErrorDeleting,
    /// It could not grow.
    #[serde(rename = "error_extending")]
    ErrorExtending,
    /// It could not be backed up (set by hand only, as the next ones).
    #[serde(rename = "error_backing-up")]
    ErrorBackingUp,
    /// A backup could not be restored.
    #[serde(rename = "error_restoring")]
    ErrorRestoring,
    /// It could not be taken over.
    #[serde(rename = "error_managing")]
    ErrorManaging,
    /// It is being backed up.
    BackingUp,
    /// A backup is being restored.
    RestoringBackup,
    /// An image is being written onto it.
    Downloading,
    /// It is being sent as an image.
    Uploading,
    /// It gets another type.
    Retyping,
    /// It grows.
    Extending,
    /// It gets the contents of a snapshot.
    Reverting,
    /// It is being taken over.
    Managing,
    /// A group changes.
    Updating,
    /// It is gone.
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
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// GiB.
    pub size: u64,
    /// Its status.
    pub status: Status,
    /// Its type's id.
    pub type_id: String,
    /// Its availability zone.
    pub zone: String,
    /// The snapshot that it was made of.
    pub snapshot_id: Option<String>,
    /// The volume that it was made of.
    pub source_id: Option<String>,
    /// The group that it is in.
    pub group_id: Option<String>,
    /// Whether several servers may have it at once.
    pub multiattach: bool,
    /// Whether a server may boot from it.
    pub bootable: bool,
    /// The owner's metadata.
    pub metadata: Map,
    /// What users see among the metadata and only actions change: `readonly`, `attached_mode`.
    pub admin_metadata: Map,
    /// What is known of the image in it.
    pub image_metadata: Map,
    /// Where compute's swap of volumes stands (`os-migrate_volume_completion`).
    pub migration_status: Option<String>,
    /// What is still to be done.
    pub job: Option<Job>,
    /// The request that gave the job, for messages.
    pub request_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
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

    /// Whether its data is on its way to another volume. Some statuses tell of a move that is over.
    pub fn is_migrating(&self) -> bool {
        let over = ["", "deleting", "error", "success"];
        let status = self.migration_status.as_deref();
        status.is_some_and(|status| !over.contains(&status))
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
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// The volume.
    pub volume_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// GiB of the volume then.
    pub size: u64,
    /// Its status.
    pub status: Status,
    /// How much is there, in percent.
    pub progress: String,
    /// Its type's id.
    pub type_id: String,
    /// The snapshot of a group that it is part of.
    pub group_snapshot_id: Option<String>,
    /// The owner's metadata.
    pub metadata: Map,
    /// What was known of the image in the volume.
    pub image_metadata: Map,
    /// Whether a server may boot from it.
    pub bootable: bool,
    /// What is still to be done.
    pub job: Option<Job>,
    /// The request that gave the job, for messages.
    pub request_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
}

/// A volume type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeType {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// What backends and servers read of it.
    pub extra_specs: Map,
    /// Its QoS specs.
    pub qos_id: Option<String>,
    /// How its volumes are to be encrypted.
    #[serde(default)]
    pub encryption: Option<Encryption>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
}

/// How volumes of a type are to be encrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encryption {
    /// Its id.
    pub id: String,
    /// What encrypts (`luks`).
    pub provider: String,
    /// Who encrypts: `front-end` (the host) or `back-end`.
    pub control_location: String,
    /// The cipher and its mode.
    pub cipher: Option<String>,
    /// Bits of the key.
    pub key_size: Option<i64>,
    /// When it was made.
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
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who applies them: `front-end`, `back-end`, `both`.
    pub consumer: String,
    /// The limits by their names.
    pub specs: Map,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An attachment of a volume to a server (or to somebody who is none).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: String,
    /// The volume.
    pub volume_id: String,
    /// The project that owns it.
    pub project_id: String,
    /// The server.
    pub server_id: Option<String>,
    /// `reserved`, `attaching`, `attached`, `detaching`.
    pub status: String,
    /// `rw`, `ro`, or `null` when nobody has said.
    pub mode: String,
    /// The device, as the server calls it.
    pub device: Option<String>,
    /// The server's host.
    pub host: Option<String>,
    /// What the host said of itself.
    pub connector: Option<serde_json::Value>,
    /// The name under which NBD serves it; only who knows it connects.
    pub export: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was completed.
    pub attached_at: Option<Timestamp>,
}

/// An offer of a volume to another project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Its id.
    pub id: String,
    /// The volume.
    pub volume_id: String,
    /// The project that owns it.
    pub project_id: String,
    /// Its name.
    pub name: Option<String>,
    /// Of the secret key, hex.
    pub salt: String,
    /// Of the salt and the key, hex.
    pub hash: String,
    /// Whether the volume goes without its snapshots.
    pub no_snapshots: bool,
    /// Whether somebody has taken it.
    pub accepted: bool,
    /// Who has taken it.
    pub destination: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Something that a user should know about (Block Storage API, "Messages").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// Its number among the known events.
    pub event_id: String,
    /// What it says.
    pub user_message: String,
    /// How bad it is.
    pub level: String,
    /// The request that it is about.
    pub request_id: String,
    /// What it is about (`VOLUME`, ...).
    pub resource_type: String,
    /// The id of what it is about.
    pub resource_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it goes.
    pub expires_at: Timestamp,
}

/// A group of volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// Who made it.
    pub user_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Its status.
    pub status: Status,
    /// Its type's id.
    pub type_id: String,
    /// The types that its volumes may have.
    pub volume_types: Vec<String>,
    /// Its availability zone.
    pub zone: String,
    /// The group that it was made of.
    pub source_group_id: Option<String>,
    /// The snapshot that it was made of.
    pub group_snapshot_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
}

/// A group type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupType {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Whether every project may use it.
    pub is_public: bool,
    /// Its group specs.
    pub specs: Map,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A snapshot of each volume of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshot {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project_id: String,
    /// The group.
    pub group_id: String,
    /// The group's type.
    pub group_type_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// Its status.
    pub status: Status,
    /// When it was made.
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
