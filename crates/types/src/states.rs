//! The states of a server and what the API shows of them (Compute API guide, "Server Concepts").

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text Nova uses in its API and database.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The value with this text.
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

text_enum!(
    /// The stable state a server is in (`OS-EXT-STS:vm_state`).
    VmState {
        /// Running, or last known to run.
        Active = "active",
        /// Accepted and not yet launched.
        Building = "building",
        /// Paused in memory.
        Paused = "paused",
        /// Suspended to disk.
        Suspended = "suspended",
        /// Shut off.
        Stopped = "stopped",
        /// Running from a rescue image.
        Rescued = "rescued",
        /// Resized and waiting to be confirmed.
        Resized = "resized",
        /// Deleted, restorable until reclaimed.
        SoftDelete = "soft-delete",
        /// Gone.
        Deleted = "deleted",
        /// Needs the attention of its owner or an operator.
        Error = "error",
        /// Shelved, still on its host.
        Shelved = "shelved",
        /// Shelved and without a host.
        ShelvedOffloaded = "shelved_offloaded",
    }
);

text_enum!(
    /// What is being done to a server (`OS-EXT-STS:task_state`); absent when nothing is.
    TaskState {
        /// Waiting for a host.
        Scheduling = "scheduling",
        /// Preparing block devices.
        BlockDeviceMapping = "block_device_mapping",
        /// Preparing ports.
        Networking = "networking",
        /// The hypervisor creates the guest.
        Spawning = "spawning",
        /// Snapshot started.
        ImageSnapshot = "image_snapshot",
        /// Snapshot accepted.
        ImageSnapshotPending = "image_snapshot_pending",
        /// Snapshot waits for upload.
        ImagePendingUpload = "image_pending_upload",
        /// Snapshot uploads.
        ImageUploading = "image_uploading",
        /// Backup runs.
        ImageBackup = "image_backup",
        /// Password change runs.
        UpdatingPassword = "updating_password",
        /// Resize: choosing and preparing a destination.
        ResizePrep = "resize_prep",
        /// Resize: moving disks.
        ResizeMigrating = "resize_migrating",
        /// Resize: disks moved.
        ResizeMigrated = "resize_migrated",
        /// Resize: starting on the destination.
        ResizeFinish = "resize_finish",
        /// Resize is being undone.
        ResizeReverting = "resize_reverting",
        /// Resize is being confirmed.
        ResizeConfirming = "resize_confirming",
        /// Soft reboot accepted.
        Rebooting = "rebooting",
        /// Soft reboot reached the host.
        RebootPending = "reboot_pending",
        /// Soft reboot runs.
        RebootStarted = "reboot_started",
        /// Hard reboot accepted.
        RebootingHard = "rebooting_hard",
        /// Hard reboot reached the host.
        RebootPendingHard = "reboot_pending_hard",
        /// Hard reboot runs.
        RebootStartedHard = "reboot_started_hard",
        /// Pausing.
        Pausing = "pausing",
        /// Unpausing.
        Unpausing = "unpausing",
        /// Suspending.
        Suspending = "suspending",
        /// Resuming.
        Resuming = "resuming",
        /// Stopping.
        PoweringOff = "powering-off",
        /// Starting.
        PoweringOn = "powering-on",
        /// Entering rescue.
        Rescuing = "rescuing",
        /// Leaving rescue.
        Unrescuing = "unrescuing",
        /// Rebuild accepted.
        Rebuilding = "rebuilding",
        /// Rebuild: block devices.
        RebuildBlockDeviceMapping = "rebuild_block_device_mapping",
        /// Rebuild: starting.
        RebuildSpawning = "rebuild_spawning",
        /// Migrating.
        Migrating = "migrating",
        /// Being deleted.
        Deleting = "deleting",
        /// Being soft-deleted.
        SoftDeleting = "soft-deleting",
        /// Being restored.
        Restoring = "restoring",
        /// Shelving.
        Shelving = "shelving",
        /// Shelving: waits for upload.
        ShelvingImagePendingUpload = "shelving_image_pending_upload",
        /// Shelving: uploads.
        ShelvingImageUploading = "shelving_image_uploading",
        /// Shelving: leaves its host.
        ShelvingOffloading = "shelving_offloading",
        /// Unshelving.
        Unshelving = "unshelving",
    }
);

/// What the hypervisor says of a guest (`OS-EXT-STS:power_state`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum PowerState {
    /// Not known yet.
    #[default]
    NoState,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Shut off.
    Shutdown,
    /// Crashed.
    Crashed,
    /// Suspended to disk.
    Suspended,
}

