//! How running guests go to other hosts, under nova.conf's names.

use compute::{LiveAction, LiveLimit};
use conductor::flows::hosts_fit::Checks;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use virt::LiveChoices;

/// The choices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LiveMigration {
    pub(crate) auto_converge: bool,
    pub(crate) post_copy: bool,
    /// Seconds for each GiB of memory and disks; 0 is any time.
    pub(crate) completion_timeout: u64,
    /// `abort` or `force_complete`.
    pub(crate) timeout_action: String,
    /// What the new host is held against.
    pub(crate) checks: Checks,
}

impl Default for LiveMigration {
    /// Nova's.
    fn default() -> Self {
        Self {
            auto_converge: false,
            post_copy: false,
            completion_timeout: 800,
            timeout_action: "abort".to_owned(),
            checks: Checks::default(),
        }
    }
}

impl LiveMigration {
    /// For the hypervisor.
    pub(crate) fn choices(&self) -> LiveChoices {
        LiveChoices {
            auto_converge: self.auto_converge,
            post_copy: self.post_copy,
        }
    }

    /// For the agent.
    pub(crate) fn limit(&self) -> Option<LiveLimit> {
        let action = match self.timeout_action.as_str() {
            "force_complete" => LiveAction::ForceComplete,
            _ => LiveAction::Abort,
        };
        (self.completion_timeout > 0).then(|| LiveLimit {
            for_each_gib: Duration::from_secs(self.completion_timeout),
            action,
        })
    }
}

/// One of two actions.
pub(crate) fn action(value: &str) -> Result<String, String> {
    match value {
        "abort" | "force_complete" => Ok(value.to_owned()),
        other => Err(format!("{other:?} is neither abort nor force_complete")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_nova_has_it() {
        let mut wanted = LiveMigration::default();
        let limit = wanted.limit().unwrap();
        assert_eq!(
            (limit.for_each_gib.as_secs(), limit.action),
            (800, LiveAction::Abort)
        );
        wanted.timeout_action = action("force_complete").unwrap();
        assert_eq!(wanted.limit().unwrap().action, LiveAction::ForceComplete);
        wanted.completion_timeout = 0;
        assert_eq!(wanted.limit(), None);
        assert!(action("pause").is_err());
    }
}
