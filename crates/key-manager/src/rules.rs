//! Who may do what: Barbican's default policies (Key Manager service, "Policy configuration") and what they are asked
//! about.

use crate::fault::{Fault, Result};
use crate::model::{Acl, Secret};
use policy::{Enforcer, PolicyError, Rule, Target};
use std::sync::Arc;
use types::Caller;

const READ: &str = "True:%(enforce_new_defaults)s and (rule:secret_project_admin or \
    (rule:secret_project_member and rule:secret_owner) or \
    (rule:secret_project_member and rule:secret_is_not_private) or rule:secret_acl_read)";
const CHANGE: &str = "True:%(enforce_new_defaults)s and (rule:secret_project_admin or \
    (rule:secret_project_member and rule:secret_owner) or \
    (rule:secret_project_member and rule:secret_is_not_private))";
const OWN: &str = "True:%(enforce_new_defaults)s and role:member";

/// The rules that others are made of. The latter half is for policy files that were
/// written for the roles of old.
const PARTS: &[(&str, &str)] = &[
    (
        "secret_project_match",
        "project_id:%(target.secret.project_id)s",
    ),
    (
        "secret_project_reader",
        "role:reader and rule:secret_project_match",
    ),
    (
        "secret_project_member",
        "role:member and rule:secret_project_match",
    ),
    (
        "secret_project_admin",
        "role:admin and rule:secret_project_match",
    ),
    ("secret_owner", "user_id:%(target.secret.creator_id)s"),
    (
        "secret_is_not_private",
        "True:%(target.secret.read_project_access)s",
    ),
    ("secret_acl_read", "'read':%(target.secret.read)s"),
    ("audit", "role:audit"),
    ("observer", "role:observer"),
    ("creator", "role:creator"),
    ("admin", "role:admin"),
    ("service_admin", "role:key-manager:service-admin"),
    (
        "all_users",
        "rule:admin or rule:observer or rule:creator or rule:audit or rule:service_admin",
    ),
    (
        "all_but_audit",
        "rule:admin or rule:observer or rule:creator",
    ),
    ("admin_or_creator", "rule:admin or rule:creator"),
    (
        "secret_creator_user",
        "user_id:%(target.secret.creator_id)s",
    ),
    (
        "secret_private_read",
        "'False':%(target.secret.read_project_access)s",
    ),
    (
        "secret_non_private_read",
        "rule:all_users and rule:secret_project_match and not rule:secret_private_read",
    ),
    (
        "secret_decrypt_non_private_read",
        "rule:all_but_audit and rule:secret_project_match and not rule:secret_private_read",
    ),
    (
        "secret_project_creator",
        "rule:creator and rule:secret_project_match and rule:secret_creator_user",
    ),
    (
        "secret_project_creator_role",
        "rule:creator and rule:secret_project_match",
    ),
];

/// What requests ask, with Barbican's defaults.
const RULES: &[(&str, &str)] = &[
    ("secret:decrypt", READ),
    (
        "secret:get",
        "True:%(enforce_new_defaults)s and (role:admin or rule:secret_project_admin or \
         (rule:secret_project_member and rule:secret_owner) or \
         (rule:secret_project_member and rule:secret_is_not_private) or rule:secret_acl_read)",
    ),
    ("secret:put", CHANGE),
    (
        "secret:delete",
        "True:%(enforce_new_defaults)s and (role:admin or rule:secret_project_admin or \
         (rule:secret_project_member and rule:secret_owner) or \
         (rule:secret_project_member and rule:secret_is_not_private))",
    ),
    ("secrets:post", OWN),
    ("secrets:get", OWN),
    ("secret_acls:get", CHANGE),
    ("secret_acls:delete", CHANGE),
    ("secret_acls:put_patch", CHANGE),
    ("secret_meta:get", READ),
    ("secret_meta:post", CHANGE),
    ("secret_meta:put", CHANGE),
    ("secret_meta:delete", CHANGE),
    ("secret_consumers:get", READ),
    ("secret_consumers:post", READ),
    ("secret_consumers:delete", READ),
];

/// The rules in force: the defaults, with a policy file's rules in their place.
pub fn enforcer(overrides: &str) -> std::result::Result<Enforcer, PolicyError> {
    let rule = |(name, check): &(&'static str, &'static str)| Rule {
        name,
        check,
        description: "",
    };
    Enforcer::new(PARTS.iter().chain(RULES).map(rule))?.with_overrides(overrides)
}

/// A caller under the rules in force.
#[derive(Clone)]
pub struct Access {
    /// Who.
    pub caller: Arc<Caller>,
    /// The caller's project: a token without one is refused before.
    pub project: String,
    rules: Arc<Enforcer>,
}

impl Access {
    /// A caller with a project.
    pub fn new(caller: Arc<Caller>, project: String, rules: Arc<Enforcer>) -> Self {
        Self {
            caller,
            project,
            rules,
        }
    }

    /// 403 when a rule does not allow the operation in the caller's own project.
    pub fn require_own(&self, rule: &str, operation: &str) -> Result<()> {
        self.ask(rule, operation, &plain())
    }

    /// 403 when a rule does not allow the operation for a secret.
    pub fn require(
        &self,
        rule: &str,
        operation: &str,
        secret: &Secret,
        acl: Option<&Acl>,
    ) -> Result<()> {
        // Without a list of its own a secret is open to the members of its project.
        let open = acl.is_none_or(|acl| acl.project_access);
        let mut target = of(secret).with("target.secret.read_project_access", python_bool(open));
        if acl.is_some_and(|acl| acl.users.contains(&self.caller.user_id)) {
            target = target.with("target.secret.read", "read");
        }
        self.ask(rule, operation, &target)
    }

    /// The same for its access control list, of which the list itself says nothing (as in Barbican: an open secret's
    /// list is its maker's and the project's administrators').
    pub fn require_acl(&self, rule: &str, operation: &str, secret: &Secret) -> Result<()> {
        self.ask(rule, operation, &of(secret))
    }

    fn ask(&self, rule: &str, operation: &str, target: &Target) -> Result<()> {
        if self.rules.allows(rule, &self.caller, target) {
            return Ok(());
        }
        Err(Fault::refused(operation))
    }
}

/// As oslo.policy has it by default: the rules of old do not hold beside the new ones.
fn plain() -> Target {
    Target::new().with("enforce_new_defaults", python_bool(true))
}

fn of(secret: &Secret) -> Target {
    plain()
        .with("target.secret.project_id", &secret.project_id)
        .with("target.secret.creator_id", &secret.creator_id)
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
