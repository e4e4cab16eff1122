//! Emulated TPM devices (vTPM) of guests, by Nova's names ("Emulated Trusted Platform Module" in its administrator guide).

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The version of the device (`hw:tpm_version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// 2.0.
    #[serde(rename = "2.0")]
    V2_0,
}

/// How the guest speaks with it (`hw:tpm_model`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    /// The interface of PC clients.
    #[serde(rename = "tpm-tis")]
    Tis,
    /// The command and response buffer, of version 2.0 only.
    #[serde(rename = "tpm-crb")]
    Crb,
}

/// Who can read the passphrase of what the device remembers (`hw:tpm_secret_security`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// The owner of the server; the host has it only while it starts the guest.
    User,
    /// The owner of the server, and the host that the guest is on keeps it.
    Host,
    /// The cloud; the host has it only while it starts the guest.
    Deployment,
}

impl Version {
    /// As in extra specs and in libvirt's XML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V2_0 => "2.0",
        }
    }
}

impl Model {
    /// As in extra specs and in libvirt's XML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tis => "tpm-tis",
            Self::Crb => "tpm-crb",
        }
    }
}

/// What a flavor and an image ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The version.
    pub version: Version,
    /// The model.
    pub model: Model,
    /// Who can read the passphrase.
    pub security: Security,
}

/// The device of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tpm {
    /// What it is.
    #[serde(flatten)]
    pub wanted: Wanted,
    /// The secret in the key manager that holds its passphrase.
    pub secret: Uuid,
}

impl Tpm {
    /// Whether the host keeps the passphrase.
    pub fn is_kept_by_host(&self) -> bool {
        self.wanted.security == Security::Host
    }
}

/// A passphrase in clear, or sealed where it is stored. Logs never show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Passphrase(pub String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}
