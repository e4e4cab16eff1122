//! Settings of the volume service.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How attached volumes reach the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Not at all: connections are described and nobody listens. For simulated hosts; needs no QEMU, and images other
    /// than raw ones become volumes of zeros of the right size.
    Nothing,
    /// By a `qemu-storage-daemon` of this service, which outlives it as guests do.
    Nbd,
}

/// Settings of the volume service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the data are kept; made when missing. Belongs to this service alone.
    pub folder: PathBuf,
    /// How attached volumes reach the hosts.
    pub serving: Serving,
    /// The address that hosts connect to, and that NBD listens on.
    pub nbd_address: IpAddr,
    /// The port of NBD.
    pub nbd_port: u16,
    /// This service's name in `os-services` and in `os-vol-host-attr:host`.
    pub host: String,
    /// The availability zone of all volumes.
    pub zone: String,
    /// The type of volumes for which nobody names one; made when missing.
    pub default_type: String,
    /// A type for volumes with several attachments; made with the default type.
    pub multiattach_type: String,
    /// Volumes of a project where nothing else is set (Cinder's `quota_volumes`); -1 is any number.
    pub quota_volumes: i64,
    /// Snapshots of a project (`quota_snapshots`).
    pub quota_snapshots: i64,
    /// GiB of a project's volumes and snapshots (`quota_gigabytes`).
    pub quota_gigabytes: i64,
    /// Groups of a project (`quota_groups`).
    pub quota_groups: i64,
    /// GiB that one volume may have (`per_volume_size_limit`); -1 is any size.
    pub quota_per_volume: i64,
    /// GiB that volumes may promise for each GiB of the disk (`max_over_subscription_ratio`).
    pub over_subscription: f64,
    /// Resources in one answer at most (`osapi_max_limit`).
    pub max_limit: usize,
    /// Jobs that run at the same time.
    pub workers: usize,
    /// How long an upload that was broken off may keep its image from taking the data again.
    pub broken_upload: Duration,
    /// The URL of this service in links; `None` takes the request's Host header.
    pub public_endpoint: Option<String>,
    /// The identity service named in 401 answers.
    pub identity_url: Option<String>,
    /// The text of a `policy.yaml` that overrides default rules.
    pub policy: String,
}

impl Config {
    /// The defaults, with the data in this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            serving: Serving::Nothing,
            nbd_address: IpAddr::from([127, 0, 0, 1]),
            nbd_port: 10809,
            host: "kilonova".to_owned(),
            zone: "nova".to_owned(),
            default_type: "standard".to_owned(),
            multiattach_type: "multiattach".to_owned(),
            quota_volumes: 10,
            quota_snapshots: 10,
            quota_gigabytes: 1000,
            quota_groups: 10,
            quota_per_volume: -1,
            over_subscription: 20.0,
            max_limit: 1000,
            workers: 4,
            broken_upload: Duration::from_secs(120),
            public_endpoint: None,
            identity_url: None,
            policy: String::new(),
        }
    }

    /// The name of the only pool, as Cinder writes it: `host@backend#pool`.
    pub(crate) fn pool(&self) -> String {
        format!("{}@files#files", self.host)
    }

    /// The name of the volume service's host, as Cinder writes it.
    pub(crate) fn backend(&self) -> String {
        format!("{}@files", self.host)
    }
}
