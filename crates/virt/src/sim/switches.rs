//! The same disturbances as [`super::Controls`], for a cloud that runs in another process: a file in the host's folder.
//!
//! `faults.json` beside the guests, read again whenever it changes; without it nothing is disturbed:
//!
//! ```json
//! {"delay_ms": {"ensure_guest": 5000}, "delay_after_ms": {"stop_hard": 5000}, "fail": {"start": "why"},
//!  "down": true, "disk_full": true, "ignore_shutdown": true, "live_ms": 60000}
//! ```

use super::faults::Verb;
use crate::hypervisor::HypervisorError;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The file's name.
pub(super) const NAME: &str = "faults.json";

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Switches {
    delay_ms: HashMap<Verb, u64>,
    delay_after_ms: HashMap<Verb, u64>,
    fail: HashMap<Verb, String>,
    /// The hypervisor does not answer.
    pub(super) down: bool,
    /// New guests find no space.
    pub(super) disk_full: bool,
    /// Guests do not react to their power button.
    pub(super) ignore_shutdown: bool,
    /// How long a live migration takes.
    pub(super) live_ms: u64,
}

impl Switches {
    pub(super) fn delay(&self, verb: Verb) -> Option<Duration> {
        self.delay_ms.get(&verb).copied().map(Duration::from_millis)
    }

    pub(super) fn delay_after(&self, verb: Verb) -> Option<Duration> {
        let delay = self.delay_after_ms.get(&verb).copied();
        delay.map(Duration::from_millis)
    }

    pub(super) fn failure(&self, verb: Verb) -> Option<HypervisorError> {
        self.fail.get(&verb).cloned().map(HypervisorError::Injected)
    }
}

/// The file, and what it said when it was last read.
pub(super) struct SwitchFile {
    path: PathBuf,
    last: Mutex<(Option<SystemTime>, Arc<Switches>)>,
}

impl SwitchFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self {
            path: folder.join(NAME),
            last: Mutex::default(),
        }
    }

    /// What the file says now. One that cannot be read is reported and disturbs nothing.
    pub(super) fn now(&self) -> Arc<Switches> {
        let written = std::fs::metadata(&self.path).and_then(|found| found.modified());
        let written = written.ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != written {
            let read = || -> Result<Switches, Box<dyn std::error::Error>> {
                Ok(serde_json::from_slice(&std::fs::read(&self.path)?)?)
            };
            let switches = match written.map(|_| read()) {
                Some(Ok(switches)) => switches,
                Some(Err(error)) => {
                    tracing::warn!(path = %self.path.display(), %error, "the simulated faults cannot be read");
                    Switches::default()
                }
                None => Switches::default(),
            };
            *last = (written, Arc::new(switches));
        }
        Arc::clone(&last.1)
    }
}
