//! The rules in force: Nova's defaults, `policy.yaml`, the files of `policy.d` in the order of their names. Files that
//! change are read again within a second; one that cannot be read or understood leaves the rules as they were.

use crate::{policy_renames, policy_rules};
use policy::{Enforcer, PolicyError, Target};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;
use types::Caller;

/// Where an operator writes rules of their own (`[oslo_policy]`).
#[derive(Clone, Debug, Default)]
pub struct PolicyFiles {
    /// `policy_file`; it need not exist.
    pub file: Option<PathBuf>,
    /// `policy_dirs`: every `.yaml`, `.yml` and `.json` in it counts; it need not exist.
    pub folder: Option<PathBuf>,
}

/// Why the rules cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A rule or a file's form.
    #[error("{path}: {error}")]
    Policy {
        /// Where it stands.
        path: String,
        /// What is wrong.
        error: PolicyError,
    },
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        error: std::io::Error,
    },
}

/// What tells one state of the files from another.
type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// The rules, and where they come from.
pub struct Policies {
    base: Enforcer,
    files: PolicyFiles,
    seen: Mutex<Stamp>,
    current: RwLock<Arc<Enforcer>>,
}

impl Policies {
    /// Reads all rules. `overrides` is the text of a `policy.yaml` that is no file.
    ///
    /// # Errors
    /// A file cannot be read or a rule cannot be understood: a cloud must not start with other rules than it was given.
    pub fn open(overrides: Option<&str>, files: PolicyFiles) -> Result<Self, Unusable> {
        let wrong = |error| Unusable::Policy {
            path: "the default rules".to_owned(),
            error,
        };
        let mut base = Enforcer::new(policy_rules::defaults())
            .map_err(wrong)?
            .with_deprecated(&policy_renames::all());
        if let Some(text) = overrides {
            base = base.with_overrides(text).map_err(wrong)?;
            warn_of_unknown(&base, Path::new("policy.yaml"));
        }
        let stamp = files.stamp();
        let current = files.read(&base)?;
        Ok(Self {
            base,
            files,
            seen: Mutex::new(stamp),
            current: RwLock::new(Arc::new(current)),
        })
    }

    /// Whether a rule lets the caller pass. All but the base rules are for tokens of projects (Nova's `scope_types`): one
    /// for the system or for a domain does not pass, as with oslo.policy's `enforce_scope`.
    pub fn allows(&self, rule: &str, caller: &Caller, target: &Target) -> bool {
        let of_a_project = !caller.system_scope && caller.domain_id.is_none();
        (of_a_project || policy_rules::is_base(rule))
            && self.in_force().allows(rule, caller, target)
    }

    /// The rules in force.
    pub fn in_force(&self) -> Arc<Enforcer> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are files that can change.
    pub fn is_watched(&self) -> bool {
        self.files.file.is_some() || self.files.folder.is_some()
    }

    /// Reads the files again if one has changed, come or gone. Reads from disk: not for the threads that serve requests.
    pub fn refresh(&self) {
        let stamp = self.files.stamp();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == stamp {
            return;
        }
        *seen = stamp;
        match self.files.read(&self.base) {
            Ok(enforcer) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(enforcer);
                tracing::info!("the policy files have changed and were read again");
            }
            Err(error) => {
                tracing::error!(%error, "a policy file is unusable; the rules stay as they were");
            }
        }
    }
}

fn warn_of_unknown(enforcer: &Enforcer, path: &Path) {
    for (rule, old) in enforcer.followed() {
        tracing::warn!(rule, old, file = %path.display(), "a policy file uses a rule's name of old; use the new one");
    }
    for rule in enforcer.unknown() {
        tracing::warn!(rule, file = %path.display(), "a policy file names a rule that does not exist");
    }
}

impl PolicyFiles {
    /// The files that are there, in the order in which they count.
    fn present(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self
            .file
            .iter()
            .filter(|path| path.exists())
            .cloned()
            .collect();
        let entries = self
            .folder
            .iter()
            .filter_map(|folder| folder.read_dir().ok());
        let mut more: Vec<PathBuf> = entries
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let kind = path.extension().and_then(|kind| kind.to_str());
                matches!(kind, Some("yaml" | "yml" | "json"))
            })
            .collect();
        more.sort();
        paths.extend(more);
        paths
    }

    fn stamp(&self) -> Stamp {
        let one = |path: PathBuf| {
            let about = path.metadata().ok();
            let changed = about.as_ref().and_then(|about| about.modified().ok());
            (path, changed, about.map_or(0, |about| about.len()))
        };
        self.present().into_iter().map(one).collect()
    }

    fn read(&self, base: &Enforcer) -> Result<Enforcer, Unusable> {
        let mut enforcer = base.clone();
        for path in self.present() {
            let shown = || path.display().to_string();
            let text = std::fs::read_to_string(&path).map_err(|error| Unusable::File {
                path: shown(),
                error,
            })?;
            enforcer = enforcer
                .with_overrides(&text)
                .map_err(|error| Unusable::Policy {
                    path: shown(),
                    error,
                })?;
            warn_of_unknown(&enforcer, &path);
        }
        Ok(enforcer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn member() -> Caller {
        Caller {
            roles: vec!["member".to_owned()],
            ..Caller::default()
        }
    }

    #[test]
    fn files_are_read_again_when_they_change() {
        const RULE: &str = "os_compute_api:os-services:list";
        let home = tempfile::tempdir().unwrap();
        let (file, folder) = (
            home.path().join("policy.yaml"),
            home.path().join("policy.d"),
        );
        let files = PolicyFiles {
            file: Some(file.clone()),
            folder: Some(folder.clone()),
        };
        let policies = Policies::open(None, files.clone()).unwrap();
        let allowed = || {
            policies.refresh();
            policies.allows(RULE, &member(), &Target::new())
        };
        assert!(!allowed(), "without files the defaults");
        std::fs::write(&file, format!("\"{RULE}\": \"role:member\"\n")).unwrap();
        assert!(allowed());
        std::fs::write(&file, "[ this is not a policy").unwrap();
        assert!(allowed(), "an unusable file changes nothing");
        assert!(
            Policies::open(None, files).is_err(),
            "but a cloud does not start with it"
        );
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, format!("\"{RULE}\": \"role:member\"\n\n")).unwrap();
        std::fs::write(folder.join("a.yaml"), format!("\"{RULE}\": \"!\"\n")).unwrap();
        assert!(!allowed(), "the folder's files come later");
        std::fs::write(folder.join("b.yaml"), format!("\"{RULE}\": \"@\"\n")).unwrap();
        assert!(allowed(), "in the order of their names");
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!allowed(), "the defaults again");
    }
}
