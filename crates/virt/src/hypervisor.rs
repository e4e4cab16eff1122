//! The seam between the compute agent and whatever runs guests.

use crate::disks::Disk;
use crate::facts::{Diagnostics, GuestEvent, GuestInfo, HostFacts};
use crate::passage::{Berth, Channel, Door, Passage};
use crate::spec::{GuestSpec, Power, Vif};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use types::agent::{Moving, Quiesce};
use types::tpm::Passphrase;
use types::{HostName, ServerId};

/// Result of a verb.
pub type Result<T> = std::result::Result<T, HypervisorError>;

/// Why a verb failed, as far as callers decide differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HypervisorError {
    /// The hypervisor does not answer; trying again may help.
    #[error("the hypervisor does not answer: {0}")]
    Unavailable(String),
    /// The hypervisor has no such guest.
    #[error("no guest {0} on this host")]
    NotFound(ServerId),
    /// Disks could not be made, read or removed.
    #[error("disk: {reason}")]
    Disk {
        /// What failed, with the system's message.
        reason: String,
        /// The file system has no space left: another host may do.
        full: bool,
    },
    /// A disk would have to become smaller, which would cut off what is on it (Nova's words).
    #[error("Unable to resize disk down.")]
    DiskTooSmall,
    /// An image is not what it claims, or does not fit: no host would take it.
    #[error("image refused: {0}")]
    Image(String),
    /// The hypervisor refused.
    #[error("the hypervisor refused: {0}")]
    Rejected(String),
    /// The guest does not do its part, or must be in another state. Its owner is told: no hosts, no paths.
    #[error("{0}")]
    Guest(String),
    /// It took longer than allowed.
    #[error("{0} took too long")]
    Timeout(String),
    /// The agent in the guest does not answer.
    #[error("the guest's agent does not answer: {0}")]
    AgentSilent(String),
    /// Somebody called it off.
    #[error("called off")]
    Cancelled,
    /// The guest ran on another host already when the rest of its memory could not follow: neither host has all of it.
    #[error("the guest's memory was lost between the hosts (post-copy)")]
    PostCopyBroke,
    /// The guest runs on another host already, and its memory follows.
    #[error("the live migration is in post-copy mode and cannot be called off")]
    InPostCopy,
    /// The guest has no agent.
    #[error("QEMU guest agent is not enabled")]
    NoAgent,
    /// A test asked for this failure.
    #[error("injected failure: {0}")]
    Injected(String),
}

impl HypervisorError {
    /// A disk error from an I/O error and what was attempted. The owner of the server may see it: of a path only the end
    /// is told, all of it stands in the log.
    pub fn disk(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let doing = doing.to_string();
        tracing::warn!(doing, %error, "a disk error");
        let shown = if doing.starts_with('/') {
            let parts: Vec<&str> = doing.rsplitn(3, '/').take(2).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("/")
        } else {
            doing
        };
        Self::Disk {
            reason: format!("{shown}: {error}"),
            full,
        }
    }

    /// The same of a file of which so many bytes were still to be written. Whoever is to make room on a full file system
    /// is told how much there is and how much it takes.
    pub fn writing(path: &Path, missing: u64, error: &std::io::Error) -> Self {
        let told = Self::disk(path.display(), error);
        let folder = path.parent().unwrap_or(path);
        match (told, rustix::fs::statvfs(folder)) {
            (Self::Disk { reason, full: true }, Ok(found)) => Self::Disk {
                reason: format!(
                    "{reason}: {} bytes are free in {}, and up to {missing} more are needed; make room there or choose \
                     another host",
                    found.f_bavail.saturating_mul(found.f_frsize),
                    folder.display()
                ),
                full: true,
            },
            (told, _) => told,
        }
    }
}

/// Why a guest with a TPM does not start.
pub(crate) const NO_PASSPHRASE: &str = "the passphrase of the guest's TPM is not on this host; its owner can start it by a hard reboot";

/// Where the files of a guest that lands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luggage {
    /// Aside on this host; they stay there.
    Aside,
    /// In the inbox, which is emptied.
    Inbox,
}

