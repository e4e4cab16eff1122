//! What a token carries: a small msgpack document, sealed with fernet. Everything else is looked up.

use crate::keys::Keyring;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use types::Timestamp;

/// Tokens longer than this are refused unread.
const LONGEST: usize = 2048;

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Nothing but finding a scope.
    Unscoped,
    /// A project, by id.
    Project(String),
    /// A domain, by id.
    Domain(String),
    /// The whole system.
    System,
}

/// How far the holder's rights go beyond or below its own assignments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    /// The assignments of the user in the scope.
    User,
    /// An application credential, by id: at most its roles.
    AppCredential(String),
    /// A service of this cloud that acts in any project with the roles it holds in its own project (the id).
    /// Only made inside the process, never on request.
    Service(String),
}

/// The content of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Who.
    pub user_id: String,
    /// For what.
    pub scope: Scope,
    /// With which rights.
    pub basis: Basis,
    /// How the user showed who it is.
    pub methods: Vec<String>,
    /// The id of this token in logs and revocations; a second one names the token it was made from.
    pub audit_ids: Vec<String>,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Payload {
    /// The same, made not before a time.
    #[must_use]
    pub fn made_from(self, from: Timestamp) -> Self {
        Self {
            issued_at: self.issued_at.max(from),
            ..self
        }
    }

    /// The text a client gets.
    pub fn seal(&self, keys: &Keyring) -> String {
        let packed = rmp_serde::to_vec(self).unwrap_or_default();
        keys.seal(&packed).trim_end_matches('=').to_owned()
    }

    /// Reads a token; `None` when it is not one of ours.
    pub fn unseal(text: &str, keys: &Keyring) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        rmp_serde::from_slice(&keys.unseal(text)?).ok()
    }
}

/// A fresh audit id: 16 random bytes (Identity API, "audit_ids").
pub fn audit_id() -> String {
    URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4().as_bytes())
}
