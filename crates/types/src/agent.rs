//! What a conductor and the agent on a host say to each other.
//!
//! Work for a host is a row in the database; the agent long-polls a conductor for it and posts results.
//! Every piece of work carries the task's epoch: an agent refuses one that is lower than the highest it has
//! seen for the task, so a conductor that lost its lease cannot act any more.

use crate::disks::GuestDisk;
use crate::ids::{HostName, ImageId, NodeId, ServerId, TaskId};
use crate::image_check::ImageCheck;
use crate::image_properties::ImageProperties;
use crate::server::ImageRef;
use crate::states::PowerState;
use crate::time::Timestamp;
use crate::tpm::{Passphrase, Tpm};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The protocol between conductors and agents as this release speaks it, as Nova's `SERVICE_VERSION`. It rises with each new
/// verb or question, and with each change of one that an older agent would get wrong.
///
/// | version | what is new |
/// |---|---|
/// | 1 | nobody says a version |
/// | 2 | agents say theirs, and refuse what they do not know, each by itself; `rebuild_once` of a guest that comes from another host |
/// | 3 | questions for the processor of a guest, and whether it can run elsewhere; `ensure_undefined` |
/// | 4 | `ensure_stayed` that only looks; `reboot_once` with the plan of the guest, which older agents do without |
/// | 5 | the question for what the host holds |
pub const SERVICE_VERSION: u32 = 5;

/// The version of an agent that says none.
pub const FIRST_VERSION: u32 = 1;

fn first_version() -> u32 {
    FIRST_VERSION
}

/// What is said of a host that is asked for something that its release does not know.
pub fn does_not_know(host: &HostName, what: &str) -> String {
    format!("host {host} runs a release that does not know {what}: bring it up to date")
}

/// What an agent asks when it has time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Poll {
    /// The agent's start; a new one is handed everything again.
    pub incarnation: u64,
    /// Milliseconds to wait for work.
    pub wait_ms: u64,
    /// The agent's [`SERVICE_VERSION`]: what it does not know it is not handed.
    #[serde(default = "first_version")]
    pub version: u32,
}

/// Whether a step is being done or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The step's effect is wanted.
    Do,
    /// The step's effect is to be removed.
    Undo,
}

impl Direction {
    /// `do` or `undo`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Undo => "undo",
        }
    }
}

/// Identifies one effect: repeats of the same key are the same effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkKey {
    /// The task.
    pub task: TaskId,
    /// The step's name.
    pub step: String,
    /// Do or undo.
    pub direction: Direction,
}

/// One piece of work for a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// Which effect.
    pub key: WorkKey,
    /// The task's epoch; a lower one than seen before is refused.
    pub epoch: u64,
    /// The server concerned.
    pub server: ServerId,
    /// The API request behind it, for logs.
    pub request: String,
    /// The trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<crate::Trace>,
    /// Seconds the conductor is ready to wait.
    pub deadline_seconds: u64,
    /// What to make true.
    pub verb: Verb,
    /// The passphrase of the guest's TPM, for the time of the work: sealed where it is stored with the task, in clear only
    /// on its way to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Passphrase>,
}

/// Whether file systems of a running guest stand still while it is copied, which its agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// No.
    #[default]
    No,
    /// Where the agent answers.
    Try,
    /// Or there is no copy.
    Must,
}

impl Quiesce {
    /// What the properties of a server's image ask for (`hw_qemu_guest_agent`, `os_require_quiesce`).
    pub fn of(properties: &BTreeMap<String, String>) -> Self {
        let image = ImageProperties::readable(properties);
        let says = |name: &str| image.flag(name) == Some(true);
        if says("os_require_quiesce") {
            Self::Must
        } else if says("hw_qemu_guest_agent") {
            Self::Try
        } else {
            Self::No
        }
    }
}

