//! Policies in the language of oslo.policy: who may do what, with defaults in code and overrides in YAML.
//!
//! A check is `role:admin`, `rule:other`, `project_id:%(project_id)s` (a credential against an attribute of the
//! target), `'text':%(attribute)s`, `is_admin:True`, `@` (always), `!` (never), combined with `and`, `or`, `not`
//! and parentheses (oslo.policy documentation, "Policy rule expressions").

mod parse;

use parse::Check;
use std::collections::HashMap;
use types::Caller;

/// A rule's default.
#[derive(Clone, Debug)]
pub struct Rule {
    /// For example `os_compute_api:servers:create`.
    pub name: &'static str,
    /// The check, for example `rule:project_member_or_admin`.
    pub check: &'static str,
    /// What it guards, for people.
    pub description: &'static str,
}

/// A rule or file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The check of a rule cannot be read.
    #[error("policy rule {rule}: cannot read '{check}': {reason}")]
    Check {
        /// The rule.
        rule: String,
        /// Its text.
        check: String,
        /// Why.
        reason: String,
    },
    /// A rule names itself through others.
    #[error("policy rule {0} refers to itself")]
    Cycle(String),
    /// The file is not a YAML mapping of texts.
    #[error("policy file: {0}")]
    File(String),
}

/// The attributes of what a request wants to act on.
#[derive(Clone, Debug, Default)]
pub struct Target(HashMap<String, String>);

impl Target {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this attribute too, for example `project_id`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The attribute's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Enforcer {
    rules: HashMap<String, Check>,
    unknown: Vec<String>,
}

impl Enforcer {
    /// The defaults alone.
    pub fn new(defaults: impl IntoIterator<Item = Rule>) -> Result<Self, PolicyError> {
        let mut rules = HashMap::new();
        for rule in defaults {
            rules.insert(rule.name.to_owned(), read(rule.name, rule.check)?);
        }
        let enforcer = Self {
            rules,
            unknown: Vec::new(),
        };
        enforcer.check_cycles()?;
        Ok(enforcer)
    }

    /// The rules with those of a `policy.yaml` in place of the defaults of the same name.
    pub fn with_overrides(&self, yaml: &str) -> Result<Self, PolicyError> {
        let overrides: Option<HashMap<String, String>> =
            serde_yaml::from_str(yaml).map_err(|error| PolicyError::File(error.to_string()))?;
        let mut rules = self.rules.clone();
        let mut unknown = Vec::new();
        for (name, check) in overrides.unwrap_or_default() {
            if !rules.contains_key(&name) {
                unknown.push(name.clone());
            }
            let check = read(&name, &check)?;
            rules.insert(name, check);
        }
        unknown.sort();
        let enforcer = Self { rules, unknown };
        enforcer.check_cycles()?;
        Ok(enforcer)
    }

    /// Names in the override file that no default has: likely misspelt.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Whether `caller` passes `rule` for `target`. A rule that does not exist denies.
    pub fn allows(&self, rule: &str, caller: &Caller, target: &Target) -> bool {
        self.rules
            .get(rule)
            .is_some_and(|check| self.holds(check, caller, target))
    }

    fn holds(&self, check: &Check, caller: &Caller, target: &Target) -> bool {
        match check {
            Check::Always => true,
            Check::Never => false,
            Check::Not(inner) => !self.holds(inner, caller, target),
            Check::And(all) => all.iter().all(|one| self.holds(one, caller, target)),
            Check::Or(any) => any.iter().any(|one| self.holds(one, caller, target)),
            Check::Rule(name) => self.allows(name, caller, target),
            Check::Role(role) => {
                substitute(role, target).is_some_and(|role| caller.has_role(&role))
            }
            Check::Generic { kind, wanted } => {
                let Some(wanted) = substitute(wanted, target) else {
                    return false;
                };
                self.credential(kind, caller)
                    .is_some_and(|held| held == wanted)
            }
        }
    }

    /// What the caller has under this name; quoted texts and True/False stand for themselves.
    fn credential(&self, kind: &str, caller: &Caller) -> Option<String> {
        if let Some(literal) = kind
            .strip_prefix('\'')
            .and_then(|rest| rest.strip_suffix('\''))
        {
            return Some(literal.to_owned());
        }
        match kind {
            "True" | "False" | "None" => Some(kind.to_owned()),
            "user_id" => Some(caller.user_id.clone()),
            "user_domain_id" => Some(caller.user_domain_id.clone()),
            "project_id" | "tenant_id" | "tenant" => caller.project_id.clone(),
            "project_domain_id" => caller.project_domain_id.clone(),
            "domain_id" => caller.domain_id.clone(),
            "system_scope" | "system" => caller.system_scope.then(|| "all".to_owned()),
            "is_admin" => Some(python_bool(self.is_admin(caller)).to_owned()),
            _ => None,
        }
    }

