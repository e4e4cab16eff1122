//! Emulated TPMs of real guests: libvirt runs swtpm beside QEMU and gives it the passphrase of what the device remembers, a
//! secret of libvirt that is there while the guest starts, or for as long as the guest is here.
//!
//! libvirt keeps what the device remembers in a folder of its own, and removes it with the domain. A guest that is put
//! aside, or taken off the list, takes it along in its own folder; it is encrypted with the passphrase.

use super::calls::SecretRef;
use super::folder::{GuestFolder, remove_folder, write_whole};
use super::{Libvirt, blocking, explain};
use crate::facts::TpmKinds;
use crate::hypervisor::{HypervisorError, NO_PASSPHRASE, Result};
use crate::passage::Passage;
use crate::spec::GuestSpec;
use quick_xml::de::DeError;
use serde::Deserialize;
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use types::ServerId;
use types::tpm::{Passphrase, Tpm, Version};

/// Where libvirt keeps what TPMs remember.
const STORE: &str = "/var/lib/libvirt/swtpm";

/// The name of the file in which swtpm keeps it, which is different for each version.
pub(super) const FILES: [&str; 2] = ["tpm-00.permall", "tpm2-00.permall"];

fn file_of(version: Version) -> &'static str {
    match version {
        Version::V1_2 => FILES[0],
        Version::V2_0 => FILES[1],
    }
}

/// The file of a guest, where libvirt has it.
fn in_store(store: &Path, id: ServerId, version: Version) -> PathBuf {
    let folder = match version {
        Version::V1_2 => "tpm1.2",
        Version::V2_0 => "tpm2",
    };
    let own = store.join(id.to_string());
    own.join(folder).join(file_of(version))
}