/// What an agent can be asked to make true. All verbs are idempotent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// The guest exists as described and runs.
    EnsureGuest(Box<GuestPlan>),
    /// Nothing of the guest is on the host.
    EnsureAbsent,
    /// The guest is not defined on the host, and what moves have left there of it is gone. Its files stay, whosever they are:
    /// a host that shares them has the guest.
    EnsureUndefined,
    /// The guest runs.
    EnsureRunning,
    /// The guest is off: asked politely first, for this many seconds, then switched off.
    EnsureStopped {
        /// Seconds given to the guest; 0 switches off at once.
        grace_seconds: u64,
    },
    /// The guest was restarted once for this key.
    RebootOnce {
        /// Switched off and recreated instead of asked.
        hard: bool,
        /// Seconds given to the guest before a soft reboot becomes a hard one.
        grace_seconds: u64,
        /// The guest as it shall be, for a host that does not know any more what it was. Its config drive is the one it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<Box<GuestPlan>>,
    },
    /// The guest stands still in memory.
    EnsurePaused,
    /// The guest, if it was paused, goes on.
    EnsureUnpaused,
    /// The guest's memory is on disk and its process has ended.
    EnsureSuspended,
    /// The guest runs, with the memory it was suspended with if there is any.
    EnsureResumed,
    /// The guest runs from the plan's image, its own disks behind it; only the image, its properties and the files of
    /// the config drive count in the plan.
    EnsureRescued {
        /// The guest with the image to boot from.
        plan: Box<GuestPlan>,
        /// Seconds given to the guest to go down before.
        grace_seconds: u64,
    },
    /// The guest runs from its own disks.
    EnsureUnrescued,
    /// What was there of the guest is gone and it was made anew, once for this key.
    RebuildOnce {
        /// The guest as it shall be.
        plan: Box<GuestPlan>,
        /// Whether it shall run afterwards.
        on: bool,
        /// Seconds given to the guest to go down before.
        #[serde(default)]
        grace_seconds: u64,
        /// The host from which a guest comes while it runs: its disk, which is copied, goes on with the base that it has
        /// there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<HostName>,
    },
    /// The image service has a copy of the guest's disk as the data of this image, taken once for this key.
    SnapshotOnce {
        /// The image, which waits for its data.
        image: ImageId,
        /// Whether the guest's file systems stand still at the moment of the copy.
        #[serde(default)]
        quiesce: Quiesce,
    },
    /// File systems of the guest stand still, for so long at most, until [`Verb::EnsureGoingOn`].
    EnsureStill {
        /// How much that matters.
        quiesce: Quiesce,
        /// Seconds after which they go on by themselves.
        seconds: u64,
    },
    /// Nothing of the guest stands still.
    EnsureGoingOn,
    /// The guest has this interface, now if it runs and from its next start on.
    EnsureInterface(GuestVif),
    /// The guest does not have the interface of this port.
    EnsureNoInterface {
        /// The port.
        port_id: String,
    },
    /// The guest has this volume as a disk, now if it runs and from its next start on.
    EnsureVolume {
        /// The volume.
        volume_id: String,
        /// The disk; filled in when the host pulls the work.
        disk: Option<Box<GuestDisk>>,
    },
    /// The guest does not have this volume.
    EnsureNoVolume {
        /// The volume.
        volume_id: String,
    },
    /// The guest's disk is the new volume, with what was on the old one.
    EnsureSwapped {
        /// The volume that it had.
        old_volume_id: String,
        /// The disk as it shall be.
        disk: Box<GuestDisk>,
    },
    /// The guest sees that this volume has grown.
    EnsureVolumeSize {
        /// The volume.
        volume_id: String,
        /// GiB.
        size_gib: u64,
    },
    /// The guest got a non-maskable interrupt once for this key.
    InterruptOnce,
    /// The guest has gone to another host while it ran, sent once for this key; here it is off.
    MigrateLiveOnce {
        /// Where it is expected.
        to: HostName,
        /// The two hosts share its disks: none are sent, and its files are the other host's from then on.
        #[serde(default)]
        shared: bool,
    },
    /// The guest, which was to go to another host, is still here as it was.
    EnsureStayed {
        /// Whether it stands still.
        paused: bool,
        /// It is only looked at: where it is not as it was, the other host may run it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        look: bool,
    },
    /// The guest, which came from another host, goes on.
    EnsureArrived {
        /// Whether it stands still.
        paused: bool,
    },
    /// A user in the guest has this password.
    EnsurePassword {
        /// The user's name.
        user: String,
        /// The password: sealed where it is stored, in clear only on its way to the host.
        password: String,
    },
    /// What a guest of this plan is made of is here, so that it can come soon.
    EnsureReady(Box<GuestPlan>),
    /// The guest is off and aside: off the hypervisor's list, its files kept for [`Verb::EnsureLanded`] here or on
    /// another host, and for [`Verb::EnsurePutBack`].
    EnsurePutAside {
        /// Seconds given to the guest to go down.
        grace_seconds: u64,
        /// The root disk that it shall have, in GiB; one that is too small for what it has is refused. 0 is any.
        root_gb: u32,
    },
    /// The guest exists as planned, on the disks of the one that is aside on the other host (or on this one).
    EnsureLanded {
        /// The guest as it shall be. Its config drive is the one it has.
        plan: Box<GuestPlan>,
        /// Where it is aside.
        from: HostName,
        /// Whether it shall run.
        on: bool,
    },
    /// The guest is what it was before it was put aside; what landed here of it since is gone.
    EnsurePutBack {
        /// Whether it shall run.
        on: bool,
    },
    /// Nothing of the guest is kept aside.
    EnsureAsideForgotten,
    /// The guest exists as planned, on files that another host, which shares them, has made. Only sent where both say so.
    EnsureShared {
        /// The guest as it shall be. Its config drive is the one it has.
        plan: Box<GuestPlan>,
        /// Whether it shall run.
        on: bool,
        /// The host that has made them.
        from: HostName,
        /// Whether the files are this host's from now on.
        take: bool,
    },
}

