//! What a guest may know about itself, as text: pure functions of a [`Guest`], without I/O.
//!
//! The metadata service answers with [`Guest::lookup`], the config drive holds [`Guest::config_drive_files`]. Both are
//! the trees of Nova's "Metadata" user guide:
//!
//! * `/openstack/<version>/` with `meta_data.json`, `user_data`, `password` (from 2013-04-04), `vendor_data.json`
//!   (from 2013-10-17), `network_data.json` (listed from 2015-10-15), `vendor_data2.json` (from 2016-10-06);
//! * `/<version>/` (also `/ec2/<version>/`) with `meta-data/` and `user-data`, as in EC2.
//!
//! A folder answers with the names in it, one a line and sorted; a name that is a folder itself ends with `/`.
//! Missing trailing slashes, doubled slashes and dots in a path do not matter.
//!
//! Where Kilonova knows less than Nova: devices are listed when they have a tag, with bus and address `none` (Nova's
//! own words for "not known"); there are no pinned CPUs or shares. Injected files are on the config
//! drive only, as in Nova.

mod drive;
mod ec2;
mod network;
mod openstack;

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use clients::Subnet;
use db::block_devices::BlockDevice;
use db::instances::Instance;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

pub use ec2::VERSIONS as EC2_VERSIONS;
pub use openstack::VERSIONS as OPENSTACK_VERSIONS;

/// The domain of guests' host names, Nova's default of `[api] dhcp_domain`.
pub const DOMAIN: &str = "novalocal";
/// Bytes of `random_seed`.
pub const SEED_BYTES: usize = 512;
/// The name under which the newest version of either tree is found too.
const LATEST: &str = "latest";

/// A public key that the guest shall let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Its name at the time of the server's creation.
    pub name: String,
    /// `ssh` or `x509`.
    pub kind: &'static str,
    /// OpenSSH's one line, or a certificate in PEM.
    pub public_key: String,
}

impl KeyPair {
    /// The key pair kept with a server. The kind is read from the key itself.
    pub fn of(instance: &Instance) -> Option<Self> {
        let public_key = instance.key_data.clone()?;
        let kind = if public_key.trim_start().starts_with("-----BEGIN") {
            "x509"
        } else {
            "ssh"
        };
        Some(Self {
            name: instance.key_name.clone()?,
            kind,
            public_key,
        })
    }
}

/// Everything a guest may know.
#[derive(Clone)]
pub struct Guest {
    /// The server.
    pub instance: Instance,
    /// The subnets of its networks, by the network's id; only `network_data.json` needs them.
    pub subnets: BTreeMap<String, Vec<Subnet>>,
    /// The administrator's password in clear: never stored, never logged.
    pub admin_pass: Option<String>,
    /// The key to let in.
    pub keypair: Option<KeyPair>,
    /// The operator's own words to every guest (`vendor_data.json`), a JSON object.
    pub vendor: Value,
    /// The zone it runs in.
    pub availability_zone: Option<String>,
    /// Appended to the host name after a dot; empty for nothing.
    pub domain: String,
    /// Its disks on record.
    pub devices: Vec<BlockDevice>,
    /// Files to inject (path in the guest, content); only for the config drive.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Shows no more than whose it is, so that no log can hold a password.
impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("instance", &self.instance.id)
            .finish_non_exhaustive()
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// `text/plain`.
    Text(Vec<u8>),
    /// `application/json`.
    Json(Vec<u8>),
    /// The place where a guest may leave a password; reading and writing it is the caller's business.
    Password,
}

impl Guest {
    /// A guest of which only the server's row is known; the other fields may be set afterwards.
    pub fn new(instance: Instance) -> Self {
        Self {
            subnets: BTreeMap::new(),
            admin_pass: None,
            keypair: KeyPair::of(&instance),
            vendor: json!({}),
            availability_zone: instance.availability_zone.clone(),
            domain: DOMAIN.to_owned(),
            files: Vec::new(),
            devices: Vec::new(),
            instance,
        }
    }

    /// What is at `path`, if anything. `seed` becomes `random_seed` of `meta_data.json` and should be
    /// [`SEED_BYTES`] fresh random bytes; `address` is where the request came from, for a guest without an IPv4
    /// address of its own.
    pub fn lookup(&self, path: &str, seed: &[u8], address: Option<&str>) -> Option<Found> {
        let tokens = tokens(path);
        let (tree, rest) = match tokens.split_first() {
            Some((&"openstack", rest)) => ("openstack", rest),
            Some((&"ec2", rest)) => ("ec2", rest),
            _ => ("ec2", tokens.as_slice()),
        };
        match (tree, rest.split_first()) {
            ("openstack", None) => Some(version_list(OPENSTACK_VERSIONS)),
            ("openstack", Some((version, rest))) => self.openstack_item(version, rest, seed),
            (_, None) => Some(version_list(EC2_VERSIONS)),
            (_, Some((version, rest))) => self.ec2_item(version, rest, address),
        }
    }

    /// The host name the guest shall give itself.
    pub fn hostname(&self) -> String {
        if self.domain.is_empty() {
            return self.instance.hostname.clone();
        }
        format!("{}.{}", self.instance.hostname, self.domain)
    }

    /// The user data as bytes; text that is not base64 counts as none.
    pub fn user_data(&self) -> Option<Vec<u8>> {
        let engine = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let text: String = self
            .instance
            .user_data
            .as_ref()?
            .split_ascii_whitespace()
            .collect();
        engine.decode(text).ok()
    }
}

/// What anyone may read at `/`: the versions of the EC2 tree.
pub fn root_listing() -> String {
    listing(EC2_VERSIONS)
}

/// Whether the answer at this path is made of [`Guest::subnets`].
pub fn needs_subnets(path: &str) -> bool {
    matches!(
        tokens(path).as_slice(),
        ["openstack", _, openstack::NETWORK_DATA]
    )
}

fn version_list(versions: &[&str]) -> Found {
    Found::Text(listing(versions).into_bytes())
}

fn listing(versions: &[&str]) -> String {
    let mut names = versions.to_vec();
    names.push(LATEST);
    names.join("\n")
}

/// The names of a path, with `.`, `..` and empty ones resolved.
fn tokens(path: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for token in path.split('/') {
        match token {
            "" | "." => {}
            ".." => {
                tokens.pop();
            }
            name => tokens.push(name),
        }
    }
    tokens
}

/// The place of a version in its list; `latest` is the last one.
fn version_index(versions: &[&str], version: &str) -> Option<usize> {
    if version == LATEST {
        return versions.len().checked_sub(1);
    }
    versions.iter().position(|known| *known == version)
}

/// JSON as bytes.
fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
