//! Guests whose files several hosts share. Their folder says whose it is (see [`super::folder`]): nobody else removes it.

use super::{Libvirt, blocking};
use crate::facts::GuestInfo;
use crate::hypervisor::{HypervisorError, Result};
use crate::spec::{BootFile, GuestSpec, Power, RootDisk};
use std::path::Path;
use types::{HostName, ServerId};

impl Libvirt {
    /// Makes the guest on the files that are there.
    pub(super) async fn take_up(
        &self,
        spec: &GuestSpec,
        power: Power,
        from: &HostName,
        take: bool,
    ) -> Result<GuestInfo> {
        let _lock = self.exclusive(spec.id).await;
        let files = self.instances.guest(spec.id);
        if !files.spec.exists() && self.was_put_aside_by(spec.id, from) {
            // A move from there was cut short; what was copied of it is not whole without its specification.
            let files = files.clone();
            blocking(move || {
                let fail = |error| HypervisorError::disk(files.aside.display(), &error);
                super::folder::remove_folder(&files.folder).map_err(fail)?;
                std::fs::rename(&files.aside, &files.folder).map_err(fail)
            })
            .await?;
        }
        self.check_disk(spec)?;
        let (files, wanted) = (self.instances.guest(spec.id), spec.clone());
        let from = from.0.clone();
        blocking(move || {
            let say_whose = || {
                // Made before folders said so.
                if files.owner(&files.folder)?.is_none() {
                    files.give(&from)?;
                }
                if take {
                    files.claim()?;
                    files.write_spec(&wanted)?;
                }
                Ok(())
            };
            say_whose().map_err(|error| HypervisorError::disk(files.folder.display(), &error))
        })
        .await?;
        match self.look(spec.id).await? {
            Some(guest) if guest.active => {
                self.remember(spec);
                Ok(guest)
            }
            _ => self.define(spec, power).await,
        }
    }

    pub(super) fn claim_files(&self, id: ServerId) -> Result<()> {
        let files = self.instances.guest(id);
        files
            .claim()
            .map_err(|error| HypervisorError::disk(files.folder.display(), &error))
    }

    pub(super) fn give(&self, id: ServerId, to: &HostName) -> Result<()> {
        let files = self.instances.guest(id);
        files
            .give(&to.0)
            .map_err(|error| HypervisorError::disk(files.folder.display(), &error))
    }

    pub(super) fn was_put_aside_by(&self, id: ServerId, host: &HostName) -> bool {
        let files = self.instances.guest(id);
        let owner = files.owner(&files.aside);
        owner.is_ok_and(|owner| owner.as_deref() == Some(host.0.as_str()))
    }
}

/// A specification that a host has stored which sees the folder by another path.
pub(super) fn relocated(spec: GuestSpec, instances: &Path) -> GuestSpec {
    let here = |root: RootDisk| match root {
        RootDisk::Image {
            base,
            format,
            size_gib,
        } if !base.starts_with(instances) => {
            let own = base
                .file_name()
                .map(|name| instances.join("_base").join(name));
            let found = own.filter(|own| own.exists());
            RootDisk::Image {
                base: found.unwrap_or(base),
                format,
                size_gib,
            }
        }
        other => other,
    };
    let file = |file: &mut BootFile| {
        let own = file.base.file_name();
        let own = own.map(|name| instances.join("_base").join(name));
        if let Some(own) = own.filter(|own| !file.base.starts_with(instances) && own.exists()) {
            file.base = own;
        }
    };
    let mut spec = spec;
    if let Some(kernel) = &mut spec.kernel {
        file(&mut kernel.image);
        kernel.ramdisk.iter_mut().for_each(file);
    }
    spec.root = here(spec.root);
    spec.rescue = spec.rescue.map(|mut rescue| {
        rescue.root = here(rescue.root);
        rescue
    });
    spec
}
