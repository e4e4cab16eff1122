//! Copies of a guest's disk. A running guest's is mirrored by QEMU until it is whole, and cut off at one moment; that
//! of a guest that is off is copied by `qemu-img`.

use super::calls::{BlockJob, DomainRef};
use super::{Libvirt, blocking, explain, image};
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::RootDisk;
use quick_xml::escape::escape;
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::ServerId;
use types::agent::Quiesce;

/// How often a mirror is looked at.
const LOOK: Duration = Duration::from_millis(250);

impl Libvirt {
    pub(super) async fn take_snapshot(
        &self,
        id: ServerId,
        name: &str,
        quiesce: Quiesce,
    ) -> Result<PathBuf> {
        let _lock = self.exclusive(id).await;
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        if spec.root == RootDisk::Volume {
            let words = "the guest's root disk is a volume, which the volume service copies";
            return Err(HypervisorError::Rejected(words.into()));
        }
        self.check_disk(&spec)?;
        let files = self.instances.guest(id);
        let copy = files.folder.join(format!("{name}.snapshot"));
        let stale = copy.clone();
        blocking(move || match std::fs::remove_file(&stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(HypervisorError::disk(stale.display(), &error))
            }
            _ => Ok(()),
        })
        .await?;
        let running = self.look(id).await?.is_some_and(|guest| guest.active);
        let made = if running {
            let quiet = self.quiet(&spec, quiesce).await?;
            self.mirror(id, &files.disk, &copy, quiet).await
        } else {
            image::flatten(&files.disk, &copy).await
        };
        if made.is_err() {
            std::fs::remove_file(&copy).ok();
        }
        made.map(|()| copy)
    }

    async fn mirror(&self, id: ServerId, disk: &Path, copy: &Path, quiet: Quiesce) -> Result<()> {
        let domain = self.reference(id);
        let seen = |path: &Path| {
            let path = self.instances.for_qemu(path).ok_or_else(|| {
                HypervisorError::Rejected("a file outside of the instances folder".into())
            })?;
            Ok::<_, HypervisorError>(path.to_string_lossy().into_owned())
        };
        let (disk, copy) = (seen(disk)?, seen(copy)?);
        // Left by an agent that went away in the middle; without one this is refused.
        let _ = self.jobs.abort_block_job(&domain, &disk).await;
        let target = format!(
            "<disk type='file'><driver type='qcow2'/><source file='{}'/></disk>",
            escape(&copy)
        );
        self.jobs
            .copy_block(&domain, &disk, &target)
            .await
            .map_err(explain)?;
        self.mirrored(&domain, &disk).await?;
        // Only now, so that file systems stand still for a moment and not for as long as the copy takes.
        let frozen = match self.freeze(id, quiet).await {
            Ok(frozen) => frozen,
            Err(error) => {
                let _ = self.jobs.abort_block_job(&domain, &disk).await;
                return Err(error);
            }
        };
        let cut = match frozen.is_some() {
            // What the guest wrote while it came to a stand is part of the copy.
            true => self.mirrored(&domain, &disk).await,
            false => Ok(()),
        };
        let ended = self.jobs.abort_block_job(&domain, &disk).await;
        if let Some(frozen) = frozen {
            frozen.thaw().await;
        }
        cut?;
        ended.map_err(explain)
    }

    /// Waits until the copy is as the disk is.
    async fn mirrored(&self, domain: &DomainRef, disk: &str) -> Result<()> {
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