    /// As in Nova and Neutron, `context_is_admin` decides who is an administrator.
    fn is_admin(&self, caller: &Caller) -> bool {
        match self.rules.get("context_is_admin") {
            Some(check) => self.holds(check, caller, &Target::new()),
            None => caller.has_role("admin"),
        }
    }

    fn check_cycles(&self) -> Result<(), PolicyError> {
        for name in self.rules.keys() {
            self.visit(name, &mut vec![name.clone()])?;
        }
        Ok(())
    }

    fn visit(&self, name: &str, path: &mut Vec<String>) -> Result<(), PolicyError> {
        let Some(check) = self.rules.get(name) else {
            return Ok(());
        };
        for next in check.rules() {
            if path.iter().any(|seen| seen == next) {
                return Err(PolicyError::Cycle(next.to_owned()));
            }
            path.push(next.to_owned());
            self.visit(next, path)?;
            path.pop();
        }
        Ok(())
    }
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn read(rule: &str, check: &str) -> Result<Check, PolicyError> {
    parse::check(check).map_err(|reason| PolicyError::Check {
        rule: rule.to_owned(),
        check: check.to_owned(),
        reason,
    })
}

/// Replaces `%(name)s` by the target's attribute; an attribute that is missing fails the check.
fn substitute(text: &str, target: &Target) -> Option<String> {
    let Some((before, rest)) = text.split_once("%(") else {
        return Some(text.to_owned());
    };
    let (name, after) = rest.split_once(")s")?;
    Some(format!(
        "{before}{}{}",
        target.get(name)?,
        substitute(after, target)?
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn enforcer() -> Enforcer {
        let rule = |name, check| Rule {
            name,
            check,
            description: "",
        };
        Enforcer::new([
            rule("context_is_admin", "role:admin"),
            rule(
                "owner",
                "is_admin:True or (role:member and project_id:%(project_id)s)",
            ),
            rule(
                "read",
                "rule:owner or role:reader and project_id:%(project_id)s",
            ),
            rule("nobody", "!"),
            rule("anyone", ""),
            rule("not_bob", "not user_id:bob"),
            rule("literal", "'x':%(kind)s"),
            rule("own_user", "user_id:%(target.user.id)s"),
        ])
        .unwrap()
    }

    fn caller(roles: &[&str], project: &str) -> Caller {
        Caller {
            user_id: "bob".into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            project_id: Some(project.into()),
            ..Caller::default()
        }
    }

    #[test]
    fn decisions() {
        let target = Target::new()
            .with("project_id", "p1")
            .with("kind", "x")
            .with("target.user.id", "bob");
        let cases = [
            ("owner", &["member"][..], "p1", true),
            ("owner", &["member"], "p2", false),
            ("owner", &["reader"], "p1", false),
            ("owner", &["Admin"], "p2", true),
            ("read", &["reader"], "p1", true),
            ("read", &["reader"], "p2", false),
            ("nobody", &["admin"], "p1", false),
            ("anyone", &[], "p1", true),
            ("not_bob", &[], "p1", false),
            ("literal", &[], "p1", true),
            ("own_user", &[], "p1", true),
            ("no such rule", &["admin"], "p1", false),
        ];
        for (rule, roles, project, wanted) in cases {
            assert_eq!(
                enforcer().allows(rule, &caller(roles, project), &target),
                wanted,
                "{rule} {roles:?} {project}"
            );
        }
        assert!(!enforcer().allows("owner", &caller(&["member"], "p1"), &Target::new()));
    }

    #[test]
    fn overrides() {
        let changed = enforcer()
            .with_overrides("nobody: 'role:admin'\nnew: '@'\n")
            .unwrap();
        assert!(changed.allows("nobody", &caller(&["admin"], "p1"), &Target::new()));
        assert_eq!(changed.unknown(), ["new"]);
        assert!(enforcer().with_overrides("").is_ok());
        assert!(matches!(
            enforcer().with_overrides("owner: 'rule:read'"),
            Err(PolicyError::Cycle(_))
        ));
        assert!(matches!(
            enforcer().with_overrides("owner: 'role:a and'"),
            Err(PolicyError::Check { .. })
        ));
        assert!(matches!(
            enforcer().with_overrides("- a"),
            Err(PolicyError::File(_))
        ));
    }
}