/// What runs guests. Every verb is idempotent: it reads what is there, does what is missing, and a repeat after a
/// crash at any point ends in the same state. Verbs on one guest are serialised by the implementation.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// The host's properties and present use.
    async fn host(&self) -> Result<HostFacts>;

    /// The guest exists as described: disks, config drive, definition; and runs if `power` is on. A guest that runs
    /// already is left as it is. Never stops a guest.
    async fn ensure_guest(&self, spec: &GuestSpec, power: Power) -> Result<GuestInfo>;

    /// Nothing of the guest is on the host: not running, not defined, no files. Files that are another host's, which shares
    /// them, stay. Succeeds when there was nothing.
    async fn ensure_absent(&self, id: ServerId) -> Result<()>;

    /// The guest neither runs nor is defined here, and what moves have put aside of it here is gone. Its files stay, also where
    /// they say that they are this host's: another host that shares them has the guest. Succeeds when there was nothing.
    async fn ensure_undefined(&self, id: ServerId) -> Result<()>;

    /// The guest runs, defined anew from the stored specification if it was off.
    async fn start(&self, id: ServerId) -> Result<GuestInfo>;

    /// The guest is off, at once. Succeeds when it was off.
    async fn stop_hard(&self, id: ServerId) -> Result<()>;

    /// Presses the guest's power button (ACPI). Does not wait; succeeds when the guest is off.
    async fn request_shutdown(&self, id: ServerId) -> Result<()>;

    /// Waits until the guest is off and its process gone.
    ///
    /// # Errors
    /// [`HypervisorError::Timeout`] when it is not by then.
    async fn wait_stopped(&self, id: ServerId, timeout: Duration) -> Result<()>;

    /// Asks the guest to go down, waits at most `timeout`, starts it again. A guest that is off is started.
    ///
    /// # Errors
    /// [`HypervisorError::Timeout`] when the guest did not go down; it then still runs.
    async fn reboot_soft(&self, id: ServerId, timeout: Duration) -> Result<GuestInfo>;

    /// Switches the guest off, defines it anew from `spec` and starts it. Disks stay.
    async fn reboot_hard(&self, spec: &GuestSpec) -> Result<GuestInfo>;

    /// The guest stands still, its memory stays where it is. Succeeds when it did.
    ///
    /// # Errors
    /// [`HypervisorError::Rejected`] when the guest is off.
    async fn pause(&self, id: ServerId) -> Result<GuestInfo>;

    /// A paused guest goes on. Succeeds when it runs.
    ///
    /// # Errors
    /// [`HypervisorError::Rejected`] when the guest is off.
    async fn unpause(&self, id: ServerId) -> Result<GuestInfo>;

    /// The guest's memory is saved beside its disks and its process ends. Succeeds when that was done before.
    ///
    /// # Errors
    /// [`HypervisorError::Rejected`] when the guest is off and nothing was saved.
    async fn suspend(&self, id: ServerId) -> Result<GuestInfo>;

    /// The guest runs: with its saved memory, or switched on when there is none. Succeeds when it ran. All other verbs
    /// that switch a guest on forget what was saved.
    async fn resume(&self, id: ServerId) -> Result<GuestInfo>;

    /// The guest runs from `spec.rescue`, its own disks behind it, and keeps doing so until [`Hypervisor::unrescue`].
    /// One that runs from its own disks is switched off at once. `spec` is the stored specification with the rescue
    /// disk, and with the files of the rescued guest's own config drive if it has one.
    async fn rescue(&self, spec: &GuestSpec) -> Result<GuestInfo>;

    /// The guest runs from its own disks. One that is rescued is switched off at once.
    async fn unrescue(&self, id: ServerId) -> Result<GuestInfo>;

    /// Copies the root disk as it is now into a qcow2 file that needs no other, in the guest's folder; the guest goes on
    /// meanwhile. The caller removes the file. `name` keeps two copies apart. Of a running guest `quiesce` says whether its
    /// file systems stand still at that moment; whatever happens they go on afterwards.
    ///
    /// # Errors
    /// [`HypervisorError::NoAgent`] and [`HypervisorError::AgentSilent`] where they must and cannot.
    async fn snapshot(&self, id: ServerId, name: &str, quiesce: Quiesce) -> Result<PathBuf>;

    /// File systems of a running guest stand still until [`Hypervisor::go_on`], for so long at most: what somebody else
    /// copies meanwhile is of one moment. A guest that is off has none that move, and one that cannot goes on, unless it
    /// must.
    ///
    /// # Errors
    /// As [`Hypervisor::snapshot`].
    async fn stand_still(&self, id: ServerId, quiesce: Quiesce, most: Duration) -> Result<()>;

    /// The guest goes on. Succeeds when it did, and when it is not there.
    async fn go_on(&self, id: ServerId) -> Result<()>;

    /// Ends what an earlier process left in the middle, before anything else is done: guests that stand still go on, copies of
    /// disks are called off and removed.
    async fn recover(&self);

    /// The guest has this interface: at once if it runs, and whenever it is started. Its tap must exist.
    async fn attach(&self, id: ServerId, vif: &Vif) -> Result<GuestInfo>;

    /// The guest does not have the interface of this port.
    ///
    /// # Errors
    /// [`HypervisorError::Guest`] when a running guest does not let go of it.
    async fn detach(&self, id: ServerId, port_id: &str) -> Result<GuestInfo>;

    /// Sends a running or paused guest to another host, which was made ready for it. Here it is off afterwards. Where
    /// hosts are real, `way` leads to the other one. Hosts that share its disks (`shared`) send none, and its files are the
    /// other host's afterwards. Succeeds when it has gone there before.
    ///
    /// # Errors
    /// [`HypervisorError::Cancelled`] when [`Hypervisor::abort_live`] was called meanwhile; the guest then goes on here.
    /// [`HypervisorError::PostCopyBroke`] when it went on there without all of its memory and the rest never came.
    /// [`HypervisorError::Rejected`] when this hypervisor cannot do it.
    async fn migrate_live(
        &self,
        id: ServerId,
        to: &HostName,
        way: Option<Arc<dyn Passage>>,
        shared: bool,
    ) -> Result<GuestInfo>;

    /// Gets ready for a guest that comes while it runs: its definition and disks are here, its taps are waited for.
    ///
    /// # Errors
    /// [`HypervisorError::NotFound`] when nothing was made ready before, [`HypervisorError::Timeout`] when a tap does not
    /// come.
    async fn expect_live(&self, id: ServerId) -> Result<Berth>;

    /// Where a guest is expected, if it is.
    async fn berth(&self, id: ServerId) -> Option<Berth>;

    /// A stream to what waits for an expected guest here.
    async fn enter_door(&self, id: ServerId, door: Door) -> Result<Box<dyn Channel>>;

    /// A guest is not expected any more, or has come.
    async fn expect_no_more(&self, id: ServerId);

    /// Calls the live migration of a guest off; `false` when it is not on its way.
    ///
    /// # Errors
    /// [`HypervisorError::InPostCopy`] when it is too late for that.
    async fn abort_live(&self, id: ServerId) -> Result<bool>;

    /// Ends the live migration of a guest now: where [`LiveChoices::post_copy`](crate::LiveChoices) permits that the guest
    /// goes on on the other host at once, else it stands still until all of it is there. `false` when it is not on its way.
    async fn force_live(&self, id: ServerId) -> Result<bool>;

    /// The processor that a guest runs on, in the words of this kind of hypervisor; none where any will do.
    async fn guest_cpu(&self, id: ServerId) -> Result<Option<String>>;

    /// What keeps a guest with this processor ([`Hypervisor::guest_cpu`] of another host) from running here; none if it can.
    async fn lacks_cpu(&self, cpu: &str) -> Result<Option<String>>;

    /// How far live migrations are.
    async fn moving(&self) -> Vec<Moving>;

    /// A user in the guest has this password: the agent in the guest sets it.
    ///
    /// # Errors
    /// [`HypervisorError::NoAgent`] when the guest was not made with one, [`HypervisorError::AgentSilent`] when it does
    /// not answer, [`HypervisorError::Rejected`] when the guest is off or refuses.
    async fn set_password(&self, id: ServerId, user: &str, password: &str) -> Result<GuestInfo>;

    /// The guest is off at once and off the hypervisor's list; its files are aside on this host, where
    /// [`Hypervisor::land`] and [`Hypervisor::put_back`] find them. Succeeds when that was done before.
    ///
    /// # Errors
    /// [`HypervisorError::DiskTooSmall`] when its root disk is larger than `root_gib` (0 is any size); nothing has
    /// happened then.
    async fn put_aside(&self, id: ServerId, root_gib: u64) -> Result<()>;

    /// The guest is what it was when it was put aside, and runs if `power` is on; what was made of it here since is gone.
    /// One that is not aside is only switched on.
    async fn put_back(&self, id: ServerId, power: Power) -> Result<GuestInfo>;

    /// Nothing is aside of the guest. Succeeds when there was nothing.
    async fn forget_aside(&self, id: ServerId) -> Result<()>;

    /// The files of a guest that is aside.
    ///
    /// # Errors
    /// [`HypervisorError::NotFound`] when none is.
    async fn aside_files(&self, id: ServerId) -> Result<Vec<PathBuf>>;

    /// The base that the disk of a guest stands on, here or aside. It is that of the image which the disk was made of,
    /// whatever the server's image is by now: a shelved server comes back from another one. None where it stands on none.
    async fn disk_base(&self, id: ServerId) -> Result<Option<PathBuf>>;

    /// An empty folder for the files of a guest that comes from another host.
    async fn inbox(&self, id: ServerId) -> Result<PathBuf>;

    /// The guest exists as described, on the disks that it brings; a larger root disk has grown. It runs if `power` is on.
    /// One that landed before is left as it is. Its config drive is the one it had.
    async fn land(&self, spec: &GuestSpec, luggage: Luggage, power: Power) -> Result<GuestInfo>;

    /// The guest exists as described, on files that `from`, which shares them, has made; they are left as they are. With
    /// `take` they are this host's from now on. It runs if `power` is on.
    ///
    /// # Errors
    /// [`HypervisorError::Disk`] when they are not here.
    async fn adopt(
        &self,
        spec: &GuestSpec,
        power: Power,
        from: &HostName,
        take: bool,
    ) -> Result<GuestInfo>;

    /// The files of a guest that is here are this host's, whoever had them. Succeeds when they were.
    async fn claim(&self, id: ServerId) -> Result<()>;

    /// Whether what is aside of a guest was put there by `host`, which shares the files of guests with this one.
    async fn is_aside_of(&self, id: ServerId, host: &HostName) -> bool;

    /// The guest has this volume as a disk: at once if it runs, and whenever it is started.
    async fn attach_disk(&self, id: ServerId, disk: &Disk) -> Result<GuestInfo>;

    /// The guest does not have this volume.
    ///
    /// # Errors
    /// [`HypervisorError::Guest`] when a running guest does not let go of it.
    async fn detach_disk(&self, id: ServerId, volume_id: &str) -> Result<GuestInfo>;

    /// The disk that was the volume `old` is `disk` now, with the same data. Succeeds when it was so. The stored disk is
    /// found by either, or by its own id.
    ///
    /// # Errors
    /// [`HypervisorError::Rejected`] for a guest that is off, and where that cannot be done while it goes on.
    async fn swap_disk(&self, id: ServerId, old: &str, disk: &Disk) -> Result<GuestInfo>;

    /// The guest sees that a volume of it has so many GiB.
    ///
    /// # Errors
    /// [`HypervisorError::Rejected`] where a running guest cannot see that.
    async fn resize_disk(&self, id: ServerId, volume_id: &str, size_gib: u64) -> Result<GuestInfo>;

    /// Sends the guest a non-maskable interrupt, on which a system that is set up for it dumps its memory.
    async fn interrupt(&self, id: ServerId) -> Result<GuestInfo>;

    /// The passphrase of the guest's TPM, for as long as something is done with the guest; `None` takes it back. Verbs that
    /// start the guest need it, unless this host keeps it ([`types::tpm::Security::Host`]).
    fn lend_passphrase(&self, id: ServerId, passphrase: Option<Passphrase>);

    /// This host keeps the passphrase of a guest that is expected here, as the one did that sends it.
    ///
    /// # Errors
    /// [`HypervisorError::NotFound`] when no such guest was made ready.
    async fn keep_passphrase(&self, id: ServerId, passphrase: &Passphrase) -> Result<()>;

    /// The guest as it is now.
    async fn guest(&self, id: ServerId) -> Result<Option<GuestInfo>>;

    /// All guests that belong to this cloud, in one cheap question.
    async fn guests(&self) -> Result<Vec<GuestInfo>>;

    /// The servers of which there are files here, all of them older than `age`, and no guest: what a removal or a move that
    /// was cut short has left, or a guest that is aside.
    async fn stray_files(&self, age: Duration) -> Result<Vec<ServerId>>;

    /// The specification stored by the last `ensure_guest` or `reboot_hard` (without config drive contents).
    async fn stored_spec(&self, id: ServerId) -> Result<Option<GuestSpec>>;

    /// The end of the guest's serial console log, at most `max_bytes`.
    async fn console_log(&self, id: ServerId, max_bytes: usize) -> Result<Vec<u8>>;

    /// Counters of the guest.
    async fn diagnostics(&self, id: ServerId) -> Result<Diagnostics>;

    /// What happens to guests from now on. A receiver that lags must read [`Hypervisor::guests`] again; so must one
    /// whose hypervisor was away, although changes seen after a reconnect are announced too.
    fn events(&self) -> broadcast::Receiver<GuestEvent>;

    /// Whether `RootDisk::Image::base` must be a real file.
    fn needs_image_files(&self) -> bool;

    /// Whether the hypervisor answers now.
    async fn alive(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::HypervisorError;

    #[test]
    fn of_a_path_only_the_end_is_told() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (doing, shown) in [
            ("/srv/cloud/instances/_base/a.part", "_base/a.part"),
            ("/disk", "/disk"),
            ("qemu-img convert", "qemu-img convert"),
        ] {
            let HypervisorError::Disk { reason, full } = HypervisorError::disk(doing, &full) else {
                continue;
            };
            assert_eq!(reason, format!("{shown}: no storage space"));
            assert!(full);
        }
    }
}
