//! What a cluster is made of.

use conductor::flows::grace::Patience;
use conductor::flows::hosts_fit::Checks;
use conductor::guests::Rules;
use journal::Settings;
use std::time::Duration;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts, named `host-1` and so on.
    pub hosts: usize,
    /// CPUs, MiB and GiB of each.
    pub size: (u32, u64, u64),
    /// Times and bounds of the journal.
    pub journal: Settings,
    /// How often agents say that they live.
    pub beat: Duration,
    /// How long after its last word a host is down.
    pub down_after: Duration,
    /// Hosts that are not like the others: the version of the hypervisor and the features of the CPUs.
    pub unlike: &'static [(&'static str, u64, &'static [&'static str])],
    /// Whether the hosts share the disks of their guests.
    pub shared: bool,
    /// How guests go to other hosts while they run.
    pub live: virt::LiveChoices,
    /// What those hosts are held against.
    pub checks: Checks,
    /// How long that may take.
    pub live_limit: Option<compute::LiveLimit>,
    /// What becomes of what hosts say of their guests.
    pub rules: Rules,
    /// How long guests may take to react.
    pub patience: Patience,
    /// Servers have a TPM, whose passphrase is kept so (`hw:tpm_secret_security`).
    pub tpm: Option<&'static str>,
}

impl Default for Options {
    /// Two large hosts; nothing happens by the clock.
    fn default() -> Self {
        let journal = Settings {
            beat: Duration::from_secs(3600),
            look: Duration::from_secs(3600),
            lease: Duration::from_secs(3600),
            retry: Duration::from_millis(1),
            undo_deadline: Duration::from_secs(30),
            ..Settings::default()
        };
        Self {
            hosts: 2,
            size: (64, 256 * 1024, 10 * 1024),
            journal,
            beat: Duration::from_secs(3600),
            down_after: Duration::from_secs(3600),
            unlike: &[],
            shared: false,
            live: virt::LiveChoices::default(),
            checks: Checks::default(),
            live_limit: None,
            rules: Rules::default(),
            patience: Patience::default(),
            tpm: None,
        }
    }
}