impl Verb {
    /// Whether it changes what a guest that is there does, so that after a failure its host looks what it does now.
    pub fn changes_power(&self) -> bool {
        matches!(
            self,
            Self::EnsureRunning
                | Self::EnsureStopped { .. }
                | Self::RebootOnce { .. }
                | Self::EnsurePaused
                | Self::EnsureUnpaused
                | Self::EnsureSuspended
                | Self::EnsureResumed
                | Self::EnsureRescued { .. }
                | Self::EnsureUnrescued
        )
    }

    /// The plan of a guest that is made by this verb, for what is filled in late.
    pub fn plan_mut(&mut self) -> Option<&mut GuestPlan> {
        match self {
            Self::EnsureGuest(plan)
            | Self::EnsureRescued { plan, .. }
            | Self::RebuildOnce { plan, .. } => Some(plan),
            _ => None,
        }
    }

    /// The plan of a guest that gets its disks late: as [`Verb::plan_mut`], and of one that lands, or begins anew, with the
    /// config drive it had.
    pub fn plan_of_disks_mut(&mut self) -> Option<&mut GuestPlan> {
        match self {
            Self::EnsureLanded { plan, .. }
            | Self::EnsureShared { plan, .. }
            | Self::RebootOnce {
                plan: Some(plan), ..
            } => Some(plan),
            other => other.plan_mut(),
        }
    }