/// Copies what a guest's TPM remembers into the guest's folder. One that never ran remembers nothing.
fn carry_out(store: &Path, files: &GuestFolder, id: ServerId, tpm: &Tpm) -> std::io::Result<()> {
    let version = tpm.wanted.version;
    match std::fs::read(in_store(store, id, version)) {
        Ok(memory) => write_whole(&files.folder.join(file_of(version)), &memory),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts what lies in the guest's folder where libvirt looks for it. What another version remembers is of no use.
fn carry_back(
    store: &Path,
    files: &GuestFolder,
    id: ServerId,
    tpm: Option<&Tpm>,
) -> std::io::Result<()> {
    let wanted = tpm.map(|tpm| tpm.wanted.version);
    for version in [Version::V1_2, Version::V2_0] {
        let carried = files.folder.join(file_of(version));
        let memory = match std::fs::read(&carried) {
            Ok(memory) => memory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if wanted == Some(version) {
            let to = in_store(store, id, version);
            let folder = to.parent().unwrap_or(store);
            // libvirt makes the folders so, and gives the last one to swtpm's user when the guest starts.
            let made = |path: &Path, mode: u32| {
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(mode).create(path)
            };
            made(folder.parent().unwrap_or(store), 0o711)?;
            made(folder, 0o700)?;
            write_whole(&to, &memory)?;
        }
        std::fs::remove_file(&carried)?;
    }
    Ok(())
}

impl Libvirt {
    pub(super) fn lent(&self) -> MutexGuard<'_, HashMap<ServerId, Passphrase>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a guest starts: libvirt has the passphrase of its TPM.
    pub(super) async fn unlock(&self, spec: &GuestSpec) -> Result<()> {
        let Some(tpm) = &spec.tpm else { return Ok(()) };
        let lent = self.lent().get(&spec.id).cloned();
        let missing = || HypervisorError::Guest(NO_PASSPHRASE.into());
        match lent {
            Some(passphrase) => {
                let made = self.jobs.put_secret(spec.id, tpm, &passphrase);
                made.await.map_err(explain)
            }
            None if tpm.is_kept_by_host() => {
                self.kept(spec.id).await?.ok_or_else(missing).map(drop)
            }
            None => Err(missing()),
        }
    }

    /// After it has started, or could not: libvirt forgets the passphrase, unless the host is to keep it.
    pub(super) async fn lock_again(&self, spec: &GuestSpec) {
        if spec.tpm.is_none_or(|tpm| tpm.is_kept_by_host()) {
            return;
        }
        if let Err(error) = self.forget_passphrase(spec.id).await {
            tracing::error!(guest = %spec.id, %error, "libvirt still has the passphrase of the guest's TPM");
        }
    }

    /// A guest that is made or lands, and does not start: its host keeps the passphrase from now on, if it is to.
    pub(super) async fn keep_if_lent(&self, spec: &GuestSpec) -> Result<()> {
        let Some(tpm) = spec.tpm.filter(Tpm::is_kept_by_host) else {
            return Ok(());
        };
        let Some(passphrase) = self.lent().get(&spec.id).cloned() else {
            return Ok(());
        };
        let made = self.jobs.put_secret(spec.id, &tpm, &passphrase);
        made.await.map_err(explain)
    }

    async fn kept(&self, id: ServerId) -> Result<Option<SecretRef>> {
        self.jobs.secret_of(id).await.map_err(explain)
    }

    pub(super) async fn forget_passphrase(&self, id: ServerId) -> Result<()> {
        match self.kept(id).await? {
            Some(secret) => self.jobs.forget_secret(&secret).await.map_err(explain),
            None => Ok(()),
        }
    }

    /// The guest is expected here, and comes while it runs.
    pub(super) async fn keep(&self, id: ServerId, passphrase: &Passphrase) -> Result<()> {
        let spec = self.read_spec(id)?.ok_or(HypervisorError::NotFound(id))?;
        let tpm = spec.tpm.filter(Tpm::is_kept_by_host);
        let tpm = tpm.ok_or_else(|| HypervisorError::Guest(NO_PASSPHRASE.into()))?;
        let made = self.jobs.put_secret(id, &tpm, passphrase);
        made.await.map_err(explain)
    }

    /// Sends the passphrase ahead of a guest that leaves.
    pub(super) async fn send_passphrase(
        &self,
        spec: &GuestSpec,
        way: &Arc<dyn Passage>,
    ) -> Result<()> {
        if spec.tpm.is_none() {
            return Ok(());
        }
        let missing = || HypervisorError::Guest(NO_PASSPHRASE.into());
        let secret = self.kept(spec.id).await?.ok_or_else(missing)?;
        let passphrase = self.jobs.secret_value(&secret).await.map_err(explain)?;
        way.carry_passphrase(&passphrase).await
    }

    /// Before a domain is forgotten that is to come again: what its TPM remembers goes into the guest's folder.
    pub(super) async fn keep_tpm_memory(&self, spec: &GuestSpec) -> Result<()> {
        let Some(tpm) = spec.tpm else { return Ok(()) };
        let (files, id) = (self.instances.guest(spec.id), spec.id);
        blocking(move || {
            carry_out(Path::new(STORE), &files, id, &tpm)
                .map_err(|error| HypervisorError::disk(files.folder.display(), &error))
        })
        .await
    }

    /// Before a domain is defined: what was kept so is where libvirt looks for it.
    pub(super) async fn bring_tpm_memory(&self, spec: &GuestSpec) -> Result<()> {
        let (files, id, tpm) = (self.instances.guest(spec.id), spec.id, spec.tpm);
        blocking(move || {
            carry_back(Path::new(STORE), &files, id, tpm.as_ref())
                .map_err(|error| HypervisorError::disk(STORE, &error))
        })
        .await
    }

    /// Nothing of a guest's TPM is on the host.
    pub(super) async fn forget_tpm(&self, id: ServerId) -> Result<()> {
        if !self.swtpm {
            return Ok(());
        }
        self.forget_passphrase(id).await?;
        let own = Path::new(STORE).join(id.to_string());
        remove_folder(&own).map_err(|error| HypervisorError::disk(own.display(), &error))
    }

    /// The kinds that guests can have here; asked for once.
    pub(super) async fn tpm_kinds(&self) -> Result<TpmKinds> {
        if !self.swtpm {
            return Ok(TpmKinds::default());
        }
        let asked = self.tpm_kinds.get_or_try_init(|| async {
            let xml = self.questions.domain_capabilities(self.choices.kvm).await;
            let kinds = kinds(&xml.map_err(explain)?).map_err(|error| {
                HypervisorError::Rejected(format!("capabilities of domains: {error}"))
            })?;
            if kinds == TpmKinds::default() {
                tracing::warn!("[libvirt] swtpm_enabled is set, but libvirt finds no swtpm: guests get no TPM here");
            }
            Ok::<_, HypervisorError>(kinds)
        });
        asked.await.cloned()
    }
}

#[derive(Deserialize)]
struct Document {
    devices: Devices,
}

#[derive(Deserialize)]
struct Devices {
    tpm: Option<Device>,
}

#[derive(Deserialize)]
struct Device {
    #[serde(rename = "@supported")]
    supported: String,
    #[serde(rename = "enum", default)]
    lists: Vec<List>,
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "value", default)]
    values: Vec<String>,
}

/// Reads libvirt's capabilities of domains. One that does not tell versions (before 8.6) has both, as in Nova.
fn kinds(xml: &str) -> std::result::Result<TpmKinds, DeError> {
    let document: Document = quick_xml::de::from_str(xml)?;
    let device = document.devices.tpm.filter(|tpm| tpm.supported == "yes");
    let lists = device.map(|device| device.lists).unwrap_or_default();
    let named = |name: &str| {
        let list = lists.iter().find(|list| list.name == name);
        list.map(|list| list.values.clone())
    };
    let backends = named("backendModel").unwrap_or_default();
    if !backends.iter().any(|backend| backend == "emulator") {
        return Ok(TpmKinds::default());
    }
    let versions = named("backendVersion").unwrap_or_else(|| TpmKinds::all().versions);
    Ok(TpmKinds {
        models: named("model").unwrap_or_default(),
        versions,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::folder::Instances;
    use super::*;
    use types::tpm::{Model, Security, Wanted};

    fn tpm(version: Version) -> Tpm {
        let wanted = Wanted {
            version,
            model: Model::Tis,
            security: Security::User,
        };
        let secret = uuid::Uuid::nil();
        Tpm { wanted, secret }
    }

    #[test]
    fn only_emulated_devices_count() {
        let list = |name: &str, values: &[&str]| {
            let values = values.iter().map(|value| format!("<value>{value}</value>"));
            format!("<enum name='{name}'>{}</enum>", values.collect::<String>())
        };
        let models = list("model", &["tpm-tis", "tpm-crb"]);
        let both = list("backendModel", &["passthrough", "emulator"]);
        let versions = list("backendVersion", &["2.0"]);
        let of = |tpm: &str| {
            let xml = format!(
                "<domainCapabilities><path>/q</path><devices><disk supported='yes'/>{tpm}\
                 <rng supported='no'/></devices></domainCapabilities>"
            );
            let kinds = kinds(&xml).unwrap();
            (kinds.models.join(" "), kinds.versions.join(" "))
        };
        let none = (String::new(), String::new());
        for (tpm, wanted) in [
            (String::new(), none.clone()),
            ("<tpm supported='no'/>".to_owned(), none.clone()),
            (
                format!(
                    "<tpm supported='yes'>{models}{}</tpm>",
                    list("backendModel", &["passthrough"])
                ),
                none,
            ),
            (
                format!("<tpm supported='yes'>{models}{both}</tpm>"),
                ("tpm-tis tpm-crb".into(), "1.2 2.0".into()),
            ),
            (
                format!("<tpm supported='yes'>{models}{both}{versions}</tpm>"),
                ("tpm-tis tpm-crb".into(), "2.0".into()),
            ),
        ] {
            assert_eq!(of(&tpm), wanted, "{tpm}");
        }
        assert!(kinds("<domainCapabilities/>").is_err());
    }

    #[test]
    fn memory_goes_along_and_back_and_only_to_its_own_version() {
        let home = tempfile::tempdir().unwrap();
        let instances = Instances::open(&home.path().join("instances"), home.path()).unwrap();
        let (store, id) = (home.path().join("swtpm"), ServerId::random());
        let files = instances.guest(id);
        files.create().unwrap();
        for (had, gets, kept) in [
            (Version::V2_0, Some(Version::V2_0), true),
            (Version::V1_2, Some(Version::V1_2), true),
            (Version::V1_2, Some(Version::V2_0), false),
            (Version::V2_0, None, false),
        ] {
            let there = in_store(&store, id, had);
            carry_out(&store, &files, id, &tpm(had)).unwrap();
            std::fs::create_dir_all(there.parent().unwrap()).unwrap();
            std::fs::write(&there, b"memory").unwrap();
            for _ in 0..2 {
                carry_out(&store, &files, id, &tpm(had)).unwrap();
            }
            remove_folder(&store).unwrap();
            // The repeat of one whose domain is gone already.
            carry_out(&store, &files, id, &tpm(had)).unwrap();
            for _ in 0..2 {
                let gets = gets.map(tpm);
                carry_back(&store, &files, id, gets.as_ref()).unwrap();
            }
            let found = std::fs::read(&there).ok();
            assert_eq!(found, kept.then(|| b"memory".to_vec()), "{had:?} {gets:?}");
            let left = FILES.map(|name| files.folder.join(name).exists());
            assert_eq!(left, [false, false]);
            remove_folder(&store).unwrap();
        }
    }
}