impl PowerState {
    /// The number Nova shows.
    pub fn code(self) -> u8 {
        match self {
            Self::NoState => 0,
            Self::Running => 1,
            Self::Paused => 3,
            Self::Shutdown => 4,
            Self::Crashed => 6,
            Self::Suspended => 7,
        }
    }

    /// The state with this number; unknown numbers mean "not known".
    pub fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Running,
            3 => Self::Paused,
            4 => Self::Shutdown,
            6 => Self::Crashed,
            7 => Self::Suspended,
            _ => Self::NoState,
        }
    }
}

/// The API's `status` for a pair of states, as Nova's `nova.api.openstack.common` maps it.
pub fn status(vm: VmState, task: Option<TaskState>) -> &'static str {
    use TaskState as T;
    let rebuilding = matches!(
        task,
        Some(T::Rebuilding | T::RebuildBlockDeviceMapping | T::RebuildSpawning)
    );
    let resizing = matches!(
        task,
        Some(T::ResizePrep | T::ResizeMigrating | T::ResizeMigrated | T::ResizeFinish)
    );
    match vm {
        VmState::Active => match task {
            Some(T::Rebooting | T::RebootPending | T::RebootStarted) => "REBOOT",
            Some(T::RebootingHard | T::RebootPendingHard | T::RebootStartedHard) => "HARD_REBOOT",
            Some(T::UpdatingPassword) => "PASSWORD",
            Some(T::Migrating) => "MIGRATING",
            _ if rebuilding => "REBUILD",
            _ if resizing => "RESIZE",
            _ => "ACTIVE",
        },
        VmState::Building => "BUILD",
        VmState::Stopped if rebuilding => "REBUILD",
        VmState::Stopped if resizing => "RESIZE",
        VmState::Stopped => "SHUTOFF",
        VmState::Resized if task == Some(T::ResizeReverting) => "REVERT_RESIZE",
        VmState::Resized => "VERIFY_RESIZE",
        VmState::Paused if task == Some(T::Migrating) => "MIGRATING",
        VmState::Paused => "PAUSED",
        VmState::Suspended => "SUSPENDED",
        VmState::Rescued => "RESCUE",
        VmState::Error if rebuilding => "REBUILD",
        VmState::Error => "ERROR",
        VmState::Deleted => "DELETED",
        VmState::SoftDelete => "SOFT_DELETED",
        VmState::Shelved => "SHELVED",
        VmState::ShelvedOffloaded => "SHELVED_OFFLOADED",
    }
}

/// The vm_states whose servers may show this `status` (list filter `status=`); empty for an unknown status.
pub fn vm_states_with_status(wanted: &str) -> Vec<(VmState, Vec<Option<TaskState>>)> {
    let mut found = Vec::new();
    for &vm in VmState::ALL {
        let tasks: Vec<Option<TaskState>> = std::iter::once(None)
            .chain(TaskState::ALL.iter().copied().map(Some))
            .filter(|&task| status(vm, task).eq_ignore_ascii_case(wanted))
            .collect();
        if !tasks.is_empty() {
            found.push((vm, tasks));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        use TaskState as T;
        use VmState as V;
        let table = [
            (V::Active, None, "ACTIVE"),
            (V::Active, Some(T::Rebooting), "REBOOT"),
            (V::Active, Some(T::RebootStartedHard), "HARD_REBOOT"),
            (V::Active, Some(T::PoweringOff), "ACTIVE"),
            (V::Building, Some(T::Spawning), "BUILD"),
            (V::Stopped, Some(T::ResizeFinish), "RESIZE"),
            (V::Stopped, Some(T::PoweringOn), "SHUTOFF"),
            (V::Resized, Some(T::ResizeReverting), "REVERT_RESIZE"),
            (V::Error, Some(T::Rebuilding), "REBUILD"),
            (V::Error, Some(T::Deleting), "ERROR"),
        ];
        for (vm, task, wanted) in table {
            assert_eq!(status(vm, task), wanted, "{vm} {task:?}");
        }
    }

    #[test]
    fn texts_round_trip() {
        for &state in VmState::ALL {
            assert_eq!(VmState::parse(state.as_str()), Some(state));
        }
        for &state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
        }
        assert_eq!(vm_states_with_status("REBOOT").len(), 1);
        assert!(vm_states_with_status("NOPE").is_empty());
    }
}