    /// What is stored sealed, for whoever hands the verb over.
    pub fn sealed_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::EnsurePassword { password, .. } => Some(password),
            _ => None,
        }
    }

    /// The volume of a verb whose disk is filled in late, and the place of the disk.
    pub fn volume_mut(&mut self) -> Option<(&str, &mut Option<Box<GuestDisk>>)> {
        match self {
            Self::EnsureVolume { volume_id, disk } => Some((volume_id, disk)),
            _ => None,
        }
    }

    /// The [`SERVICE_VERSION`] from which agents know the verb as it is asked here.
    pub fn since(&self) -> u32 {
        match self {
            Self::EnsureGuest(_)
            | Self::EnsureAbsent
            | Self::EnsureRunning
            | Self::EnsureStopped { .. }
            | Self::RebootOnce { .. }
            | Self::EnsurePaused
            | Self::EnsureUnpaused
            | Self::EnsureSuspended
            | Self::EnsureResumed
            | Self::EnsureRescued { .. }
            | Self::EnsureUnrescued
            | Self::RebuildOnce { from: None, .. }
            | Self::SnapshotOnce { .. }
            | Self::EnsureStill { .. }
            | Self::EnsureGoingOn
            | Self::EnsureInterface(_)
            | Self::EnsureNoInterface { .. }
            | Self::EnsureVolume { .. }
            | Self::EnsureNoVolume { .. }
            | Self::EnsureSwapped { .. }
            | Self::EnsureVolumeSize { .. }
            | Self::InterruptOnce
            | Self::MigrateLiveOnce { .. }
            | Self::EnsureStayed { look: false, .. }
            | Self::EnsureArrived { .. }
            | Self::EnsurePassword { .. }
            | Self::EnsureReady(_)
            | Self::EnsurePutAside { .. }
            | Self::EnsureLanded { .. }
            | Self::EnsurePutBack { .. }
            | Self::EnsureAsideForgotten
            | Self::EnsureShared { .. } => FIRST_VERSION,
            // An older one would give the disk that comes the base of the server's image.
            Self::RebuildOnce { from: Some(_), .. } => 2,
            Self::EnsureUndefined => 3,
            // An older one would start it.
            Self::EnsureStayed { look: true, .. } => 4,
        }
    }

    /// The verb's name in logs and ledgers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EnsureGuest(_) => "ensure_guest",
            Self::EnsureAbsent => "ensure_absent",
            Self::EnsureUndefined => "ensure_undefined",
            Self::EnsureRunning => "ensure_running",
            Self::EnsureStopped { .. } => "ensure_stopped",
            Self::RebootOnce { .. } => "reboot_once",
            Self::EnsurePaused => "ensure_paused",
            Self::EnsureUnpaused => "ensure_unpaused",
            Self::EnsureSuspended => "ensure_suspended",
            Self::EnsureResumed => "ensure_resumed",
            Self::EnsureRescued { .. } => "ensure_rescued",
            Self::EnsureUnrescued => "ensure_unrescued",
            Self::RebuildOnce { .. } => "rebuild_once",
            Self::SnapshotOnce { .. } => "snapshot_once",
            Self::EnsureStill { .. } => "ensure_still",
            Self::EnsureGoingOn => "ensure_going_on",
            Self::EnsureInterface(_) => "ensure_interface",
            Self::EnsureNoInterface { .. } => "ensure_no_interface",
            Self::EnsureVolume { .. } => "ensure_volume",
            Self::EnsureNoVolume { .. } => "ensure_no_volume",
            Self::EnsureSwapped { .. } => "ensure_swapped",
            Self::EnsureVolumeSize { .. } => "ensure_volume_size",
            Self::InterruptOnce => "interrupt_once",
            Self::MigrateLiveOnce { .. } => "migrate_live_once",
            Self::EnsureStayed { .. } => "ensure_stayed",
            Self::EnsureArrived { .. } => "ensure_arrived",
            Self::EnsurePassword { .. } => "ensure_password",
            Self::EnsureReady(_) => "ensure_ready",
            Self::EnsurePutAside { .. } => "ensure_put_aside",
            Self::EnsureLanded { .. } => "ensure_landed",
            Self::EnsurePutBack { .. } => "ensure_put_back",
            Self::EnsureAsideForgotten => "ensure_aside_forgotten",
            Self::EnsureShared { .. } => "ensure_shared",
        }
    }
}

/// A guest as the conductor wants it on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestPlan {
    /// The server's number for `instance-%08x`.
    pub number: u64,
    /// The display name.
    pub name: String,
    /// Owner, for the hypervisor's metadata.
    pub project_id: String,
    /// Creator, for the hypervisor's metadata.
    pub user_id: String,
    /// The flavor's name.
    pub flavor_name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Root disk in GiB; 0 means "as large as the image".
    pub root_gb: u32,
    /// Ephemeral disk in GiB.
    pub ephemeral_gb: u32,
    /// Swap in MiB.
    pub swap_mb: u32,
    /// The image of the root disk.
    pub image: Option<GuestImage>,
    /// Interfaces in order.
    pub vifs: Vec<GuestVif>,
    /// Files of the config drive (path below its root, base64 of the content); none means no config drive.
    pub config_drive: Option<Vec<(String, String)>>,
    /// Image properties that shape the machine (`hw_*`).
    pub hardware: BTreeMap<String, String>,
    /// Disks beside the one that is made of the image; the one with boot index 0 takes its place.
    #[serde(default)]
    pub disks: Vec<GuestDisk>,
    /// Its emulated TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// What it is booted with, if not with what is on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<GuestKernel>,
}

/// A kernel outside of a guest's disk. Its command line is the image property `os_command_line`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestKernel {
    /// The kernel.
    pub image: GuestImage,
    /// The first RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<GuestImage>,
}

/// Where a root disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImage {
    /// The image.
    pub id: ImageId,
    /// The format it claims.
    pub disk_format: String,
    /// Bytes of the file.
    pub size: u64,
    /// Hex sha512 of the file.
    pub sha512: Option<String>,
    /// What the file is held against beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<ImageCheck>,
}

