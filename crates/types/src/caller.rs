//! Who makes a request: what a validated token says.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// The holder of a validated token and the scope the token is for (Identity API v3, "Tokens").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The user's id.
    pub user_id: String,
    /// The user's name.
    pub user_name: String,
    /// The domain that owns the user.
    pub user_domain_id: String,
    /// That domain's name.
    pub user_domain_name: String,
    /// The project, when the token is scoped to one.
    pub project_id: Option<String>,
    /// That project's name.
    pub project_name: Option<String>,
    /// The domain that owns the project.
    pub project_domain_id: Option<String>,
    /// That domain's name.
    pub project_domain_name: Option<String>,
    /// The domain, when the token is scoped to one.
    pub domain_id: Option<String>,
    /// That domain's name.
    pub domain_name: Option<String>,
    /// True when the token is scoped to the whole system.
    pub system_scope: bool,
    /// Role names in this scope, implied ones included.
    pub roles: Vec<String>,
    /// Whether the token came from an application credential that may not make further credentials.
    pub restricted: bool,
    /// When the token ends.
    pub expires_at: Timestamp,
}

impl Caller {
    /// Whether the caller holds the role; role names do not depend on case (oslo.policy's RoleCheck).
    pub fn has_role(&self, role: &str) -> bool {
        self.roles
            .iter()
            .any(|held| held.eq_ignore_ascii_case(role))
    }
}
