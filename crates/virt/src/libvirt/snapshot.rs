//! Copies of a guest's disk. A running guest's is mirrored by QEMU until it is whole, and cut off at one moment; that
//! of a guest that is off is copied by `qemu-img`. A copy that is given up is called off and removed, by the next process if
//! need be.

use super::calls::{BlockJob, DomainRef, Link};
use super::rpc::RpcError;
use super::{Libvirt, blocking, explain, image};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::RootDisk;
use quick_xml::escape::escape;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempPath;
use tokio::sync::OwnedMutexGuard;
use types::ServerId;
use types::agent::Quiesce;

/// How often a mirror is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// A disk of a running guest, all whose writes go to a copy as well. Dropped, by a call that was given up for instance, it is
/// called off before anything else is done with the guest.
pub(super) struct Mirror {
    jobs: Arc<Link>,
    domain: DomainRef,
    disk: String,
    /// There until it has ended.
    lock: Option<OwnedMutexGuard<()>>,
}

impl Mirror {
    /// Made before the copy is asked for: an answer may be lost.
    pub(super) fn new(
        jobs: &Arc<Link>,
        domain: &DomainRef,
        disk: &str,
        lock: OwnedMutexGuard<()>,
    ) -> Self {
        Self {
            jobs: Arc::clone(jobs),
            domain: domain.clone(),
            disk: disk.to_owned(),
            lock: Some(lock),
        }
    }

    /// Nobody calls it off any more; gives the lock back.
    pub(super) fn keep(mut self) -> Option<OwnedMutexGuard<()>> {
        self.lock.take()
    }

    /// The copy stays as it is now.
    async fn end(mut self) -> Result<()> {
        let ended = self.jobs.abort_block_job(&self.domain, &self.disk).await;
        self.lock = None;
        ended.map_err(explain)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let (Some(lock), Ok(runtime)) = (self.lock.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (jobs, domain) = (Arc::clone(&self.jobs), self.domain.clone());
        let disk = std::mem::take(&mut self.disk);
        runtime.spawn(async move {
            match jobs.abort_block_job(&domain, &disk).await {
                // None was under way.
                Ok(()) | Err(RpcError::Refused { .. }) => {}
                Err(error) => {
                    tracing::warn!(guest = %domain.id, %error, "a copy of the disk may go on until the agent starts again");
                }
            }
            drop(lock);
        });
    }
}

impl Libvirt {
    pub(super) async fn take_snapshot(
        &self,
        id: ServerId,
        name: &str,
        quiesce: Quiesce,
    ) -> Result<PathBuf> {
        let lock = self.exclusive(id).await;
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if spec.root == RootDisk::Volume {
            let words = "the guest's root disk is a volume, which the volume service copies";
            return Err(HypervisorError::Guest(words.into()));
        }
        self.check_disk(&spec)?;
        let files = self.instances.guest(id);
        let copy = files.copy(name);
        let stale = copy.clone();
        blocking(move || match std::fs::remove_file(&stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HypervisorError::disk(stale.display(), &error))
            }
            _ => Ok(()),
        })
        .await?;
        let copy = TempPath::try_from_path(copy)
            .map_err(|error| HypervisorError::disk(files.folder.display(), &error))?;
        if self.look(id).await?.is_some_and(|guest| guest.active) {
            let quiet = self.quiet(&spec, quiesce).await?;
            self.mirror(lock, id, &files.disk, &copy, quiet).await?;
        } else {
            image::flatten(&files.disk, &copy).await?;
        }
        copy.keep()
            .map_err(|error| HypervisorError::disk(error.path.display(), &error.error))
    }

    async fn mirror(
        &self,
        lock: OwnedMutexGuard<()>,
        id: ServerId,
        disk: &Path,
        copy: &Path,
        quiet: Quiesce,
    ) -> Result<()> {
        let domain = self.reference(id);
        let whole = copy.to_owned();
        let (disk, copy) = (self.seen_by_qemu(disk)?, self.seen_by_qemu(copy)?);
        // One that nobody ended; without one this is refused.
        let _ = self.jobs.abort_block_job(&domain, &disk).await;
        let target = format!(
            "<disk type='file'><driver type='qcow2'/><source file='{}'/></disk>",
            escape(&copy)
        );
        let mirror = Mirror::new(&self.jobs, &domain, &disk, lock);
        self.jobs
            .copy_block(&domain, &disk, &target)
            .await
            .map_err(explain)?;
        let mirrored = self.mirrored(&domain, &disk).await;
        mirrored.map_err(|error| full_or(&whole, error))?;
        // Only now, so that file systems stand still for a moment and not for as long as the copy takes.
        let frozen = self.freeze(id, quiet).await?;
        let cut = match frozen.is_some() {
            // What the guest wrote while it came to a stand is part of the copy.
            true => {
                let mirrored = self.mirrored(&domain, &disk).await;
                mirrored.map_err(|error| full_or(&whole, error))
            }
            false => Ok(()),
        };
        let ended = mirror.end().await;
        if let Some(frozen) = frozen {
            frozen.thaw().await;
        }
        cut?;
        ended
    }

    fn seen_by_qemu(&self, path: &Path) -> Result<String> {
        let path = self.instances.for_qemu(path).ok_or_else(|| {
            HypervisorError::Rejected("a file outside of the instances folder".into())
        })?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Copies that an earlier process was making are called off and removed.
    pub(super) async fn forget_copies(&self, id: ServerId) -> Result<()> {
        let _lock = self.exclusive(id).await;
        let files = self.instances.guest(id);
        let wrong = |error| HypervisorError::disk(files.folder.display(), &error);
        let copies = files.copies().map_err(wrong)?;
        if copies.is_empty() {
            return Ok(());
        }
        // Refused where none is under way, as when it was being sent.
        let disk = self.seen_by_qemu(&files.disk)?;
        let _ = self.jobs.abort_block_job(&self.reference(id), &disk).await;
        tracing::info!(guest = %id, "a copy of the disk that an earlier process was making is removed");
        copies
            .iter()
            .try_for_each(std::fs::remove_file)
            .map_err(wrong)
    }

    /// Waits until the copy is as the disk is. An error when there is none, or no guest.
    pub(super) async fn mirrored(&self, domain: &DomainRef, disk: &str) -> Result<()> {
        loop {
            match self
                .questions
                .block_job(domain, disk)
                .await
                .map_err(explain)?
            {
                Some(BlockJob { done, of }) if of > 0 && done == of => return Ok(()),
                Some(_) => tokio::time::sleep(LOOK).await,
                None => {
                    return Err(HypervisorError::Rejected(
                        "the copy of the disk broke off".into(),
                    ));
                }
            }
        }
    }
}

/// A copy that breaks off where nothing is left for it did so for that: QEMU only says that it did.
fn full_or(copy: &Path, error: HypervisorError) -> HypervisorError {
    const NOTHING: u64 = 4 << 20;
    let left = rustix::fs::statvfs(copy).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
    match (left, error) {
        (Ok(left), HypervisorError::Rejected(_)) if left < NOTHING => {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            HypervisorError::disk(copy.display(), &full)
        }
        (_, error) => error,
    }
}