impl From<&ImageRef> for GuestImage {
    fn from(image: &ImageRef) -> Self {
        Self {
            id: image.id,
            disk_format: image.disk_format.clone(),
            size: image.size,
            sha512: image.sha512.clone(),
            check: image.check.clone(),
        }
    }
}

/// One interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestVif {
    /// The port.
    pub port_id: String,
    /// Its MAC address.
    pub mac: String,
    /// The tap device the network agent made.
    pub tap: String,
    /// Bytes.
    pub mtu: u32,
}

/// How a piece of work ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum WorkOutcome {
    /// It is so; the guest's power state afterwards.
    Done {
        /// The guest's power state, as Nova's number.
        power: u8,
    },
    /// It cannot be made so here.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// For the log and, where it is safe, the fault.
        message: String,
        /// The guest's power state since, as Nova's number; none where nobody has looked. Older agents do not look.
        #[serde(default)]
        power: Option<u8>,
    },
    /// A higher epoch was seen for this task.
    Fenced,
}

impl WorkOutcome {
    /// Success with this power state.
    pub fn done(power: PowerState) -> Self {
        Self::Done {
            power: power.code(),
        }
    }

    /// A failure after which nobody has looked at the guest.
    pub fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed {
            kind,
            message: message.into(),
            power: None,
        }
    }
}

/// Why work failed, as far as the conductor decides differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Another host may succeed: the hypervisor refused, the disk is full, resources are short.
    Host,
    /// No host would succeed: the image lies about its format, is too large, is gone.
    Request,
    /// The hypervisor does not answer; trying again may help.
    Unavailable,
    /// The guest is not there.
    NotFound,
    /// It took too long.
    Timeout,
    /// The guest does not do its part, or must be in another state: its owner can do something about it. The words name no
    /// hosts and no paths.
    Guest,
    /// Somebody called it off.
    Cancelled,
    /// The guest went on on another host before its memory was there, and the rest of it never came.
    PostCopy,
    /// The host is down: no agent says that, whoever waits for one does.
    HostDown,
}

/// A finished piece of work, posted by the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkReport {
    /// Which effect.
    pub key: WorkKey,
    /// The epoch under which it was done.
    pub epoch: u64,
    /// How it ended.
    pub outcome: WorkOutcome,
}

/// A short question that changes nothing of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub enum Question {
    /// The end of the serial console log.
    ConsoleLog {
        /// Bytes at most.
        max_bytes: u64,
    },
    /// Counters of the guest.
    Diagnostics,
    /// Is this image in the host's cache? If not, it is fetched after the answer. No server is concerned.
    CacheImage(GuestImage),
    /// How long the host runs. No server is concerned.
    Uptime,
    /// The live migration of the guest is called off; what works on it says how that ended.
    AbortLive,
    /// The live migration of the guest ends now, whatever that costs the guest.
    ForceLive,
    /// The processor that the guest runs on, in its hypervisor's words; nothing where any will do.
    GuestCpu,
    /// What keeps a guest with this processor from running on the host; nothing if it can.
    LacksCpu {
        /// The answer to [`Question::GuestCpu`] of the host that it runs on.
        cpu: String,
    },
    /// What there is on the host that audits hold against the record. No server is concerned.
    Holdings {
        /// Base images that no guest needs are removed at once, as the agent does now and then.
        tidy: bool,
    },
}

/// The answer to [`Question::Holdings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// All guests, and what they do.
    pub guests: Vec<GuestSeen>,
    /// File names of the base images that the agent removes when it looks at them next, or has removed now.
    pub unused: Vec<String>,
}

impl Question {
    /// The question's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConsoleLog { .. } => "console_log",
            Self::Diagnostics => "diagnostics",
            Self::CacheImage(_) => "cache_image",
            Self::Uptime => "uptime",
            Self::AbortLive => "abort_live",
            Self::ForceLive => "force_live",
            Self::GuestCpu => "guest_cpu",
            Self::LacksCpu { .. } => "lacks_cpu",
            Self::Holdings { .. } => "holdings",
        }
    }

    /// The [`SERVICE_VERSION`] from which agents know the question as it is asked here.
    pub fn since(&self) -> u32 {
        match self {
            Self::ConsoleLog { .. }
            | Self::Diagnostics
            | Self::CacheImage(_)
            | Self::Uptime
            | Self::AbortLive
            | Self::ForceLive => FIRST_VERSION,
            Self::GuestCpu | Self::LacksCpu { .. } => 3,
            Self::Holdings { .. } => 5,
        }
    }
}

