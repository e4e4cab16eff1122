//! What an agent must be told about its host and its cloud.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a network agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names the cloud, so that two clouds on one machine leave each other's objects alone: it is
    /// part of the alias of every interface, of the name of every namespace and nft table.
    pub cloud: CloudId,
    /// This host, as the compute service names it.
    pub host: String,
    /// Files of the DHCP servers, one folder per network. dnsmasq reads them after it has given up
    /// root, so every folder above must be open (mode 0755); gone after a reboot is right.
    pub state_dir: PathBuf,
    /// Work in this network namespace (a path as `/run/netns/x`) instead of the agent's own; for
    /// several hosts on one machine and for tests.
    pub root_netns: Option<PathBuf>,
    /// Where this host's tunnels end; none: networks do not leave the host.
    pub tunnel_ip: Option<IpAddr>,
    /// Where the compute service's metadata API listens, `http://host:port`.
    pub metadata_url: String,
    /// Signs the instance id in proxied metadata requests; the metadata API has the same secret.
    pub metadata_secret: Secret,
    /// Whether the host masquerades what leaves external networks, so that guests reach whatever
    /// the host reaches.
    pub nat_external: bool,
    /// Name servers that the networks' DNS asks for foreign names; empty: it knows only the guests.
    pub dns_forwarders: Vec<IpAddr>,
    /// How trunks' VLANs are made; none: as the kernel can.
    pub vlans: Option<Vlans>,
    /// How often everything is compared with the machine even when nothing changed.
    pub resync: Duration,
    /// How often a heartbeat goes to the network service.
    pub heartbeat: Duration,
    /// How long one command of `ip`, `nft` or `dnsmasq` may take.
    pub command_timeout: Duration,
}

impl Config {
    /// Settings with the defaults for everything but names and the metadata secret.
    #[must_use]
    pub fn new(cloud: CloudId, host: impl Into<String>, metadata_secret: Secret) -> Self {
        let state_dir = PathBuf::from("/run/kilonova-network").join(cloud.as_str());
        Self {
            cloud,
            host: host.into(),
            state_dir,
            root_netns: None,
            tunnel_ip: None,
            metadata_url: "http://127.0.0.1:8775".into(),
            metadata_secret,
            nat_external: true,
            dns_forwarders: Vec::new(),
            vlans: None,
            resync: Duration::from_secs(60),
            heartbeat: Duration::from_secs(20),
            command_timeout: Duration::from_secs(20),
        }
    }
}

/// What makes a VLAN of a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vlans {
    /// VLAN links of the kernel's 8021q.
    Links,
    /// Programs of its packet classifier ([`crate::vlans`]).
    Programs,
}

/// The name of a cloud among the clouds of one machine: 1 to 12 of `a-z0-9`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CloudId(String);

/// A text that cannot name a cloud.
#[derive(Debug, thiserror::Error)]
#[error("a cloud id is 1 to 12 lowercase letters and digits, not '{0}'")]
pub struct BadCloudId(String);

impl CloudId {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, longer than 12 bytes or has anything but `a-z0-9`.
    pub fn new(name: &str) -> Result<Self, BadCloudId> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if (1..=12).contains(&name.len()) && name.bytes().all(fits) {
            return Ok(Self(name.to_owned()));
        }
        Err(BadCloudId(name.chars().take(40).collect()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A secret that never shows in logs.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the secret's bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
