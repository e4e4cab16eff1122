//! Policies in the language of oslo.policy: who may do what, with defaults in code and overrides in YAML.
//!
//! A check is `role:admin`, `rule:other`, `project_id:%(project_id)s` (a credential against an attribute of the
//! target), `'text':%(attribute)s`, `is_admin:True`, `@` (always), `!` (never), combined with `and`, `or`, `not`
//! and parentheses (oslo.policy documentation, "Policy rule expressions").

mod parse;

use parse::Check;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
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

/// A rule's name of old, which policy files may still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deprecated {
    /// The name of old.
    pub name: &'static str,
    /// Its default of old: a file that only repeats it changes nothing.
    pub check: &'static str,
    /// The rule that took its place.
    pub successor: &'static str,
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

/// A rule in force.
#[derive(Clone, Debug)]
struct InForce {
    text: String,
    check: Check,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Enforcer {
    rules: HashMap<String, InForce>,
    deprecated: Arc<[Deprecated]>,
    /// The rules that a file gave by their own names.
    given: BTreeSet<String>,
    followed: BTreeMap<String, &'static str>,
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
            deprecated: Arc::from([]),
            given: BTreeSet::new(),
            followed: BTreeMap::new(),
            unknown: Vec::new(),
        };
        enforcer.check_cycles()?;
        Ok(enforcer)
    }

    /// With names of old, which override files may use for the rules that took their places.
    #[must_use]
    pub fn with_deprecated(mut self, names: &[Deprecated]) -> Self {
        self.deprecated = names.into();
        self
    }

    /// The rules with those of a `policy.yaml` in place of the defaults of the same name.
    ///
    /// A name of old gives its check to every rule that took its place and that no file gives a check of its own, unless
    /// it only repeats the default of old (oslo.policy, "Deprecating policy rules").
    pub fn with_overrides(&self, yaml: &str) -> Result<Self, PolicyError> {
        let overrides: Option<BTreeMap<String, String>> =
            serde_yaml::from_str(yaml).map_err(|error| PolicyError::File(error.to_string()))?;
        let overrides = overrides.unwrap_or_default();
        let mut changed = self.clone();
        changed.unknown.clear();
        for (name, check) in &overrides {
            let is_old = changed.deprecated.iter().any(|old| old.name == name);
            if !changed.rules.contains_key(name) && !is_old {
                changed.unknown.push(name.clone());
            }
            changed.given.insert(name.clone());
            changed.followed.remove(name);
            changed.rules.insert(name.clone(), read(name, check)?);
        }
        for old in Arc::clone(&self.deprecated).iter() {
            let Some(text) = overrides.get(old.name) else {
                continue;
            };
            if changed.given.contains(old.successor) || text.trim() == old.check {
                continue;
            }
            let successor = old.successor.to_owned();
            changed
                .rules
                .insert(successor.clone(), read(old.successor, text)?);
            changed.followed.insert(successor, old.name);
        }
        changed.check_cycles()?;
        Ok(changed)
    }

    /// Names in the last override file that no default has: likely misspelt.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The rules that follow a name of old, and that name.
    pub fn followed(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.followed
            .iter()
            .map(|(rule, old)| (rule.as_str(), *old))
    }

    /// The check of a rule, as it was written.
    pub fn text(&self, rule: &str) -> Option<&str> {
        self.rules.get(rule).map(|rule| rule.text.as_str())
    }

    /// Whether a file gives the rule its check, by its own name.
    pub fn is_given(&self, rule: &str) -> bool {
        self.given.contains(rule)
    }

    /// The rules that a rule refers to.
    pub fn refers_to(&self, rule: &str) -> Vec<&str> {
        self.rules
            .get(rule)
            .map_or_else(Vec::new, |rule| rule.check.rules())
    }

    /// Whether `caller` passes `rule` for `target`. A rule that does not exist denies.
    pub fn allows(&self, rule: &str, caller: &Caller, target: &Target) -> bool {
        self.rules
            .get(rule)
            .is_some_and(|rule| self.holds(&rule.check, caller, target))
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
            Some(rule) => self.holds(&rule.check, caller, &Target::new()),
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
        let Some(rule) = self.rules.get(name) else {
            return Ok(());
        };
        for next in rule.check.rules() {
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

fn read(rule: &str, check: &str) -> Result<InForce, PolicyError> {
    let parsed = parse::check(check).map_err(|reason| PolicyError::Check {
        rule: rule.to_owned(),
        check: check.to_owned(),
        reason,
    })?;
    Ok(InForce {
        text: check.trim().to_owned(),
        check: parsed,
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
    #[test]
    fn names_of_old() {
        let old = |name, successor| Deprecated {
            name,
            check: "rule:owner",
            successor,
        };
        let base = enforcer().with_deprecated(&[
            old("things", "read"),
            old("things", "nobody"),
            old("nobody", "anyone"),
        ]);
        let changed = base
            .with_overrides("things: 'role:x'\nread: 'role:y'\n")
            .unwrap();
        assert_eq!(changed.text("nobody"), Some("role:x"));
        assert_eq!(
            changed.text("read"),
            Some("role:y"),
            "its own name comes first"
        );
        assert_eq!(
            changed.followed().collect::<Vec<_>>(),
            [("nobody", "things")]
        );
        assert!(changed.unknown().is_empty());
        let repeated = base.with_overrides("things: 'rule:owner'").unwrap();
        assert_eq!(
            repeated.text("nobody"),
            Some("!"),
            "repeating the default of old changes nothing"
        );
        // A later file has the last word, and a name that is alive may be a name of old too.
        let later = changed.with_overrides("nobody: '@'").unwrap();
        assert_eq!(later.text("nobody"), Some("@"));
        assert_eq!(later.text("anyone"), Some("@"));
        let kept = base
            .with_overrides("read: 'role:y'")
            .unwrap()
            .with_overrides("things: 'role:x'")
            .unwrap();
        assert_eq!(
            kept.text("read"),
            Some("role:y"),
            "whatever the order of the files"
        );
    }
}