/// A question on its way to a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Pairs the answer with the question.
    pub id: Uuid,
    /// The server concerned.
    pub server: ServerId,
    /// What is asked.
    pub question: Question,
}

/// The answer: base64 for a console log, JSON text for diagnostics, `cached` or `fetching` for an image, the words of
/// `uptime` for a host, JSON text for [`Holdings`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's id.
    pub id: Uuid,
    /// The text, or why there is none.
    pub result: Result<String, (FailureKind, String)>,
}

/// What a host is and has (`os-hypervisors`, and the inventory in Placement).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `QEMU`, `fake`.
    pub hypervisor_type: String,
    /// As an integer, 7002000 for 7.2.0.
    pub hypervisor_version: u64,
    /// The hypervisor's own host name; names the compute node.
    pub hypervisor_hostname: String,
    /// Physical CPUs.
    pub vcpus: u32,
    /// MiB.
    pub memory_mb: u64,
    /// GiB where disks of guests live.
    pub disk_gb: u64,
    /// GiB free there.
    pub free_disk_gb: u64,
    /// MiB in use on the host.
    pub memory_mb_used: u64,
    /// The API's `cpu_info` object.
    pub cpu_info: serde_json::Value,
    /// The address of the host.
    pub host_ip: String,
    /// `(architecture, hypervisor type, machine mode)` that guests may have.
    pub supported: Vec<(String, String, String)>,
    /// What it can do for guests, by the names of os-traits.
    #[serde(default)]
    pub traits: Vec<String>,
    /// Names the file system of guests' files: hosts with the same one share them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Whether the hypervisor answers.
    pub healthy: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// What an agent says when it starts and every few seconds after.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The host.
    pub host: HostName,
    /// The node's lasting id, kept by the agent on its disk.
    pub node: NodeId,
    /// A number that is new with each start of the agent process.
    pub incarnation: u64,
    /// The agent's [`SERVICE_VERSION`].
    #[serde(default = "first_version")]
    pub version: u32,
    /// Facts, sent when they changed and on the first beat.
    pub facts: Option<HostFacts>,
    /// Power states that changed since the last beat, or all of them on the first one.
    pub guests: Vec<GuestSeen>,
    /// With a complete list: servers of which there are only files, and for a while.
    #[serde(default)]
    pub strays: Vec<ServerId>,
    /// Guests that are on their way to other hosts.
    #[serde(default)]
    pub moving: Vec<Moving>,
    /// True when `guests` is the complete list of what the hypervisor holds.
    pub complete: bool,
    /// True for the first one of an agent's life: no work can have changed anything since the list was made.
    #[serde(default)]
    pub introduction: bool,
    /// True for the first complete list of an agent's life that was taken, the introduction or a later one.
    #[serde(default)]
    pub first: bool,
    /// [`Noted::at`] of the answer that was there before anybody looked at the guests: what is said of them is not
    /// older than this. Without it nobody knows how old it is.
    #[serde(default)]
    pub heard: Option<Timestamp>,
}

/// What a conductor answers a heartbeat with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The conductor's time.
    pub at: Timestamp,
    /// Servers that changed after the time of [`Heartbeat::heard`], so that what was said of their guests may be what
    /// they did before: to be looked at again, and said again soon.
    #[serde(default)]
    pub again: Vec<ServerId>,
    /// The host is on no record any more, and the heartbeat was without [`Heartbeat::facts`]: they are to be said again.
    #[serde(default)]
    pub forgotten: bool,
}

/// How far a live migration is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The server.
    pub server: ServerId,
    /// Of its memory: all, sent, left.
    pub memory: (u64, u64, u64),
    /// Of its disks: all, sent, left.
    pub disk: (u64, u64, u64),
    /// It runs on the other host already, and what it needs of its memory follows (post-copy).
    #[serde(default)]
    pub post_copy: bool,
}

/// A guest as the hypervisor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSeen {
    /// The server.
    pub server: ServerId,
    /// Its power state, as Nova's number.
    pub power: u8,
}
